// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Segment layout: what is written is accepted, what is impossible is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/extent.h"
#include "core/layout.h"

#define MiB (1ull << 20)

static void kinds_and_sizes(void **state)
{
	const struct { uint32_t kind; uint64_t size; uint32_t members, channels; int want; } cases[] = {
		{ SHUNT_ABI_UPLINK, MiB, 2, 0, 0 }, { SHUNT_ABI_PAIR, 16 * MiB, 3, 1, 0 },
		{ SHUNT_ABI_PAIR, 16 * MiB, 3, 64, 0 }, { SHUNT_ABI_GROUP, 1024 * MiB, 16, 105, 0 },
		{ SHUNT_ABI_UPLINK, MiB, 3, 0, -EINVAL }, { SHUNT_ABI_PAIR, 16 * MiB, 2, 1, -EINVAL },
		{ SHUNT_ABI_GROUP, 16 * MiB, 17, 1, -EINVAL }, { SHUNT_ABI_GROUP, 16 * MiB, 1, 1, -EINVAL },
		{ 0, MiB, 2, 0, -EINVAL }, { 4, MiB, 2, 0, -EINVAL }, { SHUNT_ABI_PAIR, 16 * MiB, 3, 129, -EINVAL },
		{ SHUNT_ABI_PAIR, 16 * MiB - 4096, 3, 1, -EINVAL }, { SHUNT_ABI_PAIR, 0, 3, 1, -EINVAL },
		{ SHUNT_ABI_PAIR, 65536, 3, 1, -ENOSPC }, { SHUNT_ABI_UPLINK, 4096, 2, 0, -ENOSPC },
	};
	struct shunt_layout l;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(shunt_layout_compute(cases[i].kind, cases[i].size, cases[i].members,
						      cases[i].channels, &l), cases[i].want);
}

static struct shunt_abi_segment *fresh(struct shunt_layout *l)
{
	struct shunt_abi_segment *seg = calloc(1, 65536);

	assert_int_equal(shunt_layout_compute(SHUNT_ABI_PAIR, 16 * MiB, 3, 4, l), 0);
	shunt_layout_init(l, seg, 0x1122334455667788ull, 7);
	return seg;
}

static void written_is_accepted(void **state)
{
	struct shunt_layout l, got;
	struct shunt_abi_segment *seg = fresh(&l);

	(void)state;
	assert_memory_equal(seg, "SHUNTSEG", 8);
	assert_int_equal(shunt_layout_check(seg, 16 * MiB, &got), 0);
	l.ctl_size = 0;
	assert_memory_equal(&l, &got, sizeof(l));
	assert_int_equal(shunt_layout_check(seg, 8 * MiB, &got), -EPROTO);
	assert_int_equal(shunt_layout_check(seg, 32 * MiB, &got), -EPROTO);
	assert_ptr_equal(shunt_layout_member(&l, seg, 2), (char *)seg + 256 + 2 * 128);
	assert_ptr_equal(shunt_layout_entry(&l, seg, 1), (char *)seg + 256 + 3 * 128 + 64);
	assert_ptr_equal(shunt_layout_mailbox(&l, seg, 2), (char *)seg + 4096 + 36864);
	free(seg);
}

