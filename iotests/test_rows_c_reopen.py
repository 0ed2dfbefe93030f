# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 245: blockdev-reopen, case by case."""

import copy
import re

import pytest

MIB = 1 << 20
KIB = 1 << 10
FROZEN = "Cannot change frozen 'backing' link from '{}' to '{}'"
CYCLE = "Making '{}' a backing child of '{}' would create a cycle"


class Disks:
    """Three images, hd0 to hd2; hd1's header names hd0."""

    def __init__(self, vm, images):
        self.vm = vm
        self.images = images
        self.n_io = 0
        self.path = [images.create('hd0.img', 3 * MIB)]
        self.path.append(images.create('hd1.img', 3 * MIB,
                                       backing=self.path[0]))
        self.path.append(images.create('hd2.img', 3 * MIB))
        for i, path in enumerate(self.path):
            images.io(path, f'write -P {0xa0 + i} {i}M 1M')

    def opts(self, i, **more):
        return dict({'driver': 'qcow2', 'node-name': f'hd{i}', 'file': {
            'driver': 'file', 'node-name': f'hd{i}-file',
            'filename': self.path[i]}}, **more)

    def chain(self):
        """hd2 <- hd1 <- hd0, each inline."""
        return self.opts(0, backing=self.opts(1, backing=self.opts(2)))

    def add(self, options):
        self.vm.qmp('blockdev-add', options)
        return options

    def delete(self, *names):
        for name in names:
            self.vm.qmp('blockdev-del', {'node-name': name})

    def reopen(self, options, changes=(), desc=None):
        """OPTIONS with CHANGES, keys of which may be dotted."""
        options = copy.deepcopy(options)
        for key, value in dict(changes).items():
            inner = options
            while '.' in key:
                prefix, key = key.split('.', 1)
                inner = inner[prefix]
            inner[key] = value
        self.reopen_all([options], desc)

    def reopen_all(self, options, desc=None):
        if desc:
            self.vm.fails('blockdev-reopen', {'options': options}, desc=desc)
        else:
            self.vm.qmp('blockdev-reopen', {'options': options})

    def node(self, name):
        for node in self.vm.qmp('query-named-block-nodes'):
            if node['node-name'] == name:
                return node
        return None

    def io(self, name, *commands):
        for command in commands:
            assert self.vm.qemu_io(name, command) == ''
            self.n_io += 1

    def reads(self, name, *patterns):
        """One pattern for each MiB."""
        self.io(name, *[f'read -P {p} {i}M 1M'
                        for i, p in enumerate(patterns)])

    def judge_log(self):
        self.vm.stop()
        text = self.vm.output()
        assert 'Pattern verification failed' not in text
        found = [line for line in text.splitlines()
                 if re.match('(read|wrote) .*/.* bytes at offset', line)]
        assert len(found) == self.n_io, text


@pytest.fixture
def disks(launch, images):
    disks = Disks(launch(), images)
    disks.vm.start()
    yield disks
    disks.judge_log()


def graph(vm):
    return vm.qmp('query-named-block-nodes')


def test_245_wrong_options(disks):
    opts = disks.add(disks.opts(0))
    before = graph(disks.vm)
    disks.reopen(opts)
    disks.reopen(opts, {'file': 'hd0-file'})
    string = "Invalid parameter type for 'options[0].{}', expected: string"
    none = "Cannot find device='' nor node-name='{}'"
    for changes, desc in (
            ({'node-name': 'not-found'},
             "Failed to find node with node-name='not-found'"),
            ({'node-name': ''}, "Failed to find node with node-name=''"),
            ({'node-name': None}, string.format('node-name')),
            ({'driver': 'raw'}, "Cannot change the option 'driver'"),
            ({'driver': ''}, "Parameter 'driver' does not accept value ''"),
            ({'driver': None}, string.format('driver')),
            ({'file': 'not-found'}, none.format('not-found')),
            ({'file': ''}, none.format('')),
            ({'file': None},
             "Invalid parameter type for 'file', expected: BlockdevRef"),
            ({'file.node-name': 'newname'},
             "Cannot change the option 'node-name'"),
            ({'file.driver': 'host_device'},
             "Cannot change the option 'driver'"),
            ({'file.filename': disks.path[1]},
             "Cannot change the option 'filename'"),
            ({'file.aio': 'native'}, "Cannot change the option 'aio'"),
            ({'file.locking': 'off'}, "Cannot change the option 'locking'"),
            ({'file.filename': None}, string.format('file.filename'))):
        disks.reopen(opts, changes, desc)
    del opts['node-name']
    disks.reopen(opts, {}, 'node-name not specified')
    assert graph(disks.vm) == before
    disks.delete('hd0')


