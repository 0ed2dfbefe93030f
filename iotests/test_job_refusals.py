# SPDX-License-Identifier: MIT
"""What may be done to the nodes of a running job: the same as in QEMU.

One chain and one job in our server and in QEMU's; then each of a list of
commands goes to both, and both must answer alike.
"""

import copy
import os
import re

import pytest

from .images import qemu_img, run_tool
from .jobs import Job
from .qmp import QmpError
from .server import Server

MIB = 1 << 20
NAMELESS = r"Device '\(null\)' is in use"     # 7.2; 10 names the node
NAMES = ['base', 'mid', 'top', 'over']
KINDS = ['backup', 'mirror', 'stream', 'commit', 'commit-active']


def make_images(directory):
    for name, backing in zip(NAMES, [None] + NAMES):
        qemu_img('create', '-q', '-f', 'qcow2', *(
            ('-b', f'{backing}.qcow2', '-F', 'qcow2') if backing else ()),
            os.path.join(directory, f'{name}.qcow2'), '32M')
        run_tool('qemu-io', '-f', 'qcow2', '-c',
                 'write -P 1 0 %s' % ('1M' if name == 'top' else '32M'),
                 os.path.join(directory, f'{name}.qcow2'))
    for name in ('target', 'spare', 'other'):
        qemu_img('create', '-q', '-f', 'qcow2',
                 os.path.join(directory, f'{name}.qcow2'), '32M')


def options(name, backing, read_only):
    return {'driver': 'qcow2', 'node-name': name, 'read-only': read_only,
            'backing': backing,
            'file': {'driver': 'file', 'node-name': f'{name}-file',
                     'filename': f'{name}.qcow2',
                     'auto-read-only': True}}


@pytest.fixture
def pair(setup, directory):
    """Ours and QEMU's server with base <- mid <- top, target and spare."""
    servers = []
    for kind in ('blockjobd', 'qemu'):
        own = copy.copy(setup)
        own.kind = kind
        own.directory = os.path.join(directory, kind)
        own.schema = lambda machine: None
        os.mkdir(own.directory)
        make_images(own.directory)
        server = Server(own).start()
        servers.append(server)
        for name, backing in zip(NAMES[:3], [None] + NAMES):
            server.qmp('blockdev-add', options(name, backing, name != 'top'))
        server.qmp('blockdev-add', options('target', None, False))
        server.qmp('blockdev-add', options('spare', None, False))
        server.qmp('blockdev-add', options('other', None, False))
        server.qmp('block-dirty-bitmap-add', node='top', name='b')
        server.export('top', 'disk')
    yield servers
    for server in servers:
        server.stop()


def start(server, kind):
    arguments = {'job-id': 'j', 'device': 'top', 'speed': 1,
                 'filter-node-name': 'filter'}
    if kind in ('backup', 'mirror'):
        server.qmp(f'blockdev-{kind}', dict(arguments, target='target',
                                            sync='full'))
    elif kind == 'stream':
        server.qmp('block-stream', arguments)
    else:
        server.qmp('block-commit', dict(
            arguments, **{} if kind == 'commit-active' else
            {'top-node': 'mid'}))
    return Job(server, 'j')


def nodes_of(kind):
    used = ['base', 'mid', 'top']
    return used + (['target'] if kind in ('backup', 'mirror') else [])


