/* SPDX-License-Identifier: MIT */
/* Texts that more than one of info's commands prints. */
#pragma once

#include "qapi/qapi-types.h"
#include "server/hmp/hmp.h"

/* "4 MiB", "1.5 GiB"; owned. */
char *hmp_size_text(uint64_t bytes);
/* The table of snapshots: its head, and a line; without \n. */
void hmp_print_snapshot_head(struct hmp *m);
void hmp_print_snapshot(struct hmp *m, const SnapshotInfo *s);
/* An image and those behind it. */
void hmp_print_image(struct hmp *m, const ImageInfo *info);
