/* SPDX-License-Identifier: MIT */
/*
 * Inactive nodes: images that are open here and belong to somebody else.
 *
 * Problem     An image is handed from one program to another (a migration)
 *             while both have it open.  Who has it must be able to change all
 *             of it; who does not have it may only look, and must believe
 *             nothing that it looked at once it has it.
 * Answer      A node is active or inactive.  An inactive one takes no lock
 *             but to read, shares all, writes nothing, keeps nothing in
 *             memory that would have to be written, and marks nothing in the
 *             file as in use.  To inactivate a node is to write all there is
 *             and let go; to activate it is to take the locks and to read
 *             everything again.
 * Invariants  I1  What is above an inactive node is inactive (an active node
 *                 may be below an inactive one).
 *             I2  Links from an inactive node hold PERM_CONSISTENT_READ at
 *                 most and share all.
 *             I3  A root on an inactive node holds nothing if its owner lives
 *                 with that (root_ops.may_be_inactive); what it wants it has
 *                 again when the node is active.  Meanwhile it reads, and
 *                 writes fail with -EPERM.  Other roots that would write
 *                 cannot be there.
 *             I4  Between driver->inactivate() and the change to inactive,
 *                 and between the change to active and the end of
 *                 driver->activate(), the node is drained and n_busy: nobody
 *                 sees it.
 *             I5  A command activates or inactivates all that it is about or
 *                 nothing.
 * Order       Parents are inactivated before children (they write to them),
 *             children activated before parents (they read them).
 * Threads     Control lock held; yields unless it says otherwise.
 */
#pragma once

#include <stdbool.h>
#include "base/error.h"

struct node;

bool node_is_inactive(const struct node *n);    /* does not yield */
/* "Permission 'write' unavailable on inactive node"; does not yield. */
bool node_check_active(const struct node *n, struct error **errp);

/* N and all that is below it. */
bool node_activate(struct node *n, struct error **errp);
/* N and what is below it that nobody else has active.  Refused if an active
 * node is above, or a root that needs it to be active. */
bool node_inactivate(struct node *n, struct error **errp);

/* All nodes there are: when the machine runs (cont), and when it has moved. */
bool nodes_activate_all(struct error **errp);
bool nodes_inactivate_all(struct error **errp);

/* Does the machine run?  A device that runs needs its node to be active.
 * Neither yields. */
void inactive_set_running(bool running);
bool inactive_machine_runs(void);

/* -incoming: nodes are opened inactive unless their options say otherwise.
 * Neither yields. */
void inactive_set_default(bool inactive);
bool inactive_is_default(void);
