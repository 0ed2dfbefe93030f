# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 030: block-stream of drives, case by case; what
test_rows_stream.py leaves out."""

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20
N_IMAGES = 9


def qemu_io_map(path, fmt='qcow2'):
    return run_tool('qemu-io', '-f', fmt, '-r', '-U', '-c', 'map', path)


def busy(node, job='stream'):
    return f"Node '{node}' is busy: block device is in use by block job: {job}"


@pytest.fixture
def single(launch, images):
    """raw base <- mid <- test, a piece of data in base and in mid."""
    base = images.create('base.raw', MIB, fmt='raw')
    mid = images.create('mid.qcow2', MIB, backing=base)
    test = images.create('test.qcow2', MIB, backing=mid)
    images.io(base, 'write -P 1 0 512')
    images.io(mid, 'write -P 1 524288 512')
    vm = launch().add_drive(
        'blkdebug::' + test, 'backing.node-name=mid,'
        'backing.backing.node-name=base')
    vm.images = base, mid, test
    return vm.start()


def test_030_stream_all(single):
    base, mid, test = single.images
    single.qmp('block-stream', device='drive0')
    single.wait_completed(type='stream', len=MIB)
    single.stop()
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 512',
             '-c', 'read -P 1 512k 512', test)


def test_030_intermediate(single, images):
    base, mid, test = single.images
    before = qemu_io_map(mid)
    single.qmp('block-stream', {'device': 'mid', 'job-id': 'stream-mid'})
    single.wait_completed('stream-mid')
    single.stop()
    assert qemu_io_map(mid) != before
    assert 'backing-filename' not in images.info(mid)


def test_030_no_op_maps(single):
    base, mid, test = single.images
    before = qemu_io_map(test)
    single.qmp('block-stream', device='drive0', base=mid)
    single.wait_completed()
    single.stop()
    assert qemu_io_map(test) == before


def test_030_partial_maps(single):
    base, mid, test = single.images
    single.qmp('block-stream', device='drive0', base=base)
    single.wait_completed()
    single.stop()
    assert qemu_io_map(mid) == qemu_io_map(test)


def test_030_read_only_top(single, images):
    top = images.create('ro-top.qcow2', MIB, backing=single.images[1])
    single.qmp('blockdev-add', {
        'node-name': 'ro-top', 'driver': 'qcow2', 'read-only': True,
        'file': {'driver': 'file', 'filename': top, 'read-only': True},
        'backing': 'mid'})
    single.fails('block-stream', {
        'job-id': 'stream', 'device': 'ro-top', 'base-node': 'base'},
        desc='Block node is read-only')
    single.qmp('blockdev-del', {'node-name': 'ro-top'})


@pytest.fixture
def parallel(launch, images):
    """Nine images; every odd one holds what the one above it will get."""
    paths, size = [], 16 * MIB
    for i in range(N_IMAGES):
        paths.append(images.create(f'img-{i}.img', size,
                                   backing=paths[-1] if paths else None))
    odd = [i for i in reversed(range(N_IMAGES)) if i % 2 == 1]
    for i, index in enumerate(odd):
        images.io(paths[index], f'write -P 0xff {i * 4}M {2 + i % 2 * 2}M')
    options = ','.join('backing.' * (N_IMAGES - 1 - i) + f'node-name=node{i}'
                       for i in range(N_IMAGES))
    vm = launch().add_drive(paths[-1], options)
    vm.images = paths
    return vm.start()


def wait_all(vm, jobs):
    while jobs:
        event = vm.wait_event(['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_READY'])
        ident = event['data']['device']
        assert ident in jobs and 'error' not in event['data'], event
        if event['event'] == 'BLOCK_JOB_READY':
            assert event['data']['type'] == 'commit'
            vm.qmp('block-job-complete', device=ident)
        else:
            jobs.remove(ident)
    assert_idle(vm)


def assert_idle(vm):
    while vm.qmp('query-block-jobs'):
        pass


@pytest.mark.parametrize('again', range(3))
def test_030_parallel(parallel, again):
    vm, jobs = parallel, []
    for i in range(2, N_IMAGES, 2):
        assert qemu_io_map(vm.images[i]) != qemu_io_map(vm.images[i - 1])
    for i in range(2, N_IMAGES, 2):
        jobs.append(f'stream-node{i}')
        vm.qmp('block-stream', {
            'device': f'node{i}', 'job-id': jobs[-1],
            'bottom': f'node{i - 1}', 'speed': 1024})
    for job in reversed(jobs):
        vm.qmp('block-job-set-speed', device=job, speed=0)
    wait_all(vm, jobs)
    vm.stop()
    for i in range(2, N_IMAGES, 2):
        assert qemu_io_map(vm.images[i]) == qemu_io_map(vm.images[i - 1])


def test_030_overlapping_1(parallel):
    vm, imgs = parallel, parallel.images
    vm.qmp('block-stream', {
        'device': 'node4', 'job-id': 'stream-node4', 'base': imgs[1],
        'filter-node-name': 'stream-filter', 'speed': MIB})
    for node, ident, base, blocked in (
            ('node5', 'stream-node5', imgs[0], 'stream-filter'),
            ('node5', 'stream-node5', imgs[2], 'stream-filter'),
            ('node3', 'stream-node3', imgs[2], 'node3'),
            ('node4', 'stream-node4-v2', None, 'node4')):
        args = {'device': node, 'job-id': ident}
        if base:
            args['base'] = base
        vm.fails('block-stream', args, desc=busy(blocked))
    for base, top, blocked in ((imgs[4], None, 'stream-filter'),
                               (imgs[1], imgs[3], 'node3'),
                               (imgs[0], imgs[1], 'node2')):
        args = {'device': 'drive0', 'job-id': 'commit', 'base': base}
        if top:
            args['top'] = top
        vm.fails('block-commit', args, desc=busy(blocked))
    vm.qmp('block-job-set-speed', device='stream-node4', speed=0)
    vm.wait_completed('stream-node4')


def test_030_overlapping_2(parallel):
    vm, imgs = parallel, parallel.images
    vm.qmp('block-commit', {
        'device': 'drive0', 'base': imgs[3], 'top': imgs[5],
        'job-id': 'commit-node3', 'filter-node-name': 'commit-filter',
        'speed': MIB})
    for node, base, blocked in (('node3', None, 'node3'),
                                ('node6', imgs[2], 'node5'),
                                ('node4', imgs[2], 'node4'),
                                ('node6', imgs[4], 'node5'),
                                ('drive0', imgs[5], 'drive0')):
        args = {'device': node, 'job-id': 'stream'}
        if base:
            args['base'] = base
        vm.fails('block-stream', args, desc=busy(blocked, 'commit'))
    vm.qmp('block-job-set-speed', device='commit-node3', speed=0)
    vm.wait_completed('commit-node3')


def test_030_overlapping_3(parallel):
    """An active commit."""
    vm, imgs = parallel, parallel.images
    vm.qmp('block-commit', {'device': 'drive0', 'base': imgs[3],
                            'job-id': 'commit-drive0', 'speed': MIB})
    vm.fails('block-stream', {'device': 'node5', 'base': imgs[3],
                              'job-id': 'stream-node6'},
             desc=busy('node5', 'commit'))
    vm.wait_ready('commit-drive0')
    vm.qmp('block-job-complete', device='commit-drive0')
    vm.wait_completed('commit-drive0')


def test_030_overlapping_4(parallel):
    """The filter of a commit is in the way of a stream's bottom."""
    vm, imgs = parallel, parallel.images
    vm.qmp('block-commit', {
        'device': 'drive0', 'base': imgs[0], 'top': imgs[1],
        'job-id': 'commit-node0', 'filter-node-name': 'commit-filter',
        'speed': MIB})
    vm.fails('block-stream', {'device': 'node3', 'base-node': 'node1',
                              'job-id': 'stream'},
             desc="Cannot freeze 'backing' link to 'commit-filter'")
    vm.qmp('block-job-set-speed', device='commit-node0', speed=0)
    vm.wait_completed('commit-node0')


