# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 040 and 095: block-commit of drives, case by case;
what test_rows_commit.py leaves out."""

import os

import pytest

from .images import qemu_img, run_tool

MIB = 1 << 20


def read_ok(path, *commands, fmt='qcow2'):
    args = [arg for command in commands for arg in ('-c', command)]
    assert 'verification failed' not in run_tool(
        'qemu-io', '-f', fmt, *args, path)


def wait_for_complete(vm, need_ready=False, job='drive0'):
    ready = False
    while True:
        event = vm.wait_event(['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_READY',
                               'BLOCK_JOB_CANCELLED', 'BLOCK_JOB_ERROR'])
        data = event['data']
        assert data['device'] == job and data['type'] == 'commit', event
        if event['event'] == 'BLOCK_JOB_READY':
            ready = True
            vm.qmp('block-job-complete', device=job)
            continue
        assert event['event'] == 'BLOCK_JOB_COMPLETED', event
        assert 'error' not in data, data
        assert data['speed'] == 0 and data['offset'] == data['len'], data
        assert ready == need_ready
        break
    while vm.qmp('query-block-jobs'):
        pass


@pytest.fixture(params=[MIB, 0])
def single(launch, images, request):
    """Also of no length at all."""
    size = request.param
    back = images.create('backing.img', size, fmt='raw')
    mid = images.create('mid.img', size, backing=back)
    test = images.create('test.img', size, backing=mid)
    if size:
        images.io(back, 'write -P 0xab 0 524288')
        images.io(mid, 'write -P 0xef 524288 524288')
    vm = launch().add_drive(
        test, 'node-name=top,backing.node-name=mid,'
        'backing.backing.node-name=base', interface='none')
    vm.add_device('virtio-scsi').add_device('scsi-hd,id=scsi0,drive=drive0')
    vm.paths, vm.size = (back, mid, test), size
    return vm.start()


def committed(vm):
    vm.stop()
    if vm.size:
        read_ok(vm.paths[0], 'read -P 0xab 0 524288',
                'read -P 0xef 524288 524288', fmt='raw')


def test_040_single(single):
    back, mid, test = single.paths
    single.qmp('block-commit', device='drive0', top=mid, base=back)
    wait_for_complete(single)
    committed(single)


def test_040_single_nodes(single):
    single.qmp('block-commit', {'device': 'drive0', 'top-node': 'mid',
                                'base-node': 'base'})
    wait_for_complete(single)
    committed(single)


@pytest.mark.parametrize('args', [
    {}, {'top': 'TEST', 'base': 'BACK'}, {'base': 'BACK'},
    {'top-node': 'top', 'base-node': 'base'}])
def test_040_active(single, args):
    back, mid, test = single.paths
    names = {'TEST': test, 'BACK': back}
    args = {k: names.get(v, v) for k, v in args.items()}
    single.qmp('block-commit', dict(args, device='drive0'))
    wait_for_complete(single, need_ready=True)
    committed(single)


def test_040_active_of_layer_above_base(single):
    """Only the topmost layer into the one below it."""
    back, mid, test = single.paths
    single.qmp('block-commit', device='drive0', top=test, base=mid)
    wait_for_complete(single, need_ready=True)
    single.stop()
    if single.size:
        read_ok(mid, 'read -P 0xef 524288 524288')


@pytest.mark.parametrize('first', ['filter', 'job'])
def test_040_filter_and_quit(single, first):
    """A throttle node beside the chain, then quit at once."""
    vm = single
    vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'tg'})
    add = {'driver': 'throttle', 'node-name': 'filter',
           'throttle-group': 'tg', 'file': 'mid'}
    if first == 'filter':
        vm.qmp('blockdev-add', add)
    vm.qmp('block-commit', device='drive0')
    if first == 'job':
        vm.qmp('blockdev-add', add)
    vm.stop()


@pytest.mark.parametrize('args, desc', [
    ({'top': 'BACK', 'base': 'BACK'}, "Can't find 'BACK' in the backing "
     'chain'),
    ({'top': 'badfile', 'base': 'BACK'}, 'Top image file badfile not found'),
    ({'top': 'MID', 'base': 'badfile'},
     "Can't find 'badfile' in the backing chain"),
    ({'top-node': 'badfile', 'base-node': 'base'},
     "Cannot find device='' nor node-name='badfile'"),
    ({'top-node': 'mid', 'base-node': 'badfile'},
     "Cannot find device='' nor node-name='badfile'"),
    ({'top-node': 'mid', 'top': 'MID', 'base-node': 'base'},
     "'top-node' and 'top' are mutually exclusive"),
    ({'top-node': 'mid', 'base-node': 'base', 'base': 'BACK'},
     "'base-node' and 'base' are mutually exclusive"),
    ({'top': 'BACK', 'base': 'MID'}, "Can't find 'MID' in the backing "
     'chain'),
    ({'top-node': 'base', 'base-node': 'top'},
     "'top' is not in this backing file chain"),
    ({'top-node': 'null', 'base-node': 'base'},
     "'null' is not in this backing file chain"),
])
def test_040_refused(single, args, desc):
    back, mid, test = single.paths
    single.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'null'})
    for name, path in (('BACK', back), ('MID', mid)):
        args = {k: path if v == name else v for k, v in args.items()}
        desc = desc.replace(name, path)
    single.fails('block-commit', dict(args, device='drive0'), desc=desc)
    assert single.qmp('query-block-jobs') == []


def test_040_unplug(single):
    """The job is slow, and cancelled when the device goes."""
    back, mid, test = single.paths
    if not single.size:
        return
    single.qmp('block-commit', {'device': 'drive0', 'top': mid, 'base': back,
                                'speed': single.size // 4})
    single.qmp('device_del', id='scsi0')
    seen = set()
    while not {'DEVICE_DELETED', 'BLOCK_JOB_CANCELLED'} <= seen:
        event = single.wait_event(['DEVICE_DELETED', 'BLOCK_JOB_CANCELLED',
                                   'BLOCK_JOB_COMPLETED', 'BLOCK_JOB_ERROR'])
        seen.add(event['event'])
        if event['event'] == 'DEVICE_DELETED':
            assert event['data']['device'] == 'scsi0'
    assert seen == {'DEVICE_DELETED', 'BLOCK_JOB_CANCELLED'}
    assert single.qmp('query-block-jobs') == []


def test_040_implicit_filter(single):
    back, mid, test = single.paths
    if not single.size:
        return
    single.qmp('block-commit', {'device': 'drive0', 'top': mid, 'base': back,
                                'speed': single.size // 8})
    inserted = single.qmp('query-block')[0]['inserted']
    assert inserted['file'] == test and inserted['drv'] == 'qcow2'
    assert inserted['backing_file'] == mid
    assert inserted['backing_file_depth'] == 2
    image = inserted['image']
    assert image['filename'] == test
    assert image['backing-image']['filename'] == mid
    assert image['backing-image']['backing-image']['filename'] == back
    stats = single.qmp('query-blockstats')[0]
    assert stats['node-name'] == 'top'
    assert stats['backing']['node-name'] == 'mid'
    assert stats['backing']['backing']['node-name'] == 'base'
    single.cancel(force=True)


@pytest.mark.parametrize('case', ['commit', 'active', 'missing', 'same',
                                  'badtop', 'badbase', 'reversed'])
def test_040_relative_paths(launch, directory, images, case):
    """Backing files named by relative paths, in three directories."""
    for name in ('dir1', 'dir2', 'dir3', 'dir1/dir2', 'dir1/dir3'):
        os.mkdir(os.path.join(directory, name))
    here = os.path.join(directory, 'dir1')
    test = os.path.join(here, 'test.img')
    mid, mid_abs = '../dir2/mid.img', os.path.join(directory, 'dir2/mid.img')
    back = '../dir3/backing.img'
    back_abs = os.path.join(directory, 'dir3/backing.img')
    qemu_img('create', '-q', '-f', 'raw', back_abs, '1M')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', back_abs, '-F', 'raw',
             mid_abs)
    qemu_img('create', '-q', '-f', 'qcow2', '-b', mid_abs, '-F', 'qcow2',
             test)
    qemu_img('rebase', '-u', '-b', back, '-F', 'raw', mid_abs)
    qemu_img('rebase', '-u', '-b', mid, '-F', 'qcow2', test)
    run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 0xab 0 512k', back_abs)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 0xef 512k 512k',
             mid_abs)
    vm = launch().add_drive(test).start()
    refused = {
        'missing': ({'device': 'nonexistent', 'top': mid, 'base': back}, None),
        'same': ({'top': mid, 'base': mid},
                 f"Can't find '{mid}' in the backing chain"),
        'badtop': ({'top': 'badfile', 'base': back},
                   'Top image file badfile not found'),
        'badbase': ({'top': mid, 'base': 'badfile'},
                    "Can't find 'badfile' in the backing chain"),
        'reversed': ({'top': back, 'base': mid},
                     f"Can't find '{mid}' in the backing chain"),
    }
    if case in refused:
        args, desc = refused[case]
        vm.fails('block-commit', dict({'device': 'drive0'}, **args),
                 desc=desc,
                 cls='DeviceNotFound' if case == 'missing' else 'GenericError')
        return
    top = test if case == 'active' else mid
    vm.qmp('block-commit', device='drive0', top=top, base=back)
    wait_for_complete(vm, need_ready=case == 'active')
    vm.stop()
    read_ok(back_abs, 'read -P 0xab 0 512k', 'read -P 0xef 512k 512k',
            fmt='raw')


def test_040_set_speed(launch, images):
    size = 80 * MIB
    back = images.create('backing.img', size)
    mid = images.create('mid.img', size, backing=back)
    test = images.create('test.img', size, backing=mid)
    images.io(test, 'write -P 0x1 0 512')
    images.io(mid, 'write -P 0xef 524288 524288')
    vm = launch().add_drive('blkdebug::' + test).start()
    vm.pause_drive('drive0')
    vm.qmp('block-commit', {'device': 'drive0', 'top': mid,
                            'speed': 1024 * 1024})
    assert vm.job()['speed'] == 1024 * 1024
    vm.cancel(force=True, resume=True)


def test_040_reopen_overlay(launch, images):
    paths = []
    for i in range(4):
        paths.append(images.create(f'{i}.img', MIB,
                                   backing=paths[-1] if paths else None))
    images.io(paths[1], 'write -P 0xab 0 128k')
    vm = launch().add_drive(paths[3]).start()
    vm.qmp('block-commit', device='drive0', top=paths[1], base=paths[0])
    wait_for_complete(vm)
    vm.stop()
    assert images.info(paths[2])['backing-filename'] == paths[0]


@pytest.fixture
def debugged(launch, images):
    """top <- mid <- base, each over a blkdebug node of its own."""
    size = 2 * MIB
    base = images.create('base', size)
    mid = images.create('mid', size, backing=base)
    top = images.create('top', size, backing=mid)
    images.io(base, 'write -P 0xba 0 2M')
    images.io(mid, 'write -P 0x11 0 512k')
    images.io(top, 'write -P 0x22 512k 512k')
    vm = launch().start()
    vm.paths = {'base': base, 'mid': mid, 'top': top}
    return vm


def start_job(vm, on_error, active, events):
    backing = None
    for name in ('base', 'mid', 'top'):
        inject = {'inject-error': [{'event': events[name], 'once': True}]} \
            if name in events else {}
        vm.qmp('blockdev-add', {
            'node-name': f'{name}-file', 'driver': 'file',
            'filename': vm.paths[name]})
        options = {
            'node-name': f'{name}-fmt', 'driver': 'qcow2', 'file': {
                'driver': 'blkdebug', 'node-name': f'{name}-dbg',
                'image': f'{name}-file', **inject}}
        options['backing'] = backing
        vm.qmp('blockdev-add', options)
        backing = f'{name}-fmt'
    args = {'job-id': 'job0', 'device': 'top-fmt', 'on-error': on_error,
            'base-node': 'base-fmt'}
    if not active:
        args['top-node'] = 'mid-fmt'
    vm.qmp('block-commit', args)


@pytest.mark.parametrize('where', [
    ('top', 'read_aio', True), ('mid', 'read_aio', True),
    ('base', 'write_aio', True), ('base', 'pwritev', True),
    ('mid', 'read_aio', False), ('base', 'write_aio', False),
    ('base', 'pwritev', False)])
@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop'])
def test_040_error_handling(debugged, images, where, policy):
    vm, (layer, event, active) = debugged, where
    start_job(vm, policy, active, {layer: event})
    seen, operation = [], 'read' if 'read' in event else 'write'
    while True:
        got = vm.wait_event(['BLOCK_JOB_ERROR', 'BLOCK_JOB_COMPLETED',
                             'BLOCK_JOB_READY'])
        name, data = got['event'], got['data']
        seen.append(name)
        assert data['device'] == 'job0'
        if name == 'BLOCK_JOB_ERROR':
            assert data == {'device': 'job0', 'action': policy,
                            'operation': operation}
            if policy == 'stop':
                while vm.job('job0')['status'] not in ('paused', 'standby'):
                    pass
                assert vm.job('job0')['io-status'] == 'failed'
                vm.qmp('block-job-resume', device='job0')
        elif name == 'BLOCK_JOB_READY':
            vm.qmp('block-job-complete', device='job0')
        else:
            break
    failed = policy == 'report'
    ready = ['BLOCK_JOB_READY'] if active and not failed else []
    assert seen == ['BLOCK_JOB_ERROR'] + ready + ['BLOCK_JOB_COMPLETED']
    assert data.get('error') == ('Input/output error' if failed else None)
    if not failed:
        assert data['offset'] == data['len']
    while vm.qmp('query-block-jobs'):
        pass
    vm.stop()
    if not failed:
        images.io(vm.paths['base'], 'read -P 0x11 0 512k',
                  f'read -P {"0x22" if active else "0xba"} 512k 512k',
                  'read -P 0xba 1M 1M')


@pytest.fixture
def filtered(launch, images):
    """top-filter, cow-3, cow-2, cow-1, bottom-filter, cow-0."""
    paths = []
    for i in range(4):
        paths.append(images.create(f'{i}.img', MIB))
        images.io(paths[i], f'write -P {i + 1} {i * 256}k 256k')
    vm = launch().add_device('virtio-scsi,id=vio-scsi').start()
    vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'tg'})

    def layer(i, backing=None):
        out = {'driver': 'qcow2', 'node-name': f'cow-{i}',
               'file': {'driver': 'file', 'filename': paths[i]}}
        if backing:
            out['backing'] = backing
        return out

    def throttle(name, below):
        return {'driver': 'throttle', 'node-name': name,
                'throttle-group': 'tg', 'file': below}

    vm.qmp('blockdev-add', throttle('top-filter', layer(3, layer(2, layer(
        1, throttle('bottom-filter', layer(0)))))))
    vm.paths, vm.holder = paths, list(paths)
    yield vm
    vm.stop()
    for i in range(4):
        images.io(vm.holder[i], f'read -P {i + 1} {i * 256}k 256k')


def nodes(vm):
    return {n['node-name'] for n in vm.qmp('query-named-block-nodes')}


def test_040_filterless(filtered):
    vm = filtered
    vm.qmp('block-commit', {
        'job-id': 'commit', 'device': 'top-filter', 'top-node': 'cow-2',
        'base-node': 'cow-1', 'backing-file': vm.paths[1]})
    vm.wait_completed('commit')
    assert {'cow-3', 'cow-1'} <= nodes(vm) and 'cow-2' not in nodes(vm)
    vm.holder[2] = vm.paths[1]


def test_040_through_filter(filtered):
    vm = filtered
    vm.qmp('block-commit', {
        'job-id': 'commit', 'device': 'top-filter', 'top-node': 'cow-1',
        'base-node': 'cow-0', 'backing-file': vm.paths[0]})
    vm.wait_completed('commit')
    assert {'cow-2', 'cow-0'} <= nodes(vm)
    assert not {'cow-1', 'bottom-filter'} & nodes(vm)
    vm.holder[1] = vm.paths[0]


def test_040_active_with_filter(filtered):
    vm = filtered
    vm.qmp('device_add', {'id': 'drv0', 'driver': 'scsi-hd',
                          'bus': 'vio-scsi.0', 'drive': 'top-filter'})
    vm.fails('blockdev-del', {'node-name': 'top-filter'},
             desc='Node top-filter is in use')
    vm.qmp('block-commit', {'job-id': 'commit', 'device': 'top-filter',
                            'base-node': 'cow-2'})
    vm.complete('commit')
    vm.qmp('blockdev-del', {'node-name': 'top-filter'})
    assert not {'top-filter', 'cow-3'} & nodes(vm)
    assert 'cow-2' in nodes(vm)
    drv0 = next(b for b in vm.qmp('query-block') if b.get('qdev') == 'drv0')
    assert drv0['inserted']['node-name'] == 'cow-2'
    vm.holder[3] = vm.paths[2]


def test_040_active_without_filter(filtered):
    vm = filtered
    vm.qmp('block-commit', {
        'job-id': 'commit', 'device': 'top-filter', 'top-node': 'cow-3',
        'base-node': 'cow-2'})
    vm.complete('commit')
    assert {'top-filter', 'cow-2'} <= nodes(vm) and 'cow-3' not in nodes(vm)
    vm.holder[3] = vm.paths[2]


@pytest.mark.parametrize('to', ['a', 'b'])
def test_040_overridden_backing(launch, images, to):
    base_a = images.create('base-a', MIB)
    base_b = images.create('base-b', MIB)
    top = images.create('top', MIB, backing=base_a)
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'node-name': 'top', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': top},
        'backing': {'node-name': 'base', 'driver': 'qcow2',
                    'file': {'driver': 'file', 'filename': base_b}}})
    args = {'job-id': 'commit', 'device': 'top',
            'base': base_a if to == 'a' else base_b}
    if to == 'a':
        vm.fails('block-commit', args,
                 desc=f"Can't find '{base_a}' in the backing chain")
    else:
        vm.qmp('block-commit', args)
        vm.complete('commit')
    vm.qmp('blockdev-del', {'node-name': 'top'})
