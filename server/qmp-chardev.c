/* SPDX-License-Identifier: MIT */
/* QMP: which channels there are. */
#include "qapi/qapi-commands.h"
#include "server/chardev.h"

ChardevInfoList *qmp_query_chardev(struct error **errp)
{
    ChardevInfoList *list = ChardevInfoList_new0();
    const struct chardev *c = NULL;

    while ((c = chardev_next(c))) {
        ChardevInfo *info = ChardevInfo_new0();

        info->label = g_strdup(chardev_id(c));
        info->filename = chardev_filename(c);
        info->frontend_open = chardev_is_used(c);
        qapi_list_append(list, info);
    }
    for (size_t i = 0; i < list->n / 2; i++) {      /* newest first */
        ChardevInfo *other = list->v[list->n - 1 - i];

        list->v[list->n - 1 - i] = list->v[i];
        list->v[i] = other;
    }
    return list;
}
