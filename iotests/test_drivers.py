# SPDX-License-Identifier: MIT
"""Small drivers: null-aio, host_device, raw with offset and size."""

import os
import signal
import subprocess
import time

import pytest

from .images import same_bytes
from .nbd import CMD_WRITE, NbdClient, NbdError

KIB = 1 << 10
MIB = 1 << 20


# null-aio

def test_null_aio(server):
    server.qmp('blockdev-add', driver='null-aio', node_name='n')
    server.qmp('blockdev-add', {'driver': 'null-aio', 'node-name': 'm',
                                'size': MIB, 'read-zeroes': True})
    nodes = server.nodes()
    assert nodes['n']['file'] == 'null-aio://'
    assert nodes['n']['image']['virtual-size'] == 1 << 30
    assert nodes['m']['drv'] == 'null-aio'
    assert nodes['m']['image']['virtual-size'] == MIB
    server.fails('blockdev-add', {'driver': 'null-aio', 'node-name': 'x',
                                  'latency-ns': 1 << 63},
                 'latency-ns is invalid')
    server.export('m')
    nbd = NbdClient.connect(server.nbd_path, 'm')
    nbd.write(0, b'x' * 65536)
    assert nbd.read(0, 65536) == bytes(65536)
    nbd.write_zeroes(0, 65536)
    nbd.trim(0, 65536)
    nbd.flush()
    nbd.disconnect()


@pytest.mark.ours('QEMU waits')
@pytest.mark.parametrize('how', ['quit', 'signal'])
def test_quit_does_not_wait_for_latency(server, how):
    """Somebody meant milliseconds."""
    server.qmp('blockdev-add', {
        'driver': 'null-co', 'node-name': 'n', 'size': 65536,
        'latency-ns': 2**63 - 1})
    server.export('n')
    client = NbdClient.connect(server.nbd_path, 'n')
    client.request(0, 0, 512)
    client.request(1, 0, 512, data=bytes(512))
    time.sleep(.1)
    started = time.monotonic()
    if how == 'quit':
        server.quit()
    else:
        server.kill(signal.SIGTERM)
        server.wait_exit()
    assert time.monotonic() - started < 8
    client.close()


@pytest.mark.parametrize('driver', ['null-aio', 'null-co'])
def test_latency_is_shared(server, driver):
    """Requests in flight in parallel wait at the same time: sixteen of half
    a second would take eight seconds one by one."""
    server.qmp('blockdev-add', {'driver': driver, 'node-name': 'n',
                                'size': MIB, 'latency-ns': 500000000})
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    begin = time.monotonic()
    for i in range(16):
        nbd.request(CMD_WRITE, i * 4096, 4096, data=bytes(4096))
    for _ in range(16):
        assert nbd.reply()[1] is None
    assert 0.5 <= time.monotonic() - begin < 6
    nbd.disconnect()


# host_device

@pytest.fixture
def loop(directory):
    """A block device of 16 MiB: (device, the file behind it)."""
    path = os.path.join(directory, 'loop.img')
    with open(path, 'wb') as file:
        file.truncate(16 * MIB)
    try:
        made = subprocess.run(['losetup', '-f', '--show', path],
                              capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f'no loop device: {exc}')
    device = made.stdout.strip()
    yield device, path
    subprocess.run(['losetup', '-d', device], check=True)


def host_device(filename, name='h', **options):
    return dict({'driver': 'host_device', 'node-name': name,
                 'filename': filename},
                **{k.replace('_', '-'): v for k, v in options.items()})


@pytest.mark.parametrize('direct', [False, True])
def test_block_device(server, images, guest_on, loop, direct):
    device, path = loop
    server.qmp('blockdev-add', host_device(
        device, discard='unmap', cache={'direct': direct}))
    node = server.nodes()['h']
    assert node['image']['virtual-size'] == 16 * MIB
    assert node['file'] == device and node['drv'] == 'host_device'
    server.export('h')
    guest = guest_on(server, 'h', trims=True, max_bytes=70000)
    guest.fill(0, 4 * MIB, 7)
    guest.fill(1001, 3, 8)
    guest.zero(100 * KIB, 64 * KIB)
    guest.zero(MIB + 1, 1000)
    guest.trim(2 * MIB, 64 * KIB)
    guest.random_writes(60)
    guest.flush()
    guest.verify()
    nbd = NbdClient.connect(server.nbd_path, 'h')
    with pytest.raises(NbdError):
        nbd.write(16 * MIB, bytes(512))
    nbd.disconnect()
    guest.close()
    server.stop()
    subprocess.run(['sync', device], check=True)
    with open(path, 'rb') as file:
        same_bytes(file.read(), guest.freeze())


