# SPDX-License-Identifier: MIT
"""Objects: object-add and object-del, --object, the tree that qom-list and
its like show, and what each type is told."""

import base64
import json
import os
import subprocess

import pytest

from .server import ServerFailed

KEY = base64.b64encode(b'k' * 32).decode()
IV = base64.b64encode(b'i' * 16).decode()


def encrypted(data):
    """In base64, with KEY and IV."""
    done = subprocess.run(
        ['openssl', 'enc', '-aes-256-cbc', '-K', (b'k' * 32).hex(),
         '-iv', (b'i' * 16).hex()], input=data, check=True,
        capture_output=True, timeout=60)
    return base64.b64encode(done.stdout).decode()


def add(server, kind, ident, **options):
    options = {key.replace('_', '-'): value for key, value in options.items()}
    server.qmp('object-add', dict({'qom-type': kind, 'id': ident}, **options))


def add_fails(server, desc, kind, ident, **options):
    options = {key.replace('_', '-'): value for key, value in options.items()}
    return server.fails('object-add', dict({'qom-type': kind, 'id': ident},
                                           **options), desc)


def get(server, path, name):
    return server.qmp('qom-get', path=path, property=name)


# The registry

def test_ids(server):
    add(server, 'iothread', 'a')
    add_fails(server, "attempt to add duplicate property 'a' to object "
              "(type 'container')", 'iothread', 'a')
    add_fails(server, "attempt to add duplicate property 'a' to object "
              "(type 'container')", 'secret', 'a', data='')
    for bad in ('', '1a', 'a b', 'a/b', '-a', 'ä'):
        add_fails(server, "Parameter 'id' expects an identifier",
                  'iothread', bad)
    add_fails(server, "Parameter 'qom-type' does not accept value 'nope'",
              'nope', 'b')
    server.fails('object-add', {'qom-type': 'iothread'},
                 "Parameter 'id' is missing")
    server.fails('object-add', {'id': 'b'}, "Parameter 'qom-type' is missing")
    server.fails('object-add', {'qom-type': 'iothread', 'id': 'b', 'x': 1},
                 "Parameter 'x' is unexpected")
    server.fails('object-del', {'id': 'b'}, "object 'b' not found")
    server.qmp('object-del', id='a')
    server.fails('object-del', {'id': 'a'}, "object 'a' not found")
    add(server, 'secret', 'a', data='')


def test_throttle_group_in_use(server):
    add(server, 'throttle-group', 'g', limits={'iops-total': 1000})
    server.qmp('blockdev-add', {
        'driver': 'throttle', 'node-name': 't', 'throttle-group': 'g',
        'file': {'driver': 'null-co', 'size': 65536, 'read-zeroes': True}})
    server.fails('object-del', {'id': 'g'},
                 "object 'g' is in use, can not be deleted")
    server.qmp('blockdev-del', node_name='t')
    server.qmp('object-del', id='g')


# The tree

def test_paths(server):
    add(server, 'iothread', 'a', poll_max_ns=7)
    for path in ('a', '/objects/a', 'objects/a', '//objects///a/'):
        assert get(server, path, 'poll-max-ns') == 7
    assert get(server, '/', 'objects') == '/objects'
    assert get(server, '/objects', 'a') == '/objects/a'
    assert get(server, '/objects', 'type') == 'container'
    assert get(server, 'a', 'type') == 'iothread'
    listed = server.qmp('qom-list', path='/objects')
    assert {'name': 'a', 'type': 'child<iothread>'} in listed
    listed = server.qmp('qom-list', path='/')
    assert {'name': 'objects', 'type': 'child<container>'} in listed
    listed = {p['name']: p['type'] for p in server.qmp('qom-list', path='a')}
    assert listed == {'type': 'string', 'poll-max-ns': 'int',
                      'poll-grow': 'int', 'poll-shrink': 'int',
                      'aio-max-batch': 'int', 'thread-pool-min': 'int',
                      'thread-pool-max': 'int'}
    for path in ('nope', '/a', '/objects/nope', 'a/type'):
        server.fails('qom-list', {'path': path},
                     f"Device '{path}' not found", cls='DeviceNotFound')
    server.fails('qom-list', {'path': ''}, "Path '' is ambiguous")
    server.fails('qom-get', {'path': 'a', 'property': 'nope'},
                 "Property 'iothread.nope' not found")


