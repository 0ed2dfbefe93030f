# SPDX-License-Identifier: MIT
"""QMP commands per second: one at a time, and many sent at once."""

import json
import time

from common import Server, report

ROUNDS = 5
SECONDS = 0.4


def rate(server, message, depth):
    """Replies per second with DEPTH commands under way."""
    request = json.dumps(message).encode() + b'\n'
    batch = request * depth
    sock = server.sock
    done = 0
    start = time.monotonic()
    while True:
        sock.sendall(batch)
        left = depth
        while left:
            left -= sock.recv(1 << 20).count(b'\n')
        done += depth
        now = time.monotonic()
        if now - start > SECONDS:
            return done / (now - start)


CASES = [
    ('qmp query-version', {'execute': 'query-version'}, 1),
    ('qmp query-version, 32 at once', {'execute': 'query-version'}, 32),
    ('qmp query-block-jobs, id, 32 at once',
     {'execute': 'query-block-jobs', 'id': 'libvirt-123'}, 32),
    ('qmp unknown command, 32 at once', {'execute': 'nope'}, 32),
    ('qmp query-named-block-nodes of 10',
     {'execute': 'query-named-block-nodes'}, 1),
    ('qmp query-named-block-nodes of 10, 32 at once',
     {'execute': 'query-named-block-nodes'}, 32),
]


def start(binary, folder, name):
    server = Server(binary, folder, name)
    for i in range(10):
        server.qmp('blockdev-add', driver='null-co', node_name=f'node{i}',
                   size=1 << 30)
    return server


def run(ours, theirs, folder):
    servers = [start(ours, folder, 'ours'), start(theirs, folder, 'theirs')]
    ratios = []
    for name, message, depth in CASES:
        rates = ([], [])
        for _ in range(ROUNDS):
            for server, results in zip(servers, rates):
                results.append(rate(server, message, depth))
        ratios.append(report(name, *rates, '1/s'))
    for server in servers:
        server.stop()
    return ratios
