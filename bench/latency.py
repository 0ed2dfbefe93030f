# SPDX-License-Identifier: MIT
"""What a guest's 4 KiB random writes over NBD take while a backup or a mirror
copies its disk to a target of 50 MB/s: median and 99th percentile; and how
much the job copied meanwhile.

The limit is a throttle group in both servers.  One write at a time: a guest
that waits for each, as a journal does.
"""

import os
import subprocess
import time

from common import Server, load, random_file, report

SIZE = 512 << 20
BYTES_PER_SECOND = 50_000_000
BLOCK = 4096
DEPTH = 1
ROUNDS = 3
SECONDS = 3.0

# name: command and its arguments
JOBS = {
    'backup': ('blockdev-backup', {}),
    'mirror': ('blockdev-mirror', {}),
    'mirror write-blocking': ('blockdev-mirror',
                              {'copy_mode': 'write-blocking'}),
}


def add_nodes(server, source, target):
    server.qmp('object-add', qom_type='throttle-group', id='g',
               limits={'bps-total': BYTES_PER_SECOND})
    server.qmp('blockdev-add', driver='file', node_name='s', filename=source)
    server.qmp('blockdev-add', driver='throttle', node_name='t',
               throttle_group='g',
               file={'driver': 'file', 'filename': target})
    server.qmp('block-export-add', type='nbd', id='e', node_name='s',
               writable=True)


def one_job(ours, binary, folder, source, job):
    """Median and p99 in microseconds, and what the job copied in MiB/s."""
    target = os.path.join(folder, 'slow.raw')
    subprocess.run(['truncate', '-s', str(SIZE), target], check=True)
    server = Server(binary, folder, 'latency')
    add_nodes(server, source, target)
    command, arguments = JOBS[job]
    begin = time.monotonic()
    server.qmp(command, job_id='j', device='s', target='t', sync='full',
               **arguments)
    _, median, p99, longest = load(ours, server, 's', 'write', DEPTH, BLOCK,
                                   SECONDS)
    seconds = time.monotonic() - begin
    info = next(j for j in server.qmp('query-jobs') if j['id'] == 'j')
    server.qmp('block-job-cancel', device='j', force=True)
    server.wait_gone('j')
    server.stop()
    os.unlink(target)
    return (median, p99, longest,
            info['current-progress'] / (1 << 20) / seconds)


def run(ours, reference, folder):
    source = os.path.join(folder, 'guest.raw')
    random_file(source, SIZE)
    ratios = []
    for job, (command, _) in JOBS.items():
        results = {ours: [], reference: []}
        for _ in range(ROUNDS):
            for binary in reference, ours:
                results[binary].append(
                    one_job(ours, binary, folder, source, job))
        ours_by, theirs_by = (list(zip(*results[b]))
                              for b in (ours, reference))
        for at, what in enumerate(('median', 'p99', 'longest')):
            ratios.append(report(f'guest write {what}, {job}', ours_by[at],
                                 theirs_by[at], 'us', False))
        ratios.append(report(f'copied meanwhile, {job}', ours_by[3],
                             theirs_by[3], 'MiB/s'))
    os.unlink(source)
    return ratios
