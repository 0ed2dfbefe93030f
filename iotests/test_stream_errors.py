# SPDX-License-Identifier: MIT
"""block-stream: errors with each policy, pause, speed, cancel at any time,
sources that hang, the end of the server."""

import threading

import pytest

from .jobs import FAILS, SUCCEEDS, Job, start_stream
from .layers import MIB, SIZE, Layers
from .nbd import CMD_READ, NbdClient
from .nbd_server import FakeServer
from .qmp import QmpError

KIB = 1 << 10
# Where a 4 MiB area of data begins in a fresh qcow2 with one L2 table.
DATA = 5 * 65536


def inject(where, errno=5, once=True, iotype='read'):
    return [{'event': 'none', 'iotype': iotype, 'errno': errno, 'once': once,
             'sector': where // 512}]


@pytest.fixture
def faulty(server, images):
    """faulty(inject-error of the base, of the overlay) opens a <- b, where a
    has 4 MiB of data from 0 on."""
    def make(base=(), overlay=()):
        layers = Layers(server, images, 'ab', data=False)
        layers.write('a', f'write -P 5 0 {4 * MIB}')
        layers.before = layers.content()
        below = None
        for name, rules in (('a', base), ('b', overlay)):
            file = {'driver': 'file', 'filename': layers.path(name)}
            if rules:
                file = {'driver': 'blkdebug', 'image': file,
                        'inject-error': list(rules)}
            server.qmp('blockdev-add', {
                'driver': 'qcow2', 'node-name': name, 'file': file,
                'backing': below})
            below = name
        return layers
    return make


BAD = 3 * MIB + 128 * KIB       # in the chunk at 3 MiB


def test_report(server, faulty):
    layers = faulty(inject(DATA + BAD))
    job = start_stream(server, 'b', on_error='report')
    job.wait('concluded')
    assert job.steps[2:] == ['BLOCK_JOB_ERROR'] + FAILS
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'stream', 'operation': 'read', 'action': 'report'}
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done == {'device': 'stream', 'type': 'stream', 'speed': 0,
                    'len': SIZE, 'offset': 3 * MIB,
                    'error': 'Input/output error'}
    job.dismiss()
    assert layers.below('b') == ['a']
    assert layers.header('b') == (layers.path('a'), 'qcow2')
    start_stream(server, 'b').finish()      # it was once
    server.stop()
    layers.same(layers.before)


def test_ignore(server, faulty):
    """What cannot be read is left out; the rest is copied, then it fails."""
    layers = faulty(inject(DATA + BAD, once=False))
    job = start_stream(server, 'b', on_error='ignore')
    job.wait('concluded')
    assert job.steps[2:] == ['BLOCK_JOB_ERROR'] + FAILS
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'ignore'
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (SIZE, SIZE)
    assert done['error'] == 'Input/output error'
    job.dismiss()
    assert layers.below('b') == ['a']
    server.stop()
    own = [e for e in layers.images.map(layers.path('b'))
           if e['depth'] == 0 and e['data']]
    assert sum(e['length'] for e in own) >= 3 * MIB
    assert not any(e['start'] <= BAD < e['start'] + e['length'] for e in own)
    layers.same(layers.before)


@pytest.mark.parametrize('policy, errno, status', [
    ('stop', 5, 'failed'), ('stop', 28, 'nospace'), ('enospc', 28, 'nospace'),
    ('auto', 28, 'nospace')])
def test_stop(server, faulty, policy, errno, status):
    layers = faulty(inject(DATA + BAD, errno=errno))
    job = start_stream(server, 'b', on_error=policy)
    job.wait('paused')
    assert job.steps[2:] == ['BLOCK_JOB_ERROR', 'paused']
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'stream', 'operation': 'read', 'action': 'stop'}
    info = job.block_info()
    assert (info['offset'], info['len']) == (3 * MIB, SIZE)
    assert (info['paused'], info['io-status']) == (True, status)
    job.take()
    server.qmp('job-resume', id='stream')
    job.wait('concluded')
    assert job.steps == ['running'] + SUCCEEDS
    job.dismiss()
    assert layers.below('b') == []
    server.stop()
    layers.same(layers.before)


