// SPDX-License-Identifier: GPL-2.0-only
/*
 * The groups of shuntd.conf: VMs without QMP that share one segment. What QMP tells of other VMs the
 * operator writes here: names, MACs, who may connect. Whatever would fail later (a segment too small for its
 * links, two members with one MAC) is an error of the file, with its line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/layout.h"
#include "daemon/config_load.h"

#define MiB (1ull << 20)
#define GROUP_SIZE (64 * MiB)
#define GROUP_SIZE_MAX (1024 * MiB)
#define VMS_MAX (SHUNT_ABI_MEMBERS_MAX - 1)
#define SOCKET_MAX 107u		/* sun_path, less the NUL */

struct text_key {
	const char *name;
	size_t off;
	bool path;
};

static const struct text_key group_texts[] = {
	{ "name", offsetof(struct shunt_group_rule, name), false },
	{ "label", offsetof(struct shunt_group_rule, label), false },
};

static const struct text_key member_texts[] = {
	{ "name", offsetof(struct shunt_group_member, name), false },
	{ "socket", offsetof(struct shunt_group_member, socket), true },
	{ "user", offsetof(struct shunt_group_member, user), false },
	{ "pidfile", offsetof(struct shunt_group_member, pidfile), true },
	{ "cgroup", offsetof(struct shunt_group_member, cgroup), true },
};

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* Sets *@ret_known to whether the key of @e is one of @keys. */
static int load_text(struct loader *l, config_setting_t *e, const struct text_key *keys, size_t n, void *to,
		     bool *ret_known)
{
	const char *name = config_setting_name(e), *text = config_setting_get_string(e);

	for (size_t i = 0; i < n; i++) {
		char **at = (char **)((char *)to + keys[i].off);

		if (strcmp(keys[i].name, name))
			continue;
		*ret_known = true;
		if (!text || !*text)
			return config_fail(l, e, "%s: not a string, or empty", name);
		if (keys[i].path && *text != '/')
			return config_fail(l, e, "%s: \"%s\" is no absolute path", name, text);
		if (strlen(text) > SOCKET_MAX)
			return config_fail(l, e, "%s: longer than %u characters", name, SOCKET_MAX);
		*at = strdup(text);
		return 0;
	}
	*ret_known = false;
	return 0;
}

/* Names are shown, typed, and part of a path. */
static int check_name(struct loader *l, const config_setting_t *s, const char *what, const char *name)
{
	if (!name)
		return config_fail(l, s, "%s: a name is needed", what);
	if (strlen(name) >= SHUNT_ABI_NAME_MAX || *name == '.')
		return config_fail(l, s, "%s: \"%s\": a name has 1 to %u characters and does not begin with a dot",
				   what, name, SHUNT_ABI_NAME_MAX - 1);
	for (const char *c = name; *c; c++)
		if (*c <= ' ' || *c > 126 || strchr("/\"\\", *c))
			return config_fail(l, s, "%s: \"%s\": only printable characters without spaces, slashes "
					   "and quotes", what, name);
	return 0;
}

static int load_mac(struct loader *l, const config_setting_t *s, const char *text, struct shunt_group_member *m)
{
	struct shunt_abi_mac *mac = &m->mac[m->macs];
	char copy[32];
	unsigned int b[6];

	snprintf(copy, sizeof(copy), "%s", text ? text : "");
	if (config_check_mac(l, s, copy))
		return -EINVAL;
	sscanf(copy, "%2x:%2x:%2x:%2x:%2x:%2x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]);
	for (int i = 0; i < 6; i++)
		mac->addr[i] = (__u8)b[i];
	if (mac->addr[0] & 1)
		return config_fail(l, s, "\"%s\" is a multicast address; allowed: the MAC of a NIC", copy);
	m->macs++;
	return 0;
}

static int load_macs(struct loader *l, const config_setting_t *s, struct shunt_group_member *m)
{
	int n = config_setting_length(s), r = 0;

	if (!config_setting_is_array(s) || n < 1 || n > (int)SHUNT_ABI_NICS_MAX)
		return config_fail(l, s, "macs: write [ \"aa:bb:cc:dd:ee:ff\" ], 1 to %u addresses",
				   SHUNT_ABI_NICS_MAX);
	for (int i = 0; !r && i < n; i++)
		r = load_mac(l, s, config_setting_get_string_elem(s, i), m);
	return r;
}

static int load_member(struct loader *l, config_setting_t *s, struct shunt_group_member *m)
{
	bool known;
	int r = 0;

	if (!config_setting_is_group(s))
		return config_fail(l, s, "members: each entry is { name = \"VM\"; macs = [ \"aa:bb:cc:dd:ee:ff\" ]; }");
	for (int i = 0; !r && i < config_setting_length(s); i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned int)i);

		r = load_text(l, e, member_texts, N(member_texts), m, &known);
		if (!r && !known && !strcmp(config_setting_name(e), "macs"))
			r = load_macs(l, e, m);
		else if (!r && !known)
			r = config_fail(l, e, "unknown key \"%s\"; allowed: name, socket, macs, user, pidfile, cgroup",
					config_setting_name(e));
	}
	if (r)
		return r;
	if (!m->macs)
		return config_fail(l, s, "members: \"%s\" has no macs: without QMP only this file tells them",
				   m->name ? m->name : "?");
	return check_name(l, s, "members", m->name);
}

