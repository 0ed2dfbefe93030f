# SPDX-License-Identifier: MIT
"""Throttle groups and the throttle filter.

How fast it is is tested in made-up time (tests/test-throttle.c).  Here a
limit is so low that a request waits for minutes unless somebody lets it go,
or the test counts what went through in the time that really passed.
"""

import signal
import threading
import time

import pytest

from .images import same_bytes
from .jobs import start_backup
from .nbd import CMD_READ, CMD_WRITE, NbdClient

MIB = 1 << 20
BOTH = ('bps/iops/max total values and read/write values cannot be used at '
        'the same time')
NAMES = [f'{kind}-{way}{what}' for kind in ('bps', 'iops')
         for way in ('total', 'read', 'write')
         for what in ('', '-max', '-max-length')] + ['iops-size']


def add_group(server, name, limits=None, **options):
    """limits={'bps-total': 1}; options are the x- members."""
    arguments = {'qom-type': 'throttle-group', 'id': name}
    if limits is not None:
        arguments['limits'] = limits
    arguments.update((k.replace('_', '-'), v) for k, v in options.items())
    server.qmp('object-add', arguments)


def limits_of(server, name):
    """Those that are not as they were born."""
    limits = server.qmp('qom-get', path=f'/objects/{name}', property='limits')
    assert sorted(limits) == sorted(NAMES)
    return {k: v for k, v in limits.items()
            if v != (1 if k.endswith('length') else 0)}


def set_limits(server, name, **limits):
    server.qmp('qom-set', path=f'/objects/{name}', property='limits',
               value={k.replace('_', '-'): v for k, v in limits.items()})


def throttle(name, group, file):
    return {'driver': 'throttle', 'node-name': name, 'throttle-group': group,
            'file': file}


def null(name, size=MIB):
    return {'driver': 'null-co', 'node-name': name, 'size': size}


def add_throttled(server, name='t', group='g', size=MIB):
    server.qmp('blockdev-add', throttle(name, group, null(name + '-file',
                                                          size)))
    server.export(name)
    return NbdClient.connect(server.nbd_path, name)


def reopen(server, name, group):
    """A node made by add_throttled() into another group."""
    server.qmp('blockdev-reopen',
               options=[throttle(name, group, name + '-file')])


# Groups

@pytest.mark.parametrize('limits, desc', [
    ({'iops-total': 10, 'iops-read': 5}, BOTH),
    ({'bps-total': 10, 'bps-write': 5}, BOTH),
    ({'iops-total-max': 10, 'iops-read-max': 10}, BOTH),
    ({'iops-total': 10, 'iops-total-max': 5},
     'bps_max/iops_max cannot be lower than bps/iops'),
    ({'iops-total-max': 5},
     'bps_max/iops_max require corresponding bps/iops values'),
    ({'iops-total': 10, 'iops-total-max-length': 0},
     'the burst length cannot be 0'),
    ({'iops-total': 10, 'iops-total-max-length': 5},
     'burst length set without burst rate'),
    ({'bps-read': 10, 'bps-read-max': 10 ** 12,
      'bps-read-max-length': 1001},
     'burst length too high for this burst rate'),
    ({'iops-total': -1},
     'bps/iops/max values must be within [0, 1000000000000000]'),
    ({'iops-total': 10 ** 15 + 1},
     'bps/iops/max values must be within [0, 1000000000000000]'),
    ({'iops-total': 10, 'iops-total-max-length': 1 << 40},
     'iops-total-max-length value must be in the range [0, 4294967295]'),
    ({'iops-size': 512}, 'iops size requires an iops value to be set'),
    ({'bogus': 1}, "Parameter 'limits.bogus' is unexpected"),
    ({'iops-total': 'a'},
     "Invalid parameter type for 'limits.iops-total', expected: integer"),
], ids=str)
def test_bad_limits(server, limits, desc):
    """Refused when made, and when set; nothing has changed then."""
    server.fails('object-add', {'qom-type': 'throttle-group', 'id': 'g',
                                'limits': limits}, desc)
    if desc.startswith(('Parameter', 'Invalid')):
        return      # 'limits' is a member here, a whole argument there
    add_group(server, 'g')
    server.fails('qom-set', {'path': '/objects/g', 'property': 'limits',
                             'value': limits}, desc)
    assert limits_of(server, 'g') == {}