/* Every single field set to a value that cannot be: refused, and *ret untouched. */
static void impossible_headers(void **state)
{
	struct shunt_abi_segment *seg, good;
	struct shunt_layout l, got, same;
	size_t i;

	(void)state;
	seg = fresh(&l);
	good = *seg;
	memset(&got, 0x5a, sizeof(got));
	same = got;
#define REFUSED(field, value, want) do {						\
		*seg = good;								\
		seg->field = (value);							\
		assert_int_equal(shunt_layout_check(seg, 16 * MiB, &got), want);	\
		assert_memory_equal(&got, &same, sizeof(got));				\
	} while (0)
	REFUSED(magic, 0, -EPROTO);
	REFUSED(magic, good.magic + 1, -EPROTO);
	REFUSED(version_min, 2, -EPROTO);	/* above version_max */
	REFUSED(version_max, 0, -EPROTO);
	REFUSED(kind, 0, -EPROTO);
	REFUSED(kind, 4, -EPROTO);
	REFUSED(kind, SHUNT_ABI_UPLINK, -EPROTO);	/* has two members */
	REFUSED(segment_id, 0, -EPROTO);
	REFUSED(size, 32 * MiB, -EPROTO);
	REFUSED(size, 0, -EPROTO);
	REFUSED(epoch, 0, -EPROTO);
	REFUSED(members, 0, -EPROTO);
	REFUSED(members, 2, -EPROTO);
	REFUSED(members, 0xffffffffu, -EPROTO);
	REFUSED(channels, SHUNT_ABI_CHANNELS_MAX + 1, -EPROTO);
	REFUSED(channels, 0xffffffffu, -EPROTO);
	REFUSED(member_off, 0, -EPROTO);
	REFUSED(member_off, 192, -EPROTO);
	REFUSED(member_off, 257, -EPROTO);
	REFUSED(member_off, 0xffffffc0u, -EPROTO);
	REFUSED(channel_off, 256, -EPROTO);
	REFUSED(channel_off, good.channel_off + 32, -EPROTO);
	REFUSED(channel_off, 0xffffffc0u, -EPROTO);
	REFUSED(mailbox_off, good.channel_off, -EPROTO);
	REFUSED(mailbox_off, good.mailbox_off + 64, -EPROTO);	/* runs into the pool */
	REFUSED(mailbox_off, 0xffffffc0u, -EPROTO);
	REFUSED(pool_off, 0, -EPROTO);
	REFUSED(pool_off, good.pool_off - 4096, -EPROTO);
	REFUSED(pool_off, good.pool_off + 64, -EPROTO);
	REFUSED(pool_off, good.pool_off + 4096, -EPROTO);	/* then the pool is too long */
	REFUSED(pool_off, 16 * MiB, -EPROTO);
	REFUSED(pool_off, ~0ull << 12, -EPROTO);
	REFUSED(pool_size, 0, -EPROTO);
	REFUSED(pool_size, good.pool_size + 4096, -EPROTO);
	REFUSED(pool_size, good.pool_size - 1, -EPROTO);
	REFUSED(pool_size, ~0ull << 12, -EPROTO);
	for (i = 0; i < sizeof(good.reserved) / 8; i++)
		REFUSED(reserved[i], 1, -EPROTO);
	*seg = good;
	seg->version_min = seg->version_max = 2;
	assert_int_equal(shunt_layout_check(seg, 16 * MiB, &got), -EPROTONOSUPPORT);
	*seg = good;
	seg->version_max = 9;
	seg->features = ~0ull;	/* optional by definition */
	assert_int_equal(shunt_layout_check(seg, 16 * MiB, &got), 0);
	free(seg);
}

static void channels_fit_and_are_allocatable(void **state)
{
	struct shunt_abi_channel chan;
	struct shunt_extents e;
	struct shunt_layout l;
	uint8_t *map;
	uint32_t n, i;

	(void)state;
	assert_int_equal(shunt_layout_compute(SHUNT_ABI_PAIR, 16 * MiB, 3, 4, &l), 0);
	map = malloc(shunt_extents_map_size(l.pool_size));
	assert_int_equal(shunt_extents_init(&e, l.pool_off, l.pool_size, map), 0);
	assert_int_equal(shunt_extents_reserve(&e, l.pool_off, l.ctl_size), 0);
	for (n = 0; n < 4; n++) {
		assert_int_equal(shunt_layout_channel(&l, n, SHUNT_ABI_CHAN_PACKET, n, 1 + n, MiB, &chan), 0);
		assert_int_equal(shunt_layout_check_channel(&l, &chan), 0);
		for (i = 0; i < 2; i++)
			assert_int_equal(shunt_extents_reserve(&e, chan.dir[i].ext_off, chan.dir[i].ext_size), 0);
	}
	assert_int_equal(shunt_layout_channel(&l, 4, 1, 4, 5, MiB, &chan), -EINVAL);
	assert_int_equal(shunt_layout_channel(&l, 0, 1, 0, 1, 3 * MiB, &chan), -EINVAL);
	assert_int_equal(shunt_layout_channel(&l, 0, 1, 0, 1, 2048, &chan), -EINVAL);
	assert_int_equal(shunt_layout_channel(&l, 3, 1, 0, 1, 2 * MiB, &chan), -ENOSPC);
	assert_int_equal(shunt_layout_channel(&l, 0, 1, 0, 1, 8 * MiB, &chan), -ENOSPC);
	free(map);
}

