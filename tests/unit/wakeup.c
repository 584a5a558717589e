// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* Arm and notify, single-threaded: every row of the truth table. Interleavings are the model's part. */
#include "rig.h"

static void publish(struct rig *r, int want)
{
	assert_int_equal(rig_put(r, 0, 0), 0);
	assert_int_equal(shunt_producer_publish(&r->p), want);
}

static void release(struct rig *r, int want)
{
	rig_get(r, 0, 0);
	assert_int_equal(shunt_consumer_release(&r->c), want);
}

static void a_new_ring_is_armed_once(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	publish(&r, 0);
	publish(&r, 0);
	release(&r, 1);
	release(&r, 0);
	rig_down(&r);
}

static void nothing_to_say_no_doorbell(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	assert_int_equal(shunt_producer_publish(&r.p), 0);
	assert_int_equal(shunt_consumer_release(&r.c), 0);
	publish(&r, 1);	/* and the empty ones did not use up the initial arming */
	release(&r, 1);
	rig_down(&r);
}

static void consumer_arm(void **state)
{
	struct rig r;
	int i;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	assert_int_equal(shunt_consumer_arm(&r.c), 0);	/* there is something */
	rig_get(&r, 0, 0);
	shunt_consumer_release(&r.c);
	for (i = 0; i < 600; i++) {	/* over more than one turn */
		assert_int_equal(shunt_consumer_arm(&r.c), 1);
		assert_int_equal(shunt_consumer_arm(&r.c), 1);	/* again: no harm */
		publish(&r, 1);
		publish(&r, 0);
		assert_int_equal(shunt_consumer_arm(&r.c), 0);
		rig_get(&r, 0, 0);
		assert_int_equal(shunt_consumer_arm(&r.c), 0);
		rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
	}
	rig_down(&r);
}

/* A consumer that takes its wish back is not rung for, at any index; a later arm counts again. */
static void consumer_disarm(void **state)
{
	struct rig r;
	int i;

	(void)state;
	rig_up(&r, 4096);
	shunt_consumer_disarm(&r.c);	/* the arming of a new ring, too */
	for (i = 0; i < 600; i++) {
		publish(&r, 0);
		assert_int_equal(shunt_consumer_arm(&r.c), 0);
		rig_get(&r, 0, 0);
		shunt_consumer_release(&r.c);
		assert_int_equal(shunt_consumer_arm(&r.c), 1);
		shunt_consumer_disarm(&r.c);
	}
	assert_int_equal(shunt_consumer_arm(&r.c), 1);
	publish(&r, 1);
	rig_down(&r);
}

static void consumer_arm_after(void **state)
{
	struct rig r;
	int i;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	release(&r, 1);
	assert_int_equal(shunt_consumer_arm_after(&r.c, 48), 1);
	publish(&r, 0);
	publish(&r, 0);
	publish(&r, 1);	/* the 48th byte */
	publish(&r, 0);
	for (i = 0; i < 4; i++)
		rig_get(&r, 0, 0);
	shunt_consumer_release(&r.c);

	assert_int_equal(shunt_consumer_arm_after(&r.c, 48), 1);
	rig_put(&r, 0, 0);
	rig_put(&r, 0, 0);
	rig_put(&r, 0, 0);
	assert_int_equal(shunt_producer_publish(&r.p), 1);	/* covered by a batch */
	for (i = 0; i < 3; i++)
		rig_get(&r, 0, 0);
	shunt_consumer_release(&r.c);

	/* fewer than asked for are there already: sleep; as many: do not */
	publish(&r, 0);
	assert_int_equal(shunt_consumer_arm_after(&r.c, 17), 1);
	assert_int_equal(shunt_consumer_arm_after(&r.c, 16), 0);
	rig_get(&r, 0, 0);
	shunt_consumer_release(&r.c);

	/* zero is one; more than half the ring is half the ring */
	assert_int_equal(shunt_consumer_arm_after(&r.c, 0), 1);
	publish(&r, 1);
	rig_get(&r, 0, 0);
	shunt_consumer_release(&r.c);
	assert_int_equal(shunt_consumer_arm_after(&r.c, 1 << 30), 1);
	for (i = 1; i < 128; i++)
		publish(&r, 0);
	publish(&r, 1);
	rig_down(&r);
}

