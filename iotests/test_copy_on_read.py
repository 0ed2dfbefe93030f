# SPDX-License-Identifier: MIT
"""The filter copy-on-read: what is read moves up, nothing else changes."""

import random

import pytest

from .images import same_bytes
from .jobs import start_backup
from .nbd import NbdClient

MIB = 1 << 20
SIZE = 4 * MIB
CLUSTER = 65536


@pytest.fixture
def chain(server, images):
    """top -> mid -> base, one MiB of data in each of mid and base, the rest
    of the disk in none; nodes of these names."""
    base = images.create('base.qcow2', SIZE)
    mid = images.create('mid.qcow2', None, backing=base)
    top = images.create('top.qcow2', None, backing=mid)
    images.io(base, f'write -P 1 0 {MIB}')
    images.io(mid, f'write -P 2 {MIB} {MIB}')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'top', 'discard': 'unmap',
        'file': {'driver': 'file', 'filename': top},
        'backing': {
            'driver': 'qcow2', 'node-name': 'mid',
            'file': {'driver': 'file', 'filename': mid},
            'backing': {'driver': 'qcow2', 'node-name': 'base',
                        'file': {'driver': 'file', 'filename': base}}}})
    return bytes([1]) * MIB + bytes([2]) * MIB + bytes(SIZE - 2 * MIB)


def add_cor(server, file='top', **options):
    server.qmp('blockdev-add', driver='copy-on-read', node_name='cor',
               file=file, **options)


def reader(server, node='cor'):
    server.export(node, writable=False)
    return NbdClient.connect(server.nbd_path, node)


def in_top(server, images):
    """[(offset, length)] of what the top image itself has."""
    server.stop()
    found = []
    for entry in images.map(images.path('top.qcow2')):
        if entry['depth'] == 0 and entry['present']:
            found.append((entry['start'], entry['length']))
    return found


def test_needs_to_write(server, images):
    """It copies, so what it stands on must be writable."""
    server.add_node('ro', images.create('ro.qcow2', SIZE), read_only=True)
    for options in ({}, {'read_only': True}):
        server.fails('blockdev-add', driver='copy-on-read', node_name='cor',
                     file='ro', desc='Block node is read-only', **options)
    assert 'cor' not in server.nodes()


def test_what_is_read_moves_up(server, images, chain):
    """Whole clusters, through a read-only export; what nobody has and what
    was not read stay away."""
    add_cor(server)
    client = reader(server)
    assert client.read(CLUSTER + 100, 5) == chain[:5]
    assert client.read(MIB - 1, 2) == bytes([1, 2])
    assert client.read(3 * MIB, CLUSTER) == bytes(CLUSTER)
    client.disconnect()
    assert in_top(server, images) == [
        (CLUSTER, CLUSTER), (MIB - CLUSTER, 2 * CLUSTER)]


def test_all_of_it(server, images, chain):
    add_cor(server)
    client = reader(server)
    same_bytes(client.read(0, SIZE), chain)
    same_bytes(client.read(0, SIZE), chain)
    client.disconnect()
    found = in_top(server, images)
    assert sum(length for _, length in found) >= 2 * MIB
    assert found[0][0] == 0
    for name in ('base', 'mid'):
        images.check(images.path(f'{name}.qcow2'))


def test_bottom(server, images, chain):
    """Only what is in bottom or above is copied."""
    add_cor(server, bottom='mid')
    client = reader(server)
    same_bytes(client.read(0, SIZE), chain)
    client.disconnect()
    assert in_top(server, images) == [(MIB, MIB)]


@pytest.mark.ours('QEMU 7.2 copies everything then')
def test_bottom_is_the_top(server, images, chain):
    add_cor(server, bottom='top')
    client = reader(server)
    same_bytes(client.read(0, SIZE), chain)
    client.disconnect()
    assert in_top(server, images) == []


def test_bottom_freezes_the_chain(server, images, chain):
    add_cor(server, bottom='mid')
    server.fails('blockdev-reopen', options=[
        {'driver': 'qcow2', 'node-name': 'top', 'discard': 'unmap',
         'file': {'driver': 'file', 'filename': images.path('top.qcow2')},
         'backing': 'base'}],
        desc=["Cannot change frozen 'backing' link from 'top' to 'mid'",
              "Cannot change the option 'file'"])
    server.qmp('blockdev-del', node_name='cor')


