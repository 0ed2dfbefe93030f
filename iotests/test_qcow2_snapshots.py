# SPDX-License-Identifier: MIT
"""Internal snapshots of every shape of image: made and deleted by the server
while a client writes, judged and applied by qemu-img."""

import pytest

from .images import qemu_img, same_bytes
from .qcow2 import Qcow2File

MIB = 1 << 20
SHAPES = {
    'default': {},
    'v2': {'compat': '0.10'},
    'cluster-512': {'cluster_size': 512},
    'cluster-2M': {'cluster_size': '2M'},
    'refcount-4': {'refcount_bits': 4},
    'refcount-64': {'refcount_bits': 64, 'cluster_size': 512},
    'extended-l2': {'extended_l2': 'on'},
    'lazy': {'lazy_refcounts': 'on'},
    'preallocated': {'preallocation': 'metadata'},
}


def take(server, name):
    server.qmp('blockdev-snapshot-internal-sync', device='n', name=name)


def delete(server, **which):
    return server.qmp('blockdev-snapshot-delete-internal-sync', device='n',
                      **which)


def listed(server):
    return server.nodes()['n']['image'].get('snapshots', [])


def apply(images, path, name, wanted):
    """It reads right by itself, and as the disk when it is applied."""
    out = images.path('snapshot.raw')
    qemu_img('convert', '-l', f'snapshot.name={name}', '-f', 'qcow2', '-O',
             'raw', path, out)
    with open(out, 'rb') as raw:
        same_bytes(raw.read(), wanted, name)
    qemu_img('snapshot', '-a', name, path)
    images.check(path)
    same_bytes(images.content(path), wanted, name)


@pytest.mark.parametrize('backed', [False, True])
@pytest.mark.parametrize('shape', SHAPES)
def test_shapes(server, images, guest_on, shape, backed):
    if backed and shape == 'preallocated':
        pytest.skip('qemu-img does not preallocate over a backing file')
    base = images.create('base.qcow2', '6M') if backed else None
    if backed:
        images.io(base, 'write -P 5 1M 3M')
    path = images.create('a.qcow2', '6M', backing=base, **SHAPES[shape])
    server.add_node('n', path, discard='unmap')
    server.export('n')
    guest = guest_on(server, 'n', trims=True)
    states = {}
    for i in range(5):
        guest.random_writes(25)
        states[f's{i}'] = guest.freeze()
        take(server, f's{i}')
        if i == 3:
            info = delete(server, name='s1')
            assert info['id'] == '2' and info['name'] == 's1'
            del states['s1']
    guest.random_writes(25)
    guest.verify()
    assert [s['name'] for s in listed(server)] == list(states)
    assert [s['id'] for s in listed(server)] == ['1', '3', '4', '5']
    delete(server, id='1')
    del states['s0']
    guest.close()
    server.stop()
    images.check(path)
    same_bytes(images.content(path), guest.freeze())
    for name, wanted in states.items():
        apply(images, path, name, wanted)


def test_while_writing(server, images, guest_on):
    """Each is the disk at one moment of a client that does not wait."""
    path = images.create('a.qcow2', '6M')
    server.add_node('n', path, discard='unmap')
    server.export('n')
    guest = guest_on(server, 'n', trims=True)
    guest.start()
    for i in range(6):
        guest.wait_writes(20 * (i + 1))
        take(server, f's{i}')
    for i in (0, 2, 4):
        delete(server, name=f's{i}')
    guest.stop()
    guest.verify()
    guest.close()
    server.stop()
    images.check(path)
    same_bytes(images.content(path), guest.freeze())
    for i in (1, 3, 5):
        qemu_img('snapshot', '-a', f's{i}', path)
        images.check(path)


def test_killed_after(start_server, images, guest_on):
    """What was answered is in the file."""
    path = images.create('a.qcow2', '6M')
    images.allow_leaks(path)
    server = start_server()
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.random_writes(40)
    wanted = guest.freeze()
    take(server, 's')
    guest.random_writes(40)
    server.kill()
    images.check(path, leaks_allowed=True)
    qemu_img('snapshot', '-a', 's', path)
    same_bytes(images.content(path), wanted)


def test_extension_and_bitmaps_kept(server, images):
    path = images.create('a.qcow2', '1M')
    qemu_img('bitmap', '--add', path, 'b')
    image = Qcow2File(path)
    server.add_node('n', path)
    take(server, 's')
    take(server, 't')
    delete(server, name='s')
    server.stop()
    assert image.get('n_snapshots') == 1
    assert list(images.bitmaps(path)) == ['b']
    snapshot, = images.info(path)['snapshots']
    assert snapshot['name'] == 't' and snapshot['id'] == '2'


def test_refused(server, images):
    path = images.create('a.qcow2', '1M', data_file=images.path('d.raw'))
    server.add_node('n', path)
    server.fails('blockdev-snapshot-internal-sync', device='n', name='s',
                 desc='Failed to get a snapshot list: Operation not '
                      'supported')
    server.qmp('blockdev-del', node_name='n')
    path = images.create('b.qcow2', '1M', refcount_bits=1)
    images.io(path, 'write 0 64k')
    if server.is_qemu:
        images.allow_leaks(path)
    server.add_node('n', path)
    before = listed(server)
    server.fails('blockdev-snapshot-internal-sync', device='n', name='s',
                 desc="Failed to create snapshot 's' on device 'n': "
                      "Invalid argument")
    assert listed(server) == before
