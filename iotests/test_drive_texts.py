# SPDX-License-Identifier: MIT
"""Texts of -drive that nobody means: a clear refusal, nothing left, no crash;
and the forms of -blockdev that its neighbours use."""

import os
import random
import subprocess

import pytest

from .server import SANITIZER_REPORT, Server

MIB = 1 << 20
PIECES = [
    ',', ',,', '=', '.', '..', '0', '1', '"', '{', '}', '[', ']', ':', '//',
    'json:', 'json:{', 'json:[]', 'blkdebug:', 'blkverify:', 'file=', 'file.',
    'backing.', 'children.', 'children.0.', 'on', 'off', '%s%n', '\\', '\n',
    '9' * 30, '-1', 'nbd://', 'nbd:', 'null-co://', 'driver=quorum',
    'vote-threshold=1', 'driver=raw', 'format=qcow2', 'cache=none', 'id=',
    'if=none', 'if=ide', 'unit=', 'bus=', 'index=', 'media=cdrom', 'aio=',
    'throttling.', 'iops=1', 'snapshot=on', 'copy-on-read=on', 'encrypt.',
    'r.img', 'o.qcow2', 'file.driver=null-co', 'node-name=n', 'size=1M',
    'backing=', 'file.filename=', 'driver=blkdebug', 'image.filename=r.img',
    'werror=stop', 'detect-zeroes=unmap', 'driver=copy-on-read', '\x7f', ' ',
]


def ask(setup, *options, timeout=60):
    """Start with OPTIONS and end at once: exit code and stderr."""
    program = ('qemu-system-x86_64' if setup.kind == 'qemu' else
               setup.blockjobd)
    env = Server(setup).environment()
    done = subprocess.run(
        [program, '-machine', 'none', '-nodefaults', '-display', 'none', '-S',
         '-qmp', 'stdio'] + list(options), cwd=setup.directory, env=env,
        input=b'{"execute":"qmp_capabilities"}{"execute":"quit"}',
        capture_output=True, timeout=timeout, check=False)
    text = done.stderr.decode(errors='replace')
    assert not SANITIZER_REPORT.search(text), text
    assert done.returncode in (0, 1), (options, done.returncode, text)
    return done.returncode, text


@pytest.fixture
def files(setup, images):
    images.create('r.img', MIB, 'raw')
    images.create('b.qcow2', MIB)
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'b.qcow2',
                    '-F', 'qcow2', 'o.qcow2'], cwd=setup.directory, check=True)
    return setup


DEEP = [
    'driver=raw,' + 'file.' * 500 + 'driver=raw',
    'driver=raw,' + ''.join(f'{"file." * i}driver=raw,' for i in range(90)),
    'file=o.qcow2,' + 'backing.' * 500 + 'x=1',
    'file=' + 'blkdebug::' * 500 + 'r.img',
    'file=' + 'blkverify:r.img:' * 500 + 'r.img',
    'file=json:' + '{"file":' * 2000 + '1' + '}' * 2000,
    'file=json:{"driver":"quorum",,"children":' + '[' * 2000 + ']' * 2000
    + '}',
    'driver=quorum,vote-threshold=1,children.99999999999.driver=null-co',
    'driver=quorum,vote-threshold=1,'
    + ''.join(f'children.{i}.driver=null-co,' for i in range(0, 400, 2)),
    'x=' + 'y' * 100000,
    'file=' + 'a' * 100000,
    'id=' + 'a' * 100000 + '!,',
    'file=json:{"driver":"file",,"filename":"r.img",,"driver":"raw"}',
]


@pytest.mark.parametrize('which', range(len(DEEP)))
def test_deep(files, which):
    """Nested, endless, long: refused in words."""
    if files.kind == 'qemu' and which in (3, 4):
        pytest.skip('QEMU opens five hundred filters, for minutes')
    code, text = ask(files, '-drive', 'if=none,' + DEEP[which])
    assert code == 1
    assert ': -drive if=none,' in text


