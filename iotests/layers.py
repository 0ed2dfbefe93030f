# SPDX-License-Identifier: MIT
"""A backing chain of a test: its images, its nodes, what it reads as."""

from .images import same_bytes

MIB = 1 << 20
SIZE = 8 * MIB


class Layers:
    """Images on top of each other, each with data of its own.

    `names` from the base up.  Layer i has i + 1 at i * 512 KiB for a MiB, so
    that each hides half of what the one below it has.
    """

    def __init__(self, server, images, names, size=SIZE, sizes=None,
                 data=True, **options):
        self.server = server
        self.images = images
        self.names = list(names)
        self.size = size
        below = None
        for i, name in enumerate(self.names):
            n_bytes = (sizes or {}).get(name)
            below = images.create(f'{name}.qcow2',
                                  n_bytes or (None if below else size),
                                  backing=below, **options)
            if data:
                images.io(below, f'write -P {i + 1} {i * 512}k 1M')

    def path(self, name):
        return self.images.path(f'{name}.qcow2')

    def write(self, name, *commands):
        """Before the nodes are opened."""
        self.images.io(self.path(name), *commands)

    def open(self, *more, **options):
        """Nodes named as the layers, over each other by reference."""
        below = None
        for name in self.names:
            self.server.add_node(name, self.path(name), backing=below,
                                 **options)
            below = name
        return self

    def add_filter(self, name, file, driver='throttle', **options):
        if driver == 'throttle':
            options.setdefault('throttle_group', 'group')
        self.server.qmp('blockdev-add', driver=driver, node_name=name,
                        file=file, **options)

    def content(self, name=None):
        """What `name` (default: the highest) reads as; nobody uses it."""
        return self.images.content(self.path(name or self.names[-1]))

    def header(self, name):
        """Backing file and its format, as qemu-img sees them."""
        info = self.images.info(self.path(name), '-U')
        return (info.get('backing-filename'),
                info.get('backing-filename-format'))

    def below(self, name):
        """Names of the nodes below `name`, filters too, from the graph."""
        graph = self.server.qmp('x-debug-query-block-graph')
        nodes = {node['id']: node['name'] for node in graph['nodes']}
        found = []
        while name is not None:
            links = {edge['name']: nodes[edge['child']]
                     for edge in graph['edges']
                     if nodes[edge['parent']] == name}
            qcow2 = name in self.names
            name = links.get('backing') or \
                (None if qcow2 else links.get('file'))
            if name is not None:
                found.append(name)
        return found

    def same(self, wanted, name=None):
        same_bytes(self.content(name), wanted, name or self.names[-1])


def own_data(images, path):
    """[(start, length)] of what an image itself has, zeroes not."""
    return [(e['start'], e['length']) for e in images.map(path)
            if e['depth'] == 0 and e['data']]
