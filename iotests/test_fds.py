# SPDX-License-Identifier: MIT
"""Descriptors that clients pass: named ones, sets, /dev/fdset/N."""

import contextlib
import json
import os
import socket
import time

import pytest

from .nbd import NbdClient
from .qmp import QmpError, TIMEOUT

NONE_CAME = 'No file descriptor supplied via SCM_RIGHTS'


@contextlib.contextmanager
def opened(path, flags):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def send(vm, fds, command, **arguments):
    """Run a command with descriptors; its reply, or the error's text."""
    sock = vm._sockets[0][0]
    message = {'execute': command, 'id': 'fd', 'arguments': {
        key.replace('_', '-'): value for key, value in arguments.items()}}
    socket.send_fds(sock, [json.dumps(message).encode() + b'\n'], list(fds))
    try:
        return vm.mon.reply_to('fd', command)
    except QmpError as exc:
        return exc.desc


def fdsets(vm):
    """query-fdsets as [(number, how many)]."""
    return [(s['fdset-id'], len(s['fds'])) for s in vm.qmp('query-fdsets')]


def add_file(vm, name, number, **options):
    vm.qmp('blockdev-add', dict(
        {'driver': 'file', 'node-name': name,
         'filename': f'/dev/fdset/{number}'}, **options))


def is_open(vm, path):
    """How often has the server PATH open?"""
    folder = f'/proc/{vm.proc.pid}/fd'
    n = 0
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            n += os.readlink(os.path.join(folder, fd)) == path
    return n


@pytest.fixture
def image(images):
    return images.create('a.img', '1M', fmt='raw')


@pytest.fixture
def vm(launch):
    return launch(machine='none').start()


def test_getfd_and_closefd(vm, image):
    with opened(image, os.O_RDONLY) as fd:
        assert send(vm, [], 'getfd', fdname='x') == NONE_CAME
        assert send(vm, [fd], 'getfd', fdname='1x') == \
            "Parameter 'fdname' expects a name not starting with a digit"
        assert send(vm, [], 'getfd', fdname='x') == NONE_CAME
        assert is_open(vm, image) == 0
        for name in ('x', 'x', ''):
            assert send(vm, [fd], 'getfd', fdname=name) == {}
        assert is_open(vm, image) == 2      # the first x was replaced
    vm.qmp('closefd', fdname='x')
    vm.fails('closefd', fdname='x',
             desc="File descriptor named 'x' not found")
    vm.qmp('closefd', fdname='')
    assert is_open(vm, image) == 0


def test_only_the_first_of_several(vm, image):
    with opened(image, os.O_RDONLY) as fd:
        assert send(vm, [fd, fd, fd], 'getfd', fdname='y') == {}
        assert send(vm, [], 'getfd', fdname='z') == NONE_CAME
    assert is_open(vm, image) == 1


def test_it_waits_for_the_command_that_asks(vm, image):
    """A descriptor stays for the next command that takes it, and makes way
    for the next that comes."""
    with opened(image, os.O_RDONLY) as fd:
        send(vm, [fd], 'query-name')
        send(vm, [fd], 'query-name')
        assert is_open(vm, image) == 1
        assert send(vm, [], 'getfd', fdname='x') == {}
        assert send(vm, [], 'getfd', fdname='y') == NONE_CAME
        # As QEMU's own harness does: a blank goes ahead with it.
        socket.send_fds(vm._sockets[0][0], [b' '], [fd])
        assert send(vm, [], 'getfd', fdname='z') == {}


@pytest.mark.ours('QEMU stops reading while a command runs')
def test_many_at_once(vm, image, images):
    """Each command that is sent ahead has what came with it."""
    others = [images.create(f'{i}.img', '1M', fmt='raw') for i in range(6)]
    sock = vm._sockets[0][0]
    for i, path in enumerate(others):
        with opened(path, os.O_RDWR) as fd:
            socket.send_fds(sock, [json.dumps(
                {'execute': 'add-fd', 'id': i,
                 'arguments': {'opaque': path}}).encode()], [fd])
    replies = [vm.mon.reply_to(i) for i in range(6)]
    for path, reply in zip(others, replies):
        assert os.readlink(f'/proc/{vm.proc.pid}/fd/{reply["fd"]}') == path


