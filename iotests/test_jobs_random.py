# SPDX-License-Identifier: MIT
"""Jobs under a hail of verbs.

Random verbs on random jobs, alone and in grouped transactions, while they
run, pause, fail and end.  Whatever is answered: every job's statuses form a
legal way through the table, its BLOCK_JOB events stand where they must, the
queries agree with the events, and at the end nothing is left.
"""

import random
import re

import pytest

from .jobs import BLOCK_JOB_EVENTS, backup_arguments
from .qmp import QmpError

MIB = 1 << 20

# status: what may follow
FOLLOWS = {
    None: {'created'},
    'created': {'running', 'aborting', 'null'},
    'running': {'paused', 'ready', 'waiting', 'aborting'},
    'paused': {'running'},
    'ready': {'standby', 'waiting', 'aborting'},
    'standby': {'ready'},
    'waiting': {'pending', 'aborting'},
    'pending': {'concluded', 'aborting'},
    'aborting': {'concluded'},
    'concluded': {'null'},
    'null': {'created'},        # the id is used again
}
REFUSALS = re.compile('|'.join((
    r"Job '.*' in state '.*' cannot accept command verb '.*'",
    'Job not found', "Block job '.*' not found", 'Job is already paused',
    "Can't resume a job that was not paused",
    "The block job for device '.*' is currently paused",
    "Job '.*' is being finalized already",      # ours: it takes a moment
    "Job ID '.*' already in use", 'Block job .* not found',
    "Node '.*' is busy: block device is in use by block job: .*")))
N_DISKS = 4


class Watch:
    """Checks each event as it comes."""

    def __init__(self, server):
        self.server = server
        self.status = {}
        self.ended = {}     # COMPLETED or CANCELLED seen since created

    def look(self, timeout=0.0):
        self.server.mon.pump(timeout)
        self.look_at_known()

    def look_at_known(self):
        """Only what came before the last reply."""
        while self.server.mon._events:
            self.check(self.server.mon._events.popleft())

    def check(self, event):
        data = event.get('data', {})
        if event['event'] == 'JOB_STATUS_CHANGE':
            job_id, status = data['id'], data['status']
            before = self.status.get(job_id)
            assert status in FOLLOWS[before], \
                f'{job_id}: {status} after {before}'
            if status == 'created':
                self.ended.pop(job_id, None)
            if status == 'running' and before == 'created':
                self.ended[job_id] = None
            self.status[job_id] = status
        elif event['event'] in BLOCK_JOB_EVENTS:
            job_id = data.get('device', data.get('id'))
            status = self.status[job_id]
            if event['event'] in ('BLOCK_JOB_COMPLETED',
                                  'BLOCK_JOB_CANCELLED'):
                assert self.ended[job_id] is None, f'{job_id} ends twice'
                self.ended[job_id] = event['event']
                failed = 'error' in data or \
                    event['event'] == 'BLOCK_JOB_CANCELLED'
                assert status == ('aborting' if failed else 'pending'), \
                    (event, status)
                assert 0 <= data['offset'] <= data['len']
            elif event['event'] == 'BLOCK_JOB_PENDING':
                assert status in ('pending', 'waiting')


def verb(rnd, server, job_id):
    """Run some verb; refusals are fine, others are not."""
    name = rnd.choice(('pause', 'resume', 'cancel', 'finalize', 'dismiss',
                       'complete', 'set-speed', 'pause', 'resume',
                       'set-speed', 'dismiss'))
    block = rnd.random() < 0.4 or name == 'set-speed'
    command = f'block-job-{name}' if block else f'job-{name}'
    key = 'device' if block and name not in ('finalize', 'dismiss') else 'id'
    arguments = {key: job_id}
    if name == 'set-speed':
        arguments['speed'] = rnd.choice((0, 1, 65536, 1 << 20, 1 << 40))
    if command == 'block-job-cancel' and rnd.random() < 0.5:
        arguments['force'] = rnd.random() < 0.5
    try:
        server.qmp(command, arguments)
    except QmpError as exc:
        assert REFUSALS.fullmatch(exc.desc), exc


def start(rnd, server, n):
    """One backup, or a grouped pair."""
    def arguments(i):
        return backup_arguments(
            f's{i}', f'd{i}', f'j{i}',
            speed=rnd.choice((0, 1, 65536, 4 << 20)),
            auto_finalize=rnd.random() < 0.5,
            auto_dismiss=rnd.random() < 0.5)
    try:
        if rnd.random() < 0.4:
            server.qmp('transaction', {
                'actions': [{'type': 'blockdev-backup', 'data': arguments(i)}
                            for i in rnd.sample(range(N_DISKS), 2)],
                'properties': {'completion-mode': 'grouped'}})
        else:
            server.qmp('blockdev-backup', arguments(n))
    except QmpError as exc:
        assert REFUSALS.fullmatch(exc.desc), exc


@pytest.mark.timeout(90)
def test_random_verbs(server, seed):
    rnd = random.Random(seed)
    watch = Watch(server)
    for i in range(N_DISKS):
        for name in (f's{i}', f'd{i}'):
            server.qmp('blockdev-add', driver='null-co', node_name=name,
                       size=rnd.choice((MIB, 16 * MIB)) if name[0] == 's'
                       else server.nodes()[f's{i}']['image']['virtual-size'])
    for _ in range(300):
        if rnd.random() < 0.25:
            start(rnd, server, rnd.randrange(N_DISKS))
        else:
            verb(rnd, server, f'j{rnd.randrange(N_DISKS)}')
        if rnd.random() < 0.2:
            watch.look(rnd.choice((0, 0.002, 0.02)))
            jobs = server.qmp('query-jobs')
            watch.look_at_known()
            for job in jobs:
                assert 0 <= job['current-progress'] <= job['total-progress']
                assert watch.status[job['id']] == job['status']
    # Bring all to an end.
    for _ in range(200):
        jobs = server.qmp('query-jobs')
        if not jobs:
            break
        for job in jobs:
            verb_name = 'dismiss' if job['status'] == 'concluded' \
                else 'cancel'
            try:
                server.qmp(f'job-{verb_name}', id=job['id'])
            except QmpError as exc:
                assert REFUSALS.fullmatch(exc.desc), exc
        watch.look(0.02)
    assert server.qmp('query-jobs') == []
    watch.look()
    assert set(watch.status.values()) <= {'null'}
    assert all(watch.ended.values())
    assert len(server.nodes()) == 2 * N_DISKS
    for i in range(N_DISKS):
        server.qmp('blockdev-del', node_name=f's{i}')
        server.qmp('blockdev-del', node_name=f'd{i}')
