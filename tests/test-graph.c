/* SPDX-License-Identifier: MIT */
/*
 * The graph: links, permissions, filters, names, blockers.
 *
 * The random test does whatever the interface allows to a graph of a few
 * dozen nodes while drivers refuse at random.  After each step the graph is
 * compared with rules computed from scratch, and after a refused one with a
 * dump taken before it, byte for byte.
 */
#include <string.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/graph-priv.h"

/* ---- drivers ------------------------------------------------------------ */

struct test_state {
    unsigned perm, shared;      /* as told by set_perm */
    bool pending;               /* between check_perm and its end */
    bool *closed;               /* set by close() */
};

static int refuse_after = -1;   /* check_perm calls until one refuses */
static int n_pending;

static bool test_check_perm(struct node *n, unsigned perm, unsigned shared,
                            struct error **errp)
{
    struct test_state *s = n->state;

    g_assert(!s->pending);
    if (refuse_after >= 0 && refuse_after-- == 0) {
        error_set(errp, "injected");
        return false;
    }
    s->pending = true;
    n_pending++;
    return true;
}

static void test_set_perm(struct node *n, unsigned perm, unsigned shared)
{
    struct test_state *s = n->state;

    n_pending -= s->pending;
    s->pending = false;
    s->perm = perm;
    s->shared = shared;
}

static void test_abort_perm(struct node *n)
{
    struct test_state *s = n->state;

    g_assert(s->pending);
    n_pending--;
    s->pending = false;
}

static void test_close(struct node *n)
{
    struct test_state *s = n->state;

    if (s->closed) {
        *s->closed = true;
    }
}

#define PERM_FUNCTIONS \
    .state_size = sizeof(struct test_state), .type = -1, \
    .close = test_close, .check_perm = test_check_perm, \
    .set_perm = test_set_perm, .abort_perm = test_abort_perm

static const struct driver leaf_driver = {
    .name = "leaf", .is_protocol = true, PERM_FUNCTIONS
};
static const struct driver format_driver = {
    .name = "format", .is_format = true, .supports_backing = true,
    PERM_FUNCTIONS
};
static const struct driver filter_driver = {
    .name = "filter", .is_filter = true, PERM_FUNCTIONS
};

static struct node *new_node(const struct driver *drv, const char *name)
{
    struct node *n = node_new_filter(drv, name, false, NULL);
    struct test_state *s;

    g_assert_nonnull(n);
    s = n->state;
    s->shared = PERM_ALL;
    return n;
}

/* ---- checks ------------------------------------------------------------- */

static void rule(const struct child *c, unsigned perm, unsigned shared,
                 unsigned *out_perm, unsigned *out_shared)
{
    *out_perm = perm;
    *out_shared = shared;
    if (c->role & ROLE_COW) {
        *out_perm = perm & PERM_CONSISTENT_READ;
        *out_shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED |
            (shared & PERM_WRITE ? PERM_WRITE | PERM_RESIZE : 0);
    } else if (c->role & ROLE_METADATA) {
        *out_perm |= PERM_CONSISTENT_READ |
            (c->parent->read_only ? 0 : PERM_WRITE | PERM_RESIZE);
        *out_shared &= ~(PERM_WRITE | PERM_RESIZE);
        *out_shared |= PERM_WRITE_UNCHANGED;
    }
}

static void check_links(const struct node *n)
{
    const struct child *prev = NULL;
    int height = 0;

    for (const struct child *c = n->children; c;
         prev = c, c = c->next_sibling) {
        bool listed = false;

        g_assert(c->prev_sibling == prev && c->parent == n && !c->root);
        for (const struct child *p = c->node->parents; p; p = p->next_parent) {
            listed = listed || p == c;
        }
        g_assert_true(listed);
        g_assert(!(c->role & ROLE_PRIMARY) || n->file == c);
        g_assert(!(c->role & ROLE_COW) || n->backing == c);
        height = MAX(height, c->node->height + 1);
    }
    prev = NULL;
    for (const struct child *c = n->parents; c; prev = c, c = c->next_parent) {
        g_assert(c->prev_parent == prev && c->node == n);
    }
    g_assert_cmpint(n->height, ==, height);
}

