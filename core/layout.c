// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Segment layout: layout.h says what goes where.
 *
 * All arithmetic is in 64 bits on values bounded first (members and channels by the ABI, offsets by
 * 32 bits), so nothing can wrap.
 */
#include "layout.h"

#define PAGE SHUNT_ABI_EXTENT_MIN

static __u64 align_up(__u64 v, __u64 to)
{
	return (v + to - 1) & ~(to - 1);
}

static _Bool is_power_of_two(__u64 v)
{
	return v && !(v & (v - 1));
}

static _Bool members_legal(__u32 kind, __u32 members)
{
	switch (kind) {
	case SHUNT_ABI_UPLINK:
		return members == 2;
	case SHUNT_ABI_PAIR:
		return members == 3;
	case SHUNT_ABI_GROUP:
		return members >= 2 && members <= SHUNT_ABI_MEMBERS_MAX;
	}
	return 0;
}

/* What the control blocks and ends take: an extent, so a power of two. */
static __u64 ctl_size(__u32 kind, __u32 channels)
{
	const __u64 ends = kind == SHUNT_ABI_GROUP ? 2 * sizeof(struct shunt_abi_member) : 0;
	const __u64 need = channels * (2 * sizeof(struct shunt_abi_ring) + ends);
	__u64 size = PAGE;

	while (size < need)
		size *= 2;
	return size;
}

/**
 * shunt_layout_compute - placement of a new segment
 * @kind: enum shunt_abi_kind
 * @size: bytes of the segment, a power of two (QEMU dies of anything else)
 * @members: including shuntd: 2 for an uplink, 3 for a pair, 2 .. 16 for a group
 * @channels: entries of the channel directory
 * @ret: the placement
 *
 * Return: 0, -EINVAL, -ENOSPC.
 */
int shunt_layout_compute(__u32 kind, __u64 size, __u32 members, __u32 channels, struct shunt_layout *ret)
{
	struct shunt_layout l = { .kind = kind, .size = size, .members = members, .channels = channels };

	if (!members_legal(kind, members) || channels > SHUNT_ABI_CHANNELS_MAX || !is_power_of_two(size))
		return -EINVAL;
	l.version = SHUNT_ABI_VERSION;
	l.member_off = sizeof(struct shunt_abi_segment);
	l.channel_off = l.member_off + members * sizeof(struct shunt_abi_member);
	l.mailbox_off = align_up(l.channel_off + channels * sizeof(struct shunt_abi_channel), PAGE);
	l.pool_off = l.mailbox_off + (members - 1) * sizeof(struct shunt_abi_mailbox);
	l.ctl_size = ctl_size(kind, channels);
	if (size < l.pool_off + l.ctl_size + PAGE)
		return -ENOSPC;
	l.pool_size = size - l.pool_off;
	*ret = l;
	return 0;
}

/**
 * shunt_layout_init - write the header of a new segment
 * @l: the placement; segment_id and epoch are set in it too
 * @base: the segment, zeroed
 * @segment_id: not zero, unique on the host
 * @epoch: not zero
 *
 * The magic is stored last (release), so that who finds it finds the rest.
 */
void shunt_layout_init(struct shunt_layout *l, void *base, __u64 segment_id, __u32 epoch)
{
	struct shunt_abi_segment *seg = base;

	l->segment_id = segment_id;
	l->epoch = epoch;
	l->version = SHUNT_ABI_VERSION;
	seg->version_min = SHUNT_ABI_VERSION;
	seg->version_max = SHUNT_ABI_VERSION;
	seg->kind = l->kind;
	seg->features = 0;
	seg->segment_id = segment_id;
	seg->size = l->size;
	seg->epoch = epoch;
	seg->members = l->members;
	seg->member_off = l->member_off;
	seg->channel_off = l->channel_off;
	seg->channels = l->channels;
	seg->mailbox_off = l->mailbox_off;
	seg->pool_off = l->pool_off;
	seg->pool_size = l->pool_size;
	__atomic_store_n(&seg->magic, SHUNT_ABI_MAGIC, __ATOMIC_RELEASE);
}

/**
 * shunt_layout_channel - a directory entry with both rings placed
 * @l: the placement
 * @n: entry number, < @l->channels
 * @type: enum shunt_abi_channel_type
 * @index: among channels of this type
 * @vector: doorbell vector
 * @ring_size: bytes of each ring, a power of two
 * @ret: the entry
 *
 * Channels of one ring size never overlap; who mixes sizes allocates extents (core/extent.h) and overwrites
 * ext_off. Mind that the control blocks take the pool's first ctl_size bytes.
 *
 * Return: 0, -EINVAL, -ENOSPC (the pool ends before the rings do).
 */
int shunt_layout_channel(const struct shunt_layout *l, __u32 n, __u16 type, __u16 index, __u16 vector,
			 __u64 ring_size, struct shunt_abi_channel *ret)
{
	struct shunt_abi_channel chan = { .type = type, .index = index, .vector = vector };
	__u64 first;
	__u32 i;

	if (n >= l->channels || !is_power_of_two(ring_size) || ring_size < SHUNT_ABI_EXTENT_MIN ||
	    ring_size > SHUNT_ABI_EXTENT_MAX)
		return -EINVAL;
	first = align_up(l->ctl_size, ring_size);
	if (first + (2 * (__u64)n + 2) * ring_size > l->pool_size)
		return -ENOSPC;
	for (i = 0; i < 2; i++) {
		chan.dir[i].ctl_off = l->pool_off + (2 * n + i) * sizeof(struct shunt_abi_ring);
		chan.dir[i].ext_off = l->pool_off + first + (2 * n + i) * ring_size;
		chan.dir[i].ext_size = ring_size;
	}
	*ret = chan;
	return 0;
}

