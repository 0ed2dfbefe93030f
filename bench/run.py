#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make bench: blockjobd against Debian's qemu-storage-daemon, as ratios."""

import argparse
import importlib
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

BENCHES = ['qmp', 'graph', 'nbd', 'backup', 'jobs', 'latency',
           'machine']


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default='build', help='build folder')
    parser.add_argument('--reference', default='qemu-storage-daemon')
    parser.add_argument('--tmp', help='where the images lie')
    parser.add_argument('names', nargs='*', help=f'of {BENCHES}')
    args = parser.parse_args()
    ours = os.path.abspath(f'{args.build}/server/blockjobd')
    print(f'{"":44} {"blockjobd":>12} {"reference":>12} {"":8}  ratio')
    for name in args.names or BENCHES:
        with tempfile.TemporaryDirectory(prefix='blockjobd-bench-',
                                         dir=args.tmp) as folder:
            importlib.import_module(name).run(ours, args.reference, folder)


if __name__ == '__main__':
    main()
