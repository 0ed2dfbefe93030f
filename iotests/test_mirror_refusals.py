# SPDX-License-Identifier: MIT
"""What drive-mirror, blockdev-mirror and block-job-change refuse, with which
words, and that nothing is left of it."""

import os

import pytest

from .images import same_bytes
from .mirrors import Mirror, blockdev_mirror, drive_mirror, mirror_arguments

MIB = 1 << 20
SIZE = 4 * MIB

RANGE = "Parameter 'granularity' expects a value in range [512B, 64MB]"
POWER = "Parameter 'granularity' expects a power of 2"

# Arguments of either command, and the text.
ARGUMENTS = [
    ({'granularity': 1}, RANGE), ({'granularity': 511}, RANGE),
    ({'granularity': (64 * MIB) + 1}, RANGE),
    ({'granularity': 128 * MIB}, RANGE), ({'granularity': 1 << 31}, RANGE),
    ({'granularity': 513}, POWER), ({'granularity': 65535}, POWER),
    ({'granularity': -1}, "Parameter 'granularity' expects uint32_t"),
    ({'granularity': 1 << 32}, "Parameter 'granularity' expects uint32_t"),
    ({'buf-size': -1}, "Invalid parameter 'buf-size'"),
    ({'speed': -1}, "Parameter 'speed' expects a non-negative value"),
    ({'job-id': ''}, "Invalid job ID ''"),
    ({'job-id': '1x'}, "Invalid job ID '1x'"),
    ({'job-id': 'a/b'}, "Invalid job ID 'a/b'"),
    ({'job-id': 'other'}, "Job ID 'other' already in use"),
    ({'device': 'nosuch'},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({'device': 'base'}, 'Need a root block node'),
    ({'sync': 'nosuch'}, "Parameter 'sync' does not accept value 'nosuch'"),
    ({'copy-mode': 'nosuch'},
     "Parameter 'copy-mode' does not accept value 'nosuch'"),
    ({'on-source-error': 'x'},
     "Parameter 'on-source-error' does not accept value 'x'"),
    ({'on-target-error': 'x'},
     "Parameter 'on-target-error' does not accept value 'x'"),
    ({'nosuch': 1}, "Parameter 'nosuch' is unexpected"),
]

# The first thing that is wrong is told.
ORDER = [
    ({'device': 'nosuch', 'target': 'nosuch2'},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({'device': 'base', 'target': 'nosuch'}, 'Need a root block node'),
    ({'target': 'nosuch', 'granularity': 3},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({'granularity': 3, 'sync': 'incremental'}, RANGE),
    ({'granularity': 3, 'replaces': 'nosuch'}, RANGE),
    ({'replaces': 'nosuch', 'sync': 'incremental'},
     "Failed to find node with node-name='nosuch'"),
    ({'replaces': 'nosuch', 'buf-size': -1},
     "Failed to find node with node-name='nosuch'"),
    ({'sync': 'incremental', 'buf-size': -1},
     "Sync mode 'incremental' not supported"),
    ({'sync': 'bitmap', 'target': 'src'}, "Sync mode 'bitmap' not supported"),
    ({'buf-size': -1, 'target': 'src'}, "Invalid parameter 'buf-size'"),
    ({'buf-size': -1, 'speed': -1}, "Invalid parameter 'buf-size'"),
    ({'buf-size': -1, 'job-id': '1'}, "Invalid parameter 'buf-size'"),
    ({'target': 'src', 'job-id': '1'}, "Can't mirror node into itself"),
    ({'target': 'src', 'filter-node-name': '1'},
     "Can't mirror node into itself"),
    ({'filter-node-name': '/', 'job-id': '1'}, "Invalid node-name: '/'"),
    ({'job-id': '1', 'speed': -1}, "Invalid job ID '1'"),
    ({'job-id': 'other', 'target': 'readonly'},
     "Job ID 'other' already in use"),
]


def show(value):
    return ','.join(f'{k}={v}' for k, v in value.items()) \
        if isinstance(value, dict) else ''


@pytest.fixture
def nodes(server, images, guest_on):
    """'src' over 'base', targets 'dst' and 'readonly', a job 'other' from
    'x' to 'y', and a guest at 'src'."""
    base = images.create('base.qcow2', SIZE)
    server.add_node('base', base, read_only=True)
    server.add_node('src', images.create('src.qcow2', SIZE, backing=base),
                    backing='base')
    for name in ('dst', 'x', 'y'):
        server.add_node(name, images.create(f'{name}.qcow2', SIZE))
    server.add_node('readonly', images.create('readonly.qcow2', SIZE),
                    read_only=True)
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(20)
    blockdev_mirror(server, 'x', 'y', job_id='other').ready()
    server.mon.drop_events()
    return guest


def refused(server, guest, command, arguments, text):
    """With the graph as it was, and the guest undisturbed."""
    graph = server.graph()
    jobs = server.qmp('query-jobs')
    server.fails(command, arguments, text)
    assert server.graph() == graph
    assert server.qmp('query-jobs') == jobs
    guest.random_writes(5)
    guest.verify()


def changed(arguments, change):
    return {k: v for k, v in {**arguments, **change}.items() if v is not None}


@pytest.mark.parametrize('change,text', ARGUMENTS, ids=show)
@pytest.mark.parametrize('command', ['drive-mirror', 'blockdev-mirror'])
def test_argument(server, images, nodes, command, change, text):
    path = images.path('new.qcow2')
    target = path if command == 'drive-mirror' else 'dst'
    refused(server, nodes, command,
            changed(mirror_arguments('src', target), change), text)
    assert server.is_qemu or not os.path.exists(path)


@pytest.mark.parametrize('change,text', ORDER, ids=show)
def test_first_of_two(server, nodes, change, text):
    refused(server, nodes, 'blockdev-mirror',
            changed(mirror_arguments('src', 'dst'), change), text)


@pytest.mark.parametrize('sync', ['incremental', 'bitmap'])
@pytest.mark.parametrize('command', ['drive-mirror', 'blockdev-mirror'])
def test_bitmap_modes(server, images, nodes, command, sync):
    target = 'dst' if command == 'blockdev-mirror' else images.ignore(
        images.path('new.qcow2'))
    refused(server, nodes, command, mirror_arguments('src', target, sync=sync),
            f"Sync mode '{sync}' not supported")


@pytest.mark.parametrize('missing,text', [
    ('device', "Parameter 'device' is missing"),
    ('target', "Parameter 'target' is missing"),
    ('sync', "Parameter 'sync' is missing")])
@pytest.mark.parametrize('command', ['drive-mirror', 'blockdev-mirror'])
def test_missing(server, nodes, command, missing, text):
    refused(server, nodes, command,
            changed(mirror_arguments('src', 'dst'), {missing: None}), text)


def test_job_id_is_needed_for_a_node(server, images, nodes):
    refused(server, nodes, 'blockdev-mirror', changed(
        mirror_arguments('src', 'dst'), {'job-id': None}),
        "Invalid job ID ''")


# Targets of blockdev-mirror

@pytest.mark.parametrize('change,text', [
    ({'target': 'nosuch'},
     "Cannot find device='nosuch' nor node-name='nosuch'"),
    ({'target': 'src'}, "Can't mirror node into itself"),
    ({'target': 'base'},
     "Node 'base' is busy: node is used as backing hd of 'src'"),
    ({'target': 'readonly'}, 'Block node is read-only'),
    ({'target': 'y'},
     "Node 'y' is busy: block device is in use by block job: mirror"),
    ({'target': 'x'},
     "Node 'x' is busy: block device is in use by block job: mirror"),
    ({'device': 'x'}, 'Need a root block node'),
    ({'device': 'y'}, 'Need a root block node'),
    ({'filter-node-name': 'dst'}, "Duplicate nodes with node-name='dst'"),
    ({'filter-node-name': 'a/b'}, "Invalid node-name: 'a/b'"),
    ({'filter-node-name': 'n' * 32}, 'Node name too long'),
], ids=show)
def test_node(server, nodes, change, text):
    refused(server, nodes, 'blockdev-mirror',
            changed(mirror_arguments('src', 'dst'), change), text)


@pytest.mark.parametrize('writable', [True, False])
def test_target_that_others_use(server, nodes, writable):
    """Nobody may read or write it."""
    server.export('dst', writable=writable)
    graph = server.graph()
    text = server.fails('blockdev-mirror', mirror_arguments('src', 'dst'))
    what = 'consistent read, write' if writable else 'consistent read'
    assert text.startswith(
        f"Permission conflict on node 'dst': permissions '{what}' are both "
        'required by ')
    assert server.graph() == graph


@pytest.mark.parametrize('command,arguments,text', [
    ('blockdev-del', {'node-name': 'dst'}, [
        'Node dst is in use',
        "Node 'dst' is busy: block device is in use by block job: mirror"]),
    ('blockdev-del', {'node-name': 'src'},
     "Node 'src' is busy: block device is in use by block job: mirror"),
    ('blockdev-snapshot', {'node': 'src', 'overlay': 'over'},
     "Node 'src' is busy: block device is in use by block job: mirror"),
    ('blockdev-mirror', mirror_arguments('src', 'over', job_id='second'),
     'Need a root block node'),
    ('blockdev-mirror', mirror_arguments('over', 'dst', job_id='second'),
     "Node 'dst' is busy: block device is in use by block job: mirror"),
    ('blockdev-mirror', mirror_arguments('over', 'src', job_id='second'),
     "Node 'src' is busy: block device is in use by block job: mirror"),
    ('blockdev-backup', {'device': 'src', 'target': 'over', 'sync': 'full',
                         'job-id': 'second'},
     "Node 'src' is busy: block device is in use by block job: mirror"),
], ids=str)
def test_while_it_runs(server, images, nodes, command, arguments, text):
    over = images.create('over.qcow2', SIZE)
    server.add_node('over', over, backing=None)
    job = blockdev_mirror(server, 'src', 'dst').ready()
    refused(server, nodes, command, arguments, text)
    job.complete()
    nodes.verify()


@pytest.mark.parametrize('node', ['src', 'dst', 'base'])
def test_resize_while_it_runs(server, nodes, node):
    job = blockdev_mirror(server, 'src', 'dst').ready()
    server.fails('block_resize', node_name=node, size=2 * SIZE)
    job.complete()
    nodes.verify()


@pytest.mark.parametrize('writable', [True, False])
def test_target_is_nobody_elses(server, nodes, writable):
    job = blockdev_mirror(server, 'src', 'dst').ready()
    text = server.fails('block-export-add', {
        'type': 'nbd', 'id': 'late', 'node-name': 'dst',
        'writable': writable})
    what = 'consistent read, write' if writable else 'consistent read'
    assert text.startswith(
        f"Permission conflict on node 'dst': permissions '{what}' are both "
        'required by ')
    job.complete()
    nodes.verify()


# Targets of drive-mirror

@pytest.mark.parametrize('change,text', [
    ({'format': 'nosuch'}, "Unknown file format 'nosuch'"),
    ({'format': 'nosuch', 'mode': 'existing'}, "Unknown driver 'nosuch'"),
    ({'mode': 'nosuch'}, "Parameter 'mode' does not accept value 'nosuch'"),
    ({'node-name': 'dst'}, "Duplicate nodes with node-name='dst'"),
    ({'node-name': 'a/b'}, "Invalid node-name: 'a/b'"),
    ({'node-name': 'n' * 32}, 'Node name too long'),
    ({'target': '/nonexistent/x'},
     "Could not create '/nonexistent/x': No such file or directory"),
    ({'target': '/nonexistent/x', 'mode': 'existing', 'format': 'raw'},
     "Could not open '/nonexistent/x': No such file or directory"),
    ({'target': '/nonexistent/x', 'mode': 'existing'},
     "Could not open '/nonexistent/x': No such file or directory"),
    ({'target': 'foo:bar'}, "Unknown protocol 'foo'"),
    ({'target': 'foo:bar', 'mode': 'existing'}, "Unknown protocol 'foo'"),
    ({'target': ''}, "Could not create '': No such file or directory"),
    ({'filter-node-name': 'f'}, "Parameter 'filter-node-name' is unexpected"),
    ({'target-is-zero': True}, "Parameter 'target-is-zero' is unexpected"),
], ids=show)
def test_file(server, images, nodes, change, text):
    path = images.path('new.qcow2')
    refused(server, nodes, 'drive-mirror', changed(
        mirror_arguments('src', path), change), text)
    assert server.is_qemu or not os.path.exists(path)


@pytest.mark.parametrize('mode', ['absolute-paths', 'existing'])
@pytest.mark.parametrize('name', ['src', 'dst', 'base'])
def test_file_that_is_open(server, images, nodes, mode, name):
    """Its data is not touched."""
    refused(server, nodes, 'drive-mirror', mirror_arguments(
        'src', images.path(f'{name}.qcow2'), mode=mode),
        'Failed to get "write" lock')


@pytest.mark.parametrize('driver', ['raw', 'qcow2'])
def test_target_below_the_source(server, images, driver):
    """What the source is made of."""
    path = images.create('img', SIZE, fmt=driver)
    server.add_file('f', path)
    server.qmp('blockdev-add', {'driver': driver, 'node-name': 'n',
                                'file': 'f'})
    server.export('n')
    graph = server.graph()
    server.fails('blockdev-mirror', mirror_arguments('n', 'f'))
    assert server.graph() == graph


@pytest.mark.parametrize('driver', ['raw', 'throttle'])
def test_target_below_an_unused_source(server, images, driver):
    path = images.write_raw('img', os.urandom(SIZE))
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    server.add_file('f', path)
    node = {'driver': driver, 'node-name': 'n', 'file': 'f'}
    if driver == 'throttle':
        node['throttle-group'] = 'g'
    server.qmp('blockdev-add', node)
    graph = server.graph()
    server.fails('blockdev-mirror', mirror_arguments('n', 'f'))
    assert server.graph() == graph


def test_unmap_is_of_drive_mirror(server, nodes):
    refused(server, nodes, 'blockdev-mirror', mirror_arguments(
        'src', 'dst', unmap=True), "Parameter 'unmap' is unexpected")


def test_cannot_be_made_twice(server, images, nodes):
    """The file of a mirror that runs."""
    path = images.adopt(images.path('new.qcow2'))
    server.qmp('block-job-cancel', device='other', force=True)
    job = drive_mirror(server, 'src', path).ready()
    server.fails('drive-mirror', mirror_arguments(
        'dst', path, job_id='second'), 'Failed to get "write" lock')
    nodes.random_writes(20)
    job.complete()
    nodes.verify()
    server.stop()
    same_bytes(images.content(path), nodes.freeze())


# block-job-change

@pytest.mark.ours('since QEMU 8.2')
def test_change_to_write_blocking(server, nodes):
    job = blockdev_mirror(server, 'src', 'dst').ready()
    assert job.block_info()['actively-synced'] is False
    server.qmp('block-job-change', id='mirror', type='mirror',
               copy_mode='write-blocking')
    server.qmp('block-job-change', id='mirror', type='mirror',
               copy_mode='write-blocking')
    nodes.random_writes(50)
    while not job.block_info()['actively-synced']:
        pass
    job.complete()
    nodes.verify()


@pytest.mark.ours('since QEMU 8.2')
def test_change_refused(server, nodes):
    job = blockdev_mirror(server, 'src', 'dst',
                          copy_mode='write-blocking').ready()
    command = 'block-job-change'
    server.fails(command, id='nosuch', type='mirror', cls='DeviceNotActive',
                 copy_mode='background', desc="Block job 'nosuch' not found")
    server.fails(command, id='mirror', type='mirror', copy_mode='background',
                 desc="Change to copy mode 'background' is not implemented")
    server.fails(command, id='mirror', type='mirror',
                 desc="Parameter 'copy-mode' is missing")
    server.fails(command, id='mirror', type='backup',
                 desc="Block job 'mirror' is of type mirror, not backup")
    server.fails(command, id='mirror', type='nosuch')
    server.fails(command, id='mirror', desc="Parameter 'type' is missing")
    job.keep()
    server.fails(command, id='mirror', type='mirror', cls='DeviceNotActive',
                 copy_mode='write-blocking',
                 desc="Block job 'mirror' not found")


@pytest.mark.ours('since QEMU 8.2')
def test_change_of_a_job_that_is_over(server, nodes):
    job = blockdev_mirror(server, 'src', 'dst').ready()
    server.qmp('block-job-cancel', device='mirror')
    job.wait('concluded')
    server.fails('block-job-change', id='mirror', type='mirror',
                 copy_mode='write-blocking',
                 desc="Job 'mirror' in state 'concluded' cannot accept "
                      "command verb 'change'")


@pytest.mark.ours('since QEMU 8.2')
def test_change_of_another_kind(server, images, nodes):
    server.qmp('blockdev-backup', {
        'job-id': 'b', 'device': 'src', 'target': 'dst', 'sync': 'none'})
    server.fails('block-job-change', id='b', type='mirror',
                 copy_mode='write-blocking',
                 desc="Block job 'b' is of type backup, not mirror")
    server.fails('block-job-change', id='b', type='backup',
                 desc='Nothing of a block job of type backup can be changed')
