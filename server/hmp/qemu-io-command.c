/* SPDX-License-Identifier: MIT */
/* HMP's qemu-io: see qemu-io.h. */
#include "server/hmp/command.h"
#include "server/hmp/qemu-io.h"

void hmp_qemu_io(struct hmp *m, const struct hmp_args *a)
{
    struct error *err = NULL;

    qemu_io_run(hmp_arg_text(a, "device"), hmp_arg_flag(a, "qdev"),
                hmp_arg_text(a, "command"), m->out, &err);
    hmp_error(m, err);
}
