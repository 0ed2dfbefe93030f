/* SPDX-License-Identifier: MIT */
/*
 * Metadata contexts: which there are, and negotiating them.
 *
 * base:allocation always, qemu:allocation-depth and qemu:dirty-bitmap:NAME as
 * the export was made.  A query of LIST may be a whole name or the stem that
 * ends at a colon; of SET only a whole name selects.
 */
#include "nbd/handshake.h"

#include <string.h>

#define BASE_ALLOCATION "base:allocation"
#define ALLOCATION_DEPTH "qemu:allocation-depth"

void nbd_contexts_reset(struct nbd_contexts *x)
{
    g_free(x->bitmaps);
    memset(x, 0, sizeof(*x));
}

/* "base:", "qemu:", "qemu:dirty-bitmap:" stand for all below them. */
static bool stem_matches(const char *query, const char *context)
{
    size_t length = strlen(query);

    return length > 0 && query[length - 1] == ':' &&
           (strcmp(query, "base:") == 0 || strcmp(query, "qemu:") == 0 ||
            strcmp(query, "qemu:dirty-bitmap:") == 0) &&
           strncmp(query, context, length) == 0;
}

static void select_one(struct nbd_contexts *x, bool *selected,
                       const char *context, const char *query, bool stems)
{
    if (!*selected && (!query || strcmp(query, context) == 0 ||
                       (stems && stem_matches(query, context)))) {
        *selected = true;
        x->n++;
    }
}

/* Add what QUERY (NULL: all) means to X. */
static void select_query(struct nbd_contexts *x, const struct nbd_export *e,
                         const char *query, bool stems)
{
    select_one(x, &x->base_allocation, BASE_ALLOCATION, query, stems);
    if (e->allocation_depth) {
        select_one(x, &x->allocation_depth, ALLOCATION_DEPTH, query, stems);
    }
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        select_one(x, &x->bitmaps[i], e->bitmaps[i].context, query, stems);
    }
}

static void reply_context(struct nbd_conn *c, const struct nbd_option *o,
                         uint32_t id, const char *name)
{
    uint32_t id_be =
        o->option == NBD_OPT_SET_META_CONTEXT ? GUINT32_TO_BE(id) : 0;
    struct iovec payload[] = {
        { &id_be, sizeof(id_be) }, { (char *)name, strlen(name) },
    };

    nbd_option_reply(c, o, NBD_REP_META_CONTEXT, payload, 2);
}

static void reply_contexts(struct nbd_conn *c, const struct nbd_option *o,
                           const struct nbd_export *e,
                           const struct nbd_contexts *x)
{
    if (x->base_allocation) {
        reply_context(c, o, NBD_CONTEXT_BASE, BASE_ALLOCATION);
    }
    if (x->allocation_depth) {
        reply_context(c, o, NBD_CONTEXT_DEPTH, ALLOCATION_DEPTH);
    }
    for (size_t i = 0; i < e->n_bitmaps; i++) {
        if (x->bitmaps[i]) {
            reply_context(c, o, NBD_CONTEXT_BITMAP + i, e->bitmaps[i].context);
        }
    }
}

/* The queries after the export's name, into X.  False: malformed. */
static bool parse_queries(struct nbd_option *o, const struct nbd_export *e,
                          struct nbd_contexts *x)
{
    bool list = o->option == NBD_OPT_LIST_META_CONTEXT;
    uint32_t n;

    if (!nbd_option_get32(o, &n)) {
        return false;
    }
    if (n == 0 && list && o->pos == o->length) {
        select_query(x, e, NULL, true);
    }
    for (uint32_t i = 0; i < n; i++) {
        g_autofree char *query = nbd_option_get_string(o);

        if (!query) {
            return false;
        }
        select_query(x, e, query, list);
    }
    return o->pos == o->length;
}

static enum nbd_next negotiate(struct nbd_conn *c, struct nbd_option *o,
                               struct nbd_contexts *x)
{
    g_autofree char *name = nbd_option_get_string(o);
    struct nbd_export *e;
    enum nbd_next next;

    if (!name) {
        return nbd_option_refuse_length(c, o);
    }
    e = nbd_export_get(c->server, name);
    if (!e) {
        return nbd_option_refuse_export(c, o, name);
    }
    x->export_serial = e->serial;
    x->bitmaps = g_new0(bool, e->n_bitmaps + 1);
    if (parse_queries(o, e, x)) {
        reply_contexts(c, o, e, x);
        next = nbd_option_ack(c, o);
    } else {
        nbd_contexts_reset(x);
        next = nbd_option_refuse_length(c, o);
    }
    nbd_export_put(&e);
    return next;
}

enum nbd_next nbd_option_list_contexts(struct nbd_conn *c,
                                       struct nbd_option *o)
{
    struct nbd_contexts x = { 0 };
    enum nbd_next next = negotiate(c, o, &x);

    nbd_contexts_reset(&x);
    return next;
}

enum nbd_next nbd_option_set_contexts(struct nbd_conn *c,
                                      struct nbd_option *o)
{
    nbd_contexts_reset(&c->contexts);
    if (!c->structured) {
        return nbd_option_refuse(c, o, NBD_REP_ERR_INVALID,
                                 "request option '%s' when structured reply "
                                 "is not negotiated",
                                 nbd_option_name(o->option));
    }
    return negotiate(c, o, &c->contexts);
}
