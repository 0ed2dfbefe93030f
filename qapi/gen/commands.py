# SPDX-License-Identifier: MIT
"""qapi-commands.h and .c: prototypes of handlers, the table of commands."""


from .output import c_file, c_string
from .visit import descriptor

_FLAGS = {
    'allow-oob': 'QAPI_CMD_ALLOW_OOB',
    'allow-preconfig': 'QAPI_CMD_ALLOW_PRECONFIG',
    'blocking': 'QAPI_CMD_BLOCKING',
    'coroutine': 'QAPI_CMD_COROUTINE',
    'success-response': 'QAPI_CMD_NO_SUCCESS_RESPONSE',
}


def _prototype(command):
    args = []
    if command.raw:
        args.append('json_t *args')
    elif command.args:
        args.append(command.args.param('args'))
    if command.raw:
        head = 'json_t *'
    elif not command.returns:
        head = 'bool '
    elif command.returns.pointer:
        head = command.returns.decl
    else:
        head = 'bool '
        args.append(f'{command.returns.decl.strip()} *ret')
    args.append('struct error **errp')
    joined = ', '.join(args)
    line = f'{head}{command.c_name}({joined})'
    if len(line) > 78:
        line = f'{head}{command.c_name}(\n    {joined})'
    if len(line.rsplit('\n', maxsplit=1)[-1]) > 78:
        joined = ',\n    '.join(args)
        line = f'{head}{command.c_name}(\n    {joined})'
    return line


def header(schema, prefix):
    parts = ['/*\n * Handlers.  False or NULL: failed, *errp is set.  What is '
             'returned is\n * the caller\'s.\n */\n'
             + ''.join(_prototype(command) + ';\n'
                       for command in schema.commands.values())]
    return c_file('QAPI: commands', ['"qapi/command.h"', f'"{prefix}types.h"'],
                  parts, header=True)


def _call(command):
    """(declarations, condition that is true on failure, cleanup of ret)."""
    args = ['args'] if command.args else []
    returns = command.returns
    if command.raw:
        return '', f'!(*ret = {command.c_name}(arguments, errp))', None
    if not returns:
        return '', f'!{command.c_name}({", ".join(args + ["errp"])})', ''
    if returns.pointer:
        call = f'!(value = {command.c_name}({", ".join(args + ["errp"])}))'
        return f'    {returns.decl}value = NULL;\n', call, 'value'
    call = f'!{command.c_name}({", ".join(args + ["&value", "errp"])})'
    init = '{ 0 }' if returns.name == 'null' else '0'
    return f'    {returns.decl}value = {init};\n', call, 'value'


def _marshal(command):
    declared, failed, value = _call(command)
    text = (f'static bool run_{command.c_name}(json_t *arguments, '
            'json_t **ret,\n'
            f'    struct error **errp)\n{{\n')
    checked = command.args and not command.raw
    if checked:
        name = command.args.name
        text += f'    g_autoptr({name}) args =\n' \
                f'        qapi_command_args(&qapi_type_{name}, ' \
                'arguments, errp);\n'
    text += declared
    text += '\n' if checked or declared else ''
    if checked:
        text += '    if (!args) {\n        return false;\n    }\n'
    elif not command.args:
        text += '    if (!qapi_command_no_args(arguments, errp)) {\n' \
                '        return false;\n    }\n'
    text += f'    if ({failed}) {{\n        return false;\n    }}\n'
    if value:
        text += '    *ret = qapi_slot_to_json(' \
                f'{descriptor(command.returns)}, &value);\n' \
                f'    qapi_slot_clear({descriptor(command.returns)}, ' \
                '&value);\n'
    elif value is not None:
        text += '    *ret = json_object();\n'
    return text + '    return true;\n}\n'


def _table(schema):
    text = 'static const struct qapi_command commands[] = {\n'
    for name in sorted(schema.commands):
        command = schema.commands[name]
        flags = ' | '.join(_FLAGS[flag] for flag in sorted(command.flags))
        text += f'    {{ {c_string(name)}, {flags or 0},\n' \
                f'      run_{command.c_name} }},\n'
    return text + '};\n'


_LOOKUP = '''const struct qapi_command *qapi_command_find(const char *name)
{
    return qapi_command_search(commands, G_N_ELEMENTS(commands), name);
}

const struct qapi_command *qapi_command_list(size_t *n)
{
    *n = G_N_ELEMENTS(commands);
    return commands;
}
'''


def source(schema, prefix):
    parts = [_marshal(command) for command in schema.commands.values()]
    parts += [_table(schema), _LOOKUP]
    return c_file('QAPI: commands', [f'"{prefix}commands.h"',
                                     f'"{prefix}visit.h"'], parts)
