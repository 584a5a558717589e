// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Segment headers and channel entries by anybody (core/layout.c).
 *
 * Asserted: a header that is accepted describes regions inside what is mapped, in order, none overlapping
 * another; an entry that is accepted has its rings inside the pool and apart; a refusal leaves the
 * result alone; and whatever compute() and channel() make is accepted by the checks.
 */
#include <errno.h>

#include "core/layout.h"
#include "input.h"

static void check_header(const struct shunt_layout *l, uint64_t mapped)
{
	uint64_t members = l->member_off + l->members * sizeof(struct shunt_abi_member);
	uint64_t entries = l->channel_off + l->channels * sizeof(struct shunt_abi_channel);
	uint64_t boxes = l->mailbox_off + (l->members - 1) * sizeof(struct shunt_abi_mailbox);

	DEMAND(l->size == mapped && !(mapped & (mapped - 1)));
	DEMAND(l->members >= 2 && l->members <= SHUNT_ABI_MEMBERS_MAX && l->channels <= SHUNT_ABI_CHANNELS_MAX);
	DEMAND(l->member_off >= sizeof(struct shunt_abi_segment) && members <= l->channel_off);
	DEMAND(entries <= l->mailbox_off && boxes <= l->pool_off);
	DEMAND(l->pool_size && l->pool_off + l->pool_size <= mapped && l->pool_off < mapped);
	DEMAND(!((l->member_off | l->channel_off | l->mailbox_off) % SHUNT_ABI_LINE));
	DEMAND(!((l->pool_off | l->pool_size) % SHUNT_ABI_EXTENT_MIN));
	DEMAND(l->segment_id && l->epoch && l->version == SHUNT_ABI_VERSION);
}

static _Bool apart(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a + a_size <= b || b + b_size <= a;
}

static void check_entry(const struct shunt_layout *l, const struct shunt_abi_channel *entry)
{
	uint64_t at[4], size[4];

	for (int i = 0; i < 2; i++) {
		at[2 * i] = entry->dir[i].ctl_off;
		size[2 * i] = sizeof(struct shunt_abi_ring);
		at[2 * i + 1] = entry->dir[i].ext_off;
		size[2 * i + 1] = entry->dir[i].ext_size;
		DEMAND(size[2 * i + 1] && !(size[2 * i + 1] & (size[2 * i + 1] - 1)));
		DEMAND(!(at[2 * i] % SHUNT_ABI_LINE) && !(at[2 * i + 1] % SHUNT_ABI_EXTENT_MIN));
	}
	for (int i = 0; i < 4; i++) {
		DEMAND(at[i] >= l->pool_off && size[i] <= l->pool_size &&
		       at[i] - l->pool_off <= l->pool_size - size[i]);
		for (int k = 0; k < i; k++)
			DEMAND(apart(at[i], size[i], at[k], size[k]));
	}
}

/* What is made must pass. */
static void round_trip(struct input *in)
{
	uint32_t kind = input_byte(in) % 4, members = input_byte(in) % 20, channels = input_byte(in) % 70;
	uint64_t size = input_byte(in) & 1 ? input_word(in, 4) : 1ull << input_byte(in) % 32;
	struct shunt_abi_segment header = { 0 };
	struct shunt_abi_channel entry;
	struct shunt_layout l, checked;

	if (shunt_layout_compute(kind, size, members, channels, &l))
		return;
	shunt_layout_init(&l, &header, 1 + input_word(in, 2), 1 + input_byte(in));
	DEMAND(!shunt_layout_check(&header, size, &checked));
	check_header(&checked, size);
	DEMAND(checked.pool_off == l.pool_off && checked.mailbox_off == l.mailbox_off);
	for (uint32_t n = 0; n < channels; n++)
		if (!shunt_layout_channel(&l, n, SHUNT_ABI_CHAN_PACKET, (uint16_t)n, 1, 1ull << input_byte(in) % 32,
					  &entry)) {
			DEMAND(!shunt_layout_check_channel(&checked, &entry));
			check_entry(&checked, &entry);
		}
}

/* A header as shuntd writes it, with some words changed: nearly right is what gets furthest. */
static void forge(struct input *in)
{
	struct shunt_abi_segment header = { 0 };
	struct shunt_abi_channel entry = { 0 };
	struct shunt_layout l, untouched, got;
	uint64_t mapped = 1ull << (15 + input_byte(in) % 12);
	uint32_t kind = 1 + input_byte(in) % 3;
	int r;

	memset(&untouched, 0xa5, sizeof(untouched));
	got = untouched;
	if (shunt_layout_compute(kind, mapped, kind == SHUNT_ABI_UPLINK ? 2 : 3, input_byte(in) % 65, &l))
		return;
	shunt_layout_init(&l, &header, 7, 1);
	if (l.channels)
		shunt_layout_channel(&l, 0, SHUNT_ABI_CHAN_PACKET, 0, 1, 4096, &entry);
	for (int i = input_byte(in) % 8; i > 0; i--) {
		unsigned int at = input_byte(in), bytes = 1 + (input_byte(in) & 7);
		uint64_t v = input_word(in, bytes);

		if (at < 96)
			memcpy((uint8_t *)&header + at, &v, bytes);
		else
			memcpy((uint8_t *)&entry + at % 56, &v, bytes);
	}
	r = shunt_layout_check(&header, mapped, &got);
	DEMAND(r == 0 || r == -EPROTO || r == -EPROTONOSUPPORT);
	if (r) {
		DEMAND(!memcmp(&got, &untouched, sizeof(got)));
		return;
	}
	check_header(&got, mapped);
	if (!shunt_layout_check_channel(&got, &entry))
		check_entry(&got, &entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (input_byte(&in) & 1)
		round_trip(&in);
	else
		forge(&in);
	return 0;
}
