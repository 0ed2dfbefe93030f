# SPDX-License-Identifier: MIT
"""COMPAT section 10: more sessions that are compared as text: 071, 182,
185, 191, 223, 224, 228, 249, 273."""

import shutil
import subprocess
import time

import pytest

from .test_transcripts import transcript   # pylint: disable=unused-import

KIB = 1 << 10
MIB = 1 << 20
pytestmark = [
    pytest.mark.ours(reason='compares the two servers itself'),
    pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                       reason='no qemu-system-x86_64'),
]


def test_071_blkdebug(transcript):
    """Errors injected by options of blockdev-add."""
    t = transcript()
    t.image('t', 64 * MIB)
    t.start()
    t.qmp('blockdev-add', {
        'node-name': 'drive0', 'driver': 'file', 'filename': 'DIR/t'})
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'drive0-debug', 'file': {
            'driver': 'blkdebug', 'image': 'drive0',
            'inject-error': [{'event': 'l2_load'}]}})
    t.qemu_io('drive0-debug', 'read 0 512')
    t.quit()


def test_071_flush_at_quit(transcript):
    """What cannot be stored at the end is told of."""
    t = transcript()
    t.image('t', 64 * MIB)
    t.start()
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'drive0', 'file': {
            'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': 'DIR/t'},
            'set-state': [{'event': 'write_aio', 'state': 1,
                           'new_state': 42}],
            'inject-error': [{'event': 'write_aio', 'state': 42,
                              'errno': 28}]}})
    t.qemu_io('drive0', 'write 0 512')
    t.qemu_io('drive0', 'write 1M 512')
    for side in t.sides:
        side.images.ignore(side.images.path('t'))
    t.quit()


def test_071_blkverify(transcript):
    """A mismatch ends the process."""
    t = transcript()
    t.image('t', 64 * MIB)
    t.image('raw', 64 * MIB, fmt='raw')
    for side in t.sides:
        side.images.io(side.images.path('raw'), 'write -P 42 0 512')
    t.start()
    t.qmp('blockdev-add', {
        'node-name': 'drive0', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': 'DIR/t'}})
    t.qmp('blockdev-add', {
        'driver': 'blkverify', 'node-name': 'drive0-verify',
        'test': 'drive0',
        'raw': {'driver': 'file', 'filename': 'DIR/raw'}})
    t.qemu_io('drive0-verify', 'read 512 512')
    t.send('{"execute": "human-monitor-command", "arguments": '
           '{"command-line": "qemu-io drive0-verify \\"read 0 512\\""}}')
    t.expect('contents mismatch')
    t.compare()


@pytest.mark.parametrize('job', [
    'commit', 'commit-active', 'mirror', 'backup', 'stream'])
def test_185_quit_with_job(transcript, job):
    t = transcript()
    t.image('base', 64 * MIB, io=['write 0 4M'])
    t.image('top', 64 * MIB, backing='DIR/base', io=['write 1M 4M'])
    t.image('snap', 64 * MIB, backing='DIR/top')
    t.start('-drive', 'if=none,id=disk,file=DIR/snap,format=qcow2')
    arguments = {'device': 'disk', 'speed': 65536}
    if job == 'commit':
        arguments.update(top='DIR/top', base='DIR/base')
    elif job in ('mirror', 'backup'):
        arguments.update(target='DIR/copy', sync='full', format='qcow2')
    if job == 'mirror':
        arguments['buf-size'] = 65536
    if job == 'backup':
        arguments['x-perf'] = {'max-chunk': 65536}
    command = {'mirror': 'drive-mirror', 'backup': 'drive-backup',
               'stream': 'block-stream'}.get(job, 'block-commit')
    t.qmp(command, arguments)
    time.sleep(0.3)     # to its first step: polling would be in the text
    t.quit()


def drive_chain(t):
    t.image('base', 64 * MIB, io=['write 0 64k'])
    t.image('mid', 64 * MIB, backing='DIR/base', io=['write 1M 64k'])
    t.image('ovl', 64 * MIB, backing='DIR/mid')
    t.image('ovl2', 64 * MIB, backing='DIR/mid')


def test_191_two_overlays(transcript):
    """Commit below two overlays: both get the base."""
    t = transcript('pretty')
    drive_chain(t)
    t.start('-blockdev',
            'driver=qcow2,node-name=base,file.driver=file,'
            'file.filename=DIR/base',
            '-blockdev', 'driver=qcow2,node-name=mid,file.driver=file,'
            'file.filename=DIR/mid,backing=base',
            '-drive', 'if=none,id=drv,file.driver=file,file.filename=DIR/ovl,'
            'node-name=top,backing=mid,driver=qcow2',
            '-drive', 'if=none,id=drv2,file.driver=file,'
            'file.filename=DIR/ovl2,node-name=top2,backing=mid,driver=qcow2')
    t.run('{"execute": "query-named-block-nodes"}', until='\n}\n')
    t.run('{"execute": "block-commit", "arguments": {"job-id": "commit0", '
          '"device": "top", "base": "DIR/base", "top": "DIR/mid", '
          '"backing-file": "DIR/base"}}', until='"null"')
    t.run('{"execute": "query-named-block-nodes", "id": "last"}',
          until='"last"')
    t.quit()


def test_223_bitmap_exports(transcript):
    t = transcript()
    t.image('t', 4 * MIB, cluster_size=4096)
    t.start('-object', 'iothread,id=io0', '-device',
            'virtio-scsi,iothread=io0,id=scsi')
    t.qmp('blockdev-add', {
        'driver': 'qcow2', 'node-name': 'n',
        'file': {'driver': 'file', 'filename': 'DIR/t'}})
    t.qmp('block-dirty-bitmap-add', {'node': 'n', 'name': 'b'})
    t.qmp('block-dirty-bitmap-disable', {'node': 'n', 'name': 'b'})
    t.qmp('nbd-server-add', {'device': 'n'}, '"error"')
    for _ in range(2):
        t.qmp('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': 'DIR/nbd'}}},
            '"return"' if _ == 0 else '"error"')
    t.qmp('nbd-server-add', {'device': 'n', 'bitmap': 'b'})
    t.qmp('nbd-server-add', {'device': 'nosuch'}, '"error"')
    t.qmp('nbd-server-add', {'device': 'n'}, '"error"')
    t.qmp('nbd-server-add', {
        'device': 'n', 'name': 'n2', 'bitmap': 'b2'}, '"error"')
    t.qmp('nbd-server-add', {
        'device': 'n', 'name': 'n2', 'writable': True, 'description': 'some '
        'text'})
    for side in t.sides:
        text = subprocess.run(
            ['qemu-nbd', '-L', '-k', side.images.path('nbd')],
            capture_output=True, text=True, check=True).stdout
        assert 'exports available: 2' in text, text
    t.qmp('nbd-server-remove', {'name': 'n'}, '"return"')
    t.qmp('nbd-server-remove', {'name': 'n2'}, '"return"')
    t.qmp('nbd-server-remove', {'name': 'n2'}, '"error"')
    t.qmp('nbd-server-stop')
    t.qmp('nbd-server-stop', until='"error"')
    t.quit(returns=False)


