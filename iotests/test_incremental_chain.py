# SPDX-License-Identifier: MIT
"""Random life of a disk, backed up again and again; restored, the chain is
the disk at the start of each backup, bit for bit."""

import os
import random

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job, backup_arguments

MIB = 1 << 20
SIZE = 16 * MIB


class Chain:
    """A disk with a guest, and its backups: one full, then increments,
    each an overlay of the one before."""

    def __init__(self, start_server, images, guest_on, rnd):
        self.start_server = start_server
        self.images = images
        self.guest_on = guest_on
        self.rnd = rnd
        self.path = images.create(
            'disk.qcow2', SIZE,
            cluster_size=rnd.choice((512, 4096, 65536, 2 * MIB)))
        self.granularity = rnd.choice((512, 4096, 65536, 65536, 1 << 20))
        self.backups = []       # paths, oldest first
        self.frozen = []        # what each must restore to
        self.guest = None
        self.open()

    def open(self):
        self.server = self.start_server()
        self.server.add_node('disk', self.path, discard='unmap')
        self.server.export('disk')
        self.guest = self.guest_on(self.server, 'disk', trims=True,
                                   unit=self.rnd.choice((1, 512)),
                                   seed=self.rnd.random())

    def close(self):
        self.guest.close()
        self.server.stop()

    def restart(self):
        """Clean shutdown and start; the bitmaps must come back."""
        last = self.guest.freeze()
        self.close()
        self.open()
        same_bytes(self.guest.freeze(), last)

    def crash(self):
        """kill -9 after a flush; bitmaps that nobody can trust go."""
        self.guest.flush()
        last = self.guest.freeze()
        self.images.allow_leaks(self.path)
        self.server.kill()
        self.images.check(self.path, leaks_allowed=True)
        self.open()
        same_bytes(self.guest.freeze(), last)
        for name, bitmap in self.bitmaps().items():
            if bitmap.get('inconsistent'):
                self.server.qmp('block-dirty-bitmap-remove', node='disk',
                                name=name)

    def backup(self, mode):
        """One backup with the guest writing; returns the ended Job."""
        n = len(self.backups)
        backing = self.backups[-1] if mode == 'incremental' else None
        path = self.images.create(
            f'backup{n}.qcow2', SIZE, backing=backing,
            cluster_size=self.rnd.choice((512, 4096, 65536, 2 * MIB)))
        # The target's node sees its backing file, which nobody writes.
        self.server.add_node('target', path)
        arguments = backup_arguments(
            'disk', 'target', f'backup{n}', speed=2 * MIB,
            auto_dismiss=False)
        actions = []
        if mode == 'full':
            verb = 'clear' if 'b' in self.bitmaps() else 'add'
            data = {'node': 'disk', 'name': 'b'}
            if verb == 'add':
                data.update({'persistent': True,
                             'granularity': self.granularity})
            actions.append({'type': f'block-dirty-bitmap-{verb}',
                            'data': data})
        else:
            arguments.update({'sync': 'incremental', 'bitmap': 'b'})
        actions.append({'type': 'blockdev-backup', 'data': arguments})
        self.guest.start()
        self.guest.wait_writes(3)
        self.guest.pause()
        frozen = self.guest.freeze()
        self.server.qmp('transaction', actions=actions)
        self.guest.resume()
        self.guest.wait_writes(self.rnd.randint(0, 25))
        job = Job(self.server, f'backup{n}')
        fate = self.rnd.choice(('run', 'run', 'pause', 'cancel'))
        if fate == 'cancel' and job.status() == 'running':
            job.cancel()
        elif fate == 'pause' and job.status() == 'running':
            try:
                self.server.qmp('job-pause', id=job.id)
                self.guest.wait_writes(5)
                self.server.qmp('job-resume', id=job.id)
            except Exception:
                assert job.status() != 'running'
        job.let_run()
        job.wait('concluded')
        self.guest.stop()
        job.dismiss()
        self.server.qmp('blockdev-del', node_name='target')
        if 'BLOCK_JOB_COMPLETED' in job.events:
            self.backups.append(path)
            self.frozen.append(frozen)
        else:
            os.unlink(self.images.ignore(path))
            if mode == 'full':
                self.server.qmp('block-dirty-bitmap-remove', node='disk',
                                name='b')
        return job

    def bitmaps(self):
        return {b['name']: b for b in
                self.server.nodes()['disk'].get('dirty-bitmaps', [])}

    def verify(self):
        """Restore each backup from its chain and compare."""
        for path, frozen in zip(self.backups, self.frozen):
            same_bytes(self.images.content(path), frozen,
                       os.path.basename(path))
            self.images.check(path)


def test_chain(start_server, images, guest_on, seed):
    rnd = random.Random(seed)
    chain = Chain(start_server, images, guest_on, rnd)
    chain.guest.random_writes(40)
    while not chain.backups:
        chain.backup('full')
    for _ in range(6):
        act = rnd.random()
        if act < 0.6:
            chain.backup('incremental' if chain.bitmaps() else 'full')
        elif act < 0.72:
            chain.restart()
        elif act < 0.78:
            chain.crash()
        elif act < 0.85:
            chain.guest.random_writes(rnd.randint(1, 50))
        else:
            chain.backup('full')
    chain.guest.verify()
    chain.close()
    same_bytes(images.content(chain.path), chain.guest.freeze())
    chain.verify()


