/* SPDX-License-Identifier: MIT */
/* Image locks: see file-locks.h. */
#include "block/file-locks.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "base/error.h"
#include "block/types.h"

enum { BASE_HELD = 100, BASE_UNSHARED = 200 };

static const char *const perm_names[N_PERMS] = {
    "consistent read", "write", "write unchanged", "resize",
};

/* F_RDLCK or F_UNLCK on one byte. */
static bool set_byte(int fd, int byte, short type, struct error **errp)
{
    struct flock fl = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1,
    };
    int ret;

    do {
        ret = fcntl(fd, F_OFD_SETLK, &fl);
    } while (ret < 0 && errno == EINTR);
    if (ret < 0 && type != F_UNLCK) {
        error_set_errno(errp, errno, "Failed to lock byte %d", byte);
        return false;
    }
    return true;
}

static bool byte_is_free(int fd, int byte)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1,
    };

    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type == F_UNLCK;
}

bool file_locks_set(int fd, unsigned perm, unsigned shared, bool drop_others,
                    struct error **errp)
{
    for (int b = 0; b < N_PERMS; b++) {
        bool held = perm & (1u << b), unshared = !(shared & (1u << b));
        if ((held || drop_others) &&
            !set_byte(fd, BASE_HELD + b, held ? F_RDLCK : F_UNLCK, errp)) {
            return false;
        }
        if ((unshared || drop_others) &&
            !set_byte(fd, BASE_UNSHARED + b, unshared ? F_RDLCK : F_UNLCK,
                      errp)) {
            return false;
        }
    }
    return true;
}

static void add_hint(const char *path, struct error **errp)
{
    if (path) {
        error_append_hint(errp, "Is another process using the image [%s]?\n",
                          path);
        error_add_file(errp, path);
    }
}

bool file_locks_check(int fd, unsigned perm, unsigned shared,
                      const char *path, struct error **errp)
{
    for (int b = 0; b < N_PERMS; b++) {
        if ((perm & (1u << b)) && !byte_is_free(fd, BASE_UNSHARED + b)) {
            error_set(errp, "Failed to get \"%s\" lock", perm_names[b]);
            add_hint(path, errp);
            return false;
        }
    }
    for (int b = 0; b < N_PERMS; b++) {
        if (!(shared & (1u << b)) && !byte_is_free(fd, BASE_HELD + b)) {
            error_set(errp, "Failed to get shared \"%s\" lock", perm_names[b]);
            add_hint(path, errp);
            return false;
        }
    }
    return true;
}
