# SPDX-License-Identifier: MIT
"""A server under test: blockjobd, or Debian's QEMU as the reference.

The command line is given in the words of qemu-storage-daemon, in whose
place blockjobd then stands.  `machine=True` asks for the system emulator, or
for blockjobd in its place: it has SHUTDOWN events and devices.  harness.py
starts one as QEMU's own test suite does.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from .qmp import Monitor, QmpClosed, QmpTimeout, SCALE, TIMEOUT

SANITIZER_REPORT = re.compile(
    r'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|'
    r'runtime error:|ERROR: ThreadSanitizer|Assertion .* failed|BUG:')
STOP_TIMEOUT = 15.0 * SCALE


class ServerFailed(AssertionError):
    """The server crashed, hung or ended with an error."""


def base_options(value):
    """JSON for a dict, the text itself otherwise."""
    return value if isinstance(value, str) else json.dumps(value)


class Server:
    """One server process and the monitor that the test talks to.

    monitor: 'unix' (default), 'tcp', 'stdio' or None, where the test gives
    its own.  expect_exit: the exit code that stop() wants to see.
    """

    def __init__(self, setup, args=(), machine=False, monitor='unix',
                 name='server', blockdev=(), export=(), nbd=None,
                 wrapper=(), pass_fds=(), pidfile=False, env=()):
        self.setup = setup
        self.name = name
        self.is_qemu = setup.kind == 'qemu'
        self.machine = machine
        self.monitor_kind = monitor
        self.directory = setup.directory
        self.qmp_path = self.path('qmp.sock')
        self.nbd_path = self.path('nbd.sock')
        self.stderr_path = self.path('stderr')
        self.log = setup.log
        self.mon = None
        self.proc = None
        self.expect_exit = 0
        self.expect_stderr = None
        self._port = None
        self._pidfile = pidfile
        self._env = dict(env)
        self._wrapper = list(wrapper)
        self._pass_fds = pass_fds
        self._nbd_running = nbd is not None
        self._args = list(args)
        for node in blockdev:
            self._args += ['--blockdev', base_options(node)]
        if nbd:
            self._args += ['--nbd-server', nbd]
        for options in export:
            self._args += ['--export', base_options(options)]

    def path(self, name):
        return os.path.join(self.directory, f'{self.name}-{name}')

    # Start

    def command_line(self):
        if self.machine:
            head = ['qemu-system-x86_64' if self.is_qemu
                    else self.setup.blockjobd, '-machine', 'none',
                    '-nodefaults', '-display', 'none', '-S']
        else:
            head = ['qemu-storage-daemon' if self.is_qemu
                    else self.setup.blockjobd]
        if self.is_qemu or self._pidfile:
            head += ['-pidfile', self.path('pid')] if self.machine else \
                ['--pidfile', self.path('pid')]
        return self._wrapper + head + self._monitor_args() + self._args

    def _monitor_args(self):
        if self._port is None and self.monitor_kind == 'tcp':
            self._port = self.setup.free_port()
        channel = {
            'unix': f'socket,id=mon0,path={self.qmp_path},server=on,wait=off',
            'tcp': 'socket,id=mon0,host=127.0.0.1,port=%d,server=on,wait=off'
                   % (self._port or 0),
            'stdio': 'stdio,id=mon0',
            None: None,
        }[self.monitor_kind]
        if channel is None:
            return []
        if self.machine:
            return ['-chardev', channel, '-mon', 'chardev=mon0,mode=control']
        return ['--chardev', channel, '--monitor', 'chardev=mon0']

    def environment(self):
        env = dict(os.environ)
        env.setdefault('ASAN_OPTIONS', 'detect_leaks=1:exitcode=99')
        env.setdefault('UBSAN_OPTIONS', 'print_stacktrace=1:halt_on_error=1')
        env.setdefault('TSAN_OPTIONS', 'exitcode=66:second_deadlock_stack=1')
        # ThreadSanitizer does not see GLib's own allocator hand on memory.
        env.setdefault('G_SLICE', 'always-malloc')
        env['LC_ALL'] = 'C'
        env.update(self._env)
        return env

    def start(self, connect=True):
        argv = self.command_line()
        self.log.append('$ ' + ' '.join(argv))
        pipe = subprocess.PIPE if self.monitor_kind == 'stdio' else None
        with open(self.stderr_path, 'ab') as stderr:
            self.proc = subprocess.Popen(
                argv, stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or stderr, stderr=stderr,
                bufsize=0, env=self.environment(), cwd=self.directory,
                pass_fds=self._pass_fds)
        if connect and self.monitor_kind:
            self.mon = self.connect()
            self.mon.schema = self.setup.schema(self.machine)
        return self

    def connect(self, negotiate=True, name=None, **arguments):
        """A new monitor connection to the main channel; arguments are those
        of qmp_capabilities."""
        self._wait_ready()
        options = {'log': self.log, 'name': name or self.name}
        try:
            if self.monitor_kind == 'unix':
                mon = Monitor.connect_unix(self.qmp_path, **options)
            elif self.monitor_kind == 'tcp':
                mon = Monitor.connect_tcp('127.0.0.1', self._port, **options)
            else:
                mon = Monitor.from_pipes(self.proc.stdout, self.proc.stdin,
                                         **options)
            mon.may_greet_twice = self.is_qemu
            if negotiate:
                mon.negotiate(**arguments)
        except (OSError, QmpTimeout):
            self._say_if_dead()
            raise
        return mon

    def _wait_ready(self):
        """QEMU greets twice whom it meets before it is set up: wait for
        its pid file.  Ours may be connected to as soon as it listens."""
        deadline = time.monotonic() + TIMEOUT
        while self.is_qemu and not os.path.exists(self.path('pid')):
            self._say_if_dead(0)
            assert time.monotonic() < deadline, 'the server is not ready'
            time.sleep(0.005)

    def _say_if_dead(self, timeout=0.5):
        try:
            code = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            return
        raise ServerFailed(f'{self.name} exited with {code}: '
                           f'{self.stderr()}')

    # Talk

    def qmp(self, command, arguments=None, **kwargs):
        """Run a command on the main monitor."""
        try:
            return self.mon.execute(command, arguments, **kwargs)
        except QmpClosed:
            self._say_if_dead()
            raise

    def fails(self, command, arguments=None, desc=None, **kwargs):
        """Run a command that must fail with the text `desc`."""
        try:
            return self.mon.fails(command, arguments, desc, **kwargs)
        except QmpClosed:
            self._say_if_dead()
            raise

    def wait_event(self, name, match=None, **kwargs):
        return self.mon.wait_event(name, match, **kwargs)

    # Nodes and exports

    def add_file(self, node_name, path, **options):
        self.qmp('blockdev-add', dict(
            {'driver': 'file', 'node-name': node_name, 'filename': path},
            **{k.replace('_', '-'): v for k, v in options.items()}))
        return node_name

    def add_node(self, node_name, path, driver='qcow2', **options):
        """A format node over a file node that belongs to it."""
        options = {k.replace('_', '-'): v for k, v in options.items()}
        file = {'driver': 'file', 'filename': path}
        for key in ('locking', 'auto-read-only', 'discard'):
            if key in options:
                file[key] = options.pop(key)
        if 'discard' in file:
            options['discard'] = file['discard']
        self.qmp('blockdev-add', dict(
            {'driver': driver, 'node-name': node_name, 'file': file},
            **options))
        return node_name

    def nodes(self):
        """query-named-block-nodes as {node-name: entry}."""
        return {node['node-name']: node for node in
                self.qmp('query-named-block-nodes', flat=True)}

    def graph(self):
        """All that queries tell of the graph, to be compared with what they
        tell later: nodes, links, permissions, bitmaps."""
        nodes = self.qmp('query-named-block-nodes')
        for node in nodes:
            image = node['image']
            while image:
                image.pop('actual-size', None)
                image = image.get('backing-image')
        return self.qmp('x-debug-query-block-graph'), nodes

    def export(self, node, name=None, writable=True, **options):
        """Export a node over NBD and return the export's URI."""
        name = name or node
        if not self._nbd_running:
            self.qmp('nbd-server-start',
                     addr={'type': 'unix', 'data': {'path': self.nbd_path}})
            self._nbd_running = True
        self.qmp('block-export-add', dict(
            {'type': 'nbd', 'id': f'export-{name}', 'node-name': node,
             'name': name, 'writable': writable},
            **{k.replace('_', '-'): v for k, v in options.items()}))
        return self.uri(name)

    def unexport(self, name, mode='safe'):
        self.qmp('block-export-del', id=f'export-{name}', mode=mode)
        self.wait_event('BLOCK_EXPORT_DELETED', {'id': f'export-{name}'})

    def uri(self, name):
        return f'nbd+unix:///{name}?socket={self.nbd_path}'

    # End

    def stderr(self):
        with open(self.stderr_path, encoding='utf-8',
                  errors='replace') as stderr:
            return stderr.read()

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def kill(self, signum=signal.SIGKILL):
        """End it by a signal; the test looks at what is left."""
        self.log.append(f'{self.name}: signal {signum}')
        self.proc.send_signal(signum)
        if signum == signal.SIGKILL:
            self.expect_exit = -signal.SIGKILL
            self.proc.wait(STOP_TIMEOUT)
            self._close_monitor()

    def wait_exit(self, timeout=STOP_TIMEOUT):
        """Wait for the end and judge it."""
        try:
            code = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            self._log_stacks()
            self.proc.kill()
            self.proc.wait(STOP_TIMEOUT)
            self._close_monitor()
            raise ServerFailed(f'{self.name} does not end (killed after '
                               f'{timeout} s): {self.stderr()}') from None
        self._close_monitor()
        self._judge(code)
        return code

    def _log_stacks(self):
        """Where its threads are, if there is a debugger."""
        if not shutil.which('gdb'):
            return
        try:
            done = subprocess.run(
                ['gdb', '-p', str(self.proc.pid), '-batch', '-nx', '-ex',
                 'thread apply all bt 25'], capture_output=True, text=True,
                timeout=60, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return
        self.log += [line for line in done.stdout.splitlines()
                     if line.startswith(('#', 'Thread'))]

    def _judge(self, code):
        text = self.stderr()
        if text:
            self.log.append(f'{self.name} stderr: {text}')
        if SANITIZER_REPORT.search(text):
            raise ServerFailed(f'{self.name}: sanitizer report:\n{text}')
        if self.expect_exit is not None and code != self.expect_exit:
            raise ServerFailed(f'{self.name} exited with {code}, not '
                               f'{self.expect_exit}: {text}')

    def _close_monitor(self):
        if self.mon:
            self.mon.close()

    def quit(self):
        """Send quit and return the messages up to the end of file, the
        reply last."""
        self.mon.send_raw('{"execute":"quit"}\n')
        messages = self.mon.wait_closed(STOP_TIMEOUT)
        self.wait_exit()
        return messages

    def stop(self):
        """End the server if it still runs, and judge how it ended."""
        if self.proc is None:
            return
        if self.running():
            try:
                if self.mon and not self.mon.closed:
                    self.mon.pump()
                    self.mon.send_raw('{"execute":"quit"}\n', timeout=2)
                    self.mon.wait_closed(STOP_TIMEOUT)
                else:
                    self.proc.terminate()
            except (OSError, AssertionError) as exc:
                self.log.append(f'{self.name}: quit: {exc!r}')
                self.proc.terminate()
        try:
            self.wait_exit()
        finally:
            self.proc = None
