# SPDX-License-Identifier: MIT
"""-monitor: HMP for a person at a terminal, and for QEMU's shell tests, which
drive it through pipes and compare the echo (COMPAT section 4)."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import time

import pytest

from .qmp import TIMEOUT

LEFT, CLEAR = '\x1b[D', '\x1b[K'
BANNER = re.compile(r"QEMU \d+\.\d+\.\d+ monitor - type 'help' for more "
                    r'information\n')
ARGS = ['-drive', 'if=none,id=d0,file=null-co://,format=raw',
        '-drive', 'if=none,id=d1,file=null-co://,format=raw']


def typed(text):
    """The echo of a line: each byte draws the line anew."""
    return ''.join(LEFT * i + text[:i + 1] + CLEAR for i in range(len(text)))


def plain(text):
    """As QEMU's shell tests see it: without escapes."""
    return re.sub(r'\x1b\[[DK]', '', text)


@pytest.fixture
def hmp(shell):
    return shell(*ARGS, monitor='hmp')


def test_pipe(hmp):
    """Byte for byte."""
    assert BANNER.fullmatch(hmp.expect("information\n"))
    assert hmp.expect('(qemu) ') == '(qemu) '
    for line, answer in (
            ('info block-jobs', 'No active jobs\n'),
            ('nope x', "unknown command: 'nope'\n"),
            ('block_resize', 'block_resize: block device name expected\n'
             'Try "help block_resize" for more information\n'),
            ('', ''), ('stop', '')):
        hmp.send(line)
        assert hmp.expect('(qemu) ') == (
            typed(line) + '\n' + answer + '(qemu) ')
    hmp.send('quit')
    assert hmp.wait() == 0
    assert hmp.seen.endswith('(qemu) ' + typed('quit') + '\n')


def test_qemu_io_in_order(hmp):
    """What qemu-io prints on stdout stands between echo and prompt."""
    hmp.expect('(qemu) ')
    for i in range(20):
        hmp.send(f'qemu-io d0 "write {i}k 1k"')
        got = plain(hmp.expect('(qemu) '))
        assert re.fullmatch(
            r'.*qemu-io d0 "write \d+k 1k"\nwrote 1024/1024 bytes at offset '
            rf'{i * 1024}\n1 KiB, 1 ops; .*\n\(qemu\) ', got, re.S), got
    hmp.send('quit')
    assert hmp.wait() == 0


def test_many_lines_at_once(hmp):
    """What is typed while a command runs waits; nothing is lost."""
    hmp.expect('(qemu) ')
    hmp.proc.stdin.write(b''.join(b'print %d\n' % i for i in range(300)))
    for i in range(300):
        got = plain(hmp.expect('(qemu) '))
        assert f'print {i}\n{i:#x}\n(qemu) '.replace('0x0\n', '0\n') in got
    hmp.send('quit')
    assert hmp.wait() == 0


def test_end_of_input(shell):
    """A pipe that was closed is no reason to end."""
    hmp = shell(*ARGS, monitor='hmp')
    hmp.expect('(qemu) ')
    hmp.send('info block-jobs')
    hmp.proc.stdin.close()
    hmp.expect('No active jobs\n', '(qemu) ')
    assert hmp.proc.poll() is None
    hmp.proc.send_signal(signal.SIGTERM)
    assert hmp.wait() == 0


