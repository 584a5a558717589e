// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Sealing at every point of a record's life, from either end. */
#include "rig.h"

enum point { EMPTY, RESERVED, STAGED, PUBLISHED, PEEKED, CONSUMED, RELEASED, POINTS };

/* Bring one record (after @before others) to @point, seal, and see what each end makes of it. */
static void seal_at(enum point point, int before)
{
	uint64_t final, want;
	const void *at;
	struct rig r;
	uint32_t len;
	void *to;
	int i;

	rig_up(&r, 4096);
	for (i = 0; i < before; i++) {
		rig_put(&r, 100, i);
		shunt_producer_publish(&r.p);
		rig_get(&r, 100, i);
		shunt_consumer_release(&r.c);
	}
	want = r.p.prod;
	if (point >= RESERVED)
		assert_int_equal(shunt_rec_reserve(&r.p, 100, &to), 0);
	if (point >= STAGED) {
		memset(to, 7, 100);
		shunt_rec_commit(&r.p, 100);
	}
	if (point >= PUBLISHED) {
		assert_true(shunt_producer_publish(&r.p) >= 0);
		want = r.p.prod;
	}
	if (point >= PEEKED)
		assert_int_equal(shunt_rec_peek(&r.c, &at, &len), 0);
	if (point >= CONSUMED)
		shunt_rec_consume(&r.c);
	if (point >= RELEASED)
		shunt_consumer_release(&r.c);

	final = shunt_ring_seal(r.ctl);
	assert_int_equal(final, want);
	assert_int_equal(shunt_ring_seal(r.ctl), want);

	/* the producer: whatever it stages, nothing more is published */
	if (point == RESERVED)
		shunt_rec_commit(&r.p, 100);
	if (point != STAGED && point != RESERVED)
		assert_int_equal(rig_put(&r, 1, 0), 0);	/* it cannot know yet */
	assert_int_equal(shunt_producer_publish(&r.p), -ESHUTDOWN);
	assert_int_equal(shunt_producer_publish(&r.p), -ESHUTDOWN);
	assert_int_equal(rig_put(&r, 1, 0), -ESHUTDOWN);
	assert_int_equal(r.p.head, want);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(0), r.ext[0], 4096), -ESHUTDOWN);
	assert_int_equal(r.ctl->prod, want | SEALED);

	/* the consumer: all that was published, then the end, again and again */
	if (point >= PUBLISHED && point < CONSUMED) {
		assert_int_equal(shunt_rec_peek(&r.c, &at, &len), 0);
		assert_int_equal(len, 100);
		assert_int_equal(((const uint8_t *)at)[99], 7);
		shunt_rec_consume(&r.c);
	}
	rig_empty(&r, -ESHUTDOWN);
	rig_empty(&r, -ESHUTDOWN);
	assert_true(shunt_consumer_release(&r.c) >= 0);
	assert_int_equal(r.c.cons, want);
	assert_int_equal(r.ctl->cons, want);
	assert_int_equal(shunt_producer_unread(&r.p), 0);
	rig_down(&r);
}

static void at_every_point(void **state)
{
	int point, before;

	(void)state;
	for (point = 0; point < POINTS; point++)
		for (before = 0; before < 80; before++)	/* so that SKIPs and wraps take part */
			seal_at(point, before);
}

/* A producer that finds the ring full learns of a seal instead of waiting for space for ever. */
static void full_and_sealed(void **state)
{
	struct rig r;
	__u64 len = 1;
	void *at;

	(void)state;
	rig_up(&r, 4096);
	while (!rig_put(&r, 100, 0))
		;
	shunt_producer_publish(&r.p);
	shunt_ring_seal(r.ctl);
	assert_int_equal(rig_put(&r, 2000, 0), -ESHUTDOWN);
	rig_down(&r);

	rig_up(&r, 4096);
	rig_write(&r, 5000);
	shunt_producer_publish(&r.p);
	shunt_ring_seal(r.ctl);
	assert_int_equal(shunt_bytes_reserve(&r.p, &len, &at), -ESHUTDOWN);
	assert_int_equal(rig_read(&r, 5000), 4096);
	assert_int_equal(shunt_bytes_peek(&r.c, (const void **)&at, &len), -ESHUTDOWN);
	rig_down(&r);
}

/* Bytes published before the seal are all readable after it, and the seal itself costs none. */
static void bytes_to_the_final_index(void **state)
{
	uint32_t seed = 5;
	int round;

	(void)state;
	for (round = 0; round < 500; round++) {
		uint64_t published = 0;
		struct rig r;
		int i;

		rig_up(&r, 4096);
		for (i = rand_r(&seed) % 20; i; i--) {
			rig_write(&r, rand_r(&seed) % 2000);
			if (rand_r(&seed) % 2) {
				shunt_producer_publish(&r.p);
				published = r.written;
			}
			rig_read(&r, rand_r(&seed) % 2000);
			if (rand_r(&seed) % 2)
				shunt_consumer_release(&r.c);
		}
		assert_int_equal(shunt_ring_seal(r.ctl), published);
		rig_write(&r, 1);
		assert_true(shunt_producer_publish(&r.p) == -ESHUTDOWN || r.written == published);
		rig_read(&r, 10000);
		assert_int_equal(r.read, published);
		rig_down(&r);
	}
}

static void adopting_a_sealed_ring(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	rig_put(&r, 10, 1);
	shunt_producer_publish(&r.p);
	shunt_ring_seal(r.ctl);
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[0], 4096), 0);
	assert_int_equal(rig_put(&r, 1, 0), -ESHUTDOWN);
	assert_int_equal(shunt_consumer_adopt(&r.c, r.ctl, r.ext[0], 4096), 0);
	rig_get(&r, 10, 1);
	rig_empty(&r, -ESHUTDOWN);
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(at_every_point),
		cmocka_unit_test(full_and_sealed),
		cmocka_unit_test(bytes_to_the_final_index),
		cmocka_unit_test(adopting_a_sealed_ring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
