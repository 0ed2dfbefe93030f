/* SPDX-License-Identifier: MIT */
/* Who insists on an iothread: see iothread-claim.h. */
#include "block/iothread-claim.h"

#include <string.h>
#include "base/control.h"
#include "base/error.h"
#include "block/driver.h"

static struct iothread_claim *claims;   /* control lock */

void iothread_claim_add(struct iothread_claim *claim)
{
    control_assert();
    claim->next = claims;
    claims = claim;
}

void iothread_claim_remove(struct iothread_claim *claim)
{
    control_assert();
    for (struct iothread_claim **at = &claims; *at; at = &(*at)->next) {
        if (*at == claim) {
            *at = claim->next;
            return;
        }
    }
}

/* N and all that links lead to, up and down. */
static void collect(const struct node *n, GHashTable *seen)
{
    if (!g_hash_table_add(seen, (void *)n)) {
        return;
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        collect(c->node, seen);
    }
    for (const struct child *c = n->parents; c; c = c->next_parent) {
        if (c->parent) {
            collect(c->parent, seen);
        }
    }
}

bool iothread_claim_check(const struct node *n, const char *iothread,
                          const struct iothread_claim *own,
                          struct error **errp)
{
    GHashTable *seen = g_hash_table_new(NULL, NULL);
    bool ok = true;

    control_assert();
    collect(n, seen);
    for (const struct iothread_claim *c = claims; c && ok; c = c->next) {
        const struct node *at = c == own ? NULL : c->node(c);

        ok = !at || g_strcmp0(c->iothread, iothread) == 0 ||
            !g_hash_table_contains(seen, at);
    }
    g_hash_table_destroy(seen);
    if (!ok) {
        error_set(errp, "Cannot change iothread of active block backend");
    }
    return ok;
}

bool iothread_claims_agree(const struct node *n, struct error **errp)
{
    GHashTable *seen = g_hash_table_new(NULL, NULL);
    const struct iothread_claim *first = NULL;

    control_assert();
    collect(n, seen);
    for (const struct iothread_claim *c = claims; c && !first; c = c->next) {
        const struct node *at = c->node(c);

        first = at && g_hash_table_contains(seen, at) ? c : NULL;
    }
    g_hash_table_destroy(seen);
    return !first || iothread_claim_check(n, first->iothread, first, errp);
}
