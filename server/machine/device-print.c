/* SPDX-License-Identifier: MIT */
/* -device help, and -device TYPE,help. */
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "server/machine/device-priv.h"

/* The headings, in QEMU's order, and who is below them. */
static const char *category(const struct device_type *t)
{
    if (t->role != DEVICE_OTHER || t->provides == BUS_SCSI ||
        t->provides == BUS_IDE || t->provides == BUS_FLOPPY) {
        return "Storage";
    }
    if (t->provides == BUS_PCI) {
        return "Controller/Bridge/Hub";
    }
    if (t->provides == BUS_USB) {
        return "USB";
    }
    if (strstr(t->name, "net") || g_str_has_prefix(t->name, "e1000") ||
        g_str_has_prefix(t->name, "rtl")) {
        return "Network";
    }
    if (t->bus == BUS_USB || t->bus == BUS_VIRTIO_SERIAL ||
        t->provides == BUS_VIRTIO_SERIAL || strstr(t->name, "serial") ||
        strstr(t->name, "tablet") || strstr(t->name, "keyboard") ||
        strstr(t->name, "mouse")) {
        return "Input";
    }
    if (strstr(t->name, "vga") || strstr(t->name, "VGA") ||
        strstr(t->name, "gpu") || strstr(t->name, "display")) {
        return "Display";
    }
    return strstr(t->name, "hda") ? "Sound" : "Misc";
}

static int compare(const void *a, const void *b)
{
    const struct device_type *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static void print_category(GPtrArray *types, const char *name, bool first)
{
    printf("%s%s devices:\n", first ? "" : "\n", name);
    for (guint i = 0; i < types->len; i++) {
        const struct device_type *t = types->pdata[i];

        if (strcmp(category(t), name)) {
            continue;
        }
        printf("name \"%s\", bus %s", t->name, bus_kind_name(t->bus));
        if (t->alias) {
            printf(", alias \"%s\"", t->alias);
        }
        if (t->description) {
            printf(", desc \"%s\"", t->description);
        }
        printf("\n");
    }
}

void device_print_types(void)
{
    static const char *const categories[] = {
        "Controller/Bridge/Hub", "USB", "Storage", "Network", "Input",
        "Display", "Sound", "Misc",
    };
    g_autoptr(GPtrArray) types = g_ptr_array_new();

    for (const struct device_type *t = device_type_next(NULL); t;
         t = device_type_next(t)) {
        g_ptr_array_add(types, (void *)t);
    }
    qsort(types->pdata, types->len, sizeof(types->pdata[0]), compare);
    for (size_t i = 0; i < G_N_ELEMENTS(categories); i++) {
        print_category(types, categories[i], i == 0);
    }
}

/* One line of -device TYPE,help; owned. */
static char *property_line(const struct device_prop *p)
{
    const char *description = device_prop_description(p);
    g_autofree char *head = g_strdup_printf("%s=<%s>", p->name, p->type);
    GString *line = g_string_new(NULL);

    if (!description && !p->def) {
        g_string_append_printf(line, "  %s", head);
        return g_string_free(line, FALSE);
    }
    g_string_append_printf(line, "  %-22s - %s", head,
                           description ? description : "");
    if (p->def) {
        bool quoted = device_prop_description(p) &&
            strcmp(p->type, "bool") && strcmp(p->type, "size") &&
            strcmp(p->name, "addr");

        g_string_append_printf(line, quoted ? " (default: \"%s\")"
                               : " (default: %s)", p->def);
    }
    return g_string_free(line, FALSE);
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void collect(GPtrArray *lines, const struct device_prop *const *tables)
{
    for (; tables && *tables; tables++) {
        for (const struct device_prop *p = *tables; p->name; p++) {
            g_ptr_array_add(lines, property_line(p));
        }
    }
}

bool device_print_properties(const char *type, struct error **errp)
{
    const struct device_type *t = device_type_find(type);
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) names = NULL;

    if (!t) {
        error_set(errp, "'%s' is not a valid device model name", type);
        return false;
    }
    collect(lines, t->props);
    collect(lines, t->inner_props);
    if (t->inner) {
        g_ptr_array_add(lines, g_strdup_printf(
            "  virtio-backend=<child<%s>>", t->inner));
    }
    names = g_strsplit(t->names ? t->names : "", " ", 0);
    for (char **name = names; *name; name++) {
        if (**name) {
            g_ptr_array_add(lines, g_strdup_printf("  %s=<any>", *name));
        }
    }
    qsort(lines->pdata, lines->len, sizeof(lines->pdata[0]), compare_text);
    printf("%s options:\n", t->name);
    for (guint i = 0; i < lines->len; i++) {
        printf("%s\n", (const char *)lines->pdata[i]);
    }
    return true;
}
