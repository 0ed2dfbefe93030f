# SPDX-License-Identifier: MIT
"""Many at once: guests, jobs, clients; and a disk that is slow.

null-co with latency-ns stands for the slow disk.
"""

import random
import threading
import time

import pytest

from .images import same_bytes
from .jobs import Job, backup_arguments, start_backup
from .nbd import NbdClient

MIB = 1 << 20
SLOW_NS = 1500 * 1000 * 1000
OTHERS_WAIT = 'with QEMU everybody waits for a drained slow disk'


def test_four_guests_one_disk(server, images, guest_on):
    """Four guests, each in its quarter, while the whole is backed up."""
    size = 16 * MIB
    server.add_node('disk', images.create('disk.qcow2', size))
    guests = []
    for i in range(4):
        server.qmp('blockdev-add', {
            'driver': 'raw', 'node-name': f'q{i}', 'file': 'disk',
            'offset': i * size // 4, 'size': size // 4})
        server.export(f'q{i}')
        guests.append(guest_on(server, f'q{i}', seed=i))
    server.add_node('dst', images.create('dst.qcow2', size))
    for guest in guests:
        guest.start()
    for _ in range(2):
        for guest in guests:
            guest.wait_writes(15)
            guest.pause()
        frozen = b''.join(guest.freeze() for guest in guests)
        job = start_backup(server, 'disk', 'dst', speed=8 * MIB)
        for guest in guests:
            guest.resume()
        for guest in guests:
            guest.wait_writes(15)
        job.let_run()
        job.finish()
        if server.is_qemu:
            break       # the second time is as good as the first
    for guest in guests:
        guest.stop()
        guest.verify()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(images.path('dst.qcow2')), frozen)


def test_many_connections_random(server, images, guest_on):
    """Eight connections write overlapping ranges in no order at all; at
    the end each sector has what one of them wrote there."""
    path = images.create('a.qcow2', 2 * MIB, cluster_size=4096)
    server.add_node('n', path)
    server.export('n')
    errors = []

    def write(i):
        rnd = random.Random(i)
        try:
            nbd = NbdClient.connect(server.nbd_path, 'n')
            for _ in range(80):
                at = rnd.randrange(0, 2 * MIB - 65536, 512)
                nbd.write(at, bytes([i + 1]) * rnd.choice((512, 4096, 59904)))
            nbd.flush()
            nbd.disconnect()
        except Exception as exc:    # told to the main thread
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    nbd = NbdClient.connect(server.nbd_path, 'n')
    before = nbd.read(0, 2 * MIB)
    nbd.disconnect()
    server.stop()
    content = images.content(path)
    same_bytes(content, before)
    for at in range(0, 2 * MIB, 512):
        sector = content[at:at + 512]
        assert sector == bytes([sector[0]]) * 512 and sector[0] <= 8


def slow_disk(server, name='slow', latency=SLOW_NS, size=MIB):
    server.qmp('blockdev-add', {
        'driver': 'null-co', 'node-name': name, 'size': size,
        'latency-ns': latency, 'read-zeroes': True})
    server.export(name)


class Busy:
    """A client with one request in flight on the slow disk."""

    def __init__(self, server, name='slow'):
        self.nbd = NbdClient.connect(server.nbd_path, name)
        self.nbd.request(1, 0, 512, 0, b'x' * 512)
        time.sleep(0.1)

    def done(self):
        _, error, _ = self.nbd.reply()
        assert error is None
        self.nbd.disconnect()


def answered_fast(mon, n_times=5):
    for _ in range(n_times):
        started = time.monotonic()
        mon.execute('query-named-block-nodes', flat=True)
        mon.execute('query-jobs')
        assert time.monotonic() - started < 0.5


@pytest.mark.ours(OTHERS_WAIT)
@pytest.mark.parametrize('command', ['backup', 'resize', 'export-del'])
def test_slow_disk_holds_up_nobody_else(server, command):
    """A command that drains a slow disk waits; the others do not."""
    server.qmp('blockdev-add', driver='null-co', node_name='dst', size=MIB)
    slow_disk(server)
    other = server.connect(name='other')
    busy = Busy(server)
    started = time.monotonic()
    if command == 'backup':
        ident = server.mon.send('blockdev-backup', backup_arguments(
            'slow', 'dst', auto_dismiss=False))
    elif command == 'resize':
        ident = server.mon.send('block_resize', {'node-name': 'slow',
                                                 'size': MIB})
    else:
        ident = server.mon.send('block-export-del', {
            'id': 'export-slow', 'mode': 'hard'})
    answered_fast(other)
    assert time.monotonic() - started < 1.2
    try:
        server.mon.reply_to(ident)
    except Exception as exc:
        assert command == 'resize', exc
    if command == 'export-del':
        server.wait_event('BLOCK_EXPORT_DELETED')
        busy.nbd.close()
    else:
        busy.done()
    if command == 'backup':
        job = Job(server, 'backup')
        job.let_run()
        job.finish(timeout=30)
    other.close()


@pytest.mark.ours(OTHERS_WAIT)
def test_other_disk_goes_on(server, images, guest_on):
    """While one disk is drained, guests of another write on."""
    slow_disk(server)
    server.qmp('blockdev-add', driver='null-co', node_name='dst', size=MIB)
    server.add_node('fast', images.create('fast.qcow2', 4 * MIB))
    server.export('fast')
    guest = guest_on(server, 'fast')
    busy = Busy(server)
    ident = server.mon.send('blockdev-backup', backup_arguments(
        'slow', 'dst', auto_dismiss=False))
    started = time.monotonic()
    guest.random_writes(20)
    assert time.monotonic() - started < 1
    server.mon.reply_to(ident)
    busy.done()
    job = Job(server, 'backup')
    job.finish(timeout=30)


def test_quit_with_request_in_flight(server):
    """quit waits for the request, not for ever."""
    slow_disk(server)
    busy = Busy(server)
    started = time.monotonic()
    messages = server.quit()
    assert {'return': {}} in messages
    assert time.monotonic() - started < 10
    busy.nbd.close()


def test_cancel_on_slow_disk(server):
    """The job's own requests take long; cancel is answered at once and
    the job ends when they have."""
    slow_disk(server, latency=300 * 1000 * 1000, size=64 * MIB)
    server.qmp('blockdev-add', driver='null-co', node_name='dst',
               size=64 * MIB)
    job = start_backup(server, 'slow', 'dst', speed=65536)
    started = time.monotonic()
    job.cancel()
    assert time.monotonic() - started < 2
    job.wait('concluded')
    job.dismiss()


@pytest.mark.ours('QEMU has no such command that takes long and may be '
                  'overtaken')
def test_out_of_band(start_server):
    """exec-oob overtakes an ordinary command of the same connection."""
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.negotiate(enable=['oob'])
    slow_disk(server)
    server.qmp('blockdev-add', driver='null-co', node_name='dst', size=MIB)
    busy = Busy(server)
    mon.send_raw('{"execute":"blockdev-backup","id":"in-band","arguments":'
                 '{"device":"slow","target":"dst","sync":"full",'
                 '"job-id":"j"}}\n')
    time.sleep(0.1)
    started = time.monotonic()
    mon.send_raw('{"exec-oob":"query-jobs","id":"oob"}\n')
    reply = mon.next_reply()
    assert reply['id'] == 'oob' and 'return' in reply
    assert time.monotonic() - started < 0.5
    assert mon.next_reply()['id'] == 'in-band'
    busy.done()
    Job(server, 'j').wait('null', timeout=30)


def test_in_band_order(server):
    """Ordinary commands of one connection are answered in their order."""
    for i in range(40):
        server.mon.send('blockdev-add', {
            'driver': 'null-co', 'node-name': f'n{i}', 'size': 4096})
        server.mon.send('query-named-block-nodes', {'flat': True})
    for i in range(40):
        assert server.mon.next_reply()['return'] == {}
        assert len(server.mon.next_reply()['return']) == i + 1


def test_graph_changes_under_load(server, images, guest_on):
    """Nodes, bitmaps, exports and jobs come and go while a guest writes."""
    server.add_node('disk', images.create('disk.qcow2', 8 * MIB))
    server.export('disk')
    guest = guest_on(server, 'disk').start()
    server.add_node('dst', images.create('dst.qcow2', 8 * MIB))
    for i in range(15):
        server.qmp('block-dirty-bitmap-add', node='disk', name=f'b{i}')
        server.export('disk', f'r{i}', writable=False)
        job = start_backup(server, 'disk', 'dst', job_id=f'j{i}',
                           speed=MIB)
        reader = NbdClient.connect(server.nbd_path, f'r{i}')
        reader.read(0, MIB)
        if i % 3 == 0:
            job.cancel()
            job.wait('concluded')
            job.dismiss()
        else:
            job.let_run()
            job.finish()
        reader.disconnect()
        server.unexport(f'r{i}', 'hard')
        if i % 2:
            server.qmp('block-dirty-bitmap-remove', node='disk',
                       name=f'b{i}')
    guest.stop()
    guest.verify()


def test_writes_go_on_during_start_of_backup(server, images, guest_on):
    """Starting a backup holds a guest up for a moment, not more."""
    server.add_node('disk', images.create('disk.qcow2', 16 * MIB))
    server.add_node('dst', images.create('dst.qcow2', 16 * MIB))
    server.export('disk')
    guest = guest_on(server, 'disk').start()
    guest.wait_writes(20)
    job = start_backup(server, 'disk', 'dst', speed=65536)
    started = time.monotonic()
    guest.wait_writes(20)
    assert time.monotonic() - started < 5
    job.cancel()
    job.wait('concluded')
    guest.stop()
    job.dismiss()
