/* SPDX-License-Identifier: MIT */
/*
 * secret: bytes under a name, from the options or a file, perhaps encrypted
 * with another secret.
 */
#include "block/objects/secret.h"

#include <gnutls/crypto.h>
#include <string.h>
#include "base/control.h"
#include "block/objects/read-file.h"

enum {
    KEY_BYTES = 32,
    IV_BYTES = 16,
    BLOCK_BYTES = 16,
    MAX_FILE_BYTES = 16 << 20,
};

struct secret {
    struct object base;
    SecretProperties *options;  /* owned: as given */
    char *data;                 /* owned: what it is; NUL added */
    size_t data_bytes;
};

/* ---- bytes -------------------------------------------------------------- */

void secret_wipe(char **secret, size_t bytes)
{
    if (*secret) {
        explicit_bzero(*secret, bytes);
        g_free(*secret);
        *secret = NULL;
    }
}

char *secret_decode_base64(const char *text, size_t *bytes,
                           struct error **errp)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
        "\r\n";
    size_t length = strlen(text);
    guint save = 0;
    gint state = 0;
    char *data;

    if (strspn(text, allowed) != length) {
        error_set(errp, "Base64 data contains invalid characters");
        return NULL;
    }
    data = g_malloc(length + 1);        /* more than is needed */
    *bytes = g_base64_decode_step(text, length, (guchar *)data, &state, &save);
    data[*bytes] = '\0';
    return data;
}

/* ---- decryption --------------------------------------------------------- */

/* What decryption needs, looked up before anything is read. */
struct cipher {
    char *key;                  /* owned; NULL: not encrypted */
    char *iv;                   /* owned */
};

static bool cipher_prepare(struct cipher *cipher, const SecretProperties *o,
                           struct error **errp)
{
    size_t key_bytes, iv_bytes;

    cipher->key = secret_get(o->keyid, &key_bytes, errp);
    if (!cipher->key) {
        return false;
    }
    if (key_bytes != KEY_BYTES) {
        error_set(errp, "Key should be %d bytes in length", KEY_BYTES);
        secret_wipe(&cipher->key, key_bytes);
        return false;
    }
    if (!o->iv) {
        error_set(errp, "IV is required to decrypt secret");
        return false;
    }
    cipher->iv = secret_decode_base64(o->iv, &iv_bytes, errp);
    if (cipher->iv && iv_bytes != IV_BYTES) {
        error_set(errp, "IV should be %d bytes in length not %zu", IV_BYTES,
                  iv_bytes);
        return false;
    }
    return cipher->iv != NULL;
}

/* Take off what PKCS#7 puts behind the last block. */
static bool strip_padding(char *data, size_t *bytes, struct error **errp)
{
    unsigned padding = (uint8_t)data[*bytes - 1];

    if (padding == 0 || padding > BLOCK_BYTES) {
        error_set(errp, "Incorrect number of padding bytes (%u) found on "
                  "decrypted data", padding);
        return false;
    }
    *bytes -= padding;
    data[*bytes] = '\0';
    return true;
}

/* In place. */
static bool decrypt(const struct cipher *cipher, char *data, size_t *bytes,
                    struct error **errp)
{
    gnutls_datum_t key = { (uint8_t *)cipher->key, KEY_BYTES };
    gnutls_datum_t iv = { (uint8_t *)cipher->iv, IV_BYTES };
    gnutls_cipher_hd_t handle;
    int ret;

    if (*bytes % BLOCK_BYTES != 0) {
        error_set(errp, "Length %zu must be a multiple of block size %d",
                  *bytes, BLOCK_BYTES);
        return false;
    }
    if (*bytes == 0) {
        return true;
    }
    ret = gnutls_cipher_init(&handle, GNUTLS_CIPHER_AES_256_CBC, &key, &iv);
    if (ret == 0) {
        ret = gnutls_cipher_decrypt(handle, data, *bytes);
        gnutls_cipher_deinit(handle);
    }
    if (ret < 0) {
        error_set(errp, "Unable to decrypt secret: %s", gnutls_strerror(ret));
        return false;
    }
    return strip_padding(data, bytes, errp);
}

/* ---- life --------------------------------------------------------------- */

