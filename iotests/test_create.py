# SPDX-License-Identifier: MIT
"""blockdev-create: a job that makes an image."""

import os

import pytest

from .jobs import create_image
from .qmp import QmpTimeout, SCALE

MIB = 1 << 20
CREATE_SUCCEEDS = ['created', 'running', 'waiting', 'pending', 'concluded']
CREATE_FAILS = ['created', 'running', 'aborting', 'concluded']


@pytest.fixture
def qcow2_file(server, images):
    """A file node 'file' of an empty file."""
    path = images.path('new.qcow2')
    with open(path, 'w', encoding='ascii'):
        pass
    server.add_file('file', path)
    return path


def test_events(server, images):
    job = create_image(server, driver='file', filename=images.path('f'),
                       size=MIB)
    job.wait('concluded')
    assert job.steps == CREATE_SUCCEEDS
    assert job.events == {}
    info = job.info()
    assert set(info) == {'id', 'type', 'status', 'current-progress',
                         'total-progress'}
    assert (info['type'], info['status']) == ('create', 'concluded')
    assert info['current-progress'] == info['total-progress']
    job.dismiss()
    assert server.qmp('query-jobs') == []


@pytest.mark.parametrize('size', [0, 1, 511, 512, 1000, MIB, 1 << 40])
def test_file_size(server, images, size):
    path = images.path('f')
    create_image(server, driver='file', filename=path, size=size).finish()
    # The first 512 bytes are written, so that the file has a block.
    assert os.path.getsize(path) in (size, max(size, 512))
    assert os.stat(path).st_blocks <= 8


def test_file_truncates(server, images):
    """What was there before is gone."""
    path = images.write_raw('f', b'x' * 100000)
    create_image(server, driver='file', filename=path, size=4096).finish()
    assert open(path, 'rb').read() == bytes(4096)


@pytest.mark.parametrize('mode', ['off', 'falloc', 'full'])
def test_file_preallocation(server, images, mode):
    path = images.path('f')
    create_image(server, driver='file', filename=path, size=MIB,
                 preallocation=mode).finish()
    blocks = os.stat(path).st_blocks * 512
    assert blocks >= MIB if mode != 'off' else blocks <= 4096


def failed(server, **options):
    """The error of a creation that fails as a job."""
    job = create_image(server, **options)
    error = job.error()
    assert job.steps == CREATE_FAILS
    job.dismiss()
    return error


def test_file_errors(server, images):
    path = images.path('f')
    assert 'No such file or directory' in failed(
        server, driver='file', filename='/nonexistent/x', size=512)
    assert failed(server, driver='file', filename=path, size=-1)
    assert failed(server, driver='file', filename=path, size=512,
                  preallocation='metadata')
    assert server.qmp('query-jobs') == []


@pytest.mark.ours('QEMU writes to the end first')
@pytest.mark.parametrize('how', ['quit', 'cancel'])
def test_cancel_preallocation(server, images, how):
    """Writing a terabyte of zeroes can be stopped."""
    job = create_image(server, driver='file', filename=images.path('f'),
                       size=1 << 40, preallocation='full')
    try:
        if how == 'quit':
            server.mon.send_raw('{"execute":"quit"}')
            server.mon.wait_closed(timeout=3 * SCALE)
            server.wait_exit()
            return
        job.cancel()
        job.wait('concluded', timeout=3 * SCALE)
    except QmpTimeout:
        server.kill()       # before the disk is full
        raise
    assert job.steps[-2:] == ['aborting', 'concluded']
    job.dismiss()


