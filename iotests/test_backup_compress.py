# SPDX-License-Identifier: MIT
"""Backup with `compress`: the target reads as the source did, and its
clusters are compressed, whoever made the copy: the job or a guest's write."""

import json
import os

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job, backup_arguments, start_backup

MIB = 1 << 20
SIZE = 8 * MIB
REFUSED = 'Compression is not supported for this drive '

SHAPES = [
    {}, {'compression_type': 'zstd'}, {'compat': '0.10'},
    {'cluster_size': 512}, {'cluster_size': 4096},
    {'cluster_size': '2M'}, {'cluster_size': '2M', 'compression_type': 'zstd'},
    {'cluster_size': 65536, 'extended_l2': 'on'}]


@pytest.fixture
def source(server, images, guest_on):
    """A raw 'src' of 8 MiB, not all whole clusters, with a guest at it."""
    size = SIZE + 512 * 5
    path = images.write_raw('src.raw', bytes(size))
    server.add_node('src', path, 'raw')
    server.export('src')
    guest = guest_on(server, 'src')
    for at in range(0, SIZE, MIB):
        guest.write(at, bytes([at // MIB + 1]) * (MIB - 65536))
    guest.write(size - 1000, b'the end.' * 125)
    return guest


def add_target(server, images, size=SIZE + 512 * 5, name='dst', **options):
    path = images.create(f'{name}.qcow2', size, **options)
    server.add_node(name, path)
    return path


def clusters(path):
    """(compressed, all allocated)"""
    report = json.loads(qemu_img('check', '--output=json', path))
    return (report.get('compressed-clusters', 0),
            report.get('allocated-clusters', 0))


def all_compressed(path):
    compressed, allocated = clusters(path)
    assert compressed == allocated > 0, (compressed, allocated)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_full(server, images, source, shape):
    """The last, partial cluster included."""
    path = add_target(server, images, **shape)
    start_backup(server, 'src', 'dst', compress=True).finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())
    all_compressed(path)
    if not shape:
        assert os.path.getsize(path) < MIB


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_by_guest_writes(server, images, source, shape):
    """sync=none: all that is on the target comes from copy-before-write."""
    path = add_target(server, images, **shape)
    frozen = source.freeze()
    job = start_backup(server, 'src', 'dst', sync='none', compress=True)
    for at in range(0, SIZE + 512 * 4, 40000):
        source.write(at, b'new' * 100)
    source.write(SIZE + 512 * 4, b'n' * 512)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)
    all_compressed(path)
    source.verify()


def test_with_writing_guest(server, images, source):
    path = add_target(server, images)
    source.start()
    source.wait_writes(20)
    source.pause()
    frozen = source.freeze()
    job = start_backup(server, 'src', 'dst', compress=True, speed=4 * MIB)
    source.resume()
    source.wait_writes(100)
    job.set_speed(0)
    job.finish()
    source.stop()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)


def test_what_does_not_get_smaller(server, images, source):
    """It is stored as it is."""
    source.write(MIB, os.urandom(MIB))
    path = add_target(server, images)
    start_backup(server, 'src', 'dst', compress=True).finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())
    compressed, allocated = clusters(path)
    assert 0 < compressed < allocated


@pytest.mark.ours('QEMU: I/O error')
def test_over_old_content(server, images, source):
    """The target was full of data, plain and compressed."""
    path = images.create('dst.qcow2', SIZE + 512 * 5)
    images.io(path, 'write -P 9 0 4M', 'write -c -P 8 4M 4M')
    server.add_node('dst', path)
    start_backup(server, 'src', 'dst', compress=True).finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())
    all_compressed(path)


@pytest.mark.ours('QEMU: I/O error')
def test_again(server, images, source):
    """A second, incremental one into the same target."""
    path = add_target(server, images)
    server.qmp('block-dirty-bitmap-add', node='src', name='b')
    start_backup(server, 'src', 'dst', compress=True, bitmap='b',
                 bitmap_mode='on-success').finish()
    source.random_writes(40)
    start_backup(server, 'src', 'dst', compress=True, sync='incremental',
                 bitmap='b').finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), source.freeze())


def test_zeroes_take_no_room(server, images):
    path = images.create('src.qcow2', '1G')
    images.io(path, 'write -P 1 512M 64k', 'write -z 600M 10M')
    server.add_node('src', path)
    target = add_target(server, images, '1G')
    start_backup(server, 'src', 'dst', compress=True).finish()
    server.stop()
    images.identical(path, target)
    assert clusters(target) == (1, 1)
    assert os.stat(target).st_blocks * 512 < MIB


