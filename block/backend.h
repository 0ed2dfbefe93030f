/* SPDX-License-Identifier: MIT */
/*
 * Backends: what a disk of the machine is, whatever node is below it now.
 *
 * Problem     Commands call a disk by its name; its limits, statistics and
 *             error policy belong to it and not to a node, which snapshots,
 *             jobs and changes of media replace.
 * Answer      A backend: a name (or none), the root it enters the graph
 *             with while it has a medium, and what stays when that changes.
 *             -drive makes one with a name; a device that was given a node
 *             makes one without.  QEMU calls it BlockBackend.
 * Invariants  I1  There is a root while, and only while, there is a medium.
 *                 What the front end takes of the graph (backend_set_perm())
 *                 outlives it.
 *             I2  Without a front end a backend holds no permission but to
 *                 read, and shares all; HMP's qemu-io adds what its commands
 *                 need, and that stays, as in QEMU.
 *             I3  A request through backend_p*() waits for the limits first,
 *                 in flight on the root: a drain lets waiting ones go, and
 *                 waits for them as for others.
 *             I4  A named backend that -drive made goes with its front end
 *                 (device_del) or with drive_del, its node too if nobody
 *                 else has it.
 * Threads     backend_p*(), backend_flush(): any thread, no lock, between
 *             backend_enter() and backend_leave().  The rest: control lock
 *             held; what waits for requests yields.
 */
#pragma once

#include "block/root.h"
#include "block/throttle.h"

struct backend;

/* ---- the front end: a device of the machine ----------------------------- */

/* Embedded in the device, which keeps it true; constant but for tray_open. */
struct backend_dev {
    const char *id;             /* what the user called it, or NULL */
    const char *path;           /* in the tree of objects */
    const char *qdev;           /* what query-block shows: the id, else the
                                   path; of a virtio disk the path of its
                                   inner object */
    bool removable;             /* takes media in and out while it runs */
    bool has_tray;              /* of its own; else the drive is always open
                                   and always closed */
    bool tray_open;
    /* A medium was put in, or taken out, or resized; may be NULL. */
    void (*medium_changed)(struct backend_dev *dev);
};

/* ---- finding ------------------------------------------------------------ */

/* Of that name; NULL: none (also for NULL and ""). */
struct backend *backend_find(const char *name);
/* The device called ID, or at that path of the tree, or (a virtio disk) its
 * inner object: its backend, or NULL. */
struct backend *backend_find_by_dev(const char *id);
/*
 * As commands on media have it: by DEVICE (a backend's name), or ID (a
 * device's); just one of them is given.  NULL with QEMU's text.
 */
struct backend *backend_lookup(const char *device, const char *id,
                               struct error **errp);
/* Oldest first: for (b = backend_next(NULL); b; b = backend_next(b)). */
struct backend *backend_next(const struct backend *b);
/* One with a name whose medium is N; NULL: none. */
struct backend *backend_of_node(const struct node *n);
/* What messages call N: the name of that, else N's own.  Borrowed. */
const char *backend_or_node_name(const struct node *n);
/* What a job on the node that DEVICE (a backend or a node) means is called:
 * WANTED, if the user has said, else as the backend, or "".  Owned by the
 * caller: the backend may go. */
char *backend_job_id(const char *wanted, const char *device);

/* ---- life --------------------------------------------------------------- */

struct backend_options {
    const char *name;           /* NULL: none */
    /* -drive's: it goes when its front end goes. */
    bool with_dev;
    bool writethrough;          /* every write is on stable storage */
    bool read_only;             /* of media to come, when none is told */
    /* AUTO: nobody said, it is report and enospc. */
    BlockdevOnError on_read_error, on_write_error;
};

/* With a reference for the caller, listed.  NULL with QEMU's text: the name
 * is no name, or taken by a backend or a node. */
struct backend *backend_new(const struct backend_options *options,
                            struct error **errp);
struct backend *backend_ref(struct backend *b);
/* The last one takes out the medium and frees it: yields.  NULL is fine. */
void backend_unref(struct backend *b);
/* Take the name away: nobody finds it any more (drive_del of one in use,
 * device_del of one that -drive made).  Its reference, if -drive's, with it:
 * yields. */
void backend_forget(struct backend *b);
/* Who is told of that, before it is done. */
void backend_set_forget_hook(void (*forget)(const struct backend *b));

/* ---- medium ------------------------------------------------------------- */

const char *backend_name(const struct backend *b);      /* "" if none */
/* For messages: its name, or that of its device; "" if it has neither. */
const char *backend_shown_name(const struct backend *b);
struct node *backend_node(const struct backend *b);     /* NULL: empty */
/* NULL while it is empty. */
struct root *backend_root(const struct backend *b);
/* Whose root is R?  NULL: no backend's. */
struct backend *backend_of_root(const struct root *r);
/* Put NODE (ref taken) into the empty B.  False with a text: permissions. */
bool backend_insert(struct backend *b, struct node *node, struct error **errp);
/* Take the medium out: jobs' and exports' hold on the node is theirs.
 * Yields. */
