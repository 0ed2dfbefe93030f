# SPDX-License-Identifier: MIT
"""Arguments of a backup that say how it copies: discard-source, x-perf, what
queries show of it meanwhile, where source and target are.

compress is in test_backup_compress.py, on-cbw-error and cbw-timeout are in
test_copy_before_write.py and test_fleecing.py as well.
"""

import os
import time

import pytest

from .images import same_bytes
from .jobs import Job, backup_arguments, start_backup
from .nbd import NbdClient

MIB = 1 << 20
SIZE = 8 * MIB
UNIT = 65536
since_9 = pytest.mark.ours('since QEMU 9.1')


@pytest.fixture
def source(server, images, guest_on):
    """A qcow2 'src' of 8 MiB, half of it data, with a guest at it."""
    path = images.create('src.qcow2', SIZE)
    images.io(path, 'write -P 1 0 2M', 'write -P 2 4M 2M')
    server.add_node('src', path, discard='unmap')
    server.export('src')
    return guest_on(server, 'src')


def add_target(server, images, name='dst', size=SIZE, **options):
    path = images.create(f'{name}.qcow2', size, **options)
    server.add_node(name, path, discard='unmap')
    return path


def closed_content(server, images, name='dst'):
    server.qmp('blockdev-del', node_name=name)
    return images.content(images.path(f'{name}.qcow2'))


def data_bytes(images, path):
    return sum(e['length'] for e in images.map(path)
               if e['data'] and e['depth'] == 0)


# What queries show meanwhile

