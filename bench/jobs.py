# SPDX-License-Identifier: MIT
"""Each job over 512 MiB of data in the page cache: raw and qcow2, local files
and an NBD server as the target; and sparse disks, where time must follow the
data.  Beside qemu-storage-daemon, `cp` of the same bytes in the same run.

Two times for each job: its end, and when what it wrote is on stable storage.
Ours are so when they end; of qemu-storage-daemon's only mirrors are, and cp
never is.
"""

import os
import subprocess
import time

from common import Server, random_file, report

SIZE = 512 << 20
ROUNDS = 3
SPARSE_SIZE = 1 << 40
SPARSE_DATA = 64        # MiB, spread over it


def create(path, fmt, *arguments, size=SIZE):
    subprocess.run(['qemu-img', 'create', '-q', '-f', fmt, *arguments, path,
                    str(size)], check=True)
    return path


def unlink(*paths):
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


class Images:
    """The images of one run; what is copied from is made once."""

    def __init__(self, folder):
        self.folder = folder
        self.full = {'raw': self.path('full.raw')}
        random_file(self.full['raw'], SIZE)
        self.full['qcow2'] = self.path('full.qcow2')
        subprocess.run(['qemu-img', 'convert', '-O', 'qcow2',
                        self.full['raw'], self.full['qcow2']], check=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def rest_on(self, base, fmt):
        """Let the full qcow2 have `base` as its backing file."""
        subprocess.run(['qemu-img', 'rebase', '-q', '-u', '-f', 'qcow2',
                        '-b', base, '-F', fmt, self.full['qcow2']],
                       check=True)

    def rest_on_nothing(self):
        subprocess.run(['qemu-img', 'rebase', '-q', '-u', '-f', 'qcow2',
                        '-b', '', self.full['qcow2']], check=True)

    def clean(self):
        unlink(*self.full.values())


def add(server, name, path, fmt, **options):
    server.qmp('blockdev-add', driver=fmt, node_name=name,
               file={'driver': 'file', 'filename': path}, **options)


# One job each: (server, images, fmt, target), target() adds a new node and
# says how it is called.  They return when what is measured began and ended.

def backup(server, images, fmt, target):
    add(server, 's', images.full[fmt], fmt)
    name = target()
    begin = time.monotonic()
    server.qmp('blockdev-backup', job_id='j', device='s', target=name,
               sync='full')
    server.wait_gone('j')
    return begin, time.monotonic()


def until_ready(server, begin):
    server.wait_event('BLOCK_JOB_READY', device='j')
    return begin, time.monotonic()


def mirror(server, images, fmt, target):
    add(server, 's', images.full[fmt], fmt)
    name = target()
    begin = time.monotonic()
    server.qmp('blockdev-mirror', job_id='j', device='s', target=name,
               sync='full')
    result = until_ready(server, begin)
    server.qmp('block-job-cancel', device='j', force=True)
    server.wait_gone('j')
    return result


def stream(server, images, fmt, target):
    top = create(images.path('top.qcow2'), 'qcow2', '-b', images.full[fmt],
                 '-F', fmt)
    add(server, 's', top, 'qcow2')
    begin = time.monotonic()
    server.qmp('block-stream', job_id='j', device='s')
    server.wait_gone('j')
    return begin, time.monotonic()


def commit_middle(server, images, fmt, target):
    base = create(images.path(f'base.{fmt}'), fmt)
    images.rest_on(base, fmt)
    top = create(images.path('top.qcow2'), 'qcow2', '-b',
                 images.full['qcow2'], '-F', 'qcow2')
    add(server, 'base', base, fmt)
    add(server, 'mid', images.full['qcow2'], 'qcow2', backing='base')
    add(server, 's', top, 'qcow2', backing='mid')
    begin = time.monotonic()
    server.qmp('block-commit', job_id='j', device='s', top_node='mid',
               base_node='base')
    server.wait_gone('j')
    return begin, time.monotonic()


def commit_active(server, images, fmt, target):
    base = create(images.path(f'base.{fmt}'), fmt)
    images.rest_on(base, fmt)
    add(server, 'base', base, fmt)
    add(server, 's', images.full['qcow2'], 'qcow2', backing='base')
    begin = time.monotonic()
    server.qmp('block-commit', job_id='j', device='s', base_node='base')
    result = until_ready(server, begin)
    server.qmp('block-job-cancel', device='j', force=True)
    server.wait_gone('j')
    return result


# name: function, what it writes, where that may be
JOBS = {
    'backup': (backup, 'target', ('local', 'nbd')),
    'mirror': (mirror, 'target', ('local', 'nbd')),
    'stream': (stream, 'top', ('local',)),
    'commit middle': (commit_middle, 'base', ('local',)),
    'commit active': (commit_active, 'base', ('local',)),
}


def sync_seconds(path):
    fd = os.open(path, os.O_RDONLY)
    begin = time.monotonic()
    os.fsync(fd)
    seconds = time.monotonic() - begin
    os.close(fd)
    return seconds


def speed(seconds):
    return SIZE / (1 << 20) / seconds


def one_run(binary, images, job, fmt, far):
    """MiB/s to the end of a job, and until what it wrote is stable; FAR is
    the server that has an NBD target."""
    function, written, _ = JOBS[job]
    server = Server(binary, images.folder, 'jobs')
    path = images.path(f'target.{fmt}')

    def target():
        create(path, fmt)
        if not far:
            add(server, 't', path, fmt)
            return 't'
        add(far, 't', path, fmt)
        far.qmp('block-export-add', type='nbd', id='e', node_name='t',
                writable=True)
        server.qmp('blockdev-add', driver='nbd', node_name='t', export='t',
                   server={'type': 'unix', 'path': far.nbd_path})
        return 't'

    begin, end = function(server, images, fmt, target)
    stable = end + sync_seconds(images.path(
        'top.qcow2' if written == 'top' else f'{written}.{fmt}'))
    server.stop()
    if far:
        far.qmp('block-export-del', id='e', mode='hard')
        far.wait_event('BLOCK_EXPORT_DELETED', id='e')
        far.qmp('blockdev-del', node_name='t')
    if 'commit' in job:
        images.rest_on_nothing()
    unlink(path, images.path('top.qcow2'), images.path(f'base.{fmt}'))
    return speed(end - begin), speed(stable - begin)


def copy(images, fmt):
    """As one_run(), of cp."""
    target = images.path('cp')
    begin = time.monotonic()
    subprocess.run(['cp', '--reflink=never', images.full[fmt], target],
                   check=True)
    seconds = time.monotonic() - begin
    stable = seconds + sync_seconds(target)
    os.unlink(target)
    return speed(seconds), speed(stable)


def compare(ours, reference, images, job, fmt, far):
    """Ratios to the reference, and to cp."""
    a, b, c = [], [], []
    for _ in range(ROUNDS):
        c.append(copy(images, fmt))
        b.append(one_run(reference, images, job, fmt, far))
        a.append(one_run(ours, images, job, fmt, far))
    (ours_end, ours_stable), (end, stable), (_, cp_stable) = (
        zip(*results) for results in (a, b, c))
    name = f'{job}, {fmt}, {"nbd" if far else "local"}'
    return [report(name, ours_end, end, 'MiB/s'),
            report('  ...until stable', ours_stable, stable, 'MiB/s'),
            report('  ...until stable, to cp', ours_stable, cp_stable,
                   'MiB/s')]


# Sparse disks

def make_sparse(images, fmt):
    path = create(images.path(f'sparse.{fmt}'), fmt, size=SPARSE_SIZE)
    step = SPARSE_SIZE // SPARSE_DATA
    writes = [word for i in range(SPARSE_DATA)
              for word in ('-c', f'write -q -P {i + 1} {i * step} 1M')]
    subprocess.run(['qemu-io', '-f', fmt, *writes, path], check=True)
    return path


def one_sparse(binary, images, fmt, source):
    target = create(images.path(f'target.{fmt}'), fmt, size=SPARSE_SIZE)
    server = Server(binary, images.folder, 'sparse')
    add(server, 's', source, fmt)
    add(server, 't', target, fmt)
    begin = time.monotonic()
    server.qmp('blockdev-backup', job_id='j', device='s', target='t',
               sync='full')
    server.wait_gone('j')
    seconds = time.monotonic() - begin
    server.stop()
    os.unlink(target)
    return seconds


def sparse(ours, reference, images, fmt):
    source = make_sparse(images, fmt)
    a, b = [], []
    for _ in range(ROUNDS):
        b.append(one_sparse(reference, images, fmt, source) * 1000)
        a.append(one_sparse(ours, images, fmt, source) * 1000)
    os.unlink(source)
    return report(f'backup of 64 MiB in 1 TiB, {fmt}', a, b, 'ms', False)


def run(ours, reference, folder):
    images = Images(folder)
    ratios = []
    far = Server(reference, folder, 'far')
    for job, (_, _, places) in JOBS.items():
        for place in places:
            for fmt in 'raw', 'qcow2':
                ratios += compare(ours, reference, images, job, fmt,
                                  far if place == 'nbd' else None)
    far.stop()
    for fmt in 'raw', 'qcow2':
        ratios.append(sparse(ours, reference, images, fmt))
    images.clean()
    return ratios
