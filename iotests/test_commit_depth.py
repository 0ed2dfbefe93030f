# SPDX-License-Identifier: MIT
"""block-commit with commit-order: depth-first.

What must hold: layers are drained upwards, one at a time, each leaves the
chain when the base has all of it; at every end (success, cancel, error,
kill -9) every layer that is still in the chain reads as before; and a second
run writes to the base only what it does not have.

The clusters of a disk are all combinations of what each layer may have there:
nothing, data, zeroes.  These are the four cases of the seed, and more.
"""

import itertools
import json
import os
import random
import signal
import threading
import time

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job
from .nbd import CMD_WRITE, CMD_WRITE_ZEROES
from .nbd_server import FakeServer
from .qmp import QmpClosed, QmpError
from .server import ServerFailed

pytestmark = pytest.mark.ours('QEMU has no other order')

KIB = 1 << 10
MIB = 1 << 20
CLUSTER = 64 * KIB
EIO = 5


class Chain:
    """base <- l1 <- ... <- ln <- active; ln is what is committed at most."""

    def __init__(self, images, n_layers=3, cluster=CLUSTER, base=None,
                 **options):
        self.images = images
        self.names = [f'l{i}' for i in range(1, n_layers + 1)] + ['active']
        self.combinations = list(itertools.product('.dz', repeat=n_layers))
        self.cluster = cluster
        self.size = len(self.combinations) * cluster
        self.base = base
        self.paths = {}
        if base is None:
            self.base = images.create('base.raw', self.size, fmt='raw')
            images.io(self.base, *(f'write -q -P {1 + i % 250} {i * cluster} '
                                   f'{cluster}'
                                   for i in range(len(self.combinations))))
        below = self.base
        for level, name in enumerate(self.names):
            below = self.paths[name] = self._layer(name, level, below,
                                                   options)
        self.before = self.contents()

    def _layer(self, name, level, below, options):
        path = self.images.path(f'{name}.qcow2')
        text = ','.join(f'{k}={v}' for k, v in dict(
            {'cluster_size': self.cluster}, **options).items())
        qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', below, '-F',
                 'raw' if below == self.base else 'qcow2', '-o', text, path,
                 str(self.size))
        self.images.formats[path] = 'qcow2'
        self.images.allow_leaks(path)
        writes = []
        for i, combination in enumerate(self.combinations):
            what = combination[level] if level < len(combination) else '.'
            at = f'{i * self.cluster} {self.cluster}'
            if what == 'd':
                value = 101 + (level * 37 + i) % 150
                writes.append(f'write -q -P {value} {at}')
            elif what == 'z':
                writes.append(f'write -q -z {at}')
        if writes:
            self.images.io(path, *writes)
        return path

    def chain(self):
        """Names of what is in the chain, by the headers, without the base."""
        entries = self.images.info(self.paths['active'], '-U',
                                   '--backing-chain')
        names = [os.path.basename(e['filename']).split('.')[0]
                 for e in entries[:-1]]
        return names[::-1]

    def contents(self):
        return {name: self.images.content(self.paths[name])
                for name in self.chain()}

    def check(self):
        """All that is in the chain reads as before; what is, in order."""
        now = self.contents()
        for name, data in now.items():
            same_bytes(data, self.before[name], name)
        for name in now:
            self.images.check(self.paths[name], leaks_allowed=True)
        return list(now)

    def boot(self, start_server, env=(), base_node=None, flat=False):
        server = start_server(env=env)
        if base_node:
            server.qmp('blockdev-add', dict(base_node, **{
                'node-name': 'base', 'read-only': True}))
        else:
            server.add_node('base', self.base, driver='raw', read_only=True)
        below = 'base'
        for name in self.chain():
            server.add_node(name, self.paths[name], backing=below,
                            read_only=name != 'active')
            below = name
        return server

    def start(self, server, top=None, **options):
        arguments = dict({'job-id': 'j', 'device': 'active',
                          'top-node': top or self.names[-2],
                          'base-node': 'base',
                          'commit-order': 'depth-first'},
                         **{k.replace('_', '-'): v
                            for k, v in options.items()})
        server.qmp('block-commit', arguments)
        return Job(server, 'j')


