# SPDX-License-Identifier: MIT
"""Arguments of commands: unknown, missing, mistyped, out of range.

Each pair is what QEMU says, word for word.
"""

import json

import pytest

INTEGER = "Invalid parameter type for '%s', expected: integer"
NULL_CO = {'driver': 'null-co', 'node-name': 'n'}


def element(path):
    """7.2 calls an array element of a wrong type 'null'."""
    return ['null', path]


REFUSED = [
    # Integers
    ('blockdev-add', dict(NULL_CO, size='x'), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=1.0), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=1.5), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=True), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=None), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=[]), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=2**63), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=2**64 - 1), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=2**64), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=-2**63 - 1), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, size=10**40), INTEGER % 'size'),
    ('blockdev-add', dict(NULL_CO, **{'latency-ns': 'x'}),
     "Parameter 'latency-ns' expects uint64"),
    ('block-job-set-speed', {'device': 'j', 'speed': 2**63},
     INTEGER % 'speed'),
    ('block-job-set-speed', {'device': 'j', 'speed': True},
     INTEGER % 'speed'),
    ('block-dirty-bitmap-add', {'node': 'a', 'name': 'b',
                                'granularity': 2**32},
     "Parameter 'granularity' expects uint32_t"),
    ('block-dirty-bitmap-add', {'node': 'a', 'name': 'b', 'granularity': -1},
     "Parameter 'granularity' expects uint32_t"),
    # Strings, booleans, enums
    ('blockdev-add', {'driver': 'null-co', 'node-name': 5},
     "Invalid parameter type for 'node-name', expected: string"),
    ('blockdev-add', dict(NULL_CO, **{'read-zeroes': 1}),
     "Invalid parameter type for 'read-zeroes', expected: boolean"),
    ('blockdev-add', {'driver': 'nope', 'node-name': 'x'},
     "Parameter 'driver' does not accept value 'nope'"),
    ('blockdev-add', {'driver': 5, 'node-name': 'x'},
     "Invalid parameter type for 'driver', expected: string"),
    ('blockdev-add', dict(NULL_CO, **{'detect-zeroes': 'maybe'}),
     "Parameter 'detect-zeroes' does not accept value 'maybe'"),
    ('blockdev-backup', {'device': 'a', 'target': 'b', 'sync': 'foo'},
     "Parameter 'sync' does not accept value 'foo'"),
    ('block-export-add', {'type': 'zzz', 'id': 'e', 'node-name': 'x'},
     "Parameter 'type' does not accept value 'zzz'"),
    ('block-export-del', {'id': 'e', 'mode': 'y'},
     "Parameter 'mode' does not accept value 'y'"),
    ('query-named-block-nodes', {'flat': 'x'},
     "Invalid parameter type for 'flat', expected: boolean"),
    # Missing and unknown
    ('blockdev-add', {'node-name': 'x'}, "Parameter 'driver' is missing"),
    ('blockdev-add', {}, "Parameter 'driver' is missing"),
    ('blockdev-add', {'driver': 'null-co'},
     "'node-name' must be specified for the root node"),
    ('blockdev-add', dict(NULL_CO, filename='y'),
     "Parameter 'filename' is unexpected"),
    ('blockdev-add', {'driver': 'file', 'node-name': 'x'},
     "Parameter 'filename' is missing"),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x'},
     "Parameter 'file' is missing"),
    ('blockdev-backup', {'device': 'a', 'target': 'b'},
     "Parameter 'sync' is missing"),
    ('block-export-add', {'type': 'nbd', 'id': 'e'},
     "Parameter 'node-name' is missing"),
    ('quit', {'x': 1}, "Parameter 'x' is unexpected"),
    # Nested
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x',
                      'file': {'driver': 'null-co', 'size': 'q'}},
     INTEGER % 'file.size'),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x',
                      'file': {'driver': 'null-co', 'junk': 'q'}},
     "Parameter 'file.junk' is unexpected"),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x',
                      'file': {'size': 5}},
     "Parameter 'file.driver' is missing"),
    ('blockdev-add', dict(NULL_CO, cache={'direct': 1}),
     "Invalid parameter type for 'cache.direct', expected: boolean"),
    ('blockdev-add', dict(NULL_CO, cache={'foo': True}),
     "Parameter 'cache.foo' is unexpected"),
    ('blockdev-add', dict(NULL_CO, cache=True),
     "Invalid parameter type for 'cache', expected: object"),
    ('nbd-server-start', {'addr': {'type': 'unix'}},
     "Parameter 'addr.data' is missing"),
    ('nbd-server-start', {'addr': {'type': 'unix', 'data': {}}},
     "Parameter 'addr.data.path' is missing"),
    ('nbd-server-start', {'addr': {'type': 'inet', 'data': {'host': 'x'}}},
     "Parameter 'addr.data.port' is missing"),
    ('nbd-server-start', {'addr': {'type': 'vsock2', 'data': {}}},
     "Parameter 'type' does not accept value 'vsock2'"),
    # Alternates
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': 5},
     "Invalid parameter type for 'file', expected: BlockdevRef"),
    ('blockdev-add', {'driver': 'raw', 'node-name': 'x', 'file': None},
     "Invalid parameter type for 'file', expected: BlockdevRef"),
    ('blockdev-add', {'driver': 'qcow2', 'node-name': 'x', 'file': 'f',
                      'backing': 5},
     "Invalid parameter type for 'backing', expected: BlockdevRefOrNull"),
    ('block-dirty-bitmap-merge', {'node': 'a', 'target': 'x',
                                  'bitmaps': [5]},
     [f"Invalid parameter type for '{where}', "
      f"expected: BlockDirtyBitmapOrStr" for where in element('bitmaps[0]')]),
    # Arrays
    ('block-dirty-bitmap-merge', {'node': 'a', 'target': 'x',
                                  'bitmaps': 'x'},
     "Invalid parameter type for 'bitmaps', expected: array"),
    ('block-dirty-bitmap-merge', {'node': 'a', 'target': 'x',
                                  'bitmaps': [{'node': 'a'}]},
     "Parameter 'bitmaps[0].name' is missing"),
    ('block-dirty-bitmap-merge',
     {'node': 'a', 'target': 'x',
      'bitmaps': ['a', {'node': 'a', 'name': 'b', 'c': 1}]},
     "Parameter 'bitmaps[1].c' is unexpected"),
    # Transactions
    ('transaction', {'actions': [{'type': 'nope', 'data': {}}]},
     "Parameter 'type' does not accept value 'nope'"),
    ('transaction', {'actions': [{'type': 'abort'}]},
     "Parameter 'actions[0].data' is missing"),
    ('transaction', {'actions': [{'type': 'abort', 'data': {}}, 5]},
     "Invalid parameter type for 'actions[1]', expected: object"),
    ('transaction', {'actions': [{'type': 'block-dirty-bitmap-add',
                                  'data': {'node': 'x'}}]},
     "Parameter 'actions[0].data.name' is missing"),
    ('transaction', {'actions': [{'data': {}}]},
     "Parameter 'actions[0].type' is missing"),
    ('transaction', {'actions': [], 'properties': {'completion-mode': 'x'}},
     "Parameter 'completion-mode' does not accept value 'x'"),
    # Look-ups
    ('block-dirty-bitmap-add', {'node': 'nope', 'name': 'b'},
     "Cannot find device='nope' nor node-name='nope'"),
    ('blockdev-backup', {'device': 'nope', 'target': 'b', 'sync': 'full'},
     "Cannot find device='nope' nor node-name='nope'"),
    ('block_resize', {'size': 5},
     "Cannot find device='' nor node-name=''"),
    ('block_resize', {'size': 5, 'node-name': 'nope'},
     "Cannot find device='' nor node-name='nope'"),
    ('block_resize', {'size': 5, 'device': 'nope'},
     "Cannot find device='nope' nor node-name=''"),
    ('blockdev-del', {'node-name': 'nope'},
     "Failed to find node with node-name='nope'"),
    ('block-export-del', {'id': 'nope'}, "Export 'nope' is not found"),
]


