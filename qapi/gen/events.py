# SPDX-License-Identifier: MIT
"""qapi-events.h and .c: the enum of events, a sender for each."""

from .output import c_file, c_string
from .types import has_name


def _constant(event):
    return f'QAPI_EVENT_{event.name}'


def _sender(event):
    name = f'qapi_event_send_{event.name.lower()}'
    args = []
    if event.boxed:
        args.append(event.args.param('data'))
    elif event.args:
        for member in event.args.members:
            if member.has:
                args.append(f'bool {has_name(member)}')
            args.append(member.type.param(member.c_name))
    joined = ', '.join(args) or 'void'
    line = f'void {name}({joined})'
    if len(line) > 78:
        line = f'void {name}(\n    ' + ',\n    '.join(args) + ')'
    return line


def header(schema, prefix):
    text = 'typedef enum QAPIEvent {\n'
    text += ''.join(f'    {_constant(event)},\n'
                    for event in schema.events.values())
    text += '    QAPI_EVENT__MAX\n} QAPIEvent;\n'
    hook = '''const char *QAPIEvent_str(QAPIEvent value);

/*
 * Give each event to EMIT, which owns the object: timestamp, event, data.
 * It runs in the thread that sends.  NULL: events are dropped.  Set it before
 * there are other threads.
 */
void qapi_event_set_emit(void (*emit)(QAPIEvent event, json_t *object));
'''
    senders = '/* Arguments stay the caller\'s. */\n' + ''.join(
        _sender(event) + ';\n' for event in schema.events.values())
    return c_file('QAPI: events', [f'"{prefix}types.h"'],
                  [text, hook, senders], header=True)


def _body(event):
    text = f'{_sender(event)}\n{{\n'
    data = 'NULL'
    if event.boxed:
        data = f'{event.args.name}_to_json(data)'
    elif event.args:
        text += f'    const {event.args.name} data = {{\n'
        for member in event.args.members:
            if member.has:
                text += f'        .{has_name(member)} = {has_name(member)},\n'
            cast = f'({member.type.decl.strip()})' \
                if member.type.pointer else ''
            text += f'        .{member.c_name} = {cast}{member.c_name},\n'
        text += '    };\n\n'
        data = f'{event.args.name}_to_json(&data)'
    text += '    if (!event_emit) {\n        return;\n    }\n'
    text += f'    event_emit({_constant(event)},\n' \
            f'               qapi_event_object({c_string(event.name)},\n' \
            f'                                 {data}));\n'
    return text + '}\n'


def source(schema, prefix):
    names = 'static const char *const event_names[] = {\n'
    names += ''.join(f'    {c_string(event.name)},\n'
                     for event in schema.events.values())
    names += '''};

const char *QAPIEvent_str(QAPIEvent value)
{
    g_assert(value < QAPI_EVENT__MAX);
    return event_names[value];
}
'''
    hook = '''static void (*event_emit)(QAPIEvent event, json_t *object);

void qapi_event_set_emit(void (*emit)(QAPIEvent event, json_t *object))
{
    event_emit = emit;
}
'''
    parts = [names, hook] + [_body(event)
                             for event in schema.events.values()]
    return c_file('QAPI: events', ['"qapi/event.h"', f'"{prefix}events.h"',
                                   f'"{prefix}visit.h"'], parts)
