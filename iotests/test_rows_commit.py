# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows on block-commit need of a machine: 040,
095, 161, 255, 274, t/iothreads-commit-active."""

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


def write(path, *commands):
    args = [arg for command in commands for arg in ('-c', command)]
    run_tool('qemu-io', '-f', 'qcow2', *args, path)


@pytest.fixture
def chain(images):
    """back <- mid <- top, 512 KiB of each one's own."""
    back = images.create('back.qcow2', 2 * MIB)
    mid = images.create('mid.qcow2', 2 * MIB, backing=back)
    top = images.create('top.qcow2', 2 * MIB, backing=mid)
    write(back, 'write -P 0xab 0 524288')
    write(mid, 'write -P 0xef 524288 524288')
    return back, mid, top


@pytest.fixture
def vm(launch, chain):
    machine = launch().add_drive(
        chain[2], 'node-name=top,backing.node-name=mid,'
        'backing.backing.node-name=base', interface='none')
    machine.add_device('virtio-scsi')
    machine.add_device('scsi-hd,id=scsi0,drive=drive0')
    return machine.start()


def assert_committed(vm, chain, offset=0):
    back = chain[0]
    vm.stop()
    write(back, 'read -P 0xab 0 524288', 'read -P 0xef 524288 524288')


def test_040_intermediate(vm, chain):
    back, mid, top = chain
    vm.qmp('block-commit', device='drive0', top=mid, base=back)
    vm.wait_completed()
    assert_committed(vm, chain)


def test_040_by_node_name(vm, chain):
    vm.qmp('block-commit', {'device': 'drive0', 'top-node': 'mid',
                            'base-node': 'base'})
    vm.wait_completed()
    assert_committed(vm, chain)


@pytest.mark.parametrize('top', [None, 'mid'])
def test_040_with_filter(vm, chain, top):
    args = {'device': 'drive0', 'job-id': 'job0',
            'filter-node-name': 'commit-filter'}
    if top:
        args.update({'top-node': 'mid', 'base-node': 'base'})
        vm.qmp('block-commit', args)
        vm.wait_completed('job0')
    else:
        vm.qmp('block-commit', args)
        vm.complete('job0')
    assert vm.qmp('query-block-jobs') == []


@pytest.mark.parametrize('args, desc, cls', [
    ({'device': 'nonexistent'}, None, 'DeviceNotFound'),
    ({'device': 'drive0', 'top': 'badfile', 'base': 'BACK'},
     'Top image file badfile not found', 'GenericError'),
    ({'device': 'drive0', 'top': 'MID', 'base': 'badfile'},
     "Can't find 'badfile' in the backing chain", 'GenericError'),
    ({'device': 'drive0', 'top': 'BACK', 'base': 'MID'},
     "Can't find 'MID' in the backing chain", 'GenericError'),
    ({'device': 'drive0', 'top': 'MID', 'base': 'MID'},
     "Can't find 'MID' in the backing chain", 'GenericError'),
    ({'device': 'drive0', 'top-node': 'badfile', 'base-node': 'base'},
     "Cannot find device='' nor node-name='badfile'", 'GenericError'),
    ({'device': 'drive0', 'top-node': 'base', 'base-node': 'mid'},
     "'mid' is not in this backing file chain", 'GenericError'),
])
def test_040_refusals(vm, chain, args, desc, cls):
    names = {'BACK': chain[0], 'MID': chain[1]}
    args = {key: names.get(value, value) for key, value in args.items()}
    if desc:
        for name, path in names.items():
            desc = desc.replace(name, path)
    vm.fails('block-commit', args, desc=desc, cls=cls)
    assert vm.qmp('query-block-jobs') == []


def test_040_active(vm, chain):
    back, mid, top = chain
    vm.qemu_io('drive0', 'write -P 0xcd 1M 64k')
    vm.qmp('block-commit', device='drive0', top=top, base=back)
    vm.complete(type='commit')
    node = vm.qmp('query-block')[0]['inserted']['node-name']
    assert node == 'base'
    assert vm.io_lines('drive0', 'read -P 0xcd 1M 64k')[0] == \
        'read 65536/65536 bytes at offset 1048576'
    assert_committed(vm, chain)


def test_040_active_cancelled(vm, chain):
    back, mid, top = chain
    vm.qmp('block-commit', device='drive0', top=top, base=back)
    vm.wait_ready()
    assert vm.cancel()['type'] == 'commit'
    assert vm.qmp('query-block')[0]['inserted']['node-name'] == 'top'


def test_040_hot_unplug(launch, chain, images):
    """The disk goes, its job with it."""
    machine = launch().add_drive(
        chain[2], 'node-name=top,backing.node-name=mid,'
        'backing.backing.node-name=base', interface='none')
    machine.add_device('virtio-scsi')
    machine.add_device('scsi-hd,id=scsi0,drive=drive0')
    vm = machine.start()
    vm.qemu_io('drive0', 'write -P 0xcd 0 1M')
    vm.qmp('block-commit', {'device': 'drive0', 'speed': 1})
    vm.qmp('device_del', id='scsi0')
    seen = {vm.wait_event(['BLOCK_JOB_CANCELLED', 'DEVICE_DELETED'])['event']
            for _ in range(2)}
    assert seen == {'BLOCK_JOB_CANCELLED', 'DEVICE_DELETED'}
    assert vm.qmp('query-block-jobs') == []
    assert vm.qmp('query-block') == []


