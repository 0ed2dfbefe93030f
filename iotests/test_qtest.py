# SPDX-License-Identifier: MIT
"""The qtest socket, and limits measured with the clock it steps."""

import socket

import pytest

pytestmark = pytest.mark.ours("Debian's QEMU has no qtest accelerator")
SECOND = 1000000000
IO = 512


def null_drive(vm, name, **limits):
    text = f'if=none,id={name},file=null-aio://,file.size=1073741824'
    for key, value in limits.items():
        text += f',throttling.{key.replace("_", "-")}={value}'
    return vm.add_args('-drive', text)


def stats(vm, name):
    for entry in vm.qmp('query-blockstats'):
        if entry['device'] == name:
            return entry['stats']
    raise AssertionError(name)


def set_limits(vm, name, **limits):
    zero = dict.fromkeys(('bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd',
                          'iops_wr'), 0)
    vm.qmp('block_set_io_throttle', dict(zero, device=name, **limits))


def test_protocol(launch):
    """A line each way; what there is no machine for is refused."""
    vm = launch().start()
    ask = vm.qtest.command
    assert ask('endianness') == 'OK little'
    for line in ('nope', '', 'irq_intercept_in x', 'inb 0x70', 'rtas x',
                 'readq 0', 'clock_step x', 'clock_step -1', 'clock_set',
                 'clock_step 1x'):
        assert ask(line).startswith('FAIL '), line
    assert ask('nope') == "FAIL Unknown command 'nope'"
    start = vm.qtest.clock_step(0)
    assert vm.qtest.clock_step(5) == start + 5
    assert vm.qtest.clock_step(SECOND) == start + 5 + SECOND
    assert ask(f'clock_set {start + 7 * SECOND}') == \
        f'OK {start + 7 * SECOND}'
    assert ask('clock_set 0') == f'OK {start + 7 * SECOND}'
    assert ask('clock_step') == f'OK {start + 7 * SECOND}'
    assert ask('clock_step\r') == f'OK {start + 7 * SECOND}'


def test_several_lines_and_parts_of_lines(launch):
    vm = launch().start()
    start = vm.qtest.clock_step(0)
    sock = vm.qtest._sock
    sock.sendall(b'clock_step 1\nclock_step 1\nclo')
    sock.sendall(b'ck_step 1\n')
    lines = [vm.qtest._file.readline() for _ in range(3)]
    assert lines == [f'OK {start + i}\n' for i in (1, 2, 3)]


def test_hung_up(launch):
    """The harness may go; the server stays.  So it does if somebody sends a
    line without an end."""
    vm = launch().start()
    vm.qtest._sock.shutdown(socket.SHUT_RDWR)
    vm.qmp('query-status')
    vm2 = launch().start()
    try:
        for _ in range(20):
            vm2.qtest._sock.sendall(b'x' * 65536)
    except OSError:
        pass
    vm2.qmp('query-status')


def test_clock_that_runs(launch):
    """Without the qtest accelerator the clock cannot be stepped."""
    ours, theirs = socket.socketpair()
    vm = launch('-chardev', f'socket,id=q,fd={theirs.fileno()}', '-qtest',
                'chardev:q', qtest=False, machine='none',
                pass_fds=(theirs.fileno(),))
    vm._more = ['-accel', 'tcg'] + vm._more
    head = vm.command_line

    def command_line():
        argv = head()
        at = argv.index('-accel')
        return argv[:at] + argv[at + 2:]

    vm.command_line = command_line
    vm.start()
    theirs.close()
    with ours:
        ours.sendall(b'clock_step 5\nendianness\n')
        lines = ours.makefile()
        assert lines.readline() == 'FAIL The clock runs\n'
        assert lines.readline() == 'OK little\n'


def test_chardev_of_its_own(launch, directory):
    path = f'{directory}/q'
    vm = launch('-qtest', f'unix:{path},server=on,wait=off',
                qtest=False).start()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(b'endianness\n')
        assert sock.makefile().readline() == 'OK little\n'
    assert vm.running()


def test_no_such_channel(launch):
    vm = launch('-qtest', 'chardev:nope')
    vm.expect_exit = 1
    with pytest.raises((AssertionError, OSError)):
        vm.start()
    vm.wait_exit()
    assert 'chardev:nope' in vm.stderr()


