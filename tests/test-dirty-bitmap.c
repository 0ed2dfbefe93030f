/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps: life, successor, merging across granularities, resizing,
 * undo, what a job's end makes of one, and marking from several threads while
 * the list changes.
 */
#include "bitmaps/dirty-bitmap.h"

#include <pthread.h>
#include <string.h>
#include <glib.h>
#include "bitmaps/sync-mode.h"

#define KIB INT64_C(1024)
#define MIB (1024 * KIB)

static void assert_error(struct error *err, const char *text)
{
    g_assert_nonnull(err);
    g_assert_cmpstr(error_text(err), ==, text);
}

/* Dirty runs as "offset+bytes offset+bytes", in KiB. */
static char *dirty_runs(struct dirty_bitmap *bm)
{
    GString *s = g_string_new(NULL);
    int64_t length = dirty_bitmap_length(bm), at = 0, n;

    while ((n = dirty_bitmap_next_dirty(bm, at, length, INT64_MAX, &at))) {
        g_string_append_printf(s, "%s%d+%d", s->len ? " " : "",
                               (int)(at / KIB), (int)(n / KIB));
        at += n;
    }
    return g_string_free(s, FALSE);
}

static void assert_runs(struct dirty_bitmap *bm, const char *expected)
{
    g_autofree char *runs = dirty_runs(bm);

    g_assert_cmpstr(runs, ==, expected);
}

static void test_life(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a, *b, *internal;
    g_autofree char *longest = g_strnfill(1023, 'x');
    g_autofree char *too_long = g_strnfill(1024, 'x');
    g_autofree char *text = g_strdup_printf("Bitmap name too long: %s",
                                            too_long);

    a = dirty_bitmap_new(l, "a", 64 * KIB, 10 * MIB, NULL);
    b = dirty_bitmap_new(l, longest, 512, 10 * MIB, NULL);
    internal = dirty_bitmap_new(l, NULL, 64 * KIB, 10 * MIB, NULL);
    g_assert_true(dirty_bitmap_next(l, NULL) == internal);
    g_assert_true(dirty_bitmap_next(l, internal) == b);
    g_assert_true(dirty_bitmap_next(l, b) == a);
    g_assert_null(dirty_bitmap_next(l, a));
    g_assert_true(dirty_bitmap_find(l, "a") == a);
    g_assert_true(dirty_bitmap_find(l, longest) == b);
    g_assert_null(dirty_bitmap_find(l, "c"));
    g_assert_null(dirty_bitmap_name(internal));
    {
        AUTO_ERROR(err);
        g_assert_null(dirty_bitmap_new(l, "a", 512, MIB, &err));
        assert_error(err, "Bitmap already exists: a");
    }
    {
        AUTO_ERROR(err);
        g_assert_null(dirty_bitmap_new(l, too_long, 512, MIB, &err));
        assert_error(err, text);
    }
    {
        AUTO_ERROR(err);
        g_assert_null(dirty_bitmap_new(l, "vast", 512, INT64_MAX, &err));
        assert_error(err, "Cannot allocate memory for a bitmap of "
                     "9223372036854775807 bytes with granularity 512");
    }
    dirty_bitmap_rename(a, "c");
    g_assert_null(dirty_bitmap_find(l, "a"));
    g_assert_true(dirty_bitmap_find(l, "c") == a);
    dirty_bitmap_free(b);
    g_assert_true(dirty_bitmap_next(l, internal) == a);
    g_assert_null(dirty_bitmap_find(l, longest));
    dirty_bitmap_list_free(l);
}

