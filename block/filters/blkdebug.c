/* SPDX-License-Identifier: MIT */
/*
 * blkdebug: a filter that fails requests by rules, stops them at breakpoints,
 * and has limits as one wishes.
 *
 * A request that is to fail fails before the child sees it.  "immediately"
 * makes no difference: requests are made by threads that wait for them.
 */
#include "block/drivers.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/error.h"
#include "block/filters/blkdebug.h"
#include "block/reopen.h"

struct blkdebug_state {
    struct blkdebug_rules rules;
    /* Set by open, then constant. */
    struct block_limits limits; /* 0: as the child has it */
    unsigned take, unshare;     /* PERM_* */
};

static struct node *below(const struct node *n)
{
    return n->file->node;
}

struct blkdebug_rules *blkdebug_rules_of(struct node *n)
{
    return n->driver == &driver_blkdebug && n->opened
           ? &((struct blkdebug_state *)n->state)->rules : NULL;
}

/* ---- options ------------------------------------------------------------ */

static BlockdevRef **blkdebug_file_option(BlockdevOptions *options)
{
    return &options->u.blkdebug.image;
}

static bool check_number(const char *name, int64_t value, int64_t max,
                         struct error **errp)
{
    if (value < 0) {
        error_set(errp, "Parameter '%s' expects a non-negative number below "
                  "2^64", name);
        return false;
    }
    if (value > max) {
        error_set(errp, "Parameter '%s' expects int32_t", name);
        return false;
    }
    return true;
}

/* A limit that is a multiple of UNIT. */
static bool get_limit(const char *name, int64_t value, int64_t unit,
                      int64_t *limit, struct error **errp)
{
    if (!check_number(name, value, INT32_MAX, errp)) {
        return false;
    }
    if (value % MAX(unit, 1)) {
        error_set(errp, "Cannot meet constraints with %s %" PRId64, name,
                  value);
        return false;
    }
    *limit = value;
    return true;
}

static bool get_limits(struct blkdebug_state *s,
                       const BlockdevOptionsBlkdebug *o, struct error **errp)
{
    struct block_limits *l = &s->limits;
    int64_t align = o->align, opt_zero = 0, opt_discard = 0;

    if (!check_number("align", align, INT64_MAX, errp)) {
        return false;
    }
    if (align >= INT32_MAX || (align & (align - 1))) {
        error_set(errp, "Cannot meet constraints with align %" PRId64, align);
        return false;
    }
    if (!get_limit("max-transfer", o->max_transfer, align,
                   &l->max_transfer, errp) ||
        !get_limit("opt-write-zero", o->opt_write_zero, align, &opt_zero,
                   errp) ||
        !get_limit("max-write-zero", o->max_write_zero, MAX(align, opt_zero),
                   &l->max_pwrite_zeroes, errp) ||
        !get_limit("opt-discard", o->opt_discard, align, &opt_discard,
                   errp) ||
        !get_limit("max-discard", o->max_discard, MAX(align, opt_discard),
                   &l->max_pdiscard, errp)) {
        return false;
    }
    l->request_alignment = align;
    l->pwrite_zeroes_alignment = opt_zero;
    l->pdiscard_alignment = opt_discard;
    return true;
}

static unsigned permissions(const BlockPermissionList *list)
{
    static const unsigned bits[] = {
        [BLOCK_PERMISSION_CONSISTENT_READ] = PERM_CONSISTENT_READ,
        [BLOCK_PERMISSION_WRITE] = PERM_WRITE,
        [BLOCK_PERMISSION_WRITE_UNCHANGED] = PERM_WRITE_UNCHANGED,
        [BLOCK_PERMISSION_RESIZE] = PERM_RESIZE,
    };
    unsigned perm = 0;

    for (size_t i = 0; list && i < list->n; i++) {
        perm |= bits[list->v[i]];
    }
    return perm;
}

static bool add_inject(GPtrArray *rules, const BlkdebugInjectErrorOptions *o,
                       struct error **errp)
{
    struct blkdebug_rule *rule = blkdebug_rule_new(BLKDEBUG_INJECT, o->event);

    g_ptr_array_add(rules, rule);
    rule->state = o->has_state ? o->state : 0;
    if (o->has_iotype) {
        rule->iotypes = 1u << o->iotype;
    }
    if (o->has_errno) {
        rule->error = o->q_errno < 0 || o->q_errno > INT_MAX ? -1
                                                             : o->q_errno;
    }
    if (o->has_sector) {
        rule->sector = o->sector;
    }
    rule->once = o->has_once && o->once;
    return blkdebug_rule_check(rule, errp);
}

