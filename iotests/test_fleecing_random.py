# SPDX-License-Identifier: MIT
"""Fleecing against a model: a guest writes, readers of the point in time read
and discard anywhere, and get the frozen bytes or, where nothing is kept for
them, an error; never anything else."""

import random

import pytest

from .guest import Guest
from .nbd import NbdClient, NbdError

MIB = 1 << 20
SIZE = 8 * MIB + 5 * 512

pytestmark = pytest.mark.ours('QEMU 7.2 crashes at discards of parts of '
                              'clusters')


class Snapshot:
    """The nodes, what was frozen, and which clusters may be read."""

    def __init__(self, server, images, rnd, target, min_cluster):
        self.server = server
        self.images = images
        self.rnd = rnd
        self.unit = max(2 * MIB if target == 'large' else 65536, min_cluster)
        server.add_node('src', images.create(
            's.qcow2', SIZE,
            cluster_size=rnd.choice(('512', '4k', '64k', '2M'))),
                        discard='unmap')
        server.export('src', name='before')
        guest = Guest(server.nbd_path, 'before', trims=True)
        guest.random_writes(80)
        self.access = self.mark(guest)
        self.frozen = guest.freeze()
        guest.close()
        server.unexport('before')
        self.add_target(target)
        options = {}
        if rnd.random() < .7:
            options['bitmap'] = {'node': 'src', 'name': 'b'}
        else:
            self.access = set(range(self.cluster_behind(SIZE)))
        if min_cluster:
            options['min-cluster-size'] = min_cluster
        server.qmp('blockdev-add', dict({
            'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'src',
            'target': 'target', 'discard': 'unmap'}, **options))
        server.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
                   file='cbw', discard='unmap')
        server.export('cbw')
        server.export('snap')

    def cluster_behind(self, end):
        return (end + self.unit - 1) // self.unit

    def mark(self, guest):
        """Writes into a bitmap; its clusters."""
        granularity = self.rnd.choice((512, 4096, 65536, MIB))
        self.server.qmp('block-dirty-bitmap-add', node='src', name='b',
                        granularity=granularity)
        clusters = set()
        for _ in range(15):
            offset = self.rnd.randrange(0, SIZE - 65536, 512)
            length = self.rnd.choice((512, 65536))
            guest.write(offset, self.rnd.randbytes(length))
            start = offset // granularity * granularity
            end = min(-(-(offset + length) // granularity) * granularity,
                      SIZE)
            clusters |= set(range(start // self.unit,
                                  self.cluster_behind(end)))
        self.server.qmp('block-dirty-bitmap-disable', node='src', name='b')
        return clusters

    def add_target(self, target):
        if target == 'raw':
            path = self.images.path('target.raw')
            with open(path, 'wb') as file:
                file.truncate(SIZE)
            self.server.add_file('target', path, discard='unmap')
            return
        path = self.images.create(
            'target.qcow2', SIZE,
            cluster_size='2M' if target == 'large' else '64k')
        self.images.ignore(path)
        backing = {'backing': 'src'} if self.rnd.random() < .5 else {}
        self.server.add_node('target', path, discard='unmap', **backing)

    # What a reader does

    def readable(self, offset, length):
        return all(cluster in self.access for cluster in range(
            offset // self.unit, self.cluster_behind(offset + length)))

    def read(self, client, offset, length):
        try:
            got = client.read(offset, length)
        except NbdError:
            assert not self.readable(offset, length)
            return
        assert self.readable(offset, length)
        assert got == self.frozen[offset:offset + length], hex(offset)

    def status(self, client, offset, length):
        try:
            extents = client.block_status(offset, length)
        except NbdError:
            assert not self.readable(offset, 1)
            return
        for n_bytes, flags in extents:
            n_bytes = min(n_bytes, SIZE - offset)
            assert self.readable(offset, n_bytes)
            if flags & 2:
                assert not any(self.frozen[offset:offset + n_bytes])
            offset += n_bytes

    def trim(self, client, offset, length):
        """Whole clusters go."""
        client.trim(offset, length)
        end = offset + length
        last = self.cluster_behind(end) if end == SIZE else end // self.unit
        self.access -= set(range(self.cluster_behind(offset), last))


@pytest.mark.parametrize('target', ['raw', 'qcow2', 'large'])
def test_readers_and_a_guest(server, images, guest_on, seed, target):
    rnd = random.Random(f'{seed} {target}')
    snap = Snapshot(server, images, rnd, target, rnd.choice((0, MIB)))
    guest = guest_on(server, 'cbw', trims=True, seed=seed + 1)
    assert guest.freeze() == snap.frozen
    readers = [NbdClient.connect(server.nbd_path, 'snap') for _ in range(2)]
    guest.start()
    for _ in range(300):
        offset = rnd.randrange(SIZE)
        length = min(rnd.choice((1, 512, 65536, 300000)), SIZE - offset)
        rnd.choices([snap.read, snap.status, snap.trim], [85, 10, 5])[0](
            rnd.choice(readers), offset, length)
    for client in readers:
        client.disconnect()
    guest.stop()
    guest.verify()
