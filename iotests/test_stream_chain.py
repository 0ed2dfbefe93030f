# SPDX-License-Identifier: MIT
"""block-stream beside other things in one chain: other streams, commits,
filters, snapshots; whatever ends first."""

import os
import random

import pytest

from .images import qemu_img, same_bytes
from .jobs import Job, start_stream
from .layers import MIB, Layers
from .nbd import NbdClient
from .qmp import QmpError

SIZE = 32 * MIB


@pytest.fixture
def tall(server, images):
    """a <- b <- ... <- i, 3 MiB of data in each, half of it hidden."""
    layers = Layers(server, images, 'abcdefghi', size=SIZE, data=False)
    for i, name in enumerate(layers.names):
        layers.write(name, f'write -P {i + 1} {3 * i}M 4M',
                     f'write -P {i + 101} {SIZE - (9 - i) * 65536} 32k')
    layers.before = layers.content()
    return layers


def reads(layers, name):
    layers.server.export(name, writable=False)
    client = NbdClient.connect(layers.server.nbd_path, name)
    data = client.read(0, layers.size)
    client.disconnect()
    layers.server.unexport(name)
    return data


def judge(server, layers):
    """All that is left of the chain reads as it did."""
    same_bytes(reads(layers, 'i'), layers.before)
    server.stop()
    layers.same(layers.before, 'i')


# Several streams

def test_streams_side_by_side(server, tall, guest_on):
    tall.open()
    server.export('i')
    guest = guest_on(server, 'i')
    guest.start()
    parts = (('i', 'g'), ('g', 'e'), ('e', 'c'), ('c', 'a'))
    jobs = [start_stream(server, device, base_node=base, speed=1,
                         job_id=f'{device}{base}') for device, base in parts]
    guest.wait_writes(50)
    for job in reversed(jobs):
        try:
            job.set_speed(0)
        except QmpError:
            # There each drain lets a job make a step, whatever its speed.
            assert server.is_qemu and job.status() == 'concluded'
    for job in jobs:
        job.finish()
    guest.stop()
    guest.verify()
    tall.before = guest.freeze()
    guest.close()
    server.unexport('i')
    assert tall.below('i') == ['g', 'e', 'c', 'a']
    for device, base in parts:
        assert tall.header(device) == (tall.path(base), 'qcow2')
    judge(server, tall)


@pytest.mark.parametrize('first', ['upper', 'lower', 'both'])
def test_base_changes(server, tall, first):
    """The base of one is what the other streams: its filter comes and goes,
    its backing file changes."""
    tall.open()
    upper = start_stream(server, 'i', base_node='e', speed=1, job_id='upper')
    lower = start_stream(server, 'e', base_node='b', speed=1, job_id='lower')
    if first in ('upper', 'both'):
        upper.set_speed(0)
    if first in ('lower', 'both'):
        lower.set_speed(0)
    if first == 'upper':
        upper.finish()
        lower.set_speed(0)
    if first == 'lower':
        lower.finish()
        upper.set_speed(0)
        upper.finish()
    if first == 'both':
        upper.finish()
    if first != 'lower':
        lower.finish()
    assert tall.below('i') == ['e', 'b', 'a']
    judge(server, tall)


def test_streams_that_end_by_hand(server, tall):
    """All pending, ended in any order."""
    tall.open()
    jobs = []
    for device, base in ('ig', 'ge', 'ec', 'ca'):
        job = start_stream(server, device, base_node=base, job_id=device,
                           auto_finalize=False)
        job.wait('BLOCK_JOB_PENDING')
        jobs.append(job)
    assert tall.below('c') == ['b', 'a']
    for job in (jobs[2], jobs[0], jobs[3], jobs[1]):
        server.qmp('job-finalize', id=job.id)
        job.finish()
    assert tall.below('i') == ['g', 'e', 'c', 'a']
    judge(server, tall)


