/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps: lists, life, states.  See dirty-bitmap.h. */
#include "bitmaps/dirty-bitmap-priv.h"

#include <string.h>

/* ---- list --------------------------------------------------------------- */

struct dirty_bitmap_list *dirty_bitmap_list_new(void)
{
    struct dirty_bitmap_list *l = g_new0(struct dirty_bitmap_list, 1);

    lock_init(&l->lock, "dirty-bitmaps", LOCK_BITMAP);
    cond_init(&l->no_readers);
    l->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    l->recording = g_ptr_array_new();
    return l;
}

void dirty_bitmap_list_free(struct dirty_bitmap_list *l)
{
    if (!l) {
        return;
    }
    while (l->newest) {
        dirty_bitmap_free(l->newest);
    }
    g_hash_table_unref(l->by_name);
    g_ptr_array_unref(l->recording);
    cond_deinit(&l->no_readers);
    lock_deinit(&l->lock);
    g_free(l);
}

void dirty_bitmaps_mark(struct dirty_bitmap_list *l, int64_t offset,
                        int64_t bytes)
{
    if (G_LIKELY(__atomic_load_n(&l->n_recording, __ATOMIC_ACQUIRE) == 0)) {
        return;
    }
    LOCK_GUARD(&l->lock);
    for (guint i = 0; i < l->recording->len; i++) {
        dirty_bitmap_mark_locked(g_ptr_array_index(l->recording, i), offset,
                                 bytes);
    }
}

struct dirty_bitmap *dirty_bitmap_find(const struct dirty_bitmap_list *l,
                                       const char *name)
{
    return g_hash_table_lookup(l->by_name, name);
}

unsigned dirty_bitmap_list_size(const struct dirty_bitmap_list *l)
{
    return g_hash_table_size(l->by_name);
}

struct dirty_bitmap *dirty_bitmap_next(const struct dirty_bitmap_list *l,
                                       const struct dirty_bitmap *bm)
{
    return bm ? bm->older : l->newest;
}

void dirty_bitmap_update_recording(struct dirty_bitmap *bm)
{
    GPtrArray *recording = bm->list->recording;
    bool should = bm->enabled && !bm->successor;

    lock_assert_held(&bm->list->lock);
    if (should && bm->recording_index < 0) {
        bm->recording_index = recording->len;
        g_ptr_array_add(recording, bm);
    } else if (!should && bm->recording_index >= 0) {
        struct dirty_bitmap *last;

        last = g_ptr_array_index(recording, recording->len - 1);
        g_ptr_array_remove_index_fast(recording, bm->recording_index);
        last->recording_index = bm->recording_index;
        bm->recording_index = -1;
    }
    __atomic_store_n(&bm->list->n_recording, (int)recording->len,
                     __ATOMIC_RELEASE);
}

void dirty_bitmap_list_insert(struct dirty_bitmap *bm,
                              struct dirty_bitmap *older)
{
    struct dirty_bitmap_list *l = bm->list;

    bm->older = older;
    bm->newer = older ? older->newer : l->oldest;
    *(bm->newer ? &bm->newer->older : &l->newest) = bm;
    *(older ? &older->newer : &l->oldest) = bm;
}

void dirty_bitmap_list_remove(struct dirty_bitmap *bm)
{
    struct dirty_bitmap_list *l = bm->list;

    *(bm->newer ? &bm->newer->older : &l->newest) = bm->older;
    *(bm->older ? &bm->older->newer : &l->oldest) = bm->newer;
    bm->newer = bm->older = NULL;
}

static int64_t bits_for(int64_t length, unsigned granularity_bits)
{
    return (length >> granularity_bits) +
           ((length & ((INT64_C(1) << granularity_bits) - 1)) != 0);
}

void dirty_bitmap_no_memory(struct error **errp, int64_t length,
                            uint32_t granularity)
{
    error_set(errp, "Cannot allocate memory for a bitmap of %" PRId64
              " bytes with granularity %" PRIu32, length, granularity);
}

bool dirty_bitmaps_resize(struct dirty_bitmap_list *l, int64_t length,
                          struct error **errp)
{
    g_autoptr(GPtrArray) resized =
        g_ptr_array_new_with_free_func((GDestroyNotify)bits_free);
    struct dirty_bitmap *bm;
    guint i = 0;

