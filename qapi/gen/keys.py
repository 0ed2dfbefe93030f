# SPDX-License-Identifier: MIT
"""qapi-keys.c: the rank of each known key, as a hash table for dump.c."""

from .output import c_file, c_string

SLOTS = 4096


def _hash(name):
    """FNV-1a; dump.c has the same."""
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 & 0xffffffff
    return value % SLOTS


def source(path):
    table = {}
    rank = 0
    with open(path, encoding='utf-8') as stream:
        for line in stream:
            if line.startswith('#'):
                continue
            for name in line.split():
                slot = _hash(name)
                while slot in table:
                    slot = (slot + 1) % SLOTS
                table[slot] = (name, rank)
            rank += 1
    assert len(table) < SLOTS // 2
    text = f'const struct qapi_key qapi_keys[{SLOTS}] = {{\n'
    for slot in sorted(table):
        name, rank = table[slot]
        text += f'    [{slot}] = {{ {c_string(name)}, {rank} }},\n'
    return c_file('QAPI: the order of keys', ['"qapi/keys.h"'],
                  [text + '};\n'])
