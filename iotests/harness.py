# SPDX-License-Identifier: MIT
"""Start a server as the harness of QEMU's own test suite does.

Its Python tests hand over two connected sockets (monitor, qtest) by number
and let the virtual clock stand still; its shell tests talk through stdin
and read one stream of stdout and stderr.  Whatever the server's name, the
command line is that of qemu-system-x86_64.

Debian's QEMU has no qtest accelerator: as the reference it is started with
-S instead, which keeps its clock still too, and cannot step it.
"""

import os
import re
import select
import socket
import subprocess
import time

from .qmp import Monitor, QmpClosed, QmpTimeout, TIMEOUT
from .server import Server


class Qtest:
    """The qtest socket: a line each way."""

    def __init__(self, sock, log):
        self._sock = sock
        self._file = sock.makefile('r', encoding='ascii')
        self._log = log
        sock.settimeout(TIMEOUT)

    def command(self, line):
        self._log.append(f'qtest >> {line}')
        self._sock.sendall(line.encode() + b'\n')
        answer = self._file.readline().rstrip('\n')
        self._log.append(f'qtest << {answer}')
        return answer

    def clock_step(self, ns):
        """The new time in ns."""
        words = self.command(f'clock_step {ns}').split()
        assert words[0] == 'OK', words
        return int(words[1])

    def close(self):
        self._file.close()
        self._sock.close()


class Machine(Server):
    """A server started by the Python harness.

    args: the test's own arguments, behind the harness's.  qtest=False: the
    plain machine class, whose clock runs.  machine: -machine; None: the
    default, pc, as most tests have it.  program: the name it is started by,
    a link beside the test's files (None: its own).
    """

    def __init__(self, setup, args=(), qtest=True, machine=None,
                 program=None, **kwargs):
        super().__init__(setup, args=(), machine=True, monitor=None, **kwargs)
        self.with_qtest = qtest
        self.machine_name = machine
        self.program = program
        self.qtest = None
        self._sockets = []
        self._more = list(args)
        self._n_drives = 0

    # What a test adds before the start

    def add_args(self, *args):
        self._more += args
        return self

    def add_drive(self, path, options='', interface='virtio',
                  image_format='qcow2'):
        """As the harness's: id driveN, cache=writeback."""
        text = [f'if={interface}', f'id=drive{self._n_drives}']
        if path is not None:
            text += [f'file={path}', f'format={image_format}',
                     'cache=writeback']
        if options:
            text.append(options)
        self._n_drives += 1
        return self.add_args('-drive', ','.join(text))

    def add_drive_raw(self, text):
        return self.add_args('-drive', text)

    def add_blockdev(self, text):
        return self.add_args('-blockdev', text)

    def add_object(self, text):
        return self.add_args('-object', text)

    def add_device(self, text):
        return self.add_args('-device', text)

    # Start

    def _program(self):
        own = ('qemu-system-x86_64' if self.is_qemu else
               self.setup.blockjobd)
        if self.program is None:
            return own
        link = self.path(self.program)
        if not os.path.exists(link):
            os.symlink(own if '/' in own else f'/usr/bin/{own}', link)
        return link

    def command_line(self):
        argv = [self._program(), '-display', 'none', '-vga', 'none',
                '-chardev', f'socket,id=mon,fd={self._pair()}',
                '-mon', 'chardev=mon,mode=control']
        if self.machine_name:
            argv += ['-machine', self.machine_name]
        if self.with_qtest and self.is_qemu:
            argv += ['-S']
        elif self.with_qtest:
            argv += ['-chardev', f'socket,id=qtest,fd={self._pair()}',
                     '-qtest', 'chardev:qtest', '-accel', 'qtest']
        if self.with_qtest:
            argv += ['-nodefaults', '-display', 'none', '-accel',
                     'tcg' if self.is_qemu else 'qtest']
        return argv + self._more

    def _pair(self):
        """A connection: our end is kept, the number of theirs returned."""
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        self._sockets.append((ours, theirs))
        self._pass_fds = tuple(self._pass_fds) + (theirs.fileno(),)
        return theirs.fileno()

    def start(self, connect=True):
        super().start(connect=False)
        for _, theirs in self._sockets:
            theirs.close()
        try:
            self.mon = Monitor.from_socket(self._sockets[0][0], log=self.log,
                                           name=self.name)
            if len(self._sockets) > 1:
                self.qtest = Qtest(self._sockets[1][0], self.log)
            self.mon.negotiate()
        except (QmpClosed, QmpTimeout):
            self._say_if_dead()
            raise
        self.mon.schema = self.setup.schema(True)
        return self

    def restart(self, quit_first=True):
        """The same command line once more."""
        if quit_first:
            self.stop()
        self._sockets = []
        self._pass_fds = ()
        return self.start()

    def _close_monitor(self):
        super()._close_monitor()
        if self.qtest:
            self.qtest.close()
            self.qtest = None

    # HMP

    def hmp(self, line):
        return self.qmp('human-monitor-command', {'command-line': line})

    def qemu_io(self, device, command, qdev=False):
        """HMP's qemu-io; what it returns, not what it prints."""
        return self.hmp(f'qemu-io {"-d " if qdev else ""}{device} '
                        f'"{command}"')

    def output(self):
        """stdout and stderr so far."""
        return self.stderr()

    def io_lines(self, device, command, qdev=False):
        """Run qemu-io and return what it printed, without times."""
        before = len(self.output())
        assert self.qemu_io(device, command, qdev) == ''
        return filter_times(self.output()[before:]).splitlines()

    def pause_drive(self, drive, event=None):
        """Stop the next request of a blkdebug node below `drive`."""
        if event is None:
            self.pause_drive(drive, 'read_aio')
            self.pause_drive(drive, 'write_aio')
            return
        self.qemu_io(drive, f'break {event} bp_{drive}')

    def resume_drive(self, drive):
        self.qemu_io(drive, f'remove_break bp_{drive}')

    # Jobs, as the harness waits for them

    def job(self, ident='drive0'):
        for job in self.qmp('query-block-jobs'):
            if job['device'] == ident:
                return job
        return None

    def wait_completed(self, ident='drive0', error=None, **wanted):
        """BLOCK_JOB_COMPLETED; nothing is left of the job then."""
        data = self.wait_event('BLOCK_JOB_COMPLETED',
                               {'device': ident})['data']
        assert data.get('error') == error, data
        if error is None:
            assert data['offset'] == data['len'], data
        for key, value in wanted.items():
            assert data[key] == value, data
        self.wait_event('JOB_STATUS_CHANGE', {'id': ident, 'status': 'null'})
        assert self.qmp('query-block-jobs') == []
        return data

    def wait_ready(self, ident='drive0'):
        return self.wait_event('BLOCK_JOB_READY', {'device': ident})['data']

    def complete(self, ident='drive0', wait=True, **wanted):
        """Wait for a mirror to be ready and complete it."""
        if wait:
            self.wait_ready(ident)
        self.qmp('block-job-complete', device=ident)
        return self.wait_completed(ident, **wanted)

    def cancel(self, ident='drive0', force=False, resume=False, drive=None):
        """Cancel; the data of the event that tells of the end."""
        self.qmp('block-job-cancel', device=ident, force=force)
        if resume:
            self.resume_drive(drive or ident)
        data = self.wait_event(['BLOCK_JOB_CANCELLED', 'BLOCK_JOB_COMPLETED'],
                               {'device': ident})['data']
        self.wait_event('JOB_STATUS_CHANGE', {'id': ident, 'status': 'null'})
        assert self.qmp('query-block-jobs') == []
        return data


