# SPDX-License-Identifier: MIT
"""Backups that go wrong: error policies, cancels at bad moments, refusals.

The first part of it is in test_backup.py.
"""

import threading
import time

import pytest

from .faults import damaged_source
from .images import qemu_img, same_bytes
from .jobs import (BACKUP_STARTS, Job, backup_arguments, start_backup)
from .nbd import CMD_BLOCK_STATUS, CMD_READ, NbdClient, NbdError
from .nbd_server import FakeServer
from .qmp import SCALE

MIB = 1 << 20
SIZE = 4 * MIB
EIO, ENOSPC = 5, 28


# A source that does not answer

@pytest.fixture
def fake(server):
    """A server with an empty disk that can misbehave."""
    one = FakeServer(server.path('fake.sock'), size=SIZE)
    one.answer = threading.Event()
    one.extents = lambda offset, length: [(length, 0)]
    yield one
    one.answer.set()
    one.stop()


def hang(fake, *kinds):
    """Requests of these kinds are answered when fake.answer is set."""
    def behave(kind, offset, length):
        if kind in kinds:
            fake.answer.wait()
    fake.behave = behave


def add_far(server, fake, **options):
    server.qmp('blockdev-add', dict(
        {'driver': 'nbd', 'node-name': 'far', 'export': 'disk',
         'server': {'type': 'unix', 'path': fake.path}},
        **{k.replace('_', '-'): v for k, v in options.items()}))


def cancelled_soon(server, job, command='job-cancel', **arguments):
    begun = time.monotonic()
    server.qmp(command, arguments or {'id': job.id})
    job.wait('concluded')
    assert time.monotonic() - begun < 2 * SCALE
    assert job.steps[-3:] == ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded']
    job.dismiss()


@pytest.mark.ours('QEMU waits for the answer')
@pytest.mark.parametrize('kind', [CMD_READ, CMD_BLOCK_STATUS])
@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
@pytest.mark.parametrize('driver', ['nbd', 'raw', 'qcow2'])
def test_hung_source(server, fake, images, driver, sync, kind):
    """A cancel does not wait for it; when the answer comes at last, what is
    asked then gets its own."""
    add_far(server, fake)
    source = 'far'
    if driver == 'qcow2':
        path = images.create('far.qcow2', 2 * MIB)
        images.io(path, 'write -P 3 0 1M')
        with open(path, 'rb') as file:
            data = file.read()
        fake.disk[:len(data)] = data
    if driver != 'nbd':
        server.qmp('blockdev-add', driver=driver, node_name='src', file='far')
        source = 'src'
    size = 2 * MIB if driver == 'qcow2' else SIZE
    server.add_node('dst', images.create('dst.qcow2', size))
    hang(fake, kind)
    job = start_backup(server, source, 'dst', sync=sync)
    job.wait('running')
    if sync != 'none':
        while kind not in [request[0] for request in fake.requests]:
            time.sleep(0.01)
    cancelled_soon(server, job)
    server.export(source, name='disk', writable=False)
    fake.behave = lambda kind, offset, length: None
    reader = NbdClient.connect(server.nbd_path, 'disk')
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(reader.read(0, MIB)))
    thread.start()
    fake.disk[SIZE - 512:] = b'e' * 512
    fake.answer.set()
    thread.join(10)
    expected = b'\3' * MIB if driver == 'qcow2' else bytes(MIB)
    same_bytes(answers[0], expected)
    reader.disconnect()
    server.unexport('disk')
    if driver != 'nbd':
        server.qmp('blockdev-del', node_name='src')
    server.qmp('blockdev-del', node_name='far')


@pytest.mark.ours('QEMU waits for the answer')
def test_hung_source_goes(server, fake, images):
    """Its node can be deleted although the answer never comes."""
    add_far(server, fake)
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    hang(fake, CMD_READ)
    job = start_backup(server, 'far', 'dst')
    while CMD_READ not in [r[0] for r in fake.requests]:
        time.sleep(0.01)
    cancelled_soon(server, job, 'block-job-cancel', device='backup',
                   force=True)
    begun = time.monotonic()
    server.qmp('blockdev-del', node_name='far')
    assert time.monotonic() - begun < 2 * SCALE
    server.qmp('blockdev-del', node_name='dst')


