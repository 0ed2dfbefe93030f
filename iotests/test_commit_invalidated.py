# SPDX-License-Identifier: MIT
"""Layers that a commit has invalidated are known.

A commit in the usual order writes to the base what the highest layer shows;
what is in between then reads otherwise on its own.  It is marked before that
happens; the mark outlives the server, is told by queries that ask for it, and
keeps the layer from being opened on its own.
"""

import json
import re
import time

import pytest

from .images import qemu_img, run_tool, same_bytes
from .jobs import Job
from .qmp import QmpError
from .test_commit_depth import Chain, chain_of, failing_base

pytestmark = pytest.mark.ours('QEMU does not know them')

REFUSED = re.compile(
    r"Image '.*' was invalidated by commit job 'j' at "
    r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: .*allow-invalidated')


def usual_order(chain, server, **options):
    return chain.start(server, commit_order='top-first', **options)


def broken_off(chain, start_server):
    """A commit of all layers that fails when the base has some of it."""
    server = chain.boot(start_server, base_node=failing_base(
        chain, 24 * chain.cluster // 512))
    job = usual_order(chain, server, auto_dismiss=False)
    assert 'Input/output error' in job.error()
    return server


def open_alone(server, chain, name, **options):
    server.add_node('alone', chain.paths[name], read_only=True, **options)


def refusal(server, chain, name, **options):
    with pytest.raises(QmpError) as error:
        open_alone(server, chain, name, **options)
    assert REFUSED.match(error.value.desc) and \
        f'/{name}.qcow2' in error.value.desc, error.value.desc


def marked(server):
    """{node-name: mark} of what is marked, by the query."""
    plain = server.qmp('query-named-block-nodes')
    assert 'invalidated' not in json.dumps(plain)
    return {n['node-name']: n['invalidated'] for n in
            server.qmp('query-named-block-nodes', flat=True, detail=True)
            if 'invalidated' in n}


def test_broken_off(start_server, images):
    chain = Chain(images, 3)
    began = int(time.time())
    server = broken_off(chain, start_server)
    marks = marked(server)
    assert set(marks) == {'l1', 'l2'}
    for mark in marks.values():
        assert mark['job-id'] == 'j'
        assert began <= mark['seconds'] <= time.time()
    server.stop()

    # What an overlay shows is right, and opens; all the images are whole.
    assert chain.chain() == ['l1', 'l2', 'l3', 'active']
    for name in ('l3', 'active'):
        same_bytes(images.content(chain.paths[name]), chain.before[name],
                   name)
    images.check_all()
    for start in (start_server, start_server_alone(start_server, chain)):
        server = chain.boot(start)
        assert set(marked(server)) == {'l1', 'l2'}
        server.export('active')
        server.export('l3', writable=False)
        with pytest.raises(QmpError) as error:
            server.export('l2', writable=False)
        assert REFUSED.match(error.value.desc)
        server.stop()

    # On its own it does not.
    server = start_server()
    for name in ('l1', 'l2'):
        refusal(server, chain, name)
        refusal(server, chain, name, backing=None)
        open_alone(server, chain, name, allow_invalidated=True)
        assert marked(server)['alone'] == marks[name]
        server.qmp('blockdev-del', node_name='alone')
    for name in ('l3', 'active'):
        open_alone(server, chain, name)
        server.qmp('blockdev-del', node_name='alone')
    server.stop()


def start_server_alone(start_server, chain):
    """boot() adds each layer by itself; here it is one definition."""
    def start(env=()):
        server = start_server(env=env)
        add = server.add_node

        def add_node(name, path, **options):
            if name in chain.paths and name != 'active':
                return name
            if name == 'active':
                options['backing'] = nested(chain, chain.chain()[:-1])
            return add(name, path, **options)
        server.add_node = add_node
        return server
    return start


def nested(chain, names):
    """The chain below the active layer as one definition."""
    below = 'base'
    for name in names:
        below = {'driver': 'qcow2', 'node-name': name, 'backing': below,
                 'file': {'driver': 'file', 'filename': chain.paths[name]}}
    return below


@pytest.mark.parametrize('order', ['top-first', 'depth-first'])
def test_second_run(start_server, images, order):
    """It is possible, and ends well; what is out of the chain stays
    marked."""
    chain = Chain(images, 3)
    broken_off(chain, start_server).stop()
    server = chain.boot(start_server)
    job = chain.start(server, commit_order=order)
    job.finish()
    assert chain_of(server) == ['active', 'base']
    server.stop()
    same_bytes(images.content(chain.paths['active']), chain.before['active'])
    server = start_server()
    refusal(server, chain, 'l1')
    refusal(server, chain, 'l2')
    open_alone(server, chain, 'l3')


def test_not_changed_not_marked(start_server, images):
    """A layer that hides all that the ones above have stays as it was."""
    base = images.create('base.raw', '1M', fmt='raw')
    mid = images.create('l1.qcow2', '1M', backing=base)
    top = images.create('l2.qcow2', '1M', backing=mid)
    active = images.create('active.qcow2', '1M', backing=top)
    images.io(mid, 'write -P 1 0 512k')
    images.io(top, 'write -P 2 128k 128k', 'write -z 256k 64k')
    before = images.content(mid)
    for order in ('top-first', 'depth-first'):
        server = start_server()
        server.add_node('active', active)
        nodes = {n['file']: n['node-name'] for n in server.nodes().values()
                 if n['drv'] in ('qcow2', 'raw')}
        server.qmp('block-commit', {
            'job-id': 'j', 'device': 'active', 'top-node': nodes[top],
            'base-node': nodes[base], 'commit-order': order})
        Job(server, 'j').finish()
        server.add_node('alone', mid, read_only=True)
        assert not marked(server)
        server.stop()
        if order == 'top-first':
            same_bytes(images.content(mid), before)
            qemu_img('rebase', '-u', '-b', top, '-F', 'qcow2', active)


def test_cancelled_before_it_wrote(start_server, images):
    """Depth-first nothing is marked that is still in the chain."""
    chain = Chain(images, 3)
    server = chain.boot(start_server, base_node=failing_base(chain, 9 * 128))
    job = chain.start(server, auto_dismiss=False)
    job.error()
    assert not marked(server)
    server.stop()
    server = start_server()
    for name in ('l1', 'l2', 'l3'):
        open_alone(server, chain, name)
        server.qmp('blockdev-del', node_name='alone')


def test_depth_first_marks_what_left(start_server, images):
    """A layer that has left is marked before the next one changes it; the
    last one never is."""
    chain = Chain(images, 3)
    server = chain.boot(start_server)
    job = chain.start(server, auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    assert set(marked(server)) == {'l1', 'l2'}
    server.qmp('job-finalize', id='j')
    job.finish()
    assert set(marked(server)) == {'l1', 'l2'}
    server.stop()
    server = start_server()
    refusal(server, chain, 'l1')
    open_alone(server, chain, 'l3')
    server.stop()
    same_bytes(images.content(chain.paths['l3']), chain.before['l3'])


def test_mark_is_kept(start_server, images, pytestconfig):
    """By QEMU's tools and by our own changes of the header."""
    chain = Chain(images, 3)
    broken_off(chain, start_server).stop()
    path = chain.paths['l2']
    qemu_img('amend', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path)
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', chain.paths['l1'], '-F',
             'qcow2', path)
    server = start_server()
    refusal(server, chain, 'l2')
    open_alone(server, chain, 'l2', allow_invalidated=True)
    server.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'alone', 'read-only': False,
        'allow-invalidated': True,
        'backing': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': chain.paths['l1']},
            'backing': {'driver': 'raw', 'file': {
                'driver': 'file', 'filename': chain.base}}},
        'file': {'driver': 'file', 'filename': path}}])
    server.qmp('x-blockdev-amend', {
        'job-id': 'amend', 'node-name': 'alone',
        'options': {'driver': 'qcow2', 'lazy-refcounts': False}})
    Job(server, 'amend').wait('concluded')
    server.qmp('job-dismiss', id='amend')
    server.qmp('blockdev-del', node_name='alone')
    refusal(server, chain, 'l2')
    server.stop()
    images.check(path)
    ctl = pytestconfig.getoption('--blockjobctl')
    text = run_tool(ctl, 'image', 'info', path)
    assert "invalidated: by commit job 'j' at " in text
    info = json.loads(run_tool(ctl, 'image', 'info', '--output=json',
                               '--backing-chain', path))
    assert info['invalidated']['job-id'] == 'j'
    assert info['backing-image']['invalidated']['job-id'] == 'j'
    assert 'invalidated' not in run_tool(ctl, 'image', 'info',
                                         chain.paths['l3'])


