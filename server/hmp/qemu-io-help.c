/* SPDX-License-Identifier: MIT */
/* qemu-io: help. */
#include "server/hmp/qemu-io-priv.h"

#include <string.h>

/* NAME: what the user called it. */
static void say_one(struct qemu_io *io, const char *name,
                    const struct io_command *c)
{
    io_say(io, "%s ", name);
    if (c->args) {
        io_say(io, "%s ", c->args);
    }
    io_say(io, "-- %s\n", c->summary);
}

void io_usage(struct qemu_io *io)
{
    say_one(io, io->command->name, io->command);
}

static void say_all(struct qemu_io *io)
{
    for (const struct io_command *c = io_commands; c->name; c++) {
        say_one(io, c->name, c);
    }
    io_say(io, "\nUse 'help commandname' for extended help.\n");
}

void io_help(struct qemu_io *io)
{
    const struct io_command *c;

    if (io->argc == 1) {
        say_all(io);
        return;
    }
    c = io_command_find(io->argv[1]);
    if (!c) {
        io_say(io, "command %s not found\n", io->argv[1]);
        return;
    }
    say_one(io, io->argv[1], c);
    if (c->more) {
        io_say(io, "\n%s\n", c->more);
    }
}