def test_sets(vm, image):
    with opened(image, os.O_RDONLY) as fd:
        assert send(vm, [], 'add-fd') == NONE_CAME
        first = send(vm, [fd], 'add-fd')
        assert first['fdset-id'] == 0
        assert send(vm, [fd], 'add-fd', opaque='o')['fdset-id'] == 1
        assert send(vm, [fd], 'add-fd', fdset_id=0, opaque='')['fdset-id'] \
            == 0
        assert send(vm, [fd], 'add-fd', fdset_id=7)['fdset-id'] == 7
        assert send(vm, [fd], 'add-fd')['fdset-id'] == 2
        assert send(vm, [fd], 'add-fd', fdset_id=-1) == \
            "Parameter 'fdset-id' expects a non-negative value"
    listed = vm.qmp('query-fdsets')
    assert [(s['fdset-id'], [f.get('opaque') for f in s['fds']])
            for s in listed] == [(7, [None]), (2, [None]), (1, ['o']),
                                 (0, [None, ''])]
    assert listed[-1]['fds'][0]['fd'] == first['fd']
    missing = "File descriptor named 'fdset-id:{}' not found"
    vm.fails('remove-fd', {'fdset-id': 99}, missing.format(99))
    vm.fails('remove-fd', {'fdset-id': -1}, missing.format(-1))
    vm.fails('remove-fd', {'fdset-id': 0, 'fd': 999},
             missing.format('0, fd:999'))


def test_remove(launch, image):
    """What is removed is closed; an empty set is none.  (QEMU 7.2 waits with
    it while the machine does not run.)"""
    vm = launch(machine='none').start()
    if vm.is_qemu:
        vm.qmp('cont')
    with opened(image, os.O_RDONLY) as fd:
        for _ in range(3):
            first = send(vm, [fd], 'add-fd', fdset_id=4)
        assert send(vm, [fd], 'add-fd')['fdset-id'] == 0
    vm.qmp('remove-fd', {'fdset-id': 4, 'fd': first['fd']})
    assert fdsets(vm) == [(4, 2), (0, 1)]
    assert is_open(vm, image) == 3
    vm.qmp('remove-fd', {'fdset-id': 4})
    assert fdsets(vm) == [(0, 1)]
    assert is_open(vm, image) == 1


def test_file_of_a_set(vm, image, images):
    """It opens as the one that has the access mode asked for."""
    with opened(image, os.O_RDONLY) as r, opened(image, os.O_RDWR) as rw:
        send(vm, [r], 'add-fd', fdset_id=0)
        send(vm, [rw], 'add-fd', fdset_id=1)
    denied = 'Could not dup FD for /dev/fdset/{} flags {}: {}'
    add = {'driver': 'file', 'node-name': 'n'}
    for number, more, flags, why in (
            (0, {}, 2, 'Permission denied'),
            (1, {'read-only': True}, 0, 'Permission denied'),
            (22, {}, 2, 'No such file or directory'),
            (22, {'auto-read-only': True}, 0, 'No such file or directory'),
            (22, {'cache': {'direct': True}}, 4002,
             'No such file or directory')):
        vm.fails('blockdev-add', dict(
            add, filename=f'/dev/fdset/{number}', **more),
            denied.format(number, flags, why))
    for text in ('x', '', '1x', '-1'):
        vm.fails('blockdev-add', dict(add, filename=f'/dev/fdset/{text}'),
                 f'Could not parse fdset /dev/fdset/{text}' if text != '-1'
                 else None)
    add_file(vm, 'ro', 0, **{'read-only': True})
    add_file(vm, 'n', 1)
    assert vm.nodes()['n']['file'] == '/dev/fdset/1'
    assert vm.nodes()['n']['image']['filename'] == '/dev/fdset/1'
    vm.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'n'})
    vm.qemu_io('r', 'write -P 7 4k 4k')
    vm.qmp('blockdev-del', {'node-name': 'r'})
    vm.qmp('blockdev-del', {'node-name': 'n'})
    assert images.content(image)[4096:8192] == b'\7' * 4096


def test_image_of_a_set(launch, images):
    """A qcow2 in a descriptor, after its name is gone from the disk."""
    path = images.create('a.qcow2', '1M')
    vm = launch(machine='none').start()
    with opened(path, os.O_RDWR) as fd:
        send(vm, [fd], 'add-fd', fdset_id=3)
    away = path + '.away'
    os.rename(path, away)
    vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': {
        'driver': 'file', 'filename': '/dev/fdset/3'}})
    vm.qemu_io('q', 'write -P 5 0 64k')
    vm.qmp('blockdev-del', {'node-name': 'q'})
    os.rename(away, path)
    assert images.content(path)[:65536] == b'\5' * 65536


