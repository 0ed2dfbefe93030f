# SPDX-License-Identifier: MIT
"""Everything at once: QMP, HMP, qtest and NBD clients at one machine.

Drives, devices, media, exports, jobs, limits and nodes come and go at
random, and in half of the runs the server is told to quit in the middle.
Refusals are fine; a crash, a hang or something left behind is not.  And very
many drives, which take no more than very many times as long as one.
"""

import contextlib
import os
import random
import re
import socket
import threading
import time

import pytest

from .images import qemu_img
from .nbd import NbdClient, NbdError, NbdOptionError
from .qmp import Monitor, QmpError, SCALE, TIMEOUT

SECONDS = 8
N_QMP = 3
SIZE = 4 << 20
CHUNKS = (0, 65536, 1 << 20, SIZE - 65536)

DRIVES = ('drive0', 'drive1', 'drive2', 'extra')
DISKS = ('d0', 'd1', 'cd0', 'fd0', 'new')
NODES = ('n0', 'n1', 'n2')
UNDERSCORES = ('device_add', 'device_del', 'system_reset')
JOBS = DRIVES + ('j0', 'j1')
IO = ('read 0 64k', 'write -P 7 64k 64k', 'aio_read 0 128k',
      'aio_write -P 9 1M 64k', 'aio_write -z 2M 64k', 'aio_flush', 'flush',
      'discard 0 64k', 'map', 'alloc 0', 'truncate 4M', 'length', 'info',
      'reopen -r', 'reopen -w', 'break read_aio bp', 'resume bp',
      'remove_break bp', 'write -z -u 0 1M', 'sleep 3', 'aio_read -i 0 1',
      'read -P 1 -s 5 -l 7 0 512', 'writev 0 512 1k', 'reopen -c none',
      'reopen -o read-only=off', 'help read', 'nonsense')


