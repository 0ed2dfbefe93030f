# SPDX-License-Identifier: MIT
"""Fleecing: a snapshot of a running disk, kept on a temporary image by
copy-before-write, read over NBD through snapshot-access while the guest goes
on writing."""

import os
import random
import signal
import time

import pytest

from .images import qemu_img, run_tool, same_bytes
from .jobs import start_backup
from .nbd import NbdClient, NbdError

MIB = 1 << 20
SIZE = 16 * MIB

# What the guest writes zeroes over can be zero in QEMU's snapshot
qemu_shows_zeroes = pytest.mark.ours(
    'QEMU 7.2 does not always copy before zeroes are written')


class Disk:
    """'disk' is what the guest has: 'src', or, while there is a snapshot
    'snap' of it, the filter 'cbw'.

    'disk' is a raw node that is reopened onto the filter while the guest
    writes; QEMU 7.2 does not survive that, there the guest connects anew.
    """

    def __init__(self, server, images, guest_on, **options):
        self.server = server
        self.images = images
        path = images.create('src.qcow2', SIZE, **options)
        server.add_node('src', path, discard='unmap')
        if server.is_qemu:
            server.export('src', name='disk')
        else:
            server.qmp('blockdev-add', driver='raw', node_name='disk',
                       file='src', discard='unmap')
            server.export('disk')
        self.guest = guest_on(server, 'disk', trims=True)
        self.guest.random_writes(60)

    def add_temp(self):
        path = self.images.create('temp.qcow2', SIZE)
        self.server.add_node('temp', path, backing='src', discard='unmap')
        self.images.ignore(path)

    def show_through(self, node):
        """The guest's disk is `node` now; it holds its breath."""
        if self.server.is_qemu:
            self.guest.nbd.disconnect()
            self.server.unexport('disk')
            self.server.export(node, name='disk')
            self.guest.nbd = NbdClient.connect(self.server.nbd_path, 'disk')
            return
        self.server.qmp('blockdev-reopen', options=[
            {'driver': 'raw', 'node-name': 'disk', 'file': node,
             'discard': 'unmap'}])

    def snapshot(self, target='temp', bitmap=None, new_bitmap=None,
                 **options):
        """Insert the filter while the guest holds its breath; what the
        disk held then."""
        if target == 'temp':
            self.add_temp()
        options = {k.replace('_', '-'): v for k, v in options.items()}
        self.guest.pause()
        try:
            if new_bitmap:
                self.next_bitmap(bitmap, new_bitmap)
            if bitmap:
                options['bitmap'] = {'node': 'src', 'name': bitmap}
            self.server.qmp('blockdev-add', dict(
                {'driver': 'copy-before-write', 'node-name': 'cbw',
                 'file': 'src', 'target': target, 'discard': 'unmap'},
                **options))
            self.show_through('cbw')
            frozen = self.guest.freeze()
        finally:
            self.guest.resume()
        self.server.qmp('blockdev-add', driver='snapshot-access',
                        node_name='snap', file='cbw', discard='unmap')
        shown = {'bitmaps': [{'node': 'src', 'name': bitmap}]} \
            if bitmap else {}
        self.server.export('snap', writable=False, **shown)
        return frozen

    def next_bitmap(self, old, new):
        """The guest's writes go into `new` from here on."""
        actions = [{'type': 'block-dirty-bitmap-add',
                    'data': {'node': 'src', 'name': new}}]
        if old:
            actions.append({'type': 'block-dirty-bitmap-disable',
                            'data': {'node': 'src', 'name': old}})
        self.server.qmp('transaction', actions=actions)

    def drop_snapshot(self, target='temp'):
        self.server.unexport('snap', mode='hard')
        self.server.qmp('blockdev-del', node_name='snap')
        self.guest.pause()
        self.show_through('src')
        self.guest.resume()
        self.server.qmp('blockdev-del', node_name='cbw')
        self.server.qmp('blockdev-del', node_name=target)
        if target == 'temp':
            os.unlink(self.images.path('temp.qcow2'))

    def pull(self):
        path = self.images.path('pulled.raw')
        run_tool('nbdcopy', self.server.uri('snap'), path)
        with open(path, 'rb') as pulled:
            return pulled.read()


@pytest.fixture
def disk(server, images, guest_on):
    return Disk(server, images, guest_on)


# Whole