def chain_of(server):
    """Of the running server, from the active layer down to the base."""
    names, nodes = [], server.nodes()
    name = 'active'
    while name:
        if nodes[name]['drv'] != 'commit_top':
            names.append(name)
        children = {c['child']: c['node-name']
                    for c in nodes[name]['children']}
        name = children.get('backing') or (
            children.get('file') if nodes[name]['drv'] == 'commit_top'
            else None)
    return names


def bring_to_end(chain, start_server, **boot):
    """A new server, the same command: all layers go."""
    left = chain.chain()
    server = chain.boot(start_server, **boot)
    if left != ['active']:
        job = chain.start(server, top=left[-2])
        job.finish()
    assert chain_of(server) == ['active', 'base']
    server.stop()
    assert chain.check() == ['active']


@pytest.mark.parametrize('n_layers', [1, 2, 3, 4])
def test_all_combinations(start_server, images, n_layers):
    """Every cluster in every combination; the end, and what is above."""
    chain = Chain(images, n_layers)
    server = chain.boot(start_server)
    job = chain.start(server)
    job.finish()
    assert chain_of(server) == ['active', 'base']
    assert server.nodes()['base']['ro']
    server.stop()
    assert chain.check() == ['active']
    with open(chain.base, 'rb') as base:
        same_bytes(base.read(), chain.before[chain.names[-2]], 'the base')


def test_part_of_a_chain(start_server, images):
    """The top may be any layer: those above it stay, and read the same."""
    chain = Chain(images, 4)
    server = chain.boot(start_server)
    chain.start(server, top='l2').finish()
    assert chain_of(server) == ['active', 'l4', 'l3', 'base']
    server.stop()
    assert chain.check() == ['l3', 'l4', 'active']
    bring_to_end(chain, start_server)


def test_layers_leave_at_once(start_server, images):
    """While the next one is drained the query shows the shorter chain."""
    chain = Chain(images, 3)
    server = chain.boot(start_server)
    job = chain.start(server, auto_finalize=False, auto_dismiss=False)
    job.wait('BLOCK_JOB_PENDING')
    assert chain_of(server) == ['active', 'l3', 'base']
    info = job.info()
    assert info['current-progress'] == info['total-progress']
    server.qmp('job-finalize', id='j')
    job.finish()
    assert chain_of(server) == ['active', 'base']
    nodes = server.nodes()
    assert all(nodes[name]['ro'] for name in ('l1', 'l2', 'l3', 'base'))
    server.stop()
    assert chain.check() == ['active']


@pytest.mark.parametrize('options', [
    {'extended_l2': 'on'}, {'compat': '0.10'}, {'lazy_refcounts': 'on'},
    {'refcount_bits': 1}], ids=lambda o: '-'.join(o))
def test_formats(start_server, images, options):
    chain = Chain(images, 3 if options != {'compat': '0.10'} else 2,
                  **options)
    server = chain.boot(start_server)
    chain.start(server).finish()
    server.stop()
    assert chain.check() == ['active']


def mixed(images):
    """Layers of other cluster sizes and lengths, subclusters, partial
    writes, compressed clusters."""
    base = images.create('base.raw', 3 * MIB, fmt='raw')
    images.io(base, 'write -q -P 1 0 3M')
    plan = [
        ('l1', 5 * MIB + 512, 'cluster_size=64k',
         ['write -q -P 11 0 1000k', 'write -q -P 12 2M 1M',
          'write -q -z 1100k 300k', 'write -q -P 13 4M 1M']),
        ('l2', 2 * MIB + 1024, 'cluster_size=4k',
         ['write -q -P 21 100k 50k', 'write -q -P 22 1500k 3k',
          'write -q -P 23 2048k 512']),
        ('l3', 7 * MIB, 'cluster_size=128k,extended_l2=on',
         ['write -q -P 31 70k 5k', 'write -q -P 32 6M 500k',
          'write -q -z 2600k 100k', 'write -q -P 33 3M 20k']),
        ('l4', 6 * MIB + 4608, 'cluster_size=512k',
         ['write -q -P 41 1M 10k', 'write -q -c -P 42 5M 512k']),
        ('active', 8 * MIB, 'cluster_size=64k', ['write -q -P 51 0 4k']),
    ]
    chain = Chain.__new__(Chain)
    chain.images, chain.base, chain.size = images, base, 8 * MIB
    chain.names, chain.paths = [p[0] for p in plan], {}
    below = base
    for name, size, options, writes in plan:
        path = images.path(f'{name}.qcow2')
        qemu_img('create', '-q', '-f', 'qcow2', '-b', below, '-F',
                 'raw' if below == base else 'qcow2', '-o', options, path,
                 str(size))
        images.formats[path] = 'qcow2'
        images.allow_leaks(path)
        images.io(path, *writes)
        chain.paths[name] = below = path
    chain.before = chain.contents()
    return chain