def anonymous(server, driver):
    """Counts of the bitmaps without name of the only node of `driver`."""
    node, = [n for n in server.qmp('query-named-block-nodes', flat=True)
             if n['drv'] == driver]
    infos = [b for b in node.get('dirty-bitmaps', []) if 'name' not in b
             and not b['recording']]
    for info in infos:
        assert not info['busy'] and not info['persistent']
        assert info['granularity'] == UNIT
    return [info['count'] // UNIT for info in infos]


def filter_shows(server, whole, written, remaining):
    """QEMU 7.2 has the third one on the source."""
    if server.is_qemu:
        assert anonymous(server, 'copy-before-write') == [whole, written]
        assert anonymous(server, 'qcow2') == [remaining]
    else:
        assert anonymous(server, 'copy-before-write') == \
            [whole, written, remaining]


def bitmaps_of(server, node):
    return [(b.get('name'), b['recording'], b['busy'], b['count'] // UNIT)
            for b in server.nodes()[node].get('dirty-bitmaps', [])
            if 'name' in b or b['recording']]


@pytest.mark.parametrize('name', [None, 'flt'])
def test_bitmaps_of_a_running_backup(server, images, source, name):
    server.qmp('block-dirty-bitmap-add', node='src', name='b')
    source.write(0, b'x' * MIB)
    source.write(4 * MIB, b'x' * MIB)
    path = images.create('dst.raw', SIZE, 'raw')
    server.add_node('dst', path, 'raw')
    options = {'filter_node_name': name} if name else {}
    job = start_backup(server, 'src', 'dst', sync='bitmap', bitmap='b',
                       bitmap_mode='on-success', auto_finalize=False,
                       speed=1, x_perf={'max-chunk': UNIT}, **options)
    if name:
        assert name in server.nodes()
    while job.block_info()['offset'] < UNIT:
        pass                    # the first step is let through at once
    job.pause()
    filter_shows(server, 128, 0, 31)
    assert bitmaps_of(server, 'src') == [(None, True, False, 0),
                                         ('b', True, True, 32)]
    # Three units that are still to be copied, two that are not.
    source.write(5 * UNIT + 512, b'y' * 2 * UNIT)
    source.write(40 * UNIT, b'y' * UNIT * 2)
    filter_shows(server, 128, 5, 28)
    source.write(5 * UNIT + 512, b'z' * 512)
    filter_shows(server, 128, 5, 28)
    assert bitmaps_of(server, 'src') == [(None, True, False, 5),
                                         ('b', True, True, 32)]
    job.set_speed(0)
    job.resume()
    job.wait('pending')
    filter_shows(server, 128, 5, 0)
    assert bitmaps_of(server, 'src') == [(None, True, False, 5),
                                         ('b', True, True, 32)]
    server.qmp('job-finalize', id='backup')
    job.wait('concluded')
    assert bitmaps_of(server, 'src') == [('b', True, False, 5)]
    assert not [n for n in server.nodes().values()
                if n['drv'] == 'copy-before-write']
    job.dismiss()


def test_bitmaps_of_none(server, images, source):
    server.add_node('dst', images.create('dst.raw', SIZE, 'raw'), 'raw')
    job = start_backup(server, 'src', 'dst', sync='none')
    filter_shows(server, 128, 0, 128)
    source.write(SIZE - 512, b'y' * 512)
    filter_shows(server, 128, 1, 127)
    job.cancel()
    job.wait('concluded')
    job.dismiss()


def test_bitmaps_of_the_filter(server, images):
    """The same of a copy-before-write that is there by itself."""
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.add_node('dst', images.create('dst.raw', SIZE, 'raw'), 'raw')
    server.qmp('block-dirty-bitmap-add', node='src', name='b')
    server.export('src')
    client = NbdClient.connect(server.nbd_path, 'src')
    client.write(0, b'x' * UNIT)
    client.disconnect()
    server.unexport('src')
    server.qmp('blockdev-add', {
        'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'src',
        'target': 'dst', 'bitmap': {'node': 'src', 'name': 'b'}})
    filter_shows(server, 1, 0, 1)
    server.export('cbw')
    client = NbdClient.connect(server.nbd_path, 'cbw')
    client.write(UNIT - 512, b'x' * 1024)
    client.disconnect()
    filter_shows(server, 1, 2, 0)


# x-perf

def test_perf_refused(server, images, source):
    add_target(server, images)

    def refused(desc, **perf):
        server.fails('blockdev-backup', backup_arguments(
            'src', 'dst', x_perf={k.replace('_', '-'): v
                                  for k, v in perf.items()}), desc)
    workers = 'max-workers must be between 1 and 2147483647'
    refused(workers, max_workers=0)
    refused(workers, max_workers=-1)
    refused(workers, max_workers=1 << 31)
    refused('max-chunk must be zero (which means no limit) or positive',
            max_chunk=-1)
    refused('Required max-chunk (65535) is less than backup cluster size '
            '(65536)', max_chunk=UNIT - 1)
    if not server.is_qemu:
        refused('min-cluster-size needs to be a power of 2',
                min_cluster_size=UNIT + 1)
        refused('min-cluster-size too large: 2147483648 > 2147483647',
                min_cluster_size=1 << 31)
        refused('Required max-chunk (65536) is less than backup cluster size '
                '(1048576)', max_chunk=UNIT, min_cluster_size=MIB)
    assert server.qmp('query-jobs') == []


@pytest.mark.parametrize('perf', [
    {'max-workers': 1}, {'max-workers': 3, 'max-chunk': UNIT},
    {'max-workers': (1 << 31) - 1}, {'max-chunk': 3 * UNIT},
    {'max-chunk': 1 << 40}, {'max-chunk': 0}, {'use-copy-range': True},
    {'use-copy-range': False}, {}], ids=str)
@pytest.mark.parametrize('driver', ['qcow2', 'raw', 'file'])
def test_perf(server, images, guest_on, driver, perf):
    """Whatever it says, the target is right."""
    image = 'qcow2' if driver == 'qcow2' else 'raw'
    nodes = {}
    for name in ('src', 'dst'):
        path = nodes[name] = images.create(name, SIZE, image)
        if driver == 'file':
            server.add_file(name, path)
        else:
            server.add_node(name, path, driver)
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(100)
    guest.start()
    guest.wait_writes(20)
    guest.pause()
    frozen = guest.freeze()
    job = start_backup(server, 'src', 'dst', x_perf=perf, speed=16 * MIB)
    guest.resume()
    guest.wait_writes(50)
    job.let_run()
    job.finish()
    guest.stop()
    guest.verify()
    server.stop()
    same_bytes(images.content(nodes['dst'], image), frozen)


def test_copy_range_over_old_content(server, images):
    """Holes of the source are zeroes on the target; a flush reaches it."""
    content = os.urandom(3 * MIB + UNIT) + bytes(2 * MIB) + b'\1' * 512
    path = images.write_raw('src.raw', content)
    with open(path, 'r+b') as file:
        os.posix_fallocate(file.fileno(), 0, len(content))
    server.add_node('src', path, 'raw')
    dst = images.write_raw('dst.raw', b'\xff' * len(content))
    server.add_node('dst', dst, 'raw')
    start_backup(server, 'src', 'dst',
                 x_perf={'use-copy-range': True}).finish()
    server.stop()
    with open(dst, 'rb') as file:
        same_bytes(file.read(), content)


def test_copy_range_and_bitmap(server, images):
    """What is copied onto a node makes its bitmaps dirty."""
    path = images.create('src.raw', SIZE, 'raw')
    images.io(path, 'write -P 5 1M 64k')
    server.add_node('src', path, 'raw')
    server.add_node('dst', images.create('dst.raw', SIZE, 'raw'), 'raw')
    server.qmp('block-dirty-bitmap-add', node='src', name='b')
    server.export('src')
    client = NbdClient.connect(server.nbd_path, 'src')
    client.write(MIB, b'z' * 512)
    client.disconnect()
    server.qmp('block-dirty-bitmap-add', node='dst', name='d')
    start_backup(server, 'src', 'dst', sync='incremental', bitmap='b',
                 x_perf={'use-copy-range': True}).finish()
    bitmap, = server.nodes()['dst']['dirty-bitmaps']
    assert bitmap['count'] == UNIT


def test_max_chunk_is_the_step(server, images, source):
    """Under a limit the progress goes by max-chunk; the first is free."""
    add_target(server, images)
    job = start_backup(server, 'src', 'dst', speed=1,
                       x_perf={'max-chunk': 3 * UNIT})
    deadline = time.monotonic() + 10
    while job.block_info()['offset'] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job.block_info()['offset'] == 3 * UNIT
    job.set_speed(0)
    job.finish()


def test_progress_at_a_speed(server, images, source):
    """+64 KiB in a quarter of a second at 256 KiB/s."""
    add_target(server, images)
    begun = time.monotonic()
    job = start_backup(server, 'src', 'dst', speed=4 * UNIT,
                       x_perf={'max-chunk': UNIT})
    seen = set()
    while len(seen) < 6:
        seen.add(job.info()['current-progress'])
        time.sleep(0.02)
    assert sorted(seen) == [UNIT * i for i in range(min(seen) // UNIT,
                                                    max(seen) // UNIT + 1)]
    assert (time.monotonic() - begun) * 4 * UNIT >= max(seen) - 2 * UNIT
    job.set_speed(0)
    job.finish()


# discard-source

@pytest.fixture
def fleecing(server, images, source):
    """'cbw' over 'src', which the guest has now; 'temp' its target; 'access'
    the snapshot; 'dst' where it is to go."""
    temp = add_target(server, images, 'temp')
    source.nbd.disconnect()
    server.unexport('src')
    server.qmp('blockdev-add', {
        'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'src',
        'target': 'temp', 'discard': 'unmap'})
    server.qmp('blockdev-add', driver='snapshot-access', node_name='access',
               file='cbw', discard='unmap')
    add_target(server, images)
    server.export('cbw')
    source.nbd = NbdClient.connect(server.nbd_path, 'cbw')
    source.temp = temp
    yield source
    source.nbd.disconnect()


def finish_fleecing(server):
    server.unexport('cbw')
    for name in ('access', 'cbw', 'temp'):
        server.qmp('blockdev-del', node_name=name)


@since_9
def test_discard_what_was_kept(server, images, fleecing):
    """The temporary image loses what the target has."""
    frozen = fleecing.freeze()
    fleecing.write(0, b'new' * MIB)
    fleecing.write(7 * MIB, b'new' * 1000)
    assert anonymous(server, 'copy-before-write') == [128, 49, 79]
    start_backup(server, 'access', 'dst', discard_source=True).finish()
    assert anonymous(server, 'copy-before-write') == [0, 49, 0]
    fleecing.verify()
    fleecing.nbd.disconnect()
    finish_fleecing(server)
    assert data_bytes(images, fleecing.temp) == 0
    same_bytes(closed_content(server, images), frozen)


@since_9
def test_discarded_is_kept_no_more(server, images, fleecing):
    """After the backup the guest's writes cost no copy."""
    frozen = fleecing.freeze()
    start_backup(server, 'access', 'dst', discard_source=True).finish()
    fleecing.write(0, b'new' * MIB)
    fleecing.verify()
    fleecing.nbd.disconnect()
    finish_fleecing(server)
    assert data_bytes(images, fleecing.temp) == 0
    same_bytes(closed_content(server, images), frozen)


@since_9
def test_kept_without_discard_source(server, images, fleecing):
    fleecing.write(0, b'new' * 1000)
    start_backup(server, 'access', 'dst').finish()
    fleecing.nbd.disconnect()
    finish_fleecing(server)
    assert data_bytes(images, fleecing.temp) == UNIT


@since_9
def test_discard_while_guest_writes(server, images, fleecing, seed):
    frozen = fleecing.freeze()
    fleecing.start()
    fleecing.wait_writes(30)
    job = start_backup(server, 'access', 'dst', discard_source=True,
                       speed=4 * MIB)
    fleecing.wait_writes(100)
    job.set_speed(0)
    job.finish()
    fleecing.wait_writes(30)
    fleecing.stop()
    fleecing.verify()
    fleecing.nbd.disconnect()
    finish_fleecing(server)
    assert data_bytes(images, fleecing.temp) == 0
    same_bytes(closed_content(server, images), frozen)


@since_9
def test_discard_of_what_fails_is_not_done(server, images, fleecing):
    """Only what is on the target goes."""
    path = images.create('short.raw', SIZE, 'raw')
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'bad', 'file': {
            'driver': 'blkdebug', 'image': {'driver': 'file',
                                            'filename': path},
            'inject-error': [{'event': 'pwritev', 'sector': 2048,
                              'errno': 5}]}})
    frozen = fleecing.freeze()
    job = start_backup(server, 'access', 'bad', discard_source=True,
                       x_perf={'max-workers': 1, 'max-chunk': UNIT})
    assert job.error() == 'Input/output error'
    job.dismiss()
    server.export('access', writable=False)
    snapshot = NbdClient.connect(server.nbd_path, 'access')
    same_bytes(snapshot.read(MIB, MIB), frozen[MIB:2 * MIB])
    snapshot.disconnect()


@since_9
@pytest.mark.parametrize('discard', ['unmap', 'ignore'])
def test_discard_in_a_plain_image(server, images, discard):
    """It moves: what was copied is gone from the source, if that passes
    discards on."""
    path = images.create('a.qcow2', SIZE)
    images.io(path, 'write -P 1 0 2M', 'write -P 2 4M 2M')
    before = images.content(path)
    server.add_node('a', path, discard=discard)
    add_target(server, images)
    start_backup(server, 'a', 'dst', discard_source=True).finish()
    server.stop()
    assert images.content(images.path('dst.qcow2')) == before
    left = data_bytes(images, path)
    assert left == (0 if discard == 'unmap' else 4 * MIB)


@since_9
def test_discard_skips_what_is_not_copied(server, images):
    """sync=incremental: the rest stays."""
    path = images.create('a.qcow2', SIZE)
    images.io(path, 'write -P 1 0 2M')
    server.add_node('a', path, discard='unmap')
    server.qmp('block-dirty-bitmap-add', node='a', name='b')
    server.export('a')
    client = NbdClient.connect(server.nbd_path, 'a')
    client.write(MIB, b'x' * UNIT)
    client.disconnect()
    add_target(server, images)
    start_backup(server, 'a', 'dst', sync='incremental', bitmap='b',
                 discard_source=True).finish()
    # The discards are changes, too.
    assert bitmaps_of(server, 'a') == [('b', True, False, 1)]
    server.stop()
    assert data_bytes(images, path) == 2 * MIB - UNIT


@since_9
def test_discard_needs_a_writable_source(server, images):
    path = images.create('a.qcow2', SIZE)
    server.add_node('a', path, read_only=True, discard='unmap')
    add_target(server, images)
    text = server.fails('blockdev-backup', backup_arguments(
        'a', 'dst', discard_source=True))
    assert text == 'Could not create node: Block node is read-only', text
    assert server.qmp('query-jobs') == []
    start_backup(server, 'a', 'dst').finish()


@since_9
def test_discard_needs_the_permission(server, images):
    """The target's own backing, which stays below the filter, does not share
    writing."""
    server.add_node('a', images.create('a.qcow2', SIZE), discard='unmap')
    server.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'reader', 'image': 'a',
        'unshare-child-perms': ['write']})
    server.add_node('dst', images.create('dst.qcow2', SIZE),
                    backing='reader')
    server.fails('blockdev-backup', backup_arguments(
        'a', 'dst', discard_source=True, filter_node_name='flt'),
        "Could not create node: Permission conflict on node 'a': permissions "
        "'write' are both required by node 'flt' (uses node 'a' as 'file' "
        "child) and unshared by node 'reader' (uses node 'a' as 'image' "
        "child).")
    assert 'flt' not in server.nodes()
    assert server.qmp('query-jobs') == []
    start_backup(server, 'a', 'dst').finish()