@qemu_shows_zeroes
def test_nbdcopy_while_guest_writes(disk):
    """Pulled twice: the same point in time, whatever was written."""
    disk.guest.start()
    disk.guest.wait_writes(20)
    frozen = disk.snapshot()
    for _ in range(2):
        disk.guest.wait_writes(50)
        same_bytes(disk.pull(), frozen, 'snapshot')
    disk.drop_snapshot()
    disk.guest.wait_writes(20)
    disk.guest.stop()
    disk.guest.verify()


def test_small_reads_while_guest_writes(disk):
    """A client that reads here and there, at odd offsets."""
    frozen = disk.snapshot()
    rnd = random.Random(5)
    disk.guest.start()
    with_client = NbdClient.connect(disk.server.nbd_path, 'snap')
    for _ in range(300):
        offset = rnd.randrange(SIZE - 1)
        length = min(rnd.choice((1, 512, 70000, 300000)), SIZE - offset)
        same_bytes(with_client.read(offset, length),
                   frozen[offset:offset + length], f'at {offset}')
    with_client.disconnect()
    disk.guest.stop()
    disk.guest.verify()


def test_everything_overwritten(disk):
    frozen = disk.snapshot()
    disk.guest.fill(0, SIZE, 0x77)
    same_bytes(disk.pull(), frozen, 'snapshot')
    disk.guest.trim(0, SIZE)
    same_bytes(disk.pull(), frozen, 'snapshot')
    disk.drop_snapshot()
    disk.guest.verify()


@qemu_shows_zeroes
@pytest.mark.parametrize('offset, length', [
    (0, 65536), (512, 3 * 65536), (65536 - 512, 65536 + 1024)])
def test_zeroes_written_over(disk, offset, length):
    """No load, no race: one request."""
    disk.guest.fill(0, MIB, 7)
    frozen = disk.snapshot()
    disk.guest.zero(offset, length)
    same_bytes(disk.pull(), frozen, 'snapshot')


@qemu_shows_zeroes
def test_snapshot_after_snapshot(disk):
    disk.guest.start()
    for _ in range(4):
        frozen = disk.snapshot()
        disk.guest.wait_writes(20)
        same_bytes(disk.pull(), frozen, 'snapshot')
        disk.drop_snapshot()
    disk.guest.stop()
    disk.guest.verify()


def test_holes_are_shown(disk):
    """Zeroes of the source can be seen without reading, before and after
    the copy."""
    disk.guest.zero(0, SIZE, 0)
    disk.guest.fill(4 * MIB, MIB, 1)
    frozen = disk.snapshot()
    client = NbdClient.connect(disk.server.nbd_path, 'snap')
    for _ in range(2):
        data = [[at, n] for at, n, flags in client.whole_status()
                if not flags & 2]
        assert data == [[4 * MIB, MIB]]
        disk.guest.fill(0, SIZE, 2)
    client.disconnect()
    same_bytes(disk.pull(), frozen, 'snapshot')


# By bitmap

def dirty(client, name):
    return [(at, n) for at, n, flags in
            client.whole_status(f'qemu:dirty-bitmap:{name}') if flags & 1]


@qemu_shows_zeroes
def test_incremental_pull_into_a_chain(disk, start_server, images):
    """A full pull, then increments by bitmap, each written into an overlay
    of the one before; the chain is the disk at each snapshot."""
    guest = disk.guest
    full = images.create('backup0.qcow2', SIZE)
    guest.start()
    frozen = disk.snapshot(new_bitmap='b0')
    run_tool('nbdcopy', disk.server.uri('snap'), images.path('full.raw'))
    disk.drop_snapshot()
    qemu_img('convert', '-O', 'qcow2', images.path('full.raw'), full)
    states, last = [(full, frozen)], full
    for number in range(1, 4):
        guest.wait_writes(15)
        bitmap = f'b{number - 1}'
        frozen = disk.snapshot(bitmap=bitmap, new_bitmap=f'b{number}')
        last = images.create(f'backup{number}.qcow2', None, backing=last)
        writer = start_server(name=f'writer{number}')
        writer.add_node('inc', last)
        writer.export('inc')
        out = NbdClient.connect(writer.nbd_path, 'inc')
        client = NbdClient.connect(
            disk.server.nbd_path, 'snap',
            contexts=(f'qemu:dirty-bitmap:{bitmap}',))
        guest.wait_writes(10)
        extents = dirty(client, bitmap)
        assert extents
        for offset, length in extents:
            for at in range(offset, offset + length, MIB):
                n_bytes = min(MIB, offset + length - at)
                out.write(at, client.read(at, n_bytes))
        client.disconnect()
        out.disconnect()
        writer.stop()
        disk.drop_snapshot()
        disk.server.qmp('block-dirty-bitmap-remove', node='src', name=bitmap)
        states.append((last, frozen))
    guest.stop()
    guest.verify()
    for path, content in states:
        same_bytes(images.content(path), content, path)


