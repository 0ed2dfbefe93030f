/* SPDX-License-Identifier: MIT */
/* Opening as -drive does: see open-drive.h. */
#include "block/open-drive.h"

#include "base/control.h"
#include "block/filename.h"
#include "block/open-priv.h"

/* The node on FILE, which tells its format. */
static struct node *open_on_file(struct open_session *s,
                                 const struct node_guess *g,
                                 struct node *file, struct error **errp)
{
    struct open_place place = { .file = file, .probed = true };
    const struct driver *drv = probe_format(file, errp);
    g_autoptr(BlockdevOptions) o = NULL;
    struct node *n;

    o = drv ? g->options(drv->name, g->opaque, errp) : NULL;
    n = o ? open_one(s, o, &place, errp) : NULL;
    if (n && drv->type == BLOCKDEV_DRIVER_RAW && !n->read_only) {
        warn_guessed_raw(n);
    }
    return n;
}

struct node *node_open_guessed(const struct node_guess *g,
                               struct error **errp)
{
    struct options_source from = {
        .exists = true, .read_only = g->read_only,
        .auto_read_only = g->auto_read_only, .force_share = g->force_share,
        .inactive = g->inactive,
        .cache_direct = g->cache_direct, .cache_no_flush = g->cache_no_flush,
    };
    struct open_place place = { .from = &from, .role = ROLE_IMAGE };
    struct node *file, *n = NULL;
    struct open_session s;

    control_assert();
    open_session_begin(&s);
    file = open_tree(&s, g->file, &place, errp);
    if (file) {
        n = open_on_file(&s, g, file, errp);
    }
    if (n && !open_backing_chain(&s, n, errp)) {
        node_unref(n);
        n = NULL;
    }
    if (n) {
        open_session_publish(&s);
    }
    node_unref(file);
    open_session_end(&s);
    return n;
}

/* A node that nobody else sees; the session lives as long. */
static struct node *open_hidden(struct open_session *s,
                                const BlockdevOptions *options,
                                struct error **errp)
{
    struct open_place place = { .to_look = true };

    control_assert();
    open_session_begin(s);
    return open_tree(s, options, &place, errp);
}

const char *node_guess_format(const BlockdevOptions *options,
                              struct error **errp)
{
    const struct driver *drv;
    struct open_session s;
    struct node *file = open_hidden(&s, options, errp);

    drv = file ? probe_format(file, errp) : NULL;
    node_unref(file);
    open_session_end(&s);
    return drv ? drv->name : NULL;
}

void node_set_guessed(struct node *n)
{
    control_assert();
    n->probed = true;
    if (n->driver->type == BLOCKDEV_DRIVER_RAW && !n->read_only) {
        warn_guessed_raw(n);
    }
}

bool node_look_at_backing(const BlockdevOptions *options, char **name,
                          char **format, struct error **errp)
{
    struct open_session s;
    struct node *n = open_hidden(&s, options, errp);
    bool ok = n;

    *name = *format = NULL;
    if (n && n->header_backing_file) {
        *name = node_resolved_backing_name(n, errp);
        *format = g_strdup(n->header_backing_format);
        ok = *name;
    }
    node_unref(n);
    open_session_end(&s);
    return ok;
}
