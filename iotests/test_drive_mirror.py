# SPDX-License-Identifier: MIT
"""drive-mirror: its target, made or opened; arguments of both mirrors."""

import os

import pytest

from .images import qemu_img, same_bytes
from .mirrors import blockdev_mirror, drive_mirror, mirror_arguments

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def source(server, images, guest_on):
    """A qcow2 'src' of 4 MiB in the server with a guest at it."""
    path = images.create('src.qcow2', SIZE)
    server.add_node('src', path, discard='unmap')
    server.export('src')
    guest = guest_on(server, 'src', trims=True)
    guest.random_writes(40)
    return guest


@pytest.fixture
def chain(server, images):
    """'src' over a base: 1 MiB of its own, the next from below."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, 'write -P 1 0 2M')
    top = images.create('src.qcow2', SIZE, backing=base)
    images.io(top, 'write -P 2 0 1M')
    server.add_node('src', top)
    server.export('src')
    return base


def target_path(images, fmt='qcow2'):
    path = images.path(f'dst.{fmt}')
    return images.adopt(path, fmt)


# What is made

@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_new(server, images, source, fmt):
    """The guest goes on in the copy; the source stays as it was."""
    path = target_path(images, fmt)
    job = drive_mirror(server, 'src', path, format=fmt).ready()
    source.random_writes(20)
    before = source.freeze()
    job.complete()
    source.random_writes(20)
    source.verify()
    nodes = server.nodes()
    server.stop()
    same_bytes(images.content(path), source.freeze())
    same_bytes(images.content(images.path('src.qcow2')), before)
    assert 'src' in nodes


def test_default_format(server, images, source):
    """That of the source."""
    path = target_path(images)
    drive_mirror(server, 'src', path).ready().keep()
    assert images.info(path)['format'] == 'qcow2'
    same_bytes(images.content(path), source.freeze())


def test_default_format_of_existing(server, images, source):
    """What it looks like."""
    path = images.create('dst.img', SIZE)
    drive_mirror(server, 'src', path, mode='existing').ready().keep()
    same_bytes(images.content(path, 'qcow2'), source.freeze())


def test_existing_guessed_raw(server, images, source):
    path = images.create('dst.img', SIZE, fmt='raw')
    drive_mirror(server, 'src', path, mode='existing').ready().keep()
    same_bytes(images.content(path, 'raw'), source.freeze())
    assert 'probing guessed raw' in server.stderr()


@pytest.mark.parametrize('fmt', [None, 'raw'])
def test_guessed_raw_does_not_become_qcow2(server, images, fmt):
    """Data that looks like a header is not written where the format was
    guessed: the next one to guess would follow it [109]."""
    header = images.create('header.qcow2', SIZE)
    with open(header, 'rb') as image:
        data = image.read().ljust(SIZE, b'\0')
    server.add_node('src', images.write_raw('src.raw', data), driver='raw')
    path = images.create('dst.img', SIZE, fmt='raw')
    options = {'format': fmt} if fmt else {}
    job = drive_mirror(server, 'src', path, mode='existing', **options)
    if fmt:
        job.ready().keep()
        same_bytes(images.content(path, 'raw'), data)
    else:
        assert job.error() == 'Operation not permitted'
        with open(path, 'rb') as image:
            assert image.read(4) == bytes(4)


@pytest.mark.parametrize('options', [
    {'cluster_size': 512}, {'cluster_size': '2M'}, {'extended_l2': 'on'},
    {'compat': '0.10'}], ids=str)
def test_existing_keeps_its_options(server, images, source, options):
    path = images.create('dst.qcow2', SIZE, **options)
    before = images.info(path)
    drive_mirror(server, 'src', path, format='qcow2',
                 mode='existing').ready().complete()
    source.random_writes(20)
    source.verify()
    server.stop()
    same_bytes(images.content(path), source.freeze())
    assert images.info(path)['cluster-size'] == before['cluster-size']


def test_existing_full_of_old_data(server, images, source):
    """Nothing of it shows in the end."""
    path = images.create('dst.qcow2', SIZE)
    images.io(path, f'write -P 85 0 {SIZE}')
    source.zero(0, MIB)
    drive_mirror(server, 'src', path, mode='existing',
                 format='qcow2').ready().keep()
    same_bytes(images.content(path), source.freeze())


def test_new_overwrites(server, images, source):
    path = images.create('dst.qcow2', 8 * SIZE)
    images.io(path, f'write -P 85 0 {SIZE}')
    drive_mirror(server, 'src', path, format='qcow2').ready().keep()
    assert images.info(path)['virtual-size'] == SIZE
    same_bytes(images.content(path), source.freeze())


def test_node_name(server, images, source):
    path = target_path(images)
    job = drive_mirror(server, 'src', path, node_name='copy').ready()
    assert server.nodes()['copy']['drv'] == 'qcow2'
    job.complete()
    source.random_writes(10)
    source.verify()
    assert server.nodes()['copy']['file'] == path


def test_node_without_a_name(server, images, source):
    names = set(server.nodes())
    job = drive_mirror(server, 'src', target_path(images)).ready()
    new = set(server.nodes()) - names
    assert new and all(name.startswith('#') for name in new)
    job.complete()


@pytest.mark.parametrize('end', ['drop', 'keep'])
def test_nothing_stays_open(server, images, source, end):
    """Without a change of places the target is closed."""
    graph = server.graph()
    path = target_path(images)
    job = drive_mirror(server, 'src', path, node_name='copy').ready()
    getattr(job, end)()
    assert server.graph() == graph
    images.check(path)          # takes the lock
    source.random_writes(10)
    source.verify()


@pytest.mark.parametrize('direct', [False, True])
@pytest.mark.parametrize('no_flush', [False, True])
def test_target_has_the_sources_cache_mode(server, images, direct, no_flush):
    path = images.create('src.qcow2', SIZE)
    server.add_node('src', path, cache={'direct': direct,
                                        'no-flush': no_flush})
    job = drive_mirror(server, 'src', target_path(images),
                       node_name='copy').ready()
    cache = server.nodes()['copy']['cache']
    assert (cache['direct'], cache['no-flush']) == (direct, no_flush)
    job.complete()


def test_formatting_is_told(server, images, source):
    """Before the reply, as of every image that a command makes."""
    path = target_path(images)
    job = drive_mirror(server, 'src', path, format='qcow2')
    assert f"Formatting '{path}', fmt=qcow2 cluster_size=65536 " \
        'extended_l2=off compression_type=zlib ' \
        f'size={SIZE} lazy_refcounts=off refcount_bits=16' in server.stderr()
    job.ready().keep()


def test_read_only_source(server, images):
    """The copy is read-only, too, once it is in its place."""
    path = images.create('src.qcow2', SIZE)
    images.io(path, 'write -P 3 1M 1M')
    server.add_node('src', path, read_only=True)
    server.export('src', writable=False)
    copy = target_path(images)
    job = drive_mirror(server, 'src', copy, node_name='copy').ready()
    assert server.nodes()['copy']['ro'] is False
    job.complete()
    assert server.nodes()['copy']['ro'] is True
    assert server.qmp('query-block-exports')[0]['node-name'] == 'copy'
    server.stop()
    images.identical(copy, path)


def test_bitmaps_stay_with_the_source(server, images, source):
    """The copy has none."""
    server.qmp('block-dirty-bitmap-add', node='src', name='b',
               persistent=True)
    source.random_writes(10)
    path = target_path(images)
    drive_mirror(server, 'src', path, node_name='copy').ready().complete()
    source.random_writes(10)
    source.verify()
    assert 'dirty-bitmaps' not in server.nodes()['copy']
    server.qmp('blockdev-del', node_name='src')
    assert list(images.bitmaps(images.path('src.qcow2'))) == ['b']
    server.stop()
    assert images.bitmaps(path) == {}


# Backing files, new target

def test_full_has_no_backing(server, images, chain):
    path = target_path(images)
    drive_mirror(server, 'src', path, node_name='copy').ready().complete()
    assert 'backing_file' not in server.nodes()['copy']
    server.stop()
    assert 'backing-filename' not in images.info(path)
    images.identical(path, images.path('src.qcow2'))


def test_top_has_the_sources_backing(server, images, chain):
    path = target_path(images)
    drive_mirror(server, 'src', path, sync='top',
                 node_name='copy').ready().complete()
    assert server.nodes()['copy']['backing_file'] == chain
    server.stop()
    assert images.info(path)['backing-filename'] == chain
    assert [e['depth'] for e in images.map(path)][:2] == [0, 1]
    images.identical(path, images.path('src.qcow2'))


def test_top_uses_the_sources_backing_node(server, images):
    """It is not opened a second time."""
    base = images.create('base.qcow2', SIZE)
    top = images.create('src.qcow2', SIZE, backing=base)
    server.add_node('base', base, read_only=True)
    server.add_node('src', top, backing='base')
    server.export('src')
    drive_mirror(server, 'src', target_path(images), sync='top',
                 node_name='copy').ready().complete()
    server.qmp('blockdev-del', node_name='src')
    server.fails('blockdev-del', node_name='base',
                 desc="Node 'base' is busy: node is used as backing hd of "
                      "'copy'")
    server.unexport('src')
    assert 'copy' not in server.nodes()
    server.qmp('blockdev-del', node_name='base')


def test_none_has_the_source_as_backing(server, images, chain, guest_on):
    path = target_path(images)
    guest = guest_on(server, 'src')
    job = drive_mirror(server, 'src', path, sync='none',
                       node_name='copy').ready()
    guest.write(2 * MIB, b'x' * 65536)
    job.complete()
    guest.random_writes(10)
    guest.verify()
    assert server.nodes()['copy']['backing_file'] == \
        images.path('src.qcow2')
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_top_without_backing_is_full(server, images, source):
    path = target_path(images)
    drive_mirror(server, 'src', path, sync='top').ready().keep()
    assert 'backing-filename' not in images.info(path)
    same_bytes(images.content(path), source.freeze())


@pytest.mark.parametrize('sync', ['top', 'none'])
def test_raw_has_no_backing(server, images, chain, sync):
    path = images.path('dst.raw')
    server.fails('drive-mirror', mirror_arguments(
        'src', path, sync=sync, format='raw'),
        "Backing file not supported for file format 'raw'")
    assert not os.path.exists(path)


# Backing files, existing target

@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
def test_existing_opens_its_backing_at_the_end(server, images, chain, sync):
    """It need not be there when the job starts [156]."""
    late = images.create('late.qcow2', SIZE)
    images.io(late, 'write -P 9 0 4M')
    path = images.create('dst.qcow2', SIZE, backing=late)
    os.rename(late, late + '.away')
    job = drive_mirror(server, 'src', path, sync=sync, mode='existing',
                       format='qcow2', node_name='copy').ready()
    assert 'backing_file' not in server.nodes()['copy']
    os.rename(late + '.away', late)
    job.complete()
    assert server.nodes()['copy']['backing_file'] == late
    server.stop()
    got = images.content(path)
    wanted = {'full': images.content(images.path('src.qcow2')),
              'top': b'\2' * MIB + b'\x09' * 3 * MIB,
              'none': b'\x09' * 4 * MIB}[sync]
    same_bytes(got, wanted)


def test_existing_none_with_a_writing_guest(server, images, chain, guest_on):
    """Parts of clusters are not alone in theirs when the rest appears."""
    late = images.create('late.qcow2', SIZE)
    guest = guest_on(server, 'src')
    qemu_img('convert', '-O', 'qcow2', '-U', images.path('src.qcow2'), late)
    path = images.create('dst.qcow2', SIZE, backing=late)
    os.rename(late, late + '.away')
    job = drive_mirror(server, 'src', path, sync='none', mode='existing',
                       format='qcow2', node_name='copy').ready()
    guest.random_writes(50)
    os.rename(late + '.away', late)
    job.complete()
    guest.random_writes(20)
    guest.verify()
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_existing_backing_missing_at_the_end(server, images, chain):
    late = images.create('late.qcow2', SIZE)
    images.io(late, 'write -P 1 1M 1M')     # as base has it
    path = images.create('dst.qcow2', SIZE, backing=late)
    os.rename(late, late + '.away')
    job = drive_mirror(server, 'src', path, sync='top', mode='existing',
                       format='qcow2', node_name='copy').ready()
    if server.is_qemu:          # the error is the job's, and `copy` in place
        server.qmp('block-job-complete', device='mirror')
        assert job.error() == 'Invalid argument'
        os.rename(late + '.away', late)
        return
    text = server.fails('block-job-complete', device='mirror')
    assert 'Could not open backing file' in text and late in text
    assert job.status() == 'ready'
    os.rename(late + '.away', late)
    job.complete()
    server.stop()
    images.identical(path, images.path('src.qcow2'))


# Backing files, nodes

@pytest.mark.parametrize('how', ['at first', 'reopen', 'snapshot'])
@pytest.mark.parametrize('sync', ['full', 'top'])
def test_node_keeps_its_chain(server, images, chain, guest_on, sync, how):
    """Also one that it gets while the job runs [155]."""
    guest = guest_on(server, 'src')
    other = images.create('other.qcow2', SIZE, backing=chain)
    server.add_node('other', other, read_only=True)
    path = images.create('dst.qcow2', SIZE, backing=other)
    options = {'driver': 'qcow2', 'node-name': 'dst',
               'backing': 'other' if how == 'at first' else None,
               'file': {'driver': 'file', 'filename': path}}
    server.qmp('blockdev-add', options)
    job = blockdev_mirror(server, 'src', 'dst', sync=sync).ready()
    guest.random_writes(20)
    if how == 'reopen':
        server.qmp('blockdev-reopen', options=[dict(options,
                                                    backing='other')])
    if how == 'snapshot':
        server.qmp('blockdev-snapshot', node='other', overlay='dst')
    guest.random_writes(20)
    job.complete()
    assert server.nodes()['dst']['backing_file'] == other
    guest.random_writes(20)
    guest.verify()
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_filters_in_the_chain(server, images, guest_on):
    """sync=top is the layer of the first image, filters or not."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, 'write -P 1 0 2M')
    top = images.create('src.qcow2', SIZE, backing=base)
    images.io(top, 'write -P 2 0 1M')
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    server.add_node('base', base, read_only=True)
    for name, below in (('low', 'base'), ('high', 'src')):
        if below == 'src':
            server.add_node('src', top, backing='low')
        server.qmp('blockdev-add', {
            'driver': 'throttle', 'node-name': name, 'throttle-group': 'g',
            'file': below, 'read-only': name == 'low'})
    server.export('high')
    guest = guest_on(server, 'high')
    path = target_path(images)
    job = drive_mirror(server, 'high', path, sync='top', format='qcow2',
                       node_name='copy').ready()
    assert job.block_info()['len'] == MIB
    guest.random_writes(20)
    job.complete()
    guest.random_writes(20)
    guest.verify()
    if server.is_qemu:          # its header names the filter: nobody opens it
        images.ignore(path)
        return
    assert images.info(path, '-U')['backing-filename'] == base
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_zeroes_of_a_quorum(server, images):
    """They are not data in the copy [312]."""
    for i in range(3):
        path = images.create(f'c{i}.qcow2', SIZE)
        images.io(path, 'write -P 1 0 64k', 'write -z 1M 1M')
        server.add_node(f'c{i}', path)
    server.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 3,
        'children': ['c0', 'c1', 'c2']})
    path = target_path(images)
    drive_mirror(server, 'q', path, format='qcow2').ready().keep()
    assert sum(e['length'] for e in images.map(path) if e['data']) == 65536
    same_bytes(images.content(path), b'\1' * 65536 + bytes(SIZE - 65536))