@pytest.mark.ours('QEMU waits for the answer')
def test_cancel_leaves_the_guest_alone(server, fake, images):
    """Its own read of the hung disk waits on, and is answered."""
    fake.disk[:] = b'd' * SIZE
    add_far(server, fake)
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    server.export('far', name='disk', writable=False)
    guest = NbdClient.connect(server.nbd_path, 'disk')
    assert guest.read(0, 512) == b'd' * 512
    hang(fake, CMD_READ)
    job = start_backup(server, 'far', 'dst')
    while CMD_READ not in [r[0] for r in fake.requests[1:]]:
        time.sleep(0.01)
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(guest.read(MIB, 512)))
    thread.start()
    time.sleep(0.1)
    server.qmp('job-cancel', id='backup')
    time.sleep(0.5)
    assert not answers
    fake.answer.set()
    thread.join(10)
    assert answers == [b'd' * 512]
    job.wait('BLOCK_JOB_CANCELLED').wait('concluded')
    job.dismiss()
    assert guest.read(0, SIZE) == b'd' * SIZE
    guest.disconnect()


@pytest.mark.ours('QEMU waits for the reconnect')
def test_source_gone(server, fake, images):
    """It has a hundred seconds to come back; a cancel does not wait."""
    add_far(server, fake, reconnect_delay=100)
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(server, 'far', 'dst', speed=65536)
    job.wait('running')
    fake.go_away()
    job.set_speed(0)
    time.sleep(0.5)
    cancelled_soon(server, job)


@pytest.mark.ours('QEMU waits for the answer')
@pytest.mark.parametrize('how', ['quit', 'sigterm'])
def test_hung_source_and_quit(server, fake, images, how):
    add_far(server, fake)
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    hang(fake, CMD_READ)
    start_backup(server, 'far', 'dst')
    while CMD_READ not in [r[0] for r in fake.requests]:
        time.sleep(0.01)
    begun = time.monotonic()
    if how == 'quit':
        server.quit()
    else:
        server.stop()
    assert time.monotonic() - begun < 5 * SCALE


# Policies

@pytest.fixture
def full_target(server, images, small_disk):
    """'src' of data, 'dst' on a disk without room."""
    disk = small_disk(24 * MIB)
    disk.target = disk.path('dst.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', disk.target, str(SIZE))
    disk.fill()
    path = images.create('src.qcow2', SIZE)
    images.io(path, f'write -P 1 0 {SIZE}')
    server.add_node('src', path)
    server.add_node('dst', disk.target)
    yield disk
    server.stop()
    images.adopt(disk.target)
    images.check(disk.target, leaks_allowed=True)
    images.ignore(disk.target)


def test_auto_stops_for_room(server, images, full_target):
    """auto is enospc: this one can be mended ..."""
    job = start_backup(server, 'src', 'dst', on_target_error='auto',
                       on_source_error='auto')
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'write', 'action': 'stop'}
    assert job.block_info()['io-status'] == 'nospace'
    full_target.make_room()
    server.qmp('job-resume', id='backup')
    job.finish()
    server.stop()
    images.identical(images.path('src.qcow2'), full_target.target,
                     fmt_b='qcow2')


def test_auto_reports_the_rest(server, images):
    """... this one not."""
    damaged = damaged_source(images)
    server.add_node('src', damaged.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst', on_target_error='auto',
                       on_source_error='auto')
    assert job.error() == 'Input/output error'
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'read', 'action': 'report'}
    job.dismiss()
    damaged.repair()


def test_cancel_while_stopped_for_room(server, full_target):
    job = start_backup(server, 'src', 'dst', on_target_error='stop')
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.steps == ['running', 'aborting', 'BLOCK_JOB_CANCELLED',
                         'concluded']
    job.dismiss()


