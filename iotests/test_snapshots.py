# SPDX-License-Identifier: MIT
"""Snapshots: an overlay takes a node's place while its guest goes on."""

import os

import pytest

from .images import qemu_img, same_bytes
from .jobs import start_backup

MIB = 1 << 20
SIZE = 8 * MIB
ABORTED = 'Transaction aborted using Abort action'


def action(kind, **data):
    return {'type': kind, 'data': {k.replace('_', '-'): v
                                   for k, v in data.items()}}


def sync(server, images, node, name, **options):
    """Arguments of blockdev-snapshot-sync, the file adopted."""
    path = images.path(f'{name}.qcow2')
    if options.get('mode') != 'existing':
        images.adopt(path)
    return dict({'node_name': node, 'snapshot_file': path,
                 'snapshot_node_name': name}, **options)


def add_overlay(server, images, name, size=SIZE, **options):
    server.add_node(name, images.create(f'{name}.qcow2', size, **options),
                    backing=None)


@pytest.fixture
def disk(server, images, guest_on):
    """Node 'n' with an export and a guest."""
    server.disk_path = images.create('n.qcow2', SIZE)
    server.add_node('n', server.disk_path)
    server.export('n')
    server.guest = guest_on(server, 'n')
    server.guest.random_writes(20)
    return server


def chain_of(server, name):
    """Names from a node down its backing files, by the block graph."""
    graph = server.qmp('x-debug-query-block-graph')
    names = {n['id']: n['name'] for n in graph['nodes']}
    below = {names[e['parent']]: names[e['child']] for e in graph['edges']
             if e['name'] == 'backing'}
    chain = [name]
    while chain[-1] in below:
        chain.append(below[chain[-1]])
    return chain


# What it does

def test_blockdev_snapshot(disk, images):
    """What was written before is in the node, what comes after in the
    overlay; the export follows, its client notices nothing."""
    add_overlay(disk, images, 'o')
    before = disk.guest.freeze()
    disk.qmp('blockdev-snapshot', node='n', overlay='o')
    disk.guest.verify()
    disk.guest.random_writes(20)
    disk.guest.verify()
    disk.guest.flush()
    export, = disk.qmp('query-block-exports')
    assert export['node-name'] == 'o'
    nodes = disk.nodes()
    assert nodes['n']['ro'] and not nodes['o']['ro']
    assert nodes['o']['backing_file'] == disk.disk_path
    assert chain_of(disk, 'o') == ['o', 'n']
    # The header was not touched: only the graph says what is below.
    assert nodes['o']['file'].startswith('json:')
    assert 'backing-filename' not in nodes['o']['image']
    disk.quit()
    same_bytes(images.content(disk.disk_path), before)
    assert 'backing-filename' not in images.info(images.path('o.qcow2'))
    qemu_img('rebase', '-u', '-F', 'qcow2', '-b', disk.disk_path,
             images.path('o.qcow2'))
    same_bytes(images.content(images.path('o.qcow2')),
               bytes(disk.guest.model))


def test_blockdev_snapshot_sync(disk, images):
    before = disk.guest.freeze()
    disk.qmp('blockdev-snapshot-sync', **sync(disk, images, 'n', 'o'))
    disk.guest.verify()
    disk.guest.random_writes(20)
    disk.guest.verify()
    nodes = disk.nodes()
    assert nodes['o']['file'] == images.path('o.qcow2')
    assert nodes['o']['image']['backing-filename'] == disk.disk_path
    assert nodes['o']['image']['backing-filename-format'] == 'qcow2'
    assert nodes['n']['ro']
    disk.quit()
    same_bytes(images.content(disk.disk_path), before)
    same_bytes(images.content(images.path('o.qcow2')),
               bytes(disk.guest.model))


def test_header_that_names_the_base(disk, images):
    """As libvirt does it: made with a backing file, opened without."""
    images.create('o.qcow2', SIZE, backing=disk.disk_path)
    disk.add_node('o', images.path('o.qcow2'), backing=None)
    disk.qmp('blockdev-snapshot', node='n', overlay='o')
    assert disk.nodes()['o']['file'] == images.path('o.qcow2')
    disk.guest.random_writes(5)
    disk.guest.verify()


