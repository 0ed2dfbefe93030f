# SPDX-License-Identifier: MIT
"""qapi-visit.h and .c: descriptions of types, conversion from and to JSON.

The work is done by the runtime (qapi/input.c, output.c, copy.c) from the
tables written here.
"""

from .model import Alternate, Enum, Object, QTYPES
from .output import c_file, c_string
from .types import has_name, structured


def descriptor(type_):
    """The C expression for a pointer to TYPE_'s description."""
    return f'&qapi_type_{type_.name}'


def _externs(schema):
    names = [type_.name for type_ in schema.types.values()
             if isinstance(type_, Enum)]
    names += [type_.name for type_ in structured(schema)]
    return ''.join(f'extern const struct qapi_type qapi_type_{name};\n'
                   for name in names)


def _prototypes(name):
    return (f'/* NULL: *errp is set.  Unknown members are errors. */\n'
            f'{name} *{name}_from_json(json_t *json, struct error **errp);\n'
            f'{name} *{name}_from_keyval(json_t *json, '
            'struct error **errp);\n'
            f'json_t *{name}_to_json(const {name} *value);\n')


def header(schema, prefix):
    parts = [_externs(schema)]
    parts += [_prototypes(type_.name) for type_ in structured(schema)]
    return c_file('QAPI: values from and to JSON',
                  ['"qapi/descr.h"', f'"{prefix}types.h"'], parts,
                  header=True)


def _enum(type_):
    text = f'static const char *const {type_.name}_values[] = {{\n'
    for value in type_.values:
        text += f'    {c_string(value.name)},\n'
    return text + '};\n\n' + _type(type_, 'ENUM', [
        f'.size = sizeof({type_.name})',
        f'.values = {type_.name}_values',
        f'.n = {type_.prefix}__MAX'])


def _type(type_, kind, fields):
    lines = [f'.name = "{type_.name}"', f'.kind = QAPI_KIND_{kind}'] + fields
    return (f'const struct qapi_type qapi_type_{type_.name} = {{\n'
            + ''.join(f'    {line},\n' for line in lines) + '};\n')


def _member(owner, member):
    text = (f'    {{ {c_string(member.name)}, {descriptor(member.type)},\n'
            f'      offsetof({owner}, {member.c_name}), ')
    if member.has:
        text += f'offsetof({owner}, {has_name(member)})'
    else:
        text += 'QAPI_NO_FLAG'
    return text + f', {"true" if member.optional else "false"} }},\n'


def _object(type_):
    name, text = type_.name, ''
    fields = [f'.size = sizeof({name})']
    if type_.members:
        text += f'static const struct qapi_member {name}_members[] = {{\n'
        text += ''.join(_member(name, m) for m in type_.members)
        text += '};\n\n'
        fields += [f'.members = {name}_members',
                   f'.n = G_N_ELEMENTS({name}_members)']
    if any(type_.variants.values()):
        tag = type_.tag
        text += f'static const struct qapi_type *const {name}_variants[] = ' \
                '{\n'
        for value, branch in type_.variants.items():
            if branch:
                text += f'    [{tag.type.constant(value)}] = ' \
                        f'{descriptor(branch)},\n'
        text += '};\n\n'
        fields += [f'.variants = {name}_variants',
                   f'.n_variants = G_N_ELEMENTS({name}_variants)',
                   f'.tag = {[m.name for m in type_.members].index(tag.name)}',
                   f'.u = offsetof({name}, u)']
    return text + _type(type_, 'OBJECT', fields)


def _alternate(type_):
    name = type_.name
    text = f'static const struct qapi_type *const {name}_branches[] = {{\n'
    for qtype in QTYPES:
        for branch in type_.branches:
            if branch.type.qtype == qtype:
                text += f'    [QAPI_TYPE_{qtype}] = ' \
                        f'{descriptor(branch.type)},\n'
    text += '};\n\n'
    return text + _type(type_, 'ALTERNATE', [
        f'.size = sizeof({name})', f'.variants = {name}_branches',
        f'.n_variants = G_N_ELEMENTS({name}_branches)',
        f'.u = offsetof({name}, u)'])


def _array(type_):
    return _type(type_, 'LIST', [f'.size = sizeof({type_.name})',
                                 f'.element = {descriptor(type_.element)}'])


def _functions(name):
    text = ''
    for mode in ('json', 'keyval'):
        text += (f'{name} *{name}_from_{mode}(json_t *json, '
                 'struct error **errp)\n{\n'
                 f'    return qapi_from_{mode}(&qapi_type_{name}, json, '
                 'errp);\n}\n\n')
    return text + (f'json_t *{name}_to_json(const {name} *value)\n{{\n'
                   f'    return qapi_to_json(&qapi_type_{name}, value);\n'
                   '}\n')


def source(schema, prefix):
    parts = [_enum(type_) for type_ in schema.types.values()
             if isinstance(type_, Enum)]
    for type_ in structured(schema):
        if isinstance(type_, Object):
            parts.append(_object(type_))
        elif isinstance(type_, Alternate):
            parts.append(_alternate(type_))
        else:
            parts.append(_array(type_))
    parts += [_functions(type_.name) for type_ in structured(schema)]
    return c_file('QAPI: descriptions of types, values from and to JSON',
                  ['<stddef.h>', f'"{prefix}visit.h"'], parts)


