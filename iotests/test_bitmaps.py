# SPDX-License-Identifier: MIT
"""Dirty bitmaps: their life, their stored form, their use in backups."""

import hashlib
import signal
import struct

import pytest

from .images import qemu_img, run_tool, same_bytes
from .jobs import start_backup
from .nbd import NbdClient, NbdError
from .qcow2 import Qcow2File
from .qmp import QmpError

MIB = 1 << 20
SIZE = 16 * MIB
CHUNK = 65536


@pytest.fixture
def disk(server, images, guest_on):
    """A qcow2 node 'n' of 16 MiB in the server, and a guest at it."""
    server.disk_path = images.create('a.qcow2', SIZE)
    server.add_node('n', server.disk_path)
    server.export('n')
    server.guest = guest_on(server, 'n')
    return server


def add(server, name='b', node='n', **options):
    server.qmp('block-dirty-bitmap-add', dict(
        {'node': node, 'name': name},
        **{k.replace('_', '-'): v for k, v in options.items()}))


def bitmaps(server, node='n'):
    """{name: entry}, in the server's order."""
    return {b.get('name'): b for b in
            server.nodes()[node].get('dirty-bitmaps', [])}


def count(server, name='b', node='n'):
    return bitmaps(server, node)[name]['count']


def sha256(server, name='b', node='n'):
    return server.qmp('x-debug-block-dirty-bitmap-sha256', node=node,
                      name=name)['sha256']


def reopen_server(server, start_server):
    """Stop, and start another on the same image."""
    server.stop()
    other = start_server()
    other.add_node('n', server.disk_path)
    return other


# Add, show, remove

def test_entry(disk):
    add(disk)
    assert bitmaps(disk) == {'b': {
        'name': 'b', 'recording': True, 'persistent': False, 'busy': False,
        'granularity': 65536, 'count': 0}}
    disk.guest.write(100, b'x')
    assert count(disk) == CHUNK
    add(disk, 'd', disabled=True, persistent=True, granularity=512)
    disk.guest.write(MIB, b'x' * 513)
    assert bitmaps(disk)['d'] == {
        'name': 'd', 'recording': False, 'persistent': True, 'busy': False,
        'granularity': 512, 'count': 0}
    assert list(bitmaps(disk)) == ['d', 'b']
    disk.qmp('block-dirty-bitmap-remove', node='n', name='b')
    assert list(bitmaps(disk)) == ['d']
    disk.qmp('block-dirty-bitmap-remove', node='n', name='d')
    assert 'dirty-bitmaps' not in disk.nodes()['n']


@pytest.mark.parametrize('cluster,granularity', [
    (512, 4096), (4096, 4096), (32768, 32768), (65536, 65536),
    (2 * MIB, 65536)])
def test_default_granularity(server, images, cluster, granularity):
    """The cluster size, but 4 KiB at least and 64 KiB at most."""
    server.add_node('n', images.create('a.qcow2', MIB, cluster_size=cluster))
    add(server)
    assert bitmaps(server)['b']['granularity'] == granularity
    server.qmp('blockdev-add', driver='null-co', node_name='z', size=MIB)
    add(server, node='z')
    assert bitmaps(server, 'z')['b']['granularity'] == 65536


@pytest.mark.parametrize('granularity', [0, 1, 256, 511, 513, 65537,
                                         2**32 - 1])
def test_bad_granularity(disk, granularity):
    disk.fails('block-dirty-bitmap-add', {
        'node': 'n', 'name': 'b', 'granularity': granularity},
        'Granularity must be power of 2 and at least 512')
    assert not bitmaps(disk)


@pytest.mark.parametrize('granularity', [512, 1024, 1 << 20, 1 << 31])
def test_good_granularity(disk, granularity):
    add(disk, granularity=granularity)
    disk.guest.write(0, b'x')
    assert count(disk) == min(granularity, SIZE) or \
        count(disk) == granularity


