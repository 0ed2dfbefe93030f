# SPDX-License-Identifier: MIT
"""block_set_io_throttle: limits of devices, alone and in groups.

Debian's QEMU cannot step its clock; what needs that is ours alone.
"""

import pytest

from .nbd import CMD_READ, NbdClient

MIB = 1 << 20
SECOND = 10**9
KINDS = 'bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr'
BOTH = ('bps/iops/max total values and read/write values cannot be used at '
        'the same time')
STEPS = 'the reference cannot step its clock'


@pytest.fixture
def vm(launch, images):
    """Drives d0 and d1, an empty CD drive e0 (device cd)."""
    return (launch()
            .add_drive_raw('if=none,id=d0,driver=null-co,size=4194304,'
                           'node-name=n0')
            .add_drive_raw('if=none,id=d1,driver=null-co,size=4194304')
            .add_drive_raw('if=none,id=e0')
            .add_device('virtio-scsi-pci,id=s')
            .add_device('scsi-cd,id=cd,drive=e0,bus=s.0')
            .start())


def limit(vm, device='d0', **limits):
    arguments = dict.fromkeys(KINDS, 0)
    arguments['device'] = device
    arguments.update(limits)
    if arguments['device'] is None:
        del arguments['device']
    return arguments


def set_limit(vm, device='d0', **limits):
    vm.qmp('block_set_io_throttle', limit(vm, device, **limits))


def inserted(vm, device='d0'):
    entry, = [e for e in vm.qmp('query-block') if e['device'] == device]
    return entry.get('inserted')


def shown(vm, device='d0'):
    """What query-block tells of limits, but zeroes."""
    return {k: v for k, v in inserted(vm, device).items()
            if (k.startswith(('bps', 'iops')) or k == 'group') and v}


@pytest.mark.parametrize('limits, desc', [
    ({'bps': 10, 'bps_rd': 5}, BOTH),
    ({'iops': 10, 'iops_wr': 5}, BOTH),
    ({'iops': -1}, 'bps/iops/max values must be within '
     '[0, 1000000000000000]'),
    ({'iops': 10, 'iops_max': 5},
     'bps_max/iops_max cannot be lower than bps/iops'),
    ({'iops_max': 5},
     'bps_max/iops_max require corresponding bps/iops values'),
    ({'iops': 10, 'iops_max_length': 5},
     'burst length set without burst rate'),
    ({'iops': 10, 'iops_max': 10, 'iops_max_length': 0},
     'the burst length cannot be 0'),
    ({'iops_size': 512}, 'iops size requires an iops value to be set'),
])
def test_nonsense(vm, limits, desc):
    vm.fails('block_set_io_throttle', limit(vm, **limits), desc=desc)
    assert shown(vm) == {}


def test_which_device(vm):
    need = "Need exactly one of 'device' and 'id'"
    vm.fails('block_set_io_throttle', limit(vm, None), desc=need)
    vm.fails('block_set_io_throttle', limit(vm, 'd0', id='cd'), desc=need)
    for wrong in limit(vm, 'x'), limit(vm, None, id='x'):
        vm.fails('block_set_io_throttle', wrong, cls='DeviceNotFound',
                 desc="Device 'x' not found")
    for empty in limit(vm, 'e0'), limit(vm, None, id='cd', iops=7):
        vm.fails('block_set_io_throttle', empty, desc='Device has no medium')


def test_shown(vm):
    set_limit(vm, bps=1000)
    assert shown(vm) == {'bps': 1000, 'group': 'd0'}
    set_limit(vm, iops_rd=5, iops_rd_max=9, iops_rd_max_length=3,
              iops_size=4096, bps_wr=7, group='g')
    assert shown(vm) == {
        'iops_rd': 5, 'iops_rd_max': 9, 'iops_rd_max_length': 3,
        'iops_size': 4096, 'bps_wr': 7, 'group': 'g'}
    node, = [n for n in vm.qmp('query-named-block-nodes')
             if n['node-name'] == 'n0']
    assert node['bps_wr'] == 0 and 'group' not in node
    set_limit(vm)
    assert shown(vm) == {}


