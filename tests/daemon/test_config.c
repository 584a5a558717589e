// SPDX-License-Identifier: GPL-2.0-only
/* shuntd.conf: what is accepted, and what an error says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/config.h"

static char path[] = "/tmp/shunt-config-XXXXXX";

static int load(const char *text, struct shunt_config **ret, char *err, size_t err_size)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	return shunt_config_load(path, ret, err, err_size);
}

static void expect_error(const char *text, int line, const char *says)
{
	struct shunt_config *c = NULL;
	char err[1024] = "", where[64];

	assert_int_equal(load(text, &c, err, sizeof(err)), -22);
	assert_null(c);
	snprintf(where, sizeof(where), "%s:%d: ", path, line);
	if (strncmp(err, where, strlen(where)) || !strstr(err, says))
		fail_msg("\"%s\" does not begin with \"%s\" and say \"%s\"", err, where, says);
}

static void test_defaults(void **state)
{
	struct shunt_config *c = NULL;
	char err[1024];

	(void)state;
	assert_int_equal(load("", &c, err, sizeof(err)), 0);
	assert_string_equal(c->runtime_dir, "/run/shunt");
	assert_string_equal(c->control_mode, "0660");
	assert_false(shunt_config_eager(c));
	assert_int_equal(c->pair_size, 16 << 20);
	assert_int_equal(c->ring_size, 512 << 10);
	assert_int_equal(c->release_timeout_ms, 5000);
	assert_int_equal(c->n_labels, 0);
	assert_string_equal(c->host_policy, "respect");
	assert_null(c->user);
	assert_string_equal(c->seccomp, "kill");
	shunt_config_free(c);
}

static void test_everything(void **state)
{
	struct shunt_config *c = NULL;
	char err[1024];

	(void)state;
	assert_int_equal(load("plug = \"eager\"; pair_size = \"32M\"; ring_size = 1048576;\n"
			      "labels = ( { vm = \"web*\"; label = \"dmz\"; },\n"
			      "           { mac = \"52:54:00:AA:bb:01\"; label = \"db\"; } );\n"
			      "host_policy = \"ignore\";\n"
			      "host_policies = ( { vm = \"web*\"; host_policy = \"respect\"; },\n"
			      "                  { vm = \"*\"; host_policy = \"ignore\"; } );\n"
			      "allow = ( (\"dmz\", \"db\") );\n", &c, err, sizeof(err)), 0);
	assert_true(shunt_config_eager(c));
	assert_int_equal(c->pair_size, 32 << 20);
	assert_int_equal(c->n_labels, 2);
	assert_string_equal(c->labels[1].mac, "52:54:00:aa:bb:01");
	assert_int_equal(c->n_allow, 1);
	assert_string_equal(c->allow[0].label[1], "db");
	assert_string_equal(c->host_policy, "ignore");
	assert_int_equal(c->n_host_policies, 2);
	assert_string_equal(c->host_policies[0].vm, "web*");
	assert_true(!c->host_policies[0].ignore && c->host_policies[1].ignore);
	shunt_config_free(c);
}

static void test_errors(void **state)
{
	(void)state;
	expect_error("plug = \"eager\";\nplugg = 1;\n", 2, "unknown key \"plugg\"; allowed: runtime_dir, ");
	expect_error("plug = \"lazy\";\n", 1, "allowed: \"eager\", \"demand\"");
	expect_error("plug = 1;\n", 1, "not a string");
	expect_error("host = \"\";\n", 1, "empty");
	expect_error("\npair_size = \"17M\";\n", 2, "not a power of two");
	expect_error("pair_size = \"16Q\";\n", 1, "no size");
	expect_error("pair_size = 1024;\n", 1, "allowed: 1048576 to 1073741824");
	expect_error("max_vms = -1;\n", 1, "negative");
	expect_error("max_vms = \"many\";\n", 1, "not a number");
	expect_error("max_bytes = \"99999999999999999999G\";\n", 1, "no size");
	expect_error("ring_size = \"8M\";\n", 0, "do not fit half of pair_size");
	expect_error("control_mode = \"rw\";\n", 0, "octal");
	expect_error("runtime_dir = \"run\";\n", 0, "absolute path");
	expect_error("seccomp = \"trap\";\n", 1, "allowed: \"kill\", \"deny\", \"log\", \"off\"");
	expect_error("user = 0;\n", 1, "not a string");
	expect_error("group = \"kvm\";\n", 0, "goes with user; allowed: user = ");
	expect_error("plug = ;\n", 1, "syntax error");
	expect_error("labels = \"x\";\n", 1, "not a list");
	expect_error("labels = ( { vm = \"a\"; } );\n", 1, "a label is a string");
	expect_error("labels = ( { label = \"a\"; } );\n", 1, "either vm or mac");
	expect_error("labels = ( { vm = \"a\"; label = \"a b\"; } );\n", 1, "without spaces");
	expect_error("labels = ( { vm = \"a\";\n labl = \"b\"; } );\n", 2, "allowed: vm, mac, label");
	expect_error("labels = ( { mac = \"52:54\"; label = \"b\"; } );\n", 1, "no MAC address");
	expect_error("allow = ( (\"a\") );\n", 1, "this one has 1");
	expect_error("allow = ( \"a\" );\n", 1, "each entry is");
	expect_error("host_policy = \"off\";\n", 1, "allowed: \"respect\", \"ignore\"");
	expect_error("host_policies = (\n{ vm = \"a\"; } );\n", 2, "each entry is");
	expect_error("host_policies = ( { vm = \"a\"; host_policy = \"no\"; } );\n", 1, "allowed: \"respect\"");
}

#define GROUP(rest) "groups = ( { name = \"g\"; " rest " } );\n"
#define MEMBER(name, mac) "{ name = \"" name "\"; macs = [ \"" mac "\" ]; }"
#define TWO MEMBER("a", "52:54:00:00:00:01") ",\n" MEMBER("b", "52:54:00:00:00:02")

static void test_groups(void **state)
{
	struct shunt_config *c = NULL;
	char err[1024] = "";

	(void)state;
	assert_int_equal(load("groups = ( { name = \"ecu\"; label = \"dmz\"; size = \"1M\"; ring_size = \"256K\"; "
			      "members = (\n"
			      "{ name = \"a\"; socket = \"/run/x/a.sock\"; user = \"qemu\"; "
			      "macs = [ \"52:54:00:AA:00:01\", "
			      "\"52:54:00:aa:00:02\" ]; },\n"
			      "{ name = \"b\"; pidfile = \"/run/b.pid\"; cgroup = \"/b.slice\"; "
			      "macs = [ \"52:54:00:aa:00:03\" ]; } ); } );\n", &c, err, sizeof(err)), 0);
	assert_string_equal(c->groups[0].label, "dmz");
	assert_int_equal(c->groups[0].size, 1 << 20);
	assert_int_equal(c->groups[0].members[0].macs, 2);
	assert_string_equal(c->groups[0].members[0].user, "qemu");
	assert_string_equal(c->groups[0].members[1].cgroup, "/b.slice");
	shunt_config_free(c);
	assert_int_equal(load(GROUP("members = ( " TWO " );"), &c, err, sizeof(err)), 0);
	assert_int_equal(c->n_groups, 1);
	assert_string_equal(c->groups[0].label, "g");
	assert_int_equal(c->groups[0].size, 64 << 20);
	assert_int_equal(c->groups[0].ring_size, c->ring_size);
	assert_int_equal(c->groups[0].n_members, 2);
	assert_int_equal(c->groups[0].members[1].mac[0].addr[5], 2);
	assert_null(c->groups[0].members[0].socket);
	shunt_config_free(c);
}

static void test_group_errors(void **state)
{
	(void)state;
	expect_error("groups = 1;\n", 1, "not a list");
	expect_error("groups = ( 1 );\n", 1, "each entry is");
	expect_error(GROUP(""), 1, "has no members");
	expect_error("groups = ( { members = ( " TWO " ); } );\n", 1, "a name is needed");
	expect_error("groups = ( { name = \"a/b\"; members = ( " TWO " ); } );\n", 1, "slashes");
	expect_error("groups = ( { name = \".x\"; members = ( " TWO " ); } );\n", 1, "begin with a dot");
	expect_error(GROUP("\nmember = 1;"), 2, "allowed: name, label, size, ring_size, members");
	expect_error(GROUP("name = 1;"), 1, "duplicate setting name");
	expect_error("groups = ( { name = 1; } );\n", 1, "not a string");
	expect_error(GROUP("members = 1;"), 1, "not a list");
	expect_error(GROUP("members = ( " MEMBER("a", "52:54:00:00:00:01") " );"), 1, "2 to 15 VMs, this one has 1");
	expect_error(GROUP("members = ( 1, 2 );"), 1, "each entry is");
	expect_error(GROUP("size = \"3M\"; members = ( " TWO " );"), 1, "a power of two from 1048576 to");
	expect_error(GROUP("size = \"x\"; members = ( " TWO " );"), 1, "no size");
	expect_error(GROUP("size = \"1M\"; members = ( " TWO " );"), 1, "2 VMs with rings of 524288 bytes need 2M");
	expect_error(GROUP("ring_size = \"16K\"; members = ( " TWO " );"), 1, "from 262144 to");
	expect_error(GROUP("label = \"a b\"; members = ( " TWO " );"), 1, "without spaces");
	expect_error(GROUP("members = ( " TWO ",\n" MEMBER("a", "52:54:00:00:00:03") " );"), 3,
		     "named \"a\" is there already");
	expect_error(GROUP("members = ( " TWO ",\n" MEMBER("c", "52:54:00:00:00:02") " );"), 3,
		     "b and c have one in common");
	expect_error(GROUP("members = ( " TWO ",\n" MEMBER("c", "52:54") " );"), 3, "no MAC address");
	expect_error(GROUP("members = ( " TWO ",\n" MEMBER("c", "01:54:00:00:00:02") " );"), 3, "multicast");
	expect_error(GROUP("members = ( " TWO ",\n { name = \"c\"; } );"), 3, "\"c\" has no macs");
	expect_error(GROUP("members = ( " TWO ",\n { name = \"c\"; macs = [ ]; } );"), 3, "1 to 8 addresses");
	expect_error(GROUP("members = ( " TWO ",\n { name = \"c\"; mac = \"\"; } );"), 3,
		     "allowed: name, socket, macs, user, pidfile, cgroup");
	expect_error(GROUP("members = ( " TWO ",\n { name = \"c\"; socket = \"c.sock\"; } );"), 3, "no absolute path");
	expect_error("groups = ( { name = \"g\"; members = ( " TWO " ); },\n{ name = \"g\"; members = ( "
		     MEMBER("c", "52:54:00:00:00:01") ", " MEMBER("d", "52:54:00:00:00:02") " ); } );\n", 3,
		     "a group named \"g\" is there already");
}

static void test_missing(void **state)
{
	struct shunt_config *c = NULL;
	char err[1024];

	(void)state;
	assert_int_equal(shunt_config_load("/nonexistent/x", &c, err, sizeof(err)), -2);
	assert_non_null(strstr(err, "/nonexistent/x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_group_errors),
		cmocka_unit_test(test_missing),
	};
	int r, fd = mkstemp(path);

	if (fd < 0)
		return 1;
	close(fd);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return r;
}