static _Bool reserved_clear(const __u64 *words, __u32 n)
{
	__u64 any = 0;
	__u32 i;

	for (i = 0; i < n; i++)
		any |= words[i];
	return !any;
}

/* Regions in the order of the ABI, each aligned, none overlapping the next. */
static _Bool offsets_legal(const struct shunt_abi_segment *copy)
{
	__u64 member_end = copy->member_off + (__u64)copy->members * sizeof(struct shunt_abi_member);
	__u64 channel_end = copy->channel_off + (__u64)copy->channels * sizeof(struct shunt_abi_channel);
	__u64 mailbox_end = copy->mailbox_off + (copy->members - 1ull) * sizeof(struct shunt_abi_mailbox);

	if ((copy->member_off | copy->channel_off | copy->mailbox_off) & (SHUNT_ABI_LINE - 1))
		return 0;
	if (copy->member_off < sizeof(*copy) || copy->channel_off < member_end ||
	    copy->mailbox_off < channel_end || copy->pool_off < mailbox_end)
		return 0;
	if ((copy->pool_off | copy->pool_size) & (PAGE - 1) || !copy->pool_size)
		return 0;
	return copy->pool_off <= copy->size && copy->pool_size <= copy->size - copy->pool_off;
}

/**
 * shunt_layout_check - validate a header
 * @copy: private copy of the header
 * @mapped_size: bytes of the segment really mapped
 * @ret: the placement
 *
 * Feature bits are not judged: a feature one must understand raises version_min.
 *
 * Return: 0, -EPROTO, -EPROTONOSUPPORT.
 */
int shunt_layout_check(const struct shunt_abi_segment *copy, __u64 mapped_size, struct shunt_layout *ret)
{
	struct shunt_layout l = { .version = SHUNT_ABI_VERSION };

	if (copy->magic != SHUNT_ABI_MAGIC || copy->version_min > copy->version_max)
		return -EPROTO;
	if (copy->version_min > SHUNT_ABI_VERSION || copy->version_max < SHUNT_ABI_VERSION)
		return -EPROTONOSUPPORT;
	if (!copy->segment_id || !copy->epoch || copy->size != mapped_size || !is_power_of_two(copy->size))
		return -EPROTO;
	if (!members_legal(copy->kind, copy->members) || copy->channels > SHUNT_ABI_CHANNELS_MAX)
		return -EPROTO;
	if (!offsets_legal(copy) || !reserved_clear(copy->reserved, sizeof(copy->reserved) / sizeof(__u64)))
		return -EPROTO;
	l.size = copy->size;
	l.kind = copy->kind;
	l.members = copy->members;
	l.channels = copy->channels;
	l.member_off = copy->member_off;
	l.channel_off = copy->channel_off;
	l.mailbox_off = copy->mailbox_off;
	l.pool_off = copy->pool_off;
	l.pool_size = copy->pool_size;
	l.segment_id = copy->segment_id;
	l.epoch = copy->epoch;
	*ret = l;
	return 0;
}

static _Bool dir_legal(const struct shunt_layout *l, const struct shunt_abi_channel_dir *dir)
{
	__u64 pool_end = l->pool_off + l->pool_size;

	if (dir->ctl_off & (SHUNT_ABI_LINE - 1) || dir->ctl_off < l->pool_off ||
	    dir->ctl_off > pool_end - sizeof(struct shunt_abi_ring))
		return 0;
	if (!is_power_of_two(dir->ext_size) || dir->ext_size < SHUNT_ABI_EXTENT_MIN ||
	    dir->ext_size > SHUNT_ABI_EXTENT_MAX || dir->ext_size > l->pool_size)
		return 0;
	return !(dir->ext_off & (SHUNT_ABI_EXTENT_MIN - 1)) && dir->ext_off >= l->pool_off &&
	       dir->ext_off <= pool_end - dir->ext_size;
}

static _Bool disjoint(__u64 a, __u64 a_size, __u64 b, __u64 b_size)
{
	return a >= b + b_size || b >= a + a_size;
}

/**
 * shunt_layout_check_channel - validate a directory entry
 * @l: a checked layout
 * @copy: private copy of the entry
 *
 * Whether extents overlap those of *other* channels is for the allocator to say (a guest takes entries
 * from its uplink only, and its own rings hurt nobody else).
 *
 * Return: 0 or -EPROTO.
 */
int shunt_layout_check_channel(const struct shunt_layout *l, const struct shunt_abi_channel *copy)
{
	const struct shunt_abi_channel_dir *a = &copy->dir[0], *b = &copy->dir[1];
	const __u64 ctl = sizeof(struct shunt_abi_ring);

	if (copy->type < SHUNT_ABI_CHAN_PACKET || copy->type > SHUNT_ABI_CHAN_MESSAGE || copy->reserved0 ||
	    copy->reserved1)
		return -EPROTO;
	if (!dir_legal(l, a) || !dir_legal(l, b))
		return -EPROTO;
	if (!disjoint(a->ctl_off, ctl, b->ctl_off, ctl) ||
	    !disjoint(a->ext_off, a->ext_size, b->ext_off, b->ext_size))
		return -EPROTO;
	if (!disjoint(a->ctl_off, ctl, a->ext_off, a->ext_size) ||
	    !disjoint(a->ctl_off, ctl, b->ext_off, b->ext_size) ||
	    !disjoint(b->ctl_off, ctl, a->ext_off, a->ext_size) ||
	    !disjoint(b->ctl_off, ctl, b->ext_off, b->ext_size))
		return -EPROTO;
	return 0;
}
