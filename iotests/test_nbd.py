# SPDX-License-Identifier: MIT
"""The NBD server: exports, requests, clients of all kinds."""

import struct
import subprocess
import threading

import nbd as libnbd
import pytest

from .images import qemu_img, run_tool, same_bytes
from .nbd import (CMD_BLOCK_STATUS, CMD_CACHE, CMD_FLUSH, CMD_READ, CMD_TRIM,
                  CMD_WRITE, CMD_WRITE_ZEROES, EINVAL, ENOSPC, ENOTSUP, EPERM,
                  FLAG_DF, FLAG_FAST_ZERO, FLAG_FUA, FLAG_NO_HOLE,
                  FLAG_REQ_ONE, NbdClient, NbdClosed, NbdError,
                  NbdOptionError, OPT_ABORT, OPT_GO, OPT_INFO, OPT_LIST,
                  OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_STARTTLS,
                  OPT_STRUCTURED_REPLY, REP_ERR_INVALID, REP_ERR_POLICY,
                  REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP, TX_DF,
                  TX_FLUSH, TX_FUA, TX_MULTI_CONN, TX_READ_ONLY, TX_TRIM,
                  TX_ZEROES)

MIB = 1 << 20


@pytest.fixture
def disk(server, images):
    """A server with a 4 MiB qcow2 of known content, export 'disk'."""
    path = images.create('a.qcow2', '4M')
    images.io(path, 'write -P 1 0 64k', 'write -z 128k 64k',
              'write -P 2 1M 1M')
    server.add_node('disk', path, discard='unmap')
    server.export('disk')
    server.disk_path = path
    return server


