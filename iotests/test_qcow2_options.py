# SPDX-License-Identifier: MIT
"""qcow2's options: what discards and zeroes do to clusters, what overlap
checks find, preallocation, resize, amend."""

import os
import struct

import pytest

from .images import qemu_img, same_bytes
from .nbd import NbdClient, NbdError
from .qcow2 import CLUSTER, OFLAG_COPIED, Qcow2File
from .qmp import QmpError

MIB = 1 << 20
NO_HOLE = 2             # NBD_CMD_FLAG_NO_HOLE


def open_export(server, path, file=None, **options):
    options.setdefault('discard', 'unmap')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n',
        'file': {'driver': 'file', 'filename': path,
                 'discard': options['discard'], **(file or {})}, **options})
    server.export('n')
    return NbdClient.connect(server.nbd_path, 'n')


def close_export(server, nbd):
    nbd.flush()
    nbd.disconnect()
    server.unexport('n')
    server.qmp('blockdev-del', node_name='n')


def clusters(images, path, n):
    """A letter for each of the first n clusters: D data, Z zero with a place,
    z zero without, b from below or nothing; uppercase: has a place."""
    text = ''
    for entry in images.map(path):
        place = 'offset' in entry
        if not entry.get('present', True) or entry['depth']:
            letter = 'b'
        elif entry['data']:
            letter = 'D'
        else:
            letter = 'Z' if place else 'z'
        text += letter * (entry['length'] // CLUSTER)
    return text[:n]


def used(path):
    return os.stat(path).st_blocks * 512


# discard of the node, options, what clusters 0-3 are after: discard of 0,
# zeroes without and with unmap in 1 and 2, a write in 3; freed in the file?
DISCARDS = [
    ('unmap', {}, 'zZzD', True),
    ('ignore', {}, 'DZzD', False),
    ('unmap', {'pass-discard-request': False}, 'zZzD', False),
    ('unmap', {'pass-discard-request': True}, 'zZzD', True),
    ('ignore', {'pass-discard-request': True}, 'DZzD', None),
    ('unmap', {'pass-discard-other': True}, 'zZzD', True),
    ('unmap', {'pass-discard-snapshot': False}, 'zZzD', True),
]


@pytest.mark.parametrize('backed', [False, True])
@pytest.mark.parametrize('discard,options,wanted,freed', DISCARDS)
def test_discard_options(server, images, discard, options, wanted, freed,
                         backed):
    """What becomes of clusters, and whether the file gets the room back."""
    base = images.create('base.qcow2', '1M') if backed else None
    if backed:
        images.io(base, 'write -P 9 0 1M')
    path = images.create('a.qcow2', '1M', backing=base)
    images.io(path, 'write -P 1 0 1M')
    before = used(path)
    nbd = open_export(server, path, discard=discard, **options)
    nbd.trim(0, CLUSTER)
    nbd.write_zeroes(CLUSTER, CLUSTER, flags=NO_HOLE)
    nbd.write_zeroes(2 * CLUSTER, CLUSTER)
    nbd.write(3 * CLUSTER, b'x' * CLUSTER)
    close_export(server, nbd)
    server.stop()
    assert clusters(images, path, 4) == wanted
    if freed is not None:
        assert (used(path) < before) == freed
    content = images.content(path)
    assert content[CLUSTER:3 * CLUSTER] == bytes(2 * CLUSTER)
    assert content[3 * CLUSTER:5 * CLUSTER] == \
        b'x' * CLUSTER + b'\1' * CLUSTER
    assert content[:CLUSTER] == (bytes(CLUSTER) if discard == 'unmap'
                                 else b'\1' * CLUSTER)


@pytest.mark.ours('QEMU 7.2 does not have discard-no-unref')
@pytest.mark.parametrize('discard', ['ignore', 'unmap'])
def test_discard_no_unref(server, images, discard):
    """Clusters keep their places, so that the file does not fragment."""
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 1 0 1M')
    before = used(path)
    nbd = open_export(server, path, discard=discard,
                      **{'discard-no-unref': True})
    nbd.trim(0, 2 * CLUSTER)
    nbd.write_zeroes(2 * CLUSTER, CLUSTER)
    close_export(server, nbd)
    server.stop()
    assert clusters(images, path, 4) == \
        ('ZZZD' if discard == 'unmap' else 'DDZD')
    assert (used(path) < before) == (discard == 'unmap')


@pytest.mark.ours('QEMU 7.2 does not have discard-no-unref')
def test_discard_no_unref_v2(server, images):
    path = images.create('a.qcow2', '1M', compat='0.10')
    server.fails('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n', 'discard-no-unref': True,
        'file': {'driver': 'file', 'filename': path}},
        desc='discard-no-unref is only supported since qcow2 version 3')