@pytest.mark.parametrize('fmt', ['qcow2', 'raw'])
def test_formatting_line(start_server, images, fmt):
    """One line on stdout, before the reply."""
    path = images.create(f'n.{fmt}', SIZE, fmt)
    server = start_server()
    server.add_node('n', path, fmt)
    server.export('n')
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'n', 'o'))
    wanted = (f"Formatting '{images.path('o.qcow2')}', fmt=qcow2 "
              f'cluster_size=65536 extended_l2=off compression_type=zlib '
              f'size={SIZE} backing_file={path} backing_fmt={fmt} '
              f'lazy_refcounts=off refcount_bits=16')
    assert images.info(images.path('o.qcow2'),
                       '-U')['backing-filename'] == path
    # Standard output and standard error go to one file here.
    assert server.stderr().splitlines() == [wanted]


def test_modes_are_inherited(server, images):
    """Cache and discard are the node's; so is being read-only."""
    path = images.create('n.qcow2', SIZE)
    server.add_node('n', path, cache={'direct': True, 'no-flush': True},
                    detect_zeroes='on')
    server.export('n')
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'n', 'o'))
    entry = server.nodes()['o']
    assert entry['cache'] == {'writeback': True, 'direct': True,
                              'no-flush': True}
    assert entry['detect_zeroes'] == 'off'
    server.add_node('r', images.create('r.qcow2', SIZE), read_only=True)
    server.export('r', writable=False)
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'r', 'ro'))
    assert server.nodes()['ro']['ro']


def test_chain_of_snapshots(disk, images):
    """One over the other, each content as of its moment."""
    moments = []
    below = 'n'
    for i in range(4):
        disk.guest.random_writes(5)
        moments.append((images.path(f'{below}.qcow2'), disk.guest.freeze()))
        disk.qmp('blockdev-snapshot-sync',
                 **sync(disk, images, below, f's{i}'))
        below = f's{i}'
    disk.guest.random_writes(5)
    disk.guest.verify()
    assert chain_of(disk, below) == ['s3', 's2', 's1', 's0', 'n']
    assert disk.qmp('query-named-block-nodes')[0]['backing_file_depth'] == 4
    disk.quit()
    for path, content in moments:
        same_bytes(images.content(path), content)


def test_other_size(disk, images):
    """Sizes are not compared; what is behind the node's end is zero."""
    add_overlay(disk, images, 'o', 2 * SIZE)
    disk.qmp('blockdev-snapshot', node='n', overlay='o')
    disk.guest.verify()
    assert disk.nodes()['o']['image']['virtual-size'] == 2 * SIZE


def test_raw_below(server, images, guest_on):
    server.add_node('n', images.create('n.raw', SIZE, 'raw'), 'raw')
    server.export('n')
    guest = guest_on(server, 'n')
    guest.random_writes(20)
    before = guest.freeze()
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'n', 'o'))
    guest.random_writes(20)
    guest.verify()
    assert server.nodes()['o']['image']['backing-filename-format'] == 'raw'
    server.quit()
    same_bytes(images.content(images.path('n.raw'), 'raw'), before)


def test_overlay_without_user_goes(server, images):
    """The new node of -sync lives as long as somebody uses it."""
    server.add_node('n', images.create('n.qcow2', SIZE))
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'n', 'o'))
    assert 'o' not in server.nodes() and server.nodes()['n']['ro']
    assert os.path.exists(images.path('o.qcow2'))


def test_existing(disk, images):
    """mode existing opens what is there; its header stays."""
    images.create('other.raw', SIZE, 'raw')
    images.create('o.qcow2', SIZE, backing=images.path('other.raw'))
    disk.qmp('blockdev-snapshot-sync',
             **sync(disk, images, 'n', 'o', mode='existing'))
    entry = disk.nodes()['o']
    assert entry['image']['backing-filename'] == images.path('other.raw')
    assert entry['file'].startswith('json:')
    assert entry['backing_file'] == disk.disk_path
    disk.guest.verify()


def test_graph_dump(server, images):
    """iotest 273: backing null, numbers and orders of the graph dump."""
    server.add_file('base-file', images.create('base.qcow2', SIZE))
    server.qmp('blockdev-add', driver='qcow2', node_name='base',
               file='base-file')
    server.add_file('top-file', images.create('top.qcow2', SIZE))
    server.qmp('blockdev-add', driver='qcow2', node_name='top',
               file='top-file', backing=None)
    server.qmp('blockdev-snapshot', node='base', overlay='top')
    graph = server.qmp('x-debug-query-block-graph')
    assert [(n['name'], n['id']) for n in graph['nodes']] == [
        ('top', 4), ('top-file', 3), ('base', 2), ('base-file', 1)]
    assert [(e['name'], e['parent'], e['child']) for e in graph['edges']] \
        == [('file', 4, 3), ('backing', 4, 2), ('file', 2, 1)]


