# SPDX-License-Identifier: MIT
"""blockjobctl, the command-line client, as scripts use it.

It talks to QEMU as well, so all this runs against both.
"""

import json
import os
import pty
import select
import subprocess
import time

import pytest

MIB = 1 << 20


@pytest.fixture
def ctl(server, pytestconfig):
    """ctl('cmd', 'key=value', …) runs it: (exit code, stdout, stderr)."""
    path = pytestconfig.getoption('--blockjobctl')
    if not os.access(path, os.X_OK):
        pytest.skip(f'no client at {path}')
    server.mon.close()      # QEMU serves one client at a time

    def run(*args, stdin=None, socket=server.qmp_path):
        done = subprocess.run(
            [path, '-s', socket, *args], input=stdin, text=True,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True, timeout=30, check=False,
            env=dict(os.environ, HOME=server.directory, LC_ALL='C'))
        server.log.append(f'blockjobctl {args}: {done}')
        return done.returncode, done.stdout, done.stderr

    run.path = path
    yield run
    if server.running():
        server.mon = server.connect()


def result(ctl, *args):
    code, out, err = ctl('-j', *args)
    assert code == 0, err
    return json.loads(out) if out.strip() else None


def test_one_command(ctl):
    version = result(ctl, 'query-version')
    assert set(version) == {'qemu', 'package'}
    assert result(ctl, 'query-jobs') == []


def test_key_value_and_json(ctl, images):
    path = images.create('a.qcow2', '1M')
    result(ctl, 'blockdev-add', 'driver=qcow2', 'node-name=q',
           'file.driver=file', f'file.filename={path}', 'read-only=on')
    result(ctl, 'blockdev-add', json.dumps(
        {'driver': 'null-co', 'node-name': 'z', 'size': 65536}))
    result(ctl, 'blockdev-add', 'driver=null-co', 'node-name=m', 'size=2M')
    nodes = {n['node-name']: n for n in
             result(ctl, 'query-named-block-nodes', 'flat=on')}
    assert nodes['q']['ro'] is True
    assert nodes['m']['image']['virtual-size'] == 2 * MIB
    result(ctl, 'block-dirty-bitmap-add', 'node=m', 'name=123')
    result(ctl, 'block-dirty-bitmap-add', 'node=m', 'name=t')
    result(ctl, 'block-dirty-bitmap-merge', 'node=m', 'target=t',
           'bitmaps.0=123')


def test_exit_codes(ctl):
    code, out, err = ctl('blockdev-del', 'node-name=nope')
    assert code == 1 and not out
    assert "Failed to find node with node-name='nope'" in err
    code, _, err = ctl('no-such-command')
    assert code in (1, 2) and err
    code, _, err = ctl('--no-such-option')
    assert code == 2 and err
    code, _, err = ctl('query-jobs', socket='/nonexistent/sock')
    assert code == 3 and err


def test_help(ctl):
    code, out, _ = ctl('--help')
    assert code == 0 and 'Usage' in out
    code, out, _ = ctl('help')
    assert code == 0 and 'blockdev-backup' in out
    code, out, _ = ctl('help', 'blockdev-backup')
    assert code == 0 and 'bitmap-mode' in out and 'on-success' in out


def test_wait(ctl, images):
    """--wait follows the job to its end, whatever that is."""
    for name in ('src', 'dst'):
        result(ctl, 'blockdev-add', 'driver=null-co', f'node-name={name}',
               'size=64M')
    code, out, err = ctl('--wait', 'blockdev-backup', 'job-id=j',
                         'device=src', 'target=dst', 'sync=full')
    assert code == 0, err
    assert result(ctl, 'query-jobs') == []
    path = images.path('nonexistent/x')
    code, out, err = ctl('--wait', 'blockdev-create', 'job-id=c',
                         'options.driver=file', f'options.filename={path}',
                         'options.size=1M')
    assert code == 1
    assert 'No such file' in out + err


def test_commands_from_a_pipe(ctl):
    code, out, err = ctl('shell', stdin=(
        'blockdev-add driver=null-co node-name=a size=4096\n'
        '\n'
        'query-named-block-nodes flat=on\n'))
    assert code == 0, err
    assert '"node-name"' in out or 'node-name' in out
    code, out, err = ctl('shell', stdin='blockdev-del node-name=nope\n')
    assert 'Failed to find node' in out + err


def test_events(ctl, server):
    for name in ('src', 'dst'):
        result(ctl, 'blockdev-add', 'driver=null-co', f'node-name={name}',
               'size=1M')
    if server.is_qemu:
        pytest.skip('one client at a time')
    with subprocess.Popen([ctl.path, '-s', server.qmp_path, 'events'],
                          stdout=subprocess.PIPE, bufsize=0) as listener:
        time.sleep(0.3)
        ctl('blockdev-backup', 'job-id=j', 'device=src', 'target=dst',
            'sync=full')
        seen = b''
        deadline = time.monotonic() + 10
        while b'"null"' not in seen and time.monotonic() < deadline:
            if select.select([listener.stdout], [], [], 0.2)[0]:
                seen += os.read(listener.stdout.fileno(), 4096)
        listener.terminate()
    assert b'JOB_STATUS_CHANGE' in seen and b'BLOCK_JOB_COMPLETED' in seen


def test_shell_on_a_terminal(ctl, server):
    """Prompt, a command, completion by TAB, end by ^D."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(HOME=server.directory, TERM='vt100', LC_ALL='C')
        os.execv(ctl.path, [ctl.path, '-s', server.qmp_path])
    seen = b''

    def expect(text, timeout=10):
        nonlocal seen
        deadline = time.monotonic() + timeout
        while text not in seen:
            left = deadline - time.monotonic()
            assert left > 0, f'no {text!r} in {seen!r}'
            if select.select([fd], [], [], left)[0]:
                seen += os.read(fd, 4096)
        seen = seen[seen.index(text) + len(text):]

    status = None
    try:
        expect(b'> ')
        os.write(fd, b'query-vers\t')
        expect(b'ion')
        os.write(fd, b'\n')
        expect(b'package')
        expect(b'> ')
        os.write(fd, b'blockdev-del node-name=nope\n')
        expect(b'Failed to find node')
        expect(b'> ')
        # Typed ahead of the prompt it may become a letter of the line,
        # as on any terminal: clear the line first.  What the shell writes
        # must be read, or it waits for us.
        for _ in range(40):
            gone, status = os.waitpid(pid, os.WNOHANG)
            try:
                os.write(fd, b'\x15\x04')
                if select.select([fd], [], [], 0.25)[0]:
                    seen += os.read(fd, 4096)
            except OSError:
                time.sleep(0.05)        # EIO: the other side is closed
            if gone:
                pid = 0
                break
        assert pid == 0, f'the shell does not end at ^D: {seen!r}'
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        os.close(fd)


def test_watch(ctl):
    """With nothing to watch it says so and ends; with a job it follows."""
    code, _, _ = ctl('watch')
    assert code == 0
    for name in ('src', 'dst'):
        result(ctl, 'blockdev-add', 'driver=null-co', f'node-name={name}',
               'size=64M')
    result(ctl, 'blockdev-backup', 'job-id=j', 'device=src', 'target=dst',
           'sync=full', 'speed=64M')
    code, out, err = ctl('watch', 'j')
    assert code in (0, 1), err
    assert result(ctl, 'query-jobs') == []


def test_server_goes_away(ctl, server):
    result(ctl, 'quit')
    server.wait_exit()
    code, _, err = ctl('query-jobs')
    assert code == 3 and err
