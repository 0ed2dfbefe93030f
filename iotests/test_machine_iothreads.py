# SPDX-License-Identifier: MIT
"""Who insists on an iothread, and who may go along: devices, exports, nodes
that are connected."""

import pytest

TEXT = 'Cannot change iothread of active block backend'


@pytest.fixture
def machine(launch):
    one = launch()
    for node in ('n0', 'n1', 'n2'):
        one.add_blockdev(f'null-co,node-name={node},size=1048576,'
                         'read-zeroes=on')
    for name in ('io0', 'io1'):
        one.add_object(f'iothread,id={name}')
    one.add_device('virtio-scsi-pci,id=s0,iothread=io0')
    one.add_device('virtio-scsi-pci,id=main')
    one.start()
    one.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': one.path('nbd.sock')}}})
    return one


def add_disk(machine, drive, bus, name):
    machine.qmp('device_add', disk(drive, bus, name))


def disk(drive, bus, name):
    return {'driver': 'scsi-hd', 'drive': drive, 'bus': bus, 'id': name,
            'share-rw': True}


def export(node, iothread, fixed):
    return {'type': 'nbd', 'id': f'e-{node}-{iothread}', 'node-name': node,
            'iothread': iothread, 'fixed-iothread': fixed,
            'name': f'{node}-{iothread}'}


def test_disks(machine):
    add_disk(machine, 'n0', 's0.0', 'a')
    machine.fails('device_add', disk('n0', 'main.0', 'b'), TEXT)
    add_disk(machine, 'n0', 's0.0', 'b')
    add_disk(machine, 'n1', 'main.0', 'c')
    machine.fails('device_add', disk('n1', 's0.0', 'd'), TEXT)


def test_connected_nodes(machine):
    """What is above and below a node goes where it goes."""
    machine.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r0',
                                 'file': 'n0'})
    machine.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r1',
                                 'file': 'n1'})
    add_disk(machine, 'r0', 's0.0', 'a')
    machine.fails('device_add', disk('n0', 'main.0', 'b'), TEXT)
    add_disk(machine, 'r1', 'main.0', 'b')


def test_export_that_insists(machine):
    add_disk(machine, 'n0', 's0.0', 'a')
    machine.fails('block-export-add', export('n0', 'io1', True), TEXT)
    machine.qmp('block-export-add', export('n0', 'io1', False))
    machine.qmp('block-export-add', export('n0', 'io0', True))


def test_disk_on_an_export_that_insists(machine):
    machine.qmp('block-export-add', export('n0', 'io1', True))
    machine.fails('device_add', disk('n0', 'main.0', 'a'), TEXT)
    machine.qmp('block-export-add', export('n1', 'io1', False))
    add_disk(machine, 'n1', 'main.0', 'a')
    machine.qmp('block-export-del', {'id': 'e-n0-io1'})
    machine.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e-n0-io1'})
    add_disk(machine, 'n0', 'main.0', 'b')      # nobody insists any more


def test_set_iothread(machine):
    add_disk(machine, 'n0', 's0.0', 'a')
    machine.fails('x-blockdev-set-iothread', {
        'node-name': 'n0', 'iothread': 'io1', 'force': True}, TEXT)
    machine.qmp('x-blockdev-set-iothread', {
        'node-name': 'n1', 'iothread': 'io1'})
    machine.qmp('x-blockdev-set-iothread', {
        'node-name': 'n1', 'iothread': None})


def test_drive_that_is_set(machine):
    """qom-set drive checks, too."""
    add_disk(machine, 'n0', 's0.0', 'a')
    add_disk(machine, 'n1', 'main.0', 'b')
    machine.qmp('qom-set', {'path': 'b', 'property': 'drive', 'value': 'n2'})
    assert machine.qmp('qom-get', {'path': 'b', 'property': 'drive'}) == 'n2'


def test_iothread_of_a_device_stays(machine):
    if not machine.is_qemu:     # 7.2 lets it go, and forgets it
        machine.qmp('object-del', {'id': 'io0'})
    add_disk(machine, 'n0', 's0.0', 'a')
    assert machine.qmp('qom-get', {'path': 'a', 'property': 'drive'}) == 'n0'
