/* SPDX-License-Identifier: MIT */
/* From a JSON value to a command's reply: see dispatch.h. */
#include "server/dispatch.h"

#include <string.h>
#include <unistd.h>
#include "base/control.h"
#include "base/pool.h"
#include "base/trace.h"
#include "qapi/error-data.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-visit.h"
#include "server/not-there.h"
#include "server/persona.h"
#include "server/shutdown.h"

/* A request is what a client sent; exactly one of value and error is set. */
struct request {
    struct request *next;
    struct session *session;    /* a reference while it is on a worker */
    json_t *value;              /* owned */
    char *error;                /* owned: no JSON at all */
    int fd;                     /* owned: came along; -1: none */
    /* Set by check_request(). */
    const struct qapi_command *command;
    json_t *arguments;          /* borrowed from value, or NULL */
    bool oob;
};

static _Thread_local struct session *current_session;
static int n_running;           /* control lock */

struct session *dispatch_session(void)
{
    return current_session;
}

int dispatch_n_running(void)
{
    control_assert();
    return n_running;
}

void dispatch_begin_other(void)
{
    control_assert();
    n_running++;
}

void dispatch_end_other(void)
{
    control_assert();
    n_running--;
    control_notify();
}

static void request_free(struct request *r)
{
    json_decref(r->value);
    g_free(r->error);
    if (r->fd >= 0) {
        close(r->fd);
    }
    g_free(r);
}

/* ---- checks ------------------------------------------------------------- */

/* Take the command's name from member KEY. */
static bool take_name(const char *key, json_t *value, const char **name,
                      struct error **errp)
{
    if (!json_is_string(value)) {
        error_set(errp, "QMP input member '%s' must be a string", key);
        return false;
    }
    if (*name) {
        error_set(errp, "QMP input member 'execute' clashes with "
                  "'exec-oob'");
        return false;
    }
    *name = json_string_value(value);
    return true;
}

static bool check_members(struct request *r, const char **name,
                          struct error **errp)
{
    const char *key;
    json_t *value;

    if (!json_is_object(r->value)) {
        error_set(errp, "QMP input must be a JSON object");
        return false;
    }
    json_object_foreach(r->value, key, value) {
        if (!strcmp(key, "execute") ||
            (!strcmp(key, "exec-oob") && r->session->oob)) {
            if (!take_name(key, value, name, errp)) {
                return false;
            }
            r->oob = key[4] == '-';
        } else if (!strcmp(key, "arguments")) {
            if (!json_is_object(value)) {
                error_set(errp,
                          "QMP input member 'arguments' must be an object");
                return false;
            }
            r->arguments = value;
        } else if (strcmp(key, "id")) {
            error_set(errp, "QMP input member '%s' is unexpected", key);
            return false;
        }
    }
    if (!*name) {
        error_set(errp, "QMP input lacks member 'execute'");
        return false;
    }
    return true;
}

static bool check_negotiation(const struct session *s, const char *name,
                              struct error **errp)
{
    bool negotiates = !strcmp(name, "qmp_capabilities");

    if (!s->negotiated && !negotiates) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                        "Expecting capabilities negotiation with "
                        "'qmp_capabilities'");
        return false;
    }
    return true;
}

/* Find out what R wants, and if it may. */
static bool check_request(struct request *r, struct error **errp)
{
    const char *name = NULL;

    if (r->error) {
        error_set(errp, "%s", r->error);
        return false;
    }
    if (!check_members(r, &name, errp) ||
        !check_negotiation(r->session, name, errp)) {
        return false;
    }
    r->command = qapi_command_find(name);
    if (!r->command || !persona_has_command(name)) {
        not_there_refuse(name, errp);
        return false;
    }
    if (r->oob && !(r->command->flags & QAPI_CMD_ALLOW_OOB)) {
        error_set(errp, "The command %s does not support OOB", name);
        return false;
    }
    return true;
}

/* ---- replies ------------------------------------------------------------ */

/* A file name in an error's text need not be UTF-8. */
static json_t *make_text(const char *text)
{
    json_t *string = json_string(text);
    g_autofree char *valid = NULL;

    if (!string) {
        valid = g_utf8_make_valid(text, -1);
        string = json_string(valid);
    }
    return string;
}

