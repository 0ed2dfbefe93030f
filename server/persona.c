/* SPDX-License-Identifier: MIT */
/* In whose place we stand: see persona.h. */
#include "server/persona.h"

#include <stdlib.h>
#include <string.h>
#include <glib.h>

static enum persona current;

/* What a storage daemon does not know, in order. */
static const char *const machine_commands[] = {
    "add-fd", "balloon", "block_set_io_throttle", "blockdev-change-medium",
    "blockdev-close-tray", "blockdev-insert-medium", "blockdev-open-tray",
    "blockdev-remove-medium", "closefd", "cont", "device-list-properties",
    "device_add", "device_del", "eject", "getfd", "human-monitor-command",
    "migrate", "migrate-continue", "migrate-incoming", "migrate-pause",
    "migrate-recover", "migrate-set-capabilities", "migrate-set-parameters",
    "migrate-start-postcopy", "migrate_cancel", "query-balloon",
    "query-command-line-options", "query-cpu-definitions", "query-cpus-fast",
    "query-current-machine", "query-fdsets", "query-hotpluggable-cpus",
    "query-kvm", "query-machines", "query-memory-size-summary",
    "query-migrate", "query-migrate-capabilities", "query-migrate-parameters",
    "query-pci", "query-target", "query-uuid", "remove-fd", "set-action",
    "snapshot-delete", "snapshot-load", "snapshot-save", "stop",
    "system_powerdown", "system_reset", "system_wakeup", "watchdog-set-action",
};

enum persona persona_get(void)
{
    return current;
}

bool persona_has_machine(void)
{
    return current != PERSONA_STORAGE_DAEMON;
}

static int compare_names(const void *key, const void *element)
{
    return strcmp(key, *(const char *const *)element);
}

bool persona_has_command(const char *name)
{
    return persona_has_machine() ||
        !bsearch(name, machine_commands, G_N_ELEMENTS(machine_commands),
                 sizeof(machine_commands[0]), compare_names);
}

enum persona persona_of_program(const char *argv0)
{
    g_autofree char *name = g_path_get_basename(argv0);

    if (g_str_has_prefix(name, "qemu-system-") || !strcmp(name, "qemu-kvm")) {
        return PERSONA_SYSTEM;
    }
    return strcmp(name, "qemu-storage-daemon") ? PERSONA_BLOCKJOBD
        : PERSONA_STORAGE_DAEMON;
}

void persona_set(enum persona persona)
{
    current = persona;
}
