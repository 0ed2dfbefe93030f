# SPDX-License-Identifier: MIT
"""blockdev-reopen: options, children, bitmaps, locks; all or nothing."""

import os
import threading
import time

import pytest

from .images import qemu_img
from .nbd import NbdClient, NbdError
from .qmp import QmpError

MIB = 1 << 20


def file_of(path, **options):
    return dict({'driver': 'file', 'filename': path},
                **{k.replace('_', '-'): v for k, v in options.items()})


def qcow2(name, file, **options):
    return dict({'driver': 'qcow2', 'node-name': name, 'file': file},
                **{k.replace('_', '-'): v for k, v in options.items()})


def raw(name, file, **options):
    return dict({'driver': 'raw', 'node-name': name, 'file': file}, **options)


def null(name, **options):
    return dict({'driver': 'null-co', 'node-name': name, 'size': MIB},
                **options)


def reopen(server, *options):
    server.qmp('blockdev-reopen', {'options': list(options)})


def refused(server, desc, *options):
    """It fails with this text, and the graph is as before."""
    before = server.graph()
    server.fails('blockdev-reopen', {'options': list(options)}, desc)
    assert server.graph() == before


def backing_of(server, name):
    children = {}
    graph = server.qmp('x-debug-query-block-graph')
    names = {n['id']: n['name'] for n in graph['nodes']}
    for edge in graph['edges']:
        children[(names[edge['parent']], edge['name'])] = names[edge['child']]
    return children.get((name, 'backing'))


def child_of(server, name, child='file'):
    graph = server.qmp('x-debug-query-block-graph')
    names = {n['id']: n['name'] for n in graph['nodes']}
    for edge in graph['edges']:
        if names[edge['parent']] == name and edge['name'] == child:
            return names[edge['child']]
    return None


# Which nodes, which options


