/* SPDX-License-Identifier: MIT */
/* Commands that are not there: see not-there.h. */
#include "server/not-there.h"

#include <stdlib.h>
#include <string.h>

#define MIGRATES "blockjobd does not migrate yet"
#define SAVES    "blockjobd has no machine state to save or load"
#define CPU      "the machine of blockjobd has no CPU"
#define MEMORY   "the machine of blockjobd has no memory"
#define SCREEN   "the machine of blockjobd has no display"
#define INPUT    "the machine of blockjobd has no keyboard and no mouse"
#define CLOCK    "the machine of blockjobd has no clock"
#define NETWORK  "the machine of blockjobd has no network"
#define POWER    "the machine of blockjobd has no guest that would notice"
#define CHARDEV  "blockjobd has no character devices but monitors"
#define REPLAY   "blockjobd records and replays nothing"
#define TPM      "the machine of blockjobd has no TPM"

struct reason {
    const char *name, *why;
};

/* In order of strcmp(). */
static const struct reason reasons[] = {
    { "balloon", MEMORY },
    { "block-latency-histogram-set", "blockjobd keeps no histograms" },
    { "blockdev-snapshot-load", SAVES },
    { "calc-dirty-rate", MEMORY },
    { "calc_dirty_rate", MEMORY },
    { "cancel-vcpu-dirty-limit", CPU },
    { "chardev-add", CHARDEV },
    { "chardev-change", CHARDEV },
    { "chardev-remove", CHARDEV },
    { "chardev-send-break", CHARDEV },
    { "client_migrate_info", MIGRATES },
    { "cpu", CPU },
    { "cxl-inject-general-media-event", MEMORY },
    { "delvm", SAVES },
    { "display-reload", SCREEN },
    { "display-update", SCREEN },
    { "dump-guest-memory", MEMORY },
    { "dump-skeys", MEMORY },
    { "dumpdtb", MEMORY },
    { "expire_password", SCREEN },
    { "gdbserver", CPU },
    { "gpa2hpa", MEMORY },
    { "gva2gpa", MEMORY },
    { "hostfwd_add", NETWORK },
    { "hostfwd_remove", NETWORK },
    { "inject-nmi", CPU },
    { "input-send-event", INPUT },
    { "loadvm", SAVES },
    { "mce", CPU },
    { "memsave", MEMORY },
    { "migrate", MIGRATES },
    { "migrate-continue", MIGRATES },
    { "migrate-incoming", MIGRATES },
    { "migrate-pause", MIGRATES },
    { "migrate-recover", MIGRATES },
    { "migrate-set-capabilities", MIGRATES },
    { "migrate-set-parameters", MIGRATES },
    { "migrate-start-postcopy", MIGRATES },
    { "migrate_cancel", MIGRATES },
    { "migrate_continue", MIGRATES },
    { "migrate_incoming", MIGRATES },
    { "migrate_pause", MIGRATES },
    { "migrate_recover", MIGRATES },
    { "migrate_set_capability", MIGRATES },
    { "migrate_set_parameter", MIGRATES },
    { "migrate_start_postcopy", MIGRATES },
    { "mouse_button", INPUT },
    { "mouse_move", INPUT },
    { "mouse_set", INPUT },
    { "netdev_add", NETWORK },
    { "netdev_del", NETWORK },
    { "nmi", CPU },
    { "pmemsave", MEMORY },
    { "query-acpi-ospm-status", MEMORY },
    { "query-balloon", MEMORY },
    { "query-colo-status", MIGRATES },
    { "query-cpu-definitions", CPU },
    { "query-cpu-model-baseline", CPU },
    { "query-cpu-model-comparison", CPU },
    { "query-cpu-model-expansion", CPU },
    { "query-dirty-rate", MEMORY },
    { "query-display-options", SCREEN },
    { "query-dump", MEMORY },
    { "query-dump-guest-memory-capability", MEMORY },
    { "query-gic-capabilities", CPU },
    { "query-hotpluggable-cpus", CPU },
    { "query-hv-balloon-status-report", MEMORY },
    { "query-memdev", MEMORY },
    { "query-memory-devices", MEMORY },
    { "query-memory-size-summary", MEMORY },
    { "query-mice", INPUT },
    { "query-migrate", MIGRATES },
    { "query-migrate-capabilities", MIGRATES },
    { "query-migrate-parameters", MIGRATES },
    { "query-migrationthreads", MIGRATES },
    { "query-pci", "the machine of blockjobd has no PCI configuration" },
    { "query-replay", REPLAY },
    { "query-rocker", NETWORK },
    { "query-rocker-ports", NETWORK },
    { "query-rx-filter", NETWORK },
    { "query-sev", CPU },
    { "query-sev-capabilities", CPU },
    { "query-sgx", CPU },
    { "query-sgx-capabilities", CPU },
    { "query-spice", SCREEN },
    { "query-stats", "blockjobd keeps no statistics of CPUs" },
    { "query-stats-schemas", "blockjobd keeps no statistics of CPUs" },
    { "query-tpm", TPM },
    { "query-tpm-models", TPM },
    { "query-tpm-types", TPM },
    { "query-vcpu-dirty-limit", CPU },
    { "query-vm-generation-id", POWER },
    { "query-vnc", SCREEN },
    { "query-vnc-servers", SCREEN },
    { "query-xen-replication-status", MIGRATES },
    { "replay-break", REPLAY },
    { "replay-delete-break", REPLAY },
    { "replay-seek", REPLAY },
    { "ringbuf-read", CHARDEV },
    { "ringbuf-write", CHARDEV },
    { "ringbuf_read", CHARDEV },
    { "ringbuf_write", CHARDEV },
    { "rtc-reset-reinjection", CLOCK },
    { "savevm", SAVES },
    { "screendump", SCREEN },
    { "send-key", INPUT },
    { "sendkey", INPUT },
    { "set-numa-node", MEMORY },
    { "set-vcpu-dirty-limit", CPU },
    { "set_link", NETWORK },
    { "set_password", SCREEN },
    { "snapshot-delete", SAVES },
    { "snapshot-load", SAVES },
    { "snapshot-save", SAVES },
    { "system_powerdown", POWER },
    { "system_wakeup", POWER },
    { "wavcapture", "the machine of blockjobd has no sound" },
    { "x-colo-lost-heartbeat", MIGRATES },
    { "x-exit-preconfig", "blockjobd has no preconfig state" },
    { "xen-colo-do-checkpoint", MIGRATES },
    { "xen-event-inject", "blockjobd does not run under Xen" },
    { "xen-event-list", "blockjobd does not run under Xen" },
    { "xen-load-devices-state", MIGRATES },
    { "xen-save-devices-state", MIGRATES },
    { "xen-set-global-dirty-log", MIGRATES },
    { "xen-set-replication", MIGRATES },
};

static int compare(const void *name, const void *reason)
{
    return strcmp(name, ((const struct reason *)reason)->name);
}

const char *not_there_reason(const char *name)
{
    const struct reason *r = bsearch(name, reasons, G_N_ELEMENTS(reasons),
                                     sizeof(reasons[0]), compare);

    return r ? r->why : NULL;
}

void not_there_refuse(const char *name, struct error **errp)
{
    const char *why = not_there_reason(name);

    error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                    "The command %s has not been found%s%s", name,
                    why ? ": " : "", why ? why : "");
}
