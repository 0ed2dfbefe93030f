# SPDX-License-Identifier: MIT
"""Certificates and keys for tests, made with the openssl command."""

import os
import shutil
import ssl
import subprocess

NOT_CA = 'basicConstraints=critical,CA:FALSE'
SERVER_USE = '\n'.join((NOT_CA, 'keyUsage=critical,digitalSignature',
                        'extendedKeyUsage=serverAuth',
                        'subjectAltName=DNS:localhost,IP:127.0.0.1'))
CLIENT_USE = '\n'.join((NOT_CA, 'keyUsage=critical,digitalSignature',
                        'extendedKeyUsage=clientAuth'))
PSK = {'alice': '00112233445566778899aabbccddeeff',
       'qemu': 'ffeeddccbbaa99887766554433221100'}


def openssl(*argv):
    subprocess.run(('openssl',) + argv, check=True, capture_output=True,
                   timeout=60)


class Pki:
    """A folder with an authority, and folders of credentials signed by it.

    server/, client/ (C=GB, O=Example, CN=alice), bob/ (CN=bob) and psk/ are
    there from the start.
    """

    def __init__(self, directory):
        self.directory = directory
        self.authority('ca')
        self.issue('server', 'server', '/CN=localhost', SERVER_USE)
        self.issue('client', 'client', '/C=GB/O=Example/CN=alice', CLIENT_USE)
        self.issue('bob', 'client', '/CN=bob', CLIENT_USE)
        os.mkdir(self.path('psk'))
        with open(self.path('psk', 'keys.psk'), 'w', encoding='utf-8') as keys:
            keys.writelines(f'{name}:{key}\n' for name, key in PSK.items())

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def authority(self, name, days='30', extensions=(
            'basicConstraints=critical,CA:TRUE',
            'keyUsage=critical,keyCertSign,cRLSign')):
        os.mkdir(self.path(name))
        extra = [arg for text in extensions for arg in ('-addext', text)]
        openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt',
                'ec_paramgen_curve:prime256v1', '-nodes', '-days', days,
                '-subj', f'/CN={name}', *extra,
                '-keyout', self.path(name, 'ca-key.pem'),
                '-out', self.path(name, 'ca-cert.pem'))

    def issue(self, folder, role, subject, extensions, ca='ca', days='30'):
        """A folder with ca-cert.pem, ROLE-cert.pem and ROLE-key.pem."""
        os.makedirs(self.path(folder), exist_ok=True)
        request = self.path(folder, 'request')
        settings = self.path(folder, 'extensions')
        with open(settings, 'w', encoding='utf-8') as file:
            file.write(extensions)
        openssl('req', '-newkey', 'ec', '-pkeyopt',
                'ec_paramgen_curve:prime256v1', '-nodes', '-subj', subject,
                '-keyout', self.path(folder, f'{role}-key.pem'),
                '-out', request)
        openssl('x509', '-req', '-in', request, '-days', days,
                '-CA', self.path(ca, 'ca-cert.pem'),
                '-CAkey', self.path(ca, 'ca-key.pem'), '-CAcreateserial',
                '-extfile', settings,
                '-out', self.path(folder, f'{role}-cert.pem'))
        os.unlink(request)
        os.unlink(settings)
        shutil.copy(self.path(ca, 'ca-cert.pem'), self.path(folder))
        return self.path(folder)

    def revoke(self, folder, role):
        """ca-crl.pem that revokes what is in FOLDER; its path."""
        database = self.path('database')
        os.makedirs(database, exist_ok=True)
        with open(os.path.join(database, 'index'), 'w', encoding='utf-8'):
            pass
        config = os.path.join(database, 'config')
        with open(config, 'w', encoding='utf-8') as file:
            file.write('[ca]\ndefault_ca=d\n[d]\n'
                       f'database={database}/index\ndefault_md=sha256\n'
                       'default_crl_days=30\n')
        signer = ('-config', config, '-cert', self.path('ca', 'ca-cert.pem'),
                  '-keyfile', self.path('ca', 'ca-key.pem'))
        openssl('ca', *signer, '-revoke',
                self.path(folder, f'{role}-cert.pem'))
        openssl('ca', *signer, '-gencrl', '-out',
                os.path.join(database, 'ca-crl.pem'))
        return os.path.join(database, 'ca-crl.pem')

    def copy(self, source, name, **files):
        """A copy of a folder with files changed: server_key__pem=None leaves
        one out, a path beginning with / replaces it, other text is its
        content."""
        shutil.rmtree(self.path(name), ignore_errors=True)
        shutil.copytree(self.path(source), self.path(name))
        for key, value in files.items():
            path = self.path(name, key.replace('__', '.').replace('_', '-'))
            if value is None:
                os.unlink(path)
            elif value.startswith('/'):
                shutil.copy(value, path)
            else:
                with open(path, 'w', encoding='utf-8') as file:
                    file.write(value)
        return self.path(name)

    def context(self, folder=None, version=None):
        """For Python's own TLS, with the certificates of FOLDER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.path('ca', 'ca-cert.pem'))
        if folder:
            context.load_cert_chain(self.path(folder, 'client-cert.pem'),
                                    self.path(folder, 'client-key.pem'))
        if version:
            context.minimum_version = context.maximum_version = version
        return context
