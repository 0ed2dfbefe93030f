# SPDX-License-Identifier: MIT
"""blockjobctl image: it agrees with qemu-img on what qemu-img makes."""

import json
import os
import random
import subprocess

import pytest

from .images import qemu_img, run_tool
from .qcow2 import OFLAG_COPIED, Qcow2File

pytestmark = pytest.mark.ours('a tool of ours')
KIB, MIB = 1 << 10, 1 << 20

# What qemu-img create makes of each: name, options.
QCOW2 = {
    'default': {},
    'v2': {'compat': '0.10'},
    'cluster-512': {'cluster_size': 512},
    'cluster-4k': {'cluster_size': 4096},
    'cluster-2m': {'cluster_size': 2 * MIB},
    'extended-l2': {'extended_l2': 'on'},
    'extended-l2-16k': {'extended_l2': 'on', 'cluster_size': 16384},
    'zstd': {'compression_type': 'zstd'},
    'refcount-1': {'refcount_bits': 1},
    'refcount-2': {'refcount_bits': 2},
    'refcount-4': {'refcount_bits': 4},
    'refcount-8': {'refcount_bits': 8},
    'refcount-32': {'refcount_bits': 32},
    'refcount-64': {'refcount_bits': 64},
    'lazy': {'lazy_refcounts': 'on'},
    'metadata': {'preallocation': 'metadata'},
    'metadata-extended-l2': {'preallocation': 'metadata',
                             'extended_l2': 'on'},
    'falloc': {'preallocation': 'falloc'},
    'full': {'preallocation': 'full'},
    'data-file': {'data_file': 'DATA'},
    'data-file-raw': {'data_file': 'DATA', 'data_file_raw': 'on'},
}
SNAPSHOTS = {'default', 'v2', 'cluster-512', 'extended-l2', 'refcount-2',
             'refcount-64', 'lazy'}
COMPRESSED = {'default', 'v2', 'cluster-512', 'cluster-2m', 'zstd',
              'refcount-4', 'extended-l2'}


@pytest.fixture
def image_tool(pytestconfig):
    """image_tool('check', path, …): (exit code, what it said)."""
    path = pytestconfig.getoption('--blockjobctl')

    def run(*args):
        return run_tool(path, 'image', *args, check=False)

    return run


def ours(image_tool, command, path, *args):
    code, out = image_tool(command, '--output=json', *args, path)
    assert code == 0, out
    return json.loads(out)


def theirs(command, path, *args):
    return json.loads(qemu_img(command, '--output=json', *args, path))


def qemu_io(path, *commands, options=()):
    args = [word for command in commands for word in ('-c', command)]
    run_tool('qemu-io', *options, *args, path)