@pytest.mark.parametrize('options,desc', [
    ({'driver': 'file'}, "Parameter 'options.filename' is missing"),
    ({'driver': 'file', 'filename': 'x'},
     "Parameter 'options.size' is missing"),
    ({'driver': 'file', 'filename': 'x', 'size': 512, 'junk': 1},
     "Parameter 'options.junk' is unexpected"),
    ({'driver': 'file', 'filename': 'x', 'size': '512'},
     "Parameter 'options.size' expects uint64"),
    ({'driver': 'qcow2', 'file': 'f', 'size': 512, 'version': 'v1'},
     "Parameter 'version' does not accept value 'v1'"),
    ({'driver': 'qcow2', 'file': 'f', 'size': 512, 'preallocation': 'x'},
     "Parameter 'preallocation' does not accept value 'x'"),
    ({}, "Parameter 'options.driver' is missing"),
    ({'driver': 'null-co'}, 'Driver does not support blockdev-create'),
])
def test_refused_at_once(server, options, desc):
    """What the schema catches fails the command; there is no job."""
    server.fails('blockdev-create', {'job-id': 'c', 'options': options},
                 desc)
    assert server.qmp('query-jobs') == []


def test_raw_cannot_be_created(server):
    """There is nothing to create; ours resizes the file (see below)."""
    if server.is_qemu:
        server.fails('blockdev-create', {
            'job-id': 'c', 'options': {'driver': 'raw'}},
            'Driver does not support blockdev-create')


@pytest.mark.ours('QEMU has no such creation')
def test_raw(server, images):
    path = images.write_raw('f', b'x' * 1000)
    server.add_file('file', path)
    create_image(server, driver='raw', file='file', size=65536).finish()
    server.qmp('blockdev-add', driver='raw', node_name='r', file='file')
    assert server.nodes()['r']['image']['virtual-size'] == 65536
    assert failed(server, driver='raw', file='nope', size=512)


def test_bad_job_id(server, images):
    options = {'driver': 'file', 'filename': images.path('f'), 'size': 512}
    for ident in ('', '1', 'a b'):
        server.fails('blockdev-create', {'job-id': ident,
                                         'options': options},
                     f"Invalid job ID '{ident}'")
    create_image(server, 'c', driver='file', filename=images.path('f'),
                 size=512).wait('concluded')
    server.fails('blockdev-create', {'job-id': 'c', 'options': options},
                 "Job ID 'c' already in use")
    server.fails('job-cancel', id='c', desc=(
        "Job 'c' in state 'concluded' cannot accept command verb 'cancel'"))
    server.qmp('job-dismiss', id='c')


QCOW2 = {
    'default': ({}, {}),
    'v2': ({'version': 'v2'}, {'compat': '0.10'}),
    'v3': ({'version': 'v3'}, {'compat': '1.1'}),
    'cluster-512': ({'cluster_size': 512}, {}),
    'cluster-2M': ({'cluster_size': 2 * MIB}, {}),
    'refcount-1': ({'refcount_bits': 1}, {'refcount-bits': 1}),
    'refcount-64': ({'refcount_bits': 64}, {'refcount-bits': 64}),
    'lazy': ({'lazy_refcounts': True}, {'lazy-refcounts': True}),
    'metadata': ({'preallocation': 'metadata'}, {}),
    'falloc': ({'preallocation': 'falloc'}, {}),
    'full': ({'preallocation': 'full'}, {}),
}


@pytest.mark.parametrize('shape', QCOW2)
def test_qcow2(server, images, guest_on, qcow2_file, shape):
    """qemu-img info and check agree with what was asked for."""
    options, wanted = QCOW2[shape]
    create_image(server, driver='qcow2', file='file', size=8 * MIB,
                 **options).finish()
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='file')
    server.export('n')
    guest = guest_on(server, 'n')
    assert not any(guest.freeze())
    guest.random_writes(40)
    guest.verify()
    guest.close()
    server.stop()
    images.adopt(qcow2_file)
    info = images.info(qcow2_file)
    assert info['virtual-size'] == 8 * MIB
    assert info['cluster-size'] == options.get('cluster_size', 65536)
    data = info['format-specific']['data']
    assert {k: data[k] for k in wanted} == wanted
    images.check(qcow2_file)
    assert images.content(qcow2_file) == guest.freeze()


