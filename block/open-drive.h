/* SPDX-License-Identifier: MIT */
/*
 * Opening as -drive does: formats that are not given, headers that are looked
 * at before options are put together.
 *
 * Threads  Control lock held; yields.
 */
#pragma once

#include "block/node.h"

/* A node whose format its file tells. */
struct node_guess {
    const BlockdevOptions *file;        /* borrowed */
    /* What the file has from the node on it, where its options do not say. */
    bool read_only, auto_read_only, force_share, inactive;
    bool cache_direct, cache_no_flush;
    /* The options of the node, now that its DRIVER is known: owned by the
     * caller of this.  NULL with an error. */
    BlockdevOptions *(*options)(const char *driver, void *opaque,
                                struct error **errp);
    void *opaque;
};

/* As node_open(); the file is opened once only. */
struct node *node_open_guessed(const struct node_guess *g,
                               struct error **errp);
/* The name of the driver for what is in FILE, which is closed again.  Static;
 * NULL with QEMU's text. */
const char *node_guess_format(const BlockdevOptions *file,
                              struct error **errp);
/* N's format was guessed: what raw is guarded against, and said, if it can be
 * written. */
void node_set_guessed(struct node *n);

/*
 * What the header of an image names as backing: *NAME as seen from the image's
 * directory, *FORMAT; both owned, NULL: none.  OPTIONS are the image's; it is
 * closed again.
 */
bool node_look_at_backing(const BlockdevOptions *options, char **name,
                          char **format, struct error **errp);
