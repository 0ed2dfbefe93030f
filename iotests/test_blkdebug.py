# SPDX-License-Identifier: MIT
"""blkdebug: errors where they are wanted, limits as they are wanted, and
what the drivers above make of them; blkverify."""

import errno
import os
import time

import pytest

from .images import qemu_img, run_tool, same_bytes
from .jobs import start_backup
from .nbd import CMD_FLUSH, CMD_READ, CMD_WRITE, NbdClient, NbdError
from .qmp import QmpError, SCALE

MIB = 1 << 20


def file_of(path):
    return {'driver': 'file', 'filename': path}


def rule(event='none', **options):
    return dict({'event': event}, **options)


def state(event, new_state, **options):
    return dict({'event': event, 'new_state': new_state}, **options)


def debug(path, *rules, states=(), **options):
    """Options of a blkdebug over a file, or over other options."""
    node = {'driver': 'blkdebug',
            'image': path if isinstance(path, dict) else file_of(path)}
    if rules:
        node['inject-error'] = list(rules)
    if states:
        node['set-state'] = list(states)
    node.update({k.replace('_', '-'): v for k, v in options.items()})
    return node


NULL = {'driver': 'null-co', 'size': 4 * MIB, 'read-zeroes': True}


def add(server, name, options):
    server.qmp('blockdev-add', dict(options, **{'node-name': name}))


def on_raw(server, *rules, image=None, **options):
    """A raw node `n` on a blkdebug, exported; an NBD client of it."""
    add(server, 'n', {'driver': 'raw', 'discard': 'unmap', 'file': dict(
        debug(image or NULL, *rules, **options), discard='unmap')})
    server.export('n')
    return connect(server, 'n')


def connect(server, name):
    """With simple replies: QEMU drops a connection whose sparse read
    fails."""
    return NbdClient.connect(server.nbd_path, name, structured=False)


def outcome(request, *args):
    """0, or the errno with which a request fails."""
    try:
        request(*args)
    except NbdError as exc:
        return exc.errno
    return 0


def read(client, offset=0, length=512):
    return outcome(client.read, offset, length)


def write(client, offset=0, length=512):
    return outcome(client.write, offset, bytes(length))


# Rules

def test_default_is_eio_for_ever(server):
    client = on_raw(server, rule('read_aio', iotype='read'))
    assert [read(client) for _ in range(3)] == [errno.EIO] * 3
    assert write(client) == 0
    client.disconnect()


@pytest.mark.parametrize('code', [errno.EIO, errno.ENOSPC, errno.EPERM,
                                  errno.EINVAL, errno.ENOMEM])
def test_errno_reaches_the_client(server, code):
    client = on_raw(server, rule(iotype='write', errno=code, once=True))
    assert write(client) == code
    assert write(client) == 0
    client.disconnect()


def test_zero_is_no_error(server):
    client = on_raw(server, rule(errno=0))
    assert read(client) == 0
    client.disconnect()


def test_once(server):
    client = on_raw(server, rule('read_aio', iotype='read', once=True))
    assert [read(client) for _ in range(3)] == [errno.EIO, 0, 0]
    client.disconnect()


def test_first_rule_wins(server):
    client = on_raw(server, rule('write_aio', iotype='write', once=True),
                    rule('write_aio', iotype='write', errno=errno.ENOSPC))
    assert [write(client) for _ in range(3)] == [
        errno.EIO, errno.ENOSPC, errno.ENOSPC]
    client.disconnect()


def test_rules_stay_in_force_until_others_match(server):
    """An event puts rules into force, for requests of every kind; those of
    the next event that has some take their place."""
    client = on_raw(server, rule(iotype='read'),
                    rule('write_aio', iotype='write', errno=errno.ENOSPC))
    assert read(client) == errno.EIO
    assert write(client) == errno.ENOSPC
    assert read(client) == 0
    client.disconnect()


def test_states(server):
    """Rules see the state before the event."""
    client = on_raw(
        server, rule('read_aio', state=2, once=True, iotype='read'),
        states=[state('read_aio', 2, state=1), state('read_aio', 3, state=2)])
    assert [read(client) for _ in range(4)] == [0, errno.EIO, 0, 0]
    client.disconnect()


def test_state_at_creation(server):
    client = on_raw(server, rule('read_aio', state=2, iotype='read'),
                    states=[state('none', 2)])
    assert read(client) == errno.EIO
    client.disconnect()


