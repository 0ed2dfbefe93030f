# SPDX-License-Identifier: MIT
"""Inactive nodes: blockdev-set-active, active=off, exports and jobs on them.

QEMU has these from 10.0 on, so the reference here (7.2) cannot be asked;
what is stated is what its interface reference and COMPAT.md say.
"""

import re

import pytest

from .images import run_tool
from .nbd import NbdClient, NbdError
from .qmp import QmpError
from .test_locks import WRITE_LOCKED, SHARED_LOCKED, locked_bytes

pytestmark = pytest.mark.ours('blockdev-set-active is new in QEMU 10.0')

MIB = 1 << 20
NOT_PERMITTED = 'Failed to inactivate node: Operation not permitted'
ACTIVE_PARENT = 'Node has active parent node'


def inactive_child(name, kind, parent):
    return f"Inactive '{name}' can't be a {kind} child of active '{parent}'"


def is_active(server, name):
    nodes = server.qmp('query-named-block-nodes', flat=True)
    return {n['node-name']: n['active'] for n in nodes}[name]


def set_active(server, name, active):
    if name is None:
        return server.qmp('blockdev-set-active', active=active)
    return server.qmp('blockdev-set-active', node_name=name, active=active)


def refuses(server, command, desc, **arguments):
    with pytest.raises(QmpError) as info:
        server.qmp(command, **arguments)
    assert info.value.desc == desc
    assert info.value.cls == 'GenericError'


def fails_like(server, command, pattern, **arguments):
    """DESC of the failure, in which '#block123' is NODE."""
    with pytest.raises(QmpError) as info:
        server.qmp(command, **arguments)
    assert re.sub(r'#block\d+', 'NODE', info.value.desc) == pattern


def add_file(server, name, path, **options):
    server.qmp('blockdev-add', dict({'driver': 'file', 'node-name': name,
                                     'filename': path}, **options))


def add_qcow2(server, name, file, **options):
    server.qmp('blockdev-add', dict({'driver': 'qcow2', 'node-name': name,
                                     'file': file}, **options))


@pytest.fixture
def disk(server, images):
    path = images.create('disk.qcow2', '10M')
    add_file(server, 'disk-file', path)
    add_qcow2(server, 'disk-fmt', 'disk-file', active=False)
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': server.nbd_path}})
    return path


def export(server, name='disk-fmt', **options):
    server.qmp('block-export-add', dict({
        'type': 'nbd', 'id': 'exp0', 'node-name': name, 'writable': True},
        **options))


def drop_export(server):
    server.qmp('block-export-del', id='exp0')
    server.wait_event('BLOCK_EXPORT_DELETED', {'id': 'exp0'})


def test_new_nodes(server, images):
    path = images.create('a.qcow2', '1M')
    add_file(server, 'f', path)
    assert is_active(server, 'f')
    add_qcow2(server, 'n', {'driver': 'file', 'filename': path,
                            'node-name': 'below'}, active=False)
    assert not is_active(server, 'n')
    assert not is_active(server, 'below'), 'defined in an inactive one'
    refuses(server, 'blockdev-add', inactive_child('n', 'file', 'up'),
            driver='raw', node_name='up', file='n')
    refuses(server, 'blockdev-add', inactive_child('n', 'file', 'up'),
            driver='raw', node_name='up', file='n', active=True)
    server.qmp('blockdev-add', driver='raw', node_name='up', file='n',
               active=False)
    refuses(server, 'blockdev-add', inactive_child('n', 'backing', 'o'),
            driver='qcow2', node_name='o', file='f', backing='n')
    refuses(server, 'blockdev-set-active', "Failed to find node with "
            "node-name='nope'", node_name='nope', active=True)
    set_active(server, 'up', True)
    assert is_active(server, 'below') and is_active(server, 'n')


