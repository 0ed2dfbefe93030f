# SPDX-License-Identifier: MIT
"""The life of a job: statuses, verbs, events, queries.

Null disks and a speed limit make every state last as long as a test wants.
"""

import time

import pytest

from .faults import damaged_source
from .jobs import (BACKUP_STARTS, CANCELLED, FAILS, Job, SUCCEEDS,
                   backup_arguments, create_image, start_backup)

MIB = 1 << 20
SLOW = 65536        # bytes a second: lets one chunk through, then sleeps


@pytest.fixture
def disks(server):
    """A server with null disks src, dst, src2, dst2 of 64 MiB."""
    for name in ('src', 'dst', 'src2', 'dst2'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=64 * MIB)
    return server


def slow_job(server, **options):
    job = start_backup(server, 'src', 'dst', speed=SLOW, **options)
    assert job.take() == BACKUP_STARTS
    deadline = time.monotonic() + 10
    while not job.block_info()['offset']:       # the first chunk
        assert time.monotonic() < deadline
    return job


# Sequences of events

def test_success(disks):
    job = start_backup(disks, 'src', 'dst', auto_dismiss=True)
    job.wait('null')
    assert job.steps == BACKUP_STARTS + SUCCEEDS + ['null']
    assert job.events['BLOCK_JOB_COMPLETED'] == {
        'device': 'backup', 'type': 'backup', 'len': 64 * MIB,
        'offset': 64 * MIB, 'speed': 0}
    assert disks.qmp('query-jobs') == []
    assert disks.qmp('query-block-jobs') == []
    assert disks.mon.pump(0.05) == []


def test_no_auto_dismiss(disks):
    job = start_backup(disks, 'src', 'dst', auto_dismiss=False)
    job.wait('concluded')
    assert job.steps == BACKUP_STARTS + SUCCEEDS
    assert disks.qmp('query-jobs') == [
        {'id': 'backup', 'type': 'backup', 'status': 'concluded',
         'current-progress': 64 * MIB, 'total-progress': 64 * MIB}]
    assert job.block_info() == {
        'device': 'backup', 'type': 'backup', 'status': 'concluded',
        'len': 64 * MIB, 'offset': 64 * MIB, 'speed': 0, 'busy': False,
        'paused': False, 'ready': False, 'io-status': 'ok',
        'auto-finalize': True, 'auto-dismiss': False}
    disks.qmp('job-dismiss', id='backup')
    assert job.take() == BACKUP_STARTS + SUCCEEDS + ['null']
    assert disks.qmp('query-jobs') == []


