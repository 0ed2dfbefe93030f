/* SPDX-License-Identifier: MIT */
/* Objects: the registry, the tree, secrets, iothreads, authorization. */
#include <string.h>
#include <glib.h>
#include <glib/gstdio.h>
#include "base/control.h"
#include "block/objects/authz.h"
#include "block/objects/object.h"
#include "block/objects/secret.h"
#include "block/objects/tls-creds.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"

static char *dir;

/* ---- helpers ------------------------------------------------------------ */

/* object-add of JSON ('...'); NULL or the error's text. */
static char *add(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static char *add(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(ObjectOptions) options = NULL;
    AUTO_ERROR(err);
    json_t *json;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_strdelimit(text, "'", '"');
    json = json_loads(text, 0, NULL);
    g_assert_nonnull(json);
    options = ObjectOptions_from_json(json, &err);
    json_decref(json);
    g_assert_true(options != NULL || err != NULL);
    if (options && object_add(options, &err)) {
        return NULL;
    }
    return g_strdup(error_text(err));
}

#define ADD_OK(...) ADD_FAILS(NULL, __VA_ARGS__)
#define ADD_FAILS(text, ...)                                                \
    do {                                                                    \
        g_autofree char *got_ = add(__VA_ARGS__);                           \
        g_assert_cmpstr(got_, ==, text);                                    \
    } while (0)

/* The text has PART in it. */
#define ADD_FAILS_WITH(part, ...)                                           \
    do {                                                                    \
        g_autofree char *got_ = add(__VA_ARGS__);                           \
        g_assert_nonnull(got_ ? strstr(got_, part) : NULL);                 \
    } while (0)

static void check_del(const char *id, const char *text)
{
    AUTO_ERROR(err);

    g_assert_true(object_del(id, &err) == (text == NULL));
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, text);
}

/* qom-get as JSON text, or the error's. */
static char *get(const char *path, const char *property)
{
    QomGetArgs args = { (char *)path, (char *)property };
    AUTO_ERROR(err);
    json_t *value = qmp_qom_get(&args, &err);
    char *text;

    if (!value) {
        return g_strdup(error_text(err));
    }
    text = qapi_json_dump(value, false, NULL);
    json_decref(value);
    return text;
}

#define CHECK_GET(path, property, text)                                     \
    do {                                                                    \
        g_autofree char *got_ = get(path, property);                        \
        g_assert_cmpstr(got_, ==, text);                                    \
    } while (0)

static void check_set(const char *path, const char *property, json_t *value,
                      const char *text)
{
    QomSetArgs args = { (char *)path, (char *)property, value };
    AUTO_ERROR(err);

    g_assert_true(qmp_qom_set(&args, &err) == (text == NULL));
    g_assert_cmpstr(err ? error_text(err) : NULL, ==, text);
    json_decref(value);
}

static void check_secret(const char *id, const char *bytes, size_t n)
{
    size_t got_n = 0;
    char *got = secret_get(id, &got_n, NULL);

    g_assert_nonnull(got);
    g_assert_cmpmem(got, got_n, bytes, n);
    g_assert_cmpint(got[n], ==, 0);
    secret_wipe(&got, got_n);
    g_assert_null(got);
}

static char *write_file(const char *name, const char *data, gssize n)
{
    char *path = g_build_filename(dir, name, NULL);

    g_assert_true(g_file_set_contents(path, data, n, NULL));
    return path;
}

/* ---- the registry ------------------------------------------------------- */

static void test_registry(void)
{
    struct object *obj;

    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'iothread', 'id': 'a'}");
    ADD_FAILS("attempt to add duplicate property 'a' to object (type "
              "'container')", "{'qom-type': 'secret', 'id': 'a', 'data': ''}");
    for (const char *const *id =
             (const char *const []){ "", "1a", "a b", "a/b", "-a", "ä", NULL };
         *id; id++) {
        ADD_FAILS("Parameter 'id' expects an identifier",
                  "{'qom-type': 'iothread', 'id': '%s'}", *id);
    }
    check_del("b", "object 'b' not found");
    obj = object_get("a", OBJECT_TYPE_IOTHREAD, NULL);
    g_assert_nonnull(obj);
    g_assert_null(object_get("a", OBJECT_TYPE_SECRET, NULL));
    g_assert_null(object_get("b", OBJECT_TYPE_SECRET, NULL));
    object_put(obj);
    check_del("a", NULL);
    g_assert_null(object_find("a"));
}

