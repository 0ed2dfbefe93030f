# SPDX-License-Identifier: MIT
"""4 KiB random reads and writes over NBD at depth 32, sequential copies, block
status of a fragmented disk; and our NBD client as a backup's source and target.

Raw and qcow2 images with all data allocated, in the page cache on both
sides.  The load comes from nbd-load (bench/nbd-load.c), which costs little
itself; with fio in NBD_BENCH the same again from fio's nbd engine.
"""

import os
import struct
import subprocess
import time

from common import Server, load, report

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


def requests(ours, server, kind):
    return load(ours, server, 'disk', kind, DEPTH, BLOCK, SECONDS)[0]


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


# Block status

FRAGMENTED = 1 << 40
RUN_CLUSTERS = 128


def make_fragmented(path):
    """A qcow2 of 1 TiB, 8 MiB of data and 8 MiB of nothing by turns.  To be
    small, all its L2 entries name one data cluster, and all L1 entries one
    L2 table: good for reading only."""
    cluster = 1 << 16
    l1_size = FRAGMENTED // (cluster * cluster // 8)
    header = struct.pack('>4sIQIIQIIQQIIQQQQII', b'QFI\xfb', 3, 0, 0, 16,
                         FRAGMENTED, 0, l1_size, 3 * cluster, cluster, 1, 0,
                         0, 0, 0, 0, 4, 104)
    run = struct.pack('>Q', 5 * cluster) * RUN_CLUSTERS + \
        bytes(8 * RUN_CLUSTERS)
    parts = {0: header, 1: struct.pack('>Q', 2 * cluster),
             2: struct.pack('>H', 1) * 6,
             3: struct.pack('>Q', 4 * cluster) * l1_size,
             4: run * (cluster // len(run)), 5: b'x' * cluster}
    with open(path, 'wb') as image:
        for at, data in parts.items():
            image.write(data.ljust(cluster, b'\0'))


def extents(server):
    """Extents of the whole disk per second."""
    begin = time.monotonic()
    done = subprocess.run(
        ['nbdinfo', '--map', f'nbd+unix:///disk?socket={server.nbd_path}'],
        check=True, stdout=subprocess.PIPE)
    seconds = time.monotonic() - begin
    n = done.stdout.count(b'\n')
    assert n == FRAGMENTED // (8 << 20), n
    return n / seconds


def fragmented_status(ours, reference, folder):
    path = os.path.join(folder, 'fragmented.qcow2')
    make_fragmented(path)
    servers = [Server(binary, folder, f'{name}-status',
                      '--blockdev', 'driver=file,node-name=file,read-only=on,'
                      f'filename={path}',
                      '--blockdev', 'driver=qcow2,node-name=disk,file=file,'
                      'read-only=on',
                      '--export', 'type=nbd,id=e,node-name=disk')
               for binary, name in ((ours, 'ours'), (reference, 'theirs'))]
    ratio = report('nbd block status of a fragmented 1 TiB',
                   *by_turns(servers, extents), 'extents/s')
    for server in servers:
        server.stop()
    os.unlink(path)
    return ratio


# The client

def client_backup(server, far, near, way):
    """MiB/s of a backup from or to the export."""
    address = {'type': 'unix', 'path': far.nbd_path}
    server.qmp('blockdev-add', driver='nbd', node_name='far', export='disk',
               server=address)
    if way == 'from':
        server.qmp('blockdev-add', driver='null-co', node_name='near',
                   size=SIZE)
        source, target = 'far', 'near'
    else:
        server.qmp('blockdev-add', driver='file', node_name='near',
                   filename=near, read_only=True)
        source, target = 'near', 'far'
    begin = time.monotonic()
    server.qmp('blockdev-backup', job_id='j', device=source, target=target,
               sync='full', auto_dismiss=False)
    server.wait_job('j')
    seconds = time.monotonic() - begin
    for node in 'far', 'near':
        server.qmp('blockdev-del', node_name=node)
    return SIZE / (1 << 20) / seconds


def client_speed(ours, reference, folder):
    """The far side is the reference's for both."""
    path, near = (os.path.join(folder, f'{name}.raw')
                  for name in ('far', 'near'))
    make_image(path, 'raw')
    make_image(near, 'raw')
    far = Server(reference, folder, 'far', *options(path, 'raw'))
    servers = [Server(ours, folder, 'ours-client'),
               Server(reference, folder, 'theirs-client')]
    ratios = [report(f'backup {way} an nbd node', *by_turns(
        servers, lambda s, way=way: client_backup(s, far, near, way)),
        'MiB/s')
        for way in ('from', 'to')]
    for server in servers + [far]:
        server.stop()
    os.unlink(path)
    os.unlink(near)
    return ratios


def run(ours, reference, folder):
    ratios = [fragmented_status(ours, reference, folder),
              *client_speed(ours, reference, folder)]
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
                servers, lambda s: requests(ours, s, kind)), 'req/s'))
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
