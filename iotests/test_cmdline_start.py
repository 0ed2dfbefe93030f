# SPDX-License-Identifier: MIT
"""Starting in QEMU's place: as managers and harnesses do it."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from .images import run_tool
from .qmp import Monitor, TIMEOUT
from .test_cmdline_errors import program

SYSTEM = 'qemu-system-x86_64'
DAEMON = 'qemu-storage-daemon'
BARE = ['-M', 'none', '-nodefaults', '-display', 'none']


def converse(path, args, commands, cwd, name='-qmp'):
    """Send commands to QMP on stdio; all messages but the greeting."""
    channel = ['-qmp', 'stdio'] if name == '-qmp' else \
        ['--chardev', 'stdio,id=m', '--monitor', name]
    text = ''.join(json.dumps(c) + '\n' for c in
                   [{'execute': 'qmp_capabilities'}, *commands,
                    {'execute': 'quit'}])
    done = subprocess.run([path, *args, *channel], input=text, text=True,
                          capture_output=True, timeout=60, check=False,
                          cwd=cwd)
    assert done.returncode == 0, done
    messages = [json.loads(line) for line in done.stdout.splitlines()
                if line.startswith('{')]
    assert 'QMP' in messages[0]
    assert messages[1] == {'return': {}}
    return messages[2:]


def returns(messages):
    """Without events and the reply of quit."""
    return [m['return'] for m in messages if 'return' in m][:-1]


@pytest.fixture
def system(setup, directory):
    """system(args, commands): returns of the commands."""
    def run(args, *commands):
        return returns(converse(
            program(setup, directory, SYSTEM), args,
            [c if isinstance(c, dict) else {'execute': c} for c in commands],
            directory))
    return run


# Names and states

def test_name_and_uuid(system):
    uuid = '12345678-9ABC-def0-1234-56789abcdef0'
    assert system(BARE + ['-name', 'guest=a,debug-threads=on',
                          '-uuid', uuid], 'query-name', 'query-uuid') == \
        [{'name': 'a'}, {'UUID': uuid.lower()}]
    assert system(BARE + ['-name', 'b'], 'query-name') == [{'name': 'b'}]
    assert system(BARE, 'query-name', 'query-uuid') == \
        [{}, {'UUID': '00000000-0000-0000-0000-000000000000'}]


@pytest.mark.parametrize('args, status', [
    ([], 'running'), (['-S'], 'prelaunch'),
    (['-incoming', 'defer'], 'inmigrate'),
    (['-S', '-incoming', 'defer'], 'inmigrate')])
def test_state(system, args, status):
    state, = system(BARE + args, 'query-status')
    assert (state['running'], state['status']) == \
        (status == 'running', status)


@pytest.mark.ours('what happens at once here')
@pytest.mark.parametrize('args, stays', [
    ([], False), (['-no-shutdown'], True),
    (['-action', 'shutdown=pause'], True),
    (['-no-shutdown', '-action', 'shutdown=poweroff'], False)])
def test_no_shutdown(setup, directory, args, stays):
    messages = converse(setup.blockjobd, BARE + args,
                        [{'execute': 'system_powerdown'}] +
                        [{'execute': 'query-status'}] * stays, directory)
    events = [m['event'] for m in messages if 'event' in m]
    assert events == ['POWERDOWN', 'SHUTDOWN'] + ['STOP', 'SHUTDOWN'] * stays
    if stays:
        assert returns(messages)[1]['status'] == 'shutdown'


# Order

def test_order_does_not_matter(system, images):
    """Devices before the drives, drives before the objects they name."""
    path = images.create('a.qcow2', '1M')
    block, nodes = system(
        ['-device', 'virtio-scsi-pci,id=s',
         '-device', 'scsi-hd,drive=n,id=hd',
         '-device', 'virtio-blk-pci,drive=d,id=v,iothread=io',
         '-drive', f'if=none,id=d,file={path},format=qcow2',
         '-blockdev', 'null-co,node-name=p',
         '-blockdev', 'raw,node-name=n,file=p',
         '-object', 'iothread,id=io',
         '-nodefaults', '-display', 'none', '-S', '-M', 'pc'],
        'query-block', 'query-named-block-nodes')
    assert [(b['device'], b['qdev']) for b in block] == \
        [('d', '/machine/peripheral/v/virtio-backend'), ('', 'hd')]
    assert [n['drv'] for n in nodes] == ['qcow2', 'file', 'raw', 'null-co']


def test_images_are_drives(system, images):
    """-hda and its like, and a name alone."""
    paths = {name: images.create(f'{name}.qcow2', '1M')
             for name in ('hdb', 'hdc', 'cd', 'alone')}
    block, = system(['-nodefaults', '-display', 'none', '-S', '-M', 'pc',
                     '-hdb', paths['hdb'], paths['alone'], '-hdd',
                     paths['hdc'], '-cdrom', paths['cd']], 'query-block')
    assert [(b['device'], os.path.basename(b['inserted']['file']),
             b['inserted']['ro']) for b in block] == [
        ('ide0-hd1', 'hdb.qcow2', False), ('ide0-hd0', 'alone.qcow2', False),
        ('ide1-hd1', 'hdc.qcow2', False), ('ide1-cd0', 'cd.qcow2', True)]


def test_snapshot(system, images):
    """Nothing is kept."""
    path = images.create('a.qcow2', '1M')
    block, = system(BARE + ['-drive', f'file={path},if=none,id=a,'
                            'format=qcow2', '-snapshot'], 'query-block')
    inserted = block[0]['inserted']
    assert inserted['backing_file_depth'] == 1
    assert inserted['file'] != path
    assert inserted['image']['backing-image']['filename'] == path


def test_set_and_readconfig(system, images, directory):
    path = images.create('a.qcow2', '1M')
    config = os.path.join(directory, 'options')
    with open(config, 'w', encoding='ascii') as file:
        file.write(f'# disks\n[drive "d"]\n  if = "none"\n'
                   f'  file = "{path}"\n\n'
                   '[device "v"]\n  driver = "virtio-blk-pci"\n'
                   '  drive = "d"\n')
    block, name = system(
        ['-nodefaults', '-display', 'none', '-S', '-M', 'pc', '-readconfig',
         config, '-set', 'drive.d.node-name=n', '-name', 'x'],
        'query-block', 'query-name')
    assert block[0]['inserted']['node-name'] == 'n'
    assert block[0]['qdev'] == '/machine/peripheral/v/virtio-backend'
    assert name == {'name': 'x'}


def test_options_add_up(system):
    """-machine, more than once: the last name counts."""
    kinds = ['-M', 'nope', '-machine', 'accel=tcg', '-M', 'none']
    assert system(kinds + BARE[2:], 'query-name') == [{}]


def test_accepted(system):
    """What managers pass and nothing comes of."""
    assert system(
        ['-name', 'guest=g,debug-threads=on', '-S',
         '-object', 'secret,id=masterKey0,data=abc',
         '-machine', 'pc,usb=off,dump-guest-core=off', '-accel', 'tcg',
         '-m', '64', '-overcommit', 'mem-lock=off',
         '-smp', '1,sockets=1,cores=1,threads=1',
         '-uuid', '12345678-9abc-def0-1234-56789abcdef0',
         '-display', 'none', '-no-user-config', '-nodefaults',
         '-rtc', 'base=utc', '-no-shutdown', '-no-acpi', '-boot',
         'strict=on', '-audiodev', '{"id":"audio1","driver":"none"}',
         '-sandbox', 'off', '-msg', 'timestamp=on', '-vga', 'none',
         '-net', 'none', '-serial', 'null', '-parallel', 'none', '-usb',
         '-cpu', 'qemu64', '-no-reboot', '-no-hpet',
         '-global', 'PIIX4_PM.disable_s3=1', '-k', 'en-us',
         '-action', 'reboot=reset', '-watchdog-action', 'none'],
        'query-name') == [{'name': 'g'}]


# Monitors

def test_machine_has_shutdown_event(setup, directory):
    messages = converse(program(setup, directory, SYSTEM), BARE, [],
                        directory)
    assert messages[0]['event'] == 'SHUTDOWN'
    assert messages[0]['data'] == {'guest': False,
                                   'reason': 'host-qmp-quit'}


@pytest.mark.parametrize('monitor', ['m', 'chardev=m', 'm,mode=control',
                                     '{"chardev":"m"}'])
def test_storage_daemon(setup, directory, monitor):
    """No SHUTDOWN, no commands of a machine; under our own name too."""
    for name in [DAEMON] + ['blockjobd'] * (setup.kind == 'blockjobd'):
        messages = converse(program(setup, directory, name), [],
                            [{'execute': 'query-commands'},
                             {'execute': 'query-block-jobs'}], directory,
                            monitor)
        assert len(messages) == 3       # those and quit's
        commands = {c['name'] for c in messages[0]['return']}
        assert commands.isdisjoint({
            'device_add', 'human-monitor-command', 'stop', 'cont', 'eject',
            'migrate', 'add-fd', 'system_reset'})
        assert commands >= {'blockdev-add', 'qom-set', 'object-add',
                            'block-export-add', 'quit'}
        missing = converse(program(setup, directory, name), [],
                           [{'execute': 'device_add'}], directory, monitor)
        assert missing[0]['error'] == {
            'class': 'CommandNotFound',
            'desc': 'The command device_add has not been found'}


def hmp(path, args, lines, cwd):
    """What a monitor for people says on stdout."""
    done = subprocess.run([path, *args], input=lines, text=True,
                          capture_output=True, timeout=60, check=False,
                          cwd=cwd)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize('args', [
    ['-monitor', 'stdio'], ['-nographic'],
    ['-chardev', 'stdio,id=m', '-mon', 'm'],
    ['-chardev', 'stdio,id=m', '-mon', 'chardev=m,mode=readline'],
    ['-chardev', 'stdio,id=m', '-monitor', 'chardev:m']])
def test_monitor_for_people(setup, directory, args):
    head = ['-M', 'none', '-display', 'none'] + \
        ([] if args == ['-nographic'] else ['-nodefaults'])
    text = hmp(program(setup, directory, SYSTEM), head + args, 'quit\n',
               directory)
    assert re.match(r"QEMU [0-9.]+ monitor - type 'help' for more "
                    r'information\r?\n\(qemu\) ', text)


def test_no_monitor(setup, directory):
    """None unless asked for: nothing on the terminal, stdin is not read."""
    for args in (['-M', 'none', '-display', 'none'],
                 ['-M', 'none', '-nographic', '-nodefaults'],
                 ['-M', 'none', '-nographic', '-monitor', 'none',
                  '-serial', 'none']):
        proc = subprocess.Popen(
            [program(setup, directory, SYSTEM), *args, '-pidfile', 'pid'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=directory)
        wait_for(os.path.join(directory, 'pid'))
        assert select.select([proc.stdout], [], [], 0.2)[0] == []
        # QEMU may be there before it looks at signals.
        proc.terminate()
        assert proc.wait(TIMEOUT) in ((0,) if setup.kind != 'qemu'
                                      else (0, -signal.SIGTERM))
        assert proc.stdout.read() == b''
        proc.stdin.close()
        proc.stdout.close()


def wait_for(path):
    deadline = time.monotonic() + TIMEOUT
    while not os.path.exists(path):
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


def test_pretty(setup, directory):
    """In indented lines, the greeting ended by } in column 0."""
    done = subprocess.run(
        [program(setup, directory, SYSTEM), *BARE, '-qmp-pretty', 'stdio'],
        input='{"execute":"qmp_capabilities"}\n{"execute":"quit"}',
        text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == '{' and lines[1] == '    "QMP": {'
    assert '}' in lines


def test_two_monitors(setup, directory):
    """QMP beside a monitor for people, one of them a FIFO's two ends."""
    for end in ('in', 'out'):
        os.mkfifo(os.path.join(directory, f'p.{end}'))
    proc = subprocess.Popen(
        [program(setup, directory, SYSTEM), *BARE, '-monitor', 'pipe:p',
         '-qmp', 'unix:q,server=on,wait=off', '-pidfile', 'pid'],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=directory)
    try:
        wait_for(os.path.join(directory, 'pid'))
        with open(os.path.join(directory, 'p.out'), 'rb',
                  buffering=0) as out, \
                open(os.path.join(directory, 'p.in'), 'wb',
                     buffering=0) as talk:
            seen = b''
            while b'(qemu) ' not in seen:
                seen += out.read(4096)
            mon = Monitor.connect_unix(os.path.join(directory, 'q'))
            mon.may_greet_twice = True
            mon.negotiate()
            assert mon.execute('query-name', {}) == {}
            mon.close()
            talk.write(b'quit\n')
            assert proc.wait(TIMEOUT) == 0
    finally:
        if proc.poll() is None:
            proc.kill()
            proc.wait()