def test_no_auto_finalize(disks):
    job = start_backup(disks, 'src', 'dst', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    assert job.steps == BACKUP_STARTS + ['waiting', 'pending',
                                         'BLOCK_JOB_PENDING']
    assert job.events['BLOCK_JOB_PENDING'] == {'id': 'backup',
                                               'type': 'backup'}
    assert job.status() == 'pending'
    info = job.block_info()
    assert (info['status'], info['busy'], info['auto-finalize']) == \
        ('pending', False, False)
    disks.qmp('job-finalize', id='backup')
    job.wait('concluded')
    assert job.steps[-2:] == ['BLOCK_JOB_COMPLETED', 'concluded']
    job.dismiss()


def test_block_job_verbs(disks):
    """The same with the block-job-* commands."""
    job = start_backup(disks, 'src', 'dst', auto_finalize=False, speed=SLOW)
    job.take()
    disks.qmp('block-job-pause', device='backup')
    job.wait('paused')
    disks.qmp('block-job-resume', device='backup')
    job.wait('running')
    disks.qmp('block-job-set-speed', device='backup', speed=0)
    job.wait('BLOCK_JOB_PENDING')
    disks.qmp('block-job-finalize', id='backup')
    job.wait('concluded')
    disks.qmp('block-job-dismiss', id='backup')
    job.wait('null')


def test_cancel_running(disks):
    job = slow_job(disks)
    job.cancel()
    job.wait('concluded')
    assert job.steps == CANCELLED
    event = job.events['BLOCK_JOB_CANCELLED']
    assert event['len'] == 64 * MIB and event['speed'] == SLOW
    assert 0 < event['offset'] < 64 * MIB
    assert 'BLOCK_JOB_COMPLETED' not in job.events
    job.dismiss()


@pytest.mark.parametrize('force', [None, False, True])
def test_block_job_cancel(disks, force):
    job = slow_job(disks)
    arguments = {} if force is None else {'force': force}
    disks.qmp('block-job-cancel', dict(arguments, device='backup'))
    job.wait('concluded')
    assert job.steps == CANCELLED
    assert job.info()['error'] == 'Operation canceled'
    job.dismiss()


def test_cancel_pending(disks):
    job = start_backup(disks, 'src', 'dst', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.steps == CANCELLED
    job.dismiss()


def test_cancel_paused(disks):
    """A paused job runs again to be cancelled; a soft block-job-cancel
    leaves it alone."""
    job = slow_job(disks)
    job.pause()
    job.take()
    disks.fails('block-job-cancel', device='backup', desc=(
        "The block job for device 'backup' is currently paused"))
    assert job.status() == 'paused'
    disks.qmp('job-cancel', id='backup')
    job.wait('concluded')
    assert job.steps == ['running'] + CANCELLED
    job.dismiss()


def test_cancel_paused_by_force(disks):
    job = slow_job(disks)
    job.pause()
    job.take()
    disks.qmp('block-job-cancel', device='backup', force=True)
    job.wait('concluded')
    assert job.steps == ['running'] + CANCELLED
    job.dismiss()


def test_cancel_is_prompt(disks):
    """However slow the job is meant to be."""
    job = slow_job(disks)
    started = time.monotonic()
    job.cancel()
    job.wait('concluded')
    assert time.monotonic() - started < 2
    job.dismiss()


# Pause, resume, speed

def test_pause_and_resume(disks):
    job = slow_job(disks)
    job.pause()
    info = job.block_info()
    assert (info['status'], info['paused'], info['busy']) == \
        ('paused', True, False)
    offset = info['offset']
    time.sleep(0.3)
    assert job.block_info()['offset'] == offset
    disks.fails('job-pause', id='backup', desc='Job is already paused')
    disks.fails('block-job-pause', device='backup',
                desc='Job is already paused')
    job.resume()
    assert job.block_info()['paused'] is False
    disks.fails('job-resume', id='backup',
                desc="Can't resume a job that was not paused")
    disks.fails('block-job-resume', device='backup',
                desc="Can't resume a job that was not paused")
    job.set_speed(0)
    job.finish()


def test_pause_keeps_offset_at_full_speed(server, images):
    """A job with requests in flight comes to rest, then stays."""
    for name in ('src', 'dst'):
        server.add_node(name, images.create(f'{name}.qcow2', '64M'))
    job = start_backup(server, 'src', 'dst', speed=8 * MIB)
    job.pause()
    before = job.block_info()['offset']
    time.sleep(0.3)
    assert job.block_info()['offset'] == before
    job.resume()
    job.set_speed(0)
    job.finish()


def test_speed_limits(server, images):
    """At 1 MiB/s one MiB takes a second, within reason."""
    path = images.create('src.qcow2', '8M')
    images.io(path, 'write -P 1 0 8M')
    server.add_node('src', path)
    server.add_node('dst', images.create('dst.qcow2', '8M'))
    started = time.monotonic()
    job = start_backup(server, 'src', 'dst', speed=4 * MIB)
    assert job.block_info()['speed'] == 4 * MIB
    job.finish()
    took = time.monotonic() - started
    assert 0.9 < took < 6


def test_set_speed_wakes_a_sleeper(disks):
    job = slow_job(disks)
    assert job.block_info()['speed'] == SLOW
    job.set_speed(0)
    assert job.block_info() is None or job.block_info()['speed'] == 0
    job.finish(timeout=10)


def test_bad_speed(disks):
    for speed in (-1, -2**63):
        disks.fails('blockdev-backup', backup_arguments(
            'src', 'dst', speed=speed),
            "Parameter 'speed' expects a non-negative value")
    disks.mon.drop_events()
    job = slow_job(disks)
    disks.fails('block-job-set-speed', device='backup', speed=-1,
                desc="Parameter 'speed' expects a non-negative value")
    assert job.block_info()['speed'] == SLOW
    job.set_speed(2**63 - 1)
    job.finish()


# Verbs in states

ALLOWED = {
    'running': {'cancel', 'pause', 'set-speed'},
    'paused': {'cancel', 'resume', 'set-speed'},
    'waiting': {'cancel'},
    'pending': {'cancel', 'finalize'},
    'concluded': {'dismiss'},
}
JOB_COMMANDS = {verb: f'job-{verb}' for verb in (
    'cancel', 'pause', 'resume', 'complete', 'finalize', 'dismiss')}


def bring_to(server, state):
    """A job 'backup' in `state`."""
    if state == 'waiting':
        server.qmp('transaction', {
            'actions': [
                {'type': 'blockdev-backup', 'data': backup_arguments(
                    'src', 'dst', **{'auto-dismiss': False})},
                {'type': 'blockdev-backup', 'data': backup_arguments(
                    'src2', 'dst2', 'other', speed=SLOW)}],
            'properties': {'completion-mode': 'grouped'}})
        return Job(server, 'backup').wait('waiting')
    if state in ('running', 'paused'):
        job = slow_job(server)
        if state == 'paused':
            job.pause()
    elif state == 'pending':
        job = start_backup(server, 'src', 'dst', auto_finalize=False)
        job.wait('BLOCK_JOB_PENDING')
    else:
        job = start_backup(server, 'src', 'dst').wait('concluded')
    return job


@pytest.mark.parametrize('state', ALLOWED)
def test_verbs_refused(disks, state):
    """Every verb that the state does not take, with both commands."""
    job = bring_to(disks, state)
    assert job.status() == state
    job.take()
    for verb, command in JOB_COMMANDS.items():
        if verb in ALLOWED[state]:
            continue
        # Whether the user has paused it is looked at first.
        desc = "Can't resume a job that was not paused" \
            if verb == 'resume' else \
            'Job is already paused' if (state, verb) == ('paused', 'pause') \
            else f"Job 'backup' in state '{state}' cannot accept command " \
                 f"verb '{verb}'"
        allowed = {desc, f"Job 'backup' in state '{state}' cannot accept "
                         f"command verb '{verb}'"}
        disks.fails(command, id='backup', desc=list(allowed))
        name = 'id' if verb in ('finalize', 'dismiss') else 'device'
        disks.fails(f'block-{command}', {name: 'backup'}, list(allowed))
    if 'set-speed' not in ALLOWED[state]:
        disks.fails('block-job-set-speed', device='backup', speed=0, desc=(
            f"Job 'backup' in state '{state}' cannot accept command verb "
            f"'set-speed'"))
    assert job.take() == []
    assert job.status() == state


@pytest.mark.parametrize('state', ['running', 'paused', 'waiting', 'pending'])
def test_cancel_in_state(disks, state):
    job = bring_to(disks, state)
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.steps[-3:] == CANCELLED
    job.dismiss()


def test_unknown_job(server):
    for command in JOB_COMMANDS.values():
        server.fails(command, id='nope', desc='Job not found')
        name = 'id' if command.endswith(('finalize', 'dismiss')) \
            else 'device'
        server.fails(f'block-{command}', {name: 'nope'},
                     "Block job 'nope' not found", cls='DeviceNotActive')
    server.fails('block-job-set-speed', device='nope', speed=1,
                 cls='DeviceNotActive', desc="Block job 'nope' not found")


# Ids and conflicts

@pytest.mark.parametrize('ident', ['', '1', 'a b', '#a', '-x', 'caf\u00e9'])
def test_bad_job_id(disks, ident):
    disks.fails('blockdev-backup', backup_arguments('src', 'dst', ident),
                f"Invalid job ID '{ident}'")


def test_job_id_needed(disks):
    """A node has no device name to take it from."""
    arguments = backup_arguments('src', 'dst')
    del arguments['job-id']
    disks.fails('blockdev-backup', arguments, "Invalid job ID ''")


def test_job_id_in_use(disks):
    """Also by a job that is concluded but not dismissed."""
    job = slow_job(disks)
    disks.fails('blockdev-backup', backup_arguments('src2', 'dst2'),
                "Job ID 'backup' already in use")
    job.set_speed(0)
    job.wait('concluded')
    disks.fails('blockdev-backup', backup_arguments('src2', 'dst2'),
                "Job ID 'backup' already in use")
    job.dismiss()
    start_backup(disks, 'src2', 'dst2').finish()


def test_nodes_of_a_job_are_busy(disks):
    job = slow_job(disks)
    busy = "Node 'dst' is busy: block device is in use by block job: backup"
    disks.fails('blockdev-backup', backup_arguments('src', 'dst', 'k'), busy)
    disks.fails('blockdev-del', node_name='src')
    disks.fails('blockdev-del', node_name='dst', desc=busy)
    text = disks.fails('block_resize', node_name='src', size=512)
    assert "'resize'" in text and 'Permission conflict' in text
    disks.fails('block_resize', node_name='dst', size=512)
    assert set(disks.nodes()) > {'src', 'dst', 'src2', 'dst2'}
    job.cancel()
    job.wait('concluded')
    assert set(disks.nodes()) == {'src', 'dst', 'src2', 'dst2'}
    job.dismiss()
    disks.qmp('blockdev-del', node_name='src')
    disks.qmp('blockdev-del', node_name='dst')


def test_two_backups_of_one_source(server, images, guest_on):
    """Each freezes its own moment."""
    path = images.create('src.qcow2', '4M')
    server.add_node('src', path)
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(30)
    frozen = {}
    for name in ('one', 'two'):
        server.add_node(name, images.create(f'{name}.qcow2', '4M'))
        frozen[name] = guest.freeze()
        start_backup(server, 'src', name, job_id=name, speed=SLOW)
        guest.random_writes(60)
    for name in ('one', 'two'):
        job = Job(server, name)
        job.set_speed(0)
        job.finish()
        server.qmp('blockdev-del', node_name=name)
        assert images.content(images.path(f'{name}.qcow2')) == frozen[name]
    guest.verify()


def test_filter_node(disks):
    """Named, it is a node to see; gone when the job is."""
    job = slow_job(disks, filter_node_name='filter')
    node = disks.nodes()['filter']
    assert node['drv'] == 'copy-before-write'
    job.cancel()
    job.wait('concluded')
    assert 'filter' not in disks.nodes()
    job.dismiss()
    disks.fails('blockdev-backup', backup_arguments(
        'src', 'dst', filter_node_name='src2'))
    assert len(disks.nodes()) == 4
    assert disks.qmp('query-jobs') == []


@pytest.mark.parametrize('arguments,desc', [
    ({'target': 'src'}, 'Source and target cannot be the same'),
    ({'target': 'nope'}, "Cannot find device='nope' nor node-name='nope'"),
    ({'device': 'nope'}, "Cannot find device='nope' nor node-name='nope'"),
    ({'target': 'small'}, 'Source and target image have different sizes'),
    ({'x-perf': {'max-workers': 0}},
     'max-workers must be between 1 and 2147483647'),
    ({'x-perf': {'max-chunk': 1000}},
     'Required max-chunk (1000) is less than backup cluster size (65536)'),
    ({'compress': True}, None),
])
def test_start_refused(disks, arguments, desc):
    disks.qmp('blockdev-add', driver='null-co', node_name='small', size=512)
    disks.mon.drop_events()
    disks.fails('blockdev-backup',
                dict(backup_arguments('src', 'dst'), **arguments), desc)
    assert disks.qmp('query-jobs') == []
    assert len(disks.nodes()) == 5
    # It may have got as far as being created, and no further.
    assert [e['data']['status'] for e in disks.mon.pump()] in (
        [], ['created', 'null'])
    start_backup(disks, 'src', 'dst').finish()


def test_read_only_target(disks):
    disks.qmp('blockdev-add', driver='null-co', node_name='ro',
              size=64 * MIB, read_only=True)
    disks.fails('blockdev-backup', backup_arguments('src', 'ro'))
    assert disks.qmp('query-jobs') == []


# Queries

def test_queries_of_running(disks):
    job = slow_job(disks)
    info = job.info()
    assert set(info) == {'id', 'type', 'status', 'current-progress',
                         'total-progress'}
    assert (info['type'], info['status']) == ('backup', 'running')
    assert 0 <= info['current-progress'] < info['total-progress'] == 64 * MIB
    info = job.block_info()
    assert (info['type'], info['status'], info['len'], info['speed']) == \
        ('backup', 'running', 64 * MIB, SLOW)
    assert (info['paused'], info['ready'], info['io-status']) == \
        (False, False, 'ok')
    assert (info['auto-finalize'], info['auto-dismiss']) == (True, False)
    job.cancel()
    job.wait('concluded')
    job.dismiss()


def test_create_jobs_are_not_block_jobs(server, images):
    job = create_image(server, driver='file', filename=images.path('f'),
                       size=MIB)
    job.wait('concluded')
    assert job.info()['type'] == 'create'
    assert server.qmp('query-block-jobs') == []
    for command in ('block-job-cancel', 'block-job-pause'):
        server.fails(command, device='create', cls='DeviceNotActive',
                     desc="Block job 'create' not found")
    job.dismiss()


def test_order_of_jobs(disks):
    """Newest first."""
    jobs = [start_backup(disks, 'src', 'dst', job_id='one', speed=SLOW),
            start_backup(disks, 'src2', 'dst2', job_id='two', speed=SLOW)]
    assert [j['id'] for j in disks.qmp('query-jobs')] == ['two', 'one']
    assert [j['device'] for j in disks.qmp('query-block-jobs')] == \
        ['two', 'one']
    for job in jobs:
        job.cancel()
        job.wait('concluded')
        job.dismiss()


def test_many_jobs(server):
    """A hundred jobs at a time, on a hundred disks."""
    n_jobs = 100
    for i in range(n_jobs):
        for name in (f's{i}', f'd{i}'):
            server.qmp('blockdev-add', driver='null-co', node_name=name,
                       size=4 * MIB)
    for i in range(n_jobs):
        start_backup(server, f's{i}', f'd{i}', job_id=f'j{i}', speed=1024)
    assert len(server.qmp('query-jobs')) == n_jobs
    assert len(server.qmp('query-block-jobs')) == n_jobs
    for i in range(n_jobs):
        server.qmp('job-cancel', id=f'j{i}')
    for i in range(n_jobs):
        Job(server, f'j{i}').wait('concluded')
        server.qmp('job-dismiss', id=f'j{i}')
    assert server.qmp('query-jobs') == []


def test_failure(server, images):
    """A job that fails says so in the event and in query-jobs."""
    source = damaged_source(images)
    server.add_node('src', source.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst')
    job.wait('concluded')
    assert [s for s in job.steps if s != 'BLOCK_JOB_ERROR'] == \
        BACKUP_STARTS + FAILS
    assert job.events['BLOCK_JOB_COMPLETED']['error'] == \
        'Input/output error'
    assert job.info()['error'] == 'Input/output error'
    job.dismiss()
