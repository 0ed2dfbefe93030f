/* SPDX-License-Identifier: MIT */
/*
 * Sessions: one client each, from its greeting to its end.
 *
 * Invariants  I1  In-band commands of a session run one after another, in the
 *                 order in which they came; a reply is written, with the
 *                 control lock held, before the next one starts.
 *             I2  Nothing is read while SESSION_MAX_* requests wait or run,
 *                 while the client lets replies pile up, or after the
 *                 shutdown has begun: what a client can make us keep is
 *                 bounded.
 *             I3  Sessions end in the loop's thread.  Whoever else needs one
 *                 holds a reference.
 * Threads     Control lock held, unless a comment says otherwise.
 */
#pragma once

#include <jansson.h>
#include "server/chardev.h"
#include "server/output.h"

struct event;
struct request;
struct wire;

enum {
    SESSION_MAX_QUEUED = 8,     /* in-band requests that wait */
    SESSION_MAX_OOB = 8,        /* out-of-band ones that run */
};

struct session {
    /* Constant. */
    struct chardev *chardev;    /* borrowed */
    bool pretty;
    int read_fd, write_fd;
    bool ready_always;          /* a file: epoll does not take it */
    int number;                 /* for trace */

    struct output output;       /* any thread */

    /* Loop's thread. */
    struct event *read_event, *write_event;     /* owned; NULL when closed */
    bool reading;               /* read_event is added */
    struct wire *wire;          /* owned */
    GByteArray *unread;         /* owned; came, but not looked at: I2 */
    bool eof;                   /* the client says nothing more */
    int arrived_fd;             /* owned; came with bytes that are no value
                                   yet; -1: none */

    /* Control lock. */
    int n_refs;
    bool closed;
    bool negotiated;            /* after qmp_capabilities: */
    bool oob, event_sequence, error_data;
    bool busy;                  /* an in-band command is on a worker */
    struct request *queue;      /* owned; in-band, oldest first */
    int n_queued;
    int n_oob;                  /* out-of-band commands on workers */
    bool keep_reply;            /* quit: its reply is sent at the very end */
    char *last_reply;           /* owned: that reply */
    int passed_fd;              /* owned; for the command that asks; or -1 */
    GHashTable *named_fds;      /* owned; name -> descriptor; NULL: none */
    struct session *next;
};

struct session_options {
    struct chardev *chardev;    /* borrowed */
    bool pretty;
    int read_fd, write_fd;      /* taken, except 0 and 1 */
};

/* Greets.  Loop's thread. */
void session_start(const struct session_options *options);
void session_ref(struct session *s);
void session_unref(struct session *s);
/* The oldest first; NULL starts. */
struct session *session_next(const struct session *s);

/* JSON as a line of the wire, owned by the caller. */
char *session_line(const json_t *json, bool pretty, size_t *len);
/* Send a reply; at the very end if keep_reply is set.  Nothing happens if the
 * client is gone. */
void session_reply(struct session *s, const json_t *json);
/*
 * Descriptors that a client passes (SCM_RIGHTS).  The first of those that came
 * last with the bytes of a value is what that value's command may take, and
 * the commands behind it, until the next one comes.
 */
/* What a value just read brought along: owned by the caller; -1: nothing. */
int session_take_arrived_fd(struct session *s);
/* FD (taken) came with the command that runs now; -1: nothing did. */
void session_pass_fd(struct session *s, int fd);
/* For the running command: owned by the caller; -1: there is none. */
int session_take_passed_fd(struct session *s);

/* A command on a worker has ended: the loop goes on with the next one. */
void session_continue_later(struct session *s);

/* Send held-back replies and what is queued, then hang up on everybody.
 * Loop's thread. */
void session_close_all(void);
