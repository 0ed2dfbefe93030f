# SPDX-License-Identifier: MIT
"""An NBD client in plain Python, good for bad requests too.

Sources: the NBD protocol document.  It speaks fixed newstyle, structured
replies, extended headers and block status.  `request()` sends whatever it is told.
"""

import socket
import struct
import time

from .qmp import TIMEOUT

NBDMAGIC = 0x4e42444d41474943
IHAVEOPT = 0x49484156454f5054
REP_MAGIC = 0x3e889045565a9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
STRUCTURED_MAGIC = 0x668e33ef
EXT_REQUEST_MAGIC = 0x21e41c71
EXT_REPLY_MAGIC = 0x6e8a278c

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT = 9, 10
OPT_EXTENDED_HEADERS = 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR_UNSUP = 0x80000001
REP_ERR_POLICY = 0x80000002
REP_ERR_INVALID = 0x80000003
REP_ERR_UNKNOWN = 0x80000006
REP_ERR_TOO_BIG = 0x80000009

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM = 0, 1, 2, 3, 4
CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 5, 6, 7

FLAG_FUA, FLAG_NO_HOLE, FLAG_DF, FLAG_REQ_ONE, FLAG_FAST_ZERO = \
    1, 2, 4, 8, 16
FLAG_PAYLOAD_LEN = 32

TX_READ_ONLY, TX_FLUSH, TX_FUA, TX_TRIM, TX_ZEROES, TX_DF, TX_MULTI_CONN = \
    2, 4, 8, 32, 64, 128, 256

CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 0, 1, 2, 5
CHUNK_STATUS_EXT = 6
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 32769, 32770

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = \
    1, 5, 12, 22, 28, 75, 95, 108


class NbdError(Exception):
    """An error reply; errno is the NBD error value."""

    def __init__(self, errno, text=''):
        super().__init__(f'NBD error {errno} {text}')
        self.errno = errno
        self.text = text


class NbdOptionError(Exception):
    """An error reply to an option."""

    def __init__(self, code, text):
        super().__init__(f'NBD option error {code:#x}: {text}')
        self.code = code
        self.text = text


class NbdClosed(ConnectionError):
    """The server closed the connection."""


