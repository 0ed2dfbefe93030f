# SPDX-License-Identifier: MIT
"""transaction: all of it or nothing."""

import pytest

from .faults import damaged_source
from .images import same_bytes
from .jobs import Job, backup_arguments
from .qmp import QmpError
from .test_bitmaps import add, bitmaps, count, sha256

MIB = 1 << 20
SIZE = 8 * MIB
CHUNK = 65536
ABORTED = 'Transaction aborted using Abort action'


def action(kind, **data):
    return {'type': kind, 'data': {k.replace('_', '-'): v
                                   for k, v in data.items()}}


def bitmap(verb, name, node='n', **data):
    return action(f'block-dirty-bitmap-{verb}', node=node, name=name, **data)


def merge(target, *sources, node='n'):
    return action('block-dirty-bitmap-merge', node=node, target=target,
                  bitmaps=list(sources))


def backup(device='n', target='dst', job_id='backup', **options):
    return {'type': 'blockdev-backup', 'data': backup_arguments(
        device, target, job_id, **dict({'auto_dismiss': False}, **options))}


def transact(server, *actions, grouped=False):
    arguments = {'actions': list(actions)}
    if grouped:
        arguments['properties'] = {'completion-mode': 'grouped'}
    server.qmp('transaction', arguments)


def refused(server, *actions, desc=None):
    return server.fails('transaction', {'actions': list(actions)}, desc)


@pytest.fixture
def disk(server, images, guest_on):
    """Node 'n' with a guest, bitmaps 'on' (enabled), 'off' (disabled, two
    chunks) and 'keep' (persistent), and a target 'dst'."""
    server.disk_path = images.create('a.qcow2', SIZE)
    server.add_node('n', server.disk_path)
    server.export('n')
    server.guest = guest_on(server, 'n')
    add(server, 'off')
    server.guest.write(0, b'x' * 2 * CHUNK)
    server.qmp('block-dirty-bitmap-disable', node='n', name='off')
    add(server, 'on')
    add(server, 'keep', persistent=True)
    server.guest.write(MIB, b'x')
    server.add_node('dst', images.create('dst.qcow2', SIZE))
    server.add_node('ov', images.create('ov.qcow2', SIZE), backing=None)
    server.mon.drop_events()
    return server


def state(server):
    """All that a transaction may change."""
    snapshots = [n['image'].get('snapshots') for n in server.qmp(
        'query-named-block-nodes')]
    return (snapshots, server.qmp('x-debug-query-block-graph'),
            bitmaps(server), {name: sha256(server, name)
                              for name in bitmaps(server)},
            set(server.nodes()), server.qmp('query-jobs'))


def test_empty(server):
    transact(server)
    transact(server, grouped=True)


def test_bitmap_actions(disk):
    transact(disk,
             bitmap('add', 'new', granularity=4096, persistent=True),
             bitmap('add', 'tmp', disabled=True),
             merge('tmp', 'off', 'on'),
             bitmap('clear', 'on'),
             bitmap('disable', 'keep'),
             bitmap('enable', 'off'))
    now = bitmaps(disk)
    assert set(now) == {'new', 'tmp', 'on', 'off', 'keep'}
    assert now['new']['granularity'] == 4096
    assert now['new']['persistent'] and now['new']['recording']
    assert now['tmp']['count'] == 3 * CHUNK
    assert now['on']['count'] == 0
    assert not now['keep']['recording'] and now['off']['recording']


def test_remove(disk):
    transact(disk, bitmap('remove', 'on'), bitmap('remove', 'keep'))
    assert set(bitmaps(disk)) == {'off'}
    refused(disk, bitmap('remove', 'off'), bitmap('remove', 'nope'),
            desc="Dirty bitmap 'nope' not found")
    assert set(bitmaps(disk)) == {'off'}
    transact(disk, bitmap('add', 'b'), bitmap('remove', 'b'))
    assert set(bitmaps(disk)) == {'off'}


ACTIONS = {
    'add': bitmap('add', 'new', persistent=True),
    'remove': bitmap('remove', 'off'),
    'remove-persistent': bitmap('remove', 'keep'),
    'clear': bitmap('clear', 'off'),
    'clear-persistent': bitmap('clear', 'keep'),
    'enable': bitmap('enable', 'off'),
    'disable': bitmap('disable', 'on'),
    'merge': merge('on', 'off'),
    'backup': backup(),
    'backup-incremental': backup(sync='incremental', bitmap='on'),
    'snapshot': action('blockdev-snapshot', node='n', overlay='ov'),
    'internal': action('blockdev-snapshot-internal-sync', device='n',
                       name='inside'),
}


