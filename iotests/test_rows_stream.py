# SPDX-License-Identifier: MIT
"""COMPAT section 10: what the rows on block-stream need of a machine.

The jobs themselves are in test_stream*.py; here they run on drives of a
machine that was started as QEMU's harness starts it.
"""

import pytest

from .images import qemu_img, run_tool

KIB = 1 << 10
MIB = 1 << 20
CONFIG = '''
[inject-error]
event = "{event}"
errno = "{errno}"
immediately = "off"
once = "on"
sector = "{sector}"

[set-state]
state = "1"
event = "{event}"
new_state = "2"

[set-state]
state = "2"
event = "{event}"
new_state = "1"
'''


def chain(images, size=MIB):
    """base <- mid <- top; data in base and mid."""
    base = images.create('base.qcow2', size)
    run_tool('qemu-io', '-f', 'qcow2', '-c', f'write -P 1 0 {size // 2}',
             base)
    mid = images.create('mid.qcow2', size, backing=base)
    run_tool('qemu-io', '-f', 'qcow2', '-c', f'write -P 2 {size // 2} 64k',
             mid)
    top = images.create('top.qcow2', size, backing=mid)
    return base, mid, top


@pytest.fixture
def vm(launch, images):
    base, mid, top = chain(images)
    machine = launch().add_drive(
        'blkdebug::' + top, f'backing.node-name=mid,backing.backing.'
        f'node-name=base')
    machine.images = base, mid, top
    return machine.start()


def test_030_stream(vm, images):
    """The whole of the chain, then alone: the chain below is let go."""
    base, mid, top = vm.images
    assert vm.qmp('query-block-jobs') == []
    vm.qmp('block-stream', device='drive0')
    vm.wait_completed(type='stream')
    inserted = vm.qmp('query-block')[0]['inserted']
    assert 'backing_file' not in inserted
    assert inserted['backing_file_depth'] == 0
    vm.stop()
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 512k', top)
    assert 'backing-filename' not in images.info(top)


def test_030_pause(vm):
    vm.pause_drive('drive0')
    vm.qmp('block-stream', device='drive0')
    vm.qmp('block-job-pause', device='drive0')
    vm.resume_drive('drive0')
    while vm.job()['busy'] or not vm.job()['paused']:
        pass
    offset = vm.job()['offset']
    assert vm.job()['offset'] == offset
    vm.qmp('block-job-resume', device='drive0')
    vm.wait_completed()


def test_030_partial(vm, images):
    base, mid, top = vm.images
    vm.qmp('block-stream', device='drive0', base=base)
    vm.wait_completed()
    info = vm.qmp('query-block')[0]['inserted']
    assert info['backing_file'] == base
    vm.stop()
    assert images.info(top)['backing-filename'] == base


def test_030_no_op(vm):
    base, mid, top = vm.images
    vm.qmp('block-stream', device='drive0', base=mid)
    data = vm.wait_completed()
    assert (data['len'], data['offset']) == (0, 0) or vm.is_qemu


def test_030_device_not_found(vm):
    text = vm.fails('block-stream', device='nonexistent', desc=None)
    assert text == ("Cannot find device='nonexistent' nor "
                    "node-name='nonexistent'")


def test_030_job_id_missing(vm):
    assert vm.fails('block-stream', device='mid') == "Invalid job ID ''"


@pytest.mark.parametrize('policy', ['report', 'ignore', 'stop', 'enospc'])
@pytest.mark.parametrize('errno', [5, 28])
def test_030_errors(launch, images, policy, errno):
    base = images.create('base.raw', MIB, fmt='raw')
    images.io(base, 'write -P 3 0 1M')
    config = images.path('blkdebug.conf')
    with open(config, 'w', encoding='ascii') as file:
        file.write(CONFIG.format(event='read_aio', errno=errno,
                                 sector=512 * KIB // 512))
    top = images.path('top.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', f'backing_file=blkdebug:'
             f'{config}:{base},backing_fmt=raw', top)
    images.adopt(top)
    vm = launch().add_drive(top).start()
    vm.qmp('block-stream', {'device': 'drive0', 'on-error': policy})
    stops = policy == 'stop' or (policy == 'enospc' and errno == 28)
    event = vm.wait_event(['BLOCK_JOB_ERROR', 'BLOCK_JOB_COMPLETED'])
    assert event['event'] == 'BLOCK_JOB_ERROR'
    assert event['data']['operation'] == 'read'
    if stops:
        assert event['data']['action'] == 'stop'
        while not vm.job()['paused']:
            pass
        job = vm.job()
        assert job['offset'] == 512 * KIB
        assert job['io-status'] == ('nospace' if errno == 28 else 'failed')
        vm.qmp('block-job-resume', device='drive0')
        assert (vm.job() or {'io-status': 'ok'})['io-status'] == 'ok'
        vm.wait_completed()
        return
    error = {5: 'Input/output error', 28: 'No space left on device'}[errno]
    data = vm.wait_event('BLOCK_JOB_COMPLETED')['data']
    assert data['error'] == error
    assert data['len'] == MIB
    assert data['offset'] == (MIB if policy == 'ignore' else 512 * KIB)