@pytest.mark.parametrize('compat', ['0.10', '1.1'])
def test_discard_old_version(server, images, compat):
    """Version 2 has no zero clusters: over a backing file a discard does
    nothing, without one the cluster becomes unallocated."""
    base = images.create('base.qcow2', '1M')
    images.io(base, 'write -P 9 0 1M')
    path = images.create('a.qcow2', '1M', backing=base, compat=compat)
    images.io(path, 'write -P 1 0 1M')
    nbd = open_export(server, path)
    nbd.trim(0, CLUSTER)
    nbd.write_zeroes(CLUSTER, CLUSTER)
    close_export(server, nbd)
    server.stop()
    content = images.content(path)
    assert content[CLUSTER:2 * CLUSTER] == bytes(CLUSTER)
    # Never what is below.
    assert content[:CLUSTER] in (bytes(CLUSTER), b'\1' * CLUSTER)
    assert clusters(images, path, 1) == ('z' if compat == '1.1' else 'D')


@pytest.mark.parametrize('mode,wanted', [
    ('off', 'DDbD'), ('on', 'ZbbD'), ('unmap', 'zbbD')])
def test_detect_zeroes(server, images, mode, wanted):
    """Zeroes written over data, over nothing; data."""
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 1 0 64k')
    nbd = open_export(server, path, **{'detect-zeroes': mode})
    nbd.write(0, bytes(2 * CLUSTER))
    nbd.write(3 * CLUSTER, b'x' * CLUSTER)
    close_export(server, nbd)
    server.stop()
    got = clusters(images, path, 4)
    # Nothing that reads as zeroes may stay nothing, or be marked.
    assert got in (wanted, wanted[0] + wanted[1].replace('b', 'z') +
                   wanted[2:])


# ---- overlap checks -------------------------------------------------------

def with_everything(images):
    """Two snapshots, a bitmap, data; cluster 0 is to be pointed at things."""
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 1 0 256k')
    qemu_img('snapshot', '-c', 's', path)
    images.io(path, 'write -P 2 0 128k')
    qemu_img('bitmap', '--add', path, 'b')
    return images.ignore(path)


def place_of(image, what):
    snapshot = image.get('snapshots_offset')
    inactive_l1 = image.u64(snapshot)
    if what == 'active-l1':
        return image.get('l1_offset')
    if what == 'active-l2':
        return image.u64(image.l1_entry_at()) & (OFLAG_COPIED - 1)
    if what == 'refcount-table':
        return image.get('reftable_offset')
    if what == 'refcount-block':
        return image.u64(image.refblock_entry_at())
    if what == 'snapshot-table':
        return snapshot
    if what == 'inactive-l1':
        return inactive_l1
    if what == 'inactive-l2':
        return image.u64(inactive_l1) & (OFLAG_COPIED - 1)
    # The bitmaps extension: type, length, count, reserved, size, offset.
    head = image.read(0, 4096)
    at = head.index(struct.pack('>II', 0x23852875, 24))
    return struct.unpack('>Q', head[at + 24:at + 32])[0]


NAMES = {
    'active-l1': 'active L1 table', 'active-l2': 'active L2 table',
    'refcount-table': 'refcount table', 'refcount-block': 'refcount block',
    'snapshot-table': 'snapshot table', 'inactive-l1': 'inactive L1 table',
    'inactive-l2': 'inactive L2 table',
    'bitmap-directory': 'bitmap directory',
}
CONSTANT = {'active-l1', 'refcount-table', 'snapshot-table',
            'bitmap-directory'}
CACHED = CONSTANT | {'active-l2', 'refcount-block', 'inactive-l1'}


def overlap_write(server, images, what, option):
    """Write to a guest cluster that lies on WHAT: the event, or None."""
    path = with_everything(images)
    image = Qcow2File(path)
    image.set_u64(image.l2_entry_at(),
                  place_of(image, what) | OFLAG_COPIED)
    nbd = open_export(server, path, **{'overlap-check': option})
    try:
        # In the second half: where these tables have nothing of use.
        nbd.write(CLUSTER - 512, bytes(512))
        failed = False
    except NbdError:
        failed = True
    event = server.wait_event('BLOCK_IMAGE_CORRUPTED') if failed else None
    try:
        close_export(server, nbd)
    except NbdError:
        pass
    return event, image


