# SPDX-License-Identifier: MIT
"""Random graphs, random operations, random failures, against a model.

A disk is a chain of qcow2 layers, each on a file, a part of one, two that are
equal, or another server; its top is exported and written by a guest.
Snapshots add layers; filters are put between a layer and its file by
blockdev-reopen and taken out again, some of them with errors to inject;
copy-before-write keeps points in time meanwhile; wrong commands are tried; the
server is restarted.  After every step the disk reads as the model, each frozen
layer and each point in time read as they did, and a refused command has
changed nothing.

With --server blockjobd a QEMU does the same beside it: what one refuses the
other refuses, and their graphs are equal.
"""

import copy
import os
import random

import pytest

from .guest import Guest
from .images import qemu_img, run_tool, same_bytes
from .layer_files import KINDS, file_node
from .nbd import NbdError
from .qmp import QmpError
from .server import Server
from .test_graph_random import graph

SIZE = 2 << 20
UNIT = 512
EVENTS = ['write_aio', 'pwritev', 'flush_to_disk', 'l2_update',
          'cluster_alloc', 'refblock_update', 'cow_write', 'l2_alloc_write']
FILTERS = [{'driver': 'throttle', 'throttle-group': 'g'},
           {'driver': 'copy-on-read'}, {'driver': 'blkdebug'},
           {'driver': 'raw'},
           {'driver': 'preallocate', 'prealloc-size': 1 << 20,
            'prealloc-align': 64 << 10}]
KEEPERS = ['snap', 'cbw', 'temp', 'tempf']      # in the order they go


class Uncertain:
    """Sectors that a failed write may have reached, and with what."""

    def __init__(self):
        self.sectors = {}

    def failed(self, offset, data):
        for at in range(0, len(data), UNIT):
            self.sectors.setdefault(offset + at, []).append(
                bytes(data[at:at + UNIT]))

    def done(self, offset, length):
        for at in range(offset, offset + length, UNIT):
            self.sectors.pop(at, None)

    def settle(self, guest):
        """Learn what these sectors hold now: the old, or what was tried."""
        for at, tried in self.sectors.items():
            got = guest.nbd.read(at, UNIT)
            assert got == guest.model[at:at + UNIT] or got in tried, \
                f'sector at {at:#x} holds what nobody wrote'
            guest.model[at:at + UNIT] = got
        self.sectors.clear()