def test_bitmaps_stay_below(disk, images):
    disk.qmp('block-dirty-bitmap-add', node='n', name='b', persistent=True)
    disk.guest.random_writes(3)
    count = disk.nodes()['n']['dirty-bitmaps'][0]['count']
    disk.qmp('blockdev-snapshot-sync', **sync(disk, images, 'n', 'o'))
    disk.guest.random_writes(10)
    nodes = disk.nodes()
    assert 'dirty-bitmaps' not in nodes['o']
    assert nodes['n']['dirty-bitmaps'][0]['count'] == count


# What is refused

def test_refused(disk, images):
    add_overlay(disk, images, 'o')
    disk.add_node('raw', images.create('r.raw', SIZE, 'raw'), 'raw')
    disk.add_node('low', images.create('low.qcow2', SIZE))
    images.create('based.qcow2', SIZE, backing=images.path('low.qcow2'))
    disk.add_node('based', images.path('based.qcow2'), backing='low')
    disk.export('o', 'busy')
    before = disk.graph()

    def refused(node, overlay, desc):
        disk.fails('blockdev-snapshot', node=node, overlay=overlay, desc=desc)
        assert disk.graph() == before

    refused('nope', 'o', "Cannot find device='nope' nor node-name='nope'")
    refused('n', 'nope', "Cannot find device='nope' nor node-name='nope'")
    refused('n', 'o', 'The overlay is already in use')
    refused('n', 'raw', 'The overlay does not support backing images')
    disk.qmp('blockdev-add', driver='copy-on-read', node_name='c', file='raw')
    before = disk.graph()
    refused('n', 'c', 'Filters cannot be used as overlays')
    refused('n', 'based', 'The overlay already has a backing image')
    refused('low', 'raw', "Node 'low' is busy: node is used as backing hd of "
            "'based'")
    refused('low', 'nope', "Node 'low' is busy: node is used as backing hd of "
            "'based'")
    disk.unexport('busy')
    before = disk.graph()
    refused('o', 'o', "Making 'o' a backing child of 'o' would create a cycle")
    disk.qmp('blockdev-snapshot', node='n', overlay='o')
    disk.fails('blockdev-snapshot', node='n', overlay='o',
               desc="Node 'n' is busy: node is used as backing hd of 'o'")
    disk.fails('blockdev-snapshot', node='o', overlay='n',
               desc='The overlay is already in use')
    disk.fails('blockdev-snapshot', node='based', overlay='low',
               desc="Making 'based' a backing child of 'low' would create a "
               'cycle')
    disk.fails('blockdev-del', node_name='n',
               desc="Node 'n' is busy: node is used as backing hd of 'o'")
    disk.guest.verify()


def test_read_only_overlay(disk, images):
    images.create('o.qcow2', SIZE)
    disk.add_node('o', images.path('o.qcow2'), read_only=True)
    disk.fails('blockdev-snapshot', node='n', overlay='o',
               desc='Block node is read-only')
    disk.guest.random_writes(2)
    disk.guest.verify()
    assert chain_of(disk, 'n') == ['n']


def test_sync_refused(disk, images):
    path = images.path('o.qcow2')
    before = disk.graph()

    def refused(desc, **arguments):
        disk.fails('blockdev-snapshot-sync', desc=desc,
                   **dict({'snapshot_file': path}, **arguments))
        assert disk.graph() == before

    good = {'node_name': 'n', 'snapshot_node_name': 'o'}
    refused("Cannot find device='' nor node-name=''")
    refused("Cannot find device='nope' nor node-name=''", device='nope')
    refused("Cannot find device='' nor node-name='nope'", node_name='nope')
    refused('New overlay node-name missing', node_name='n')
    refused('New overlay node-name already in use', node_name='n',
            snapshot_node_name='n')
    refused("Unknown file format 'nope'", format='nope', **good)
    refused("Backing file not supported for file format 'raw'", format='raw',
            **good)
    refused("Unknown driver 'nope'", format='nope', mode='existing', **good)
    refused(f"Could not open '{path}': No such file or directory",
            mode='existing', **good)
    refused("Could not create '/nonexistent/x': No such file or directory",
            **dict(good, snapshot_file='/nonexistent/x'))
    refused('Error: Trying to create an image with the same filename as the '
            'backing file', **dict(good, snapshot_file=disk.disk_path))
    refused('Failed to get "write" lock', mode='existing',
            **dict(good, snapshot_file=disk.disk_path))
    assert not os.path.exists(path)
    images.adopt(path)
    refused("Invalid node-name: '_bad'", node_name='n',
            snapshot_node_name='_bad')
    disk.guest.verify()


