# SPDX-License-Identifier: MIT
"""Arguments at random, made from the server's own schema.

Half of them fit the schema, half break it in one place.  Every reply is a
reply, and the server lives.
"""

import json
import random

import pytest

from .qmp import QmpError

LEFT_ALONE = {
    'quit',                 # ends the server
    'qmp_capabilities',
}
NAMES = ['n', 'src', 'dst', 'b', 'c', 'j', 'e', '', '#block1', 'x' * 40,
         'caf\u00e9', 'a b', '0']
INTEGERS = [0, 1, -1, 511, 512, 65536, 1 << 20, 2**31, 2**32, 2**63 - 1,
            -2**63, 2**64 - 1]
ANYTHING = [None, True, 5, -1, 1.5, 'text', [], {}, [[]], {'a': {}}, 2**70]


class Maker:
    """Values of a type in the schema."""

    def __init__(self, schema, rnd, directory):
        self.schema = schema
        self.rnd = rnd
        self.strings = NAMES + [f'{directory}/f{i}' for i in range(3)]
        self.depth = 0

    def value(self, type_name):
        if self.rnd.random() < 0.02:
            return self.rnd.choice(ANYTHING)
        entry = self.schema.type(type_name)
        self.depth += 1
        try:
            return getattr(self, '_' + entry['meta-type'])(entry)
        finally:
            self.depth -= 1

    def _builtin(self, entry):
        kind = entry['json-type']
        if kind == 'string':
            return self.rnd.choice(self.strings)
        if kind in ('int', 'number'):
            return self.rnd.choice(INTEGERS)
        if kind == 'boolean':
            return self.rnd.random() < 0.5
        if kind == 'null':
            return None
        return self.rnd.choice(ANYTHING)

    def _enum(self, entry):
        return self.rnd.choice(entry['values'] + ['nope'])

    def _array(self, entry):
        n_elements = self.rnd.choice((0, 1, 1, 2, 3)) \
            if self.depth < 8 else 0
        return [self.value(entry['element-type'])
                for _ in range(n_elements)]

    def _alternate(self, entry):
        return self.value(self.rnd.choice(entry['members'])['type'])

    def _object(self, entry):
        made = {}
        self._members(entry, made)
        if 'tag' in entry:
            variant = self.rnd.choice(entry['variants'])
            made[entry['tag']] = variant['case']
            self._members(self.schema.type(variant['type']), made)
        if self.rnd.random() < 0.05:
            made[self.rnd.choice(('junk', '', 'x.y'))] = 1
        return made

    def _members(self, entry, made):
        for member in entry['members']:
            wanted = 'default' not in member or (
                self.rnd.random() < 0.4 and self.depth < 8)
            if wanted and self.rnd.random() > 0.02:
                made[member['name']] = self.value(member['type'])


@pytest.mark.ours('QEMU 7.2 crashes of it')
@pytest.mark.timeout(120)
def test_random_arguments(server, images, seed):
    rnd = random.Random(seed)
    # What may be named: nodes, bitmaps, a job, an export.
    server.qmp('blockdev-add', driver='null-co', node_name='n', size=1 << 20)
    for name in ('src', 'dst'):
        path = images.create(f'{name}.qcow2', '1M')
        images.ignore(path)
        server.add_node(name, path)
    for name in ('b', 'c'):
        server.qmp('block-dirty-bitmap-add', node='src', name=name)
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': server.nbd_path}})
    schema = server.setup.schema()
    maker = Maker(schema, rnd, images.directory)
    commands = sorted(schema.commands() - LEFT_ALONE)
    busy = [c for c in commands if c.startswith(
        ('block', 'transaction', 'job', 'drive', 'nbd'))]
    n_good = 0
    for i in range(1500):
        command = rnd.choice(busy if rnd.random() < 0.9 else commands)
        arguments = maker.value(schema.command(command)['arg-type'])
        text = json.dumps(arguments)
        if 'latency-ns' in text or '"full"' in text and 'prealloc' in text:
            continue        # they mean to take long, or to fill the disk
        if not isinstance(arguments, dict):
            arguments = {}
        try:
            server.qmp(command, arguments)
            n_good += 1
        except QmpError as exc:
            assert exc.desc
        if i % 100 == 99:
            server.qmp('query-version')
            server.mon.received.clear()
            del server.log[:-100]
    assert n_good > 20
    for query in ('query-named-block-nodes', 'query-jobs', 'query-block-jobs',
                  'query-block-exports', 'query-block'):
        server.qmp(query)


@pytest.mark.ours('QEMU 7.2 is slow at it')
def test_random_bytes(start_server, seed):
    """Valid messages with bytes changed, dropped and doubled."""
    rnd = random.Random(seed)
    server = start_server()
    good = [b'{"execute":"query-version","id":{"a":[1,2.5,null,true,"x"]}}\n',
            b"{'execute':'query-jobs'}\n",
            b'{"execute":"blockdev-add","arguments":{"driver":"null-co",'
            b'"node-name":"n\\u0041","size":4096}}\n']
    for _ in range(400):
        data = bytearray(rnd.choice(good))
        for _ in range(rnd.choice((1, 1, 2, 5))):
            at = rnd.randrange(len(data))
            change = rnd.random()
            if change < 0.4:
                data[at] = rnd.randrange(256)
            elif change < 0.7:
                del data[at]
            else:
                data[at:at] = data[at:at + rnd.randint(1, 5)]
            if not data:
                break
        server.mon.send_raw(bytes(data))
        server.mon.pump()
        server.mon._pending.clear()
    server.mon.close()
    server.mon = server.connect()
    server.qmp('query-version')
