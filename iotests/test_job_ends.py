# SPDX-License-Identifier: MIT
"""How jobs end when the server does, when they are paused, and together:
the sequences that managers know."""

import signal

import pytest

from .faults import damaged_source
from .jobs import (BACKUP_STARTS, CANCELLED, FAILS, Job, SUCCEEDS,
                   start_backup)

MIB = 1 << 20
SLOW = 65536


@pytest.fixture
def disks(start_server):
    server = start_server(machine=True)
    for name in ('src', 'dst', 'src2', 'dst2', 'src3', 'dst3'):
        server.qmp('blockdev-add', {
            'driver': 'null-co', 'node-name': name, 'size': 64 * MIB})
    return server


def start_mirror(server, job_id='mirror', **options):
    server.qmp('blockdev-mirror', dict({
        'job-id': job_id, 'device': 'src', 'target': 'dst',
        'sync': 'full'}, **{k.replace('_', '-'): v
                            for k, v in options.items()}))
    return Job(server, job_id)


def slow_backup(server, n='', **options):
    job = start_backup(server, f'src{n}', f'dst{n}', speed=SLOW,
                       job_id=f'backup{n}', auto_dismiss=True, **options)
    assert job.take() == BACKUP_STARTS
    return job


def told_at_the_end(server, how='quit'):
    """What is sent from quit (or a signal) on, as [(job, step)]."""
    server.mon.drop_events()
    if how == 'quit':
        messages = server.quit()
        assert messages.pop() == {'return': {}}
    else:
        server.kill(signal.SIGTERM)
        messages = server.mon.wait_closed()
        server.wait_exit()
    assert messages[0]['event'] == 'SHUTDOWN'
    steps = []
    for event in messages[1:]:
        data = event['data']
        steps.append((data.get('id', data.get('device')),
                      data.get('status', event['event'])))
    return steps


def of(steps, job_id):
    return [step for job, step in steps if job == job_id]


def drains(server, *pair):
    """QEMU 10 drains twice, 7.2 once."""
    return list(pair) * (1 if server.is_qemu else 2)


# quit and SIGTERM

@pytest.mark.parametrize('how', ['quit', 'term'])
def test_running(disks, how):
    slow_backup(disks)
    steps = told_at_the_end(disks, how)
    assert of(steps, 'backup') == \
        drains(disks, 'paused', 'running') + CANCELLED + ['null']


@pytest.mark.parametrize('how', ['quit', 'term'])
def test_ready(disks, how):
    start_mirror(disks).wait('BLOCK_JOB_READY')
    steps = told_at_the_end(disks, how)
    assert of(steps, 'mirror') == \
        drains(disks, 'standby', 'ready') + CANCELLED + ['null']


def test_paused(disks):
    job = slow_backup(disks)
    job.pause()
    assert of(told_at_the_end(disks), 'backup') == \
        ['running'] + CANCELLED + ['null']


def test_standby(disks):
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='mirror')
    job.wait('standby')
    assert of(told_at_the_end(disks), 'mirror') == \
        ['ready'] + CANCELLED + ['null']


def test_pending(disks):
    job = start_backup(disks, 'src', 'dst', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    assert of(told_at_the_end(disks), 'backup') == CANCELLED + ['null']


def test_concluded(disks):
    start_backup(disks, 'src', 'dst', auto_dismiss=False).wait('concluded')
    assert of(told_at_the_end(disks), 'backup') == ['null']


def test_several(disks):
    """All pause, then they end one after the other, the newest first."""
    slow_backup(disks)
    slow_backup(disks, 2)
    steps = told_at_the_end(disks)
    first = steps.index(('backup', 'aborting'))
    assert ('backup2', 'null') in steps[:first]
    for name in ('backup', 'backup2'):
        assert of(steps, name)[-4:] == CANCELLED + ['null']
    if not disks.is_qemu:
        for name in ('backup', 'backup2'):
            assert of(steps, name)[:4] == ['paused', 'running'] * 2


# Cancel

@pytest.mark.parametrize('command, arguments', [
    ('job-cancel', {'id': 'mirror'}),
    ('block-job-cancel', {'device': 'mirror', 'force': True})])
def test_cancel_ready(disks, command, arguments):
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    job.take()
    disks.qmp(command, arguments)
    job.wait('null')
    assert job.steps == CANCELLED + ['null']


def test_soft_cancel_ready(disks):
    """It ends well, and does not pivot."""
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    job.take()
    disks.qmp('block-job-cancel', device='mirror')
    job.wait('null')
    assert job.steps == SUCCEEDS + ['null']
    assert 'error' not in job.events['BLOCK_JOB_COMPLETED']


def test_soft_cancel_before_ready(disks):
    job = start_mirror(disks, speed=1, buf_size=65536)
    job.take()
    disks.qmp('block-job-cancel', device='mirror')
    job.wait('null')
    assert job.steps == CANCELLED + ['null']


def test_soft_cancel_twice(disks):
    """When it has ended well and waits to be finalized, it is not ready any
    more: the second one is a cancel."""
    job = start_mirror(disks, auto_finalize=False)
    job.wait('BLOCK_JOB_READY')
    job.take()
    disks.qmp('block-job-cancel', device='mirror')
    job.wait('BLOCK_JOB_PENDING')
    job.take()
    disks.qmp('block-job-cancel', device='mirror')
    job.wait('null')
    assert job.steps == CANCELLED + ['null']


def test_cancel_standby(disks):
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='mirror')
    job.wait('standby')
    job.take()
    disks.fails('block-job-cancel', device='mirror', desc=(
        "The block job for device 'mirror' is currently paused"))
    disks.qmp('job-cancel', id='mirror')
    job.wait('null')
    assert job.steps == ['ready'] + CANCELLED + ['null']


