# SPDX-License-Identifier: MIT
"""The same commands to both servers; the same text must come back.

Each scenario runs against the server under test and Debian's
qemu-storage-daemon side by side, on equal copies of the images.  Every
reply and event is compared as text, the order of members included; only
paths, times, ids and generated names are made equal first, and members
newer than 7.2 left out.
"""

import json
import os
import re

import pytest

from .conftest import Setup
from .images import Images
from .qmp import QmpError
from .server import Server

MIB = 1 << 20
NEWER = {'active', 'children', 'limits'}    # since QEMU 10


class Side:
    """One server, its directory and what it said."""

    def __init__(self, config, directory, kind, log):
        os.mkdir(directory)
        self.setup = Setup(config, directory)
        self.setup.kind = kind
        self.setup.log = log
        self.images = Images(directory)
        self.server = Server(self.setup, name=kind)
        self.names = {}

    def plain(self, value):
        """A reply or event with all that may differ made equal."""
        value.pop('timestamp', None)
        value.pop('id', None)
        self._drop(value)
        text = json.dumps(value).replace(self.setup.directory, 'DIR')
        return re.sub(r'#block\d+', self._name, text)

    def _name(self, match):
        return self.names.setdefault(match[0], f'#auto{len(self.names)}')

    def _drop(self, value):
        if isinstance(value, list):
            for element in value:
                self._drop(element)
        elif isinstance(value, dict):
            for key in list(value):
                if key in NEWER:
                    del value[key]
                elif key == 'actual-size':
                    value[key] = 0
                else:
                    self._drop(value[key])

    def execute(self, command, arguments):
        text = json.dumps(arguments).replace('DIR', self.setup.directory)
        message = {'execute': command}
        if arguments:
            message['arguments'] = json.loads(text)
        self.server.mon.send_raw(json.dumps(message))
        return self.plain(self.server.mon.next_reply())

    def events(self, last):
        """The events up to and including one that has `last`."""
        told = []
        while not told or not any(word in told[-1] for word in last):
            event = self.server.mon.wait_for(lambda e: True, last)
            told.append(self.plain(event))
        return told


class Pair:
    """Both sides, driven together."""

    def __init__(self, ours, theirs):
        self.sides = (ours, theirs)

    def image(self, *args, io=(), **kwargs):
        """The same image on each side."""
        for side in self.sides:
            options = dict(kwargs)
            if options.get('backing'):
                options['backing'] = side.images.path(options['backing'])
            path = side.images.create(*args, **options)
            if io:
                side.images.io(path, *io)

    def run(self, command, arguments=None):
        ours, theirs = (side.execute(command, arguments or {})
                        for side in self.sides)
        assert ours == theirs, command
        return ours

    def events(self, *last):
        ours, theirs = (side.events(last) for side in self.sides)
        assert ours == theirs

    def add(self, name, file, driver='qcow2', **options):
        self.run('blockdev-add', dict({
            'driver': driver, 'node-name': name,
            'file': {'driver': 'file', 'filename': f'DIR/{file}'}},
            **{k.replace('_', '-'): v for k, v in options.items()}))

    def null(self, name, size=MIB, **options):
        self.run('blockdev-add', dict({
            'driver': 'null-co', 'node-name': name, 'size': size},
            **options))


@pytest.fixture
def pair(pytestconfig, directory, setup):
    if setup.kind == 'qemu':
        pytest.skip('it would be compared with itself')
    sides = [Side(pytestconfig, os.path.join(directory, kind), kind,
                  setup.log) for kind in ('blockjobd', 'qemu')]
    try:
        for side in sides:
            side.server.start()
        yield Pair(*sides)
    finally:
        for side in sides:
            side.server.stop()
    for side in sides:
        side.images.check_all()


def test_nodes(pair):
    pair.image('base.qcow2', '64M', io=['write -P 1 0 1M'])
    pair.image('top.qcow2', '64M', backing='base.qcow2')
    pair.image('v2.qcow2', '8M', compat='0.10')
    pair.image('odd.qcow2', '1M', cluster_size=4096, refcount_bits=1,
               lazy_refcounts='on')
    pair.image('r.img', '1M', 'raw')
    pair.add('top', 'top.qcow2')
    pair.add('v2', 'v2.qcow2', read_only=True)
    pair.add('odd', 'odd.qcow2', cache={'direct': False, 'no-flush': True})
    pair.add('r', 'r.img', 'raw', discard='unmap',
             **{'detect-zeroes': 'unmap'})
    pair.null('z')
    pair.null('zz', 4096, **{'read-zeroes': True, 'read-only': True})
    pair.run('blockdev-add', {'driver': 'null-co', 'node-name': 'plain'})
    for arguments in ({}, {'flat': True}, {'flat': False}):
        pair.run('query-named-block-nodes', arguments)
    for command in ('query-block', 'query-jobs', 'query-block-jobs',
                    'query-block-exports'):
        pair.run(command)


