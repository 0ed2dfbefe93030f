# SPDX-License-Identifier: MIT
"""block-commit when something goes wrong: errors, full disks, hung disks,
the end of the server, kill -9."""

import os
import signal
import threading
import time

import pytest

from .commits import Chain, CLUSTER, KIB, MIB, start_commit
from .images import qemu_img, same_bytes
from .jobs import CANCELLED, FAILS
from .nbd import CMD_WRITE, CMD_WRITE_ZEROES
from .nbd_server import FakeServer
from .qmp import SCALE

SIZE = 4 * MIB


def faulty_chain(server, images, layer, event, errno=5, once=True, n_layers=4):
    """A chain in which the first `event` of one layer's file fails."""
    chain = Chain(images, [SIZE] * n_layers)
    for i in range(n_layers):
        chain.write(i, i * CLUSTER, 2 * CLUSTER)
    for i, path in enumerate(chain.paths):
        file = {'driver': 'file', 'filename': path}
        if i == layer:
            file = {'driver': 'blkdebug', 'image': file, 'inject-error': [
                {'event': event, 'errno': errno, 'once': once}]}
        options = {'read-only': True} if i < chain.top else {}
        if i:
            options['backing'] = f'l{i - 1}'
        server.qmp('blockdev-add', dict(
            {'driver': 'qcow2', 'node-name': f'l{i}', 'file': file},
            **options))
    return chain


def judge(server, images, chain, done):
    """After the end: the graph, the base, the guest's disk."""
    expected = 'l0' if done else 'l2'
    assert server.nodes()['l0']['ro']
    names = [n['drv'] for n in server.nodes().values()]
    assert 'commit_top' not in names
    for i in reversed(range(4)):
        server.qmp('blockdev-del', node_name=f'l{i}')
    assert os.path.basename(images.info(chain.paths[3])[
        'full-backing-filename']).startswith(expected) or done
    if done:
        same_bytes(chain.content(0), chain.model[2])
        # The header may name a json: file, with what made the errors in it.
        images.io(chain.paths[3], 'quit', check=False)
    else:
        same_bytes(chain.content(3), chain.model[3])


# Policies

@pytest.mark.parametrize('side', ['read', 'write'])
@pytest.mark.parametrize('policy', [None, 'report', 'enospc', 'auto'])
def test_report(server, images, side, policy):
    """An error that does not stop the job ends it."""
    chain = faulty_chain(server, images, 2 if side == 'read' else 0,
                         f'{side}_aio')
    options = {'on_error': policy} if policy else {}
    job = start_commit(server, 'l3', top_node='l2', base_node='l0', **options)
    assert job.error() == 'Input/output error'
    assert job.steps[2:] == ['BLOCK_JOB_ERROR'] + FAILS
    assert job.events['BLOCK_JOB_ERROR'] == {
        'device': 'commit', 'operation': side, 'action': 'report'}
    assert job.events['BLOCK_JOB_COMPLETED']['error'] == 'Input/output error'
    job.dismiss()
    judge(server, images, chain, False)


@pytest.mark.parametrize('side', ['read', 'write'])
@pytest.mark.parametrize('policy, errno', [('stop', 5), ('stop', 28),
                                           ('enospc', 28), ('auto', 28)])
def test_stop(server, images, side, policy, errno):
    """The job waits until it is resumed, and loses nothing."""
    chain = faulty_chain(server, images, 2 if side == 'read' else 0,
                         f'{side}_aio', errno)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       on_error=policy)
    job.wait('paused')
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'stop'
    assert job.events['BLOCK_JOB_ERROR']['operation'] == side
    info = job.block_info()
    assert info['io-status'] == ('nospace' if errno == 28 else 'failed')
    assert info['paused'] and info['status'] == 'paused'
    server.qmp('block-job-resume', device='commit')
    job.finish()
    judge(server, images, chain, True)


@pytest.mark.parametrize('side', ['read', 'write'])
def test_ignore(server, images, side):
    """It is tried again until it works."""
    chain = faulty_chain(server, images, 2 if side == 'read' else 0,
                         f'{side}_aio')
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       on_error='ignore')
    job.finish()
    assert job.events['BLOCK_JOB_ERROR']['action'] == 'ignore'
    judge(server, images, chain, True)