def test_which_node(server, images):
    path = images.create('a.qcow2', '1M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    options = qcow2('n', 'f')
    reopen(server, options)
    refused(server, "Failed to find node with node-name='x'",
            dict(options, **{'node-name': 'x'}))
    refused(server, "Failed to find node with node-name=''",
            dict(options, **{'node-name': ''}))
    refused(server, "Cannot change the option 'driver'",
            dict(options, driver='raw'))
    refused(server, "Parameter 'options[0].driver' is missing" if
            not server.is_qemu else
            ["Parameter 'options[0].driver' is missing",
             "Parameter 'driver' is missing"],
            {'node-name': 'n', 'file': 'f'})
    del options['node-name']
    refused(server, 'node-name not specified', options)


@pytest.mark.ours('QEMU 7.2 ends with a failed assertion')
def test_no_node(server):
    reopen(server)


def test_children_by_name_and_inline(server, images):
    path = images.create('a.qcow2', '1M')
    other = images.create('b.qcow2', '1M')
    file = file_of(path, node_name='f')
    server.qmp('blockdev-add', qcow2('n', file))
    reopen(server, qcow2('n', file))
    for options, desc in (
            ({'node-name': 'g'}, "Cannot change the option 'node-name'"),
            ({'filename': other}, "Cannot change the option 'filename'"),
            ({'driver': 'host_device'}, "Cannot change the option 'driver'"),
            ({'locking': 'off'}, "Cannot change the option 'locking'"),
            ({'aio': 'native'}, ["Cannot change the option 'aio'", NATIVE])):
        refused(server, desc, qcow2('n', dict(file, **options)))
    for name, desc in (
            ('x', "Cannot find device='' nor node-name='x'"),
            ('', "Cannot find device='' nor node-name=''"),
            ('n', "Making 'n' a file child of 'n' would create a cycle")):
        refused(server, desc, qcow2('n', name))
    reopen(server, qcow2('n', 'f'))


NATIVE = ('aio=native was specified, but it requires cache.direct=on, which '
          'was not specified.')


def test_options_that_stay(server):
    server.qmp('blockdev-add', null('n'))
    reopen(server, null('n'))
    refused(server, "Cannot change the option 'size'",
            dict(null('n'), size=2 * MIB))
    refused(server, "Cannot change the option 'latency-ns'",
            dict(null('n'), **{'latency-ns': 5}))
    refused(server, "Cannot change the option 'read-zeroes'",
            dict(null('n'), **{'read-zeroes': True}))
    refused(server, "Option 'size' cannot be reset to its default value",
            {'driver': 'null-co', 'node-name': 'n'})


def test_locking_stays(server, images):
    path = images.create('a.raw', '1M', fmt='raw')
    server.qmp('blockdev-add', file_of(path, node_name='f', locking='off'))
    refused(server, "Option 'locking' cannot be reset to its default value",
            file_of(path, node_name='f'))
    refused(server, "Cannot change the option 'locking'",
            file_of(path, node_name='f', locking='on'))
    reopen(server, file_of(path, node_name='f', locking='off'))


def test_options_that_change(server, images):
    path = images.create('a.raw', '1M', fmt='raw')
    server.qmp('blockdev-add', file_of(path, node_name='f'))

    def shown(**options):
        reopen(server, file_of(path, node_name='f', **options))
        node = server.nodes()['f']
        return node['ro'], node['cache'], node['detect_zeroes']

    refused(server, 'setting detect-zeroes to unmap is not allowed without '
            'setting discard operation to unmap',
            file_of(path, node_name='f', detect_zeroes='unmap'))
    cache = {'direct': False, 'no-flush': False, 'writeback': True}
    assert shown() == (False, cache, 'off')
    assert shown(read_only=True) == (True, cache, 'off')
    assert shown(cache={'no-flush': True}) == \
        (False, dict(cache, **{'no-flush': True}), 'off')
    assert shown(detect_zeroes='on') == (False, cache, 'on')
    assert shown(detect_zeroes='unmap', discard='unmap')[2] == 'unmap'
    assert shown(x_check_cache_dropped=True) == (False, cache, 'off')
    assert shown() == (False, cache, 'off')


def test_force_share_stays(server, images):
    path = images.create('a.raw', '1M', fmt='raw')
    server.add_file('f', path, read_only=True)
    refused(server, "Cannot change the option 'force-share'",
            file_of(path, node_name='f', force_share=True, read_only=True))
    if server.is_qemu:      # it does not know any more what it was
        return
    server.add_file('g', path, read_only=True, force_share=True)
    refused(server, "Option 'force-share' cannot be reset to its default "
            "value", file_of(path, node_name='g', read_only=True))
    refused(server, 'force-share=on can only be used with read-only images',
            file_of(path, node_name='g', force_share=True))
    reopen(server, file_of(path, node_name='g', force_share=True,
                           read_only=True))


def fd_flags(server, path):
    """Flags of all descriptors the server has on PATH."""
    found = []
    for fd in os.listdir(f'/proc/{server.proc.pid}/fd'):
        try:
            if os.readlink(f'/proc/{server.proc.pid}/fd/{fd}') != path:
                continue
            with open(f'/proc/{server.proc.pid}/fdinfo/{fd}',
                      encoding='ascii') as info:
                text = info.read()
        except OSError:
            continue
        found.append(int(text.split('flags:')[1].split()[0], 8))
    return found


def test_direct(server, images, guest_on):
    path = images.create('a.raw', '1M', fmt='raw')
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip('no O_DIRECT here')
    server.qmp('blockdev-add', file_of(path, node_name='f'))
    server.export('f')
    guest = guest_on(server, 'f')
    guest.write(1, b'x' * 600)
    reopen(server, file_of(path, node_name='f', cache={'direct': True}))
    assert any(flags & os.O_DIRECT for flags in fd_flags(server, path))
    assert server.nodes()['f']['cache']['direct']
    guest.write(700, b'y' * 900)
    guest.verify()
    reopen(server, file_of(path, node_name='f'))
    assert not any(flags & os.O_DIRECT for flags in fd_flags(server, path))
    guest.write(3, b'z')
    guest.verify()


def test_native_needs_direct(server, images):
    path = images.create('a.raw', '1M', fmt='raw')
    options = file_of(path, node_name='f', aio='native',
                      cache={'direct': True})
    try:
        server.qmp('blockdev-add', options)
    except QmpError as exc:
        pytest.skip(exc.desc)
    if not server.is_qemu:      # it goes on with what cannot be
        refused(server, NATIVE, dict(options, cache={'direct': False}))
    reopen(server, options)


# Children


def test_swap_two_files(server, images, guest_on):
    a = images.write_raw('a', b'a' * MIB)
    b = images.write_raw('b', b'b' * 2 * MIB)
    server.add_file('f1', a)
    server.add_file('f2', b)
    server.qmp('blockdev-add', raw('r1', 'f1'))
    server.qmp('blockdev-add', raw('r2', 'f2'))
    server.export('r1')
    assert read(server, 'r1') == b'a'
    reopen(server, raw('r1', 'f2'), raw('r2', 'f1'))
    assert read(server, 'r1') == b'b'
    nodes = server.nodes()
    assert nodes['r1']['image']['virtual-size'] == 2 * MIB
    assert nodes['r2']['image']['virtual-size'] == MIB
    assert nodes['r1']['file'] == b and nodes['r2']['file'] == a
    refused(server, "Cannot find device='' nor node-name='f3'",
            raw('r1', 'f1'), raw('r2', 'f3'))
    refused(server, "Read-only block node 'r1' cannot support read-write "
            "users", raw('r2', 'f2'), raw('r1', 'f1', **{'read-only': True}))
    assert read(server, 'r1') == b'b'
    reopen(server, raw('r1', 'f1'), raw('r2', 'f2'))
    assert read(server, 'r1') == b'a'


def read(server, export, offset=0, length=1):
    client = NbdClient.connect(server.nbd_path, export)
    data = client.read(offset, length)
    client.close()
    return data


def test_raw_window(server, images):
    data = b''.join(bytes([i]) * 512 for i in range(64))
    path = images.write_raw('a', data)
    server.add_file('f', path)
    server.qmp('blockdev-add', raw('r', 'f', offset=512))
    server.export('r', writable=False)
    assert read(server, 'r') == b'\x01'
    for window, first, size in (
            ({}, 0, 32768), ({'offset': 1024}, 2, 31744),
            ({'size': 512}, 0, 512), ({'offset': 4096, 'size': 1024}, 8, 1024),
            ({}, 0, 32768)):
        reopen(server, raw('r', 'f', **window))
        assert read(server, 'r') == bytes([first])
        assert server.nodes()['r']['image']['virtual-size'] == size
    for window, desc in (
            ({'size': 513}, 'Specified size is not multiple of 512'),
            ({'offset': 65536}, 'Offset (65536) cannot be greater than size '
             'of the containing file (32768)'),
            ({'offset': 512, 'size': 32768}, 'The sum of offset (512) and '
             'size (32768) has to be smaller or equal to the  actual size of '
             'the containing file (32768)')):
        refused(server, desc, raw('r', 'f', **window))
    if not server.is_qemu:      # it looks at the file that goes
        server.add_file('short', images.write_raw('b', data[:4096]))
        refused(server, 'Offset (8192) cannot be greater than size of the '
                'containing file (4096)', raw('r', 'short', offset=8192))


def test_window_in_a_window(server, images):
    """Both in one call: what is above is checked against what is below as
    it was before; two calls do what one cannot."""
    path = images.write_raw('a', b'x' * 32768)
    server.add_file('f', path)
    server.qmp('blockdev-add', raw('low', 'f', size=4096))
    server.qmp('blockdev-add', raw('r', 'low', size=4096))
    desc = ('The sum of offset (0) and size (8192) has to be smaller or equal '
            'to the  actual size of the containing file (4096)')
    larger = [raw('low', 'f', size=8192), raw('r', 'low', size=8192)]
    for options in (larger, larger[::-1]):
        refused(server, desc, *options)
    for options in larger:
        reopen(server, options)
    assert server.nodes()['r']['image']['virtual-size'] == 8192
    # The one below cut short alone: what is behind its end is not shown.
    reopen(server, raw('low', 'f', size=512))
    server.export('r', writable=False)
    client = NbdClient.connect(server.nbd_path, 'r')
    assert client.read(0, 512) == b'x' * 512
    if server.is_qemu:
        with pytest.raises(NbdError):
            client.read(512, 512)
    else:
        assert client.read(512, 512) == bytes(512)
    client.close()


def chain(server, images):
    """top -> mid -> base, made by nested options; the other one."""
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write -P 1 0 64k')
    mid = images.create('mid.qcow2', '4M', backing=base)
    images.io(mid, 'write -P 2 64k 64k')
    top = images.create('top.qcow2', '4M', backing=mid)
    other = images.create('other.qcow2', '4M')
    images.io(other, 'write -P 9 0 1M')
    server.qmp('blockdev-add', qcow2(
        'top', file_of(top, node_name='topf'), backing=qcow2(
            'mid', file_of(mid, node_name='midf'), backing=qcow2(
                'base', file_of(base, node_name='basef')))))
    server.qmp('blockdev-add', qcow2('other', file_of(other,
                                                      node_name='otherf'),
                                     read_only=True))


def test_backing_is_mandatory(server, images):
    chain(server, images)
    refused(server, "backing is missing for 'top'", qcow2('top', 'topf'))
    reopen(server, qcow2('top', 'topf', backing='mid'))
    refused(server, "backing is missing for 'mid'",
            qcow2('top', 'topf', backing=qcow2('mid', 'midf')))
    reopen(server, qcow2('top', 'topf', backing=qcow2('mid', 'midf',
                                                      backing='base')))
    reopen(server, qcow2('top', 'topf', backing=None))
    refused(server, "backing is missing for 'top'", qcow2('top', 'topf'))
    reopen(server, qcow2('other', 'otherf', read_only=True))


def test_backing_changes(server, images):
    chain(server, images)
    server.export('top')
    assert read(server, 'top') == b'\x01'
    reopen(server, qcow2('top', 'topf', backing='other'))
    assert read(server, 'top') == b'\x09'
    assert backing_of(server, 'top') == 'other'
    assert 'mid' not in server.nodes()
    assert server.nodes()['top']['file'].startswith('json:')
    reopen(server, qcow2('top', 'topf', backing=None))
    assert read(server, 'top') == b'\x00'
    assert backing_of(server, 'top') is None
    server.qmp('blockdev-del', node_name='other')


def test_backing_refused(server, images):
    chain(server, images)
    refused(server, "Cannot find device='' nor node-name='x'",
            qcow2('top', 'topf', backing='x'))
    refused(server, "Making 'top' a backing child of 'top' would create a "
            "cycle", qcow2('top', 'topf', backing='top'))
    refused(server, "Making 'top' a backing child of 'base' would create a "
            "cycle", qcow2('base', 'basef', backing='top', read_only=True))
    refused(server, "Cannot change the option 'node-name'",
            qcow2('top', 'topf', backing=qcow2('zz', 'midf', backing='base')))
    refused(server, "Cannot change the option 'backing.driver'",
            qcow2('other', 'otherf', read_only=True,
                  backing=qcow2('base', 'basef')))
    refused(server, "Cannot change the option 'backing.driver'",
            qcow2('other', 'otherf', read_only=True,
                  backing={'driver': 'null-co', 'size': MIB}))


def test_skip_a_layer(server, images):
    """base lives on when mid goes, though mid had made it; it is top's."""
    chain(server, images)
    reopen(server, qcow2('top', 'topf', backing='base'))
    assert backing_of(server, 'top') == 'base'
    assert 'mid' not in server.nodes()
    reopen(server, qcow2('top', 'topf', backing=qcow2('base', 'basef')))
    assert server.nodes()['base']['ro']
    refused(server, "Cannot change the option 'node-name'",
            qcow2('top', 'topf', backing=qcow2('mid', 'basef')))


def test_reverse_a_chain(server, images):
    """Two nodes change places in one call."""
    for name in ('a', 'b'):
        path = images.create(f'{name}.qcow2', '1M')
        server.qmp('blockdev-add', qcow2(name, file_of(path)))
    file_a = child_of(server, 'a')
    file_b = child_of(server, 'b')
    reopen(server, qcow2('a', file_a, backing='b'))
    refused(server, "Making 'a' a backing child of 'b' would create a cycle",
            qcow2('b', file_b, backing='a'))
    reopen(server, qcow2('a', file_a, backing=None),
           qcow2('b', file_b, backing='a'))
    assert backing_of(server, 'b') == 'a' and backing_of(server, 'a') is None


@pytest.mark.parametrize('filter_options', [
    {'driver': 'copy-on-read'}, {'driver': 'raw'},
    {'driver': 'throttle', 'throttle-group': 'tg'},
    {'driver': 'preallocate'}])
def test_insert_and_remove_filter(server, images, guest_on, filter_options):
    if filter_options['driver'] == 'throttle':
        server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'tg'})
    path = images.create('a.qcow2', '4M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(0, MIB, 7)
    server.qmp('blockdev-add', dict(filter_options, file='f',
                                    **{'node-name': 'flt'}))
    reopen(server, qcow2('n', 'flt'))
    assert child_of(server, 'n') == 'flt'
    guest.fill(65536, MIB, 8)
    guest.verify()
    server.fails('blockdev-del', node_name='flt',
                 desc='Block device flt is in use')
    reopen(server, qcow2('n', 'f'))
    guest.fill(2 * MIB, 65536, 9)
    guest.verify()
    server.qmp('blockdev-del', node_name='flt')
    guest.verify()


@pytest.mark.ours('QEMU takes another image and destroys it')
def test_other_image_as_file(server, images):
    path = images.create('a.qcow2', '4M')
    other = images.create('b.qcow2', '8M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    server.add_file('g', other)
    refused(server, "Node 'g' does not hold the image that 'n' has open",
            qcow2('n', 'g'))


@pytest.mark.parametrize('options', [
    {'driver': 'copy-on-read', 'file': 'f'},
    {'driver': 'quorum', 'children': ['f', 'g'], 'vote-threshold': 1},
    {'driver': 'blkverify', 'test': 'f', 'raw': 'g'}])
def test_no_support(server, images, options):
    server.qmp('blockdev-add', null('f'))
    server.qmp('blockdev-add', null('g'))
    options = dict(options, **{'node-name': 'd'})
    server.qmp('blockdev-add', options)
    refused(server, f"Block format '{options['driver']}' used by node 'd' "
            f"does not support reopening files", options)


# read-only


def test_read_only_and_back(server, images, guest_on):
    path = images.create('a.qcow2', '4M')
    file = file_of(path, node_name='f')
    server.qmp('blockdev-add', qcow2('n', file))
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(0, MIB, 5)
    refused(server, "Read-only block node 'n' cannot support read-write "
            "users", qcow2('n', file, read_only=True))
    refused(server, "Read-only block node 'f' cannot support read-write "
            "users", dict(file, **{'read-only': True}))
    guest.close()
    server.unexport('n')
    reopen(server, qcow2('n', file, read_only=True))
    nodes = server.nodes()
    assert nodes['n']['ro'] and nodes['f']['ro']
    assert not any(flags & os.O_RDWR for flags in fd_flags(server, path))
    assert images.check(path) is None       # others may read it now
    server.fails('block-export-add',
                 {'type': 'nbd', 'id': 'e', 'node-name': 'n',
                  'writable': True},
                 ['Cannot export read-only node as writable',
                  'Block node is read-only'])
    reopen(server, qcow2('n', file))
    nodes = server.nodes()
    assert not nodes['n']['ro'] and not nodes['f']['ro']
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(MIB, MIB, 6)
    guest.verify()


def test_child_follows_its_parent(server, images):
    """What the file node does not say itself it has from its parent."""
    path = images.create('a.qcow2', '1M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    reopen(server, qcow2('n', 'f', read_only=True, cache={'direct': True}))
    nodes = server.nodes()
    assert nodes['f']['ro'] and nodes['f']['cache']['direct']
    refused(server, ["Read-only block node 'f' cannot support read-write "
                     "users", 'Block node is read-only'],
            qcow2('n', file_of(path, node_name='f', read_only=True)))
    reopen(server, qcow2('n', file_of(path, node_name='f', read_only=False),
                         read_only=True))
    nodes = server.nodes()
    assert nodes['n']['ro'] and not nodes['f']['ro']
    reopen(server, qcow2('n', 'f'))
    assert not server.nodes()['n']['ro']


def test_node_on_its_own_keeps_its_options(server, images):
    """A file node that was added by itself has nothing from its users."""
    path = images.create('a.qcow2', '1M')
    server.add_file('f', path, read_only=True)
    server.qmp('blockdev-add', qcow2('n', 'f', read_only=True))
    refused(server, 'Block node is read-only', qcow2('n', 'f'))
    reopen(server, file_of(path, node_name='f'), qcow2('n', 'f'))
    nodes = server.nodes()
    assert not nodes['n']['ro'] and not nodes['f']['ro']
    reopen(server, qcow2('n', 'f', read_only=True),
           file_of(path, node_name='f', read_only=True))
    assert server.nodes()['f']['ro']


def test_lock_of_another_process(server, start_server, images):
    """To write what another program reads is refused, and nothing changes."""
    path = images.create('a.qcow2', '1M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f'),
                                     read_only=True))
    other = start_server()
    other.add_node('o', path, read_only=True)
    refused(server, 'Failed to get "write" lock',
            qcow2('n', file_of(path, node_name='f')))
    other.qmp('blockdev-del', node_name='o')
    reopen(server, qcow2('n', file_of(path, node_name='f')))
    with pytest.raises(QmpError) as info:
        other.add_node('o', path, read_only=True)
    assert 'lock' in info.value.desc
    reopen(server, qcow2('n', file_of(path, node_name='f'), read_only=True))
    other.add_node('o', path, read_only=True)


def test_auto_read_only(server, images, guest_on):
    """Open for writing only while somebody writes."""
    path = images.create('a.raw', '1M', fmt='raw')

    def writable():
        return any(flags & os.O_RDWR for flags in fd_flags(server, path))

    server.qmp('blockdev-add', raw('n', file_of(
        path, node_name='f', auto_read_only=True)))
    assert not writable()
    server.export('n', writable=False)
    assert not writable()
    server.export('n', 'w')
    assert writable()
    guest = guest_on(server, 'w')
    guest.write(0, b'a' * 1000)
    reopen(server, raw('n', file_of(path, node_name='f',
                                    auto_read_only=True)))
    guest.write(1000, b'b' * 1000)
    guest.verify()
    guest.close()
    server.unexport('w')
    assert not writable() or server.is_qemu     # it is after a reopen there
    reopen(server, raw('n', file_of(path, node_name='f')))
    assert writable()
    reopen(server, raw('n', file_of(path, node_name='f',
                                    auto_read_only=True)))
    assert not writable()


def test_auto_read_only_cannot_write(server, small_disk, images):
    """On a read-only file system it opens, reads, and refuses a writer."""
    disk = small_disk(4 * MIB)
    path = disk.path('a.raw')
    qemu_img('create', '-q', '-f', 'raw', path, '1M')
    disk.remount('ro')
    server.qmp('blockdev-add', raw('n', file_of(
        path, node_name='f', auto_read_only=True)))
    server.export('n', writable=False)
    assert read(server, 'n') == b'\x00'
    before = server.graph()
    server.fails('block-export-add',
                 {'type': 'nbd', 'id': 'e', 'node-name': 'n', 'name': 'w',
                  'writable': True},
                 [f"Could not open '{path}': Read-only file system",
                  'Could not reopen file: Read-only file system'])
    assert server.graph() == before
    refused(server,
            [f"Could not open '{path}': Read-only file system",
             'Could not reopen file: Read-only file system'],
            raw('n', file_of(path, node_name='f')))
    disk.remount('rw')
    server.export('n', 'w')
    assert read(server, 'w') == b'\x00'


# qcow2


@pytest.mark.parametrize('options', [
    {'l2-cache-size': 1 << 20}, {'l2-cache-entry-size': 512},
    {'l2-cache-entry-size': 65536, 'cache-size': 1 << 20},
    {'refcount-cache-size': 1 << 20}, {'cache-clean-interval': 1},
    {'lazy-refcounts': True}, {'overlap-check': 'all'},
    {'overlap-check': {'template': 'none', 'main-header': True}},
    {'pass-discard-request': False}, {'pass-discard-snapshot': False},
    {'pass-discard-other': True}])
def test_qcow2_options(server, images, guest_on, options):
    """They change while a guest writes, and back."""
    path = images.create('a.qcow2', '16M', compat='1.1')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    server.export('n')
    guest = guest_on(server, 'n')
    guest.start()
    for _ in range(3):
        reopen(server, dict(qcow2('n', 'f'), **options))
        reopen(server, qcow2('n', 'f'))
    reopen(server, dict(qcow2('n', 'f'), **options))
    guest.stop()
    guest.verify()
    guest.close()
    server.unexport('n')
    server.qmp('blockdev-del', node_name='n')
    assert images.content(path) == bytes(guest.model)


@pytest.mark.parametrize('options,desc', [
    ({'l2-cache-entry-size': 777}, 'L2 cache entry size must be a power of '
     'two between 512 and the cluster size (65536)'),
    ({'l2-cache-size': 1 << 20, 'cache-size': 1 << 16},
     'l2-cache-size may not exceed cache-size'),
    ({'refcount-cache-size': 1 << 20, 'cache-size': 1 << 16},
     'refcount-cache-size may not exceed cache-size'),
    ({'cache-clean-interval': -5}, 'Cache clean interval too big'),
    ({'encrypt': {'format': 'luks', 'key-secret': 'x'}},
     ["No encryption in image header, but options specified format 'luks'",
      "Cannot change the option 'encrypt.format'"]),
    ({'l2-cache-size': -1},
     ['L2 cache size too big', "Parameter 'l2-cache-size' expects a "
      "non-negative number below 2^64"])])
def test_qcow2_options_refused(server, images, options, desc):
    path = images.create('a.qcow2', '16M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    refused(server, desc, dict(qcow2('n', 'f'), **options))


def bitmap_flags(images, path):
    return {name: sorted(b['flags'])
            for name, b in images.bitmaps(path, '-U').items()}


def bitmaps(server, node):
    entry = next(n for n in server.qmp('query-named-block-nodes')
                 if n['node-name'] == node)
    return {b['name']: b for b in entry.get('dirty-bitmaps', [])}


def test_bitmaps_stored_and_used_again(server, images, guest_on):
    """To read-only stores them; to read-write marks them as in use."""
    path = images.create('a.qcow2', '4M', compat='1.1')
    file = file_of(path, node_name='f')
    server.qmp('blockdev-add', qcow2('n', file))
    server.qmp('block-dirty-bitmap-add', node='n', name='b', persistent=True)
    server.qmp('block-dirty-bitmap-add', node='n', name='d', persistent=True,
               disabled=True)
    server.qmp('block-dirty-bitmap-add', node='n', name='temporary')
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(0, 65536, 1)
    guest.close()
    server.unexport('n')
    reopen(server, qcow2('n', file, read_only=True))
    assert bitmap_flags(images, path) == {'b': ['auto'], 'd': []}
    images.check(path)
    assert bitmaps(server, 'n')['b']['count'] == 65536
    server.fails('block-dirty-bitmap-clear', node='n', name='b',
                 desc="Bitmap 'b' is readonly and cannot be modified")
    reopen(server, qcow2('n', file))
    assert bitmap_flags(images, path) == {'b': ['auto', 'in-use'],
                                          'd': ['in-use']}
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(MIB, 65536, 1)
    guest.close()
    server.unexport('n')
    assert bitmaps(server, 'n')['b']['count'] == 2 * 65536
    server.qmp('block-dirty-bitmap-remove', node='n', name='d')
    reopen(server, qcow2('n', file, read_only=True))
    assert bitmap_flags(images, path) == {'b': ['auto']}
    reopen(server, qcow2('n', file))
    server.qmp('block-dirty-bitmap-clear', node='n', name='b')
    server.qmp('blockdev-del', node_name='n')
    assert bitmap_flags(images, path) == {'b': ['auto']}


def test_bitmap_of_a_read_only_image(server, images, guest_on):
    """Loaded read-only it can be removed only after a reopen."""
    path = images.create('a.qcow2', '4M', compat='1.1')
    qemu_img('bitmap', '--add', '-f', 'qcow2', path, 'b')
    file = file_of(path, node_name='f')
    server.qmp('blockdev-add', qcow2('n', file, read_only=True))
    server.fails('block-dirty-bitmap-remove', node='n', name='b',
                 desc="Bitmap 'b' is readonly and cannot be modified")
    reopen(server, qcow2('n', file))
    server.export('n')
    guest_on(server, 'n').fill(0, 65536, 1)
    assert bitmaps(server, 'n')['b']['count'] == 65536
    server.unexport('n', mode='hard')
    server.qmp('block-dirty-bitmap-remove', node='n', name='b')
    reopen(server, qcow2('n', file, read_only=True))
    assert bitmap_flags(images, path) == {}


def test_remove_bitmap_from_backing(server, images):
    base = images.create('base.qcow2', '4M', compat='1.1')
    qemu_img('bitmap', '--add', '-f', 'qcow2', base, 'b')
    top = images.create('top.qcow2', '4M', backing=base)
    server.qmp('blockdev-add', qcow2(
        'top', file_of(top, node_name='topf'),
        backing=qcow2('base', file_of(base, node_name='basef'))))
    server.fails('block-dirty-bitmap-remove', node='base', name='b',
                 desc="Bitmap 'b' is readonly and cannot be modified")
    for read_only in (False, True):
        reopen(server, qcow2('top', 'topf', backing=qcow2(
            'base', file_of(base, node_name='basef'), read_only=read_only)))
        if not read_only:
            server.qmp('block-dirty-bitmap-remove', node='base', name='b')
    assert bitmap_flags(images, base) == {}
    assert server.nodes()['basef']['ro']


# While clients work


def test_while_a_guest_writes(server, images, guest_on):
    path = images.create('a.qcow2', '16M')
    other = images.create('b.qcow2', '16M')
    images.io(other, 'write -P 3 0 16M')
    server.qmp('blockdev-add', qcow2('n', file_of(path, node_name='f')))
    server.qmp('blockdev-add', qcow2('base', file_of(other),
                                     read_only=True))
    server.qmp('blockdev-add', raw('flt', 'f'))
    server.export('n')
    guest = guest_on(server, 'n')
    guest.fill(0, 16 * MIB, 4)
    guest.start()
    for _ in range(10):
        reopen(server, qcow2('n', 'flt', backing='base'))
        reopen(server, qcow2('n', 'f', backing=None))
        reopen(server, qcow2('n', 'flt', backing='base'))
        reopen(server, qcow2('n', 'f', backing=None,
                             cache={'no-flush': True}))
    guest.stop()
    guest.verify()


@pytest.mark.timeout(120)
def test_two_monitors(server, images, guest_on):
    """Several reopen, add, delete and resize at once while guests write."""
    for n in '12':
        path = images.create(f'{n}.qcow2', '4M')
        server.add_file(f'f{n}', path)
        server.qmp('blockdev-add', raw(f'w{n}', f'f{n}'))
        server.qmp('blockdev-add', qcow2(f'q{n}', f'f{n}'))
        server.export(f'q{n}')
    guests = [guest_on(server, f'q{n}', seed=int(n)) for n in '12']
    for guest in guests:
        guest.start()

    def work(mon, which):
        for i in range(25):
            n = which % 2 + 1
            for command, arguments in (
                    ('blockdev-reopen', {'options': [
                        qcow2(f'q{n}', f'w{n}' if i % 2 else f'f{n}'),
                        qcow2(f'q{3 - n}', f'f{3 - n}')]}),
                    ('blockdev-add', null(f'x{which}')),
                    ('blockdev-reopen', {'options': [
                        null(f'x{which}', **{'read-only': True})]}),
                    ('query-named-block-nodes', {}),
                    ('blockdev-del', {'node-name': f'x{which}'})):
                mon.execute(command, arguments)

    count = 1 if server.is_qemu else 4      # it has one connection
    mons = [server.mon] if server.is_qemu else \
        [server.connect(name=f'm{i}') for i in range(count)]
    threads = [threading.Thread(target=work, args=(mon, i))
               for i, mon in enumerate(mons)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for guest in guests:
        guest.stop()
        guest.verify()
    assert set(server.nodes()) == {'q1', 'q2', 'w1', 'w2', 'f1', 'f2'}


@pytest.mark.ours('QEMU waits with everything else for the request')
def test_slow_disk_holds_up_only_this(server):
    """A request of seconds: the command waits for it, others do not."""
    server.qmp('blockdev-add', null('slow', **{'latency-ns': 3 * 10**9}))
    server.qmp('blockdev-add', raw('n', 'slow'))
    server.qmp('blockdev-add', null('quick'))
    server.qmp('blockdev-add', raw('m', 'quick'))
    server.export('n')
    client = NbdClient.connect(server.nbd_path, 'n')
    reader = threading.Thread(target=client.read, args=(0, 512))
    start = time.monotonic()
    reader.start()
    mon = server.connect(name='second')
    time.sleep(0.5)             # the request is under way
    done = []
    opener = threading.Thread(
        target=lambda: done.append(reopen(server, raw('n', 'slow',
                                                      offset=512))))
    opener.start()
    for _ in range(5):
        mon.execute('blockdev-reopen', {'options': [raw('m', 'quick')]})
        mon.execute('query-named-block-nodes')
    assert not done or time.monotonic() - start > 3
    reader.join()
    opener.join()
    assert done
    client.close()
