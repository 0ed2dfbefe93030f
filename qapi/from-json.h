/* SPDX-License-Identifier: MIT */
/* What from-json.c and from-scalar.c share; nobody else needs it. */
#pragma once

#include "qapi/descr.h"

struct input {
    bool keyval;            /* scalars are strings */
    struct error **errp;
};

/* Where a value stands: a list from it up to the top, on the C stack. */
struct path {
    const struct path *up;
    const char *name;       /* of a member; NULL: an element, or the top */
    size_t index;           /* of an element */
    unsigned depth;         /* how many are up */
};

char *path_text(const struct input *in, const struct path *at);
char *path_last(const struct input *in, const struct path *at);

/* Set the error; both return false. */
bool input_bad_type(const struct input *in, const struct path *at,
                    const json_t *json, const char *expected);
bool input_unexpected(const struct input *in, const struct path *at,
                      const char *name);
bool expected_is_scalar(const char *expected);

bool bool_from_json(const struct input *in, const struct path *at,
                    json_t *json, void *slot);
bool number_from_json(const struct input *in, const struct path *at,
                      json_t *json, void *slot);
bool integer_from_json(const struct input *in, const struct path *at,
                       const struct qapi_type *type, json_t *json,
                       void *slot);
