/* SPDX-License-Identifier: MIT */
/* The object that an event is on the wire. */
#include <glib.h>

#include "qapi/event.h"

json_t *qapi_event_object(const char *name, json_t *data)
{
    const int64_t now_us = g_get_real_time();
    json_t *event = json_object();
    json_t *timestamp = json_object();

    json_object_set_new(timestamp, "seconds",
                        json_integer(now_us / G_USEC_PER_SEC));
    json_object_set_new(timestamp, "microseconds",
                        json_integer(now_us % G_USEC_PER_SEC));
    json_object_set_new(event, "timestamp", timestamp);
    json_object_set_new(event, "event", json_string(name));
    if (data) {
        json_object_set_new(event, "data", data);
    }
    return event;
}
