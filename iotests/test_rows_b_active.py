# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 151: guests' writes go to the target at once."""

import math
import subprocess
import time

import pytest

from .images import run_tool

MIB = 1 << 20
SECOND = 1000 ** 3
LENGTH = 128 * MIB


class Active:
    """A drive on blkdebug and a target."""

    def __init__(self, launch, images):
        self.images = images
        self.source = images.create('source.img', LENGTH)
        self.target = images.create('target.img', LENGTH)
        vm = launch()
        vm.add_drive_raw(
            'id=source,if=none,node-name=source-node,driver=qcow2,'
            'file.driver=blkdebug,file.image.driver=file,'
            f'file.image.filename={self.source}')
        vm.add_blockdev('node-name=target-node,driver=qcow2,'
                        f'file.driver=file,file.filename={self.target}')
        vm.add_device('virtio-blk,id=vblk,drive=source')
        self.vm = vm.start()

    def io(self, command):
        assert self.vm.qemu_io('source', command) == ''

    def mirror(self, **options):
        arguments = {'job-id': 'mirror', 'filter-node-name': 'mirror-node',
                     'device': 'source-node', 'target': 'target-node',
                     'sync': 'full', 'copy-mode': 'write-blocking'}
        for key, value in options.items():
            arguments[key.replace('_', '-')] = value
        self.vm.qmp('blockdev-mirror', arguments)

    def same(self):
        self.vm.stop()
        self.images.identical(self.source, self.target)


@pytest.fixture
def active(launch, images):
    return Active(launch, images)


@pytest.mark.parametrize('settle', [False, True])
def test_151_active_io(active, settle):
    active.io(f'write -P 1 0 {LENGTH}')
    eighth = LENGTH // 8

    def requests(start, pattern):
        for offset in range(start * eighth, (start + 2) * eighth, MIB):
            active.io(f'aio_write -P {pattern} {offset} 1M')
        for offset in range((start + 1) * eighth, (start + 2) * eighth, MIB):
            active.io(f'aio_write -z {offset} 1M')

    requests(1, 2)
    active.mirror()
    requests(3, 3)
    active.vm.wait_ready('mirror')
    requests(5, 3)
    if settle:
        active.io('aio_flush')
    active.vm.qmp('block-job-complete', device='mirror')
    active.vm.wait_completed('mirror')
    if settle:
        active.same()


