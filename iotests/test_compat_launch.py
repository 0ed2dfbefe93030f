# SPDX-License-Identifier: MIT
"""COMPAT section 0, sentence by sentence: how QEMU's harness starts, probes,
reads and ends a server, under each name that it may have."""

import json
import os
import re
import signal
import socket
import subprocess

import pytest

from .images import run_tool
from .qmp import TIMEOUT

MIB = 1 << 20
NAMES = ['blockjobd', 'qemu-system-x86_64', 'qemu-storage-daemon']
SYSTEMS = NAMES[:2]
SHELL = ['-nodefaults', '-display', 'none', '-accel', 'qtest']
pytestmark = pytest.mark.ours(reason='Debian has no qtest accelerator')


@pytest.fixture
def called(setup, directory):
    """called(name): our program under that name."""
    def path(name):
        link = os.path.join(directory, 'bin', name)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        if not os.path.lexists(link):
            os.symlink(setup.blockjobd, link)
        return link
    return path


def run(argv, text='', cwd=None):
    """(exit code, stdout and stderr as one)."""
    done = subprocess.run(argv, input=text.encode(), timeout=TIMEOUT, cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)
    return done.returncode, done.stdout.decode().replace('\r\n', '\n')


def session(*commands):
    return ''.join(json.dumps({'execute': c} if isinstance(c, str) else c) +
                   '\n' for c in ('qmp_capabilities',) + commands)


# ---- probes ----------------------------------------------------------------

@pytest.mark.parametrize('name', SYSTEMS)
def test_probes(called, name):
    """As the Python harness asks: default machine, devices, formats."""
    code, text = run([called(name), '-machine', 'help'])
    assert code == 0
    default = None
    for line in text.splitlines():
        if line.endswith(' (default)'):
            default = line.split(' ', 1)[0]
            break
    for line in text.splitlines():
        if line.endswith(f' (alias of {default})'):
            default = line.split(' ', 1)[0]
    assert default == 'pc'
    code, text = run([called(name), '-M', 'none', '-device', 'help'])
    assert code == 0 and 'virtio-blk' in text
    names = re.findall(r'(?m)^name "([^"]*)"', text)
    assert {'scsi-hd', 'virtio-scsi-pci'} <= set(names)
    code, text = run([called(name), '-drive', 'format=help'])
    assert code == 0
    lines = text.splitlines()
    assert len(lines) == 2
    assert lines[0].split(':')[0] == 'Supported formats'
    assert lines[1].split(':')[0] == 'Supported formats (read-only)'


# ---- the Python launch -----------------------------------------------------

