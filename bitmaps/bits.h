/* SPDX-License-Identifier: MIT */
/*
 * Bits: a large set of granule numbers, fast to set, skip, count and merge.
 *
 * Design      One flat array of 64-bit words in anonymous mmap memory (a page
 *             never touched costs nothing), above it a summary for skipping:
 *             how many words are not zero, one number per group of 512 words
 *             (a page).  An 8 TiB disk at 64 KiB granules is 16 MiB of address
 *             space and a summary of 16 KiB.
 * Invariants  I1  A group's number is never below the count of its words that
 *                 are not zero, and equal to it when no set or clear of the
 *                 group is under way.
 *             I2  Bits at or past n_bits are zero.
 * Threads     set/clear/test/next/count may run at the same time: a bit whose
 *             bits_set() has returned is found by every later look until
 *             someone clears it (I1 by the order of the stores).  Ordering
 *             against other memory is the caller's business.  grow excludes
 *             who changes bits, not who looks; resize, swap and free exclude
 *             everybody.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bits;

/* Larger ones are refused as "no memory": setting all of one would be. */
#define BITS_MAX (INT64_C(1) << 40)

struct bits *bits_new(int64_t n_bits);      /* all clear; NULL: no memory */
/* Copies what is set at the time; NULL: no memory. */
struct bits *bits_clone(const struct bits *b);
/* Copy that is N_BITS long: cut, or grown by clear bits.  NULL: no memory. */
struct bits *bits_clone_sized(const struct bits *b, int64_t n_bits);
void bits_free(struct bits *b);             /* NULL is fine */
int64_t bits_size(const struct bits *b);    /* n_bits */

bool bits_test(const struct bits *b, int64_t bit);
/* [start, start+n); return how many changed.  Bits that are set already are
 * not written to. */
int64_t bits_set(struct bits *b, int64_t start, int64_t n);
int64_t bits_clear(struct bits *b, int64_t start, int64_t n);
int64_t bits_count(const struct bits *b, int64_t start, int64_t n);
/* Of all; costs nothing; sets and clears under way may not be counted yet. */
int64_t bits_total(const struct bits *b);
bool bits_empty(const struct bits *b);

/* First set / clear bit at or after START and before END; END if none. */
int64_t bits_next_set(const struct bits *b, int64_t start, int64_t end);
int64_t bits_next_clear(const struct bits *b, int64_t start, int64_t end);
/* First run of set bits in [start, end), at most MAX long; 0 if none. */
int64_t bits_next_run(const struct bits *b, int64_t start, int64_t end,
                      int64_t max, int64_t *run_start);

/* dst |= src in [start, start+n), which both have.  Bits that are set in src
 * meanwhile may be missing. */
void bits_merge(struct bits *dst, const struct bits *src, int64_t start,
                int64_t n);
/* New bits are clear.  False: no memory, and nothing has changed. */
bool bits_resize(struct bits *b, int64_t n_bits);
/* As that, never to a smaller size; who looks meanwhile sees what was there
 * before.  Takes more memory: bits that move leave their old place behind. */
bool bits_grow(struct bits *b, int64_t n_bits);
/* DST becomes what SRC is, size and all, and SRC what DST was; returns SRC. */
struct bits *bits_swap(struct bits *dst, struct bits *src);
/*
 * Stored form of bytes [byte, byte+len), byte a multiple of 8: bit i of the
 * set is bit i % 8 of byte i / 8.  Reading past the last word gives zeroes;
 * loading ignores what lies at or past n_bits (I2) and ors into what is there.
 */
void bits_store_bytes(const struct bits *b, int64_t byte, int64_t len,
                      uint8_t *buf);
void bits_load_bytes(struct bits *b, int64_t byte, int64_t len,
                     const uint8_t *buf);
