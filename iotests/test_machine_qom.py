# SPDX-License-Identifier: MIT
"""The machine in the tree of objects, and what types there are."""

import pytest

NODE = 'null-co,node-name={},size={},read-zeroes=on'


@pytest.fixture
def machine(launch):
    """A pc with a disk of each sort."""
    one = launch()
    for node in ('n0', 'n1', 'n2', 'n3'):
        one.add_blockdev(NODE.format(node, 1048576))
    one.add_blockdev(NODE.format('big', 2097152))
    one.add_object('iothread,id=io0')
    one.add_device('virtio-scsi-pci,id=sc,iothread=io0')
    one.add_device('scsi-hd,drive=n0,id=sd0')
    one.add_device('scsi-cd,id=cd0')
    one.add_device('virtio-blk,id=v0,drive=n1,serial=abc')
    one.add_device('ide-hd,id=i0,drive=n2')
    return one.start()


def get(machine, path, name):
    return machine.qmp('qom-get', {'path': path, 'property': name})


def put(machine, path, name, value):
    return machine.qmp('qom-set', {'path': path, 'property': name,
                                   'value': value})


def names(machine, path):
    return {p['name']: p['type']
            for p in machine.qmp('qom-list', {'path': path})}


def test_containers(machine):
    root = names(machine, '/')
    assert root['objects'] == 'child<container>'
    assert root['machine'].startswith('child<pc-i440fx-')
    top = names(machine, '/machine')
    for name in ('peripheral', 'peripheral-anon', 'unattached'):
        assert top[name] == 'child<container>'
    assert names(machine, '/machine/peripheral') == {
        'type': 'string', 'sc': 'child<virtio-scsi-pci>',
        'sd0': 'child<scsi-hd>', 'cd0': 'child<scsi-cd>',
        'v0': 'child<virtio-blk-pci>', 'i0': 'child<ide-hd>'}
    assert names(machine, '/machine/peripheral-anon') == {'type': 'string'}
    assert get(machine, '/machine', 'peripheral') == '/machine/peripheral'
    assert get(machine, '/machine/peripheral', 'sd0') == \
        '/machine/peripheral/sd0'


@pytest.mark.ours('QEMU has a CPU there')
def test_no_cpu(machine):
    path = '/machine/unattached/device[0]'
    machine.fails('qom-list', {'path': path}, f"Device '{path}' not found",
                  cls='DeviceNotFound')
    assert machine.qmp('query-cpus-fast') == []


def test_channels(machine):
    assert names(machine, '/')['chardevs'] == 'child<container>'
    channels = names(machine, '/chardevs')
    assert channels['mon'] == 'child<chardev-socket>'
    assert get(machine, '/chardevs/mon', 'type') == 'chardev-socket'


def test_a_disk(machine):
    path = '/machine/peripheral/sd0'
    listed = names(machine, path)
    assert listed['type'] == 'string'
    assert listed['parent_bus'] == 'link<bus>'
    assert listed['drive'] == 'str'
    assert listed['share-rw'] == 'bool'
    assert listed['logical_block_size'] == 'size'
    assert names(machine, 'sd0') == listed
    assert get(machine, path, 'type') == 'scsi-hd'
    assert get(machine, path, 'drive') == 'n0'
    assert get(machine, path, 'parent_bus') == \
        '/machine/peripheral/sc/virtio-backend/sc.0'
    assert get(machine, path, 'realized') is True
    assert get(machine, path, 'hotplugged') is False
    assert get(machine, path, 'hotpluggable') is True
    assert get(machine, path, 'removable') is False
    assert get(machine, path, 'wwn') == 0
    assert get(machine, path, 'logical_block_size') == 512
    assert get(machine, path, 'vendor') == 'QEMU'
    assert get(machine, path, 'product') == 'QEMU HARDDISK'
    assert get(machine, path, 'bootindex') == -1
    assert get(machine, '/machine/peripheral/cd0', 'drive') == ''


def test_a_virtio_disk(machine):
    path = '/machine/peripheral/v0'
    assert names(machine, path)['virtio-backend'] == \
        'child<virtio-blk-device>'
    assert get(machine, path, 'virtio-backend') == f'{path}/virtio-backend'
    inner = names(machine, f'{path}/virtio-backend')
    assert inner['drive'] == 'str'
    assert 'addr' not in inner
    for at in (path, f'{path}/virtio-backend'):
        assert get(machine, at, 'drive') == 'n1'
        assert get(machine, at, 'serial') == 'abc'
    assert get(machine, path, 'iothread') == ''
    assert get(machine, '/machine/peripheral/sc', 'iothread') == \
        '/objects/io0'


