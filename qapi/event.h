/* SPDX-License-Identifier: MIT */
/* For generated event code. */
#pragma once

#include <jansson.h>

/* An event as it is sent, with the time of day.  DATA is taken, or NULL. */
json_t *qapi_event_object(const char *name, json_t *data);
