# SPDX-License-Identifier: MIT
"""query-qmp-schema, query-commands: what managers look up.

The shape of the answer is checked here once; every reply and event of all
other scenarios is checked against it (see schema.py).
"""

import pytest

from .schema import Schema, SchemaError
from .server import Server

META_TYPES = {
    'builtin': {'json-type'},
    'enum': {'values', 'members'},
    'array': {'element-type'},
    'object': {'members', 'tag', 'variants'},
    'alternate': {'members'},
    'command': {'arg-type', 'ret-type', 'allow-oob'},
    'event': {'arg-type'},
}
JSON_TYPES = {'string', 'number', 'int', 'boolean', 'null', 'object',
              'array', 'value'}


@pytest.fixture
def known(server):
    return Schema(server.qmp('query-qmp-schema'))


def test_shape(known):
    """Every entry has what its meta-type asks for and refers to types
    that are there."""
    for entry in known.entries:
        meta = entry['meta-type']
        extra = set(entry) - {'name', 'meta-type', 'features'}
        assert extra <= META_TYPES[meta], entry
        if meta == 'builtin':
            assert entry['json-type'] in JSON_TYPES
        for key in ('arg-type', 'ret-type', 'element-type'):
            if key in entry:
                known.type(entry[key])
        for member in entry.get('members', []):
            if meta != 'enum':
                known.type(member['type'])
        if meta == 'command':
            assert {'arg-type', 'ret-type'} <= set(entry)
            assert known.type(entry['arg-type'])['meta-type'] == 'object'
        if 'tag' in entry:
            cases = {v['case'] for v in entry['variants']}
            tag = next(m for m in entry['members']
                       if m['name'] == entry['tag'])
            values = set(known.type(tag['type'])['values'])
            assert cases <= values
            for variant in entry['variants']:
                known.type(variant['type'])
        if meta == 'enum':
            assert entry['values'] == \
                [m['name'] for m in entry['members']]


def test_type_names_are_masked(known):
    """Types of the implementation are numbers; built-in ones and arrays
    of them have names, commands and events as well."""
    for entry in known.entries:
        if entry['meta-type'] in ('object', 'enum', 'alternate'):
            assert entry['name'].isdigit(), entry['name']
        elif entry['meta-type'] == 'array':
            assert entry['name'] == f"[{entry['element-type']}]"


def test_commands_agree(server, known):
    """query-commands and the schema name the same commands, each once."""
    names = [c['name'] for c in server.qmp('query-commands')]
    assert len(names) == len(set(names))
    assert set(names) == known.commands()


def test_no_unreachable_type(known):
    seen = set()
    todo = []
    for entry in known.entries:
        if entry['meta-type'] == 'command':
            todo += [entry['arg-type'], entry['ret-type']]
        elif entry['meta-type'] == 'event':
            todo.append(entry['arg-type'])
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        entry = known.type(name)
        todo += [m['type'] for m in entry.get('members', [])
                 if 'type' in m]
        todo += [v['type'] for v in entry.get('variants', [])]
        if 'element-type' in entry:
            todo.append(entry['element-type'])
    types = {e['name'] for e in known.entries
             if e['meta-type'] not in ('command', 'event')}
    assert types == seen


COMMANDS = '''
    block-dirty-bitmap-add block-dirty-bitmap-clear
    block-dirty-bitmap-disable block-dirty-bitmap-enable
    block-dirty-bitmap-merge block-dirty-bitmap-remove block-export-add
    block-export-del block-job-cancel block-job-complete block-job-dismiss
    block-job-finalize block-job-pause block-job-resume
    block-job-set-speed block_resize blockdev-add blockdev-backup
    blockdev-create blockdev-del drive-backup job-cancel job-complete
    job-dismiss job-finalize job-pause job-resume nbd-server-add
    nbd-server-remove nbd-server-start nbd-server-stop qmp_capabilities
    query-block query-block-exports query-block-jobs query-commands
    query-jobs query-named-block-nodes query-qmp-schema query-version quit
    transaction x-debug-block-dirty-bitmap-sha256'''.split()

