# SPDX-License-Identifier: MIT
"""-drive, option by option: the same text to both, the same drive comes out.

Each set of options starts the server under test and Debian's
qemu-system-x86_64 side by side, in directories with equal files.  What
query-block and query-named-block-nodes answer is compared member for member,
and what is written on stderr line for line; generated names are made equal,
members newer than 7.2 left out.
"""

import difflib
import json
import os
import re
import shutil
import subprocess

import pytest

from .images import Images

MIB = 1 << 20
NEWER = {'active', 'children', 'limits'}    # since QEMU 10
COMMANDS = ['qmp_capabilities', 'query-block', 'query-named-block-nodes',
            'quit']
FILTERS = {'blkdebug', 'blkverify', 'copy-on-read', 'throttle'}
CONFIG = '[inject-error]\nevent = "read_aio"\nerrno = "5"\n'

pytestmark = pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                                reason='no QEMU to compare with')


def plain_value(value):
    if isinstance(value, list):
        return [plain_value(v) for v in value]
    if not isinstance(value, dict):
        return value
    value = {k: 0 if k == 'actual-size' else plain_value(v)
             for k, v in value.items() if k not in NEWER}
    if value.get('drv') in FILTERS:
        value['backing_file_depth'] = 0     # filters count no more
    return value


class Side:
    """A program, its directory and the files in it."""

    def __init__(self, program, directory):
        os.mkdir(directory)
        self.program = program
        self.directory = directory
        self.names = {}
        images = Images(directory)
        for name in ('r.img', 'r2.img'):
            images.create(name, MIB, 'raw')
        images.create('b.qcow2', MIB)
        images.create('c,omma.qcow2', MIB)
        os.mkdir(os.path.join(directory, 'sub'))
        self._overlay('o.qcow2', 'b.qcow2')
        self._overlay('sub/rel.qcow2', '../b.qcow2')
        self._overlay('json.qcow2', 'json:{"driver": "qcow2", "file": '
                      '{"driver": "file", "filename": "b.qcow2"}}')
        self._overlay('debug.qcow2', 'blkdebug:blk.conf:r.img', 'raw')
        with open(os.path.join(directory, 'blk.conf'), 'w',
                  encoding='ascii') as config:
            config.write(CONFIG)

    def _overlay(self, name, backing, backing_format='qcow2'):
        subprocess.run(['qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-b',
                        backing, '-F', backing_format, name, str(MIB)],
                       cwd=self.directory, check=True)

    def run(self, drives):
        """What starting with DRIVES tells: exit code, stderr, replies."""
        argv = [self.program, '-machine', 'none', '-nodefaults', '-display',
                'none', '-S', '-qmp', 'stdio']
        for text in drives:
            option = text if isinstance(text, list) else ['-drive', text]
            argv += option
        commands = ''.join(json.dumps({'execute': c}) + '\n'
                           for c in COMMANDS)
        done = subprocess.run(argv, input=commands, cwd=self.directory,
                              capture_output=True, text=True, timeout=60,
                              check=False)
        self.names = {}
        stderr = self._plain(done.stderr).splitlines()
        replies = []
        for line in done.stdout.splitlines():
            message = json.loads(line)
            if 'return' in message:
                replies.append(self._plain(json.dumps(
                    plain_value(message['return']))))
        return done.returncode, stderr, replies[1:3]

    def _plain(self, text):
        text = text.replace(os.path.basename(self.program) + ': ', 'PROG: ')
        text = text.replace(self.directory, 'DIR')
        text = re.sub(r'/var/tmp/[\w.]+', 'TEMPORARY', text)
        return re.sub(r'#block\d+', self._name, text)

    def _name(self, match):
        return self.names.setdefault(match[0], f'#auto{len(self.names)}')


@pytest.fixture
def both(setup):
    ours = setup.blockjobd if setup.kind != 'qemu' else 'qemu-system-x86_64'
    return (Side(ours, os.path.join(setup.directory, 'ours')),
            Side('qemu-system-x86_64', os.path.join(setup.directory, 'ref')))


def as_lines(told):
    """For people to read what differs."""
    code, stderr, replies = told
    return [f'exit {code}'] + stderr + [
        line for reply in replies
        for line in json.dumps(json.loads(reply), indent=1).splitlines()]