def test_chain_committed_into_one(start_server, images, guest_on):
    """qemu-img can flatten our chain."""
    chain = Chain(start_server, images, guest_on, random.Random(42))
    chain.rnd = random.Random(1)
    chain.guest.random_writes(40)
    while len(chain.backups) < 3:
        chain.backup('incremental' if chain.backups else 'full')
    chain.close()
    chain.verify()
    flat = images.path('flat.raw')
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', chain.backups[-1], flat)
    same_bytes(open(flat, 'rb').read(), chain.frozen[-1])
    if len(chain.backups) >= 3:
        top, below = chain.backups[-1], chain.backups[-2]
        qemu_img('commit', '-f', 'qcow2', '-b', below, '-d', top)
        same_bytes(images.content(below), chain.frozen[-1])


def test_standalone_increments_rebased(start_server, images, guest_on):
    """Increments written without a backing file, put together at restore
    time with qemu-img rebase -u; bits and clusters of one size."""
    server = start_server()
    path = images.create('disk.qcow2', SIZE)
    server.add_node('disk', path)
    server.export('disk')
    guest = guest_on(server, 'disk')
    guest.random_writes(40)
    frozen, backups = [], []
    for i in range(4):
        backups.append(images.create(f'b{i}.qcow2', SIZE))
        server.add_node('target', backups[-1])
        arguments = backup_arguments('disk', 'target', 'j',
                                     auto_dismiss=False)
        actions = []
        if i == 0:
            actions = [{'type': 'block-dirty-bitmap-add',
                        'data': {'node': 'disk', 'name': 'b'}}]
        else:
            arguments.update({'sync': 'incremental', 'bitmap': 'b'})
        frozen.append(guest.freeze())
        server.qmp('transaction', actions=actions + [
            {'type': 'blockdev-backup', 'data': arguments}])
        guest.random_writes(20)
        Job(server, 'j').finish()
        server.qmp('blockdev-del', node_name='target')
    guest.close()
    server.stop()
    for below, top in zip(backups, backups[1:]):
        qemu_img('rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', below,
                 top)
    for path, wanted in zip(backups, frozen):
        same_bytes(images.content(path), wanted)


def test_bitmap_survives_kill_as_known(start_server, images, guest_on):
    """After kill -9 an incremental backup is refused, or right."""
    chain = Chain(start_server, images, guest_on, random.Random(3))
    images.allow_leaks(chain.path)
    chain.guest.random_writes(40)
    while not chain.backups:
        chain.backup('full')
    chain.guest.close()
    chain.server.stop()
    chain.open()
    chain.guest.random_writes(20)
    chain.guest.flush()
    chain.server.kill()
    chain.open()
    if chain.bitmaps()['b'].get('inconsistent'):
        chain.server.add_node('target', images.create('t.qcow2', SIZE))
        text = chain.server.fails('blockdev-backup', backup_arguments(
            'disk', 'target', sync='incremental', bitmap='b'))
        assert text.startswith("Bitmap 'b' is inconsistent")
        return
    n_backups = len(chain.backups)
    while len(chain.backups) == n_backups:
        chain.backup('incremental')
    chain.close()
    chain.verify()


@pytest.mark.timeout(120)
def test_two_disks_grouped(start_server, images, guest_on, seed):
    """Grouped increments of two disks are of one moment each time."""
    rnd = random.Random(seed)
    server = start_server()
    guests = {}
    for name in ('a', 'b'):
        server.add_node(name, images.create(f'{name}.qcow2', 4 * MIB))
        server.export(name)
        guests[name] = guest_on(server, name, seed=seed * 2 + (name == 'b'))
    chains = {'a': [], 'b': []}
    frozen = {'a': [], 'b': []}
    for i in range(3):
        actions, first = [], []
        for name in ('a', 'b'):
            path = images.create(
                f'{name}{i}.qcow2', 4 * MIB,
                backing=chains[name][-1] if i else None)
            chains[name].append(path)
            server.add_node(f'to-{name}', path)
            arguments = backup_arguments(name, f'to-{name}', f'job-{name}',
                                         auto_dismiss=False, speed=MIB)
            if i:
                arguments.update({'sync': 'incremental', 'bitmap': 'ck'})
            else:
                first.append({'type': 'block-dirty-bitmap-add',
                              'data': {'node': name, 'name': 'ck'}})
            actions.append({'type': 'blockdev-backup', 'data': arguments})
            frozen[name].append(guests[name].freeze())
        # QEMU 7.2 takes no bitmap actions in a grouped transaction.
        server.qmp('transaction', actions=first)
        server.qmp('transaction', actions=actions,
                   properties={'completion-mode': 'grouped'})
        for guest in guests.values():
            guest.random_writes(rnd.randint(5, 40))
        for name in ('a', 'b'):
            Job(server, f'job-{name}').let_run()
        for name in ('a', 'b'):
            Job(server, f'job-{name}').finish()
            server.qmp('blockdev-del', node_name=f'to-{name}')
    server.stop()
    for name in ('a', 'b'):
        for path, wanted in zip(chains[name], frozen[name]):
            same_bytes(images.content(path), wanted, path)
