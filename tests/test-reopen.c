/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: all or nothing, whatever refuses.
 *
 * The random test gives nodes of a small graph new files, backing nodes and
 * flags, several at once, while each step of it fails at random.  After a
 * refusal the graph is compared with a dump made before, byte for byte;
 * after a success with what was asked for.  The drivers are ours, under the
 * names that options know.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <glib/gstdio.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/graph-priv.h"
#include "block/reopen.h"
#include "qapi/qapi-visit.h"

/* ---- drivers ------------------------------------------------------------ */

struct test_state {
    unsigned perm, shared;
    bool writable, active;      /* as the last commit said */
    bool prepared;
};

static int fail_after = -1;     /* steps that may fail, until one does */
static int n_prepared, n_active;

static bool may_fail(struct error **errp)
{
    if (fail_after >= 0 && fail_after-- == 0) {
        error_set(errp, "injected");
        return false;
    }
    return true;
}

static bool test_check_perm(struct node *n, unsigned perm, unsigned shared,
                            struct error **errp)
{
    return may_fail(errp);
}

static void test_set_perm(struct node *n, unsigned perm, unsigned shared)
{
    struct test_state *s = n->state;

    s->perm = perm;
    s->shared = shared;
}

static bool test_prepare(struct node_reopen *r, struct error **errp)
{
    struct test_state *s = r->node->state;

    g_assert_false(control_held());
    g_assert_false(s->prepared);
    g_assert(!r->driver_state);
    g_assert(!r->node->file == !r->file);
    if (!may_fail(errp)) {
        return false;
    }
    r->driver_state = g_malloc(1);
    s->prepared = true;
    n_prepared++;
    return true;
}

static bool test_activate(struct node_reopen *r, struct error **errp)
{
    struct test_state *s = r->node->state;

    g_assert_true(s->prepared && !s->active);
    g_assert(r->node->read_only == r->read_only);
    for (struct child *c = r->node->children; c; c = c->next_sibling) {
        struct test_state *below = c->node->state;

        g_assert(!below->prepared || below->active);
    }
    if (!may_fail(errp)) {
        return false;
    }
    s->active = true;
    n_active++;
    return true;
}

static void end(struct node_reopen *r)
{
    struct test_state *s = r->node->state;

    g_assert_true(s->prepared);
    g_free(g_steal_pointer(&r->driver_state));
    n_prepared--;
    n_active -= s->active;
    s->prepared = s->active = false;
}

static void test_commit(struct node_reopen *r)
{
    struct test_state *s = r->node->state;

    g_assert_true(s->active);
    s->writable = !r->read_only;
    end(r);
}

static void test_abort(struct node_reopen *r)
{
    g_assert_false(control_held());
    end(r);
}

#define FUNCTIONS \
    .state_size = sizeof(struct test_state), .type = -1, \
    .check_perm = test_check_perm, .set_perm = test_set_perm, \
    .reopen_prepare = test_prepare, .reopen_activate = test_activate, \
    .reopen_commit = test_commit, .reopen_abort = test_abort

static BlockdevRef **file_option(BlockdevOptions *o)
{
    return &o->u.qcow2.file;
}

static const struct driver leaf_driver = {
    .name = "null-co", .is_protocol = true, FUNCTIONS
};
static const struct driver format_driver = {
    .name = "qcow2", .is_format = true, .supports_backing = true,
    .file_option = file_option, FUNCTIONS
};
static const struct driver filter_driver = {
    .name = "filter", .is_filter = true, FUNCTIONS
};

/* ---- nodes and options -------------------------------------------------- */

static BlockdevRef *ref(const char *name)
{
    BlockdevRef *r = BlockdevRef_new0();

    r->type = QAPI_TYPE_STRING;
    r->u.reference = g_strdup(name);
    return r;
}

static BlockdevRefOrNull *ref_or_null(const char *name)
{
    BlockdevRefOrNull *r = BlockdevRefOrNull_new0();

    r->type = name ? QAPI_TYPE_STRING : QAPI_TYPE_NULL;
    if (name) {
        r->u.reference = g_strdup(name);
    }
    return r;
}

