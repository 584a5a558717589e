// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Record rings: content, wrap, SKIP, full, sizes. */
#include "rig.h"

static void one_of_each_size(void **state)
{
	struct rig r;
	uint32_t len;

	(void)state;
	rig_up(&r, 4096);
	for (len = 0; len <= shunt_rec_max(4096); len++) {
		assert_int_equal(rig_put(&r, len, len), 0);
		assert_true(shunt_producer_publish(&r.p) >= 0);
		rig_get(&r, len, len);
		assert_true(shunt_consumer_release(&r.c) >= 0);
	}
	rig_empty(&r, -EAGAIN);
	assert_int_equal(shunt_producer_unread(&r.p), 0);
	rig_down(&r);
}

static void too_long(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(shunt_rec_max(4096), 2048 - 32);
	assert_int_equal(rig_put(&r, 2048 - 31, 0), -EMSGSIZE);
	assert_int_equal(rig_put(&r, 0xffffffffu, 0), -EMSGSIZE);
	assert_int_equal(r.p.head, 0);
	rig_down(&r);
}

/* The largest record fits into an empty ring wherever the index stands. */
static void largest_fits_at_every_index(void **state)
{
	uint64_t index;
	struct rig r;

	(void)state;
	for (index = 0; index < 2 * 4096; index += 16) {
		rig_up_at(&r, 4096, index);
		assert_int_equal(rig_put(&r, shunt_rec_max(4096), index), 0);
		assert_true(shunt_producer_publish(&r.p) >= 0);
		rig_get(&r, shunt_rec_max(4096), index);
		assert_int_equal(r.c.cons, r.p.prod);
		rig_down(&r);
	}
}

static void staged_is_invisible_until_published(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(rig_put(&r, 100, 1), 0);
	assert_int_equal(rig_put(&r, 200, 2), 0);
	rig_empty(&r, -EAGAIN);
	assert_false(shunt_consumer_pending(&r.c));
	assert_int_equal(shunt_producer_publish(&r.p), 1);
	assert_true(shunt_consumer_pending(&r.c));
	rig_get(&r, 100, 1);
	rig_get(&r, 200, 2);
	rig_empty(&r, -EAGAIN);
	rig_down(&r);
}

static void taken_is_not_free_until_released(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	while (!rig_put(&r, 112, 7))
		;
	assert_int_equal(r.p.head, 4096);
	shunt_producer_publish(&r.p);
	rig_get(&r, 112, 7);
	assert_int_equal(rig_put(&r, 112, 7), -ENOSPC);
	assert_int_equal(shunt_producer_space(&r.p), 0);
	shunt_consumer_release(&r.c);
	assert_int_equal(shunt_producer_space(&r.p), 128);
	assert_int_equal(rig_put(&r, 113, 7), -ENOSPC);
	assert_int_equal(rig_put(&r, 112, 7), 0);
	rig_down(&r);
}

/* A record that needs SKIP and more than is free: nothing is staged, and it goes once there is room. */
static void skip_needs_room_too(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(rig_put(&r, 2000, 1), 0);	/* 0 .. 2016 */
	assert_int_equal(rig_put(&r, 1000, 2), 0);	/* .. 3040 */
	shunt_producer_publish(&r.p);
	/* 1056 to the end, 1056 free: 1200 bytes need SKIP 1056 + 1216 */
	assert_int_equal(rig_put(&r, 1200, 3), -ENOSPC);
	assert_int_equal(r.p.head, r.p.prod);
	rig_get(&r, 2000, 1);
	shunt_consumer_release(&r.c);
	assert_int_equal(rig_put(&r, 1200, 3), 0);
	shunt_producer_publish(&r.p);
	assert_int_equal(r.p.prod, 4096 + 1216);
	rig_get(&r, 1000, 2);
	rig_get(&r, 1200, 3);
	rig_down(&r);
}

/* A record that ends exactly at the end of the extent needs no SKIP; the smallest SKIP is a header. */
static void exact_end_and_smallest_skip(void **state)
{
	struct rig r;

	(void)state;
	rig_up_at(&r, 4096, 4096 - 128);
	assert_int_equal(rig_put(&r, 112, 1), 0);
	shunt_producer_publish(&r.p);
	assert_int_equal(r.p.prod, 4096);
	rig_get(&r, 112, 1);
	rig_down(&r);

	rig_up_at(&r, 4096, 4096 - 16);
	assert_int_equal(rig_put(&r, 1, 1), 0);
	shunt_producer_publish(&r.p);
	assert_int_equal(r.p.prod, 4096 + 32);
	rig_get(&r, 1, 1);
	assert_int_equal(r.c.cons, r.p.prod);
	rig_down(&r);
}

