/* SPDX-License-Identifier: MIT */
/*
 * Nodes as query commands show them.  Control lock held; no I/O, no yield
 * (fstat of open files at most).  Results are owned by the caller.
 */
#pragma once

#include "block/node.h"

/* NULL: it is not. */
ImageInvalidated *node_invalidated_info(const struct node *n);
/* FLAT: without what is below: no backing-image, depth 0. */
BlockDeviceInfo *node_device_info(struct node *n, bool flat);
/* NESTED: with backing-image, and those of the chain in it. */
ImageInfo *node_image_info(struct node *n, bool nested);
