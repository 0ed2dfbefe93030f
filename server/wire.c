/* SPDX-License-Identifier: MIT */
/*
 * The wire reader: lexer and framing.  See wire.h.
 *
 * A token that lies whole in the bytes at hand is used where it is; one that
 * is split is collected in `partial`.
 */
#include "server/wire.h"

#include <stdint.h>
#include <string.h>
#include "server/wire-value.h"

enum lex_state {
    LEX_START,              /* between tokens */
    LEX_RECOVERY,           /* behind a stray byte */
    LEX_STRING,
    LEX_ESCAPE,             /* in a string, behind a backslash */
    LEX_KEYWORD,
    LEX_MINUS,              /* numbers: behind the sign, */
    LEX_ZERO,               /* a leading 0, */
    LEX_INTEGER,            /* other digits, */
    LEX_POINT,              /* the point, */
    LEX_FRACTION,           /* digits behind it, */
    LEX_E,                  /* e or E, */
    LEX_E_SIGN,             /* its sign, */
    LEX_EXPONENT,           /* its digits */
    /* What a byte can lead to besides: */
    LEX_END,                /* the token ended in front of it */
    LEX_STRAY,              /* it must not be here */
};

struct wire {
    enum lex_state state;
    char quote;             /* of the string we are in */
    bool plain;             /* so far: ASCII, no escapes */
    bool dropping;          /* I2: up to the end of the line or value */
    int64_t n_braces, n_brackets;   /* open ones */
    size_t n_tokens;        /* of this value */
    size_t n_bytes;         /* of them */
    GString *partial;       /* beginning of a split token */
    struct wire_builder builder;
};

struct wire *wire_new(void)
{
    struct wire *w = g_new0(struct wire, 1);

    w->partial = g_string_new(NULL);
    wire_builder_init(&w->builder);
    return w;
}

void wire_free(struct wire *w)
{
    if (w) {
        wire_builder_deinit(&w->builder);
        g_string_free(w->partial, TRUE);
        g_free(w);
    }
}

static void end_token(struct wire *w)
{
    enum { KEEP_BYTES = 4096 };

    w->state = LEX_START;
    if (w->partial->allocated_len > KEEP_BYTES) {
        g_string_free(w->partial, TRUE);
        w->partial = g_string_new(NULL);
    } else {
        g_string_truncate(w->partial, 0);
    }
}

static void end_value(struct wire *w)
{
    w->n_braces = w->n_brackets = 0;
    w->n_tokens = w->n_bytes = 0;
    w->dropping = false;
}

/* ---- lexer -------------------------------------------------------------- */

/* UTF-8 as such is checked with the whole string. */
static inline bool is_string_byte(uint8_t c)
{
    return c >= 0x20 && c < 0xfe;
}

/* Move P over the inside of a string, as far as END or its last byte, the
 * quote; or, with state LEX_STRAY, to a byte that must not be there. */
static const char *lex_string(struct wire *w, const char *p, const char *end)
{
    for (; p < end; p++) {
        uint8_t c = *p;

        if (!is_string_byte(c)) {
            w->state = LEX_STRAY;
            break;
        }
        if (w->state == LEX_ESCAPE) {
            w->state = LEX_STRING;
        } else if (c == w->quote) {
            w->state = LEX_END;
            break;
        } else if (c == '\\') {
            w->state = LEX_ESCAPE;
            w->plain = false;
        } else if (c >= 0x80) {
            w->plain = false;
        }
    }
    return p;
}

/* Does C end the recovery from a stray byte?  (It is then looked at as any
 * first byte.)  As QEMU: a client that is out of step sends 0xff. */
static bool ends_recovery(uint8_t c)
{
    return (c < 0x20 && c != '\t') || c >= 0xfe ||
        (c < 0x80 && strchr("{}[]:,", c));
}

/* The state that byte C leads to in STATE, a number's or a keyword's. */
static enum lex_state lex_step(enum lex_state state, char c)
{
    bool digit = g_ascii_isdigit(c);
    bool exponent = c == 'e' || c == 'E';

    switch (state) {
    case LEX_KEYWORD:
        return g_ascii_islower(c) ? LEX_KEYWORD : LEX_END;
    case LEX_MINUS:
        return c == '0' ? LEX_ZERO : digit ? LEX_INTEGER : LEX_STRAY;
    case LEX_ZERO:
        if (digit) {
            return LEX_STRAY;
        }
        return c == '.' ? LEX_POINT : exponent ? LEX_E : LEX_END;
    case LEX_INTEGER:
        if (digit) {
            return LEX_INTEGER;
        }
        return c == '.' ? LEX_POINT : exponent ? LEX_E : LEX_END;
    case LEX_POINT:
        return digit ? LEX_FRACTION : LEX_STRAY;
    case LEX_FRACTION:
        return digit ? LEX_FRACTION : exponent ? LEX_E : LEX_END;
    case LEX_E:
        if (c == '+' || c == '-') {
            return LEX_E_SIGN;
        }
        return digit ? LEX_EXPONENT : LEX_STRAY;
    case LEX_E_SIGN:
        return digit ? LEX_EXPONENT : LEX_STRAY;
    case LEX_EXPONENT:
        return digit ? LEX_EXPONENT : LEX_END;
    default:
        g_assert_not_reached();
    }
}