def test_exports(server, disk):
    for options in ({}, {'allow-inactive': False}):
        assert not is_active(server, 'disk-fmt')
        export(server, **options)
        assert is_active(server, 'disk-fmt')
        refuses(server, 'blockdev-set-active', NOT_PERMITTED,
                node_name='disk-fmt', active=False)
        refuses(server, 'blockdev-set-active', NOT_PERMITTED.replace(
            'node', 'all nodes'), active=False)
        assert is_active(server, 'disk-fmt')
        drop_export(server)
        set_active(server, 'disk-fmt', False)
    export(server, **{'allow-inactive': True})
    assert not is_active(server, 'disk-fmt')
    for active in (True, True, False, False, True):
        set_active(server, 'disk-fmt', active)
        assert is_active(server, 'disk-fmt') == active


def test_read_only_export_holds_as_well(server, disk):
    export(server, writable=False)
    refuses(server, 'blockdev-set-active', NOT_PERMITTED,
            node_name='disk-fmt', active=False)


def test_parents_and_children(server, disk):
    set_active(server, 'disk-fmt', True)
    refuses(server, 'blockdev-set-active', ACTIVE_PARENT,
            node_name='disk-file', active=False)
    set_active(server, 'disk-fmt', False)
    assert not is_active(server, 'disk-file'), 'nobody else has it active'
    set_active(server, 'disk-file', True)
    assert not is_active(server, 'disk-fmt')
    set_active(server, 'disk-file', False)
    set_active(server, 'disk-fmt', True)
    assert is_active(server, 'disk-file')
    server.qmp('blockdev-add', driver='raw', node_name='other',
               file='disk-file', read_only=True)
    set_active(server, 'disk-fmt', False)
    assert is_active(server, 'disk-file'), 'other has it'


def test_resize(server, disk):
    refuses(server, 'block_resize',
            "Permission 'resize' unavailable on inactive node",
            node_name='disk-fmt', size=16 * MIB)
    set_active(server, 'disk-fmt', True)
    server.qmp('block_resize', node_name='disk-fmt', size=16 * MIB)


def snapshot_nodes(server, images, disk, active):
    snap = images.create('snap.qcow2', '10M', backing=disk)
    add_file(server, 'snap-file', snap)
    add_qcow2(server, 'snap-fmt', 'snap-file', backing=None, active=active)


@pytest.mark.parametrize('active', (True, False))
def test_snapshot(server, images, disk, active):
    snapshot_nodes(server, images, disk, active)
    server.qmp('blockdev-snapshot', node='disk-fmt', overlay='snap-fmt')
    assert not is_active(server, 'snap-fmt')
    assert not is_active(server, 'disk-fmt')
    set_active(server, 'snap-fmt', True)
    assert is_active(server, 'disk-fmt')
    server.qmp('blockdev-del', node_name='snap-fmt')


def test_snapshot_sync(server, images, disk):
    path = images.path('sync.qcow2')
    export(server, **{'allow-inactive': True})
    server.qmp('blockdev-snapshot-sync', {
        'node-name': 'disk-fmt', 'snapshot-file': path,
        'snapshot-node-name': 'snap'})
    images.adopt(path)
    assert not is_active(server, 'snap')
    images.io(path, 'write 0 4k')
    set_active(server, 'snap', True)
    assert WRITE_LOCKED in images.io(path, 'write 0 4k', check=False)


def test_failed_snapshot_leaves_overlay_active(server, images, disk):
    snapshot_nodes(server, images, disk, True)
    refuses(server, 'transaction', 'Transaction aborted using Abort action',
            actions=[{'type': 'blockdev-snapshot',
                      'data': {'node': 'disk-fmt', 'overlay': 'snap-fmt'}},
                     {'type': 'abort', 'data': {}}])
    assert is_active(server, 'snap-fmt')
    assert not is_active(server, 'disk-fmt')


