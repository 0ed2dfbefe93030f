/* SPDX-License-Identifier: MIT */
/* Types of devices and the values of their properties. */
#include "server/machine/device-types.h"

#include <string.h>
#include "base/error.h"
#include "qapi/qapi.h"

/* The property NAME of TYPE set to VALUE (taken): as JSON text, or the error
 * behind "!". */
static char *parse(const char *type, const char *name, json_t *value)
{
    const struct device_type *t = device_type_find(type);
    const struct device_prop *p = device_type_prop(t, name);
    AUTO_ERROR(err);
    json_t *parsed;
    char *text;

    g_assert_nonnull(p);
    parsed = device_prop_parse(p, t->name, value, &err);
    json_decref(value);
    g_assert_true((parsed == NULL) == (err != NULL));
    text = parsed ? qapi_json_dump(parsed, false, NULL)
        : g_strdup_printf("!%s", error_text(err));
    json_decref(parsed);
    return text;
}

static void check(const char *type, const char *name, json_t *value,
                  const char *wanted)
{
    g_autofree char *text = parse(type, name, value);

    g_assert_cmpstr(text, ==, wanted);
}

static void test_scalars(void)
{
    static const char *const on[] = { "on", "yes", "true", "y" };
    static const char *const off[] = { "off", "no", "false", "n" };

    for (size_t i = 0; i < G_N_ELEMENTS(on); i++) {
        check("scsi-hd", "share-rw", json_string(on[i]), "true");
        check("scsi-hd", "share-rw", json_string(off[i]), "false");
    }
    check("scsi-hd", "share-rw", json_true(), "true");
    check("scsi-hd", "share-rw", json_integer(1),
          "!Parameter 'share-rw' expects 'on' or 'off'");
    check("scsi-hd", "rerror", json_string("stop"), "\"stop\"");
    check("scsi-hd", "rerror", json_string(""),
          "!Parameter 'rerror' does not accept value ''");
    check("scsi-hd", "serial", json_integer(5), "\"5\"");
    check("scsi-hd", "serial", json_object(),
          "!Invalid parameter type for 'serial', expected: string");
    check("scsi-hd", "serial", json_null(),
          "!Invalid parameter type for 'serial', expected: string");
}

static void test_integers(void)
{
    const char *wide = "!Parameter 'wwn' expects uint64";
    const char *narrow = "!Parameter 'rotation_rate' expects uint16_t";

    check("scsi-hd", "lun", json_string("0x10"), "16");
    check("scsi-hd", "lun", json_integer(-1),
          "!Parameter 'lun' expects uint32_t");
    check("scsi-hd", "lun", json_string("4294967296"),
          "!Parameter 'lun' expects uint32_t");
    check("scsi-hd", "lun", json_string("1x"),
          "!Parameter 'lun' expects integer");
    check("scsi-hd", "lun", json_string(""),
          "!Parameter 'lun' expects integer");
    check("scsi-hd", "wwn", json_string("18446744073709551615"),
          "18446744073709551615");
    check("scsi-hd", "wwn", qapi_json_uint64(UINT64_MAX),
          "18446744073709551615");
    check("scsi-hd", "wwn", json_string("18446744073709551616"), wide);
    check("scsi-hd", "wwn", json_string("-1"), wide);
    check("scsi-hd", "rotation_rate", json_integer(65536), narrow);
    check("scsi-hd", "bootindex", json_integer(-1), "-1");
    check("scsi-hd", "bootindex", json_string("-2147483649"),
          "!Parameter 'bootindex' expects int32_t");
}

static void test_sizes(void)
{
    check("scsi-hd", "opt_io_size", json_string("64k"), "65536");
    check("scsi-hd", "opt_io_size", json_string("15E"),
          "17293822569102704640");
    check("scsi-hd", "opt_io_size", json_string("16E"),
          "!Parameter 'opt_io_size' expects size");
    check("scsi-hd", "opt_io_size", json_string("1kk"),
          "!Parameter 'opt_io_size' expects size");
    check("scsi-hd", "opt_io_size", json_string("-1"),
          "!Parameter 'opt_io_size' expects size");
    check("scsi-hd", "logical_block_size", json_integer(4096), "4096");
    check("scsi-hd", "logical_block_size", json_integer(0), "0");
    check("scsi-hd", "logical_block_size", json_integer(513),
          "!Property .logical_block_size doesn't take value '513', it's not "
          "a power of 2");
    check("scsi-hd", "logical_block_size", json_integer(4 << 20),
          "!Property .logical_block_size doesn't take value 4194304 "
          "(minimum: 512, maximum: 2097152)");
}