class Launched:
    """Exactly the argument order of the harness; names of sockets' ends are
    numbers; stdout and stderr in one file."""

    def __init__(self, program, directory, args=(), machine=None,
                 qtest=True):
        self.ours, theirs = socket.socketpair()
        ours_q, theirs_q = socket.socketpair()
        argv = [program, '-display', 'none', '-vga', 'none', '-chardev',
                f'socket,id=mon,fd={theirs.fileno()}', '-mon',
                'chardev=mon,mode=control']
        if machine:
            argv += ['-machine', machine]
        if qtest:
            argv += ['-chardev', f'socket,id=qtest,fd={theirs_q.fileno()}',
                     '-qtest', 'chardev:qtest', '-accel', 'qtest',
                     '-nodefaults', '-display', 'none', '-accel', 'qtest']
        fds = (theirs.fileno(), theirs_q.fileno())
        self.log = os.path.join(directory, 'log')
        with open(self.log, 'wb') as log:
            self.proc = subprocess.Popen(
                argv + list(args), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, pass_fds=fds)
        theirs.close()
        theirs_q.close()
        self.qtest = ours_q
        for sock in (self.ours, self.qtest):
            sock.settimeout(TIMEOUT)
        self.file = self.ours.makefile('r', encoding='utf-8')
        self.qfile = self.qtest.makefile('r', encoding='ascii')

    def message(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def command(self, name, ident=None, **arguments):
        message = {'execute': name}
        if arguments:
            message['arguments'] = arguments
        if ident is not None:
            message['id'] = ident
        self.ours.sendall(json.dumps(message).encode() + b'\n')
        seen = []
        while not seen or 'event' in seen[-1]:
            seen.append(self.message())
        return seen

    def clock_step(self, ns):
        self.qtest.sendall(f'clock_step {ns}\n'.encode())
        return self.qfile.readline()

    def close(self):
        for one in (self.file, self.qfile, self.ours, self.qtest):
            one.close()
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()

    def text(self):
        with open(self.log, encoding='utf-8') as log:
            return log.read()


@pytest.fixture
def python_launch(called, directory):
    made = []

    def start(name='blockjobd', **kwargs):
        made.append(Launched(called(name), directory, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize('name', SYSTEMS)
@pytest.mark.parametrize('machine', [None, 'none', 'q35', 'pc'])
@pytest.mark.parametrize('end', ['quit', 'SIGTERM'])
def test_python_launch(python_launch, images, name, machine, end):
    """Greeting, ids, silence, end."""
    disk = images.create('disk', MIB)
    vm = python_launch(name, machine=machine, args=[
        '-drive', f'if={"none" if machine == "none" else "virtio"},id=drive0,'
        f'file={disk},format=qcow2,cache=writeback'])
    greeting = vm.message()
    assert list(greeting['QMP']) == ['version', 'capabilities']
    assert greeting['QMP']['version']['qemu']['major'] >= 10
    assert 'oob' in greeting['QMP']['capabilities']
    assert vm.command('qmp_capabilities', '__qmp#00000', enable=['oob']) == [
        {'return': {}, 'id': '__qmp#00000'}]
    assert vm.command('query-status') == [
        {'return': {'status': 'running', 'running': True}}]
    first = int(vm.clock_step(1).split()[1])
    assert vm.clock_step(1000) == f'OK {first + 1000}\n'
    assert vm.command('query-block')[0]['return'][0]['device'] == 'drive0'
    if end == 'quit':
        seen = vm.command('quit')
        assert [m.get('event', m.get('return')) for m in seen] == [
            'SHUTDOWN', {}]
        data = seen[0]['data']
        assert data == {'guest': False, 'reason': 'host-qmp-quit'}
    else:
        vm.proc.send_signal(signal.SIGTERM)
        event = vm.message()
        assert event['event'] == 'SHUTDOWN'
        assert event['data'] == {'guest': False, 'reason': 'host-signal'}
    assert vm.message() is None
    assert vm.proc.wait(TIMEOUT) == 0
    assert vm.text() == ''
    vm.close()


def test_python_launch_without_qtest(python_launch):
    vm = python_launch(qtest=False, args=['-nodefaults'])
    assert 'QMP' in vm.message()
    vm.command('qmp_capabilities')
    vm.command('quit')
    assert vm.proc.wait(TIMEOUT) == 0 and vm.text() == ''


@pytest.mark.parametrize('name', SYSTEMS)
@pytest.mark.parametrize('args, text', [
    (['-drive', 'file=/nowhere/x,format=raw,if=none,id=a'],
     "-drive file=/nowhere/x,format=raw,if=none,id=a: Could not open "
     "'/nowhere/x': No such file or directory"),
    (['-blockdev', 'nope,node-name=a'],
     "-blockdev nope,node-name=a: Parameter 'driver' does not accept value "
     "'nope'"),
    (['-device', 'nope'],
     "-device nope: 'nope' is not a valid device model name"),
    (['-object', 'nope,id=x'], None)])
def test_python_launch_fails(python_launch, name, args, text):
    """End of file in place of a greeting; the log tells why; exit 1."""
    vm = python_launch(name, args=args)
    assert vm.message() is None
    assert vm.proc.wait(TIMEOUT) == 1
    lines = vm.text().splitlines()
    assert lines and lines[0].startswith(f'{name}: ')
    if text:
        assert lines == [f'{name}: {text}']


EARLIER = [
    ['-object', 'iothread,id=io', '-device', 'virtio-blk,drive=a,iothread=io'],
    ['-object', 'throttle-group,id=g,x-iops-total=5', '-blockdev',
     'throttle,node-name=t,throttle-group=g,file=a'],
    ['-device', 'virtio-scsi', '-device', 'scsi-hd,drive=a'],
    ['-blockdev', 'qcow2,node-name=q,file=f,active=off'],
    ['-blockdev', 'copy-on-read,node-name=c,file=a', '-blockdev',
     'raw,file=c,node-name=r'],
    ['-add-fd', 'fd={fd},set=1,opaque=x'],
    ['-add-fd', 'fd={fd},set=1', '-drive',
     'if=none,id=d,file=/dev/fdset/1,format=raw,read-only=on'],
    ['-S', '-chardev', 'null,id=other']]


@pytest.mark.parametrize('which', range(len(EARLIER)))
def test_late_failure(called, images, which):
    """What was set up before the mistake goes in good order."""
    disk = images.create('disk', MIB)
    raw = images.create('raw', MIB, fmt='raw')
    fd = os.open(raw, os.O_RDONLY)
    args = [arg.format(fd=fd) for arg in EARLIER[which]]
    done = subprocess.run(
        [called('blockjobd'), *SHELL, '-qmp', 'stdio', '-blockdev',
         'null-co,node-name=a', '-blockdev',
         f'file,node-name=f,filename={disk}', *args, '-device', 'nope'],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        pass_fds=[fd], timeout=TIMEOUT, check=False)
    os.close(fd)
    assert done.returncode == 1, done
    assert done.stderr == ("blockjobd: -device nope: 'nope' is not a valid "
                           'device model name\n')
    assert done.stdout == ''


def test_formatting_line(python_launch, images):
    """On stdout, before the reply, in full."""
    disk = images.create('disk', MIB)
    vm = python_launch(args=['-drive', f'if=virtio,id=d,file={disk},'
                             'format=qcow2', '-drive', f'if=virtio,id=e,'
                             f'file={images.create("other", MIB)},'
                             'format=qcow2'])
    vm.message()
    vm.command('qmp_capabilities')
    new = images.path('new')
    tail = 'lazy_refcounts=off refcount_bits=16'
    head = 'cluster_size=65536 extended_l2=off compression_type=zlib'
    wanted = []
    for number, (command, arguments, more) in enumerate((
            ('blockdev-snapshot-sync', {'device': 'd', 'snapshot-file': new},
             f'backing_file={disk} backing_fmt=qcow2 '),
            ('drive-mirror', {'device': 'd', 'target': new + '2',
                              'sync': 'full', 'format': 'qcow2'}, ''),
            ('drive-backup', {'device': 'e', 'target': new + '3',
                              'sync': 'full', 'format': 'qcow2',
                              'job-id': 'b'}, ''))):
        # The file is named; what it is made with follows.
        vm.command(command, **arguments)
        path = new + ('' if number == 0 else str(number + 1))
        wanted.append(f"Formatting '{path}', fmt=qcow2 {head} size=1048576 "
                      f'{more}{tail}')
        assert vm.text().splitlines() == wanted
    vm.command('drive-backup', device='e', sync='full', mode='existing',
               target=images.create('there', MIB), **{'job-id': 'f'})
    assert vm.text().splitlines() == wanted
    vm.command('quit')
    assert vm.proc.wait(TIMEOUT) == 0
    assert vm.text().splitlines() == wanted
    vm.close()


def test_probed_raw(python_launch, images):
    """Three lines, and the first sector is guarded."""
    disk = images.create('disk', MIB, fmt='raw')
    vm = python_launch(args=['-drive', f'if=none,id=d,file={disk}'])
    vm.message()
    vm.command('qmp_capabilities')
    assert vm.text().splitlines() == [
        f"WARNING: Image format was not specified for '{disk}' and probing "
        'guessed raw.',
        '         Automatically detecting the format is dangerous for raw '
        'images, write operations on block 0 will be restricted.',
        "         Specify the 'raw' format explicitly to remove the "
        'restrictions.'] or vm.text().splitlines()[0].endswith(
            f"WARNING: Image format was not specified for '{disk}' and "
            'probing guessed raw.')
    vm.command('human-monitor-command', **{
        'command-line': 'qemu-io d "write -P 0x51 0 512"'})
    assert vm.text().splitlines()[3].startswith('wrote 512/512')
    magic = os.path.join(os.path.dirname(disk), 'magic')
    with open(magic, 'wb') as out:
        out.write(b'QFI\xfb\0\0\0\2' + bytes(504))
    vm.command('human-monitor-command', **{
        'command-line': f'qemu-io d "write -s {magic} 0 512"'})
    assert vm.text().splitlines()[-1] == ('write failed: Operation not '
                                          'permitted')


# ---- the shell launch ------------------------------------------------------

@pytest.mark.parametrize('name', SYSTEMS)
@pytest.mark.parametrize('dashes', ['-', '--'])
@pytest.mark.parametrize('secret', [False, True])
def test_shell_launch(called, images, name, dashes, secret):
    """stdout and stderr are one stream; text of qemu-io stands before the
    reply that ends the command."""
    disk = images.create('disk', MIB)
    args = SHELL + (['--object', 'secret,id=keysec0,data=x'] if secret
                    else [])
    args += ['-nographic', '-serial', 'none', '-monitor', 'none', '-qmp',
             'stdio', '-drive', f'id=d,if=none,file={disk},format=qcow2']
    if dashes == '--':
        args = ['-' + a if re.match('-[a-z]', a) else a for a in args]
    code, text = run([called(name), *args], session(
        {'execute': 'human-monitor-command', 'arguments': {
            'command-line': 'qemu-io d "write 0 64k"'}}, 'quit'))
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith('{"QMP": {"version": {"qemu": {"micro": ')
    assert lines[1] == '{"return": {}}'
    assert lines[2] == 'wrote 65536/65536 bytes at offset 0'
    assert re.match(r'64 KiB, 1 ops; [0-9/:. sec]* \(', lines[3])
    assert lines[4] == '{"return": ""}'
    assert '"SHUTDOWN"' in lines[5]
    assert lines[6:] == ['{"return": {}}']


def test_pretty_launch(called):
    """Greeting: `capabilities`, then a brace in column 0; empty objects over
    two lines."""
    code, text = run([called('blockjobd'), *SHELL, '-nographic', '-serial',
                      'none', '-monitor', 'none', '-qmp-pretty', 'stdio'],
                     session('query-block', 'quit'))
    assert code == 0
    head, rest = text.split('\n}\n', 1)
    assert head.startswith('{\n    "QMP": {\n        "version": {\n'
                           '            "qemu": {\n'
                           '                "micro": ')
    assert '"capabilities": [\n            "oob"' in head
    rest = re.sub(r'(?m)^( *"(micro)?seconds": )\d+', r'\g<1>N', rest)
    assert rest == ('{\n    "return": {\n    }\n}\n'
                    '{\n    "return": [\n    ]\n}\n'
                    '{\n    "timestamp": {\n        "seconds": N,\n'
                    '        "microseconds": N\n    },\n'
                    '    "event": "SHUTDOWN",\n    "data": {\n'
                    '        "guest": false,\n'
                    '        "reason": "host-qmp-quit"\n    }\n}\n'
                    '{\n    "return": {\n    }\n}\n')


def test_hmp_launch(called):
    code, text = run([called('blockjobd'), *SHELL, '-nographic', '-serial',
                      'none', '-monitor', 'stdio'], 'info block-jobs\nquit\n')
    assert code == 0
    assert re.match(r"QEMU \d+\.\d+\.\d+ monitor - type 'help' for more "
                    'information\n', text)
    assert '\nNo active jobs\n(qemu) ' in text


def test_killed(called):
    """SIGKILL from the harness is a death by signal, of course."""
    proc = subprocess.Popen([called('blockjobd'), *SHELL, '-qmp', 'stdio'],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    proc.stdout.readline()
    proc.kill()
    assert proc.wait() == -signal.SIGKILL
    proc.stdin.close()
    proc.stdout.close()


# ---- the storage daemon, under any name ------------------------------------

@pytest.mark.parametrize('name', ['blockjobd', 'qemu-storage-daemon'])
@pytest.mark.parametrize('monitor', ['chardev=qmp', 'qmp'])
def test_daemon_launch(called, images, directory, name, monitor):
    """The harness's class: monitor as a client of its socket, a pid file
    that tells that all is set up, SIGTERM."""
    disk = images.create('disk', MIB)
    path = os.path.join(directory, 'qsd.qmp')
    pidfile = os.path.join(directory, 'qsd.pid')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(TIMEOUT)
    nbd = os.path.join(directory, 'n.sock')
    proc = subprocess.Popen(
        [called(name), '--blockdev', f'file,node-name=f,filename={disk}',
         '--blockdev', 'qcow2,node-name=n,file=f', '--nbd-server',
         f'addr.type=unix,addr.path={nbd}', '--export',
         'type=nbd,id=e,node-name=n,name=e,writable=true', '--pidfile',
         pidfile, '--chardev', f'socket,id=qmp,path={path}', '--monitor',
         monitor], stdin=subprocess.DEVNULL)
    sock, _ = listener.accept()
    file = sock.makefile('r')
    assert 'QMP' in json.loads(file.readline())
    sock.sendall(b'{"execute": "qmp_capabilities"}\n'
                 b'{"execute": "query-block-exports"}\n')
    assert json.loads(file.readline()) == {'return': {}}
    assert json.loads(file.readline())['return'][0]['id'] == 'e'
    while not os.path.exists(pidfile) or not os.path.getsize(pidfile):
        assert proc.poll() is None
    with open(pidfile, encoding='ascii') as pid:
        assert int(pid.read().strip()) == proc.pid
    run_tool('qemu-io', '-f', 'raw', '-c', 'write 0 64k',
             f'nbd+unix:///e?socket={nbd}')
    proc.send_signal(signal.SIGTERM)
    event = json.loads(file.readline() or '{"event": null}')
    assert event['event'] in ('BLOCK_EXPORT_DELETED', None), event
    assert proc.wait(TIMEOUT) == 0
    assert not os.path.exists(pidfile)
    for one in (file, sock, listener):
        one.close()


@pytest.mark.parametrize('name', ['blockjobd', 'qemu-storage-daemon'])
def test_daemon_has_no_shutdown_event(called, name):
    code, text = run([called(name), '--chardev', 'stdio,id=stdio',
                      '--monitor', 'chardev=stdio'], session('quit'))
    assert code == 0
    assert 'SHUTDOWN' not in text
    assert text.splitlines()[1:] == ['{"return": {}}', '{"return": {}}']


@pytest.mark.parametrize('name', ['blockjobd', 'qemu-storage-daemon'])
@pytest.mark.parametrize('text, why', [
    ('fuse', "Parameter 'type' does not accept value 'fuse'"),
    ('nbd', "Parameter 'id' is missing"),
    ('foo', "Parameter 'type' does not accept value 'foo'")])
def test_daemon_probes_of_exports(called, name, text, why):
    code, said = run([called(name), '--blockdev', 'null-co,node-name=n',
                      '--export', text])
    assert code == 1
    assert said == f'{name}: --export {text}: {why}\n'