static const char *lex_word(struct wire *w, const char *p, const char *end)
{
    enum lex_state next;

    for (; p < end; p++) {
        next = lex_step(w->state, *p);
        if (next == LEX_END || next == LEX_STRAY) {
            if (next == LEX_STRAY) {
                w->state = next;
            }
            break;
        }
        w->state = next;
    }
    return p;
}

/* The state behind C, the first byte of a token, or LEX_END if it is one by
 * itself (its kind in *TOKEN). */
static enum lex_state lex_first(char c, enum wire_token *token)
{
    switch (c) {
    case '"':
    case '\'':
        return LEX_STRING;
    case '{':
        *token = WIRE_OPEN_OBJECT;
        return LEX_END;
    case '}':
        *token = WIRE_CLOSE_OBJECT;
        return LEX_END;
    case '[':
        *token = WIRE_OPEN_ARRAY;
        return LEX_END;
    case ']':
        *token = WIRE_CLOSE_ARRAY;
        return LEX_END;
    case ':':
        *token = WIRE_COLON;
        return LEX_END;
    case ',':
        *token = WIRE_COMMA;
        return LEX_END;
    case '-':
        return LEX_MINUS;
    case '0':
        return LEX_ZERO;
    default:
        if (g_ascii_isdigit(c)) {
            return LEX_INTEGER;
        }
        return g_ascii_islower(c) ? LEX_KEYWORD : LEX_STRAY;
    }
}

/* ---- framing ------------------------------------------------------------ */

/* Do the brackets of the value balance, or never will? */
static bool is_whole(const struct wire *w)
{
    return w->n_braces < 0 || w->n_brackets < 0 ||
        (w->n_braces == 0 && w->n_brackets == 0);
}

/* The value is too big: one error, then drop what is left of it (I2). */
static enum wire_item refuse(struct wire *w, const char *what,
                             bool in_token, char **text)
{
    wire_builder_reset(&w->builder);
    if (!in_token && is_whole(w)) {
        end_value(w);
    } else {
        w->dropping = true;
    }
    *text = g_strdup_printf("JSON %s limit exceeded", what);
    return WIRE_ERROR;
}

/* A token of LEN bytes at TEXT has ended. */
static enum wire_item take_token(struct wire *w, enum wire_token token,
                                 const char *text, size_t len,
                                 json_t **value, char **error)
{
    w->n_braces += (token == WIRE_OPEN_OBJECT) - (token == WIRE_CLOSE_OBJECT);
    w->n_brackets += (token == WIRE_OPEN_ARRAY) - (token == WIRE_CLOSE_ARRAY);
    w->n_tokens++;
    if (!w->dropping) {
        if (w->n_braces + w->n_brackets > WIRE_MAX_DEPTH) {
            return refuse(w, "nesting depth", false, error);
        }
        if (w->n_tokens > WIRE_MAX_TOKENS) {
            return refuse(w, "token count", false, error);
        }
        wire_builder_take(&w->builder, token, text, len, w->plain);
    }
    if (!is_whole(w)) {
        return WIRE_MORE;
    }
    if (w->dropping) {
        end_value(w);
        return WIRE_MORE;
    }
    end_value(w);
    *value = wire_builder_finish(&w->builder, error);
    return *value ? WIRE_VALUE : WIRE_ERROR;
}

enum { SHOWN_BYTES = 60 };      /* of a token in an error */

/* The byte C ends the token (START, LEN) and the value. */
static enum wire_item take_stray(struct wire *w, const char *start, size_t len,
                                 char c, char **text)
{
    char shown[SHOWN_BYTES + 1];
    g_autofree char *valid = NULL;
    bool silent = w->dropping && c == '\n';
    int n_partial = MIN(w->partial->len, SHOWN_BYTES);
    int n_rest = MIN(len, SHOWN_BYTES - n_partial);

    if (!silent) {
        /* One string, so that a NUL ends it wherever the token was split. */
        memcpy(shown, w->partial->str, n_partial);
        memcpy(shown + n_partial, start, n_rest);
        shown[n_partial + n_rest] = '\0';
        valid = g_utf8_make_valid(shown, -1);
        *text = g_strdup_printf("JSON parse error, stray '%s'", valid);
    }
    end_token(w);
    end_value(w);
    wire_builder_reset(&w->builder);
    w->state = silent ? LEX_START : LEX_RECOVERY;
    return silent ? WIRE_MORE : WIRE_ERROR;
}

