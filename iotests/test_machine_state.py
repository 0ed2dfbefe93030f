# SPDX-License-Identifier: MIT
"""Does the machine run: stop, cont, reset; and what is asked about it."""

import re

import pytest

from .qmp import QmpClosed
from .server import ServerFailed


def status(machine):
    answer = machine.qmp('query-status')
    answer.pop('singlestep', None)      # of QEMU 7.2
    return answer


RUNNING = {'running': True, 'status': 'running'}


def state(name):
    return {'running': False, 'status': name}


@pytest.fixture
def machine(launch):
    return launch().start()


def test_stopped_at_first(launch):
    machine = launch().add_args('-S').start()
    assert status(machine) == state('prelaunch')
    machine.qmp('stop')
    assert status(machine) == state('prelaunch')
    machine.qmp('cont')
    machine.wait_event('RESUME')
    assert status(machine) == RUNNING


def test_stop_and_cont(machine):
    def told():
        events = machine.mon.pump()
        machine.mon.drop_events()
        assert all('data' not in e for e in events)
        return [e['event'] for e in events]

    machine.qmp('cont')
    machine.mon.drop_events()
    assert status(machine) == RUNNING
    machine.qmp('cont')             # it runs already: nothing is told
    assert told() == []
    machine.qmp('stop')
    assert told() == ['STOP']
    assert status(machine) == state('paused')
    machine.qmp('stop')
    assert told() == []
    machine.qmp('cont')
    assert told() == ['RESUME']
    assert status(machine) == RUNNING


def test_reset(machine):
    machine.qmp('cont')
    machine.qmp('stop')
    machine.qmp('system_reset')
    machine.wait_event('RESET', {'guest': False,
                                 'reason': 'host-qmp-system-reset'})
    assert status(machine) == state('prelaunch')
    machine.qmp('cont')
    machine.qmp('system_reset')
    machine.wait_event('RESET')
    assert status(machine) == RUNNING


def test_reset_lets_waiting_requests_go(launch):
    """A limited disk's request is done when it returns: no clock runs."""
    machine = launch()
    machine.add_blockdev('null-co,node-name=n0,size=1048576,read-zeroes=on')
    machine.add_device('virtio-scsi-pci')
    machine.add_device('scsi-hd,drive=n0,id=a').start()
    machine.qmp('cont')
    machine.qmp('block_set_io_throttle', {
        'id': 'a', 'bps': 65536, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0,
        'iops_rd': 0, 'iops_wr': 0})
    machine.qmp('system_reset')
    machine.wait_event('RESET')


def test_powerdown_of_a_stopped_machine(launch):
    machine = launch().add_args('-S').start()
    machine.qmp('system_powerdown')
    machine.wait_event('POWERDOWN')
    assert status(machine) == state('prelaunch')


@pytest.mark.ours('QEMU has a guest, which does not listen')
def test_powerdown(launch):
    """Nobody has to be asked: it is off."""
    machine = launch().add_args('-no-shutdown').start()
    machine.qmp('system_powerdown')
    machine.wait_event('POWERDOWN')
    machine.wait_event('SHUTDOWN', {'guest': True,
                                    'reason': 'guest-shutdown'})
    assert status(machine) == state('shutdown')
    machine.fails('cont', None, 'Resetting the Virtual Machine is required')
    machine.qmp('system_reset')
    machine.qmp('cont')
    assert status(machine) == RUNNING


def test_wakeup_is_refused(machine):
    machine.fails('system_wakeup')


def test_name_and_uuid(launch):
    uuid = '8f14e45f-ceea-467f-9538-5c0d3b1d2a3e'
    machine = launch().add_args('-name', 'guest=vm one,debug-threads=on',
                                '-uuid', uuid).start()
    assert machine.qmp('query-name') == {'name': 'vm one'}
    assert machine.qmp('query-uuid') == {'UUID': uuid}


def test_without_name_and_uuid(machine):
    assert machine.qmp('query-name') == {}
    assert machine.qmp('query-uuid') == {
        'UUID': '00000000-0000-0000-0000-000000000000'}


def test_what_managers_ask(machine):
    assert machine.qmp('query-target') == {'arch': 'x86_64'}
    assert set(machine.qmp('query-kvm')) == {'enabled', 'present'}
    assert machine.qmp('query-iothreads') == []
    assert machine.qmp('query-current-machine')[
        'wakeup-suspend-support'] in (True, False)
    machine.fails('query-balloon', None,
                  'No balloon device has been activated',
                  cls='DeviceNotActive')
    machine.fails('balloon', {'value': 1 << 30},
                  'No balloon device has been activated',
                  cls='DeviceNotActive')
    cpus = {c['name']: c for c in machine.qmp('query-cpu-definitions')}
    assert cpus['qemu64']['typename'] == 'qemu64-x86_64-cpu'


