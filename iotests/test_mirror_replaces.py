# SPDX-License-Identifier: MIT
"""`replaces`: the copy takes the place of another node than the source."""

import os

import pytest

from .images import same_bytes
from .mirrors import blockdev_mirror, drive_mirror, mirror_arguments

MIB = 1 << 20
SIZE = 4 * MIB

CANNOT = ("Cannot replace '%s' by a node mirrored from '%s', because it cannot "
          'be guaranteed that doing so would not lead to an abrupt change of '
          'visible data')
CAN_NO_LONGER = ("Can no longer replace '%s' by '%s', because it can no longer "
                 'be guaranteed that doing so would not lead to an abrupt '
                 'change of visible data')


def children_of(server, node):
    """{name of the link: node} in the graph."""
    graph = server.qmp('x-debug-query-block-graph')
    names = {entry['id']: entry['name'] for entry in graph['nodes']}
    ids = {entry['name']: entry['id'] for entry in graph['nodes']}
    return {edge['name']: names[edge['child']] for edge in graph['edges']
            if edge['parent'] == ids[node]}


@pytest.fixture
def quorum(server, images, guest_on):
    """'q' of 'c0', 'c1', 'c2', the last of which has gone bad, and a guest
    at it."""
    data = os.urandom(SIZE)
    for i in range(3):
        path = images.write_raw(f'c{i}.raw',
                                data if i < 2 else b'bad!' * (SIZE // 4))
        server.add_node(f'c{i}', path, driver='raw')
    server.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 2,
        'children': ['c0', 'c1', 'c2']})
    server.export('q')
    guest = guest_on(server, 'q')
    server.mon.drop_events()
    return guest


def test_quorum_child_repaired(server, images, quorum):
    """The bad child goes, the copy votes in its place [041]."""
    path = images.adopt(images.path('new.qcow2'))
    job = drive_mirror(server, 'q', path, format='qcow2', node_name='new',
                       replaces='c2').ready()
    quorum.random_writes(20)
    job.complete()
    assert children_of(server, 'q') == {
        'children.0': 'c0', 'children.1': 'c1', 'children.2': 'new'}
    server.mon.pump()
    server.mon.drop_events()
    quorum.random_writes(20)
    quorum.verify()
    assert not [e for e in server.mon.pump()
                if e['event'] == 'QUORUM_REPORT_BAD']
    server.stop()
    wanted = quorum.freeze()
    same_bytes(images.content(path), wanted)
    for i in range(2):
        same_bytes(images.content(images.path(f'c{i}.raw')), wanted)


def test_quorum_child_repaired_by_node(server, images, quorum):
    path = images.create('new.raw', SIZE, fmt='raw')
    server.add_node('new', path, driver='raw')
    job = blockdev_mirror(server, 'q', 'new', replaces='c2',
                          filter_node_name='mirror').ready()
    quorum.random_writes(20)
    job.complete()
    assert children_of(server, 'q')['children.2'] == 'new'
    server.qmp('blockdev-del', node_name='c2')
    quorum.random_writes(20)
    quorum.verify()
    server.stop()
    same_bytes(images.content(path), quorum.freeze())


def test_quorum_child_kept_without_completion(server, images, quorum):
    graph = server.graph()
    path = images.adopt(images.path('new.qcow2'))
    drive_mirror(server, 'q', path, format='qcow2', node_name='new',
                 replaces='c2').ready().keep()
    assert server.graph() == graph
    same_bytes(images.content(path), quorum.freeze())


def test_node_name_is_needed(server, images, quorum):
    path = images.path('new.qcow2')
    graph = server.graph()
    server.fails('drive-mirror', mirror_arguments(
        'q', path, format='qcow2', replaces='c2'),
        'a node-name must be provided when replacing a named node of the '
        'graph')
    assert not os.path.exists(path)
    assert server.graph() == graph


def test_no_such_node(server, images, quorum):
    path = images.path('new.qcow2')
    server.fails('drive-mirror', mirror_arguments(
        'q', path, format='qcow2', node_name='new', replaces='nosuch'),
        "Failed to find node with node-name='nosuch'")
    assert server.is_qemu or not os.path.exists(path)


def add_target(server, images, name='new'):
    server.add_node(name, images.create(f'{name}.qcow2', SIZE))


@pytest.mark.parametrize('replaced', ['other', 'new'])
def test_other_data(server, images, quorum, replaced):
    """What has nothing to do with the source would change at once."""
    add_target(server, images)
    add_target(server, images, 'other')
    server.fails('blockdev-mirror', mirror_arguments(
        'q', 'new', replaces=replaced), CANNOT % (replaced, 'q'))


def test_child_that_others_see(server, images, quorum):
    """They would see the bad data change."""
    add_target(server, images)
    server.export('c2', writable=False)
    server.fails('blockdev-mirror', mirror_arguments(
        'q', 'new', replaces='c2'), CANNOT % ('c2', 'q'))
    server.unexport('c2')
    blockdev_mirror(server, 'q', 'new', replaces='c2').ready().complete()
    assert children_of(server, 'q')['children.2'] == 'new'


