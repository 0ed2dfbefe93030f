/* SPDX-License-Identifier: MIT */
/* Events that come too often: see event-limit.h. */
#include "server/event-limit.h"

#include <string.h>
#include <glib.h>

#define PERIOD_NS 1000000000LL

/* Kinds that are limited, and the member of data that tells one source from
 * another (NULL: all are one). */
static const struct {
    const char *name, *source;
} limited[] = {
    { "BLOCK_IO_ERROR", "qom-path" },
    { "QUORUM_FAILURE", "reference" },
    { "QUORUM_REPORT_BAD", "node-name" },
    { "RTC_CHANGE", NULL },
};

struct entry {
    char *key;          /* owned: kind, NUL-free separator, source */
    int64_t sent_ns;    /* the last one */
    json_t *kept;       /* a reference, or NULL */
    struct entry *next;
};

struct event_limit {
    struct entry *entries;      /* those of the last second */
};

struct event_limit *event_limit_new(void)
{
    return g_new0(struct event_limit, 1);
}

static void entry_remove(struct entry **link)
{
    struct entry *e = *link;

    *link = e->next;
    json_decref(e->kept);
    g_free(e->key);
    g_free(e);
}

void event_limit_free(struct event_limit *l)
{
    while (l->entries) {
        entry_remove(&l->entries);
    }
    g_free(l);
}

/* NULL: events of this kind are not limited.  Owned by the caller. */
static char *make_key(const json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    const json_t *data = json_object_get(event, "data");

    for (size_t i = 0; i < G_N_ELEMENTS(limited); i++) {
        const char *source = NULL;

        if (strcmp(limited[i].name, name)) {
            continue;
        }
        if (limited[i].source) {
            source = json_string_value(json_object_get(data,
                                                       limited[i].source));
        }
        return g_strdup_printf("%s/%s", name, source ? source : "");
    }
    return NULL;
}

bool event_limit_pass(struct event_limit *l, json_t *event, int64_t now_ns)
{
    g_autofree char *key = make_key(event);
    struct entry *e = l->entries;

    if (!key) {
        return true;
    }
    while (e && strcmp(e->key, key)) {
        e = e->next;
    }
    if (!e) {
        e = g_new0(struct entry, 1);
        e->key = g_steal_pointer(&key);
        e->next = l->entries;
        l->entries = e;
    } else if (e->kept || now_ns < e->sent_ns + PERIOD_NS) {
        json_decref(e->kept);
        e->kept = json_incref(event);
        return false;
    }
    e->sent_ns = now_ns;
    return true;
}

json_t *event_limit_take(struct event_limit *l, int64_t now_ns)
{
    for (struct entry **link = &l->entries; *link; ) {
        struct entry *e = *link;
        json_t *event = e->kept;

        if (now_ns < e->sent_ns + PERIOD_NS) {
            link = &e->next;
        } else if (event) {
            e->kept = NULL;
            e->sent_ns = now_ns;
            return event;
        } else {
            entry_remove(link);
        }
    }
    return NULL;
}

int64_t event_limit_next_ns(const struct event_limit *l)
{
    int64_t next_ns = INT64_MAX;

    for (const struct entry *e = l->entries; e; e = e->next) {
        next_ns = MIN(next_ns, e->sent_ns + PERIOD_NS);
    }
    return next_ns;
}