def test_245_wrong_backing_options(disks):
    opts = disks.add(disks.opts(1))
    before = graph(disks.vm)
    disks.reopen(opts, {}, "backing is missing for 'hd1'")
    below = [n['node-name'] for n in before
             if n['drv'] == 'qcow2' and n['file'] == disks.path[0]]
    disks.reopen(opts, {'backing': below[0]})
    disks.reopen(opts, {'backing': 'not-found'},
                 "Cannot find device='' nor node-name='not-found'")
    disks.reopen(opts, {'backing': ''},
                 "Cannot find device='' nor node-name=''")
    opts['backing'] = {'driver': 'qcow2', 'file': {
        'driver': 'file', 'filename': disks.path[0]}}
    disks.reopen(opts)
    for key, value in (('backing.node-name', 'newname'),
                       ('backing.driver', 'raw'),
                       ('backing.file.node-name', 'newname'),
                       ('backing.file.driver', 'host_device')):
        disks.reopen(opts, {key: value}, "Cannot change the option '%s'"
                     % key.split('.')[-1])
    assert graph(disks.vm) == before
    disks.delete('hd1')


def test_245_options_that_change(disks):
    opts = disks.add(disks.opts(1, backing=disks.opts(0)))
    before = graph(disks.vm)
    disks.reopen(opts)
    assert not disks.node('hd1')['ro']
    disks.reopen(opts, {'read-only': True})
    assert disks.node('hd1')['ro']
    disks.reopen(opts)
    assert not disks.node('hd1')['ro']

    usual = {'writeback': True, 'direct': False, 'no-flush': False}
    assert disks.node('hd1')['cache'] == usual
    disks.reopen(opts, {'cache': {'direct': True, 'no-flush': True}})
    assert disks.node('hd1')['cache'] == {
        'writeback': True, 'direct': True, 'no-flush': True}
    disks.reopen(opts)
    assert disks.node('hd1')['cache'] == usual

    def detects(value):
        assert disks.node('hd1')['detect_zeroes'] == value

    detects('off')
    disks.reopen(opts, {'detect-zeroes': 'on'})
    detects('on')
    disks.reopen(opts, {'detect-zeroes': 'unmap'},
                 'setting detect-zeroes to unmap is not allowed without '
                 'setting discard operation to unmap')
    detects('on')
    disks.reopen(opts, {'detect-zeroes': 'unmap', 'discard': 'unmap'})
    detects('unmap')
    disks.reopen(opts)
    detects('off')

    disks.reopen(opts, {'force-share': False},
                 "Cannot change the option 'force-share'")
    disks.reopen(opts, {'force-share': True},
                 "Cannot change the option 'force-share'")
    disks.reopen(opts, {'l2-cache-entry-size': 128 * KIB},
                 'L2 cache entry size must be a power of two between 512 '
                 'and the cluster size (65536)')
    disks.reopen(opts, {'l2-cache-size': MIB, 'cache-size': 512 * KIB},
                 'l2-cache-size may not exceed cache-size')
    disks.reopen(opts, {'l2-cache-size': 4 * MIB,
                        'refcount-cache-size': 4 * MIB,
                        'l2-cache-entry-size': 32 * KIB})
    disks.reopen(opts, {'pass-discard-request': True})
    disks.reopen(opts)
    assert graph(disks.vm) == before
    disks.delete('hd1')


def test_245_raw_window(launch, images):
    disks = Disks(launch(), images)
    path = images.create('hd0.raw', 2 * MIB, fmt='raw')
    images.io(path, 'write -P 0xa0 0 1M', 'write -P 0xa1 1M 1M')
    disks.vm.start()
    opts = disks.add({'driver': 'raw', 'node-name': 'hd0', 'file': {
        'driver': 'file', 'filename': path, 'node-name': 'hd0-file'}})
    disks.reads('hd0', 0xa0)
    disks.reopen(opts, {'offset': MIB})
    disks.reads('hd0', 0xa1)
    disks.reopen(opts)
    disks.reads('hd0', 0xa0)
    disks.delete('hd0')
    disks.judge_log()


