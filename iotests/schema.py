# SPDX-License-Identifier: MIT
"""Check of replies and events against the server's own schema.

query-qmp-schema is a promise of names and types.  Every reply and every
event that a scenario sees is held against it: a member that the schema does
not have, one it promises that is missing, a string where it says integer.
"""


class SchemaError(AssertionError):
    """The server sent what its schema does not allow."""


JSON_TYPES = {
    'string': lambda v: isinstance(v, str),
    'int': lambda v: isinstance(v, int) and not isinstance(v, bool),
    'number': lambda v: isinstance(v, (int, float))
              and not isinstance(v, bool),
    'boolean': lambda v: isinstance(v, bool),
    'null': lambda v: v is None,
    'object': lambda v: isinstance(v, dict),
    'array': lambda v: isinstance(v, list),
    'value': lambda v: True,
}


class Schema:
    """The answer of query-qmp-schema, for look-ups and checks."""

    def __init__(self, entries):
        self.entries = entries
        self.by_name = {}
        for entry in entries:
            key = (entry['meta-type'] in ('command', 'event'), entry['name'])
            if key in self.by_name:
                raise SchemaError(f"{entry['name']} is there twice")
            self.by_name[key] = entry

    def command(self, name):
        return self._top(name, 'command')

    def event(self, name):
        return self._top(name, 'event')

    def _top(self, name, meta_type):
        entry = self.by_name.get((True, name))
        if entry is None or entry['meta-type'] != meta_type:
            raise SchemaError(f'{meta_type} {name} is not in the schema')
        return entry

    def type(self, name):
        try:
            return self.by_name[(False, name)]
        except KeyError:
            raise SchemaError(f'no type {name} in the schema') from None

    def commands(self):
        return {e['name'] for e in self.entries
                if e['meta-type'] == 'command'}

    def events(self):
        return {e['name'] for e in self.entries if e['meta-type'] == 'event'}

    # Checks

    def check_return(self, command, value):
        self.check_value(self.command(command)['ret-type'], value, command)

    def check_event(self, event):
        entry = self.event(event['event'])
        self.check_value(entry['arg-type'], event.get('data', {}),
                         event['event'])

    def check_value(self, type_name, value, where):
        entry = self.type(type_name)
        getattr(self, '_check_' + entry['meta-type'])(entry, value, where)

    def _check_builtin(self, entry, value, where):
        if not JSON_TYPES[entry['json-type']](value):
            raise SchemaError(f'{where}: {value!r} is no {entry["name"]}')

    def _check_enum(self, entry, value, where):
        values = [m['name'] for m in entry['members']] \
            if 'members' in entry else entry['values']
        if value not in values:
            raise SchemaError(f'{where}: {value!r} is not in {values}')

    def _check_array(self, entry, value, where):
        if not isinstance(value, list):
            raise SchemaError(f'{where}: {value!r} is no array')
        for i, element in enumerate(value):
            self.check_value(entry['element-type'], element, f'{where}[{i}]')

    def _check_alternate(self, entry, value, where):
        errors = []
        for member in entry['members']:
            try:
                self.check_value(member['type'], value, where)
                return
            except SchemaError as exc:
                errors.append(str(exc))
        raise SchemaError('; '.join(errors))

    def _check_object(self, entry, value, where):
        if not isinstance(value, dict):
            raise SchemaError(f'{where}: {value!r} is no object')
        members = self.members(entry, value)
        for name, member in members.items():
            if name in value:
                self.check_value(member['type'], value[name],
                                 f'{where}.{name}')
            elif 'default' not in member:
                raise SchemaError(f'{where}: member {name} is missing')
        stray = set(value) - set(members)
        if stray:
            raise SchemaError(f'{where}: not in the schema: {stray}')

    def members(self, entry, value=None):
        """The members of an object type by name, those of the variant
        that `value` selects included."""
        members = {m['name']: m for m in entry['members']}
        if 'tag' in entry and value is not None:
            tag = value.get(entry['tag'])
            for variant in entry['variants']:
                if variant['case'] == tag:
                    variant_type = self.type(variant['type'])
                    members.update(self.members(variant_type, value))
        return members

    # Look-ups, in the form managers use

    def lookup(self, path):
        """The type that a path such as
        'blockdev-add/arg-type/+qcow2/backing' leads to, or None.

        +CASE takes the variant, a name takes the member, 'arg-type' and
        'ret-type' start; an array is stepped through by itself.
        """
        steps = path.split('/')
        entry = self.by_name.get((True, steps[0]))
        for step in steps[1:]:
            if entry is None:
                return None
            entry = self._step(entry, step)
        return entry

    def _step(self, entry, step):
        if step in ('arg-type', 'ret-type'):
            return self.type(entry[step]) if step in entry else None
        while entry['meta-type'] == 'array':
            entry = self.type(entry['element-type'])
        if entry['meta-type'] == 'alternate':
            for member in entry['members']:
                inner = self.type(member['type'])
                if inner['meta-type'] == 'object':
                    entry = inner
                    break
        if step.startswith('^'):
            values = entry.get('values', [])
            return entry if step[1:] in values else None
        if step.startswith('+'):
            for variant in entry.get('variants', []):
                if variant['case'] == step[1:]:
                    return self.type(variant['type'])
            return None
        for member in entry.get('members', []):
            if member.get('name') == step:
                return self.type(member['type'])
        return None