class Maker:
    """What a client may ask for."""

    def __init__(self, rng, directory):
        self.rng = rng
        self.directory = directory

    def pick(self, names):
        return self.rng.choice(names)

    def any_of(self):
        return self.pick(self.pick((DRIVES, NODES, DRIVES)))

    def image(self):
        return os.path.join(self.directory, f'i{self.rng.randrange(4)}')

    def new_file(self):
        return os.path.join(self.directory, f't{self.rng.randrange(3)}')

    def qmp(self):
        """(command, arguments)"""
        makers = [name for name in dir(self) if name.startswith('_q_')]
        name = self.pick(makers)
        made = getattr(self, name)()
        if isinstance(made, tuple):
            return made
        if name[3:] in UNDERSCORES:
            return name[3:], made
        return name[3:].replace('_', '-'), made

    def _q_device_add(self):
        if self.rng.random() < 0.3:
            return {'driver': 'virtio-scsi-pci', 'id': 's0'}
        return {'driver': self.pick(('scsi-hd', 'virtio-blk', 'scsi-cd',
                                     'floppy', 'ide-cd')),
                'id': self.pick(DISKS), 'drive': self.any_of(),
                'share-rw': self.rng.random() < 0.6}

    def _q_device_del(self):
        return {'id': self.pick(DISKS + ('s0', ))}

    def _q_qom_set(self):
        name = self.pick(DISKS)
        return ('qom-set', {'path': f'/machine/peripheral/{name}',
                            'property': 'drive', 'value': self.any_of()})

    def _q_qom_get(self):
        name = self.pick(DISKS)
        return ('qom-get', {'path': f'/machine/peripheral/{name}',
                            'property': 'drive'})

    def _q_qom_list(self):
        return ('qom-list', {'path': self.pick((
            '/machine/peripheral', '/machine/unattached', '/objects',
            '/machine/peripheral/s0/virtio-backend'))})

    def _q_eject(self):
        return {'id': self.pick(DISKS), 'force': self.rng.random() < 0.5}

    def _q_blockdev_remove_medium(self):
        return {'id': self.pick(DISKS)}

    def _q_blockdev_insert_medium(self):
        return {'id': self.pick(DISKS), 'node-name': self.pick(NODES)}

    def _q_blockdev_open_tray(self):
        return {'id': self.pick(DISKS)}

    def _q_blockdev_change_medium(self):
        return {'id': self.pick(DISKS), 'filename': self.image(),
                'format': self.pick(('qcow2', 'raw')),
                'read-only-mode': self.pick(('retain', 'read-only'))}

    def _q_system_reset(self):
        return {}

    def _q_stop(self):
        return (self.pick(('stop', 'cont')), {})

    def _q_blockdev_set_active(self):
        args = {'active': self.rng.random() < 0.7}
        if self.rng.random() < 0.7:
            args['node-name'] = self.pick(NODES)
        return args

    def _q_block_set_io_throttle(self):
        bps = self.pick((0, 0, 1 << 20, 100 << 20))
        args = {'bps': bps, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0,
                'iops_rd': 0, 'iops_wr': 0, 'id': self.pick(DISKS)}
        if self.rng.random() < 0.5:
            args['group'] = self.pick('ab')
        return 'block_set_io_throttle', args

    def _q_query(self):
        return (self.pick((
            'query-block', 'query-blockstats', 'query-block-jobs',
            'query-named-block-nodes', 'query-block-exports',
            'query-jobs', 'query-status', 'query-iothreads',
            'x-debug-query-block-graph')), {})

    def _q_nbd_server_add(self):
        return {'device': self.any_of(), 'name': self.pick('xy'),
                'writable': self.rng.random() < 0.5}

    def _q_nbd_server_remove(self):
        return {'name': self.pick('xy'),
                'mode': self.pick(('safe', 'hard'))}

    def _q_blockdev_add(self):
        return {'node-name': self.pick(NODES), 'driver': 'qcow2',
                'file': {'driver': 'file', 'filename': self.image()}}

    def _q_blockdev_del(self):
        return {'node-name': self.pick(NODES)}

    def _q_blockdev_snapshot_sync(self):
        return {'device': self.pick(DRIVES),
                'snapshot-file': self.new_file(), 'format': 'qcow2'}

    def _q_snapshot_internal(self):
        return (f'blockdev-snapshot-{self.pick(("", "delete-"))}'
                'internal-sync', {'device': self.pick(DRIVES), 'name': 'one'})

    def _q_block_stream(self):
        return {'device': self.any_of(), **self._speed()}

    def _q_block_commit(self):
        return {'device': self.any_of(), **self._speed()}

    def _q_drive_backup(self):
        return {'device': self.any_of(), 'target': self.new_file(),
                'sync': self.pick(('full', 'top', 'none')), **self._speed()}

    def _q_drive_mirror(self):
        return {'device': self.any_of(), 'target': self.new_file(),
                'sync': self.pick(('full', 'top')), **self._speed()}

    def _q_blockdev_mirror(self):
        return {'device': self.any_of(), 'target': self.any_of(),
                'sync': 'full', 'job-id': self.pick(('j0', 'j1'))}

    def _speed(self):
        return {'speed': self.pick((0, 1 << 20))}

    def _q_job(self):
        verb = self.pick(('cancel', 'complete', 'pause', 'resume'))
        return f'block-job-{verb}', {'device': self.pick(JOBS)}

    _q_job_more = _q_job

    def _q_job_speed(self):
        return ('block-job-set-speed', {'device': self.pick(JOBS),
                                        'speed': 0})

    def _q_human_monitor_command(self):
        return {'command-line': self.hmp()}

    _q_human_more = _q_human_monitor_command

    def hmp(self):
        kind = self.rng.randrange(12)
        if kind < 5:
            return f'qemu-io {self.any_of()} "{self.pick(IO)}"'
        if kind == 5:
            return f'qemu-io -d {self.pick(DISKS)} "{self.pick(IO)}"'
        if kind == 6:
            return (f'drive_add 0 if=none,id={self.pick(DRIVES)},'
                    f'file={self.image()},format=qcow2'
                    + self.pick(('', ',snapshot=on', ',copy-on-read=on',
                                 ',throttling.bps-total=1000000')))
        if kind == 7:
            return f'drive_del {self.any_of()}'
        if kind == 8:
            return f'commit {self.pick(DRIVES + ("all", ))}'
        if kind == 9:
            return f'change cd0 {self.image()}'
        if kind == 10:
            return self.pick(('info block -n -v', 'info blockstats',
                              'info snapshots', 'info qtree', 'info block'))
        return self.pick((f'nbd_server_add {self.any_of()}',
                          f'snapshot_blkdev {self.pick(DRIVES)} '
                          f'{self.new_file()}',
                          'object_add throttle-group,id=a',
                          'object_del a', 'object_add iothread,id=t',
                          'object_del t', 'device_del ', '\x01\x7f\t\x1b[A'))