def check_step(vm, name, limits, seconds=5):
    """As 093: more requests than the limit lets through in `seconds`; after
    the step about as much was done as it allows."""
    per_second = min(
        limits.get('iops', 1 << 60),
        limits.get('iops_rd', 1 << 60),
        limits.get('bps', 1 << 60) // IO,
        limits.get('bps_rd', 1 << 60) // IO)
    for i in range(per_second * seconds * 2):
        vm.qemu_io(name, f'aio_read {i * IO} {IO}')
    vm.qtest.clock_step(0)
    start = stats(vm, name)['rd_operations']
    vm.qtest.clock_step(seconds * SECOND)
    done = stats(vm, name)['rd_operations'] - start
    assert done <= per_second * seconds * 1.1
    assert done >= per_second * seconds * 0.9


@pytest.mark.parametrize('limits', [
    {'iops': 10}, {'iops_rd': 20}, {'bps': 10 * IO}, {'bps_rd': 5 * IO},
    {'iops': 10, 'bps': 20 * IO}])
def test_limit_is_kept(launch, limits):
    vm = null_drive(launch(), 'drv').start()
    set_limits(vm, 'drv', **limits)
    check_step(vm, 'drv', limits)


def test_nothing_moves_by_itself(launch):
    """While the clock stands nothing that is over the limit goes; a step to
    the next deadline lets go just what waits for it."""
    vm = null_drive(launch(), 'drv', iops_total=1).start()
    for i in range(8):
        vm.qemu_io('drv', f'aio_read {i * IO} {IO}')
    before = stats(vm, 'drv')['rd_operations']
    assert 0 < before < 8
    first = vm.qtest.clock_step(0)
    assert stats(vm, 'drv')['rd_operations'] == before
    assert vm.qtest.clock_step(0) == first
    assert stats(vm, 'drv')['rd_operations'] == before
    now = first
    for i in range(before, 8):
        words = vm.qtest.command('clock_step').split()
        assert int(words[1]) > now
        now = int(words[1])
        assert stats(vm, 'drv')['rd_operations'] == i + 1
    assert vm.qtest.command('clock_step') == f'OK {now}'


def test_far_away(launch):
    """To the end of time: all that waits goes, and the clock stays there."""
    vm = null_drive(launch(), 'drv', iops_total=100).start()
    for i in range(50):
        vm.qemu_io('drv', f'aio_read {i * IO} {IO}')
    end = (1 << 63) - 1
    assert vm.qtest.clock_step(end) == end
    assert stats(vm, 'drv')['rd_operations'] == 50
    assert vm.qtest.clock_step(end) == end
    assert vm.qtest.command('clock_step') == f'OK {end}'


def test_quit_in_a_step(launch):
    """A step that never ends ends with the server."""
    vm = null_drive(launch(), 'drv', iops_total=1).start()
    vm.qtest._sock.sendall(b'clock_step 1000000000000000000\n' * 3)
    for i in range(50):
        vm.qemu_io('drv', f'aio_read {i * IO} {IO}')
    vm.quit()


def test_members_of_a_group_share(launch):
    """Each of three has its part, and all together the limit."""
    names = ('a', 'b', 'c')
    vm = launch()
    for name in names:
        null_drive(vm, name, iops_total=30, group='g')
    vm.start()
    for i in range(200):
        for name in names:
            vm.qemu_io(name, f'aio_read {i * IO} {IO}')
    vm.qtest.clock_step(0)
    start = [stats(vm, name)['rd_operations'] for name in names]
    vm.qtest.clock_step(10 * SECOND)
    done = [stats(vm, name)['rd_operations'] - before
            for name, before in zip(names, start)]
    assert 270 <= sum(done) <= 330
    assert max(done) - min(done) <= 2


def test_suspended_request_does_not_hold_up_the_clock(launch):
    """Who hangs at a breakpoint is not waited for, not for long."""
    vm = launch('-drive', 'if=none,id=drv,driver=blkdebug,node-name=dbg,'
                'image.driver=null-co,image.size=1048576').start()
    vm.qemu_io('drv', 'break read_aio A')
    vm.qemu_io('drv', 'aio_read 0 512')
    now = vm.qtest.clock_step(SECOND)
    assert vm.qtest.clock_step(SECOND) == now + SECOND
    vm.qemu_io('drv', 'remove_break A')
    vm.qemu_io('drv', 'aio_flush')
