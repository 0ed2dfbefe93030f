# SPDX-License-Identifier: MIT
"""Inactive nodes under a machine: -S, cont, devices, -incoming; and what of
migration is refused by name."""

import json

import pytest

from .qmp import QmpError
from .test_locks import WRITE_LOCKED

ours = pytest.mark.ours('active= is new in QEMU 10.0')


def node(path, **options):
    return json.dumps(dict({
        'driver': 'qcow2', 'node-name': 'n',
        'file': {'driver': 'file', 'filename': path}}, **options))


def machine(start_server, *args):
    return start_server(args=list(args), machine=True)


def active(server):
    return {n['node-name']: n['active'] for n in
            server.qmp('query-named-block-nodes', flat=True)}


def hmp(server, line):
    return server.qmp('human-monitor-command', command_line=line)


def status(server):
    return server.qmp('query-status')['status']


@ours
def test_stopped_machine_leaves_nodes_alone(start_server, images):
    path = images.create('a.qcow2', '1M')
    server = machine(start_server, '-blockdev', node(path, active=False))
    assert active(server)['n'] is False
    images.io(path, 'write 0 512')
    server.qmp('cont')
    assert all(active(server).values())
    assert WRITE_LOCKED in images.io(path, 'write 0 512', check=False)


@ours
def test_device(start_server, images):
    """A device lives with an inactive node while the machine stands still."""
    path = images.create('a.qcow2', '1M')
    server = machine(start_server, '-blockdev', node(path, active=False),
                     '-object', 'iothread,id=t',
                     '-machine', 'q35', '-device', 'virtio-scsi,id=s0',
                     '-device', 'scsi-hd,drive=n,id=d0')
    assert active(server)['n'] is False
    images.io(path, 'write -P 3 0 512')
    server.qmp('cont')
    assert active(server)['n'] is True
    assert WRITE_LOCKED in images.io(path, 'write 0 512', check=False)
    with pytest.raises(QmpError) as info:
        server.qmp('blockdev-set-active', node_name='n', active=False)
    assert info.value.desc == \
        'Failed to inactivate node: Operation not permitted'
    server.qmp('stop')
    server.qmp('blockdev-set-active', node_name='n', active=False)
    assert active(server)['n'] is False
    images.io(path, 'write -P 4 0 512')
    server.qmp('device_del', id='d0')


@ours
def test_cont_fails_when_another_has_the_disk(start_server, images):
    path = images.create('a.qcow2', '1M')
    server = machine(start_server, '-blockdev', node(path, active=False))
    other = start_server()
    other.add_node('n', path)
    with pytest.raises(QmpError) as info:
        server.qmp('cont')
    assert info.value.desc == WRITE_LOCKED
    assert status(server) == 'prelaunch'
    assert active(server)['n'] is False
    other.qmp('blockdev-del', node_name='n')
    server.qmp('cont')
    assert status(server) == 'running'


def test_incoming(start_server, images):
    """Nodes are opened inactive: others may write the image."""
    path = images.create('a.qcow2', '1M')
    server = machine(start_server, '-incoming', 'defer',
                     '-blockdev', node(path))
    assert status(server) == 'inmigrate'
    images.io(path, 'write 0 512')
    assert images.bitmaps(path) == {}
    assert server.qmp('stop') == {} and status(server) == 'inmigrate'
    images.io(path, 'write 0 512')
    server.qmp('blockdev-add', json.loads(node(images.create('b', '1M'),
                                               **{'node-name': 'b'})))
    images.io(images.path('b'), 'write 0 512')
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': server.nbd_path}})
    server.qmp('block-export-add', type='nbd', id='e', node_name='n')
    assert WRITE_LOCKED in images.io(path, 'write 0 512', check=False)
    images.io(images.path('b'), 'write 0 512')
    assert server.qmp('cont') == {} and status(server) == 'inmigrate'
    assert WRITE_LOCKED in images.io(images.path('b'), 'write 0 512',
                                     check=False)


MIGRATION = (
    'migrate', 'migrate-set-capabilities', 'migrate-set-parameters',
    'migrate-incoming', 'migrate-start-postcopy', 'migrate-continue',
    'migrate_cancel', 'migrate-pause', 'migrate-recover', 'query-migrate',
    'query-migrate-capabilities', 'query-migrate-parameters',
    'xen-load-devices-state', 'xen-save-devices-state',
    'xen-set-global-dirty-log')


@pytest.mark.ours('QEMU migrates')
def test_migration_is_refused_by_name(start_server):
    server = machine(start_server)
    there = {c['name'] for c in server.qmp('query-commands')}
    for name in MIGRATION:
        assert name not in there
        with pytest.raises(QmpError) as info:
            server.qmp(name)
        assert info.value.cls == 'CommandNotFound'
        assert info.value.desc == (f'The command {name} has not been found: '
                                   'blockjobd does not migrate yet')


@pytest.mark.ours('QEMU has these')
@pytest.mark.parametrize('name, why', (
    ('snapshot-save', 'blockjobd has no machine state to save or load'),
    ('screendump', 'the machine of blockjobd has no display'),
    ('send-key', 'the machine of blockjobd has no keyboard and no mouse'),
    ('dump-guest-memory', 'the machine of blockjobd has no memory'),
    ('inject-nmi', 'the machine of blockjobd has no CPU')))
def test_what_a_guest_would_need(start_server, name, why):
    server = machine(start_server)
    with pytest.raises(QmpError) as info:
        server.qmp(name)
    assert info.value.cls == 'CommandNotFound'
    assert info.value.desc == f'The command {name} has not been found: {why}'
    with pytest.raises(QmpError) as info:
        server.qmp('no-such-command')
    assert info.value.desc == 'The command no-such-command has not been found'
