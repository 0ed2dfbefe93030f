# SPDX-License-Identifier: MIT
"""A job with a slow target, and a guest that writes: the guest goes first, the
job gets on.

The target is a throttle filter: it serves in the order in which it was asked.
All of a disk of 64 MiB may be in flight there before a guest's write, or not.
"""

import statistics
import time

import pytest

from .jobs import start_backup, start_mirror
from .qmp import SCALE

MIB = 1 << 20
SIZE = 64 * MIB
RATE = 16 * MIB
CLUSTER = 64 << 10


def add_slow(server, name, file, rate=RATE):
    """Node `name` over `file` with a limit of `rate` bytes a second."""
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'slow',
                              'limits': {'bps-total': rate}})
    server.qmp('blockdev-add', {'driver': 'throttle', 'node-name': name,
                                'throttle-group': 'slow', 'file': file})


def let_loose(server):
    server.qmp('qom-set', path='/objects/slow', property='limits', value={
        'bps-total': 0})


@pytest.fixture
def disk(server, images, guest_on):
    """A guest on a full disk 'src'."""
    path = images.create('src.raw', SIZE, fmt='raw')
    images.io(path, f'write -P 90 0 {SIZE}', fmt='raw')
    server.add_node('src', path, driver='raw')
    server.export('src')
    return guest_on(server, 'src')


@pytest.fixture(params=['local', 'nbd'])
def slow(request, server, images, start_server):
    """A slow target 'dst': (file, the server that has the limit)."""
    path = images.create('dst.raw', SIZE, fmt='raw')
    if request.param == 'local':
        server.add_file('file', path)
        add_slow(server, 'dst', 'file')
        return path, server
    far = start_server()
    far.add_file('file', path)
    add_slow(far, 'slow', 'file')
    far.export('slow')
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'dst', 'export': 'slow',
        'server': {'type': 'unix', 'path': far.nbd_path}})
    return path, far


def timed_writes(guest, clusters):
    """What each of these writes of 4 KiB takes, in seconds."""
    taken = []
    for cluster in clusters:
        begin = time.monotonic()
        guest.write(cluster * CLUSTER, bytes([cluster % 251 + 1]) * 4096)
        taken.append(time.monotonic() - begin)
    return taken


def wait_offset(job, offset, timeout=20 * SCALE):
    deadline = time.monotonic() + timeout
    while job.info()['current-progress'] < offset:
        assert time.monotonic() < deadline, 'the job makes no progress'
        time.sleep(0.01)


def offset_of(job):
    return job.info()['current-progress']


@pytest.mark.ours('QEMU lets guests wait for all that is in flight')
def test_backup(server, disk, slow, images):
    """Half a second at most, mostly; QEMU's take 4 s here.  The target is the
    disk as it was at the start."""
    before = disk.freeze()
    job = start_backup(server, 'src', 'dst')
    wait_offset(job, 4 * MIB)       # the filter's free part is used up
    then = offset_of(job)
    taken = timed_writes(disk, range(SIZE // CLUSTER - 1,
                                     SIZE // CLUSTER - 41, -1))
    assert statistics.median(taken) < 0.2 * SCALE, taken
    assert max(taken) < 2 * SCALE, taken
    wait_offset(job, then + 50 * CLUSTER)       # more than those writes'
    let_loose(slow[1])
    job.finish()
    with open(slow[0], 'rb') as f:
        assert f.read() == before


@pytest.mark.ours('QEMU lets guests wait for all that is in flight')
def test_write_blocking(server, disk, slow):
    job = start_mirror(server, 'src', 'dst', sync='full',
                       copy_mode='write-blocking')
    wait_offset(job, 4 * MIB)
    taken = timed_writes(disk, range(SIZE // CLUSTER - 1,
                                     SIZE // CLUSTER - 41, -1))
    assert statistics.median(taken) < 0.2 * SCALE, taken
    assert max(taken) < 2 * SCALE, taken
    let_loose(slow[1])
    job.wait('BLOCK_JOB_READY')
    job.cancel()
    job.wait('concluded')
    job.dismiss()


def test_saturated(server, disk, slow):
    """Guests that never stop writing do not stop the job."""
    job = start_mirror(server, 'src', 'dst', sync='full',
                       copy_mode='write-blocking')
    disk.start()
    for _ in range(4):
        info = job.info()
        left = info['total-progress'] - info['current-progress']
        if left < 8 * MIB:
            break
        deadline = time.monotonic() + 20 * SCALE
        while info['total-progress'] - info['current-progress'] > \
                left - 2 * MIB:
            assert time.monotonic() < deadline, f'stuck at {left}'
            time.sleep(0.02)
            info = job.info()
    let_loose(slow[1])
    job.wait('BLOCK_JOB_READY')
    disk.stop()
    job.cancel()
    job.wait('concluded')
    job.dismiss()


@pytest.mark.parametrize('end', ['pause', 'cancel'])
def test_held_back(server, disk, slow, end):
    """Who is held back for guests still hears a pause and a cancel."""
    job = start_mirror(server, 'src', 'dst', sync='full',
                       copy_mode='write-blocking')
    disk.start()
    wait_offset(job, 4 * MIB)
    begin = time.monotonic()
    if end == 'pause':
        job.pause()
        assert time.monotonic() - begin < 8 * SCALE
        job.resume()
    disk.stop()
    job.cancel()
    job.wait('concluded')
    assert time.monotonic() - begin < 14 * SCALE
    job.dismiss()