static bool share_mac(const struct shunt_group_member *a, const struct shunt_group_member *b)
{
	for (unsigned int i = 0; i < a->macs; i++)
		for (unsigned int k = 0; k < b->macs; k++)
			if (!memcmp(a->mac[i].addr, b->mac[k].addr, 6))
				return true;
	return false;
}

/* @a comes before @b in the file; MACs need to differ only within a group. */
static int check_apart(struct loader *l, const config_setting_t *s, const struct shunt_group_member *a,
		       const struct shunt_group_member *b, bool same_group)
{
	if (!strcmp(a->name, b->name))
		return config_fail(l, s, "members: a VM named \"%s\" is there already", b->name);
	if (a->socket && b->socket && !strcmp(a->socket, b->socket))
		return config_fail(l, s, "socket: \"%s\" is %s's already: each VM needs its own", b->socket, a->name);
	if (same_group && share_mac(a, b))
		return config_fail(l, s, "macs: %s and %s have one in common", a->name, b->name);
	return 0;
}

static int check_against_others(struct loader *l, const config_setting_t *s, const struct shunt_group_rule *g)
{
	const struct shunt_group_member *m = &g->members[g->n_members - 1];
	int r = 0;

	for (const struct shunt_group_rule *o = l->c->groups; !r && o <= g; o++)
		for (size_t i = 0; !r && i < o->n_members; i++)
			if (&o->members[i] != m)
				r = check_apart(l, s, &o->members[i], m, o == g);
	return r;
}

static int load_members(struct loader *l, config_setting_t *s, struct shunt_group_rule *g)
{
	int n = config_setting_length(s), r = 0;

	if (!config_setting_is_list(s))
		return config_fail(l, s, "members: not a list; write members = ( { ... }, { ... } );");
	if (n < 2 || n > (int)VMS_MAX)
		return config_fail(l, s, "members: a group has 2 to %u VMs, this one has %d", VMS_MAX, n);
	g->members = calloc((size_t)n, sizeof(*g->members));
	for (int i = 0; !r && i < n; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned int)i);

		g->n_members++;
		r = load_member(l, e, &g->members[i]);
		if (!r)
			r = check_against_others(l, e, g);
	}
	return r;
}

static int load_bytes(struct loader *l, config_setting_t *s, uint64_t min, uint64_t max, uint64_t *ret)
{
	const char *name = config_setting_name(s), *text = config_setting_get_string(s);
	uint64_t n = 0;

	if (text ? config_parse_size(text, &n) : !config_setting_is_number(s))
		return config_fail(l, s, "%s: no size; allowed: a number, or a string like \"64M\"", name);
	if (!text)
		n = (uint64_t)config_setting_get_int64(s);
	if (n < min || n > max || n & (n - 1))
		return config_fail(l, s, "%s: %llu; allowed: a power of two from %llu to %llu", name,
				   (unsigned long long)n, (unsigned long long)min, (unsigned long long)max);
	*ret = n;
	return 0;
}

