/* SPDX-License-Identifier: MIT */
/*
 * What is still to be sent to one client.
 *
 * Problem     A reply is sent by the thread that has it, an event by whoever
 *             causes it, and a client may read slowly, or never.
 * Invariants  I1  Bytes leave in the order of output_write().
 *             I2  Nobody waits for the client: what the kernel does not take
 *                 at once is queued and sent when wake() has been followed by
 *                 the descriptor's being writable.
 *             I3  At most OUTPUT_MAX_BYTES are queued before a write; the
 *                 client that lets more pile up is given up (broken).
 * Threads     Any; the lock has rank LOCK_MONITOR.
 */
#pragma once

#include "base/lock.h"

enum {
    OUTPUT_MAX_BYTES = 64 << 20,
};

struct output {
    /* Constant. */
    bool is_socket;
    /* Something must be done: send when writable, or hang up when broken.
     * Called with the lock held; takes no lock of a rank up to ours. */
    void (*wake)(void *opaque);
    void *opaque;

    struct lock lock;
    /* Protected by lock. */
    int fd;                     /* borrowed; -1 when broken */
    GByteArray *queue;          /* owned */
    size_t n_sent;              /* of the queue's beginning */
    bool corked;                /* collect, output_uncork() sends */

    /* Atomic. */
    bool broken;                /* set once: nothing is sent any more */
    size_t n_pending;           /* queue->len - n_sent */
};

void output_init(struct output *o, int fd, bool is_socket);
void output_deinit(struct output *o);
void output_write(struct output *o, const char *data, size_t len);
/* Collect writes between the two, for one system call. */
void output_cork(struct output *o);
void output_uncork(struct output *o);
/* The descriptor is writable.  False: something is left. */
bool output_flush(struct output *o);
/* Flush and wait for the client until DEADLINE_NS (clock_ns()) at most. */
void output_drain(struct output *o, int64_t deadline_ns);
/* The descriptor is about to be closed. */
void output_close(struct output *o);

static inline bool output_is_broken(const struct output *o)
{
    return __atomic_load_n(&o->broken, __ATOMIC_ACQUIRE);
}

static inline size_t output_pending(const struct output *o)
{
    return __atomic_load_n(&o->n_pending, __ATOMIC_RELAXED);
}
