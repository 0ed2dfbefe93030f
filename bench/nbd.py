# SPDX-License-Identifier: MIT
"""4 KiB random reads and writes over NBD at depth 32, and sequential copies.

Raw and qcow2 images with all data allocated, in the page cache on both
sides.  The load comes from nbd-load (bench/nbd-load.c), which costs little
itself; with fio in NBD_BENCH the same again from fio's nbd engine.
"""

import os
import subprocess
import time

from common import Server, report

SIZE = 512 << 20
DEPTH = 32
BLOCK = 4096
ROUNDS = 3
SECONDS = 2.0


def make_image(path, fmt):
    subprocess.run(['qemu-img', 'create', '-q', '-f', fmt, path, str(SIZE)],
                   check=True)
    subprocess.run(['qemu-io', '-f', fmt, '-c', f'write -q -P 90 0 {SIZE}',
                    '-c', 'flush', path], check=True)


def options(path, fmt):
    return ['--blockdev', f'driver=file,node-name=file,filename={path}',
            '--blockdev', f'driver={fmt},node-name=disk,file=file',
            '--export', 'type=nbd,id=e,node-name=disk,writable=on']


def load(ours, server, kind):
    tool = os.path.join(os.path.dirname(ours), '..', 'bench', 'nbd-load')
    done = subprocess.run([tool, server.nbd_path, 'disk', kind, str(DEPTH),
                           str(BLOCK), str(SECONDS)], check=True,
                          stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def fio(server, kind):
    done = subprocess.run(
        ['fio', '--name=x', '--ioengine=nbd',
         f'--uri=nbd+unix:///disk?socket={server.nbd_path}',
         f'--rw=rand{kind}', f'--bs={BLOCK}', f'--iodepth={DEPTH}',
         f'--size={SIZE}', '--time_based', f'--runtime={SECONDS}',
         '--minimal'], check=True, stdout=subprocess.PIPE, text=True)
    fields = done.stdout.split(';')
    return float(fields[7 if kind == 'read' else 48])


def copy(server):
    """MiB/s of reading the whole disk with nbdcopy."""
    begin = time.monotonic()
    subprocess.run(['nbdcopy', f'nbd+unix:///disk?socket={server.nbd_path}',
                    'null:'], check=True)
    return SIZE / (1 << 20) / (time.monotonic() - begin)


def by_turns(servers, measure):
    """Measurements of ours and theirs, taken in turn."""
    results = ([], [])
    for _ in range(ROUNDS):
        for server, result in zip(servers, results):
            result.append(measure(server))
    return results


def run(ours, reference, folder):
    ratios = []
    for fmt in 'raw', 'qcow2':
        servers = []
        for binary, name in (ours, 'ours'), (reference, 'theirs'):
            path = os.path.join(folder, f'{name}.{fmt}')
            make_image(path, fmt)
            servers.append(Server(binary, folder, f'{name}-{fmt}',
                                  *options(path, fmt)))
        for kind in 'read', 'write':
            name = f'nbd 4k random {kind} qd{DEPTH} {fmt}'
            ratios.append(report(name, *by_turns(
                servers, lambda s: load(ours, s, kind)), 'req/s'))
            if 'fio' in os.environ.get('NBD_BENCH', ''):
                name += ' (fio)'
                ratios.append(report(name, *by_turns(
                    servers, lambda s: fio(s, kind)), 'req/s'))
        name = f'nbdcopy from {fmt}'
        ratios.append(report(name, *by_turns(servers, copy), 'MiB/s'))
        for server in servers:
            server.stop()
        for name in 'ours', 'theirs':
            os.unlink(os.path.join(folder, f'{name}.{fmt}'))
    return ratios
