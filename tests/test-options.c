/* SPDX-License-Identifier: MIT */
/* The command line: options as a list, and what --chardev and --qmp say. */
#include "server/cmdline/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <glib.h>
#include <glib/gstdio.h>
#include "server/chardev-options.h"
#include "server/cmdline/more.h"
#include "server/cmdline/text.h"

/* ---- the list ----------------------------------------------------------- */

/* LINE's words are the command line. */
static bool parse(const char *line, GArray *options, enum persona *persona,
                  struct error **errp)
{
    g_auto(GStrv) words = g_strsplit(line, " ", -1);

    return options_parse(g_strv_length(words), words, options, persona, errp);
}

static void test_list(void)
{
    static const struct {
        enum option_kind kind;
        const char *location, *text;
    } expected[] = {
        { OPTION_BLOCKDEV, "-blockdev a=b", "a=b" },
        { OPTION_QMP, "--qmp stdio", "stdio" },
        { OPTION_BLOCKDEV, "--blockdev=driver=file,x=y", "driver=file,x=y" },
        { OPTION_DAEMONIZE, "-daemonize", NULL },
        { OPTION_MON, "--mon -", "-" },
        { OPTION_HELP, "-h", NULL },
        { OPTION_TRACE, "-T all", "all" },
        { OPTION_VERSION, "-V", NULL },
    };
    g_autoptr(GArray) options = options_new();
    enum persona persona;

    g_assert_true(parse("x -blockdev a=b --qmp stdio "
                        "--blockdev=driver=file,x=y -daemonize --mon - "
                        "-h -T all -V", options, &persona, NULL));
    g_assert_cmpuint(options->len, ==, G_N_ELEMENTS(expected));
    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        g_assert_cmpint(o->kind, ==, expected[i].kind);
        g_assert_cmpstr(o->location, ==, expected[i].location);
        g_assert_cmpstr(o->text, ==, expected[i].text);
    }
    g_assert_true(options_last(options, OPTION_BLOCKDEV) ==
                  &g_array_index(options, struct option, 2));
    g_assert_null(options_last(options, OPTION_DRIVE));
}

static void test_list_mistakes(void)
{
    static const char *const bad[] = {
        "x foo", "foo: Unexpected argument",
        "x --nope", "unrecognized option '--nope'",
        "x -", "unrecognized option '-'",
        "x --", "unrecognized option '--'",
        "x --block a", "unrecognized option '--block'",
        "x --blockdev", "option '--blockdev' requires an argument",
        "x --daemonize=yes", "option '--daemonize' doesn't allow an argument",
        "x -M none -nope", "-nope: invalid option",
        "x -nope -M none --nope2", "-nope: invalid option",
        "x -drive", "-drive: requires an argument",
        "x -S=on", "-S=on: invalid option",
        "/a/qemu-system-x86_64 --nope", "--nope: invalid option",
        "qemu-system-x86_64 -blockdev", "-blockdev: requires an argument",
        "qemu-storage-daemon --drive x", "unrecognized option '--drive'",
        "qemu-storage-daemon x", "x: Unexpected argument",
        "qemu-storage-daemon --m x", "unrecognized option '--m'",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i += 2) {
        g_autoptr(GArray) options = options_new();
        enum persona persona;
        AUTO_ERROR(err);

        g_assert_false(parse(bad[i], options, &persona, &err));
        g_assert_cmpstr(error_text(err), ==, bad[i + 1]);
    }
}

static void test_persona(void)
{
    static const struct {
        enum persona persona;
        const char *line;
    } cases[] = {
        { PERSONA_BLOCKJOBD, "x" },
        { PERSONA_BLOCKJOBD, "x --blockdev a --nbd-server b --export c "
          "--qmp stdio --object d --chardev e --mon f --pidfile g" },
        { PERSONA_SYSTEM, "x --monitor none" },
        { PERSONA_SYSTEM, "x --monitor stdio" },
        { PERSONA_SYSTEM, "x -monitor unix:/x,server=on" },
        { PERSONA_SYSTEM, "x -monitor chardev:m" },
        { PERSONA_SYSTEM, "x -S" },
        { PERSONA_SYSTEM, "x --chardev a --monitor m -drive b" },
        { PERSONA_SYSTEM, "x -nodefaults img" },
        { PERSONA_STORAGE_DAEMON, "x --monitor m" },
        { PERSONA_STORAGE_DAEMON, "x --monitor m,pretty=on" },
        { PERSONA_STORAGE_DAEMON, "x --monitor chardev=m" },
        { PERSONA_STORAGE_DAEMON, "x --monitor {\"chardev\":\"m\"}" },
        { PERSONA_STORAGE_DAEMON, "qemu-storage-daemon --bl a" },
        { PERSONA_STORAGE_DAEMON, "/a/qemu-storage-daemon" },
        { PERSONA_SYSTEM, "/a/qemu-system-x86_64" },
        { PERSONA_SYSTEM, "qemu-system-x86_64 --monitor m" },
        { PERSONA_BLOCKJOBD, "/qemu-system-x86_64/blockjobd" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GArray) options = options_new();
        enum persona persona;

        g_assert_true(parse(cases[i].line, options, &persona, NULL));
        g_assert_cmpint(persona, ==, cases[i].persona);
    }
}

