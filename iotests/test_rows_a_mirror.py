# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 041: mirrors of drives, case by case; what
test_rows_mirror.py leaves out."""

import re

import pytest

from .images import qemu_img

KIB = 1 << 10
MIB = 1 << 20
CONFIG = '''
[inject-error]
event = "{event}"
errno = "{errno}"
immediately = "off"
once = "on"

[set-state]
state = "1"
event = "{event}"
new_state = "2"

[set-state]
state = "2"
event = "{event}"
new_state = "1"
'''


def compare(a, b, fmt_b='qcow2'):
    qemu_img('compare', '-f', 'qcow2', '-F', fmt_b, a, b)


@pytest.fixture(params=['drive-mirror', 'blockdev-mirror'])
def command(request):
    return request.param


@pytest.fixture(params=[MIB, 0, 1025 * KIB])
def size(request):
    return request.param


@pytest.fixture
def single(launch, images, command, size):
    back = images.create('backing.img', size, fmt='raw')
    test = images.create('test.img', size, backing=back)
    target = images.path('target.img')
    vm = launch().add_drive(
        'blkdebug::' + test, 'node-name=top,backing.node-name=base')
    vm.start()
    vm.paths = back, test, target
    vm.target = target
    if command == 'blockdev-mirror':
        images.create('target.img', size)
        vm.qmp('blockdev-add', {
            'node-name': 'target', 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': target}})
        vm.target = 'target'
    else:
        images.adopt(target)
    return vm


def inserted(vm, index=0):
    return vm.qmp('query-block')[index]['inserted']


def test_041_single_complete(single, command):
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full',
                         'target': single.target})
    single.complete()
    assert inserted(single)['file'] == target
    single.stop()
    compare(test, target)


def test_041_single_cancel(single, command):
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full',
                         'target': single.target})
    single.cancel(force=True)
    assert inserted(single)['file'] == 'blkdebug::' + test


def test_041_single_cancel_after_ready(single, command):
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full',
                         'target': single.target})
    single.wait_ready()
    single.cancel()
    assert inserted(single)['file'] == 'blkdebug::' + test
    single.stop()
    compare(test, target)


def test_041_single_pause(single, command):
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full',
                         'target': single.target})
    single.qmp('block-job-pause', device='drive0')
    while not single.job()['paused'] or single.job()['busy']:
        pass
    offset = single.job()['offset']
    assert single.job()['offset'] == offset
    single.qmp('block-job-resume', device='drive0')
    single.complete()
    single.stop()
    compare(test, target)


def test_041_small_buffer(single, command):
    """A buffer smaller than what one request would take."""
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full', 'buf-size': 4096,
                         'target': single.target})
    single.complete()
    assert inserted(single)['file'] == target
    single.stop()
    compare(test, target)


@pytest.mark.parametrize('cluster', ['small', 'large'])
def test_041_clusters(launch, images, size, cluster):
    """Clusters larger than the buffer, and with a backing file."""
    back = images.create('backing.img', size, fmt='raw')
    test = images.create('test.img', size, backing=back)
    vm = launch().add_drive('blkdebug::' + test).start()
    bytes_ = 65536 if cluster == 'small' else 2 * MIB
    if cluster == 'small':
        target = images.create('target.img', size, cluster_size=bytes_)
        more = {'buf-size': 32768}
    else:
        target = images.create('target.img', size, backing=back,
                               cluster_size=bytes_)
        more = {}
    vm.qmp('drive-mirror', {
        'device': 'drive0', 'sync': 'full', 'mode': 'existing',
        'target': target, 'format': 'qcow2', **more})
    vm.complete()
    assert inserted(vm)['file'] == target
    vm.stop()
    compare(test, target)


def test_041_refused(single, command):
    for args in ({'device': 'nonexistent'}, {'device': 'ide1-cd0'}):
        single.fails(command, dict({
            'sync': 'full', 'target': single.target}, **args))
    if command == 'drive-mirror':
        single.fails(command, {
            'device': 'drive0', 'sync': 'full', 'mode': 'existing',
            'target': '/nonexistent/x'})
    else:
        single.fails(command, {'device': 'drive0', 'sync': 'full',
                               'target': 'drive0'})
        single.fails(command, {'device': 'drive0', 'sync': 'full',
                               'target': 'nonexistent'})


def run_job(vm, job, pre_finalize=None):
    """As the harness's run_job: complete, finalize, dismiss; the error."""
    error = None
    while True:
        event = vm.wait_event(['BLOCK_JOB_READY', 'BLOCK_JOB_PENDING',
                               'JOB_STATUS_CHANGE'])
        if event['event'] == 'BLOCK_JOB_READY':
            vm.qmp('job-complete', id=job)
        elif event['event'] == 'BLOCK_JOB_PENDING':
            pass
        elif event['data']['status'] == 'aborting':
            error = next(j.get('error') for j in vm.qmp('query-jobs'))
        elif event['data']['status'] == 'pending':
            if pre_finalize:
                pre_finalize()
            vm.qmp('job-finalize', id=job)
        elif event['data']['status'] == 'concluded':
            vm.qmp('job-dismiss', id=job)
        elif event['data']['status'] == 'null':
            return error