class Disk:
    """One server with the chain, its guest and the model."""

    def __init__(self, server, options, kind):
        self.server = server
        self.far = None
        self.options = options      # of qemu-img create
        self.layers = []            # names, bottom first
        self.files = {}             # layer: what it lies on
        self.filters = {}           # layer: name of the filter over its file
        self.frozen = {}            # layer: content
        self.kept = None            # content, of 'snap'
        self.zeroed = False         # the guest wrote zeroes since
        self.uncertain = Uncertain()
        self.damaged = False        # errors were injected: leaks are allowed
        self.guest = None
        self.create('l0', kind)
        self.start()
        self.add_layer('l0')
        self.layers.append('l0')
        self.export()

    # The server

    def start(self):
        self.server.start()
        self.server.qmp('object-add', {
            'qom-type': 'throttle-group', 'id': 'g', 'limits': {}})

    def far_server(self):
        if not self.far:
            self.far = Server(self.server.setup, name='far').start()
        return self.far

    def stop(self):
        self.server.stop()
        if self.far:
            self.far.stop()

    def export(self):
        self.server.export('cbw' if self.kept else self.layers[-1], 'disk')
        model = self.guest and self.guest.model
        self.guest = Guest(self.server.nbd_path, 'disk')
        if model is not None:
            same_bytes(bytes(self.guest.model), bytes(model), 'restarted')

    def restart(self):
        if self.kept:
            self.let_go()
        self.guest.close()
        self.server.quit()
        self.check_images()
        self.filters.clear()
        self.server = Server(self.server.setup)
        self.start()
        for name in self.layers:
            self.add_layer(name)
        self.export()

    def attempt(self, command, arguments):
        """None, or the error.  A refused command leaves all as it was."""
        before = graph(self.server)
        try:
            self.server.qmp(command, arguments)
        except QmpError as exc:
            assert graph(self.server) == before, (command, arguments)
            return str(exc)
        return None

    # Layers

    def create(self, layer, kind):
        self.files[layer] = KINDS[kind](self, layer)
        self.files[layer].create(self.options, SIZE)

    def add_layer(self, layer):
        below = self.layers.index(layer) if layer in self.layers else 0
        backing = self.layers[below - 1] if below else None
        for node in self.files[layer].nodes():
            self.server.qmp('blockdev-add', node)
        self.server.qmp('blockdev-add', self.layer_options(layer, backing))

    def drop_layer(self, layer):
        self.server.qmp('blockdev-del', {'node-name': layer})
        for node in reversed(self.files[layer].nodes()):
            self.server.qmp('blockdev-del', {'node-name': node['node-name']})

    def layer_options(self, layer, backing, file=None):
        return {'driver': 'qcow2', 'node-name': layer, 'discard': 'unmap',
                'file': file or self.filters.get(layer, f'{layer}f'),
                'backing': backing, 'read-only': False,
                'auto-read-only': True}

    def reopened(self, layer, file=None, **changes):
        at = self.layers.index(layer)
        options = self.layer_options(
            layer, self.layers[at - 1] if at else None, file)
        options.update(changes)
        return 'blockdev-reopen', {'options': [options]}

    def snapshot(self, overlay, kind):
        self.uncertain.settle(self.guest)
        self.create(overlay, kind)
        self.add_layer(overlay)
        top = self.layers[-1]
        error = self.attempt('blockdev-snapshot',
                             {'node': top, 'overlay': overlay})
        if error:
            self.drop_layer(overlay)
        else:
            self.frozen[top] = self.guest.freeze()
            self.layers.append(overlay)
        return error

    def aborted_snapshot(self, overlay):
        """In a transaction that fails at its end."""
        self.create(overlay, 'file')
        self.add_layer(overlay)
        error = self.attempt('transaction', {'actions': [
            {'type': 'blockdev-snapshot',
             'data': {'node': self.layers[-1], 'overlay': overlay}},
            {'type': 'abort', 'data': {}}]})
        self.drop_layer(overlay)
        self.files.pop(overlay).unlink()
        return error

    # A point in time

    def keep(self, fleecing):
        """Copy-before-write over the top, and what it keeps exported.
        Fleecing: the top is the backing file of what it copies to."""
        path = os.path.join(self.server.directory, 'temp.qcow2')
        self.uncertain.settle(self.guest)
        self.kept, self.zeroed = self.guest.freeze(), False
        self.guest.nbd.disconnect()
        self.server.unexport('disk')
        qemu_img('create', '-q', '-f', 'qcow2', path, str(SIZE))
        top = self.layers[-1]
        for node in (
                file_node('tempf', path),
                {'driver': 'qcow2', 'node-name': 'temp', 'file': 'tempf',
                 'backing': top if fleecing else None, 'discard': 'unmap'},
                {'driver': 'copy-before-write', 'node-name': 'cbw',
                 'file': top, 'target': 'temp', 'discard': 'unmap'},
                {'driver': 'snapshot-access', 'node-name': 'snap',
                 'file': 'cbw'}):
            self.server.qmp('blockdev-add', node)
        self.server.export('snap', writable=False)
        self.export()

    def verify_kept(self):
        # QEMU 7.2 does not always copy before zeroes are written.
        if not (self.server.is_qemu and self.zeroed):
            look = Guest(self.server.nbd_path, 'snap')
            same_bytes(bytes(look.model), self.kept, 'kept')
            look.close()

    def let_go(self):
        self.verify()
        self.verify_kept()
        self.guest.nbd.disconnect()
        for name in ('snap', 'disk'):
            self.server.unexport(name, mode='hard')
        for name in KEEPERS:
            self.server.qmp('blockdev-del', {'node-name': name})
        self.kept = None
        self.export()

    # Filters

    def insert(self, layer, options):
        name = f'{layer}x'
        child = 'image' if options['driver'] == 'blkdebug' else 'file'
        self.server.qmp('blockdev-add', dict(
            options, **{'node-name': name, child: f'{layer}f'}))
        error = self.attempt(*self.reopened(layer, file=name))
        if error:
            self.server.qmp('blockdev-del', {'node-name': name})
        else:
            self.filters[layer] = name
        return error

    def remove(self, layer):
        """The filter may fail a few flushes yet."""
        for _ in range(40):
            error = self.attempt(*self.reopened(layer, file=f'{layer}f'))
            if not error:
                break
        assert not error, error
        self.server.qmp('blockdev-del',
                        {'node-name': self.filters.pop(layer)})

    # The guest

    def write(self, offset, data, kind):
        try:
            self.zeroed |= kind != 'data'
            if kind == 'zero':
                self.guest.zero(offset, len(data))
            elif kind == 'trim':
                self.uncertain.settle(self.guest)
                self.guest.trim(offset, len(data))
            else:
                self.guest.write(offset, data)
            self.uncertain.done(offset, len(data))
        except NbdError:
            assert self.damaged, self.server.setup.kind
            self.uncertain.failed(
                offset, data if kind == 'data' else bytes(len(data)))

    # Looking

    def verify(self):
        self.uncertain.settle(self.guest)
        self.guest.verify()

    def verify_frozen(self, layer):
        self.server.export(layer, 'look', writable=False)
        look = Guest(self.server.nbd_path, 'look')
        same_bytes(bytes(look.model), self.frozen[layer], layer)
        look.close()
        self.server.unexport('look', mode='hard')

    def check_images(self):
        for layer in self.layers:
            code, text = run_tool('qemu-img', 'check', '-q', '-U',
                                  self.files[layer].name(), check=False)
            assert code == 0 or (code == 3 and self.damaged), text

    def finish(self):
        self.verify()
        self.guest.close()
        self.server.quit()
        self.check_images()