def test_internal_snapshot(server, disk):
    write = "Permission 'write' unavailable on inactive node"
    refuses(server, 'blockdev-snapshot-internal-sync', write,
            device='disk-fmt', name='s')
    set_active(server, 'disk-fmt', True)
    server.qmp('blockdev-snapshot-internal-sync', device='disk-fmt', name='s')
    set_active(server, 'disk-fmt', False)
    refuses(server, 'blockdev-snapshot-delete-internal-sync', write,
            device='disk-fmt', name='s')
    set_active(server, 'disk-fmt', True)
    server.qmp('blockdev-snapshot-delete-internal-sync', device='disk-fmt',
               name='s')


def test_change_backing_file(server, images):
    base = images.create('base.qcow2', '1M')
    top = images.create('top.qcow2', '1M', backing=base)
    server.add_node('b', base, read_only=True)
    server.add_node('n', top, backing='b')
    set_active(server, 'n', False)
    refuses(server, 'change-backing-file',
            "Permission 'write' unavailable on inactive node", device='n',
            image_node_name='n', backing_file=base)


def test_jobs(server, images, disk):
    snapshot_nodes(server, images, disk, False)
    server.qmp('blockdev-snapshot', node='disk-fmt', overlay='snap-fmt')
    snap2 = images.create('snap2.qcow2', '10M',
                          backing=images.path('snap.qcow2'))
    target = images.create('target.qcow2', '10M')
    add_file(server, 'snap2-file', snap2)
    add_file(server, 'target-file', target)
    add_qcow2(server, 'target-fmt', 'target-file')

    fails_like(server, 'block-stream', 'Could not create node: ' +
               inactive_child('snap-fmt', 'file', 'NODE'), device='snap-fmt',
               job_id='job0')
    backing = inactive_child('snap-fmt', 'backing', 'NODE')
    fails_like(server, 'block-commit', backing, job_id='job0',
               device='snap-fmt')
    add_qcow2(server, 'snap2-fmt', 'snap2-file', backing='snap-fmt',
              active=False)
    fails_like(server, 'block-commit', backing, job_id='job0',
               device='snap2-fmt', top_node='snap-fmt')
    set_active(server, 'disk-fmt', True)
    fails_like(server, 'block-commit',
               backing.replace('snap-fmt', 'snap2-fmt'), job_id='job0',
               device='snap2-fmt')
    fails_like(server, 'block-commit', backing, job_id='job0',
               device='snap2-fmt', top_node='snap-fmt')
    mirror = {'job_id': 'job0', 'device': 'snap2-fmt', 'target': 'target-fmt',
              'sync': 'full'}
    fails_like(server, 'blockdev-mirror',
               inactive_child('snap2-fmt', 'backing', 'NODE'), **mirror)
    set_active(server, 'snap2-fmt', True)
    set_active(server, 'target-fmt', False)
    fails_like(server, 'blockdev-mirror',
               "Permission 'write' unavailable on inactive node", **mirror)
    fails_like(server, 'blockdev-backup', 'Could not create node: ' +
               inactive_child('target-fmt', 'target', 'NODE'), **mirror)
    set_active(server, 'snap2-fmt', False)
    set_active(server, 'target-fmt', True)
    fails_like(server, 'blockdev-backup', 'Could not create node: ' +
               inactive_child('snap2-fmt', 'file', 'NODE'), **mirror)
    assert server.qmp('query-jobs') == []
    set_active(server, 'snap2-fmt', True)
    server.qmp('blockdev-backup', **mirror)
    server.wait_event('BLOCK_JOB_COMPLETED', {'device': 'job0'})


def test_nodes_of_a_job_stay_active(server, images):
    source = images.create('s.qcow2', '4M')
    target = images.create('t.qcow2', '4M')
    server.add_node('s', source)
    server.add_node('t', target)
    server.qmp('blockdev-backup', job_id='j', device='s', target='t',
               sync='none')
    for name in ('s', 't'):
        refuses(server, 'blockdev-set-active', ACTIVE_PARENT, node_name=name,
                active=False)
    with pytest.raises(QmpError):
        set_active(server, None, False)
    assert is_active(server, 's') and is_active(server, 't')
    server.qmp('block-job-cancel', device='j')
    server.wait_event('BLOCK_JOB_CANCELLED')
    set_active(server, None, False)


