/* SPDX-License-Identifier: MIT */
/* What open.c, open-backing.c and open-name.c share.  Control lock; yields. */
#pragma once

#include "block/graph-priv.h"

/* One outermost open: see open.c. */
struct open_session {
    GPtrArray *done;            /* owned references, in order of I3 */
    int n_nested;
};

void open_session_begin(struct open_session *s);
/* Its nodes are seen from now on. */
void open_session_publish(struct open_session *s);
/* The session's references go; published nodes live by their parents'. */
void open_session_end(struct open_session *s);

struct options_source;

/* Where in the graph a node is being opened for. */
struct open_place {
    struct node *parent;        /* borrowed; inherited from; NULL: none */
    const struct options_source *from;  /* borrowed; of the parent to come,
                                   if it is not there yet; or NULL */
    unsigned role;              /* in PARENT */
    struct node *file;          /* borrowed; opened already (probing) */
    bool probed;                /* its format was guessed */
    bool to_look;               /* not to be used, only looked at */
};

/* All return an owned reference, hidden if new; NULL: the session fails. */

/* A node and what is under it but its backing chain. */
struct node *open_one(struct open_session *s, const BlockdevOptions *options,
                      const struct open_place *place, struct error **errp);
/* With its backing chain. */
struct node *open_tree(struct open_session *s, const BlockdevOptions *options,
                       const struct open_place *place, struct error **errp);
/* A node that exists, or is being opened in this session, as an option names
 * it. */
struct node *open_reference(struct open_session *s, const char *name,
                            struct error **errp);
/* As open_one(), by name: see open-name.c. */
struct open_name {
    const char *filename;       /* as filename.h has it */
    const char *format;         /* NULL: probe */
    bool has_read_only, read_only;
    bool force_share;
    const BlockdevRefOrNull *backing;   /* NULL: what the header says */
    const char *node_name;      /* NULL: made up */
    const struct node *like;    /* borrowed; its cache and discard modes are
                                   the new node's; NULL: as usual */
};
struct node *open_by_name(struct open_session *s, const struct open_name *name,
                          const struct open_place *place, struct error **errp);
/* What is in FILE, by its first bytes; yields. */
const struct driver *probe_format(struct node *file, struct error **errp);
/* On stderr: N's format was guessed. */
void warn_guessed_raw(const struct node *n);
/* Open and attach what N's options or header name, and so on downwards. */
bool open_backing_chain(struct open_session *s, struct node *n,
                        struct error **errp);

const BlockdevRef *options_file(const BlockdevOptions *o);          /* NULL */
const BlockdevRefOrNull *options_backing(const BlockdevOptions *o); /* NULL */

/* ---- options that pass down the graph (node-options.c) ------------------ */

/* What a child has from its parent where it does not say. */
struct options_source {
    bool exists;                /* there is a parent */
    bool read_only, auto_read_only, force_share, inactive;
    bool cache_direct, cache_no_flush;
};

struct options_source options_source_of(const struct node *parent);
/* Complete O, of a child in ROLE; what was not given: INHERITED_*. */
unsigned options_inherit(BlockdevOptions *o, const struct options_source *from,
                         unsigned role);
/* Take back what options_inherit() had filled in. */
void options_forget(BlockdevOptions *o, unsigned inherited);
/* Do the generic options (complete) go together? */
bool options_check(const BlockdevOptions *o, struct error **errp);
/* N's flags are as O (complete) says. */
void options_apply(struct node *n, const BlockdevOptions *o);