def test_qcow2_as_qemu_img_makes_it(server, images, qcow2_file):
    """A fresh image is as small as QEMU's, and the same to read."""
    create_image(server, driver='qcow2', file='file', size=64 * MIB).finish()
    reference = images.create('ref.qcow2', '64M')
    server.stop()
    images.adopt(qcow2_file)
    ours, theirs = images.info(qcow2_file), images.info(reference)
    for info in (ours, theirs):
        for key in ('filename', 'actual-size', 'children'):
            info.pop(key, None)
    assert ours == theirs
    assert os.path.getsize(qcow2_file) <= os.path.getsize(reference)


def test_qcow2_with_backing_file(server, images, guest_on, qcow2_file):
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 5 0 1M')
    create_image(server, driver='qcow2', file='file', size=8 * MIB,
                 backing_file=base, backing_fmt='qcow2').finish()
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='file')
    image = server.nodes()['n']['image']
    assert image['backing-filename'] == base
    assert image['backing-filename-format'] == 'qcow2'
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.freeze() == b'\5' * MIB + bytes(7 * MIB)
    guest.close()
    server.stop()
    images.adopt(qcow2_file)
    assert images.info(qcow2_file)['full-backing-filename'] == base


def test_qcow2_inline_file(server, images):
    """The file child given in place is gone afterwards."""
    path = images.path('new.qcow2')
    open(path, 'w', encoding='ascii').close()
    create_image(server, driver='qcow2', size=MIB,
                 file={'driver': 'file', 'filename': path}).finish()
    assert server.nodes() == {}
    images.adopt(path)


def test_qcow2_over_old_content(server, images, qcow2_file):
    """An image made over another forgets it, tables and all."""
    images.io(images.adopt(images.create('new.qcow2', '8M')),
              'write -P 7 0 8M')
    create_image(server, driver='qcow2', file='file', size=4 * MIB).finish()
    server.stop()
    images.check(qcow2_file)
    assert images.content(qcow2_file) == bytes(4 * MIB)


@pytest.mark.parametrize('options,error', [
    ({'size': 1000}, 'Image size must be a multiple of 512 bytes'),
    ({'size': -1}, 'Image size must be a multiple of 512 bytes'),
    ({'size': -512}, 'Could not resize image: Image size cannot be negative'),
    ({'size': 2**63 - 512},
     'Could not resize image: offset(9223372036854775296) exceeds '
     'maximum(9223372035781033984)'),
    ({'size': 2**62},
     'Could not resize image: Failed to grow the L1 table: File too large'),
    ({'cluster_size': 1000},
     'Cluster size must be a power of two between 512 and 2048k'),
    ({'cluster_size': 256},
     'Cluster size must be a power of two between 512 and 2048k'),
    ({'cluster_size': 4 * MIB},
     'Cluster size must be a power of two between 512 and 2048k'),
    ({'cluster_size': 0},
     'Cluster size must be a power of two between 512 and 2048k'),
    ({'refcount_bits': 5},
     'Refcount width must be a power of two and may not exceed 64 bits'),
    ({'refcount_bits': 128},
     'Refcount width must be a power of two and may not exceed 64 bits'),
    ({'refcount_bits': 0},
     'Refcount width must be a power of two and may not exceed 64 bits'),
    ({'refcount_bits': 8, 'version': 'v2'},
     'Different refcount widths than 16 bits require compatibility level '
     '1.1 or above (use version=v3 or greater)'),
    ({'lazy_refcounts': True, 'version': 'v2'},
     'Lazy refcounts only supported with compatibility level 1.1 and above '
     '(use version=v3 or greater)'),
    ({'backing_fmt': 'raw'},
     'Backing format cannot be used without backing file'),
    ({'backing_file': '/x', 'backing_fmt': 'raw', 'preallocation': 'full'},
     'Backing file and preallocation can only be used at the same time if '
     'extended_l2 is on'),
    ({'backing_file': 'x' * 1024, 'backing_fmt': 'raw'}, None),
])
def test_qcow2_errors(server, images, qcow2_file, options, error):
    options = dict({'size': MIB}, **options)
    got = failed(server, driver='qcow2', file='file', **options)
    assert error in (None, got)