def test_outside_the_bitmap(disk):
    """Reads there fail; what is inside is the point in time."""
    disk.server.qmp('block-dirty-bitmap-add', node='src', name='b',
                    granularity=65536)
    disk.guest.fill(5 * MIB, 65536, 3)
    frozen = disk.snapshot(bitmap='b', new_bitmap='next')
    disk.guest.fill(0, SIZE, 4)
    client = NbdClient.connect(disk.server.nbd_path, 'snap')
    assert client.read(5 * MIB, 65536) == frozen[5 * MIB:5 * MIB + 65536]
    for offset, length in ((0, 512), (5 * MIB - 1, 2),
                           (5 * MIB, 65537), (5 * MIB + 65536, 1)):
        with pytest.raises(NbdError) as caught:
            client.read(offset, length)
        # EACCES has no number of its own in NBD
        assert caught.value.errno == 22
    assert client.block_status(5 * MIB, 65536)[0][0] == 65536
    # What can be told is told.
    if not disk.server.is_qemu:
        assert client.block_status(5 * MIB + 512, MIB)[0][0] == 65536 - 512
    with pytest.raises(NbdError):
        client.block_status(0, 65536)
    client.disconnect()
    disk.drop_snapshot()


# Discard: the reader has done with an area

@pytest.fixture
def done(disk):
    """A snapshot, and a client that may discard what it has read."""
    frozen = disk.snapshot()
    disk.server.export('snap', name='done', writable=True)
    client = NbdClient.connect(disk.server.nbd_path, 'done')
    client.frozen = frozen
    yield client
    client.disconnect()


def test_discarded_cannot_be_read(disk, done):
    disk.guest.fill(0, SIZE, 5)
    assert done.read(0, MIB) == done.frozen[:MIB]
    done.trim(0, 8 * MIB)
    for offset in (0, 8 * MIB - 512):
        with pytest.raises(NbdError):
            done.read(offset, 512)
    same_bytes(done.read(8 * MIB, 8 * MIB), done.frozen[8 * MIB:])
    disk.guest.verify()


def test_discarded_is_not_copied_again(disk, done, images):
    done.trim(0, SIZE)
    disk.guest.fill(0, SIZE, 6)
    assert os.stat(images.path('temp.qcow2')).st_blocks * 512 < MIB
    disk.guest.verify()


@pytest.mark.ours('QEMU 7.2 crashes')
def test_discard_of_parts_of_clusters(done):
    """Only whole clusters go."""
    done.trim(512, 65536 * 2)
    assert done.read(0, 65536) == done.frozen[:65536]
    assert done.read(65536 * 2, 512) == done.frozen[65536 * 2:][:512]
    with pytest.raises(NbdError):
        done.read(65536, 512)


# A target that fails or hangs

def write_takes(guest, offset, value=9):
    started = time.monotonic()
    guest.write(offset, bytes([value]) * 512)
    return time.monotonic() - started


