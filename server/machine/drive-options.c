/* SPDX-License-Identifier: MIT */
/* What -drive says: see drive-options.h. */
#include "server/machine/drive-options.h"

#include <string.h>
#include "base/id.h"
#include "server/machine/drive-text.h"

static void set_text(json_t *flat, const char *key, const char *value)
{
    json_object_set_new_nocheck(flat, key, json_string_nocheck(value));
}

static void set_default(json_t *flat, const char *key, const char *value)
{
    if (!json_object_get(flat, key)) {
        set_text(flat, key, value);
    }
}

/* ---- who it is ---------------------------------------------------------- */

static bool take_id(struct drive_options *o, json_t *flat,
                    struct error **errp)
{
    o->id = drive_text_take(flat, "id");
    if (o->id && !id_is_well_formed(o->id)) {
        error_set(errp, "Parameter 'id' expects an identifier");
        error_append_hint(errp, "Identifiers consist of letters, digits, "
                          "'-', '.', '_', starting with a letter.");
        return false;
    }
    return true;
}

/* ---- errors ------------------------------------------------------------- */

static bool take_policy(struct drive_options *o, json_t *flat, bool is_read,
                        struct error **errp)
{
    static const struct {
        const char *name;
        BlockdevOnError policy;
    } words[] = {
        { "ignore", BLOCKDEV_ON_ERROR_IGNORE },
        { "stop", BLOCKDEV_ON_ERROR_STOP },
        { "report", BLOCKDEV_ON_ERROR_REPORT },
        { "enospc", BLOCKDEV_ON_ERROR_ENOSPC },     /* of writes */
    };
    const char *key = is_read ? "rerror" : "werror";
    g_autofree char *text = drive_text_take(flat, key);
    BlockdevOnError *policy = is_read ? &o->on_read_error
                                      : &o->on_write_error;

    *policy = BLOCKDEV_ON_ERROR_AUTO;
    if (!text) {
        return true;
    }
    if (!drive_interface_has_policy(o->place.interface)) {
        error_set(errp, "%s is not supported by this bus type", key);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(words) - is_read; i++) {
        if (strcmp(text, words[i].name) == 0) {
            *policy = words[i].policy;
            return true;
        }
    }
    error_set(errp, "'%s' invalid %s error action", text,
              is_read ? "read" : "write");
    return false;
}

/* ---- caches ------------------------------------------------------------- */

static const struct {
    const char *name;
    bool writeback, direct, no_flush;
} cache_modes[] = {
    { "none", true, true, false },
    { "off", true, true, false },
    { "writeback", true, false, false },
    { "writethrough", false, false, false },
    { "directsync", false, true, false },
    { "unsafe", true, false, true },
};

static const char *on_off(bool value)
{
    return value ? "on" : "off";
}

/* cache=MODE gives what cache.direct and the others do not. */
static bool expand_cache(json_t *flat, struct error **errp)
{
    g_autofree char *mode = drive_text_take(flat, "cache");

    if (!mode) {
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cache_modes); i++) {
        if (strcmp(mode, cache_modes[i].name) == 0) {
            set_default(flat, "cache.writeback",
                        on_off(cache_modes[i].writeback));
            set_default(flat, "cache.direct", on_off(cache_modes[i].direct));
            set_default(flat, "cache.no-flush",
                        on_off(cache_modes[i].no_flush));
            return true;
        }
    }
    error_set(errp, "invalid cache option");
    return false;
}

static bool take_writeback(struct drive_options *o, json_t *flat,
                           struct error **errp)
{
    bool writeback = true;

    if (!drive_text_take_bool(flat, "cache.writeback", &writeback, errp)) {
        return false;
    }
    o->writethrough = !writeback;
    return true;
}

