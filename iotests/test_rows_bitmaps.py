# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows on bitmaps and filters need of a machine:
124, 165, 216, 219, 236, 242, 246, 254, 260, 298, 310, t/image-fleecing."""

import os

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


def bitmaps(vm, index=0):
    inserted = vm.qmp('query-block')[index]['inserted']
    return {b['name']: b for b in inserted.get('dirty-bitmaps', [])}


@pytest.fixture
def vm(launch, images):
    disk = images.create('drive0.img', 64 * MIB)
    images.io(disk, 'write -P 0x41 0 512', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k')
    machine = launch().add_drive(disk)
    machine.disk = disk
    return machine.start()


def backup(vm, images, name, sync, **options):
    target = images.path(name)
    images.adopt(target)
    vm.qmp('drive-backup', dict({
        'device': 'drive0', 'target': target, 'format': 'qcow2',
        'sync': sync}, **options))
    vm.wait_completed()
    return target


def test_124_incremental(vm, images):
    """A full copy, then what changed, by name of the drive."""
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0')
    assert bitmaps(vm)['bitmap0']['granularity'] == 64 * KIB
    base = backup(vm, images, 'full', 'full')
    vm.qmp('block-dirty-bitmap-clear', node='drive0', name='bitmap0')
    vm.qemu_io('drive0', 'write -P0x01 2M 512')
    vm.qemu_io('drive0', 'write -P0x02 40M 64k')
    vm.qemu_io('drive0', 'write -P 0xfe 32768 65536')
    assert bitmaps(vm)['bitmap0']['count'] == 4 * 64 * KIB
    inc = images.create('inc', 64 * MIB, backing=base)
    vm.qmp('drive-backup', {
        'device': 'drive0', 'target': inc, 'format': 'qcow2',
        'sync': 'incremental', 'bitmap': 'bitmap0', 'mode': 'existing'})
    data = vm.wait_completed()
    assert data['len'] == 4 * 64 * KIB
    assert bitmaps(vm)['bitmap0']['count'] == 0
    vm.stop()
    images.identical(vm.disk, inc)


@pytest.mark.parametrize('cluster', [64 * KIB, 128 * KIB])
def test_124_larger_clusters(vm, images, cluster):
    """An incremental copy onto clusters larger than the granularity."""
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='b',
           granularity=64 * KIB)
    full = images.create('full', 64 * MIB, cluster_size=cluster)
    vm.qmp('drive-backup', {
        'device': 'drive0', 'target': full, 'format': 'qcow2',
        'sync': 'full', 'mode': 'existing'})
    vm.wait_completed()
    vm.qmp('block-dirty-bitmap-clear', node='drive0', name='b')
    vm.qemu_io('drive0', 'write -P 0xea 0 64k')
    assert bitmaps(vm)['b']['count'] == 64 * KIB
    inc = images.create('inc', 64 * MIB, backing=full, cluster_size=cluster)
    vm.qmp('drive-backup', {
        'device': 'drive0', 'target': inc, 'format': 'qcow2',
        'sync': 'incremental', 'bitmap': 'b', 'mode': 'existing'})
    vm.wait_completed()
    vm.stop()
    images.identical(vm.disk, inc)


def test_124_failure_keeps_bitmap(launch, images):
    disk = images.create('drive0.img', 64 * MIB)
    images.io(disk, 'write -P 1 0 512', 'write -P 0xd5 1M 32k',
              'write -P 0xdc 32M 124k')
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'node-name': 'drive0', 'driver': 'qcow2', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': disk},
            'set-state': [
                {'event': 'flush_to_disk', 'state': 1, 'new_state': 2},
                {'event': 'read_aio', 'state': 2, 'new_state': 3}],
            'inject-error': [{'event': 'read_aio', 'errno': 5, 'state': 3,
                              'immediately': False, 'once': True}]}})
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0')
    vm.qemu_io('drive0', 'write -P 0xab 0 512')
    vm.qemu_io('drive0', 'write -P 0xfe 16M 256k')
    vm.qemu_io('drive0', 'write -P 0x64 32736k 64k')
    vm.qemu_io('drive0', 'flush')
    target = images.adopt(images.path('inc'))
    vm.qmp('drive-backup', {
        'device': 'drive0', 'job-id': 'drive0', 'target': target,
        'format': 'qcow2', 'sync': 'incremental', 'bitmap': 'bitmap0'})
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert data['error'] == 'Input/output error'
    node = next(n for n in vm.qmp('query-named-block-nodes')
                if n['node-name'] == 'drive0')
    assert node['dirty-bitmaps'][0]['count'] == (1 + 4 + 2) * 64 * KIB


def test_165_restart(launch, images):
    """Persistent bitmaps of a drive over restarts."""
    disk = images.create('disk', 64 * MIB)
    vm = launch().add_drive(disk).start()
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='b',
           persistent=True)
    vm.qemu_io('drive0', 'write 0x10000 0x10000')
    vm.qemu_io('drive0', 'write 0x200000 0x20000')
    sums = vm.qmp('x-debug-block-dirty-bitmap-sha256', node='drive0',
                  name='b')
    vm.restart()
    assert vm.qmp('x-debug-block-dirty-bitmap-sha256', node='drive0',
                  name='b') == sums
    vm.qemu_io('drive0', 'write 0x300000 0x10000')
    vm.restart()
    assert bitmaps(vm)['b']['count'] == 4 * 64 * KIB
    assert vm.output() == '' or 'wrote' in vm.output()


def test_216_copy_on_read(launch, images):
    base = images.create('base', MIB)
    images.io(base, 'write -P 1 0 1M')
    mid = images.create('mid', MIB, backing=base)
    top = images.create('top', MIB, backing=mid)
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'copy-on-read', 'file': {
            'driver': 'qcow2', 'file': {'driver': 'file', 'filename': top},
            'backing': {'driver': 'qcow2', 'file': {
                'driver': 'file', 'filename': mid}}}})
    vm.qemu_io('node0', 'read -P 1 0 1M')
    vm.qmp('blockdev-del', {'node-name': 'node0'})
    vm.stop()
    run_tool('qemu-img', 'rebase', '-u', '-b', '', '-f', 'qcow2', top)
    images.io(top, 'read -P 1 0 1M')
    assert not any(e['data'] and e.get('depth', 0) == 0
                   for e in images.map(mid))


def test_copy_on_read_drive(launch, images):
    """-drive copy-on-read=on."""
    base = images.create('base', MIB)
    images.io(base, 'write -P 1 0 1M')
    top = images.create('top', MIB, backing=base)
    vm = launch().add_drive(top, 'copy-on-read=on').start()
    vm.qemu_io('drive0', 'read -P 1 0 64k')
    vm.stop()
    first = images.map(top)[0]
    assert first['depth'] == 0 and first['length'] == 64 * KIB


def test_236_transaction_rollback(launch):
    vm = launch().start()
    vm.qmp('blockdev-add', {'driver': 'null-co', 'size': 64 * MIB,
                            'node-name': 'drive0'})
    for name in ('bitmapA', 'bitmapB'):
        vm.qmp('block-dirty-bitmap-add', node='drive0', name=name)
    vm.io_lines('drive0', 'write -P0x76 0 4M')
    before = vm.qmp('query-named-block-nodes')[0]['dirty-bitmaps']
    vm.fails('transaction', actions=[
        {'type': 'block-dirty-bitmap-clear', 'data': {
            'node': 'drive0', 'name': 'bitmapA'}},
        {'type': 'block-dirty-bitmap-disable', 'data': {
            'node': 'drive0', 'name': 'bitmapB'}},
        {'type': 'abort', 'data': {}}],
        desc='Transaction aborted using Abort action')
    assert vm.qmp('query-named-block-nodes')[0]['dirty-bitmaps'] == before


def test_246_resize(launch, images):
    """Bitmaps of all kinds over HMP's block_resize."""
    disk = images.create('disk', 1 << 30)
    vm = launch().add_drive(disk).start()
    for name, granularity in (('Small', None), ('Medium', 64 * KIB),
                              ('Large', 512 * KIB)):
        options = {'granularity': granularity} if granularity else {}
        vm.qmp('block-dirty-bitmap-add', dict({
            'node': 'drive0', 'name': name, 'persistent': True}, **options))
    assert vm.hmp('block_resize drive0 2G') == ''
    assert vm.qmp('query-block')[0]['inserted']['image'][
        'virtual-size'] == 2 << 30
    vm.qemu_io('drive0', 'write 1G 512')
    assert bitmaps(vm)['Large']['count'] == 512 * KIB
    vm.restart()
    assert [b['name'] for b in vm.qmp('query-block')[0]['inserted'][
        'dirty-bitmaps']] == ['Small', 'Medium', 'Large']


