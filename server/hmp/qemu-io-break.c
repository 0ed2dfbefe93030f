/* SPDX-License-Identifier: MIT */
/* qemu-io: breakpoints (block/debug.h). */
#include "server/hmp/qemu-io-priv.h"

#include <errno.h>
#include <string.h>
#include "base/clock.h"
#include "block/debug.h"
#include "server/shutdown.h"

/* A test that steps the clock reads our stdout; QEMU is silent then. */
static bool is_under_test(void)
{
    return clock_virtual_deadline(clock_virtual_ns() + 1) == INT64_MAX;
}

static void say_request(GString *out, const char *what, const char *tag)
{
    if (!is_under_test()) {
        g_string_append_printf(out, "blkdebug: %s request '%s'\n", what, tag);
    }
}

/* In the thread of a request; no lock. */
static void suspended(const char *tag)
{
    GString *out = g_string_new(NULL);

    io_aio_stopped();
    say_request(out, "Suspended", tag);
    io_flush_out(out);
    g_string_free(out, TRUE);
}

/* N requests called TAG are about to go on: told before they have ended. */
static void tell_resuming(struct qemu_io *io, const char *tag, unsigned n)
{
    for (; n > 0; n--) {
        say_request(io->out, "Resuming", tag);
    }
    CONTROL_YIELD {
        io_flush_out(io->out);
    }
}

static bool find_event(const char *name, BlkdebugEvent *event)
{
    for (int i = 0; i < BLKDEBUG_EVENT__MAX; i++) {
        if (strcmp(name, BlkdebugEvent_str(i)) == 0) {
            *event = i;
            return true;
        }
    }
    return false;
}

/* Is there a blkdebug that could do it? */
static int check(struct qemu_io *io)
{
    struct node *n = target_node(io->target);

    return n && node_debug_reaches(n) ? 0 : -ENOTSUP;
}

void io_break(struct qemu_io *io)
{
    BlkdebugEvent event = 0;
    int ret = check(io);

    if (ret == 0 && !find_event(io->argv[1], &event)) {
        ret = -ENOENT;
    }
    if (ret < 0) {
        io_say(io, "Could not set a breakpoint: %s\n",
               error_errno_text(-ret));
        return;
    }
    node_debug_set_hook(suspended);
    node_debug_breakpoint(target_node(io->target), event, io->argv[2]);
}

void io_remove_break(struct qemu_io *io)
{
    const char *tag = io->argv[1];
    int ret = check(io);

    if (ret == 0) {
        tell_resuming(io, tag, node_debug_count_suspended(
                                   target_node(io->target), tag));
        ret = check(io);
    }
    if (ret == 0 &&
        !node_debug_remove_breakpoint(target_node(io->target), tag)) {
        ret = -ENOENT;
    }
    if (ret < 0) {
        io_say(io, "Could not remove breakpoint %s: %s\n", tag,
               error_errno_text(-ret));
    }
}

void io_resume(struct qemu_io *io)
{
    const char *tag = io->argv[1];
    int ret = check(io);

    if (ret == 0 && node_debug_is_suspended(target_node(io->target), tag)) {
        tell_resuming(io, tag, 1);
        ret = check(io);
    }
    if (ret == 0 && !node_debug_resume(target_node(io->target), tag)) {
        ret = -ENOENT;
    }
    if (ret < 0) {
        io_say(io, "Could not resume request: %s\n", error_errno_text(-ret));
    }
}

void io_wait_break(struct qemu_io *io)
{
    int ret = check(io);

    /* The medium may go meanwhile, and the server may end. */
    while (ret == 0 && !shutdown_has_begun() &&
           !node_debug_is_suspended(target_node(io->target), io->argv[1])) {
        control_wait();
        ret = check(io);
    }
    if (ret < 0) {
        io_say(io, "Could not wait for breakpoint %s: %s\n", io->argv[1],
               error_errno_text(-ret));
    }
}
