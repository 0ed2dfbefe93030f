/* SPDX-License-Identifier: MIT */
/* Events go to every client that has negotiated. */
#pragma once

/* Take the events of qapi/.  After loop_init(), before there are threads. */
void events_init(void);
void events_deinit(void);