def test_file_names(pair):
    """When is a file name plain, when json:?"""
    pair.image('base.qcow2', '1M')
    pair.image('other.qcow2', '1M')
    pair.image('top.qcow2', '1M', backing='base.qcow2')
    pair.image('r.img', '1M', 'raw')
    pair.add('base', 'base.qcow2', read_only=True)
    pair.add('same', 'top.qcow2', backing='base')
    pair.run('query-named-block-nodes', {'flat': True})
    pair.run('blockdev-del', {'node-name': 'same'})
    pair.add('none', 'top.qcow2', backing=None)
    pair.run('query-named-block-nodes', {'flat': True})
    pair.run('blockdev-del', {'node-name': 'none'})
    pair.add('over', 'top.qcow2', backing={
        'driver': 'qcow2', 'read-only': True,
        'file': {'driver': 'file', 'filename': 'DIR/other.qcow2'}})
    pair.run('query-named-block-nodes')
    pair.run('blockdev-del', {'node-name': 'over'})
    pair.run('blockdev-add', {
        'driver': 'raw', 'node-name': 'slice', 'offset': 512, 'size': 4096,
        'file': {'driver': 'file', 'filename': 'DIR/r.img'}})
    pair.run('blockdev-add', {
        'driver': 'raw', 'node-name': 'double',
        'file': {'driver': 'raw', 'file': {'driver': 'null-co',
                                           'size': 65536}}})
    pair.run('query-named-block-nodes')


def test_blockdev_errors(pair):
    pair.null('n')
    pair.image('a.qcow2', '1M')
    for arguments in (
            {'driver': 'null-co', 'node-name': 'n'},
            {'driver': 'raw', 'node-name': 'r', 'file': 'nope'},
            {'driver': 'qcow2', 'node-name': 'q', 'file': 'n'},
            {'driver': 'qcow2', 'node-name': 'q', 'file': 'n',
             'backing': 'nope'},
            {'driver': 'file', 'node-name': 'f', 'filename': 'DIR'},
            {'driver': 'file', 'node-name': 'f', 'filename': '/dev/nope'},
            {'driver': 'raw', 'node-name': 'r', 'file': 'n',
             'offset': 512, 'size': 1 << 40},
            {'driver': 'raw', 'node-name': 'r', 'file': 'n',
             'offset': 1 << 40},
            {'driver': 'raw', 'node-name': 'r', 'file': 'n', 'size': 1000},
            {'driver': 'raw', 'node-name': 'r', 'file': 'n',
             'offset': 100, 'size': 512},
            {'driver': 'null-co', 'node-name': 'x', 'size': 512,
             'discard': 'maybe'},
            {'driver': 'null-co', 'node-name': 'x', 'size': 512,
             'cache': {'direct': 'x'}}):
        pair.run('blockdev-add', arguments)
    pair.add('q', 'a.qcow2')
    pair.run('query-named-block-nodes', {'flat': True})
    for command, arguments in (
            ('blockdev-del', {'node-name': 'nope'}),
            ('block_resize', {'node-name': 'q', 'size': -1}),
            ('block_resize', {'node-name': 'q', 'size': 511}),
            ('block_resize', {'node-name': 'q', 'size': 2**62}),
            ('block_resize', {'node-name': 'q', 'size': 2**63 - 512}),
            ('block_resize', {'device': 'q', 'size': 512}),
            ('block_resize', {'device': 'q', 'node-name': 'q', 'size': 512}),
            ('block_resize', {'node-name': 'n', 'size': 512})):
        pair.run(command, arguments)


