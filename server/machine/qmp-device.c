/* SPDX-License-Identifier: MIT */
/* QMP: devices come and go; what a type can be told. */
#include <string.h>
#include "qapi/qapi-commands.h"
#include "block/objects/qom.h"
#include "server/machine/device-priv.h"

json_t *qmp_device_add(json_t *args, struct error **errp)
{
    json_t *none = NULL;
    bool ok;

    if (!args) {
        args = none = json_object();
    }
    ok = device_add(args, errp) != NULL;
    json_decref(none);
    return ok ? json_object() : NULL;
}

bool qmp_device_del(const DeviceDelArgs *args, struct error **errp)
{
    return device_del(args->id, errp);
}

static void add_tables(ObjectPropertyInfoList *list,
                       const struct device_prop *const *tables)
{
    for (; tables && *tables; tables++) {
        for (const struct device_prop *p = *tables; p->name; p++) {
            ObjectPropertyInfo *info = ObjectPropertyInfo_new0();

            info->name = g_strdup(p->name);
            info->type = g_strdup(p->type);
            info->description = g_strdup(device_prop_description(p));
            info->default_value = p->def ? device_prop_default(p) : NULL;
            qapi_list_append(list, info);
        }
    }
}

static void add_names(ObjectPropertyInfoList *list, const char *names)
{
    g_auto(GStrv) words = g_strsplit(names, " ", 0);

    for (char **word = words; *word; word++) {
        if (**word) {
            ObjectPropertyInfo *info = ObjectPropertyInfo_new0();

            info->name = g_strdup(*word);
            info->type = g_strdup("str");
            qapi_list_append(list, info);
        }
    }
}

void device_type_list_props(const struct device_type *t,
                            ObjectPropertyInfoList *list)
{
    add_tables(list, t->props);
    add_tables(list, t->inner_props);
    if (t->names) {
        add_names(list, t->names);
    }
}

ObjectPropertyInfoList *
qmp_device_list_properties(const DeviceListPropertiesArgs *args,
                           struct error **errp)
{
    const struct device_type *t = device_type_find(args->typename);
    ObjectPropertyInfoList *list;

    if (!t || strcmp(t->name, args->typename)) {
        if (qom_type_exists(args->typename)) {
            error_set(errp, "Parameter 'typename' expects a non-abstract "
                      "device type");
        } else {
            error_set_class(errp, ERROR_DEVICE_NOT_FOUND,
                            "Device '%s' not found", args->typename);
        }
        return NULL;
    }
    list = ObjectPropertyInfoList_new0();
    device_type_list_props(t, list);
    if (t->inner) {
        g_autofree char *type = g_strdup_printf("child<%s>", t->inner);

        qom_list_append(list, "virtio-backend", type);
    }
    return list;
}