def test_245_back_to_the_default(disks):
    opts = disks.opts(0)
    opts['file'].update({'x-check-cache-dropped': True, 'locking': 'off'})
    disks.add(opts)
    disks.reopen(opts, {'file.x-check-cache-dropped': False})
    del opts['file']['x-check-cache-dropped']
    disks.reopen(opts)
    disks.reopen(opts, {'file.locking': 'on'},
                 "Cannot change the option 'locking'")
    del opts['file']['locking']
    disks.reopen(opts, {},
                 "Option 'locking' cannot be reset to its default value")
    disks.reopen(opts, {'file.locking': 'off'})
    disks.delete('hd0')


def test_245_reads_follow_the_graph(disks):
    opts = [disks.add(disks.opts(i, backing=None)) for i in range(3)]
    disks.reads('hd0', 0xa0, 0, 0)
    disks.reopen(opts[0], {'backing': 'hd1'})       # hd1 <- hd0
    disks.reads('hd0', 0xa0, 0xa1, 0)
    disks.reopen(opts[2], {'backing': 'hd1'})       # and hd1 <- hd2
    disks.reads('hd2', 0, 0xa1, 0xa2)
    disks.reopen(opts[0], {'backing': 'hd2'})       # hd1 <- hd2 <- hd0
    disks.reads('hd0', 0xa0, 0xa1, 0xa2)
    disks.reopen(opts[2], {'backing': None})        # hd2 <- hd0
    disks.reads('hd0', 0xa0, 0, 0xa2)
    disks.reopen(opts[1], {'backing': 'hd2'})       # hd2 <- hd1
    disks.reopen(opts[0], {'backing': 'hd1'})       # hd2 <- hd1 <- hd0
    disks.reads('hd0', 0xa0, 0xa1, 0xa2)
    disks.reopen(opts[2], {'backing': 'hd1'}, CYCLE.format('hd1', 'hd2'))
    disks.reopen(opts[2], {'backing': 'hd0'}, CYCLE.format('hd0', 'hd2'))
    disks.reopen(opts[2], {'backing': 'hd2'}, CYCLE.format('hd2', 'hd2'))
    both = ("Permission conflict on node 'hd0-file': permissions 'write, "
            "resize' are both required by node '{}' (uses node 'hd0-file' "
            "as 'file' child) and unshared by node '{}' (uses node "
            "'hd0-file' as 'file' child).")
    disks.reopen(opts[2], {'file': 'hd0-file'}, both.format('hd0', 'hd2'))
    disks.vm.fails('blockdev-del', {'node-name': 'hd2'}, desc="Node 'hd2' is "
                   "busy: node is used as backing hd of 'hd1'")
    # All three at once, to hd0 <- hd1 <- hd2
    for i, below in enumerate((None, 'hd0', 'hd1')):
        opts[i]['backing'] = below
    disks.reopen_all(opts)
    disks.reads('hd2', 0xa0, 0xa1, 0xa2)
    disks.reads('hd1', 0xa0, 0xa1, 0)
    # Not all of this works: nothing of it is done
    disks.reopen_all([dict(opts[2], backing='hd0'),
                      dict(opts[0], backing='nosuch')],
                     "Cannot find device='' nor node-name='nosuch'")
    disks.reads('hd2', 0xa0, 0xa1, 0xa2)
    for i in range(3):
        disks.reopen(opts[i], {'backing': None})
    disks.reads('hd0', 0xa0, 0, 0)
    disks.reads('hd1', 0, 0xa1, 0)
    disks.reads('hd2', 0, 0, 0xa2)
    disks.delete('hd0', 'hd1', 'hd2')


def test_245_throttle_filter(disks):
    opts = disks.add(disks.opts(0))
    disks.vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'group0',
                                'limits': {'iops-total': 1000}})
    disks.add({'driver': 'throttle', 'node-name': 'throttle0',
               'throttle-group': 'group0', 'file': 'hd0-file'})
    disks.reopen(opts, {'file': 'throttle0'})
    disks.reopen(opts, {'file': 'hd0-file'})


