# SPDX-License-Identifier: MIT
"""block-stream: what is copied, what the chain and the headers are then."""

import pytest

from .images import qemu_img
from .jobs import Job, SUCCEEDS, start_stream
from .layers import MIB, SIZE, Layers
from .nbd import NbdClient

STARTS = ['created', 'running']


@pytest.fixture
def layers(server, images):
    """a <- b <- c <- d, opened as nodes of these names."""
    return Layers(server, images, 'abcd').open()


def reads(layers, name='d'):
    layers.server.export(name, writable=False)
    client = NbdClient.connect(layers.server.nbd_path, name)
    data = client.read(0, layers.size)
    client.disconnect()
    layers.server.unexport(name)
    return data


# The chain

def test_whole_chain(server, layers):
    before = reads(layers)
    job = start_stream(server, 'd')
    job.wait('concluded')
    assert job.steps == STARTS + SUCCEEDS
    done = job.events['BLOCK_JOB_COMPLETED']
    assert done == {'device': 'stream', 'type': 'stream', 'len': SIZE,
                    'offset': SIZE, 'speed': 0}
    job.dismiss()
    assert layers.below('d') == []
    assert layers.header('d') == (None, None)
    server.stop()
    layers.same(before)
    assert layers.content('c') != before


@pytest.mark.parametrize('base, below', [
    ('a', ['a']), ('b', ['b', 'a']), ('c', ['c', 'b', 'a'])])
@pytest.mark.parametrize('by', ['base-node', 'base'])
def test_base(server, layers, base, below, by):
    before = reads(layers)
    value = base if by == 'base-node' else layers.path(base)
    job = start_stream(server, 'd', **{by: value})
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    length = 0 if base == 'c' else SIZE
    assert (done['len'], done['offset']) == (length, length)
    assert layers.below('d') == below
    assert layers.header('d') == (layers.path(base), 'qcow2')
    assert reads(layers) == before
    server.stop()
    layers.same(before)


@pytest.mark.parametrize('bottom, below, length', [
    ('d', ['c', 'b', 'a'], 0), ('c', ['b', 'a'], SIZE), ('b', ['a'], SIZE),
    ('a', [], SIZE)])
def test_bottom(server, layers, bottom, below, length):
    before = reads(layers)
    job = start_stream(server, 'd', bottom=bottom)
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (length, length)
    assert layers.below('d') == below
    assert layers.header('d') == (
        (layers.path(below[0]), 'qcow2') if below else (None, None))
    server.stop()
    layers.same(before)


def test_layer_in_the_middle(server, layers):
    """What is above has the streamed layer as backing file still."""
    before = reads(layers)
    start_stream(server, 'c', base_node='a').finish()
    assert layers.below('d') == ['c', 'a']
    assert layers.header('c') == (layers.path('a'), 'qcow2')
    assert layers.header('d') == (layers.path('c'), 'qcow2')
    assert reads(layers) == before
    server.stop()
    layers.same(before)


def test_image_without_backing_file(server, layers):
    job = start_stream(server, 'a')
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (0, 0)
    assert layers.below('d') == ['c', 'b', 'a']


def test_raw_image(server, images):
    """It never has a backing file."""
    path = images.create('raw.img', SIZE, fmt='raw')
    server.add_node('raw', path, driver='raw')
    job = start_stream(server, 'raw')
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (0, 0)


def test_layers_between_are_dropped(server, images):
    """Nodes that nobody asked for by name go; their files are free when the
    job is gone."""
    layers = Layers(server, images, 'abcd')
    before = images.content(layers.path('d'))
    server.add_node('d', layers.path('d'))
    assert len(server.nodes()) == 8
    start_stream(server, 'd', base=layers.path('a')).finish()
    nodes = server.nodes()
    assert len(nodes) == 4
    assert nodes['d']['backing_file'] == layers.path('a')
    for name in 'bc':
        images.io(layers.path(name), 'write -P 99 0 8M')
    assert reads(layers) == before
    server.stop()
    layers.same(before)


def test_only_what_is_between_is_copied(server, images):
    """Nothing of the base, nothing that the image has, nothing that nobody
    has."""
    layers = Layers(server, images, 'abcd', data=False)
    layers.write('a', 'write -P 1 0 1M')
    layers.write('b', 'write -P 2 512k 1M')
    layers.write('d', 'write -P 4 1M 64k')
    layers.open()
    start_stream(server, 'd', base_node='a').finish()
    server.stop()
    found = [(e['start'], e['length']) for e in
             images.map(layers.path('d')) if e['depth'] == 0]
    assert sum(length for _, length in found) == MIB
    assert found[0][0] == 512 << 10