@pytest.mark.parametrize('pretty', [False, True])
def test_224_json_names(transcript, pretty):
    """File names of nodes over which a commit's filter stands."""
    t = transcript('pretty' if pretty else 'qmp')
    t.image('base', 64 * MIB)
    t.image('mid', 64 * MIB, backing='DIR/base')
    t.image('top', 64 * MIB, backing='DIR/mid')
    t.start('-drive', 'if=none,id=d,file=DIR/top,format=qcow2,node-name=top,'
            'backing.node-name=mid,backing.backing.node-name=base')
    t.run('{"execute": "block-commit", "arguments": {"job-id": "j", '
          '"device": "top", "top-node": "mid", "base-node": "base", '
          '"filter-node-name": "filter", "speed": 1, '
          '"auto-finalize": false}, "id": 1}', until=['"id": 1', 'BLOCK_JOB_PENDING'])
    t.run('{"execute": "query-block", "id": 2}', until='"id": 2')
    t.quit(returns=False)


def test_228_overridden(transcript):
    """When is a backing file one that the header does not name?"""
    t = transcript()
    t.image('base', 64 * MIB)
    t.image('mid', 64 * MIB, backing='DIR/base')
    t.image('top', 64 * MIB, backing='DIR/base')
    t.start()
    t.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'qcow2',
        'file': {'driver': 'file', 'filename': 'DIR/top'},
        'backing': None})
    t.qmp('query-block')
    t.qmp('query-named-block-nodes')
    t.qmp('blockdev-del', {'node-name': 'node0'})
    t.qmp('blockdev-add', {
        'node-name': 'node0', 'driver': 'qcow2', 'backing': {
            'driver': 'qcow2', 'file': {'driver': 'file',
                                        'filename': 'DIR/base'}},
        'file': {'driver': 'file', 'filename': 'DIR/top'}})
    t.qmp('query-named-block-nodes')
    t.quit()


def test_249_base_read_only_again(transcript):
    t = transcript()
    t.image('base', MIB)
    t.image('int', MIB, backing='DIR/base')
    t.image('top', MIB, backing='DIR/int')
    t.start('-drive', 'driver=qcow2,file=DIR/top,if=none,node-name=drv0,'
            'backing.node-name=int,backing.backing.node-name=base')
    t.qemu_io('base', 'write 0 64k')
    t.qmp('block-commit', {
        'job-id': 'job0', 'device': 'drv0', 'filter-node-name': '1234'},
        '"error"')
    t.qemu_io('base', 'write 0 64k')
    t.qmp('block-commit', {
        'job-id': 'job0', 'device': 'drv0', 'top-node': 'int',
        'base-node': 'base'}, ['"return"', '"null"'])
    t.qemu_io('base', 'write 0 64k')
    t.quit(returns=False)


def test_273_null_backing(transcript):
    t = transcript()
    t.image('base', 64 * MIB)
    t.image('mid', 64 * MIB, backing='DIR/base')
    t.image('ovl', 64 * MIB, backing='DIR/mid')
    t.start('-blockdev', 'file,node-name=base,filename=DIR/base',
            '-blockdev', 'file,node-name=midf,filename=DIR/mid',
            '-blockdev', '{"driver":"qcow2","file":"midf",'
            '"node-name":"mid","backing":null}',
            '-blockdev', 'file,node-name=topf,filename=DIR/ovl',
            '-blockdev', '{"driver":"qcow2","file":"topf",'
            '"node-name":"top","backing":null}')
    t.qmp('blockdev-snapshot', {'node': 'mid', 'overlay': 'top'})
    t.qmp('query-named-block-nodes')
    t.qmp('x-debug-query-block-graph')
    t.quit()
