# SPDX-License-Identifier: MIT
"""COMPAT section 10, rows 206 and 244: blockdev-create of qcow2, each image
as qemu-img shows it and each error."""

import subprocess

import pytest

from .images import run_tool

GIB = 1 << 30
MIB = 1 << 20
OVERFLOW = 'Could not resize image: '


class Creator:
    def __init__(self, vm, images):
        self.vm = vm
        self.images = images
        self.path = images.path('t.qcow2')

    def run(self, options):
        """The error of the job, or None."""
        self.vm.qmp('blockdev-create', {'job-id': 'job0', 'options': options})
        seen = []
        while not seen or seen[-1] != 'concluded':
            seen.append(self.vm.wait_event('JOB_STATUS_CHANGE',
                                           {'id': 'job0'})['data']['status'])
        job = self.vm.qmp('query-jobs')[0]
        error = job.get('error')
        assert seen == ['created', 'running'] + (
            ['aborting', 'concluded'] if error else
            ['waiting', 'pending', 'concluded'])
        self.vm.qmp('job-dismiss', id='job0')
        self.vm.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})
        assert self.vm.qmp('query-jobs') == []
        return error

    def file(self):
        """As the test's first step: an empty file and a node on it."""
        assert self.run({'driver': 'file', 'filename': self.path,
                         'size': 0}) is None
        self.vm.qmp('blockdev-add', {'driver': 'file', 'node-name':
                                     'imgfile', 'filename': self.path})

    def info(self):
        info = self.images.info(self.path, '-f', 'qcow2')
        data = info['format-specific']['data']
        return info['virtual-size'], info['cluster-size'], data


@pytest.fixture
def creator(launch, images):
    vm = launch()
    vm.start()
    return Creator(vm, images)


def test_206_success(creator):
    creator.file()
    assert creator.run({'driver': 'qcow2', 'file': 'imgfile',
                        'size': 128 * MIB}) is None
    creator.vm.stop()
    size, cluster, data = creator.info()
    assert (size, cluster) == (128 * MIB, 65536)
    assert data['compat'] == '1.1' and data['refcount-bits'] == 16
    assert not data['lazy-refcounts'] and not data['extended-l2']


@pytest.mark.parametrize('options, cluster, wanted', [
    ({'version': 'v3', 'cluster-size': 65536, 'preallocation': 'off',
      'lazy-refcounts': False, 'refcount-bits': 16, 'nocow': None}, 65536,
     {'compat': '1.1', 'lazy-refcounts': False, 'refcount-bits': 16}),
    ({'version': 'v3', 'cluster-size': 2 * MIB, 'preallocation': 'metadata',
      'lazy-refcounts': True, 'refcount-bits': 1}, 2 * MIB,
     {'compat': '1.1', 'lazy-refcounts': True, 'refcount-bits': 1}),
    ({'version': 'v2', 'cluster-size': 512}, 512,
     {'compat': '0.10', 'refcount-bits': 16})])
def test_206_options(creator, options, cluster, wanted):
    inline = 'nocow' in options
    options = {k: v for k, v in options.items() if v is not None}
    node = 'imgfile'
    if inline:
        assert creator.run({'driver': 'file', 'filename': creator.path,
                            'size': 0, 'preallocation': 'off',
                            'nocow': False}) is None
        node = {'driver': 'file', 'filename': creator.path}
    else:
        creator.file()
    assert creator.run(dict(options, driver='qcow2', file=node,
                            size=64 * MIB)) is None
    creator.vm.stop()
    size, got, data = creator.info()
    assert (size, got) == (64 * MIB, cluster)
    for key, value in wanted.items():
        assert data[key] == value
    creator.images.adopt(creator.path)


def test_206_backing_file(creator):
    creator.images.create('base', 64 * MIB, fmt='raw')
    creator.file()
    assert creator.run({
        'driver': 'qcow2', 'file': 'imgfile', 'size': 64 * MIB,
        'backing-file': '/dev/null', 'backing-fmt': 'raw'}) is None
    creator.vm.stop()
    info = creator.images.info(creator.path, '-f', 'qcow2')
    assert info['backing-filename'] == '/dev/null'
    assert info['backing-filename-format'] == 'raw'


@pytest.mark.parametrize('file, desc', [
    ('this doesn\'t exist',
     "Cannot find device='this doesn't exist' nor "
     "node-name='this doesn't exist'")])
def test_206_no_such_node(creator, file, desc):
    assert creator.run({'driver': 'qcow2', 'file': file,
                        'size': 33554432}) == desc


