# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows on backups need of a machine: 055, 056,
124, 185, 219, 256, 257, 281, 283, 304."""

import json
import time

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20
LEN = 64 * MIB


@pytest.fixture
def vm(launch, images):
    """055's: a disk, a target drive and an empty CD drive."""
    disk = images.create('disk.img', LEN)
    images.io(disk, 'write -P 0x5d 0 64k', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k', 'write -P 0xdc 67043328 64k')
    blockdev = images.create('blockdev-target.img', LEN)
    machine = launch().add_drive('blkdebug::' + disk)
    machine.add_drive(blockdev, interface='none')
    machine.add_drive_raw('if=ide,id=drive2,media=cdrom')
    machine.paths = disk, blockdev
    return machine.start()


@pytest.mark.parametrize('how', ['drive', 'blockdev'])
def test_055_complete(vm, images, how):
    disk, blockdev = vm.paths
    target = blockdev
    if how == 'drive':
        target = images.adopt(images.path('target.img'))
        vm.qmp('drive-backup', {'device': 'drive0', 'target': target,
                                'sync': 'full'})
    else:
        vm.qmp('blockdev-backup', {'device': 'drive0', 'target': 'drive1',
                                   'sync': 'full'})
    data = vm.wait_completed(type='backup')
    assert data['len'] == LEN
    vm.stop()
    images.identical(disk, target)


@pytest.mark.parametrize('how', ['drive', 'blockdev'])
def test_055_cancel(vm, images, how):
    vm.pause_drive('drive0')
    if how == 'drive':
        vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'full',
                                'target': images.path('target.img')})
        images.adopt(images.path('target.img'))
    else:
        vm.qmp('blockdev-backup', {'device': 'drive0', 'target': 'drive1',
                                   'sync': 'full'})
    assert vm.cancel(resume=True)['type'] == 'backup'


def test_055_pause(vm, images):
    target = images.adopt(images.path('target.img'))
    vm.pause_drive('drive0')
    vm.qmp('drive-backup', {'device': 'drive0', 'target': target,
                            'sync': 'full'})
    vm.qmp('block-job-pause', device='drive0')
    vm.resume_drive('drive0')
    deadline = time.monotonic() + 15
    while vm.job()['busy'] or not vm.job()['paused']:
        assert time.monotonic() < deadline
    offset = vm.job()['offset']
    time.sleep(0.1)
    assert vm.job()['offset'] == offset
    vm.qmp('block-job-resume', device='drive0')
    vm.wait_completed()
    vm.stop()
    images.identical(vm.paths[0], target)


@pytest.mark.parametrize('command, target', [
    ('drive-backup', 'TARGET'), ('blockdev-backup', 'drive1')])
def test_055_refusals(vm, images, command, target):
    target = target.replace('TARGET', images.path('t'))
    vm.fails(command, {'device': 'drive2', 'target': target, 'sync': 'full'})
    vm.fails(command, {'device': 'nonexistent', 'target': target,
                       'sync': 'full'})
    if command == 'drive-backup':
        vm.fails(command, {'device': 'drive0', 'target': target,
                           'sync': 'full', 'mode': 'existing'})
        vm.fails(command, {'device': 'drive0', 'target': target,
                           'sync': 'full', 'format': 'spaghetti-noodles'})
    else:
        vm.fails(command, {'device': 'drive0', 'target': 'drive0',
                           'sync': 'full'})
        vm.fails(command, {'device': 'drive0', 'target': 'drive2',
                           'sync': 'full'})
    assert vm.qmp('query-block-jobs') == []


@pytest.mark.parametrize('by_transaction', [False, True])
def test_055_set_speed(vm, images, by_transaction):
    vm.pause_drive('drive0')
    args = {'device': 'drive0', 'target': 'drive1', 'sync': 'full'}
    if by_transaction:
        vm.qmp('transaction', actions=[
            {'type': 'blockdev-backup', 'data': args}])
    else:
        vm.qmp('blockdev-backup', args)
    assert vm.job()['speed'] == 0
    vm.qmp('block-job-set-speed', {'device': 'drive0', 'speed': 8 * MIB})
    assert vm.job()['speed'] == 8 * MIB
    vm.fails('block-job-set-speed', {'device': 'drive0', 'speed': -1})
    vm.cancel(resume=True)


