# SPDX-License-Identifier: MIT
"""A mirror that is completed, cancelled or left waiting at a bad moment.

The guest must never lose a write nor wait for ever, whatever the target does.
"""

import random
import threading
import time

import pytest

from .images import same_bytes
from .jobs import CANCELLED, FAILS, start_mirror
from .nbd import CMD_WRITE, CMD_WRITE_ZEROES
from .nbd_server import FakeServer
from .qmp import QmpError, SCALE

MIB = 1 << 20
SIZE = 16 * MIB
MODES = ['background', 'write-blocking']


@pytest.fixture
def source(server, images, guest_on):
    path = images.create('src.qcow2', SIZE)
    server.add_node('src', path, discard='unmap')
    server.export('src')
    guest = guest_on(server, 'src', trims=True)
    guest.random_writes(60)
    return guest


def pending(server, target, **options):
    job = start_mirror(server, 'src', target, auto_finalize=False, **options)
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id=job.id)
    job.wait('BLOCK_JOB_PENDING')
    return job


@pytest.mark.ours('with QEMU guests wait until the job is finalized')
@pytest.mark.parametrize('how', ['job-cancel', 'block-job-cancel', 'force'])
def test_target_hangs_while_pending(server, source, how):
    """A guest's write waits for it in write-blocking mode; a cancel lets the
    guest go."""
    far = FakeServer(server.path('fake.sock'), size=SIZE)
    answer = threading.Event()
    far.extents = lambda offset, length: [(length, 0)]
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'far', 'export': 'disk',
        'server': {'type': 'unix', 'path': far.path}})
    job = pending(server, 'far', copy_mode='write-blocking')
    far.requests.clear()

    def behave(kind, offset, length):
        if kind in (CMD_WRITE, CMD_WRITE_ZEROES):
            answer.wait()
    far.behave = behave
    source.start()
    while not far.requests:
        time.sleep(0.01)
    begun = time.monotonic()
    if how == 'job-cancel':
        server.qmp('job-cancel', id=job.id)
    else:
        server.qmp('block-job-cancel', device=job.id, force=how == 'force')
    job.wait('concluded')
    assert time.monotonic() - begun < 5 * SCALE
    assert job.steps[-3:] == CANCELLED
    source.wait_writes(10)
    source.stop()
    source.verify()
    answer.set()
    far.stop()


@pytest.mark.ours('with QEMU guests wait until the job is finalized')
@pytest.mark.parametrize('mode', MODES)
def test_target_gets_full_while_pending(server, images, small_disk, source,
                                        mode):
    """The job fails when it is finalized; the guest is at the source and has
    noticed nothing."""
    disk = small_disk(8 * MIB)
    path = disk.path('dst.raw')
    images.create(path, SIZE, fmt='raw')
    server.add_node('dst', path, driver='raw')
    job = pending(server, 'dst', copy_mode=mode)
    for offset in range(0, SIZE, MIB):
        source.fill(offset, MIB, 1 + offset // MIB)
    server.qmp('job-finalize', id=job.id)
    job.wait('concluded')
    assert job.steps[-3:] == FAILS
    assert job.info()['error'] == 'No space left on device'
    source.random_writes(10)
    source.verify()
    images.ignore(path)
    server.qmp('blockdev-del', node_name='dst')


def test_shared_backing(server, images, guest_on):
    """The target stands on the very node that the source stands on."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, f'write -P 5 0 {SIZE}')
    paths = [images.create(f'{name}.qcow2', SIZE, backing=base)
             for name in ('src', 'dst')]
    images.io(paths[0], 'write -P 6 1M 1M', 'write -z 4M 1M')
    server.add_node('base', base, read_only=True)
    for name, path in zip(('src', 'dst'), paths):
        server.add_node(name, path, backing='base')
    server.export('src')
    guest = guest_on(server, 'src')
    job = start_mirror(server, 'src', 'dst', sync='top')
    job.wait('BLOCK_JOB_READY')
    guest.random_writes(30)
    server.qmp('job-complete', id=job.id)
    job.wait('concluded')
    guest.random_writes(10)
    guest.verify()
    guest.close()
    server.unexport('src')
    for name in ('dst', 'src', 'base'):
        server.qmp('blockdev-del', node_name=name)
    same_bytes(images.content(paths[1]), guest.freeze())


@pytest.mark.parametrize('granularity, buf_size', [
    (1 << 20, 65536), (4 << 20, 1), (64 << 20, 0), (4096, 4096)])
def test_granules_and_buffer(server, images, source, granularity, buf_size):
    """A granule larger than the buffer, or than the disk."""
    path = images.create('dst.qcow2', SIZE)
    server.add_node('dst', path, discard='unmap')
    source.start()
    job = start_mirror(server, 'src', 'dst', granularity=granularity,
                       buf_size=buf_size)
    source.wait_writes(30)
    source.pause()      # it may make dirty faster than a slow host copies
    job.wait('BLOCK_JOB_READY')
    source.resume()
    source.wait_writes(30)
    server.qmp('job-complete', id=job.id)
    job.wait('concluded')
    source.stop()
    source.verify()
    source.close()
    server.unexport('src')
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())


def say(mon, verb):
    """Did the server take it?"""
    try:
        if verb == 'job-complete':
            mon.execute(verb, {'id': 'mirror'})
        else:
            mon.execute('block-job-cancel', {
                'device': 'mirror', 'force': verb == 'force'})
        return True
    except QmpError:
        return False


@pytest.mark.ours('one client at a time there')
@pytest.mark.parametrize('verb', ['soft', 'force'])
@pytest.mark.parametrize('mode', MODES)
def test_complete_and_cancel_race(server, images, source, mode, verb):
    """One of them wins; the guest is where the events say, and has lost
    nothing."""
    rnd = random.Random(verb + mode)
    other = server.connect(name='other')
    source.start()
    for i in range(20):
        path = images.create(f'dst{i}.qcow2', SIZE)
        server.add_node(f'dst{i}', path, discard='unmap')
        job = start_mirror(server, 'src', f'dst{i}', copy_mode=mode)
        job.wait('BLOCK_JOB_READY')
        said = [(server.mon, 'job-complete'), (other, verb)]
        rnd.shuffle(said)
        threads = [threading.Thread(target=say, args=one) for one in said]
        for thread in threads:
            thread.start()
            time.sleep(rnd.choice((0, 0, 0.002, 0.05)))
        for thread in threads:
            thread.join(30 * SCALE)
            assert not thread.is_alive()
        job.wait('concluded')
        error = job.info().get('error')
        assert error in (None, 'Operation canceled'), error
        if verb == 'soft':
            assert error is None
        source.wait_writes(3)
        # Where the guest is: that one cannot be deleted.
        places = set()
        for name in ('src', f'dst{i}'):
            try:
                server.qmp('blockdev-del', node_name=name)
            except QmpError as exc:
                assert 'in use' in exc.desc, exc
                places.add(name)
        assert len(places) == 1
        if places == {f'dst{i}'}:
            assert error is None
            # Back, for the next time.
            server.add_node('src', images.path('src.qcow2'),
                            discard='unmap')
            back = start_mirror(server, f'dst{i}', 'src', job_id='back')
            back.wait('BLOCK_JOB_READY')
            server.qmp('job-complete', id='back')
            back.wait('concluded')
            back.dismiss()
            server.qmp('blockdev-del', node_name=f'dst{i}')
        job.dismiss()
    source.stop()
    source.verify()
    other.close()
