# SPDX-License-Identifier: MIT
"""TLS on the NBD server: credentials, who is let in, what may be said before
it, clients of all kinds, and clients that misbehave."""

import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import time

import nbd as libnbd
import pytest

from .images import qemu_img, run_tool
from .nbd import (NbdClient, NbdClosed, NbdOptionError, OPT_ABORT, OPT_GO,
                  OPT_INFO, OPT_LIST, OPT_SET_META_CONTEXT, OPT_STARTTLS,
                  OPT_STRUCTURED_REPLY, REP_ERR_INVALID)
from .qmp import SCALE
from .tls import Pki, PSK, SERVER_USE, CLIENT_USE, NOT_CA

MIB = 1 << 20
REP_ERR_TLS_REQD = 0x80000005


@pytest.fixture(scope='session')
def pki(tmp_path_factory):
    return Pki(str(tmp_path_factory.mktemp('pki')))


def add_object(server, kind, ident, **options):
    options = {key.replace('_', '-'): value for key, value in options.items()}
    server.qmp('object-add', dict({'qom-type': kind, 'id': ident}, **options))


def start(server, creds, authz=None):
    arguments = {'addr': {'type': 'unix', 'data': {'path': server.nbd_path}},
                 'tls-creds': creds}
    if authz:
        arguments['tls-authz'] = authz
    server.qmp('nbd-server-start', arguments)
    server._nbd_running = True


def x509_server(server, pki, authz=None, **options):
    """An export 'disk' behind TLS with certificates."""
    add_object(server, 'tls-creds-x509', 'tls', dir=pki.path('server'),
               endpoint='server', **options)
    start(server, 'tls', authz)
    return server


@pytest.fixture
def disk(server, images):
    path = images.create('a.qcow2', '16M')
    images.io(path, 'write -P 1 0 64k', 'write -P 2 1M 9M')
    server.add_node('disk', path, discard='unmap')
    server.disk_path = path
    return server


class TlsClient(NbdClient):
    """The plain client after STARTTLS; .context says how."""

    context = None

    def start_tls(self):
        self.option(OPT_STARTTLS)
        self.sock = self.context.wrap_socket(self.sock)

    def open(self, flags=3):
        super().open(flags)
        if self.context:
            self.start_tls()

    def recv(self, n_bytes):
        try:
            return super().recv(n_bytes)
        except ssl.SSLError as exc:
            raise NbdClosed(str(exc)) from exc


def tls_client(server, pki, folder='client', version=None, **kwargs):
    class Client(TlsClient):
        context = pki.context(folder, version)
    return Client.connect(server.nbd_path, 'disk', **kwargs)


def refused_client(server, pki, folder='client'):
    """Whoever is turned away learns it when he says something at the
    latest."""
    with pytest.raises((NbdClosed, ssl.SSLError, OSError)):
        tls_client(server, pki, folder).close()


def uri(server, pki, folder='client', name='disk'):
    return (f'nbds+unix:///{name}?socket={server.nbd_path}'
            f'&tls-certificates={pki.path(folder)}&tls-hostname=localhost')


def psk_uri(server, pki, user='alice', name='disk'):
    return (f'nbds+unix://{user}@/{name}?socket={server.nbd_path}'
            f'&tls-psk-file={pki.path("psk", "keys.psk")}')


def connect(where):
    nbd = libnbd.NBD()
    nbd.set_uri_allow_local_file(True)
    nbd.connect_uri(where)
    return nbd


# Clients

@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2,
                                     ssl.TLSVersion.TLSv1_3])
def test_read_and_write(disk, pki, version):
    x509_server(disk, pki)
    disk.export('disk')
    client = tls_client(disk, pki, version=version)
    assert client.sock.version() == version.name.replace('_', '.')
    assert client.read(0, 65536) == b'\1' * 65536
    assert client.read(MIB, 8 * MIB) == b'\2' * (8 * MIB)
    data = os.urandom(3 * MIB + 12345)
    client.write(12345, data)
    assert client.read(12345, len(data)) == data
    client.write_zeroes(0, MIB)
    client.flush()
    assert client.read(MIB, 65536) == data[MIB - 12345:][:65536]
    client.disconnect()