class Crowd:
    """The clients, each in a thread of its own until `until`."""

    def __init__(self, machine, seed, paths, may_end):
        self.machine = machine
        self.seed = seed
        self.qmp_path, self.hmp_path, self.nbd_path = paths
        self.may_end = may_end      # the server may go while they talk
        self.until = time.monotonic() + SECONDS
        self.wrong = []
        self.all_done = threading.Event()

    def maker(self, number):
        return Maker(random.Random(self.seed * 100 + number),
                     self.machine.directory)

    def goes_on(self):
        return time.monotonic() < self.until and not self.wrong

    def run(self):
        talkers = [threading.Thread(target=self.guarded, args=(what, i))
                   for i, what in enumerate([self.qmp] * N_QMP +
                                            [self.hmp, self.nbd])]
        clock = threading.Thread(target=self.guarded, args=(self.clock, 99))
        for thread in talkers + [clock]:
            thread.start()
        for thread in talkers:
            thread.join()
        self.all_done.set()
        clock.join()

    def guarded(self, what, number):
        try:
            what(self.maker(number))
        except ConnectionError as exc:
            if not self.may_end:
                self.wrong.append(exc)
        except Exception as exc:    # whatever it is, the test must see it
            self.wrong.append(exc)

    def qmp(self, maker):
        mon = Monitor.connect_unix(self.qmp_path, log=self.machine.log)
        with contextlib.closing(mon):
            mon.negotiate()
            while self.goes_on():
                with contextlib.suppress(QmpError):
                    mon.execute(*maker.qmp(), timeout=4 * TIMEOUT)
                mon.received.clear()

    def hmp(self, maker):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(4 * TIMEOUT)
            sock.connect(self.hmp_path)
            self.until_prompt(sock)
            while self.goes_on():
                line = maker.hmp()
                self.machine.log.append(f'hmp >> {line!r}')
                sock.sendall(line.encode() + b'\n')
                self.until_prompt(sock)

    @staticmethod
    def until_prompt(sock):
        said = b''
        while not said.endswith(b'(qemu) '):
            part = sock.recv(65536)
            if not part:
                raise ConnectionResetError('HMP')
            said = said[-10:] + part

    def nbd(self, maker):
        while self.goes_on():
            try:
                nbd = NbdClient.connect(self.nbd_path, maker.pick('xy'))
            except (NbdOptionError, ConnectionError, FileNotFoundError):
                time.sleep(0.02)    # no such export, as often as not
                continue
            with contextlib.closing(nbd):
                try:
                    self.transfer(nbd, maker)
                except (NbdError, OSError) as exc:
                    # Refused, hung up on, or held at a breakpoint.
                    self.machine.log.append(f'nbd: {exc!r}')

    @staticmethod
    def transfer(nbd, maker):
        for _ in range(maker.rng.randrange(1, 20)):
            offset = maker.pick(CHUNKS)
            what = maker.rng.randrange(4)
            if what == 0:
                nbd.read(offset, 65536)
            elif what == 1:
                nbd.write(offset, b'x' * 65536)
            elif what == 2:
                nbd.write_zeroes(offset, 65536)
            else:
                nbd.flush()

    def clock(self, maker):
        """What limits hold back waits for the steps."""
        while not self.all_done.wait(0.01):
            try:
                self.machine.qtest.clock_step(maker.pick((10**7, 10**9)))
            except (AssertionError, IndexError, OSError):
                if not self.may_end:
                    raise
                return


