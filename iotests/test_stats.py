# SPDX-License-Identifier: MIT
"""query-blockstats, latency histograms, write thresholds."""

import pytest

from .images import same_bytes
from .nbd import NbdClient, NbdError

MIB = 1 << 20
SIZE = 8 * MIB
LIMIT = 64 << 10


@pytest.fixture
def disk(server, images, guest_on):
    """Node 'n' on 'file', raw, with an export and a guest."""
    path = images.create('n.raw', SIZE, 'raw')
    server.qmp('blockdev-add', driver='file', node_name='file',
               filename=path, discard='unmap')
    server.qmp('blockdev-add', driver='raw', node_name='n', file='file',
               discard='unmap')
    server.export('n')
    server.guest = guest_on(server, 'n')
    return server


def by_name(server):
    return {entry['node-name']: entry for entry in
            server.qmp('query-blockstats', query_nodes=True)}


def export_stats(server):
    entry, = server.qmp('query-blockstats', exports=True)
    return entry['stats']


# Nodes

def test_shape_of_nodes(server, images):
    """Oldest first; a node with what it stores in, and no backing."""
    server.add_file('base-file', images.create('base.qcow2', SIZE))
    server.qmp('blockdev-add', driver='qcow2', node_name='base',
               file='base-file')
    server.add_file('top-file', images.create('top.qcow2', SIZE))
    server.qmp('blockdev-add', driver='qcow2', node_name='top',
               file='top-file', backing='base')
    server.qmp('blockdev-add', driver='raw', node_name='raw', file='top')
    server.qmp('blockdev-add', driver='null-co', node_name='null')
    entries = server.qmp('query-blockstats', query_nodes=True)
    assert [e['node-name'] for e in entries] == [
        'base-file', 'base', 'top-file', 'top', 'raw', 'null']
    for entry in entries:
        assert 'backing' not in entry and 'device' not in entry
    file, base, _, top, raw, null = entries
    assert set(file) == {'stats', 'node-name', 'driver-specific'}
    assert file['driver-specific'] == {
        'driver': 'file', 'discard-nb-ok': 0, 'discard-nb-failed': 0,
        'discard-bytes-ok': 0}
    assert base['parent'] == file
    assert raw['parent'] == top and 'parent' not in null
    assert 'driver-specific' not in top
    stats = dict(file['stats'])
    assert stats.pop('timed_stats') == []
    assert stats.pop('account_invalid') is False
    assert stats.pop('account_failed') is False
    assert set(stats.values()) == {0} and len(stats) == 23
    assert server.qmp('query-blockstats') == []


def test_highest_offset_and_discards(disk):
    disk.guest.write(MIB, b'x' * 4096)
    disk.guest.write(0, b'x' * 4096)
    entries = by_name(disk)
    for name in ('n', 'file'):
        assert entries[name]['stats']['wr_highest_offset'] == MIB + 4096
        # Nodes count nothing else.
        assert entries[name]['stats']['wr_bytes'] == 0
    disk.guest.trim(0, LIMIT)
    specific = by_name(disk)['file']['driver-specific']
    assert specific['discard-nb-ok'] == 1
    assert specific['discard-bytes-ok'] == LIMIT
    disk.guest.trim(2 * MIB, LIMIT)
    assert by_name(disk)['n']['stats']['wr_highest_offset'] == MIB + 4096
    disk.guest.zero(3 * MIB, LIMIT)
    assert by_name(disk)['n']['stats']['wr_highest_offset'] == \
        3 * MIB + LIMIT


# Exports

@pytest.mark.ours('statistics of exports')
def test_counts_of_an_export(disk):
    before = export_stats(disk)
    assert before['rd_bytes'] == SIZE       # the guest has read its disk
    guest = disk.guest
    guest.write(0, b'x' * 4096)
    guest.write(MIB, b'y' * 128 * 1024)
    guest.zero(2 * MIB, MIB)
    guest.nbd.read(0, 512)
    guest.trim(0, LIMIT)                    # and a read of 64 KiB
    guest.flush()
    now = export_stats(disk)

    def grown(key):
        return now[key] - before[key]

    assert grown('wr_operations') == 3
    assert grown('wr_bytes') == 4096 + 128 * 1024 + MIB
    assert grown('rd_operations') == 2 and grown('rd_bytes') == 512 + LIMIT
    assert grown('unmap_operations') == 1
    assert grown('unmap_bytes') == LIMIT
    assert grown('flush_operations') == 1
    for kind in ('rd', 'wr', 'flush', 'unmap'):
        assert 0 < grown(f'{kind}_total_time_ns') < 60 * 10**9
        assert now[f'failed_{kind}_operations'] == 0
    assert now['wr_highest_offset'] == 3 * MIB
    assert 0 <= now['idle_time_ns'] < 60 * 10**9
    assert now['timed_stats'] == []
    assert disk.qmp('query-blockstats') == []


