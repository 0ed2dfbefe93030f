# SPDX-License-Identifier: MIT
"""qcow2 written by one program and read by the other.

Images of every shape that qemu-img makes are written to through the
server's NBD export at random, with a model; then qemu-img check finds
nothing and qemu-img reads what the model says.
"""

import struct

import pytest

from .images import qemu_img, same_bytes
from .nbd import NbdClient
from .qcow2 import Qcow2File

MIB = 1 << 20
N_WRITES = 120

SHAPES = {
    'default': {},
    'v2': {'compat': '0.10'},
    'v2-512': {'compat': '0.10', 'cluster_size': 512},
    'cluster-512': {'cluster_size': 512},
    'cluster-4k': {'cluster_size': 4096},
    'cluster-2M': {'cluster_size': '2M'},
    'refcount-1': {'refcount_bits': 1},
    'refcount-2': {'refcount_bits': 2},
    'refcount-4': {'refcount_bits': 4},
    'refcount-8': {'refcount_bits': 8},
    'refcount-32': {'refcount_bits': 32},
    'refcount-64': {'refcount_bits': 64},
    'refcount-64-512': {'refcount_bits': 64, 'cluster_size': 512},
    'lazy': {'lazy_refcounts': 'on'},
    'metadata': {'preallocation': 'metadata'},
    'falloc': {'preallocation': 'falloc'},
    'full': {'preallocation': 'full'},
    'zstd': {'compression_type': 'zstd'},
}


def attach(server, images, guest_on, path, seed=1, **options):
    server.add_node('n', path, discard='unmap')
    server.export('n')
    return guest_on(server, 'n', seed=seed, trims=True, **options)


def detach(server, guest):
    guest.close()
    server.unexport('n')
    server.qmp('blockdev-del', node_name='n')


@pytest.mark.parametrize('shape', SHAPES)
def test_shapes(server, images, guest_on, shape):
    path = images.create('a.qcow2', '6M', **SHAPES[shape])
    guest = attach(server, images, guest_on, path)
    guest.random_writes(N_WRITES)
    guest.verify()
    detach(server, guest)
    images.check(path)
    same_bytes(images.content(path), guest.freeze())
    guest = attach(server, images, guest_on, path, seed=2)
    guest.random_writes(N_WRITES)
    guest.verify()
    detach(server, guest)
    same_bytes(images.content(path), guest.freeze())


@pytest.mark.parametrize('shape', ['default', 'v2', 'cluster-512',
                                   'cluster-2M', 'refcount-1'])
@pytest.mark.parametrize('base_format', ['qcow2', 'raw'])
def test_overlays(server, images, guest_on, shape, base_format):
    """Over a base that is shorter, with data, holes and zeroes."""
    base = images.create('base.img', 4 * MIB + 512, base_format)
    images.io(base, 'write -P 1 0 1M', 'write -P 2 1M 100k',
              'write -z 1200k 1M', 'write -P 3 4M 512')
    before = images.content(base)
    top = images.create('top.qcow2', '6M', backing=base, **SHAPES[shape])
    guest = attach(server, images, guest_on, top)
    assert guest.freeze() == before + bytes(6 * MIB - len(before))
    guest.random_writes(N_WRITES)
    guest.verify()
    detach(server, guest)
    same_bytes(images.content(top), guest.freeze())
    same_bytes(images.content(base), before, 'the base')


@pytest.mark.parametrize('compression', ['zlib', 'zstd'])
@pytest.mark.parametrize('cluster_size', [4096, 65536, '2M'])
def test_compressed(server, images, guest_on, compression, cluster_size):
    """Compressed clusters are read, and overwritten in part."""
    raw = images.write_raw('raw', b''.join(
        bytes((i * 7 + j) & 0xff for j in range(0, 16)) * 64
        for i in range(4096)))
    path = images.adopt(images.path('c.qcow2'))
    qemu_img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o',
             f'compression_type={compression},cluster_size={cluster_size}',
             raw, path)
    guest = attach(server, images, guest_on, path)
    same_bytes(guest.freeze(), open(raw, 'rb').read())
    guest.random_writes(N_WRITES)
    guest.verify()
    detach(server, guest)
    same_bytes(images.content(path), guest.freeze())