@pytest.mark.parametrize('what', NAMES)
@pytest.mark.parametrize('template', ['constant', 'cached', 'all'])
def test_overlap_templates(server, images, what, template):
    checked = {'constant': CONSTANT, 'cached': CACHED,
               'all': set(NAMES)}[template]
    event, image = overlap_write(server, images, what, template)
    assert (event is not None) == (what in checked)
    if event:
        assert event['data']['fatal'] is True
        assert event['data']['msg'] == 'Preventing invalid write on ' \
            f'metadata (overlaps with {NAMES[what]})'
        assert event['data']['node-name'] == 'n'
        server.stop()
        assert image.get('incompatible') & 2


@pytest.mark.parametrize('what', NAMES)
@pytest.mark.parametrize('on', [False, True])
def test_overlap_flags(server, images, what, on):
    """One alone, against a template that says the opposite."""
    event, _ = overlap_write(
        server, images, what,
        {'template': 'none' if on else 'all', what: on})
    assert (event is not None) == on


@pytest.mark.parametrize('what', ['inactive-l2', 'refcount-block'])
def test_overlap_after_reopen(server, images, what):
    path = with_everything(images)
    image = Qcow2File(path)
    image.set_u64(image.l2_entry_at(), place_of(image, what) | OFLAG_COPIED)
    options = {'driver': 'qcow2', 'node-name': 'n', 'file': 'f'}
    server.add_file('f', path)
    server.qmp('blockdev-add', {**options, 'overlap-check': 'none'})
    server.qmp('blockdev-reopen', {'options': [
        {**options, 'overlap-check': 'all'}]})
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    with pytest.raises(NbdError):
        nbd.write(CLUSTER - 512, bytes(512))
    event = server.wait_event('BLOCK_IMAGE_CORRUPTED')
    assert NAMES[what] in event['data']['msg']
    nbd.disconnect()


def test_not_fatal(server, images):
    """Damage found while the image is open for reading only: told once, not
    marked."""
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 1 0 128k')
    images.ignore(path)
    image = Qcow2File(path)
    image.set_u64(image.l2_entry_at(), (5 << 16) + 512)
    server.add_node('n', path, read_only=True)
    server.export('n', writable=False)
    nbd = NbdClient.connect(server.nbd_path, 'n')
    with pytest.raises(NbdError):
        nbd.read(0, 512)
    event = server.wait_event('BLOCK_IMAGE_CORRUPTED')
    assert event['data']['fatal'] is False
    with pytest.raises(NbdError):
        nbd.read(0, 512)
    assert nbd.read(CLUSTER, 512) == b'\1' * 512
    nbd.disconnect()
    server.stop()
    assert image.get('incompatible') & 2 == 0


# ---- resize ---------------------------------------------------------------

@pytest.mark.parametrize('shape', [
    {}, {'cluster_size': 512}, {'cluster_size': '2M'}, {'compat': '0.10'},
    {'extended_l2': 'on'}, {'refcount_bits': 1}, {'lazy_refcounts': 'on'}],
    ids=lambda s: '-'.join(s) or 'default')
@pytest.mark.parametrize('backed', [False, True])
def test_resize(server, images, guest_on, shape, backed):
    """Both ways; what comes back by growing reads as zeroes, never as what
    is below or was there."""
    base = images.create('base.qcow2', '8M') if backed else None
    if backed:
        images.io(base, 'write -P 9 0 8M')
    path = images.create('a.qcow2', '4M', backing=base, **shape)
    images.io(path, 'write -P 1 1M 3M')
    server.add_node('n', path)
    # QEMU 7.2 shows what was in the rest of the last cluster.
    cut = 2 * MIB if server.is_qemu else MIB + 512
    if backed and 'compat' in shape:
        server.qmp('block_resize', node_name='n', size=cut)
        server.fails('block_resize', node_name='n', size=6 * MIB,
                     desc='Failed to zero out new clusters: Operation not '
                          'supported')
        return
    for size in (cut, 6 * MIB, 4 * MIB, 4 * MIB + 1536, 5 * MIB):
        server.qmp('block_resize', node_name='n', size=size)
    server.export('n')
    guest = guest_on(server, 'n')
    content = guest.freeze()
    first = b'\x09' * MIB if backed else bytes(MIB)
    same_bytes(content, first + b'\1' * (cut - MIB) + bytes(5 * MIB - cut))
    guest.random_writes(40)
    guest.verify()
    guest.close()
    server.unexport('n')
    server.qmp('blockdev-del', node_name='n')
    same_bytes(images.content(path), guest.freeze())