EVENTS = '''BLOCK_EXPORT_DELETED BLOCK_IMAGE_CORRUPTED BLOCK_JOB_CANCELLED
    BLOCK_JOB_COMPLETED BLOCK_JOB_ERROR BLOCK_JOB_PENDING
    JOB_STATUS_CHANGE'''.split()


@pytest.mark.parametrize('command', COMMANDS)
def test_has_command(known, command):
    known.command(command)


@pytest.mark.parametrize('event', EVENTS)
def test_has_event(known, event):
    known.event(event)


PATHS = '''
    blockdev-backup/arg-type/bitmap
    blockdev-backup/arg-type/bitmap-mode/^on-success
    blockdev-backup/arg-type/sync/^incremental
    blockdev-backup/arg-type/sync/^bitmap
    blockdev-backup/arg-type/auto-dismiss
    blockdev-backup/arg-type/filter-node-name
    blockdev-add/arg-type/driver/^qcow2
    blockdev-add/arg-type/driver/^null-co
    blockdev-add/arg-type/+file/filename
    blockdev-add/arg-type/+file/locking/^auto
    blockdev-add/arg-type/+qcow2/backing
    blockdev-add/arg-type/+qcow2/file
    blockdev-add/arg-type/+qcow2/file/driver
    blockdev-add/arg-type/+null-co/read-zeroes
    blockdev-add/arg-type/auto-read-only
    blockdev-add/arg-type/cache/direct
    blockdev-add/arg-type/detect-zeroes/^unmap
    blockdev-add/arg-type/force-share
    blockdev-create/arg-type/options/+qcow2/cluster-size
    blockdev-create/arg-type/options/+file/preallocation
    block-dirty-bitmap-merge/arg-type/bitmaps/node
    block-export-add/arg-type/+nbd/bitmaps
    block-export-add/arg-type/writable
    nbd-server-add/arg-type/bitmap
    nbd-server-start/arg-type/max-connections
    nbd-server-start/arg-type/addr/+unix/data/path
    query-named-block-nodes/arg-type/flat
    query-named-block-nodes/ret-type/dirty-bitmaps/busy
    query-named-block-nodes/ret-type/dirty-bitmaps/inconsistent
    query-named-block-nodes/ret-type/image/virtual-size
    query-jobs/ret-type/error
    query-jobs/ret-type/status/^concluded
    query-block/ret-type/inserted/node-name
    transaction/arg-type/actions/+blockdev-backup/data/sync
    transaction/arg-type/actions/+block-dirty-bitmap-merge/data/target
    transaction/arg-type/actions/+abort
    transaction/arg-type/properties/completion-mode/^grouped
    JOB_STATUS_CHANGE/arg-type/status/^ready
    BLOCK_JOB_COMPLETED/arg-type/error'''.split()


@pytest.mark.parametrize('path', PATHS)
def test_lookup(known, path):
    """The paths that managers take through the schema."""
    assert known.lookup(path) is not None


@pytest.mark.parametrize('path', [
    'no-such-command/arg-type', 'blockdev-backup/arg-type/nope',
    'blockdev-add/arg-type/driver/^nope', 'blockdev-add/arg-type/+nope'])
def test_lookup_of_nothing(known, path):
    assert known.lookup(path) is None


def optional(member):
    return 'default' in member


