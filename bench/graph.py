# SPDX-License-Identifier: MIT
"""What must not grow badly: many nodes, huge images, memory."""

import os
import subprocess
import time

from common import Server, report

ROUNDS = 5
N_NODES = 1000
N_IMAGES = 64
TIB = 1 << 40


def timed(function, *args):
    start = time.monotonic()
    function(*args)
    return time.monotonic() - start


# ---- many nodes ---------------------------------------------------------------


def add_nodes(server, n):
    for i in range(n):
        server.qmp('blockdev-add', driver='null-co', node_name=f'n{i}',
                   size=1 << 30)


def query_nodes(server, n):
    assert len(server.qmp('query-named-block-nodes', flat=True)) == n


def remove_nodes(server, n):
    for i in range(n):
        server.qmp('blockdev-del', node_name=f'n{i}')


STEPS = [('added', add_nodes), ('queried', query_nodes),
         ('removed', remove_nodes)]


def many_nodes(servers):
    times = [([], []) for _ in STEPS]
    small = [[] for _ in STEPS]
    for _ in range(ROUNDS):
        for which, server in enumerate(servers):
            for (_, step), results in zip(STEPS, times):
                results[which].append(1e3 * timed(step, server, N_NODES))
        for (_, step), results in zip(STEPS, small):
            results.append(1e3 * timed(step, servers[0], N_NODES // 10))
    ratios = []
    for (name, _), results, few in zip(STEPS, times, small):
        ratios.append(report(f'{N_NODES} nodes {name}', *results, 'ms',
                             higher_is_better=False))
        # Ten times as many should take ten times as long: 1.0.
        report(f'  ours, per node: {N_NODES // 10} against {N_NODES}',
               results[0], [t * 10 for t in few], 'ms',
               higher_is_better=False)
    return ratios


# ---- huge images --------------------------------------------------------------


def make_image(path, size, writes=()):
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path,
                    str(size)], check=True)
    if writes:
        commands = [word for offset in writes
                    for word in ('-c', f'write -q {offset} 64k')]
        subprocess.run(['qemu-io', *commands, path], check=True,
                       stdout=subprocess.DEVNULL)


def qcow2(path, name):
    return {'driver': 'qcow2', 'node-name': name,
            'file': {'driver': 'file', 'filename': path}}


def open_close(server, path):
    server.qmp('blockdev-add', **qcow2(path, 'huge'))
    server.qmp('blockdev-del', node_name='huge')


def huge_image(servers, folder):
    path = os.path.join(folder, 'huge.qcow2')
    make_image(path, 16 * TIB, [n << 37 for n in range(128)])
    times = ([], [])
    for _ in range(4 * ROUNDS):
        for server, results in zip(servers, times):
            results.append(1e3 * timed(open_close, server, path))
    return report('16 TiB qcow2 opened and closed', *times, 'ms',
                  higher_is_better=False)


# ---- memory -------------------------------------------------------------------


def resident_kib(server):
    with open(f'/proc/{server.process.pid}/status', encoding='ascii') as file:
        for line in file:
            if line.startswith('VmRSS:'):
                return float(line.split()[1])
    raise SystemExit('no VmRSS')


def memory(servers, folder):
    """Of the process with all of them open, and what each of them adds."""
    total, each = ([], []), ([], [])
    for which, server in enumerate(servers):
        before = resident_kib(server)
        for i in range(N_IMAGES):
            path = os.path.join(folder, f'm{which}-{i}.qcow2')
            make_image(path, TIB)
            server.qmp('blockdev-add', **qcow2(path, f'm{i}'))
        total[which].append(resident_kib(server))
        each[which].append((total[which][0] - before) / N_IMAGES)
    report('  memory of each of these images', *each, 'KiB',
           higher_is_better=False)
    return report(f'memory with {N_IMAGES} images of 1 TiB open', *total,
                  'KiB', higher_is_better=False)


def run(ours, theirs, folder):
    servers = [Server(ours, folder, 'ours'), Server(theirs, folder, 'theirs')]
    ratios = many_nodes(servers)
    ratios.append(huge_image(servers, folder))
    ratios.append(memory(servers, folder))
    for server in servers:
        server.stop()
    return ratios
