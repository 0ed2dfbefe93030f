/* SPDX-License-Identifier: MIT */
/* One job that is watched: see watch-job.h. */
#include "tools/watch-job.h"

#include <inttypes.h>
#include <string.h>
#include "base/lock.h"

enum { BAR_WIDTH = 28, LONG_S = 100 * 3600 };

struct watched *watched_new(const char *id)
{
    struct watched *j = g_new0(struct watched, 1);

    j->id = g_strdup(id);
    j->type = g_strdup("job");
    j->status = g_strdup("");
    j->reasons = g_strdup("");
    j->dirty_rate = j->left_s = -1;
    j->printed_tenth = -1;
    return j;
}

void watched_free(gpointer p)
{
    struct watched *j = p;

    g_free(j->id);
    g_free(j->type);
    g_free(j->status);
    g_free(j->error);
    g_free(j->reasons);
    g_free(j->printed_status);
    g_free(j);
}

static void set_string(char **to, const char *value)
{
    if (value && g_strcmp0(*to, value) != 0) {
        g_free(*to);
        *to = g_strdup(value);
    }
}

static const char *text_of(json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int64_t int_of(json_t *object, const char *key, int64_t otherwise)
{
    json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

/* ---- what is known ----------------------------------------------------------- */

/* The server does not say: from one look to the next, smoothed. */
static void guess_rate(struct watched *j, int64_t current, int64_t now)
{
    double seconds = (now - j->seen_ns) / 1e9;

    if (j->seen_ns && seconds > 0) {
        double rate = (current - j->current) / seconds;

        j->rate = j->rate > 0 ? 0.8 * j->rate + 0.2 * rate : rate;
    }
    j->left_s = j->rate >= 1 && current < j->total
        ? (int64_t)((j->total - current) / j->rate) : -1;
}

static void take_detail(struct watched *j, json_t *detail)
{
    json_t *list = json_object_get(detail, "pause-reasons");
    GString *reasons = g_string_new(NULL);
    json_t *reason;
    size_t i;

    j->rate = int_of(detail, "rate", 0);
    j->dirty_rate = int_of(detail, "dirty-rate", -1);
    j->left_s = int_of(detail, "expected-seconds", -1);
    json_array_foreach(list, i, reason) {
        g_string_append_printf(reasons, "%s%s", i ? ", " : "",
                               json_string_value(reason));
    }
    set_string(&j->reasons, reasons->str);
    g_string_free(reasons, TRUE);
}

void watched_update(struct watched *j, json_t *info)
{
    json_t *detail = json_object_get(info, "detail");
    int64_t current = int_of(info, "current-progress", 0);
    int64_t now = clock_ns();

    set_string(&j->type, text_of(info, "type"));
    set_string(&j->status, text_of(info, "status"));
    set_string(&j->error, text_of(info, "error"));
    j->total = int_of(info, "total-progress", 0);
    if (detail) {
        take_detail(j, detail);
    } else {
        guess_rate(j, current, now);
    }
    j->current = current;
    j->seen_ns = now;
    j->ended = strcmp(j->status, "concluded") == 0;
}

void watched_event(struct watched *j, const char *name, json_t *data)
{
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        const char *status = text_of(data, "status");

        if (!g_strcmp0(status, "null")) {
            j->ended = true;
        } else {
            set_string(&j->status, status);
        }
    } else if (!strcmp(name, "BLOCK_JOB_CANCELLED")) {
        j->cancelled = true;
    } else if (!strcmp(name, "BLOCK_JOB_COMPLETED")) {
        set_string(&j->error, text_of(data, "error"));
        j->current = int_of(data, "offset", 0);
        j->total = int_of(data, "len", 0);
    }
}

void watched_ended(struct watched *j, json_t *entry)
{
    const char *outcome = text_of(entry, "outcome");

    set_string(&j->type, text_of(entry, "type"));
    set_string(&j->error, text_of(entry, "error"));
    set_string(&j->status, "concluded");
    j->current = int_of(entry, "bytes-copied", 0);
    j->total = int_of(entry, "bytes-total", 0);
    j->rate = int_of(entry, "average-rate", 0);
    j->cancelled = !g_strcmp0(outcome, "cancelled");
    j->ended = true;
}

/* ---- how it reads --------------------------------------------------------------- */

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

static void append_left(GString *line, const struct watched *j)
{
    int64_t s = j->left_s;

    if (j->ended || s < 0 || s >= LONG_S || j->current >= j->total) {
        return;
    }
    if (s < 3600) {
        g_string_append_printf(line, "  %" PRId64 ":%02d left", s / 60,
                               (int)(s % 60));
    } else {
        g_string_append_printf(line, "  %" PRId64 ":%02d:%02d left", s / 3600,
                               (int)(s / 60 % 60), (int)(s % 60));
    }
}

static void append_amounts(GString *line, const struct watched *j)
{
    g_autofree char *current = format_bytes(j->current);
    g_autofree char *total = format_bytes(j->total);
    g_autofree char *rate = format_bytes(j->rate);

    g_string_append_printf(line, "  %s of %s  %s/s", current, total, rate);
    if (j->dirty_rate >= 1 && !j->ended) {
        g_autofree char *dirty = format_bytes(j->dirty_rate);

        g_string_append_printf(line, "  dirty %s/s", dirty);
    }
    append_left(line, j);
}

bool watched_is_ready(const struct watched *j)
{
    return !strcmp(j->status, "ready") || !strcmp(j->status, "standby");
}

const char *watched_outcome(const struct watched *j)
{
    if (!j->ended) {
        return j->status;
    }
    return j->cancelled ? "cancelled" : j->error ? "failed" : "done";
}

static void append_bar(GString *line, double part)
{
    int filled = CLAMP((int)(part * BAR_WIDTH), 0, BAR_WIDTH);

    g_string_append(line, " [");
    for (int i = 0; i < BAR_WIDTH; i++) {
        g_string_append_c(line, i < filled ? '#' : '.');
    }
    g_string_append_c(line, ']');
}

char *watched_format(const struct watched *j, bool bar, int columns)
{
    GString *line = g_string_new(NULL);
    double part = j->total > 0 ? (double)j->current / j->total
                               : (j->ended ? 1 : 0);

    g_string_append_printf(line, "%s  %s", j->id, j->type);
    if (bar) {
        append_bar(line, part);
    }
    g_string_append_printf(line, " %5.1f%%", part * 100);
    if (strcmp(j->type, "create") && strcmp(j->type, "amend")) {
        append_amounts(line, j);        /* those two count steps */
    }
    g_string_append_printf(line, "  %s", watched_outcome(j));
    if (*j->reasons && !j->ended) {
        g_string_append_printf(line, " (%s)", j->reasons);
    }
    if (j->error) {
        g_string_append_printf(line, ": %s", j->error);
    }
    if (columns > 0 && (int)line->len >= columns) {
        g_string_truncate(line, columns - 1);   /* a wrapped line is two */
    }
    return g_string_free(line, FALSE);
}