def test_nbdinfo_and_nbdcopy(disk, pki, images, directory):
    x509_server(disk, pki)
    disk.export('disk')
    info = json.loads(run_tool('nbdinfo', '--json', uri(disk, pki)))
    assert info['TLS'] is True
    assert info['exports'][0]['export-size'] == 16 * MIB
    listed = json.loads(run_tool('nbdinfo', '--json', '--list',
                                 uri(disk, pki, name='')))
    assert [e['export-name'] for e in listed['exports']] == ['disk']
    copy = os.path.join(directory, 'copy')
    run_tool('nbdcopy', '--connections=4', uri(disk, pki), copy)
    assert images.content(copy, 'raw')[MIB:10 * MIB] == b'\2' * (9 * MIB)
    with open(copy, 'r+b') as file:
        file.write(os.urandom(16 * MIB))
    run_tool('nbdcopy', copy, uri(disk, pki))
    disk.unexport('disk', mode='hard')      # it may still seem connected
    disk.qmp('nbd-server-stop')
    disk.qmp('blockdev-del', node_name='disk')
    images.identical(copy, disk.disk_path, 'raw', 'qcow2')


def test_qemu_img(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    creds = f'tls-creds-x509,id=t,dir={pki.path("client")},endpoint=client'
    image = ('driver=nbd,export=disk,tls-creds=t,tls-hostname=localhost,'
             f'server.type=unix,server.path={disk.nbd_path}')
    extents = json.loads(qemu_img('map', '--object', creds, '--output=json',
                                  '--image-opts', image))
    assert extents[0]['length'] == 65536
    code, text = qemu_img(
        'info', '--object', creds, '--image-opts',
        image.replace('localhost', 'elsewhere'), check=False)
    assert code == 1 and 'Certificate does not match the hostname' in text
    code, text = qemu_img('info', '--image-opts', image.replace(
        'tls-creds=t,tls-hostname=localhost,', ''), check=False)
    assert code == 1 and 'TLS' in text


def test_psk(disk, pki, directory):
    add_object(disk, 'tls-creds-psk', 'keys', dir=pki.path('psk'),
               endpoint='server')
    start(disk, 'keys')
    disk.export('disk')
    for user in PSK:
        nbd = connect(psk_uri(disk, pki, user))
        assert nbd.get_tls_negotiated()
        assert nbd.pread(MIB, MIB) == b'\2' * MIB
        nbd.shutdown()
    wrong = os.path.join(directory, 'keys.psk')
    with open(wrong, 'w', encoding='utf-8') as file:
        file.write('alice:ff112233445566778899aabbccddeeff\n'
                   'carol:00112233445566778899aabbccddeeff\n')
    for user in ('alice', 'carol'):
        with pytest.raises(libnbd.Error):
            connect(f'nbds+unix://{user}@/disk?socket={disk.nbd_path}'
                    f'&tls-psk-file={wrong}')
    creds = (f'tls-creds-psk,id=t,dir={pki.path("psk")},endpoint=client,'
             'username=alice')
    text = qemu_img('info', '--object', creds, '--image-opts',
                    'driver=nbd,export=disk,tls-creds=t,server.type=unix,'
                    f'server.path={disk.nbd_path}')
    assert '16 MiB' in text


def test_anon(disk):
    add_object(disk, 'tls-creds-anon', 'anon', endpoint='server')
    start(disk, 'anon')
    disk.export('disk')
    image = ('driver=nbd,export=disk,server.type=unix,'
             f'server.path={disk.nbd_path}')
    text = qemu_img('info', '--object', 'tls-creds-anon,id=t,endpoint=client,'
                    'priority=NORMAL:-VERS-TLS1.3', '--image-opts',
                    image + ',tls-creds=t')
    assert '16 MiB' in text
    assert qemu_img('info', '--image-opts', image, check=False)[0] == 1


def test_command_line(start_server, images, pki):
    path = images.create('a.qcow2', '1M')
    server = start_server(args=[
        '--object', f'tls-creds-x509,id=t,dir={pki.path("server")},'
                    'endpoint=server',
        '--object', 'authz-simple,id=z,identity=CN=bob',
        '--blockdev', f'qcow2,node-name=disk,file.driver=file,'
                      f'file.filename={path}',
        '--nbd-server', f'addr.type=unix,addr.path={images.path("nbd")},'
                        'tls-creds=t,tls-authz=z',
        '--export', 'nbd,id=e,node-name=disk,name=disk'])
    server.nbd_path = images.path('nbd')
    tls_client(server, pki, 'bob').disconnect()
    refused_client(server, pki, 'client')


# Who is let in

def test_client_certificates(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    if not os.path.exists(pki.path('strange')):
        pki.authority('otherca')
        pki.issue('strange', 'client', '/CN=alice', CLIENT_USE, ca='otherca')
        pki.issue('late', 'client', '/CN=alice', CLIENT_USE, days='-1')
    for folder in (None, 'strange', 'late'):
        refused_client(disk, pki, folder)
    tls_client(disk, pki).disconnect()
    tls_client(disk, pki, 'bob').disconnect()


def test_no_verify_peer(disk, pki):
    x509_server(disk, pki, verify_peer=False)
    disk.export('disk')
    tls_client(disk, pki, None).disconnect()
    tls_client(disk, pki).disconnect()


def test_revoked(disk, pki):
    crl = pki.revoke('bob', 'client')
    add_object(disk, 'tls-creds-x509', 'tls', endpoint='server',
               dir=pki.copy('server', 'withcrl', ca_crl__pem=crl))
    start(disk, 'tls')
    disk.export('disk')
    refused_client(disk, pki, 'bob')
    tls_client(disk, pki).disconnect()


@pytest.mark.parametrize('identity, alice, bob', [
    ('C=GB,O=Example,CN=alice', True, False),
    ('CN=bob', False, True),
    ('CN=alice', False, False),
])
def test_authz_simple(disk, pki, identity, alice, bob):
    add_object(disk, 'authz-simple', 'z', identity=identity)
    x509_server(disk, pki, 'z')
    disk.export('disk')
    for folder, welcome in (('client', alice), ('bob', bob)):
        if welcome:
            tls_client(disk, pki, folder).disconnect()
        else:
            refused_client(disk, pki, folder)


def test_authz_is_looked_up_each_time(disk, pki):
    x509_server(disk, pki, 'z')
    disk.export('disk')
    refused_client(disk, pki)           # there is none
    add_object(disk, 'authz-list', 'z', rules=[
        {'match': '*CN=alice*', 'policy': 'allow', 'format': 'glob'}])
    client = tls_client(disk, pki)
    refused_client(disk, pki, 'bob')
    disk.qmp('object-del', id='z')
    refused_client(disk, pki)
    assert client.read(0, 512) == b'\1' * 512
    add_object(disk, 'iothread', 'z')   # something else
    refused_client(disk, pki)
    client.disconnect()


@pytest.mark.ours('QEMU lets everybody in whom it cannot name')
def test_authz_needs_names(disk, pki):
    add_object(disk, 'authz-simple', 'z', identity='alice')
    add_object(disk, 'tls-creds-anon', 'anon', endpoint='server')
    add_object(disk, 'tls-creds-x509', 'lax', dir=pki.path('server'),
               endpoint='server', verify_peer=False)
    add_object(disk, 'tls-creds-psk', 'keys', dir=pki.path('psk'),
               endpoint='server')
    addr = {'type': 'unix', 'data': {'path': disk.nbd_path}}
    for creds in ('anon', 'lax'):
        disk.fails('nbd-server-start',
                   {'addr': addr, 'tls-creds': creds, 'tls-authz': 'z'},
                   "Parameter 'tls-authz' needs credentials that show who a "
                   f"client is, '{creds}' does not")
    disk.fails('nbd-server-start', {'addr': addr, 'tls-authz': 'z'},
               "Parameter 'tls-authz' needs 'tls-creds'")
    start(disk, 'keys', 'z')
    disk.export('disk')
    connect(psk_uri(disk, pki, 'alice')).shutdown()
    with pytest.raises(libnbd.Error):
        connect(psk_uri(disk, pki, 'qemu'))


def test_start_mistakes(disk, pki):
    add_object(disk, 'tls-creds-x509', 'client', dir=pki.path('client'))
    add_object(disk, 'iothread', 'io')
    for creds, desc in (
            ('nope', "No TLS credentials with id 'nope'"),
            ('io', "Object with id 'io' is not TLS credentials"),
            ('client', 'Expected TLS credentials for a server endpoint')):
        disk.fails('nbd-server-start', {
            'addr': {'type': 'unix', 'data': {'path': disk.nbd_path}},
            'tls-creds': creds}, desc)
    disk.fails('nbd-server-stop', desc='NBD server not running')


def test_credentials_deleted_in_use(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    disk.qmp('object-del', id='tls')
    tls_client(disk, pki).disconnect()
    disk.qmp('nbd-server-stop')
    disk.fails('object-del', {'id': 'tls'}, "object 'tls' not found")


# What may be said before TLS

def test_before_tls(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    client = NbdClient(disk.nbd_path)
    client.open()
    name = struct.pack('>I', 4) + b'disk'
    for option, data in ((OPT_LIST, b''), (OPT_GO, name + b'\0\0'),
                         (OPT_INFO, name + b'\0\0'),
                         (OPT_STRUCTURED_REPLY, b''), (99, b'x' * 100000),
                         (OPT_SET_META_CONTEXT, b'garbage')):
        with pytest.raises(NbdOptionError) as info:
            client.option(option, data)
        assert info.value.code == REP_ERR_TLS_REQD
        assert info.value.text == f'Option {option:#x} not permitted ' \
                                  'before TLS'
    with pytest.raises(NbdOptionError) as info:
        client.option(OPT_STARTTLS, b'x')
    assert info.value.code == REP_ERR_INVALID
    client.close()
    client.open()
    if not disk.is_qemu:
        client.option(OPT_ABORT)
    client.close()
    # The old way cannot be told, so the connection ends.
    client.open()
    with pytest.raises(NbdClosed):
        client.export_name('disk')
    client.close()
    with pytest.raises(NbdClosed):
        client.open(flags=0)
        client.send_option(OPT_STARTTLS)
        client.recv(1)
    client.close()


def test_twice(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    client = TlsClient(disk.nbd_path)
    client.context = pki.context('client')
    client.open()
    with pytest.raises(NbdOptionError) as info:
        client.option(OPT_STARTTLS)
    assert info.value.code == REP_ERR_INVALID
    assert info.value.text == 'TLS already enabled'
    client.option(OPT_STRUCTURED_REPLY)
    client.go('disk')
    client.disconnect()


def test_export_name_in_tls(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    client = TlsClient(disk.nbd_path)
    client.context = pki.context('client')
    client.open()
    client.export_name('disk')
    assert client.read(0, 512) == b'\1' * 512
    client.disconnect()


# Clients that misbehave

def in_the_open(server):
    client = NbdClient(server.nbd_path)
    client.open()
    client.option(OPT_STARTTLS)
    return client


@pytest.mark.parametrize('garbage', [
    b'x' * 100, b'\x16\x03\x01\xff\xff' + b'x' * 70000, b'\x16\x03\x01\0\0',
    b'IHAVEOPT' + struct.pack('>II', OPT_LIST, 0),
    b'\x80\x2e\1\0\2' + b'\0' * 44, b'\x15\x03\x03\0\2\1\0' * 5000,
], ids=['text', 'huge', 'empty', 'option', 'ssl2', 'alerts'])
def test_garbage_for_tls(disk, pki, garbage):
    x509_server(disk, pki)
    disk.export('disk')
    client = in_the_open(disk)
    try:
        client.send(garbage)
        client.sock.shutdown(socket.SHUT_WR)
        client.wait_closed()
    except OSError:
        pass
    client.close()
    tls_client(disk, pki).disconnect()


def test_injection(disk, pki):
    """What is sent in the open behind STARTTLS is never taken for what
    came through TLS."""
    x509_server(disk, pki)
    disk.export('disk')
    client = NbdClient(disk.nbd_path)
    client.open()
    client.send(b'IHAVEOPT' + struct.pack('>II', OPT_STARTTLS, 0) +
                b'IHAVEOPT' + struct.pack('>II', OPT_LIST, 0))
    assert client.option_reply(OPT_STARTTLS)[0] == 1
    with pytest.raises((NbdClosed, ssl.SSLError, OSError)):
        pki.context('client').wrap_socket(client.sock)
    client.close()
    tls_client(disk, pki).disconnect()


@pytest.mark.ours('7.2 waits for ever')
@pytest.mark.parametrize('sent', [0, 1, 50])
def test_handshake_time(start_server, images, pki, sent):
    """The handshake's time holds for TLS, too."""
    server = start_server()
    add_object(server, 'tls-creds-x509', 'tls', dir=pki.path('server'),
               endpoint='server')
    server.qmp('nbd-server-start', {
        'addr': {'type': 'unix', 'data': {'path': server.nbd_path}},
        'tls-creds': 'tls', 'handshake-max-seconds': 1})
    client = in_the_open(server)
    client.send(b'\x16\x03\x01\x01\0\x01\0\0\xfc\x03\x03'.ljust(60, b'x')
                [:sent])
    begin = time.monotonic()
    assert client.sock.recv(4096) == b'' or client.sock.recv(1) == b''
    assert 0.5 < time.monotonic() - begin < 5 * SCALE
    client.close()


def test_client_disappears(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    for _ in range(20):
        client = tls_client(disk, pki)
        for i in range(8):
            client.request(0, i * MIB, MIB)
        client.sock.recv(1000)
        client.close()
    client = tls_client(disk, pki)
    assert client.read(0, 512) == b'\1' * 512
    client.disconnect()


def test_broken_record(disk, pki):
    """Bytes of another make in the middle of a session end it."""
    x509_server(disk, pki)
    disk.export('disk')
    client = tls_client(disk, pki)
    raw = socket.socket(fileno=os.dup(client.sock.fileno()))
    raw.sendall(b'\x17\x03\x03\x00\x20' + b'z' * 32)
    with pytest.raises((NbdClosed, OSError)):
        client.read(0, 512)
    raw.close()
    client.close()
    tls_client(disk, pki).disconnect()


@pytest.mark.ours('7.2 waits for the one in the handshake')
def test_stop_while_connected(disk, pki):
    x509_server(disk, pki)
    disk.export('disk')
    clients = [tls_client(disk, pki) for _ in range(3)]
    clients.append(in_the_open(disk))
    for client in clients[:3]:
        for i in range(8):
            client.request(0, i * MIB, MIB)     # replies nobody reads
    disk.qmp('nbd-server-stop')
    for client in clients:
        client.close()
    disk.qmp('blockdev-del', node_name='disk')


# Under load

def test_many_in_flight(disk, pki):
    """Both directions at once, large and small, from several threads."""
    x509_server(disk, pki)
    disk.export('disk')
    errors = []

    def work(seed):
        try:
            nbd = connect(uri(disk, pki))
            base = seed * 5 * MIB
            cookies = []
            blocks = [bytes([seed * 16 + i]) * (100 + i * 40000)
                      for i in range(16)]
            offsets = []
            at = base
            for block in blocks:
                offsets.append(at)
                at += len(block)
                buf = libnbd.Buffer.from_bytearray(bytearray(block))
                cookies.append(nbd.aio_pwrite(buf, offsets[-1]))
            while nbd.aio_in_flight():
                nbd.poll(-1)
            for _ in range(10):
                bufs = []
                for offset, block in zip(offsets, blocks):
                    buf = libnbd.Buffer(len(block))
                    bufs.append(buf)
                    nbd.aio_pread(buf, offset)
                    nbd.aio_pwrite(libnbd.Buffer.from_bytearray(
                        bytearray(block)), offset)
                while nbd.aio_in_flight():
                    nbd.poll(-1)
                for buf, block in zip(bufs, blocks):
                    assert bytes(buf.to_bytearray()) == block
            nbd.shutdown()
        except Exception as exc:        # pylint: disable=broad-except
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


# Credentials

def test_certificate_checks(server, pki):
    if not os.path.exists(pki.path('expired')):
        pki.issue('expired', 'server', '/CN=x', SERVER_USE, days='-1')
        pki.issue('isca', 'server', '/CN=x', 'basicConstraints=critical,'
                  'CA:TRUE')
        pki.issue('purpose', 'server', '/CN=x',
                  NOT_CA + '\nextendedKeyUsage=critical,clientAuth')
        pki.issue('usage', 'server', '/CN=x',
                  NOT_CA + '\nkeyUsage=critical,keyCertSign')
        pki.issue('othersigner', 'server', '/CN=x', SERVER_USE)
        if not os.path.exists(pki.path('otherca')):
            pki.authority('otherca')
    pki.copy('server', 'othersigner',
             ca_cert__pem=pki.path('otherca', 'ca-cert.pem'))
    for folder, desc in (
            ('expired', 'The server certificate {}/server-cert.pem has '
                        'expired'),
            ('isca', 'The certificate {}/server-cert.pem basic constraints '
                     'show a CA, but we need one for a server'),
            ('purpose', 'Certificate {}/server-cert.pem purpose does not '
                        'allow use with a TLS server'),
            ('usage', 'Certificate {}/server-cert.pem usage does not permit '
                      'digital signature'),
            ('othersigner', 'Our own certificate {0}/server-cert.pem failed '
                            'validation against {0}/ca-cert.pem: The '
                            "certificate hasn't got a known issuer")):
        path = pki.path(folder)
        options = {'qom-type': 'tls-creds-x509', 'id': 't', 'dir': path,
                   'endpoint': 'server'}
        server.fails('object-add', options, desc.format(path))
        server.qmp('object-add', dict(options, **{'sanity-check': False}))
        server.qmp('object-del', id='t')


def test_files(server, pki):
    def fails(desc, source='server', endpoint='server', **files):
        path = pki.copy(source, 'tried', **files)
        server.fails('object-add', {
            'qom-type': 'tls-creds-x509', 'id': 't', 'dir': path,
            'endpoint': endpoint}, [text.format(path) for text in (
                desc if isinstance(desc, list) else [desc])])

    server.fails('object-add', {'qom-type': 'tls-creds-x509', 'id': 't'},
                 "Missing 'dir' property value")
    for name in ('ca_cert__pem', 'server_cert__pem', 'server_key__pem'):
        shown = name.replace('__', '.').replace('_', '-')
        fails('Unable to access credentials {}/' + shown +
              ': No such file or directory', **{name: None})
    fails('Unable to import CA certificate list {}/ca-cert.pem',
          ca_cert__pem='garbage')
    fails(['Unable to import server certificate {}/server-cert.pem: '
           'No certificate was found.',
           'Unable to import server certificate {}/server-cert.pem: Base64 '
           'unexpected header error.'], server_cert__pem='garbage')
    fails("Cannot load certificate '{0}/server-cert.pem' & key "
          "'{0}/server-key.pem': The requested data were not available.",
          server_key__pem='garbage')
    fails("Cannot load certificate '{0}/server-cert.pem' & key "
          "'{0}/server-key.pem': The certificate and the given key do not "
          'match.', server_key__pem=pki.path('client', 'client-key.pem'))
    fails("Cannot load CRL '{}/ca-crl.pem': Base64 decoding error.",
          ca_crl__pem='garbage')
    fails('Unable to load DH parameters from {}/dh-params.pem: Base64 '
          'unexpected header error.', dh_params__pem='garbage')
    # A client needs none of its own.
    for files in ({'client_key__pem': None}, {'client_cert__pem': None},
                  {'client_key__pem': None, 'client_cert__pem': None}):
        path = pki.copy('client', 'tried', **files)
        add_object(server, 'tls-creds-x509', 't', dir=path)
        server.qmp('object-del', id='t')


def test_encrypted_key(server, pki):
    path = pki.copy('server', 'encrypted')
    key = os.path.join(path, 'server-key.pem')
    subprocess.run(['openssl', 'pkcs8', '-topk8', '-v2', 'aes-256-cbc',
                    '-passout', 'pass:sesame', '-in', key, '-out',
                    key + '.new'], check=True, capture_output=True)
    os.rename(key + '.new', key)
    add_object(server, 'secret', 'right', data='sesame')
    add_object(server, 'secret', 'wrong', data='open')
    add_object(server, 'tls-creds-x509', 'ok', dir=path, endpoint='server',
               passwordid='right')
    assert server.qmp('qom-get', path='ok', property='passwordid') == 'right'
    options = {'qom-type': 'tls-creds-x509', 'id': 't', 'dir': path,
               'endpoint': 'server'}
    assert server.fails('object-add', options).startswith(
        f"Cannot load certificate '{path}/server-cert.pem' & key ")
    assert server.fails('object-add', dict(options, passwordid='wrong')) \
        .startswith(f"Cannot load certificate '{path}/server-cert.pem'")
    server.fails('object-add', dict(options, passwordid='nope'),
                 "No secret with id 'nope'")


def test_psk_files(server, pki):
    options = {'qom-type': 'tls-creds-psk', 'id': 't', 'dir': pki.path('psk')}
    server.fails('object-add', dict(options, dir=pki.path('client')),
                 f'Unable to access credentials {pki.path("client")}/keys.psk:'
                 ' No such file or directory')
    server.fails('object-add', dict(options, username='bob'),
                 f'Username bob not found in PSK file '
                 f'{pki.path("psk", "keys.psk")}')
    server.fails('object-add',
                 dict(options, username='alice', endpoint='server'),
                 'username should not be set when endpoint=server')
    server.qmp('object-add', dict(options, username='alice'))
    assert server.qmp('qom-get', path='t', property='username') == 'alice'
    assert server.qmp('qom-get', path='t', property='dir') == pki.path('psk')