def test_040_resize_after_commit(vm, chain):
    back, mid, top = chain
    vm.qmp('block-commit', device='drive0', top=mid, base=back)
    vm.wait_completed()
    vm.qmp('block_resize', device='drive0', size=4 * MIB)
    assert vm.qmp('query-block')[0]['inserted']['image'][
        'virtual-size'] == 4 * MIB


def test_095_smaller_base(launch, images):
    base = images.create('base', 5 * MIB)
    mid = images.create('mid', 20 * MIB, backing=base)
    top = images.create('top', 20 * MIB, backing=mid)
    write(mid, 'write -P 3 10M 64k')
    vm = launch().add_drive_raw(
        f'file={top},if=none,id=test,format=qcow2').start()
    vm.qmp('block-commit', device='test', top=mid, base=base)
    vm.wait_completed('test')
    vm.stop()
    assert images.info(base)['virtual-size'] == 20 * MIB
    write(base, 'read -P 3 10M 64k')


def test_161_reopen_after_commit(launch, images):
    """HMP's reopen of a backing file that the job has moved."""
    base = images.create('base', MIB)
    mid = images.create('mid', MIB, backing=base)
    top = images.create('top', MIB, backing=mid)
    vm = launch().add_drive_raw(
        f'if=none,id=drive0,file={top},format=qcow2,'
        'backing.driver=qcow2,backing.file.locking=auto').start()
    assert vm.qemu_io('drive0', 'reopen -o backing.detect-zeroes=on') == ''
    vm.qmp('block-commit', device='drive0', top=mid, base=base)
    vm.wait_completed()
    assert vm.qemu_io('drive0', 'reopen -o backing.detect-zeroes=on') == ''
    assert 'rror' not in vm.output()
    nodes = {n['file']: n for n in vm.qmp('query-named-block-nodes')
             if n['drv'] == 'qcow2'}
    assert nodes[base]['detect_zeroes'] == 'on' or vm.is_qemu


@pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
def test_255_commit_with_requests_in_flight(launch, images):
    """The graph changes at the end of a commit while the guest writes."""
    base = images.create('base', 64 * MIB)
    mid = images.create('mid', 64 * MIB, backing=base)
    top = images.create('top', 64 * MIB, backing=mid)
    write(mid, 'write -P 5 0 4M')
    vm = launch().add_object('throttle-group,x-bps-write=65536,id=tg')
    vm.add_blockdev(f'file,node-name=base-file,filename={base}')
    vm.add_blockdev('throttle,node-name=base-th,throttle-group=tg,'
                    'file=base-file')
    vm.add_blockdev('qcow2,node-name=base,file=base-th')
    vm.add_blockdev('qcow2,node-name=mid,backing=base,file.driver=file,'
                    f'file.filename={mid}')
    vm.add_blockdev('qcow2,node-name=top,backing=mid,file.driver=file,'
                    f'file.filename={top}')
    vm.start()
    vm.qmp('block-commit', {'device': 'top', 'job-id': 'j', 'top-node': 'mid',
                            'base-node': 'base', 'auto-dismiss': False})
    for i in range(5):
        vm.qemu_io('top', f'aio_write -P {i + 1} {i}M 64k')
    if vm.qtest:
        for _ in range(20):
            vm.qtest.clock_step(10 ** 10)
    vm.qmp('block-job-cancel', device='j', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'concluded'})
    vm.qmp('job-dismiss', id='j')


def test_iothreads_commit_active(launch, images):
    """An active commit beside a busy mirror in one iothread."""
    one, base, top = (images.create(n, 64 * MIB) for n in ('o', 'b', 't'))
    vm = launch().add_object('iothread,id=iothread0')
    for i, path in enumerate((one, base)):
        vm.add_blockdev(f'qcow2,file.driver=file,file.filename={path},'
                        f'node-name=disk{i}')
    vm.add_blockdev(f'qcow2,file.driver=file,file.filename={top},'
                    'node-name=top,backing=disk1')
    vm.add_device('virtio-scsi,iothread=iothread0')
    vm.add_device('scsi-hd,drive=disk0,share-rw=on')
    vm.add_device('scsi-hd,drive=top,share-rw=on')
    vm.start()
    vm.qemu_io('top', 'write -P 7 0 1M')
    vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'null',
                            'size': 64 * MIB})
    vm.qmp('blockdev-mirror', {
        'job-id': 'job0', 'device': 'disk0', 'target': 'null', 'sync': 'full',
        'speed': 1})
    vm.qmp('block-commit', {'job-id': 'job1', 'device': 'top',
                            'base-node': 'disk1'})
    vm.wait_ready('job1')
    vm.qmp('block-job-complete', device='job1')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'job1', 'status': 'null'})
    vm.qmp('block-job-cancel', device='job0', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'job0', 'status': 'null'})
