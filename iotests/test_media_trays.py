# SPDX-License-Identifier: MIT
"""Trays and media: each command on each kind of drive in every state."""

import pytest

from .qmp import QmpError

# How a drive is made, and whether it has a tray.
DRIVES = {
    'ide-cd': (['-device', 'ide-cd,id=d'], True),
    'scsi-cd': (['-device', 'virtio-scsi-pci', '-device', 'scsi-cd,id=d'],
                True),
    'floppy': (['-device', 'floppy,id=d'], False),
}
# State of a drive with a tray: open?, filled?
STATES = [(False, False), (False, True), (True, False), (True, True)]


def info(vm, name='d'):
    """query-block's entry of the drive with that device or name."""
    for entry in vm.qmp('query-block'):
        if name in (entry.get('qdev'), entry['device']):
            return entry
    raise AssertionError(f'no drive {name}')


def medium(vm, name='d'):
    inserted = info(vm, name).get('inserted')
    return inserted and inserted['node-name']


def tray(vm):
    return info(vm).get('tray_open')


def moves(vm):
    """The tray events so far, as open (True) and closed (False)."""
    events = [event['data'] for event in vm.mon.pump()
              if event['event'] == 'DEVICE_TRAY_MOVED']
    vm.mon.drop_events()
    for data in events:
        assert data['id'] == 'd'
    return [data['tray-open'] for data in events]


def null_nodes(vm, *names):
    for name in names:
        vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': name,
                                'read-only': True})


def bring_to(vm, is_open, filled):
    """An empty, closed drive with a tray: to that state."""
    vm.qmp('blockdev-open-tray', id='d')
    if filled:
        vm.qmp('blockdev-insert-medium', {'id': 'd', 'node-name': 'm'})
    if not is_open:
        vm.qmp('blockdev-close-tray', id='d')
    vm.mon.drop_events()


def do(vm, command, arguments):
    """What it says ('' if it works), and which trays have moved."""
    try:
        vm.qmp(command, dict(arguments, id='d'))
        text = ''
    except QmpError as exc:
        assert exc.cls == 'GenericError'
        text = exc.desc
    return text, moves(vm)


SHUT = "Tray of device 'd' is not open"
# command, arguments, state before -> text, moves, state after
MATRIX = [
    ('blockdev-open-tray', {}, {
        (0, 0): ('', [True], (1, 0)), (0, 1): ('', [True], (1, 1)),
        (1, 0): ('', [], (1, 0)), (1, 1): ('', [], (1, 1))}),
    ('blockdev-close-tray', {}, {
        (0, 0): ('', [], (0, 0)), (0, 1): ('', [], (0, 1)),
        (1, 0): ('', [False], (0, 0)), (1, 1): ('', [False], (0, 1))}),
    ('blockdev-remove-medium', {}, {
        (0, 0): (SHUT, [], (0, 0)), (0, 1): (SHUT, [], (0, 1)),
        (1, 0): ('', [], (1, 0)), (1, 1): ('', [], (1, 0))}),
    ('blockdev-insert-medium', {'node-name': 'm2'}, {
        (0, 0): ('Tray of the device is not open', [], (0, 0)),
        (0, 1): ('Tray of the device is not open', [], (0, 1)),
        (1, 0): ('', [], (1, 1)),
        (1, 1): ('There already is a medium in the device', [], (1, 1))}),
    ('eject', {}, {
        (0, 0): ('', [True], (1, 0)), (0, 1): ('', [True], (1, 0)),
        (1, 0): ('', [], (1, 0)), (1, 1): ('', [], (1, 0))}),
    ('eject', {'force': True}, {
        (0, 0): ('', [True], (1, 0)), (0, 1): ('', [True], (1, 0)),
        (1, 0): ('', [], (1, 0)), (1, 1): ('', [], (1, 0))}),
    ('blockdev-change-medium', {'filename': '/nope', 'format': 'raw'}, {
        state: ("Could not open '/nope': No such file or directory", [],
                state) for state in ((0, 0), (0, 1), (1, 0), (1, 1))}),
    ('blockdev-change-medium', {'filename': 'IMAGE', 'format': 'raw'}, {
        (0, 0): ('', [True, False], (0, 1)),
        (0, 1): ('', [True, False], (0, 1)),
        (1, 0): ('', [False], (0, 1)), (1, 1): ('', [False], (0, 1))}),
]


