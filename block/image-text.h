/* SPDX-License-Identifier: MIT */
/*
 * What an image is, for people: in the words of qemu-img info, for HMP and
 * for blockjobctl.  Any thread, no lock.
 */
#pragma once

#include "qapi/qapi-types.h"

/* "4 MiB", "1.5 GiB"; owned. */
char *image_size_text(uint64_t bytes);
/* The table of snapshots: its head, and a line; without \n. */
void image_text_snapshot_head(GString *out);
void image_text_snapshot(GString *out, const SnapshotInfo *s);
/* INFO alone, without what is behind it. */
void image_text_info(GString *out, const ImageInfo *info);
