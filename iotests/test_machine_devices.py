# SPDX-License-Identifier: MIT
"""device_add and device_del: types, properties, buses, drives."""

import re

import pytest

from .qmp import QmpClosed
from .server import ServerFailed

ZEROES = 'null-co,node-name={},size=1048576,read-zeroes=on'
READ_ONLY = ZEROES + ',read-only=on'


@pytest.fixture
def machine(launch):
    """A pc with a SCSI controller, some nodes and iothreads."""
    one = launch()
    for node in ('n0', 'n1', 'n2'):
        one.add_blockdev(ZEROES.format(node))
    one.add_blockdev(READ_ONLY.format('ro'))
    one.add_object('iothread,id=io0').add_object('iothread,id=io1')
    one.add_drive_raw('if=none,id=empty')
    one.add_device('virtio-scsi-pci,id=sc')
    return one.start()


def add(machine, driver, **properties):
    machine.qmp('device_add', dict(
        {'driver': driver},
        **{k.replace('_', '-') if k != 'logical_block_size' else k: v
           for k, v in properties.items()}))


def refused(machine, desc, driver, cls='GenericError', **properties):
    machine.fails('device_add', dict({'driver': driver}, **properties), desc,
                  cls=cls)


def block(machine, qdev):
    found = [b for b in machine.qmp('query-block') if b.get('qdev') == qdev]
    assert len(found) == 1, (qdev, found)
    return found[0]


def children(machine, path):
    return {p['name']: p['type'] for p in machine.qmp('qom-list',
                                                      {'path': path})
            if p['type'].startswith('child<')}


def test_refused_types(machine):
    refused(machine, "'nope' is not a valid device model name", 'nope')
    machine.fails('device_add', {'id': 'x'}, "Parameter 'driver' is missing")
    machine.fails('device_add', {}, "Parameter 'driver' is missing")
    refused(machine, "'container' is not a valid device model name",
            'container')


@pytest.mark.ours('QEMU refuses it for its medium')
def test_pass_through_is_refused_by_name(machine):
    refused(machine, "Device 'scsi-block' is not supported: this machine has "
            "no such disks", 'scsi-block', drive='n0')


def test_refused_ids(machine):
    text = "Parameter 'id' expects an identifier"
    refused(machine, text, 'scsi-hd', drive='n0', id='1x')
    refused(machine, text, 'scsi-hd', drive='n0', id='')
    add(machine, 'scsi-hd', drive='n0', id='a')
    refused(machine, "Duplicate device ID 'a'", 'scsi-hd', drive='n1', id='a')
    # The first is as it was.
    assert block(machine, 'a')['inserted']['node-name'] == 'n0'


def test_refused_properties(machine):
    refused(machine, "Property 'virtio-blk-pci.foo' not found", 'virtio-blk',
            drive='n0', foo=1)
    refused(machine, "Property 'scsi-hd.foo' not found", 'scsi-hd',
            drive='n0', foo=1)
    refused(machine, "Parameter 'share-rw' expects 'on' or 'off'",
            'scsi-hd', **{'drive': 'n0', 'share-rw': 'maybe'})
    for value in (-1, 99999):
        refused(machine, "Parameter 'num-queues' expects uint16_t",
                'virtio-blk', **{'drive': 'n0', 'num-queues': value})
    refused(machine, 'num-queues property must be larger than 0',
            'virtio-blk', **{'drive': 'n0', 'num-queues': 0})
    refused(machine, "Parameter 'num-queues' expects integer",
            'virtio-blk', **{'drive': 'n0', 'num-queues': 'q'})
    refused(machine, "Parameter 'rerror' does not accept value 'q'",
            'virtio-blk', drive='n0', rerror='q')
    refused(machine, "Parameter 'write-cache' does not accept value 'q'",
            'virtio-blk', **{'drive': 'n0', 'write-cache': 'q'})
    refused(machine, "Property 'virtio-blk-pci.addr' doesn't take value 'zz'",
            'virtio-blk', drive='n0', addr='zz')
    refused(machine, "Parameter 'bootindex' expects integer", 'virtio-blk',
            drive='n0', bootindex='zz')
    refused(machine, 'logical_block_size > physical_block_size not supported',
            'virtio-blk', drive='n0', logical_block_size=4096,
            physical_block_size=512)
    refused(machine, 'logical_block_size > physical_block_size not supported',
            'virtio-blk', drive='n0', logical_block_size=4096)
    refused(machine, "Property .logical_block_size doesn't take value '513', "
            "it's not a power of 2", 'virtio-blk', drive='n0',
            logical_block_size=513)
    assert [b for b in machine.qmp('query-block') if b.get('inserted')] == []