def test_a_machine_without_anything(launch):
    machine = launch(machine='none').start()
    for command in ('query-cpus-fast', 'query-pci', 'query-block'):
        assert machine.qmp(command) == []
    assert machine.qmp('query-memory-size-summary') == {
        'base-memory': 0, 'plugged-memory': 0}


def test_machines(machine):
    machines = {m['name']: m for m in machine.qmp('query-machines')}
    default = [m for m in machines.values() if m.get('is-default')]
    assert len(default) == 1
    assert default[0]['alias'] == 'pc'
    assert re.fullmatch(r'pc-i440fx-\d+\.\d+', default[0]['name'])
    assert default[0]['cpu-max'] == 255
    aliases = {m.get('alias') for m in machines.values()}
    assert {'pc', 'q35'} <= aliases
    assert {'none', 'pc-i440fx-7.2', 'pc-q35-7.2', 'pc-q35-6.0'} <= \
        set(machines)
    assert all(m['cpu-max'] >= 1 for m in machines.values())


def test_options(machine):
    def options(**arguments):
        return {o['option']: o['parameters'] for o in machine.qmp(
            'query-command-line-options', arguments)}

    names = {p['name']: p['type'] for p in options(option='drive')['drive']}
    assert names['copy-on-read'] == 'boolean'
    assert names['throttling.iops-total'] == 'number'
    assert {'machine', 'chardev', 'mon', 'device', 'object'} <= set(options())
    machine.fails('query-command-line-options', {'option': 'nope'},
                  'invalid option name: nope')


@pytest.mark.parametrize('name', [
    'pc', 'q35', 'none', 'pc-i440fx-7.2', 'pc-q35-6.2',
    'pc,usb=off,dump-guest-core=off', 'q35,vmport=off',
    'type=pc-i440fx-6.0,acpi=off'])
def test_names_of_machines(launch, name):
    machine = launch(machine=name).start()
    kind = name.replace('type=', '').split(',')[0]
    wanted = {'pc': 'pc-i440fx-', 'q35': 'pc-q35-'}.get(kind, kind)
    assert machine.qmp('qom-get', {
        'path': '/machine', 'property': 'type'}).startswith(wanted)


@pytest.mark.parametrize('name, text', [
    ('nope', 'unsupported machine type'),
    ('pc,foo=1', r"Property 'pc-i440fx-[\d.]+-machine.foo' not found"),
    ('pc,usb=maybe', "Parameter 'usb' expects 'on' or 'off'"),
])
def test_refused_machines(launch, name, text):
    machine = launch(machine=name)
    machine.expect_exit = 1
    machine.expect_stderr = text
    with pytest.raises((ServerFailed, OSError, QmpClosed)):
        machine.start()


def test_default_drives(start_server, setup, launch):
    """Without -nodefaults a pc has a CD drive, a floppy drive, a card."""
    machine = launch()
    argv = machine.command_line
    machine.command_line = lambda: [a for a in argv() if a != '-nodefaults']
    machine.start()
    drives = {b['device']: b for b in machine.qmp('query-block')}
    assert list(drives) == ['ide1-cd0', 'floppy0', 'sd0']
    assert drives['ide1-cd0']['tray_open'] is False
    assert drives['ide1-cd0']['io-status'] == 'ok'
    assert re.match(r'/machine/unattached/device\[\d+\]$',
                    drives['ide1-cd0']['qdev'])
    assert 'tray_open' not in drives['floppy0']
    assert 'qdev' not in drives['sd0']
    assert all(b['removable'] for b in drives.values())


def test_drives_of_the_board(launch, images):
    """-drive if=...: its device comes with it."""
    disk = images.create('disk', '1M', 'raw')
    machine = launch()
    machine.add_drive_raw(f'file={disk},format=raw')
    machine.add_drive_raw('if=ide,media=cdrom,index=2')
    machine.add_drive_raw('if=floppy,id=f')
    machine.start()
    drives = {b['device']: b for b in machine.qmp('query-block')}
    assert list(drives) == ['ide0-hd0', 'ide1-cd0', 'f']
    assert drives['ide0-hd0']['removable'] is False
    assert drives['ide1-cd0']['tray_open'] is False
    assert 'tray_open' not in drives['f']
    kinds = [machine.qmp('qom-get', {'path': b['qdev'], 'property': 'type'})
             for b in drives.values()]
    assert kinds == ['ide-hd', 'ide-cd', 'floppy']
