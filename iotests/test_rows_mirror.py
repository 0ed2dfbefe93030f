# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows on mirrors need of a machine: 041, 127,
129, 132, 151, 152, 155, 156, 218, 229, 235, 248, 312."""

import os
import time

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def paths(images):
    """A backing file, the disk over it, and where the copy goes."""
    back = images.create('back.qcow2', MIB)
    images.io(back, 'write -P 9 0 256k')
    disk = images.create('disk.qcow2', MIB, backing=back)
    images.io(disk, 'write -P 5 128k 64k')
    return back, disk, images.path('target.qcow2')


@pytest.fixture
def vm(launch, paths):
    return launch().add_drive(
        'blkdebug::' + paths[1], 'node-name=top,backing.node-name=base').start()


def mirror(vm, target, **options):
    arguments = {'device': 'drive0', 'sync': 'full', 'target': target}
    arguments.update({k.replace('_', '-'): v for k, v in options.items()})
    vm.qmp('drive-mirror', arguments)


def inserted(vm, index=0):
    return vm.qmp('query-block')[index]['inserted']


def test_041_complete(vm, paths, images):
    back, disk, target = paths
    images.adopt(target)
    mirror(vm, target)
    vm.complete(type='mirror')
    assert inserted(vm)['file'] == target
    vm.stop()
    images.identical(disk, target)


def test_041_cancel_before_ready(vm, paths, images):
    mirror(vm, images.adopt(paths[2]))
    vm.cancel(force=True)
    assert inserted(vm)['file'] == 'blkdebug::' + paths[1]


def test_041_cancel_after_ready(vm, paths, images):
    back, disk, target = paths
    images.adopt(target)
    mirror(vm, target)
    vm.wait_ready()
    data = vm.cancel()
    assert data['type'] == 'mirror' and data['offset'] == data['len']
    vm.stop()
    images.identical(disk, target)


def test_041_pause(vm, paths, images):
    back, disk, target = paths
    images.adopt(target)
    vm.pause_drive('drive0')
    mirror(vm, target)
    vm.qmp('block-job-pause', device='drive0')
    vm.resume_drive('drive0')
    deadline = time.monotonic() + 15
    while vm.job()['busy'] or vm.job()['status'] != 'paused':
        assert time.monotonic() < deadline
    offset = vm.job()['offset']
    time.sleep(0.1)
    assert vm.job()['offset'] == offset
    vm.qmp('block-job-resume', device='drive0')
    vm.complete()
    vm.stop()
    images.identical(disk, target)


@pytest.mark.parametrize('options', [
    {}, {'buf_size': 65536}, {'granularity': 512, 'buf_size': 512},
    {'sync': 'top'}])
def test_041_existing(vm, paths, images, options):
    """With small buffers, and onto an image with a backing file."""
    back, disk, target = paths
    images.create('target.qcow2', MIB, backing=back, cluster_size=65536)
    mirror(vm, target, mode='existing', **options)
    vm.complete()
    assert inserted(vm)['file'] == target
    vm.stop()
    images.identical(disk, target)


def test_041_implicit_node(vm, paths, images):
    """The job's filter is not seen."""
    images.adopt(paths[2])
    before = inserted(vm)['node-name']
    mirror(vm, paths[2])
    vm.wait_ready()
    assert inserted(vm)['node-name'] == before
    stats = vm.qmp('query-blockstats')[0]
    assert stats['node-name'] == 'top'
    vm.complete(wait=False)


def test_041_medium_not_found(launch, images):
    vm = launch().add_drive_raw('if=ide,id=drive1,media=cdrom').start()
    target = images.path('t')
    vm.fails('drive-mirror', {'device': 'drive1', 'sync': 'full',
                              'target': target})


def test_041_device_not_found(vm, images):
    vm.fails('drive-mirror', {'device': 'nonexistent', 'sync': 'full',
                              'target': images.path('t')})


@pytest.mark.parametrize('size', [2 * MIB, 512 * KIB])
def test_041_other_size(vm, paths, images, size):
    images.create('target.qcow2', size)
    mirror(vm, paths[2], mode='existing')
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert data['error'] == 'Source and target image have different sizes'


def test_041_granularity_refused(vm, images):
    for granularity in (500, 67108865):
        vm.fails('drive-mirror', {
            'device': 'drive0', 'sync': 'full', 'target': images.path('t'),
            'granularity': granularity})