@pytest.mark.parametrize('policy', ['enospc', 'auto'])
def test_other_error_is_reported(server, faulty, policy):
    faulty(inject(DATA + BAD))
    job = start_stream(server, 'b', on_error=policy)
    assert job.error() == 'Input/output error'
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'report'


def test_stop_again_and_again(server, faulty):
    """Until the cause is gone, or somebody cancels."""
    layers = faulty(inject(DATA + BAD, once=False))
    job = start_stream(server, 'b', on_error='stop')
    for _ in range(3):
        job.wait('paused')
        server.qmp('block-job-resume', device='stream')
    job.wait('paused')
    job.cancel()
    job.wait('concluded')
    assert 'BLOCK_JOB_CANCELLED' in job.events
    job.dismiss()
    assert layers.below('b') == ['a']


@pytest.mark.parametrize('policy', ['report', 'stop', 'enospc'])
def test_full_disk(server, images, small_disk, policy):
    """The overlay has no room."""
    disk = small_disk(4 * MIB)
    layers = Layers(server, images, 'a', data=False)
    layers.write('a', f'write -P 5 0 {SIZE}')
    path = disk.path('b.qcow2')
    images.create(path, None, backing=layers.path('a'))
    layers.open()
    server.add_node('b', path, backing='a')
    job = start_stream(server, 'b', on_error=policy)
    if policy == 'report':
        assert job.error() == 'No space left on device'
        job.dismiss()
    else:
        job.wait('paused')
        assert job.block_info()['io-status'] == 'nospace'
        disk.remount(f'size={16 * MIB}')
        server.qmp('job-resume', id='stream')
        job.finish()
        assert server.nodes()['b'].get('backing_file') is None
    server.stop()
    images.check(path)
    wanted = images.write_raw('wanted.img', bytes([5]) * SIZE)
    images.identical(path, wanted)
    images.ignore(path)


def test_header_cannot_be_written(server, images):
    """All is copied, then the header fails: the chain stays in the graph and
    on disk."""
    layers = Layers(server, images, 'abc')
    before = layers.content()
    for name, below in (('a', None), ('b', 'a')):
        server.add_node(name, layers.path(name), backing=below)
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'c', 'backing': 'b',
        'file': {'driver': 'blkdebug', 'inject-error': [
            {'event': 'none', 'iotype': 'write', 'sector': 0,
             'once': True}],
            'image': {'driver': 'file', 'filename': layers.path('c')}}})
    job = start_stream(server, 'c', base_node='a')
    assert job.error()
    assert 'BLOCK_JOB_ERROR' not in job.events
    job.dismiss()
    assert layers.header('c') == (layers.path('b'), 'qcow2')
    if not server.is_qemu:      # has changed the graph
        assert layers.below('c') == ['b', 'a']
        start_stream(server, 'c', base_node='a').finish()
        assert layers.header('c') == (layers.path('a'), 'qcow2')
    server.stop()
    layers.same(before)


# Pause, speed, cancel

@pytest.fixture
def long(server, images):
    """a <- b: a job that has 32 MiB to copy."""
    layers = Layers(server, images, 'ab', size='32M', data=False)
    layers.write('a', 'write -P 6 0 32M')
    layers.before = layers.content()
    return layers.open()


def test_pause_and_resume(server, long):
    job = start_stream(server, 'b', speed=8 * MIB)
    job.pause()
    info = job.block_info()
    assert info['paused'] and not info['busy']
    for _ in range(20):
        assert job.block_info()['offset'] == info['offset']
    job.resume()
    job.let_run()
    job.finish()
    server.stop()
    long.same(long.before)


def test_speed(server, long):
    """A change of the limit wakes the job."""
    job = start_stream(server, 'b', speed=1)
    server.fails('block-job-set-speed', device='stream', speed=-1,
                 desc="Parameter 'speed' expects a non-negative value")
    job.set_speed(64 * MIB)
    assert job.block_info()['speed'] == 64 * MIB
    job.set_speed(0)
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (32 * MIB, 32 * MIB)


