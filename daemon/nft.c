// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packet filters of nftables that frames between taps pass: netdev chains on a tap, bridge chains, and,
 * where br_netfilter lends bridged frames to them, the chains of ip, ip6 and inet. Programs that speak
 * nftables underneath (iptables-nft, ebtables-nft, firewalld, libvirt) are seen the same way.
 *
 * Rules are not interpreted, with one exception: one that is bound to other interfaces (iifname, oifname,
 * iif, oif, ibrname, obrname equal to something) does not concern a tap it does not name. Without that, a rule for
 * one VM would be an obstacle for all. Chains that are only jumped to need no look: the jump is a rule.
 */
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/hostnet.h"
#include "daemon/netlink.h"

#define NAME_LEN NFT_NAME_MAXLEN
#define REGISTERS 32u

struct chain {
	uint8_t family;
	uint32_t hook;
	uint32_t uses;		/* rules in it: nothing can jump to a base chain */
	bool drops;		/* by policy */
	char table[NAME_LEN], name[NAME_LEN];
	char dev[8][IFNAMSIZ];
	size_t n_dev;
};

struct chains {
	struct chain *list;
	size_t n;
};

struct reader {
	struct hostnet *h;
	struct netlink n;
};

/* An interface a rule is bound to: what is compared, and with what. */
struct binding {
	uint32_t key;			/* enum nft_meta_keys */
	const struct nlattr *value;
};

#define BINDINGS_MAX 8u

/* A rule, as far as it is understood. */
struct rule {
	struct binding binding[BINDINGS_MAX];
	size_t n;
	uint32_t key[REGISTERS];	/* while reading: what was last loaded into a register, plus one */
};

/* A tap whose frames pass the chain that is looked at. */
struct subject {
	struct host_port *port;
	const struct host_port *bridge;
};

static const char *family_name(uint8_t family)
{
	switch (family) {
	case NFPROTO_NETDEV:
		return "netdev";
	case NFPROTO_BRIDGE:
		return "bridge";
	case NFPROTO_INET:
		return "inet";
	case NFPROTO_IPV6:
		return "ip6";
	default:
		return "ip";
	}
}

static void copy_text(char *to, size_t size, const struct nlattr *a)
{
	snprintf(to, size, "%.*s", (int)mnl_attr_get_payload_len(a), (const char *)mnl_attr_get_payload(a));
}

static uint32_t be32(const struct nlattr *a)
{
	return mnl_attr_get_payload_len(a) == 4 ? ntohl(mnl_attr_get_u32(a)) : 0;
}

/* --- chains --- */

static void add_dev(struct chain *c, const struct nlattr *a)
{
	if (c->n_dev < sizeof(c->dev) / sizeof(c->dev[0]))
		copy_text(c->dev[c->n_dev], IFNAMSIZ, a);
	c->n_dev++;
}

static void chain_hook(struct chain *c, const struct nlattr *hook)
{
	const struct nlattr *a, *d;

	mnl_attr_for_each_nested(a, hook)
		switch (mnl_attr_get_type(a)) {
		case NFTA_HOOK_HOOKNUM:
			c->hook = be32(a);
			break;
		case NFTA_HOOK_DEV:
			if (!c->n_dev)
				add_dev(c, a);
			break;
		case NFTA_HOOK_DEVS:
			c->n_dev = 0;
			mnl_attr_for_each_nested(d, a)
				add_dev(c, d);
			break;
		}
}

static int on_chain(const struct nlmsghdr *m, void *data)
{
	const struct nfgenmsg *g = mnl_nlmsg_get_payload(m);
	struct chains *all = data;
	struct chain c = { .family = g->nfgen_family };
	const struct nlattr *a;
	bool base = false;

	mnl_attr_for_each(a, m, sizeof(*g))
		switch (mnl_attr_get_type(a)) {
		case NFTA_CHAIN_TABLE:
			copy_text(c.table, sizeof(c.table), a);
			break;
		case NFTA_CHAIN_NAME:
			copy_text(c.name, sizeof(c.name), a);
			break;
		case NFTA_CHAIN_HOOK:
			base = true;
			chain_hook(&c, a);
			break;
		case NFTA_CHAIN_POLICY:
			c.drops = be32(a) != NF_ACCEPT;
			break;
		case NFTA_CHAIN_USE:
			c.uses = be32(a);
			break;
		}
	if (!base || (!c.uses && !c.drops))
		return MNL_CB_OK;
	all->list = realloc(all->list, (all->n + 1) * sizeof(c));
	all->list[all->n++] = c;
	return MNL_CB_OK;
}