def test_055_transaction_abort(vm):
    """One of two backups cannot begin: neither does."""
    vm.fails('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {
            'device': 'nonexistent', 'target': 'drive1', 'sync': 'full'}},
        {'type': 'Abort', 'data': {}}])
    assert vm.qmp('query-block-jobs') == []
    vm.fails('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {
            'device': 'drive0', 'target': 'drive1', 'sync': 'full'}},
        {'type': 'abort', 'data': {}}],
        desc='Transaction aborted using Abort action')
    assert vm.qmp('query-block-jobs') == []


def test_055_compress(launch, images):
    disk = images.create('disk.img', LEN)
    images.io(disk, 'write -P 0x5d 0 64k', 'write -P 0xdc 32M 124k')
    target = images.create('t.img', LEN)
    vm = launch().add_drive('blkdebug::' + disk)
    vm.add_drive(target, interface='none')
    vm.start()
    vm.qmp('blockdev-backup', {'device': 'drive0', 'target': 'drive1',
                               'sync': 'full', 'compress': True})
    vm.wait_completed()
    vm.stop()
    images.identical(disk, target)
    checked = json.loads(run_tool('qemu-img', 'check', '--output=json',
                                  target))
    assert checked['compressed-clusters'] > 0


# 056

@pytest.fixture
def vm56(launch, images):
    back = images.create('back', 8 * MIB)
    images.io(back, 'write -P 1 0 4M')
    disk = images.create('disk', 8 * MIB, backing=back)
    images.io(disk, 'write -P 2 1M 1M')
    machine = launch().add_drive(disk)
    machine.paths = back, disk
    return machine.start()


def test_056_top(vm56, images):
    """Only what the top layer has is copied."""
    back, disk = vm56.paths
    target = images.create('target', 8 * MIB, backing=back)
    vm56.qmp('drive-backup', {
        'device': 'drive0', 'sync': 'top', 'format': 'qcow2',
        'mode': 'existing', 'target': target})
    vm56.qemu_io('drive0', 'write -P 0x41 0 512')
    vm56.wait_completed()
    vm56.stop()
    images.io(target, 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 1 2M 2M')


@pytest.mark.parametrize('by_node', [False, True])
def test_056_none(vm56, images, by_node):
    """Each cluster before the guest writes to it for the first time."""
    target = images.adopt(images.path('target'))
    vm56.qmp('drive-backup', {
        'device': 'drive0', 'sync': 'none', 'format': 'qcow2',
        'target': target, 'job-id': 'j0'})
    vm56.qemu_io('drive0', 'write -P 0x5e 0 512')
    vm56.qemu_io('drive0', 'aio_write -P 0x5f 1M 64k')
    vm56.qemu_io('drive0', 'aio_write -P 0x60 1088k 64k')
    vm56.qemu_io('drive0', 'aio_flush')
    vm56.qmp('block-job-cancel', device='j0', force=False)
    vm56.wait_event('JOB_STATUS_CHANGE', {'id': 'j0', 'status': 'null'})
    vm56.stop()
    run_tool('qemu-img', 'rebase', '-u', '-b', '', '-f', 'qcow2', target)
    images.io(target, 'read -P 1 0 64k', 'read -P 2 1M 128k',
              'read -P 0 2M 1M')


def test_056_overlapping(launch, images):
    """Two guest writes to one cluster, its first copy held up."""
    disk = images.create('disk', 8 * MIB)
    images.io(disk, 'write -P 3 0 1M')
    vm = launch().add_drive('blkdebug::' + disk).start()
    target = images.adopt(images.path('target'))
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'none',
                            'format': 'qcow2', 'target': target})
    vm.pause_drive('drive0', 'read_aio')
    vm.qemu_io('drive0', 'aio_write -P 9 0 512')
    vm.qemu_io('drive0', 'aio_write -P 8 16k 512')
    vm.resume_drive('drive0')
    vm.qemu_io('drive0', 'aio_flush')
    vm.cancel()
    vm.stop()
    images.io(target, 'read -P 3 0 64k')
    images.io(disk, 'read -P 9 0 512', 'read -P 8 16k 512',
              'read -P 3 512 512')


