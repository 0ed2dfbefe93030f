# SPDX-License-Identifier: MIT
"""blockdev-mirror: the copy follows the disk, and takes its place.

While a job runs a guest writes to the source; what it wrote must be on the
target when the job has ended, and it must not notice the change.
"""

import threading
import time

import pytest

from .images import same_bytes
from .jobs import (CANCELLED, FAILS, MIRROR_IS_READY, SUCCEEDS, start_mirror)
from .nbd import NbdError
from .qmp import QmpError, SCALE

MIB = 1 << 20
SIZE = 16 * MIB
MODES = ['background', 'write-blocking']


@pytest.fixture
def source(server, images, guest_on):
    """A qcow2 'src' of 16 MiB in the server with a guest at it."""
    path = images.create('src.qcow2', SIZE)
    server.add_node('src', path, discard='unmap')
    server.export('src')
    guest = guest_on(server, 'src', trims=True)
    guest.random_writes(60)
    return guest


def add_target(server, images, name='dst', size=SIZE, fmt='qcow2', **options):
    path = images.create(f'{name}.{fmt}', size, fmt=fmt, **options)
    server.add_node(name, path, driver=fmt, discard='unmap')
    return path


def content(server, images, path, name='dst'):
    """What is on the target, once nobody uses it."""
    server.unexport('src', mode='hard')
    server.qmp('blockdev-del', node_name=name)
    return images.content(path)


def is_ready(job):
    job.wait('BLOCK_JOB_READY')
    return job


def complete(job):
    job.server.qmp('block-job-complete', device=job.id)
    return job.wait('concluded')


# To the end

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
@pytest.mark.parametrize('sync', ['full', 'top'])
def test_complete(server, images, source, fmt, sync, mode):
    path = add_target(server, images, fmt=fmt)
    job = start_mirror(server, 'src', 'dst', sync=sync, copy_mode=mode)
    is_ready(job)
    assert job.take() == MIRROR_IS_READY
    ready = job.events['BLOCK_JOB_READY']
    assert ready['len'] == ready['offset'] > 0
    complete(job)
    assert job.take() == SUCCEEDS
    job.dismiss()
    assert server.nodes()['dst']
    source.random_writes(20)
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_complete_with_writing_guest(server, images, source, fmt, mode):
    """The guest writes all the time, at the source and then at the
    target, and notices nothing."""
    path = add_target(server, images, fmt=fmt)
    source.start()
    job = start_mirror(server, 'src', 'dst', copy_mode=mode, speed=8 * MIB)
    source.wait_writes(50)
    job.set_speed(0)
    is_ready(job)
    source.wait_writes(50)
    complete(job)
    assert job.info().get('error') is None
    source.wait_writes(20)
    source.stop()
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('shared', [False, True])
def test_nbd_target(start_server, images, guest_on, mode, shared):
    """The target is another server's, raw or with a node over it."""
    far = start_server()
    far_path = images.create('far.raw', SIZE, fmt='raw')
    far.add_node('disk', far_path, driver='raw', discard='unmap')
    far.export('disk')
    server = start_server()
    server.add_node('src', images.create('src.qcow2', SIZE),
                    discard='unmap')
    server.export('src')
    guest = guest_on(server, 'src', trims=True)
    guest.random_writes(40)
    node = {'driver': 'nbd', 'export': 'disk', 'node-name': 'dst',
            'server': {'type': 'unix', 'path': far.nbd_path}}
    if shared:
        node.pop('node-name')
        node = {'driver': 'raw', 'node-name': 'dst', 'file': node}
    server.qmp('blockdev-add', node)
    guest.start()
    job = is_ready(start_mirror(server, 'src', 'dst', copy_mode=mode))
    guest.wait_writes(40)
    complete(job)
    guest.wait_writes(20)
    guest.stop()
    guest.verify()
    server.unexport('src', mode='hard')
    server.qmp('blockdev-del', node_name='dst')
    far.unexport('disk', mode='hard')
    far.qmp('blockdev-del', node_name='disk')
    same_bytes(images.content(far_path), guest.freeze())


