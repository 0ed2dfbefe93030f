# SPDX-License-Identifier: MIT
"""COMPAT section 4, sentence by sentence, as the Python harness uses it."""

import re

import pytest

MIB = 1 << 20


@pytest.fixture
def vm(launch, images):
    """drive0 over blkdebug, the read-only node ro, the disk dev0."""
    disk = images.create('disk', MIB)
    images.create('ro', MIB)
    other = images.create('other', MIB)
    vm = launch().add_drive_raw(
        f'if=none,id=drive0,file=blkdebug::{disk},format=qcow2')
    vm.add_blockdev(f'qcow2,node-name=ro,read-only=on,file.driver=file,'
                    f'file.filename={images.path("ro")}')
    vm.add_blockdev(f'qcow2,node-name=node0,file.driver=file,'
                    f'file.filename={other}')
    vm.add_device('virtio-blk,id=dev0,drive=node0,share-rw=on')
    return vm.start()


def lines(vm, command, device='drive0', qdev=False, flush=False):
    """What it prints, without the line of times, which must be as told;
    flush: up to the end of an aio_flush behind it."""
    before = len(vm.output())
    assert vm.qemu_io(device, command, qdev) == ''
    if flush:
        assert vm.qemu_io(device, 'aio_flush', qdev) == ''
    told = []
    for line in vm.output()[before:].splitlines():
        match = re.fullmatch(r'(.+), (\d+) ops; ([0-9/:. sec]*) \('
                             r'[0-9/.inf]* [EPTGMKiBbytes]*/sec and '
                             r'[0-9/.inf]* ops/sec\)', line)
        if match:
            line = f'{match[1]}, {match[2]} ops'
        told.append(line)
    return told


DONE = [
    ('write 0 512', 'wrote 512/512 bytes at offset 0', '512 bytes'),
    ('write -P 7 0 64k', 'wrote 65536/65536 bytes at offset 0', '64 KiB'),
    ('write -P0x41 0x10000 0x180', 'wrote 384/384 bytes at offset 65536',
     '384 bytes'),
    ('write -z 64k 64k', 'wrote 65536/65536 bytes at offset 65536',
     '64 KiB'),
    ('write -z -u 64k 64k', 'wrote 65536/65536 bytes at offset 65536',
     '64 KiB'),
    ('write -f 0 512b', 'wrote 512/512 bytes at offset 0', '512 bytes'),
    ('write -c 128k 64k', 'wrote 65536/65536 bytes at offset 131072',
     '64 KiB'),
    ('read 0 1M', 'read 1048576/1048576 bytes at offset 0', '1 MiB'),
    ('read 512K 256k', 'read 262144/262144 bytes at offset 524288',
     '256 KiB'),
    ('discard 0 64k', 'discard 65536/65536 bytes at offset 0', '64 KiB'),
    ('aio_write -P 3 0 64k', 'wrote 65536/65536 bytes at offset 0',
     '64 KiB'),
    ('aio_write -z 0 64k', 'wrote 65536/65536 bytes at offset 0', '64 KiB'),
    ('aio_write -z -u 0 64k', 'wrote 65536/65536 bytes at offset 0',
     '64 KiB'),
    ('aio_read 0 64k', 'read 65536/65536 bytes at offset 0', '64 KiB')]


@pytest.mark.parametrize('command, first, size', DONE)
def test_report(vm, command, first, size):
    if vm.is_qemu and command.startswith('aio_write -z -u'):
        pytest.skip('7.2 asks for discard=unmap')
    told = lines(vm, command, flush=command.startswith('aio'))
    assert told == [first, f'{size}, 1 ops']


def test_fraction_of_a_size(vm):
    vm.qmp('blockdev-add', driver='null-co', node_name='null', size=4 * MIB)
    assert lines(vm, 'write 0 1536k', 'null')[1] == '1.500 MiB, 1 ops'
    assert lines(vm, 'write 0 3M', 'null')[1] == '3 MiB, 1 ops'


@pytest.mark.parametrize('command', ['write -q 0 64k', 'aio_write -q 0 64k',
                                     'read -q 0 64k', 'flush', 'aio_flush'])
def test_quiet(vm, command):
    assert lines(vm, command, flush=True) == []


def test_pattern(vm):
    lines(vm, 'write -P 0xa5 0 64k')
    assert len(lines(vm, 'read -P 165 0 64k')) == 2
    assert lines(vm, 'read -P 1 0 64k')[0] == (
        'Pattern verification failed at offset 0, 65536 bytes')
    dump = lines(vm, 'read -v 0 16')
    assert dump[0].startswith('00000000:  a5 a5 a5 a5')
    assert lines(vm, 'nosuch 1 2')[0].startswith('command "nosuch" not found')


