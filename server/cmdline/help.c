/* SPDX-License-Identifier: MIT */
/* --help: what most people need first, then all by subject. */
#include "server/cmdline/options.h"

#include <string.h>

struct entry {
    const char *option;         /* NULL: HELP is a heading */
    const char *help;           /* lines after the first are indented */
};

static const struct entry entries[] = {
    { NULL, "What most need" },
    { "--blockdev [driver=]DRIVER,node-name=NAME,...",
      "open a node: the arguments of blockdev-add as key=value\n"
      "(file.filename=disk.img for a nested one) or as JSON" },
    { "--drive file=PATH,format=FORMAT,if=none,id=ID,...",
      "open an image for a device, with a name of its own" },
    { "--device TYPE,drive=NAME,id=ID,...",
      "a disk of the machine: virtio-blk, scsi-hd, ide-cd, ...\n"
      "(--device help lists them, --device TYPE,help what they take)" },
    { "--object TYPE,id=ID,...",
      "a secret, throttle-group, iothread, tls-creds-x509, ...\n"
      "(--object help)" },
    { "--nbd-server addr.type=TYPE,addr....",
      "start the NBD server:\n"
      "  addr.type=unix,addr.path=PATH[,max-connections=N]\n"
      "  addr.type=inet,addr.host=HOST,addr.port=PORT[,tls-creds=ID]" },
    { "--export [type=]nbd,id=ID,node-name=NAME,...",
      "export a node over NBD: [,name=EXPORT][,writable=on|off]" },
    { "--qmp WHERE",
      "serve QMP there:\n"
      "  unix:PATH[,server=on][,wait=off]\n"
      "  tcp:HOST:PORT[,server=on][,wait=off]\n"
      "  stdio\n"
      "server=on listens, otherwise connects; with wait=off\n"
      "the server does not wait for its first client" },
    { "--monitor WHERE",
      "a monitor for people there (HMP); none for none;\n"
      "with the name of a --chardev: QMP, as the storage daemon" },
    { "--pidfile PATH",
      "write the process id there when everything is set up;\n"
      "the file is removed at the end" },
    { "--daemonize",
      "run in the background; the command returns when everything\n"
      "is set up, or failed" },
    { "-h, --help", "print this text and exit" },
    { "-V, --version", "print name and version and exit" },

    { NULL, "Monitors" },
    { "--chardev KIND,id=ID[,...]",
      "a channel for a monitor:\n"
      "  socket,id=ID,path=PATH\n"
      "  socket,id=ID,host=HOST,port=PORT[,ipv4=on|off][,ipv6=on|off]\n"
      "  socket,id=ID,fd=NUMBER\n"
      "    [,server=on][,wait=on|off][,reconnect=SECONDS]\n"
      "  stdio,id=ID    pty,id=ID    pipe,id=ID,path=PATH\n"
      "  null,id=ID     file,id=ID,path=PATH[,append=on]" },
    { "--mon [chardev=]ID[,mode=readline|control][,pretty=on|off]",
      "HMP, or with mode=control QMP, on this channel" },
    { "--monitor [chardev=]ID[,pretty=on|off]",
      "QMP on this channel" },
    { "--qmp-pretty WHERE", "as --qmp, with indented replies" },
    { "--qtest chardev:ID", "the socket of test harnesses (clock_step)" },

    { NULL, "Disks" },
    { "--hda PATH, --hdb, --hdc, --hdd, --cdrom, --fda, --fdb, PATH alone",
      "a drive of the machine, as --drive with if=ide or if=floppy" },
    { "--mtdblock PATH, --pflash PATH, --sd PATH",
      "such drives; of a pc, only --pflash" },
    { "--snapshot", "keep no changes of any --drive" },
    { "--add-fd fd=FD,set=SET[,opaque=TEXT]",
      "an inherited descriptor, to be opened as /dev/fdset/SET" },

    { NULL, "The machine (it has no CPU and no guest)" },
    { "-M, --machine [type=]NAME[,...]",
      "what buses there are: none, pc, q35, ... (--machine help)" },
    { "--accel NAME",
      "qtest: limits are measured with a clock that stands still;\n"
      "kvm, tcg: taken, nothing comes of it" },
    { "--nodefaults", "no drives and no monitor that were not asked for" },
    { "--nographic", "without any monitor given: one on the terminal" },
    { "-S", "begin stopped, until cont" },
    { "--incoming defer", "begin in the state inmigrate" },
    { "--name [guest=]NAME", "what query-name says" },
    { "--uuid UUID", "what query-uuid says" },
    { "--cpu MODEL", "taken, nothing comes of it" },
    { "--no-shutdown", "stay when the machine is powered down" },
    { "--serial WHERE, --parallel WHERE, --debugcon WHERE",
      "a channel on which nothing is ever said;\n"
      "mon:WHERE has a monitor there" },
    { "--netdev TYPE,id=ID,...", "taken, nothing comes of it" },
    { "--set GROUP.ID.KEY=VALUE",
      "one more key for the --drive, --device, ... called ID" },
    { "--readconfig PATH", "options from a file: [device \"ID\"] and so on" },

    { NULL, "The process" },
    { "--run-with [chroot=PATH][,user=USER], --chroot PATH, --runas USER",
      "when everything is open: give up rights" },
    { "-T, --trace MODULE[,MODULE...]",
      "say on stderr what happens: all, or some of\n"
      "graph drain perm block-io file qcow2 qcow2-io bitmap job\n"
      "copy-io nbd nbd-io qmp server" },
};

