# SPDX-License-Identifier: MIT
"""Small filters: preallocate, compress."""

import os
import time

import pytest

from .images import qemu_img, same_bytes
from .nbd import NbdClient, NbdError

KIB = 1 << 10
MIB = 1 << 20


def file_of(name, path, **options):
    return dict({'driver': 'file', 'node-name': name, 'filename': path},
                **options)


def size_of(path):
    return os.stat(path).st_size


def wait_size(path, test):
    """QEMU 7.2 gives back a moment later."""
    deadline = time.monotonic() + 5
    while not test(size_of(path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert test(size_of(path)), size_of(path)


# preallocate

def preallocate(file, name='p', **options):
    return dict({'driver': 'preallocate', 'node-name': name, 'file': file},
                **{k.replace('_', '-'): v for k, v in options.items()})


def qcow2_over(file, **options):
    return dict({'driver': 'qcow2', 'node-name': 'q', 'file': file},
                **options)


def add_preallocated(server, images, name='a.qcow2', **options):
    path = images.create(name, 20 * MIB)
    server.qmp('blockdev-add', qcow2_over(
        preallocate(file_of('f', path), **options)))
    server.export('q')
    return path


def lengths(server):
    return {name: node['image']['virtual-size']
            for name, node in server.nodes().items()}


def test_preallocate_sizes(server, images):
    """128 MiB more than needed, up to the next MiB; who is above sees what
    is needed; given back when the format is closed."""
    path = add_preallocated(server, images)
    assert size_of(path) < MIB
    nbd = NbdClient.connect(server.nbd_path, 'q')
    nbd.write(0, b'x' * 65536)
    seen = lengths(server)
    assert size_of(path) == seen['f'] == 129 * MIB
    assert os.stat(path).st_blocks * 512 >= 128 * MIB
    assert seen['p'] < MIB
    for i in range(1, 160):
        nbd.write(i * 65536, bytes([i]) * 65536)
    assert size_of(path) == 129 * MIB
    assert 10 * MIB < lengths(server)['p'] < 12 * MIB
    assert nbd.read(100 * 65536, 65536) == bytes([100]) * 65536
    nbd.disconnect()
    server.unexport('q')
    server.qmp('blockdev-del', node_name='q')
    wait_size(path, lambda size: 10 * MIB < size < 12 * MIB)
    server.stop()
    same_bytes(images.content(path)[:160 * 65536],
               b'x' * 65536 + b''.join(bytes([i]) * 65536
                                       for i in range(1, 160)))


def test_preallocate_read_only(server, images):
    """Given back when nobody writes any more, and begun again."""
    path = add_preallocated(server, images)
    nbd = NbdClient.connect(server.nbd_path, 'q')
    nbd.write(0, b'x' * 65536)
    assert size_of(path) > 100 * MIB
    nbd.disconnect()
    server.unexport('q')
    server.qmp('blockdev-reopen',
               options=[dict(qcow2_over('p'), **{'read-only': True})])
    wait_size(path, lambda size: size < MIB)
    server.qmp('blockdev-reopen',
               options=[dict(qcow2_over('p'), **{'read-only': False})])
    assert size_of(path) < MIB
    server.export('q')
    nbd = NbdClient.connect(server.nbd_path, 'q')
    assert nbd.read(0, 65536) == b'x' * 65536
    nbd.write(MIB, b'y' * 65536)
    assert size_of(path) > 100 * MIB
    nbd.disconnect()
    server.stop()
    assert size_of(path) < MIB
    assert images.content(path)[MIB:MIB + 65536] == b'y' * 65536


def test_preallocate_reopen(server, images):
    path = add_preallocated(server, images, prealloc_size=MIB,
                            prealloc_align=4096)
    nbd = NbdClient.connect(server.nbd_path, 'q')
    nbd.write(0, b'x' * 65536)
    # So much more than the write needed that made it longer.
    needed = lengths(server)['p']
    assert needed + MIB // 2 < size_of(path) <= needed + MIB
    server.qmp('blockdev-reopen', options=[preallocate(
        'f', prealloc_size=8 * MIB, prealloc_align=64 * KIB)])
    nbd.write(MIB, b'y' * (2 * MIB))
    assert 8 * MIB < size_of(path) < 12 * MIB
    assert size_of(path) % (64 * KIB) == 0
    before = server.graph()
    server.fails('blockdev-reopen',
                 {'options': [preallocate('f', prealloc_size=8 * MIB,
                                          prealloc_align=1000)]},
                 'prealloc-align parameter of preallocate filter is not '
                 'aligned to 512')
    server.fails('blockdev-reopen',
                 {'options': [preallocate('f', prealloc_align=512)]},
                 "Option 'prealloc-size' cannot be reset to its default "
                 'value')
    assert server.graph() == before
    nbd.disconnect()


def test_preallocate_nothing(server, images, guest_on):
    """A user that cannot grow the node: the size stays."""
    path = images.write_raw('a.img', os.urandom(MIB))
    server.qmp('blockdev-add', preallocate(file_of('f', path)))
    server.export('p')
    nbd = NbdClient.connect(server.nbd_path, 'p')
    nbd.write(MIB - 65536, b'x' * 65536)
    with pytest.raises(NbdError):
        nbd.write(MIB, b'x' * 512)
    nbd.disconnect()
    assert size_of(path) == MIB
    server.unexport('p')
    for size in (4 * MIB, 2 * MIB):
        server.qmp('block_resize', node_name='p', size=size)
        assert size_of(path) == size
        assert lengths(server) == {'p': size, 'f': size}
    server.qmp('blockdev-del', node_name='p')
    assert size_of(path) == 2 * MIB


def test_preallocate_random(server, images, guest_on):
    """Many writers of all sizes; the image is right, live and at rest."""
    path = add_preallocated(server, images, prealloc_size=256 * KIB,
                            prealloc_align=512)
    guests = []
    server.qmp('nbd-server-stop')
    server.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': server.nbd_path}})
    for i in range(2):
        server.qmp('blockdev-add', {
            'driver': 'raw', 'node-name': f'r{i}', 'file': 'q',
            'offset': i * 10 * MIB, 'size': 10 * MIB})
        server.export(f'r{i}')
        guests.append(guest_on(server, f'r{i}', seed=i, trims=True,
                               max_bytes=200000))
        guests[-1].start()
    for guest in guests:
        guest.wait_writes(80)
        guest.stop()
        guest.flush()
        guest.verify()
    wanted = b''.join(guest.freeze() for guest in guests)
    for guest in guests:
        guest.close()
    server.stop()
    same_bytes(images.content(path), wanted)


def test_preallocate_full_disk(server, images, small_disk):
    """No room for more than needed: what is needed goes on."""
    disk = small_disk(24 * MIB)
    path = disk.path('a.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '16M')
    server.qmp('blockdev-add', qcow2_over(preallocate(file_of('f', path))))
    server.export('q')
    nbd = NbdClient.connect(server.nbd_path, 'q')
    for i in range(0, 16):
        nbd.write(i * MIB, bytes([i + 1]) * MIB)
    assert nbd.read(15 * MIB, MIB) == b'\x10' * MIB
    nbd.disconnect()
    server.stop()
    qemu_img('check', '-q', path)
    assert size_of(path) < 18 * MIB


@pytest.mark.parametrize('options, desc', [
    ({'prealloc-align': 1000}, 'prealloc-align parameter of preallocate '
                               'filter is not aligned to 512'),
    ({'prealloc-align': 256}, 'prealloc-align parameter of preallocate '
                              'filter is not aligned to 512'),
], ids=str)
def test_preallocate_options(server, images, options, desc):
    path = images.write_raw('a.img', bytes(MIB))
    server.fails('blockdev-add', dict(preallocate(file_of('f', path)),
                                      **options), desc)
    server.fails('blockdev-add', {'driver': 'preallocate', 'node-name': 'p'},
                 "Parameter 'file' is missing")
    assert server.nodes() == {}


@pytest.mark.ours('QEMU takes them')
@pytest.mark.parametrize('options', [
    {'prealloc-align': 0}, {'prealloc-align': -512},
    {'prealloc-size': -512}], ids=str)
def test_preallocate_options_of_no_sense(server, images, options):
    path = images.write_raw('a.img', bytes(MIB))
    server.fails('blockdev-add', dict(preallocate(file_of('f', path)),
                                      **options))
    assert server.nodes() == {}


# compress

def compress(file, name='c'):
    return {'driver': 'compress', 'node-name': name, 'file': file}


def qcow2_file(path, **options):
    return dict({'driver': 'qcow2', 'node-name': 'q',
                 'file': file_of('f', path)}, **options)


def test_compress(server, images, guest_on):
    """What is written is stored compressed, also in parts of clusters."""
    path = images.create('a.qcow2', 10 * MIB)
    server.qmp('blockdev-add', compress(qcow2_file(path)))
    server.export('c')
    guest = guest_on(server, 'c')
    guest.fill(0, MIB, 5)
    guest.fill(2 * MIB + 1000, 300, 6)
    guest.fill(3 * MIB - 100, 200, 7)
    guest.zero(4 * MIB, 65536)
    guest.flush()
    guest.verify()
    guest.close()
    node = server.nodes()['c']
    assert '"driver": "compress"' in node['file']
    assert node['image']['virtual-size'] == 10 * MIB
    server.stop()
    check = qemu_img('check', '--output=json', path)
    assert '"compressed-clusters": 19' in check
    assert os.stat(path).st_blocks * 512 < MIB
    same_bytes(images.content(path), guest.freeze())


@pytest.mark.ours('QEMU cannot write a compressed cluster again')
@pytest.mark.parametrize('kind', ['zlib', 'zstd'])
def test_compress_again(server, images, guest_on, kind):
    path = images.create('a.qcow2', 4 * MIB, compression_type=kind,
                         cluster_size=4096)
    server.qmp('blockdev-add', compress(qcow2_file(path)))
    server.export('c')
    guest = guest_on(server, 'c', max_bytes=20000)
    guest.random_writes(100)
    guest.flush()
    guest.verify()
    guest.close()
    server.stop()
    same_bytes(images.content(path), guest.freeze())


@pytest.mark.parametrize('file, name', [
    ({'driver': 'null-co'}, 'null-co'),
    ({'driver': 'raw', 'file': {'driver': 'null-co'}}, 'raw')], ids=str)
def test_compress_of_nothing(server, file, name):
    server.fails('blockdev-add', compress(file),
                 f'Compression is not supported for underlying format: '
                 f'{name}')
    assert server.nodes() == {}


def test_compress_needs_whole_clusters(server, images):
    """Writing needs a size of whole clusters; reading does not."""
    path = images.create('a.qcow2', 100 * KIB)
    server.qmp('blockdev-add', compress(qcow2_file(path)))
    text = ("Cannot get 'write' permission without 'resize': Image size is "
            'not a multiple of request alignment')
    server.export('c', writable=False)
    server.fails('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'c', 'name': 'e',
        'writable': True}, text)


def test_compress_over_throttle(server, images):
    """A filter below can do what is below it can."""
    path = images.create('a.qcow2', MIB)
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    server.qmp('blockdev-add', compress({
        'driver': 'throttle', 'throttle-group': 'g',
        'file': qcow2_file(path)}))
    server.export('c')
    nbd = NbdClient.connect(server.nbd_path, 'c')
    nbd.write(0, b'x' * MIB)
    nbd.disconnect()
    server.stop()
    assert '"compressed-clusters": 16' in qemu_img('check', '--output=json',
                                                   path)
