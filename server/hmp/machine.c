/* SPDX-License-Identifier: MIT */
/* HMP's commands for the machine and the server. */
#include "server/hmp/command.h"

#include <inttypes.h>
#include "qapi/qapi-commands.h"
#include "server/chardev.h"
#include "server/dispatch.h"
#include "server/loop.h"
#include "server/shutdown.h"

/* ---- commands ----------------------------------------------------------- */

/* As QMP's quit, in the loop's thread; its reply is the last one as well. */
static void begin_shutdown(void *unused)
{
    shutdown_begin(SHUTDOWN_CAUSE_HOST_QMP_QUIT);
}

void hmp_quit(struct hmp *m, const struct hmp_args *a)
{
    struct session *s = dispatch_session();

    if (s) {
        s->keep_reply = true;
    }
    m->quit = true;
    loop_defer(begin_shutdown, NULL);
}

void hmp_stop(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    qmp_stop(&err);
    hmp_error(m, err);
}

void hmp_cont(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    qmp_cont(&err);
    hmp_error(m, err);
}

void hmp_system_reset(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    qmp_system_reset(&err);
    hmp_error(m, err);
}

/* It may be the server's end: in the loop's thread. */
static void power_down(void *unused)
{
    qmp_system_powerdown(NULL);
}

void hmp_system_powerdown(struct hmp *m, const struct hmp_args *a)
{
    loop_defer(power_down, NULL);
}

void hmp_system_wakeup(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    qmp_system_wakeup(&err);
    hmp_error(m, err);
}

/* The format is the one of the last time if none is given. */
void hmp_print(struct hmp *m, const struct hmp_args *a)
{
    static char format = 'x';
    int64_t value = hmp_arg_number(a, "value");

    if (hmp_arg_given(a, "format")) {
        format = hmp_arg_number(a, "format");
    }
    switch (format) {
    case 'o':
        hmp_printf(m, "%#" PRIo64 "\n", value);
        break;
    case 'u':
        hmp_printf(m, "%" PRIu64 "\n", value);
        break;
    case 'd':
    case 'i':
        hmp_printf(m, "%" PRId64 "\n", value);
        break;
    case 'c':
        hmp_printf(m, "'%c'\n", (int)value);
        break;
    default:
        hmp_printf(m, "%#" PRIx64 "\n", value);
    }
}

/* ---- info --------------------------------------------------------------- */

void hmp_info_status(struct hmp *m, const struct hmp_args *a)
{
    g_autoptr(StatusInfo) info = qmp_query_status(NULL);
    bool plain = info->status == RUN_STATE_RUNNING ||
        info->status == RUN_STATE_PAUSED;

    hmp_printf(m, "VM status: %s", info->running ? "running" : "paused");
    if (!info->running && !plain) {
        hmp_printf(m, " (%s)", RunState_str(info->status));
    }
    hmp_printf(m, "\n");
}

void hmp_info_version(struct hmp *m, const struct hmp_args *a)
{
    g_autoptr(VersionInfo) info = qmp_query_version(NULL);

    hmp_printf(m, "%" PRId64 ".%" PRId64 ".%" PRId64 "%s\n",
               (int64_t)info->qemu->major, (int64_t)info->qemu->minor,
               (int64_t)info->qemu->micro, info->package);
}

void hmp_info_name(struct hmp *m, const struct hmp_args *a)
{
    g_autoptr(NameInfo) info = qmp_query_name(NULL);

    if (info->name) {
        hmp_printf(m, "%s\n", info->name);
    }
}

void hmp_info_uuid(struct hmp *m, const struct hmp_args *a)
{
    g_autoptr(UuidInfo) info = qmp_query_uuid(NULL);

    hmp_printf(m, "%s\n", info->UUID);
}

void hmp_info_kvm(struct hmp *m, const struct hmp_args *a)
{
    hmp_printf(m, "kvm support: disabled\n");
}

void hmp_info_iothreads(struct hmp *m, const struct hmp_args *a)
{
    g_autoptr(IOThreadInfoList) list = qmp_query_iothreads(NULL);

    for (size_t i = 0; list && i < list->n; i++) {
        const IOThreadInfo *t = list->v[i];

        hmp_printf(m, "%s:\n  thread_id=%" PRId64 "\n  poll-max-ns=%" PRId64
                   "\n  poll-grow=%" PRId64 "\n  poll-shrink=%" PRId64
                   "\n  aio-max-batch=%" PRId64 "\n", t->id, t->thread_id,
                   t->poll_max_ns, t->poll_grow, t->poll_shrink,
                   t->aio_max_batch);
    }
}

void hmp_info_chardev(struct hmp *m, const struct hmp_args *a)
{
    for (const struct chardev *c = chardev_next(NULL); c;
         c = chardev_next(c)) {
        g_autofree char *filename = chardev_filename(c);

        hmp_printf(m, "%s: filename=%s\n", chardev_id(c), filename);
    }
}

/* Of what there is none of. */
void hmp_info_nothing(struct hmp *m, const struct hmp_args *a)
{
}
