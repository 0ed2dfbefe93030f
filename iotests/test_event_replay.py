# SPDX-License-Identifier: MIT
"""Numbered events, and those that a client has missed."""

import threading

import pytest

from .images import run_tool
from .jobs import start_backup
from .qmp import QmpError

MIB = 1 << 20
SEQUENCE = ['event-sequence']

pytestmark = pytest.mark.ours('QEMU does not number its events')


@pytest.fixture
def numbered(start_server):
    """A server with null disks, whose client asks for numbers."""
    server = start_server(connect=False)
    server.mon = server.connect(enable=SEQUENCE)
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=MIB)
    return server


def run_job(server, job_id='j'):
    start_backup(server, 'src', 'dst', job_id=job_id).finish()


def events_of(mon, n):
    """The next n events of MON, in the order of their arrival."""
    while len(mon._events) < n:
        mon._keep_event(mon.next_message())
    return [mon._events.popleft() for _ in range(n)]


def received(mon):
    return [m for m in mon.received if 'event' in m]


def plain(event):
    return {key: event[key] for key in event if key != 'sequence'}


def test_numbers_grow_by_one(numbered):
    for i in range(3):
        run_job(numbered, f'j{i}')
    numbers = [event['sequence'] for event in received(numbered.mon)]
    assert len(numbers) > 20
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_all_sessions_see_the_same_numbers(numbered):
    other = numbered.connect(name='other', enable=SEQUENCE)
    run_job(numbered)
    n = len(received(numbered.mon))
    assert events_of(other, n) == received(numbered.mon)
    other.close()


def test_replay(numbered):
    """A client comes back: what it missed, then what is new, each once."""
    run_job(numbered, 'one')
    seen = received(numbered.mon)
    numbered.mon.close()

    blind = numbered.connect(name='blind')
    numbered.mon = blind            # a job while the first one is away
    run_job(numbered, 'two')
    missed = received(blind)

    back = numbered.connect(name='back', enable=SEQUENCE,
                            replay_from=seen[-1]['sequence'] + 1)
    numbered.mon = back
    run_job(numbered, 'three')
    events = received(back)
    assert [plain(e) for e in events[:len(missed)]] == missed
    first = seen[-1]['sequence'] + 1
    assert [e['sequence'] for e in events] == \
        list(range(first, first + len(events)))
    assert {e['data'].get('id', e['data'].get('device'))
            for e in events[len(missed):]} == {'three'}


def test_comes_back_in_a_storm(numbered):
    """A client that is torn away again and again, amid events that do not
    stop, has each event once and in order."""
    first = numbered.connect(name='first', enable=SEQUENCE)
    storm = numbered.connect(name='storm')
    stop = threading.Event()

    def run_jobs():
        while not stop.is_set():
            storm.execute('blockdev-backup', {
                'job-id': 'j', 'device': 'src', 'target': 'dst',
                'sync': 'full', 'auto-finalize': False})
            storm.wait_event('BLOCK_JOB_PENDING')
            storm.execute('job-finalize', {'id': 'j'})
            storm.wait_for(lambda e: e['data'].get('status') == 'null', 'null')

    thread = threading.Thread(target=run_jobs)
    thread.start()
    mon, numbers = first, []
    try:
        for n in range(40):
            numbers += [e['sequence'] for e in events_of(mon, 3 + n)]
            mon.close()         # whatever has arrived meanwhile is lost
            mon = numbered.connect(name=f'back{n}', enable=SEQUENCE,
                                   replay_from=numbers[-1] + 1)
    finally:
        stop.set()
        thread.join()
    mon.close()
    storm.close()
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_replay_comes_before_the_reply(numbered):
    run_job(numbered)
    first = received(numbered.mon)[0]['sequence']
    back = numbered.connect(negotiate=False, name='back')
    back.read_greeting()
    back.capabilities = set(SEQUENCE)
    ident = back.send('qmp_capabilities', enable=SEQUENCE, replay_from=first)
    messages = [back.next_message()
                for _ in range(len(received(numbered.mon)) + 1)]
    assert messages[:-1] == received(numbered.mon)
    assert messages[-1] == {'return': {}, 'id': ident}
    back.close()


def test_nothing_missed(numbered):
    run_job(numbered)
    after = received(numbered.mon)[-1]['sequence'] + 1
    back = numbered.connect(name='back', enable=SEQUENCE, replay_from=after)
    assert back.pump(0.1) == []
    run_job(numbered, 'next')
    assert back.wait_event('JOB_STATUS_CHANGE')['sequence'] == after
    back.close()


def test_future_is_refused(numbered):
    run_job(numbered)
    following = received(numbered.mon)[-1]['sequence'] + 1
    back = numbered.connect(negotiate=False, name='back')
    back.read_greeting()
    back.fails('qmp_capabilities', enable=SEQUENCE,
               replay_from=following + 1, desc=(
                   f'Event {following + 1} has not been sent yet: the next '
                   f'one is {following}'))
    # The session is not open, and can be opened.
    back.fails('query-jobs', cls='CommandNotFound')
    back.enter(enable=SEQUENCE, replay_from=following)
    assert back.execute('query-jobs') == []
    back.close()