def test_source_goes_if_nobody_wants_it(server, images, source):
    """It stays: blockdev-add's.  The filter goes with the job."""
    add_target(server, images)
    before = set(server.nodes())
    job = is_ready(start_mirror(server, 'src', 'dst'))
    assert len(server.nodes()) == len(before) + 1
    complete(job)
    assert set(server.nodes()) == before
    server.qmp('blockdev-del', node_name='src')
    source.random_writes(5)
    source.verify()


@pytest.mark.parametrize('mode', MODES)
def test_sync_none(server, images, source, mode):
    """Only what is new is copied; the target has the rest already."""
    source.fill(0, SIZE, 7)
    path = images.create('dst.qcow2', SIZE)
    images.io(path, f'write -P 7 0 {SIZE}')
    server.add_node('dst', path)
    job = is_ready(start_mirror(server, 'src', 'dst', sync='none',
                                copy_mode=mode))
    ready = job.events['BLOCK_JOB_READY']
    assert (ready['len'], ready['offset']) == (0, 0)
    source.random_writes(50)
    complete(job)
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


@pytest.mark.parametrize('mode', MODES)
def test_sync_top(server, images, guest_on, mode):
    """What is below the source's top layer is below the target, too."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, f'write -P 5 0 {SIZE}')
    top = images.create('top.qcow2', SIZE, backing=base)
    images.io(top, 'write -P 6 1M 1M', 'write -z 4M 1M')
    path = images.create('dst.qcow2', SIZE, backing=base)
    server.add_node('src', top)
    server.add_node('dst', path)
    server.export('src')
    guest = guest_on(server, 'src')
    job = is_ready(start_mirror(server, 'src', 'dst', sync='top',
                                copy_mode=mode))
    assert job.events['BLOCK_JOB_READY']['len'] == 2 * MIB
    guest.random_writes(30)
    complete(job)
    guest.verify()
    same_bytes(content(server, images, path), guest.freeze())


# Cancel

def test_cancel_when_ready_keeps_the_copy(server, images, source):
    """block-job-cancel of a ready mirror: done, without the change."""
    path = add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    source.random_writes(30)
    frozen = source.freeze()
    job.take()
    server.qmp('block-job-cancel', device=job.id)
    job.wait('concluded')
    assert job.take() == SUCCEEDS
    source.random_writes(10)
    source.verify()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)


@pytest.mark.parametrize('command', ['job-cancel', 'block-job-cancel'])
def test_forced_cancel_when_ready(server, images, source, command):
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    job.take()
    if command == 'job-cancel':
        server.qmp(command, id=job.id)
    else:
        server.qmp(command, device=job.id, force=True)
    job.wait('concluded')
    assert job.take() == CANCELLED
    source.random_writes(10)
    source.verify()
    server.qmp('blockdev-del', node_name='dst')


def test_cancel_before_ready(server, images, source):
    source.fill(0, SIZE, 3)
    add_target(server, images)
    job = start_mirror(server, 'src', 'dst', speed=1, buf_size=65536)
    job.wait('running')
    job.take()
    server.qmp('block-job-cancel', device=job.id)
    job.wait('concluded')
    assert job.take() == CANCELLED
    source.verify()
    server.qmp('blockdev-del', node_name='dst')


# Pause, speed, progress

def test_pause_and_resume(server, images, source):
    """Paused, nothing is copied; ready, it is called standby."""
    source.fill(0, SIZE, 3)
    add_target(server, images)
    job = start_mirror(server, 'src', 'dst', speed=MIB, buf_size=65536)
    job.pause()
    offset = job.block_info()['offset']
    source.fill(0, MIB, 4)
    assert job.block_info()['offset'] == offset
    job.resume()
    job.set_speed(0)
    is_ready(job)
    server.qmp('job-pause', id=job.id)
    job.wait('standby')
    info = job.block_info()
    assert (info['paused'], info['ready']) == (True, True)
    source.fill(MIB, MIB, 5)
    if not server.is_qemu:      # which counts again when it runs
        info = job.block_info()
        assert info['len'] == info['offset'] + MIB
    server.qmp('job-resume', id=job.id)
    job.wait('ready')
    complete(job)
    source.verify()


def test_complete_while_paused(server, images, source):
    """It is noted, and done after the resume."""
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    server.qmp('job-pause', id=job.id)
    job.wait('standby')
    server.qmp('job-complete', id=job.id)
    server.qmp('block-job-complete', device=job.id)
    server.fails('block-job-cancel', device=job.id,
                 desc="The block job for device 'mirror' is currently paused")
    assert job.status() == 'standby'
    server.qmp('job-resume', id=job.id)
    job.wait('concluded')
    assert job.take()[-5:] == ['ready'] + SUCCEEDS
    source.random_writes(5)
    source.verify()


def test_complete_too_early(server, images, source):
    source.fill(0, SIZE, 3)
    add_target(server, images)
    job = start_mirror(server, 'src', 'dst', speed=1, buf_size=65536)
    server.fails('block-job-complete', device=job.id,
                 desc="Job 'mirror' in state 'running' cannot accept command "
                      "verb 'complete'")
    job.set_speed(0)
    is_ready(job)
    job.cancel()
    job.wait('concluded')


@pytest.mark.parametrize('buf_size, first', [(65536, 65536),
                                             (1 << 20, 1 << 20),
                                             (None, 16 << 20)])
def test_steps_under_a_limit(server, images, guest_on, buf_size, first):
    """The first step is let through; it is as large as the buffer."""
    server.add_node('src', images.create('src.qcow2', '40M'))
    server.export('src')
    guest_on(server, 'src').fill(0, 40 * MIB, 1)
    add_target(server, images, size='40M')
    options = {'buf_size': buf_size} if buf_size else {}
    job = start_mirror(server, 'src', 'dst', speed=1, **options)
    deadline = time.monotonic() + 10 * SCALE
    while job.block_info()['offset'] < first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job.block_info()['offset'] == first
    assert job.block_info()['len'] == 40 * MIB
    job.cancel()
    job.wait('concluded')


def test_progress_of_a_ready_mirror(server, images, source):
    """What a guest makes dirty is added to the length, then done."""
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    before = job.events['BLOCK_JOB_READY']['len']
    source.write(0, b'x' * 65536)
    source.write(3 * 65536, b'x')
    deadline = time.monotonic() + 10 * SCALE
    while job.block_info()['offset'] < before + 2 * 65536:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    info = job.block_info()
    assert info['len'] == info['offset'] == before + 2 * 65536
    job.cancel()
    job.wait('concluded')


# Sizes

@pytest.mark.parametrize('size', [0, 512, 1024, 65536 + 512])
def test_small_disks(server, images, guest_on, size):
    path = images.create('src.raw', size, fmt='raw')
    target = images.create('dst.raw', size, fmt='raw')
    server.add_node('src', path, driver='raw')
    server.add_node('dst', target, driver='raw')
    server.export('src')
    guest = guest_on(server, 'src') if size else None
    if guest:
        guest.fill(0, size, 9)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    ready = job.events['BLOCK_JOB_READY']
    assert (ready['len'], ready['offset']) == (size, size)
    if guest:
        guest.write(size - 512, b'e' * 512)
    complete(job)
    if guest:
        guest.verify()
        same_bytes(content(server, images, target), guest.freeze())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('granularity', [512, 4096, 1 << 20])
@pytest.mark.parametrize('cluster_size', [4096, 2 * MIB])
def test_granularity(server, images, source, granularity, cluster_size, mode):
    path = add_target(server, images, cluster_size=cluster_size)
    source.start()
    job = is_ready(start_mirror(server, 'src', 'dst', copy_mode=mode,
                                granularity=granularity))
    source.wait_writes(30)
    complete(job)
    source.stop()
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


@pytest.mark.parametrize('size', [SIZE // 2, SIZE * 2])
def test_target_of_another_size(server, images, source, size):
    add_target(server, images, size=size)
    job = start_mirror(server, 'src', 'dst')
    assert job.error() == 'Source and target image have different sizes'
    assert job.take() == ['created', 'running'] + FAILS
    source.random_writes(5)
    source.verify()
    server.qmp('blockdev-del', node_name='dst')


def test_fresh_target_stays_sparse(server, images, source):
    """What the source does not have takes no room on the target."""
    source.zero(0, SIZE)
    source.trim(0, SIZE)
    source.fill(MIB, MIB, 1)
    path = add_target(server, images, fmt='raw')
    job = is_ready(start_mirror(server, 'src', 'dst'))
    complete(job)
    server.unexport('src', mode='hard')
    server.qmp('blockdev-del', node_name='dst')
    data = [e for e in images.map(path) if e['data']]
    assert sum(e['length'] for e in data) == MIB


def test_target_with_old_data(server, images, source):
    """Where the source reads as zeroes the target must do so, too."""
    source.zero(0, SIZE)
    source.fill(MIB, MIB, 1)
    path = images.create('dst.qcow2', SIZE)
    images.io(path, f'write -P 77 0 {SIZE}')
    server.add_node('dst', path)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    assert job.events['BLOCK_JOB_READY']['len'] == SIZE
    complete(job)
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


# Write-blocking

def test_write_blocking_is_on_both_sides(server, images, source):
    """What the guest was told is done is on the target when the server is
    killed."""
    path = add_target(server, images, fmt='raw')
    job = is_ready(start_mirror(server, 'src', 'dst',
                                copy_mode='write-blocking'))
    source.random_writes(100)
    source.fill(5 * MIB + 512, 3 * MIB, 0x42)
    source.zero(6 * MIB + 512, MIB)
    frozen = source.freeze()
    server.kill()
    images.allow_leaks(images.path('src.qcow2'))
    same_bytes(images.content(path), frozen)
    assert job


def test_write_blocking_with_more_guests(server, images, guest_on, source):
    """Several at once, over each other: both sides end up the same."""
    path = add_target(server, images)
    others = [guest_on(server, 'src', seed=seed) for seed in range(2, 5)]

    def scribble(guest):
        for number in range(150):
            at = (number * 13 + guest.random.randrange(4)) % 64 * 1024
            guest.nbd.write(at, bytes([guest.random.randrange(256)]) * 3072)

    threads = [threading.Thread(target=scribble, args=(guest,))
               for guest in others]
    for thread in threads:
        thread.start()
    job = is_ready(start_mirror(server, 'src', 'dst',
                                copy_mode='write-blocking'))
    for thread in threads:
        thread.join()
    disk = source.read_all()
    server.qmp('block-job-cancel', device=job.id)
    job.wait('concluded')
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), disk)


def test_write_blocking_converges_under_load(server, images, guest_on,
                                             source):
    """The background copy gets on although guests never stop."""
    source.fill(0, SIZE, 1)
    path = add_target(server, images)
    guests = [source] + [guest_on(server, 'src', seed=7)]
    halves = [(0, SIZE // 2), (SIZE // 2, SIZE // 2)]
    stop = threading.Event()

    def load(guest, offset, length):
        step = 0
        while not stop.is_set():
            at = offset + step * 65536 % length
            guest.nbd.write(at, bytes([step % 251 + 1]) * 65536)
            step += 1

    threads = [threading.Thread(target=load, args=(guest, *half))
               for guest, half in zip(guests, halves)]
    for thread in threads:
        thread.start()
    try:
        job = start_mirror(server, 'src', 'dst', copy_mode='write-blocking',
                           granularity=65536)
        is_ready(job)
        complete(job)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    disk = source.read_all()
    same_bytes(content(server, images, path), disk)


@pytest.mark.ours('QEMU 7.2 has no block-job-change')
@pytest.mark.parametrize('when', ['running', 'ready'])
def test_change_to_write_blocking(server, images, source, when):
    source.fill(0, SIZE, 3)
    path = add_target(server, images)
    job = start_mirror(server, 'src', 'dst', speed=MIB, buf_size=65536)
    if when == 'ready':
        job.set_speed(0)
        is_ready(job)
    assert job.block_info()['actively-synced'] is False
    source.start()
    source.wait_writes(10)
    for _ in range(2):
        server.qmp('block-job-change', {'id': job.id, 'type': 'mirror',
                                        'copy-mode': 'write-blocking'})
    server.fails('block-job-change', {'id': job.id, 'type': 'mirror',
                                      'copy-mode': 'background'})
    if when == 'running':
        job.set_speed(0)
        is_ready(job)
    source.wait_writes(20)
    source.stop()
    deadline = time.monotonic() + 10 * SCALE
    while not job.block_info()['actively-synced']:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    source.random_writes(20)
    assert job.block_info()['actively-synced']
    complete(job)
    same_bytes(content(server, images, path), source.freeze())


# The end

@pytest.mark.ours('with QEMU guests wait until the job is finalized')
@pytest.mark.parametrize('mode', MODES)
def test_pending_guests_go_on(server, images, source, mode):
    """What they write until job-finalize is on the target, too."""
    path = add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst', auto_finalize=False,
                                copy_mode=mode))
    server.qmp('job-complete', id=job.id)
    job.wait('BLOCK_JOB_PENDING')
    source.start()
    source.wait_writes(100)
    server.qmp('job-finalize', id=job.id)
    job.wait('concluded')
    source.wait_writes(20)
    source.stop()
    source.verify()
    same_bytes(content(server, images, path), source.freeze())


def test_cancel_while_pending(server, images, source):
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst', auto_finalize=False))
    job.take()
    server.qmp('job-complete', id=job.id)
    job.wait('BLOCK_JOB_PENDING')
    assert job.take() == ['waiting', 'pending', 'BLOCK_JOB_PENDING']
    job.cancel()
    job.wait('concluded')
    assert job.take() == CANCELLED
    source.random_writes(5)
    source.verify()
    server.qmp('blockdev-del', node_name='dst')


def test_auto_dismiss(server, images, source):
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst', auto_dismiss=True))
    server.qmp('job-complete', id=job.id)
    job.wait('null')
    assert server.qmp('query-jobs') == []
    source.verify()


def test_quit_while_ready(server, images, source):
    """The source stays the disk; nothing is lost."""
    add_target(server, images)
    is_ready(start_mirror(server, 'src', 'dst'))
    source.random_writes(20)
    frozen = source.freeze()
    source.close()
    server.quit()
    server.wait_exit()
    same_bytes(images.content(images.path('src.qcow2')), frozen)


# Who may do what meanwhile

def test_named_filter(server, images, source):
    add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst', auto_finalize=False,
                                filter_node_name='top'))
    nodes = server.nodes()
    assert nodes['top']['drv'] == 'mirror_top'
    assert nodes['top']['file'] == nodes['src']['file']
    graph = server.qmp('x-debug-query-block-graph')
    ids = {n['name']: n['id'] for n in graph['nodes']}
    assert ('backing', ids['src']) in [
        (e['name'], e['child']) for e in graph['edges']
        if e['parent'] == ids['top']]
    server.fails('blockdev-mirror',
                 {'job-id': 'again', 'device': 'top', 'target': 'dst',
                  'sync': 'full'})
    job.cancel()
    job.wait('concluded')
    assert 'top' not in server.nodes()
    assert job.info()['status'] == 'concluded'


def test_refusals_meanwhile(server, images, source):
    add_target(server, images)
    add_target(server, images, 'third')
    job = is_ready(start_mirror(server, 'src', 'dst'))
    busy = "Node 'dst' is busy: block device is in use by block job: mirror"
    server.fails('blockdev-mirror', {'job-id': 'b', 'device': 'third',
                                     'target': 'dst', 'sync': 'full'},
                 desc=busy)
    server.fails('blockdev-backup', {'job-id': 'b', 'device': 'third',
                                     'target': 'dst', 'sync': 'full'})
    for node in ('src', 'dst'):
        server.fails('block_resize', node_name=node, size=2 * SIZE)
        server.fails('blockdev-del', node_name=node)
    server.fails('block-export-add', {'type': 'nbd', 'id': 'e',
                                      'node-name': 'dst'})
    source.random_writes(10)
    complete(job)
    source.verify()


def test_target_in_use(server, images, source):
    """Nothing is left of a mirror that could not start."""
    add_target(server, images)
    server.export('dst')
    before = server.graph()
    with pytest.raises(QmpError) as failed:
        start_mirror(server, 'src', 'dst')
    assert 'Permission conflict on node' in failed.value.desc
    assert server.graph() == before
    server.fails('blockdev-mirror', {'job-id': 'm', 'device': 'src',
                                     'target': 'src', 'sync': 'full'},
                 desc="Can't mirror node into itself")
    source.random_writes(5)
    source.verify()


def test_bitmaps_of_both_sides(server, images, source):
    """The target's records what the mirror writes; the source's goes on
    recording what the guest writes."""
    source.zero(0, SIZE)
    source.fill(0, 2 * MIB, 1)
    add_target(server, images)
    for node in ('src', 'dst'):
        server.qmp('block-dirty-bitmap-add', node=node, name='b')
    job = is_ready(start_mirror(server, 'src', 'dst'))
    source.write(4 * MIB, b'x')
    complete(job)

    def count(node):
        return server.nodes()[node]['dirty-bitmaps'][0]['count']

    assert count('src') == 65536
    assert count('dst') >= 2 * MIB + 65536
    before = count('dst')
    source.write(9 * MIB, b'x')
    assert count('src') == 65536
    assert count('dst') in (before, before + 65536)


def test_guest_reconnects(server, images, source, guest_on):
    """A client that comes during the job, and one that goes."""
    path = add_target(server, images)
    job = is_ready(start_mirror(server, 'src', 'dst'))
    source.random_writes(10)
    model = source.freeze()
    source.close()
    again = guest_on(server, 'src', seed=9)
    same_bytes(again.freeze(), model)
    again.random_writes(10)
    complete(job)
    again.random_writes(10)
    again.verify()
    same_bytes(content(server, images, path), again.freeze())


@pytest.mark.parametrize('mode', MODES)
def test_at_random(server, images, source, mode, seed):
    """A busy guest; pauses, speeds, then one of the ends."""
    source.random.seed(seed)
    path = add_target(server, images, fmt=source.random.choice(
        ['qcow2', 'raw']))
    source.start()
    job = start_mirror(server, 'src', 'dst', copy_mode=mode,
                       speed=8 * MIB, granularity=4096 << seed % 5)
    for speed in (4 * MIB, 32 * MIB, 0):
        try:
            job.set_speed(speed)
            server.qmp('job-pause', id=job.id)
            source.wait_writes(5)
            server.qmp('job-resume', id=job.id)
        except (QmpError, NbdError) as exc:
            raise AssertionError(f'{exc}') from exc
        source.wait_writes(5)
    is_ready(job)
    source.wait_writes(10)
    complete(job)
    source.wait_writes(10)
    source.stop()
    source.verify()
    same_bytes(content(server, images, path), source.freeze())
