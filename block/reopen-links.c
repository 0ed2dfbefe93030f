/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: children, and the change of the graph.
 *
 * "file" and "backing" may become other nodes, by name; any other child must
 * be what it was.  A definition in place of a name describes the child that
 * is there, if it was made by its parent's options: see reopen-options.c.
 */
#include "block/reopen-priv.h"

#include <string.h>
#include "base/control.h"
#include "base/error.h"
#include "base/trace.h"
#include "block/iothread-claim.h"
#include "qapi/qapi-visit.h"

/* ---- what the options say of a child ------------------------------------ */

struct child_option {
    enum { SAYS_NOTHING, SAYS_NULL, SAYS_NAME, SAYS_DEFINITION } says;
    const char *name;                   /* borrowed */
    const BlockdevOptions *definition;  /* borrowed */
};

static struct child_option of_ref(const BlockdevRef *ref)
{
    struct child_option o = { SAYS_NOTHING };

    if (ref && ref->type == QAPI_TYPE_STRING) {
        o.says = SAYS_NAME;
        o.name = ref->u.reference;
    } else if (ref) {
        o.says = SAYS_DEFINITION;
        o.definition = ref->u.definition;
    }
    return o;
}

static struct child_option of_backing(const BlockdevRefOrNull *ref)
{
    struct child_option o = { SAYS_NOTHING };

    if (ref && ref->type == QAPI_TYPE_STRING) {
        o.says = SAYS_NAME;
        o.name = ref->u.reference;
    } else if (ref && ref->type == QAPI_TYPE_OBJECT) {
        o.says = SAYS_DEFINITION;
        o.definition = ref->u.definition;
    } else if (ref) {
        o.says = SAYS_NULL;
    }
    return o;
}

/* ---- one child ---------------------------------------------------------- */

/*
 * The definition D cannot be meant: it is of a node that PATH is not.  Which
 * of its members is named follows QEMU: the deepest backing file's, if there
 * is more than one.
 */
static bool refuse_definition(const char *path, const BlockdevOptions *d,
                              struct error **errp)
{
    g_autoptr(GString) deepest = g_string_new(path);
    const BlockdevRefOrNull *backing;
    const BlockdevRef *file;
    bool nested = false;

    while ((backing = options_backing(d)) &&
           backing->type == QAPI_TYPE_OBJECT) {
        d = backing->u.definition;
        g_string_append(deepest, ".backing");
        nested = true;
    }
    file = options_file(d);
    if (nested && file && file->type == QAPI_TYPE_OBJECT &&
        file->u.definition->node_name) {
        error_set(errp, "Cannot change the option '%s.file.node-name'",
                  deepest->str);
    } else {
        error_set(errp, "Cannot change the option '%s.driver'", path);
    }
    return false;
}

static void add_link(struct reopen_item *it, const char *name, unsigned role,
                     struct node *from, struct node *to)
{
    it->links[it->n_links++] = (struct reopen_link){
        .name = name, .role = role, .old_role = role,
        .from = from ? node_ref(from) : NULL,
        .to = to ? node_ref(to) : NULL,
    };
}

/* May C, the child of N, be taken away or become another node? */
static bool check_replaceable(const struct node *n, const struct child *c,
                              struct error **errp)
{
    if (c->node->implicit) {
        error_set(errp, "Cannot replace implicit %s child of %s", c->name,
                  n->name);
        return false;
    }
    if (c->frozen) {
        error_set(errp, "Cannot change frozen '%s' link from '%s' to '%s'",
                  c->name, n->name, c->node->name);
        return false;
    }
    return true;
}

/* C of N, or a new child called KEY, is to be the node NAME. */
static bool plan_name(struct reopen_item *it, const struct child *c,
                      const char *key, const char *name, struct error **errp)
{
    struct node *n = it->r.node, *to;

    to = node_lookup(NULL, name, errp);
    if (!to || (c && !check_replaceable(n, c, errp))) {
        return false;
    }
    add_link(it, c ? c->name : key, c ? c->role : ROLE_COW,
             c ? c->node : NULL, to);
    return true;
}

static bool is_same_node(const struct child *c, const char *name)
{
    return strcmp(node_name(c->node), name) == 0 ||
           strcmp(node_name(node_skip_implicit_filters(c->node)), name) == 0;
}

static bool inherits(const struct node *n, const struct child *c)
{
    return c->node->inherits_from == n->id;
}

/* D has a backing file defined, C's node has none: it was another's. */
static bool check_depth(const struct child *c, const BlockdevOptions *d,
                        struct error **errp)
{
    const BlockdevRefOrNull *backing = options_backing(d);

    if (backing && backing->type == QAPI_TYPE_OBJECT && !c->node->backing) {
        error_set(errp, "Cannot change the option '%s.driver'", c->name);
        return false;
    }
    return true;
}

/* "file" or "backing": may change. */
static bool plan_child(struct reopen *x, struct reopen_item *it,
                       const struct child *c, const struct child_option *o,
                       struct error **errp)
{
    struct node *n = it->r.node;

