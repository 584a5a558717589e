// SPDX-License-Identifier: GPL-2.0-only
/*
 * The older packet filters: ebtables, and iptables where br_netfilter lends it bridged frames. (Their
 * replacements that speak nftables underneath are seen by nft.c.) Rules are not looked into: one in a chain
 * that bridged frames pass concerns all taps, and so does a policy other than accept.
 *
 * They are asked through socket options, which load a module and make a table where there is none: so only
 * tables are asked for that are known to be there. There is no event for their changes.
 */
#include "daemon/hostnet.h"

#include <linux/netfilter.h>
#include <linux/netfilter_bridge/ebtables.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "daemon/cleanup.h"

#define TRIES 3		/* a table may change between asking for its size and for itself */

static int fd4 = -1, fd6 = -1;

/** xtables_start() - Before the sandbox is entered, in which no such sockets can be made. */
void xtables_start(void)
{
	fd4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/** xtables_stop() - Undo xtables_start(). */
void xtables_stop(void)
{
	shunt_close(&fd4);
	shunt_close(&fd6);
}

/* --- ebtables --- */

/* Chains of the host's own traffic do not matter. */
static bool passed_by_bridged(const char *chain)
{
	return !strcmp(chain, "FORWARD") || !strcmp(chain, "PREROUTING") || !strcmp(chain, "POSTROUTING") ||
	       !strcmp(chain, "BROUTING");
}

static bool chain_enforces(const struct ebt_entries *c)
{
	return passed_by_bridged(c->name) && (c->nentries || c->policy != EBT_ACCEPT);
}

/* Entries follow one another: the head of a chain, then its rules. The kernel's word, bounded all the same. */
static const struct ebt_entries *enforcing_chain(const char *entries, size_t size)
{
	size_t at = 0;

	while (at + sizeof(struct ebt_entries) <= size) {
		const struct ebt_entries *c = (const void *)(entries + at);
		const struct ebt_entry *e = (const void *)(entries + at);

		if (!(c->distinguisher & EBT_ENTRY_OR_ENTRIES)) {
			if (chain_enforces(c))
				return c;
			at += sizeof(*c);
		} else if (at + sizeof(*e) > size || e->next_offset < sizeof(*e)) {
			return NULL;
		} else {
			at += e->next_offset;
		}
	}
	return NULL;
}

static int ebtables_once(struct hostnet *h, const char *table)
{
	struct ebt_replace r = { 0 };
	_cleanup_free_ char *entries = NULL;
	const struct ebt_entries *c;
	socklen_t len = sizeof(r);

	strcpy(r.name, table);
	if (getsockopt(fd4, IPPROTO_IP, EBT_SO_GET_INFO, &r, &len) < 0)
		return -errno;
	entries = malloc(r.entries_size);
	r.entries = entries;
	r.num_counters = 0;
	len = (socklen_t)(sizeof(r) + r.entries_size);
	if (!entries || getsockopt(fd4, IPPROTO_IP, EBT_SO_GET_ENTRIES, &r, &len) < 0)
		return -errno;
	c = enforcing_chain(entries, r.entries_size);
	for (size_t i = 0; c && i < h->n; i++)
		if (hostnet_is_switched(&h->port[i]))
			hostnet_object(&h->port[i], "ebtables: table %s, chain %.31s", table, c->name);
	return 0;
}

static void read_ebtables(struct hostnet *h)
{
	static const char *const tables[] = { "filter", "nat", "broute" };

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		char module[64];
		int r = -EINVAL;

		snprintf(module, sizeof(module), "/sys/module/ebtable_%s", tables[i]);
		if (access(module, F_OK))
			continue;
		for (int k = 0; k < TRIES && r == -EINVAL; k++)
			r = ebtables_once(h, tables[i]);
		if (r && r != -ENOENT)
			hostnet_blind(h, "ebtables", -r);
	}
}

/* --- iptables --- */

static const unsigned int hooks[] = { NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING };
static const char *const hook_names[] = { "PREROUTING", "FORWARD", "POSTROUTING" };

/* The policy is the verdict of a chain's last entry, its underflow. */
static bool accepts(const char *entries, size_t size, size_t at, bool ip6)
{
	size_t head = ip6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
	const struct xt_standard_target *t;

	if (at + head > size)
		return false;
	at += ip6 ? ((const struct ip6t_entry *)(entries + at))->target_offset :
		    ((const struct ipt_entry *)(entries + at))->target_offset;
	if (at + sizeof(*t) > size)
		return false;
	t = (const void *)(entries + at);
	return t->verdict == -NF_ACCEPT - 1;
}

static int iptables_once(const char *table, bool ip6, const char **ret_chain)
{
	int fd = ip6 ? fd6 : fd4, level = ip6 ? IPPROTO_IPV6 : IPPROTO_IP;
	struct ipt_getinfo info = { 0 };	/* the same for both, and so are the options' numbers */
	_cleanup_free_ struct ipt_get_entries *e = NULL;
	socklen_t len = sizeof(info);

	snprintf(info.name, sizeof(info.name), "%s", table);
	if (getsockopt(fd, level, IPT_SO_GET_INFO, &info, &len) < 0)
		return -errno;
	len = (socklen_t)(sizeof(*e) + info.size);
	e = calloc(1, len);
	memcpy(e->name, info.name, sizeof(e->name));
	e->size = info.size;
	if (getsockopt(fd, level, IPT_SO_GET_ENTRIES, e, &len) < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(hooks) / sizeof(hooks[0]); i++) {
		unsigned int k = hooks[i];

		if (info.valid_hooks & (1u << k) && (info.hook_entry[k] != info.underflow[k] ||
		    !accepts((const char *)e->entrytable, e->size, info.underflow[k], ip6)))
			*ret_chain = hook_names[i];
	}
	return 0;
}

static void judge_iptables(struct hostnet *h, const char *table, bool ip6)
{
	const char *chain = NULL;
	int r = -EAGAIN;

	for (int k = 0; k < TRIES && r == -EAGAIN; k++)
		r = iptables_once(table, ip6, &chain);
	if (r && r != -ENOENT)
		hostnet_blind(h, "iptables", -r);
	for (size_t i = 0; chain && i < h->n; i++)
		if (hostnet_calls(h, &h->port[i], ip6))
			hostnet_object(&h->port[i], "%s: table %s, chain %s", ip6 ? "ip6tables" : "iptables", table,
				       chain);
}

static void read_iptables(struct hostnet *h, bool ip6)
{
	_cleanup_file_ FILE *f = fopen(ip6 ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names", "re");
	char table[XT_TABLE_MAXNAMELEN];
	bool any = false;

	for (size_t i = 0; i < h->n; i++)
		any |= hostnet_calls(h, &h->port[i], ip6);
	while (f && any && fscanf(f, "%31s", table) == 1)
		judge_iptables(h, table, ip6);
}

/** xtables_read() - Note what ebtables and iptables enforce on the taps of the snapshot. */
void xtables_read(struct hostnet *h)
{
	read_ebtables(h);
	read_iptables(h, false);
	read_iptables(h, true);
}
