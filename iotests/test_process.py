# SPDX-License-Identifier: MIT
"""The server as a process: monitors, start, end, pid file, daemon."""

import os
import re
import signal
import socket
import stat
import subprocess
import time

import pytest

from .images import run_tool
from .jobs import start_backup
from .qmp import Monitor, QmpClosed, QmpTimeout


def binary(setup):
    return setup.blockjobd if setup.kind == 'blockjobd' \
        else 'qemu-storage-daemon'


def test_help_and_version(setup):
    code, text = run_tool(binary(setup), '--help', check=False, timeout=10)
    assert code == 0
    for option in ('--blockdev', '--chardev', '--export', '--monitor',
                   '--nbd-server', '--pidfile', '--daemonize'):
        assert option in text
    code, text = run_tool(binary(setup), '--version', check=False, timeout=10)
    assert code == 0
    assert ('blockjobd' if setup.kind == 'blockjobd' else 'qemu') in text
    assert re.search(r'[0-9]+\.[0-9]+', text)


@pytest.mark.parametrize('args', [
    ['--no-such-option'], ['--blockdev'], ['stray'],
    ['--blockdev', 'driver=nope,node-name=x'],
    ['--blockdev', 'driver=file,node-name=x,filename=/nonexistent'],
    ['--blockdev', '{"driver":"null-co","node-name":"x"'],
    ['--blockdev', 'driver=null-co,node-name=x,junk=1'],
    ['--export', 'type=nbd,id=e,node-name=nope'],
    ['--nbd-server', 'addr.type=unix,addr.path=/nonexistent/dir/sock'],
    ['--monitor', 'chardev=nope'],
    ['--chardev', 'socket,id=m,path=/nonexistent/dir/s,server=on,wait=off'],
    ['--chardev', 'nonsense,id=m'],
])
def test_bad_command_line(setup, args):
    """A message on stderr with the program's name first, exit code 1."""
    code, text = run_tool(binary(setup), *args, check=False, timeout=10)
    assert code == 1
    assert text.startswith(os.path.basename(binary(setup)) + ': ')


def test_socket_mode(start_server):
    """QEMU goes by the umask; ours is for its user alone, always."""
    old = os.umask(0o022)
    try:
        server = start_server()
    finally:
        os.umask(old)
    mode = stat.S_IMODE(os.stat(server.qmp_path).st_mode)
    assert mode == (0o755 if server.is_qemu else 0o600)


def test_socket_removed(start_server):
    server = start_server()
    server.stop()
    assert not os.path.exists(server.qmp_path)


def test_stale_socket_is_replaced(start_server):
    """After kill -9 the same command line starts again."""
    server = start_server()
    server.kill()
    assert os.path.exists(server.qmp_path)
    again = start_server(name='s1')
    again.qmp('query-version')


def test_reconnect(start_server):
    """The server outlives its client."""
    server = start_server()
    for _ in range(5):
        server.mon.close()
        server.mon = server.connect()
        server.qmp('query-version')


def test_stdio_monitor(start_server):
    server = start_server(monitor='stdio')
    assert server.qmp('query-block') == []
    assert 'return' in server.quit()[-1]


def test_stdio_end_of_file(start_server):
    """When stdin ends the server goes on until it is told to stop."""
    server = start_server(monitor='stdio')
    server.proc.stdin.close()
    time.sleep(0.2)
    assert server.running()
    server.kill(signal.SIGTERM)
    server.wait_exit()


def test_tcp_monitor(start_server):
    server = start_server(monitor='tcp')
    assert server.qmp('query-block') == []


def test_tcp_name_resolved(start_server, setup):
    port = setup.free_port()
    server = start_server(monitor=None, args=[
        '--chardev', f'socket,id=m,host=localhost,port={port},server=on,'
        f'wait=off', '--monitor', 'chardev=m'])
    server.mon = Monitor.connect_tcp('localhost', port, log=server.log)
    server.mon.negotiate()
    server.qmp('query-version')


