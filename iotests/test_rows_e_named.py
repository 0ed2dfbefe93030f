# SPDX-License-Identifier: MIT
"""COMPAT section 10, the named tests without a device: the steps that their
harness makes without waiting in between, and what it looks at afterwards."""

from importlib import util
from importlib.machinery import PathFinder
import os
import re
import sys
import time

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


# ---- t/mirror-sparse -------------------------------------------------------

SPARSE = [
    ('external', 'ignore', 'off', 'sparse'),
    ('external', 'unmap', 'off', 'sparse'),
    ('external', 'unmap', 'unmap', 'sparse'),
    ('off', 'ignore', 'off', 'sparse'),
    ('off', 'unmap', 'off', 'sparse'),
    ('off', 'unmap', 'unmap', 'sparse'),
    ('full', 'ignore', 'off', 'full'),
    ('full', 'unmap', 'off', 'sparse'),
    ('full', 'unmap', 'unmap', 'sparse')]


def pieces(text):
    """The events' names or states and `return`s, in order."""
    return [a or b or 'return' for a, b in re.findall(
        r'"event": "(?:JOB_STATUS_CHANGE", "data": \{"status": "(\w+)"|'
        r'(\w+))|\{"return": ', text)]


@pytest.mark.ours(reason='since 10.1')
def test_mirror_sparse_text(shell, images):
    """All events come without being waited for, up to the target's end."""
    base = images.create('base', 20 * MIB, fmt='raw')
    images.io(base, 'write 8M 2M')
    vm = shell('-blockdev', '{"driver":"file", "cache":{"direct":true, '
               f'"no-flush":false}}, "filename":"{base}", '
               '"node-name":"src-file"}', '-blockdev',
               '{"driver":"raw", "node-name":"src", "file":"src-file"}')
    vm.expect('capabilities')
    vm.command('{"execute": "qmp_capabilities"}', 'return')
    for creation, discard, zeroes, wanted in SPARSE:
        path = images.path('disk')
        if os.path.exists(path):
            os.unlink(path)
        if creation == 'external':
            with open(path, 'wb') as disk:
                disk.truncate(20 * MIB)
        else:
            vm.command('{"execute": "blockdev-create", "arguments": '
                       '{"options": {"driver":"file", "filename":"' + path +
                       '", "size":20971520, "preallocation":"' + creation +
                       '"}, "job-id":"job1"}}', 'concluded')
            vm.command('{"execute": "job-dismiss", "arguments": '
                       '{"id": "job1"}}', 'return')
        vm.command('{"execute": "blockdev-add", "arguments": {"node-name": '
                   f'"dst", "driver":"file", "filename":"{path}", '
                   f'"aio":"threads", "auto-read-only":true, "discard":'
                   f'"{discard}", "detect-zeroes":"{zeroes}"}}}}', 'return')
        seen = vm.command('{"execute":"blockdev-mirror", "arguments": '
                          '{"sync":"full", "device":"src", "target":"dst", '
                          '"job-id":"job2"}}', '"return"')
        assert pieces(seen + ': ') == ['created', 'running', 'return']
        assert pieces(vm.expect('"ready"')) == ['ready']
        vm.command('{"execute": "job-complete", "arguments": '
                   '{"id":"job2"}}', '"return": {}')
        time.sleep(0.005)       # no program answers sooner
        vm.command('{"execute": "blockdev-del", "arguments": '
                   '{"node-name": "dst"}}', '"return": {}')
        run_tool('qemu-img', 'compare', '-U', '-f', 'raw', '-F', 'raw', base,
                 path)
        used = os.stat(path).st_blocks * 512
        assert (used < 4 * MIB if wanted == 'sparse' else
                used == 20 * MIB), (creation, discard, zeroes, used)
    ends = pieces(vm.seen)
    assert ends.count('BLOCK_JOB_COMPLETED') == len(SPARSE)
    assert '"error"' not in vm.seen
    vm.send('{"execute": "quit"}')
    assert vm.wait() == 0


# ---- t/nbd-multiconn -------------------------------------------------------

def libnbd():
    """The library's module; `nbd` is one of ours here."""
    spec = PathFinder.find_spec('nbd', [path for path in sys.path
                                        if 'dist-packages' in path])
    if spec is None:
        pytest.skip('no python3-libnbd')
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def multiconn(launch, images):
    nbd = libnbd()
    disk = images.create('disk', 4 * MIB)
    images.io(disk, 'write -P 1 0 2M', 'write -P 2 2M 2M')
    vm = launch().start()
    vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'n', 'file': {
        'driver': 'file', 'filename': disk}})
    def client(name):
        handle = nbd.NBD()
        handle.connect_uri(f'nbd+unix:///{name}?socket={vm.nbd_path}')
        return handle

    def serve(**options):
        vm.qmp('nbd-server-start', dict(
            {'addr': {'type': 'unix', 'data': {'path': vm.nbd_path}}},
            **options))
        for name, more in (('r', {}), ('w', {'writable': True})):
            vm.qmp('block-export-add', dict(
                {'type': 'nbd', 'id': name, 'node-name': 'n', 'name': name},
                **more))

    return vm, serve, client


@pytest.mark.ours(reason='writable ones since 7.1, one client since 8')
def test_multiconn_default(multiconn):
    vm, serve, client = multiconn
    serve()
    for name in 'rw':
        handle = client(name)
        assert handle.can_multi_conn()
        assert handle.is_read_only() is (name == 'r')
        handle.shutdown()
    vm.qmp('nbd-server-stop')


