/* SPDX-License-Identifier: MIT */
/* Which machine it is, and what the command line said about it. */
#include "server/machine/machine.h"

#include <stdio.h>
#include <string.h>
#include "base/control.h"
#include "qapi/qapi.h"
#include "server/machine/device-qom.h"
#include "server/machine/device.h"
#include "server/machine/runstate.h"

#define PC_TEXT "Standard PC (i440FX + PIIX, 1996)"
#define Q35_TEXT "Standard PC (Q35 + ICH9, 2009)"
#define KIND(NAME, ALIAS, TEXT, CPUS, DEFAULT, BUS) \
    { NAME, ALIAS, TEXT, NAME "-machine", CPUS, DEFAULT, BUS }
#define PC(V) KIND("pc-i440fx-" V, NULL, PC_TEXT, 255, false, "pci.0"),
#define Q35(V) KIND("pc-q35-" V, NULL, Q35_TEXT, 4096, false, "pcie.0"),
/* Domains are defined with the version of their day. */
#define OLDER(X) \
    X("10.1") X("10.0") X("9.2") X("9.1") X("9.0") X("8.2") X("8.1") \
    X("8.0") X("7.2") X("7.1") X("7.0") X("6.2") X("6.1") X("6.0") \
    X("5.2") X("5.1") X("5.0") X("4.2") X("4.1") X("4.0") X("3.1") \
    X("3.0") X("2.12") X("2.11") X("2.10") X("2.9") X("2.8") X("2.7") \
    X("2.6") X("2.5") X("2.4")

const struct machine_kind machine_kinds[] = {
    KIND("pc-i440fx-10.2", "pc", PC_TEXT, 255, true, "pci.0"),
    OLDER(PC)
    KIND("pc-q35-10.2", "q35", Q35_TEXT, 4096, false, "pcie.0"),
    OLDER(Q35)
    KIND("none", NULL, "empty machine", 1, false, NULL),
    { NULL },
};

/* What can be told behind -machine TYPE, and is no use here. */
static const char *const switches[] = {     /* on or off */
    "aux-ram-share", "default-bus-bypass-iommu", "default_bus_bypass_iommu",
    "dump-guest-core", "fd-bootchk", "graphics", "hmat", "hpet", "i8042",
    "igd-passthru", "mem-merge", "nvdimm", "rtc", "sata", "smbus",
    "suppress-vmdesc", "usb", NULL,
};
static const char *const options[] = {
    "accel", "acpi", "append", "boot", "bus-lock-ratelimit",
    "confidential-guest-support", "dt-compatible", "dtb", "dumpdtb",
    "firmware", "initrd", "kernel", "kernel-irqchip", "kernel_irqchip",
    "kvm-type", "kvm_shadow_mem", "max-fw-size", "max-ram-below-4g",
    "memory-backend", "memory-encryption", "nvdimm-persistence",
    "pcspk-audiodev", "phandle-start", "pic", "pit", "sgx-epc", "shadow-mem",
    "smbios-entry-point-type", "smm", "smp", "vmport", "x-oem-id",
    "x-oem-table-id", "x-south-bridge", NULL,
};

/* All under the control lock. */
static const struct machine_kind *kind = machine_kinds;
static char *guest_name, *uuid;
static bool no_shutdown, ready;

const struct machine_kind *machine_kind_get(void)
{
    return kind;
}

const char *machine_name(void)
{
    return kind->name;
}

static const struct machine_kind *find_kind(const char *name)
{
    for (const struct machine_kind *k = machine_kinds; k->name; k++) {
        if (!strcmp(k->name, name) || g_strcmp0(k->alias, name) == 0) {
            return k;
        }
    }
    return NULL;
}

/* VALUE NULL: it is more than text ("smp.cpus"). */
static bool check_option(const struct machine_kind *k, const char *key,
                         const char *value, struct error **errp)
{
    static const char *const words[] = {
        "on", "yes", "true", "y", "off", "no", "false", "n", NULL,
    };

    if (g_strv_contains(options, key)) {
        return true;
    }
    if (!g_strv_contains(switches, key)) {
        error_set(errp, "Property '%s.%s' not found", k->type, key);
        return false;
    }
    if (!value || !g_strv_contains(words, value)) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    return true;
}

bool machine_set(const char *text, struct error **errp)
{
    json_t *given = qapi_keyval_parse(text, "type", errp);
    const struct machine_kind *wanted = kind;
    const char *key, *type;
    json_t *value;
    bool ok = false;

    control_assert();
    if (!given) {
        return false;
    }
    type = json_string_value(json_object_get(given, "type"));
    if (type) {
        wanted = find_kind(type);
    }
    if (!wanted) {
        error_set(errp, "unsupported machine type");
        error_append_hint(errp,
                          "Use -machine help to list supported machines");
        goto out;
    }
    json_object_foreach(given, key, value) {
        if (strcmp(key, "type") &&
            !check_option(wanted, key, json_string_value(value), errp)) {
            goto out;
        }
    }
    kind = wanted;
    ok = true;
out:
    json_decref(given);
    return ok;
}

void machine_print_help(void)
{
    printf("Supported machines are:\n");
    for (const struct machine_kind *k = machine_kinds; k->name; k++) {
        if (k->alias) {
            printf("%-20s %s (alias of %s)\n", k->alias, k->description,
                   k->name);
        }
        printf("%-20s %s%s\n", k->name, k->description,
               k->is_default ? " (default)" : "");
    }
}

void machine_set_guest_name(const char *name)
{
    g_free(guest_name);
    guest_name = g_strdup(name);
}

const char *machine_guest_name(void)
{
    return guest_name;
}

bool machine_set_uuid(const char *text, struct error **errp)
{
    if (!g_uuid_string_is_valid(text)) {
        error_set(errp, "failed to parse UUID string: wrong format");
        return false;
    }
    g_free(uuid);
    uuid = g_ascii_strdown(text, -1);
    return true;
}

const char *machine_uuid(void)
{
    return uuid ? uuid : "00000000-0000-0000-0000-000000000000";
}

void machine_set_no_shutdown(bool on)
{
    no_shutdown = on;
}

bool machine_no_shutdown(void)
{
    return no_shutdown;
}

void machine_ready(void)
{
    g_assert(!ready);
    device_machine_init();
    device_qom_init();
    chardev_qom_init();
    runstate_init(runstate_get());      /* if nobody has said it yet */
    ready = true;
}

bool machine_is_ready(void)
{
    return ready;
}
