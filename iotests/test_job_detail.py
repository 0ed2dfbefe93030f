# SPDX-License-Identifier: MIT
"""detail: true: amounts, rates, times and reasons of jobs."""

import time

import pytest

from .faults import damaged_source
from .jobs import Job, start_backup
from .nbd import CMD_WRITE, NbdClient
from .qmp import QmpTimeout

MIB = 1 << 20
SLOW = 65536

pytestmark = pytest.mark.ours('QEMU has no detail')


@pytest.fixture
def disks(server):
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=256 * MIB)
    return server


def detail(server, job_id='backup', command='query-jobs'):
    key = 'id' if command == 'query-jobs' else 'device'
    [entry] = [e for e in server.qmp(command, detail=True)
               if e[key] == job_id]
    return entry['detail']


def until(server, wanted, job_id='backup'):
    """The first detail for which wanted(detail)."""
    deadline = time.monotonic() + 20
    while True:
        found = detail(server, job_id)
        if wanted(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def seconds(when):
    return when['seconds'] + when['microseconds'] / 1e6


def end(job):
    job.cancel()
    job.wait('concluded')
    job.dismiss()


def test_running(disks):
    before = time.time()
    job = start_backup(disks, 'src', 'dst', speed=8 * MIB)
    found = until(disks, lambda d: d.get('rate') and d['bytes-copied'])
    assert before <= seconds(found['created']) <= seconds(found['started'])
    assert found['bytes-copied'] + found['bytes-remaining'] == 256 * MIB
    assert found['pause-reasons'] == []
    assert 'ready' not in found and 'ended' not in found
    assert 'dirty-rate' not in found and 'error-data' not in found
    assert {'role': 'target', 'node-name': 'dst', 'drained': False} in \
        found['nodes']
    assert detail(disks, command='query-block-jobs')['created'] == \
        found['created']
    end(job)


def test_rate_and_expectation(disks):
    """With a limit of 8 MiB/s the rate is about that, and what is expected
    agrees with it."""
    job = start_backup(disks, 'src', 'dst', speed=8 * MIB)
    started = time.monotonic()
    until(disks, lambda d: time.monotonic() > started + 2)
    found = detail(disks)
    assert 5 * MIB < found['rate'] < 12 * MIB
    assert found['expected-seconds'] == pytest.approx(
        found['bytes-remaining'] / found['rate'], abs=2)
    # Another speed shows within the window, not at once and not never.
    job.set_speed(64 * MIB)
    until(disks, lambda d: d['rate'] > 40 * MIB)
    end(job)


def test_rate_of_a_paused_job(disks):
    job = start_backup(disks, 'src', 'dst', speed=8 * MIB)
    until(disks, lambda d: d.get('rate'))
    job.pause()
    found = detail(disks)
    assert found['rate'] == 0 and 'expected-seconds' not in found
    assert found['pause-reasons'] == ['user']
    job.resume()
    found = until(disks, lambda d: d.get('rate'))
    assert found['pause-reasons'] == []
    end(job)


def test_stalled_job_slows_down(disks):
    """No copy for a while: the rate falls although nobody paused it."""
    job = start_backup(disks, 'src', 'dst', speed=32 * MIB)
    until(disks, lambda d: d.get('rate', 0) > 16 * MIB)
    job.set_speed(1)
    found = until(disks, lambda d: d['rate'] < MIB)
    assert 'expected-seconds' not in found or \
        found['expected-seconds'] > 100
    end(job)


def test_error_is_a_reason(server, images):
    bad = damaged_source(images)
    server.add_node('src', bad.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    job = start_backup(server, 'src', 'dst', on_source_error='stop')
    job.wait('BLOCK_JOB_ERROR')
    job.wait('paused')
    found = detail(server)
    assert found['pause-reasons'] == ['error'] and found['rate'] == 0
    assert found['error-data']['node-name'] == 'src'
    bad.repair()
    job.resume()
    job.wait('concluded')
    found = detail(server)
    assert found['pause-reasons'] == [] and found['nodes'] == []
    assert 'error-data' not in found
    assert found['bytes-remaining'] == 0
    assert seconds(found['ended']) >= seconds(found['started'])
    job.dismiss()


def test_drain_is_a_reason(server, images):
    """While the graph changes under a job, it says who holds it."""
    path = images.create('src.qcow2', '4M')
    rules = images.path('rules')
    with open(rules, 'w', encoding='utf-8') as config:
        config.write('[suspend]\nevent = "write_aio"\ntag = "A"\n')
    options = {'driver': 'blkdebug', 'node-name': 'debug', 'config': rules,
               'image': {'driver': 'file', 'filename': path}}
    server.qmp('blockdev-add', options)
    server.qmp('blockdev-add', driver='qcow2', node_name='src', file='debug')
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    server.export('src')
    start_backup(server, 'src', 'dst', speed=SLOW)
    assert detail(server)['pause-reasons'] == []
    guest = NbdClient.connect(server.nbd_path, 'src')
    guest.request(CMD_WRITE, 0, 512, data=bytes(512))
    other = server.connect(name='other')
    found = {}
    for _ in range(100):
        # A drain waits for the guest's request once that hangs in the node.
        other.send('blockdev-reopen', options=[options])
        try:
            assert other.next_reply(0.3)['return'] == {}
        except QmpTimeout:
            found = detail(server)
            break
    assert found['pause-reasons'] == ['drain']
    assert 'expected-seconds' not in found
    assert [n['node-name'] for n in found['nodes'] if n['drained']]
    server.qmp('job-pause', id='backup')
    assert detail(server)['pause-reasons'] == ['user', 'drain']
    server.quit()
    guest.close()
    other.close()


def test_pending_and_concluded(disks):
    job = start_backup(disks, 'src', 'dst', auto_finalize=False)
    job.wait('BLOCK_JOB_PENDING')
    found = detail(disks)
    assert found['bytes-remaining'] == 0
    assert 'rate' not in found and 'expected-seconds' not in found
    job.cancel()
    job.wait('concluded')
    found = detail(disks)
    assert 'ended' in found and found['error-data']['errno-name'] == \
        'ECANCELED'
    job.dismiss()


def test_job_without_bytes(server, directory):
    server.qmp('blockdev-create', job_id='c', options={
        'driver': 'file', 'filename': f'{directory}/a', 'size': MIB})
    Job(server, 'c').wait('concluded')
    found = detail(server, 'c')
    assert set(found) == {'created', 'started', 'ended', 'pause-reasons',
                          'nodes'}
    server.qmp('job-dismiss', id='c')


def test_backup_that_waits_for_writes(disks):
    """sync=none ends when it is told to: nothing is expected."""
    job = start_backup(disks, 'src', 'dst', sync='none')
    time.sleep(0.3)
    assert 'expected-seconds' not in detail(disks)
    end(job)


# Mirror: it follows changes, and becomes ready

def start_mirror(server, **options):
    server.qmp('blockdev-mirror', dict({
        'job-id': 'mirror', 'device': 'src', 'target': 'dst',
        'sync': 'full'}, **{k.replace('_', '-'): v
                            for k, v in options.items()}))
    return Job(server, 'mirror')


def test_mirror_to_ready(disks):
    """Until ready the end of the copying is expected; then nothing is."""
    job = start_mirror(disks, speed=64 * MIB)
    found = until(disks, lambda d: 'expected-seconds' in d, 'mirror')
    assert 0 <= found['expected-seconds'] <= 20
    assert found['dirty-rate'] == 0
    assert 'ready' not in found
    job.wait('BLOCK_JOB_READY')
    found = detail(disks, 'mirror')
    assert seconds(found['ready']) > seconds(found['started'])
    assert 'expected-seconds' not in found
    assert found['bytes-remaining'] == 0
    disks.qmp('job-pause', id='mirror')
    job.wait('standby')
    found = detail(disks, 'mirror')
    assert (found['rate'], found['pause-reasons']) == (0, ['user'])
    disks.qmp('job-cancel', id='mirror')
    job.wait('null')
    [entry] = disks.qmp('query-job-history')
    assert entry['outcome'] == 'cancelled' and 'ready' in entry


def test_dirty_rate(disks, guest_on):
    """What a guest writes is seen, and no end is expected if it writes
    faster than the mirror may copy."""
    disks.export('src')
    job = start_mirror(disks, speed=MIB)
    guest = NbdClient.connect(disks.nbd_path, 'src')
    until(disks, lambda d: d['bytes-copied'] > 0, 'mirror')
    started = time.monotonic()
    n_bytes = 0
    while time.monotonic() < started + 2:
        for _ in range(8):
            # Each time a place that was copied already, or will be.
            guest.write(n_bytes % (256 * MIB), bytes(MIB))
            n_bytes += MIB
        time.sleep(0.1)
    found = detail(disks, 'mirror')
    if found['dirty-rate'] == 0:
        # All that was written was dirty already; begin behind the copies.
        pytest.fail(f'no dirty rate: {found}')
    guest.close()
    job.cancel()
    job.wait('null')


def test_late_completion_shows_the_end(disks):
    job = start_mirror(disks, auto_dismiss=False)
    job.wait('BLOCK_JOB_READY')
    disks.qmp('job-complete', id='mirror')
    job.wait('concluded')
    found = detail(disks, 'mirror')
    assert found['nodes'] == [] and 'ready' in found and 'ended' in found
    job.dismiss()
    assert disks.qmp('query-job-history')[0]['outcome'] == 'completed'
