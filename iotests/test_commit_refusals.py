# SPDX-License-Identifier: MIT
"""block-commit: what is refused, and with what words."""

import pytest

from .commits import Chain, MIB, start_commit

SIZE = MIB


@pytest.fixture
def chain(server, images):
    return Chain(images, [SIZE] * 4).fill_at_random(1, 4).add(server)


BUSY = 'block device is in use by block job: commit'
NOT_IN_CHAIN = "'{}' is not in this backing file chain"
EXCLUSIVE = "'{0}-node' and '{0}' are mutually exclusive"
ITSELF = 'cannot commit an image into itself'
UNKNOWN = "Cannot find device='' nor node-name='nosuch'"
NOT_FOUND = "Can't find '{}' in the backing chain"


@pytest.mark.parametrize('options, text', [
    ({'base': 'x', 'base_node': 'y'}, EXCLUSIVE.format('base')),
    ({'top': 'x', 'top_node': 'y'}, EXCLUSIVE.format('top')),
    ({'top': 'x', 'top_node': 'y', 'base': 'x', 'base_node': 'y'},
     EXCLUSIVE.format('top')),
    ({'top': 'nosuch'}, 'Top image file nosuch not found'),
    ({'top': 'nosuch', 'base': 'x', 'base_node': 'y'},
     'Top image file nosuch not found'),
    ({'base': 'nosuch'}, NOT_FOUND.format('nosuch')),
    ({'top_node': 'nosuch', 'base_node': 'gone'}, UNKNOWN),
    ({'base_node': 'nosuch'}, UNKNOWN),
    ({'base_node': 'l2', 'top_node': 'l2'}, ITSELF),
    ({'base_node': 'l3'}, ITSELF),
    ({'top_node': 'l0'}, ITSELF),
    ({'top_node': 'l0', 'backing_file': 'x'}, ITSELF),
    ({'base_node': 'l2', 'top_node': 'l1'}, NOT_IN_CHAIN.format('l2')),
    ({'base_node': 'alone'}, NOT_IN_CHAIN.format('alone')),
    ({'top_node': 'alone'}, NOT_IN_CHAIN.format('alone')),
    ({'backing_file': 'x'},
     "'backing-file' specified, but 'top' is the active layer"),
    ({'backing_file': 'x', 'top_node': 'l3', 'speed': -1},
     "'backing-file' specified, but 'top' is the active layer"),
    ({'speed': -1}, "Parameter 'speed' expects a non-negative value"),
    ({'speed': -1, 'top_node': 'l2'},
     "Parameter 'speed' expects a non-negative value"),
    ({'speed': -1, 'top': 'nosuch'}, 'Top image file nosuch not found'),
    ({'on_error': 'foo'},
     "Parameter 'on-error' does not accept value 'foo'"),
    ({'filter_node_name': 'l1'}, "Duplicate nodes with node-name='l1'"),
    ({'filter_node_name': 'l1', 'top_node': 'l2'},
     "Duplicate nodes with node-name='l1'"),
    ({'filter_node_name': 'a b', 'top_node': 'l2'},
     "Invalid node-name: 'a b'"),
    ({'job_id': 'a b'}, "Invalid job ID 'a b'"),
    ({'job_id': 'a b', 'top_node': 'l2'}, "Invalid job ID 'a b'"),
    ({'job_id': None}, "Invalid job ID ''"),
    ({'job_id': None, 'top_node': 'l2'}, "Invalid job ID ''"),
    ({'device': 'l2'}, 'Need a root block node'),
    ({'device': 'l2', 'top': 'nosuch'}, 'Need a root block node'),
])
def test_arguments(server, images, chain, options, text):
    """Nothing has changed after each."""
    server.add_node('alone', images.create('alone.qcow2', SIZE))
    before = server.graph()
    arguments = dict({'job_id': 'commit', 'device': 'l3'}, **options)
    server.fails('block-commit', desc=text,
                 **{k: v for k, v in arguments.items() if v is not None})
    assert server.qmp('query-jobs') == []
    assert server.nodes()['l0']['ro']
    if not server.is_qemu:
        assert server.graph() == before


def test_no_device(server, chain):
    server.mon.fails('block-commit', device='nosuch', job_id='commit',
                     desc="Device 'nosuch' not found", cls='DeviceNotFound')


def test_names_in_the_chain(server, chain):
    """The names of others than l0 to l2, by any path, are no top."""
    for name in (chain.paths[0], 'l0.qcow2'):
        server.fails('block-commit', job_id='commit', device='l3', top=name,
                     desc=ITSELF)
    base = chain.paths[2]
    server.fails('block-commit', job_id='commit', device='l3', base=base,
                 top=base, desc=NOT_FOUND.format(base))
    server.fails('block-commit', job_id='commit', device='l3', base=base,
                 top=chain.paths[1], desc=NOT_FOUND.format(base))


def test_base_stays_read_only(server, images):
    """Its file was opened so, by another node."""
    chain = Chain(images, [SIZE] * 3)
    server.add_file('f0', chain.paths[0], read_only=True)
    server.qmp('blockdev-add', driver='qcow2', node_name='l0', file='f0',
               read_only=True)
    server.add_node('l1', chain.paths[1], backing='l0', read_only=True)
    server.add_node('l2', chain.paths[2], backing='l1')
    for top in ({'top_node': 'l1'}, {}):
        server.fails('block-commit', job_id='commit', device='l2', **top,
                     desc='Block node is read-only')
    assert server.nodes()['l0']['ro']


@pytest.mark.parametrize('active', [False, True])
def test_while_it_runs(server, images, active):
    """What is refused on its nodes."""
    chain = Chain(images, [32 * MIB] * 4)
    for layer in (1, 3):
        chain.write(layer, 0, 32 * MIB)
    chain.add(server)
    job = start_commit(server, 'l3', base_node='l0', speed=1,
                       **({} if active else {'top_node': 'l2'}))
    nodes = ('l0', 'l1', 'l2', 'l3')
    for node in nodes:
        if server.is_qemu and active and node == 'l3':
            continue
        # "in use": what the job writes to, which QEMU's jobs have as a disk.
        server.fails('blockdev-del', node_name=node,
                     desc=[f"Node '{node}' is busy: {BUSY}",
                           f'Node {node} is in use'])
        if not server.is_qemu:
            server.fails('block_resize', node_name=node, size=64 * MIB,
                         desc=f"Node '{node}' is busy: {BUSY}")
    if not active:
        for node in nodes[1:]:
            server.fails('blockdev-snapshot-sync', {
                'node-name': node, 'snapshot-file': images.path('s'),
                'snapshot-node-name': 's'},
                desc=f"Node '{node}' is busy: {BUSY}")
        server.fails('block-commit', job_id='two', device='l3',
                     top_node='l1', base_node='l0',
                     desc='Need a root block node')
    job.cancel()
    job.wait('concluded')
    job.dismiss()
    chain.remove(server)


@pytest.mark.ours('new here')
def test_order_of_the_active_layer(server, chain):
    server.fails('block-commit', job_id='commit', device='l3',
                 commit_order='depth-first',
                 desc="'commit-order' depth-first is not for the active "
                      "layer")
