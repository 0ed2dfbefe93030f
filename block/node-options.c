/* SPDX-License-Identifier: MIT */
/*
 * The options that all nodes have: defaults, what a child has from its
 * parent, what they mean for a node.
 */
#include "block/open-priv.h"

#include "base/error.h"
#include "block/inactive.h"

struct options_source options_source_of(const struct node *parent)
{
    return (struct options_source){
        .exists = true,
        .read_only = parent->read_only,
        .auto_read_only = parent->auto_read_only,
        .force_share = parent->force_share,
        .inactive = parent->inactive,
        .cache_direct = parent->cache_direct,
        .cache_no_flush = parent->cache_no_flush,
    };
}

static unsigned default_bool(bool *has, bool *value, bool inherited,
                             unsigned bit)
{
    if (*has) {
        return 0;
    }
    *has = true;
    *value = inherited;
    return bit;
}

unsigned options_inherit(BlockdevOptions *o, const struct options_source *from,
                         unsigned role)
{
    bool cow = role & ROLE_COW;
    unsigned bits = 0;

    bits |= default_bool(&o->has_read_only, &o->read_only,
                         cow || from->read_only, INHERITED_READ_ONLY);
    bits |= default_bool(&o->has_auto_read_only, &o->auto_read_only,
                         !cow && from->auto_read_only,
                         INHERITED_AUTO_READ_ONLY);
    bits |= default_bool(&o->has_force_share, &o->force_share,
                         from->force_share, INHERITED_FORCE_SHARE);
    bits |= default_bool(&o->has_active, &o->active,
                         from->exists ? !from->inactive
                                      : !inactive_is_default(),
                         INHERITED_ACTIVE);
    if (!o->cache) {
        o->cache = BlockdevCacheOptions_new0();
    }
    bits |= default_bool(&o->cache->has_direct, &o->cache->direct,
                         from->cache_direct, INHERITED_DIRECT);
    bits |= default_bool(&o->cache->has_no_flush, &o->cache->no_flush,
                         from->cache_no_flush, INHERITED_NO_FLUSH);
    if (!o->has_discard) {
        /* What a node passes down it has decided itself. */
        o->has_discard = true;
        o->discard = from->exists ? BLOCKDEV_DISCARD_OPTIONS_UNMAP
                                  : BLOCKDEV_DISCARD_OPTIONS_IGNORE;
        bits |= INHERITED_DISCARD;
    }
    return bits;
}

void options_forget(BlockdevOptions *o, unsigned inherited)
{
    const struct {
        bool *has;
        unsigned bit;
    } all[] = {
        { &o->has_read_only, INHERITED_READ_ONLY },
        { &o->has_auto_read_only, INHERITED_AUTO_READ_ONLY },
        { &o->has_force_share, INHERITED_FORCE_SHARE },
        { &o->has_active, INHERITED_ACTIVE },
        { &o->has_discard, INHERITED_DISCARD },
        { &o->cache->has_direct, INHERITED_DIRECT },
        { &o->cache->has_no_flush, INHERITED_NO_FLUSH },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        if (inherited & all[i].bit) {
            *all[i].has = false;
        }
    }
}

bool options_check(const BlockdevOptions *o, struct error **errp)
{
    bool unmap = o->has_detect_zeroes &&
        o->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP;

    if (o->force_share && !o->read_only) {
        error_set(errp, "force-share=on can only be used with read-only "
                  "images");
        return false;
    }
    if (unmap && o->discard != BLOCKDEV_DISCARD_OPTIONS_UNMAP) {
        error_set(errp, "setting detect-zeroes to unmap is not allowed "
                  "without setting discard operation to unmap");
        return false;
    }
    return true;
}

void options_apply(struct node *n, const BlockdevOptions *o)
{
    n->read_only = o->read_only;
    n->auto_read_only = o->auto_read_only;
    n->force_share = o->force_share;
    n->cache_direct = o->cache->direct;
    n->cache_no_flush = o->cache->no_flush;
    n->discard_unmap = o->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP;
    n->detect_zeroes = o->has_detect_zeroes &&
        o->detect_zeroes != BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF;
    n->detect_zeroes_unmap = o->has_detect_zeroes &&
        o->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP;
}
