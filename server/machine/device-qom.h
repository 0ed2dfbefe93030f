/* SPDX-License-Identifier: MIT */
/* What the machine has from its start. */
#pragma once

/* /machine and the types of devices are in the tree of objects from now on.
 * Control lock held; once. */
void device_qom_init(void);
/* And /chardevs. */
void chardev_qom_init(void);
/* The board's own devices and buses; more than once is fine. */
void device_machine_init(void);
