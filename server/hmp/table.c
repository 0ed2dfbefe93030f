/* SPDX-License-Identifier: MIT */
/* All commands of HMP. */
#include "server/hmp/command.h"

#define PARAMS(...) (const struct hmp_param[]) { __VA_ARGS__, { NULL } }
#define OPTIONAL true

static void info_alone(struct hmp *m, const struct hmp_args *a)
{
    hmp_help_info(m);
}

const struct hmp_command hmp_commands[] = {
    {
        .name = "block_job_cancel", .synopsis = "[-f] device",
        .help = "end a block job (-f: at once, though its target is not in "
                "sync)",
        .params = PARAMS({ "force", HMP_FLAG, OPTIONAL, 'f' },
                         { "device", HMP_JOB }),
        .run = hmp_block_job_cancel,
    }, {
        .name = "block_job_complete", .synopsis = "device",
        .help = "let a block job that is ready end",
        .params = PARAMS({ "device", HMP_JOB }),
        .run = hmp_block_job_complete,
    }, {
        .name = "block_job_pause", .synopsis = "device",
        .help = "let a block job wait",
        .params = PARAMS({ "device", HMP_JOB }),
        .run = hmp_block_job_pause,
    }, {
        .name = "block_job_resume", .synopsis = "device",
        .help = "let a block job that waits go on",
        .params = PARAMS({ "device", HMP_JOB }),
        .run = hmp_block_job_resume,
    }, {
        .name = "block_job_set_speed", .synopsis = "device speed",
        .help = "limit a block job's speed",
        .params = PARAMS({ "device", HMP_JOB }, { "speed", HMP_SIZE }),
        .run = hmp_block_job_set_speed,
    }, {
        .name = "block_resize", .synopsis = "device size",
        .help = "change the size of an image",
        .params = PARAMS({ "device", HMP_BLOCK }, { "size", HMP_SIZE }),
        .run = hmp_block_resize,
    }, {
        .name = "block_set_io_throttle",
        .synopsis = "device bps bps_rd bps_wr iops iops_rd iops_wr",
        .help = "limit what a device's guest may do in a second; 0: no limit",
        .params = PARAMS({ "device", HMP_BLOCK }, { "bps", HMP_INT },
                         { "bps_rd", HMP_INT }, { "bps_wr", HMP_INT },
                         { "iops", HMP_INT }, { "iops_rd", HMP_INT },
                         { "iops_wr", HMP_INT }),
        .run = hmp_block_set_io_throttle,
    }, {
        .name = "block_stream", .synopsis = "device [speed [base]]",
        .help = "copy what is in backing files into a device's image",
        .params = PARAMS({ "device", HMP_BLOCK },
                         { "speed", HMP_SIZE, OPTIONAL },
                         { "base", HMP_STRING, OPTIONAL }),
        .run = hmp_block_stream,
    }, {
        .name = "change",
        .synopsis = "device [-f] filename [format [read-only-mode]]",
        .help = "put another medium into a drive (-f: though the guest has "
                "locked it)",
        .params = PARAMS({ "device", HMP_BLOCK },
                         { "force", HMP_FLAG, OPTIONAL, 'f' },
                         { "target", HMP_FILE },
                         { "format", HMP_STRING, OPTIONAL },
                         { "mode", HMP_STRING, OPTIONAL }),
        .run = hmp_change,
    }, {
        .name = "closefd", .synopsis = "name",
        .help = "close a file descriptor that getfd has kept",
        .params = PARAMS({ "fdname", HMP_STRING }),
        .run = hmp_closefd,
    }, {
        .name = "commit", .synopsis = "device|all",
        .help = "write what an image has into the image behind it, and empty "
                "it",
        .params = PARAMS({ "device", HMP_BLOCK }),
        .run = hmp_commit,
    }, {
        .name = "cont|c", .synopsis = "",
        .help = "let the machine run",
        .run = hmp_cont,
    }, {
        .name = "device_add", .synopsis = "driver[,prop=value][,...]",
        .help = "plug a device in, as -device does",
        .params = PARAMS({ "device", HMP_OPTIONS, OPTIONAL }),
        .run = hmp_device_add,
    }, {
        .name = "device_del", .synopsis = "device",
        .help = "unplug a device",
        .params = PARAMS({ "id", HMP_DEVICE }),
        .run = hmp_device_del,
    }, {
        .name = "drive_add", .synopsis = "[-n] slot option[,...]",
        .help = "add a drive, as -drive does (-n: a node); slot has no meaning",
        .params = PARAMS({ "node", HMP_FLAG, OPTIONAL, 'n' },
                         { "pci_addr", HMP_STRING }, { "opts", HMP_STRING }),
        .run = hmp_drive_add,
    }, {
        .name = "drive_backup",
        .synopsis = "[-n] [-f] [-c] device target [format]",
        .help = "copy a device as it is now (-n: into a file that is there; "
                "-f: with what is in backing files; -c: compressed)",
        .params = PARAMS({ "reuse", HMP_FLAG, OPTIONAL, 'n' },
                         { "full", HMP_FLAG, OPTIONAL, 'f' },
                         { "compress", HMP_FLAG, OPTIONAL, 'c' },
                         { "device", HMP_BLOCK }, { "target", HMP_STRING },
                         { "format", HMP_STRING, OPTIONAL }),
        .run = hmp_drive_backup,
    }, {
        .name = "drive_del", .synopsis = "device",
        .help = "take a drive away, also from under its device",
        .params = PARAMS({ "id", HMP_BLOCK }),
        .run = hmp_drive_del,
    }, {
        .name = "drive_mirror", .synopsis = "[-n] [-f] device target [format]",
        .help = "copy a device and all that is written to it, then move there "
                "(-n: into a file that is there; -f: with what is in backing "
                "files)",
        .params = PARAMS({ "reuse", HMP_FLAG, OPTIONAL, 'n' },
                         { "full", HMP_FLAG, OPTIONAL, 'f' },
                         { "device", HMP_BLOCK }, { "target", HMP_STRING },
                         { "format", HMP_STRING, OPTIONAL }),
        .run = hmp_drive_mirror,
    }, {
        .name = "eject", .synopsis = "[-f] device",
        .help = "take the medium out of a drive (-f: though the guest has "
                "locked it)",
        .params = PARAMS({ "force", HMP_FLAG, OPTIONAL, 'f' },
                         { "device", HMP_BLOCK }),
        .run = hmp_eject,
    }, {
        .name = "getfd", .synopsis = "name",
        .help = "keep a file descriptor that comes along, and give it a name",
        .params = PARAMS({ "fdname", HMP_STRING }),
        .run = hmp_getfd,
    }, {
        .name = "help|?", .synopsis = "[cmd]",
        .help = "show what commands there are, or one of them",
        .params = PARAMS({ "name", HMP_REST, OPTIONAL }),
        .run = hmp_help,
    }, {
        .name = "info", .synopsis = "[subcommand]",
        .help = "show something; info alone shows what",
        .params = PARAMS({ "name", HMP_REST, OPTIONAL }),
        .run = info_alone, .sub = hmp_info_commands,
    }, {
        .name = "nbd_server_add", .synopsis = "[-w] device [name]",
        .help = "export a device with NBD (-w: writable)",
        .params = PARAMS({ "writable", HMP_FLAG, OPTIONAL, 'w' },
                         { "device", HMP_BLOCK },
                         { "name", HMP_STRING, OPTIONAL }),
        .run = hmp_nbd_server_add,
    }, {
        .name = "nbd_server_remove", .synopsis = "[-f] name",
        .help = "take an export away (-f: also from those who use it)",
        .params = PARAMS({ "force", HMP_FLAG, OPTIONAL, 'f' },
                         { "name", HMP_STRING }),
        .run = hmp_nbd_server_remove,
    }, {
        .name = "nbd_server_start", .synopsis = "[-a] [-w] host:port",
        .help = "start the NBD server (-a: and export all devices; -w: "
                "writable)",
        .params = PARAMS({ "all", HMP_FLAG, OPTIONAL, 'a' },
                         { "writable", HMP_FLAG, OPTIONAL, 'w' },
                         { "uri", HMP_STRING }),
        .run = hmp_nbd_server_start,
    }, {
        .name = "nbd_server_stop", .synopsis = "",
        .help = "stop the NBD server",
        .run = hmp_nbd_server_stop,
    }, {
        .name = "object_add",
        .synopsis = "[qom-type=]type,id=str[,prop=value][,...]",
        .help = "make an object, as -object does",
        .params = PARAMS({ "object", HMP_REST }),
        .run = hmp_object_add,
    }, {
        .name = "object_del", .synopsis = "id",
        .help = "take an object away",
        .params = PARAMS({ "id", HMP_OBJECT }),
        .run = hmp_object_del,
    }, {
        .name = "print|p", .synopsis = "/fmt expr",
        .help = "show a number (/x /d /u /o /c: how)",
        .params = PARAMS({ "format", HMP_FORMAT, OPTIONAL },
                         { "value", HMP_INT }),
        .run = hmp_print,
    }, {
        .name = "qemu-io", .synopsis = "[-d] [device] \"[command]\"",
        .help = "read or write as a guest does, in qemu-io's words (-d: device "
                "is a device's id or path)",
        .params = PARAMS({ "qdev", HMP_FLAG, OPTIONAL, 'd' },
                         { "device", HMP_BLOCK }, { "command", HMP_STRING }),
        .run = hmp_qemu_io,
    }, {
        .name = "qom-get", .synopsis = "path property",
        .help = "show a property of an object",
        .params = PARAMS({ "path", HMP_STRING }, { "property", HMP_STRING }),
        .run = hmp_qom_get,
    }, {
        .name = "qom-list", .synopsis = "path",
        .help = "show what properties an object has",
        .params = PARAMS({ "path", HMP_STRING, OPTIONAL }),
        .run = hmp_qom_list,
    }, {
        .name = "qom-set", .synopsis = "[-j] path property value",
        .help = "change a property of an object (-j: value is JSON)",
        .params = PARAMS({ "json", HMP_FLAG, OPTIONAL, 'j' },
                         { "path", HMP_STRING }, { "property", HMP_STRING },
                         { "value", HMP_REST }),
        .run = hmp_qom_set,
    }, {
        .name = "quit|q", .synopsis = "",
        .help = "end the server",
        .run = hmp_quit,
    }, {
        .name = "snapshot_blkdev",
        .synopsis = "[-n] device [new-image-file] [format]",
        .help = "put a new image above a device's (-n: into a file that is "
                "there; format: qcow2 if not given)",
        .params = PARAMS({ "reuse", HMP_FLAG, OPTIONAL, 'n' },
                         { "device", HMP_BLOCK },
                         { "snapshot-file", HMP_STRING, OPTIONAL },
                         { "format", HMP_STRING, OPTIONAL }),
        .run = hmp_snapshot_blkdev,
    }, {
        .name = "snapshot_blkdev_internal", .synopsis = "device name",
        .help = "take a snapshot inside a device's image",
        .params = PARAMS({ "device", HMP_BLOCK }, { "name", HMP_STRING }),
        .run = hmp_snapshot_blkdev_internal,
    }, {
        .name = "snapshot_delete_blkdev_internal",
        .synopsis = "device name [id]",
        .help = "delete a snapshot inside a device's image",
        .params = PARAMS({ "device", HMP_BLOCK }, { "name", HMP_STRING },
                         { "id", HMP_STRING, OPTIONAL }),
        .run = hmp_snapshot_delete_blkdev_internal,
    }, {
        .name = "stop|s", .synopsis = "",
        .help = "let the machine stand still",
        .run = hmp_stop,
    }, {
        .name = "system_powerdown", .synopsis = "",
        .help = "ask the guest to switch off",
        .run = hmp_system_powerdown,
    }, {
        .name = "system_reset", .synopsis = "",
        .help = "reset the machine",
        .run = hmp_system_reset,
    }, {
        .name = "system_wakeup", .synopsis = "",
        .help = "wake the machine up",
        .run = hmp_system_wakeup,
    },
    { NULL },
};
