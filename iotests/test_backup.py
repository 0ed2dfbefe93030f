# SPDX-License-Identifier: MIT
"""blockdev-backup and drive-backup: what is on the target, bit for bit.

While a job runs a guest writes to the source; the target must hold the
disk as it was when the job started.
"""

import os
import time

import pytest

from .faults import damaged_source
from .images import qemu_img, same_bytes
from .jobs import (BACKUP_STARTS, Job, SUCCEEDS, backup_arguments,
                   start_backup)
from .nbd import NbdClient, NbdError

MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture
def source(server, images, guest_on):
    """A qcow2 'src' of 16 MiB in the server with a guest at it."""
    path = images.create('src.qcow2', SIZE)
    server.add_node('src', path, discard='unmap')
    server.export('src')
    guest = guest_on(server, 'src', trims=True)
    guest.random_writes(60)
    return guest


def target(server, images, name='dst', size=SIZE, **options):
    backing = options.pop('backing', None)
    path = images.create(f'{name}.qcow2', size, backing=backing, **options)
    server.add_node(name, path)
    return path


def closed_content(server, images, name):
    server.qmp('blockdev-del', node_name=name)
    return images.content(images.path(f'{name}.qcow2'))


def begin(guest, server, *args, **options):
    """Start a backup while the guest holds its breath."""
    guest.pause()
    try:
        frozen = guest.freeze()
        return start_backup(server, *args, **options), frozen
    finally:
        guest.resume()


# Full

def test_full(server, images, source):
    target(server, images)
    start_backup(server, 'src', 'dst').finish()
    same_bytes(closed_content(server, images, 'dst'), source.freeze())


def test_full_with_writing_guest(server, images, source):
    target(server, images)
    source.start()
    source.wait_writes(20)
    job, frozen = begin(source, server, 'src', 'dst', speed=8 * MIB)
    source.wait_writes(100)
    job.set_speed(0)
    job.finish()
    source.stop()
    same_bytes(closed_content(server, images, 'dst'), frozen)
    source.verify()


def test_full_slow_with_writing_guest(server, images, source):
    """Most of the target comes from copy-before-write."""
    target(server, images)
    job, frozen = begin(source, server, 'src', 'dst', speed=65536)
    for at in range(0, SIZE, MIB):
        source.write(at, os.urandom(MIB))
    assert job.status() == 'running'
    job.set_speed(0)
    job.finish()
    same_bytes(closed_content(server, images, 'dst'), frozen)
    source.verify()


def test_point_in_time_under_load(server, images, source):
    """The guest does not stop for the start; the target is the disk after
    some number of the guest's requests between command and reply."""
    target(server, images)
    source.start()
    source.wait_writes(10)
    start = source.record()
    source.wait_writes(5)
    first = source.n_writes
    job = start_backup(server, 'src', 'dst', speed=8 * MIB)
    last = source.n_writes + 1
    source.wait_writes(50)
    job.set_speed(0)
    job.finish()
    source.stop()
    content = closed_content(server, images, 'dst')
    assert any(content == source.state_at(start, n)
               for n in range(first, last + 1)), \
        f'no state of the disk between requests {first} and {last}'


@pytest.mark.parametrize('kind', ['write', 'zero', 'trim'])
def test_each_kind_of_guest_request(server, images, source, kind):
    """Write, write-zeroes and trim all keep the old data first."""
    target(server, images)
    source.fill(0, SIZE, 0x5a)
    job, frozen = begin(source, server, 'src', 'dst', speed=65536)
    for at in range(512, SIZE - MIB, 3 * MIB + 512 * 7):
        if kind == 'write':
            source.write(at, b'w' * 100000)
        elif kind == 'zero':
            source.zero(at, 100000)
        else:
            source.trim(at, 300000)
    job.set_speed(0)
    job.finish()
    same_bytes(closed_content(server, images, 'dst'), frozen)
    source.verify()


def test_small_writes_in_one_cluster(server, images, source):
    """Nine bytes here and there; the cluster is preserved once."""
    target(server, images)
    source.fill(0, SIZE, 1)
    job, frozen = begin(source, server, 'src', 'dst', speed=65536)
    for i in range(100):
        source.write(8 * MIB + i * 700 + 3, b'123456789')
    job.set_speed(0)
    job.finish()
    same_bytes(closed_content(server, images, 'dst'), frozen)