def test_random(files, request):
    """Pieces in any order; what is refused is refused with a reason."""
    if files.kind == 'qemu':
        pytest.skip('QEMU asserts on some of them')
    rng = random.Random(request.node.name)
    for _ in range(60):
        text = ''.join(rng.choice(PIECES) + rng.choice(['', ',', ',', '='])
                       for _ in range(rng.randint(1, 9)))
        code, told = ask(files, '-drive', text)
        assert code == 0 or ': -drive ' in told or \
            'blkverify: read' in told, (text, told)


def test_formats(files):
    """What may be given as a format, and with which nothing else is done."""
    program = ('qemu-system-x86_64' if files.kind == 'qemu' else
               files.blockjobd)
    done = subprocess.run([program, '-drive', 'format=help'], check=False,
                          capture_output=True, text=True, timeout=60)
    first, second = done.stdout.splitlines()
    assert done.returncode == 0
    assert first.startswith('Supported formats: ')
    assert second.startswith('Supported formats (read-only): ')
    assert set(first.split()) >= {
        'blkdebug', 'blkverify', 'throttle', 'quorum', 'copy-on-read',
        'copy-before-write', 'compress', 'preallocate', 'null-co', 'null-aio',
        'raw', 'qcow2', 'file', 'nbd', 'host_device', 'snapshot-access'}


BLOCKDEVS = [
    ['null-co,node-name=n'],
    ['driver=null-co,node-name=n'],
    ['{"driver": "null-co", "node-name": "n"}'],
    ['raw,file.driver=file,file.filename=r.img,node-name=n'],
    ['file,filename=r.img,node-name=f', 'raw,file=f,node-name=n'],
    ['driver=file,filename=b.qcow2,node-name=f',
     'driver=qcow2,file=f,node-name=b',
     'driver=qcow2,file.driver=file,file.filename=o.qcow2,backing=b,'
     'node-name=n'],
    ['{"driver": "qcow2", "node-name": "n", "backing": null, '
     '"file": {"driver": "file", "filename": "o.qcow2"}}'],
    ['quorum,node-name=n,vote-threshold=1,children.0.driver=null-co,'
     'children.1.driver=null-co'],
    ['null-co,node-name=a', 'quorum,node-name=n,vote-threshold=1,children.0=a'],
    ['driver=blkdebug,node-name=n,image.driver=null-co,'
     'inject-error.0.event=read_aio,inject-error.0.errno=5,align=512'],
    ['driver=file,node-name=n,filename=r.img,auto-read-only=on,read-only=on,'
     'cache.direct=off,cache.no-flush=on,discard=unmap,detect-zeroes=unmap'],
]


@pytest.mark.parametrize('which', range(len(BLOCKDEVS)))
def test_blockdev(files, which):
    options = [word for text in BLOCKDEVS[which]
               for word in ('-blockdev', text)]
    assert ask(files, *options) == (0, '')


BAD_BLOCKDEVS = {
    'null-co': "-blockdev null-co: 'node-name' must be specified for the "
               'root node',
    'node-name=n': "-blockdev node-name=n: Parameter 'driver' is missing",
    'nope,node-name=n': '-blockdev nope,node-name=n: Parameter '
                        "'driver' does not accept value 'nope'",
    'raw,node-name=n,file=x': "-blockdev raw,node-name=n,file=x: Cannot find "
                              "device='x' nor node-name='x'",
    'null-co,node-name=n,foo=1': '-blockdev null-co,node-name=n,foo=1: '
                                 "Parameter 'foo' is unexpected",
    'null-co,node-name=n,size=x': '-blockdev null-co,node-name=n,size=x: '
                                  "Parameter 'size' expects integer",
}


@pytest.mark.parametrize('text', BAD_BLOCKDEVS)
def test_bad_blockdev(files, text):
    code, told = ask(files, '-blockdev', text)
    assert code == 1
    assert told.split(': ', 1)[1].rstrip() == BAD_BLOCKDEVS[text]


def test_json_scalars(files):
    """json: names have values with types; -drive takes them."""
    path = os.path.join(files.directory, 'r.img')
    name = ('json:{"driver":"raw",,"size":65536,,"offset":512,,"read-only":'
            'true,,"file":{"driver":"file",,"filename":"%s",,"locking":'
            '"off"}}' % path)
    assert ask(files, '-drive', f'if=none,id=d,file={name}') == (0, '')
