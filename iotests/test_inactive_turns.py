# SPDX-License-Identifier: MIT
"""Two servers have the same image open and take turns with it."""

import random

import pytest

from .nbd import NbdClient
from .qmp import QmpError
from .test_inactive_nodes import MIB, set_active
from .test_locks import WRITE_LOCKED

pytestmark = pytest.mark.ours('blockdev-set-active is new in QEMU 10.0')


class Side:
    """One server with the image, and a client of its export."""

    def __init__(self, server, path, layers, name):
        self.server = server
        backing = None
        for i, layer in enumerate(layers):
            options = {'driver': 'qcow2', 'node-name': f'n{i}',
                       'file': {'driver': 'file', 'filename': layer},
                       'active': False, 'read-only': i + 1 < len(layers),
                       'backing': backing}
            server.qmp('blockdev-add', options)
            backing = f'n{i}'
        self.top = backing
        self.active = False
        server.qmp('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': server.nbd_path}})
        server.qmp('block-export-add', {
            'type': 'nbd', 'id': 'e', 'name': 'e', 'node-name': self.top,
            'writable': True, 'allow-inactive': True})
        self.client = NbdClient.connect(server.nbd_path, 'e')

    def set(self, active, everything):
        set_active(self.server, None if everything else self.top, active)
        self.active = active


@pytest.mark.timeout(180)
def test_two_servers_take_turns(server, start_server, images, seed):
    """Whoever has the image sees what the other wrote; bitmaps tell what was
    written on either side; the tools may write when nobody has it."""
    rnd = random.Random(seed)
    size, unit = 4 * MIB, 4096
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base,
                        **rnd.choice(({}, {'cluster_size': 4096},
                                      {'lazy_refcounts': 'on'})))
    layers = [base, top]
    sides = [Side(server, top, layers, 'a'),
             Side(start_server(), top, layers, 'b')]
    model = bytearray(size)
    dirty = None
    owner = None
    for step in range(40):
        act = rnd.choice(('give', 'give', 'write', 'write', 'bitmap', 'tool'))
        if act == 'give':
            if owner:
                owner.set(False, rnd.random() < 0.5)
                owner = None
            else:
                owner = rnd.choice(sides)
                owner.set(True, rnd.random() < 0.5)
        elif act == 'write' and owner:
            for _ in range(rnd.randrange(1, 6)):
                at = rnd.randrange(size // unit) * unit
                data = rnd.randbytes(unit)
                owner.client.write(at, data)
                model[at:at + unit] = data
                if dirty is not None:
                    dirty.add(at // 65536)
        elif act == 'bitmap' and owner:
            if dirty is None:
                owner.server.qmp('block-dirty-bitmap-add', node=owner.top,
                                 name='b', persistent=True,
                                 granularity=65536)
            else:
                owner.server.qmp('block-dirty-bitmap-clear', node=owner.top,
                                 name='b')
            dirty = set()
        elif act == 'tool':
            at = rnd.randrange(size // unit) * unit
            text = images.io(top, f'write -P {step + 1} {at} {unit}',
                             check=False)
            assert (WRITE_LOCKED in text) == bool(owner), text
            if not owner:
                model[at:at + unit] = bytes([step + 1]) * unit
                if dirty is not None:
                    dirty.add(at // 65536)
        if owner:
            other = sides[owner is sides[0]]
            with pytest.raises(QmpError):
                set_active(other.server, None, True)
            got = b''.join(owner.client.read(i * MIB, MIB) for i in range(4))
            assert got == bytes(model)
            if dirty is not None:
                bitmaps = owner.server.nodes()[owner.top]['dirty-bitmaps']
                assert [b['count'] for b in bitmaps] == [len(dirty) * 65536]
    if owner:
        owner.set(False, True)
    assert images.content(top) == bytes(model)
