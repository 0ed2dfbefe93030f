/* SPDX-License-Identifier: MIT */
/* blkdebug's rules: see blkdebug.h. */
#include "block/filters/blkdebug.h"

#include <string.h>
#include "base/control.h"
#include "base/error.h"

enum { SECTOR_BYTES = 512, MAX_ERRNO = 4095 };

struct stopped_request {
    const char *tag;            /* borrowed: the stopped thread's */
    bool resumed;
};

const unsigned blkdebug_default_iotypes =
    1u << BLKDEBUG_IO_TYPE_READ | 1u << BLKDEBUG_IO_TYPE_WRITE |
    1u << BLKDEBUG_IO_TYPE_WRITE_ZEROES | 1u << BLKDEBUG_IO_TYPE_DISCARD |
    1u << BLKDEBUG_IO_TYPE_FLUSH;

static struct lock rules_lock = LOCK_INIT("blkdebug", LOCK_LEAF);
/* Protected by rules_lock. */
static struct blkdebug_rules *all_rules;
static bool released;           /* nothing is stopped any more */

static void (*hook)(const char *tag);     /* atomic */

static __thread int n_pass;     /* this thread is not stopped */

/* ---- rules -------------------------------------------------------------- */

struct blkdebug_rule *blkdebug_rule_new(enum blkdebug_action action,
                                        BlkdebugEvent event)
{
    struct blkdebug_rule *rule = g_new0(struct blkdebug_rule, 1);

    rule->action = action;
    rule->event = event;
    rule->iotypes = blkdebug_default_iotypes;
    rule->error = 5;
    rule->sector = -1;
    return rule;
}

void blkdebug_rule_free(struct blkdebug_rule *rule)
{
    g_free(rule->tag);
    g_free(rule);
}

bool blkdebug_rule_check(const struct blkdebug_rule *rule,
                         struct error **errp)
{
    if (rule->error < 0 || rule->error > MAX_ERRNO) {
        error_set(errp, "Parameter 'errno' expects a number from 0 to %d",
                  MAX_ERRNO);
        return false;
    }
    if (rule->sector < -1 || rule->sector > INT64_MAX / SECTOR_BYTES) {
        error_set(errp, "Parameter 'sector' expects the number of a sector, "
                  "or -1");
        return false;
    }
    return true;
}

void blkdebug_rules_init(struct blkdebug_rules *r)
{
    r->rules = g_ptr_array_new_with_free_func(
        (GDestroyNotify)blkdebug_rule_free);
    r->state = 1;
    g_queue_init(&r->stopped);
    cond_init(&r->resumed);
    LOCK_GUARD(&rules_lock);
    r->next = all_rules;
    r->link = &all_rules;
    if (r->next) {
        r->next->link = &r->next;
    }
    all_rules = r;
}

void blkdebug_rules_deinit(struct blkdebug_rules *r)
{
    lock_acquire(&rules_lock);
    g_assert(g_queue_is_empty(&r->stopped));
    *r->link = r->next;
    if (r->next) {
        r->next->link = r->link;
    }
    lock_release(&rules_lock);
    cond_deinit(&r->resumed);
    g_ptr_array_free(r->rules, TRUE);
}

void blkdebug_rules_add(struct blkdebug_rules *r, struct blkdebug_rule *rule)
{
    LOCK_GUARD(&rules_lock);
    g_ptr_array_add(r->rules, rule);
}

/* ---- events ------------------------------------------------------------- */

static bool matches(const struct blkdebug_rule *rule, BlkdebugEvent event,
                    int64_t state)
{
    return rule->event == event && (rule->state == 0 || rule->state == state);
}

static void put_out_of_force(struct blkdebug_rules *r)
{
    for (guint i = 0; i < r->rules->len; i++) {
        ((struct blkdebug_rule *)r->rules->pdata[i])->in_force = false;
    }
}

/* The tags of the breakpoints that were hit, owned, or NULL; I1, I2, I3. */
static GPtrArray *apply_event(struct blkdebug_rules *r, BlkdebugEvent event)
{
    int64_t state = r->state;
    bool injecting = false;
    GPtrArray *tags = NULL;

    for (guint i = 0; i < r->rules->len; ) {
        struct blkdebug_rule *rule = r->rules->pdata[i++];

        if (!matches(rule, event, state)) {
            continue;
        }
        switch (rule->action) {
        case BLKDEBUG_INJECT:
            if (!injecting) {
                put_out_of_force(r);
            }
            injecting = rule->in_force = true;
            break;
        case BLKDEBUG_SET_STATE:
            r->state = rule->new_state;
            break;
        case BLKDEBUG_SUSPEND:
            if (!released && n_pass == 0) {
                tags = tags ? tags : g_ptr_array_new_with_free_func(g_free);
                g_ptr_array_add(tags, g_steal_pointer(&rule->tag));
                g_ptr_array_remove_index(r->rules, --i);
            }
            break;
        }
    }
    return tags;
}

