# SPDX-License-Identifier: MIT
"""COMPAT section 10: 118 in what test_media_rows.py leaves, 139, 124."""

import os

import pytest

from .images import run_tool
from .qmp import QmpError
from .test_media_trays import info
from .test_rows_bitmaps import bitmaps

KIB, MIB = 1 << 10, 1 << 20
ID = 'qdev0'
KINDS = {'ide-cd': ('cdrom', True), 'scsi-cd': ('cdrom', True),
         'floppy': ('disk', False)}


class Media:
    """One drive as the row has it, and what its events said."""

    def __init__(self, launch, images, kind, filled, use_drive):
        media, self.has_tray = KINDS[kind]
        self.filled, self.use_drive = filled, use_drive
        self.old = images.create('test0.img', '1440k') if filled else None
        self.new = images.create('test1.img', '1440k')
        vm = launch()
        if use_drive:
            vm.add_drive(self.old, f'media={media}', 'none')
        elif filled:
            vm.add_blockdev(
                'node-name=drive0,driver=qcow2,read-only='
                f'{"on" if media == "cdrom" else "off"},file.driver=file,'
                f'file.filename={self.old}')
        if kind == 'scsi-cd':
            vm.add_device('virtio-scsi-pci')
        drive = 'drive=drive0,' if use_drive or filled else ''
        vm.add_device(f'{kind},{drive}id={ID}')
        self.vm = vm.start()

    def wait(self, is_open):
        if self.has_tray:
            data = self.vm.wait_event('DEVICE_TRAY_MOVED', {
                'id': ID, 'tray-open': is_open})['data']
            assert data['device'] == ('drive0' if self.use_drive else '')

    def check(self, is_open, filename):
        entry = self.vm.qmp('query-block')[0]
        assert entry == info(self.vm, ID)
        assert entry.get('tray_open') == (is_open if self.has_tray else None)
        inserted = entry.get('inserted')
        assert (inserted and inserted['image']['filename']) == filename

    def run(self, command, **arguments):
        self.vm.qmp(command, dict({'id': ID}, **{
            key.replace('_', '-'): value
            for key, value in arguments.items()}))

    def refused(self, command, **arguments):
        with pytest.raises(QmpError) as caught:
            self.run(command, **arguments)
        assert caught.value.cls == 'GenericError'

    def add_new(self, read_only=False):
        self.vm.qmp('blockdev-add', {
            'node-name': 'new', 'driver': 'qcow2', 'read-only': read_only,
            'file': {'driver': 'file', 'filename': self.new}})


@pytest.fixture(params=[(kind, filled, use_drive) for kind in KINDS
                        for filled in (True, False)
                        for use_drive in (True, False)],
                ids=lambda p: f'{p[0]}-{"filled" if p[1] else "empty"}-'
                f'{"drive" if p[2] else "node"}')
def media(request, launch, images):
    return Media(launch, images, *request.param)


