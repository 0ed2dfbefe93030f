# SPDX-License-Identifier: MIT
"""Nodes: blockdev-add, blockdev-del, what queries show, block_resize."""

import os

import pytest

from .images import qemu_img

MIB = 1 << 20


def file_of(path, **options):
    return dict({'driver': 'file', 'filename': path}, **options)


def null_co(server, name, size=MIB, **options):
    server.qmp('blockdev-add', dict(options, **{
        'driver': 'null-co', 'node-name': name, 'size': size}))


def chain_of(server, name):
    """Node names from `name` down its backing chain."""
    nodes = {n['node-name']: n for n in
             server.qmp('query-named-block-nodes')}
    image = nodes[name]['image']
    names = []
    while image:
        names.append(os.path.basename(image['filename']))
        image = image.get('backing-image')
    return names


@pytest.mark.parametrize('name,desc', [
    ('', "Invalid node-name: ''"),
    ('#block1', "Invalid node-name: '#block1'"),
    ('1abc', "Invalid node-name: '1abc'"),
    ('a b', "Invalid node-name: 'a b'"),
    ('-x', "Invalid node-name: '-x'"),
    ('a/b', "Invalid node-name: 'a/b'"),
    ('caf\u00e9', "Invalid node-name: 'caf\u00e9'"),
    ('a' * 32, 'Node name too long'),
])
def test_bad_node_name(server, name, desc):
    server.fails('blockdev-add', {'driver': 'null-co', 'node-name': name},
                 desc)


@pytest.mark.parametrize('name', ['a', 'a' * 31, 'a.b_c-d', 'Z9'])
def test_good_node_name(server, name):
    null_co(server, name)
    assert list(server.nodes()) == [name]
    server.qmp('blockdev-del', node_name=name)
    assert not server.nodes()


def test_duplicate_node_name(server):
    null_co(server, 'n')
    server.fails('blockdev-add', {'driver': 'null-co', 'node-name': 'n'},
                 "Duplicate nodes with node-name='n'")
    server.fails('blockdev-add',
                 {'driver': 'raw', 'node-name': 'r',
                  'file': {'driver': 'null-co', 'node-name': 'n'}},
                 "Duplicate nodes with node-name='n'")
    server.fails('blockdev-add',
                 {'driver': 'raw', 'node-name': 'r',
                  'file': {'driver': 'null-co', 'node-name': 'r'}},
                 "Duplicate nodes with node-name='r'")
    assert list(server.nodes()) == ['n']


def test_nested(server, images):
    path = images.create('a.qcow2', '4M')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'q',
        'file': file_of(path, **{'node-name': 'qf'})})
    assert list(server.nodes()) == ['q', 'qf']
    server.fails('blockdev-del', node_name='qf',
                 desc='Node qf is not owned by the monitor')
    server.qmp('blockdev-del', node_name='q')
    assert not server.nodes()


def test_deeply_nested(server):
    options = {'driver': 'null-co', 'node-name': 'bottom', 'size': 4096}
    for i in range(30):
        options = {'driver': 'raw', 'node-name': f'r{i}', 'file': options}
    server.qmp('blockdev-add', options)
    assert len(server.nodes()) == 31
    server.qmp('blockdev-del', node_name='r29')
    assert not server.nodes()


def test_by_reference(server):
    null_co(server, 'n')
    server.qmp('blockdev-add', driver='raw', node_name='r1', file='n')
    server.qmp('blockdev-add', driver='raw', node_name='r2', file='n')
    for still in ('r1', 'r2'):
        server.fails('blockdev-del', node_name='n',
                     desc='Block device n is in use')
        server.qmp('blockdev-del', node_name=still)
    server.qmp('blockdev-del', node_name='n')
    server.fails('blockdev-add', driver='raw', node_name='r1', file='n',
                 desc="Cannot find device='n' nor node-name='n'")


def test_referenced_child_outlives_parent(server):
    null_co(server, 'n')
    server.qmp('blockdev-add', driver='raw', node_name='r', file='n')
    server.qmp('blockdev-del', node_name='r')
    assert list(server.nodes()) == ['n']


def test_backing_from_the_header(server, images):
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base)
    server.add_node('top', top)
    assert chain_of(server, 'top') == ['top.qcow2', 'base.qcow2']
    node = next(n for n in server.qmp('query-named-block-nodes')
                if n['node-name'] == 'top')
    assert node['backing_file'] == base
    assert node['backing_file_depth'] == 1
    autos = [n for n in server.nodes() if n.startswith('#block')]
    assert len(autos) == 3 and all(n[6:].isdigit() for n in autos)
    assert all(server.nodes()[n]['ro'] for n in autos
               if server.nodes()[n]['file'] == base)


