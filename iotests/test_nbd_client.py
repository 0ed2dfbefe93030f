# SPDX-License-Identifier: MIT
"""The nbd driver: a node that is another server's export."""

import json
import socket
import threading
import time

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job, start_backup
from .nbd import CMD_READ, CMD_WRITE, NbdClient, NbdClosed, NbdError
from .nbd_server import FakeServer
from .qmp import SCALE

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture
def far(start_server, images):
    """Another server with a 4 MiB qcow2 'disk' as export 'disk'."""
    other = start_server()
    other.disk_path = images.create('far.qcow2', SIZE)
    images.io(other.disk_path, 'write -P 1 0 64k', 'write -z 128k 64k',
              'write -P 2 1M 1M')
    other.add_node('disk', other.disk_path, discard='unmap')
    other.export('disk')
    return other


@pytest.fixture
def fake(server):
    """A server of ours that can misbehave."""
    one = FakeServer(server.path('fake.sock'))
    yield one
    one.stop()


def unix(path):
    return {'type': 'unix', 'path': path}


def add_nbd(server, path, name='n', export='disk', **options):
    server.qmp('blockdev-add', dict(
        {'driver': 'nbd', 'node-name': name, 'export': export,
         'server': unix(path)},
        **{k.replace('_', '-'): v for k, v in options.items()}))


def near(server, name='n', export='n', **options):
    """A client on our own export of the nbd node."""
    server.export(name, export, **options)
    return NbdClient.connect(server.nbd_path, export)


def fails(errno, call, *args):
    with pytest.raises(NbdError) as info:
        call(*args)
    assert info.value.errno == errno, info.value


# Opening

def test_reads_and_writes(server, far):
    add_nbd(server, far.nbd_path, discard='unmap')
    assert server.nodes()['n']['image']['virtual-size'] == SIZE
    nbd = near(server)
    assert nbd.read(0, 8) == b'\1' * 8
    assert nbd.read(MIB - 4, 8) == b'\0' * 4 + b'\2' * 4
    nbd.write(3, b'hello')
    nbd.write(2 * MIB, b'z' * 70000)
    nbd.flush()
    nbd.write_zeroes(0, 1)
    nbd.trim(MIB, 65536)
    there = NbdClient.connect(far.nbd_path, 'disk')
    assert there.read(0, 8) == b'\0\1\1hello'
    assert there.read(2 * MIB, 70001) == b'z' * 70000 + b'\0'
    assert there.read(MIB, 65537) == b'\0' * 65536 + b'\2'
    there.disconnect()
    nbd.disconnect()


def test_block_status(server, far):
    add_nbd(server, far.nbd_path)
    nbd = near(server)
    there = NbdClient.connect(far.nbd_path, 'disk')
    assert nbd.whole_status() == there.whole_status()
    nbd.disconnect()
    there.disconnect()


@pytest.mark.parametrize('options, name', [
    ({'export': 'disk'}, 'nbd+unix:///disk?socket={path}'),
    ({}, 'nbd+unix://?socket={path}'),
    ({'export': ''}, 'nbd+unix:///?socket={path}')])
def test_unix_file_names(server, far, options, name):
    if not options.get('export'):
        far.qmp('block-export-add', {
            'type': 'nbd', 'id': 'none', 'node-name': 'disk', 'name': '',
            'writable': True})
    server.qmp('blockdev-add', dict(
        {'driver': 'nbd', 'node-name': 'n', 'server': unix(far.nbd_path)},
        **options))
    node = server.nodes()['n']
    assert node['file'] == name.format(path=far.nbd_path)
    assert node['image']['filename'] == node['file']


@pytest.fixture
def tcp(start_server):
    """A server on TCP with export 'e'; its port."""
    other = start_server()
    port = str(other.setup.free_port())
    other.qmp('nbd-server-start', addr={
        'type': 'inet', 'data': {'host': '127.0.0.1', 'port': port}})
    other.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'x',
                               'size': MIB})
    other.qmp('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'x',
                                   'name': 'e', 'writable': True})
    return port


def test_inet_file_names(server, tcp):
    def name(**more):
        server.qmp('blockdev-add', {
            'driver': 'nbd', 'node-name': 'n', 'export': 'e',
            'server': dict({'type': 'inet', 'host': '127.0.0.1',
                            'port': tcp}, **more)})
        text = server.nodes()['n']['file']
        server.qmp('blockdev-del', node_name='n')
        return text

    plain = f'nbd://127.0.0.1:{tcp}/e'
    assert name() == plain
    assert name(numeric=True) == plain
    text = name(ipv4=True)
    assert text.startswith('json:')
    flat = json.loads(text[5:])
    assert flat['driver'] == 'nbd' and flat['export'] == 'e'
    assert flat.get('server.ipv4', flat.get('server', {}).get('ipv4')) is True
    assert name(ipv6=False).startswith('json:')