static void check_perms(const struct node *n)
{
    const struct test_state *s = n->state;
    unsigned perm = 0, shared = PERM_ALL, want_perm, want_shared;

    for (const struct child *c = n->parents; c; c = c->next_parent) {
        perm |= c->perm;
        shared &= c->shared;
        for (const struct child *o = n->parents; o; o = o->next_parent) {
            g_assert(o == c || !(c->perm & ~o->shared));
        }
    }
    g_assert_cmpuint(n->perm, ==, perm);
    g_assert_cmpuint(n->shared, ==, shared);
    g_assert_cmpuint(s->perm, ==, perm);
    g_assert_cmpuint(s->shared, ==, shared);
    g_assert(!n->read_only || !(perm & (PERM_WRITE | PERM_WRITE_UNCHANGED)));
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        rule(c, perm, shared, &want_perm, &want_shared);
        g_assert_cmpuint(c->perm, ==, want_perm);
        g_assert_cmpuint(c->shared, ==, want_shared);
    }
}

static void check_graph(void)
{
    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        g_assert(node_find(n->name) == n);
        check_links(n);
        check_perms(n);
    }
    g_assert_cmpint(n_pending, ==, 0);
}

static char *dump_graph(void)
{
    GString *s = g_string_new(NULL);

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        const struct test_state *ts = n->state;

        g_string_append_printf(s, "%s refs %d perm %x/%x told %x/%x height %d "
                               "file %p backing %p\n", n->name, n->n_refs,
                               n->perm, n->shared, ts->perm, ts->shared,
                               n->height, (void *)n->file, (void *)n->backing);
        for (struct child *c = n->children; c; c = c->next_sibling) {
            g_string_append_printf(s, "  %p %s->%s %x/%x\n", (void *)c,
                                   c->name, c->node->name, c->perm, c->shared);
        }
        for (struct child *c = n->parents; c; c = c->next_parent) {
            g_string_append_printf(s, "  ^ %p %x/%x\n", (void *)c, c->perm,
                                   c->shared);
        }
    }
    return g_string_free(s, FALSE);
}

/* ---- the random test ---------------------------------------------------- */

enum { N_NODES = 24, N_ROOTS = 12, N_STEPS = 20000 };

static struct node *nodes[N_NODES];
static struct root *roots[N_ROOTS];

static struct node *any_node(void)
{
    return nodes[g_test_rand_int_range(0, N_NODES)];
}

static void make_nodes(void)
{
    for (int i = 0; i < N_NODES; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);

        nodes[i] = new_node(i % 4 == 0 ? &leaf_driver
                            : i % 4 == 1 ? &filter_driver : &format_driver,
                            name);
        nodes[i]->read_only = i % 7 == 3;
    }
}

static bool step_attach(struct error **errp)
{
    struct node *parent = any_node(), *child = any_node();
    bool filter = parent->driver == &filter_driver;

    if (parent->driver == &leaf_driver || (filter && parent->file)) {
        return true;
    }
    if (filter) {
        return node_attach_child(parent, child, "file",
                                 ROLE_FILTERED | ROLE_PRIMARY, errp);
    }
    if (!parent->file) {
        return node_attach_child(parent, child, "file", ROLE_IMAGE, errp);
    }
    return parent->backing ||
           node_attach_child(parent, child, "backing", ROLE_COW, errp);
}

static bool step_detach(struct error **errp)
{
    struct node *parent = any_node();
    bool filter_used = parent->driver == &filter_driver && parent->parents;

    if (parent->children && !filter_used) {
        node_detach_child(parent, g_test_rand_int_range(0, 2) &&
                          parent->children->next_sibling
                          ? parent->children->next_sibling
                          : parent->children);
    }
    return true;
}

/* What cannot fail overrules a driver that refuses, which is reported: not
 * too often. */
static void rarely_refuse(void)
{
    if (g_test_rand_int_range(0, 40) > 0) {
        refuse_after = -1;
    }
}

static bool step_filter(struct error **errp)
{
    struct node *filter = any_node(), *below = any_node();

    if (filter->driver != &filter_driver) {
        return true;
    }
    if (filter->file) {
        rarely_refuse();
        node_remove_filter(filter);
        return true;
    }
    return filter->parents || filter == below ||
           node_insert_filter(filter, below, errp);
}

static bool step_root(struct error **errp)
{
    struct root **r = &roots[g_test_rand_int_range(0, N_ROOTS)];
    struct root_options o = {
        .name = "root",
        .perm = g_test_rand_int_range(0, 16) & g_test_rand_int_range(0, 16),
        .shared = g_test_rand_int_range(0, 16) | g_test_rand_int_range(0, 16),
        .stay_on_node = g_test_rand_int_range(0, 4) == 0,
    };

    if (!*r) {
        *r = root_new(any_node(), &o, errp);
        return *r;
    }
    switch (g_test_rand_int_range(0, 3)) {
    case 0:
        rarely_refuse();
        root_free(r);
        return true;
    case 1:
        return root_set_perm(*r, o.perm, o.shared, errp);
    default:
        return root_set_node(*r, any_node(), errp);
    }
}