class Both:
    """The same steps on all disks; what they answer must agree."""

    def __init__(self, disks, seed):
        self.disks = disks
        self.rand = random.Random(seed)
        self.n_layers = 1
        self.fleecing = False       # when a point in time was last kept

    def each(self, step):
        """Do it on all; whether it was refused must be the same."""
        answers = [step(disk) for disk in self.disks]
        refused = [answer is not None for answer in answers]
        assert len(set(refused)) == 1, answers
        graphs = [graph(disk.server) for disk in self.disks]
        for other in graphs[1:]:
            assert other == graphs[0], (
                [e for e in other if e not in graphs[0]],
                [e for e in graphs[0] if e not in other])
        return answers[0]

    # Steps

    def writes(self, n_writes=4, trims=True):
        for _ in range(n_writes):
            length = self.rand.choice((1, 8, 100, 300)) * UNIT
            offset = self.rand.randrange(0, SIZE - length + 1, UNIT)
            if self.rand.random() < .3:
                offset %= 64 << 10
            data = self.rand.randbytes(16) * (length // 16)
            kind = self.rand.choice(('data', 'data', 'data', 'zero',
                                     'trim' if trims else 'zero'))
            for disk in self.disks:
                disk.write(offset, data, kind)

    def snapshot(self):
        if self.n_layers < 8:
            name = f'l{self.n_layers}'
            self.n_layers += 1
            kind = self.rand.choice(list(KINDS))
            error = self.each(lambda disk: disk.snapshot(name, kind))
            assert bool(error) == (self.fleecing and
                                   self.disks[0].kept is not None), error

    def aborted_snapshot(self):
        assert self.each(lambda disk: disk.aborted_snapshot('gone'))

    def wrong_command(self):
        first = self.disks[0]
        layer = self.rand.choice(first.layers)
        other = self.rand.choice(first.layers)
        top = first.layers[-1]
        choice = self.rand.choice([
            ('blockdev-snapshot', {'node': layer, 'overlay': other}),
            ('blockdev-snapshot', {'node': top, 'overlay': 'nope'}),
            ('blockdev-snapshot', {'node': 'nope', 'overlay': top}),
            ('blockdev-snapshot', {'node': top, 'overlay': f'{layer}f'}),
            ('blockdev-del', {'node-name': layer}),
            ('blockdev-del', {'node-name': f'{layer}f'}),
            ('blockdev-del', {'node-name': self.rand.choice(KEEPERS)}),
            ('block_resize', {'node-name': top, 'size': SIZE * 2}),
            first.reopened(layer, driver='raw'),
            first.reopened(layer, **{'node-name': 'nope'}),
            first.reopened(layer, file='nope'),
            first.reopened(layer, backing=top),
            first.reopened(layer, **{'l2-cache-entry-size': 1000}),
            first.reopened(top, **{'read-only': True}),
        ])
        assert self.each(lambda disk: disk.attempt(*choice)) is not None, \
            choice

    def filter(self):
        layer = self.rand.choice(self.disks[0].layers)
        if layer in self.disks[0].filters:
            self.each(lambda disk: disk.remove(layer))
            return
        options = self.rand.choice(FILTERS)
        if options['driver'] == 'preallocate' and \
                not self.disks[0].files[layer].can_shrink:
            return
        self.each(lambda disk: disk.insert(layer, options))

    def failures(self):
        """Errors below the top layer while the guest writes."""
        top = self.disks[0].layers[-1]
        if top in self.disks[0].filters:
            self.each(lambda disk: disk.remove(top))
        options = {'driver': 'blkdebug', 'inject-error': [
            {'event': self.rand.choice(EVENTS), 'once': True,
             'errno': self.rand.choice((5, 28))}
            for _ in range(self.rand.randint(1, 6))]}
        if self.each(lambda disk: disk.insert(top, options)):
            return
        for disk in self.disks:
            disk.damaged = True
        # QEMU 7.2 hangs up on a trim that fails.
        self.writes(6, trims=False)
        for disk in self.disks:
            disk.remove(top)

    def keep(self):
        if self.disks[0].kept:
            self.each(lambda disk: disk.let_go())
        else:
            self.fleecing = self.rand.random() < .5
            self.each(lambda disk: disk.keep(self.fleecing))

    def look(self):
        for disk in self.disks:
            disk.verify()
            if disk.kept:
                disk.verify_kept()
        frozen = list(self.disks[0].frozen)
        if frozen:
            layer = self.rand.choice(frozen)
            for disk in self.disks:
                disk.verify_frozen(layer)

    def restart(self):
        for disk in self.disks:
            disk.verify()
            disk.restart()

    def step(self):
        self.rand.choices(
            [self.writes, self.snapshot, self.aborted_snapshot,
             self.wrong_command, self.filter, self.failures, self.keep,
             self.look, self.restart],
            [30, 8, 5, 20, 20, 8, 8, 10, 3])[0]()


OPTIONS = ['cluster_size=64k', 'cluster_size=512', 'cluster_size=4k',
           'extended_l2=on', 'lazy_refcounts=on', 'refcount_bits=64',
           'compat=0.10']


@pytest.fixture
def disks(setup, directory, seed):
    """Ours and QEMU's, or QEMU's alone."""
    kinds = ['qemu'] if setup.kind == 'qemu' else ['blockjobd', 'qemu']
    made = []
    for kind in kinds:
        own = copy.copy(setup)
        own.kind = kind
        own.directory = os.path.join(directory, kind)
        own.schema = lambda machine: None
        os.mkdir(own.directory)
        made.append(Disk(Server(own), OPTIONS[seed % len(OPTIONS)],
                         list(KINDS)[seed // len(OPTIONS) % len(KINDS)]))
    yield made
    for disk in made:
        disk.stop()


@pytest.mark.timeout(120)
def test_graph_against_model(disks, seed):
    both = Both(disks, seed)
    for _ in range(60):
        both.step()
    both.look()
    for disk in disks:
        disk.finish()
