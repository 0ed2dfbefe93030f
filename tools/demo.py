#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make demo: a disk in use is backed up, snapshot, committed and moved.

A real ext4 file system with real files lies in a qcow2 image.  blockjobd
opens it; a client writes to it over NBD all the while.  The client keeps a
plain copy of the disk and freezes it at the two moments at which the backups
start.  Then the disk gets a snapshot that is committed back, and is moved to
another image.  In the end each restored backup must equal its frozen copy, bit
for bit, and hold a clean file system, and the moved disk all that was written.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import nbd

DISK_BYTES = 512 << 20
LOG_BYTES = 96 << 20            # the file that the client keeps writing to
BLOCK = 4096


class Demo:
    def __init__(self, server, ctl, folder):
        self.server = server
        self.ctl = ctl
        self.folder = folder
        self.process = None
        self.step_no = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def step(self, text):
        self.step_no += 1
        print(f'\n[{self.step_no}] {text}', flush=True)

    def run(self, *words):
        """Run a tool; its output only matters when it fails."""
        done = subprocess.run(words, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(f'{" ".join(words)}\n{done.stdout}')
        return done.stdout

    def qmp(self, command, **arguments):
        words = [self.ctl, '-s', self.path('qmp.sock'), '-j', command]
        if arguments:
            words.append(json.dumps({k.replace('_', '-'): v
                                     for k, v in arguments.items()}))
        return json.loads(self.run(*words))

    def watch(self, job):
        """Live progress, on this terminal."""
        code = subprocess.call([self.ctl, '-s', self.path('qmp.sock'),
                                'watch', job])
        if code:
            raise SystemExit(f'job {job} failed')
        self.qmp('job-dismiss', id=job)

    def watch_until_ready(self, job):
        """Its progress in lines, then complete it and follow it."""
        while True:
            info = next(j for j in self.qmp('query-block-jobs')
                        if j['device'] == job)
            print(f'    {info["status"]}: {info["offset"] >> 20} of '
                  f'{info["len"] >> 20} MiB', flush=True)
            if info['ready'] or info['status'] == 'concluded':
                break
            time.sleep(0.5)
        self.qmp('job-complete', id=job)
        self.watch(job)

    # -- the parts ---------------------------------------------------------

    def make_disk(self):
        tree = self.path('files')
        os.makedirs(tree)
        count = 0
        for top in ('/usr/include', '/usr/share/doc'):
            for base, dirs, files in os.walk(top):
                dirs.sort()
                for name in sorted(files):
                    source = os.path.join(base, name)
                    if count >= 3000 or os.path.islink(source):
                        continue
                    target = tree + source
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copyfile(source, target)
                    count += 1
        with open(os.path.join(tree, 'log.bin'), 'wb') as f:
            for _ in range(LOG_BYTES >> 20):
                f.write(os.urandom(1 << 20))
        self.run('mke2fs', '-q', '-t', 'ext4', '-d', tree, '-F',
                 self.path('model.raw'), f'{DISK_BYTES >> 10}k')
        self.run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                 self.path('model.raw'), self.path('disk.qcow2'))
        size = os.path.getsize(self.path('disk.qcow2'))
        print(f'    {count} files and log.bin ({LOG_BYTES >> 20} MiB) in '
              f'ext4, {size >> 20} MiB of qcow2')

    def log_blocks(self):
        """Offsets of log.bin's data: writing there keeps ext4 consistent."""
        out = self.run('debugfs', '-R', 'blocks /log.bin',
                       self.path('model.raw'))
        numbers = [int(w) for w in re.findall(r'\b\d+\b',
                                              out.split('\n', 1)[-1] or out)]
        size = int(re.search(r'Block size:\s*(\d+)', self.run(
            'dumpe2fs', '-h', self.path('model.raw'))).group(1))
        return [n * size for n in numbers], size

    def start_server(self):
        self.process = subprocess.Popen([
            self.server,
            '--chardev', f'socket,id=c,path={self.path("qmp.sock")},'
                         'server=on,wait=off',
            '--monitor', 'chardev=c',
            '--nbd-server', f'addr.type=unix,addr.path={self.path("nbd.sock")}',
            '--pidfile', self.path('pid')])
        for _ in range(500):
            if os.path.exists(self.path('pid')):
                return
            time.sleep(0.01)
        raise SystemExit('the server did not start')

    def add_target(self, name, backing, empty=False):
        """An empty qcow2, made and opened by the server; `empty`: opened
        without its backing file, which blockdev-snapshot attaches."""
        file = f'{name}-file'
        open(self.path(f'{name}.qcow2'), 'wb').close()
        self.qmp('blockdev-add', driver='file', node_name=file,
                 filename=self.path(f'{name}.qcow2'))
        options = {'driver': 'qcow2', 'file': file, 'size': DISK_BYTES}
        if backing:
            options.update({'backing-file': self.path(f'{backing}.qcow2'),
                            'backing-fmt': 'qcow2'})
        self.qmp('blockdev-create', job_id=f'create-{name}', options=options)
        while True:
            job = next(j for j in self.qmp('query-jobs')
                       if j['id'] == f'create-{name}')
            if job['status'] == 'concluded':
                break
            time.sleep(0.02)
        if 'error' in job:
            raise SystemExit(job['error'])
        self.qmp('job-dismiss', id=f'create-{name}')
        self.qmp('blockdev-add', driver='qcow2', node_name=name, file=file,
                 backing=None if empty else backing)

    def stop_server(self):
        self.qmp('quit')
        if self.process.wait(timeout=30):
            raise SystemExit(f'the server exited with '
                             f'{self.process.returncode}')
        self.process = None

    def kill_server(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def as_qemu(self, image, *lines):
        """Start the server in qemu-system-x86_64's place and type LINES at
        its monitor."""
        link = self.path('qemu-system-x86_64')
        os.symlink(self.server, link)
        done = subprocess.run(
            [link, '-nodefaults', '-drive',
             f'if=virtio,id=vda,file={image},format=qcow2',
             '-monitor', 'stdio'],
            input='\n'.join(lines + ('quit', '')), capture_output=True,
            text=True, timeout=60, check=True)
        for line in done.stdout.splitlines()[1:]:
            shown = line.rsplit('\x1b[D', 1)[-1].replace('\x1b[K', '')
            if line.startswith('(qemu)'):
                shown = f'(qemu) {shown}'
            print(f'    {shown.replace(self.folder + "/", "")}')

    def prove(self, backup, frozen):
        image = self.path(f'{backup}.qcow2')
        self.run('qemu-img', 'check', image)
        self.run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', frozen,
                 image)
        restored = self.path('restored.raw')
        self.run('qemu-img', 'convert', '-O', 'raw', image, restored)
        self.run('e2fsck', '-f', '-n', restored)
        out = self.path('out.bin')
        self.run('debugfs', '-R', f'dump /log.bin {out}', restored)
        digest = hashlib.sha256(open(out, 'rb').read()).hexdigest()[:16]
        os.unlink(restored)
        print(f'    {backup}: equals the disk at its start, bit for bit; '
              f'qemu-img check clean; e2fsck clean; log.bin {digest}')