static void add_set_state(GPtrArray *rules, const BlkdebugSetStateOptions *o)
{
    struct blkdebug_rule *rule = blkdebug_rule_new(BLKDEBUG_SET_STATE,
                                                   o->event);

    rule->state = o->has_state ? o->state : 0;
    rule->new_state = o->new_state;
    g_ptr_array_add(rules, rule);
}

static bool get_rules(GPtrArray *rules, const BlockdevOptionsBlkdebug *o,
                      struct error **errp)
{
    if (o->config && !blkdebug_read_config(o->config, rules, errp)) {
        return false;
    }
    for (size_t i = 0; o->inject_error && i < o->inject_error->n; i++) {
        if (!add_inject(rules, o->inject_error->v[i], errp)) {
            return false;
        }
    }
    for (size_t i = 0; o->set_state && i < o->set_state->n; i++) {
        add_set_state(rules, o->set_state->v[i]);
    }
    return true;
}

static int blkdebug_open(struct node *n, const BlockdevOptions *options,
                         struct error **errp)
{
    g_autoptr(GPtrArray) rules = g_ptr_array_new_with_free_func(
        (GDestroyNotify)blkdebug_rule_free);
    const BlockdevOptionsBlkdebug *o = &options->u.blkdebug;
    struct blkdebug_state *s = n->state;

    if (!get_rules(rules, o, errp) || !get_limits(s, o, errp)) {
        return -EINVAL;
    }
    blkdebug_rules_init(&s->rules);
    for (guint i = 0; i < rules->len; i++) {
        blkdebug_rules_add(&s->rules, rules->pdata[i]);
    }
    g_ptr_array_set_free_func(rules, NULL);
    s->take = permissions(o->take_child_perms);
    s->unshare = permissions(o->unshare_child_perms);
    atomic_store(&n->length_bytes, node_length(below(n)));
    __atomic_add_fetch(&n_blkdebug_nodes, 1, __ATOMIC_RELAXED);
    blkdebug_rules_event(&s->rules, BLKDEBUG_EVENT_NONE);
    return 0;
}

static void blkdebug_close(struct node *n)
{
    struct blkdebug_state *s = n->state;

    __atomic_sub_fetch(&n_blkdebug_nodes, 1, __ATOMIC_RELAXED);
    blkdebug_rules_deinit(&s->rules);
}

/* ---- limits, permissions, name ------------------------------------------ */

static void blkdebug_refresh_limits(struct node *n)
{
    const struct blkdebug_state *s = n->state;
    const struct block_limits *own = &s->limits;
    struct block_limits *l = &n->limits;

    l->request_alignment = MAX(l->request_alignment, own->request_alignment);
    l->max_transfer = own->max_transfer ? own->max_transfer : l->max_transfer;
    if (own->pwrite_zeroes_alignment) {
        l->pwrite_zeroes_alignment = own->pwrite_zeroes_alignment;
    }
    if (own->max_pwrite_zeroes) {
        l->max_pwrite_zeroes = own->max_pwrite_zeroes;
    }
    if (own->pdiscard_alignment) {
        l->pdiscard_alignment = own->pdiscard_alignment;
    }
    l->max_pdiscard = own->max_pdiscard ? own->max_pdiscard : l->max_pdiscard;
}

static void blkdebug_child_perm(struct node *n, const struct child *c,
                                unsigned perm, unsigned shared,
                                unsigned *child_perm, unsigned *child_shared)
{
    const struct blkdebug_state *s = n->state;
    unsigned take = s->take, unshare = s->unshare;

    if (!n->opened && n->options) {     /* attached before it is opened */
        take = permissions(n->options->u.blkdebug.take_child_perms);
        unshare = permissions(n->options->u.blkdebug.unshare_child_perms);
    }
    *child_perm = perm | take;
    *child_shared = shared & ~unshare;
}

/* blkdebug:CONFIG:FILE, if that and nothing else was said. */
static char *blkdebug_legacy_name(const struct node *n)
{
    const BlockdevOptionsBlkdebug *o = &n->options->u.blkdebug;
    const char *image = below(n)->json_filename;

    if (o->has_align || o->has_max_transfer || o->has_opt_write_zero ||
        o->has_max_write_zero || o->has_opt_discard || o->has_max_discard ||
        (o->inject_error && o->inject_error->n) ||
        (o->set_state && o->set_state->n) ||
        g_str_has_prefix(image, "json:") ||
        (o->config && strchr(o->config, ':'))) {
        return NULL;
    }
    return g_strdup_printf("blkdebug:%s:%s", o->config ? o->config : "",
                           image);
}