@pytest.mark.parametrize('name', ACTIONS)
def test_each_action_is_undone(disk, name):
    before = state(disk)
    refused(disk, ACTIONS[name], action('abort'), desc=ABORTED)
    assert state(disk) == before
    disk.guest.write(5 * MIB, b'x')
    assert count(disk, 'on') == before[2]['on']['count'] + CHUNK
    assert count(disk, 'off') == before[2]['off']['count']
    disk.guest.verify()


WHOLE = [ACTIONS['add'], ACTIONS['clear'], ACTIONS['enable'],
         ACTIONS['disable'], ACTIONS['merge'], bitmap('clear', 'on'),
         ACTIONS['remove-persistent'], ACTIONS['backup']]


@pytest.mark.parametrize('place', range(len(WHOLE) + 1))
def test_abort_at_each_place(disk, place):
    """Whatever came before is undone, what comes after is not begun."""
    before = state(disk)
    actions = WHOLE[:place] + [action('abort')] + WHOLE[place:]
    refused(disk, *actions, desc=ABORTED)
    assert state(disk) == before
    steps = [e['data']['status'] for e in disk.mon.pump()
             if e['event'] == 'JOB_STATUS_CHANGE']
    assert steps in ([], ['created', 'aborting', 'concluded', 'null'])
    # And it can be done afterwards.
    transact(disk, *WHOLE)
    Job(disk, 'backup').finish()


@pytest.mark.parametrize('bad,desc', [
    (bitmap('add', 'on'), 'Bitmap already exists: on'),
    (bitmap('clear', 'nope'), "Dirty bitmap 'nope' not found"),
    (bitmap('add', 'x', granularity=3),
     'Granularity must be power of 2 and at least 512'),
    (merge('on', 'nope'), "Dirty bitmap 'nope' not found"),
    (backup(target='nope'),
     "Cannot find device='nope' nor node-name='nope'"),
    (backup(sync='incremental', bitmap='nope'),
     "Bitmap 'nope' could not be found"),
    (backup(job_id='1'), "Invalid job ID '1'"),
])
def test_failing_action_undoes_the_rest(disk, bad, desc):
    before = state(disk)
    refused(disk, ACTIONS['add'], ACTIONS['clear'], ACTIONS['merge'], bad,
            desc=desc)
    assert state(disk) == before


def test_backups_of_one_moment(server, images, guest_on):
    """Two disks, two backups, one point in time each, with their bitmaps
    as of that moment."""
    guests = {}
    for name in ('a', 'b'):
        server.add_node(name, images.create(f'{name}.qcow2', SIZE))
        server.export(name)
        guests[name] = guest_on(server, name, seed=ord(name))
        guests[name].random_writes(40)
        server.add_node(f'to-{name}', images.create(f'to-{name}.qcow2',
                                                    SIZE))
    frozen = {name: guest.freeze() for name, guest in guests.items()}
    # QEMU 7.2 takes no bitmap actions in a grouped transaction.
    transact(server, bitmap('add', 'ck', 'a'), bitmap('add', 'ck', 'b'))
    transact(server,
             backup('a', 'to-a', 'job-a', speed=MIB),
             backup('b', 'to-b', 'job-b', speed=MIB), grouped=True)
    for guest in guests.values():
        guest.random_writes(40)
    for name in ('a', 'b'):
        assert count(server, 'ck', name) > 0
        Job(server, f'job-{name}').let_run()
    for name in ('a', 'b'):
        Job(server, f'job-{name}').finish()
        server.qmp('blockdev-del', node_name=f'to-{name}')
        same_bytes(images.content(images.path(f'to-{name}.qcow2')),
                   frozen[name])


@pytest.fixture
def jobs(server, images):
    """Disks for jobs that are fast, slow and failing."""
    for name, size in (('fast', MIB), ('slow', 64 * MIB)):
        for node in (name, f'to-{name}'):
            server.qmp('blockdev-add', driver='null-co', node_name=node,
                       size=size)
    bad = damaged_source(images)
    server.add_node('bad', bad.path)
    server.add_node('to-bad', images.create('to-bad.qcow2', '4M'))
    add(server, 'b', node='bad')

    def start(*names, grouped, **options):
        transact(server, *(backup(
            name, f'to-{name}', name,
            **dict(options, **({'speed': CHUNK} if name == 'slow' else {})))
            for name in names), grouped=grouped)
        return {name: Job(server, name) for name in names}

    return start


def end(job):
    if job.status() != 'concluded':
        job.cancel()
    if 'concluded' not in job.steps:
        job.wait('concluded')
    job.dismiss()


def test_grouped_waits_for_all(server, jobs):
    made = jobs('fast', 'slow', grouped=True)
    made['fast'].wait('waiting')
    assert made['fast'].status() == 'waiting'
    made['slow'].set_speed(0)
    for job in made.values():
        job.finish()
        assert job.steps[-5:] == ['waiting', 'pending',
                                  'BLOCK_JOB_COMPLETED', 'concluded', 'null']