    switch (o->says) {
    case SAYS_NAME:
        if (!is_same_node(c, o->name)) {
            return plan_name(it, c, c->name, o->name, errp);
        }
        if (inherits(n, c)) {
            reopen_follow(x, it, c, NULL);
        }
        return true;
    case SAYS_DEFINITION:
        if (!inherits(n, c)) {
            return refuse_definition(c->name, o->definition, errp);
        }
        if (!check_depth(c, o->definition, errp)) {
            return false;
        }
        reopen_follow(x, it, c, o->definition);
        return true;
    case SAYS_NULL:
        if (!check_replaceable(n, c, errp)) {
            return false;
        }
        add_link(it, c->name, c->role, c->node, NULL);
        return true;
    default:
        error_set(errp, "%s is missing for '%s'", c->name, n->name);
        return false;
    }
}

/* There was no backing child. */
static bool plan_no_backing(struct reopen_item *it,
                            const struct child_option *o, struct error **errp)
{
    const struct node *n = it->r.node;

    switch (o->says) {
    case SAYS_NAME:
        return plan_name(it, NULL, "backing", o->name, errp);
    case SAYS_DEFINITION:
        return refuse_definition("backing", o->definition, errp);
    case SAYS_NOTHING:
        if (n->header_backing_file) {
            error_set(errp, "backing is missing for '%s'", n->name);
            return false;
        }
        return true;
    default:
        return true;
    }
}

/* Any other child: what OPTIONS say of it must be what it is. */
static bool plan_fixed(struct reopen *x, struct reopen_item *it,
                       const struct child *c, json_t *options,
                       struct error **errp)
{
    json_t *value = json_object_get(options, c->name);
    const char *name = json_string_value(value);
    g_autoptr(BlockdevOptions) definition = NULL;

    if (json_is_object(value) && inherits(it->r.node, c)) {
        definition = BlockdevOptions_from_json(value, errp);
        if (!definition) {
            return false;
        }
    } else if (json_is_object(value)) {
        error_set(errp, "Cannot change the option '%s.driver'", c->name);
        return false;
    } else if (name && !is_same_node(c, name)) {
        error_set(errp, "Cannot change the option '%s'", c->name);
        return false;
    }
    if (inherits(it->r.node, c)) {
        reopen_follow(x, it, c, definition);
    }
    return true;
}

/* ---- all children ------------------------------------------------------- */

static bool plan_given(struct reopen *x, struct reopen_item *it,
                       struct error **errp)
{
    struct node *n = it->r.node;
    json_t *json = BlockdevOptions_to_json(it->given);
    struct child_option o;
    bool ok = true;

    if (n->driver->supports_backing) {
        o = of_backing(options_backing(it->given));
        ok = n->backing ? plan_child(x, it, n->backing, &o, errp)
                        : plan_no_backing(it, &o, errp);
    }
    for (const struct child *c = n->children; ok && c; c = c->next_sibling) {
        if (c == n->backing) {
            continue;
        }
        if (c == n->file && n->driver->file_option &&
            strcmp(c->name, "file") == 0) {
            o = of_ref(options_file(it->given));
            ok = plan_child(x, it, c, &o, errp);
        } else {
            ok = plan_fixed(x, it, c, json, errp);
        }
    }
    json_decref(json);
    return ok;
}

/* The driver may see its primary child in another role (raw's window). */
static void plan_role(struct reopen_item *it)
{
    struct node *n = it->r.node;
    struct reopen_link *l = NULL;
    unsigned role;

    if (!n->file || !n->driver->file_role) {
        return;
    }
    role = n->driver->file_role(it->r.options);
    for (int i = 0; i < it->n_links; i++) {
        if (it->links[i].role & ROLE_PRIMARY) {
            l = &it->links[i];
        }
    }
    if (!l && role != n->file->role) {
        add_link(it, n->file->name, n->file->role, n->file->node,
                 n->file->node);
        l = &it->links[it->n_links - 1];
    }
    if (l) {
        l->role = role;
    }
}

bool reopen_plan_links(struct reopen *x, struct reopen_item *it,
                       struct error **errp)
{
    struct node *n = it->r.node;

    if (it->given) {
        if (!plan_given(x, it, errp)) {
            return false;
        }
    } else {
        for (struct child *c = n->children; c; c = c->next_sibling) {
            if (inherits(n, c)) {
                reopen_follow(x, it, c, NULL);
            }
        }
    }
    plan_role(it);
    for (int i = 0; i < it->n_links; i++) {
        if (it->links[i].role & ROLE_PRIMARY) {
            it->r.file = it->links[i].to;
        }
    }
    return true;
}

/* ---- the change --------------------------------------------------------- */

/* N's child NAME becomes TO (NULL: none), in ROLE. */
static void change_link(struct graph_change *gc, struct node *n,
                        const char *name, unsigned role, struct node *to,
                        GPtrArray *made)
{
    struct child *c = child_find(n, name);

    if (c && to && c->role == role) {
        graph_change_move(gc, c, to);
        return;
    }
    if (c) {
        graph_change_unlink(gc, c);
    }
    if (to) {
        c = child_new(n, name, role);
        g_ptr_array_add(made, c);
        graph_change_link(gc, c, to);
    }
}