def commit_active(chain, server, **options):
    server.qmp('block-commit', dict({
        'job-id': 'j', 'device': 'active', 'base-node': 'base'}, **options))
    return Job(server, 'j')


def test_active_layer(start_server, images):
    """Committed, it goes on being written: all below it is marked."""
    chain = Chain(images, 2)
    server = chain.boot(start_server)
    job = commit_active(chain, server)
    job.wait('BLOCK_JOB_READY')
    assert set(marked(server)) == {'l1', 'l2'}
    job.cancel()
    job.wait('null')
    server.stop()
    same_bytes(images.content(chain.paths['active']), chain.before['active'])
    server = start_server()
    refusal(server, chain, 'l1')
    open_alone(server, chain, 'active')


def test_active_layer_not_started(start_server, images):
    """The marks are taken back."""
    chain = Chain(images, 2)
    server = chain.boot(start_server)
    with pytest.raises(QmpError):
        commit_active(chain, server, **{'filter-node-name': 'l1'})
    assert not marked(server)
    server.stop()
    server = start_server()
    open_alone(server, chain, 'l1')


def test_used_on_its_own(start_server, images):
    """A node that was made to be used by name below another: what it is for
    shows when it is used."""
    chain = Chain(images, 2)
    broken_off_two(chain, start_server)
    server = chain.boot(start_server)
    images.create('copy.raw', chain.size, fmt='raw')
    server.qmp('blockdev-add', {'driver': 'blkdebug', 'node-name': 'filter',
                                'image': 'l1', 'read-only': True})
    for node in ('l1', 'filter'):
        with pytest.raises(QmpError) as error:
            server.export(node, f'x{node}', writable=False)
        assert REFUSED.match(error.value.desc), error.value.desc
    server.qmp('blockdev-reopen', options=[{
        'driver': 'qcow2', 'node-name': 'l1', 'read-only': True,
        'backing': 'base', 'allow-invalidated': True,
        'file': {'driver': 'file', 'filename': chain.paths['l1']}}])
    server.export('l1', writable=False)
    server.unexport('l1')
    server.stop()
    server = start_server()
    server.add_node('base', chain.base, driver='raw', read_only=True)
    server.add_node('l1', chain.paths['l1'], backing='base')
    server.add_node('copy', images.path('copy.raw'), driver='raw')
    with pytest.raises(QmpError) as error:
        server.qmp('blockdev-mirror', {
            'job-id': 'm', 'device': 'l1', 'target': 'copy', 'sync': 'full'})
    assert REFUSED.match(error.value.desc), error.value.desc


