# SPDX-License-Identifier: MIT
"""What a storage daemon is asked to do, under that name: jobs at its end,
options of exports, graph changes under the load of several clients."""

import json
import os
import re
import subprocess
import threading

import pytest

from .images import run_tool
from .jobs import Job
from .qmp import TIMEOUT, QmpError

MIB = 1 << 20


@pytest.fixture
def daemon(setup, images, tmp_path):
    """daemon(args, commands) runs one with a monitor on stdin and stdout to
    its end: (exit code, what it printed)."""
    program = 'qemu-storage-daemon'
    if setup.kind != 'qemu':
        program = str(tmp_path / program)
        os.symlink(os.path.abspath(setup.blockjobd), program)

    def run(*args, commands=('quit',)):
        text = '{"execute": "qmp_capabilities"}\n'
        for command in commands:
            if isinstance(command, str):
                command = {'execute': command}
            text += json.dumps(command) + '\n'
        argv = [program, '--chardev', 'stdio,id=stdio', '--monitor',
                'chardev=stdio', *args]
        done = subprocess.run(argv, input=text.encode(), timeout=TIMEOUT,
                              stdout=subprocess.PIPE, cwd=setup.directory,
                              stderr=subprocess.STDOUT, check=False)
        return done.returncode, done.stdout.decode()

    return run


def words(output):
    """Replies and events, short."""
    said = []
    for line in output.splitlines():
        message = json.loads(line)
        event = message.get('event')
        if event == 'JOB_STATUS_CHANGE':
            said.append(message['data']['status'])
        elif event:
            said.append(event)
        elif 'error' in message:
            said.append(message['error']['desc'])
        elif 'return' in message:
            said.append('return')
    return said


def qcow2(name, path, **options):
    return ['--blockdev', json.dumps(dict(
        {'driver': 'qcow2', 'node-name': name,
         'file': {'driver': 'file', 'filename': path}}, **options))]


def test_job_at_shutdown(daemon, images, setup):
    """A ready job is cancelled by quit; no SHUTDOWN event."""
    base = images.create('base.qcow2', '64M')
    top = images.create('top.qcow2', '64M', backing=base)
    code, output = daemon(
        *qcow2('base', base), *qcow2('top', top, backing='base'),
        commands=[{'execute': 'block-commit',
                   'arguments': {'device': 'top', 'job-id': 'job0'}}, 'quit'])
    assert code == 0
    drained = ['standby', 'ready']
    started = ['return', 'ready', 'BLOCK_JOB_READY'] + 2 * drained
    if setup.kind == 'qemu':        # 7.2: less of both
        started = ['ready', 'BLOCK_JOB_READY', 'return'] + drained
    assert words(output) == ['return', 'created', 'running'] + started + [
        'aborting', 'BLOCK_JOB_CANCELLED', 'concluded', 'null', 'return']


def test_stream_gets_no_permission(daemon, images, setup):
    """The export of the base writes: the job is made, and goes."""
    base = images.create('base.qcow2', '64M')
    top = images.create('top.qcow2', '64M', backing=base)
    code, output = daemon(
        *qcow2('base', base), *qcow2('top', top, backing='base'),
        '--nbd-server', f'addr.type=unix,addr.path={setup.directory}/n.sock',
        '--export', 'type=nbd,id=e,node-name=base,writable=on,name=e',
        commands=[{'execute': 'block-stream',
                   'arguments': {'device': 'top', 'job-id': 'job0'}}, 'quit'])
    assert code == 0
    assert words(output) == [
        'return', 'created', 'null',
        "Permission conflict on node 'base': permissions 'write' are both "
        "required by an unnamed block device (uses node 'base' as 'root' "
        "child) and unshared by stream job 'job0' (uses node 'base' as "
        "'intermediate node' child).", 'BLOCK_EXPORT_DELETED', 'return']


