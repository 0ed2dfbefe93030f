/* SPDX-License-Identifier: MIT */
/*
 * Commands that QEMU has and that are not there: refused by name, with the
 * reason, so that nobody takes silence or a misspelt name for the cause.
 * They are not listed by query-commands.
 *
 * Threads  Any, no lock.
 */
#pragma once

#include "base/error.h"

/*
 * Why there is no QMP or HMP command NAME ("migrate", "savevm"): static text
 * without a full stop, "blockjobd does not migrate yet".  NULL: QEMU has no
 * such command either, as far as we know.
 */
const char *not_there_reason(const char *name);

/* "The command NAME has not been found", with the reason if there is one;
 * class CommandNotFound. */
void not_there_refuse(const char *name, struct error **errp);
