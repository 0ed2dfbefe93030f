/* SPDX-License-Identifier: MIT */
/*
 * qcow2 bitmaps: loading at open, what can be stored, information.
 *
 * Problem     A bitmap that misses one write is worse than none, and a file
 *             may be damaged or made by an enemy; yet the disk must open.
 * Invariants  I1  While the image is open for writing, every bitmap in the
 *                 file that we track, or that asks to be tracked (auto), is
 *                 marked in_use there; stable before the first write.
 *             I2  What cannot be used is set aside: reported, left in the
 *                 file as it is, listed as inconsistent if it has a name; so
 *                 it can be removed.
 *             I3  A directory that cannot be read at all: the file keeps it,
 *                 but with autoclear bit 0 clear (it is not what it should
 *                 be), and new bitmaps get a new directory.
 *             I4  What is loaded takes MAX_LOADED_BYTES of memory at most.
 *             I5  Of an inactive image nothing is loaded: its bitmaps are
 *                 somebody else's (block/inactive.h).
 * Threads     Control path, no lock held; see struct qcow2_bitmaps.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/control.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/qcow2/bitmaps-priv.h"

/* Of one image: a table that says "all ones" costs nothing in the file. */
#define MAX_LOADED_BYTES (INT64_C(2) << 30)
/* Read at once where clusters follow each other. */
#define READ_BYTES (1 << 20)

static void report(const struct qcow2 *s, const struct stored_bitmap *b,
                   const char *why)
{
    g_autofree char *name = g_strescape(b->name, NULL);

    error_report_text("Node '%s': bitmap '%s' is set aside: %s",
                      node_name(s->node), name, why);
}

/* ---- loading one bitmap ------------------------------------------------- */

struct load {
    struct qcow2 *s;
    struct stored_geometry geometry;
    int64_t budget;             /* I4: bytes */
    uint8_t *buf;               /* owned: READ_BYTES, whole clusters */
};

/* Data clusters from I on, as far as they follow each other: how many. */
static uint32_t count_run(const struct load *l, const uint64_t *table,
                          uint32_t i, uint32_t n)
{
    uint32_t max = MAX(READ_BYTES >> l->s->cluster_bits, 1), run = 1;

    while (run < max && i + run < n &&
           table[i + run] == table[i] + run * l->s->cluster_bytes) {
        run++;
    }
    return run;
}

/* Entries from I of a table of N into BITS.  How many, or -errno. */
static int load_clusters(struct load *l, const uint64_t *table, uint32_t i,
                         uint32_t n, struct bits *bits)
{
    unsigned shift = l->s->cluster_bits;
    int64_t at = (int64_t)i << shift, offset, first, end;
    uint32_t run = 1;
    int ret;

    switch (stored_table_entry(table[i], &l->geometry, &offset)) {
    case STORED_CLUSTER_ZEROES:
        return 1;
    case STORED_CLUSTER_ONES:
        first = at * 8;
        end = MIN((at + l->s->cluster_bytes) * 8, bits_size(bits));
        bits_set(bits, first, end - first);
        break;
    case STORED_CLUSTER_AT:
        run = count_run(l, table, i, n);
        ret = qcow2_file_pread(l->s, offset, (int64_t)run << shift, l->buf, 0);
        if (ret < 0) {
            return ret;
        }
        bits_load_bytes(bits, at, (int64_t)run << shift, l->buf);
        break;
    default:
        return -EINVAL;
    }
    l->budget -= (int64_t)run << shift;
    return l->budget < 0 ? -E2BIG : (int)run;
}

/* The bits of B, which has no fault; owned.  NULL and errp. */
static struct bits *load_bits(struct load *l, const struct stored_bitmap *b,
                              struct error **errp)
{
    uint32_t n = b->table_entries, i = 0;
    g_autofree uint64_t *table = g_try_new(uint64_t, n);
    struct bits *bits;
    int ret = 0;

    bits = bits_new((l->geometry.disk_bytes >> b->granularity_bits) +
                    !!(l->geometry.disk_bytes &
                       ((INT64_C(1) << b->granularity_bits) - 1)));
    if ((n && !table) || !bits) {
        ret = -ENOMEM;
    } else {
        ret = qcow2_bitmaps_read_table(l->s, b, 0, n, table);
    }
    while (ret >= 0 && i < n) {
        ret = load_clusters(l, table, i, n, bits);
        i += MAX(ret, 0);
    }
    if (ret >= 0) {
        return bits;
    }
    if (ret == -E2BIG) {
        error_set(errp, "the image's bitmaps need more than %" PRId64 " bytes"
                  " of memory", MAX_LOADED_BYTES);
    } else if (ret == -EINVAL) {
        error_set(errp, "entry %" PRIu32 " of its table is not valid", i);
    } else {
        error_set_errno(errp, -ret, "it could not be read");
    }
    bits_free(bits);
    return NULL;
}

