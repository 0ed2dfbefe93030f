/* SPDX-License-Identifier: MIT */
/* Block status through chains: short backing files, filters, holes below. */
#include <string.h>
#include "bitmaps/dirty-bitmap.h"
#include "block/driver.h"

enum { UNIT = 4096, MAX_UNITS = 16 };

/* A unit of a layer: "." decided below, "0" zero, "d" data, "h" data that is
 * a hole in the file. */
struct layer {
    struct node node;
    struct child link;          /* to the layer or file below */
    struct child file;
    char units[MAX_UNITS + 1];
};

static int layer_status(struct node *n, bool want_zero, int64_t offset,
                        int64_t bytes, struct block_status *st)
{
    struct layer *l = n->state;
    char unit = l->units[offset / UNIT];

    st->bytes = MIN(UNIT - offset % UNIT, bytes);
    switch (unit) {
    case '0':
        st->flags = STATUS_ALLOCATED | STATUS_ZERO;
        break;
    case 'd':
    case 'h':
        st->flags = STATUS_ALLOCATED | STATUS_DATA;
        if (n->file) {
            st->flags |= STATUS_OFFSET_VALID;
            st->map = offset;
            st->file = n->file->node;
        }
        break;
    default:
        st->flags = 0;
    }
    return 0;
}

/* The file below a layer: only "h" is a hole. */
static int file_status(struct node *n, bool want_zero, int64_t offset,
                       int64_t bytes, struct block_status *st)
{
    struct layer *l = n->state;

    g_assert_true(want_zero);   /* otherwise nobody need ask */
    st->bytes = MIN(UNIT - offset % UNIT, bytes);
    st->flags = STATUS_ALLOCATED |
                (l->units[offset / UNIT] == 'h' ? STATUS_ZERO : STATUS_DATA);
    return 0;
}

static const struct driver format_driver = {
    .name = "format", .is_format = true, .supports_backing = true,
    .block_status = layer_status,
};
static const struct driver file_driver = {
    .name = "file", .is_protocol = true, .block_status = file_status,
};
static const struct driver filter_driver = {
    .name = "filter", .is_filter = true,
};

static struct layer *layer_new(const struct driver *drv, const char *units)
{
    struct layer *l = g_new0(struct layer, 1);

    l->node.driver = drv;
    l->node.state = l;
    l->node.limits.request_alignment = 1;
    g_strlcpy(l->units, units, sizeof(l->units));
    atomic_store(&l->node.length_bytes, (int64_t)strlen(units) * UNIT);
    return l;
}

static void set_backing(struct layer *l, struct layer *below)
{
    l->link.node = &below->node;
    l->link.role = ROLE_COW;
    l->node.backing = &l->link;
    l->node.children = &l->link;
}

static void set_filtered(struct layer *l, struct layer *below)
{
    l->link.node = &below->node;
    l->link.role = ROLE_FILTERED | ROLE_PRIMARY;
    l->node.file = l->node.children = &l->link;
}

static void set_file(struct layer *l, struct layer *file)
{
    l->file.node = &file->node;
    l->file.role = ROLE_IMAGE;
    l->node.file = &l->file;
}

/* A letter per unit: "." unallocated, "z" unallocated and zero, "0", "d";
 * every answer is followed by a question at its end. */
static char *map(struct layer *l, struct layer *base, bool want_zero)
{
    int64_t length = strlen(l->units) * UNIT, at = 0;
    GString *text = g_string_new(NULL);

    while (at < length) {
        struct block_status st;
        g_assert_cmpint(node_block_status_above(&l->node,
                                                base ? &base->node : NULL,
                                                want_zero, at, length - at,
                                                &st), ==, 0);
        g_assert_cmpint(st.bytes, >, 0);
        g_assert_cmpint(st.bytes % UNIT, ==, 0);
        for (int64_t i = 0; i < st.bytes; i += UNIT) {
            bool zero = st.flags & STATUS_ZERO;
            g_string_append_c(text, st.flags & STATUS_ALLOCATED
                              ? zero ? '0' : 'd' : zero ? 'z' : '.');
        }
        at += st.bytes;
        g_assert_cmpint(!!(st.flags & STATUS_EOF), ==, at == length);
    }
    return g_string_free(text, FALSE);
}

