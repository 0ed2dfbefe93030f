# SPDX-License-Identifier: MIT
"""The model as text, for the golden tests in tests/qapi-schema."""

from .model import Alternate, Array, Builtin, Enum, Object


def _features(features):
    names = ' '.join(feature.name for feature in features)
    return f' [{names}]' if names else ''


def _type(type_):
    if isinstance(type_, Array):
        return f'[{_type(type_.element)}]'
    return type_.name


def _members(members):
    for member in members:
        mark = '?' if member.optional else ''
        yield (f'    {member.name}{mark}: {_type(member.type)}'
               f'{_features(member.features)} -> {member.c_name}')


def _lines(type_):
    features = _features(type_.features)
    if isinstance(type_, Enum):
        yield f'enum {type_.name}{features}'
        for value in type_.values:
            yield (f'    {value.name}{_features(value.features)} -> '
                   f'{type_.constant(value.name)}')
    elif isinstance(type_, Alternate):
        yield f'alternate {type_.name}{features}'
        for branch in type_.branches:
            yield (f'    {branch.name}: {_type(branch.type)} '
                   f'({branch.type.qtype})')
    elif isinstance(type_, Object):
        what = 'arguments' if type_.implicit_of else type_.meta
        yield f'{what} {type_.name}{features}'
        if type_.base:
            yield f'    base {type_.base.name}'
        yield from _members(type_.members)
        for value, branch in type_.variants.items():
            name = branch.name if branch else '-'
            yield f'    {type_.tag.name}={value}: {name}'


def _owner(kind, item):
    text = f'{kind} {item.name}{_features(item.features)}'
    if item.args:
        text += f' ({item.args.name})'
    returns = getattr(item, 'returns', None)
    if returns:
        text += f' -> {_type(returns)}'
    for flag in sorted(getattr(item, 'flags', ())):
        text += f' {flag}'
    if getattr(item, 'boxed', False):
        text += ' boxed'
    if getattr(item, 'raw', False):
        text += ' raw'
    return text


def _doc(item):
    """What the documentation says, where the schema has more than names."""
    yield f'doc {item.name}: {item.doc.text!r}'
    for table in (item.doc.members, item.doc.features,
                  dict(item.doc.sections)):
        for name, text in table.items():
            yield f'    {name}: {text!r}'


def text(schema, docs):
    lines = []
    for type_ in schema.types.values():
        if not isinstance(type_, Builtin):
            lines += _lines(type_)
    lines += [_owner('command', item) for item in schema.commands.values()]
    lines += [_owner('event', item) for item in schema.events.values()]
    if docs:
        for table in (schema.types, schema.commands, schema.events):
            for item in table.values():
                if item.doc and not getattr(item, 'implicit_of', None):
                    lines += _doc(item)
    return ''.join(line + '\n' for line in lines)