def test_refused_bottoms(server, chain):
    server.fails('blockdev-add', driver='copy-on-read', node_name='cor',
                 file='top', bottom='nope',
                 desc="Bottom node 'nope' not found")
    add_cor(server)
    server.fails('blockdev-add', driver='copy-on-read', node_name='cor2',
                 file='top', bottom='cor', desc="Bottom node 'cor' is a filter")
    server.fails('blockdev-reopen',
                 options=[{'driver': 'copy-on-read', 'node-name': 'cor',
                           'file': 'top'}],
                 desc="Block format 'copy-on-read' used by node 'cor' does "
                      "not support reopening files")


@pytest.mark.ours('QEMU hangs')
def test_bottom_elsewhere(server, chain):
    server.qmp('blockdev-add', driver='null-co', node_name='else')
    server.fails('blockdev-add', driver='copy-on-read', node_name='cor',
                 file='top', bottom='else',
                 desc="Bottom node 'else' is not in the chain of 'top'")


def test_across_layers(server, images, chain):
    """copy-on-read over raw over copy-on-read over raw."""
    server.qmp('blockdev-add', {
        'driver': 'copy-on-read', 'node-name': 'cor',
        'file': {'driver': 'raw', 'file': {
            'driver': 'copy-on-read', 'file': {
                'driver': 'raw', 'file': 'top'}}}})
    client = reader(server)
    same_bytes(client.read(0, SIZE), chain)
    client.disconnect()
    assert sum(n for _, n in in_top(server, images)) >= 2 * MIB


def test_bitmaps_stay_clean(server, chain):
    for node in ('top', 'cor'):
        if node == 'cor':
            add_cor(server)
        server.qmp('block-dirty-bitmap-add', node=node, name='b')
    client = reader(server)
    same_bytes(client.read(0, SIZE), chain)
    client.disconnect()
    for entry in server.qmp('query-named-block-nodes'):
        for bitmap in entry.get('dirty-bitmaps', []):
            assert bitmap['count'] == 0


def test_status_passes_through(server, chain):
    add_cor(server)
    client = reader(server)
    data = [[at, n] for at, n, flags in client.whole_status()
            if not flags & 2]
    assert data == [[0, 2 * MIB]]
    client.disconnect()


def test_guest_writes_while_others_read(server, images, chain, guest_on,
                                        seed):
    """No write is lost to the copy of what was there before."""
    add_cor(server, discard='unmap')
    server.export('cor')
    guest = guest_on(server, 'cor', trims=True, seed=seed,
                     max_bytes=2 * CLUSTER)
    server.export('cor', name='reader', writable=False)
    client = NbdClient.connect(server.nbd_path, 'reader')
    rnd = random.Random(seed)
    guest.start()
    for _ in range(200):
        offset = rnd.randrange(SIZE - 1)
        client.read(offset, min(rnd.choice((1, 512, 200000)), SIZE - offset))
    guest.stop()
    client.disconnect()
    guest.verify()


def test_what_managers_do_below(server, images, chain, guest_on, seed):
    """A guest's disk is the filter; the manager works with the format node
    below it, and needs no other writer there."""
    add_cor(server, discard='unmap')
    server.export('cor')
    guest = guest_on(server, 'cor', trims=True, seed=seed)
    server.qmp('block-dirty-bitmap-add', node='top', name='b',
               granularity=CLUSTER)
    guest.start()
    guest.wait_writes(20)
    for number, node in enumerate(('cor', 'top')):
        path = images.create(f'backup{number}.qcow2', SIZE)
        server.add_node(f'backup{number}', path)
        images.ignore(path)
        job = start_backup(server, node, f'backup{number}')
        guest.wait_writes(10)
        job.finish()
        guest.wait_writes(5)
    overlay = images.create('overlay.qcow2', SIZE)
    server.add_node('overlay', overlay, backing=None, discard='unmap')
    guest.pause()
    server.qmp('blockdev-snapshot', node='top', overlay='overlay')
    frozen = guest.freeze()
    guest.resume()
    guest.wait_writes(20)
    server.export('top', name='look', writable=False)
    look = NbdClient.connect(server.nbd_path, 'look')
    same_bytes(look.read(0, SIZE), frozen, 'snapshot')
    look.disconnect()
    server.unexport('look')
    guest.stop()
    guest.verify()


@pytest.mark.ours('QEMU serialises at the node below')
def test_nobody_writes_past_the_filter(server, chain):
    add_cor(server)
    reader(server).disconnect()
    server.fails(
        'block-export-add', type='nbd', id='x', node_name='top',
        writable=True,
        desc="Permission conflict on node 'top': permissions 'write' are "
             "both required by an unnamed block device (uses node 'top' as "
             "'root' child) and unshared by node 'cor' (uses node 'top' as "
             "'file' child).")
