# SPDX-License-Identifier: MIT
"""Random graphs changed by random blockdev-reopen, against a model.

Leaves are files with known content; raw nodes stand on them and on each
other, some through a window.  A call changes one to three nodes.  The model
says whether it must succeed, what is linked to what, what is read-only, and
what clients read; a refused call must change nothing.
"""

import random

import pytest

from .nbd import NbdClient
from .qmp import QmpError

LENGTH = 32768
N_LEAVES, N_NODES, N_STEPS = 4, 8, 120


def leaf_content(i):
    return b''.join(bytes([16 * i + k // 4, k]) * 256
                    for k in range(LENGTH // 512))


class Node:
    """A raw node of the model."""

    def __init__(self, name, file):
        self.name, self.file = name, file
        self.offset, self.size, self.read_only = 0, None, False

    def copy(self):
        made = Node(self.name, self.file)
        made.__dict__.update(self.__dict__)
        return made

    def options(self):
        options = {'driver': 'raw', 'node-name': self.name,
                   'file': self.file, 'read-only': self.read_only}
        if self.offset:
            options['offset'] = self.offset
        if self.size is not None:
            options['size'] = self.size
        return options

    def is_window(self):
        return self.offset > 0 or self.size is not None


class Model:
    """All raw nodes, and which are exported for writing."""

    def __init__(self, leaves):
        self.leaves = leaves            # {name: content}
        self.nodes = {}
        self.writers = set()

    def content(self, name):
        if name in self.leaves:
            return self.leaves[name]
        node = self.nodes[name]
        data = self.content(node.file)[node.offset:]
        return data if node.size is None else data[:node.size]

    def below(self, name):
        """Names from `name` down; None: a cycle."""
        seen = []
        while name in self.nodes:
            if name in seen:
                return None
            seen.append(name)
            name = self.nodes[name].file
        return seen

    def users(self, name):
        return [n for n in self.nodes.values() if n.file == name]

    def is_possible(self):
        """No cycle; windows fit; nobody writes what is read-only."""
        if any(self.below(name) is None for name in self.nodes):
            return False
        for node in self.nodes.values():
            length = len(self.content(node.file))
            if node.offset + (node.size or 0) > length:
                return False
        return not any(self.nodes[name].read_only for writer in self.writers
                       for name in self.below(writer))

    def changed(self, changes):
        """What it would be with these nodes."""
        other = Model(self.leaves)
        other.nodes = dict(self.nodes, **{n.name: n for n in changes})
        other.writers = set(self.writers)
        return other


class Run:
    def __init__(self, server, images, seed):
        self.server = server
        self.random = random.Random(seed)
        leaves = {}
        for i in range(N_LEAVES):
            leaves[f'leaf{i}'] = leaf_content(i)
            path = images.write_raw(f'leaf{i}', leaves[f'leaf{i}'])
            server.add_file(f'leaf{i}', path)
        self.model = Model(leaves)
        for i in range(N_NODES):
            self.add(f'n{i}', f'leaf{i % N_LEAVES}')
        server.export('n0', writable=False)
        self.n_done = self.n_refused = 0

    def add(self, name, file):
        node = Node(name, file)
        self.server.qmp('blockdev-add', node.options())
        self.model.nodes[name] = node

    def random_change(self, name):
        """A window only where nobody stands: what stands on it would have
        to shrink with it."""
        node = self.model.nodes[name].copy()
        targets = [n for n in list(self.model.leaves) + list(self.model.nodes)
                   if n not in self.model.nodes or
                   not self.model.nodes[n].is_window()]
        node.file = self.random.choice(targets)
        node.read_only = self.random.random() < 0.3
        node.offset, node.size = 0, None
        if not self.model.users(name) and self.random.random() < 0.4:
            node.offset = self.random.choice((0, 512, 4096, LENGTH + 512))
            node.size = self.random.choice((None, 512, 8192, LENGTH))
        return node

    def reopen(self):
        names = self.random.sample(sorted(self.model.nodes),
                                   self.random.randint(1, 3))
        changes = [self.random_change(name) for name in names]
        used = {c.file for c in changes}
        if any(c.is_window() and c.name in used for c in changes):
            return
        wanted = self.model.changed(changes)
        before = self.server.graph()
        try:
            self.server.qmp('blockdev-reopen', {
                'options': [c.options() for c in changes]})
        except QmpError as exc:
            # QEMU looks for cycles after each node of the call.
            assert not wanted.is_possible() or \
                (self.server.is_qemu and 'create a cycle' in exc.desc), exc
            assert self.server.graph() == before
            self.n_refused += 1
        else:
            assert wanted.is_possible(), names
            self.model = wanted
            self.n_done += 1

    def toggle_writer(self):
        name = self.random.choice(sorted(self.model.nodes))
        if name in self.model.writers:
            self.server.unexport(f'w-{name}', mode='hard')
            self.model.writers.remove(name)
            return
        possible = not any(self.model.nodes[n].read_only
                           for n in self.model.below(name))
        try:
            self.server.export(name, f'w-{name}')
        except QmpError:
            assert not possible
        else:
            assert possible
            self.model.writers.add(name)

    def check(self):
        links = {}
        graph = self.server.qmp('x-debug-query-block-graph')
        names = {n['id']: n['name'] for n in graph['nodes']}
        for edge in graph['edges']:
            links[names[edge['parent']]] = names[edge['child']]
        entries = self.server.nodes()
        for name, node in self.model.nodes.items():
            assert links[name] == node.file
            assert entries[name]['ro'] == node.read_only
            assert entries[name]['image']['virtual-size'] == \
                len(self.model.content(name))
        for export, name in [('n0', 'n0')] + \
                [(f'w-{n}', n) for n in self.model.writers]:
            client = NbdClient.connect(self.server.nbd_path, export)
            wanted = self.model.content(name)
            # QEMU's exports keep the size they were made with.
            assert client.size == len(wanted) or self.server.is_qemu
            n_bytes = min(client.size, len(wanted))
            assert client.read(0, n_bytes) == wanted[:n_bytes]
            client.close()


@pytest.mark.timeout(120)
def test_random(server, images, seed):
    run = Run(server, images, seed)
    for step in range(N_STEPS):
        if step % 5 == 4:
            run.toggle_writer()
        else:
            run.reopen()
        if step % 4 == 0:
            run.check()
    run.check()
    assert run.n_done > 10 and run.n_refused > 10
