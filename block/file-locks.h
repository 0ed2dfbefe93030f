/* SPDX-License-Identifier: MIT */
/*
 * Image locks: OFD byte-range locks as QEMU places them, so that QEMU, its
 * tools and we refuse each other what we would refuse among ourselves.
 *
 * Layout      byte 100+b is locked for every permission b that is held, byte
 *             200+b for every permission b that is not shared; all locks are
 *             shared ones (F_RDLCK), a conflict is found by asking whether an
 *             exclusive lock would be possible.  b: see enum in block/types.h.
 * Threads     Control lock held; nothing here waits.
 */
#pragma once

#include <stdbool.h>

struct error;

/* Lock what PERM and what is not in SHARED need; with DROP_OTHERS unlock the
 * rest.  FD's locks belong to its open file description. */
bool file_locks_set(int fd, unsigned perm, unsigned shared, bool drop_others,
                    struct error **errp);
/* Does someone else hold what PERM or SHARED rules out?  Text and hint are
 * QEMU's; PATH NULL: no hint. */
bool file_locks_check(int fd, unsigned perm, unsigned shared,
                      const char *path, struct error **errp);
