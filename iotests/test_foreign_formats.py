# SPDX-License-Identifier: MIT
"""Images of formats that are not supported: neither taken for raw disks nor
to be made out of a disk that was guessed to be raw."""

import pytest

from .images import qemu_img

MADE = ['parallels', 'qcow', 'qed', 'vdi', 'vhdx', 'vmdk', 'vpc']
HEADERS = {
    'bochs': b'Bochs Virtual HD Image',
    'luks': b'LUKS\xba\xbe\0\1',
    'cloop': b'#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0',
    'vmdk text': b'# Disk DescriptorFile\nversion=1\n',
}
pytestmark = pytest.mark.ours(reason='QEMU supports them')


@pytest.fixture(params=MADE + list(HEADERS))
def foreign(request, images):
    """The name of a format and an image of it."""
    path = images.path('foreign')
    if request.param in HEADERS:
        images.write_raw('foreign', HEADERS[request.param].ljust(65536, b'\0'))
    else:
        qemu_img('create', '-q', '-f', request.param, path, '1M')
    return request.param.split()[0], path


def test_is_not_raw(launch, shell, foreign):
    name, path = foreign
    refused = shell('-drive', f'if=none,id=d,file={path}')
    assert refused.wait() == 1
    assert f"looks like an image of format '{name}'" in refused.seen
    launch('-drive', f'if=none,id=d,format=raw,file={path}').start()


def test_header_is_guarded(launch, images, foreign):
    _, path = foreign
    disk = images.create('disk', '1M', fmt='raw')
    vm = launch().add_drive_raw(f'if=none,id=d,file={disk}').start()
    with open(path, 'rb') as image:
        images.write_raw('header', image.read(512))
    header = images.path('header')
    vm.qemu_io('d', f'write -s {header} 0 512')
    assert 'write failed: Operation not permitted' in vm.output()
    vm.qemu_io('d', 'write -P 1 0 512')
    assert 'wrote 512/512' in vm.output()
