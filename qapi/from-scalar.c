/* SPDX-License-Identifier: MIT */
/* Booleans and numbers from JSON or from the text of a command line. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "qapi/from-json.h"
#include "qapi/slot.h"

/* Ranges of the integers narrower than 64 bits. */
static const struct {
    int64_t min, max;
    const char *c_type;
} ranges[] = {
    [QAPI_KIND_INT8] = { INT8_MIN, INT8_MAX, "int8_t" },
    [QAPI_KIND_INT16] = { INT16_MIN, INT16_MAX, "int16_t" },
    [QAPI_KIND_INT32] = { INT32_MIN, INT32_MAX, "int32_t" },
    [QAPI_KIND_UINT8] = { 0, UINT8_MAX, "uint8_t" },
    [QAPI_KIND_UINT16] = { 0, UINT16_MAX, "uint16_t" },
    [QAPI_KIND_UINT32] = { 0, UINT32_MAX, "uint32_t" },
};

bool expected_is_scalar(const char *expected)
{
    return strcmp(expected, "object") != 0 && strcmp(expected, "array") != 0;
}

static bool expects(const struct input *in, const struct path *at,
                    const char *what)
{
    g_autofree char *name = path_text(in, at);

    error_set(in->errp, "Parameter '%s' expects %s", name, what);
    return false;
}

bool bool_from_json(const struct input *in, const struct path *at,
                    json_t *json, void *slot)
{
    static const char *const words[][2] = {
        { "off", "on" }, { "no", "yes" }, { "false", "true" }, { "n", "y" },
    };

    if (!in->keyval) {
        *(bool *)slot = json_is_true(json);
        return json_is_boolean(json) ||
               input_bad_type(in, at, json, "boolean");
    }
    if (!json_is_string(json)) {
        return input_bad_type(in, at, json, "boolean");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        for (int value = 0; value < 2; value++) {
            if (strcmp(words[i][value], json_string_value(json)) == 0) {
                *(bool *)slot = value;
                return true;
            }
        }
    }
    return expects(in, at, "'on' or 'off'");
}

static bool number_from_text(const char *text, double *number)
{
    char *end;

    errno = 0;
    *number = g_ascii_strtod(text, &end);
    return end != text && !*end && !g_ascii_isspace(text[0]) &&
           isfinite(*number);
}

bool number_from_json(const struct input *in, const struct path *at,
                      json_t *json, void *slot)
{
    uint64_t big;
    double number;

    if (in->keyval) {
        if (!json_is_string(json)) {
            return input_bad_type(in, at, json, "number");
        }
        if (!number_from_text(json_string_value(json), &number)) {
            return expects(in, at, "number");
        }
    } else if (json_is_number(json)) {
        number = json_number_value(json);
    } else if (qapi_json_is_uint64(json, &big)) {
        number = big;
    } else {
        return input_bad_type(in, at, json, "number");
    }
    memcpy(slot, &number, sizeof(number));
    return true;
}

/*
 * TEXT as a whole number, decimal, octal or hexadecimal, up to UINT64_MAX.
 * A negative one is *MAGNITUDE with *NEGATIVE set.
 */
static bool whole_from_text(const char *text, uint64_t *magnitude,
                            bool *negative)
{
    char *end;

    *negative = text[0] == '-';
    text += *negative || text[0] == '+';
    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    errno = 0;
    *magnitude = strtoull(text, &end, 0);
    return errno == 0 && end != text && !*end;
}

/* As above with a fraction and a suffix: 1.5G. */
static bool size_from_text(const char *text, uint64_t *size)
{
    static const char suffixes[] = "BKMGTPE";
    g_autofree char *digits = NULL;
    const char *suffix;
    size_t length = strlen(text);
    bool negative;
    double value;
    int shift = 0;

    if (whole_from_text(text, size, &negative)) {
        return !negative;
    }
    if (length < 2 || !g_ascii_isdigit(text[0])) {
        return false;
    }
    suffix = strchr(suffixes, g_ascii_toupper(text[length - 1]));
    if (suffix) {
        shift = 10 * (suffix - suffixes);
        length--;
    }
    digits = g_strndup(text, length);
    if (whole_from_text(digits, size, &negative)) {
        if (negative || *size > UINT64_MAX >> shift) {
            return false;
        }
        *size <<= shift;
        return true;
    }
    if (strspn(digits, "0123456789.") != length || !shift ||
        !number_from_text(digits, &value)) {
        return false;
    }
    value = ldexp(value, shift);
    *size = value < 0x1p64 ? value : 0;
    return value < 0x1p64;
}

/*
 * A whole number of either sign as a 64-bit pattern.  Negative numbers are
 * taken for unsigned types too, modulo 2^64: QEMU does, and callers check
 * the range that makes sense.
 */
static bool pattern_from_json(const struct input *in,
                              const struct qapi_type *type,
                              const json_t *json, uint64_t *pattern)
{
    const bool is_signed = type->kind <= QAPI_KIND_INT64;
    uint64_t magnitude;
    bool negative;

    if (!in->keyval) {
        if (json_is_integer(json)) {
            *pattern = json_integer_value(json);
            return true;
        }
        return !is_signed && qapi_json_is_uint64(json, pattern);
    }
    if (type->kind == QAPI_KIND_SIZE) {
        return size_from_text(json_string_value(json), pattern);
    }
    if (!whole_from_text(json_string_value(json), &magnitude, &negative)) {
        return false;
    }
    *pattern = negative ? -magnitude : magnitude;
    if (negative) {
        return magnitude <= (uint64_t)INT64_MAX + 1;
    }
    return !is_signed || magnitude <= INT64_MAX;
}

static void slot_set_integer(const struct qapi_type *type, void *slot,
                             uint64_t pattern)
{
    const uint32_t u32 = pattern;
    const uint16_t u16 = pattern;
    const uint8_t u8 = pattern;

    switch (type->size) {
    case 1:
        memcpy(slot, &u8, sizeof(u8));
        break;
    case 2:
        memcpy(slot, &u16, sizeof(u16));
        break;
    case 4:
        memcpy(slot, &u32, sizeof(u32));
        break;
    default:
        memcpy(slot, &pattern, sizeof(pattern));
        break;
    }
}

bool integer_from_json(const struct input *in, const struct path *at,
                       const struct qapi_type *type, json_t *json, void *slot)
{
    const bool is_signed = type->kind <= QAPI_KIND_INT64;
    g_autofree char *name = NULL;
    uint64_t pattern;

    if (in->keyval && !json_is_string(json)) {
        return input_bad_type(in, at, json, "integer");
    }
    if (!pattern_from_json(in, type, json, &pattern)) {
        if (in->keyval) {
            return expects(in, at, type->kind == QAPI_KIND_SIZE ? "size"
                                                                : "integer");
        }
        return is_signed ? input_bad_type(in, at, json, "integer")
                         : expects(in, at, "uint64");
    }
    if (type->size < sizeof(pattern) &&
        ((int64_t)pattern < ranges[type->kind].min ||
         (int64_t)pattern > ranges[type->kind].max)) {
        name = path_last(in, at);
        error_set(in->errp, "Parameter '%s' expects %s", name,
                  ranges[type->kind].c_type);
        return false;
    }
    slot_set_integer(type, slot, pattern);
    return true;
}
