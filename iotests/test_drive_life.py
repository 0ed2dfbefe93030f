# SPDX-License-Identifier: MIT
"""Drives as they come and go: -drive, drive_add, drive_del, device_del; what
a guessed format forbids; what snapshot=on and copy-on-read=on put on an
image.  All of it with QEMU as well (--server qemu)."""

import os

import pytest

from .images import qemu_img, run_tool

KIB = 1 << 10
MIB = 1 << 20
GUESSED = ["WARNING: Image format was not specified for '{0}' and probing "
           "guessed raw.",
           '         Automatically detecting the format is dangerous for raw '
           'images, write operations on block 0 will be restricted.',
           "         Specify the 'raw' format explicitly to remove the "
           'restrictions.']


def devices(vm):
    return {entry['device']: entry for entry in vm.qmp('query-block')}


def node_names(vm):
    return {node['node-name'] for node in
            vm.qmp('query-named-block-nodes', flat=True)}


@pytest.fixture
def raw(images):
    return images.create('r.img', MIB, 'raw')


@pytest.fixture
def bare(launch):
    return launch(machine='none')


# Guessed formats

def test_guessed_raw_is_guarded(bare, images, raw):
    other = images.create('header.qcow2', MIB)
    with open(other, 'rb') as image:
        header = image.read(512)
    with open(os.path.join(bare.directory, 'header'), 'wb') as copy:
        copy.write(header)
    vm = bare.add_drive_raw(f'if=none,id=d,file={raw}').start()
    assert [line.rstrip() for line in vm.output().splitlines()] == \
        [line.format(raw) for line in GUESSED]
    write = 'write -s header'
    assert vm.io_lines('d', f'{write} 0 512') == [
        'write failed: Operation not permitted']
    assert vm.io_lines('d', f'{write} 0 4k') == [
        'write failed: Operation not permitted']
    assert vm.io_lines('d', f'{write} 512 512')[0] == \
        'wrote 512/512 bytes at offset 512'
    assert vm.io_lines('d', 'write -P 5 0 64k')[0] == \
        'wrote 65536/65536 bytes at offset 0'
    assert vm.io_lines('d', f'{write} 0 512') == [
        'write failed: Operation not permitted']


def test_given_raw_is_not_guarded(bare, images, raw):
    other = images.create('header.qcow2', MIB)
    with open(other, 'rb') as image:
        header = image.read(512)
    with open(os.path.join(bare.directory, 'header'), 'wb') as copy:
        copy.write(header)
    vm = bare.add_drive_raw(f'if=none,id=d,file={raw},format=raw').start()
    assert vm.output() == ''
    assert vm.io_lines('d', 'write -s header 0 512')[0] == \
        'wrote 512/512 bytes at offset 0'


def test_guessed_child_is_guarded(bare, images, raw):
    other = images.create('header.qcow2', MIB)
    with open(other, 'rb') as image:
        header = image.read(512)
    with open(os.path.join(bare.directory, 'header'), 'wb') as copy:
        copy.write(header)
    vm = bare.add_drive_raw('if=none,id=d,driver=quorum,vote-threshold=1,'
                            f'children.0.file.filename={raw}').start()
    assert vm.output().splitlines()[0] == GUESSED[0].format(raw)
    assert vm.io_lines('d', 'write -s header 0 512') == [
        'write failed: Operation not permitted']


# drive_add, drive_del

