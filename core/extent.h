/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Extents: a buddy allocator over a segment's pool.
 *
 * Its metadata is private to who allocates (shuntd): one byte for each SHUNT_ABI_EXTENT_MIN of pool, given
 * by the caller; the pool itself is never touched, so nothing a guest writes can mislead it. Allocation
 * walks the blocks (thousands at most, and only when rings are made or moved), best fit, lowest first.
 *
 * Context: none of this sleeps or allocates; the owner locks.
 */
#ifndef SHUNT_CORE_EXTENT_H
#define SHUNT_CORE_EXTENT_H

#include <linux/errno.h>
#include <shunt/abi/ring.h>

struct shunt_extents {
	__u64 off;		/* of the pool in the segment */
	__u32 pages;		/* of SHUNT_ABI_EXTENT_MIN bytes */
	__u32 free_pages;
	__u8 *map;
};

/* Bytes of metadata for a pool of @pool_size bytes. */
__u64 shunt_extents_map_size(__u64 pool_size);

/* All free. @map: shunt_extents_map_size() bytes. -EINVAL: misaligned or empty pool. */
int shunt_extents_init(struct shunt_extents *e, __u64 pool_off, __u64 pool_size, __u8 *map);

/* An extent of @size bytes (a power of two). 0, -EINVAL, -ENOSPC. */
int shunt_extents_alloc(struct shunt_extents *e, __u64 size, __u64 *ret_off);

/* Take exactly this extent (adoption, or a fixed placement). 0, -EINVAL, -EEXIST: not wholly free. */
int shunt_extents_reserve(struct shunt_extents *e, __u64 off, __u64 size);

/* Give back what alloc or reserve gave. 0, -EINVAL: no extent of that size is allocated there. */
int shunt_extents_free(struct shunt_extents *e, __u64 off, __u64 size);

/* Bytes free in all, and the largest extent that can be had now (0: none). */
__u64 shunt_extents_space(const struct shunt_extents *e);
__u64 shunt_extents_largest(const struct shunt_extents *e);

#endif
