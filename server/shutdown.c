/* SPDX-License-Identifier: MIT */
/* The end of the server: see shutdown.h. */
#include "server/shutdown.h"

#include <signal.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "block/cancel.h"
#include "block/debug.h"
#include "block/objects/object.h"
#include "block/root.h"
#include "blockjobs/job.h"
#include "nbd/nbd.h"
#include "qapi/qapi-events.h"
#include "server/chardev.h"
#include "server/dispatch.h"
#include "server/hmp/qemu-io.h"
#include "server/hmp/monitor.h"
#include "server/loop.h"
#include "server/machine/device.h"
#include "server/machine/drive.h"
#include "server/persona.h"
#include "server/session.h"

static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
static struct event *signal_events[G_N_ELEMENTS(signals)];
static bool begun;              /* atomic */

bool shutdown_has_begun(void)
{
    return __atomic_load_n(&begun, __ATOMIC_ACQUIRE);
}

/* Give up what blockdev-add made; nodes below go with their parents. */
static void drop_user_nodes(void)
{
    struct node *n;

    do {
        n = node_next(NULL);
        while (n && !n->monitor_owned) {
            n = node_next(n);
        }
        if (n) {
            n->monitor_owned = false;
            node_unref(n);      /* may yield: begin again */
        }
    } while (n);
}

void shutdown_block_layer(void)
{
    cancel_waits();
    node_debug_release_all();
    drain_hurry_all();
    /* A command that runs may wait for a job, or start one. */
    job_cancel_all();
    while (dispatch_n_running() > 0) {
        control_wait();
    }
    qemu_io_finish();
    job_cancel_all();
    nbd_stop_all();
    devices_free();
    drives_free();
    drop_user_nodes();
    node_wait_closed();
    objects_free();
}

static void finish(void *unused)
{
    hmp_monitor_close_all();
    session_close_all();
    loop_stop();
}

static void shutdown_in_worker(void *unused)
{
    CONTROL_GUARD();
    shutdown_block_layer();
    trace(SERVER, "shutdown-done");
    loop_defer(finish, NULL);
}

void shutdown_begin(ShutdownCause cause)
{
    control_assert();
    if (shutdown_has_begun()) {
        return;
    }
    trace(SERVER, "shutdown reason=%s", ShutdownCause_str(cause));
    __atomic_store_n(&begun, true, __ATOMIC_RELEASE);
    chardev_close_all();
    if (persona_has_machine()) {
        qapi_event_send_shutdown(false, cause);
    }
    pool_submit(shutdown_in_worker, NULL);
}

static void signal_received(evutil_socket_t signum, short what, void *arg)
{
    CONTROL_GUARD();
    shutdown_begin(SHUTDOWN_CAUSE_HOST_SIGNAL);
}

void shutdown_init_signals(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        /* What libevent restores when the event goes: until the process is
         * gone a signal must not make its exit code a failure. */
        signal(signals[i], SIG_IGN);
        signal_events[i] = evsignal_new(loop_base(), signals[i],
                                        signal_received, NULL);
        evsignal_add(signal_events[i], NULL);
    }
}

void shutdown_deinit_signals(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        if (signal_events[i]) {
            event_free(signal_events[i]);   /* ignored from here on */
            signal_events[i] = NULL;
        }
    }
}
