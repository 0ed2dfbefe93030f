# SPDX-License-Identifier: MIT
"""A small QMP client for tests.

It is strict where a lenient client would hide a fault of the server: every
line must end in CR LF, hold one JSON object and be one of greeting, reply
or event; a reply must echo the id of the oldest command in flight.  It never
waits without a limit.  All that passes is kept in `log` for the report of a
failing test, and in `received` in the order of arrival.
"""

import collections
import json
import os
import select
import socket
import time

# Sanitizers slow the server down; the suite's limits stretch with this.
SCALE = float(os.environ.get('IOTESTS_TIME_SCALE', '1'))
TIMEOUT = 15.0 * SCALE


class QmpError(Exception):
    """An error reply: class and text of the server."""

    def __init__(self, reply):
        error = reply['error']
        super().__init__(f"{error['class']}: {error['desc']}")
        self.cls = error['class']
        self.desc = error['desc']
        self.data = error.get('data', {})
        self.reply = reply


class QmpTimeout(AssertionError):
    """The server did not say in time what the test waits for."""


class QmpClosed(ConnectionError):
    """The server closed the connection."""


class ProtocolError(AssertionError):
    """The server broke the rules of the wire."""


def matches(wanted, got):
    """True if `got` has all that `wanted` names (dicts are compared by
    the members named, everything else must be equal)."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(key in got and matches(value, got[key])
                   for key, value in wanted.items())
    return wanted == got


def _dashes(kwargs):
    """Python names to QMP names; a trailing underscore is dropped."""
    return {key.rstrip('_').replace('_', '-'): value
            for key, value in kwargs.items()}


class Monitor:
    """One connection to a QMP monitor.

    read_fd and write_fd may be the same.  `schema`, when set, checks every
    reply and event against what the server says of itself.
    """

    def __init__(self, read_fd, write_fd, keep=None, log=None, name='mon'):
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._keep = keep           # socket or pipe objects that own the fds
        self._buffer = b''
        self._pending = collections.deque()     # messages not yet looked at
        self._events = collections.deque()      # events nobody waited for
        self._n_sent = 0
        self.name = name
        self.log = log if log is not None else []
        self.received = []
        self.greeting = None
        self.schema = None
        self.may_greet_twice = False    # QEMU 7.2, to a client in a hurry
        self.closed = False
        self.capabilities = set()       # what the client has switched on
        os.set_blocking(write_fd, False)

    # Connecting

    @classmethod
    def connect_unix(cls, path, timeout=TIMEOUT, **kwargs):
        """Connect; waits until somebody listens on `path`."""
        return cls._connect(socket.AF_UNIX, path, timeout, **kwargs)

    @classmethod
    def connect_tcp(cls, host, port, timeout=TIMEOUT, **kwargs):
        return cls._connect(socket.AF_INET, (host, port), timeout, **kwargs)

    @classmethod
    def _connect(cls, family, address, timeout, **kwargs):
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(address)
                return cls.from_socket(sock, **kwargs)
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    @classmethod
    def from_socket(cls, sock, **kwargs):
        sock.setblocking(False)
        return cls(sock.fileno(), sock.fileno(), keep=(sock,), **kwargs)

    @classmethod
    def from_pipes(cls, reader, writer, **kwargs):
        """reader: the server's stdout; writer: its stdin."""
        return cls(reader.fileno(), writer.fileno(), keep=(reader, writer),
                   **kwargs)

    def close(self):
        self.closed = True
        for thing in self._keep or ():
            thing.close()
        self._keep = ()

    # Bytes

    def send_raw(self, data, timeout=TIMEOUT):
        """Write bytes as they are.  Raises QmpClosed if the server has
        hung up, QmpTimeout if it takes nothing for `timeout` seconds."""
        if isinstance(data, str):
            data = data.encode()
        shown = data if len(data) <= 2000 else data[:200] + b'...'
        self.log.append(f'{self.name} >> {shown!r}')
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [self._write_fd], [], timeout)
            if not ready:
                raise QmpTimeout(f'the server reads nothing for {timeout} s')
            try:
                view = view[os.write(self._write_fd, view):]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise QmpClosed(str(exc)) from exc

    def hang_up_sending(self):
        """Close our direction only."""
        self._keep[0].shutdown(socket.SHUT_WR)

    def _read_line(self, timeout):
        deadline = time.monotonic() + timeout
        while b'\n' not in self._buffer:
            left = max(0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read_fd], [], [], left)
            if not ready:
                raise QmpTimeout(f'no message for {timeout} s; '
                                 f'half read: {self._buffer[:200]!r}')
            try:
                data = os.read(self._read_fd, 1 << 16)
            except BlockingIOError:
                continue
            except ConnectionResetError as exc:
                raise QmpClosed(str(exc)) from exc
            if not data:
                if self._buffer:
                    raise ProtocolError(
                        f'closed in mid line: {self._buffer[:200]!r}')
                raise QmpClosed('end of file')
            self._buffer += data
        line, self._buffer = self._buffer.split(b'\n', 1)
        return line

    def _read_message(self, timeout):
        line = self._read_line(timeout)
        self.log.append(f'{self.name} << {line.decode(errors="replace")}')
        if not line.endswith(b'\r'):
            raise ProtocolError(f'line does not end in CR LF: {line!r}')
        try:
            message = json.loads(line)
        except ValueError as exc:
            raise ProtocolError(f'not JSON: {line!r}') from exc
        if not isinstance(message, dict):
            raise ProtocolError(f'not an object: {line!r}')
        self._check_shape(message)
        if 'QMP' in message and self.greeting and self.may_greet_twice:
            return self._read_message(timeout)
        self.received.append(message)
        return message

    def _check_shape(self, message):
        """Only what QEMU has, unless more was asked for."""
        keys = set(message)
        if 'event' in keys:
            allowed = {'timestamp', 'event', 'data'}
            if 'event-sequence' in self.capabilities:
                allowed.add('sequence')
            if ('error-data' in message.get('data', {}) and
                    'error-data' not in self.capabilities):
                raise ProtocolError(f'nobody asked for data: {message}')
            if set(message['timestamp']) != {'seconds', 'microseconds'}:
                raise ProtocolError(f'odd timestamp: {message}')
        elif 'return' in keys:
            allowed = {'return', 'id'}
        elif 'error' in keys:
            allowed = {'error', 'id'}
            extra = {'data'} if 'error-data' in self.capabilities else set()
            if set(message['error']) - extra != {'class', 'desc'}:
                raise ProtocolError(f'odd error: {message}')
        elif 'QMP' in keys:
            allowed = {'QMP'}
        else:
            raise ProtocolError(f'neither reply nor event: {message}')
        if keys - allowed:
            raise ProtocolError(f'stray members in {message}')

    # Messages

    def next_message(self, timeout=TIMEOUT):
        """The next message of any kind, oldest first."""
        if self._pending:
            return self._pending.popleft()
        return self._read_message(timeout)

    def next_reply(self, timeout=TIMEOUT):
        """The next reply; events before it are kept for wait_event()."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next_message(max(0, deadline - time.monotonic()))
            if 'event' not in message:
                return message
            self._keep_event(message)

    def _keep_event(self, message):
        if self.schema:
            self.schema.check_event(message)
        self._events.append(message)

    def negotiate(self, **arguments):
        """Read the greeting and leave negotiation mode."""
        self.read_greeting()
        return self.enter(**arguments)

    def enter(self, **arguments):
        """Leave negotiation mode, with the capabilities in `enable`."""
        self.capabilities = set(arguments.get('enable', ()))
        arguments = _dashes(arguments)
        return self.execute('qmp_capabilities', arguments or None)

    def read_greeting(self):
        self.greeting = self.next_message()
        if 'QMP' not in self.greeting:
            raise ProtocolError(f'no greeting: {self.greeting}')
        return self.greeting

    def send(self, command, arguments=None, **kwargs):
        """Send a command and return its id; read the reply later."""
        arguments = dict(arguments or {}, **_dashes(kwargs))
        self._n_sent += 1
        ident = f'{self.name}-{self._n_sent}'
        message = {'execute': command, 'id': ident}
        if arguments:
            message['arguments'] = arguments
        self.send_raw(json.dumps(message) + '\n')
        return ident

    def reply_to(self, ident, command=None, timeout=TIMEOUT):
        """The result of the command sent as `ident`; raises QmpError."""
        reply = self.next_reply(timeout)
        if reply.get('id') != ident:
            raise ProtocolError(f'reply to {ident} expected, got {reply}')
        if 'error' in reply:
            raise QmpError(reply)
        if self.schema and command:
            self.schema.check_return(command, reply['return'])
        return reply['return']

    def execute(self, command, arguments=None, timeout=TIMEOUT, **kwargs):
        """Run a command; its result, or QmpError.

        execute('job-cancel', id='j') and execute('x', {'a-b': 1}) are the
        two forms; in the first _ stands for - and a last _ is dropped.
        """
        ident = self.send(command, arguments, **kwargs)
        return self.reply_to(ident, command, timeout)

    def fails(self, command, arguments=None, desc=None,
              cls='GenericError', **kwargs):
        """Run a command that must fail; desc is the text, or a list of
        the texts allowed.  Returns the text."""
        try:
            result = self.execute(command, arguments, **kwargs)
        except QmpError as exc:
            if isinstance(desc, str):
                desc = [desc]
            assert exc.cls == cls, exc
            assert desc is None or exc.desc in desc, \
                f'{exc.desc!r} is not {desc!r}'
            return exc.desc
        raise AssertionError(f'{command} succeeded with {result}')

    # Events

    def wait_event(self, name, match=None, timeout=TIMEOUT):
        """The oldest event `name` (or one of a list of names) not yet
        taken whose data has what `match` names."""
        names = [name] if isinstance(name, str) else name
        return self.wait_for(
            lambda event: event['event'] in names and
            matches(match or {}, event.get('data', {})),
            f'{name} {match or ""}', timeout)

    def wait_for(self, wanted, what, timeout=TIMEOUT):
        """The oldest event not yet taken for which wanted(event) holds."""
        deadline = time.monotonic() + timeout
        for event in self._events:
            if wanted(event):
                self._events.remove(event)
                return event
        while True:
            left = deadline - time.monotonic()
            try:
                event = self.next_message(max(0, left))
            except QmpTimeout:
                raise QmpTimeout(f'no event {what} in {timeout} s') from None
            if 'event' not in event:
                raise ProtocolError(f'reply that nobody asked for: {event}')
            if self.schema:
                self.schema.check_event(event)
            if wanted(event):
                return event
            self._events.append(event)

    def pump(self, timeout=0.0):
        """Take in what has arrived; returns the events nobody took."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                left = max(0, deadline - time.monotonic())
                message = self._read_message(left)
            except (QmpTimeout, QmpClosed):
                return list(self._events)
            if 'event' in message:
                self._keep_event(message)
            else:
                self._pending.append(message)

    def drop_events(self):
        """Forget the events that have arrived and nobody took."""
        self.pump()
        self._events.clear()

    def wait_closed(self, timeout=TIMEOUT):
        """Wait for end of file; returns the messages before it."""
        before = []
        while True:
            try:
                message = self.next_message(timeout)
            except QmpClosed:
                return before
            before.append(message)
            if 'event' in message:
                self._keep_event(message)
