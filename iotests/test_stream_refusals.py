# SPDX-License-Identifier: MIT
"""block-stream: what it refuses, with QEMU's words and in QEMU's order; what
is refused while it runs.  Nothing has changed then."""

import pytest

from .jobs import start_stream
from .layers import MIB, Layers

BUSY = "Node '%s' is busy: block device is in use by block job: stream"


@pytest.fixture
def layers(server, images):
    return Layers(server, images, 'abcd').open()


EXCLUSIVE = "'%s' and '%s' cannot be specified at the same time"


@pytest.mark.parametrize('options, desc', [
    ({'device': 'no', 'base': 'a', 'base-node': 'b', 'bottom': 'c'},
     EXCLUSIVE % ('base', 'base-node')),
    ({'base': 'a', 'bottom': 'b'}, EXCLUSIVE % ('base', 'bottom')),
    ({'base-node': 'a', 'bottom': 'b'}, EXCLUSIVE % ('bottom', 'base-node')),
    ({'device': 'no', 'base': 'x'},
     "Cannot find device='no' nor node-name='no'"),
    ({'base': 'x'}, "Can't find 'x' in the backing chain"),
    ({'base': ''}, "Can't find '' in the backing chain"),
    ({'base': '/no/such/file'},
     "Can't find '/no/such/file' in the backing chain"),
    ({'base-node': 'x'}, "Cannot find device='' nor node-name='x'"),
    ({'bottom': 'x'}, "Cannot find device='' nor node-name='x'"),
    ({'base-node': 'd'}, "Node 'd' is not a backing image of 'd'"),
    ({'device': 'c', 'base-node': 'd'},
     "Node 'd' is not a backing image of 'c'"),
    ({'base-node': 'other'}, "Node 'other' is not a backing image of 'd'"),
    ({'device': 'c', 'bottom': 'd'},
     "Node 'd' is not in a chain starting from 'c'"),
    ({'bottom': 'throttle'},
     "Node 'throttle' is a filter, use a non-filter node as 'bottom'"),
    ({'backing-file': 'x', 'speed': -1},
     'backing file specified, but streaming the entire chain'),
    ({'backing-file': 'x', 'bottom': 'b'},
     'backing file specified, but streaming the entire chain'),
    ({'filter-node-name': 'a', 'job-id': '1 2'},
     "Could not create node: Duplicate nodes with node-name='a'"),
    ({'filter-node-name': '1 2'},
     "Could not create node: Invalid node-name: '1 2'"),
    ({'filter-node-name': 'x' * 32},
     'Could not create node: Node name too long'),
    ({'job-id': '1 2', 'speed': -1}, "Invalid job ID '1 2'"),
    ({'job-id': ''}, "Invalid job ID ''"),
    ({'base-node': 'a', 'speed': -1},
     "Parameter 'speed' expects a non-negative value"),
    ({'on-error': 'x'}, "Parameter 'on-error' does not accept value 'x'"),
    ({'device': 'throttle', 'base-node': 'other'},
     "'other' is not in the backing chain of 'throttle'"),
], ids=str)
def test_arguments(server, images, layers, options, desc):
    server.add_node('other', images.create('other.qcow2', MIB))
    server.qmp('object-add', qom_type='throttle-group', id='group')
    layers.add_filter('throttle', 'other')
    before = server.graph()
    server.fails('block-stream', dict({'device': 'd', 'job-id': 'j'},
                                      **options), desc=desc)
    assert server.graph() == before
    assert server.qmp('query-jobs') == []
    server.fails('job-cancel', id='j', desc='Job not found')


def test_job_id_in_use(server, layers):
    job = start_stream(server, 'b', speed=1)
    server.fails('block-stream', device='d', base_node='c', job_id='stream',
                 desc="Job ID 'stream' already in use")
    job.let_run()
    job.finish()