EXPORT_ERRORS = (
    ('nbd', "Parameter 'id' is missing"),
    ('type=nbd,id=e', "Parameter 'node-name' is missing"),
    ('foo', "Parameter 'type' does not accept value 'foo'"),
    ('type=foo,id=x', "Parameter 'type' does not accept value 'foo'"),
    ('', "Parameter 'type' is missing"),
    ('nbd,id=e,node-name=nope', "Cannot find device='' nor node-name='nope'"),
    ('nbd,id=e,node-name=n,bitmaps.0=nob', "Bitmap 'nob' is not found"),
    ('nbd,id=e,node-name=n,iothread=x', 'iothread "x" not found'),
    ('nbd,id=e,node-name=n,writable=maybe',
     "Parameter 'writable' expects 'on' or 'off'"),
    ('nbd,id=e,node-name=n,xx=y', "Parameter 'xx' is unexpected"),
)


@pytest.mark.parametrize('text, why', EXPORT_ERRORS)
def test_export_errors(daemon, setup, text, why):
    code, output = daemon(
        '--object', 'iothread,id=io', '--blockdev', 'null-co,node-name=n',
        '--nbd-server', f'addr.type=unix,addr.path={setup.directory}/n.sock',
        '--export', text)
    assert code == 1
    assert output.endswith(f'qemu-storage-daemon: --export {text}: {why}\n')


@pytest.mark.ours('Debian has FUSE exports')
@pytest.mark.parametrize('text', ('fuse', 'type=fuse,id=e,node-name=n,'
                                  'mountpoint=/nowhere'))
def test_no_fuse(daemon, text):
    """QEMU's tests know by these words that a build has no FUSE exports."""
    code, output = daemon('--blockdev', 'null-co,node-name=n', '--export',
                          text)
    assert code == 1
    assert output.endswith(f"--export {text}: Parameter 'type' does not "
                           "accept value 'fuse'\n")


@pytest.mark.parametrize('more', (
    'iothread=io', 'iothread=io,fixed-iothread=on', 'fixed-iothread=off',
    'allocation-depth=on', 'bitmaps.0=b', 'bitmaps.0.node=n,bitmaps.0.name=b',
    'writable=on,writethrough=on', 'description=text,name=other'))
def test_export_options(daemon, images, setup, more):
    path = images.create('a.qcow2', '1M')
    run_tool('qemu-img', 'bitmap', '--add', '--disable', path, 'b')
    code, output = daemon(
        '--object', 'iothread,id=io', *qcow2('n', path),
        '--nbd-server', f'addr.type=unix,addr.path={setup.directory}/n.sock',
        '--export', 'nbd,id=e,node-name=n,' + more,
        commands=['query-block-exports', 'quit'])
    assert code == 0, output
    assert words(output) == ['return', 'return', 'BLOCK_EXPORT_DELETED',
                             'return']


@pytest.mark.ours('allow-inactive is new in QEMU 10.0')
def test_export_of_an_inactive_node(daemon, images, setup):
    path = images.create('a.qcow2', '1M')
    server = f'addr.type=unix,addr.path={setup.directory}/n.sock'
    for allow in (False, True):
        code, output = daemon(
            *qcow2('n', path, active=False), '--nbd-server', server,
            '--export', 'nbd,id=e,node-name=n,writable=true,allow-inactive=' +
            ('on' if allow else 'off'),
            commands=['query-named-block-nodes', 'quit'])
        assert code == 0
        active = re.findall(r'"active": (true|false)', output)
        assert set(active) == {'false' if allow else 'true'}


# ---- graph changes under load ----------------------------------------------