def test_245_compress_filter(disks):
    opts = disks.add({'driver': 'raw', 'node-name': 'hd',
                      'file': disks.opts(0)})
    disks.add({'driver': 'compress', 'node-name': 'compress0',
               'file': 'hd0'})
    disks.io('hd', 'write -z -u 0 192k', 'write -P 0xa0 0 64k')
    disks.reopen(opts, {'file': 'compress0'})
    disks.io('hd', 'write -P 0xa1 64k 64k')
    disks.reopen(opts, {'file': 'hd0'})
    disks.io('hd', 'write -P 0xa2 128k 64k')
    disks.io('hd', 'read -P 0xa0 0 64k', 'read -P 0xa1 64k 64k',
             'read -P 0xa2 128k 64k')
    disks.delete('compress0', 'hd')
    disks.vm.stop()
    for at, value in ((0x40000, 0x80), (0x40008, 0x40), (0x40010, 0x80)):
        disks.images.io(disks.path[0], f'read -P {value} {at} 1', fmt='raw')


def test_245_swap(disks):
    opts = {i: disks.add(disks.opts(i)) for i in (0, 2)}
    disks.io('hd0', 'write -P 0xa0 0 1k', 'read -P 0xa0 0 1k')
    disks.io('hd2', 'write -P 0xa2 0 1k', 'read -P 0xa2 0 1k')
    text = ("Permission conflict on node '{0}-file': permissions 'write, "
            "resize' are both required by node '{1}' (uses node '{0}-file' "
            "as 'file' child) and unshared by node '{2}' (uses node "
            "'{0}-file' as 'file' child).")
    disks.reopen(opts[0], {'file': 'hd2-file'},
                 text.format('hd2', 'hd2', 'hd0'))
    disks.reopen(opts[2], {'file': 'hd0-file'},
                 text.format('hd0', 'hd0', 'hd2'))
    for _ in range(2):
        opts[0]['file'], opts[2]['file'] = (
            ('hd2-file', 'hd0-file') if not _ else ('hd0-file', 'hd2-file'))
        disks.reopen_all([opts[0], opts[2]])
        values = (0xa2, 0xa0) if not _ else (0xa0, 0xa2)
        disks.io('hd0', f'read -P {values[0]} 0 1k')
        disks.io('hd2', f'read -P {values[1]} 0 1k')
    disks.delete('hd0', 'hd2')


def test_245_quorum(disks):
    for i in range(3):
        disks.add(disks.opts(i, backing=None))
    opts = disks.add({'driver': 'quorum', 'node-name': 'quorum0',
                      'children': ['hd0', 'hd1', 'hd2'],
                      'vote-threshold': 2})
    disks.reopen(opts, {}, "Block format 'quorum' used by node 'quorum0' "
                           "does not support reopening files")
    disks.reopen(disks.opts(0), {'backing': 'quorum0'},
                 CYCLE.format('quorum0', 'hd0'))
    disks.delete('quorum0', 'hd0', 'hd1', 'hd2')


def test_245_blkdebug(disks):
    opts = disks.add({'driver': 'blkdebug', 'node-name': 'bd',
                      'config': '/dev/null', 'image': disks.opts(0)})
    disks.reopen(opts)
    for key, value in (('image', 'hd1'), ('align', 33554432),
                       ('config', '/non/existent')):
        disks.reopen(opts, {key: value}, f"Cannot change the option '{key}'")
    del opts['config']
    disks.reopen(opts, {},
                 "Option 'config' cannot be reset to its default value")
    disks.delete('bd')


def test_245_null(disks):
    opts = disks.add({'driver': 'null-co', 'node-name': 'root', 'size': 1024})
    disks.reopen(opts, {'size': 1 << 30},
                 "Cannot change the option 'size'")
    del opts['size']
    disks.reopen(opts, {},
                 "Option 'size' cannot be reset to its default value")
    disks.delete('root')
    opts = disks.add({'driver': 'null-co', 'node-name': 'root'})
    disks.reopen(opts)
    disks.reopen(opts, {'size': 1 << 30},
                 "Cannot change the option 'size'")
    disks.delete('root')


def test_245_locking(disks):
    opts = disks.opts(0)
    opts['file']['locking'] = 'on'
    disks.add(opts)
    del opts['file']['locking']
    reset = "Option 'locking' cannot be reset to its default value"
    change = "Cannot change the option 'locking'"
    disks.reopen(opts, {'file.locking': 'on'})
    disks.reopen(opts, {'file.locking': 'off'}, change)
    disks.reopen(opts, {}, reset)
    opts = opts['file']
    disks.reopen(opts, {'locking': 'on'})
    disks.reopen(opts, {'locking': 'off'}, change)
    disks.reopen(opts, {}, reset)
    disks.delete('hd0')


