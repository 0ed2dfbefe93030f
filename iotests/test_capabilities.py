# SPDX-License-Identifier: MIT
"""What QEMU does not have and a client asks for when it opens its session.

That nobody else sees any of it is checked by every other scenario: the
client of the suite refuses members that were not asked for.
"""

import errno
import os

import pytest

from .faults import damaged_source
from .jobs import Job, start_backup
from .qmp import ProtocolError, QmpError

MIB = 1 << 20
SLOW = 65536

pytestmark = pytest.mark.ours('the capabilities are not QEMU\'s')


@pytest.fixture
def asking(start_server):
    """A server whose client asks for error data."""
    server = start_server(connect=False)
    server.mon = server.connect(enable=['error-data'])
    return server


def error_of(server, command, arguments=None, **kwargs):
    with pytest.raises(QmpError) as caught:
        server.qmp(command, arguments, **kwargs)
    return caught.value


def null_disks(server, *names):
    for name in names:
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=64 * MIB)


# Negotiation

def test_greeting_names_what_can_be_enabled(start_server):
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    offered = mon.read_greeting()['QMP']['capabilities']
    assert offered[0] == 'oob'
    assert set(offered) == {'oob', 'event-sequence', 'error-data'}
    mon.enter(enable=offered)
    assert mon.execute('query-jobs') == []


def test_unknown_capability_is_refused(start_server):
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.read_greeting()
    mon.fails('qmp_capabilities', {'enable': ['error-data', 'x']}, desc=(
        "Parameter 'enable[1]' does not accept value 'x'"))
    # Nothing was switched on.
    mon.enter()
    assert mon.fails('job-cancel', id='j') == 'Job not found'


def test_a_session_is_as_it_was_opened(start_server):
    """Three clients at once, each with its own choice."""
    server = start_server()
    null_disks(server, 'src', 'dst')
    both = server.connect(name='both',
                          enable=['event-sequence', 'error-data'])
    sequence = server.connect(name='sequence', enable=['event-sequence'])
    start_backup(server, 'src', 'dst').finish()
    for mon in (both, sequence):
        events = mon.pump(0.2)
        assert events
        assert all('sequence' in event for event in events)
    assert [e['sequence'] for e in both._events] == \
        [e['sequence'] for e in sequence._events]
    with pytest.raises(QmpError) as caught:
        sequence.execute('blockdev-del', node_name='x')
    assert caught.value.data == {}
    with pytest.raises(QmpError) as caught:
        both.execute('blockdev-del', node_name='x')
    assert caught.value.data == {'node-name': 'x'}
    server.fails('blockdev-del', node_name='x',
                 desc="Failed to find node with node-name='x'")
    both.close()
    sequence.close()


def test_the_suite_would_notice(start_server):
    """The client of this suite complains about what it did not ask for."""
    server = start_server()
    mon = server.connect(name='asks', enable=['error-data', 'event-sequence'])
    mon.capabilities = set()
    with pytest.raises(ProtocolError):
        mon.execute('blockdev-del', node_name='x')
    mon.close()


# Errors of commands

def test_plain_errors_have_no_data(asking):
    error = error_of(asking, 'job-cancel', id='j')
    assert 'data' not in error.reply['error']


@pytest.mark.parametrize('command, arguments', [
    ('blockdev-del', {'node-name': 'nosuch'}),
    ('block_resize', {'node-name': 'nosuch', 'size': 512}),
])
def test_unknown_node(asking, command, arguments):
    error = error_of(asking, command, arguments)
    assert error.data == {'node-name': 'nosuch'}


def test_file_that_is_not_there(asking, directory):
    path = os.path.join(directory, 'nosuch')
    error = error_of(asking, 'blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk',
        'file': {'driver': 'file', 'filename': path}})
    assert error.desc == f"Could not open '{path}': No such file or directory"
    hint = error.data.pop('hint')
    assert 'file is there' in hint and not hint.endswith('\n')
    assert error.data == {'errno': errno.ENOENT, 'errno-name': 'ENOENT',
                          'filename': path}


def test_inner_node_is_named(asking, directory):
    """Of two nodes in one command, the one that failed."""
    error = error_of(asking, 'blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk', 'file': {
            'driver': 'file', 'node-name': 'inner',
            'filename': os.path.join(directory, 'nosuch')}})
    assert error.data['node-name'] == 'inner'


def test_no_image_of_this_format(asking, images):
    path = images.create('raw.img', '1M', fmt='raw')
    error = error_of(asking, 'blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk',
        'file': {'driver': 'file', 'filename': path}})
    assert error.data['node-name'] == 'disk'
    assert error.data['errno-name'] == 'EINVAL'


def test_locked_file(asking, images, start_server):
    path = images.create('a.qcow2', '1M')
    other = start_server()
    other.add_node('disk', path)
    other.export('disk')
    asking.add_node('mine', path, read_only=True, force_share=True)
    error = error_of(asking, 'blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk',
        'file': {'driver': 'file', 'filename': path}})
    assert error.data['filename'] == path
    assert error.data['hint'] == \
        f'Is another process using the image [{path}]?'


