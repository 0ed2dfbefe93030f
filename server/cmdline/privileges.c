/* SPDX-License-Identifier: MIT */
/* -chroot, -runas, -run-with: what is left of our rights when all is open. */
#include "server/cmdline/handlers.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *new_root;          /* owned; NULL: stay */
static char *user_text;         /* owned, as given; NULL: stay who we are */
static char *user_name;         /* owned; NULL: only numbers were given */
static uid_t user_id;
static gid_t group_id;

static bool parse_numbers(const char *text)
{
    char *end;
    unsigned long uid = strtoul(text, &end, 10);
    unsigned long gid;

    if (end == text || *end != ':' || *text == '-') {
        return false;
    }
    text = end + 1;
    gid = strtoul(text, &end, 10);
    if (end == text || *end || *text == '-' || (uid_t)uid != uid ||
        (gid_t)gid != gid || (uid_t)uid == (uid_t)-1 ||
        (gid_t)gid == (gid_t)-1) {
        return false;
    }
    user_id = uid;
    group_id = gid;
    return true;
}

bool option_runas(const char *text, struct error **errp)
{
    const struct passwd *pw = getpwnam(text);

    g_clear_pointer(&user_name, g_free);
    if (pw) {
        user_name = g_strdup(pw->pw_name);
        user_id = pw->pw_uid;
        group_id = pw->pw_gid;
    } else if (!parse_numbers(text)) {
        error_set(errp, "User \"%s\" doesn't exist (and is not <uid>:<gid>)",
                  text);
        return false;
    }
    g_free(user_text);
    user_text = g_strdup(text);
    return true;
}

static bool run_with(const char *text, struct error **errp)
{
    json_t *object = text_parse(text, NULL, errp);
    const char *key;
    json_t *value;
    bool ok = object != NULL;

    json_object_foreach(object, key, value) {
        const char *said = json_string_value(value);

        if (!ok) {
            break;
        }
        if (!strcmp(key, "chroot") && said) {
            g_free(new_root);
            new_root = g_strdup(said);
        } else if (!strcmp(key, "user") && said) {
            ok = option_runas(said, errp);
        } else if (strcmp(key, "async-teardown") &&
                   strcmp(key, "exit-with-parent")) {
            error_set(errp, "Invalid parameter '%s'", key);
            ok = false;
        }
    }
    json_decref(object);
    return ok;
}

bool option_chroot(const struct option *o, struct error **errp)
{
    if (!strcmp(o->desc->name, "run-with")) {
        return run_with(o->text, errp);
    }
    g_free(new_root);
    new_root = g_strdup(o->text);
    return true;
}

static bool change_user(struct error **errp)
{
    if ((user_name ? initgroups(user_name, group_id)
                   : setgroups(1, &group_id)) < 0 ||
        setgid(group_id) < 0 || setuid(user_id) < 0) {
        error_set_errno(errp, errno, "cannot become user '%s'", user_text);
        return false;
    }
    if (user_id != 0 && setuid(0) == 0) {
        error_set(errp, "Dropping privileges failed");
        return false;
    }
    return true;
}

bool drop_privileges(struct error **errp)
{
    if (new_root && (chroot(new_root) < 0 || chdir("/") < 0)) {
        error_set_errno(errp, errno, "cannot change the root to '%s'",
                        new_root);
        return false;
    }
    return !user_text || change_user(errp);
}