def test_names(disk):
    disk.fails('block-dirty-bitmap-add', {'node': 'n', 'name': ''},
               'Bitmap name cannot be empty')
    disk.fails('block-dirty-bitmap-add', {'node': 'n', 'name': 'x' * 1024},
               f"Bitmap name too long: {'x' * 1024}")
    add(disk, 'x' * 1023, persistent=True)
    add(disk, 'a b/c"d\u20ac\\', persistent=True)
    assert set(bitmaps(disk)) == {'x' * 1023, 'a b/c"d\u20ac\\'}
    disk.fails('block-dirty-bitmap-add', {'node': 'n', 'name': 'x' * 1023},
               f"Bitmap already exists: {'x' * 1023}")
    disk.guest.close()
    disk.stop()
    code, text = run_tool('qemu-img', 'info', disk.disk_path, check=False)
    assert code == 0 and 'a b/c' in text


def test_not_found(disk):
    for command in ('remove', 'clear', 'enable', 'disable'):
        disk.fails(f'block-dirty-bitmap-{command}', node='n', name='nope',
                   desc="Dirty bitmap 'nope' not found")
        disk.fails(f'block-dirty-bitmap-{command}', node='x', name='b',
                   desc="Node 'x' not found")
    disk.fails('x-debug-block-dirty-bitmap-sha256', node='n', name='nope',
               desc="Dirty bitmap 'nope' not found")
    add(disk)
    disk.fails('block-dirty-bitmap-merge', {
        'node': 'n', 'target': 'b', 'bitmaps': ['nope']},
        "Dirty bitmap 'nope' not found")
    disk.fails('block-dirty-bitmap-merge', {
        'node': 'n', 'target': 'nope', 'bitmaps': ['b']},
        "Dirty bitmap 'nope' not found")


def test_persistent_needs_qcow2_v3(server, images):
    server.add_node('r', images.write_raw('r', bytes(MIB)), 'raw')
    text = server.fails('block-dirty-bitmap-add', {
        'node': 'r', 'name': 'b', 'persistent': True})
    assert "Can't store persistent bitmaps to r" in text
    server.add_node('v2', images.create('v2.qcow2', MIB, compat='0.10'))
    text = server.fails('block-dirty-bitmap-add', {
        'node': 'v2', 'name': 'b', 'persistent': True})
    assert text == ("Can't make bitmap 'b' persistent in 'v2': Cannot store "
                    "dirty bitmaps in qcow2 v2 files")
    for node in ('r', 'v2'):
        add(server, node=node)
        assert list(bitmaps(server, node)) == ['b']


# What counts as dirty

@pytest.mark.parametrize('discard', ['ignore', 'unmap'])
def test_what_marks(server, images, guest_on, discard):
    """Writes of any kind and discards that are carried out."""
    server.add_node('n', images.create('a.qcow2', SIZE), discard=discard)
    server.export('n')
    guest = guest_on(server, 'n')
    disk = server
    add(disk)
    guest.write(MIB - 1, b'xy')
    assert count(disk) == 2 * CHUNK
    guest.zero(2 * MIB, CHUNK)
    assert count(disk) == 3 * CHUNK
    guest.nbd.trim(4 * MIB, CHUNK)
    assert count(disk) == (4 if discard == 'unmap' else 3) * CHUNK
    guest.write(4 * MIB, b'x')
    guest.nbd.flush()
    guest.nbd.read(8 * MIB, MIB)
    guest.write(MIB, b'same again')
    assert count(disk) == 4 * CHUNK


def test_disable_and_enable(disk):
    guest = disk.guest
    add(disk)
    guest.write(0, b'x')
    disk.qmp('block-dirty-bitmap-disable', node='n', name='b')
    assert bitmaps(disk)['b']['recording'] is False
    guest.write(MIB, b'x')
    assert count(disk) == CHUNK
    disk.qmp('block-dirty-bitmap-enable', node='n', name='b')
    guest.write(2 * MIB, b'x')
    assert count(disk) == 2 * CHUNK
    for verb in ('enable', 'enable', 'disable', 'disable'):
        disk.qmp(f'block-dirty-bitmap-{verb}', node='n', name='b')


def test_clear(disk):
    add(disk)
    disk.guest.random_writes(20)
    assert count(disk) > 0
    disk.qmp('block-dirty-bitmap-clear', node='n', name='b')
    assert count(disk) == 0
    disk.guest.write(0, b'x')
    assert count(disk) == CHUNK


def test_last_chunk_counts_whole(server, images, guest_on):
    """A disk that ends within a chunk."""
    server.add_node('n', images.create('a.qcow2', MIB + 512))
    server.export('n')
    add(server)
    guest_on(server, 'n').write(MIB, b'x' * 512)
    assert count(server) in (CHUNK, 512)


