#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Ask QEMU in which order it writes the keys of an object.

    qapi/key-order.py > qapi/schema/key-order.txt

QEMU keeps the keys of an object in an order that depends on their names
alone, and clients that compare text depend on it.  A client's `id` is echoed
in that order, so that it can be observed for any set of names.  Asked for
are all names in the schemas of the installed QEMU and of blockjobd, and
those in the present list.  Names on one line are in the order in which they
were put into the object, last one first.
"""

import json
import os
import re
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
OTHERS = ('QMP capabilities class data desc error event execute id return '
          'sequence timestamp')


class Daemon:
    """A qemu-storage-daemon with a QMP session."""

    def __init__(self, folder):
        path = os.path.join(folder, 'qmp')
        self.process = subprocess.Popen(
            ['qemu-storage-daemon', '--chardev',
             f'socket,id=qmp,path={path},server=on,wait=off',
             '--monitor', 'qmp'])
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.stream = self.socket.makefile('rw')
        self.stream.readline()
        self.execute('qmp_capabilities')

    def execute(self, command, **more):
        self.stream.write(json.dumps({'execute': command, **more}) + '\n')
        self.stream.flush()
        return json.loads(self.stream.readline())

    def order(self, names):
        reply = self.execute('nosuch', id={name: 1 for name in names})
        return list(reply['id'])

    def close(self):
        self.process.terminate()
        self.process.wait()


def names_in(schema):
    for entry in schema:
        yield from entry
        if entry['meta-type'] == 'object':
            yield from (member['name'] for member in entry['members'])


def machine_schema():
    """The schema of the whole emulator, larger than the daemon's."""
    text = '{"execute": "qmp_capabilities"}' \
           '{"execute": "query-qmp-schema"}{"execute": "quit"}'
    result = subprocess.run(
        ['qemu-system-x86_64', '-M', 'none', '-display', 'none',
         '-nodefaults', '-qmp', 'stdio'],
        input=text, capture_output=True, text=True, check=True)
    for line in result.stdout.splitlines():
        reply = json.loads(line)
        if isinstance(reply.get('return'), list):
            return reply['return']
    return []


def groups(first, second):
    """Split two orders, from opposite insertions, into runs of equals."""
    start, left, right = 0, set(), set()
    for i, (one, two) in enumerate(zip(first, second)):
        left ^= {one}
        right ^= {two}
        if left == right:
            yield sorted(first[start:i + 1])
            start, left, right = i + 1, set(), set()


def main():
    names = set(OTHERS.split())
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(folder)
        try:
            names.update(names_in(daemon.execute('query-qmp-schema')
                                  ['return']))
            names.update(names_in(machine_schema()))
            folder = os.path.join(HERE, 'schema')
            for file in os.listdir(folder):
                with open(os.path.join(folder, file),
                          encoding='utf-8') as stream:
                    text = stream.read()
                if file == 'key-order.txt':
                    for line in text.splitlines():
                        if not line.startswith('#'):
                            names.update(line.split())
                else:
                    names.update(re.findall(r"'\*?([A-Za-z0-9_.-]+)':", text))
            names = sorted(names)
            orders = daemon.order(names), daemon.order(names[::-1])
        finally:
            daemon.close()
    print('# The order of keys in an object, as observed by '
          'qapi/key-order.py.')
    for group in groups(*orders):
        print(*group)


if __name__ == '__main__':
    main()
