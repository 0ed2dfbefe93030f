# SPDX-License-Identifier: MIT
"""HMP's qemu-io: disks, permissions, breakpoints, requests under way."""

import json
import os
import random
import signal
import time

import pytest

from .qmp import SCALE

WITHIN = 10 * SCALE


def wait_output(vm, text):
    deadline = time.monotonic() + WITHIN
    while text not in vm.output():
        assert time.monotonic() < deadline, vm.output()
        time.sleep(0.005)


@pytest.fixture
def broken(launch, images):
    """A drive and a node, each over blkdebug."""
    vm = launch(machine='none')
    image = images.create('d.qcow2', '64M')
    raw = images.create('n.raw', '4M', fmt='raw')
    vm.add_drive_raw(f'if=none,id=d,file=blkdebug::{image},format=qcow2,'
                     f'node-name=dn')
    vm.add_blockdev(json.dumps({
        'driver': 'raw', 'node-name': 'n', 'file': {
            'driver': 'blkdebug', 'node-name': 'bd',
            'image': {'driver': 'file', 'filename': raw}}}))
    return vm.start()


# Disks


def test_by_name_of_disk_node_and_device(launch, images):
    """A backend goes before a node; -d is a device, by id or path."""
    image = images.create('d.qcow2', '8M')
    vm = launch()
    vm.add_drive_raw(f'if=none,id=d,file={image},format=qcow2,node-name=dn')
    vm.add_blockdev('null-co,node-name=n,size=1048576,read-zeroes=on')
    vm.add_device('virtio-scsi,id=vs').add_device('scsi-hd,drive=n,id=s0')
    vm.add_device('virtio-blk,drive=d,id=v0').start()
    assert vm.io_lines('d', 'length') == ['8 MiB']
    assert vm.io_lines('dn', 'length') == ['8 MiB']
    for device, length in (('s0', '1 MiB'), ('v0/virtio-backend', '8 MiB'),
                           ('/machine/peripheral/s0', '1 MiB'),
                           ('/machine/peripheral/v0/virtio-backend',
                            '8 MiB')):
        assert vm.io_lines(device, 'length', qdev=True) == [length]
    assert vm.qemu_io('nope', 'length') == \
        "Error: Cannot find device='' nor node-name='nope'\r\n"
    assert vm.qemu_io('nope', 'length', qdev=True) == \
        "Error: Device 'nope' not found\r\n"
    assert vm.qemu_io('""', 'length') == \
        "Error: Cannot find device='' nor node-name=''\r\n"


def test_permissions(launch, images):
    """Writing to a node needs what its other users share."""
    image = images.create('d.qcow2', '8M')
    vm = launch()
    vm.add_drive_raw(f'if=none,id=d,file={image},format=qcow2,node-name=dn')
    vm.add_device('virtio-blk,drive=d,id=v0').start()
    said = vm.qemu_io('dn', 'write 0 512')
    assert said == ("Permission conflict on node 'dn': permissions 'write' "
                    "are both required by an unnamed block device (uses node "
                    "'dn' as 'root' child) and unshared by block device 'd' "
                    "(uses node 'dn' as 'root' child).\r\n")
    assert vm.qemu_io('dn', 'truncate 16M').startswith('Permission conflict')
    assert vm.io_lines('dn', 'read -q 0 512') == []
    assert vm.io_lines('d', 'write -q 0 512') == []


def test_map_and_alloc(launch, images):
    base = images.create('base.qcow2', '64M')
    images.io(base, 'write 0 1M')
    top = images.create('top.qcow2', '64M', backing=base)
    images.io(top, 'write 1M 64k', 'write -z 3M 1M', 'write 10M 64k')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={top},format=qcow2').start()
    assert vm.io_lines('d', 'map') == [
        '1 MiB (0x100000) bytes not allocated at offset 0 bytes (0x0)',
        '64 KiB (0x10000) bytes     allocated at offset 1 MiB (0x100000)',
        '1.938 MiB (0x1f0000) bytes not allocated at offset 1.062 MiB '
        '(0x110000)',
        '1 MiB (0x100000) bytes     allocated at offset 3 MiB (0x300000)',
        '6 MiB (0x600000) bytes not allocated at offset 4 MiB (0x400000)',
        '64 KiB (0x10000) bytes     allocated at offset 10 MiB (0xa00000)',
        '53.938 MiB (0x35f0000) bytes not allocated at offset 10.062 MiB '
        '(0xa10000)']
    assert vm.io_lines('d', 'alloc 512k 1M') == \
        ['65536/1048576 bytes allocated at offset 512 KiB']
    assert vm.io_lines('d', 'a 0 100M') == \
        ['1179648/67108864 bytes allocated at offset 0 bytes']


