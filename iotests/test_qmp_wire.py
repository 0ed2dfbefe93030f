# SPDX-License-Identifier: MIT
"""The QMP wire: greeting, negotiation, framing, malformed input.

Whatever a client sends, it gets a reply or is cut off; the server goes on.
"""

import json
import time

import pytest

from .qmp import ProtocolError, QmpClosed, QmpTimeout


@pytest.fixture
def raw(start_server):
    """A connection that has negotiated, for sending text as it is."""
    return start_server().mon


def ask(mon, text):
    """Send text; the reply."""
    mon.send_raw(text)
    return mon.next_reply()


def error_of(mon, text):
    reply = ask(mon, text)
    return reply['error']['class'], reply['error']['desc']


def alive(mon):
    reply = ask(mon, '{"execute":"query-version","id":"alive"}\n')
    assert reply['id'] == 'alive' and 'return' in reply


def memory_kib(server, field='VmRSS'):
    with open(f'/proc/{server.proc.pid}/status', encoding='utf-8') as status:
        for line in status:
            if line.startswith(field + ':'):
                return int(line.split()[1])
    return 0


def test_greeting(start_server):
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    greeting = mon.read_greeting()
    assert set(greeting['QMP']) == {'version', 'capabilities'}
    version = greeting['QMP']['version']
    assert set(version) == {'qemu', 'package'}
    assert set(version['qemu']) == {'major', 'minor', 'micro'}
    assert all(isinstance(v, int) for v in version['qemu'].values())
    assert isinstance(version['package'], str)
    # Those that QEMU does not have come last; clients go by name.
    assert greeting['QMP']['capabilities'] in (
        [['oob'], []] if server.is_qemu else
        [['oob', 'event-sequence', 'error-data']])
    mon.execute('qmp_capabilities')
    assert mon.execute('query-version') == version


def test_command_before_negotiation(start_server):
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.read_greeting()
    for command in ('query-version', 'quit', 'no-such-command'):
        mon.fails(command, cls='CommandNotFound',
                  desc="Expecting capabilities negotiation with "
                       "'qmp_capabilities'")
    mon.fails('qmp_capabilities', {'enable': ['oob', 'nonsense']},
              [f"Parameter '{name}' does not accept value 'nonsense'"
               for name in ('enable[1]', 'null', 'enable')])
    mon.execute('qmp_capabilities')
    mon.fails('qmp_capabilities', cls='CommandNotFound',
              desc='Capabilities negotiation is already complete, '
                   'command ignored')
    mon.execute('query-version')


def test_no_events_before_negotiation(start_server, images):
    """Events of what --blockdev and --export do are not for a client that
    has not negotiated; the first message is the greeting."""
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.read_greeting()
    with pytest.raises(QmpTimeout):
        mon.next_message(timeout=0.1)
    mon.execute('qmp_capabilities')


@pytest.mark.parametrize('ident', [
    'text', '', 'caf\u00e9 \u20ac \U0001f600', 0, -1, 2**63 - 1, -2**63,
    1.5, True, False, None, [], {}, [1, 'a', None, {'b': [False]}],
    {'deep': {'er': [[[['x']]]]}}], ids=repr)
def test_id_is_echoed(raw, ident):
    for command in ('query-version', 'no-such-command'):
        reply = ask(raw, json.dumps({'execute': command, 'id': ident}))
        assert 'id' in reply
        assert reply['id'] == ident and type(reply['id']) is type(ident)


def test_no_id_no_echo(raw):
    assert 'id' not in ask(raw, '{"execute":"query-version"}')
    assert 'id' not in ask(raw, '{"execute":"no-such-command"}')


def test_id_in_error_of_malformed_command(raw):
    reply = ask(raw, '{"execute":"query-version","arguments":5,"id":7}')
    assert reply['id'] == 7 and 'error' in reply
    reply = ask(raw, '{"id":[1]}')
    assert reply['id'] == [1] and 'error' in reply


def test_reply_key_order(raw):
    """The order in which members are written is part of the interface."""
    raw.send_raw('{"execute":"query-version","id":1}'
                 '{"execute":"no-such-command","id":2}')
    assert list(raw.next_reply()) == ['return', 'id']
    reply = raw.next_reply()
    assert list(reply) == ['id', 'error']
    assert list(reply['error']) == ['class', 'desc']