@pytest.mark.parametrize('hint', [0, 1 << 20, 1 << 32, -1])
def test_extent_size_hint(server, images, hint):
    """It need not be heeded, but must be possible."""
    path = images.path('new.raw')
    options = {'driver': 'file', 'filename': path, 'size': MIB,
               'extent_size_hint': hint}
    if 0 <= hint < 1 << 32:
        create_image(server, **options).finish()
        assert os.path.getsize(path) == MIB
    else:
        assert failed(server, **options) == 'Extent size hint is too large'
        assert not os.path.exists(path)


@pytest.mark.parametrize('options', [
    {}, {'data_file_raw': True}, {'data_file_raw': True, 'extended_l2': True},
    {'preallocation': 'metadata'}, {'preallocation': 'falloc'},
    {'data_file_raw': True, 'preallocation': 'full'}], ids=str)
def test_data_file(server, images, qcow2_file, options):
    """The data is outside; with data-file-raw all of it is mapped 1:1."""
    data = images.path('data.raw')
    create_image(server, driver='file', filename=data, size=0).finish()
    server.add_file('data', data)
    create_image(server, driver='qcow2', file='file', data_file='data',
                 size=4 * MIB, **options).finish()
    server.stop()
    images.adopt(qcow2_file)
    info = images.info(qcow2_file)['format-specific']['data']
    assert info['data-file'] == data
    assert info['data-file-raw'] == options.get('data_file_raw', False)
    assert os.path.getsize(data) == 4 * MIB
    full = options.get('preallocation') in ('falloc', 'full')
    assert (os.stat(data).st_blocks * 512 >= 4 * MIB) == full
    entry, = images.map(qcow2_file)
    if options and not options.get('extended_l2'):
        assert (entry['present'], entry['data'], entry['offset']) == \
            (True, True, 0)
    else:
        assert entry['zero'] and not entry['data']


@pytest.mark.parametrize('options,error', [
    ({'data_file_raw': True}, 'data-file-raw requires data-file'),
    ({'data_file': 'file2', 'version': 'v2'},
     'External data files are only supported with compatibility level 1.1 '
     'and above (use version=v3 or greater)'),
    ({'data_file': 'file2', 'data_file_raw': True, 'backing_file': '/x',
      'backing_fmt': 'raw'},
     'Backing file and data-file-raw cannot be used at the same time'),
    ({'data_file': 'nope'},
     "Cannot find device='nope' nor node-name='nope'"),
    ({'extended_l2': True, 'version': 'v2'},
     'Extended L2 entries are only supported with compatibility level 1.1 '
     'and above (use version=v3 or greater)'),
    ({'extended_l2': True, 'cluster_size': 8192},
     'Extended L2 entries are only supported with cluster sizes of at least '
     '16384 bytes'),
    ({'compression_type': 'zstd', 'version': 'v2'},
     'Non-zlib compression type is only supported with compatibility level '
     '1.1 and above (use version=v3 or greater)')], ids=str)
def test_qcow2_options_that_do_not_fit(server, images, qcow2_file, options,
                                       error):
    path = images.path('file2.raw')
    create_image(server, driver='file', filename=path, size=0).finish()
    server.add_file('file2', path)
    assert failed(server, driver='qcow2', file='file', size=MIB,
                  **options) == error


