/* SPDX-License-Identifier: MIT */
/*
 * copy-on-read over layers in memory: what moves up, and a guest's write that
 * meets the copy of its cluster at the worst moment, either way round.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/drivers.h"
#include "block/filters/copy-on-read.h"
#include "block/root.h"

enum { UNIT = 4096, N_UNITS = 64, LENGTH = N_UNITS * UNIT };

/* ---- a layer in memory -------------------------------------------------- */

struct layer_state {
    struct lock lock;           /* all of it */
    struct cond changed;
    uint8_t data[LENGTH];
    bool allocated[N_UNITS];
    unsigned hold_flags;        /* writes with this flag (0: without
                                   WRITE_UNCHANGED) stop while HOLD */
    bool hold;
    int n_held, n_unchanged;
    int error;                  /* of copies */
};

static int layer_pread(struct node *n, int64_t offset, int64_t bytes,
                       void *buf, unsigned flags)
{
    struct layer_state *s = n->state;
    uint8_t *at = buf;

    while (bytes > 0) {
        int64_t part = MIN(bytes, UNIT - offset % UNIT);
        bool own;
        lock_acquire(&s->lock);
        own = s->allocated[offset / UNIT];
        if (own) {
            memcpy(at, s->data + offset, part);
        }
        lock_release(&s->lock);
        if (!own && n->backing) {
            int ret = node_pread(n->backing->node, offset, part, at, 0);
            g_assert_cmpint(ret, ==, 0);
        } else if (!own) {
            memset(at, 0, part);
        }
        offset += part;
        at += part;
        bytes -= part;
    }
    return 0;
}

static int layer_pwrite(struct node *n, int64_t offset, int64_t bytes,
                        const void *buf, unsigned flags)
{
    struct layer_state *s = n->state;
    g_autofree uint8_t *block = g_malloc(LENGTH);
    int64_t start = offset & -UNIT, end = (offset + bytes + UNIT - 1) & -UNIT;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    layer_pread(n, start, end - start, block, 0);
    memcpy(block + (offset - start), buf, bytes);
    LOCK_GUARD(&s->lock);
    s->n_unchanged += !!(flags & BLK_WRITE_UNCHANGED);
    s->n_held++;
    cond_broadcast(&s->changed);
    while (s->hold && (flags & BLK_WRITE_UNCHANGED) == s->hold_flags) {
        cond_wait(&s->changed, &s->lock);
    }
    s->n_held--;
    if ((flags & BLK_WRITE_UNCHANGED) && s->error) {
        return s->error;
    }
    memcpy(s->data + start, block, end - start);
    for (int64_t at = start; at < end; at += UNIT) {
        s->allocated[at / UNIT] = true;
    }
    return 0;
}

static int layer_block_status(struct node *n, bool want_zero, int64_t offset,
                              int64_t bytes, struct block_status *st)
{
    struct layer_state *s = n->state;
    int64_t unit = offset / UNIT;

    LOCK_GUARD(&s->lock);
    st->flags = s->allocated[unit] ? STATUS_DATA | STATUS_ALLOCATED : 0;
    st->bytes = MIN(bytes, (unit + 1) * UNIT - offset);
    return 0;
}

static int64_t layer_cluster_bytes(const struct node *n)
{
    return 4 * UNIT;
}

static void layer_close(struct node *n)
{
    struct layer_state *s = n->state;

    cond_deinit(&s->changed);
    lock_deinit(&s->lock);
}

static const struct driver layer_driver = {
    .name = "layer", .type = -1, .supports_backing = true,
    .state_size = sizeof(struct layer_state),
    .pread = layer_pread, .pwrite = layer_pwrite,
    .block_status = layer_block_status, .close = layer_close,
    .cluster_bytes = layer_cluster_bytes,
};

static struct node *layer_node(const char *name, struct node *backing)
{
    struct node *n = node_new_filter(&layer_driver, name, false, NULL);
    struct layer_state *s = n->state;

    atomic_store(&n->length_bytes, LENGTH);
    n->discard_unmap = true;
    lock_init(&s->lock, "layer", LOCK_LEAF);
    cond_init(&s->changed);
    if (backing) {
        g_assert_nonnull(node_attach_child(n, backing, "backing", ROLE_COW,
                                           NULL));
    }
    return n;
}