class NbdClient:
    """One connection.  connect() goes through to transmission; for the
    handshake by hand use open() and option()."""

    def __init__(self, path, timeout=TIMEOUT):
        self.path = path
        self.timeout = timeout
        self.sock = None
        self.size = None
        self.flags = None
        self.structured = False
        self.extended = False
        self.contexts = {}      # name to id
        self.block_sizes = None
        self._cookie = 0

    @classmethod
    def connect(cls, path, export='', structured=True,
                contexts=('base:allocation',), timeout=TIMEOUT,
                extended=False):
        client = cls(path, timeout)
        client.open()
        try:
            if extended:
                client.option(OPT_EXTENDED_HEADERS)
                client.extended = True
                client.set_contexts(export, contexts)
            elif structured:
                client.negotiate_structured()
                if contexts:
                    client.set_contexts(export, contexts)
            client.go(export)
        except BaseException:
            client.close()
            raise
        return client

    def close(self):
        if self.sock:
            self.sock.close()
            self.sock = None

    def disconnect(self):
        """Say good-bye, and wait until the server has closed."""
        if not self.sock:
            return
        try:
            self.request(CMD_DISC)
            while self.sock.recv(4096):
                pass
        except OSError:
            pass
        self.close()

    # Bytes

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise NbdClosed(str(exc)) from exc

    def recv(self, n_bytes):
        parts = []
        while n_bytes:
            try:
                part = self.sock.recv(min(n_bytes, 1 << 20))
            except ConnectionResetError as exc:
                raise NbdClosed(str(exc)) from exc
            if not part:
                raise NbdClosed('end of file')
            parts.append(part)
            n_bytes -= len(part)
        return b''.join(parts)

    def unpack(self, fmt):
        return struct.unpack(fmt, self.recv(struct.calcsize(fmt)))

    # Handshake

    def open(self, flags=3):
        """Connect and exchange flags (1 fixed newstyle, 2 no zeroes)."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
        magic, opt_magic, self.handshake_flags = self.unpack('>QQH')
        assert (magic, opt_magic) == (NBDMAGIC, IHAVEOPT)
        self.no_zeroes = bool(self.handshake_flags & flags & 2)
        self.send(struct.pack('>I', flags))

    def send_option(self, option, data=b'', length=None, magic=IHAVEOPT):
        self.send(struct.pack('>QII', magic, option,
                              len(data) if length is None else length) + data)

    def option_reply(self, option):
        magic, opt, kind, length = self.unpack('>QIII')
        assert (magic, opt) == (REP_MAGIC, option), (hex(magic), opt)
        return kind, self.recv(length)

    def option(self, option, data=b'', **kwargs):
        """Send an option; the replies before the ACK.  Raises
        NbdOptionError."""
        self.send_option(option, data, **kwargs)
        replies = []
        while True:
            kind, body = self.option_reply(option)
            if kind & 0x80000000:
                raise NbdOptionError(kind, body.decode(errors='replace'))
            if kind == REP_ACK:
                return replies
            replies.append((kind, body))

    def negotiate_structured(self):
        self.option(OPT_STRUCTURED_REPLY)
        self.structured = True

    def list(self):
        """The names of the exports."""
        names = []
        for _, body in self.option(OPT_LIST):
            length, = struct.unpack('>I', body[:4])
            names.append(body[4:4 + length].decode())
        return names

    @staticmethod
    def meta_request(export, queries):
        name = export.encode()
        data = struct.pack('>I', len(name)) + name
        data += struct.pack('>I', len(queries))
        for query in queries:
            data += struct.pack('>I', len(query)) + query.encode()
        return data

    def set_contexts(self, export, contexts):
        for _, body in self.option(OPT_SET_META_CONTEXT,
                                   self.meta_request(export, contexts)):
            ident, = struct.unpack('>I', body[:4])
            self.contexts[body[4:].decode()] = ident

    def go(self, export='', option=OPT_GO):
        name = export.encode()
        data = struct.pack('>I', len(name)) + name
        data += struct.pack('>HH', 1, 3)        # ask for the block sizes
        for _, body in self.option(option, data):
            kind, = struct.unpack('>H', body[:2])
            if kind == 0:
                self.size, self.flags = struct.unpack('>QH', body[2:])
            elif kind == 3:
                self.block_sizes = struct.unpack('>III', body[2:])

    def export_name(self, export=''):
        """The old way into transmission."""
        self.send_option(OPT_EXPORT_NAME, export.encode())
        self.size, self.flags = self.unpack('>QH')
        if not self.no_zeroes:
            self.recv(124)

    # Transmission

    def request(self, kind, offset=0, length=0, flags=0, data=b'',
                magic=REQUEST_MAGIC):
        """Send one request; returns its cookie."""
        self._cookie += 1
        if self.extended:
            if kind == CMD_WRITE:
                flags |= FLAG_PAYLOAD_LEN
            self.send(struct.pack('>IHHQQQ', EXT_REQUEST_MAGIC, flags, kind,
                                  self._cookie, offset, length) + data)
            return self._cookie
        self.send(struct.pack('>IHHQQI', magic, flags, kind, self._cookie,
                              offset, length) + data)
        return self._cookie

    def reply(self, length=0):
        """Read one whole reply: (cookie, error, payload).  A read of
        `length` bytes gives bytes, a block status {context: extents}."""
        magic, = self.unpack('>I')
        if self.extended:
            assert magic == EXT_REPLY_MAGIC, hex(magic)
            return self._structured_reply(length)
        if magic == SIMPLE_MAGIC:
            error, cookie = self.unpack('>IQ')
            data = self.recv(length) if length and not error else b''
            return cookie, (error, '') if error else None, data
        assert magic == STRUCTURED_MAGIC, hex(magic)
        return self._structured_reply(length)

    def _structured_reply(self, length):
        data = bytearray(length)
        error = None
        status = {}
        while True:
            if self.extended:
                flags, kind, cookie, at, size = self.unpack('>HHQQQ')
                assert at == self._read_offset, (at, self._read_offset)
            else:
                flags, kind, cookie, size = self.unpack('>HHQI')
            body = self.recv(size)
            if kind == CHUNK_DATA:
                at, = struct.unpack('>Q', body[:8])
                at -= self._read_offset
                data[at:at + size - 8] = body[8:]
            elif kind == CHUNK_HOLE:
                at, n_bytes = struct.unpack('>QI', body)
                at -= self._read_offset
                data[at:at + n_bytes] = bytes(n_bytes)
            elif kind == CHUNK_STATUS:
                ident, = struct.unpack('>I', body[:4])
                words = struct.unpack(f'>{(size - 4) // 4}I', body[4:])
                status[ident] = list(zip(words[::2], words[1::2]))
            elif kind == CHUNK_STATUS_EXT:
                ident, n = struct.unpack('>II', body[:8])
                words = struct.unpack(f'>{2 * n}Q', body[8:])
                status[ident] = list(zip(words[::2], words[1::2]))
            elif kind & 0x8000:
                code, n_text = struct.unpack('>IH', body[:6])
                error = (code, body[6:6 + n_text].decode())
            else:
                assert kind == CHUNK_NONE, kind
            if flags & 1:
                break
            magic, = self.unpack('>I')
            assert magic == (EXT_REPLY_MAGIC if self.extended
                             else STRUCTURED_MAGIC), hex(magic)
        return cookie, error, status or bytes(data)

    def call(self, kind, offset=0, length=0, flags=0, data=b'',
             read_length=0):
        self._read_offset = offset
        sent = self.request(kind, offset, length, flags, data)
        cookie, error, payload = self.reply(read_length)
        assert cookie == sent, f'reply to {cookie}, {sent} was asked'
        if error:
            raise NbdError(*error)
        return payload

    def read(self, offset, length, flags=0):
        return self.call(CMD_READ, offset, length, flags, read_length=length)

    def write(self, offset, data, flags=0):
        self.call(CMD_WRITE, offset, len(data), flags, data)

    def write_zeroes(self, offset, length, flags=0):
        self.call(CMD_WRITE_ZEROES, offset, length, flags)

    def trim(self, offset, length, flags=0):
        self.call(CMD_TRIM, offset, length, flags)

    def flush(self):
        self.call(CMD_FLUSH)

    def block_status(self, offset, length, flags=0,
                     context='base:allocation'):
        """[(length, flags)] from `offset` on."""
        status = self.call(CMD_BLOCK_STATUS, offset, length, flags)
        return status[self.contexts[context]]

    def whole_status(self, context='base:allocation'):
        """The status of the whole disk, neighbours of a kind joined, as
        [[offset, length, flags]]."""
        extents = []
        offset = 0
        while offset < self.size:
            length = min(self.size - offset, 1 << 30)
            for n_bytes, flags in self.block_status(offset, length,
                                                    context=context):
                if extents and extents[-1][2] == flags:
                    extents[-1][1] += n_bytes
                else:
                    extents.append([offset, n_bytes, flags])
                offset += n_bytes
        return extents

    def wait_closed(self, timeout=None):
        """True once the server has hung up; what it sent before that is
        thrown away."""
        deadline = time.monotonic() + (timeout or self.timeout)
        self.sock.settimeout(timeout or self.timeout)
        try:
            while time.monotonic() < deadline:
                if not self.sock.recv(65536):
                    return True
        except ConnectionResetError:
            return True
        except socket.timeout:
            pass
        return False
