# SPDX-License-Identifier: MIT
"""The command sequences libvirt 9 sends for backups and checkpoints."""

import os
import signal

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job
from .nbd import NbdClient
from .test_bitmaps import bitmaps, count

MIB = 1 << 20
SIZE = 16 * MIB
GRANULARITY = 65536


class Domain:
    """One disk 'vda', opened as libvirt does."""

    def __init__(self, server, images, guest_on):
        self.server = server
        self.images = images
        self.n_nodes = 0
        self.path = images.create('vda.qcow2', SIZE)
        self.top = self._attach(self.path)
        server.export(self.top, 'guest')
        self.guest = guest_on(server, 'guest')

    def _attach(self, path, **options):
        self.n_nodes += 1
        storage = f'libvirt-{self.n_nodes}-storage'
        node = f'libvirt-{self.n_nodes}-format'
        self.server.qmp('blockdev-add', {
            'driver': 'file', 'filename': path, 'node-name': storage,
            'auto-read-only': True, 'discard': 'unmap'})
        self.server.qmp('blockdev-add', dict({
            'node-name': node, 'read-only': False, 'discard': 'unmap',
            'driver': 'qcow2', 'file': storage}, **options))
        return node

    def image_of(self, node):
        """From query-named-block-nodes, as often as libvirt asks."""
        for entry in self.server.qmp('query-named-block-nodes', flat=True):
            if entry['node-name'] == node:
                return entry
        raise AssertionError(f'no node {node}')

    def new(self, name, backing=None, backing_path=None):
        """'new(backing)': file, create job, open."""
        size = self.image_of(self.top)['image']['virtual-size']
        cluster = self.image_of(self.top)['image']['cluster-size']
        path = self.images.path(name)
        with open(path, 'w', encoding='ascii'):
            pass
        self.n_nodes += 1
        storage = f'libvirt-{self.n_nodes}-storage'
        node = f'libvirt-{self.n_nodes}-format'
        self.server.qmp('blockdev-add', {
            'driver': 'file', 'filename': path, 'node-name': storage,
            'auto-read-only': True, 'discard': 'unmap'})
        options = {'driver': 'qcow2', 'file': storage, 'size': size,
                   'cluster-size': cluster}
        if backing_path:
            options.update({'backing-file': backing_path,
                            'backing-fmt': 'qcow2'})
        self.server.qmp('blockdev-create', {
            'job-id': f'create-{node}', 'options': options})
        self.conclude(f'create-{node}')
        self.server.qmp('blockdev-add', {
            'node-name': node, 'read-only': False, 'driver': 'qcow2',
            'file': storage, 'backing': backing})
        self.images.adopt(path)
        return node, storage, path

    def conclude(self, job_id, failed=False):
        job = Job(self.server, job_id).wait('concluded')
        entry = next(j for j in self.server.qmp('query-jobs')
                     if j['id'] == job_id)
        assert entry['status'] == 'concluded'
        assert ('error' in entry) == failed, entry
        self.server.qmp('job-dismiss', id=job_id)
        return job

    def transact(self, *actions):
        self.server.qmp('transaction', actions=[
            {'type': kind, 'data': {k.replace('_', '-'): v
                                    for k, v in data.items()}}
            for kind, data in actions])

    def drop(self, node, storage):
        self.server.qmp('blockdev-del', node_name=node)
        self.server.qmp('blockdev-del', node_name=storage)

    def checkpoint(self, name):
        return ('block-dirty-bitmap-add', {
            'node': self.top, 'name': name, 'persistent': True,
            'disabled': False})

    def push(self, name, since=None, checkpoint=None):
        """backup-begin in push mode; the path and what it must hold."""
        incremental = since is not None
        node, storage, path = self.new(
            name, backing=self.top if incremental else None,
            backing_path=self.path if incremental else None)
        backup = {'device': self.top, 'target': node,
                  'job-id': 'backup-vda-' + node, 'sync': 'full',
                  'auto-finalize': True, 'auto-dismiss': False}
        actions = []
        if checkpoint:
            actions.append(self.checkpoint(checkpoint))
        if incremental:
            actions += [
                ('block-dirty-bitmap-add', {
                    'node': self.top, 'name': 'backup-vda',
                    'persistent': False, 'disabled': True,
                    'granularity': GRANULARITY}),
                ('block-dirty-bitmap-merge', {
                    'node': self.top, 'target': 'backup-vda',
                    'bitmaps': [{'node': self.top, 'name': since}]})]
            backup.update({'sync': 'incremental', 'bitmap': 'backup-vda'})
        actions.append(('blockdev-backup', backup))
        self.guest.pause()
        frozen = self.guest.freeze()
        self.transact(*actions)
        self.guest.resume()
        self.guest.random_writes(20)
        self.conclude('backup-vda-' + node)
        if incremental:
            self.server.qmp('block-dirty-bitmap-remove', node=self.top,
                            name='backup-vda')
        self.drop(node, storage)
        return path, frozen


@pytest.fixture
def domain(server, images, guest_on):
    made = Domain(server, images, guest_on)
    made.guest.random_writes(50)
    return made


def test_push_full(domain, images):
    path, frozen = domain.push('full.qcow2')
    same_bytes(images.content(path), frozen)
    assert domain.guest.verify() is None