@pytest.mark.ours('QEMU has them')
@pytest.mark.parametrize('driver', ['luks', 'vmdk', 'vdi', 'vpc', 'qcow'])
def test_unsupported_format(server, images, driver):
    """Refused by its name; so is encryption."""
    server.fails('blockdev-create', {
        'job-id': 'c', 'options': {'driver': driver, 'file': 'x', 'size': 0}},
        f"Parameter 'driver' does not accept value '{driver}'")
    server.fails('blockdev-create', {
        'job-id': 'c', 'options': {
            'driver': 'qcow2', 'file': 'x', 'size': 0,
            'encrypt': {'format': 'luks', 'key-secret': 's'}}},
        "Parameter 'options.encrypt' is unexpected")
    assert server.qmp('query-jobs') == []


def test_qcow2_unknown_file_node(server):
    assert failed(server, driver='qcow2', file='nope', size=MIB) == \
        "Cannot find device='nope' nor node-name='nope'"


def test_qcow2_on_used_file(server, images):
    """Not over an image that is open."""
    path = images.create('a.qcow2', '1M')
    server.add_file('file', path)
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='file')
    assert failed(server, driver='qcow2', file='file', size=MIB)
    server.qmp('blockdev-del', node_name='n')
    assert images.info(path)['virtual-size'] == MIB


def test_qcow2_on_read_only_file(server, images):
    path = images.create('a.qcow2', '1M')
    server.add_file('file', path, read_only=True)
    assert failed(server, driver='qcow2', file='file', size=2 * MIB)
    assert images.info(path)['virtual-size'] == MIB


def test_missing_node_comes_first(server):
    """Of two things wrong, QEMU's tells the missing node."""
    for options in ({'size': 1}, {'size': MIB, 'cluster_size': 3}):
        assert failed(server, driver='qcow2', file='nope', **options) == \
            "Cannot find device='nope' nor node-name='nope'"


def virtual_size(server, node):
    return server.nodes()[node]['image']['virtual-size']


@pytest.mark.parametrize('options', [
    {}, {'cluster_size': 4096}, {'preallocation': 'metadata'}], ids=str)
def test_qcow2_on_longer_file(server, images, guest_on, qcow2_file, options):
    """The file stays as long as it is, its old data is never seen."""
    with open(qcow2_file, 'wb') as image:
        image.write(b'x' * (10 * MIB))
    server.qmp('blockdev-add', driver='file', node_name='long',
               filename=qcow2_file, locking='off')
    create_image(server, driver='qcow2', file='long', size=2 * MIB,
                 **options).finish()
    assert os.path.getsize(qcow2_file) == 10 * MIB
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='long')
    server.export('n')
    guest = guest_on(server, 'n', unit=1, max_bytes=70000)
    if not (server.is_qemu and options.get('preallocation')):
        assert not any(guest.freeze())
        guest.random_writes(60)
        guest.verify()
    guest.close()
    server.stop()
    images.adopt(qcow2_file)
    images.check(qcow2_file)
    if not (server.is_qemu and options.get('preallocation')):
        assert images.content(qcow2_file) == guest.freeze()


@pytest.mark.ours('QEMU: cannot use preallocation for shrinking files')
@pytest.mark.parametrize('mode', ['falloc', 'full'])
def test_qcow2_preallocated_over_old_content(server, images, qcow2_file,
                                             mode):
    """The old content takes no space beside the new one."""
    with open(qcow2_file, 'wb') as image:
        image.write(b'x' * (10 * MIB))
    create_image(server, driver='qcow2', size=2 * MIB, preallocation=mode,
                 file={'driver': 'file', 'filename': qcow2_file,
                       'locking': 'off'}).finish()
    assert os.path.getsize(qcow2_file) < 3 * MIB
    server.stop()
    images.adopt(qcow2_file)
    assert images.content(qcow2_file) == bytes(2 * MIB)