@pytest.mark.parametrize('size, error', [
    (1234, 'Image size must be a multiple of 512 bytes'),
    (18446744073709551104, OVERFLOW + 'Image size cannot be negative'),
    (9223372036854775808, OVERFLOW + 'Image size cannot be negative'),
    (9223372036854775296, OVERFLOW + 'offset(9223372036854775296) exceeds '
     'maximum(9223372035781033984)'),
    (9223372035781033984, OVERFLOW + 'Failed to grow the L1 table: File too '
     'large')])
def test_206_size(creator, size, error):
    creator.file()
    assert creator.run({'driver': 'qcow2', 'file': 'imgfile',
                        'size': size}) == error
    creator.images.formats.pop(creator.path, None)


@pytest.mark.parametrize('options, desc', [
    ({'version': 'v1'}, "Parameter 'version' does not accept value 'v1'"),
    ({'version': 'blah'}, "Parameter 'version' does not accept value 'blah'"),
    ({'backing-file': None}, "Invalid parameter type for "
     "'options.backing-file', expected: string"),
    ({'preallocation': 'quite'},
     "Parameter 'preallocation' does not accept value 'quite'")])
def test_206_refused(creator, options, desc):
    creator.file()
    creator.vm.fails('blockdev-create', {'job-id': 'job0', 'options': dict(
        options, driver='qcow2', file='imgfile', size=64 * MIB)}, desc=desc)


CLUSTER = 'Cluster size must be a power of two between 512 and 2048k'
REFCOUNT = 'Refcount width must be a power of two and may not exceed 64 bits'
V3 = ' (use version=v3 or greater)'


@pytest.mark.parametrize('options, error', [
    ({'backing-fmt': 'qcow2'},
     'Backing format cannot be used without backing file'),
    ({'backing-file': '/dev/null', 'backing-fmt': 'raw',
      'preallocation': 'full'},
     'Backing file and preallocation can only be used at the same time if '
     'extended_l2 is on'),
    ({'lazy-refcounts': True, 'version': 'v2'},
     'Lazy refcounts only supported with compatibility level 1.1 and above'
     + V3),
    *[({'cluster-size': n}, CLUSTER) for n in
      (1234, 128, 4 * MIB, 0)],
    *[({'refcount-bits': n}, REFCOUNT) for n in (128, 0, 7)],
    *[({'version': 'v2', 'refcount-bits': n},
       'Different refcount widths than 16 bits require compatibility level '
       '1.1 or above' + V3) for n in (8, 32)]])
def test_206_job_fails(creator, options, error):
    creator.file()
    assert creator.run(dict(options, driver='qcow2', file='imgfile',
                            size=64 * MIB)) == error


def test_244_data_file(creator):
    """What the server has to do with: an image with a data file."""
    data = creator.images.path('t.data')
    creator.file()
    assert creator.run({'driver': 'file', 'filename': data,
                        'size': 0}) is None
    creator.vm.qmp('blockdev-add', {'driver': 'file', 'node-name': 'dataf',
                                    'filename': data})
    assert creator.run({
        'driver': 'qcow2', 'file': 'imgfile', 'data-file': 'dataf',
        'data-file-raw': True, 'size': MIB, 'preallocation': 'falloc'
    }) is None
    creator.vm.stop()
    with open(data, 'rb') as file:
        assert len(file.read()) == MIB
    creator.images.adopt(creator.path)
    assert creator.info()[2]['data-file-raw']
    run_tool('qemu-io', '-c', 'write -P 7 0 64k', '--image-opts',
             f'driver=qcow2,file.filename={creator.path},data-file.driver='
             f'file,data-file.filename={data}')
    assert subprocess.run(['cmp', '-n', '65536', data, '/dev/stdin'],
                          input=b'\7' * 65536, check=False).returncode == 0


def test_244_data_file_needed(creator):
    """As its first part: the name is not in the header."""
    data = creator.images.path('t.data')
    creator.file()
    creator.run({'driver': 'file', 'filename': data, 'size': 0})
    creator.vm.qmp('blockdev-add', {'driver': 'file', 'node-name': 'dataf',
                                    'filename': data})
    assert creator.run({'driver': 'qcow2', 'file': 'imgfile',
                        'data-file': 'dataf', 'size': 64 * MIB}) is None
    for name in ('dataf', 'imgfile'):
        creator.vm.qmp('blockdev-del', {'node-name': name})
    add = {'driver': 'qcow2', 'node-name': 'disk', 'file': {
        'driver': 'file', 'filename': creator.path}}
    creator.vm.qmp('blockdev-add', dict(add, **{'data-file': {
        'driver': 'file', 'filename': data, 'node-name': 'data'}}))
    assert creator.vm.qemu_io('disk', 'write -P 5 0 1M') == ''
    creator.vm.qmp('blockdev-del', {'node-name': 'disk'})
    with open(data, 'rb') as file:
        assert file.read(MIB) == b'\5' * MIB