/* One in use loses its name at once, and goes with its last user. */
static void test_del_in_use(void)
{
    struct object *old;

    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'secret', 'id': 's', 'data': 'one'}");
    old = object_get("s", OBJECT_TYPE_SECRET, NULL);
    object_get_again(old);
    check_del("s", NULL);
    g_assert_null(object_find("s"));
    ADD_OK("{'qom-type': 'secret', 'id': 's', 'data': 'two'}");
    check_secret("s", "two", 3);
    object_put(old);
    g_assert_cmpstr(old->id, ==, "s");
    object_put(old);
    check_del("s", NULL);
    check_del("s", "object 's' not found");
}

static void test_refused_in_use(void)
{
    struct object *obj;

    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'throttle-group', 'id': 't'}");
    obj = object_get("t", OBJECT_TYPE_THROTTLE_GROUP, NULL);
    check_del("t", "object 't' is in use, can not be deleted");
    object_put(obj);
    check_del("t", NULL);
}

/* ---- the tree ----------------------------------------------------------- */

static void test_paths(void)
{
    static const char *const paths[] = {
        "/objects/a", "a", "objects/a", "//objects///a/", "/objects/a/", NULL
    };

    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'iothread', 'id': 'a', 'poll-max-ns': 7}");
    for (int i = 0; paths[i]; i++) {
        CHECK_GET(paths[i], "poll-max-ns", "7");
    }
    CHECK_GET("/", "objects", "\"/objects\"");
    CHECK_GET("/objects", "a", "\"/objects/a\"");
    CHECK_GET("/objects", "type", "\"container\"");
    CHECK_GET("a", "type", "\"iothread\"");
    CHECK_GET("/a", "type", "Device '/a' not found");
    CHECK_GET("nope", "type", "Device 'nope' not found");
    CHECK_GET("a/type", "type", "Device 'a/type' not found");
    CHECK_GET("", "type", "Path '' is ambiguous");
    CHECK_GET("a", "nope", "Property 'iothread.nope' not found");
    CHECK_GET("/", "nope", "Property 'container.nope' not found");
    ADD_OK("{'qom-type': 'iothread', 'id': 'objects'}");
    CHECK_GET("objects", "type", "Path 'objects' is ambiguous");
    CHECK_GET("/objects", "type", "\"container\"");
    check_del("objects", NULL);
    check_del("a", NULL);
}

static void test_set(void)
{
    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'iothread', 'id': 'a'}");
    CHECK_GET("a", "poll-max-ns", "32768");
    CHECK_GET("a", "thread-pool-max", "64");
    check_set("a", "poll-max-ns", json_integer(5), NULL);
    CHECK_GET("a", "poll-max-ns", "5");
    check_set("a", "poll-max-ns", json_integer(-1), "poll-max-ns value must "
              "be in range [0, 9223372036854775807]");
    check_set("a", "poll-max-ns", json_string("x"),
              "Invalid parameter type for 'poll-max-ns', expected: integer");
    check_set("a", "thread-pool-max", json_integer(0),
              "bad thread-pool-min/thread-pool-max values");
    CHECK_GET("a", "poll-max-ns", "5");
    CHECK_GET("a", "thread-pool-max", "64");
    check_set("a", "type", json_string("x"),
              "Property 'iothread.type' is not writable");
    check_set("/objects", "a", json_string("x"),
              "Property 'container.a' is not writable");
    check_set("a", "nope", json_null(), "Property 'iothread.nope' not found");
    check_set("b", "nope", json_null(), "Device 'b' not found");
    check_del("a", NULL);
    ADD_FAILS("bad thread-pool-min/thread-pool-max values",
              "{'qom-type': 'iothread', 'id': 'a', 'thread-pool-min': 65}");
    ADD_FAILS("aio-max-batch value must be in range "
              "[0, 9223372036854775807]",
              "{'qom-type': 'iothread', 'id': 'a', 'aio-max-batch': -1}");
}

static void test_types(void)
{
    QomListTypesArgs args = { .implements = (char *)"tls-creds" };
    QomListPropertiesArgs properties = { (char *)"nope" };
    g_autoptr(ObjectTypeInfoList) types = NULL;
    g_autoptr(ObjectTypeInfoList) all = NULL;

    CONTROL_GUARD();
    types = qmp_qom_list_types(&args, NULL);
    g_assert_cmpint(types->n, ==, 3);
    for (size_t i = 0; i < types->n; i++) {
        g_autoptr(ObjectPropertyInfoList) list = NULL;

        properties.typename = types->v[i]->name;
        g_assert_cmpstr(types->v[i]->parent, ==, "tls-creds");
        list = qmp_qom_list_properties(&properties, NULL);
        g_assert_cmpint(list->n, >=, 5);
    }
    args = (QomListTypesArgs){ .has_abstract = true, .abstract = true };
    all = qmp_qom_list_types(&args, NULL);
    /* authz-list-file has two spellings. */
    g_assert_cmpint(all->n, ==, OBJECT_TYPE__MAX - 1 + 8);
    properties.typename = (char *)"nope";
    g_assert_null(qmp_qom_list_properties(&properties, NULL));
}

