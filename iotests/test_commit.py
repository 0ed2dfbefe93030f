# SPDX-License-Identifier: MIT
"""block-commit of layers below the active one: what is where afterwards.

A guest writes to the active layer meanwhile.  The chains are l0 (the base,
mostly) to lN (what the guest has); see commits.py.
"""

import random
import time

import pytest

from .commits import (backing_of, Chain, CLUSTER, COMMIT_STARTS, KIB, MIB,
                      start_commit)
from .images import same_bytes
from .jobs import CANCELLED, Job, start_stream, SUCCEEDS

SIZE = 4 * MIB


def guest_at(server, guest_on, node, **options):
    server.export(node)
    return guest_on(server, node, **options)


@pytest.fixture
def chain(server, images):
    return Chain(images, [SIZE] * 4).fill_at_random(1).add(
        server, discard='unmap')


# What is where

@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
def test_middle(server, images, guest_on, fmt0):
    """l2 and l1 into l0 while a guest writes to l3."""
    chain = Chain(images, [SIZE] * 4, fmt0).fill_at_random(2).add(
        server, discard='unmap')
    below = bytes(chain.model[2])
    guest = guest_at(server, guest_on, 'l3', trims=True).start()
    guest.wait_writes(10)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       speed=8 * MIB)
    guest.wait_writes(50)
    job.set_speed(0)
    job.wait('concluded')
    assert [s for s in job.take() if s not in ('paused', 'running')] == \
        ['created'] + SUCCEEDS
    info = job.block_info()
    assert (info['type'], info['len'], info['offset']) == \
        ('commit', SIZE, SIZE)
    job.dismiss()
    guest.wait_writes(20)
    guest.stop()
    guest.verify()
    nodes = server.nodes()
    assert nodes['l3']['backing_file'] == chain.paths[0]
    assert nodes['l0']['ro']
    guest.close()
    server.unexport('l3')
    chain.remove(server)
    assert images.info(chain.paths[3])['full-backing-filename'] == \
        chain.paths[0]
    assert images.info(chain.paths[3])['backing-filename-format'] == fmt0
    same_bytes(chain.content(3), guest.freeze())
    same_bytes(chain.content(0), below)


def test_steps(server, chain):
    """What the wire shows of a short one."""
    job = start_commit(server, 'l3', top_node='l2', base_node='l0')
    job.wait('concluded')
    assert job.steps == COMMIT_STARTS + SUCCEEDS
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done == {'device': 'commit', 'type': 'commit', 'len': SIZE,
                    'offset': SIZE, 'speed': 0}


def test_base_and_top_by_default(server, images, chain):
    """No base: the lowest image."""
    start_commit(server, 'l3', top_node='l2').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


def test_by_file_name(server, images, chain):
    start_commit(server, 'l3', top=chain.paths[2],
                 base=chain.paths[1]).finish()
    assert backing_of(server)['l3'] == chain.paths[1]
    chain.remove(server)
    same_bytes(chain.content(1), chain.model[2])
    same_bytes(chain.content(0), chain.model[0])


def test_four_allocation_cases(server, images):
    """Cluster n: n & 1 in the base, n & 2 in the middle, n & 4 in the top."""
    chain = Chain(images, [MIB] * 4)
    for layer in range(3):
        for n in range(8):
            if n & (1 << layer):
                chain.write(layer, n * CLUSTER, CLUSTER)
    chain.add(server)
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])
    # Nobody has changed the layers that went away.
    for layer in (1, 2):
        used = [n for n in range(8)
                if any(e['depth'] == 0 and e['start'] <= n * CLUSTER
                       < e['start'] + e['length'] and e['present']
                       for e in images.map(chain.paths[layer]))]
        assert used == [n for n in range(8) if n & (1 << layer)]


@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
def test_zeroes_and_discards(server, images, fmt0):
    """What reads as zeroes in the top does so in the base."""
    chain = Chain(images, [MIB] * 3, fmt0)
    chain.write(0, 0, MIB, 7)
    chain.write(1, 0, 2 * CLUSTER, 0)
    chain.write(1, 4 * CLUSTER + 512, 1024, 0)
    chain.write(1, 6 * CLUSTER, CLUSTER, 9)
    chain.discard(1, 6 * CLUSTER, CLUSTER)
    chain.discard(1, 8 * CLUSTER, 3 * CLUSTER)
    chain.add(server)
    start_commit(server, 'l2', top_node='l1', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[1])
    same_bytes(chain.content(2), chain.model[2])