def test_254_snapshot_and_bitmap(launch, images):
    """A bitmap moves to the new layer in the snapshot's transaction."""
    disk = images.create('disk', 8 * MIB)
    top = images.create('top', 8 * MIB)
    vm = launch().add_drive(disk, 'node-name=base').start()
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0')
    vm.qemu_io('drive0', 'write 0 512')
    vm.qmp('blockdev-add', {
        'node-name': 'snap', 'driver': 'qcow2', 'backing': None,
        'file': {'driver': 'file', 'filename': top}})
    vm.qmp('transaction', actions=[
        {'type': 'blockdev-snapshot', 'data': {'node': 'base',
                                               'overlay': 'snap'}},
        {'type': 'block-dirty-bitmap-add', 'data': {
            'node': 'snap', 'name': 'bitmap0'}},
        {'type': 'block-dirty-bitmap-merge', 'data': {
            'node': 'snap', 'target': 'bitmap0', 'bitmaps': [
                {'node': 'base', 'name': 'bitmap0'}]}},
        {'type': 'block-dirty-bitmap-remove', 'data': {
            'node': 'base', 'name': 'bitmap0'}}])
    vm.qemu_io('drive0', 'write 4M 512')
    found = bitmaps(vm)
    assert found['bitmap0']['count'] == 2 * 64 * KIB
    assert found['bitmap0']['recording']
    vm.qemu_io('drive0', 'flush')
    vm.stop()
    # The overlay was opened without a backing file.
    run_tool('qemu-img', 'rebase', '-u', '-b', disk, '-F', 'qcow2', '-f',
             'qcow2', top)


