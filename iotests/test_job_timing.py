# SPDX-License-Identifier: MIT
"""Bad timing: the server is stopped, clients vanish, managers collide."""

import signal
import threading

import pytest

from .images import same_bytes
from .job_disk import Disk, HAS_READY, KINDS, finish
from .jobs import Job
from .qmp import QmpError

STATES = ['running', 'paused', 'ready', 'standby', 'pending', 'concluded']


@pytest.fixture
def disk(start_server, images, guest_on):
    made = Disk(start_server, images, guest_on)
    made.boot()
    made.guest.random_writes(30)
    return made


def skip_where_it_cannot_be(disk, kind, state='running'):
    if kind == 'commit-depth' and disk.server.is_qemu:
        pytest.skip('QEMU has no such order')
    if state in ('ready', 'standby') and kind not in HAS_READY:
        pytest.skip('this job is never ready')


def bring_to(disk, kind, state):
    """Start the job and bring it to `state`, and no further."""
    slow = state in ('running', 'paused')
    job = disk.start(kind, speed=1 if slow else 0,
                     auto_finalize=state != 'pending', auto_dismiss=False)
    if slow:
        job.wait('running')
    if kind in HAS_READY and not slow:
        job.wait('BLOCK_JOB_READY')
        if state in ('pending', 'concluded'):
            disk.server.qmp('job-complete', id='j')
    if state in ('paused', 'standby'):
        disk.server.qmp('job-pause', id='j')
    if state not in ('running', 'ready'):
        job.wait({'pending': 'BLOCK_JOB_PENDING'}.get(state, state))
    return job


@pytest.mark.parametrize('how', ['SIGTERM', 'quit'])
@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('kind', KINDS)
def test_server_ends(disk, kind, state, how):
    """At once, with every image whole, and the job runs again."""
    skip_where_it_cannot_be(disk, kind, state)
    if disk.server.is_qemu and state == 'pending':
        pytest.skip('QEMU 7.2 asserts in bdrv_close_all')
    bring_to(disk, kind, state)
    if state not in ('pending', 'concluded'):
        disk.guest.random_writes(20)
    model = disk.guest.freeze()
    disk.guest.close()
    if how == 'quit':
        disk.server.quit()
    else:
        disk.server.kill(signal.SIGTERM)
        disk.server.wait_exit()
    same_bytes(disk.content('top'), model, 'the disk')
    if state == 'concluded':
        if kind in ('backup', 'mirror'):
            same_bytes(disk.target_content(), model, 'the target')
        elif kind == 'commit-active':
            same_bytes(disk.content('base'), model, 'the base')


@pytest.mark.parametrize('kind', KINDS)
def test_client_disappears(disk, kind):
    """The job goes on; who comes next finds it and ends it."""
    skip_where_it_cannot_be(disk, kind)
    job = disk.start(kind, speed=1, auto_dismiss=False)
    job.wait('running')
    disk.server.mon.close()
    disk.server.mon = disk.server.connect()
    assert Job(disk.server, 'j').info()['type'] == kind.split('-')[0]
    disk.guest.random_writes(20)
    job = Job(disk.server, 'j')
    job.set_speed(0)
    if kind in HAS_READY:
        job.wait('BLOCK_JOB_READY')
        disk.server.qmp('job-complete', id='j')
    job.wait('concluded')
    assert 'error' not in job.info()
    job.dismiss()
    disk.guest.verify()


@pytest.mark.ours('one client at a time there')
@pytest.mark.parametrize('kind', KINDS)
def test_client_disappears_with_its_command(disk, kind):
    """It sends the command and is gone before the reply."""
    skip_where_it_cannot_be(disk, kind)
    first = disk.server.mon
    disk.server.mon = watcher = disk.server.connect()
    if kind in ('backup', 'mirror'):
        disk.target()
        text = '{"execute":"blockdev-%s","arguments":{"job-id":"j",' \
               '"device":"top","target":"target","sync":"full"}}\n' % kind
    elif kind == 'stream':
        text = '{"execute":"block-stream","arguments":{"job-id":"j",' \
               '"device":"top"}}\n'
    else:
        text = '{"execute":"block-commit","arguments":{"job-id":"j",' \
               '"device":"top"%s}}\n' % (
                   '' if kind == 'commit-active' else
                   ',"top-node":"mid"' + (
                       ',"commit-order":"depth-first"'
                       if kind == 'commit-depth' else ''))
    first.send_raw(text)
    first.close()
    finish(Job(disk.server, 'j'))
    assert disk.server.mon is watcher
    disk.guest.verify()


VERBS = ['job-pause', 'job-resume', 'job-complete', 'job-cancel',
         'job-finalize', 'job-dismiss']


@pytest.mark.ours('one client at a time there')
@pytest.mark.parametrize('kind', KINDS)
def test_two_managers(disk, kind):
    """Both send verbs as fast as they can; the job ends once, for both."""
    other = disk.server.connect(name='other')
    job = disk.start(kind, auto_dismiss=False, auto_finalize=False,
                     speed=1 << 20)
    answers = {'main': [], 'other': []}

    def hail(mon, name):
        for _ in range(12):
            for verb in VERBS:
                try:
                    mon.execute(verb, {'id': 'j'})
                    answers[name].append(verb)
                except QmpError as exc:
                    assert "'j'" in exc.desc or 'ob' in exc.desc, exc

    threads = [threading.Thread(target=hail, args=(mon, name))
               for mon, name in ((disk.server.mon, 'main'),
                                 (other, 'other'))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    if 'job-dismiss' not in answers['main'] + answers['other']:
        # The job outlived all their verbs: one more round ends it.
        job.wait('concluded')
        hail(disk.server.mon, 'main')
    job.wait('null')
    assert job.steps.count('concluded') == 1
    assert 1 == (answers['main'] + answers['other']).count('job-dismiss')
    last = other.wait_for(lambda event: event['data'].get('status') == 'null',
                          'that the job is gone')
    statuses = [event['data']['status'] for event in other.pump() + [last]
                if event['event'] == 'JOB_STATUS_CHANGE']
    assert statuses == [step for step in job.steps if step.islower()]
    other.close()
    assert disk.server.qmp('query-jobs') == []
    disk.guest.verify()