@pytest.fixture
def quorum(launch, images):
    paths = [images.create(f'quorum{i}.img', MIB) for i in range(3)]
    for path in paths:
        images.io(path, 'write -P 7 0 512k')
    vm = launch().start()
    vm.quorum = paths
    nodes = []
    for i, path in enumerate(paths):
        vm.qmp('blockdev-add', {
            'node-name': f'img{i}', 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': path}})
        nodes.append(f'img{i}')
    vm.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'quorum0', 'vote-threshold': 2,
        'children': nodes})
    return vm


def test_041_repair_quorum(quorum, images):
    vm, target = quorum, images.adopt(images.path('repair.img'))
    vm.qmp('drive-mirror', {
        'job-id': 'job0', 'device': 'quorum0', 'sync': 'full',
        'node-name': 'repair0', 'replaces': 'img1', 'target': target,
        'format': 'qcow2'})
    vm.complete('job0')
    nodes = {n['node-name']: n for n in vm.qmp('query-named-block-nodes')}
    assert 'repair0' in nodes
    if not vm.is_qemu:      # 7.2 does not tell of children
        assert {'node-name': 'repair0', 'child': 'children.1'} in \
            nodes['quorum0']['children']
    vm.stop()
    images.identical(vm.quorum[0], target)


@pytest.mark.parametrize('options', [
    {'device': 'nonexistent'}, {'sync': 'top'}, {'replaces': 'img77'}])
def test_041_repair_refused(quorum, images, options):
    arguments = {'job-id': 'job0', 'device': 'quorum0', 'sync': 'full',
                 'node-name': 'repair0', 'replaces': 'img1',
                 'target': images.path('r'), 'format': 'qcow2'}
    arguments.update(options)
    if 'sync' in options:
        del arguments['node-name']
    quorum.fails('drive-mirror', arguments)


def test_041_pivot_refused(launch, images, paths):
    """Somebody else must not see the copy change: the job fails."""
    back, disk, target = paths
    target = images.create('t.qcow2', MIB)
    vm = launch().start()
    for name, path in (('source', disk), ('dest', target)):
        vm.qmp('blockdev-add', {
            'node-name': name, 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': path}})
    vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'device': 'source', 'target': 'dest',
        'sync': 'full'})
    vm.wait_ready('mirror')
    vm.qmp('block-job-complete', device='mirror')
    vm.wait_completed('mirror')


def test_127_iothread(launch, images):
    """A mirror of a disk in an iothread ends without waiting for it."""
    base = images.create('base.qcow2', 64 * MIB)
    top = images.create('top.qcow2', 64 * MIB, backing=base)
    target = images.create('target.qcow2', 64 * MIB, backing=base)
    images.io(top, 'write 0 42')
    vm = launch().add_object('iothread,id=iothr0')
    vm.add_device('virtio-scsi,id=scsi0,iothread=iothr0')
    vm.add_blockdev(f'qcow2,node-name=source,file.driver=file,'
                    f'file.filename={top}')
    vm.add_device('scsi-hd,id=scsi-hd0,drive=source,bus=scsi0.0')
    vm.start()
    vm.qmp('drive-mirror', {
        'job-id': 'mirror', 'device': 'source', 'target': target,
        'sync': 'top', 'format': 'qcow2', 'mode': 'existing'})
    vm.wait_ready('mirror')
    vm.qmp('block-job-complete', device='mirror')
    vm.wait_event('BLOCK_JOB_COMPLETED')


@pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
@pytest.mark.parametrize('command', [
    'drive-mirror', 'drive-backup', 'block-commit', 'block-stream'])
