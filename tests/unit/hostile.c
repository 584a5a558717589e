// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A peer that writes impossible values: the half breaks, stays broken, reads nothing outside its extent
 * (the sanitizer build watches), and ends every call in bounded time.
 */
#include <pthread.h>

#include "rig.h"

static void expect_broken(struct rig *r)
{
	const void *at;
	uint32_t len;
	__u64 n;

	assert_int_equal(shunt_rec_peek(&r->c, &at, &len), -EPROTO);
	assert_true(r->c.broken);
	/* sticky, even when the peer repents */
	memset(r->ctl, 0, sizeof(*r->ctl));
	assert_int_equal(shunt_rec_peek(&r->c, &at, &len), -EPROTO);
	assert_int_equal(shunt_bytes_peek(&r->c, &at, &n), -EPROTO);
	assert_int_equal(shunt_consumer_release(&r->c), -EPROTO);
	assert_int_equal(shunt_consumer_arm(&r->c), -EPROTO);
	assert_true(shunt_consumer_pending(&r->c));
	shunt_rec_consume(&r->c);
	for (n = 0; n < sizeof(*r->ctl) / 8; n++)
		assert_int_equal(((uint64_t *)r->ctl)[n], 0);	/* and touches nothing */
}

static void expect_broken_producer(struct rig *r)
{
	__u64 n = 1;
	void *at;

	assert_true(r->p.broken);
	memset(r->ctl, 0, sizeof(*r->ctl));
	assert_int_equal(shunt_rec_reserve(&r->p, 1, &at), -EPROTO);
	assert_int_equal(shunt_bytes_reserve(&r->p, &n, &at), -EPROTO);
	assert_int_equal(shunt_producer_publish(&r->p), -EPROTO);
	assert_int_equal(shunt_producer_space(&r->p), -EPROTO);
	assert_int_equal(shunt_producer_unread(&r->p), -EPROTO);
	assert_int_equal(shunt_producer_arm(&r->p), -EPROTO);
	assert_int_equal(shunt_producer_move(&r->p, rig_off(0), r->ext[0], 4096), -EPROTO);
	shunt_producer_move_done(&r->p);
	for (n = 0; n < sizeof(*r->ctl) / 8; n++)
		assert_int_equal(((uint64_t *)r->ctl)[n], 0);
}

static void bad_prod(void **state)
{
	/* the ring: 1600 consumed of 1616 published */
	const uint64_t bad[] = {
		0, 16, 1600, 1615, 1617, 1616 + 8, 1600 + 4096 + 16, 1ull << 40, 1ull << 62, SEALED - 16,
		SEALED, SEALED | 1600, SEALED | (1600 + 4096 + 16), ~0ull, ~0ull - 15,
	};
	struct rig r;
	size_t i;
	int n;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up(&r, 4096);
		for (n = 0; n < 101; n++)
			rig_put(&r, 0, 0), shunt_producer_publish(&r.p);
		for (n = 0; n < 100; n++)
			rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
		assert_int_equal(r.ctl->prod, 1616);
		rig_get(&r, 0, 0);
		r.ctl->prod = bad[i];
		expect_broken(&r);
		assert_false(r.c.bad_record);
		rig_down(&r);
	}
}

static void bad_cons(void **state)
{
	const uint64_t bad[] = { 0, 1599, 1616 + 16, 1ull << 40, SEALED | 1600, ~0ull };
	struct rig r;
	size_t i;
	int n;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up(&r, 4096);
		for (n = 0; n < 101; n++)
			rig_put(&r, 0, 0), shunt_producer_publish(&r.p);
		for (n = 0; n < 100; n++)
			rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
		assert_int_equal(shunt_producer_unread(&r.p), 16);
		r.ctl->cons = bad[i];
		assert_int_equal(shunt_producer_space(&r.p), -EPROTO);
		expect_broken_producer(&r);
		rig_down(&r);
	}
	/* misaligned: impossible in a record ring only */
	rig_up(&r, 4096);
	while (!rig_put(&r, 0, 0))
		;
	shunt_producer_publish(&r.p);
	r.ctl->cons = 100;
	assert_int_equal(rig_put(&r, 0, 0), -EPROTO);
	expect_broken_producer(&r);
	rig_down(&r);
	/* a restarted end's own index, from shared memory: the SKIP before the end would reach beyond it */
	rig_up(&r, 4096);
	r.ctl->prod = 4096 - 7;
	r.ctl->cons = 4096 - 16;
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[0], 4096), 0);
	assert_int_equal(rig_put(&r, 100, 0), -EPROTO);
	expect_broken_producer(&r);
	rig_down(&r);
}

