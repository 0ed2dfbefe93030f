# SPDX-License-Identifier: MIT
"""COMPAT section 10: rows compared as text, in more detail: 109, 130, 141,
143, 144, 161, 173, 176, 182."""

import os
import re
import shutil
import subprocess

import pytest

from .harness import Shell
from .images import qemu_img, run_tool
from .test_transcripts import transcript    # noqa: F401

MIB = 1 << 20
pytestmark = [
    pytest.mark.ours(reason='compares the two servers itself'),
    pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                       reason='no qemu-system-x86_64'),
]


def without_len(side):
    """len of a failed mirror depends on what was in flight."""
    side.shell.seen = re.sub(
        r'("BLOCK_JOB_COMPLETED", "data": .*?"len": )\d+', r'\g<1>0',
        side.shell.seen)


def mirror_109(t, options, *until):
    t.start('-drive', 'file=DIR/src,format=raw,cache=writeback,id=src')
    t.qmp('drive-mirror', dict({
        'device': 'src', 'target': 'DIR/raw', 'mode': 'existing',
        'sync': 'full'}, **options), ['"return"', *until])
    t.qmp('query-block-jobs')
    t.send('{"execute": "quit"}')
    for side in t.sides:
        side.shell.wait()
        if 'BLOCK_JOB_ERROR' in until:
            without_len(side)
    t.compare(returns=False)


@pytest.mark.parametrize('fmt', ['qcow', 'qcow2', 'qed', 'vdi', 'vmdk',
                                 'vpc'])
@pytest.mark.parametrize('given', [False, True])
def test_109_header(transcript, fmt, given):
    """A header is copied into what is raw: guessed, or said to be."""
    t = transcript()
    for side in t.sides:
        source = side.images.path('src')
        qemu_img('create', '-q', '-f', fmt, source, '64M')
        size = os.path.getsize(source)
        size += -size % 512
        side.images.create('raw', size, fmt='raw')
        os.truncate(source, size)
    if given:
        mirror_109(t, {'format': 'raw'}, 'BLOCK_JOB_READY')
    else:
        mirror_109(t, {}, 'BLOCK_JOB_ERROR', 'BLOCK_JOB_COMPLETED', '"null"')
    for side in t.sides:
        if given:
            side.images.identical(side.images.path('raw'),
                                  side.images.path('src'), 'raw', 'raw')
        else:
            done = side.images.io(side.images.path('raw'),
                                  'read -P 0 0 64k', fmt='raw', check=False)
            assert 'Pattern' not in done


@pytest.mark.parametrize('given', [False, True])
def test_109_boot_sector(transcript, given):
    """A sector that looks like no format may be written."""
    t = transcript()
    for side in t.sides:
        side.images.write_raw(
            'src', b'\xeb\x63\x90' + bytes(507) + b'\x55\xaa')
        side.images.create('raw', 512, fmt='raw')
    mirror_109(t, {'format': 'raw'} if given else {}, 'BLOCK_JOB_READY')
    for side in t.sides:
        side.images.identical(side.images.path('raw'),
                              side.images.path('src'), 'raw', 'raw')


def test_117(transcript):
    t = transcript()
    t.image('top', 64 * 1024)
    t.start()
    t.run("""{'execute': 'blockdev-add',
              'arguments': { 'node-name': 'protocol',
                             'driver': 'file',
                             'filename': 'DIR/top' } }""")
    t.run("""{'execute': 'blockdev-add',
              'arguments': { 'node-name': 'format',
                             'driver': 'qcow2',
                             'file': 'protocol' } }""")
    t.run("""{'execute': 'human-monitor-command',
              'arguments': { 'command-line':
                 'qemu-io format "write -P 42 0 64k"' } }""")
    t.quit()


@pytest.mark.parametrize('in_header', ['DIR/orig', None])
def test_130_other_backing(transcript, in_header):
    """Committed into a backing file that the header does not name."""
    t = transcript('hmp')
    t.image('orig', MIB)
    t.image('base', MIB)
    t.image('top', MIB, backing=in_header, io=['write -P 1 0 64k'])
    t.start('-drive', 'id=testdisk,file=DIR/top,'
            'backing.file.filename=DIR/base,if=ide')
    t.run('commit testdisk')
    t.quit()
    for side in t.sides:
        info = side.images.info(side.images.path('top'))
        assert info.get('backing-filename') == (
            in_header and side.images.path('orig'))
        assert side.images.content(side.images.path('base'))[0] == 1