def test_inherited_listening_socket(start_server, directory):
    """server=on,fd=N takes over a socket that listens already."""
    path = os.path.join(directory, 'inherited')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = start_server(monitor=None, pass_fds=(listener.fileno(),),
                              args=['--chardev', f'socket,id=m,fd='
                                    f'{listener.fileno()},server=on,wait=off',
                                    '--monitor', 'chardev=m'])
    for _ in range(2):
        server.mon = Monitor.connect_unix(path, log=server.log)
        server.mon.negotiate()
        server.qmp('query-version')
        server.mon.close()


def test_inherited_connected_socket(start_server):
    """fd=N is one end of a socket pair, as Python harnesses do it."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = start_server(monitor=None, pass_fds=(theirs.fileno(),),
                              args=['--chardev',
                                    f'socket,id=m,fd={theirs.fileno()}',
                                    '--monitor', 'chardev=m'])
    server.mon = Monitor.from_socket(ours, log=server.log)
    server.mon.negotiate()
    server.qmp('query-version')
    assert 'return' in server.quit()[-1]


def test_connecting_monitor(start_server, directory):
    """Without server=on the server connects to us."""
    path = os.path.join(directory, 'listening')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(10)
        server = start_server(monitor=None, args=[
            '--chardev', f'socket,id=m,path={path}',
            '--monitor', 'chardev=m'])
        peer, _ = listener.accept()
    server.mon = Monitor.from_socket(peer, log=server.log)
    server.mon.negotiate()
    server.qmp('query-version')


def test_two_monitors(start_server, directory):
    """Two channels; an event goes to both, a reply to one."""
    path = os.path.join(directory, 'second')
    server = start_server(args=[
        '--chardev', f'socket,id=m2,path={path},server=on,wait=off',
        '--monitor', 'chardev=m2'])
    second = Monitor.connect_unix(path, log=server.log, name='second')
    second.negotiate()
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=1 << 20)
    start_backup(server, 'src', 'dst').finish()
    second.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})
    assert not any('return' in m for m in second.received[2:])
    second.close()


@pytest.mark.ours('QEMU serves one client at a time on a socket')
def test_several_clients_on_one_socket(start_server):
    server = start_server()
    others = [server.connect(name=f'c{i}') for i in range(8)]
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=1 << 20)
    start_backup(server, 'src', 'dst').finish()
    for mon in others:
        mon.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})
        mon.execute('query-version')
    for mon in others[::2]:
        mon.close()
    for mon in others[1::2]:
        mon.execute('query-version')
        mon.close()
    server.qmp('query-version')


@pytest.mark.ours('QEMU serves one client at a time on a socket')
def test_reader_that_never_reads(start_server):
    """A client that asks much and reads nothing holds up nobody, and
    does not make the server grow without bound."""
    server = start_server()
    sleeper = server.connect(name='sleeper')
    try:
        for _ in range(2000):
            sleeper.send_raw('{"execute":"query-qmp-schema"}', timeout=2)
    except (QmpTimeout, QmpClosed):
        pass
    started = time.monotonic()
    for _ in range(50):
        server.qmp('query-version')
    assert time.monotonic() - started < 5
    with open(f'/proc/{server.proc.pid}/status', encoding='utf-8') as text:
        rss = next(int(line.split()[1]) for line in text
                   if line.startswith('VmRSS'))
    assert rss < 600 << 10
    sleeper.close()
    server.qmp('query-version')


def test_events_to_a_reader_that_never_reads(start_server, directory):
    """Events pile up for a sleeping client; the other one goes on."""
    path = os.path.join(directory, 'second')
    server = start_server(args=[
        '--chardev', f'socket,id=m2,path={path},server=on,wait=off',
        '--monitor', 'chardev=m2'])
    sleeper = Monitor.connect_unix(path, log=server.log, name='sleeper')
    sleeper.negotiate()
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=1 << 16)
    for i in range(300):
        start_backup(server, 'src', 'dst', job_id=f'j{i}').finish()
    n_seen = 0
    while n_seen < 300:
        event = sleeper.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})
        assert event['data']['id'] == f'j{n_seen}'
        n_seen += 1
    sleeper.close()


def test_quit_replies_and_ends(start_server):
    server = start_server()
    messages = server.quit()
    assert messages[-1] == {'return': {}}


def test_quit_has_shutdown_event(start_server):
    """The system emulator's way; the storage daemon has no such event."""
    server = start_server(machine=True)
    messages = server.quit()
    shutdown = [m for m in messages if m.get('event') == 'SHUTDOWN']
    assert [m['data'] for m in shutdown] == [
        {'guest': False, 'reason': 'host-qmp-quit'}]
    assert messages[0] == shutdown[0]
    assert messages[-1] == {'return': {}} and len(messages) == 2


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it(start_server, signum):
    server = start_server(machine=True)
    server.kill(signum)
    messages = server.mon.wait_closed()
    server.wait_exit()
    assert [m['data'] for m in messages if m.get('event') == 'SHUTDOWN'] == \
        [{'guest': False, 'reason': 'host-signal'}]


