/* SPDX-License-Identifier: MIT */
/*
 * Live progress of jobs: see watch.h.
 *
 * Amounts come from query-jobs a few times a second; ends come from events, so
 * that a job that vanishes between two queries is not missed.  A job that is
 * gone already is looked up in the history.
 */
#include "tools/watch.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/lock.h"
#include "tools/watch-job.h"

enum { TICK_MS = 200 };

struct watch {
    struct client *client;
    const struct watch_options *options;
    GPtrArray *jobs;        /* struct watched *, owned */
    bool all;               /* also those that appear later */
    bool terminal;
    int n_lines;            /* drawn last time */
};

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
    j = watched_new(id);
    g_ptr_array_add(w->jobs, j);
    return j;
}

static bool watch_query(struct watch *w)
{
    json_t *args = w->options->has_detail ? json_pack("{s:b}", "detail", 1)
                                         : NULL;
    json_t *list = client_execute(w->client, "query-jobs", args, NULL);
    json_t *info;
    size_t i;

    json_decref(args);
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
    if (j && name) {
        watched_event(j, name, data);
    }
}

/* ---- drawing ---------------------------------------------------------------------- */

static int columns(const struct watch *w)
{
    struct winsize size;

    return w->terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0
        ? size.ws_col : 0;
}

/* A line at each change of status and each tenth of the way. */
static void print_plain(struct watched *j, const char *line)
{
    int tenth = j->total > 0 ? (int)(10.0 * j->current / j->total) : 0;
    const char *outcome = watched_outcome(j);

    if (tenth != j->printed_tenth ||
        g_strcmp0(outcome, j->printed_status) != 0) {
        puts(line);
        j->printed_tenth = tenth;
        g_free(j->printed_status);
        j->printed_status = g_strdup(outcome);
    }
}

static void watch_draw(struct watch *w)
{
    int n_drawn = 0;

    if (w->terminal && w->n_lines) {
        printf("\033[%dA", w->n_lines);
    }
    for (guint i = 0; i < w->jobs->len; i++) {
        struct watched *j = w->jobs->pdata[i];
        g_autofree char *line = watched_format(j, w->terminal, columns(w));

        if (j->unknown) {
            continue;
        }
        n_drawn++;
        if (w->terminal) {
            printf("%s\033[K\n", line);
        } else {
            print_plain(j, line);
        }
    }
    w->n_lines = n_drawn;
    fflush(stdout);
}

/* ---- the loop ---------------------------------------------------------------------- */

static bool watch_over(const struct watch *w)
{
    for (guint i = 0; i < w->jobs->len; i++) {
        const struct watched *j = w->jobs->pdata[i];

        if (!j->ended && !(w->options->until_ready && watched_is_ready(j))) {
            return false;
        }
    }
    return true;
}

/* How did J end, whom nobody has seen?  False: nobody knows. */
static bool look_back(struct watch *w, struct watched *j)
{
    json_t *args, *list, *entry;

    if (!w->options->has_history) {
        return false;
    }
    args = json_pack("{s:s, s:i}", "id", j->id, "limit", 1);
    list = client_execute(w->client, "query-job-history", args, NULL);
    entry = json_array_get(list, 0);
    if (entry) {
        watched_ended(j, entry);
    }
    json_decref(args);
    json_decref(list);
    return j->ended;
}

/* A job that a query does not show and whose end we did not see (it ended
 * before we listened) is over. */
static void watch_drop_unseen(struct watch *w, int64_t queried_ns)
{
    for (guint i = 0; i < w->jobs->len; i++) {
        struct watched *j = w->jobs->pdata[i];

        if (!j->ended && j->seen_ns < queried_ns && !*j->status &&
            !look_back(w, j)) {
            fprintf(stderr, "Error: there is no job '%s'\n", j->id);
            j->error = g_strdup("no such job");
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

int watch_jobs(struct client *c, const struct watch_options *options,
               char *const *ids)
{
    struct watch w = {
        .client = c,
        .options = options,
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
