# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 055, 056 and 057: backups and internal snapshots of
drives, case by case; what test_rows_backup.py leaves out."""

import time

import pytest

from .images import qemu_img

MIB = 1 << 20
LEN = 64 * MIB


@pytest.fixture
def disk(images):
    path = images.create('test.img', LEN)
    images.io(path, 'write -P 0x11 0 64k', 'write -P 0x00 64k 128k',
              'write -P 0x22 162k 32k', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k', 'write -P 0xdc 67043328 64k')
    return path


def transaction(vm, command, args):
    vm.qmp('transaction', actions=[{'type': command, 'data': args}])


@pytest.mark.parametrize('command', ['drive-backup', 'blockdev-backup'])
@pytest.mark.parametrize('case', ['cancel', 'pause', 'refused'])
def test_055_transaction(launch, images, disk, command, case):
    target = images.create('blockdev-target.img', LEN)
    vm = launch().add_drive('blkdebug::' + disk)
    vm.add_drive(target, interface='none')
    vm.add_drive_raw('if=ide,id=drive2,media=cdrom').start()
    args = {'device': 'drive0', 'target': 'drive1', 'sync': 'full'}
    if command == 'drive-backup':
        target = images.adopt(images.path('target.img'))
        args['target'] = target
    if case == 'refused':
        for change in ({'device': 'drive2'}, {'device': 'nonexistent'}):
            vm.fails('transaction', actions=[
                {'type': command, 'data': dict(args, **change)}],
                cls='GenericError')
        if command == 'drive-backup':
            vm.fails('transaction', actions=[
                {'type': command, 'data': dict(args, mode='existing')}],
                cls='GenericError')
        return
    vm.pause_drive('drive0')
    transaction(vm, command, args)
    if case == 'cancel':
        assert vm.cancel(resume=True)['type'] == 'backup'
        return
    vm.qmp('block-job-pause', device='drive0')
    vm.resume_drive('drive0')
    while vm.job()['busy'] or not vm.job()['paused']:
        pass
    offset = vm.job()['offset']
    assert vm.job()['offset'] == offset
    vm.qmp('block-job-resume', device='drive0')
    vm.wait_completed()
    vm.stop()
    images.identical(disk, target)


@pytest.mark.ours(reason='7.2 crashes')
@pytest.mark.parametrize('second', ['nonexistent', 'drive0'])
def test_055_transaction_of_two(launch, images, disk, second):
    """One cannot begin: none does, and no image stays busy."""
    vm = launch().add_drive(disk).start()
    paths = [images.path('target.img'), images.path('other.img')]
    vm.fails('transaction', actions=[
        {'type': 'drive-backup', 'data': {
            'device': device, 'target': path, 'sync': 'full'}}
        for device, path in zip(('drive0', second), paths)])
    assert vm.qmp('query-block-jobs') == []
    images.adopt(paths[0])
    vm.qmp('drive-backup', {'device': 'drive0', 'target': paths[0],
                            'sync': 'full'})
    vm.wait_completed()


@pytest.mark.parametrize('command', ['drive-backup', 'blockdev-backup'])
@pytest.mark.parametrize('case', ['complete', 'cancel', 'pause'])
def test_055_compressed(launch, images, disk, command, case):
    target = images.create('blockdev-target.img', LEN)
    vm = launch().add_drive('blkdebug::' + disk)
    args = {'device': 'drive0', 'sync': 'full', 'compress': True}
    if command == 'blockdev-backup':
        vm.add_drive(target, interface='none')
        args['target'] = 'drive1'
    else:
        args.update(target=target, mode='existing')
    vm.start()
    if case != 'complete':
        vm.pause_drive('drive0')
    vm.qmp(command, args)
    if case == 'cancel':
        vm.cancel(resume=True)
        return
    if case == 'pause':
        vm.qmp('block-job-pause', device='drive0')
        vm.resume_drive('drive0')
        while vm.job()['busy'] or not vm.job()['paused']:
            pass
        vm.qmp('block-job-resume', device='drive0')
    vm.wait_completed()
    vm.stop()
    images.identical(disk, target)


# 056

def test_056_none_then_cancel(launch, images):
    """sync=none keeps what the guest overwrites."""
    back = images.create('back.img', 64 * MIB, fmt='raw')
    images.io(back, 'write -P 0x41 0 512', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k')
    test = images.create('test.img', 64 * MIB, backing=back)
    images.io(test, 'write -P 0x41 0 512')
    vm = launch().add_drive(test).start()
    target = images.adopt(images.path('target.img'))
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'none',
                            'format': 'qcow2', 'target': target})
    vm.qemu_io('drive0', 'write -P0x5e 0 512')
    vm.qemu_io('drive0', 'aio_flush')
    assert vm.qmp('query-block-jobs') != []
    vm.cancel(force=False)
    vm.stop()
    images.io(target, 'read -P0x41 0 512')


def test_056_top(launch, images):
    back = images.create('back.img', 64 * MIB, fmt='raw')
    images.io(back, 'write -P 0x41 0 512', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k', 'write -P 0xdc 67043328 64k')
    test = images.create('test.img', 64 * MIB, backing=back)
    images.io(test, 'write -P 0x41 0 512', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k', 'write -P 0xdc 67043328 64k')
    vm = launch().add_drive(test).start()
    target = images.adopt(images.path('target.img'))
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'top',
                            'format': 'qcow2', 'target': target})
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert 'error' not in data
    vm.stop()
    images.identical(test, target)


def test_056_before_write_notifier(launch, images):
    """A guest's write to what is not copied yet, the job being paused."""
    vm = launch().add_drive_raw(
        'file=blkdebug::null-co://,id=drive0,align=65536,driver=blkdebug')
    vm.start()
    target = images.path('target.img')
    vm.pause_drive('drive0')
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'full',
                            'target': target, 'format': 'file', 'speed': 1})
    vm.qmp('block-job-pause', device='drive0')
    vm.qemu_io('drive0', 'aio_write -P 1 512512 512')
    vm.resume_drive('drive0')
    deadline = time.monotonic() + 15
    while vm.job()['busy'] or not vm.job()['paused']:
        assert time.monotonic() < deadline
    vm.qmp('block-job-resume', device='drive0')
    assert vm.cancel()['type'] == 'backup'