/* ---- requests ----------------------------------------------------------- */

static int before(struct node *n, BlkdebugIOType type, int64_t offset,
                  int64_t bytes, unsigned flags)
{
    struct blkdebug_state *s = n->state;

    if (flags & BLK_NOWAIT) {
        return -EAGAIN;
    }
    return blkdebug_rules_request(&s->rules, type, offset, bytes);
}

static int blkdebug_pread(struct node *n, int64_t offset, int64_t bytes,
                          void *buf, unsigned flags)
{
    int ret = before(n, BLKDEBUG_IO_TYPE_READ, offset, bytes, flags);

    return ret < 0 ? ret : node_pread(below(n), offset, bytes, buf, flags);
}

static int blkdebug_pwrite(struct node *n, int64_t offset, int64_t bytes,
                           const void *buf, unsigned flags)
{
    int ret = before(n, BLKDEBUG_IO_TYPE_WRITE, offset, bytes, flags);

    return ret < 0 ? ret : node_pwrite(below(n), offset, bytes, buf, flags);
}

static int blkdebug_pwrite_zeroes(struct node *n, int64_t offset,
                                  int64_t bytes, unsigned flags)
{
    int64_t unit = MAX(n->limits.pwrite_zeroes_alignment,
                       n->limits.request_alignment);
    int ret;

    /* What does not fill a unit is to be written from a buffer, as with a
     * disk that has this limit. */
    if (bytes < unit && offset + bytes < node_length(n)) {
        return -ENOTSUP;
    }
    ret = before(n, BLKDEBUG_IO_TYPE_WRITE_ZEROES, offset, bytes, flags);
    return ret < 0 ? ret : node_pwrite_zeroes(below(n), offset, bytes, flags);
}

static int blkdebug_pdiscard(struct node *n, int64_t offset, int64_t bytes)
{
    int64_t unit = MAX(n->limits.pdiscard_alignment,
                       n->limits.request_alignment);
    int ret;

    if (bytes < unit && offset + bytes < node_length(n)) {
        return -ENOTSUP;
    }
    ret = before(n, BLKDEBUG_IO_TYPE_DISCARD, offset, bytes, 0);
    return ret < 0 ? ret : node_pdiscard(below(n), offset, bytes);
}

static int blkdebug_flush(struct node *n)
{
    return before(n, BLKDEBUG_IO_TYPE_FLUSH, 0, 0, 0);
}

static int blkdebug_block_status(struct node *n, bool want_zero,
                                 int64_t offset, int64_t bytes,
                                 struct block_status *st)
{
    int ret = before(n, BLKDEBUG_IO_TYPE_BLOCK_STATUS, offset, bytes, 0);

    if (ret < 0) {
        return ret;
    }
    ret = node_block_status(below(n), want_zero, offset, bytes, st);
    if (ret == 0 && st->bytes == 0) {       /* behind the child's end */
        st->flags = STATUS_ZERO | STATUS_ALLOCATED;
        st->bytes = bytes;
    }
    return ret;
}

/* ---- reopen ------------------------------------------------------------- */

/* Nothing but the common options can change. */
static bool blkdebug_reopen_prepare(struct node_reopen *r,
                                    struct error **errp)
{
    return true;
}

static void blkdebug_reopen_end(struct node_reopen *r)
{
}

static const char *const blkdebug_strong_options[] = {
    "align", "config", "inject-error", "max-discard", "max-transfer",
    "max-write-zero", "opt-discard", "opt-write-zero", "set-state", NULL
};

const struct driver driver_blkdebug = {
    .name = "blkdebug",
    .type = BLOCKDEV_DRIVER_BLKDEBUG,
    .state_size = sizeof(struct blkdebug_state),
    .is_filter = true,
    .listed_first = true,
    .strong_options = blkdebug_strong_options,
    .file_option = blkdebug_file_option,
    .file_child_name = "image",
    .open = blkdebug_open,
    .close = blkdebug_close,
    .refresh_limits = blkdebug_refresh_limits,
    .child_perm = blkdebug_child_perm,
    .legacy_name = blkdebug_legacy_name,
    .pread = blkdebug_pread,
    .pwrite = blkdebug_pwrite,
    .pwrite_zeroes = blkdebug_pwrite_zeroes,
    .pdiscard = blkdebug_pdiscard,
    .flush_to_disk = blkdebug_flush,
    .block_status = blkdebug_block_status,
    .reopen_prepare = blkdebug_reopen_prepare,
    .reopen_commit = blkdebug_reopen_end,
    .reopen_abort = blkdebug_reopen_end,
};