@pytest.mark.ours('statistics of exports')
def test_invalid_and_failed(server, images):
    server.qmp('blockdev-add', driver='blkdebug', node_name='n', image={
        'driver': 'file', 'filename': images.create('n.raw', SIZE, 'raw')},
        **{'inject-error': [{'event': 'none', 'iotype': 'write',
                             'errno': 28}]})
    server.export('n')
    client = NbdClient.connect(server.nbd_path, 'n')
    with pytest.raises(NbdError):
        client.read(SIZE, 512)
    with pytest.raises(NbdError):
        client.trim(SIZE - 512, 1024)
    with pytest.raises(NbdError):
        client.write(0, bytes(512))
    stats = export_stats(server)
    assert stats['invalid_rd_operations'] == 1
    assert stats['invalid_unmap_operations'] == 1
    assert stats['invalid_wr_operations'] == 0
    assert stats['failed_wr_operations'] == 1
    assert stats['failed_rd_operations'] == 0
    assert stats['rd_operations'] == stats['wr_operations'] == 0
    assert stats['account_failed'] and stats['account_invalid']
    client.close()


@pytest.mark.ours('statistics of exports')
def test_export_entries(disk, images):
    disk.add_node('m', images.create('m.qcow2', SIZE))
    disk.export('m', 'second')
    disk.export('m', 'unused', writable=False)
    disk.unexport('unused')
    first, second = disk.qmp('query-blockstats', exports=True)
    assert (first['export'], first['device']) == ('export-n', '')
    assert first['node-name'] == 'n'
    assert first['parent']['node-name'] == 'file'
    assert second['export'] == 'export-second'
    assert 'idle_time_ns' not in second['stats']
    # The numbers are the export's: they move with it.
    images.adopt(images.path('o.qcow2'))
    disk.guest.write(0, b'x' * 512)
    before = first['stats']['rd_bytes']
    disk.qmp('blockdev-snapshot-sync', node_name='n',
             snapshot_file=images.path('o.qcow2'), snapshot_node_name='o')
    moved = disk.qmp('query-blockstats', exports=True)[0]
    assert moved['export'] == 'export-n' and moved['node-name'] == 'o'
    assert moved['stats']['rd_bytes'] == before
    assert moved['stats']['wr_bytes'] == 512
    assert moved['backing']['node-name'] == 'n'
    assert moved['backing']['parent']['node-name'] == 'file'
    assert moved['backing']['stats']['wr_highest_offset'] == 512


@pytest.mark.ours('statistics of exports')
def test_histograms(disk):
    guest = disk.guest

    def set_to(**boundaries):
        disk.qmp('block-latency-histogram-set', id='export-n', **boundaries)

    set_to(boundaries=[1, 10**12])
    for i in range(5):
        guest.write(i * 4096, b'x' * 4096)
    guest.nbd.read(0, 512)
    guest.flush()
    stats = export_stats(disk)
    for kind, n in (('wr', 5), ('rd', 1), ('flush', 1)):
        assert stats[f'{kind}_latency_histogram'] == {
            'boundaries': [1, 10**12], 'bins': [0, n, 0]}
    # One kind anew, the others stay.
    set_to(boundaries_write=[])
    guest.write(0, b'y')
    stats = export_stats(disk)
    assert stats['wr_latency_histogram'] == {'boundaries': [], 'bins': [1]}
    assert stats['rd_latency_histogram']['bins'] == [0, 1, 0]
    set_to(boundaries_read=[5], boundaries=[7, 8])
    stats = export_stats(disk)
    assert stats['rd_latency_histogram']['boundaries'] == [5]
    assert stats['wr_latency_histogram']['boundaries'] == [7, 8]
    assert stats['flush_latency_histogram']['bins'] == [0, 0, 0]
    set_to()
    assert not any('histogram' in key for key in export_stats(disk))


@pytest.mark.ours('statistics of exports')
@pytest.mark.parametrize('kind', ['read', 'write', 'flush'])
@pytest.mark.parametrize('bad', [[0, 5], [5, 5], [10, 5]])
def test_bad_boundaries(disk, kind, bad):
    disk.qmp('block-latency-histogram-set', id='export-n', boundaries=[3])
    before = export_stats(disk)
    disk.fails('block-latency-histogram-set',
               {'id': 'export-n', f'boundaries-{kind}': bad},
               f"Device 'export-n' set {kind} boundaries fail")
    now = export_stats(disk)
    for key, value in before.items():
        if 'histogram' in key:
            assert now[key] == value


