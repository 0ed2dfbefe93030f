/* SPDX-License-Identifier: MIT */
/*
 * File names of exports: nbd://HOST[:PORT][/EXPORT],
 * nbd+unix://[/EXPORT]?socket=PATH, the same with nbds for TLS (needs
 * tls-creds=ID behind the question mark), and the older
 * nbd:HOST:PORT[:exportname=EXPORT] and nbd:unix:PATH[:exportname=EXPORT].
 */
#pragma once

#include "base/error.h"
#include "qapi/qapi-types.h"

bool nbd_filename_matches(const char *name);
/* Owned; NULL and errp. */
BlockdevOptions *nbd_filename_parse(const char *name, struct error **errp);
/* The name that says all of O, owned; "" if there is none. */
char *nbd_filename_make(const BlockdevOptionsNbd *o);
