# SPDX-License-Identifier: MIT
"""What the image of a qcow2 layer lies on: one file, a part of a larger one,
two that are equal, one behind another server.

Each kind makes the image and says what nodes show it; the last of them is
called like the layer with an `f` behind.
"""

import json
import os
import shutil

from .images import qemu_img

OFFSET = 1 << 20
LENGTH = 16 << 20       # of what cannot grow


def file_node(name, path):
    return {'driver': 'file', 'node-name': name, 'filename': path,
            'discard': 'unmap', 'auto-read-only': True}


class Plain:
    """One file, which grows."""

    can_shrink = True

    def __init__(self, disk, layer):
        self.layer = layer
        self.disk = disk
        self.path = os.path.join(disk.server.directory, f'{layer}.qcow2')

    def create(self, options, size):
        qemu_img('create', '-q', '-f', 'qcow2', '-o', options, self.path,
                 str(size))

    def nodes(self):
        return [file_node(f'{self.layer}f', self.path)]

    def name(self):
        """For qemu-img."""
        return self.path

    def unlink(self):
        os.unlink(self.path)


class Window(Plain):
    """From OFFSET on in a file that has other things before and behind."""

    def create(self, options, size):
        super().create(options, size)
        with open(self.path, 'r+b') as file:
            image = file.read()
            file.seek(0)
            file.write(b'\xee' * OFFSET + image)
            file.truncate(OFFSET + LENGTH)
            file.seek(OFFSET + LENGTH)
            file.write(b'\xee' * OFFSET)

    def _window(self):
        return {'driver': 'raw', 'offset': OFFSET, 'size': LENGTH}

    def nodes(self):
        return [file_node(f'{self.layer}g', self.path),
                dict(self._window(), **{'node-name': f'{self.layer}f',
                                        'file': f'{self.layer}g',
                                        'discard': 'unmap'})]

    def name(self):
        with open(self.path, 'rb') as file:
            for at in (0, OFFSET + LENGTH):
                file.seek(at)
                assert file.read(OFFSET) == b'\xee' * OFFSET, 'outside'
        return 'json:' + json.dumps({'driver': 'qcow2', 'file': dict(
            self._window(), file={'driver': 'file', 'filename': self.path})})


class Quorum(Plain):
    """Two files that must agree."""

    can_shrink = False      # what preallocate has added stays: it cannot go

    def _paths(self):
        return [self.path, f'{self.path}.2']

    def create(self, options, size):
        super().create(options, size)
        shutil.copy(*self._paths())

    def nodes(self):
        children = [f'{self.layer}g{i}' for i in range(2)]
        return [file_node(*pair) for pair in zip(children, self._paths())] + [
            {'driver': 'quorum', 'node-name': f'{self.layer}f',
             'children': children, 'vote-threshold': 2}]

    def name(self):
        return 'json:' + json.dumps({'driver': 'qcow2', 'file': {
            'driver': 'quorum', 'vote-threshold': 2, 'children': [
                {'driver': 'file', 'filename': path}
                for path in self._paths()]}})

    def unlink(self):
        for path in self._paths():
            os.unlink(path)


class Remote(Plain):
    """An export of another server."""

    def create(self, options, size):
        super().create(options, size)
        os.truncate(self.path, LENGTH)
        far = self.disk.far_server()
        far.add_file(self.layer, self.path, discard='unmap')
        far.export(self.layer)

    def nodes(self):
        return [{'driver': 'nbd', 'node-name': f'{self.layer}f',
                 'server': {'type': 'unix',
                            'path': self.disk.far_server().nbd_path},
                 'export': self.layer, 'discard': 'unmap'}]


KINDS = {'file': Plain, 'window': Window, 'quorum': Quorum, 'nbd': Remote}
