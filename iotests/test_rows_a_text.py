# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 071, 081 and 095: sessions that come through a
pipe as a whole, and are compared as text."""

import shutil

import pytest

from .harness import Shell
from .test_transcripts import transcript   # pylint: disable=unused-import

MIB = 1 << 20
SIZE = 10 * MIB
NEGOTIATE = "{ 'execute': 'qmp_capabilities' }\n"
QUIT = "{ 'execute': 'quit' }\n"
pytestmark = [
    pytest.mark.ours(reason='compares the two servers itself'),
    pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                       reason='no qemu-system-x86_64'),
]


def session(t, text, *args, returns=True):
    """All of TEXT at once, then the end of the input."""
    for side in t.sides:
        side.shell = Shell(
            side.setup, [a.replace('DIR', side.setup.directory)
                         for a in args], monitor=t.monitor)
    t.send(NEGOTIATE + text + QUIT)
    for side in t.sides:
        side.shell.proc.stdin.close()
    t.compare(returns)


def hmp_read(node, what):
    return ("{ 'execute': 'human-monitor-command', 'arguments': { "
            f"'command-line': 'qemu-io {node} \"{what}\"' }} }}\n")


def raws(t, corrupt=None):
    for i in (1, 2, 3):
        t.image(f'{i}.raw', SIZE, fmt='raw', io=[
            f'write -P {"0x42" if i == corrupt else "0x32"} 0 {SIZE}'])


def child(n):
    return ("{ 'driver': 'raw', 'file': { 'driver': 'file', 'filename': "
            f"'DIR/{n}.raw' }} }}")


@pytest.mark.parametrize('corrupt', [None, 2, 3])
def test_081_mixed_references(transcript, corrupt):
    t = transcript()
    raws(t, corrupt)
    session(t, f"""
{{ 'execute': 'blockdev-add',
    'arguments': {{
        'node-name': 'drive0-quorum',
        'driver': 'quorum',
        'vote-threshold': 2,
        'children': [ {child(1)}, 'drive2', {child(3)} ]
    }}
}}
""" + hmp_read('drive0-quorum', f'read -P 0x32 0 {SIZE}'),
            '-drive', 'file=DIR/2.raw,format=raw,if=none,id=drive2')


@pytest.mark.parametrize('verify', ['false', 'true'])
def test_081_add_child(transcript, verify):
    t = transcript()
    raws(t)
    session(t, f"""
{{ 'execute': 'blockdev-add', 'arguments': {{
    'node-name': 'drive0-quorum', 'driver': 'quorum', 'vote-threshold': 2,
    'blkverify': {verify}, 'children': [ {child(1)}, {child(2)} ] }} }}
{{ 'execute': 'blockdev-add', 'arguments': {{
    'node-name': 'drive3', 'driver': 'raw',
    'file': {{ 'driver': 'file', 'filename': 'DIR/3.raw' }} }} }}
{{ 'execute': 'x-blockdev-change', 'arguments': {{
    'parent': 'drive0-quorum', 'node': 'drive3' }} }}
""" + hmp_read('drive0-quorum', f'read -P 0x32 0 {SIZE}'))


@pytest.mark.parametrize('verify', ['false', 'true'])
@pytest.mark.parametrize('threshold', [1, 2])
def test_081_remove_child(transcript, verify, threshold):
    t = transcript()
    raws(t)
    session(t, f"""
{{ 'execute': 'blockdev-add', 'arguments': {{
    'node-name': 'drive0-quorum', 'driver': 'quorum',
    'vote-threshold': {threshold}, 'blkverify': {verify},
    'children': [ {child(1)}, {child(2)} ] }} }}
{{ 'execute': 'x-blockdev-change', 'arguments': {{
    'parent': 'drive0-quorum', 'child': 'children.1' }} }}
""" + hmp_read('drive0-quorum', f'read -P 0x32 0 {SIZE}'))


DEBUG = """
{ 'execute': 'blockdev-add', 'arguments': {
    'node-name': 'drive0', 'driver': 'DRIVER',
    'file': { 'driver': 'file', 'filename': 'DIR/t' } } }
"""


def test_071_blkdebug(transcript):
    t = transcript()
    t.image('t', 64 * MIB)
    session(t, """
{ 'execute': 'blockdev-add', 'arguments': {
    'node-name': 'drive0', 'driver': 'file', 'filename': 'DIR/t' } }
{ 'execute': 'blockdev-add', 'arguments': {
    'driver': 'qcow2', 'node-name': 'drive0-debug',
    'file': { 'driver': 'blkdebug', 'image': 'drive0',
              'inject-error': [ { 'event': 'l2_load' } ] } } }
""" + hmp_read('drive0-debug', 'read 0 512'))


def test_071_blkverify(transcript):
    """drive0 over blkverify: what is read must be there twice."""
    t = transcript()
    t.image('t', 64 * MIB)
    t.image('base', 64 * MIB, fmt='raw', io=['write -P 42 0 512'])
    session(t, DEBUG.replace('DRIVER', 'qcow2') + """
{ 'execute': 'blockdev-add', 'arguments': {
    'driver': 'blkverify', 'node-name': 'drive0-verify', 'test': 'drive0',
    'raw': { 'driver': 'file', 'filename': 'DIR/base' } } }
""" + hmp_read('drive0-verify', 'read 0 512'))


def test_071_blkverify_raw(transcript):
    """An existing node as the raw side."""
    t = transcript()
    t.image('t', 64 * MIB)
    t.image('base', 64 * MIB, fmt='raw', io=['write -P 42 0 512'])
    session(t, """
{ 'execute': 'blockdev-add', 'arguments': {
    'node-name': 'drive0', 'driver': 'file', 'filename': 'DIR/base' } }
{ 'execute': 'blockdev-add', 'arguments': {
    'driver': 'blkverify', 'node-name': 'drive0-verify', 'raw': 'drive0',
    'test': { 'driver': 'qcow2',
              'file': { 'driver': 'file', 'filename': 'DIR/t' } } } }
""" + hmp_read('drive0-verify', 'read 0 512'))


def test_071_set_state(transcript):
    """No space from the second write on; said at quit."""
    t = transcript()
    t.image('t', 64 * MIB)
    for side in t.sides:
        side.images.ignore(side.images.path('t'))
    session(t, """
{ 'execute': 'blockdev-add', 'arguments': {
    'driver': 'qcow2', 'node-name': 'drive0', 'file': {
        'driver': 'blkdebug',
        'image': { 'driver': 'file', 'filename': 'DIR/t' },
        'inject-error': [ { 'event': 'write_aio', 'state': 42,
                            'errno': 28 } ],
        'set-state': [ { 'event': 'write_aio', 'new_state': 42 } ] } } }
""" + hmp_read('drive0', 'write 0 512') + hmp_read('drive0', 'write 1M 512')
            + hmp_read('drive0', 'read 0 512'))


def test_095_commit(transcript):
    t = transcript()
    t.image('t.base', 5 * MIB)
    t.image('t.snp1', 100 * MIB, backing='DIR/t.base')
    t.image('t', 100 * MIB, backing='DIR/t.snp1')
    t.start('-drive', 'file=DIR/t,if=virtio,id=test,format=qcow2')
    t.qmp('block-commit', {'device': 'test', 'top': 'DIR/t.snp1'},
          until='"null"')
    t.quit()
    for side in t.sides:
        info = side.images.info(side.images.path('t.base'))
        assert info['virtual-size'] == 100 * MIB