static void test_commands(void)
{
    persona_set(PERSONA_STORAGE_DAEMON);
    g_assert_false(persona_has_machine());
    g_assert_false(persona_has_command("device_add"));
    g_assert_false(persona_has_command("add-fd"));
    g_assert_false(persona_has_command("watchdog-set-action"));
    g_assert_true(persona_has_command("blockdev-add"));
    persona_set(PERSONA_SYSTEM);
    g_assert_true(persona_has_command("device_add"));
    persona_set(PERSONA_BLOCKJOBD);
    g_assert_true(persona_has_command("device_add"));
}

/* Every option that does something is in the help, and the others too. */
static void test_help(void)
{
    const struct option_desc *table;
    char *text = NULL;
    size_t len, n;
    FILE *stream = open_memstream(&text, &len);

    options_print_help(stream, "prog");
    fclose(stream);
    table = option_table(&n);
    for (size_t i = 0; i < n; i++) {
        g_autofree char *name = g_strdup_printf("-%s", table[i].name);

        g_assert_nonnull(strstr(text, name));
        g_assert_true(i == 0 || strcmp(table[i - 1].name, table[i].name) < 0);
        g_assert_true(option_find(table[i].name, strlen(table[i].name)) ==
                      &table[i]);
    }
    free(text);
}

/* ---- texts -------------------------------------------------------------- */

static void check_owned(char *text, const char *expected)
{
    g_assert_cmpstr(text, ==, expected);
    g_free(text);
}

static void test_texts(void)
{
    char *first;

    check_owned(text_expand_switches("a,b,nob,c=d,,e,nodelay,,x"),
                "a,b=on,b=off,c=d,,e,nodelay,,x=on");
    check_owned(text_expand_switches(""), "");
    check_owned(text_value("x=1,id=a,,b,y", "id"), "a,b");
    check_owned(text_value("id=1,id=2", "id"), "2");
    check_owned(text_value("xid=1,id", "id"), NULL);
    check_owned(text_value("id=", "id"), "");
    check_owned(text_quote("a,b,,"), "a,,b,,,,");
    g_assert_true(text_is_json(" {"));
    g_assert_false(text_is_json("a={"));
    g_assert_true(text_asks_help("help", &first));
    g_assert_null(first);
    g_assert_true(text_asks_help("?", NULL));
    g_assert_true(text_asks_help("dev,help", &first));
    check_owned(first, "dev");
    g_assert_false(text_asks_help("helpful,x=help,,help", &first));
    g_assert_null(first);
    g_assert_true(text_check("a=b,c", NULL, NULL));
    g_assert_false(text_check("a,b=c", NULL, NULL));
    g_assert_true(text_check("a,b=c", "x", NULL));
}

/* ---- options that change others ----------------------------------------- */

static void check_expand(const char *line, const char *expected)
{
    g_autoptr(GArray) options = options_new();
    g_autoptr(GString) all = g_string_new(NULL);
    enum persona persona;
    AUTO_ERROR(err);

    g_assert_true(parse(line, options, &persona, NULL));
    if (!options_expand(options, &err)) {
        g_assert_cmpstr(error_text(err), ==, expected);
        return;
    }
    for (guint i = 0; i < options->len; i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        g_string_append_printf(all, "%s%s:%s", i ? " " : "", o->desc->name,
                               o->text);
    }
    g_assert_cmpstr(all->str, ==, expected);
}

static void test_set(void)
{
    check_expand("x -device a,id=d -drive id=d -set drive.d.k=a,b=c "
                 "-set device.d.x=",
                 "device:a,id=d,x= drive:id=d,k=a,,b=c set:drive.d.k=a,b=c "
                 "set:device.d.x=");
    check_expand("x -set foo", "-set foo: can't parse: \"foo\"");
    check_expand("x -set a.b=c", "-set a.b=c: can't parse: \"a.b=c\"");
    check_expand("x -set a.b.=c", "-set a.b.=c: can't parse: \"a.b.=c\"");
    check_expand("x -device a,id=e -set device.d.k=v",
                 "-set device.d.k=v: there is no device \"d\" defined");
    check_expand("x -set object.d.k=v",
                 "-set object.d.k=v: -set is not supported with object");
}