/* BITS (taken) NULL: listed as inconsistent. */
static bool make_bitmap(struct qcow2 *s, const struct stored_bitmap *b,
                        struct bits *bits, struct error **errp)
{
    unsigned granularity_bits = CLAMP(b->granularity_bits,
                                      STORED_MIN_GRANULARITY_BITS,
                                      STORED_MAX_GRANULARITY_BITS);
    struct dirty_bitmap *bm;

    CONTROL_GUARD();
    bm = dirty_bitmap_new(s->node->bitmaps, b->name,
                          UINT32_C(1) << granularity_bits, s->hdr.size,
                          bits ? errp : NULL);
    if (!bm && !bits) {         /* listed all the same */
        bm = dirty_bitmap_new(s->node->bitmaps, b->name,
                              UINT32_C(1) << granularity_bits, 0, errp);
    }
    if (!bm) {
        bits_free(bits);
        return false;
    }
    dirty_bitmap_set_persistent(bm, true);
    dirty_bitmap_set_readonly(bm, !s->writable);
    if (bits) {
        dirty_bitmap_restore(bm, bits);
        dirty_bitmap_set_enabled(bm, b->flags & STORED_AUTO);
    } else {
        dirty_bitmap_set_inconsistent(bm);
    }
    return true;
}

static void load_one(struct load *l, struct stored_bitmap *b)
{
    struct bits *bits = NULL;
    AUTO_ERROR(err);

    if (!b->fault && !(b->flags & STORED_IN_USE)) {
        bits = load_bits(l, b, &err);
        if (!bits) {
            b->fault = g_strdup(error_text(err));
            g_clear_pointer(&err, error_free);
        }
    }
    if (b->fault) {
        report(l->s, b, b->fault);
    }
    if (!b->nameless && !make_bitmap(l->s, b, bits, &err)) {
        g_free(b->fault);
        b->fault = g_strdup(error_text(err));
        report(l->s, b, b->fault);
    }
}

/* ---- open and close ----------------------------------------------------- */

static void load_all(struct qcow2 *s, struct stored_directory *dir)
{
    g_autofree uint8_t *buf = g_malloc(MAX(READ_BYTES, s->cluster_bytes));
    struct load l = {
        .s = s, .geometry = qcow2_bitmaps_geometry(s),
        .budget = MAX_LOADED_BYTES, .buf = buf,
    };

    for (unsigned i = 0; i < stored_directory_count(dir); i++) {
        load_one(&l, stored_directory_at(dir, i));
    }
}

/* The directory is written where it is: only flags change. */
static bool write_flags(struct qcow2 *s, const struct stored_directory *dir,
                        struct error **errp)
{
    g_autofree uint8_t *buf = g_malloc(s->bitmaps.directory_bytes);
    int ret;

    stored_directory_encode(dir, buf);
    ret = qcow2_file_pwrite(s, s->bitmaps.directory_offset,
                            s->bitmaps.directory_bytes, buf, 0);
    if (ret == 0) {
        ret = node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not mark the bitmaps as in use");
        return false;
    }
    return true;
}

/* I1. */
static bool mark_in_use(struct qcow2 *s, struct stored_directory *dir,
                        struct error **errp)
{
    bool any = false;

    for (unsigned i = 0; i < stored_directory_count(dir); i++) {
        struct stored_bitmap *b = stored_directory_at(dir, i);

        if (!(b->flags & STORED_IN_USE) &&
            (!b->fault || (b->flags & STORED_AUTO))) {
            b->flags |= STORED_IN_USE;
            any = true;
        }
    }
    return !any || write_flags(s, dir, errp);
}

/* Those that are in memory and as good as in the file. */
static bool mark_unused(struct qcow2 *s, struct stored_directory *dir,
                        struct error **errp)
{
    bool any = false;

    CONTROL_GUARD();
    for (unsigned i = 0; i < stored_directory_count(dir); i++) {
        struct stored_bitmap *b = stored_directory_at(dir, i);
        struct dirty_bitmap *bm = b->nameless
            ? NULL : dirty_bitmap_find(s->node->bitmaps, b->name);

        if ((b->flags & STORED_IN_USE) && bm && !b->fault &&
            !dirty_bitmap_inconsistent(bm)) {
            b->flags &= ~STORED_IN_USE;
            any = true;
        }
    }
    CONTROL_YIELD {
        any = !any || write_flags(s, dir, errp);
    }
    return any;
}