/* A reserve that is never committed may leave a lone SKIP behind; both ends cope. */
static void abandoned_reserve(void **state)
{
	struct rig r;
	void *at;

	(void)state;
	rig_up_at(&r, 4096, 4096 - 64);
	assert_int_equal(shunt_rec_reserve(&r.p, 500, &at), 0);
	shunt_producer_publish(&r.p);
	assert_int_equal(r.p.prod, 4096);
	shunt_rec_commit(&r.p, 500);	/* too late: what publish dropped cannot be committed */
	assert_int_equal(r.p.head, 4096);
	rig_empty(&r, -EAGAIN);
	assert_int_equal(r.c.cons, 4096);
	assert_true(shunt_consumer_release(&r.c) >= 0);
	assert_int_equal(shunt_producer_space(&r.p), 4096);
	assert_int_equal(rig_put(&r, 500, 9), 0);
	shunt_producer_publish(&r.p);
	rig_get(&r, 500, 9);
	rig_down(&r);
}

static void commit_less_never_more(void **state)
{
	struct rig r;
	void *at;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(shunt_rec_reserve(&r.p, 500, &at), 0);
	memset(at, rig_byte(0), 1);
	shunt_rec_commit(&r.p, 1);
	assert_int_equal(r.p.head, 32);
	shunt_rec_commit(&r.p, 1);	/* nothing reserved */
	assert_int_equal(r.p.head, 32);
	assert_int_equal(shunt_rec_reserve(&r.p, 16, &at), 0);
	shunt_rec_commit(&r.p, 17);
	assert_int_equal(r.p.head, 32);
	shunt_producer_publish(&r.p);
	rig_get(&r, 1, 0);
	rig_down(&r);
}

static void peek_twice_is_the_same(void **state)
{
	const void *a, *b;
	uint32_t len;
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	rig_put(&r, 10, 1);
	rig_put(&r, 20, 2);
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_rec_peek(&r.c, &a, &len), 0);
	assert_int_equal(shunt_rec_peek(&r.c, &b, &len), 0);
	assert_ptr_equal(a, b);
	assert_int_equal(len, 10);
	shunt_rec_consume(&r.c);
	shunt_rec_consume(&r.c);	/* nothing peeked: no effect */
	rig_get(&r, 20, 2);
	rig_down(&r);
}

/* Random sizes and batches against a list of what must come out, over many turns of the ring. */
static void random_traffic(void **state)
{
	enum { N = 200000, Q = 512 };
	static uint32_t lens[Q];
	uint32_t seed = 1, put = 0, got = 0, i;
	struct rig r;

	(void)state;
	rig_up(&r, 8192);
	while (got < N) {
		for (i = rand_r(&seed) % 8; i && put < N && put - got < Q; i--) {
			lens[put % Q] = rand_r(&seed) % (rand_r(&seed) % 16 ? 200 : shunt_rec_max(8192) + 1);
			if (rig_put(&r, lens[put % Q], put))
				break;
			put++;
		}
		assert_true(shunt_producer_publish(&r.p) >= 0);
		for (i = rand_r(&seed) % 8; i && got < put; i--, got++)
			rig_get(&r, lens[got % Q], got);
		if (rand_r(&seed) % 2 || got == put)
			assert_true(shunt_consumer_release(&r.c) >= 0);
		assert_true(shunt_producer_unread(&r.p) <= 8192);
	}
	rig_empty(&r, -EAGAIN);
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_of_each_size),
		cmocka_unit_test(too_long),
		cmocka_unit_test(largest_fits_at_every_index),
		cmocka_unit_test(staged_is_invisible_until_published),
		cmocka_unit_test(taken_is_not_free_until_released),
		cmocka_unit_test(skip_needs_room_too),
		cmocka_unit_test(exact_end_and_smallest_skip),
		cmocka_unit_test(abandoned_reserve),
		cmocka_unit_test(commit_less_never_more),
		cmocka_unit_test(peek_twice_is_the_same),
		cmocka_unit_test(random_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
