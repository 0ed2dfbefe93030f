/* SPDX-License-Identifier: MIT */
/*
 * copy-before-write by options and snapshot-access, over nodes in memory that
 * can be held or made to fail: what the reader of the snapshot sees, who waits
 * for whom, and what a target does that fails or hangs.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include "base/control.h"
#include "base/pool.h"
#include "bitmaps/dirty-bitmap.h"
#include "block/drivers.h"
#include "block/filters/copy-before-write.h"
#include "block/root.h"

enum { CLUSTER = 64 * 1024, N_CLUSTERS = 24, TAIL = 512,
       LENGTH = (N_CLUSTERS - 1) * CLUSTER + TAIL };

/* ---- a node in memory --------------------------------------------------- */

/* Plain memory: TSan sees a copy that reads what a guest is writing. */
struct mem_state {
    uint8_t *data;
    struct lock lock;           /* all below */
    struct cond changed;
    bool hold_reads, hold_writes;
    int n_held;                 /* requests that wait */
    int n_cancels;
    int64_t discarded;          /* bytes */
    int error;                  /* of writes, -errno */
};

static void stop(struct mem_state *s, const bool *hold)
{
    LOCK_GUARD(&s->lock);
    s->n_held++;
    cond_broadcast(&s->changed);
    while (*hold) {
        cond_wait(&s->changed, &s->lock);
    }
    s->n_held--;
}

/* A broken snapshot's copies may read what is being written. */
static bool may_race;

static void move_bytes(struct mem_state *s, void *to, const void *from,
                       int64_t bytes)
{
    if (may_race) {
        LOCK_GUARD(&s->lock);
        memcpy(to, from, bytes);
    } else {
        memcpy(to, from, bytes);
    }
}

static int write_error(struct mem_state *s)
{
    LOCK_GUARD(&s->lock);
    return s->error;
}

static int mem_pread(struct node *n, int64_t offset, int64_t bytes, void *buf,
                     unsigned flags)
{
    struct mem_state *s = n->state;

    stop(s, &s->hold_reads);
    move_bytes(s, buf, s->data + offset, bytes);
    sched_yield();
    return 0;
}

static int mem_pwrite(struct node *n, int64_t offset, int64_t bytes,
                      const void *buf, unsigned flags)
{
    struct mem_state *s = n->state;
    int ret;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    stop(s, &s->hold_writes);
    ret = write_error(s);
    if (ret == 0) {
        move_bytes(s, s->data + offset, buf, bytes);
    }
    return ret;
}

static int mem_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->discarded += bytes;
    return 0;
}

static void mem_close(struct node *n)
{
    struct mem_state *s = n->state;

    cond_deinit(&s->changed);
    lock_deinit(&s->lock);
    g_free(s->data);
}

/* As a hung server: who waits for it is told to go. */
static void mem_cancel(struct node *n)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->n_cancels++;
    s->error = -EIO;
    s->hold_writes = false;
    cond_broadcast(&s->changed);
}

static const struct driver mem_driver = {
    .name = "mem", .type = -1, .is_protocol = true,
    .state_size = sizeof(struct mem_state),
    .pread = mem_pread, .pwrite = mem_pwrite, .pdiscard = mem_pdiscard,
    .close = mem_close, .cancel_in_flight = mem_cancel,
};

static struct node *mem_node(const char *name, int64_t length)
{
    struct node *n = node_new_filter(&mem_driver, name, false, NULL);
    struct mem_state *s = n->state;

    atomic_store(&n->length_bytes, length);
    n->discard_unmap = true;
    s->data = g_malloc0(length);
    lock_init(&s->lock, "mem", LOCK_LEAF);
    cond_init(&s->changed);
    return n;
}

static void set_hold(struct node *n, bool reads, bool writes)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->hold_reads = reads;
    s->hold_writes = writes;
    cond_broadcast(&s->changed);
}

static void set_error(struct node *n, int error)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    s->error = error;
}

/* Until a request waits in N. */
static void wait_held(struct node *n)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    while (s->n_held == 0) {
        cond_wait(&s->changed, &s->lock);
    }
}

/* ---- the graph ---------------------------------------------------------- */

static struct node *source, *target, *filter, *access_node;
static struct root *guest, *reader;
static uint8_t *frozen;

