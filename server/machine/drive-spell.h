/* SPDX-License-Identifier: MIT */
/*
 * Options of -drive as they are spelled: names with protocols, old and short
 * forms, to what blockdev-add calls it.  Scalars are strings.
 *
 * Threads  None of its own.
 */
#pragma once

#include <jansson.h>
#include "base/error.h"

/* The text of KEY in O, or NULL.  Borrowed. */
const char *drive_get_text(const json_t *o, const char *key);
void drive_set_text(json_t *o, const char *key, const char *value);
/* The object called KEY in O, made if there is none; NULL: it is none.
 * Borrowed. */
json_t *drive_get_object(json_t *o, const char *key);

/* What NAME (json:) says and O does not, into O. */
bool drive_merge_json_name(json_t *o, const char *name, struct error **errp);
/* The same of another name: a path, or what the protocol makes of it. */
bool drive_merge_protocol_name(json_t *o, const char *name,
                               struct error **errp);

/* 1M as a number, discard=on as unmap.  False with QEMU's text. */
bool drive_spell(json_t *o, struct error **errp);
/* Of an NBD client: host, port and path are its server. */
void drive_spell_nbd(json_t *o);
/* Of a qcow2 image: without a format, encrypt.* is for one that is encrypted;
 * which is refused then. */
void drive_spell_encrypt(json_t *o);