static bool check_bool(json_t *flat, const char *key, struct error **errp)
{
    const char *text = json_string_value(json_object_get(flat, key));
    bool value;

    if (text && !drive_text_is_bool(text, &value)) {
        error_set(errp, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    return true;
}

static bool check_bools(json_t *flat, struct error **errp)
{
    return check_bool(flat, "cache.direct", errp) &&
           check_bool(flat, "cache.no-flush", errp) &&
           check_bool(flat, "auto-read-only", errp) &&
           check_bool(flat, "force-share", errp);
}

/* ---- what it does ------------------------------------------------------- */

static bool take_aio(json_t *flat, char **aio, struct error **errp)
{
    *aio = drive_text_take(flat, "aio");
    if (*aio && strcmp(*aio, "threads") && strcmp(*aio, "native") &&
        strcmp(*aio, "io_uring")) {
        error_set(errp, "invalid aio option");
        return false;
    }
    return true;
}

static bool take_detect_zeroes(struct drive_options *o, json_t *flat,
                               char **mode, struct error **errp)
{
    const char *discard = json_string_value(json_object_get(flat, "discard"));
    bool unmap = discard && (!strcmp(discard, "unmap") ||
                             !strcmp(discard, "on"));

    *mode = drive_text_take(flat, "detect-zeroes");
    if (*mode && strcmp(*mode, "on") && strcmp(*mode, "off") &&
        strcmp(*mode, "unmap")) {
        error_set(errp, "invalid parameter value: %s", *mode);
        return false;
    }
    if (*mode && !unmap && strcmp(*mode, "unmap") == 0) {
        o->zeroes_unmapped = true;
        g_clear_pointer(mode, g_free);
    }
    return true;
}

static bool take_stats(json_t *flat, struct error **errp)
{
    bool ignored;
    const char *key;
    json_t *value;
    void *next;

    json_object_foreach_safe(flat, next, key, value) {
        if (g_str_has_prefix(key, "stats-intervals")) {
            error_set(errp, "'%s' is not supported: statistics of intervals "
                      "are not kept", key);
            return false;
        }
    }
    return drive_text_take_bool(flat, "stats-account-invalid", &ignored,
                                errp) &&
           drive_text_take_bool(flat, "stats-account-failed", &ignored, errp);
}

static bool take_switches(struct drive_options *o, json_t *flat,
                          struct error **errp)
{
    if (!drive_text_take_bool(flat, "read-only", &o->read_only, errp) ||
        !drive_text_take_bool(flat, "snapshot", &o->snapshot, errp) ||
        !drive_text_take_bool(flat, "copy-on-read", &o->copy_on_read, errp)) {
        return false;
    }
    o->read_only |= o->place.cdrom;
    return true;
}

/* ---- the node ----------------------------------------------------------- */

/* The driver that is given, by either name, or NULL. */
static bool take_driver(json_t *flat, char **driver, struct error **errp)
{
    g_autofree char *format = drive_text_take(flat, "format");

    *driver = drive_text_take(flat, "driver");
    if (format && *driver) {
        error_set(errp, "Cannot specify both 'driver' and 'format'");
        return false;
    }
    *driver = *driver ? *driver : g_steal_pointer(&format);
    return true;
}

static bool has_file(const json_t *flat)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)flat, key, value) {
        if (g_str_has_prefix(key, "file.")) {
            return true;
        }
    }
    return false;
}

static bool is_on(const json_t *flat, const char *key)
{
    const char *text = json_string_value(json_object_get(flat, key));
    bool value = false;

    return text && drive_text_is_bool(text, &value) && value;
}

/* Is it in a file of the host, as far as names tell? */
static bool is_in_file(const struct drive_options *o, const json_t *flat)
{
    static const char *const others[] = { "null-", "nbd" };
    const char *named[] = {
        o->filename, json_string_value(json_object_get(flat, "driver")),
        json_string_value(json_object_get(flat, "file.driver")),
    };

    for (size_t i = 0; i < G_N_ELEMENTS(named); i++) {
        for (size_t k = 0; named[i] && k < G_N_ELEMENTS(others); k++) {
            if (g_str_has_prefix(named[i], others[k])) {
                return false;
            }
        }
    }
    return true;
}