void node_debug_set_hook(void (*fn)(const char *tag))
{
    control_assert();
    __atomic_store_n(&hook, fn, __ATOMIC_RELEASE);
}

static void tell(const GPtrArray *tags)
{
    void (*fn)(const char *tag) = __atomic_load_n(&hook, __ATOMIC_ACQUIRE);

    for (guint i = tags->len; fn && i-- > 0;) {
        fn(tags->pdata[i]);
    }
}

/* Wait until resumed as each of TAGS.  Lock held; given up to tell. */
static void stop(struct blkdebug_rules *r, const GPtrArray *tags)
{
    g_autofree struct stopped_request *requests =
        g_new0(struct stopped_request, tags->len);

    for (guint i = 0; i < tags->len; i++) {
        requests[i].tag = tags->pdata[i];
        g_queue_push_head(&r->stopped, &requests[i]);
    }
    lock_release(&rules_lock);
    tell(tags);
    control_notify();       /* node_debug_count_suspended() */
    lock_acquire(&rules_lock);
    for (guint i = 0; i < tags->len; i++) {
        while (!requests[i].resumed && !released) {
            cond_wait(&r->resumed, &rules_lock);
        }
    }
    for (guint i = 0; i < tags->len; i++) {
        g_queue_remove(&r->stopped, &requests[i]);
    }
}

void blkdebug_rules_event(struct blkdebug_rules *r, BlkdebugEvent event)
{
    g_autoptr(GPtrArray) tags = NULL;

    LOCK_GUARD(&rules_lock);
    tags = apply_event(r, event);
    if (tags) {
        stop(r, tags);
    }
}

/* ---- requests ----------------------------------------------------------- */

static bool hits(const struct blkdebug_rule *rule, BlkdebugIOType type,
                 int64_t offset, int64_t bytes)
{
    int64_t start;

    if (!rule->in_force || !(rule->iotypes & (1u << type))) {
        return false;
    }
    if (rule->sector < 0) {
        return true;
    }
    start = rule->sector * SECTOR_BYTES;
    return bytes > 0 && start < offset + bytes &&
           offset - SECTOR_BYTES < start;
}

int blkdebug_rules_request(struct blkdebug_rules *r, BlkdebugIOType type,
                           int64_t offset, int64_t bytes)
{
    LOCK_GUARD(&rules_lock);

    for (guint i = 0; i < r->rules->len; i++) {
        struct blkdebug_rule *rule = r->rules->pdata[i];

        if (hits(rule, type, offset, bytes)) {
            int ret = -rule->error;

            if (rule->once && ret) {
                g_ptr_array_remove_index(r->rules, i);
            }
            return ret;
        }
    }
    return 0;
}

/* ---- breakpoints -------------------------------------------------------- */

static struct stopped_request *find_stopped(struct blkdebug_rules *r,
                                            const char *tag)
{
    for (GList *l = r->stopped.head; l; l = l->next) {
        struct stopped_request *s = l->data;

        if (!s->resumed && strcmp(s->tag, tag) == 0) {
            return s;
        }
    }
    return NULL;
}

static bool resume_one(struct blkdebug_rules *r, const char *tag)
{
    struct stopped_request *s = find_stopped(r, tag);

    if (s) {
        s->resumed = true;
        cond_broadcast(&r->resumed);
    }
    return s;
}

bool blkdebug_rules_resume(struct blkdebug_rules *r, const char *tag)
{
    LOCK_GUARD(&rules_lock);
    return resume_one(r, tag);
}

unsigned blkdebug_rules_count_suspended(struct blkdebug_rules *r,
                                        const char *tag)
{
    unsigned n = 0;

    LOCK_GUARD(&rules_lock);
    for (GList *l = r->stopped.head; l; l = l->next) {
        const struct stopped_request *s = l->data;

        n += !s->resumed && strcmp(s->tag, tag) == 0;
    }
    return n;
}

bool blkdebug_rules_remove_breakpoint(struct blkdebug_rules *r,
                                      const char *tag)
{
    bool found = false;

    LOCK_GUARD(&rules_lock);
    for (guint i = r->rules->len; i-- > 0;) {
        const struct blkdebug_rule *rule = r->rules->pdata[i];

        if (rule->action == BLKDEBUG_SUSPEND &&
            strcmp(rule->tag, tag) == 0) {
            g_ptr_array_remove_index(r->rules, i);
            found = true;
        }
    }
    while (resume_one(r, tag)) {
        continue;
    }
    return found;
}

void node_debug_pass_begin(void)
{
    n_pass++;
}

void node_debug_pass_end(void)
{
    n_pass--;
}

bool node_debug_passing(void)
{
    return n_pass > 0;
}

void node_debug_release_all(void)
{
    LOCK_GUARD(&rules_lock);
    released = true;
    for (struct blkdebug_rules *r = all_rules; r; r = r->next) {
        cond_broadcast(&r->resumed);
    }
}
