# SPDX-License-Identifier: MIT
"""HMP through human-monitor-command: COMPAT section 4.

Texts are those of QEMU, which the same tests are run against; help is in our
own words but for names and arguments.
"""

import re

import pytest

MIB = 1 << 20


@pytest.fixture
def vm(launch, images):
    """d0: null, q0: qcow2, e0: empty; n0: a node."""
    disk = images.create('disk.qcow2', '4M')
    return launch(
        '-drive', 'if=none,id=d0,file=null-co://,format=raw',
        '-drive', f'if=none,id=q0,file={disk},format=qcow2',
        '-drive', 'if=none,id=e0',
        '-blockdev', 'null-co,node-name=n0', machine='none').start()


def lines(text):
    """Every line ends with CR LF."""
    assert text == '' or text.endswith('\r\n')
    assert '\n' not in text.replace('\r\n', '')
    return text.split('\r\n')[:-1]


def says(vm, line, *expected):
    assert lines(vm.hmp(line)) == list(expected), line


def hint(name):
    return f'Try "help {name}" for more information'


def test_nothing(vm):
    says(vm, '')
    says(vm, ' \t ')


@pytest.mark.parametrize('line,name', [
    ('nope', 'nope'), ('nope x y', 'nope'), ('# x', '#'), ('STOP', 'STOP'),
    ('sto', 'sto'), ('info nope', 'info nope'), ('info nope x', 'info nope'),
    ('info bl', 'info bl'), ('help nope', 'nope'), ('help -x', '-x'),
    ('help info nope', 'info nope'), ('info info', 'info info')])
def test_unknown(vm, line, name):
    says(vm, line, f"unknown command: '{name}'")


@pytest.mark.parametrize('line,why', [
    ('info block-jobs x',
     'block-jobs: extraneous characters at the end of line'),
    ('info block -x', 'block: unsupported option -x'),
    ('info block -n n0 -v',
     'block: extraneous characters at the end of line'),
    ('block_resize', 'block_resize: block device name expected'),
    ('block_resize x', 'invalid size'),
    ('block_resize d0 1+1',
     'block_resize: extraneous characters at the end of line'),
    ('block_resize d0 "1M"', 'invalid size'),
    ('block_resize d0 -1', 'invalid size'),
    ('stop 1', 'stop|s: extraneous characters at the end of line'),
    ('s x', 'stop|s: extraneous characters at the end of line'),
    ('change', 'change: block device name expected'),
    ('change x', 'change: filename expected'),
    ('drive_backup -f -n d0 x', 'drive_backup: unsupported option -n'),
    ('drive_backup -n d0', 'drive_backup: string expected'),
    ('drive_backup - d0', 'drive_backup: unsupported option - '),
    ('block_set_io_throttle d0 x', "invalid char 'x' in expression"),
    ('block_set_io_throttle d0 1', 'unexpected end of expression'),
    ('block_set_io_throttle d0 5/0 0 0 0 0 0', 'division by zero'),
    ('block_set_io_throttle d0 (1', "')' expected"),
    ('block_set_io_throttle d0 $x 0 0 0 0 0', 'unknown register'),
    ('qemu-io d0', 'qemu-io: string expected'),
    ('qemu-io d0 read 0 4k',
     'qemu-io: extraneous characters at the end of line')])
def test_wrong_use(vm, line, why):
    command = line.split()[0]
    name = ' '.join(line.split()[:2]) if command == 'info' else command
    says(vm, line, why, hint(name))


def test_quotes(vm):
    says(vm, 'block_resize "d\\"0" 1M',
         "Error: Cannot find device='d\"0' nor node-name=''")
    assert vm.hmp('block_resize "d\\n0" 1M') == (
        "Error: Cannot find device='d\r\n0' nor node-name=''\r\n")
    says(vm, 'block_resize d\\n 1M',
         "Error: Cannot find device='d\\n' nor node-name=''")
    says(vm, 'stop "x', 'stop|s: extraneous characters at the end of line',
         hint('stop'))
    # What is wrong with the quotes goes to stdout.
    says(vm, 'eject "x', 'eject: block device name expected', hint('eject'))
    says(vm, 'eject "\\x"', 'eject: block device name expected',
         hint('eject'))
    assert vm.output().splitlines()[-2:] == [
        'unterminated string', "unsupported escape code: '\\x'"]