def test_refused_by_a_job(disk, images):
    """The target of a job; its source has the job's filter above."""
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    job = start_backup(disk, 'n', 'dst', sync='none')
    disk.fails('blockdev-snapshot-sync', node_name='dst',
               snapshot_node_name='o',
               snapshot_file=images.path('o.qcow2'),
               desc="Node 'dst' is busy: block device is in use by block "
               'job: backup')
    assert not os.path.exists(images.path('o.qcow2'))
    disk.guest.random_writes(10)
    job.cancel()
    disk.guest.verify()


# Transactions

def transact(server, *actions, desc=None):
    if desc:
        server.fails('transaction', {'actions': list(actions)}, desc)
    else:
        server.qmp('transaction', {'actions': list(actions)})


@pytest.mark.parametrize('kind', ['blockdev-snapshot',
                                  'blockdev-snapshot-sync'])
def test_undone(disk, images, kind):
    if kind == 'blockdev-snapshot':
        add_overlay(disk, images, 'o')
        snapshot = action(kind, node='n', overlay='o')
    else:
        snapshot = action(kind, **sync(disk, images, 'n', 'o'))
    for _ in range(3):
        before = disk.graph()
        transact(disk, snapshot, action('abort'), desc=ABORTED)
        assert disk.graph() == before
        disk.guest.random_writes(5)
        disk.guest.verify()
    transact(disk, snapshot)
    disk.guest.random_writes(5)
    disk.guest.verify()
    assert chain_of(disk, 'o') == ['o', 'n']


def test_several_disks_at_one_moment(server, images, guest_on):
    guests = {}
    for name in ('a', 'b'):
        server.add_node(name, images.create(f'{name}.qcow2', SIZE))
        server.export(name)
        guests[name] = guest_on(server, name, seed=ord(name))
        guests[name].start()
    for guest in guests.values():
        guest.wait_writes(20)
    transact(server, *(action('blockdev-snapshot-sync', **sync(
        server, images, name, f'{name}1')) for name in guests))
    for guest in guests.values():
        guest.wait_writes(20)
        guest.stop()
        guest.verify()
    assert chain_of(server, 'a1') == ['a1', 'a']
    assert chain_of(server, 'b1') == ['b1', 'b']


def test_stacked_in_one_transaction(disk, images):
    """The second is over the first's overlay; names as in QEMU."""
    before = disk.guest.freeze()
    actions = [action('blockdev-snapshot-sync',
                      **sync(disk, images, 'n', 'o1')),
               action('blockdev-snapshot-sync',
                      **sync(disk, images, 'o1', 'o2'))]
    if not disk.is_qemu:        # 7.2 fails an assertion
        graph = disk.graph()
        transact(disk, *actions, action('abort'), desc=ABORTED)
        assert disk.graph() == graph
    transact(disk, *actions)
    assert chain_of(disk, 'o2') == ['o2', 'o1', 'n']
    nodes = disk.nodes()
    assert nodes['o2']['file'] == images.path('o2.qcow2')
    assert nodes['o2']['image']['backing-filename'] == \
        images.path('o1.qcow2')
    assert nodes['o1']['ro'] and nodes['n']['ro']
    disk.guest.random_writes(10)
    disk.guest.verify()
    disk.quit()
    same_bytes(images.content(images.path('o1.qcow2')), before)


def test_twice_the_same(disk, images):
    first = sync(disk, images, 'n', 'o1')
    graph = disk.graph()
    transact(disk, action('blockdev-snapshot-sync', **first),
             action('blockdev-snapshot-sync', **dict(
                 first, snapshot_node_name='o2',
                 snapshot_file=images.path('o2.qcow2'))),
             desc="Node 'n' is busy: node is used as backing hd of 'o1'")
    assert disk.graph() == graph
    disk.guest.verify()


@pytest.mark.parametrize('kind,data', [
    ('blockdev-snapshot', {'node': 'n', 'overlay': 'o'}),
    ('blockdev-snapshot-sync', {'device': 'n', 'snapshot-file': 'x'}),
    ('blockdev-snapshot-internal-sync', {'device': 'n', 'name': 'x'}),
])
def test_not_grouped(server, kind, data):
    server.fails('transaction', {
        'actions': [{'type': kind, 'data': data}],
        'properties': {'completion-mode': 'grouped'}},
        f"Action '{kind}' does not support Transaction property "
        'completion-mode = grouped')