static enum wire_token word_token(enum lex_state state)
{
    switch (state) {
    case LEX_KEYWORD:
        return WIRE_KEYWORD;
    case LEX_ZERO:
    case LEX_INTEGER:
        return WIRE_INTEGER;
    default:
        return WIRE_REAL;
    }
}

/* A string or word that ended at P; its part in this call begins at START. */
static enum wire_item finish_token(struct wire *w, const char *start,
                                   const char *p, json_t **value, char **text)
{
    bool string = w->state == LEX_END;
    enum wire_token token = string ? WIRE_STRING : word_token(w->state);
    enum wire_item item;
    size_t len = p - start;

    if (w->partial->len > 0 && !w->dropping) {
        g_string_append_len(w->partial, start, len);
        start = w->partial->str;
        len = w->partial->len;
    }
    if (string && !w->dropping) {
        start++;        /* inside the quotes; P was behind the last one */
        len -= 2;
    }
    item = take_token(w, token, start, len, value, text);
    end_token(w);
    return item;
}

/* Read the string or word that we are in.  START is its first byte, or the
 * first in this call. */
static enum wire_item next_part(struct wire *w, const char *start,
                                const char **p, const char *end,
                                json_t **value, char **text)
{
    bool string = w->state == LEX_STRING || w->state == LEX_ESCAPE;
    bool ended;

    *p = string ? lex_string(w, *p, end) : lex_word(w, *p, end);
    if (w->state == LEX_STRAY) {
        ++*p;
        return take_stray(w, start, *p - start, (*p)[-1], text);
    }
    ended = *p < end;
    if (ended && string) {
        ++*p;
    }
    w->n_bytes += *p - start;
    if (w->n_bytes > WIRE_MAX_BYTES && !w->dropping) {
        if (ended) {
            end_token(w);
        }
        g_string_truncate(w->partial, 0);
        return refuse(w, "token size", !ended, text);
    }
    if (ended) {
        return finish_token(w, start, *p, value, text);
    }
    /* Of what is dropped only what an error would show is kept. */
    g_string_append_len(w->partial, start, w->dropping
                        ? MIN(*p - start, MAX(0, SHOWN_BYTES -
                                                 (int)w->partial->len))
                        : *p - start);
    return WIRE_MORE;
}

/* Read from the first byte of a token at *P. */
static enum wire_item next_token(struct wire *w, const char **p,
                                 const char *end, json_t **value, char **text)
{
    const char *start = (*p)++;
    enum wire_token token;

    w->state = lex_first(*start, &token);
    w->plain = true;
    if (w->state == LEX_STRAY) {
        return take_stray(w, start, 1, *start, text);
    }
    if (w->state == LEX_END) {
        w->state = LEX_START;
        w->n_bytes++;
        return take_token(w, token, start, 1, value, text);
    }
    w->quote = *start;
    return next_part(w, start, p, end, value, text);
}

enum wire_item wire_next(struct wire *w, const char **p, const char *end,
                         json_t **value, char **text)
{
    enum wire_item item = WIRE_MORE;

    while (*p < end && item == WIRE_MORE) {
        char c = **p;

        if (w->state == LEX_RECOVERY) {
            if (ends_recovery(c)) {
                w->state = LEX_START;
            } else {
                ++*p;
            }
        } else if (w->state != LEX_START) {
            item = next_part(w, *p, p, end, value, text);
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            ++*p;
            if (w->dropping && c == '\n') {
                end_value(w);
            }
        } else {
            item = next_token(w, p, end, value, text);
        }
    }
    return item;
}

json_t *wire_parse(const char *text, struct error **errp)
{
    struct wire *w = wire_new();
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    g_autofree char *reason = NULL;
    const char *p = line, *end = line + strlen(line);
    json_t *value = NULL, *more = NULL;
    enum wire_item item = wire_next(w, &p, end, &value, &reason);

    if (item == WIRE_VALUE) {
        item = wire_next(w, &p, end, &more, &reason);
        if (item != WIRE_MORE) {
            error_set(errp, "JSON parse error, more than one value");
        }
    } else if (item == WIRE_MORE) {
        error_set(errp, "JSON parse error, premature EOI");
        item = WIRE_ERROR;
    } else {
        error_set(errp, "%s", reason);
    }
    wire_free(w);
    json_decref(more);
    if (item != WIRE_MORE) {
        json_decref(value);
        value = NULL;
    }
    return value;
}
