# SPDX-License-Identifier: MIT
"""Devices come and go from several clients at once."""

import random
import threading

import pytest

from .qmp import Monitor, QmpError

N_CLIENTS = 4
N_STEPS = 60


def client(path, seed, wrong):
    """Random commands; refusals are fine, all else is not."""
    rng = random.Random(seed)
    mon = Monitor.connect_unix(path, name=f'client{seed}')
    mon.negotiate()
    try:
        for _ in range(N_STEPS):
            name = rng.choice('abcd')
            what = rng.randrange(7)
            try:
                if what == 0:
                    mon.execute('device_add', {'driver': 'virtio-scsi-pci',
                                               'id': 's' + name})
                elif what == 1:
                    mon.execute('device_add', {
                        'driver': rng.choice(('scsi-hd', 'virtio-blk')),
                        'drive': rng.choice(('n0', 'n1', 'n2')), 'id': name,
                        'share-rw': rng.random() < 0.7})
                elif what == 2:
                    mon.execute('device_add', {
                        'driver': 'scsi-cd', 'id': name,
                        'bus': f's{name}.0'})
                elif what == 3:
                    mon.execute('device_del', {
                        'id': rng.choice(('', 's')) + name})
                elif what == 4:
                    mon.execute('qom-set', {
                        'path': f'/machine/peripheral/{name}',
                        'property': 'drive',
                        'value': rng.choice(('n0', 'n1', 'n2'))})
                elif what == 5:
                    mon.execute('system_reset')
                else:
                    mon.execute('qom-list', {'path': '/machine/peripheral'})
                    mon.execute('query-block')
            except QmpError:
                pass
    except Exception as exc:        # whatever it is, the test must see it
        wrong.append(exc)
    finally:
        mon.close()


@pytest.mark.ours('7.2 serves one client, and ends at qom-set of an empty CD')
def test_devices_from_many_sides(launch, seed):
    machine = launch(name='m')
    for node in ('n0', 'n1', 'n2'):
        machine.add_blockdev(f'null-co,node-name={node},size=1048576,'
                             'read-zeroes=on')
    path = machine.path('more.sock')
    machine.add_args('-qmp', f'unix:{path},server=on,wait=off')
    machine.start()
    wrong = []
    threads = [threading.Thread(target=client,
                                args=(path, seed * N_CLIENTS + i, wrong))
               for i in range(N_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # What is there can be taken out, and nothing else has stayed.
    left = [p['name'] for p in machine.qmp('qom-list', {
        'path': '/machine/peripheral'}) if p['type'].startswith('child<')]
    assert len(left) == len(set(left))
    for name in left:
        try:
            machine.qmp('device_del', {'id': name})
        except QmpError as exc:     # its controller took it along
            assert exc.desc == f"Device '{name}' not found"
    assert machine.qmp('query-block') == []
    for node in ('n0', 'n1', 'n2'):
        machine.qmp('blockdev-del', {'node-name': node})
