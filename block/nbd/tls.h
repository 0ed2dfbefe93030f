/* SPDX-License-Identifier: MIT */
/*
 * TLS of a connection to a server.
 *
 * Problem     libnbd has TLS of its own, but takes files where we have
 *             credentials objects, and checks a certificate's name only for
 *             sockets that it has connected itself.
 * Answer      We do STARTTLS and the handshake; then a thread carries bytes
 *             between the server and a pair of sockets, on whose other end
 *             libnbd sees a server without TLS.
 */
#pragma once

#include "base/error.h"
#include "block/nbd/wait.h"

struct nbd_client_tls;
struct tls_creds;

/*
 * Start TLS on FD (taken, also on failure), a fresh connection.  HOSTNAME is
 * what the certificate must be of; NULL is refused where one is checked.
 * *PLAIN_FD: where the server now speaks without TLS, owned by the caller.
 * Blocks until W says no.  NULL, errp and *ERR on failure.
 */
struct nbd_client_tls *nbd_client_tls_new(int fd, const struct tls_creds *creds,
                                const char *hostname,
                                const struct nbd_wait *w, int *plain_fd,
                                int *err, struct error **errp);
/* After *PLAIN_FD was closed: end the thread, free, null *T.  NULL is fine. */
void nbd_client_tls_end(struct nbd_client_tls **t);
