# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows 283, 298, 299, 307, 310, t/image-fleecing,
t/backup-discard-source, t/inactive-node-nbd."""

import os
import subprocess

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


def permission(perm, node, who, child, whom, other):
    return (f"Permission conflict on node '{node}': permissions '{perm}' are "
            f"both required by {who} (uses node '{node}' as '{child}' child) "
            f"and unshared by {whom} (uses node '{node}' as '{other}' "
            'child).')


def test_283_texts(launch):
    vm = launch().start()
    vm.qmp('blockdev-add', {'node-name': 'target', 'driver': 'null-co',
                            'size': MIB})
    vm.qmp('blockdev-add', {
        'node-name': 'source', 'driver': 'blkdebug',
        'image': {'node-name': 'base', 'driver': 'null-co', 'size': MIB}})
    vm.qmp('blockdev-add', {
        'node-name': 'other', 'driver': 'blkdebug', 'image': 'base',
        'take-child-perms': ['write']})
    vm.fails('blockdev-backup', {
        'sync': 'full', 'device': 'source', 'target': 'target',
        'job-id': 'backup0'},
        desc=permission('write', 'base', "node 'other'", 'image',
                        "node 'source'", 'image'))


@pytest.fixture
def preallocated(launch, images):
    disk = images.create('disk', 10 * MIB)
    vm = launch().add_drive(
        None, 'node-name=drive,driver=qcow2,file.node-name=filter,'
        'file.driver=preallocate,file.file.node-name=file,'
        f'file.file.filename={disk}').start()
    vm.disk = disk
    yield vm
    vm.stop()
    assert os.path.getsize(disk) < 10 * MIB


def test_298_snapshot_and_commit(preallocated, images):
    vm = preallocated
    vm.qemu_io('drive0', 'write 0 1M')
    assert os.path.getsize(vm.disk) > 100 * MIB
    overlay = images.adopt(images.path('overlay'))
    vm.qmp('blockdev-snapshot-sync', {
        'node-name': 'drive', 'snapshot-file': overlay,
        'snapshot-node-name': 'overlay'})
    assert os.path.getsize(vm.disk) < 10 * MIB
    vm.qemu_io('drive0', 'write 1M 1M')
    vm.qmp('block-commit', device='overlay')
    vm.complete()
    assert os.path.getsize(vm.disk) > 100 * MIB


def test_298_reopen(preallocated):
    vm = preallocated
    vm.qmp('blockdev-reopen', options=[{
        'node-name': 'drive', 'driver': 'qcow2', 'file': {
            'node-name': 'filter', 'driver': 'preallocate',
            'prealloc-size': 20 * MIB, 'prealloc-align': 5 * MIB, 'file': {
                'node-name': 'file', 'driver': 'file',
                'filename': vm.disk}}}])
    vm.qemu_io('drive0', 'write 0 1M')
    assert os.path.getsize(vm.disk) == 25 * MIB


@pytest.mark.parametrize('same', [False, True])
def test_299_quit_with_client(launch, images, same):
    """The server goes while somebody is connected to its export."""
    disk = images.create('disk', MIB)
    vm = launch().start()
    if same and vm.is_qemu:
        pytest.skip('7.2 waits for itself')
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'disk', 'file': {
        'driver': 'file', 'filename': disk}})
    vm.qmp('block-dirty-bitmap-add', node='disk', name='bitmap0')
    vm.qmp('nbd-server-add', device='disk', bitmap='bitmap0', writable=True)
    client = vm if same else launch().start()
    client.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'client', 'export': 'disk',
        'x-dirty-bitmap': 'qemu:dirty-bitmap:bitmap0',
        'server': {'type': 'unix', 'path': vm.nbd_path}})
    vm.stop()
    assert 'rror' not in vm.output()


def test_307_sequence(launch, images, setup):
    disk = images.create('image', 64 * MIB)
    images.io(disk, 'write -P 0x11 0 4k', 'write -P 0x22 4k 4k')
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_blockdev(f'file,filename={disk},node-name=file')
    vm.add_blockdev('qcow2,file=file,node-name=fmt')
    vm.add_blockdev('raw,file=file,node-name=ro,read-only=on')
    vm.add_blockdev('null-co,node-name=null')
    vm.add_device('id=scsi0,driver=virtio-scsi,iothread=iothread0')
    vm.start()

    def listed():
        text = run_tool('qemu-nbd', '-L', '-k', vm.nbd_path)
        lines = [line.strip() for line in text.splitlines()]
        return {line.split("'")[1]: lines[i + 1:i + 4]
                for i, line in enumerate(lines)
                if line.startswith('export:')}

    def exports():
        return [(e['node-name'], e['shutting-down'], e['type'], e['id'])
                for e in vm.qmp('query-block-exports')]

    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    assert exports() == []
    vm.qmp('block-export-add', {'id': 'export0', 'type': 'nbd',
                                'node-name': 'fmt'})
    zero = ('fmt', False, 'nbd', 'export0')
    assert exports() == [zero]
    assert list(listed()) == ['fmt']
    for ident, node, writable, desc in (
            ('#invalid', 'fmt', False, 'Invalid block export id'),
            ('export0', 'fmt', False,
             "Block export id 'export0' is already in use"),
            ('export1', 'ro', True,
             'Cannot export read-only node as writable')):
        vm.fails('block-export-add', {
            'id': ident, 'type': 'nbd', 'node-name': node,
            'writable': writable}, desc=desc)
    vm.fails('block-export-del', id='export1',
             desc="Export 'export1' is not found")
    assert exports() == [zero]
    # The export follows the device to its thread.
    vm.qmp('device_add', {'id': 'sda', 'driver': 'scsi-hd', 'drive': 'fmt'})
    assert exports() == [zero]
    assert list(listed()) == ['fmt']
    vm.fails('block-export-add', {
        'id': 'export1', 'type': 'nbd', 'node-name': 'fmt',
        'iothread': 'iothread0', 'fixed-iothread': True, 'writable': True})
    second = {'id': 'export1', 'type': 'nbd', 'node-name': 'fmt',
              'name': 'export1', 'writable': True, 'writethrough': True,
              'description': 'This is the writable second export'}
    vm.fails('block-export-add', second, desc=permission(
        'write', 'fmt', 'an unnamed block device', 'root',
        "block device 'sda'", 'root'))
    vm.qmp('device_del', id='sda')
    vm.wait_event('DEVICE_DELETED', {'device': 'sda'})
    vm.qmp('block-export-add', second)
    one = ('fmt', False, 'nbd', 'export1')
    assert exports() == [one, zero]
    found = listed()
    assert set(found) == {'fmt', 'export1'}
    assert found['export1'][0] == \
        'description: This is the writable second export'
    url = f'nbd+unix:///export1?socket={vm.nbd_path}'

    class Client:
        def __init__(self):
            self.proc = subprocess.Popen(
                ['qemu-io', '-f', 'raw', url], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
            self.read()

        def read(self):
            text = b''
            while not text.endswith(b'qemu-io> '):
                byte = self.proc.stdout.read(1)
                assert byte, text
                text += byte
            return text.decode()

        def run(self, command):
            self.proc.stdin.write(command.encode() + b'\n')
            return self.read()

        def close(self):
            self.proc.communicate(b'q\n', timeout=10)

    client = Client()
    assert 'read 4096/4096' in client.run('read -P 0x11 0 4k')
    assert 'wrote 4096/4096' in client.run('write -P 0x55 0 4k')
    vm.fails('block-export-del', id='export1',
             desc="export 'export1' still in use")
    vm.qmp('block-export-del', id='export0')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'export0'})
    assert exports() == [one]
    assert list(listed()) == ['export1']
    assert 'read 4096/4096' in client.run('read -P 0x55 0 4k')
    vm.qmp('block-export-del', id='export1', mode='hard')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'export1'})
    assert exports() == []
    assert 'failed' in client.run('read -P 0x55 0 4k')
    client.close()
    vm.stop()


def test_310_implicit_backing(launch, images):
    """What is below the bottom is opened from its header."""
    base = images.create('base', 10 * MIB)
    images.io(base, 'write -P1 0M 1M', 'write -P1 3M 1M')
    mid = images.create('mid', 10 * MIB, backing=base)
    images.io(mid, 'write -P3 2M 1M', 'write -P3 4M 1M')
    top = images.create('top', 10 * MIB, backing=mid)
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'copy-on-read', 'bottom': 'node2',
        'file': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': top}, 'backing': {
                'node-name': 'node2', 'driver': 'qcow2', 'file': {
                    'driver': 'file', 'filename': mid}}}})
    for offset, pattern in ((0, 1), (1, 0), (2, 3), (3, 1), (4, 3)):
        line = vm.io_lines('node0', f'read -P{pattern} {offset}M 1M')[0]
        assert line.startswith('read'), line
    vm.stop()
    run_tool('qemu-img', 'rebase', '-u', '-b', '', '-f', 'qcow2', top)
    images.io(top, 'read -P0 0 2M', 'read -P3 2M 1M', 'read -P0 3M 1M',
              'read -P3 4M 1M', 'read -P0 5M 5M')


# t/image-fleecing

PATTERNS = [('0x5d', '0', '64k'), ('0xd5', '1M', '64k'),
            ('0xdc', '32M', '64k'), ('0xcd', '0x3ff0000', '64k')]
OVERWRITE = [('0xab', '0', '64k'), ('0xad', '0x00f8000', '64k'),
             ('0x1d', '0x2008000', '64k'), ('0xea', '0x3fe0000', '64k')]
ZEROES = [('0', '0x00f8000', '32k'), ('0', '0x2010000', '32k'),
          ('0', '0x3fe0000', '64k')]
REMAINDER = [('0xd5', '0x108000', '32k'), ('0xdc', '32M', '32k'),
             ('0xcd', '0x3ff0000', '64k')]


def read(args, pattern):
    command = 'read -P%s %s %s' % pattern
    code, text = run_tool('qemu-io', *args[:-1], '-c', command, args[-1],
                          check=False)
    return text.splitlines() if code or 'failed' in text else []


@pytest.mark.parametrize('how', ['backup', 'cbw', 'access', 'bitmap',
                                 'push'])
def test_image_fleecing(launch, images, how):
    base = images.create('base', 64 * MIB)
    if how == 'bitmap':
        run_tool('qemu-img', 'bitmap', '--add', base, 'bitmap0')
    access = how in ('access', 'bitmap', 'push')
    fleece = images.create('fleece', 64 * MIB, fmt='raw' if access
                           else 'qcow2')
    target = images.create('target', 64 * MIB)
    for pattern in PATTERNS:
        images.io(base, 'write -P%s %s %s' % pattern)
    vm = launch().add_blockdev(
        f'driver=qcow2,file.driver=file,file.filename={base},'
        'node-name=source')
    vm.add_device('virtio-scsi').add_device('scsi-hd,id=sda,drive=source')
    vm.start()
    path = '/machine/peripheral/sda'
    vm.qmp('blockdev-add', {
        'node-name': 'temp', 'driver': 'file', 'filename': fleece}
        if access else {
            'driver': 'qcow2', 'node-name': 'temp', 'backing': 'source',
            'file': {'driver': 'file', 'filename': fleece}})
    if how == 'backup':
        vm.qmp('blockdev-backup', {'job-id': 'fleecing', 'device': 'source',
                                   'target': 'temp', 'sync': 'none'})
    else:
        cbw = {'driver': 'copy-before-write', 'node-name': 'fl-cbw',
               'file': 'source', 'target': 'temp'}
        if how == 'bitmap':
            cbw['bitmap'] = {'node': 'source', 'name': 'bitmap0'}
        vm.qmp('blockdev-add', cbw)
        vm.qmp('qom-set', path=path, property='drive', value='fl-cbw')
        if access:
            vm.qmp('blockdev-add', {'driver': 'snapshot-access',
                                    'node-name': 'fl-access',
                                    'file': 'fl-cbw'})
    export = 'fl-access' if access else 'temp'
    where = ['-r', '-f', 'raw', f'nbd+unix:///{export}?socket={vm.nbd_path}']
    zero_text = ['read failed: Invalid argument'] if how == 'bitmap' else []
    if how == 'push':
        where = ['-r', '-f', 'qcow2', target]
        vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'target',
                                'file': {'driver': 'file',
                                         'filename': target}})
        vm.qmp('blockdev-backup', {
            'device': export, 'sync': 'full', 'target': 'target',
            'job-id': 'push-backup', 'speed': 1})
    else:
        vm.qmp('nbd-server-start', {'addr': {'type': 'unix', 'data': {
            'path': vm.nbd_path}}})
        vm.qmp('nbd-server-add', {'device': export})
        for pattern in PATTERNS:
            assert read(where, pattern) == []
        for pattern in ZEROES:
            assert read(where, pattern) == zero_text
    for pattern in OVERWRITE:
        line = vm.io_lines(path, 'write -P%s %s %s' % pattern, qdev=True)[0]
        assert line.startswith('wrote 65536/65536'), line
    if how == 'push':
        assert len(vm.qmp('query-block-jobs')) == 1
        vm.qmp('block-job-set-speed', device='push-backup', speed=0)
        data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
        assert data == {'device': 'push-backup', 'len': 64 * MIB,
                        'offset': 64 * MIB, 'speed': 0, 'type': 'backup'}
        vm.qmp('blockdev-del', {'node-name': 'target'})
    for pattern in PATTERNS:
        assert read(where, pattern) == []
    for pattern in ZEROES:
        assert read(where, pattern) == zero_text
    if how != 'push':
        vm.qmp('nbd-server-stop')
    if how == 'backup':
        vm.qmp('block-job-cancel', device='fleecing')
        data = vm.wait_event('BLOCK_JOB_CANCELLED')['data']
        assert data == {'device': 'fleecing', 'len': 64 * MIB,
                        'offset': 393216, 'speed': 0, 'type': 'backup'}
    else:
        if access:
            vm.qmp('blockdev-del', {'node-name': 'fl-access'})
        vm.qmp('qom-set', path=path, property='drive', value='source')
        vm.qmp('blockdev-del', {'node-name': 'fl-cbw'})
    vm.qmp('blockdev-del', {'node-name': 'temp'})
    vm.stop()
    for pattern in OVERWRITE + REMAINDER:
        assert read(['-f', 'qcow2', base], pattern) == []


# t/backup-discard-source

@pytest.mark.ours(reason='since 9.1')
@pytest.mark.parametrize('write_first', [True, False])
def test_backup_discard_source(launch, images, write_first):
    source, temp, target = (images.create(name, MIB)
                            for name in ('source', 'temp', 'target'))
    images.io(source, 'write 0 1M')
    vm = launch().start()

    def file(path):
        return {'driver': 'file', 'filename': path}

    vm.qmp('blockdev-add', {
        'node-name': 'cbw', 'driver': 'copy-before-write',
        'file': {'driver': 'qcow2', 'file': file(source)},
        'target': {'driver': 'qcow2', 'discard': 'unmap',
                   'node-name': 'temp', 'file': file(temp)}})
    vm.qmp('blockdev-add', {'node-name': 'access', 'discard': 'unmap',
                            'driver': 'snapshot-access', 'file': 'cbw'})
    vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'target',
                            'file': file(target)})

    def used():
        return next(n['image']['actual-size'] for n in vm.qmp(
            'query-named-block-nodes', flat=True)
            if n['node-name'] == 'temp')

    assert used() < 512 * KIB
    if write_first:
        assert vm.qemu_io('cbw', 'write 0 1M') == ''
        assert used() > MIB
    vm.qmp('blockdev-backup', {
        'device': 'access', 'sync': 'full', 'target': 'target',
        'job-id': 'backup0', 'discard-source': True})
    vm.wait_completed('backup0')
    if not write_first:
        assert vm.qemu_io('cbw', 'write 0 1M') == ''
    assert used() < 512 * KIB
    vm.qemu_io('access', 'read 0 1M')
    vm.stop()
    assert 'read failed: Permission denied' in vm.output()


# t/inactive-node-nbd

@pytest.mark.ours(reason='since 10.0')
def test_inactive_node_nbd(launch, images):
    disk = images.create('disk', 10 * MIB)
    images.io(disk, 'write -P 1 0 10M')
    snap = images.create('snap', 10 * MIB, backing=disk)
    snap2 = images.create('snap2', 10 * MIB)
    target = images.create('target', 10 * MIB)
    vm = launch()
    for name, path, more in (
            ('disk', disk, ',active=off'), ('target', target, ''),
            ('snap', snap, ',active=off,backing=disk-fmt'),
            ('snap2', snap2, ',active=off')):
        vm.add_blockdev(f'file,node-name={name}-file,filename={path}'
                        + (',active=off' if 'off' in more else ''))
        vm.add_blockdev(f'qcow2,file={name}-file,node-name={name}-fmt{more}')
    vm.add_args('-S').start()

    def active(node):
        return next(n['active'] for n in vm.qmp(
            'query-named-block-nodes', flat=True) if n['node-name'] == node)

    def io(command):
        return run_tool('qemu-io', '-f', 'raw', '-c', command,
                        f'nbd+unix:///disk?socket={vm.nbd_path}',
                        check=False)[1]

    export = {'id': 'exp0', 'type': 'nbd', 'node-name': 'snap-fmt',
              'name': 'disk', 'writable': True, 'allow-inactive': True}
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('block-export-add', export)
    assert not active('snap-fmt') and not active('disk-fmt')
    assert 'read 10485760/10485760' in io('read -P 1 0 10M')
    assert 'write failed: Operation not permitted' in io('write 0 64k')
    vm.fails('block_resize', {'node-name': 'snap-fmt', 'size': 20 * MIB},
             desc="Permission 'resize' unavailable on inactive node")
    vm.qmp('blockdev-set-active', {'node-name': 'snap-fmt', 'active': True})
    assert active('snap-fmt')
    assert 'wrote 65536/65536' in io('write -P 2 0 64k')
    assert 'read 65536/65536' in io('read -P 2 0 64k')
    vm.qmp('blockdev-set-active', {'node-name': 'snap-fmt',
                                   'active': False})
    assert not active('snap-fmt')
    assert 'write failed: Operation not permitted' in io('write 0 64k')
    vm.qmp('block-export-del', id='exp0')
    vm.wait_event('BLOCK_EXPORT_DELETED')
    # Jobs
    mirror = {'job-id': 'j', 'sync': 'full'}
    vm.fails('blockdev-mirror', dict(mirror, device='snap-fmt',
                                     target='target-fmt'))
    vm.qmp('blockdev-set-active', {'node-name': 'target-fmt',
                                   'active': False})
    vm.qmp('blockdev-set-active', {'node-name': 'snap-fmt', 'active': True})
    vm.fails('blockdev-mirror', dict(mirror, device='snap-fmt',
                                     target='target-fmt'),
             desc="Permission 'write' unavailable on inactive node")
    vm.fails('blockdev-backup', dict(mirror, device='snap-fmt',
                                     target='target-fmt'))
    vm.qmp('blockdev-set-active', {'node-name': 'disk-fmt', 'active': True})
    vm.fails('blockdev-set-active', {'node-name': 'disk-fmt',
                                     'active': False},
             desc='Node has active parent node')
    vm.fails('blockdev-add', {'driver': 'raw', 'node-name': 'up',
                              'file': 'target-fmt'},
             desc="Inactive 'target-fmt' can't be a file child of active "
             "'up'")
    vm.qmp('blockdev-set-active', active=False)
    assert not active('snap-fmt')
    vm.qmp('blockdev-set-active', active=True)
    assert active('snap-fmt') and active('target-fmt')
    vm.stop()
