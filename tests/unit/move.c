// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Rings that move to other extents with data in flight, and rings that are taken over. */
#include "rig.h"

static int move(struct rig *r, int ext)
{
	return shunt_producer_move(&r->p, rig_off(ext), r->ext[ext], r->ext_size[ext]);
}

static void records_across_a_move(uint64_t from, uint64_t to, uint64_t start)
{
	struct rig r;
	int in = 0, out = 0, old, big;

	rig_up_at(&r, from, start);
	big = rig_extent(&r, to);
	while (!rig_put(&r, 100, in))
		in++;
	shunt_producer_publish(&r.p);
	old = in;
	assert_int_equal(move(&r, big), 0);
	assert_false(shunt_producer_move_done(&r.p));
	assert_int_equal(move(&r, 0), -EBUSY);
	/* a full old extent leaves the new one empty: all of it may be used */
	assert_int_equal(shunt_producer_space(&r.p), to);
	while (!rig_put(&r, 50, in))
		in++;
	shunt_producer_publish(&r.p);
	assert_int_equal(move(&r, 0), -EBUSY);
	while (out < in) {
		rig_get(&r, out < old ? 100 : 50, out);
		out++;
	}
	rig_empty(&r, -EAGAIN);
	shunt_consumer_release(&r.c);
	assert_true(shunt_producer_move_done(&r.p));
	assert_ptr_equal(r.c.base, r.ext[big]);
	rig_down(&r);
}

static void records_up_and_down(void **state)
{
	uint64_t start;

	(void)state;
	for (start = 16; start < 8192; start += 16 * 37) {
		records_across_a_move(4096, 16384, start);
		records_across_a_move(16384, 4096, start);
		records_across_a_move(4096, 4096, start);
	}
}

/* The byte sequence survives moves at random moments; the reader never sees a wrong byte. */
static void bytes_random_moves(void **state)
{
	uint32_t seed = 11;
	int moved = 0, refused = 0, at = 0;
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	rig_extent(&r, 8192);
	rig_extent(&r, 65536);
	rig_extent(&r, 4096);
	while (moved < 3000) {
		rig_write(&r, rand_r(&seed) % 9000);
		shunt_producer_publish(&r.p);
		if (rand_r(&seed) % 2) {
			int to = rand_r(&seed) % 4;

			/* not into an extent that may still hold unread data */
			if (to != at && shunt_producer_move_done(&r.p)) {
				int err = move(&r, to);

				assert_true(!err || err == -EBUSY);
				if (err)
					refused++;
				else
					at = to, moved++;
			}
		}
		rig_read(&r, rand_r(&seed) % 9000);
		if (rand_r(&seed) % 2)
			shunt_consumer_release(&r.c);
	}
	assert_true(refused > 0);
	shunt_producer_publish(&r.p);
	rig_read(&r, 1 << 20);
	assert_int_equal(r.read, r.written);
	assert_false(r.c.broken);
	rig_down(&r);
}

/* An idle ring can be moved at will, and its old extent is free at once. */
static void idle_moves(void **state)
{
	struct rig r;
	int a, b;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	b = rig_extent(&r, 16384);
	assert_int_equal(move(&r, a), 0);
	assert_true(shunt_producer_move_done(&r.p));
	assert_int_equal(move(&r, b), 0);
	assert_true(shunt_producer_move_done(&r.p));
	rig_empty(&r, -EAGAIN);
	assert_int_equal(r.resolved, 0);	/* nothing published: no cause to look */
	rig_put(&r, 7000, 1);
	shunt_producer_publish(&r.p);
	assert_int_equal(move(&r, a), -EBUSY);	/* published, and perhaps the consumer is reading the lines */
	rig_get(&r, 7000, 1);
	assert_int_equal(r.resolved, 1);
	assert_int_equal(r.c.moves, 2);
	assert_int_equal(move(&r, a), -EBUSY);
	shunt_consumer_release(&r.c);
	assert_int_equal(move(&r, a), 0);
	rig_put(&r, 10, 2);
	shunt_producer_publish(&r.p);
	rig_get(&r, 10, 2);
	rig_down(&r);
}

static void refused_moves(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	rig_put(&r, 1, 1);
	assert_int_equal(move(&r, a), -EINVAL);	/* staged */
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a) + 1, r.ext[a], 8192), -EINVAL);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a), r.ext[a], 8191), -EINVAL);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a), r.ext[a], 2048), -EINVAL);
	assert_int_equal(shunt_producer_move(&r.p, rig_off(a), r.ext[a], 2ull << 30), -EINVAL);
	assert_int_equal(r.ctl->move_seq, 0);
	rig_down(&r);
}