def test_qcow2_in_window(server, images, guest_on):
    """A window of a fixed size is enough, and nothing else is written."""
    path = images.write_raw('f', b'x' * (4 * MIB))
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'w', 'offset': MIB, 'size': 2 * MIB,
        'file': {'driver': 'file', 'filename': path}})
    create_image(server, driver='qcow2', file='w', size=MIB).finish()
    assert virtual_size(server, 'w') == 2 * MIB
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='w')
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.freeze() == bytes(MIB)
    guest.random_writes(40)
    guest.verify()
    guest.close()
    server.stop()
    with open(path, 'rb') as image:
        data = image.read()
    assert len(data) == 4 * MIB
    assert data[:MIB] == data[3 * MIB:] == b'x' * MIB
    inner = images.path('inner.qcow2')
    with open(inner, 'wb') as image:
        image.write(data[MIB:3 * MIB])
    images.adopt(inner)
    assert images.content(inner) == guest.freeze()


def test_qcow2_in_too_small_window(server, images):
    """Without room nothing is written: ours tells before."""
    path = images.write_raw('f', b'x' * MIB)
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'w', 'size': 131072,
        'file': {'driver': 'file', 'filename': path}})
    error = failed(server, driver='qcow2', file='w', size=MIB)
    if server.is_qemu:
        assert 'No space left on device' in error
        return
    assert error == 'Cannot resize fixed-size raw disks'
    with open(path, 'rb') as image:
        assert image.read() == b'x' * MIB


@pytest.mark.parametrize('size,after', [
    (16 * MIB, 16 * MIB), (65536, 197120), (0, 197120)])
def test_qcow2_in_qcow2(server, images, size, after):
    """The image below grows if it must, and is never cut."""
    path = images.create('a.qcow2', str(size))
    server.add_node('a', path)
    create_image(server, driver='qcow2', file='a', size=MIB).finish()
    assert virtual_size(server, 'a') == after
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='a')
    assert virtual_size(server, 'n') == MIB
    server.qmp('blockdev-del', node_name='n')


def test_qcow2_in_qcow2_marks_bitmaps(server, images):
    path = images.create('a.qcow2', '16M')
    server.add_node('a', path)
    server.qmp('block-dirty-bitmap-add', node='a', name='b')
    create_image(server, driver='qcow2', file='a', size=MIB).finish()
    bitmap, = server.nodes()['a']['dirty-bitmaps']
    assert bitmap['count'] == 4 * 65536


def test_qcow2_on_null(server):
    """Where nothing is kept there is no image."""
    server.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'z',
                                'size': MIB, 'read-zeroes': True})
    assert failed(server, driver='qcow2', file='z', size=MIB) == \
        'Image is not in qcow2 format'


def test_qcow2_on_full_disk(server, small_disk):
    disk = small_disk(1 << 20)
    path = disk.path('a.qcow2')
    open(path, 'w', encoding='ascii').close()
    disk.fill()
    server.add_file('file', path)
    assert 'No space left on device' in failed(
        server, driver='qcow2', file='file', size=MIB)


def test_auto_read_only(server, small_disk):
    """A node that may write, on a file that may not be written to, is
    read-only until somebody needs to write."""
    disk = small_disk(8 << 20)
    path = disk.path('r.img')
    with open(path, 'wb') as image:
        image.write(b'x' * 4096)
    disk.remount('ro')
    server.fails('blockdev-add', {
        'driver': 'file', 'node-name': 'f', 'filename': path},
        f"Could not open '{path}': Read-only file system")
    server.add_file('f', path, auto_read_only=True)
    server.qmp('blockdev-add', driver='raw', node_name='r', file='f')
    server.export('r', writable=False)
    server.fails('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'r', 'name': 'w',
        'writable': True})
    server.unexport('r')


def test_auto_read_only_is_dynamic(server, small_disk):
    """The file is opened for writing when that is asked for, not before."""
    disk = small_disk(8 << 20)
    path = disk.path('r.img')
    with open(path, 'wb') as image:
        image.write(b'x' * 4096)
    disk.remount('ro')
    server.add_file('f', path, auto_read_only=True)
    server.qmp('blockdev-add', driver='raw', node_name='r', file='f')
    disk.remount('rw')
    server.export('r')
