# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows whose tests compare a whole session as text.

Each session runs against blockjobd and Debian's qemu-system-x86_64 and must
read the same (transcript.py).
"""

import os
import shutil
import subprocess
import time

import pytest

from .transcript import Transcript

MIB = 1 << 20
pytestmark = [
    pytest.mark.ours(reason='compares the two servers itself'),
    pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                       reason='no qemu-system-x86_64'),
]


@pytest.fixture
def transcript(pytestconfig, directory, setup):
    made = []

    def make(monitor='qmp'):
        made.append(Transcript(pytestconfig, directory, setup.log, monitor))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_028_hmp_drive_backup(transcript):
    """A short backing file; the copy exists already."""
    t = transcript('hmp')
    t.image('base', 4 * MIB, io=['write -P 1 0 2M'])
    t.image('top', 5 * MIB, backing='DIR/base', io=['write -P 2 4M 64k'])
    t.image('copy', 5 * MIB, backing='DIR/base')
    t.start('-drive', 'id=disk,file=DIR/top,format=qcow2,if=virtio')
    t.run('drive_backup -n disk DIR/copy')
    for side in t.sides:
        while True:
            side.shell.send('info block-jobs')
            if 'No active jobs' in side.shell.expect('(qemu) '):
                break
    for side in t.sides:        # as often as it took
        side.shell.send('quit')
        assert side.shell.wait() == 0
        side.images.identical(side.images.path('top'),
                              side.images.path('copy'))
        side.images.check_all()


def test_028_info_block_jobs(transcript):
    t = transcript('hmp')
    t.image('top', 4 * MIB, io=['write -P 1 0 2M'])
    t.start('-drive', 'id=disk,file=DIR/top,format=qcow2,if=virtio')
    t.run('info block-jobs')
    t.run('drive_backup -n disk')
    t.run('drive_backup -n nodisk DIR/copy')
    t.run('drive_backup -n disk DIR/nonexistent')
    t.quit()


@pytest.mark.parametrize('backing_opts', [
    '', ',backing.file.filename=DIR/base,backing.driver=qcow2'])
def test_130_hmp_commit(transcript, backing_opts):
    """The header's backing string stays as it was."""
    t = transcript('hmp')
    t.image('base', MIB)
    t.image('top', MIB, backing='DIR/base', io=['write -P 1 0 64k'])
    t.start('-drive', 'id=testdisk,file=DIR/top,if=none' + backing_opts)
    t.run('commit testdisk')
    t.run('commit all')
    t.run('commit nodisk')
    t.run('info block')
    t.quit()
    for side in t.sides:
        info = side.images.info(side.images.path('top'))
        assert info['backing-filename'] == side.images.path('base')
        base = side.images.content(side.images.path('base'))
        assert base == b'\1' * 65536 + bytes(MIB - 65536)


def test_117_write_through_node(transcript):
    """Flush at quit: what a node was written is there."""
    t = transcript()
    t.image('top', 64 * 1024)
    t.start()
    t.qmp('blockdev-add', {
        'node-name': 'protocol', 'driver': 'file', 'filename': 'DIR/top'})
    t.qmp('blockdev-add', {
        'node-name': 'format', 'driver': 'qcow2', 'file': 'protocol'})
    t.qemu_io('format', 'write -P 42 0 64k')
    t.quit()
    for side in t.sides:
        assert side.images.content(side.images.path('top')) == b'*' * 65536


def test_140_eject_of_exported_drive(transcript):
    t = transcript()
    t.image('top', 64 * 1024, io=['write -P 42 0 64k'])
    t.start('-drive', 'if=none,media=cdrom,id=drv,file=DIR/top,format=qcow2')
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}})
    t.qmp('nbd-server-add', {'device': 'drv'})
    t.qmp('eject', {'device': 'drv'}, until='BLOCK_EXPORT_DELETED')
    t.qmp('query-block-exports', until='"return": []')
    t.qmp('query-block')
    t.quit()


def test_143_unknown_export(transcript):
    t = transcript()
    t.image('top', 64 * 1024)
    t.start('-drive', 'if=none,id=drv,file=DIR/top,format=qcow2')
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}})
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}}, until='"error"')
    t.qmp('nbd-server-add', {'device': 'nosuch'}, until='"error"')
    t.quit()