def filter_times(text):
    """The report of qemu-io without how long it took."""
    return re.sub(r'; [0-9/:. sec]* \([0-9/.inf]* [EPTGMKiBbytes]*/sec and '
                  r'[0-9/.inf]* ops/sec\)',
                  '; X ops; XX:XX:XX.X (XXX YYY/sec and XXX ops/sec)', text)


class Shell:
    """A server started by the shell harness: -qmp stdio or -monitor stdio.

    All that it says on stdout and stderr is one text, `seen`.
    """

    HEAD = ['-nodefaults', '-display', 'none', '-nographic',
            '-serial', 'none']

    def __init__(self, setup, args=(), monitor='qmp', env=()):
        own = ('qemu-system-x86_64' if setup.kind == 'qemu' else
               setup.blockjobd)
        head = {'qmp': ['-monitor', 'none', '-qmp', 'stdio'],
                'pretty': ['-monitor', 'none', '-qmp-pretty', 'stdio'],
                'hmp': ['-monitor', 'stdio']}[monitor]
        accel = ['-S'] if setup.kind == 'qemu' else ['-accel', 'qtest']
        argv = [own] + self.HEAD + accel + head + list(args)
        setup.log.append('$ ' + ' '.join(argv))
        self.log = setup.log
        self.seen = ''
        self._start = 0
        self.proc = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, bufsize=0, cwd=setup.directory,
            env=dict(os.environ, LC_ALL='C', **dict(env)))

    def send(self, text):
        self.log.append(f'>> {text}')
        self.proc.stdin.write(text.encode() + b'\n')

    def expect(self, *texts, timeout=TIMEOUT):
        """Wait for TEXTS, in any order, behind what was expected before;
        what came up to the last one's end."""
        deadline = time.monotonic() + timeout
        while not all(text in self.seen[self._start:] for text in texts):
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(
                    f'no {texts} in {self.seen[self._start:]!r}')
        end = max(self.seen.index(text, self._start) + len(text)
                  for text in texts)
        got, self._start = self.seen[self._start:end], end
        return got

    def command(self, text, answer, timeout=TIMEOUT):
        self.send(text)
        return self.expect(answer, timeout=timeout)

    def _read(self, timeout):
        ready, _, _ = select.select([self.proc.stdout], [], [],
                                    max(0, timeout))
        data = os.read(self.proc.stdout.fileno(), 1 << 16) if ready else b''
        self.seen += data.decode(errors='replace').replace('\r\n', '\n')
        if data:
            self.log.append(f'<< {data.decode(errors="replace")}')
        return data

    def wait(self, timeout=TIMEOUT):
        """Wait for its end: the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.proc.wait(max(1, deadline - time.monotonic()))

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