/* --- rules --- */

/* "vnet*" is compared without its end, a whole name with it. */
static bool name_matches(const struct nlattr *value, const char *name)
{
	return !strncmp(mnl_attr_get_payload(value), name, mnl_attr_get_payload_len(value));
}

static bool index_matches(const struct nlattr *value, int index)
{
	return mnl_attr_get_payload_len(value) == 4 && mnl_attr_get_u32(value) == (uint32_t)index;
}

static const struct nlattr *nested(const struct nlattr *in, uint16_t type)
{
	const struct nlattr *a;

	if (in)
		mnl_attr_for_each_nested(a, in)
			if (mnl_attr_get_type(a) == type)
				return a;
	return NULL;
}

static bool is_bridge_key(uint32_t key)
{
	return key == NFT_META_BRI_IIFNAME || key == NFT_META_BRI_OIFNAME;
}

static bool is_interface_key(uint32_t key)
{
	return key == NFT_META_IIFNAME || key == NFT_META_OIFNAME || key == NFT_META_IIF || key == NFT_META_OIF ||
	       is_bridge_key(key);
}

static void read_expr(struct rule *r, const char *name, const struct nlattr *data)
{
	const struct nlattr *key = nested(data, NFTA_META_KEY), *reg = nested(data, NFTA_META_DREG);
	const struct nlattr *value;

	if (!strcmp(name, "meta") && key && reg && be32(reg) < REGISTERS) {
		r->key[be32(reg)] = be32(key) + 1;
		return;
	}
	if (strcmp(name, "cmp"))
		return;
	reg = nested(data, NFTA_CMP_SREG);
	key = nested(data, NFTA_CMP_OP);
	value = nested(nested(data, NFTA_CMP_DATA), NFTA_DATA_VALUE);
	if (reg && key && value && be32(key) == NFT_CMP_EQ && be32(reg) < REGISTERS && r->key[be32(reg)] &&
	    is_interface_key(r->key[be32(reg)] - 1) && r->n < BINDINGS_MAX)
		r->binding[r->n++] = (struct binding){ r->key[be32(reg)] - 1, value };
}

static void read_rule(struct rule *r, const struct nlmsghdr *m)
{
	const struct nlattr *a, *e, *exprs = NULL;

	mnl_attr_for_each(a, m, sizeof(struct nfgenmsg))
		if (mnl_attr_get_type(a) == NFTA_RULE_EXPRESSIONS)
			exprs = a;
	if (!exprs)
		return;
	mnl_attr_for_each_nested(e, exprs) {
		const struct nlattr *name = nested(e, NFTA_EXPR_NAME), *data = nested(e, NFTA_EXPR_DATA);

		if (name && data)
			read_expr(r, mnl_attr_get_payload(name), data);
	}
}

static bool binds(const struct binding *b, const struct host_port *p)
{
	if (!p)
		return false;
	if (b->key == NFT_META_IIF || b->key == NFT_META_OIF)
		return index_matches(b->value, p->index);
	return name_matches(b->value, p->name);
}

/*
 * Whether a rule may concern a tap: it is bound to no interface, or to this one. One that names ports and
 * bridges is judged by the ports. To the IP families br_netfilter shows the bridge as the device.
 */
static bool concerns(const struct rule *r, const struct subject *s, bool bridged)
{
	bool port = false, bridge = false, bridge_matches = false;

	for (size_t i = 0; i < r->n; i++) {
		const struct binding *b = &r->binding[i];

		if (is_bridge_key(b->key)) {
			bridge = true;
			bridge_matches |= binds(b, s->bridge);
		} else {
			port = true;
			if (binds(b, bridged ? s->port : s->bridge))
				return true;
		}
	}
	return !port && (!bridge || bridge_matches);
}

static void object(struct host_port *p, const struct chain *c)
{
	hostnet_object(p, "nftables: table %s %.40s, chain %.40s", family_name(c->family), c->table, c->name);
}

/* Whether frames bridged from or to a tap pass the hooks of a family. */
static bool in_scope(const struct hostnet *h, uint8_t family, const struct host_port *p)
{
	switch (family) {
	case NFPROTO_BRIDGE:
		return hostnet_is_switched(p);
	case NFPROTO_IPV4:
		return hostnet_calls(h, p, false);
	case NFPROTO_IPV6:
		return hostnet_calls(h, p, true);
	case NFPROTO_INET:
		return hostnet_calls(h, p, false) || hostnet_calls(h, p, true);
	default:
		return false;
	}
}

