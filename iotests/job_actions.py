# SPDX-License-Identifier: MIT
"""What happens to a disk at random, and what each job promises about it.

Each action starts a job with random arguments while the guest writes,
disturbs it (pause, speed, cancel, an injected error), waits for its end and
checks: the disk reads as the guest's model and, if the job succeeded, its
target is what the sync mode promises.
"""

import json
import shutil

from .images import qemu_img, same_bytes
from .job_model import KIB, MIB, Layer, Model
from .jobs import Job


class Actions(Model):
    """See above; step() is one of them."""

    # Backup

    def target(self, fmt=None, backing=None, size=None):
        layer = self.new_image(
            'target', fmt or ('qcow2' if backing else
                              self.rnd.choice(('raw', 'qcow2'))),
            backing, size)
        layer.faulty = self.faulty()
        self.add(layer, None, False)
        return layer

    def faulty(self):
        # QEMU 7.2's backup job cannot spare the guest.
        return self.rnd.random() < .2 and not self.server.is_qemu

    def act_backup(self):
        sync = self.rnd.choice(('full', 'full', 'top', 'none',
                                'incremental', 'incremental'))
        if sync == 'incremental' and not self.backup:
            self.full_backup_with_bitmap()
            return
        if sync == 'incremental':
            target = Layer(self.name('target'),
                           self.images.path(self.name('inc') + '.raw'), 'raw')
            shutil.copyfile(self.backup, target.path)
            target.faulty = self.faulty()
            self.add(target, None, False)
        elif sync == 'top' and len(self.chain) > 1:
            target = self.target('qcow2', self.chain[1])
        else:
            target = self.target()
        frozen = []
        arguments = dict(
            self.common(), device=self.active.node, target=target.node,
            sync=sync, **self.backup_policy(target))
        if sync == 'incremental':
            arguments['bitmap'] = 'b0'
        job = self.start('blockdev-backup', arguments,
                         lambda: frozen.append(self.guest.freeze()))
        if not self.disturb(job) and sync == 'none':
            self.verb('job-cancel', id=job.id)
        done = self.end(job)
        self.node_gone(target)
        if done and sync != 'none':
            same_bytes(self.images.content(target.path, target.fmt),
                       frozen[0], f'backup {target.path}')
        if done and sync == 'incremental':
            self.backup = target.path
        self.images.ignore(target.path)

    def backup_policy(self, target):
        policy = {'on-target-error': self.policy(target.faulty)}
        if target.faulty:       # the guest is not to suffer
            policy['on-cbw-error'] = 'break-snapshot'
        return policy

    def full_backup_with_bitmap(self):
        """Bitmap and full backup of one moment: a chain begins."""
        target = self.target('raw')
        target_data = dict(
            self.common(), device=self.active.node, target=target.node,
            sync='full', **self.backup_policy(target))
        frozen = []
        actions = [
            {'type': 'block-dirty-bitmap-add', 'data': {
                'node': self.active.node, 'name': 'b0',
                'granularity': self.rnd.choice((4, 64)) * KIB}},
            {'type': 'blockdev-backup', 'data': target_data}]
        self.actions.append(f'transaction {json.dumps(actions)}')
        self.hold()
        try:
            self.server.qmp('transaction', actions=actions)
            frozen.append(self.guest.freeze())
        finally:
            self.release()
        job = Job(self.server, target_data['job-id'])
        self.disturb(job)
        done = self.end(job)
        self.node_gone(target)
        if done:
            same_bytes(self.images.content(target.path, 'raw'), frozen[0],
                       f'backup {target.path}')
            self.backup = target.path
        else:
            self.drop_bitmap()

    def drop_bitmap(self):
        self.backup = None
        self.server.qmp('block-dirty-bitmap-remove', node=self.active.node,
                        name='b0')

    # Mirror

    def act_mirror(self):
        sync = self.rnd.choice(('full', 'full', 'top'))
        below = self.chain[1] if sync == 'top' and len(self.chain) > 1 \
            else None
        target = self.new_image('target', 'qcow2' if below else
                                self.rnd.choice(('raw', 'qcow2')), below)
        target.faulty = self.rnd.random() < .2
        self.add(target, below, False)
        arguments = dict(
            self.common(), device=self.active.node, target=target.node,
            sync=sync, **{
                'copy-mode': self.rnd.choice(('background',
                                              'write-blocking')),
                'on-target-error': self.policy(target.faulty)})
        if self.rnd.random() < .5:
            arguments['granularity'] = self.rnd.choice((4, 16, 64)) * KIB
        job = self.start('blockdev-mirror', arguments)
        ways, frozen = [], []

        def on_ready(job):
            self.let_write(20)
            if self.rnd.random() < .3:
                self.verb('job-pause', id=job.id)
                self.let_write(5)
                self.verb('job-resume', id=job.id)
            if arguments['copy-mode'] == 'background' and \
                    self.rnd.random() < .3 and not self.server.is_qemu:
                self.verb('block-job-change', id=job.id, type='mirror',
                          copy_mode='write-blocking')
            way = self.rnd.choice(('complete', 'complete', 'stop', 'force')
                                  [2 * target.faulty:])
            ways.append(way)
            if way == 'stop':
                self.hold()         # the target is of this moment
                frozen.append(self.guest.freeze())
                self.verb('block-job-cancel', device=job.id)
            elif way == 'force':
                self.verb('job-cancel', id=job.id)
            else:
                self.complete(job)

        self.disturb(job)
        try:
            done = self.end(job, on_ready)
        finally:
            if frozen:
                self.release()
        way = ways[-1] if done else 'failed'
        if way == 'complete':
            self.pivoted(target, below)
            return
        self.node_gone(target)
        if way == 'stop':
            same_bytes(self.images.content(target.path, target.fmt),
                       frozen[0], f'mirror {target.path}')
        self.images.ignore(target.path)

    def pivoted(self, target, below):
        """The disk is TARGET now, over BELOW."""
        target.faulty = False
        old = self.chain
        keep = old[old.index(below):] if below else []
        self.chain = [target] + keep
        self.backup = None
        for layer in old:
            if layer not in keep:
                self.forget(layer)

    # Stream, commit, snapshot

    def act_stream(self):
        if len(self.chain) == 1:
            return
        base = self.rnd.choice(self.chain[1:] + [None])
        arguments = dict(self.common(), device=self.active.node, **{
            'on-error': self.rnd.choice(('report', 'stop', 'ignore'))})
        if base and self.rnd.random() < .5:
            arguments['base-node'] = base.node
        elif base and base is not self.chain[1]:
            arguments['bottom'] = \
                self.chain[self.chain.index(base) - 1].node
        elif base:
            arguments['base-node'] = base.node
        job = self.start('block-stream', arguments)
        self.disturb(job)
        if self.end(job):
            keep = self.chain.index(base) if base else len(self.chain)
            gone = self.chain[1:keep]
            self.chain = self.chain[:1] + self.chain[keep:]
            for layer in gone:
                self.forget(layer)

    def act_commit(self):
        if len(self.chain) == 1:
            return
        top = self.rnd.randrange(len(self.chain) - 1)
        base = self.rnd.randrange(top + 1, len(self.chain))
        arguments = dict(
            self.common(), device=self.active.node, **{
                'base-node': self.chain[base].node,
                'on-error': self.rnd.choice(('report', 'stop', 'ignore'))})
        if top or self.rnd.random() < .5:
            arguments['top-node'] = self.chain[top].node
        if top and not self.server.is_qemu and self.rnd.random() < .4:
            arguments['commit-order'] = 'depth-first'
            arguments.pop('filter-node-name', None)

        def on_ready(job):
            self.let_write(20)
            if self.rnd.random() < .7:
                self.complete(job)
            else:
                self.verb('job-cancel', id=job.id)

        job = self.start('block-commit', arguments)
        self.disturb(job)
        if self.end(job, on_ready):
            gone = self.chain[top:base]
            self.chain = self.chain[:top] + self.chain[base:]
        else:
            gone = self.layers_that_left()
        if top == 0 and gone:
            self.backup = None
        for layer in gone:
            self.forget(layer)

    def layers_that_left(self):
        """Depth-first lets a layer go as soon as it is finished."""
        names = set()
        node = self.server.nodes()[self.active.node]
        graph = self.server.nodes()
        while node:
            names.add(node['node-name'])
            below = [c['node-name'] for c in node.get('children', ())
                     if c['child'] == 'backing']
            node = graph[below[0]] if below else None
        if len(names) == 1:
            return []
        gone = [layer for layer in self.chain if layer.node not in names]
        self.chain = [layer for layer in self.chain if layer.node in names]
        return gone

    def act_snapshot(self):
        if len(self.chain) > 5:
            return
        if self.backup:
            self.drop_bitmap()
        overlay = self.new_image('layer', 'qcow2', self.active)
        self.add(overlay, None, False)
        self.actions.append(f'snapshot {overlay.node}')
        self.server.qmp('blockdev-snapshot', node=self.active.node,
                        overlay=overlay.node)
        self.chain.insert(0, overlay)

    # Ends of the server

    def act_restart(self):
        self.actions.append('restart')
        self.guest.stop()
        self.guest.verify()
        self.guest.close()
        self.server.stop()
        self.boot()

    def act_kill(self):
        """The server dies in the middle of a job."""
        if self.server.is_qemu:
            return      # 7.2 may show what another cluster holds now
        start = self.guest.record(flush=True)
        job = self.some_job()
        if job:
            self.disturb(job)
        self.let_write(10)
        self.actions.append('kill')
        self.server.kill()
        self.guest.wait_broken()
        self.chain = self.chain_of_files()
        content = self.images.content(self.active.path, self.active.fmt)
        self.guest.check_after_crash(start, content)
        self.boot()

    def some_job(self):
        """A job that is not asked to complete; no checks of its end."""
        common = dict(self.common(), speed=self.rnd.choice((0, MIB)))
        device = self.active.node
        kind = self.rnd.choice(('backup', 'mirror', 'stream', 'commit'))
        if kind in ('backup', 'mirror'):
            target = self.target()
            return self.start(f'blockdev-{kind}', dict(
                common, device=device, target=target.node, sync='full',
                **(self.backup_policy(target) if kind == 'backup' else {})))
        if len(self.chain) == 1:
            return None
        if kind == 'stream':
            return self.start('block-stream', dict(common, device=device))
        return self.start('block-commit', dict(
            common, device=device, **{
                'top-node': self.rnd.choice(self.chain[:-1]).node,
                'base-node': self.chain[-1].node}))

    def chain_of_files(self):
        """What the headers say, active layer first."""
        known = {layer.path: layer for layer in self.chain}
        info = json.loads(qemu_img('info', '--output=json',
                                   '--backing-chain', '-f', self.active.fmt,
                                   self.active.path))
        chain = [known[entry['filename']] for entry in info]
        for layer in self.chain:
            if layer not in chain:
                self.images.ignore(layer.path)
        return chain

    ACTIONS = (act_backup, act_backup, act_mirror, act_mirror, act_stream,
               act_commit, act_commit, act_snapshot, act_snapshot,
               act_restart, act_kill)

    def step(self):
        action = self.rnd.choice(self.ACTIONS)
        action(self)
        self.verify()