    LOCK_GUARD(&l->lock);
    /* A merge that began before the drain; it needs nothing of ours. */
    while (l->n_readers) {
        cond_wait(&l->no_readers, &l->lock);
    }
    for (bm = l->newest; bm; bm = bm->older) {
        struct bits *b = bits_clone_sized(
            bm->bits, bits_for(length, bm->granularity_bits));

        if (!b) {
            dirty_bitmap_no_memory(errp, length, dirty_bitmap_granularity(bm));
            return false;
        }
        g_ptr_array_add(resized, b);
    }
    for (bm = l->newest; bm; bm = bm->older) {
        bits_swap(bm->bits, g_ptr_array_index(resized, i++));
        __atomic_store_n(&bm->length, length, __ATOMIC_RELEASE);
    }
    return true;
}

void dirty_bitmap_lost_track(struct dirty_bitmap *bm)
{
    error_report_text("Bitmap '%s' is lost: no memory for it",
                      bm->name ? bm->name : "");
    __atomic_store_n(&bm->inconsistent, true, __ATOMIC_RELEASE);
}

void dirty_bitmaps_grow(struct dirty_bitmap_list *l, int64_t length)
{
    LOCK_GUARD(&l->lock);
    for (struct dirty_bitmap *bm = l->newest; bm; bm = bm->older) {
        if (length <= bm->length) {
            continue;
        }
        if (!bits_grow(bm->bits, bits_for(length, bm->granularity_bits))) {
            dirty_bitmap_lost_track(bm);
        }
        __atomic_store_n(&bm->length, length, __ATOMIC_RELEASE);
    }
}

/* ---- life --------------------------------------------------------------- */

struct dirty_bitmap *dirty_bitmap_new(struct dirty_bitmap_list *l,
                                      const char *name, uint32_t granularity,
                                      int64_t length, struct error **errp)
{
    struct dirty_bitmap *bm;
    struct bits *bits;

    g_assert(granularity >= 512 && (granularity & (granularity - 1)) == 0);
    g_assert(length >= 0);
    if (name && dirty_bitmap_find(l, name)) {
        error_set(errp, "Bitmap already exists: %s", name);
        return NULL;
    }
    if (name && strlen(name) > DIRTY_BITMAP_MAX_NAME) {
        error_set(errp, "Bitmap name too long: %s", name);
        return NULL;
    }
    bits = bits_new(bits_for(length, __builtin_ctz(granularity)));
    if (!bits) {
        dirty_bitmap_no_memory(errp, length, granularity);
        return NULL;
    }
    bm = g_new0(struct dirty_bitmap, 1);
    bm->list = l;
    bm->bits = bits;
    bm->granularity_bits = __builtin_ctz(granularity);
    bm->name = g_strdup(name);
    bm->length = length;
    bm->enabled = true;
    bm->recording_index = -1;

    LOCK_GUARD(&l->lock);
    dirty_bitmap_list_insert(bm, l->newest);
    if (bm->name) {
        g_hash_table_insert(l->by_name, bm->name, bm);
    }
    dirty_bitmap_update_recording(bm);
    return bm;
}

static void forget_name(struct dirty_bitmap *bm)
{
    if (bm->name) {
        g_hash_table_remove(bm->list->by_name, bm->name);
        g_clear_pointer(&bm->name, g_free);
    }
}

void dirty_bitmap_free(struct dirty_bitmap *bm)
{
    if (!bm) {
        return;
    }
    dirty_bitmap_free(bm->successor);
    {
        LOCK_GUARD(&bm->list->lock);
        if (bm->parent) {
            bm->parent->successor = NULL;
        }
        bm->enabled = false;
        dirty_bitmap_update_recording(bm);
        dirty_bitmap_list_remove(bm);
        forget_name(bm);
    }
    bits_free(bm->bits);
    g_free(bm);
}

void dirty_bitmap_rename(struct dirty_bitmap *bm, const char *name)
{
    g_assert(!name || !dirty_bitmap_find(bm->list, name));
    LOCK_GUARD(&bm->list->lock);
    forget_name(bm);
    bm->name = g_strdup(name);
    if (bm->name) {
        g_hash_table_insert(bm->list->by_name, bm->name, bm);
    }
}

const char *dirty_bitmap_name(const struct dirty_bitmap *bm)
{
    return bm->name;
}

