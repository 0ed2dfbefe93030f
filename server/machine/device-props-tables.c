/* SPDX-License-Identifier: MIT */
/*
 * The properties of the types that have a meaning here, with what they are
 * unless told: facts of QEMU's device-list-properties, in the order of its
 * "info qtree".
 */
#include "server/machine/device-types.h"

static const struct device_prop block_conf[] = {
    { "drive", "str", NULL },
    { "backend_defaults", "OnOffAuto", "auto" },
    { "logical_block_size", "size", "0" },
    { "physical_block_size", "size", "0" },
    { "min_io_size", "size", "0" },
    { "opt_io_size", "size", "0" },
    { "discard_granularity", "size", "4294967295" },
    { "write-cache", "OnOffAuto", "auto" },
    { "share-rw", "bool", "false" },
    { "account-invalid", "OnOffAuto", "auto" },
    { "account-failed", "OnOffAuto", "auto" },
    { NULL },
};

static const struct device_prop on_error[] = {
    { "rerror", "BlockdevOnError", "auto" },
    { "werror", "BlockdevOnError", "auto" },
    { NULL },
};

static const struct device_prop chs[] = {
    { "cyls", "uint32", "0" },
    { "heads", "uint32", "0" },
    { "secs", "uint32", "0" },
    { "lcyls", "uint32", "0" },
    { "lheads", "uint32", "0" },
    { "lsecs", "uint32", "0" },
    { NULL },
};

static const struct device_prop boot[] = {
    { "bootindex", "int32", NULL },
    { NULL },
};

static const struct device_prop scsi_address[] = {
    { "channel", "uint32", "0" },
    { "scsi-id", "uint32", "4294967295" },
    { "lun", "uint32", "4294967295" },
    { NULL },
};

static const struct device_prop pci[] = {
    { "addr", "int32", "-1" },
    { "romfile", "str", NULL },
    { "romsize", "uint32", "4294967295" },
    { "rombar", "uint32", "1" },
    { "multifunction", "bool", "false" },
    { "x-pcie-lnksta-dllla", "bool", "true" },
    { "x-pcie-extcap-init", "bool", "true" },
    { "failover_pair_id", "str", NULL },
    { "acpi-index", "uint32", "0" },
    { NULL },
};

static const struct device_prop virtio_pci[] = {
    { "virtio-pci-bus-master-bug-migration", "bool", "false" },
    { "migrate-extra", "bool", "true" },
    { "modern-pio-notify", "bool", "false" },
    { "x-disable-pcie", "bool", "false" },
    { "page-per-vq", "bool", "false" },
    { "x-ignore-backend-features", "bool", "false" },
    { "ats", "bool", "false" },
    { "x-ats-page-aligned", "bool", "true" },
    { "x-pcie-deverr-init", "bool", "true" },
    { "x-pcie-lnkctl-init", "bool", "true" },
    { "x-pcie-pm-init", "bool", "true" },
    { "x-pcie-flr-init", "bool", "true" },
    { "aer", "bool", "false" },
    { NULL },
};

static const struct device_prop virtio_legacy[] = {
    { "disable-legacy", "OnOffAuto", "auto" },
    { "disable-modern", "bool", "false" },
    { NULL },
};

static const struct device_prop virtio[] = {
    { "indirect_desc", "bool", "true" },
    { "event_idx", "bool", "true" },
    { "notify_on_empty", "bool", "true" },
    { "any_layout", "bool", "true" },
    { "iommu_platform", "bool", "false" },
    { "packed", "bool", "false" },
    { "queue_reset", "bool", "true" },
    { "use-started", "bool", "true" },
    { "use-disabled-flag", "bool", "true" },
    { "x-disable-legacy-check", "bool", "false" },
    { NULL },
};

static const struct device_prop scsi_names[] = {
    { "ver", "str", NULL },
    { "serial", "str", NULL },
    { "vendor", "str", NULL },
    { "product", "str", NULL },
    { "device_id", "str", NULL },
    { NULL },
};

static const struct device_prop iothread[] = {
    { "iothread", "link<iothread>", NULL },
    { NULL },
};

static const struct device_prop virtio_blk_own[] = {
    { "class", "uint32", "0" },
    { "ioeventfd", "bool", "true" },
    { "vectors", "uint32", "4294967295" },
    { NULL },
};

const struct device_prop *const virtio_blk_props[] = {
    virtio_legacy, virtio_blk_own, virtio_pci, pci, NULL,
};

static const struct device_prop virtio_blk_inner_own[] = {
    { "serial", "str", NULL },
    { "config-wce", "bool", "true" },
    { "scsi", "bool", "false" },
    { "request-merging", "bool", "true" },
    { "num-queues", "uint16", "65535" },
    { "queue-size", "uint16", "256" },
    { "seg-max-adjust", "bool", "true" },
    { "discard", "bool", "true" },
    { "report-discard-granularity", "bool", "true" },
    { "write-zeroes", "bool", "true" },
    { "max-discard-sectors", "uint32", "4194303" },
    { "max-write-zeroes-sectors", "uint32", "4194303" },
    { "x-enable-wce-if-config-wce", "bool", "true" },
    { NULL },
};

const struct device_prop *const virtio_blk_inner_props[] = {
    block_conf, on_error, chs, virtio_blk_inner_own, virtio, boot, iothread,
    NULL,
};

static const struct device_prop virtio_scsi_own[] = {
    { "ioeventfd", "bool", "true" },
    { "vectors", "uint32", "4294967295" },
    { NULL },
};

const struct device_prop *const virtio_scsi_props[] = {
    virtio_legacy, virtio_scsi_own, virtio_pci, pci, NULL,
};