def test_085_snapshots(transcript):
    """Snapshots alone and in groups, and every refusal."""
    t = transcript()
    t.image('t.qcow2', 128 * MIB)
    t.image('t.qcow2.2', 128 * MIB)
    t.start('-drive', 'file=DIR/t.qcow2,if=none,id=virtio0,format=qcow2',
            '-drive', 'file=DIR/t.qcow2.2,if=none,id=virtio1,format=qcow2')

    def single(n, device='virtio0', until='"return"'):
        t.qmp('blockdev-snapshot-sync', {
            'device': device, 'snapshot-file': f'DIR/{n}-snap.qcow2',
            'format': 'qcow2'}, until)

    def group(n):
        t.qmp('transaction', {'actions': [
            {'type': 'blockdev-snapshot-sync', 'data': {
                'device': f'virtio{i}',
                'snapshot-file': f'DIR/{n}-snap-v{i}.qcow2'}}
            for i in (0, 1)]})

    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'format': 'qcow2'}, '"error"')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'snapshot-file': 'DIR/1-snap.qcow2',
        'format': 'qcow2', 'mode': 'nosuch'}, '"error"')
    single(1, 'nosuch', '"error"')
    single(1)
    single(2)
    group(3)
    group(4)
    for n in (5, 6, 7, 8):
        t.image(f'{n}-snap.qcow2', 128 * MIB, backing=f'DIR/{4}-snap-v0.qcow2')

    def add(n, **options):
        t.qmp('blockdev-add', dict({
            'driver': 'qcow2', 'node-name': f'snap_{n}',
            'file': {'driver': 'file', 'filename': f'DIR/{n}-snap.qcow2',
                     'node-name': f'file_{n}'}}, **options))

    def snapshot(n, until='"return"', node='virtio0', overlay=None):
        t.qmp('blockdev-snapshot', {
            'node': node, 'overlay': overlay or f'snap_{n}'}, until)

    add(5, backing=None)
    snapshot(5)
    snapshot(5, '"error"')
    snapshot(5, '"error"', overlay='file_5')
    snapshot(5, '"error"', node='nodevice')
    snapshot(6, '"error"')
    add(6)
    snapshot(6, '"error"')
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'snap_7', 'backing': None,
        'file': {'driver': 'file', 'filename': 'DIR/7-snap.qcow2'}})
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'snap_8', 'backing': 'snap_7',
        'file': {'driver': 'file', 'filename': 'DIR/8-snap.qcow2'}})
    snapshot(8, '"error"')
    snapshot(7, '"error"', overlay='virtio0')
    snapshot(7)
    t.qmp('query-block')
    t.quit()


def test_094_mirror_to_nbd(transcript):
    t = transcript()
    t.image('src', 4 * MIB, io=['write -P 7 0 4M'])
    t.image('dst', 4 * MIB)
    servers = [subprocess.Popen(
        ['qemu-nbd', '-f', 'qcow2', '-x', 'dst', '-k',
         side.images.path('nbd'), side.images.path('dst')])
        for side in t.sides]
    for side in t.sides:
        while not os.path.exists(side.images.path('nbd')):
            time.sleep(0.01)
    t.start('-drive', 'if=none,id=src,file=DIR/src,format=qcow2')
    t.qmp('drive-mirror', {
        'device': 'src', 'target': 'nbd+unix:///dst?socket=DIR/nbd',
        'format': 'nbd', 'sync': 'full', 'mode': 'existing'},
        'BLOCK_JOB_READY')
    t.qmp('block-job-complete', {'device': 'src'}, '"null"')
    t.quit()
    for server in servers:
        assert server.wait(15) == 0


def test_109_probed_raw(transcript):
    """The first sector of what was guessed to be raw is guarded."""
    t = transcript()
    t.image('src', MIB, fmt='qcow2')
    t.image('raw', MIB, fmt='raw')
    t.start('-drive', 'if=none,id=src,file=DIR/src,format=raw')
    t.qmp('drive-mirror', {
        'device': 'src', 'target': 'DIR/raw', 'mode': 'existing',
        'sync': 'full'}, '"null"')
    t.qmp('query-block-jobs')
    for side in t.sides:
        side.images.ignore(side.images.path('src'))
    t.quit()


