# SPDX-License-Identifier: MIT
"""Real faults: a cluster that cannot be read, a disk that is full."""

import os
import subprocess

import pytest

from .qcow2 import OFLAG_COMPRESSED, Qcow2File

MIB = 1 << 20


class DamagedSource:
    """A qcow2 whose compressed cluster at `offset` cannot be read, until
    repair()."""

    def __init__(self, path, offset):
        self.path = path
        self.offset = offset
        image = Qcow2File(path)
        entry = image.u64(image.l2_entry_at(offset // 65536))
        assert entry & OFLAG_COMPRESSED
        # 64 KiB clusters: 54 bits of offset, 8 bits of sectors
        self._host = entry & ((1 << 54) - 1)
        self._image = image
        self._good = image.read(self._host, 32)
        image.write(self._host, b'\xff' * 32)

    def repair(self):
        self._image.write(self._host, self._good)


def damaged_source(images, name='damaged.qcow2', offset=MIB):
    """A 4 MiB image that reads 1 from 0 to 2 MiB, but for one cluster."""
    path = images.create(name, '4M')
    after = offset + 65536
    images.io(path, f'write -P 1 0 {offset}', f'write -c -P 1 {offset} 64k',
              f'write -P 1 {after} {2 * MIB - after}')
    return DamagedSource(path, offset)


class SmallDisk:
    """A file system of few bytes, and a filler that takes room away."""

    def __init__(self, directory, n_bytes):
        self.directory = directory
        done = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', f'size={n_bytes}', 'none',
             directory], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f'cannot mount a small tmpfs: {done.stderr.strip()}')

    def path(self, name):
        return os.path.join(self.directory, name)

    def fill(self):
        """Leave no byte free."""
        with open(self.path('filler'), 'ab', buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass

    def make_room(self):
        os.unlink(self.path('filler'))

    def remount(self, options):
        subprocess.run(['mount', '-o', f'remount,{options}', self.directory],
                       check=True)

    def unmount(self):
        subprocess.run(['umount', '--lazy', self.directory], check=True)
