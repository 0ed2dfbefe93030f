# SPDX-License-Identifier: MIT
"""Where something stands in a schema file, and what is wrong with it."""


class Place:
    """A line of a schema file."""

    def __init__(self, path, line):
        self.path = path
        self.line = line

    def __str__(self):
        return f'{self.path}:{self.line}'


class SchemaError(Exception):
    """A mistake in a schema: `file:line: reason`."""

    def __init__(self, place, reason):
        super().__init__(f'{place}: {reason}')
        self.place = place
        self.reason = reason