def test_top(server, images):
    """Overlays are compressed, too; the target's backing stays."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, f'write -P 1 0 {SIZE}')
    top = images.create('src.qcow2', SIZE, backing=base)
    images.io(top, 'write -P 2 1M 1M', 'write -z 4M 1M')
    server.add_node('src', top)
    path = images.create('dst.qcow2', SIZE, backing=base)
    server.add_node('dst', path)
    start_backup(server, 'src', 'dst', sync='top', compress=True).finish()
    server.stop()
    images.identical(top, path)
    all_compressed(path)


@pytest.mark.ours('since QEMU 9.2')
@pytest.mark.parametrize('unit', [128 * 1024, 4 * MIB])
def test_large_unit(server, images, source, unit):
    """A unit of several clusters, and one larger than a buffer."""
    path = add_target(server, images)
    job = start_backup(server, 'src', 'dst', compress=True, speed=1,
                       x_perf={'min-cluster-size': unit})
    frozen = source.freeze()
    source.write(5 * MIB, b'new')
    job.set_speed(0)
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)
    all_compressed(path)


# Targets

@pytest.mark.parametrize('through', ['copy-on-read', 'throttle'])
def test_through_filter(server, images, source, through):
    path = add_target(server, images)
    options = {'driver': through, 'node-name': 'flt', 'file': 'dst'}
    if through == 'throttle':
        server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
        options['throttle-group'] = 'g'
    server.qmp('blockdev-add', options)
    start_backup(server, 'src', 'flt', compress=True).finish()
    server.stop()
    same_bytes(images.content(path), source.freeze())
    all_compressed(path)


def test_through_filter_compress(server, images):
    """QEMU 7.2 does not take the filter whose work it is."""
    content = b'7' * SIZE
    server.add_node('src', images.write_raw('src.raw', content), 'raw')
    path = add_target(server, images, SIZE)
    server.qmp('blockdev-add', driver='compress', node_name='flt', file='dst')
    arguments = backup_arguments('src', 'flt', compress=True,
                                 auto_dismiss=False)
    if server.is_qemu:
        server.fails('blockdev-backup', arguments, REFUSED)
        return
    server.qmp('blockdev-backup', arguments)
    Job(server, 'backup').finish()
    server.stop()
    same_bytes(images.content(path), content)
    all_compressed(path)


def test_refused(server, images, source):
    """Raw, null, raw over qcow2: and nothing has happened."""
    size = SIZE + 512 * 5
    server.add_node('raw', images.create('r.raw', size, 'raw'), 'raw')
    server.qmp('blockdev-add', driver='null-co', node_name='null', size=size)
    add_target(server, images)
    server.qmp('blockdev-add', driver='raw', node_name='rawq', file='dst')
    for target in ('raw', 'null', 'rawq'):
        server.fails('blockdev-backup', backup_arguments(
            'src', target, compress=True), REFUSED)
        server.qmp('blockdev-backup', backup_arguments(
            'src', target, compress=False, auto_dismiss=False))
        Job(server, 'backup').finish()
    assert server.qmp('query-jobs') == []


def test_refused_over_nbd(server, start_server, images, source):
    other = start_server()
    other.add_node('far', images.create('far.qcow2', SIZE + 512 * 5))
    other.export('far')
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'dst', 'export': 'far',
        'server': {'type': 'unix', 'path': other.nbd_path}})
    server.fails('blockdev-backup', backup_arguments(
        'src', 'dst', compress=True), REFUSED)


def test_external_data_file(server, images, source):
    """It has no compressed clusters.  QEMU finds out when it writes."""
    data = images.create('data.raw', SIZE + 512 * 5, 'raw')
    path = images.create('dst.qcow2', SIZE + 512 * 5, data_file=data)
    server.add_node('dst', path, data_file={'driver': 'file',
                                            'filename': data})
    arguments = backup_arguments('src', 'dst', compress=True,
                                 auto_dismiss=False)
    if server.is_qemu:
        server.qmp('blockdev-backup', arguments)
        assert Job(server, 'backup').error() == 'Operation not supported'
        server.qmp('job-dismiss', id='backup')
    else:
        server.fails('blockdev-backup', arguments, REFUSED)


# drive-backup

@pytest.mark.parametrize('mode', ['absolute-paths', 'existing'])
def test_drive_backup(server, images, source, mode):
    path = images.path('dst.qcow2')
    if mode == 'existing':
        images.create('dst.qcow2', SIZE + 512 * 5, compression_type='zstd')
    else:
        images.adopt(path)
    server.qmp('drive-backup', dict(
        backup_arguments('src', path, compress=True, auto_dismiss=False),
        format='qcow2', mode=mode))
    Job(server, 'backup').finish()
    same_bytes(images.content(path), source.freeze())
    all_compressed(path)


def test_drive_backup_refused(server, images, source):
    server.fails('drive-backup', dict(
        backup_arguments('src', images.path('dst.raw'), compress=True),
        format='raw'), REFUSED)
    assert server.qmp('query-jobs') == []
    source.random_writes(5)
    source.verify()


# Errors

@pytest.mark.parametrize('policy', ['stop', 'enospc'])
def test_target_full(server, images, small_disk, policy):
    """The job stops, and goes on when there is room."""
    disk = small_disk(24 * MIB)
    path = disk.path('dst.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, str(SIZE))
    disk.fill()
    source = images.write_raw('src.raw', os.urandom(MIB) + b'\1' * 7 * MIB)
    server.add_node('src', source, 'raw')
    server.add_node('dst', path)
    job = start_backup(server, 'src', 'dst', compress=True,
                       on_target_error=policy)
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    assert job.block_info()['io-status'] == 'nospace'
    disk.make_room()
    server.qmp('job-resume', id='backup')
    job.wait('running')
    job.finish()
    server.stop()
    images.adopt(path)
    images.check(path, leaks_allowed=True)
    images.identical(source, path)
    images.ignore(path)