def test_limits_of_group(server):
    add_group(server, 'none')
    assert limits_of(server, 'none') == {}
    add_group(server, 'g', {'bps-total': 7}, x_iops_read=10,
              x_iops_read_max=50)
    wanted = {'bps-total': 7, 'iops-read': 10, 'iops-read-max': 50}
    assert limits_of(server, 'g') == wanted
    # What is not given stays.
    set_limits(server, 'g', bps_total=9)
    assert limits_of(server, 'g') == dict(wanted, **{'bps-total': 9})
    set_limits(server, 'g')
    assert limits_of(server, 'g') == dict(wanted, **{'bps-total': 9})
    server.fails('qom-set', {'path': '/objects/g', 'property': 'limits',
                             'value': 5},
                 "Invalid parameter type for 'limits', expected: object")
    # A member of the command line wins over none, not over limits.
    add_group(server, 'h', {'iops-total': 7}, x_iops_total=3)
    assert limits_of(server, 'h') == {'iops-total': 7}


def test_x_properties(server):
    """They can be read, and set by object-add alone."""
    add_group(server, 'g', x_iops_total=10)
    shown = {p['name']: p['type'] for p in
             server.qmp('qom-list', path='/objects/g')}
    assert shown['limits'] == 'ThrottleLimits'
    for name in NAMES:
        assert shown[f'x-{name}'] == 'int'
    get = {'path': '/objects/g', 'property': 'x-iops-total'}
    assert server.qmp('qom-get', get) == 10
    assert server.qmp('qom-get', dict(get, property='x-bps-read-max-length')
                      ) == 1
    server.fails('qom-set', dict(get, value=1),
                 'Property cannot be set after initialization')
    for options, desc in (
            ({'x-iops-total': 10, 'x-iops-read': 3}, BOTH),
            ({'x-iops-total': -10}, 'Property values cannot be negative'),
            ({'x-bps-read-max-length': -1},
             'Property values cannot be negative')):
        server.fails('object-add', dict(
            {'qom-type': 'throttle-group', 'id': 'h'}, **options), desc)


# The filter

def test_missing_group(server):
    add_group(server, 'g')
    server.fails('blockdev-add', throttle('t', 'nope', null('n')),
                 "Throttle group 'nope' does not exist")
    server.fails('blockdev-add', {'driver': 'throttle', 'node-name': 't',
                                  'file': null('n')},
                 "Parameter 'throttle-group' is missing")
    server.fails('blockdev-add', {'driver': 'throttle', 'node-name': 't',
                                  'throttle-group': 'g'},
                 "Parameter 'file' is missing")
    server.qmp('object-add', {'qom-type': 'iothread', 'id': 'i'})
    server.fails('blockdev-add', throttle('t', 'i', null('n')),
                 "Throttle group 'i' does not exist")
    assert server.nodes() == {}


def test_group_in_use(server):
    add_group(server, 'g')
    add_group(server, 'h')
    server.qmp('blockdev-add', throttle('t', 'g', null('n')))
    in_use = "object '{}' is in use, can not be deleted"
    server.fails('object-del', {'id': 'g'}, in_use.format('g'))

    def reopen(group):
        return {'options': [throttle('t', group, 'n')]}

    server.fails('blockdev-reopen', reopen('nope'),
                 "Throttle group 'nope' does not exist")
    server.fails('object-del', {'id': 'g'}, in_use.format('g'))
    server.qmp('blockdev-reopen', reopen('h'))
    server.qmp('object-del', id='g')
    server.fails('object-del', {'id': 'h'}, in_use.format('h'))
    server.qmp('blockdev-reopen', reopen('h'))
    assert '"throttle-group": "h"' in server.nodes()['t']['file']
    server.qmp('blockdev-del', node_name='t')
    server.qmp('object-del', id='h')


def test_data_passes(server, images, guest_on):
    """A format over a throttle over a file, and one under it."""
    add_group(server, 'g', {'iops-total': 3000, 'bps-read': 100 * MIB,
                            'iops-size': 4096})
    path = images.create('a.qcow2', 4 * MIB)
    server.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap',
        'file': throttle('low', 'g', {'driver': 'file', 'filename': path,
                                      'discard': 'unmap'})})
    server.qmp('blockdev-add', dict(throttle('top', 'g', 'q'),
                                    discard='unmap'))
    server.export('top')
    guest = guest_on(server, 'top', trims=True, max_bytes=30000)
    guest.random_writes(80)
    guest.flush()
    guest.verify()
    assert server.nodes()['top']['image']['virtual-size'] == 4 * MIB
    guest.close()
    wanted = guest.freeze()
    server.stop()
    same_bytes(images.content(path), wanted)


def test_resize_below(server, images):
    """block_resize goes through to what is below."""
    add_group(server, 'g', {'iops-total': 1})
    path = images.write_raw('a.img', bytes(MIB))
    server.qmp('blockdev-add', {
        'driver': 'raw', 'node-name': 'r',
        'file': throttle('t', 'g', {'driver': 'file', 'filename': path,
                                    'node-name': 'f'})})
    for name, size in (('r', 3 * MIB), ('t', 2 * MIB)):
        server.qmp('block_resize', node_name=name, size=size)
        for node in server.nodes().values():
            assert node['image']['virtual-size'] == size