def test_file_of_a_child(server, images, quorum):
    """Below a format it is another kind of data."""
    server.add_file('f', images.create('f.raw', SIZE, fmt='raw'))
    server.add_file('g', images.create('g.raw', SIZE, fmt='raw'))
    server.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r',
                                'offset': 0, 'file': 'f'})
    server.fails('blockdev-mirror', mirror_arguments(
        'r', 'g', replaces='f'), CANNOT % ('f', 'r'))


def test_child_that_others_see_later(server, images, quorum):
    """Asked again at the end: the job fails, the graph stays as it is."""
    add_target(server, images)
    job = blockdev_mirror(server, 'q', 'new', replaces='c2').ready()
    server.export('c2', writable=False)
    children = children_of(server, 'q')
    server.qmp('block-job-complete', device='mirror')
    assert job.error() == 'Operation not permitted'
    assert CAN_NO_LONGER % ('c2', 'new') in server.stderr()
    assert children_of(server, 'q') == children
    job.dismiss()
    server.unexport('c2')
    quorum.random_writes(20)
    quorum.verify()


def test_child_that_has_gone(server, images, quorum):
    add_target(server, images)
    job = blockdev_mirror(server, 'q', 'new', replaces='c2').ready()
    server.qmp('x-blockdev-change', parent='q', child='children.2')
    server.qmp('blockdev-del', node_name='c2')
    server.fails('block-job-complete', device='mirror',
                 desc="Node name 'c2' not found")
    job.keep()
    quorum.random_writes(20)
    quorum.verify()


def test_child_that_is_another_ones_now(server, images, quorum):
    """It has left the quorum; a node of that name is elsewhere."""
    add_target(server, images)
    job = blockdev_mirror(server, 'q', 'new', replaces='c2').ready()
    server.qmp('x-blockdev-change', parent='q', child='children.2')
    server.qmp('block-job-complete', device='mirror')
    assert job.error() == 'Operation not permitted'
    assert CAN_NO_LONGER % ('c2', 'new') in server.stderr()
    job.dismiss()
    quorum.random_writes(20)
    quorum.verify()


@pytest.fixture
def filtered(server, images, guest_on):
    """'src' below a throttle filter 'top' with a guest at it."""
    path = images.create('src.qcow2', SIZE)
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
    server.add_node('src', path)
    server.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 'top',
                                'throttle-group': 'g', 'file': 'src'})
    server.export('top')
    guest = guest_on(server, 'top')
    guest.random_writes(20)
    return guest


def test_below_a_filter(server, images, filtered):
    """The filter stays, and has the copy below."""
    add_target(server, images)
    job = blockdev_mirror(server, 'top', 'new', replaces='src').ready()
    filtered.random_writes(20)
    job.complete()
    assert children_of(server, 'top') == {'file': 'new'}
    filtered.random_writes(20)
    filtered.verify()
    server.qmp('blockdev-del', node_name='src')
    server.stop()
    same_bytes(images.content(images.path('new.qcow2')), filtered.freeze())


def test_source_itself(server, images, filtered):
    add_target(server, images)
    job = blockdev_mirror(server, 'top', 'new', replaces='top').ready()
    filtered.random_writes(20)
    job.complete()
    filtered.random_writes(20)
    filtered.verify()
    server.qmp('blockdev-del', node_name='top')
    server.stop()
    same_bytes(images.content(images.path('new.qcow2')), filtered.freeze())


def test_backing_of_the_source(server, images):
    base = images.create('base.qcow2', SIZE)
    server.add_node('base', base, read_only=True)
    server.add_node('src', images.create('src.qcow2', SIZE, backing=base),
                    backing='base')
    add_target(server, images)
    server.fails('blockdev-mirror', mirror_arguments(
        'src', 'new', replaces='base'),
        "Node 'base' is busy: node is used as backing hd of 'src'")


def test_in_use_by_a_job(server, images, quorum):
    add_target(server, images)
    add_target(server, images, 'more')
    server.add_node('x', images.create('x.qcow2', SIZE))
    job = blockdev_mirror(server, 'x', 'more', job_id='first').ready()
    server.fails('blockdev-mirror', mirror_arguments(
        'q', 'new', replaces='x'),
        "Node 'x' is busy: block device is in use by block job: mirror")
    job.drop()


@pytest.mark.ours('QEMU ends with success and replaces nothing')
def test_new_image_over_the_source(server, images, quorum):
    """sync=none: what has the quorum below it cannot be its child."""
    graph = server.graph()
    path = images.path('new.qcow2')
    server.fails('drive-mirror', mirror_arguments(
        'q', path, format='qcow2', node_name='new', sync='none',
        replaces='c2'),
        "With sync mode 'none' a new image has 'q' as backing file and cannot "
        "replace 'c2'")
    assert server.graph() == graph
    assert not os.path.exists(path)