@pytest.mark.parametrize('command', ['job-cancel', 'block-job-cancel'])
def test_cancel(server, long, command):
    """What was copied stays; the rest is for the next job."""
    job = start_stream(server, 'b', speed=1)
    while job.block_info()['offset'] == 0:
        pass
    server.qmp(command, {'id' if command == 'job-cancel' else 'device':
                         'stream'})
    job.wait('concluded')
    done = job.events['BLOCK_JOB_CANCELLED']
    assert (done['len'], done['offset']) == (32 * MIB, 512 * KIB)
    job.dismiss()
    assert long.below('b') == ['a']
    assert long.header('b') == (long.path('a'), 'qcow2')
    nodes = server.qmp('query-named-block-nodes', flat=True)
    assert 'copy-on-read' not in [n['drv'] for n in nodes]
    start_stream(server, 'b').finish()
    server.stop()
    long.same(long.before)


def test_cancel_while_paused(server, long):
    job = start_stream(server, 'b', speed=1)
    job.pause()
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.steps == ['running', 'aborting', 'BLOCK_JOB_CANCELLED',
                         'concluded']


@pytest.mark.parametrize('when', range(6))
def test_cancel_at_any_moment(server, long, when):
    server.qmp('block-stream', {'device': 'b', 'job-id': 'j'})
    for _ in range(when * 3):
        server.qmp('query-jobs')
    try:
        server.qmp('job-cancel', id='j')
    except QmpError as exc:     # it may be over
        assert 'not found' in exc.desc or 'cannot accept' in exc.desc
    Job(server, 'j').wait('null')
    assert long.below('b') in (['a'], [])
    server.stop()
    long.same(long.before)


def test_quit(start_server, images):
    """The server ends in the middle; the image is good, and the next run
    copies the rest."""
    server = start_server()
    layers = Layers(server, images, 'ab', size='32M', data=False)
    layers.write('a', 'write -P 6 0 32M')
    before = layers.content()
    layers.open()
    start_stream(server, 'b', speed=1)
    server.quit()
    layers.same(before)
    assert layers.header('b') == (layers.path('a'), 'qcow2')
    layers.server = server = start_server()
    layers.open()
    start_stream(server, 'b').finish()
    server.stop()
    layers.same(before)


@pytest.mark.ours('QEMU waits for the server for ever')
@pytest.mark.timeout(40)
def test_cancel_while_the_source_hangs(server, images, directory):
    """The backing file is on a server that has stopped to answer."""
    fake = FakeServer(f'{directory}/fake.sock', size=SIZE)
    release = threading.Event()
    try:
        server.qmp('blockdev-add', {
            'driver': 'nbd', 'node-name': 'far',
            'server': {'type': 'unix', 'path': fake.path}})
        images.create('b.qcow2', SIZE)
        server.add_node('b', images.path('b.qcow2'), backing='far')
        hanging = threading.Event()

        def behave(kind, offset, length):
            if kind == CMD_READ:
                hanging.set()
                release.wait(30)
            return 'ok'

        fake.behave = behave
        job = start_stream(server, 'b')
        assert hanging.wait(10)
        job.cancel()
        job.wait('concluded')
        assert 'BLOCK_JOB_CANCELLED' in job.events
        job.dismiss()
        assert server.nodes()['b'].get('backing_file')
    finally:
        release.set()
        fake.stop()


def test_guest_reads_while_the_job_is_stopped(server, faulty):
    """The filter is there still; a read that fails is the guest's error."""
    layers = faulty(inject(DATA + BAD, once=True))
    job = start_stream(server, 'b', on_error='stop')
    job.wait('paused')
    server.export('b')
    client = NbdClient.connect(server.nbd_path, 'b')
    assert client.read(0, SIZE) == layers.before
    client.write(0, b'w' * 4096)
    client.disconnect()
    server.qmp('job-resume', id='stream')
    job.finish()
    server.stop()
    layers.same(b'w' * 4096 + layers.before[4096:])