@pytest.fixture
def client(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    yield nbd
    nbd.disconnect()


def refused(call, *args, errors=(EINVAL,), **kwargs):
    with pytest.raises(NbdError) as info:
        call(*args, **kwargs)
    assert info.value.errno in errors, info.value


# Handshake

def test_export_flags(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    assert nbd.size == 4 * MIB
    wanted = TX_FLUSH | TX_FUA | TX_TRIM | TX_ZEROES | TX_DF | TX_MULTI_CONN
    assert nbd.flags & wanted == wanted
    assert not nbd.flags & TX_READ_ONLY
    minimum, preferred, maximum = nbd.block_sizes
    assert (minimum, preferred, maximum) == (1, 4096, 32 * MIB)
    nbd.disconnect()
    disk.export('disk', 'ro', writable=False)
    nbd = NbdClient.connect(disk.nbd_path, 'ro')
    assert nbd.flags & TX_READ_ONLY
    assert not nbd.flags & (TX_TRIM | TX_ZEROES)
    nbd.disconnect()


def test_unknown_export(disk):
    for name, code in (('nope', REP_ERR_UNKNOWN), ('', REP_ERR_UNKNOWN),
                       ('x' * 4096, REP_ERR_UNKNOWN),
                       ('x' * 5000, REP_ERR_INVALID)):
        nbd = NbdClient(disk.nbd_path)
        nbd.open()
        with pytest.raises(NbdOptionError) as info:
            nbd.go(name)
        assert info.value.code in (code, REP_ERR_TOO_BIG) \
            if len(name) > 4096 else info.value.code == code
        if name == 'nope':
            assert info.value.text == "export 'nope' not present"
        nbd.go('disk')          # the connection is still good
        assert nbd.size == 4 * MIB
        nbd.disconnect()


def test_list(disk):
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    assert nbd.list() == ['disk']
    disk.export('disk', 'second', writable=False, description='some words')
    disk.qmp('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'disk', 'name': 'caf\u00e9'})
    assert sorted(nbd.list()) == ['caf\u00e9', 'disk', 'second']
    nbd.option(OPT_ABORT)
    assert nbd.wait_closed(5)


def test_options_refused(disk):
    """A bad option is answered, the next one is heard."""
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    meta = nbd.meta_request('disk', ['base:allocation'])
    for option, data, code in (
            (77, b'', REP_ERR_UNSUP), (77, b'x' * 1000, REP_ERR_UNSUP),
            (OPT_STARTTLS, b'', REP_ERR_POLICY),
            (OPT_STRUCTURED_REPLY, b'x', REP_ERR_INVALID),
            (OPT_LIST, b'x', REP_ERR_INVALID),
            (OPT_GO, b'', REP_ERR_INVALID),
            (OPT_GO, b'\0\0\0\xff', REP_ERR_INVALID),
            (OPT_INFO, b'\xff\xff\xff\xffdisk', REP_ERR_INVALID),
            (OPT_GO, b'\0\0\0\4disk\0\5', REP_ERR_INVALID),
            (OPT_SET_META_CONTEXT, meta, REP_ERR_INVALID),
            (OPT_SET_META_CONTEXT, b'', REP_ERR_INVALID),
            (OPT_LIST_META_CONTEXT, b'\0\0\0\4di', REP_ERR_INVALID)):
        with pytest.raises(NbdOptionError) as info:
            nbd.option(option, data)
        allowed = {code, REP_ERR_UNSUP} if option == OPT_STARTTLS else {code}
        assert info.value.code in allowed, (option, data, info.value)
    nbd.go('disk')
    assert nbd.read(0, 16) == b'\1' * 16
    nbd.disconnect()


def test_meta_contexts(disk):
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    nbd.negotiate_structured()
    assert b'base:allocation' in nbd.option(
        OPT_LIST_META_CONTEXT, nbd.meta_request('disk', []))[0][1]
    assert nbd.option(OPT_LIST_META_CONTEXT,
                      nbd.meta_request('disk', ['x:y'])) == []
    nbd.set_contexts('disk', ['base:allocation', 'base:nope', 'x:y', ''])
    assert list(nbd.contexts) == ['base:allocation']
    nbd.go('disk')
    nbd.disconnect()


def test_info_and_then_go(disk):
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    nbd.go('disk', option=OPT_INFO)
    assert nbd.size == 4 * MIB
    nbd.go('disk')
    assert nbd.read(1 * MIB, 4) == b'\2' * 4
    nbd.disconnect()


@pytest.mark.parametrize('flags', [1, 3])
def test_export_name(disk, flags):
    """The oldest way in, with and without the 124 zeroes."""
    nbd = NbdClient(disk.nbd_path)
    nbd.open(flags=flags)
    nbd.export_name('disk')
    assert nbd.size == 4 * MIB
    assert nbd.read(0, 16) == b'\1' * 16
    refused(nbd.read, 4 * MIB, 512)
    nbd.write(0, b'abc')
    assert nbd.read(0, 4) == b'abc\1'
    nbd.disconnect()


def test_export_name_unknown(disk):
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    with pytest.raises(NbdClosed):
        nbd.export_name('nope')


@pytest.mark.parametrize('how', [
    'flags', 'magic', 'length', 'silence', 'partial'])
def test_broken_handshake(disk, how):
    """Cut off, and others are served."""
    nbd = NbdClient(disk.nbd_path)
    if how == 'flags':
        nbd.open(flags=0xff)
        assert nbd.wait_closed(5)
    else:
        nbd.open()
        if how == 'magic':
            nbd.send_option(OPT_GO, magic=5)
            assert nbd.wait_closed(5)
        elif how == 'length':
            nbd.send_option(OPT_GO, length=1 << 31)
            assert nbd.wait_closed(5)
        elif how == 'partial':
            nbd.send(struct.pack('>QI', 0x49484156454F5054, OPT_GO))
    other = NbdClient.connect(disk.nbd_path, 'disk')
    assert other.read(0, 1) == b'\1'
    other.disconnect()
    nbd.close()


# Requests

def test_read_and_write(client):
    assert client.read(0, 65536) == b'\1' * 65536
    assert client.read(65536 - 1, 3) == b'\1\0\0'
    client.write(100, b'hello')
    assert client.read(99, 7) == b'\1hello\1'
    client.write(4 * MIB - 1, b'z')
    assert client.read(4 * MIB - 2, 2) == b'\0z'
    client.write(3 * MIB - 3, b'abcdef', FLAG_FUA)
    assert client.read(3 * MIB - 3, 6, FLAG_DF) == b'abcdef'


def test_simple_replies(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk', structured=False)
    assert nbd.read(0, 100000)[65530:65540] == b'\1' * 6 + bytes(4)
    refused(nbd.read, 4 * MIB, 512)
    refused(nbd.call, CMD_BLOCK_STATUS, 0, 512)
    nbd.write_zeroes(0, 512)
    nbd.disconnect()


def test_block_status(client, images):
    """The export tells of data, zeroes and holes as qemu-img map does."""
    assert client.whole_status() == [
        [0, 65536, 0], [65536, MIB - 65536, 3], [MIB, MIB, 0],
        [2 * MIB, 2 * MIB, 3]]
    assert client.block_status(0, 4 * MIB, FLAG_REQ_ONE) == [(65536, 0)]
    assert client.block_status(MIB + 5, 100)[0][0] >= 100
    first = client.block_status(MIB + 5, 100, FLAG_REQ_ONE)
    assert first[0][1] == 0


def test_block_status_of_chain(server, images):
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 1 0 2M')
    top = images.create('top.qcow2', '4M', backing=base)
    images.io(top, 'write -z 1M 512k', 'write -P 2 3M 64k')
    server.add_node('n', top)
    server.export('n', writable=False)
    nbd = NbdClient.connect(server.nbd_path, 'n')
    got = [[o, n, bool(f & 2)] for o, n, f in nbd.whole_status()]
    nbd.disconnect()
    server.stop()
    wanted = []
    for entry in images.map(top):
        zero = entry['zero']
        if wanted and wanted[-1][2] == zero:
            wanted[-1][1] += entry['length']
        else:
            wanted.append([entry['start'], entry['length'], zero])
    assert got == wanted


@pytest.fixture
def layers(server, images):
    """base <- mid <- top, and a filter over top and one between."""
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 1 0 1M')
    mid = images.create('mid.qcow2', '4M', backing=base)
    images.io(mid, 'write -P 2 512k 1M')
    top = images.create('top.qcow2', '4M', backing=mid)
    images.io(top, 'write -z 64k 64k', 'write -P 3 3M 64k')
    server.add_node('base', base)
    server.qmp('object-add', qom_type='throttle-group', id='g', limits={})
    server.add_node('mid', mid, backing='base')
    server.qmp('blockdev-add', driver='throttle', node_name='between',
               file='mid', throttle_group='g')
    server.add_node('top', top, backing='between')
    server.qmp('blockdev-add', driver='throttle', node_name='over',
               file='top', throttle_group='g')
    return server


@pytest.mark.parametrize('node', ['top', 'over'])
def test_allocation_depth(layers, node):
    """How far down the data lies; filters do not count (in QEMU
    those that are passed do)."""
    layers.export(node, writable=False, allocation_depth=True)
    context = 'qemu:allocation-depth'
    nbd = NbdClient.connect(layers.nbd_path, node, contexts=(context,))
    one, two, three = (1, 2, 3) if not layers.is_qemu else \
        (1, 2, 4) if node == 'top' else (1, 3, 5)
    assert nbd.whole_status(context) == [
        [0, 65536, three], [65536, 65536, one], [131072, 393216, three],
        [524288, MIB, two], [524288 + MIB, MIB + 524288, 0],
        [3 * MIB, 65536, one], [3 * MIB + 65536, MIB - 65536, 0]]
    nbd.disconnect()
    layers.unexport(node)
    layers.export(node, writable=False)
    nbd = NbdClient(layers.nbd_path)
    nbd.open()
    nbd.negotiate_structured()
    nbd.set_contexts(node, [context, 'base:allocation'])
    assert list(nbd.contexts) == ['base:allocation']
    nbd.close()


def test_bitmaps_of_several_nodes(layers):
    """By name from where the disk is, or from the node that is named."""
    for node, name in (('base', 'b'), ('top', 't'), ('over', 'o'),
                       ('mid', 'twice'), ('top', 'twice')):
        layers.qmp('block-dirty-bitmap-add', node=node, name=name,
                   granularity=65536)
    layers.export('over', name='writer')
    writer = NbdClient.connect(layers.nbd_path, 'writer')
    writer.write(MIB, b'x' * 512)
    writer.disconnect()
    layers.unexport('writer')
    layers.fails('block-export-add', type='nbd', id='x', node_name='over',
                 bitmaps=['nope'], desc="Bitmap 'nope' is not found")
    layers.fails('block-export-add', type='nbd', id='x', node_name='over',
                 bitmaps=[{'node': 'base', 'name': 't'}],
                 desc="Dirty bitmap 't' not found")
    shown = ['o', 't', {'node': 'base', 'name': 'b'},
             {'node': 'top', 'name': 'twice'}]
    layers.fails('block-export-add', type='nbd', id='x', node_name='over',
                 bitmaps=shown,
                 desc="Enabled bitmap 'o' incompatible with readonly export")
    layers.export('over', bitmaps=shown)
    contexts = {f'qemu:dirty-bitmap:{name}': dirty for name, dirty in (
        ('o', True), ('t', True), ('b', False), ('twice', True))}
    nbd = NbdClient.connect(layers.nbd_path, 'over',
                            contexts=tuple(contexts))
    assert set(nbd.contexts) == set(contexts)
    for context, dirty in contexts.items():
        wanted = [[0, MIB, 0], [MIB, 65536, 1],
                  [MIB + 65536, 3 * MIB - 65536, 0]]
        assert nbd.whole_status(context) == (
            wanted if dirty else [[0, 4 * MIB, 0]]), context
    for node, name in (('base', 'b'), ('top', 't')):
        layers.fails('block-dirty-bitmap-remove', node=node, name=name,
                     desc=f"Bitmap '{name}' is currently in use by another "
                          "operation and cannot be used")
    nbd.disconnect()
    layers.unexport('over')
    layers.qmp('block-dirty-bitmap-remove', node='base', name='b')


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_map_equals(server, images, fmt):
    """qemu-img map over NBD and on the file agree on zeroes."""
    path = images.create('a.img', '16M', fmt)
    images.io(path, 'write -P 1 1M 64k', 'write -P 1 4M 1M',
              'write -z 8M 1M', 'write -P 3 12M 5000')
    on_file = images.map(path)
    server.add_node('n', path, fmt)
    server.export('n', writable=False)
    over_nbd = images.map(server.uri('n'), 'raw')

    def zeroes(extents):
        return [(e['start'] // 4096 + i) for e in extents if e['zero']
                for i in range(e['length'] // 4096)]

    if server.is_qemu:
        assert zeroes(over_nbd) == zeroes(on_file)
        return
    # Ours also tells of holes within a cluster; what it calls zero is.
    assert set(zeroes(on_file)) <= set(zeroes(over_nbd))
    server.stop()
    content = images.content(path)
    for i in zeroes(over_nbd):
        assert not any(content[i * 4096:(i + 1) * 4096])


def test_past_the_end(client):
    end = 4 * MIB
    for offset, length in ((end, 512), (end - 256, 512), (end, 1),
                           (2**63, 512), (2**63 - 512, 512),
                           (2**64 - 512, 512), (2**64 - 512, 1024)):
        refused(client.read, offset, length)
        refused(client.write, offset, b'x' * length,
                errors=(EINVAL, ENOSPC))
        refused(client.write_zeroes, offset, length,
                errors=(EINVAL, ENOSPC))
        refused(client.trim, offset, length)
        refused(client.block_status, offset, length)
    assert client.read(0, 1) == b'\1'


def test_zero_length(client):
    assert client.read(0, 0) == b''
    client.write(0, b'')
    client.write_zeroes(0, 0)
    client.trim(0, 0)
    refused(client.block_status, 0, 0)


def test_bad_requests(client):
    refused(client.call, 99, 0, 0)
    refused(client.call, CMD_READ, 0, 512, 0x8000, b'', 512)
    refused(client.call, CMD_TRIM, 0, 512, FLAG_REQ_ONE)
    refused(client.call, CMD_READ, 0, 32 * MIB + 1)
    refused(client.call, CMD_READ, 0, 2**32 - 1)
    assert client.read(0, 1) == b'\1'


def test_trim_and_write_zeroes(client):
    client.write(2 * MIB, b'x' * MIB)
    client.write_zeroes(2 * MIB, 64 << 10)
    client.write_zeroes(2 * MIB + (64 << 10), 64 << 10, FLAG_NO_HOLE)
    client.write_zeroes(2 * MIB + (128 << 10), 1000, FLAG_FUA)
    client.trim(2 * MIB + (256 << 10), 64 << 10, FLAG_FUA)
    data = client.read(2 * MIB, MIB)
    assert data[:(128 << 10) + 1000] == bytes((128 << 10) + 1000)
    assert data[(128 << 10) + 1000:256 << 10] == \
        b'x' * ((128 << 10) - 1000)
    assert data[320 << 10:] == b'x' * (MIB - (320 << 10))
    status = client.block_status(2 * MIB, 64 << 10)
    assert status[0][1] & 2


def test_large_write_zeroes_and_trim(server, images):
    """Those may be as large as a 32-bit length allows."""
    server.add_node('n', images.create('a.qcow2', '6G'), discard='unmap')
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    nbd.write(3 << 30, b'x' * 512)
    nbd.write_zeroes(0, 2**32 - 512)
    assert nbd.read(3 << 30, 512) == bytes(512)
    nbd.write(3 << 30, b'x' * 512)
    nbd.trim(0, 2**32 - 512)
    assert nbd.whole_status()[0][2] & 2
    nbd.disconnect()


def test_fast_zero(client):
    """Either done at once or refused, never slow and never half."""
    try:
        client.write_zeroes(MIB, 64 << 10, FLAG_FAST_ZERO)
        assert client.read(MIB, 64 << 10) == bytes(64 << 10)
    except NbdError as exc:
        assert exc.errno in (ENOTSUP, EINVAL)
        assert client.read(MIB, 64 << 10) == b'\2' * (64 << 10)


def test_cache_and_flush(client):
    client.call(CMD_FLUSH)
    try:
        client.call(CMD_CACHE, 0, 512)
    except NbdError as exc:
        assert exc.errno == EINVAL


def test_read_only_export(disk):
    disk.export('disk', 'ro', writable=False)
    nbd = NbdClient.connect(disk.nbd_path, 'ro')
    for kind, length, data in ((CMD_WRITE, 512, b'x' * 512),
                               (CMD_TRIM, 512, b''),
                               (CMD_WRITE_ZEROES, 512, b'')):
        refused(nbd.call, kind, 0, length, 0, data, errors=(EPERM, EINVAL))
    assert nbd.read(0, 512) == b'\1' * 512
    nbd.disconnect()


def test_pipelined_requests(disk):
    """Many requests in flight; each reply finds its request."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk', structured=False)
    for i in range(64):
        nbd.request(CMD_WRITE, i * 512, 512, 0, bytes([i]) * 512)
    cookies = {nbd.reply()[0] for _ in range(64)}
    assert len(cookies) == 64
    asked = {nbd.request(CMD_READ, i * 512, 512): i for i in range(64)}
    for _ in range(64):
        cookie, error, data = nbd.reply(512)
        assert error is None
        assert data == bytes([asked.pop(cookie)]) * 512
    assert not asked
    nbd.disconnect()


# Clients that misbehave

def test_wrong_magic(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    nbd.request(CMD_READ, 0, 512, magic=0x12345678)
    assert nbd.wait_closed(5)
    assert disk.running()


def test_write_too_large(disk):
    """More than the maximum: the client is cut off, or the data is thrown
    away and the error told.  Nothing is written."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    try:
        refused(nbd.write, 0, b'x' * (32 * MIB + 1))
        assert nbd.read(0, 65536) == b'\1' * 65536
    except NbdClosed:
        pass
    nbd.close()
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    assert nbd.read(0, 65536) == b'\1' * 65536
    nbd.disconnect()


@pytest.mark.parametrize('length', [2**31, 2**32 - 1])
def test_write_of_4_gib(disk, length):
    """Nobody keeps 4 GiB of a client's data."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    try:
        nbd.request(CMD_WRITE, 0, length)
        for _ in range(64):
            nbd.send(b'x' * MIB)
    except NbdClosed:
        pass
    with open(f'/proc/{disk.proc.pid}/status', encoding='ascii') as status:
        rss = next(int(line.split()[1]) for line in status
                   if line.startswith('VmHWM'))
    assert rss < 300 << 10
    nbd.close()
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    assert nbd.read(0, 65536) == b'\1' * 65536
    nbd.disconnect()


@pytest.mark.parametrize('sent', [0, 1, 27, 28, 29, 4000])
def test_dies_in_mid_request(disk, images, sent):
    """Nothing of a write whose data did not all come is written."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    whole = struct.pack('>IHHQQI', 0x25609513, 0, CMD_WRITE, 1, 0, 65536) + \
        b'x' * 65536
    nbd.send(whole[:sent])
    nbd.close()
    other = NbdClient.connect(disk.nbd_path, 'disk')
    assert other.read(0, 65536) == b'\1' * 65536
    other.disconnect()
    disk.unexport('disk', 'hard')


def test_dies_with_replies_unread(disk):
    for _ in range(5):
        nbd = NbdClient.connect(disk.nbd_path, 'disk')
        for i in range(64):
            nbd.request(CMD_READ, 0, 65536)
        nbd.close()
    other = NbdClient.connect(disk.nbd_path, 'disk')
    assert other.read(0, 16) == b'\1' * 16
    other.disconnect()


def test_reader_that_never_reads(disk):
    """One sleeping client does not hold up another, nor (in ours) its
    export's removal; QEMU 7.2 waits until it reads or dies."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    nbd.sock.settimeout(0.5)
    try:
        for i in range(500):
            nbd.request(CMD_READ, 0, MIB)
    except (OSError, NbdClosed):
        pass
    other = NbdClient.connect(disk.nbd_path, 'disk')
    assert other.read(0, 16) == b'\1' * 16
    other.disconnect()
    if disk.is_qemu:
        nbd.close()
    disk.unexport('disk', 'hard')
    nbd.close()


# Several clients

def test_several_clients(server, images):
    """Eight clients write to one disk at a time."""
    path = images.create('a.qcow2', '8M')
    server.add_node('n', path)
    server.export('n')
    errors = []

    def write(i):
        try:
            nbd = NbdClient.connect(server.nbd_path, 'n')
            for at in range(i * MIB, (i + 1) * MIB, 50000):
                n_bytes = min(50000, (i + 1) * MIB - at)
                nbd.write(at, bytes([i + 1]) * n_bytes)
            nbd.flush()
            nbd.disconnect()
        except (OSError, NbdError, AssertionError) as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    server.stop()
    same_bytes(images.content(path),
               b''.join(bytes([i + 1]) * MIB for i in range(8)))


def test_multi_conn_sees_flushed(disk):
    """multi-conn: what one connection flushed the other reads."""
    one = NbdClient.connect(disk.nbd_path, 'disk')
    two = NbdClient.connect(disk.nbd_path, 'disk')
    for i in range(50):
        one.write(i * 1000, bytes([i]) * 1000)
        one.flush()
        assert two.read(i * 1000, 1000) == bytes([i]) * 1000
    one.disconnect()
    two.disconnect()


# Tools

def test_nbdinfo(disk):
    text = run_tool('nbdinfo', disk.uri('disk'))
    assert 'export-size: 4194304' in text
    assert 'base:allocation' in text
    for line in ('is_read_only: false', 'can_df: true', 'can_flush: true',
                 'can_fua: true', 'can_multi_conn: true', 'can_trim: true',
                 'can_zero: true'):
        assert line in text
    assert run_tool('nbdinfo', '--size', disk.uri('disk')) == '4194304\n'
    lines = [line.split() for line in
             run_tool('nbdinfo', '--map', disk.uri('disk')).splitlines()]
    assert lines == [
        ['0', '65536', '0', 'data'],
        ['65536', str(MIB - 65536), '3', 'hole,zero'],
        [str(MIB), str(MIB), '0', 'data'],
        [str(2 * MIB), str(2 * MIB), '3', 'hole,zero']]
    disk.qmp('block-export-add', {
        'type': 'nbd', 'id': 'd', 'node-name': 'disk', 'name': 'described',
        'description': 'some words'})
    text = run_tool('nbdinfo', '--list', disk.uri(''))
    assert 'description: some words' in text


def test_nbdcopy_out(disk, images):
    out = images.path('out.raw')
    run_tool('nbdcopy', disk.uri('disk'), out)
    disk.stop()
    same_bytes(open(out, 'rb').read(), images.content(disk.disk_path))


def test_nbdcopy_in(disk, images):
    data = b''.join(bytes([i]) * 65536 for i in range(64))
    source = images.write_raw('in.raw', data)
    run_tool('nbdcopy', '--connections=4', '--flush', source,
             disk.uri('disk'))
    disk.stop()
    same_bytes(images.content(disk.disk_path), data)


def test_nbdcopy_between(disk, images):
    other = images.create('b.qcow2', '4M')
    disk.add_node('other', other)
    disk.export('other')
    run_tool('nbdcopy', '--connections=4', disk.uri('disk'),
             disk.uri('other'))
    disk.stop()
    images.identical(disk.disk_path, other)


def test_qemu_io(disk, images):
    uri = disk.uri('disk')
    images.io(uri, 'read -P 1 0 64k', 'read -P 2 1M 1M', 'write -P 9 5k 10k',
              'write -z 64k 64k', 'write -f -P 8 200k 1k', 'discard 1M 64k',
              'flush', 'read -P 9 5k 10k', 'read -P 0 64k 64k',
              'read -P 8 200k 1k', fmt='raw')
    text = images.io(uri, 'read 4M 512', fmt='raw', check=False)
    assert 'failed' in text


def test_qemu_img_convert(disk, images):
    out = images.adopt(images.path('out.qcow2'))
    qemu_img('convert', '-f', 'raw', '-O', 'qcow2', disk.uri('disk'), out)
    qemu_img('compare', '-f', 'raw', '-F', 'qcow2', disk.uri('disk'), out)


@pytest.mark.timeout(90)
def test_fio(server, images):
    """fio writes with verification at depth 16."""
    server.add_node('n', images.create('a.qcow2', '64M'))
    uri = server.export('n')
    run_tool('fio', '--name=w', '--ioengine=nbd', f'--uri={uri}',
             '--rw=randwrite', '--bs=4k', '--size=32m', '--iodepth=16',
             '--verify=crc32c', '--do_verify=1', '--verify_fatal=1',
             '--randrepeat=1', '--verify_state_save=0', '--minimal',
             timeout=60)


def test_libnbd(disk):
    """libnbd checks what it is told against the protocol."""
    handle = libnbd.NBD()
    handle.set_strict_mode(0)
    handle.add_meta_context('base:allocation')
    handle.connect_uri(disk.uri('disk'))
    assert handle.get_size() == 4 * MIB
    assert handle.pread(16, 0) == b'\1' * 16
    handle.pwrite(b'y' * 512, 0, libnbd.CMD_FLAG_FUA)
    handle.zero(65536, 0)
    handle.trim(65536, 65536)
    handle.flush()
    extents = []
    handle.block_status(4 * MIB, 0,
                        lambda c, o, e, err: extents.extend(e))
    assert sum(extents[::2]) >= 65536
    with pytest.raises(libnbd.Error):
        handle.pread(512, 4 * MIB)
    handle.shutdown()


def test_tcp_export(server, images, setup):
    path = images.create('a.qcow2', '1M')
    server.add_node('n', path)
    port = setup.free_port()
    server.qmp('nbd-server-start', addr={
        'type': 'inet', 'data': {'host': '127.0.0.1', 'port': str(port)}})
    server.qmp('block-export-add', type='nbd', id='e', node_name='n',
               writable=True)
    images.io(f'nbd://127.0.0.1:{port}/n', 'write -P 3 0 64k',
              'read -P 3 0 64k', fmt='raw')


def test_max_connections(server, images):
    server.add_node('n', images.create('a.qcow2', '1M'))
    server.qmp('nbd-server-start', {
        'addr': {'type': 'unix', 'data': {'path': server.nbd_path}},
        'max-connections': 1})
    server.qmp('block-export-add', type='nbd', id='e', node_name='n')
    one = NbdClient.connect(server.nbd_path, 'n')
    if not server.is_qemu:      # 7.2 does not take it into account
        assert not one.flags & TX_MULTI_CONN
    two = NbdClient(server.nbd_path, timeout=0.3)
    with pytest.raises((OSError, struct.error)):
        two.open()
    two.close()
    assert one.read(0, 1) == b'\0'
    one.disconnect()
    three = NbdClient.connect(server.nbd_path, 'n')
    three.disconnect()


# QMP side

def test_export_errors(server, images):
    path = images.create('a.qcow2', '1M')
    server.add_node('n', path)
    server.qmp('blockdev-add', driver='null-co', node_name='ro',
               read_only=True, size=4096)
    add = {'type': 'nbd', 'id': 'e', 'node-name': 'n'}
    server.fails('block-export-add', add, 'NBD server not running')
    server.fails('nbd-server-stop', desc='NBD server not running')
    server.export('n')
    start = {'addr': {'type': 'unix', 'data': {'path': server.nbd_path}}}
    server.fails('nbd-server-start', start, 'NBD server already running')
    server.fails('block-export-add', dict(add, id='export-n'),
                 "Block export id 'export-n' is already in use")
    for ident in ('', '1a', 'a b', '#x'):
        server.fails('block-export-add', dict(add, id=ident),
                     'Invalid block export id')
    server.fails('block-export-add', add,
                 "NBD server already has export named 'n'")
    server.fails('block-export-add', dict(add, **{'node-name': 'nope'}),
                 "Cannot find device='' nor node-name='nope'")
    server.fails('block-export-add',
                 dict(add, **{'node-name': 'ro', 'writable': True}),
                 'Cannot export read-only node as writable')
    server.fails('block-export-add', dict(add, name='x' * 4097),
                 f"export name '{'x' * 4097}' too long")
    server.fails('block-export-add',
                 dict(add, name='x', description='y' * 4097),
                 f"description '{'y' * 4097}' too long")
    server.fails('block-export-add', dict(add, name='x', bitmaps=['b']),
                 "Bitmap 'b' is not found")
    server.fails('block-export-del', id='nope',
                 desc="Export 'nope' is not found")
    server.fails('nbd-server-remove', name='nope',
                 desc="Export 'nope' is not found")
    server.fails('nbd-server-add', device='nope',
                 desc="Cannot find device='nope' nor node-name='nope'")
    server.fails('nbd-server-add', device='n',
                 desc="NBD server already has export named 'n'")
    assert server.qmp('query-block-exports') == [
        {'id': 'export-n', 'type': 'nbd', 'node-name': 'n',
         'shutting-down': False}]


def test_failed_start_leaves_nothing(server):
    addr = {'type': 'unix', 'data': {'path': '/nonexistent/dir/sock'}}
    server.fails('nbd-server-start', addr=addr,
                 desc='Failed to bind socket to /nonexistent/dir/sock: '
                      'No such file or directory')
    server.qmp('nbd-server-start',
               addr={'type': 'unix', 'data': {'path': server.nbd_path}})
    server.qmp('nbd-server-stop')
    server.qmp('nbd-server-start',
               addr={'type': 'unix', 'data': {'path': server.nbd_path}})


def test_old_commands(disk):
    """nbd-server-add and -remove work on the same exports; newest first
    in the query."""
    disk.qmp('nbd-server-add', device='disk', name='viaadd', writable=True)
    assert [e['id'] for e in disk.qmp('query-block-exports')] == [
        'viaadd', 'export-disk']
    nbd = NbdClient.connect(disk.nbd_path, 'viaadd')
    nbd.write(0, b'abc')
    nbd.disconnect()
    disk.qmp('nbd-server-remove', name='viaadd')
    disk.wait_event('BLOCK_EXPORT_DELETED', {'id': 'viaadd'})
    disk.qmp('nbd-server-remove', name='export-disk')


def test_del_safe_and_hard(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    for arguments in ({}, {'mode': 'safe'}):
        disk.fails('block-export-del', dict(arguments, id='export-disk'),
                   "export 'export-disk' still in use")
    assert disk.qmp('query-block-exports')[0]['shutting-down'] is False
    assert nbd.read(0, 1) == b'\1'
    disk.qmp('block-export-del', id='export-disk', mode='hard')
    disk.wait_event('BLOCK_EXPORT_DELETED', {'id': 'export-disk'})
    assert nbd.wait_closed(5)
    assert disk.qmp('query-block-exports') == []
    disk.qmp('blockdev-del', node_name='disk')


def test_del_event_before_reply(disk):
    """With no client connected the export is gone when the reply comes."""
    n_before = len(disk.mon.received)
    disk.qmp('block-export-del', id='export-disk')
    told = disk.mon.received[n_before:]
    assert [m.get('event', 'reply') for m in told] == [
        'BLOCK_EXPORT_DELETED', 'reply']
    assert disk.qmp('query-block-exports') == []


def test_stop_deletes_exports(disk):
    for name in ('b', 'c'):
        disk.export('disk', name, writable=False)
    nbd = NbdClient.connect(disk.nbd_path, 'b')
    n_before = len(disk.mon.received)
    disk.qmp('nbd-server-stop')
    for name in ('disk', 'b', 'c'):
        disk.wait_event('BLOCK_EXPORT_DELETED', {'id': f'export-{name}'})
    assert nbd.wait_closed(5)
    assert 'return' in disk.mon.received[-1]
    assert len(disk.mon.received) == n_before + 4
    disk.qmp('blockdev-del', node_name='disk')


def test_stop_waits_for_writes(server, images, guest_on):
    """Requests in flight when the export goes are done or not, and what
    was acknowledged is on disk."""
    path = images.create('a.qcow2', '4M')
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.start()
    guest.wait_writes(50)
    server.unexport('n', 'hard')
    guest.wait_broken()
    server.qmp('blockdev-del', node_name='n')
    content = images.content(path)
    n_bad = sum(content[i:i + 512] != guest.model[i:i + 512]
                for i in range(0, len(content), 512))
    assert n_bad * 512 <= guest.max_bytes


def test_socket_path_is_free_again(disk):
    disk.qmp('nbd-server-stop')
    with pytest.raises(OSError):
        NbdClient.connect(disk.nbd_path, 'disk')


def test_qemu_nbd_list(disk):
    done = subprocess.run(
        ['qemu-nbd', '--list', '-k', disk.nbd_path], timeout=20,
        capture_output=True, text=True, check=True)
    assert "export: 'disk'" in done.stdout
    assert 'size:  4194304' in done.stdout
    assert 'base:allocation' in done.stdout