@pytest.mark.parametrize('kind', ['ide-cd', 'scsi-cd'])
@pytest.mark.parametrize('state', STATES)
def test_matrix_of_trays(launch, images, kind, state):
    """Each command in each state of a drive with a tray."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch(*DRIVES[kind][0]).start()
    null_nodes(vm, 'm', 'm2')
    for command, arguments, states in MATRIX:
        bring_to(vm, *state)
        if arguments.get('filename') == 'IMAGE':
            arguments = dict(arguments, filename=image)
        text, moved, (is_open, filled) = states[state]
        assert do(vm, command, arguments) == (text, moved), command
        assert tray(vm) == bool(is_open), command
        assert bool(medium(vm)) == bool(filled), command
        vm.qmp('eject', id='d')
        vm.qmp('blockdev-close-tray', id='d')


@pytest.mark.parametrize('filled', [False, True])
def test_matrix_of_floppies(launch, images, filled):
    """A drive without a tray is open and closed at once; no events."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch(*DRIVES['floppy'][0]).start()
    null_nodes(vm, 'm', 'm2')
    again = 'There already is a medium in the device'
    for command, arguments, text, after in (
            ('blockdev-open-tray', {}, '', filled),
            ('blockdev-close-tray', {}, '', filled),
            ('blockdev-remove-medium', {}, '', False),
            ('blockdev-insert-medium', {'node-name': 'm2'},
             again if filled else '', True),
            ('eject', {}, '', False),
            ('blockdev-change-medium', {'filename': '/nope'},
             "Could not open '/nope': No such file or directory", filled),
            ('blockdev-change-medium', {'filename': image, 'format': 'raw'},
             '', True)):
        if filled:
            vm.qmp('blockdev-insert-medium', {'id': 'd', 'node-name': 'm'})
        assert do(vm, command, arguments) == (text, []), command
        assert bool(medium(vm)) == after, command
        assert 'tray_open' not in info(vm)
        vm.qmp('eject', id='d')


