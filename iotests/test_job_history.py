# SPDX-License-Identifier: MIT
"""query-job-history: how the last jobs ended."""

import time

import pytest

from .faults import damaged_source
from .jobs import Job, start_backup

MIB = 1 << 20
SLOW = 65536

pytestmark = pytest.mark.ours('QEMU forgets its jobs')


@pytest.fixture
def disks(server):
    for name in ('src', 'dst', 'src2', 'dst2'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=16 * MIB)
    return server


def history(server, **kwargs):
    return server.qmp('query-job-history', **kwargs)


def seconds(when):
    return when['seconds'] + when['microseconds'] / 1e6


def test_empty(server):
    assert history(server) == []


def test_completed(disks):
    before = time.time()
    start_backup(disks, 'src', 'dst').finish()
    after = time.time()
    [entry] = history(disks)
    assert before <= seconds(entry['created']) <= \
        seconds(entry['started']) <= seconds(entry['ended']) <= after
    took = seconds(entry['ended']) - seconds(entry['started'])
    assert entry['average-rate'] == pytest.approx(16 * MIB / took, rel=0.01)
    for key in ('created', 'started', 'ended', 'average-rate'):
        del entry[key]
    assert entry == {'id': 'backup', 'type': 'backup', 'outcome': 'completed',
                     'bytes-copied': 16 * MIB, 'bytes-total': 16 * MIB}


def test_not_before_the_end(disks):
    """A job enters when it is concluded, dismissed or not."""
    job = start_backup(disks, 'src', 'dst', auto_finalize=False,
                       auto_dismiss=False)
    job.wait('BLOCK_JOB_PENDING')
    assert history(disks) == []
    disks.qmp('job-finalize', id='backup')
    job.wait('concluded')
    [entry] = history(disks)
    job.dismiss()
    assert history(disks) == [entry]


def test_cancelled(disks):
    job = start_backup(disks, 'src', 'dst', speed=SLOW)
    job.cancel()
    job.wait('concluded')
    [entry] = history(disks)
    assert (entry['outcome'], entry['error']) == \
        ('cancelled', 'Operation canceled')
    assert entry['bytes-copied'] < entry['bytes-total'] == 16 * MIB
    job.dismiss()


def test_failed(server, images):
    bad = damaged_source(images)
    server.add_node('src', bad.path)
    server.add_node('dst', images.create('dst.qcow2', '4M'))
    start_backup(server, 'src', 'dst').error()
    [entry] = history(server)
    assert (entry['outcome'], entry['error']) == \
        ('failed', 'Input/output error')
    data = entry['error-data']
    assert data['errno-name'] == 'EIO' and data['node-name'] == 'src'
    assert data['offset'] <= bad.offset < data['offset'] + data['bytes']


def test_job_that_counts_no_bytes(server, directory):
    server.qmp('blockdev-create', job_id='c', options={
        'driver': 'file', 'filename': f'{directory}/a', 'size': MIB})
    Job(server, 'c').wait('concluded')
    [entry] = history(server)
    assert (entry['id'], entry['type'], entry['outcome']) == \
        ('c', 'create', 'completed')
    assert not any(key.startswith('bytes') for key in entry)
    server.qmp('job-dismiss', id='c')


def test_grouped_failure(disks, images):
    """One failed; the others were cancelled."""
    bad = damaged_source(images)
    disks.add_node('bad', bad.path)
    disks.qmp('blockdev-add', driver='null-co', node_name='to-bad',
              size=4 * MIB)

    def backup(src, dst, job_id, **kwargs):
        return {'type': 'blockdev-backup', 'data': dict(kwargs, **{
            'job-id': job_id, 'device': src, 'target': dst, 'sync': 'full'})}

    disks.qmp('transaction', actions=[
        backup('src', 'dst', 'ok', speed=SLOW),
        backup('bad', 'to-bad', 'bad')],
        properties={'completion-mode': 'grouped'})
    Job(disks, 'ok').wait('null')
    Job(disks, 'bad').wait('null')
    assert {e['id']: e['outcome'] for e in history(disks)} == \
        {'ok': 'cancelled', 'bad': 'failed'}


def test_command_that_failed_made_no_job(disks):
    disks.fails('blockdev-backup', job_id='j', device='src', target='src',
                sync='full')
    disks.fails('transaction', actions=[
        {'type': 'blockdev-backup', 'data': {
            'job-id': 'j', 'device': 'src', 'target': 'dst',
            'sync': 'full'}},
        {'type': 'abort', 'data': {}}])
    assert history(disks) == []


def test_order_id_and_limit(disks):
    for name in ('a', 'b', 'a', 'c'):
        start_backup(disks, 'src', 'dst', job_id=name).finish()

    def names(**kwargs):
        return [e['id'] for e in history(disks, **kwargs)]

    assert names() == ['c', 'a', 'b', 'a']      # the last one first
    assert names(limit=2) == ['c', 'a']
    assert names(limit=0) == []
    assert names(id='a') == ['a', 'a']
    assert names(id='a', limit=1) == ['a']
    first, second = history(disks, id='a')
    assert seconds(first['created']) > seconds(second['ended'])
    assert names(id='nosuch') == []
    disks.fails('query-job-history', limit=-1, desc=(
        "Parameter 'limit' expects a non-negative value"))


def test_bounded(disks):
    """256 are kept."""
    for i in range(260):
        disks.qmp('blockdev-backup', job_id=f'j{i}', device='src',
                  target='dst', sync='full')
        Job(disks, f'j{i}').wait('null')
    assert [e['id'] for e in history(disks)] == \
        [f'j{i}' for i in range(259, 3, -1)]


def test_manager_that_comes_back_late(disks):
    """The manager goes away; its job ends and is gone; it asks later."""
    start_backup(disks, 'src', 'dst', job_id='b0', auto_dismiss=True,
                 speed=16 * MIB)
    disks.mon.close()
    disks.mon = disks.connect(name='back')
    deadline = time.monotonic() + 10
    while disks.qmp('query-jobs'):
        assert time.monotonic() < deadline
    [entry] = history(disks, id='b0')
    assert entry['outcome'] == 'completed'