@pytest.mark.parametrize('order', range(4))
def test_stream_beside_commit(server, tall, order):
    """Neighbours that end at the same time."""
    tall.open()
    server.qmp('block-commit', {
        'device': 'i', 'job-id': 'commit', 'top-node': 'd',
        'base-node': 'b', 'speed': 1, 'auto-dismiss': False})
    stream = start_stream(server, 'h', base_node='e', speed=1)
    commit = Job(server, 'commit')
    jobs = [stream, commit] if order & 1 else [commit, stream]
    for job in jobs:
        job.set_speed(0)
        if order & 2:
            job.finish()
    if not order & 2:
        for job in jobs:
            job.finish()
    assert tall.below('i') == ['h', 'e', 'b', 'a']
    assert tall.header('h') == (tall.path('e'), 'qcow2')
    assert tall.header('e') == (tall.path('b'), 'qcow2')
    judge(server, tall)


@pytest.mark.ours('QEMU 7.2 takes it')
def test_base_below_a_commit(server, tall):
    """A filter that goes with its job is nothing to count on."""
    tall.open()
    server.qmp('block-commit', {
        'device': 'i', 'job-id': 'commit', 'top-node': 'd',
        'base-node': 'b', 'speed': 1, 'filter-node-name': 'filter'})
    server.fails('block-stream', device='f', base_node='d', job_id='j',
                 desc="Cannot freeze 'backing' link to 'filter'")
    start_stream(server, 'f', base_node='filter').finish()
    commit = Job(server, 'commit')
    commit.set_speed(0)
    commit.wait('null')
    assert tall.below('i') == ['h', 'g', 'f', 'b', 'a']
    judge(server, tall)


def test_snapshot_above(server, images, tall):
    """The guest's disk gets an overlay while a layer below is streamed."""
    tall.open()
    job = start_stream(server, 'g', base_node='c', speed=1)
    images.create('new.qcow2', None, backing=tall.path('i'))
    server.add_node('new', images.path('new.qcow2'), backing=None)
    server.qmp('blockdev-snapshot', node='i', overlay='new')
    job.let_run()
    job.finish()
    assert tall.below('i') == ['h', 'g', 'c', 'b', 'a']
    judge(server, tall)


# Filters

@pytest.fixture
def filtered(server, images):
    """td -> d -> tc -> c -> cb -> b -> ta -> a; throttles, and a
    copy-on-read filter over b."""
    layers = Layers(server, images, 'abcd')
    layers.before = layers.content()
    server.qmp('object-add', qom_type='throttle-group', id='group')
    server.add_node('a', layers.path('a'), backing=None)
    layers.add_filter('ta', 'a')
    server.add_node('b', layers.path('b'), backing='ta')
    layers.add_filter('cb', 'b', driver='copy-on-read')
    server.add_node('c', layers.path('c'), backing='cb')
    layers.add_filter('tc', 'c')
    server.add_node('d', layers.path('d'), backing='tc')
    layers.add_filter('td', 'd')
    return layers


@pytest.mark.parametrize('options, below, header', [
    ({'device': 'td'}, ['d'], None),
    ({'device': 'td', 'base-node': 'ta'}, ['d', 'ta', 'a'], 'a'),
    ({'device': 'd', 'base-node': 'a'}, ['d', 'a'], 'a'),
    ({'device': 'd', 'bottom': 'b'}, ['d', 'ta', 'a'], 'a'),
    ({'device': 'd', 'bottom': 'a'}, ['d'], None),
    ({'device': 'td', 'base-node': 'c'},
     ['d', 'c', 'cb', 'b', 'ta', 'a'], 'c'),
    ({'device': 'td', 'base-node': 'tc'},
     ['d', 'tc', 'c', 'cb', 'b', 'ta', 'a'], 'c'),
    ({'device': 'td', 'bottom': 'd'},
     ['d', 'tc', 'c', 'cb', 'b', 'ta', 'a'], 'c'),
    ({'device': 'td', 'bottom': 'c'}, ['d', 'cb', 'b', 'ta', 'a'], 'b'),
    ({'device': 'd', 'base-node': 'b'}, ['d', 'b', 'ta', 'a'], 'b'),
], ids=str)
def test_filters(server, filtered, options, below, header):
    """Between the overlay and the base they leave the chain; what is the
    base stays, and the header names the image below it."""
    job_id = {'job-id': 'stream', 'auto-dismiss': False}
    server.qmp('block-stream', dict(options, **job_id))
    job = Job(server, 'stream')
    job.finish()
    noop = options.get('bottom') == 'd' or \
        options.get('base-node') in ('c', 'tc')
    assert job.events['BLOCK_JOB_COMPLETED']['len'] == \
        (0 if noop else filtered.size)
    assert filtered.below('td') == below
    name, fmt = filtered.header('d')
    if header is None:
        assert name is None
    else:
        assert fmt == 'qcow2' and filtered.path(header) in name
    same_bytes(reads(filtered, 'td'), filtered.before)
    if name and name.startswith('json:'):
        server.stop()           # names nodes that qemu-img cannot make
        filtered.images.ignore(filtered.path('d'))


