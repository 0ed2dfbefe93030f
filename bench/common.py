# SPDX-License-Identifier: MIT
"""What the benchmarks share: both servers behind one class, and ratios.

A benchmark measures blockjobd and Debian's qemu-storage-daemon by turns in one
run (A B A B ...), so that a machine whose speed drifts does not favour one.
A ratio is ours to theirs, better being above 1.
"""

import json
import os
import socket
import statistics
import subprocess
import time


class Server:
    """blockjobd or qemu-storage-daemon: both take the same options."""

    def __init__(self, binary, folder, name, *options):
        self.qmp_path = os.path.join(folder, f'{name}.qmp')
        self.nbd_path = os.path.join(folder, f'{name}.nbd')
        pid_path = os.path.join(folder, f'{name}.pid')
        self.process = subprocess.Popen([
            binary,
            '--chardev', f'socket,id=c,path={self.qmp_path},server=on,'
                         'wait=off',
            '--monitor', 'chardev=c',
            '--nbd-server', f'addr.type=unix,addr.path={self.nbd_path}',
            *options, '--pidfile', pid_path], stdin=subprocess.DEVNULL)
        while not os.path.exists(pid_path):
            if self.process.poll() is not None:
                raise SystemExit(f'{binary} did not start')
            time.sleep(0.005)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.qmp_path)
        self.file = self.sock.makefile('rwb')
        self.events = []
        self.file.readline()
        self.qmp('qmp_capabilities')

    def qmp(self, command, **arguments):
        message = {'execute': command}
        if arguments:
            message['arguments'] = {k.replace('_', '-'): v
                                    for k, v in arguments.items()}
        self.file.write(json.dumps(message).encode() + b'\n')
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if 'event' in reply:
                self.events.append(reply)
            elif 'error' in reply:
                raise SystemExit(f'{command}: {reply["error"]["desc"]}')
            else:
                return reply['return']

    def wait_job(self, job):
        """Until the job is concluded; then dismiss it."""
        while True:
            for event in self.events:
                data = event.get('data', {})
                if (event['event'] == 'JOB_STATUS_CHANGE' and
                        data == {'id': job, 'status': 'concluded'}):
                    info = next(j for j in self.qmp('query-jobs')
                                if j['id'] == job)
                    if 'error' in info:
                        raise SystemExit(f'{job}: {info["error"]}')
                    self.qmp('job-dismiss', id=job)
                    self.events.clear()
                    return
            self.events = [json.loads(self.file.readline())]

    def wait_event(self, name, **data):
        """The next event NAME with these members."""
        while True:
            for at, event in enumerate(self.events):
                got = event.get('data', {})
                if event['event'] == name and \
                        all(got.get(k) == v for k, v in data.items()):
                    del self.events[:at + 1]
                    return
            self.events = [json.loads(self.file.readline())]

    def wait_gone(self, job):
        """Until a job that dismisses itself is no more."""
        self.wait_event('JOB_STATUS_CHANGE', id=job, status='null')

    def has(self, command):
        return any(c['name'] == command
                   for c in self.qmp('query-commands'))

    def stop(self):
        self.qmp('quit')
        self.process.wait(timeout=60)
        self.sock.close()


def load(ours, server, export, kind, depth, block_bytes, seconds):
    """Requests per second of bench/nbd-load; median, p99 and longest of what
    they took in microseconds."""
    tool = os.path.join(os.path.dirname(ours), '..', 'bench', 'nbd-load')
    done = subprocess.run([tool, server.nbd_path, export, kind, str(depth),
                           str(block_bytes), str(seconds)], check=True,
                          stdout=subprocess.PIPE, text=True)
    return tuple(float(word) for word in done.stdout.split())


def random_file(path, size):
    """SIZE bytes that do not compress, none of them a hole."""
    with open(path, 'wb') as f:
        for _ in range(size >> 20):
            f.write(os.urandom(1 << 20))


def report(name, ours, theirs, unit, higher_is_better=True):
    """Print medians and the median of the ratios pair by pair."""
    ratios = [a / b if higher_is_better else b / a
              for a, b in zip(ours, theirs)]
    ratio = statistics.median(ratios)
    print(f'{name:44} {statistics.median(ours):12.1f} '
          f'{statistics.median(theirs):12.1f} {unit:8} '
          f'{ratio:6.2f}  ({min(ratios):.2f} .. {max(ratios):.2f})',
          flush=True)
    return ratio
