/* SPDX-License-Identifier: MIT */
/* -drive format=help. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "block/driver.h"
#include "server/machine/drive.h"

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void append_line(GString *text, const char *title)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (size_t i = 0; block_drivers[i]; i++) {
        g_ptr_array_add(names, (char *)block_drivers[i]->name);
    }
    qsort(names->pdata, names->len, sizeof(names->pdata[0]), compare);
    g_string_append(text, title);
    for (guint i = 0; i < names->len; i++) {
        g_string_append_printf(text, " %s", (const char *)names->pdata[i]);
    }
    g_string_append_c(text, '\n');
}

char *drive_formats_text(void)
{
    GString *text = g_string_new(NULL);

    append_line(text, "Supported formats:");
    append_line(text, "Supported formats (read-only):");
    return g_string_free(text, FALSE);
}

void drive_print_formats(void)
{
    g_autofree char *text = drive_formats_text();

    fputs(text, stdout);
    fflush(stdout);
}