static void assert_map(struct layer *l, struct layer *base, bool want_zero,
                       const char *expected)
{
    g_autofree char *got = map(l, base, want_zero);

    g_assert_cmpstr(got, ==, expected);
}

static void test_chain(void)
{
    g_autofree struct layer *base = layer_new(&format_driver, "dd.0dd..");
    g_autofree struct layer *top = layer_new(&format_driver,  "d..d0...");

    set_backing(top, base);
    assert_map(top, NULL, true, "ddzd0dzz");
    assert_map(top, base, true, "d..d0...");
    assert_map(base, NULL, true, "ddz0ddzz");
    assert_map(top, NULL, false, "ddzd0dzz");
}

/* What is behind the end of a layer reads as zeroes, whatever lies below. */
static void test_short_backing(void)
{
    g_autofree struct layer *base = layer_new(&format_driver, "dddddddd");
    g_autofree struct layer *middle = layer_new(&format_driver, ".d.");
    g_autofree struct layer *top = layer_new(&format_driver, "d.....dd");

    set_backing(middle, base);
    set_backing(top, middle);
    assert_map(top, NULL, true, "ddd000dd");
    assert_map(top, base, true, "dd.000dd");
    assert_map(top, middle, true, "d.....dd");
}

static void test_one_node(void)
{
    g_autofree struct layer *base = layer_new(&format_driver, "ddd");
    g_autofree struct layer *top = layer_new(&format_driver, "d.....");
    struct block_status st;

    set_backing(top, base);
    /* Below it there is something... */
    node_block_status(&top->node, true, UNIT, 5 * UNIT, &st);
    g_assert_cmpint(st.flags & (STATUS_ALLOCATED | STATUS_ZERO), ==, 0);
    /* ... and here nothing any more. */
    node_block_status(&top->node, true, 3 * UNIT, 5 * UNIT, &st);
    g_assert_cmpint(st.flags & (STATUS_ALLOCATED | STATUS_ZERO), ==,
                    STATUS_ZERO);
    node_block_status(&top->node, true, 6 * UNIT, UNIT, &st);
    g_assert_cmpint(st.bytes, ==, 0);
    g_assert_true(st.flags & STATUS_EOF);
    g_assert_cmpint(node_block_status(&top->node, true, -1, 1, &st), <, 0);
}

static void test_filter(void)
{
    g_autofree struct layer *base = layer_new(&format_driver, "dd00");
    g_autofree struct layer *below = layer_new(&filter_driver, "....");
    g_autofree struct layer *top = layer_new(&format_driver, "0...");
    g_autofree struct layer *above = layer_new(&filter_driver, "....");

    set_filtered(below, base);
    set_backing(top, below);
    set_filtered(above, top);
    assert_map(above, NULL, true, "0d00");
    assert_map(above, below, true, "0...");
    assert_map(above, base, true, "0...");
}

static void test_hole_in_file(void)
{
    g_autofree struct layer *file = layer_new(&file_driver, "dhd");
    g_autofree struct layer *top = layer_new(&format_driver, "dhdd0");

    set_file(top, file);
    /* The last data unit is behind the end of the file. */
    assert_map(top, NULL, true, "d0d00");
    assert_map(top, NULL, false, "dddd0");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/status/chain", test_chain);
    g_test_add_func("/status/short-backing", test_short_backing);
    g_test_add_func("/status/one-node", test_one_node);
    g_test_add_func("/status/filter", test_filter);
    g_test_add_func("/status/hole-in-file", test_hole_in_file);
    return g_test_run();
}