def test_with_bitmaps(disk, images):
    """iotest 254: bitmaps move to the overlay with the snapshot."""
    disk.qmp('block-dirty-bitmap-add', node='n', name='b', granularity=65536)
    add_overlay(disk, images, 'o')
    disk.guest.random_writes(4)
    count = disk.nodes()['n']['dirty-bitmaps'][0]['count']
    assert count
    transact(disk,
             action('blockdev-snapshot', node='n', overlay='o'),
             action('block-dirty-bitmap-add', node='o', name='b',
                    granularity=65536),
             action('block-dirty-bitmap-merge', node='o', target='b',
                    bitmaps=[{'node': 'n', 'name': 'b'}]),
             action('block-dirty-bitmap-remove', node='n', name='b'))
    nodes = disk.nodes()
    assert 'dirty-bitmaps' not in nodes['n']
    assert nodes['o']['dirty-bitmaps'][0]['count'] == count
    disk.guest.fill(0, SIZE, 7)
    assert disk.nodes()['o']['dirty-bitmaps'][0]['count'] == SIZE


def test_with_a_backup(disk, images):
    """A backup of the content at the moment of the snapshot."""
    disk.add_node('dst', images.create('dst.qcow2', SIZE))
    before = disk.guest.freeze()
    transact(disk,
             action('blockdev-snapshot-sync', **sync(disk, images, 'n', 'o')),
             action('blockdev-backup', device='o', target='dst',
                    sync='full', job_id='job', auto_dismiss=True))
    disk.guest.random_writes(20)
    disk.wait_event('BLOCK_JOB_COMPLETED', {'device': 'job'})
    disk.wait_event('JOB_STATUS_CHANGE', {'id': 'job', 'status': 'null'})
    disk.guest.verify()
    disk.quit()
    same_bytes(images.content(images.path('dst.qcow2')), before)


# Internal

@pytest.fixture
def image(server, images):
    server.add_node('n', images.create('n.qcow2', SIZE))
    return server


def names(server, node='n'):
    snapshots = server.nodes()[node]['image'].get('snapshots', [])
    return [s['name'] for s in snapshots]


def internal(name, device='n'):
    return action('blockdev-snapshot-internal-sync', device=device, name=name)


def test_internal(disk, images):
    moments = {}
    for name in ('one', 'two'):
        disk.guest.random_writes(10)
        moments[name] = disk.guest.freeze()
        disk.qmp('blockdev-snapshot-internal-sync', device='n', name=name)
    disk.guest.random_writes(10)
    disk.guest.verify()
    assert names(disk) == ['one', 'two']
    first = disk.nodes()['n']['image']['snapshots'][0]
    assert first['id'] == '1' and first['vm-state-size'] == 0
    disk.quit()
    for name, content in moments.items():
        qemu_img('convert', '-l', f'snapshot.name={name}', '-O', 'raw',
                 disk.disk_path, images.path(f'{name}.raw'))
        same_bytes(images.content(images.path(f'{name}.raw'), 'raw'), content)
    same_bytes(images.content(disk.disk_path), bytes(disk.guest.model))


def test_internal_refused(image, images):
    image.add_node('r', images.create('r.raw', SIZE, 'raw'), 'raw')
    image.add_node('ro', images.create('ro.qcow2', SIZE), read_only=True)
    image.qmp('blockdev-snapshot-internal-sync', device='n', name='x')

    def refused(desc, device, name):
        image.fails('blockdev-snapshot-internal-sync', device=device,
                    name=name, desc=desc)
        assert names(image) == ['x']

    refused("Cannot find device='nope' nor node-name='nope'", 'nope', 'x')
    refused('Name is empty', 'n', '')
    refused("Snapshot with name 'x' already exists on device 'n'", 'n', 'x')
    refused("Block format 'raw' used by device 'r' does not support internal "
            'snapshots', 'r', '')
    refused("Device 'ro' is read only", 'ro', '')
    image.qmp('blockdev-snapshot-internal-sync', device='n', name='1')
    assert names(image) == ['x', '1']


