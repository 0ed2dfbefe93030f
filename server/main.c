/* SPDX-License-Identifier: MIT */
/*
 * blockjobd: start, loop, end.
 *
 * Start-up runs in the main thread before the loop does, with the control
 * lock held; it may wait there, as no client is served yet.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "server/chardev.h"
#include "server/cmdline/handlers.h"
#include "server/cmdline/more.h"
#include "server/cmdline/probes.h"
#include "server/cmdline/setup.h"
#include "server/daemonize.h"
#include "server/events.h"
#include "server/fdset.h"
#include "server/loop.h"
#include "server/monitor.h"
#include "server/qtest.h"
#include "server/shutdown.h"
#include "server/version.h"

/* The first line is in the words of whom we stand for: programs look for a
 * number there. */
static void print_version(const char *program)
{
    static const char *const names[] = {
        [PERSONA_SYSTEM] = "QEMU emulator",
        [PERSONA_STORAGE_DAEMON] = "qemu-storage-daemon",
    };
    enum persona persona = persona_of_program(program);

    if (persona != PERSONA_BLOCKJOBD) {
        printf("%s version %d.%d.%d (%s)\n", names[persona], VERSION_MAJOR,
               VERSION_MINOR, VERSION_MICRO, version_package());
    }
    printf("blockjobd version %s\n", BLOCKJOBD_VERSION);
}

/* Modules of ours; QEMU's own events are unknown here, which is no reason
 * not to start in its place. */
static bool enable_trace(const struct option *o, const char *program)
{
    const char *bad;

    if (trace_enable(o->text, &bad)) {
        return true;
    }
    if (persona_of_program(program) != PERSONA_BLOCKJOBD) {
        error_report_text("%s: warning: trace event '%s' does not exist",
                          o->location, bad);
        return true;
    }
    error_report_text("--trace %s: unknown module '%s'", o->text, bad);
    return false;
}

/* Options that count before all others.  Exits for questions and mistakes. */
static void first_options(const GArray *options, const char *program)
{
    const struct option *trace_option = options_last(options, OPTION_TRACE);
    enum probe probe;
    AUTO_ERROR(err);

    if (options_last(options, OPTION_HELP)) {
        options_print_help(stdout, program);
        exit(EXIT_SUCCESS);
    }
    if (options_last(options, OPTION_VERSION)) {
        print_version(program);
        exit(EXIT_SUCCESS);
    }
    probe = probe_options(options);
    if (probe != PROBE_NONE) {
        exit(probe == PROBE_ANSWERED ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    if (trace_option && !enable_trace(trace_option, program)) {
        exit(EXIT_FAILURE);
    }
    if (options_last(options, OPTION_DAEMONIZE) && !daemon_fork(&err)) {
        error_report(err);
        exit(EXIT_FAILURE);
    }
}

static bool start(const GArray *options)
{
    const struct option *pidfile = options_last(options, OPTION_PIDFILE);
    AUTO_ERROR(err);

    CONTROL_GUARD();
    if (!setup_options(options)) {
        return false;
    }
    if (pidfile && !pidfile_write(pidfile->text, &err)) {
        error_report(err);
        return false;
    }
    if (!drop_privileges(&err)) {
        error_report(err);
        return false;
    }
    return true;
}

/* The usual soft limit of 1024 is for programs that use select(); long chains
 * and many clients need more. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);   /* or go on with what there is */
    }
}

/* Undo what a start-up that failed had done. */
static void stop_early(void)
{
    CONTROL_GUARD();
    shutdown_block_layer();
}

static void run(void)
{
    shutdown_init_signals();
    daemon_ready();
    control_lock();
    chardev_start_all();
    control_unlock();
    loop_run();
}

int main(int argc, char **argv)
{
    g_autoptr(GArray) options = options_new();
    enum persona persona;
    g_autofree char *program = g_path_get_basename(argv[0]);
    bool ok;
    AUTO_ERROR(err);

    error_set_program(argv[0]);
    g_set_prgname(program);
    if (!options_parse(argc, argv, options, &persona, &err) ||
        !options_expand(options, &err)) {
        error_report(err);
        return EXIT_FAILURE;
    }
    persona_set(persona);
    first_options(options, program);
    raise_file_limit();
    loop_init();
    events_init();
    fdset_init();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);       /* a full file is -EFBIG, not death */
    ok = start(options);
    if (ok) {
        run();
    } else {
        stop_early();
    }
    control_lock();
    qtest_close_all();
    control_unlock();
    chardev_close_all();
    pidfile_remove();
    pool_shutdown();
    fdset_deinit();
    monitor_free_all();
    events_deinit();
    shutdown_deinit_signals();
    loop_deinit();
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
