#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden tests of the QAPI generator.

NAME.json is a schema; NAME.out what the generator makes of it, or NAME.err
what it says is wrong: one of the two.  Prints TAP.

    tests/qapi-schema/run.py            check all
    tests/qapi-schema/run.py --update   write what the generator says now
"""

import contextlib
import io
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, '..', '..', 'qapi'))

from gen.main import main as generator      # noqa: E402
from gen.model import Object                # noqa: E402
from gen.parser import Source               # noqa: E402
from gen.schema import Schema               # noqa: E402


def generate(name):
    """{extension: text} of what the generator prints."""
    sys.argv = ['generate.py', '--dump', f'{name}.json']
    if name.startswith('doc'):
        sys.argv.append('--docs')
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            generator()
    except SystemExit as end:
        return {'err': f'{end}\n'}
    return {'out': printed.getvalue()}


def unchanged_stays():
    """Is a file whose text has not changed left alone?"""
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ['generate.py', '--out', folder, 'command.json']
        generator()
        files = [os.path.join(folder, file) for file in os.listdir(folder)]
        changed = os.path.join(folder, 'qapi-types.c')
        with open(changed, 'a', encoding='utf-8') as stream:
            stream.write('/* changed */')
        for file in files:
            os.utime(file, (1, 1))
        generator()
        return len(files) == 10 and all(
            (os.stat(file).st_mtime == 1) == (file != changed)
            for file in files)


def without_rank():
    """Members of the real schema that are not in its key-order.txt."""
    folder = os.path.join(HERE, '..', '..', 'qapi', 'schema')
    with open(os.path.join(folder, 'key-order.txt'),
              encoding='utf-8') as stream:
        known = {name for line in stream if not line.startswith('#')
                 for name in line.split()}
    schema = Schema(Source(os.path.join(folder, 'main.json')))
    return sorted({member.name for type_ in schema.types.values()
                   if isinstance(type_, Object)
                   for member in type_.members} - known)


def expected(name):
    result = {}
    for extension in ('out', 'err'):
        path = os.path.join(HERE, f'{name}.{extension}')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as stream:
                result[extension] = stream.read()
    return result


def update(name, found):
    for extension in ('out', 'err'):
        path = os.path.join(HERE, f'{name}.{extension}')
        if extension in found:
            with open(path, 'w', encoding='utf-8') as stream:
                stream.write(found[extension])
        elif os.path.exists(path):
            os.unlink(path)


def main():
    update_wanted = '--update' in sys.argv
    os.chdir(HERE)      # messages have the paths as given
    names = sorted(file[:-5] for file in os.listdir(HERE)
                   if file.endswith('.json'))
    if update_wanted:
        for name in names:
            update(name, generate(name))
        return 0
    stray = [file for file in os.listdir(HERE)
             if file.endswith(('.out', '.err')) and file[:-4] not in names]
    print(f'1..{len(names) + 3}')
    failed = False
    for number, name in enumerate(names, 1):
        found, wanted = generate(name), expected(name)
        good = found == wanted
        failed |= not good
        print(f'{"ok" if good else "not ok"} {number} - {name}')
        if not good:
            for line in f'expected {wanted}\nfound    {found}'.splitlines():
                print(f'# {line}')
    for number, (what, good) in enumerate([
            ('no stray files', not stray),
            ('unchanged files stay', unchanged_stays()),
            ('run qapi/key-order.py for: ' + ' '.join(without_rank()),
             not without_rank())], len(names) + 1):
        failed |= not good
        print(f'{"ok" if good else "not ok"} {number} - {what}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
