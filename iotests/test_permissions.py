# SPDX-License-Identifier: MIT
"""Two users of a node that cannot live together: refused, with who and why.

The texts are those of the reference; who asks is told what it needs, who
has it, and through which link.
"""

import pytest

from .nbd import NbdClient

MIB = 1 << 20
ANON = 'an unnamed block device'


def file_of(path, name=None, **options):
    options = {k.replace('_', '-'): v for k, v in options.items()}
    if name:
        options['node-name'] = name
    return dict({'driver': 'file', 'filename': path}, **options)


def qcow2(name, file, **options):
    return dict({'driver': 'qcow2', 'node-name': name, 'file': file},
                **{k.replace('_', '-'): v for k, v in options.items()})


def user(who, node, child):
    """A user as messages have it; `who` a node's name or ANON."""
    who = who if who == ANON else f"node '{who}'"
    return f"{who} (uses node '{node}' as '{child}' child)"


def conflict(node, permissions, needs, denies):
    return (f"Permission conflict on node '{node}': permissions "
            f"'{permissions}' are both required by {user(*needs)} and "
            f"unshared by {user(*denies)}.")


@pytest.fixture
def graph(server, images):
    """top -> base; a (qcow2 over af); raw nodes over r: all of it and a
    window of it."""
    add = lambda options: server.qmp('blockdev-add', options)
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base)
    add(qcow2('base', file_of(base, 'base-f')))
    add(qcow2('top', file_of(top, 'top-f'), backing='base'))
    add(qcow2('a', file_of(images.create('a.qcow2', '4M'), 'af')))
    add(file_of(images.create('r.raw', '4M', fmt='raw'), 'r'))
    add({'driver': 'raw', 'node-name': 'all', 'file': 'r'})
    add({'driver': 'raw', 'node-name': 'window', 'file': 'r', 'size': MIB})
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': server.nbd_path}})
    return server


def refuse(server, desc, command, arguments):
    """Links and permissions stay; a job's bitmaps may go on meanwhile."""
    before = server.graph()[0]
    server.fails(command, arguments, desc)
    assert server.graph()[0] == before


def nbd(node, writable, name=None):
    return {'type': 'nbd', 'id': f'e-{name or node}', 'node-name': node,
            'name': name or node, 'writable': writable}


# Formats and their files


def test_two_formats_on_one_file(graph):
    refuse(graph, conflict('af', 'write, resize', ('a', 'af', 'file'),
                           ('x', 'af', 'file')),
           'blockdev-add', qcow2('x', 'af'))
    refuse(graph, conflict('af', 'write, resize', ('a', 'af', 'file'),
                           ('x', 'af', 'file')),
           'blockdev-add', qcow2('x', 'af', read_only=True))


def test_writer_on_the_file_of_a_format(graph):
    refuse(graph, conflict('af', 'write', (ANON, 'af', 'root'),
                           ('a', 'af', 'file')),
           'block-export-add', nbd('af', True))


def test_reader_on_the_file_of_a_format(graph):
    """An export does not share resize, which the format needs."""
    refuse(graph, conflict('af', 'resize', ('a', 'af', 'file'),
                           (ANON, 'af', 'root')),
           'block-export-add', nbd('af', False))


def test_file_of_a_read_only_format(graph, images):
    path = images.create('b.qcow2', '1M')
    graph.qmp('blockdev-add', qcow2('b', file_of(path, 'bf'),
                                    read_only=True))
    graph.qmp('block-export-add', nbd('bf', False))
    refuse(graph, 'Cannot export read-only node as writable' if
           graph.is_qemu else ['Block node is read-only',
                               'Cannot export read-only node as writable'],
           'block-export-add', nbd('bf', True, 'w'))


def test_format_made_writable_under_a_reader(graph, images):
    """The reader of the file stands in the way of the reopen."""
    path = images.create('b.qcow2', '1M')
    graph.qmp('blockdev-add', file_of(path, 'bf'))
    graph.qmp('blockdev-add', qcow2('b', 'bf', read_only=True))
    graph.qmp('block-export-add', nbd('bf', False))
    refuse(graph, conflict('bf', 'resize', ('b', 'bf', 'file'),
                           (ANON, 'bf', 'root')),
           'blockdev-reopen', {'options': [qcow2('b', 'bf')]})


# Backing nodes


def test_writer_on_a_backing_node_with_a_writer_above(graph):
    """Only while nobody minds may it be written."""
    graph.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'reader',
                               'file': 'top'})
    refuse(graph, "Node 'base' is busy: node is used as backing hd of 'top'"
           if not graph.is_qemu else "Device '(null)' is in use",
           'block_resize', {'node-name': 'base', 'size': 8 * MIB})
    job = {'device': 'top', 'target': 'a', 'sync': 'full', 'job-id': 'j'}
    graph.qmp('block-export-add', nbd('base', True))
    prefix = ('Could not replace node: ' if graph.is_qemu
              else 'Could not create node: ')
    refuse(graph, prefix + conflict(
        'base', 'write', (ANON, 'base', 'root'), ('top', 'base', 'backing')),
        'blockdev-backup', job)


# Sizes