# Where source and target are

def add_nbd(server, other, name, export):
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': name, 'export': export,
        'server': {'type': 'unix', 'path': other.nbd_path}})


@pytest.mark.parametrize('far', ['source', 'target', 'both'])
def test_over_nbd(server, start_server, images, guest_on, far):
    """Either side is another server's export, or both; a guest writes."""
    other = start_server()
    paths = {'src': images.create('src.qcow2', SIZE),
             'dst': images.create('dst.qcow2', SIZE)}
    for name, side in (('src', 'source'), ('dst', 'target')):
        if far in (side, 'both'):
            other.add_node(name, paths[name], discard='unmap')
            other.export(name)
            add_nbd(server, other, name, name)
        else:
            server.add_node(name, paths[name], discard='unmap')
    server.export('src', name='disk')
    guest = guest_on(server, 'disk', trims=True)
    guest.random_writes(60)
    guest.start()
    guest.wait_writes(10)
    guest.pause()
    frozen = guest.freeze()
    job = start_backup(server, 'src', 'dst', speed=8 * MIB)
    guest.resume()
    guest.wait_writes(50)
    job.set_speed(0)
    job.finish()
    guest.stop()
    guest.verify()
    server.stop()
    other.stop()
    same_bytes(images.content(paths['dst']), frozen)


