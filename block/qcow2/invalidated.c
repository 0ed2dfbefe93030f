/* SPDX-License-Identifier: MIT */
/*
 * The mark of an image that a commit has invalidated: a header extension of
 * ours.  Programs that do not know it open the image as ever.
 *
 *   0  u32  version: 1
 *   4  u32  bytes of the job's name
 *   8  u64  when, in seconds of the epoch
 *  16       the job's name
 */
#include <errno.h>
#include <string.h>
#include "block/qcow2/qcow2.h"

enum {
    VERSION = 1,
    FIXED_BYTES = 16,
    MAX_NAME_BYTES = 255,
};

/* NULL: there is no mark.  One that cannot be read is one nevertheless. */
static struct invalidated *decode(const struct qcow2_ext *e)
{
    struct invalidated *why;
    uint32_t n;

    if (!e) {
        return NULL;
    }
    why = g_new0(struct invalidated, 1);
    if (e->bytes >= FIXED_BYTES && load_be32(e->data) == VERSION) {
        n = MIN(load_be32(e->data + 4), e->bytes - FIXED_BYTES);
        why->job_id = g_utf8_make_valid((char *)e->data + FIXED_BYTES,
                                        MIN(n, MAX_NAME_BYTES));
        why->seconds = load_be64(e->data + 8) & INT64_MAX;
    } else {
        why->job_id = g_strdup("");
    }
    return why;
}

static GByteArray *encode(const struct invalidated *why)
{
    GByteArray *out = g_byte_array_new();
    size_t n = strlen(why->job_id);
    uint8_t head[FIXED_BYTES];

    n = n <= MAX_NAME_BYTES ? n : MAX_NAME_BYTES;
    store_be32(head, VERSION);
    store_be32(head + 4, n);
    store_be64(head + 8, why->seconds);
    g_byte_array_append(out, head, sizeof(head));
    g_byte_array_append(out, (const uint8_t *)why->job_id, n);
    return out;
}

/* A manager that makes the nodes of a chain one by one names the one below;
 * what the node is for shows when it is used: node_check_invalidated(). */
static bool is_part_of_chain(const BlockdevOptionsQcow2 *o)
{
    return o->backing && o->backing->type == QAPI_TYPE_STRING;
}

void qcow2_note_invalidated(struct qcow2 *s)
{
    struct node *n = s->node;

    invalidated_free(n->invalidated);
    n->invalidated = decode(qcow2_ext_find(s->exts, QCOW2_EXT_INVALIDATED));
    n->invalidated_allowed = s->opt.allow_invalidated;
}

int qcow2_check_invalidated(struct qcow2 *s, const BlockdevOptions *options,
                            struct error **errp)
{
    struct node *n = s->node;

    qcow2_note_invalidated(s);
    if (!n->invalidated || n->use_anyway || n->invalidated_allowed ||
        is_part_of_chain(&options->u.qcow2)) {
        return 0;
    }
    node_refuse_invalidated(n, errp);
    return -EPERM;
}

int qcow2_mark_invalidated(struct node *n, const struct invalidated *why,
                           struct error **errp)
{
    struct qcow2 *s = n->state;
    GByteArray *data = why ? encode(why) : g_byte_array_new();
    int ret;

    qcow2_change_begin(s);
    ret = qcow2_change_ext(s, QCOW2_EXT_INVALIDATED, data->data, data->len);
    qcow2_change_end(s);
    g_byte_array_free(data, TRUE);
    if (ret == -ENOSPC) {
        error_set(errp, "The header of image '%s' has no room for it",
                  n->filename);
    } else if (ret < 0) {
        error_set(errp, "%s", error_errno_text(-ret));
    }
    return ret;
}
