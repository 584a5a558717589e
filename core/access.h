/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * How core/ touches shared memory: every access to a control block or a record header goes through
 * one of these, so that it happens exactly once and with the ordering its edge asks for.
 *
 * The full barriers of the wake-up protocol (edges E4 and E5) are written as sequentially consistent
 * accesses, not as free-standing fences: on x86 the compare-exchange or exchange that publishes is
 * the barrier already, the C11 model gives the store-then-load order when all four accesses are
 * seq_cst, and the thread sanitizer understands them (it does not model fences).
 */
#ifndef SHUNT_CORE_ACCESS_H
#define SHUNT_CORE_ACCESS_H

#include "ring.h"

#define SHUNT_LIKELY(x) __builtin_expect(!!(x), 1)
#define SHUNT_UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline __u64 shunt_load_once(const __u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline __u64 shunt_load_acquire(const __u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline __u64 shunt_load_full(const __u64 *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static inline void shunt_store_once(__u64 *p, __u64 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELAXED);
}

static inline void shunt_store_release(__u64 *p, __u64 v)
{
	__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* Store and full barrier in one. */
static inline void shunt_store_full(__u64 *p, __u64 v)
{
	(void)__atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}

/* Compare-exchange and full barrier; returns what was found. One instruction or a bounded LL/SC. */
static inline __u64 shunt_cmpxchg_full(__u64 *p, __u64 old, __u64 new)
{
	(void)__atomic_compare_exchange_n(p, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return old;
}

/* Is @event in [@from, @to)? An end that asked for @event is woken by the step that covers it. */
static inline _Bool shunt_event_hit(__u64 event, __u64 from, __u64 to)
{
	return event - from < to - from;
}

static inline __u64 shunt_rec_align(__u64 len)
{
	return (len + SHUNT_ABI_REC_ALIGN - 1) & ~(__u64)(SHUNT_ABI_REC_ALIGN - 1);
}

static inline _Bool shunt_extent_legal(__u64 off, __u64 size)
{
	return size >= SHUNT_ABI_EXTENT_MIN && size <= SHUNT_ABI_EXTENT_MAX && !(size & (size - 1)) &&
	       !(off & (SHUNT_ABI_EXTENT_MIN - 1));
}

/* Adopted indices must leave room to count on below SEALED; an honest ring never gets near. */
#define SHUNT_INDEX_MAX (1ull << 62)

/*
 * A record header is two words, little-endian as the whole ABI:
 * word 0 = len | type << 32 | flags << 48, word 1 = reserved.
 */
static inline __u64 shunt_rec_word(__u32 len, __u16 type)
{
	return len | (__u64)type << 32;
}

static inline void shunt_rec_write(__u8 *at, __u32 len, __u16 type)
{
	shunt_store_once((__u64 *)at, shunt_rec_word(len, type));
	shunt_store_once((__u64 *)at + 1, 0);
}

#endif
