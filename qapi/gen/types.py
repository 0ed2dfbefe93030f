# SPDX-License-Identifier: MIT
"""qapi-types.h and .c: enums, structs, their names, free and clone."""

from .model import Alternate, Array, Builtin, Enum, Object
from .names import c_name
from .output import c_file


def _enum(type_):
    text = f'typedef enum {type_.name} {{\n'
    for value in type_.values:
        text += f'    {type_.constant(value.name)},\n'
    text += f'    {type_.prefix}__MAX\n}} {type_.name};\n\n'
    text += f'const char *{type_.name}_str({type_.name} value);\n'
    text += f'bool {type_.name}_parse(const char *text, ' \
            f'{type_.name} *value);\n'
    return text


def has_name(member):
    return 'has_' + member.c_name.removeprefix('q_')


def _fields(members):
    text = ''
    for member in members:
        if member.has:
            text += f'    bool {has_name(member)};\n'
        text += f'    {member.type.decl}{member.c_name};\n'
    return text


def _struct(type_):
    text = f'struct {type_.name} {{\n'
    if type_.base:
        text += f'    /* From {type_.base.name}. */\n'
        text += _fields(type_.base.members)
        text += '    /* Its own. */\n' if type_.own or type_.variants else ''
    text += _fields(type_.own)
    branches = [(value, branch) for value, branch in type_.variants.items()
                if branch]
    if branches:
        text += f'    union {{ /* by {type_.tag.c_name} */\n'
        for value, branch in branches:
            text += f'        {branch.name} {c_name(value)};\n'
        text += '    } u;\n'
    if not type_.members and not branches:
        text += '    char nothing;\n'
    return text + '};\n'


def _alternate(type_):
    text = f'struct {type_.name} {{\n    QapiType type;\n    union {{\n'
    for branch in type_.branches:
        text += f'        /* QAPI_TYPE_{branch.type.qtype} */\n'
        text += f'        {branch.type.decl}{branch.c_name};\n'
    return text + '    } u;\n};\n'


def _list(type_):
    return (f'struct {type_.name} {{\n'
            f'    {type_.element.decl}*v;\n    size_t n;\n}};\n')


def _functions(name):
    return (f'static inline {name} *{name}_new0(void)\n'
            f'{{\n    return g_new0({name}, 1);\n}}\n'
            f'void {name}_free({name} *value);\n'
            f'{name} *{name}_clone(const {name} *value);\n'
            f'G_DEFINE_AUTOPTR_CLEANUP_FUNC({name}, {name}_free)\n')


def _upcast(type_):
    if not type_.base:
        return ''
    return (f'static inline {type_.base.name} *\n'
            f'qapi_{type_.name}_base(const {type_.name} *value)\n'
            f'{{\n    return ({type_.base.name} *)value;\n}}\n')


def own_arrays(schema):
    """Arrays but those of builtin types, which the runtime has."""
    return [array for array in schema.all_arrays()
            if not isinstance(array.element, Builtin)
            and not isinstance(array.element, Array)]


def structured(schema):
    """Everything that is a struct in C, in an order that compiles."""
    alternates = [type_ for type_ in schema.types.values()
                  if isinstance(type_, Alternate)]
    return alternates + schema.objects() + own_arrays(schema)


def header(schema, prefix):
    types = structured(schema)
    parts = [_enum(type_) for type_ in schema.types.values()
             if isinstance(type_, Enum)]
    parts.append(''.join(f'typedef struct {type_.name} {type_.name};\n'
                         for type_ in types))
    for type_ in types:
        if isinstance(type_, Object):
            parts.append(_struct(type_))
        elif isinstance(type_, Alternate):
            parts.append(_alternate(type_))
        else:
            parts.append(_list(type_))
    parts += [_functions(type_.name) for type_ in types]
    parts += [_upcast(type_) for type_ in types if isinstance(type_, Object)]
    return c_file('QAPI: types', ['"qapi/qapi.h"'], parts, header=True)


def _enum_functions(type_):
    name = type_.name
    return (f'const char *{name}_str({name} value)\n{{\n'
            f'    return qapi_enum_str(&qapi_type_{name}, value);\n}}\n\n'
            f'bool {name}_parse(const char *text, {name} *value)\n{{\n'
            '    int found;\n\n'
            f'    if (!qapi_enum_parse(&qapi_type_{name}, text, &found)) {{\n'
            '        return false;\n    }\n    *value = found;\n'
            '    return true;\n}\n')


def _free_functions(name):
    return (f'void {name}_free({name} *value)\n{{\n'
            f'    qapi_free(&qapi_type_{name}, value);\n}}\n\n'
            f'{name} *{name}_clone(const {name} *value)\n{{\n'
            f'    return qapi_clone(&qapi_type_{name}, value);\n}}\n')


def source(schema, prefix):
    parts = [_enum_functions(type_) for type_ in schema.types.values()
             if isinstance(type_, Enum)]
    parts += [_free_functions(type_.name) for type_ in structured(schema)]
    return c_file('QAPI: names of enum values, free, clone',
                  [f'"{prefix}visit.h"'], parts)