# Sizes

@pytest.mark.parametrize('size', [0, 512, 1536, MIB + 512, 3 * MIB + 65024])
@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_odd_sizes(server, images, guest_on, size, fmt):
    path = images.write_raw('src.raw', os.urandom(size))
    server.add_node('src', path, driver='raw')
    copy = target_path(images, fmt)
    server.export('src')
    if size:
        guest = guest_on(server, 'src')
    job = drive_mirror(server, 'src', copy, format=fmt).ready()
    if size:
        guest.write(size - 512, b'e' * 512)
    job.complete()
    if size:
        guest.verify()
        guest.write(0, b's' * 512)
        guest.verify()
    server.stop()
    assert images.info(copy, '-f', fmt)['virtual-size'] == size
    if size:
        same_bytes(images.content(copy), guest.freeze())


def test_file_of_no_whole_sectors(server, images):
    data = os.urandom(1000)
    path = images.write_raw('src.raw', data)
    server.add_node('src', path, driver='raw')
    copy = target_path(images, 'raw')
    drive_mirror(server, 'src', copy, format='raw').ready().complete()
    server.stop()
    with open(copy, 'rb') as image:
        same_bytes(image.read(), data + bytes(24))


def test_a_writer_that_comes_later(server, images, source):
    """The job sees what it writes, or it may not write."""
    path = target_path(images)
    job = drive_mirror(server, 'src', path, format='qcow2').ready()
    arguments = {'type': 'nbd', 'id': 'late', 'name': 'late',
                 'node-name': 'src', 'writable': True}
    if server.is_qemu:
        server.qmp('block-export-add', arguments)
    else:
        text = server.fails('block-export-add', arguments)
        assert text.startswith("Permission conflict on node 'src': "
                               "permissions 'write' are both required by")
        server.export('src', name='late', writable=False)
    source.random_writes(10)
    job.complete()
    source.verify()