def test_help(vm):
    for line, start in (('help stop', 'stop|s '), ('? q', 'quit|q '),
                        ('help help', 'help|? [cmd] -- '),
                        ('help block_resize x', 'block_resize device size'),
                        ('help info block', 'info block [-n] [-v] [device]')):
        text = lines(vm.hmp(line))
        assert len(text) == 1 and text[0].startswith(start), text
    every = lines(vm.hmp('help'))
    names = {re.split(r'[| ]', line)[0] for line in every}
    assert {'block_job_cancel', 'block_resize', 'block_set_io_throttle',
            'block_stream', 'change', 'commit', 'cont', 'device_add',
            'device_del', 'drive_add', 'drive_backup', 'drive_del',
            'drive_mirror', 'eject', 'help', 'info', 'nbd_server_add',
            'nbd_server_start', 'object_add', 'qemu-io', 'qom-get', 'quit',
            'snapshot_blkdev', 'stop', 'system_reset'} <= names
    infos = lines(vm.hmp('info'))
    assert infos == lines(vm.hmp('help info'))
    assert all(line.startswith('info ') for line in infos)


def test_help_names_all_commands(vm):
    """What help lists can be asked for: a client completes from it."""
    for line in lines(vm.hmp('help')):
        name = re.match(r'([a-z][a-z_0-9?|-]+) .*-- ', line)
        if name and not line.startswith(('info ', 'log ')):
            one = name.group(1).split('|')[0]
            assert lines(vm.hmp(f'help {one}'))[0] == line


def test_arguments_of_the_command(vm):
    assert vm.hmp('info status').startswith('VM status: ')
    vm.fails('human-monitor-command', {'command-line': 'help',
                                       'cpu-index': 0},
             desc="Parameter 'cpu-index' expects a CPU number")
    vm.fails('human-monitor-command', {},
             desc="Parameter 'command-line' is missing")


