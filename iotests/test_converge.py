# SPDX-License-Identifier: MIT
"""converge: a mirror that is given a deadline slows the guest until it can
follow, in steps, and lets go when it is ready."""

import threading
import time

import pytest

from .jobs import start_mirror
from .qmp import SCALE
from .test_guest_first import add_slow

MIB = 1 << 20
SIZE = 32 * MIB
RATE = 16 * MIB
BLOCK = 128 << 10

pytestmark = pytest.mark.ours('QEMU has no deadline for a mirror')


class Writer:
    """Writes block after block as fast as it may; knows what each took."""

    def __init__(self, guest):
        self.guest = guest
        self.taken = []         # (end, seconds)
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        block = 0
        try:
            while not self._stop.is_set():
                begin = time.monotonic()
                self.guest.write(block * BLOCK % SIZE,
                                 bytes([block % 250 + 1]) * BLOCK)
                end = time.monotonic()
                self.taken.append((end, end - begin))
                block += 1
        except Exception as exc:    # told by stop()
            self.error = exc

    def rate(self, begin, end):
        """Blocks per second between two times."""
        n_blocks = sum(1 for at, _ in list(self.taken) if begin <= at < end)
        return n_blocks / (end - begin)

    def stop(self):
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error


@pytest.fixture
def world(server, images, guest_on):
    """A guest on 'src', which is full, and a target 'dst' of 16 MiB/s."""
    path = images.create('src.raw', SIZE, fmt='raw')
    images.io(path, f'write -P 90 0 {SIZE}', fmt='raw')
    server.add_node('src', path, driver='raw')
    server.export('src')
    server.add_file('file', images.create('dst.raw', SIZE, fmt='raw'))
    add_slow(server, 'dst', 'file', RATE)
    return guest_on(server, 'src')


def end(job):
    job.cancel()
    job.wait('concluded')
    job.dismiss()


@pytest.mark.timeout(120)
def test_becomes_ready(server, world):
    """In time, more or less: the machine may be slow; and then the guest is as
    fast as before."""
    seconds = 8
    begin = time.monotonic()
    writer = Writer(world)
    job = start_mirror(server, 'src', 'dst', sync='full', converge=seconds)
    job.wait('BLOCK_JOB_READY', timeout=3 * seconds * SCALE)
    ready = time.monotonic()
    time.sleep(1)
    now = time.monotonic()
    writer.stop()
    first, last = writer.rate(begin, begin + 0.5), writer.rate(now - 0.5, now)
    slow = writer.rate(ready - 1, ready)
    assert slow < first / 2, (first, slow, last)
    assert last > 2 * slow, (first, slow, last)
    assert max(t for _, t in writer.taken) < 2 * SCALE
    end(job)


@pytest.mark.timeout(120)
def test_step_by_step(server, world):
    """No second has less than a tenth of what the one before had."""
    writer = Writer(world)
    begin = time.monotonic()
    job = start_mirror(server, 'src', 'dst', sync='full', converge=8)
    job.wait('BLOCK_JOB_READY', timeout=24 * SCALE)
    ready = time.monotonic()
    writer.stop()
    rates = [writer.rate(begin + s, begin + s + 0.5)
             for s in (i / 2 for i in range(int((ready - begin) * 2)))]
    for before, after in zip(rates, rates[1:]):
        assert after > before / 10, rates
    end(job)


def test_not_without_need(server, world):
    """A guest that writes little is left alone."""
    job = start_mirror(server, 'src', 'dst', sync='full', converge=20)
    taken = []
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        begin = time.monotonic()
        world.write(0, b'a' * 4096)
        taken.append(time.monotonic() - begin)
        time.sleep(0.02)
    taken.sort()
    assert taken[len(taken) // 2] < 0.05 * SCALE, taken
    job.wait('BLOCK_JOB_READY', timeout=20 * SCALE)
    end(job)


def test_never_without(server, world):
    """What the deadline is for: the same guest, no deadline, not ready."""
    writer = Writer(world)
    job = start_mirror(server, 'src', 'dst', sync='full')
    time.sleep(6)
    assert job.status() == 'running'
    writer.stop()
    job.wait('BLOCK_JOB_READY', timeout=20 * SCALE)
    end(job)