@pytest.mark.parametrize('size', [512, 65536, 65536 + 512, MIB + 1536])
def test_odd_sizes(server, images, guest_on, size):
    path = images.create('src.qcow2', size)
    server.add_node('src', path)
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(20)
    target(server, images, size=size)
    start_backup(server, 'src', 'dst').finish()
    same_bytes(closed_content(server, images, 'dst'), guest.freeze())


def test_unaligned_raw(server, images):
    """4097 bytes: the node reads as 4608, the tail is zero."""
    path = images.write_raw('src.raw', b'x' * 4097)
    server.add_node('src', path, 'raw')
    other = images.write_raw('dst.raw', bytes(4097))
    server.add_node('dst', other, 'raw')
    start_backup(server, 'src', 'dst').finish()
    server.qmp('blockdev-del', node_name='dst')
    assert open(other, 'rb').read()[:4097] == b'x' * 4097


def test_empty_disk(server, images):
    server.add_node('src', images.create('src.qcow2', 0))
    target(server, images, size=0)
    job = start_backup(server, 'src', 'dst', auto_dismiss=True)
    job.wait('null')
    assert job.steps == BACKUP_STARTS + SUCCEEDS + ['null']
    assert job.events['BLOCK_JOB_COMPLETED']['len'] == 0


@pytest.mark.parametrize('options', [
    {'cluster_size': 512}, {'cluster_size': '2M'}, {'compat': '0.10'},
    {'preallocation': 'full'}, {'refcount_bits': 1}], ids=str)
def test_target_shapes(server, images, source, options):
    target(server, images, **options)
    source.start()
    source.wait_writes(5)
    job, frozen = begin(source, server, 'src', 'dst')
    job.finish()
    source.stop()
    same_bytes(closed_content(server, images, 'dst'), frozen)


def test_raw_target(server, images, source):
    path = images.create('dst.raw', SIZE, 'raw')
    server.add_node('dst', path, 'raw')
    start_backup(server, 'src', 'dst').finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(open(path, 'rb').read(), source.freeze())


def test_target_stays_sparse(server, images):
    """Holes and zeroes of the source take no room on a fresh target."""
    path = images.create('src.qcow2', '1G')
    images.io(path, 'write -P 1 512M 64k', 'write -z 600M 10M')
    server.add_node('src', path)
    target(server, images, size='1G')
    start_backup(server, 'src', 'dst').finish()
    server.stop()
    dst = images.path('dst.qcow2')
    images.identical(path, dst)
    assert os.stat(dst).st_blocks * 512 < 2 * MIB


def test_target_with_old_content(server, images, source):
    """What the target held is overwritten, by zeroes too."""
    path = images.create('dst.qcow2', SIZE)
    images.io(path, f'write -P 9 0 {SIZE}')
    server.add_node('dst', path)
    start_backup(server, 'src', 'dst').finish()
    same_bytes(closed_content(server, images, 'dst'), source.freeze())


def test_compressed(server, images, source):
    """More of it is in test_backup_compress.py."""
    target(server, images)
    source.fill(0, SIZE, 0x33)
    start_backup(server, 'src', 'dst', compress=True).finish()
    same_bytes(closed_content(server, images, 'dst'), source.freeze())
    assert os.path.getsize(images.path('dst.qcow2')) < SIZE // 8


def test_target_over_nbd(server, start_server, images, source):
    """Another server's export as the target."""
    other = start_server()
    path = images.create('far.qcow2', SIZE)
    other.add_node('far', path)
    other.export('far')
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'dst', 'export': 'far',
        'server': {'type': 'unix', 'path': other.nbd_path}})
    start_backup(server, 'src', 'dst').finish()
    server.qmp('blockdev-del', node_name='dst')
    other.stop()
    same_bytes(images.content(path), source.freeze())


def test_target_is_readable_meanwhile(server, images, source):
    """Fleecing: sync=none, target over the source, exported read-only
    reads as the moment of the start."""
    server.add_node('dst', images.create('dst.qcow2', SIZE), backing='src')
    job, frozen = begin(source, server, 'src', 'dst', sync='none')
    server.export('dst', writable=False)
    source.random_writes(100)
    reader = NbdClient.connect(server.nbd_path, 'dst')
    got = b''.join(reader.read(at, MIB) for at in range(0, SIZE, MIB))
    reader.disconnect()
    same_bytes(got, frozen)
    server.unexport('dst')
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    source.verify()


