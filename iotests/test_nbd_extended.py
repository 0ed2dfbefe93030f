# SPDX-License-Identifier: MIT
"""The NBD server's extended headers: 64-bit lengths, and block status of
some of the contexts."""

import struct

import pytest

from .nbd import (CMD_BLOCK_STATUS, CMD_READ, CMD_TRIM, CMD_WRITE,
                  CMD_WRITE_ZEROES, EINVAL, FLAG_FAST_ZERO, FLAG_PAYLOAD_LEN,
                  FLAG_REQ_ONE, NbdClient, NbdClosed, NbdError,
                  NbdOptionError, OPT_EXTENDED_HEADERS, OPT_STRUCTURED_REPLY,
                  REP_ERR_INVALID)

MIB = 1 << 20
TIB = 1 << 40
pytestmark = pytest.mark.ours('QEMU 7.2 has no extended headers')


@pytest.fixture
def disk(server, images):
    """1 TiB with a little data at both ends, and two bitmaps."""
    path = images.create('a.qcow2', '1T')
    images.io(path, 'write -P 1 0 64k', f'write -P 2 {TIB - 65536} 64k')
    server.add_node('disk', path, discard='unmap')
    for name in ('b0', 'b1'):
        server.qmp('block-dirty-bitmap-add', node='disk', name=name)
    server.export('disk', bitmaps=['b0', 'b1'])
    server.disk_path = path
    return server


CONTEXTS = ('base:allocation', 'qemu:dirty-bitmap:b0',
            'qemu:dirty-bitmap:b1')


@pytest.fixture
def client(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk', extended=True,
                            contexts=CONTEXTS)
    yield nbd
    nbd.disconnect()


def fails(errno, call, *args, **kwargs):
    with pytest.raises(NbdError) as info:
        call(*args, **kwargs)
    assert info.value.errno == errno, info.value


def test_flags(disk, client):
    """As QEMU 10.2 shows them; the last one only to who negotiated."""
    assert client.flags == 0x1ded
    disk.export('disk', 'ro', writable=False)
    for extended, flags in ((True, 0x158f), (False, 0x058f)):
        nbd = NbdClient.connect(disk.nbd_path, 'ro', extended=extended)
        assert nbd.flags == flags
        assert nbd.block_sizes == (1, 4096, 32 * MIB)
        nbd.disconnect()


def test_negotiation(disk):
    nbd = NbdClient(disk.nbd_path)
    nbd.open()
    for data, code in ((b'x', REP_ERR_INVALID), (b'', None),
                       (b'', REP_ERR_INVALID)):
        if code:
            with pytest.raises(NbdOptionError) as info:
                nbd.option(OPT_EXTENDED_HEADERS, data)
            assert info.value.code == code
        else:
            nbd.option(OPT_EXTENDED_HEADERS, data)
    with pytest.raises(NbdOptionError) as info:
        nbd.option(OPT_STRUCTURED_REPLY)
    assert info.value.code == REP_ERR_INVALID
    with pytest.raises(NbdClosed):      # no way to say 64 bits in it
        nbd.export_name('disk')
    nbd.close()


def test_reads_and_writes(client):
    assert client.read(0, 4) == b'\1' * 4
    assert client.read(MIB, 4096) == bytes(4096)
    assert client.read(0, 4 * MIB) == b'\1' * 65536 + bytes(4 * MIB - 65536)
    assert client.read(TIB - 2, 2) == b'\2\2'
    client.write(TIB // 2, b'abc')
    client.write(TIB // 2 + 65536, b'd' * 300000)
    client.flush()
    assert client.read(TIB // 2 - 1, 5) == b'\0abc\0'
    assert client.read(TIB // 2 + 65536, 300000) == b'd' * 300000
    assert client.read(5, 0) == b''


def test_long_effects(client):
    """Trim, zeroes and block status of all at once."""
    client.trim(0, TIB - 65536)
    assert client.read(0, 4) == bytes(4)
    client.write_zeroes(0, TIB, FLAG_FAST_ZERO)
    assert client.read(TIB - 4, 4) == bytes(4)
    assert client.block_status(0, TIB) == [(TIB, 3)]


def test_block_status(client):
    assert client.block_status(0, TIB) == [
        (65536, 0), (TIB - 2 * 65536, 3), (65536, 0)]
    assert client.block_status(0, TIB, FLAG_REQ_ONE) == [(65536, 0)]
    assert client.block_status(
        0, TIB, context='qemu:dirty-bitmap:b0') == [(TIB, 0)]


def filtered(client, length, ids, offset=0, flags=0):
    payload = struct.pack('>Q', length) + b''.join(
        struct.pack('>I', ident) for ident in ids)
    return client.call(CMD_BLOCK_STATUS, offset, len(payload),
                       flags | FLAG_PAYLOAD_LEN, payload)


def test_status_of_some_contexts(client):
    client.write(MIB, b'x')
    base, bit0, bit1 = (client.contexts[name] for name in CONTEXTS)
    status = filtered(client, TIB, [bit1])
    assert status == {bit1: [(MIB, 0), (65536, 1), (TIB - MIB - 65536, 0)]}
    status = filtered(client, 2 * MIB, [bit0, base])
    assert set(status) == {base, bit0}
    assert sum(length for length, _ in status[base]) == 2 * MIB
    for ids in ([], [99], [base, base], [base, bit0, bit1, bit1]):
        fails(EINVAL, filtered, client, MIB, ids)
    fails(EINVAL, filtered, client, 0, [base])
    fails(EINVAL, filtered, client, TIB + 1, [base])
    fails(EINVAL, filtered, client, MIB, list(range(90000)))
    for payload in (b'', b'1234567', bytes(9)):
        fails(EINVAL, client.call, CMD_BLOCK_STATUS, 0, len(payload),
              FLAG_PAYLOAD_LEN, payload)
    assert client.read(MIB, 1) == b'x'


def test_bad_requests(client):
    """Lengths that only 64 bits can say, payloads nobody asked for."""
    for length in (32 * MIB + 1, 1 << 32, 1 << 62, (1 << 64) - 1):
        fails(EINVAL, client.call, CMD_READ, 0, length)
    fails(EINVAL, client.call, CMD_TRIM, 1, (1 << 64) - 1)
    fails(28, client.call, CMD_WRITE_ZEROES, 0, TIB + 1)
    fails(EINVAL, client.call, CMD_TRIM, 0, 512, FLAG_PAYLOAD_LEN, bytes(512))
    fails(EINVAL, client.call, 77, 0, 4096, FLAG_PAYLOAD_LEN, bytes(4096))
    assert client.read(0, 1) == b'\1'


def test_write_that_cannot_be_skipped(disk, client):
    """More payload than anybody would read: the answer, then the end."""
    nbd = NbdClient.connect(disk.nbd_path, 'disk', extended=True)
    fails(EINVAL, nbd.call, CMD_WRITE, 0, 1 << 40)
    assert nbd.wait_closed()
    nbd.close()


def test_old_magic_ends_it(disk):
    nbd = NbdClient.connect(disk.nbd_path, 'disk', extended=True)
    nbd.extended = False
    nbd.request(CMD_READ, 0, 512)
    nbd.send(bytes(64))
    assert nbd.wait_closed()
    nbd.close()