def test_groups(vm):
    """Members share; the last one out takes the group along."""
    set_limit(vm, 'd0', iops=10, group='g')
    set_limit(vm, 'd1', iops=20, group='g')
    assert shown(vm, 'd0') == shown(vm, 'd1') == {'iops': 20, 'group': 'g'}
    vm.fails('object-add', qom_type='throttle-group', id='g',
             desc='A group with this name already exists')
    set_limit(vm, 'd0')
    assert shown(vm, 'd0') == {}
    assert shown(vm, 'd1') == {'iops': 20, 'group': 'g'}
    # A filter may join a device.
    vm.qmp('blockdev-add', driver='throttle', node_name='t',
           throttle_group='g', file={'driver': 'null-co'})
    set_limit(vm, 'd1')
    vm.qmp('blockdev-del', node_name='t')
    vm.fails('blockdev-add', driver='throttle', node_name='t',
             throttle_group='g', file={'driver': 'null-co'},
             desc="Throttle group 'g' does not exist")
    vm.qmp('object-add', qom_type='throttle-group', id='g')


def test_group_object(vm):
    """The object's limits are the device's, both ways."""
    vm.qmp('object-add', qom_type='throttle-group', id='g',
           limits={'iops-total': 3})
    set_limit(vm, 'd0', iops=10, group='g')
    limits = vm.qmp('qom-get', path='g', property='limits')
    assert limits['iops-total'] == 10
    vm.qmp('qom-set', path='g', property='limits', value={'iops-total': 4})
    assert shown(vm) == {'iops': 4, 'group': 'g'}
    vm.fails('object-del', id='g',
             desc="object 'g' is in use, can not be deleted")
    set_limit(vm, 'd0')
    vm.qmp('object-del', id='g')


def test_moves_with_the_drive(vm, images):
    """A new active layer, then the copy in its place."""
    set_limit(vm, bps=12345)
    vm.qmp('blockdev-snapshot-sync', device='d0', snapshot_node_name='s',
           snapshot_file=images.adopt(images.path('s.qcow2')))
    assert inserted(vm)['node-name'] == 's'
    assert shown(vm) == {'bps': 12345, 'group': 'd0'}
    vm.qmp('blockdev-add', driver='null-co', node_name='t', size=4 * MIB)
    vm.qmp('blockdev-mirror', device='d0', target='t', sync='top')
    vm.complete('d0')
    assert inserted(vm)['node-name'] == 't'
    assert shown(vm) == {'bps': 12345, 'group': 'd0'}
    assert 'bps' not in shown(vm, 'd1')


def test_change_of_medium(vm):
    for name in 'm1', 'm2':
        vm.qmp('blockdev-add', driver='null-co', node_name=name)
    vm.qmp('blockdev-open-tray', id='cd')
    vm.qmp('blockdev-insert-medium', id='cd', node_name='m1')
    set_limit(vm, None, id='cd', iops=7)
    assert shown(vm, 'e0') == {'iops': 7, 'group': 'cd'}
    vm.qmp('blockdev-remove-medium', id='cd')
    assert inserted(vm, 'e0') is None
    vm.qmp('blockdev-insert-medium', id='cd', node_name='m2')
    assert shown(vm, 'e0') == {'iops': 7, 'group': 'cd'}


def test_command_line(launch):
    vm = launch().add_drive_raw(
        'if=none,id=d0,driver=null-co,throttling.bps-total=1000,'
        'throttling.bps-total-max=2000,throttling.bps-total-max-length=4,'
        'throttling.group=gg').start()
    assert shown(vm) == {'bps': 1000, 'bps_max': 2000, 'bps_max_length': 4,
                         'group': 'gg'}


# What they do

def reads(vm, device='d0'):
    entry, = [e for e in vm.qmp('query-blockstats')
              if e['device'] == device]
    return entry['stats']['rd_operations']


def await_reads(vm, n, device='d0'):
    """As many, and no more."""
    for _ in range(3000):
        if reads(vm, device) >= n:
            break
    for _ in range(20):
        assert reads(vm, device) == n


def aio_reads(vm, n, device='d0'):
    for i in range(n):
        vm.qemu_io(device, f'aio_read -q {i * 4096} 4096')