def test_109_given_raw(transcript):
    t = transcript()
    t.image('src', MIB, fmt='qcow2')
    t.image('raw', MIB, fmt='raw')
    t.start('-drive', 'if=none,id=src,file=DIR/src,format=raw')
    t.qmp('drive-mirror', {
        'device': 'src', 'target': 'DIR/raw', 'format': 'raw',
        'mode': 'existing', 'sync': 'full'}, '"null"')
    t.qmp('query-block-jobs')
    for side in t.sides:
        side.images.ignore(side.images.path('src'))
    t.quit()


def test_141_deletion_while_busy(transcript):
    """A node of a drive's job is not deleted, whatever the job."""
    t = transcript()
    t.image('b', MIB)
    t.image('m', MIB, backing='DIR/b')
    t.image('t', MIB, backing='DIR/m')
    t.image('o', MIB)
    t.start()

    def add():
        t.qmp('blockdev-add', {
            'node-name': 'drv0', 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': 'DIR/t'}})

    def job(command, arguments, ready=None):
        add()
        t.qmp(command, dict(arguments, device='drv0', **{'job-id': 'job0'}),
              until=['"return"'] + ([ready] if ready else []))
        t.qmp('blockdev-del', {'node-name': 'drv0'}, '"error"')
        t.qmp('block-job-cancel', {'device': 'job0'}, '"null"')
        t.qmp('blockdev-del', {'node-name': 'drv0'})

    job('drive-backup', {'target': 'DIR/o', 'format': 'qcow2',
                         'sync': 'none', 'mode': 'existing'})
    job('drive-mirror', {'target': 'DIR/o', 'format': 'qcow2',
                         'sync': 'none', 'mode': 'existing'},
        'BLOCK_JOB_READY')
    job('block-commit', {}, 'BLOCK_JOB_READY')
    t.quit(returns=False)


def test_144_commit_then_snapshot(transcript):
    t = transcript()
    t.image('t', 512 * 1024)
    t.start('-drive', 'if=none,id=virtio0,file=DIR/t,format=qcow2')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'snapshot-file': 'DIR/tmp.qcow2',
        'format': 'qcow2'})
    t.qmp('block-commit', {'device': 'virtio0'},
          ['"return"', 'BLOCK_JOB_READY'])
    t.qmp('block-job-complete', {'device': 'virtio0'}, '"null"')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'snapshot-file': 'DIR/tmp2.qcow2',
        'format': 'qcow2'})
    t.qmp('query-named-block-nodes')
    t.quit(returns=False)


def test_184_throttle_groups(transcript):
    t = transcript()
    t.image('t', 64 * MIB)
    t.start()
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'disk0',
        'file': {'driver': 'file', 'filename': 'DIR/t'}})
    t.qmp('object-add', {
        'qom-type': 'throttle-group', 'id': 'group0',
        'limits': {'iops-total': 1000}})
    t.qmp('blockdev-add', {
        'driver': 'throttle', 'node-name': 'throttle0',
        'throttle-group': 'group0', 'file': 'disk0'})
    t.qmp('query-named-block-nodes')
    t.qmp('query-block')
    t.qmp('qom-get', {'path': 'group0', 'property': 'limits'})
    t.qmp('qom-set', {'path': 'group0', 'property': 'limits', 'value': {
        'iops-total': 0}})
    t.qmp('qom-get', {'path': 'group0', 'property': 'limits'})
    t.qmp('qom-set', {'path': 'group0', 'property': 'limits', 'value': {
        'iops-total': 1, 'iops-read': 1}}, '"error"')
    t.qmp('object-del', {'id': 'group0'}, '"error"')
    t.qmp('blockdev-del', {'node-name': 'throttle0'})
    t.qmp('object-del', {'id': 'group0'})
    t.qmp('blockdev-del', {'node-name': 'disk0'})
    t.quit()
