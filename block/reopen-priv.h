/* SPDX-License-Identifier: MIT */
/* What reopen*.c share.  Control lock held for all. */
#pragma once

#include "block/open-priv.h"
#include "block/reopen.h"

/* What may be undone of a node itself. */
struct node_flags {
    bool read_only, auto_read_only, force_share;
    bool cache_direct, cache_no_flush;
    bool detect_zeroes, detect_zeroes_unmap, discard_unmap;
};

/* A child that is to be another node, or none, or that there was none of. */
struct reopen_link {
    const char *name;           /* "file", "backing" */
    unsigned role, old_role;    /* as it is to be, as it was */
    struct node *from, *to;     /* owned references; NULL: none */
};

struct reopen_item {
    struct node_reopen r;       /* what drivers see */
    BlockdevOptions *given;     /* owned; NULL: those the node has of its own,
                                   and its children stay */
    struct reopen_item *above;  /* borrowed: whose child it is, whose options
                                   it has where it does not say; NULL: none */
    unsigned role;              /* in ABOVE */
    bool set_read_only, read_only;      /* all else stays */
    bool completed;
    unsigned inherited;         /* INHERITED_* of r.options */
    struct reopen_link links[2];
    int n_links;
    struct node_flags old;
    int64_t old_length;
    bool prepared, activated;
};

struct reopen {
    GPtrArray *items;           /* struct reopen_item *, owned */
};

/* reopen-options.c: step 2 */

/* Items for LIST, or for N with another read_only, and all that follows. */
bool reopen_plan(struct reopen *x, const BlockdevOptionsList *list,
                 struct error **errp);
bool reopen_plan_read_only(struct reopen *x, struct node *n, bool read_only,
                           struct error **errp);
/* Puts references into DROPPED. */
void reopen_clear(struct reopen *x, GPtrArray *dropped);
/* The item of N or a new one; GIVEN (taken) replaces what it had unless
 * NULL. */
struct reopen_item *reopen_add(struct reopen *x, struct node *n,
                               BlockdevOptions *given);

/* The node at C (below ABOVE) has options from there: an item for it unless
 * nothing changes.  GIVEN (may be NULL): how ABOVE's options define it. */
bool reopen_follow(struct reopen *x, struct reopen_item *above,
                   const struct child *c, const BlockdevOptions *given);

/* reopen-compare.c: may the options of N become GIVEN? */
bool reopen_compare(const struct node *n, const BlockdevOptions *given,
                    struct error **errp);

/* reopen-links.c: children */

/* What becomes of the children of IT; items for those that follow. */
bool reopen_plan_links(struct reopen *x, struct reopen_item *it,
                       struct error **errp);
/* Is there nothing against step 4 now?  Nothing is changed: drivers that
 * prepare may have to write, and should not for nothing. */
bool reopen_check_graph(struct reopen *x, struct error **errp);
/* Step 4, and back. */
bool reopen_change_graph(struct reopen *x, GPtrArray *dropped,
                         struct error **errp);
void reopen_restore_graph(struct reopen *x, GPtrArray *dropped);
