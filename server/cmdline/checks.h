/* SPDX-License-Identifier: MIT */
/*
 * Options of which nothing comes, checked all the same: who misspells a key
 * hears of it as from QEMU.
 */
#pragma once

#include "server/cmdline/options.h"

/* False with QEMU's text: a key that O does not have, or no value for it. */
bool option_check(const struct option *o, struct error **errp);