@pytest.mark.ours(reason='7.2 crashes')
@pytest.mark.parametrize('speed', [0, MIB])
def test_030_overlapping_5(parallel, speed):
    """The filter of a commit as the base of a stream."""
    vm = parallel
    vm.qmp('block-commit', {
        'device': 'drive0', 'base-node': 'node0', 'top-node': 'node2',
        'filter-node-name': 'commit-filter', 'speed': speed})
    vm.qmp('block-stream', {'device': 'node4', 'job-id': 'node4',
                            'base-node': 'commit-filter'})
    if speed:
        vm.qmp('block-job-set-speed', device='drive0', speed=0)
    wait_all(vm, ['drive0', 'node4'])


def test_030_stream_commit_1(parallel):
    vm, imgs = parallel, parallel.images
    vm.qmp('block-stream', {'device': 'node2', 'base-node': 'node0',
                            'job-id': 'node2'})
    vm.qmp('block-commit', device='drive0', base=imgs[3])
    wait_all(vm, ['node2', 'drive0'])


def test_030_stream_commit_2(parallel):
    vm, imgs = parallel, parallel.images
    vm.qmp('block-commit', {'device': 'drive0', 'base': imgs[0],
                            'top': imgs[2], 'job-id': 'commit'})
    vm.qmp('block-stream', {'device': 'node6', 'base': imgs[3],
                            'job-id': 'node6'})
    wait_all(vm, ['commit', 'node6'])