def test_reopen_options_of_a_child(launch, images):
    """What is not given stays; backing.X is for the backing node [161]."""
    base = images.create('base.qcow2', '4M')
    top = images.create('top.qcow2', '4M', backing=base)
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={top},format=qcow2,node-name=t,'
                     f'lazy-refcounts=on,backing.node-name=b').start()
    assert vm.qemu_io('d', 'reopen -o backing.detect-zeroes=on') == ''
    nodes = {n['node-name']: n for n in vm.qmp('query-named-block-nodes')}
    assert nodes['b']['detect_zeroes'] == 'on'
    assert nodes['t']['detect_zeroes'] == 'off'
    assert vm.qemu_io('d', 'reopen -o detect-zeroes=on') == ''
    nodes = {n['node-name']: n for n in vm.qmp('query-named-block-nodes')}
    assert nodes['b']['detect_zeroes'] == 'on'
    assert nodes['t']['detect_zeroes'] == 'on'
    assert vm.qemu_io('d', 'reopen -r') == ''
    assert vm.qemu_io('d', 'write 0 512') == 'Block node is read-only\r\n'
    assert vm.qemu_io('d', 'reopen -w') == ''
    assert vm.io_lines('d', 'write -q 0 512') == []
    assert vm.qemu_io('d', 'reopen -o backing.driver=raw') == \
        "Cannot change the option 'driver'\r\n"


def test_reopen_under_a_job(launch, images):
    """A job's filter cannot be reopened, and nothing through it [161]."""
    base = images.create('base.qcow2', '4M')
    images.io(base, 'write 0 4M')
    top = images.create('top.qcow2', '4M', backing=base)
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={top},format=qcow2').start()
    vm.qmp('block-stream', device='d', job_id='j', speed=1)
    assert vm.qemu_io('d', 'reopen -o backing.detect-zeroes=on') == \
        "Block format 'copy-on-read' used by node 'd' does not support " \
        "reopening files\r\n"
    vm.qmp('block-job-cancel', device='j')
    vm.wait_event('BLOCK_JOB_CANCELLED')
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'null'})
    assert vm.qemu_io('d', 'reopen -o backing.detect-zeroes=on') == ''


def test_statistics_count_aio_only(launch, images):
    image = images.create('d.qcow2', '8M')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={image},format=qcow2').start()
    for command in ('read 0 64k', 'write 0 64k', 'discard 0 64k', 'flush',
                    'aio_read 0 512', 'aio_read 8M 512', 'aio_write 0 1k',
                    'aio_read -i 0 512', 'aio_flush'):
        vm.qemu_io('d', command)
    stats = vm.qmp('query-blockstats')[0]['stats']
    assert {key: stats[key] for key in (
        'rd_operations', 'wr_operations', 'rd_bytes', 'wr_bytes',
        'failed_rd_operations', 'invalid_rd_operations',
        'unmap_operations')} == {
            'rd_operations': 1, 'wr_operations': 1, 'rd_bytes': 512,
            'wr_bytes': 1024, 'failed_rd_operations': 1,
            'invalid_rd_operations': 1, 'unmap_operations': 0}


# Breakpoints


def test_break_stops_one_request(broken):
    """The first one; the monitor and other requests go on."""
    broken.qemu_io('d', 'break write_aio A')
    broken.qemu_io('d', 'aio_write -P 1 2M 64k')
    broken.qemu_io('d', 'wait_break A')
    broken.qemu_io('d', 'aio_write -P 2 3M 64k')
    wait_output(broken, 'at offset 3145728')
    assert 'at offset 2097152' not in broken.output()
    broken.qemu_io('d', 'resume A')
    wait_output(broken, 'at offset 2097152')
    broken.qemu_io('d', 'read -P 1 2M 64k')
    assert 'Pattern' not in broken.output()
    assert broken.io_lines('d', 'resume A') == \
        ['Could not resume request: No such file or directory']


def test_all_breakpoints_of_an_event(broken):
    """Two stop the same request, which must be resumed as both; what was
    stopped last goes first."""
    for tag in 'AB':
        broken.qemu_io('d', f'break write_aio {tag}')
    broken.qemu_io('d', 'aio_write 2M 64k')
    for tag in 'AB':
        broken.qemu_io('d', f'wait_break {tag}')
    broken.qemu_io('d', 'write -q 4M 64k')
    broken.qemu_io('d', 'resume B')
    assert 'at offset 2097152' not in broken.output()
    broken.qemu_io('d', 'resume A')
    wait_output(broken, 'at offset 2097152')
    for offset in (5, 6):
        broken.qemu_io('d', 'break write_aio C')
        broken.qemu_io('d', f'aio_write {offset}M 64k')
        broken.qemu_io('d', 'wait_break C')
    broken.qemu_io('d', 'resume C')
    wait_output(broken, 'at offset 6291456')
    assert 'at offset 5242880' not in broken.output()
    broken.qemu_io('d', 'remove_break C')
    wait_output(broken, 'at offset 5242880')