def test_pty(setup, directory):
    """A monitor on a terminal of its own, which is told."""
    proc = subprocess.Popen(
        [program(setup, directory, SYSTEM), *BARE, '-monitor', 'pty'],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, cwd=directory)
    try:
        line = proc.stdout.readline()
        path = re.fullmatch(r'char device redirected to (/dev/pts/\d+) '
                            r'\(label compat_monitor0\)\n', line).group(1)
        terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.write(terminal, b'info name\n')
        seen = b''
        while seen.count(b'(qemu) ') < 1 or b'info name' not in seen:
            assert select.select([terminal], [], [], TIMEOUT)[0]
            seen += os.read(terminal, 4096)
        os.write(terminal, b'quit\n')
        assert proc.wait(TIMEOUT) == 0
        os.close(terminal)
    finally:
        if proc.poll() is None:
            proc.kill()
            proc.wait()
        proc.stdout.close()


def test_query_chardev(setup, directory):
    """The newest first; where each leads."""
    messages = converse(
        program(setup, directory, SYSTEM),
        BARE + ['-chardev', 'null,id=n', '-chardev',
                'socket,id=s,path=sock,server=on,wait=off',
                '-chardev', 'file,id=f,path=out', '-mon', 's'],
        [{'execute': 'query-chardev'}], directory)
    found = {c['label']: (c['filename'], c['frontend-open'])
             for c in messages[0]['return']}
    assert found == {
        'n': ('null', False), 'f': ('file', False),
        's': ('disconnected:unix:sock,server=on', True),
        'compat_monitor0': ('stdio', True)}