@pytest.fixture
def vm56(launch, images):
    path = images.create('test', LEN)
    vm = launch().add_drive(path).start()
    vm.paths = path, images.path('dest'), images.path('ref')
    for target in vm.paths[1:]:
        images.adopt(target)
    return vm


def writes(vm, patterns):
    for pattern, offset, size in patterns:
        vm.qemu_io('drive0', f'write -P{pattern} {offset} {size}')
    vm.qemu_io('drive0', 'flush')


def concluded(vm, job='drive0', error=None):
    data = vm.wait_event('BLOCK_JOB_COMPLETED', {'device': job})['data']
    assert data.get('error') == error
    jobs = [j for j in vm.qmp('query-block-jobs') if j['device'] == job]
    while jobs and jobs[0]['status'] != 'concluded':
        jobs = [j for j in vm.qmp('query-block-jobs') if j['device'] == job]
    return jobs


def backup(vm, target, **options):
    vm.qmp('drive-backup', dict({
        'device': 'drive0', 'target': target, 'format': 'qcow2',
        'sync': 'full'}, **{k.replace('_', '-'): v
                            for k, v in options.items()}))


def test_056_dismiss(vm56):
    test, dest, ref = vm56.paths
    backup(vm56, dest, auto_dismiss=True)
    vm56.wait_completed()
    backup(vm56, dest, auto_dismiss=False)
    assert concluded(vm56)
    vm56.qmp('block-job-dismiss', id='drive0')
    assert vm56.qmp('query-block-jobs') == []


def test_056_dismiss_bad_id(vm56):
    assert vm56.fails('block-job-dismiss', {'id': 'foobar'},
                      cls='DeviceNotActive') == "Block job 'foobar' not found"


def test_056_dismiss_collision(vm56):
    test, dest, ref = vm56.paths
    backup(vm56, dest, auto_dismiss=False)
    assert concluded(vm56)
    vm56.fails('drive-backup', {
        'device': 'drive0', 'target': ref, 'format': 'qcow2',
        'sync': 'full'}, desc="Job ID 'drive0' already in use")
    vm56.qmp('block-job-dismiss', id='drive0')
    assert vm56.qmp('query-block-jobs') == []
    backup(vm56, ref, auto_dismiss=False)
    assert concluded(vm56)
    vm56.qmp('block-job-dismiss', id='drive0')


@pytest.mark.parametrize('dismiss', [False, True])
def test_056_dismiss_premature(vm56, images, dismiss):
    vm, (test, dest, ref) = vm56, vm56.paths
    writes(vm, (('0x9a', 0, 512), ('0x55', '8M', '352k'),
                ('0x78', '15872k', '1M')))
    images.create('dest', LEN)
    vm.qmp('blockdev-add', {
        'node-name': 'target0', 'driver': 'qcow2', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': dest},
            'inject-error': [{'event': 'write_aio', 'errno': 5,
                              'immediately': False, 'once': True}]}})
    images.allow_leaks(dest)
    vm.qmp('blockdev-backup', {
        'device': 'drive0', 'target': 'target0', 'sync': 'full',
        'on-target-error': 'stop', 'auto-dismiss': dismiss})
    vm.wait_event('BLOCK_JOB_ERROR', {'device': 'drive0'})
    while vm.job()['status'] != 'paused':
        pass
    vm.fails('block-job-dismiss', {'id': 'drive0'},
             desc="Job 'drive0' in state 'paused' cannot accept command verb "
             "'dismiss'")
    assert vm.job()['status'] == 'paused'
    vm.qmp('block-job-resume', device='drive0')
    left = concluded(vm)
    assert bool(left) is not dismiss
    if left:
        vm.qmp('block-job-dismiss', id='drive0')
    assert vm.qmp('query-block-jobs') == []


