/* SPDX-License-Identifier: MIT */
/* Bits: see bits.h. */
#include "bitmaps/bits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <glib.h>

#define WORD_SHIFT  6
#define WORD_BITS   (1 << WORD_SHIFT)
#define GROUP_SHIFT 9                       /* words per group */
#define GROUP_WORDS (1 << GROUP_SHIFT)
/* From so many whole words of a group on, its number changes twice only. */
#define BULK_WORDS  8
#define SMALL_BYTES 65536

/* What readers see: one load, then nothing of it moves. */
struct map {
    /* Constant: what there is room for. */
    int64_t n_words, n_groups;
    uint64_t *words;            /* owned, memory_new(); NULL: n_words is 0 */
    uint32_t *n_nonzero;        /* as that; one per group (I1) */
    struct map *retired;        /* owned: what this one took the place of */

    /* Atomic. */
    int64_t n_bits;
    int64_t total;              /* set bits */
};

struct bits {
    struct map *map;            /* owned; atomic */
};

/* Zeroes.  Small ones from the heap: a process may have so many mappings. */
static void *memory_new(int64_t bytes)
{
    void *p;

    if (bytes < SMALL_BYTES) {
        return calloc(1, bytes);
    }
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void memory_free(void *p, int64_t bytes)
{
    if (bytes < SMALL_BYTES) {
        free(p);
    } else if (p) {
        munmap(p, bytes);
    }
}

static void map_free(struct map *m)
{
    while (m) {
        struct map *next = m->retired;

        memory_free(m->words, m->n_words * sizeof(*m->words));
        memory_free(m->n_nonzero, m->n_groups * sizeof(*m->n_nonzero));
        g_free(m);
        m = next;
    }
}

/* Room for ROOM bits, N_BITS of which are used. */
static struct map *map_new(int64_t n_bits, int64_t room)
{
    struct map *m;

    g_assert(n_bits >= 0);
    if (n_bits > BITS_MAX) {
        return NULL;
    }
    m = g_new0(struct map, 1);
    m->n_bits = n_bits;
    m->n_words = (MAX(n_bits, room) + WORD_BITS - 1) >> WORD_SHIFT;
    m->n_groups = (m->n_words + GROUP_WORDS - 1) >> GROUP_SHIFT;
    if (m->n_words) {
        m->words = memory_new(m->n_words * sizeof(*m->words));
        m->n_nonzero = memory_new(m->n_groups * sizeof(*m->n_nonzero));
        if (!m->words || !m->n_nonzero) {
            map_free(m);
            return NULL;
        }
    }
    return m;
}

static struct map *map_of(const struct bits *b)
{
    return __atomic_load_n(&b->map, __ATOMIC_ACQUIRE);
}

static int64_t map_size(const struct map *m)
{
    return __atomic_load_n(&m->n_bits, __ATOMIC_ACQUIRE);
}

static struct bits *bits_of(struct map *m)
{
    struct bits *b;

    if (!m) {
        return NULL;
    }
    b = g_new(struct bits, 1);
    b->map = m;
    return b;
}

struct bits *bits_new(int64_t n_bits)
{
    return bits_of(map_new(n_bits, 0));
}

void bits_free(struct bits *b)
{
    if (b) {
        map_free(b->map);
        g_free(b);
    }
}

int64_t bits_size(const struct bits *b)
{
    return map_size(map_of(b));
}

int64_t bits_total(const struct bits *b)
{
    return __atomic_load_n(&map_of(b)->total, __ATOMIC_ACQUIRE);
}

static uint64_t word_load(const struct map *m, int64_t w)
{
    return __atomic_load_n(&m->words[w], __ATOMIC_SEQ_CST);
}

static bool group_empty(const struct map *m, int64_t g)
{
    return __atomic_load_n(&m->n_nonzero[g], __ATOMIC_SEQ_CST) == 0;
}

static void group_add(struct map *m, int64_t g, int32_t n)
{
    __atomic_fetch_add(&m->n_nonzero[g], (uint32_t)n, __ATOMIC_SEQ_CST);
}

/* Bits of word W that lie in [start, end). */
static uint64_t word_mask(int64_t w, int64_t start, int64_t end)
{
    int64_t first = w << WORD_SHIFT;
    uint64_t mask = UINT64_MAX;

    if (start > first) {
        mask <<= start - first;
    }
    if (end < first + WORD_BITS) {
        mask &= UINT64_MAX >> (first + WORD_BITS - end);
    }
    return mask;
}

static void check_range(const struct map *m, int64_t start, int64_t n)
{
    int64_t n_bits = map_size(m);

    g_assert(start >= 0 && n >= 0 && start <= n_bits && n <= n_bits - start);
}

/* ---- change ------------------------------------------------------------- */

/*
 * I1: who makes a word non-zero has raised its group's number before.  A word
 * seen non-zero is changed by compare-and-swap, so that it cannot become
 * non-zero from zero (someone cleared it meanwhile) without that.
 */
static int64_t word_set(struct map *m, int64_t w, uint64_t mask)
{
    uint64_t old = word_load(m, w);

    for (;;) {
        if ((old & mask) == mask) {
            return 0;
        }
        if (old == 0) {
            group_add(m, w >> GROUP_SHIFT, 1);
            old = __atomic_fetch_or(&m->words[w], mask, __ATOMIC_SEQ_CST);
            if (old != 0) {
                group_add(m, w >> GROUP_SHIFT, -1);
            }
            return __builtin_popcountll(mask & ~old);
        }
        if (__atomic_compare_exchange_n(&m->words[w], &old, old | mask, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            return __builtin_popcountll(mask & ~old);
        }
    }
}

static int64_t word_clear(struct map *m, int64_t w, uint64_t mask)
{
    uint64_t old = word_load(m, w);

    if (!(old & mask)) {
        return 0;
    }
    old = __atomic_fetch_and(&m->words[w], ~mask, __ATOMIC_SEQ_CST);
    if (old != 0 && (old & ~mask) == 0) {
        group_add(m, w >> GROUP_SHIFT, -1);
    }
    return __builtin_popcountll(old & mask);
}

/* Set whole words [w, end_w) of one group. */
static int64_t words_fill(struct map *m, int64_t w, int64_t end_w)
{
    int64_t g = w >> GROUP_SHIFT, changed = 0;
    int32_t spare;

    while (w < end_w && word_load(m, w) == UINT64_MAX) {
        w++;
    }
    spare = end_w - w;
    if (spare < BULK_WORDS) {
        for (; w < end_w; w++) {
            changed += word_set(m, w, UINT64_MAX);
        }
        return changed;
    }
    group_add(m, g, spare);
    for (; w < end_w; w++) {
        uint64_t old = word_load(m, w);

        if (old != UINT64_MAX) {
            old = __atomic_exchange_n(&m->words[w], UINT64_MAX,
                                      __ATOMIC_SEQ_CST);
            spare -= old == 0;
        }
        changed += WORD_BITS - __builtin_popcountll(old);
    }
    if (spare) {
        group_add(m, g, -spare);
    }
    return changed;
}

static void total_add(struct map *m, int64_t n)
{
    if (n) {
        __atomic_fetch_add(&m->total, n, __ATOMIC_ACQ_REL);
    }
}

int64_t bits_set(struct bits *b, int64_t start, int64_t n)
{
    struct map *m = map_of(b);
    int64_t end = start + n, changed = 0;
    int64_t w, last_w, group_end;

    check_range(m, start, n);
    if (n == 0) {
        return 0;
    }
    last_w = (end - 1) >> WORD_SHIFT;
    w = start >> WORD_SHIFT;
    changed += word_set(m, w, word_mask(w, start, end));
    w++;
    while (w < last_w) {
        group_end = MIN(last_w, ((w >> GROUP_SHIFT) + 1) << GROUP_SHIFT);
        changed += words_fill(m, w, group_end);
        w = group_end;
    }
    if (w == last_w) {
        changed += word_set(m, w, word_mask(w, start, end));
    }
    total_add(m, changed);
    return changed;
}

/*
 * Next word at or after W and before END_W whose group is not empty; END_W
 * if there is none.
 */
static int64_t skip_empty_groups(const struct map *m, int64_t w,
                                 int64_t end_w)
{
    int64_t g = w >> GROUP_SHIFT, end_g;

    if (w >= end_w) {
        return end_w;
    }
    if (!group_empty(m, g)) {
        return w;
    }
    end_g = ((end_w - 1) >> GROUP_SHIFT) + 1;
    for (g++; g < end_g; g++) {
        if (!group_empty(m, g)) {
            return g << GROUP_SHIFT;
        }
    }
    return end_w;
}

/* Call after each word: a group's number is looked at once. */
static int64_t next_word(const struct map *m, int64_t w, int64_t end_w)
{
    return w & (GROUP_WORDS - 1) ? MIN(w, end_w)
                                 : skip_empty_groups(m, w, end_w);
}

/*
 * For each word W of M that has bits in [start, end) and may not be zero.
 * Nothing if the range is empty.
 */
#define FOR_EACH_WORD(w, m, start, end) \
    for (int64_t end_w_ = (start) < (end) ? words_end(end) : 0, \
             w = skip_empty_groups(m, (start) >> WORD_SHIFT, end_w_); \
         w < end_w_; w = next_word(m, w + 1, end_w_))

static int64_t words_end(int64_t end)
{
    return (end + WORD_BITS - 1) >> WORD_SHIFT;
}

int64_t bits_clear(struct bits *b, int64_t start, int64_t n)
{
    struct map *m = map_of(b);
    int64_t end = start + n, changed = 0;

    check_range(m, start, n);
    FOR_EACH_WORD(w, m, start, end) {
        changed += word_clear(m, w, word_mask(w, start, end));
    }
    total_add(m, -changed);
    return changed;
}

/* ---- look --------------------------------------------------------------- */

bool bits_test(const struct bits *b, int64_t bit)
{
    struct map *m = map_of(b);

    check_range(m, bit, 1);
    return word_load(m, bit >> WORD_SHIFT) >> (bit & (WORD_BITS - 1)) & 1;
}

int64_t bits_count(const struct bits *b, int64_t start, int64_t n)
{
    struct map *m = map_of(b);
    int64_t end = start + n, count = 0;

    check_range(m, start, n);
    FOR_EACH_WORD(w, m, start, end) {
        count += __builtin_popcountll(word_load(m, w) &
                                      word_mask(w, start, end));
    }
    return count;
}

bool bits_empty(const struct bits *b)
{
    struct map *m = map_of(b);

    return skip_empty_groups(m, 0, m->n_words) == m->n_words;
}

int64_t bits_next_set(const struct bits *b, int64_t start, int64_t end)
{
    struct map *m = map_of(b);

    g_assert(start >= 0 && end <= map_size(m));
    FOR_EACH_WORD(w, m, start, end) {
        uint64_t word = word_load(m, w) & word_mask(w, start, end);

        if (word) {
            return (w << WORD_SHIFT) + __builtin_ctzll(word);
        }
    }
    return end;
}

int64_t bits_next_clear(const struct bits *b, int64_t start, int64_t end)
{
    struct map *m = map_of(b);
    int64_t end_w = words_end(end), w;

    g_assert(start >= 0 && end <= map_size(m));
    for (w = start >> WORD_SHIFT; start < end && w < end_w; w++) {
        uint64_t word = ~word_load(m, w) & word_mask(w, start, end);

        if (word) {
            return (w << WORD_SHIFT) + __builtin_ctzll(word);
        }
    }
    return end;
}

int64_t bits_next_run(const struct bits *b, int64_t start, int64_t end,
                      int64_t max, int64_t *run_start)
{
    int64_t first = bits_next_set(b, start, end);

    if (first >= end) {
        return 0;
    }
    *run_start = first;
    if (max < end - first) {
        end = first + max;
    }
    /* The first bit was seen set: a clear meanwhile does not make it 0. */
    return bits_next_clear(b, MIN(first + 1, end), end) - first;
}

/* ---- whole sets --------------------------------------------------------- */

/* DST |= SRC over [start, end), which both have. */
static void or_range(struct map *dst, const struct map *src, int64_t start,
                     int64_t end)
{
    int64_t changed = 0;

    FOR_EACH_WORD(w, src, start, end) {
        uint64_t word = word_load(src, w) & word_mask(w, start, end);

        if (word) {
            changed += word_set(dst, w, word);
        }
    }
    total_add(dst, changed);
}

void bits_merge(struct bits *dst, const struct bits *src, int64_t start,
                int64_t n)
{
    struct map *from = map_of(src), *to = map_of(dst);

    check_range(from, start, n);
    check_range(to, start, n);
    or_range(to, from, start, start + n);
}

static struct map *map_copy(const struct map *m, int64_t n_bits, int64_t room)
{
    int64_t end = MIN(map_size(m), n_bits);
    struct map *copy = map_new(n_bits, room);

    if (!copy) {
        return NULL;
    }
    /* Nobody else has it yet: no atomics. */
    FOR_EACH_WORD(w, m, 0, end) {
        uint64_t word = word_load(m, w) & word_mask(w, 0, end);

        copy->words[w] = word;
        copy->n_nonzero[w >> GROUP_SHIFT] += word != 0;
        copy->total += __builtin_popcountll(word);
    }
    return copy;
}

struct bits *bits_clone_sized(const struct bits *b, int64_t n_bits)
{
    return bits_of(map_copy(map_of(b), n_bits, 0));
}

struct bits *bits_clone(const struct bits *b)
{
    return bits_clone_sized(b, bits_size(b));
}

struct bits *bits_swap(struct bits *dst, struct bits *src)
{
    struct map *old = map_of(dst);

    __atomic_store_n(&dst->map, map_of(src), __ATOMIC_RELEASE);
    __atomic_store_n(&src->map, old, __ATOMIC_RELEASE);
    return src;
}

bool bits_resize(struct bits *b, int64_t n_bits)
{
    struct bits *resized = bits_clone_sized(b, n_bits);

    if (!resized) {
        return false;
    }
    bits_free(bits_swap(b, resized));
    return true;
}

bool bits_grow(struct bits *b, int64_t n_bits)
{
    struct map *m = map_of(b), *larger;

    if (n_bits <= map_size(m)) {
        return true;
    }
    if (n_bits <= m->n_words << WORD_SHIFT) {
        __atomic_store_n(&m->n_bits, n_bits, __ATOMIC_RELEASE);
        return true;
    }
    /* Twice the room: the maps kept for readers are half of all at most. */
    larger = map_copy(m, n_bits, MIN(m->n_words << (WORD_SHIFT + 1), BITS_MAX));
    if (!larger) {
        return false;
    }
    larger->retired = m;
    __atomic_store_n(&b->map, larger, __ATOMIC_RELEASE);
    return true;
}

/* ---- stored form -------------------------------------------------------- */

void bits_store_bytes(const struct bits *b, int64_t byte, int64_t len,
                      uint8_t *buf)
{
    struct map *m = map_of(b);

    g_assert(byte >= 0 && byte % 8 == 0 && len >= 0);
    memset(buf, 0, len);
    FOR_EACH_WORD(w, m, byte * 8, MIN((byte + len) * 8, map_size(m))) {
        uint64_t word = GUINT64_TO_LE(word_load(m, w));

        memcpy(buf + (w * 8 - byte), &word, MIN(8, byte + len - w * 8));
    }
}

void bits_load_bytes(struct bits *b, int64_t byte, int64_t len,
                     const uint8_t *buf)
{
    struct map *m = map_of(b);
    int64_t n_bits = map_size(m), end_w = words_end(n_bits), changed = 0;

    g_assert(byte >= 0 && byte % 8 == 0 && len >= 0);
    end_w = MIN((byte + len + 7) / 8, end_w);
    for (int64_t w = byte / 8; w < end_w; w++) {
        uint64_t word = 0;

        memcpy(&word, buf + (w * 8 - byte), MIN(8, byte + len - w * 8));
        word = GUINT64_FROM_LE(word) & word_mask(w, 0, n_bits);
        if (word) {
            changed += word_set(m, w, word);
        }
    }
    total_add(m, changed);
}