static struct node_flags flags_of(const struct node *n)
{
    return (struct node_flags){
        .read_only = n->read_only, .auto_read_only = n->auto_read_only,
        .force_share = n->force_share, .cache_direct = n->cache_direct,
        .cache_no_flush = n->cache_no_flush,
        .detect_zeroes = n->detect_zeroes,
        .detect_zeroes_unmap = n->detect_zeroes_unmap,
        .discard_unmap = n->discard_unmap,
    };
}

static void set_flags(struct node *n, const struct node_flags *f)
{
    n->read_only = f->read_only;
    n->auto_read_only = f->auto_read_only;
    n->force_share = f->force_share;
    n->cache_direct = f->cache_direct;
    n->cache_no_flush = f->cache_no_flush;
    n->detect_zeroes = f->detect_zeroes;
    n->detect_zeroes_unmap = f->detect_zeroes_unmap;
    n->discard_unmap = f->discard_unmap;
}

static void apply_flags(struct graph_change *gc, struct reopen_item *it)
{
    struct node *n = it->r.node;

    it->old = flags_of(n);
    options_apply(n, it->r.options);
    n->read_only = it->r.read_only;
    n->turning_read_only = n->read_only && !it->old.read_only;
    graph_change_touch(gc, n);
}

/* With all links as they are to be: of a swap none is one alone. */
static bool check_links(const struct reopen *x, struct error **errp)
{
    for (guint i = 0; i < x->items->len; i++) {
        const struct reopen_item *it = x->items->pdata[i];

        for (int k = 0; k < it->n_links; k++) {
            const struct reopen_link *l = &it->links[k];

            if (l->to && node_reaches(l->to, it->r.node)) {
                error_set(errp, "Making '%s' a %s child of '%s' would create "
                          "a cycle", node_name(l->to), l->name,
                          node_name(it->r.node));
                return false;
            }
        }
        if (it->n_links && !iothread_claims_agree(it->r.node, errp)) {
            return false;
        }
    }
    return true;
}

/* Who drained one of our children before we did may have put something
 * between since the plan was made. */
static bool check_plan(const struct reopen *x, struct error **errp)
{
    for (guint i = 0; i < x->items->len; i++) {
        const struct reopen_item *it = x->items->pdata[i];

        for (int k = 0; k < it->n_links; k++) {
            const struct child *c = child_find(it->r.node, it->links[k].name);

            if ((c ? c->node : NULL) != it->links[k].from) {
                error_set(errp, "The %s child of node '%s' was changed by "
                          "another command", it->links[k].name,
                          node_name(it->r.node));
                return false;
            }
        }
    }
    return true;
}

static void free_made(GPtrArray *made)
{
    for (guint i = 0; i < made->len; i++) {
        g_free(made->pdata[i]);
    }
}

/* The steps of it; what it makes, into MADE. */
static struct graph_change *begin_change(struct reopen *x, GPtrArray *made)
{
    struct graph_change *gc = graph_change_begin();

    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        for (int k = 0; k < it->n_links; k++) {
            const struct reopen_link *l = &it->links[k];

            change_link(gc, it->r.node, l->name, l->role, l->to, made);
        }
        apply_flags(gc, it);
    }
    return gc;
}

/* After it was checked or done; not KEPT: nothing has changed. */
static void end_change(struct reopen *x, GPtrArray *made, bool kept)
{
    for (guint i = 0; i < x->items->len; i++) {
        struct reopen_item *it = x->items->pdata[i];

        it->r.node->turning_read_only = false;
        if (!kept) {
            set_flags(it->r.node, &it->old);
        }
    }
    if (!kept) {
        free_made(made);
    }
}

bool reopen_check_graph(struct reopen *x, struct error **errp)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    struct graph_change *gc = begin_change(x, made);
    bool ok = check_links(x, errp);

    if (ok) {
        ok = graph_change_check(gc, errp);
    } else {
        graph_change_cancel(gc);
    }
    end_change(x, made, false);
    return ok;
}

bool reopen_change_graph(struct reopen *x, GPtrArray *dropped,
                         struct error **errp)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    struct graph_change *gc;
    bool ok;

    if (!check_plan(x, errp)) {
        return false;
    }
    gc = begin_change(x, made);
    /* Again: others may have changed links that we do not have drained. */
    ok = check_links(x, errp);
    if (ok) {
        ok = graph_change_finish(gc, dropped, errp);
    } else {
        graph_change_cancel(gc);
    }
    end_change(x, made, ok);
    return ok;
}

void reopen_restore_graph(struct reopen *x, GPtrArray *dropped)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    struct graph_change *gc = graph_change_begin();

    for (guint i = x->items->len; i-- > 0;) {
        struct reopen_item *it = x->items->pdata[i];

        for (int k = it->n_links; k-- > 0;) {
            const struct reopen_link *l = &it->links[k];

            change_link(gc, it->r.node, l->name, l->old_role, l->from, made);
        }
        set_flags(it->r.node, &it->old);
        graph_change_touch(gc, it->r.node);
    }
    graph_change_finish_nofail(gc, dropped);
}