def test_add_and_delete(bare, raw):
    vm = bare.start()
    assert vm.hmp(f'drive_add 0 if=none,id=d,file={raw},format=raw,'
                  'node-name=n') == 'OK\r\n'
    assert devices(vm)['d']['inserted']['node-name'] == 'n'
    assert vm.hmp('drive_add 0 if=none,id=d') == \
        "Duplicate ID 'd' for drive\r\n"
    assert vm.hmp('drive_add 0 if=none') == 'OK\r\n'
    assert set(devices(vm)) == {'d', 'none1'}
    assert vm.hmp('drive_add 0 if=virtio,id=x') == \
        "Can't hot-add drive to type 7\r\n"
    assert vm.hmp(f'drive_add 0 if=none,id=q,file={raw}.nope') == \
        f"Could not open '{raw}.nope': No such file or directory\r\n"
    assert vm.hmp('drive_del d') == ''
    assert vm.hmp('drive_del d') == "Device 'd' not found\r\n" or \
        not vm.is_qemu
    assert set(devices(vm)) == {'none1'}
    assert node_names(vm) == set()
    assert vm.hmp('drive_add 0 if=none') == 'OK\r\n'
    assert set(devices(vm)) == {'none0', 'none1'}


def test_add_node(bare, raw):
    vm = bare.start()
    assert vm.hmp('drive_add -n 0 node-name=nn,driver=null-co') == ''
    assert vm.hmp('drive_add -n 0 driver=null-co').rstrip() == \
        "'node-name' needs to be specified" or not vm.is_qemu
    assert vm.hmp(f'drive_add -n 0 node-name=n3,driver=raw,file.driver=file,'
                  f'file.filename={raw}') == ''
    assert {'nn', 'n3'} <= node_names(vm)
    assert vm.qmp('query-block') == []
    vm.qmp('blockdev-del', {'node-name': 'n3'})
    assert vm.hmp('drive_del nn') == ''
    assert node_names(vm) == set()


def test_delete_with_device(launch, raw):
    """The device stays, empty; the drive's name is nobody's."""
    vm = launch(machine='q35')
    vm.add_drive_raw(f'if=none,id=d,file={raw},format=raw,node-name=n')
    vm.add_device('virtio-scsi-pci').add_device('scsi-hd,drive=d,id=v')
    vm.start()
    assert vm.hmp('drive_del d') == ''
    entry, = vm.qmp('query-block')
    assert (entry['device'], entry['qdev']) == ('', 'v')
    assert 'inserted' not in entry
    assert node_names(vm) == set()
    assert vm.io_lines('v', 'read 0 512', qdev=True) == [
        'read failed: No medium found']
    vm.qmp('device_del', id='v')
    vm.qmp('system_reset')
    vm.wait_event('DEVICE_DELETED', {'device': 'v'})
    assert vm.hmp(f'drive_add 0 if=none,id=d,file={raw},format=raw') == \
        'OK\r\n'
    assert set(devices(vm)) == {'d'}


def test_gone_with_device(launch, raw):
    """A drive goes with its device, its node with it."""
    vm = launch(machine='q35')
    vm.add_drive_raw(f'if=none,id=d,file={raw},format=raw,node-name=n')
    vm.add_device('virtio-scsi-pci').add_device('scsi-hd,drive=d,id=v')
    vm.start()
    vm.qmp('device_del', id='v')
    vm.qmp('system_reset')
    vm.wait_event('DEVICE_DELETED', {'device': 'v'})
    assert vm.qmp('query-block') == []
    assert node_names(vm) == set()
    assert vm.hmp(f'drive_add 0 if=none,id=d,file={raw},format=raw,'
                  'node-name=n') == 'OK\r\n'
    vm.qmp('device_add', driver='scsi-hd', drive='d', id='v')
    assert devices(vm)['d']['qdev'] == 'v'


