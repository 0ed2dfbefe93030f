# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows 129, 147, 155, 165 in every variant."""

import json
import os
import re
import socket

import pytest

MIB = 1 << 20


# 129: -drive on a throttle node

@pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
@pytest.mark.parametrize('command', [
    'drive-mirror', 'drive-backup', 'block-commit', 'block-stream'])
def test_129(launch, images, command):
    base = images.create('base.img', 10 * 128 * MIB)
    disk = images.create('test.img', None, backing=base)
    images.io(disk, 'write -P0x5d 1M 128M')
    vm = launch().add_object('throttle-group,id=tg0,x-bps-total=1024')
    vm.add_drive(None, 'driver=throttle,node-name=source,throttle-group=tg0,'
                 f'file.driver=qcow2,file.file.filename={disk}')
    vm.start()
    arguments = {'device': 'drive0'}
    if command.startswith('drive'):
        arguments.update(target=images.path('target.img'), format='qcow2',
                         sync='full')
        if command == 'drive-mirror':
            arguments['buf-size'] = 65536
        else:
            arguments['x-perf'] = {'max-chunk': 65536, 'max-workers': 8}
    else:
        overlay = images.create('overlay.img', 10 * 128 * MIB)
        vm.qmp('blockdev-snapshot-sync', {
            'node-name': 'source', 'snapshot-node-name': 'overlay',
            'snapshot-file': overlay, 'format': 'qcow2',
            'mode': 'existing'})
        if command == 'block-commit':
            arguments['top-node'] = 'source'
    vm.qmp(command, arguments)
    vm.qmp('stop')
    job = vm.qmp('query-block-jobs')[0]
    assert job['status'] == 'running'
    assert job['ready'] is False
    assert job['busy'] is True


# 147: addresses of NBD servers

class Nbd:
    def __init__(self, launch, images):
        self.image = images.create('test.img', '64k', fmt='raw')
        self.vm = launch().start()
        self.server = launch()
        self.server.add_drive_raw(
            f'if=none,id=nbd-export,file={self.image},format=raw,'
            'cache=writeback')
        self.server.start()
        self.port = str(self.vm.setup.free_port())

    def up(self, address, *names):
        self.server.qmp('nbd-server-start', addr=address)
        for name in names or (None,):
            self.server.qmp('nbd-server-add', dict(
                {'device': 'nbd-export'}, **({'name': name} if name else {})))

    def client(self, filename, address, export=None, node='nbd-blockdev',
               delete=True):
        server = dict(address['data'], type=address['type'])
        file = {'driver': 'nbd', 'read-only': True, 'server': server}
        if export:
            file['export'] = export
        self.vm.qmp('blockdev-add', {
            'node-name': node, 'driver': 'raw', 'file': file,
            'read-only': True})
        named = {n['node-name']: n
                 for n in self.vm.qmp('query-named-block-nodes')}
        got = named[node]['image']['filename']
        if isinstance(filename, dict):
            assert got.startswith('json:')
            assert flat(json.loads(got[5:])) == flat(filename)
        else:
            assert got == filename
        if delete:
            self.vm.qmp('blockdev-del', {'node-name': node})

    def down(self):
        self.server.qmp('nbd-server-stop')


def flat(value, prefix=''):
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else
                json.dumps(value)}
    out = {}
    for key, one in value.items():
        out.update(flat(one, f'{prefix}.{key}'))
    return out


@pytest.fixture
def nbd(launch, images):
    return Nbd(launch, images)


@pytest.mark.parametrize('name', [None, 'nbd-export', 'shadow'])
def test_147_inet(nbd, name):
    address = {'type': 'inet', 'data': {'host': 'localhost',
                                        'port': nbd.port}}
    nbd.up(address, *([name] if name else []))
    name = name or 'nbd-export'
    nbd.client(f'nbd://localhost:{nbd.port}/{name}', address, name)
    nbd.down()


def test_147_two_exports(nbd):
    address = {'type': 'inet', 'data': {'host': 'localhost',
                                        'port': nbd.port}}
    nbd.up(address, 'exp1', 'exp2')
    for i in (1, 2):
        nbd.client(f'nbd://localhost:{nbd.port}/exp{i}', address, f'exp{i}',
                   f'node{i}', False)
    for i in (1, 2):
        nbd.vm.qmp('blockdev-del', {'node-name': f'node{i}'})
    nbd.down()