def test_block_device_zeroes(server, loop):
    """Zeroes on a device with old data."""
    device, path = loop
    with open(device, 'r+b') as file:
        file.write(b'\xff' * MIB)
        os.fsync(file.fileno())
    server.qmp('blockdev-add', host_device(device, discard='unmap'))
    server.export('h')
    nbd = NbdClient.connect(server.nbd_path, 'h')
    for at, length in ((0, 4096), (8192, 512), (20000, 1), (30000, 9000)):
        nbd.write_zeroes(at, length)
        assert nbd.read(at, length) == bytes(length)
        assert nbd.read(at + length, 1) == b'\xff'
    nbd.write_zeroes(100 * KIB, 64 * KIB, flags=2)      # no hole
    assert nbd.read(100 * KIB, 64 * KIB) == bytes(64 * KIB)
    assert nbd.read(100 * KIB - 1, 1) == b'\xff'
    nbd.disconnect()


def test_block_device_size(server, loop):
    """A device has the size that it has."""
    device, _ = loop
    server.qmp('blockdev-add', host_device(device))
    server.fails('block_resize', {'node-name': 'h', 'size': 32 * MIB},
                 'Cannot grow device files')
    server.qmp('block_resize', node_name='h', size=16 * MIB)
    server.qmp('block_resize', node_name='h', size=MIB)
    if not server.is_qemu:
        assert server.nodes()['h']['image']['virtual-size'] == 16 * MIB
    server.qmp('blockdev-reopen',
               options=[host_device(device, read_only=True)])
    assert server.nodes()['h']['ro']


def test_format_on_device(server, images, loop, guest_on):
    """qcow2 on a device: made, written, read by other programs."""
    device, path = loop
    server.qmp('blockdev-add', host_device(device))
    server.qmp('blockdev-create', {'job-id': 'c', 'options': {
        'driver': 'qcow2', 'file': 'h', 'size': 8 * MIB}})
    server.wait_event('JOB_STATUS_CHANGE', {'id': 'c',
                                            'status': 'concluded'})
    job, = server.qmp('query-jobs')
    assert 'error' not in job
    server.qmp('job-dismiss', id='c')
    server.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                'file': 'h'})
    server.export('q')
    guest = guest_on(server, 'q')
    guest.random_writes(40)
    guest.flush()
    guest.verify()
    guest.close()
    server.stop()
    same_bytes(images.content(device, 'qcow2'), guest.freeze())


def test_block_device_locked(start_server, loop):
    """As with a file: one writer."""
    device, _ = loop
    server = start_server()
    server.qmp('blockdev-add', dict(
        {'driver': 'raw', 'node-name': 'r', 'file': host_device(device)}))
    server.export('r')
    other = start_server()
    other.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r',
                               'file': host_device(device)})
    other.qmp('nbd-server-start',
              addr={'type': 'unix', 'data': {'path': other.nbd_path}})
    # An export shares writing, but not resizing, which raw does not want.
    other.qmp('block-export-add', {'type': 'nbd', 'id': 'e',
                                   'node-name': 'r', 'writable': True})
    other.qmp('block-export-del', id='e', mode='hard')
    other.wait_event('BLOCK_EXPORT_DELETED')
    other.fails('block_resize', {'node-name': 'r', 'size': 16 * MIB},
                'Failed to get "resize" lock')


def test_not_a_device(server, images):
    path = images.write_raw('a.img', bytes(MIB))
    server.fails('blockdev-add', host_device(path),
                 f"'host_device' driver requires '{path}' to be either a "
                 'character or block device')
    server.fails('blockdev-add', host_device('/dev'),
                 "Could not open '/dev': Is a directory")
    server.fails('blockdev-add', host_device('/dev/nope'),
                 "Could not open '/dev/nope': No such file or directory")
    server.fails('blockdev-add', host_device(''),
                 "The 'host_device' block driver requires a file name")
    for device in ('/dev/null', '/dev/zero'):
        server.fails('blockdev-add', {'driver': 'file', 'node-name': 'f',
                                      'filename': device},
                     f"'file' driver requires '{device}' to be a regular "
                     'file')
    assert server.nodes() == {}


def test_character_device(server):
    """What cannot be measured has no length."""
    server.qmp('blockdev-add', host_device('/dev/zero'))
    assert server.nodes()['h']['image']['virtual-size'] == 0