class Guest(threading.Thread):
    """A client that writes to log.bin over NBD, and to its own copy."""

    def __init__(self, uri, model, blocks, block_size):
        super().__init__(daemon=True)
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.model = open(model, 'r+b', buffering=0)
        self.blocks = blocks
        self.block_size = block_size
        self.frozen = threading.Lock()  # held: no write is under way
        self.stopping = False
        self.writes = 0
        self.failure = None

    def run(self):
        chance = random.Random(2026)
        try:
            while not self.stopping:
                with self.frozen:
                    at = chance.choice(self.blocks)
                    data = chance.randbytes(self.block_size)
                    self.handle.pwrite(data, at)
                    self.model.seek(at)
                    self.model.write(data)
                    self.writes += 1
                time.sleep(0.0005)
        except Exception as error:      # shown by stop()
            self.failure = error

    def stop(self):
        self.stopping = True
        self.join()
        if self.failure:
            raise SystemExit(f'the client failed: {self.failure}')
        self.handle.flush()
        self.handle.shutdown()


def demonstrate(demo):
    model = demo.path('model.raw')

    demo.step('Make a disk: a real ext4 file system in a qcow2 image')
    demo.make_disk()
    blocks, block_size = demo.log_blocks()

    demo.step('Start blockjobd, open the image, export it over NBD')
    demo.start_server()
    demo.qmp('blockdev-add', driver='qcow2', node_name='disk',
             file={'driver': 'file', 'filename': demo.path('disk.qcow2')})
    demo.qmp('block-export-add', id='e0', type='nbd', node_name='disk',
             writable=True)

    demo.step('A client writes to log.bin over NBD, from now to the end')
    guest = Guest(f'nbd+unix:///disk?socket={demo.path("nbd.sock")}', model,
                  blocks, block_size)
    guest.start()
    time.sleep(0.5)

    demo.step('Full backup; a dirty bitmap starts at the same instant')
    demo.add_target('full', None)
    with guest.frozen:
        before = guest.writes
        demo.qmp('transaction', actions=[
            {'type': 'block-dirty-bitmap-add',
             'data': {'node': 'disk', 'name': 'since-full',
                      'persistent': True}},
            {'type': 'blockdev-backup',
             'data': {'job-id': 'full-backup', 'device': 'disk',
                      'target': 'full', 'sync': 'full',
                      'speed': 64 << 20, 'auto-dismiss': False}}])
        shutil.copyfile(model, demo.path('frozen-full.raw'))
    demo.watch('full-backup')
    print(f'    {guest.writes - before} writes came in while it ran')

    demo.step('The client goes on for two seconds')
    time.sleep(2)
    node = next(n for n in demo.qmp('query-named-block-nodes')
                if n['node-name'] == 'disk')
    bitmap = node['dirty-bitmaps'][0]
    print(f'    bitmap {bitmap["name"]}: {bitmap["count"] >> 10} KiB dirty')

    demo.step('Incremental backup: only what changed, on top of the full one')
    demo.add_target('increment', 'full')
    with guest.frozen:
        demo.qmp('blockdev-backup', job_id='increment-backup', device='disk',
                 target='increment', sync='incremental', bitmap='since-full',
                 speed=32 << 20, auto_dismiss=False)
        shutil.copyfile(model, demo.path('frozen-increment.raw'))
    demo.watch('increment-backup')

    demo.step('Snapshot: from now on the client writes to an overlay')
    demo.add_target('overlay', 'disk', empty=True)
    demo.qmp('blockdev-snapshot', node='disk', overlay='overlay')
    time.sleep(2)

    demo.step('Commit the overlay back into the disk; the client writes on')
    demo.qmp('block-commit', job_id='commit', device='overlay',
             auto_dismiss=False)
    demo.watch_until_ready('commit')
    demo.qmp('blockdev-del', node_name='overlay')

    demo.step('Move the disk to another image: mirror it, then switch over')
    demo.add_target('moved', None)
    demo.qmp('blockdev-mirror', job_id='move', device='disk', target='moved',
             sync='full', speed=192 << 20, auto_dismiss=False)
    demo.watch_until_ready('move')
    time.sleep(1)

    demo.step('Stop the client, quit the server')
    guest.stop()
    print(f'    {guest.writes} writes in all')
    demo.stop_server()

    demo.step('Restore both and compare with the copies frozen at their start')
    demo.prove('full', demo.path('frozen-full.raw'))
    demo.prove('increment', demo.path('frozen-increment.raw'))
    demo.run('qemu-img', 'check', demo.path('moved.qcow2'))
    demo.run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', model,
             demo.path('moved.qcow2'))
    print('    moved.qcow2, where the disk is now, equals all that the client '
          'wrote')

    demo.step('The same disk in a machine, in qemu-system-x86_64\'s place')
    demo.as_qemu(demo.path('moved.qcow2'), 'info block',
                 'qemu-io vda "write -P 7 0 1k"', 'qemu-io vda "read -P 7 0 1k"')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--build', default='build', help='build folder')
    parser.add_argument('--server', help='another server binary')
    args = parser.parse_args()
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix='blockjobd-demo-') as folder:
        demo = Demo(os.path.abspath(args.server or
                                    f'{args.build}/server/blockjobd'),
                    os.path.abspath(f'{args.build}/tools/blockjobctl'),
                    folder)
        try:
            demonstrate(demo)
        finally:
            demo.kill_server()
    print(f'\nDone in {time.monotonic() - started:.0f} s; '
          'nothing is left behind.')


if __name__ == '__main__':
    main()