@pytest.mark.parametrize(
    'command,arguments,desc', REFUSED,
    ids=[f'{c}-{json.dumps(a)}'[:70] for c, a, _ in REFUSED])
def test_refused(server, command, arguments, desc):
    server.fails(command, arguments, desc)
    assert server.qmp('query-named-block-nodes') == []


def test_unknown_command(server):
    server.fails('no-such-command', cls='CommandNotFound',
                 desc='The command no-such-command has not been found')
    server.fails('', cls='CommandNotFound',
                 desc='The command  has not been found')


def test_null_arguments(server):
    server.mon.send_raw('{"execute":"query-version","arguments":null}\n')
    assert server.mon.next_reply()['error']['desc'] == \
        "QMP input member 'arguments' must be an object"
    server.mon.send_raw('{"execute":"query-version","arguments":{}}\n')
    assert 'return' in server.mon.next_reply()


def test_arguments_on_unknown_command(server):
    for text, desc in (
            ('{"execute":"nope","arguments":5}',
             "QMP input member 'arguments' must be an object"),
            ('{"execute":"nope","foo":1}',
             "QMP input member 'foo' is unexpected")):
        server.mon.send_raw(text)
        assert server.mon.next_reply()['error']['desc'] == desc


def test_largest_integers(server):
    """The ends of int64 and uint64 are accepted as numbers; what a command
    thinks of the value is its own affair."""
    server.fails('blockdev-add', dict(NULL_CO, size=2**63 - 1),
                 'Could not refresh total sector count: File too large')
    for latency in (-1, 2**64 - 1):
        server.fails('blockdev-add', dict(NULL_CO, **{'latency-ns': latency}),
                     'latency-ns is invalid')
    server.fails('block-job-set-speed', device='j', speed=-2**63,
                 cls='DeviceNotActive', desc="Block job 'j' not found")


@pytest.mark.ours('QEMU 7.2 crashes')
def test_most_negative_size(server):
    for size in (-1, -512, -2**63):
        server.fails('blockdev-add', dict(NULL_CO, size=size))
    assert server.qmp('query-named-block-nodes') == []


def test_a_refused_command_has_no_effect(server):
    """The good half of bad arguments is not carried out."""
    server.fails('blockdev-add', {
        'driver': 'raw', 'node-name': 'x',
        'file': {'driver': 'null-co', 'node-name': 'f'}, 'junk': 1})
    assert server.qmp('query-named-block-nodes') == []