def compare(both, sets):
    wrong = []
    for text in sets:
        drives = text if isinstance(text, list) else text.split(' | ')
        ours, theirs = (side.run(drives) for side in both)
        if ours != theirs:
            wrong += [f'-drive {text}'] + list(difflib.unified_diff(
                as_lines(theirs), as_lines(ours), 'QEMU', 'ours', n=0,
                lineterm=''))
    assert not wrong, '\n'.join(wrong)


D = 'if=none,id=d,'

FORMATS = [
    'if=none,file=r.img', D + 'file=r.img,format=raw',
    D + 'file=r.img,driver=raw', D + 'file=r.img,driver=raw,format=raw',
    D + 'file=r.img,driver=raw,format=qcow2', D + 'file=r.img,format=foo',
    D + 'file=r.img,driver=foo', D + 'driver=foo', D + 'format=raw',
    D + 'format=qcow2', D + 'file=,format=qcow2', D + 'file=',
    D + 'file=b.qcow2', D + 'file=b.qcow2,format=raw', D + 'file=o.qcow2',
    D + 'file=r.img,format=qcow2', D + 'file=r.img,format=',
    D + 'file=r.img,format=raw,driver=', D + 'file=nope.img',
    D + 'file=nope.img,format=raw', D + 'file=b.qcow2,driver=file',
    D + 'filename=r.img,driver=file', D + 'driver=null-co',
    D + 'file.driver=file,file.filename=b.qcow2',
    D + 'file.driver=qcow2,file.file.filename=b.qcow2,driver=raw',
    D + 'file.driver=qcow2,file.file.filename=b.qcow2',
    D + 'driver=raw,file.driver=qcow2,file.filename=b.qcow2',
    D + 'driver=raw,file=b.qcow2,file.driver=qcow2',
    D + 'file=,driver=raw,file.driver=null-co',
    D + 'file=r.img,file=b.qcow2',
]
NAMES = [
    D + 'file=file:r.img,format=raw', D + 'file=foo:r.img,format=raw',
    D + 'file=c,,omma.qcow2', D + 'file=c,omma.qcow2',
    D + 'file=null-co://', D + 'file=null-co://,format=raw',
    D + 'file=null-aio://,format=raw', D + 'file=null-co://foo',
    D + 'file=blkdebug::b.qcow2', D + 'file=blkdebug:blk.conf:b.qcow2',
    D + 'file=blkdebug:blk.conf:r.img,format=raw',
    D + 'file=blkdebug:blk.conf:r.img', D + 'file=blkdebug:nope.conf:r.img',
    D + 'file=blkdebug:r.img', D + 'file=blkdebug:::r.img',
    D + 'file=blkverify:r.img:r2.img,format=raw',
    D + 'file=blkverify:r.img:b.qcow2', D + 'file=blkverify:r.img',
    D + 'file=nbd+unix:///x?socket=/nonexist',
    D + 'file=nbd:unix:/nonexist:exportname=x',
    D + 'driver=nbd,path=/nonexist',
    D + 'file.driver=nbd,file.server.type=unix,file.server.path=/nonexist',
    D + 'file=:foo', D + 'file=/tmp:foo', D + 'file=./a:b',
    D + 'file=/dev/null,format=raw',
    D + 'file=host_device:r.img', D + 'file=r.img,driver=host_device',
]
JSON_NAMES = [
    D + 'file=json:{"driver":"qcow2",,"file":{"driver":"file",,'
        '"filename":"b.qcow2"}}',
    D + 'file=json:{"driver":"qcow2",,"file.driver":"file",,'
        '"file.filename":"b.qcow2"},driver=raw',
    D + 'file=json:{"file.filename":"b.qcow2"}',
    D + 'file=json:{"driver":"file",,"filename":"b.qcow2"}',
    D + 'file=json:{"driver":"file",,"filename":"b.qcow2"},format=qcow2',
    D + 'file=json:{"driver":"qcow2",,"file":"n"},read-only=on',
    D + 'file=json:[]', D + 'file=json:{', D + 'file=json:{"driver":"nope"}',
    D + 'file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":'
        '"b.qcow2"},,"lazy-refcounts":true}',
]
IDS = [
    'if=none', 'id=d0', 'if=none,id=d0 | if=none,id=d0',
    'if=none,id=none0 | if=none', 'if=none,id=0bad', 'if=none,id=a b',
    'if=none,id=', 'if=none,index=2', 'if=none,unit=2',
    'if=none,bus=1,unit=2', 'if=none,index=0 | if=none,index=0',
    'if=none,bus=0,unit=0 | if=none', 'if=none,unit=2 | if=none,unit=2',
    'if=none,unit=2 | if=none,index=2', 'if=none,index=2,bus=0',
    'if=none,index=2,unit=0', 'if=none,index=foo', 'if=none,index=-1',
    'if=none,unit=-5', 'if=none,bus=-1', 'if=none,bus=x', 'if=ide,unit=2',
    'if=scsi,unit=9', 'if=foo,file=r.img', 'if=none,media=cdrom',
    'if=none,media=foo', 'if=none,media=cdrom,file=r.img,format=raw',
    'if=none,media=cdrom,file=r.img,format=raw,readonly=off', 'id', 'none',
    'if', ',', 'if=none,,id=d', D + 'node-name=n',
    'if=none,file=r.img,format=raw | if=none,file=r2.img,format=raw',
    D + 'file=r.img,format=raw,node-name=d',
    D + 'file=r.img,format=raw,node-name=n | if=none,id=n',
    D + 'file=r.img,format=raw,node-name=n | '
        'if=none,id=e,file=r2.img,format=raw,node-name=n',
    D + 'file=r.img,format=raw,node-name=0n',
    D + 'file=r.img,format=raw,node-name=n | if=none,id=e,file=n',
]
MODES = [D + 'file=o.qcow2,' + mode for mode in (
    'cache=none', 'cache=unsafe', 'cache=writethrough', 'cache=directsync',
    'cache=writeback', 'cache=off', 'cache=foo', 'cache.direct=on',
    'cache=none,cache.direct=off', 'cache.writeback=off', 'cache.no-flush=on',
    'backing.cache.direct=on', 'file.cache.direct=on', 'cache.foo=on',
    'cache.direct=foo', 'cache.writeback=foo', 'aio=native',
    'aio=native,cache=none', 'aio=threads', 'aio=io_uring', 'aio=foo',
    'file.aio=native', 'read-only=on', 'readonly=on', 'readonly=yes',
    'readonly', 'noreadonly', 'readonly=true', 'readonly=foo',
    'read-only=foo', 'read-only=on,readonly=on', 'force-share=on',
    'force-share=on,readonly=on', 'auto-read-only=off', 'auto-read-only=foo',
    'snapshot=on', 'snapshot=on,readonly=on', 'snapshot=foo',
    'snapshot=on,node-name=nn', 'copy-on-read=foo', 'copy-on-read=on',
    'copy-on-read=on,node-name=nn',
    'copy-on-read=on,readonly=on', 'detect-zeroes=on', 'detect-zeroes=unmap',
    'detect-zeroes=unmap,discard=unmap', 'detect-zeroes=foo', 'discard=foo',
    'discard=on', 'discard=off', 'werror=foo', 'rerror=enospc',
    'werror=enospc,rerror=stop', 'file.locking=off', 'file.locking=foo')]