static void impossible_channels(void **state)
{
	struct shunt_abi_channel good, chan;
	struct shunt_layout l;

	(void)state;
	assert_int_equal(shunt_layout_compute(SHUNT_ABI_PAIR, 16 * MiB, 3, 1, &l), 0);
	assert_int_equal(shunt_layout_channel(&l, 0, SHUNT_ABI_CHAN_PACKET, 0, 1, MiB, &good), 0);
#define BAD(field, value) do {								\
		chan = good;								\
		chan.field = (value);							\
		assert_int_equal(shunt_layout_check_channel(&l, &chan), -EPROTO);	\
	} while (0)
	BAD(type, 0);
	BAD(type, 4);
	BAD(reserved0, 1);
	BAD(reserved1, 1);
	BAD(dir[0].ctl_off, 0);
	BAD(dir[0].ctl_off, l.pool_off - 64);
	BAD(dir[0].ctl_off, good.dir[0].ctl_off + 8);
	BAD(dir[0].ctl_off, 16 * MiB - 192);
	BAD(dir[0].ctl_off, ~0ull << 6);
	BAD(dir[0].ctl_off, good.dir[1].ctl_off);
	BAD(dir[0].ctl_off, good.dir[1].ctl_off + 64);
	BAD(dir[0].ctl_off, good.dir[0].ext_off);
	BAD(dir[0].ctl_off, good.dir[0].ext_off - 64);
	BAD(dir[0].ctl_off, good.dir[1].ext_off + MiB - 64);
	BAD(dir[0].ext_off, l.pool_off - 4096);
	BAD(dir[0].ext_off, l.pool_off);	/* the control blocks are there */
	BAD(dir[0].ext_off, good.dir[0].ext_off + 64);
	BAD(dir[0].ext_off, good.dir[1].ext_off);
	BAD(dir[0].ext_off, good.dir[1].ext_off - MiB / 2);
	BAD(dir[0].ext_off, 16 * MiB - MiB / 2);
	BAD(dir[0].ext_off, ~0ull << 12);
	BAD(dir[1].ext_size, 0);
	BAD(dir[1].ext_size, 2048);
	BAD(dir[1].ext_size, 3 * MiB);
	BAD(dir[1].ext_size, 16 * MiB);
	BAD(dir[1].ext_size, 1ull << 63);
}

/* Every two VMs of the largest group have a channel of their own and ends of their own; nothing overlaps. */
static void group_links_are_apart(void **state)
{
	const uint32_t members = SHUNT_ABI_MEMBERS_MAX, n = shunt_layout_group_channels(members);
	struct shunt_abi_channel chan;
	struct shunt_layout l;
	struct shunt_extents e;
	uint8_t *map;
	uint32_t a, b, next = 0;

	(void)state;
	assert_int_equal(n, 105);
	assert_int_equal(shunt_layout_compute(SHUNT_ABI_GROUP, 64 * MiB, members, n, &l), 0);
	map = malloc(shunt_extents_map_size(l.pool_size));
	assert_int_equal(shunt_extents_init(&e, l.pool_off, l.pool_size, map), 0);
	assert_int_equal(shunt_extents_reserve(&e, l.pool_off, l.ctl_size), 0);
	for (a = 1; a < members; a++)
		for (b = a + 1; b < members; b++, next++) {
			assert_int_equal(shunt_layout_group_channel(members, a, b), next);
			assert_int_equal(shunt_layout_channel(&l, next, 1, 0, 1, MiB / 4, &chan), 0);
			assert_int_equal(shunt_layout_check_channel(&l, &chan), 0);
			assert_int_equal(shunt_extents_reserve(&e, chan.dir[0].ext_off, MiB / 4), 0);
			assert_int_equal(shunt_extents_reserve(&e, chan.dir[1].ext_off, MiB / 4), 0);
			assert_int_equal(shunt_layout_ends(&l, next),
					 l.pool_off + n * 512 + next * 2 * sizeof(struct shunt_abi_member));
			assert_true(shunt_layout_ends(&l, next) + 256 <= l.pool_off + l.ctl_size);
		}
	assert_int_equal(next, n);
	free(map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds_and_sizes),
		cmocka_unit_test(written_is_accepted),
		cmocka_unit_test(impossible_headers),
		cmocka_unit_test(channels_fit_and_are_allocatable),
		cmocka_unit_test(impossible_channels),
		cmocka_unit_test(group_links_are_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