def nbd_io(server, *commands, name='disk-fmt'):
    uri = f'nbd+unix:///{name}?socket={server.nbd_path}'
    argv = ['qemu-io', '-f', 'raw', '-t', 'writeback']
    for command in commands:
        argv += ['-c', command]
    return run_tool(*argv, uri, check=False)[1]


def test_guest_of_an_inactive_node(server, images, disk):
    set_active(server, 'disk-fmt', True)
    export(server, **{'allow-inactive': True})
    text = nbd_io(server, 'write -P 7 0 64k', 'write -P 8 1M 4k', 'flush')
    assert text.count('wrote') == 2
    set_active(server, 'disk-fmt', False)
    text = nbd_io(server, 'read -P 7 0 64k', 'write 0 64k', 'write -z 0 64k',
                  'write -zu 0 64k', 'discard 0 64k', 'read -P 7 0 64k')
    assert text.count('write failed: Operation not permitted') == 3
    assert 'discard failed: Operation not permitted' in text
    assert text.count('read 65536/65536 bytes') == 2
    assert 'Pattern' not in text
    set_active(server, 'disk-fmt', True)
    text = nbd_io(server, 'write -P 9 0 64k', 'read -P 8 1M 4k')
    assert 'wrote 65536' in text and 'Pattern' not in text


def test_guest_stays_connected(server, guest_on, images, disk):
    set_active(server, 'disk-fmt', True)
    server.qmp('block-export-add', {
        'type': 'nbd', 'id': 'g', 'name': 'g', 'node-name': 'disk-fmt',
        'writable': True, 'allow-inactive': True})
    client = NbdClient.connect(server.nbd_path, 'g')
    for value in range(20):
        client.write(value * 4096, bytes([value]) * 4096)
        set_active(server, 'disk-fmt', False)
        with pytest.raises(NbdError) as info:
            client.write(0, b'x' * 512)
        assert info.value.errno == 1
        assert client.read(value * 4096, 4096) == bytes([value]) * 4096
        set_active(server, 'disk-fmt', True)
    client.close()


# ---- locks and the file ----------------------------------------------------

def test_locks(server, images):
    path = images.create('a.qcow2', '1M')
    server.add_node('n', path)
    assert WRITE_LOCKED in images.io(path, 'write 0 512', check=False)
    set_active(server, 'n', False)
    assert locked_bytes(path) <= {100}
    images.io(path, 'write -P 5 0 512')
    images.io(path, 'read -P 5 0 512', options=('-r',))
    run_tool('qemu-img', 'resize', path, '2M')
    set_active(server, 'n', True)
    assert WRITE_LOCKED in images.io(path, 'write 0 512', check=False)
    assert SHARED_LOCKED in images.io(path, 'read 0 512', check=False,
                                      options=('-r',))
    info = server.qmp('query-named-block-nodes', flat=True)
    assert {n['node-name']: n['image']['virtual-size'] for n in info}['n'] \
        == 2 * MIB


def test_refused_while_another_writes(server, start_server, images):
    path = images.create('a.qcow2', '1M')
    other = start_server()
    server.add_node('n', path)
    add_qcow2(other, 'n', {'driver': 'file', 'filename': path}, active=False)
    with pytest.raises(QmpError) as info:
        set_active(other, 'n', True)
    assert info.value.desc == WRITE_LOCKED
    with pytest.raises(QmpError):
        set_active(other, None, True)
    assert not is_active(other, 'n')
    set_active(server, 'n', False)
    set_active(other, 'n', True)
    with pytest.raises(QmpError) as info:
        set_active(server, 'n', True)
    assert info.value.desc == WRITE_LOCKED
    assert not is_active(server, 'n')


