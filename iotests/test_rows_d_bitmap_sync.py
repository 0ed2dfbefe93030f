# SPDX-License-Identifier: MIT
"""COMPAT section 10, row 257: every pair of sync mode and bitmap mode, with
success, a cancel while pending and a failure on the way, against a model of
the bitmap and images compared at the end."""

import pytest

from .images import run_tool

KIB = 1 << 10
MIB = 1 << 20
SIZE = 64 * MIB
UNIT = 64 * KIB
ALL = set(range(SIZE // UNIT))
GROUPS = [
    [(0x49, 0), (0x6c, 0x100000), (0x6f, 0x2000000), (0x76, 0x3ff0000)],
    [(0x65, 0), (0x77, 0xf8000), (0x72, 0x2008000), (0x69, 0x3fe0000)],
    [(0x74, 0x10000), (0x69, 0xe8000), (0x6e, 0x2018000),
     (0x67, 0x3fe0000, 2 * UNIT)],
    [(0xaa, 0x10000, 3 * UNIT), (0xbb, 0xd8000), (0xcc, 0x2028000),
     (0xdd, 0x3fc0000)],
]


def bits(group):
    """The units that writing a group makes dirty."""
    found = set()
    for _, offset, *size in GROUPS[group]:
        end = offset + (size[0] if size else UNIT)
        found |= set(range(offset // UNIT, (end + UNIT - 1) // UNIT))
    return found


class Drive:
    """The drive of the test and what it does with it."""

    def __init__(self, launch, images, failure):
        self.images = images
        self.disk = images.create('img', SIZE)
        self.vm = launch().add_device('virtio-scsi,id=scsi0').start()
        file = {'driver': 'file', 'filename': self.disk}
        if failure == 'intermediate':
            file = {'driver': 'blkdebug', 'image': file, 'set-state': [
                {'event': 'flush_to_disk', 'state': 1, 'new_state': 2},
                {'event': 'read_aio', 'state': 2, 'new_state': 3}],
                'inject-error': [{
                    'event': 'read_aio', 'errno': 5, 'state': 3,
                    'immediately': False, 'once': True}]}
        self.vm.qmp('blockdev-add', {'node-name': 'drive0',
                                     'driver': 'qcow2', 'file': file})
        self.vm.qmp('device_add', {'id': 'device0', 'drive': 'drive0',
                                   'driver': 'scsi-hd', 'share-rw': True})

    def write(self, group, node='drive0'):
        for pattern, offset, *size in GROUPS[group]:
            lines = self.vm.io_lines(
                node, f'write -P{pattern:#x} {offset:#x} '
                f'{size[0] if size else UNIT:#x}')
            assert lines[0].startswith('wrote'), lines

    def bitmaps(self, node='drive0'):
        for found in self.vm.qmp('query-named-block-nodes'):
            if found['node-name'] == node:
                return found.get('dirty-bitmaps', [])
        return None

    def expect(self, model, name='bitmap0', **wanted):
        """The bitmap of this name has as many dirty bits as the model."""
        found = [b for b in self.bitmaps() if b.get('name', '') == name and
                 (name or b['recording'])]
        assert len(found) == 1, self.bitmaps()
        assert found[0]['count'] == len(model) * UNIT, found
        for key, value in wanted.items():
            assert found[0][key] is value, found

    def _create(self, job, **options):
        self.vm.qmp('blockdev-create', {'job-id': job, 'options': options})
        self.vm.wait_event('JOB_STATUS_CHANGE',
                           {'id': job, 'status': 'concluded'})
        self.vm.qmp('job-dismiss', id=job)
        self.vm.wait_event('JOB_STATUS_CHANGE', {'id': job, 'status': 'null'})

    def target(self, name):
        """A new image made and opened by commands."""
        path = self.images.adopt(self.images.path(name))
        self._create('bdc-file-job', driver='file', filename=path, size=0)
        self.vm.qmp('blockdev-add', {
            'driver': 'file', 'node-name': f'file_{name}', 'filename': path})
        self._create('bdc-fmt-job', driver='qcow2', file=f'file_{name}',
                     size=SIZE)
        self.vm.qmp('blockdev-add', {'driver': 'qcow2', 'node-name': name,
                                     'file': f'file_{name}'})
        return path

    def start(self, job, target, sync, **options):
        self.vm.mon.drop_events()
        path = self.target(target)
        self.vm.qmp('blockdev-backup', dict({
            'device': 'drive0', 'job-id': job, 'sync': sync,
            'target': target, 'filter-node-name': 'backup-top',
            'x-perf': {'max-workers': 1}},
            **{k.replace('_', '-'): v for k, v in options.items()}))
        return path

    def reference(self, number):
        job = f'ref_{number}'
        path = self.start(job, f'ref{number}', 'full')
        self.vm.wait_completed(job)
        return path

    def run(self, job, pending=None, cancel=False):
        """Run a job that was started with auto-finalize=False."""
        want = {'id': job}
        while True:
            status = self.vm.wait_event('JOB_STATUS_CHANGE',
                                        want)['data']['status']
            if status == 'pending':
                self.vm.wait_event('BLOCK_JOB_PENDING', want)
                if pending:
                    pending()
                self.vm.qmp('job-cancel' if cancel else 'job-finalize',
                            id=job)
            elif status == 'null':
                return self.vm.wait_event(
                    ['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'])

    def compare(self, image, reference, base=None, same=True):
        if base:
            run_tool('qemu-img', 'rebase', '-u', '-b', base, '-f', 'qcow2',
                     '-F', 'qcow2', image)
        code, text = run_tool('qemu-img', 'compare', image, reference,
                              check=False)
        assert (code == 0) == same, text


def after_failure(mode, sync, model):
    """The bitmap after the second read of a job failed."""
    if mode != 'always':
        return model
    if sync == 'bitmap':
        return model - {0}
    if sync == 'full':
        return {bit for bit in ALL if bit >= 0xf0000 // UNIT}
    return (bits(0) | bits(1)) - {0}


CASES = [(mode, sync, failure)
         for sync, modes in (('bitmap', ['never', 'on-success', 'always']),
                             ('full', ['on-success', 'always']),
                             ('top', ['on-success', 'always']),
                             ('incremental', ['on-success']))
         for mode in modes
         for failure in ('simulated', None, 'intermediate')]


@pytest.mark.parametrize('mode,sync,failure', CASES)
def test_257_matrix(launch, images, mode, sync, failure):
    d = Drive(launch, images, failure)
    d.write(0)
    fbackup0 = d.reference(0)
    d.vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0',
             granularity=UNIT)
    model = bits(1)
    d.write(1)
    d.expect(model, recording=True, busy=False, persistent=False)
    fbackup1 = d.reference(1)
    if failure == 'intermediate':
        # The second read from here on fails
        assert d.vm.qemu_io('drive0', 'flush') == ''
    bsync1 = d.start('backup_1', 'bsync1', sync, bitmap='bitmap0',
                     bitmap_mode=mode, auto_finalize=False)

    def pending():
        nonlocal model
        d.write(2, 'backup-top')
        d.expect(model, busy=True, recording=True)
        d.expect(bits(2), name='', busy=False, persistent=False)
        own = d.bitmaps('backup-top')
        assert not any(b['recording'] or b['busy'] or b['persistent'] or
                       'name' in b for b in own)
        counts = [b['count'] for b in own]
        assert counts == [SIZE, len(bits(2)) * UNIT] + (
            [] if d.vm.is_qemu else [0])
        if mode == 'always' or mode == 'on-success' and not failure:
            model = set()
        model = model | bits(2)

    end = d.run('backup_1', pending, failure == 'simulated')
    copied = {'full': SIZE, 'top': len(bits(0) | bits(1)) * UNIT}.get(
        sync, len(bits(1)) * UNIT)
    if failure == 'intermediate':
        assert end['event'] == 'BLOCK_JOB_COMPLETED'
        assert end['data'] == {
            'device': 'backup_1', 'error': 'Input/output error',
            'len': copied, 'offset': 983040 if sync == 'full' else UNIT,
            'speed': 0, 'type': 'backup'}
        model = after_failure(mode, sync, model)
    else:
        assert end['data'] == {'device': 'backup_1', 'len': copied,
                               'offset': copied, 'speed': 0,
                               'type': 'backup'}
        assert end['event'] == ('BLOCK_JOB_CANCELLED' if failure else
                                'BLOCK_JOB_COMPLETED')
    d.expect(model, busy=False, recording=True)
    assert d.bitmaps('backup-top') is None
    assert len(d.bitmaps()) == 1
    d.write(3)
    model = model | bits(3)
    d.expect(model, busy=False, recording=True)
    fbackup2 = d.reference(2)
    bsync2 = d.start('backup_2', 'bsync2',
                     'incremental' if sync == 'incremental' else 'bitmap',
                     bitmap='bitmap0', bitmap_mode=mode, auto_finalize=False)
    end = d.run('backup_2')
    assert end['data']['len'] == len(model) * UNIT
    if mode != 'never':
        model = set()
    d.expect(model, busy=False, recording=True)
    d.vm.qmp('block-dirty-bitmap-remove', node='drive0', name='bitmap0')
    assert d.bitmaps() == []
    d.vm.stop()
    d.compare(bsync1, fbackup1, fbackup0, same=failure != 'intermediate')
    last = bsync1 if not failure or mode == 'always' else fbackup0
    d.compare(bsync2, fbackup2, last)
    d.compare(d.disk, fbackup2)


# Which pairs there are

NAME = "must provide a valid bitmap name for '%s' sync mode"
MEANINGLESS = "Bitmap sync mode '%s' has no meaningful effect when " \
    "combined with sync mode '%s'"


def refusal(sync, bitmap, mode):
    """What the job says of its arguments; None: it starts."""
    if not bitmap:
        if sync in ('incremental', 'bitmap'):
            return NAME % sync
        return mode and 'Cannot specify bitmap sync mode without a bitmap'
    if sync == 'incremental':
        if mode not in (None, 'on-success'):
            return "Bitmap sync mode must be 'on-success' when using " \
                "sync mode 'incremental'"
        mode = 'on-success'
    if bitmap == 'bitmap404':
        return "Bitmap 'bitmap404' could not be found"
    if not mode:
        return 'Bitmap sync mode must be given when providing a bitmap'
    if sync == 'none':
        return "sync mode 'none' does not produce meaningful bitmap outputs"
    if sync in ('full', 'top') and mode == 'never':
        return MEANINGLESS % (mode, sync)
    return None


def test_257_arguments(launch, images):
    d = Drive(launch, images, None)
    d.target('backup_target')
    d.vm.qmp('block-dirty-bitmap-add', node='drive0', name='bitmap0',
             granularity=UNIT)
    for sync in ('incremental', 'bitmap', 'full', 'top', 'none'):
        for bitmap in (None, 'bitmap404', 'bitmap0'):
            for mode in (None, 'on-success', 'always', 'never'):
                arguments = {'device': 'drive0', 'sync': sync,
                             'target': 'backup_target', 'job-id': 'api_job'}
                if bitmap:
                    arguments['bitmap'] = bitmap
                if mode:
                    arguments['bitmap-mode'] = mode
                desc = refusal(sync, bitmap, mode)
                if desc:
                    d.vm.fails('blockdev-backup', arguments, desc=desc)