@pytest.mark.parametrize('how', ['quit', 'term'])
def test_end_with_running_job(start_server, images, how):
    """The job is cancelled, the images are closed clean."""
    source = images.create('source.qcow2', '64M')
    target = images.create('target.qcow2', '64M')
    images.io(source, 'write -P 5 0 32M')
    server = start_server()
    server.add_node('src', source)
    server.add_node('dst', target)
    start_backup(server, 'src', 'dst', speed=65536)
    server.mon.drop_events()
    if how == 'quit':
        server.mon.send_raw('{"execute":"quit"}')
    else:
        server.kill(signal.SIGTERM)
    messages = server.mon.wait_closed()
    server.wait_exit()
    steps = [m['data'].get('status', m['event']) for m in messages
             if m.get('event', '').startswith(('JOB_', 'BLOCK_JOB'))]
    assert steps[-4:] == ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded',
                          'null'] or \
        steps[-3:] == ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded']
    images.check(target)


def test_end_with_export_and_client(start_server, images, guest_on):
    """quit does not wait for an NBD client; its writes are on disk."""
    path = images.create('a.qcow2', '4M')
    server = start_server()
    server.add_node('n', path)
    server.export('n')
    guest = guest_on(server, 'n')
    guest.random_writes(100)
    messages = server.quit()
    assert {'return': {}} in messages
    assert images.content(path) == guest.freeze()


@pytest.mark.parametrize('ms', [0, 1, 2, 5])
@pytest.mark.parametrize('first', ['quit', 'term'])
def test_signals_while_it_ends(start_server, images, first, ms):
    """Once the end has begun, more signals do not break it off."""
    names = [f'b{i}' for i in range(200)]
    path = images.create('a.qcow2', '256G')
    server = start_server()
    server.add_node('n', path)
    server.qmp('transaction', actions=[
        {'type': 'block-dirty-bitmap-add', 'data': {
            'node': 'n', 'name': name, 'persistent': True}}
        for name in names])
    if first == 'quit':
        server.mon.send_raw('{"execute":"quit"}')
    else:
        server.kill(signal.SIGTERM)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        time.sleep(ms / 1000)
        server.kill(signum)
    server.wait_exit()
    stored = images.bitmaps(path)
    assert set(stored) == set(names)
    assert not any('in-use' in b['flags'] for b in stored.values())
    images.check(path)


@pytest.mark.ours('QEMU 7.2 keeps the soft limit')
def test_many_files(start_server, images):
    """The soft limit of open files is no limit."""
    path = images.create('a.raw', '1M', 'raw')
    nodes = [arg for i in range(100) for arg in (
        '--blockdev', f'driver=file,node-name=f{i},filename={path},'
        f'read-only=on')]
    server = start_server(args=nodes,
                          wrapper=['prlimit', '--nofile=64:4096'])
    assert len(server.nodes()) == 100


def test_pidfile(start_server):
    server = start_server(pidfile=True)
    path = server.path('pid')
    with open(path, encoding='ascii') as pidfile:
        assert int(pidfile.read()) == server.proc.pid
    server.stop()
    assert not os.path.exists(path)


