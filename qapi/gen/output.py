# SPDX-License-Identifier: MIT
"""Writing of generated files."""

import os

C_HEAD = '''/* SPDX-License-Identifier: MIT */
/* {title}.  Generated from qapi/schema: do not edit. */
'''


def write(path, text):
    """Write TEXT unless PATH has it: what depends on PATH stays built."""
    try:
        with open(path, encoding='utf-8') as stream:
            if stream.read() == text:
                return
    except (OSError, UnicodeDecodeError):
        pass
    temporary = f'{path}.{os.getpid()}.tmp'
    with open(temporary, 'w', encoding='utf-8') as stream:
        stream.write(text)
    os.replace(temporary, path)


def c_file(title, includes, parts, header=False):
    """A C file: banner, #include lines, parts separated by a blank line."""
    text = C_HEAD.format(title=title)
    if header:
        text += '#pragma once\n'
    text += '\n' + ''.join(f'#include {name}\n' for name in includes)
    return text + ''.join('\n' + part for part in parts if part)


def c_string(text):
    return '"' + text.replace('\\', '\\\\').replace('"', '\\"') + '"'