# In the background, as libvirt asks what an emulator can do

@pytest.mark.parametrize('name', [SYSTEM, DAEMON])
def test_daemonize(setup, directory, name):
    """The command returns when the socket listens and the pid file is
    there; both pipes are closed then."""
    sock = os.path.join(directory, 'qmp.monitor')
    pidfile = os.path.join(directory, 'qmp.pid')
    args = ['-S', '-no-user-config', '-nodefaults', '-nographic',
            '-machine', 'none,accel=kvm:tcg',
            '-qmp', f'unix:{sock},server=on,wait=off', '-pidfile', pidfile,
            '-daemonize']
    if name == DAEMON:
        args = ['--chardev', f'socket,id=m,path={sock},server=on,wait=off',
                '--monitor', 'm', '--pidfile', pidfile, '--daemonize']
    code, text = run_tool(program(setup, directory, name), *args,
                          check=False, timeout=30)
    assert (code, text) == (0, '')
    with open(pidfile, encoding='ascii') as file:
        pid = int(file.read())
    try:
        mon = Monitor.connect_unix(sock)
        mon.may_greet_twice = True
        mon.negotiate()
        assert 'qemu' in mon.execute('query-version', {})
        assert os.readlink(f'/proc/{pid}/fd/1') == '/dev/null'
        mon.close()
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + TIMEOUT
    while os.path.exists(pidfile):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_listening_fd(setup, directory):
    """libvirt hands over a socket that listens already; it is accepted on
    again after each client."""
    path = os.path.join(directory, 'listen')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        fd = listener.fileno()
        proc = subprocess.Popen(
            [program(setup, directory, SYSTEM), *BARE, '-chardev',
             f'socket,id=charmonitor,fd={fd},server=on,wait=off', '-mon',
             'chardev=charmonitor,id=monitor,mode=control'],
            stdin=subprocess.DEVNULL, pass_fds=(fd,), cwd=directory)
    try:
        for _ in range(2):
            mon = Monitor.connect_unix(path)
            mon.may_greet_twice = True
            mon.negotiate()
            mon.execute('query-name', {})
            mon.close()
    finally:
        proc.terminate()
        assert proc.wait(TIMEOUT) == 0


