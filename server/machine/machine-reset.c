/* SPDX-License-Identifier: MIT */
/* What a change of the run state asks of the disks: see runstate.h. */
#include "base/control.h"
#include "block/root.h"
#include "qapi/qapi-events.h"
#include "server/machine/device-priv.h"
#include "server/machine/runstate.h"

/* What a real disk does when it is reset: it has no request afterwards. */
static void drain_devices(void)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    struct drain *drain;

    for (struct device *d = device_next(NULL); d; d = device_next(d)) {
        if (d->backend && backend_node(d->backend)) {
            g_ptr_array_add(nodes, backend_node(d->backend));
        }
    }
    if (nodes->len > 0) {
        drain = drain_begin((struct node *const *)nodes->pdata, nodes->len);
        drain_end(&drain);
    }
}

void machine_flush(void)
{
    g_autoptr(GPtrArray) disks = g_ptr_array_new();

    for (struct backend *b = backend_next(NULL); b; b = backend_next(b)) {
        g_ptr_array_add(disks, backend_ref(b));
    }
    for (guint i = 0; i < disks->len; i++) {
        struct backend *b = disks->pdata[i];

        if (backend_enter(b)) {
            CONTROL_YIELD {
                backend_flush(b);
            }
            backend_leave(b);
        }
        backend_unref(b);
    }
}

void machine_reset(void)
{
    drain_devices();
    if (!runstate_is_running() &&
        runstate_get() != RUN_STATE_INMIGRATE &&
        runstate_get() != RUN_STATE_FINISH_MIGRATE) {
        runstate_init(RUN_STATE_PRELAUNCH);
    }
    qapi_event_send_reset(false, SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET);
}
