/* SPDX-License-Identifier: MIT */
/* The command line: options as a list, and what --chardev and --qmp say. */
#include "server/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <glib.h>
#include "server/chardev-options.h"

/* ---- the list ----------------------------------------------------------- */

static bool parse(const char *line, GArray *options, struct error **errp)
{
    static char **kept;     /* options borrow from it */

    g_strfreev(kept);
    kept = g_strsplit(line, " ", -1);
    return options_parse(g_strv_length(kept), kept, options, errp);
}

static void test_list(void)
{
    static const struct option expected[] = {
        { OPTION_BLOCKDEV, "--blockdev", "a=b" },
        { OPTION_QMP, "--qmp", "stdio" },
        { OPTION_BLOCKDEV, "--blockdev", "driver=file,x=y" },
        { OPTION_DAEMONIZE, "--daemonize", NULL },
        { OPTION_MONITOR, "--monitor", "-" },
        { OPTION_HELP, "--help", NULL },
        { OPTION_TRACE, "--trace", "all" },
        { OPTION_VERSION, "--version", NULL },
    };
    g_autoptr(GArray) options = g_array_new(FALSE, FALSE,
                                            sizeof(struct option));

    g_assert_true(parse("x -blockdev a=b --qmp stdio "
                        "--blockdev=driver=file,x=y -daemonize --monitor - "
                        "-h -T all -V", options, NULL));
    g_assert_cmpuint(options->len, ==, G_N_ELEMENTS(expected));
    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++) {
        const struct option *o = &g_array_index(options, struct option, i);

        g_assert_cmpint(o->kind, ==, expected[i].kind);
        g_assert_cmpstr(o->spelling, ==, expected[i].spelling);
        g_assert_cmpstr(o->text, ==, expected[i].text);
    }
}

static void test_list_mistakes(void)
{
    static const char *const bad[] = {
        "x foo", "foo: Unexpected argument",
        "x --nope", "unrecognized option '--nope'",
        "x -", "unrecognized option '-'",
        "x --", "unrecognized option '--'",
        "x --h", "unrecognized option '--h'",
        "x --block a", "unrecognized option '--block'",
        "x --blockdev", "option '--blockdev' requires an argument",
        "x --daemonize=yes", "option '--daemonize' doesn't allow an argument",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(bad); i += 2) {
        g_autoptr(GArray) options = g_array_new(FALSE, FALSE,
                                                sizeof(struct option));
        AUTO_ERROR(err);

        g_assert_false(parse(bad[i], options, &err));
        g_assert_cmpstr(error_text(err), ==, bad[i + 1]);
    }
}

static void test_help(void)
{
    static const char *const names[] = {
        "--blockdev", "--chardev", "--daemonize", "--export", "-h, --help",
        "--monitor", "--nbd-server", "--object", "--pidfile", "--qmp ",
        "--qmp-pretty", "--trace", "-V, --version",
    };
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);

    options_print_help(stream, "prog");
    fclose(stream);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_assert_nonnull(strstr(text, names[i]));
    }
    free(text);
}

/* ---- channels ----------------------------------------------------------- */

static char *describe(const struct chardev_options *o)
{
    if (o->is_stdio) {
        return g_strdup_printf("%s stdio", o->id);
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
        /* mistakes */
        "socket,path=/x", "chardev: no id specified",
        "socket,id=1a,path=/x", "Parameter 'id' expects an identifier",
        "socket,id=,path=/x", "Parameter 'id' expects an identifier",
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
        "unix:/x,server=on,wait=off", "q /x server ",
        "unix:/x", "q /x client ",
        "unix:/x,server,nowait", "q /x server ",
        "tcp:localhost:77,server=on,wait=off", "q localhost|77 server ",
        "tcp::77", "q |77 client ",
        "tcp:[::1]:77", "q ::1|77 client ",
        "tcp:::1:77", "q ::1|77 client ",
        /* mistakes */
        "tcp:77", "'tcp:77' is not tcp:HOST:PORT",
        "unix", "'unix' is none of unix:PATH, tcp:HOST:PORT, stdio",
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
    g_test_add_func("/options/chardev", test_chardev);
    g_test_add_func("/options/where", test_where);
    return g_test_run();
}
