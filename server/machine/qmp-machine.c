/* SPDX-License-Identifier: MIT */
/* QMP: the machine's state, and what managers ask about it. */
#include <unistd.h>
#include "qapi/qapi-commands.h"
#include "qapi/qapi-events.h"
#include "server/machine/machine.h"
#include "server/machine/runstate.h"
#include "server/shutdown.h"

StatusInfo *qmp_query_status(struct error **errp)
{
    StatusInfo *info = StatusInfo_new0();

    info->status = runstate_get();
    info->running = runstate_is_running();
    return info;
}

bool qmp_stop(struct error **errp)
{
    machine_stop(RUN_STATE_PAUSED);
    machine_flush();
    return true;
}

bool qmp_cont(struct error **errp)
{
    return machine_cont(errp);
}

bool qmp_system_reset(struct error **errp)
{
    machine_reset();
    return true;
}

/*
 * Nobody in the machine could refuse or delay it, so it is off at once: who
 * waits for that (a manager's shutdown) sees it.
 */
bool qmp_system_powerdown(struct error **errp)
{
    qapi_event_send_powerdown();
    if (!runstate_is_running()) {
        return true;
    }
    if (machine_no_shutdown()) {
        qapi_event_send_shutdown(true, SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
        machine_stop(RUN_STATE_SHUTDOWN);
    } else {
        shutdown_begin(SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    }
    return true;
}

bool qmp_system_wakeup(struct error **errp)
{
    error_set(errp, "wake-up from suspend is not supported by this guest");
    return false;
}

NameInfo *qmp_query_name(struct error **errp)
{
    NameInfo *info = NameInfo_new0();

    info->name = g_strdup(machine_guest_name());
    return info;
}

UuidInfo *qmp_query_uuid(struct error **errp)
{
    UuidInfo *info = UuidInfo_new0();

    info->UUID = g_strdup(machine_uuid());
    return info;
}

TargetInfo *qmp_query_target(struct error **errp)
{
    TargetInfo *info = TargetInfo_new0();

    info->arch = SYS_EMU_TARGET_X86_64;
    return info;
}

KvmInfo *qmp_query_kvm(struct error **errp)
{
    KvmInfo *info = KvmInfo_new0();

    info->present = true;
    /* What managers compare with their own look at it. */
    info->enabled = access("/dev/kvm", R_OK | W_OK) == 0;
    return info;
}

MachineInfoList *qmp_query_machines(struct error **errp)
{
    MachineInfoList *list = MachineInfoList_new0();

    for (const struct machine_kind *k = machine_kinds; k->name; k++) {
        MachineInfo *info = MachineInfo_new0();

        info->name = g_strdup(k->name);
        info->alias = g_strdup(k->alias);
        info->has_is_default = info->is_default = k->is_default;
        info->cpu_max = k->cpu_max;
        info->hotpluggable_cpus = k->pci_bus != NULL;
        info->acpi = k->pci_bus != NULL;
        qapi_list_append(list, info);
    }
    return list;
}

CurrentMachineParams *qmp_query_current_machine(struct error **errp)
{
    return CurrentMachineParams_new0();
}

CpuInfoFastList *qmp_query_cpus_fast(struct error **errp)
{
    return CpuInfoFastList_new0();
}

CpuDefinitionInfoList *qmp_query_cpu_definitions(struct error **errp)
{
    static const char *const names[] = { "max", "qemu64" };
    CpuDefinitionInfoList *list = CpuDefinitionInfoList_new0();

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        CpuDefinitionInfo *info = CpuDefinitionInfo_new0();

        info->name = g_strdup(names[i]);
        info->typename = g_strdup_printf("%s-x86_64-cpu", names[i]);
        info->unavailable_features = strList_new0();
        qapi_list_append(list, info);
    }
    return list;
}

MemoryInfo *qmp_query_memory_size_summary(struct error **errp)
{
    MemoryInfo *info = MemoryInfo_new0();

    info->has_plugged_memory = true;
    return info;
}

static void set_no_balloon(struct error **errp)
{
    error_set_class(errp, ERROR_DEVICE_NOT_ACTIVE,
                    "No balloon device has been activated");
}

BalloonInfo *qmp_query_balloon(struct error **errp)
{
    set_no_balloon(errp);
    return NULL;
}

bool qmp_balloon(const BalloonArgs *args, struct error **errp)
{
    set_no_balloon(errp);
    return false;
}

PciInfoList *qmp_query_pci(struct error **errp)
{
    return PciInfoList_new0();
}
