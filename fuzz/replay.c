/* SPDX-License-Identifier: MIT */
/* Feeds the files of a corpus folder to a fuzz target, once each: keeps the
 * targets and what they have found alive in builds without libFuzzer. */
#include <stdint.h>
#include <stdio.h>
#include <glib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    g_autoptr(GDir) dir = argc == 2 ? g_dir_open(argv[1], 0, NULL) : NULL;
    const char *name;
    int n = 0;

    if (!dir) {
        fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
        return 1;
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(argv[1], name, NULL);
        g_autofree char *data = NULL;
        gsize size;

        if (g_file_get_contents(path, &data, &size, NULL)) {
            LLVMFuzzerTestOneInput((const uint8_t *)data, size);
            n++;
        }
    }
    printf("%d inputs\n", n);
    return n == 0;      /* an empty corpus tests nothing */
}