def test_ignore_and_cancel(server, images):
    """What never works can be cancelled."""
    chain = faulty_chain(server, images, 0, 'write_aio', once=False)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       on_error='ignore')
    job.wait('BLOCK_JOB_ERROR')
    job.cancel()
    job.wait('concluded')
    assert job.take()[-3:] == CANCELLED
    assert server.nodes()['l3']['image']['backing-filename'] == chain.paths[2]


@pytest.mark.parametrize('policy', ['report', 'stop'])
def test_flush_fails(server, images, policy):
    """What is not stable in the base has not been committed."""
    chain = faulty_chain(server, images, 0, 'flush_to_disk')
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       on_error=policy, auto_finalize=False)
    job.next_step()
    while job.steps[-1] not in ('pending', 'paused', 'concluded'):
        job.next_step()
    if job.steps[-1] == 'paused':
        server.qmp('block-job-resume', device='commit')
        job.wait('pending')
    if job.steps[-1] == 'pending':
        server.qmp('job-finalize', id='commit')
        job.wait('concluded')
    failed = 'error' in job.info()
    named = server.nodes()['l3']['image']['backing-filename']
    assert failed == (named == chain.paths[2])


def test_cancel_while_stopped(server, images):
    chain = faulty_chain(server, images, 2, 'read_aio')
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       on_error='stop')
    job.wait('paused')
    job.take()
    job.cancel()
    job.wait('concluded')
    assert job.take() == ['running'] + CANCELLED
    job.dismiss()
    judge(server, images, chain, False)


def test_full_disk(server, images, small_disk):
    """The base's disk is full; room is made; nothing is lost."""
    disk = small_disk(2 * MIB)
    chain = Chain(images, [SIZE] * 3, base=disk.path('l0.qcow2'))
    chain.write(0, 0, CLUSTER, 1)
    chain.write(1, MIB, MIB, 2)
    chain.write(2, 2 * MIB, CLUSTER, 3)
    chain.add(server)
    disk.fill()
    job = start_commit(server, 'l2', top_node='l1', base_node='l0',
                       on_error='enospc')
    job.wait('paused')
    assert job.block_info()['io-status'] == 'nospace'
    disk.make_room()
    server.qmp('job-resume', id='commit')
    job.finish()
    chain.remove(server)
    copy = images.path('base.raw')
    qemu_img('convert', '-O', 'raw', chain.paths[0], copy)
    with open(copy, 'rb') as file:
        same_bytes(file.read(), chain.model[1])
    for path in chain.paths:
        images.check(path)
        images.ignore(path)     # the small disk goes before the last look


# A base that does not answer

@pytest.fixture
def fake(server):
    one = FakeServer(server.path('fake.sock'), size=SIZE)
    one.answer = threading.Event()
    one.extents = lambda offset, length: [(length, 0)]
    yield one
    one.answer.set()
    one.stop()


@pytest.mark.ours('QEMU waits for the answer')
@pytest.mark.parametrize('kind', [CMD_WRITE, CMD_WRITE_ZEROES])
def test_hung_base(server, images, fake, kind):
    """A cancel does not wait for it."""
    chain = Chain(images, [SIZE] * 3, 'raw')
    chain.write(1, 0, MIB, 5)
    chain.write(1, MIB, MIB, 0)
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'l0', 'export': 'disk',
        'server': {'type': 'unix', 'path': fake.path}})
    server.add_node('l1', chain.paths[1], backing='l0', read_only=True)
    server.add_node('l2', chain.paths[2], backing='l1')

    def behave(what, offset, length):
        if what == kind:
            fake.answer.wait()
    fake.behave = behave
    job = start_commit(server, 'l2', top_node='l1', base_node='l0')
    while kind not in [request[0] for request in fake.requests]:
        time.sleep(0.01)
    begun = time.monotonic()
    job.cancel()
    job.wait('concluded')
    # A write that is out is given two seconds.
    assert time.monotonic() - begun < 6 * SCALE
    assert job.take()[-3:] == CANCELLED
    job.dismiss()
    chain.remove(server)


# The server ends