def test_below_filters(start_server, images):
    """A filter over it is no overlay."""
    chain = Chain(images, 2)
    broken_off_two(chain, start_server)
    server = start_server()
    definition = {'driver': 'qcow2', 'read-only': True, 'file': {
        'driver': 'file', 'filename': chain.paths['l1']}}
    with pytest.raises(QmpError) as error:
        server.qmp('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'filter',
            'image': definition, 'read-only': True})
    assert 'was invalidated by commit job' in error.value.desc
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'over', 'read-only': True,
        'file': {'driver': 'file', 'filename': chain.paths['l2']},
        'backing': {'driver': 'blkdebug', 'read-only': True,
                    'image': definition}})


def broken_off_two(chain, start_server):
    server = chain.boot(start_server, base_node=failing_base(
        chain, 3 * chain.cluster // 512))
    job = usual_order(chain, server, auto_dismiss=False)
    job.error()
    server.stop()


def test_no_room(start_server, images):
    """A header that is full: the commit goes on, and says so."""
    chain = Chain(images, 2, cluster=512)
    long = './' * 175 + 'base.raw'
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', long, '-F', 'raw',
             chain.paths['l1'])
    server = chain.boot(start_server)
    usual_order(chain, server).finish()
    assert not marked(server)
    assert "Layer 'l1' will not be known to be invalidated" in server.stderr()
    server.expect_stderr = 'will not be known to be invalidated'
    server.stop()
    same_bytes(images.content(chain.paths['active']), chain.before['active'])


@pytest.mark.parametrize('how', ['top-first', 'depth-first', 'active'])
def test_base_is_right_again(start_server, images, how):
    """What is committed into a marked base, and was right, is what it shows
    then."""
    chain = Chain(images, 3)
    broken_off(chain, start_server).stop()
    server = chain.boot(start_server)
    if how == 'active':
        job = commit_active(chain, server, **{'base-node': 'l2'})
        job.wait('BLOCK_JOB_READY')
        server.qmp('job-complete', id='j')
    else:
        job = chain.start(server, base_node='l2', commit_order=how)
    job.finish()
    assert set(marked(server)) == {'l1'} | (
        {'l3'} if how == 'active' else set())
    server.stop()
    same_bytes(images.content(chain.paths['l2']),
               chain.before['active' if how == 'active' else 'l3'])
    server = start_server()
    open_alone(server, chain, 'l2')
    server.qmp('blockdev-del', node_name='alone')
    refusal(server, chain, 'l1')


@pytest.mark.parametrize('order', ['top-first', 'depth-first'])
def test_base_gets_what_is_marked(start_server, images, order):
    """That does not make it right."""
    chain = Chain(images, 3)
    broken_off(chain, start_server).stop()
    server = chain.boot(start_server)
    chain.start(server, top='l2', base_node='l1', commit_order=order).finish()
    assert 'l1' in marked(server)
    server.stop()
    server = start_server()
    refusal(server, chain, 'l1')


@pytest.mark.parametrize('active', [False, True])
def test_nothing_was_written(start_server, images, active):
    """The source cannot be read: the marks are taken back."""
    size = 1 << 20
    base = images.create('base.raw', size, fmt='raw')
    server = start_server()
    server.add_node('base', base, driver='raw', read_only=True)
    below = base
    names = ['l1', 'l2', 'l3'] + ([] if active else ['active'])
    for name in names:
        path = images.create(f'{name}.qcow2', size, backing=below)
        file = {'driver': 'file', 'filename': path}
        if name == 'l3':
            images.io(path, 'write -q -P 7 128k 64k')
            file = {'driver': 'blkdebug', 'image': file,
                    'inject-error': [{'event': 'read_aio', 'errno': 5}]}
        server.qmp('blockdev-add', {
            'driver': 'qcow2', 'node-name': name, 'file': file,
            'read-only': name != names[-1],
            'backing': 'base' if below == base else names[
                names.index(name) - 1]})
        below = path
    arguments = {'job-id': 'j', 'device': names[-1], 'base-node': 'base',
                 'top-node': 'l3', 'on-error': 'stop', 'auto-dismiss': False}
    server.qmp('block-commit', arguments)
    job = Job(server, 'j')
    job.wait('BLOCK_JOB_ERROR')
    assert set(marked(server)) == {'l1', 'l2'}
    job.cancel()
    job.wait('concluded')
    assert not marked(server)
    server.stop()
    server = start_server()
    for name in ('l1', 'l2'):
        server.add_node('alone', images.path(f'{name}.qcow2'),
                        read_only=True)
        server.qmp('blockdev-del', node_name='alone')


def test_backup_of_a_marked_layer(start_server, images):
    """As mirror and export: see test_used_on_its_own."""
    chain = Chain(images, 2)
    broken_off_two(chain, start_server)
    server = chain.boot(start_server)
    images.create('copy.raw', chain.size, fmt='raw')
    server.add_node('copy', images.path('copy.raw'), driver='raw')
    with pytest.raises(QmpError) as error:
        server.qmp('blockdev-backup', {
            'job-id': 'b', 'device': 'l1', 'target': 'copy', 'sync': 'full'})
    assert REFUSED.match(error.value.desc), error.value.desc
    assert server.qmp('query-jobs') == []