def commands(kind):
    """What is tried, in this order."""
    nodes = nodes_of(kind)
    yield 'blockdev-del', {'node-name': 'filter'}
    yield 'block_resize', {'node-name': 'filter', 'size': 64 * MIB}
    for node in nodes:
        yield 'blockdev-del', {'node-name': node}
        yield 'blockdev-del', {'node-name': f'{node}-file'}
        yield 'block_resize', {'node-name': node, 'size': 64 * MIB}
        yield 'change-backing-file', {
            'device': node, 'image-node-name': 'mid',
            'backing-file': 'base.qcow2'}
    for node in nodes:
        jobs = [('blockdev-backup', {'target': 'spare', 'sync': 'full'}),
                ('blockdev-mirror', {'target': 'spare', 'sync': 'full'}),
                ('block-stream', {}),
                ('block-commit', {})]
        for command, arguments in jobs:
            if (kind, node, command) == ('backup', 'mid', 'block-stream'):
                continue    # QEMU 7.2 hangs
            yield command, dict(arguments, device=node, **{'job-id': 'k'})
        for command in ('blockdev-backup', 'blockdev-mirror'):
            yield command, {'job-id': 'k', 'device': 'spare',
                            'target': node, 'sync': 'full'}
        yield 'blockdev-backup', {'job-id': 'j', 'device': 'spare',
                                  'target': 'other', 'sync': 'full'}
        yield 'blockdev-snapshot', {'node': node, 'overlay': 'spare'}
        yield 'blockdev-snapshot-internal-sync', {'device': node,
                                                  'name': 's'}
        yield 'x-blockdev-change', {'parent': node, 'node': 'spare'}
        yield 'block-export-add', {
            'type': 'nbd', 'id': 'x', 'node-name': node, 'name': 'x',
            'writable': True}
    for name, backing in zip(NAMES[:3], [None] + NAMES):
        if (kind, name) != ('commit', 'top'):   # QEMU 7.2 asserts
            yield 'blockdev-reopen', {'options': [
                options(name, None, name != 'top')]}
        yield 'blockdev-reopen', {'options': [
            options(name, backing, True)]}
    yield 'blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': 'base'}
    yield 'blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': 'mid'}
    yield 'blockdev-add', {'driver': 'raw', 'node-name': 'x',
                           'file': 'target'}
    yield 'block-dirty-bitmap-clear', {'node': 'top', 'name': 'b'}
    yield 'block-dirty-bitmap-add', {'node': 'mid', 'name': 'c'}
    yield 'block-dirty-bitmap-add', {'node': 'target', 'name': 'c'}


def undo(server, command, arguments):
    """It worked: back to where we were."""
    if command == 'block-export-add':
        server.qmp('block-export-del', id='x', mode='hard')
        server.wait_event('BLOCK_EXPORT_DELETED', {'id': 'x'})
    elif command == 'blockdev-add':
        server.qmp('blockdev-del', node_name='x')
    elif command == 'block-dirty-bitmap-add':
        server.qmp('block-dirty-bitmap-remove', node=arguments['node'],
                   name='c')
    elif 'job-id' in arguments:
        try:
            server.qmp('job-cancel', id='k')
        except QmpError:
            pass                            # it is over already
        Job(server, 'k').wait('null')


def run(server, command, arguments):
    try:
        result = server.qmp(command, arguments)
    except QmpError as exc:
        return re.sub(r'#block\d+', '#block', str(exc))
    undo(server, command, arguments)
    return str(result)


# What QEMU says: what we may say, who name the job.
OTHER_WORDS = [
    (NAMELESS, ' is busy: '),
    ('Need a root block node', ' is busy: '),
    ('Block node is read-only', 'Permission conflict'),
    (' is in use', ' is busy: block device is in use by block job: '),
    ("Permission conflict .* an unnamed block device \\(uses node 'base'",
     "Permission conflict .* commit job 'j' \\(uses node 'base'"),
    ("Permission conflict .* unshared by commit job 'j'",
     "Permission conflict on node 'top': permissions 'write' .* unshared by "
     "node 'filter'"),
]


def told_otherwise(want, got):
    """Both refuse, in words that say the same or more."""
    return any(re.search(theirs, want) and re.search(ours, got)
               for theirs, ours in OTHER_WORDS)


@pytest.mark.ours('it runs QEMU by itself')
@pytest.mark.parametrize('kind', KINDS)
def test_same_refusals(pair, kind):
    ours, qemu = pair
    for server in pair:
        start(server, kind).wait('running')
    differences = []
    for command, arguments in commands(kind):
        want = run(qemu, command, arguments)
        got = run(ours, command, arguments)
        if (kind, command, arguments.get('node-name')) == \
                ('mirror', 'block-export-add', 'top'):
            assert 'Permission conflict' in got
            continue    # QEMU lets it write past the filter
        if want != got and not told_otherwise(want, got):
            differences.append(f'{command} {arguments}\n  QEMU: {want}\n'
                               f'  ours: {got}')
    for server in pair:
        server.qmp('job-cancel', id='j')
        Job(server, 'j').wait('null')
    assert not differences, '\n'.join(differences)