@pytest.mark.parametrize('sizes', [
    [MIB, 2 * MIB, 3 * MIB, 3 * MIB],
    [MIB + 512, 2 * MIB, MIB + 65536 + 1024, 3 * MIB],
    [512, MIB, 2 * MIB, 2 * MIB + 512]])
@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
def test_base_grows(server, images, sizes, fmt0):
    chain = Chain(images, sizes, fmt0).fill_at_random(3).add(server)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0')
    job.wait('concluded')
    assert job.block_info()['len'] == sizes[2]
    assert job.block_info()['offset'] == sizes[2]
    job.dismiss()
    nodes = server.nodes()
    assert nodes['l0']['image']['virtual-size'] == max(sizes[0], sizes[2])
    chain.remove(server)
    same_bytes(chain.content(0)[:sizes[2]], chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


@pytest.mark.ours('QEMU lets data of the base show through')
@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
@pytest.mark.parametrize('short', [MIB, MIB + 512, MIB + 65536 + 1024])
def test_short_top(server, images, guest_on, short, fmt0):
    """It hid the end of the base from the overlay."""
    chain = Chain(images, [2 * MIB, short, 2 * MIB], fmt0)
    chain.write(0, 0, 2 * MIB, 5)
    chain.write(1, 64 * KIB, 64 * KIB, 6)
    chain.write(2, 128 * KIB, 64 * KIB, 7)
    chain.add(server)
    guest = guest_at(server, guest_on, 'l2')
    job = start_commit(server, 'l2', top_node='l1', base_node='l0')
    job.wait('concluded')
    assert job.block_info()['len'] == short
    assert job.block_info()['offset'] == short
    job.dismiss()
    guest.verify()
    guest.close()
    server.unexport('l2')
    chain.remove(server)
    same_bytes(chain.content(2), chain.model[2])


def test_short_top_below_short_overlay(server, images):
    """What no overlay can see stays in the base."""
    chain = Chain(images, [2 * MIB, MIB, MIB])
    chain.write(0, 0, 2 * MIB, 5)
    chain.write(1, 0, 64 * KIB, 6)
    chain.add(server)
    start_commit(server, 'l2', top_node='l1', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(0)[MIB:], b'\5' * MIB)
    same_bytes(chain.content(2), chain.model[2])


def test_short_layer_between(server, images):
    chain = Chain(images, [2 * MIB, MIB, 2 * MIB, 2 * MIB])
    chain.write(0, 0, 2 * MIB, 5)
    chain.write(1, 64 * KIB, 64 * KIB, 6)
    chain.write(2, 1536 * KIB, 64 * KIB, 7)
    chain.add(server)
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


@pytest.mark.parametrize('clusters', [512, 4096, 65536, 2 * MIB])
def test_cluster_sizes(server, images, clusters):
    """Base and layers with different clusters."""
    chain = Chain(images, [SIZE] * 3)
    path = images.create('l1.qcow2', SIZE, backing=chain.paths[0],
                         cluster_size=clusters)
    assert path == chain.paths[1]
    chain.fill_at_random(4).add(server)
    start_commit(server, 'l2', top_node='l1', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[1])
    same_bytes(chain.content(2), chain.model[2])


# Overlays

def test_two_overlays(server, images, chain):
    """Both have the base as backing file then; one of them is read-only."""
    other = images.create('other.qcow2', SIZE, backing=chain.paths[2])
    images.io(other, 'write -P 99 1M 64k')
    server.add_node('other', other, backing='l2', read_only=True)
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    assert backing_of(server)['other'] == chain.paths[0]
    assert server.nodes()['other']['ro']
    server.qmp('blockdev-del', node_name='other')
    chain.remove(server)
    assert images.info(other)['full-backing-filename'] == chain.paths[0]
    expected = bytearray(chain.model[2])
    expected[MIB:MIB + CLUSTER] = b'\x63' * CLUSTER
    same_bytes(images.content(other), expected)
    same_bytes(chain.content(3), chain.model[3])


def test_reader_of_a_middle_layer(server, images, chain):
    """It would read what is not consistent."""
    before = server.graph()
    server.export('l1', writable=False)
    graph = server.graph()
    server.fails('block-commit', job_id='commit', device='l3', top_node='l2',
                 base_node='l0', desc="Permission conflict on node 'l1': "
                 "permissions 'consistent read' are both required by an "
                 "unnamed block device (uses node 'l1' as 'root' child) and "
                 "unshared by commit job 'commit' (uses node 'l1' as "
                 "'intermediate node' child).")
    assert server.nodes()['l0']['ro']
    if not server.is_qemu:
        assert server.graph() == graph
        server.unexport('l1')
        assert server.graph() == before
    assert server.qmp('query-jobs') == []


def test_reader_of_the_base(server, images, chain, guest_on):
    """Nothing is wrong with that."""
    server.export('l0', writable=False)
    guest = guest_on(server, 'l0')
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    same_bytes(guest.read_all(), chain.model[2])


def test_reader_of_the_top(server, images, chain, guest_on):
    """It reads the same from the base then."""
    server.export('l2', writable=False)
    guest = guest_on(server, 'l2')
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       speed=MIB)
    guest.verify()
    job.set_speed(0)
    job.finish()
    guest.verify()