def test_too_old_is_refused_with_the_oldest(numbered):
    """4096 events are kept."""
    run_job(numbered)
    first = received(numbered.mon)[0]['sequence']
    numbered.mon.close()
    numbered.mon = numbered.connect(name='again')
    n_jobs = 0
    while True:
        history = numbered.qmp('query-events', limit=0)
        if history['oldest'] > first:
            break
        n_jobs += 1
        assert n_jobs < 1000
        run_job(numbered, f'j{n_jobs}')
        numbered.mon.received.clear()
    back = numbered.connect(negotiate=False, name='back')
    back.read_greeting()
    with pytest.raises(QmpError) as caught:
        back.enter(enable=SEQUENCE + ['error-data'], replay_from=first)
    oldest = history['oldest']
    assert caught.value.desc == \
        f'Event {first} is not kept any more: the oldest is {oldest}'
    assert str(oldest) in caught.value.data['hint']
    back.enter(enable=SEQUENCE, replay_from=oldest)
    events = received(back)
    assert len(events) == 4096
    assert [e['sequence'] for e in events] == list(
        range(oldest, oldest + 4096))
    back.close()


def test_needs_the_capability(numbered):
    back = numbered.connect(negotiate=False, name='back')
    back.read_greeting()
    back.fails('qmp_capabilities', replay_from=0, desc=(
        "Parameter 'replay-from' needs the capability 'event-sequence'"))
    back.enter()
    back.close()


def test_numbers_of_the_next_server_are_larger(numbered, start_server):
    """A client that does not notice a restart gets a refusal, not the wrong
    events."""
    run_job(numbered)
    last = received(numbered.mon)[-1]['sequence']
    numbered.quit()
    other = start_server(connect=False)
    other.mon = other.connect(negotiate=False)
    other.mon.read_greeting()
    with pytest.raises(QmpError) as caught:
        other.mon.enter(enable=SEQUENCE, replay_from=last + 1)
    assert 'not kept any more' in caught.value.desc
    other.mon.enter(enable=SEQUENCE)


# query-events

def test_query_events(numbered):
    run_job(numbered)
    events = received(numbered.mon)
    first = events[0]['sequence']
    everything = numbered.qmp('query-events')
    assert everything['events'] == events
    assert everything['oldest'] == first
    assert everything['next'] == first + len(events)
    some = numbered.qmp('query-events', since=first + 2, limit=3)
    assert some['events'] == events[2:5]
    assert some['next'] == first + 5
    none = numbered.qmp('query-events', since=everything['next'])
    assert none['events'] == [] and none['next'] == everything['next']


def test_query_events_refusals(numbered):
    numbers = numbered.qmp('query-events', limit=0)
    assert numbers['events'] == [] and numbers['next'] == numbers['oldest']
    numbered.fails('query-events', limit=-1, desc=(
        "Parameter 'limit' expects a non-negative value"))
    for since in (0, -1, numbers['next'] + 1, (1 << 63) - 1):
        text = numbered.fails('query-events', since=since)
        assert str(numbers['oldest']) in text


def test_events_that_nobody_asked_to_number(server):
    """They are kept as well."""
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name, size=MIB)
    run_job(server)
    late = server.connect(name='late', enable=SEQUENCE)
    assert [plain(e) for e in late.execute('query-events')['events']] == \
        received(server.mon)
    late.close()


# Rate limits

def test_limited_events_have_their_place(start_server):
    """What is held back gets its number when it is sent: no number is
    missing, and none is out of order."""
    server = start_server(connect=False)
    server.mon = server.connect(enable=SEQUENCE)
    good = {'driver': 'null-co', 'size': MIB, 'read-zeroes': True}
    bad = {'driver': 'blkdebug', 'image': dict(good), 'inject-error': [
        {'event': 'none', 'iotype': 'read', 'errno': 5}]}
    server.qmp('blockdev-add', {
        'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 2,
        'children': [good, dict(good), bad]})
    server.qmp('blockdev-add', driver='null-co', node_name='src', size=MIB)
    server.qmp('blockdev-add', driver='null-co', node_name='dst', size=MIB)
    uri = server.export('q', writable=False)
    run_tool('qemu-io', '-f', 'raw', '-r', '-c', 'read 0 4k', '-c',
             'read 4k 4k', '-c', 'read 8k 4k', uri)
    run_job(server)
    deadline = 100
    while len([e for e in received(server.mon)
               if e['event'] == 'QUORUM_REPORT_BAD']) < 2:
        server.mon._keep_event(server.mon.next_message())
        deadline -= 1
        assert deadline
    events = received(server.mon)
    numbers = [e['sequence'] for e in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    bad_at = [i for i, e in enumerate(events)
              if e['event'] == 'QUORUM_REPORT_BAD']
    assert len(bad_at) == 2 and bad_at[1] > bad_at[0] + 5
    assert server.qmp('query-events')['events'] == events
