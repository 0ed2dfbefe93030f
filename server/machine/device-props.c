/* SPDX-License-Identifier: MIT */
/* Values of properties: from what a client sends, and as they are shown. */
#include "server/machine/device-types.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "qapi/qapi.h"

/* ---- integers ----------------------------------------------------------- */

static const struct int_type {
    const char *name, *expected;
    int64_t min;
    uint64_t max;
} int_types[] = {
    { "uint8", "uint8_t", 0, UINT8_MAX },
    { "uint16", "uint16_t", 0, UINT16_MAX },
    { "uint32", "uint32_t", 0, UINT32_MAX },
    { "uint64", "uint64", 0, UINT64_MAX },
    { "int32", "int32_t", INT32_MIN, INT32_MAX },
};

static const struct int_type *find_int_type(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(int_types); i++) {
        if (!strcmp(int_types[i].name, name)) {
            return &int_types[i];
        }
    }
    return NULL;
}

static json_t *parse_int(const struct int_type *t, const char *name,
                         const char *text, struct error **errp)
{
    bool negative = *text == '-';
    uint64_t value;
    char *end;
    bool fits;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (end == text || *end || errno) {
        error_set(errp, "Parameter '%s' expects %s", name,
                  errno == ERANGE ? t->expected : "integer");
        return NULL;
    }
    fits = negative ? (int64_t)value >= t->min && (int64_t)value <= 0
                    : value <= t->max;
    if (!fits) {
        error_set(errp, "Parameter '%s' expects %s", name, t->expected);
        return NULL;
    }
    return negative ? json_integer((int64_t)value) : qapi_json_uint64(value);
}

/* "4096", "4k", "1M". */
static json_t *parse_size(const char *name, const char *text,
                          struct error **errp)
{
    static const char suffixes[] = "BKMGTPE";
    uint64_t value;
    unsigned shift = 0;
    char *end;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (end != text && *end) {
        const char *at = strchr(suffixes, g_ascii_toupper(*end));

        shift = at ? (unsigned)(at - suffixes) * 10 : 64;
        end++;
    }
    if (end == text || *end || errno || *text == '-' || shift == 64 ||
        value << shift >> shift != value) {
        error_set(errp, "Parameter '%s' expects size", name);
        return NULL;
    }
    return qapi_json_uint64(value << shift);
}

/* ---- the block size ----------------------------------------------------- */

enum { MIN_BLOCK_BYTES = 512, MAX_BLOCK_BYTES = 2 * 1024 * 1024 };

static bool check_block_size(const char *name, json_t *json,
                             struct error **errp)
{
    uint64_t value = 0;

    qapi_json_is_uint64(json, &value);
    if (value != 0 && (value < MIN_BLOCK_BYTES || value > MAX_BLOCK_BYTES)) {
        error_set(errp, "Property .%s doesn't take value %" PRIu64
                  " (minimum: %d, maximum: %d)", name, value,
                  MIN_BLOCK_BYTES, MAX_BLOCK_BYTES);
        return false;
    }
    if (value & (value - 1)) {
        error_set(errp, "Property .%s doesn't take value '%" PRIu64
                  "', it's not a power of 2", name, value);
        return false;
    }
    return true;
}

static bool is_block_size(const char *name)
{
    return !strcmp(name, "logical_block_size") ||
        !strcmp(name, "physical_block_size");
}

/* ---- words -------------------------------------------------------------- */

/* What the types of one word out of some take. */
static const struct word_type {
    const char *type, *description;
    const char *const *words;
} word_types[] = {
    { "OnOffAuto", "on/off/auto",
      (const char *const[]){ "auto", "on", "off", NULL } },
    { "BlockdevOnError",
      "Error handling policy, report/ignore/enospc/stop/auto",
      (const char *const[]){ "report", "ignore", "enospc", "stop", "auto",
                             NULL } },
    { "BiosAtaTranslation",
      "Logical CHS translation algorithm, auto/none/lba/large/rechs",
      (const char *const[]){ "auto", "none", "lba", "large", "rechs",
                             NULL } },
    { "FdcDriveType", "FDC drive type, 144/288/120/none/auto",
      (const char *const[]){ "144", "288", "120", "none", "auto", NULL } },
};

static const struct word_type *find_word_type(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(word_types); i++) {
        if (!strcmp(word_types[i].type, name)) {
            return &word_types[i];
        }
    }
    return NULL;
}

static json_t *parse_word(const struct word_type *t, const char *name,
                          const char *text, struct error **errp)
{
    if (!g_strv_contains(t->words, text)) {
        error_set(errp, "Parameter '%s' does not accept value '%s'", name,
                  text);
        return NULL;
    }
    return json_string(text);
}

static json_t *parse_bool(const char *name, const char *text,
                          struct error **errp)
{
    static const char *const yes[] = { "on", "yes", "true", "y", NULL };
    static const char *const no[] = { "off", "no", "false", "n", NULL };

    if (g_strv_contains(yes, text)) {
        return json_true();
    }
    if (g_strv_contains(no, text)) {
        return json_false();
    }
    error_set(errp, "Parameter '%s' expects 'on' or 'off'", name);
    return NULL;
}

/* Moves *AT behind it; false: there is none. */
static bool parse_hex(const char **at, unsigned long *value)
{
    char *end;

    if (!g_ascii_isxdigit(**at)) {
        return false;
    }
    *value = strtoul(*at, &end, 16);
    *at = end;
    return true;
}

