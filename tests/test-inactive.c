/* SPDX-License-Identifier: MIT */
/*
 * Inactive nodes: the invariants of block/inactive.h after random activations
 * and inactivations of a random graph, whose drivers and permissions refuse
 * at random; after a refused one nothing has changed.
 */
#include <errno.h>
#include "base/control.h"
#include "base/error.h"
#include "base/pool.h"
#include "block/graph-priv.h"
#include "block/inactive.h"

enum { N_NODES = 8, N_ROOTS = 6, N_STEPS = 300, N_GRAPHS = 40 };

/* ---- drivers ------------------------------------------------------------ */

struct test_state {
    bool given_up;              /* by the hooks' word */
};

static int refuse_after = -1;   /* calls until one refuses; -1: none */

static bool refuses(struct error **errp)
{
    if (refuse_after >= 0 && refuse_after-- == 0) {
        error_set(errp, "injected");
        return true;
    }
    return false;
}

static bool has_given_up(const struct node *n)
{
    return ((struct test_state *)n->state)->given_up;
}

/* Parents before children; the links are constant. */
static bool test_inactivate(struct node *n, struct error **errp)
{
    struct test_state *s = n->state;

    g_assert_false(s->given_up);
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        g_assert_true(!c->parent || has_given_up(c->parent));
    }
    if (refuses(errp)) {
        return false;
    }
    s->given_up = true;
    return true;
}

/* As a leaf that is only read again, it may be active already. */
static bool test_activate(struct node *n, struct error **errp)
{
    struct test_state *s = n->state;

    g_assert_false(n->inactive);
    if (refuses(errp)) {
        return false;
    }
    s->given_up = false;
    return true;
}

static bool test_check_perm(struct node *n, unsigned perm, unsigned shared,
                            struct error **errp)
{
    return !(perm & PERM_WRITE) || !refuses(errp);  /* to give up is fine */
}

static void test_set_perm(struct node *n, unsigned perm, unsigned shared)
{
}

#define HOOKS \
    .state_size = sizeof(struct test_state), .type = -1, \
    .check_perm = test_check_perm, .set_perm = test_set_perm, \
    .inactivate = test_inactivate, .activate = test_activate

static const struct driver drivers[] = {
    { .name = "leaf", .is_protocol = true, HOOKS },
    { .name = "format", .is_format = true, .supports_backing = true, HOOKS },
    { .name = "filter", .is_filter = true, HOOKS },
};

/* ---- roots -------------------------------------------------------------- */

struct owner {
    bool agrees;                /* to be on an inactive node */
};

static bool owner_agrees(void *opaque)
{
    return ((struct owner *)opaque)->agrees;
}

static const struct root_ops owner_ops = { .may_be_inactive = owner_agrees };

/* ---- the graph ---------------------------------------------------------- */

struct world {
    struct node *nodes[N_NODES];
    struct root *roots[N_ROOTS];
    struct owner owners[N_ROOTS];
};

static void make_nodes(struct world *w)
{
    for (int i = 0; i < N_NODES; i++) {
        int kind = i < 2 ? 0 : g_test_rand_int_range(1, 3);

        w->nodes[i] = node_new_filter(&drivers[kind], NULL, false, NULL);
        if (kind) {
            /* Data alone, which all share: permissions never conflict. */
            int below = g_test_rand_int_range(0, i);
            unsigned role = kind == 2 ? ROLE_FILTERED | ROLE_PRIMARY
                                      : ROLE_DATA | ROLE_PRIMARY;

            g_assert_nonnull(node_attach_child(w->nodes[i], w->nodes[below],
                                               "file", role, NULL));
        }
    }
}

static void make_world(struct world *w)
{
    make_nodes(w);
    for (int i = 0; i < N_ROOTS; i++) {
        struct root_options o = {
            .ops = &owner_ops, .opaque = &w->owners[i], .shared = PERM_ALL,
            .perm = PERM_CONSISTENT_READ |
                    (g_test_rand_int_range(0, 3) ? PERM_WRITE : 0),
        };

        w->owners[i].agrees = true;
        w->roots[i] = root_new(w->nodes[g_test_rand_int_range(0, N_NODES)],
                               &o, NULL);
        g_assert_nonnull(w->roots[i]);
    }
}