def test_pwritev_is_raised_once_per_request(server):
    client = on_raw(
        server, rule('pwritev', state=3, once=True, iotype='write'),
        states=[state('pwritev', 2, state=1), state('pwritev', 3, state=2),
                state('pwritev', 4, state=3)])
    assert [write(client) for _ in range(4)] == [0, 0, errno.EIO, 0]
    client.disconnect()


def test_sector(server):
    client = on_raw(server, rule(sector=3))
    for offset, length, code in ((0, 1536, 0), (1536, 512, errno.EIO),
                                 (0, 4096, errno.EIO), (2048, 512, 0)):
        assert read(client, offset, length) == code
        assert write(client, offset, length) == code
    assert outcome(client.flush) == 0
    assert outcome(client.write_zeroes, 1536, 512) == errno.EIO
    assert outcome(client.trim, 1024, 1024) == errno.EIO
    client.disconnect()


@pytest.mark.parametrize('iotype', ['read', 'write', 'write-zeroes',
                                    'discard', 'flush'])
def test_iotype(server, iotype):
    client = on_raw(server, rule(iotype=iotype))
    wanted = {}
    requests = {
        'read': lambda: client.read(0, 512),
        'write': lambda: client.write(0, bytes(512)),
        'write-zeroes': lambda: client.write_zeroes(4096, 4096),
        'discard': lambda: client.trim(8192, 4096),
        'flush': client.flush,
    }
    for name, request in requests.items():
        wanted[name] = outcome(request)
    assert wanted == {name: errno.EIO if name == iotype else 0
                      for name in requests}
    client.disconnect()


def test_flush_events(server):
    """flush_to_os comes with every flush, flush_to_disk if there is
    something new."""
    client = on_raw(server, rule('flush_to_disk', iotype='read'))
    assert outcome(client.flush) == 0 and read(client) == 0
    assert write(client) == 0 and read(client) == 0
    assert outcome(client.flush) == 0 and read(client) == errno.EIO
    client.disconnect()
    server.unexport('n')
    server.qmp('blockdev-del', node_name='n')
    client = on_raw(server, rule('flush_to_os', iotype='read'))
    assert read(client) == 0
    assert outcome(client.flush) == 0 and read(client) == errno.EIO
    client.disconnect()


@pytest.mark.parametrize('event', [
    'pwritev_rmw_head', 'pwritev_rmw_after_head', 'pwritev_rmw_tail',
    'pwritev_rmw_after_tail'])
def test_read_modify_write(server, event):
    client = on_raw(server, rule(event, iotype='write', errno=errno.ENOSPC),
                    align=4096)
    assert write(client, 0, 8192) == 0
    assert write(client, 100, 8192) == errno.ENOSPC
    client.disconnect()


def test_config_file(server, images):
    path = images.path('rules')
    with open(path, 'w', encoding='utf-8') as config:
        config.write('# fail writes, then reads\n\n'
                     '[inject-error]\nevent = "write_aio"\n'
                     'iotype = "write"\nerrno = "28"\nonce = "on"\n'
                     'immediately = "off"\n\n'
                     '[set-state "x"]\n  event = "write_aio"\n'
                     '\tstate = "1"\n  new_state = "2"\n\n'
                     '[inject-error]\nevent = "read_aio"\nstate = "2"\n'
                     'sector = "0x1"\n')
    client = on_raw(server, config=path)
    assert read(client, 512) == 0
    assert write(client) == errno.ENOSPC
    assert read(client) == 0
    assert read(client, 512) == errno.EIO
    client.disconnect()


@pytest.mark.parametrize('text,desc', [
    ('[inject-error]\n', 'Missing event name for rule'),
    ('[inject-error]\nevent = "foo"\n', 'invalid parameter value: foo'),
    ('[foo]\nevent = "read_aio"\n', "There is no option group 'foo'"),
    ('event = "x"\n', 'no group defined'),
    ('[inject-error]\nevent = "read_aio"\nbla = "1"\n',
     "Invalid parameter 'bla'"),
    ('[inject-error]\nevent = "read_aio"\nerrno = "abc"\n',
     "Parameter 'errno' expects a number"),
    ('[inject-error]\nevent = "read_aio"\nonce = "maybe"\n',
     "Parameter 'once' expects 'on' or 'off'"),
    ('[inject-error]\nevent = "read_aio"\niotype = "x"\n',
     'invalid parameter value: x'),
])
def test_bad_config(server, images, text, desc):
    path = images.path('rules')
    with open(path, 'w', encoding='utf-8') as config:
        config.write(text)
    server.fails('blockdev-add',
                 dict(debug(NULL, config=path), **{'node-name': 'n'}), desc)