static void producer_arm(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	release(&r, 1);
	while (!rig_put(&r, 0, 0))
		;
	shunt_producer_publish(&r.p);
	assert_int_equal(rig_put(&r, 0, 0), -ENOSPC);
	assert_int_equal(shunt_producer_arm(&r.p), 1);
	release(&r, 1);
	release(&r, 0);
	assert_int_equal(shunt_producer_arm(&r.p), 0);	/* consumed since the last look */
	assert_int_equal(rig_put(&r, 0, 0), 0);
	assert_int_equal(rig_put(&r, 0, 0), 0);
	shunt_producer_publish(&r.p);
	assert_int_equal(rig_put(&r, 0, 0), -ENOSPC);
	assert_int_equal(shunt_producer_arm(&r.p), 1);
	rig_get(&r, 0, 0);
	rig_get(&r, 0, 0);
	assert_int_equal(shunt_consumer_release(&r.c), 1);	/* covered by a batch */
	rig_down(&r);
}

/* One doorbell for a stretch of space; never asked for more than half of what is unread. */
static void producer_arm_after(void **state)
{
	struct rig r;
	int i, n;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	release(&r, 1);
	for (n = 0; !rig_put(&r, 0, 0); n++)
		;
	shunt_producer_publish(&r.p);
	assert_int_equal(shunt_producer_arm_after(&r.p, 2048), 1);
	for (i = 0; i < 2048 / 16 - 1; i++)
		release(&r, 0);
	release(&r, 1);
	assert_int_equal(shunt_producer_arm_after(&r.p, 1), 0);	/* consumed since the last look */
	assert_true(shunt_producer_space(&r.p) > 0);
	while (shunt_producer_unread(&r.p) > 48)
		release(&r, 0);
	assert_int_equal(shunt_producer_arm_after(&r.p, 1 << 30), 1);	/* 48 unread: after 24 */
	release(&r, 0);
	release(&r, 1);
	rig_down(&r);
}

/* A sealed ring lets nobody sleep: the seal's doorbell came, and there may be no other. */
static void sealed_is_never_slept_on(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	release(&r, 1);
	shunt_ring_seal(r.ctl);
	assert_int_equal(shunt_consumer_arm(&r.c), 0);
	assert_int_equal(shunt_consumer_arm_after(&r.c, 2000), 0);
	assert_int_equal(shunt_producer_arm(&r.p), 0);
	assert_true(shunt_consumer_pending(&r.c));
	rig_empty(&r, -ESHUTDOWN);
	assert_false(shunt_consumer_pending(&r.c));	/* known by now */
	assert_int_equal(shunt_consumer_arm(&r.c), 0);
	rig_down(&r);
}

/* Who takes a ring over cannot know what its predecessor rang: the first publish checks from cons on. */
static void adopted_producer_checks_again(void **state)
{
	struct rig r;

	(void)state;
	rig_up(&r, 4096);
	publish(&r, 1);
	release(&r, 1);
	assert_int_equal(shunt_consumer_arm(&r.c), 1);
	assert_int_equal(rig_put(&r, 0, 0), 0);
	r.ctl->prod = r.p.head;	/* published, and died before the look */
	assert_int_equal(shunt_producer_adopt(&r.p, r.ctl, r.ext[0], 4096), 0);
	publish(&r, 1);
	rig_down(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_ring_is_armed_once),
		cmocka_unit_test(nothing_to_say_no_doorbell),
		cmocka_unit_test(consumer_arm),
		cmocka_unit_test(consumer_disarm),
		cmocka_unit_test(consumer_arm_after),
		cmocka_unit_test(producer_arm),
		cmocka_unit_test(producer_arm_after),
		cmocka_unit_test(sealed_is_never_slept_on),
		cmocka_unit_test(adopted_producer_checks_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