uint32_t dirty_bitmap_granularity(const struct dirty_bitmap *bm)
{
    return UINT32_C(1) << bm->granularity_bits;
}

int64_t dirty_bitmap_length(const struct dirty_bitmap *bm)
{
    return __atomic_load_n(&bm->length, __ATOMIC_ACQUIRE);
}

struct bits *dirty_bitmap_bits(struct dirty_bitmap *bm)
{
    return bm->bits;
}

int64_t dirty_bitmap_granules_bytes(const struct dirty_bitmap *bm,
                                    int64_t n)
{
    return n > INT64_MAX >> bm->granularity_bits
           ? INT64_MAX : n << bm->granularity_bits;
}

int64_t dirty_bitmap_count(const struct dirty_bitmap *bm)
{
    return dirty_bitmap_granules_bytes(bm, bits_total(bm->bits));
}

/* ---- states ------------------------------------------------------------- */

bool dirty_bitmap_enabled(const struct dirty_bitmap *bm)
{
    return bm->enabled;
}

bool dirty_bitmap_recording(const struct dirty_bitmap *bm)
{
    return bm->successor ? bm->successor->enabled : bm->enabled;
}

bool dirty_bitmap_busy(const struct dirty_bitmap *bm)
{
    return bm->n_busy > 0;
}

bool dirty_bitmap_persistent(const struct dirty_bitmap *bm)
{
    return bm->persistent;
}

bool dirty_bitmap_readonly(const struct dirty_bitmap *bm)
{
    return bm->readonly;
}

bool dirty_bitmap_inconsistent(const struct dirty_bitmap *bm)
{
    return __atomic_load_n(&bm->inconsistent, __ATOMIC_ACQUIRE);
}

bool dirty_bitmap_skip_store(const struct dirty_bitmap *bm)
{
    return bm->skip_store;
}

void dirty_bitmap_set_enabled(struct dirty_bitmap *bm, bool on)
{
    LOCK_GUARD(&bm->list->lock);
    g_assert(!on || !dirty_bitmap_inconsistent(bm));
    bm->enabled = on;
    dirty_bitmap_update_recording(bm);
}

void dirty_bitmap_set_busy(struct dirty_bitmap *bm, bool on)
{
    LOCK_GUARD(&bm->list->lock);
    bm->n_busy += on ? 1 : -1;
    g_assert(bm->n_busy >= 0);
}

void dirty_bitmap_set_persistent(struct dirty_bitmap *bm, bool on)
{
    LOCK_GUARD(&bm->list->lock);
    bm->persistent = on;
}

void dirty_bitmap_set_readonly(struct dirty_bitmap *bm, bool on)
{
    LOCK_GUARD(&bm->list->lock);
    bm->readonly = on;
}

void dirty_bitmap_set_inconsistent(struct dirty_bitmap *bm)
{
    LOCK_GUARD(&bm->list->lock);
    g_assert(!bm->successor);
    __atomic_store_n(&bm->inconsistent, true, __ATOMIC_RELEASE);
    bm->enabled = false;
    dirty_bitmap_update_recording(bm);
    bits_clear(bm->bits, 0, bits_size(bm->bits));
}

void dirty_bitmap_set_skip_store(struct dirty_bitmap *bm, bool on)
{
    LOCK_GUARD(&bm->list->lock);
    bm->skip_store = on;
}

bool dirty_bitmap_check(const struct dirty_bitmap *bm, unsigned flags,
                        struct error **errp)
{
    const char *name = bm->name ? bm->name : "";

    if ((flags & DIRTY_BITMAP_NOT_BUSY) && bm->n_busy) {
        error_set(errp, "Bitmap '%s' is currently in use by another operation"
                  " and cannot be used", name);
        return false;
    }
    if ((flags & DIRTY_BITMAP_NOT_RO) && bm->readonly) {
        error_set(errp, "Bitmap '%s' is readonly and cannot be modified",
                  name);
        return false;
    }
    if ((flags & DIRTY_BITMAP_NOT_INCONSISTENT) &&
        dirty_bitmap_inconsistent(bm)) {
        error_set(errp, "Bitmap '%s' is inconsistent and cannot be used",
                  name);
        error_append_hint(errp, "Try block-dirty-bitmap-remove to delete this"
                          " bitmap from disk\n");
        return false;
    }
    return true;
}