@pytest.mark.parametrize('compat', ['0.10', '1.1'])
def test_resize_with_snapshots(server, images, compat):
    """Version 2 refuses; version 3 keeps them."""
    path = images.create('a.qcow2', '4M', compat=compat)
    images.io(path, 'write -P 1 0 4M')
    qemu_img('snapshot', '-c', 's', path)
    server.add_node('n', path)
    if compat == '0.10':
        for size in (2 * MIB, 6 * MIB):
            server.fails('block_resize', node_name='n', size=size,
                         desc="Can't resize a v2 image which has snapshots")
    else:
        for size in (2 * MIB, 6 * MIB, MIB):
            server.qmp('block_resize', node_name='n', size=size)
    server.stop()
    images.check(path)
    qemu_img('snapshot', '-a', 's', path)
    same_bytes(images.content(path), b'\1' * 4 * MIB)


def test_resize_with_bitmaps(server, images):
    """Persistent bitmaps follow, loaded and stored again."""
    path = images.create('a.qcow2', '4M')
    server.add_node('n', path)
    server.qmp('block-dirty-bitmap-add', node='n', name='b', persistent=True)
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    nbd.write(3 * MIB, b'x' * 4096)
    nbd.write(512, b'x' * 4096)
    nbd.disconnect()
    server.unexport('n')
    server.qmp('block_resize', node_name='n', size=9 * MIB)
    server.qmp('blockdev-del', node_name='n')
    images.check(path)
    server.add_node('n', path)
    assert server.nodes()['n']['dirty-bitmaps'][0]['count'] == 2 * CLUSTER
    server.qmp('block_resize', node_name='n', size=2 * MIB)
    assert server.nodes()['n']['dirty-bitmaps'][0]['count'] == CLUSTER
    server.stop()
    assert list(images.bitmaps(path)) == ['b']


def test_resize_refusals(server, images):
    path = images.create('a.qcow2', '4M')
    server.add_node('n', path)
    server.fails('block_resize', node_name='n', size=MIB + 1,
                 desc='The new size must be a multiple of 512')


# ---- damaged bitmaps ------------------------------------------------------

@pytest.mark.ours('QEMU does not open such an image')
def test_damaged_bitmaps(server, images, guest_on):
    """The disk opens and works; the bitmaps are set aside, shown, and can
    be removed."""
    path = images.create('a.qcow2', '1M')
    images.allow_leaks(path)        # what the damaged entry named
    images.io(path, 'write -P 5 0 64k')
    qemu_img('bitmap', '--add', path, 'b')
    image = Qcow2File(path)
    directory = place_of(image, 'bitmap-directory')
    image.set_u64(directory, (1 << 40) + 7)     # where its table is
    server.add_node('n', path)
    bitmaps = server.nodes()['n']['image']['format-specific']['data'][
        'bitmaps']
    assert [b['name'] for b in bitmaps] == ['b']
    shown = server.nodes()['n']['dirty-bitmaps']
    assert shown[0]['name'] == 'b' and shown[0]['inconsistent']
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.model[0] == 5
    guest.random_writes(20)
    guest.close()
    server.unexport('n')
    server.qmp('block-dirty-bitmap-remove', node='n', name='b')
    server.stop()
    assert 'b' not in images.bitmaps(path)


# ---- amend ----------------------------------------------------------------

def amend(server, node, job_options, ok=True):
    server.qmp('x-blockdev-amend', {'job-id': 'j', 'node-name': node,
                                    'options': job_options})
    server.wait_event('JOB_STATUS_CHANGE',
                      {'id': 'j', 'status': 'concluded'})
    job, = [j for j in server.qmp('query-jobs') if j['id'] == 'j']
    server.qmp('job-dismiss', id='j')
    assert job['type'] == 'amend'
    assert ('error' in job) != ok, job
    return job.get('error')