@pytest.mark.parametrize('device, node', [('drive0', 'top'),
                                          (None, 'target')])
def test_041_resize(launch, images, device, node):
    back = images.create('backing.img', MIB, fmt='raw')
    test = images.create('test.img', MIB, backing=back)
    target = images.create('target.img', MIB)
    vm = launch().add_drive(
        'blkdebug::' + test, 'node-name=top,backing.node-name=base').start()
    vm.qmp('blockdev-add', {
        'node-name': 'target', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': target}})

    def pre_finalize():
        if device:
            vm.fails('block_resize', {'device': device, 'size': 65536})
        vm.fails('block_resize', {'node-name': node, 'size': 65536})

    vm.qmp('blockdev-mirror', {
        'job-id': 'job0', 'device': 'drive0', 'sync': 'full',
        'target': 'target', 'auto-finalize': False, 'auto-dismiss': False})
    assert run_job(vm, 'job0', pre_finalize) is None


def test_041_implicit_filter(single, command, size):
    if not size:
        return
    back, test, target = single.paths
    single.qmp(command, {'device': 'drive0', 'sync': 'full',
                         'target': single.target})
    entry = inserted(single)
    assert entry['file'] == 'blkdebug::' + test
    assert entry['drv'] == 'qcow2' and entry['backing_file'] == back
    assert entry['backing_file_depth'] == 1
    assert entry['image']['filename'] == 'blkdebug::' + test
    assert entry['image']['backing-image']['filename'] == back
    stats = single.qmp('query-blockstats')[0]
    assert stats['node-name'] == 'top'
    assert stats['backing']['node-name'] == 'base'
    single.cancel(force=True)


@pytest.mark.parametrize('sync', ['full', 'top'])
def test_041_resized(launch, images, sync):
    """The overlay is larger than its backing file."""
    back = images.create('backing.img', MIB)
    test = images.create('test.img', 2 * MIB, backing=back)
    images.io(back, 'write -P 7 0 64k')
    target = images.adopt(images.path('target.img'))
    vm = launch().add_drive(test).start()
    vm.qmp('drive-mirror', {'device': 'drive0', 'sync': sync,
                            'target': target, 'format': 'qcow2'})
    vm.complete()
    vm.stop()
    compare(test, target)


@pytest.mark.parametrize('case', ['complete', 'cancel', 'large'])
def test_041_no_backing(launch, images, case):
    """The target's backing file is none of the source's."""
    back = images.create('backing.img', 2 * MIB, fmt='raw')
    test = images.create('test.img', 2 * MIB, backing=back)
    tback = images.create('tback.img', 2 * MIB)
    images.io(tback, 'write -P 9 0 1M')
    options = {'cluster_size': 2 * MIB} if case == 'large' else {}
    target = images.create('target.img', 2 * MIB, backing=tback, **options)
    vm = launch().add_drive(test).start()
    vm.qmp('drive-mirror', {
        'device': 'drive0', 'sync': 'full', 'mode': 'existing',
        'target': target})
    if case == 'cancel':
        vm.wait_ready()
        vm.cancel()
        assert inserted(vm)['file'] == test
    else:
        vm.complete()
        assert inserted(vm)['file'] == target
    vm.stop()
    compare(test, target)


def errors_config(images, event, errno, sector=None):
    path = images.path('blkdebug.conf')
    text = CONFIG.format(event=event, errno=errno)
    if sector is not None:
        text = text.replace('once = "on"\n',
                            f'once = "on"\nsector = "{sector}"\n', 1)
    with open(path, 'w', encoding='ascii') as file:
        file.write(text)
    return path


@pytest.fixture
def read_errors(launch, images):
    base = images.create('backing.raw', 2 * MIB, fmt='raw')
    images.io(base, 'write -P 0x55 0 2M')
    config = errors_config(images, 'read_aio', 5, 65536 // 512)
    test = images.path('test.img')
    qemu_img('create', '-q', '-f', 'qcow2', '-o',
             f'backing_file=blkdebug:{config}:{base},backing_fmt=raw', test)
    vm = launch().add_drive(test).start()
    vm.target = images.path('target.img')
    vm.images = images
    return vm


def stopped(vm, operation):
    data = vm.wait_event('BLOCK_JOB_ERROR')['data']
    assert data == {'device': 'drive0', 'action': 'stop',
                    'operation': operation}
    while vm.job()['status'] != 'paused':
        pass
    return vm.job()


@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop', 'large'])
def test_041_read_errors(read_errors, policy):
    vm = read_errors
    args = {'device': 'drive0', 'sync': 'full', 'target': vm.target}
    if policy == 'large':
        vm.images.create('target.img', 2 * MIB, cluster_size=131072)
        args['mode'] = 'existing'
    if policy != 'report':
        args['on-source-error'] = 'stop' if policy == 'stop' else 'ignore'
    vm.qmp('drive-mirror', args)
    if policy == 'stop':
        job = stopped(vm, 'read')
        assert job['paused'] and job['io-status'] == 'failed'
        vm.qmp('block-job-resume', device='drive0')
        vm.wait_ready()
        job = vm.job()
        assert not job['paused'] and job['io-status'] == 'ok'
        vm.complete(wait=False)
        return
    data = vm.wait_event('BLOCK_JOB_ERROR')['data']
    assert data['operation'] == 'read' and data['device'] == 'drive0'
    if policy == 'report':
        vm.wait_completed(error='Input/output error', type='mirror')
        return
    job = vm.job()
    assert not job['paused']
    vm.complete()


@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop'])
def test_041_write_errors(launch, images, policy):
    back = images.create('backing.raw', 2 * MIB, fmt='raw')
    images.io(back, 'write -P 0x55 0 2M')
    test = images.create('test.img', 2 * MIB, backing=back)
    config = errors_config(images, 'write_aio', 5)
    target = images.create('target.img', 2 * MIB)
    vm = launch().add_drive(test).start()
    args = {'device': 'drive0', 'sync': 'full', 'mode': 'existing',
            'target': f'blkdebug:{config}:{target}', 'format': 'qcow2'}
    if policy != 'report':
        args['on-target-error'] = policy
    images.allow_leaks(target)
    vm.qmp('drive-mirror', args)
    if policy == 'stop':
        job = stopped(vm, 'write')
        assert job['paused'] and job['io-status'] == 'failed'
        vm.qmp('block-job-resume', device='drive0')
        vm.wait_ready()
        job = vm.job()
        assert not job['paused'] and job['io-status'] == 'ok'
        vm.cancel(force=True)
        return
    data = vm.wait_event('BLOCK_JOB_ERROR')['data']
    assert data['operation'] == 'write' and data['device'] == 'drive0'
    if policy == 'report':
        vm.wait_completed(error='Input/output error')
        return
    vm.wait_ready()
    vm.complete(wait=False)


def test_041_set_speed(launch, images):
    test = images.create('test.img', 80 * MIB)
    images.io(test, 'write -P 1 0 32M')
    vm = launch().add_drive('blkdebug::' + test).start()
    target = images.adopt(images.path('target.img'))
    args = {'device': 'drive0', 'sync': 'full', 'target': target}
    vm.pause_drive('drive0')
    vm.qmp('drive-mirror', args)
    assert vm.job()['speed'] == 0
    vm.qmp('block-job-set-speed', device='drive0', speed=8 * MIB)
    assert vm.job()['speed'] == 8 * MIB
    vm.resume_drive('drive0')
    vm.wait_ready()
    assert vm.cancel()['len'] == 32 * MIB
    vm.pause_drive('drive0')
    vm.qmp('drive-mirror', dict(args, speed=4 * MIB))
    assert vm.job()['speed'] == 4 * MIB
    vm.cancel(force=True, resume=True)
    vm.fails('drive-mirror', dict(args, speed=-1),
             desc="Parameter 'speed' expects a non-negative value")
    vm.qmp('drive-mirror', args)
    vm.fails('block-job-set-speed', {'device': 'drive0', 'speed': -1},
             desc="Parameter 'speed' expects a non-negative value")
    vm.wait_ready()
    vm.cancel()


@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
def test_041_unbacked(launch, images, sync):
    test = images.create('test.img', 2 * MIB)
    vm = launch().add_drive(test).start()
    target = images.adopt(images.path('target.img'))
    vm.qmp('drive-mirror', {
        'device': 'drive0', 'sync': sync, 'target': target,
        'mode': 'absolute-paths'})
    vm.complete()
    image = inserted(vm)['image']
    assert image['filename'] == target
    backing = image.get('backing-image', {}).get('filename')
    assert backing == (test if sync == 'none' else None)


def test_041_granularity(launch, images):
    test = images.create('test.img', 10 * MIB)
    images.io(test, 'write 0 10M')
    vm = launch().add_drive(test).start()
    target = images.adopt(images.path('target.img'))
    vm.qmp('drive-mirror', {'device': 'drive0', 'sync': 'full',
                            'target': target, 'granularity': 8192})
    vm.complete()
    vm.stop()
    compare(test, target)


# quorum

@pytest.fixture
def quorum(launch, images):
    vm = launch()
    paths = [images.create(f'quorum{i}.img', MIB) for i in range(3)]
    for i, path in enumerate(paths):
        images.io(path, 'write -P 7 0 512k')
        vm.add_blockdev(f'driver=file,node-name=file{i},filename={path}')
        vm.add_blockdev(f'driver=qcow2,node-name=img{i},file=file{i}')
    vm.start()
    vm.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'quorum0', 'vote-threshold': 2,
        'children': ['img0', 'img1', 'img2']})
    vm.quorum, vm.repair = paths, images.path('repair.img')
    vm.args = {'job-id': 'job0', 'device': 'quorum0', 'sync': 'full',
               'node-name': 'repair0', 'replaces': 'img1',
               'target': vm.repair, 'format': 'qcow2'}
    return vm


def child_of(vm, node, child):
    if vm.is_qemu:
        return None
    for entry in vm.qmp('query-named-block-nodes'):
        if entry['node-name'] == node:
            return next(c['node-name'] for c in entry['children']
                        if c['child'] == child)
    return None


def nodes(vm):
    return {n['node-name'] for n in vm.qmp('query-named-block-nodes')}


def test_041_quorum_cancel(quorum):
    vm = quorum
    vm.qmp('drive-mirror', vm.args)
    vm.cancel('job0', force=True)
    assert 'repair0' not in nodes(vm)
    assert child_of(vm, 'quorum0', 'children.1') in ('img1', None)


def test_041_quorum_cancel_after_ready(quorum):
    vm = quorum
    vm.qmp('drive-mirror', vm.args)
    vm.wait_ready('job0')
    vm.cancel('job0')
    assert 'repair0' not in nodes(vm)
    vm.stop()
    compare(vm.quorum[0], vm.repair)


def test_041_quorum_pause(quorum):
    vm = quorum
    vm.qmp('drive-mirror', vm.args)
    vm.qmp('block-job-pause', device='job0')
    while not vm.job('job0')['paused'] or vm.job('job0')['busy']:
        pass
    vm.qmp('block-job-resume', device='job0')
    vm.complete('job0')
    vm.stop()
    compare(vm.quorum[0], vm.repair)


@pytest.mark.parametrize('change', [
    {'device': 'nonexistent'}, {'device': 'ide1-cd0'}, {'sync': None},
    {'node-name': None}, {'replaces': 'img77'},
    {'mode': 'existing', 'target': '/nonexistent/r'}])
def test_041_quorum_refused(quorum, change):
    args = dict(quorum.args, **change)
    quorum.fails('drive-mirror',
                 {k: v for k, v in args.items() if v is not None})


def test_041_quorum_after_snapshot(quorum, images):
    vm = quorum
    vm.qmp('blockdev-snapshot-sync', {
        'node-name': 'img1', 'snapshot-file': images.path('snap'),
        'snapshot-node-name': 'snap1'})
    vm.fails('drive-mirror', vm.args)
    vm.qmp('drive-mirror', dict(vm.args, replaces='snap1'))
    vm.complete('job0')
    assert 'repair0' in nodes(vm)
    assert child_of(vm, 'quorum0', 'children.1') in ('repair0', None)


def start_nbd(vm):
    vm.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': vm.path('sock')}})


def test_041_quorum_other_parents(quorum):
    vm = quorum
    start_nbd(vm)
    vm.qmp('nbd-server-add', device='img1')
    vm.fails('drive-mirror', vm.args, desc=(
        "Cannot replace 'img1' by a node mirrored from 'quorum0', because it "
        'cannot be guaranteed that doing so would not lead to an abrupt '
        'change of visible data'))


def test_041_quorum_other_parents_later(quorum):
    vm = quorum
    start_nbd(vm)
    vm.qmp('drive-mirror', vm.args)
    vm.qmp('nbd-server-add', device='img1')
    vm.wait_ready('job0')
    vm.qmp('block-job-complete', device='job0')
    vm.wait_completed('job0', error='Operation not permitted')
    assert child_of(vm, 'quorum0', 'children.1') in ('img1', None)
    vm.stop()
    log = re.sub(r'^Formatting.*\n', '', vm.output())
    log = re.sub(r'^(blockjobd|qemu-system-x86_64): ', '', log)
    assert log.rstrip('\n') == (
        "Can no longer replace 'img1' by 'repair0', because it can no longer "
        'be guaranteed that doing so would not lead to an abrupt change of '
        'visible data')


# nodes without a backend

@pytest.fixture
def orphaned(launch, images):
    paths = [images.create(f'{i}.img', MIB) for i in range(3)]
    vm = launch()
    for name, path in zip(('img0', 'src', 'dest'), paths):
        vm.add_blockdev(f'qcow2,node-name={name},file.driver=file,'
                        f'file.filename={path}')
    vm.start()
    return vm


def test_041_orphan(orphaned):
    vm = orphaned
    vm.fails('blockdev-mirror', {'device': 'src', 'sync': 'full',
                                 'target': 'dest'})
    vm.qmp('blockdev-mirror', {'job-id': 'job', 'device': 'src',
                               'sync': 'full', 'target': 'dest'})
    vm.complete('job')


def test_041_orphan_permissions(orphaned):
    vm = orphaned
    vm.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'dest-perm', 'image': 'dest',
        'unshare-child-perms': ['consistent-read']})
    vm.qmp('blockdev-mirror', {
        'job-id': 'job', 'device': 'src', 'sync': 'full', 'target': 'dest',
        'filter-node-name': 'mirror-filter'})
    vm.qmp('blockdev-add', {
        'driver': 'blkdebug', 'node-name': 'src-perm', 'image': 'src',
        'take-child-perms': ['consistent-read']})
    vm.wait_ready('job')
    vm.qmp('block-job-complete', device='job')
    vm.wait_completed('job', error='Operation not permitted')
    assert {'src', 'src-perm', 'dest', 'dest-perm'} <= nodes(vm)
    assert 'mirror-filter' not in nodes(vm)
    vm.stop()


