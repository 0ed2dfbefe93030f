# SPDX-License-Identifier: MIT
"""blockjobctl watch: what a person sees of jobs, and how it ends."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest

from .jobs import start_backup
from .qmp import SCALE

MIB = 1 << 20
LIMIT = 20 * SCALE

LINE = re.compile(
    r'^(?P<id>\S+)  (?P<type>[a-z]+)( \[(?P<bar>[#.]{28})\])? +'
    r'(?P<percent>[0-9.]+)%  (?P<amount>[0-9.]+ [KMGT]?i?B) of '
    r'(?P<total>[0-9.]+ [KMGT]?i?B)  (?P<rate>[0-9.]+ [KMGT]?i?B)/s'
    r'(  dirty [0-9.]+ [KMGT]?i?B/s)?(  (?P<left>[0-9:]+) left)?'
    r'  (?P<status>.*)$')


class Watch:
    """A blockjobctl watch that runs, with its output on a pipe or on a
    terminal."""

    def __init__(self, path, server, *ids, terminal=False, columns=200):
        self.text = ''
        options = [word for word in ids if word.startswith('-')]
        argv = [path, '-s', server.qmp_path, *options, 'watch',
                *(word for word in ids if word not in options)]
        if terminal:
            self.fd, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                        struct.pack('HHHH', 25, columns, 0, 0))
        else:
            self.fd, theirs = os.pipe()
        self.proc = subprocess.Popen(argv, stdout=theirs,
                                     stderr=subprocess.PIPE,
                                     stdin=subprocess.DEVNULL)
        os.close(theirs)

    def read(self, timeout):
        """False: nothing more comes."""
        if not select.select([self.fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:         # EIO: the other side of the terminal is closed
            data = b''
        self.text += data.decode()
        return bool(data)

    def until(self, wanted):
        """Read until wanted(self); returns what it returned."""
        deadline = time.monotonic() + LIMIT
        while True:
            found = wanted(self)
            if found:
                return found
            assert time.monotonic() < deadline, self.text
            assert self.read(0.1), self.text

    def lines(self):
        """Every line that was complete, without what moves the cursor."""
        text = re.sub(r'\x1b\[[0-9]*[AK]', '', self.text)
        return [line.rstrip('\r') for line in text.split('\n')[:-1]]

    def parsed(self):
        found = [LINE.match(line) for line in self.lines()]
        assert all(found), self.lines()
        return [m.groupdict() for m in found]

    def end(self):
        """Its exit status, when it ends by itself."""
        deadline = time.monotonic() + LIMIT
        while self.read(0.1):
            assert time.monotonic() < deadline, self.text
        return self.proc.wait(LIMIT)

    def close(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.proc.stderr.close()
        os.close(self.fd)


@pytest.fixture
def watch(server, pytestconfig):
    path = pytestconfig.getoption('--blockjobctl')
    if not os.access(path, os.X_OK):
        pytest.skip(f'no client at {path}')
    if server.is_qemu:
        pytest.skip('QEMU serves one client at a time')
    for name in ('src', 'dst', 'src2', 'dst2'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=64 * MIB)
    made = []

    def start(*args, **kwargs):
        made.append(Watch(path, server, *args, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_plain_lines(server, watch):
    """A line at each tenth and each change of status, to the end."""
    job = start_backup(server, 'src', 'dst', speed=32 * MIB)
    seen = watch('backup')
    assert seen.end() == 0
    lines = seen.parsed()
    assert 3 <= len(lines) <= 25
    percents = [float(line['percent']) for line in lines]
    assert percents == sorted(percents) and percents[-1] == 100
    assert lines[-1]['status'] == 'done'
    assert lines[-1]['total'] == '64.0 MiB'
    assert all(line['bar'] is None for line in lines)
    assert '\x1b' not in seen.text
    job.dismiss()


def test_terminal(server, watch):
    """One line with a bar, drawn again and again; the rate is that of the
    limit and the time left agrees with it."""
    job = start_backup(server, 'src', 'dst', speed=8 * MIB)
    seen = watch('backup', terminal=True)

    def steady(seen):
        lines = seen.parsed()
        return len(lines) > 8 and lines[-1]['left'] and lines[-1]

    line = seen.until(steady)
    assert seen.text.count('\x1b[1A') >= 8 and '\x1b[K' in seen.text
    rate, unit = line['rate'].split()
    assert unit == 'MiB' and 4 < float(rate) < 16
    assert line['bar'].count('#') == int(float(line['percent']) * 28 / 100)
    minutes, rest = line['left'].split(':')
    left = 64 * (1 - float(line['percent']) / 100) / float(rate)
    assert abs(int(minutes) * 60 + int(rest) - left) < 4
    job.set_speed(0)
    assert seen.end() == 0
    assert seen.parsed()[-1]['status'] == 'done'
    job.dismiss()


def test_narrow_terminal(server, watch):
    """A line that does not fit is cut: a wrapped one could not be drawn
    again."""
    job = start_backup(server, 'src', 'dst', speed=32 * MIB)
    seen = watch('backup', terminal=True, columns=30)
    assert seen.end() == 0
    assert {len(line) for line in seen.lines()} == {29}
    job.dismiss()


def test_pause_and_its_reason(server, watch):
    job = start_backup(server, 'src', 'dst', speed=MIB)
    seen = watch('backup')
    seen.until(lambda s: s.lines() and s.parsed()[-1]['status'] == 'running')
    job.pause()
    line = seen.until(lambda s: [l for l in s.parsed()
                                 if l['status'] == 'paused (user)'])[-1]
    assert line['rate'] == '0 B' and line['left'] is None
    job.resume()
    job.set_speed(0)
    assert seen.end() == 0
    job.dismiss()


def test_cancelled(server, watch):
    job = start_backup(server, 'src', 'dst', speed=MIB)
    seen = watch('backup')
    seen.until(lambda s: s.lines())
    job.cancel()
    assert seen.end() == 1
    assert seen.parsed()[-1]['status'].startswith('cancelled')
    job.wait('concluded')
    job.dismiss()


def test_named_job_only(server, watch):
    """It ends with the job that it was told to watch, not with others."""
    other = start_backup(server, 'src2', 'dst2', job_id='other', speed=MIB)
    job = start_backup(server, 'src', 'dst', speed=MIB)
    seen = watch('backup')
    seen.until(lambda s: s.lines())
    job.set_speed(0)
    assert seen.end() == 0
    assert {line['id'] for line in seen.parsed()} == {'backup'}
    job.dismiss()
    other.cancel()
    other.wait('concluded')


def test_all_jobs(server, watch):
    """A line for each; one that failed or was cancelled shows in the exit
    status."""
    first = start_backup(server, 'src', 'dst', job_id='first', speed=MIB)
    second = start_backup(server, 'src2', 'dst2', job_id='second', speed=MIB)
    seen = watch(terminal=True)
    seen.until(lambda s: {line['id'] for line in s.parsed()} ==
               {'first', 'second'} and '\x1b[2A' in s.text)
    first.set_speed(0)
    second.cancel()
    assert seen.end() == 1
    last = {line['id']: line['status'] for line in seen.parsed()}
    assert last['first'] == 'done' and last['second'].startswith('cancelled')
    for job in (first, second):
        job.wait('concluded')


def test_job_that_has_ended(server, watch):
    """Gone from the list of jobs, known from the history."""
    start_backup(server, 'src', 'dst', auto_dismiss=True).wait('null')
    seen = watch('backup')
    assert seen.end() == 0
    assert seen.parsed()[-1]['status'] == 'done'
    job = start_backup(server, 'src', 'dst', auto_dismiss=True, speed=1)
    job.cancel()
    job.wait('null')
    seen = watch('backup')
    assert seen.end() == 1
    assert seen.parsed()[-1]['status'].startswith('cancelled')


def test_until_ready(server, watch, pytestconfig):
    """--ready: a mirror need not end; without it the watch goes on."""
    server.qmp('blockdev-mirror', job_id='m', device='src', target='dst',
               sync='full', speed=64 * MIB)
    seen = watch('m')
    ready = watch('--ready', 'm')
    assert ready.end() == 0
    assert ready.parsed()[-1]['status'] == 'ready'
    seen.until(lambda s: s.lines() and s.parsed()[-1]['status'] == 'ready')
    assert seen.proc.poll() is None
    server.qmp('job-complete', id='m')
    assert seen.end() == 0
    assert seen.parsed()[-1]['status'] == 'done'


def test_no_such_job(server, watch):
    seen = watch('nosuch')
    assert seen.end() == 1 and seen.text == ''
    assert seen.proc.stderr.read() == b"Error: there is no job 'nosuch'\n"


def test_server_goes_away(server, watch):
    start_backup(server, 'src', 'dst', speed=1)
    seen = watch('backup', terminal=True)
    seen.until(lambda s: s.lines())
    server.quit()
    assert seen.end() in (1, 3)     # it saw the cancel, or only the end
