# SPDX-License-Identifier: MIT
"""kill -9 at every turn of a job's life.

The server kills itself (BLOCKJOBD_KILL_AT, in builds with debug information)
when the job gets a certain status or comes to a certain step of its end.
What is left must be whole: every image checks clean but for leaks, the disk
reads as the guest wrote it, a target of which the job said that it was done
is what its sync mode promises, and the same job runs again.
"""

import os

import pytest

from .images import same_bytes
from .job_disk import Disk, HAS_READY, KINDS, finish
from .qmp import QmpClosed, QmpError
from .server import ServerFailed

pytestmark = pytest.mark.ours('only ours can be told when to die')

# In order; `done`: from here on the copy is whole.
POINTS = ['created', 'running', 'ready', 'waiting', 'pending', 'prepare',
          'commit', 'clean', 'dropped', 'concluded', 'null']
DONE = POINTS[POINTS.index('clean') + 1:]
CANCEL_POINTS = ['aborting', 'abort', 'clean', 'dropped', 'concluded', 'null']


def run_until_killed(disk, kind, cancel):
    """Start the job and do what a manager does; the server dies of it."""
    try:
        job = disk.start(kind)
        if cancel:
            disk.server.qmp('job-cancel', id='j')
            job.wait('null')
        else:
            finish(job)
    except (QmpClosed, ConnectionError, ServerFailed):
        pass
    disk.server.expect_exit = -9
    disk.server.wait_exit()


@pytest.mark.parametrize('point', POINTS)
@pytest.mark.parametrize('kind', KINDS)
def test_killed_on_the_way(start_server, images, guest_on, kind, point):
    if point == 'ready' and kind not in HAS_READY:
        pytest.skip('this job is never ready')
    disk = Disk(start_server, images, guest_on)
    disk.boot({'BLOCKJOBD_KILL_AT': f'j:{point}'})
    disk.guest.random_writes(40)
    disk.guest.flush()
    model = disk.guest.freeze()
    run_until_killed(disk, kind, False)

    same_bytes(disk.content('top'), model, 'the disk')
    if point in DONE or point in ('waiting', 'pending', 'prepare', 'commit'):
        if kind in ('backup', 'mirror'):
            same_bytes(disk.target_content(), model, 'the target')
        elif kind == 'commit-active':
            same_bytes(disk.content('base'), model, 'the base')
    again(disk, kind, point, model)


@pytest.mark.parametrize('point', CANCEL_POINTS)
@pytest.mark.parametrize('kind', KINDS)
def test_killed_while_cancelled(start_server, images, guest_on, kind, point):
    disk = Disk(start_server, images, guest_on)
    disk.boot({'BLOCKJOBD_KILL_AT': f'j:{point}'})
    disk.guest.random_writes(40)
    disk.guest.flush()
    model = disk.guest.freeze()
    run_until_killed(disk, kind, True)
    same_bytes(disk.content('top'), model, 'the disk')
    again(disk, kind, point, model)


def again(disk, kind, point, model):
    """What the manager does next: the same job, in a new server."""
    chain = disk.images.info(disk.paths['top'], '--backing-chain')
    names = [os.path.basename(entry['filename'])[:-len('.qcow2')]
             for entry in chain]
    assert names in (['top', 'mid', 'base'], ['top', 'base'])
    if 'mid' not in names:
        assert kind in ('stream', 'commit', 'commit-depth'), point
        disk.images.ignore(disk.paths.pop('mid'))
    disk.boot()
    disk.guest.verify()
    try:
        job = disk.start(kind)
    except QmpError:
        assert 'mid' not in names       # it was done
        return
    finish(job)
    disk.guest.verify()
    assert bytes(disk.guest.model) == model
    disk.guest.close()
    disk.server.stop()
    if kind in ('backup', 'mirror'):
        same_bytes(disk.target_content(), model, 'the target')