# Waiting

def use_up(nbd):
    """With a limit of one byte a second: what comes now waits for long."""
    nbd.read(0, 4096)


def test_group_shared(server):
    """What one member uses another one has not."""
    add_group(server, 'g', {'bps-total': 1})
    one = add_throttled(server, 'one')
    two = add_throttled(server, 'two')
    add_group(server, 'h', {'bps-total': 1})
    three = add_throttled(server, 'three', 'h')
    use_up(one)
    use_up(three)
    two.request(CMD_WRITE, 0, 4096, data=bytes(4096))
    two.sock.settimeout(0.5)
    with pytest.raises(OSError):
        two.recv(1)
    two.sock.settimeout(two.timeout)
    add_group(server, 'free')
    reopen(server, 'two', 'free')
    assert two.reply()[1] is None
    for nbd in (one, two, three):
        nbd.close()


def test_others_do_not_wait(server):
    """Reads have a limit, writes on the same connection have none."""
    add_group(server, 'g', {'bps-read': 1})
    nbd = add_throttled(server)
    use_up(nbd)
    nbd._read_offset = 0
    reads = [nbd.request(CMD_READ, i * 4096, 4096) for i in range(8)]
    write = nbd.request(CMD_WRITE, 0, 4096, data=bytes(4096))
    assert nbd.reply()[0] == write
    for _ in range(20):
        write = nbd.request(CMD_WRITE, 0, 512, data=bytes(512))
        assert nbd.reply()[0] == write
    # Queries, too, and other exports.
    assert server.nodes()['t']
    server.qmp('blockdev-add', null('free'))
    server.export('free')
    other = NbdClient.connect(server.nbd_path, 'free')
    other.read(0, MIB)
    other.disconnect()
    add_group(server, 'no-limits')
    reopen(server, 't', 'no-limits')
    while reads:
        cookie, error, _ = nbd.reply(4096)
        assert error is None
        reads.remove(cookie)
    nbd.disconnect()


def stuck(server, n=4):
    """A connection with N writes that wait."""
    add_group(server, 'g', {'bps-total': 1})
    add_group(server, 'h')
    nbd = add_throttled(server)
    use_up(nbd)
    for i in range(n):
        nbd.request(CMD_WRITE, i * 4096, 4096, data=b'x' * 4096)
    time.sleep(0.2)
    return nbd


def all_answered(nbd, n=4):
    for _ in range(n):
        assert nbd.reply()[1] is None


def test_snapshot_lets_go(server, images):
    """A drain does not wait for the limit: a filter put on top."""
    nbd = stuck(server)
    server.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'dst',
                                'size': MIB})
    job = start_backup(server, 't', 'dst', sync='none')
    all_answered(nbd)
    server.qmp('block-job-cancel', device=job.id)
    job.wait('concluded')
    nbd.disconnect()


def test_reopen_lets_go(server):
    """To another group, while requests wait."""
    nbd = stuck(server)
    reopen(server, 't', 'h')
    all_answered(nbd)
    server.qmp('object-del', id='g')
    for _ in range(10):
        nbd.write(0, bytes(4096))
    nbd.disconnect()


@pytest.mark.ours('QEMU 7.2 lets them wait as long as they would have')
def test_new_limits_let_go(server):
    nbd = stuck(server)
    set_limits(server, 'g', bps_total=0)
    all_answered(nbd)
    nbd.disconnect()


@pytest.mark.ours('QEMU waits for what the connection has in flight')
def test_unexport_lets_go(server):
    nbd = stuck(server)
    begin = time.monotonic()
    server.unexport('t', mode='hard')
    assert time.monotonic() - begin < 5
    server.qmp('blockdev-del', node_name='t')
    nbd.close()


def quits_soon(server):
    begin = time.monotonic()
    server.quit()
    assert time.monotonic() - begin < 5


@pytest.mark.ours('the storage daemon waits for them')
def test_quit(server):
    """Requests that wait do not hold up the end."""
    nbd = stuck(server)
    quits_soon(server)
    nbd.close()


@pytest.mark.ours('the storage daemon waits for them')
def test_quit_with_job(server, images):
    """A backup whose source is throttled; the guest waits as well."""
    path = images.create('a.qcow2', 16 * MIB)
    images.io(path, 'write -P 7 0 4M')
    add_group(server, 'g', {'bps-total': 4096})
    server.add_node('q', path)
    server.qmp('blockdev-add', throttle('t', 'g', 'q'))
    server.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'dst',
                                'size': 16 * MIB})
    server.export('t')
    nbd = NbdClient.connect(server.nbd_path, 't')
    nbd.request(CMD_WRITE, 0, 1 << 16, data=bytes(1 << 16))
    start_backup(server, 't', 'dst')
    nbd.request(CMD_WRITE, MIB, 1 << 16, data=bytes(1 << 16))
    quits_soon(server)
    nbd.close()


