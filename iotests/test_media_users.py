# SPDX-License-Identifier: MIT
"""Media that jobs and exports use while they are taken out."""

import pytest

from .test_media_trays import info, medium, moves

CD = ('-device', 'virtio-scsi-pci', '-device', 'scsi-cd,id=d,drive=m')
SIZE = 64 << 20


def null_node(name):
    return f'null-co,node-name={name},size={SIZE},read-zeroes=on'


@pytest.mark.parametrize('command', ['blockdev-backup', 'blockdev-mirror'])
def test_job_keeps_the_medium(launch, command):
    """While a job copies it, it cannot be taken out or changed."""
    vm = launch('-blockdev', null_node('m'), '-blockdev', null_node('t'),
                *CD).start()
    vm.qmp(command, {'device': 'm', 'target': 't', 'sync': 'full',
                     'speed': 1, 'job-id': 'j'})
    kind = command.split('-')[1]
    vm.mon.drop_events()
    desc = vm.fails('eject', id='d')
    assert desc.startswith("Node '")
    assert desc.endswith(f"' is busy: block device is in use by block job: "
                         f"{kind}")
    # QEMU has opened the tray by then.
    assert moves(vm) == ([True] if vm.is_qemu else [])
    assert info(vm)['tray_open'] is vm.is_qemu
    vm.qmp('blockdev-open-tray', id='d')
    vm.fails('blockdev-remove-medium', id='d', desc=desc)
    vm.fails('blockdev-change-medium', id='d', filename='null-co://',
             format='raw', desc=desc)
    assert info(vm)['tray_open'] is True
    assert 'inserted' in info(vm)
    vm.qmp('block-job-cancel', device='j', force=True)
    vm.wait_event('BLOCK_JOB_CANCELLED')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    assert medium(vm) == 'm'
    vm.qmp('blockdev-remove-medium', id='d')
    assert 'm' in vm.nodes()


def test_job_of_a_drive_by_its_name(launch, images):
    """In the text the drive's name stands for its node."""
    image = images.create('a.qcow2', SIZE)
    images.io(image, 'write 0 4M')
    other = images.create('b.qcow2', SIZE)
    vm = launch('-drive', f'if=none,id=drv,file={image}', '-blockdev',
                null_node('t')).start()
    vm.qmp('blockdev-backup', {'device': 'drv', 'target': 't',
                               'sync': 'full', 'speed': 1})
    for command, more in (('eject', {}),
                          ('blockdev-change-medium', {'filename': other})):
        vm.fails(command, dict(more, device='drv'),
                 "Node 'drv' is busy: block device is in use by block job: "
                 "backup")
    vm.qmp('block-job-cancel', device='drv')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'drv', 'status': 'null'})
    vm.qmp('eject', device='drv')
    assert vm.nodes().keys() == {'t'}


@pytest.mark.parametrize('front_end', [False, True])
def test_export_of_a_drive_goes_with_the_medium(launch, images, front_end):
    """nbd-server-add of a drive: its export ends with the medium."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch('-drive', f'if=none,id=drv,media=cdrom,file={image},'
                f'format=raw,node-name=n')
    if front_end:
        vm.add_args('-device', 'ide-cd,id=d,drive=drv')
    vm.start()
    vm.qmp('nbd-server-start',
           addr={'type': 'unix', 'data': {'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='drv')
    assert [e['id'] for e in vm.qmp('query-block-exports')] == ['drv']
    vm.qmp('eject', device='drv')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'drv'})
    assert vm.qmp('query-block-exports') == []
    assert vm.nodes() == {}


def test_export_of_a_node_keeps_it(launch):
    """block-export-add's export has the node for itself."""
    vm = launch('-blockdev', null_node('m') + ',read-only=on', *CD).start()
    vm.qmp('nbd-server-start',
           addr={'type': 'unix', 'data': {'path': vm.nbd_path}})
    vm.qmp('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'm',
                                'name': 'x'})
    vm.qmp('eject', id='d')
    assert [e['id'] for e in vm.qmp('query-block-exports')] == ['e']
    vm.fails('blockdev-insert-medium', {'id': 'd', 'node-name': 'm'},
             "Node 'm' is already in use")
    vm.qmp('block-export-del', id='e')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e'})
    vm.qmp('blockdev-insert-medium', {'id': 'd', 'node-name': 'm'})
    assert medium(vm) == 'm'