def test_backing_file_by_name(server, far, images):
    """A header that names an export."""
    name = f'nbd+unix:///disk?socket={far.nbd_path}'
    path = images.path('top.qcow2')
    qemu_img('create', '-u', '-f', 'qcow2', '-b', name, '-F', 'raw', path,
             str(SIZE))
    server.add_node('top', path)
    info = server.nodes()['top']
    assert info['backing_file'] == name
    assert info['file'] == path
    nbd = near(server, 'top', 'top')
    assert nbd.read(MIB, 4) == b'\2' * 4
    nbd.write(MIB, b'new')
    assert nbd.read(MIB, 4) == b'new\2'
    nbd.disconnect()
    server.unexport('top', 'hard')
    server.qmp('blockdev-del', node_name='top')


@pytest.mark.ours('QEMU has no nbds: and says other things')
@pytest.mark.parametrize('name, desc', [
    ('nbd://', "'nbd://' needs a host and no socket"),
    ('nbd+unix:///x', "'nbd+unix:///x' needs '?socket=PATH' and no host"),
    ('nbd://h/x?socket=p', "'nbd://h/x?socket=p' needs a host and no socket"),
    ('nbds://h/x', "'nbds://h/x' needs '?tls-creds=ID'"),
    ('nbd://h/x?tls-creds=a',
     "'nbd://h/x?tls-creds=a' has parameters of TLS but not its scheme"),
    ('nbd://h/x?what=1', "'nbd://h/x?what=1': unknown parameter 'what'"),
    ('nbd:h', "'nbd:h' has no port"),
    ('nbd://h:99999/x', "'nbd://h:99999/x' is not a valid URI")])
def test_bad_file_names(server, images, name, desc):
    server.add_node('src', images.create('s.qcow2', MIB))
    server.fails('drive-backup', device='src', target=name, sync='full',
                 mode='existing', format='raw', job_id='j', desc=desc)


def test_open_errors(server, far, images):
    def fail(desc, **options):
        server.fails('blockdev-add', dict(
            {'driver': 'nbd', 'node-name': 'n', 'server': unix(far.nbd_path)},
            **options), desc=desc)

    fail('Requested export not available', export='nope')
    fail('export name too long to send to server', export='x' * 4097)
    fail('x-dirty-bitmap query too long to send to server',
         **{'export': 'disk', 'x-dirty-bitmap': 'x' * 4097})
    fail("No TLS credentials with id 'foo'",
         **{'export': 'disk', 'tls-creds': 'foo'})
    fail("Failed to connect to 'nosuch': No such file or directory",
         server=unix('nosuch'))
    fail("Failed to connect to '127.0.0.1:1': Connection refused",
         server={'type': 'inet', 'host': '127.0.0.1', 'port': '1'})
    far.export('disk', 'ro', writable=False)
    fail('Could not open image: Permission denied', export='ro')
    add_nbd(server, far.nbd_path, export='ro', read_only=True)
    add_nbd(server, far.nbd_path, 'n2', 'ro', auto_read_only=True)
    assert server.nodes()['n']['ro'] and server.nodes()['n2']['ro']