def test_remove_break(broken):
    """All with the tag; no breakpoint was left: QEMU says so, though what
    they stopped goes on."""
    broken.qemu_io('d', 'break write_aio bp')
    broken.qemu_io('d', 'break read_aio bp')
    broken.qemu_io('d', 'aio_write 0 64k')
    broken.qemu_io('d', 'wait_break bp')
    assert broken.io_lines('d', 'remove_break bp')[:1] in \
        ([], ["blkdebug: Resuming request 'bp'"],
         ['wrote 65536/65536 bytes at offset 0'])
    wait_output(broken, 'at offset 0')
    missing = 'Could not remove breakpoint bp: No such file or directory'
    assert broken.io_lines('d', 'remove_break bp') == [missing]
    broken.qemu_io('d', 'break write_aio bp')
    broken.qemu_io('d', 'aio_write 1M 64k')
    broken.qemu_io('d', 'wait_break bp')
    broken.qemu_io('d', 'remove_break bp')
    wait_output(broken, 'at offset 1048576')
    assert broken.output().count(missing) == 2


def test_no_breakpoints(broken):
    a = '' if broken.is_qemu else 'a '
    broken.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'plain',
                                'size': 65536})
    assert broken.io_lines('plain', 'break read_aio A') == \
        [f'Could not set {a}breakpoint: Operation not supported']
    assert broken.io_lines('plain', 'remove_break A') == \
        ['Could not remove breakpoint A: Operation not supported']
    assert broken.io_lines('plain', 'resume A') == \
        ['Could not resume request: Operation not supported']
    assert broken.io_lines('d', 'break nothing A') == \
        [f'Could not set {a}breakpoint: No such file or directory']


@pytest.mark.parametrize('event, stops', [
    ('l2_load', False), ('l2_update', True), ('l2_alloc_write', True),
    ('cluster_alloc', True), ('pwritev', True), ('read_aio', False),
    ('write_aio', True), ('flush_to_disk', False), ('read', False),
    ('none', False)])
def test_which_events_a_write_raises(launch, images, event, stops):
    """The first write to a new image makes a table, a cluster, an entry."""
    image = images.create('d.qcow2', '64M')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file=blkdebug::{image},format=qcow2')
    vm.start()
    vm.qemu_io('d', f'break {event} A')
    vm.qemu_io('d', 'aio_write 1M 512')
    if stops:
        vm.qemu_io('d', 'wait_break A')
        assert 'wrote' not in vm.output()
    else:
        wait_output(vm, 'wrote 512/512')
    vm.qemu_io('d', 'remove_break A')
    wait_output(vm, 'wrote 512/512')


def test_job_is_held_by_breakpoints(launch, images):
    """As the harness pauses a drive: cancel returns at once, the job ends
    when the request goes on."""
    images.create('base.qcow2', '8M')
    source = images.create('src.qcow2', '8M')
    images.io(source, 'write -P 1 0 8M')
    target = images.create('dst.qcow2', '8M')
    vm = launch()
    vm.add_drive(f'blkdebug::{source}').start()
    vm.pause_drive('drive0')
    vm.qmp('drive-backup', device='drive0', target=target, sync='full',
           format='qcow2', mode='existing')
    vm.qemu_io('drive0', 'wait_break bp_drive0')
    begun = time.monotonic()
    vm.qmp('block-job-cancel', device='drive0')
    assert time.monotonic() - begun < WITHIN / 2
    assert vm.job('drive0')
    vm.resume_drive('drive0')
    vm.wait_event('BLOCK_JOB_CANCELLED', {'device': 'drive0'})
    images.ignore(target)


# Requests under way


def test_many_at_once(broken):
    """Each is reported once; aio_flush waits for all of the disk's."""
    for i in range(64):
        broken.qemu_io('d', f'aio_write -P {i + 1} {i * 64}k 64k')
    broken.qemu_io('d', 'aio_flush')
    assert sum('wrote' in line for line in
               broken.output().splitlines()) == 64
    for i in range(64):
        broken.qemu_io('d', f'aio_read -P {i + 1} {i * 64}k 64k')
    broken.qemu_io('d', 'aio_flush')
    assert sum(line.startswith('read') for line in
               broken.output().splitlines()) == 64
    assert 'Pattern' not in broken.output()


