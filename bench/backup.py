# SPDX-License-Identifier: MIT
"""Full backup of 1 GiB, qcow2 to a new qcow2."""

import os
import subprocess
import time

from common import Server, report

BYTES = 1 << 30
ROUNDS = 5


def make_source(folder):
    raw = os.path.join(folder, 'source.raw')
    image = os.path.join(folder, 'source.qcow2')
    with open(raw, 'wb') as f:
        for _ in range(BYTES >> 20):
            f.write(os.urandom(1 << 20))
    subprocess.run(['qemu-img', 'convert', '-O', 'qcow2', raw, image],
                   check=True)
    os.unlink(raw)
    return image


def one_backup(binary, folder, source, name):
    target = os.path.join(folder, f'{name}.qcow2')
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', target,
                    str(BYTES)], check=True)
    server = Server(binary, folder, name)
    for node, path in (('s', source), ('t', target)):
        server.qmp('blockdev-add', driver='qcow2', node_name=node,
                   file={'driver': 'file', 'filename': path})
    start = time.monotonic()
    server.qmp('blockdev-backup', job_id='j', device='s', target='t',
               sync='full', auto_dismiss=False)
    server.wait_job('j')
    seconds = time.monotonic() - start
    server.stop()
    subprocess.run(['qemu-img', 'check', '-q', target], check=True)
    os.unlink(target)
    return BYTES / (1 << 20) / seconds


def run(ours, theirs, folder):
    source = make_source(folder)
    a, b = [], []
    for i in range(ROUNDS):
        b.append(one_backup(theirs, folder, source, f'theirs{i}'))
        a.append(one_backup(ours, folder, source, f'ours{i}'))
    os.unlink(source)
    return [report('backup full 1 GiB qcow2 -> qcow2', a, b, 'MiB/s')]
