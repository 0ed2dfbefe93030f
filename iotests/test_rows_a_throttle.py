# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 093, 096 and 108: limits as the harness measures
them, at once when its clock has been stepped; images on host devices."""

import shutil
import subprocess

import pytest

from .images import run_tool

MIB = 1 << 20
NSEC = 10 ** 9
LIMITS = ('bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr')
RATES = {'bps': 4096, 'bps_rd': 4096, 'bps_wr': 4096, 'iops': 10,
         'iops_rd': 10, 'iops_wr': 10}
STEP = pytest.mark.ours(reason="Debian's QEMU cannot step its clock")
REQUEST = 512


def params(**given):
    return dict(dict.fromkeys(LIMITS, 0), **given)


def stats(vm, drive):
    for entry in vm.qmp('query-blockstats'):
        if entry['device'] == drive:
            s = entry['stats']
            return (s['rd_bytes'], s['rd_operations'], s['wr_bytes'],
                    s['wr_operations'])
    raise AssertionError(drive)


def configure(vm, n, limits):
    for i in range(n):
        args = dict(limits, device=f'drive{i}')
        if n > 1:
            args['group'] = 'test'
        vm.qmp('block_set_io_throttle', args)


def n_requests(limits, op, seconds, n):
    nr = max(limits['bps'] // REQUEST // 2, limits[f'bps_{op}'] // REQUEST,
             limits['iops'] // 2, limits[f'iops_{op}'])
    return nr * seconds * 2 // n


def measure(vm, n, seconds, limits):
    ns = seconds * NSEC
    vm.qtest.clock_step(ns)
    for word, op in (('aio_read', 'rd'), ('aio_write', 'wr')):
        for i in range(n_requests(limits, op, seconds, n)):
            for drive in range(n):
                vm.qemu_io(f'drive{drive}', f'{word} {i * REQUEST} {REQUEST}')
    before = [stats(vm, f'drive{i}') for i in range(n)]
    vm.qtest.clock_step(ns)
    after = [stats(vm, f'drive{i}') for i in range(n)]

    def check(limit, num, what):
        assert not limit or seconds * limit * 0.9 < num < \
            seconds * limit * 1.1, (what, limit, num / seconds)

    for start, end in zip(before, after):
        rd, rd_ops, wr, wr_ops = (e - s for s, e in zip(start, end))
        share = {k: v / n for k, v in limits.items() if k in LIMITS}
        check(share['bps'], rd + wr, 'bps')
        check(share['bps_rd'], rd, 'bps_rd')
        check(share['bps_wr'], wr, 'bps_wr')
        check(share['iops'], rd_ops + wr_ops, 'iops')
        check(share['iops_rd'], rd_ops, 'iops_rd')
        check(share['iops_wr'], wr_ops, 'iops_wr')
    vm.qtest.clock_step(ns)


@pytest.fixture(params=['null-aio://', 'null-co://'])
def vm(launch, request):
    machine = launch()
    for _ in range(3):
        machine.add_drive(request.param, 'file.read-zeroes=on',
                          image_format='raw')
    return machine.start()


@STEP
@pytest.mark.timeout(120)
@pytest.mark.parametrize('n', [1, 2, 3])
def test_093_all(vm, n):
    for key, rate in RATES.items():
        limits = params(**{key: rate * n})
        configure(vm, n, limits)
        measure(vm, n, 5, limits)


@STEP
@pytest.mark.timeout(120)
def test_093_burst(vm):
    for key, rate in RATES.items():
        burst, length = rate * 7, 4
        configure(vm, 1, params(**{key: rate, f'{key}_max': burst,
                                   f'{key}_max_length': length}))
        vm.qtest.clock_step(NSEC * length * burst // rate)
        measure(vm, 1, length, params(**{key: burst}))
        measure(vm, 1, 5, params(**{key: rate}))


@STEP
def test_093_remove_member(vm):
    configure(vm, 2, params(bps_rd=4096))
    vm.qemu_io('drive0', 'aio_read 0 4096')
    vm.qemu_io('drive0', 'aio_read 0 2048')
    vm.qemu_io('drive0', 'aio_read 0 2048')
    vm.qemu_io('drive1', 'aio_read 0 4096')
    assert stats(vm, 'drive0')[0] == 4096
    assert stats(vm, 'drive1')[0] == 0
    vm.qmp('block_set_io_throttle', dict(params(), device='drive0'))
    assert stats(vm, 'drive0')[0] == 8192
    assert stats(vm, 'drive1')[0] == 0
    for _ in range(5):
        vm.qtest.clock_step(NSEC)
    assert stats(vm, 'drive0')[0] == 8192
    assert stats(vm, 'drive1')[0] == 4096


@STEP
@pytest.mark.parametrize('seconds', [2])
def test_093_remove_member_one_step(vm, seconds):
    """drive1's request goes in the turn that drive0 leaves it."""
    configure(vm, 2, params(bps_rd=4096))
    vm.qemu_io('drive0', 'aio_read 0 4096')
    vm.qemu_io('drive0', 'aio_read 0 2048')
    vm.qemu_io('drive1', 'aio_read 0 4096')
    vm.qmp('block_set_io_throttle', dict(params(), device='drive0'))
    vm.qtest.clock_step(seconds * NSEC)
    assert stats(vm, 'drive1')[0] == 4096