def test_129_stop(launch, images, command):
    """stop does not run a throttled job to its end."""
    base = images.create('base.img', 10 * 128 * MIB)
    disk = images.create('test.img', 10 * 128 * MIB, backing=base)
    for path in (base, disk):
        images.io(path, 'write -P 0x5d 1M 128M')
    vm = launch().add_object('throttle-group,id=tg0,x-bps-total=1024')
    vm.add_blockdev('throttle,node-name=source-drive,throttle-group=tg0,'
                    'file.driver=qcow2,file.node-name=fmt,'
                    f'file.file.driver=file,file.file.filename={disk}')
    vm.add_device('virtio-blk,drive=source-drive')
    vm.start()
    arguments = {'device': 'snap', 'job-id': 'j'}
    if command in ('drive-mirror', 'drive-backup'):
        arguments.update(device='source-drive', sync='full', format='qcow2',
                         target=images.path('target'))
        if command == 'drive-mirror':
            arguments['buf-size'] = 65536
        else:
            arguments['x-perf'] = {'max-chunk': 65536, 'max-workers': 8}
    else:
        vm.qmp('blockdev-snapshot-sync', {
            'node-name': 'source-drive', 'snapshot-file': images.path('snap'),
            'snapshot-node-name': 'snap', 'format': 'qcow2'})
        if command == 'block-commit':
            arguments['top-node'] = 'source-drive'
    vm.qmp(command, arguments)
    deadline = time.monotonic() + 1
    vm.qmp('stop')
    while time.monotonic() < deadline:
        job = vm.job('j')
        assert job and (job['busy'] or job['status'] == 'running')
        time.sleep(0.1)
    vm.qmp('block-job-cancel', device='j', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    if os.path.exists(images.path('target')):
        images.adopt(images.path('target'))


def test_132_discard(vm, paths, images):
    """The guest discards while the mirror runs."""
    back, disk, target = paths
    images.adopt(target)
    mirror(vm, target)
    vm.qemu_io('drive0', 'discard 0 64k')
    vm.complete()
    vm.stop()
    assert images.content(target)[:64 * KIB] in (
        bytes(64 * KIB), b'\x09' * 64 * KIB)


def test_152_tiny(launch, images):
    path = images.create('tiny', 512, fmt='raw')
    vm = launch().add_drive(path, image_format='raw').start()
    vm.qmp('drive-mirror', {
        'device': 'drive0', 'sync': 'full', 'target': images.path('t'),
        'format': 'raw'})
    vm.complete()
    assert vm.job() is None


@pytest.mark.parametrize('mode', ['absolute-paths', 'existing'])
@pytest.mark.parametrize('sync', ['full', 'top', 'none'])
def test_155_chain_after(launch, images, mode, sync):
    """What the target's backing file is when it is in place."""
    paths = [images.create('back0.img', MIB)]
    for i in (1, 2):
        paths.append(images.create(f'back{i}.img', MIB, backing=paths[-1]))
    target = images.path('target.img')
    vm = launch().add_device('virtio-scsi,id=vscsi')
    options = {'node-name': 'source', 'driver': 'qcow2',
               'file': {'driver': 'file', 'filename': paths[2]}}
    vm.start()
    vm.qmp('blockdev-add', options)
    vm.qmp('device_add', {'id': 'qdev', 'driver': 'scsi-hd',
                          'drive': 'source'})
    if mode == 'existing':
        images.create('target.img', MIB, backing=paths[1])
    else:
        images.adopt(target)
    vm.qmp('drive-mirror', {
        'job-id': 'mirror-job', 'device': 'source', 'target': target,
        'sync': sync, 'mode': mode, 'format': 'qcow2',
        'node-name': 'target'})
    vm.complete('mirror-job')
    blocks = {b['qdev']: b for b in vm.qmp('query-block')}
    image = blocks['qdev']['inserted']['image']
    assert image['filename'] == target
    backing = image.get('backing-image', {}).get('filename')
    wanted = {'full': None, 'top': paths[1], 'none': paths[2]}[sync]
    if mode == 'existing':
        wanted = paths[1]
    assert backing == wanted


def test_156_late_chain(launch, images):
    """The target's backing files appear while the mirror runs."""
    base = images.create('t.base', MIB)
    top = images.create('t', MIB, backing=base)
    images.io(base, 'write -P 1 0 256k')
    images.io(top, 'write -P 2 64k 192k')
    vm = launch().add_drive_raw(
        f'if=none,id=source,file={top},format=qcow2').start()
    overlay = images.path('t.overlay')
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'source', 'snapshot-file': overlay, 'format': 'qcow2',
        'mode': 'absolute-paths'})
    images.adopt(overlay)
    vm.qemu_io('source', 'write -P 3 128k 128k')
    target_overlay = images.path('t.target.overlay')
    run_tool('qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-b',
             images.path('t.target'), '-F', 'qcow2', target_overlay, '1M')
    vm.qmp('drive-mirror', {
        'device': 'source', 'target': target_overlay, 'sync': 'top',
        'mode': 'existing', 'format': 'qcow2'})
    vm.wait_ready('source')
    vm.qemu_io('source', 'write -P 4 192k 64k')
    target = images.create('t.target', MIB, backing=base)
    run_tool('cp', top, target)
    vm.qmp('block-job-complete', device='source')
    vm.wait_completed('source')
    assert inserted(vm)['image']['backing-image']['filename'] == target
    for pattern, offset in ((1, 0), (2, 64), (3, 128), (4, 192)):
        lines = vm.io_lines('source', f'read -P {pattern} {offset}k 64k')
        assert lines[0].startswith('read 65536/65536')


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('ready', [False, True])
def test_218_cancel_variants(launch, images, force, ready):
    vm = launch().start()
    for name in ('source', 'target'):
        vm.qmp('blockdev-add', {'driver': 'null-co', 'node-name': name,
                                'size': 1 * MIB})
    if not ready:
        vm.qmp('blockdev-mirror', {
            'job-id': 'mirror', 'device': 'source', 'target': 'target',
            'sync': 'full', 'speed': 65536, 'buf-size': 65536})
    else:
        vm.qmp('blockdev-mirror', {
            'job-id': 'mirror', 'device': 'source', 'target': 'target',
            'sync': 'full'})
        vm.wait_ready('mirror')
    vm.qmp('block-job-cancel', device='mirror', force=force)
    name = 'BLOCK_JOB_COMPLETED' if ready and not force \
        else 'BLOCK_JOB_CANCELLED'
    data = vm.wait_event(['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'])
    assert data['event'] == name
    if not ready:
        assert data['data']['offset'] == 65536
        assert data['data']['len'] == MIB