@pytest.mark.parametrize('command, arguments', [
    ('job-cancel', {'id': 'backup'}),
    ('block-job-cancel', {'device': 'backup', 'force': True})])
def test_cancel_stopped_by_error(server, images, command, arguments):
    """It runs again to be cancelled, and keeps nothing of the error."""
    bad = damaged_source(images)
    server.add_node('src', bad.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst', on_source_error='stop')
    job.wait('BLOCK_JOB_ERROR')
    job.wait('paused')
    job.take()
    info = job.block_info()
    assert (info['paused'], info['busy'], info['io-status']) == \
        (True, False, 'failed')
    server.fails('block-job-cancel', device='backup', desc=(
        "The block job for device 'backup' is currently paused"))
    server.qmp(command, arguments)
    job.wait('concluded')
    assert job.steps == ['running'] + CANCELLED
    info = job.block_info()
    assert (info['paused'], info['io-status'], info['error']) == \
        (False, 'ok', 'Operation canceled')
    job.dismiss()


def test_what_queries_say_of_a_mirror(disks):
    """ready is true from READY until it waits to be finalized."""
    job = start_mirror(disks, auto_finalize=False, auto_dismiss=False)
    job.wait('BLOCK_JOB_READY')

    def flags():
        info = job.block_info()
        # In 7.2 the drain of a mirror that is pending shows as a pause.
        drained = disks.is_qemu and info['status'] == 'pending'
        return info['status'], info['ready'], info['paused'] and not drained

    assert flags() == ('ready', True, False)
    disks.qmp('job-pause', id='mirror')
    job.wait('standby')
    assert flags() == ('standby', True, True)
    disks.qmp('job-resume', id='mirror')
    assert flags() == ('ready', True, False)
    disks.qmp('job-complete', id='mirror')
    job.wait('BLOCK_JOB_PENDING')
    assert flags() == ('pending', False, False)
    disks.qmp('job-finalize', id='mirror')
    job.wait('concluded')
    assert flags() == ('concluded', False, False)
    job.dismiss()


VERBS = [
    ('job-pause', 'id'), ('job-resume', 'id'), ('job-complete', 'id'),
    ('job-cancel', 'id'), ('job-finalize', 'id'), ('job-dismiss', 'id'),
    ('block-job-pause', 'device'), ('block-job-resume', 'device'),
    ('block-job-complete', 'device'), ('block-job-cancel', 'device'),
    ('block-job-finalize', 'id'), ('block-job-dismiss', 'id'),
    ('block-job-set-speed', 'device')]
ALLOWED = {
    'pending': ('cancel', 'finalize'),
    'concluded': ('dismiss',),
}


@pytest.mark.parametrize('status', sorted(ALLOWED))
def test_verbs_that_are_refused(disks, status):
    """Both families, the same text."""
    job = start_backup(disks, 'src', 'dst', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    if status == 'concluded':
        disks.qmp('job-finalize', id='backup')
        job.wait('concluded')
    for command, key in VERBS:
        verb = command.split('job-')[1]
        if verb in ALLOWED[status]:
            continue
        texts = [f"Job 'backup' in state '{status}' cannot accept command "
                 f"verb '{verb}'"]
        if verb == 'resume' and disks.is_qemu:
            texts = ["Can't resume a job that was not paused"]
        extra = {'speed': 1} if verb == 'set-speed' else {}
        disks.fails(command, dict(extra, **{key: 'backup'}), desc=texts)
    if status == 'pending':
        job.cancel()
        job.wait('concluded')
    job.dismiss()


# Complete

def test_complete_in_standby(disks):
    """It is accepted, and done when the job goes on."""
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    disks.qmp('job-pause', id='mirror')
    job.wait('standby')
    job.take()
    disks.qmp('job-complete', id='mirror')
    assert job.status() == 'standby'
    disks.qmp('job-resume', id='mirror')
    job.wait('null')
    assert job.steps == ['ready'] + SUCCEEDS + ['null']


def test_complete_after_soft_cancel(disks):
    job = start_mirror(disks)
    job.wait('BLOCK_JOB_READY')
    job.take()
    disks.mon.send_raw(
        '{"execute":"block-job-cancel","arguments":{"device":"mirror"}}'
        '{"execute":"job-complete","arguments":{"id":"mirror"}}\n')
    assert disks.mon.next_reply() == {'return': {}}
    # Or it is over by then.
    assert disks.mon.next_reply()['error']['desc'] in [
        "The active block job 'mirror' cannot be completed",
        'Job not found'] + [
            f"Job 'mirror' in state '{status}' cannot accept command verb "
            "'complete'" for status in ('waiting', 'pending')]
    job.wait('null')
    assert job.steps == SUCCEEDS + ['null']


@pytest.mark.parametrize('command, key', [('job-complete', 'id'),
                                          ('block-job-complete', 'device')])
def test_complete_before_ready(disks, command, key):
    job = start_mirror(disks, speed=1, buf_size=65536)
    disks.fails(command, {key: 'mirror'}, desc=(
        "Job 'mirror' in state 'running' cannot accept command verb "
        "'complete'"))
    job.cancel()
    job.wait('null')


@pytest.mark.parametrize('auto_finalize', [True, False])
def test_complete_a_mirror(disks, auto_finalize):
    job = start_mirror(disks, auto_finalize=auto_finalize)
    job.wait('BLOCK_JOB_READY')
    assert job.steps == ['created', 'running', 'ready', 'BLOCK_JOB_READY']
    job.take()
    disks.qmp('block-job-complete', device='mirror')
    if not auto_finalize:
        job.wait('BLOCK_JOB_PENDING')
        disks.fails('job-complete', id='mirror', desc=(
            "Job 'mirror' in state 'pending' cannot accept command verb "
            "'complete'"))
        disks.qmp('block-job-finalize', id='mirror')
    job.wait('null')
    pending = [] if auto_finalize else ['BLOCK_JOB_PENDING']
    assert job.steps == ['waiting', 'pending'] + pending + \
        SUCCEEDS[2:] + ['null']


# Together

def grouped(server, n_jobs, **options):
    names = [f'b{n}' for n in range(n_jobs)]
    nodes = [('src', 'dst'), ('src2', 'dst2'), ('src3', 'dst3')]
    server.qmp('transaction', actions=[
        {'type': 'blockdev-backup', 'data': dict({
            'job-id': name, 'device': src, 'target': dst, 'sync': 'full'},
            **options)}
        for name, (src, dst) in zip(names, nodes)],
        properties={'completion-mode': 'grouped'})
    return [Job(server, name) for name in names]


def end_steps(server, wanted):
    """(job, step) in the order of arrival, of the events in WANTED."""
    steps = []
    for message in server.mon.received:
        data = message.get('data', {})
        step = data.get('status', message.get('event'))
        if 'event' in message and step in wanted:
            steps.append((data.get('id', data.get('device')), step))
    return steps


def test_grouped_order(disks):
    """All become pending, then end, the newest first."""
    for job in grouped(disks, 3):
        job.wait('null')
    wanted = ('pending', 'BLOCK_JOB_COMPLETED', 'null')
    assert end_steps(disks, wanted) == \
        [(name, 'pending') for name in ('b2', 'b1', 'b0')] + \
        [(name, step) for name in ('b2', 'b1', 'b0')
         for step in ('BLOCK_JOB_COMPLETED', 'null')]


def test_grouped_order_finalized_by_hand(disks):
    jobs = grouped(disks, 3, **{'auto-finalize': False})
    for job in jobs:
        job.wait('BLOCK_JOB_PENDING')
    disks.qmp('job-finalize', id='b1')
    for job in jobs:
        job.wait('null')
    assert end_steps(disks, ('BLOCK_JOB_PENDING', 'concluded')) == \
        [(name, step) for step in ('BLOCK_JOB_PENDING', 'concluded')
         for name in ('b2', 'b1', 'b0')]


def test_grouped_cancel_with_a_paused_member(disks):
    """The paused one runs again to be cancelled."""
    jobs = grouped(disks, 2, speed=SLOW)
    jobs[0].catch_up()
    disks.qmp('job-pause', id='b0')
    jobs[0].wait('paused')
    for job in jobs:
        job.take()
    disks.qmp('job-cancel', id='b1')
    for job in jobs:
        job.wait('null')
    assert jobs[1].steps == CANCELLED + ['null']
    assert jobs[0].steps == ['running'] + CANCELLED + ['null']


def test_grouped_quit(disks):
    grouped(disks, 2, speed=SLOW)
    steps = told_at_the_end(disks)
    for name in ('b0', 'b1'):
        assert of(steps, name)[-4:] == CANCELLED + ['null']


def test_individual_jobs_end_alone(disks):
    disks.qmp('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {
            'job-id': name, 'device': src, 'target': dst, 'sync': 'full',
            'speed': SLOW}}
        for name, src, dst in (('a', 'src', 'dst'), ('b', 'src2', 'dst2'))])
    job = Job(disks, 'a')
    job.cancel()
    job.wait('null')
    other = Job(disks, 'b')
    assert other.status() == 'running'
    other.set_speed(0)
    other.wait('null')
    assert other.steps[-5:] == SUCCEEDS + ['null']
    assert FAILS[0] not in other.steps