/* It is no option of the nodes: blockdev-reopen need not repeat it. */
static bool check_aio(const struct drive_options *o, const json_t *flat,
                      const char *aio, struct error **errp)
{
    if (g_strcmp0(aio, "native") == 0 && !is_on(flat, "cache.direct") &&
        !is_on(flat, "file.cache.direct") && is_in_file(o, flat)) {
        error_set(errp, "aio=native was specified, but it requires "
                  "cache.direct=on, which was not specified.");
        return false;
    }
    return true;
}

/* FLAT, all that is left, are options of nodes: nested, in O. */
static bool make_node(struct drive_options *o, json_t *flat,
                      const char *zeroes, struct error **errp)
{
    o->node = drive_text_nest(flat, errp);
    if (!o->node) {
        return false;
    }
    set_text(o->node, "read-only", on_off(o->read_only || o->snapshot));
    set_default(o->node, "auto-read-only", "on");
    if (zeroes) {
        set_text(o->node, "detect-zeroes", zeroes);
    }
    return true;
}

static bool take_node(struct drive_options *o, json_t *flat, const char *aio,
                      const char *zeroes, struct error **errp)
{
    g_autofree char *driver = NULL;
    char *file = drive_text_take(flat, "file");

    if (file && !file[0]) {
        g_clear_pointer(&file, g_free);
    }
    o->filename = file;
    if (!take_driver(flat, &driver, errp)) {
        return false;
    }
    if (!file && !driver && json_object_size(flat) == 0) {
        return true;
    }
    if (!file && !driver && !has_file(flat)) {
        error_set(errp, "Must specify either driver or file");
        return false;
    }
    if (driver) {
        set_text(flat, "driver", driver);
    }
    return check_aio(o, flat, aio, errp) &&
           make_node(o, flat, zeroes, errp);
}

/* ---- all ---------------------------------------------------------------- */

static bool parse(struct drive_options *o, json_t *flat,
                  const char *default_interface, drive_taken_fn *taken,
                  struct error **errp)
{
    g_autofree char *aio = NULL, *zeroes = NULL;

    if (!take_id(o, flat, errp) || !drive_limits_rename_old(flat, errp) ||
        !expand_cache(flat, errp) ||
        !drive_place_take(flat, default_interface, taken, &o->place, errp) ||
        !take_policy(o, flat, false, errp) ||
        !take_policy(o, flat, true, errp) ||
        !take_switches(o, flat, errp) || !take_stats(flat, errp) ||
        !take_aio(flat, &aio, errp) ||
        !drive_limits_take(flat, &o->limits, errp) ||
        !take_writeback(o, flat, errp) || !check_bools(flat, errp) ||
        !take_detect_zeroes(o, flat, &zeroes, errp) ||
        !take_node(o, flat, aio, zeroes, errp)) {
        return false;
    }
    if (!o->id) {
        o->id = drive_place_id(&o->place);
    }
    if (o->copy_on_read && o->read_only && o->node) {
        drive_text_warn("disabling copy-on-read on read-only drive");
        o->copy_on_read = false;
    }
    return true;
}

bool drive_options_parse(struct drive_options *o, const char *text,
                         const char *default_interface,
                         drive_taken_fn *taken, struct error **errp)
{
    json_t *flat = drive_text_parse(text);
    bool ok;

    *o = (struct drive_options){ 0 };
    ok = parse(o, flat, default_interface, taken, errp);
    json_decref(flat);
    return ok;
}

void drive_options_clear(struct drive_options *o)
{
    g_free(o->id);
    g_free(o->filename);
    g_free(o->limits.group);
    json_decref(o->node);
    *o = (struct drive_options){ 0 };
}
