/* SPDX-License-Identifier: MIT */
/*
 * In whose place do we stand?  By the name of the program, or by the options
 * that only one of the two has.  Decided before the first option takes
 * effect, constant from then on.
 */
#pragma once

enum persona {
    PERSONA_BLOCKJOBD,          /* our own: all options, in order */
    PERSONA_SYSTEM,             /* qemu-system-x86_64: a machine */
    PERSONA_STORAGE_DAEMON,     /* qemu-storage-daemon: no SHUTDOWN, no
                                   devices, no HMP */
};

enum persona persona_get(void);
/* Commands and events of a machine: not the storage daemon. */
bool persona_has_machine(void);
