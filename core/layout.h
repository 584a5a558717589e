/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Where things are in a segment: computing, writing and validating its header and channel directory.
 *
 * DOC: Placement
 *
 * The ABI fixes offsets in the header, not their values. A segment written by this code is
 *
 *   0            header
 *   member_off   member table
 *   channel_off  channel directory
 *   mailbox_off  mailboxes, page-aligned
 *   pool_off     the pool, page-aligned; its first pages hold the ring control blocks of the channels, two
 *                for each directory entry, and in a group after them the entries of the links' ends, two for
 *                each (an extent like any other to the allocator)
 *
 * A group has one channel for every two VMs, in the order (1, 2), (1, 3) ... (2, 3) ... A reader takes a
 * ring's ctl_off from the channel's entry and a link's ends_off from LINK_OPEN, never from the placement.
 * Pure functions: no allocation, no shared state. shunt_layout_check() works on a private copy of the header.
 */
#ifndef SHUNT_CORE_LAYOUT_H
#define SHUNT_CORE_LAYOUT_H

#include <linux/errno.h>
#include <shunt/abi/segment.h>

struct shunt_layout {
	__u64 size;
	__u32 kind;		/* enum shunt_abi_kind */
	__u32 members;		/* including shuntd */
	__u32 channels;		/* directory entries */
	__u32 member_off;
	__u32 channel_off;
	__u32 mailbox_off;
	__u64 pool_off;
	__u64 pool_size;
	__u64 ctl_size;		/* bytes of control blocks and ends at the pool's start, an extent; not set by check */
	__u64 segment_id;	/* set by check and init */
	__u32 epoch;		/* set by check and init */
	__u32 version;		/* set by check: the version to use */
};

/*
 * 0, -EINVAL (kind, member count, channel count, or a size that is no power of two), -ENOSPC (size too
 * small to leave a pool).
 */
int shunt_layout_compute(__u32 kind, __u64 size, __u32 members, __u32 channels, struct shunt_layout *ret);

/* Write the header of a zeroed (or scrubbed) segment; the magic appears last. */
void shunt_layout_init(struct shunt_layout *l, void *base, __u64 segment_id, __u32 epoch);

/*
 * The directory entry for channel @n with two rings of @ring_size bytes, placed in the pool one after
 * the other for equal sizes, aligned as the extent allocator wants it. -EINVAL, -ENOSPC.
 */
int shunt_layout_channel(const struct shunt_layout *l, __u32 n, __u16 type, __u16 index, __u16 vector,
			 __u64 ring_size, struct shunt_abi_channel *ret);

/*
 * Validate a private copy of a header against the size really mapped. 0, -EPROTO (nonsense),
 * -EPROTONOSUPPORT (no common version). *ret untouched on failure.
 */
int shunt_layout_check(const struct shunt_abi_segment *copy, __u64 mapped_size, struct shunt_layout *ret);

/* Validate a private copy of a channel entry against a checked layout. 0 or -EPROTO. */
int shunt_layout_check_channel(const struct shunt_layout *l, const struct shunt_abi_channel *copy);

/* Number of channels of a group with @members, shuntd included: one for every two VMs. */
static inline __u32 shunt_layout_group_channels(__u32 members)
{
	return (members - 1) * (members - 2) / 2;
}

/* Channel of the group members @a and @b, 1 <= a < b < members. */
static inline __u32 shunt_layout_group_channel(__u32 members, __u32 a, __u32 b)
{
	return (a - 1) * (2 * (members - 1) - a) / 2 + b - a - 1;
}

/* Where the ends of channel @n's link publish their states, in a group: struct shunt_abi_member [2]. */
static inline __u64 shunt_layout_ends(const struct shunt_layout *l, __u32 n)
{
	return l->pool_off + l->channels * 2ull * sizeof(struct shunt_abi_ring) +
	       n * 2ull * sizeof(struct shunt_abi_member);
}

static inline struct shunt_abi_member *shunt_layout_member(const struct shunt_layout *l, void *base, __u32 id)
{
	return (struct shunt_abi_member *)((__u8 *)base + l->member_off) + id;
}

static inline struct shunt_abi_channel *shunt_layout_entry(const struct shunt_layout *l, void *base, __u32 n)
{
	return (struct shunt_abi_channel *)((__u8 *)base + l->channel_off) + n;
}

/* @id: 1 .. members - 1; shuntd has no mailbox with itself. */
static inline struct shunt_abi_mailbox *shunt_layout_mailbox(const struct shunt_layout *l, void *base, __u32 id)
{
	return (struct shunt_abi_mailbox *)((__u8 *)base + l->mailbox_off) + (id - 1);
}

#endif
