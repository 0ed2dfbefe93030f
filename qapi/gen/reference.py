# SPDX-License-Identifier: MIT
"""docs/qmp-reference.md from the documentation in the schema."""

import re

from .model import Alternate, Array, Builtin, Enum, Object
from .parser import Definition

_HEAD = '''# QMP reference

All commands and events, and the types they use.  Written by
`qapi/generate.py --reference` from `qapi/schema/`: change it there.

A message is a JSON object.  `{"execute": "NAME", "arguments": {...}}` runs a
command and is answered by `{"return": ...}` or by `{"error": {"class": ...,
"desc": ...}}`; with an `id` of any kind in the request, the answer has the
same.  Events come as `{"timestamp": ..., "event": "NAME", "data": {...}}`.
With the capability `event-sequence` an event has a `sequence` as well, with
`error-data` an error has `data`: see
[QMPCapability](#qmpcapability-enum).
Unless it says otherwise an error has the class GenericError.
'''

_JSON = {'str': 'string', 'bool': 'boolean', 'any': 'any value',
         'null': 'null', 'number': 'number', 'int': 'integer'}


def _inline(text):
    """@name becomes code."""
    return re.sub(r'(?<![\w`])@([A-Za-z0-9_.+-]*[A-Za-z0-9_])', r'`\1`', text)


def _indent(text):
    """A list item's text: further lines below its first."""
    return _inline(text).replace('\n', '\n  ').replace('\n  \n', '\n\n')


def _anchor(heading):
    return re.sub(r'[^a-z0-9 _-]', '', heading.lower()).replace(' ', '-')


def _heading(item, meta):
    return f'{item.name} ({meta})'


def _link(item, meta):
    return f'[{item.name}](#{_anchor(_heading(item, meta))})'


def _meta(type_):
    if isinstance(type_, Enum):
        return 'enum'
    return 'alternate' if isinstance(type_, Alternate) else type_.meta


def _type(type_):
    if isinstance(type_, Array):
        return f'array of {_type(type_.element)}'
    if isinstance(type_, Builtin):
        name = {'int64': 'int'}.get(type_.name, type_.name)
        return _JSON.get(name, f'integer, {name}')
    return _link(type_, _meta(type_))


def _members(members, doc):
    lines = []
    for member in members:
        what = _type(member.type)
        if member.optional:
            what += ', optional'
        for feature in member.features:
            what += f', {feature.name}'
        lines.append(f'- `{member.name}` ({what}): '
                     f'{_indent(doc.members[member.name])}')
    return lines


def _object(type_, doc):
    lines = _members(type_.own, doc)
    if type_.base:
        lines.append(f'- and the members of {_type(type_.base)}')
    for value, branch in type_.variants.items():
        if branch and (branch.members or branch.variants):
            lines.append(f'- if `{type_.tag.name}` is `{value}`: and the '
                         f'members of {_type(branch)}')
    return lines


def _contents(definition):
    """The list of members, values or branches."""
    item, doc = definition.item, definition.doc
    if isinstance(item, Enum):
        return [f'- `{value.name}`'
                + ''.join(f' ({f.name})' for f in value.features)
                + f': {_indent(doc.members[value.name])}'
                for value in item.values]
    if isinstance(item, Alternate):
        return [f'- {_type(branch.type)}: '
                f'{_indent(doc.members[branch.name])}'
                for branch in item.branches]
    if isinstance(item, Object):
        return _object(item, doc)
    if not item.args:
        return []
    if item.args.implicit_of is item:
        return _members(item.args.own, doc)
    return [f'- the members of {_type(item.args)}']


def _definition(definition):
    item, doc = definition.item, definition.doc
    parts = [f'#### {_heading(item, definition.meta)}', _inline(doc.text)]
    contents = _contents(definition)
    if contents:
        title = {'command': 'Arguments:', 'event': 'Data:',
                 'enum': 'Values:', 'alternate': 'One of:'}
        parts.append(title.get(definition.meta, 'Members:'))
        parts.append('\n'.join(contents))
    for name, text in doc.features.items():
        parts.append(f'Feature `{name}`: {_inline(text)}')
    for title, text in doc.sections:
        if title == 'Returns':
            text = f'{_type(item.returns)}: {text}'
        parts.append(f'{title}: {_inline(text)}')
    flags = getattr(item, 'flags', ())
    if 'allow-oob' in flags:
        parts.append('Can be executed out of band.')
    return '\n\n'.join(parts)


def _free(doc):
    lines = []
    for line in doc.text.split('\n'):
        match = re.match(r'(=+) (.*)', line)
        lines.append('#' * (1 + len(match.group(1))) + ' ' + match.group(2)
                     if match else _inline(line))
    return '\n'.join(lines)


def _index(title, items, meta):
    names = ', '.join(_link(items[name], meta) for name in sorted(items))
    return f'{title}: {names}.'


def text(schema):
    parts = [_HEAD.rstrip(), _index('Commands', schema.commands, 'command'),
             _index('Events', schema.events, 'event')]
    for item in schema.source.items:
        if isinstance(item, Definition):
            parts.append(_definition(item))
        else:
            parts.append(_free(item))
    return '\n\n'.join(parts) + '\n'
