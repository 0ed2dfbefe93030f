# SPDX-License-Identifier: MIT
"""In the system emulator's place: to the greeting, memory, HMP's qemu-io."""

import json
import os
import socket
import subprocess
import time

from common import report

ROUNDS = 7
N_DRIVES = 16
N_COMMANDS = 300


class Machine:
    """A process and its monitor, by an inherited socket."""

    def __init__(self, binary, images, *options):
        ours, theirs = socket.socketpair()
        begin = time.monotonic()
        self.process = subprocess.Popen([
            binary, '-nodefaults', '-display', 'none', '-machine', 'pc', '-S',
            '-chardev', f'socket,id=mon,fd={theirs.fileno()}',
            '-mon', 'chardev=mon,mode=control', *options,
            *[word for i, path in enumerate(images) for word in (
                '-drive', f'if=virtio,id=drive{i},file={path},format=qcow2')]],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),))
        theirs.close()
        self.sock = ours
        self.file = ours.makefile('rwb')
        self.file.readline()
        self.qmp('qmp_capabilities')
        self.seconds = time.monotonic() - begin

    def qmp(self, command, arguments=None):
        message = {'execute': command, 'arguments': arguments or {}}
        self.file.write(json.dumps(message).encode() + b'\n')
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if 'event' not in reply:
                return reply['return']

    def memory_mib(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as f:
            line = next(x for x in f if x.startswith('VmRSS'))
        return int(line.split()[1]) / 1024

    def stop(self):
        self.qmp('quit')
        self.process.wait(timeout=60)
        self.file.close()
        self.sock.close()


def commands_per_second(machine, command, arguments):
    begin = time.monotonic()
    for _ in range(N_COMMANDS):
        machine.qmp(command, arguments)
    return N_COMMANDS / (time.monotonic() - begin)


def run(ours, _theirs, folder):
    theirs = 'qemu-system-x86_64'
    folders = []
    for name in ('ours', 'theirs'):
        images = [os.path.join(folder, f'{name}{i}') for i in range(N_DRIVES)]
        for path in images:
            subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path,
                            '1G'], check=True)
        folders.append(images)
    start, memory, io, query = [([], []) for _ in range(4)]
    for _ in range(ROUNDS):
        for side, binary in enumerate((ours, theirs)):
            machine = Machine(binary, folders[side])
            start[side].append(machine.seconds * 1000)
            memory[side].append(machine.memory_mib())
            io[side].append(commands_per_second(
                machine, 'human-monitor-command',
                {'command-line': 'qemu-io drive0 "read 0 64k"'}))
            query[side].append(commands_per_second(
                machine, 'query-block', None))
            machine.stop()
    report(f'machine of {N_DRIVES} disks: start to reply', *start, 'ms', False)
    report('  memory', *memory, 'MiB', False)
    report('  HMP qemu-io read', *io, '1/s')
    report('  query-block', *query, '1/s')