def test_set(server):
    add(server, 'iothread', 'a')
    assert get(server, 'a', 'poll-max-ns') == 32768
    server.qmp('qom-set', path='a', property='poll-max-ns', value=5)
    assert get(server, 'a', 'poll-max-ns') == 5

    def fails(desc, path, name, value):
        server.fails('qom-set', {'path': path, 'property': name,
                                 'value': value}, desc)

    fails('poll-max-ns value must be in range [0, 9223372036854775807]',
          'a', 'poll-max-ns', -1)
    fails("Invalid parameter type for 'poll-max-ns', expected: integer",
          'a', 'poll-max-ns', 'x')
    fails("Property 'iothread.type' is not writable", 'a', 'type', 'x')
    fails("Property 'container.a' is not writable", '/objects', 'a', 1)
    fails("Property 'iothread.nope' not found", 'a', 'nope', 1)
    assert get(server, 'a', 'poll-max-ns') == 5
    add_fails(server, 'bad thread-pool-min/thread-pool-max values',
              'iothread', 'b', thread_pool_min=5, thread_pool_max=3)


def test_types(server):
    types = {t['name']: t for t in server.qmp('qom-list-types')}
    assert types['iothread']['parent'] == 'event-loop-base'
    assert types['secret']['parent'] == 'secret_common'
    assert types['throttle-group']['parent'] == 'object'
    assert 'tls-creds' not in types
    types = {t['name']: t
             for t in server.qmp('qom-list-types', abstract=True)}
    assert types['tls-creds'] == {'name': 'tls-creds', 'parent': 'object',
                                  'abstract': True}
    assert types['object'] == {'name': 'object', 'abstract': True}
    names = {t['name'] for t in
             server.qmp('qom-list-types', implements='tls-creds')}
    assert {'tls-creds-anon', 'tls-creds-psk', 'tls-creds-x509'} <= names
    assert 'secret' not in names
    assert server.qmp('qom-list-types', implements='nope') == []
    listed = {p['name']: p['type'] for p in
              server.qmp('qom-list-properties', typename='tls-creds-psk')}
    assert listed['endpoint'] == 'QCryptoTLSCredsEndpoint'
    assert listed['username'] == 'string'
    listed = {p['name']: p['type'] for p in
              server.qmp('qom-list-properties', typename='throttle-group')}
    assert listed['limits'] == 'ThrottleLimits'
    server.fails('qom-list-properties', {'typename': 'nope'},
                 "Class 'nope' not found", cls='DeviceNotFound')


# Secrets

def test_secrets(server, directory):
    path = os.path.join(directory, 'secret')
    with open(path, 'wb') as file:
        file.write(b'\xff\0key')
    add(server, 'secret', 'raw', data='abc')
    add(server, 'secret', 'encoded', data='YWJj', format='base64')
    add(server, 'secret', 'file', file=path)
    assert get(server, 'raw', 'data') == 'abc'
    assert get(server, 'encoded', 'data') == 'YWJj'
    assert get(server, 'encoded', 'format') == 'base64'
    assert get(server, 'file', 'file') == path
    assert get(server, 'file', 'data') == ''
    add_fails(server, "Either 'file' or 'data' must be provided",
              'secret', 's')
    add_fails(server, "'file' and 'data' are mutually exclusive",
              'secret', 's', file=path, data='')
    add_fails(server, 'Base64 data contains invalid characters',
              'secret', 's', data='!', format='base64')
    desc = add_fails(server, None, 'secret', 's', file='/nope')
    assert desc.startswith('Unable to read /nope: ')
    assert desc.endswith('No such file or directory')