@pytest.mark.ours(STEPS)
def test_clock(vm):
    """One a second, of the virtual clock."""
    set_limit(vm, iops_rd=1)
    aio_reads(vm, 4)
    await_reads(vm, 1)
    vm.qtest.clock_step(SECOND)
    await_reads(vm, 2)
    vm.qtest.clock_step(2 * SECOND)
    set_limit(vm)
    await_reads(vm, 4)


@pytest.mark.ours(STEPS)
def test_rate(vm):
    """Ten percent, as QEMU's own test has it."""
    rate = 10 * 4096
    set_limit(vm, bps=rate)
    aio_reads(vm, 200)
    before = reads(vm)
    vm.qtest.clock_step(5 * SECOND)
    want = 5 * rate / 4096
    for _ in range(2000):
        if reads(vm) - before >= want * 0.9:
            break
    assert want * 0.9 <= reads(vm) - before <= want * 1.1
    set_limit(vm)
    await_reads(vm, 200)


@pytest.mark.ours(STEPS)
def test_removal_lets_go(vm):
    """Who leaves takes nobody along."""
    set_limit(vm, 'd0', iops_rd=1, group='g')
    set_limit(vm, 'd1', iops_rd=1, group='g')
    aio_reads(vm, 3, 'd0')
    aio_reads(vm, 3, 'd1')
    await_reads(vm, 1, 'd0')
    set_limit(vm, 'd0')
    await_reads(vm, 3, 'd0')
    assert reads(vm, 'd1') == 0
    assert vm.hmp('drive_del d1') == ''
    vm.qmp('block_set_io_throttle', limit(vm, 'd0', iops_rd=1, group='g'))


@pytest.mark.ours(STEPS)
def test_drain_lets_go(vm, images):
    """A snapshot does not wait for slow requests; they are in it."""
    set_limit(vm, 'd0', iops_rd=1)
    aio_reads(vm, 5)
    await_reads(vm, 1)
    vm.qmp('blockdev-snapshot-sync', device='d0', snapshot_node_name='s',
           snapshot_file=images.adopt(images.path('s.qcow2')))
    assert reads(vm) == 5


@pytest.mark.ours(STEPS)
def test_quit(vm):
    set_limit(vm, 'd0', iops_rd=1)
    aio_reads(vm, 5)
    vm.quit()


# Exports of a device

def export(vm, device='d0', **options):
    vm.qmp('nbd-server-start', addr={'type': 'unix',
                                     'data': {'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device=device, **options)
    return NbdClient.connect(vm.nbd_path, device)


def ask(nbd, n):
    return {nbd.request(CMD_READ, i * 4096, 4096) for i in range(n)}


def take(nbd, asked, n):
    for _ in range(n):
        cookie, error, _ = nbd.reply(4096)
        assert error is None
        asked.remove(cookie)


@pytest.mark.ours('its clients are the guest')
def test_export(vm):
    """Its requests keep the limits, those that need no wait as well."""
    nbd = export(vm)
    nbd.read(0, 4096)
    set_limit(vm, iops_rd=1)
    asked = ask(nbd, 4)
    take(nbd, asked, 1)
    vm.qtest.clock_step(SECOND)
    take(nbd, asked, 1)
    assert reads(vm) == 3
    set_limit(vm)
    take(nbd, asked, 2)
    nbd.read(0, 4096)
    nbd.disconnect()


@pytest.mark.ours('its clients are the guest')
def test_export_goes(vm):
    """It does not wait for them when it goes."""
    nbd = export(vm)
    set_limit(vm, iops_rd=1)
    ask(nbd, 4)
    await_reads(vm, 1)
    vm.qmp('nbd-server-remove', name='d0', mode='hard')
    assert reads(vm) == 4
    nbd.close()
    assert shown(vm) == {'iops_rd': 1, 'group': 'd0'}


@pytest.mark.ours('its clients are the guest')
def test_quit_with_export(vm):
    nbd = export(vm)
    set_limit(vm, iops_rd=1)
    ask(nbd, 4)
    await_reads(vm, 1)
    vm.quit()
    nbd.close()