class Load:
    """N clients that write all the time, in processes of their own."""

    def __init__(self, uri, n=2, count=4000):
        self.argv = ['qemu-img', 'bench', '-f', 'raw', '-w', '-t', 'writeback',
                     '-s', '4096', '-d', '8', '-c', str(count), uri]
        self.codes = []
        self._stop = False
        self._threads = [threading.Thread(target=self._run)
                         for _ in range(n)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stop:
            self.codes.append(subprocess.run(
                self.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                check=False))

    def stop(self):
        self._stop = True
        for thread in self._threads:
            thread.join(60)
        for done in self.codes:
            assert done.returncode == 0, done.stdout.decode()


def export(server, node, name):
    """In an iothread; 7.2 crashes when the graph changes under it."""
    options = {} if server.is_qemu else {'iothread': 'io'}
    return server.export(node, name, **options)


@pytest.fixture
def loaded(server, images):
    """A server whose node0, a null device, is written by several clients."""
    server.qmp('object-add', {'qom-type': 'iothread', 'id': 'io'})
    server.qmp('blockdev-add', driver='null-co', node_name='node0',
               size=MIB * 64)
    export(server, 'node0', 'exp')
    load = Load(server.uri('exp'))
    yield server
    load.stop()


def add(server, name, path, **options):
    server.qmp('blockdev-add', dict({
        'driver': 'qcow2', 'node-name': name,
        'file': {'driver': 'file', 'filename': path}}, **options))


def commit(server, name, active=True, **arguments):
    server.qmp('block-commit', dict({
        'job-id': name, 'auto-dismiss': False}, **arguments))
    job = Job(server, name)
    if active:
        job.wait('BLOCK_JOB_READY')
        server.qmp('job-complete', id=name)
    job.finish()


def test_blockdev_add_while_io(loaded, images):
    top = images.create('top.qcow2', '64M')
    for _ in range(30):
        add(loaded, 'overlay', top, backing='node0')
        loaded.qmp('blockdev-del', node_name='overlay')


def test_commit_while_io(loaded, images):
    for _ in range(6):
        top = images.create('top.qcow2', '64M')
        add(loaded, 'overlay', top, backing=None)
        loaded.qmp('blockdev-snapshot', node='node0', overlay='overlay')
        commit(loaded, 'commit0', device='overlay')
        loaded.qmp('blockdev-del', node_name='overlay')


def test_lower_snapshot_while_io(loaded, images):
    for _ in range(4):
        mid = images.create('mid.qcow2', '64M')
        top = images.create('top.qcow2', '64M')
        add(loaded, 'mid', mid, backing=None)
        loaded.qmp('blockdev-snapshot', node='node0', overlay='mid')
        add(loaded, 'top', top, backing=None)
        loaded.qmp('blockdev-snapshot', node='mid', overlay='top')
        commit(loaded, 'commit-mid', False, device='top', **{
            'top-node': 'mid', 'base-node': 'node0'})
        loaded.qmp('blockdev-del', node_name='mid')
        commit(loaded, 'commit-top', device='top')
        loaded.qmp('blockdev-del', node_name='top')


@pytest.mark.ours('block-job-change is new in QEMU 8.2')
def test_mirror_changes_copy_mode(server, images):
    """Background copying with a writer, then write-blocking: from then on
    the job can become, and stay, synchronous."""
    source = images.create('s.qcow2', '8M')
    target = images.create('t.qcow2', '8M')
    images.io(source, 'write -P 1 0 8M')
    server.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'g',
                              'limits': {'bps-total': 4 * MIB}})
    server.add_node('s', source)
    add(server, 't-fmt', target)
    server.qmp('blockdev-add', {'driver': 'throttle', 'node-name': 't',
                                'throttle-group': 'g', 'file': 't-fmt'})
    uri = server.export('s')
    server.qmp('blockdev-mirror', {
        'job-id': 'm', 'device': 's', 'target': 't', 'sync': 'full',
        'copy-mode': 'background', 'auto-dismiss': False})
    info = server.qmp('query-block-jobs')[0]
    assert info['actively-synced'] is False
    with pytest.raises(QmpError):
        server.qmp('block-job-change', {'id': 'm', 'type': 'stream'})
    server.qmp('block-job-change', {'id': 'm', 'type': 'mirror',
                                    'copy-mode': 'write-blocking'})
    with pytest.raises(QmpError):
        server.qmp('block-job-change', {'id': 'm', 'type': 'mirror',
                                        'copy-mode': 'background'})
    text = run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 2 1M 64k', uri)
    assert 'wrote 65536' in text
    server.qmp('qom-set', path='g', property='limits', value={
        'bps-total': 0})
    job = Job(server, 'm')
    job.wait('BLOCK_JOB_READY')
    text = run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 3 2M 64k', uri)
    info = server.qmp('query-block-jobs')[0]
    assert info['actively-synced'] is True and info['len'] == info['offset']
    server.qmp('job-complete', id='m')
    job.finish()
    server.qmp('block-export-del', id='export-s', mode='hard')
    server.wait_event('BLOCK_EXPORT_DELETED')
    server.qmp('blockdev-del', node_name='t')
    server.qmp('blockdev-del', node_name='s')
    server.qmp('blockdev-del', node_name='t-fmt')
    assert 'identical' in run_tool('qemu-img', 'compare', source, target)


