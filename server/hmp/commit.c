/* SPDX-License-Identifier: MIT */
/* HMP's commit. */
#include "server/hmp/command.h"

#include <errno.h>
#include <string.h>
#include "block/backend.h"
#include "blockjobs/commit-now.h"

/* QEMU shows an errno; what it is about stands before that. */
static void say(struct hmp *m, const char *device, const struct error *err)
{
    int error = error_get_errno(err) ? error_get_errno(err) : EACCES;

    if (error == EPERM || error == EACCES) {
        hmp_printf(m, "%s\n", error_text(err));
    }
    hmp_printf(m, "'commit' error for '%s': %s\n", device,
               error_errno_text(error));
}

/* Names, since a commit yields; every device that can be committed. */
static GPtrArray *all_devices(void)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        struct node *n = backend_node(b);

        if (*backend_name(b) && n &&
            node_backing(node_skip_implicit_filters(n))) {
            g_ptr_array_add(names, g_strdup(backend_name(b)));
        }
    }
    return names;
}

static bool commit(const char *device, struct error **errp)
{
    struct backend *b = backend_find(device);
    struct node *n = b ? backend_node(b) : NULL;

    return !n || commit_now(node_skip_implicit_filters(n), errp);
}

static void commit_all(struct hmp *m)
{
    g_autoptr(GPtrArray) names = all_devices();

    for (guint i = 0; i < names->len; i++) {
        AUTO_ERROR(err);

        if (!commit(names->pdata[i], &err)) {
            say(m, "all", err);
            return;
        }
    }
}

void hmp_commit(struct hmp *m, const struct hmp_args *a)
{
    const char *device = hmp_arg_text(a, "device");
    struct backend *b = backend_find(device);
    AUTO_ERROR(err);

    if (!strcmp(device, "all")) {
        commit_all(m);
    } else if (!b) {
        hmp_printf(m, "Device '%s' not found\n", device);
    } else if (!backend_node(b)) {
        hmp_printf(m, "Device '%s' has no medium\n", device);
    } else if (!commit(device, &err)) {
        say(m, device, err);
    }
}