def test_bus_and_disk_of_ide(machine):
    assert get(machine, 'i0', 'parent_bus').endswith('/ide.1')
    assert get(machine, 'i0', 'unit') == 0
    assert get(machine, 'i0', 'hotpluggable') is False


def test_refused_looks(machine):
    for path in ('/machine/nope', '/machine/peripheral/nope', 'nope'):
        machine.fails('qom-list', {'path': path}, f"Device '{path}' not "
                      "found", cls='DeviceNotFound')
        machine.fails('qom-get', {'path': path, 'property': 'type'},
                      f"Device '{path}' not found", cls='DeviceNotFound')
    machine.fails('qom-get', {'path': 'v0', 'property': 'nope'},
                  "Property 'virtio-blk-pci.nope' not found")
    machine.fails('qom-get', {'path': '/machine/peripheral',
                              'property': 'nope'},
                  "Property 'container.nope' not found")


def test_what_cannot_be_set(machine):
    def fails(path, name, value, text):
        machine.fails('qom-set', {'path': path, 'property': name,
                                  'value': value}, text)

    fails('v0', 'nope', 1, "Property 'virtio-blk-pci.nope' not found")
    fails('v0', 'type', 'a', "Property 'virtio-blk-pci.type' is not writable")
    fails('v0', 'serial', 'a', "Attempt to set property 'serial' on "
          "anonymous device (type 'virtio-blk-device') after it was realized")
    fails('sd0', 'serial', 'a', "Attempt to set property 'serial' on device "
          "'sd0' (type 'scsi-hd') after it was realized")
    fails('sd0', 'drive', 5, "Invalid parameter type for 'drive', expected: "
          "string")
    for name in ('zz', ''):
        fails('sd0', 'drive', name,
              f"Cannot find device='' nor node-name='{name}'")
    put(machine, 'v0', 'bootindex', 3)
    assert get(machine, 'v0', 'bootindex') == 3


def test_another_drive(machine):
    """The root goes to another node: what backup programs do to put a
    filter below a disk."""
    def inserted(qdev):
        return [b for b in machine.qmp('query-block')
                if b['qdev'] == qdev][0]['inserted']

    put(machine, '/machine/peripheral/v0', 'drive', 'big')
    assert get(machine, '/machine/peripheral/v0', 'drive') == 'big'
    entry = inserted('/machine/peripheral/v0/virtio-backend')
    assert entry['node-name'] == 'big'
    assert entry['image']['virtual-size'] == 2097152
    machine.qmp('blockdev-del', {'node-name': 'n1'})    # let go
    machine.fails('blockdev-del', {'node-name': 'big'}, 'Node big is in use')
    # One that another disk writes: nothing has changed.
    machine.fails('qom-set', {
        'path': 'v0', 'property': 'drive', 'value': 'n2'},
        "Permission conflict on node 'n2': permissions 'write' are both "
        "required by block device 'i0' (uses node 'n2' as 'root' child) and "
        "unshared by block device '/machine/peripheral/v0/virtio-backend' "
        "(uses node 'n2' as 'root' child).")
    assert get(machine, 'v0', 'drive') == 'big'
    put(machine, '/machine/peripheral/v0/virtio-backend', 'drive', 'n3')
    assert get(machine, 'v0', 'drive') == 'n3'


def test_a_filter_below_a_disk(machine):
    """As a backup program does: copy-before-write put in and taken out."""
    machine.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'fleece',
                                 'size': 1048576, 'read-zeroes': True})
    machine.qmp('blockdev-add', {'driver': 'copy-before-write',
                                 'node-name': 'cbw', 'file': 'n1',
                                 'target': 'fleece'})
    put(machine, 'v0', 'drive', 'cbw')
    machine.fails('blockdev-del', {'node-name': 'cbw'}, 'Node cbw is in use')
    put(machine, 'v0', 'drive', 'n1')
    machine.qmp('blockdev-del', {'node-name': 'cbw'})
    machine.qmp('blockdev-del', {'node-name': 'fleece'})
    assert get(machine, 'v0', 'drive') == 'n1'


