/* SPDX-License-Identifier: MIT */
/*
 * An NBD server: listening sockets, the thread that accepts, connections.
 *
 * Threads  One thread per server waits for clients, one per connection
 *          serves it.  Every wait of theirs ends when their socket is shut
 *          down or, during the handshake, when its time is over.
 */
#pragma once

#include "base/error.h"
#include "nbd/listen.h"

struct nbd_conn;
struct tls_creds;

struct nbd_server_options {
    int max_connections;        /* 0: any number */
    int handshake_max_seconds;  /* 0: no limit */
    struct tls_creds *tls_creds;    /* a use of them, taken on success;
                                       NULL: no TLS.  With it, no client
                                       goes on without */
    const char *tls_authz;      /* copied, or NULL */
};

struct nbd_server {
    /* Constant while it runs. */
    struct nbd_listener *listener;  /* owned */
    int max_connections;
    int64_t handshake_max_ns;       /* INT64_MAX: no limit */
    struct tls_creds *tls_creds;    /* in use by us, or NULL */
    char *tls_authz;                /* owned: id, looked up for each client */
    int wake_fd;                    /* eventfd: look again */
    pthread_t thread;

    /* Under nbd_lock. */
    struct nbd_conn *conns;
    int n_conns;
    bool stopping;                  /* set once */
    bool abandoned;                 /* freed by its last connection */
};

/*
 * Serve LISTENER (taken, also on failure).  Any thread.  NULL and errp: no
 * thread or file descriptor to be had.
 */
struct nbd_server *nbd_server_new(struct nbd_listener *listener,
                                  const struct nbd_server_options *options,
                                  struct error **errp);
/*
 * Stop listening, close its exports, disconnect all clients, free it.  Waits
 * until all is gone, but not long: what hangs in a disk that does not answer
 * goes when it does, with its export's event.  Control lock held, yields.
 */
void nbd_server_stop(struct nbd_server *s);

/* The multi-connection flag holds: more than one client may connect. */
bool nbd_server_multi_conn(const struct nbd_server *s);
/* nbd_lock held: shut down all connections in transmission on E. */
struct nbd_export;
void nbd_server_shutdown_export(struct nbd_server *s,
                                const struct nbd_export *e);
/* The calling connection thread is done with C: out of the list, freed. */
void nbd_server_remove_conn(struct nbd_server *s, struct nbd_conn *c);

/* qmp-nbd.c, control lock held: the server of this id (NULL: the one without)
 * if it runs.  Borrowed; NULL and errp. */
struct nbd_server *nbd_running_server(const char *id, struct error **errp);