static BlockdevOptions *cbw_options(void)
{
    BlockdevOptions *o = BlockdevOptions_new0();
    BlockdevOptionsCbw *c = &o->u.copy_before_write;

    o->driver = BLOCKDEV_DRIVER_COPY_BEFORE_WRITE;
    o->node_name = g_strdup("cbw");
    o->has_discard = true;
    o->discard = BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    c->file = BlockdevRef_new0();
    c->file->type = QAPI_TYPE_STRING;
    c->file->u.reference = g_strdup("source");
    c->target = BlockdevRef_new0();
    c->target->type = QAPI_TYPE_STRING;
    c->target->u.reference = g_strdup("target");
    return o;
}

static void open_nodes(void)
{
    g_autoptr(GRand) rnd = g_rand_new_with_seed(3);
    struct mem_state *s;

    control_lock();
    source = mem_node("source", LENGTH);
    target = mem_node("target", LENGTH);
    s = source->state;
    for (int i = 0; i < LENGTH; i++) {
        s->data[i] = i / CLUSTER % 4 == 3 ? 0 : g_rand_int(rnd);
    }
    frozen = g_memdup2(s->data, LENGTH);
    memset(((struct mem_state *)target->state)->data, 0xcc, LENGTH);
}

static struct root *new_root(struct node *n, unsigned perm)
{
    struct root_options options = { .perm = perm, .shared = PERM_ALL };
    struct root *r = root_new(n, &options, NULL);

    g_assert_nonnull(r);
    return r;
}

/* Takes O.  The control lock is given up for the requests that follow. */
static void open_filter(BlockdevOptions *o)
{
    BlockdevOptions *a = BlockdevOptions_new0();
    AUTO_ERROR(err);

    filter = node_open(o, &err);
    g_assert_cmpstr(err ? error_text(err) : "", ==, "");
    a->driver = BLOCKDEV_DRIVER_SNAPSHOT_ACCESS;
    a->node_name = g_strdup("access");
    a->has_discard = true;
    a->discard = BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    a->u.snapshot_access.file = BlockdevRef_new0();
    a->u.snapshot_access.file->type = QAPI_TYPE_STRING;
    a->u.snapshot_access.file->u.reference = g_strdup("cbw");
    access_node = node_open(a, &err);
    g_assert_cmpstr(err ? error_text(err) : "", ==, "");
    guest = new_root(filter, PERM_CONSISTENT_READ | PERM_WRITE);
    reader = new_root(access_node, PERM_CONSISTENT_READ | PERM_WRITE);
    BlockdevOptions_free(a);
    BlockdevOptions_free(o);
    control_unlock();
}

static void setup(void)
{
    open_nodes();
    open_filter(cbw_options());
}

static void setup_failing(OnCbwError on_error, uint32_t timeout)
{
    BlockdevOptions *o = cbw_options();

    o->u.copy_before_write.has_on_cbw_error = true;
    o->u.copy_before_write.on_cbw_error = on_error;
    o->u.copy_before_write.has_cbw_timeout = true;
    o->u.copy_before_write.cbw_timeout = timeout;
    may_race = timeout && on_error == ON_CBW_ERROR_BREAK_SNAPSHOT;
    open_nodes();
    open_filter(o);
}

static void close_nodes(void)
{
    node_unref(source);
    node_unref(target);
    node_wait_closed();
    g_assert_null(node_next(NULL));
    control_unlock();
    g_free(frozen);
    may_race = false;
}

static void teardown(void)
{
    control_lock();
    root_free(&guest);
    root_free(&reader);
    node_unref(access_node);
    node_unref(filter);
    close_nodes();
}

static int guest_write(int64_t offset, int64_t bytes, int value)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, value, bytes);
    return root_pwrite(guest, offset, bytes, buf, 0);
}

static int read_snapshot(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    int ret = root_pread(reader, offset, bytes, buf, 0);

    if (ret == 0) {
        g_assert_cmpmem(buf, bytes, frozen + offset, bytes);
    }
    return ret;
}

static int64_t discarded(struct node *n)
{
    struct mem_state *s = n->state;

    LOCK_GUARD(&s->lock);
    return s->discarded;
}

/* ---- reading ------------------------------------------------------------ */

