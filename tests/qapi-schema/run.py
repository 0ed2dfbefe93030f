#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Golden tests of the QAPI generator.

NAME.json is a schema; NAME.out what the generator makes of it, or NAME.err
what it says is wrong: one of the two.  Prints TAP.

    tests/qapi-schema/run.py            check all
    tests/qapi-schema/run.py --update   write what the generator says now
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GENERATE = os.path.join(HERE, '..', '..', 'qapi', 'generate.py')


def generate(name):
    """{extension: text} of what the generator prints."""
    result = subprocess.run(
        [sys.executable, '-B', GENERATE, '--dump', f'{name}.json'],
        cwd=HERE, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode == 0 and not result.stderr:
        return {'out': result.stdout}
    return {'err': result.stderr}


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
    names = sorted(file[:-5] for file in os.listdir(HERE)
                   if file.endswith('.json'))
    if '--update' in sys.argv:
        for name in names:
            update(name, generate(name))
        return 0
    stray = [file for file in os.listdir(HERE)
             if file.endswith(('.out', '.err')) and file[:-4] not in names]
    print(f'1..{len(names) + 1}')
    failed = False
    for number, name in enumerate(names, 1):
        found, wanted = generate(name), expected(name)
        good = found == wanted
        failed |= not good
        print(f'{"ok" if good else "not ok"} {number} - {name}')
        if not good:
            for line in f'expected {wanted}\nfound    {found}'.splitlines():
                print(f'# {line}')
    print(f'{"not ok" if stray else "ok"} {len(names) + 1} - no stray files '
          + ' '.join(stray))
    return 1 if failed or stray else 0


if __name__ == '__main__':
    sys.exit(main())