OPTIONS = [
    D + 'file=o.qcow2,lazy-refcounts=on,l2-cache-size=1M,overlap-check=none',
    D + 'file=o.qcow2,lazy-refcounts=foo', D + 'file=o.qcow2,overlap-check=x',
    D + 'file=o.qcow2,overlap-check.template=all',
    D + 'file=o.qcow2,cache-clean-interval=x',
    D + 'file=o.qcow2,l2-cache-size=x', D + 'file=o.qcow2,file.foo=native',
    D + 'file=o.qcow2,key-secret=s', D + 'file=r.img,format=raw,offset=foo',
    D + 'file=o.qcow2,encrypt.format=luks,encrypt.key-secret=s',
    D + 'file=r.img,format=raw,size=1000', D + 'driver=blkdebug',
    D + 'file=r.img,format=raw,foo=bar', D + 'foo=bar', D + 'serial=abc',
    D + 'file=r.img,format=raw,serial=abc', D + 'cyls=1,heads=1,secs=1',
    D + 'addr=3', D + 'werror=stop,rerror=ignore', 'if=floppy,werror=stop',
    D + 'cache=none', D + 'detect-zeroes=on', D + 'discard=unmap',
    D + 'readonly=on', D + 'aio=native', D + 'bps=10', D + 'copy-on-read=on',
    D + 'throttling.iops-total=10', D + 'snapshot=on', D + 'backing=x',
    D + 'file.locking=off', D + 'driver=null-co,foo=on', D + '=foo',
    D + 'file.',
    D + 'file=r.img,format=raw,x.=3',
    D + 'file=r.img,format=raw,,', D + 'file=r.img,format=raw,cache.foo.a=on',
    D + 'file=r.img,file.filename=r2.img,format=raw',
    D + 'file=r.img,format=raw,stats-account-invalid=foo',
]
LIMITS = [D + 'file=r.img,format=raw,' + limits for limits in (
    'throttling.iops-total=10', 'throttling.iops-total=10,throttling.group=g',
    'iops=10', 'iops=10,throttling.iops-total=20', 'iops=10,iops_rd=20',
    'bps_rd=1,bps_wr=3,iops_rd=3,iops_wr=4,bps_rd_max=2,bps_wr_max=33,'
    'iops_rd_max=33,iops_wr_max=44,iops_size=4096',
    'throttling.bps-total=10,throttling.bps-total-max=100,'
    'throttling.bps-total-max-length=5', 'throttling.bps-total-max=100',
    'throttling.bps-total=foo', 'iops=foo', 'throttling.foo=1', 'iops=-1',
    'throttling.bps-total=100,throttling.bps-total-max=10',
    'throttling.group=foo', 'throttling.bps-total-max-length=5',
    'throttling.bps-total=1,throttling.bps-total-max=5,'
    'throttling.bps-total-max-length=0', 'iops_size=512',
    'group=x,bps=1000')]
