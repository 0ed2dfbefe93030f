# SPDX-License-Identifier: MIT
"""Mirrors that go wrong: error policies, targets that hang, bad ends."""

import threading
import time

import pytest

from .images import same_bytes
from .jobs import CANCELLED, FAILS, SUCCEEDS, start_mirror
from .nbd import CMD_BLOCK_STATUS, CMD_FLUSH, CMD_WRITE, CMD_WRITE_ZEROES
from .nbd_server import FakeServer
from .qmp import SCALE

MIB = 1 << 20
SIZE = 4 * MIB
EIO, ENOSPC = 5, 28
ERROR_TEXT = {EIO: 'Input/output error', ENOSPC: 'No space left on device'}


def add_failing(server, images, name, rules, fill=None):
    """A raw node with errors to come."""
    path = images.create(f'{name}.raw', SIZE, fmt='raw')
    if fill is not None:
        images.io(path, f'write -P {fill} 0 {SIZE}')
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': name,
        'file': {'driver': 'blkdebug', 'inject-error': rules,
                 'image': {'driver': 'file', 'filename': path}}})
    return path


def rule(event, errno=EIO, once=True, sector=None):
    rule = {'event': event, 'errno': errno, 'once': once}
    if sector is not None:
        rule['sector'] = sector
    return rule


def complete(job):
    job.server.qmp('block-job-complete', device=job.id)
    return job.wait('concluded')


def finished(server, images, path, guest):
    """The job has ended well, and the target is what the guest has."""
    guest.verify()
    server.unexport('src', mode='hard')
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), guest.freeze())


@pytest.fixture
def source(server, images, guest_on):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.export('src')
    guest = guest_on(server, 'src')
    guest.fill(0, SIZE, 0x11)
    return guest


# Policies

# (policy, errno) -> what is done
ACTIONS = [('report', EIO, 'report'), ('report', ENOSPC, 'report'),
           ('ignore', EIO, 'ignore'), ('stop', EIO, 'stop'),
           ('stop', ENOSPC, 'stop'), ('enospc', EIO, 'report'),
           ('enospc', ENOSPC, 'stop'), ('auto', EIO, 'report')]


def follow_error(server, job, action, errno, operation, ready=False):
    """From the error to where the job goes on, or has failed."""
    job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': job.id, 'operation': operation, 'action': action}
    if action == 'report':
        assert job.error() == ERROR_TEXT[errno]
        assert job.steps[-3:] == FAILS
    elif action == 'stop':
        job.wait('standby' if ready else 'paused')
        info = job.block_info()
        assert info['io-status'] == ('nospace' if errno == ENOSPC
                                     else 'failed')
        server.qmp('block-job-resume', device=job.id)
        assert job.block_info()['io-status'] == 'ok'


@pytest.mark.parametrize('policy, errno, action', ACTIONS)
def test_target_error(server, images, source, policy, errno, action):
    path = add_failing(server, images, 'dst',
                       [rule('write_aio', errno, sector=2048)])
    job = start_mirror(server, 'src', 'dst', on_target_error=policy)
    follow_error(server, job, action, errno, 'write')
    if action == 'report':
        source.random_writes(10)
        source.verify()
        return
    job.wait('BLOCK_JOB_READY')
    source.random_writes(10)
    complete(job)
    assert job.steps[-4:] == SUCCEEDS
    finished(server, images, path, source)


@pytest.mark.parametrize('policy, errno, action', ACTIONS)
def test_source_error(server, images, guest_on, policy, errno, action):
    add_failing(server, images, 'src',
                [rule('read_aio', errno, sector=4096)], fill=3)
    server.export('src')
    path = images.create('dst.qcow2', SIZE)
    server.add_node('dst', path)
    job = start_mirror(server, 'src', 'dst', on_source_error=policy)
    follow_error(server, job, action, errno, 'read')
    if action == 'report':
        return
    job.wait('BLOCK_JOB_READY')
    guest = guest_on(server, 'src')
    guest.random_writes(10)
    complete(job)
    finished(server, images, path, guest)


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
@pytest.mark.parametrize('policy, errno', [('report', EIO), ('enospc', EIO),
                                           ('report', ENOSPC)])
def test_target_error_when_ready(server, images, source, policy, errno,
                                 mode):
    """A guest's write that does not reach the target: the guest does not
    notice, the job ends."""
    add_failing(server, images, 'dst', [
        rule('write_aio', errno, once=False, sector=2048)], fill=0x11)
    job = start_mirror(server, 'src', 'dst', sync='none', copy_mode=mode,
                       on_target_error=policy)
    job.wait('BLOCK_JOB_READY')
    source.write(MIB - 512, b'n' * 2048)
    follow_error(server, job, 'report', errno, 'write', True)
    source.random_writes(10)
    source.verify()


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_resume_when_ready(server, images, source, mode):
    """Stopped when ready: standby, and tried again when resumed."""
    path = add_failing(server, images, 'dst',
                       [rule('write_aio', ENOSPC, sector=2048)], fill=0x11)
    job = start_mirror(server, 'src', 'dst', sync='none', copy_mode=mode,
                       on_target_error='stop')
    job.wait('BLOCK_JOB_READY')
    source.write(MIB, b'n' * 512)
    follow_error(server, job, 'stop', ENOSPC, 'write', True)
    job.wait('ready')
    source.random_writes(10)
    complete(job)
    finished(server, images, path, source)