def test_push_full_with_checkpoint_and_increments(domain, images):
    """Each incremental is an overlay of the disk, opened over the disk
    itself; restored, it goes over the backup before it."""
    paths, frozen = [], []
    for i in range(4):
        path, wanted = domain.push(
            f'b{i}.qcow2', since=f'ck{i - 1}' if i else None,
            checkpoint=f'ck{i}')
        paths.append(path)
        frozen.append(wanted)
        domain.guest.random_writes(20)
    assert set(bitmaps(domain.server, domain.top)) == {
        'ck0', 'ck1', 'ck2', 'ck3'}
    domain.guest.close()
    domain.server.stop()
    for below, top in zip(paths, paths[1:]):
        qemu_img('rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', below,
                 top)
    for path, wanted in zip(paths, frozen):
        same_bytes(images.content(path), wanted, os.path.basename(path))
    assert set(images.bitmaps(domain.path)) == {'ck0', 'ck1', 'ck2', 'ck3'}


def test_pull(domain, images):
    """A client reads the frozen disk and the bitmap over NBD while the
    guest writes; then domjobabort."""
    domain.transact(domain.checkpoint('ck1'))
    domain.guest.write(3 * MIB, b'changed' * 1000)
    domain.guest.write(9 * MIB + 5, b'changed')
    server, disk = domain.server, domain.top
    scratch, storage, _ = domain.new('scratch.qcow2', backing=disk,
                                     backing_path=domain.path)
    frozen = domain.guest.freeze()
    domain.transact(
        ('block-dirty-bitmap-add', {
            'node': scratch, 'name': 'backup-vda', 'persistent': False,
            'disabled': True, 'granularity': GRANULARITY}),
        ('block-dirty-bitmap-merge', {
            'node': scratch, 'target': 'backup-vda',
            'bitmaps': [{'node': disk, 'name': 'ck1'}]}),
        ('blockdev-backup', {
            'device': disk, 'target': scratch, 'job-id': 'backup-vda',
            'sync': 'none', 'auto-finalize': True, 'auto-dismiss': False}))
    server.qmp('block-export-add', {
        'type': 'nbd', 'id': f'libvirt-nbd-{scratch}', 'node-name': scratch,
        'writable': False, 'name': 'vda', 'bitmaps': ['backup-vda']})
    domain.guest.start()
    domain.guest.wait_writes(20)
    context = 'qemu:dirty-bitmap:backup-vda'
    client = NbdClient.connect(server.nbd_path, 'vda',
                               contexts=('base:allocation', context))
    dirty = [e[:2] for e in client.whole_status(context) if e[2] & 1]
    content = b''.join(client.read(at, MIB) for at in range(0, SIZE, MIB))
    client.disconnect()
    domain.guest.stop()
    assert dirty == [[3 * MIB, GRANULARITY], [9 * MIB, GRANULARITY]]
    same_bytes(content, frozen)
    server.qmp('block-job-cancel', device='backup-vda', force=True)
    Job(server, 'backup-vda').wait('concluded')
    server.qmp('job-dismiss', id='backup-vda')
    domain.guest.close()
    server.qmp('nbd-server-stop')
    domain.drop(scratch, storage)
    assert set(bitmaps(server, disk)) == {'ck1'}


def test_checkpoint_create_size_delete(domain):
    domain.transact(domain.checkpoint('ck1'))
    domain.guest.write(MIB, b'x' * 100)
    domain.transact(domain.checkpoint('ck2'))
    domain.guest.write(5 * MIB, b'x' * 100)
    domain.transact(
        ('block-dirty-bitmap-add', {
            'node': domain.top, 'name': 'libvirt-tmp-size-xml',
            'persistent': False, 'disabled': True,
            'granularity': GRANULARITY}),
        ('block-dirty-bitmap-merge', {
            'node': domain.top, 'target': 'libvirt-tmp-size-xml',
            'bitmaps': [{'node': domain.top, 'name': 'ck1'}]}))
    assert count(domain.server, 'libvirt-tmp-size-xml', domain.top) == \
        2 * GRANULARITY
    domain.transact(('block-dirty-bitmap-remove', {
        'node': domain.top, 'name': 'libvirt-tmp-size-xml'}))
    assert count(domain.server, 'ck2', domain.top) == GRANULARITY
    domain.transact(('block-dirty-bitmap-remove', {
        'node': domain.top, 'name': 'ck1'}))
    assert set(bitmaps(domain.server, domain.top)) == {'ck2'}


def test_push_aborted(domain, images):
    """domjobabort of a push backup: the job ends as cancelled."""
    node, storage, _ = domain.new('full.qcow2')
    domain.transact(
        domain.checkpoint('ck1'),
        ('blockdev-backup', {
            'device': domain.top, 'target': node, 'job-id': 'backup-vda',
            'sync': 'full', 'speed': 65536, 'auto-finalize': True,
            'auto-dismiss': False}))
    domain.server.qmp('block-job-cancel', device='backup-vda', force=True)
    job = domain.conclude('backup-vda', failed=True)
    assert 'BLOCK_JOB_CANCELLED' in job.events
    domain.drop(node, storage)
    domain.server.qmp('block-dirty-bitmap-remove', node=domain.top,
                      name='ck1')
    domain.guest.random_writes(10)
    domain.guest.verify()


def test_bitmaps_survive_domain_restart(domain, start_server, guest_on,
                                        images):
    """SIGTERM ends the process; the next one goes on incrementally."""
    path, first = domain.push('b0.qcow2', checkpoint='ck0')
    domain.guest.random_writes(10)
    domain.guest.close()
    domain.server.kill(signal.SIGTERM)
    domain.server.wait_exit()
    server = start_server()
    again = Domain.__new__(Domain)
    again.server, again.images, again.n_nodes = server, images, 10
    again.path = domain.path
    again.top = again._attach(domain.path)
    server.export(again.top, 'guest')
    again.guest = guest_on(server, 'guest', seed=9)
    second_path, second = again.push('b1.qcow2', since='ck0',
                                     checkpoint='ck1')
    again.guest.close()
    server.stop()
    qemu_img('rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', path,
             second_path)
    same_bytes(images.content(path), first)
    same_bytes(images.content(second_path), second)
