# SPDX-License-Identifier: MIT
"""What is refused, or fails on the way, leaves everything as it was.

A graph with all that can be in it; then each operation on it that cannot
be done, or that fails at one of its steps.  Before and after: nodes, links,
permissions, bitmaps as queries tell them, and what clients read.
"""

import os

import pytest

from .images import qemu_img
from .nbd import NbdClient
from .qmp import QmpError

MIB = 1 << 20


def file_of(path, name, **options):
    return dict({'driver': 'file', 'filename': path, 'node-name': name},
                **options)


def qcow2(name, file, **options):
    return dict({'driver': 'qcow2', 'node-name': name, 'file': file},
                **{k.replace('_', '-'): v for k, v in options.items()})


def raw(name, file, **options):
    return dict({'driver': 'raw', 'node-name': name, 'file': file}, **options)


class Graph:
    """top -> mid -> base (qcow2), a bitmap on top, a writer on top; r1 and
    r2 over f1 and f2, r1 with a reader; spare with nobody; a second server
    that has `locked` open."""

    def __init__(self, server, other, images):
        self.server = server
        self.images = images
        self.mid = None
        path = {}
        for name, backing in (('base', None), ('mid', 'base'),
                              ('top', 'mid')):
            path[name] = images.create(f'{name}.qcow2', '4M',
                                       backing=backing and path[backing])
            images.io(path[name], f'write -P {len(path)} {len(path)}M 64k')
        for name in ('spare', 'locked', 'over'):
            path[name] = images.create(f'{name}.qcow2', '4M')
        for name in ('f1', 'f2'):
            path[name] = images.write_raw(name, name.encode() * (MIB // 2))
        self.path = path
        add = lambda o: server.qmp('blockdev-add', o)
        add(qcow2('base', file_of(path['base'], 'base-f'), read_only=True))
        add(qcow2('mid', file_of(path['mid'], 'mid-f'), backing='base',
                  read_only=True))
        add(qcow2('top', file_of(path['top'], 'top-f'), backing='mid'))
        add(qcow2('spare', file_of(path['spare'], 'spare-f')))
        add(qcow2('locked', file_of(path['locked'], 'locked-f'),
                  read_only=True))
        for n in '12':
            add(file_of(path[f'f{n}'], f'f{n}'))
            add(raw(f'r{n}', f'f{n}'))
        server.qmp('block-dirty-bitmap-add', node='top', name='b',
                   persistent=True)
        server.export('top')
        server.export('r1', writable=False)
        other.add_node('o', path['locked'], read_only=True)
        self.client = NbdClient.connect(server.nbd_path, 'top')
        self.client.write(0, b'guest' * 1000)

    def content(self):
        found = []
        for name in ('top', 'r1'):
            client = NbdClient.connect(self.server.nbd_path, name)
            found.append(client.read(0, client.size))
            client.close()
        return found

    def state(self):
        return self.server.graph(), self.content(), \
            sorted(os.listdir(self.images.directory))


@pytest.fixture
def graph(server, start_server, images):
    made = Graph(server, start_server(), images)
    yield made
    made.client.write(0, b'still works')
    made.client.close()


def reopen(*options):
    return 'blockdev-reopen', {'options': list(options)}


REFUSED = {
    # reopen
    'unknown node': lambda g: reopen(qcow2('x', 'top-f')),
    'second of two': lambda g: reopen(
        raw('r1', 'f2'), raw('r2', 'f1', size=513)),
    'unknown child': lambda g: reopen(raw('r1', 'f2'), raw('r2', 'x')),
    'writer goes read-only': lambda g: reopen(
        raw('r1', 'f2'), qcow2('top', 'top-f', backing='mid',
                               read_only=True)),
    'file of a writer goes read-only': lambda g: reopen(
        dict(file_of(g.path['top'], 'top-f'), **{'read-only': True})),
    'backing missing': lambda g: reopen(
        raw('r1', 'f2'), qcow2('top', 'top-f')),
    'cycle over two': lambda g: reopen(
        qcow2('top', 'top-f', backing=None),
        qcow2('base', 'base-f', backing='mid', read_only=True)),
    'option that stays': lambda g: reopen(
        raw('r1', 'f2'), dict(file_of(g.path['f1'], 'f1'), locking='off')),
    'bad cache size': lambda g: reopen(
        raw('r1', 'f2'), dict(qcow2('top', 'top-f', backing='mid'),
                              **{'l2-cache-entry-size': 3})),
    'lock of another process': lambda g: reopen(
        raw('r1', 'f2', offset=512),
        qcow2('locked', file_of(g.path['locked'], 'locked-f'))),
    'child that is in use': lambda g: reopen(
        qcow2('spare', 'top-f', backing=None)),
    # blockdev-add
    'file missing': lambda g: (
        'blockdev-add', raw('n', file_of('/nonexistent/file', 'nf'))),
    'name taken below': lambda g: (
        'blockdev-add', raw('n', file_of(g.path['over'], 'top'))),
    'name taken': lambda g: (
        'blockdev-add', raw('top', file_of(g.path['over'], 'nf'))),
    'not that format': lambda g: (
        'blockdev-add', qcow2('n', file_of(g.path['f2'], 'nf'))),
    'backing missing in the second': lambda g: (
        'blockdev-add', qcow2('n', file_of(g.path['over'], 'nf'),
                              backing='x')),
    'second user of a file': lambda g: ('blockdev-add', qcow2('n', 'top-f')),
    'locked by another process': lambda g: (
        'blockdev-add', qcow2('n', file_of(g.path['locked'], 'nf'))),
    'backing of itself': lambda g: (
        'blockdev-add', qcow2('n', file_of(g.path['over'], 'nf'),
                              backing='n')),
    # blockdev-del
    'del with a writer': lambda g: ('blockdev-del', {'node-name': 'top'}),
    'del of a backing node': lambda g: ('blockdev-del', {'node-name': 'mid'}),
    'del of a child': lambda g: ('blockdev-del', {'node-name': 'top-f'}),
    'del of nothing': lambda g: ('blockdev-del', {'node-name': 'x'}),
    # block_resize
    'resize of a backing node': lambda g: (
        'block_resize', {'node-name': 'mid', 'size': 8 * MIB}),
    'resize read-only': lambda g: (
        'block_resize', {'node-name': 'locked', 'size': 8 * MIB}),
    'resize negative': lambda g: (
        'block_resize', {'node-name': 'spare', 'size': -1}),
    'resize too large': lambda g: (
        'block_resize', {'node-name': 'spare', 'size': 1 << 62}),
    # exports
    'writer of a read-only node': lambda g: (
        'block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'base',
                             'writable': True}),
    'export of nothing': lambda g: (
        'block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'x'}),
    'export of a missing bitmap': lambda g: (
        'block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'spare',
                             'bitmaps': ['x']}),
    # jobs
    'backup into itself': lambda g: (
        'blockdev-backup', {'device': 'top', 'target': 'top', 'sync': 'full',
                            'job-id': 'j'}),
    'backup of another size': lambda g: (
        'blockdev-backup', {'device': 'top', 'target': 'r2', 'sync': 'full',
                            'job-id': 'j'}),
    'backup into a read-only node': lambda g: (
        'blockdev-backup', {'device': 'top', 'target': 'locked',
                            'sync': 'full', 'job-id': 'j'}),
    'backup over its own file': lambda g: (
        'blockdev-backup', {'device': 'spare', 'target': 'top',
                            'sync': 'incremental', 'bitmap': 'x',
                            'job-id': 'j'}),
    # bitmaps
    'bitmap twice': lambda g: (
        'block-dirty-bitmap-add', {'node': 'top', 'name': 'b'}),
    'bitmap on raw': lambda g: (
        'block-dirty-bitmap-add', {'node': 'r2', 'name': 'c',
                                   'persistent': True}),
    'transaction that aborts': lambda g: ('transaction', {'actions': [
        {'type': 'block-dirty-bitmap-clear',
         'data': {'node': 'top', 'name': 'b'}},
        {'type': 'block-dirty-bitmap-add',
         'data': {'node': 'spare', 'name': 'b'}},
        {'type': 'abort', 'data': {}}]}),
}

SNAPSHOTS = {
    'overlay in use': lambda g: (
        'blockdev-snapshot', {'node': 'r2', 'overlay': 'top'}),
    'overlay is itself': lambda g: (
        'blockdev-snapshot', {'node': 'spare', 'overlay': 'spare'}),
    'overlay has a backing node': lambda g: (
        'blockdev-snapshot', {'node': 'spare', 'overlay': 'mid'}),
    'overlay takes no backing node': lambda g: (
        'blockdev-snapshot', {'node': 'spare', 'overlay': 'r2'}),
    'snapshot in no directory': lambda g: (
        'blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-node-name':
                                   's', 'snapshot-file': '/nonexistent/s',
                                   'format': 'qcow2'}),
    'snapshot with a taken name': lambda g: (
        'blockdev-snapshot-sync', {'node-name': 'top', 'snapshot-node-name':
                                   'mid', 'snapshot-file':
                                   g.images.path('new'), 'format': 'qcow2'}),
    'snapshots, the second fails': lambda g: ('transaction', {'actions': [
        {'type': 'blockdev-snapshot',
         'data': {'node': 'r2', 'overlay': 'spare'}},
        {'type': 'blockdev-snapshot',
         'data': {'node': 'top', 'overlay': 'x'}}]}),
    'snapshots, then abort': lambda g: ('transaction', {'actions': [
        {'type': 'blockdev-snapshot',
         'data': {'node': 'r2', 'overlay': 'spare'}},
        {'type': 'abort', 'data': {}}]}),
    'backing name of another chain': lambda g: (
        'change-backing-file', {'device': 'top', 'image-node-name': 'r2',
                                'backing-file': 'x'}),
    'child of no quorum': lambda g: (
        'x-blockdev-change', {'parent': 'top', 'node': 'spare'}),
}


