/* SPDX-License-Identifier: MIT */
/* Formats known by name only: see foreign-format.h. */
#include "block/foreign-format.h"

#include <string.h>

/* TEXT at OFFSET tells of the format. */
struct signature {
    const char *format;
    size_t offset;
    const char *text;
    size_t length;
};

#define SIGNATURE(format, offset, text) \
    { format, offset, text, sizeof(text) - 1 }

static const struct signature signatures[] = {
    SIGNATURE("bochs", 0, "Bochs Virtual HD Image"),
    SIGNATURE("cloop", 0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop "),
    SIGNATURE("luks", 0, "LUKS\xba\xbe"),
    SIGNATURE("parallels", 0, "WithoutFreeSpace"),
    SIGNATURE("parallels", 0, "WithouFreSpacExt"),
    SIGNATURE("qcow", 0, "QFI\xfb\0\0\0\1"),
    SIGNATURE("qed", 0, "QED\0"),
    SIGNATURE("vdi", 64, "\x7f\x10\xda\xbe"),
    SIGNATURE("vhdx", 0, "vhdxfile"),
    SIGNATURE("vmdk", 0, "# Disk DescriptorFile"),
    SIGNATURE("vmdk", 0, "COWD"),
    SIGNATURE("vmdk", 0, "KDMV"),
    SIGNATURE("vpc", 0, "conectix"),
};

const char *foreign_format(const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < sizeof(signatures) / sizeof(*signatures); i++) {
        const struct signature *s = &signatures[i];

        if (s->offset + s->length <= len &&
            memcmp(buf + s->offset, s->text, s->length) == 0) {
            return s->format;
        }
    }
    return NULL;
}
