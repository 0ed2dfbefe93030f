/* SPDX-License-Identifier: MIT */
/*
 * File names of a backing chain: which of its nodes a user means.
 *
 * A name is compared with the names that nodes are reported by; a path also by
 * the file that it leads to.  A relative path is meant from where the image
 * lies that has the file as its backing file, and only if that is the one that
 * its header names.
 */
#include <stdlib.h>
#include <string.h>
#include "base/control.h"
#include "block/filename.h"
#include "block/graph-priv.h"

/* The file that PATH leads to, owned (free()), or NULL. */
static char *real_path(const char *path)
{
    return path ? realpath(path, NULL) : NULL;
}

static bool same_file(const char *a, const char *b)
{
    char *real_a = real_path(a), *real_b = real_path(b);
    bool same = real_a && real_b && strcmp(real_a, real_b) == 0;

    free(real_a);
    free(real_b);
    return same;
}

/* FILENAME, a relative path, as seen from where N's file lies; owned. */
static char *seen_from(const struct node *n, const char *filename)
{
    while (n->file) {
        n = n->file->node;
    }
    return n->filename[0] ? filename_resolve(n->filename, filename) : NULL;
}

/* Does FILENAME mean BACKING, which is what N has as backing file? */
static bool means(struct node *n, struct node *backing, const char *filename)
{
    const char *reported = node_filename(backing);
    g_autofree char *resolved = NULL;

    if (strcmp(reported, filename) == 0) {
        return true;
    }
    if (filename[0] == '/') {
        return reported[0] == '/' && same_file(filename, reported);
    }
    if (filename_local_path(filename) != filename ||
        g_strcmp0(n->auto_backing_file, reported) != 0) {
        return false;
    }
    resolved = seen_from(n, filename);
    return resolved && same_file(resolved, filename_local_path(reported));
}

struct node *node_find_by_filename(struct node *top, const char *filename)
{
    control_assert();
    for (struct node *n = node_skip_filters(top); n && node_backing(n); ) {
        struct node *backing = node_skip_filters(node_backing(n));

        if (means(n, backing, filename)) {
            return backing;
        }
        n = backing;
    }
    return NULL;
}