@pytest.mark.parametrize('options', [
    {'cluster_size': 512}, {'cluster_size': 4096}, {'cluster_size': '2M'},
    {'compat': '0.10'}, {'extended_l2': 'on'}, {'lazy_refcounts': 'on'}],
    ids=str)
def test_formats(server, images, options):
    layers = Layers(server, images, 'abc', **options)
    compressed = '' if 'extended_l2' in options or \
        options.get('cluster_size') == '2M' else '-c'
    layers.write('a', 'write -P 9 3M 5000', 'write -P 8 5M 1536',
                 f'write {compressed} -P 7 6M 64k')
    layers.write('b', 'write -z 3074k 4k', 'write -z 6M 32k')
    before = images.content(layers.path('c'))
    layers.open()
    start_stream(server, 'c').finish()
    assert reads(layers, 'c') == before
    server.stop()
    layers.same(before)
    assert layers.header('c') == (None, None)


def test_odd_size(server, images):
    """The last cluster is not whole."""
    size = 3 * MIB + 512 * 7
    layers = Layers(server, images, 'ab', size=size, data=False)
    layers.write('a', f'write -P 5 0 {size}')
    layers.open()
    job = start_stream(server, 'b')
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (size, size)
    server.stop()
    layers.same(bytes([5]) * size)


def test_empty_disk(server, images):
    layers = Layers(server, images, 'ab', size=0, data=False).open()
    job = start_stream(server, 'b')
    job.finish()
    done = job.events['BLOCK_JOB_COMPLETED']
    assert (done['len'], done['offset']) == (0, 0)
    assert layers.header('b') == (None, None)


# Layers of different lengths

@pytest.mark.parametrize('base', [None, 'a', 'b', 'c'])
def test_short_layer(server, images, base):
    """Behind the end of a short layer there are zeroes, whatever is in a
    longer one below it."""
    layers = Layers(server, images, 'abcd', data=False,
                    sizes={'b': 2 * MIB, 'c': SIZE, 'd': SIZE})
    layers.write('a', f'write -P 1 0 {SIZE}')
    layers.write('b', 'write -P 2 64k 64k')
    layers.write('d', 'write -P 4 4M 64k')
    before = images.content(layers.path('d'))
    layers.open()
    options = {'base_node': base} if base else {}
    start_stream(server, 'd', **options).finish()
    assert reads(layers) == before
    server.stop()
    layers.same(before)


@pytest.mark.parametrize('n_bytes', [MIB + 512, 5 * 65536 + 3 * 512])
def test_short_base(server, images, n_bytes):
    layers = Layers(server, images, 'abc', size=n_bytes, data=False,
                    sizes={'b': SIZE, 'c': 2 * SIZE})
    layers.size = 2 * SIZE
    layers.write('a', f'write -P 1 0 {n_bytes}')
    layers.write('b', f'write -P 2 {n_bytes} 1M')
    before = images.content(layers.path('c'))
    layers.open()
    start_stream(server, 'c', base_node='a').finish()
    assert reads(layers, 'c') == before
    start_stream(server, 'c').finish()
    server.stop()
    layers.same(before)


def test_longer_base(server, images):
    layers = Layers(server, images, 'ab', data=False, sizes={'b': MIB})
    layers.size = MIB
    layers.write('a', f'write -P 1 0 {SIZE}')
    layers.open()
    start_stream(server, 'b').finish()
    server.stop()
    layers.same(bytes([1]) * MIB)


# What the header says

@pytest.mark.parametrize('text, header', [
    ('other.img', ('other.img', 'qcow2')),
    ('json:{"driver":"null-co"}', ('json:{"driver":"null-co"}', 'qcow2')),
    ('', (None, None))])
def test_backing_file(server, layers, text, header):
    """The text is written as it is; the node has the base all the same."""
    before = reads(layers)
    start_stream(server, 'd', base_node='a', backing_file=text).finish()
    assert layers.below('d') == ['a']
    assert layers.header('d') == header
    assert reads(layers) == before
    name = server.nodes()['d']['file']
    assert name.startswith('json:') and layers.path('a') in name
    server.stop()
    images = layers.images
    images.ignore(layers.path('d'))
    if not text:
        images.adopt(layers.path('d'))


def test_backing_file_too_long(server, layers):
    """Found out when all is copied: the job fails, the chain stays."""
    before = reads(layers)
    job = start_stream(server, 'd', base_node='a', backing_file='x' * 1024)
    assert job.error()
    assert 'BLOCK_JOB_COMPLETED' in job.events
    job.dismiss()
    assert layers.header('d') == (layers.path('c'), 'qcow2')
    assert reads(layers) == before
    if not server.is_qemu:      # has changed the graph
        assert layers.below('d') == ['c', 'b', 'a']
    start_stream(server, 'd', base_node='a').finish()
    assert layers.below('d') == ['a']