def test_pause_while_stopped_by_error(server, full_target):
    """An error's pause is a user's pause."""
    job = start_backup(server, 'src', 'dst', on_target_error='stop')
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    server.fails('job-pause', id='backup', desc='Job is already paused')
    full_target.make_room()
    server.qmp('job-resume', id='backup')
    job.finish()


def test_guest_write_that_cannot_be_kept(server, full_target):
    """sync=none with break-guest-write: the write fails and does nothing,
    the job goes on."""
    server.export('src')
    guest = NbdClient.connect(server.nbd_path, 'src')
    job = start_backup(server, 'src', 'dst', sync='none')
    with pytest.raises(NbdError) as error:
        guest.write(MIB + 100, b'new')
    assert error.value.errno == ENOSPC
    assert guest.read(MIB, 512) == b'\1' * 512
    assert job.status() == 'running'
    full_target.make_room()
    guest.write(MIB + 100, b'new')
    assert guest.read(MIB + 99, 5) == b'\1new\1'
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    guest.disconnect()


def test_guest_write_into_what_cannot_be_read(server, images):
    """The error is the guest's, with sync=none it is no error of the job."""
    damaged = damaged_source(images)
    server.add_node('src', damaged.path)
    server.export('src')
    guest = NbdClient.connect(server.nbd_path, 'src')
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst', sync='none')
    with pytest.raises(NbdError) as error:
        guest.write(MIB, b'x' * 65536)
    assert error.value.errno == EIO
    assert job.status() == 'running'
    guest.write(2 * MIB, b'x' * 65536)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    guest.disconnect()
    damaged.repair()


# The way it starts and ends

def test_starts_paused_and_running(server, images):
    """The filter is put in while everything holds still."""
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    server.qmp('blockdev-backup', backup_arguments('src', 'dst',
                                                   auto_dismiss=False))
    job = Job(server, 'backup')
    job.wait('concluded')
    assert job.steps == BACKUP_STARTS + ['waiting', 'pending',
                                         'BLOCK_JOB_COMPLETED', 'concluded']
    job.dismiss()


def test_filter_goes_when_finalized(server, images):
    """Not when the job is pending, and not as late as its dismissal."""
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(server, 'src', 'dst', filter_node_name='flt',
                       auto_finalize=False)
    job.wait('pending')
    assert 'flt' in server.nodes()
    server.fails('blockdev-del', node_name='flt')
    server.qmp('job-finalize', id='backup')
    job.wait('concluded')
    assert 'flt' not in server.nodes()
    job.dismiss()


def test_name_of_the_filter_refused(server, images):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    for name, text in (('src', "Duplicate nodes with node-name='src'"),
                       ('1', "Invalid node-name: '1'"),
                       ('', "Invalid node-name: ''")):
        server.fails('blockdev-backup', backup_arguments(
            'src', 'dst', filter_node_name=name),
            'Could not create node: ' + text)
    assert set(server.nodes()) >= {'src', 'dst'}
    assert server.qmp('query-jobs') == []


def test_writer_below_the_filter(server, images):
    """Somebody writes the source past the node that is backed up."""
    server.qmp('blockdev-add', driver='null-co', node_name='base', size=SIZE)
    server.qmp('blockdev-add', driver='blkdebug', node_name='src',
               image='base')
    server.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'other', 'image': 'base',
        'take-child-perms': ['write']})
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    server.fails('blockdev-backup', backup_arguments('src', 'dst'), (
        "Permission conflict on node 'base': "
        "permissions 'write' are both required by node 'other' (uses node "
        "'base' as 'image' child) and unshared by node 'src' (uses node "
        "'base' as 'image' child)."))
    assert server.qmp('query-jobs') == []
    assert not [n for n in server.nodes().values()
                if n['drv'] == 'copy-before-write']


@pytest.mark.parametrize('size', [SIZE - 512, SIZE + 512])
def test_sizes_differ(server, images, size):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', size))
    server.fails('blockdev-backup', backup_arguments('src', 'dst'),
                 'Source and target image have different sizes')
    assert server.qmp('query-jobs') == []


