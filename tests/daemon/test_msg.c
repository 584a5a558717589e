// SPDX-License-Identifier: GPL-2.0-only
/* Validation of what guests send: each rule has a message that breaks it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/msg.h"

static struct shunt_abi_msg_hello hello(void)
{
	struct shunt_abi_msg_hello h = {
		.msg = { .type = SHUNT_ABI_MSG_HELLO },
		.version_min = 1, .version_max = 1, .generation = 7, .kernel = "6.1.0", .module = "0.1",
	};

	return h;
}

static int parse(const void *m, size_t len)
{
	union shunt_msg_up out;

	return shunt_msg_parse(m, (__u32)len, &out);
}

static void test_hello(void **state)
{
	struct shunt_abi_msg_hello h = hello();
	char longer[sizeof(h) + 64] = { 0 };

	(void)state;
	assert_int_equal(parse(&h, sizeof(h)), 0);
	memcpy(longer, &h, sizeof(h));
	assert_int_equal(parse(longer, sizeof(longer)), 0);	/* later versions may append */
	assert_int_equal(parse(&h, sizeof(h) - 1), -EPROTO);

#define BAD(change) do { h = hello(); change; assert_int_equal(parse(&h, sizeof(h)), -EPROTO); } while (0)
	BAD(h.version_min = 0);
	BAD(h.version_min = 2);
	BAD(h.generation = 0);
	BAD(h.nics = SHUNT_ABI_NICS_MAX + 1);
	BAD(h.msg.reserved = 1);
	BAD(memset(h.kernel, 'x', sizeof(h.kernel)));
	BAD(memset(h.module, 'x', sizeof(h.module)));
	BAD(strcpy(h.kernel, "6.1\033[2J"));
	BAD(strcpy(h.module, "\xff"));
#undef BAD
}

static void test_link_state(void **state)
{
	const struct shunt_abi_msg_link_state good = {
		.msg = { .type = SHUNT_ABI_MSG_LINK_STATE },
		.segment_id = 1, .epoch = 1, .state = SHUNT_ABI_LINK_UP,
	};
	struct shunt_abi_msg_link_state m = good;

	(void)state;
	assert_int_equal(parse(&m, sizeof(m)), 0);
#define BAD(change) do { m = good; change; assert_int_equal(parse(&m, sizeof(m)), -EPROTO); } while (0)
	BAD(m.segment_id = 0);
	BAD(m.epoch = 0);
	BAD(m.state = SHUNT_ABI_LINK_BROKEN + 1);
	BAD(m.reason = SHUNT_ABI_R_MAX);
	BAD(m.peer_member = SHUNT_ABI_MEMBERS_MAX);
#undef BAD
}

static void test_others(void **state)
{
	struct shunt_abi_msg_bye bye = { .msg = { .type = SHUNT_ABI_MSG_BYE }, .reason = SHUNT_ABI_R_MAX };
	struct shunt_abi_msg_want want = { .msg = { .type = SHUNT_ABI_MSG_WANT } };
	struct shunt_abi_msg_stats stats = { .msg = { .type = SHUNT_ABI_MSG_STATS } };
	struct shunt_abi_msg future = { .type = 99 };
	struct shunt_abi_msg down = { .type = SHUNT_ABI_MSG_WELCOME };

	(void)state;
	assert_int_equal(parse(&bye, sizeof(bye)), -EPROTO);
	assert_int_equal(parse(&want, sizeof(want)), -EPROTO);
	assert_int_equal(parse(&stats, sizeof(stats)), -EPROTO);
	assert_int_equal(parse(&future, sizeof(future)), -ENOMSG);
	assert_int_equal(parse(&down, sizeof(down)), -ENOMSG);
	assert_int_equal(parse(&future, 4), -EPROTO);
	assert_int_equal(parse(&future, 0), -EPROTO);
	assert_int_equal(parse(&future, SHUNT_ABI_MSG_MAX + 1), -EPROTO);
}

/* Random bytes under every type: never a crash, and nothing out of range comes through. */
static void test_random(void **state)
{
	unsigned char raw[SHUNT_ABI_MSG_MAX];
	union shunt_msg_up m;

	(void)state;
	srandom(1);
	for (int n = 0; n < 200000; n++) {
		__u32 len = (__u32)random() % sizeof(raw);

		for (size_t i = 0; i < sizeof(raw); i++)
			raw[i] = random() & 3 ? 0 : (unsigned char)random();
		raw[0] = (unsigned char)(random() % 8);
		raw[1] = raw[2] = raw[3] = 0;
		if (shunt_msg_parse(raw, len, &m))
			continue;
		if (m.msg.type == SHUNT_ABI_MSG_LINK_STATE)
			assert_true(m.link_state.state <= SHUNT_ABI_LINK_BROKEN &&
				    m.link_state.reason < SHUNT_ABI_R_MAX);
		if (m.msg.type == SHUNT_ABI_MSG_HELLO)
			assert_true(m.hello.nics <= SHUNT_ABI_NICS_MAX && strnlen(m.hello.kernel, 64) < 64);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello),
		cmocka_unit_test(test_link_state),
		cmocka_unit_test(test_others),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
