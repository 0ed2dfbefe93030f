# SPDX-License-Identifier: MIT
"""Rows 118 and 140 of COMPAT.md 10: media change as QEMU's tests do it."""

import subprocess

import pytest

from .test_media_trays import info

KINDS = {'ide-cd': 'cdrom', 'scsi-cd': 'cdrom', 'floppy': 'disk'}
ID = 'qdev0'


def start(launch, images, kind, filled, options=''):
    """A drive0 of that kind; with old.qcow2 in it, or empty."""
    old = images.create('old.qcow2', '1440K')
    new = images.create('new.qcow2', '1440K')
    vm = launch()
    vm.add_drive(old if filled else None, f'media={KINDS[kind]}' + options,
                 'none')
    if kind == 'scsi-cd':
        vm.add_device('virtio-scsi-pci')
    vm.add_device(f'{kind},drive=drive0,id={ID}')
    return vm.start(), old, new


def wait_tray(vm, kind, is_open):
    if KINDS[kind] == 'cdrom':
        vm.wait_event('DEVICE_TRAY_MOVED', {
            'device': 'drive0', 'id': ID, 'tray-open': is_open})


def check(vm, kind, is_open, filename):
    entry = info(vm, ID)
    assert entry.get('tray_open') == (
        is_open if KINDS[kind] == 'cdrom' else None)
    inserted = entry.get('inserted')
    assert (inserted and inserted['image']['filename']) == filename


@pytest.mark.parametrize('filled', [False, True])
@pytest.mark.parametrize('kind', KINDS)
class TestChange:
    def test_change(self, launch, images, kind, filled):
        vm, _, new = start(launch, images, kind, filled)
        vm.qmp('blockdev-change-medium', id=ID, filename=new, format='qcow2')
        wait_tray(vm, kind, True)
        wait_tray(vm, kind, False)
        check(vm, kind, False, new)

    def test_eject_then_change(self, launch, images, kind, filled):
        vm, _, new = start(launch, images, kind, filled)
        vm.qmp('eject', id=ID, force=True)
        wait_tray(vm, kind, True)
        check(vm, kind, True, None)
        vm.qmp('blockdev-change-medium', id=ID, filename=new, format='qcow2')
        wait_tray(vm, kind, False)
        check(vm, kind, False, new)

    def test_open_close(self, launch, images, kind, filled):
        vm, old, _ = start(launch, images, kind, filled)
        there = old if filled else None
        vm.qmp('blockdev-open-tray', id=ID, force=True)
        wait_tray(vm, kind, True)
        check(vm, kind, True, there)
        vm.qmp('blockdev-close-tray', id=ID)
        wait_tray(vm, kind, False)
        check(vm, kind, False, there)

    def test_eject_and_close(self, launch, images, kind, filled):
        vm, _, _ = start(launch, images, kind, filled)
        vm.qmp('eject', id=ID)
        vm.qmp('blockdev-close-tray', id=ID)
        check(vm, kind, False, None)

    @pytest.mark.parametrize('read_only', [False, True])
    def test_cycle(self, launch, images, kind, filled, read_only):
        vm, old, new = start(launch, images, kind, filled)
        vm.add_node('new', new, read_only=read_only)
        vm.qmp('blockdev-open-tray', id=ID)
        check(vm, kind, True, old if filled else None)
        vm.qmp('blockdev-remove-medium', id=ID)
        check(vm, kind, True, None)
        vm.qmp('blockdev-insert-medium', {'id': ID, 'node-name': 'new'})
        check(vm, kind, True, new)
        vm.qmp('blockdev-close-tray', id=ID)
        wait_tray(vm, kind, True)
        wait_tray(vm, kind, False)
        check(vm, kind, False, new)
        assert info(vm, ID)['inserted']['ro'] is read_only


@pytest.mark.parametrize('options,mode,expected', [
    ('', 'retain', False), ('', 'read-only', True),
    ('', 'read-write', False), (',read-only=on', 'retain', True),
    (',read-only=on', 'read-only', True),
    (',read-only=on', 'read-write', False)])
def test_read_only_of_floppies(launch, images, options, mode, expected):
    vm, old, new = start(launch, images, 'floppy', True, options)
    assert info(vm, ID)['inserted']['ro'] is bool(options)
    vm.qmp('blockdev-change-medium', {
        'id': ID, 'filename': new, 'format': 'qcow2',
        'read-only-mode': mode})
    check(vm, 'floppy', False, new)
    assert info(vm, ID)['inserted']['ro'] is expected
    vm.qmp('blockdev-change-medium', id=ID, filename=old, format='qcow2')
    assert info(vm, ID)['inserted']['ro'] is expected


def test_140(launch, images):
    """The export of a drive: there, gone with the medium."""
    path = images.create('a.qcow2', '64k')
    images.io(path, 'write -P 42 0 64k')
    vm = launch('-drive', f'if=none,media=cdrom,id=drv,file={path},'
                f'format=qcow2').start()
    vm.qmp('nbd-server-start',
           addr={'type': 'unix', 'data': {'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='drv')
    read = ['qemu-io', '-f', 'raw', '-r', '-c', 'read -P 42 0 64k',
            f'nbd+unix:///drv?socket={vm.nbd_path}']
    done = subprocess.run(read, capture_output=True, text=True, timeout=20,
                          check=False)
    assert 'read 65536/65536 bytes at offset 0' in done.stdout
    vm.qmp('eject', device='drv')
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'drv'})
    done = subprocess.run(read, capture_output=True, text=True, timeout=20,
                          check=False)
    assert "Requested export not available" in done.stderr
    assert "export 'drv' not present" in done.stderr
