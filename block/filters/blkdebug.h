/* SPDX-License-Identifier: MIT */
/*
 * blkdebug's rules: what is to happen at which event.
 *
 * Invariants  I1  All rules of an event see the state before the event.
 *             I2  The rules in force are the inject-error rules that matched
 *                 last: an event at which one matches puts out of force those
 *                 from before.
 *             I3  A breakpoint stops one request; it is gone then.  All that
 *                 an event hits stop the same request, until it has been
 *                 resumed as each of them.
 * Threads     Any.  One lock for all blkdebug nodes protects everything here;
 *             nothing but the wait of a stopped request happens under it.
 */
#pragma once

#include "block/debug.h"

enum blkdebug_action {
    BLKDEBUG_INJECT, BLKDEBUG_SET_STATE, BLKDEBUG_SUSPEND,
};

struct blkdebug_rule {
    enum blkdebug_action action;
    BlkdebugEvent event;
    int64_t state;              /* 0: any */
    /* BLKDEBUG_INJECT */
    unsigned iotypes;           /* bits 1 << BlkdebugIOType */
    int error;                  /* errno > 0; 0: none */
    int64_t sector;             /* of 512 bytes; -1: all */
    bool once;
    /* BLKDEBUG_SET_STATE */
    int64_t new_state;
    /* BLKDEBUG_SUSPEND */
    char *tag;                  /* owned */
    bool in_force;              /* I2 */
};

struct blkdebug_rules {
    GPtrArray *rules;           /* owned; in order of definition */
    int64_t state;
    GQueue stopped;             /* struct stopped_request *, on stacks */
    struct cond resumed;
    struct blkdebug_rules *next, **link;    /* list of all */
};

/* What iotype is not given: all but block-status. */
extern const unsigned blkdebug_default_iotypes;

struct blkdebug_rule *blkdebug_rule_new(enum blkdebug_action action,
                                        BlkdebugEvent event);
void blkdebug_rule_free(struct blkdebug_rule *rule);
/* False: RULE cannot be. */
bool blkdebug_rule_check(const struct blkdebug_rule *rule,
                         struct error **errp);

void blkdebug_rules_init(struct blkdebug_rules *r);
void blkdebug_rules_deinit(struct blkdebug_rules *r);   /* nobody stopped */
/* Takes RULE. */
void blkdebug_rules_add(struct blkdebug_rules *r, struct blkdebug_rule *rule);
/* May stop the calling thread. */
void blkdebug_rules_event(struct blkdebug_rules *r, BlkdebugEvent event);
/* 0: the request may go on; -errno: it is to fail.  BYTES 0: it has no
 * place (flush). */
int blkdebug_rules_request(struct blkdebug_rules *r, BlkdebugIOType type,
                           int64_t offset, int64_t bytes);

bool blkdebug_rules_remove_breakpoint(struct blkdebug_rules *r,
                                      const char *tag);
bool blkdebug_rules_resume(struct blkdebug_rules *r, const char *tag);
unsigned blkdebug_rules_count_suspended(struct blkdebug_rules *r,
                                        const char *tag);

/* Add the rules in the file PATH to RULES (of struct blkdebug_rule).  No
 * control lock. */
bool blkdebug_read_config(const char *path, GPtrArray *rules,
                          struct error **errp);

/* N's rules; NULL if N is no blkdebug (block/filters/blkdebug.c). */
struct blkdebug_rules *blkdebug_rules_of(struct node *n);
