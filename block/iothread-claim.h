/* SPDX-License-Identifier: MIT */
/*
 * Claims: this device's part of the graph belongs to that iothread.
 *
 * Problem     Which thread serves a request does not depend on iothreads
 *             here, but clients must be told, as QEMU does, when two users of
 *             connected nodes want different ones.
 * Answer      Who insists (a device; an export with fixed-iothread) claims;
 *             who comes later is checked against all claims.
 * Threads     Control lock held.
 */
#pragma once

#include "block/node.h"

struct iothread_claim {
    /* Set by the owner, constant while it is listed. */
    const char *iothread;       /* borrowed; NULL: the main loop */
    /* The claimed node now; NULL: none. */
    struct node *(*node)(const struct iothread_claim *claim);
    struct iothread_claim *next;
};

void iothread_claim_add(struct iothread_claim *claim);
/* One that is not listed is fine. */
void iothread_claim_remove(struct iothread_claim *claim);
/* Can N be served by IOTHREAD (NULL: the main loop)?  False with QEMU's text
 * if a claim but OWN (or NULL) on what N is connected to says otherwise. */
bool iothread_claim_check(const struct node *n, const char *iothread,
                          const struct iothread_claim *own,
                          struct error **errp);
/* Do all claims on what N is connected to name the same iothread?  False with
 * QEMU's text if not. */
bool iothread_claims_agree(const struct node *n, struct error **errp);