/* ---- secrets ------------------------------------------------------------ */

static void test_secrets(void)
{
    static const char bytes[] = "\xff\0\xfe\n";
    g_autofree char *path = write_file("bytes", bytes, 4);
    g_autofree char *empty = write_file("empty", "", 0);
    g_autofree char *nul = write_file("nul", "YWJj\0YWJj", 9);

    CONTROL_GUARD();
    ADD_FAILS("Either 'file' or 'data' must be provided",
              "{'qom-type': 'secret', 'id': 's'}");
    ADD_FAILS("'file' and 'data' are mutually exclusive",
              "{'qom-type': 'secret', 'id': 's', 'data': '', 'file': ''}");
    ADD_FAILS("Unable to read /nope: No such file or directory",
              "{'qom-type': 'secret', 'id': 's', 'file': '/nope'}");
    ADD_FAILS("Unable to read /: Is a directory",
              "{'qom-type': 'secret', 'id': 's', 'file': '/'}");
    ADD_FAILS("Unable to read /dev/zero: File too large",
              "{'qom-type': 'secret', 'id': 's', 'file': '/dev/zero'}");
    ADD_FAILS("Base64 data contains invalid characters",
              "{'qom-type': 'secret', 'id': 's', 'data': '!', "
              "'format': 'base64'}");
    ADD_FAILS("Base64 data contains invalid characters",
              "{'qom-type': 'secret', 'id': 's', 'file': '%s', "
              "'format': 'base64'}", nul);
    ADD_OK("{'qom-type': 'secret', 'id': 'raw', 'data': 'abc'}");
    ADD_OK("{'qom-type': 'secret', 'id': 'base64', 'data': 'YWJj', "
           "'format': 'base64'}");
    ADD_OK("{'qom-type': 'secret', 'id': 'short', 'data': 'Y', "
           "'format': 'base64'}");
    ADD_OK("{'qom-type': 'secret', 'id': 'file', 'file': '%s'}", path);
    ADD_OK("{'qom-type': 'secret', 'id': 'empty', 'file': '%s'}", empty);
    check_secret("raw", "abc", 3);
    check_secret("base64", "abc", 3);
    check_secret("short", "", 0);
    check_secret("file", bytes, 4);
    check_secret("empty", "", 0);
    g_assert_null(secret_get_text("file", NULL));
    CHECK_GET("raw", "format", "\"raw\"");
    CHECK_GET("base64", "data", "\"YWJj\"");
    CHECK_GET("file", "data", "\"\"");
    objects_free();
}

/* "hello" and "" with AES-256-CBC, key 32 * 'k', IV 16 * 'i' (made with
 * openssl enc). */
#define KEY "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
#define IV "aWlpaWlpaWlpaWlpaWlpaQ=="
#define HELLO "aRyXOIIhJzBhh+BthfFstw=="
#define NOTHING "XRHEmvGLSz5IJQg2K9LIVw=="

static void test_encrypted(void)
{
    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'secret', 'id': 'key', 'data': '" KEY "', "
           "'format': 'base64'}");
    ADD_OK("{'qom-type': 'secret', 'id': 'bad', 'data': 'short'}");
    ADD_OK("{'qom-type': 'iothread', 'id': 'io'}");
    ADD_OK("{'qom-type': 'secret', 'id': 'hello', 'data': '" HELLO "', "
           "'format': 'base64', 'keyid': 'key', 'iv': '" IV "'}");
    check_secret("hello", "hello", 5);
    ADD_OK("{'qom-type': 'secret', 'id': 'nothing', 'data': '" NOTHING "', "
           "'format': 'base64', 'keyid': 'key', 'iv': '" IV "'}");
    check_secret("nothing", "", 0);