static void fill(struct node *n, int first, int n_units, int value)
{
    struct layer_state *s = n->state;

    memset(s->data + first * UNIT, value, n_units * UNIT);
    for (int u = first; u < first + n_units; u++) {
        s->allocated[u] = true;
    }
}

static void set_hold(struct node *n, bool hold, unsigned flags)
{
    struct layer_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->hold = hold;
    s->hold_flags = flags;
    cond_broadcast(&s->changed);
}

static void wait_held(struct node *n)
{
    struct layer_state *s = n->state;

    LOCK_GUARD(&s->lock);
    while (s->n_held == 0) {
        cond_wait(&s->changed, &s->lock);
    }
}

static bool is_allocated(struct node *n, int unit)
{
    struct layer_state *s = n->state;

    LOCK_GUARD(&s->lock);
    return s->allocated[unit];
}

/* ---- the graph ---------------------------------------------------------- */

static struct node *base, *mid, *top, *filter;
static struct root *guest, *reader;

/* base has units 0-15, mid 16-31, top 32-39; each reads as its 1, 2, 3. */
static void setup(const char *bottom)
{
    struct root_options rw = { .perm = PERM_CONSISTENT_READ | PERM_WRITE,
                               .shared = PERM_ALL };
    struct root_options ro = { .perm = PERM_CONSISTENT_READ,
                               .shared = PERM_ALL };
    g_autoptr(BlockdevOptions) o = BlockdevOptions_new0();
    AUTO_ERROR(err);

    control_lock();
    base = layer_node("base", NULL);
    mid = layer_node("mid", base);
    top = layer_node("top", mid);
    fill(base, 0, 16, 1);
    fill(mid, 16, 16, 2);
    fill(top, 32, 8, 3);
    o->driver = BLOCKDEV_DRIVER_COPY_ON_READ;
    o->node_name = g_strdup("cor");
    o->u.copy_on_read.file = BlockdevRef_new0();
    o->u.copy_on_read.file->type = QAPI_TYPE_STRING;
    o->u.copy_on_read.file->u.reference = g_strdup("top");
    o->u.copy_on_read.bottom = g_strdup(bottom);
    filter = node_open(o, &err);
    g_assert_cmpstr(err ? error_text(err) : "", ==, "");
    g_assert_nonnull(dirty_bitmap_new(top->bitmaps, "b", 4096, LENGTH, NULL));
    guest = root_new(filter, &rw, NULL);
    reader = root_new(filter, &ro, NULL);
    g_assert_true(guest && reader);
    control_unlock();
}

static int64_t count_dirty(struct node *n)
{
    int64_t count;

    control_lock();
    count = dirty_bitmap_count(dirty_bitmap_find(n->bitmaps, "b"));
    control_unlock();
    return count;
}

static void teardown(void)
{
    control_lock();
    root_free(&guest);
    root_free(&reader);
    node_unref(filter);
    node_unref(top);
    node_unref(mid);
    node_unref(base);
    node_wait_closed();
    g_assert_null(node_next(NULL));
    control_unlock();
}

static void assert_reads(int64_t offset, int64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    g_assert_cmpint(root_pread(reader, offset, bytes, buf, 0), ==, 0);
    for (int64_t i = 0; i < bytes; i++) {
        g_assert_cmpint(buf[i], ==, value);
    }
}

/* ---- what moves --------------------------------------------------------- */

static void test_moves(void)
{
    setup(NULL);
    assert_reads(5 * UNIT, 1, 1);
    assert_reads(20 * UNIT - 1, 2, 2);
    assert_reads(40 * UNIT, UNIT, 0);
    for (int u = 0; u < N_UNITS; u++) {
        bool moved = (u >= 4 && u < 8) || (u >= 16 && u < 24);
        g_assert_cmpint(is_allocated(top, u), ==,
                        moved || (u >= 32 && u < 40));
    }
    g_assert_cmpint(count_dirty(top), ==, 0);
    teardown();
}

static void test_bottom(void)
{
    setup("mid");
    assert_reads(0, UNIT, 1);
    assert_reads(16 * UNIT, UNIT, 2);
    g_assert_false(is_allocated(top, 0));
    g_assert_true(is_allocated(top, 16));
    teardown();
}