def test_shared_middle(server, images, chain):
    """Another image that nobody reads has the middle one as backing file: it
    stays there."""
    other = images.create('other.qcow2', SIZE, backing=chain.paths[1])
    server.add_node('other', other, backing='l1')
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    assert backing_of(server)['other'] == chain.paths[1]


def test_backing_file(server, images, chain):
    """The header says what the user wants."""
    start_commit(server, 'l3', top_node='l2', base_node='l0',
                 backing_file='elsewhere.qcow2').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    chain.remove(server)
    info = images.info(images.ignore(chain.paths[3]))
    assert info['backing-filename'] == 'elsewhere.qcow2'
    assert info['backing-filename-format'] == 'qcow2'


@pytest.mark.ours('new in QEMU 9.0')
@pytest.mark.parametrize('mask', [None, False, True])
def test_mask_protocol(server, images, mask):
    """The base is a protocol node: what the header calls its format."""
    chain = Chain(images, [MIB] * 3, 'raw')
    chain.write(1, 0, 64 * KIB, 3)
    server.add_file('l0', chain.paths[0], read_only=True)
    server.add_node('l1', chain.paths[1], backing='l0', read_only=True)
    server.add_node('l2', chain.paths[2], backing='l1')
    options = {} if mask is None else {'backing_mask_protocol': mask}
    start_commit(server, 'l2', top_node='l1', base_node='l0',
                 **options).finish()
    chain.remove(server)
    info = images.info(chain.paths[2])
    assert info['full-backing-filename'] == chain.paths[0]
    assert info['backing-filename-format'] == ('raw' if mask else 'file')
    same_bytes(chain.content(0), chain.model[1])


@pytest.mark.ours('QEMU 7.2 crashes')
def test_header_cannot_be_written(server, images, chain, guest_on):
    """The job fails, and nothing is wrong."""
    guest = guest_at(server, guest_on, 'l3')
    guest.random_writes(20)
    before = backing_of(server)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       backing_file='x' * 1200)
    assert job.error()
    job.dismiss()
    assert backing_of(server) == before
    assert server.nodes()['l0']['ro']
    guest.random_writes(20)
    guest.verify()
    guest.close()
    server.unexport('l3')
    chain.remove(server)
    assert images.info(chain.paths[3])['full-backing-filename'] == \
        chain.paths[2]
    same_bytes(chain.content(3), guest.freeze())


# The filter

def test_named_filter(server, chain):
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       filter_node_name='flt', speed=1, auto_finalize=False)
    nodes = server.nodes()
    assert nodes['flt']['drv'] == 'commit_top'
    assert nodes['flt']['ro']
    assert nodes['flt']['file'] == chain.paths[2]
    assert nodes['l3']['backing_file'] == chain.paths[2]
    server.fails('blockdev-del', node_name='flt', desc="Node 'flt' is busy: "
                 "node is used as backing hd of 'l3'")
    job.set_speed(0)
    job.wait('pending')
    assert 'flt' in server.nodes()
    assert not server.nodes()['l0']['ro']
    server.qmp('job-finalize', id='commit')
    job.wait('concluded')
    assert 'flt' not in server.nodes()
    assert server.nodes()['l0']['ro']


