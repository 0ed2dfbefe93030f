# SPDX-License-Identifier: MIT
"""block-commit of the active layer: a mirror into an image below it.

A guest writes all the time.  The chains are l0 to lN, lN is the active one.
"""

import re

import pytest

from .commits import (backing_of, Chain, CLUSTER, COMMIT_STARTS, KIB, MIB,
                      start_commit)
from .images import same_bytes
from .jobs import CANCELLED

SIZE = 4 * MIB
PAST_THE_FILTER = re.compile(
    r"Permission conflict on node 'l1': permissions 'write' are both required "
    r"by .* and unshared by node 'flt' \(uses node 'l1' as 'backing' child\)")
COMPLETES = ['waiting', 'pending', 'BLOCK_JOB_COMPLETED', 'concluded']


@pytest.fixture
def chain(server, images):
    return Chain(images, [SIZE] * 4).fill_at_random(1).add(
        server, discard='unmap')


def guest_at(server, guest_on, node, **options):
    server.export(node)
    return guest_on(server, node, **options)


def settled(guest, server, job):
    """The guest stops, and all it wrote is in the base."""
    guest.stop()
    guest.verify()
    job.dismiss()


@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
@pytest.mark.parametrize('base', [0, 1, 2])
def test_active(server, images, guest_on, fmt0, base):
    """The guest does not notice; it has the base then, and writes it."""
    chain = Chain(images, [SIZE] * 4, fmt0).fill_at_random(2).add(
        server, discard='unmap')
    guest = guest_at(server, guest_on, 'l3', trims=True).start()
    job = start_commit(server, 'l3', base_node=f'l{base}')
    job.wait('BLOCK_JOB_READY')
    assert job.events['BLOCK_JOB_READY']['type'] == 'commit'
    guest.wait_writes(30)
    server.qmp('job-complete', id='commit')
    job.wait('concluded')
    assert 'error' not in job.info()
    guest.wait_writes(30)
    settled(guest, server, job)
    assert not server.nodes()[f'l{base}']['ro']
    drivers = [node['drv'] for node in server.nodes().values()]
    assert 'mirror_top' not in drivers
    guest.random_writes(20)
    guest.verify()
    guest.close()
    # What was dropped is nobody's any more.
    server.qmp('blockdev-del', node_name='l3')
    server.unexport('l3')
    for i in reversed(range(3)):
        server.qmp('blockdev-del', node_name=f'l{i}')
    same_bytes(chain.content(base), guest.freeze())


def test_steps(server, chain):
    job = start_commit(server, 'l3')
    job.wait('BLOCK_JOB_READY')
    assert job.take() == COMMIT_STARTS + ['ready', 'BLOCK_JOB_READY']
    info = job.block_info()
    assert info['type'] == 'commit' and info['ready']
    assert info['len'] == info['offset']
    server.qmp('block-job-complete', device='commit')
    job.wait('concluded')
    assert job.take() == COMPLETES


def test_top_is_the_active_layer(server, images, chain):
    """To say so is to say nothing."""
    job = start_commit(server, 'l3', top=chain.paths[3],
                       base=chain.paths[1])
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='commit')
    job.wait('concluded')
    job.dismiss()
    chain.remove(server)
    same_bytes(chain.content(1), chain.model[3])


def test_len_counts_what_is_dirty(server, images):
    """Zero clusters, too; nothing at all: 0."""
    chain = Chain(images, [SIZE] * 3)
    chain.write(0, 0, SIZE, 1)
    chain.write(1, 0, 2 * CLUSTER, 2)
    chain.write(2, MIB, 3 * CLUSTER, 0)
    chain.add(server)
    job = start_commit(server, 'l2', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    assert job.events['BLOCK_JOB_READY']['len'] == 5 * CLUSTER
    assert job.events['BLOCK_JOB_READY']['offset'] == 5 * CLUSTER
    server.qmp('job-complete', id='commit')
    job.finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])


def test_nothing_to_commit(server, images):
    chain = Chain(images, [SIZE] * 2)
    chain.write(0, 0, SIZE, 1)
    chain.add(server)
    job = start_commit(server, 'l1')
    job.wait('BLOCK_JOB_READY')
    ready = job.events['BLOCK_JOB_READY']
    assert (ready['len'], ready['offset']) == (0, 0)
    server.qmp('job-complete', id='commit')
    job.finish()


@pytest.mark.parametrize('sizes', [[MIB, 2 * MIB, 3 * MIB],
                                   [MIB + 512, 2 * MIB, 2 * MIB + 1024]])
@pytest.mark.parametrize('fmt0', ['qcow2', 'raw'])
def test_base_grows(server, images, guest_on, sizes, fmt0):
    chain = Chain(images, sizes, fmt0).fill_at_random(3).add(server)
    guest = guest_at(server, guest_on, 'l2').start()
    job = start_commit(server, 'l2', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    guest.wait_writes(10)
    server.qmp('job-complete', id='commit')
    job.wait('concluded')
    settled(guest, server, job)
    guest.close()
    server.unexport('l2')
    chain.remove(server)
    same_bytes(chain.content(0), guest.freeze())


def test_short_layer_between(server, images):
    """What it hid of the base reads as zeroes."""
    chain = Chain(images, [2 * MIB, MIB, 2 * MIB])
    chain.write(0, 0, 2 * MIB, 5)
    chain.write(1, 64 * KIB, 64 * KIB, 6)
    chain.write(2, 1536 * KIB, 64 * KIB, 7)
    chain.add(server)
    job = start_commit(server, 'l2', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='commit')
    job.finish()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])


# Cancel