@pytest.mark.parametrize('cluster_size', ['128k', '2M'])
def test_target_with_larger_clusters(server, images, source, cluster_size):
    """Incremental, without a backing file: no cluster is half written.
    Over the full backup it reads as the disk."""
    server.qmp('block-dirty-bitmap-add', node='src', name='b',
               granularity=UNIT)
    path = add_target(server, images, cluster_size=cluster_size)
    source.write(3 * MIB + UNIT, b'one')
    source.write(5 * MIB, b'two' * UNIT)
    start_backup(server, 'src', 'dst', sync='incremental',
                 bitmap='b').finish()
    server.qmp('blockdev-del', node_name='dst')
    content, frozen = images.content(path), source.freeze()
    covered = 0
    for extent in images.map(path):
        if extent['data'] or extent.get('present', True):
            at, end = extent['start'], extent['start'] + extent['length']
            same_bytes(content[at:end], frozen[at:end])
            covered += extent['length']
    assert covered >= 2 * (128 << 10)


# on-cbw-error, cbw-timeout: as those of the filter

@pytest.mark.ours('since QEMU 8')
def test_timeout_breaks_the_snapshot(server, images):
    """The guest goes on after a second, the job says what has happened."""
    path = images.create('src.qcow2', SIZE)
    images.io(path, f'write -P 1 0 {SIZE}')
    server.add_node('src', path)
    server.export('src')
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g',
                              'limits': {'bps-write': 1024}})
    server.qmp('blockdev-add', driver='null-co', node_name='null', size=SIZE)
    server.qmp('blockdev-add', driver='throttle', node_name='slow',
               throttle_group='g', file='null')
    job = start_backup(server, 'src', 'slow', sync='none', cbw_timeout=1,
                       on_cbw_error='break-snapshot')
    client = NbdClient.connect(server.nbd_path, 'src')
    begun = time.monotonic()
    client.write(0, b'x' * 512)
    client.write(MIB, b'x' * 512)
    assert time.monotonic() - begun < 10
    assert job.error() == 'Connection timed out'
    job.dismiss()
    client.disconnect()


def test_grouped_transaction_with_options(server, images, source):
    """The options arrive through a transaction as well."""
    path = add_target(server, images)
    server.qmp('transaction', {'actions': [
        {'type': 'blockdev-backup', 'data': dict(
            backup_arguments('src', 'dst', compress=True,
                             x_perf={'max-workers': 2}),
            **{'auto-dismiss': False})}],
        'properties': {'completion-mode': 'grouped'}})
    Job(server, 'backup').finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())
    assert os.stat(path).st_blocks * 512 < MIB