@pytest.mark.parametrize('size', [SIZE - 512, SIZE + 512])
def test_other_size(server, images, source, size):
    """The job fails, not the command."""
    path = images.create('dst.qcow2', size)
    job = drive_mirror(server, 'src', path, mode='existing', format='qcow2')
    assert job.error() == 'Source and target image have different sizes'
    job.dismiss()
    source.random_writes(10)
    source.verify()


# Targets elsewhere

def test_to_nbd(server, start_server, images, source):
    """drive-mirror to an export of another server [094]."""
    other = start_server(name='other')
    path = images.create('far.raw', SIZE, fmt='raw')
    other.add_node('far', path, driver='raw')
    uri = other.export('far')
    job = drive_mirror(server, 'src', uri, mode='existing',
                       format='raw').ready()
    source.random_writes(20)
    job.complete()
    source.random_writes(20)
    source.verify()
    server.stop()
    other.stop()
    same_bytes(images.content(path), source.freeze())


def test_new_on_nbd_is_refused(server, start_server, images, source):
    other = start_server(name='other')
    path = images.create('far.raw', SIZE, fmt='raw')
    other.add_node('far', path, driver='raw')
    uri = other.export('far')
    if server.is_qemu:          # takes the export as it is
        job = drive_mirror(server, 'src', uri, format='raw').ready()
        job.keep()
        return
    graph = server.graph()
    text = server.fails('drive-mirror', mirror_arguments(
        'src', uri, format='raw'))
    assert 'does not support image creation' in text
    assert server.graph() == graph


