/* SPDX-License-Identifier: MIT */
/*
 * Layers on their way out of a chain: giving up what is below as well, and the
 * mark of those that a commit has invalidated.
 */
#include <errno.h>
#include <time.h>
#include "base/control.h"
#include "base/trace.h"
#include "block/graph-priv.h"
#include "block/io-priv.h"

int node_deallocate(struct node *n, int64_t offset, int64_t bytes)
{
    int ret = io_check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (!n->driver->deallocate) {
        return -ENOTSUP;
    }
    ret = n->driver->deallocate(n, offset, bytes);
    atomic_fetch_add(&n->write_generation, 1);
    return ret;
}

void invalidated_free(struct invalidated *why)
{
    if (why) {
        g_free(why->job_id);
        g_free(why);
    }
}

/* ---- the mark ----------------------------------------------------------- */

/* Owned. */
static char *time_text(int64_t seconds)
{
    g_autoptr(GDateTime) t = g_date_time_new_from_unix_utc(seconds);

    return t ? g_date_time_format(t, "%Y-%m-%d %H:%M:%S UTC")
             : g_strdup("an unknown time");
}

void node_refuse_invalidated(const struct node *n, struct error **errp)
{
    g_autofree char *when = time_text(n->invalidated->seconds);

    error_set(errp, "Image '%s' was invalidated by commit job '%s' at %s: "
              "what is below it has changed, and only an overlay of it still "
              "reads right (allow-invalidated opens it all the same)",
              n->filename, n->invalidated->job_id, when);
}

bool node_check_invalidated(struct node *n, struct error **errp)
{
    control_assert();
    n = node_skip_filters(n);
    if (!n || !n->invalidated || n->invalidated_allowed) {
        return true;
    }
    node_refuse_invalidated(n, errp);
    return false;
}

/* WHY is taken; NULL: no mark. */
static bool change_mark(struct node *n, struct invalidated *why,
                        struct error **errp)
{
    AUTO_ERROR(err);
    int ret = 0;

    control_assert();
    node_work_begin(n);
    CONTROL_YIELD {
        ret = n->driver->mark_invalidated(n, why, &err);
    }
    node_work_end(n);
    if (ret < 0) {
        invalidated_free(why);
        error_prepend(&err, "Could not change the mark of node '%s' as "
                      "invalidated: ", n->name);
        error_propagate(errp, g_steal_pointer(&err));
        return false;
    }
    invalidated_free(n->invalidated);
    n->invalidated = why;
    trace(GRAPH, "invalidated node-name=%s job=%s", n->name,
          why ? why->job_id : "-");
    return true;
}

bool node_mark_invalidated(struct node *n, const char *job_id,
                           struct error **errp)
{
    struct invalidated *why;

    if (!n->driver->mark_invalidated) {
        error_set(errp, "Block format '%s' used by node '%s' has no place for "
                  "the mark of an invalidated layer", n->driver->name,
                  n->name);
        return false;
    }
    why = g_new0(struct invalidated, 1);
    why->job_id = g_strdup(job_id ? job_id : "");
    why->seconds = time(NULL);
    return change_mark(n, why, errp);
}

bool node_unmark_invalidated(struct node *n, struct error **errp)
{
    return !n->invalidated || change_mark(n, NULL, errp);
}