def test_041_replace_filter(launch):
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'driver': 'copy-on-read', 'node-name': 'filter0', 'file': {
            'driver': 'copy-on-read', 'node-name': 'filter1',
            'file': {'driver': 'null-co', 'read-zeroes': True}}})
    vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'target',
                            'read-zeroes': True})
    vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'device': 'filter0', 'target': 'target',
        'sync': 'full', 'replaces': 'filter1'})
    vm.complete('mirror')
    assert child_of(vm, 'filter0', 'file') in ('target', None)


@pytest.fixture
def layers(launch, images):
    back = images.create('backing.img', MIB)
    test = images.create('test.img', MIB, backing=back)
    target = images.create('target.img', MIB)
    images.io(back, 'write -P 1 0 512k')
    images.io(test, 'write -P 2 512k 512k')
    vm = launch().add_device('virtio-scsi,id=vio-scsi').start()
    vm.qmp('blockdev-add', {
        'node-name': 'target', 'driver': 'qcow2', 'backing': None,
        'file': {'driver': 'file', 'filename': target}})
    vm.chain = {
        'node-name': 'source', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': test},
        'backing': {'node-name': 'backing', 'driver': 'qcow2',
                    'file': {'driver': 'file', 'filename': back}}}
    vm.paths = back, test, target
    return vm