/* Somebody else wrote @prod, which only the producer writes. */
static void stolen_prod(void **state)
{
	const uint64_t bad[] = { 0, 15, 32, 4096, SEALED, SEALED | 32, ~0ull };
	struct rig r;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up(&r, 4096);
		rig_put(&r, 0, 0);
		shunt_producer_publish(&r.p);
		r.ctl->prod = bad[i];
		assert_int_equal(rig_put(&r, 0, 0), 0);
		assert_int_equal(shunt_producer_publish(&r.p), -EPROTO);
		expect_broken_producer(&r);
		rig_down(&r);

		rig_up(&r, 4096);	/* and when it is only noticed because the ring is full */
		while (!rig_put(&r, 0, 0))
			;
		shunt_producer_publish(&r.p);
		r.ctl->prod = bad[i] == 4096 ? 16 : bad[i];
		assert_int_equal(rig_put(&r, 0, 0), -EPROTO);
		expect_broken_producer(&r);
		rig_down(&r);
	}
}

/* Record headers. */
struct bad_rec {
	uint64_t index;		/* where the record is */
	uint32_t published;	/* bytes from there */
	struct shunt_abi_rec rec;
};

static void bad_records(void **state)
{
	const struct bad_rec bad[] = {
		/* type */
		{ 0, 64, { 0, 0, 0, 0 } }, { 0, 64, { 16, 3, 0, 0 } }, { 0, 64, { 16, 0xffff, 0, 0 } },
		/* flags, reserved */
		{ 0, 64, { 16, 1, 1, 0 } }, { 0, 64, { 16, 1, 0x8000, 0 } }, { 0, 64, { 16, 1, 0, 1 } },
		{ 0, 64, { 16, 1, 0, 1ull << 63 } }, { 2048, 2048, { 2032, 2, 1, 0 } },
		{ 2048, 2048, { 2032, 2, 0, 1 } },
		/* beyond what was published */
		{ 0, 64, { 49, 1, 0, 0 } }, { 0, 64, { 2000, 1, 0, 0 } }, { 0, 16, { 1, 1, 0, 0 } },
		/* beyond the end of the extent */
		{ 4096 - 64, 128, { 49, 1, 0, 0 } }, { 4096 - 16, 64, { 1, 1, 0, 0 } },
		/* longer than any record, and lengths that wrap */
		{ 0, 4096, { 2017, 1, 0, 0 } }, { 0, 4096, { 4080, 1, 0, 0 } },
		{ 0, 64, { 0xffffffffu, 1, 0, 0 } }, { 0, 64, { 0xfffffff0u, 1, 0, 0 } },
		{ 0, 64, { 0xffffffe0u, 1, 0, 0 } },
		/* SKIP: at the start of an extent, not to its end, beyond it, beyond what was published */
		{ 0, 4096, { 4080, 2, 0, 0 } }, { 0, 64, { 48, 2, 0, 0 } }, { 2048, 2048, { 16, 2, 0, 0 } },
		{ 2048, 2048, { 2031, 2, 0, 0 } }, { 2048, 4096, { 2033, 2, 0, 0 } },
		{ 2048, 4096, { 4080, 2, 0, 0 } }, { 2048, 64, { 2032, 2, 0, 0 } },
		{ 2048, 4096, { 0xfffffff0u, 2, 0, 0 } },
	};
	struct rig r;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up_at(&r, 4096, bad[i].index);
		memcpy(r.ext[0] + (bad[i].index & 4095), &bad[i].rec, sizeof(bad[i].rec));
		r.ctl->prod = bad[i].index + bad[i].published;
		expect_broken(&r);
		assert_true(r.c.bad_record);
		rig_down(&r);
	}
}

/* The header is read once: changing it after peek changes nothing. */
static void header_is_read_once(void **state)
{
	struct shunt_abi_rec evil = { .len = 0xfffffff0u, .type = 99 };
	const void *at;
	struct rig r;
	uint32_t len;

	(void)state;
	rig_up(&r, 4096);
	rig_put(&r, 100, 1);
	rig_put(&r, 50, 2);
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_rec_peek(&r.c, &at, &len), 0);
	memcpy(r.ext[0], &evil, sizeof(evil));
	shunt_rec_consume(&r.c);
	assert_int_equal(r.c.cons, 128);
	rig_get(&r, 50, 2);
	rig_down(&r);
}