def test_daemonize(setup, directory, images):
    """The parent returns when the sockets are there; the daemon lives
    on and has given up the terminal."""
    qmp = os.path.join(directory, 'qmp')
    pid_path = os.path.join(directory, 'pid')
    path = images.create('a.qcow2', '1M')
    done = subprocess.run(
        [binary(setup), '--chardev',
         f'socket,id=m,path={qmp},server=on,wait=off', '--monitor',
         'chardev=m', '--blockdev',
         f'driver=file,node-name=f,filename={path}', '--pidfile', pid_path,
         '--daemonize'], timeout=20, check=False, stdin=subprocess.DEVNULL,
        capture_output=True)
    assert done.returncode == 0, done.stderr
    with open(pid_path, encoding='ascii') as pidfile:
        pid = int(pidfile.read())
    mon = Monitor.connect_unix(qmp, timeout=0, log=setup.log)
    mon.negotiate()
    assert mon.execute('query-named-block-nodes')[0]['node-name'] == 'f'
    assert os.getsid(pid) != os.getsid(0)
    mon.send_raw('{"execute":"quit"}')
    mon.wait_closed()
    mon.close()
    deadline = time.monotonic() + 10
    while os.path.exists(f'/proc/{pid}') and time.monotonic() < deadline:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        time.sleep(0.02)
    assert not os.path.exists(f'/proc/{pid}')


def test_daemonize_reports_errors(setup):
    """A mistake is told before the parent returns."""
    code, text = run_tool(
        binary(setup), '--daemonize', '--blockdev',
        'driver=file,node-name=f,filename=/nonexistent', check=False,
        timeout=20)
    assert code == 1 and 'No such file' in text


@pytest.mark.parametrize('option', [
    ['--chardev', 'stdio,id=m', '--monitor', 'chardev=m'],
    pytest.param(['--qmp', 'stdio'], marks=pytest.mark.ours('no --qmp'))])
def test_daemonize_without_stdio(setup, option):
    """Nobody could reach that monitor."""
    for args in (['--daemonize', *option], [*option, '--daemonize']):
        code, text = run_tool(binary(setup), *args, check=False, timeout=20)
        assert code == 1
        assert f'{option[0]} {option[1]}: cannot use stdio with -daemonize' \
            in text


@pytest.mark.ours('QEMU has no --qmp in its storage daemon')
def test_short_qmp_option(start_server, directory):
    path = os.path.join(directory, 'short')
    server = start_server(monitor=None, args=[
        '--qmp', f'unix:{path},server=on,wait=off'])
    server.mon = Monitor.connect_unix(path, log=server.log)
    server.mon.negotiate()
    server.qmp('query-version')
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_blockdev_on_command_line(start_server, images):
    """Both forms, in order, references included."""
    path = images.create('a.qcow2', '1M')
    server = start_server(blockdev=[
        f'driver=file,node-name=f,filename={path}',
        {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'},
        'driver=raw,node-name=r,file.driver=null-co,file.size=65536'])
    assert set(server.nodes()) >= {'f', 'q', 'r'}
    assert server.nodes()['r']['image']['virtual-size'] == 65536


def test_comma_in_option(start_server, images):
    path = images.write_raw('a,b', bytes(512))
    doubled = path.replace(',', ',,')
    server = start_server(blockdev=[
        f'driver=file,node-name=f,filename={doubled}'])
    assert server.nodes()['f']['file'] == path


def test_export_on_command_line(start_server, images, directory):
    path = images.create('a.qcow2', '1M')
    images.io(path, 'write -P 3 0 64k')
    sock = os.path.join(directory, 'nbd')
    server = start_server(
        blockdev=[{'driver': 'qcow2', 'node-name': 'q',
                   'file': {'driver': 'file', 'filename': path}}],
        nbd=f'addr.type=unix,addr.path={sock}',
        export=['type=nbd,id=e,node-name=q,name=disk,writable=on'])
    images.io(f'nbd+unix:///disk?socket={sock}', 'read -P 3 0 64k',
              'write -P 4 64k 64k', fmt='raw')
    assert server.qmp('query-block-exports') == [
        {'id': 'e', 'type': 'nbd', 'node-name': 'q', 'shutting-down': False}]
