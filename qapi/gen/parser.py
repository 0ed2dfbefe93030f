# SPDX-License-Identifier: MIT
"""Parse schema files into a list of definitions with their documentation.

A definition is a Dict: an ordinary dict that also knows where it and each of
its keys stand.  Lists stay lists.  `include` and `pragma` are obeyed here.
"""

import os

from . import doccomment
from .error import Place, SchemaError
from .lexer import tokens

# What a pragma may set; each is a list of names.
PRAGMAS = (
    'command-name-exceptions',      # command names with '_' in them
    'command-returns-exceptions',   # commands that return no struct
    'member-name-exceptions',       # types with '_' or capitals in members
)


class Dict(dict):
    """A dict with places: .place of itself, .places of its keys."""

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.places = {}


class Definition:
    """One top-level expression: META ('enum', ...), its keys, its doc."""

    def __init__(self, meta, expr, doc):
        self.meta = meta
        self.expr = expr
        self.doc = doc
        self.place = expr.place


class _File:
    """The token stream of one file, with one token of look-ahead."""

    def __init__(self, path):
        try:
            with open(path, encoding='utf-8') as stream:
                text = stream.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, 'strerror', None) or 'is not UTF-8'
            raise SchemaError(Place(path, 1), f'cannot read: {reason}')
        self._tokens = tokens(text, path)
        self.token = next(self._tokens)

    def take(self, *kinds):
        token = self.token
        if kinds and token.kind not in kinds:
            names = {'str': 'a string', 'end': 'end of file'}
            wanted = ' or '.join(names.get(k, f"'{k}'") for k in kinds)
            raise SchemaError(token.place, f'expected {wanted}, not {token}')
        if token.kind != 'end':
            self.token = next(self._tokens)
        return token

    def value(self):
        kind = self.token.kind
        if kind == '{':
            return self.object()
        if kind == '[':
            return self.array()
        if kind in ('str', 'bool'):
            return self.take().value
        raise SchemaError(self.token.place,
                          f'expected a value, not {self.token}')

    def object(self):
        result = Dict(self.take('{').place)
        if self.token.kind == '}':
            self.take()
            return result
        while True:
            key = self.take('str')
            if key.value in result:
                raise SchemaError(key.place, f"duplicate key '{key.value}'")
            self.take(':')
            result[key.value] = self.value()
            result.places[key.value] = key.place
            if self.take(',', '}').kind == '}':
                return result

    def array(self):
        self.take('[')
        result = []
        if self.token.kind == ']':
            self.take()
            return result
        while True:
            result.append(self.value())
            if self.take(',', ']').kind == ']':
                return result


METAS = ('enum', 'struct', 'union', 'alternate', 'command', 'event')


class Source:
    """Everything read from one schema: definitions, sections, pragmas."""

    def __init__(self, path):
        self.definitions = []
        self.items = []         # definitions and free documentation in order
        self.pragmas = {name: set() for name in PRAGMAS}
        self.files = []
        self._open = []
        self._read(path, None)

    def _read(self, path, from_place):
        real = os.path.realpath(path)
        if real in self._open:
            raise SchemaError(from_place, f"'{path}' includes itself")
        if real in (os.path.realpath(f) for f in self.files):
            return
        if from_place and not os.path.exists(path):
            raise SchemaError(from_place, f"'{path}' does not exist")
        self.files.append(path)
        self._open.append(real)
        stream = _File(path)
        doc = None
        while stream.token.kind != 'end':
            if stream.token.kind == 'doc':
                self._orphan(doc)
                doc = self._doc(stream.take())
                continue
            expr = stream.object()
            doc = self._expression(expr, doc, path)
        self._orphan(doc)
        self._open.pop()

    def _doc(self, token):
        """A definition's documentation, or None: free text is kept."""
        doc = doccomment.parse(token.value, token.place)
        if doc.name:
            return doc
        self.items.append(doc)
        return None

    @staticmethod
    def _orphan(doc):
        if doc:
            raise SchemaError(doc.place, f"documentation of '{doc.name}' is "
                              'not followed by its definition')

    def _expression(self, expr, doc, path):
        if 'include' in expr or 'pragma' in expr:
            self._orphan(doc)
            self._directive(expr, path)
            return None
        found = [meta for meta in METAS if meta in expr]
        if len(found) != 1:
            raise SchemaError(expr.place, 'an expression has exactly one of '
                              'the keys ' + ', '.join(METAS))
        definition = Definition(found[0], expr, doc)
        self.definitions.append(definition)
        self.items.append(definition)
        return None

    def _directive(self, expr, path):
        if len(expr) != 1:
            extra = next(k for k in expr if k not in ('include', 'pragma'))\
                if len(set(expr) - {'include', 'pragma'}) else 'pragma'
            raise SchemaError(expr.places[extra],
                              f"unexpected key '{extra}' in a directive")
        if 'include' in expr:
            name = expr['include']
            if not isinstance(name, str):
                raise SchemaError(expr.place, "'include' takes a string")
            self._read(os.path.join(os.path.dirname(path), name), expr.place)
            return
        pragma = expr['pragma']
        if not isinstance(pragma, dict):
            raise SchemaError(expr.place, "'pragma' takes an object")
        for key, names in pragma.items():
            if key not in PRAGMAS:
                raise SchemaError(pragma.places[key],
                                  f"unknown pragma '{key}'")
            if not isinstance(names, list) or \
                    not all(isinstance(name, str) for name in names):
                raise SchemaError(pragma.places[key],
                                  f"pragma '{key}' takes a list of strings")
            self.pragmas[key].update(names)
