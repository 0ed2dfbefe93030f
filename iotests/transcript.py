# SPDX-License-Identifier: MIT
"""The same lines to blockjobd and to QEMU; the same text must come back.

Both are started as QEMU's shell harness starts them, each in a directory of
its own with equal images.  What they say on stdout and stderr is compared
line by line, the order of members included.  Made equal first: directories,
times, versions, generated names; members newer than 7.2 are left out.
"""

import difflib
import json
import os
import re

from .conftest import Setup
from .harness import Shell, filter_times
from .images import Images

# since QEMU 8 to 10
NEWER = {'active', 'actively-synced', 'children', 'limits', 'qom-path'}
SIZES = {'actual-size', 'backing_file_depth'}     # 7.2 counts filters


def plain_value(value):
    """A message with all that may differ made equal."""
    if isinstance(value, list):
        return [plain_value(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: 0 if k in SIZES else plain_value(v)
            for k, v in value.items() if k not in NEWER}


def screen_line(line):
    """What a terminal shows after LINE: the monitor draws a line anew with
    every character typed."""
    shown, at, i = [], 0, 0
    while i < len(line):
        if line.startswith('\x1b[D', i):
            at, i = max(0, at - 1), i + 3
        elif line.startswith('\x1b[K', i):
            del shown[at:]
            i += 3
        else:
            shown[at:at + 1] = line[i]
            at, i = at + 1, i + 1
    return ''.join(shown)


def without_twins(lines):
    """Jobs pause twice at quit since QEMU 8, once before."""
    out = []
    for line in lines:
        out.append(line)
        if 'JOB_STATUS_CHANGE' in line and out[-2:] == out[-4:-2]:
            del out[-2:]
    return out


class Side:
    def __init__(self, config, directory, kind, log):
        os.mkdir(directory)
        self.setup = Setup(config, directory)
        self.setup.kind = kind
        self.setup.log = log
        self.images = Images(directory)
        self.shell = None
        self._names = {}

    def _name(self, match):
        return self._names.setdefault(match[0], f'#auto{len(self._names)}')

    def plain(self, text):
        """The lines of TEXT, as they are compared."""
        text = '\n'.join(screen_line(line)
                         for line in text.replace('\r', '').split('\n'))
        text = text.replace(self.setup.directory, 'DIR')
        text = re.sub(r'\{\n    "QMP": .*?\n\}\n', '', text, flags=re.S)
        text = re.sub(r' *"active": true,\n', '', text)
        text = re.sub(r' *"children": \[.*?\],\n', '', text, flags=re.S)
        for key in SIZES:
            text = re.sub(rf'"{key}": \d+', f'"{key}": 0', text)
        lines = []
        for line in filter_times(text).split('\n'):
            if line.startswith('{"'):
                message = json.loads(line)
                message.pop('timestamp', None)
                if 'QMP' in message:
                    continue
                line = json.dumps(plain_value(message))
            line = re.sub(r'(qemu-system-x86_64|blockjobd): ', 'PROG: ', line)
            line = re.sub(r'QEMU \S+ monitor', 'QEMU x.y.z monitor', line)
            line = re.sub(r'"(micro)?seconds": \d+', '"seconds": 0', line)
            lines.append(re.sub(r'#block\d+', self._name, line))
        return without_twins(lines)


class Transcript:
    """Both sides, driven together."""

    def __init__(self, config, directory, log, monitor='qmp'):
        self.monitor = monitor
        self.sides = [Side(config, os.path.join(directory, kind), kind, log)
                      for kind in ('blockjobd', 'qemu')]

    def image(self, *args, io=(), **kwargs):
        """The same image on each side; its path, with DIR in it."""
        for side in self.sides:
            options = dict(kwargs)
            if options.get('backing'):
                options['backing'] = options['backing'].replace(
                    'DIR', side.setup.directory)
            path = side.images.create(*args, **options)
            if io:
                side.images.io(path, *io)
        return f'DIR/{args[0]}'

    def start(self, *args):
        for side in self.sides:
            side.shell = Shell(
                side.setup, [a.replace('DIR', side.setup.directory)
                             for a in args], monitor=self.monitor)
        if self.monitor == 'hmp':
            self.expect('(qemu) ')
        else:
            self.expect('capabilities')
            self.run('{"execute": "qmp_capabilities"}')

    def send(self, line):
        for side in self.sides:
            side.shell.send(line.replace('DIR', side.setup.directory))

    def expect(self, *texts):
        for side in self.sides:
            side.shell.expect(*(text.replace('DIR', side.setup.directory)
                                for text in texts))

    def run(self, line, until='"return"'):
        """Send LINE (a command as JSON text, or an HMP line) and wait for
        UNTIL, a text or several, in the answer."""
        if isinstance(line, dict):
            line = json.dumps(line)
        if self.monitor == 'hmp' and until == '"return"':
            until = '(qemu) '
        self.send(line)
        self.expect(*([until] if isinstance(until, str) else until))

    def qmp(self, command, arguments=None, until='"return"'):
        message = {'execute': command}
        if arguments:
            message['arguments'] = arguments
        self.run(message, until)

    def hmp(self, line, until='"return"'):
        self.qmp('human-monitor-command', {'command-line': line}, until)

    def qemu_io(self, device, command, until='"return"'):
        self.hmp(f'qemu-io {device} "{command}"', until)

    def quit(self, returns=True):
        """End both and compare all that they said.  RETURNS false: without
        the empty replies, which may come before or after a quick job's
        events."""
        if self.monitor == 'hmp':
            self.send('quit')
        else:
            self.send('{"execute": "quit"}')
        self.compare(returns)

    def compare(self, returns=True):
        codes = [side.shell.wait() for side in self.sides]
        ours, theirs = ([line for line in side.plain(side.shell.seen)
                         if returns or line != '{"return": {}}']
                        for side in self.sides)
        diff = difflib.unified_diff(theirs, ours, 'qemu', 'blockjobd',
                                    lineterm='', n=3)
        text = '\n'.join(diff)
        assert not text, text
        assert codes[0] == codes[1]
        for side in self.sides:
            side.images.check_all()

    def close(self):
        for side in self.sides:
            if side.shell:
                side.shell.close()