/* Move lines: published alongside one more record, starting from 64 consumed of 64. */
static void bad_moves(void **state)
{
	const struct { uint64_t seq, pos, off, size; } bad[] = {
		{ 1, 48, 2 << 24, 8192 },	/* before what was seen */
		{ 1, 64 + 4096 + 1, 2 << 24, 8192 },	/* beyond what the old extent can hold */
		{ 1, ~0ull, 2 << 24, 8192 }, { 1, SEALED, 2 << 24, 8192 },
		{ 1, 64, 2 << 24, 8191 }, { 1, 64, 2 << 24, 0 }, { 1, 64, 2 << 24, ~0ull },
		{ 1, 64, 2 << 24, 2048 }, { 1, 64, 2 << 24, 2ull << 30 }, { 1, 64, 2 << 24, 1ull << 63 },
		{ 1, 64, 0, 8192 }, { 1, 64, (2 << 24) + 1, 8192 }, { 1, 64, ~0ull << 12, 8192 },
		{ 1, 64, 2 << 24, 4096 },	/* granted, but not of this size */
		{ 1, 64, 3 << 24, 8192 },	/* never granted */
		{ 1, 72, 2 << 24, 8192 },	/* misaligned for records */
	};
	struct rig r;
	size_t i;
	int n;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up(&r, 4096);
		rig_extent(&r, 8192);
		for (n = 0; n < 4; n++)
			rig_put(&r, 0, 0), shunt_producer_publish(&r.p);
		for (n = 0; n < 4; n++)
			rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
		rig_put(&r, 0, 0);
		r.ctl->move_pos = bad[i].pos;
		r.ctl->move_off = bad[i].off;
		r.ctl->move_size = bad[i].size;
		r.ctl->move_seq = bad[i].seq;
		r.ctl->prod = 80;
		expect_broken(&r);
		rig_down(&r);
	}
}

/* What is no extent at all is not even asked for. */
static void illegal_extents_are_not_resolved(void **state)
{
	const struct { uint64_t off, size; } bad[] = {
		{ 2 << 24, 8191 }, { 2 << 24, 0 }, { 2 << 24, ~0ull }, { 2 << 24, 2048 }, { 2 << 24, 2ull << 30 },
		{ 2 << 24, 1ull << 63 }, { (2 << 24) + 1, 8192 }, { 2048, 4096 },
	};
	struct rig r;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig_up(&r, 4096);
		rig_put(&r, 0, 0);
		r.ctl->move_off = bad[i].off;
		r.ctl->move_size = bad[i].size;
		r.ctl->move_seq = 1;
		shunt_producer_publish(&r.p);
		expect_broken(&r);
		assert_int_equal(r.resolved, 0);
		rig_down(&r);
	}
}

/* A move's number that goes back, and a second move before the first was reached. */
static void bad_move_order(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a), r.ext[a], 8192), 0);
	rig_put(&r, 0, 0);
	shunt_producer_publish(&r.p);
	rig_get(&r, 0, 0);
	r.ctl->move_seq = 0;
	r.ctl->prod += 16;
	expect_broken(&r);
	rig_down(&r);

	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	r.ctl->move_pos = 32;
	r.ctl->move_off = rig_off(a);
	r.ctl->move_size = 8192;
	r.ctl->move_seq = 1;
	rig_put(&r, 0, 0);
	shunt_producer_publish(&r.p);
	rig_get(&r, 0, 0);	/* knows the move to come */
	r.ctl->move_seq = 2;
	r.ctl->move_pos = 48;
	rig_put(&r, 0, 0);
	shunt_producer_publish(&r.p);
	expect_broken(&r);
	rig_down(&r);
}

/* More unread than the new extent holds. */
static void overfull_after_move(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 8192);
	a = rig_extent(&r, 4096);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a), r.ext[a], 4096), 0);
	r.ctl->prod = 4096 + 16;
	expect_broken(&r);
	rig_down(&r);
}

/* Events are the peer's own business: any value is survived, and the next arming works again. */
static void any_event(void **state)
{
	const uint64_t any[] = { 0, 1, 15, 16, 17, 4096, SEALED, SEALED - 1, ~0ull };
	struct rig r;
	size_t i;

	(void)state;
	rig_up(&r, 4096);
	for (i = 0; i < sizeof(any) / sizeof(any[0]); i++) {
		r.ctl->data_event = any[i];
		r.ctl->space_event = any[i];
		rig_put(&r, 0, 0);
		assert_true(shunt_producer_publish(&r.p) >= 0);
		rig_get(&r, 0, 0);
		assert_true(shunt_consumer_release(&r.c) >= 0);
		assert_int_equal(shunt_consumer_arm(&r.c), 1);
		rig_put(&r, 0, 0);
		assert_int_equal(shunt_producer_publish(&r.p), 1);
		rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
	}
	rig_down(&r);
}

/*
 * Random values everywhere, before every call: no crash, no hang, what is peeked lies in an extent.
 * SKIPs in particular must not keep a peek busy.
 */