#define FAILS(text, members) \
    ADD_FAILS(text, "{'qom-type': 'secret', 'id': 's', " members "}")
    FAILS("No secret with id 'nope'", "'data': '', 'keyid': 'nope'");
    FAILS("No secret with id 's'", "'data': '', 'keyid': 's'");
    FAILS("Object with id 'io' is not a secret", "'data': '', 'keyid': 'io'");
    FAILS("Key should be 32 bytes in length", "'data': '', 'keyid': 'bad'");
    FAILS("IV is required to decrypt secret", "'data': '', 'keyid': 'key'");
    FAILS("IV should be 16 bytes in length not 3",
          "'data': '', 'keyid': 'key', 'iv': 'YWJj'");
    FAILS("Base64 data contains invalid characters",
          "'data': '', 'keyid': 'key', 'iv': '!!'");
    FAILS("Length 4 must be a multiple of block size 16",
          "'data': 'YWJj', 'keyid': 'key', 'iv': '" IV "'");
    /* The wrong key leaves nonsense where the padding should be. */
    FAILS("Incorrect number of padding bytes (80) found on decrypted data",
          "'data': 'enp6enp6enp6enp6enp6eg==', 'format': 'base64', "
          "'keyid': 'key', 'iv': '" IV "'");
#undef FAILS
    objects_free();
}

/* ---- authorization ------------------------------------------------------ */

static bool allows(const char *id, const char *identity)
{
    AUTO_ERROR(err);
    bool ok = authz_allows(id, identity, &err);

    g_assert_true(ok == (err == NULL));
    return ok;
}

static void test_authz(void)
{
    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'authz-simple', 'id': 'one', 'identity': 'CN=a'}");
    ADD_OK("{'qom-type': 'authz-list', 'id': 'none'}");
    ADD_OK("{'qom-type': 'authz-list', 'id': 'list', 'policy': 'allow', "
           "'rules': [{'match': 'CN=b', 'policy': 'allow'},"
           "{'match': 'CN=[bc]*', 'policy': 'deny', 'format': 'glob'},"
           "{'match': 'x*', 'policy': 'deny', 'format': 'exact'}]}");
    ADD_OK("{'qom-type': 'iothread', 'id': 'io'}");
    g_assert_true(allows("one", "CN=a"));
    g_assert_false(allows("one", "CN=A"));
    g_assert_false(allows("one", ""));
    g_assert_false(allows("none", "CN=a"));
    g_assert_true(allows("list", "CN=a"));
    g_assert_true(allows("list", "CN=b"));
    g_assert_false(allows("list", "CN=bb"));
    g_assert_false(allows("list", "CN=c"));
    g_assert_true(allows("list", "xy"));
    g_assert_false(allows("list", "x*"));
    g_assert_false(allows("nope", "CN=a"));
    g_assert_false(allows("io", "CN=a"));
    objects_free();
}

static void test_authz_file(void)
{
    g_autofree char *path =
        write_file("rules", "{\"rules\": [{\"match\": \"a\", \"policy\": "
                   "\"allow\"}]}", -1);
    g_autofree char *bad = write_file("bad", "{\"policy\": \"maybe\"}", -1);
    g_autofree char *worse = write_file("worse", "{\"policy\"", -1);

    CONTROL_GUARD();
    ADD_FAILS("Unable to read /nope: No such file or directory",
              "{'qom-type': 'authz-list-file', 'id': 'f', "
              "'filename': '/nope'}");
    ADD_FAILS_WITH(": Parameter 'policy' does not accept value 'maybe'",
        "{'qom-type': 'authz-list-file', 'id': 'f', 'filename': '%s'}", bad);
    ADD_FAILS_WITH("Unable to parse ",
        "{'qom-type': 'authz-list-file', 'id': 'f', 'filename': '%s'}", worse);
    ADD_OK("{'qom-type': 'authz-list-file', 'id': 'f', 'filename': '%s'}",
           path);
    ADD_OK("{'qom-type': 'authz-list-file', 'id': 'once', 'filename': '%s', "
           "'refresh': false}", path);
    g_assert_true(allows("f", "a"));
    g_assert_false(allows("f", "b"));
    g_free(write_file("rules", "{\"rules\": [{\"match\": \"b\", \"policy\": "
                      "\"allow\"}], \"policy\": \"deny\"}", -1));
    g_assert_false(allows("f", "a"));
    g_assert_true(allows("f", "b"));
    ADD_OK("{'qom-type': 'authz-listfile', 'id': 'qemu', 'filename': '%s'}",
           path);
    g_assert_true(allows("once", "a"));
    g_assert_true(allows("qemu", "b"));
    /* Broken: nobody, until it is mended. */
    g_free(write_file("rules", "", -1));
    g_assert_false(allows("f", "b"));
    g_free(write_file("rules", "{\"policy\": \"allow\"}", -1));
    g_assert_true(allows("f", "z"));
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_false(allows("f", "z"));
    objects_free();
}

/* ---- credentials -------------------------------------------------------- */