def test_141_slow_jobs(transcript):
    t = transcript()
    t.image('b', MIB, io=['write -P 1 0 1M'])
    t.image('m', MIB, backing='DIR/b', io=['write -P 2 0 1M'])
    t.image('t', MIB, backing='DIR/m')
    t.start()

    def job(command, arguments, ready=None):
        t.qmp('blockdev-add', {
            'node-name': 'drv0', 'driver': 'qcow2',
            'file': {'driver': 'file', 'filename': 'DIR/t'}})
        t.qmp(command, dict(arguments, device='drv0', **{'job-id': 'job0'}),
              until=['"return"'] + ([ready] if ready else []))
        t.qmp('blockdev-del', {'node-name': 'drv0'}, '"error"')
        t.qmp('block-job-cancel', {'device': 'job0'}, '"null"')
        t.qmp('blockdev-del', {'node-name': 'drv0'})

    job('drive-backup', {'target': 'DIR/o', 'format': 'qcow2',
                         'sync': 'none'})
    job('drive-mirror', {'target': 'DIR/o', 'format': 'qcow2',
                         'sync': 'none'}, 'BLOCK_JOB_READY')
    job('block-commit', {'top': 'DIR/m', 'speed': 1})
    job('block-stream', {'speed': 1})
    t.quit(returns=False)


@pytest.mark.parametrize('name', ['no_such_export', 'a' * 4095 + '1'])
def test_143_client(transcript, name):
    t = transcript()
    t.start()
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}})
    texts = []
    for side in t.sides:
        code, text = run_tool(
            'qemu-io', '-f', 'raw', '-c', 'quit',
            f'nbd+unix:///{name}?socket={side.images.path("nbd")}',
            check=False)
        assert code
        texts.append(side.plain(text))
    assert texts[0] == texts[1]
    t.quit()


def test_144(transcript):
    t = transcript()
    t.image('t', 512 * 1024)
    t.start('-drive', 'file=DIR/t,if=virtio')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'snapshot-file': 'DIR/tmp.qcow2',
        'format': 'qcow2'})
    t.qmp('block-commit', {'device': 'virtio0'},
          ['"return"', 'BLOCK_JOB_READY'])
    t.qmp('block-job-complete', {'device': 'virtio0'}, '"null"')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'virtio0', 'snapshot-file': 'DIR/tmp2.qcow2',
        'format': 'qcow2'})
    t.qmp('query-block-jobs')
    t.quit(returns=False)


@pytest.mark.parametrize('command,arguments', [
    ('block-stream', {'device': 'none0', 'base': 'DIR/base'}),
    ('block-commit', {'device': 'none0', 'top': 'DIR/int',
                      'base': 'DIR/base'})])
def test_161(transcript, command, arguments):
    t = transcript()
    t.image('base', MIB)
    t.image('int', MIB, backing='DIR/base')
    t.image('top', MIB, backing='DIR/int')
    t.start('-drive', 'driver=qcow2,file.driver=file,file.filename=DIR/top,'
            'if=none')
    t.qmp(command, arguments, until=['"return"', '"null"'])
    t.qemu_io('none0', 'reopen -o backing.detect-zeroes=on')
    t.quit(returns=False)


def test_173(transcript):
    """The name of the backing file is changed to a relative one."""
    t = transcript()
    t.image('base', MIB, io=['write -P 1 0 64k'])
    t.image('snp1', MIB, backing='DIR/base')
    t.start('-drive', 'if=none,id=disk,file=DIR/base,format=qcow2')
    t.qmp('blockdev-snapshot-sync', {
        'device': 'disk', 'snapshot-file': 'DIR/snp1', 'format': 'qcow2',
        'mode': 'existing'})
    t.qmp('blockdev-snapshot-sync', {
        'device': 'disk', 'snapshot-file': 'DIR/snp2', 'format': 'qcow2',
        'snapshot-node-name': 'snp2'})
    t.qmp('change-backing-file', {
        'device': 'disk', 'image-node-name': 'snp2',
        'backing-file': 'snp1'})
    t.qmp('change-backing-file', {
        'device': 'disk', 'image-node-name': 'nope',
        'backing-file': 'snp1'}, '"error"')
    t.qmp('change-backing-file', {
        'device': 'nodisk', 'image-node-name': 'snp2',
        'backing-file': 'snp1'}, '"error"')
    t.qmp('query-block')
    t.qmp('block-stream', {'device': 'disk', 'base': 'snp1'}, '"error"')
    t.qmp('block-stream', {'device': 'disk', 'base': 'DIR/base'},
          ['"return"', '"null"'])
    t.qmp('query-block')
    t.quit(returns=False)


