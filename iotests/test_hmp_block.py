# SPDX-License-Identifier: MIT
"""HMP: info block in all its forms, and commit."""

import re

import pytest

from .images import run_tool

MIB = 1 << 20
NAME = re.compile(r'#block\d+')


def info(vm, line):
    """Lines, with made-up node names made equal."""
    text = vm.hmp(line)
    assert text == '' or text.endswith('\r\n')
    return NAME.sub('#blockN', text).split('\r\n')[:-1]


@pytest.fixture
def chain(images):
    """base <- mid <- top, in their own directory, with relative names."""
    base = images.create('base.qcow2', '4M')
    mid = images.create('mid.qcow2', '4M', backing=base)
    return base, mid, images.create('top.qcow2', '4M', backing=mid)


def test_info_block(launch, images, chain):
    raw = images.create('r.img', '1M', fmt='raw')
    base, mid, top = chain
    vm = launch(
        '-drive', 'if=none,id=d0,file=null-co://,format=raw',
        '-drive', f'if=none,id=r0,file={raw},format=raw,readonly=on,'
                  'detect-zeroes=on',
        '-drive', f'if=none,id=t0,file={top},format=qcow2,cache=none,'
                  'throttling.iops-total=5,throttling.iops-size=7',
        '-blockdev', 'null-co,node-name=n0',
        '-device', 'virtio-blk,drive=d0,id=vd',
        '-device', 'virtio-scsi,id=vs', '-device', 'scsi-cd,id=cd0',
        '-device', 'scsi-hd,id=hd0,drive=n0', machine='q35').start()
    d0 = ['d0 (#blockN): null-co:// (raw)',
          '    Attached to:      /machine/peripheral/vd/virtio-backend',
          '    Cache mode:       writeback']
    r0 = [f'r0 (#blockN): {raw} (raw, read-only)',
          '    Removable device: not locked, tray closed',
          '    Cache mode:       writeback',
          '    Detect zeroes:    on']
    limits = ('    I/O throttling:   bps=0 bps_rd=0 bps_wr=0 bps_max=0 '
              'bps_rd_max=0 bps_wr_max=0 iops=5 iops_rd=0 iops_wr=0 '
              'iops_max=0 iops_rd_max=0 iops_wr_max=0 iops_size=7 group=t0')
    t0 = [f't0 (#blockN): {top} (qcow2)',
          '    Removable device: not locked, tray closed',
          '    Cache mode:       writeback, direct',
          f'    Backing file:     {mid} (chain depth: 2)', limits]
    cd0 = ['cd0: [not inserted]', '    Attached to:      cd0',
           '    Removable device: not locked, tray closed']
    n0 = ['n0: null-co:// (null-co)', '    Attached to:      hd0',
          '    Cache mode:       writeback']
    blank = ['']
    assert info(vm, 'info block') == (
        d0 + blank + r0 + blank + t0 + blank + cd0 + blank + n0)
    # One of them: the line between two of the whole list stays.
    assert info(vm, 'info block d0') == d0
    assert info(vm, 'info block t0') == blank + t0
    # No device of that name: a node.
    assert info(vm, 'info block n0')[-2:] == [n0[0], n0[2]]
    for line in ('info block nope', 'info block -n nope', 'info block hd0',
                 'info block -v -n'):
        assert info(vm, line) == [], line
    nodes = info(vm, 'info block -n')
    assert n0[0] in nodes and f'#blockN: {mid} (qcow2, read-only)' in nodes
    assert not [line for line in nodes if 'Attached' in line]
    image = info(vm, 'info block -v t0')
    at = image.index('Images:')
    assert image[1:at - 1] == t0
    wanted = ['virtual size: 4 MiB (4194304 bytes)', 'cluster_size: 65536',
              'Format specific information:', '    compat: 1.1',
              '    compression type: zlib', '    lazy refcounts: false',
              '    refcount bits: 16', '    corrupt: false',
              '    extended l2: false']
    assert image[at + 1:at + 3] == [f'image: {top}', 'file format: qcow2']
    assert image.count('file format: qcow2') == 3
    for line in wanted:
        assert image.count(line) == 3, line
    assert image.index(f'backing file: {mid}') > at
    vm.qmp('blockdev-open-tray', id='cd0')
    assert cd0[:2] + ['    Removable device: not locked, tray open'] == (
        info(vm, 'info block')[-7:-4])