@pytest.mark.parametrize('how', ['quit', 'SIGTERM'])
@pytest.mark.parametrize('when', ['running', 'paused', 'pending'])
def test_server_ends(start_server, images, how, when):
    """Everything reads as before."""
    server = start_server()
    chain = Chain(images, [SIZE] * 4).fill_at_random(5).add(server)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       speed=0 if when == 'pending' else 65536,
                       auto_finalize=False)
    if when == 'paused':
        job.pause()
    else:
        job.wait(when)
    if how == 'quit':
        server.quit()
    else:
        server.proc.send_signal(signal.SIGTERM)
        server.wait_exit()
    server.stop()
    assert images.info(chain.paths[3])['full-backing-filename'] == \
        chain.paths[2]
    same_bytes(chain.content(3), chain.model[3])


@pytest.mark.parametrize('when', ['running', 'pending', 'concluded'])
def test_kill(start_server, images, guest_on, when, seed):
    """kill -9: the guest's disk is what was written; a second server
    finishes the work."""
    server = start_server()
    chain = Chain(images, [SIZE] * 4).fill_at_random(seed, 20).add(server)
    server.export('l3')
    guest = guest_on(server, 'l3', seed=seed)
    guest.random_writes(20)
    job = start_commit(server, 'l3', top_node='l2', base_node='l0',
                       speed=MIB if when == 'running' else 0,
                       auto_finalize=when == 'concluded')
    job.wait(when)
    guest.flush()
    server.kill()
    for path in chain.paths:
        images.allow_leaks(path)
    same_bytes(chain.content(3), guest.freeze())
    if when == 'concluded':
        return
    server = start_server()
    extra = {} if server.is_qemu else {'allow_invalidated': True}
    for i, path in enumerate(chain.paths):
        options = {'backing': f'l{i - 1}'} if i else {}
        if i < chain.top:
            options['read_only'] = True
        server.add_node(f'l{i}', path, **options,
                        **(extra if 0 < i < chain.top else {}))
    start_commit(server, 'l3', top_node='l2', base_node='l0').finish()
    chain.remove(server)
    same_bytes(chain.content(3), guest.freeze())


def test_grow_fails(server, images, small_disk):
    """The base cannot become as large as the top."""
    chain = Chain(images, [MIB, 2 * MIB, 2 * MIB], 'raw')
    chain.write(1, 0, CLUSTER, 5)
    base = {'driver': 'raw', 'node-name': 'l0', 'read-only': True,
            'offset': 0, 'size': MIB,
            'file': {'driver': 'file', 'filename': chain.paths[0]}}
    server.qmp('blockdev-add', base)
    server.add_node('l1', chain.paths[1], backing='l0', read_only=True)
    server.add_node('l2', chain.paths[2], backing='l1')
    job = start_commit(server, 'l2', top_node='l1', base_node='l0')
    assert job.error()
    job.dismiss()
    assert server.nodes()['l2']['image']['backing-filename'] == chain.paths[1]
    assert server.nodes()['l0']['ro']
    chain.remove(server)
    same_bytes(chain.content(2), chain.model[2])


def test_several_at_once(server, images):
    """Two chains, two jobs; a name is used once."""
    chain = Chain(images, [SIZE] * 3).fill_at_random(6).add(server)
    other = images.create('other.qcow2', SIZE)
    over = images.create('over.qcow2', SIZE, backing=other)
    top = images.create('top.qcow2', SIZE, backing=over)
    images.io(over, 'write -P 3 0 1M')
    for name, path, below in (('a', other, None), ('b', over, 'a'),
                              ('c', top, 'b')):
        server.add_node(name, path, read_only=name != 'c',
                        **({'backing': below} if below else {}))
    first = start_commit(server, 'l2', top_node='l1', base_node='l0',
                         speed=KIB)
    server.fails('block-commit', job_id='commit', device='c', top_node='b',
                 desc="Job ID 'commit' already in use")
    second = start_commit(server, 'c', top_node='b', job_id='two')
    second.finish()
    server.qmp('block-job-set-speed', device='commit', speed=0)
    first.wait('concluded')
    first.dismiss()
    chain.remove(server)
    same_bytes(chain.content(0), chain.model[1])