/* DATA (taken) as it was given, to what it is. */
static char *unwrap(const SecretProperties *o, const struct cipher *cipher,
                    char *data, size_t *bytes, struct error **errp)
{
    if (o->format == Q_CRYPTO_SECRET_FORMAT_BASE64) {
        size_t encoded_bytes = *bytes;
        /* What is behind a NUL must not be overlooked. */
        char *decoded = secret_decode_base64(
            strlen(data) == encoded_bytes ? data : "?", bytes, errp);

        secret_wipe(&data, encoded_bytes);
        data = decoded;
    }
    if (data && cipher->key) {
        size_t whole_bytes = *bytes;

        if (!decrypt(cipher, data, bytes, errp)) {
            secret_wipe(&data, whole_bytes);
        }
    }
    return data;
}

static char *load(const SecretProperties *o, const struct cipher *cipher,
                  size_t *bytes, struct error **errp)
{
    char *data = NULL;

    if (o->file) {
        CONTROL_YIELD {
            data = object_read_file(o->file, MAX_FILE_BYTES, bytes, errp);
        }
    } else {
        data = g_strdup(o->data);
        *bytes = strlen(data);
    }
    return data ? unwrap(o, cipher, data, bytes, errp) : NULL;
}

static bool secret_init(struct object *obj, const ObjectOptions *options,
                        struct error **errp)
{
    const SecretProperties *o = &options->u.secret;
    struct secret *s = (struct secret *)obj;
    struct cipher cipher = { 0 };

    if (!o->file == !o->data) {
        error_set(errp, o->file ? "'file' and 'data' are mutually exclusive"
                  : "Either 'file' or 'data' must be provided");
        return false;
    }
    if (!o->keyid || cipher_prepare(&cipher, o, errp)) {
        s->data = load(o, &cipher, &s->data_bytes, errp);
    }
    secret_wipe(&cipher.key, KEY_BYTES);
    g_free(cipher.iv);
    if (s->data) {
        s->options = SecretProperties_clone(o);
    }
    return s->data != NULL;
}

static void secret_fini(struct object *obj)
{
    struct secret *s = (struct secret *)obj;

    secret_wipe(&s->data, s->data_bytes);
    if (s->options->data) {
        explicit_bzero(s->options->data, strlen(s->options->data));
    }
    SecretProperties_free(s->options);
}

/* ---- for others --------------------------------------------------------- */

char *secret_get(const char *id, size_t *bytes, struct error **errp)
{
    struct object *obj = object_find(id);
    struct secret *s = (struct secret *)obj;
    char *copy;

    if (!obj) {
        error_set(errp, "No secret with id '%s'", id);
        return NULL;
    }
    if (obj->type != &secret_object_type) {
        error_set(errp, "Object with id '%s' is not a secret", id);
        return NULL;
    }
    copy = g_malloc(s->data_bytes + 1);
    memcpy(copy, s->data, s->data_bytes + 1);
    if (bytes) {
        *bytes = s->data_bytes;
    }
    return copy;
}

char *secret_get_text(const char *id, struct error **errp)
{
    size_t bytes;
    char *text = secret_get(id, &bytes, errp);

    if (text && (strlen(text) != bytes || !g_utf8_validate(text, -1, NULL))) {
        error_set(errp, "Data from secret %s is not valid UTF-8", id);
        secret_wipe(&text, bytes);
    }
    return text;
}

static json_t *get_property(struct object *obj, const char *name,
                            struct error **errp)
{
    const SecretProperties *o = ((struct secret *)obj)->options;
    const char *text = !strcmp(name, "iv") ? o->iv
        : !strcmp(name, "keyid") ? o->keyid
        : !strcmp(name, "format") ? QCryptoSecretFormat_str(o->format)
        : !strcmp(name, "file") ? o->file : o->data;

    return json_string(text ? text : "");
}

static const struct object_property properties[] = {
    { "iv", "string", get_property },
    { "keyid", "string", get_property },
    { "format", "QCryptoSecretFormat", get_property },
    { "file", "string", get_property },
    { "data", "string", get_property },
    { NULL },
};

const struct object_type secret_object_type = {
    .type = OBJECT_TYPE_SECRET,
    .size = sizeof(struct secret),
    .init = secret_init,
    .fini = secret_fini,
    .parent = "secret_common",
    .del_in_use = true,
    .properties = properties,
};