def test_147_inet6(nbd):
    try:
        socket.getaddrinfo('::0', '0', socket.AF_INET6, socket.SOCK_STREAM,
                           socket.IPPROTO_TCP,
                           socket.AI_ADDRCONFIG | socket.AI_CANONNAME)
    except socket.gaierror:
        pytest.skip('no IPv6')
    address = {'type': 'inet', 'data': {
        'host': '::1', 'port': nbd.port, 'ipv4': False, 'ipv6': True}}
    nbd.up(address)
    nbd.client({'driver': 'raw', 'file': {
        'driver': 'nbd', 'export': 'nbd-export',
        'server': dict(address['data'], type='inet')}}, address,
        'nbd-export')
    nbd.down()


def test_147_unix(nbd):
    path = nbd.vm.nbd_path
    address = {'type': 'unix', 'data': {'path': path}}
    nbd.up(address)
    nbd.client(f'nbd+unix:///nbd-export?socket={path}', address,
               'nbd-export')
    nbd.down()


def test_147_fd(nbd):
    """A connected socket is handed over the monitor."""
    path = nbd.vm.nbd_path
    nbd.up({'type': 'unix', 'data': {'path': path}})
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        # The helper sends a blank with the fd in front of the command.
        socket.send_fds(nbd.vm._sockets[0][0], [b' '],
                        [sock.fileno()])
        nbd.vm.qmp('getfd', fdname='nbd-fifo')
    address = {'type': 'fd', 'data': {'str': 'nbd-fifo'}}
    nbd.client({'driver': 'raw', 'file': {
        'driver': 'nbd', 'export': 'nbd-export',
        'server': {'type': 'fd', 'str': 'nbd-fifo'}}}, address, 'nbd-export')
    nbd.down()


# 155: what is below the target, and when

class Chain:
    NAMES = ('back0.img', 'back1.img', 'back2.img', 'source.img')

    def __init__(self, launch, images, iothread=False):
        self.images = images
        self.paths = []
        for name in self.NAMES:
            self.paths.append(images.create(
                name, None if self.paths else '1440K',
                backing=self.paths[-1] if self.paths else None))
        self.target = images.path('target.img')
        vm = launch()
        vm.add_blockdev('node-name=source,driver=qcow2,file.driver=file,'
                        f'file.filename={self.paths[3]}')
        if iothread:
            vm.add_object('iothread,id=iothread0')
        vm.add_device('virtio-scsi' + (',iothread=iothread0' if iothread
                                       else ''))
        vm.add_device('scsi-hd,id=qdev0,drive=source')
        self.vm = vm.start()
        self.check_source()

    def make_target(self, backing):
        options = {}
        if backing:
            options = {'backing_file': backing, 'backing_fmt': 'raw'}
        self.images.create('target.img', '1440K', **options)

    def check_chain(self, image, *paths):
        for path in paths:
            assert image['filename'] == path
            image = image.get('backing-image', {})
        assert image == {}

    def check_source(self):
        node = next(n for n in self.vm.qmp('query-named-block-nodes')
                    if n['node-name'] == 'source')
        self.check_chain(node['image'], *reversed(self.paths))

    def disk(self):
        return next(b['inserted'] for b in self.vm.qmp('query-block')
                    if b['qdev'] == 'qdev0')

    def run(self, command, arguments, before_end=None):
        self.vm.qmp(command, dict({
            'job-id': 'mirror-job', 'device': 'source',
            'auto-finalize': False}, **arguments))
        self.vm.wait_ready('mirror-job')
        self.vm.qmp('job-complete', id='mirror-job')
        self.vm.wait_event('JOB_STATUS_CHANGE', {'status': 'pending'})
        if before_end:
            before_end()
        self.vm.qmp('job-finalize', id='mirror-job')
        self.vm.wait_event('JOB_STATUS_CHANGE', {'id': 'mirror-job',
                                                 'status': 'null'})

    def check(self, backing):
        inserted = self.disk()
        assert inserted['node-name'] == 'target'
        image = inserted['image']
        assert self.target in image['filename']
        assert image.get('backing-image', {}).get('filename') == backing
        self.check_source()


@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
@pytest.mark.parametrize('existing', [None, 'no', 'null-co://'])
def test_155_drive_mirror(launch, images, sync, existing):
    c = Chain(launch, images)
    if existing:
        c.make_target(None if existing == 'no' else existing)
    else:
        images.adopt(c.target)
    c.run('drive-mirror', {
        'sync': sync, 'target': c.target, 'format': 'qcow2',
        'mode': 'existing' if existing else 'absolute-paths',
        'node-name': 'target'})
    default = {'full': None, 'top': c.paths[2], 'none': c.paths[3]}[sync]
    c.check(default if not existing else None if existing == 'no'
            else existing)


