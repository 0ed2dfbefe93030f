# SPDX-License-Identifier: MIT
"""Devices in queries, in messages and as names in commands."""

import pytest

MIB = 1 << 20


@pytest.fixture
def vm(launch, images):
    """Drive d0 (virtio disk vb), an empty e0, z0 with writethrough; a node
    with a disk sh and an anonymous one; a CD drive."""
    a = images.create('a.qcow2', MIB)
    b = images.create('b.qcow2', MIB)
    return (launch()
            .add_drive_raw(f'if=none,id=d0,file={a},format=qcow2,'
                           'node-name=n0')
            .add_drive_raw('if=none,id=e0')
            .add_drive_raw(f'if=none,id=z0,file={b},format=qcow2,'
                           'cache=writethrough,node-name=z')
            .add_blockdev('driver=null-co,node-name=nul')
            .add_blockdev('driver=null-co,node-name=nul2')
            .add_device('virtio-scsi-pci,id=s')
            .add_device('scsi-hd,drive=nul,id=sh,bus=s.0')
            .add_device('scsi-hd,drive=nul2,bus=s.0')
            .add_device('virtio-blk-pci,drive=d0,id=vb')
            .add_device('scsi-cd,id=cd,bus=s.0')
            .start())


def shape(entry):
    entry = dict(entry)
    entry['inserted'] = entry.get('inserted', {}).get('node-name')
    return entry


def entry_of(vm, device):
    entry, = [e for e in vm.qmp('query-block') if e['device'] == device]
    return entry


ANON = '/machine/peripheral-anon/device[0]'


def test_query_block(vm):
    """In the order in which they were made, -drive's first."""
    rest = {'locked': False, 'type': 'unknown'}
    assert [shape(e) for e in vm.qmp('query-block')] == [
        {'device': 'd0', 'removable': False, 'io-status': 'ok',
         'qdev': '/machine/peripheral/vb/virtio-backend', 'inserted': 'n0',
         **rest},
        {'device': 'e0', 'removable': True, 'inserted': None, **rest},
        {'device': 'z0', 'removable': True, 'inserted': 'z', **rest},
        {'device': '', 'removable': False, 'io-status': 'ok', 'qdev': 'sh',
         'inserted': 'nul', **rest},
        {'device': '', 'removable': False, 'io-status': 'ok', 'qdev': ANON,
         'inserted': 'nul2', **rest},
        {'device': '', 'removable': True, 'io-status': 'ok', 'qdev': 'cd',
         'tray_open': False, 'inserted': None, **rest},
    ]
    assert entry_of(vm, 'z0')['inserted']['cache'] == {
        'writeback': False, 'direct': False, 'no-flush': False}
    assert entry_of(vm, 'd0')['inserted']['cache']['writeback'] is True


def test_query_blockstats(vm):
    got = [{k: e.get(k) for k in ('device', 'qdev', 'node-name')}
           for e in vm.qmp('query-blockstats')]
    assert got == [
        {'device': 'd0', 'qdev': '/machine/peripheral/vb/virtio-backend',
         'node-name': 'n0'},
        {'device': 'e0', 'qdev': None, 'node-name': None},
        {'device': 'z0', 'qdev': None, 'node-name': 'z'},
        {'device': '', 'qdev': 'sh', 'node-name': 'nul'},
        {'device': '', 'qdev': ANON, 'node-name': 'nul2'},
        {'device': '', 'qdev': 'cd', 'node-name': None}]
    stats = vm.qmp('query-blockstats')[0]
    assert stats['stats']['account_failed'] is True
    assert stats['parent']['stats']['account_failed'] is False


def test_graph(vm):
    graph = vm.qmp('x-debug-query-block-graph')
    backends = [(n['name'], n['id']) for n in graph['nodes']
                if n['type'] == 'block-backend']
    # Numbers are given in order; a node has its own after its first user.
    assert backends == [('cd', 10), (ANON, 8), ('sh', 6), ('z0', 4),
                        ('e0', 3), ('d0', 1)]
    edges = {e['parent']: e for e in graph['edges'] if e['name'] == 'root'}
    assert edges[1] == {
        'name': 'root', 'parent': 1, 'child': 2,
        'perm': ['write', 'consistent-read'],
        'shared-perm': ['resize', 'write-unchanged', 'consistent-read']}
    assert edges[4]['perm'] == ['consistent-read']      # no front end
    assert edges[4]['shared-perm'] == ['resize', 'write-unchanged', 'write',
                                       'consistent-read']


@pytest.mark.parametrize('command, arguments', [
    ('block_resize', {'device': 'e0', 'size': MIB}),
    ('block-stream', {'device': 'e0'}),
    ('drive-mirror', {'device': 'e0', 'target': 'x', 'sync': 'full'}),
    ('blockdev-snapshot-sync', {'device': 'e0', 'snapshot-file': 'x'}),
    ('blockdev-snapshot-internal-sync', {'device': 'e0', 'name': 'x'}),
    ('block-dirty-bitmap-add', {'node': 'e0', 'name': 'x'}),
    ('change-backing-file', {'device': 'e0', 'image-node-name': 'n0',
                             'backing-file': 'x'}),
])
def test_empty(vm, command, arguments):
    vm.fails(command, arguments, desc="Device 'e0' has no medium")