static void test_addresses(void)
{
    check("virtio-blk", "addr", json_string("0x2"), "16");
    check("virtio-blk", "addr", json_string("1f.7"), "255");
    check("virtio-blk", "addr", json_string("02.0"), "16");
    check("virtio-blk", "addr", json_string("20"),
          "!Property 'virtio-blk-pci.addr' doesn't take value '20'");
    check("virtio-blk", "addr", json_string("1.8"),
          "!Property 'virtio-blk-pci.addr' doesn't take value '1.8'");
    check("virtio-blk", "addr", json_string("1.0x"),
          "!Property 'virtio-blk-pci.addr' doesn't take value '1.0x'");
    check("virtio-blk", "addr", json_string(""),
          "!Property 'virtio-blk-pci.addr' doesn't take value ''");
}

static void check_text(const char *type, const char *name, json_t *value,
                       const char *wanted)
{
    const struct device_prop *p =
        device_type_prop(device_type_find(type), name);
    g_autofree char *text = device_prop_text(p, value);

    g_assert_cmpstr(text, ==, wanted);
    json_decref(value);
}

static void test_texts(void)
{
    check_text("scsi-hd", "discard_granularity", json_integer(4294967295),
               "4294967295 (4 GiB)");
    check_text("scsi-hd", "opt_io_size", json_integer(0), "0 (0 B)");
    check_text("scsi-hd", "opt_io_size", json_integer(1000000),
               "1000000 (977 KiB)");
    check_text("scsi-hd", "lun", json_integer(16), "16 (0x10)");
    check_text("scsi-hd", "vendor", json_string("QEMU"), "\"QEMU\"");
    check_text("scsi-hd", "removable", json_false(), "false");
    check_text("virtio-blk", "addr", json_integer(17), "02.1");
}

/* Every table is well formed: what a property is by itself is what it can be
 * told. */
static void test_tables(void)
{
    for (const struct device_type *t = device_type_next(NULL); t;
         t = device_type_next(t)) {
        const struct device_prop *const *tables[] = {
            t->props, t->inner_props,
        };

        g_assert_nonnull(t->parent);
        g_assert_true(device_type_find(t->name) == t);
        g_assert_true((t->provides != BUS_NONE) == (t->n_buses > 0));
        for (size_t i = 0; i < 2; i++) {
            for (size_t k = 0; tables[i] && tables[i][k]; k++) {
                for (const struct device_prop *p = tables[i][k]; p->name;
                     p++) {
                    AUTO_ERROR(err);
                    json_t *value = device_prop_default(p);
                    json_t *again = p->def && strcmp(p->name, "addr")
                        ? device_prop_parse(p, t->name, value, &err) : NULL;

                    g_assert_null(err);
                    g_assert_true(!again || json_equal(value, again));
                    json_decref(value);
                    json_decref(again);
                }
            }
        }
    }
}

static void test_names(void)
{
    const struct device_type *net = device_type_find("virtio-net-pci");

    g_assert_true(device_type_find("virtio-blk") ==
                  device_type_find("virtio-blk-pci"));
    g_assert_null(device_type_find("virtio-blk-"));
    g_assert_null(device_type_find(""));
    g_assert_true(device_type_takes(net, "mac"));
    g_assert_true(device_type_takes(net, "multifunction"));
    g_assert_true(device_type_takes(net, "disable-legacy"));
    g_assert_false(device_type_takes(net, "ma"));
    g_assert_false(device_type_takes(net, "mac gso"));
    g_assert_false(device_type_takes(net, ""));
    g_assert_false(device_type_takes(net, " "));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device-props/scalars", test_scalars);
    g_test_add_func("/device-props/integers", test_integers);
    g_test_add_func("/device-props/sizes", test_sizes);
    g_test_add_func("/device-props/addresses", test_addresses);
    g_test_add_func("/device-props/texts", test_texts);
    g_test_add_func("/device-props/tables", test_tables);
    g_test_add_func("/device-props/names", test_names);
    return g_test_run();
}