@pytest.mark.ours('QEMU fills its memory')
@pytest.mark.parametrize('path', ['/dev/zero', '.', '', '/nonexistent'])
def test_config_is_no_file(server, path):
    error = server.fails('blockdev-add', dict(debug(NULL, config=path),
                                              **{'node-name': 'n'}))
    assert 'Could not read blkdebug config file: ' in str(error)


# Options

@pytest.mark.parametrize('options,desc', [
    ({'align': 3}, 'Cannot meet constraints with align 3'),
    ({'align': -1},
     "Parameter 'align' expects a non-negative number below 2^64"),
    ({'align': 1 << 31}, 'Cannot meet constraints with align 2147483648'),
    ({'align': 512, 'max-transfer': 513},
     'Cannot meet constraints with max-transfer 513'),
    ({'align': 4096, 'max-transfer': 512},
     'Cannot meet constraints with max-transfer 512'),
    ({'max-transfer': 1 << 32}, "Parameter 'max-transfer' expects int32_t"),
    ({'align': 4096, 'opt-write-zero': 512},
     'Cannot meet constraints with opt-write-zero 512'),
    ({'opt-write-zero': 8192, 'max-write-zero': 12288},
     'Cannot meet constraints with max-write-zero 12288'),
    ({'align': 512, 'opt-discard': 700},
     'Cannot meet constraints with opt-discard 700'),
    ({'align': 512, 'max-discard': 513},
     'Cannot meet constraints with max-discard 513'),
    ({'max-discard': -1},
     "Parameter 'max-discard' expects a non-negative number below 2^64"),
], ids=str)
def test_bad_limits(server, options, desc):
    server.fails('blockdev-add', dict(debug(NULL), **options,
                                      **{'node-name': 'n'}), desc)


@pytest.mark.ours('QEMU takes any number')
@pytest.mark.parametrize('options', [
    {'errno': -1}, {'errno': 4096}, {'errno': 1 << 40}, {'sector': -2},
    {'sector': 1 << 60}], ids=str)
def test_bad_rules(server, options):
    server.fails('blockdev-add', dict(debug(NULL, rule(**options)),
                                      **{'node-name': 'n'}))


@pytest.mark.parametrize('limits', [
    {'align': 4096}, {'max-transfer': 65536},
    {'align': 512, 'max-transfer': 512},
    {'opt-write-zero': 65536, 'max-write-zero': 131072},
    {'opt-discard': 32768, 'max-discard': 65536, 'align': 4096}], ids=str)
def test_limits_keep_data(server, images, guest_on, limits):
    """Whatever the limits, the guest has its disk."""
    path = images.write_raw('a.raw', bytes(4 * MIB))
    add(server, 'n', {'driver': 'raw', 'discard': 'unmap', 'file': dict(
        debug(dict(file_of(path), discard='unmap')), discard='unmap',
        **limits)})
    server.export('n')
    guest = guest_on(server, 'n', unit=1, max_bytes=300000)
    guest.random_writes(60)
    guest.flush()
    guest.verify()
    guest.close()
    server.stop()
    same_bytes(images.content(path), guest.freeze())


def test_child_permissions(server, images):
    path = images.write_raw('a.raw', bytes(MIB))
    add(server, 'n', debug(path, take_child_perms=['write', 'resize'],
                           unshare_child_perms=['write', 'resize']))
    graph = server.qmp('x-debug-query-block-graph')
    [edge] = [edge for edge in graph['edges'] if edge['name'] == 'image']
    assert sorted(edge['perm']) == ['resize', 'write']
    assert sorted(edge['shared-perm']) == ['consistent-read',
                                           'write-unchanged']