class Test118:
    def test_change(self, media):
        media.run('blockdev-change-medium', filename=media.new,
                  format='qcow2')
        media.wait(True)
        media.wait(False)
        media.check(False, media.new)

    def test_eject(self, media):
        media.run('eject', force=True)
        media.wait(True)
        media.check(True, None)

    def test_eject_change(self, media):
        media.run('eject', force=True)
        media.wait(True)
        media.check(True, None)
        media.run('blockdev-change-medium', filename=media.new,
                  format='qcow2')
        media.wait(False)
        media.check(False, media.new)

    def test_open_close(self, media):
        media.run('blockdev-open-tray', force=True)
        media.wait(True)
        media.check(True, media.old)
        media.run('blockdev-close-tray')
        media.wait(False)
        media.check(False, media.old)

    def test_eject_close(self, media):
        media.run('eject', force=True)
        media.wait(True)
        media.check(True, None)
        media.run('blockdev-close-tray')
        media.wait(False)
        media.check(False, None)

    def test_open_change(self, media):
        media.run('blockdev-open-tray', force=True)
        media.wait(True)
        media.check(True, media.old)
        media.run('blockdev-change-medium', filename=media.new,
                  format='qcow2')
        media.wait(False)
        media.check(False, media.new)

    @pytest.mark.parametrize('read_only', [False, True])
    def test_cycle(self, media, read_only):
        media.add_new(read_only)
        media.run('blockdev-open-tray', force=True)
        media.wait(True)
        media.check(True, media.old)
        media.run('blockdev-remove-medium')
        media.check(True, None)
        media.run('blockdev-insert-medium', node_name='new')
        media.check(True, media.new)
        media.run('blockdev-close-tray')
        media.wait(False)
        media.check(False, media.new)

    def test_on_closed(self, media):
        media.run('blockdev-close-tray')
        if media.has_tray:
            media.refused('blockdev-remove-medium')
            media.check(False, media.old)
            media.add_new()
            media.refused('blockdev-insert-medium', node_name='new')
            media.check(False, media.old)

    def test_on_open(self, media):
        """Inserted into a filled drive, removed from an empty one."""
        media.add_new()
        media.run('blockdev-open-tray')
        media.wait(True)
        if media.filled:
            media.refused('blockdev-insert-medium', node_name='new')
        else:
            media.run('blockdev-remove-medium')
        media.check(True, media.old)


def floppy(launch, images, options='media=disk'):
    old = images.create('test0.img', '1440k')
    new = images.create('test1.img', '1440k')
    vm = launch().add_drive(old, options, 'none')
    vm.add_device(f'floppy,drive=drive0,id={ID}')
    return vm.start(), old, new


def check_ro(vm, read_only, filename):
    inserted = vm.qmp('query-block')[0].get('inserted')
    assert inserted['ro'] is read_only
    assert inserted['image']['filename'] == filename


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everything')
@pytest.mark.parametrize('mode,options', [
    ('retain', ''), ('read-write', ''), ('read-write', ',read-only=on')])
def test_118_not_writable(launch, images, mode, options):
    vm, old, new = floppy(launch, images, 'media=disk' + options)
    os.chmod(new, 0o444)
    vm.fails('blockdev-change-medium', {
        'id': ID, 'filename': new, 'format': 'qcow2',
        'read-only-mode': mode})
    check_ro(vm, bool(options), old)


def test_118_read_only_cycle(launch, images):
    vm, old, new = floppy(launch, images)
    os.chmod(new, 0o444)
    check_ro(vm, False, old)
    vm.qmp('blockdev-add', {
        'node-name': 'new', 'driver': 'qcow2', 'read-only': True,
        'file': {'driver': 'file', 'filename': new}})
    check_ro(vm, False, old)
    vm.qmp('blockdev-remove-medium', id=ID)
    assert 'inserted' not in vm.qmp('query-block')[0]
    vm.qmp('blockdev-insert-medium', {'id': ID, 'node-name': 'new'})
    check_ro(vm, True, new)
    vm.stop()
    os.chmod(new, 0o666)


def test_118_jobs_after_cycle(launch, images):
    old = images.create('test0.img', '1440K')
    new = images.adopt(images.path('test1.img'))
    vm = launch().add_drive_raw('id=drive0,driver=null-co,if=none')
    vm.add_device(f'floppy,drive=drive0,id={ID}')
    vm.start()
    assert vm.qmp('query-block')[0]['inserted']['image'][
        'format'] == 'null-co'
    vm.qmp('blockdev-remove-medium', id=ID)
    assert 'inserted' not in vm.qmp('query-block')[0]
    vm.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': old}})
    vm.qmp('blockdev-insert-medium', {'id': ID, 'node-name': 'node0'})
    check_ro(vm, False, old)
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'drive0', 'snapshot-file': new, 'format': 'qcow2'})
    assert vm.qmp('query-block')[0]['inserted']['image'][
        'backing-image']['filename'] == old
    vm.qmp('block-commit', device='drive0')
    vm.wait_ready()
    vm.qmp('block-job-complete', device='drive0')
    vm.wait_event('BLOCK_JOB_COMPLETED')