static void test_reads(void)
{
    struct block_status st;
    struct mem_state *s;

    setup();
    s = target->state;
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    g_assert_cmpint(guest_write(CLUSTER - 9, 10, 0x11), ==, 0);
    g_assert_cmpint(guest_write(LENGTH - 1, 1, 0x12), ==, 0);
    g_assert_cmpint(root_pwrite_zeroes(guest, 5 * CLUSTER, 3, 0), ==, 0);
    g_assert_cmpint(root_pdiscard(guest, 7 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    g_assert_cmpint(read_snapshot(CLUSTER - 20, 40), ==, 0);
    /* Whole clusters were copied, the others not. */
    g_assert_cmpmem(s->data, 2 * CLUSTER, frozen, 2 * CLUSTER);
    g_assert_cmpmem(s->data + 5 * CLUSTER, CLUSTER, frozen + 5 * CLUSTER,
                    CLUSTER);
    g_assert_cmpint(s->data[2 * CLUSTER], ==, 0xcc);
    g_assert_cmpint(s->data[4 * CLUSTER], ==, 0xcc);
    g_assert_cmpint(root_block_status_above(reader, NULL, true, 0, LENGTH,
                                            &st), ==, 0);
    g_assert_cmpint(st.flags & ~(unsigned)STATUS_EOF, ==,
                    STATUS_DATA | STATUS_ALLOCATED);
    g_assert_cmpint(st.bytes, ==, 2 * CLUSTER);
    /* The snapshot is for reading. */
    g_assert_cmpint(root_pwrite(reader, 0, 1, frozen, 0), ==, -ENOTSUP);
    g_assert_cmpint(root_pwrite_zeroes(reader, 0, 1, 0), ==, -ENOTSUP);
    teardown();
}

static void test_bitmap(void)
{
    BlockdevOptions *o = cbw_options();
    BlockDirtyBitmap *ref = BlockDirtyBitmap_new0();
    struct block_status st;
    struct dirty_bitmap *bm;

    open_nodes();
    bm = dirty_bitmap_new(source->bitmaps, "b", 4096, LENGTH, NULL);
    dirty_bitmap_mark(bm, CLUSTER + 4096, 4096);
    dirty_bitmap_mark(bm, LENGTH - 1, 1);
    ref->node = g_strdup("source");
    ref->name = g_strdup("b");
    o->u.copy_before_write.bitmap = ref;
    open_filter(o);
    for (int round = 0; round < 2; round++) {
        g_assert_cmpint(read_snapshot(CLUSTER, CLUSTER), ==, 0);
        g_assert_cmpint(read_snapshot(LENGTH - TAIL, TAIL), ==, 0);
        g_assert_cmpint(read_snapshot(0, 1), ==, -EACCES);
        g_assert_cmpint(read_snapshot(CLUSTER, CLUSTER + 1), ==, -EACCES);
        g_assert_cmpint(root_block_status_above(reader, NULL, true,
                                                CLUSTER + 5, LENGTH - CLUSTER
                                                - 5, &st), ==, 0);
        g_assert_cmpint(st.bytes, ==, CLUSTER - 5);
        g_assert_cmpint(root_block_status_above(reader, NULL, true, 0, 1,
                                                &st), ==, -EACCES);
        g_assert_cmpint(guest_write(0, LENGTH, 0x21), ==, 0);
    }
    /* What nobody may read was not copied. */
    g_assert_cmpint(((struct mem_state *)target->state)->data[0], ==, 0xcc);
    teardown();
}

static void test_discard(void)
{
    struct mem_state *s;

    setup();
    s = target->state;
    g_assert_cmpint(guest_write(CLUSTER, CLUSTER, 0x31), ==, 0);
    /* Whole clusters only. */
    g_assert_cmpint(root_pdiscard(reader, CLUSTER - 1, 2 * CLUSTER), ==, 0);
    g_assert_cmpint(discarded(target), ==, CLUSTER);
    g_assert_cmpint(read_snapshot(CLUSTER, 1), ==, -EACCES);
    g_assert_cmpint(read_snapshot(0, CLUSTER), ==, 0);
    g_assert_cmpint(read_snapshot(2 * CLUSTER, CLUSTER), ==, 0);
    /* Never copied again. */
    g_assert_cmpint(root_pdiscard(reader, 4 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(guest_write(4 * CLUSTER, CLUSTER, 0x32), ==, 0);
    g_assert_cmpint(s->data[4 * CLUSTER], ==, 0xcc);
    /* The tail is a cluster. */
    g_assert_cmpint(root_pdiscard(reader, LENGTH - TAIL, TAIL), ==, 0);
    g_assert_cmpint(read_snapshot(LENGTH - 1, 1), ==, -EACCES);
    g_assert_cmpint(discarded(source), ==, 0);
    teardown();
}

/* ---- refused ------------------------------------------------------------ */

static void refused(BlockdevOptions *o, const char *text)
{
    AUTO_ERROR(err);

    g_assert_null(node_open(o, &err));
    g_assert_cmpstr(error_text(err), ==, text);
    BlockdevOptions_free(o);
}

static void test_refused(void)
{
    BlockdevOptions *o;
    struct node *small;
    AUTO_ERROR(err);

    open_nodes();
    o = cbw_options();
    o->u.copy_before_write.has_min_cluster_size = true;
    o->u.copy_before_write.min_cluster_size = 100000;
    refused(o, "min-cluster-size needs to be a power of 2");
    o = cbw_options();
    o->u.copy_before_write.bitmap = BlockDirtyBitmap_new0();
    o->u.copy_before_write.bitmap->node = g_strdup("source");
    o->u.copy_before_write.bitmap->name = g_strdup("b");
    refused(o, "Dirty bitmap 'b' not found");
    o = cbw_options();
    o->u.copy_before_write.bitmap = BlockDirtyBitmap_new0();
    o->u.copy_before_write.bitmap->node = g_strdup("nope");
    o->u.copy_before_write.bitmap->name = g_strdup("b");
    refused(o, "Node 'nope' not found");
    small = mem_node("small", LENGTH - 512);
    o = cbw_options();
    g_free(o->u.copy_before_write.target->u.reference);
    o->u.copy_before_write.target->u.reference = g_strdup("small");
    refused(o, "Source and target image have different sizes");
    node_unref(small);
    o = BlockdevOptions_new0();
    o->driver = BLOCKDEV_DRIVER_SNAPSHOT_ACCESS;
    o->node_name = g_strdup("access");
    o->u.snapshot_access.file = BlockdevRef_new0();
    o->u.snapshot_access.file->type = QAPI_TYPE_STRING;
    o->u.snapshot_access.file->u.reference = g_strdup("source");
    refused(o, "Node 'source' keeps no snapshot: it must be of driver "
            "'copy-before-write'");
    close_nodes();
}

/* ---- a target that fails ------------------------------------------------ */

static void test_break_guest_write(void)
{
    setup();
    set_error(target, -ENOSPC);
    g_assert_cmpint(guest_write(100, 1, 0x41), ==, -ENOSPC);
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    set_error(target, 0);
    g_assert_cmpint(guest_write(100, 1, 0x41), ==, 0);
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    g_assert_cmpint(cbw_snapshot_error(filter), ==, 0);
    teardown();
}

static void test_break_snapshot(void)
{
    setup_failing(ON_CBW_ERROR_BREAK_SNAPSHOT, 0);
    g_assert_cmpint(guest_write(0, 1, 0x42), ==, 0);
    set_error(target, -ENOSPC);
    g_assert_cmpint(guest_write(CLUSTER, 1, 0x42), ==, 0);
    set_error(target, 0);
    g_assert_cmpint(read_snapshot(0, 1), ==, -EACCES);
    g_assert_cmpint(read_snapshot(9 * CLUSTER, 1), ==, -EACCES);
    g_assert_cmpint(root_pdiscard(reader, 0, CLUSTER), ==, -EACCES);
    g_assert_cmpint(guest_write(2 * CLUSTER, 1, 0x42), ==, 0);
    g_assert_cmpint(((struct mem_state *)target->state)->data[2 * CLUSTER],
                    ==, 0xcc);
    teardown();
}

/* ---- a target that hangs ------------------------------------------------ */

static void assert_took_about(int64_t started_ns, double seconds)
{
    double took = (clock_ns() - started_ns) / 1e9;

    g_assert_cmpfloat(took, >=, seconds);
    g_assert_cmpfloat(took, <, seconds + 10);   /* a busy machine */
}

static void test_timeout_guest(void)
{
    int64_t started;

    setup_failing(ON_CBW_ERROR_BREAK_GUEST_WRITE, 1);
    g_assert_cmpint(guest_write(2 * CLUSTER, 1, 0x51), ==, 0);
    set_hold(target, false, true);
    started = clock_ns();
    g_assert_cmpint(guest_write(0, 1, 0x52), ==, -ETIMEDOUT);
    assert_took_about(started, 1);
    /* The copy that was left has its cluster still: in vain again. */
    g_assert_cmpint(guest_write(1, 1, 0x53), ==, -ETIMEDOUT);
    /* What was copied, and its reader, have nothing to wait for. */
    g_assert_cmpint(guest_write(2 * CLUSTER, CLUSTER, 0x54), ==, 0);
    g_assert_cmpint(read_snapshot(2 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(read_snapshot(9 * CLUSTER, CLUSTER), ==, 0);
    set_hold(target, false, false);
    g_assert_cmpint(guest_write(0, 1, 0x52), ==, 0);
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    teardown();
}

static void test_timeout_snapshot(void)
{
    int64_t started;

    setup_failing(ON_CBW_ERROR_BREAK_SNAPSHOT, 1);
    set_hold(target, false, true);
    started = clock_ns();
    g_assert_cmpint(guest_write(0, 1, 0x52), ==, 0);
    assert_took_about(started, 1);
    started = clock_ns();
    g_assert_cmpint(guest_write(0, CLUSTER, 0x53), ==, 0);
    g_assert_cmpint(guest_write(9 * CLUSTER, CLUSTER, 0x53), ==, 0);
    g_assert_cmpint(read_snapshot(0, 1), ==, -EACCES);
    g_assert_cmpint(cbw_snapshot_error(filter), ==, -ETIMEDOUT);
    assert_took_about(started, 0);
    set_hold(target, false, false);
    teardown();
}

/* A drain, and the end, get rid of a copy that nobody waits for. */
static void test_timeout_drain(void)
{
    struct mem_state *s;
    struct drain *d;

    setup_failing(ON_CBW_ERROR_BREAK_GUEST_WRITE, 1);
    s = target->state;
    set_hold(target, false, true);
    g_assert_cmpint(guest_write(0, 1, 0x52), ==, -ETIMEDOUT);
    g_assert_cmpint(atomic_load(&filter->n_in_flight), ==, 1);
    control_lock();
    d = drain_begin(&target, 1);
    g_assert_cmpint(atomic_load(&filter->n_in_flight), ==, 0);
    g_assert_cmpint(s->n_cancels, >=, 1);
    drain_end(&d);
    control_unlock();
    set_error(target, 0);
    g_assert_cmpint(guest_write(0, 1, 0x52), ==, 0);
    set_hold(target, false, true);
    g_assert_cmpint(guest_write(CLUSTER, 1, 0x52), ==, -ETIMEDOUT);
    teardown();
}

struct call {
    int64_t offset;
    bool is_read;
    int ret;
    bool done;                  /* atomic */
};

static void *call_thread(void *arg)
{
    struct call *c = arg;

    c->ret = c->is_read ? read_snapshot(c->offset, 1)
                        : guest_write(c->offset, 1, 0x61);
    __atomic_store_n(&c->done, true, __ATOMIC_RELEASE);
    return NULL;
}

/* The drain comes first, the timeout after it. */
static void test_timeout_in_drain(void)
{
    struct call write = { 0 };
    struct drain *d;
    pthread_t t;

    setup_failing(ON_CBW_ERROR_BREAK_SNAPSHOT, 1);
    set_hold(target, false, true);
    pthread_create(&t, NULL, call_thread, &write);
    wait_held(target);
    control_lock();
    d = drain_begin(&source, 1);
    drain_end(&d);
    control_unlock();
    pthread_join(t, NULL);
    g_assert_cmpint(write.ret, ==, 0);
    g_assert_cmpint(read_snapshot(0, 1), ==, -EACCES);
    teardown();
}

/* ---- who waits for whom ------------------------------------------------- */

static bool is_done(struct call *c)
{
    return __atomic_load_n(&c->done, __ATOMIC_ACQUIRE);
}

/* A reader at the source holds up the write of its cluster, no other. */
static void test_read_holds_write(void)
{
    struct call read = { .is_read = true }, write = { .offset = 7 };
    pthread_t t[2];

    setup();
    g_assert_cmpint(guest_write(3 * CLUSTER, 1, 0x62), ==, 0);
    set_hold(source, true, false);
    pthread_create(&t[0], NULL, call_thread, &read);
    wait_held(source);
    pthread_create(&t[1], NULL, call_thread, &write);
    g_usleep(20000);
    g_assert_false(is_done(&write));
    g_assert_cmpint(guest_write(3 * CLUSTER, 10, 0x63), ==, 0);
    set_hold(source, false, false);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    g_assert_cmpint(read.ret, ==, 0);
    g_assert_cmpint(write.ret, ==, 0);
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    teardown();
}

/* A reader of a cluster whose copy is in flight waits for it. */
static void test_copy_holds_read(void)
{
    struct call read = { .is_read = true, .offset = 1 }, write = { 0 };
    pthread_t t[2];

    setup();
    set_hold(target, false, true);
    pthread_create(&t[0], NULL, call_thread, &write);
    wait_held(target);
    pthread_create(&t[1], NULL, call_thread, &read);
    g_assert_cmpint(read_snapshot(4 * CLUSTER, CLUSTER), ==, 0);
    g_usleep(20000);
    g_assert_false(is_done(&read));
    set_hold(target, false, false);
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    g_assert_cmpint(read.ret, ==, 0);
    teardown();
}

/* ---- all at once -------------------------------------------------------- */

enum { N_GUESTS = 3, N_READERS = 3, GUEST_CLUSTERS = N_CLUSTERS / N_GUESTS };

static void *random_guest(void *arg)
{
    g_autoptr(GRand) rnd = g_rand_new_with_seed(GPOINTER_TO_INT(arg));
    int64_t from = GPOINTER_TO_INT(arg) * GUEST_CLUSTERS * CLUSTER;
    int64_t to = MIN(from + GUEST_CLUSTERS * CLUSTER, LENGTH);

    for (int i = 0; i < 200; i++) {
        int64_t offset = g_rand_int_range(rnd, from, to);
        int64_t bytes = g_rand_int_range(rnd, 1, 3 * CLUSTER);
        bytes = MIN(bytes, to - offset);
        g_assert_cmpint(guest_write(offset, bytes, g_rand_int(rnd)), ==, 0);
    }
    return NULL;
}

static void *random_reader(void *arg)
{
    g_autoptr(GRand) rnd = g_rand_new_with_seed(GPOINTER_TO_INT(arg));

    for (int i = 0; i < 200; i++) {
        int64_t offset = g_rand_int_range(rnd, 0, LENGTH);
        int64_t bytes = g_rand_int_range(rnd, 1, 5 * CLUSTER);
        bytes = MIN(bytes, LENGTH - offset);
        g_assert_cmpint(read_snapshot(offset, bytes), ==, 0);
    }
    return NULL;
}

static void run_point_in_time(uint32_t timeout)
{
    pthread_t threads[N_GUESTS + N_READERS];

    setup_failing(ON_CBW_ERROR_BREAK_GUEST_WRITE, timeout);
    for (int i = 0; i < N_GUESTS + N_READERS; i++) {
        pthread_create(&threads[i], NULL,
                       i < N_GUESTS ? random_guest : random_reader,
                       GINT_TO_POINTER(i));
    }
    for (int i = 0; i < N_GUESTS + N_READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    g_assert_cmpint(read_snapshot(0, LENGTH), ==, 0);
    teardown();
}

static void test_point_in_time(void)
{
    run_point_in_time(0);
    run_point_in_time(60);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cbw/reads", test_reads);
    g_test_add_func("/cbw/bitmap", test_bitmap);
    g_test_add_func("/cbw/discard", test_discard);
    g_test_add_func("/cbw/refused", test_refused);
    g_test_add_func("/cbw/break-guest-write", test_break_guest_write);
    g_test_add_func("/cbw/break-snapshot", test_break_snapshot);
    g_test_add_func("/cbw/timeout-guest", test_timeout_guest);
    g_test_add_func("/cbw/timeout-snapshot", test_timeout_snapshot);
    g_test_add_func("/cbw/timeout-drain", test_timeout_drain);
    g_test_add_func("/cbw/timeout-in-drain", test_timeout_in_drain);
    g_test_add_func("/cbw/read-holds-write", test_read_holds_write);
    g_test_add_func("/cbw/copy-holds-read", test_copy_holds_read);
    g_test_add_func("/cbw/point-in-time", test_point_in_time);
    ret = g_test_run();
    pool_shutdown();
    return ret;
}
