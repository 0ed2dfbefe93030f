# SPDX-License-Identifier: MIT
"""A client that is not ours: digitalocean's go-qemu, from Debian's
golang-github-digitalocean-go-qemu-dev; skipped where that is not there."""

import os
import shutil
import subprocess

import pytest

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'foreign',
                      'client.go')
LIBRARY = '/usr/share/gocode/src/github.com/digitalocean/go-qemu'

pytestmark = pytest.mark.skipif(
    not (shutil.which('go') and os.path.isdir(LIBRARY)),
    reason='golang-go and golang-github-digitalocean-go-qemu-dev')


@pytest.fixture(scope='module')
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp('go')
    binary = str(folder / 'client')
    subprocess.run(
        ['go', 'build', '-o', binary, SOURCE], check=True, env=dict(
            os.environ, GOPATH='/usr/share/gocode', GO111MODULE='off',
            GOCACHE=str(folder / 'cache')))
    return binary


@pytest.mark.timeout(120)
def test_go_qemu(launch, images, client):
    disk = images.create('disk', 16 << 20)
    vm = launch(name='vm')
    path = vm.path('go.sock')
    vm.add_args('-qmp', f'unix:{path},server=on,wait=off')
    vm.add_drive(disk)
    vm.start()
    overlay = images.adopt(images.path('overlay'))
    copy = images.path('copy')
    done = subprocess.run([client, path, overlay, copy], timeout=100,
                          capture_output=True, text=True, check=False)
    vm.log.append(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2:] == ['No active jobs', 'done']
    assert 'node is overlay' in lines
    vm.stop()
    images.identical(disk, copy, 'qcow2', 'raw')