def test_096_snapshot(launch, images):
    base = images.create('base.img', 100 * MIB)
    target = images.adopt(images.path('target.img'))
    vm = launch().add_drive(
        base, 'node-name=base,throttling.group=mygroup,'
        'throttling.iops-total=6000,throttling.iops-size=1024').start()

    def check(active):
        entry = vm.qmp('query-block')[0]['inserted']
        assert entry['node-name'] == active
        assert entry['group'] == 'mygroup'
        assert (entry['iops'], entry['iops_size']) == (6000, 1024)
        for node in vm.qmp('query-named-block-nodes'):
            assert node['iops'] == 0

    check('base')
    vm.qmp('blockdev-snapshot-sync', {
        'node-name': 'base', 'snapshot-node-name': 'target',
        'snapshot-file': target, 'format': 'qcow2'})
    check('target')


@pytest.mark.parametrize('arguments, text', [
    (['--export', 'nbd'], "Parameter 'id' is missing"),
    (['--export', 'nosuch'],
     "Parameter 'type' does not accept value 'nosuch'")])
@pytest.mark.ours(reason='asks our own daemon')
def test_108_probe(setup, arguments, text):
    done = subprocess.run([setup.blockjobd] + arguments, timeout=15,
                          capture_output=True, check=False)
    assert done.returncode == 1
    assert text in done.stderr.decode()


@pytest.fixture
def loop(images):
    path = images.create('on-disk', 64 * MIB, fmt='raw')
    if not shutil.which('losetup'):
        pytest.skip('no losetup')
    done = subprocess.run(['losetup', '--show', '-f', path], check=False,
                          capture_output=True)
    if done.returncode:
        pytest.skip('no loop device')
    device = done.stdout.decode().strip()
    yield device
    subprocess.run(['losetup', '-d', device], check=True)


def test_108_create_on_device(launch, loop):
    vm = launch().start()
    vm.qmp('blockdev-add', {'node-name': 'file', 'driver': 'host_device',
                            'filename': loop})
    vm.qmp('blockdev-create', {'job-id': 'create', 'options': {
        'driver': 'qcow2', 'file': 'file', 'size': 67108864,
        'cluster-size': 512}})
    while vm.qmp('query-jobs')[0]['status'] != 'concluded':
        pass
    assert 'error' not in vm.qmp('query-jobs')[0]
    vm.qmp('job-dismiss', id='create')
    vm.stop()
    run_tool('qemu-img', 'check', '-f', 'qcow2', loop)