static bool fits(const struct shunt_group_rule *g, uint64_t size)
{
	const __u32 members = (__u32)g->n_members + 1, n = shunt_layout_group_channels(members);
	struct shunt_abi_channel c;
	struct shunt_layout l;

	return !shunt_layout_compute(SHUNT_ABI_GROUP, size, members, n, &l) &&
	       !shunt_layout_channel(&l, n - 1, SHUNT_ABI_CHAN_PACKET, 0, 1, g->ring_size, &c);
}

static int check_size(struct loader *l, const config_setting_t *s, const struct shunt_group_rule *g)
{
	uint64_t need = MiB;

	if (fits(g, g->size))
		return 0;
	while (need < GROUP_SIZE_MAX && !fits(g, need))
		need *= 2;
	if (!fits(g, need))
		return config_fail(l, s, "ring_size: the links of %zu VMs do not fit into the largest segment (%llu bytes): "
				   "make it smaller", g->n_members, GROUP_SIZE_MAX);
	return config_fail(l, s, "size: %zu VMs with rings of %llu bytes need %lluM", g->n_members,
			   (unsigned long long)g->ring_size, (unsigned long long)(need / MiB));
}

static int load_group_key(struct loader *l, config_setting_t *e, struct shunt_group_rule *g)
{
	const char *name = config_setting_name(e);
	bool known;
	int r = load_text(l, e, group_texts, N(group_texts), g, &known);

	if (r || known)
		return r;
	if (!strcmp(name, "members"))
		return load_members(l, e, g);
	if (!strcmp(name, "size"))
		return load_bytes(l, e, MiB, GROUP_SIZE_MAX, &g->size);
	if (!strcmp(name, "ring_size"))
		return load_bytes(l, e, 256 * 1024, 128 * MiB, &g->ring_size);
	return config_fail(l, e, "unknown key \"%s\"; allowed: name, label, size, ring_size, members", name);
}

static int load_group(struct loader *l, config_setting_t *s, struct shunt_group_rule *g)
{
	int r = 0;

	if (!config_setting_is_group(s))
		return config_fail(l, s, "groups: each entry is { name = \"G\"; members = ( ... ); }");
	g->size = GROUP_SIZE;
	g->ring_size = l->c->ring_size;
	for (int i = 0; !r && i < config_setting_length(s); i++)
		r = load_group_key(l, config_setting_get_elem(s, (unsigned int)i), g);
	if (!r)
		r = check_name(l, s, "groups", g->name);
	if (r)
		return r;
	if (!g->members)
		return config_fail(l, s, "groups: \"%s\" has no members", g->name);
	for (const struct shunt_group_rule *o = l->c->groups; o < g; o++)
		if (!strcmp(o->name, g->name))
			return config_fail(l, s, "groups: a group named \"%s\" is there already", g->name);
	if (!g->label)
		g->label = strdup(g->name);
	r = config_check_label(l, s, g->label);
	return r ? r : check_size(l, s, g);
}

/**
 * config_groups_load() - Read `groups`.
 * @list: the setting, or NULL: there is none.
 *
 * Context: all other settings are loaded.
 * Return: 0, or what config_fail() returns.
 */
int config_groups_load(struct loader *l, config_setting_t *list)
{
	int n = list ? config_setting_length(list) : 0, r = 0;

	if (!list)
		return 0;
	if (!config_setting_is_list(list))
		return config_fail(l, list, "groups: not a list; write groups = ( ... );");
	l->c->groups = calloc((size_t)n + 1, sizeof(*l->c->groups));
	for (int i = 0; !r && i < n; i++) {
		l->c->n_groups++;
		r = load_group(l, config_setting_get_elem(list, (unsigned int)i), &l->c->groups[i]);
	}
	return r;
}

static void free_member(struct shunt_group_member *m)
{
	free(m->name);
	free(m->socket);
	free(m->user);
	free(m->pidfile);
	free(m->cgroup);
}

/** config_groups_free() - Release what config_groups_load() made, also half of it. */
void config_groups_free(struct shunt_config *c)
{
	for (size_t i = 0; i < c->n_groups; i++) {
		struct shunt_group_rule *g = &c->groups[i];

		for (size_t k = 0; k < g->n_members; k++)
			free_member(&g->members[k]);
		free(g->members);
		free(g->name);
		free(g->label);
	}
	free(c->groups);
	c->groups = NULL;
	c->n_groups = 0;
}