def test_filtered_image_is_no_base(server, filtered):
    server.fails('block-stream', device='td', base_node='d', job_id='j',
                 desc="'d' is not in the backing chain of 'td'")
    server.fails('block-stream', device='d', bottom='tc', job_id='j',
                 desc="Node 'tc' is a filter, use a non-filter node as "
                      "'bottom'")


def test_throttled_chain(server, images):
    """The limit of a layer holds; a cancel does not wait for it."""
    layers = Layers(server, images, 'ab', data=False)
    layers.write('a', 'write -P 3 0 8M')
    before = layers.content()
    server.qmp('object-add', qom_type='throttle-group', id='group',
               limits={'bps-total': 65536})
    server.add_node('a', layers.path('a'), backing=None)
    layers.add_filter('slow', 'a')
    server.add_node('b', layers.path('b'), backing='slow')
    job = start_stream(server, 'b')
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    assert layers.below('b') == ['slow', 'a']
    server.qmp('qom-set', path='/objects/group', property='limits',
               value={'bps-total': 0})
    start_stream(server, 'b').finish()
    server.stop()
    layers.same(before)


@pytest.mark.parametrize('place', ['over', 'under'])
def test_copy_on_read_of_a_user(server, images, guest_on, place):
    """A user's copy-on-read filter over what is streamed, or streamed
    itself: guests read and write through both."""
    if server.is_qemu and place == 'under':
        pytest.skip('QEMU takes the image for one between')
    layers = Layers(server, images, 'abc', size=16 * MIB)
    layers.write('a', 'write -P 9 4M 12M')
    layers.open()
    server.qmp('blockdev-add', driver='copy-on-read', node_name='cor',
               file='c')
    server.export('cor')
    guest = guest_on(server, 'cor')
    other = NbdClient.connect(server.nbd_path, 'cor')
    guest.start()
    guest.wait_writes(10)
    job = start_stream(server, 'c' if place == 'over' else 'cor',
                       speed=4 * MIB)
    for at in range(0, 16 * MIB, MIB):
        other.read(at, MIB)
        guest.wait_writes(5)
    job.let_run()
    job.finish()
    other.disconnect()
    guest.stop()
    guest.verify()
    model = guest.freeze()
    guest.close()
    assert layers.below('cor') == ['c']
    server.stop()
    layers.same(model)


def test_quorum_child(server, images):
    """What is above the streamed node need not be an image."""
    layers = Layers(server, images, 'ab').open()
    other = Layers(server, images, 'xy').open()
    server.qmp('blockdev-add', driver='quorum', node_name='quorum',
               children=['b', 'y'], vote_threshold=2)
    server.export('quorum')
    client = NbdClient.connect(server.nbd_path, 'quorum')
    before = client.read(0, layers.size)
    job = start_stream(server, 'b', speed=1)
    client.write(4 * MIB, b'q' * 65536)
    job.let_run()
    job.finish()
    start_stream(server, 'y').finish()
    after = client.read(0, layers.size)
    client.disconnect()
    assert after[:4 * MIB] == before[:4 * MIB]
    server.stop()
    layers.same(after, 'b')
    other.same(after, 'y')


# At random

