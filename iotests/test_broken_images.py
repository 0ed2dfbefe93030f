# SPDX-License-Identifier: MIT
"""Broken and hostile qcow2 images: a clear error, and the server lives.

An image that cannot be right is refused at open.  One whose damage shows
only on use gives I/O errors and is not made worse.
"""

import os
import random
import struct

import pytest

from .images import qemu_img
from .nbd import NbdClient, NbdClosed, NbdError
from .qcow2 import CLUSTER, OFLAG_COPIED, Qcow2File
from .qmp import QmpError

MIB = 1 << 20
FAR = 1 << 40


def file_of(path):
    return {'driver': 'file', 'filename': path}


def broken(images, **fields):
    path = images.create('broken.qcow2', '4M')
    images.io(path, 'write -P 1 0 1M')
    images.ignore(path)
    Qcow2File(path).set(**fields)
    return path


HEADERS = [
    ({'magic': 0x58585858}, 'Image is not in qcow2 format'),
    ({'version': 0}, 'Unsupported qcow2 version 0'),
    ({'version': 1}, 'Unsupported qcow2 version 1'),
    ({'version': 4}, 'Unsupported qcow2 version 4'),
    ({'cluster_bits': 0}, 'Unsupported cluster size: 2^0'),
    ({'cluster_bits': 8}, 'Unsupported cluster size: 2^8'),
    ({'cluster_bits': 22}, 'Unsupported cluster size: 2^22'),
    ({'cluster_bits': 255}, 'Unsupported cluster size: 2^255'),
    ({'size': 2**62}, 'Image is too big'),
    ({'size': 2**63}, 'Image is too big'),
    ({'size': 2**64 - 1}, None),
    ({'crypt': 9}, 'Unsupported encryption method 9'),
    ({'crypt': 1}, None),
    ({'l1_size': 0x7fffffff}, 'Active L1 table too large'),
    ({'l1_size': 0}, 'L1 table is too small'),
    ({'l1_offset': 0x30001}, 'Active L1 table offset invalid'),
    ({'l1_offset': 2**64 - CLUSTER}, 'Active L1 table offset invalid'),
    ({'reftable_offset': 0x10001}, 'Reference count table offset invalid'),
    ({'reftable_clusters': 0xffffffff}, 'Reference count table too large'),
    ({'reftable_clusters': 0},
     'Image does not contain a reference count table'),
    ({'n_snapshots': 0xffffffff}, 'Snapshot table too large'),
    ({'incompatible': 1 << 40},
     'Unsupported qcow2 feature(s): Unknown incompatible feature: '
     '10000000000'),
    ({'incompatible': 1 << 3},
     'qcow2: Compression type incompatible feature bit must not be set'),
    ({'incompatible': 2},
     'qcow2: Image is corrupt; cannot be opened read/write'),
    ({'incompatible': 4}, None),
    ({'refcount_order': 7},
     'Reference count entry width too large; may not exceed 64 bits'),
    ({'refcount_order': 0xffffffff},
     'Reference count entry width too large; may not exceed 64 bits'),
    ({'header_length': 0xffffffff}, 'qcow2 header exceeds cluster size'),
    ({'header_length': 0}, 'qcow2 header too short'),
    ({'header_length': 103}, 'qcow2 header too short'),
    ({'backing_offset': FAR, 'backing_size': 10},
     'Invalid backing file offset'),
    ({'backing_offset': 500, 'backing_size': 5000}, None),
    ({'backing_offset': 2**64 - 1, 'backing_size': 0xffffffff}, None),
]


@pytest.mark.parametrize(
    'fields,desc', HEADERS,
    ids=['-'.join(f'{k}={v:#x}' for k, v in f.items()) for f, _ in HEADERS])