def test_compressed_overlay_of_compressed(server, images, guest_on):
    base = images.create('base.qcow2', '2M')
    images.io(base, *(f'write -c -P {i} {i * 64}k 64k' for i in range(32)))
    top = images.create('top.qcow2', '2M', backing=base)
    images.io(top, *(f'write -c -P {i + 100} {i * 128}k 64k'
                     for i in range(16)))
    guest = attach(server, images, guest_on, top)
    for i in range(32):
        value = i // 2 + 100 if i % 2 == 0 else i
        assert guest.model[i * 65536] == value
    guest.random_writes(N_WRITES)
    guest.verify()
    detach(server, guest)
    same_bytes(images.content(top), guest.freeze())


def test_zero_clusters(server, images, guest_on):
    """Both kinds of zero cluster hide what is below."""
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 5 0 4M')
    top = images.create('top.qcow2', '4M', backing=base)
    images.io(top, 'write -z 0 1M', 'write -P 6 1M 1M', 'write -z 1M 512k',
              'write -z -u 2M 1M')
    guest = attach(server, images, guest_on, top)
    wanted = bytes(MIB + 512 * 1024) + b'\6' * (512 * 1024) + bytes(MIB) + \
        b'\5' * MIB
    same_bytes(guest.freeze(), wanted)
    guest.write(100, b'x' * 1000)
    guest.write(MIB + 100, b'y' * 1000)
    guest.verify()
    guest.random_writes(N_WRITES)
    detach(server, guest)
    same_bytes(images.content(top), guest.freeze())


def test_internal_snapshots_are_kept(server, images, guest_on):
    """Writing to the disk leaves its snapshots as they were."""
    path = images.create('a.qcow2', '4M')
    images.io(path, 'write -P 1 0 2M')
    qemu_img('snapshot', '-c', 'one', path)
    images.io(path, 'write -P 2 1M 2M', 'write -z 0 64k')
    first = images.content(path)
    qemu_img('snapshot', '-c', 'two', path)
    guest = attach(server, images, guest_on, path)
    info = server.nodes()['n']['image']
    assert [s['name'] for s in info['snapshots']] == ['one', 'two']
    assert [s['id'] for s in info['snapshots']] == ['1', '2']
    guest.random_writes(2 * N_WRITES)
    guest.verify()
    detach(server, guest)
    same_bytes(images.content(path), guest.freeze())
    for name, wanted in (('one', b'\1' * (2 * MIB) + bytes(2 * MIB)),
                         ('two', first)):
        out = images.path(f'{name}.raw')
        qemu_img('convert', '-l', f'snapshot.name={name}', '-f', 'qcow2',
                 '-O', 'raw', path, out)
        same_bytes(open(out, 'rb').read(), wanted, name)
    images.check(path)
    qemu_img('snapshot', '-d', 'one', path)
    qemu_img('snapshot', '-a', 'two', path)
    images.check(path)


def test_unknown_extension_and_bits_kept(server, images, guest_on):
    """An unknown header extension and an unknown compatible feature bit
    survive our writing; an unknown autoclear bit is cleared."""
    path = images.create('a.qcow2', '1M')
    image = Qcow2File(path)
    at = image.get('header_length')
    old = image.read(at, 1024)
    ours = struct.pack('>II', 0x75420a01, 5) + b'hello\0\0\0'
    image.write(at, ours + old)
    image.set(compatible=1 << 30, autoclear=1 << 40)
    server.add_node('n', path)
    server.qmp('block-dirty-bitmap-add', node='n', name='b', persistent=True)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.random_writes(20)
    detach(server, guest)
    data = image.read(0, 4096)
    assert struct.pack('>II', 0x75420a01, 5) + b'hello' in data
    assert image.get('compatible') == 1 << 30
    assert image.get('autoclear') & (1 << 40) == 0
    assert 'b' in images.bitmaps(path)