static void random_scribbling(void **state)
{
	const uint64_t magic[] = { 0, 1, 16, 2048, 4096, 8192, SEALED, ~0ull, 2 << 24, 1 << 24, 4080 };
	uint32_t seed = 23, round, i, n;
	uint64_t progress = 0;

	(void)state;
	for (round = 0; round < 20000; round++) {
		struct rig r;
		const uint8_t *base;
		const void *at;
		uint32_t len;
		__u64 blen;

		rig_up(&r, 4096);
		rig_extent(&r, 8192);
		for (i = 0; i < 4096; i += 16)
			if (rand_r(&seed) % 4 == 0)
				memcpy(r.ext[0] + i, &(struct shunt_abi_rec){
					.len = rand_r(&seed) % 3 ? rand_r(&seed) % 64u : 4096 - i - 16,
					.type = rand_r(&seed) % 3, }, 16);
		for (i = 0; i < 20 && !r.c.broken; i++) {
			n = rand_r(&seed) % 4;
			while (n--)
				((uint64_t *)r.ctl)[rand_r(&seed) % 32] =
					magic[rand_r(&seed) % 11] + (rand_r(&seed) % 3 ? 0 : rand_r(&seed) % 64 * 16);
			if (rand_r(&seed) % 2)
				r.ctl->prod = r.c.prod + rand_r(&seed) % 8 * 16;
			if (round % 2) {
				if (!shunt_rec_peek(&r.c, &at, &len)) {
					base = r.c.base;
					assert_true((const uint8_t *)at >= base);
					assert_true((const uint8_t *)at + len <= base + r.c.size);
					shunt_rec_consume(&r.c);
					progress++;
				}
			} else if (!shunt_bytes_peek(&r.c, &at, &blen)) {
				base = r.c.base;
				assert_true((const uint8_t *)at >= base);
				assert_true((const uint8_t *)at + blen <= base + r.c.size);
				shunt_bytes_consume(&r.c, blen);
				progress++;
			}
			shunt_consumer_release(&r.c);
			shunt_consumer_arm(&r.c);
		}
		rig_down(&r);
	}
	assert_true(progress > 1000);	/* the scribbler is not so wild that nothing is ever tested */
}

/* A thread that changes everything all the time while the victim runs: bounded calls, no stray access. */
struct scribbler {
	struct rig *r;
	int stop;
};

static void *scribble(void *arg)
{
	struct scribbler *s = arg;
	uint64_t *words = (uint64_t *)s->r->ctl, *data = (uint64_t *)s->r->ext[0], v;
	uint32_t seed = 29;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		v = __atomic_load_n(&s->r->ctl->prod, __ATOMIC_RELAXED);
		__atomic_store_n(&s->r->ctl->prod, v + 16, __ATOMIC_RELAXED);
		__atomic_store_n(&words[rand_r(&seed) % 32], v + rand_r(&seed) % 64, __ATOMIC_RELAXED);
		v = (rand_r(&seed) % 128) | (uint64_t)(rand_r(&seed) % 3) << 32;
		__atomic_store_n(&data[rand_r(&seed) % 512], v, __ATOMIC_RELAXED);
		__atomic_store_n(&data[rand_r(&seed) % 512], 0, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void concurrent_scribbling(void **state)
{
	struct scribbler s = { 0 };
	pthread_t thread;
	struct rig r;
	int round, i;

	(void)state;
	rig_up(&r, 4096);
	s.r = &r;
	assert_int_equal(pthread_create(&thread, NULL, scribble, &s), 0);
	for (round = 0; round < 20000; round++) {
		const void *at;
		uint32_t len;

		/* both halves afresh: a broken one would do nothing */
		shunt_consumer_init(&r.c, r.ctl, r.ext[0], 4096);
		shunt_producer_init(&r.p, r.ctl, r.ext[0], 4096);
		r.p.prod = r.p.head = __atomic_load_n(&r.ctl->prod, __ATOMIC_RELAXED) & 0xffff0;
		for (i = 0; i < 8; i++) {
			if (!shunt_rec_peek(&r.c, &at, &len)) {
				assert_in_range((uintptr_t)at, (uintptr_t)r.ext[0], (uintptr_t)r.ext[0] + 4096 - len);
				shunt_rec_consume(&r.c);
			}
			shunt_consumer_release(&r.c);
			rig_put(&r, 8, 0);
			shunt_producer_publish(&r.p);
			shunt_producer_arm(&r.p);
		}
		shunt_ring_seal(r.ctl);
	}
	__atomic_store_n(&s.stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_prod),
		cmocka_unit_test(bad_cons),
		cmocka_unit_test(stolen_prod),
		cmocka_unit_test(bad_records),
		cmocka_unit_test(header_is_read_once),
		cmocka_unit_test(bad_moves),
		cmocka_unit_test(illegal_extents_are_not_resolved),
		cmocka_unit_test(bad_move_order),
		cmocka_unit_test(overfull_after_move),
		cmocka_unit_test(any_event),
		cmocka_unit_test(random_scribbling),
		cmocka_unit_test(concurrent_scribbling),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