static void free_world(struct world *w)
{
    for (int i = 0; i < N_ROOTS; i++) {
        root_free(&w->roots[i]);
    }
    for (int i = N_NODES; i-- > 0;) {
        node_unref(w->nodes[i]);
    }
    node_wait_closed();
}

/* ---- checks ------------------------------------------------------------- */

static void check_node(const struct node *n)
{
    g_assert_cmpint(has_given_up(n), ==, n->inactive);
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        g_assert_true(n->inactive || !c->node->inactive);       /* I1 */
        if (n->inactive) {                                      /* I2 */
            g_assert_cmpuint(c->perm & ~PERM_CONSISTENT_READ, ==, 0);
            g_assert_cmpuint(c->shared, ==, PERM_ALL);
        }
    }
    g_assert_cmpuint(n->inactive ? n->perm & ~PERM_CONSISTENT_READ : 0, ==, 0);
}

static void check_world(const struct world *w)
{
    char byte = 0;

    for (int i = 0; i < N_NODES; i++) {
        check_node(w->nodes[i]);
    }
    for (int i = 0; i < N_ROOTS; i++) {                         /* I3 */
        const struct root *r = w->roots[i];
        bool inactive = r->link.node->inactive;

        g_assert_true(!inactive || w->owners[i].agrees);
        g_assert_cmpuint(r->link.perm, ==, inactive ? 0 : r->perm);
        if (inactive) {
            g_assert_cmpint(root_pwrite(w->roots[i], 0, 0, &byte, 0), ==,
                            r->perm & PERM_WRITE ? 0 : -EPERM);
        }
    }
}

/* All that a refused command must leave alone; owned. */
static char *dump(const struct world *w)
{
    GString *text = g_string_new(NULL);

    for (int i = 0; i < N_NODES; i++) {
        const struct node *n = w->nodes[i];

        g_string_append_printf(text, "%d %x %x:", n->inactive, n->perm,
                               n->shared);
        for (const struct child *c = n->parents; c; c = c->next_parent) {
            g_string_append_printf(text, " %p %x %x", c, c->perm, c->shared);
        }
        g_string_append(text, "\n");
    }
    return g_string_free(text, FALSE);
}

/* What the command must have come to where it says that it succeeded. */
static void check_done(const struct world *w, struct node *n, bool activate)
{
    for (int i = 0; i < N_NODES; i++) {
        if (!n || w->nodes[i] == n) {
            g_assert_cmpint(w->nodes[i]->inactive, ==, !activate);
        } else if (activate && node_reaches(n, w->nodes[i])) {
            g_assert_false(w->nodes[i]->inactive);
        }
    }
}

static void step(struct world *w)
{
    struct node *n = g_test_rand_int_range(0, 3)
                     ? w->nodes[g_test_rand_int_range(0, N_NODES)] : NULL;
    bool activate = g_test_rand_bit(), ok;
    g_autofree char *before = dump(w), *after = NULL;
    AUTO_ERROR(err);

    for (int i = 0; i < N_ROOTS; i++) {
        if (!w->roots[i]->link.node->inactive) {
            w->owners[i].agrees = g_test_rand_int_range(0, 8) != 0;
        }
    }
    refuse_after = g_test_rand_int_range(0, 3) ? -1
                   : g_test_rand_int_range(0, 6);
    ok = n ? (activate ? node_activate : node_inactivate)(n, &err)
           : (activate ? nodes_activate_all : nodes_inactivate_all)(&err);
    refuse_after = -1;
    g_assert_cmpint(ok, ==, !err);
    check_world(w);
    if (ok) {
        check_done(w, n, activate);
    } else {
        after = dump(w);
        g_assert_cmpstr(after, ==, before);     /* I5 */
    }
}

static void test_random(void)
{
    CONTROL_GUARD();
    for (int i = 0; i < N_GRAPHS; i++) {
        struct world w;

        make_world(&w);
        for (int k = 0; k < N_STEPS; k++) {
            step(&w);
        }
        free_world(&w);
    }
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/inactive/random", test_random);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