void backend_remove(struct backend *b);
/* Another node in its place, at once (qom-set drive, job's end: the graph
 * does that).  All or nothing; yields (drains). */
bool backend_replace(struct backend *b, struct node *node,
                     struct error **errp);

/* Told once, before the medium goes; may yield.  Then it watches no more.
 * Owned by who watches. */
struct backend_watcher {
    void (*medium_goes)(struct backend_watcher *w);
    struct backend_watcher *next;
};
void backend_watch(struct backend *b, struct backend_watcher *w);
/* No harm if it was told already. */
void backend_unwatch(struct backend *b, struct backend_watcher *w);

/* ---- front end ---------------------------------------------------------- */

/* DEV (borrowed until detached) takes B, with these permissions.  False with
 * QEMU's text: in use by another one ("Drive 'X' is already in use by another
 * block device"), permissions. */
bool backend_attach_dev(struct backend *b, struct backend_dev *dev,
                        unsigned perm, unsigned shared, struct error **errp);
/* Yields: B may go with it (I4). */
void backend_detach_dev(struct backend *b);
struct backend_dev *backend_dev(const struct backend *b);   /* or NULL */
bool backend_set_perm(struct backend *b, unsigned perm, unsigned shared,
                      struct error **errp);
void backend_get_perm(const struct backend *b, unsigned *perm,
                      unsigned *shared);

/* ---- limits, policy, statistics ----------------------------------------- */

/* GROUP NULL: the one it has, or else its own (its name, its device's).
 * LIMITS without any limit: none, and it leaves the group. */
void backend_set_limits(struct backend *b, const char *group,
                        const struct throttle_limits *limits);
/* False: none are set.  *GROUP is borrowed. */
bool backend_get_limits(const struct backend *b, const char **group,
                        struct throttle_limits *limits);
struct block_stats *backend_stats(const struct backend *b);
/* For a guest that has a root of its own (an export): wait until a request of
 * B may go.  Any thread, no lock. */
bool backend_is_limited(const struct backend *b);
void backend_wait_for_turn(struct backend *b, bool is_write, int64_t bytes);
/* Control lock: nothing waits, until as many _end(). */
void backend_let_go_begin(struct backend *b);
void backend_let_go_end(struct backend *b);
/* The server ends: of those there are nothing waits any more. */
void backends_let_go(void);

void backend_set_on_error(struct backend *b, BlockdevOnError on_read,
                          BlockdevOnError on_write);
/* Has the user said what to do (anything but auto)?  Any thread. */
bool backend_on_error_set(const struct backend *b);
bool backend_writethrough(const struct backend *b);
void backend_set_writethrough(struct backend *b, bool on);
bool backend_read_only_wanted(const struct backend *b);
void backend_set_read_only_wanted(struct backend *b, bool on);
/* As shown by query-block: of devices that have a policy. */
BlockDeviceIoStatus backend_io_status(const struct backend *b);
/* cont: all are "ok" again, who waits for it tries again. */
void backend_resume_all(void);

/*
 * A guest's request failed with ERROR (> 0): what the policy says, with
 * BLOCK_IO_ERROR sent and, if it says stop, the machine stopped (through
 * the hook).  STOP: the caller waits with backend_wait_resumed() and tries
 * again, or gives up.
 */
BlockErrorAction backend_guest_error(struct backend *b, bool is_read,
                                     int error);
/* Until cont; false: GIVES_UP(OPAQUE) said so (after a control_notify()), or
 * the medium goes.  Yields. */
bool backend_wait_resumed(struct backend *b, bool (*gives_up)(void *opaque),
                          void *opaque);
/* Who stops the machine. */
void backend_set_stop_hook(void (*stop)(void));

/* ---- requests ----------------------------------------------------------- */

/* What nobody takes away between the two: false if B is empty (-ENOMEDIUM). */
bool backend_enter(struct backend *b);
void backend_leave(struct backend *b);

/*
 * As root_p*(), with the limits, the statistics and the cache mode of B:
 * what a guest does.  0 or -errno; -ENOMEDIUM.
 */
int backend_pread(struct backend *b, int64_t offset, int64_t bytes, void *buf);
int backend_pwrite(struct backend *b, int64_t offset, int64_t bytes,
                   const void *buf, unsigned flags);
int backend_pwrite_zeroes(struct backend *b, int64_t offset, int64_t bytes,
                          unsigned flags);
int backend_pdiscard(struct backend *b, int64_t offset, int64_t bytes);
int backend_flush(struct backend *b);
/* How many have entered, of all backends. */
int64_t backend_count_entered(void);