def test_cancel_when_ready(server, images, chain, guest_on):
    """Softly: the job has done its work, and the guest stays where it is;
    the base is read-only again."""
    guest = guest_at(server, guest_on, 'l3').start()
    job = start_commit(server, 'l3', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    guest.wait_writes(20)
    guest.stop()
    server.qmp('block-job-cancel', device='commit')
    job.wait('concluded')
    assert 'BLOCK_JOB_COMPLETED' in job.steps
    job.dismiss()
    assert backing_of(server)['l3'] == chain.paths[2]
    guest.random_writes(10)
    guest.verify()
    if not server.is_qemu:
        assert server.nodes()['l0']['ro']
    guest.close()
    server.unexport('l3')
    chain.remove(server)
    same_bytes(chain.content(3), guest.freeze())


@pytest.mark.parametrize('ready', [False, True])
def test_force_cancel(server, images, chain, guest_on, ready):
    guest = guest_at(server, guest_on, 'l3').start()
    job = start_commit(server, 'l3', base_node='l0',
                       speed=0 if ready else 65536)
    if ready:
        job.wait('BLOCK_JOB_READY')
    guest.wait_writes(20)
    job.cancel()
    job.wait('concluded')
    assert job.take()[-3:] == CANCELLED
    job.dismiss()
    assert backing_of(server)['l3'] == chain.paths[2]
    guest.wait_writes(10)
    guest.stop()
    guest.verify()
    if not server.is_qemu:
        assert server.nodes()['l0']['ro']
    # Again, to the end.
    job = start_commit(server, 'l3', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='commit')
    job.finish()
    guest.verify()
    guest.close()
    server.unexport('l3')
    chain.remove(server)
    same_bytes(chain.content(0), guest.freeze())


# The base's mode

def test_read_only_active_layer(server, images):
    """The base is as the active layer was."""
    chain = Chain(images, [SIZE] * 3).fill_at_random(4).add(
        server, read_only=True)
    job = start_commit(server, 'l2', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='commit')
    job.finish()
    assert server.nodes()['l0']['ro']
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[2])


def test_start_fails(server, images):
    """Nothing has changed, the base's size included."""
    chain = Chain(images, [MIB, 2 * MIB]).fill_at_random(5).add(server)
    server.fails('block-commit', job_id='commit', device='l1',
                 filter_node_name='l0',
                 desc="Duplicate nodes with node-name='l0'")
    assert server.nodes()['l0']['ro']
    assert server.qmp('query-jobs') == []
    if not server.is_qemu:
        assert server.nodes()['l0']['image']['virtual-size'] == MIB
    chain.remove(server)
    same_bytes(chain.content(1), chain.model[1])


@pytest.mark.ours('QEMU follows it')
def test_writer_below_the_filter(server, images, guest_on):
    """It would write past the filter: refused, with a word who is there.
    Readers come and go."""
    chain = Chain(images, [SIZE] * 2).fill_at_random(6).add(server)
    guest = guest_at(server, guest_on, 'l1').start()
    job = start_commit(server, 'l1', base_node='l0', filter_node_name='flt')
    job.wait('BLOCK_JOB_READY')
    text = server.fails('block-export-add', {
        'type': 'nbd', 'id': 'w', 'name': 'w', 'node-name': 'l1',
        'writable': True})
    assert PAST_THE_FILTER.match(text), text
    server.export('l1', 'r', writable=False)
    server.export('flt', 'over', writable=False)
    server.unexport('r')
    server.unexport('over')
    guest.wait_writes(20)
    guest.stop()
    server.qmp('job-complete', id='commit')
    job.finish()
    guest.verify()
    guest.close()
    server.unexport('l1')
    chain.remove(server)
    same_bytes(chain.content(0), guest.freeze())


# Errors

@pytest.mark.parametrize('policy', ['report', 'stop', 'ignore'])
def test_error(server, images, policy):
    chain = Chain(images, [SIZE] * 3)
    for i in range(3):
        chain.write(i, i * CLUSTER, 2 * CLUSTER)
    for i, path in enumerate(chain.paths):
        file = {'driver': 'file', 'filename': path}
        if i == 0:
            file = {'driver': 'blkdebug', 'image': file, 'inject-error': [
                {'event': 'write_aio', 'errno': 5, 'once': True}]}
        options = {'read-only': True} if i < 2 else {}
        if i:
            options['backing'] = f'l{i - 1}'
        server.qmp('blockdev-add', dict(
            {'driver': 'qcow2', 'node-name': f'l{i}', 'file': file},
            **options))
    job = start_commit(server, 'l2', on_error=policy)
    job.wait('BLOCK_JOB_ERROR')
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'commit', 'operation': 'write', 'action': policy}
    if policy == 'report':
        assert job.error() == 'Input/output error'
    else:
        if policy == 'stop':
            job.wait('paused')
            assert job.block_info()['io-status'] == 'failed'
            server.qmp('job-resume', id='commit')
        job.wait('BLOCK_JOB_READY')
        server.qmp('job-complete', id='commit')
        job.wait('concluded')
        assert 'error' not in job.info()
    job.dismiss()
    chain.remove(server)
    if policy == 'report':
        same_bytes(chain.content(2), chain.model[2])
    else:
        same_bytes(chain.content(0), chain.model[2])


def test_bitmap_of_the_base(server, images, chain, guest_on):
    """What the commit and then the guest write is dirty in it."""
    server.qmp('block-dirty-bitmap-add', node='l0', name='b',
               granularity=CLUSTER)
    job = start_commit(server, 'l3', base_node='l0')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='commit')
    job.finish()
    bitmap = server.nodes()['l0']['dirty-bitmaps'][0]
    assert bitmap['count'] > 0
    assert bitmap['recording']