@pytest.mark.timeout(120)
def test_random(server, images, guest_on, seed):
    """Random layers, random streams of parts of the chain, several at once,
    paused, cancelled, run again; the guest's disk is the model."""
    rnd = random.Random(seed)
    names = 'abcdefg'
    layers = Layers(server, images, names, size=8 * MIB + 1536, data=False,
                    cluster_size=rnd.choice((512, 4096, 65536, 2 * MIB)))
    for i, name in enumerate(names):
        layers.write(name, *[
            rnd.choice((f'write -P {i + 1}', 'write -z', f'write -P {i + 50}'))
            + f' {rnd.randrange(15500) * 512} {rnd.randint(1, 700) * 512}'
            for _ in range(6)])
    layers.open()
    server.export('g')
    guest = guest_on(server, 'g', seed=seed, trims=True)
    guest.start()
    jobs = {}
    for step in range(25):
        device, base = sorted(rnd.sample(range(len(names)), 2), reverse=True)
        options = rnd.choice(({'base-node': names[base]},
                              {'bottom': names[base]}, {}))
        job_id = f'j{step}'
        try:
            server.qmp('block-stream', dict(
                {'device': names[device], 'job-id': job_id,
                 'speed': rnd.choice((0, 0, 65536, 4 * MIB))}, **options))
            jobs[job_id] = Job(server, job_id)
        except QmpError as exc:     # busy, or no longer in the chain
            text = exc.desc
            assert 'busy' in text or 'backing image' in text or \
                'in a chain' in text, text
        guest.wait_writes(rnd.randint(1, 10))
        for job_id in list(jobs):
            verb = rnd.choice(('job-cancel', 'job-pause', 'job-resume', None,
                               None, 'speed'))
            try:
                if verb == 'speed':
                    jobs[job_id].set_speed(0)
                elif verb:
                    server.qmp(verb, id=job_id)
            except QmpError as exc:     # it may be over
                text = exc.desc
                assert 'not found' in text or 'cannot accept' in text or \
                    'paused' in text, text
    left = {job['id'] for job in server.qmp('query-jobs')}
    for job_id in left:
        try:
            info = jobs[job_id].block_info()
            if info and info['paused']:
                server.qmp('job-resume', id=job_id)
            jobs[job_id].set_speed(0)
        except QmpError as exc:
            assert 'not found' in exc.desc or 'cannot' in exc.desc, exc
    for job_id in jobs:
        jobs[job_id].wait('null')
    guest.stop()
    guest.verify()
    model = guest.freeze()
    guest.close()
    server.stop()
    layers.same(model)


@pytest.mark.ours('QEMU writes the zeroes, and takes the new base')
def test_new_layer_below(server, images):
    """What becomes the lowest layer's backing file meanwhile would show where
    zeroes were left out: the job fails, the chain stays."""
    layers = Layers(server, images, 'ab', data=False)
    layers.write('a', 'write -P 1 0 8M', 'write -z 1M 1M')
    images.create('new.qcow2', 8 * MIB)
    images.io(images.path('new.qcow2'), 'write -P 9 0 8M')
    layers.open()
    server.add_node('new', images.path('new.qcow2'))
    before = reads(layers, 'b')
    job = start_stream(server, 'b', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    server.qmp('blockdev-reopen', options=[
        {'driver': 'qcow2', 'node-name': 'a', 'backing': 'new',
         'file': {'driver': 'file', 'filename': layers.path('a')}}])
    assert reads(layers, 'b') == before
    server.qmp('job-finalize', id='stream')
    assert job.error() == \
        "Node 'a' got a backing file while it was streamed from"
    job.dismiss()
    assert layers.below('b')[:2] == ['a', 'new']
    assert reads(layers, 'b') == before


# A long one

@pytest.mark.ours('QEMU 7.2 lets the base show through')
@pytest.mark.parametrize('n_bytes', [3 * MIB, 3 * MIB + 512])
def test_vast_overlay(server, images, n_bytes):
    """A tebibyte with nothing below costs neither time nor room; what a short
    layer hides of its base stays hidden."""
    paths = [images.create('a.qcow2', n_bytes)]
    images.io(paths[0], f'write -P 1 0 {n_bytes}')
    for name, size in (('b.qcow2', MIB), ('c.qcow2', 1 << 40)):
        paths.append(images.create(name, size, backing=paths[-1]))
    images.io(paths[1], 'write -P 2 64k 64k')
    server.add_node('c', paths[2])
    start_stream(server, 'c', base=paths[0]).finish()
    server.stop()
    assert os.path.getsize(paths[2]) < 2 * MIB
    qemu_img('check', paths[2])
    images.io(paths[2], 'read -P 1 0 64k', 'read -P 2 64k 64k',
              'read -P 1 128k 896k', f'read -P 0 1M {4 * MIB}',
              f'read -P 0 {(1 << 40) - MIB} 1M')
