/* SPDX-License-Identifier: MIT */
/* Debug events: see debug.h. */
#include "block/debug.h"

#include "base/control.h"
#include "block/filters/blkdebug.h"
#include "block/io-priv.h"

int n_blkdebug_nodes;

static struct node *primary(const struct node *n)
{
    return n->file ? n->file->node : io_filtered(n);
}

/* The rules of the first blkdebug at N or below, or NULL. */
static struct blkdebug_rules *find_rules(struct node *n)
{
    for (; n; n = primary(n)) {
        struct blkdebug_rules *r = blkdebug_rules_of(n);

        if (r) {
            return r;
        }
    }
    return NULL;
}

void node_debug_event(struct node *n, BlkdebugEvent event)
{
    struct blkdebug_rules *r = find_rules(primary(n));

    if (r) {
        blkdebug_rules_event(r, event);
    }
}

void node_debug_event_at(struct node *n, BlkdebugEvent event, bool below)
{
    struct blkdebug_rules *r = below ? find_rules(n) : blkdebug_rules_of(n);

    if (r) {
        blkdebug_rules_event(r, event);
    }
}

bool node_debug_reaches(struct node *n)
{
    control_assert();
    return find_rules(n);
}

bool node_debug_breakpoint(struct node *n, BlkdebugEvent event,
                           const char *tag)
{
    struct blkdebug_rules *r = find_rules(n);
    struct blkdebug_rule *rule;

    control_assert();
    if (!r) {
        return false;
    }
    rule = blkdebug_rule_new(BLKDEBUG_SUSPEND, event);
    rule->tag = g_strdup(tag);
    blkdebug_rules_add(r, rule);
    return true;
}

bool node_debug_remove_breakpoint(struct node *n, const char *tag)
{
    struct blkdebug_rules *r = find_rules(n);

    control_assert();
    return r && blkdebug_rules_remove_breakpoint(r, tag);
}

bool node_debug_resume(struct node *n, const char *tag)
{
    struct blkdebug_rules *r = find_rules(n);

    control_assert();
    return r && blkdebug_rules_resume(r, tag);
}

unsigned node_debug_count_suspended(struct node *n, const char *tag)
{
    struct blkdebug_rules *r = find_rules(n);

    control_assert();
    return r ? blkdebug_rules_count_suspended(r, tag) : 0;
}

bool node_debug_is_suspended(struct node *n, const char *tag)
{
    return node_debug_count_suspended(n, tag) > 0;
}