static BlockdevOptions *format_options(const char *name, const char *file,
                                       const char *backing, bool read_only)
{
    BlockdevOptions *o = BlockdevOptions_new0();

    o->driver = BLOCKDEV_DRIVER_QCOW2;
    o->node_name = g_strdup(name);
    o->has_read_only = true;
    o->read_only = read_only;
    o->u.qcow2.file = ref(file);
    o->u.qcow2.backing = ref_or_null(backing);
    return o;
}

static BlockdevOptions *leaf_options(const char *name, bool read_only)
{
    BlockdevOptions *o = BlockdevOptions_new0();

    o->driver = BLOCKDEV_DRIVER_NULL_CO;
    o->node_name = g_strdup(name);
    o->has_read_only = true;
    o->read_only = read_only;
    return o;
}

/* A node as if opened with O (taken). */
static struct node *new_node(const struct driver *drv, BlockdevOptions *o)
{
    struct node *n = node_new_filter(drv, o->node_name, false, NULL);
    struct test_state *s = n->state;

    o->cache = BlockdevCacheOptions_new0();
    o->cache->has_direct = o->cache->has_no_flush = true;
    o->has_auto_read_only = o->has_force_share = o->has_discard = true;
    n->options = o;
    n->read_only = o->read_only;
    s->shared = PERM_ALL;
    s->writable = !o->read_only;
    return n;
}

static BlockdevOptionsList *list_of(BlockdevOptions *a, BlockdevOptions *b)
{
    BlockdevOptionsList *list = BlockdevOptionsList_new0();

    qapi_list_append(list, a);
    if (b) {
        qapi_list_append(list, b);
    }
    return list;
}

/* Takes LIST.  DESC NULL: must succeed. */
static void reopen(BlockdevOptionsList *list, const char *desc)
{
    AUTO_ERROR(err);
    bool ok = nodes_reopen(list, &err);

    g_assert_cmpstr(err ? error_text(err) : NULL, ==, desc);
    g_assert(ok == !desc);
    BlockdevOptionsList_free(list);
}

static char *dump_graph(void)
{
    GString *s = g_string_new(NULL);

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        const struct test_state *ts = n->state;
        json_t *o = n->options ? BlockdevOptions_to_json(n->options) : NULL;
        char *text = o ? json_dumps(o, JSON_SORT_KEYS) : NULL;

        g_string_append_printf(s, "%s refs %d perm %x/%x told %x/%x height %d "
                               "ro %d/%d busy %d %s\n", n->name, n->n_refs,
                               n->perm, n->shared, ts->perm, ts->shared,
                               n->height, n->read_only, ts->writable,
                               n->n_busy, text ? text : "");
        for (struct child *c = n->children; c; c = c->next_sibling) {
            g_string_append_printf(s, "  %s->%s %x/%x\n", c->name,
                                   c->node->name, c->perm, c->shared);
        }
        free(text);
        json_decref(o);
    }
    return g_string_free(s, FALSE);
}

/* ---- the random test ---------------------------------------------------- */

enum { N_LEAVES = 4, N_FORMATS = 6, N_NODES = N_LEAVES + N_FORMATS,
       N_ROOTS = 4, N_STEPS = 4000 };

static struct node *nodes[N_NODES];
static struct root *roots[N_ROOTS];

static const char *any_name(int from)
{
    return nodes[g_test_rand_int_range(from, N_NODES)]->name;
}

static void make_graph(void)
{
    for (int i = 0; i < N_NODES; i++) {
        g_autofree char *name = g_strdup_printf("n%d", i);
        g_autofree char *file = g_strdup_printf("n%d", i % N_LEAVES);

        if (i < N_LEAVES) {
            nodes[i] = new_node(&leaf_driver, leaf_options(name, false));
            continue;
        }
        nodes[i] = new_node(&format_driver,
                            format_options(name, file, NULL, true));
        g_assert_nonnull(node_attach_child(nodes[i], node_find(file), "file",
                                           ROLE_IMAGE, NULL));
    }
}

static BlockdevOptions *random_options(void)
{
    int i = g_test_rand_int_range(0, N_NODES);
    bool read_only = g_test_rand_int_range(0, 3) > 0;

    if (i < N_LEAVES) {
        return leaf_options(nodes[i]->name, read_only);
    }
    return format_options(nodes[i]->name,
                          nodes[g_test_rand_int_range(0, N_LEAVES)]->name,
                          g_test_rand_int_range(0, 2) ? any_name(N_LEAVES)
                                                      : NULL, read_only);
}