def test_info_blockstats(launch, images):
    """What qemu-io does is not counted, unless it is asked to."""
    vm = launch('-drive', 'if=none,id=d0,file=null-co://,format=raw',
                '-drive', 'if=none,id=e0', machine='none').start()
    vm.hmp('qemu-io d0 "write 0 8k"')
    assert info(vm, 'info blockstats') == [
        f'{name}: rd_bytes=0 wr_bytes=0 rd_operations=0 wr_operations=0 '
        'flush_operations=0 wr_total_time_ns=0 rd_total_time_ns=0 '
        'flush_total_time_ns=0 rd_merged=0 wr_merged=0 idle_time_ns=0'
        for name in ('d0', 'e0')]


# ---- commit ---------------------------------------------------------------


def write(path, *commands):
    args = [arg for c in commands for arg in ('-c', c)]
    run_tool('qemu-io', '-f', 'qcow2', *args, path)


def allocated(images, path):
    """How many bytes the image itself decides."""
    return sum(e['length'] for e in images.map(path) if e['depth'] == 0
               and e['present'])


def test_commit(launch, images, chain):
    """What top has goes to mid; top stays, empty, and says the same."""
    base, mid, top = chain
    write(base, 'write -P 1 0 4M')
    write(mid, 'write -P 2 1M 1M')
    write(top, 'write -P 3 1536k 64k', 'write -z 0 128k', 'write -P 4 3M 1000')
    before = images.content(top)
    vm = launch('-drive', f'if=none,id=d0,file={top},format=qcow2',
                machine='none').start()
    vm.qmp('block-dirty-bitmap-add', node='d0', name='b')
    assert vm.hmp('commit d0') == ''
    inserted = vm.qmp('query-block')[0]['inserted']
    assert inserted['file'] == top
    assert inserted['backing_file'] == mid
    assert inserted['backing_file_depth'] == 2
    assert [b['count'] for b in inserted['dirty-bitmaps']] == [0]
    assert vm.hmp('commit d0') == ''
    vm.stop()
    assert images.content(top) == before
    assert allocated(images, top) == 0
    assert images.content(mid) == before
    # The base under mid is as it was.
    assert images.content(base) == b'\1' * (4 * MIB)


def test_commit_larger_overlay(launch, images):
    """The backing file grows; its own header's backing string stays."""
    base = images.create('base.qcow2', '2M')
    write(base, 'write -P 1 0 2M')
    mid = images.create('mid.qcow2', '1M', backing=base)
    top = images.create('top.qcow2', '3M', backing=mid)
    write(top, 'write -P 5 2560k 64k')
    before = images.content(top)
    vm = launch('-drive', f'if=none,id=d0,file={top},format=qcow2',
                machine='none').start()
    assert vm.hmp('commit d0') == ''
    vm.stop()
    assert images.content(top) == before
    assert images.content(mid) == before
    assert images.info(mid)['backing-filename'] == base


@pytest.mark.parametrize('override', [
    '', 'backing.file.filename={other}',
    'backing.driver=qcow2,backing.file.driver=file,'
    'backing.file.filename={other}'])
def test_commit_keeps_header(launch, images, override):
    """COMPAT section 4: whatever stands in for the backing file at run time,
    the header says what it said [130]."""
    base = images.create('base.qcow2', '1M')
    other = images.create('other.qcow2', '1M')
    top = images.create('top.qcow2', '1M', backing=base)
    write(top, 'write -P 5 0 64k')
    options = f'if=none,id=d0,file={top},format=qcow2'
    if override:
        options += ',' + override.format(other=other)
    vm = launch('-drive', options, machine='none').start()
    assert vm.hmp('commit d0') == ''
    vm.stop()
    assert images.info(top)['backing-filename'] == base
    got = images.content(other if override else base)
    assert got[:65536] == b'\5' * 65536
    if override:
        assert images.content(base) == bytes(MIB)