@pytest.mark.ours('with QEMU either may be first')
def test_results_come_behind_the_reply(shell):
    """What aio_* print follows their reply, on one stream."""
    vm = shell('-drive', 'if=none,id=d,driver=null-co,size=1048576')
    vm.command('{"execute": "qmp_capabilities"}', 'return')
    for i in range(20):
        vm.send(json.dumps({
            'execute': 'human-monitor-command',
            'arguments': {'command-line': f'qemu-io d "aio_write {i}k 1k"'}}))
        got = vm.expect('"return": ""', f'at offset {i * 1024}\n')
        assert got.index('return') < got.index('wrote'), got
    for i in range(20):
        vm.send(json.dumps({
            'execute': 'human-monitor-command',
            'arguments': {'command-line': f'qemu-io d "write {i}k 1k"'}}))
        got = vm.expect('"return": ""', f'at offset {i * 1024}\n')
        assert got.index('return') > got.index('wrote'), got
    vm.command('{"execute": "quit"}', 'return')
    assert vm.wait() == 0


@pytest.mark.ours('7.2 waits in the monitor for a stopped request of a node')
def test_node_stays_while_its_request_is_stopped(broken):
    broken.qemu_io('n', 'break pwritev A')
    broken.qemu_io('n', 'aio_write -P 9 0 64k')
    broken.qemu_io('n', 'wait_break A')
    broken.fails('blockdev-del', {'node-name': 'n'}, 'Node n is in use')
    broken.qemu_io('n', 'remove_break A')
    wait_output(broken, 'wrote 65536/65536 bytes at offset 0')
    broken.qemu_io('n', 'read -P 9 0 64k')
    broken.qmp('blockdev-del', {'node-name': 'n'})


@pytest.mark.ours('7.2 hangs at its end while a request is stopped')
@pytest.mark.parametrize('how', ['quit', 'SIGTERM'])
def test_end_with_requests_under_way(broken, how):
    """Stopped, waited for, asleep: nothing holds the end up."""
    broken.qemu_io('d', 'break write_aio A')
    broken.qemu_io('d', 'aio_write 0 64k')
    broken.qemu_io('n', 'break pwritev A')
    broken.qemu_io('n', 'aio_write 0 64k')
    begun = time.monotonic()
    if how == 'quit':
        broken.quit()
    else:
        broken.mon.send({'execute': 'human-monitor-command', 'arguments': {
            'command-line': 'qemu-io d "wait_break never"'}})
        os.kill(broken.proc.pid, signal.SIGTERM)
    broken.wait_exit()
    assert time.monotonic() - begun < WITHIN
    assert broken.output().count('wrote 65536/65536') == 2


def test_limits_hold_aio(launch):
    """Requests over a limit wait on the virtual clock; aio_flush lets them
    go, and so does taking the limit away."""
    vm = launch(machine='none')
    vm.add_drive_raw('if=none,id=d,driver=null-co,size=1048576,'
                     'throttling.iops-total=1').start()
    for _ in range(10):
        vm.qemu_io('d', 'aio_read 0 512')
    time.sleep(0.2)
    waiting = vm.output().count('read 512/512')
    assert waiting < 10
    vm.qemu_io('d', 'aio_flush')
    wait_output(vm, 'read 512/512')
    assert vm.output().count('read 512/512') == 10


# Hostile


WORDS = ['read', 'write', 'readv', 'writev', 'aio_read', 'aio_write',
         'discard', 'alloc', 'map', 'length', 'info', 'flush', 'aio_flush',
         'truncate', 'reopen', 'help', 'break', 'remove_break', 'resume',
         'sleep', 'r', 'w', '?', 'zone_report', '\\\\', '%s%n', '']
ARGS = ['0', '1', '512', '64k', '1M', '4M', '-1', '8E', '0x', '0x1k', '1.5k',
        '-P', '-P1', '-q', '-v', '-C', '-z', '-u', '-n', '-f', '-c', '-b',
        '-s', '-l', '-m', 'full', '-r', '-w', '-o', 'a=b', 'x.y=z',
        'read-only=on', 'backing.x=1', '--', '-', '--x', '-:', '/dev/zero',
        '/nonexistent', '%n', '2147483136', '99999999999999999999',
        'read_aio', 'A', 'é', '=', ',', '-o=', '-i']


def test_random_commands(launch, images, seed):
    """Whatever is said, it answers, and ends well."""
    rng = random.Random(seed)
    image = images.create('d.qcow2', '4M')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={image},format=qcow2')
    vm.add_drive_raw('if=none,id=e')
    vm.add_blockdev('null-co,node-name=n,size=1048576').start()
    crashes = ('truncate -m', 'info', 'alloc', 'reopen')
    for _ in range(300):
        disk = rng.choice(['d', 'd', 'd', 'n', 'e', 'x', '""'])
        command = ' '.join([rng.choice(WORDS)] +
                           rng.choices(ARGS, k=rng.randrange(6)))
        if vm.is_qemu and (disk == 'e' or '-m' in command or
                           command.startswith(crashes)):
            continue
        if '2147483136' in command or 'sleep 9' in command:
            continue
        if command.startswith('sleep'):
            continue
        vm.qemu_io(disk, command)
    vm.qemu_io('d', 'aio_flush')
    assert vm.qmp('query-status')