def test_none_counts_what_it_copies(server, images, source):
    """sync=none runs until it is cancelled and copies on write alone."""
    server.add_node('dst', images.create('dst.qcow2', SIZE), backing='src')
    job, _ = begin(source, server, 'src', 'dst', sync='none')
    time.sleep(0.2)
    assert job.status() == 'running'
    assert job.block_info()['offset'] == 0
    source.write(0, b'x')
    source.write(5 * MIB, b'y' * 200000)
    info = job.block_info()
    assert info['offset'] >= 65536 * 4
    job.cancel()
    job.wait('concluded')
    job.dismiss()


# Top

def test_top(server, images, guest_on):
    """Only what the top layer holds; the target has the same backing."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, f'write -P 1 0 {SIZE}')
    top = images.create('top.qcow2', SIZE, backing=base)
    images.io(top, 'write -P 2 1M 1M', 'write -z 4M 1M')
    server.add_node('src', top)
    server.export('src')
    guest = guest_on(server, 'src')
    path = target(server, images, backing=base)
    job, frozen = begin(guest, server, 'src', 'dst', sync='top',
                        speed=65536)
    guest.write(1 * MIB + 100, b'new' * 1000)
    guest.write(8 * MIB, b'in a place that only the base has')
    job.set_speed(0)
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)
    own = sum(e['length'] for e in images.map(path)
              if e['data'] and e['depth'] == 0)
    assert own <= 2 * MIB


def test_top_length(server, images):
    """len is what is allocated in the top layer."""
    base = images.create('base.qcow2', '64M')
    top = images.create('top.qcow2', '64M', backing=base)
    images.io(top, 'write -P 2 1M 1M', 'write -P 3 60M 64k')
    server.add_node('src', top)
    target(server, images, size='64M', backing=base)
    job = start_backup(server, 'src', 'dst', sync='top', auto_dismiss=True)
    job.wait('null')
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done['len'] == done['offset'] == MIB + 65536


# drive-backup

def drive_backup(server, path, **options):
    arguments = dict(backup_arguments('src', path), **{
        'auto-dismiss': False}, **{
        k.replace('_', '-'): v for k, v in options.items()})
    server.qmp('drive-backup', arguments)
    return Job(server, 'backup')


def test_drive_backup(server, images, source):
    """Makes its own target; only the file is left when it ends."""
    path = images.adopt(images.path('dst.qcow2'))
    nodes = set(server.nodes())
    drive_backup(server, path, format='qcow2').finish()
    assert set(server.nodes()) == nodes
    same_bytes(images.content(path), source.freeze())


def test_drive_backup_formats(server, images, source):
    path = images.path('dst.raw')
    drive_backup(server, path, format='raw').finish()
    same_bytes(open(path, 'rb').read(), source.freeze())


def test_drive_backup_default_format(server, images, source):
    """The source's."""
    path = images.adopt(images.path('dst'), 'qcow2')
    drive_backup(server, path).finish()
    assert images.info(path)['format'] == 'qcow2'
    same_bytes(images.content(path), source.freeze())


def test_drive_backup_existing(server, images, source):
    path = images.create('dst.qcow2', SIZE, cluster_size='2M')
    drive_backup(server, path, format='qcow2', mode='existing').finish()
    same_bytes(images.content(path), source.freeze())
    assert images.info(path)['cluster-size'] == 2 * MIB


def test_drive_backup_top_has_backing(server, images):
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 1 0 4M')
    top = images.create('src.qcow2', '4M', backing=base)
    images.io(top, 'write -P 2 0 1M')
    server.add_node('src', top)
    path = images.adopt(images.path('dst.qcow2'))
    drive_backup(server, path, format='qcow2', sync='top').finish()
    assert images.info(path)['backing-filename'] == base
    server.stop()
    images.identical(top, path)


def test_drive_backup_none_has_source_as_backing(server, images, source):
    path = images.adopt(images.path('dst.qcow2'))
    job = drive_backup(server, path, format='qcow2', sync='none')
    source.write(0, b'x' * 65536)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    assert images.info(path, '-U')['backing-filename'] == \
        images.path('src.qcow2')