@pytest.mark.parametrize('bitmap', ['"persistent":true', '"disabled":true'])
def test_176_piped(transcript, bitmap):
    """All the commands at once, through a pipe; the tool commits then."""
    t = transcript()
    t.image('base', MIB)
    t.image('top', MIB, backing='DIR/base', io=['write -P 1 0 64k'])
    t.image('plain', MIB)
    outputs = []
    node = ('{ "execute": "blockdev-add", "arguments": { "driver": "qcow2",'
            ' "node-name": "drive0", "file": { "driver": "file",'
            ' "filename": "DIR/top" } } }\n')
    scripts = [
        '{ "execute": "block-dirty-bitmap-add", "arguments": {'
        ' "node": "drive0", "name": "bitmap0", %s } }\n'
        % bitmap.replace('disabled', 'persistent') +
        ('{ "execute": "block-dirty-bitmap-disable", "arguments": {'
         ' "node": "drive0", "name": "bitmap0" } }\n'
         if 'disabled' in bitmap else ''),
        '{ "execute": "x-debug-block-dirty-bitmap-sha256", "arguments": {'
        ' "node": "drive0", "name": "bitmap0" } }\n']
    for side in t.sides:
        prog = (side.setup.blockjobd if side.setup.kind == 'blockjobd'
                else 'qemu-system-x86_64')
        seen = []
        for script in scripts:
            text = ('{ "execute": "qmp_capabilities" }\n' + node + script +
                    '{ "execute": "quit" }\n')
            done = subprocess.run(
                [prog, '-nodefaults', '-display', 'none', '-accel',
                 'qtest' if prog == side.setup.blockjobd else 'tcg',
                 '-nographic', '-qmp', 'stdio', '-serial', 'none'],
                input=text.replace('DIR', side.setup.directory).encode(),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=30, check=False)
            assert done.returncode == 0
            seen.append(side.plain(done.stdout.decode()))
            seen.append(sorted(side.images.bitmaps(side.images.path('top'))
                               ['bitmap0']['flags']))
            qemu_img('commit', '-q', '-f', 'qcow2', side.images.path('top'))
        outputs.append(seen)
    assert outputs[0] == outputs[1]


def second_182(side, drive):
    """A second process with the image; what it says."""
    shell = Shell(side.setup, ['-drive', drive.replace(
        'DIR', side.setup.directory), '-device', 'virtio-blk-pci,drive=d0'],
        monitor='hmp')
    try:
        shell.send('quit')
    except BrokenPipeError:
        pass
    code = shell.wait()
    shell.close()
    return code, side.plain(shell.seen)


def test_182_second(transcript):
    t = transcript()
    t.image('t', 32 * MIB)
    drive = 'file=DIR/t,if=none,id=d0,file.locking=on'
    t.start('-drive', drive, '-device', 'virtio-blk-pci,drive=d0')
    texts = [second_182(side, drive) for side in t.sides]
    assert texts[0] == texts[1]
    assert texts[0][0] == 1
    assert any('Failed to get "write" lock' in line for line in texts[0][1])
    t.quit()


@pytest.mark.parametrize('exported', [False, True])
def test_182_reopen(transcript, exported):
    """An overlay nobody uses is gone again; its locks are, too."""
    t = transcript()
    t.image('t', 32 * MIB)
    t.start()
    t.qmp('blockdev-add', {'node-name': 'node0', 'driver': 'file',
                           'filename': 'DIR/t', 'locking': 'on'})
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}})
    if exported:
        t.qmp('nbd-server-add', {'device': 'node0'})
    t.qmp('blockdev-snapshot-sync', {
        'node-name': 'node0', 'snapshot-file': 'DIR/t.overlay',
        'snapshot-node-name': 'node1'})
    t.qmp('blockdev-add', {'node-name': 'node1', 'driver': 'file',
                           'filename': 'DIR/t', 'locking': 'on'},
          '"error"' if exported else '"return"')
    if not exported:
        t.qmp('nbd-server-add', {'device': 'node1'})
        t.qmp('nbd-server-add', {'device': 'node0', 'writable': True})
    t.qmp('nbd-server-stop', until='"return"')
    t.quit(returns=False)


def test_182_loosen(transcript):
    """The file is gone when its locks are given back."""
    t = transcript()
    t.image('t', 32 * MIB)
    t.start('-drive', 'file=DIR/t,if=none,file.locking=on')
    for side in t.sides:
        os.unlink(side.images.path('t'))
    t.quit()


def test_182_gone_directory(transcript):
    """Its node loses a user who wrote when even the directory is gone."""
    t = transcript()
    for side in t.sides:
        os.mkdir(side.images.path('gone'))
    t.image('gone/t', 32 * MIB)
    t.start()
    t.qmp('blockdev-add', {'node-name': 'f', 'driver': 'file',
                           'filename': 'DIR/gone/t', 'locking': 'on'})
    t.qmp('blockdev-add', {'node-name': 'n', 'driver': 'qcow2',
                           'file': 'f'})
    for side in t.sides:
        shutil.rmtree(side.images.path('gone'))
    t.qmp('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': 'DIR/nbd'}}})
    t.qmp('nbd-server-add', {'device': 'n', 'writable': True})
    t.qmp('nbd-server-remove', {'name': 'n'}, 'BLOCK_EXPORT_DELETED')
    t.qmp('query-block-exports')
    t.qmp('blockdev-del', {'node-name': 'n'})
    t.qmp('blockdev-del', {'node-name': 'f'})
    t.quit(returns=False)