def test_split_anywhere(raw):
    text = '{"execute": "query-version", "id": "sp\\u00e4t \u20ac"}'
    for byte in text.encode():
        raw.send_raw(bytes([byte]))
        time.sleep(0.0005)
    assert raw.next_reply()['id'] == 'sp\u00e4t \u20ac'


def test_glued(raw):
    raw.send_raw(''.join(f'{{"execute":"query-version","id":{i}}}'
                         for i in range(50)))
    assert [raw.next_reply()['id'] for _ in range(50)] == list(range(50))


def test_white_space_and_newlines(raw):
    reply = ask(raw, '\n\r\n \t{\n"execute"\r\n:\t"query-version"\n,'
                     '"id"\n:\n3\n}\n\n\n')
    assert reply['id'] == 3
    alive(raw)


def test_single_quotes(raw):
    reply = ask(raw, "{'execute':'query-version','id':'it\\'s \"x\"'}")
    assert reply['id'] == 'it\'s "x"'
    reply = ask(raw, "{'execute':\"query-version\",\"id\":'a\\u00e9b'}")
    assert reply['id'] == 'a\u00e9b'


def test_escapes(raw):
    reply = ask(raw, r'{"execute":"query-version",'
                     r'"id":"\"\\\/\b\f\n\r\t\u0041\ud83d\ude00"}')
    assert reply['id'] == '"\\/\b\f\n\r\tA\U0001f600'


@pytest.mark.parametrize('text,desc', [
    ('5', 'QMP input must be a JSON object'),
    ('"text"', 'QMP input must be a JSON object'),
    ('null', 'QMP input must be a JSON object'),
    ('true', 'QMP input must be a JSON object'),
    ('[]', 'QMP input must be a JSON object'),
    ('[{"execute":"query-version"}]', 'QMP input must be a JSON object'),
    ('{}', "QMP input lacks member 'execute'"),
    ('{"arguments":{}}', "QMP input lacks member 'execute'"),
    ('{"execute":5}', "QMP input member 'execute' must be a string"),
    ('{"execute":null}', "QMP input member 'execute' must be a string"),
    ('{"execute":["query-version"]}',
     "QMP input member 'execute' must be a string"),
    ('{"execute":"query-version","arguments":[]}',
     "QMP input member 'arguments' must be an object"),
    ('{"execute":"query-version","arguments":"x"}',
     "QMP input member 'arguments' must be an object"),
    ('{"execute":"query-version","extra":1}',
     "QMP input member 'extra' is unexpected"),
    ('{"execute":"query-version","arguments":{"x":1}}',
     "Parameter 'x' is unexpected"),
    ('{"exec-oob":"query-version"}',
     "QMP input member 'exec-oob' is unexpected"),
])
def test_malformed_command(raw, text, desc):
    assert error_of(raw, text + '\n') == ('GenericError', desc)
    alive(raw)


@pytest.mark.parametrize('text', [
    '{"execute":}', '{,}', '{"a" 1}', '{"a":1,}', '[1,]', '}', ']', ':', ',',
    '{"execute":"query-version"]', 'nonsense', 'nul', 'NaN', '01', '-', '1.',
    '+1', '"\\x"', '"\\u12"', '"\\ud800"', "{a:1}", '{1:2}', '{null:1}',
    '/* comment */', '# x', '@', '\x01', '"\x01"', '"line\nfeed"', '%d', '%',
])
def test_syntax_error_then_goes_on(raw, text):
    """One or more errors, and then the connection works on."""
    raw.send_raw(text + '\n')
    raw.send_raw('\n{"execute":"query-version","id":"sync"}\n')
    n_errors = 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            reply = raw.next_reply(timeout=1)
        except QmpTimeout:
            # It may still wait for the end of something begun.
            raw.send_raw('"}]\n{"execute":"query-version","id":"sync"}\n')
            continue
        if reply.get('id') == 'sync':
            break
        assert reply['error']['class'] == 'GenericError', reply
        n_errors += 1
    assert n_errors >= 1
    alive(raw)