def test_auto_read_only_takes_from_the_set(vm, image):
    """What follows its users finds both modes in the set."""
    with opened(image, os.O_RDONLY) as r, opened(image, os.O_RDWR) as rw:
        send(vm, [r], 'add-fd', fdset_id=3)
        send(vm, [rw], 'add-fd', fdset_id=3)
    add_file(vm, 'n', 3, **{'auto-read-only': True})
    raw = {'driver': 'raw', 'node-name': 'r', 'file': 'n'}
    vm.qmp('blockdev-add', raw)
    for read_only in (True, False, True):
        vm.qmp('blockdev-reopen',
               options=[dict(raw, **{'read-only': read_only})])
    vm.qmp('blockdev-del', {'node-name': 'r'})
    vm.qmp('blockdev-del', {'node-name': 'n'})


def test_removed_while_in_use(launch, image, images):
    """Who has it open goes on; the set goes with its last user."""
    vm = launch(machine='none').start()
    if vm.is_qemu:
        vm.qmp('cont')
    with opened(image, os.O_RDWR) as fd:
        send(vm, [fd], 'add-fd')
    add_file(vm, 'n', 0)
    vm.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'n'})
    vm.qmp('remove-fd', {'fdset-id': 0})
    assert fdsets(vm) == [(0, 0)]
    vm.fails('blockdev-add', {'driver': 'file', 'node-name': 'n2',
                              'filename': '/dev/fdset/0'},
             'Could not dup FD for /dev/fdset/0 flags 2: Permission denied')
    vm.qemu_io('r', 'write -P 9 0 4k')
    vm.qmp('blockdev-del', {'node-name': 'r'})
    vm.qmp('blockdev-del', {'node-name': 'n'})
    assert fdsets(vm) == []
    assert is_open(vm, image) == 0
    assert images.content(image)[:4096] == b'\11' * 4096


def test_locks_go_with_the_node(vm, image):
    """A copy of a descriptor shares its locks: nothing may be left of them
    while the set still has it."""
    with opened(image, os.O_RDWR) as fd:
        send(vm, [fd], 'add-fd')
    for _ in range(2):
        vm.qmp('blockdev-add', {
            'driver': 'raw', 'node-name': 'r',
            'file': {'driver': 'file', 'filename': '/dev/fdset/0'}})
        vm.qmp('blockdev-del', {'node-name': 'r'})
    vm.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': {
        'driver': 'file', 'filename': image}})
    vm.qmp('blockdev-del', {'node-name': 'r'})


def test_create_in_a_set(vm, images, image):
    """blockdev-create writes into a descriptor, too."""
    with opened(image, os.O_RDWR) as fd:
        send(vm, [fd], 'add-fd')
    for number, error in ((0, None), (77, 'Could not dup FD for '
                                      '/dev/fdset/77 flags 42: No such file '
                                      'or directory')):
        vm.qmp('blockdev-create', {'job-id': 'j', 'options': {
            'driver': 'file', 'filename': f'/dev/fdset/{number}',
            'size': 65536}})
        vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j',
                                            'status': 'concluded'})
        job, = vm.qmp('query-jobs')
        assert job.get('error') == error
        vm.qmp('job-dismiss', id='j')
    assert os.path.getsize(image) == 65536


def test_monitors_share_sets_not_names(launch, image, directory):
    """Names are the connection's, and closed with it; sets are not."""
    path = os.path.join(directory, 'other')
    vm = launch('-chardev', f'socket,id=c,path={path},server=on,wait=off',
                '-mon', 'chardev=c,mode=control', machine='none').start()
    with opened(image, os.O_RDWR) as fd:
        send(vm, [fd], 'add-fd')
        send(vm, [fd], 'getfd', fdname='k')
    other = type(vm.mon).connect_unix(path, log=vm.log, name='other')
    other.negotiate()
    assert other.execute('query-fdsets')[0]['fdset-id'] == 0
    other.fails('closefd', {'fdname': 'k'},
                "File descriptor named 'k' not found")
    with opened(image, os.O_RDONLY) as fd:
        socket.send_fds(other._keep[0], [b' '], [fd])
        other.execute('getfd', {'fdname': 'k'})
    vm.qmp('closefd', fdname='k')
    assert is_open(vm, image) == 2
    other.close()
    if not vm.is_qemu:
        wait_until(lambda: is_open(vm, image) == 1)
    assert fdsets(vm) == [(0, 1)]


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_add_fd_option(launch, image):
    """-add-fd: there before any node is opened."""
    fd = os.open(image, os.O_RDWR)
    ro = os.open(image, os.O_RDONLY)
    vm = launch('-add-fd', f'fd={fd},set=2,opaque=rw',
                '-add-fd', f'fd={ro},set=2', '-blockdev',
                'file,node-name=n,filename=/dev/fdset/2', machine='none',
                pass_fds=(fd, ro))
    vm.start()
    os.close(fd)
    os.close(ro)
    (found,) = vm.qmp('query-fdsets')
    assert found['fdset-id'] == 2
    assert [f.get('opaque') for f in found['fds']] == ['rw', None]
    assert vm.nodes().keys() == {'n'}


