/* SPDX-License-Identifier: MIT */
/*
 * Live progress of jobs: see watch.h.
 *
 * Amounts come from query-jobs a few times a second; ends come from events, so
 * that a job that vanishes between two queries is not missed.
 */
#include "tools/watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/lock.h"

enum { TICK_MS = 200, BAR_WIDTH = 28 };

struct watched {
    char *id;               /* owned */
    char *type;             /* owned */
    char *status;           /* owned: as last seen */
    char *error;            /* owned or NULL */
    int64_t current, total; /* bytes, for create: steps */
    int64_t seen_ns;        /* when current was read */
    double rate;            /* bytes per second, smoothed */
    bool ended, cancelled;
    bool unknown;           /* never seen: nothing to draw */
    int printed_tenth;      /* plain output: last tenth printed */
    char *printed_status;   /* owned */
};

struct watch {
    struct client *client;
    GPtrArray *jobs;        /* struct watched *, owned */
    bool all;               /* also those that appear later */
    bool terminal;
    int n_lines;            /* drawn last time */
};

static void watched_free(gpointer p)
{
    struct watched *j = p;

    g_free(j->id);
    g_free(j->type);
    g_free(j->status);
    g_free(j->error);
    g_free(j->printed_status);
    g_free(j);
}

static struct watched *watch_find(struct watch *w, const char *id, bool add)
{
    struct watched *j;

    for (guint i = 0; i < w->jobs->len; i++) {
        j = w->jobs->pdata[i];
        if (strcmp(j->id, id) == 0) {
            return j;
        }
    }
    if (!add) {
        return NULL;
    }
    j = g_new0(struct watched, 1);
    j->id = g_strdup(id);
    j->type = g_strdup("job");
    j->status = g_strdup("");
    j->printed_tenth = -1;
    g_ptr_array_add(w->jobs, j);
    return j;
}

static void set_string(char **to, const char *value)
{
    if (value && g_strcmp0(*to, value) != 0) {
        g_free(*to);
        *to = g_strdup(value);
    }
}

static void watched_update(struct watched *j, json_t *info)
{
    int64_t now = clock_ns();
    int64_t current = json_integer_value(json_object_get(info,
                                                         "current-progress"));
    double seconds = (now - j->seen_ns) / 1e9;

    set_string(&j->type, json_string_value(json_object_get(info, "type")));
    set_string(&j->status, json_string_value(json_object_get(info, "status")));
    set_string(&j->error, json_string_value(json_object_get(info, "error")));
    if (j->seen_ns && seconds > 0) {
        double rate = (current - j->current) / seconds;

        j->rate = j->rate > 0 ? 0.8 * j->rate + 0.2 * rate : rate;
    }
    j->current = current;
    j->total = json_integer_value(json_object_get(info, "total-progress"));
    j->seen_ns = now;
    j->ended = strcmp(j->status, "concluded") == 0;
}

static bool watch_query(struct watch *w)
{
    json_t *list = client_execute(w->client, "query-jobs", NULL, NULL);
    json_t *info;
    size_t i;

    if (!list) {
        return false;
    }
    json_array_foreach(list, i, info) {
        const char *id = json_string_value(json_object_get(info, "id"));
        struct watched *j = id ? watch_find(w, id, w->all) : NULL;

        if (j) {
            watched_update(j, info);
        }
    }
    json_decref(list);
    return true;
}

static void watch_event(struct watch *w, json_t *event)
{
    const char *name = json_string_value(json_object_get(event, "event"));
    json_t *data = json_object_get(event, "data");
    const char *id = json_string_value(json_object_get(data, "id"));
    struct watched *j;

    if (!id) {
        id = json_string_value(json_object_get(data, "device"));
    }
    j = id ? watch_find(w, id, false) : NULL;
    if (!j) {
        return;
    }
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        const char *status = json_string_value(json_object_get(data,
                                                               "status"));

        if (!g_strcmp0(status, "null")) {
            j->ended = true;
        } else {
            set_string(&j->status, status);
        }
    } else if (!strcmp(name, "BLOCK_JOB_CANCELLED")) {
        j->cancelled = true;
    } else if (!strcmp(name, "BLOCK_JOB_COMPLETED")) {
        set_string(&j->error,
                   json_string_value(json_object_get(data, "error")));
        j->current = json_integer_value(json_object_get(data, "offset"));
        j->total = json_integer_value(json_object_get(data, "len"));
    }
}

/* ---- drawing ---------------------------------------------------------------------- */