static void print_entry(FILE *stream, const struct entry *e)
{
    g_auto(GStrv) lines = g_strsplit(e->help, "\n", -1);

    if (!e->option) {
        fprintf(stream, "\n%s:\n", e->help);
        return;
    }
    fprintf(stream, "  %s\n", e->option);
    for (char **line = lines; *line; line++) {
        fprintf(stream, "        %s\n", *line);
    }
}

/* All options of KINDS as a paragraph. */
static void print_names(FILE *stream, bool refused)
{
    const struct option_desc *table;
    size_t n, column = 0;

    table = option_table(&n);
    for (size_t i = 0; i < n; i++) {
        enum option_kind kind = table[i].kind;
        int width = strlen(table[i].name) + 2;

        if (refused ? kind != OPTION_REFUSED
            : kind != OPTION_IGNORED && kind != OPTION_KEY_VALUE) {
            continue;
        }
        if (column == 0 || column + width > 76) {
            fprintf(stream, column ? "\n " : " ");
            column = 1;
        }
        fprintf(stream, " -%s", table[i].name);
        column += width;
    }
    fprintf(stream, "\n");
}

void options_print_help(FILE *stream, const char *program)
{
    fprintf(stream,
        "Usage: %s [OPTION]...\n"
        "\n"
        "A QMP server for block jobs: opens disk images, serves them over\n"
        "NBD, and backs them up while they are in use.  It takes the options\n"
        "of qemu-system-x86_64 and of qemu-storage-daemon.\n"
        "\n"
        "One dash or two is the same, and so is \"--name TEXT\" and\n"
        "\"--name=TEXT\"; a comma in a value is doubled.\n", program);
    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        print_entry(stream, &entries[i]);
    }
    fprintf(stream, "\nTaken from managers of machines, without effect:\n");
    print_names(stream, false);
    fprintf(stream, "\nRefused, as nothing here could do it:\n");
    print_names(stream, true);
    fprintf(stream,
        "\n"
        "Example:\n"
        "  %s --blockdev driver=qcow2,node-name=disk,file.driver=file,"
        "file.filename=disk.qcow2 \\\n"
        "      --nbd-server addr.type=unix,addr.path=/tmp/nbd.sock \\\n"
        "      --export nbd,id=e,node-name=disk,writable=on \\\n"
        "      --qmp unix:/tmp/qmp.sock,server=on,wait=off\n"
        "\n"
        "blockjobctl(1) talks to it; blockjobd(1) tells more.\n", program);
}