def test_names(server, images):
    path = images.write_raw('a.raw', bytes(MIB))
    config = images.path('rules')
    with open(config, 'w', encoding='utf-8'):
        pass
    cases = [
        (debug(path), f'blkdebug::{path}'),
        (debug(path, config=config), f'blkdebug:{config}:{path}'),
        (debug(path, take_child_perms=['write']), f'blkdebug::{path}'),
        (debug(path, align=512),
         {'driver': 'blkdebug', 'align': 512, 'image': file_of(path)}),
        (debug(path, rule('read_aio', sector=3), rule('l2_load', once=True),
               states=[state('none', 2)]),
         {'driver': 'blkdebug', 'image': file_of(path),
          'inject-error.0.event': 'read_aio', 'inject-error.0.sector': 3,
          'inject-error.1.event': 'l2_load', 'inject-error.1.once': True,
          'set-state.0.event': 'none', 'set-state.0.new_state': 2}),
        (debug(NULL), {'driver': 'blkdebug', 'image': NULL}),
        ({'driver': 'blkverify', 'test': file_of(path),
          'raw': dict(file_of(path), **{'locking': 'off'})},
         f'blkverify:{path}:{path}'),
        ({'driver': 'blkverify', 'test': file_of(path), 'raw': NULL},
         {'driver': 'blkverify', 'test': file_of(path), 'raw': NULL}),
    ]
    for options, wanted in cases:
        add(server, 'd', options)
        add(server, 'n', {'driver': 'raw', 'file': 'd'})
        nodes = server.nodes()
        if isinstance(wanted, str):
            assert nodes['d']['file'] == nodes['n']['file'] == wanted
        else:
            assert name_options(nodes['d']['file']) == wanted
            assert name_options(nodes['n']['file']) == {
                'driver': 'raw', 'file': wanted}
        server.qmp('blockdev-del', node_name='n')
        server.qmp('blockdev-del', node_name='d')


def name_options(name):
    import json
    assert name.startswith('json:'), name
    return json.loads(name[5:])


def test_order_of_nodes(server, images):
    """These drivers are older than their children."""
    path = images.write_raw('a.raw', bytes(MIB))
    add(server, 'n', {'driver': 'raw', 'file': named(debug(
        {'driver': 'raw', 'node-name': 'r', 'file': named(file_of(path),
                                                          'f')}), 'd')})
    add(server, 'v', {'driver': 'blkverify', 'raw': named(NULL, 'vr'),
                      'test': named(NULL, 'vt')})
    add(server, 'q', {'driver': 'quorum', 'vote-threshold': 1, 'children': [
        named(NULL, 'q0'), {'driver': 'raw', 'node-name': 'q1',
                            'file': named(NULL, 'q1f')}]})
    assert list(server.nodes()) == [
        'q1', 'q1f', 'q0', 'q', 'vt', 'vr', 'v', 'n', 'r', 'f', 'd']


def named(options, name):
    return dict(options, **{'node-name': name})


def test_resize(server, images):
    path = images.write_raw('a.raw', bytes(MIB))
    add(server, 'd', debug(path))
    server.qmp('block_resize', node_name='d', size=2 * MIB)
    assert server.nodes()['d']['image']['virtual-size'] == 2 * MIB
    assert os.path.getsize(path) == 2 * MIB


def test_names_open_again(server, images):
    """What a node is called opens it, as a backing file."""
    base = images.create('base.qcow2', '1M')
    images.io(base, 'write -P 5 0 64k')
    add(server, 'd', debug(base, rule('write_aio', errno=28)))
    for name in (server.nodes()['d']['file'], f'blkdebug::{base}',
                 f'blkdebug::blkdebug::{base}'):
        if server.is_qemu and name.startswith('json:'):
            continue            # wants driver qcow2 in the name
        top = images.create('top.qcow2', '1M')
        qemu_img('rebase', '-u', '-b', name, '-F', 'qcow2', top)
        images.ignore(top)
        server.add_node('top', top)
        backing = server.nodes()['top']['backing_file']
        if name.startswith('json:'):
            assert name_options(backing)['file'] == name_options(name)
        else:
            assert backing == name
        server.export('top', writable=False)
        client = connect(server, 'top')
        assert client.read(0, 65536) == bytes([5]) * 65536
        client.disconnect()
        server.unexport('top')
        server.qmp('blockdev-del', node_name='top')
    for name, desc in (('blkdebug:x', 'blkdebug requires both config file '
                        'and image path'),
                       ('blkverify:x', 'blkverify requires raw copy and '
                        'original image path')):
        qemu_img('rebase', '-u', '-b', name, '-F', 'qcow2', top)
        error = server.fails('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top', 'file': file_of(top)})
        assert desc in str(error)


