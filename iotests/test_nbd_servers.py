# SPDX-License-Identifier: MIT
"""Several NBD servers in one process; exports that outlive what happens to
their nodes."""

import pytest

from .jobs import start_backup
from .nbd import NbdClient, NbdOptionError

MIB = 1 << 20
SIZE = 4 * MIB
several = pytest.mark.ours('QEMU has one NBD server')


@pytest.fixture
def disk(server, images):
    path = images.create('a.qcow2', SIZE)
    images.io(path, 'write -P 1 0 1M')
    server.add_node('disk', path)
    return server


def start(server, ident=None, **options):
    path = server.path(f'nbd-{ident}.sock')
    server.qmp('nbd-server-start', dict(
        {'addr': {'type': 'unix', 'data': {'path': path}}},
        **dict({'id': ident} if ident else {}, **options)))
    return path


def export(daemon, ident, **options):
    daemon.qmp('block-export-add', dict(
        {'type': 'nbd', 'id': ident, 'node-name': 'disk', 'name': 'disk'},
        **options))


def names(path):
    nbd = NbdClient(path)
    nbd.open()
    found = nbd.list()
    nbd.close()
    return found


@several
def test_each_shows_its_own(disk):
    paths = {ident: start(disk, ident) for ident in (None, 'two', 'three')}
    export(disk, 'e1')
    export(disk, 'e2', server='two', writable=True)
    export(disk, 'e3', server='two', name='more')
    assert [names(paths[ident]) for ident in (None, 'two', 'three')] == \
        [['disk'], ['disk', 'more'], []]
    one = NbdClient.connect(paths[None], 'disk')
    two = NbdClient.connect(paths['two'], 'disk')
    two.write(0, b'abc')
    assert one.read(0, 3) == b'abc'
    with pytest.raises(NbdOptionError):
        NbdClient.connect(paths['three'], 'disk')
    disk.qmp('nbd-server-stop', id='two')
    for ident in ('e2', 'e3'):
        disk.wait_event('BLOCK_EXPORT_DELETED', {'id': ident})
    assert two.wait_closed()
    two.close()
    assert one.read(0, 3) == b'abc'
    one.disconnect()
    disk.qmp('nbd-server-stop')
    disk.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e1'})
    assert names(paths['three']) == []
    start(disk, 'two')


@several
def test_refusals(disk):
    start(disk, 'two')
    addr = {'type': 'unix', 'data': {'path': disk.path('other')}}
    disk.fails('nbd-server-start', addr=addr, id='two',
               desc="NBD server 'two' already running")
    disk.fails('nbd-server-start', addr=addr, id='2 x',
               desc='Invalid NBD server id')
    disk.fails('nbd-server-stop', desc='NBD server not running')
    disk.fails('nbd-server-stop', id='x', desc="NBD server 'x' not running")
    for more, desc in (({}, 'NBD server not running'),
                       ({'server': 'x'}, "NBD server 'x' not running")):
        disk.fails('block-export-add', dict(
            {'type': 'nbd', 'id': 'e', 'node-name': 'disk'}, **more),
            desc=desc)
    # One that failed to start is not there.
    bad = {'type': 'unix', 'data': {'path': '/nonexistent/x'}}
    for _ in range(2):
        disk.fails('nbd-server-start', addr=bad, id='three',
                   desc='Failed to bind socket to /nonexistent/x: '
                        'No such file or directory')


@several
def test_quit_with_several(disk):
    for ident in (None, 'a', 'b'):
        path = start(disk, ident)
        export(disk, f'e-{ident}', **({'server': ident} if ident else {}))
        NbdClient.connect(path, 'disk')
    disk.quit()


# What happens to the node

def test_snapshot_under_an_export(disk, images):
    """The client goes on; what it writes goes to the overlay."""
    disk.export('disk')
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    nbd.write(0, b'before')
    disk.add_node('over', images.create('over.qcow2', SIZE), backing=None)
    disk.qmp('blockdev-snapshot', node='disk', overlay='over')
    nbd.write(3, b'AFTER')
    assert nbd.read(0, 9) == b'befAFTER\1'
    info, = disk.qmp('query-block-exports')
    assert info['node-name'] == 'over'
    disk.export('disk', 'below', writable=False)
    below = NbdClient.connect(disk.nbd_path, 'below')
    assert below.read(0, 9) == b'before\1\1\1'
    below.disconnect()
    nbd.disconnect()
    images.ignore(images.path('over.qcow2'))


def file_of(server):
    """The name of the node below 'disk'."""
    graph = server.qmp('x-debug-query-block-graph')
    ident = {n['id']: n['name'] for n in graph['nodes']}
    disk = next(i for i, name in ident.items() if name == 'disk')
    return next(ident[e['child']] for e in graph['edges']
                if e['parent'] == disk and e['name'] == 'file')


def test_reopen_under_an_export(disk):
    disk.export('disk')
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    nbd.write(0, b'one')
    disk.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'disk', 'discard': 'unmap',
        'file': file_of(disk)}])
    nbd.write(3, b'two')
    nbd.trim(65536, 65536)
    assert nbd.read(0, 7) == b'onetwo\1'
    nbd.disconnect()


def test_filter_under_an_export(disk, images):
    """A job's filter comes and goes below a client."""
    disk.export('disk')
    nbd = NbdClient.connect(disk.nbd_path, 'disk')
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(disk, 'disk', 'dst', speed=1 << 20)
    nbd.write(3 * MIB, b'x' * 65536)
    disk.qmp('block-job-set-speed', device=job.id, speed=0)
    job.finish()
    assert nbd.read(3 * MIB, 65536) == b'x' * 65536
    info, = disk.qmp('query-block-exports')
    assert info['node-name'] == 'disk'
    nbd.disconnect()