def test_056_overlapping_writes(vm56, images):
    vm, (test, dest, ref) = vm56, vm56.paths
    writes(vm, [('42', '0M', '2M')])
    backup(vm, ref, auto_dismiss=False)
    assert concluded(vm)
    vm.qmp('block-job-dismiss', id='drive0')
    backup(vm, dest, speed=1, auto_dismiss=False)
    writes(vm, [('23', '1088k', '64k'), ('66', '1M', '1M')])
    vm.qmp('block-job-set-speed', device='drive0', speed=0)
    assert concluded(vm)
    vm.qmp('block-job-dismiss', id='drive0')
    vm.stop()
    images.identical(ref, dest)


# 057

@pytest.fixture
def snapshots(launch, images):
    """Two drives."""
    vm = launch()
    for i in range(2):
        vm.add_drive(images.create(f't{i}.img', 120 * MIB))
    return vm.start()


def take(vm, n, abort=False, fails=None):
    actions = [
        {'type': 'blockdev-snapshot-internal-sync', 'data': {
            'device': f'drive{i}', 'name': f'drive{i}_sn{j}'}}
        for i in range(2) for j in range(n)]
    if abort:
        actions.append({'type': 'abort', 'data': {}})
        vm.fails('transaction', actions=actions, desc=fails)
    else:
        vm.qmp('transaction', actions=actions)


def listed(vm, drive):
    block = next(b for b in vm.qmp('query-block')
                 if b['device'] == f'drive{drive}')
    return block['inserted']['image'].get('snapshots')


@pytest.mark.parametrize('n', [1, 3])
def test_057_create(snapshots, n):
    take(snapshots, n)
    for drive in range(2):
        assert [s['name'] for s in listed(snapshots, drive)] == \
            [f'drive{drive}_sn{j}' for j in range(n)]


@pytest.mark.parametrize('n', [1, 3])
def test_057_abort(snapshots, n):
    take(snapshots, n, abort=True,
         fails='Transaction aborted using Abort action')
    assert [listed(snapshots, d) for d in range(2)] == [None, None]


@pytest.mark.parametrize('bad', [
    {'device': 'drive_error', 'name': 'a'}, {'device': 'drive0', 'name': ''},
    {'device': 'drive0', 'name': 'drive0_sn0'}])
def test_057_refused(snapshots, bad):
    vm = snapshots
    take(vm, 1)
    desc = vm.fails('transaction', actions=[
        {'type': 'blockdev-snapshot-internal-sync', 'data': {
            'device': 'drive1', 'name': 'new'}},
        {'type': 'blockdev-snapshot-internal-sync', 'data': bad}])
    wanted = {'drive_error': "Cannot find device='drive_error' nor "
              "node-name='drive_error'", '': 'Name is empty',
              'drive0_sn0': "Snapshot with name 'drive0_sn0' already exists "
              "on device 'drive0'"}
    assert desc == wanted[bad['device'] if bad['device'] != 'drive0'
                          else bad['name']]
    assert [s['name'] for s in listed(vm, 1)] == ['drive1_sn0']


@pytest.mark.parametrize('by', ['id', 'name', 'both'])
def test_057_delete(snapshots, by):
    vm = snapshots
    take(vm, 2)
    before = listed(vm, 0)
    args = {'device': 'drive0'}
    if by != 'name':
        args['id'] = before[0]['id']
    if by != 'id':
        args['name'] = before[0]['name']
    assert vm.qmp('blockdev-snapshot-delete-internal-sync', args) == before[0]
    assert listed(vm, 0) == before[1:]


def test_057_delete_refused(snapshots):
    vm = snapshots
    take(vm, 2)
    first, second = listed(vm, 0)
    for args, desc in (
            ({'device': 'drive_error', 'id': '0'}, None),
            ({}, None),
            ({'name': 'nosuch'}, None), ({'id': '77'}, None),
            ({'id': first['id'], 'name': second['name']}, None)):
        vm.fails('blockdev-snapshot-delete-internal-sync',
                 dict({'device': 'drive0'}, **args), desc=desc)
    assert listed(vm, 0) == [first, second]


def test_057_delete_all_and_again(snapshots, images):
    vm = snapshots
    take(vm, 3)
    for snapshot in listed(vm, 1):
        vm.qmp('blockdev-snapshot-delete-internal-sync', {
            'device': 'drive1', 'name': snapshot['name']})
    assert listed(vm, 1) is None
    vm.qmp('blockdev-snapshot-internal-sync', {
        'device': 'drive1', 'name': 'again'})
    vm.stop()
    assert 'again' in qemu_img('snapshot', '-l', images.path('t1.img'))