def test_raw_on_blkdebug_in_header(server, images):
    """Backing format raw puts a raw node on the blkdebug [030 041]."""
    base = images.write_raw('base.raw', b'\7' * MIB)
    rules = images.path('rules')
    with open(rules, 'w', encoding='utf-8') as config:
        config.write('[inject-error]\nevent = "read_aio"\nonce = "off"\n')
    top = images.create('top.qcow2', '1M')
    qemu_img('rebase', '-u', '-b', f'blkdebug:{rules}:{base}', '-F', 'raw',
             top)
    server.add_node('top', top)
    drivers = sorted(node['drv'] for node in server.nodes().values())
    assert drivers == ['blkdebug', 'file', 'file', 'qcow2', 'raw']
    server.export('top', writable=False)
    client = connect(server, 'top')
    assert read(client) == errno.EIO
    client.disconnect()


# blkverify

def test_blkverify(server, images, guest_on):
    """All that is written goes to both."""
    test = images.create('test.qcow2', '4M')
    raw = images.write_raw('raw.raw', bytes(4 * MIB))
    add(server, 'n', {'driver': 'raw', 'file': {
        'driver': 'blkverify', 'raw': file_of(raw),
        'test': {'driver': 'qcow2', 'file': file_of(test)}}})
    server.export('n')
    guest = guest_on(server, 'n')
    if server.is_qemu:          # its blkverify dies of a zero write
        for at in range(0, 3 * MIB, 100000):
            guest.write(at, b'blkverif' * (at % 7777 + 1))
    else:
        guest.random_writes(60)
    guest.flush()
    guest.verify()
    guest.close()
    server.stop()
    same_bytes(images.content(raw), guest.freeze())
    same_bytes(images.content(test), guest.freeze())


@pytest.mark.parametrize('driver', ['blkverify', 'quorum'])
def test_mismatch_ends_the_process(server, images, driver):
    """[071 081]"""
    paths = [images.write_raw('0.raw', bytes(MIB)),
             images.write_raw('1.raw', bytes(65836) + b'\7' +
                              bytes(MIB - 65837))]
    add(server, 'n', {'driver': 'raw', 'file': {
        'blkverify': {'driver': 'blkverify', 'raw': file_of(paths[0]),
                      'test': file_of(paths[1])},
        'quorum': {'driver': 'quorum', 'blkverify': True, 'vote-threshold': 2,
                   'children': [file_of(path) for path in paths]},
    }[driver]})
    server.export('n')
    client = connect(server, 'n')
    assert client.read(0, 65536) == bytes(65536)
    server.expect_exit = 1
    with pytest.raises((OSError, NbdError, EOFError)):
        client.read(65536, 1024)
    server.wait_exit()
    line = {'blkverify': 'blkverify: read offset=65536 bytes=1024 contents '
                         'mismatch at offset 65836\n',
            'quorum': 'quorum: offset=65536 bytes=1024 contents mismatch at '
                      'offset 65836\n'}[driver]
    assert line in server.stderr()


def test_blkverify_compares_results(server, images):
    add(server, 'n', {'driver': 'blkverify', 'raw': NULL,
                      'test': debug(NULL, rule(iotype='write'))})
    server.export('n')
    client = connect(server, 'n')
    server.expect_exit = 1
    with pytest.raises((OSError, NbdError, EOFError)):
        client.write(0, bytes(512))
    server.wait_exit()
    assert 'blkverify: write offset=0 bytes=512 return value mismatch ' \
        '-5 != 0\n' in server.stderr()


# Real use: qcow2 with an error at every event

QCOW2_EVENTS = [
    'l1_update', 'l1_grow_alloc_table', 'l1_grow_write_table',
    'l1_grow_activate_table', 'l2_load', 'l2_update', 'l2_alloc_cow_read',
    'l2_alloc_write', 'read_aio', 'write_aio', 'cow_read', 'cow_write',
    'reftable_load', 'reftable_grow', 'reftable_update', 'refblock_load',
    'refblock_update', 'refblock_update_part', 'refblock_alloc',
    'refblock_alloc_hookup', 'refblock_alloc_write',
    'refblock_alloc_write_blocks', 'refblock_alloc_write_table',
    'refblock_alloc_switch_table', 'cluster_alloc', 'cluster_free',
    'flush_to_os', 'flush_to_disk', 'pwritev', 'pwritev_zero',
    'pwritev_done', 'none']


