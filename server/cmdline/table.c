/* SPDX-License-Identifier: MIT */
/*
 * Every option there is, QEMU's and ours.
 *
 * What a machine without CPU and guest has no use for is taken where it
 * changes nothing that anybody could see (IGNORED), and refused where a disk
 * or a guest would be missing without a word (REFUSED).
 */
#include "server/cmdline/options.h"

#include <string.h>

#define S OPT_SYSTEM
#define D OPT_DAEMON
#define T OPT_TEXT
#define X (OPT_SYSTEM | OPT_DECIDES)

#define NO_GUEST "there is no guest that would run"

static const struct option_desc table[] = {
    { "D", OPTION_IGNORED, X | T },
    { "L", OPTION_IGNORED, X | T },
    { "M", OPTION_MACHINE, X | T },
    { "S", OPTION_STOPPED, X },
    { "T", OPTION_TRACE, D | T },
    { "V", OPTION_VERSION, D },
    { "accel", OPTION_ACCEL, X | T },
    { "acpitable", OPTION_IGNORED, X | T },
    { "action", OPTION_KEY_VALUE, X | T },
    { "add-fd", OPTION_ADD_FD, X | T },
    { "append", OPTION_REFUSED, X | T, NO_GUEST },
    { "async-teardown", OPTION_IGNORED, X },
    { "audio", OPTION_IGNORED, X | T },
    { "audiodev", OPTION_IGNORED, X | T },
    { "bios", OPTION_IGNORED, X | T },
    { "blockdev", OPTION_BLOCKDEV, S | D | T },
    { "boot", OPTION_KEY_VALUE, X | T, "order" },
    { "cdrom", OPTION_IMAGE, X | T, "index=2,media=cdrom" },
    { "chardev", OPTION_CHARDEV, S | D | T },
    { "chroot", OPTION_CHROOT, X | T },
    { "compat", OPTION_KEY_VALUE, X | T },
    { "cpu", OPTION_CPU, X | T },
    { "d", OPTION_IGNORED, X | T },
    { "daemonize", OPTION_DAEMONIZE, S | D },
    { "debugcon", OPTION_SERIAL, X | T },
    { "device", OPTION_DEVICE, X | T },
    { "dfilter", OPTION_IGNORED, X | T },
    { "display", OPTION_IGNORED, X | T },
    { "drive", OPTION_DRIVE, X | T },
    { "dtb", OPTION_REFUSED, X | T, NO_GUEST },
    { "dump-vmstate", OPTION_REFUSED, X | T, "there is no state of a guest" },
    { "echr", OPTION_IGNORED, X | T },
    { "enable-kvm", OPTION_IGNORED, X },
    { "enable-sync-profile", OPTION_IGNORED, X },
    { "export", OPTION_EXPORT, D | T },
    { "fda", OPTION_IMAGE, X | T, "if=floppy,index=0" },
    { "fdb", OPTION_IMAGE, X | T, "if=floppy,index=1" },
    { "fsdev", OPTION_IGNORED, X | T },
    { "full-screen", OPTION_IGNORED, X },
    { "fw_cfg", OPTION_IGNORED, X | T },
    { "gdb", OPTION_REFUSED, X | T, "there is no CPU to debug" },
    { "global", OPTION_KEY_VALUE, X | T },
    { "h", OPTION_HELP, S | D },
    { "hda", OPTION_IMAGE, X | T, "index=0,media=disk" },
    { "hdb", OPTION_IMAGE, X | T, "index=1,media=disk" },
    { "hdc", OPTION_IMAGE, X | T, "index=2,media=disk" },
    { "hdd", OPTION_IMAGE, X | T, "index=3,media=disk" },
    { "help", OPTION_HELP, S | D },
    { "icount", OPTION_IGNORED, X | T },
    { "incoming", OPTION_INCOMING, X | T },
    { "initrd", OPTION_REFUSED, X | T, NO_GUEST },
    { "iscsi", OPTION_REFUSED, X | T, "there is no iSCSI" },
    { "k", OPTION_IGNORED, X | T },
    { "kernel", OPTION_REFUSED, X | T, NO_GUEST },
    { "loadvm", OPTION_REFUSED, X | T, "there is no state of a guest" },
    { "m", OPTION_KEY_VALUE, X | T, "size" },
    { "machine", OPTION_MACHINE, X | T },
    { "mem-path", OPTION_IGNORED, X | T },
    { "mem-prealloc", OPTION_IGNORED, X },
    { "mon", OPTION_MON, S | T },
    { "monitor", OPTION_MONITOR, S | D | T },
    { "msg", OPTION_KEY_VALUE, X | T },
    { "mtdblock", OPTION_IMAGE, X | T, "if=mtd" },
    { "name", OPTION_NAME, X | T },
    { "nbd-server", OPTION_NBD_SERVER, D | T },
    { "net", OPTION_IGNORED, X | T },
    { "netdev", OPTION_NETDEV, X | T },
    { "nic", OPTION_IGNORED, X | T },
    { "no-acpi", OPTION_IGNORED, X },
    { "no-fd-bootchk", OPTION_IGNORED, X },
    { "no-hpet", OPTION_IGNORED, X },
    { "no-reboot", OPTION_IGNORED, X },
    { "no-shutdown", OPTION_NO_SHUTDOWN, X },
    { "no-user-config", OPTION_IGNORED, X },
    { "nodefaults", OPTION_NODEFAULTS, X },
    { "nographic", OPTION_NOGRAPHIC, X },
    { "numa", OPTION_IGNORED, X | T },
    { "object", OPTION_OBJECT, S | D | T },
    { "only-migratable", OPTION_IGNORED, X },
    { "option-rom", OPTION_IGNORED, X | T },
    { "overcommit", OPTION_KEY_VALUE, X | T },
    { "parallel", OPTION_SERIAL, X | T },
    { "pflash", OPTION_IMAGE, X | T, "if=pflash,format=raw" },
    { "pidfile", OPTION_PIDFILE, S | D | T },
    { "plugin", OPTION_REFUSED, X | T, "there is no CPU to look at" },
    { "preconfig", OPTION_REFUSED, X, "there is no state before -machine" },
    { "qmp", OPTION_QMP, S | T },
    { "qmp-pretty", OPTION_QMP_PRETTY, S | T },
    { "qtest", OPTION_QTEST, X | T },
    { "qtest-log", OPTION_IGNORED, X | T },
    { "readconfig", OPTION_READCONFIG, X | T },
    { "rtc", OPTION_KEY_VALUE, X | T },
    { "run-with", OPTION_CHROOT, X | T },
    { "runas", OPTION_RUNAS, X | T },
    { "s", OPTION_REFUSED, X, "there is no CPU to debug" },
    { "sandbox", OPTION_KEY_VALUE, X | T, "enable" },
    { "sd", OPTION_IMAGE, X | T, "if=sd" },
    { "seed", OPTION_IGNORED, X | T },
    { "serial", OPTION_SERIAL, X | T },
    { "set", OPTION_SET, X | T },
    { "singlestep", OPTION_IGNORED, X },
    { "smbios", OPTION_IGNORED, X | T },
    { "smp", OPTION_KEY_VALUE, X | T, "cpus" },
    { "snapshot", OPTION_SNAPSHOT, X },
    { "spice", OPTION_IGNORED, X | T },
    { "tpmdev", OPTION_IGNORED, X | T },
    { "trace", OPTION_TRACE, S | D | T },
    { "usb", OPTION_IGNORED, X },
    { "usbdevice", OPTION_IGNORED, X | T },
    { "uuid", OPTION_UUID, X | T },
    { "version", OPTION_VERSION, S | D },
    { "vga", OPTION_IGNORED, X | T },
    { "virtfs", OPTION_IGNORED, X | T },
    { "vnc", OPTION_IGNORED, X | T },
    { "watchdog-action", OPTION_IGNORED, X | T },
    { "win2k-hack", OPTION_IGNORED, X },
};

const struct option_desc *option_table(size_t *n)
{
    *n = G_N_ELEMENTS(table);
    return table;
}

const struct option_desc *option_find(const char *name, size_t len)
{
    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strlen(table[i].name) == len &&
            !memcmp(table[i].name, name, len)) {
            return &table[i];
        }
    }
    return NULL;
}