def test_refused_buses(machine):
    refused(machine, "Bus 'zz.0' not found", 'scsi-hd', drive='n0', bus='zz.0')
    refused(machine, "Device 'scsi-hd' can't go on PCI bus", 'scsi-hd',
            drive='n0', bus='pci.0')
    refused(machine, "Device 'virtio-blk-pci' can't go on SCSI bus",
            'virtio-blk', drive='n0', bus='sc.0')
    refused(machine, "Bus 'ide.1' does not support hotplugging", 'ide-cd')
    refused(machine, "Bus 'ide.0' does not support hotplugging", 'ide-hd',
            drive='n0', bus='ide.0')
    refused(machine, "Bus 'floppy-bus.0' does not support hotplugging",
            'floppy')


def test_no_scsi_bus(launch):
    machine = launch().add_blockdev(ZEROES.format('n0')).start()
    refused(machine, "No 'SCSI' bus found for device 'scsi-hd'", 'scsi-hd',
            drive='n0')


def test_machine_none_has_no_pci(launch):
    machine = launch(machine='none').start()
    refused(machine, "No 'PCI' bus found for device 'virtio-scsi-pci'",
            'virtio-scsi')
    assert machine.qmp('query-block') == []


def test_refused_drives(machine):
    refused(machine, 'drive property not set', 'virtio-blk')
    refused(machine, 'drive property not set', 'scsi-hd')
    refused(machine, "Property 'virtio-blk-device.drive' can't find value "
            "'zz'", 'virtio-blk', drive='zz')
    refused(machine, "Property 'scsi-hd.drive' can't find value 'zz'",
            'scsi-hd', drive='zz')
    for driver in ('virtio-blk', 'scsi-hd'):
        refused(machine, 'Device needs media, but drive is empty', driver,
                drive='empty')


def test_disk_does_not_share(machine):
    add(machine, 'scsi-hd', drive='n0', id='a')
    text = ("Permission conflict on node 'n0': permissions 'write' are both "
            "required by block device 'a' (uses node 'n0' as 'root' child) "
            "and unshared by block device 'b' (uses node 'n0' as 'root' "
            "child).")
    refused(machine, text, 'scsi-hd', drive='n0', id='b')
    add(machine, 'scsi-hd', drive='n1', id='c', share_rw=True)
    add(machine, 'scsi-hd', drive='n1', id='d', share_rw='on')
    graph = machine.qmp('x-debug-query-block-graph')
    ids = {n['id']: n['name'] for n in graph['nodes']}
    edges = {ids[e['parent']]: e for e in graph['edges']}
    assert edges['a']['perm'] == ['write', 'consistent-read']
    assert edges['a']['shared-perm'] == ['resize', 'write-unchanged',
                                         'consistent-read']
    assert edges['d']['shared-perm'] == ['resize', 'write-unchanged', 'write',
                                         'consistent-read']


def test_read_only_nodes(machine):
    add(machine, 'scsi-hd', drive='ro', id='a')
    add(machine, 'virtio-blk', drive='ro', id='b')
    add(machine, 'scsi-cd', drive='ro', id='c')
    for qdev in ('a', '/machine/peripheral/b/virtio-backend', 'c'):
        assert block(machine, qdev)['inserted']['ro'] is True


def test_cd_takes_no_writer_beside_it(machine):
    add(machine, 'scsi-hd', drive='n0', id='a')
    refused(machine, None, 'scsi-cd', drive='n0', id='b')
    add(machine, 'scsi-cd', drive='n1', id='c')
    refused(machine, None, 'scsi-hd', drive='n1', id='d')


def test_empty_drives(machine):
    add(machine, 'scsi-cd', id='cd')
    entry = block(machine, 'cd')
    assert entry['device'] == ''
    assert entry['removable'] is True
    assert entry['tray_open'] is False
    assert 'inserted' not in entry


def test_scsi_addresses(machine):
    refused(machine, 'bad scsi device lun: 32768', 'scsi-hd', drive='n0',
            lun=32768)
    refused(machine, 'bad scsi channel id: 5', 'scsi-hd', drive='n0',
            channel=5)
    refused(machine, 'bad scsi device id: 500', 'scsi-hd',
            **{'drive': 'n0', 'scsi-id': 500})
    add(machine, 'scsi-hd', drive='n0', id='a')
    refused(machine, "lun already used by 'a'", 'scsi-hd',
            **{'drive': 'n1', 'scsi-id': 0, 'lun': 0})
    add(machine, 'scsi-hd', drive='n1', id='b')

    def address(device):
        return [machine.qmp('qom-get', {
            'path': f'/machine/peripheral/{device}', 'property': name})
            for name in ('channel', 'scsi-id', 'lun')]

    assert address('a') == [0, 0, 0]
    assert address('b') == [0, 1, 0]


