/* SPDX-License-Identifier: MIT */
/* What can be made with -object: see object-help.h. */
#include "server/cmdline/object-help.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "qapi/qapi-introspect.h"
#include "qapi/qapi-types.h"

/* The entry of SCHEMA called NAME; borrowed. */
static const json_t *find_entry(const json_t *schema, const char *name)
{
    const json_t *entry;
    size_t i;

    json_array_foreach(schema, i, entry) {
        if (!g_strcmp0(name,
                       json_string_value(json_object_get(entry, "name")))) {
            return entry;
        }
    }
    return NULL;
}

/* The member KEY of OBJECT, a text: borrowed, "" if there is none. */
static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/* As the help of QEMU calls it. */
static const char *type_word(const json_t *schema, const char *type)
{
    const char *meta;

    if (!strcmp(type, "str")) {
        return "string";
    }
    if (!strcmp(type, "bool") || !strcmp(type, "int")) {
        return type;
    }
    meta = text_of(find_entry(schema, type), "meta-type");
    return *meta ? meta : type;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The members of the object OBJECT_NAME as sorted lines. */
static void print_members(const json_t *schema, const char *object_name)
{
    const json_t *members = json_object_get(find_entry(schema, object_name),
                                            "members");
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    const json_t *member;
    size_t i;

    json_array_foreach(members, i, member) {
        g_ptr_array_add(lines, g_strdup_printf(
            "  %s=<%s>\n", text_of(member, "name"),
            type_word(schema, text_of(member, "type"))));
    }
    g_ptr_array_sort(lines, compare_lines);
    for (guint n = 0; n < lines->len; n++) {
        fputs(g_ptr_array_index(lines, n), stdout);
    }
}

void object_print_types(void)
{
    const char *names[OBJECT_TYPE__MAX];

    for (int i = 0; i < OBJECT_TYPE__MAX; i++) {
        names[i] = ObjectType_str(i);
    }
    qsort(names, OBJECT_TYPE__MAX, sizeof(names[0]), compare_lines);
    printf("List of user creatable objects:\n");
    for (int i = 0; i < OBJECT_TYPE__MAX; i++) {
        printf("  %s\n", names[i]);
    }
}

bool object_print_properties(const char *type, struct error **errp)
{
    json_t *schema = qapi_introspect();
    const json_t *command = find_entry(schema, "object-add");
    const json_t *argument = find_entry(schema,
                                        text_of(command, "arg-type"));
    const json_t *variant;
    bool found = false;
    size_t i;

    json_array_foreach(json_object_get(argument, "variants"), i, variant) {
        if (!strcmp(text_of(variant, "case"), type)) {
            printf("%s options:\n", type);
            print_members(schema, text_of(variant, "type"));
            found = true;
        }
    }
    if (!found) {
        error_set(errp, "Parameter 'qom-type' does not accept value '%s'",
                  type);
    }
    json_decref(schema);
    return found;
}
