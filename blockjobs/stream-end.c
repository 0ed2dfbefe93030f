/* SPDX-License-Identifier: MIT */
/* Stream: its end: see stream.c. */
#include "blockjobs/stream-priv.h"

#include <errno.h>
#include "base/control.h"
#include "base/error.h"
#include "block/driver.h"
#include "block/filters/copy-on-read.h"
#include "block/reopen.h"
#include "block/root.h"

void stream_unfreeze(struct stream_job *sj)
{
    if (sj->frozen) {
        node_unfreeze_chain(sj->chain.device, sj->chain.above_base);
        sj->frozen = false;
    }
}

/* What the header is to say of BASE. */
struct header {
    char *file, *format;        /* owned; NULL: none */
    char *auto_file;            /* owned; node.auto_backing_file */
};

static void header_clear(struct header *h)
{
    g_free(h->file);
    g_free(h->format);
    g_free(h->auto_file);
}

static struct header header_for(const struct stream_job *sj,
                                struct node *base)
{
    struct node *image = node_skip_filters(base);
    struct header h = { NULL, NULL, NULL };

    if (!image || (sj->backing_file && !sj->backing_file[0])) {
        return h;
    }
    h.file = g_strdup(sj->backing_file ? sj->backing_file
                                       : node_filename(image));
    h.format = g_strdup(sj->mask_protocol && image->driver->is_protocol
                        ? "raw" : node_driver_name(image));
    return h;
}

/*
 * The overlay, drained, has its new backing link; others may change that while
 * the header is written (a commit below ends).  *BASE: what the header names
 * at last, or was to name.
 */
static int write_header(struct stream_job *sj, struct node **base,
                        struct error **errp)
{
    struct node *n = sj->chain.overlay;
    AUTO_ERROR(err);
    int ret;

    do {
        struct header h;
        *base = node_backing(n);
        h = header_for(sj, *base);
        /* At once: others may ask for the overlay's name meanwhile. */
        node_set_header_text(n, h.file, h.format);
        ret = -ENOTSUP;
        node_inc_in_flight(n);      /* drains wait */
        CONTROL_YIELD {
            if (n->driver->change_backing_file) {
                ret = n->driver->change_backing_file(n, h.file, h.format,
                                                     &err);
            }
        }
        node_dec_in_flight(n);
        if (ret < 0) {
            error_set_errno(errp, -ret, "Could not change backing file to "
                            "'%s'", h.file ? h.file : "");
        }
        header_clear(&h);
    } while (ret == 0 && node_backing(n) != *base);
    return ret;
}

/* The header could not be written: OLD is the backing file again, as HEADER
 * says, which is used up. */
static void restore_link(struct stream_job *sj, struct node *old,
                         struct header *header)
{
    struct node *n = sj->chain.overlay, *base = NULL;
    AUTO_ERROR(err);
    bool ok = n->backing
              ? node_set_backing(n, old, &base, &err)
              : node_attach_child(n, old, "backing", ROLE_COW, &err) != NULL;

    if (!ok) {
        error_report(err);
    }
    node_unref_later(base);
    node_set_header_text(n, header->file, header->format);
    g_free(n->auto_backing_file);
    n->auto_backing_file = g_steal_pointer(&header->auto_file);
}

/* The overlay and BASE are drained.  *OLD: what was its backing file, owned. */
static int change_backing(struct stream_job *sj, struct node *base,
                          struct node **old, struct error **errp)
{
    struct node *n = sj->chain.overlay;
    struct header old_header = {
        .file = g_strdup(n->header_backing_file),
        .format = g_strdup(n->header_backing_format),
        .auto_file = g_strdup(n->auto_backing_file),
    };
    int ret = -EPERM;

    stream_unfreeze(sj);
    if (node_set_backing(n, base, old, errp)) {
        ret = write_header(sj, &base, errp);
        if (ret < 0 && node_backing(n) == base) {
            restore_link(sj, *old, &old_header);
        }
    }
    header_clear(&old_header);
    return ret;
}

/* Zeroes were left out where nothing was below; nothing may be there now. */
static bool check_base(const struct stream_job *sj, const struct node *base,
                       struct error **errp)
{
    if (sj->no_base && base) {
        error_set(errp, "Node '%s' got a backing file while it was streamed "
                  "from", node_name(sj->chain.bottom));
        return false;
    }
    return true;
}

int stream_prepare(struct job *job, struct error **errp)
{
    struct stream_job *sj = stream_of(job);
    struct node *overlay = sj->chain.overlay, *base, *old = NULL;
    struct node *nodes[2] = { overlay };
    struct drain *drain;
    int ret;

    if (!node_backing(overlay)) {
        return 0;
    }
    base = node_chain_next(sj->chain.above_base);
    nodes[1] = base ? base : overlay;
    drain = drain_begin(nodes, G_N_ELEMENTS(nodes));
    base = node_chain_next(sj->chain.above_base);   /* it waited */
    ret = check_base(sj, base, errp) ? change_backing(sj, base, &old, errp)
                                     : -EINVAL;
    drain_end(&drain);
    node_unref(old);
    return ret;
}

void nodes_make_read_only(GSList **nodes)
{
    while (*nodes) {
        struct node *n = (*nodes)->data;
        AUTO_ERROR(err);

        *nodes = g_slist_delete_link(*nodes, *nodes);
        if (!node_set_read_only(n, true, &err)) {
            error_prepend(&err, "Node '%s' stays writable: ", node_name(n));
            error_report(err);
        }
        node_unref(n);
    }
}

static void drop_nodes(struct stream_job *sj)
{
    struct stream_chain *c = &sj->chain;

    node_unref(g_steal_pointer(&sj->filter));
    node_unref(g_steal_pointer(&c->above_base));
    node_unref(g_steal_pointer(&c->bottom));
    node_unref(g_steal_pointer(&c->overlay));
    node_unref(g_steal_pointer(&c->device));
}

/* After commit or abort alike.  The layers that are gone are closed before
 * the job is over: their files are free then. */
void stream_clean(struct job *job)
{
    struct stream_job *sj = stream_of(job);
    struct node *nodes[] = { sj->filter, sj->chain.overlay };
    struct drain *drain = drain_begin(nodes, G_N_ELEMENTS(nodes));

    job_drop_roots(job);
    stream_unfreeze(sj);
    cor_remove(sj->filter);
    drain_end(&drain);
    nodes_make_read_only(&sj->read_only_again);
    drop_nodes(sj);
}
