/* SPDX-License-Identifier: MIT */
/* For the tests of qcow2: images, open through the graph, and qemu-img. */
#pragma once

#include "base/control.h"
#include "block/driver.h"
#include "block/root.h"
#include "qapi/qapi-visit.h"

/* A directory for this run's images; removed with all in it at exit. */
const char *test_dir(void);
/* "<test_dir>/NAME"; owned. */
char *test_path(const char *name);

/* Run a command of the shell; its exit status, output thrown away. */
int sh(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* As that, must be 0; prints the output if it is not. */
void sh_ok(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* What a command prints, owned. */
char *sh_text(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* Is there a program of this name? */
bool have_program(const char *name);

struct image {
    struct node *node;          /* owned reference */
    struct root *root;          /* owned; all permissions if writable */
};

/*
 * Open PATH as qcow2.  OPTIONS: more members as JSON text: "'backing': null"
 * or "".  False with errp.  Control lock held by the caller, always.
 */
bool image_open(struct image *im, const char *path, bool read_only,
                const char *options, struct error **errp);
void image_open_ok(struct image *im, const char *path, const char *options);
void image_close(struct image *im);
/* Opened for writing and closed, in a process of its own: for tests that fork
 * and have no threads therefore.  Mends a dirty image. */
void image_reopen_elsewhere(const char *path);
int image_truncate(struct image *im, int64_t length, PreallocMode prealloc);

/* blockdev-create of qcow2 at PATH (the file is made): OPTIONS as JSON. */
bool image_create(const char *path, int64_t size, const char *options,
                  struct error **errp);
/* qemu-img check: no errors and no leaks. */
void image_check(const char *path);
/* The image's content by qemu-img must be MODEL. */
void image_compare(const char *path, const void *model, int64_t bytes);
