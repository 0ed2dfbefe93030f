# SPDX-License-Identifier: MIT
"""The nbd driver with TLS: certificates, keys, whom it trusts."""

import json
import threading
import time

import pytest

from .images import same_bytes
from .jobs import start_backup
from .nbd import NbdClient
from .nbd_server import FakeServer
from .qmp import QmpError, SCALE
from .tls import NOT_CA, Pki

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture(scope='module')
def pki(tmp_path_factory):
    return Pki(str(tmp_path_factory.mktemp('pki')))


def add_object(server, kind, **options):
    server.qmp('object-add', dict(
        {'qom-type': kind, 'id': 'tls'},
        **{key.replace('_', '-'): value for key, value in options.items()}))


@pytest.fixture
def far(start_server, images):
    """Starts another server with TLS and an export 'disk'."""
    def start(kind, tcp=False, **options):
        other = start_server()
        add_object(other, kind, endpoint='server', **options)
        if tcp:
            other.port = str(other.setup.free_port())
            addr = {'type': 'inet', 'data': {'host': '127.0.0.1',
                                             'port': other.port}}
        else:
            addr = {'type': 'unix', 'data': {'path': other.nbd_path}}
        other.qmp('nbd-server-start', {'addr': addr, 'tls-creds': 'tls'})
        other._nbd_running = True
        other.disk_path = images.create('far.qcow2', SIZE)
        other.add_node('disk', other.disk_path)
        other.export('disk')
        return other
    return start


def options(other, **more):
    address = {'type': 'inet', 'host': '127.0.0.1', 'port': other.port} \
        if hasattr(other, 'port') else \
        {'type': 'unix', 'path': other.nbd_path}
    return dict({'driver': 'nbd', 'node-name': 'n', 'export': 'disk',
                 'server': address, 'tls-creds': 'tls'}, **more)


def check_io(server):
    server.export('n')
    nbd = NbdClient.connect(server.nbd_path, 'n')
    data = bytes(range(256)) * 20000
    nbd.write(1000, data)
    nbd.flush()
    assert nbd.read(1000, len(data)) == data
    assert nbd.read(7 * MIB, MIB) == bytes(MIB)
    nbd.disconnect()


@pytest.mark.parametrize('tcp', [True, False])
def test_certificates(server, far, pki, tcp):
    other = far('tls-creds-x509', tcp, dir=pki.path('server'))
    add_object(server, 'tls-creds-x509', dir=pki.path('client'),
               endpoint='client')
    more = {} if tcp else {'tls-hostname': 'localhost'}
    server.qmp('blockdev-add', options(other, **more))
    check_io(server)


def test_psk(server, far, pki):
    other = far('tls-creds-psk', dir=pki.path('psk'))
    add_object(server, 'tls-creds-psk', dir=pki.path('psk'),
               username='alice', endpoint='client')
    server.qmp('blockdev-add', options(other))
    check_io(server)


@pytest.mark.ours('the texts are')
def test_name_in_file(server, far, pki):
    """A node with TLS is not what its nbd: name alone would open."""
    other = far('tls-creds-psk', dir=pki.path('psk'))
    add_object(server, 'tls-creds-psk', dir=pki.path('psk'),
               username='alice', endpoint='client')
    server.qmp('blockdev-add', options(other))
    name = server.nodes()['n']['file']
    assert json.loads(name[len('json:'):])['tls-creds'] == 'tls'


def test_wrong_name(server, far, pki):
    """A certificate of the same authority, of somebody else."""
    pki.issue('other', 'server', '/CN=other', '\n'.join((
        NOT_CA, 'keyUsage=critical,digitalSignature',
        'extendedKeyUsage=serverAuth', 'subjectAltName=DNS:other')))
    other = far('tls-creds-x509', True, dir=pki.path('other'))
    add_object(server, 'tls-creds-x509', dir=pki.path('client'),
               endpoint='client')
    server.fails('blockdev-add', options(other))
    server.qmp('blockdev-add', options(other, **{'tls-hostname': 'other'}))
    check_io(server)