def test_internal_delete(image, images):
    image.add_node('r', images.create('r.raw', SIZE, 'raw'), 'raw')
    for name in ('x', 'y', 'z'):
        image.qmp('blockdev-snapshot-internal-sync', device='n', name=name)

    def refused(desc, **arguments):
        image.fails('blockdev-snapshot-delete-internal-sync', desc=desc,
                    **dict({'device': 'n'}, **arguments))
        assert names(image) == ['x', 'y', 'z']

    text = "Snapshot with id '{}' and name '{}' does not exist on device 'n'"
    refused('Name or id must be provided')
    refused("Cannot find device='nope' nor node-name='nope'", device='nope',
            name='x')
    refused(text.format('null', 'q'), name='q')
    refused(text.format('77', 'null'), id='77')
    refused(text.format('1', 'y'), id='1', name='y')
    refused(text.format('', 'null'), id='')
    refused(text.format('null', ''), name='')
    refused('Failed to get a snapshot list: Operation not supported',
            device='r', name='x')
    shown = image.nodes()['n']['image']['snapshots'][0]
    assert image.qmp('blockdev-snapshot-delete-internal-sync', device='n',
                     id='1', name='x') == shown
    image.qmp('blockdev-snapshot-delete-internal-sync', device='n', id='2')
    image.qmp('blockdev-snapshot-delete-internal-sync', device='n', name='z')
    assert names(image) == []


def test_internal_delete_read_only(server, images):
    path = images.create('n.qcow2', SIZE)
    images.io(path, 'write 0 64k')
    qemu_img('snapshot', '-c', 'x', path)
    server.add_node('n', path, read_only=True)
    server.fails('blockdev-snapshot-delete-internal-sync', device='n',
                 name='x', desc='Failed to remove snapshot from snapshot '
                 'list: Operation not permitted')
    if not server.is_qemu:      # it forgets the snapshot until it opens again
        assert names(server) == ['x']


def test_internal_needs_a_root(disk, images):
    add_overlay(disk, images, 'o')
    disk.qmp('blockdev-snapshot', node='n', overlay='o')
    for command in ('blockdev-snapshot-internal-sync',
                    'blockdev-snapshot-delete-internal-sync'):
        disk.fails(command, device='n', name='x',
                   desc='Need a root block node')


def test_internal_through_raw(server, images):
    """A layer that shows another's data has its snapshots."""
    server.add_node('q', images.create('q.qcow2', SIZE))
    server.qmp('blockdev-add', driver='raw', node_name='n', file='q')
    server.qmp('blockdev-snapshot-internal-sync', device='n', name='x')
    assert names(server, 'q') == names(server, 'n') == ['x']
    server.qmp('blockdev-snapshot-delete-internal-sync', device='n',
               name='x')
    assert names(server, 'q') == names(server, 'n') == []
    server.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'q', 'read-only': True,
        'file': {'driver': 'file', 'filename': images.path('q.qcow2')}}])
    server.fails('blockdev-snapshot-internal-sync', device='n', name='x',
                 desc="Block format 'raw' used by device 'n' does not support "
                 'internal snapshots')


def frozen_chain(server, images):
    """cor -> top -> mid -> base, the links of the first two frozen."""
    for name, below in (('base', None), ('mid', 'base'), ('top', 'mid')):
        path = images.create(f'{name}.qcow2', SIZE)
        server.add_node(name, path, backing=below)
    server.qmp('blockdev-add', driver='copy-on-read', node_name='cor',
               file='top', bottom='mid')


def test_frozen_links(server, images):
    """Whatever would move a link that something counts on is refused, and
    nothing has changed."""
    frozen_chain(server, images)
    add_overlay(server, images, 'o')
    add_overlay(server, images, 'target')
    before = server.graph()
    text = "Cannot change 'file' link to 'top'"
    server.fails('blockdev-snapshot', node='top', overlay='o', desc=text)
    server.fails('blockdev-snapshot-sync', desc=text,
                 **sync(server, images, 'top', 'new'))
    server.fails('transaction', actions=[
        {'type': 'blockdev-snapshot', 'data': {'node': 'cor', 'overlay': 'o'}},
        {'type': 'blockdev-snapshot',
         'data': {'node': 'top', 'overlay': 'target'}}], desc=text)
    server.fails('blockdev-backup', job_id='j', device='top', target='target',
                 sync='none', desc=['Could not replace node: ' + text,
                                    'Could not create node: ' + text])
    for name, bottom in (('cor2', 'mid'), ('cor3', 'base')):
        server.fails('blockdev-add', driver='copy-on-read', node_name=name,
                     file='top', bottom=bottom,
                     desc="Cannot change 'backing' link from 'top' to 'mid'")
    assert server.graph() == before
    # Above and below them the graph is free to change.
    server.qmp('blockdev-snapshot', node='cor', overlay='o')
    server.qmp('blockdev-del', node_name='o')
    server.qmp('blockdev-del', node_name='cor')
    server.qmp('blockdev-snapshot', node='top', overlay='target')
    assert chain_of(server, 'target') == ['target', 'top', 'mid', 'base']