def test_file_as_input(setup):
    """Lines from a file; its quit ends the server."""
    path = os.path.join(setup.directory, 'lines')
    with open(path, 'w', encoding='ascii') as out:
        out.write('info block-jobs\nhelp stop\nquit\ninfo status\n')
    own = ('qemu-system-x86_64' if setup.kind == 'qemu' else setup.blockjobd)
    with open(path, 'rb') as source:
        done = subprocess.run(
            [own, '-M', 'none', '-nodefaults', '-nographic', '-serial',
             'none', '-monitor', 'stdio', *ARGS], stdin=source, timeout=30,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    text = plain(done.stdout.decode()).replace('\r\n', '\n')
    assert 'No active jobs\n(qemu) ' in text
    assert text.endswith('quit\n')
    assert done.stderr == b''


@pytest.mark.ours('QEMU looks for the device with that name')
def test_bytes_that_are_no_text(hmp):
    """JSON could not hold them."""
    hmp.expect('(qemu) ')
    hmp.proc.stdin.write(b'eject \xff\xfe\n')
    assert plain(hmp.expect('(qemu) ')).endswith(
        '\nError: the line is not UTF-8\n(qemu) ')
    hmp.proc.stdin.write(bytes(range(128, 256)) + b'\x00\n')
    hmp.expect('(qemu) ')
    hmp.send('quit')
    assert hmp.wait() == 0


# ---- a terminal -----------------------------------------------------------


class Terminal:
    def __init__(self, setup, args=ARGS):
        own = ('qemu-system-x86_64' if setup.kind == 'qemu' else
               setup.blockjobd)
        self.log = setup.log
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.proc = subprocess.Popen(
            [own, '-M', 'none', '-nodefaults', '-nographic', '-serial',
             'none', '-S', '-monitor', 'stdio', *args], stdin=self.slave,
            stdout=self.slave, stderr=self.slave, cwd=setup.directory)
        self.expect('(qemu) ')

    def expect(self, end):
        text, deadline = '', time.monotonic() + TIMEOUT
        while not text.endswith(end):
            left = deadline - time.monotonic()
            if not select.select([self.master], [], [], max(0, left))[0]:
                raise AssertionError(f'no {end!r} in {text!r}')
            text += os.read(self.master, 1 << 16).decode()
        self.log.append(f'<< {text!r}')
        return text.replace('\r\r\n', '\n').replace('\r\n', '\n')

    def type(self, keys, end):
        """What the screen gets for KEYS."""
        self.log.append(f'>> {keys!r}')
        os.write(self.master, keys.encode())
        return self.expect(end)

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(setup):
    one = Terminal(setup)
    yield one
    one.close()


def test_keys(terminal):
    """Each as QEMU draws it."""
    t = terminal
    assert t.type('abc', 'abc' + CLEAR) == typed('abc')
    assert t.type('\x1b[D', LEFT) == LEFT
    assert t.type('X', CLEAR + LEFT) == LEFT * 2 + 'abXc' + CLEAR + LEFT
    assert t.type('\x01', LEFT) == LEFT * 3
    assert t.type('\x05', '\x1b[C') == '\x1b[C' * 4
    assert t.type('\x08', CLEAR) == LEFT * 4 + 'abX' + CLEAR
    assert t.type('\x7f', CLEAR) == LEFT * 3 + 'ab' + CLEAR
    assert t.type('\x01', LEFT * 2) == LEFT * 2
    assert t.type('\x04', LEFT) == 'b' + CLEAR + LEFT
    assert t.type('a', LEFT) == 'ab' + CLEAR + LEFT
    assert t.type('\r', '(qemu) ') == "\nunknown command: 'ab'\n(qemu) "
    assert t.type('\x0c', '(qemu) ') == '\x1b[2J\x1b[1;1H(qemu) '


def test_history(terminal):
    t = terminal
    t.type('info status\r', '(qemu) ')
    t.type('help stop\r', '(qemu) ')
    assert t.type('\x1b[A', CLEAR) == 'help stop' + CLEAR
    assert t.type('\x1b[A', CLEAR) == LEFT * 9 + 'info status' + CLEAR
    assert t.type('\x1b[B', CLEAR) == LEFT * 11 + 'help stop' + CLEAR
    assert t.type('\x1b[B', CLEAR) == LEFT * 9 + CLEAR
    assert t.type('\x1b[A\x1b[A\r', '(qemu) ').endswith(
        'info status' + CLEAR + '\nVM status: paused (prelaunch)\n(qemu) ')


@pytest.mark.parametrize('start,shown', [
    ('block_re', 'block_resize '), ('inf', 'info '),
    ('help block_re', 'help block_resize '),
    ('info block-', 'info block-jobs ')])
def test_completion_of_one(terminal, start, shown):
    terminal.type(start, start + CLEAR)
    assert terminal.type('\t', CLEAR) == LEFT * len(start) + shown + CLEAR


@pytest.mark.parametrize('start,words,shown', [
    ('block_', 'block_job_cancel       block_job_complete     '
     'block_job_pause        \nblock_job_resume       '
     'block_job_set_speed    block_resize           \n'
     'block_set_io_throttle  block_stream           \n', 'block_'),
    ('info bl', 'block       block-jobs  blockstats  \n', 'info block'),
    ('help info bl', 'block       block-jobs  blockstats  \n',
     'help info block'),
    ('block_resize ', 'd0        d1        \n', 'block_resize d'),
    ('eject -f ', 'd0        d1        \n', 'eject -f d'),
    ('qemu-io d', 'd0        d1        \n', 'qemu-io d')])
def test_completion_of_many(terminal, start, words, shown):
    terminal.type(start, start + CLEAR)
    assert terminal.type('\t', shown + CLEAR) == (
        f'\n{words}(qemu) {shown}{CLEAR}')


def test_completion_of_nothing(terminal):
    terminal.type('xyz', 'xyz' + CLEAR)
    assert terminal.type('\tq', CLEAR) == LEFT * 3 + 'xyzq' + CLEAR


def test_completion_of_files(setup):
    for name in ('disk-a.img', 'disk-b.img', 'other'):
        with open(os.path.join(setup.directory, name), 'wb'):
            pass
    t = Terminal(setup)
    try:
        t.type('change d0 di', 'di' + CLEAR)
        assert t.type('\t', 'disk-' + CLEAR).startswith(
            '\ndisk-a.img  disk-b.img  \n')
        assert t.type('b\t', ' ' + CLEAR).endswith('change d0 disk-b.img '
                                                   + CLEAR)
    finally:
        t.close()


@pytest.mark.ours('QEMU knows devices alone')
def test_completion_of_nodes_and_jobs(setup):
    t = Terminal(setup, ARGS + ['-blockdev', 'null-co,node-name=nodeA',
                                '-object', 'iothread,id=thread0'])
    try:
        t.type('qemu-io no', 'no' + CLEAR)
        assert t.type('\t', CLEAR).endswith('qemu-io nodeA ' + CLEAR)
        t.type('\x15object_del th', 'th' + CLEAR)
        assert t.type('\t', CLEAR).endswith('object_del thread0 ' + CLEAR)
    finally:
        t.close()


@pytest.mark.parametrize('end', ['quit', 'SIGTERM'])
def test_terminal_is_given_back(setup, end):
    t = Terminal(setup)
    try:
        during = termios.tcgetattr(t.slave)
        assert not during[3] & (termios.ECHO | termios.ICANON)
        if end == 'quit':
            os.write(t.master, b'quit\r')
        else:
            t.type('info name\r', '(qemu) ')    # it is ready for it
            t.proc.send_signal(signal.SIGTERM)
        assert t.proc.wait(30) == 0
        assert termios.tcgetattr(t.slave) == t.before
    finally:
        t.close()


# ---- sockets --------------------------------------------------------------


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(path)
        self.until('(qemu) ')

    def until(self, end):
        text = b''
        while not text.endswith(end.encode()):
            data = self.sock.recv(1 << 16)
            assert data, text
            text += data
        return plain(text.decode())

    def command(self, line):
        self.sock.sendall(line.encode() + b'\n')
        return self.until('(qemu) ')


@pytest.fixture
def mon(setup):
    return os.path.join(setup.directory, 'mon')


def test_socket(launch, mon):
    vm = launch(*ARGS, '-monitor', f'unix:{mon},server=on,wait=off',
                machine='none').start()
    client = Client(mon)
    assert client.command('info block-jobs').endswith(
        '\r\nNo active jobs\r\n(qemu) ')
    client.sock.close()
    again = Client(mon)      # the next one
    # It sees what QMP does, and QMP what it does.
    assert 'OK\r\n' in again.command('drive_add 0 if=none,id=new')
    assert 'new' in [b['device'] for b in vm.qmp('query-block')]
    again.sock.sendall(b'quit\n')
    vm.wait_event('SHUTDOWN')
    vm.wait_exit()
    again.sock.close()


@pytest.mark.ours('QEMU serves one client of a channel')
def test_several_clients(launch, mon):
    vm = launch(*ARGS, '-monitor', f'unix:{mon},server=on,wait=off',
                machine='none').start()
    clients = [Client(mon) for _ in range(5)]
    for i, client in enumerate(clients):
        client.sock.sendall(f'print {i + 100}\n'.encode())
    for i, client in enumerate(clients):
        assert f'{i + 100:#x}\r\n' in client.until('(qemu) ')
    for client in clients:
        client.sock.sendall(b'info bl')     # gone in the middle of a line
        client.sock.close()
    assert Client(mon).command('c').endswith('(qemu) ')


@pytest.mark.ours('about our worker')
def test_client_gone_while_its_command_runs(launch, mon):
    vm = launch('-drive', 'if=none,id=d0,driver=blkdebug,'
                'image.driver=null-co', '-monitor',
                f'unix:{mon},server=on,wait=off', machine='none').start()
    vm.hmp('qemu-io d0 "break write_aio A"')
    client = Client(mon)
    client.sock.sendall(b'qemu-io d0 "write 0 4k"\ninfo status\n')
    vm.qmp('query-status')
    client.sock.close()
    vm.hmp('qemu-io d0 "remove_break A"')
    assert Client(mon).command('info block-jobs')


@pytest.mark.ours('a flood that QEMU would keep')
def test_flood(launch, mon):
    """What is typed while a command runs is bounded; nobody hangs."""
    vm = launch(*ARGS, '-monitor', f'unix:{mon},server=on,wait=off',
                machine='none').start()
    client = Client(mon)
    client.sock.sendall(b'x' * 300 + b'\n')
    assert "unknown command: 'xxx" in client.until('(qemu) ')
    client.sock.setblocking(False)
    sent = 0
    try:
        while sent < 8 << 20:       # reads nothing
            sent += client.sock.send(b'help\n' * 2000)
    except BlockingIOError:
        pass
    assert vm.qmp('query-status')['status'] == 'running'
    client.sock.close()
    assert Client(mon).command('info block-jobs')