def test_298_preallocate(launch, images):
    disk = images.create('disk', 10 * MIB)
    vm = launch().add_drive_raw(
        'if=none,id=drive0,node-name=disk,driver=qcow2,'
        'file.driver=preallocate,file.node-name=prealloc,'
        f'file.file.driver=file,file.file.filename={disk}')
    vm.start()
    vm.qemu_io('drive0', 'write 0 1M')
    info = vm.qmp('query-named-block-nodes')
    prealloc = next(n for n in info if n['node-name'] == 'prealloc')
    assert prealloc['image']['virtual-size'] < 100 * MIB
    assert os.stat(disk).st_size > 100 * MIB
    vm.qmp('blockdev-snapshot-sync', {
        'node-name': 'disk', 'snapshot-node-name': 'overlay',
        'snapshot-file': images.path('overlay'), 'format': 'qcow2'})
    images.adopt(images.path('overlay'))
    assert os.stat(disk).st_size < 5 * MIB


def test_310_bottom(launch, images):
    base = images.create('base', 3 * MIB)
    images.io(base, 'write -P 1 0 3M')
    mid = images.create('mid', 3 * MIB, backing=base)
    images.io(mid, 'write -P 3 1M 1M')
    top = images.create('top', 3 * MIB, backing=mid)
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'copy-on-read', 'bottom': 'node2',
        'file': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': top}, 'backing': {
                'node-name': 'node2', 'driver': 'qcow2', 'file': {
                    'driver': 'file', 'filename': mid}, 'backing': {
                        'driver': 'qcow2', 'file': {
                            'driver': 'file', 'filename': base}}}}})
    vm.qemu_io('node0', 'read -P 1 0 3M')
    vm.stop()
    run_tool('qemu-img', 'rebase', '-u', '-b', '', '-f', 'qcow2', top)
    images.io(top, 'read -P 3 1M 1M', 'read -P 0 0 1M', 'read -P 0 2M 1M')


def test_image_fleecing(launch, images):
    """Point in time of a drive through an NBD export of the copy."""
    disk = images.create('base', 64 * MIB)
    for pattern, offset in ((0x5d, '0'), (0xd5, '1M'), (0xdc, '32M')):
        images.io(disk, f'write -P {pattern} {offset} 64k')
    fleece = images.create('fleece', 64 * MIB)
    vm = launch().add_drive(disk, 'node-name=source', interface='none')
    vm.add_device('virtio-scsi')
    vm.add_device('scsi-hd,id=sda,drive=drive0')
    vm.start()
    vm.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'tmp', 'file': {
            'driver': 'file', 'filename': fleece}})
    vm.qmp('blockdev-add', {
        'driver': 'copy-before-write', 'node-name': 'fl-cbw',
        'file': 'source', 'target': 'tmp'})
    vm.qmp('qom-set', path='/machine/peripheral/sda', property='drive',
           value='fl-cbw')
    vm.qmp('blockdev-add', {'driver': 'snapshot-access',
                            'node-name': 'fl-access', 'file': 'fl-cbw'})
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='fl-access')
    for command in ('write -P 0xab 0 64k', 'write -P 0xad 1M 64k',
                    'write -P 0x1d 32M 64k'):
        assert vm.io_lines('/machine/peripheral/sda', command, qdev=True)[
            0].startswith('wrote 65536/65536')
    uri = f'nbd+unix:///fl-access?socket={vm.nbd_path}'
    for pattern, offset in ((0x5d, '0'), (0xd5, '1M'), (0xdc, '32M')):
        images.io(uri, f'read -P {pattern} {offset} 64k', fmt='raw',
                  options=['-r'])
    vm.qmp('nbd-server-stop')
    vm.qmp('blockdev-del', {'node-name': 'fl-access'})
    vm.qmp('qom-set', path='/machine/peripheral/sda', property='drive',
           value='source')
    vm.qmp('blockdev-del', {'node-name': 'fl-cbw'})
    vm.qmp('blockdev-del', {'node-name': 'tmp'})
    vm.stop()
    images.io(disk, 'read -P 0xab 0 64k', 'read -P 0xad 1M 64k')