static int prefetch(int64_t offset, int64_t bytes)
{
    int ret;

    root_enter(reader);
    ret = cor_prefetch(filter, offset, bytes);
    root_leave(reader);
    return ret;
}

static void test_prefetch(void)
{
    setup(NULL);
    g_assert_cmpint(prefetch(0, LENGTH), ==, 0);
    for (int u = 0; u < N_UNITS; u++) {
        g_assert_cmpint(is_allocated(top, u), ==, u < 40);
    }
    g_assert_cmpint(count_dirty(top), ==, 0);
    teardown();
}

static void test_failure(void)
{
    uint8_t byte;

    setup(NULL);
    ((struct layer_state *)top->state)->error = -ENOSPC;
    g_assert_cmpint(prefetch(0, UNIT), ==, -ENOSPC);
    g_assert_cmpint(root_pread(reader, 0, 1, &byte, 0), ==, -ENOSPC);
    /* What is there needs no copy. */
    assert_reads(33 * UNIT, UNIT, 3);
    ((struct layer_state *)top->state)->error = 0;
    assert_reads(0, UNIT, 1);
    teardown();
}

/* ---- a write meets a copy ----------------------------------------------- */

struct call {
    bool is_read;
    int64_t offset;
    int ret;
    bool done;                  /* atomic */
};

static void *call_thread(void *arg)
{
    struct call *c = arg;
    uint8_t buf[100];

    memset(buf, 0x99, sizeof(buf));
    c->ret = c->is_read ? root_pread(reader, c->offset, sizeof(buf), buf, 0)
                        : root_pwrite(guest, c->offset, sizeof(buf), buf, 0);
    __atomic_store_n(&c->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* FIRST stops inside the top layer; SECOND, of the same cluster, must wait for
 * it, whichever of them is the write. */
static void run_meeting(bool read_first)
{
    struct call first = { .is_read = read_first, .offset = 5 * UNIT };
    struct call second = { .is_read = !read_first, .offset = 6 * UNIT };
    struct call other = { .offset = 17 * UNIT };
    pthread_t t[3];

    setup(NULL);
    set_hold(top, true, read_first ? BLK_WRITE_UNCHANGED : 0);
    pthread_create(&t[0], NULL, call_thread, &first);
    wait_held(top);
    pthread_create(&t[1], NULL, call_thread, &second);
    if (read_first) {
        /* Of another cluster: nothing to wait for. */
        pthread_create(&t[2], NULL, call_thread, &other);
        pthread_join(t[2], NULL);
        g_assert_cmpint(other.ret, ==, 0);
    }
    g_usleep(20000);
    g_assert_false(__atomic_load_n(&second.done, __ATOMIC_ACQUIRE));
    set_hold(top, false, 0);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    g_assert_cmpint(first.ret, ==, 0);
    g_assert_cmpint(second.ret, ==, 0);
    /* The write is there, and around it what was there before. */
    assert_reads((read_first ? 6 : 5) * UNIT, 100, 0x99);
    assert_reads((read_first ? 6 : 5) * UNIT + 100, 300, 1);
    assert_reads(4 * UNIT, UNIT, 1);
    teardown();
}

static void test_write_meets_copy(void)
{
    run_meeting(true);
}

static void test_copy_meets_write(void)
{
    run_meeting(false);
}

/* ---- permissions -------------------------------------------------------- */

static void test_permissions(void)
{
    struct root_options rw = { .perm = PERM_WRITE, .shared = PERM_ALL };
    AUTO_ERROR(err);

    setup(NULL);
    control_lock();
    g_assert_null(root_new(top, &rw, &err));
    g_assert_nonnull(strstr(error_text(err), "Permission conflict on node "
                            "'top': permissions 'write'"));
    control_unlock();
    teardown();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cor/moves", test_moves);
    g_test_add_func("/cor/bottom", test_bottom);
    g_test_add_func("/cor/prefetch", test_prefetch);
    g_test_add_func("/cor/failure", test_failure);
    g_test_add_func("/cor/write-meets-copy", test_write_meets_copy);
    g_test_add_func("/cor/copy-meets-write", test_copy_meets_write);
    g_test_add_func("/cor/permissions", test_permissions);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