def test_drive_without_a_device(launch, images):
    """It takes media in and out, by its name; it has no tray."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch('-drive', f'if=none,id=drv,file={image},format=raw').start()
    for command in ('blockdev-open-tray', 'blockdev-close-tray'):
        vm.qmp(command, device='drv')
    assert medium(vm, 'drv')
    vm.qmp('eject', device='drv')
    assert medium(vm, 'drv') is None
    assert vm.nodes() == {}
    vm.qmp('eject', device='drv')
    vm.qmp('blockdev-change-medium', device='drv', filename=image,
           format='raw')
    assert info(vm, 'drv')['inserted']['ro'] is False
    assert vm.mon.pump() == []


@pytest.mark.ours('QEMU 7.2 has no name for it')
def test_drive_without_a_device_by_id(launch, images):
    """blockdev-remove-medium and -insert-medium know it by its name."""
    image = images.create('a.qcow2', '1M')
    vm = launch('-drive', 'if=none,id=drv,driver=null-co').start()
    vm.qmp('blockdev-remove-medium', id='drv')
    assert medium(vm, 'drv') is None
    vm.add_node('n', image)
    vm.qmp('blockdev-insert-medium', {'id': 'drv', 'node-name': 'n'})
    assert info(vm, 'drv')['inserted']['file'] == image
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'drv', 'snapshot-file': image + '.top',
        'format': 'qcow2'})
    assert info(vm, 'drv')['inserted']['file'] == image + '.top'
    images.adopt(image + '.top')


@pytest.mark.parametrize('kind', DRIVES)
def test_insert_wants_a_free_node(launch, kind):
    """The node is looked for first, then at its users, then the drive."""
    vm = launch(*DRIVES[kind][0]).start()
    null_nodes(vm, 'm', 'm2')
    insert = 'blockdev-insert-medium'
    vm.fails(insert, {'id': 'd', 'node-name': 'nope'},
             "Node 'nope' not found")
    vm.qmp('blockdev-open-tray', id='d')
    vm.qmp(insert, {'id': 'd', 'node-name': 'm'})
    vm.fails(insert, {'id': 'd', 'node-name': 'm'},
             "Node 'm' is already in use")
    vm.fails(insert, {'id': 'd', 'node-name': 'm2'},
             'There already is a medium in the device')
    assert medium(vm) == 'm'


def test_not_removable(launch, images):
    """Disks keep what they have, whatever is tried."""
    paths = [images.create(f'{name}.img', '1M', fmt='raw') for name in 'abc']
    vm = launch('-drive', f'if=none,id=h,file={paths[0]},format=raw',
                '-device', 'virtio-scsi-pci', '-device',
                'scsi-hd,id=sh,drive=h',
                '-drive', f'if=virtio,id=v,file={paths[1]},format=raw').start()
    null_nodes(vm, 'm')
    before = vm.qmp('query-block')
    for who in ({'id': 'sh'}, {'device': 'h'}, {'device': 'v'}):
        name, = who.values()
        text = f"Device '{name}' is not removable"
        for command in ('blockdev-open-tray', 'blockdev-close-tray', 'eject'):
            vm.fails(command, who, text)
        vm.fails('eject', dict(who, force=True), text)
        change = dict(who, filename=paths[2], format='raw')
        vm.fails('blockdev-change-medium', change, text)
        vm.fails('blockdev-change-medium', dict(change, filename='/nope'),
                 "Could not open '/nope': No such file or directory")
    vm.fails('blockdev-remove-medium', {'id': 'sh'},
             "Device 'sh' is not removable")
    vm.fails('blockdev-insert-medium', {'id': 'sh', 'node-name': 'm'},
             'Device is not removable')
    assert vm.qmp('query-block') == before
    assert vm.mon.pump() == []


def test_which_device(launch):
    """Just one of device and id; DeviceNotFound for what is not there."""
    vm = launch('-drive', 'if=none,id=drv', '-device', 'floppy,id=d').start()
    both = "Need exactly one of 'device' and 'id'"
    for command, more in (('eject', {}), ('blockdev-open-tray', {}),
                          ('blockdev-close-tray', {}),
                          ('blockdev-change-medium', {'filename': 'x'})):
        vm.fails(command, more, both)
        vm.fails(command, dict(more, device='drv', id='d'), both)
        for who in ({'device': 'd'}, {'device': ''}, {'id': 'drv'}):
            name, = who.values()
            vm.fails(command, dict(more, **who),
                     f"Device '{name}' not found", cls='DeviceNotFound')
    for command, more in (('blockdev-remove-medium', {}),
                          ('blockdev-insert-medium', {'node-name': 'm'})):
        vm.fails(command, dict(more, id='nope'), "Device 'nope' not found",
                 cls='DeviceNotFound')
        vm.fails(command, dict(more, device='drv'),
                 "Parameter 'id' is missing")


def test_node_of_the_user_stays(launch):
    """blockdev-add's node survives each way out; twice out is no error."""
    vm = launch(*DRIVES['scsi-cd'][0]).start()
    null_nodes(vm, 'm')
    for command in ('eject', 'blockdev-remove-medium'):
        vm.qmp('blockdev-open-tray', id='d')
        vm.qmp('blockdev-insert-medium', {'id': 'd', 'node-name': 'm'})
        vm.fails('blockdev-del', {'node-name': 'm'}, 'Node m is in use')
        vm.qmp(command, id='d')
        vm.qmp(command, id='d')
        assert 'm' in vm.nodes()
    vm.qmp('blockdev-del', {'node-name': 'm'})


