/* SPDX-License-Identifier: MIT */
/* Does the machine run?  See runstate.h. */
#include "server/machine/runstate.h"

#include "base/control.h"
#include "base/trace.h"
#include "block/backend.h"
#include "block/inactive.h"
#include "qapi/qapi-events.h"

static RunState state = RUN_STATE_RUNNING;

RunState runstate_get(void)
{
    control_assert();
    return state;
}

bool runstate_is_running(void)
{
    return runstate_get() == RUN_STATE_RUNNING;
}

static void runstate_set(RunState to)
{
    control_assert();
    trace(SERVER, "runstate from=%s to=%s", RunState_str(state),
          RunState_str(to));
    state = to;
    inactive_set_running(to == RUN_STATE_RUNNING);
    control_notify();
}

/* A disk's guest cannot go on (werror=stop). */
static void stop_for_error(void)
{
    machine_stop(RUN_STATE_IO_ERROR);
}

void runstate_init(RunState to)
{
    backend_set_stop_hook(stop_for_error);
    runstate_set(to);
}

void machine_stop(RunState why)
{
    if (runstate_is_running()) {
        runstate_set(why);
        qapi_event_send_stop();
    }
}

bool machine_cont(struct error **errp)
{
    switch (runstate_get()) {
    case RUN_STATE_RUNNING:
    case RUN_STATE_SUSPENDED:
        return true;
    case RUN_STATE_SHUTDOWN:
    case RUN_STATE_INTERNAL_ERROR:
    case RUN_STATE_GUEST_PANICKED:
        error_set(errp, "Resetting the Virtual Machine is required");
        return false;
    case RUN_STATE_FINISH_MIGRATE:
        error_set(errp, "Migration is not finalized yet");
        return false;
    default:
        if (!nodes_activate_all(errp)) {
            return false;
        }
        if (runstate_is_running() ||        /* another cont, meanwhile */
            runstate_get() == RUN_STATE_INMIGRATE) {    /* has not come in */
            return true;
        }
        runstate_set(RUN_STATE_RUNNING);
        qapi_event_send_resume();
        backend_resume_all();
        return true;
    }
}