@pytest.mark.ours('QEMU takes a number only without a monitor')
def test_inherited_descriptor(start_server, far):
    """fd: the connection was made by who started the server."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(far.nbd_path)
    server = start_server(machine=True, pass_fds=(sock.fileno(),))
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'n', 'export': 'disk',
        'server': {'type': 'fd', 'str': str(sock.fileno())}})
    assert server.nodes()['n']['file'].startswith('json:')
    server.stop()
    sock.close()


def test_dirty_bitmap_context(server, far):
    """x-dirty-bitmap shows another context in place of base:allocation."""
    far.qmp('block-dirty-bitmap-add', node='disk', name='b')
    nbd = NbdClient.connect(far.nbd_path, 'disk')
    nbd.write(MIB, b'x' * 65536)
    nbd.disconnect()
    far.qmp('block-dirty-bitmap-disable', node='disk', name='b')
    far.export('disk', 'with', writable=False, bitmaps=['b'])
    add_nbd(server, far.nbd_path, export='with', read_only=True,
            x_dirty_bitmap='qemu:dirty-bitmap:b')
    nbd = near(server, writable=False)
    assert nbd.whole_status() == [[0, MIB, 0], [MIB, 65536, 1],
                                  [MIB + 65536, SIZE - MIB - 65536, 0]]
    nbd.disconnect()


def test_reopen(server, far):
    add_nbd(server, far.nbd_path)
    options = {'driver': 'nbd', 'node-name': 'n', 'export': 'disk',
               'server': unix(far.nbd_path)}
    server.qmp('blockdev-reopen', options=[dict(options, **{
        'read-only': True})])
    assert server.nodes()['n']['ro']
    server.qmp('blockdev-reopen', options=[options])
    server.fails('blockdev-reopen',
                 options=[dict(options, export='other')],
                 desc="Cannot change the option 'export'")


def test_does_not_grow(server, far):
    add_nbd(server, far.nbd_path)
    server.fails('block_resize', node_name='n', size=2 * SIZE,
                 desc='Cannot grow NBD nodes')


# Backups

def test_backup_to_and_from(server, far, images, guest_on):
    """From one export to another, while a guest writes."""
    path = images.create('dst.qcow2', SIZE)
    far.add_node('dst', path)
    far.export('dst')
    add_nbd(server, far.nbd_path, 'src', 'disk')
    add_nbd(server, far.nbd_path, 'dst', 'dst')
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(30)
    guest.pause()
    frozen = guest.freeze()
    job = start_backup(server, 'src', 'dst')
    guest.resume()
    guest.random_writes(60)
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    far.unexport('dst', 'hard')
    far.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(path), frozen)


def test_drive_backup_to_a_name(server, far, images, guest_on):
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(30)
    guest.pause()
    server.qmp('drive-backup', device='src', job_id='j', sync='full',
               target=f'nbd+unix:///disk?socket={far.nbd_path}',
               mode='existing', format='raw')
    Job(server, 'j').finish()
    there = NbdClient.connect(far.nbd_path, 'disk')
    same_bytes(b''.join(there.read(at, MIB) for at in range(0, SIZE, MIB)),
               guest.freeze())
    there.disconnect()
    guest.resume()


@pytest.mark.ours('QEMU 7.2 hangs')
@pytest.mark.parametrize('where', ['target', 'guest'])
def test_chain_within_one_server(server, images, guest_on, where):
    """A node that is an export of the same process, below an export and
    below a job: nobody waits for himself, drains included."""
    base = images.create('base.qcow2', SIZE)
    images.io(base, f'write -P 7 0 {SIZE}')
    server.add_node('base', base)
    server.export('base', 'base', writable=True)
    add_nbd(server, server.nbd_path, 'client', 'base')
    top = images.create('top.qcow2', SIZE)
    if where == 'guest':
        server.add_node('top', top, backing='client')
        server.export('top')
        guest = guest_on(server, 'top')
        guest.random_writes(50)
        server.add_node('dst', images.create('dst.qcow2', SIZE))
        start_backup(server, 'top', 'dst').finish()
        guest.verify()
        server.unexport('top', 'hard')
        server.qmp('blockdev-del', node_name='top')
    else:
        server.add_node('src', top)
        server.export('src')
        guest = guest_on(server, 'src')
        guest.random_writes(50)
        start_backup(server, 'src', 'client').finish()
        reader = NbdClient.connect(server.nbd_path, 'base')
        same_bytes(b''.join(reader.read(at, MIB)
                            for at in range(0, SIZE, MIB)), guest.freeze())
        reader.disconnect()
        images.ignore(base)
    server.qmp('blockdev-del', node_name='client')


# Lost connections

def in_thread(call, *args):
    result = []

    def run():
        try:
            result.append(call(*args))
        except (NbdError, NbdClosed) as exc:
            result.append(exc)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.result = result
    return thread


@pytest.mark.ours("QEMU's server hangs up after EIO")
def test_lost_without_delay(server, fake):
    """Requests fail; the server is back, and so is the node."""
    add_nbd(server, fake.path)
    nbd = near(server)
    nbd.write(0, b'abc')
    fake.go_away()
    fails(5, nbd.read, 0, 3)
    fails(5, nbd.read, 0, 3)
    fake.listen()
    deadline = time.monotonic() + 10 * SCALE
    while time.monotonic() < deadline:
        try:
            assert nbd.read(0, 3) == b'abc'
            break
        except NbdError:
            time.sleep(0.05)
    else:
        pytest.fail('it does not connect again')
    nbd.disconnect()


def test_lost_with_delay(server, fake):
    """Requests wait through an outage and are made again."""
    add_nbd(server, fake.path, reconnect_delay=20)
    nbd = near(server)
    nbd.write(0, b'abc')
    fake.go_away()
    waits = in_thread(nbd.read, 0, 3)
    time.sleep(0.5)
    assert waits.is_alive()
    fake.listen()
    waits.join(15 * SCALE)
    assert waits.result == [b'abc']
    nbd.write(1, b'B')
    assert bytes(fake.disk[:3]) == b'aBc'
    nbd.disconnect()


@pytest.mark.ours("QEMU's server hangs up after EIO")
def test_delay_ends(server, fake):
    add_nbd(server, fake.path, reconnect_delay=1)
    nbd = near(server)
    fake.go_away()
    start = time.monotonic()
    fails(5, nbd.read, 0, 3)
    assert 0.8 < time.monotonic() - start < 5 * SCALE
    start = time.monotonic()
    fails(5, nbd.read, 0, 3)        # from now on at once
    assert time.monotonic() - start < 0.8 * SCALE
    nbd.disconnect()


def test_open_timeout(server, fake):
    fake.go_away()
    threading.Timer(0.7, fake.listen).start()
    add_nbd(server, fake.path, open_timeout=10)
    assert 'n' in server.nodes()


def test_another_size_is_not_the_same_export(server, fake):
    add_nbd(server, fake.path, reconnect_delay=1)
    nbd = near(server)
    assert nbd.read(0, 1) == b'\0'
    fake.go_away()
    fake.size *= 2
    fake.listen()
    if server.is_qemu:
        return      # uses it
    fails(5, nbd.read, 0, 3)
    fake.go_away()
    fake.size //= 2
    fake.listen()
    time.sleep(0.1)
    for _ in range(50):
        try:
            nbd.read(0, 1)
            break
        except NbdError:
            time.sleep(0.1)
    else:
        pytest.fail('it does not connect again')
    nbd.disconnect()


# Cancel and quit: nobody waits for who does not answer

def hang_on_write(kind, offset, length):
    return 'hang' if kind == CMD_WRITE else 'ok'


@pytest.mark.ours('QEMU waits for a server that is connected but silent')
@pytest.mark.parametrize('how', ['silent', 'gone'])
def test_forced_cancel_is_prompt(server, fake, images, how):
    fake.size = 16 * MIB
    fake.disk = bytearray(fake.size)
    add_nbd(server, fake.path, reconnect_delay=100)
    path = images.create('s.qcow2', 16 * MIB)
    images.io(path, f'write -P 3 0 {16 * MIB}')
    server.add_node('src', path)
    if how == 'silent':
        fake.behave = hang_on_write
    job = start_backup(server, 'src', 'n', speed=65536)
    job.wait('running')
    if how == 'gone':
        time.sleep(0.3)
        fake.go_away()
    time.sleep(0.5)
    start = time.monotonic()
    server.qmp('block-job-cancel', device=job.id, force=True)
    job.wait('BLOCK_JOB_CANCELLED')
    assert time.monotonic() - start < 5 * SCALE
    job.wait('concluded')
    job.dismiss()
    start = time.monotonic()
    server.qmp('blockdev-del', node_name='n')
    assert time.monotonic() - start < 5 * SCALE


@pytest.mark.ours('QEMU waits for a server that is connected but silent')
def test_quit_is_prompt(server, fake, images):
    """With a guest's request that the far server never answers."""
    add_nbd(server, fake.path, reconnect_delay=100)
    nbd = near(server)
    fake.behave = lambda kind, offset, length: 'hang'
    waits = in_thread(nbd.read, 0, 512)
    time.sleep(0.3)
    start = time.monotonic()
    server.quit()
    assert time.monotonic() - start < 6 * SCALE
    nbd.close()
    waits.join(5)