def test_drive_of_a_set(launch, images):
    """-drive opens it, found out to be qcow2; a snapshot goes over it."""
    path = images.create('a.qcow2', '1M')
    with opened(path, os.O_RDWR) as rw, opened(path, os.O_RDONLY) as ro:
        vm = launch('-add-fd', f'fd={rw},set=2', '-add-fd',
                    f'fd={ro},set=2', '-drive',
                    'if=none,id=drv,file=/dev/fdset/2',
                    machine='none', pass_fds=(rw, ro)).start()
    entry, = vm.qmp('query-block')
    assert entry['inserted']['drv'] == 'qcow2'
    vm.qemu_io('drv', 'write -P 3 0 64k')
    top = images.adopt(path + '.top')
    vm.qmp('blockdev-snapshot-sync', {'device': 'drv', 'snapshot-file': top})
    vm.qemu_io('drv', 'write -P 4 64k 64k')
    vm.quit()
    images.ignore(top)      # its backing file has a name no more
    assert images.content(path)[:65536] == b'\3' * 65536


@pytest.mark.parametrize('text,message', [
    ('fd=FD', 'set option is required and must be non-negative'),
    ('set=1', 'fd option is required and must be non-negative'),
    ('fd=0,set=1', 'fd cannot be a standard I/O stream'),
    ('fd=999,set=1', 'fd is not valid or already in use'),
    ('fd=x,set=1', "Parameter 'fd' expects a number"),
    ('fd=FD,set=x', "Parameter 'set' expects a number"),
    ('fd=FD,set=-1', 'set option is required and must be non-negative'),
    ('fd=FD,set=1,foo=1', "Invalid parameter 'foo'"),
])
def test_add_fd_option_refused(launch, image, text, message):
    with opened(image, os.O_RDONLY) as fd:
        text = text.replace('FD', str(fd))
        vm = launch('-add-fd', text, machine='none', pass_fds=(fd,))
        vm.expect_exit = 1
        with pytest.raises((AssertionError, OSError)):
            vm.start()
        vm.wait_exit()
    assert f'-add-fd {text}: {message}\n' in vm.stderr()


def nbd_pair(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def test_nbd_client_over_a_named_one(launch):
    """{"type": "fd", "str": NAME}: the descriptor is used up; [147]."""
    server = launch('-blockdev', 'null-co,node-name=n,size=1048576',
                    machine='none').start()
    server.export('n')
    vm = launch(machine='none').start()
    add = {'driver': 'nbd', 'node-name': 'c', 'export': 'n',
           'server': {'type': 'fd', 'str': 'sock'}}
    missing = "File descriptor named 'sock' has not been found"
    vm.fails('blockdev-add', add, missing)
    with contextlib.closing(nbd_pair(server.nbd_path)) as sock:
        assert send(vm, [sock.fileno()], 'getfd', fdname='sock') == {}
    vm.qmp('blockdev-add', add)
    assert vm.nodes()['c']['image']['virtual-size'] == 1048576
    vm.fails('closefd', fdname='sock',
             desc="File descriptor named 'sock' not found")
    vm.qmp('blockdev-del', {'node-name': 'c'})
    vm.fails('blockdev-add', add, missing)


def test_nbd_server_on_a_named_one(launch, directory, image):
    """nbd-server-start on a listening socket that was passed."""
    vm = launch('-blockdev', 'null-co,node-name=n,size=1048576',
                machine='none').start()
    start = {'addr': {'type': 'fd', 'data': {'str': 's'}}}
    vm.fails('nbd-server-start', start,
             "File descriptor named 's' has not been found")
    with opened(image, os.O_RDONLY) as fd:
        send(vm, [fd], 'getfd', fdname='s')
    vm.fails('nbd-server-start', start,
             "File descriptor 's' is not a socket")
    path = os.path.join(directory, 'nbd')
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(path)
        sock.listen()
        assert send(vm, [sock.fileno()], 'getfd', fdname='s') == {}
    vm.qmp('nbd-server-start', start)
    vm.qmp('nbd-server-add', device='n')
    with contextlib.closing(NbdClient.connect(path, 'n')) as client:
        assert client.size == 1048576