def test_bytes_that_are_no_text(raw):
    for garbage in (b'\xff', b'\xfe\xff{', b'{"execute":"\xc3"}',
                    b'{"execute":"\xed\xa0\x80"}', b'\xc0\x80',
                    b'"\xf5\x80\x80\x80"', bytes(range(128, 256))):
        raw.send_raw(garbage + b'\n')
        raw.send_raw('\xff')
        raw.send_raw('\n{"execute":"query-version","id":"sync"}\n')
        n_errors = 0
        while True:
            try:
                reply = raw.next_reply(timeout=2)
            except QmpTimeout:
                raw.send_raw('"}]\n{"execute":"query-version",'
                             '"id":"sync"}\n')
                continue
            if reply.get('id') == 'sync':
                break
            assert reply['error']['class'] in ('GenericError',
                                               'CommandNotFound')
            n_errors += 1
        assert n_errors >= 1, garbage
    alive(raw)


def test_duplicate_member(raw):
    raw.send_raw('{"execute":"query-version","execute":"quit","id":1}\n')
    reply = raw.next_reply()
    assert reply['error']['class'] == 'GenericError'
    alive(raw)


def test_half_message_and_hang_up(start_server):
    server = start_server()
    server.mon.close()
    for text in ('{"execute":"quit"', '{"execute":"qu', '{', '"', '['):
        mon = server.connect()
        mon.send_raw(text)
        mon.close()
    server.mon = server.connect()
    alive(server.mon)


def connect_anew(server):
    """QEMU 7.2 may give the next client what the last one did not read."""
    for _ in range(50 if server.is_qemu else 0):
        try:
            return server.connect()
        except ProtocolError:
            pass
    return server.connect()


def test_hang_up_with_replies_unread(start_server):
    """The client goes away while the server has much to say to it."""
    server = start_server()
    server.mon.close()
    for _ in range(5):
        mon = connect_anew(server)
        try:
            for i in range(20):
                mon.send('query-qmp-schema')
        except QmpTimeout:
            pass
        mon.close()
    server.mon = connect_anew(server)
    alive(server.mon)


@pytest.mark.parametrize('text', ['[', '{"a":', '{"execute":"x","a":['])
def test_deep_nesting(start_server, text):
    """Nesting without end is an error, or the end of the connection."""
    server = start_server()
    mon = server.mon
    before = memory_kib(server)
    try:
        mon.send_raw(text * 10000)
        reply = mon.next_reply()
        assert reply['error']['class'] == 'GenericError'
    except QmpClosed:
        pass
    assert memory_kib(server) - before < 100 << 10
    mon.close()
    server.mon = server.connect()
    alive(server.mon)


def test_nesting_limit(raw):
    """What a sane client could send is not too deep."""
    deep = '[' * 900 + ']' * 900
    reply = ask(raw, '{"execute":"query-version","id":%s}' % deep)
    assert json.dumps(reply['id']) == deep
    # Ours goes on at the next line, QEMU at the next character.
    assert error_of(raw, '[' * 1025 + '\n') == (
        'GenericError', 'JSON nesting depth limit exceeded')
    alive(raw)


@pytest.mark.ours('QEMU 7.2 goes on answering each surplus bracket')
def test_a_gigabyte_of_brackets(start_server):
    """1 GiB of [ : memory stays bounded all the way, and the server can
    be talked to afterwards."""
    server = start_server()
    mon = server.mon
    before = memory_kib(server)
    block = b'[' * (1 << 20)
    cut_off = False
    n_replies = 0
    for i in range(1024):
        try:
            mon.send_raw(block, timeout=20)
        except QmpClosed:
            cut_off = True
            break
        mon.log[-1:] = []
        mon.pump()
        n_replies += len(mon._pending)
        mon._pending.clear()
        del mon.log[200:], mon.received[200:]
        if i % 64 == 63:
            assert memory_kib(server) - before < 150 << 10
    assert cut_off or n_replies >= 1
    mon.close()
    server.mon = server.connect()
    alive(server.mon)