@pytest.mark.parametrize('kind', DRIVES)
def test_node_of_drive_goes(launch, images, kind):
    """-drive's node is gone with the medium, the drive's name is not."""
    image = images.create('a.img', '1M', fmt='raw')
    args, has_tray = DRIVES[kind]
    vm = launch('-drive', f'if=none,id=drv,media=cdrom,file={image},'
                f'format=raw,node-name=n', *args[:-1],
                f'{args[-1]},drive=drv').start()
    assert medium(vm) == 'n'
    vm.qmp('eject', device='drv')
    assert vm.nodes() == {}
    assert info(vm)['device'] == 'drv'
    if has_tray:
        vm.wait_event('DEVICE_TRAY_MOVED', {'device': 'drv', 'id': 'd',
                                            'tray-open': True})
    assert vm.mon.pump() == []


@pytest.mark.parametrize('kind', DRIVES)
def test_read_only_mode(launch, images, kind):
    """retain is as the one before it was, even after an eject."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch('-drive', f'if=none,id=drv,file={image},format=raw,'
                f'read-only=on', *DRIVES[kind][0][:-1],
                f'{DRIVES[kind][0][-1]},drive=drv').start()

    def change(expected, **more):
        vm.qmp('blockdev-change-medium', dict(
            {'id': 'd', 'filename': image, 'format': 'raw'}, **more))
        assert info(vm)['inserted']['ro'] is expected

    change(True)
    change(False, **{'read-only-mode': 'read-write'})
    change(False)
    vm.qmp('eject', id='d')
    change(False, **{'read-only-mode': 'retain'})
    change(True, **{'read-only-mode': 'read-only'})
    vm.qmp('eject', id='d')
    change(True)
    vm.fails('blockdev-change-medium',
             {'id': 'd', 'filename': image, 'read-only-mode': 'x'},
             "Parameter 'read-only-mode' does not accept value 'x'")


def test_change_that_fails_changes_nothing(launch, images):
    """A wrong format or name: no event, the old medium as it was."""
    image = images.create('a.img', '1M', fmt='raw')
    other = images.create('b.img', '1M', fmt='raw')
    vm = launch('-drive', f'if=none,id=drv,file={image},format=raw',
                '-device', 'virtio-scsi-pci', '-device',
                'scsi-cd,id=d,drive=drv').start()
    before = vm.qmp('query-block'), vm.nodes()
    for arguments, text in (
            ({'filename': other, 'format': 'qcow2'},
             'Image is not in qcow2 format'),
            ({'filename': other, 'format': 'nofmt'},
             "Unknown driver 'nofmt'"),
            ({'filename': ''},
             "The 'file' block driver requires a file name"),
            ({'filename': '/nope'},
             "Could not open '/nope': No such file or directory")):
        vm.fails('blockdev-change-medium', dict(arguments, device='drv'),
                 text)
    assert (vm.qmp('query-block'), vm.nodes()) == before
    assert vm.mon.pump() == []


def test_cache_modes_are_the_drives(launch, images):
    """A new medium is opened as the one before it was."""
    image = images.create('a.img', '1M', fmt='raw')
    other = images.create('b.qcow2', '1M')
    vm = launch('-drive', f'if=none,id=drv,file={image},format=raw,'
                f'cache=unsafe', '-drive',
                f'if=none,id=plain,file={image},format=raw').start()
    for name in ('drv', 'plain'):
        before = info(vm, name)['inserted']['cache']
        vm.qmp('blockdev-change-medium', device=name, filename=other)
        assert info(vm, name)['inserted']['cache'] == before
        assert before['no-flush'] is (name == 'drv')
        vm.qmp('eject', device=name)


def test_hmp(launch, images):
    """HMP's eject and change do the same."""
    image = images.create('a.img', '1M', fmt='raw')
    vm = launch('-drive', 'if=none,id=drv,media=cdrom', '-device',
                'ide-cd,id=d,drive=drv').start()
    assert vm.hmp(f'change drv {image} raw read-write') == ''
    assert moves(vm) == [True, False]
    assert info(vm)['inserted']['ro'] is False
    assert vm.hmp('change drv /nope') == \
        "Error: Could not open '/nope': No such file or directory\r\n"
    assert vm.hmp('eject drv') == ''
    assert vm.hmp('eject -f drv') == ''
    assert moves(vm) == [True]
    assert vm.hmp('eject nope') == "Error: Device 'nope' not found\r\n"
