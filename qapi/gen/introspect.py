# SPDX-License-Identifier: MIT
"""qapi-introspect.h and .c: the answer of query-qmp-schema.

Names of types are replaced by numbers, but for the builtin ones, so that
nobody relies on them; all integer types look like `int`.
"""

import json

from .model import Alternate, Array, Builtin, Enum
from .output import c_file, c_string


class _Entries:
    def __init__(self, schema):
        self.entries = []
        self._types = []        # in order of appearance: to be described
        self._numbers = {}
        self._builtins = set()
        self._arrays = set()
        # The type of no members is the first, number 0.
        self._empty = object()
        self._numbers[id(self._empty)] = '0'
        for command in schema.commands.values():
            self._command(command)
        for event in schema.events.values():
            self._event(event)
        self._add({'name': '0', 'meta-type': 'object', 'members': []}, [])
        for type_ in self._types:       # grows meanwhile
            self._describe(type_)

    def _add(self, entry, features):
        if features:
            entry['features'] = [feature.name for feature in features]
        self.entries.append(entry)

    def _name(self, type_):
        """The name TYPE_ goes by, noting that it must be described."""
        if type_ is None:
            return '0'
        if isinstance(type_, Builtin):
            name = 'int' if type_.json_type == 'int' else type_.name
            if name not in self._builtins:
                self._builtins.add(name)
                self._types.append(type_)
            return name
        if isinstance(type_, Array):
            name = f'[{self._name(type_.element)}]'
            if name not in self._arrays:
                self._arrays.add(name)
                self._types.append(type_)
            return name
        if id(type_) not in self._numbers:
            self._numbers[id(type_)] = str(len(self._numbers))
            self._types.append(type_)
        return self._numbers[id(type_)]

    def _command(self, command):
        entry = {'name': command.name, 'meta-type': 'command',
                 'arg-type': self._name(command.args),
                 'ret-type': self._name(command.returns)}
        if 'allow-oob' in command.flags:
            entry['allow-oob'] = True
        self._add(entry, command.features)

    def _event(self, event):
        self._add({'name': event.name, 'meta-type': 'event',
                   'arg-type': self._name(event.args)}, event.features)

    def _describe(self, type_):
        name = self._name(type_)
        if isinstance(type_, Builtin):
            self._add({'name': name, 'meta-type': 'builtin',
                       'json-type': type_.json_type}, [])
        elif isinstance(type_, Array):
            self._add({'name': name, 'meta-type': 'array',
                       'element-type': self._name(type_.element)}, [])
        elif isinstance(type_, Enum):
            members = []
            for value in type_.values:
                member = {'name': value.name}
                if value.features:
                    member['features'] = [f.name for f in value.features]
                members.append(member)
            self._add({'name': name, 'meta-type': 'enum', 'members': members,
                       'values': [v.name for v in type_.values]},
                      type_.features)
        elif isinstance(type_, Alternate):
            self._add({'name': name, 'meta-type': 'alternate',
                       'members': [{'type': self._name(b.type)}
                                   for b in type_.branches]},
                      type_.features)
        else:
            self._object(name, type_)

    def _object(self, name, type_):
        members = []
        for member in type_.members:
            entry = {'name': member.name, 'type': self._name(member.type)}
            if member.optional:
                entry['default'] = None
            if member.features:
                entry['features'] = [f.name for f in member.features]
            members.append(entry)
        entry = {'name': name, 'meta-type': 'object', 'members': members}
        if type_.tag:
            entry['tag'] = type_.tag.name
            entry['variants'] = [
                {'case': value, 'type': self._name(branch)}
                for value, branch in type_.variants.items()]
        self._add(entry, type_.features if not type_.implicit_of else [])


def header(schema, prefix):
    return c_file('QAPI: introspection', ['<jansson.h>'], [
        '/*\n * What query-qmp-schema returns: an array, shared and not to be '
        'changed.\n * A new reference.  First call in the main thread.\n */\n'
        'json_t *qapi_introspect(void);\n'], header=True)


def source(schema, prefix):
    text = 'static const char *const entries[] = {\n'
    for entry in _Entries(schema).entries:
        line = json.dumps(entry)
        pieces = [line[i:i + 60] for i in range(0, len(line), 60)]
        text += ''.join(f'    {c_string(piece)}\n' for piece in pieces)
        text = text[:-1] + ',\n'
    text += '};\n'
    function = '''json_t *qapi_introspect(void)
{
    static json_t *schema;

    if (!schema) {
        schema = json_array();
        for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
            json_array_append_new(schema, json_loads(entries[i], 0, NULL));
        }
    }
    return json_incref(schema);
}
'''
    return c_file('QAPI: introspection',
                  ['<glib.h>', f'"{prefix}introspect.h"'], [text, function])