static char *format_bytes(double bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int u = 0;

    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    return g_strdup_printf(u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

static char *format_left(const struct watched *j)
{
    int64_t seconds;

    if (j->ended || j->rate < 1 || j->current >= j->total) {
        return g_strdup("");
    }
    seconds = (int64_t)((j->total - j->current) / j->rate);
    return seconds < 360000
        ? g_strdup_printf("  %" PRId64 ":%02d left", seconds / 60,
                          (int)(seconds % 60))
        : g_strdup("");
}

static const char *outcome(const struct watched *j)
{
    if (!j->ended) {
        return j->status;
    }
    return j->error ? "failed" : j->cancelled ? "cancelled" : "done";
}

static char *format_job(const struct watched *j, bool bar)
{
    double part = j->total > 0 ? (double)j->current / j->total
                               : (j->ended ? 1 : 0);
    g_autofree char *current = format_bytes(j->current);
    g_autofree char *total = format_bytes(j->total);
    g_autofree char *rate = format_bytes(j->rate);
    g_autofree char *left = format_left(j);
    g_autofree char *drawn = g_strdup("");
    g_autofree char *amount = NULL;
    int filled = CLAMP((int)(part * BAR_WIDTH), 0, BAR_WIDTH);

    if (bar) {
        char cells[BAR_WIDTH + 1];

        memset(cells, '#', filled);
        memset(cells + filled, '.', BAR_WIDTH - filled);
        cells[BAR_WIDTH] = '\0';
        g_free(drawn);
        drawn = g_strdup_printf(" [%s]", cells);
    }
    if (strcmp(j->type, "create") != 0) {       /* that one counts steps */
        amount = g_strdup_printf("  %s of %s  %s/s%s", current, total, rate,
                                 left);
    }
    return g_strdup_printf("%s  %s%s %5.1f%%%s  %s%s%s", j->id, j->type,
                           drawn, part * 100, amount ? amount : "",
                           outcome(j), j->error ? ": " : "",
                           j->error ? j->error : "");
}

static void watch_draw(struct watch *w)
{
    int n_drawn = 0;

    if (w->terminal && w->n_lines) {
        printf("\033[%dA", w->n_lines);
    }
    for (guint i = 0; i < w->jobs->len; i++) {
        struct watched *j = w->jobs->pdata[i];
        g_autofree char *line = format_job(j, w->terminal);
        int tenth = j->total > 0 ? (int)(10 * j->current / j->total) : 0;

        if (j->unknown) {
            continue;
        }
        n_drawn++;
        if (w->terminal) {
            printf("%s\033[K\n", line);
        } else if (tenth != j->printed_tenth ||
                   g_strcmp0(outcome(j), j->printed_status) != 0) {
            puts(line);
            j->printed_tenth = tenth;
            set_string(&j->printed_status, outcome(j));
        }
    }
    w->n_lines = n_drawn;
    fflush(stdout);
}

static bool watch_over(const struct watch *w)
{
    for (guint i = 0; i < w->jobs->len; i++) {
        if (!((struct watched *)w->jobs->pdata[i])->ended) {
            return false;
        }
    }
    return true;
}

/* A job that a query no longer shows and whose end we did not see (it ended
 * before we listened) is over. */
static void watch_drop_unseen(struct watch *w, int64_t queried_ns)
{
    for (guint i = 0; i < w->jobs->len; i++) {
        struct watched *j = w->jobs->pdata[i];

        if (!j->ended && j->seen_ns < queried_ns && !*j->status) {
            fprintf(stderr, "Error: there is no job '%s'\n", j->id);
            set_string(&j->error, "no such job");
            j->ended = j->unknown = true;
        }
    }
}

/* Take in what has come, waiting at most TIMEOUT_MS for the first. */
static void watch_events(struct watch *w, int timeout_ms)
{
    json_t *event = client_next_event(w->client, timeout_ms);

    while (event) {
        watch_event(w, event);
        json_decref(event);
        event = client_next_event(w->client, 0);
    }
}

static int watch_loop(struct watch *w)
{
    for (;;) {
        int64_t now = clock_ns();

        if (!watch_query(w)) {
            fprintf(stderr, "The server closed the connection\n");
            return 3;
        }
        /* A short job may be over before the first query. */
        watch_events(w, 0);
        watch_drop_unseen(w, now);
        watch_draw(w);
        if (watch_over(w)) {
            break;
        }
        watch_events(w, TICK_MS);
    }
    for (guint i = 0; i < w->jobs->len; i++) {
        const struct watched *j = w->jobs->pdata[i];

        if (j->error || j->cancelled) {
            return 1;
        }
    }
    return 0;
}

int watch_jobs(struct client *c, char *const *ids)
{
    struct watch w = {
        .client = c,
        .jobs = g_ptr_array_new_with_free_func(watched_free),
        .all = !ids || !ids[0],
        .terminal = isatty(STDOUT_FILENO),
    };
    int ret;

    for (size_t i = 0; !w.all && ids[i]; i++) {
        watch_find(&w, ids[i], true);
    }
    ret = watch_loop(&w);
    if (w.all && w.jobs->len == 0) {
        puts("No jobs");
    }
    g_ptr_array_free(w.jobs, TRUE);
    return ret;
}