@pytest.mark.ours('QEMU 7.2 has no -run-with')
def test_chroot_and_user(setup, directory):
    """When all is open rights are given up."""
    if os.getuid() != 0:
        pytest.skip('needs root')
    os.chmod(directory, 0o755)
    proc = subprocess.Popen(
        [setup.blockjobd, *BARE, '-run-with', f'chroot={directory}',
         '-runas', '12345:12346', '-qmp', 'stdio'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, ASAN_OPTIONS='detect_leaks=0'))  # needs /proc
    try:
        assert 'QMP' in proc.stdout.readline()
        with open(f'/proc/{proc.pid}/status', encoding='ascii') as file:
            status = file.read()
        assert re.search(r'(?m)^Uid:\t12345\t12345\t12345\t12345$', status)
        assert re.search(r'(?m)^Gid:\t12346\t12346\t12346\t12346$', status)
        assert re.search(r'(?m)^Groups:\t12346 *$', status)
        assert os.readlink(f'/proc/{proc.pid}/root') == directory
    finally:
        proc.stdin.close()
        proc.terminate()
        assert proc.wait(TIMEOUT) == 0
        proc.stdout.close()


# Hostile

@pytest.mark.parametrize('text', [
    ',', '=', ',,', '{', '{}', '[]', 'a=', '=a', 'a,b', 'a=b,a=c', 'id=',
    'driver', 'a.b.c=d,a=e', 'a.0=1,a.2=2', 'help,help', '\x01', 'ä',
    '%s%n', '{"a":' * 2000, 'a.' * 500 + 'b=c', 'x' * 70000, '"', "'",
    'file=,if=none', '-', '--', 'type=', 'fd=', 'fd=-1,set=-1',
    '99999999999999999999', 'stdio,stdio', ':', 'unix:', 'tcp:', 'tcp::',
    'tcp:::', 'chardev:', 'mon:', 'mon:mon:stdio', 'socket,id=a,fd=-1',
    'socket,id=a,host=,port='])
@pytest.mark.ours('QEMU takes some of it for good')
def test_hostile_texts(setup, directory, text):
    """Every option with it: an answer, an error, or a server that ends as
    asked; no crash."""
    options = ['accel', 'action', 'add-fd', 'blockdev', 'boot', 'chardev',
               'device', 'drive', 'export', 'hda', 'incoming', 'm',
               'machine', 'mon', 'monitor', 'name', 'nbd-server', 'netdev',
               'object', 'qmp', 'qtest', 'readconfig', 'run-with', 'runas',
               'serial', 'set', 'smp', 'trace', 'uuid', 'zzz']
    running = []
    for option in options:
        running.append((option, subprocess.Popen(
            [setup.blockjobd, '-M', 'none', f'-{option}', text],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, cwd=directory)))
    deadline = time.monotonic() + 0.4
    for option, proc in running:
        try:
            proc.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            proc.terminate()
        error = proc.communicate(timeout=60)[1]
        assert proc.returncode in (0, 1, -signal.SIGTERM), \
            (option, text[:40], proc.returncode, error[-2000:])
        assert b'Sanitizer' not in error, (option, text[:40], error[-4000:])
