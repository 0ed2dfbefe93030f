# SPDX-License-Identifier: MIT
"""Turn parsed definitions into the model, refusing what breaks a rule."""

from . import doccheck
from .error import SchemaError
from .model import (Alternate, Array, BUILTINS, Builtin, Command, Enum,
                    Event, Feature, Member, Object, Value)
from .names import camel, check
from .parser import Dict

# meta: (keys that must be there, keys that may be there)
_KEYS = {
    'enum': ({'enum', 'data'}, {'features', 'prefix'}),
    'struct': ({'struct', 'data'}, {'base', 'features'}),
    'union': ({'union', 'base', 'discriminator', 'data'}, {'features'}),
    'alternate': ({'alternate', 'data'}, {'features'}),
    'command': ({'command'}, {
        'data', 'returns', 'boxed', 'gen', 'success-response', 'allow-oob',
        'allow-preconfig', 'coroutine', 'blocking', 'features'}),
    'event': ({'event'}, {'data', 'boxed', 'features'}),
}

# Boolean keys of a command and the one value each may have.
_BOOLEANS = {'boxed': True, 'success-response': False, 'allow-oob': True,
             'allow-preconfig': True, 'coroutine': True, 'blocking': True,
             'gen': False}


class Schema:
    """types, commands and events by name, in the order of definition."""

    def __init__(self, source):
        self.source = source
        self.types = {name: Builtin(name) for name in BUILTINS}
        self.arrays = {}
        self.commands = {}
        self.events = {}
        self._pragmas = source.pragmas
        for definition in source.definitions:
            self._define(definition)
        for definition in source.definitions:
            self._fill(definition)
        for type_ in self.types.values():
            self._check_type(type_)

    # First pass: names.

    def _define(self, definition):
        meta, expr, doc = definition.meta, definition.expr, definition.doc
        name, place = expr[meta], expr.places[meta]
        required, allowed = _KEYS[meta]
        for key in expr:
            if key not in required | allowed:
                raise SchemaError(expr.places[key], f"{meta} '{name}' has "
                                  f"unknown key '{key}'")
        for key in sorted(required):
            if key not in expr:
                raise SchemaError(place, f"{meta} '{name}' lacks key '{key}'")
        if meta == 'command':
            loose = name in self._pragmas['command-name-exceptions']
            check('command', name, place, loose)
            table, item = self.commands, Command(name, place, doc)
        elif meta == 'event':
            check('event', name, place)
            table, item = self.events, Event(name, place, doc)
        else:
            check('type', name, place)
            table = self.types
            if meta == 'enum':
                item = Enum(name, place, doc)
            elif meta == 'alternate':
                item = Alternate(name, place, doc)
            else:
                item = Object(name, place, doc, meta)
        if name in table:
            raise SchemaError(place, f"{meta} '{name}' is already defined")
        if not doc:
            raise SchemaError(place, f"{meta} '{name}' is not documented")
        if doc.name != name:
            raise SchemaError(doc.place, f"documentation is for '{doc.name}', "
                              f"definition is of '{name}'")
        table[name] = item
        definition.item = item

    # Second pass: contents.

    def _fill(self, definition):
        expr, item = definition.expr, definition.item
        item.features = self._features(expr, f"{definition.meta} "
                                       f"'{item.name}'")
        getattr(self, '_fill_' + definition.meta)(expr, item)
        doccheck.check(definition)

    def _features(self, expr, what):
        result = []
        features = expr.get('features', [])
        place = expr.places.get('features')
        if not isinstance(features, list):
            raise SchemaError(place, f"'features' of {what} must be a list")
        for feature in features:
            name = feature.get('name') if isinstance(feature, Dict) \
                else feature
            check('feature', name, place)
            if any(name == other.name for other in result):
                raise SchemaError(place, f"feature '{name}' of {what} "
                                  'appears twice')
            result.append(Feature(name))
        return result

    def _fill_enum(self, expr, item):
        place = expr.places['data']
        if 'prefix' in expr:
            if not isinstance(expr['prefix'], str):
                raise SchemaError(expr.places['prefix'],
                                  "'prefix' takes a string")
            item.prefix = expr['prefix']
        if not isinstance(expr['data'], list):
            raise SchemaError(place, f"data of enum '{item.name}' must be "
                              'a list')
        loose = item.name in self._pragmas['member-name-exceptions']
        seen = {}
        for value in expr['data']:
            features = []
            if isinstance(value, Dict):
                unknown = set(value) - {'name', 'features'}
                if unknown or 'name' not in value:
                    raise SchemaError(value.place, f"value of enum "
                                      f"'{item.name}' takes the keys 'name' "
                                      "and 'features'")
                features = self._features(value, f"value of enum "
                                          f"'{item.name}'")
                place, value = value.place, value['name']
            check('value', value, place, loose)
            constant = item.constant(value)
            if constant in seen:
                raise SchemaError(place, f"value '{value}' of enum "
                                  f"'{item.name}' collides with "
                                  f"'{seen[constant]}'")
            seen[constant] = value
            item.values.append(Value(value, features))

    def _fill_struct(self, expr, item):
        if 'base' in expr:
            item.base = self._base(expr, item)
        item.own = self._members(expr['data'], expr.places['data'],
                                 item.name)

    def _base(self, expr, item):
        place = expr.places['base']
        base = self._lookup(expr['base'], place)
        if not isinstance(base, Object) or base.tag or \
                base.meta != 'struct':
            raise SchemaError(place, f"base of '{item.name}' must be a "
                              'struct')
        return base

    def _fill_union(self, expr, item):
        if isinstance(expr['base'], Dict):
            item.own = self._members(expr['base'], expr.places['base'],
                                     item.name)
            item.inline_base = True
        else:
            item.base = self._base(expr, item)
        item.tag = expr['discriminator']
        if not isinstance(item.tag, str):
            raise SchemaError(expr.places['discriminator'],
                              "'discriminator' takes a string")
        self._dict(expr['data'], expr.places['data'],
                   f"data of union '{item.name}'")
        for value, branch in expr['data'].items():
            place = expr['data'].places[value]
            type_ = self._type_key(branch, place)
            item.variants[value] = (self._lookup(type_, place), place)

    def _fill_alternate(self, expr, item):
        place = expr.places['data']
        self._dict(expr['data'], place, f"data of alternate '{item.name}'")
        if not expr['data']:
            raise SchemaError(place, f"alternate '{item.name}' has no branch")
        for name, branch in expr['data'].items():
            where = expr['data'].places[name]
            check('member', name, where,
                  item.name in self._pragmas['member-name-exceptions'])
            type_ = self._lookup(self._type_key(branch, where), where)
            item.branches.append(Member(name, type_, False, [], where))

    def _type_key(self, value, place):
        """The type in 'T' or { 'type': 'T' }."""
        if isinstance(value, Dict):
            if set(value) != {'type'}:
                raise SchemaError(place, "a branch takes only the key 'type'")
            return value['type']
        return value

    @staticmethod
    def _dict(value, place, what):
        if not isinstance(value, Dict):
            raise SchemaError(place, f'{what} must be an object')

    def _members(self, data, place, owner):
        self._dict(data, place, f"data of '{owner}'")
        loose = owner in self._pragmas['member-name-exceptions']
        result = []
        for key, value in data.items():
            where = data.places[key]
            name = key.removeprefix('*')
            check('member', name, where, loose)
            features = []
            if isinstance(value, Dict):
                for extra in value:
                    if extra not in ('type', 'features'):
                        raise SchemaError(where, f"member '{name}' of "
                                          f"'{owner}' has unknown key "
                                          f"'{extra}'")
                if 'type' not in value:
                    raise SchemaError(where, f"member '{name}' of '{owner}' "
                                      "lacks key 'type'")
                features = self._features(value, f"member '{name}'")
                value = value['type']
            result.append(Member(name, self._lookup(value, where),
                                 key.startswith('*'), features, where))
        return result

    def _lookup(self, value, place):
        """The type that VALUE names: 'T' or ['T']."""
        if isinstance(value, list):
            if len(value) != 1 or not isinstance(value[0], str):
                raise SchemaError(place, 'an array type is a list of one '
                                  'type name')
            element = self._lookup(value[0], place)
            if element.name == 'null':
                raise SchemaError(place, "an array of 'null' is useless")
            if element.name not in self.arrays:
                self.arrays[element.name] = Array(element)
            return self.arrays[element.name]
        if not isinstance(value, str):
            raise SchemaError(place, 'a type is a name or a list of one name')
        if value not in self.types or \
                getattr(self.types[value], 'implicit_of', None):
            raise SchemaError(place, f"unknown type '{value}'")
        return self.types[value]

    def _fill_command(self, expr, item):
        for key, only in _BOOLEANS.items():
            if key in expr and expr[key] is not only:
                raise SchemaError(expr.places[key], f"'{key}' may only be "
                                  + ('true' if only else 'false'))
            if key in expr and key not in ('boxed', 'gen'):
                item.flags.add(key)
        item.raw = 'gen' in expr
        self._arguments(expr, item, 'Args')
        if 'returns' in expr:
            place = expr.places['returns']
            item.returns = self._lookup(expr['returns'], place)
            inner = getattr(item.returns, 'element', item.returns)
            if not isinstance(inner, Object) and item.name not in \
                    self._pragmas['command-returns-exceptions']:
                raise SchemaError(place, f"command '{item.name}' returns "
                                  'neither a struct nor a list of them')

    def _fill_event(self, expr, item):
        if 'boxed' in expr and expr['boxed'] is not True:
            raise SchemaError(expr.places['boxed'], "'boxed' may only be true")
        item.boxed = 'boxed' in expr
        self._arguments(expr, item, 'Event')

    def _arguments(self, expr, item, suffix):
        if 'data' not in expr:
            if 'boxed' in expr:
                raise SchemaError(expr.places['boxed'],
                                  "'boxed' needs 'data'")
            return
        place = expr.places['data']
        if isinstance(expr['data'], Dict):
            if 'boxed' in expr:
                raise SchemaError(expr.places['boxed'], "'boxed' needs data "
                                  'that is the name of a type')
            args = Object(camel(item.name) + suffix, place, item.doc,
                          'struct')
            if args.name in self.types:
                raise SchemaError(place, f"'{item.name}' needs the type name "
                                  f"'{args.name}', which is taken")
            args.implicit_of = item
            args.own = self._members(expr['data'], place, item.name)
            if args.own:
                self.types[args.name] = args
                item.args = args
            return
        item.args = self._lookup(expr['data'], place)
        if not isinstance(item.args, Object):
            raise SchemaError(place, f"data of '{item.name}' must be a "
                              'struct or union')
        if item.args.meta == 'union' and 'boxed' not in expr:
            raise SchemaError(place, f"data of '{item.name}' is a union: "
                              "needs 'boxed'")

    # Third pass: rules that need everything resolved.

    def _check_type(self, type_):
        if isinstance(type_, Object):
            self._check_base_cycle(type_)
            if type_.tag:
                self._check_union(type_)
            self._check_collisions(type_)
        elif isinstance(type_, Alternate):
            self._check_alternate(type_)

    @staticmethod
    def _check_base_cycle(type_):
        seen, base = [type_], type_.base
        while base:
            if base in seen:
                raise SchemaError(type_.place, f"'{type_.name}' is its own "
                                  'base')
            seen.append(base)
            base = base.base

    @staticmethod
    def _check_union(type_):
        tag = next((m for m in type_.members if m.name == type_.tag), None)
        what = f"discriminator '{type_.tag}' of union '{type_.name}'"
        if not tag:
            raise SchemaError(type_.place, f'{what} is not in its base')
        if not isinstance(tag.type, Enum):
            raise SchemaError(tag.place, f'{what} must be an enum')
        if tag.optional:
            raise SchemaError(tag.place, f'{what} is optional')
        values = [value.name for value in tag.type.values]
        given = type_.variants
        for value, (branch, place) in given.items():
            if value not in values:
                raise SchemaError(place, f"branch '{value}' is not a value "
                                  f"of '{tag.type.name}'")
            if not isinstance(branch, Object) or branch.meta != 'struct':
                raise SchemaError(place, f"branch '{value}' of union "
                                  f"'{type_.name}' must be a struct")
        type_.tag = tag
        type_.variants = {value: given[value][0] if value in given else None
                          for value in values}

    @staticmethod
    def _check_collisions(type_):
        def add(table, member, what):
            if member.c_name in table:
                raise SchemaError(member.place if not what else type_.place,
                                  f"member '{member.name}'{what} of "
                                  f"'{owner}' collides with "
                                  f"'{table[member.c_name]}'")
            table[member.c_name] = member.name

        owner = getattr(type_.implicit_of, 'name', type_.name)
        seen = {}
        for member in type_.members:
            add(seen, member, '')
        for value, branch in type_.variants.items():
            mine = dict(seen)
            for member in branch.members if branch else []:
                add(mine, member, f" (branch '{value}')")

    @staticmethod
    def _check_alternate(type_):
        taken = {}
        for branch in type_.branches:
            qtype = branch.type.qtype
            if not qtype:
                raise SchemaError(branch.place, f"branch '{branch.name}' of "
                                  f"alternate '{type_.name}' cannot be told "
                                  'from others')
            for other in {qtype, 'NUMBER' if qtype == 'INTEGER' else qtype}:
                if other in taken:
                    raise SchemaError(branch.place,
                                      f"branch '{branch.name}' of alternate "
                                      f"'{type_.name}' cannot be told from "
                                      f"'{taken[other]}'")
                taken[other] = branch.name

    def objects(self):
        """Structs, then unions, which contain structs by value."""
        objects = [type_ for type_ in self.types.values()
                   if isinstance(type_, Object)]
        return sorted(objects, key=lambda type_: type_.meta == 'union')

    def all_arrays(self):
        """Arrays the C code has, sorted: of all defined types too."""
        for type_ in list(self.types.values()):
            if not isinstance(type_, Builtin) and not (
                    isinstance(type_, Object) and type_.implicit_of):
                self._lookup([type_.name], None)
        return [self.arrays[name] for name in sorted(self.arrays)]

