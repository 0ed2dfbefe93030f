# SPDX-License-Identifier: MIT
"""Nothing piles up: descriptors, threads and memory after many rounds."""

import os

import pytest

from .jobs import create_image, start_backup
from .nbd import NbdClient
from .qmp import QmpError

MIB = 1 << 20


def usage(server):
    """Descriptors, threads and KiB of memory in use."""
    base = f'/proc/{server.proc.pid}'
    with open(f'{base}/status', encoding='ascii') as status:
        fields = dict(line.split(':', 1) for line in status)
    return {'fds': len(os.listdir(f'{base}/fd')),
            'threads': int(fields['Threads']),
            'kib': int(fields['VmRSS'].split()[0])}


def sanitized(server):
    """A sanitizer keeps what was freed; memory tells nothing then."""
    with open(f'/proc/{server.proc.pid}/maps', encoding='utf-8') as maps:
        text = maps.read()
    return 'libasan' in text or 'libtsan' in text


def nothing_grows(server, once, n_rounds, threads=8, kib=4096):
    """Warm up, then do it n_rounds times more."""
    for _ in range(5):
        once()
    before = usage(server)
    for _ in range(n_rounds):
        once()
        server.mon.received.clear()
        del server.log[:-50]
    after = usage(server)
    assert after['fds'] <= before['fds'] + 1, (before, after)
    # Worker threads of a pool come and stay, but not without bound.
    assert after['threads'] <= before['threads'] + threads, (before, after)
    if not sanitized(server):
        assert after['kib'] <= before['kib'] + kib, (before, after)


def test_monitor_connections(start_server):
    server = start_server()

    def once():
        server.mon.close()
        server.mon = server.connect()
        server.qmp('query-version')
    nothing_grows(server, once, 100)


def test_nodes(server, images):
    path = images.create('a.qcow2', '64M')
    base = images.create('base.qcow2', '64M')
    top = images.create('top.qcow2', '64M', backing=base)

    def once():
        server.add_node('n', path)
        server.add_node('t', top)
        server.nodes()
        with pytest.raises(QmpError):
            server.add_node('bad', '/nonexistent')
        with pytest.raises(QmpError):
            server.add_node('t2', top)
        server.qmp('blockdev-del', node_name='t')
        server.qmp('blockdev-del', node_name='n')
    nothing_grows(server, once, 100)


def test_exports_and_clients(server, images):
    server.add_node('n', images.create('a.qcow2', '4M'))

    def once():
        server.export('n')
        clients = [NbdClient.connect(server.nbd_path, 'n')
                   for _ in range(3)]
        clients[0].write(0, b'x' * MIB)
        clients[1].read(0, MIB)
        clients[0].disconnect()
        clients[1].close()
        server.unexport('n', 'hard')
        clients[2].close()
        server.mon.drop_events()
    nothing_grows(server, once, 60)


def test_nbd_server(server):
    def once():
        server.qmp('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': server.nbd_path}})
        nbd = NbdClient(server.nbd_path)
        nbd.open()
        if server.is_qemu:      # 7.2 may wait for the handshake for ever
            nbd.close()
        server.qmp('nbd-server-stop')
        nbd.close()
    nothing_grows(server, once, 60)


def test_jobs(server, images):
    for name in ('src', 'dst'):
        server.add_node(name, images.create(f'{name}.qcow2', '4M'))
    path = images.path('f')

    def once():
        start_backup(server, 'src', 'dst').finish()
        job = start_backup(server, 'src', 'dst', speed=1)
        job.cancel()
        job.wait('concluded')
        job.dismiss()
        create_image(server, driver='file', filename=path,
                     size=4096).finish()
        with pytest.raises(QmpError):
            start_backup(server, 'src', 'src')
        server.mon.drop_events()
    nothing_grows(server, once, 50)


def test_bitmaps(server, images):
    server.add_node('n', images.create('a.qcow2', '64G'))

    def once():
        for i in range(5):
            server.qmp('block-dirty-bitmap-add', node='n', name=f'b{i}',
                       persistent=bool(i % 2))
        server.qmp('block-dirty-bitmap-merge', node='n', target='b0',
                   bitmaps=['b1', 'b2'])
        server.nodes()
        server.fails('transaction', actions=[
            {'type': 'block-dirty-bitmap-clear',
             'data': {'node': 'n', 'name': 'b0'}},
            {'type': 'block-dirty-bitmap-remove',
             'data': {'node': 'n', 'name': 'b1'}},
            {'type': 'abort', 'data': {}}])
        for i in range(5):
            server.qmp('block-dirty-bitmap-remove', node='n', name=f'b{i}')
    nothing_grows(server, once, 40)


def test_errors(server):
    """Refused commands and garbage."""
    def once():
        for text in ('{"execute":"nope","id":[1,2,{"a":null}]}', 'garbage',
                     '{"execute":"blockdev-add","arguments":{"driver":'
                     '"qcow2","node-name":"x","file":{"driver":"file",'
                     '"filename":"/nonexistent"}}}'):
            server.mon.send_raw(text + '\n')
            assert 'error' in server.mon.next_reply()
    nothing_grows(server, once, 300)


def test_large_bitmap_costs_little(server, images):
    """A bitmap of an 8 TiB disk: memory only where bits are set."""
    server.qmp('blockdev-add', driver='null-co', node_name='n',
               size=8 << 40)
    before = usage(server)['kib']
    for i in range(4):
        server.qmp('block-dirty-bitmap-add', node='n', name=f'b{i}',
                   granularity=65536)
    assert usage(server)['kib'] - before < \
        (200 << 10 if server.is_qemu or sanitized(server) else 16 << 10)
