# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows of the named tests that need no device: what they
do with drives, HMP's qemu-io and a plain machine."""

import os

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20


def test_commit_zero_blocks(launch, images):
    """Zero clusters over data become zeroes in the base."""
    base = images.create('base', MIB)
    images.io(base, 'write -P 0x11 0 1M')
    snap = images.create('snap', MIB, backing=base)
    images.io(snap, 'write -z 0 1M')
    vm = launch().add_drive_raw(
        f'if=none,id=drive0,file={snap},format=qcow2').start()
    vm.qmp('block-commit', {'device': 'drive0', 'job-id': 'job0'})
    data = vm.wait_event('BLOCK_JOB_READY')['data']
    assert data['len'] == data['offset'] == MIB
    vm.qmp('block-job-complete', device='job0')
    vm.wait_completed('job0')
    vm.stop()
    images.io(base, 'read -P 0 0 1M')


def cbw(vm, images, policy, timeout=None):
    options = {'on-cbw-error': policy}
    if timeout:
        options['cbw-timeout'] = timeout
    source = images.create('source', MIB)
    target = images.create('target', MIB)
    images.io(source, 'write -P 1 0 1M')
    vm.qmp('blockdev-add', dict({
        'node-name': 'cbw', 'driver': 'copy-before-write',
        'target': {'driver': 'qcow2', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': target},
            'inject-error': [{'event': 'write_aio', 'errno': 5,
                              'immediately': False, 'once': True}]}},
        'file': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': source}}}, **options))
    vm.qmp('blockdev-add', {'node-name': 'access',
                            'driver': 'snapshot-access', 'file': 'cbw'})


@pytest.mark.parametrize('policy', ['break-snapshot', 'break-guest-write'])
def test_copy_before_write(launch, images, policy):
    vm = launch(machine='none', qtest=False).start()
    cbw(vm, images, policy)
    out = []
    for device, command in (('cbw', 'write 0 1M'), ('access', 'read 0 1M'),
                            ('cbw', 'write 0 1M'), ('access', 'read 0 1M')):
        assert vm.qemu_io(device, command) == ''
    out = [line for line in vm.output().splitlines() if 'ops' not in line]
    wrote = 'wrote 1048576/1048576 bytes at offset 0'
    read = 'read 1048576/1048576 bytes at offset 0'
    assert out == {
        'break-snapshot': [wrote, 'read failed: Permission denied', wrote,
                           'read failed: Permission denied'],
        'break-guest-write': ['write failed: Input/output error', read,
                              wrote, read]}[policy]


@pytest.mark.parametrize('policy', ['break-snapshot', 'break-guest-write'])
def test_copy_before_write_timeout(launch, images, policy):
    """A target that a limit has all but stopped."""
    vm = launch(machine='none', qtest=False).start()
    vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'group0',
                          'limits': {'bps-write': 300 * KIB}})
    source = images.create('source', MIB)
    target = images.create('target', MIB)
    images.io(source, 'write -P 1 0 1M')
    vm.qmp('blockdev-add', {
        'node-name': 'cbw', 'driver': 'copy-before-write',
        'on-cbw-error': policy, 'cbw-timeout': 1,
        'target': {'driver': 'throttle', 'throttle-group': 'group0',
                   'file': {'driver': 'qcow2', 'file': {
                       'driver': 'file', 'filename': target}}},
        'file': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': source}}})
    vm.qmp('blockdev-add', {'node-name': 'access',
                            'driver': 'snapshot-access', 'file': 'cbw'})
    vm.qemu_io('cbw', 'write 0 512K')
    vm.qemu_io('cbw', 'write 512K 512K')
    vm.qemu_io('access', 'read 0 1M')
    out = [line for line in vm.output().splitlines() if 'ops' not in line]
    assert out == {
        'break-snapshot': ['wrote 524288/524288 bytes at offset 0',
                           'wrote 524288/524288 bytes at offset 524288',
                           'read failed: Permission denied'],
        'break-guest-write': ['wrote 524288/524288 bytes at offset 0',
                              'write failed: Connection timed out',
                              'read 1048576/1048576 bytes at offset 0'],
    }[policy]


@pytest.mark.parametrize('resume', [False, True])
def test_mirror_ready_cancel_error(launch, images, resume):
    """A flush that fails after a cancel of a ready mirror."""
    vm = launch().start()
    source = images.create('source', MIB)
    images.io(source, 'write -P 1 0 64k')
    target = images.create('target', MIB)
    vm.qmp('blockdev-add', {
        'node-name': 'source', 'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': source}})
    vm.qmp('blockdev-add', {
        'node-name': 'target', 'driver': 'qcow2', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': target},
            'set-state': [{'event': 'flush_to_disk', 'state': 1,
                           'new_state': 2}],
            'inject-error': [{'event': 'flush_to_disk', 'once': True,
                              'immediately': True, 'state': 2}]}})
    vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'device': 'source', 'target': 'target',
        'filter-node-name': 'mirror-top', 'sync': 'full',
        'on-target-error': 'stop'})
    vm.wait_ready('mirror')
    vm.qemu_io('mirror-top', 'write 0 64k')
    vm.qmp('block-job-cancel', device='mirror')
    vm.wait_event('BLOCK_JOB_ERROR', {'operation': 'write',
                                      'action': 'stop'})
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'standby'})
    if resume:
        vm.qmp('block-job-resume', device='mirror')
        vm.wait_event('BLOCK_JOB_COMPLETED')
    else:
        vm.qmp('block-job-cancel', device='mirror', force=True)
        vm.wait_event('BLOCK_JOB_CANCELLED')