static bool step_replace(struct error **errp)
{
    return node_replace(any_node(), any_node(), errp);
}

static void test_random(void)
{
    bool (*const steps[])(struct error **errp) = {
        step_attach, step_attach, step_attach, step_detach, step_filter,
        step_filter, step_root, step_root, step_root, step_replace,
    };
    int n_refused = 0, n_injected = 0;

    CONTROL_GUARD();
    make_nodes();
    for (int i = 0; i < N_STEPS; i++) {
        g_autofree char *before = dump_graph();
        g_autofree char *after = NULL;
        int which = g_test_rand_int_range(0, G_N_ELEMENTS(steps));
        AUTO_ERROR(err);
        bool ok;

        refuse_after = g_test_rand_int_range(0, 4) == 0
                       && steps[which] != step_detach
                       ? g_test_rand_int_range(0, 6) : -1;
        ok = steps[which](&err);
        refuse_after = -1;
        g_assert(ok == !err);
        if (!ok) {
            after = dump_graph();
            g_assert_cmpstr(before, ==, after);
            n_refused++;
            n_injected += strcmp(error_text(err), "injected") == 0;
        }
        check_graph();
    }
    g_test_message("%d refused, %d of them injected", n_refused, n_injected);
    g_assert_cmpint(n_refused - n_injected, >, 100);
    g_assert_cmpint(n_injected, >, 100);
    for (int i = 0; i < N_ROOTS; i++) {
        root_free(&roots[i]);
    }
    for (int i = 0; i < N_NODES; i++) {
        while (nodes[i]->children) {
            node_detach_child(nodes[i], nodes[i]->children);
        }
    }
    for (int i = 0; i < N_NODES; i++) {
        node_unref(nodes[i]);
    }
    node_wait_closed();
    g_assert_null(node_next(NULL));
}

/* ---- messages ----------------------------------------------------------- */

static char *describe_job(void *opaque)
{
    return g_strdup("backup job 'j0'");
}

static void expect_error(struct error *err, const char *text)
{
    g_assert_nonnull(err);
    g_assert_cmpstr(error_text(err), ==, text);
    error_free(err);
}

static void test_conflict_text(void)
{
    static const struct root_ops ops = { .describe = describe_job };
    struct root_options o = {
        .name = "source", .ops = &ops, .perm = PERM_ALL, .shared = PERM_ALL,
    };
    struct error *err = NULL;
    struct node *leaf, *format;
    struct root *r;

    CONTROL_GUARD();
    leaf = new_node(&leaf_driver, "f");
    format = new_node(&format_driver, "q");
    node_attach_child(format, leaf, "file", ROLE_IMAGE, NULL);
    g_assert_null(root_new(leaf, &o, &err));
    expect_error(err, "Permission conflict on node 'f': permissions 'write, "
                 "resize' are both required by backup job 'j0' (uses node 'f' "
                 "as 'source' child) and unshared by node 'q' (uses node 'f' "
                 "as 'file' child).");
    o = (struct root_options){ .name = "root", .shared = PERM_CONSISTENT_READ };
    err = NULL;
    g_assert_null(root_new(leaf, &o, &err));
    expect_error(err, "Permission conflict on node 'f': permissions 'write, "
                 "resize' are both required by node 'q' (uses node 'f' as "
                 "'file' child) and unshared by an unnamed block device (uses "
                 "node 'f' as 'root' child).");
    o = (struct root_options){ .name = "root", .shared = PERM_ALL,
                               .perm = PERM_WRITE };
    format->read_only = true;
    err = NULL;
    g_assert_null(root_new(format, &o, &err));
    expect_error(err, "Block node is read-only");
    format->read_only = false;
    r = root_new(format, &o, NULL);
    g_assert_nonnull(r);
    root_free(&r);
    node_unref(format);
    node_unref(leaf);
}