static void change_root(void)
{
    struct root **r = &roots[g_test_rand_int_range(0, N_ROOTS)];
    struct root_options o = {
        .perm = PERM_CONSISTENT_READ |
                (g_test_rand_int_range(0, 2) ? PERM_WRITE : 0),
        .shared = PERM_ALL,
    };

    fail_after = -1;
    if (*r) {
        root_free(r);
    } else {
        *r = root_new(nodes[g_test_rand_int_range(N_LEAVES, N_NODES)], &o,
                      NULL);
    }
}

static const char *child_name(const struct node *n, const char *name)
{
    for (struct child *c = n->children; c; c = c->next_sibling) {
        if (strcmp(c->name, name) == 0) {
            return c->node->name;
        }
    }
    return NULL;
}

/* The last word on a node counts. */
static void check_done(const BlockdevOptionsList *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const BlockdevOptions *o = list->v[i];
        const struct node *n = node_find(o->node_name);
        const struct test_state *s = n->state;

        if (i == 0 && list->n > 1 &&
            strcmp(o->node_name, list->v[1]->node_name) == 0) {
            continue;
        }
        g_assert(n->read_only == o->read_only);
        g_assert(s->writable == !o->read_only);
        g_assert(n->options->read_only == o->read_only);
        if (o->driver == BLOCKDEV_DRIVER_QCOW2) {
            const BlockdevRefOrNull *b = o->u.qcow2.backing;

            g_assert_cmpstr(child_name(n, "file"), ==,
                            o->u.qcow2.file->u.reference);
            g_assert_cmpstr(child_name(n, "backing"), ==,
                            b->type == QAPI_TYPE_STRING ? b->u.reference
                                                        : NULL);
        }
    }
}

static void drop_graph(void)
{
    fail_after = -1;
    for (int i = 0; i < N_ROOTS; i++) {
        root_free(&roots[i]);
    }
    for (int i = 0; i < N_NODES; i++) {
        node_unref(nodes[i]);
    }
    node_wait_closed();
    g_assert_null(node_next(NULL));
}

static void test_random(void)
{
    int n_done = 0, n_refused = 0, n_injected = 0;

    CONTROL_GUARD();
    make_graph();
    for (int i = 0; i < N_STEPS; i++) {
        BlockdevOptionsList *list = list_of(random_options(),
                                            g_test_rand_int_range(0, 2)
                                            ? random_options() : NULL);
        g_autofree char *before = dump_graph();
        g_autofree char *after = NULL;
        AUTO_ERROR(err);

        fail_after = g_test_rand_int_range(0, 2)
                     ? g_test_rand_int_range(0, 10) : -1;
        if (nodes_reopen(list, &err)) {
            check_done(list);
            n_done++;
        } else {
            after = dump_graph();
            g_assert_cmpstr(before, ==, after);
            n_refused++;
            n_injected += strcmp(error_text(err), "injected") == 0;
        }
        g_assert_cmpint(n_prepared, ==, 0);
        g_assert_cmpint(n_active, ==, 0);
        BlockdevOptionsList_free(list);
        if (i % 3 == 0) {
            change_root();
        }
    }
    g_test_message("%d done, %d refused, %d of them injected", n_done,
                   n_refused, n_injected);
    g_assert_cmpint(n_done, >, N_STEPS / 20);
    g_assert_cmpint(n_injected, >, N_STEPS / 20);
    drop_graph();
}

/* ---- what refuses to be changed ----------------------------------------- */

static struct node *chain[3];

static void make_chain(void)
{
    const char *const names[] = { "leaf", "base", "top" };

    chain[0] = new_node(&leaf_driver, leaf_options(names[0], false));
    for (int i = 1; i < 3; i++) {
        chain[i] = new_node(&format_driver,
                            format_options(names[i], "leaf", NULL, true));
        node_attach_child(chain[i], chain[0], "file", ROLE_IMAGE, NULL);
    }
    node_attach_child(chain[2], chain[1], "backing", ROLE_COW, NULL);
}

static void drop_chain(void)
{
    for (int i = 2; i >= 0; i--) {
        node_unref(chain[i]);
    }
    node_wait_closed();
}

static BlockdevOptionsList *top_on(const char *backing)
{
    return list_of(format_options("top", "leaf", backing, true), NULL);
}

