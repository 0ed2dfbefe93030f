# SPDX-License-Identifier: MIT
"""quorum: votes, corrections, children that come and go."""

import errno
import json
import os

import pytest

from .images import qemu_img, same_bytes
from .jobs import start_backup
from .nbd import NbdClient, NbdError
from .test_blkdebug import debug, file_of, outcome, rule, state

MIB = 1 << 20


def null(**options):
    return dict({'driver': 'null-co', 'size': MIB, 'read-zeroes': True},
                **options)


def quorum(children, threshold, **options):
    return dict({'driver': 'quorum', 'children': children,
                 'vote-threshold': threshold},
                **{k.replace('_', '-'): v for k, v in options.items()})


def add(server, name, options):
    server.qmp('blockdev-add', dict(options, **{'node-name': name}))


def named(options, name):
    return dict(options, **{'node-name': name})


def connect(server, name='q', **options):
    server.export(name, **options)
    return NbdClient.connect(server.nbd_path, name, structured=False)


@pytest.fixture
def copies(images):
    """copies(n): paths of n equal images of 1 MiB without holes."""
    def make(n, at=None, data=b''):
        paths = []
        for i in range(n):
            content = bytearray(b'\x11' * MIB)
            if i == at:
                content[4096:4096 + len(data)] = data
            paths.append(images.write_raw(f'{i}.raw', bytes(content)))
        return paths
    return make


def failing(paths, **faults):
    """Options of files, those in `faults` (c0, c1...) below a blkdebug with
    that rule; nodes are called c0, c1..."""
    return [named(debug(path, faults[f'c{i}']) if f'c{i}' in faults
                  else file_of(path), f'c{i}')
            for i, path in enumerate(paths)]


def bad_events(server, count):
    events = [server.wait_event('QUORUM_REPORT_BAD')['data']
              for _ in range(count)]
    return sorted(events, key=lambda data: data['node-name'])


def no_more_events(server, *names):
    server.qmp('query-block-exports')
    for event in server.mon.pump():
        assert event['event'] not in names, event


# Options

