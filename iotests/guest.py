# SPDX-License-Identifier: MIT
"""A guest: writes to its disk over NBD and knows what the disk holds.

`model` is a flat copy of the disk.  Only this guest writes, and it has one
request in flight at a time, so after each acknowledged request disk and
model are equal, and the states the disk has gone through form one sequence.
"""

import random
import threading
import time

from .images import same_bytes
from .nbd import NbdClient, NbdError


class Guest:
    """A guest on one export.

    write(), zero(), trim() and read() work by hand; start() lets a thread
    do random ones until stop().  pause()/resume() hold it between two
    requests; freeze() is a copy of the model at such a point.
    """

    def __init__(self, path, export, seed=1, trims=False, unit=512,
                 max_bytes=128 << 10):
        self.nbd = NbdClient.connect(path, export)
        self.size = self.nbd.size
        self.random = random.Random(seed)
        self.trims = trims
        self.unit = unit
        self.max_bytes = max_bytes
        self.model = bytearray(self.read_all())
        self.n_writes = 0
        self.journal = None         # [(n, offset, bytes)] while recorded
        self.in_flight = None       # (offset, length) being written
        self.error = None
        self._lock = threading.Lock()   # one request, and the model with it
        self._stop = threading.Event()
        self._thread = None

    # By hand

    def write(self, offset, data, flags=0):
        with self._lock:
            self.in_flight = (offset, len(data))
            self.nbd.write(offset, data, flags)
            self._done(offset, data)

    def fill(self, offset, length, value):
        """Write `length` bytes of `value`."""
        for at in range(offset, offset + length, 1 << 20):
            n_bytes = min(1 << 20, offset + length - at)
            self.write(at, bytes([value]) * n_bytes)

    def zero(self, offset, length, flags=0):
        with self._lock:
            self.in_flight = (offset, length)
            self.nbd.write_zeroes(offset, length, flags)
            self._done(offset, bytes(length))

    def trim(self, offset, length):
        """What was trimmed may read as before or as zero; learn it."""
        with self._lock:
            self.in_flight = (offset, length)
            self.nbd.trim(offset, length)
            now = self.nbd.read(offset, length)
            old = self.model[offset:offset + length]
            assert all(n in (0, o) for n, o in zip(now, old)), \
                f'trimmed {offset}+{length} reads as something new'
            self._done(offset, now)

    def _done(self, offset, data):
        self.model[offset:offset + len(data)] = data
        self.n_writes += 1
        self.in_flight = None
        if self.journal is not None:
            self.journal.append((self.n_writes, offset, bytes(data)))

    def flush(self):
        with self._lock:
            self.nbd.flush()

    def read_all(self):
        parts = []
        for at in range(0, self.size, 8 << 20):
            parts.append(self.nbd.read(at, min(8 << 20, self.size - at)))
        return b''.join(parts)

    def verify(self):
        """The disk reads as the model."""
        with self._lock:
            same_bytes(self.read_all(), bytes(self.model), 'guest disk')

    # At random

    def random_write(self):
        """One random request: mostly writes, some zeroes, some trims."""
        rnd = self.random
        n_units = self.size // self.unit
        most = min(self.max_bytes // self.unit, n_units)
        length = rnd.choice((1, rnd.randint(1, 16), rnd.randint(1, most)))
        length = min(length, n_units)
        offset = rnd.randrange(n_units - length + 1) * self.unit
        if rnd.random() < 0.3:              # a hot corner, for overlaps
            offset %= max(self.unit, (self.size // 16) // self.unit
                          * self.unit)
        length *= self.unit
        length = min(length, self.size - offset)
        kind = rnd.random()
        if kind < 0.75:
            pattern = rnd.randbytes(16)
            self.write(offset, pattern * (length // 16) +
                       pattern[:length % 16])
        elif kind < 0.9 or not self.trims:
            self.zero(offset, length, rnd.choice((0, 2)))
        else:
            self.trim(offset, length)

    def random_writes(self, n_writes):
        for _ in range(n_writes):
            self.random_write()

    def start(self):
        assert self._thread is None
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self):
        try:
            while not self._stop.is_set():
                self.random_write()
        except (OSError, NbdError, AssertionError) as exc:
            self.error = exc

    def stop(self):
        """End the thread; raises what went wrong in it."""
        if self._thread:
            self._stop.set()
            self._thread.join(30)
            assert not self._thread.is_alive(), 'the guest hangs'
            self._thread = None
        if self.error:
            error, self.error = self.error, None
            raise error

    def wait_writes(self, n_writes, timeout=30):
        """Let the running guest make n_writes more requests."""
        deadline = time.monotonic() + timeout
        wanted = self.n_writes + n_writes
        while self.n_writes < wanted:
            if self.error:
                raise self.error
            assert time.monotonic() < deadline, 'the guest makes no progress'
            time.sleep(0.002)

    def wait_broken(self):
        """The connection is to end; wait until the guest has noticed."""
        self._thread.join(30)
        assert not self._thread.is_alive(), 'the guest notices nothing'
        self._thread = None
        assert isinstance(self.error, (OSError, NbdError)), self.error
        self.error = None

    def pause(self):
        self._lock.acquire()

    def resume(self):
        self._lock.release()

    def freeze(self):
        """A copy of the model; call while paused or with no thread."""
        return bytes(self.model)

    # Point in time, seen from outside

    def record(self, flush=False):
        """Start a journal; returns the state it starts from, which `flush`
        makes stable."""
        with self._lock:
            if flush:
                self.nbd.flush()
            self.journal = []
            return bytes(self.model), self.n_writes

    def state_at(self, start, n_writes):
        """The disk after request number n_writes, from record()'s pair."""
        state = bytearray(start[0])
        for number, offset, data in self.journal:
            if number > n_writes:
                break
            state[offset:offset + len(data)] = data
        return bytes(state)

    def check_after_crash(self, start, content):
        """`content` is a disk that a crash may leave: all that was there
        at record(), which returned `start`, and each later write either
        in full, in part, or not at all."""
        state = start[0]
        allowed = {}
        for _, offset, data in self.journal:
            for at in range(offset // 512 * 512, offset + len(data), 512):
                allowed.setdefault(at, []).append((offset, data))
        free = set()
        if self.in_flight:
            offset, length = self.in_flight
            free = set(range(offset // 512 * 512, offset + length, 512))
        assert len(content) == len(state)
        for at in range(0, len(content), 512):
            got = content[at:at + 512]
            if got == state[at:at + 512] or at in free:
                continue
            assert any(data[at - offset:at - offset + 512] == got
                       for offset, data in allowed.get(at, [])), \
                f'sector at {at:#x} has what was never written there'

    def close(self):
        if self.nbd:
            try:
                self.stop()
            finally:
                self.nbd.disconnect()
                self.nbd = None