static void check_config(const char *contents, const char *expected)
{
    g_autofree char *path = NULL, *line = NULL, *all = NULL;
    int fd = g_file_open_tmp("test-options-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_close(fd, NULL);
    g_assert_true(g_file_set_contents(path, contents, -1, NULL));
    line = g_strdup_printf("x -S -readconfig %s -machine a", path);
    all = expected[0] == ':'
        ? g_strdup_printf("-readconfig %s: %s%s", path, path, expected)
        : g_strdup_printf("S:(null) readconfig:%s%s machine:a", path,
                          expected);
    {
        g_autoptr(GArray) options = options_new();
        g_autoptr(GString) found = g_string_new(NULL);
        enum persona persona;
        AUTO_ERROR(err);

        g_assert_true(parse(line, options, &persona, NULL));
        if (!options_expand(options, &err)) {
            g_string_assign(found, error_text(err));
        }
        for (guint i = 0; !err && i < options->len; i++) {
            const struct option *o = &g_array_index(options, struct option,
                                                    i);

            g_string_append_printf(found, "%s%s:%s", i ? " " : "",
                                   o->desc->name,
                                   o->text ? o->text : "(null)");
        }
        g_assert_cmpstr(found->str, ==, all);
    }
    unlink(path);
}

static void test_readconfig(void)
{
    check_config("", "");
    check_config("# nothing\n\n", "");
    check_config("[device \"d\"]\n  driver = \"scsi-hd\"\n"
                 "  drive=\"a,b\"\n[machine]\n type = \"pc\"",
                 " device:id=d,driver=scsi-hd,drive=a,,b machine:type=pc");
    check_config("[memory]\nsize = \"1\"\n", " m:size=1");
    check_config("x = \"1\"", ":1: no group defined");
    check_config("\n[nope]", ":2: There is no option group 'nope'");
    check_config("[qmp]", ":1: There is no option group 'qmp'");
    check_config("[device", ":1: parse error");
    check_config("[device \"a]", ":1: parse error");
    check_config("[device \"a\" b]", ":1: parse error");
    check_config("[device]\nx", ":2: parse error");
    check_config("[device]\nx=1", ":2: parse error");
    check_config("[device]\nx=\"", ":2: parse error");
}

/* ---- channels ----------------------------------------------------------- */

static char *describe(const struct chardev_options *o)
{
    static const char *const kinds[] = {
        NULL, "stdio", "null", "file", "pipe", "pty",
    };

    if (o->kind != CHARDEV_SOCKET) {
        return g_strdup_printf("%s %s%s%s%s", o->id, kinds[o->kind],
                               o->path ? " " : "", o->path ? o->path : "",
                               o->append ? " append" : "");
    }
    return g_strdup_printf("%s %s%s%s%s%s%s %s%s%s%s", o->id,
                           o->path ? o->path : "",
                           o->fd ? "fd " : "", o->fd ? o->fd : "",
                           o->host ? o->host : "", o->host ? "|" : "",
                           o->host ? o->port : "",
                           o->server ? "server " : "client ",
                           o->server && o->wait ? "wait " : "",
                           o->family == AF_INET ? "4 " :
                           o->family == AF_INET6 ? "6 " : "",
                           o->reconnect_ms == 2000 ? "2s" :
                           o->reconnect_ms == 1500 ? "1.5s" : "");
}

static void check(struct chardev_options *o, struct error *err,
                  const char *expected)
{
    g_autofree char *text = o ? describe(o) : NULL;

    g_assert_cmpstr(o ? text : error_text(err), ==, expected);
    chardev_options_free(o);
}

static void test_chardev(void)
{
    static const char *const cases[] = {
        "stdio,id=a", "a stdio",
        "stdio,id=a,signal=off", "a stdio",
        "socket,id=m,path=/x,server=on,wait=off", "m /x server ",
        "socket,id=m,path=/x,server=on", "m /x server wait ",
        "socket,id=m,path=/a,,b,server,nowait", "m /a,b server ",
        "backend=socket,path=/x,id=m-1._b", "m-1._b /x client ",
        "socket,id=m,path=/x,reconnect=2", "m /x client 2s",
        "socket,id=m,path=/x,reconnect-ms=1500", "m /x client 1.5s",
        "socket,id=m,host=h,port=1,ipv4,nodelay", "m h|1 client 4 ",
        "socket,id=m,host=h,port=1,ipv4=off", "m h|1 client 6 ",
        "socket,id=m,host=h,port=1,ipv4=on,ipv6=on", "m h|1 client ",
        "socket,id=m,port=1,server=on,wait=off", "m |1 server ",
        "socket,id=m,fd=12", "m fd 12 client ",
        "socket,id=m,path=/x,telnet=off,mux=on,logfile=/y", "m /x client ",
        "{\"backend\":\"socket\",\"id\":\"m\",\"path\":\"/x\","
        "\"server\":true,\"wait\":false}", "m /x server ",
        "{\"backend\":\"socket\",\"id\":\"m\",\"fd\":12}",
        "m fd 12 client ",
        "null,id=a", "a null",
        "pty,id=a", "a pty",
        "file,id=a,path=/x", "a file /x",
        "file,id=a,path=/x,append=on", "a file /x append",
        "pipe,id=a,path=/x", "a pipe /x",
        /* mistakes */
        "socket,path=/x", "chardev: no id specified",
        "socket,id=1a,path=/x", "Parameter 'id' expects an identifier",
        "socket,id=,path=/x", "Parameter 'id' expects an identifier",
        "ringbuf,id=a", "char driver 'ringbuf' is not supported",
        "vc,id=a", "char driver 'vc' is not supported",
        "socket,id=a,path=/x,telnet=on",
        "Parameter 'telnet' is not supported for a channel",
        "socket,id=a,path=/x,tls-creds=y",
        "Parameter 'tls-creds' is not supported for a channel",
        "file,id=a", "chardev: file: no filename given",
        "{\"id\":\"a\"}", "chardev: \"a\" missing backend",
        "foo,id=a", "'foo' is not a valid char driver name",
        "id=a", "chardev: \"a\" missing backend",
        "socket,id=a", "One of 'path', 'fd' or 'host' option required",
        "socket,id=a,path=/x,host=b,port=1",
        "One of 'path', 'fd' or 'host' option required",
        "socket,id=a,host=h", "chardev: socket: no port given",
        "socket,id=a,host=h,port=65536", "Port '65536' is out of range",
        "socket,id=a,path=/x,foo=1", "Invalid parameter 'foo'",
        "stdio,id=a,path=/x", "Invalid parameter 'path'",
        "socket,id=a,path=/x,server=maybe",
        "Parameter 'server' expects 'on' or 'off'",
        "socket,id=a,path=/x,wait=off",
        "'wait' option is incompatible with socket in client connect mode",
        "socket,id=a,path=/x,server=on,reconnect=1",
        "'reconnect' option is incompatible with socket in server listen "
        "mode",
        "socket,id=a,path=/x,reconnect=-1",
        "Parameter 'reconnect' expects a number",
        "socket,id=a,path=/x,reconnect=99999999999",
        "Parameter 'reconnect' expects a number",
        "socket,id=a,host=h,port=1,ipv4=off,ipv6=off",
        "Cannot disable IPv4 and IPv6 at same time",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i += 2) {
        AUTO_ERROR(err);
        struct chardev_options *o = chardev_options_parse(cases[i], &err);

        check(o, err, cases[i + 1]);
    }
}

static void test_where(void)
{
    static const char *const cases[] = {
        "stdio", "q stdio",
        "pty", "q pty",
        "file:/a,,b", "q file /a,b",
        "pipe:/a", "q pipe /a",
        "unix:/x,server=on,wait=off", "q /x server ",
        "unix:/x", "q /x client ",
        "unix:/x,server,nowait", "q /x server ",
        "tcp:localhost:77,server=on,wait=off", "q localhost|77 server ",
        "tcp::77", "q |77 client ",
        "tcp:[::1]:77", "q ::1|77 client ",
        "tcp:::1:77", "q ::1|77 client ",
        /* mistakes */
        "tcp:77", "'tcp:77' is not tcp:HOST:PORT",
        "unix", "'unix' is not a valid char driver",
        "unix:/x,wait=off",
        "'wait' option is incompatible with socket in client connect mode",
        "unix:/x,nope=1", "Invalid parameter 'nope'",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i += 2) {
        AUTO_ERROR(err);
        struct chardev_options *o =
            chardev_options_parse_where(cases[i], "q", &err);

        check(o, err, cases[i + 1]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/list", test_list);
    g_test_add_func("/options/list-mistakes", test_list_mistakes);
    g_test_add_func("/options/help", test_help);
    g_test_add_func("/options/persona", test_persona);
    g_test_add_func("/options/commands", test_commands);
    g_test_add_func("/options/texts", test_texts);
    g_test_add_func("/options/set", test_set);
    g_test_add_func("/options/readconfig", test_readconfig);
    g_test_add_func("/options/chardev", test_chardev);
    g_test_add_func("/options/where", test_where);
    return g_test_run();
}