def test_relative_names(server, images):
    """Opened by the names in the headers; a relative name is meant from
    where the image lies, and any path to the file will do."""
    layers = Layers(server, images, 'abcd')
    for name, below in ('ba', 'cb', 'dc'):
        qemu_img('rebase', '-u', '-b', f'{below}.qcow2', '-F', 'qcow2',
                 layers.path(name))
    before = images.content(layers.path('d'))
    server.add_node('d', layers.path('d'))
    server.fails('block-stream', device='d', job_id='j', base='x.qcow2',
                 desc="Can't find 'x.qcow2' in the backing chain")
    start_stream(server, 'd', base='./b.qcow2').finish()
    assert layers.header('d') == (layers.path('b'), 'qcow2')
    start_stream(server, 'd', base='a.qcow2').finish()
    assert layers.header('d') == (layers.path('a'), 'qcow2')
    assert reads(layers) == before


def protocol_base(server, images):
    """An overlay over a file without a format node."""
    path = images.write_raw('base.img', bytes([3]) * MIB)
    images.create('mid.qcow2', MIB)
    images.create('top.qcow2', MIB)
    server.qmp('blockdev-add', driver='file', node_name='base',
               filename=path)
    server.add_node('mid', images.path('mid.qcow2'), backing='base')
    server.add_node('top', images.path('top.qcow2'), backing='mid')
    return path


def test_protocol_as_base(server, images):
    path = protocol_base(server, images)
    start_stream(server, 'top', base_node='base').finish()
    server.stop()
    info = images.info(images.path('top.qcow2'))
    assert info['backing-filename'] == path
    assert info['backing-filename-format'] == 'file'


@pytest.mark.ours('QEMU has backing-mask-protocol since 9.0')
@pytest.mark.parametrize('base, wanted', [('base', 'raw'), ('mid', 'qcow2')])
def test_backing_mask_protocol(server, images, base, wanted):
    path = protocol_base(server, images)
    start_stream(server, 'top', base_node=base,
                 backing_mask_protocol=True).finish()
    server.stop()
    info = images.info(images.path('top.qcow2'))
    assert info['backing-filename-format'] == wanted
    if base == 'base':
        assert info['backing-filename'] == path
        assert images.content(images.path('top.qcow2')) == bytes([3]) * MIB


# The filter

def test_hidden_filter(server, layers):
    job = start_stream(server, 'd', speed=1)
    nodes = server.qmp('query-named-block-nodes', flat=True)
    assert [n['drv'] for n in nodes].count('copy-on-read') == 1
    assert layers.below('d') == ['c', 'b', 'a']
    job.let_run()
    job.finish()
    nodes = server.qmp('query-named-block-nodes', flat=True)
    assert 'copy-on-read' not in [n['drv'] for n in nodes]


def test_named_filter(server, layers):
    job = start_stream(server, 'd', base_node='a', auto_finalize=False,
                       filter_node_name='filter')
    job.wait('BLOCK_JOB_PENDING')
    assert server.nodes()['filter']['drv'] == 'copy-on-read'
    assert layers.below('filter')[0] == 'd'
    server.fails('blockdev-del', node_name='filter',
                 desc=['Node filter is in use', "Node 'filter' is busy: "
                       'block device is in use by block job: stream'])
    server.qmp('job-finalize', id='stream')
    job.finish()
    assert 'filter' not in server.nodes()


# Users

def test_guest_writes(server, layers, guest_on):
    """The guest does not notice: what it reads is what it wrote, all the
    time and afterwards."""
    server.export('d')
    guest = guest_on(server, 'd', trims=True)
    guest.start()
    guest.wait_writes(20)
    job = start_stream(server, 'd', speed=2 * MIB)
    guest.wait_writes(200)
    job.let_run()
    job.finish()
    guest.wait_writes(20)
    guest.stop()
    guest.verify()
    model = guest.freeze()
    guest.close()
    assert layers.below('d') == []
    server.stop()
    layers.same(model)


def test_guest_beside_the_filter(server, layers, guest_on):
    """A guest that comes to the node itself while the job runs writes past
    the filter; nothing is lost."""
    job = start_stream(server, 'd', speed=MIB)
    server.export('d')
    guest = guest_on(server, 'd')
    guest.start()
    guest.wait_writes(200)
    job.let_run()
    job.finish()
    guest.stop()
    guest.verify()
    model = guest.freeze()
    guest.close()
    server.stop()
    layers.same(model)