@pytest.mark.parametrize('command', ['blockdev-mirror', 'blockdev-backup'])
def test_delete_in_a_job(bare, images, command):
    raw = images.create('big.img', 32 * MIB, 'raw')
    run_tool('qemu-io', '-f', 'raw', '-c', f'write 0 {32 * MIB}', raw)
    vm = bare.add_drive_raw(
        f'if=none,id=d,file={raw},format=raw,node-name=n')
    vm.add_blockdev(f'null-co,node-name=t,size={32 * MIB}').start()
    arguments = {'device': 'd', 'target': 't', 'sync': 'full', 'speed': 1,
                 'job-id': 'j'}
    vm.qmp(command, arguments)
    kind = command.split('-')[1]
    assert vm.hmp('drive_del d').rstrip() in (
        f"Node 'd' is busy: block device is in use by block job: {kind}",
        f"Error: Node 'd' is busy: block device is in use by block job: "
        f'{kind}')
    vm.qmp('block-job-cancel', device='j', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    assert vm.hmp('drive_del d') == ''
    assert node_names(vm) == {'t'}


def test_delete_exported(bare, raw):
    """The export of a drive goes with it."""
    vm = bare.add_drive_raw(f'if=none,id=d,file={raw},format=raw').start()
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='d')
    assert vm.hmp('drive_del d') == ''
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'd'})
    assert vm.qmp('query-block') == []
    assert vm.qmp('query-block-exports') == []
    assert node_names(vm) == set()


# What is put on an image

def test_temporary_snapshot(bare, images):
    path = images.create('a.qcow2', MIB)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 64k', path)
    before = open(path, 'rb').read()
    vm = bare.add_drive_raw(
        f'if=none,id=d,file={path},format=qcow2,snapshot=on').start()
    assert vm.io_lines('d', 'read -P 7 0 64k')[0].startswith('read 65536/')
    assert vm.io_lines('d', 'write -P 9 0 128k')[0].startswith('wrote 131072')
    assert vm.io_lines('d', 'read -P 9 0 128k')[0].startswith('read 131072/')
    inserted = devices(vm)['d']['inserted']
    assert inserted['backing_file'] == path
    assert inserted['cache'] == {'direct': False, 'no-flush': True,
                                 'writeback': True}
    overlay = inserted['image']['filename'].split('"')
    temporary = [word for word in overlay if word.startswith('/var/tmp/')]
    assert temporary and not os.path.exists(temporary[0])
    vm.stop()
    assert open(path, 'rb').read() == before


def test_copy_on_read(bare, images):
    base = images.create('base.qcow2', MIB)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 128k', base)
    top = images.create('top.qcow2', MIB, backing=base)
    vm = bare.add_drive_raw(f'if=none,id=d,file={top},format=qcow2,'
                            'copy-on-read=on,node-name=n').start()
    assert devices(vm)['d']['inserted']['node-name'] == 'n'
    vm.io_lines('d', 'read -P 7 0 64k')
    vm.stop()
    assert '64 KiB (0x10000) bytes     allocated' in run_tool(
        'qemu-io', '-f', 'qcow2', '-c', 'map', top)


def test_copy_on_read_and_writes(bare, images):
    """No write is lost to a copy of what was there before."""
    base = images.create('base.qcow2', 4 * MIB)
    run_tool('qemu-io', '-f', 'qcow2', '-c', f'write -P 7 0 {4 * MIB}', base)
    top = images.create('top.qcow2', 4 * MIB, backing=base)
    vm = bare.add_drive_raw(f'if=none,id=d,file={top},format=qcow2,'
                            'copy-on-read=on').start()
    cluster = 64 * KIB
    for at in range(0, 4 * MIB, cluster):
        vm.qemu_io('d', f'aio_read -q {at} {cluster}')
        vm.qemu_io('d', f'aio_write -q -P 9 {at + 4096} 4k')
        vm.qemu_io('d', f'aio_read -q {at + 512} 512')
    vm.qemu_io('d', 'aio_flush')
    for at in range(0, 4 * MIB, cluster):
        for pattern, start, length in ((7, at, 4096), (9, at + 4096, 4096),
                                       (7, at + 8192, cluster - 8192)):
            assert vm.io_lines('d', f'read -q -P {pattern} {start} '
                               f'{length}') == []
    assert vm.qmp('query-block')[0]['inserted']['image']['filename'] == top


