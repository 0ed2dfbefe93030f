/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a socket of another machine, with a time limit, so that nobody
 * waits for ever for who does not answer.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What ends a wait early. */
struct nbd_wait {
    int64_t deadline_ns;        /* clock_ns(); INT64_MAX: none */
    /* Called now and then, from the waiting thread; NULL: never. */
    bool (*given_up)(void *opaque);
    void *opaque;
};

/*
 * Until one of EVENTS (poll(2)) holds for FD: revents, > 0.  -ETIMEDOUT, or
 * -ECANCELED: given up, or the process is ending (cancel_waits_asked()).
 */
int nbd_wait_fd(const struct nbd_wait *w, int fd, short events);
/* 0 or as above: nothing to wait for but time. */
int nbd_wait_check(const struct nbd_wait *w);
