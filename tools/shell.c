/* SPDX-License-Identifier: MIT */
/* The interactive shell: see shell.h. */
#include "tools/shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <editline/readline.h>
#include "tools/args.h"

static const struct shell *completing;  /* editline's callbacks take no arg */

static const char *const own_commands[] = {
    "exit", "events", "help", "watch", NULL,
};

/* ---- completion ------------------------------------------------------------ */

struct candidates {
    GPtrArray *words;       /* char *, owned */
    const char *stem;       /* prefix of the word before the last key */
    const char *prefix;     /* what the candidate must begin with */
    const char *suffix;
};

static void candidate_add(struct candidates *cs, const char *name,
                          const char *suffix)
{
    if (g_str_has_prefix(name, cs->prefix)) {
        g_ptr_array_add(cs->words,
                        g_strconcat(cs->stem, name, suffix, NULL));
    }
}

static void candidate_member(const char *name, json_t *type, bool optional,
                             void *arg)
{
    const char *json_type = type
        ? json_string_value(json_object_get(type, "meta-type")) : NULL;

    (void)optional;
    candidate_add(arg, name,
                  g_strcmp0(json_type, "object") == 0 ? "." : "=");
}

/* The type that the dotted keys before the last lead to. */
static json_t *type_at(const struct schema *s, json_t *type, const char *path)
{
    g_auto(GStrv) keys = g_strsplit(path, ".", -1);

    for (int i = 0; type && keys[i] && *keys[i]; i++) {
        if (strspn(keys[i], "0123456789") != strlen(keys[i])) {
            type = schema_member(s, type, keys[i]);
        }
    }
    return type;
}

static void complete_argument(struct candidates *cs, const char *command,
                              const char *word)
{
    const struct schema *s = completing->schema;
    json_t *type = schema_arguments(s, command);
    const char *equals = strchr(word, '=');
    const char *dot = strrchr(word, '.');
    g_autofree char *path = NULL;
    g_autofree char *stem = NULL;
    json_t *v;
    size_t i;

    if (!type) {
        return;
    }
    if (equals) {
        path = g_strndup(word, equals - word);
        stem = g_strndup(word, equals - word + 1);
        type = type_at(s, type, path);
        cs->stem = stem;
        cs->prefix = equals + 1;
        json_array_foreach(type ? schema_enum_values(type) : NULL, i, v) {
            candidate_add(cs, json_string_value(v), " ");
        }
        return;
    }
    path = g_strndup(word, dot ? dot - word : 0);
    stem = g_strndup(word, dot ? dot - word + 1 : 0);
    type = type_at(s, type, path);
    cs->stem = stem;
    cs->prefix = dot ? dot + 1 : word;
    if (type) {
        schema_each_member(s, type, candidate_member, cs);
    }
}

static char **shell_complete(const char *text, int start, int end)
{
    struct candidates cs = {
        .words = g_ptr_array_new(), .stem = "", .prefix = text,
    };
    g_autofree char *before = g_strndup(rl_line_buffer, start);
    char **result;

    (void)end;
    rl_attempted_completion_over = 1;
    rl_completion_append_character = '\0';
    g_strchug(before);
    if (!*before || g_str_has_prefix(before, "help ")) {
        for (const char *const *p = schema_commands(completing->schema); *p;
             p++) {
            candidate_add(&cs, *p, " ");
        }
        for (const char *const *p = own_commands; *p && !*before; p++) {
            candidate_add(&cs, *p, " ");
        }
    } else {
        before[strcspn(before, " \t")] = '\0';
        complete_argument(&cs, before, text);
    }
    if (cs.words->len == 0) {
        g_ptr_array_free(cs.words, TRUE);
        return NULL;
    }
    /* readline's form: [0] the longest common prefix, then all; malloc'd. */
    result = calloc(cs.words->len + 2, sizeof(char *));
    for (guint i = 0; i < cs.words->len; i++) {
        g_autofree char *word = cs.words->pdata[i];

        if (i == 0) {
            result[0] = strdup(word);
        } else {
            size_t same = 0;

            while (result[0][same] && result[0][same] == word[same]) {
                same++;
            }
            result[0][same] = '\0';
        }
        result[i + 1] = strdup(word);
    }
    g_ptr_array_free(cs.words, TRUE);
    return result;
}

/* ---- history, prompt, loop ----------------------------------------------------- */

static char *history_file(void)
{
    return g_build_filename(g_get_user_data_dir(), "blockjobctl_history",
                            NULL);
}

static void print_events(struct client *c)
{
    json_t *event;

    while ((event = client_next_event(c, 0))) {
        char *text = json_dumps(event, 0);

        puts(text);
        free(text);
        json_decref(event);
    }
}

/* One line of input, malloc'd; NULL at the end. */
static char *read_line(bool terminal, const char *prompt)
{
    char *line = NULL;
    size_t size = 0;

    if (terminal) {
        return readline(prompt);
    }
    if (getline(&line, &size, stdin) < 0) {
        free(line);
        return NULL;
    }
    line[strcspn(line, "\r\n")] = '\0';
    return line;
}

static int shell_line(struct shell *sh, const char *line)
{
    AUTO_ERROR(err);
    g_auto(GStrv) words = args_split(line, &err);

    if (!words) {
        fprintf(stderr, "%s\n", error_text(err));
        return 2;
    }
    return words[0] ? run_command(sh, words, g_strv_length(words)) : 0;
}

int shell_run(struct shell *sh)
{
    bool terminal = isatty(STDIN_FILENO);
    g_autofree char *history = history_file();
    g_autofree char *prompt = g_strdup_printf("%s> ", sh->address);
    char *line;
    int ret = 0;

    completing = sh;
    if (terminal) {
        rl_readline_name = "blockjobctl";
        rl_attempted_completion_function = shell_complete;
        /* key=value and dotted keys are one word. */
        rl_basic_word_break_characters = " \t";
        rl_completer_word_break_characters = (char *)" \t";
        using_history();
        stifle_history(1000);
        read_history(history);
        printf("blockjobctl: TAB completes, 'help' lists the commands, "
               "'exit' ends\n");
    }
    while ((line = read_line(terminal, prompt))) {
        g_strstrip(line);
        if (!strcmp(line, "exit") || !strcmp(line, "quit!")) {
            free(line);
            break;
        }
        if (terminal && *line) {
            add_history(line);
        }
        ret = shell_line(sh, line);
        free(line);
        print_events(sh->client);
        if (client_is_dead(sh->client)) {
            ret = 3;
            break;
        }
    }
    if (terminal) {
        write_history(history);
        return ret == 3 ? 3 : 0;
    }
    return ret;
}