static void test_names(void)
{
    static const struct { const char *name, *text; } bad[] = {
        { "", "Invalid node-name: ''" },
        { "1a", "Invalid node-name: '1a'" },
        { "#block1", "Invalid node-name: '#block1'" },
        { "a b", "Invalid node-name: 'a b'" },
        { "a\xc3\xa4", "Invalid node-name: 'a\xc3\xa4'" },
        { "a23456789012345678901234567890ab", "Node name too long" },
        { "taken", "Duplicate nodes with node-name='taken'" },
    };
    struct node *taken, *other;
    struct error *err = NULL;

    CONTROL_GUARD();
    taken = new_node(&leaf_driver, "taken");
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        err = NULL;
        g_assert_null(node_new_filter(&leaf_driver, bad[i].name, false, &err));
        expect_error(err, bad[i].text);
    }
    err = NULL;
    g_assert_null(node_lookup("x", NULL, &err));
    expect_error(err, "Cannot find device='x' nor node-name=''");
    g_assert(node_lookup(NULL, "taken", NULL) == taken);
    node_unref(taken);
    g_assert_null(node_find("taken"));
    taken = new_node(&leaf_driver, "taken");
    other = node_new_filter(&leaf_driver, NULL, true, NULL);
    g_assert_true(g_str_has_prefix(node_name(other), "#block"));
    g_assert_cmpuint(strlen(node_name(other)), >=, 9);
    /* A hidden node has its name but is not found. */
    node_unref(other);
    other = node_new(&leaf_driver, "hidden", NULL);
    g_assert_null(node_find("hidden"));
    g_assert_null(node_new(&leaf_driver, "hidden", NULL));
    g_assert(node_next(NULL) == taken);
    node_unref(other);
    node_unref(taken);
}

static void test_cycle_and_depth(void)
{
    enum { DEPTH = 502 };
    struct node *chain[DEPTH];
    struct error *err = NULL;
    int made = 1;

    CONTROL_GUARD();
    chain[0] = new_node(&format_driver, "c0");
    for (int i = 1; i < DEPTH; i++, made++) {
        g_autofree char *name = g_strdup_printf("c%d", i);

        chain[i] = new_node(&format_driver, name);
        if (!node_attach_child(chain[i], chain[i - 1], "backing", ROLE_COW,
                               &err)) {
            break;
        }
    }
    g_assert_cmpint(made, ==, DEPTH - 1);
    expect_error(err, "Block nodes are stacked too deeply (more than 500)");
    g_assert_null(chain[made]->children);
    node_unref(chain[made]);
    err = NULL;
    g_assert_null(node_attach_child(chain[0], chain[300], "backing", ROLE_COW,
                                    &err));
    expect_error(err, "Making 'c300' a backing child of 'c0' would create a "
                 "cycle");
    g_assert_true(node_reaches(chain[300], chain[0]));
    g_assert_false(node_reaches(chain[0], chain[300]));
    check_graph();
    for (int i = 0; i < made - 1; i++) {
        node_unref(chain[i]);
    }
    node_unref(chain[made - 1]);    /* and all below it, in turn */
    g_assert_null(node_next(NULL));
}

/* upper -> top -> base, both links frozen; whatever would move one or take it
 * away. */
static void refused_frozen(struct node *top, struct node *base)
{
    g_autofree char *before = dump_graph(), *after = NULL;
    struct node *filter = new_node(&filter_driver, "filter");
    struct graph_change *gc;
    struct error *err = NULL;

    g_assert_false(node_insert_filter(filter, top, &err));
    expect_error(err, "Cannot change 'file' link to 'top'");
    err = NULL;
    g_assert_false(node_insert_filter(filter, base, &err));
    expect_error(err, "Cannot change 'backing' link to 'base'");
    err = NULL;
    g_assert_false(node_replace(base, filter, &err));
    expect_error(err, "Cannot change 'backing' link to 'base'");
    gc = graph_change_begin();
    graph_change_unlink(gc, top->backing);
    err = NULL;
    g_assert_false(graph_change_finish(gc, NULL, &err));
    expect_error(err, "Cannot change 'backing' link to 'base'");
    gc = graph_change_begin();
    graph_change_unlink(gc, top->backing);
    g_assert_false(graph_change_check(gc, NULL));
    node_unref(filter);
    after = dump_graph();
    g_assert_cmpstr(before, ==, after);
}

static void test_frozen(void)
{
    struct node *base, *top, *upper, *filter;
    struct error *err = NULL;

    CONTROL_GUARD();
    base = new_node(&format_driver, "base");
    top = new_node(&format_driver, "top");
    upper = new_node(&filter_driver, "upper");
    filter = new_node(&filter_driver, "over");
    g_assert_nonnull(node_attach_child(top, base, "backing", ROLE_COW, NULL));
    g_assert_true(node_insert_filter(filter, top, NULL));
    g_assert_nonnull(node_attach_child(upper, filter, "file",
                                       ROLE_FILTERED | ROLE_PRIMARY, NULL));
    g_assert_true(node_freeze_chain(upper, base, NULL));
    g_assert_false(node_freeze_chain(top, NULL, &err));
    expect_error(err, "Cannot change 'backing' link from 'top' to 'base'");

    /* A filter that ends goes out of a frozen chain, which stays frozen. */
    node_remove_filter(filter);
    node_unref(filter);
    g_assert_true(node_filtered(upper) == top);
    check_graph();
    refused_frozen(top, base);

    node_unfreeze_chain(upper, base);
    filter = new_node(&filter_driver, "over");
    g_assert_true(node_insert_filter(filter, base, NULL));
    node_unref(filter);
    node_unref(base);
    node_unref(top);
    node_unref(upper);
    g_assert_null(node_next(NULL));
}