def test_read_only_target(server, images):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', SIZE), read_only=True)
    server.fails('blockdev-backup', backup_arguments('src', 'dst'),
                 'Could not create node: Block node is read-only')
    assert server.qmp('query-jobs') == []


def test_nobody_resizes_meanwhile(server, images):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(server, 'src', 'dst', sync='none')
    for name in ('src', 'dst'):
        server.fails('block_resize', node_name=name, size=2 * SIZE)
        server.fails('blockdev-del', node_name=name)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    server.qmp('block_resize', node_name='src', size=2 * SIZE)


def test_failed_transaction_leaves_nothing(server, images):
    """The second of two fails to start: no job, no filter, no bitmap in
    use."""
    for name in ('a', 'b'):
        server.add_node(name, images.create(f'{name}.qcow2', SIZE))
        server.qmp('block-dirty-bitmap-add', node=name, name='bm')
    server.add_node('ta', images.create('ta.qcow2', SIZE))
    server.add_node('tb', images.create('tb.qcow2', 2 * SIZE))
    server.fails('transaction', {'actions': [
        {'type': 'blockdev-backup', 'data': backup_arguments(
            name, 't' + name, job_id='j' + name, sync='incremental',
            bitmap='bm')} for name in ('a', 'b')]},
        'Source and target image have different sizes')
    assert server.qmp('query-jobs') == []
    assert set(server.nodes()) & {'a', 'b', 'ta', 'tb'} == \
        {'a', 'b', 'ta', 'tb'}
    for name in ('a', 'b'):
        bitmap, = server.nodes()[name]['dirty-bitmaps']
        assert not bitmap['busy'] and bitmap['name'] == 'bm'
    for name in ('ta', 'a', 'tb', 'b'):
        server.qmp('blockdev-del', node_name=name)


# A backup that fails half-way, and its bitmap

@pytest.mark.parametrize('sync,mode,count,length,offset', [
    ('full', 'always', 1009, 1024, 15), ('full', 'on-success', 6, 1024, 15),
    ('top', 'always', 6, 7, 1), ('bitmap', 'always', 5, 6, 1),
    ('bitmap', 'on-success', 6, 6, 1), ('bitmap', 'never', 6, 6, 1)])
def test_fails_half_way(server, images, sync, mode, count, length, offset):
    """The second read fails.  What was copied before it is known to be on
    the target; `length`, `offset` and `count` in clusters."""
    path = images.create('src.qcow2', '64M')
    for at in (0, 1 * MIB, 32 * MIB, 64 * MIB - 65536):
        images.io(path, f'write -P 1 {at} 64k')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'src', 'file': {
            'driver': 'blkdebug', 'image': {'driver': 'file',
                                            'filename': path},
            'set-state': [
                {'event': 'flush_to_disk', 'state': 1, 'new_state': 2},
                {'event': 'read_aio', 'state': 2, 'new_state': 3}],
            'inject-error': [
                {'event': 'read_aio', 'errno': EIO, 'state': 3,
                 'immediately': False, 'once': True}]}})
    server.add_node('dst', images.create('dst.qcow2', '64M'))
    server.qmp('block-dirty-bitmap-add', node='src', name='b')
    server.export('src')
    guest = NbdClient.connect(server.nbd_path, 'src')
    for at in (0, 0xf8000, 0x2008000, 0x3fe0000):
        guest.write(at, b'new.' * (65536 // 4))
    guest.flush()
    job = start_backup(server, 'src', 'dst', sync=sync, bitmap='b',
                       bitmap_mode=mode, x_perf={'max-workers': 1})
    assert job.error() == 'Input/output error'
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'read', 'action': 'report'}
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (length * 65536, offset * 65536)
    bitmap, = server.nodes()['src']['dirty-bitmaps']
    assert bitmap['count'] == count * 65536
    job.dismiss()
    # What is left is enough to have it whole.
    if mode == 'always' or sync == 'bitmap':
        start_backup(server, 'src', 'dst', sync='incremental',
                     bitmap='b').finish()
    guest.disconnect()
    server.stop()
    if mode == 'always' and sync == 'full':
        images.identical(path, images.path('dst.qcow2'))
