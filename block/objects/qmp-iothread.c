/* SPDX-License-Identifier: MIT */
/* QMP: iothreads, and nodes on them. */
#include <unistd.h>
#include "block/driver.h"
#include "block/iothread-claim.h"
#include "block/objects/iothread.h"
#include "qapi/qapi-commands.h"

IOThreadInfoList *qmp_query_iothreads(struct error **errp)
{
    IOThreadInfoList *list = IOThreadInfoList_new0();

    for (struct object *obj = object_next(NULL); obj; obj = object_next(obj)) {
        const struct iothread *t = iothread_find(obj->id);
        IOThreadInfo *info;

        if (!t) {
            continue;
        }
        info = IOThreadInfo_new0();
        info->id = g_strdup(obj->id);
        info->thread_id = getpid();
        info->poll_max_ns = t->poll_max_ns;
        info->poll_grow = t->poll_grow;
        info->poll_shrink = t->poll_shrink;
        info->aio_max_batch = t->aio_max_batch;
        qapi_list_append(list, info);
    }
    return list;
}

static bool has_root(const struct node *n)
{
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->root) {
            return true;
        }
    }
    return false;
}

bool qmp_x_blockdev_set_iothread(const XBlockdevSetIothreadArgs *args,
                                 struct error **errp)
{
    const struct node *n = node_find(args->node_name);
    const char *id = args->iothread->type == QAPI_TYPE_STRING
        ? args->iothread->u.s : NULL;

    if (!n) {
        error_set(errp, "Failed to find node with node-name='%s'",
                  args->node_name);
        return false;
    }
    if (has_root(n) && !args->force) {
        error_set(errp, "Node %s is associated with a BlockBackend and could "
                  "be in use (use force=true to override this check)",
                  args->node_name);
        return false;
    }
    if (id && !iothread_find(id)) {
        error_set(errp, "Cannot find iothread %s", id);
        return false;
    }
    return iothread_claim_check(n, id, NULL, errp);
}
