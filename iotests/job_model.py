# SPDX-License-Identifier: MIT
"""A disk, its chain of images, its guest, and jobs that are disturbed.

`Model` owns a server with one disk: a chain of images (active layer first),
exported over NBD, and a guest that writes to it at random and knows what it
holds.  What is done to it is in job_actions.py.
"""

import json

from .jobs import Job
from .qmp import QmpError

KIB = 1 << 10
MIB = 1 << 20

# Refused, and nothing has changed: what a random verb may meet.
LATE = ('cannot accept command verb', 'Job not found', 'is currently paused',
        'Job is already paused', 'cannot be completed', 'Block job',
        "Can't resume a job")


class Layer:
    """One image, of the chain or of a job; `faulty`: its file fails once."""

    def __init__(self, node, path, fmt):
        self.node = node
        self.path = path
        self.fmt = fmt
        self.faulty = False


class Model:
    """See above."""

    def __init__(self, start_server, images, guest_on, rnd):
        self.start_server = start_server
        self.images = images
        self.guest_on = guest_on
        self.rnd = rnd
        self.n_names = 0
        self.size = rnd.choice((MIB, 2 * MIB, 3 * MIB)) + \
            rnd.choice((0, 0, 512, 33 * KIB))
        self.chain = []
        self.backup = None      # path of the last backup, if the bitmap b0
        self.server = None      # of the active layer continues it
        self.guest = None
        self.actions = []       # what was done, for who reads a failure
        self.make_chain()
        self.boot()

    # The disk

    def name(self, stem):
        self.n_names += 1
        return f'{stem}{self.n_names}'

    def new_image(self, stem, fmt, backing=None, size=None):
        name = self.name(stem)
        options = {}
        if fmt == 'qcow2':
            options['cluster_size'] = self.rnd.choice((4, 64, 64, 256)) * KIB
        path = self.images.create(
            f'{name}.{fmt}', size or self.size, fmt,
            backing=backing.path if backing else None, **options)
        if fmt == 'qcow2':
            self.images.allow_leaks(path)   # it may be killed
        return Layer(name, path, fmt)

    def make_chain(self):
        below = None
        for _ in range(self.rnd.choice((1, 2, 3, 4))):
            fmt = 'qcow2' if below else self.rnd.choice(('raw', 'qcow2'))
            layer = self.new_image('layer', fmt, below)
            writes = []
            for _ in range(self.rnd.randint(0, 4)):
                at = self.rnd.randrange(self.size // 512) * 512
                n = min(self.rnd.choice((512, 5 * KIB, 200 * KIB)),
                        self.size - at)
                writes.append(self.rnd.choice((
                    f'write -P {self.rnd.randint(1, 255)} {at} {n}',
                    f'write -z {at} {n}')))
            if writes:
                self.images.io(layer.path, *writes, fmt=fmt)
            self.chain.insert(0, layer)
            below = layer

    @property
    def active(self):
        return self.chain[0]

    def add(self, layer, backing, read_only):
        file = {'driver': 'file', 'filename': layer.path,
                'auto-read-only': True}
        if layer.faulty:
            file = {'driver': 'blkdebug', 'image': file, 'inject-error': [{
                'event': 'none', 'iotype': 'write', 'once': True,
                'errno': self.rnd.choice((5, 28))}]}
        options = {'driver': layer.fmt, 'node-name': layer.node,
                   'read-only': read_only, 'file': file}
        if layer.fmt == 'qcow2':
            options['backing'] = backing and backing.node
        self.server.qmp('blockdev-add', options)

    def boot(self):
        """A new server with the chain as it is, and a guest on it."""
        self.server = self.start_server()
        below = None
        for layer in reversed(self.chain):
            self.add(layer, below, layer is not self.active)
            below = layer
        self.server.export(self.active.node, 'disk')
        self.guest = self.guest_on(self.server, 'disk', trims=True,
                                   seed=self.rnd.random(),
                                   max_bytes=self.rnd.choice((8, 64, 300))
                                   * KIB)
        self.guest.start()
        self.held = False
        self.backup = None

    def hold(self):
        """The guest makes no request until release()."""
        self.guest.pause()
        self.held = True

    def release(self):
        self.held = False
        self.guest.resume()

    def let_write(self, most):
        if not self.held:
            self.guest.wait_writes(self.rnd.randint(0, most))

    def verify(self):
        self.guest.verify()

    def node_gone(self, layer):
        self.server.qmp('blockdev-del', node_name=layer.node)

    def forget(self, layer):
        """Close an image that is no longer of use."""
        self.node_gone(layer)
        self.images.ignore(layer.path)

    # Jobs

    def policy(self, faulty):
        return self.rnd.choice(('report', 'stop', 'ignore', 'enospc')) \
            if faulty else 'report'

    def common(self):
        """Arguments that every job takes; its id is new."""
        return {'job-id': self.name('job'), 'auto-dismiss': False,
                'auto-finalize': self.rnd.random() < .8,
                'speed': self.rnd.choice((0, 0, MIB, 4 * MIB, 65536)),
                **({'filter-node-name': self.name('filter')}
                   if self.rnd.random() < .3 else {})}

    def start(self, command, arguments, at_start=None):
        """Start a job between two requests of the guest; at_start() is
        called at that moment."""
        self.actions.append(f'{command} {json.dumps(arguments)}')
        self.hold()
        try:
            self.server.qmp(command, arguments)
            if at_start:
                at_start()
        finally:
            self.release()
        return Job(self.server, arguments['job-id'])

    def verb(self, command, **arguments):
        """True: done.  False: refused, as it came too late."""
        try:
            self.server.qmp(command, {key.replace('_', '-'): value for
                                      key, value in arguments.items()})
        except QmpError as exc:
            assert any(text in exc.desc for text in LATE), exc
            return False
        self.actions.append(f'{command} {arguments}')
        return True

    def disturb(self, job):
        """Some verbs, the last one perhaps a cancel: True."""
        cancelled = False
        for _ in range(self.rnd.randint(0, 4)):
            self.let_write(6)
            kind = self.rnd.random()
            if kind < .3:
                self.verb('job-pause', id=job.id)
                self.let_write(6)
                self.verb('job-resume', id=job.id)
            elif kind < .9:
                self.verb('block-job-set-speed', device=job.id,
                          speed=self.rnd.choice((0, 65536, MIB, 100 * MIB)))
            else:
                cancelled = self.verb('job-cancel', id=job.id)
                break
        self.verb('block-job-set-speed', device=job.id, speed=0)
        return cancelled

    def complete(self, job):
        """Until it is accepted: a drain or an error may be in the way."""
        while not self.verb('job-complete', id=job.id):
            if job.status() not in ('ready', 'standby'):
                return
            self.verb('job-resume', id=job.id)

    def end(self, job, on_ready=None):
        """Bring the job to its end.  True: it succeeded."""
        while True:
            step = job.next_step()
            if step == 'BLOCK_JOB_ERROR' and \
                    job.events[step]['action'] == 'stop':
                self.verb('job-resume', id=job.id)
            elif step == 'BLOCK_JOB_READY':
                on_ready(job)
            elif step == 'pending' and not self.auto_finalize(job):
                if not (self.server.is_qemu and 'ready' in job.steps):
                    self.let_write(4)   # QEMU lets a guest wait till then
                self.verb('job-finalize', id=job.id)
            elif step == 'concluded':
                break
        error = job.info().get('error')
        self.actions.append(f'{job.id}: {error or "success"}')
        job.dismiss()
        return error is None and 'BLOCK_JOB_CANCELLED' not in job.events

    @staticmethod
    def auto_finalize(job):
        info = job.block_info()
        return info is None or info['auto-finalize']