def test_118_not_removable(launch, images):
    path = images.create('disk', '1440K')
    vm = launch().add_drive(path, '', 'none')
    vm.add_device(f'virtio-blk,drive=drive0,id={ID}').start()
    for command, arguments in (
            ('eject', {'force': True}), ('blockdev-open-tray', {}),
            ('blockdev-close-tray', {}), ('blockdev-remove-medium', {}),
            ('blockdev-change-medium', {'filename': path})):
        vm.fails(command, dict(arguments, id=ID))
    check_ro(vm, False, path)


# 139

def node_names(vm):
    return {n['node-name'] for n in vm.qmp('query-named-block-nodes')}


def qcow2_node(name, path):
    return {'driver': 'qcow2', 'node-name': name,
            'file': {'driver': 'file', 'filename': path}}


@pytest.fixture
def deleting(launch, images):
    vm = launch().add_device('virtio-scsi').start()
    vm.base = images.create('base', MIB)
    vm.new = images.create('new', MIB)
    return vm


@pytest.mark.parametrize('options', [
    lambda vm: {'driver': 'blkdebug', 'image': qcow2_node('a', vm.base)},
    lambda vm: {'driver': 'blkverify', 'test': qcow2_node('a', vm.base),
                'raw': qcow2_node('b', vm.new)},
    lambda vm: {'driver': 'quorum', 'vote-threshold': 1, 'children': [
        qcow2_node('a', vm.base), qcow2_node('b', vm.new)]}],
    ids=['blkdebug', 'blkverify', 'quorum'])
def test_139_parents(deleting, options):
    vm = deleting
    vm.qmp('blockdev-add', dict(options(vm), **{'node-name': 'top'}))
    for name in node_names(vm) - {'top'}:
        vm.fails('blockdev-del', {'node-name': name})
    vm.qmp('blockdev-del', {'node-name': 'top'})
    assert not node_names(vm) & {'top', 'a', 'b'}


def test_139_eject(deleting):
    vm = deleting
    vm.qmp('blockdev-add', qcow2_node('node0', vm.base))
    vm.qmp('device_add', id='device0', driver='scsi-cd', drive='node0')
    vm.fails('blockdev-del', {'node-name': 'node0'})
    vm.qmp('eject', id='device0')
    assert 'node0' in node_names(vm)
    vm.qmp('blockdev-del', {'node-name': 'node0'})
    vm.qmp('device_del', id='device0')
    vm.wait_event('DEVICE_DELETED', {'device': 'device0'})


def test_139_snapshot_of_nodes(deleting):
    vm = deleting
    vm.qmp('blockdev-add', qcow2_node('node0', vm.base))
    vm.qmp('device_add', id='device0', driver='virtio-blk', drive='node0')
    vm.qmp('blockdev-add', dict(qcow2_node('overlay0', vm.new),
                                backing=None))
    vm.qmp('blockdev-snapshot', {'node': 'node0', 'overlay': 'overlay0'})
    for name in ('overlay0', 'node0'):
        vm.fails('blockdev-del', {'node-name': name})
    vm.qmp('device_del', id='device0')
    vm.qmp('system_reset')
    vm.wait_event('DEVICE_DELETED', {
        'path': '/machine/peripheral/device0/virtio-backend'})
    vm.wait_event('DEVICE_DELETED', {'device': 'device0'})
    vm.fails('blockdev-del', {'node-name': 'node0'})
    vm.qmp('blockdev-del', {'node-name': 'overlay0'})
    vm.qmp('blockdev-del', {'node-name': 'node0'})


# 124

def blkdebug_drive(name, path, rules):
    return {'node-name': name, 'driver': 'qcow2', 'file': dict({
        'driver': 'blkdebug',
        'image': {'driver': 'file', 'filename': path}}, **rules)}