/* A consumer that does not move (mailboxes) breaks on a move instead of following it. */
static void no_resolver(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	r.c.resolve = NULL;
	assert_int_equal(move(&r, a), 0);
	rig_put(&r, 1, 1);
	shunt_producer_publish(&r.p);
	rig_empty(&r, -EPROTO);
	rig_down(&r);
}

/* Sealed after a move: everything on both sides of it is still read. */
static void seal_after_move(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	rig_put(&r, 100, 1);
	shunt_producer_publish(&r.p);
	assert_int_equal(move(&r, a), 0);
	rig_put(&r, 3000, 2);
	shunt_producer_publish(&r.p);
	shunt_ring_seal(r.ctl);
	rig_get(&r, 100, 1);
	rig_get(&r, 3000, 2);
	rig_empty(&r, -ESHUTDOWN);
	rig_down(&r);
}

/* Both halves can be taken over at any moment between two calls; unpublished staging is lost, no more. */
static void adoption(void **state)
{
	uint32_t seed = 17, put = 0, got = 0, i;
	static uint32_t lens[512];
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	while (got < 20000) {
		for (i = rand_r(&seed) % 6; i; i--) {
			lens[put % 512] = rand_r(&seed) % 700;
			if (rig_put(&r, lens[put % 512], put))
				break;
			put++;
		}
		assert_true(shunt_producer_publish(&r.p) >= 0);
		if (rand_r(&seed) % 2) {
			rig_put(&r, 50, 999);	/* staged, never published */
			assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[0], 4096), 0);
		}
		for (i = rand_r(&seed) % 6; i && got < put; i--, got++)
			rig_get(&r, lens[got % 512], got);
		shunt_consumer_release(&r.c);
		if (rand_r(&seed) % 2)
			assert_int_equal(shunt_consumer_adopt(&r.c, r.ctl, r.ext[0], 4096), 0);
	}
	rig_down(&r);
}

static void adoption_amid_a_move(void **state)
{
	struct rig r;
	int a;

	(void)state;
	rig_up(&r, 4096);
	a = rig_extent(&r, 8192);
	rig_put(&r, 100, 1);
	shunt_producer_publish(&r.p);
	assert_int_equal(move(&r, a), 0);
	rig_put(&r, 3000, 2);
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[a], 8192), -EBUSY);
	/* the consumer starts in the old extent and follows */
	assert_int_equal(shunt_consumer_adopt(&r.c, r.ctl, r.ext[0], 4096), 0);
	r.c.resolve = rig_resolve;
	r.c.resolve_ctx = &r;
	rig_get(&r, 100, 1);
	shunt_consumer_release(&r.c);
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[a], 8192), -EBUSY);
	rig_get(&r, 3000, 2);
	shunt_consumer_release(&r.c);
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[a], 8192), 0);
	assert_int_equal(shunt_producer_space(&r.p), 8192);
	/* and a consumer beyond the move starts in the new one */
	assert_int_equal(shunt_consumer_adopt(&r.c, r.ctl, r.ext[a], 8192), 0);
	rig_put(&r, 2500, 3);
	shunt_producer_publish(&r.p);
	rig_get(&r, 2500, 3);
	rig_down(&r);
}

static void adoption_refused(void **state)
{
	const struct { uint64_t prod, cons; } bad[] = {
		{ 16, 32 }, { 4096 + 16, 0 }, { SEALED, 16 }, { 1ull << 63 | 16, 32 },
		{ (1ull << 62) + 16, 1ull << 62 }, { 0, ~0ull }, { ~0ull, ~0ull },
	};
	struct rig r;
	size_t i;

	(void)state;
	rig_up(&r, 4096);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		r.ctl->prod = bad[i].prod;
		r.ctl->cons = bad[i].cons;
		assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[0], 4096), -EPROTO);
		assert_int_equal(shunt_consumer_adopt(&r.c, r.ctl, r.ext[0], 4096), -EPROTO);
	}
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_up_and_down),
		cmocka_unit_test(bytes_random_moves),
		cmocka_unit_test(idle_moves),
		cmocka_unit_test(refused_moves),
		cmocka_unit_test(no_resolver),
		cmocka_unit_test(seal_after_move),
		cmocka_unit_test(adoption),
		cmocka_unit_test(adoption_amid_a_move),
		cmocka_unit_test(adoption_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