def test_drive_backup_errors(server, images, source):
    server.fails('drive-backup', backup_arguments(
        'nope', images.path('x')),
        "Cannot find device='nope' nor node-name='nope'")
    text = server.fails('drive-backup', backup_arguments(
        'src', '/nonexistent/x', format='qcow2'))
    assert 'No such file or directory' in text
    text = server.fails('drive-backup', backup_arguments(
        'src', images.path('none'), mode='existing', format='qcow2'))
    assert 'No such file or directory' in text
    server.fails('drive-backup', backup_arguments(
        'src', images.path('x'), format='nope'))
    assert server.qmp('query-jobs') == []
    source.random_writes(5)
    source.verify()


@pytest.mark.parametrize('name', ['foo:bar', 'a b:c', ':x', 'http://x/y'])
@pytest.mark.parametrize('mode', ['absolute-paths', 'existing'])
def test_drive_backup_unknown_protocol(server, images, source, name, mode):
    """No protocol, and no file of that name."""
    server.fails('drive-backup', backup_arguments(
        'src', name, mode=mode, format='raw'),
        f"Unknown protocol '{name.split(':')[0]}'")
    assert not os.path.exists(name)


@pytest.mark.ours('QEMU has this protocol')
@pytest.mark.parametrize('name', ['fat:/x'])
@pytest.mark.parametrize('mode', ['absolute-paths', 'existing'])
def test_drive_backup_unsupported_protocol(server, source, name, mode):
    server.fails('drive-backup', backup_arguments(
        'src', name, mode=mode, format='qcow2'),
        f"Unknown protocol '{name.split(':')[0]}'")
    assert not os.path.exists(name)


def test_drive_backup_protocol_that_makes_nothing(server, source):
    server.fails('drive-backup', backup_arguments(
        'src', 'null-co://', format='raw'),
        "Protocol driver 'null-co' does not support image creation")
    server.fails('drive-backup', backup_arguments(
        'src', 'json:{"driver":"null-co"}', format='raw'),
        "Unknown protocol 'json'")


def test_drive_backup_file_protocol(server, images, source):
    path = images.adopt(images.path('d:st.qcow2'))
    drive_backup(server, 'file:' + path, format='qcow2').finish()
    same_bytes(images.content(path), source.freeze())


def test_drive_backup_raw_has_no_backing(server, images, source):
    path = images.path('dst.raw')
    server.fails('drive-backup', backup_arguments(
        'src', path, format='raw', sync='none'),
        "Backing file not supported for file format 'raw'")
    assert not os.path.exists(path)


# Errors while it runs

@pytest.mark.parametrize('policy', ['report', 'enospc'])
def test_source_error_reported(server, images, policy):
    source = damaged_source(images)
    server.add_node('src', source.path)
    target(server, images, size='4M')
    job = start_backup(server, 'src', 'dst', on_source_error=policy)
    assert job.error() == 'Input/output error'
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'read', 'action': 'report'}
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done['error'] == 'Input/output error'
    assert done['len'] == 4 * MIB and done['offset'] < done['len']
    assert job.block_info()['error'] == 'Input/output error'
    assert job.steps[-3:] == ['aborting', 'BLOCK_JOB_COMPLETED', 'concluded']
    job.dismiss()
    source.repair()


def test_source_error_stops(server, images):
    source = damaged_source(images)
    server.add_node('src', source.path)
    target(server, images, size='4M')
    job = start_backup(server, 'src', 'dst', on_source_error='stop')
    job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'read', 'action': 'stop'}
    job.wait('paused')
    info = job.block_info()
    assert (info['status'], info['io-status'], info['paused']) == \
        ('paused', 'failed', True)
    # Still broken: it tries again and stops again.
    server.qmp('job-resume', id='backup')
    job.wait('BLOCK_JOB_ERROR')
    job.wait('paused')
    source.repair()
    server.qmp('job-resume', id='backup')
    job.finish()
    server.stop()
    assert images.content(images.path('dst.qcow2')) == \
        b'\1' * 2 * MIB + bytes(2 * MIB)


def test_source_error_ignored(server, images):
    """Backup tries again until it can read."""
    source = damaged_source(images)
    server.add_node('src', source.path)
    target(server, images, size='4M')
    job = start_backup(server, 'src', 'dst', on_source_error='ignore')
    for _ in range(2):
        job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'ignore'
    assert job.block_info()['io-status'] == 'ok'
    source.repair()
    job.finish()
    server.stop()
    assert images.content(images.path('dst.qcow2')) == \
        b'\1' * 2 * MIB + bytes(2 * MIB)


