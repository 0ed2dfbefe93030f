/* SPDX-License-Identifier: MIT */
/* What create.c and create-options.c share. */
#pragma once

#include "block/qcow2/qcow2.h"

struct create_layout {
    struct qcow2_header h;
    uint32_t cluster_bytes;
    int64_t reftable_clusters, refblocks, l1_clusters, clusters;
    PreallocMode prealloc;
    bool grow;                  /* from nothing, by the driver itself */
    const char *backing_file;   /* borrowed, or NULL */
    const char *backing_format; /* static, or NULL */
    char *data_file;            /* owned; the name to store, or NULL */
};

/* Can an image be made as O says?  Sets cluster size and version of L. */
bool qcow2_create_check(const BlockdevCreateOptionsQcow2 *o,
                        struct create_layout *l, struct error **errp);
