/* SPDX-License-Identifier: MIT */
/*
 * File driver: data and holes by SEEK_DATA and SEEK_HOLE, remembered.
 *
 * A file system answers slowly where extents are many; a copy asks again and
 * again inside one run.  The last run of data and the last hole are kept.
 */
#include <errno.h>
#include <unistd.h>
#include "block/file-priv.h"

/* What is found when a file cannot say where its holes are. */
enum found { FOUND_DATA, FOUND_HOLE, FOUND_UNKNOWN };

void file_holes_init(struct file_holes *h)
{
    lock_init(&h->lock, "file-holes", LOCK_FILE);
}

void file_holes_deinit(struct file_holes *h)
{
    lock_deinit(&h->lock);
}

void file_holes_punched(struct file_holes *h)
{
    atomic_fetch_add(&h->punched, 1);
}

/* Ask the kernel; *END is where what stands at OFFSET ends. */
static enum found seek(int fd, int64_t offset, int64_t *end)
{
    int64_t data = lseek(fd, offset, SEEK_DATA), hole;

    if (data == offset) {
        hole = lseek(fd, offset, SEEK_HOLE);
        if (hole <= offset) {
            return FOUND_UNKNOWN;   /* it was cut off, or errno */
        }
        *end = hole;
        return FOUND_DATA;
    }
    if (data > offset) {
        *end = data;
        return FOUND_HOLE;
    }
    if (data < 0 && errno == ENXIO) {
        *end = INT64_MAX;           /* a hole to the end, or behind it */
        return FOUND_HOLE;
    }
    return FOUND_UNKNOWN;
}

static bool remembered(struct node *n, int64_t offset, enum found *what,
                       int64_t *end)
{
    struct file_state *s = n->state;
    struct file_holes *h = &s->holes;

    LOCK_GUARD(&h->lock);
    if (offset >= h->data_start && offset < h->data_end &&
        h->data_generation == atomic_load(&h->punched)) {
        *what = FOUND_DATA;
        *end = h->data_end;
        return true;
    }
    if (offset >= h->hole_start && offset < h->hole_end &&
        h->hole_generation == atomic_load(&n->write_generation)) {
        *what = FOUND_HOLE;
        *end = h->hole_end;
        return true;
    }
    return false;
}

static enum found look_up(struct node *n, int64_t offset, int64_t *end)
{
    struct file_state *s = n->state;
    struct file_holes *h = &s->holes;
    uint64_t punched = atomic_load(&h->punched);        /* I1 */
    uint64_t written = atomic_load(&n->write_generation);
    enum found what = seek(s->fd, offset, end);

    LOCK_GUARD(&h->lock);
    if (what == FOUND_DATA) {
        h->data_start = offset;
        h->data_end = *end;
        h->data_generation = punched;
    } else if (what == FOUND_HOLE) {
        h->hole_start = offset;
        h->hole_end = *end;
        h->hole_generation = written;
    }
    return what;
}

int file_block_status(struct node *n, bool want_zero, int64_t offset,
                      int64_t bytes, struct block_status *st)
{
    struct file_state *s = n->state;
    int64_t align = MAX(n->limits.request_alignment, 512);
    int64_t end = offset + bytes;
    enum found what = FOUND_UNKNOWN;

    st->map = offset;
    st->file = n;
    st->bytes = bytes;
    st->flags = STATUS_DATA | STATUS_OFFSET_VALID | STATUS_ALLOCATED;
    if (!want_zero || __atomic_load_n(&s->no_seek_hole, __ATOMIC_RELAXED)) {
        return 0;
    }
    if (!remembered(n, offset, &what, &end)) {
        what = look_up(n, offset, &end);
    }
    if (what == FOUND_HOLE) {
        st->flags = STATUS_ZERO | STATUS_OFFSET_VALID | STATUS_ALLOCATED;
    } else if (what == FOUND_DATA && end < offset + bytes) {
        /* The file may end inside the last block. */
        end = (end + align - 1) & -align;
    } else if (what == FOUND_UNKNOWN) {
        __atomic_store_n(&s->no_seek_hole, true, __ATOMIC_RELAXED);
        return 0;
    }
    st->bytes = MIN(end, offset + bytes) - offset;
    return 0;
}
