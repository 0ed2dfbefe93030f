/* SPDX-License-Identifier: MIT */
/*
 * What each option does.  Each returns false with QEMU's text, without the
 * option's own, which setup.c puts before it.
 *
 * Threads  Start-up, control lock held; what opens files yields.
 */
#pragma once

#include "server/cmdline/options.h"
#include "server/cmdline/text.h"

/* ---- block.c ------------------------------------------------------------ */

bool option_blockdev(const char *text, struct error **errp);
bool option_device(const char *text, struct error **errp);
bool option_drive(const struct option *o, struct error **errp);
bool option_export(const char *text, struct error **errp);
/* -hda and its like: O's text is a file name. */
bool option_image(const struct option *o, struct error **errp);
bool option_nbd_server(const char *text, struct error **errp);
bool option_object(const char *text, struct error **errp);
/* The devices that -drive if=... asked for. */
bool add_devices_of_drives(struct error **errp);

/* ---- monitors.c --------------------------------------------------------- */

bool option_chardev(const char *text, struct error **errp);
/* Channels of -qmp, -qmp-pretty, -monitor, -serial: *ID (owned) is that of
 * the one that was made, or NULL if none is wanted. */
bool option_open_channel(const char *text, char **id, struct error **errp);
/* -mon, and --monitor as the storage daemon has it. */
bool option_mon(const char *text, struct error **errp);
/* QMP on the channel ID. */
bool option_qmp(const char *id, bool pretty, struct error **errp);
/* HMP there. */
bool option_hmp(const char *id, struct error **errp);

/* ---- machine.c ---------------------------------------------------------- */

/* -machine: they add up, and the last name counts. */
bool option_machine(const char *text, struct error **errp);
bool machine_apply(struct error **errp);
/* -accel: the first one that there is counts; what is wrong with others is
 * said on stderr. */
bool option_accel(const struct option *o, struct error **errp);
/* False: some were given, and none was right. */
bool accel_is_usable(void);
bool option_name(const char *text, struct error **errp);
bool option_uuid(const char *text, struct error **errp);
bool option_incoming(const char *text, struct error **errp);
bool option_chroot(const struct option *o, struct error **errp);
bool option_runas(const char *text, struct error **errp);
/* What -chroot, -run-with and -runas asked for: when all is open. */
bool drop_privileges(struct error **errp);