def compare_types(ours, theirs, our_name, their_name, where, problems,
                  seen):
    """What both have must be of one kind; what they may leave out we may
    not demand."""
    if (our_name, their_name) in seen:
        return
    seen.add((our_name, their_name))
    mine, other = ours.type(our_name), theirs.type(their_name)
    if mine['meta-type'] != other['meta-type']:
        problems.append(f"{where}: {mine['meta-type']}, not "
                        f"{other['meta-type']}")
        return
    kind = mine['meta-type']
    if kind == 'builtin' and mine['json-type'] != other['json-type']:
        problems.append(f"{where}: {mine['json-type']}, not "
                        f"{other['json-type']}")
    elif kind == 'array':
        compare_types(ours, theirs, mine['element-type'],
                      other['element-type'], where + '[]', problems, seen)
    elif kind == 'object':
        if mine.get('tag') != other.get('tag'):
            problems.append(f"{where}: tag {mine.get('tag')}, not "
                            f"{other.get('tag')}")
        our_members = {m['name']: m for m in mine['members']}
        their_members = {m['name']: m for m in other['members']}
        for name in sorted(our_members):
            member = our_members[name]
            path = f'{where}.{name}'
            if name not in their_members:
                continue
            if optional(member) != optional(their_members[name]):
                problems.append(f'{path}: '
                                f'{"" if optional(member) else "not "}'
                                f'optional, unlike theirs')
            compare_types(ours, theirs, member['type'],
                          their_members[name]['type'], path, problems, seen)
        cases = {v['case']: v['type'] for v in other.get('variants', [])}
        for variant in mine.get('variants', []):
            if variant['case'] in cases:
                compare_types(ours, theirs, variant['type'],
                              cases[variant['case']],
                              f"{where}+{variant['case']}", problems, seen)


@pytest.fixture
def reference(setup):
    """The schema of Debian's qemu-storage-daemon."""
    other = Server(setup, name='reference')
    other.is_qemu = True
    try:
        other.start()
        yield Schema(other.qmp('query-qmp-schema'))
    finally:
        other.stop()


# A union by job type since QEMU 9.1.
SINCE_QEMU_9 = ('query-block-jobs ret-type[]',)


def test_agrees_with_qemu(known, reference):
    """Commands and events that both have: same types, same optionality of
    the members that both have."""
    problems, seen = [], set()
    for name in sorted(known.commands() & reference.commands()):
        for part in ('arg-type', 'ret-type'):
            compare_types(known, reference, known.command(name)[part],
                          reference.command(name)[part],
                          f'{name} {part}', problems, seen)
    for name in sorted(known.events() & reference.events()):
        compare_types(known, reference, known.event(name)['arg-type'],
                      reference.event(name)['arg-type'], name, problems,
                      seen)
    problems = [p for p in problems if not p.startswith(SINCE_QEMU_9)]
    assert not problems, '\n'.join(problems)


def test_arguments_that_qemu_has(known, reference):
    """Mandatory reply members of QEMU are in our replies, and mandatory
    arguments are arguments here."""
    missing = []
    for name in sorted(known.commands() & reference.commands()):
        mine = known.members(known.type(known.command(name)['arg-type']))
        other = reference.members(
            reference.type(reference.command(name)['arg-type']))
        missing += [f'{name}.{member}' for member in other
                    if member not in mine and not optional(other[member])]
        ret, their_ret = (s.type(s.command(name)['ret-type'])
                          for s in (known, reference))
        while their_ret['meta-type'] == 'array' and \
                ret['meta-type'] == 'array':
            ret = known.type(ret['element-type'])
            their_ret = reference.type(their_ret['element-type'])
        if ret['meta-type'] == their_ret['meta-type'] == 'object':
            missing += [f'{name} reply.{m}'
                        for m, entry in reference.members(their_ret).items()
                        if m not in known.members(ret)
                        and not optional(entry)]
    assert not missing


def test_validator_notices():
    """(Of the suite itself: the checker can fail.)"""
    schema = Schema([
        {'meta-type': 'object', 'name': '0', 'members': [
            {'name': 'a', 'type': 'int'},
            {'name': 'b', 'type': 'str', 'default': None}]},
        {'meta-type': 'builtin', 'name': 'int', 'json-type': 'int'},
        {'meta-type': 'builtin', 'name': 'str', 'json-type': 'string'}])
    schema.check_value('0', {'a': 1}, 'x')
    schema.check_value('0', {'a': 1, 'b': 'c'}, 'x')
    for bad in ({}, {'a': '1'}, {'a': True}, {'a': 1, 'b': 2},
                {'a': 1, 'c': 2}, [], None):
        with pytest.raises(SchemaError):
            schema.check_value('0', bad, 'x')