def test_encrypted_secrets(server):
    add(server, 'secret', 'key', data=KEY, format='base64')
    add(server, 'secret', 'short', data='x')
    add(server, 'iothread', 'io')
    add(server, 'secret', 'ok', data=encrypted(b'hello'), format='base64',
        keyid='key', iv=IV)
    add(server, 'secret', 'empty', data=encrypted(b''), format='base64',
        keyid='key', iv=IV)
    # What was encrypted is a key itself.
    add(server, 'secret', 'key2', data=encrypted(b'k' * 32), format='base64',
        keyid='key', iv=IV)
    add(server, 'secret', 'ok2', data=encrypted(b'x' * 100), format='base64',
        keyid='key2', iv=IV)

    def fails(desc, **options):
        add_fails(server, desc, 'secret', 's', **options)

    fails("No secret with id 'nope'", data='', keyid='nope', iv=IV)
    fails("Object with id 'io' is not a secret", data='', keyid='io', iv=IV)
    fails('Key should be 32 bytes in length', data='', keyid='short', iv=IV)
    fails('IV is required to decrypt secret', data='', keyid='key')
    fails('IV should be 16 bytes in length not 3', data='', keyid='key',
          iv='YWJj')
    fails('Length 4 must be a multiple of block size 16', data='YWJj',
          keyid='key', iv=IV)
    fails('Incorrect number of padding bytes (80) found on decrypted data',
          data=base64.b64encode(b'z' * 16).decode(), format='base64',
          keyid='key', iv=IV)


# The command line

def test_command_line(start_server):
    server = start_server(args=[
        '--object', 'iothread,id=a,poll-max-ns=5',
        '--object', json.dumps({'qom-type': 'secret', 'id': 's',
                                'data': 'a,b'}),
        '--object', 'qom-type=secret,id=s2,data=a,,b',
        '--object', 'throttle-group,id=g,limits.iops-total=100',
        '--object', 'authz-list,id=z,policy=deny,rules.0.match=x,'
                    'rules.0.policy=allow'])
    assert get(server, 'a', 'poll-max-ns') == 5
    assert get(server, 's', 'data') == 'a,b'
    assert get(server, 's2', 'data') == 'a,b'
    assert get(server, 'g', 'limits')['iops-total'] == 100
    assert get(server, 'z', 'rules') == [
        {'match': 'x', 'policy': 'allow'}]


@pytest.mark.parametrize('text, desc', [
    ('secret,id=s', "Either 'file' or 'data' must be provided"),
    ('nope,id=s', 'nope'),
    ('secret,data=x', "Parameter 'id' is missing"),
    ('secret,id=1,data=x', "Parameter 'id' expects an identifier"),
    ('iothread,id=a,poll-max-ns=x', 'poll-max-ns'),
    ('{"qom-type":"iothread"', 'JSON parse error'),
])
def test_command_line_mistakes(start_server, text, desc):
    server = start_server(connect=False, args=['--object', text])
    server.expect_exit = 1
    server.wait_exit()
    assert desc in server.stderr()


# Authorization

def test_authz(server):
    add(server, 'authz-simple', 'one', identity='x')
    add(server, 'authz-list', 'list', policy='allow',
        rules=[{'match': 'CN=*', 'policy': 'deny', 'format': 'glob'}])
    add(server, 'authz-list', 'none')
    assert get(server, 'one', 'identity') == 'x'
    assert get(server, 'list', 'policy') == 'allow'
    assert get(server, 'list', 'rules') == [
        {'match': 'CN=*', 'policy': 'deny', 'format': 'glob'}]
    assert get(server, 'none', 'policy') == 'deny'
    assert get(server, 'none', 'rules') == []
    add_fails(server, "Parameter 'identity' is missing", 'authz-simple', 'z')