def test_to_and_from_nbd_nodes(server, start_server, images, guest_on):
    """Source and target are exports of another server."""
    other = start_server(name='other')
    sides = {}
    for name in ('from', 'to'):
        path = images.create(f'{name}.raw', SIZE, fmt='raw')
        other.add_node(name, path, driver='raw')
        other.export(name)
        server.qmp('blockdev-add', {
            'driver': 'nbd', 'node-name': name, 'export': name,
            'server': {'type': 'unix', 'path': other.nbd_path}})
        sides[name] = path
    server.export('from')
    guest = guest_on(server, 'from')
    guest.random_writes(30)
    job = blockdev_mirror(server, 'from', 'to').ready()
    guest.random_writes(20)
    job.complete()
    guest.random_writes(20)
    guest.verify()
    server.stop()
    other.stop()
    same_bytes(images.content(sides['to']), guest.freeze())


# granularity, buf-size, filter-node-name, converge

@pytest.mark.parametrize('granularity', [0, 512, 4096, MIB, 64 * MIB])
def test_granularity(server, images, source, granularity):
    """So much becomes dirty by a write."""
    server.add_node('dst', images.create('dst.raw', SIZE, fmt='raw'),
                    driver='raw')
    job = blockdev_mirror(server, 'src', 'dst', sync='none',
                          granularity=granularity).ready()
    source.write(0, b'x' * 512)
    while True:
        info = job.block_info()
        if info['len'] and info['len'] == info['offset']:
            break
    unit = granularity or 65536
    assert info['len'] == unit if unit <= SIZE else info['len'] >= SIZE
    job.drop()