static void test_mark(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a, *off;
    int64_t at;

    a = dirty_bitmap_new(l, "a", 64 * KIB, MIB + 100, NULL);
    off = dirty_bitmap_new(l, "off", 64 * KIB, MIB + 100, NULL);
    dirty_bitmap_set_enabled(off, false);
    dirty_bitmaps_mark(l, 0, 0);
    assert_runs(a, "");
    dirty_bitmaps_mark(l, 64 * KIB - 1, 2);
    assert_runs(a, "0+128");
    g_assert_cmpint(dirty_bitmap_count(a), ==, 128 * KIB);
    /* The last granule counts whole, a run ends at the bitmap's end. */
    dirty_bitmaps_mark(l, MIB + 99, 1);
    g_assert_cmpint(dirty_bitmap_count(a), ==, 192 * KIB);
    g_assert_cmpint(dirty_bitmap_next_dirty(a, MIB, MIB + 100, MIB, &at), ==,
                    100);
    /* Past the end: nothing to mark, nothing breaks. */
    dirty_bitmaps_mark(l, 5 * MIB, MIB);
    dirty_bitmaps_mark(l, INT64_MAX - 10, 10);
    g_assert_cmpint(dirty_bitmap_count(a), ==, 192 * KIB);
    g_assert_cmpint(dirty_bitmap_count(off), ==, 0);

    /* Runs are cut to what was asked for. */
    g_assert_cmpint(dirty_bitmap_next_dirty(a, 10, 100, 50, &at), ==, 50);
    g_assert_cmpint(at, ==, 10);
    g_assert_cmpint(dirty_bitmap_next_dirty(a, 10, 40, 50, &at), ==, 30);
    g_assert_cmpint(dirty_bitmap_next_dirty(a, 128 * KIB, MIB, 1, &at), ==,
                    0);

    dirty_bitmap_set_enabled(a, false);
    dirty_bitmaps_mark(l, 512 * KIB, 1);
    assert_runs(a, "0+128 1024+0");
    dirty_bitmap_unmark(a, 0, 64 * KIB);
    assert_runs(a, "64+64 1024+0");
    dirty_bitmap_list_free(l);
}

/* The largest disks and granules: no product overflows. */
static void test_extremes(void)
{
    const int64_t length = INT64_C(9223372035781033984);
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *coarse, *fine;
    int64_t at;

    coarse = dirty_bitmap_new(l, "coarse", UINT32_C(1) << 31, length, NULL);
    fine = dirty_bitmap_new(l, "fine", UINT32_C(1) << 30, length, NULL);
    dirty_bitmap_set_enabled(fine, false);
    dirty_bitmaps_mark(l, length - 3, 3);
    g_assert_cmpint(dirty_bitmap_count(coarse), ==, INT64_C(1) << 31);
    g_assert_cmpint(dirty_bitmap_next_dirty(coarse, 5, length, INT64_MAX,
                                            &at), ==, INT64_C(1) << 30);
    g_assert_cmpint(at, ==, length - (INT64_C(1) << 30));
    g_assert_true(dirty_bitmap_merge(fine, coarse, NULL, NULL));
    g_assert_cmpint(dirty_bitmap_count(fine), ==, INT64_C(1) << 30);
    dirty_bitmap_list_free(l);

    l = dirty_bitmap_list_new();
    fine = dirty_bitmap_new(l, "nothing", 512, 0, NULL);
    g_assert_nonnull(fine);
    dirty_bitmaps_mark(l, 0, 512);
    g_assert_cmpint(dirty_bitmap_count(fine), ==, 0);
    dirty_bitmap_list_free(l);
}

static void test_check(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a = dirty_bitmap_new(l, "a", 512, MIB, NULL);

    g_assert_true(dirty_bitmap_check(a, DIRTY_BITMAP_DEFAULT, NULL));
    dirty_bitmap_set_busy(a, true);
    dirty_bitmap_set_busy(a, true);
    dirty_bitmap_set_busy(a, false);
    {
        AUTO_ERROR(err);
        g_assert_false(dirty_bitmap_check(a, DIRTY_BITMAP_DEFAULT, &err));
        assert_error(err, "Bitmap 'a' is currently in use by another operation"
                     " and cannot be used");
    }
    dirty_bitmap_set_busy(a, false);
    dirty_bitmap_set_readonly(a, true);
    g_assert_true(dirty_bitmap_check(a, DIRTY_BITMAP_ALLOW_RO, NULL));
    {
        AUTO_ERROR(err);
        g_assert_false(dirty_bitmap_check(a, DIRTY_BITMAP_DEFAULT, &err));
        assert_error(err, "Bitmap 'a' is readonly and cannot be modified");
    }
    dirty_bitmap_set_readonly(a, false);
    dirty_bitmap_mark(a, 0, 1);
    dirty_bitmap_set_inconsistent(a);
    g_assert_false(dirty_bitmap_recording(a));
    g_assert_cmpint(dirty_bitmap_count(a), ==, 0);
    dirty_bitmaps_mark(l, 0, 512);
    g_assert_cmpint(dirty_bitmap_count(a), ==, 0);
    {
        AUTO_ERROR(err);
        g_assert_false(dirty_bitmap_check(a, DIRTY_BITMAP_DEFAULT, &err));
        assert_error(err, "Bitmap 'a' is inconsistent and cannot be used");
        g_assert_cmpstr(error_hint(err), ==, "Try block-dirty-bitmap-remove to"
                        " delete this bitmap from disk\n");
    }
    dirty_bitmap_list_free(l);
}