def test_229_cancel_of_stopped(launch, images):
    """A mirror that an error has stopped is cancelled by force."""
    vm = launch()
    source = images.create('s', 4 * MIB)
    target = images.create('t', 4 * MIB)
    config = images.path('conf')
    with open(config, 'w', encoding='ascii') as file:
        file.write('[inject-error]\nevent = "write_aio"\nonce = "on"\n')
    vm.add_drive_raw(f'if=none,id=testdisk,node-name=src,file={source},'
                     'format=qcow2')
    vm.add_blockdev(f'qcow2,node-name=dst,file.driver=blkdebug,'
                    f'file.config={config},file.image.driver=file,'
                    f'file.image.filename={target}')
    vm.start()
    vm.qemu_io('testdisk', 'write 0 2M')
    vm.qmp('blockdev-mirror', {
        'job-id': 'job0', 'device': 'testdisk', 'target': 'dst',
        'sync': 'full', 'on-target-error': 'stop'})
    vm.wait_event('BLOCK_JOB_ERROR')
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'paused'})
    vm.qmp('block-job-cancel', device='job0', force=True)
    vm.wait_event('BLOCK_JOB_CANCELLED')
    told = [m['data']['status'] for m in vm.mon.received
            if m.get('event') == 'JOB_STATUS_CHANGE']
    assert told[-2:] == ['running', 'aborting']


def test_312_quorum_zeroes(launch, images):
    """Zeroes of a quorum stay zeroes in the copy."""
    paths = [images.create(f'q{i}', 10 * MIB) for i in range(3)]
    for path in paths:
        images.io(path, 'write -P 0 0 1M', 'write -z 2M 1M',
                  'write -P 0xff 4M 1M')
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'quorum', 'vote-threshold': 2,
        'children': [{'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': path}} for path in paths]})
    target = images.adopt(images.path('copy'))
    vm.qmp('drive-mirror', {
        'job-id': 'mirror', 'device': 'quorum', 'target': target,
        'format': 'qcow2', 'sync': 'full'})
    vm.wait_ready('mirror')
    vm.qmp('block-job-complete', device='mirror')
    vm.wait_completed('mirror')
    vm.stop()
    images.identical(paths[0], target)
    data = [(e['start'], e['length']) for e in images.map(target)
            if e['data'] and not e['zero']]
    assert (4 * MIB, MIB) in data
    assert all(start < MIB or start >= 4 * MIB for start, _ in data)