@pytest.mark.parametrize('force', [False, True])
def test_cancel_when_ready_meets_an_error(server, images, source, force):
    """A soft cancel copies what is left; an error then stops it as the
    policy says, and a resume lets it end."""
    path = add_failing(server, images, 'dst',
                       [rule('write_aio', ENOSPC, sector=2048)], fill=0x11)
    job = start_mirror(server, 'src', 'dst', sync='none',
                       on_target_error='stop')
    job.wait('BLOCK_JOB_READY')
    source.write(MIB, b'n' * 512)
    server.qmp('block-job-cancel', device=job.id)
    job.wait('BLOCK_JOB_ERROR')
    job.wait('standby')
    job.take()
    if force:
        server.qmp('block-job-cancel', device=job.id, force=True)
        job.wait('concluded')
        assert job.take()[-3:] == CANCELLED
        return
    server.qmp('job-resume', id=job.id)
    job.wait('concluded')
    assert job.take()[-4:] == SUCCEEDS
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())


@pytest.mark.parametrize('policy, action', [('report', 'report'),
                                            ('stop', 'stop'),
                                            ('ignore', 'ignore')])
def test_flush_error(server, images, source, policy, action):
    """What is not on the disk is not ready."""
    path = add_failing(server, images, 'dst', [rule('flush_to_disk')])
    job = start_mirror(server, 'src', 'dst', on_target_error=policy)
    follow_error(server, job, action, EIO, 'write')
    if action != 'report':
        job.wait('BLOCK_JOB_READY')
        complete(job)
        finished(server, images, path, source)


def test_full_disk(server, images, small_disk, source):
    """A real one: enospc stops; with room again the job goes on."""
    disk = small_disk(2 * MIB)
    path = disk.path('dst.qcow2')
    images.create(path, SIZE)
    server.add_node('dst', path)
    job = start_mirror(server, 'src', 'dst', on_target_error='enospc')
    job.wait('BLOCK_JOB_ERROR')
    job.wait('paused')
    assert job.block_info()['io-status'] == 'nospace'
    disk.remount(f'size={8 * MIB}')
    server.qmp('job-resume', id=job.id)
    job.wait('BLOCK_JOB_READY')
    complete(job)
    source.verify()
    server.unexport('src', mode='hard')
    server.qmp('blockdev-del', node_name='dst')
    assert images.identical(path, images.write_raw('model', source.freeze()))
    images.ignore(path)         # its file system goes before the check


# A target that does not answer

@pytest.fixture
def fake(server):
    """A server with an empty disk that can misbehave, as node 'far'."""
    one = FakeServer(server.path('fake.sock'), size=SIZE)
    one.answer = threading.Event()
    one.extents = lambda offset, length: [(length, 0)]
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'far', 'export': 'disk',
        'server': {'type': 'unix', 'path': one.path}})
    yield one
    one.answer.set()
    one.stop()


def hang(fake, *kinds):
    def behave(kind, offset, length):
        if kind in kinds:
            fake.answer.wait()
    fake.behave = behave


def wait_request(fake, *kinds):
    deadline = time.monotonic() + 10 * SCALE
    while not {request[0] for request in fake.requests} & set(kinds):
        assert time.monotonic() < deadline, 'no such request'
        time.sleep(0.01)


def cancelled_soon(server, job):
    begun = time.monotonic()
    server.qmp('block-job-cancel', device=job.id, force=True)
    job.wait('concluded')
    assert time.monotonic() - begun < 3 * SCALE
    assert job.steps[-3:] == CANCELLED


@pytest.mark.ours('QEMU waits for the answer')
@pytest.mark.parametrize('kind', [CMD_WRITE, CMD_BLOCK_STATUS, CMD_FLUSH])
def test_hung_target(server, source, fake, kind):
    if kind == CMD_BLOCK_STATUS:
        source.zero(0, SIZE)
    hang(fake, kind)
    job = start_mirror(server, 'src', 'far')
    wait_request(fake, kind)
    cancelled_soon(server, job)
    source.random_writes(5)
    source.verify()


@pytest.mark.ours('QEMU waits for the answer')
@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_hung_target_when_ready(server, source, fake, mode):
    """A guest that waits for the target in write-blocking mode is let go:
    its write is done."""
    job = start_mirror(server, 'src', 'far', copy_mode=mode)
    job.wait('BLOCK_JOB_READY')
    fake.requests.clear()
    hang(fake, CMD_WRITE, CMD_WRITE_ZEROES)
    source.start()
    wait_request(fake, CMD_WRITE, CMD_WRITE_ZEROES)
    cancelled_soon(server, job)
    source.wait_writes(10)
    source.stop()
    source.verify()