def test_245_throttle_groups(disks):
    for i in range(2):
        disks.vm.qmp('object-add', {
            'qom-type': 'throttle-group', 'id': f'group{i}',
            'limits': {'iops-total': 1000 * (i + 1)}})
    opts = disks.add({'driver': 'throttle', 'node-name': 'throttle0',
                      'throttle-group': 'group0', 'file': disks.opts(0)})
    disks.reopen(opts)
    disks.reopen(opts, {'file': 'hd0'})
    disks.reopen(opts, {'throttle-group': 'notfound'},
                 "Throttle group 'notfound' does not exist")
    in_use = "object '{}' is in use, can not be deleted"
    disks.reopen(opts, {'throttle-group': 'group1'})
    disks.vm.fails('object-del', id='group1', desc=in_use.format('group1'))
    disks.reopen(opts)
    disks.vm.fails('object-del', id='group0', desc=in_use.format('group0'))
    disks.vm.qmp('object-del', id='group1')
    disks.delete('throttle0')
    disks.vm.qmp('object-del', id='group0')


def test_245_backing_missing(disks):
    disks.add(disks.opts(2))
    opts = disks.add(disks.opts(0, backing='hd2'))
    disks.reopen(opts)
    del opts['backing']
    disks.reopen(opts, {}, "backing is missing for 'hd0'")
    disks.vm.fails('blockdev-del', {'node-name': 'hd2'}, desc="Node 'hd2' is "
                   "busy: node is used as backing hd of 'hd0'")
    disks.reopen(opts, {'backing': None})
    disks.reopen(opts)
    disks.delete('hd2', 'hd0')
    opts = disks.add(disks.opts(1))
    disks.reopen(opts, {}, "backing is missing for 'hd1'")
    disks.reopen(opts, {'backing': None})
    disks.reopen(opts, {}, "backing is missing for 'hd1'")
    disks.delete('hd1')


def test_245_backing_by_name_keeps_options(disks):
    opts = disks.chain()
    for one in (opts, opts['backing'], opts['backing']['backing']):
        one['detect-zeroes'] = 'on'
    disks.add(opts)
    disks.reopen({'driver': 'qcow2', 'node-name': 'hd0', 'file': 'hd0-file',
                  'backing': 'hd1'})
    assert [disks.node(f'hd{i}')['detect_zeroes'] for i in range(3)] == \
        ['off', 'on', 'on']


def test_245_after_stream(disks):
    opts = disks.add(disks.opts(0, backing=disks.opts(1, backing=None)))
    disks.vm.qmp('block-stream', {'job-id': 'stream0', 'device': 'hd0'})
    disks.vm.wait_completed('stream0')
    assert disks.node('hd1') is None
    disks.reopen(opts, {}, "Cannot change the option 'backing.driver'")
    del opts['backing']
    disks.reopen(opts)
    disks.reopen(opts, {'backing': None})
    disks.delete('hd0')


def test_245_after_stream_to_base(disks):
    opts = disks.add(disks.chain())
    disks.vm.qmp('block-stream', {'job-id': 'stream0', 'device': 'hd0',
                                  'base-node': 'hd2'})
    disks.vm.wait_completed('stream0', len=3 * MIB)
    assert disks.node('hd1') is None
    disks.reopen(opts, {}, "Cannot change the option 'backing.driver'")
    opts['backing'] = opts['backing']['backing']
    disks.reopen(opts)
    disks.reopen(opts, {'backing': 'hd2'})
    del opts['backing']
    disks.reopen(opts, {}, "backing is missing for 'hd0'")
    disks.delete('hd0')
    assert disks.node('hd2') is None


def pend(vm, job_id, job_type):
    """A job that waits to be finalized."""
    data = vm.wait_event('BLOCK_JOB_PENDING', {'id': job_id})['data']
    assert data == {'id': job_id, 'type': job_type}


def finalize(vm, job_id, **wanted):
    vm.qmp('job-finalize', id=job_id)
    return vm.wait_completed(job_id, **wanted)


