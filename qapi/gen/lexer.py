# SPDX-License-Identifier: MIT
"""Split a schema file into tokens.

Tokens: punctuation `{ } [ ] : ,`, strings in single quotes, the words true
and false, and documentation comments (a block from `##` to `##`).  Other
comments run from `#` to the end of the line and vanish.
"""

import re

from .error import Place, SchemaError

_PUNCTUATION = '{}[]:,'
_WORD = re.compile(r'[A-Za-z_0-9.+-]+')


class Token:
    """kind is one of _PUNCTUATION, 'str', 'bool', 'doc', 'end'."""

    def __init__(self, kind, value, place):
        self.kind = kind
        self.value = value
        self.place = place

    def __str__(self):
        if self.kind == 'str':
            return f"string '{self.value}'"
        if self.kind == 'bool':
            return 'true' if self.value else 'false'
        if self.kind == 'doc':
            return 'documentation comment'
        if self.kind == 'end':
            return 'end of file'
        return f"'{self.kind}'"


def _doc_block(lines, number, path):
    """The block that opens on line NUMBER (from 0): (lines, next line)."""
    body = []
    start = Place(path, number + 1)
    number += 1
    while number < len(lines):
        text = lines[number].rstrip()
        if text == '##':
            return body, number + 1
        if not text and number + 1 == len(lines):
            break
        if text == '#':
            text = '# '
        elif not text.startswith('# '):
            raise SchemaError(Place(path, number + 1),
                              "documentation line must begin with '# '")
        body.append((text[2:], Place(path, number + 1)))
        number += 1
    raise SchemaError(start, "documentation comment is not closed by '##'")


def _string(line, column, place):
    """The string whose quote is at COLUMN: (value, column behind it)."""
    end = line.find("'", column + 1)
    if end < 0:
        raise SchemaError(place, "string lacks its closing quote")
    value = line[column + 1:end]
    for char in value:
        if not ' ' <= char <= '~' or char == '\\':
            raise SchemaError(place, 'only printable ASCII without '
                              'backslash is allowed in a string')
    return value, end + 1


def _line_tokens(line, place):
    column = 0
    while column < len(line):
        char = line[column]
        if char.isspace():
            column += 1
        elif char == '#':
            return
        elif char in _PUNCTUATION:
            yield Token(char, char, place)
            column += 1
        elif char == "'":
            value, column = _string(line, column, place)
            yield Token('str', value, place)
        else:
            match = _WORD.match(line, column)
            word = match.group() if match else char
            if word not in ('true', 'false'):
                raise SchemaError(place, f"stray '{word}'")
            yield Token('bool', word == 'true', place)
            column = match.end()


def tokens(text, path):
    """All tokens of TEXT in order, the last of kind 'end'."""
    lines = text.split('\n')
    number = 0
    while number < len(lines):
        line = lines[number]
        place = Place(path, number + 1)
        if line.startswith('##'):
            if line.rstrip() != '##':
                raise SchemaError(place, "nothing may follow '##'")
            body, number = _doc_block(lines, number, path)
            yield Token('doc', body, place)
            continue
        yield from _line_tokens(line, place)
        number += 1
    yield Token('end', None, Place(path, len(lines)))
