# SPDX-License-Identifier: MIT
"""Does a definition's documentation name exactly what the definition has?"""

from .error import SchemaError
from .model import Alternate, Enum, Object


def _names(item):
    """Names of members to be documented with ITEM, and of its features."""
    features = [feature.name for feature in item.features]
    if isinstance(item, Enum):
        members = item.values
    elif isinstance(item, Alternate):
        members = item.branches
    elif isinstance(item, Object):
        members = item.own
    elif item.args and item.args.implicit_of is item:
        members = item.args.own
    else:
        members = []
    for member in members:
        features += [f.name for f in getattr(member, 'features', [])]
    return [member.name for member in members], features


def check(definition):
    item, doc = definition.item, definition.doc
    members, features = _names(item)
    what = f"{definition.meta} '{item.name}'"
    for name in members:
        if name not in doc.members:
            raise SchemaError(item.place, f"member '{name}' of {what} is "
                              'not documented')
    for name in doc.members:
        if name not in members:
            raise SchemaError(doc.places[name], f"documented member '{name}' "
                              f'is not in {what}')
    for name in features:
        if name not in doc.features:
            raise SchemaError(item.place, f"feature '{name}' of {what} is "
                              'not documented')
    for name in doc.features:
        if name not in features:
            raise SchemaError(doc.places[name], f"documented feature "
                              f"'{name}' is not in {what}")
    if definition.meta != 'command':
        for title, _ in doc.sections:
            if title in ('Returns', 'Errors'):
                raise SchemaError(doc.place, f"only a command has a section "
                                  f"'{title}'")
    elif 'Returns' in dict(doc.sections) and not item.returns:
        raise SchemaError(doc.place, f"{what} is documented to return "
                          'something and does not')