READ_FAILS = {
    'set-state': [
        {'event': 'flush_to_disk', 'state': 1, 'new_state': 2},
        {'event': 'read_aio', 'state': 2, 'new_state': 3}],
    'inject-error': [{'event': 'read_aio', 'errno': 5, 'state': 3,
                      'immediately': False, 'once': True}]}


@pytest.mark.parametrize('race', [False, True])
def test_124_transaction_failure(launch, images, race):
    disks = [images.create(f'drive{i}.img', 64 * MIB) for i in (0, 1)]
    for disk in disks:
        images.io(disk, 'write -P 0x14 0 512', 'write -P 0x5d 1M 32k',
                  'write -P 0xcd 32M 124k')
    vm = launch().add_drive(disks[0]).start()
    vm.qmp('blockdev-add', blkdebug_drive('drive1', disks[1], {
        'set-state': [{'event': 'flush_to_disk', 'state': 1,
                       'new_state': 2}],
        'inject-error': [{'event': 'read_aio', 'errno': 5, 'state': 2,
                          'immediately': False, 'once': True}]}))
    full = []
    for i in (0, 1):
        vm.qmp('block-dirty-bitmap-add', node=f'drive{i}', name='bitmap0')
        full.append(images.adopt(images.path(f'full{i}')))
        vm.qmp('drive-backup', {
            'job-id': f'drive{i}', 'device': f'drive{i}', 'sync': 'full',
            'format': 'qcow2', 'target': full[i]})
        vm.wait_completed(f'drive{i}')
        vm.qmp('block-dirty-bitmap-clear', node=f'drive{i}', name='bitmap0')
    if not race:
        vm.qemu_io('drive0', 'write -P 0xab 0 512')
        vm.qemu_io('drive0', 'write -P 0xfe 16M 256k')
    vm.qemu_io('drive1', 'write -P 0xba 0 512')
    vm.qemu_io('drive1', 'write -P 0xef 16M 256k')
    vm.qemu_io('drive1', 'flush')

    def attempt(n):
        targets = [images.create(f'inc{i}.{n}', 64 * MIB, backing=full[i])
                   for i in (0, 1)]
        vm.qmp('transaction', {
            'actions': [{'type': 'drive-backup', 'data': {
                'job-id': f'drive{i}', 'device': f'drive{i}',
                'target': targets[i], 'sync': 'incremental',
                'format': 'qcow2', 'mode': 'existing',
                'bitmap': 'bitmap0'}} for i in (0, 1)],
            'properties': {'completion-mode': 'grouped'}})
        return targets

    attempt(0)
    vm.wait_event('BLOCK_JOB_CANCELLED', {'device': 'drive0'})
    data = vm.wait_event('BLOCK_JOB_COMPLETED', {'device': 'drive1'})['data']
    assert data['error']
    assert vm.wait_event('BLOCK_JOB_ERROR')['data'] == {
        'device': 'drive1', 'action': 'report', 'operation': 'read'}
    for i in (0, 1):
        vm.wait_event('JOB_STATUS_CHANGE', {'id': f'drive{i}',
                                            'status': 'null'})
    assert vm.qmp('query-block-jobs') == []
    if race:
        return
    targets = attempt(1)
    for i in (0, 1):
        data = vm.wait_event('BLOCK_JOB_COMPLETED',
                             {'device': f'drive{i}'})['data']
        assert data['offset'] == data['len'] == 5 * 64 * KIB
        vm.wait_event('JOB_STATUS_CHANGE', {'id': f'drive{i}',
                                            'status': 'null'})
    vm.stop()
    for disk, target in zip(disks, targets):
        images.identical(disk, target)