def test_all_or_nothing(server, start_server, images):
    """One of two images is somebody else's: neither is activated."""
    a, b = images.create('a.qcow2', '1M'), images.create('b.qcow2', '1M')
    for name, path in (('a', a), ('b', b)):
        add_qcow2(server, name, {'driver': 'file', 'filename': path},
                  active=False)
    other = start_server()
    for name, path in (('a', a), ('b', b)):
        other.add_node(name, path)
        with pytest.raises(QmpError):
            set_active(server, None, True)
        assert not is_active(server, 'a') and not is_active(server, 'b')
        other.qmp('blockdev-del', node_name=name)
    set_active(server, None, True)
    assert is_active(server, 'a') and is_active(server, 'b')


def test_damaged_meanwhile(server, images):
    """What cannot be read again stays inactive, and can be activated when it
    is in order again."""
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 3 0 64k')
    server.add_node('n', path)
    set_active(server, 'n', False)
    with open(path, 'r+b') as f:
        f.write(b'XXXX')
    with pytest.raises(QmpError) as info:
        set_active(server, 'n', True)
    assert 'n' in info.value.desc
    assert not is_active(server, 'n')
    with open(path, 'r+b') as f:
        f.write(b'QFI\xfb')
    set_active(server, 'n', True)
    server.export('n')


def bitmap_names(server, name):
    return sorted(b['name'] for b in
                  server.nodes()[name].get('dirty-bitmaps', []))


def test_bitmaps_follow(server, start_server, images):
    path = images.create('a.qcow2', '4M')
    server.add_node('n', path)
    other = start_server()
    add_qcow2(other, 'n', {'driver': 'file', 'filename': path}, active=False)
    server.qmp('block-dirty-bitmap-add', node='n', name='kept',
               persistent=True)
    server.qmp('block-dirty-bitmap-add', node='n', name='ours')
    assert bitmap_names(server, 'n') == ['kept', 'ours']
    set_active(server, 'n', False)
    assert bitmap_names(server, 'n') == ['ours']
    with pytest.raises(QmpError):
        server.qmp('block-dirty-bitmap-add', node='n', name='p',
                   persistent=True)
    assert images.bitmaps(path)['kept']['flags'] == ['auto']
    set_active(other, 'n', True)
    assert bitmap_names(other, 'n') == ['kept']
    assert 'in-use' in images.bitmaps(path, '-U')['kept']['flags']
    other.qmp('block-dirty-bitmap-add', node='n', name='second',
              persistent=True, disabled=True)
    other.qmp('block-dirty-bitmap-remove', node='n', name='kept')
    set_active(other, 'n', False)
    set_active(server, 'n', True)
    assert bitmap_names(server, 'n') == ['ours', 'second']


def test_exported_bitmap_holds_the_node(server, images, disk):
    set_active(server, 'disk-fmt', True)
    server.qmp('block-dirty-bitmap-add', node='disk-fmt', name='b',
               persistent=True, disabled=True)
    export(server, writable=False, bitmaps=['b'], **{'allow-inactive': True})
    with pytest.raises(QmpError) as info:
        set_active(server, 'disk-fmt', False)
    assert is_active(server, 'disk-fmt')
    assert bitmap_names(server, 'disk-fmt') == ['b']
    drop_export(server)
    set_active(server, 'disk-fmt', False)


def test_reopen(server, disk):
    options = {'driver': 'qcow2', 'node-name': 'disk-fmt',
               'file': 'disk-file'}
    server.qmp('blockdev-reopen', options=[options])
    assert not is_active(server, 'disk-fmt')
    refuses(server, 'blockdev-reopen', "Cannot change the option 'active'",
            options=[dict(options, active=True)])
    server.qmp('blockdev-reopen', options=[dict(options, active=False)])
    server.qmp('blockdev-reopen', options=[dict(options, **{
        'read-only': True})])
    server.qmp('blockdev-reopen', options=[options])
    set_active(server, 'disk-fmt', True)
    server.qmp('blockdev-reopen', options=[options])
    assert is_active(server, 'disk-fmt')