def test_amend_refusals(server, images):
    path = images.create('a.qcow2', '1M')
    raw = images.create('r.raw', '1M', fmt='raw')
    server.add_node('n', path)
    server.add_node('r', raw, driver='raw')
    args = {'job-id': 'j', 'node-name': 'nosuch',
            'options': {'driver': 'qcow2'}}
    server.fails('x-blockdev-amend', args,
                 desc="Cannot find device='' nor node-name='nosuch'")
    server.fails('x-blockdev-amend', {**args, 'node-name': 'r'},
                 desc="x-blockdev-amend doesn't support changing the block "
                      "driver")
    server.fails('x-blockdev-amend',
                 {**args, 'node-name': 'n', 'options': {'driver': 'raw'}},
                 desc="x-blockdev-amend doesn't support changing the block "
                      "driver")
    server.fails('x-blockdev-amend',
                 {**args, 'node-name': 'n', 'job-id': '$'},
                 desc="Invalid job ID '$'")
    amend(server, 'n', {'driver': 'qcow2'})
    text = amend(server, 'n', {
        'driver': 'qcow2', 'encrypt': {'format': 'luks', 'state': 'active',
                                       'new-secret': 's'}}, ok=False)
    assert text == "image is not encrypted, can't amend"


@pytest.mark.ours('QEMU changes these with qemu-img only')
def test_amend_version(server, images, guest_on):
    path = images.create('a.qcow2', '4M', compat='0.10')
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 7 0 4M')
    over = images.create('over.qcow2', '4M', backing=base, compat='0.10')
    for name in (path, over):
        images.io(name, 'write -P 1 0 1M')
    for name in (path, over):
        server.add_node('n', name)
        text = amend(server, 'n', {'driver': 'qcow2',
                                   'lazy-refcounts': True}, ok=False)
        assert 'Lazy refcounts only supported with compatibility level 1.1' \
            in text
        amend(server, 'n', {'driver': 'qcow2', 'version': 'v3'})
        server.export('n')
        guest = guest_on(server, 'n', seed=3, trims=True)
        amend(server, 'n', {'driver': 'qcow2', 'lazy-refcounts': True})
        guest.random_writes(30)
        data = server.nodes()['n']['image']['format-specific']['data']
        assert data['compat'] == '1.1' and data['lazy-refcounts']
        text = amend(server, 'n', {'driver': 'qcow2', 'version': 'v2'},
                     ok=False)
        assert 'v2 is not supported' in text
        amend(server, 'n', {'driver': 'qcow2', 'lazy-refcounts': False})
        guest.random_writes(10)
        guest.close()
        server.unexport('n')
        server.qmp('blockdev-del', node_name='n')
        info = images.info(name)['format-specific']['data']
        assert info['compat'] == '1.1' and not info['lazy-refcounts']
        same_bytes(images.content(name), guest.freeze())


@pytest.mark.ours('QEMU changes these with qemu-img only')
def test_amend_read_only(server, images):
    path = images.create('a.qcow2', '1M', compat='0.10')
    server.add_node('n', path, read_only=True)
    text = amend(server, 'n', {'driver': 'qcow2', 'version': 'v3'},
                 ok=False)
    assert 'Permission denied' in text


# ---- preallocation --------------------------------------------------------

@pytest.mark.parametrize('mode', ['off', 'metadata', 'falloc', 'full'])
@pytest.mark.parametrize('options', [
    {}, {'cluster-size': 512}, {'cluster-size': 2 * MIB},
    {'extended-l2': True}, {'refcount-bits': 64}],
    ids=lambda o: '-'.join(o) or 'default')
def test_preallocation(server, images, guest_on, mode, options):
    """As qemu-img makes it: the same clusters have places, the same space is
    taken."""
    path = images.path('a.qcow2')
    images.write_raw('a.qcow2', b'')
    images.adopt(path)
    server.add_file('f', path)
    server.qmp('blockdev-create', {'job-id': 'c', 'options': {
        'driver': 'qcow2', 'file': 'f', 'size': 4 * MIB,
        'preallocation': mode, **options}})
    server.wait_event('JOB_STATUS_CHANGE',
                      {'id': 'c', 'status': 'concluded'})
    assert not any('error' in j for j in server.qmp('query-jobs'))
    server.qmp('job-dismiss', id='c')
    server.qmp('blockdev-del', node_name='f')
    images.check(path)
    names = {k.replace('-', '_'): 'on' if v is True else v
             for k, v in options.items()}
    twin = images.create('twin.qcow2', '4M', preallocation=mode, **names)
    places = [sum(e['length'] for e in images.map(p) if 'offset' in e)
              for p in (path, twin)]
    assert places[0] == places[1] == (0 if mode == 'off' else 4 * MIB)
    # Tables may lie elsewhere, in blocks of the file system of their own.
    assert abs(used(path) - used(twin)) <= max(
        MIB, options.get('cluster-size', 0))
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    same_bytes(guest.freeze(), bytes(4 * MIB))
    guest.random_writes(40)
    guest.close()
    server.stop()
    same_bytes(images.content(path), guest.freeze())