def test_odd_length(server, images):
    """An overlay is a whole number of sectors long."""
    server.add_node('low', images.create('low.raw', '4k', 'raw'), 'raw')
    server.qmp('blockdev-add', driver='raw', node_name='n', file='low',
               offset=1)
    server.export('n')
    server.qmp('blockdev-snapshot-sync', **sync(server, images, 'n', 'o'))
    assert server.nodes()['o']['image']['virtual-size'] == 4096


def test_internal_in_transactions(image, images):
    image.add_node('m', images.create('m.qcow2', SIZE))
    transact(image, internal('a'), internal('b'), internal('c', 'm'))
    assert names(image) == ['a', 'b'] and names(image, 'm') == ['c']
    transact(image, internal('d'), internal('d', 'm'), action('abort'),
             desc=ABORTED)
    transact(image, internal('e'), internal('e'),
             desc="Snapshot with name 'e' already exists on device 'n'")
    transact(image, internal('f', 'm'), internal(''), desc='Name is empty')
    transact(image, internal('f', 'nope'),
             desc="Cannot find device='nope' nor node-name='nope'")
    assert names(image) == ['a', 'b'] and names(image, 'm') == ['c']


# change-backing-file

def test_change_backing_file(server, images):
    base = images.create('base.qcow2', SIZE)
    top = images.create('top.qcow2', SIZE, backing=base)
    server.add_node('n', top)
    mid_name = next(n for n, e in server.nodes().items()
                    if e['file'] == base and e['drv'] == 'qcow2')
    assert server.nodes()['n']['file'] == top
    server.qmp('change-backing-file', device='n', image_node_name='n',
               backing_file='base.qcow2')
    assert images.info(top, '-U')['backing-filename'] == 'base.qcow2'
    assert images.info(top, '-U')['backing-filename-format'] == 'qcow2'
    entry = server.nodes()['n']
    # Another name than that of the node in use: only options say it all.
    assert entry['file'].startswith('json:')
    assert entry['image']['backing-filename'] == 'base.qcow2'
    assert entry['image']['full-backing-filename'] == base
    assert chain_of(server, 'n') == ['n', mid_name]
    server.qmp('change-backing-file', device='n', image_node_name='n',
               backing_file=base)
    assert server.nodes()['n']['file'] == top
    server.qmp('change-backing-file', device='n', image_node_name='n',
               backing_file='')
    assert 'backing-filename' not in images.info(top, '-U')
    assert server.nodes()['n']['file'].startswith('json:')


def test_change_backing_file_of_a_lower_image(server, images):
    base = images.create('base.qcow2', SIZE)
    mid = images.create('mid.qcow2', SIZE, backing=base)
    server.add_node('low', base)
    server.add_node('mid', mid, backing='low', read_only=True)
    server.add_node('n', images.create('top.qcow2', SIZE, backing=mid),
                    backing='mid')
    server.qmp('change-backing-file', device='n', image_node_name='mid',
               backing_file='./base.qcow2')
    assert images.info(mid, '-U')['backing-filename'] == './base.qcow2'
    assert server.nodes()['mid']['ro']


def test_change_backing_file_refused(server, images):
    base = images.create('base.qcow2', SIZE)
    server.add_node('n', images.create('top.qcow2', SIZE, backing=base))
    server.add_node('m', images.create('m.qcow2', SIZE))
    server.add_node('low', images.create('low.qcow2', SIZE))
    server.add_node('ov', images.create('ov.qcow2', SIZE,
                                        backing=images.path('low.qcow2')),
                    backing='low')

    def refused(desc, device, image, name='x'):
        server.fails('change-backing-file', device=device, desc=desc,
                     image_node_name=image, backing_file=name)

    refused("Cannot find device='nope' nor node-name='nope'", 'nope', 'n')
    refused("Cannot find device='' nor node-name='nope'", 'n', 'nope')
    refused('not allowing backing file change on an image without a backing '
            'file', 'n', 'm')
    refused("'m' and image file are not in the same chain", 'm', 'n')
    refused('Need a root block node', 'low', 'low')
    long_name = 'z' * 1024
    error = server.fails('change-backing-file', device='n',
                         image_node_name='n', backing_file=long_name)
    assert error.startswith(
        f"Could not change backing file to '{long_name}'")
    assert images.info(images.path('top.qcow2'),
                       '-U')['backing-filename'] == base


