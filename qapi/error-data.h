/* SPDX-License-Identifier: MIT */
/* What is known about an error, as QMP tells it to who asks. */
#pragma once

#include "base/error.h"
#include "qapi-types.h"

/* Owned by the caller; NULL if ERR is NULL or there is nothing but its text. */
ErrorData *error_to_qapi(const struct error *err);