@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
@pytest.mark.parametrize('kind', [
    'none', 'header', 'forced', 'reopen', 'snapshot'])
@pytest.mark.parametrize('iothread', [False, True])
def test_155_blockdev_mirror(launch, images, sync, kind, iothread):
    if iothread and kind not in ('reopen', 'snapshot'):
        pytest.skip('the row does not ask for it')
    c = Chain(launch, images, iothread)
    late = kind in ('reopen', 'snapshot')
    c.make_target('null-co://' if late or kind == 'header' else None)
    options = {'node-name': 'target', 'driver': 'qcow2', 'file': {
        'driver': 'file', 'node-name': 'target-file', 'filename': c.target}}
    if late:
        options['backing'] = None
    elif kind == 'forced':
        options['backing'] = {'driver': 'null-co'}
    c.vm.qmp('blockdev-add', options)

    def attach():
        if not late:
            return
        c.vm.qmp('blockdev-add', {'node-name': 'backing',
                                  'driver': 'null-co'})
        if kind == 'reopen':
            c.vm.qmp('blockdev-reopen', options=[{
                'node-name': 'target', 'driver': 'qcow2',
                'file': 'target-file', 'backing': 'backing'}])
        else:
            c.vm.qmp('blockdev-snapshot', {'node': 'backing',
                                           'overlay': 'target'})

    c.run('blockdev-mirror', {'sync': sync, 'target': 'target'}, attach)
    c.check(None if kind == 'none' else 'null-co://')


def test_155_commit(launch, images):
    c = Chain(launch, images)
    c.vm.qmp('block-commit', {'job-id': 'commit-job', 'device': 'source',
                              'base': c.paths[1]})
    c.vm.complete('commit-job')
    c.check_chain(c.disk()['image'], c.paths[1], c.paths[0])
    c.check_source()


# 165: persistent bitmaps

def sha256(vm, name='bitmap0'):
    return vm.qmp('x-debug-block-dirty-bitmap-sha256', node='drive0',
                  name=name)['sha256']


REGIONS_1 = ((0x0fff00, 0x10000), (0x200000, 0x100000))
REGIONS_2 = ((0x10000000, 0x20000), (0x3fff0000, 0x10000))


def write_regions(vm, regions):
    for offset, length in regions:
        vm.qemu_io('drive0', f'write {offset} {length}')


def add_bitmap(vm):
    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0',
           persistent=True)


@pytest.mark.parametrize('restart', [False, True])
def test_165_persistent(launch, images, restart):
    disk = images.create('disk', 0x40000000)
    vm = launch().add_drive(disk).start()
    add_bitmap(vm)
    write_regions(vm, REGIONS_1)
    if restart:
        vm.restart()
    write_regions(vm, REGIONS_2)
    known = sha256(vm)
    vm.stop()
    ro = launch().add_drive(disk, 'readonly=on').start()
    assert re.sub(r'(wrote|[0-9.]+ [KMGi]*B).*\n', '', ro.output()) == ''
    assert sha256(ro) == known
    assert ro.qmp('query-block')[0]['inserted']['dirty-bitmaps'][0][
        'recording'] is True
    ro.stop()
    again = launch().add_drive(disk).start()
    assert sha256(again) == known


def test_165_reopen_rw(launch, images):
    disk = images.create('disk', 0x40000000)
    vm = launch().add_drive(disk).start()
    add_bitmap(vm)
    write_regions(vm, REGIONS_1)
    one = sha256(vm)
    write_regions(vm, REGIONS_2)
    two = sha256(vm)
    assert one != two
    vm.qmp('block-dirty-bitmap-clear', node='drive0', name='bitmap0')
    write_regions(vm, REGIONS_1)
    assert sha256(vm) == one
    vm.stop()
    ro = launch().add_drive(disk, 'node-name=node0,read-only=on').start()
    assert sha256(ro) == one
    assert 'read-only' in ro.qemu_io('drive0', 'write 0 64k')
    ro.qmp('blockdev-reopen', options=[{
        'node-name': 'node0', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': disk}, 'read-only': False}])
    write_regions(ro, REGIONS_2)
    assert sha256(ro) == two
    ro.stop()
    assert os.path.exists(disk)
    assert images.bitmaps(disk)['bitmap0']['flags'] == ['auto']