SECTOR = 512


class FaultyDisk:
    """What each sector of a disk may hold, on which requests fail.

    Acknowledged and flushed: that, and nothing else.  Acknowledged only: a
    server whose disk fails may lose it at its end.  Failed: done or not.
    """

    def __init__(self, content):
        self.now = [{content[i:i + SECTOR]}
                    for i in range(0, len(content), SECTOR)]
        self.stable = [set(values) for values in self.now]
        self.codes = set()

    def request(self, call, *args):
        code = outcome(call, *args)
        self.codes.add(code)
        return code

    def write(self, client, offset, data):
        self._put(offset, data, self.request(client.write, offset, data))

    def zero(self, client, offset, length):
        self._put(offset, bytes(length),
                  self.request(client.write_zeroes, offset, length))

    def trim(self, client, offset, length):
        self.request(client.trim, offset, length)
        self._put(offset, bytes(length), errno.EIO)     # or not

    def _put(self, offset, data, code):
        for at in range(0, len(data), SECTOR):
            i = (offset + at) // SECTOR
            value = data[at:at + SECTOR]
            if code == 0:
                self.now[i] = {value}
            else:
                self.now[i] |= {value}
            self.stable[i] |= {value}

    def flush(self, client):
        if self.request(client.flush) == 0:
            self.stable = [set(values) for values in self.now]

    def read(self, client, offset, length):
        try:
            data = client.read(offset, length)
        except NbdError as exc:
            self.codes.add(exc.errno)
        else:
            self._compare(self.now, offset, data, 'read')

    @staticmethod
    def _compare(allowed, offset, data, what):
        for at in range(0, len(data), SECTOR):
            values = allowed[(offset + at) // SECTOR]
            value = data[at:at + SECTOR]
            assert value in values, \
                f'{what}: wrong at {offset + at:#x}: {value[:8]}, may be ' \
                f'{[v[:8] for v in values]}'

    def check_image(self, content):
        self._compare(self.stable, 0, content, 'image')


def work_on(disk, client):
    """Everything that changes a qcow2's tables."""
    disk.write(client, MIB, b'\2' * 65536)
    disk.read(client, MIB, 65536)
    disk.flush(client)
    disk.write(client, 4 * MIB + 512, b'\3' * 1024)
    disk.zero(client, 192 << 10, 65536)
    disk.zero(client, 5 * MIB + 512, 102400)
    disk.trim(client, 160 << 10, 32768)
    disk.flush(client)
    disk.write(client, 6 * MIB, b'\4' * 307200)
    disk.write(client, MIB + 1024, b'\5' * 512)
    disk.flush(client)
    disk.write(client, 64 << 10, b'\6' * 8192)
    disk.read(client, 0, 8 * MIB)


def open_faulty(server, images, rules, states, **options):
    """A qcow2 `n` of 8 MiB on a blkdebug; False: it cannot be opened."""
    options.setdefault('cluster_size', 4096)
    path = images.create('a.qcow2', '8M', **options)
    images.io(path, 'write -P 1 0 256k')
    images.allow_leaks(path)
    add(server, 'd', debug(dict(file_of(path), discard='unmap'), *rules,
                           states=states))
    try:
        add(server, 'n', {'driver': 'qcow2', 'file': 'd', 'discard': 'unmap'})
    except QmpError as exc:
        return path, str(exc)
    return path, None


def run_faulty(server, images, code, rules, states, **options):
    path, refused = open_faulty(server, images, rules, states, **options)
    disk = FaultyDisk((b'\1' * (256 << 10)).ljust(8 * MIB, b'\0'))
    if refused:
        assert os.strerror(code) in refused
    else:
        server.export('n')
        client = connect(server, 'n')
        disk.flush(client)
        work_on(disk, client)
        assert disk.codes <= {0, code}, disk.codes
        client.disconnect()
    server.stop()
    if images.info(path).get('dirty-flag'):     # lazy refcounts: that is how
        run_tool('qemu-img', 'check', '-q', '-r', 'all', path, check=False)
    disk.check_image(images.content(path))
    return disk


@pytest.mark.parametrize('once', [True, False], ids=['once', 'always'])
@pytest.mark.parametrize('cluster', [0, 1, 2, 3, 4, 5, 6, 20, 70, 71])
def test_qcow2_bad_sector(server, images, cluster, once):
    """A place in the file that cannot be read, tables or data."""
    if server.is_qemu and not once:
        pytest.skip('QEMU now and then hangs at its end')
    run_faulty(server, images, errno.EIO,
               [rule(iotype='read', sector=cluster * 8, once=once)], [])


@pytest.mark.parametrize('code', [errno.EIO, errno.ENOSPC],
                         ids=errno.errorcode.get)
@pytest.mark.parametrize('once', [True, False], ids=['once', 'always'])
@pytest.mark.parametrize('event', QCOW2_EVENTS)
def test_qcow2_survives(server, images, event, once, code):
    """An error at any event: the right errno reaches the client or none,
    nothing hangs, what was flushed is there, and the image is consistent;
    clusters may be leaked."""
    run_faulty(server, images, code,
               [rule(event, state=1 if event == 'none' else 2, errno=code,
                     once=once)],
               [state('flush_to_os', 2, state=1)])


@pytest.mark.parametrize('options', [
    {}, {'lazy_refcounts': 'on'}, {'refcount_bits': 1},
    {'extended_l2': 'on', 'cluster_size': 16384}], ids=str)
@pytest.mark.parametrize('once', [True, False], ids=['once', 'always'])
@pytest.mark.parametrize('nth', [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 31,
                                 40, 60])
def test_qcow2_nth_write_fails(server, images, nth, once, options):
    """Whichever write to the file fails, or all from it on."""
    code = (errno.EIO, errno.ENOSPC)[nth % 2]
    options = dict({'cluster_size': 4096}, **options)
    run_faulty(server, images, code,
               [rule('pwritev', state=nth, errno=code, once=once,
                     iotype='write')],
               [state('pwritev', i + 1, state=i) for i in range(1, nth)],
               **options)


@pytest.mark.parametrize('nth', range(1, 7))
def test_qcow2_nth_flush_fails(server, images, nth):
    run_faulty(server, images, errno.EIO,
               [rule('flush_to_disk', state=nth, once=True, iotype='flush')],
               [state('flush_to_disk', i + 1, state=i)
                for i in range(1, nth)])


@pytest.mark.parametrize('nth', range(1, 16))
@pytest.mark.parametrize('size', [64 * MIB, 2 * MIB, 512 << 20], ids=str)
def test_qcow2_resize_fails(server, images, nth, size):
    """A resize that fails leaves a consistent image, of either size."""
    path = images.create('a.qcow2', '8M', cluster_size=4096)
    images.io(path, 'write -P 1 0 256k')
    images.allow_leaks(path)
    add(server, 'd', debug(
        path, rule('pwritev', state=nth, errno=errno.ENOSPC, once=True,
                   iotype='write'),
        states=[state('pwritev', i + 1, state=i) for i in range(1, nth)]))
    add(server, 'n', {'driver': 'qcow2', 'file': 'd'})
    try:
        server.qmp('block_resize', node_name='n', size=size)
    except QmpError as exc:
        assert os.strerror(errno.ENOSPC) in str(exc), exc
    shown = server.nodes()['n']['image']['virtual-size']
    assert shown in (8 * MIB, size)
    server.stop()
    content = images.content(path) if size < 100 * MIB else None
    if content:
        assert content[:256 << 10] == b'\1' * (256 << 10)
        assert not any(content[256 << 10:])
    assert images.info(path)['virtual-size'] in (8 * MIB, size)


@pytest.mark.parametrize('code', [errno.EIO, errno.ENOSPC],
                         ids=errno.errorcode.get)
@pytest.mark.parametrize('n_writes', range(8))
def test_create_fails_halfway(server, images, code, n_writes):
    """blockdev-create through a blkdebug: the job says the errno."""
    path = images.write_raw('a.raw', b'')
    images.ignore(path)
    states = [state('pwritev', i + 2, state=i + 1) for i in range(n_writes)]
    add(server, 'd', debug(path, rule('pwritev', state=n_writes + 1,
                                      errno=code), states=states))
    server.qmp('blockdev-create', {'job-id': 'c', 'options': {
        'driver': 'qcow2', 'file': 'd', 'size': 4 * MIB}})
    deadline = time.monotonic() + 15 * SCALE
    while True:
        [job] = server.qmp('query-jobs')
        if job['status'] == 'concluded':
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if 'error' in job:
        assert os.strerror(code) in job['error']
    server.qmp('job-dismiss', id='c')


# Jobs over it: only that they meet the errors; the policies are elsewhere

@pytest.mark.parametrize('side', ['source', 'target'])
def test_backup_stops_and_resumes(server, images, side):
    source = images.write_raw('src.raw', b'\5' * (4 * MIB))
    target = images.write_raw('dst.raw', bytes(4 * MIB))
    fault = {'source': rule(iotype='read', errno=errno.ENOSPC, once=True),
             'target': rule(iotype='write', errno=errno.EIO, once=True)}[side]
    for name, path, here in (('src', source, side == 'source'),
                             ('dst', target, side == 'target')):
        add(server, name, {'driver': 'raw', 'file': debug(
            path, *([fault] if here else []))})
    job = start_backup(server, 'src', 'dst', sync='full',
                       **{f'on_{side}_error': 'stop'})
    job.wait('BLOCK_JOB_ERROR').wait('paused')
    assert job.events['BLOCK_JOB_ERROR']['operation'] == {
        'source': 'read', 'target': 'write'}[side]
    server.qmp('block-job-resume', device=job.id)
    job.finish()
    server.stop()
    same_bytes(images.content(target), images.content(source))


# Stopped requests

@pytest.mark.ours('no such section in QEMU 7.2, where nothing could end it')
@pytest.mark.parametrize('event', ['read_aio', 'l2_load', 'write_aio',
                                   'flush_to_disk'])
def test_quit_lets_go(server, images, event):
    """A request that is stopped does not keep the server from its end, nor
    other commands from being answered."""
    path = images.create('a.qcow2', '4M')
    images.io(path, 'write 0 64k')
    rules = images.path('rules')
    with open(rules, 'w', encoding='utf-8') as config:
        config.write(f'[suspend]\nevent = "{event}"\ntag = "A"\n')
    add(server, 'd', debug(path, config=rules))
    add(server, 'n', {'driver': 'qcow2', 'file': 'd'})
    server.export('n')
    client = connect(server, 'n')
    if event in ('read_aio', 'l2_load'):
        client.request(CMD_READ, 0, 512)
    elif event == 'write_aio':
        client.request(CMD_WRITE, 65536, 512, data=bytes(512))
    else:
        client.write(65536, bytes(512))
        client.request(CMD_FLUSH)
    time.sleep(0.3)
    assert server.nodes()['n']['drv'] == 'qcow2'
    server.fails('blockdev-del', node_name='n')
    server.stop()
    client.close()


@pytest.mark.ours('no such section in QEMU 7.2')
def test_closing_is_not_stopped(server, images):
    """Who could resume a node that is gone?"""
    path = images.create('a.qcow2', '4M')
    rules = images.path('rules')
    with open(rules, 'w', encoding='utf-8') as config:
        for event in ('flush_to_os', 'flush_to_disk', 'refblock_update',
                      'l2_update', 'pwritev'):
            config.write(f'[suspend]\nevent = "{event}"\ntag = "A"\n')
    add(server, 'd', debug(path, config=rules))
    add(server, 'n', {'driver': 'qcow2', 'file': 'd'})
    server.qmp('blockdev-del', node_name='n')
    server.qmp('blockdev-del', node_name='d')


def test_reopen(server, images):
    """The same options again, or nothing."""
    path = images.write_raw('a.raw', bytes(MIB))
    options = dict(debug(path, rule('read_aio')), **{'node-name': 'd'})
    server.qmp('blockdev-add', options)
    server.qmp('blockdev-reopen', options=[options])
    server.fails('blockdev-reopen', options=[dict(options, align=512)],
                 desc="Cannot change the option 'align'")
    add(server, 'v', {'driver': 'blkverify', 'raw': NULL, 'test': NULL})
    server.fails('blockdev-reopen', options=[{
        'driver': 'blkverify', 'node-name': 'v', 'raw': NULL, 'test': NULL}],
        desc="Block format 'blkverify' used by node 'v' does not support "
             "reopening files")


def test_qemu_reads_our_names(server, images):
    """qemu-img opens what we call a node."""
    path = images.write_raw('a.raw', b'\6' * MIB)
    add(server, 'd', debug(path, rule('write_aio')))
    name = server.nodes()['d']['file']
    server.qmp('blockdev-del', node_name='d')
    assert 'blkdebug' in run_tool('qemu-img', 'info', name)
