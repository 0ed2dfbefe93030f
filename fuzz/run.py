#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Run every fuzz target for a while, from its corpus; stop at a finding."""

import argparse
import glob
import os
import shutil
import subprocess
import tempfile


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--build', default='build-fuzz')
    parser.add_argument('--seconds', type=int, default=20)
    parser.add_argument('targets', nargs='*')
    args = parser.parse_args()
    programs = [p for p in sorted(glob.glob(f'{args.build}/fuzz/fuzz-*'))
                if os.path.isfile(p) and os.access(p, os.X_OK)]
    wanted = args.targets or [os.path.basename(p) for p in programs]
    if not wanted:
        raise SystemExit(f'no fuzz targets in {args.build}')
    for program in programs:
        name = os.path.basename(program)
        if name not in wanted:
            continue
        corpus = os.path.join(here, 'corpus', name[len('fuzz-'):])
        with tempfile.TemporaryDirectory(prefix=f'{name}-') as work:
            shutil.copytree(corpus, work, dirs_exist_ok=True)
            done = subprocess.run(
                [os.path.abspath(program), f'-max_total_time={args.seconds}',
                 '-rss_limit_mb=4096', '-timeout=10', '-print_final_stats=1',
                 f'-artifact_prefix={os.getcwd()}/{name}-', work],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors='replace')
        if done.returncode:
            print(done.stdout[-8000:])
            raise SystemExit(f'{name}: found something; the input is in '
                             f'{name}-*')
        runs = [line for line in done.stdout.splitlines()
                if 'number_of_executed_units' in line]
        print(f'{name}: {runs[0].split(":")[-1].strip() if runs else "?"} '
              f'inputs in {args.seconds} s, nothing found', flush=True)


if __name__ == '__main__':
    main()