def test_cancel_while_stopped_by_error(server, images):
    source = damaged_source(images)
    server.add_node('src', source.path)
    target(server, images, size='4M')
    job = start_backup(server, 'src', 'dst', on_source_error='stop')
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.steps == ['running', 'aborting', 'BLOCK_JOB_CANCELLED',
                         'concluded']
    job.dismiss()
    source.repair()


@pytest.fixture
def full_target(server, images, small_disk, guest_on):
    """Source 'src' of 8 MiB, target 'dst' on a disk with no room left."""
    disk = small_disk(24 * MIB)
    path = disk.path('dst.qcow2')
    images.adopt(path)
    qemu_img('create', '-q', '-f', 'qcow2', path, '8M')
    disk.fill()
    source = images.create('src.qcow2', '8M')
    images.io(source, 'write -P 1 0 8M')
    server.add_node('src', source)
    server.add_node('dst', path)
    server.export('src')
    disk.guest = guest_on(server, 'src')
    disk.target = path
    yield disk
    server.stop()
    images.check(path, leaks_allowed=True)
    images.ignore(path)


def test_target_full_reported(server, full_target):
    job = start_backup(server, 'src', 'dst')
    assert job.error() == 'No space left on device'
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'write', 'action': 'report'}
    job.dismiss()
    full_target.guest.random_writes(20)
    full_target.guest.verify()


@pytest.mark.parametrize('policy', ['stop', 'enospc'])
def test_target_full_stops(server, images, full_target, policy):
    """Room is made, the job goes on, the target is right.  The guest's
    write that could not be preserved failed and did nothing."""
    frozen = full_target.guest.freeze()
    job = start_backup(server, 'src', 'dst', on_target_error=policy)
    job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'backup', 'operation': 'write', 'action': 'stop'}
    job.wait('paused')
    info = job.block_info()
    assert (info['io-status'], info['paused']) == ('nospace', True)
    with pytest.raises(NbdError) as error:
        full_target.guest.write(7 * MIB, b'guest' * 100)
    assert error.value.errno == 28
    full_target.guest.verify()
    full_target.make_room()
    full_target.guest.write(6 * MIB, b'guest' * 100)
    server.qmp('job-resume', id='backup')
    job.wait('running')
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(full_target.target), frozen)


def test_target_full_ignored(server, images, full_target):
    frozen = full_target.guest.freeze()
    job = start_backup(server, 'src', 'dst', on_target_error='ignore')
    for _ in range(2):
        job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'ignore'
    full_target.make_room()
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(full_target.target), frozen)


def test_source_disk_full(server, images, small_disk, guest_on):
    """A guest on a full disk gets ENOSPC; nothing else is lost."""
    disk = small_disk(24 * MIB)
    path = disk.path('a.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '8M')
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.write(0, b'x' * MIB)
    guest.flush()
    disk.fill()
    n_failed = 0
    for at in range(MIB, 8 * MIB, MIB):
        try:
            guest.write(at, b'y' * MIB)
        except NbdError as error:
            assert error.errno == 28
            n_failed += 1
            # Unknown now: it may be there in part.
            guest.model[at:at + MIB] = guest.nbd.read(at, MIB)
    assert n_failed
    guest.verify()
    disk.make_room()
    guest.random_writes(50)
    guest.verify()
    guest.close()
    server.stop()
    images.adopt(path)
    images.check(path, leaks_allowed=True)
    same_bytes(images.content(path), guest.freeze())
    images.ignore(path)


def test_kill_during_backup(start_server, images, guest_on):
    """kill -9: the source is whole."""
    path = images.create('src.qcow2', SIZE)
    images.allow_leaks(path)
    images.allow_leaks(images.path('dst.qcow2'))
    server = start_server()
    server.add_node('src', path)
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(50)
    target(server, images)
    start_backup(server, 'src', 'dst', speed=MIB)
    guest.random_writes(50)
    guest.flush()
    server.kill()
    same_bytes(images.content(path), guest.freeze())


@pytest.mark.ours('blockdev-backup has on-cbw-error since QEMU 8')
def test_break_snapshot(server, images, full_target):
    """on-cbw-error=break-snapshot: the guest's write succeeds, the backup
    fails."""
    job = start_backup(server, 'src', 'dst', on_target_error='stop',
                       on_cbw_error='break-snapshot')
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    full_target.guest.write(7 * MIB, b'guest' * 100)
    full_target.guest.verify()
    full_target.make_room()
    server.qmp('job-resume', id='backup')
    assert job.error()
    job.dismiss()
    full_target.guest.verify()
