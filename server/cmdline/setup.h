/* SPDX-License-Identifier: MIT */
/* What the options of the command line do, and in which order. */
#pragma once

#include "base/error.h"

/*
 * Carry out OPTIONS (of struct option), except those that main() looks at
 * itself.  Control lock held; yields.  False: what is wrong has been said on
 * stderr.
 */
bool setup_options(const GArray *options);