def test_who(vm):
    """A drive, else a node; with -d a device, its inner part, a path."""
    assert lines(vm, 'write -P 9 0 512')[0].startswith('wrote')
    for qdev in ('dev0', 'dev0/virtio-backend',
                 '/machine/peripheral/dev0/virtio-backend'):
        if vm.is_qemu and not qdev.startswith('/'):
            continue        # 7.2 takes the path
        assert lines(vm, 'read 0 512', qdev, True)[0].startswith('read 512')
    assert lines(vm, 'read 0 512', 'node0')[0].startswith('read 512')
    assert vm.hmp('qemu-io nosuch "read 0 512"') == (
        "Error: Cannot find device='' nor node-name='nosuch'\r\n")


def test_read_only(vm):
    assert vm.qemu_io('ro', 'read 0 512') == ''
    text = vm.qemu_io('ro', 'write 0 512')
    told = text + vm.output()
    assert 'Block node is read-only' in told, (text, vm.output())


@pytest.mark.parametrize('kind, command, words', [
    ('read', 'read 0 64k', 'read failed: Input/output error'),
    ('write', 'write 0 64k', 'write failed: Input/output error'),
    ('write', 'write -z 0 64k', 'write failed: Input/output error'),
    ('discard', 'discard 0 64k', 'discard failed: Input/output error'),
    ('read', 'aio_read 0 64k', 'aio_read failed: Input/output error'),
    ('write', 'aio_write 0 64k', 'aio_write failed: Input/output error')])
def test_failures(launch, images, kind, command, words):
    path = images.create('raw', MIB, fmt='raw')
    kinds = [kind] + (['write-zeroes'] if '-z' in command else [])
    rules = ','.join(
        f'inject-error.{i}.event=none,inject-error.{i}.iotype={one}'
        for i, one in enumerate(kinds))
    vm = launch().add_blockdev(f'blkdebug,node-name=d,image.driver=file,'
                               f'discard=unmap,image.discard=unmap,'
                               f'image.filename={path},{rules}').start()
    if vm.is_qemu and command.startswith('aio_read'):
        words = words.replace('aio_read', 'readv')
    told = lines(vm, command, 'd', flush=command.startswith('aio'))
    assert told == [words]


def test_breakpoints(vm):
    """remove_break takes all of the tag away and lets requests go; the
    monitor is not held up."""
    lines(vm, 'write 0 64k')
    for event in ('read_aio', 'write_aio'):
        assert lines(vm, f'break {event} bp_drive0') == []
    if vm.is_qemu:
        return      # Debian's has no qtest: it talks about each stop
    assert lines(vm, 'aio_read 0 64k') == []
    assert vm.qmp('query-status')['status'] in ('running', 'prelaunch')
    assert lines(vm, 'remove_break bp_drive0', flush=True) == [
        'read 65536/65536 bytes at offset 0', '64 KiB, 1 ops']
    assert lines(vm, 'read 0 64k')[0].startswith('read 65536')
    lines(vm, 'write 0 64k')
    assert lines(vm, 'break pwritev A') == []
    assert lines(vm, 'aio_write 0 64k') == []
    lines(vm, 'wait_break A')
    lines(vm, 'resume A')
    lines(vm, 'aio_flush')
    lines(vm, 'remove_break A')
    assert lines(vm, 'break read_aio x', 'node0') == [
        'Could not set a breakpoint: Operation not supported']


def test_reopen(vm):
    """-r, -w, -o."""
    assert vm.qemu_io('drive0', 'reopen -r') == ''
    before = vm.output()
    text = vm.qemu_io('drive0', 'write 0 512') + vm.output()[len(before):]
    assert 'wrote' not in text
    assert vm.qemu_io('drive0', 'reopen -w') == ''
    assert lines(vm, 'write 0 512')[0].startswith('wrote')
    assert lines(vm, 'reopen -o lazy-refcounts=on') == []
    vm.qmp('query-named-block-nodes', flat=True)


def test_others(vm, images):
    assert vm.hmp('nosuch') == "unknown command: 'nosuch'\r\n"
    assert vm.hmp('info block-jobs') == 'No active jobs\r\n'
    vm.qmp('blockdev-add', driver='null-co', node_name='t', size=MIB)
    lines(vm, 'write 0 1M')
    vm.qmp('blockdev-mirror', {'job-id': 'm', 'device': 'drive0', 'speed': 1,
                               'target': 't', 'sync': 'full',
                               'buf-size': 65536})
    assert re.fullmatch(r'Type mirror, device m: Completed \d+ of \d+ bytes, '
                        r'speed limit 1 bytes/s\r\n',
                        vm.hmp('info block-jobs'))
    vm.qmp('block-job-cancel', device='m', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'm', 'status': 'null'})
    assert vm.hmp('block_resize drive0 70G') == ''
    assert vm.qmp('query-block')[0]['inserted']['image']['virtual-size'] == \
        70 << 30
    assert vm.hmp(f'drive_backup drive0 {images.path("b")} qcow2') == ''
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'drive0', 'status': 'null'})
