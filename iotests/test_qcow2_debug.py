# SPDX-License-Identifier: MIT
"""An error at each moment that qcow2 tells blkdebug of: the request fails,
the image stays sound and keeps what was acknowledged."""

import pytest

from .images import qemu_img
from .nbd import NbdClient, NbdError
from .qcow2 import CLUSTER
from .qmp import QmpError

MIB = 1 << 20


class Disk:
    """A writable image over blkdebug; what was written, and what failed."""

    def __init__(self, server, path, rules, **options):
        self.server = server
        self.model = {}
        self.failed = 0
        server.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap',
            'file': {'driver': 'blkdebug', 'node-name': 'debug',
                     'image': {'driver': 'file', 'filename': path},
                     'inject-error': rules}, **options})
        server.export('n')
        self.nbd = NbdClient.connect(server.nbd_path, 'n')

    def attempt(self, call, *args):
        try:
            call(*args)
            return True
        except NbdError:
            self.failed += 1
            return False

    def write(self, cluster, value):
        if self.attempt(self.nbd.write, cluster * CLUSTER,
                        bytes([value]) * CLUSTER):
            self.model[cluster] = {value}
        else:
            self.model.setdefault(cluster, {0}).add(value)

    def part(self, cluster, value):
        """A part, so that the rest must be copied."""
        self.attempt(self.nbd.write, cluster * CLUSTER + 512,
                     bytes([value]) * 512)

    def trim(self, cluster):
        if self.attempt(self.nbd.trim, cluster * CLUSTER, CLUSTER):
            self.model[cluster] = {0}
        else:
            self.model.setdefault(cluster, {0}).add(0)

    def read(self, cluster):
        self.attempt(self.nbd.read, cluster * CLUSTER, CLUSTER)

    def flush(self):
        self.attempt(self.nbd.flush)

    def close(self):
        """All is written, for the rule is used up."""
        self.nbd.flush()
        for cluster, values in self.model.items():
            assert self.nbd.read(cluster * CLUSTER, 1)[0] in values, cluster
        self.nbd.disconnect()
        self.server.unexport('n')
        self.server.qmp('blockdev-del', node_name='n')


def work(disk):
    disk.read(0)                # data
    disk.read(4)                # from below
    for cluster in range(2, 6):
        disk.write(cluster, cluster + 20)
    disk.part(30, 9)            # over data below
    disk.flush()
    disk.write(0, 40)           # shared with a snapshot
    disk.part(1, 41)
    disk.trim(2)
    disk.flush()
    disk.write(3, 50)           # in place
    for cluster in range(8, 16):
        disk.write(cluster, cluster)
    disk.flush()


EVENTS = ['l1_update', 'l2_load', 'l2_update', 'l2_alloc_cow_read',
          'l2_alloc_write', 'read_aio', 'read_backing_aio', 'write_aio',
          'cow_read', 'cow_write', 'refblock_load', 'refblock_update_part',
          'cluster_alloc', 'cluster_free', 'flush_to_os', 'flush_to_disk']
# There the failed request may be one whose error nobody is told: a look at
# what is mapped, a discard of the file.
ELSEWHERE = {'l2_load', 'read_backing_aio', 'cluster_free', 'refblock_load'}


@pytest.mark.parametrize('nth', ['first', 'any'])
@pytest.mark.parametrize('event', EVENTS)
def test_error_at_event(server, images, event, nth):
    if server.is_qemu and event == 'read_aio':
        pytest.skip('QEMU closes the connection when a read fails')
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 7 0 4M')
    path = images.create('a.qcow2', '4M', backing=base)
    images.io(path, 'write -P 1 0 128k')
    qemu_img('snapshot', '-c', 's', path)
    images.allow_leaks(path)
    disk = Disk(server, path, [{'event': event, 'errno': 5, 'once': True,
                                'immediately': nth == 'first'}])
    disk.model = {0: {1}, 4: {7}}
    work(disk)
    if event not in ELSEWHERE and not server.is_qemu:
        assert disk.failed == 1
    disk.close()
    server.stop()
    images.check(path, leaks_allowed=True)


@pytest.mark.parametrize('event', [
    'l1_grow_alloc_table', 'l1_grow_write_table', 'l1_grow_activate_table',
    'l1_update'])
def test_error_while_growing(server, images, event):
    """The resize fails, or not; the image is the old one or the new one."""
    path = images.create('a.qcow2', '1M', cluster_size=512)
    images.io(path, 'write -P 1 0 1M')
    images.allow_leaks(path)
    disk = Disk(server, path, [{'event': event, 'errno': 28, 'once': True}])
    disk.nbd.disconnect()
    server.unexport('n')
    try:
        server.qmp('block_resize', node_name='n', size=64 * MIB)
    except QmpError as exc:
        assert 'L1 table' in exc.desc or 'No space' in exc.desc
    else:
        assert event == 'l1_update' and server.is_qemu
    server.qmp('block_resize', node_name='n', size=65 * MIB)
    server.stop()
    images.check(path, leaks_allowed=True)
    assert images.content(path)[:MIB] == b'\1' * MIB
