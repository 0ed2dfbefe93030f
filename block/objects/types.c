/* SPDX-License-Identifier: MIT */
/* The table of object types: one line each; the rest is the type's file. */
#include "block/objects/object.h"

const struct object_type *const object_types[OBJECT_TYPE__MAX] = {
    [OBJECT_TYPE_AUTHZ_LIST] = &authz_list_object_type,
    [OBJECT_TYPE_AUTHZ_LIST_FILE] = &authz_list_file_object_type,
    [OBJECT_TYPE_AUTHZ_LISTFILE] = &authz_list_file_object_type,
    [OBJECT_TYPE_AUTHZ_SIMPLE] = &authz_simple_object_type,
    [OBJECT_TYPE_IOTHREAD] = &iothread_object_type,
    [OBJECT_TYPE_SECRET] = &secret_object_type,
    [OBJECT_TYPE_THROTTLE_GROUP] = &throttle_group_object_type,
    [OBJECT_TYPE_TLS_CREDS_ANON] = &tls_creds_anon_object_type,
    [OBJECT_TYPE_TLS_CREDS_PSK] = &tls_creds_psk_object_type,
    [OBJECT_TYPE_TLS_CREDS_X509] = &tls_creds_x509_object_type,
};