static void test_undo(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a = dirty_bitmap_new(l, "a", 64 * KIB, MIB, NULL);
    struct dirty_bitmap *b = dirty_bitmap_new(l, "b", 64 * KIB, MIB, NULL);
    struct bits *bits = dirty_bitmap_bits(a), *before_clear, *before_merge;

    dirty_bitmap_mark(a, 0, 64 * KIB);
    dirty_bitmap_mark(b, 256 * KIB, 64 * KIB);
    g_assert_true(dirty_bitmap_clear(a, &before_clear, NULL));
    assert_runs(a, "");
    g_assert_true(dirty_bitmap_merge(a, b, &before_merge, NULL));
    assert_runs(a, "256+64");
    dirty_bitmap_restore(a, before_merge);
    assert_runs(a, "");
    dirty_bitmap_restore(a, before_clear);
    assert_runs(a, "0+64");
    g_assert_true(dirty_bitmap_clear(a, NULL, NULL));
    assert_runs(a, "");
    g_assert_true(dirty_bitmap_bits(a) == bits);            /* I4 */
    dirty_bitmap_list_free(l);
}

static void test_merge(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *coarse, *fine, *other;

    coarse = dirty_bitmap_new(l, "coarse", 128 * KIB, MIB - 5, NULL);
    fine = dirty_bitmap_new(l, "fine", 4 * KIB, MIB - 5, NULL);
    other = dirty_bitmap_new(l, "other", 4 * KIB, MIB, NULL);
    dirty_bitmap_mark(fine, 4 * KIB, 4 * KIB);
    dirty_bitmap_mark(fine, MIB - 6, 1);
    g_assert_true(dirty_bitmap_merge(coarse, fine, NULL, NULL));
    assert_runs(coarse, "0+128 896+127");
    assert_runs(fine, "4+4 1020+3");
    g_assert_true(dirty_bitmap_clear(fine, NULL, NULL));
    dirty_bitmap_mark(fine, 500 * KIB, 1);
    g_assert_true(dirty_bitmap_merge(fine, coarse, NULL, NULL));
    assert_runs(fine, "0+128 500+4 896+127");
    {
        AUTO_ERROR(err);
        g_assert_false(dirty_bitmap_merge(other, fine, NULL, &err));
        assert_error(err, "Bitmaps are of different sizes (destination size is"
                     " 1048576, source size is 1048571) and can't be merged");
    }
    assert_runs(other, "");
    dirty_bitmap_list_free(l);
}

static void test_resize(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a = dirty_bitmap_new(l, "a", 64 * KIB, MIB, NULL);
    struct dirty_bitmap *b = dirty_bitmap_new(l, "b", 512, MIB, NULL);

    dirty_bitmaps_mark(l, 0, MIB);
    g_assert_true(dirty_bitmaps_resize(l, 512 * KIB + 1, NULL));
    g_assert_cmpint(dirty_bitmap_count(a), ==, 576 * KIB);
    g_assert_cmpint(dirty_bitmap_count(b), ==, 512 * KIB + 512);
    g_assert_true(dirty_bitmaps_resize(l, 4 * MIB, NULL));
    g_assert_cmpint(dirty_bitmap_length(a), ==, 4 * MIB);
    assert_runs(a, "0+576");                /* what was cut stays clean */
    dirty_bitmaps_mark(l, 3 * MIB, 1);
    assert_runs(a, "0+576 3072+64");
    {
        AUTO_ERROR(err);
        /* a could be; b could not: neither is. */
        g_assert_false(dirty_bitmaps_resize(l, INT64_C(1) << 52, &err));
        g_assert_nonnull(err);
    }
    assert_runs(a, "0+576 3072+64");
    g_assert_cmpint(dirty_bitmap_length(a), ==, 4 * MIB);
    dirty_bitmap_list_free(l);
}

