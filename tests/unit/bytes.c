// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Byte rings: content, wrap, full, and the two kinds of half-used look. */
#include "rig.h"

static void fills_to_the_last_byte(void **state)
{
	struct rig r;
	__u64 len = 1;
	void *at;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(rig_write(&r, 10000), 4096);
	assert_int_equal(shunt_bytes_reserve(&r.p, &len, &at), -ENOSPC);
	assert_int_equal(shunt_producer_publish(&r.p), 1);
	assert_int_equal(shunt_producer_space(&r.p), 0);
	assert_int_equal(shunt_producer_unread(&r.p), 4096);
	assert_int_equal(rig_read(&r, 1), 1);
	assert_int_equal(rig_write(&r, 1), 0);
	shunt_consumer_release(&r.c);
	assert_int_equal(rig_write(&r, 2), 1);
	shunt_producer_publish(&r.p);
	assert_int_equal(rig_read(&r, 10000), 4096);
	rig_down(&r);
}

static void contiguous_parts(void **state)
{
	const void *at;
	struct rig r;
	__u64 len;
	void *to;

	(void)state;
	rig_up_at(&r, 4096, 4096 - 16);
	r.written = r.read = 0;
	len = 100;
	assert_int_equal(shunt_bytes_reserve(&r.p, &len, &to), 0);
	assert_int_equal(len, 16);
	assert_ptr_equal(to, r.ext[0] + 4080);
	assert_int_equal(rig_write(&r, 100), 100);
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_bytes_peek(&r.c, &at, &len), 0);
	assert_int_equal(len, 16);
	assert_int_equal(rig_read(&r, 100), 100);
	rig_down(&r);
}

static void a_bit_of_room_is_taken(void **state)
{
	struct rig r;
	__u64 len;
	void *at;

	(void)state;
	rig_up(&r, 4096);
	rig_write(&r, 4000);
	len = 4096;
	assert_int_equal(shunt_bytes_reserve(&r.p, &len, &at), 0);
	assert_int_equal(len, 96);
	len = 0;
	assert_int_equal(shunt_bytes_reserve(&r.p, &len, &at), -EINVAL);
	rig_down(&r);
}

static void consume_in_parts(void **state)
{
	const void *at;
	struct rig r;
	__u64 len;

	(void)state;
	rig_up(&r, 4096);
	rig_write(&r, 10);
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_bytes_peek(&r.c, &at, &len), 0);
	shunt_bytes_consume(&r.c, 11);	/* more than was shown: refused */
	assert_int_equal(r.c.cons, 0);
	shunt_bytes_consume(&r.c, 4);
	shunt_bytes_consume(&r.c, 6);
	shunt_bytes_consume(&r.c, 1);
	assert_int_equal(r.c.cons, 10);
	assert_int_equal(shunt_bytes_peek(&r.c, &at, &len), -EAGAIN);
	rig_down(&r);
}

static void random_traffic(void **state)
{
	const uint64_t total = 8 << 20;
	uint32_t seed = 3;
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	while (r.read < total) {
		rig_write(&r, rand_r(&seed) % 6000);
		assert_true(shunt_producer_publish(&r.p) >= 0);
		rig_read(&r, rand_r(&seed) % 6000);
		if (rand_r(&seed) % 2)
			assert_true(shunt_consumer_release(&r.c) >= 0);
	}
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_to_the_last_byte),
		cmocka_unit_test(contiguous_parts),
		cmocka_unit_test(a_bit_of_room_is_taken),
		cmocka_unit_test(consume_in_parts),
		cmocka_unit_test(random_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