def test_245_during_stream_of_the_top(disks):
    opts = disks.add(disks.chain())
    disks.vm.qmp('block-stream', {
        'job-id': 'stream0', 'device': 'hd0', 'base-node': 'hd2',
        'auto-finalize': False})
    opts['backing']['backing'] = None
    disks.reopen(opts)          # it is not in the way of this
    opts['backing'] = None
    disks.reopen(opts, {}, FROZEN.format('hd0', 'hd1'))
    pend(disks.vm, 'stream0', 'stream')
    finalize(disks.vm, 'stream0', len=3 * MIB)


def test_245_during_stream_in_the_middle(disks):
    opts = disks.add(disks.chain())
    disks.vm.qmp('block-stream', {
        'job-id': 'stream0', 'device': 'hd1', 'filter-node-name': 'cor',
        'auto-finalize': False})
    disks.reopen(opts, {}, "Cannot change the option "
                           "'backing.backing.file.node-name'")
    disks.reopen(opts['backing'], {'read-only': True},
                 "Read-only block node 'hd1' cannot support read-write users")
    opts['backing']['backing'] = None
    disks.reopen(opts['backing'], {'read-only': False},
                 FROZEN.format('hd1', 'hd2'))
    opts['backing'] = None
    disks.reopen(opts)
    pend(disks.vm, 'stream0', 'stream')
    finalize(disks.vm, 'stream0', len=3 * MIB)


def test_245_during_active_commit(disks):
    opts = disks.add(disks.chain())
    disks.vm.qmp('block-commit', {'job-id': 'commit0', 'device': 'hd0'})
    opts['backing']['backing'] = None
    disks.reopen(opts, {}, FROZEN.format('hd1', 'hd2'))
    opts['backing'] = None
    disks.reopen(opts, {}, FROZEN.format('hd0', 'hd1'))
    data = disks.vm.wait_ready('commit0')
    assert data['type'] == 'commit' and 'error' not in data
    disks.vm.complete('commit0', wait=False)


def test_245_during_commit(disks):
    opts = disks.add(disks.chain())
    disks.vm.qmp('block-commit', {
        'job-id': 'commit0', 'device': 'hd0', 'top-node': 'hd1',
        'auto-finalize': False})
    opts['backing']['backing'] = None
    disks.reopen(opts, {}, "Cannot change the option 'backing.driver'")
    opts['backing'] = None
    disks.reopen(opts, {}, 'Cannot replace implicit backing child of hd0')
    pend(disks.vm, 'commit0', 'commit')
    finalize(disks.vm, 'commit0', len=3 * MIB)
    assert not disks.node('hd0')['ro']
    assert disks.node('hd1') is None
    assert disks.node('hd2')['ro']


def add_disk(vm, number, iothread, node):
    vm.qmp('device_add', {'driver': 'virtio-scsi', 'id': f'scsi{number}',
                          **({'iothread': iothread} if iothread else {})})
    if iothread:
        vm.qmp('device_add', {'driver': 'scsi-hd', 'drive': node,
                              'share-rw': True, 'bus': f'scsi{number}.0'})


@pytest.mark.parametrize('a, b, throttled', [
    ('iothread0', 'iothread1', False), ('iothread0', 'iothread0', False),
    ('iothread0', None, False), (None, 'iothread0', False),
    ('iothread0', 'iothread0', True)])
def test_245_iothreads(disks, a, b, throttled):
    vm = disks.vm
    if throttled:
        vm.qmp('object-add', {'qom-type': 'throttle-group', 'id': 'group0',
                              'limits': {'iops-total': 1000}})
    opts = {}
    for i in (0, 2):
        opts[i] = disks.opts(i)
        if throttled:
            opts[i]['file'] = {
                'driver': 'throttle', 'node-name': f'hd{i}-throttle',
                'throttle-group': 'group0', 'file': opts[i]['file']}
        disks.add(opts[i])
    for i in range(2):
        vm.qmp('object-add', {'qom-type': 'iothread', 'id': f'iothread{i}'})
    add_disk(vm, 0, a, 'hd0')
    add_disk(vm, 1, b, 'hd2')
    disks.reopen(opts[0], {'backing': 'hd2'},
                 'Cannot change iothread of active block backend'
                 if a and b and a != b else None)
    disks.reopen(opts[0], {'backing': None})
