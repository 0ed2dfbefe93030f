/* SPDX-License-Identifier: MIT */
/* Sizes a person types: see args.h. */
#include "server/hmp/args.h"

#include <errno.h>
#include <stdlib.h>

/* 0: no such suffix. */
static uint64_t unit_of(char suffix)
{
    static const char suffixes[] = "BKMGTPE";

    for (int i = 0; suffixes[i]; i++) {
        if (g_ascii_toupper(suffix) == suffixes[i]) {
            return UINT64_C(1) << (10 * i);
        }
    }
    return 0;
}

/* The digits at *P, and a fraction of 1 after them. */
static bool scan_digits(const char **p, bool *is_hex, uint64_t *whole,
                        double *fraction)
{
    const char *s = *p;
    char *end;

    *is_hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X') &&
        g_ascii_isxdigit(s[2]);
    errno = 0;
    *whole = strtoull(s, &end, *is_hex ? 16 : 10);
    if (end == s || errno == ERANGE) {
        return false;
    }
    *fraction = 0;
    if (*end == '.') {
        double unit = 0.1;

        if (*is_hex) {
            return false;
        }
        for (end++; g_ascii_isdigit(*end); end++, unit /= 10) {
            *fraction += (*end - '0') * unit;
        }
    }
    *p = end;
    return true;
}

bool hmp_size(const char **p, int64_t *value)
{
    const char *s = *p;
    uint64_t whole, unit;
    double fraction;
    bool is_hex;

    while (g_ascii_isspace(*s)) {
        s++;
    }
    if (*s == '+') {
        s++;
    }
    if (!g_ascii_isdigit(*s) ||
        !scan_digits(&s, &is_hex, &whole, &fraction)) {
        return false;
    }
    unit = *s ? unit_of(*s) : 0;
    if (unit) {
        s++;
        if (is_hex) {
            error_report_text("warning: Using a multiplier suffix on hex "
                              "numbers is deprecated: %s", *p);
        }
    } else {
        unit = UINT64_C(1) << 20;
    }
    if ((unit == 1 && fraction > 0) || whole > (uint64_t)INT64_MAX / unit) {
        return false;
    }
    whole = whole * unit + (uint64_t)(fraction * unit);
    if (whole > INT64_MAX) {
        return false;
    }
    *value = whole;
    *p = s;
    return true;
}