def test_nbd_server_add_empty(vm):
    vm.qmp('nbd-server-start', addr={'type': 'unix',
                                     'data': {'path': vm.nbd_path}})
    vm.fails('nbd-server-add', device='e0', desc="Device 'e0' has no medium")
    vm.fails('nbd-server-add', device='nope', desc="Cannot find "
             "device='nope' nor node-name='nope'")
    # Exports of newer make are of nodes.
    vm.fails('block-export-add', type='nbd', id='x', node_name='d0',
             desc="Cannot find device='' nor node-name='d0'")


def test_commit_of_none(vm):
    for name in ('nope', 'e0'):
        vm.fails('block-commit', device=name, cls='DeviceNotFound',
                 desc=f"Device '{name}' not found")


def test_one_namespace(vm):
    vm.fails('blockdev-add', driver='null-co', node_name='d0',
             desc='node-name=d0 is conflicting with a device id')
    vm.fails('blockdev-add', driver='null-co', node_name='e0',
             desc='node-name=e0 is conflicting with a device id')
    vm.qmp('blockdev-add', driver='null-co', node_name='vb')    # a device's id


def test_in_use(vm):
    vm.fails('blockdev-del', node_name='n0', desc='Node n0 is in use')
    vm.fails('blockdev-del', node_name='nul', desc='Node nul is in use')


def test_permissions_name_the_device(vm):
    vm.qmp('nbd-server-start', addr={'type': 'unix',
                                     'data': {'path': vm.nbd_path}})
    text = ("Permission conflict on node '{0}': permissions 'write' are both "
            "required by an unnamed block device (uses node '{0}' as 'root' "
            "child) and unshared by block device '{1}' (uses node '{0}' as "
            "'root' child).")
    for node, name in ('n0', 'd0'), ('nul', 'sh'), ('nul2', ANON):
        vm.fails('nbd-server-add', device=node, writable=True,
                 desc=text.format(node, name))


def test_job_ids(vm, images):
    """A job on a drive, or on its node, has the drive's name."""
    for device in 'd0', 'n0':
        vm.qmp('drive-mirror', device=device, sync='full', speed=1,
               target=images.adopt(images.path(device + '.qcow2')))
        vm.wait_event('BLOCK_JOB_READY', {'device': 'd0'})
        vm.fails('block-stream', device='d0', desc="Node 'd0' is busy: "
                 'block device is in use by block job: mirror')
        vm.fails('block-stream', device='n0', desc="Node 'n0' is busy: "
                 'block device is in use by block job: mirror')
        # The job's filter does not show.
        assert entry_of(vm, 'd0')['inserted']['node-name'] == 'n0'
        vm.qmp('block-job-cancel', device='d0', force=True)
        vm.wait_event('JOB_STATUS_CHANGE', {'id': 'd0', 'status': 'null'})


def test_no_drive_no_id(vm):
    vm.qmp('blockdev-add', driver='null-co', node_name='t')
    vm.fails('blockdev-mirror', device='nul', target='t', sync='full',
             desc="Invalid job ID ''")


def test_snapshot_moves_the_drive(vm, images):
    vm.qmp('block-dirty-bitmap-add', node='d0', name='b')
    vm.qmp('blockdev-snapshot-sync', device='d0', snapshot_node_name='s',
           snapshot_file=images.adopt(images.path('s.qcow2')))
    inserted = entry_of(vm, 'd0')['inserted']
    assert inserted['node-name'] == 's'
    assert inserted['image']['backing-image']['filename'].endswith('a.qcow2')
    stats = vm.qmp('query-blockstats')[0]
    assert stats['node-name'] == 's'
    assert stats['backing']['node-name'] == 'n0'
    vm.qmp('block-dirty-bitmap-remove', node='n0', name='b')
    vm.fails('block-dirty-bitmap-remove', node='d0', name='b',
             desc="Dirty bitmap 'b' not found")


def test_resize_and_bitmap_by_drive(vm):
    vm.qmp('block_resize', device='d0', size=2 * MIB)
    assert entry_of(vm, 'd0')['inserted']['image']['virtual-size'] == 2 * MIB
    vm.qmp('transaction', actions=[
        {'type': 'block-dirty-bitmap-add', 'data': {'node': 'd0',
                                                    'name': 'b'}}])
    bitmap, = entry_of(vm, 'd0')['inserted']['dirty-bitmaps']
    assert bitmap['name'] == 'b'


def test_histogram(vm):
    """Of devices, by id; their drives have no say."""
    vm.qmp('block-latency-histogram-set', id='sh', boundaries=[10, 100])
    vm.fails('block-latency-histogram-set', id='d0', boundaries=[1],
             cls='DeviceNotFound', desc="Device 'd0' not found")
    sh = vm.qmp('query-blockstats')[3]
    assert sh['stats']['rd_latency_histogram'] == {
        'bins': [0, 0, 0], 'boundaries': [10, 100]}


def test_nodes_that_go(vm):
    """blockdev-add's stay, -drive's go with their last user."""
    vm.qmp('device_del', id='sh')
    vm.wait_event('DEVICE_DELETED', {'device': 'sh'})
    names = [n['node-name'] for n in vm.qmp('query-named-block-nodes')]
    assert 'nul' in names
    vm.qmp('blockdev-del', node_name='nul')
    assert vm.hmp('drive_del z0') == ''
    names = [n['node-name'] for n in vm.qmp('query-named-block-nodes')]
    assert 'z' not in names and 'nul' not in names
    assert 'z0' not in [e['device'] for e in vm.qmp('query-block')]