/* "2", "02.1", "0x2.1" as slot * 8 + function. */
static json_t *parse_pci_address(const char *type_name, const char *name,
                                 const char *text, struct error **errp)
{
    unsigned long slot = 32, function = 0;
    const char *at = text;

    if (parse_hex(&at, &slot) && *at == '.') {
        at++;
        if (!parse_hex(&at, &function)) {
            slot = 32;
        }
    }
    if (!*at && slot < 32 && function < 8) {
        return json_integer(slot * 8 + function);
    }
    error_set(errp, "Property '%s.%s' doesn't take value '%s'", type_name,
              name, text);
    return NULL;
}

/* ---- a property --------------------------------------------------------- */

/* As the command line would say it; owned.  NULL: it is no scalar. */
static char *scalar_text(json_t *value)
{
    uint64_t number;

    switch (json_typeof(value)) {
    case JSON_TRUE:
        return g_strdup("on");
    case JSON_FALSE:
        return g_strdup("off");
    case JSON_INTEGER:
        return g_strdup_printf("%" JSON_INTEGER_FORMAT,
                               json_integer_value(value));
    case JSON_REAL:
        return g_strdup_printf("%g", json_real_value(value));
    case JSON_STRING:
        return qapi_json_is_uint64(value, &number)
            ? g_strdup_printf("%" PRIu64, number)
            : g_strdup(json_string_value(value));
    default:
        return NULL;
    }
}

json_t *device_prop_parse(const struct device_prop *p, const char *type_name,
                          json_t *value, struct error **errp)
{
    g_autofree char *text = scalar_text(value);
    const struct int_type *integer = find_int_type(p->type);
    const struct word_type *word = find_word_type(p->type);
    json_t *parsed;

    if (!text) {
        error_set(errp, "Invalid parameter type for '%s', expected: string",
                  p->name);
        return NULL;
    }
    if (!strcmp(p->name, "addr")) {
        return json_is_integer(value) && json_integer_value(value) >= 0 &&
            json_integer_value(value) < 256
            ? json_integer(json_integer_value(value))
            : parse_pci_address(type_name, p->name, text, errp);
    }
    if (integer) {
        return parse_int(integer, p->name, text, errp);
    }
    if (word) {
        return parse_word(word, p->name, text, errp);
    }
    if (!strcmp(p->type, "bool")) {
        return parse_bool(p->name, text, errp);
    }
    if (!strcmp(p->type, "size")) {
        parsed = parse_size(p->name, text, errp);
        if (parsed && is_block_size(p->name) &&
            !check_block_size(p->name, parsed, errp)) {
            json_decref(parsed);
            parsed = NULL;
        }
        return parsed;
    }
    return json_string(text);
}

json_t *device_prop_default(const struct device_prop *p)
{
    if (!p->def) {
        return !strcmp(p->name, "bootindex") ? json_integer(-1)
            : json_string("");
    }
    if (find_int_type(p->type) || !strcmp(p->type, "size")) {
        return *p->def == '-' ? json_integer(atoll(p->def))
            : qapi_json_uint64(strtoull(p->def, NULL, 10));
    }
    if (!strcmp(p->type, "bool")) {
        return json_boolean(!strcmp(p->def, "true"));
    }
    return json_string(p->def);
}

/* Bits of a word are described, these are not. */
static bool is_plain_bool(const char *name)
{
    static const char *const names[] = {
        "disable-acs", "disable-modern", "report-discard-granularity",
        "seg-max-adjust", "seg_max_adjust", "share-rw", "use-disabled-flag",
        "use-started", "x-disable-legacy-check",
        "x-enable-wce-if-config-wce", "x-ignore-backend-features",
        "x-migrate-msix", "x-native-hotplug", NULL,
    };

    return g_strv_contains(names, name);
}

const char *device_prop_description(const struct device_prop *p)
{
    const struct word_type *word = find_word_type(p->type);

    if (word) {
        return word->description;
    }
    if (is_block_size(p->name)) {
        return "A power of two between 512 B and 2 MiB";
    }
    if (!strcmp(p->name, "drive")) {
        return "Node name or ID of a block device to use as a backend";
    }
    if (!strcmp(p->name, "addr")) {
        return "Slot and optional function number, example: 06.0 or 06";
    }
    return !strcmp(p->type, "bool") && !is_plain_bool(p->name) ? "on/off"
        : NULL;
}

/* "4 KiB": three digits and the unit. */
static char *size_text(uint64_t value)
{
    static const char *const units[] = {
        "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB",
    };
    double scaled = value;
    size_t i = 0;

    while (scaled >= 999.5 && i + 1 < G_N_ELEMENTS(units)) {
        scaled /= 1024;
        i++;
    }
    return g_strdup_printf("%0.3g %s", scaled, units[i]);
}

char *device_prop_text(const struct device_prop *p, json_t *value)
{
    uint64_t number;

    if (json_is_boolean(value)) {
        return g_strdup(json_is_true(value) ? "true" : "false");
    }
    if (!strcmp(p->name, "addr")) {
        int64_t at = json_integer_value(value);

        return at < 0 ? g_strdup("<unset>")
            : g_strdup_printf("%02x.%x", (int)at >> 3, (int)at & 7);
    }
    if (qapi_json_is_uint64(value, &number)) {
        g_autofree char *size = !strcmp(p->type, "size") ? size_text(number)
            : g_strdup_printf("0x%" PRIx64, number);

        return g_strdup_printf("%" PRIu64 " (%s)", number, size);
    }
    if (json_is_integer(value)) {
        return g_strdup_printf("%" JSON_INTEGER_FORMAT " (0x%llx)",
                               json_integer_value(value),
                               (long long)json_integer_value(value));
    }
    return g_strdup_printf("\"%s\"", json_string_value(value));
}
