# SPDX-License-Identifier: MIT
"""Fixtures and options of the scenarios; see README.md."""

import ctypes
import os
import shutil
import signal
import socket
import tempfile
import time

import pytest

from .faults import SmallDisk
from .guest import Guest
from .harness import Machine, Shell
from .images import Images
from .nbd import NbdError
from .qmp import SCALE
from .schema import Schema
from .server import Server, ServerFailed

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_SERVER = os.path.join(HERE, '..', 'build', 'server', 'blockjobd')
DEFAULT_CLIENT = os.path.join(HERE, '..', 'build', 'tools', 'blockjobctl')
TEST_LIMIT = 60


def pytest_addoption(parser):
    group = parser.getgroup('blockjobd')
    group.addoption('--server', choices=('blockjobd', 'qemu'),
                    default='blockjobd',
                    help='what is tested; qemu is the reference')
    group.addoption('--blockjobd', default=DEFAULT_SERVER, metavar='PATH',
                    help='the server binary (default build/server/blockjobd)')
    group.addoption('--blockjobctl', default=DEFAULT_CLIENT, metavar='PATH',
                    help='the client (default build/tools/blockjobctl)')
    group.addoption('--seeds', type=int, default=3, metavar='N',
                    help='how many seeds a random scenario runs')
    group.addoption('--model-seeds', type=int, default=200, metavar='N',
                    help='how many seeds the model of the jobs runs')
    group.addoption('--first-seed', type=int, default=1, metavar='N')


def pytest_configure(config):
    if config.getoption('--server') == 'blockjobd':
        path = config.getoption('--blockjobd')
        if not os.access(path, os.X_OK):
            raise pytest.UsageError(f'no server at {path}; build it, or name '
                                    f'it with --blockjobd')
    # A daemon that a test leaves behind becomes our child, and is found.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)     # PR_SET_CHILD_SUBREAPER


def pytest_collection_modifyitems(config, items):
    if config.getoption('--server') != 'qemu':
        return
    for item in items:
        mark = item.get_closest_marker('ours')
        if mark:
            reason = mark.args[0] if mark.args else mark.kwargs['reason']
            item.add_marker(pytest.mark.skip(reason=f'ours: {reason}'))


def pytest_generate_tests(metafunc):
    first = metafunc.config.getoption('--first-seed')
    for fixture, option in (('seed', '--seeds'),
                            ('model_seed', '--model-seeds')):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, range(
                first, first + metafunc.config.getoption(option)))


class TestTimedOut(Exception):
    """The test took longer than its limit."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    mark = item.get_closest_marker('timeout')
    limit = int((mark.args[0] if mark else TEST_LIMIT) * SCALE)

    def expired(signum, frame):
        raise TestTimedOut(f'the test runs for more than {limit} s')

    old = signal.signal(signal.SIGALRM, expired)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test shows all that went over its monitors."""
    outcome = yield
    report = outcome.get_result()
    setup = getattr(item, 'funcargs', {}).get('setup')
    if report.failed and setup:
        log = setup.log
        if len(log) > 400:
            log = log[:100] + [f'... {len(log) - 400} lines ...'] + log[-300:]
        report.sections.append(
            ('QMP log', '\n'.join(line[:3000] for line in log)))


class Setup:
    """What every server and tool of one test needs to know."""

    def __init__(self, config, directory, schema=lambda machine: None):
        self.kind = config.getoption('--server')
        self.blockjobd = os.path.abspath(config.getoption('--blockjobd'))
        self.directory = str(directory)
        self.schema = schema
        self.log = []

    @staticmethod
    def free_port():
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            return sock.getsockname()[1]


def children():
    """Processes whose parent we are."""
    found = []
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        try:
            with open(f'/proc/{entry}/stat', encoding='utf-8') as stat:
                text = stat.read()
        except OSError:
            continue
        fields = text[text.rindex(')') + 2:].split()
        if int(fields[1]) == os.getpid() and fields[0] != 'Z':
            found.append((int(entry), text[text.index('('):][:60]))
    return found


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@pytest.fixture(scope='session')
def schema(pytestconfig):
    """schema(machine) is the schema of the server, from its own mouth."""
    known = {}

    def ask(machine=False):
        if machine not in known:
            directory = tempfile.mkdtemp(prefix='iotests-')
            server = Server(Setup(pytestconfig, directory), machine=machine)
            try:
                server.start()
                known[machine] = Schema(server.qmp('query-qmp-schema'))
            finally:
                server.stop()
                shutil.rmtree(directory, ignore_errors=True)
        return known[machine]

    return ask


@pytest.fixture
def directory():
    """A directory of its own for each test, with a short name: socket
    paths are limited to 107 bytes."""
    path = tempfile.mkdtemp(prefix='iotests-')
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def setup(pytestconfig, directory, schema):
    yield Setup(pytestconfig, directory, schema)
    left = children()
    deadline = time.monotonic() + 2 * SCALE
    while left and time.monotonic() < deadline:
        reap()          # one may be on its way out
        time.sleep(0.02)
        left = children()
    for pid, _ in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass        # it went by itself
    reap()
    assert not left, f'processes left behind: {left}'


@pytest.fixture
def images(directory, setup):
    """Images of the test; checked after the servers have ended."""
    made = Images(directory)
    yield made
    made.check_all()


@pytest.fixture
def start_server(setup, images):
    """start_server(...) starts a server; see Server for the arguments.
    All are stopped, and judged, when the test ends."""
    servers = []

    def start(connect=True, **kwargs):
        kwargs.setdefault('name', f's{len(servers) + 1}')
        server = Server(setup, **kwargs)
        servers.append(server)
        return server.start(connect)

    yield start
    failures = []
    for server in reversed(servers):
        try:
            server.stop()
        except ServerFailed as exc:
            failures.append(str(exc))
    assert not failures, '\n'.join(failures)


@pytest.fixture
def launch(setup, images):
    """launch(...) makes a Machine as QEMU's Python harness does, not yet
    started (harness.py); all are stopped, and judged, at the end."""
    machines = []

    def make(*args, **kwargs):
        kwargs.setdefault('name', f'vm{len(machines) + 1}')
        machines.append(Machine(setup, args=args, **kwargs))
        return machines[-1]

    yield make
    failures = []
    for machine in reversed(machines):
        try:
            machine.stop()
        except ServerFailed as exc:
            failures.append(str(exc))
    assert not failures, '\n'.join(failures)


@pytest.fixture
def shell(setup, images):
    """shell(...) starts a server as QEMU's shell harness does."""
    shells = []

    def make(*args, **kwargs):
        shells.append(Shell(setup, args=args, **kwargs))
        return shells[-1]

    yield make
    for one in shells:
        one.close()


@pytest.fixture
def server(start_server):
    """A server with nothing opened."""
    return start_server()


@pytest.fixture
def guest_on(start_server):
    """guest_on(server, export) is a Guest, gone at the test's end."""
    guests = []

    def make(server, export, **kwargs):
        guest = Guest(server.nbd_path, export, **kwargs)
        guests.append(guest)
        return guest

    yield make
    for guest in guests:
        try:
            guest.close()
        except (OSError, NbdError):
            pass        # the test has looked at what it cares about


@pytest.fixture
def small_disk(directory):
    """small_disk(n_bytes) is a tmpfs of that size; skips without root."""
    made = []

    def make(n_bytes):
        path = os.path.join(directory, f'small{len(made)}')
        os.mkdir(path)
        made.append(SmallDisk(path, n_bytes))
        return made[-1]

    yield make
    for disk in made:
        disk.unmount()