def test_grouped_failure_cancels_all(server, jobs):
    made = jobs('fast', 'slow', 'bad', grouped=True)
    for job in made.values():
        job.wait('concluded')
    assert made['bad'].events['BLOCK_JOB_COMPLETED']['error'] == \
        'Input/output error'
    for name in ('fast', 'slow'):
        assert 'BLOCK_JOB_COMPLETED' not in made[name].events
        assert 'BLOCK_JOB_CANCELLED' in made[name].events
        assert made[name].info()['error'] == 'Operation canceled'
    for job in made.values():
        job.dismiss()


def test_grouped_cancel_cancels_all(server, jobs):
    made = jobs('fast', 'slow', grouped=True)
    made['fast'].wait('waiting')
    made['slow'].cancel()
    for job in made.values():
        job.wait('concluded')
        assert 'BLOCK_JOB_CANCELLED' in job.events
        job.dismiss()


def test_individual_jobs_are_on_their_own(server, jobs):
    made = jobs('fast', 'slow', 'bad', grouped=False)
    made['fast'].finish()
    assert made['bad'].error() == 'Input/output error'
    made['bad'].dismiss()
    assert made['slow'].status() == 'running'
    end(made['slow'])


def test_grouped_with_pending_member(server, jobs):
    """One member waits for job-finalize; finalizing it ends them all."""
    made = jobs('fast', 'slow', grouped=True, auto_finalize=False)
    made['slow'].set_speed(0)
    for job in made.values():
        job.wait('BLOCK_JOB_PENDING')
        assert job.status() == 'pending'
    server.qmp('job-finalize', id='fast')
    for job in made.values():
        job.finish()


def test_grouped_failure_keeps_bitmaps(disk, images):
    """An incremental backup that succeeded and was cancelled with its
    group leaves its bitmap as if it had not run."""
    bad = damaged_source(images)
    disk.add_node('bad', bad.path)
    disk.add_node('to-bad', images.create('to-bad.qcow2', '4M'))
    before = count(disk, 'on')
    transact(disk, backup(sync='incremental', bitmap='on'),
             backup('bad', 'to-bad', 'bad', speed=CHUNK), grouped=True)
    disk.guest.write(6 * MIB, b'x')
    job = Job(disk, 'bad')
    job.let_run()
    for job in (job, Job(disk, 'backup')):
        job.wait('concluded')
        job.dismiss()
    assert count(disk, 'on') == before + CHUNK


def test_atomic_against_a_writing_guest(disk, images):
    """clear and backup in one transaction, the guest writing all the
    while: what the backup lacks the bitmap has."""
    disk.guest.start()
    for i in range(5):
        disk.guest.wait_writes(10)
        transact(disk, bitmap('clear', 'on'),
                 backup(job_id=f'j{i}', speed=4 * MIB))
        disk.guest.wait_writes(20)
        Job(disk, f'j{i}').let_run()
        Job(disk, f'j{i}').finish()
    disk.guest.stop()
    # Replay what is dirty over the backup: it is the disk.
    add(disk, 'rest', disabled=True)
    disk.qmp('block-dirty-bitmap-merge', node='n', target='rest',
             bitmaps=['on'])
    transact(disk, backup(job_id='last', sync='bitmap', bitmap='rest',
                          bitmap_mode='never'))
    Job(disk, 'last').finish()
    disk.qmp('blockdev-del', node_name='dst')
    same_bytes(images.content(images.path('dst.qcow2')),
               disk.guest.freeze())


def test_drive_backup_in_transaction(disk, images):
    """The target that was made for an aborted drive-backup is not kept
    open."""
    path = images.path('made.qcow2')
    drive = {'type': 'drive-backup', 'data': dict(
        backup_arguments('n', path, format='qcow2'),
        **{'auto-dismiss': False})}
    nodes = set(disk.nodes())
    refused(disk, drive, action('abort'), desc=ABORTED)
    assert set(disk.nodes()) == nodes
    disk.mon.drop_events()
    transact(disk, bitmap('clear', 'on'), drive)
    Job(disk, 'backup').finish()
    assert set(disk.nodes()) == nodes
    images.adopt(path)
    same_bytes(images.content(path), disk.guest.freeze())
    assert count(disk, 'on') == 0


def test_persistence_of_undone_add(disk, images, start_server):
    """A persistent bitmap whose transaction was aborted is not stored."""
    with pytest.raises(QmpError):
        transact(disk, ACTIONS['add'], ACTIONS['remove-persistent'],
                 action('abort'))
    disk.guest.close()
    disk.stop()
    assert set(images.bitmaps(disk.disk_path)) == {'keep'}
