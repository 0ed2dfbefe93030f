# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 185, 218, 219, 235, 247, 248: jobs, verb by
verb and event by event."""

import re
import subprocess
import time

import pytest

from .images import qemu_img

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB
PERF = {'max-chunk': 64 * KIB}


# 219: every verb in every state, and how far the job is


class Life:
    """One job of id job0, its events taken one by one."""

    def __init__(self, vm, kind):
        self.vm = vm
        self.kind = kind

    def states(self, *wanted):
        got = [self.vm.wait_event('JOB_STATUS_CHANGE', {'id': 'job0'})
               ['data']['status'] for _ in wanted]
        assert got == list(wanted)

    def job(self, status, current, total=SIZE):
        job = {'id': 'job0', 'status': status, 'type': self.kind,
               'current-progress': current, 'total-progress': total}
        assert self.vm.qmp('query-jobs') == [job]

    def paused(self):
        while self.vm.qmp('query-jobs')[0]['status'] not in (
                'paused', 'standby'):
            pass

    def pause_and_resume(self, at, running, paused):
        """By each pair of commands; where it is then.  An unready job does
        64k each time."""
        for pause in ({'block-job-pause': 'device'}, {'job-pause': 'id'}):
            for resume in ({'block-job-resume': 'device'},
                           {'job-resume': 'id'}):
                (command, key), = pause.items()
                self.vm.qmp(command, {key: 'job0'})
                self.paused()
                self.states(paused)
                self.job(paused, at)
                (command, key), = resume.items()
                self.vm.qmp(command, {key: 'job0'})
                self.states(running)
                if at == SIZE:
                    continue
                while self.vm.qmp('query-jobs')[0]['current-progress'] == at:
                    pass
                at += 64 * KIB
                self.job(running, at)
        return at

    def refuses(self, state, *verbs, block=None):
        text = f"Job 'job0' in state '{state}' cannot accept command verb '%s'"
        for verb in verbs:
            self.vm.fails(f'job-{verb}', id='job0', desc=text % verb)
        for verb in block or verbs:
            key = 'device' if verb in ('complete', 'pause') else 'id'
            self.vm.fails(f'block-job-{verb}', {key: 'job0'},
                          desc=text % verb)


def until_running(life, mirror):
    life.states('created', 'running')
    if not mirror:
        life.states('paused', 'running')
    while life.vm.qmp('query-jobs')[0]['total-progress'] < SIZE:
        pass
    while life.vm.qmp('query-jobs')[0]['current-progress'] == 0:
        pass


def finish(life, options):
    if not options.get('auto-finalize', True):
        life.job('pending', SIZE)
        life.refuses('pending', 'pause', 'complete', 'dismiss')
        life.vm.qmp('job-finalize', id='job0')
    life.states('concluded')
    if not options.get('auto-dismiss', True):
        life.job('concluded', SIZE)
        life.refuses('concluded', 'pause', 'complete', 'finalize')
        life.vm.qmp('job-dismiss', id='job0')
    life.states('null')
    assert life.vm.qmp('query-jobs') == []


@pytest.mark.parametrize('kind, options', [('mirror', {})] + [
    ('backup', {'auto-finalize': a, 'auto-dismiss': b})
    for a in (True, False) for b in (True, False)])
def test_219(launch, images, kind, options):
    disk = images.create('disk.img', SIZE)
    images.io(disk, f'write 0 {SIZE}')
    vm = launch().add_blockdev(f'driver=qcow2,node-name=drive0-node,'
                               f'file.driver=file,file.filename={disk}')
    vm.start()
    life = Life(vm, kind)
    arguments = dict(options, **{
        'job-id': 'job0', 'device': 'drive0-node', 'speed': 262144,
        'target': images.path('copy.img'), 'sync': 'full'})
    if kind == 'mirror':
        arguments['buf-size'] = 65536
    else:
        arguments['x-perf'] = PERF
    vm.qmp(f'drive-{kind}', arguments)
    until_running(life, kind == 'mirror')
    at = life.pause_and_resume(64 * KIB, 'running', 'paused')
    assert at == 5 * 64 * KIB
    life.refuses('running', 'complete', 'finalize', 'dismiss')
    vm.qmp('block-job-set-speed', device='job0', speed=0)
    if kind == 'mirror':
        vm.wait_event('BLOCK_JOB_READY')
        life.states('ready')
        life.job('ready', SIZE)
        life.pause_and_resume(SIZE, 'ready', 'standby')
        life.refuses('ready', 'finalize', 'dismiss')
        vm.qmp('job-complete', id='job0')
    life.states('waiting', 'pending')
    finish(life, options)
    images.adopt(images.path('copy.img'))
    vm.stop()
    images.identical(disk, images.path('copy.img'))


# 185: quit with a job at each point


def pump(shell, text):
    """The events of the answer to quit, without their times."""
    shell.send('{"execute": "quit"}')
    code = shell.wait()
    shown = [re.sub(r'"timestamp": \{[^}]*\}, ', '', line)
             for line in shell.seen[text:].splitlines() if line]
    return code, shown


def statuses(ident, *names):
    return [f'{{"event": "JOB_STATUS_CHANGE", "data": {{"status": "{name}", '
            f'"id": "{ident}"}}}}' for name in names]


SHUTDOWN = ('{"event": "SHUTDOWN", "data": {"guest": false, "reason": '
            '"host-qmp-quit"}}')


@pytest.mark.ours('7.2 pauses once at quit')
@pytest.mark.parametrize('command, job, offset, length, options', [
    ('block-commit', 'commit', 524288, 64 * MIB,
     {'base': 'base', 'top': 'mid'}),
    ('block-commit', 'commit', 4 * MIB, 4 * MIB, {'base': 'base'}),
    ('drive-mirror', 'mirror', 4 * MIB, 4 * MIB, {'target': 'copy'}),
    ('drive-backup', 'backup', 65536, 64 * MIB, {'target': 'copy'}),
    ('block-stream', 'stream', 524288, 64 * MIB, {})])
def test_185_exact(shell, images, command, job, offset, length, options):
    base = images.create('base', 64 * MIB)
    mid = images.create('mid', 64 * MIB, backing=base)
    images.io(mid, 'write 0 4M')
    images.create('snap', 64 * MIB, backing=mid)
    one = shell('-drive', f'if=none,cache=writeback,id=disk,driver=qcow2,'
                f'file={images.path("snap")}')
    one.expect('capabilities')
    one.command('{"execute": "qmp_capabilities"}', 'return')
    options = {k: images.path(v) for k, v in options.items()}
    if job in ('mirror', 'backup'):
        options.update({'format': 'qcow2', 'sync': 'full'})
    if job == 'backup':
        options['x-perf'] = PERF
    options = ', '.join(f'"{k}": "{v}"' if isinstance(v, str) else
                        f'"{k}": {{"max-chunk": 65536}}'
                        for k, v in options.items())
    one.command(f'{{"execute": "{command}", "arguments": {{"device": "disk", '
                f'"speed": 65536{", " if options else ""}{options}}}}}',
                '"return"')
    time.sleep(0.3)     # the first request is done: nothing tells of it
    code, shown = pump(one, len(one.seen))
    assert code == 0
    done = [line for line in shown if 'BLOCK_JOB_CANCELLED' in line]
    assert len(done) == 1 and shown[-1] == '{"return": {}}', shown
    pairs = 2 * ['paused', 'running']
    assert [s for s in shown if s != done[0]] == [SHUTDOWN] + statuses(
        'disk', *pairs, 'aborting', 'concluded', 'null') + [
            '{"return": {}}'], shown
    assert done[0] == (
        f'{{"event": "BLOCK_JOB_CANCELLED", "data": {{"device": "disk", '
        f'"len": {length}, "offset": {offset}, "speed": 65536, '
        f'"type": "{job}"}}}}')


@pytest.mark.ours('7.2 pauses once at quit')
@pytest.mark.timeout(120)
@pytest.mark.parametrize('job', ['mirror', 'commit'])
@pytest.mark.parametrize('daemon', ['blockjobd', 'qemu-storage-daemon'])
def test_185_throttled_target(shell, images, setup, job, daemon):
    """Ready, with writes that the target takes too long for."""
    disk = images.create('disk', 64 * MIB)
    sock = images.path('nbd.sock')
    program = setup.blockjobd if daemon == 'blockjobd' else daemon
    pid = images.path('qsd.pid')
    argv = [program, '--object',
            'throttle-group,id=thrgr,limits.bps-total=1048576', '--blockdev',
            f'null-co,node-name=null,size={64 * MIB}', '--blockdev',
            'throttle,node-name=throttled,throttle-group=thrgr,file=null',
            '--nbd-server', f'addr.type=unix,addr.path={sock}', '--export',
            'nbd,id=exp,node-name=throttled,name=target,writable=true',
            '--pidfile', pid, '--daemonize']
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=30)
    try:
        run_throttled(shell, disk, sock, job)
    finally:
        with open(pid, encoding='ascii') as file:
            subprocess.run(['kill', file.read().strip()], check=True)


def run_throttled(shell, disk, sock, job):
    target = ("{'driver': 'nbd', 'node-name': 'target', 'server': {'type': "
              f"'unix', 'path': '{sock}'}}, 'export': 'target'}}")
    fmt = 'qcow2,node-name=source-fmt,file=source-proto'
    args = ['--blockdev', target, '--blockdev',
            f'file,node-name=source-proto,filename={disk}', '--blockdev',
            fmt + (',backing=target' if job == 'commit' else ''),
            '--device', 'virtio-blk,id=vblk,drive=source-fmt']
    one = shell(*args)
    one.expect('capabilities')
    one.command('{"execute": "qmp_capabilities"}', 'return')
    if job == 'mirror':
        one.send('{"execute": "blockdev-mirror", "arguments": {"job-id": '
                 '"mirror", "device": "source-fmt", "target": "target", '
                 '"sync": "top"}}')
    else:
        one.send('{"execute": "block-commit", "arguments": {"job-id": '
                 '"commit", "device": "source-fmt"}}')
    one.expect('BLOCK_JOB_READY', '"return"')
    for at in range(0, 64 * MIB, 128 * KIB):
        one.command('{"execute": "human-monitor-command", "arguments": '
                    '{"command-line": "qemu-io -d vblk/virtio-backend '
                    f'\\"aio_write {at} 65536\\""}}}}', '"return": ""')
    deadline = time.monotonic() + 20
    while True:
        text = one.command('{"execute": "query-block-jobs"}', '"type"')
        length = int(re.search(r'"len": (\d+)', text)[1])
        if length == 32 * MIB:
            break
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    one.expect('\n')
    start = time.monotonic()
    code, shown = pump(one, len(one.seen))
    assert code == 0 and time.monotonic() - start < 25
    shown = [re.sub(r'"offset": \d+', '"offset": 0', s) for s in shown
             if not s.startswith(('wrote', '64 KiB'))]
    pairs = 2 * ['standby', 'ready']
    assert shown == [SHUTDOWN] + statuses(job, *pairs, 'aborting') + [
        f'{{"event": "BLOCK_JOB_CANCELLED", "data": {{"device": "{job}", '
        f'"len": {32 * MIB}, "offset": 0, "speed": 0, "type": "{job}"}}}}'
    ] + statuses(job, 'concluded', 'null') + ['{"return": {}}'], shown


# 218: what a cancelled mirror says at the end


def started_218(launch, size):
    vm = launch()
    vm.start()
    for name in ('source', 'target'):
        vm.qmp('blockdev-add', {'node-name': name, 'driver': 'null-co',
                                'size': size})
    return vm


@pytest.mark.parametrize('speed, force, event', [
    (65536, None, 'BLOCK_JOB_CANCELLED'), (65536, True, 'BLOCK_JOB_CANCELLED'),
    (0, None, 'BLOCK_JOB_COMPLETED'), (0, True, 'BLOCK_JOB_CANCELLED')])
def test_218_events(launch, speed, force, event):
    vm = started_218(launch, MIB)
    arguments = {'job-id': 'mirror', 'device': 'source', 'target': 'target',
                 'sync': 'full', 'buf-size': 65536}
    if speed:
        arguments['speed'] = speed
    vm.qmp('blockdev-mirror', arguments)
    if not speed:
        vm.wait_event('BLOCK_JOB_READY', {'device': 'mirror'})
    else:
        while vm.job('mirror')['offset'] == 0:
            pass
    vm.qmp('block-job-cancel', dict(
        {'device': 'mirror'}, **({} if force is None else {'force': force})))
    data = vm.wait_event(['BLOCK_JOB_CANCELLED', 'BLOCK_JOB_COMPLETED'],
                         {'device': 'mirror'})
    assert data['event'] == event
    assert data['data'] == {
        'device': 'mirror', 'type': 'mirror', 'speed': speed, 'len': MIB,
        'offset': 65536 if speed else MIB}


@pytest.mark.ours('virtual clock')
def test_218_throttled_source(launch):
    """A ready mirror of a throttled disk is cancelled at once at quit."""
    vm = launch()
    vm.add_object('throttle-group,id=tg,x-bps-read=4096')
    vm.add_blockdev(f'null-co,size={64 * MIB},node-name=null')
    vm.add_blockdev('throttle,throttle-group=tg,file=null,node-name=source')
    vm.add_blockdev(f'null-co,size={64 * MIB},node-name=target')
    vm.add_device('virtio-blk,id=virtio,drive=source,share-rw=on')
    vm.start()
    vm.qmp('blockdev-mirror', {
        'job-id': 'mirror', 'device': 'source', 'target': 'target',
        'sync': 'none', 'filter-node-name': 'mirror-top'})
    vm.wait_event('BLOCK_JOB_READY', {'device': 'mirror'})
    vm.qemu_io('virtio/virtio-backend', 'aio_write 0 64k', qdev=True)
    start = time.monotonic()
    vm.quit()
    assert time.monotonic() - start < 5


# 235: a preallocated image, mirrored to a throttled nothing


def test_235(launch, images):
    disk = images.path('disk')
    images.formats[disk] = 'qcow2'
    qemu_img('create', '-f', 'qcow2', '-o', 'preallocation=metadata', disk,
             '1G')
    vm = launch(qtest=False)
    vm.add_args('-accel', 'tcg', '-drive', f'id=src,file={disk}')
    vm.start()
    vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'tg0',
                          'limits': {'bps-total': 1 << 30}})
    vm.qmp('blockdev-add', {
        'node-name': 'target', 'driver': 'throttle', 'throttle-group': 'tg0',
        'file': {'driver': 'null-co', 'size': 1 << 30}})
    vm.qmp('blockdev-mirror', {'device': 'src', 'target': 'target',
                               'sync': 'full'})
    vm.wait_event('BLOCK_JOB_READY', {'device': 'src'}, timeout=30)
    vm.quit()


# 247: a base that may become writable by itself


@pytest.mark.parametrize('drive', [False, True])
def test_247(shell, images, drive):
    base = images.create('base', 128 * MIB)
    mid = images.create('mid', 128 * MIB, backing=base)
    top = images.create('top', 128 * MIB, backing=mid)
    del mid
    args = []
    for name in ('base', 'mid'):
        args += ['-blockdev', f'driver=file,node-name={name}-file,'
                 f'filename={images.path(name)},auto-read-only=on']
        below = ',backing=base' if name == 'mid' else ''
        args += ['-blockdev', f'driver=qcow2,node-name={name},'
                 f'file={name}-file,read-only=on{below}']
    if not drive:
        args += ['-blockdev', f'driver=file,node-name=top-file,filename={top}',
                 '-blockdev', 'driver=qcow2,node-name=top,file=top-file,'
                 'backing=mid', '-device', 'virtio-blk,drive=top']
    else:
        args += ['-drive', f'if=virtio,driver=qcow2,node-name=top,file={top},'
                 'backing=mid']
    one = shell(*args)
    one.expect('capabilities')
    one.command('{"execute": "qmp_capabilities"}', 'return')
    one.send('{"execute": "block-commit", "arguments": {"job-id": "commit0", '
             '"device": "top", "base-node": "base", "top-node": "mid"}}')
    seen = one.expect('"null"', '"return"')
    assert '"error"' not in seen
    assert ('"BLOCK_JOB_COMPLETED", "data": {"device": "commit0", "len": '
            '134217728, "offset": 134217728, "speed": 0, "type": "commit"}'
            in seen), seen
    one.send('{"execute": "quit"}')
    assert one.wait() == 0


# 248: go on after there is room again


def test_248(launch, images):
    size, limit = 5 * MIB, 2 * MIB
    disk = images.create('source', size)
    target = images.create('target', size)
    images.io(disk, f'write -P 1 0 {size}')
    images.io(target, f'write 0 {size}')
    vm = launch().add_drive(disk)
    vm.start()
    options = {'driver': 'qcow2', 'node-name': 'target', 'file': {
        'driver': 'raw', 'size': limit, 'file': {
            'driver': 'file', 'filename': target}}}
    vm.qmp('blockdev-add', options)
    vm.qmp('blockdev-mirror', {
        'job-id': 'job0', 'device': 'drive0', 'target': 'target',
        'sync': 'full', 'on-target-error': 'enospc'})
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'paused'})
    assert vm.job('job0')['io-status'] == 'nospace'
    del options['file']['size']
    vm.qmp('blockdev-reopen', {'options': [options]})
    vm.qmp('block-job-resume', device='job0')
    vm.wait_event('JOB_STATUS_CHANGE', {'status': 'running'})
    vm.wait_event('BLOCK_JOB_READY', {'device': 'job0'})
    vm.qmp('block-job-complete', device='job0')
    vm.wait_completed('job0')
    vm.stop()
    images.identical(disk, target)