def make_machine(launch, directory):
    machine = launch(name='m')
    machine.directory = str(directory)
    base = machine.path('base')
    qemu_img('create', '-q', '-f', 'qcow2', base, str(SIZE))
    for i in range(4):
        qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2',
                 os.path.join(machine.directory, f'i{i}'))
    image = os.path.join(machine.directory, 'i0')
    machine.add_drive(image, interface='none')
    machine.add_drive_raw('if=none,id=drive1,driver=qcow2,file.driver='
                          'blkdebug,file.image.filename='
                          + os.path.join(machine.directory, 'i1'))
    machine.add_blockdev(f'null-co,node-name=n2,size={SIZE},read-zeroes=on')
    for text in ('virtio-scsi-pci,id=s0', 'virtio-blk,id=d0,drive=drive0',
                 'scsi-hd,id=d1,drive=drive1,bus=s0.0', 'ide-cd,id=cd0',
                 'floppy,id=fd0'):
        machine.add_device(text)
    return machine


@pytest.mark.ours('7.2 serves one client, and its clock stands still')
@pytest.mark.timeout(180)
def test_everything_at_once(launch, tmp_path, seed):
    machine = make_machine(launch, tmp_path)
    paths = [machine.path(f'{name}.sock') for name in ('q', 'h', 'n')]
    machine.add_args('-qmp', f'unix:{paths[0]},server=on,wait=off',
                     '-monitor', f'unix:{paths[1]},server=on,wait=off')
    machine.start()
    machine.mon.schema = None
    machine.qmp('nbd-server-start', addr={'type': 'unix',
                                          'data': {'path': paths[2]}})
    rng = random.Random(seed)
    quits = seed % 2 == 0
    crowd = Crowd(machine, seed, paths, quits)
    if not quits:
        crowd.run()
        assert crowd.wrong == []
        settle(machine)
        return
    runs = threading.Thread(target=crowd.run)
    runs.start()
    time.sleep(rng.uniform(0.2, SECONDS))
    machine.quit()
    runs.join()
    assert crowd.wrong == []


def settle(machine):
    """All jobs can be ended, exports removed and devices taken out."""
    machine.mon.pump()
    for job in machine.qmp('query-jobs'):
        with contextlib.suppress(QmpError):
            machine.qmp('block-job-cancel', device=job['id'], force=True)
    deadline = time.monotonic() + TIMEOUT
    while machine.qmp('query-jobs'):
        assert time.monotonic() < deadline, machine.qmp('query-jobs')
        machine.qtest.clock_step(10**9)
    machine.qmp('nbd-server-stop')
    assert machine.qmp('query-block-exports') == []
    for one in machine.qmp('qom-list', path='/machine/peripheral'):
        if re.match('child<', one['type']):
            with contextlib.suppress(QmpError):
                machine.qmp('device_del', id=one['name'])
    for disk in machine.qmp('query-block'):
        if disk['device']:
            machine.hmp(f'drive_del {disk["device"]}')


@pytest.mark.ours('a bound of time')
def test_two_thousand_drives(launch):
    machine = launch(name='m')
    for i in range(2000):
        machine.add_drive_raw(f'if=none,id=d{i},driver=null-co,size=1M,'
                              'read-zeroes=on')
    began = time.monotonic()
    machine.start()
    machine.mon.schema = None
    assert len(machine.qmp('query-block')) == 2000
    assert machine.hmp('drive_del d1999') == ''
    machine.quit()
    assert time.monotonic() - began < 4 * SCALE
