# SPDX-License-Identifier: MIT
"""Backups that end together: one fails, stops, is paused or cancelled while
the others are at another point of their lives."""

import threading

import pytest

from .faults import damaged_source
from .jobs import CANCELLED, FAILS, Job, SUCCEEDS
from .qmp import QmpError

MIB = 1 << 20


class Group:
    """Jobs `good` (copied at once), `bad` (its source has a cluster at 1 MiB
    that cannot be read) and `slow` (its first step only)."""

    def __init__(self, server, images, bad=None, **options):
        self.server = server
        self.damage = damaged_source(images)
        self.targets = {}
        server.add_node('src-bad', self.damage.path)
        for name in ('good', 'slow'):
            path = images.create(f'{name}.qcow2', '4M')
            images.io(path, 'write -P 2 0 3M')
            server.add_node(f'src-{name}', path)
        for name in ('good', 'bad', 'slow'):
            self.targets[name] = images.create(f'to-{name}.qcow2', '4M')
            server.add_node(f'dst-{name}', self.targets[name])
        own = {'good': {}, 'slow': {'speed': 1}, 'bad': bad or {}}
        server.qmp('transaction', actions=[
            {'type': 'blockdev-backup', 'data': dict({
                'job-id': name, 'device': f'src-{name}',
                'target': f'dst-{name}', 'sync': 'full',
                'auto-dismiss': False}, **options, **own[name])}
            for name in ('good', 'bad', 'slow')],
            properties={'completion-mode': 'grouped'})
        self.good, self.bad, self.slow = self.jobs = [
            Job(server, name) for name in ('good', 'bad', 'slow')]

    def catch_up(self):
        for job in self.jobs:
            job.take()

    def ended(self, good, bad, slow):
        """All have ended so, and nothing is left of them."""
        for job, steps in zip(self.jobs, (good, bad, slow)):
            job.wait('concluded')
            assert job.steps == steps, job.id
            job.dismiss()
        assert self.server.qmp('query-block-jobs') == []
        for name in ('good', 'bad', 'slow'):
            self.server.qmp('blockdev-del', node_name=f'dst-{name}')
            self.server.qmp('blockdev-del', node_name=f'src-{name}')


def test_fails_while_one_waits_and_one_is_paused(server, images):
    group = Group(server, images, bad={'speed': 1})
    group.good.wait('waiting')
    group.slow.pause()
    group.catch_up()
    group.bad.set_speed(0)
    group.ended(CANCELLED, ['BLOCK_JOB_ERROR'] + FAILS,
                ['running'] + CANCELLED)


def test_stopped_by_an_error_and_resumed(server, images):
    """The others wait for it, and nothing of the error is left."""
    group = Group(server, images, bad={'on-source-error': 'stop'})
    group.good.wait('waiting')
    group.bad.wait('BLOCK_JOB_ERROR').wait('paused')
    group.slow.set_speed(0)
    group.slow.wait('waiting')
    group.catch_up()
    group.damage.repair()
    server.qmp('job-resume', id='bad')
    group.ended(SUCCEEDS[1:], ['running'] + SUCCEEDS, SUCCEEDS[1:])
    images.identical(group.targets['bad'], group.damage.path)


@pytest.mark.parametrize('victim', ['good', 'bad', 'slow'])
def test_cancel_while_stopped_by_an_error(server, images, victim):
    """Whichever is cancelled takes the others along."""
    group = Group(server, images, bad={'on-source-error': 'stop'})
    group.good.wait('waiting')
    group.bad.wait('BLOCK_JOB_ERROR').wait('paused')
    group.catch_up()
    server.qmp('job-cancel', id=victim)
    group.ended(CANCELLED, ['running'] + CANCELLED, CANCELLED)


@pytest.mark.parametrize('how', ['job-cancel', 'block-job-cancel'])
def test_cancel_in_pending(server, images, how):
    group = Group(server, images, bad={'on-source-error': 'stop'},
                  **{'auto-finalize': False})
    group.bad.wait('BLOCK_JOB_ERROR').wait('paused')
    group.damage.repair()
    server.qmp('job-resume', id='bad')
    group.slow.set_speed(0)
    for job in group.jobs:
        job.wait('BLOCK_JOB_PENDING')
    group.catch_up()
    server.qmp(how, {'id' if how == 'job-cancel' else 'device': 'bad'})
    group.ended(CANCELLED, CANCELLED, CANCELLED)


@pytest.mark.parametrize('asked', ['good', 'slow'])
def test_one_that_waits_for_its_user(server, images, asked):
    """...holds the others; to finalize any of them finalizes all."""
    group = Group(server, images, bad={
        'on-source-error': 'stop', 'auto-finalize': False})
    group.bad.wait('BLOCK_JOB_ERROR').wait('paused')
    group.damage.repair()
    server.qmp('job-resume', id='bad')
    group.slow.set_speed(0)
    group.bad.wait('BLOCK_JOB_PENDING')
    assert {job.status() for job in group.jobs} == {'pending'}
    group.catch_up()
    server.qmp('job-finalize', id=asked)
    group.ended(*[SUCCEEDS[2:]] * 3)


@pytest.mark.ours('one client at a time there')
def test_cancelled_while_it_is_made(start_server):
    """Another manager cancels jobs whose transaction is still being made, or
    taken back because a later action failed."""
    server = start_server()
    for name in ('a', 'b', 'to-a', 'to-b'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=4 * MIB)
    other = server.connect(name='other')
    stop = threading.Event()

    def cancel():
        while not stop.is_set():
            for name in ('a', 'b'):
                try:
                    other.execute('job-cancel', {'id': name})
                except QmpError as exc:
                    assert 'not found' in exc.desc or name in exc.desc

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        for n in range(200):
            last = {'job-id': 'b', 'device': 'b',
                    'target': 'to-b' if n % 2 else 'to-a', 'sync': 'none'}
            arguments = {'actions': [
                {'type': 'blockdev-backup', 'data': data} for data in (
                    {'job-id': 'a', 'device': 'a', 'target': 'to-a',
                     'sync': 'none'}, last)],
                'properties': {'completion-mode': 'grouped'}}
            if n % 2:
                server.qmp('transaction', arguments)
                for name in ('a', 'b'):
                    job = Job(server, name).wait('null')
                    assert 'BLOCK_JOB_CANCELLED' in job.steps
            else:
                with pytest.raises(QmpError, match='to-a'):
                    server.qmp('transaction', arguments)
                server.mon.drop_events()
    finally:
        stop.set()
        thread.join()
    other.close()
    assert server.qmp('query-jobs') == []
