/* SPDX-License-Identifier: MIT */
/* secret objects: what others need of them.  Control lock held. */
#pragma once

#include "block/objects/object.h"

/*
 * The bytes of secret ID, a copy for the caller (secret_wipe()), with a NUL
 * behind them that *BYTES (may be NULL) does not count.  NULL and errp: there
 * is none, or it is something else.
 */
char *secret_get(const char *id, size_t *bytes, struct error **errp);
/* As that, of text: without a NUL in it, and UTF-8. */
char *secret_get_text(const char *id, struct error **errp);
/* Overwrite and free BYTES at *SECRET, null it.  NULL is fine. */
void secret_wipe(char **secret, size_t bytes);

/* TEXT in base64 as bytes, NUL added; owned. */
char *secret_decode_base64(const char *text, size_t *bytes,
                           struct error **errp);