@pytest.mark.parametrize('cluster_size,unit', [
    (512, 4096), (4096, 4096), ('32k', 32768), ('2M', 65536)])
def test_default_granularity(server, images, source, cluster_size, unit):
    """The target's cluster size, from 4 KiB to 64 KiB."""
    base = images.create('base.qcow2', SIZE)
    path = images.create('dst.qcow2', SIZE, cluster_size=cluster_size,
                         backing=base)
    server.add_node('dst', path)
    job = blockdev_mirror(server, 'src', 'dst', sync='none').ready()
    source.write(0, b'x' * 512)
    while True:
        info = job.block_info()
        if info['len'] and info['len'] == info['offset']:
            break
    assert info['len'] == unit
    job.drop()


@pytest.mark.parametrize('buf_size', [65536, 256 << 10])
def test_buf_size(server, images, buf_size):
    """No more than that goes in the first step [218]."""
    path = images.create('src.raw', SIZE, fmt='raw')
    images.io(path, f'write -P 1 0 {SIZE}')
    server.add_node('src', path, driver='raw')
    server.add_node('dst', images.create('dst.raw', SIZE, fmt='raw'),
                    driver='raw')
    job = blockdev_mirror(server, 'src', 'dst', buf_size=buf_size, speed=1)
    while job.block_info()['offset'] == 0:
        pass
    assert job.block_info()['offset'] == buf_size
    job.drop()