def test_041_cor(layers, images):
    vm = layers
    vm.qmp('blockdev-add', {'node-name': 'filter', 'driver': 'copy-on-read',
                            'file': vm.chain})
    vm.qmp('blockdev-mirror', {'job-id': 'mirror', 'device': 'filter',
                               'target': 'target', 'sync': 'top'})
    vm.complete('mirror')
    vm.qmp('blockdev-del', {'node-name': 'target'})
    ranges = images.map(vm.paths[2])
    assert ranges[1]['start'] == 512 * KIB and ranges[1]['depth'] == 0
    assert not ranges[0].get('data') or ranges[0]['depth'] > 0


@pytest.mark.parametrize('named', [False, True])
def test_041_filter_seen(layers, named):
    vm = layers
    vm.qmp('blockdev-add', vm.chain)
    vm.qmp('device_add', {'driver': 'scsi-hd', 'id': 'virtio',
                          'bus': 'vio-scsi.0', 'drive': 'source'})
    args = {'job-id': 'mirror', 'device': 'source', 'target': 'target',
            'sync': 'top'}
    if named:
        args['filter-node-name'] = 'mirror-filter'
    vm.qmp('blockdev-mirror', args)
    entry = next(b for b in vm.qmp('query-block')
                 if b.get('qdev') == 'virtio')['inserted']
    assert entry['node-name'] == ('mirror-filter' if named else 'source')
    if not named:
        assert entry['image']['filename'] == vm.paths[1]
        assert entry['image']['backing-image']['filename'] == vm.paths[0]
    vm.complete('mirror')
