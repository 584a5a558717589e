// SPDX-License-Identifier: GPL-2.0-only
/* Labels: which one a VM has, and who may talk to whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/policy.h"

static struct shunt_label_rule labels[] = {
	{ .vm = "web*", .label = "dmz" },
	{ .mac = "52:54:00:00:00:0a", .label = "db" },
	{ .vm = "*9", .label = "nine" },
};
static struct shunt_allow_rule allow[] = { { { "dmz", "db" } } };
static const struct shunt_config config = {
	.default_label = "default", .labels = labels, .n_labels = 3, .allow = allow, .n_allow = 1,
};

static void test_label(void **state)
{
	const struct shunt_abi_mac nics[] = { { .addr = { 2, 0, 0, 0, 0, 1 } },
					      { .addr = { 0x52, 0x54, 0, 0, 0, 0x0a } } };

	(void)state;
	assert_string_equal(shunt_policy_label(&config, "web1", NULL, 0), "dmz");
	assert_string_equal(shunt_policy_label(&config, "web9", nics, 2), "dmz");	/* first wins */
	assert_string_equal(shunt_policy_label(&config, "x", nics, 2), "db");
	assert_string_equal(shunt_policy_label(&config, "x", nics, 1), "default");
	assert_string_equal(shunt_policy_label(&config, "x9", nics, 1), "nine");
	assert_string_equal(shunt_policy_label(&config, "myweb1", NULL, 0), "default");
}

static void test_allow(void **state)
{
	(void)state;
	assert_true(shunt_policy_allows(&config, "a", "a"));
	assert_true(shunt_policy_allows(&config, "dmz", "db"));
	assert_true(shunt_policy_allows(&config, "db", "dmz"));
	assert_false(shunt_policy_allows(&config, "db", "default"));
	assert_false(shunt_policy_allows(&config, "dm", "db"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_label),
		cmocka_unit_test(test_allow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