def common(a, b):
    """Both, with the members that only one of them knows left out."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = set(a) & set(b)
        pairs = {key: common(a[key], b[key]) for key in keys}
        return ({key: pair[0] for key, pair in pairs.items()},
                {key: pair[1] for key, pair in pairs.items()})
    return a, b


def assert_same_info(image_tool, path):
    a, b = ours(image_tool, 'info', path), theirs('info', path)
    assert set(b) <= set(a)
    assert set(b.get('format-specific', {}).get('data', {})) <= \
        set(a.get('format-specific', {}).get('data', {}))
    one, other = common(a, b)
    assert one == other


def assert_same_check(image_tool, path):
    assert ours(image_tool, 'check', path) == theirs('check', path)


UNIT = 512


def cells(entries):
    """What a map says of every 512 bytes."""
    result = []
    for e in entries:
        what = (e['data'], e['zero'], e['depth'], e['present'])
        for n in range(0, e['length'], UNIT):
            # Where there is no data no place matters.
            has_place = e['data'] and 'offset' in e
            result.append((what, e['offset'] + n if has_place else None))
    return result


def content(path):
    raw = path + '.content'
    qemu_img('convert', '-O', 'raw', path, raw)
    with open(raw, 'rb') as file:
        data = file.read()
    os.unlink(raw)
    return data


def assert_same_map(image_tool, path):
    """Every stretch is what qemu-img says, but for holes of the file inside
    a cluster: we see that they read as zeroes."""
    data = content(path)
    ours_all = cells(ours(image_tool, 'map', path))
    theirs_all = cells(theirs('map', path))
    assert len(ours_all) == len(theirs_all)
    for n, (a, b) in enumerate(zip(ours_all, theirs_all)):
        if a != b:
            (is_data, zero, *where), offset = a
            assert is_data and zero and b == ((True, False, *where),
                                              offset), (n, a, b)
            assert not any(data[n * UNIT:(n + 1) * UNIT]), (n, a, b)


def assert_agree(image_tool, path):
    assert_same_info(image_tool, path)
    assert_same_check(image_tool, path)
    assert_same_map(image_tool, path)


def make(images, kind):
    options = dict(QCOW2[kind])
    if 'data_file' in options:
        options['data_file'] = images.path('data.raw')
    return images.create('a.qcow2', 32 * MIB + 512, **options)


def fill(path, seed, compressed=False):
    """Whole clusters, parts of them, zeroes, discards, compressed ones."""
    rng = random.Random(seed)
    commands = []
    for _ in range(40):
        offset = rng.randrange(4 * MIB if compressed else 0, 32 * MIB, 4096)
        length = rng.choice((4096, 65536, 2 * MIB))
        length = min(length, 32 * MIB - offset)
        verb = rng.choice(('write -P 17', 'write -P 17', 'write -P 201',
                           'write -z', 'write -z -u', 'discard'))
        commands.append(f'{verb} {offset} {length}')
    if compressed:      # first: over data they are refused
        commands[:0] = [f'write -c -P 5 {n * 4 * MIB} {2 * MIB}'
                        for n in range(8)]
    qemu_io(path, *commands, options=('-d', 'unmap'))


@pytest.mark.parametrize('kind', QCOW2)
def test_agrees_with_qemu_img(images, image_tool, kind):
    path = make(images, kind)
    assert_agree(image_tool, path)
    fill(path, kind)
    assert_agree(image_tool, path)


@pytest.mark.parametrize('kind', sorted(COMPRESSED))
def test_compressed(images, image_tool, kind):
    path = make(images, kind)
    fill(path, kind, compressed=True)
    assert_agree(image_tool, path)
    assert any(e['compressed'] for e in ours(image_tool, 'map', path))


@pytest.mark.parametrize('kind', sorted(SNAPSHOTS))
def test_snapshots(images, image_tool, kind):
    path = make(images, kind)
    fill(path, 1)
    qemu_img('snapshot', '-c', 'first', path)
    fill(path, 2)
    qemu_img('snapshot', '-c', 'second \u00fc', path)
    fill(path, 3)
    assert_agree(image_tool, path)
    qemu_img('snapshot', '-d', 'first', path)
    assert_agree(image_tool, path)


def test_bitmaps(images, image_tool):
    path = make(images, 'default')
    qemu_img('bitmap', '--add', path, 'b0')
    qemu_img('bitmap', '--add', '-g', '4096', path, 'b1')
    fill(path, 1)
    qemu_img('bitmap', '--disable', path, 'b1')
    assert_agree(image_tool, path)
    info = ours(image_tool, 'info', path)
    names = [b['name'] for b in info['format-specific']['data']['bitmaps']]
    assert names == ['b0', 'b1']


@pytest.mark.parametrize('fmt', ['raw', 'qcow2'])
def test_backing_chain(images, image_tool, fmt):
    base = images.create('base.img', '16M', fmt=fmt)
    qemu_io(base, 'write -P 1 0 1M', 'write -P 2 8M 64k',
            options=('-f', fmt))
    mid = images.create('mid.qcow2', '24M', backing=base)
    qemu_io(mid, 'write -P 3 512k 1M', 'write -z 8M 4M')
    top = images.create('top.qcow2', '20M', backing=mid, extended_l2='on')
    qemu_io(top, 'write -P 4 1M 4k', 'write -P 5 19M 64k')
    assert_agree(image_tool, top)
    chain = ours(image_tool, 'info', top, '--backing-chain')
    assert chain['backing-image']['backing-image']['format'] == fmt


def test_backing_file_missing(images, image_tool):
    """Information and checks do not need it; a map does."""
    base = images.create('base.qcow2', '1M')
    top = images.create('top.qcow2', '1M', backing=base)
    os.unlink(images.ignore(base))
    assert_same_info(image_tool, top)
    assert ours(image_tool, 'check', top)['check-errors'] == 0
    code, out = image_tool('map', top)
    assert code == 1 and 'No such file or directory' in out
    images.ignore(top)


def test_raw(images, image_tool):
    path = images.create('a.raw', '8M', fmt='raw')
    qemu_io(path, 'write -P 1 1M 64k', 'write -P 1 4M 1M',
            options=('-f', 'raw'))
    assert_same_info(image_tool, path)
    assert_same_map(image_tool, path)
    code, out = image_tool('check', path)
    assert code == 63 and 'does not support checks' in out


# ---- damage -----------------------------------------------------------------


def problems(path):
    """Exit code, leaks and corruptions as qemu-img has them."""
    code, out = run_tool('qemu-img', 'check', '--output=json', path,
                         check=False)
    found = json.loads(out[out.index('{'):out.rindex('}') + 1])
    return code, found.get('leaks', 0), found.get('corruptions', 0)


def our_problems(image_tool, path):
    code, out = image_tool('check', '--output=json', path)
    found = json.loads(out[out.index('{\n'):out.rindex('}') + 1])
    return code, found.get('leaks', 0), found.get('corruptions', 0)


def leak(image):
    end = (os.path.getsize(image.path) + 65535) // 65536
    os.truncate(image.path, (end + 1) * 65536)
    image.set_refcount(end, 1)


def refcount_too_low(image):
    host = (image.u64(image.l2_entry_at(2)) & ~OFLAG_COPIED) // 65536
    image.set_refcount(host, 0)


def refcount_too_high(image):
    host = (image.u64(image.l2_entry_at(2)) & ~OFLAG_COPIED) // 65536
    image.set_refcount(host, 3)


def copied_flag_lost(image):
    at = image.l2_entry_at(1)
    image.set_u64(at, image.u64(at) & ~OFLAG_COPIED)


def two_on_one_cluster(image):
    image.set_u64(image.l2_entry_at(3), image.u64(image.l2_entry_at(4)))


@pytest.mark.parametrize('damage', [
    leak, refcount_too_low, refcount_too_high, copied_flag_lost,
    two_on_one_cluster])
def test_damage_is_found_as_qemu_img_finds_it(images, image_tool, damage):
    path = images.create('a.qcow2', '8M')
    qemu_io(path, 'write -P 1 0 4M')
    images.ignore(path)
    damage(Qcow2File(path))
    expected = problems(path)
    assert expected[0] in (2, 3)
    assert our_problems(image_tool, path) == expected


def test_hopeless_image(images, image_tool):
    path = images.path('no.qcow2')
    with open(path, 'wb') as image:
        image.write(b'QFI\xfb' + b'\xff' * 500)
    for command in ('info', 'check', 'map'):
        code, out = image_tool(command, path)
        assert code == 1 and out.startswith('Error: ')


# ---- beside a user ----------------------------------------------------------


def test_image_in_use(server, images, image_tool):
    path = images.create('a.qcow2', '1M')
    server.qmp('blockdev-add', driver='qcow2', node_name='d',
               file={'driver': 'file', 'filename': path})
    server.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': images.path('n.sock')}})
    server.qmp('block-export-add', id='e', type='nbd', node_name='d',
               writable=True)
    code, out = image_tool('info', path)
    assert code == 1 and 'Is another process using the image' in out
    code, out = image_tool('info', '-U', path)
    assert code == 0 and 'virtual size: 1 MiB' in out


def test_wrong_use(pytestconfig):
    path = pytestconfig.getoption('--blockjobctl')
    for args in ([], ['info'], ['look', 'x'], ['info', 'a', 'b'],
                 ['info', '--output=xml', 'a'], ['info', '--nonsense', 'a']):
        done = subprocess.run([path, 'image', *args], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 2, args
        assert "Try 'blockjobctl image --help'" in done.stderr
    done = subprocess.run([path, 'image', '--help'], capture_output=True,
                          text=True, check=True)
    assert 'info|check|map' in done.stdout