def test_151_unaligned(active):
    active.io('write -P 1 0 2M')
    active.mirror(buf_size=MIB // 4)
    active.vm.wait_ready('mirror')
    active.io('write -P 2 1536 1024')
    active.io(f'write -P 3 {MIB - 512} 1024')
    active.vm.qmp('block-job-complete', device='mirror')
    active.vm.wait_completed('mirror')
    active.same()


def test_151_zeroes_and_discards(active):
    """Smaller than a granule: no dirt is left."""
    active.io('write -P 1 0 2M')
    active.mirror(buf_size=MIB // 4, speed=0)
    active.vm.wait_ready('mirror')
    active.io('write -z 1M 16k')
    active.io('discard 0 32k')
    job = active.vm.job('mirror')
    assert job['len'] == job['offset']
    assert active.vm.is_qemu or job['actively-synced']
    active.vm.qmp('block-job-complete', device='mirror')
    active.vm.wait_completed('mirror')
    active.same()


def test_151_intersecting(active):
    active.io('write -P 1 0 2M')
    active.mirror(speed=1)
    while not active.vm.job('mirror')['offset']:
        pass        # the job's own first copy is not to be among them
    active.io('break write_aio A')
    active.io('aio_write 0 1M')
    active.io('wait_break A')
    active.io('aio_write 0 2M')
    active.io('aio_write 0 2M')
    active.io('break write_aio B')
    active.io('aio_write 1M 2M')
    active.io('wait_break B')
    active.io('resume A')
    active.io('resume B')
    active.vm.qmp('block-job-set-speed', device='mirror', speed=0)
    active.vm.complete('mirror')
    active.io('aio_flush')


class Throttled:
    """A throttled source that others write to over NBD."""

    def __init__(self, launch, images, iops):
        self.iops = iops
        self.processes = []
        source = images.create('source.img', LENGTH)
        target = images.create('target.img', LENGTH)
        self.vm = vm = launch().start()
        vm.qmp('object-add', {
            'qom-type': 'throttle-group', 'id': 'thrgr',
            'limits': {'iops-total': iops, 'iops-total-max': iops}})
        vm.qmp('blockdev-add', {
            'node-name': 'source-node', 'driver': 'throttle',
            'throttle-group': 'thrgr', 'file': {
                'driver': 'qcow2',
                'file': {'driver': 'file', 'filename': source}}})
        vm.qmp('blockdev-add', {
            'node-name': 'target-node', 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': target}})
        vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
            'path': vm.nbd_path}})
        vm.qmp('block-export-add', {
            'id': 'exp0', 'type': 'nbd', 'node-name': 'source-node',
            'writable': True})
        self.url = f'nbd+unix:///source-node?socket={vm.nbd_path}'

    def spawn(self, *argv):
        self.processes.append(subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def remaining(self):
        job = self.vm.qmp('query-jobs')[0]
        return job['total-progress'] - job['current-progress']

    def settle(self):
        vm = self.vm
        while self.processes:
            process = self.processes.pop()
            while process.poll() is None:
                vm.qtest.clock_step(SECOND)
        for job in vm.qmp('query-jobs'):
            vm.qmp('block-job-cancel', device=job['id'], force=True)
        while vm.qmp('query-jobs'):
            vm.qtest.clock_step(SECOND)


@pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
def test_151_under_load(launch, images):
    """The copy gets on although guests use the source up."""
    t = Throttled(launch, images, 16)
    vm = t.vm
    vm.qemu_io('source-node', f'aio_write -P 1 0 {LENGTH // 2}')
    vm.qtest.clock_step(SECOND)
    vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'filter-node-name': 'mirror-node',
        'device': 'source-node', 'target': 'target-node', 'sync': 'full',
        'copy-mode': 'write-blocking', 'buf-size': 65536})
    offset = LENGTH // 2

    def load(seconds):
        nonlocal offset
        for _ in range(seconds * t.iops):
            t.spawn('qemu-io', '-f', 'raw', t.url, '-c',
                    f'write -P 42 {offset} 4096')
            offset += 4096

    def step(seconds):
        for _ in range(seconds * t.iops):
            vm.qtest.clock_step(math.ceil(SECOND / t.iops))

    load(5)
    step(4)
    before = t.remaining()
    load(10)
    step(5)
    after = t.remaining()
    t.settle()
    assert after < before


@pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
def test_151_on_creation(launch, images):
    t = Throttled(launch, images, 1024)
    t.spawn('qemu-img', 'bench', '-w', '-d', '1024', '-f', 'raw', '-c',
            str(t.iops * 2), t.url)
    time.sleep(1)       # as long as the row gives it
    t.vm.qtest.clock_step(SECOND)
    t.vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'filter-node-name': 'mirror-node',
        'device': 'source-node', 'target': 'target-node', 'sync': 'full',
        'copy-mode': 'write-blocking'})
    t.settle()


def test_132_compare(launch, images):
    """The whole images agree after a discard during the mirror."""
    source = images.create('test.img', 2 * MIB)
    images.io(source, 'write -P 0x5d 0 64k', 'write -P 0xd5 1M 32k')
    target = images.path('target.img')
    vm = launch().add_drive(source).start()
    vm.qmp('drive-mirror', {
        'device': 'drive0', 'sync': 'full', 'target': target,
        'format': 'qcow2'})
    vm.qemu_io('drive0', 'discard 0 64k')
    vm.complete()
    assert vm.qmp('query-block')[0]['inserted']['image'][
        'filename'] == target
    vm.stop()
    images.adopt(target)
    images.identical(source, target)
    assert 'Pattern' not in run_tool('qemu-io', '-f', 'qcow2', '-c',
                                     'read -P 0xd5 1M 32k', target)