def test_030_stream_commit_same_chain(parallel):
    vm = parallel
    vm.qmp('block-commit', {'device': 'drive0', 'base-node': 'node5',
                            'top-node': 'node6', 'job-id': 'commit'})
    vm.qmp('block-stream', {'device': 'node4', 'base-node': 'node2',
                            'job-id': 'node4'})
    vm.qmp('block-stream', {'device': 'node2', 'job-id': 'node2'})
    wait_all(vm, ['commit', 'node4', 'node2'])


def test_030_base_node_name(parallel):
    vm, imgs = parallel, parallel.images
    before = qemu_io_map(imgs[4])
    for base, desc in (
            ('node4', "Node 'node4' is not a backing image of 'node4'"),
            ('node6', "Node 'node6' is not a backing image of 'node4'"),
            ('none', "Cannot find device='' nor node-name='none'")):
        vm.fails('block-stream', {'device': 'node4', 'base-node': base,
                                  'job-id': 'stream'}, desc=desc)
    vm.fails('block-stream', {
        'device': 'node4', 'base-node': 'node2', 'base': imgs[2],
        'job-id': 'stream'},
        desc="'base' and 'base-node' cannot be specified at the same time")
    vm.qmp('block-stream', {'device': 'node4', 'base-node': 'node2',
                            'job-id': 'block-stream'})
    vm.wait_completed('block-stream')
    vm.stop()
    assert qemu_io_map(imgs[4]) != before
    assert qemu_io_map(imgs[4]) == qemu_io_map(imgs[3])


def test_030_quorum(launch, images):
    """A child of a quorum is streamed."""
    options, paths, bases = ['driver=quorum', 'vote-threshold=2'], [], []
    for i in range(3):
        bases.append(images.create(f'backing-{i}', MIB))
        paths.append(images.create(f'img-{i}', MIB, backing=bases[-1]))
        images.io(bases[-1], 'write -P 0x55 0 1024')
        options.append(f'children.{i}.file.filename={paths[-1]}')
        options.append(f'children.{i}.node-name=node{i}')
    vm = launch().add_drive(None, ','.join(options)).start()
    assert qemu_io_map(bases[0]) != qemu_io_map(paths[0])
    vm.qmp('block-stream', {'device': 'node0', 'job-id': 'stream-node0'})
    vm.wait_completed('stream-node0')
    vm.stop()
    assert qemu_io_map(bases[0]) == qemu_io_map(paths[0])


def test_030_smaller_base(launch, images):
    base = images.create('base.raw', MIB, fmt='raw')
    test = images.create('test.img', 2 * MIB, backing=base)
    vm = launch().add_drive(test).start()
    vm.qmp('block-stream', device='drive0')
    vm.wait_completed()


@pytest.mark.timeout(120)
def test_030_stream_stop(launch, images):
    """Eight GiB, and the first request is held."""
    size = 8 << 30
    base = images.create('base.raw', size, fmt='raw')
    test = images.create('test.img', size, backing=base)
    images.io(base, 'write -P 1 0 32M')
    images.io(test, 'write -P 1 32M 32M')
    vm = launch().add_drive('blkdebug::' + test).start()
    vm.pause_drive('drive0')
    vm.qmp('block-stream', device='drive0')
    seen = [vm.wait_event('JOB_STATUS_CHANGE')['data'] for _ in range(2)]
    assert seen == [{'status': 'created', 'id': 'drive0'},
                    {'status': 'running', 'id': 'drive0'}]
    vm.cancel(force=True, resume=True)


@pytest.fixture
def fast(launch, images):
    base = images.create('base.raw', 80 * MIB, fmt='raw')
    test = images.create('test.img', 80 * MIB, backing=base)
    images.io(base, 'write -P 1 0 32M')
    images.io(test, 'write -P 1 32M 32M')
    return launch().add_drive('blkdebug::' + test).start()


def test_030_set_speed(fast):
    vm = fast
    vm.pause_drive('drive0')
    vm.qmp('block-stream', device='drive0')
    assert vm.job()['speed'] == 0
    vm.qmp('block-job-set-speed', device='drive0', speed=8 * MIB)
    assert vm.job()['speed'] == 8 * MIB
    vm.cancel(force=True, resume=True)
    vm.pause_drive('drive0')
    vm.qmp('block-stream', device='drive0', speed=4 * MIB)
    assert vm.job()['speed'] == 4 * MIB
    vm.cancel(force=True, resume=True)


def test_030_set_speed_invalid(fast):
    vm = fast
    desc = "Parameter 'speed' expects a non-negative value"
    vm.fails('block-stream', {'device': 'drive0', 'speed': -1}, desc=desc)
    assert vm.qmp('query-block-jobs') == []
    vm.pause_drive('drive0')
    vm.qmp('block-stream', device='drive0')
    vm.fails('block-job-set-speed', {'device': 'drive0', 'speed': -1},
             desc=desc)
    vm.cancel(force=True, resume=True)