def test_resize(server, images, guest_on):
    """Growing adds clean bits; shrinking cuts; writes beyond the old end
    are tracked."""
    server.add_node('n', images.create('a.qcow2', 4 * MIB))
    add(server, persistent=True)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.write(0, b'x')
    guest.write(4 * MIB - 1, b'x')
    assert count(server) == 2 * CHUNK
    guest.close()
    server.unexport('n')
    server.qmp('block_resize', node_name='n', size=8 * MIB)
    assert count(server) == 2 * CHUNK
    server.export('n')
    guest = guest_on(server, 'n')
    guest.write(8 * MIB - 1, b'x')
    assert count(server) == 3 * CHUNK
    guest.close()
    server.unexport('n')
    server.qmp('block_resize', node_name='n', size=2 * MIB)
    assert count(server) == CHUNK


def test_sha256(disk):
    """Equal bits, equal hash."""
    add(disk)
    add(disk, 'c')
    assert sha256(disk) == sha256(disk, 'c')
    disk.guest.write(5 * MIB, b'x')
    assert sha256(disk) == sha256(disk, 'c')
    disk.qmp('block-dirty-bitmap-clear', node='n', name='c')
    assert sha256(disk) != sha256(disk, 'c')
    disk.qmp('block-dirty-bitmap-clear', node='n', name='b')
    assert sha256(disk) == sha256(disk, 'c')