@pytest.mark.ours('QEMU waits for the answer')
def test_quit_with_hung_target(server, source, fake):
    hang(fake, CMD_WRITE)
    start_mirror(server, 'src', 'far')
    wait_request(fake, CMD_WRITE)
    source.close()
    begun = time.monotonic()
    server.quit()
    server.wait_exit()
    assert time.monotonic() - begun < 5 * SCALE


@pytest.mark.ours('QEMU waits for the answer')
def test_target_hangs_at_the_end(server, source, fake):
    """It hangs when the job is to complete; a forced cancel still ends it,
    and the guest goes on at the source."""
    job = start_mirror(server, 'src', 'far')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-pause', id=job.id)
    job.wait('standby')
    source.write(0, b'n' * 512)
    hang(fake, CMD_WRITE)
    server.qmp('job-complete', id=job.id)
    server.qmp('job-resume', id=job.id)
    wait_request(fake, CMD_WRITE)
    cancelled_soon(server, job)
    source.random_writes(5)
    source.verify()


def test_target_is_lost(server, source, fake):
    """The connection ends: an error as any other."""
    job = start_mirror(server, 'src', 'far', on_target_error='stop')
    job.wait('BLOCK_JOB_READY')
    fake.go_away()
    source.write(0, b'n' * 512)
    job.wait('BLOCK_JOB_ERROR')
    job.wait('standby')
    job.cancel()
    job.wait('concluded')
    source.random_writes(5)
    source.verify()


@pytest.mark.parametrize('mode', ['background', 'write-blocking'])
def test_lost_target_with_reconnect(server, source, mode):
    """A forced cancel does not wait for the connection to come back."""
    one = FakeServer(server.path('fake.sock'), size=SIZE)
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'far', 'export': 'disk',
        'reconnect-delay': 30,
        'server': {'type': 'unix', 'path': one.path}})
    job = start_mirror(server, 'src', 'far', copy_mode=mode)
    job.wait('BLOCK_JOB_READY')
    one.go_away()
    source.start()
    time.sleep(0.2)             # it need not be under way for the rest
    begun = time.monotonic()
    job.cancel()
    job.wait('concluded')
    assert time.monotonic() - begun < 5 * SCALE
    source.wait_writes(5)
    source.stop()
    source.verify()


# Bad ends

@pytest.mark.ours('QEMU 7.2 aborts')
def test_pivot_is_refused(server, images, source):
    """Users of the disk who do not get on with the target's: the job
    fails, and the graph is as before."""
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_mirror(server, 'src', 'dst', filter_node_name='top')
    job.wait('BLOCK_JOB_READY')
    server.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'taker', 'image': 'dst',
        'take-child-perms': ['write-unchanged']})
    server.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'keeper', 'image': 'top',
        'unshare-child-perms': ['write-unchanged']})
    complete(job)
    assert job.info()['error'] == 'Operation not permitted'
    assert 'top' not in server.nodes()
    assert {'src', 'dst', 'taker', 'keeper'} <= set(server.nodes())
    source.random_writes(10)
    source.verify()
    server.fails('blockdev-del', node_name='src')
    assert "Permission conflict on node 'dst'" in server.stderr()


@pytest.mark.ours('QEMU waits for the answer')
def test_target_hangs_while_finalized(server, source, fake):
    """The last writes do not get there: a forced cancel frees everybody.
    Too late to be one, it makes the job fail."""
    job = start_mirror(server, 'src', 'far', auto_finalize=False)
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id=job.id)
    job.wait('BLOCK_JOB_PENDING')
    source.write(0, b'n' * 512)
    fake.requests.clear()
    hang(fake, CMD_WRITE)
    server.mon.send('job-finalize', {'id': job.id})
    wait_request(fake, CMD_WRITE)
    other = server.connect()
    begun = time.monotonic()
    other.execute('job-cancel', id=job.id)
    job.wait('concluded')
    assert time.monotonic() - begun < 3 * SCALE
    assert job.steps[-3:] == FAILS
    source.random_writes(5)
    source.verify()
    other.close()


# A deadline

@pytest.mark.ours('nobody else has it')
def test_converge(server, images, guest_on):
    """A guest that writes faster than is copied is slowed down until the
    mirror is ready."""
    server.add_node('src', images.create('src.qcow2', '32M'))
    server.add_node('dst', images.create('dst.qcow2', '32M'))
    server.export('src')
    guest = guest_on(server, 'src')
    guest.fill(0, 32 * MIB, 1)
    stop = threading.Event()

    def load():
        step = 0
        while not stop.is_set():
            guest.nbd.write(step * 65536 % (32 * MIB), bytes(65536))
            step += 1

    thread = threading.Thread(target=load)
    thread.start()
    try:
        job = start_mirror(server, 'src', 'dst', converge=4,
                           speed=24 * MIB, buf_size=MIB)
        job.wait('BLOCK_JOB_READY', 20 * SCALE)
        server.qmp('block-job-set-speed', device=job.id, speed=0)
        complete(job)
    finally:
        stop.set()
        thread.join()
