/* SPDX-License-Identifier: MIT */
/*
 * blockdev-reopen: which options may not change.
 *
 * As QEMU has it: an option that a driver cannot change must be given as it
 * was given before, to the letter.  A default said aloud is not the same as
 * one left out.
 */
#include "block/reopen-priv.h"

#include <string.h>
#include "base/error.h"
#include "qapi/qapi-visit.h"

/* What every node may change, or what is compared by itself. */
static bool is_generic(const char *key)
{
    static const char *const keys[] = {
        "driver", "node-name", "discard", "cache", "read-only",
        "auto-read-only", "force-share", "detect-zeroes", "active",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (strcmp(keys[i], key) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_changeable(const struct node *n, const char *key)
{
    const char *const *keys = n->driver->reopen_options;

    for (; keys && *keys; keys++) {
        if (strcmp(*keys, key) == 0) {
            return true;
        }
    }
    return false;
}

/* Children are looked at in reopen-links.c. */
static bool is_child(const struct node *n, const char *key)
{
    if (n->driver->supports_backing && strcmp(key, "backing") == 0) {
        return true;
    }
    for (const struct child *c = n->children; c; c = c->next_sibling) {
        if (strcmp(c->name, key) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_compared(const struct node *n, const char *key)
{
    return !is_generic(key) && !is_child(n, key) && !is_changeable(n, key);
}

/* Dotted path to the first thing in A that is not the same in B. */
static void first_difference(json_t *a, json_t *b, GString *path)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_object(a)) {
        json_object_foreach(a, key, value) {
            json_t *other = json_object_get(b, key);
            if (!json_equal(value, other)) {
                g_string_append_printf(path, ".%s", key);
                first_difference(value, other, path);
                return;
            }
        }
    } else if (json_is_array(a)) {
        json_array_foreach(a, i, value) {
            json_t *other = json_array_get(b, i);
            if (!json_equal(value, other)) {
                g_string_append_printf(path, ".%zu", i);
                first_difference(value, other, path);
                return;
            }
        }
    }
}

/* Everything in A that counts is in B too; else FMT with the name. */
static bool all_in(const struct node *n, json_t *a, json_t *b, bool equal,
                   struct error **errp)
{
    g_autoptr(GString) path = g_string_new(NULL);
    const char *key;
    json_t *value;

    json_object_foreach(a, key, value) {
        json_t *other = json_object_get(b, key);

        if (!is_compared(n, key) || json_equal(value, other) ||
            (!equal && other)) {
            continue;
        }
        g_string_assign(path, key);
        first_difference(value, other, path);
        if (equal) {
            error_set(errp, "Cannot change the option '%s'", path->str);
        } else {
            error_set(errp, "Option '%s' cannot be reset to its default "
                      "value", path->str);
        }
        return false;
    }
    return true;
}

static bool compare_own(const struct node *n, const BlockdevOptions *given,
                        struct error **errp)
{
    json_t *new_json = BlockdevOptions_to_json(given);
    json_t *old_json = n->options ? BlockdevOptions_to_json(n->options)
                                  : json_object();
    bool ok = all_in(n, new_json, old_json, true, errp) &&
              all_in(n, old_json, new_json, false, errp);

    /* Nested ones that lost a member. */
    ok = ok && all_in(n, old_json, new_json, true, errp);
    json_decref(new_json);
    json_decref(old_json);
    return ok;
}

/* Only blockdev-set-active does that; not to say it means as it is. */
static bool compare_active(const struct node *n, const BlockdevOptions *given,
                           struct error **errp)
{
    if (given->has_active && given->active == n->inactive) {
        error_set(errp, "Cannot change the option 'active'");
        return false;
    }
    return true;
}

/* Whoever ignored other programs' locks may have read what they changed.
 * Not to be said aloud either, where it was not. */
static bool compare_force_share(const struct node *n,
                                const BlockdevOptions *given,
                                struct error **errp)
{
    if (given->has_force_share &&
        (given->force_share != n->force_share ||
         (n->inherited & INHERITED_FORCE_SHARE))) {
        error_set(errp, "Cannot change the option 'force-share'");
        return false;
    }
    if (!given->has_force_share && n->force_share &&
        !(n->inherited & INHERITED_FORCE_SHARE)) {
        error_set(errp, "Option 'force-share' cannot be reset to its default "
                  "value");
        return false;
    }
    return true;
}

bool reopen_compare(const struct node *n, const BlockdevOptions *given,
                    struct error **errp)
{
    if (given->node_name && strcmp(given->node_name, n->name) != 0) {
        error_set(errp, "Cannot change the option 'node-name'");
        return false;
    }
    if (strcmp(BlockdevDriver_str(given->driver), n->driver->name) != 0) {
        error_set(errp, "Cannot change the option 'driver'");
        return false;
    }
    return compare_force_share(n, given, errp) &&
           compare_active(n, given, errp) && compare_own(n, given, errp);
}