@pytest.mark.parametrize('options,desc', [
    (quorum([], 1), 'Number of provided children must be 1 or more'),
    (quorum([null()], 0), "Parameter 'vote-threshold' expects a value >= 1"),
    (quorum([null()], -1), "Parameter 'vote-threshold' expects a value >= 1"),
    (quorum([null()], 1 << 33),
     "Parameter 'vote-threshold' expects a value >= 1"),
    (quorum([null()], 2), 'threshold may not exceed children count'),
    (quorum([null()] * 3, 2, blkverify=True),
     'blkverify=on can only be set if there are exactly two files and '
     'vote-threshold is 2'),
    (quorum([null()] * 2, 1, blkverify=True),
     'blkverify=on can only be set if there are exactly two files and '
     'vote-threshold is 2'),
    (quorum([null()] * 2, 2, blkverify=True, rewrite_corrupted=True),
     'rewrite-corrupted=on cannot be used with blkverify=on'),
    (quorum([null(), null(size=512)], 1),
     'Could not refresh total sector count: Input/output error'),
    (quorum(['nosuch'], 1),
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    (quorum([null(**{'read-only': True}), null()], 1, rewrite_corrupted=True),
     'Block node is read-only'),
], ids=lambda x: None)
def test_bad_options(server, options, desc):
    server.fails('blockdev-add', named(options, 'q'), desc)
    assert server.nodes() == {}


def test_fifo_needs_no_vote(server):
    add(server, 'q', quorum([null()] * 2, 1, blkverify=True,
                            read_pattern='fifo'))
    add(server, 'r', quorum([null()] * 2, 1, rewrite_corrupted=True,
                            read_pattern='fifo'))


def test_permissions(server):
    """Nobody else may write or resize what votes."""
    add(server, 'q', quorum([named(null(), 'c0'), null()], 2,
                            rewrite_corrupted=True))
    graph = server.qmp('x-debug-query-block-graph')
    edges = {edge['name']: edge for edge in graph['edges']}
    assert sorted(edges) == ['children.0', 'children.1']
    for edge in edges.values():
        assert edge['perm'] == ['write']
        assert sorted(edge['shared-perm']) == ['consistent-read',
                                               'write-unchanged']
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': server.nbd_path}})
    error = server.fails('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'c0', 'writable': True})
    assert "unshared by node 'q' (uses node 'c0' as 'children.0' child)" in \
        str(error)


def test_name(server, images):
    path = images.write_raw('a.raw', bytes(MIB))
    add(server, 'q', quorum([null(), {'driver': 'raw',
                                      'file': file_of(path)}], 2,
                            rewrite_corrupted=True))
    add(server, 'r', {'driver': 'raw', 'file': 'q'})
    nodes = server.nodes()
    wanted = quorum([null(), {'driver': 'raw', 'file': file_of(path)}], 2,
                    rewrite_corrupted=True)
    assert json.loads(nodes['q']['file'][5:]) == wanted
    assert json.loads(nodes['r']['file'][5:]) == {'driver': 'raw',
                                                  'file': wanted}


# Reading

def test_read_with_one_failing(server, copies):
    add(server, 'q', quorum(failing(copies(3), c0=rule(iotype='read')), 2))
    client = connect(server)
    assert client.read(1024, 1024) == b'\x11' * 1024
    assert bad_events(server, 1) == [
        {'type': 'read', 'error': 'Input/output error', 'node-name': 'c0',
         'sector-num': 2, 'sectors-count': 2}]
    client.disconnect()


@pytest.mark.parametrize('codes,seen', [
    ((errno.ENOSPC, errno.ENOSPC), errno.ENOSPC),
    ((errno.EIO, errno.EIO), errno.EIO),
    ((errno.EIO, errno.ENOSPC), None)], ids=str)
def test_read_with_too_few(server, copies, codes, seen):
    """Errors vote as well."""
    add(server, 'q', quorum(failing(
        copies(3), c0=rule(iotype='read', errno=codes[0]),
        c2=rule(iotype='read', errno=codes[1])), 2))
    client = connect(server)
    got = outcome(client.read, 0, 512)
    assert got == seen if seen else got in codes
    assert [e['node-name'] for e in bad_events(server, 2)] == ['c0', 'c2']
    assert server.wait_event('QUORUM_FAILURE')['data'] == {
        'reference': 'q', 'sector-num': 0, 'sectors-count': 1}
    client.disconnect()


@pytest.mark.parametrize('at', [0, 1, 2])
def test_outvoted(server, copies, at):
    add(server, 'q', quorum(failing(copies(3, at, b'bad')), 2))
    client = connect(server)
    assert client.read(0, 8192) == b'\x11' * 8192
    assert bad_events(server, 1) == [
        {'type': 'read', 'node-name': f'c{at}', 'sector-num': 0,
         'sectors-count': 16}]
    client.disconnect()


def test_no_majority(server, copies):
    add(server, 'q', quorum(failing(copies(3, 1, b'bad')), 3))
    client = connect(server)
    assert outcome(client.read, 4096, 512) == errno.EIO
    assert server.wait_event('QUORUM_FAILURE')['data'] == {
        'reference': 'q', 'sector-num': 8, 'sectors-count': 1}
    assert client.read(0, 512) == b'\x11' * 512
    client.disconnect()


@pytest.mark.parametrize('at', [0, 1])
def test_last_wins_a_tie(server, copies, at):
    add(server, 'q', quorum(failing(copies(2, at, b'bad')), 1))
    client = connect(server)
    assert client.read(4096, 3) == (b'\x11' * 3 if at == 0 else b'bad')
    client.disconnect()


@pytest.mark.parametrize('read_only', [False, True])
def test_rewrite(server, images, copies, read_only):
    """What was outvoted is corrected, by a read-only quorum too [081]."""
    paths = copies(3, 1, b'bad' * 100)
    for i, options in enumerate(failing(paths)):
        add(server, f'c{i}', file_of(paths[i]))
    add(server, 'q', quorum(['c0', 'c1', 'c2'], 2, rewrite_corrupted=True,
                            read_only=read_only))
    client = connect(server, writable=not read_only)
    assert client.read(0, MIB) == b'\x11' * MIB
    [event] = bad_events(server, 1)
    assert event['node-name'] == 'c1' and 'error' not in event
    client.disconnect()
    server.stop()
    same_bytes(images.content(paths[1]), images.content(paths[0]))


def test_fifo(server, copies):
    add(server, 'q', quorum(failing(
        copies(3, 1, b'other'), c0=rule(iotype='read', once=True)), 2,
        read_pattern='fifo'))
    client = connect(server)
    assert client.read(4096, 5) == b'other'
    assert bad_events(server, 1)[0]['node-name'] == 'c0'
    assert client.read(4096, 5) == b'\x11' * 5
    client.disconnect()


def test_fifo_all_fail(server, copies):
    add(server, 'q', quorum(failing(
        copies(2), c0=rule(iotype='read'),
        c1=rule(iotype='read', errno=errno.ENOSPC)), 1, read_pattern='fifo'))
    client = connect(server)
    assert outcome(client.read, 0, 512) == errno.ENOSPC
    assert [e['node-name'] for e in bad_events(server, 2)] == ['c0', 'c1']
    no_more_events(server, 'QUORUM_FAILURE')
    client.disconnect()


def test_events_are_limited(server, copies):
    """One a second for each child, the last one kept."""
    add(server, 'q', quorum(failing(copies(3), c1=rule(iotype='read')), 2))
    client = connect(server)
    for i in range(50):
        client.read(i * 512, 512)
    first, last = (server.wait_event('QUORUM_REPORT_BAD')['data']
                   for _ in range(2))
    assert first['sector-num'] == 0
    assert last['sector-num'] == 49
    client.disconnect()


# Writing

def test_write_with_one_failing(server, copies):
    add(server, 'q', quorum(failing(copies(3), c0=rule(iotype='write')), 2))
    client = connect(server)
    client.write(512, b'\x22' * 512)
    assert bad_events(server, 1) == [
        {'type': 'write', 'error': 'Input/output error', 'node-name': 'c0',
         'sector-num': 1, 'sectors-count': 1}]
    assert client.read(512, 512) == b'\x22' * 512
    client.disconnect()


@pytest.mark.parametrize('iotype', ['write', 'write-zeroes'])
def test_write_with_too_few(server, copies, iotype):
    add(server, 'q', quorum(failing(
        copies(3), c0=rule(iotype=iotype, errno=errno.ENOSPC),
        c1=rule(iotype=iotype, errno=errno.ENOSPC)), 2))
    client = connect(server)
    if iotype == 'write':
        code = outcome(client.write, 0, bytes(1024))
    else:
        code = outcome(client.write_zeroes, 0, 1024)
    assert code == errno.ENOSPC
    assert [e['type'] for e in bad_events(server, 2)] == ['write'] * 2
    assert server.wait_event('QUORUM_FAILURE')['data'] == {
        'reference': 'q', 'sector-num': 0, 'sectors-count': 2}
    client.disconnect()


@pytest.mark.parametrize('n_failing', [1, 2])
def test_flush(server, copies, n_failing):
    add(server, 'q', quorum(failing(copies(3), **{
        f'c{i}': rule(iotype='flush', errno=errno.ENOSPC)
        for i in range(n_failing)}), 2))
    client = connect(server)
    client.write(0, bytes(512))
    assert outcome(client.flush) == (errno.ENOSPC if n_failing > 1 else 0)
    assert bad_events(server, n_failing) == [
        {'type': 'flush', 'error': 'No space left on device',
         'node-name': f'c{i}', 'sector-num': 0, 'sectors-count': 0}
        for i in range(n_failing)]
    no_more_events(server, 'QUORUM_FAILURE')
    client.disconnect()


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
@pytest.mark.parametrize('threshold', [1, 3])
def test_guest(server, images, guest_on, fmt, threshold):
    """Several connections at once: the children are the same after it."""
    paths = [images.create(f'{i}.img', '4M', fmt) for i in range(3)]
    add(server, 'q', quorum([{'driver': fmt, 'file': file_of(path)}
                             for path in paths], threshold))
    server.export('q')
    guests = [guest_on(server, 'q', seed=seed, unit=4096, trims=False)
              # With QEMU overlapping writes leave the children different.
              for seed in ((1,) if server.is_qemu else (1, 2, 3))]
    for guest in guests:
        guest.start()
    guests[0].wait_writes(100)
    for guest in guests:
        guest.stop()
    guests[0].flush()
    for guest in guests:
        guest.close()
    no_more_events(server, 'QUORUM_REPORT_BAD', 'QUORUM_FAILURE')
    server.stop()
    first = images.content(paths[0])
    for path in paths[1:]:
        same_bytes(images.content(path), first)


def test_block_status(server, images):
    """Zero is what is zero in all of them [312]."""
    paths = [images.create(f'{i}.qcow2', '4M') for i in range(2)]
    images.io(paths[0], 'write -P 1 0 128k')
    images.io(paths[1], 'write -P 1 64k 128k')
    add(server, 'q', quorum([{'driver': 'qcow2', 'file': file_of(path)}
                             for path in paths], 1))
    uri = server.export('q', writable=False)
    areas = json.loads(qemu_img('map', '--output=json', '-f', 'raw', uri))
    assert [(a['start'], a['length'], a['zero']) for a in areas] == [
        (0, 192 << 10, False), (192 << 10, 4 * MIB - (192 << 10), True)]


def test_resize_is_refused(server):
    add(server, 'q', quorum([null()], 1))
    server.fails('block_resize', {'node-name': 'q', 'size': 2 * MIB},
                 'Image format driver does not support resize')


@pytest.mark.parametrize('fails', [False, True])
def test_image_grows(server, images, guest_on, seed, fails):
    """A qcow2 image makes the files longer, one that fails it once is
    outvoted."""
    paths = [images.create(f'{i}.qcow2', '4M') for i in range(3)]
    faults = {'c1': rule('pwritev', once=True, errno=errno.ENOSPC)}
    add(server, 'q', quorum(failing(paths, **(faults if fails else {})), 2))
    add(server, 'image', {'driver': 'qcow2', 'file': 'q'})
    server.export('image')
    guest = guest_on(server, 'image', seed=seed)
    guest.random_writes(100)
    guest.verify()
    guest.close()
    server.unexport('image')
    server.qmp('blockdev-del', node_name='image')
    server.qmp('blockdev-del', node_name='q')
    for i in (0, 2):
        same_bytes(images.content(paths[i]), bytes(guest.model))
    if fails:
        images.ignore(paths[1])
    else:
        assert os.stat(paths[1]).st_size == os.stat(paths[0]).st_size


# x-blockdev-change

def children(server, parent='x'):
    graph = server.qmp('x-debug-query-block-graph')
    names = {node['id']: node['name'] for node in graph['nodes']}
    return [(edge['name'], names[edge['child']]) for edge in graph['edges']
            if names[edge['parent']] == parent]


def change(server, parent, **arguments):
    server.qmp('x-blockdev-change', parent=parent, **arguments)


@pytest.fixture
def changing(server):
    for i in range(6):
        add(server, f'c{i}', null())
    add(server, 'x', quorum(['c0', 'c1'], 2))
    return server


def test_change(changing):
    """A name is used again only if it is the last one."""
    server = changing
    change(server, 'x', node='c2')
    change(server, 'x', node='c3')
    assert children(server) == [('children.0', 'c0'), ('children.1', 'c1'),
                                ('children.2', 'c2'), ('children.3', 'c3')]
    change(server, 'x', child='children.2')
    change(server, 'x', node='c4')
    assert children(server)[2:] == [('children.3', 'c3'),
                                    ('children.4', 'c4')]
    change(server, 'x', child='children.4')
    change(server, 'x', node='c5')
    assert children(server)[2:] == [('children.3', 'c3'),
                                    ('children.4', 'c5')]
    change(server, 'x', child='children.0')
    change(server, 'x', child='children.1')
    assert children(server) == [('children.3', 'c3'), ('children.4', 'c5')]
    assert json.loads(server.nodes()['x']['file'][5:]) == quorum(
        [null(), null()], 2)
    server.qmp('blockdev-del', node_name='c0')
    server.fails('blockdev-del', node_name='c3',
                 desc='Block device c3 is in use')


@pytest.mark.parametrize('arguments,desc', [
    ({'parent': 'x', 'child': 'children.0'},
     'The number of children cannot be lower than the vote threshold 2'),
    ({'parent': 'x', 'node': 'c0'}, 'The node c0 already has a parent'),
    ({'parent': 'x', 'node': 'nosuch'}, "Node 'nosuch' not found"),
    ({'parent': 'nosuch', 'node': 'c3'},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({'parent': 'x'}, 'Either child or node must be specified'),
    ({'parent': 'x', 'node': 'c3', 'child': 'children.0'},
     'The parameters child and node are in conflict'),
    ({'parent': 'x', 'child': 'children.7'},
     "Node 'x' does not have child 'children.7'"),
    ({'parent': 'x', 'node': 'x'},
     "Making 'x' a children.2 child of 'x' would create a cycle"),
    ({'parent': 'c4', 'node': 'c3'},
     'The node c4 does not support adding a child'),
    ({'parent': 'c4', 'child': 'file'},
     "Node 'c4' does not have child 'file'"),
    ({'parent': 'v', 'node': 'c3'},
     'Cannot add a child to a quorum in blkverify mode'),
    ({'parent': 'v', 'child': 'children.0'},
     'The number of children cannot be lower than the vote threshold 2'),
    ({'parent': 'd', 'node': 'c3'},
     'The node d does not support adding a child'),
    ({'parent': 'd', 'child': 'image'},
     'The node d does not support removing a child'),
], ids=lambda x: None)
def test_change_refused(changing, arguments, desc):
    server = changing
    add(server, 'v', quorum([null(), null()], 2, blkverify=True))
    add(server, 'd', debug(null()))
    before = server.qmp('x-debug-query-block-graph')
    server.fails('x-blockdev-change', arguments, desc)
    assert server.qmp('x-debug-query-block-graph') == before


@pytest.mark.ours('QEMU takes it, and reads behind its end')
def test_change_size(changing):
    add(changing, 'small', null(size=512))
    changing.fails('x-blockdev-change', parent='x', node='small',
                   desc="Node 'small' has another size than quorum node 'x'")


def test_change_under_load(server, images, guest_on):
    """Children come and go while a guest writes; the one that was there
    all the time has it all."""
    paths = [images.write_raw(f'{i}.raw', bytes(4 * MIB)) for i in range(2)]
    for i, path in enumerate(paths):
        add(server, f'c{i}', file_of(path))
    add(server, 'x', quorum(['c0'], 1))
    server.export('x')
    guest = guest_on(server, 'x', trims=False).start()
    for _ in range(20):
        guest.wait_writes(5)
        change(server, 'x', node='c1')
        guest.wait_writes(5)
        change(server, 'x', child='children.1')
    guest.stop()
    guest.close()
    server.stop()
    same_bytes(images.content(paths[0]), guest.freeze())


def test_change_under_a_job(server, images):
    paths = [images.write_raw(f'{i}.raw', b'\7' * (4 * MIB))
             for i in range(2)]
    target = images.write_raw('dst.raw', bytes(4 * MIB))
    for i, path in enumerate(paths):
        add(server, f'c{i}', file_of(path))
    add(server, 'x', quorum(['c0'], 1))
    add(server, 'dst', file_of(target))
    job = start_backup(server, 'x', 'dst', sync='full', speed=MIB)
    for _ in range(5):
        change(server, 'x', node='c1')
        change(server, 'x', child='children.1')
    server.qmp('block-job-set-speed', device=job.id, speed=0)
    job.finish()
    server.stop()
    same_bytes(images.content(target), images.content(paths[0]))


def test_reopen_is_refused(changing):
    changing.fails('blockdev-reopen', options=[dict(
        quorum(['c0', 'c1'], 2), **{'node-name': 'x'})],
        desc="Block format 'quorum' used by node 'x' does not support "
             "reopening files")


def test_lost_child_does_not_stop_the_guest(server, copies, guest_on):
    """One of three fails for ever from the tenth write on."""
    paths = copies(3)
    nodes = [named(file_of(path), f'c{i}') for i, path in enumerate(paths)]
    nodes[2] = named(debug(
        paths[2], rule('pwritev', state=10),
        states=[state('pwritev', i + 1, state=i) for i in range(1, 10)]),
        'c2')
    add(server, 'q', quorum(nodes, 2))
    server.export('q')
    guest = guest_on(server, 'q', trims=False)
    guest.model[:] = b'\x11' * MIB
    for at in range(0, MIB, 32768):
        guest.write(at, bytes([at >> 15]) * 32768)
    guest.verify()
    guest.close()


def test_errors_are_not_nbd_losses(server, copies):
    """The connection survives a failed read."""
    add(server, 'q', quorum(failing(copies(1), c0=rule(iotype='read',
                                                       once=True)), 1))
    client = connect(server)
    with pytest.raises(NbdError):
        client.read(0, 512)
    assert client.read(0, 512) == b'\x11' * 512
    client.disconnect()
