/* SPDX-License-Identifier: MIT */
/*
 * What is said of the machine on the command line and told when asked.
 *
 * Threads  Control lock held.
 */
#pragma once

#include "base/error.h"

/* -name; copied. */
void machine_set_guest_name(const char *name);
/* -uuid; false if it is none. */
bool machine_set_uuid(const char *text, struct error **errp);
/* Never NULL: zeroes if none was given. */
const char *machine_uuid(void);
const char *machine_guest_name(void);           /* or NULL */
/* -no-shutdown (or set-action): a machine that was shut down stays. */
void machine_set_no_shutdown(bool on);
bool machine_no_shutdown(void);

/* A kind of machine, as -machine help lists them. */
struct machine_kind {
    const char *name;
    const char *alias;          /* of this one, or NULL */
    const char *description;
    const char *type;           /* in the tree of objects */
    int cpu_max;
    bool is_default;
    /* The bus on which PCI devices go; NULL: there is none. */
    const char *pci_bus;
};
/* Constant, ended by one without a name. */
extern const struct machine_kind machine_kinds[];
/* The chosen one; the default until machine_set(). */
const struct machine_kind *machine_kind_get(void);
/* The command line has been read: from now on devices are hotplugged. */
void machine_ready(void);
bool machine_is_ready(void);