@pytest.mark.parametrize('name,fmt,desc', [
    ('foo:bar', 'qcow2', "Unknown protocol 'foo'"),
    ('json:{"driver":"raw","file":{"driver":"null-co","size":1048576}}',
     'qcow2', 'Image is not in qcow2 format')])
def test_bad_backing_name(server, images, name, fmt, desc):
    """The header's format counts, whatever driver the name has."""
    path = images.create('a.qcow2', '1M')
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', name, '-F', fmt, path)
    images.ignore(path)
    server.fails('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n',
        'file': {'driver': 'file', 'filename': path}},
        'Could not open backing file: ' + desc)


def test_relative_backing_name(server, images):
    """Relative to the overlay's directory, not to the server's."""
    os.mkdir(images.path('sub'))
    images.create('sub/base.qcow2', '4M')
    path = images.path('sub/top.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F',
             'qcow2', path)
    server.add_node('top', path)
    image = server.qmp('query-named-block-nodes')
    image = next(n for n in image if n['node-name'] == 'top')['image']
    assert image['backing-filename'] == 'base.qcow2'
    assert image['full-backing-filename'] == images.path('sub/base.qcow2')


def test_backing_null(server, images):
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base)
    images.io(base, 'write -P 7 0 64k')
    server.add_node('top', top, backing=None)
    node = server.nodes()['top']
    assert 'backing_file' not in node
    assert len(server.nodes()) == 2
    assert node['file'] == ('json:{"backing": null, "driver": "qcow2", '
                            '"file": {"driver": "file", "filename": '
                            f'"{top}"}}}}')
    server.export('top')
    assert 'failed' not in images.io(server.uri('top'), 'read -P 0 0 64k',
                                     fmt='raw')


def test_backing_by_reference(server, images):
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base)
    server.add_node('base', base, read_only=True)
    server.add_node('top', top, backing='base')
    server.fails('blockdev-del', node_name='base',
                 desc="Node 'base' is busy: node is used as backing hd of "
                      "'top'")
    assert server.nodes()['top']['file'] == top
    server.qmp('blockdev-del', node_name='top')
    server.qmp('blockdev-del', node_name='base')


def test_backing_opened_in_place(server, images):
    """backing as an object; a file that differs from the header's."""
    base = images.create('base.qcow2', '4M')
    other = images.create('other.raw', '4M', fmt='raw')
    images.io(other, 'write -P 9 64k 64k')
    top = images.create('top.qcow2', '4M', backing=base)
    server.add_node('top', top, backing={
        'driver': 'raw', 'node-name': 'b', 'read-only': True,
        'file': file_of(other)})
    server.export('top')
    images.io(server.uri('top'), 'read -P 9 64k 64k', 'read -P 0 0 64k',
              fmt='raw')
    assert server.nodes()['top']['file'].startswith('json:{')


@pytest.mark.parametrize('options,desc', [
    ({'driver': 'file', 'filename': '/nonexistent'},
     "Could not open '/nonexistent': No such file or directory"),
    ({'driver': 'file', 'filename': '/tmp'},
     "Could not open '/tmp': Is a directory"),
    ({'driver': 'file', 'filename': ''},
     "The 'file' block driver requires a file name"),
    ({'driver': 'file', 'filename': '/proc/self/exe', 'aio': 'native',
      'read-only': True},
     'aio=native was specified, but it requires cache.direct=on, '
     'which was not specified.'),
    ({'driver': 'null-co', 'detect-zeroes': 'unmap'},
     'setting detect-zeroes to unmap is not allowed without setting discard '
     'operation to unmap'),
    ({'driver': 'raw', 'file': 'nope'},
     "Cannot find device='nope' nor node-name='nope'"),
    ({'driver': 'qcow2', 'file': {'driver': 'file',
                                  'filename': '/nonexistent'}},
     "Could not open '/nonexistent': No such file or directory"),
    ({'driver': 'qcow2', 'file': {'driver': 'null-co', 'size': 65536}},
     'Image is not in qcow2 format'),
    ({'driver': 'qcow2', 'file': {'driver': 'null-co', 'size': 0}},
     'Image is not in qcow2 format'),
])
def test_add_fails(server, options, desc):
    server.fails('blockdev-add', dict(options, **{'node-name': 'n'}), desc)
    assert not server.nodes()