# Stress

@pytest.mark.timeout(120)
def test_snapshots_under_load(disk, images):
    """A guest writes without pause; every image in the chain must hold what
    the guest had written when it was frozen, or a moment of it."""
    guest = disk.guest
    below, moments = 'n', []
    for i in range(24):
        guest.start()
        guest.wait_writes(15)
        if i % 3 == 0:
            transact(disk, action('blockdev-snapshot-sync', **sync(
                disk, images, below, f's{i}')), action('abort'), desc=ABORTED)
        disk.qmp('blockdev-snapshot-sync',
                 **sync(disk, images, below, f's{i}'))
        below = f's{i}'
        guest.wait_writes(5)
        guest.stop()
        guest.verify()
        if i % 6 == 5:
            moments.append((below, guest.freeze()))
            disk.qmp('blockdev-snapshot-sync',
                     **sync(disk, images, below, f't{i}'))
            below = f't{i}'
    assert len(chain_of(disk, below)) == 29
    disk.quit()
    for name, content in moments:
        same_bytes(images.content(images.path(f'{name}.qcow2')), content)
    same_bytes(images.content(images.path(f'{below}.qcow2')),
               bytes(guest.model))


def test_flush_fails(server, images, guest_on):
    """What was written cannot be made safe below: nothing changes."""
    file = {'driver': 'blkdebug',
            'image': {'driver': 'file',
                      'filename': images.create('n.qcow2', SIZE)},
            'inject-error': [{'event': 'flush_to_disk', 'errno': 5,
                              'once': True}]}
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file=file)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.write(0, b'x' * 65536)
    add_overlay(server, images, 'o')
    before = server.graph()
    server.fails('blockdev-snapshot', node='n', overlay='o',
                 desc='An IO error has occurred')
    assert server.graph() == before
    guest.write(65536, b'y' * 65536)
    guest.verify()
    server.qmp('blockdev-snapshot', node='n', overlay='o')
    guest.verify()


def test_as_libvirt_does(server, images, guest_on):
    """Nodes on auto-read-only files, the overlay made by blockdev-create,
    its bitmap in the same transaction; the base's is stored at once."""
    path, new = images.create('n.qcow2', SIZE), images.path('o.qcow2')
    images.adopt(new)
    with open(new, 'wb'):
        pass
    for name, file in (('n', path), ('o', new)):
        server.qmp('blockdev-add', driver='file', node_name=f'{name}-storage',
                   filename=file, auto_read_only=True, discard='unmap')
    server.qmp('blockdev-add', driver='qcow2', node_name='n',
               read_only=False, file='n-storage', backing=None)
    server.qmp('block-dirty-bitmap-add', node='n', name='ck',
               persistent=True)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.random_writes(10)
    server.qmp('blockdev-create', job_id='create', options={
        'driver': 'qcow2', 'file': 'o-storage', 'size': SIZE,
        'cluster-size': 65536, 'backing-file': path, 'backing-fmt': 'qcow2'})
    server.wait_event('JOB_STATUS_CHANGE',
                      {'id': 'create', 'status': 'concluded'})
    server.qmp('job-dismiss', id='create')
    server.qmp('blockdev-add', driver='qcow2', node_name='o',
               read_only=False, file='o-storage', backing=None)
    transact(server,
             action('block-dirty-bitmap-add', node='o', name='ck',
                    persistent=True, granularity=65536),
             action('blockdev-snapshot', node='n', overlay='o'))
    guest.random_writes(10)
    guest.verify()
    nodes = server.nodes()
    assert nodes['n']['ro'] and not nodes['n-storage']['ro']
    assert not nodes['o']['ro'] and nodes['o']['file'] == new
    assert nodes['n']['dirty-bitmaps'][0]['persistent']
    flags = images.info(path, '-U')['format-specific']['data']['bitmaps']
    assert [b['flags'] for b in flags] == [['auto']]
    assert nodes['o']['dirty-bitmaps'][0]['count'] > 0
    server.quit()
    same_bytes(images.content(new), bytes(guest.model))
