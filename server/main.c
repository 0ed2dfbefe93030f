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
#include "server/daemonize.h"
#include "server/events.h"
#include "server/loop.h"
#include "server/monitor.h"
#include "server/options.h"
#include "server/setup.h"
#include "server/shutdown.h"

/* The last one given, or NULL. */
static const struct option *find_option(const GArray *options,
                                        enum option_kind kind)
{
    const struct option *found = NULL;

    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        if (o->kind == kind) {
            found = o;
        }
    }
    return found;
}

/* Options that count before all others.  Exits for --help, --version and
 * mistakes. */
static void first_options(const GArray *options, const char *program)
{
    const struct option *trace_option = find_option(options, OPTION_TRACE);
    const char *bad;
    AUTO_ERROR(err);

    if (find_option(options, OPTION_HELP)) {
        options_print_help(stdout, program);
        exit(EXIT_SUCCESS);
    }
    if (find_option(options, OPTION_VERSION)) {
        printf("blockjobd version %s\n", BLOCKJOBD_VERSION);
        exit(EXIT_SUCCESS);
    }
    if (trace_option && !trace_enable(trace_option->text, &bad)) {
        error_report_text("--trace %s: unknown module '%s'",
                          trace_option->text, bad);
        exit(EXIT_FAILURE);
    }
    if (find_option(options, OPTION_DAEMONIZE) && !daemon_fork(&err)) {
        error_report(err);
        exit(EXIT_FAILURE);
    }
}

static bool start(const GArray *options)
{
    const struct option *pidfile = find_option(options, OPTION_PIDFILE);
    AUTO_ERROR(err);

    CONTROL_GUARD();
    if (!setup_options(options)) {
        return false;
    }
    if (pidfile && !pidfile_write(pidfile->text, &err)) {
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
    g_autoptr(GArray) options = g_array_new(FALSE, FALSE,
                                            sizeof(struct option));
    g_autofree char *program = g_path_get_basename(argv[0]);
    bool ok;
    AUTO_ERROR(err);

    error_set_program(argv[0]);
    g_set_prgname(program);
    if (!options_parse(argc, argv, options, &err)) {
        error_report(err);
        return EXIT_FAILURE;
    }
    first_options(options, program);
    raise_file_limit();
    loop_init();
    events_init();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);       /* a full file is -EFBIG, not death */
    ok = start(options);
    if (ok) {
        run();
    } else {
        stop_early();
    }
    chardev_close_all();
    pidfile_remove();
    pool_shutdown();
    monitor_free_all();
    events_deinit();
    shutdown_deinit_signals();
    loop_deinit();
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
