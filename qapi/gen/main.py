# SPDX-License-Identifier: MIT
"""The command line of the generator."""

import argparse
import os
import sys

from . import (commands, dump, events, introspect, keys, reference, types,
               visit)
from .error import SchemaError
from .output import write
from .parser import Source
from .schema import Schema

_MODULES = {'types': types, 'visit': visit, 'commands': commands,
            'events': events, 'introspect': introspect}


def _check_reference(path, schema_path, schema):
    try:
        with open(path, encoding='utf-8') as stream:
            current = stream.read()
    except OSError:
        current = None
    if current != reference.text(schema):
        sys.exit(f'{path} is not current: run\n'
                 f'{sys.argv[0]} --reference {path} {schema_path}')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', help='directory for C files')
    parser.add_argument('--dump', action='store_true',
                        help='print what the schema says')
    parser.add_argument('--docs', action='store_true',
                        help='with --dump: print the documentation too')
    parser.add_argument('--prefix', default='qapi-', help='of file names')
    parser.add_argument('--keys', metavar='FILE',
                        help='write the table of this order of keys, only')
    parser.add_argument('--reference', metavar='FILE',
                        help='write the reference page')
    parser.add_argument('--check-reference', metavar='FILE',
                        help='fail if the reference page is not current')
    parser.add_argument('schema', nargs='?')
    args = parser.parse_args()
    if args.keys:
        write(os.path.join(args.out, f'{args.prefix}keys.c'),
              keys.source(args.keys))
        return
    if not args.schema:
        parser.error('no schema')
    try:
        schema = Schema(Source(args.schema))
    except SchemaError as error:
        sys.exit(str(error))
    if args.dump:
        sys.stdout.write(dump.text(schema, args.docs))
    if args.reference:
        write(args.reference, reference.text(schema))
    if args.check_reference:
        _check_reference(args.check_reference, args.schema, schema)
    if not args.out:
        return
    for name, module in _MODULES.items():
        base = os.path.join(args.out, f'{args.prefix}{name}')
        write(base + '.h', module.header(schema, args.prefix))
        write(base + '.c', module.source(schema, args.prefix))
