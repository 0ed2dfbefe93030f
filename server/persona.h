/* SPDX-License-Identifier: MIT */
/*
 * In whose place do we stand?  By the name of the program, or by the options
 * that only one of the two has.  Decided before the first option takes
 * effect, constant from then on.
 */
#pragma once

#include <stdbool.h>

enum persona {
    PERSONA_BLOCKJOBD,          /* our own: all options, in order */
    PERSONA_SYSTEM,             /* qemu-system-x86_64: a machine */
    PERSONA_STORAGE_DAEMON,     /* qemu-storage-daemon: no SHUTDOWN, no
                                   devices, no HMP */
};

enum persona persona_get(void);
/* Commands and events of a machine: not the storage daemon. */
bool persona_has_machine(void);
/* Is NAME (static or not) a command that clients see?  Of a storage daemon
 * those of a machine are not. */
bool persona_has_command(const char *name);

/* By the name of the program alone: PERSONA_BLOCKJOBD if it is neither of
 * QEMU's. */
enum persona persona_of_program(const char *argv0);
/* Once, at the start. */
void persona_set(enum persona persona);
