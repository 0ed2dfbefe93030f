/* SPDX-License-Identifier: MIT */
/* qcow2's tables as bytes: refcount entries, headers, extensions, the set of
 * tables, where compressed data is. */
#include <string.h>
#include "block/qcow2/qcow2.h"

static void test_refcounts(void)
{
    for (uint32_t order = 0; order <= 6; order++) {
        uint64_t max = UINT64_MAX >> (64 - (1U << order));
        uint8_t table[512];
        int n = sizeof(table) * 8 >> order;

        memset(table, 0, sizeof(table));
        for (int i = 0; i < n; i++) {
            qcow2_refcount_store(table, i, order,
                                 (i * UINT64_C(0x123456789abcdef)) & max);
        }
        for (int i = 0; i < n; i++) {
            g_assert_cmpuint(qcow2_refcount_load(table, i, order), ==,
                             (i * UINT64_C(0x123456789abcdef)) & max);
        }
        /* A store changes its own entry only. */
        memset(table, 0xff, sizeof(table));
        qcow2_refcount_store(table, 5, order, 0);
        for (int i = 0; i < 10; i++) {
            g_assert_cmpuint(qcow2_refcount_load(table, i, order), ==,
                             i == 5 ? 0 : max);
        }
    }
}

/* The specification: bit 0 is the least significant. */
static void test_refcount_bits(void)
{
    uint8_t table[8] = { 0 };

    qcow2_refcount_store(table, 0, 0, 1);
    qcow2_refcount_store(table, 9, 0, 1);
    g_assert_cmpuint(table[0], ==, 1);
    g_assert_cmpuint(table[1], ==, 2);
    memset(table, 0, sizeof(table));
    qcow2_refcount_store(table, 1, 2, 0xa);
    g_assert_cmpuint(table[0], ==, 0xa0);
    qcow2_refcount_store(table, 1, 4, 0x1234);
    g_assert_cmpuint(table[2], ==, 0x12);
}

static void test_set(void)
{
    struct qcow2_cluster_set *set = qcow2_cluster_set_new();

    for (int64_t i = 1; i < 5000; i++) {
        qcow2_cluster_set_add(set, i * 1536 & -512, QCOW2_SET_L2);
    }
    qcow2_cluster_set_add(set, 0, QCOW2_SET_L2);
    g_assert_cmpuint(qcow2_cluster_set_test(set, 0), ==, 0);
    g_assert_cmpuint(qcow2_cluster_set_test(set, 1536), ==, QCOW2_SET_L2);
    g_assert_cmpuint(qcow2_cluster_set_test(set, 1024), ==, 0);
    qcow2_cluster_set_add(set, 1536, QCOW2_SET_REFBLOCK);
    g_assert_cmpuint(qcow2_cluster_set_test(set, 1536), ==,
                     QCOW2_SET_L2 | QCOW2_SET_REFBLOCK);
    qcow2_cluster_set_remove(set, 1536, QCOW2_SET_L2);
    g_assert_cmpuint(qcow2_cluster_set_test(set, 1536), ==,
                     QCOW2_SET_REFBLOCK);
    for (int64_t i = 2; i < 5000; i++) {
        g_assert_cmpuint(qcow2_cluster_set_test(set, i * 1536 & -512), !=, 0);
        qcow2_cluster_set_remove(set, i * 1536 & -512, QCOW2_SET_L2);
        g_assert_cmpuint(qcow2_cluster_set_test(set, i * 1536 & -512), ==, 0);
    }
    qcow2_cluster_set_remove(set, 99 * 512, QCOW2_SET_L2);  /* not in it */
    qcow2_cluster_set_free(set);
}

static void test_header(void)
{
    struct qcow2_header h = {
        .version = 3, .cluster_bits = 16, .size = 1 << 30, .l1_entries = 2,
        .l1_offset = 0x30000, .reftable_offset = 0x10000,
        .reftable_clusters = 1, .compatible = 1, .autoclear = 1,
        .refcount_order = 4, .header_bytes = 112,
    }, again;
    GPtrArray *exts = qcow2_exts_new(), *back = qcow2_exts_new();
    GByteArray *out;

    qcow2_ext_set(exts, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
    qcow2_ext_set(exts, 0x12345678, "unknown", 7);
    qcow2_ext_set_feature_names(exts);
    out = qcow2_header_compose(&h, NULL, exts, "base.img");
    g_assert_true(qcow2_header_decode(&again, out->data, NULL));
    g_assert_cmpmem(&h, sizeof(h), &again, sizeof(again));
    g_assert_cmpmem(out->data + h.backing_offset, h.backing_bytes,
                    "base.img", 8);
    g_assert_true(qcow2_exts_decode(back, out->data, h.header_bytes,
                                    h.backing_offset, NULL));
    g_assert_cmpuint(back->len, ==, 3);
    g_assert_cmpmem(qcow2_ext_find(back, 0x12345678)->data, 7, "unknown", 7);
    qcow2_ext_set(back, QCOW2_EXT_BACKING_FORMAT, NULL, 0);
    g_assert_null(qcow2_ext_find(back, QCOW2_EXT_BACKING_FORMAT));
    {
        g_autofree char *names = qcow2_feature_names(back, 0x103);
        g_assert_cmpstr(names, ==, "dirty bit, corrupt bit, Unknown "
                        "incompatible feature: 100");
    }
    /* Cut off in the middle of an extension. */
    g_assert_false(qcow2_exts_decode(back, out->data, h.header_bytes,
                                     h.header_bytes + 10, NULL));
    g_byte_array_free(out, TRUE);
    g_ptr_array_free(exts, TRUE);
    g_ptr_array_free(back, TRUE);
}

static void test_compressed(void)
{
    struct qcow2 s = { .cluster_bits = 16 };
    int64_t offset, bytes;

    /* x = 62 - (16 - 8) = 54 */
    qcow2_compressed_extent(&s, QCOW2_COMPRESSED | (UINT64_C(3) << 54) |
                            0x12345, &offset, &bytes);
    g_assert_cmpint(offset, ==, 0x12345);
    g_assert_cmpint(bytes, ==, 4 * 512 - 0x145);
    s.cluster_bits = 9;
    qcow2_compressed_extent(&s, QCOW2_COMPRESSED | (UINT64_C(1) << 61) | 512,
                            &offset, &bytes);
    g_assert_cmpint(offset, ==, 512);
    g_assert_cmpint(bytes, ==, 1024);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2-tables/refcounts", test_refcounts);
    g_test_add_func("/qcow2-tables/refcount-bits", test_refcount_bits);
    g_test_add_func("/qcow2-tables/set", test_set);
    g_test_add_func("/qcow2-tables/header", test_header);
    g_test_add_func("/qcow2-tables/compressed", test_compressed);
    return g_test_run();
}
