// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* The extent allocator, against a page map of who owns what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/extent.h"

#define PAGE 4096ull
#define POOL_OFF 0x13000ull

static void init(struct shunt_extents *e, uint64_t pages)
{
	uint8_t *map = malloc(shunt_extents_map_size(pages * PAGE));

	assert_non_null(map);
	assert_int_equal(shunt_extents_init(e, POOL_OFF, pages * PAGE, map), 0);
}

static void whole_and_back(void **state)
{
	struct shunt_extents e;
	__u64 off;

	(void)state;
	init(&e, 256);
	assert_int_equal(shunt_extents_largest(&e), 256 * PAGE);
	assert_int_equal(shunt_extents_alloc(&e, 256 * PAGE, &off), 0);
	assert_int_equal(off, POOL_OFF);
	assert_int_equal(shunt_extents_alloc(&e, PAGE, &off), -ENOSPC);
	assert_int_equal(shunt_extents_largest(&e), 0);
	assert_int_equal(shunt_extents_free(&e, POOL_OFF, 256 * PAGE), 0);
	assert_int_equal(shunt_extents_largest(&e), 256 * PAGE);
	free(e.map);
}

static void odd_pools(void **state)
{
	uint64_t pages, taken, big;
	struct shunt_extents e;
	__u64 off;

	(void)state;
	for (pages = 1; pages < 300; pages++) {
		init(&e, pages);
		for (big = 1; big * 2 <= pages; big *= 2)
			;
		assert_int_equal(shunt_extents_largest(&e), big * PAGE);
		for (taken = 0; !shunt_extents_alloc(&e, PAGE, &off); taken++)
			assert_true(off >= POOL_OFF && off + PAGE <= POOL_OFF + pages * PAGE);
		assert_int_equal(taken, pages);
		for (taken = 0; taken < pages; taken++)
			assert_int_equal(shunt_extents_free(&e, POOL_OFF + taken * PAGE, PAGE), 0);
		assert_int_equal(shunt_extents_largest(&e), big * PAGE);
		assert_int_equal(shunt_extents_space(&e), pages * PAGE);
		free(e.map);
	}
}

static void wrong_arguments(void **state)
{
	struct shunt_extents e;
	uint8_t map[16];
	__u64 off = 77;

	(void)state;
	assert_int_equal(shunt_extents_init(&e, 1, PAGE, map), -EINVAL);
	assert_int_equal(shunt_extents_init(&e, 0, 0, map), -EINVAL);
	assert_int_equal(shunt_extents_init(&e, 0, PAGE + 1, map), -EINVAL);
	init(&e, 16);
	assert_int_equal(shunt_extents_alloc(&e, 0, &off), -EINVAL);
	assert_int_equal(shunt_extents_alloc(&e, 3 * PAGE, &off), -EINVAL);
	assert_int_equal(shunt_extents_alloc(&e, PAGE / 2, &off), -EINVAL);
	assert_int_equal(shunt_extents_alloc(&e, 2ull << 30, &off), -EINVAL);
	assert_int_equal(shunt_extents_alloc(&e, 32 * PAGE, &off), -ENOSPC);
	assert_int_equal(off, 77);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF - PAGE, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 16 * PAGE, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + PAGE, 2 * PAGE), -EINVAL);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 1, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_reserve(&e, ~0ull << 12, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF, 32 * PAGE), -EINVAL);
	assert_int_equal(shunt_extents_free(&e, POOL_OFF, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_alloc(&e, 2 * PAGE, &off), 0);
	assert_int_equal(shunt_extents_free(&e, off, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_free(&e, off + PAGE, PAGE), -EINVAL);
	assert_int_equal(shunt_extents_free(&e, off, 4 * PAGE), -EINVAL);
	assert_int_equal(shunt_extents_free(&e, off, 2 * PAGE), 0);
	assert_int_equal(shunt_extents_free(&e, off, 2 * PAGE), -EINVAL);
	assert_int_equal(shunt_extents_largest(&e), 16 * PAGE);
	free(e.map);
}

static void reserve_for_adoption(void **state)
{
	struct shunt_extents e;
	__u64 off;

	(void)state;
	init(&e, 64);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 24 * PAGE, 8 * PAGE), 0);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 24 * PAGE, 8 * PAGE), -EEXIST);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 28 * PAGE, 4 * PAGE), -EEXIST);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF, 32 * PAGE), -EEXIST);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 31 * PAGE, PAGE), -EEXIST);
	assert_int_equal(shunt_extents_reserve(&e, POOL_OFF + 32 * PAGE, 32 * PAGE), 0);
	assert_int_equal(shunt_extents_space(&e), 24 * PAGE);
	assert_int_equal(shunt_extents_alloc(&e, 16 * PAGE, &off), 0);
	assert_int_equal(off, POOL_OFF);
	assert_int_equal(shunt_extents_alloc(&e, 8 * PAGE, &off), 0);
	assert_int_equal(off, POOL_OFF + 16 * PAGE);
	assert_int_equal(shunt_extents_space(&e), 0);
	free(e.map);
}

/* Random alloc, reserve and free: extents never overlap, the counts agree, all of it comes back. */
static void random_use(void **state)
{
	enum { PAGES = 1000, MAX = 512 };
	static uint8_t owner[PAGES];
	struct { __u64 off, size; } held[MAX];
	uint32_t seed = 31, n = 0, i, k;
	uint64_t used = 0, page, size;
	struct shunt_extents e;

	(void)state;
	init(&e, PAGES);
	for (i = 0; i < 50000; i++) {
		__u64 off;
		int err;

		size = PAGE << rand_r(&seed) % 7;
		if (n < MAX && rand_r(&seed) % 2) {
			if (rand_r(&seed) % 3) {
				err = shunt_extents_alloc(&e, size, &off);
				assert_int_equal(!err, shunt_extents_largest(&e) >= size || !err);
			} else {
				off = POOL_OFF + rand_r(&seed) % (PAGES * PAGE / size) * size;
				err = shunt_extents_reserve(&e, off, size);
				for (k = 0, page = (off - POOL_OFF) / PAGE;
				     page < (off - POOL_OFF + size) / PAGE; page++)
					k |= owner[page];
				assert_int_equal(err, k ? -EEXIST : 0);
			}
			if (err)
				continue;
			for (page = (off - POOL_OFF) / PAGE; page < (off - POOL_OFF + size) / PAGE; page++) {
				assert_true(page < PAGES);
				assert_int_equal(owner[page], 0);
				owner[page] = 1;
			}
			held[n].off = off;
			held[n++].size = size;
			used += size;
		} else if (n) {
			k = rand_r(&seed) % n;
			assert_int_equal(shunt_extents_free(&e, held[k].off, held[k].size), 0);
			memset(owner + (held[k].off - POOL_OFF) / PAGE, 0, held[k].size / PAGE);
			used -= held[k].size;
			held[k] = held[--n];
		}
		assert_int_equal(shunt_extents_space(&e), PAGES * PAGE - used);
	}
	while (n--)
		assert_int_equal(shunt_extents_free(&e, held[n].off, held[n].size), 0);
	assert_int_equal(shunt_extents_largest(&e), 512 * PAGE);
	free(e.map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_and_back),
		cmocka_unit_test(odd_pools),
		cmocka_unit_test(wrong_arguments),
		cmocka_unit_test(reserve_for_adoption),
		cmocka_unit_test(random_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