@pytest.mark.ours('7.2 does not know the type it has')
def test_authz_list_file(server, directory):
    path = os.path.join(directory, 'rules')
    with open(path, 'w', encoding='utf-8') as file:
        file.write('{"policy": "allow"}')
    add(server, 'authz-list-file', 'f', filename=path)
    assert get(server, 'f', 'filename') == path
    assert get(server, 'f', 'refresh') is True
    with open(path, 'w', encoding='utf-8') as file:
        file.write('{"policy": "maybe"}')
    add_fails(server, f"{path}: Parameter 'policy' does not accept value "
              "'maybe'", 'authz-list-file', 'g', filename=path)
    add_fails(server, 'Unable to read /nope: No such file or directory',
              'authz-list-file', 'g', filename='/nope')


@pytest.mark.ours("7.2: invalid object type: authz-listfile")
def test_authz_listfile(server, directory):
    """As QEMU's schema spells it: the same type."""
    path = os.path.join(directory, 'rules')
    with open(path, 'w', encoding='utf-8') as file:
        file.write('{"policy": "allow"}')
    add(server, 'authz-listfile', 'f', filename=path, refresh=False)
    assert get(server, 'f', 'filename') == path
    assert get(server, 'f', 'refresh') is False
    assert {'name': 'f', 'type': 'child<authz-list-file>'} in server.qmp(
        'qom-list', path='/objects')
    add_fails(server, "Parameter 'filename' is missing", 'authz-listfile',
              'g')
    assert [t['name'] for t in server.qmp('qom-list-types')
            if 'list' in t['name']] == ['authz-list', 'authz-list-file']


@pytest.mark.ours('it has these')
@pytest.mark.parametrize('kind', ['main-loop', 'pr-manager-helper',
                                  'tls-cipher-suites', 'memory-backend-ram'])
def test_what_is_not_there_is_named(server, kind):
    add_fails(server, f"Parameter 'qom-type' does not accept value '{kind}'",
              kind, 'x')


# Iothreads

def test_iothreads(server):
    for name in ('io', 'io2'):
        add(server, 'iothread', name)
    add(server, 'secret', 's', data='x')
    server.qmp('blockdev-add', {'driver': 'null-co', 'node-name': 'n',
                                'read-zeroes': True})
    server.qmp('blockdev-add', {'driver': 'raw', 'node-name': 'r',
                                'file': 'n'})

    def move(node, iothread, desc=None, **options):
        arguments = dict({'node-name': node, 'iothread': iothread}, **options)
        if desc:
            server.fails('x-blockdev-set-iothread', arguments, desc)
        else:
            server.qmp('x-blockdev-set-iothread', arguments)

    in_use = ('Node r is associated with a BlockBackend and could be in use '
              '(use force=true to override this check)')
    move('nope', 'io', "Failed to find node with node-name='nope'")
    move('n', 'nope', 'Cannot find iothread nope')
    move('n', 's', 'Cannot find iothread s')
    move('n', 5, "Invalid parameter type for 'iothread', expected: "
         'StrOrNull')
    move('n', 'io')
    move('n', None)
    move('r', 'io')
    for name in ('nope', 's'):
        server.qmp('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': server.nbd_path}})
        server.fails('block-export-add',
                     {'type': 'nbd', 'id': 'e', 'node-name': 'r',
                      'iothread': name}, f'iothread "{name}" not found')
        server.qmp('nbd-server-stop')
    server.export('r', iothread='io')
    move('r', 'io2', in_use)
    move('r', None, in_use)
    move('n', 'io2')
    move('r', 'io2', force=True)
    server.qmp('object-del', id='io')


@pytest.mark.ours('the daemon has no such command')
def test_query_iothreads(server):
    assert server.qmp('query-iothreads') == []
    add(server, 'iothread', 'a', poll_max_ns=1, poll_grow=2, aio_max_batch=3)
    add(server, 'secret', 's', data='x')
    thread, = server.qmp('query-iothreads')
    assert os.path.exists(f'/proc/{thread.pop("thread-id")}')
    assert thread == {'id': 'a', 'poll-max-ns': 1, 'poll-grow': 2,
                      'poll-shrink': 0, 'aio-max-batch': 3}