def test_implicit_filter(server, chain):
    job = start_commit(server, 'l3', top_node='l2', base_node='l0', speed=1)
    names = [n for n in server.nodes() if n.startswith('#')]
    assert 'commit_top' in [server.nodes()[n]['drv'] for n in names]
    assert backing_of(server)['l3'] == chain.paths[2]
    image = [n for n in server.qmp('query-named-block-nodes')
             if n['node-name'] == 'l3'][0]['image']
    if not server.is_qemu:      # 7.2 hides it where a device is asked for
        assert image['backing-image']['format'] == 'qcow2'
    assert image['backing-image']['filename'] == chain.paths[2]
    job.cancel()
    job.wait('concluded')


def add_with_filter(server, chain, where):
    """As Chain.add(), with a throttle filter `thr` over layer `where`."""
    server.qmp('object-add', **{'qom-type': 'throttle-group', 'id': 'tg'})
    below = None
    for i, path in enumerate(chain.paths):
        options = {'read_only': True} if i < chain.top else {}
        if below:
            options['backing'] = below
        below = server.add_node(f'l{i}', path, **options)
        if i == where:
            server.qmp('blockdev-add', {
                'driver': 'throttle', 'node-name': 'thr', 'file': below,
                'throttle-group': 'tg', 'read-only': True})
            below = 'thr'


@pytest.mark.parametrize('where', [0, 1, 2])
def test_filter_in_the_chain(server, images, where):
    """Over the base, between the layers, between top and overlay."""
    chain = Chain(images, [SIZE] * 4).fill_at_random(7)
    add_with_filter(server, chain, where)
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    server.quit()
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


def test_filter_is_the_top(server, images):
    chain = Chain(images, [SIZE] * 4).fill_at_random(8)
    add_with_filter(server, chain, 2)
    start_commit(server, 'l3', top_node='thr', base_node='l0').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    server.quit()
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


def test_filter_over_the_base_is_no_top(server, images):
    chain = Chain(images, [SIZE] * 3)
    add_with_filter(server, chain, 0)
    server.fails('block-commit', job_id='commit', device='l2',
                 top_node='thr', base_node='l0',
                 desc='Invalid files for merge: top and base are the same')


# Progress, speed, pause, cancel

def test_speed(server, images):
    """The first step is let through, and no more."""
    chain = Chain(images, [SIZE] * 3)
    chain.write(1, 0, SIZE, 1)
    chain.add(server)
    job = start_commit(server, 'l2', top_node='l1', base_node='l0', speed=1)
    while job.block_info()['offset'] == 0:
        time.sleep(0.01)
    info = job.block_info()
    assert (info['offset'], info['len'], info['speed']) == \
        (512 * KIB, SIZE, 1)
    job.cancel()
    job.wait('concluded')
    assert job.take()[-3:] == CANCELLED
    assert server.nodes()['l0']['ro']


def test_holes_cost_nothing(server, images):
    """The limit counts what is copied."""
    chain = Chain(images, [1024 * MIB] * 3)
    for at in range(0, 1024 * MIB, 128 * MIB):
        images.io(chain.paths[1], f'write -P 4 {at} 64k')
    chain.add(server)
    begun = time.monotonic()
    start_commit(server, 'l2', top_node='l1', base_node='l0',
                 speed=MIB).finish()
    assert time.monotonic() - begun < 10


def test_pause_and_resume(server, images, chain):
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       speed=512 * KIB)
    job.pause()
    info = job.block_info()
    assert (info['status'], info['paused'], info['busy']) == \
        ('paused', True, False)
    time.sleep(0.2)
    assert job.block_info()['offset'] == info['offset']
    job.set_speed(0)
    job.resume()
    job.finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])


def test_cancel_and_again(server, images, guest_on, seed):
    """Broken off at any moment, several times: the guest's disk is what it
    was; the last one does it all."""
    rnd = random.Random(seed)
    chain = Chain(images, [SIZE] * 4).fill_at_random(seed, 20).add(server)
    below = bytes(chain.model[2])
    guest = guest_at(server, guest_on, 'l3').start()
    for _ in range(5):
        job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                           speed=rnd.choice((0, MIB, 16 * MIB)))
        if rnd.random() < 0.5:
            guest.wait_writes(rnd.randint(1, 10))
        try:
            job.cancel()
        except Exception as exc:                # it may be over
            assert 'cannot accept' in str(exc) or 'not found' in str(exc)
        job.wait('concluded')
        done = 'BLOCK_JOB_COMPLETED' in job.steps
        job.dismiss()
        assert server.nodes()['l0']['ro']
        if done:
            break
        assert backing_of(server)['l3'] == chain.paths[2]
    else:
        start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    guest.stop()
    guest.verify()
    guest.close()
    server.unexport('l3')
    chain.remove(server)
    same_bytes(chain.content(3), guest.freeze())
    same_bytes(chain.content(0), below)