@pytest.mark.parametrize('auto_dismiss', [True, False])
def test_056_dismiss(vm56, images, auto_dismiss):
    target = images.adopt(images.path('target'))
    vm56.qmp('drive-backup', {
        'device': 'drive0', 'sync': 'full', 'target': target,
        'format': 'qcow2', 'auto-dismiss': auto_dismiss})
    vm56.wait_event('BLOCK_JOB_COMPLETED')
    vm56.wait_event('JOB_STATUS_CHANGE', {
        'status': 'null' if auto_dismiss else 'concluded'})
    if auto_dismiss:
        text = vm56.fails('block-job-dismiss', id='drive0',
                          cls='DeviceNotActive')
        assert text == "Block job 'drive0' not found" or vm56.is_qemu
        return
    assert vm56.job()['status'] == 'concluded'
    vm56.fails('drive-backup', {
        'device': 'drive0', 'sync': 'full', 'target': target,
        'format': 'qcow2', 'mode': 'existing'},
        desc="Job ID 'drive0' already in use")
    vm56.qmp('block-job-dismiss', id='drive0')
    assert vm56.qmp('query-block-jobs') == []


# Others

def test_281_failed_transactions(launch, images):
    """A refused transaction on disks in iothreads leaves nothing."""
    target = images.create('target', 2 * MIB, fmt='raw')
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_device('virtio-scsi,id=scsi,iothread=iothread0')
    vm.start()
    vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'null',
                            'size': MIB, 'read-zeroes': True})
    vm.qmp('blockdev-add', {
        'driver': 'file', 'node-name': 'target', 'filename': target})
    vm.qmp('device_add', {'driver': 'scsi-hd', 'id': 'hd', 'drive': 'null'})
    vm.fails('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {
            'device': 'null', 'target': 'target', 'sync': 'full'}}])
    assert vm.qmp('query-block-jobs') == []
    vm.qmp('block-dirty-bitmap-add', node='null', name='bitmap')


def test_283_cbw_permissions(launch, images):
    """A backup into a node below somebody's eyes."""
    vm = launch().start()
    vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'target',
                            'size': MIB})
    vm.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'source',
        'image': {'driver': 'null-co', 'node-name': 'base', 'size': MIB}})
    vm.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'other', 'image': 'base',
        'take-child-perms': ['write']})
    text = vm.fails('blockdev-backup', {
        'sync': 'full', 'device': 'source', 'target': 'target',
        'job-id': 'backup0'})
    assert 'ermission' in text


def test_283_filter_gone(launch):
    """The filter is not found once its job has been finalized."""
    vm = launch().start()
    for name in ('source', 'target'):
        vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': name,
                                'size': 1 << 20})
    vm.qmp('blockdev-backup', {
        'sync': 'full', 'device': 'source', 'target': 'target',
        'job-id': 'backup0', 'filter-node-name': 'cbw',
        'auto-finalize': False, 'auto-dismiss': False})
    vm.wait_event('BLOCK_JOB_PENDING')
    assert vm.io_lines('cbw', 'write 0 1M')[0] == \
        'wrote 1048576/1048576 bytes at offset 0'
    vm.qmp('job-finalize', id='backup0')
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'concluded'})
    assert vm.qemu_io('cbw', 'write 0 1M') == \
        "Error: Cannot find device='' nor node-name='cbw'\r\n"
    vm.qmp('job-dismiss', id='backup0')


def test_304_unaligned(launch, images):
    path = images.path('disk')
    with open(path, 'wb') as file:
        file.write(b'\x5d' * 4097)
    target = images.adopt(images.path('target'))
    vm = launch().add_drive_raw(
        f'if=none,id=drive0,file={path},format=raw').start()
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'full',
                            'target': target, 'format': 'qcow2',
                            'job-id': 'backup0'})
    vm.wait_completed('backup0')
    vm.stop()
    assert images.content(target)[:4097] == b'\x5d' * 4097
