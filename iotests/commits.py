# SPDX-License-Identifier: MIT
"""Chains of images for block-commit, and the job."""

import random

from .jobs import Job

KIB = 1 << 10
MIB = 1 << 20
CLUSTER = 64 * KIB

COMMIT_STARTS = ['created', 'running']


class Chain:
    """Images `l0` (the lowest) to `lN`, and what a guest reads of each.

    `sizes` says how many and how long; `model[i]` is layer i's content as
    the chain has it.  `base` is another file name for l0.
    """

    def __init__(self, images, sizes, fmt0='qcow2', base=None, **options):
        self.images = images
        self.sizes = sizes
        self.paths = []
        self.model = []
        for i, size in enumerate(sizes):
            fmt = fmt0 if i == 0 else 'qcow2'
            name = base if base and i == 0 else f'l{i}.{fmt}'
            path = images.create(name, size, fmt=fmt,
                                 backing=self.paths[-1] if i else None,
                                 **(options if fmt == 'qcow2' else {}))
            below = self.model[-1] if i else b''
            self.paths.append(path)
            self.model.append(bytearray(below[:size].ljust(size, b'\0')))

    @property
    def top(self):
        return len(self.sizes) - 1

    def write(self, layer, offset, length, value=None):
        """All layers above see it where they have nothing: write from the
        lowest to the highest."""
        value = 16 * (layer + 1) + offset // CLUSTER % 16 \
            if value is None else value
        kind = '-P %d' % value if value else '-z'
        self.images.io(self.paths[layer], f'write {kind} {offset} {length}')
        self._note(layer, offset, length, value)

    def discard(self, layer, offset, length):
        self.images.io(self.paths[layer], f'discard {offset} {length}')
        self._note(layer, offset, length, 0)

    def _note(self, layer, offset, length, value):
        for i in range(layer, len(self.sizes)):
            # Not seen through a layer that is too short for it.
            end = min(offset + length, self.sizes[i])
            if end > offset:
                self.model[i][offset:end] = bytes([value]) * (end - offset)
            length = max(end - offset, 0)

    def fill_at_random(self, seed, n_writes=12):
        rnd = random.Random(seed)
        for i, size in enumerate(self.sizes):
            for _ in range(n_writes):
                length = rnd.choice((512, 4096, CLUSTER, 3 * CLUSTER,
                                     CLUSTER + 512))
                offset = rnd.randrange(0, size // 512) * 512
                if rnd.random() < 0.6:
                    offset = offset // CLUSTER * CLUSTER
                length = min(length, size - offset)
                self.write(i, offset, length,
                           0 if rnd.random() < 0.2 else rnd.randint(1, 255))
        return self

    def add(self, server, **top_options):
        """A node for each, l0 to lN; all but the last read-only."""
        for i, path in enumerate(self.paths):
            options = dict(top_options) if i == self.top \
                else {'read_only': True}
            if i:
                options['backing'] = f'l{i - 1}'
            server.add_node(f'l{i}', path, self.images.formats[path],
                            **options)
        return self

    def remove(self, server):
        for i in reversed(range(len(self.paths))):
            server.qmp('blockdev-del', node_name=f'l{i}')

    def content(self, layer):
        return self.images.content(self.paths[layer])


def start_commit(server, device, **options):
    """block-commit with auto-dismiss off; returns the Job."""
    options.setdefault('auto_dismiss', False)
    options.setdefault('job_id', 'commit')
    server.qmp('block-commit', dict(
        device=device,
        **{k.replace('_', '-'): v for k, v in options.items()}))
    return Job(server, options['job_id'])


def backing_of(server):
    """{node: the file name of its backing file}."""
    return {name: node.get('backing_file')
            for name, node in server.nodes().items()}
