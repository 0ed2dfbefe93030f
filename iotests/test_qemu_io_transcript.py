# SPDX-License-Identifier: MIT
"""HMP's qemu-io says, line by line, what QEMU says.

qemu_io_transcript.txt: "> DISK | COMMAND", then what the monitor shows
("< ...") and what is printed.  Sections begin with new images.
"""

import os
import re
import subprocess
import time

import pytest

from .qmp import SCALE

PATH = os.path.join(os.path.dirname(__file__), 'qemu_io_transcript.txt')


def sections():
    """Lists of (disk, command, reply, lines)."""
    found = []
    with open(PATH, encoding='utf-8') as transcript:
        for line in transcript.read().splitlines():
            match = re.match(r'> (\S+) \| (.*)', line)
            if line.startswith('==='):
                found.append([])
            elif match or line == '>':
                found[-1].append((match[1], match[2], [], []))
            elif line.startswith('< '):
                found[-1][-1][2].append(line[2:])
            else:
                found[-1][-1][3].append(line)
    return found


def plain(text):
    """Without times, and with what only newer versions say as of old."""
    text = re.sub(r'[0-9:.]+( sec)? \([^)]*ops/sec\)', 'TIME', text)
    text = re.sub(r',1,0:00:00\.[0-9]+,.*', ',1,T', text)
    for new, old in (('-abCqrv', '-abCqv'), ('-Cqrv', '-Cqv'),
                     ('-bcCfnqruz', '-bcCfnquz'), ('-Cfqr', '-Cfq'),
                     ('aio_read failed', 'readv failed'),
                     ('set a breakpoint', 'set breakpoint')):
        text = text.replace(new, old)
    return text


@pytest.mark.parametrize('number', range(4))
def test_transcript(launch, images, directory, number):
    def write(name, data):
        with open(os.path.join(directory, name), 'wb') as file:
            file.write(data)

    write('pat', b'abcdefg')
    write('empty', b'')
    write('bigpat', bytes(range(256)) * 400)
    image = images.create('t.qcow2', '64M')
    raw = images.create('b.raw', '4M', fmt='raw')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={image},format=qcow2')
    vm.add_blockdev(f'raw,node-name=r,file.driver=file,file.filename={raw}')
    vm.add_blockdev('null-co,node-name=nc,read-only=on')
    vm.add_drive_raw('if=none,id=e').start()
    for disk, command, reply, lines in sections()[number]:
        before = len(vm.output())
        quoted = command.replace('\\', '\\\\').replace('"', '\\"')
        said = vm.qemu_io(disk, quoted)
        deadline = time.monotonic() + 5 * SCALE
        got = plain(vm.output()[before:]).splitlines()
        while len(got) < len(lines) and time.monotonic() < deadline:
            time.sleep(0.005)       # aio comes later
            got = plain(vm.output()[before:]).splitlines()
        assert (command, got) == (command, lines)
        assert (command, said.split('\r\n')[:-1]) == (command, reply)


TOOL = ['write -P 1 0 64k', 'write -z 1M 64k', 'read -P 1 0 64k',
        'read -v 0 32', 'discard 0 64k', 'map', 'alloc 0 2M', 'length',
        'truncate 65M', 'length', 'write 64M 1M', 'read 70M 1',
        'aio_write 2M 64k', 'aio_flush', 'reopen -o lazy-refcounts=on',
        'readv 0 512 512', 'writev 3 5 7', 'read -C -P 205 3 12', 'map',
        'flush', 'w -q 4M 4M', 'alloc 3M 8M', 'read -P 2 0 1M']


def test_as_the_tool(launch, images):
    """The same commands with the tool qemu-io: same words, same image."""
    ours = images.create('ours.qcow2', '64M')
    other = images.create('other.qcow2', '64M')
    vm = launch(machine='none')
    vm.add_drive_raw(f'if=none,id=d,file={ours},format=qcow2,discard=unmap')
    vm.start()
    for command in TOOL:
        assert vm.qemu_io('d', command) == ''
    vm.qmp('quit')
    vm.wait_exit()
    argv = ['qemu-io', '-f', 'qcow2']
    for command in TOOL:
        argv += ['-c', command]
    tool = subprocess.run(argv + [other], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    assert plain(vm.output()) == plain(tool.stdout)
    subprocess.run(['qemu-img', 'compare', ours, other], check=True,
                   stdout=subprocess.DEVNULL)
