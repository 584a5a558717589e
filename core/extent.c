// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The buddy allocator of extent.h (Knuth, The Art of Computer Programming 1, 2.5: the buddy system).
 *
 * map[page] of the first page of a block is its order, with USED when it is allocated; of other pages
 * INSIDE. Blocks are aligned to their size relative to the pool's start and cover the pool without gaps;
 * a pool that is no power of two starts as a descending run of free blocks.
 */
#include "extent.h"

#define ORDER_MAX 18u		/* SHUNT_ABI_EXTENT_MAX */
#define USED 0x40u
#define INSIDE 0x80u
#define NONE 0xffffffffu

SHUNT_ABI_ASSERT((__u64)SHUNT_ABI_EXTENT_MIN << ORDER_MAX == SHUNT_ABI_EXTENT_MAX, "orders");

static __u32 block_pages(const struct shunt_extents *e, __u32 page)
{
	return 1u << (e->map[page] & ~USED);
}

/* Order of @size, or NONE where it is no legal extent. */
static __u32 order_of(__u64 size)
{
	__u32 order;

	for (order = 0; order <= ORDER_MAX; order++)
		if (size == (__u64)SHUNT_ABI_EXTENT_MIN << order)
			return order;
	return NONE;
}

/**
 * shunt_extents_map_size - bytes of metadata needed
 * @pool_size: bytes of the pool
 */
__u64 shunt_extents_map_size(__u64 pool_size)
{
	return pool_size / SHUNT_ABI_EXTENT_MIN;
}

/**
 * shunt_extents_init - a pool with everything free
 * @e: the allocator
 * @pool_off: segment offset of the pool
 * @pool_size: its bytes, a multiple of SHUNT_ABI_EXTENT_MIN
 * @map: shunt_extents_map_size() bytes of private memory
 *
 * Return: 0 or -EINVAL.
 */
int shunt_extents_init(struct shunt_extents *e, __u64 pool_off, __u64 pool_size, __u8 *map)
{
	__u32 page, order;

	if (!pool_size || (pool_off | pool_size) & (SHUNT_ABI_EXTENT_MIN - 1) ||
	    pool_size / SHUNT_ABI_EXTENT_MIN > 1u << 30)
		return -EINVAL;
	e->off = pool_off;
	e->pages = pool_size / SHUNT_ABI_EXTENT_MIN;
	e->free_pages = e->pages;
	e->map = map;
	__builtin_memset(map, INSIDE, e->pages);
	for (page = 0; page < e->pages; page += 1u << order) {
		order = ORDER_MAX;
		while (page & ((1u << order) - 1) || 1u << order > e->pages - page)
			order--;
		map[page] = order;
	}
	return 0;
}

/* Halve the free block at @page until its first part has @order; the part that holds @want is kept. */
static __u32 split(struct shunt_extents *e, __u32 page, __u32 order, __u32 want)
{
	__u32 half, now;

	for (now = e->map[page]; now > order; now--) {
		half = page + (1u << (now - 1));
		e->map[page] = now - 1;
		e->map[half] = now - 1;
		if (want >= half)
			page = half;
	}
	return page;
}

static void take(struct shunt_extents *e, __u32 page)
{
	e->free_pages -= block_pages(e, page);
	e->map[page] |= USED;
}

/**
 * shunt_extents_alloc - an extent
 * @e: the allocator
 * @size: bytes, a power of two within the ABI's limits
 * @ret_off: its segment offset
 *
 * Return: 0, -EINVAL, -ENOSPC.
 */
int shunt_extents_alloc(struct shunt_extents *e, __u64 size, __u64 *ret_off)
{
	__u32 order = order_of(size), best = NONE, page;

	if (order == NONE)
		return -EINVAL;
	for (page = 0; page < e->pages; page += block_pages(e, page)) {
		if (e->map[page] & USED || e->map[page] < order)
			continue;
		if (best == NONE || e->map[page] < e->map[best])
			best = page;
	}
	if (best == NONE)
		return -ENOSPC;
	page = split(e, best, order, best);
	take(e, page);
	*ret_off = e->off + (__u64)page * SHUNT_ABI_EXTENT_MIN;
	return 0;
}

/* The page of a legal extent of this pool, or NONE. */
static __u32 page_of(const struct shunt_extents *e, __u64 off, __u32 order)
{
	__u64 page = (off - e->off) / SHUNT_ABI_EXTENT_MIN;

	if (order == NONE || off < e->off || (off - e->off) & (((__u64)SHUNT_ABI_EXTENT_MIN << order) - 1))
		return NONE;
	if (page >= e->pages || 1u << order > e->pages - page)
		return NONE;
	return page;
}

/**
 * shunt_extents_reserve - take one particular extent
 * @e: the allocator
 * @off: its segment offset, aligned to @size relative to the pool
 * @size: bytes, a power of two
 *
 * Return: 0, -EINVAL, -EEXIST.
 */
int shunt_extents_reserve(struct shunt_extents *e, __u64 off, __u64 size)
{
	__u32 order = order_of(size);
	__u32 want = page_of(e, off, order);
	__u32 page = want;

	if (want == NONE)
		return -EINVAL;
	while (e->map[page] & INSIDE)	/* page 0 always starts a block */
		page--;
	if (e->map[page] & USED || e->map[page] < order)
		return -EEXIST;
	take(e, split(e, page, order, want));
	return 0;
}

/**
 * shunt_extents_free - give an extent back
 * @e: the allocator
 * @off: its segment offset
 * @size: its bytes
 *
 * Return: 0 or -EINVAL (nothing changed).
 */
int shunt_extents_free(struct shunt_extents *e, __u64 off, __u64 size)
{
	__u32 order = order_of(size);
	__u32 page = page_of(e, off, order);
	__u32 buddy, upper;

	if (page == NONE || e->map[page] != (USED | order))
		return -EINVAL;
	e->free_pages += 1u << order;
	e->map[page] = order;
	for (; order < ORDER_MAX; order++) {
		buddy = page ^ (1u << order);
		if (buddy >= e->pages || e->map[buddy] != order)
			break;
		upper = page > buddy ? page : buddy;
		page &= ~(1u << order);
		e->map[upper] = INSIDE;
		e->map[page] = order + 1;
	}
	return 0;
}

/**
 * shunt_extents_space - bytes free
 * @e: the allocator
 */
__u64 shunt_extents_space(const struct shunt_extents *e)
{
	return (__u64)e->free_pages * SHUNT_ABI_EXTENT_MIN;
}

/**
 * shunt_extents_largest - bytes of the largest extent that can be had now; 0: none
 * @e: the allocator
 */
__u64 shunt_extents_largest(const struct shunt_extents *e)
{
	__u32 page, most = 0;

	for (page = 0; page < e->pages; page += block_pages(e, page))
		if (!(e->map[page] & USED) && block_pages(e, page) > most)
			most = block_pages(e, page);
	return (__u64)most * SHUNT_ABI_EXTENT_MIN;
}
