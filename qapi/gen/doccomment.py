# SPDX-License-Identifier: MIT
"""Parse documentation comments.

A definition's comment:

    ##
    # @block-job-pause:
    #
    # Text about the whole, in Markdown.
    #
    # @device: text about a member; further lines are indented.
    #
    # Features:
    #
    # @deprecated: text about a feature
    #
    # Returns: text
    #
    # Errors: text
    #
    # Since: 0.1
    ##

A comment that does not begin with @name: is free text for the reference;
its lines `= Title` and `== Title` are headings.
"""

import re

from .error import SchemaError

_NAME = re.compile(r'@([A-Za-z0-9_.+-]+):(?:\s+(.*))?$')
_SECTION = re.compile(r'(Returns|Errors|Since|Note|Example):(?:\s+(.*))?$')


class Doc:
    """name is None for free text.  Texts are Markdown strings."""

    def __init__(self, name, place):
        self.name = name
        self.place = place
        self.text = ''
        self.members = {}       # name: text
        self.features = {}      # name: text
        self.sections = []      # (title, text) in order
        self.titles = set()     # of sections
        self.places = {}        # of members and features


class _Builder:
    """Collect lines for one part at a time."""

    def __init__(self, doc):
        self.doc = doc
        self.lines = []
        self.indented = False   # continuation lines must be indented
        self.inline = False     # the first line is behind the name
        self._store = lambda text: setattr(doc, 'text', text)

    def finish(self):
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        while self.lines and not self.lines[0]:
            self.lines.pop(0)
        start = 1 if self.inline else 0
        indents = [len(l) - len(l.lstrip()) for l in self.lines[start:] if l]
        if self.indented and indents:
            cut = min(indents)
            self.lines[start:] = [line[cut:] for line in self.lines[start:]]
        self._store('\n'.join(self.lines))
        self.lines = []

    def start(self, store, first):
        self.finish()
        self._store = store
        self.indented = True
        self.inline = bool(first)
        self.lines = [first] if first else []


def _add(table, kind, name, doc, place):
    if name in table:
        raise SchemaError(place, f"{kind} '{name}' is documented twice")
    table[name] = ''
    doc.places[name] = place

    def store(text):
        if not text:
            raise SchemaError(place, f"{kind} '{name}' has no text")
        table[name] = text
    return store


def _section(doc, title, place):
    if title in doc.titles and title not in ('Note', 'Example'):
        raise SchemaError(place, f"section '{title}' appears twice")
    doc.titles.add(title)

    def store(text):
        if not text:
            raise SchemaError(place, f"section '{title}' is empty")
        doc.sections.append((title, text))
    return store


def parse(lines, place):
    """The Doc of the comment LINES: pairs of text and place."""
    first = next(((t, p) for t, p in lines if t), None)
    if not first:
        raise SchemaError(place, 'documentation comment is empty')
    head = _NAME.match(first[0])
    if not head:
        doc = Doc(None, place)
        doc.text = '\n'.join(text for text, _ in lines).strip('\n')
        return doc
    if head.group(2):
        raise SchemaError(first[1], f"text about '{head.group(1)}' belongs "
                          'on the lines below its name')
    doc = Doc(head.group(1), place)
    builder = _Builder(doc)
    in_features = False
    for text, where in lines[lines.index(first) + 1:]:
        name = _NAME.match(text)
        section = _SECTION.match(text)
        if name and in_features:
            builder.start(_add(doc.features, 'feature', name.group(1), doc,
                               where), name.group(2))
        elif name:
            builder.start(_add(doc.members, 'member', name.group(1), doc,
                               where), name.group(2))
        elif text == 'Features:':
            in_features = True
            builder.start(lambda _: None, None)
        elif section:
            builder.start(_section(doc, section.group(1), where),
                          section.group(2))
        elif builder.indented and text and not text.startswith(' '):
            raise SchemaError(where, 'a continuation line must be indented')
        else:
            builder.lines.append(text)
    builder.finish()
    if not doc.text:
        raise SchemaError(place, f"documentation of '{doc.name}' has no text")
    return doc