@pytest.mark.ours('QEMU waits')
def test_queries_go_on(server, fake):
    """A hung far server holds up its requests and nothing else."""
    add_nbd(server, fake.path)
    nbd = near(server)
    fake.behave = lambda kind, offset, length: 'hang'
    in_thread(nbd.read, 0, 512)
    time.sleep(0.2)
    assert 'n' in server.nodes()
    start = time.monotonic()
    server.qmp('nbd-server-stop')
    assert time.monotonic() - start < 4 * SCALE
    fake.go_away()
    server.wait_event('BLOCK_EXPORT_DELETED')
    nbd.close()


# A server that lies

@pytest.mark.parametrize('greet', ['drop', 'garbage', 'hang'])
@pytest.mark.ours('QEMU waits for ever for a greeting')
@pytest.mark.timeout(40)
def test_bad_greeting(server, fake, greet):
    fake.greet = greet
    error = server.fails('blockdev-add', {
        'driver': 'nbd', 'node-name': 'n', 'server': unix(fake.path)})
    text = error.desc if hasattr(error, 'desc') else str(error)
    assert 'NBD server' in text
    assert 'n' not in server.nodes()


@pytest.mark.ours('what libnbd and we make of it')
@pytest.mark.parametrize('structured', [True, False])
@pytest.mark.parametrize('how', ['drop', 'garbage', 'half', 'cookie', 'short',
                                 'long', 'elsewhere', 28])