def test_named_filter(server, images, source):
    """It is an ordinary node while the job is there."""
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    job = blockdev_mirror(server, 'src', 'dst',
                          filter_node_name='watch').ready()
    assert server.nodes()['watch']['drv'] == 'mirror_top'
    job.complete()
    assert 'watch' not in server.nodes()
    source.random_writes(10)
    source.verify()


@pytest.mark.ours('our own argument')
@pytest.mark.parametrize('command', ['drive-mirror', 'blockdev-mirror'])
def test_converge(server, images, source, command):
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    path = target_path(images, 'raw')
    start = drive_mirror if command == 'drive-mirror' else blockdev_mirror
    target = path if command == 'drive-mirror' else 'dst'
    server.fails(command, mirror_arguments('src', target, converge=-1),
                 "Parameter 'converge' expects uint32_t")
    source.start()
    job = start(server, 'src', target, converge=5).ready()
    source.stop()
    job.complete()
    source.random_writes(10)
    source.verify()


# Zeroes and space

def blocks_of(path):
    return os.stat(path).st_blocks * 512


def written_zeroes(images):
    """16 MiB: 64 KiB of data, 4 MiB of zeroes that have space, holes."""
    path = images.create('src.raw', 16 * MIB, fmt='raw')
    images.io(path, 'write -P 1 1M 64k', 'write -P 0 8M 4M')
    assert blocks_of(path) >= 4 * MIB
    return path