def test_commit_refused(launch, images, chain):
    base, mid, top = chain
    other = images.create('other.qcow2', '1M')
    vm = launch('-drive', f'if=none,id=ro,file={top},format=qcow2,readonly=on',
                '-drive', f'if=none,id=alone,file={other},format=qcow2',
                '-drive', 'if=none,id=empty',
                '-drive', 'if=none,id=d0,file=null-co://,format=raw',
                '-blockdev', 'null-co,node-name=n0', machine='none').start()
    for device, text in (
            ('nope', "Device 'nope' not found"),
            ('n0', "Device 'n0' not found"),
            ('empty', "Device 'empty' has no medium"),
            ('d0', "'commit' error for 'd0': Operation not supported"),
            ('alone', "'commit' error for 'alone': Operation not supported")):
        assert info(vm, f'commit {device}') == [text]
    for device in ('ro', 'all'):
        assert info(vm, f'commit {device}') == [
            'Block node is read-only',
            f"'commit' error for '{device}': Operation not permitted"]


def test_commit_all(launch, images):
    """Every device that has a backing file; others are passed over."""
    tops = []
    args = ['-drive', 'if=none,id=n,file=null-co://,format=raw']
    for i in range(3):
        base = images.create(f'base{i}.qcow2', '1M')
        tops.append(images.create(f'top{i}.qcow2', '1M', backing=base))
        write(tops[-1], f'write -P {i + 1} 0 64k')
        args += ['-drive', f'if=none,id=d{i},file={tops[-1]},format=qcow2']
    vm = launch(*args, machine='none').start()
    assert vm.hmp('commit all') == ''
    vm.stop()
    for i, top in enumerate(tops):
        assert allocated(images, top) == 0
        assert images.content(images.path(f'base{i}.qcow2'))[:65536] == (
            bytes([i + 1]) * 65536)


def test_commit_while_a_job_runs(launch, images):
    base = images.create('base.qcow2', '4M')
    write(base, 'write -P 1 0 4M')
    top = images.create('top.qcow2', '4M', backing=base)
    vm = launch('-drive', f'if=none,id=d0,file={top},format=qcow2',
                machine='none').start()
    vm.qmp('block-stream', device='d0', speed=65536)
    busy = "'commit' error for '{}': Device or resource busy"
    assert info(vm, 'commit d0') == [busy.format('d0')]
    assert info(vm, 'commit all') == [busy.format('all')]
    vm.cancel('d0', force=True)
    assert vm.hmp('commit d0') == ''


def test_commit_counts_as_writes_to_the_base(launch, images, chain):
    """A bitmap of the base sees what came down."""
    base, mid, top = chain
    write(top, 'write -P 3 1M 64k')
    vm = launch('-drive', f'if=none,id=d0,file={top},format=qcow2,'
                'backing.node-name=mid', machine='none').start()
    vm.qmp('block-dirty-bitmap-add', node='mid', name='b')
    assert vm.hmp('commit d0') == ''
    counts = [b['count'] for n in vm.qmp('query-named-block-nodes')
              if n['node-name'] == 'mid' for b in n['dirty-bitmaps']]
    assert counts == [65536]


@pytest.mark.ours('QEMU holds the whole monitor up')
def test_commit_under_load(launch, images):
    """Commits while requests are in flight: they wait, and loses nothing."""
    base = images.create('base.qcow2', '8M')
    top = images.create('top.qcow2', '8M', backing=base)
    vm = launch('-drive', f'if=none,id=d0,file={top},format=qcow2',
                machine='none').start()
    expected = bytearray(8 * MIB)
    for i in range(16):
        offset = i * 512 * 1024
        vm.hmp(f'qemu-io d0 "aio_write -P {i + 1} {offset} 256k"')
        expected[offset:offset + 256 * 1024] = bytes([i + 1]) * (256 * 1024)
        assert vm.hmp('commit d0') == ''
    vm.hmp('qemu-io d0 aio_flush')
    assert vm.hmp('commit d0') == ''
    vm.stop()
    assert images.content(base) == bytes(expected)
    assert images.content(top) == bytes(expected)
