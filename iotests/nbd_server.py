# SPDX-License-Identifier: MIT
"""An NBD server in plain Python that can misbehave in many ways.

It holds one export (any name) of `size` bytes in memory.  `behave(kind,
offset, length)` is asked before each reply and says what becomes of it.
"""

import os
import socket
import struct
import threading

from .nbd import (CHUNK_DATA, CHUNK_ERROR, CHUNK_STATUS, CMD_BLOCK_STATUS, CMD_DISC,
                  CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, IHAVEOPT, NBDMAGIC,
                  OPT_ABORT, OPT_GO, OPT_SET_META_CONTEXT,
                  OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_UNSUP, REP_INFO,
                  REP_MAGIC, REP_META_CONTEXT, REQUEST_MAGIC, SIMPLE_MAGIC,
                  STRUCTURED_MAGIC)

FLAGS = 1 | 4 | 8 | 32 | 64 | 128       # flush fua trim zeroes df


class FakeServer:
    """Listens at a unix path, a thread for each client."""

    def __init__(self, path, size=1 << 20, flags=FLAGS, structured=True):
        self.path = path
        self.size = size
        self.flags = flags
        self.structured = structured
        self.disk = bytearray(size)
        self.sizes = None               # (minimum, preferred, maximum)
        self.extents = None             # of base:allocation, or a function
        self.behave = lambda kind, offset, length: 'ok'
        self.greet = 'ok'               # or 'hang', 'drop', 'garbage'
        self.requests = []              # (kind, offset, length, flags)
        self.n_clients = 0
        self._clients = []
        self._stopping = threading.Event()
        self.listener = None
        self.listen()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, args=(self.listener,),
                         daemon=True).start()

    def go_away(self):
        """No more listening, all clients lost."""
        listener, self.listener = self.listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for client in self._clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._clients = []

    def stop(self):
        self._stopping.set()
        self.go_away()

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.n_clients += 1
            self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,),
                             daemon=True).start()

    @staticmethod
    def _recv(client, n_bytes):
        data = b''
        while len(data) < n_bytes:
            part = client.recv(n_bytes - len(data))
            if not part:
                raise ConnectionError('end of file')
            data += part
        return data

    def _serve(self, client):
        try:
            if self._handshake(client):
                while self._request(client):
                    pass
        except OSError:
            pass
        client.close()

    # Handshake

    def _handshake(self, client):
        if self.greet == 'hang':
            self._stopping.wait()
        if self.greet == 'drop':
            return False
        if self.greet == 'garbage':
            client.sendall(b'SSH-2.0-' * 64)
            return False
        client.sendall(struct.pack('>QQH', NBDMAGIC, IHAVEOPT, 3))
        self._recv(client, 4)
        while True:
            _, option, length = struct.unpack('>QII', self._recv(client, 16))
            data = self._recv(client, length)
            if option == OPT_ABORT:
                return False
            for kind, body in self._option(option, data):
                client.sendall(struct.pack('>QIII', REP_MAGIC, option, kind,
                                           len(body)) + body)
            if option == OPT_GO:
                return True

    def _option(self, option, data):
        if option == OPT_STRUCTURED_REPLY and self.structured:
            return [(REP_ACK, b'')]
        if option == OPT_SET_META_CONTEXT and self.extents is not None:
            return [(REP_META_CONTEXT,
                     struct.pack('>I', 7) + b'base:allocation'),
                    (REP_ACK, b'')]
        if option == OPT_SET_META_CONTEXT and self.structured:
            return [(REP_ACK, b'')]
        if option == OPT_GO:
            replies = [(REP_INFO, struct.pack('>HQH', 0, self.size,
                                              self.flags))]
            if self.sizes:
                replies.append((REP_INFO,
                                struct.pack('>HIII', 3, *self.sizes)))
            return replies + [(REP_ACK, b'')]
        return [(REP_ERR_UNSUP, b'')]

    # Transmission

    def _request(self, client):
        magic, flags, kind, cookie, offset, length = struct.unpack(
            '>IHHQQI', self._recv(client, 28))
        assert magic == REQUEST_MAGIC
        if kind == CMD_DISC:
            return False
        data = self._recv(client, length) if kind == CMD_WRITE else b''
        self.requests.append((kind, offset, length, flags))
        how = self.behave(kind, offset, length)
        if how == 'hang':
            self._stopping.wait()
            return False
        if how == 'drop':
            client.shutdown(socket.SHUT_RDWR)
            return False
        if how == 'garbage':
            client.sendall(b'\xff' * 100)
            return True
        if kind == CMD_WRITE:
            self.disk[offset:offset + length] = data
        if kind == CMD_WRITE_ZEROES:
            self.disk[offset:offset + length] = bytes(length)
        client.sendall(self._reply(kind, cookie, offset, length, how))
        if how == 'half':
            client.shutdown(socket.SHUT_RDWR)
            return False
        return True

    def _reply(self, kind, cookie, offset, length, how):
        if isinstance(how, int) and kind == CMD_READ and self.structured:
            return self._chunk(CHUNK_ERROR, cookie,
                               struct.pack('>IH', how, 0))
        if isinstance(how, int):
            return struct.pack('>IIQ', SIMPLE_MAGIC, how, cookie)
        if how == 'cookie':
            cookie += 1000
        if kind == CMD_BLOCK_STATUS:
            extents = self.extents
            if callable(extents):
                extents = extents(offset, length)
            return self._chunk(CHUNK_STATUS, cookie, struct.pack('>I', 7) +
                               b''.join(struct.pack('>II', *e)
                                        for e in extents))
        if kind != CMD_READ:
            return struct.pack('>IIQ', SIMPLE_MAGIC, 0, cookie)
        data = bytes(self.disk[offset:offset + length])
        if how == 'half':
            data = data[:length // 2]
        if not self.structured:
            return struct.pack('>IIQ', SIMPLE_MAGIC, 0, cookie) + data
        if how == 'short':
            data = data[:length // 2]
        if how == 'long':
            data += b'x' * 512
        if how == 'elsewhere':
            offset += length
        body = struct.pack('>Q', offset) + data
        if how == 'half':
            return self._chunk(CHUNK_DATA, cookie, body, 8 + length)
        return self._chunk(CHUNK_DATA, cookie, body)

    @staticmethod
    def _chunk(kind, cookie, body, length=None):
        return struct.pack('>IHHQI', STRUCTURED_MAGIC, 1, kind, cookie,
                           len(body) if length is None else length) + body