/* A write behind the end lets the node grow, and its bitmaps. */
static void test_grow(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a = dirty_bitmap_new(l, "a", 512, KIB, NULL);

    dirty_bitmaps_mark(l, 0, KIB);
    for (int64_t length = KIB; length < 64 * MIB; length += 300 * KIB) {
        dirty_bitmaps_grow(l, length + KIB);
        dirty_bitmaps_mark(l, length, KIB);
        dirty_bitmaps_grow(l, length);          /* late, and smaller */
        g_assert_cmpint(dirty_bitmap_length(a), ==, length + KIB);
    }
    g_assert_cmpint(dirty_bitmap_count(a), ==, 220 * KIB);
    g_assert_cmpint(bits_next_set(dirty_bitmap_bits(a), 4, 1000), ==, 602);

    dirty_bitmaps_grow(l, INT64_C(1) << 52);
    g_assert_true(dirty_bitmap_inconsistent(a));
    dirty_bitmap_list_free(l);
}

/* S = first 64 KiB; with N = second. */
static struct dirty_bitmap *with_successor(struct dirty_bitmap_list *l,
                                           bool enabled)
{
    struct dirty_bitmap *a = dirty_bitmap_new(l, "a", 64 * KIB, MIB, NULL);

    dirty_bitmap_mark(a, 0, 1);
    dirty_bitmap_set_enabled(a, enabled);
    g_assert_true(dirty_bitmap_create_successor(a, NULL));
    dirty_bitmaps_mark(l, 64 * KIB, 1);
    return a;
}

static void test_successor(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *a = with_successor(l, true);
    struct dirty_bitmap *z = dirty_bitmap_new(l, "z", 64 * KIB, MIB, NULL);

    assert_runs(a, "0+64");
    assert_runs(dirty_bitmap_successor(a), "64+64");
    g_assert_null(dirty_bitmap_name(dirty_bitmap_successor(a)));
    g_assert_true(dirty_bitmap_busy(a));
    g_assert_true(dirty_bitmap_recording(a));
    {
        AUTO_ERROR(err);
        g_assert_false(dirty_bitmap_create_successor(a, &err));
        g_assert_nonnull(err);
    }
    dirty_bitmap_abdicate(a);
    assert_runs(a, "64+64");
    g_assert_false(dirty_bitmap_busy(a));
    g_assert_null(dirty_bitmap_successor(a));
    g_assert_true(dirty_bitmap_next(l, NULL) == z);
    g_assert_true(dirty_bitmap_next(l, z) == a);
    g_assert_null(dirty_bitmap_next(l, a));
    dirty_bitmaps_mark(l, 128 * KIB, 1);
    assert_runs(a, "64+128");               /* it records again */

    g_assert_true(dirty_bitmap_create_successor(a, NULL));
    dirty_bitmaps_mark(l, 512 * KIB, 1);
    dirty_bitmap_reclaim(a);
    assert_runs(a, "64+128 512+64");
    dirty_bitmaps_mark(l, 0, 1);
    assert_runs(a, "0+192 512+64");

    /* Both grow; freeing the bitmap frees its successor. */
    g_assert_true(dirty_bitmap_create_successor(a, NULL));
    g_assert_true(dirty_bitmaps_resize(l, 2 * MIB, NULL));
    dirty_bitmaps_mark(l, MIB, 1);
    assert_runs(dirty_bitmap_successor(a), "1024+64");
    dirty_bitmap_free(a);
    g_assert_null(dirty_bitmap_next(l, z));
    dirty_bitmap_list_free(l);

    l = dirty_bitmap_list_new();
    a = with_successor(l, false);
    assert_runs(dirty_bitmap_successor(a), "");     /* disabled, as it was */
    g_assert_false(dirty_bitmap_recording(a));
    dirty_bitmap_reclaim(a);
    g_assert_false(dirty_bitmap_enabled(a));
    assert_runs(a, "0+64");
    dirty_bitmap_list_free(l);
}