def test_in_stages(server, images, chain):
    """Layer by layer, from below and from above."""
    start_commit(server, 'l3', top_node='l1', base_node='l0').finish()
    assert backing_of(server)['l2'] == chain.paths[0]
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    assert backing_of(server)['l3'] == chain.paths[0]
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])
    same_bytes(chain.content(3), chain.model[3])


# Bitmaps

def test_bitmap_of_the_base(server, images):
    """What the commit writes is dirty; what it does not is not."""
    chain = Chain(images, [MIB] * 3)
    chain.write(0, 0, MIB, 1)
    chain.write(1, 128 * KIB, 192 * KIB, 2)
    chain.add(server)
    server.qmp('block-dirty-bitmap-add', node='l0', name='b',
               granularity=CLUSTER)
    start_commit(server, 'l2', top_node='l1', base_node='l0').finish()
    bitmap = server.nodes()['l0']['dirty-bitmaps'][0]
    assert bitmap['count'] == 192 * KIB


# Beside a stream

@pytest.fixture
def long_chain(server, images):
    chain = Chain(images, [SIZE] * 5)
    for layer in range(5):
        chain.write(layer, layer * 256 * KIB, 2 * MIB)
    return chain.add(server)


def test_stream_onto_the_filter(server, long_chain):
    """The link to it goes when the job ends: nobody may count on it."""
    job = start_commit(server, 'l4', top_node='l1', base_node='l0', speed=1,
                       filter_node_name='flt')
    server.fails('block-stream', job_id='s', device='l3', base_node='l1',
                 desc="Cannot freeze 'backing' link to 'flt'")
    server.fails('block-stream', job_id='s', device='l3', base_node='l0',
                 desc=f"Node '{'l1'}' is busy: block device is in use by "
                      "block job: commit")
    server.fails('block-stream', job_id='s', device='l4', base_node='l3',
                 desc="Node 'l4' is busy: block device is in use by block "
                      "job: commit")
    job.set_speed(0)
    job.finish()


def test_overlay_is_streamed(server, long_chain):
    """Its header is the stream's to change."""
    stream = start_stream(server, 'l3', base_node='l1', auto_finalize=False)
    stream.wait('pending')
    server.fails('block-commit', job_id='commit', device='l4', top_node='l1',
                 base_node='l0',
                 desc="Node 'l2' is busy: block device is in use by block "
                      "job: stream")
    assert [job['id'] for job in server.qmp('query-jobs')] == [stream.id]
    stream.cancel()
    stream.wait('concluded')


@pytest.mark.ours('QEMU 7.2 crashes')
@pytest.mark.parametrize('first', ['commit', 'stream'])
def test_both_end_together(server, images, long_chain, first):
    """A stream above, down to the commit's filter; both at once."""
    commit = start_commit(server, 'l4', top_node='l1', base_node='l0',
                          speed=1, filter_node_name='flt',
                          auto_finalize=False)
    server.qmp('block-stream', job_id='s', device='l3', base_node='flt',
               auto_dismiss=False, auto_finalize=False)
    stream = Job(server, 's')
    server.qmp('block-job-set-speed', device='commit', speed=0)
    for job in (commit, stream):
        job.wait('pending')
    order = ['commit', 's'] if first == 'commit' else ['s', 'commit']
    other = server.connect(name='other')
    asked = [(mon, mon.send('job-finalize', id=name))
             for mon, name in zip((server.mon, other), order)]
    for mon, ident in asked:
        mon.reply_to(ident)
    other.close()
    for job in (commit, stream):
        job.wait('concluded')
        assert 'error' not in job.info()
        job.dismiss()
    assert backing_of(server)['l3'] == long_chain.paths[0]
    for i in (4, 3, 2, 1, 0):
        server.qmp('blockdev-del', node_name=f'l{i}')
    assert images.info(long_chain.paths[3])['full-backing-filename'] == \
        long_chain.paths[0]
    same_bytes(long_chain.content(4), long_chain.model[4])