def test_resize_below_who_counts_on_the_size(graph):
    refuse(graph, conflict('af', 'resize', (ANON, 'af', 'root'),
                           ('a', 'af', 'file')),
           'block_resize', {'node-name': 'af', 'size': MIB})
    refuse(graph, conflict('r', 'resize', (ANON, 'r', 'root'),
                           ('window', 'r', 'file')),
           'block_resize', {'node-name': 'r', 'size': 8 * MIB})
    refuse(graph, conflict('r', 'resize', ('all', 'r', 'file'),
                           ('window', 'r', 'file')),
           'block_resize', {'node-name': 'all', 'size': 8 * MIB})
    refuse(graph, 'Cannot resize fixed-size raw disks',
           'block_resize', {'node-name': 'window', 'size': 8 * MIB})


def test_resize_of_an_exported_node(graph):
    graph.qmp('block-export-add', nbd('top', True))
    refuse(graph, conflict('top', 'resize', (ANON, 'top', 'root'),
                           (ANON, 'top', 'root')),
           'block_resize', {'node-name': 'top', 'size': 8 * MIB})


def test_window_reopened_under_a_resizer(graph):
    """A writer past the end needs resize on the file that a window has."""
    graph.qmp('blockdev-del', {'node-name': 'window'})
    graph.qmp('block-export-add', nbd('all', True))
    graph.qmp('blockdev-reopen', {'options': [
        {'driver': 'raw', 'node-name': 'all', 'file': 'r', 'size': MIB}]})
    refuse(graph, conflict('r', 'resize', (ANON, 'r', 'root'),
                           ('all', 'r', 'file')),
           'block_resize', {'node-name': 'r', 'size': 8 * MIB})


# Deleting


def test_delete(graph):
    graph.qmp('block-export-add', nbd('top', False))
    for node, desc in (
            ('top', 'Node top is in use'),
            ('base', "Node 'base' is busy: node is used as backing hd of "
             "'top'"),
            ('af', 'Node af is not owned by the monitor'),
            ('r', 'Block device r is in use'),
            ('x', "Failed to find node with node-name='x'")):
        refuse(graph, desc, 'blockdev-del', {'node-name': node})


# Read-only


def test_writer_on_read_only(graph, images):
    path = images.create('b.raw', '1M', fmt='raw')
    graph.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'b',
                               'file': file_of(path, 'bf', read_only=True),
                               'read-only': True})
    refuse(graph, ['Cannot export read-only node as writable',
                   'Block node is read-only'],
           'block-export-add', nbd('b', True))
    refuse(graph, ['Block node is read-only', 'Image is read-only'],
           'block_resize', {'node-name': 'b', 'size': 2 * MIB})
    refuse(graph, 'Block node is read-only', 'blockdev-add',
           qcow2('q', 'bf'))
    graph.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'c',
                               'file': 'bf', 'read-only': True})
    graph.qmp('blockdev-reopen', {'options': [
        {'driver': 'raw', 'node-name': 'c', 'file': 'bf'}]})
    refuse(graph, 'Block node is read-only', 'block-export-add',
           nbd('c', True))


# Jobs


BUSY = "Node '{}' is busy: block device is in use by block job: backup"


@pytest.fixture
def backup(graph, images):
    """A backup from top to t that does not get on."""
    graph.qmp('block-export-add', nbd('top', True))
    client = NbdClient.connect(graph.nbd_path, 'top')
    client.write(0, b'x' * (1 << 20))
    client.close()
    path = images.create('t.qcow2', '4M')
    graph.qmp('blockdev-add', qcow2('t', file_of(path, 'tf')))
    images.ignore(path)
    graph.qmp('blockdev-backup', {
        'device': 'top', 'target': 't', 'sync': 'full', 'job-id': 'j',
        'speed': 1, 'filter-node-name': 'flt'})
    yield graph
    graph.qmp('job-cancel', id='j')
    graph.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})


@pytest.mark.parametrize('command,arguments,desc', [
    ('blockdev-backup', {'device': 'a', 'target': 't'}, BUSY.format('t')),
    ('blockdev-backup', {'device': 't', 'target': 'a'}, BUSY.format('t')),
    ('block_resize', {'node-name': 'top', 'size': 8 * MIB},
     conflict('top', 'resize', (ANON, 'top', 'root'),
              ('flt', 'top', 'file'))),
    ('block_resize', {'node-name': 't', 'size': 8 * MIB},
     [BUSY.format('t'), "Device '(null)' is in use"]),
    ('blockdev-del', {'node-name': 'top'}, 'Block device top is in use'),
    ('blockdev-del', {'node-name': 't'}, BUSY.format('t')),
    ('blockdev-del', {'node-name': 'flt'},
     [BUSY.format('flt'), 'Node flt is in use'])])
def test_node_of_a_job(backup, command, arguments, desc):
    if command == 'blockdev-backup':
        arguments = dict(arguments, sync='full', **{'job-id': 'k'})
    refuse(backup, desc, command, arguments)


def test_read_only_under_a_job(backup):
    """Source and target stay writable while the job runs."""
    for node, options in (
            ('t', qcow2('t', 'tf', read_only=True)),
            ('top', qcow2('top', 'top-f', backing='base', read_only=True))):
        refuse(backup, f"Read-only block node '{node}' cannot support "
               f"read-write users", 'blockdev-reopen', {'options': [options]})


def test_reopen_under_a_job(backup, images):
    """What no job minds is done while it runs."""
    backup.qmp('blockdev-reopen', {'options': [dict(
        qcow2('top', 'top-f', backing='base'), **{'cache-size': 1 << 20})]})
    backup.qmp('blockdev-reopen', {'options': [
        qcow2('t', 'tf', cache={'no-flush': True})]})