@pytest.mark.ours(reason='7.2 hangs')
def test_nbd_in_qcow2_chain(launch, images):
    """A chain over an export of the same process."""
    disk = images.create('disk', MIB)
    images.io(disk, 'write -P 42 0 64k')
    top = images.path('top')
    vm = launch(qtest=False).start()
    vm.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'node0', 'file': {
            'driver': 'file', 'filename': disk}})
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='node0')
    uri = f'nbd+unix:///node0?socket={vm.nbd_path}'
    run_tool('qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-b', uri,
             '-F', 'raw', top, '1M')
    vm.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'node1', 'file': {
            'driver': 'file', 'filename': top}})
    vm.qmp('nbd-server-add', device='node1')
    images.io(f'nbd+unix:///node1?socket={vm.nbd_path}', 'read -P 42 0 64k',
              fmt='raw', options=['-r'])
    vm.qmp('nbd-server-stop')


def test_remove_bitmap_from_backing(launch, images):
    base = images.create('base', MIB)
    top = images.create('top', MIB, backing=base)
    run_tool('qemu-img', 'bitmap', '--add', base, 'bitmap0')
    vm = launch(qtest=False).start()
    options = {'node-name': 'node0', 'driver': 'qcow2',
               'file': {'driver': 'file', 'filename': top},
               'backing': {'driver': 'qcow2', 'node-name': 'base', 'file': {
                   'driver': 'file', 'filename': base}}}
    vm.qmp('blockdev-add', options)
    vm.fails('block-dirty-bitmap-remove', node='base', name='bitmap0')
    reopen = {'driver': 'qcow2', 'node-name': 'base', 'file': {
        'driver': 'file', 'filename': base}}
    vm.qmp('blockdev-reopen', options=[reopen])
    vm.qmp('block-dirty-bitmap-remove', node='base', name='bitmap0')
    vm.qmp('blockdev-reopen', options=[dict(reopen, **{'read-only': True})])
    vm.stop()
    assert images.bitmaps(base) == {}


def test_reopen_file(launch, images):
    """The file child is another one, while it is written to."""
    path = images.create('disk', MIB, fmt='raw')
    vm = launch().start()
    vm.qmp('blockdev-add', {'node-name': 'node0', 'driver': 'raw', 'file': {
        'driver': 'file', 'node-name': 'file0', 'filename': path}})
    for number in (1, 2):
        vm.qmp('blockdev-add', {'driver': 'raw', 'node-name': f'f{number}',
                                'file': 'file0'})
    vm.qemu_io('node0', 'write -P 1 0 64k')
    vm.qmp('blockdev-reopen', options=[{
        'driver': 'raw', 'node-name': 'node0', 'file': 'f1'}])
    vm.qemu_io('node0', 'read -P 1 0 64k')
    vm.qmp('blockdev-reopen', options=[{
        'driver': 'raw', 'node-name': 'node0', 'file': 'file0'}])
    assert 'failed' not in vm.output()


@pytest.mark.ours(reason='7.2 crashes')
def test_stream_unaligned_prefetch(launch, images):
    """A stream above a compress filter, over an unaligned short base."""
    base = images.create('base', 128 * KIB + 77 * 512)
    images.io(base, f'write -P 7 0 {128 * KIB + 77 * 512}')
    top = images.create('top', 256 * KIB, backing=base)
    vm = launch().start()
    vm.qmp('blockdev-add', {
        'driver': 'compress', 'node-name': 'compress', 'file': {
            'driver': 'qcow2', 'node-name': 'fmt', 'file': {
                'driver': 'file', 'filename': top}}})
    vm.qmp('block-stream', {'job-id': 'stream', 'device': 'compress'})
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'stream', 'status': 'null'})
    vm.stop()
    images.io(top, f'read -P 7 0 {128 * KIB + 77 * 512}',
              f'read -P 0 {192 * KIB} 64k')


@pytest.mark.ours(reason='since 10.1')
@pytest.mark.parametrize('discard', ['ignore', 'unmap'])
@pytest.mark.parametrize('creation', ['off', 'full'])
def test_mirror_sparse(launch, images, creation, discard):
    """A sparse source leaves a sparse target, unless that was preallocated
    and is to stay so."""
    source = images.create('source', 20 * MIB, fmt='raw')
    images.io(source, 'write 8M 2M')
    target = images.create('target', 20 * MIB, fmt='raw',
                           preallocation=creation)
    vm = launch().add_blockdev(
        f'file,node-name=src-file,filename={source},cache.direct=on')
    vm.add_blockdev('raw,node-name=src,file=src-file')
    vm.add_blockdev(f'file,node-name=dst-file,filename={target},'
                    f'cache.direct=on,discard={discard}')
    vm.add_blockdev(f'raw,node-name=dst,file=dst-file,discard={discard},'
                    f'detect-zeroes={"unmap" if discard == "unmap" else "on"}')
    vm.start()
    vm.qmp('blockdev-mirror', {'job-id': 'm', 'device': 'src',
                               'target': 'dst', 'sync': 'full'})
    vm.wait_ready('m')
    vm.qmp('block-job-cancel', device='m')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'm', 'status': 'null'})
    used = os.stat(target).st_blocks * 512
    if creation == 'full' and discard == 'ignore':
        assert used >= 20 * MIB
    else:
        assert used < 8 * MIB
