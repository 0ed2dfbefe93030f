/* SPDX-License-Identifier: MIT */
/* The virtual clock: see clock.h. */
#include "base/clock.h"

#include "base/control.h"

/* Written under the control lock. */
static _Atomic int64_t stopped_at = -1;     /* < 0: it runs */
static _Atomic int64_t behind_ns;           /* running: behind clock_ns() */
static struct clock_listener *listeners;    /* under the control lock */

int64_t clock_virtual_ns(void)
{
    int64_t at = stopped_at;

    return at >= 0 ? at : clock_ns() - behind_ns;
}

int64_t clock_virtual_deadline(int64_t virtual_ns)
{
    int64_t at = stopped_at;
    int64_t behind = behind_ns;

    if (at >= 0) {
        return virtual_ns <= at ? 0 : INT64_MAX;
    }
    return behind > 0 && virtual_ns > INT64_MAX - behind
           ? INT64_MAX : virtual_ns + behind;
}

static void tell(void)
{
    for (struct clock_listener *l = listeners; l; l = l->next) {
        l->changed(l);
    }
}

void clock_virtual_stop(void)
{
    control_assert();
    if (stopped_at < 0) {
        stopped_at = clock_virtual_ns();
        tell();
    }
}

int64_t clock_virtual_step(int64_t ns)
{
    int64_t at = stopped_at;

    control_assert();
    g_assert(at >= 0 && ns >= 0);
    stopped_at = ns > INT64_MAX - at ? INT64_MAX : at + ns;
    tell();
    return stopped_at;
}

void clock_virtual_run(void)
{
    control_assert();
    if (stopped_at >= 0) {
        behind_ns = clock_ns() - stopped_at;
        stopped_at = -1;
        tell();
    }
}

void clock_virtual_listen(struct clock_listener *l)
{
    control_assert();
    l->next = listeners;
    listeners = l;
}

void clock_virtual_unlisten(struct clock_listener *l)
{
    struct clock_listener **p = &listeners;

    control_assert();
    while (*p != l) {
        p = &(*p)->next;
    }
    *p = l->next;
}

int64_t clock_virtual_next_deadline(int64_t *n_waiting)
{
    int64_t first = INT64_MAX, n = 0;

    control_assert();
    for (struct clock_listener *l = listeners; l; l = l->next) {
        int64_t deadline = l->deadline ? l->deadline(l, &n) : INT64_MAX;

        first = MIN(first, deadline);
    }
    if (n_waiting) {
        *n_waiting = n;
    }
    return first;
}

bool clock_virtual_is_stopped(void)
{
    return stopped_at >= 0;
}