def test_overlaps(server, images):
    """Each node of the job's part of the chain is busy; the base is not,
    nor what is above."""
    layers = Layers(server, images, 'abcdefgh', size='32M')
    for i, name in enumerate('abcdefg'):
        layers.write(name, f'write -P {i + 9} {4 + 4 * i}M 4M')
    before = layers.content()
    layers.open()
    job = start_stream(server, 'f', base_node='c', speed=1,
                       filter_node_name='filter')

    def tries(device, base):
        options = {'base_node': base} if base else {}
        return server.fails('block-stream', device=device, job_id='other',
                            **options)

    for device, busy in ('dd', 'ee', 'ff', ('g', 'filter'),
                         ('h', 'filter'), ('filter', 'filter')):
        assert tries(device, None) == BUSY % busy
        assert tries(device, 'a') == BUSY % busy
    assert tries('d', 'c') == BUSY % 'd'
    assert tries('g', 'f') == BUSY % 'filter'
    assert tries('h', 'f') == BUSY % 'filter'
    for i, (device, base) in enumerate((
            ('c', 'b'), ('b', None), ('c', 'b'), ('h', 'filter'))):
        other = start_stream(server, device, job_id=f'other{i}',
                             **({'base_node': base} if base else {}))
        other.finish()
    assert layers.below('h')[0] == 'filter'
    job.let_run()
    job.finish()
    assert layers.below('h') == ['f', 'c', 'b']
    assert layers.below('g') == ['f', 'c', 'b']
    server.stop()
    layers.same(before)


def test_while_it_runs(server, images):
    """What would disturb it."""
    layers = Layers(server, images, 'abcd', size='64M')
    layers.write('b', 'write -P 9 0 64M')   # QEMU copies at each drain
    layers.open()
    job = start_stream(server, 'd', base_node='a', speed=1)
    server.add_node('target', images.create('target.qcow2', 8 * MIB))
    for name in 'bcd':
        server.fails('blockdev-del', node_name=name, desc=BUSY % name)
        server.fails('block_resize', node_name=name, size=MIB,
                     desc=["Device '(null)' is in use", BUSY % name])
        server.fails('blockdev-backup', device=name, target='target',
                     sync='full', job_id='b', desc=BUSY % name)
        server.fails('blockdev-backup', device='target', target=name,
                     sync='full', job_id='b', desc=BUSY % name)
    if not server.is_qemu:      # may crash there
        for name in 'cd':
            server.fails('blockdev-reopen', options=[
                {'driver': 'qcow2', 'node-name': name, 'backing': None,
                 'file': {'driver': 'file', 'filename': layers.path(name)}}])
    server.export('b', writable=False)
    server.fails(
        'block-export-add', type='nbd', id='w', node_name='c', name='w',
        writable=True)
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    assert layers.below('d') == ['c', 'b', 'a']


@pytest.mark.parametrize('writer, who', [
    ('c', "stream job 'j' (uses node 'c' as 'intermediate node' child)."),
    ('b', "node 'c' (uses node 'b' as 'backing' child).")])
def test_writer_between(server, layers, writer, who):
    """Who may write a layer that is to be copied is in the way."""
    server.export(writer)
    text = server.fails('block-stream', device='d', job_id='j')
    assert text.startswith(f"Permission conflict on node '{writer}': "
                           "permissions 'write' are both required by ")
    assert text.endswith(f'and unshared by {who}')
    server.unexport(writer)


def test_events_of_a_late_refusal(server, layers):
    """Found out when the job was made already: it vanishes."""
    server.export('b')
    server.mon.drop_events()
    server.fails('block-stream', device='d', job_id='j')
    events = [e['data']['status'] for e in server.mon.pump()
              if e['event'] == 'JOB_STATUS_CHANGE']
    assert events == ['created', 'null']
    server.unexport('b')


def test_frozen_by_a_filter(server, layers):
    """A copy-on-read filter counts on its part of the chain."""
    server.qmp('blockdev-add', driver='copy-on-read', node_name='cor',
               file='d', bottom='c')
    server.fails('block-stream', device='d', job_id='j',
                 desc="Could not create node: Cannot change 'backing' link "
                      "from 'd' to 'c'")
    start_stream(server, 'b').finish()
    assert layers.below('cor') == ['d', 'c', 'b']