def test_pci_addresses(machine):
    add(machine, 'virtio-blk', drive='n0', id='a', addr='0x7.1')
    refused(machine, 'PCI: slot 7 function 1 not available for '
            'virtio-blk-pci, in use by virtio-blk-pci,id=a', 'virtio-blk',
            drive='n1', addr='7.1')
    assert machine.qmp('qom-get', {'path': 'a', 'property': 'addr'}) == 57


def test_newest_scsi_controller(launch):
    machine = launch()
    machine.add_blockdev(ZEROES.format('n0'))
    machine.add_device('virtio-scsi-pci,id=s1')
    machine.add_device('virtio-scsi-pci,id=s2')
    machine.add_device('scsi-hd,drive=n0,id=a')
    machine.start()
    assert machine.qmp('qom-get', {'path': 'a', 'property': 'parent_bus'}) \
        == '/machine/peripheral/s2/virtio-backend/s2.0'


def test_iothreads(machine):
    refused(machine, "Device 'nope' not found", 'virtio-scsi',
            cls='DeviceNotFound', iothread='nope')
    refused(machine, "Invalid parameter type for 'iothread', expected: "
            "iothread", 'virtio-scsi', iothread='sc')
    add(machine, 'virtio-scsi', id='s0', iothread='io0')
    add(machine, 'scsi-hd', drive='n0', bus='s0.0', id='a', share_rw=True)
    text = 'Cannot change iothread of active block backend'
    refused(machine, text, 'virtio-blk', **{'drive': 'n0', 'share-rw': True})
    refused(machine, text, 'virtio-blk',
            **{'drive': 'n0', 'share-rw': True, 'iothread': 'io1'})
    add(machine, 'scsi-hd', drive='n0', bus='s0.0', id='b', share_rw=True)
    machine.qmp('device_del', {'id': 'a'})
    machine.qmp('device_del', {'id': 'b'})
    machine.wait_event('DEVICE_DELETED', {'device': 'b'})
    # Nobody is on it: it goes where the next one wants it.
    add(machine, 'virtio-blk', drive='n0', iothread='io1')


def test_named_drive_goes_with_its_device(launch, images):
    path = images.create('a', '1M', 'raw')
    machine = launch().add_drive(path, interface='none', image_format='raw')
    machine.add_device('virtio-scsi-pci').start()
    add(machine, 'scsi-hd', drive='drive0', id='a')
    refused(machine, "Drive 'drive0' is already in use by another device",
            'scsi-hd', drive='drive0', id='b')
    assert block(machine, 'a')['device'] == 'drive0'
    machine.qmp('device_del', {'id': 'a'})
    machine.wait_event('DEVICE_DELETED', {'device': 'a',
                                          'path': '/machine/peripheral/a'})
    assert machine.qmp('query-block') == []
    assert machine.qmp('query-named-block-nodes') == []


def test_node_outlives_its_device(machine):
    add(machine, 'scsi-hd', drive='n0', id='a')
    machine.fails('blockdev-del', {'node-name': 'n0'}, 'Node n0 is in use')
    machine.qmp('device_del', {'id': 'a'})
    machine.wait_event('DEVICE_DELETED', {'device': 'a'})
    machine.qmp('blockdev-del', {'node-name': 'n0'})


def test_virtio_disk_says_goodbye_twice(machine):
    add(machine, 'virtio-blk', drive='n0', id='a')
    machine.qmp('device_del', {'id': 'a'})
    machine.qmp('system_reset')
    path = '/machine/peripheral/a/virtio-backend'
    machine.wait_event('DEVICE_DELETED', {'path': path})
    machine.wait_event('DEVICE_DELETED', {'device': 'a',
                                          'path': '/machine/peripheral/a'})
    add(machine, 'virtio-blk', drive='n0', id='a')      # all is free again


def test_controller_takes_its_disks_along(machine):
    add(machine, 'scsi-hd', drive='n0', id='a')
    machine.qmp('device_del', {'id': 'sc'})
    machine.qmp('system_reset')
    for data in ({'device': 'a'},
                 {'path': '/machine/peripheral/sc/virtio-backend'},
                 {'device': 'sc'}):
        machine.wait_event('DEVICE_DELETED', data)
    assert children(machine, '/machine/peripheral') == {}
    machine.qmp('blockdev-del', {'node-name': 'n0'})


