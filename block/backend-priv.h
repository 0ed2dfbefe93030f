/* SPDX-License-Identifier: MIT */
/* What the files of backends share: backend.c, backend-io.c,
 * backend-limits.c, backend-policy.c, qmp-device.c. */
#pragma once

#include <stdatomic.h>
#include "base/lock.h"
#include "block/backend.h"
#include "block/objects/throttle-group.h"
#include "block/stats.h"

enum { USERS_CLOSED = 1, USERS_ONE = 2 };

/* What holds requests back until they may go.  Control lock, unless noted. */
struct backend_limits {
    struct throttle_group_object *group;    /* owned use; NULL: none */
    struct throttle_member member;          /* in it */
    int n_let_go;                           /* the member's, kept while there
                                               is none */
    /* Atomic: is there a group?  Looked at without a lock. */
    bool on;
    struct lock lock;                       /* rank LOCK_ROOT */
    struct cond changed;
    /* Protected by lock. */
    bool changing;      /* nobody comes in */
    int n_inside;       /* requests that use group and member */
};

struct backend {
    /* Control lock, unless noted. */
    char *name;                 /* owned; NULL: none */
    uint64_t serial;            /* constant; order of creation, roots' too */
    int n_refs;
    bool with_dev;              /* the name's reference is -drive's */
    bool read_only_wanted;
    bool removing;              /* backend_remove() is at work */
    struct backend_dev *dev;    /* borrowed */
    unsigned perm, shared;      /* of the root, or of one to come */
    struct backend_watcher *watchers;
    struct backend *prev, *next;    /* all, in order of creation */

    /* Changes with the control lock, and only while .users is closed and
     * zero: who has entered may use it. */
    struct root *root;          /* owned; NULL: empty */

    /* Policy (backend-policy.c). */
    BlockdevOnError on_error[2];    /* of reads, of writes; auto: not told */
    BlockDeviceIoStatus io_status;

    /* Any thread. */
    _Atomic uint64_t users;     /* entered times USERS_ONE, USERS_CLOSED */
    _Atomic bool writethrough;
    _Atomic bool on_error_set;  /* one of them is not auto */
    struct block_stats *stats;  /* owned; constant */
    struct backend_limits limits;
};

/* ---- backend-limits.c --------------------------------------------------- */

void backend_limits_init(struct backend *b);
void backend_limits_deinit(struct backend *b);

/* ---- backend-policy.c --------------------------------------------------- */

/* Is there somebody whom io-status could tell something? */
bool backend_has_policy(const struct backend *b);