bool qcow2_bitmaps_set_in_use(struct qcow2 *s, bool in_use,
                              struct error **errp)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);
    struct stored_directory *dir;
    struct range_hold hold;
    bool ok;

    range_lock_acquire(&state->update, &hold, 0, 1, true);
    dir = qcow2_bitmaps_copy_directory(s);
    ok = in_use ? mark_in_use(s, dir, errp) : mark_unused(s, dir, errp);
    if (ok) {
        qcow2_bitmaps_set_directory(s, dir);
    } else {
        stored_directory_free(dir);
    }
    range_lock_release(&state->update, &hold);
    return ok;
}

void qcow2_bitmaps_set_readonly(struct qcow2 *s, bool readonly)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;

    CONTROL_GUARD();
    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        if (dirty_bitmap_persistent(bm)) {
            dirty_bitmap_set_readonly(bm, readonly);
        }
    }
}

/* I3.  The extension stays in the header as it is. */
static bool set_all_aside(struct qcow2 *s, const char *why,
                          struct error **errp)
{
    int ret = 0;

    error_report_text("Node '%s': all its stored bitmaps are set aside: %s",
                      node_name(s->node), why);
    lock_acquire(&s->lock);
    s->bitmaps = (struct qcow2_bitmaps_ext) { 0 };
    if (s->writable && (s->hdr.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        s->hdr.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
        ret = qcow2_header_write(s);
    }
    lock_release(&s->lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, "Could not update the qcow2 header");
        return false;
    }
    return true;
}

/* Only to be shown: they are somebody else's, and change. */
static void look_at_directory(struct qcow2 *s)
{
    struct stored_directory *dir = NULL;

    if (s->bitmaps.n_bitmaps > 0 &&
        (s->hdr.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        dir = qcow2_bitmaps_read_directory(s, NULL);
    }
    if (dir) {
        qcow2_bitmaps_set_directory(s, dir);
    }
}

static bool load_directory(struct qcow2 *s, struct error **errp)
{
    struct stored_directory *dir;
    struct qcow2_bitmaps_ext ext;
    AUTO_ERROR(err);

    if (!qcow2_ext_bitmaps(s->exts, s->cluster_bytes, &ext, &err)) {
        return set_all_aside(s, error_text(err), errp);
    }
    if (s->bitmaps.n_bitmaps == 0) {
        return true;
    }
    if (!(s->hdr.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return set_all_aside(s, "a program lacking bitmap support modified"
                             " this file", errp);
    }
    dir = qcow2_bitmaps_read_directory(s, &err);
    if (!dir) {
        return set_all_aside(s, error_text(err), errp);
    }
    load_all(s, dir);
    if (s->writable && !mark_in_use(s, dir, errp)) {
        stored_directory_free(dir);
        return false;
    }
    qcow2_bitmaps_set_directory(s, dir);
    return true;
}

bool qcow2_bitmaps_load(struct qcow2 *s, struct error **errp)
{
    struct qcow2_bitmaps *state = g_new0(struct qcow2_bitmaps, 1);

    range_lock_init(&state->update, "qcow2-bitmaps");
    lock_init(&state->lock, "qcow2-bitmaps", LOCK_LEAF);
    state->dir = stored_directory_new();
    s->bitmaps_state = state;
    if (s->node->inactive) {
        look_at_directory(s);
        return true;
    }
    return load_directory(s, errp);
}

void qcow2_bitmaps_close(struct qcow2 *s)
{
    struct qcow2_bitmaps *state = g_steal_pointer(&s->bitmaps_state);

    if (state) {
        stored_directory_free(state->dir);
        lock_deinit(&state->lock);
        range_lock_deinit(&state->update);
        g_free(state);
    }
}

/* ---- what can be stored ------------------------------------------------- */

/* Bitmaps that are to be stored and are not in DIR yet; their entries. */
static unsigned count_new(const struct qcow2 *s,
                          const struct stored_directory *dir, int64_t *bytes)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;
    unsigned n = 0;

    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        const char *name = dirty_bitmap_name(bm);

        if (name && dirty_bitmap_persistent(bm) &&
            !stored_directory_find(dir, name)) {
            *bytes += stored_entry_bytes(strlen(name), 0);
            n++;
        }
    }
    return n;
}

/* Room for one more, whatever the names, counting some bitmaps twice? */
static bool surely_has_room(const struct qcow2 *s,
                            const struct stored_directory *dir)
{
    int64_t n = stored_directory_count(dir) + 1 +
                dirty_bitmap_list_size(s->node->bitmaps);

    return stored_directory_bytes(dir) +
           n * stored_entry_bytes(STORED_MAX_NAME, 0) <
           STORED_MAX_DIRECTORY_BYTES;
}

