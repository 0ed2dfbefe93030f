# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 202, 205, 208, 216, 223, 242: exports and
bitmaps as the tools see them."""

import os
import select
import subprocess

import pytest

from .harness import filter_times
from .images import run_tool

MIB = 1 << 20
GONE = ("can't open device {}: Requested export not available\n"
        "server reported: export 'exp' not present")


# 205: removing an export, with a client or without


class QemuIo:
    """qemu-io that goes on asking for commands."""

    def __init__(self, uri):
        self.proc = subprocess.Popen(
            ['qemu-io', '-r', '-f', 'raw', uri], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self._answer()

    def _answer(self):
        text = ''
        while not text.endswith('qemu-io> '):
            assert select.select([self.proc.stdout], [], [], 15)[0], text
            data = os.read(self.proc.stdout.fileno(), 4096)
            assert data, text
            text += data.decode()
        return text

    def command(self, line):
        self.proc.stdin.write(line.encode() + b'\n')
        return filter_times(self._answer())

    def reads(self):
        text = self.command('read 0 512')
        return 'read 512/512 bytes at offset 0\n512 bytes, 1 ops' in text

    def close(self):
        self.proc.stdin.write(b'q\n')
        self.proc.communicate(timeout=15)


class Export:
    def __init__(self, vm):
        self.vm = vm
        vm.qmp('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': vm.nbd_path}}})
        vm.qmp('nbd-server-add', device='drive0', name='exp')
        self.uri = f'nbd+unix:///exp?socket={vm.nbd_path}'
        self.clients = []

    def client(self):
        self.clients.append(QemuIo(self.uri))
        return self.clients[-1]

    def remove(self, mode=None, desc=None):
        args = {'name': 'exp', **({'mode': mode} if mode else {})}
        if desc:
            self.vm.fails('nbd-server-remove', args, desc=desc)
        else:
            self.vm.qmp('nbd-server-remove', args)

    def is_gone(self):
        self.remove(desc="Export 'exp' is not found")
        code, text = run_tool('qemu-io', '-r', '-f', 'raw', '-c',
                              'read 0 512', self.uri, check=False)
        return code != 0 and GONE.format(self.uri) in text


@pytest.fixture
def export(launch, images):
    vm = launch().add_drive(images.create('disk', MIB))
    vm.start()
    export = Export(vm)
    yield export
    for client in export.clients:
        if client.proc.poll() is None:
            client.close()


@pytest.mark.parametrize('mode', [None, 'safe', 'hard'])
def test_205_after_a_client(export, mode):
    run_tool('qemu-io', '-r', '-f', 'raw', '-c', 'read 0 512', export.uri)
    export.remove(mode)
    assert export.is_gone()


@pytest.mark.parametrize('mode', [None, 'safe'])
def test_205_safe(export, mode):
    client = export.client()
    assert client.reads()
    export.remove(mode, desc="export 'exp' still in use")
    assert client.reads()
    client.close()
    export.remove(mode)
    assert export.is_gone()


@pytest.mark.parametrize('safe_first', [False, True])
def test_205_hard(export, safe_first):
    client = export.client()
    assert client.reads()
    if safe_first:
        export.remove('safe', desc="export 'exp' still in use")
        assert client.reads()
    export.remove('hard')
    assert 'read failed: Input/output error' in client.command('read 0 512')
    assert export.is_gone()


# 208: a snapshot under an export


@pytest.mark.parametrize('writable', [True, False])
def test_208(launch, images, writable):
    disk = images.create('disk.img', 10 * MIB)
    snap = images.adopt(images.path('snap.img'))
    vm = launch().add_drive(disk, interface='none')
    vm.start()
    vm.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': vm.nbd_path}}})
    vm.qmp('nbd-server-add', device='drive0', writable=writable)
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'drive0', 'snapshot-node-name': 'snapshot0',
        'snapshot-file': snap})
    uri = f'nbd+unix:///drive0?socket={vm.nbd_path}'
    if writable:
        run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 3 0 64k', uri)
    vm.qmp('nbd-server-stop')
    vm.stop()
    allocated = [e for e in images.map(snap) if e['depth'] == 0
                 and e.get('present', True)]
    assert bool(allocated) == writable


# 202: drives by device name


def test_202_drives(launch, images):
    vm = launch().add_object('iothread,id=iothread0')
    vm.add_device('virtio-scsi,id=scsi0,iothread=iothread0')
    for i in range(2):
        vm.add_drive(images.create(f'disk{i}', 10 * MIB), interface='none')
        vm.add_device(f'scsi-hd,id=scsi-hd{i},drive=drive{i}')
    vm.start()
    vm.qmp('transaction', actions=[{
        'type': 'blockdev-snapshot-sync', 'data': {
            'device': f'drive{i}', 'mode': 'absolute-paths',
            'format': 'qcow2', 'snapshot-file':
            images.adopt(images.path(f'snap{i}'))}} for i in range(2)])
    names = [b['inserted']['file'] for b in vm.qmp('query-block')]
    assert names == [images.path(f'snap{i}') for i in range(2)]


# 216: what a read copies


def test_216_layers(launch, images):
    base = images.create('base', 64 * MIB)
    images.io(base, 'write -P 1 0M 1M', 'write -P 1 3M 1M')
    top = images.create('top', 64 * MIB, backing=base)
    images.io(top, 'write -P 2 1M 1M', 'write -P 2 5M 1M')
    vm = launch()
    vm.start()
    vm.qmp('blockdev-add', {
        'driver': 'copy-on-read', 'node-name': 'node0', 'file': {
            'driver': 'qcow2', 'file': {'driver': 'file', 'filename': top},
            'backing': {'driver': 'qcow2', 'file': {
                'driver': 'file', 'filename': base}}}})
    assert vm.qemu_io('node0', 'read 0 64M') == ''
    vm.stop()
    images.io(base, 'discard 0 64M')
    images.io(top, 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 0 2M 1M',
              'read -P 1 3M 1M', 'read -P 0 4M 1M', 'read -P 2 5M 1M')


# 223: contexts of exports


def test_223_contexts(launch, images):
    disk = images.create('t', 4 * MIB, cluster_size=4096)
    images.io(disk, 'write -P 0x11 1M 2M')
    vm = launch()
    vm.start()
    vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n', 'file': {
        'driver': 'file', 'filename': disk, 'node-name': 'f'}})
    for name in ('b', 'b2', 'b4', 'b5'):
        vm.qmp('block-dirty-bitmap-add', {
            'node': 'n', 'name': name, 'persistent': True,
            'granularity': 65536})
        vm.qemu_io('n', 'write -P 0x22 512 512' if name == 'b'
                   else 'write -P 0x33 2M 2M')
    vm.qmp('block-dirty-bitmap-disable', node='n', name='b')
    vm.fails('nbd-server-add', device='n', desc='NBD server not running')
    vm.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': vm.nbd_path}}})
    vm.fails('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': vm.nbd_path + '1'}}},
        desc='NBD server already running')
    vm.qmp('nbd-server-add', device='n', bitmap='b')
    for args, desc in (
            ({'device': 'nosuch'},
             "Cannot find device='nosuch' nor node-name='nosuch'"),
            ({'device': 'n'}, "Block export id 'n' is already in use"),
            ({'device': 'n', 'name': 'n2', 'bitmap': 'b2'},
             "Enabled bitmap 'b2' incompatible with readonly export"),
            ({'device': 'n', 'name': 'n2', 'bitmap': 'b3'},
             "Bitmap 'b3' is not found")):
        vm.fails('nbd-server-add', args, desc=desc)
    vm.qmp('nbd-server-add', device='n', name='n2', writable=True,
           description='some text', bitmap='b2')
    vm.qmp('block-export-add', {
        'type': 'nbd', 'id': 'n3', 'node-name': 'n', 'name': 'n3',
        'bitmaps': [{'node': 'n', 'name': 'b4'}, 'b5'],
        'allocation-depth': True, 'writable': True})
    text = run_tool('qemu-nbd', '-L', '-k', vm.nbd_path)
    for line in ("exports available: 3", " export: 'n'", " export: 'n2'",
                 "  description: some text", "  min block: 1",
                 "  opt block: 4096", "  max block: 33554432",
                 "   qemu:dirty-bitmap:b4", "   qemu:allocation-depth",
                 "  available meta contexts: 4"):
        assert line in text.splitlines(), text
    vm.qmp('nbd-server-remove', name='n')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'n'})
    vm.qmp('nbd-server-remove', name='n2')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'n2'})
    vm.fails('nbd-server-remove', name='n2',
             desc="Export 'n2' is not found")
    vm.qmp('nbd-server-stop')
    vm.fails('nbd-server-stop', desc='NBD server not running')


# 242: what qemu-img says of bitmaps while they are in use, and after


def test_242(launch, images):
    disk = images.create('disk', MIB)
    vm = launch().add_drive(disk)
    vm.start()
    assert 'bitmaps' not in images.info(disk, '-U')['format-specific']['data']
    for name, more in (('bitmap-1', {}), ('bitmap-2', {'disabled': True}),
                       ('bitmap-3', {'granularity': 16384})):
        vm.qmp('block-dirty-bitmap-add', dict(
            more, node='drive0', name=name, persistent=True))
    vm.qemu_io('drive0', 'write 0 64k')
    vm.stop()
    before = images.bitmaps(disk)
    assert [before[f'bitmap-{i}']['flags'] for i in (1, 2, 3)] == \
        [['auto'], [], ['auto']]
    assert [before[f'bitmap-{i}']['granularity'] for i in (1, 2, 3)] == \
        [65536, 65536, 16384]
    vm = launch().add_drive(disk)
    vm.start()
    during = images.bitmaps(disk, '-U')
    assert [during[f'bitmap-{i}']['flags'] for i in (1, 2, 3)] == \
        [['in-use', 'auto'], ['in-use'], ['in-use', 'auto']]
    counts = {b['name']: b['count'] for b in
              vm.qmp('query-block')[0]['inserted']['dirty-bitmaps']}
    assert counts == {'bitmap-1': 65536, 'bitmap-2': 0, 'bitmap-3': 65536}
    vm.stop()
    assert images.bitmaps(disk) == before
