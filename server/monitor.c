/* SPDX-License-Identifier: MIT */
/* Monitors: see monitor.h. */
#include "server/monitor.h"

#include "server/chardev.h"
#include "server/session.h"

struct monitor {
    struct chardev *chardev;    /* borrowed */
    bool pretty;
    struct monitor *next;
};

static struct monitor *monitors;

static void monitor_opened(void *opaque, int read_fd, int write_fd)
{
    const struct monitor *m = opaque;
    const struct session_options options = {
        .chardev = m->chardev, .pretty = m->pretty,
        .read_fd = read_fd, .write_fd = write_fd,
    };

    session_start(&options);
}

bool monitor_add(const struct monitor_options *options, struct error **errp)
{
    struct monitor *m = g_new0(struct monitor, 1);
    const struct chardev_user user = {
        .opened = monitor_opened, .opaque = m,
    };

    m->pretty = options->pretty;
    m->chardev = chardev_find(options->chardev);
    if (!m->chardev) {
        error_set(errp, "chardev \"%s\" not found", options->chardev);
    } else if (chardev_use(m->chardev, &user, errp)) {
        m->next = monitors;
        monitors = m;
        return true;
    }
    g_free(m);
    return false;
}

int monitor_count(void)
{
    int n = 0;

    for (struct monitor *m = monitors; m; m = m->next) {
        n++;
    }
    return n;
}

void monitor_free_all(void)
{
    struct monitor *m;

    while ((m = monitors)) {
        monitors = m->next;
        g_free(m);
    }
}