def test_missing_backing_file(server, images):
    top = images.create('top.qcow2', '4M')
    qemu_img('rebase', '-u', '-f', 'qcow2', '-b', '/nonexistent/b', '-F',
             'qcow2', top)
    images.ignore(top)
    server.fails('blockdev-add',
                 {'driver': 'qcow2', 'node-name': 'n', 'file': file_of(top)},
                 "Could not open backing file: Could not open "
                 "'/nonexistent/b': No such file or directory")
    assert not server.nodes()
    server.add_node('n', top, backing=None)


def test_named_block_nodes_entry(server, images):
    """All that a node shows, member by member."""
    base = images.create('base.qcow2', '64M')
    top = images.create('top.qcow2', '64M', backing=base)
    server.add_node('top', top)
    newer = {'active', 'children'}      # since QEMU 10
    flat = server.qmp('query-named-block-nodes', flat=True)
    full = server.qmp('query-named-block-nodes')
    assert [n['node-name'] for n in flat] == [n['node-name'] for n in full]
    entry = next(n for n in flat if n['node-name'] == 'top')
    image = entry['image']
    image.pop('actual-size')
    assert {k: v for k, v in entry.items() if k not in newer} == {
        'iops_rd': 0, 'detect_zeroes': 'off', 'image': image, 'iops_wr': 0,
        'ro': False, 'node-name': 'top', 'backing_file_depth': 0,
        'drv': 'qcow2', 'iops': 0, 'bps_wr': 0, 'write_threshold': 0,
        'backing_file': base, 'encrypted': False, 'bps': 0, 'bps_rd': 0,
        'cache': {'no-flush': False, 'direct': False, 'writeback': True},
        'file': top}
    specific = {'type': 'qcow2', 'data': {
        'compat': '1.1', 'compression-type': 'zlib', 'lazy-refcounts': False,
        'refcount-bits': 16, 'corrupt': False, 'extended-l2': False}}
    wanted = {
        'virtual-size': 64 * MIB, 'filename': top, 'cluster-size': 65536,
        'format': 'qcow2', 'format-specific': specific, 'dirty-flag': False,
        'backing-filename': base, 'full-backing-filename': base,
        'backing-filename-format': 'qcow2'}
    image.pop('limits', None)
    assert image == wanted
    entry = next(n for n in full if n['node-name'] == 'top')
    backing = entry['image'].pop('backing-image')
    assert backing.pop('actual-size') > 0
    backing.pop('limits', None)
    assert backing == {
        'virtual-size': 64 * MIB, 'filename': base, 'cluster-size': 65536,
        'format': 'qcow2', 'format-specific': specific, 'dirty-flag': False}
    files = [n for n in flat if n['drv'] == 'file']
    assert [f['file'] for f in files] == [base, top]
    assert [f['ro'] for f in files] == [True, False]
    for entry in files:
        image = entry['image']
        assert image['format'] == 'file'
        assert image['virtual-size'] == \
            (os.path.getsize(image['filename']) + 511) // 512 * 512
        assert image['actual-size'] == \
            os.stat(image['filename']).st_blocks * 512


def test_named_block_nodes_order_and_null(server, images):
    """Newest first; a node without a plain name shows its options."""
    null_co(server, 'n1', 65536)
    null_co(server, 'n2', 65536)
    server.qmp('blockdev-add', driver='raw', node_name='r', file='n2')
    nodes = server.nodes()
    assert list(nodes) == ['r', 'n2', 'n1']
    name = 'json:{"driver": "null-co", "size": 65536}'
    assert nodes['n1']['file'] == name
    assert nodes['n1']['image'] == {
        'virtual-size': 65536, 'filename': name, 'format': 'null-co',
        'actual-size': 0, **({'limits': nodes['n1']['image']['limits']}
                             if 'limits' in nodes['n1']['image'] else {})}
    assert nodes['r']['drv'] == 'raw'


def test_json_file_name_of_options(server, images):
    path = images.write_raw('r.img', bytes(4096))
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'r', 'offset': 1024, 'size': 512,
        'file': file_of(path)})
    node = server.nodes()['r']
    assert node['image']['virtual-size'] == 512
    assert node['file'].startswith('json:{') and '"offset": 1024' in \
        node['file']


def test_query_block_is_empty(server, images):
    """blockdev-add makes no device."""
    server.add_node('n', images.create('a.qcow2', '1M'))
    assert server.qmp('query-block') == []
    assert server.qmp('query-block-jobs') == []
    assert server.qmp('query-jobs') == []
    assert server.qmp('query-block-exports') == []


