/* SPDX-License-Identifier: MIT */
/* /chardevs in the tree of objects: the channels, by their ids. */
#include <string.h>
#include "block/objects/qom.h"
#include "server/chardev.h"
#include "server/machine/device-qom.h"

/* By what it is called, but for "disconnected:" before it. */
static const char *chardev_type(const struct qom_place *p)
{
    static const char *const types[][2] = {
        { "file", "chardev-file" }, { "null", "chardev-null" },
        { "pipe", "chardev-pipe" }, { "pty", "chardev-pty" },
        { "stdio", "chardev-stdio" },
    };
    g_autofree char *filename = chardev_filename(p->opaque);

    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        size_t length = strlen(types[i][0]);

        if (g_str_has_prefix(filename, types[i][0]) &&
            (filename[length] == '\0' || filename[length] == ':')) {
            return types[i][1];
        }
    }
    return "chardev-socket";
}

static const struct qom_kind chardev_kind = { .type = chardev_type };

static const char *container_type(const struct qom_place *p)
{
    return "container";
}

static bool chardevs_below(const struct qom_place *p, size_t i, char **name,
                           struct qom_place *child)
{
    const struct chardev *c = chardev_next(NULL);

    while (c && i-- > 0) {
        c = chardev_next(c);
    }
    if (c) {
        *name = g_strdup(chardev_id(c));
        *child = (struct qom_place){ &chardev_kind, (void *)c };
    }
    return c != NULL;
}

static const struct qom_kind chardevs_kind = {
    .type = container_type,
    .below = chardevs_below,
};

void chardev_qom_init(void)
{
    qom_mount("chardevs", (struct qom_place){ &chardevs_kind });
}