def test_refused_deletions(machine):
    for name in ('zz', '/machine/peripheral/zz'):
        machine.fails('device_del', {'id': name}, f"Device '{name}' not "
                      "found", cls='DeviceNotFound')
    for path in ('/machine', '/machine/peripheral'):
        machine.fails('device_del', {'id': path},
                      f'{path} is not a hotpluggable device')


def test_ide_disk_stays(launch):
    machine = launch().add_blockdev(ZEROES.format('n0'))
    machine.add_device('ide-hd,drive=n0,id=a').start()
    machine.fails('device_del', {'id': 'a'},
                  "Bus 'ide.1' does not support hotplugging")


def test_job_on_a_drive_that_goes(launch, images):
    path = images.create('a', '64M')
    machine = launch().add_drive(path, 'node-name=top', interface='none')
    machine.add_device('virtio-scsi-pci')
    machine.add_device('scsi-hd,drive=drive0,id=a').start()
    machine.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'target',
                                 'size': 64 << 20})
    machine.qmp('blockdev-mirror', {'device': 'drive0', 'target': 'target',
                                    'sync': 'none', 'job-id': 'j'})
    machine.wait_event('BLOCK_JOB_READY')
    machine.qmp('device_del', {'id': 'a'})
    machine.wait_event('DEVICE_DELETED', {'device': 'a'})
    machine.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    assert machine.qmp('query-block') == []


def test_command_line_forms(launch):
    """Key=value, JSON, anonymous devices."""
    machine = launch()
    for node in ('n0', 'n1', 'n2'):
        machine.add_blockdev(ZEROES.format(node))
    machine.add_device('virtio-scsi')
    machine.add_device('scsi-cd,id=cd')
    machine.add_device('scsi-hd,drive=n0')
    machine.add_device('{"driver": "virtio-blk-pci", "drive": "n1", '
                       '"id": "v", "share-rw": true, "bootindex": 1}')
    machine.start()
    qdevs = [b.get('qdev') for b in machine.qmp('query-block')]
    assert qdevs == ['cd', '/machine/peripheral-anon/device[1]',
                     '/machine/peripheral/v/virtio-backend']
    assert children(machine, '/machine/peripheral-anon') == {
        'device[0]': 'child<virtio-scsi-pci>',
        'device[1]': 'child<scsi-hd>'}
    assert children(machine, '/machine/peripheral') == {
        'cd': 'child<scsi-cd>', 'v': 'child<virtio-blk-pci>'}


@pytest.mark.parametrize('argument, text', [
    ('scsi-hd,drive=n0', "No 'SCSI' bus found for device 'scsi-hd'"),
    ('nope', "'nope' is not a valid device model name"),
    ('virtio-blk,drive=zz',
     "Property 'virtio-blk-device.drive' can't find value 'zz'"),
    ('virtio-blk', 'drive property not set'),
])
def test_refused_on_the_command_line(launch, argument, text):
    machine = launch().add_blockdev(ZEROES.format('n0'))
    machine.add_device(argument)
    machine.expect_exit = 1
    machine.expect_stderr = re.escape(f'-device {argument}: {text}')
    with pytest.raises((ServerFailed, OSError, QmpClosed)):
        machine.start()


def test_managers_devices(launch):
    """What a manager adds besides disks is there, and does nothing."""
    machine = launch()
    for text in ('virtio-balloon-pci,id=balloon0', 'virtio-serial-pci,id=s0',
                 'virtio-rng-pci,id=rng0,rng=r0', 'piix3-usb-uhci,id=usb',
                 'usb-tablet,id=input0,bus=usb.0', 'cirrus-vga,id=video0',
                 'virtio-scsi-pci,id=scsi0,num_queues=4'):
        machine.add_device(text)
    if machine.is_qemu:
        machine.add_object('rng-builtin,id=r0')
    machine.start()
    assert set(children(machine, '/machine/peripheral')) == {
        'balloon0', 's0', 'rng0', 'usb', 'input0', 'video0', 'scsi0'}
    refused(machine, "Property 'virtio-balloon-pci.foo' not found",
            'virtio-balloon-pci', foo=1)


def test_q35_ports(launch):
    machine = launch(machine='q35').add_blockdev(ZEROES.format('n0'))
    machine.add_device('pcie-root-port,id=r0,bus=pcie.0,chassis=1,'
                       'multifunction=on')
    machine.start()
    refused(machine, "Bus 'pcie.0' does not support hotplugging",
            'pcie-root-port')
    add(machine, 'virtio-blk', drive='n0', id='v', bus='r0')
    assert machine.qmp('qom-get', {'path': 'v', 'property': 'parent_bus'}) \
        == '/machine/peripheral/r0/r0'