def test_backup_events(pair):
    pair.image('src.qcow2', '4M', io=['write -P 1 0 1M', 'write -P 2 3M 64k'])
    pair.image('dst.qcow2', '4M')
    pair.add('src', 'src.qcow2')
    pair.add('dst', 'dst.qcow2')
    backup = {'job-id': 'j', 'device': 'src', 'target': 'dst',
              'sync': 'full'}
    pair.run('blockdev-backup', backup)
    pair.events('"null"')
    pair.run('blockdev-backup', dict(backup, **{
        'auto-finalize': False, 'auto-dismiss': False, 'sync': 'top'}))
    pair.events('BLOCK_JOB_PENDING')
    pair.run('query-jobs')
    pair.run('query-block-jobs')
    pair.run('job-finalize', {'id': 'j'})
    pair.events('"concluded"')
    pair.run('query-jobs')
    pair.run('query-block-jobs')
    pair.run('job-dismiss', {'id': 'j'})
    pair.events('"null"')
    for bad in ({'sync': 'incremental'}, {'bitmap': 'b'},
                {'target': 'src'}, {'job-id': '1'}, {'speed': -5},
                {'device': 'nope'}, {'target': 'nope'},
                {'bitmap-mode': 'always'}, {'filter-node-name': 'src'}):
        pair.run('blockdev-backup', dict(backup, **bad))


def test_transaction_abort_events(pair):
    for name in ('src', 'dst'):
        pair.image(f'{name}.qcow2', '4M')
        pair.add(name, f'{name}.qcow2')
    backup = {'type': 'blockdev-backup', 'data': {
        'job-id': 'j', 'device': 'src', 'target': 'dst', 'sync': 'full'}}
    pair.run('transaction', {'actions': [
        backup, {'type': 'abort', 'data': {}}]})
    pair.run('query-jobs')
    pair.run('transaction', {'actions': [backup], 'properties': {
        'completion-mode': 'grouped'}})
    for side in pair.sides:
        side.server.mon.pump(0.3)


def test_create_events(pair):
    for options in (
            {'driver': 'file', 'filename': 'DIR/f', 'size': MIB},
            {'driver': 'file', 'filename': 'DIR/no/f', 'size': MIB},
            {'driver': 'file', 'filename': 'DIR/f', 'size': 2**63 - 1},
            {'driver': 'qcow2', 'file': 'nope', 'size': MIB},
            {'driver': 'qcow2', 'size': 1000,
             'file': {'driver': 'file', 'filename': 'DIR/f'}},
            {'driver': 'qcow2', 'size': MIB, 'cluster-size': 1000,
             'file': {'driver': 'file', 'filename': 'DIR/f'}},
            {'driver': 'qcow2', 'size': MIB, 'version': 'v2',
             'refcount-bits': 8,
             'file': {'driver': 'file', 'filename': 'DIR/f'}},
            {'driver': 'qcow2', 'size': MIB,
             'file': {'driver': 'file', 'filename': 'DIR/f'}}):
        pair.run('blockdev-create', {'job-id': 'c', 'options': options})
        pair.events('"concluded"')
        pair.run('query-jobs')
        pair.run('job-dismiss', {'id': 'c'})
        pair.events('"null"')


def test_bitmap_queries(pair):
    pair.image('a.qcow2', '4M')
    pair.add('n', 'a.qcow2')
    pair.run('block-dirty-bitmap-add', {'node': 'n', 'name': 'one'})
    pair.run('block-dirty-bitmap-add', {
        'node': 'n', 'name': 'two', 'persistent': True, 'disabled': True,
        'granularity': 4096})
    pair.run('query-named-block-nodes', {'flat': True})
    for name in ('one', 'two', 'nope'):
        pair.run('x-debug-block-dirty-bitmap-sha256',
                 {'node': 'n', 'name': name})
    for command, arguments in (
            ('add', {'node': 'n', 'name': 'one'}),
            ('add', {'node': 'n', 'name': ''}),
            ('add', {'node': 'n', 'name': 'x' * 1024}),
            ('add', {'node': 'n', 'name': 'x', 'granularity': 100}),
            ('add', {'node': 'x', 'name': 'x'}),
            ('clear', {'node': 'n', 'name': 'x'}),
            ('clear', {'node': 'x', 'name': 'x'}),
            ('merge', {'node': 'n', 'target': 'one', 'bitmaps': ['two']}),
            ('merge', {'node': 'n', 'target': 'one', 'bitmaps': ['x']}),
            ('merge', {'node': 'n', 'target': 'x', 'bitmaps': ['one']}),
            ('disable', {'node': 'n', 'name': 'one'}),
            ('enable', {'node': 'n', 'name': 'two'}),
            ('remove', {'node': 'n', 'name': 'x'})):
        pair.run(f'block-dirty-bitmap-{command}', arguments)
    pair.run('query-named-block-nodes', {'flat': True})
    for actions in (
            [('block-dirty-bitmap-clear', {'node': 'n', 'name': 'one'}),
             ('abort', {})],
            [('block-dirty-bitmap-add', {'node': 'n', 'name': 'one'})],
            [('block-dirty-bitmap-add', {'node': 'n', 'name': 'new'}),
             ('block-dirty-bitmap-remove', {'node': 'n', 'name': 'x'})]):
        pair.run('transaction', {'actions': [
            {'type': t, 'data': d} for t, d in actions]})
    pair.run('query-named-block-nodes', {'flat': True})
    pair.run('blockdev-del', {'node-name': 'n'})
    pair.add('n', 'a.qcow2')
    pair.run('query-named-block-nodes', {'flat': True})