def test_types(machine):
    def types(**arguments):
        return {t['name']: t for t in machine.qmp('qom-list-types',
                                                  arguments)}

    every = types(abstract=True)
    concrete = types()
    for name, parent in (('virtio-blk-pci', 'virtio-blk-pci-base'),
                         ('virtio-blk-device', 'virtio-device'),
                         ('scsi-hd', 'scsi-disk-base'),
                         ('ide-cd', 'ide-device'), ('floppy', 'device'),
                         ('pcie-root-port', 'pcie-root-port-base'),
                         ('none-machine', 'machine'), ('tcg-accel', 'accel'),
                         ('iothread', 'event-loop-base')):
        assert every[name] == {'name': name, 'parent': parent}
        assert name in concrete
    for name in ('device', 'pci-device', 'machine', 'scsi-device'):
        assert every[name]['abstract'] is True
        assert name not in concrete
    devices = types(implements='device')
    assert 'scsi-hd' in devices and 'virtio-scsi-pci' in devices
    assert 'iothread' not in devices and 'none-machine' not in devices
    assert 'none-machine' in types(implements='machine')
    assert types(implements='nope') == {}


def test_properties_of_types(machine):
    def properties(name):
        return {p['name']: p for p in machine.qmp('device-list-properties',
                                                  {'typename': name})}

    disk = properties('virtio-blk-pci')
    assert disk['share-rw']['type'] == 'bool'
    assert disk['share-rw']['default-value'] is False
    assert disk['queue-size'] == {'name': 'queue-size', 'type': 'uint16',
                                  'default-value': 256}
    for name in ('acpi-index', 'iothread', 'drive', 'bootindex'):
        assert name in disk
    assert disk['virtio-backend']['type'] == 'child<virtio-blk-device>'
    assert properties('scsi-hd')['lun']['default-value'] == 2 ** 32 - 1
    assert 'iothread' in properties('virtio-scsi-pci')
    machine.fails('device-list-properties', {'typename': 'nope'},
                  "Device 'nope' not found", cls='DeviceNotFound')
    machine.fails('device-list-properties', {'typename': 'virtio-blk'},
                  "Device 'virtio-blk' not found", cls='DeviceNotFound')
    for name in ('iothread', 'device', 'none-machine'):
        machine.fails('device-list-properties', {'typename': name},
                      "Parameter 'typename' expects a non-abstract device "
                      "type")
    listed = {p['name'] for p in machine.qmp('qom-list-properties', {
        'typename': 'scsi-hd'})}
    assert {'type', 'parent_bus', 'drive', 'lun'} <= listed
    machine.fails('qom-list-properties', {'typename': 'nope'},
                  "Class 'nope' not found", cls='DeviceNotFound')


def test_every_property_can_be_read(machine):
    """What qom-list lists, qom-get gets; and nothing else is promised."""
    for device in ('sc', 'sd0', 'cd0', 'v0', 'i0'):
        for p in machine.qmp('qom-list', {'path': device}):
            if p['name'] not in ('guest-stats', 'legacy-addr'):
                get(machine, device, p['name'])


def qtree(machine):
    """{(type, id): {property: text}} of info qtree."""
    found, at = {}, None
    for line in machine.hmp('info qtree').splitlines():
        words = line.strip()
        if words.startswith('dev: '):
            kind, name = words[5:].split(', id ')
            at = found.setdefault((kind, name.strip('"')), {})
        elif words.startswith('bus: '):
            at = None
        elif ' = ' in words and at is not None:
            name, value = words.split(' = ', 1)
            at[name] = value
    return found


def test_qtree(machine):
    tree = qtree(machine)
    disk = tree['scsi-hd', 'sd0']
    assert list(disk)[:3] == ['drive', 'backend_defaults',
                              'logical_block_size']
    assert disk['drive'] == '"n0"'
    assert disk['share-rw'] == 'false'
    assert disk['max_unmap_size'] == '1073741824 (0x40000000)'
    assert disk['opt_io_size'] == '0 (0 B)'
    assert disk['lun'] == '0 (0x0)'
    assert tree['scsi-cd', 'cd0']['drive'] == '""'
    assert tree['virtio-blk-pci', 'v0']['multifunction'] == 'false'
    assert tree['virtio-blk-device', '']['serial'] == '"abc"'
    assert tree['ide-hd', 'i0']['unit'] == '0 (0x0)'
