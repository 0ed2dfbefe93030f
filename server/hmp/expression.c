/* SPDX-License-Identifier: MIT */
/*
 * Numbers a person types: sums with brackets, as C has them but for the
 * order, which is QEMU's: + - bind weakest, then & | ^, then * / %.
 */
#include "server/hmp/args.h"

#include <errno.h>
#include <stdlib.h>

/* Hostile brackets must not eat the stack. */
enum { MAX_DEPTH = 100 };

struct scanner {
    const char *p;
    int depth;
    struct error **errp;
};

static bool scan_sum(struct scanner *s, int64_t *value);

static void skip_blanks(struct scanner *s)
{
    while (g_ascii_isspace(*s->p)) {
        s->p++;
    }
}

static bool scan_number(struct scanner *s, int64_t *value)
{
    char *end;

    errno = 0;
    *value = (int64_t)strtoull(s->p, &end, 0);
    if (errno == ERANGE) {
        error_set(s->errp, "number too large");
        return false;
    }
    if (end == s->p) {
        error_set(s->errp, "invalid char '%c' in expression", *s->p);
        return false;
    }
    s->p = end;
    skip_blanks(s);
    return true;
}

static bool scan_character(struct scanner *s, int64_t *value)
{
    s->p++;
    if (!*s->p) {
        error_set(s->errp, "character constant expected");
        return false;
    }
    *value = (unsigned char)*s->p++;
    if (*s->p != '\'') {
        error_set(s->errp, "missing terminating \' character");
        return false;
    }
    s->p++;
    skip_blanks(s);
    return true;
}

static bool scan_unary(struct scanner *s, int64_t *value)
{
    char sign = *s->p;

    if (++s->depth > MAX_DEPTH) {
        error_set(s->errp, "expression too deep");
        return false;
    }
    switch (sign) {
    case '+':
    case '-':
    case '~':
        s->p++;
        skip_blanks(s);
        if (!scan_unary(s, value)) {
            return false;
        }
        *value = sign == '-' ? (int64_t)(0 - (uint64_t)*value)
            : sign == '~' ? ~*value : *value;
        break;
    case '(':
        s->p++;
        skip_blanks(s);
        if (!scan_sum(s, value)) {
            return false;
        }
        if (*s->p != ')') {
            error_set(s->errp, "')' expected");
            return false;
        }
        s->p++;
        skip_blanks(s);
        break;
    case '\'':
        if (!scan_character(s, value)) {
            return false;
        }
        break;
    case '$':
        error_set(s->errp, "unknown register");
        return false;
    case '\0':
        error_set(s->errp, "unexpected end of expression");
        return false;
    default:
        if (!scan_number(s, value)) {
            return false;
        }
    }
    s->depth--;
    return true;
}

static bool scan_product(struct scanner *s, int64_t *value)
{
    if (!scan_unary(s, value)) {
        return false;
    }
    while (*s->p == '*' || *s->p == '/' || *s->p == '%') {
        char op = *s->p++;
        int64_t right;

        skip_blanks(s);
        if (!scan_unary(s, &right)) {
            return false;
        }
        if (op == '*') {
            *value = (int64_t)((uint64_t)*value * (uint64_t)right);
        } else if (right == 0) {
            error_set(s->errp, "division by zero");
            return false;
        } else if (right == -1) {
            /* INT64_MIN / -1 has no value. */
            *value = op == '/' ? (int64_t)(0 - (uint64_t)*value) : 0;
        } else {
            *value = op == '/' ? *value / right : *value % right;
        }
    }
    return true;
}

static bool scan_bits(struct scanner *s, int64_t *value)
{
    if (!scan_product(s, value)) {
        return false;
    }
    while (*s->p == '&' || *s->p == '|' || *s->p == '^') {
        char op = *s->p++;
        int64_t right;

        skip_blanks(s);
        if (!scan_product(s, &right)) {
            return false;
        }
        *value = op == '&' ? *value & right : op == '|' ? *value | right
            : *value ^ right;
    }
    return true;
}

static bool scan_sum(struct scanner *s, int64_t *value)
{
    if (!scan_bits(s, value)) {
        return false;
    }
    while (*s->p == '+' || *s->p == '-') {
        char op = *s->p++;
        int64_t right;

        skip_blanks(s);
        if (!scan_bits(s, &right)) {
            return false;
        }
        *value = op == '+' ? (int64_t)((uint64_t)*value + (uint64_t)right)
            : (int64_t)((uint64_t)*value - (uint64_t)right);
    }
    return true;
}

bool hmp_expression(const char **p, int64_t *value, struct error **errp)
{
    struct scanner s = { .p = *p, .errp = errp };

    skip_blanks(&s);
    if (!scan_sum(&s, value)) {
        return false;
    }
    *p = s.p;
    return true;
}
