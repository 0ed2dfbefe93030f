# SPDX-License-Identifier: MIT
"""COMPAT section 2: the order of members, in all that a session with every
kind of object says; what comes in which order at the end."""

import json
import re

import pytest

from .nbd import CMD_WRITE, NbdClient

MIB = 1 << 20

ORDER = """
seconds iotype no-flush iops_rd bitmap compat detect_zeroes icount flags
auto-finalize write-zeroes-alignment timestamp vm-clock-nsec io-status name
description active device request-alignment direct port parent backing-image
read-zeroes compression-type nospace current-progress QMP recording
immediately iops-total lazy-refcounts date-sec bitmaps locked shared-perm
refcount-bits auto-dismiss persistent perm state stats detect-zeroes
removable busy min-mem-alignment edges len writeback offset image data-file
version iops_wr limits group socket backing ro status writable
throttle-group max-transfer backing-filename-format children class node-name
capabilities guest paused micro minor host date-nsec qemu iops_size
backing_file_depth driver granularity count running path driver-specific
discard-alignment speed snapshots total-progress opt-mem-alignment
sectors-count drv virtual-size filename cluster-size inserted size export
package bps_max sha256 iops child sector server read-only bps_wr actual-size
data-file-raw format-specific full-backing-filename event max-iov
microseconds ready desc shutting-down qdev vote-threshold nodes tray-open
tray_open vm-clock-sec write_threshold backing_file dirty-bitmaps reason
return encrypted bps operation bps_rd sector-num type exports cache discard
action iops_max actively-synced file backing-filename corrupt major
inconsistent id error target vm-state-size dirty-flag extended-l2 data
""".split()
PLACE = {name: place for place, name in enumerate(ORDER)}


def disorder(value, where=''):
    """Pairs of members in the wrong order."""
    found = []
    if isinstance(value, list):
        for one in value:
            found += disorder(one, where)
    elif isinstance(value, dict):
        known = [key for key in value if key in PLACE]
        found += [(where, a, b) for a, b in zip(known, known[1:])
                  if PLACE[a] > PLACE[b]]
        for key, one in value.items():
            if key not in ('id', 'QMP'):
                found += disorder(one, f'{where}.{key}')
    return found


def check(vm):
    for message in vm.mon.received:
        assert disorder(message) == [], message
    assert vm.mon.received


def event(vm, name):
    return [m for m in vm.mon.received if m.get('event') == name]


@pytest.fixture
def full(launch, images):
    """All kinds of drives and devices."""
    vm = launch()
    disk = images.create('disk', MIB)
    images.io(disk, 'write 0 64k')
    top = images.create('top', MIB, backing=disk)
    raw = images.create('raw', MIB, fmt='raw')
    vm.add_drive_raw(f'if=none,id=d0,file={top},format=qcow2,'
                     'throttling.iops-total=1000,'
                     'throttling.bps-total-max=2000000,'
                     'throttling.bps-total=1000000')
    vm.add_drive_raw('if=none,id=empty')
    vm.add_drive_raw(f'if=none,id=bare,file={raw},format=raw')
    for number in range(4):
        vm.add_blockdev(f'null-co,node-name=n{number},size=65536')
    vm.add_device('virtio-scsi-pci,id=sc')
    vm.add_device('virtio-blk,id=v0,drive=d0')
    vm.add_device('scsi-hd,id=sd0,drive=n0,share-rw=on')
    vm.add_device('scsi-cd,id=cd0,drive=empty')
    vm.add_device('scsi-cd,drive=n1')
    vm.add_device('ide-cd,id=ic0,drive=n2')
    vm.add_device('floppy,id=f0,drive=n3')
    return vm.start()


def test_queries(full):
    vm = full
    blocks = vm.qmp('query-block')
    assert len(blocks) == 7
    by_name = {b['device'] or b['qdev']: b for b in blocks}
    assert list(by_name['empty']) == [
        'io-status', 'device', 'locked', 'removable', 'qdev', 'tray_open',
        'type']
    assert list(by_name['d0'])[:5] == ['io-status', 'device', 'locked',
                                       'removable', 'inserted']
    assert list(by_name['bare']) == ['device', 'locked', 'removable',
                                     'inserted', 'type']
    for command, arguments in (
            ('query-blockstats', {}), ('query-blockstats',
                                       {'query-nodes': True}),
            ('query-named-block-nodes', {}),
            ('query-named-block-nodes', {'flat': True}),
            ('x-debug-query-block-graph', {}), ('query-version', {}),
            ('query-status', {}), ('query-iothreads', {}),
            ('query-machines', {}), ('query-chardev', {}),
            ('qom-list', {'path': '/machine/peripheral/v0'}),
            ('query-command-line-options', {}), ('query-jobs', {}),
            ('device-list-properties', {'typename': 'scsi-hd'}),
            ('query-qmp-schema', {})):
        vm.qmp(command, arguments)
    check(vm)