@pytest.mark.ours(reason='one client since 8')
def test_multiconn_limited(multiconn):
    vm, serve, client = multiconn
    serve(**{'max-connections': 1})
    for name in 'rw':
        handle = client(name)
        assert not handle.can_multi_conn()
        handle.shutdown()
    vm.qmp('nbd-server-stop')


def test_multiconn_parallel_writes(multiconn):
    """A flush of one client counts for what others have written."""
    vm, serve, client = multiconn
    serve()
    clients = [client('w') for _ in range(3)]
    assert all(one.can_multi_conn() for one in clients)
    assert clients[0].pread(MIB, 0) == b'\1' * MIB
    clients[1].pwrite(b'\3' * MIB, 0)
    clients[2].flush()
    assert clients[0].pread(MIB, 0) == b'\3' * MIB
    for one in clients:
        one.shutdown()
    vm.qmp('nbd-server-stop')


# ---- t/commit-zero-blocks --------------------------------------------------

@pytest.mark.ours(reason='as data in 7.2')
@pytest.mark.parametrize('how', ['write -z 0 1M', 'discard 0 1M',
                                 'write -zu 0 1M'])
@pytest.mark.parametrize('active', [False, True])
def test_zeroes_stay_zeroes_in_the_base(launch, images, how, active):
    """They cost no data in the base after the commit."""
    base = images.create('base', MIB)
    images.io(base, 'write -P 1 0 1M')
    mid = images.create('mid', MIB, backing=base)
    images.io(mid, how)
    vm = launch()
    if active:
        disk = mid
    else:
        disk = images.create('top', MIB, backing=mid)
    vm.add_drive_raw(f'if=none,id=d,file={disk},format=qcow2,discard=unmap')
    vm.start()
    arguments = {'device': 'd', 'job-id': 'j'}
    if not active:
        arguments.update({'top': mid, 'base': base})
    vm.qmp('block-commit', arguments)
    if active:
        data = vm.wait_event('BLOCK_JOB_READY')['data']
        assert data['len'] == data['offset'] == MIB
        vm.qmp('job-complete', id='j')
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert 'error' not in data and data['len'] == data['offset'] == MIB
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    vm.stop()
    images.io(base, 'read -P 0 0 1M')
    for piece in images.map(base):
        assert piece['zero'] is True and piece['data'] is False, piece


# ---- t/mirror-top-perms ----------------------------------------------------

def test_mirror_top_perms_b(launch, images):
    """No other machine gets at the file, not even a sharing one."""
    source = images.create('source', MIB, fmt='raw')
    vm = launch(name='a').add_drive(source, image_format='raw')
    vm.add_blockdev(f'null-co,node-name=null,size={MIB}').start()
    vm.qmp('blockdev-mirror', {'job-id': 'mirror', 'device': 'drive0',
                               'target': 'null', 'sync': 'full'})
    vm.wait_ready('mirror')
    other = launch(name='b')
    other.add_blockdev(f'file,node-name=drive0,filename={source}')
    other.add_device('virtio-blk,drive=drive0,share-rw=on')
    with pytest.raises(Exception):
        other.start()
    assert other.proc.wait() == 1
    other.expect_exit = 1
    assert 'Is another process using the image' in other.output()
    vm.qmp('block-job-cancel', device='mirror')
    vm.wait_event('BLOCK_JOB_COMPLETED')


# ---- t/reopen-file ---------------------------------------------------------

def test_reopen_file_under_clients(launch, images):
    """A format node moves to a raw node over the same file, which has grown
    since, and back; contents stay."""
    path = images.create('disk', MIB)
    vm = launch().add_blockdev(f'file,filename={path},node-name=file')
    vm.add_blockdev('qcow2,file=file,node-name=disk')
    vm.add_blockdev('raw,file=file,node-name=raw0')
    vm.start()
    assert vm.io_lines('disk', 'write -P 5 0 64k')[0].startswith('wrote')
    vm.fails('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'disk', 'file': 'nope'}],
        desc="Cannot find device='' nor node-name='nope'")
    vm.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'disk', 'file': 'raw0'}])
    assert vm.io_lines('disk', 'read -P 5 0 64k')[0].startswith('read')
    vm.fails('blockdev-del', {'node-name': 'raw0'})
    vm.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'disk', 'file': 'file'}])
    vm.qmp('blockdev-del', {'node-name': 'raw0'})
    assert vm.io_lines('disk', 'read -P 5 0 64k')[0].startswith('read')


# ---- FUSE: 308, t/file-io-error, t/fuse-allow-other ------------------------

@pytest.mark.ours(reason='Debian has FUSE')
def test_fuse_is_not_there(shell, directory):
    """The words by which these tests know that they are to be skipped."""
    vm = shell('-blockdev', 'null-co,node-name=node-format')
    vm.expect('capabilities')
    vm.command("{'execute': 'qmp_capabilities'}", 'return')
    for more in ('', f", 'mountpoint': '{directory}/nope', 'writable': true, "
                 "'growable': false, 'allow-other': 'auto'"):
        vm.command("{'execute': 'block-export-add', 'arguments': {'type': "
                   "'fuse', 'id': 'export-err', 'node-name': 'node-format'" +
                   more + "} }", "Parameter 'type' does not accept value "
                   "'fuse'")
    vm.command("{'execute': 'query-block-exports'}", '{"return": []}')