def test_histogram_of_nothing(start_server):
    server = start_server(machine=True)
    server.fails('block-latency-histogram-set', id='nope',
                 desc="Device 'nope' not found", cls='DeviceNotFound')


# Write thresholds

def set_threshold(server, node, value):
    server.qmp('block-set-write-threshold', node_name=node,
               write_threshold=value)


def thresholds(server):
    return {name: node['write_threshold']
            for name, node in server.nodes().items()
            if node['write_threshold']}


def events(server):
    server.qmp('query-status' if server.machine else 'query-version')
    return [e['data'] for e in server.mon.pump()
            if e['event'] == 'BLOCK_WRITE_THRESHOLD']


@pytest.mark.parametrize('node', ['n', 'file'])
def test_threshold(disk, node):
    """Once, for a write that ends beyond it; then there is none."""
    guest = disk.guest
    disk.mon.drop_events()
    set_threshold(disk, node, LIMIT)
    assert thresholds(disk) == {node: LIMIT}
    guest.write(0, b'x' * LIMIT)            # up to it, not beyond
    guest.nbd.read(0, 2 * LIMIT)
    assert events(disk) == [] and thresholds(disk) == {node: LIMIT}
    guest.write(1024, b'x' * LIMIT)
    event = disk.wait_event('BLOCK_WRITE_THRESHOLD')
    assert event['data'] == {'node-name': node, 'write-threshold': LIMIT,
                             'amount-exceeded': 1024}
    assert thresholds(disk) == {}
    guest.write(1024, b'x' * LIMIT)
    assert events(disk) == []


@pytest.mark.parametrize('what', ['zero', 'trim'])
def test_threshold_and_zeroes(disk, what):
    set_threshold(disk, 'n', 4096)
    getattr(disk.guest, what)(0, LIMIT)
    event = disk.wait_event('BLOCK_WRITE_THRESHOLD')
    assert event['data']['amount-exceeded'] == LIMIT - 4096


def test_threshold_taken_back(disk):
    set_threshold(disk, 'n', 4096)
    set_threshold(disk, 'n', 0)
    disk.guest.write(0, b'x' * LIMIT)
    assert events(disk) == []
    set_threshold(disk, 'n', 2**64 - 1)
    assert thresholds(disk) == {'n': -1}
    disk.guest.write(0, b'x' * LIMIT)
    assert events(disk) == [] and thresholds(disk) == {'n': -1}


def test_threshold_of_a_growing_file(server, images, guest_on):
    """As libvirt uses it: on the storage node below a qcow2."""
    server.add_file('storage', images.create('n.qcow2', SIZE))
    server.qmp('blockdev-add', driver='qcow2', node_name='n', file='storage')
    server.export('n')
    guest = guest_on(server, 'n')
    told = []
    for limit in (MIB, 2 * MIB):
        set_threshold(server, 'storage', limit)
        at = 0
        while server.nodes()['storage']['write_threshold']:
            assert at < SIZE, 'no threshold was crossed'
            guest.write(at, b'%d' % limit * (LIMIT // 7))
            at += LIMIT
            if limit == 2 * MIB:
                guest.write(SIZE - at, b'x' * LIMIT)
        event = server.wait_event('BLOCK_WRITE_THRESHOLD')
        told.append(event['data'])
        assert event['data']['node-name'] == 'storage'
        assert event['data']['write-threshold'] == limit
        assert 0 < event['data']['amount-exceeded'] <= 4 * MIB
    assert len(told) == 2
    same_bytes(guest.read_all(), bytes(guest.model))


def test_threshold_of_no_node(server):
    server.fails('block-set-write-threshold', node_name='nope',
                 write_threshold=1, desc="Device 'nope' not found")


# block_resize

def test_resize_refused(server, images, guest_on):
    server.add_node('n', images.create('n.qcow2', SIZE))
    server.qmp('blockdev-add', driver='null-co', node_name='null')

    def refused(desc, **arguments):
        server.fails('block_resize', desc=desc, **arguments)
        assert server.nodes()['n']['image']['virtual-size'] == SIZE

    refused("Cannot find device='' nor node-name=''", size=512)
    refused("Cannot find device='nope' nor node-name=''", device='nope',
            size=512)
    refused("Parameter 'size' expects a >0 size", node_name='n', size=-1)
    refused('Failed to grow the L1 table: File too large', node_name='n',
            size=2**62)
    refused('offset(9223372036854775807) exceeds maximum('
            '9223372035781033984)', node_name='n', size=2**63 - 1)
    refused('Image format driver does not support resize', node_name='null',
            size=2**30)