@pytest.mark.ours('QEMU waits for what the job has in flight')
@pytest.mark.parametrize('side', ['source', 'target'])
def test_cancel_job(server, images, side):
    """At once, whichever side is slow."""
    path = images.create('a.qcow2', 16 * MIB)
    images.io(path, 'write -P 7 0 8M')
    add_group(server, 'g', {'bps-total': 1024})
    server.add_node('src', path)
    server.qmp('blockdev-add', null('dst', 16 * MIB))
    below = {'source': 'src', 'target': 'dst'}[side]
    server.qmp('blockdev-add', throttle('t', 'g', below))
    job = start_backup(server, *{'source': ('t', 'dst'),
                                 'target': ('src', 't')}[side])
    time.sleep(0.3)
    begin = time.monotonic()
    server.qmp('block-job-cancel', device=job.id)
    job.wait('concluded')
    assert time.monotonic() - begin < 5
    server.qmp('job-dismiss', id=job.id)
    # Whoever comes after the job has the limit again.
    server.export('t')
    nbd = NbdClient.connect(server.nbd_path, 't')
    nbd.request(CMD_WRITE, 0, 4096, data=bytes(4096))
    nbd.request(CMD_WRITE, 0, 4096, data=bytes(4096))
    nbd.sock.settimeout(0.5)
    with pytest.raises(OSError):
        nbd.recv(100)
    nbd.close()


def test_job_through_throttle(server, images):
    """It copies everything, a little later."""
    path = images.create('a.qcow2', 2 * MIB)
    images.io(path, 'write -P 7 0 1M')
    add_group(server, 'g', {'bps-total': 8 * MIB})
    server.add_node('q', path)
    server.qmp('blockdev-add', throttle('t', 'g', 'q'))
    server.add_node('dst', images.create('b.qcow2', 2 * MIB))
    start_backup(server, 't', 'dst').finish()
    server.stop()
    images.identical(path, images.path('b.qcow2'))


@pytest.mark.ours('the storage daemon waits for it')
def test_sigterm_while_opening(server, images):
    """An image is being opened through a throttle, slowly."""
    path = images.create('a.qcow2', MIB)
    add_group(server, 'g', {'bps-total': 16})
    server.qmp('blockdev-add', throttle('t', 'g', {
        'driver': 'file', 'node-name': 'f', 'filename': path}))
    server.mon.send('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                     'file': 't'})
    time.sleep(0.5)
    begin = time.monotonic()
    server.kill(signal.SIGTERM)
    server.wait_exit()
    assert time.monotonic() - begin < 5


# Never more than allowed

def pump(nbd, until, done):
    while time.monotonic() < until:
        nbd.write(0, bytes(65536))
        done.append(65536)


def test_never_too_fast(server):
    """Two members with two connections each, one group: together no more
    than the limit, whatever the machine can do; nobody gets nothing."""
    rate = 4 * MIB
    add_group(server, 'g', {'bps-write': rate})
    clients, done, threads = [], [], []
    for name in ('one', 'two'):
        clients.append(add_throttled(server, name))
        clients.append(NbdClient.connect(server.nbd_path, name))
    begin = time.monotonic()
    for nbd in clients:
        done.append([])
        threads.append(threading.Thread(
            target=pump, args=(nbd, begin + 2.5, done[-1])))
        threads[-1].start()
    for thread in threads:
        thread.join()
    passed = time.monotonic() - begin
    total = sum(map(sum, done))
    assert total <= rate * (passed * 1.1 + 0.1) + 4 * 65536
    assert all(done)
    for nbd in clients:
        nbd.disconnect()


def test_burst(server):
    """iops-total-max at once; the rest would take minutes."""
    add_group(server, 'g', {'iops-total': 1, 'iops-total-max': 40,
                            'iops-total-max-length': 1})
    nbd = add_throttled(server)
    begin = time.monotonic()
    for _ in range(40):
        nbd.read(0, 512)
    for _ in range(20):
        nbd.request(CMD_WRITE, 0, 512, data=bytes(512))
    time.sleep(0.5)
    set_limits(server, 'g', iops_total=0, iops_total_max=0)
    for _ in range(20):
        nbd.reply()
    # Not as slow as without the burst: 40 reads would have taken 39 s.
    assert time.monotonic() - begin < 30
    nbd.disconnect()
