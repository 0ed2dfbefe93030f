# SPDX-License-Identifier: MIT
"""Words for block jobs: start one, follow it, wait for its end."""

from .qmp import QmpError, TIMEOUT

BLOCK_JOB_EVENTS = ('BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED',
                    'BLOCK_JOB_READY', 'BLOCK_JOB_PENDING',
                    'BLOCK_JOB_ERROR')

# What the wire shows of a job that starts, and of the ways it ends.
MIRROR_IS_READY = ['created', 'running', 'ready', 'BLOCK_JOB_READY']
BACKUP_STARTS = ['created', 'running', 'paused', 'running']
SUCCEEDS = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']
FAILS = ['aborting', 'BLOCK_JOB_COMPLETED', 'concluded']
CANCELLED = ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded']


def is_about(event, job_id):
    data = event.get('data', {})
    if event['event'] == 'JOB_STATUS_CHANGE':
        return data['id'] == job_id
    return event['event'] in BLOCK_JOB_EVENTS and \
        job_id in (data.get('id'), data.get('device'))


class Job:
    """What the wire says of one job, in order.

    `steps` has the statuses and, in capitals, the BLOCK_JOB events;
    `events` the BLOCK_JOB events themselves by name (the last of each).
    """

    def __init__(self, server, job_id):
        self.server = server
        self.id = job_id
        self.steps = []
        self.events = {}

    def next_step(self, timeout=TIMEOUT):
        event = self.server.mon.wait_for(
            lambda event: is_about(event, self.id),
            f'of job {self.id} (so far {self.steps})', timeout)
        if event['event'] == 'JOB_STATUS_CHANGE':
            step = event['data']['status']
        else:
            step = event['event']
            self.events[step] = event['data']
        self.steps.append(step)
        return step

    def wait(self, step, timeout=TIMEOUT):
        """Follow the job until `step` (a status or an event's name)."""
        while self.next_step(timeout) != step:
            pass
        return self

    def catch_up(self):
        """Follow the job through all that has been told of it."""
        for event in self.server.mon.pump():
            if is_about(event, self.id):
                self.next_step()

    def take(self):
        """The steps since the last take()."""
        self.catch_up()
        steps, self.steps = self.steps, []
        return steps

    def finish(self, timeout=TIMEOUT):
        """Wait for a success and dismiss the job if it needs it."""
        self.wait('concluded', timeout)
        info = self.info()
        assert info is None or 'error' not in info, info
        done = self.events.get('BLOCK_JOB_COMPLETED')
        assert done is None or 'error' not in done, done
        assert 'BLOCK_JOB_CANCELLED' not in self.events, self.steps
        if info and info['status'] == 'concluded':
            self.server.qmp('job-dismiss', id=self.id)
        return self.wait('null')

    def error(self, timeout=TIMEOUT):
        """Wait for a failure; its text.  The job must stay concluded."""
        self.wait('concluded', timeout)
        return self.info().get('error')

    def info(self):
        """The entry of query-jobs, or None."""
        for entry in self.server.qmp('query-jobs'):
            if entry['id'] == self.id:
                return entry
        return None

    def block_info(self):
        """The entry of query-block-jobs, or None."""
        for entry in self.server.qmp('query-block-jobs'):
            if entry['device'] == self.id:
                return entry
        return None

    def status(self):
        info = self.info()
        return info and info['status']

    # Verbs

    def pause(self):
        self.catch_up()
        self.server.qmp('job-pause', id=self.id)
        self.wait('paused')

    def resume(self):
        self.catch_up()
        self.server.qmp('job-resume', id=self.id)
        self.wait('running')

    def cancel(self):
        self.server.qmp('job-cancel', id=self.id)

    def dismiss(self):
        self.server.qmp('job-dismiss', id=self.id)
        self.wait('null')

    def let_run(self):
        """No speed limit any more; the job may have ended meanwhile."""
        if self.status() in ('created', 'running', 'paused'):
            try:
                self.set_speed(0)
            except QmpError as exc:
                assert 'cannot accept command verb' in exc.desc, exc

    def set_speed(self, speed):
        self.server.qmp('block-job-set-speed', device=self.id, speed=speed)


def backup_arguments(device, target, job_id='backup', sync='full', **options):
    return dict({'job-id': job_id, 'device': device, 'target': target,
                 'sync': sync},
                **{k.replace('_', '-'): v for k, v in options.items()})


def start_backup(server, device, target, **options):
    """blockdev-backup with auto-dismiss off; returns the Job."""
    options.setdefault('auto_dismiss', False)
    arguments = backup_arguments(device, target, **options)
    server.qmp('blockdev-backup', arguments)
    return Job(server, arguments['job-id'])


def start_mirror(server, device, target, **options):
    """blockdev-mirror with auto-dismiss off; returns the Job."""
    options.setdefault('auto_dismiss', False)
    options.setdefault('job_id', 'mirror')
    arguments = backup_arguments(device, target, **options)
    server.qmp('blockdev-mirror', arguments)
    return Job(server, arguments['job-id'])


def start_stream(server, device, **options):
    """block-stream with auto-dismiss off; returns the Job."""
    options.setdefault('auto_dismiss', False)
    options.setdefault('job_id', 'stream')
    server.qmp('block-stream', dict(
        {k.replace('_', '-'): v for k, v in options.items()}, device=device))
    return Job(server, options['job_id'])


def create_image(server, job_id='create', **options):
    """blockdev-create; returns the Job."""
    server.qmp('blockdev-create', {
        'job-id': job_id,
        'options': {k.replace('_', '-'): v for k, v in options.items()}})
    return Job(server, job_id)
