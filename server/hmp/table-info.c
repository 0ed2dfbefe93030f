/* SPDX-License-Identifier: MIT */
/* All of HMP's info. */
#include "server/hmp/command.h"

#include <string.h>

#define PARAMS(...) (const struct hmp_param[]) { __VA_ARGS__, { NULL } }
#define OPTIONAL true

const struct hmp_command hmp_info_commands[] = {
    {
        .name = "block", .synopsis = "[-n] [-v] [device]",
        .help = "list block devices, or one (-n: nodes; -v: their images)",
        .params = PARAMS({ "nodes", HMP_FLAG, OPTIONAL, 'n' },
                         { "verbose", HMP_FLAG, OPTIONAL, 'v' },
                         { "device", HMP_BLOCK, OPTIONAL }),
        .run = hmp_info_block,
    }, {
        .name = "block-jobs", .synopsis = "",
        .help = "list block jobs and how far they are",
        .run = hmp_info_block_jobs,
    }, {
        .name = "blockstats", .synopsis = "",
        .help = "show what guests have done to block devices",
        .run = hmp_info_blockstats,
    }, {
        .name = "chardev", .synopsis = "",
        .help = "list character devices: what monitors talk over",
        .run = hmp_info_chardev,
    }, {
        .name = "cpus", .synopsis = "",
        .help = "list CPUs; there is none",
        .run = hmp_info_nothing,
    }, {
        .name = "iothreads", .synopsis = "",
        .help = "list iothreads",
        .run = hmp_info_iothreads,
    }, {
        .name = "kvm", .synopsis = "",
        .help = "show whether there is KVM",
        .run = hmp_info_kvm,
    }, {
        .name = "name", .synopsis = "",
        .help = "show the machine's name",
        .run = hmp_info_name,
    }, {
        .name = "network", .synopsis = "",
        .help = "list network devices; there is none",
        .run = hmp_info_nothing,
    }, {
        .name = "qtree", .synopsis = "",
        .help = "show the devices as a tree",
        .run = hmp_info_qtree,
    }, {
        .name = "snapshots", .synopsis = "",
        .help = "list snapshots inside images",
        .run = hmp_info_snapshots,
    }, {
        .name = "status", .synopsis = "",
        .help = "show whether the machine runs",
        .run = hmp_info_status,
    }, {
        .name = "uuid", .synopsis = "",
        .help = "show the machine's UUID",
        .run = hmp_info_uuid,
    }, {
        .name = "version", .synopsis = "",
        .help = "show the version",
        .run = hmp_info_version,
    },
    { NULL },
};

static const struct {
    const char *what, *names;   /* " name name " */
} missing[] = {
    { "CPU", " hotpluggable-cpus jit lapic opcount profile registers sev sgx "
             "stats vcpu_dirty_limit " },
    { "memory", " balloon dirty_rate dump mem memdev memory-devices "
                "memory_size_summary mtree ramblock roms tlb " },
    { "migration", " migrate migrate_capabilities migrate_parameters " },
    { "guest", " cxl firmware-log irq mice numa pci pic replay rocker spice "
               "tpm usb usbhost usernet virtio vm-generation-id vnc " },
};

char *hmp_info_reason(const char *name)
{
    g_autofree char *word = g_strdup_printf(" %s ", name);

    for (size_t i = 0; i < G_N_ELEMENTS(missing); i++) {
        if (strstr(missing[i].names, word)) {
            return g_strdup_printf("the machine of blockjobd has no %s",
                                   missing[i].what);
        }
    }
    return NULL;
}