def test_no_bitmap_gets_dirty(server, layers):
    for name in 'abcd':
        server.qmp('block-dirty-bitmap-add', node=name, name='bitmap')
    start_stream(server, 'd', base_node='a').finish()
    for name in 'abcd':
        bitmap, = server.nodes()[name]['dirty-bitmaps']
        assert bitmap['count'] == 0


def test_persistent_bitmap(server, layers, guest_on):
    """It has what the guest wrote, and nothing else."""
    server.qmp('block-dirty-bitmap-add', node='d', name='keep',
               persistent=True, granularity=65536)
    server.export('d')
    guest = guest_on(server, 'd')
    job = start_stream(server, 'd', speed=1)
    guest.write(5 * MIB, b'x' * 512)
    job.let_run()
    job.finish()
    guest.close()
    bitmap, = server.nodes()['d']['dirty-bitmaps']
    assert bitmap['count'] == 65536
    server.stop()
    assert 'keep' in layers.images.bitmaps(layers.path('d'))


@pytest.mark.parametrize('which', ['all', 'top'])
def test_read_only(server, images, which):
    """The job makes the streamed node writable for its time."""
    layers = Layers(server, images, 'abc')
    before = images.content(layers.path('c'))
    for name, below in (('a', None), ('b', 'a'), ('c', 'b')):
        server.add_node(name, layers.path(name), backing=below,
                        read_only=which == 'all' or name == 'c')
    job = start_stream(server, 'c', base_node='a', speed=1)
    assert server.nodes()['c']['ro'] is False
    assert server.nodes()['b']['ro'] is (which == 'all')
    job.let_run()
    job.finish()
    assert server.nodes()['c']['ro'] is True
    assert layers.header('c') == (layers.path('a'), 'qcow2')
    server.stop()
    layers.same(before)


def test_read_only_again_after_cancel(server, images):
    layers = Layers(server, images, 'ab').open(read_only=True)
    job = start_stream(server, 'b', speed=1)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    assert server.nodes()['b']['ro'] is True
    server.fails('block-stream', device='b', job_id='1 2',
                 desc="Invalid job ID '1 2'")
    assert server.nodes()['b']['ro'] is True
    assert layers.below('b') == ['a']


# Progress

def test_first_step(server, images):
    """With a limit the first copy is let through, 512 KiB of it; what need
    not be copied costs nothing."""
    layers = Layers(server, images, 'ab', size='64M', data=False)
    layers.write('a', 'write -P 1 0 4M')
    layers.open()
    job = start_stream(server, 'b', speed=65536)
    info = job.block_info()
    while info['offset'] == 0:
        info = job.block_info()
    assert (info['offset'], info['len']) == (524288, 64 * MIB)
    assert info['type'] == 'stream'
    job.cancel()
    job.wait('concluded')
    done = job.events['BLOCK_JOB_CANCELLED']
    assert done == {'device': 'stream', 'type': 'stream', 'speed': 65536,
                    'len': 64 * MIB, 'offset': 524288}
    job.dismiss()


def test_progress_over_holes(server, images):
    layers = Layers(server, images, 'ab', size='64M', data=False)
    layers.write('a', 'write -P 1 32M 4M')
    layers.open()
    job = start_stream(server, 'b', speed=65536)
    while job.block_info()['offset'] < 32 * MIB + 524288:
        pass
    assert job.block_info()['offset'] == 32 * MIB + 524288
    job.let_run()
    job.finish()


def test_default_job_id(server, layers):
    """A node's name is none."""
    server.fails('block-stream', device='d', desc="Invalid job ID ''")


def test_auto_dismiss(server, layers):
    server.qmp('block-stream', device='d', job_id='j')
    Job(server, 'j').wait('null')
    assert server.qmp('query-jobs') == []


def test_finalize_by_hand(server, layers):
    """Until then the chain is as it was."""
    job = start_stream(server, 'd', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    assert layers.below('d') == ['c', 'b', 'a']
    assert layers.header('d') == (layers.path('c'), 'qcow2')
    server.qmp('job-finalize', id='stream')
    job.finish()
    assert layers.below('d') == []


def test_cancel_while_pending(server, layers):
    job = start_stream(server, 'd', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    server.qmp('job-cancel', id='stream')
    job.wait('concluded')
    assert 'BLOCK_JOB_CANCELLED' in job.events
    job.dismiss()
    assert layers.below('d') == ['c', 'b', 'a']
    assert layers.header('d') == (layers.path('c'), 'qcow2')
    start_stream(server, 'd').finish()
    assert layers.below('d') == []
