# SPDX-License-Identifier: MIT
"""Images of a test, made, read and judged with qemu-img and qemu-io."""

import json
import os
import subprocess

from .qmp import SCALE


class ToolError(AssertionError):
    """A tool failed; text has what it said."""

    def __init__(self, argv, code, text):
        super().__init__(f'{" ".join(argv)}: exit {code}: {text}')
        self.code = code
        self.text = text


def run_tool(*argv, timeout=60, check=True, stdin=None):
    """Run a tool; its standard output.  With check=False the pair of exit
    code and both outputs."""
    argv = [str(arg) for arg in argv]
    done = subprocess.run(argv, capture_output=True, input=stdin,
                          timeout=timeout * SCALE, check=False)
    out = done.stdout.decode(errors='replace')
    err = done.stderr.decode(errors='replace')
    if not check:
        return done.returncode, out + err
    if done.returncode:
        raise ToolError(argv, done.returncode, out + err)
    return out


def qemu_img(*args, **kwargs):
    return run_tool('qemu-img', *args, **kwargs)


class Images:
    """The images in one test's directory.

    Every qcow2 made or adopted here is checked by qemu-img when the test
    ends: no corruption, no leak, unless the test said what it expects.
    """

    def __init__(self, directory):
        self.directory = str(directory)
        self.formats = {}
        self._leaks_allowed = set()

    def path(self, name):
        return os.path.join(self.directory, name)

    def create(self, name, size, fmt='qcow2', backing=None, **options):
        """Create an image and return its path; options are qemu-img's -o,
        with _ in their names."""
        path = self.path(name)
        args = ['create', '-q', '-f', fmt]
        if backing:
            args += ['-b', backing, '-F', self.formats.get(backing, 'raw')]
            args += ['-u'] if size is not None else []  # it may be in use
        pairs = ','.join(f'{k}={v}' for k, v in options.items())
        if pairs:
            args += ['-o', pairs]
        args += [path] + ([str(size)] if size is not None else [])
        qemu_img(*args)
        self.formats[path] = fmt
        return path

    def adopt(self, path, fmt='qcow2'):
        """Have an image that the server made checked at the end."""
        self.formats[path] = fmt
        return path

    def ignore(self, path):
        """This one is meant to be broken."""
        self.formats.pop(path, None)
        return path

    def allow_leaks(self, path):
        """After kill -9 clusters may be leaked, never wrong."""
        self._leaks_allowed.add(path)

    def write_raw(self, name, data):
        path = self.path(name)
        with open(path, 'wb') as image:
            image.write(data)
        self.formats[path] = 'raw'
        return path

    # Reading

    def info(self, path, *args):
        return json.loads(qemu_img('info', '--output=json', *args, path))

    def bitmaps(self, path, *args):
        """The bitmaps qemu-img sees: {name: entry}."""
        data = self.info(path, *args)['format-specific']['data']
        return {b['name']: b for b in data.get('bitmaps', [])}

    def map(self, path, fmt=None):
        return json.loads(qemu_img(
            'map', '--output=json', '-f', fmt or self.formats[path], path))

    def content(self, path, fmt=None):
        """What a guest would read, as bytes."""
        raw = path + '.content'
        try:
            qemu_img('convert', '-f', fmt or self.formats[path],
                     '-O', 'raw', path, raw)
            with open(raw, 'rb') as image:
                return image.read()
        finally:
            if os.path.exists(raw):
                os.unlink(raw)

    def identical(self, a, b, fmt_a=None, fmt_b=None):
        return qemu_img('compare', '-f', fmt_a or self.formats[a],
                        '-F', fmt_b or self.formats[b], a, b)

    # Writing, with nobody else at the image

    def io(self, path, *commands, fmt=None, check=True, options=()):
        """qemu-io; fails the test if a command fails."""
        args = ['qemu-io', '-f', fmt or self.formats[path], *options]
        for command in commands:
            args += ['-c', command]
        code, text = run_tool(*args, path, check=False)
        if check and (code or 'failed' in text):
            raise ToolError(args, code, text)
        return text

    # Judging

    def check(self, path, leaks_allowed=False):
        """qemu-img check; raises AssertionError with its report."""
        code, text = run_tool('qemu-img', 'check', '--output=json',
                              '-f', self.formats[path], path, check=False)
        try:
            report = json.loads(text[text.index('{'):text.rindex('}') + 1])
        except ValueError:
            raise ToolError(['qemu-img', 'check', path], code, text) from None
        bad = {key: report[key]
               for key in ('check-errors', 'corruptions', 'leaks')
               if report.get(key)}
        if leaks_allowed:
            bad.pop('leaks', None)
        assert not bad, f'{path}: qemu-img check: {bad}: {text}'

    def check_all(self):
        for path, fmt in self.formats.items():
            if fmt == 'qcow2' and os.path.exists(path):
                self.check(path, path in self._leaks_allowed)


def same_bytes(got, wanted, what='content'):
    """Compare two large byte strings; says where they first differ."""
    if got == wanted:
        return
    assert len(got) == len(wanted), \
        f'{what}: {len(got)} bytes, {len(wanted)} expected'
    at = next(i for i in range(0, len(got), 512)
              if got[i:i + 512] != wanted[i:i + 512])
    n_bad = sum(got[i:i + 512] != wanted[i:i + 512]
                for i in range(0, len(got), 512))
    raise AssertionError(
        f'{what}: differs first in the 512 bytes at {at} ({at:#x}), in '
        f'{n_bad} sectors of {len(got) // 512}; got {got[at:at + 16].hex()}, '
        f'expected {wanted[at:at + 16].hex()}')