static void test_psk(void)
{
    struct tls_creds *c;
    AUTO_ERROR(err);

    CONTROL_GUARD();
    g_free(write_file("keys.psk", "alice:00112233\r\nqemu:aabbccdd\nbob:zz",
                      -1));
    ADD_FAILS("Missing 'dir' property value",
              "{'qom-type': 'tls-creds-psk', 'id': 'k'}");
    ADD_FAILS("Unable to access credentials /nope/keys.psk: No such file or "
              "directory",
              "{'qom-type': 'tls-creds-psk', 'id': 'k', 'dir': '/nope'}");
    ADD_FAILS("username should not be set when endpoint=server",
              "{'qom-type': 'tls-creds-psk', 'id': 'k', 'dir': '%s', "
              "'endpoint': 'server', 'username': 'alice'}", dir);
    ADD_OK("{'qom-type': 'tls-creds-psk', 'id': 'server', 'dir': '%s', "
           "'endpoint': 'server'}", dir);
    ADD_OK("{'qom-type': 'tls-creds-psk', 'id': 'qemu', 'dir': '%s'}", dir);
    ADD_OK("{'qom-type': 'tls-creds-psk', 'id': 'alice', 'dir': '%s', "
           "'username': 'alice'}", dir);
    ADD_FAILS_WITH("Username ali not found in PSK file ",
        "{'qom-type': 'tls-creds-psk', 'id': 'k', 'dir': '%s', "
        "'username': 'ali'}", dir);
    ADD_FAILS_WITH("Failed to set PSK client credentials",
        "{'qom-type': 'tls-creds-psk', 'id': 'k', 'dir': '%s', "
        "'username': 'bob'}", dir);
    ADD_FAILS_WITH("Unable to set TLS session priority ",
        "{'qom-type': 'tls-creds-psk', 'id': 'k', 'dir': '%s', "
        "'priority': 'NOSUCH'}", dir);
    c = tls_creds_get("server", Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER, &err);
    g_assert_nonnull(c);
    g_assert_true(tls_creds_identify(c));
    check_del("server", NULL);
    g_assert_cmpstr(c->dir, ==, dir);
    object_put(&c->base);
    g_assert_null(tls_creds_get("alice", Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER,
                                &err));
    g_assert_cmpstr(error_text(err), ==,
                    "Expected TLS credentials for a server endpoint");
    CHECK_GET("alice", "username", "\"alice\"");
    CHECK_GET("qemu", "username", "\"\"");
    CHECK_GET("qemu", "endpoint", "\"client\"");
    CHECK_GET("qemu", "verify-peer", "true");
    objects_free();
}

static void test_anon(void)
{
    struct tls_creds *c;

    CONTROL_GUARD();
    ADD_OK("{'qom-type': 'tls-creds-anon', 'id': 'a'}");
    ADD_OK("{'qom-type': 'tls-creds-anon', 'id': 'b', "
           "'endpoint': 'server', 'dir': '/nope'}");
    c = tls_creds_get("b", Q_CRYPTO_TLS_CREDS_ENDPOINT_SERVER, NULL);
    g_assert_false(tls_creds_identify(c));
    object_put(&c->base);
    g_free(write_file("dh-params.pem", "garbage", -1));
    ADD_FAILS_WITH("Unable to load DH parameters from ",
        "{'qom-type': 'tls-creds-anon', 'id': 'c', 'endpoint': 'server', "
        "'dir': '%s'}", dir);
    objects_free();
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("objects-test-XXXXXX", NULL);
    g_test_add_func("/objects/registry", test_registry);
    g_test_add_func("/objects/del-in-use", test_del_in_use);
    g_test_add_func("/objects/refused-in-use", test_refused_in_use);
    g_test_add_func("/objects/paths", test_paths);
    g_test_add_func("/objects/set", test_set);
    g_test_add_func("/objects/types", test_types);
    g_test_add_func("/objects/secrets", test_secrets);
    g_test_add_func("/objects/encrypted", test_encrypted);
    g_test_add_func("/objects/authz", test_authz);
    g_test_add_func("/objects/authz-file", test_authz_file);
    g_test_add_func("/objects/psk", test_psk);
    g_test_add_func("/objects/anon", test_anon);
    ret = g_test_run();
    for (const char *const *name = (const char *const []){ "bytes", "empty",
             "nul", "rules", "bad", "worse", "keys.psk", "dh-params.pem",
             NULL }; *name; name++) {
        g_autofree char *path = g_build_filename(dir, *name, NULL);

        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    g_free(dir);
    return ret;
}