def test_header_refused(server, images, fields, desc):
    path = broken(images, **fields)
    before = open(path, 'rb').read()
    server.fails('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                  'file': file_of(path)}, desc)
    assert not server.nodes()
    assert open(path, 'rb').read() == before


@pytest.mark.parametrize('kind,length', [
    (0x12345678, 0xffffffff), (0x23852875, 0xffffffff), (0x23852875, 1),
    (0x6803f857, 0x7fffffff), (0xe2792aca, 0xffff0)])
def test_header_extension_refused(server, images, kind, length):
    path = broken(images)
    image = Qcow2File(path)
    image.write(image.get('header_length'), struct.pack('>II', kind, length))
    if kind == 0x23852875 and length == 1 and not server.is_qemu:
        # What is wrong with bitmaps alone does not keep a disk shut.
        server.add_node('n', path)
        assert 'dirty-bitmaps' not in server.nodes()['n']
        return
    server.fails('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                  'file': file_of(path)})
    assert not server.nodes()


def test_version_2_header(server, images):
    """Version 2 has no feature fields; what follows the header is read
    as extensions."""
    path = images.create('v2.qcow2', '4M', compat='0.10')
    server.add_node('n', path)
    data = server.nodes()['n']['image']['format-specific']['data']
    assert data['compat'] == '0.10' and data['refcount-bits'] == 16


@pytest.mark.parametrize('n_bytes', [
    0, 1, 3, 4, 8, 71, 72, 100, 103, 104, 111, 112, 511, 512, CLUSTER,
    2 * CLUSTER, 3 * CLUSTER, 4 * CLUSTER, 4 * CLUSTER + 512])
def test_truncated(server, images, n_bytes):
    """Cut anywhere: an error at open or on use."""
    path = broken(images)
    os.truncate(path, n_bytes)
    try:
        server.add_node('n', path)
    except QmpError as exc:
        assert exc.desc
    else:
        use(server)
        server.qmp('blockdev-del', node_name='n')
    server.qmp('query-version')


def use(server, write_at=2 * MIB):
    """Read it all and write a little; only EIO and ENOSPC may happen.
    Returns the errors by request."""
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    errors = {}
    for name, call in (
            ('read', lambda: [nbd.read(at, MIB)
                              for at in range(0, nbd.size, MIB)]),
            ('status', nbd.whole_status),
            ('write', lambda: nbd.write(0, b'w' * 4096)),
            ('write new', lambda: nbd.write(write_at, b'w' * 4096)),
            ('zero', lambda: nbd.write_zeroes(0, 2 * CLUSTER)),
            ('trim', lambda: nbd.trim(0, 2 * CLUSTER)),
            ('flush', nbd.flush)):
        try:
            call()
        except NbdError as exc:
            assert exc.errno in (5, 22, 28), (name, exc)
            errors[name] = exc.errno
        except NbdClosed:
            assert server.is_qemu, f'connection lost at {name}'
            nbd = NbdClient.connect(server.nbd_path, 'n')
            errors[name] = 0
    nbd.disconnect()
    server.unexport('n')
    return errors


DAMAGE = {
    'l1-past-the-end': lambda q: q.set_u64(q.l1_entry_at(),
                                           FAR | OFLAG_COPIED),
    'l1-unaligned': lambda q: q.set_u64(q.l1_entry_at(),
                                        0x50200 | OFLAG_COPIED),
    'l1-reserved-bits': lambda q: q.set_u64(
        q.l1_entry_at(), q.u64(q.l1_entry_at()) | 0x1ff),
    'l1-to-header': lambda q: q.set_u64(q.l1_entry_at(), OFLAG_COPIED),
    'l2-past-the-end': lambda q: q.set_u64(q.l2_entry_at(),
                                           FAR | OFLAG_COPIED),
    'l2-unaligned': lambda q: q.set_u64(q.l2_entry_at(),
                                        0x50200 | OFLAG_COPIED),
    'l2-to-l1-table': lambda q: q.set_u64(
        q.l2_entry_at(), q.get('l1_offset') | OFLAG_COPIED),
    'l2-to-refcount-table': lambda q: q.set_u64(
        q.l2_entry_at(), q.get('reftable_offset') | OFLAG_COPIED),
    'l2-to-header': lambda q: q.set_u64(q.l2_entry_at(), OFLAG_COPIED),
    'l2-huge': lambda q: q.set_u64(q.l2_entry_at(),
                                   0x00fffffffffe0000 | OFLAG_COPIED),
    'l2-compressed-far': lambda q: q.set_u64(
        q.l2_entry_at(), (1 << 62) | (FAR >> 4) | (0xff << 54)),
    'l2-compressed-garbage': lambda q: q.set_u64(
        q.l2_entry_at(), (1 << 62) | 0x50000),
    'refblock-past-the-end': lambda q: q.set_u64(q.refblock_entry_at(), FAR),
    'refblock-unaligned': lambda q: q.set_u64(q.refblock_entry_at(), 0x20001),
    'refblock-none': lambda q: q.set_u64(q.refblock_entry_at(), 0),
    'refblock-to-header': lambda q: q.set_u64(
        q.refblock_entry_at(), q.get('l1_offset')),
    'refcounts-all-zero': lambda q: q.write(q.refcount_at(0), bytes(256)),
    'refcounts-all-ones': lambda q: q.write(q.refcount_at(0),
                                            b'\xff' * 4096),
    'l1-table-past-the-end': lambda q: q.set(l1_offset=FAR),
    'reftable-past-the-end': lambda q: q.set(reftable_offset=FAR),
    'snapshots-past-the-end': lambda q: q.set(n_snapshots=1,
                                              snapshots_offset=1 << 41),
}


# QEMU 7.2 ends with a failed assertion.
CRASHES_QEMU = ('l1-to-header',)


@pytest.mark.parametrize('damage', [
    pytest.param(name, marks=pytest.mark.ours('QEMU 7.2 crashes'))
    if name in CRASHES_QEMU else name for name in DAMAGE])
def test_damaged_tables(server, images, damage):
    """Open it, read, write, zero, trim; the server answers all the while.
    The header's magic is never overwritten."""
    path = broken(images)
    DAMAGE[damage](Qcow2File(path))
    try:
        server.add_node('n', path)
    except QmpError as exc:
        assert exc.desc
    else:
        use(server)
        server.qmp('blockdev-del', node_name='n')
    server.qmp('query-version')
    assert Qcow2File(path).get('magic') == 0x514649fb


@pytest.mark.parametrize('damage', [
    'l1-unaligned', 'l2-unaligned', 'l2-to-l1-table',
    'l2-to-refcount-table'])
def test_corruption_is_noticed(server, images, damage):
    """A write into metadata is refused, the image marked corrupt and the
    event sent; from then on it cannot be written to."""
    path = broken(images)
    DAMAGE[damage](Qcow2File(path))
    server.add_node('n', path)
    errors = use(server)
    assert errors.get('write') in (5, 22)
    event = server.wait_event('BLOCK_IMAGE_CORRUPTED')
    assert event['data']['node-name'] == 'n'
    assert event['data']['fatal'] is True
    assert event['data']['device'] == ''
    assert event['data']['msg']
    assert Qcow2File(path).get('incompatible') & 2
    if server.is_qemu:
        server.fails('query-named-block-nodes',
                     desc='Block device n is ejected')
    else:
        image = server.nodes()['n']['image']
        assert image['format-specific']['data']['corrupt']
    server.qmp('blockdev-del', node_name='n')
    server.fails('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n', 'file': file_of(path)},
        'qcow2: Image is corrupt; cannot be opened read/write')


def test_short_backing_file(server, images, guest_on):
    """Behind the end of the backing file an overlay reads zeroes."""
    base = images.create('base.qcow2', '1M')
    images.io(base, 'write -P 3 0 1M')
    top = images.create('top.qcow2', '4M', backing=base)
    server.add_node('n', top)
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.read_all() == b'\3' * MIB + bytes(3 * MIB)
    guest.write(MIB - 512, b'x' * 1024)
    guest.random_writes(30)
    guest.verify()


def test_unaligned_backing_file(server, images, guest_on):
    """A raw backing file that ends in the middle of a sector."""
    base = images.write_raw('base.raw', b'\4' * 100001)
    top = images.create('top.qcow2', '1M', backing=base)
    server.add_node('n', top)
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.read_all() == b'\4' * 100001 + bytes(MIB - 100001)
    guest.random_writes(30)
    guest.verify()


@pytest.mark.parametrize('read_only', [False, pytest.param(
    True, marks=pytest.mark.ours('QEMU 7.2 recurses without end'))])
def test_cyclic_backing_chain(server, images, read_only):
    """a on b on a, and c on itself."""
    a = images.create('a.qcow2', '1M')
    b = images.create('b.qcow2', '1M', backing=a)
    c = images.create('c.qcow2', '1M')
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', b, '-F', 'qcow2', a)
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', c, '-F', 'qcow2', c)
    for path in (a, b, c):
        images.ignore(path)
        server.fails('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'file': file_of(path),
            'read-only': read_only})
    assert not server.nodes()


