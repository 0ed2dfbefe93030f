/* SPDX-License-Identifier: MIT */
/*
 * blockjobctl image info|check|map FILE: looks at an image that no server need
 * have open, with the server's own drivers, read-only.
 */
#pragma once

#include <stdio.h>
#include "qapi/qapi-types.h"

/* WORDS: what stands behind "image" on the command line.  Returns the exit
 * status of the program. */
int image_main(int argc, char **argv);

/* ---- image-text.c: the same for people ---------------------------------- */

/* INFO and what it is based on. */
void image_print_info(FILE *out, const ImageInfo *info);
void image_print_check(FILE *out, const ImageCheck *check);
/* E NULL: the head of the table.  Stretches without data are left out. */
void image_print_map_entry(FILE *out, const MapEntry *e);