# ---- regressions with iothreads (281) --------------------------------------

def test_transactions_that_fail(server, images):
    """Backups and snapshots of a group that fails leave nothing."""
    a = images.create('a.qcow2', '1M')
    server.qmp('object-add', {'qom-type': 'iothread', 'id': 'io'})
    server.add_node('n', a)
    export(server, 'n', 'e')
    add(server, 'target', images.create('t.qcow2', '1M'))
    before = server.graph()
    for _ in range(3):
        with pytest.raises(QmpError) as info:
            server.qmp('transaction', actions=[
                {'type': 'blockdev-snapshot-sync',
                 'data': {'node-name': 'n', 'snapshot-file': 'x.qcow2',
                          'snapshot-node-name': 'x'}},
                {'type': 'blockdev-snapshot-sync',
                 'data': {'node-name': 'nope', 'snapshot-file': 'y.qcow2',
                          'snapshot-node-name': 'y'}}])
        assert info.value.desc == "Cannot find device='' nor node-name='nope'"
        with pytest.raises(QmpError) as info:
            server.qmp('transaction', actions=[
                {'type': 'blockdev-backup',
                 'data': {'job-id': 'j', 'device': 'n', 'target': 'target',
                          'sync': 'full'}},
                {'type': 'blockdev-backup',
                 'data': {'job-id': 'k', 'device': 'n', 'target': 'nope',
                          'sync': 'full'}}])
        assert info.value.desc == \
            "Cannot find device='nope' nor node-name='nope'"
    assert server.graph()[1] == before[1]
    server.qmp('block-dirty-bitmap-add', node='n', name='b', persistent=True)


def test_nbd_mirror_between_iothreads(server, start_server, images):
    other = start_server()
    for one in (server, other):
        one.qmp('object-add', {'qom-type': 'iothread', 'id': 'io'})
    source = images.create('s.qcow2', '4M')
    target = images.create('t.qcow2', '4M')
    images.io(source, 'write -P 5 1M 1M')
    other.add_node('t', target)
    export(other, 't', 't')
    server.add_node('s', source)
    export(server, 's', 's')
    server.qmp('blockdev-add', {
        'driver': 'nbd', 'node-name': 'target', 'export': 't',
        'server': {'type': 'unix', 'path': other.nbd_path},
        'reconnect-delay': 5})
    server.qmp('blockdev-mirror', {'job-id': 'm', 'device': 's',
                                   'target': 'target', 'sync': 'full',
                                   'auto-dismiss': False})
    job = Job(server, 'm')
    job.wait('BLOCK_JOB_READY')
    server.qmp('job-complete', id='m')
    job.finish()
    server.qmp('block-export-del', id='export-s')
    server.qmp('blockdev-del', node_name='target')
    server.qmp('blockdev-del', node_name='s')
    other.qmp('nbd-server-stop')
    other.qmp('blockdev-del', node_name='t')
    assert 'identical' in run_tool('qemu-img', 'compare', source, target)


@pytest.mark.ours('7.2 hangs in blockdev-del')
def test_timers_of_nbd_are_gone(server, start_server, images):
    """blockdev-del of a node whose server has died, with a delay that runs."""
    other = start_server()
    other.qmp('blockdev-add', driver='null-co', node_name='t', size=MIB)
    other.export('t')
    for name in ('a', 'b'):
        server.qmp('blockdev-add', {
            'driver': 'nbd', 'node-name': name, 'export': 't',
            'server': {'type': 'unix', 'path': other.nbd_path},
            'reconnect-delay': 3600, 'open-timeout': 3600})
    uri = server.export('a')
    other.kill()
    reader = subprocess.Popen(['qemu-io', '-r', '-f', 'raw', '-c',
                               'read 0 512', uri], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    server.qmp('blockdev-del', node_name='b')
    server.qmp('block-export-del', id='export-a', mode='hard')
    server.wait_event('BLOCK_EXPORT_DELETED')
    reader.communicate(timeout=TIMEOUT)
    server.qmp('blockdev-del', node_name='a')