def snapshot_is_broken(disk):
    client = NbdClient.connect(disk.server.nbd_path, 'snap')
    for offset in (0, SIZE // 2):
        with pytest.raises(NbdError):
            client.read(offset, 512)
    client.disconnect()


def test_slow_target_breaks_the_snapshot_only(disk):
    """No guest write fails, and none waits much longer than cbw-timeout."""
    disk.server.qmp('blockdev-add', {
        'driver': 'null-co', 'node-name': 'slow', 'size': SIZE,
        'latency-ns': 4000000000})
    disk.snapshot('slow', on_cbw_error='break-snapshot', cbw_timeout=1)
    assert 0.9 < write_takes(disk.guest, 0) < 3
    for offset in range(0, SIZE, MIB):
        assert write_takes(disk.guest, offset) < 0.5
    snapshot_is_broken(disk)
    disk.drop_snapshot('slow')
    disk.guest.verify()


def test_slow_target_breaks_guest_writes(disk):
    """The default: the write fails, the snapshot stays good."""
    disk.server.qmp('blockdev-add', {
        'driver': 'null-co', 'node-name': 'slow', 'size': SIZE,
        'latency-ns': 2500000000})
    frozen = disk.snapshot('slow', cbw_timeout=1)
    with pytest.raises(NbdError) as caught:
        write_takes(disk.guest, 0)
    assert caught.value.errno in (5, 22)    # NBD has no ETIMEDOUT
    client = NbdClient.connect(disk.server.nbd_path, 'snap')
    assert client.read(MIB, MIB) == frozen[MIB:2 * MIB]
    client.disconnect()
    disk.drop_snapshot('slow')
    disk.guest.verify()


@pytest.fixture
def stopped(start_server, images, disk):
    """A node 'far' of a server that has been stopped by a signal."""
    other = start_server(name='far')
    other.add_node('far', images.create('far.qcow2', SIZE))
    other.export('far')
    disk.server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'far', 'export': 'far',
        'server': {'type': 'unix', 'path': other.nbd_path}})
    yield other
    os.kill(other.proc.pid, signal.SIGCONT)


def test_hung_target(disk, stopped):
    """The guest goes on after cbw-timeout, and the snapshot can be removed
    once the target is back."""
    disk.snapshot('far', on_cbw_error='break-snapshot', cbw_timeout=1)
    disk.guest.write(0, b'x' * 512)
    os.kill(stopped.proc.pid, signal.SIGSTOP)
    assert 0.9 < write_takes(disk.guest, MIB) < 3
    disk.guest.start()
    disk.guest.wait_writes(100)
    disk.guest.stop()
    os.kill(stopped.proc.pid, signal.SIGCONT)
    snapshot_is_broken(disk)
    disk.drop_snapshot('far')
    disk.guest.verify()


@pytest.mark.ours('QEMU hangs')
def test_hung_target_goes(disk, stopped):
    """Removing the filter does not wait for a target that hangs for good."""
    disk.snapshot('far', on_cbw_error='break-snapshot', cbw_timeout=1)
    os.kill(stopped.proc.pid, signal.SIGSTOP)
    write_takes(disk.guest, 0)
    started = time.monotonic()
    disk.drop_snapshot('far')
    assert time.monotonic() - started < 5
    disk.guest.verify()


@pytest.mark.ours('QEMU hangs')
@pytest.mark.parametrize('timeout', [0, 1])
def test_hung_target_and_quit(disk, stopped, timeout):
    disk.snapshot('far', on_cbw_error='break-snapshot', cbw_timeout=timeout)
    os.kill(stopped.proc.pid, signal.SIGSTOP)
    if timeout:
        write_takes(disk.guest, 0)
    else:
        # Nobody asked for a limit: this one waits until the end.
        disk.guest.nbd.request(1, 0, 512, data=b'y' * 512)
        time.sleep(0.2)
    started = time.monotonic()
    disk.server.quit()
    assert time.monotonic() - started < 10


def test_full_target_breaks_the_snapshot(server, images, guest_on,
                                         small_disk):
    disk = Disk(server, images, guest_on)
    small = small_disk(4 * MIB)
    path = small.path('scratch.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, str(SIZE))
    server.add_node('scratch', path, backing='src')
    disk.guest.fill(0, SIZE, 7)
    disk.snapshot('scratch', on_cbw_error='break-snapshot')
    disk.guest.fill(0, SIZE, 8)
    snapshot_is_broken(disk)
    disk.drop_snapshot('scratch')
    disk.guest.verify()


# Push: a backup job reads the snapshot

@qemu_shows_zeroes
def test_backup_of_the_snapshot(disk, images):
    """The target of the backup may be slow; the guest never waits for it."""
    disk.guest.start()
    frozen = disk.snapshot()
    path = images.create('pushed.qcow2', SIZE)
    disk.server.add_node('pushed', path)
    job = start_backup(disk.server, 'snap', 'pushed', speed=16 * MIB)
    disk.guest.wait_writes(50)
    job.let_run()
    job.finish()
    disk.drop_snapshot()
    disk.guest.stop()
    disk.guest.verify()
    disk.server.qmp('blockdev-del', node_name='pushed')
    same_bytes(images.content(path), frozen, 'backup')
