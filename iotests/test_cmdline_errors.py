# SPDX-License-Identifier: MIT
"""Mistakes on the command line, in the words of whom we stand for."""

import os

import pytest

from .images import run_tool

NONE = ['-M', 'none', '-nodefaults', '-display', 'none', '-S']


def program(setup, directory, name):
    """The path of QEMU's program, or of a link of that name to ours."""
    if setup.kind == 'qemu':
        return name
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        os.symlink(os.path.abspath(setup.blockjobd), path)
    return path


def says(setup, directory, name, args):
    """All that it says; it must end with exit code 1."""
    cwd = os.getcwd()
    path = program(setup, directory, name)
    os.chdir(directory)
    try:
        code, text = run_tool(path, *args, check=False, timeout=20)
    finally:
        os.chdir(cwd)
    assert code == 1, (args, text)
    # Debian's misses its windows; no fault of the command line's.
    return [line for line in text.splitlines() if 'qemu: module' not in line]


IDENTIFIERS = ("Identifiers consist of letters, digits, '-', '.', '_', "
               "starting with a letter.")


@pytest.mark.parametrize('args, lines', [
    # What is an option at all: before anything else is looked at.
    (['-foo'], ['-foo: invalid option']),
    (['--foo'], ['--foo: invalid option']),
    (['-drive'], ['-drive: requires an argument']),
    (['-machine', 'help', '-foo'], ['-foo: invalid option']),
    (['-version', '-foo'], ['-foo: invalid option']),
    (['-S=on'], ['-S=on: invalid option']),
    # Said as it was given.
    (['--drive', 'if=nope'], ["--drive if=nope: unsupported bus type 'nope'"]),
    (['nope.img'], ["nope.img: Could not open 'nope.img': "
                    'No such file or directory']),
    (['-hda', 'nope.img'], ["-hda nope.img: Could not open 'nope.img': "
                            'No such file or directory']),
    (['-cdrom', 'nope.iso'], ["-cdrom nope.iso: Could not open 'nope.iso': "
                              'No such file or directory']),
    (['-drive', 'file=nope.img,if=none,id=a,format=qcow2'],
     ['-drive file=nope.img,if=none,id=a,format=qcow2: Could not open '
      "'nope.img': No such file or directory"]),
    (['-drive', 'if=none,id=1a'],
     ["-drive if=none,id=1a: Parameter 'id' expects an identifier",
      IDENTIFIERS]),
    (['-drive', 'if=none,id=a', '-drive', 'if=none,id=a'],
     ["-drive if=none,id=a: Duplicate ID 'a' for drive"]),
    (['-blockdev', 'foo'],
     ["-blockdev foo: Parameter 'driver' does not accept value 'foo'"]),
    (['-blockdev', ''], ["-blockdev : Parameter 'driver' is missing"]),
    (['-blockdev', '{"driver":"file"}'],
     ['-blockdev {"driver":"file"}: Parameter \'filename\' is missing']),
    (['-blockdev', 'driver=null-co,node-name=a'] * 2,
     ["-blockdev driver=null-co,node-name=a: Duplicate nodes with "
      "node-name='a'"]),
    (['-blockdev', 'foo,id'],
     ["-blockdev foo,id: Expected '=' after parameter 'id'"]),
    (['-device', 'foo'],
     ["-device foo: 'foo' is not a valid device model name"]),
    (['-device', ''], ["-device : Parameter 'driver' is missing"]),
    (['-device', 'virtio-blk'],
     ["-device virtio-blk: No 'PCI' bus found for device 'virtio-blk-pci'"]),
    (['-device', '{"driver":"virtio-blk"}'],
     ['-device {"driver":"virtio-blk"}: No \'PCI\' bus found for device '
      "'virtio-blk-pci'"]),
    (['-object', 'foo'],
     ["-object foo: Parameter 'qom-type' does not accept value 'foo'"]),
    (['-object', 'iothread'], ["-object iothread: Parameter 'id' is missing"]),
    (['-object', '{"qom-type":"secret","id":"a"'],
     ['-object {"qom-type":"secret","id":"a": JSON parse error, '
      'premature EOI']),
    (['-chardev', 'foo'], ['-chardev foo: chardev: no id specified']),
    (['-chardev', 'foo,id=a'],
     ["-chardev foo,id=a: 'foo' is not a valid char driver name"]),
    (['-chardev', 'socket,id=a,path=/nope/x'],
     ["-chardev socket,id=a,path=/nope/x: Failed to connect to '/nope/x': "
      'No such file or directory']),
    (['-chardev', 'socket,id=a,path=/nope/x,server=on,wait=off'],
     ['-chardev socket,id=a,path=/nope/x,server=on,wait=off: '
      'Failed to bind socket to /nope/x: No such file or directory']),
    (['-chardev', 'socket,id=a,fd=99'],
     ["-chardev socket,id=a,fd=99: File descriptor '99' is not a socket"]),
    (['-chardev', 'socket,id=a,fd=x'],
     ['-chardev socket,id=a,fd=x: Unable to parse FD number x']),
    (['-chardev', 'file,id=a'],
     ['-chardev file,id=a: chardev: file: no filename given']),
    (['-chardev', 'pipe,id=a,path=/nope/x'],
     ["-chardev pipe,id=a,path=/nope/x: Could not open '/nope/x': "
      'No such file or directory']),
    (['-chardev', 'socket,id=a,path=/x,server=maybe'],
     ["-chardev socket,id=a,path=/x,server=maybe: Parameter 'server' "
      "expects 'on' or 'off'"]),
    (['-chardev', 'stdio,id=a', '-chardev', 'stdio,id=b'],
     ['-chardev stdio,id=b: cannot use stdio by multiple character '
      'devices']),
    (['-mon', 'foo'], ['-mon foo: chardev "foo" not found']),
    (['-chardev', 'null,id=c', '-mon', 'chardev=c,mode=x'],
     ["-mon chardev=c,mode=x: Parameter 'mode' does not accept value 'x'"]),
    (['-chardev', 'null,id=c', '-mon', 'c,mode=readline,pretty=on'],
     ["-mon c,mode=readline,pretty=on: 'pretty' is not compatible with HMP "
      'monitors']),
    (['-chardev', 'null,id=c', '-mon', 'c', '-mon', 'c,mode=control'],
     ["-mon c,mode=control: Device 'c' is in use"]),
    (['-qmp', 'unix:/nope/x'],
     ["-qmp unix:/nope/x: Failed to connect to '/nope/x': "
      'No such file or directory']),
    (['-monitor', 'chardev:x'],
     ['-monitor chardev:x: chardev "x" not found']),
    (['-qmp', 'stdio', '-monitor', 'stdio'],
     ['-monitor stdio: cannot use stdio by multiple character devices']),
    (['-daemonize', '-monitor', 'stdio'],
     ['-monitor stdio: cannot use stdio with -daemonize']),
    (['-accel', 'nope'], ['-accel nope: invalid accelerator nope']),
    (['-machine', 'accel=nope'], ['invalid accelerator nope']),
    (['-machine', 'foo=bar'], ["Property 'none-machine.foo' not found"]),
    (['-machine', 'nope'],
     ['unsupported machine type',
      'Use -machine help to list supported machines']),
    (['-uuid', 'foo'], ['-uuid foo: failed to parse UUID string: '
                        'wrong format']),
    (['-name', 'foo=bar'], ["-name foo=bar: Invalid parameter 'foo'"]),
    (['-m', 'foo'],
     ["-m foo: Parameter 'size' expects a non-negative number below 2^64",
      'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, '
      'peta-', 'and exabytes, respectively.']),
    (['-msg', 'timestamp=foo'],
     ["-msg timestamp=foo: Parameter 'timestamp' expects 'on' or 'off'"]),
    (['-sandbox', 'foo'],
     ["-sandbox foo: Parameter 'enable' expects 'on' or 'off'"]),
    (['-rtc', 'base=utc,foo=1'],
     ["-rtc base=utc,foo=1: Invalid parameter 'foo'"]),
    (['-incoming', 'foo'], ['-incoming foo: unknown migration protocol: foo']),
    (['-add-fd', 'fd=99,set=1'],
     ['-add-fd fd=99,set=1: fd is not valid or already in use']),
    (['-add-fd', 'fd=0'],
     ['-add-fd fd=0: fd cannot be a standard I/O stream']),
    (['-global', 'driver=a,foo=b'],
     ["-global driver=a,foo=b: Invalid parameter 'foo'"]),
    (['-netdev', 'user'], ["-netdev user: Parameter 'id' is missing"]),
    (['-pidfile', '/nope/x'],
     ["cannot create PID file: Could not create '/nope/x': "
      'No such file or directory']),
    (['-set', 'foo'], ['-set foo: can\'t parse: "foo"']),
    (['-set', 'device.x.y=z'],
     ['-set device.x.y=z: there is no device "x" defined']),
    (['-readconfig', 'nope'],
     ["-readconfig nope: Could not open 'nope': No such file or directory"]),
    (['-runas', 'no such user'],
     ['-runas no such user: User "no such user" doesn\'t exist (and is not '
      '<uid>:<gid>)']),
    # Which comes first: machine, objects, channels, nodes, drives, monitors,
    # devices, wherever they are.
    (['-device', 'foo', '-drive', 'if=none,file=nope1'],
     ["-drive if=none,file=nope1: Could not open 'nope1': "
      'No such file or directory']),
    (['-drive', 'if=none,file=nope1', '-blockdev',
      'driver=file,node-name=a,filename=nope2'],
     ['-blockdev driver=file,node-name=a,filename=nope2: Could not open '
      "'nope2': No such file or directory"]),
    (['-blockdev', 'driver=file,node-name=a,filename=nope2', '-chardev',
      'foo,id=x'], ["-chardev foo,id=x: 'foo' is not a valid char driver "
                    'name']),
    (['-device', 'foo', '-mon', 'foo'], ['-mon foo: chardev "foo" not found']),
    (['-mon', 'foo', '-blockdev', 'driver=file,node-name=a,filename=nope2'],
     ['-blockdev driver=file,node-name=a,filename=nope2: Could not open '
      "'nope2': No such file or directory"]),
    (['-chardev', 'foo,id=x', '-machine', 'nope'],
     ['unsupported machine type',
      'Use -machine help to list supported machines']),
], ids=lambda value: ' '.join(value)[:40])
def test_system_emulator(setup, directory, args, lines):
    """The option and its text, then what is wrong, hints without a prefix.
    By name, and (where an option tells) under our own name too."""
    name = 'qemu-system-x86_64'
    wanted = [line if i and line[:1].isupper() or i and 'and exa' in line
              else f'{name}: {line}' for i, line in enumerate(lines)]
    assert says(setup, directory, name, NONE + args) == wanted
    if setup.kind == 'blockjobd':
        own = [line.replace(name, 'blockjobd') for line in wanted]
        assert says(setup, directory, 'blockjobd', NONE + args) == own