static void test_frozen(void)
{
    AUTO_ERROR(err);

    CONTROL_GUARD();
    make_chain();
    g_assert_true(node_freeze_chain(chain[2], chain[1], NULL));
    reopen(top_on("base"), NULL);
    reopen(top_on(NULL),
           "Cannot change frozen 'backing' link from 'top' to 'base'");
    g_assert_false(node_freeze_chain(chain[2], NULL, &err));
    g_assert_cmpstr(error_text(err), ==, "Cannot change 'backing' link from "
                    "'top' to 'base'");
    node_unfreeze_chain(chain[2], chain[1]);
    reopen(top_on(NULL), NULL);
    g_assert_null(node_backing(chain[2]));
    drop_chain();
}

static void test_implicit_filter(void)
{
    struct node *filter;

    CONTROL_GUARD();
    make_chain();
    filter = node_new_filter(&filter_driver, NULL, true, NULL);
    g_assert_true(node_insert_filter(filter, chain[1], NULL));
    reopen(top_on("base"), NULL);
    g_assert(node_backing(chain[2]) == filter);
    reopen(top_on(NULL), "Cannot replace implicit backing child of top");
    reopen(top_on("leaf"), "Cannot replace implicit backing child of top");
    node_remove_filter(filter);
    reopen(top_on("leaf"), NULL);
    g_assert(node_backing(chain[2]) == chain[0]);
    node_unref(filter);
    drop_chain();
}

/* Of a job's filter there are no options, so it has none to change. */
static void test_job_filter(void)
{
    struct node *filter;

    CONTROL_GUARD();
    make_chain();
    filter = node_new_filter(&leaf_driver, "flt", false, NULL);
    reopen(list_of(leaf_options("flt", false), NULL), "Block format 'null-co' "
           "used by node 'flt' does not support reopening files");
    node_unref(filter);
    drop_chain();
}

/* ---- read-only alone ---------------------------------------------------- */

static void test_set_read_only(void)
{
    struct root_options o = { .perm = PERM_WRITE, .shared = PERM_ALL };
    g_autofree char *path = NULL, *opened = NULL;
    g_autoptr(BlockdevOptions) options = BlockdevOptions_new0();
    int fd = g_file_open_tmp("test-reopen-XXXXXX", &path, NULL);
    struct node *n, *file;
    struct root *r;
    AUTO_ERROR(err);

    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    close(fd);
    options->driver = BLOCKDEV_DRIVER_RAW;
    options->node_name = g_strdup("n");
    options->has_read_only = options->read_only = true;
    options->u.raw.file = BlockdevRef_new0();
    options->u.raw.file->type = QAPI_TYPE_OBJECT;
    options->u.raw.file->u.definition = BlockdevOptions_new0();
    options->u.raw.file->u.definition->driver = BLOCKDEV_DRIVER_FILE;
    options->u.raw.file->u.definition->u.file.filename = g_strdup(path);

    control_lock();
    n = node_open(options, &err);
    g_assert_nonnull(n);
    file = n->file->node;
    g_assert_true(file->read_only);
    g_assert_null(root_new(n, &o, NULL));
    g_assert_true(node_set_read_only(n, false, &err));
    g_assert_false(n->read_only || file->read_only);
    r = root_new(n, &o, &err);
    g_assert_nonnull(r);
    CONTROL_YIELD {
        g_assert_cmpint(root_pwrite(r, 0, 512, memset(g_alloca(512), 7, 512),
                                    0), ==, 0);
    }
    g_assert_false(node_set_read_only(n, true, &err));
    g_assert_cmpstr(error_text(err), ==, "Read-only block node 'n' cannot "
                    "support read-write users");
    g_assert_false(n->read_only || file->read_only);
    root_free(&r);
    g_clear_pointer(&err, error_free);
    g_assert_true(node_set_read_only(n, true, &err));
    g_assert_true(n->read_only && file->read_only);
    node_unref(n);
    node_wait_closed();
    control_unlock();
    g_unlink(path);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/reopen/random", test_random);
    g_test_add_func("/reopen/frozen", test_frozen);
    g_test_add_func("/reopen/implicit-filter", test_implicit_filter);
    g_test_add_func("/reopen/job-filter", test_job_filter);
    g_test_add_func("/reopen/set-read-only", test_set_read_only);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