def test_node_in_a_job(asking):
    null_disks(asking, 'src', 'dst')
    job = start_backup(asking, 'src', 'dst', speed=SLOW, job_id='slow')
    error = error_of(asking, 'blockdev-del', node_name='src')
    assert error.desc == 'Block device src is in use'
    assert error.data['node-name'] == 'src'
    error = error_of(asking, 'block_resize', node_name='dst', size=MIB)
    assert error.desc == ("Node 'dst' is busy: block device is in use by "
                          "block job: backup")
    assert error.data == {
        'node-name': 'dst', 'job': 'slow',
        'hint': 'Wait for the job to end, or cancel it'}
    job.cancel()
    job.wait('concluded')


def test_permission_conflict(asking):
    null_disks(asking, 'disk')
    asking.export('disk')
    error = error_of(asking, 'blockdev-add', driver='blkdebug',
                     node_name='top', image='disk',
                     unshare_child_perms=['write'],
                     take_child_perms=['write'])
    assert error.desc.startswith("Permission conflict on node 'disk'")
    assert error.data.pop('hint').startswith('Remove what uses the node')
    assert error.data == {'node-name': 'disk'}


def test_job_id_in_use(asking):
    null_disks(asking, 'src', 'dst', 'src2', 'dst2')
    job = start_backup(asking, 'src', 'dst', speed=SLOW)
    error = error_of(asking, 'blockdev-backup', job_id='backup',
                     device='src2', target='dst2', sync='full')
    assert error.desc == "Job ID 'backup' already in use"
    assert error.data == {'job': 'backup'}
    error = error_of(asking, 'job-dismiss', id='backup')
    assert error.data == {'job': 'backup'}
    job.cancel()
    job.wait('concluded')


# Errors of jobs

def test_job_error_event(asking, images):
    """Which request failed, and on which node; the same in the query."""
    bad = damaged_source(images)
    asking.add_node('src', bad.path)
    asking.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(asking, 'src', 'dst', on_source_error='stop')
    job.wait('BLOCK_JOB_ERROR')
    event = job.events['BLOCK_JOB_ERROR']
    assert (event['device'], event['operation'], event['action']) == \
        ('backup', 'read', 'stop')
    data = event['error-data']
    assert data['node-name'] == 'src'
    assert (data['errno'], data['errno-name']) == (errno.EIO, 'EIO')
    assert data['offset'] <= bad.offset < data['offset'] + data['bytes']
    assert data['hint']
    job.wait('paused')
    detail = asking.qmp('query-jobs', detail=True)[0]['detail']
    assert detail['error-data'] == data
    assert detail['pause-reasons'] == ['error']
    bad.repair()
    job.resume()
    job.wait('concluded')
    detail = asking.qmp('query-jobs', detail=True)[0]['detail']
    assert 'error-data' not in detail and detail['pause-reasons'] == []
    job.dismiss()


def test_job_that_failed_says_where(asking, images):
    bad = damaged_source(images)
    asking.add_node('src', bad.path)
    asking.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(asking, 'src', 'dst')
    assert job.error() == 'Input/output error'
    data = job.events['BLOCK_JOB_ERROR']['error-data']
    assert asking.qmp('query-jobs', detail=True)[0]['detail'][
        'error-data'] == data
    job.dismiss()
    assert asking.qmp('query-job-history')[0]['error-data'] == data


def test_no_space(asking, images, small_disk):
    disk = small_disk(2 * MIB)
    source = images.create('src.raw', '8M', fmt='raw')
    images.io(source, 'write -P 3 0 8M', fmt='raw')
    path = disk.path('dst.raw')
    with open(path, 'wb') as stream:
        stream.truncate(8 * MIB)
    asking.add_node('src', source, driver='raw')
    asking.add_node('dst', path, driver='raw')
    job = start_backup(asking, 'src', 'dst', on_target_error='enospc')
    job.wait('BLOCK_JOB_ERROR')
    data = job.events['BLOCK_JOB_ERROR']['error-data']
    assert data['errno-name'] == 'ENOSPC' and data['node-name'] == 'dst'
    assert 'Make room' in data['hint']
    job.cancel()
    job.wait('concluded')
    job.dismiss()


def test_nobody_else_sees_job_error_data(server, images):
    """The member is taken out for those who did not ask, whoever else
    listens."""
    bad = damaged_source(images)
    asks = server.connect(name='asks', enable=['error-data'])
    server.add_node('src', bad.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst')
    job.error()
    assert set(job.events['BLOCK_JOB_ERROR']) == {'device', 'operation',
                                                  'action'}
    event = asks.wait_event('BLOCK_JOB_ERROR')
    assert event['data']['error-data']['errno-name'] == 'EIO'
    job.dismiss()
    asks.close()


def test_plain_queries_have_no_detail(server):
    null_disks(server, 'src', 'dst')
    job = start_backup(server, 'src', 'dst', speed=SLOW)
    for args in ({}, {'detail': False}):
        assert set(server.qmp('query-jobs', args)[0]) == {
            'id', 'type', 'status', 'current-progress', 'total-progress'}
        assert 'detail' not in server.qmp('query-block-jobs', args)[0]
    job.cancel()
    Job(server, 'backup').wait('concluded')