def test_copy_on_read_and_stream(bare, images):
    """A job on such a drive is one on its image."""
    base = images.create('base.qcow2', MIB)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 128k', base)
    top = images.create('top.qcow2', MIB, backing=base)
    vm = bare.add_drive_raw(f'if=none,id=d,file={top},format=qcow2,'
                            'copy-on-read=on,node-name=n').start()
    vm.qmp('block-stream', device='d')
    vm.wait_completed('d')
    assert 'backing_file' not in devices(vm)['d']['inserted']
    vm.stop()
    assert 'backing file' not in qemu_img('info', top)


# Where a drive is

def test_places(launch, images):
    paths = [images.create(f'{i}.img', MIB, 'raw') for i in range(4)]
    vm = launch(machine='pc')
    vm.add_drive_raw('if=ide,media=cdrom')
    vm.add_drive_raw(f'file={paths[0]},format=raw')
    vm.add_drive_raw(f'if=ide,media=cdrom,format=raw,file={paths[1]}')
    vm.add_drive_raw(f'if=floppy,format=raw,file={paths[2]}')
    vm.add_drive_raw(f'if=virtio,format=raw,file={paths[3]}')
    vm.start()
    told = devices(vm)
    assert list(told) == ['ide0-cd0', 'ide0-hd1', 'ide1-cd0', 'floppy0',
                          'virtio0']
    assert told['ide1-cd0']['inserted']['ro']
    assert told['ide0-cd0']['tray_open'] is False
    assert [told[d]['removable'] for d in told] == [True, False, True, True,
                                                    False]
    assert told['virtio0']['qdev'].endswith('/virtio-backend')


def test_drive_in_use_twice(launch, raw):
    vm = launch(machine='q35')
    vm.add_drive_raw(f'if=none,id=d,file={raw},format=raw')
    vm.add_device('virtio-scsi-pci').add_device('scsi-hd,drive=d,id=a')
    vm.start()
    vm.fails('device_add', {'driver': 'scsi-hd', 'drive': 'd', 'id': 'b'},
             "Drive 'd' is already in use by another device")


# What a command makes

def test_formatting_lines(bare, raw):
    """One line on stdout for each image, before the reply."""
    vm = bare.add_drive_raw(f'if=none,id=d,file={raw},format=raw').start()
    new = [os.path.join(vm.directory, name) for name in ('1', '2,x', '3')]
    vm.qmp('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': new[0]})
    vm.qmp('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': new[1],
                                      'format': 'qcow2'})
    vm.qmp('drive-backup', {'device': 'd', 'target': new[2], 'sync': 'full',
                            'format': 'raw', 'job-id': 'j'})
    qcow2 = ('fmt=qcow2 cluster_size=65536 extended_l2=off '
             f'compression_type=zlib size={MIB}')
    tail = 'lazy_refcounts=off refcount_bits=16'
    assert vm.output().splitlines() == [
        f"Formatting '{new[0]}', {qcow2} backing_file={raw} "
        f'backing_fmt=raw {tail}',
        f"Formatting '{new[1]}', {qcow2} backing_file={new[0]} "
        f'backing_fmt=qcow2 {tail}',
        f"Formatting '{new[2]}', fmt=raw size={MIB}"]


def test_reopen_of_a_drive(bare, images):
    """blockdev-reopen takes what -drive has made."""
    path = images.create('a.qcow2', MIB)
    vm = bare.add_drive_raw(f'if=none,id=d,file={path},format=qcow2,'
                            'node-name=n,cache=writeback,aio=threads').start()
    options = {'driver': 'qcow2', 'node-name': 'n', 'read-only': True,
               'file': {'driver': 'file', 'filename': path}}
    vm.qmp('blockdev-reopen', options=[options])
    assert devices(vm)['d']['inserted']['ro']
    options['read-only'] = False
    vm.qmp('blockdev-reopen', options=[options])
    assert vm.io_lines('d', 'write 0 64k')[0].startswith('wrote')