@pytest.mark.parametrize('args, line', [
    (['--foo'], "unrecognized option '--foo'"),
    (['--blockdev'], "option '--blockdev' requires an argument"),
    (['--daemonize=x'], "option '--daemonize' doesn't allow an argument"),
    (['foo'], 'foo: Unexpected argument'),
    (['--drive', 'x'], "unrecognized option '--drive'"),
    (['--device', 'x'], "unrecognized option '--device'"),
    # An abbreviation, as it was given.
    (['--bl', 'null-co'],
     "--bl null-co: 'node-name' must be specified for the root node"),
    (['--blockdev=null-co,node-name=1'],
     "--blockdev=null-co,node-name=1: Invalid node-name: '1'"),
    (['--export', 'nbd'], "--export nbd: Parameter 'id' is missing"),
    (['--export', 'nope,id=a'],
     "--export nope,id=a: Parameter 'type' does not accept value 'nope'"),
    (['--export', 'nbd,id=a,node-name=x'],
     "--export nbd,id=a,node-name=x: Cannot find device='' nor "
     "node-name='x'"),
    (['--export', '{"type":"nbd","id":"e","node-name":"x"}'],
     '--export {"type":"nbd","id":"e","node-name":"x"}: '
     "Cannot find device='' nor node-name='x'"),
    (['--export', 'help'],
     '--export help: Help is not available for this option'),
    (['--nbd-server', 'foo'],
     "--nbd-server foo: Expected '=' after parameter 'foo'"),
    (['--nbd-server', 'addr.type=nope'],
     "--nbd-server addr.type=nope: Parameter 'type' does not accept value "
     "'nope'"),
    (['--monitor', 'x'], '--monitor x: chardev "x" not found'),
    (['--monitor', 'pretty=on'],
     "--monitor pretty=on: Parameter 'chardev' is missing"),
    (['--chardev', 'null,id=a', '--monitor', 'a,mode=readline'],
     '--monitor a,mode=readline: Only QMP is supported'),
    (['--chardev', 'null,id=a', '--monitor', 'a,pretty=maybe'],
     "--monitor a,pretty=maybe: Parameter 'pretty' expects 'on' or 'off'"),
    (['--chardev', 'null,id=a', '--monitor', 'a,foo=1'],
     "--monitor a,foo=1: Parameter 'foo' is unexpected"),
    (['--chardev', 'null,id=a', '--monitor', 'a', '--monitor', 'a'],
     "--monitor a: Device 'a' is in use"),
    (['--object', 'secret,id=a'],
     "--object secret,id=a: Either 'file' or 'data' must be provided"),
    # In order, strictly: also what an option refers to.
    (['--blockdev', 'raw,node-name=r,file=p', '--blockdev',
      'null-co,node-name=p'],
     "--blockdev raw,node-name=r,file=p: Cannot find device='p' nor "
     "node-name='p'"),
    (['--monitor', 'a', '--chardev', 'null,id=a'],
     '--monitor a: chardev "a" not found'),
    (['--daemonize', '--chardev', 'stdio,id=a'],
     '--chardev stdio,id=a: cannot use stdio with -daemonize'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_storage_daemon(setup, directory, args, line):
    name = 'qemu-storage-daemon'
    said = says(setup, directory, name, args)
    assert said[0] == f'{name}: {line}'


@pytest.mark.ours('what QEMU would start with')
@pytest.mark.parametrize('args, line', [
    (['-kernel', 'x'], '-kernel x: not supported: there is no guest that '
                       'would run'),
    (['-gdb', 'tcp::1'], '-gdb tcp::1: not supported: there is no CPU to '
                         'debug'),
    (['-loadvm', 'x'], '-loadvm x: not supported: there is no state of a '
                       'guest'),
    (['-incoming', 'unix:/x'], '-incoming unix:/x: blockjobd does not '
                               'migrate yet'),
    (['-chardev', 'ringbuf,id=a'],
     "-chardev ringbuf,id=a: char driver 'ringbuf' is not supported"),
    (['-chardev', 'socket,id=a,path=/x,telnet=on'],
     "-chardev socket,id=a,path=/x,telnet=on: Parameter 'telnet' is not "
     'supported for a channel'),
    (['-chardev', 'file,id=a,path=/dev/null', '-mon', 'a'],
     "-mon a: Device 'a' only takes output"),
    (['-readconfig', '/dev/zero'],
     "-readconfig /dev/zero: Could not read '/dev/zero': File too large"),
    (['-readconfig', '/'], "-readconfig /: Could not read '/': "
                           'Is a directory'),
    (['-trace', 'nope'], "--trace nope: unknown module 'nope'"),
])
def test_refused(setup, directory, args, line):
    """Silence would hide a mistake."""
    assert says(setup, directory, 'blockjobd', NONE + args) == \
        [f'blockjobd: {line}']
