#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Put the tables of blockjobs/job-state.c into docs/jobs.md.

    jobs-page.py [--check] PROGRAM PAGE

PROGRAM is the built job-tables.  What stands between `<!-- table NAME -->`
and `<!-- end -->` becomes what `PROGRAM NAME` prints.  With --check nothing
is written: the exit status is 1 if the page differs.
"""

import difflib
import re
import subprocess
import sys

TABLE = re.compile(r'(<!-- table (\w+)[^>]*-->\n).*?(<!-- end -->)', re.S)


def main():
    args = sys.argv[1:]
    check = args[:1] == ['--check']
    program, path = args[check:]
    with open(path, encoding='utf-8') as stream:
        old = stream.read()
    seen = []

    def table(match):
        name = match.group(2)
        seen.append(name)
        done = subprocess.run([program, name], check=True, text=True,
                              capture_output=True)
        return match.group(1) + done.stdout + match.group(3)

    new = TABLE.sub(table, old)
    if sorted(seen) != ['status', 'verbs']:
        sys.exit(f'{path}: tables {seen}, not status and verbs, each once')
    if check:
        sys.stdout.writelines(difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), path,
            f'{path} as the code has it (make docs)'))
        sys.exit(new != old)
    if new != old:
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(new)


main()
