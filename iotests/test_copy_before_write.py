# SPDX-License-Identifier: MIT
"""The filter copy-before-write by options: its errors, permissions, units;
and the same options of a backup.  What it is for is in test_fleecing.py."""

import os
import time

import pytest

from .images import same_bytes
from .jobs import start_backup
from .nbd import NbdClient, NbdError

MIB = 1 << 20
SIZE = 4 * MIB
EIO, ENOSPC = 5, 28


def add_cbw(server, file='src', target='dst', **options):
    server.qmp('blockdev-add', dict(
        {'driver': 'copy-before-write', 'node-name': 'cbw', 'file': file,
         'target': target},
        **{k.replace('_', '-'): v for k, v in options.items()}))


def refused(server, desc, **options):
    server.fails('blockdev-add', dict(
        {'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'src',
         'target': 'dst'},
        **{k.replace('_', '-'): v for k, v in options.items()}), desc=desc)


@pytest.fixture
def nodes(server, images):
    """'src' of four MiB that read as 1, and an empty 'dst'."""
    src = images.create('src.qcow2', SIZE)
    images.io(src, f'write -P 1 0 {SIZE}')
    server.add_node('src', src)
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    return server


def connect(server, node, writable=True):
    server.export(node, writable=writable)
    return NbdClient.connect(server.nbd_path, node)


# Arguments

def test_refused(nodes):
    nodes.qmp('block-dirty-bitmap-add', node='src', name='b')
    refused(nodes, "Dirty bitmap 'nope' not found",
            bitmap={'node': 'src', 'name': 'nope'})
    refused(nodes, "Node 'nope' not found",
            bitmap={'node': 'nope', 'name': 'b'})
    refused(nodes, "Cannot find device='nope' nor node-name='nope'",
            target='nope')
    nodes.fails('blockdev-add', driver='copy-before-write', node_name='cbw',
                file='src', desc="Parameter 'target' is missing")
    add_cbw(nodes)
    nodes.fails('blockdev-reopen',
                options=[{'driver': 'copy-before-write', 'node-name': 'cbw',
                          'file': 'src', 'target': 'dst'}],
                desc="Block format 'copy-before-write' used by node 'cbw' "
                     "does not support reopening files")


def test_busy_bitmap(nodes):
    nodes.qmp('block-dirty-bitmap-add', node='src', name='b')
    nodes.export('src', bitmaps=['b'])
    refused(nodes, "Cannot create block-copy-state: Failed to merge bitmap "
            "'b' to internal copy-bitmap: Bitmap 'b' is currently in use by "
            "another operation and cannot be used",
            bitmap={'node': 'src', 'name': 'b'})


@pytest.mark.ours('QEMU takes it')
def test_short_target(nodes):
    nodes.qmp('blockdev-add', driver='null-co', node_name='short',
              size=SIZE - 512)
    refused(nodes, 'Source and target image have different sizes',
            target='short')


@pytest.mark.ours('since QEMU 9.2')
def test_min_cluster_size(nodes, images):
    """One byte, one unit on the target."""
    refused(nodes, 'min-cluster-size needs to be a power of 2',
            min_cluster_size=MIB + 512)
    refused(nodes, 'min-cluster-size too large: 2147483648 > 2147483647',
            min_cluster_size=1 << 31)
    add_cbw(nodes, min_cluster_size=MIB)
    guest = connect(nodes, 'cbw')
    guest.write(MIB + 5, b'x')
    guest.disconnect()
    nodes.stop()
    present = [(e['start'], e['length'])
               for e in images.map(images.path('dst.qcow2'))
               if e['present']]
    assert present == [(MIB, MIB)]


@pytest.mark.parametrize('size', [512, 65536, 65536 + 512, MIB + 1536])
def test_odd_sizes(server, images, size):
    server.add_node('src', images.create('src.qcow2', size))
    server.add_node('dst', images.create('dst.qcow2', size))
    add_cbw(server)
    server.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
               file='cbw')
    guest = connect(server, 'cbw')
    reader = connect(server, 'snap', writable=False)
    guest.write(size - 512, b'e' * 512)
    guest.write(0, b'b' * 512)
    same_bytes(reader.read(0, size), bytes(size))
    for client in (guest, reader):
        client.disconnect()


# Permissions

@pytest.mark.ours('QEMU 7.2 crashes')
@pytest.mark.parametrize('below', [
    {'driver': 'raw'}, {'driver': 'preallocate'}, {'driver': 'blkdebug'},
    {'driver': 'quorum', 'vote-threshold': 1}], ids=lambda o: o['driver'])
def test_source_that_grows(server, images, guest_on, below):
    """A file below a format: what is behind its old end is nobody's
    snapshot."""
    path = images.create('a.qcow2', 16 * MIB, cluster_size='4k')
    images.io(path, 'write -P 3 0 1M')
    with open(path, 'rb') as file:
        before = file.read()
    assert len(before) % 512 == 0
    server.add_file('t', images.write_raw('t.raw', bytes(len(before))))
    child = {'quorum': 'children', 'blkdebug': 'image'}.get(
        below['driver'], 'file')
    file = {'driver': 'file', 'filename': path}
    server.qmp('blockdev-add', dict(below, **{
        'node-name': 'below', child: [file] if child == 'children'
        else file}))
    server.qmp('blockdev-add', driver='copy-before-write', node_name='cbw',
               file='below', target='t')
    server.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
               file='cbw')
    server.qmp('blockdev-add', driver='qcow2', node_name='top', file='cbw')
    server.export('top')
    server.export('snap', writable=False)
    guest = guest_on(server, 'top')
    guest.random_writes(100)
    guest.verify()
    assert os.path.getsize(path) > len(before)
    client = NbdClient.connect(server.nbd_path, 'snap')
    assert client.size == len(before)
    same_bytes(client.read(0, client.size), before)
    client.disconnect()


