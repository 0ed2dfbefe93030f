# SPDX-License-Identifier: MIT
"""Options that change how data gets to the disk, not what is on it."""

import os

import pytest

from .images import same_bytes
from .jobs import start_backup
from .nbd import NbdClient
from .qmp import QmpError

MIB = 1 << 20


def file_of(path, **options):
    return dict({'driver': 'file', 'filename': path}, **options)


@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
@pytest.mark.parametrize('cache', [
    {'direct': True}, {'no-flush': True},
    {'direct': True, 'no-flush': True}], ids=str)
def test_cache_modes(server, images, guest_on, fmt, cache):
    """O_DIRECT too, with requests of any alignment."""
    path = images.create('a.img', '4M', fmt)
    try:
        server.qmp('blockdev-add', {
            'driver': fmt, 'node-name': 'n', 'cache': cache,
            'file': file_of(path, cache=cache)})
    except QmpError as exc:
        if 'O_DIRECT' in exc.desc:
            pytest.skip(exc.desc)
        raise
    shown = server.nodes()['n']['cache']
    assert shown['direct'] is cache.get('direct', False)
    assert shown['no-flush'] is cache.get('no-flush', False)
    server.export('n')
    guest = guest_on(server, 'n', unit=1, max_bytes=70000)
    guest.write(0, b'aligned' * 512)
    guest.write(1, b'odd')
    guest.write(MIB - 1, b'x' * 513)
    guest.random_writes(60)
    guest.flush()
    guest.verify()
    guest.close()
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_pr_manager(server, images):
    """No such object: refused, before the file is looked at."""
    for path in (images.write_raw('f', bytes(512)), '/nonexistent/x'):
        server.fails('blockdev-add', dict(
            file_of(path, **{'pr-manager': 'x'}), **{'node-name': 'n'}),
            "No persistent reservation manager with id 'x'")


def blocks_of(path):
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize('mode', ['off', 'on', 'unmap'])
def test_detect_zeroes(server, images, guest_on, mode):
    """Zeroes written as data become holes or zero clusters."""
    path = images.create('a.qcow2', '8M')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap',
        'detect-zeroes': mode, 'file': file_of(path, discard='unmap')})
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(0, 4 * MIB, 0)
    assert not any(guest.read_all())
    guest.fill(0, MIB, 7)
    guest.fill(0, MIB, 0)
    guest.verify()
    guest.close()
    server.stop()
    data = sum(e['length'] for e in images.map(path) if e['data'])
    if mode == 'off':
        assert data >= 4 * MIB
    else:
        assert data == 0


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_discard_gives_room_back(server, images, guest_on, fmt):
    path = images.create('a.img', '16M', fmt)
    images.io(path, 'write -P 1 0 16M')
    before = blocks_of(path)
    server.qmp('blockdev-add', {
        'driver': fmt, 'node-name': 'n', 'discard': 'unmap',
        'file': file_of(path, discard='unmap')})
    server.export('n')
    guest = guest_on(server, 'n')
    guest.trim(MIB, 8 * MIB)
    guest.close()
    server.stop()
    if blocks_of(path) == before and server.is_qemu:
        pytest.skip('this file system does not punch holes')
    assert blocks_of(path) <= before - 8 * MIB + 65536
    assert images.content(path)[MIB:9 * MIB] == bytes(8 * MIB)


def test_discard_ignored(server, images, guest_on):
    """Without discard=unmap a trim does nothing."""
    path = images.create('a.qcow2', '4M')
    images.io(path, 'write -P 1 0 4M')
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.trim(MIB, MIB)
    assert guest.read_all() == b'\1' * 4 * MIB


def test_raw_window(server, images, guest_on):
    """offset and size of raw: a window into the file, and no way out."""
    path = images.write_raw('a.raw', b'.' * 65536)
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'w', 'offset': 1024, 'size': 4096,
        'file': file_of(path)})
    server.export('w')
    guest = guest_on(server, 'w')
    assert guest.size == 4096
    guest.write(0, b'x' * 4096)
    guest.close()
    server.stop()
    content = open(path, 'rb').read()
    assert content == b'.' * 1024 + b'x' * 4096 + b'.' * (65536 - 5120)


@pytest.mark.parametrize('perf', [
    {'max-workers': 1}, {'max-workers': 64}, {'max-chunk': 65536},
    {'max-chunk': 4 * MIB}, {'use-copy-range': True},
    {'use-copy-range': True, 'max-workers': 1, 'max-chunk': 131072}],
    ids=str)
def test_backup_tuning(server, images, guest_on, perf):
    server.add_node('src', images.create('src.qcow2', '8M'))
    server.add_node('dst', images.create('dst.qcow2', '8M'))
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(50)
    frozen = guest.freeze()
    job = start_backup(server, 'src', 'dst', speed=MIB, x_perf=perf)
    guest.random_writes(50)
    job.let_run()
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(images.path('dst.qcow2')), frozen)


def test_symbolic_and_hard_links(server, images):
    """Two names of one file are one file: locks tell."""
    path = images.create('a.qcow2', '1M')
    os.symlink(path, images.path('soft'))
    os.link(path, images.path('hard'))
    server.add_node('n', path)
    for name in ('soft', 'hard'):
        server.fails('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'm',
            'file': file_of(images.path(name))},
            'Failed to get "write" lock')


def test_flush_reaches_every_layer(server, images, guest_on):
    """FLUSH and FUA are durable as far as kill -9 can tell."""
    path = images.create('a.qcow2', '4M', cluster_size=4096)
    images.allow_leaks(path)
    server.add_node('n', path)
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    nbd.write(0, b'a' * 100000)
    nbd.flush()
    nbd.write(MIB, b'b' * 100000, 1)
    server.kill()
    content = images.content(path)
    assert content[:100000] == b'a' * 100000
    assert content[MIB:MIB + 100000] == b'b' * 100000