/* What programs can know of ERR, if there is anything. */
static void add_error_data(json_t *to, const struct error *err)
{
    g_autoptr(ErrorData) data = error_to_qapi(err);

    if (data) {
        json_object_set_new_nocheck(to, "data", ErrorData_to_json(data));
    }
}

/* Value RET (taken) or ERR (borrowed), with the request's id. */
static void reply(struct request *r, json_t *ret, const struct error *err)
{
    json_t *message = json_object();
    json_t *id = json_object_get(r->value, "id");

    if (err) {
        ret = json_object();
        json_object_set_new_nocheck(ret, "class",
            json_string_nocheck(error_class_name(error_get_class(err))));
        json_object_set_new_nocheck(ret, "desc",
                                    make_text(error_text(err)));
        if (r->session->error_data) {
            add_error_data(ret, err);
        }
    }
    json_object_set_new_nocheck(message, err ? "error" : "return", ret);
    if (id) {
        json_object_set_nocheck(message, "id", id);
    }
    session_reply(r->session, message);
    json_decref(message);
}

/* ---- running ------------------------------------------------------------ */

/* Run R's command and reply. */
static void execute(struct request *r)
{
    struct session *outer = current_session;
    json_t *ret = NULL;
    AUTO_ERROR(err);

    trace(QMP, "command name=%s session=%d", r->command->name,
          r->session->number);
    current_session = r->session;
    if (r->command->run(r->arguments, &ret, &err)) {
        g_assert(ret && !err);
        if (r->command->flags & QAPI_CMD_NO_SUCCESS_RESPONSE) {
            json_decref(ret);
        } else {
            reply(r, ret, NULL);
        }
    } else {
        g_assert(!ret && err);
        reply(r, NULL, err);
    }
    current_session = outer;
}

static void execute_in_worker(void *arg)
{
    struct request *r = arg;

    CONTROL_GUARD();
    execute(r);
    n_running--;
    control_notify();
    if (r->oob) {
        r->session->n_oob--;
    } else {
        r->session->busy = false;
    }
    session_continue_later(r->session);
    session_unref(r->session);
    request_free(r);
}

/* R (taken) has its turn. */
static void run(struct request *r)
{
    AUTO_ERROR(err);

    session_pass_fd(r->session, r->fd);
    r->fd = -1;
    if (!check_request(r, &err)) {
        reply(r, NULL, err);
        request_free(r);
        return;
    }
    if (!(r->command->flags & QAPI_CMD_BLOCKING)) {
        execute(r);
        request_free(r);
        return;
    }
    session_ref(r->session);
    if (r->oob) {
        r->session->n_oob++;
    } else {
        r->session->busy = true;
    }
    n_running++;
    pool_submit(execute_in_worker, r);
}

/* ---- turns -------------------------------------------------------------- */

static bool is_out_of_band(const struct session *s, const json_t *value)
{
    return s->oob && json_object_get(value, "exec-oob") &&
        !json_object_get(value, "execute");
}

static void enqueue(struct session *s, struct request *r)
{
    struct request **tail = &s->queue;

    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = r;
    s->n_queued++;
}

static void take_request(struct session *s, json_t *value, char *error)
{
    struct request *r = g_new0(struct request, 1);

    r->session = s;
    r->value = value;
    r->error = error;
    r->fd = session_take_arrived_fd(s);
    if ((!s->busy && !s->queue) || is_out_of_band(s, value)) {
        run(r);
    } else {
        enqueue(s, r);
    }
}

void dispatch_value(struct session *s, json_t *value)
{
    take_request(s, value, NULL);
}

void dispatch_error(struct session *s, char *text)
{
    take_request(s, NULL, text);
}

void dispatch_continue(struct session *s)
{
    while (s->queue && !s->busy && !s->closed && !shutdown_has_begun()) {
        struct request *r = s->queue;

        s->queue = r->next;
        s->n_queued--;
        run(r);
    }
}

void dispatch_drop_queue(struct session *s)
{
    struct request *r;

    while ((r = s->queue)) {
        s->queue = r->next;
        s->n_queued--;
        request_free(r);
    }
}