def test_sha256_known_values(disk):
    """The hash of the serialised bits, as QEMU computes it."""
    add(disk)
    for at in (0, 3, 8, 63, 64, 200, 255):
        disk.guest.write(at * CHUNK, b'x')
    bits = bytearray(SIZE // CHUNK // 8)
    for at in (0, 3, 8, 63, 64, 200, 255):
        bits[at // 8] |= 1 << at % 8
    assert sha256(disk) == hashlib.sha256(bytes(bits)).hexdigest()


# Merge

def test_merge(disk):
    guest = disk.guest
    add(disk, 'a')
    guest.write(0, b'x')
    disk.qmp('block-dirty-bitmap-disable', node='n', name='a')
    add(disk, 'b')
    guest.write(MIB, b'x')
    add(disk, 't', disabled=True)
    disk.qmp('block-dirty-bitmap-merge', node='n', target='t',
             bitmaps=['a', 'b'])
    assert count(disk, 't') == 2 * CHUNK
    assert count(disk, 'a') == count(disk, 'b') == CHUNK
    if not disk.is_qemu:        # 7.2 crashes
        disk.qmp('block-dirty-bitmap-merge', node='n', target='t',
                 bitmaps=[])
    disk.qmp('block-dirty-bitmap-merge', node='n', target='a',
             bitmaps=['a', {'node': 'n', 'name': 'b'}])
    assert count(disk, 'a') == 2 * CHUNK


@pytest.mark.parametrize('fine,coarse', [(512, 65536), (4096, 1 << 20),
                                         (65536, 131072)])
def test_merge_of_other_granularity(disk, fine, coarse):
    guest = disk.guest
    add(disk, 'f', granularity=fine)
    add(disk, 'c', granularity=coarse)
    guest.write(coarse, b'x')
    guest.write(SIZE - 1, b'x')
    add(disk, 'to-coarse', granularity=coarse, disabled=True)
    add(disk, 'to-fine', granularity=fine, disabled=True)
    disk.qmp('block-dirty-bitmap-merge', node='n', target='to-coarse',
             bitmaps=['f'])
    disk.qmp('block-dirty-bitmap-merge', node='n', target='to-fine',
             bitmaps=['c'])
    assert count(disk, 'f') == 2 * fine
    assert count(disk, 'to-coarse') == 2 * coarse
    assert count(disk, 'to-fine') == 2 * coarse


def test_merge_between_nodes(disk, images):
    disk.add_node('m', images.create('b.qcow2', SIZE))
    disk.add_node('small', images.create('c.qcow2', MIB))
    add(disk)
    disk.guest.write(0, b'x')
    add(disk, 't', node='m')
    disk.qmp('block-dirty-bitmap-merge', {
        'node': 'm', 'target': 't', 'bitmaps': [{'node': 'n', 'name': 'b'}]})
    assert count(disk, 't', 'm') == CHUNK
    add(disk, 't', node='small')
    text = disk.fails('block-dirty-bitmap-merge', {
        'node': 'small', 'target': 't',
        'bitmaps': [{'node': 'n', 'name': 'b'}]})
    assert 'size' in text
    assert count(disk, 't', 'small') == 0


def test_failed_merge_changes_nothing(disk):
    """The third source is missing; the first two are not merged."""
    add(disk, 'a')
    disk.guest.write(0, b'x')
    add(disk, 't', disabled=True)
    disk.fails('block-dirty-bitmap-merge', {
        'node': 'n', 'target': 't', 'bitmaps': ['a', 'a', 'nope']})
    assert count(disk, 't') == 0


# The stored form

def test_stored_and_seen_by_qemu_img(disk, images):
    add(disk, 'on', persistent=True)
    add(disk, 'off', persistent=True, disabled=True)
    add(disk, 'fine', persistent=True, granularity=512)
    add(disk, 'not-stored')
    disk.guest.write(0, b'x')
    # A new one is stored when the image is closed at the latest.
    disk.guest.close()
    disk.stop()
    seen = images.bitmaps(disk.disk_path)
    assert seen == {
        'on': {'name': 'on', 'granularity': 65536, 'flags': ['auto']},
        'off': {'name': 'off', 'granularity': 65536, 'flags': []},
        'fine': {'name': 'fine', 'granularity': 512, 'flags': ['auto']}}
    images.check(disk.disk_path)


def test_in_use_while_open(disk, images, start_server):
    """On disk a bitmap is marked in use as long as somebody writes."""
    add(disk, persistent=True)
    disk.guest.close()
    again = reopen_server(disk, start_server)
    seen = images.bitmaps(disk.disk_path, '-U')
    assert set(seen['b']['flags']) in ({'in-use', 'auto'}, {'auto'})
    if again.is_qemu:
        assert 'in-use' in seen['b']['flags']
    again.stop()
    assert images.bitmaps(disk.disk_path)['b']['flags'] == ['auto']


def test_survives_restarts(disk, start_server, guest_on):
    add(disk, 'on', persistent=True)
    add(disk, 'off', persistent=True)
    disk.guest.random_writes(30)
    disk.qmp('block-dirty-bitmap-disable', node='n', name='off')
    disk.guest.write(7 * MIB, b'x' * MIB)
    entries = bitmaps(disk)
    sums = {name: sha256(disk, name) for name in entries}
    server = disk
    for _ in range(3):
        server.guest.close() if hasattr(server, 'guest') else None
        path = server.disk_path
        server = reopen_server(server, start_server)
        server.disk_path = path
        assert bitmaps(server) == entries
        assert {name: sha256(server, name) for name in entries} == sums
    server.export('n')
    guest = guest_on(server, 'n')
    before = count(server, 'on'), count(server, 'off')
    guest.fill(0, SIZE, 3)
    assert count(server, 'on') == SIZE and count(server, 'off') == before[1]


def test_stored_at_each_way_of_closing(images, start_server, guest_on):
    """blockdev-del, quit, SIGTERM, SIGINT."""
    path = images.create('a.qcow2', SIZE)
    n_dirty = 0
    for i, how in enumerate(('del', 'quit', signal.SIGTERM, signal.SIGINT)):
        server = start_server()
        server.add_node('n', path)
        if i == 0:
            add(server, persistent=True)
        assert count(server) == n_dirty * CHUNK
        server.export('n')
        guest_on(server, 'n').write(i * MIB, b'x')
        n_dirty += 1
        if how == 'del':
            server.unexport('n', 'hard')
            server.qmp('blockdev-del', node_name='n')
            assert images.bitmaps(path)['b']['flags'] == ['auto']
        elif how == 'quit':
            server.quit()
        else:
            server.kill(how)
            server.wait_exit()
        server.stop()
    server = start_server()
    server.add_node('n', path)
    assert count(server) == n_dirty * CHUNK


def test_removed_for_good(disk, start_server, images):
    add(disk, 'a', persistent=True)
    add(disk, 'b', persistent=True)
    disk.guest.close()
    server = reopen_server(disk, start_server)
    server.qmp('block-dirty-bitmap-remove', node='n', name='a')
    server.stop()
    assert set(images.bitmaps(disk.disk_path)) == {'b'}
    server = start_server()
    server.add_node('n', disk.disk_path)
    server.qmp('block-dirty-bitmap-remove', node='n', name='b')
    server.stop()
    info = images.info(disk.disk_path)['format-specific']['data']
    assert not info.get('bitmaps')
    assert Qcow2File(disk.disk_path).get('autoclear') == 0
    images.check(disk.disk_path)


def test_many_bitmaps(disk, start_server, images):
    names = [f'bitmap-{i}' for i in range(100)]
    for i, name in enumerate(names):
        add(disk, name, persistent=True, granularity=512 << i % 12)
    disk.guest.random_writes(20)
    entries = bitmaps(disk)
    disk.guest.close()
    server = reopen_server(disk, start_server)
    assert bitmaps(server) == entries
    for name in names[::2]:
        server.qmp('block-dirty-bitmap-remove', node='n', name=name)
    server.stop()
    assert set(images.bitmaps(disk.disk_path)) == set(names[1::2])


def test_made_by_qemu_img(images, start_server, guest_on):
    path = images.create('a.qcow2', SIZE)
    qemu_img('bitmap', '--add', '-g', '32768', path, 'made')
    images.io(path, 'write -P 1 1M 64k')
    server = start_server()
    server.add_node('n', path)
    assert bitmaps(server) == {'made': {
        'name': 'made', 'recording': True, 'persistent': True,
        'busy': False, 'granularity': 32768, 'count': 65536}}
    server.export('n')
    guest_on(server, 'n').write(0, b'x')
    server.unexport('n', 'hard')
    server.stop()
    qemu_img('bitmap', '--disable', path, 'made')
    server = start_server()
    server.add_node('n', path)
    assert bitmaps(server)['made']['recording'] is False
    assert count(server, 'made') == 65536 + 32768


def test_qemu_img_merges_ours(disk, images, start_server):
    """The bits in the file are where QEMU looks for them."""
    add(disk, 'ours', persistent=True, granularity=4096)
    for at in (0, 5 * MIB, SIZE - 4096):
        disk.guest.write(at, b'x' * 4096)
    disk.guest.close()
    disk.stop()
    qemu_img('bitmap', '--add', '-g', '4096', '--merge', 'ours',
             disk.disk_path, 'theirs')
    images.check(disk.disk_path)
    server = start_server()
    server.add_node('n', disk.disk_path)
    assert sha256(server, 'theirs') == sha256(server, 'ours')
    assert count(server, 'theirs') == 3 * 4096


def test_read_only_image(disk, start_server):
    """Loaded, shown, and not to be changed."""
    add(disk, persistent=True)
    disk.guest.write(0, b'x')
    disk.guest.close()
    disk.stop()
    server = start_server()
    server.add_node('n', disk.disk_path, read_only=True)
    assert count(server) == CHUNK
    for command in ('clear', 'remove'):
        server.fails(f'block-dirty-bitmap-{command}', node='n', name='b',
                     desc="Bitmap 'b' is readonly and cannot be modified")
    add(server, 'copy', disabled=True)
    server.qmp('block-dirty-bitmap-merge', node='n', target='copy',
               bitmaps=['b'])
    assert count(server, 'copy') == CHUNK


@pytest.fixture
def crashed(disk, start_server, images):
    """A server with a bitmap 'b' whose last user was killed."""
    add(disk, persistent=True)
    disk.guest.write(0, b'x')
    disk.guest.close()
    path = disk.disk_path
    server = reopen_server(disk, start_server)
    server.kill()
    images.allow_leaks(path)
    server = start_server()
    server.disk_path = path
    server.add_node('n', path)
    return server


def test_inconsistent_after_kill(crashed):
    """Nobody knows what it missed: it can be removed, nothing else."""
    entry = bitmaps(crashed)['b']
    if not crashed.is_qemu and not entry.get('inconsistent'):
        pytest.skip('kept consistent on disk: beyond QEMU')
    assert entry['inconsistent'] is True
    assert entry['busy'] is False
    assert entry['recording'] is False
    assert entry['persistent'] is True
    desc = "Bitmap 'b' is inconsistent and cannot be used"
    for command in ('clear', 'enable', 'disable'):
        text = crashed.fails(f'block-dirty-bitmap-{command}', node='n',
                             name='b')
        assert text.startswith(desc)
    add(crashed, 't')
    assert crashed.fails('block-dirty-bitmap-merge', {
        'node': 'n', 'target': 't', 'bitmaps': ['b']}).startswith(desc)
    crashed.qmp('blockdev-add', driver='null-co', node_name='dst', size=SIZE)
    assert crashed.fails('blockdev-backup', {
        'device': 'n', 'target': 'dst', 'sync': 'incremental',
        'bitmap': 'b', 'job-id': 'j'}).startswith(desc)
    crashed.fails('block-dirty-bitmap-add', {'node': 'n', 'name': 'b'},
                  'Bitmap already exists: b')
    crashed.qmp('block-dirty-bitmap-remove', node='n', name='b')
    add(crashed, persistent=True)


def test_inconsistent_stays_so(crashed, start_server, images):
    """Opening and closing the image does not make it good."""
    if not bitmaps(crashed)['b'].get('inconsistent'):
        pytest.skip('kept consistent on disk: beyond QEMU')
    crashed.stop()
    assert 'in-use' in images.bitmaps(crashed.disk_path)['b']['flags']
    server = start_server()
    server.add_node('n', crashed.disk_path)
    assert bitmaps(server)['b']['inconsistent'] is True


@pytest.mark.parametrize('damage', ['directory', 'table', 'count', 'size'])
def test_damaged_directory(disk, start_server, images, damage):
    """Garbage where bitmaps should be: an error or a lost bitmap, the
    server lives, the disk's data is not touched."""
    add(disk, persistent=True)
    disk.guest.random_writes(10)
    frozen = disk.guest.freeze()
    disk.guest.close()
    disk.stop()
    image = Qcow2File(disk.disk_path)
    at = image.get('header_length')
    while image.read(at, 4) != b'\x23\x85\x28\x75':
        _, length = struct.unpack('>II', image.read(at, 8))
        at += 8 + (length + 7) // 8 * 8
    directory = image.u64(at + 24)
    if damage == 'directory':
        image.set_u64(at + 24, 1 << 45)
    elif damage == 'count':
        image.write(at + 8, struct.pack('>I', 0xffffffff))
    elif damage == 'size':
        image.set_u64(at + 16, 1 << 60)
    else:
        image.set_u64(directory, 1 << 45)
    images.ignore(disk.disk_path)
    server = start_server()
    try:
        server.add_node('n', disk.disk_path)
    except QmpError:
        server.fails('blockdev-del', node_name='n')
    else:
        server.qmp('blockdev-del', node_name='n')
    server.qmp('query-version')
    server.stop()
    image.set(autoclear=0)
    images.formats[disk.disk_path] = 'qcow2'
    same_bytes(images.content(disk.disk_path), frozen)
    images.ignore(disk.disk_path)


# Busy

def test_busy_during_backup(disk, images):
    add(disk)
    disk.guest.write(0, b'x' * MIB)
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(disk, 'n', 'dst', sync='incremental', bitmap='b',
                       speed=CHUNK, auto_finalize=False)
    entry = bitmaps(disk)['b']
    assert entry['busy'] is True and entry['count'] == MIB
    desc = "Bitmap 'b' is currently in use by another operation and " \
           "cannot be used"
    for command in ('remove', 'clear', 'enable', 'disable'):
        disk.fails(f'block-dirty-bitmap-{command}', node='n', name='b',
                   desc=desc)
    add(disk, 't')
    for target, source in (('t', 'b'), ('b', 't')):
        disk.fails('block-dirty-bitmap-merge', {
            'node': 'n', 'target': target, 'bitmaps': [source]}, desc)
    disk.guest.write(8 * MIB, b'y')
    assert count(disk) == MIB
    job.let_run()
    job.wait('BLOCK_JOB_PENDING')
    assert bitmaps(disk)['b']['busy'] is True
    disk.qmp('job-finalize', id='backup')
    job.finish()
    assert bitmaps(disk)['b']['busy'] is False
    assert count(disk) == CHUNK


def test_busy_while_exported(server, images):
    """A bitmap that an export shows cannot be changed."""
    path = images.create('a.qcow2', SIZE)
    server.add_node('n', path)
    add(server, disabled=True)
    server.export('n', writable=False, bitmaps=['b'])
    assert bitmaps(server)['b']['busy'] is True
    server.fails('block-dirty-bitmap-remove', node='n', name='b')
    server.unexport('n')
    assert bitmaps(server)['b']['busy'] is False
    server.qmp('block-dirty-bitmap-remove', node='n', name='b')


def test_export_of_bitmap(server, images, guest_on):
    """qemu:dirty-bitmap:NAME shows the dirty ranges."""
    server.add_node('n', images.create('a.qcow2', SIZE))
    add(server)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.write(MIB, b'x' * CHUNK)
    guest.write(SIZE - 1, b'x')
    guest.close()
    server.unexport('n')
    server.fails('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'n', 'bitmaps': ['b']},
        "Enabled bitmap 'b' incompatible with readonly export")
    server.qmp('block-dirty-bitmap-disable', node='n', name='b')
    server.export('n', 'ro', writable=False, bitmaps=['b'])
    context = 'qemu:dirty-bitmap:b'
    nbd = NbdClient.connect(server.nbd_path, 'ro',
                            contexts=('base:allocation', context))
    assert nbd.whole_status(context) == [
        [0, MIB, 0], [MIB, CHUNK, 1],
        [MIB + CHUNK, SIZE - MIB - 2 * CHUNK, 0],
        [SIZE - CHUNK, CHUNK, 1]]
    assert nbd.whole_status()[0][2] == 3
    nbd.disconnect()


# Sync modes: what becomes of the bitmap

MODES = [
    ('incremental', None), ('incremental', 'on-success'),
    ('bitmap', 'on-success'), ('bitmap', 'never'), ('bitmap', 'always'),
    ('full', 'on-success'), ('full', 'always'),
    ('top', 'on-success'), ('top', 'always')]


@pytest.mark.parametrize('end', ['success', 'cancel-pending',
                                 'cancel-early'])
@pytest.mark.parametrize('sync,mode', MODES)
def test_sync_modes(disk, images, sync, mode, end):
    """S dirty at the start, N written meanwhile."""
    add(disk)
    disk.guest.fill(0, SIZE, 1)
    disk.qmp('block-dirty-bitmap-clear', node='n', name='b')
    for chunk in (0, 1, 50):                                # S
        disk.guest.write(chunk * CHUNK, b'x')
    s_chunks, n_chunks = {0, 1, 50}, {1, 100}
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    options = {'bitmap': 'b', 'auto_finalize': False}
    if mode:
        options['bitmap_mode'] = mode
    # A slow start, so that all writes fall into the job's time.
    job = start_backup(disk, 'n', 'dst', sync=sync, speed=1, **options)
    disk.guest.write(CHUNK, b'y')                           # N
    disk.guest.write(100 * CHUNK, b'y')
    if end == 'cancel-early':
        job.cancel()
    else:
        job.let_run()
        job.wait('BLOCK_JOB_PENDING')
        if end == 'success':
            disk.qmp('job-finalize', id='backup')
        else:
            job.cancel()
    job.wait('concluded')
    job.dismiss()
    mode = mode or 'on-success'
    if end == 'success':
        wanted = s_chunks | n_chunks if mode == 'never' else n_chunks
    elif end == 'cancel-pending':
        # All was copied, and always counts it.
        wanted = n_chunks if mode == 'always' else s_chunks | n_chunks
    else:
        wanted = s_chunks | n_chunks
    if (mode, end) == ('always', 'cancel-early'):
        # What was copied before the end is clean but for new writes; how
        # much that is depends on speed.  Never more than what was left.
        assert len(n_chunks) * CHUNK <= count(disk) <= SIZE
        return
    assert count(disk) == len(wanted) * CHUNK
    disk.qmp('block-dirty-bitmap-add', node='n', name='check')
    for chunk in wanted:
        disk.guest.write(chunk * CHUNK, b'z')
    assert sha256(disk) == sha256(disk, 'check')


@pytest.mark.parametrize('arguments,desc', [
    ({'sync': 'incremental'},
     "must provide a valid bitmap name for 'incremental' sync mode"),
    ({'sync': 'bitmap'},
     "must provide a valid bitmap name for 'bitmap' sync mode"),
    ({'sync': 'incremental', 'bitmap': 'nope'},
     "Bitmap 'nope' could not be found"),
    ({'sync': 'full', 'bitmap-mode': 'always'},
     'Cannot specify bitmap sync mode without a bitmap'),
    ({'sync': 'bitmap', 'bitmap': 'b'},
     'Bitmap sync mode must be given when providing a bitmap'),
    ({'sync': 'full', 'bitmap': 'b'},
     'Bitmap sync mode must be given when providing a bitmap'),
    ({'sync': 'incremental', 'bitmap': 'b', 'bitmap-mode': 'never'},
     "Bitmap sync mode must be 'on-success' when using sync mode "
     "'incremental'"),
    ({'sync': 'full', 'bitmap': 'b', 'bitmap-mode': 'never'},
     "Bitmap sync mode 'never' has no meaningful effect when combined with "
     "sync mode 'full'"),
    ({'sync': 'top', 'bitmap': 'b', 'bitmap-mode': 'never'},
     "Bitmap sync mode 'never' has no meaningful effect when combined with "
     "sync mode 'top'"),
    ({'sync': 'none', 'bitmap': 'b', 'bitmap-mode': 'always'},
     "sync mode 'none' does not produce meaningful bitmap outputs"),
    ({'sync': 'incremental', 'bitmap': 'b', 'bitmap-mode': 'nope'},
     "Parameter 'bitmap-mode' does not accept value 'nope'"),
])
def test_refused_combinations(disk, images, arguments, desc):
    add(disk)
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    disk.fails('blockdev-backup', dict(
        {'device': 'n', 'target': 'dst', 'job-id': 'j'}, **arguments), desc)
    assert bitmaps(disk)['b']['busy'] is False
    assert disk.qmp('query-jobs') == []


def test_incremental_copies_only_dirty(disk, images):
    add(disk)
    disk.guest.fill(0, SIZE, 1)
    disk.qmp('block-dirty-bitmap-clear', node='n', name='b')
    disk.guest.write(3 * MIB, b'x' * 100)
    disk.guest.write(9 * MIB, b'x' * CHUNK)
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(disk, 'n', 'dst', sync='incremental', bitmap='b',
                       auto_dismiss=True)
    job.wait('null')
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done['len'] == done['offset'] == 2 * CHUNK
    assert count(disk) == 0
    disk.qmp('blockdev-del', node_name='dst')
    path = images.path('dst.qcow2')
    data = [(e['start'], e['length']) for e in images.map(path) if e['data']]
    assert data == [(3 * MIB, CHUNK), (9 * MIB, CHUNK)]


def test_bitmap_finer_than_target_cluster(disk, images):
    """512-byte bits, 64 KiB clusters: whole units are copied, the result
    is right without a backing file."""
    add(disk, granularity=512)
    disk.guest.fill(0, SIZE, 7)
    disk.qmp('block-dirty-bitmap-clear', node='n', name='b')
    disk.guest.write(CHUNK + 512, b'x' * 512)
    disk.add_node('dst', images.create('dst.qcow2', SIZE,
                                       cluster_size='128k'))
    start_backup(disk, 'n', 'dst', sync='incremental', bitmap='b').finish()
    disk.qmp('blockdev-del', node_name='dst')
    content = images.content(images.path('dst.qcow2'))
    same_bytes(content[:2 * CHUNK], bytes(disk.guest.model[:2 * CHUNK]))
    assert not any(content[2 * CHUNK:])


def test_bitmap_of_backup_target(disk, images):
    """A bitmap on the target sees what the job writes there."""
    disk.guest.write(0, b'x' * CHUNK)
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    add(disk, node='dst')
    start_backup(disk, 'n', 'dst').finish()
    assert count(disk, node='dst') >= CHUNK


def test_guest_write_that_fails_is_marked(server, images, small_disk,
                                          guest_on):
    """A failed write may have changed the disk: it is dirty."""
    disk = small_disk(16 * MIB)
    path = disk.path('a.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '8M')
    server.add_node('n', path)
    server.export('n')
    add(server)
    guest = guest_on(server, 'n')
    disk.fill()
    with pytest.raises(NbdError):
        guest.write(4 * MIB, b'x' * MIB)
        guest.write(6 * MIB, b'x' * MIB)
    assert count(server) >= MIB
    disk.make_room()
