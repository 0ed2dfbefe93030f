# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 228: when a node's file name has to say what its
backing file is."""

import shutil

import pytest

from .images import qemu_img
from .test_transcripts import transcript   # pylint: disable=unused-import

MIB = 1 << 20
pytestmark = [
    pytest.mark.ours(reason='compares the two servers itself'),
    pytest.mark.skipif(not shutil.which('qemu-system-x86_64'),
                       reason='no qemu-system-x86_64'),
]


def file_node(name, fmt='qcow2'):
    return {'driver': fmt, 'file': {'driver': 'file', 'filename': name}}


def show(t):
    t.qmp('query-named-block-nodes', {'flat': True})


@pytest.mark.parametrize('backing', [
    'implicit', None, dict(file_node('DIR/base'), **{'node-name': 'below'}),
    file_node('DIR/base'), file_node('DIR/base', 'raw'),
    file_node('DIR/other'),
    dict(file_node('DIR/base'), discard='unmap'),
    dict(file_node('DIR/base'), **{'read-only': True,
                                   'cache': {'direct': True}}),
    {'driver': 'raw', 'offset': 0, 'file': {'driver': 'file', 'filename':
                                            'DIR/base'}}])
def test_228_backing(transcript, backing):
    t = transcript()
    t.image('base', MIB)
    t.image('other', MIB)
    t.image('top', MIB, backing='DIR/base')
    t.start()
    top = dict(file_node('DIR/top'), **{'node-name': 'node0'})
    if backing != 'implicit':
        top['backing'] = backing
    t.qmp('blockdev-add', top)
    show(t)
    t.quit()


def test_228_file_prefix(transcript):
    """The header names the base in another way than the node does."""
    t = transcript()
    t.image('base', MIB)
    for side in t.sides:
        path = side.images.path('top')
        side.images.formats[path] = 'qcow2'
        qemu_img('create', '-f', 'qcow2', '-F', 'qcow2', '-b',
                 'file:' + side.images.path('base'), path)
    t.start()
    below = file_node('DIR/base')
    for backing in ('implicit', below, dict(below, **{
            'file': {'driver': 'file', 'filename': 'DIR/base',
                     'discard': 'unmap'}}), None):
        top = dict(file_node('DIR/top'), **{'node-name': 'node0'})
        if backing != 'implicit':
            top['backing'] = backing
        t.qmp('blockdev-add', top)
        show(t)
        t.qmp('blockdev-del', {'node-name': 'node0'})
    t.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'null'})
    t.qmp('blockdev-add', dict(file_node('DIR/top'), **{
        'node-name': 'node0', 'backing': 'null'}))
    show(t)
    t.quit()


@pytest.mark.parametrize('header', ['DIR/base', 'DIR/mid', 'nothing'])
def test_228_change_backing_file(transcript, header):
    t = transcript()
    t.image('base', MIB)
    t.image('mid', MIB, backing='DIR/base')
    t.image('top', MIB, backing='DIR/mid')
    t.start('-drive', 'if=none,id=drv,driver=qcow2,node-name=top,'
            'file.driver=file,file.filename=DIR/top,backing.node-name=mid')
    show(t)
    t.qmp('change-backing-file', {
        'device': 'drv', 'image-node-name': 'top',
        'backing-file': header})
    show(t)
    for side in t.sides:
        side.images.ignore(side.images.path('top'))
    t.quit()


def test_228_snapshot(transcript):
    """An overlay that is given its backing file."""
    t = transcript()
    t.image('base', MIB)
    t.image('ovl', MIB, backing='DIR/base')
    t.image('free', MIB)
    t.start()
    t.qmp('blockdev-add', dict(file_node('DIR/base'),
                               **{'node-name': 'node0'}))
    for name in ('ovl', 'free'):
        t.qmp('blockdev-add', dict(file_node(f'DIR/{name}'), **{
            'node-name': name, 'backing': None}))
    show(t)
    t.qmp('blockdev-snapshot', {'node': 'node0', 'overlay': 'ovl'})
    show(t)
    t.qmp('blockdev-snapshot', {'node': 'ovl', 'overlay': 'free'})
    show(t)
    t.quit()