static const struct device_prop virtio_scsi_inner_own[] = {
    { "num_queues", "uint32", "4294967295" },
    { "virtqueue_size", "uint32", "256" },
    { "seg_max_adjust", "bool", "true" },
    { "max_sectors", "uint32", "65535" },
    { "cmd_per_lun", "uint32", "128" },
    { "hotplug", "bool", "true" },
    { "param_change", "bool", "true" },
    { NULL },
};

const struct device_prop *const virtio_scsi_inner_props[] = {
    virtio_scsi_inner_own, virtio, iothread, NULL,
};

static const struct device_prop scsi_hd_own[] = {
    { "removable", "bool", "false" },
    { "dpofua", "bool", "false" },
    { "wwn", "uint64", "0" },
    { "port_wwn", "uint64", "0" },
    { "port_index", "uint16", "0" },
    { "max_unmap_size", "uint64", "1073741824" },
    { "max_io_size", "uint64", "2147483647" },
    { "rotation_rate", "uint16", "0" },
    { "scsi_version", "int32", "5" },
    { "quirk_mode_page_vendor_specific_apple", "bool", "false" },
    { NULL },
};

const struct device_prop *const scsi_hd_props[] = {
    block_conf, on_error, scsi_names, scsi_hd_own, chs, scsi_address, boot,
    NULL,
};

static const struct device_prop scsi_cd_own[] = {
    { "wwn", "uint64", "0" },
    { "port_wwn", "uint64", "0" },
    { "port_index", "uint16", "0" },
    { "max_io_size", "uint64", "2147483647" },
    { "scsi_version", "int32", "5" },
    { "quirk_mode_page_apple_vendor", "bool", "false" },
    { "quirk_mode_sense_rom_use_dbd", "bool", "false" },
    { "quirk_mode_page_vendor_specific_apple", "bool", "false" },
    { "quirk_mode_page_truncated", "bool", "false" },
    { NULL },
};

const struct device_prop *const scsi_cd_props[] = {
    block_conf, on_error, scsi_names, scsi_cd_own, scsi_address, boot, NULL,
};

static const struct device_prop ide_hd_own[] = {
    { "ver", "str", NULL },
    { "wwn", "uint64", "0" },
    { "serial", "str", NULL },
    { "model", "str", NULL },
    { NULL },
};

static const struct device_prop ide_hd_own2[] = {
    { "bios-chs-trans", "BiosAtaTranslation", "auto" },
    { "rotation_rate", "uint16", "0" },
    { "unit", "uint32", "4294967295" },
    { NULL },
};

const struct device_prop *const ide_hd_props[] = {
    block_conf, on_error, ide_hd_own, chs, ide_hd_own2, boot, NULL,
};

static const struct device_prop ide_cd_own[] = {
    { "ver", "str", NULL },
    { "wwn", "uint64", "0" },
    { "serial", "str", NULL },
    { "model", "str", NULL },
    { "unit", "uint32", "4294967295" },
    { NULL },
};

const struct device_prop *const ide_cd_props[] = {
    block_conf, on_error, ide_cd_own, boot, NULL,
};

static const struct device_prop floppy_own[] = {
    { "unit", "uint32", "4294967295" },
    { NULL },
};

static const struct device_prop floppy_own2[] = {
    { "drive-type", "FdcDriveType", "auto" },
    { NULL },
};

const struct device_prop *const floppy_props[] = {
    floppy_own, block_conf, floppy_own2, NULL,
};

static const struct device_prop isa_fdc_own[] = {
    { "iobase", "uint32", "1008" },
    { "irq", "uint32", "6" },
    { "dma", "uint32", "2" },
    { "fdtypeA", "FdcDriveType", "auto" },
    { "fdtypeB", "FdcDriveType", "auto" },
    { "fallback", "FdcDriveType", "288" },
    { "bootindexA", "int32", NULL },
    { "bootindexB", "int32", NULL },
    { NULL },
};

const struct device_prop *const isa_fdc_props[] = {
    isa_fdc_own, NULL,
};

static const struct device_prop root_port_own[] = {
    { "x-migrate-msix", "bool", "true" },
    { "bus-reserve", "uint32", "4294967295" },
    { "io-reserve", "size", "18446744073709551615" },
    { "mem-reserve", "size", "18446744073709551615" },
    { "pref32-reserve", "size", "18446744073709551615" },
    { "pref64-reserve", "size", "18446744073709551615" },
    { "x-speed", "PCIELinkSpeed", "16" },
    { "x-width", "PCIELinkWidth", "32" },
    { "power_controller_present", "bool", "true" },
    { "disable-acs", "bool", "false" },
    { "chassis", "uint8", "0" },
    { "slot", "uint16", "0" },
    { "hotplug", "bool", "true" },
    { "x-native-hotplug", "bool", "true" },
    { "port", "uint8", "0" },
    { "aer_log_max", "uint16", "8" },
    { NULL },
};

const struct device_prop *const root_port_props[] = {
    root_port_own, pci, NULL,
};

static const struct device_prop pci_bridge_own[] = {
    { "chassis_nr", "uint8", "0" },
    { "msi", "OnOffAuto", "auto" },
    { "shpc", "bool", "true" },
    { "bus-reserve", "uint32", "4294967295" },
    { "io-reserve", "size", "18446744073709551615" },
    { "mem-reserve", "size", "18446744073709551615" },
    { "pref32-reserve", "size", "18446744073709551615" },
    { "pref64-reserve", "size", "18446744073709551615" },
    { NULL },
};

const struct device_prop *const pci_bridge_props[] = {
    pci_bridge_own, pci, NULL,
};

const struct device_prop *const pci_props[] = { pci, NULL };
const struct device_prop *const no_props[] = { NULL };
