# SPDX-License-Identifier: MIT
"""What a schema says, resolved: types, commands, events.

Built by schema.py, read by the modules that write output.
"""

from .names import c_name, constant, split_camel

# name: (C type, kind in qapi/descr.h, JSON type for introspection, QType)
BUILTINS = {
    'str': ('char *', 'STR', 'string', 'STRING'),
    'bool': ('bool ', 'BOOL', 'boolean', 'BOOL'),
    'number': ('double ', 'NUMBER', 'number', 'NUMBER'),
    'int': ('int64_t ', 'INT64', 'int', 'INTEGER'),
    'int8': ('int8_t ', 'INT8', 'int', 'INTEGER'),
    'int16': ('int16_t ', 'INT16', 'int', 'INTEGER'),
    'int32': ('int32_t ', 'INT32', 'int', 'INTEGER'),
    'int64': ('int64_t ', 'INT64', 'int', 'INTEGER'),
    'uint8': ('uint8_t ', 'UINT8', 'int', 'INTEGER'),
    'uint16': ('uint16_t ', 'UINT16', 'int', 'INTEGER'),
    'uint32': ('uint32_t ', 'UINT32', 'int', 'INTEGER'),
    'uint64': ('uint64_t ', 'UINT64', 'int', 'INTEGER'),
    'size': ('uint64_t ', 'SIZE', 'int', 'INTEGER'),
    'any': ('json_t *', 'ANY', 'value', None),
    'null': ('QapiNull ', 'NULL', 'null', 'NULL'),
}

QTYPES = ('NULL', 'STRING', 'NUMBER', 'BOOL', 'OBJECT', 'ARRAY', 'INTEGER')


class Type:
    """Common to all types.  decl is the C type, ending in ' ' or '*'."""

    pointer = True              # a value is a pointer, NULL when absent

    def __init__(self, name, place, doc=None):
        self.name = name
        self.place = place
        self.doc = doc
        self.features = []
        self.decl = f'{name} *'
        self.qtype = 'OBJECT'

    @property
    def const_decl(self):
        """The type of an argument that is only read."""
        return 'const ' + self.decl if self.pointer else self.decl

    def param(self, name):
        return self.const_decl + name


class Builtin(Type):
    def __init__(self, name):
        super().__init__(name, None)
        self.decl, self.kind, self.json_type, self.qtype = BUILTINS[name]
        self.pointer = self.decl.endswith('*')

    @property
    def const_decl(self):
        return 'json_t *' if self.name == 'any' else super().const_decl


class Feature:
    def __init__(self, name):
        self.name = name


class Value:
    def __init__(self, name, features):
        self.name = name
        self.features = features


class Enum(Type):
    pointer = False

    def __init__(self, name, place, doc):
        super().__init__(name, place, doc)
        self.decl = f'{name} '
        self.qtype = 'STRING'
        self.prefix = split_camel(name)
        self.values = []

    def constant(self, value):
        return constant(self.prefix, value)


class Array(Type):
    def __init__(self, element):
        super().__init__(element.name + 'List', None)
        self.element = element
        self.qtype = 'ARRAY'


class Member:
    """type is a name until schema.py has resolved it."""

    def __init__(self, name, type_, optional, features, place):
        self.name = name
        self.type = type_
        self.optional = optional
        self.features = features
        self.place = place

    @property
    def c_name(self):
        return c_name(self.name)

    @property
    def has(self):
        """Does C need a flag beside the value?"""
        return self.optional and not self.type.pointer


class Object(Type):
    """A struct or a union (then tag and variants are set).

    base     Object or None; its members come first, flattened
    own      members of its own
    tag      Member of the base that selects the variant
    variants {value: Object or None} for every value of the tag
    """

    def __init__(self, name, place, doc, meta):
        super().__init__(name, place, doc)
        self.meta = meta
        self.base = None
        self.inline_base = False
        self.own = []
        self.tag = None
        self.variants = {}
        self.implicit_of = None     # Command or Event

    @property
    def members(self):
        inherited = self.base.members if self.base else []
        return inherited + self.own


class Alternate(Type):
    def __init__(self, name, place, doc):
        super().__init__(name, place, doc)
        self.branches = []      # Member
        self.qtype = None


class Command:
    def __init__(self, name, place, doc):
        self.name = name
        self.place = place
        self.doc = doc
        self.features = []
        self.args = None        # Object or None
        self.returns = None     # Type or None
        self.flags = set()      # keys that become QAPI_CMD_*
        self.raw = False        # 'gen': false: the handler has JSON

    @property
    def c_name(self):
        return 'qmp_' + c_name(self.name).removeprefix('q_')


class Event:
    def __init__(self, name, place, doc):
        self.name = name
        self.place = place
        self.doc = doc
        self.features = []
        self.args = None
        self.boxed = False
