/* SPDX-License-Identifier: MIT */
/*
 * Options that change others, before any is carried out: -set, -snapshot and
 * -readconfig.
 */
#pragma once

#include "server/cmdline/options.h"

/* Carry out those of OPTIONS; -readconfig's options come in its place.
 * False with QEMU's text, the option's own before it. */
bool options_expand(GArray *options, struct error **errp);