def test_bad_replies(server, fake, how, structured):
    """An error each time, never other data, and the next request works."""
    fake.structured = structured
    fake.disk[:] = b'\5' * len(fake.disk)
    if not structured and how in ('short', 'long', 'elsewhere'):
        pytest.skip('a simple reply has no length')
    add_nbd(server, fake.path)
    nbd = near(server)
    assert nbd.read(0, 4096) == b'\5' * 4096
    fake.behave = lambda kind, offset, length: \
        how if kind == CMD_READ else 'ok'
    fails(28 if how == 28 else 5, nbd.read, 0, 65536)
    fake.behave = lambda kind, offset, length: 'ok'
    for _ in range(100):
        try:
            assert nbd.read(0, 65536) == b'\5' * 65536
            break
        except NbdError:
            time.sleep(0.05)
    else:
        pytest.fail('it does not recover')
    nbd.disconnect()


@pytest.mark.ours('what we make of it')
def test_bad_extents(server, fake):
    """Too long is cut, empty and zero-length are errors."""
    fake.extents = [(65536, 0)]
    add_nbd(server, fake.path)
    nbd = near(server)
    fake.extents = lambda offset, length: [(1 << 31, 3)]
    assert nbd.block_status(0, MIB) == [(MIB, 3)]
    for bad in ([(0, 0)], []):
        fake.extents = lambda offset, length, bad=bad: bad
        fails(5, nbd.block_status, 0, MIB)
        for _ in range(100):
            fake.extents = lambda offset, length: [(length, 0)]
            try:
                assert nbd.block_status(0, MIB) == [(MIB, 0)]
                break
            except NbdError:
                time.sleep(0.05)
    nbd.disconnect()


@pytest.mark.ours('what we make of it')
@pytest.mark.parametrize('size, sizes', [
    (MIB + 512, (4096, 4096, MIB)), (1 << 63, None), ((1 << 63) - 1, None)])
def test_impossible_exports(server, fake, size, sizes):
    fake.size = size
    fake.sizes = sizes
    server.fails('blockdev-add', {
        'driver': 'nbd', 'node-name': 'n', 'server': unix(fake.path)})
    assert 'n' not in server.nodes()


def test_block_sizes_are_obeyed(server, fake):
    """Requests are as long as the server takes them, and aligned."""
    fake.sizes = (4096, 65536, 131072)
    add_nbd(server, fake.path)
    nbd = near(server)
    nbd.write(100, b'abc')
    nbd.write(10000, b'x' * 500000)
    assert nbd.read(99, 5) == b'\0abc\0'
    assert nbd.read(9999, 500002) == b'\0' + b'x' * 500000 + b'\0'
    nbd.disconnect()
    data = [r for r in fake.requests if r[0] in (CMD_READ, CMD_WRITE)]
    assert all(offset % 4096 == 0 and length % 4096 == 0 and
               length <= 131072 for _, offset, length, _ in data), data


def test_without_features(server, fake):
    """No flush, trim, zeroes, structured replies: still a disk."""
    fake.flags = 1
    fake.structured = False
    add_nbd(server, fake.path, discard='unmap')
    nbd = near(server)
    nbd.write(0, b'abc' * 1000)
    nbd.write_zeroes(3, 2990)
    nbd.flush()
    nbd.trim(0, 65536)
    assert nbd.read(0, 6) == b'abc\0\0\0'
    nbd.disconnect()
    assert {r[0] for r in fake.requests} <= {CMD_READ, CMD_WRITE}


def test_many_connections_are_used(server, far):
    """multi-conn: parallel requests find more than one connection."""
    add_nbd(server, far.nbd_path)
    nbd = near(server)
    threads = []
    for i in range(8):
        client = NbdClient.connect(server.nbd_path, 'n')
        threads.append(in_thread(lambda c=client, at=i: [
            (c.write(at * 65536, bytes([at]) * 65536),
             c.read(at * 65536, 65536)) for _ in range(30)][-1][1]))
    for i, thread in enumerate(threads):
        thread.join(20 * SCALE)
        assert thread.result == [bytes([i]) * 65536]
    nbd.disconnect()