@pytest.mark.ours('QEMU 7.2 reads 0.3 MiB/s, this would take minutes')
def test_endless_string(start_server):
    """A message that never ends is not kept without bound."""
    server = start_server()
    mon = server.mon
    before = memory_kib(server)
    cut_off = False
    try:
        mon.send_raw(b'{"execute":"')
        for _ in range(256):
            mon.send_raw(b'x' * (1 << 20), timeout=20)
            mon.pump()
            if mon._pending:
                break
        else:
            mon.pump(2)
            assert mon._pending
    except QmpClosed:
        cut_off = True
    grown = memory_kib(server, 'VmHWM') - before
    assert grown < 400 << 10, f'{grown} KiB more'
    if not cut_off:
        assert mon.next_reply()['error']['class'] == 'GenericError'
    mon.close()
    server.mon = server.connect()
    alive(server.mon)


def test_long_message_is_fine(raw, server):
    """A long message is no abuse."""
    n_bytes = 1 << (16 if server.is_qemu else 20)
    reply = ask(raw, json.dumps({'execute': 'query-version',
                                 'id': 'x' * n_bytes}))
    assert reply['id'] == 'x' * n_bytes


def test_error_of_overlong_names(raw):
    cls, desc = error_of(raw, json.dumps({'execute': 'x' * 5000}))
    assert cls == 'CommandNotFound' and 'has not been found' in desc
    alive(raw)


def test_oob(start_server):
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.read_greeting()
    if 'oob' not in mon.greeting['QMP']['capabilities']:
        pytest.skip('oob is not offered')
    mon.execute('qmp_capabilities', {'enable': ['oob']})
    reply = ask(mon, '{"exec-oob":"query-version","id":1}')
    assert reply['error']['desc'] == \
        'The command query-version does not support OOB'
    reply = ask(mon, '{"exec-oob":"no-such","id":2}')
    assert reply['error']['class'] == 'CommandNotFound'
    reply = ask(mon, '{"exec-oob":"query-version","execute":"x","id":3}')
    assert reply['error']['class'] == 'GenericError'
    alive(mon)


def test_many_queued_commands(start_server):
    """A client may send far ahead of the replies."""
    server = start_server(connect=False)
    mon = server.mon = server.connect(negotiate=False)
    mon.read_greeting()
    mon.execute('qmp_capabilities',
                {'enable': mon.greeting['QMP']['capabilities']})
    idents = [mon.send('query-version') for _ in range(500)]
    for ident in idents:
        mon.reply_to(ident)


def test_events_come_before_the_reply(server):
    """What happens while a command runs is told before its reply."""
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=1 << 20)
    server.mon.drop_events()
    n_before = len(server.mon.received)
    server.qmp('blockdev-backup', job_id='j', device='src', target='dst',
               sync='full')
    told = server.mon.received[n_before:]
    assert 'return' in told[-1]
    statuses = [m['data'].get('status') for m in told[:-1]]
    assert statuses[:2] == ['created', 'running']
    server.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})


def test_event_shape_and_time(server):
    for name in ('src', 'dst'):
        server.qmp('blockdev-add', driver='null-co', node_name=name,
                   size=1 << 20)
    server.qmp('blockdev-backup', job_id='j', device='src', target='dst',
               sync='full')
    event = server.wait_event('JOB_STATUS_CHANGE', {'status': 'null'})
    assert list(event) == ['timestamp', 'event', 'data']
    stamp = event['timestamp']
    assert list(stamp) == ['seconds', 'microseconds']
    assert abs(stamp['seconds'] - time.time()) < 30
    assert 0 <= stamp['microseconds'] < 1000000


def test_separators(server):
    """Text form: one line, ', ' and ': ' between members."""
    server.mon.execute('query-version')
    line = next(l for l in reversed(server.mon.log) if '"return"' in l)
    assert '{"return": {' in line and '", "' in line or '}, "' in line
    text = line.split('<< ', 1)[1].rstrip('\r')
    assert text == json.dumps(json.loads(text))


def test_non_ascii_is_escaped_or_whole(raw):
    """Replies are valid UTF-8, whatever is put into them."""
    reply = ask(raw, '{"execute":"caf\\u00e9\\u0000x","id":1}')
    assert 'error' in reply
    reply = ask(raw, json.dumps({'execute': 'blockdev-del', 'arguments':
                                 {'node-name': '\u20ac\u0001"\\'}}))
    assert 'error' in reply
    alive(raw)