def test_endless_backing_chain_of_links(server, images):
    """A chain that is long and legal opens."""
    path = images.create('i0.qcow2', '1M')
    images.io(path, 'write -P 7 0 64k')
    for i in range(1, 40):
        path = images.create(f'i{i}.qcow2', '1M', backing=path)
    server.add_node('n', path)
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    assert nbd.read(0, 65536) == b'\7' * 65536
    nbd.disconnect()


def test_garbage_image(server, images):
    """Random bytes behind a good magic and version."""
    rnd = random.Random(7)
    for i in range(30):
        path = images.path('garbage')
        with open(path, 'wb') as image:
            image.write(struct.pack('>II', 0x514649fb, rnd.choice((2, 3))) +
                        rnd.randbytes(100000))
        server.fails('blockdev-add', {'driver': 'qcow2', 'node-name': 'n',
                                      'file': file_of(path)})


def test_fuzzed_headers(server, images):
    """One byte of the header or of a table changed at a time."""
    rnd = random.Random(11)
    path = images.create('fuzz.qcow2', '4M')
    images.io(path, 'write -P 1 0 256k', 'write -c -P 2 1M 64k')
    images.ignore(path)
    good = open(path, 'rb').read()
    tables = [0, Qcow2File(path).get('l1_offset'),
              Qcow2File(path).l2_entry_at(),
              Qcow2File(path).get('reftable_offset'),
              Qcow2File(path).refcount_at(0)]
    for i in range(60):
        bad = bytearray(good)
        at = rnd.choice(tables) + rnd.randrange(104 if i % 2 else 16)
        bad[at] ^= 1 << rnd.randrange(8)
        with open(path, 'wb') as image:
            image.write(bad)
        try:
            server.add_node('n', path)
        except QmpError:
            continue
        if server.nodes()['n']['image']['virtual-size'] <= 64 * MIB:
            use(server)
        server.qmp('blockdev-del', node_name='n')
    server.qmp('query-version')