/* DESIGN.md's table, every cell. */
static void test_sync_modes(void)
{
    static const struct {
        enum sync_mode mode;
        bool succeeded;
        const char *runs;
    } cells[] = {
        { SYNC_MODE_ON_SUCCESS, true,  "64+64" },
        { SYNC_MODE_ON_SUCCESS, false, "0+128" },
        { SYNC_MODE_NEVER,      true,  "0+128" },
        { SYNC_MODE_NEVER,      false, "0+128" },
        { SYNC_MODE_ALWAYS,     true,  "64+64" },
        { SYNC_MODE_ALWAYS,     false, "64+64 256+128 768+256" },
    };
    struct bits *todo = bits_new(8);        /* units of 128 KiB */

    bits_set(todo, 2, 1);
    bits_set(todo, 6, 2);
    for (size_t i = 0; i < G_N_ELEMENTS(cells); i++) {
        struct dirty_bitmap_list *l = dirty_bitmap_list_new();
        struct dirty_bitmap *a = with_successor(l, true);

        sync_mode_finish(a, cells[i].mode, cells[i].succeeded,
                         cells[i].succeeded ? NULL : todo, 128 * KIB);
        assert_runs(a, cells[i].runs);
        g_assert_false(dirty_bitmap_busy(a));
        g_assert_true(dirty_bitmap_recording(a));
        dirty_bitmap_list_free(l);
    }
    bits_free(todo);
}

/* ---- threads ------------------------------------------------------------ */

#define N_MARKERS 3

struct marker {
    struct dirty_bitmap_list *l;
    int me;
    bool *stop;                 /* atomic */
};

static void *marker_thread(void *opaque)
{
    struct marker *m = opaque;

    for (int64_t i = 0; !__atomic_load_n(m->stop, __ATOMIC_ACQUIRE); i++) {
        dirty_bitmaps_mark(m->l, (i * N_MARKERS + m->me) % 4096 * 4 * KIB, 1);
    }
    return NULL;
}

/* Writers mark while bitmaps come, go, change and are used by jobs. */
static void test_threads(void)
{
    struct dirty_bitmap_list *l = dirty_bitmap_list_new();
    struct dirty_bitmap *stays, *a;
    struct marker markers[N_MARKERS];
    pthread_t threads[N_MARKERS];
    bool stop = false;

    stays = dirty_bitmap_new(l, "stays", 4 * KIB, 16 * MIB, NULL);
    for (int i = 0; i < N_MARKERS; i++) {
        markers[i] = (struct marker) { .l = l, .me = i, .stop = &stop };
        pthread_create(&threads[i], NULL, marker_thread, &markers[i]);
    }
    for (int i = 0; i < 300; i++) {
        a = dirty_bitmap_new(l, "a", 512, dirty_bitmap_length(stays), NULL);
        g_assert_true(dirty_bitmap_clear(stays, NULL, NULL));
        g_assert_true(dirty_bitmap_merge(stays, a, NULL, NULL));
        g_assert_true(dirty_bitmap_create_successor(stays, NULL));
        dirty_bitmap_set_enabled(a, i & 1);
        if (i & 2) {
            dirty_bitmap_abdicate(stays);
        } else {
            dirty_bitmap_reclaim(stays);
        }
        g_assert_true(dirty_bitmaps_resize(l, 16 * MIB + i, NULL));
        dirty_bitmaps_grow(l, 16 * MIB + i + 1);
        dirty_bitmap_free(a);
    }
    g_assert_true(dirty_bitmap_clear(stays, NULL, NULL));
    while (dirty_bitmap_count(stays) < MIB) {
        g_thread_yield();
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELEASE);
    for (int i = 0; i < N_MARKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    dirty_bitmap_list_free(l);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/dirty-bitmap/life", test_life);
    g_test_add_func("/dirty-bitmap/mark", test_mark);
    g_test_add_func("/dirty-bitmap/extremes", test_extremes);
    g_test_add_func("/dirty-bitmap/check", test_check);
    g_test_add_func("/dirty-bitmap/undo", test_undo);
    g_test_add_func("/dirty-bitmap/merge", test_merge);
    g_test_add_func("/dirty-bitmap/resize", test_resize);
    g_test_add_func("/dirty-bitmap/grow", test_grow);
    g_test_add_func("/dirty-bitmap/successor", test_successor);
    g_test_add_func("/dirty-bitmap/sync-modes", test_sync_modes);
    g_test_add_func("/dirty-bitmap/threads", test_threads);
    return g_test_run();
}
