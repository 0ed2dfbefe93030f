# SPDX-License-Identifier: MIT
"""Questions on the command line: an answer on stdout, exit 0, no more."""

import re
import subprocess

import pytest

from .test_cmdline_errors import program


def ask(setup, directory, *args, name='qemu-system-x86_64'):
    """What it says on stdout; all is well otherwise."""
    done = subprocess.run([program(setup, directory, name), *args],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=False, cwd=directory)
    assert done.returncode == 0, (args, done)
    if setup.kind != 'qemu':        # Debian's misses its windows
        assert done.stderr == ''
    return done.stdout


def test_default_machine(setup, directory):
    """How harnesses find it: the line with (default), or its alias."""
    text = ask(setup, directory, '-machine', 'help')
    default = re.search(r'(?m)^([^ ]+) +.* \(default\)', text).group(1)
    alias = re.search(r'(?m)^([^ ]+) +.* \(alias of '
                      f'{re.escape(default)}\\)$', text).group(1)
    assert alias == 'pc'
    assert ask(setup, directory, '-M', 'help') == text
    assert ask(setup, directory, '-M', '?') == text
    assert re.search('(?m)^none +empty machine$', text)


def test_devices(setup, directory):
    text = ask(setup, directory, '-M', 'none', '-device', 'help')
    names = re.findall('(?m)^name "([^"]+)"', text)
    for name in ('virtio-blk-pci', 'virtio-scsi-pci', 'scsi-hd', 'scsi-cd',
                 'ide-hd', 'ide-cd', 'floppy', 'pcie-root-port'):
        assert name in names
    assert 'virtio-blk' in text
    assert ask(setup, directory, '-device', 'help', '-M', 'nope') == text


@pytest.mark.parametrize('name, keys', [
    ('virtio-blk-pci', ['drive', 'iothread', 'share-rw', 'serial', 'addr']),
    ('virtio-blk', ['drive', 'write-cache', 'rerror', 'werror']),
    ('scsi-hd', ['drive', 'share-rw', 'scsi-id', 'lun', 'channel']),
    ('ide-cd', ['drive', 'unit']),
    ('virtio-scsi-pci', ['iothread'])])
def test_device_properties(setup, directory, name, keys):
    text = ask(setup, directory, '-device', f'{name},help')
    first = 'virtio-blk-pci' if name == 'virtio-blk' else name
    assert text.splitlines()[0] == f'{first} options:'
    for key in keys:
        assert re.search(f'(?m)^  {key}=<', text), key


def test_formats(setup, directory):
    """Two lines, in one order."""
    lines = ask(setup, directory, '-drive', 'format=help').splitlines()
    assert len(lines) == 2
    assert lines[0].startswith('Supported formats: ')
    assert lines[1].startswith('Supported formats (read-only): ')
    formats = lines[0].split(': ')[1].split()
    for name in ('blkdebug', 'blkverify', 'throttle', 'quorum',
                 'copy-on-read', 'copy-before-write', 'compress',
                 'preallocate', 'null-co', 'null-aio', 'raw', 'qcow2',
                 'file'):
        assert name in formats
    assert formats == sorted(formats)


@pytest.mark.parametrize('name', ['qemu-system-x86_64',
                                  'qemu-storage-daemon'])
def test_objects(setup, directory, name):
    lines = ask(setup, directory, '--object', 'help', name=name).splitlines()
    assert lines[0] == 'List of user creatable objects:'
    for kind in ('iothread', 'secret', 'throttle-group', 'tls-creds-x509'):
        assert f'  {kind}' in lines
    lines = ask(setup, directory, '--object', 'secret,help',
                name=name).splitlines()
    assert lines[:6] == [
        'secret options:', '  data=<string>', '  file=<string>',
        '  format=<QCryptoSecretFormat>' if setup.kind == 'qemu'
        else '  format=<enum>', '  iv=<string>', '  keyid=<string>']
    lines = ask(setup, directory, '--object', 'throttle-group,help',
                name=name).splitlines()
    assert '  x-bps-total=<int>' in lines


@pytest.mark.parametrize('option, first, some', [
    ('-chardev', 'Available chardev backend types: ', ['  socket',
                                                       '  stdio']),
    ('-accel', 'Accelerators supported in QEMU binary:', ['tcg']),
    ('-cpu', 'Available CPUs:', []),
    ('-netdev', 'Available netdev backend types:', ['tap', 'user'])])
def test_lists(setup, directory, option, first, some):
    lines = ask(setup, directory, option, 'help').splitlines()
    assert lines[0] == first
    for line in some:
        assert line in lines
    if setup.kind != 'qemu' and option == '-accel':
        assert 'qtest' in lines


def test_version(setup, directory):
    """Programs look for a number behind these words."""
    for option in ('-version', '--version'):
        line = ask(setup, directory, option).splitlines()[0]
        assert re.match(r'QEMU emulator version \d+\.\d+\.\d+ \(', line)
    for option in ('-V', '--version'):
        line = ask(setup, directory, option,
                   name='qemu-storage-daemon').splitlines()[0]
        assert re.match(r'qemu-storage-daemon version \d+\.\d+\.\d+ \(', line)


@pytest.mark.ours('its own name')
def test_own_version(setup, directory):
    text = ask(setup, directory, '--version', name='blockjobd')
    assert re.fullmatch(r'blockjobd version [0-9.]+\n', text)
    # Whatever else it is asked to do.
    assert ask(setup, directory, '-version', '-M', 'pc',
               name='blockjobd') == text


@pytest.mark.ours('what our help is like')
def test_help(setup, directory):
    """What most need is on the first page."""
    text = ask(setup, directory, '--help', name='blockjobd')
    page = '\n'.join(text.splitlines()[:60])
    for option in ('--blockdev', '--drive', '--device', '--object',
                   '--nbd-server', '--export', '--qmp', '--monitor',
                   '--pidfile', '--daemonize', '--help', '--version'):
        assert f'\n  {option} ' in page or f'{option}\n' in page
    assert max(len(line) for line in text.splitlines()) <= 110


def test_nothing_is_done(setup, directory):
    """A question is all: no file is made, none opened."""
    ask(setup, directory, '-pidfile', 'pid', '-drive',
        'file=nope,if=none', '-device', 'help')
    assert subprocess.run(['ls', directory], capture_output=True, text=True,
                          check=True).stdout.split() in \
        ([], ['qemu-system-x86_64'])


@pytest.mark.parametrize('option', ['-blockdev', '-device nope,'])
def test_no_help(setup, directory, option):
    option, _, text = option.partition(' ')
    done = subprocess.run(
        [program(setup, directory, 'qemu-system-x86_64'), option,
         f'{text}help'], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False, cwd=directory)
    wanted = "Device 'nope' not found" if text else \
        'Help is not available for this option'
    assert done.stderr == \
        f'qemu-system-x86_64: {option} {text}help: {wanted}\n'
    assert done.stdout == ''
