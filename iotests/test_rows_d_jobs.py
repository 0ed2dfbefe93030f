# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows 255, 256, 258, 260, 264, 274: jobs whose ends meet
requests, drains, other jobs and lost servers."""

import os
import subprocess
import time

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


def run_job(vm, job, finalize=None, dismiss=False):
    """Follow a job to its end.  FINALIZE: what to do while it is pending, for
    jobs with auto-finalize=false."""
    while True:
        status = vm.wait_event('JOB_STATUS_CHANGE',
                               {'id': job})['data']['status']
        if status == 'ready':
            vm.qmp('job-complete', id=job)
        elif status == 'pending' and finalize:
            finalize()
            vm.qmp('job-finalize', id=job)
        elif status == 'concluded' and dismiss:
            vm.qmp('job-dismiss', id=job)
        elif status == 'null':
            return


# 255: a job's end with requests in flight

@pytest.mark.parametrize('finalize', [True, False])
def test_255_commit_with_background_reads(launch, images, finalize):
    """Reads wait in a throttled base when a commit takes the layer out."""
    size = 128 * MIB
    base = images.create('base', size, fmt='raw')
    mid = images.create('mid', size)
    top = images.create('top', size)
    vm = launch().add_object('throttle-group,x-bps-read=4096,id=throttle0')
    vm.add_blockdev(f'file,filename={base},node-name=base')
    vm.add_blockdev('throttle,throttle-group=throttle0,file=base,'
                    'node-name=throttled')
    vm.add_blockdev(f'file,filename={mid},node-name=mid-file')
    vm.add_blockdev('qcow2,file=mid-file,node-name=mid,backing=throttled')
    vm.add_drive_raw(f'if=none,id=overlay,driver=qcow2,file={top},'
                     'node-name=top,backing=mid')
    vm.start()

    def start_requests():
        for _ in range(3):
            assert vm.qemu_io('overlay', 'aio_read 0 4k') == ''

    start_requests()
    vm.qmp('block-commit', {'job-id': 'job0', 'auto-finalize': not finalize,
                            'device': 'overlay', 'top-node': 'mid'})
    run_job(vm, 'job0', finalize and start_requests)
    assert vm.qmp('query-block-jobs') == []
    vm.stop()
    done = vm.output().count('read 4096/4096 bytes at offset 0')
    assert done == (6 if finalize else 3), vm.output()


@pytest.mark.parametrize('kind', ['mirror', 'backup'])
def test_255_quit_while_cancelling(launch, images, kind):
    """The machine ends while a job waits for what it has begun."""
    source = images.create('src', MIB)
    target = images.create('dst', MIB)
    images.io(source, 'write 0 1M')
    vm = launch().add_object('throttle-group,x-bps-write=4096,id=tg')
    vm.start()
    vm.qmp('blockdev-add', {'node-name': 'src', 'driver': 'qcow2', 'file': {
        'driver': 'file', 'filename': source}})
    vm.qmp('blockdev-add', {'node-name': 'target', 'driver': 'qcow2',
                            'file': {'driver': 'throttle',
                                     'throttle-group': 'tg', 'file': {
                                         'driver': 'file',
                                         'filename': target}}})
    vm.qmp(f'blockdev-{kind}', {'job-id': 'job', 'device': 'src',
                                'target': 'target', 'sync': 'full'})
    vm.qmp('block-job-cancel', device='job', force=True)
    before = time.monotonic()
    vm.qmp('quit')
    vm.wait_exit()
    assert time.monotonic() - before < 5


# 256: backups across iothreads

def test_256_backups_across_iothreads(launch, images):
    disks = [images.create(f'img{i}', 64 * MIB) for i in range(2)]
    vm = launch()
    for i in range(2):
        vm.add_object(f'iothread,id=iothread{i}')
        vm.add_device(f'virtio-scsi,id=scsi{i},iothread=iothread{i}')
    for i, path in enumerate(disks):
        vm.add_drive(path, interface='none')
        vm.add_device(f'scsi-hd,id=device{i},drive=drive{i},bus=scsi{i}.0')
    vm.start()

    def create_target(name):
        path = images.adopt(images.path(name))
        for job, options in (
                ('job1', {'driver': 'file', 'filename': path, 'size': 0}),
                ('job2', {'driver': 'qcow2', 'file': f'file_{name}',
                          'size': 64 * MIB})):
            vm.qmp('blockdev-create', {'job-id': job, 'options': options})
            run_job(vm, job, dismiss=True)
            if job == 'job1':
                vm.qmp('blockdev-add', {
                    'driver': 'file', 'node-name': f'file_{name}',
                    'filename': path})
        vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': name,
                                'file': f'file_{name}'})
        return path

    def transaction(actions):
        vm.qmp('transaction', actions=actions)
        jobs = [a['data']['job-id'] for a in actions
                if a['type'] == 'blockdev-backup']
        for job in jobs:
            vm.wait_event('BLOCK_JOB_COMPLETED', {'device': job})
        for job in jobs:
            vm.wait_event('JOB_STATUS_CHANGE', {'id': job, 'status': 'null'})

    def write():
        for i in range(2):
            for pattern, offset in ((0x5d, '0'), (0xd5, '1M'), (0xdc, '32M'),
                                    (0xcd, '0x3ff0000')):
                text = f'write -P{pattern + i:#x} {offset} 64k'
                assert 'wrote' in vm.io_lines(f'drive{i}', text)[0]

    write()
    full = [create_target(f'img{i}-full') for i in range(2)]
    transaction([{'type': 'block-dirty-bitmap-add', 'data': {
        'node': f'drive{i}', 'name': f'bitmap{i}'}} for i in range(2)] + [{
        'type': 'blockdev-backup', 'data': {
        'job-id': f'j{i}', 'device': f'drive{i}', 'sync': 'full',
        'target': f'img{i}-full'}} for i in range(2)])
    for i in range(2):
        assert 'wrote' in vm.io_lines(
            f'drive{i}', 'write -P0xab 0x00f8000 64k')[0]
    incr = [create_target(f'img{i}-incr') for i in range(2)]
    transaction([{'type': 'blockdev-backup', 'data': {
        'job-id': f'j{i}', 'device': f'drive{i}', 'sync': 'incremental',
        'bitmap': f'bitmap{i}', 'target': f'img{i}-incr'}}
                 for i in range(2)])
    vm.stop()
    for i in range(2):
        run_tool('qemu-img', 'rebase', '-u', '-b', full[i], '-F', 'qcow2',
                 '-f', 'qcow2', incr[i])
        images.identical(disks[i], incr[i])


# 258: a commit and a stream beside each other

def node(name, path, backing=None, throttle=None, fmt='qcow2'):
    file = {'driver': 'file', 'filename': path}
    if throttle:
        file = {'driver': 'throttle', 'throttle-group': throttle,
                'file': file}
    made = {'node-name': name, 'driver': fmt, 'file': file}
    if backing:
        made['backing'] = backing
    return made


@pytest.mark.parametrize('write_to_stream_node', [
    pytest.param(True, marks=pytest.mark.xfail(
        strict=False, reason='a drain before the first copy is in flight '
        'leaves the second one to a clock that stands still')), False])
def test_258_concurrent_finish(launch, images, write_to_stream_node):
    """A stream of node3 down to a commit's filter, the commit of node1 into
    node0: whoever ends first drains the other, which ends within."""
    paths = [images.create('node0', 64 * MIB, fmt='raw')]
    for i in range(1, 5):
        paths.append(images.create(f'node{i}', 64 * MIB))
    stream_throttle = commit_throttle = None
    if write_to_stream_node:
        images.io(paths[2], 'write 65344K 64K', 'write 65472K 64K')
        stream_throttle = 'tg'
    else:
        images.io(paths[1], 'write 65472K 64K')
        commit_throttle = 'tg'
    vm = launch().start()
    vm.qmp('object-add', {
        'qom-type': 'throttle-group', 'id': 'tg',
        'limits': {'iops-write': 1, 'iops-write-max': 1}})
    vm.qmp('blockdev-add', node(
        'node4', paths[4], node(
            'node3', paths[3], node(
                'node2', paths[2], node(
                    'node1', paths[1], node(
                        'node0', paths[0], throttle=commit_throttle,
                        fmt='raw'))), stream_throttle)))
    vm.qmp('block-commit', {
        'job-id': 'commit', 'device': 'node4', 'top-node': 'node1',
        'base-node': 'node0', 'filter-node-name': 'commit-filter',
        'auto-finalize': False})
    vm.qmp('block-stream', {
        'job-id': 'stream', 'device': 'node3', 'base-node': 'commit-filter'})
    left = {'commit', 'stream'}
    while left:
        data = vm.wait_event('JOB_STATUS_CHANGE')['data']
        if data['status'] == 'pending' and data['id'] == 'commit':
            vm.qmp('job-finalize', id='commit')
        elif data['status'] == 'null':
            left.remove(data['id'])
            done = vm.wait_event('BLOCK_JOB_COMPLETED',
                                 {'device': data['id']})['data']
            assert 'error' not in done
            assert done['len'] == done['offset'] == 64 * MIB
    graph = vm.qmp('x-debug-query-block-graph')
    ids = {n['name']: n['id'] for n in graph['nodes']}
    backing = [e['child'] for e in graph['edges'] if e['name'] == 'backing'
               and e['parent'] == ids['node3']]
    assert backing == [ids['node0']]
    assert 'commit-filter' not in ids
    vm.stop()
    for path in paths[1:]:
        images.ignore(path)


# 260: bitmaps and a snapshot for a while

@pytest.mark.parametrize('persistent,restart', [
    (False, False), (True, False), (True, True)])
def test_260_temporary_snapshot(launch, images, persistent, restart):
    base = images.create('base', 64 * MIB)
    top = images.path('top')
    vm = launch().add_drive(base).start()

    def dirty():
        found = vm.qmp('query-block')[0]['inserted'].get('dirty-bitmaps', [])
        return [(b['name'], b['count'] // (64 * KIB)) for b in found]

    vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0',
           persistent=persistent)
    vm.qemu_io('drive0', 'write 0 64K')
    assert dirty() == [('bitmap0', 1)]
    vm.qmp('blockdev-snapshot-sync', {
        'device': 'drive0', 'snapshot-file': top, 'format': 'qcow2'})
    images.adopt(top)
    vm.qemu_io('drive0', 'write 64K 512')
    assert dirty() == []
    if restart:
        vm.stop()
        vm = launch().add_drive(top).start()
    vm.qmp('block-commit', device='drive0', top=top)
    ready = vm.wait_ready()
    assert ready == {'device': 'drive0', 'len': 64 * KIB, 'offset': 64 * KIB,
                     'speed': 0, 'type': 'commit'}
    vm.qmp('block-job-complete', device='drive0')
    done = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert done == ready
    assert dirty() == [('bitmap0', 2)]
    vm.qemu_io('drive0', 'write 128K 64K')
    assert dirty() == [('bitmap0', 3)]
    vm.stop()
    assert 'rror' not in vm.output()


# 264: the server of the target goes

@pytest.fixture
def reconnect(launch, images, setup):
    class World:
        size = 5 * MIB

        def __init__(self):
            self.disk = images.create('disk_a', self.size)
            self.target = images.create('disk_b', self.size)
            self.sock = images.path('nbd-sock')
            self.vm = launch().add_drive(self.disk).start()
            self.vm.qemu_io('drive0', f'write 0 {self.size}')
            self.proc = None

        def serve(self):
            self.proc = subprocess.Popen(
                ['qemu-nbd', '-k', self.sock, '-f', 'qcow2', '--persistent',
                 self.target])
            while not os.path.exists(self.sock):
                assert self.proc.poll() is None
                time.sleep(0.01)

        def kill(self):
            self.proc.kill()
            self.proc.wait()
            if os.path.exists(self.sock):
                os.unlink(self.sock)

        def start(self, command):
            self.serve()
            self.vm.qmp('blockdev-add', {
                'node-name': 'backup0', 'driver': 'raw', 'file': {
                    'driver': 'nbd', 'reconnect-delay': 10, 'server': {
                        'type': 'unix', 'path': self.sock}}})
            self.vm.qmp(command, {
                'device': 'drive0', 'sync': 'full', 'target': 'backup0',
                'speed': MIB})
            limit = time.monotonic() + 10
            while self.vm.job()['offset'] == 0:
                assert time.monotonic() < limit
                time.sleep(0.05)
            self.kill()
            # Whatever it is at now waits for the server.
            self.vm.qmp('block-job-set-speed', device='drive0', speed=0)

    world = World()
    yield world
    if world.proc and world.proc.poll() is None:
        world.kill()


@pytest.mark.parametrize('command', ['blockdev-backup', 'blockdev-mirror'])
def test_264_reconnect(reconnect, images, command):
    reconnect.start(command)
    reconnect.serve()
    vm = reconnect.vm
    if command == 'blockdev-mirror':
        vm.wait_ready()
        vm.qmp('block-job-cancel', device='drive0')
    done = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert done['offset'] == reconnect.size
    vm.qmp('blockdev-del', {'node-name': 'backup0'})
    images.allow_leaks(reconnect.target)
    vm.stop()


@pytest.mark.parametrize('command', ['blockdev-backup', 'blockdev-mirror'])
def test_264_prompt_cancel(reconnect, images, command):
    reconnect.start(command)
    images.allow_leaks(reconnect.target)
    vm = reconnect.vm
    before = time.monotonic()
    vm.qmp('block-job-cancel', device='drive0', force=True)
    vm.wait_event('BLOCK_JOB_CANCELLED')
    assert time.monotonic() - before < 5
    vm.stop()


# 274: a layer shorter than the others

@pytest.fixture
def short_chain(launch, images):
    base = images.create('base', 2 * MIB)
    mid = images.create('mid', MIB, backing=base)
    top = images.create('top', 2 * MIB, backing=mid)
    images.io(base, 'write -P 1 0 2M')
    vm = launch().add_blockdev(f'file,filename={base},node-name=base-file')
    vm.add_blockdev('qcow2,file=base-file,node-name=base')
    vm.add_blockdev(f'file,filename={mid},node-name=mid-file')
    vm.add_blockdev('qcow2,file=mid-file,node-name=mid,backing=base')
    vm.add_drive(top, 'backing=mid,node-name=top')
    vm.paths = base, mid, top
    return vm.start()


def judge_274(vm, images, into):
    """The image committed into shows what the top showed."""
    path = vm.paths[into]
    images.io(path, 'read -P 1 0 1M', 'read -P 0 1M 1M')
    info = images.info(path)
    assert info['virtual-size'] == 2 * MIB
    if into:
        assert info['full-backing-filename'] == vm.paths[0]
    assert 'ailed' not in vm.output()


def test_274_hmp_commit(short_chain, images):
    vm = short_chain
    assert vm.hmp('commit drive0') == ''
    vm.stop()
    judge_274(vm, images, 1)


def test_274_active_commit(short_chain, images):
    vm = short_chain
    vm.qmp('block-commit', {'device': 'top', 'base-node': 'mid',
                            'job-id': 'job0', 'auto-dismiss': False})
    ready = vm.wait_ready('job0')
    assert ready == {'device': 'job0', 'len': 0, 'offset': 0, 'speed': 0,
                     'type': 'commit'}
    vm.qmp('job-complete', id='job0')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'job0', 'status': 'concluded'})
    vm.qmp('job-dismiss', id='job0')
    vm.stop()
    judge_274(vm, images, 1)


def test_274_commit_of_top_and_mid(short_chain, images):
    vm = short_chain
    vm.qmp('block-commit', {'device': 'top', 'base-node': 'base',
                            'job-id': 'job0', 'auto-dismiss': False})
    ready = vm.wait_ready('job0')
    assert ready == {'device': 'job0', 'len': MIB, 'offset': MIB,
                     'speed': 0, 'type': 'commit'}
    vm.qmp('job-complete', id='job0')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'job0', 'status': 'concluded'})
    vm.qmp('job-dismiss', id='job0')
    vm.stop()
    judge_274(vm, images, 0)


def test_274_resize(launch, images):
    """block_resize of a layer grown beyond a longer base: no old data."""
    base = images.create('base', 10 * MIB)
    images.io(base, 'write -P 1 9M 64k')
    top = images.create('top', 5 * MIB, backing=base)
    vm = launch().add_drive(top).start()
    vm.qmp('block_resize', device='drive0', size=15 * MIB)
    assert vm.io_lines('drive0', 'read -P 0 9M 64k')[0].startswith('read')
    vm.stop()
    images.io(top, 'read -P 0 5M 10M')
    assert 'erification' not in vm.output()