static bool directory_has_room(struct qcow2 *s, const char *name,
                               struct error **errp)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);
    int64_t bytes = stored_entry_bytes(strlen(name), 0);
    unsigned n;

    LOCK_GUARD(&state->lock);
    if (stored_directory_find(state->dir, name)) {
        error_set(errp, "The image has a bitmap of this name, which was not"
                  " loaded");
        return false;
    }
    if (surely_has_room(s, state->dir)) {
        return true;
    }
    n = stored_directory_count(state->dir) +
        count_new(s, state->dir, &bytes);
    if (n >= STORED_MAX_BITMAPS) {
        error_set(errp, "Maximum number of persistent bitmaps is already"
                  " reached");
        return false;
    }
    if (bytes + stored_directory_bytes(state->dir) >
        STORED_MAX_DIRECTORY_BYTES) {
        error_set(errp, "Not enough space in the bitmap directory");
        return false;
    }
    return true;
}

bool qcow2_bitmap_can_store(struct node *n, const char *name,
                            uint32_t granularity, struct error **errp)
{
    struct qcow2 *s = n->state;

    control_assert();
    if (s->hdr.version < 3) {
        error_set(errp, "Cannot store dirty bitmaps in qcow2 v2 files");
        return false;
    }
    if (strlen(name) > STORED_MAX_NAME) {
        error_set(errp, "Name length exceeds maximum (%d characters)",
                  STORED_MAX_NAME);
        return false;
    }
    if (stored_data_bytes(node_length(n), __builtin_ctz(granularity)) >
        STORED_MAX_DATA_BYTES) {
        error_set(errp, "Too much space will be occupied by the bitmap. Use"
                  " larger granularity");
        return false;
    }
    return directory_has_room(s, name, errp);
}

/* Bitmaps that could not be stored with that length. */
static bool loaded_can_resize(struct qcow2 *s, int64_t length,
                              struct error **errp)
{
    const struct dirty_bitmap_list *l = s->node->bitmaps;

    CONTROL_GUARD();
    for (struct dirty_bitmap *bm = dirty_bitmap_next(l, NULL); bm;
         bm = dirty_bitmap_next(l, bm)) {
        unsigned bits = __builtin_ctz(dirty_bitmap_granularity(bm));

        if (dirty_bitmap_persistent(bm) && !dirty_bitmap_inconsistent(bm) &&
            stored_data_bytes(length, bits) > STORED_MAX_DATA_BYTES) {
            error_set(errp, "Bitmap '%s' could not be stored with the new"
                      " size: its granularity is too small",
                      dirty_bitmap_name(bm));
            return false;
        }
    }
    return true;
}

bool qcow2_bitmaps_can_resize(struct qcow2 *s, int64_t length,
                              struct error **errp)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);

    if (!loaded_can_resize(s, length, errp)) {
        return false;
    }
    LOCK_GUARD(&state->lock);
    for (unsigned i = 0; i < stored_directory_count(state->dir); i++) {
        const struct stored_bitmap *b = stored_directory_at(state->dir, i);

        /* We would leave one behind that fits no more and does not say so. */
        if (b->fault && !(b->flags & STORED_IN_USE)) {
            error_set(errp, "Cannot resize an image with a bitmap ('%s') that"
                      " is not understood", b->nameless ? "" : b->name);
            return false;
        }
    }
    return true;
}

/* ---- information -------------------------------------------------------- */

static Qcow2BitmapInfo *bitmap_info(const struct stored_bitmap *b)
{
    Qcow2BitmapInfo *info = Qcow2BitmapInfo_new0();

    info->name = g_strdup(b->name);
    info->granularity = b->granularity_bits < 32
                        ? UINT32_C(1) << b->granularity_bits : 0;
    info->flags = Qcow2BitmapInfoFlagsList_new0();
    if (b->flags & STORED_IN_USE) {
        qapi_list_append(info->flags, QCOW2_BITMAP_INFO_FLAGS_IN_USE);
    }
    if (b->flags & STORED_AUTO) {
        qapi_list_append(info->flags, QCOW2_BITMAP_INFO_FLAGS_AUTO);
    }
    return info;
}

bool qcow2_bitmaps_info(struct qcow2 *s, Qcow2BitmapInfoList **list,
                        struct error **errp)
{
    struct qcow2_bitmaps *state = qcow2_bitmaps_of(s);

    *list = NULL;
    LOCK_GUARD(&state->lock);
    for (unsigned i = 0; i < stored_directory_count(state->dir); i++) {
        const struct stored_bitmap *b = stored_directory_at(state->dir, i);

        if (b->nameless) {
            continue;
        }
        if (!*list) {
            *list = Qcow2BitmapInfoList_new0();
        }
        qapi_list_append(*list, bitmap_info(b));
    }
    return true;
}
