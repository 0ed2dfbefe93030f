# SPDX-License-Identifier: MIT
"""Image locks: processes refuse what they would do to each other.

QEMU's tools hold OFD locks on bytes 100+ and 200+ of an image; whoever
opens an image must take and honour them.
"""

import fcntl
import os
import struct
import subprocess

import pytest

from .images import run_tool
from .qmp import QmpError

WRITE_LOCKED = 'Failed to get "write" lock'
SHARED_LOCKED = 'Failed to get shared "write" lock'

F_OFD_GETLK = 36


def file_of(path, **options):
    return dict({'driver': 'file', 'filename': path}, **options)


@pytest.fixture
def path(images):
    return images.create('a.qcow2', '1M')


def io_says(images, path, *commands, options=()):
    return images.io(path, *commands, check=False, options=options)


def locked_bytes(path):
    """The bytes that somebody holds a lock on, says the kernel."""
    held = set()
    with open(path, 'r+b') as probe:
        for byte in range(96, 212):
            lock = struct.pack('hhqqi', fcntl.F_WRLCK, os.SEEK_SET, byte, 1,
                               0)
            answer = fcntl.fcntl(probe.fileno(), F_OFD_GETLK, lock)
            if struct.unpack('hhqqi', answer)[0] != fcntl.F_UNLCK:
                held.add(byte)
    return held


def test_tools_cannot_write_what_we_write(server, images, path):
    server.add_node('n', path)
    text = io_says(images, path, 'write 0 512')
    assert WRITE_LOCKED in text and 'Is another process using the image' \
        in text
    text = io_says(images, path, 'read 0 512', options=('-r',))
    assert SHARED_LOCKED in text
    code, text = run_tool('qemu-img', 'resize', path, '2M', check=False)
    assert code and WRITE_LOCKED in text
    code, text = run_tool('qemu-img', 'info', path, check=False)
    assert code and SHARED_LOCKED in text
    assert images.info(path, '-U')['virtual-size'] == 1 << 20
    server.qmp('blockdev-del', node_name='n')
    images.io(path, 'write 0 512')


def test_tools_can_read_what_we_read(server, images, path):
    server.add_node('n', path, read_only=True)
    images.io(path, 'read 0 512', options=('-r',))
    text = io_says(images, path, 'write 0 512')
    assert WRITE_LOCKED in text
    images.info(path)


def test_two_servers_write(server, start_server, path):
    server.add_node('n', path)
    other = start_server()
    with pytest.raises(QmpError) as info:
        other.add_node('n', path)
    assert info.value.desc == WRITE_LOCKED
    with pytest.raises(QmpError) as info:
        other.add_node('n', path, read_only=True)
    assert info.value.desc == SHARED_LOCKED
    server.qmp('blockdev-del', node_name='n')
    other.add_node('n', path)
    with pytest.raises(QmpError):
        server.add_node('n', path)


def test_two_servers_read(server, start_server, path):
    server.add_node('n', path, read_only=True)
    other = start_server()
    other.add_node('n', path, read_only=True)
    with pytest.raises(QmpError) as info:
        other.add_node('w', path)
    assert info.value.desc in (WRITE_LOCKED, SHARED_LOCKED)


def test_same_server_twice(server, path):
    """Two nodes of one process on one file conflict like two processes."""
    server.add_node('n', path)
    with pytest.raises(QmpError) as info:
        server.add_node('m', path)
    assert info.value.desc == WRITE_LOCKED
    server.qmp('blockdev-del', node_name='n')
    server.add_node('n', path, read_only=True)
    server.add_node('m', path, read_only=True)


def test_file_node_alone_locks_nothing(server, images, path):
    """Permissions are locked when somebody uses the node."""
    server.add_file('f', path)
    images.io(path, 'write 0 512')
    server.qmp('blockdev-add', driver='qcow2', node_name='q', file='f')
    assert WRITE_LOCKED in io_says(images, path, 'write 0 512')
    server.qmp('blockdev-del', node_name='q')
    images.io(path, 'write 0 512')


def test_lock_taken_when_used(server, images):
    """A raw image is locked for the time of its export."""
    raw = images.write_raw('r.img', bytes(65536))
    server.add_node('r', raw, 'raw')
    assert locked_bytes(raw) == set()
    server.export('r')
    assert locked_bytes(raw) == {100, 101, 203}
    server.unexport('r')
    assert locked_bytes(raw) == set()
    server.export('r', writable=False)
    assert locked_bytes(raw) == {100, 203}


def test_backing_file_is_shared_for_reading(server, start_server, images,
                                            path):
    """Two overlays of one base in two processes; nobody may write it."""
    first = images.create('first.qcow2', '1M', backing=path)
    second = images.create('second.qcow2', '1M', backing=path)
    server.add_node('n', first)
    other = start_server()
    other.add_node('n', second)
    assert WRITE_LOCKED in io_says(images, path, 'write 0 512')


def test_we_respect_a_tool(server, images, path):
    """A qemu-io that sleeps on the image keeps us off it."""
    with subprocess.Popen(
            ['qemu-io', '-f', 'qcow2', path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as tool:
        tool.stdin.write(b'write 0 512\n')
        tool.stdin.flush()
        while b'ops' not in tool.stdout.readline():
            pass
        server.fails('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'file': file_of(path)},
            WRITE_LOCKED)
        server.fails('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'read-only': True,
            'file': file_of(path)}, SHARED_LOCKED)
        server.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'u', 'read-only': True,
            'force-share': True,
            'file': file_of(path, **{'force-share': True,
                                     'read-only': True})})
        tool.communicate(b'quit\n', timeout=10)
    server.qmp('blockdev-del', node_name='u')
    server.add_node('n', path)


def test_force_share_is_read_only(server, path):
    server.fails('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'u', 'force-share': True,
        'file': file_of(path)},
        'force-share=on can only be used with read-only images')


def test_locking_off(server, images, path):
    server.add_node('n', path, locking='off', read_only=True)
    images.io(path, 'write 0 512')


def test_locks_gone_after_kill(start_server, images, path):
    server = start_server()
    server.add_node('n', path)
    server.kill()
    images.io(path, 'write 0 512')


def test_locked_bytes(server, path):
    """The very bytes: consistent read, write and resize are held, write
    and resize not shared."""
    server.add_node('n', path)
    server.export('n')
    assert locked_bytes(path) == {100, 101, 103, 201, 203}