def run(graph, what):
    command, arguments = what(graph)
    before = graph.state()
    with pytest.raises(QmpError):
        graph.server.qmp(command, arguments)
    assert graph.state() == before


@pytest.mark.parametrize('what', REFUSED.values(), ids=REFUSED)
def test_refused(graph, what):
    if graph.server.is_qemu and what is REFUSED['writer goes read-only']:
        pytest.skip("QEMU's file cannot be written any more then")
    run(graph, what)


@pytest.mark.parametrize('what', SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_snapshot_refused(graph, what):
    run(graph, what)


@pytest.mark.ours('QEMU takes another image as the file')
def test_another_image(graph):
    run(graph, lambda g: reopen(raw('r1', 'f2'),
                                qcow2('top', 'spare-f', backing='mid')))


# Storage that fails in the middle


def without_file_sizes(graph):
    """An image file may be longer after a failure: clusters that leak."""
    for node in graph[1]:
        if node['node-name'] in ('good', 'bad'):
            del node['image']['virtual-size']
    return graph


@pytest.mark.ours('QEMU 7.2 goes on with bitmaps that it could not mark')
@pytest.mark.parametrize('read_only,iotype', [
    (False, 'flush'), (False, 'write'), (True, 'write')])
def test_reopen_fails_in_the_middle(server, images, iotype, read_only):
    """Bitmaps cannot be marked as in use, or not be stored; the other node
    of the call stays as it was, too."""
    path = images.create('n.qcow2', '4M', compat='1.1')
    qemu_img('bitmap', '--add', '-f', 'qcow2', path, 'b')
    images.allow_leaks(path)
    add = lambda o: server.qmp('blockdev-add', o)
    add(file_of(path, 'good'))
    add(qcow2('n', 'good'))
    server.export('n')
    client = NbdClient.connect(server.nbd_path, 'n')
    client.write(0, b'x' * 65536)
    client.close()
    server.unexport('n', mode='hard')
    add({'driver': 'blkdebug', 'node-name': 'bad', 'image': 'good',
         'inject-error': [{'event': 'none', 'iotype': iotype, 'errno': 28}]})
    add({'driver': 'null-co', 'node-name': 'z', 'size': MIB})
    add(raw('r', 'z'))
    if read_only:
        server.qmp(*reopen(qcow2('n', 'bad')))
    else:
        server.qmp(*reopen(qcow2('n', 'good', read_only=True)))
        assert images.bitmaps(path, '-U')['b']['flags'] == ['auto']
    before = without_file_sizes(server.graph())
    server.fails(*reopen(raw('r', 'z', offset=512),
                         qcow2('n', 'bad', read_only=read_only)))
    assert without_file_sizes(server.graph()) == before
    if read_only:       # nor can anything else be written until the end
        assert images.bitmaps(path, '-U')['b']['flags'] == ['in-use', 'auto']
        return
    server.qmp(*reopen(qcow2('n', 'good')))
    assert images.bitmaps(path, '-U')['b']['flags'] == ['in-use', 'auto']
    server.qmp(*reopen(qcow2('n', 'good', read_only=True)))
    assert images.bitmaps(path, '-U')['b']['flags'] == ['auto']
    server.qmp('blockdev-del', node_name='bad')


def test_backup_target_fills_the_disk(server, images, small_disk):
    """The job fails; the graph is as before."""
    disk = small_disk(2 * MIB)
    path = disk.path('target.raw')
    qemu_img('create', '-q', '-f', 'raw', path, '4M')
    source = images.create('a.qcow2', '4M')
    images.io(source, 'write -P 1 0 4M')
    server.add_node('n', source)
    server.add_node('t', path, driver='raw')
    server.export('n')
    client = NbdClient.connect(server.nbd_path, 'n')
    before = server.graph(), client.read(0, client.size)
    server.qmp('blockdev-backup', device='n', target='t', sync='full',
               job_id='j')
    event = server.wait_event('BLOCK_JOB_COMPLETED', {'device': 'j'})
    assert event['data']['error'] == 'No space left on device'
    server.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    assert (server.graph(), client.read(0, client.size)) == before
    client.close()
