/* SPDX-License-Identifier: MIT */
/*
 * New images that a command makes by itself: the overlay of a snapshot, the
 * target of drive-backup.
 */
#pragma once

#include "block/driver.h"

struct new_image {
    const char *filename;       /* borrowed; as filename.h has it, no json: */
    const char *format;         /* borrowed; a driver's name */
    int64_t length_bytes;       /* rounded up to 512 */
    struct node *backing;       /* borrowed; NULL: none */
};

/*
 * Make the file, and the format in it.  Prints one line to stdout, as QEMU
 * does: "Formatting 'FILE', fmt=...".  What is there is overwritten; what a
 * failure leaves behind stays.  Control lock held; yields.
 */
bool new_image_create(const struct new_image *i, struct error **errp);