def test_sizes(vm, images):
    """MiB without a suffix; the file tells."""
    def size():
        return vm.qmp('query-block')[1]['inserted']['image']['virtual-size']

    for text, expected in (('5', 5 * MIB), ('6144k', 6 * MIB),
                           ('0x7', 7 * MIB), ('8.5M', 17 * MIB // 2),
                           ('70G', 70 << 30), ('73014444032b', 68 << 30)):
        shrinks = expected < size()
        if not shrinks:
            says(vm, f'block_resize q0 {text}')
            assert size() == expected, text
    says(vm, 'block_resize n0 5',
         "Error: Cannot find device='n0' nor node-name=''")


def test_print(vm):
    says(vm, 'print/x 1+2*3', '0x7')
    says(vm, 'p -1', '0xffffffffffffffff')
    says(vm, 'p/d 255', '255')
    says(vm, 'p 6&3+1', '3')
    says(vm, "p/c 'A'", "'A'")
    says(vm, 'p/o 8', '010')


def test_jobs(vm):
    unknown = "Error: Block job 'x' not found"
    says(vm, 'info block-jobs', 'No active jobs')
    for command in ('block_job_cancel x', 'block_job_cancel -f x',
                    'block_job_complete x', 'block_job_pause x',
                    'block_job_resume x', 'block_job_set_speed x 1'):
        says(vm, command, unknown)
    says(vm, 'block_stream x',
         "Error: Cannot find device='x' nor node-name='x'")


def test_job_from_start_to_end(vm, images):
    """drive_mirror: pause, speed, resume, complete."""
    target = images.path('target.qcow2')
    run_io = vm.io_lines('q0', 'write -P 7 0 1M')
    assert run_io[0] == 'wrote 1048576/1048576 bytes at offset 0'
    says(vm, f'drive_mirror -f q0 {target} qcow2')
    images.adopt(target)
    vm.wait_ready('q0')
    says(vm, 'info block-jobs', 'Type mirror, device q0: Completed 1048576 '
         'of 1048576 bytes, speed limit 0 bytes/s')
    says(vm, 'block_job_set_speed q0 1')
    says(vm, 'info block-jobs', 'Type mirror, device q0: Completed 1048576 '
         'of 1048576 bytes, speed limit 1048576 bytes/s')
    says(vm, 'block_job_pause q0')
    says(vm, 'block_job_pause q0', 'Error: Job is already paused')
    says(vm, 'block_job_resume q0')
    says(vm, 'block_job_resume q0',
         "Error: Can't resume a job that was not paused")
    says(vm, 'block_job_complete q0')
    vm.wait_completed('q0')
    assert vm.qmp('query-block')[1]['inserted']['file'] == target
    says(vm, 'info block-jobs', 'No active jobs')


def test_drive_backup(vm, images):
    target = images.path('target.qcow2')
    vm.hmp('qemu-io q0 "write -P 9 64k 64k"')
    says(vm, f'drive_backup -f q0 {target}')
    images.adopt(target)
    vm.wait_completed('q0')
    assert vm.output().count(f"Formatting '{target}', fmt=qcow2") == 1
    again = images.create('again.qcow2', '4M')
    says(vm, f'drive_backup -n -f q0 {again} qcow2')
    vm.wait_completed('q0')
    assert vm.output().count('Formatting') == 1
    vm.stop()
    assert images.content(target) == images.content(again)


def test_snapshots(vm, images):
    says(vm, 'info snapshots', 'There is no snapshot available.')
    says(vm, 'snapshot_blkdev_internal q0 one')
    text = lines(vm.hmp('info snapshots'))
    assert text[:2] == ['List of snapshots present on all disks:', 'None']
    assert text[3:5] == [
        "List of partial (non-loadable) snapshots on 'q0':",
        'ID        TAG               VM SIZE                DATE     VM CLOCK'
        '     ICOUNT']
    assert re.fullmatch(r'1         one                   0 B [-0-9]{10} '
                        r'[:0-9]{8} 00:00:00.000 +', text[5]), text[5]
    says(vm, 'snapshot_delete_blkdev_internal q0 one 7',
         "Error: Snapshot with id '7' and name 'one' does not exist on "
         "device 'q0'")
    says(vm, 'snapshot_delete_blkdev_internal q0 one')
    says(vm, 'snapshot_blkdev q0',
         "Error: Parameter 'snapshot-file' is missing")
    over = images.path('over.qcow2')
    says(vm, f'snapshot_blkdev q0 {over}')
    images.adopt(over)
    assert vm.qmp('query-block')[1]['inserted']['file'] == over
    says(vm, f'snapshot_blkdev q0 {images.path("x")} nope',
         "Error: Unknown file format 'nope'")


def test_nbd(vm):
    says(vm, 'nbd_server_start x', "Error: error parsing address 'x'")
    says(vm, 'nbd_server_start -w localhost:0',
         'Error: -w only valid together with -a')
    says(vm, 'nbd_server_stop', 'Error: NBD server not running')
    says(vm, 'nbd_server_add q0', 'Error: NBD server not running')
    says(vm, 'nbd_server_start -a -w 127.0.0.1:0')
    says(vm, 'nbd_server_start 127.0.0.1:0',
         'Error: NBD server already running')
    assert {e['id'] for e in vm.qmp('query-block-exports')} == {'d0', 'q0'}
    says(vm, 'nbd_server_add q0',
         "Error: Block export id 'q0' is already in use")
    says(vm, 'nbd_server_remove q0')
    says(vm, 'nbd_server_remove -f q0', "Error: Export 'q0' is not found")
    says(vm, 'nbd_server_add -w q0 other')
    says(vm, 'nbd_server_stop')
    assert vm.qmp('query-block-exports') == []


def test_limits(vm):
    says(vm, 'block_set_io_throttle d0 0x10 1+1 (2*3) 0 0 0',
         'Error: bps/iops/max total values and read/write values cannot be '
         'used at the same time')
    says(vm, 'block_set_io_throttle d0 100 0 0 0 0 0')
    assert lines(vm.hmp('info block d0'))[-1] == (
        '    I/O throttling:   bps=100 bps_rd=0 bps_wr=0 bps_max=0 '
        'bps_rd_max=0 bps_wr_max=0 iops=0 iops_rd=0 iops_wr=0 iops_max=0 '
        'iops_rd_max=0 iops_wr_max=0 iops_size=0 group=d0')
    says(vm, 'block_set_io_throttle d0 0 0 0 0 0 0')
    assert 'throttling' not in vm.hmp('info block d0')
    says(vm, 'block_set_io_throttle nope 0 0 0 5 0 0',
         "Error: Device 'nope' not found")


def test_limits_by_the_id_of_a_device(launch, images):
    vm = launch('-blockdev', 'null-co,node-name=n0', '-device',
                'virtio-scsi,id=vs', '-device', 'scsi-hd,id=hd0,drive=n0',
                '-device', 'scsi-cd,id=cd0', machine='q35').start()
    says(vm, 'block_set_io_throttle hd0 0 0 0 7 0 0')
    assert lines(vm.hmp('info block'))[3].endswith(' iops_size=0 group=hd0')
    says(vm, 'block_set_io_throttle cd0 0 0 0 7 0 0',
         'Error: Device has no medium')
    says(vm, 'block_set_io_throttle n0 0 0 0 7 0 0',
         "Error: Device 'n0' not found")


def test_drives(vm, images):
    says(vm, 'drive_add 0 if=none,id=x', 'OK')
    says(vm, 'drive_add 0 if=none,file=null-co://,format=raw,id=x',
         "Duplicate ID 'x' for drive")
    says(vm, 'drive_add 0 if=virtio,file=null-co://,format=raw',
         "Can't hot-add drive to type 7")
    says(vm, 'drive_add 0 if=none,file=/nowhere,id=y',
         "Could not open '/nowhere': No such file or directory")
    says(vm, 'drive_add -n 0 driver=null-co,node-name=nd')
    says(vm, 'drive_add -n 0 driver=null-co', "'node-name' needs to be "
         'specified')
    says(vm, 'drive_add -n 0 driver=null-co,node-name=nd',
         "Duplicate nodes with node-name='nd'")
    says(vm, 'drive_del nope', "Device 'nope' not found")
    says(vm, 'drive_del nd')
    says(vm, 'drive_del x')
    assert {b['device'] for b in vm.qmp('query-block')} == {'d0', 'q0', 'e0'}


def test_media(vm, images):
    says(vm, 'eject x', "Error: Device 'x' not found")
    says(vm, 'eject q0')
    assert lines(vm.hmp('info block q0'))[1] == 'q0: [not inserted]'
    other = images.create('other.img', '1M', fmt='raw')
    says(vm, 'change q0 /nowhere',
         "Error: Could not open '/nowhere': No such file or directory")
    says(vm, f'change q0 {other} nope', "Error: Unknown driver 'nope'")
    says(vm, f'change q0 {other} raw nope',
         'Error: invalid parameter value: nope')
    says(vm, f'change q0 {other} raw read-only')
    inserted = vm.qmp('query-block')[1]['inserted']
    assert (inserted['file'], inserted['drv'], inserted['ro']) == (
        other, 'raw', True)
    says(vm, f'change q0 -f {other} raw')
    says(vm, 'change x y', "Error: Device 'x' not found")


def test_state(vm):
    says(vm, 'cont')
    says(vm, 'info status', 'VM status: running')
    says(vm, 'stop')
    says(vm, 'info status', 'VM status: paused')
    says(vm, 'c')
    says(vm, 's')
    says(vm, 'info name')
    says(vm, 'info uuid', '00000000-0000-0000-0000-000000000000')
    says(vm, 'info kvm', 'kvm support: disabled')
    says(vm, 'info iothreads')


def test_objects(vm):
    says(vm, 'object_add x',
         "Error: Parameter 'qom-type' does not accept value 'x'")
    says(vm, 'object_add iothread', "Error: Parameter 'id' is missing")
    says(vm, 'object_add iothread,id=io1')
    says(vm, 'object_add qom-type=throttle-group,id=t1,limits.iops-total=5')
    says(vm, 'object_add {"qom-type":"iothread","id":"io2"}')
    says(vm, 'object_add iothread,id=i3,foo=1',
         "Error: Parameter 'foo' is unexpected")
    says(vm, 'object_del nope', "Error: object 'nope' not found")
    says(vm, 'object_del io2')
    says(vm, 'qom-list', '/')
    assert 'io1 (child<iothread>)' in lines(vm.hmp('qom-list /objects'))
    assert '    "iops-total": 5,' in lines(vm.hmp('qom-get /objects/t1 '
                                                  'limits'))
    says(vm, 'qom-set -j t1 limits {"iops-total":3}')
    assert '    "iops-total": 3,' in lines(vm.hmp('qom-get t1 limits'))
    says(vm, 'qom-get nope x', "Error: Device 'nope' not found")


def test_descriptors(vm):
    says(vm, 'getfd x', 'Error: No file descriptor supplied via SCM_RIGHTS')
    says(vm, 'closefd x', "Error: File descriptor named 'x' not found")


@pytest.mark.ours('QEMU saves, migrates and has a CPU')
@pytest.mark.parametrize('line', [
    'savevm x', 'loadvm x', 'delvm x', 'migrate tcp:0:0', 'info registers',
    'info migrate_parameters', 'migrate_set_capability events on', 'mce'])
def test_refused_by_name(vm, line):
    text = lines(vm.hmp(line))
    assert len(text) == 1, text
    assert re.match(r'Error: [a-z_ ]+: .*blockjobd', text[0]), text
    assert text[0].startswith('Error: ' + ' '.join(
        line.split()[:2 if line.startswith('info') else 1]))


def test_quit(vm):
    assert vm.hmp('quit') == ''
    vm.wait_event('SHUTDOWN', {'guest': False, 'reason': 'host-qmp-quit'})
    vm.wait_exit()
