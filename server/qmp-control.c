/* SPDX-License-Identifier: MIT */
/* QMP: the session, the server itself, and what it can do. */
#include "base/control.h"
#include "qapi/qapi-commands.h"
#include "qapi/qapi-introspect.h"
#include "qapi/qapi-visit.h"
#include "server/dispatch.h"
#include "server/events.h"
#include "server/introspect.h"
#include "server/persona.h"
#include "server/shutdown.h"
#include "server/version.h"

#ifndef BLOCKJOBD_VERSION
#error "meson.build defines BLOCKJOBD_VERSION"
#endif

const char *version_package(void)
{
    return "blockjobd-" BLOCKJOBD_VERSION;
}

json_t *version_json(void)
{
    g_autoptr(VersionInfo) info = qmp_query_version(NULL);

    return VersionInfo_to_json(info);
}

static bool enables(const QmpCapabilitiesArgs *args, QMPCapability capability)
{
    for (size_t i = 0; args->enable && i < args->enable->n; i++) {
        if (args->enable->v[i] == capability) {
            return true;
        }
    }
    return false;
}

bool qmp_qmp_capabilities(const QmpCapabilitiesArgs *args,
                          struct error **errp)
{
    struct session *s = dispatch_session();

    if (s->negotiated) {
        error_set_class(errp, ERROR_COMMAND_NOT_FOUND,
                        "Capabilities negotiation is already complete, "
                        "command ignored");
        return false;
    }
    if (args->has_replay_from &&
        !enables(args, QMP_CAPABILITY_EVENT_SEQUENCE)) {
        error_set(errp, "Parameter 'replay-from' needs the capability "
                  "'event-sequence'");
        return false;
    }
    s->event_sequence = enables(args, QMP_CAPABILITY_EVENT_SEQUENCE);
    s->error_data = enables(args, QMP_CAPABILITY_ERROR_DATA);
    if (args->has_replay_from &&
        !events_replay(s, args->replay_from, errp)) {
        return false;
    }
    s->oob = enables(args, QMP_CAPABILITY_OOB);
    s->negotiated = true;
    return true;
}

EventHistory *qmp_query_events(const QueryEventsArgs *args,
                               struct error **errp)
{
    if (args->has_limit && args->limit < 0) {
        error_set(errp, "Parameter 'limit' expects a non-negative value");
        return NULL;
    }
    return events_list(args->has_since ? args->since : events_oldest(),
                       args->has_limit ? args->limit : INT64_MAX, errp);
}

VersionInfo *qmp_query_version(struct error **errp)
{
    VersionInfo *info = VersionInfo_new0();

    info->qemu = VersionTriple_new0();
    info->qemu->major = VERSION_MAJOR;
    info->qemu->minor = VERSION_MINOR;
    info->qemu->micro = VERSION_MICRO;
    info->package = g_strdup(version_package());
    return info;
}

CommandInfoList *qmp_query_commands(struct error **errp)
{
    CommandInfoList *list = CommandInfoList_new0();
    const struct qapi_command *commands;
    size_t n;

    commands = qapi_command_list(&n);
    for (size_t i = 0; i < n; i++) {
        CommandInfo *info;

        if (!persona_has_command(commands[i].name)) {
            continue;
        }
        info = CommandInfo_new0();
        info->name = g_strdup(commands[i].name);
        qapi_list_append(list, info);
    }
    return list;
}

json_t *qmp_query_qmp_schema(json_t *args, struct error **errp)
{
    if (!qapi_command_no_args(args, errp)) {
        return NULL;
    }
    return introspect_of_persona(qapi_introspect());
}

bool qmp_quit(struct error **errp)
{
    struct session *s = dispatch_session();

    if (s) {
        s->keep_reply = true;
    }
    shutdown_begin(SHUTDOWN_CAUSE_HOST_QMP_QUIT);
    return true;
}
