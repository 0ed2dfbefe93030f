/* SPDX-License-Identifier: MIT */
/* Options of which nothing comes: see checks.h. */
#include "server/cmdline/checks.h"

#include <string.h>
#include "server/cmdline/text.h"

enum value {
    VALUE_TEXT,
    VALUE_SWITCH,
    VALUE_NUMBER,
    VALUE_SIZE,
};

static const struct key {
    const char *option, *name;
    enum value value;
} keys[] = {
    { "action", "panic", VALUE_TEXT },
    { "action", "reboot", VALUE_TEXT },
    { "action", "shutdown", VALUE_TEXT },
    { "action", "watchdog", VALUE_TEXT },
    { "boot", "menu", VALUE_SWITCH },
    { "boot", "once", VALUE_TEXT },
    { "boot", "order", VALUE_TEXT },
    { "boot", "reboot-timeout", VALUE_NUMBER },
    { "boot", "splash", VALUE_TEXT },
    { "boot", "splash-time", VALUE_NUMBER },
    { "boot", "strict", VALUE_SWITCH },
    { "compat", "deprecated-input", VALUE_TEXT },
    { "compat", "deprecated-output", VALUE_TEXT },
    { "compat", "unstable-input", VALUE_TEXT },
    { "compat", "unstable-output", VALUE_TEXT },
    { "global", "driver", VALUE_TEXT },
    { "global", "property", VALUE_TEXT },
    { "global", "value", VALUE_TEXT },
    { "m", "maxmem", VALUE_SIZE },
    { "m", "size", VALUE_SIZE },
    { "m", "slots", VALUE_NUMBER },
    { "msg", "guest-name", VALUE_SWITCH },
    { "msg", "timestamp", VALUE_SWITCH },
    { "overcommit", "cpu-pm", VALUE_SWITCH },
    { "overcommit", "mem-lock", VALUE_TEXT },
    { "rtc", "base", VALUE_TEXT },
    { "rtc", "clock", VALUE_TEXT },
    { "rtc", "driftfix", VALUE_TEXT },
    { "sandbox", "elevateprivileges", VALUE_TEXT },
    { "sandbox", "enable", VALUE_SWITCH },
    { "sandbox", "obsolete", VALUE_TEXT },
    { "sandbox", "resourcecontrol", VALUE_TEXT },
    { "sandbox", "spawn", VALUE_TEXT },
    { "smp", "books", VALUE_NUMBER },
    { "smp", "clusters", VALUE_NUMBER },
    { "smp", "cores", VALUE_NUMBER },
    { "smp", "cpus", VALUE_NUMBER },
    { "smp", "dies", VALUE_NUMBER },
    { "smp", "drawers", VALUE_NUMBER },
    { "smp", "maxcpus", VALUE_NUMBER },
    { "smp", "modules", VALUE_NUMBER },
    { "smp", "sockets", VALUE_NUMBER },
    { "smp", "threads", VALUE_NUMBER },
};

static const struct key *find_key(const char *option, const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (!strcmp(keys[i].option, option) &&
            !strcmp(keys[i].name, name)) {
            return &keys[i];
        }
    }
    return NULL;
}

static bool is_number(const char *text)
{
    char *end;

    g_ascii_strtoll(text, &end, 0);
    return end != text && !*end;
}

/* "64", "1.5G", "0x10k". */
static bool is_size(const char *text)
{
    char *end;

    if (!g_ascii_isdigit(*text)) {
        return false;
    }
    g_ascii_strtod(text, &end);
    return !*end || (strchr("bBkKmMgGtTpPeE", *end) && !end[1]);
}

static bool check_value(const struct key *key, const char *text,
                        struct error **errp)
{
    switch (key->value) {
    case VALUE_TEXT:
        return true;
    case VALUE_SWITCH:
        if (!strcmp(text, "on") || !strcmp(text, "off")) {
            return true;
        }
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key->name);
        return false;
    case VALUE_NUMBER:
        if (is_number(text)) {
            return true;
        }
        error_set(errp, "Parameter '%s' expects a number", key->name);
        return false;
    case VALUE_SIZE:
        if (is_size(text)) {
            return true;
        }
        error_set(errp, "Parameter '%s' expects a non-negative number below "
                  "2^64", key->name);
        error_append_hint(errp, "Optional suffix k, M, G, T, P or E means "
                          "kilo-, mega-, giga-, tera-, peta-\n"
                          "and exabytes, respectively.\n");
        return false;
    }
    g_assert_not_reached();
}

/* -global DRIVER.PROPERTY=VALUE: no key is known. */
static bool is_global(const struct option *o)
{
    size_t len = strcspn(o->text, "=");

    return !strcmp(o->desc->name, "global") && o->text[len] &&
        memchr(o->text, '.', len);
}

bool option_check(const struct option *o, struct error **errp)
{
    g_autofree char *expanded = text_expand_switches(o->text);
    json_t *object, *value;
    const char *name;
    bool ok = true;

    if (is_global(o)) {
        return true;
    }
    if (!o->desc->more && *expanded &&
        !memchr(expanded, '=', strcspn(expanded, ","))) {
        g_autofree char *word = g_strndup(expanded, strcspn(expanded, ","));

        error_set(errp, "Invalid parameter '%s'", word);
        return false;
    }
    object = text_parse(expanded, o->desc->more, errp);
    if (!object) {
        return false;
    }
    json_object_foreach(object, name, value) {
        const struct key *key = find_key(o->desc->name, name);

        if (!key || !json_is_string(value)) {
            error_set(errp, "Invalid parameter '%s'", name);
            ok = false;
        } else {
            ok = check_value(key, json_string_value(value), errp);
        }
        if (!ok) {
            break;
        }
    }
    json_decref(object);
    return ok;
}