def test_events(full):
    vm = full
    vm.qmp('blockdev-open-tray', id='cd0')
    vm.wait_event('DEVICE_TRAY_MOVED')
    assert list(event(vm, 'DEVICE_TRAY_MOVED')[0]['data']) == [
        'device', 'tray-open', 'id']
    vm.qmp('device_del', id='sd0')
    vm.wait_event('DEVICE_DELETED', {'device': 'sd0'})
    vm.qmp('device_del', id='v0')
    vm.qmp('system_reset')
    vm.wait_event('DEVICE_DELETED', {'device': 'v0'})
    gone = [m['data'] for m in event(vm, 'DEVICE_DELETED')]
    assert [list(data) for data in gone] == [
        ['device', 'path'], ['path'], ['device', 'path']]
    assert gone[1] == {'path': '/machine/peripheral/v0/virtio-backend'}
    if vm.is_qemu:
        check(vm)
        return
    vm.qmp('stop')
    vm.wait_event('STOP')
    vm.qmp('cont')
    vm.wait_event('RESUME')
    for name in ('STOP', 'RESUME'):
        assert list(event(vm, name)[0]) == ['timestamp', 'event']
    for message in vm.mon.received:
        if 'event' in message:
            assert list(message) == ['timestamp', 'event', 'data'][
                :len(message)]
            assert list(message['timestamp']) == ['seconds', 'microseconds']
    check(vm)


@pytest.mark.ours(reason='exports are the guest here')
def test_io_error(launch, images):
    path = images.create('raw', MIB, fmt='raw')
    vm = launch().add_drive_raw(
        'if=none,id=d,werror=stop,rerror=report,driver=blkdebug,'
        f'image.driver=file,image.filename={path},'
        'inject-error.0.event=none,inject-error.0.iotype=write,'
        'inject-error.0.errno=28,inject-error.0.once=on').start()
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('nbd-server-add', device='d', writable=True)
    nbd = NbdClient.connect(vm.nbd_path, 'd')
    nbd.request(CMD_WRITE, 0, 512, data=bytes(512))
    data = vm.wait_event('BLOCK_IO_ERROR')['data']
    assert {'device', 'nospace', 'node-name', 'reason', 'operation',
            'action'} <= set(data)
    assert data['nospace'] is True and data['operation'] == 'write'
    vm.qmp('cont')
    assert nbd.reply()[1] is None
    nbd.disconnect()
    check(vm)


def test_jobs_and_exports(launch, images):
    disk = images.create('disk', MIB)
    images.io(disk, 'write 0 1M')
    vm = launch().add_drive_raw(f'if=none,id=d,file={disk},format=qcow2,'
                                'node-name=n').start()
    vm.qmp('block-dirty-bitmap-add', node='d', name='b', persistent=True)
    vm.qmp('blockdev-add', driver='null-co', node_name='t', size=MIB)
    vm.qmp('blockdev-snapshot-internal-sync', device='d', name='s')
    vm.qmp('blockdev-mirror', {'job-id': 'm', 'device': 'd', 'target': 't',
                               'sync': 'full', 'speed': 1,
                               'buf-size': 65536})
    for name in ('query-jobs', 'query-block-jobs', 'query-block',
                 'x-debug-query-block-graph', 'query-named-block-nodes'):
        vm.qmp(name)
    vm.qmp('block-job-cancel', device='m', force=True)
    vm.wait_event('JOB_STATUS_CHANGE', {'id': 'm', 'status': 'null'})
    vm.qmp('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': vm.nbd_path}})
    vm.qmp('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'n'})
    vm.qmp('query-block-exports')
    vm.qmp('blockdev-snapshot-delete-internal-sync', device='d', name='s')
    vm.fails('blockdev-del', {'node-name': 'n'})
    vm.fails('nosuch', cls='CommandNotFound',
             desc='The command nosuch has not been found')
    vm.fails('block-job-cancel', {'device': 'x'}, cls='DeviceNotActive',
             desc="Block job 'x' not found")
    vm.fails('job-cancel', {'id': 'x'}, desc='Job not found')
    vm.fails('device_del', {'id': 'x'}, cls='DeviceNotFound',
             desc="Device 'x' not found")
    vm.fails('block-commit', {'device': 'x'}, cls='DeviceNotFound')
    check(vm)


@pytest.mark.parametrize('message, keys', [
    ({'execute': 'query-name', 'id': 7}, ['return', 'id']),
    ({'execute': 'nosuch', 'id': 7}, ['id', 'error']),
    ({'execute': 'query-name'}, ['return']),
    ({'execute': 'nosuch'}, ['error'])])
def test_replies(launch, message, keys):
    vm = launch().start()
    vm.mon.send_raw(json.dumps(message) + '\n')
    reply = vm.mon.next_reply()
    assert list(reply) == keys
    if 'error' in reply:
        assert list(reply['error']) == ['class', 'desc']


def test_pretty(shell):
    """Four blanks, over as many lines as there are members."""
    vm = shell(monitor='pretty')
    vm.expect('capabilities', '\n}\n')
    vm.command("{'execute': 'qmp_capabilities'}", '\n}\n')
    said = vm.command("{'execute': 'query-status'}", '\n}\n')
    said = said.strip()
    assert said == json.dumps(json.loads(said), indent=4)
    said = vm.command("{'execute': 'query-jobs', 'id': {'a': [1, 'b']}}",
                      '\n}\n').strip()
    assert json.loads(said) == {'return': [], 'id': {'a': [1, 'b']}}
    assert re.match(r'\{\n    "return": \[\n    \],\n    "id": \{\n'
                    r'        "a": \[\n            1,\n', said)
    vm.send("{'execute': 'quit'}")
    assert vm.wait() == 0