def test_124_pause(launch, images):
    disk = images.create('drive0.img', 64 * MIB)
    images.io(disk, 'write -P 1 0 512', 'write -P 0xd5 1M 32k')
    vm = launch().start()
    vm.qmp('blockdev-add', blkdebug_drive('drive0', disk, READ_FAILS))
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0')

    def bitmap():
        node = next(n for n in vm.qmp('query-named-block-nodes')
                    if n['node-name'] == 'drive0')
        return next(b for b in node['dirty-bitmaps']
                    if b.get('name') == 'bitmap0')

    vm.qemu_io('drive0', 'write -P 0xab 0 512')
    vm.qemu_io('drive0', 'write -P 0xfe 16M 256k')
    vm.qemu_io('drive0', 'write -P 0x64 32736k 64k')
    vm.qemu_io('drive0', 'flush')
    target = images.create('inc', 64 * MIB)
    vm.qmp('drive-backup', {
        'job-id': 'drive0', 'device': 'drive0', 'sync': 'incremental',
        'bitmap': 'bitmap0', 'format': 'qcow2', 'target': target,
        'mode': 'existing', 'on-source-error': 'stop'})
    assert vm.wait_event('BLOCK_JOB_ERROR')['data'] == {
        'device': 'drive0', 'action': 'stop', 'operation': 'read'}
    now = bitmap()
    assert (now['count'], now['recording'], now['busy'],
            now['persistent']) == (458752, True, True, False)
    vm.qmp('block-job-resume', device='drive0')
    vm.wait_completed()
    now = bitmap()
    assert (now['count'], now['recording'], now['busy'],
            now['persistent']) == (0, True, False, False)


def test_124_growing(launch, images):
    disk = images.create('drive0.img', 64 * MIB)
    images.io(disk, 'write -P 0x41 0 512')
    vm = launch().add_drive(disk).start()
    full = images.adopt(images.path('full'))
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='b')
    vm.qmp('drive-backup', {'device': 'drive0', 'sync': 'full',
                            'format': 'qcow2', 'target': full})
    vm.wait_completed()
    vm.qmp('block-dirty-bitmap-clear', node='drive0', name='b')
    vm.qemu_io('drive0', 'write -P 0xfe 16M 256k')
    vm.qmp('block_resize', device='drive0', size=65 * MIB)
    vm.qemu_io('drive0', f'write -P 0x76 {64 * MIB} 64k')
    assert bitmaps(vm)['b']['count'] == 5 * 64 * KIB
    inc = images.create('inc', 65 * MIB, backing=full)
    vm.qmp('drive-backup', {
        'device': 'drive0', 'sync': 'incremental', 'bitmap': 'b',
        'format': 'qcow2', 'target': inc, 'mode': 'existing'})
    vm.wait_completed()
    vm.stop()
    images.identical(disk, inc)


@pytest.mark.parametrize('arguments,desc', [
    ({}, "must provide a valid bitmap name for 'incremental' sync mode"),
    ({'bitmap': 'unknown'}, "Bitmap 'unknown' could not be found")])
def test_124_no_bitmap(launch, images, arguments, desc):
    disk = images.create('drive0.img', 64 * MIB)
    vm = launch().add_drive(disk).start()
    if not vm.is_qemu:
        vm.fails('drive-backup', dict({
            'device': 'drive0', 'sync': 'incremental', 'format': 'qcow2',
            'target': images.path('inc')}, **arguments), desc=desc)
    else:
        vm.fails('drive-backup', dict({
            'device': 'drive0', 'sync': 'incremental', 'format': 'qcow2',
            'target': images.path('inc')}, **arguments))


@pytest.mark.parametrize('granularity', [-65536, 1 << 32, 16, 65536 + 1])
def test_124_granularity(launch, images, granularity):
    disk = images.create('drive0.img', 64 * MIB)
    vm = launch().add_drive(disk).start()
    vm.fails('block-dirty-bitmap-add', {
        'node': 'drive0', 'name': 'b', 'granularity': granularity})
    assert run_tool('qemu-img', 'info', '-U', disk)