/* Rules can be many, and taps, too: each rule is read once, and a tap with an obstacle is not looked at again. */
struct judging {
	const struct chain *c;
	struct subject *subject;
	size_t n;
};

static int on_rule(const struct nlmsghdr *m, void *data)
{
	struct judging *j = data;
	struct rule r;

	if (!j->n)
		return MNL_CB_OK;
	memset(&r, 0, sizeof(r));
	read_rule(&r, m);
	for (size_t i = 0; i < j->n;) {
		if (!concerns(&r, &j->subject[i], j->c->family == NFPROTO_BRIDGE)) {
			i++;
			continue;
		}
		object(j->subject[i].port, j->c);
		j->subject[i] = j->subject[--j->n];
	}
	return MNL_CB_OK;
}

/* A chain bound to devices: they are named. */
static void judge_device_chain(struct reader *r, const struct chain *c)
{
	for (size_t i = 0; i < r->h->n; i++)
		for (size_t k = 0; k < c->n_dev; k++)
			if (k >= sizeof(c->dev) / sizeof(c->dev[0]) || !strcmp(c->dev[k], r->h->port[i].name)) {
				object(&r->h->port[i], c);	/* more devices than were kept: all */
				break;
			}
}

static void find_subjects(struct reader *r, struct judging *j)
{
	j->subject = calloc(r->h->n + 1, sizeof(*j->subject));
	for (size_t i = 0; i < r->h->n; i++) {
		struct host_port *p = &r->h->port[i];

		if (*p->obstacle || !in_scope(r->h, j->c->family, p))
			continue;
		if (j->c->drops)
			object(p, j->c);
		else
			j->subject[j->n++] = (struct subject){ p, hostnet_find_index(r->h, p->master) };
	}
}

static int read_rules(struct reader *r, struct judging *j)
{
	char buf[NETLINK_REQUEST_BYTES];
	struct nfgenmsg *g;
	struct nlmsghdr *m = netlink_request(buf, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, sizeof(*g), &g);

	g->nfgen_family = j->c->family;
	g->version = NFNETLINK_V0;
	mnl_attr_put_strz(m, NFTA_RULE_TABLE, j->c->table);
	mnl_attr_put_strz(m, NFTA_RULE_CHAIN, j->c->name);
	return netlink_dump(&r->n, m, on_rule, j);
}

static int judge_chain(struct reader *r, const struct chain *c)
{
	struct judging j = { .c = c };
	int error = 0;

	if (c->family == NFPROTO_NETDEV || (c->family == NFPROTO_INET && c->hook == NF_INET_INGRESS)) {
		judge_device_chain(r, c);
		return 0;
	}
	if (c->hook != NF_INET_PRE_ROUTING && c->hook != NF_INET_FORWARD && c->hook != NF_INET_POST_ROUTING)
		return 0;	/* the host's own traffic; numbers are the same in all families */
	find_subjects(r, &j);
	if (j.n && c->uses)
		error = read_rules(r, &j);
	free(j.subject);
	return error;
}

static int read_chains(struct reader *r, struct chains *all)
{
	char buf[NETLINK_REQUEST_BYTES];
	struct nfgenmsg *g;
	struct nlmsghdr *m = netlink_request(buf, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, sizeof(*g), &g);
	int error = netlink_open(&r->n, NETLINK_NETFILTER);

	g->nfgen_family = NFPROTO_UNSPEC;
	g->version = NFNETLINK_V0;
	if (!error)
		error = netlink_dump(&r->n, m, on_chain, all);
	if (error == -EINVAL || error == -EPROTONOSUPPORT || error == -EOPNOTSUPP)
		error = 0;	/* this kernel has no nftables: so no rules */
	return error;
}

/** nft_read() - Note what nftables enforces on each tap of the snapshot. */
void nft_read(struct hostnet *h)
{
	struct reader r = { .h = h };
	struct chains all = { 0 };
	int error = read_chains(&r, &all);

	for (size_t i = 0; i < all.n && !error; i++) {
		error = judge_chain(&r, &all.list[i]);
		if (error == -ENOENT)	/* deleted meanwhile; its event is on the way */
			error = 0;
	}
	if (error)
		hostnet_blind(h, "nftables", -error);
	free(all.list);
	netlink_close(&r.n);
}