static void test_blockers(void)
{
    struct error *err = NULL;
    struct node *base, *top;
    int a, b;

    CONTROL_GUARD();
    base = new_node(&format_driver, "base");
    top = new_node(&format_driver, "top");
    node_attach_child(top, base, "backing", ROLE_COW, NULL);
    g_assert_false(node_op_allowed(base, NODE_OP_DELETE, &err));
    expect_error(err, "Node 'base' is busy: node is used as backing hd of "
                 "'top'");
    g_assert_true(node_op_allowed(base, NODE_OP_BACKUP_SOURCE, NULL));
    g_assert_true(node_op_allowed(top, NODE_OP_DELETE, NULL));
    node_block_all_ops(top, &a, "block device is in use by block job: backup");
    node_block_op(top, NODE_OP_RESIZE, &b, "b");
    err = NULL;
    g_assert_false(node_op_allowed(top, NODE_OP_MIRROR_SOURCE, &err));
    expect_error(err, "Node 'top' is busy: block device is in use by block "
                 "job: backup");
    node_unblock_all_ops(top, &a);
    g_assert_true(node_op_allowed(top, NODE_OP_MIRROR_SOURCE, NULL));
    g_assert_false(node_op_allowed(top, NODE_OP_RESIZE, NULL));
    node_unblock_op(top, NODE_OP_RESIZE, &b);
    g_assert_true(node_op_allowed(top, NODE_OP_RESIZE, NULL));
    node_unref(top);
    node_unref(base);
}

/* ---- life --------------------------------------------------------------- */

static void test_cascade(void)
{
    bool closed[3] = { false };
    struct node *n[3];

    CONTROL_GUARD();
    n[0] = new_node(&leaf_driver, "leaf");
    n[1] = new_node(&format_driver, "fmt");
    n[2] = new_node(&filter_driver, "filter");
    for (int i = 0; i < 3; i++) {
        ((struct test_state *)n[i]->state)->closed = &closed[i];
    }
    node_attach_child(n[1], n[0], "file", ROLE_IMAGE, NULL);
    g_assert_true(node_insert_filter(n[2], n[1], NULL));
    g_assert(node_filtered(n[2]) == n[1]);
    g_assert(node_skip_filters(n[2]) == n[1]);
    g_assert(node_skip_implicit_filters(n[2]) == n[2]);
    node_unref(n[0]);
    node_unref(n[1]);
    g_assert_false(closed[0] || closed[1] || closed[2]);
    node_unref_later(n[2]);
    g_assert_null(node_find("filter"));     /* at once */
    node_wait_closed();
    g_assert_true(closed[0] && closed[1] && closed[2]);
}

/* Ten thousand overlays on one base, ten thousand loose nodes. */
static void test_many(void)
{
    enum { N = 10000 };
    struct node *base, **many = g_new(struct node *, N);
    int64_t start;

    CONTROL_GUARD();
    start = clock_ns();
    base = new_node(&leaf_driver, "base");
    for (int i = 0; i < N; i++) {
        g_autofree char *name = g_strdup_printf("m%d", i);

        many[i] = new_node(&format_driver, name);
        g_assert_nonnull(node_attach_child(many[i], base, "backing", ROLE_COW,
                                           NULL));
    }
    for (int i = 0; i < N; i++) {
        node_unref(many[i]);
    }
    node_unref(base);
    g_assert_null(node_next(NULL));
    g_test_message("%.0f ms", (clock_ns() - start) / 1e6);
    g_assert_cmpint(clock_ns() - start, <, INT64_C(20000000000));
    g_free(many);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/names", test_names);
    g_test_add_func("/graph/conflict-text", test_conflict_text);
    g_test_add_func("/graph/cycle-and-depth", test_cycle_and_depth);
    g_test_add_func("/graph/frozen", test_frozen);
    g_test_add_func("/graph/blockers", test_blockers);
    g_test_add_func("/graph/cascade", test_cascade);
    g_test_add_func("/graph/random", test_random);
    g_test_add_func("/graph/many", test_many);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