def test_mixed_layers(start_server, images):
    """Short and long layers, large and small clusters: the base grows, and
    what a short layer hid stays hidden."""
    chain = mixed(images)
    server = chain.boot(start_server)
    job = chain.start(server, auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    assert chain_of(server) == ['active', 'l4', 'base']
    server.qmp('job-finalize', id='j')
    job.finish()
    server.stop()
    assert chain.check() == ['active']


def failing_base(chain, sector, **how):
    """A node definition of the base that fails a write of this sector."""
    return {'driver': 'raw', 'file': {
        'driver': 'blkdebug', 'node-name': 'debug',
        'image': {'driver': 'file', 'filename': chain.base},
        'inject-error': [dict({'event': 'none', 'iotype': iotype,
                               'errno': EIO, 'sector': sector,
                               'immediately': True}, **how)
                         for iotype in ('write', 'write-zeroes')]}}


@pytest.mark.parametrize('how', ['error', 'cancel', 'resume', 'kill'])
@pytest.mark.parametrize('batch', [64, 1], ids=['large', 'small'])
@pytest.mark.parametrize('layer', [1, 2, 3])
def test_error_anywhere(start_server, images, layer, batch, how):
    """A write to the base fails while this layer is drained, and fails again
    in the next run; at each end what is in the chain reads the same."""
    chain = Chain(images, 3)
    env = {'BLOCKJOBD_COMMIT_BATCH': str(batch * chain.cluster)}
    wanted = [i for i, c in enumerate(chain.combinations)
              if c[layer - 1] == 'd' and c[layer:layer + 1] in ((), ('.',))
              and set(c[:layer - 1]) <= {'.'}]
    node = failing_base(chain, wanted[-1] * chain.cluster // 512)
    server = chain.boot(start_server, env=env, base_node=node)
    job = chain.start(server, auto_dismiss=False,
                      on_error='report' if how == 'error' else 'stop')
    if how == 'error':
        assert 'Input/output error' in job.error()
    else:
        job.wait('paused')
        assert job.block_info()['io-status'] == 'failed'
    if how == 'resume':
        server.qmp('job-resume', id='j')
        job.wait('BLOCK_JOB_ERROR')
        job.wait('paused')
    if how in ('resume', 'cancel'):
        server.qmp('job-cancel', id='j')
        job.wait('concluded')
    if how == 'kill':
        server.kill()
        server.expect_exit = -9
        server.wait_exit()
    else:
        nodes = server.nodes()
        assert all(nodes[f'l{i}']['ro'] for i in range(1, 4))
        server.stop()
    assert chain.check() == chain.names[layer - 1:]
    server = chain.boot(start_server, env=env, base_node=node)
    job = chain.start(server, auto_dismiss=False)
    assert 'Input/output error' in job.error()
    server.stop()
    assert chain.check() == chain.names[layer - 1:]
    bring_to_end(chain, start_server)


class Counted:
    """A base behind a server that notes each write and outlives ours."""

    def __init__(self, images, size):
        path = images.path('base.sock')
        self.fake = FakeServer(path, size)
        for at in range(0, size, CLUSTER):
            n = min(CLUSTER, size - at)
            self.fake.disk[at:at + n] = bytes(
                [1 + at // CLUSTER % 250]) * n
        self.uri = f'nbd+unix:///?socket={path}'
        self.node = {'driver': 'raw', 'file': {
            'driver': 'nbd',
            'server': {'type': 'unix', 'path': path}}}

    def writes(self):
        """Clusters written, and how often."""
        count = {}
        for kind, offset, length, _ in self.fake.requests:
            if kind in (CMD_WRITE, CMD_WRITE_ZEROES):
                for c in range(offset // CLUSTER,
                               (offset + length - 1) // CLUSTER + 1):
                    count[c] = count.get(c, 0) + 1
        return count


@pytest.fixture
def counted(images):
    made = []

    def make(n_layers):
        c = Counted(images, 3 ** n_layers * CLUSTER)
        made.append(c)
        return c
    yield make
    images.check_all()
    images.formats.clear()
    for c in made:
        c.fake.stop()


def killed(chain, start_server, counted, env=(), at_write=None):
    """Start, and be killed; True if it was before its end."""
    server = chain.boot(start_server, env=env, base_node=counted.node)
    server.expect_exit = -9
    left = chain.chain()
    seen, lock = [0], threading.Lock()

    def behave(kind, offset, length):
        if kind in (CMD_WRITE, CMD_WRITE_ZEROES) and at_write:
            with lock:
                seen[0] += 1
                if seen[0] == at_write:
                    os.kill(server.proc.pid, signal.SIGKILL)
        return 'ok'
    counted.fake.behave = behave
    job = None
    try:
        job = chain.start(server, top=left[-2])
        job.wait('null')
        server.expect_exit = 0
    except (QmpClosed, ConnectionError, ServerFailed):
        server.wait_exit()
    counted.fake.behave = lambda kind, offset, length: 'ok'
    if server.expect_exit == 0:
        server.stop()
        return False
    return True


def wanted_writes(chain):
    """How often the base must get each cluster: from each layer that decides
    what the next one shows."""
    wanted = {}
    for i, c in enumerate(chain.combinations):
        n = sum(own != '.' and above == '.'
                for own, above in zip(c, c[1:] + ('.',)))
        if n:
            wanted[i] = n
    return wanted


def check_writes(chain, count):
    """Each once, but zeroes that are there already need not be."""
    wanted = wanted_writes(chain)
    for i, c in enumerate(chain.combinations):
        allowed = {wanted.get(i, 0)}
        if c == ('z', '.', 'z'):
            allowed.add(1)
        assert count.get(i, 0) in allowed, (i, c, count)


@pytest.mark.timeout(240)
@pytest.mark.parametrize('batch', [1, 3, 1000])
def test_killed_at_every_write(start_server, images, counted, batch):
    """The server dies at a write to the base, again and again; each cluster
    is written once in all runs together."""
    base = counted(3)
    chain = Chain(images, 3, base=base.uri)
    base.fake.requests.clear()
    env = {'BLOCKJOBD_COMMIT_BATCH': str(batch * CLUSTER)}
    n = 0
    while chain.chain() != ['active'] and n < 60 and \
            killed(chain, start_server, base, env, at_write=3):
        chain.check()
        n += 1
    assert n > 2
    chain.check()
    if chain.chain() != ['active']:
        bring_to_end(chain, start_server, base_node=base.node)
    count = base.writes()
    check_writes(chain, count)


POINTS = ['depth-copied', 'depth-flushed', 'depth-freed', 'depth-stable',
          'depth-renamed', 'depth-left']


@pytest.mark.timeout(240)
@pytest.mark.parametrize('nth', [1, 2])
@pytest.mark.parametrize('point', POINTS)
def test_killed_at_points(start_server, images, counted, point, nth):
    """Between any two steps; until it is done."""
    base = counted(3)
    chain = Chain(images, 3, base=base.uri)
    base.fake.requests.clear()
    env = {'BLOCKJOBD_COMMIT_BATCH': str(4 * CLUSTER),
           'BLOCKJOBD_KILL_AT': f'j:{point}:{nth}'}
    n = 0
    while n < 4 and killed(chain, start_server, base, env):
        chain.check()
        n += 1
    assert n > 0
    bring_to_end(chain, start_server, base_node=base.node)
    count = base.writes()
    check_writes(chain, count)


def test_freed_in_the_layer(start_server, images):
    """After a cancel the layer has given up what the base has, and the host
    its space."""
    chain = Chain(images, 2)
    server = chain.boot(
        start_server, env={'BLOCKJOBD_COMMIT_BATCH': str(CLUSTER)},
        base_node=failing_base(chain, 6 * chain.cluster // 512))
    job = chain.start(server, on_error='stop', auto_dismiss=False)
    job.wait('paused')
    server.qmp('job-cancel', id='j')
    job.wait('concluded')
    server.stop()
    assert chain.check() == ['l1', 'l2', 'active']
    own = [e for e in chain.images.map(chain.paths['l1'])
           if e['depth'] == 0]
    offsets = {e['start'] // CLUSTER for e in own}
    # (d, .) is cluster 3: moved.  6 is (z, .): it failed.
    assert 3 not in offsets and 6 in offsets, own


def test_bitmaps_stay(start_server, images):
    """Persistent bitmaps of the layers are not dirtied, nor lost by a
    kill."""
    chain = Chain(images, 2)
    for name in ('l1', 'l2'):
        qemu_img('bitmap', '--add', '-g', '64k', chain.paths[name], 'bm')
        chain.images.io(chain.paths[name], 'write -q -P 99 0 64k')
    chain.before = chain.contents()
    before = {n: qemu_img('bitmap', '--merge', 'bm', '-b',
                          chain.paths[n], chain.paths[n], 'bm')
              for n in ()}
    assert not before
    server = chain.boot(start_server, env={
        'BLOCKJOBD_KILL_AT': 'j:depth-freed'})
    server.expect_exit = -9
    try:
        chain.start(server).wait('null')
    except (QmpClosed, ConnectionError, ServerFailed):
        pass
    server.wait_exit()
    assert chain.check() == ['l1', 'l2', 'active']
    for name in ('l1', 'l2'):
        bitmap = images.bitmaps(chain.paths[name])['bm']
        assert bitmap['flags'] == ['auto'], bitmap
    server = chain.boot(start_server)
    nodes = server.nodes()
    for name in ('l1', 'l2'):
        (bitmap,) = nodes[name]['dirty-bitmaps']
        assert bitmap['count'] == CLUSTER, bitmap
    chain.start(server, top='l1').finish()
    (bitmap,) = server.nodes()['l2']['dirty-bitmaps']
    assert bitmap['count'] == CLUSTER, bitmap
    server.stop()
    assert images.bitmaps(chain.paths['l2'])['bm']['flags'] == ['auto']
    chain.check()


def test_refusals(start_server, images):
    chain = Chain(images, 2)
    server = chain.boot(start_server)
    server.fails('block-commit', {
        'job-id': 'j', 'device': 'active', 'base-node': 'base',
        'commit-order': 'depth-first'},
        desc="'commit-order' depth-first is not for the active layer")
    server.stop()
    qemu_img('snapshot', '-c', 'one', chain.paths['l1'])
    server = chain.boot(start_server)
    with pytest.raises(QmpError) as error:
        chain.start(server)
    assert 'internal snapshots' in error.value.desc
    assert all(server.nodes()[name]['ro'] for name in ('l1', 'l2', 'base'))
    server.stop()
    assert chain.check() == ['l1', 'l2', 'active']


def test_shared_layer(start_server, images):
    """Another chain stands on a layer: it would read otherwise."""
    chain = Chain(images, 3)
    other = images.create('other.qcow2', chain.size,
                          backing=chain.paths['l2'])
    server = chain.boot(start_server)
    server.add_node('other', other, backing='l2', read_only=True)
    with pytest.raises(QmpError) as error:
        chain.start(server)
    assert "Layer 'l2' is the backing file of 'other', too" \
        in error.value.desc
    chain.start(server, top='l1').finish()
    server.stop()
    assert chain.check() == ['l2', 'l3', 'active']


def test_shared_meanwhile(start_server, images):
    chain = Chain(images, 2)
    other = images.create('other.qcow2', chain.size,
                          backing=chain.paths['l1'])
    before = images.content(other)
    server = chain.boot(start_server, base_node=failing_base(
        chain, 3 * chain.cluster // 512, once=True))
    job = chain.start(server, on_error='stop', auto_dismiss=False)
    job.wait('paused')
    server.add_node('other', other, backing='l1', read_only=True)
    server.qmp('job-resume', id='j')
    assert "is the backing file of 'other', too" in job.error()
    server.stop()
    assert chain.check() == ['l1', 'l2', 'active']
    same_bytes(images.content(other), before)


def test_layer_not_writable(start_server, images):
    """It says so before anything is done."""
    chain = Chain(images, 2)
    blocker = start_server(name='blocker')
    blocker.add_node('other', chain.paths['l1'], read_only=True,
                     backing=None, force_share=False)
    blocker.export('other', writable=False)
    server = chain.boot(start_server)
    with pytest.raises(QmpError) as error:
        chain.start(server)
    assert "Layer 'l1' cannot be written" in error.value.desc
    graph = server.nodes()
    assert graph['l1']['ro'] and graph['base']['ro']
    assert 'commit_top' not in {n['drv'] for n in graph.values()}
    server.stop()
    blocker.stop()
    chain.check()


def test_guest_goes_on(start_server, images, guest_on):
    """A guest writes to the active layer and reads through all of it."""
    chain = Chain(images, 3)
    server = chain.boot(start_server,
                        env={'BLOCKJOBD_COMMIT_BATCH': str(2 * CLUSTER)})
    server.export('active')
    guest = guest_on(server, 'active')
    guest.start()
    job = chain.start(server)
    job.finish()
    guest.stop()
    guest.verify()
    model = guest.freeze()
    guest.close()
    server.stop()
    same_bytes(images.content(chain.paths['active']), model, 'the disk')


def test_opened_by_the_header(start_server, images):
    """The chain below one node that was named alone: it is read-only only
    because it is below."""
    chain = Chain(images, 3)
    server = start_server()
    server.add_node('active', chain.paths['active'])
    nodes = server.nodes()
    below = [n['node-name'] for n in nodes.values()
             if n['file'] in chain.paths.values() and n['drv'] == 'qcow2']
    base = [n['node-name'] for n in nodes.values()
            if n['file'] == chain.base and n['drv'] == 'raw']
    top = [n for n in below if nodes[n]['file'] == chain.paths['l3']]
    server.qmp('block-commit', {
        'job-id': 'j', 'device': 'active', 'top-node': top[0],
        'base-node': base[0], 'commit-order': 'depth-first'})
    Job(server, 'j').finish()
    left = {n['file'] for n in server.nodes().values() if n['drv'] == 'qcow2'}
    assert left == {chain.paths['active']}
    server.stop()
    assert chain.check() == ['active']


def test_backing_file(start_server, images):
    """The name for the overlay of the top; others get the base's own."""
    chain = Chain(images, 2)
    server = chain.boot(start_server)
    chain.start(server, backing_file='base.raw').finish()
    server.stop()
    info = images.info(chain.paths['active'])
    assert info['backing-filename'] == 'base.raw'
    assert chain.check() == ['active']


def test_many_jobs_in_a_row(start_server, images):
    """One layer after the other, by jobs of their own."""
    chain = Chain(images, 4)
    server = chain.boot(start_server)
    for name in ('l1', 'l2', 'l3', 'l4'):
        chain.start(server, top=name).finish()
    assert chain_of(server) == ['active', 'base']
    server.stop()
    assert chain.check() == ['active']


def test_query_json_is_qemus(start_server, images):
    """No member that QEMU does not have, unless asked for."""
    chain = Chain(images, 2)
    server = chain.boot(start_server)
    for node in server.qmp('query-named-block-nodes'):
        assert 'invalidated' not in json.dumps(node)


class RandomChain(Chain):
    """Layers of any length and cluster size with anything written to them."""

    def __init__(self, images, rng):
        self.images = images
        self.size = 0
        self.cluster = CLUSTER
        n_layers = rng.randint(1, 5)
        self.names = [f'l{i}' for i in range(1, n_layers + 1)] + ['active']
        self.paths = {}
        sectors = rng.randint(1, 4000)
        fmt = rng.choice(('raw', 'qcow2'))
        self.base = images.create(f'base.{fmt}', sectors * 512, fmt=fmt)
        self._scribble(self.base, sectors, rng, 6)
        below, below_fmt = self.base, fmt
        for name in self.names:
            path = images.path(f'{name}.qcow2')
            sectors = rng.choice((sectors, sectors, rng.randint(1, 4000)))
            qemu_img('create', '-q', '-f', 'qcow2', '-b', below, '-F',
                     below_fmt, '-o', self._options(rng), path,
                     str(sectors * 512))
            images.formats[path] = 'qcow2'
            self._scribble(path, sectors, rng, rng.randint(0, 12))
            self.paths[name] = below = path
            below_fmt = 'qcow2'
        for path in self.paths.values():
            images.allow_leaks(path)
        images.allow_leaks(self.base)
        self.before = self.contents()

    @staticmethod
    def _options(rng):
        cluster = rng.choice((512, 4096, 65536, 65536, 1 << 18))
        options = f'cluster_size={cluster}'
        if cluster >= 16384 and rng.random() < 0.3:
            options += ',extended_l2=on'
        elif rng.random() < 0.2:
            options += ',lazy_refcounts=on'
        return options

    def _scribble(self, path, sectors, rng, n):
        writes = []
        for _ in range(n):
            at = rng.randrange(sectors)
            length = min(rng.choice((1, 3, 8, 128, 200, 1000)), sectors - at)
            if rng.random() < 0.5:
                at = at // 128 * 128
                length = min(max(length // 128, 1) * 128, sectors - at)
            what = rng.choice((f'write -P {rng.randint(1, 255)}',
                               f'write -P {rng.randint(1, 255)}',
                               'write -z', 'write -z -u', 'discard'))
            writes.append(f'{what} {at * 512} {length * 512}')
        if writes:
            self.images.io(path, *writes, options=['-d', 'unmap'])

    def boot(self, start_server, env=(), base_node=None, flat=False):
        base_node = base_node or {
            'driver': self.images.formats[self.base], 'file': {
                'driver': 'file', 'filename': self.base}}
        return super().boot(start_server, env, base_node)


@pytest.mark.timeout(240)
def test_random(start_server, images, seed):
    """Any chain, broken off in any way at any time, again and again."""
    rng = random.Random(f'commit-depth {seed}')
    chain = RandomChain(images, rng)
    for _ in range(rng.randint(0, 3)):
        left = chain.chain()
        if left == ['active']:
            break
        env = {'BLOCKJOBD_COMMIT_BATCH': str(rng.choice(
            (512, 65536, 300000, 1 << 20)))}
        how = rng.choice(('cancel', 'kill', 'point', 'quit'))
        if how == 'point':
            env['BLOCKJOBD_KILL_AT'] = \
                f'j:{rng.choice(POINTS)}:{rng.randint(1, 12)}'
        break_off(chain, start_server, rng, how, env)
        chain.check()
    if chain.chain() != ['active']:
        server = chain.boot(start_server)
        chain.start(server, top=chain.chain()[-2]).finish()
        server.stop()
    assert chain.check() == ['active']


def break_off(chain, start_server, rng, how, env):
    server = chain.boot(start_server, env=env)
    top = rng.choice(chain.chain()[:-1])
    speed = rng.choice((0, 200000, 2000000))
    try:
        job = chain.start(server, top=top, speed=speed)
        if how == 'point':
            job.wait('null', timeout=60)
            server.stop()
            return
        for _ in range(rng.randrange(8)):
            server.qmp('query-block-jobs')
        time.sleep(rng.random() * 0.2)
        if how == 'cancel':
            try:
                server.qmp('job-cancel', id='j')
            except QmpError:
                pass            # it was faster
            job.wait('null')
    except (QmpClosed, ConnectionError, ServerFailed):
        assert how == 'point'
        server.expect_exit = -9
        server.wait_exit()
        return
    if how == 'kill':
        server.expect_exit = -9
        server.kill()
        server.wait_exit()
    else:
        server.stop()


@pytest.mark.parametrize('n', [1, 5])
def test_hung_base(start_server, images, counted, n):
    """A base that does not answer: a cancel does not wait for it."""
    base = counted(2)
    chain = Chain(images, 2, base=base.uri)
    server = chain.boot(start_server, base_node=base.node)
    seen = []

    def behave(kind, offset, length):
        if kind in (CMD_WRITE, CMD_WRITE_ZEROES):
            seen.append(offset)
            if len(seen) >= n:
                hung.set()
                return 'hang'
        return 'ok'
    hung = threading.Event()
    base.fake.behave = behave
    job = chain.start(server, auto_dismiss=False)
    assert hung.wait(15)
    server.qmp('job-cancel', id='j')
    job.wait('concluded')
    server.stop()
    base.fake.behave = lambda kind, offset, length: 'ok'
    base.fake.go_away()
    base.fake.listen()
    assert chain.check() == chain.names[0 if n == 1 else 1:]
    bring_to_end(chain, start_server, base_node=base.node)


@pytest.mark.parametrize('event', ['l2_update'])
def test_layer_fails(start_server, images, event):
    """The layer cannot store what it gave up: the job stops, and goes on."""
    chain = Chain(images, 2)
    server = start_server()
    server.add_node('base', chain.base, driver='raw', read_only=True)
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'l1', 'read-only': True,
        'backing': 'base', 'file': {
            'driver': 'blkdebug', 'image': {
                'driver': 'file', 'filename': chain.paths['l1']},
            'inject-error': [{'event': event, 'errno': 28, 'once': True,
                              'immediately': True}]}})
    server.add_node('l2', chain.paths['l2'], read_only=True, backing='l1')
    server.add_node('active', chain.paths['active'], backing='l2')
    job = chain.start(server, on_error='enospc')
    job.wait('paused')
    assert job.block_info()['io-status'] == 'nospace'
    server.qmp('job-resume', id='j')
    job.finish()
    server.stop()
    assert chain.check() == ['active']


def test_filters_in_the_chain(start_server, images):
    """Filters between layers are no layers, and leave with them."""
    chain = Chain(images, 2)
    server = start_server()
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'tg'})
    server.add_node('base', chain.base, driver='raw', read_only=True)
    below = 'base'
    for name in ('l1', 'l2', 'active'):
        server.qmp('blockdev-add', {
            'driver': 'throttle', 'throttle-group': 'tg',
            'node-name': f'{name}-below', 'file': below, 'read-only': True})
        server.add_node(name, chain.paths[name], backing=f'{name}-below',
                        read_only=name != 'active')
        below = name
    chain.start(server).finish()
    nodes = server.nodes()
    assert {c['node-name'] for c in nodes['active']['children']
            if c['child'] == 'backing'} <= {'base', 'active-below'}
    server.stop()
    assert chain.check() == ['active']


def test_pause_and_speed(start_server, images):
    """Between any two copies; the limit holds from batch to batch."""
    chain = Chain(images, 3)
    server = chain.boot(start_server,
                        env={'BLOCKJOBD_COMMIT_BATCH': str(CLUSTER)})
    job = chain.start(server, speed=4 * CLUSTER)
    for _ in range(3):
        job.pause()
        before = job.info()['current-progress']
        server.qmp('query-named-block-nodes')
        assert job.info()['current-progress'] == before
        job.resume()
    server.fails('block-commit', {
        'job-id': 'k', 'device': 'active', 'top-node': 'l3',
        'base-node': 'base', 'commit-order': 'depth-first'})
    server.fails('blockdev-del', node_name='l1')
    job.set_speed(0)
    job.finish()
    server.stop()
    assert chain.check() == ['active']


def test_large(start_server, images):
    """More than a batch: what is copied without a look, too."""
    base = images.create('base.qcow2', '200M')
    mid = images.create('l1.qcow2', '200M', backing=base)
    active = images.create('active.qcow2', '200M', backing=mid)
    images.io(base, 'write -q -P 1 10M 100M')
    images.io(mid, 'write -q -P 2 5M 90M', 'write -q -z 100M 70M',
              'write -q -P 3 180M 7M')
    images.io(active, 'write -q -P 4 50M 2M')
    before = images.content(active)
    server = start_server()
    server.add_node('active', active)
    nodes = {n['file']: n['node-name'] for n in server.nodes().values()
             if n['drv'] == 'qcow2'}
    server.qmp('block-commit', {
        'job-id': 'j', 'device': 'active', 'top-node': nodes[mid],
        'base-node': nodes[base], 'commit-order': 'depth-first'})
    Job(server, 'j').finish()
    server.stop()
    same_bytes(images.content(active), before)
    assert images.map(mid)[0]['depth'] == 1