def test_writer_beside_the_filter(nodes):
    """Whoever writes the source past the filter would not be noticed."""
    add_cbw(nodes)
    guest = connect(nodes, 'cbw')
    nodes.fails(
        'block-export-add', type='nbd', id='x', node_name='src',
        writable=True,
        desc="Permission conflict on node 'src': permissions 'write' are "
             "both required by an unnamed block device (uses node 'src' as "
             "'root' child) and unshared by node 'cbw' (uses node 'src' as "
             "'file' child).")
    guest.write(0, b'x' * 512)
    guest.disconnect()


def test_filter_beside_a_writer(nodes):
    """It can be made while somebody writes, but not used."""
    nodes.export('src')
    add_cbw(nodes)
    nodes.fails(
        'blockdev-add', driver='snapshot-access', node_name='snap',
        file='cbw',
        desc="Permission conflict on node 'src': permissions 'write' are "
             "both required by an unnamed block device (uses node 'src' as "
             "'root' child) and unshared by node 'cbw' (uses node 'src' as "
             "'file' child).")
    nodes.unexport('src')
    nodes.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
              file='cbw')
    nodes.fails('blockdev-del', node_name='cbw',
                desc='Block device cbw is in use')


def test_snapshot_is_not_written(nodes):
    add_cbw(nodes)
    nodes.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
              file='cbw')
    client = connect(nodes, 'snap')
    for call in (lambda: client.write(0, b'x' * 512),
                 lambda: client.write_zeroes(0, 512)):
        with pytest.raises(NbdError) as caught:
            call()
        assert caught.value.errno == 95     # ENOTSUP
    assert client.read(0, 512) == b'\1' * 512
    client.disconnect()


@pytest.mark.ours('QEMU fails with the first request')
def test_snapshot_of_no_filter(nodes):
    nodes.fails('blockdev-add', driver='snapshot-access', node_name='snap',
                file='src',
                desc="Node 'src' keeps no snapshot: it must be of driver "
                     "'copy-before-write'")


@pytest.mark.ours('QEMU lets it')
def test_no_resize(nodes):
    """What is behind the new end would be lost to the snapshot."""
    add_cbw(nodes)
    nodes.fails('block_resize', node_name='cbw', size=SIZE // 2,
                desc="Node 'cbw' keeps a snapshot and cannot be resized")


# A target without room

@pytest.fixture
def full(server, images, small_disk):
    """'src' as above, and 'dst' on a file system without a free byte."""
    src = images.create('src.qcow2', SIZE)
    images.io(src, f'write -P 1 0 {SIZE}')
    server.add_node('src', src)
    disk = small_disk(2 * MIB)
    with open(disk.path('dst.raw'), 'wb') as image:
        image.truncate(SIZE)
    server.add_node('dst', disk.path('dst.raw'), 'raw')
    disk.fill()
    return disk


def test_break_guest_write(server, full):
    """The write fails as the copy did; later ones can succeed."""
    add_cbw(server)
    server.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
               file='cbw')
    guest = connect(server, 'cbw')
    reader = connect(server, 'snap', writable=False)
    with pytest.raises(NbdError) as caught:
        guest.write(0, b'x' * 512)
    assert caught.value.errno == ENOSPC
    assert guest.read(0, 512) == b'\1' * 512
    same_bytes(reader.read(0, SIZE), b'\1' * SIZE)
    full.make_room()
    guest.write(0, b'x' * 512)
    same_bytes(reader.read(0, SIZE), b'\1' * SIZE)
    for client in (guest, reader):
        client.disconnect()


def test_break_snapshot(server, full):
    """No write fails; the snapshot is lost as a whole, and for good."""
    add_cbw(server, on_cbw_error='break-snapshot')
    server.qmp('blockdev-add', driver='snapshot-access', node_name='snap',
               file='cbw')
    guest = connect(server, 'cbw')
    reader = connect(server, 'snap', writable=False)
    guest.write(0, b'x' * 512)
    full.make_room()
    guest.write(MIB, b'x' * 512)
    for offset in (0, MIB, 2 * MIB):
        with pytest.raises(NbdError):
            reader.read(offset, 512)
    assert guest.read(0, 512) == b'x' * 512
    for client in (guest, reader):
        client.disconnect()


# The same for the filter of a backup

@pytest.mark.ours('since QEMU 10.1')
@pytest.mark.parametrize('on_error', ['break-guest-write', 'break-snapshot'])
def test_backup_with_timeout(server, images, guest_on, on_error):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.export('src')
    guest = guest_on(server, 'src')
    server.qmp('blockdev-add', {
        'driver': 'null-co', 'node-name': 'slow', 'size': SIZE,
        'latency-ns': 3000000000})
    job = start_backup(server, 'src', 'slow', sync='none',
                       on_cbw_error=on_error, cbw_timeout=1)
    started = time.monotonic()
    if on_error == 'break-snapshot':
        guest.write(0, b'x' * 512)
        assert 0.9 < time.monotonic() - started < 2.5
        assert job.error() == 'Connection timed out'
    else:
        with pytest.raises(NbdError):
            guest.write(0, b'x' * 512)
        assert 0.9 < time.monotonic() - started < 2.5
        job.cancel()
        job.wait('concluded')
    guest.verify()