BACKING = [
    D + 'file=sub/rel.qcow2', D + 'file=json.qcow2', D + 'file=debug.qcow2',
    D + 'file=o.qcow2,backing=zz', D + 'file=o.qcow2,backing=',
    D + 'file=r.img,format=raw,backing=zz',
    D + 'file=o.qcow2,backing.file.filename=b.qcow2',
    D + 'file=o.qcow2,backing.file.filename=r.img',
    D + 'file=o.qcow2,backing.file.filename=r.img,backing.driver=raw',
    D + 'file=o.qcow2,backing.node-name=bk',
    D + 'file=sub/rel.qcow2,backing.node-name=bk',
    D + 'file=debug.qcow2,backing.node-name=bk',
    D + 'file=json.qcow2,backing.node-name=bk',
    D + 'file=o.qcow2,backing.node-name=bk,backing.file.node-name=bkf',
    D + 'file=o.qcow2,backing.driver=qcow2,backing.file.filename=b.qcow2,'
        'backing.node-name=bk,node-name=top,file.node-name=topf',
    D + 'file=blkdebug::o.qcow2,format=qcow2,backing.node-name=bk',
    D + 'file=o.qcow2,backing.filename=r.img', D + 'file=o.qcow2,backing.foo=1',
    D + 'file=o.qcow2,backing.driver=raw',
    'if=none,id=n,file=r2.img,format=raw,node-name=n | '
    + D + 'file=o.qcow2,backing=n',
    'if=none,id=n,file=r2.img,format=raw,node-name=n | '
    + D + 'file=o.qcow2,backing.backing=n',
    'if=none,id=n,file=r2.img,format=raw,node-name=n | '
    + D + 'file=o.qcow2,backing=n,backing.file.filename=b.qcow2',
]
DRIVERS = [
    D + 'driver=qcow2,file.driver=blkdebug,file.image.filename=b.qcow2',
    D + 'file.driver=blkdebug,file.image.filename=b.qcow2',
    D + 'driver=blkdebug,foo=1,image.filename=r.img',
    D + 'driver=throttle,throttle-group=x,file.filename=b.qcow2',
    D + 'driver=quorum,vote-threshold=3,children.0.file.filename=r.img,'
        'children.0.driver=raw',
    D + 'driver=quorum,vote-threshold=1,children.0.filename=r.img',
    D + 'driver=quorum,vote-threshold=1',
    D + 'driver=quorum,vote-threshold=1,children.1=n',
    D + 'driver=quorum,vote-threshold=1,children.0=zz',
    D + 'file.driver=null-co,format=raw',
]


@pytest.mark.parametrize('name', ['FORMATS', 'NAMES', 'JSON_NAMES', 'IDS',
                                  'MODES', 'OPTIONS', 'LIMITS', 'BACKING',
                                  'DRIVERS'])
def test_same(both, name):
    compare(both, globals()[name])