def test_export_queries(pair):
    pair.image('a.qcow2', '1M')
    pair.add('n', 'a.qcow2')
    pair.image('b.qcow2', '1M')
    pair.run('blockdev-add', {'driver': 'file', 'node-name': 'under',
                              'filename': 'DIR/b.qcow2'})
    pair.run('blockdev-add', {'driver': 'qcow2', 'node-name': 'over',
                              'file': 'under'})
    pair.null('ro', 4096, **{'read-only': True})
    add = {'type': 'nbd', 'id': 'e', 'node-name': 'n'}
    pair.run('block-export-add', add)
    pair.run('nbd-server-stop')
    start = {'addr': {'type': 'unix', 'data': {'path': 'DIR/nbd'}}}
    pair.run('nbd-server-start', start)
    pair.run('nbd-server-start', start)
    pair.run('block-export-add', add)
    for bad in ({}, {'id': '1'}, {'id': 'f'}, {'id': 'f', 'name': 'n'},
                {'id': 'f', 'node-name': 'nope'},
                {'id': 'f', 'node-name': 'ro', 'writable': True},
                {'id': 'f', 'node-name': 'ro', 'writable': True,
                 'name': 'n', 'iothread': 'no'},
                {'id': 'f', 'node-name': 'nope', 'iothread': 'no'},
                {'id': 'f', 'name': 'n', 'iothread': 'no'},
                {'id': 'f', 'node-name': 'under', 'name': 'n',
                 'writable': True},
                {'id': 'f', 'node-name': 'under', 'name': 'n'},
                {'id': 'f', 'node-name': 'under', 'name': 'x'},
                {'id': 'f', 'name': 'x', 'bitmaps': [
                    {'node': 'nope', 'name': 'b'}]},
                {'id': 'f', 'name': 'x', 'bitmaps': ['b']}):
        pair.run('block-export-add', dict(add, **bad))
    pair.run('block-export-add', {'type': 'nbd', 'id': 'g',
                                  'node-name': 'ro'})
    pair.run('query-block-exports')
    pair.run('query-named-block-nodes', {'flat': True})
    pair.run('block_resize', {'node-name': 'n', 'size': 2 * MIB})
    pair.run('blockdev-del', {'node-name': 'n'})
    pair.run('block-export-del', {'id': 'e'})
    pair.events('"e"')
    pair.run('block-export-del', {'id': 'e'})
    pair.run('nbd-server-remove', {'name': 'nope'})
    pair.run('nbd-server-add', {'device': 'n', 'writable': True})
    pair.run('nbd-server-add', {'device': 'n'})
    pair.run('nbd-server-add', {'device': 'nope'})
    pair.run('query-block-exports')
    pair.run('nbd-server-stop')
    pair.events('"n"')
    pair.run('query-block-exports')


def test_syntax_errors(pair):
    """The same complaint about the same garbage."""
    for text in ('nonsense', '{"a" 1}', '{,}', '}', ']', '{"a":1,}',
                 '"\\x"', 'NaN', '01', '+1', '@', '# x', '\\', '%d',
                 '{"execute":"query-version"]', '{1:2}', '"\\ud800"',
                 '{"execute":"query-version","execute":"quit"}', 'tru',
                 '{"execute":5}', '[]', '{}', '{"execute":"x"}',
                 '{"execute":"x","y":1}', "{'execute':'x'}"):
        told = []
        for side in pair.sides:
            side.server.mon.send_raw(text + '\n')
            told.append(side.plain(side.server.mon.next_reply()))
            side.server.mon.pump(0.02)
            told[-1] = [told[-1]] + [
                side.plain(m) for m in side.server.mon._pending]
            side.server.mon._pending.clear()
        assert told[0] == told[1], text


def test_block_graph(pair):
    """x-debug-query-block-graph, if we have it."""
    pair.image('a.qcow2', '1M')
    pair.add('n', 'a.qcow2')
    try:
        pair.sides[0].server.qmp('x-debug-query-block-graph')
    except QmpError:
        pytest.skip('not there yet')
    pair.run('x-debug-query-block-graph')
