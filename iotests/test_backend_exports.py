# SPDX-License-Identifier: MIT
"""nbd-server-add of a device: its clients are the device's guest."""

import pytest

from .nbd import CMD_WRITE, NbdClient, NbdError

MIB = 1 << 20
GUEST = 'its clients are the guest'


@pytest.fixture
def start_export(launch):
    def start(drive, device='d0', **options):
        vm = launch().add_drive_raw(f'if=none,id=d0,{drive}').start()
        vm.qmp('nbd-server-start', addr={'type': 'unix',
                                         'data': {'path': vm.nbd_path}})
        vm.qmp('nbd-server-add', device=device, **options)
        return vm, NbdClient.connect(vm.nbd_path, options.get('name', device))
    return start


def exports(vm):
    return [e['id'] for e in vm.qmp('query-block-exports')]


def stats(vm):
    return vm.qmp('query-blockstats')[0]['stats']


@pytest.mark.ours(GUEST)
def test_statistics(start_export):
    vm, nbd = start_export('driver=null-co,size=1048576', writable=True)
    nbd.write(0, bytes(4096))
    nbd.read(0, 8192)
    nbd.flush()
    nbd.trim(0, 65536)
    with pytest.raises(NbdError):
        nbd.read(MIB, 4096)
    got = stats(vm)
    assert (got['wr_operations'], got['wr_bytes']) == (1, 4096)
    assert (got['rd_operations'], got['rd_bytes']) == (1, 8192)
    assert got['flush_operations'] == 1
    assert got['unmap_bytes'] == 65536
    assert got['invalid_rd_operations'] == 1
    nbd.disconnect()


@pytest.mark.parametrize('way', ['eject', 'change', 'drive_del'])
def test_goes_with_the_medium(start_export, images, way):
    """Its event precedes the reply, or follows at once."""
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(f'file={path},format=raw', name='x')
    assert exports(vm) == ['x']
    if way == 'eject':
        vm.qmp('eject', device='d0')
    elif way == 'change':
        vm.qmp('blockdev-change-medium', device='d0', filename=path,
               format='raw')
    else:
        assert vm.hmp('drive_del d0') == ''
    vm.wait_event('BLOCK_EXPORT_DELETED', {'id': 'x'})
    assert exports(vm) == []
    with pytest.raises((OSError, EOFError)):
        nbd.read(0, 512)
    nbd.close()


def test_of_a_node_stays(start_export, images):
    """Only what was asked for by the device's name goes with its medium."""
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(f'file={path},format=raw,node-name=n', device='n')
    vm.qmp('eject', device='d0')
    assert exports(vm) == ['n']
    nbd.read(0, 512)
    nbd.disconnect()


def failing(path, policy, errno, iotype='write'):
    return (f'{policy}driver=blkdebug,image.driver=file,'
            f'image.filename={path},inject-error.0.event=none,'
            f'inject-error.0.iotype={iotype},inject-error.0.errno={errno},'
            'inject-error.0.once=on')


@pytest.mark.ours(GUEST)
@pytest.mark.parametrize('policy, errno, nospace', [
    ('werror=stop,', 5, False), ('werror=stop,', 28, True),
    ('werror=enospc,', 28, True)])
def test_stop(start_export, images, policy, errno, nospace):
    """The write waits for cont, and is made again."""
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(failing(path, policy, errno), writable=True)
    nbd.request(CMD_WRITE, 4096, 512, data=b'x' * 512)
    data = vm.wait_event('BLOCK_IO_ERROR')['data']
    assert data['device'] == 'd0' and data['operation'] == 'write'
    assert data['action'] == 'stop' and data['nospace'] is nospace
    assert data['reason'] == ('No space left on device' if nospace
                              else 'Input/output error')
    vm.wait_event('STOP')
    assert vm.qmp('query-status') == {'running': False, 'status': 'io-error'}
    vm.qmp('cont')
    vm.wait_event('RESUME')
    assert nbd.reply()[1] is None
    assert nbd.read(4096, 512) == b'x' * 512
    nbd.disconnect()


@pytest.mark.ours(GUEST)
@pytest.mark.parametrize('way', ['remove', 'drive_del', 'quit'])
def test_stop_and_the_end(start_export, images, way):
    """Nobody waits for a cont that does not come."""
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(failing(path, 'werror=stop,', 5), writable=True)
    nbd.request(CMD_WRITE, 4096, 512, data=b'x' * 512)
    vm.wait_event('BLOCK_IO_ERROR')
    if way == 'remove':
        vm.qmp('nbd-server-remove', name='d0', mode='hard')
    elif way == 'drive_del':
        assert vm.hmp('drive_del d0') == ''
    else:
        vm.quit()
    if way != 'quit':
        assert exports(vm) == []
    nbd.close()


@pytest.mark.parametrize('policy, errno', [
    ('', 28), ('', 5), ('werror=report,', 28), ('werror=enospc,', 5)])
def test_report(start_export, images, policy, errno):
    """The client is told; so it is if nobody has said anything."""
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(failing(path, policy, errno), writable=True)
    with pytest.raises(NbdError):
        nbd.write(4096, b'x' * 512)
    assert vm.qmp('query-status')['status'] in ('running', 'prelaunch')
    nbd.write(4096, b'y' * 512)
    nbd.disconnect()


@pytest.mark.ours(GUEST)
def test_ignore(start_export, images):
    path = images.create('a.raw', MIB, 'raw')
    vm, nbd = start_export(failing(path, 'werror=ignore,', 5), writable=True)
    nbd.write(4096, b'x' * 512)
    assert vm.wait_event('BLOCK_IO_ERROR')['data']['action'] == 'ignore'
    nbd.disconnect()