def test_device_by_name(server, loop, images):
    """A backing file in a header, a target: a name may be a device's."""
    device, _ = loop
    path = images.create('a.qcow2', 16 * MIB, backing=device)
    server.add_node('q', path)
    drivers = {node['drv'] for node in server.nodes().values()}
    assert 'host_device' in drivers


# raw: a window

def raw(file, **options):
    return dict({'driver': 'raw', 'node-name': 'r', 'file': file}, **options)


def file_of(path):
    return {'driver': 'file', 'node-name': 'f', 'filename': path}


def test_raw_window(server, images, guest_on):
    """Writes stay inside, reads begin where they should, a hole shows."""
    content = os.urandom(MIB)
    path = images.write_raw('a.img', content + bytes(MIB) + content)
    server.qmp('blockdev-add', raw(file_of(path), offset=1000,
                                   size=2 * MIB))
    assert server.nodes()['r']['image']['virtual-size'] == 2 * MIB
    server.export('r')
    nbd = NbdClient.connect(server.nbd_path, 'r')
    same_bytes(nbd.read(0, MIB), content[1000:] + bytes(1000))
    nbd.write(0, b'first')
    nbd.write(2 * MIB - 4, b'last')
    for call in (lambda: nbd.write(2 * MIB - 1, b'xx'),
                 lambda: nbd.write_zeroes(2 * MIB, 1),
                 lambda: nbd.read(2 * MIB, 1)):
        with pytest.raises(NbdError):
            call()
    nbd.write_zeroes(500, 10000)
    nbd.trim(20000, 30000)
    nbd.disconnect()
    server.stop()
    wanted = bytearray(content + bytes(MIB) + content)
    wanted[1000:1005] = b'first'
    wanted[1000 + 2 * MIB - 4:1000 + 2 * MIB] = b'last'
    wanted[1500:11500] = bytes(10000)
    with open(path, 'rb') as file:
        same_bytes(file.read(), bytes(wanted))


def test_raw_window_full(server, images):
    """A format in a window: there is no more room than the window has."""
    path = images.write_raw('a.img', bytes(4 * MIB))
    server.qmp('blockdev-add', raw(file_of(path), offset=MIB, size=2 * MIB))
    server.qmp('blockdev-create', {'job-id': 'c', 'options': {
        'driver': 'qcow2', 'file': 'r', 'size': 8 * MIB}})
    server.wait_event('JOB_STATUS_CHANGE', {'id': 'c',
                                            'status': 'concluded'})
    server.qmp('job-dismiss', id='c')
    server.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                'file': 'r'})
    server.export('q')
    nbd = NbdClient.connect(server.nbd_path, 'q')
    nbd.write(0, b'x' * MIB)
    with pytest.raises(NbdError) as exc:
        for i in range(1, 8):
            nbd.write(i * MIB, b'x' * MIB)
    assert exc.value.errno == 28
    assert nbd.read(0, MIB) == b'x' * MIB
    nbd.disconnect()
    server.stop()
    with open(path, 'rb') as file:
        content = file.read()
    assert content[:MIB] == bytes(MIB) and content[3 * MIB:] == bytes(MIB)


@pytest.mark.parametrize('options, desc', [
    ({'offset': 2 * MIB}, 'Offset (2097152) cannot be greater than size of '
                          'the containing file (1048576)'),
    ({'offset': 512, 'size': MIB},
     'The sum of offset (512) and size (1048576) has to be smaller or equal '
     'to the  actual size of the containing file (1048576)'),
    ({'size': 1000}, 'Specified size is not multiple of 512'),
], ids=str)
def test_raw_bad_window(server, images, options, desc):
    path = images.write_raw('a.img', bytes(MIB))
    server.fails('blockdev-add', raw(file_of(path), **options), desc)
    assert server.nodes() == {}


def test_raw_window_resize(server, images):
    """With a size it is fixed; with an offset alone the file follows."""
    path = images.write_raw('a.img', bytes(MIB))
    server.qmp('blockdev-add', raw(file_of(path), offset=512, size=1024))
    server.fails('block_resize', {'node-name': 'r', 'size': 2048},
                 'Cannot resize fixed-size raw disks')
    server.qmp('blockdev-reopen', options=[raw('f', offset=512)])
    assert server.nodes()['r']['image']['virtual-size'] == MIB - 512
    server.qmp('block_resize', node_name='r', size=2 * MIB)
    assert os.stat(path).st_size == 2 * MIB + 512