@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_new_stays_sparse(server, images, fmt):
    """What is known to be zero is not written to what is zero."""
    path = images.create('src.raw', 16 * MIB, fmt='raw')
    images.io(path, 'write -P 1 1M 64k', 'write -z 8M 4M')
    server.add_node('src', path, driver='raw')
    copy = target_path(images, fmt)
    drive_mirror(server, 'src', copy, format=fmt).ready().keep()
    assert blocks_of(copy) <= MIB
    same_bytes(images.content(copy), images.content(path))


@pytest.mark.ours('QEMU 7.2 writes zeroes to what is zero')
@pytest.mark.parametrize('discard', ['ignore', 'unmap'])
@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_node_stays_sparse(server, images, fmt, discard):
    """A target that shows zeroes need not be new."""
    path = images.create('src.raw', 16 * MIB, fmt='raw')
    images.io(path, 'write -P 1 1M 64k')
    server.add_node('src', path, driver='raw')
    copy = images.create('dst', 16 * MIB, fmt=fmt)
    server.add_node('dst', copy, driver=fmt, discard=discard)
    blockdev_mirror(server, 'src', 'dst').ready().keep()
    assert blocks_of(copy) <= MIB
    server.stop()
    same_bytes(images.content(copy), images.content(path))


def test_zeroes_are_detected(server, images):
    """detect-zeroes=unmap and discard=unmap: those that were written, too."""
    path = written_zeroes(images)
    server.add_node('src', path, driver='raw')
    copy = images.create('dst.raw', 16 * MIB, fmt='raw')
    images.io(copy, 'write -P 85 0 16M')
    server.add_node('dst', copy, driver='raw', discard='unmap',
                    detect_zeroes='unmap')
    blockdev_mirror(server, 'src', 'dst').ready().keep()
    assert blocks_of(copy) <= 2 * MIB
    same_bytes(images.content(copy), images.content(path))


def test_preallocation_is_kept(server, images):
    """discard=ignore: what has space keeps it."""
    path = images.create('src.raw', 16 * MIB, fmt='raw')
    images.io(path, 'write -P 1 1M 64k')
    server.add_node('src', path, driver='raw')
    copy = images.create('dst.raw', 16 * MIB, fmt='raw', preallocation='full')
    server.add_node('dst', copy, driver='raw', discard='ignore')
    blockdev_mirror(server, 'src', 'dst').ready().keep()
    assert blocks_of(copy) >= 16 * MIB
    same_bytes(images.content(copy), images.content(path))


@pytest.mark.parametrize('unmap', [True, False])
def test_unmap(server, images, unmap):
    """drive-mirror: may zeroes be without space?  The target has the
    source's discard mode."""
    path = images.create('src.raw', 16 * MIB, fmt='raw')
    images.io(path, 'write -P 1 1M 64k')
    server.add_node('src', path, driver='raw', discard='unmap')
    copy = images.create('dst.raw', 16 * MIB, fmt='raw')
    images.io(copy, 'write -P 85 0 16M')
    drive_mirror(server, 'src', copy, mode='existing', format='raw',
                 unmap=unmap).ready().keep()
    blocks = blocks_of(copy)
    assert blocks <= 2 * MIB if unmap else blocks >= 16 * MIB
    same_bytes(images.content(copy), images.content(path))


@pytest.mark.ours('since QEMU 10.1')
@pytest.mark.parametrize('told', [True, False])
def test_target_is_zero(server, images, told):
    """It is believed: here it is not so, to see that it is."""
    path = images.create('src.qcow2', SIZE)
    images.io(path, 'write -P 1 1M 64k', 'write -z 2M 64k')
    server.add_node('src', path)
    copy = images.create('dst.raw', SIZE, fmt='raw')
    images.io(copy, f'write -P 85 0 {SIZE}')
    server.add_node('dst', copy, driver='raw')
    blockdev_mirror(server, 'src', 'dst', target_is_zero=told).ready().keep()
    wanted = bytearray(b'\x55' * SIZE if told else bytes(SIZE))
    wanted[MIB:MIB + 65536] = b'\1' * 65536
    same_bytes(images.content(copy), bytes(wanted))
