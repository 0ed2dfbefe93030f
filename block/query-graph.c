/* SPDX-License-Identifier: MIT */
/*
 * x-debug-query-block-graph: nodes, their users, and permissions.
 *
 * Order and numbers are QEMU's: users first, then nodes from the oldest; a
 * thing is numbered when it is first met, as an end of an edge or by itself;
 * both lists are reversed in the end.
 */
#include "block/graph-priv.h"

#include "base/control.h"
#include "block/backend-priv.h"
#include "qapi/qapi-commands.h"

struct builder {
    GHashTable *numbers;        /* address -> number */
    XDbgBlockGraphNodeList *nodes;
    XDbgBlockGraphEdgeList *edges;
};

static uint64_t number_of(struct builder *b, const void *thing)
{
    void *number = g_hash_table_lookup(b->numbers, thing);

    if (!number) {
        number = GSIZE_TO_POINTER(g_hash_table_size(b->numbers) + 1);
        g_hash_table_insert(b->numbers, (void *)thing, number);
    }
    return GPOINTER_TO_SIZE(number);
}

static void add_node(struct builder *b, const void *thing,
                     XDbgBlockGraphNodeType type, const char *name)
{
    XDbgBlockGraphNode *n = XDbgBlockGraphNode_new0();

    n->id = number_of(b, thing);
    n->type = type;
    n->name = g_strdup(name);
    qapi_list_append(b->nodes, n);
}

static BlockPermissionList *permissions(unsigned perm)
{
    static const BlockPermission names[N_PERMS] = {
        BLOCK_PERMISSION_CONSISTENT_READ, BLOCK_PERMISSION_WRITE,
        BLOCK_PERMISSION_WRITE_UNCHANGED, BLOCK_PERMISSION_RESIZE,
    };
    BlockPermissionList *list = BlockPermissionList_new0();

    for (int i = N_PERMS - 1; i >= 0; i--) {
        if (perm & (1u << i)) {
            qapi_list_append(list, names[i]);
        }
    }
    return list;
}

static void add_edge(struct builder *b, const void *parent,
                     const struct child *c)
{
    XDbgBlockGraphEdge *e = XDbgBlockGraphEdge_new0();

    e->parent = number_of(b, parent);
    e->child = number_of(b, c->node);
    e->name = g_strdup(c->name);
    e->perm = permissions(c->perm);
    e->shared_perm = permissions(c->shared);
    qapi_list_append(b->edges, e);
}

/* ---- users -------------------------------------------------------------- */

/* A root, or a backend: that may have none. */
struct user {
    const struct root *root;
    const struct backend *backend;
    uint64_t serial;
};

static gint newer_user(gconstpointer a, gconstpointer b)
{
    const struct user *ua = a, *ub = b;

    return ua->serial > ub->serial ? -1 : 1;
}

static GArray *all_users(void)
{
    GArray *users = g_array_new(false, false, sizeof(struct user));

    for (struct node *n = node_next(NULL); n; n = node_next(n)) {
        for (struct child *c = n->parents; c; c = c->next_parent) {
            struct user u = { .root = c->root };

            if (c->root && !backend_of_root(c->root)) {
                u.serial = c->root->serial;
                g_array_append_val(users, u);
            }
        }
    }
    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        struct user u = {
            .root = backend_root(b), .backend = b, .serial = b->serial,
        };

        g_array_append_val(users, u);
    }
    g_array_sort(users, newer_user);
    return users;
}

static void add_backend(struct builder *b, const struct user *u)
{
    const void *thing = u->backend ? (const void *)u->backend : u->root;

    add_node(b, thing, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_BACKEND,
             u->backend ? backend_shown_name(u->backend) : "");
    if (u->root) {
        add_edge(b, thing, &u->root->link);
    }
}

/* A job is one entry, whatever number of roots it has. */
static void add_job_root(struct builder *b, const struct root *r)
{
    if (!g_hash_table_contains(b->numbers, r->opaque)) {
        add_node(b, r->opaque, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_JOB,
                 r->ops->job_id(r->opaque));
    }
    add_edge(b, r->opaque, &r->link);
}

static void add_users(struct builder *b)
{
    g_autoptr(GArray) users = all_users();

    for (guint i = users->len; i-- > 0;) {
        const struct user *u = &g_array_index(users, struct user, i);

        if (!u->root || !u->root->ops || !u->root->ops->job_id) {
            add_backend(b, u);
        }
    }
    for (guint i = 0; i < users->len; i++) {
        const struct root *r = g_array_index(users, struct user, i).root;

        if (r && r->ops && r->ops->job_id) {
            add_job_root(b, r);
        }
    }
}

/* ---- nodes -------------------------------------------------------------- */

static void add_nodes(struct builder *b)
{
    struct node *oldest = node_next(NULL);

    while (oldest && oldest->older) {
        oldest = oldest->older;
    }
    for (struct node *n = oldest; n; n = n->newer) {
        const struct child *c = n->children;

        add_node(b, n, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_DRIVER,
                 node_name(n));
        while (c && c->next_sibling) {
            c = c->next_sibling;
        }
        for (; c; c = c->prev_sibling) {
            add_edge(b, n, c);
        }
    }
}

#define REVERSE(list) \
    for (size_t i_ = 0; i_ < (list)->n / 2; i_++) { \
        __typeof__((list)->v[0]) *a_ = &(list)->v[i_]; \
        __typeof__((list)->v[0]) *z_ = &(list)->v[(list)->n - 1 - i_]; \
        __typeof__((list)->v[0]) t_ = *a_; \
        *a_ = *z_; \
        *z_ = t_; \
    }

XDbgBlockGraph *qmp_x_debug_query_block_graph(struct error **errp)
{
    XDbgBlockGraph *graph = XDbgBlockGraph_new0();
    struct builder b = {
        .numbers = g_hash_table_new(NULL, NULL),
        .nodes = XDbgBlockGraphNodeList_new0(),
        .edges = XDbgBlockGraphEdgeList_new0(),
    };

    control_assert();
    add_users(&b);
    add_nodes(&b);
    REVERSE(b.nodes);
    REVERSE(b.edges);
    graph->nodes = b.nodes;
    graph->edges = b.edges;
    g_hash_table_destroy(b.numbers);
    return graph;
}