def test_wrong_authority(server, far, pki):
    pki.authority('rogue')
    pki.issue('imposter', 'server', '/CN=localhost', '\n'.join((
        NOT_CA, 'keyUsage=critical,digitalSignature',
        'extendedKeyUsage=serverAuth',
        'subjectAltName=DNS:localhost,IP:127.0.0.1')), ca='rogue')
    other = far('tls-creds-x509', True, dir=pki.path('imposter'))
    add_object(server, 'tls-creds-x509', dir=pki.path('client'),
               endpoint='client')
    server.fails('blockdev-add', options(other))


@pytest.mark.ours('the texts are')
def test_refusals(server, far, pki, start_server, images):
    other = far('tls-creds-x509', dir=pki.path('server'))
    server.fails('blockdev-add', options(other),
                 desc="No TLS credentials with id 'tls'")
    add_object(server, 'tls-creds-x509', dir=pki.path('client'),
               endpoint='client')
    server.fails('blockdev-add', options(other),
                 desc='No hostname for certificate validation')
    plain = start_server()
    plain.add_node('disk', images.create('p.qcow2', MIB))
    plain.export('disk')
    server.fails('blockdev-add', options(plain),
                 desc='Server rejected request for TLS')
    # Without TLS where it must be.
    server.fails('blockdev-add', {
        'driver': 'nbd', 'node-name': 'n', 'export': 'disk',
        'server': {'type': 'unix', 'path': other.nbd_path}})
    server.qmp('object-del', id='tls')


@pytest.mark.ours('TLS over the whole life')
def test_credentials_outlive_their_name(server, far, pki):
    """object-del takes the name; who uses them goes on."""
    other = far('tls-creds-psk', dir=pki.path('psk'))
    add_object(server, 'tls-creds-psk', dir=pki.path('psk'),
               username='alice', endpoint='client')
    server.qmp('blockdev-add', options(other))
    try:
        server.qmp('object-del', id='tls')
    except QmpError as exc:
        assert 'in use' in exc.desc
    check_io(server)


@pytest.mark.ours('QEMU has no limit')
@pytest.mark.parametrize('greet', ['drop', 'garbage', 'hang'])
@pytest.mark.timeout(40)
def test_server_that_does_not_answer(server, pki, greet):
    fake = FakeServer(server.path('fake.sock'))
    fake.greet = greet
    add_object(server, 'tls-creds-psk', dir=pki.path('psk'),
               username='alice', endpoint='client')
    start = time.monotonic()
    server.fails('blockdev-add', {
        'driver': 'nbd', 'node-name': 'n', 'tls-creds': 'tls',
        'server': {'type': 'unix', 'path': fake.path}})
    assert time.monotonic() - start < 15 * SCALE
    fake.stop()


def test_backup_through_tls(server, far, pki, images, guest_on):
    other = far('tls-creds-x509', dir=pki.path('server'))
    add_object(server, 'tls-creds-x509', dir=pki.path('client'),
               endpoint='client')
    server.qmp('blockdev-add', options(other, **{
        'tls-hostname': 'localhost', 'node-name': 'dst'}))
    server.add_node('src', images.create('src.qcow2', SIZE))
    server.export('src')
    guest = guest_on(server, 'src')
    guest.random_writes(60)
    guest.pause()
    frozen = guest.freeze()
    job = start_backup(server, 'src', 'dst')
    guest.resume()
    guest.random_writes(60)
    job.finish()
    server.qmp('blockdev-del', node_name='dst')
    other.stop()
    same_bytes(images.content(other.disk_path), frozen)


@pytest.mark.ours('many requests in flight at our server')
def test_parallel(server, far, pki):
    other = far('tls-creds-psk', dir=pki.path('psk'))
    add_object(server, 'tls-creds-psk', dir=pki.path('psk'),
               username='alice', endpoint='client')
    server.qmp('blockdev-add', options(other))
    server.export('n')
    failures = []

    def work(at):
        nbd = NbdClient.connect(server.nbd_path, 'n')
        for i in range(30):
            data = bytes([at * 30 + i & 255]) * (100000 + i)
            nbd.write(at * MIB, data)
            if nbd.read(at * MIB, len(data)) != data:
                failures.append((at, i))
        nbd.disconnect()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40 * SCALE)
        assert not thread.is_alive()
    assert not failures