def test_cache_and_detect_zeroes_shown(server, images):
    path = images.create('a.qcow2', '1M')
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n', 'file': file_of(path),
        'cache': {'direct': False, 'no-flush': True},
        'detect-zeroes': 'on', 'read-only': True})
    node = server.nodes()['n']
    assert node['cache'] == {'no-flush': True, 'direct': False,
                             'writeback': True}
    assert node['detect_zeroes'] == 'on'
    assert node['ro'] is True


def test_resize_qcow2(server, images):
    path = images.create('a.qcow2', '4M')
    server.add_node('n', path)

    def size():
        return server.nodes()['n']['image']['virtual-size']

    for wanted in (8 * MIB, 8 * MIB + 512, MIB, 0, 4 * MIB):
        server.qmp('block_resize', node_name='n', size=wanted)
        assert size() == wanted
    for bad, desc in (
            (1000, 'The new size must be a multiple of 512'),
            (-1, "Parameter 'size' expects a >0 size"),
            (2**62, 'Failed to grow the L1 table: File too large'),
            (2**63 - 1, 'offset(9223372036854775807) exceeds '
                        'maximum(9223372035781033984)')):
        server.fails('block_resize', node_name='n', size=bad, desc=desc)
        assert size() == 4 * MIB
    server.stop()
    assert images.info(path)['virtual-size'] == 4 * MIB


def test_resize_keeps_content(server, images, guest_on):
    """What was cut off does not come back."""
    path = images.create('a.qcow2', '4M')
    images.io(path, 'write -P 1 0 4M')
    server.add_node('n', path)
    server.qmp('block_resize', node_name='n', size=MIB)
    server.qmp('block_resize', node_name='n', size=4 * MIB)
    server.export('n')
    guest = guest_on(server, 'n')
    assert guest.read_all() == b'\1' * MIB + bytes(3 * MIB)
    guest.random_writes(50)
    guest.verify()


def test_resize_raw(server, images):
    path = images.write_raw('r.img', b'y' * 4096)
    server.add_node('n', path, 'raw')
    for wanted in (8192, 512, 0, 4096):
        server.qmp('block_resize', node_name='n', size=wanted)
        assert server.nodes()['n']['image']['virtual-size'] == wanted
    assert os.path.getsize(path) == 4096
    server.add_node('ro', images.write_raw('ro.img', b'y' * 4096), 'raw',
                    read_only=True)
    server.fails('block_resize', node_name='ro', size=512,
                 desc='Image is read-only')


def test_resize_of_exported(server, images):
    """An export does not share the right to resize."""
    server.add_node('n', images.create('a.qcow2', '1M'))
    server.export('n')
    server.fails('block_resize', node_name='n', size=2 * MIB, desc=(
        "Permission conflict on node 'n': permissions 'resize' are both "
        "required by an unnamed block device (uses node 'n' as 'root' "
        "child) and unshared by an unnamed block device (uses node 'n' as "
        "'root' child)."))
    server.fails('blockdev-del', node_name='n', desc='Node n is in use')
    server.unexport('n')
    server.qmp('block_resize', node_name='n', size=2 * MIB)
    server.qmp('blockdev-del', node_name='n')


def test_write_to_node_that_backs_another(server, images):
    """QEMU leaves it to the user: a backing link shares everything."""
    base = images.create('base.qcow2', '1M')
    top = images.create('top.qcow2', '1M', backing=base)
    server.add_node('base', base)
    server.add_node('top', top, backing='base')
    server.qmp('nbd-server-start',
               addr={'type': 'unix', 'data': {'path': server.nbd_path}})
    server.qmp('block-export-add', {
        'type': 'nbd', 'id': 'e', 'node-name': 'base', 'writable': True})


def test_del_of_unknown(server):
    server.fails('blockdev-del', node_name='nope',
                 desc="Failed to find node with node-name='nope'")


def test_many_nodes(server):
    """A thousand nodes come and go in a blink."""
    for i in range(1000):
        null_co(server, f'n{i}', 65536)
    assert len(server.nodes()) == 1000
    for i in range(1000):
        server.qmp('blockdev-del', node_name=f'n{i}')
    assert not server.nodes()


def test_files_closed_after_del(server, images):
    """blockdev-del closes the file and gives up its locks."""
    path = images.create('a.qcow2', '1M')
    for _ in range(3):
        server.add_node('n', path)
        assert images.io(path, 'write 0 512', check=False).count('lock')
        server.qmp('blockdev-del', node_name='n')
        images.io(path, 'write 0 512')
    links = [os.readlink(f'/proc/{server.proc.pid}/fd/{fd}')
             for fd in os.listdir(f'/proc/{server.proc.pid}/fd')]
    assert path not in links