def test_large_disk(server, images, guest_on):
    """Beyond 4 GiB and 2 TiB; a table more for each L1 entry."""
    path = images.create('a.qcow2', '3T')
    server.add_node('n', path)
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    spots = [0, (4 << 30) - 512, 2 << 40, (3 << 40) - 4096]
    for i, at in enumerate(spots):
        nbd.write(at, bytes([i + 1]) * 4096)
    for i, at in enumerate(spots):
        assert nbd.read(at, 4096) == bytes([i + 1]) * 4096
    nbd.flush()
    nbd.disconnect()
    server.stop()
    for i, at in enumerate(spots):
        images.io(path, f'read -P {i + 1} {at} 4k')


def test_refcount_table_grows(server, images, guest_on):
    """Enough clusters that refcount blocks and their table must grow."""
    path = images.create('a.qcow2', '16M', cluster_size=512,
                         refcount_bits=64)
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    for at in range(0, 16 * MIB, MIB):
        guest.write(at, bytes([at >> 20]) * MIB)
    guest.verify()
    detach(server, guest)
    images.check(path)
    same_bytes(images.content(path), guest.freeze())


def test_every_cluster_of_a_full_write(server, images, guest_on):
    """What qemu-img map says of an image we have written."""
    path = images.create('a.qcow2', '1M')
    guest = attach(server, images, guest_on, path)
    guest.fill(0, 128 << 10, 1)
    guest.fill(512 << 10, 64 << 10, 2)
    guest.zero(768 << 10, 64 << 10, flags=0)
    detach(server, guest)
    seen = [(e['start'], e['length'], e['data'], e['zero'])
            for e in images.map(path)]
    data = [e for e in seen if e[2]]
    assert [(s, n) for s, n, _, _ in data] == [
        (0, 128 << 10), (512 << 10, 64 << 10)]
    assert all(e[3] for e in seen if not e[2])


def test_dirty_bit_of_lazy_refcounts(start_server, images, guest_on):
    """kill -9 on a lazy-refcounts image: the next to open repairs it."""
    path = images.create('a.qcow2', '4M', lazy_refcounts='on')
    server = start_server()
    guest = attach(server, images, guest_on, path)
    guest.random_writes(N_WRITES)
    guest.flush()
    server.kill()
    server = start_server()
    server.add_node('n', path)
    server.export('n')
    again = guest_on(server, 'n')
    same_bytes(again.freeze(), guest.freeze())


@pytest.mark.parametrize('shape', ['default', 'cluster-512', 'v2',
                                   'refcount-1'])
def test_killed(start_server, images, guest_on, shape):
    """After kill -9 what was acknowledged and flushed is there; at worst
    clusters are leaked."""
    path = images.create('a.qcow2', '6M', **SHAPES[shape])
    images.allow_leaks(path)
    server = start_server()
    guest = attach(server, images, guest_on, path)
    guest.random_writes(N_WRITES)
    guest.flush()
    frozen = guest.freeze()
    server.kill()
    images.check(path, leaks_allowed=True)
    same_bytes(images.content(path), frozen)


def test_killed_while_writing(start_server, images, guest_on):
    """kill -9 under load, many times: never a wrong cluster."""
    path = images.create('a.qcow2', '8M', cluster_size=4096)
    images.allow_leaks(path)
    for round_ in range(4):
        server = start_server()
        guest = attach(server, images, guest_on, path, seed=round_)
        guest.random_writes(40)
        guest.flush()
        start = guest.record()
        guest.start()
        guest.wait_writes(20 + 20 * round_)
        server.kill()
        guest.wait_broken()
        images.check(path, leaks_allowed=True)
        guest.check_after_crash(start, images.content(path))
