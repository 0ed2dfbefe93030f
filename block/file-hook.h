/* SPDX-License-Identifier: MIT */
/*
 * Files that are no names in the file system: /dev/fdset/N is one of the
 * descriptors that the server has been given as set N.
 */
#pragma once

#include <stdint.h>

struct file_fdset_hook {
    /* As open(): a descriptor whose access mode is that of FLAGS, and with
     * O_DIRECT if they say so; or -1 and errno.  Any thread. */
    int (*open)(int64_t set, int flags);
    /* close() of any descriptor; of those of open() it must be this. */
    int (*close)(int fd);
};

/* HOOK is static.  Once, at start. */
void file_set_fdset_hook(const struct file_fdset_hook *hook);