def test_limits_stay_with_the_drive(launch, images):
    """They are there again when a medium is; an empty drive takes none."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch('-drive', f'if=none,id=drv,file={image},format=raw,'
                f'throttling.bps-total=1048576', '-device',
                'virtio-scsi-pci', '-device', 'scsi-cd,id=d,drive=drv').start()
    vm.qmp('eject', id='d')
    limits = {'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 100, 'iops_rd': 0,
              'iops_wr': 0}
    vm.fails('block_set_io_throttle', dict(limits, id='d'),
             "Device has no medium")
    vm.qmp('blockdev-change-medium', id='d', filename=image, format='raw')
    assert info(vm)['inserted']['bps'] == 1048576
    vm.qmp('block_set_io_throttle', dict(limits, id='d'))
    vm.qmp('eject', id='d')
    vm.qmp('blockdev-change-medium', id='d', filename=image, format='raw')
    assert info(vm)['inserted']['bps'] == 0
    assert info(vm)['inserted']['iops'] == 100


def test_limits_of_a_cd_drive(launch):
    """As 093: they are the drive's whatever is in it."""
    vm = launch('-device', 'virtio-scsi-pci,id=s').start()
    for name in ('cd0', 'cd1'):
        vm.qmp('blockdev-add', {'driver': 'null-co', 'read-zeroes': True,
                                'node-name': name})
    vm.qmp('device_add', driver='scsi-cd', id='dev0', drive='cd0')
    limits = {'id': 'dev0', 'iops': 100, 'iops_rd': 0, 'iops_wr': 0,
              'bps': 50, 'bps_rd': 0, 'bps_wr': 0}
    vm.qmp('block_set_io_throttle', limits)
    entry, = vm.qmp('query-block')
    assert (entry['inserted']['iops'], entry['inserted']['bps']) == (100, 50)
    vm.qmp('blockdev-open-tray', id='dev0')
    vm.qmp('blockdev-remove-medium', id='dev0')
    vm.qmp('blockdev-insert-medium', {'id': 'dev0', 'node-name': 'cd1'})
    entry, = vm.qmp('query-block')
    assert entry['inserted']['node-name'] == 'cd1'
    assert (entry['inserted']['iops'], entry['inserted']['bps']) == (100, 50)
    vm.qmp('blockdev-remove-medium', id='dev0')
    vm.fails('block_set_io_throttle', limits, 'Device has no medium')
    vm.qmp('device_del', id='dev0')
    vm.wait_event('DEVICE_DELETED', {'device': 'dev0'})
    assert vm.qmp('query-block') == []


@pytest.mark.parametrize('kind,text', [
    ('floppy', 'Failed to get "write" lock'),
    ('scsi-cd', 'Failed to get shared "write" lock')])
def test_medium_that_another_process_has(launch, images, kind, text):
    """It opens, but cannot be had: the old one is there again.  (QEMU
    leaves the drive open and empty.)"""
    taken = images.create('taken.img', '1M', fmt='raw')
    old = images.create('old.img', '1M', fmt='raw')
    launch('-drive', f'if=virtio,file={taken},format=raw').start()
    vm = launch('-device', 'virtio-scsi-pci', '-drive',
                f'if=none,id=drv,file={old},format=raw', '-device',
                f'{kind},id=d,drive=drv').start()
    vm.fails('blockdev-change-medium', {
        'id': 'd', 'filename': taken, 'format': 'raw',
        'read-only-mode': 'read-write'}, text)
    if not vm.is_qemu:
        assert info(vm)['inserted']['file'] == old
        assert info(vm)['inserted']['ro'] is False
        assert moves(vm) == []
        assert len(vm.nodes()) == 2
    vm.qmp('blockdev-change-medium', id='d', filename=old, format='raw')
    assert info(vm)['inserted']['file'] == old
