# SPDX-License-Identifier: MIT
"""A disk of three images and each kind of job on it, in the same words."""

from .jobs import Job

MIB = 1 << 20
SIZE = 2 * MIB + 512

KINDS = ['backup', 'mirror', 'stream', 'commit', 'commit-active',
         'commit-depth']
HAS_READY = ('mirror', 'commit-active')


class Disk:
    """base <- mid <- top, exported; a guest has written to it."""

    def __init__(self, start_server, images, guest_on):
        self.start_server = start_server
        self.images = images
        self.guest_on = guest_on
        base = images.create('base.qcow2', SIZE)
        mid = images.create('mid.qcow2', SIZE, backing=base)
        top = images.create('top.qcow2', SIZE, backing=mid)
        images.io(base, 'write -P 1 0 1M', 'write -P 2 1M 1M')
        images.io(mid, 'write -P 3 256k 512k', 'write -z 1M 128k')
        images.io(top, 'write -P 4 512k 300k', 'write -z 1280k 64k')
        self.paths = {'base': base, 'mid': mid, 'top': top}
        for path in self.paths.values():
            images.allow_leaks(path)
        self.server = self.guest = self.target_path = None

    def boot(self, env=()):
        self.server = self.start_server(env=env)
        below = None
        for name, path in self.paths.items():
            self.server.add_node(name, path, read_only=name != 'top',
                                 auto_read_only=True, backing=below)
            below = name
        self.server.export('top', 'disk')
        self.guest = self.guest_on(self.server, 'disk', seed=7)
        return self.server

    def target(self):
        path = self.images.create('target.qcow2', SIZE)
        self.images.allow_leaks(path)
        self.server.add_node('target', path, backing=None)
        self.target_path = path

    def start(self, kind, **options):
        arguments = dict({'job-id': 'j', 'device': 'top'},
                         **{key.replace('_', '-'): value
                            for key, value in options.items()})
        if kind in ('backup', 'mirror'):
            self.target()
            self.server.qmp(f'blockdev-{kind}', dict(
                arguments, target='target', sync='full'))
        elif kind == 'stream':
            self.server.qmp('block-stream', dict(
                arguments, **{'base-node': 'base'}))
        else:
            if kind != 'commit-active':
                arguments['top-node'] = 'mid'
            if kind == 'commit-depth':
                arguments['commit-order'] = 'depth-first'
            self.server.qmp('block-commit', dict(
                arguments, **{'base-node': 'base'}))
        return Job(self.server, 'j')

    def content(self, name):
        return self.images.content(self.paths[name], 'qcow2')

    def target_content(self):
        return self.images.content(self.target_path, 'qcow2')


def finish(job):
    """What a manager does up to the job's end."""
    while job.next_step() != 'null':
        if job.steps[-1] == 'BLOCK_JOB_READY':
            job.server.qmp('job-complete', id=job.id)
    assert 'error' not in job.events['BLOCK_JOB_COMPLETED']
