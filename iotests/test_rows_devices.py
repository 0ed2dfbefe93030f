# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows with devices need: 081, 093, 096, 139,
202, 223, 245, 307, t/iothreads-*, t/mirror-top-perms, t/stream-*."""

import time

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20
NSEC = 10 ** 9
STEP = pytest.mark.ours(reason="Debian's QEMU cannot step its clock")


# 093: throttling

LIMITS = ('bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr')


def params(**given):
    out = dict.fromkeys(LIMITS, 0)
    out.update(given)
    return out


def throttle_vm(launch, n=1):
    vm = launch()
    for _ in range(n):
        vm.add_drive('null-co://', 'file.read-zeroes=on', image_format='raw')
    return vm.start()


def counted(vm, drive):
    stats = vm.qmp('query-blockstats')[drive]['stats']
    return (stats['rd_bytes'], stats['rd_operations'], stats['wr_bytes'],
            stats['wr_operations'])


@STEP
@pytest.mark.timeout(120)
@pytest.mark.parametrize('limit, value', [
    ('bps', 131072), ('bps_rd', 131072), ('bps_wr', 131072), ('iops', 256),
    ('iops_rd', 256), ('iops_wr', 256)])
@pytest.mark.parametrize('n_drives', [1, 2])
def test_093_accuracy(launch, limit, value, n_drives):
    """Within a tenth over five seconds of the virtual clock, and fair."""
    vm = throttle_vm(launch, n_drives)
    for drive in range(n_drives):
        vm.qmp('block_set_io_throttle', dict(
            params(**{limit: value}), device=f'drive{drive}',
            **({'group': 'test'} if n_drives > 1 else {})))
    seconds, size = 5, 512
    rate = value / (size if limit.startswith('bps') else 1)
    count = int(rate * (seconds + 1) * 1.1 / n_drives) + 8
    vm.qtest.clock_step(NSEC)
    ops = [op for op in ('read', 'write')
           if not limit.endswith({'read': 'wr', 'write': 'rd'}[op])]
    for i in range(count):
        for drive in range(n_drives):
            for op in ops:
                vm.qemu_io(f'drive{drive}', f'aio_{op} {i * size} {size}')
    before = [counted(vm, d) for d in range(n_drives)]
    vm.qtest.clock_step(seconds * NSEC)
    deadline = time.monotonic() + 20
    want = rate * seconds / n_drives
    while True:
        after = [counted(vm, d) for d in range(n_drives)]
        done = [a[1] + a[3] - b[1] - b[3] for a, b in zip(after, before)]
        if all(abs(d - want) <= want * 0.1 + 1 for d in done):
            break
        assert time.monotonic() < deadline, (done, want)
        time.sleep(0.05)
    vm.qtest.clock_step(1000 * NSEC)


@STEP
def test_093_burst(launch):
    vm = throttle_vm(launch)
    vm.qmp('block_set_io_throttle', dict(
        params(bps=4096), device='drive0', bps_max=8192, bps_max_length=2))
    vm.qtest.clock_step(NSEC)
    for i in range(100):
        vm.qemu_io('drive0', f'aio_write {i * 512} 512')
    deadline = time.monotonic() + 10
    for second in (1, 2):
        for _ in range(100):        # each request has a timer of its own
            vm.qtest.clock_step(NSEC // 100)
        while counted(vm, 0)[2] < 8192 * second * 0.9:
            assert time.monotonic() < deadline
        assert counted(vm, 0)[2] <= 8192 * second * 1.2
    for _ in range(100):
        vm.qtest.clock_step(NSEC // 10)
    assert counted(vm, 0)[2] <= 1.2 * (16384 + 10 * 4096)
    vm.qtest.clock_step(100 * NSEC)


@STEP
def test_093_removed_member(launch):
    """Members that leave let go what waits, and the others go on."""
    vm = throttle_vm(launch, 2)
    for drive in range(2):
        vm.qmp('block_set_io_throttle', dict(
            params(iops=1), device=f'drive{drive}', group='test'))
    for drive in range(2):
        for i in range(5):
            vm.qemu_io(f'drive{drive}', f'aio_write {i * 512} 512')
    vm.qmp('block_set_io_throttle', dict(params(), device='drive0'))
    deadline = time.monotonic() + 10
    while counted(vm, 0)[3] < 5:
        assert time.monotonic() < deadline
    assert counted(vm, 1)[3] < 5
    for _ in range(10):
        vm.qtest.clock_step(NSEC)
    while counted(vm, 1)[3] < 5:
        assert time.monotonic() < deadline


def test_093_group_names(launch):
    vm = launch()
    vm.add_drive('null-co://', 'throttling.group=foo', image_format='raw')
    vm.add_drive('null-co://', 'throttling.iops-total=100',
                 image_format='raw')
    vm.add_drive('null-co://', 'throttling.group=foo,'
                 'throttling.iops-total=100', image_format='raw')
    vm.add_drive('null-co://', image_format='raw')
    vm.start()

    def groups():
        return [b['inserted'].get('group') for b in vm.qmp('query-block')]

    assert groups() == [None, 'drive1', 'foo', None]
    vm.qmp('block_set_io_throttle', dict(params(iops=200), device='drive0'))
    vm.qmp('block_set_io_throttle', dict(params(), device='drive2'))
    assert groups() == ['drive0', 'drive1', None, None]
    vm.qmp('block_set_io_throttle', dict(params(iops=200), device='drive2',
                                         group='bar'))
    vm.qmp('block_set_io_throttle', dict(params(iops=300), device='drive3',
                                         group='bar'))
    assert groups() == ['drive0', 'drive1', 'bar', 'bar']
    assert [b['inserted']['iops'] for b in vm.qmp('query-block')] == \
        [200, 100, 300, 300]


@pytest.mark.parametrize('disk', ['scsi-cd', 'ide-cd'])
def test_093_removable_media(launch, images, disk):
    """Limits stay with the drive when its medium goes."""
    vm = launch()
    vm.add_drive_raw('if=none,id=drive0,file=null-co://,format=raw')
    vm.add_device('virtio-scsi')
    vm.add_device(f'{disk},drive=drive0,id=dev0')
    vm.start()
    vm.qmp('block_set_io_throttle', dict(
        params(bps=1000, bps_rd=0), id='dev0', group='test'))
    assert vm.qmp('query-block')[0]['inserted']['bps'] == 1000
    vm.qmp('eject', id='dev0', force=True)
    vm.fails('block_set_io_throttle', dict(params(bps=1000), id='dev0'))
    vm.fails('block_set_io_throttle', dict(params(bps=1000),
                                           device='drive0'))
    vm.qmp('blockdev-change-medium', id='dev0', filename='null-co://',
           format='raw')
    inserted = vm.qmp('query-block')[0]['inserted']
    assert inserted['bps'] == 1000 and inserted['group'] == 'test'


def test_096_limits_follow_the_drive(launch, images):
    """To the new active layer."""
    disk = images.create('disk', 8 * MIB)
    vm = launch().add_drive(disk).start()
    vm.qmp('block_set_io_throttle', dict(params(iops=1000, bps=2000),
                                         device='drive0'))
    snap = images.adopt(images.path('snap'))
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'drive0', 'snapshot-file': snap, 'format': 'qcow2'})
    inserted = vm.qmp('query-block')[0]['inserted']
    assert inserted['file'] == snap
    assert (inserted['iops'], inserted['bps']) == (1000, 2000)
    assert inserted['group'] == 'drive0'


# 139: blockdev-del

class Deleter:
    def __init__(self, vm, images):
        self.vm = vm
        self.base = images.create('base', MIB)
        self.new = images.path('new')
        self.images = images

    def add_node(self, node):
        self.vm.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': node, 'file': {
                'driver': 'file', 'filename': self.base}})

    def check(self, node, expected):
        names = [n['node-name']
                 for n in self.vm.qmp('query-named-block-nodes')]
        assert (node in names) == expected

    def delete(self, node, error=False):
        if error:
            self.vm.fails('blockdev-del', {'node-name': node})
        else:
            self.vm.qmp('blockdev-del', {'node-name': node})
            self.check(node, False)

    def add_device(self, device, backend, driver='virtio-blk'):
        self.vm.qmp('device_add', id=device, driver=driver, drive=backend)

    def del_device(self, device, is_virtio=True):
        self.vm.qmp('device_del', id=device)
        if is_virtio:
            self.vm.qmp('system_reset')
        if is_virtio:
            event = self.vm.wait_event('DEVICE_DELETED')
            assert event['data']['path'].endswith('/virtio-backend')
        self.vm.wait_event('DEVICE_DELETED', {'device': device})


@pytest.fixture
def deleter(launch, images):
    vm = launch().add_device('virtio-scsi')
    return Deleter(vm.start(), images)


def test_139_wrong_parameters(deleter):
    deleter.add_node('node0')
    deleter.delete('node1', error=True)
    deleter.vm.fails('blockdev-del', {'id': 'x'})
    deleter.vm.fails('blockdev-del')
    deleter.delete('node0')
    deleter.delete('node0', error=True)


def test_139_attach_detach(deleter):
    deleter.add_node('node0')
    deleter.add_device('device0', 'node0', 'virtio-blk-pci')
    deleter.delete('node0', error=True)
    deleter.del_device('device0')
    deleter.delete('node0')


def test_139_snapshot(deleter):
    d = deleter
    d.add_node('node0')
    d.add_device('device0', 'node0', 'virtio-blk-pci')
    d.vm.qmp('blockdev-snapshot-sync', {
        'node-name': 'node0', 'snapshot-file': d.new,
        'snapshot-node-name': 'overlay0', 'format': 'qcow2'})
    d.images.adopt(d.new)
    d.delete('node0', error=True)
    d.delete('overlay0', error=True)     # not the user's
    d.check('overlay0', True)
    d.del_device('device0')
    d.check('overlay0', False)
    d.delete('node0')


def test_139_mirror(deleter):
    d = deleter
    d.add_node('node0')
    d.add_device('device0', 'node0', 'virtio-blk-pci')
    d.vm.qmp('drive-mirror', {
        'job-id': 'node0', 'device': 'node0', 'node-name': 'mirror0',
        'target': d.new, 'sync': 'top', 'format': 'qcow2'})
    d.images.adopt(d.new)
    d.vm.wait_ready('node0')
    d.delete('node0', error=True)
    d.delete('mirror0', error=True)
    d.vm.qmp('block-job-complete', device='node0')
    d.vm.wait_completed('node0')
    d.delete('node0')
    d.delete('mirror0', error=True)
    d.del_device('device0')
    d.check('mirror0', False)


@pytest.mark.parametrize('cd', ['scsi-cd'])
def test_139_insert_eject(deleter, cd):
    d = deleter
    d.vm.qmp('device_add', id='device0', driver=cd)
    d.vm.qmp('blockdev-open-tray', id='device0')
    d.add_node('node0')
    d.vm.qmp('blockdev-insert-medium', {'id': 'device0',
                                        'node-name': 'node0'})
    d.delete('node0', error=True)
    d.vm.qmp('blockdev-remove-medium', id='device0')
    d.delete('node0')


def test_139_quorum(deleter):
    d = deleter
    for i in range(3):
        d.vm.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': f'node{i}', 'file': {
                'driver': 'file', 'locking': 'off', 'filename': d.base}} if i
            == 0 else {'driver': 'null-co', 'node-name': f'node{i}',
                       'size': MIB})
    d.vm.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'quorum0', 'vote-threshold': 1,
        'children': [f'node{i}' for i in range(3)]})
    for i in range(3):
        d.delete(f'node{i}', error=True)
    d.delete('quorum0')
    for i in range(3):
        d.delete(f'node{i}')


# 307: exports

def test_307_exports(launch, images):
    path = images.create('disk', 64 * MIB, fmt='raw')
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_blockdev(f'file,filename={path},node-name=file')
    vm.add_blockdev('raw,file=file,node-name=fmt,read-only=on')
    vm.add_blockdev(f'file,filename={path},node-name=ro,read-only=on')
    vm.add_device('virtio-scsi,id=scsi,iothread=iothread0')
    vm.start()
    assert vm.qmp('query-block-exports') == []
    export = {'type': 'nbd', 'id': 'export0', 'node-name': 'fmt'}
    vm.fails('block-export-add', export)
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.fails('block-export-add', dict(export, id='#invalid'),
             desc='Invalid block export id')
    vm.qmp('block-export-add', export)
    vm.fails('block-export-add', export,
             desc="Block export id 'export0' is already in use")
    vm.fails('block-export-add', dict(export, id='export1',
                                      **{'node-name': 'ro'}, writable=True),
             desc='Cannot export read-only node as writable')
    assert vm.qmp('query-block-exports') == [{
        'node-name': 'fmt', 'shutting-down': False, 'type': 'nbd',
        'id': 'export0'}]
    vm.qmp('block-export-del', id='export0')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'export0'})
    vm.fails('block-export-del', id='export0',
             desc="Export 'export0' is not found")
    vm.qmp('nbd-server-stop')


# t/...

@pytest.mark.ours(reason='QEMU 7.2 asserts here')
def test_iothreads_create(launch, images):
    """blockdev-create on a node in an iothread."""
    path = images.create('disk', 512 * KIB, fmt='raw')
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_blockdev(f'file,filename={path},node-name=disk-file')
    vm.start()
    vm.qmp('x-blockdev-set-iothread', {'node-name': 'disk-file',
                                       'iothread': 'iothread0'})
    vm.qmp('blockdev-create', {'job-id': 'job0', 'options': {
        'driver': 'qcow2', 'file': 'disk-file', 'size': 256 * MIB}})
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'concluded'})
    job = vm.qmp('query-jobs')[0]
    assert 'error' not in job, job
    vm.qmp('job-dismiss', id='job0')
    vm.stop()
    images.formats.pop(path)
    assert images.info(path)['format'] == 'qcow2'


def test_iothreads_stream(launch, images):
    """Two streams beside each other in one iothread."""
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_device('virtio-scsi,iothread=iothread0')
    for i in range(2):
        base = images.create(f'base{i}', MIB)
        images.io(base, 'write -P 5 0 1M')
        top = images.create(f'top{i}', MIB, backing=base)
        vm.add_blockdev(f'qcow2,file.driver=file,file.filename={top},'
                        f'node-name=disk{i}')
        vm.add_device(f'scsi-hd,drive=disk{i}')
    vm.start()
    for i in range(2):
        vm.qmp('block-stream', {'device': f'disk{i}', 'job-id': f'job{i}'})
    for _ in range(2):
        vm.wait_event('BLOCK_JOB_COMPLETED')


def test_iothread_conflict(launch, images):
    """One tree, two devices in different iothreads."""
    disk = images.create('disk', MIB)
    vm = launch().add_object('iothread,id=io0').add_object('iothread,id=io1')
    vm.add_blockdev(f'qcow2,file.driver=file,file.filename={disk},'
                    'node-name=disk')
    vm.add_device('virtio-scsi,id=scsi0,iothread=io0')
    vm.add_device('virtio-scsi,id=scsi1,iothread=io1')
    vm.add_device('scsi-hd,id=hd0,bus=scsi0.0,drive=disk,share-rw=on')
    vm.start()
    vm.fails('device_add', {
        'driver': 'scsi-hd', 'id': 'hd1', 'bus': 'scsi1.0', 'drive': 'disk',
        'share-rw': True}, desc='Cannot change iothread of active block '
        'backend')
    vm.qmp('device_add', {
        'driver': 'scsi-hd', 'id': 'hd1', 'bus': 'scsi0.0', 'drive': 'disk',
        'share-rw': True})


def test_mirror_top_perms(launch, images):
    """While a mirror runs nobody else opens the disk, after it they do."""
    source = images.create('source', 64 * MIB, fmt='raw')
    target = images.path('target')
    vm = launch(name='a')
    vm.add_drive(source, image_format='raw')
    vm.start()
    vm.qmp('drive-mirror', {
        'job-id': 'mirror', 'device': 'drive0', 'target': target,
        'format': 'raw', 'sync': 'full', 'speed': 1})
    code, text = run_tool('qemu-io', '-f', 'raw', '-c', 'quit', source,
                          check=False)
    assert code == 1 and 'lock' in text, text
    other = launch(name='b')
    other.add_drive(source, image_format='raw')
    with pytest.raises(Exception):
        other.start()
    other.proc.wait()
    other.expect_exit = None
    assert 'Is another process using the image' in other.output()
    vm.qmp('block-job-cancel', device='mirror', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'mirror', 'status': 'null'})


def test_stream_error_on_reset(launch, images):
    """The error of a stream comes up inside the drain of a reset."""
    base = images.create('base', MIB)
    images.io(base, 'write -P 1 0 1M')
    top = images.create('top', MIB, backing=base)
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_blockdev(f'file,filename={base},node-name=base-file')
    vm.add_blockdev('blkdebug,node-name=base-dbg,image=base-file,'
                    'inject-error.0.event=read_aio,inject-error.0.errno=5,'
                    'inject-error.0.once=off')
    vm.add_blockdev('qcow2,node-name=base,file=base-dbg')
    vm.add_blockdev(f'qcow2,node-name=top,backing=base,file.driver=file,'
                    f'file.filename={top}')
    vm.add_device('virtio-scsi,iothread=iothread0')
    vm.add_device('scsi-hd,drive=top')
    vm.start()
    vm.qmp('block-stream', {'device': 'top', 'job-id': 'j'})
    vm.qmp('system_reset')
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert data['error'] == 'Input/output error'


def test_stream_under_throttle(launch, images):
    """The clock runs; the stream goes through two limits to its end."""
    base = images.create('base', 10 * MIB)
    images.io(base, 'write -P 1 0 10M')
    top = images.create('top', 10 * MIB, backing=base)
    vm = launch(qtest=False)
    vm.add_object('iothread,id=iothread0')
    vm.add_object('throttle-group,id=throttled0,x-iops-total=10000,'
                  'x-bps-total=104857600')
    vm.add_blockdev(f'throttle,node-name=base-t,throttle-group=throttled0,'
                    f'file.driver=qcow2,file.file.driver=file,'
                    f'file.file.filename={base}')
    vm.add_blockdev('throttle,node-name=base-t2,throttle-group=throttled0,'
                    'file=base-t')
    vm.add_blockdev(f'qcow2,node-name=top,backing=base-t2,file.driver=file,'
                    f'file.filename={top}')
    vm.add_device('virtio-blk,iothread=iothread0,drive=top')
    vm.start()
    vm.qmp('block-stream', {'job-id': 'stream', 'device': 'top'})
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'stream', 'status': 'null'})
    vm.stop()
    images.io(top, 'read -P 1 0 10M')


@pytest.mark.ours(reason='QEMU 7.2 asserts here')
def test_iothreads_nbd_export(launch, images):
    """A reset while an exported disk of an iothread is being written."""
    disk = images.create('disk', 64 * MIB, fmt='raw')
    vm = launch(qtest=False)
    vm.add_object('iothread,id=iothread0')
    vm.add_device('virtio-scsi,id=scsi0,iothread=iothread0')
    vm.add_blockdev(f'file,filename={disk},node-name=disk')
    vm.add_device('scsi-hd,drive=disk,share-rw=on')
    vm.start()
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('block-export-add', {'type': 'nbd', 'id': 'exp', 'name': 'disk',
                                'node-name': 'disk', 'writable': True,
                                'iothread': 'iothread0'})
    uri = f'nbd+unix:///disk?socket={vm.nbd_path}'
    for _ in range(3):
        run_tool('qemu-io', '-f', 'raw', '-c', 'aio_write 0 64k',
                 '-c', 'aio_flush', uri)
        vm.qmp('system_reset')


def test_245_replace_by_reopen(launch, images):
    """Limits of a drive and a device over a node that is reopened."""
    disk = images.create('hd0', 3 * MIB)
    vm = launch().start()
    options = {'driver': 'qcow2', 'node-name': 'hd0', 'file': {
        'driver': 'file', 'node-name': 'hd0-file', 'filename': disk}}
    vm.qmp('blockdev-add', options)
    vm.qmp('device_add', {'driver': 'virtio-blk', 'drive': 'hd0',
                          'id': 'hd', 'share-rw': True})
    vm.qmp('blockdev-reopen', options=[dict(
        options, **{'file': 'hd0-file', 'lazy-refcounts': True})])
    vm.fails('blockdev-reopen', options=[dict(
        options, **{'file': 'hd0-file', 'read-only': True})],
        desc="Read-only block node 'hd0' cannot support read-write users")


def test_202_transaction_in_iothread(launch, images):
    """Snapshots of two disks of one iothread, at once."""
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_device('virtio-scsi,id=scsi0,iothread=iothread0')
    names = [images.create(f'disk{i}', 10 * MIB) for i in range(2)]
    for i, path in enumerate(names):
        vm.add_blockdev(f'file,node-name=file{i},filename={path}')
        vm.add_blockdev(f'qcow2,node-name=disk{i},file=file{i}')
        vm.add_device(f'scsi-hd,bus=scsi0.0,drive=disk{i}')
    vm.start()
    actions = []
    for i in range(2):
        snap = images.adopt(images.path(f'snap{i}'))
        actions.append({'type': 'blockdev-snapshot-sync', 'data': {
            'node-name': f'disk{i}', 'snapshot-file': snap,
            'snapshot-node-name': f'snap{i}', 'format': 'qcow2'}})
    vm.qmp('transaction', actions=actions)
    assert [b['inserted']['node-name'] for b in vm.qmp('query-block')] == \
        ['snap0', 'snap1']


def test_081_quorum_drive(launch, images):
    """A quorum as a drive, in dotted keys."""
    paths = [images.create(f'{i}.raw', 10 * MIB, fmt='raw')
             for i in range(3)]
    for path in paths:
        images.io(path, 'write -P 0x32 0 10M')
    options = 'driver=quorum,vote-threshold=2'
    for i, path in enumerate(paths):
        options += f',children.{i}.file.filename={path}' \
                   f',children.{i}.driver=raw'
    vm = launch().add_drive_raw(f'if=none,id=q,{options}').start()
    assert vm.io_lines('q', 'read -P 0x32 0 10M')[0] == \
        'read 10485760/10485760 bytes at offset 0'
