# SPDX-License-Identifier: MIT
"""Reading and damaging qcow2 metadata, from the published format."""

import struct

CLUSTER = 65536
OFLAG_COPIED = 1 << 63
OFLAG_COMPRESSED = 1 << 62
OFFSET_MASK = 0x00fffffffffffe00

# name: (offset, struct format)
FIELDS = {
    'magic': (0, '>I'), 'version': (4, '>I'), 'backing_offset': (8, '>Q'),
    'backing_size': (16, '>I'), 'cluster_bits': (20, '>I'),
    'size': (24, '>Q'), 'crypt': (32, '>I'), 'l1_size': (36, '>I'),
    'l1_offset': (40, '>Q'), 'reftable_offset': (48, '>Q'),
    'reftable_clusters': (56, '>I'), 'n_snapshots': (60, '>I'),
    'snapshots_offset': (64, '>Q'), 'incompatible': (72, '>Q'),
    'compatible': (80, '>Q'), 'autoclear': (88, '>Q'),
    'refcount_order': (96, '>I'), 'header_length': (100, '>I'),
}


class Qcow2File:
    """One image file nobody has open; 64 KiB clusters, 16-bit refcounts."""

    def __init__(self, path):
        self.path = path

    def read(self, offset, n_bytes):
        with open(self.path, 'rb') as image:
            image.seek(offset)
            return image.read(n_bytes)

    def write(self, offset, data):
        with open(self.path, 'r+b') as image:
            image.seek(offset)
            image.write(data)

    def get(self, field):
        offset, fmt = FIELDS[field]
        return struct.unpack(fmt, self.read(offset, struct.calcsize(fmt)))[0]

    def set(self, **fields):
        for field, value in fields.items():
            offset, fmt = FIELDS[field]
            self.write(offset, struct.pack(fmt, value))

    def u64(self, offset):
        return struct.unpack('>Q', self.read(offset, 8))[0]

    def set_u64(self, offset, value):
        self.write(offset, struct.pack('>Q', value))

    def l1_entry_at(self, index=0):
        """File offset of an L1 entry."""
        return self.get('l1_offset') + 8 * index

    def l2_entry_at(self, cluster=0):
        """File offset of the L2 entry of a guest cluster."""
        per_table = CLUSTER // 8
        l1_entry = self.u64(self.l1_entry_at(cluster // per_table))
        return (l1_entry & OFFSET_MASK) + 8 * (cluster % per_table)

    def refblock_entry_at(self, index=0):
        """File offset of an entry of the refcount table."""
        return self.get('reftable_offset') + 8 * index

    def refcount_at(self, cluster):
        """File offset of the 16-bit refcount of a host cluster."""
        return self.u64(self.refblock_entry_at()) + 2 * cluster

    def set_refcount(self, cluster, value):
        self.write(self.refcount_at(cluster), struct.pack('>H', value))
