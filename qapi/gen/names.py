# SPDX-License-Identifier: MIT
"""Which names a schema may use, and what they become in C."""

import re

from .error import SchemaError

# Words that cannot name a struct member: C's own, and macros of gnu11.
_RESERVED = frozenset('''
    alignas alignof asm auto bool break case char complex const constexpr
    continue default do double else enum errno extern false float for goto
    i386 if imaginary inline int linux long mips noreturn nullptr register
    restrict return short signed sizeof sparc static static_assert struct
    switch thread_local true typedef typeof union unix unsigned void volatile
    while'''.split())

_TYPE = re.compile(r'[A-Z][A-Za-z0-9]*$')
_LOWER = re.compile(r'(__[a-z0-9.-]+_)?[a-z][a-z0-9-]*$')
_LOOSE = re.compile(r'(__[a-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*$')
_EVENT = re.compile(r'[A-Z][A-Z0-9_]*$')
_VALUE = re.compile(r'[a-z0-9][a-z0-9.-]*$')
_LOOSE_VALUE = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*$')


def check(kind, name, place, loose=False):
    """Refuse NAME as a KIND: type, command, event, member, value, feature."""
    if not isinstance(name, str):
        raise SchemaError(place, f'{kind} name must be a string')
    pattern = {
        'type': _TYPE, 'command': _LOWER, 'event': _EVENT,
        'member': _LOWER, 'value': _VALUE, 'feature': _LOWER,
    }[kind]
    if loose:
        pattern = _LOOSE_VALUE if kind == 'value' else _LOOSE
    if not pattern.match(name):
        raise SchemaError(place, f"invalid {kind} name '{name}'")
    if kind == 'type' and name.endswith(('List', 'Args')):
        raise SchemaError(place, f"type name '{name}' ends in a word kept "
                          'for generated types')
    if kind == 'member' and re.match(r'(u$|has[_-]|q[_-])', name):
        raise SchemaError(place, f"member name '{name}' is reserved")


def c_name(name):
    """A member, command or branch in C."""
    result = re.sub(r'[^A-Za-z0-9_]', '_', name)
    if result in _RESERVED or result[0].isdigit():
        return 'q_' + result
    return result


def split_camel(name):
    """BlockdevOnError -> BLOCKDEV_ON_ERROR, QCryptoX -> Q_CRYPTO_X."""
    name = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name)
    return re.sub(r'(?<=[A-Z])(?=[A-Z][a-z])', '_', name).upper()


def constant(prefix, value):
    """The C constant of an enum's value."""
    return prefix + '_' + re.sub(r'[^A-Za-z0-9]', '_', value).upper()


def camel(name):
    """block_resize, block-resize, BLOCK_RESIZE -> BlockResize."""
    words = re.split(r'[_.-]+', name)
    return ''.join(w[:1].upper() + (w[1:].lower() if name.isupper() else w[1:])
                   for w in words)
