// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the host's network does to frames between virtual machines: read once for all of them, then
 * judged per tap (RULES 17).
 *
 * DOC: Theory of operation
 *
 * hostnet_read() takes a snapshot: devices with their bridge port settings (rtnetlink), VLANs, queueing
 * disciplines, tc filters where there can be any, packet filters (nft.c, xtables.c). Each file notes what it
 * finds as an *obstacle* on the device it concerns: words for an operator. hostnet_judge() adds what depends on
 * where a device is, and names the network it is in: two taps of the same network whose frames the host only
 * switches may have a shunt, which then changes nothing but speed.
 *
 * Only what is known to do nothing is let pass. Anything else is an obstacle: what enforces something cannot be
 * told from what merely looks unusual, and the operator has an override (host_policy).
 */
#include "daemon/hostnet.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/netlink.h"

#ifndef RTEXT_FILTER_SKIP_STATS
#define RTEXT_FILTER_SKIP_STATS (1 << 3)
#endif

/** hostnet_object() - Note an obstacle; the first one stays. */
void hostnet_object(struct host_port *p, const char *fmt, ...)
{
	va_list ap;

	if (*p->obstacle)
		return;
	va_start(ap, fmt);
	vsnprintf(p->obstacle, sizeof(p->obstacle), fmt, ap);
	va_end(ap);
}

/** hostnet_blind() - Note that something could not be looked at: nothing can be called plain then. */
void hostnet_blind(struct hostnet *h, const char *what, int error)
{
	if (!*h->blind)
		snprintf(h->blind, sizeof(h->blind), "shuntd cannot look at %s (%s%s)", what, strerror(error),
			 error == EPERM || error == EACCES ? ": it needs CAP_NET_ADMIN" : "");
}

/** hostnet_find_index() - A device by its index, or NULL. */
struct host_port *hostnet_find_index(const struct hostnet *h, int index)
{
	size_t lo = 0, hi = h->n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (h->port[mid].index == index)
			return &h->port[mid];
		if (h->port[mid].index < index)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/** hostnet_find() - A device by its name, or NULL. */
struct host_port *hostnet_find(const struct hostnet *h, const char *name)
{
	for (size_t i = 0; i < h->n; i++)
		if (!strcmp(h->port[i].name, name))
			return &h->port[i];
	return NULL;
}

static bool is_tap(const struct host_port *p)
{
	return !strcmp(p->kind, "tun") || !strcmp(p->kind, "macvtap");
}

/* --- devices --- */

static bool get_u8(const struct nlattr *a)
{
	return mnl_attr_get_payload_len(a) >= 1 && *(const uint8_t *)mnl_attr_get_payload(a);
}

static uint32_t get_u32(const struct nlattr *a)
{
	return mnl_attr_get_payload_len(a) >= 4 ? mnl_attr_get_u32(a) : 0;
}

static void copy_text(char *to, size_t size, const struct nlattr *a)
{
	snprintf(to, size, "%.*s", (int)mnl_attr_get_payload_len(a), (const char *)mnl_attr_get_payload(a));
}

static void port_data(struct host_port *p, const struct nlattr *data)
{
	const struct nlattr *a;

	p->is_port = true;
	p->learning = true;	/* unless said otherwise */
	mnl_attr_for_each_nested(a, data)
		switch (mnl_attr_get_type(a)) {
		case IFLA_BRPORT_STATE:
			p->stp_state = *(const uint8_t *)mnl_attr_get_payload(a);
			break;
		case IFLA_BRPORT_LEARNING:
			p->learning = get_u8(a);
			break;
		case IFLA_BRPORT_ISOLATED:
			p->isolated = get_u8(a);
			break;
		case IFLA_BRPORT_LOCKED:
			p->locked = get_u8(a);
			break;
		}
}

static void bridge_data(struct host_port *p, const struct nlattr *data)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, data)
		switch (mnl_attr_get_type(a)) {
		case IFLA_BR_VLAN_FILTERING:
			p->vlan_filtering = get_u8(a);
			break;
		case IFLA_BR_NF_CALL_IPTABLES:
			p->call_iptables = get_u8(a);
			break;
		case IFLA_BR_NF_CALL_IP6TABLES:
			p->call_ip6tables = get_u8(a);
			break;
		}
}

static void macvlan_data(struct host_port *p, const struct nlattr *data)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, data)
		if (mnl_attr_get_type(a) == IFLA_MACVLAN_MODE)
			p->macvlan_mode = get_u32(a);
}

static void link_info(struct host_port *p, const struct nlattr *info)
{
	const struct nlattr *a, *data = NULL, *slave_data = NULL;
	char slave_kind[16] = "";

	mnl_attr_for_each_nested(a, info)
		switch (mnl_attr_get_type(a)) {
		case IFLA_INFO_KIND:
			copy_text(p->kind, sizeof(p->kind), a);
			break;
		case IFLA_INFO_SLAVE_KIND:
			copy_text(slave_kind, sizeof(slave_kind), a);
			break;
		case IFLA_INFO_DATA:
			data = a;
			break;
		case IFLA_INFO_SLAVE_DATA:
			slave_data = a;
			break;
		}
	if (data && !strcmp(p->kind, "bridge"))
		bridge_data(p, data);
	if (data && !strcmp(p->kind, "macvtap"))
		macvlan_data(p, data);
	if (slave_data && !strcmp(slave_kind, "bridge"))
		port_data(p, slave_data);
}

static void xdp_info(struct host_port *p, const struct nlattr *xdp)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, xdp)
		if (mnl_attr_get_type(a) == IFLA_XDP_ATTACHED)
			p->xdp = get_u8(a);
}

/* The kernel dumps by hash bucket, not by index; and a dump read again repeats entries. */
static struct host_port *new_port(struct hostnet *h, int index)
{
	struct host_port *p = hostnet_find_index(h, index);
	size_t at = h->n;

	if (p) {
		memset(p, 0, sizeof(*p));
	} else {
		if (!(h->n & (h->n - 1)))
			h->port = realloc(h->port, (h->n ? 2 * h->n : 1) * sizeof(*h->port));
		while (at && h->port[at - 1].index > index)
			at--;
		memmove(&h->port[at + 1], &h->port[at], (h->n - at) * sizeof(*h->port));
		h->n++;
		p = &h->port[at];
		memset(p, 0, sizeof(*p));
	}
	p->index = index;
	return p;
}

static int on_link(const struct nlmsghdr *m, void *data)
{
	const struct ifinfomsg *i = mnl_nlmsg_get_payload(m);
	struct host_port *p = new_port(data, i->ifi_index);
	const struct nlattr *a;

	p->up = i->ifi_flags & IFF_UP;
	mnl_attr_for_each(a, m, sizeof(*i))
		switch (mnl_attr_get_type(a)) {
		case IFLA_IFNAME:
			copy_text(p->name, sizeof(p->name), a);
			break;
		case IFLA_MASTER:
			p->master = (int)get_u32(a);
			break;
		case IFLA_LINK:
			p->lower = (int)get_u32(a);
			break;
		case IFLA_LINKINFO:
			link_info(p, a);
			break;
		case IFLA_XDP:
			xdp_info(p, a);
			break;
		}
	return MNL_CB_OK;
}

static int read_links(struct netlink *n, struct hostnet *h)
{
	char buf[NETLINK_REQUEST_BYTES];
	struct ifinfomsg *i;
	struct nlmsghdr *m = netlink_request(buf, RTM_GETLINK, sizeof(*i), &i);

	mnl_attr_put_u32(m, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
	return netlink_dump(n, m, on_link, h);
}

/* --- VLANs of bridge ports --- */

static int on_vlans(const struct nlmsghdr *m, void *data)
{
	const struct ifinfomsg *i = mnl_nlmsg_get_payload(m);
	struct host_port *p = hostnet_find_index(data, i->ifi_index);
	const struct nlattr *a, *v;

	mnl_attr_for_each(a, m, sizeof(*i)) {
		if (!p || mnl_attr_get_type(a) != IFLA_AF_SPEC)
			continue;
		mnl_attr_for_each_nested(v, a) {
			const struct bridge_vlan_info *info = mnl_attr_get_payload(v);

			if (mnl_attr_get_type(v) == IFLA_BRIDGE_VLAN_INFO &&
			    mnl_attr_get_payload_len(v) >= sizeof(*info) && (info->flags & BRIDGE_VLAN_INFO_PVID)) {
				p->pvid = info->vid;
				p->pvid_untagged = info->flags & BRIDGE_VLAN_INFO_UNTAGGED;
			}
		}
	}
	return MNL_CB_OK;
}

static int read_vlans(struct netlink *n, struct hostnet *h)
{
	char buf[NETLINK_REQUEST_BYTES];
	struct ifinfomsg *i;
	struct nlmsghdr *m = netlink_request(buf, RTM_GETLINK, sizeof(*i), &i);
	bool any = false;

	for (size_t k = 0; k < h->n; k++)
		any |= h->port[k].vlan_filtering;
	if (!any)
		return 0;
	i->ifi_family = AF_BRIDGE;
	mnl_attr_put_u32(m, IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
	return netlink_dump(n, m, on_vlans, h);
}

/* --- tc --- */

/* Queueing disciplines that hold back and drop only what the device cannot take. */
static bool plain_qdisc(const char *kind)
{
	static const char *const plain[] = { "noqueue", "mq", "pfifo_fast", "fq", "fq_codel", "noop" };

	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (!strcmp(kind, plain[i]))
			return true;
	return false;
}

static bool fq_limits(const struct nlattr *options)
{
	const struct nlattr *a;

	mnl_attr_for_each_nested(a, options)
		if (mnl_attr_get_type(a) == TCA_FQ_FLOW_MAX_RATE && get_u32(a) != UINT32_MAX)
			return true;
	return false;
}

static int on_qdisc(const struct nlmsghdr *m, void *data)
{
	const struct tcmsg *t = mnl_nlmsg_get_payload(m);
	struct host_port *p = hostnet_find_index(data, t->tcm_ifindex);
	const struct nlattr *a, *options = NULL;
	bool shared = false;
	char kind[16] = "";

	if (!p)
		return MNL_CB_OK;
	mnl_attr_for_each(a, m, sizeof(*t))
		switch (mnl_attr_get_type(a)) {
		case TCA_KIND:
			copy_text(kind, sizeof(kind), a);
			break;
		case TCA_OPTIONS:
			options = a;
			break;
		case TCA_INGRESS_BLOCK:
		case TCA_EGRESS_BLOCK:
			shared = true;
			break;
		}
	if (shared)
		hostnet_object(p, "a shared block of tc filters");
	else if (!strcmp(kind, "clsact") || !strcmp(kind, "ingress"))
		p->filters_possible = true;
	else if (!TC_H_MAJ(t->tcm_handle))
		return MNL_CB_OK;	/* handle 0: the kernel's own default, whatever it was set to */
	else if (!plain_qdisc(kind))
		hostnet_object(p, "tc qdisc %s limits or shapes it", kind);
	else if (!strcmp(kind, "fq") && options && fq_limits(options))
		hostnet_object(p, "tc qdisc fq with a maxrate limits it");
	return MNL_CB_OK;
}

static int on_filter(const struct nlmsghdr *m, void *data)
{
	(void)m;
	hostnet_object(data, "a tc filter");
	return MNL_CB_OK;
}

static int read_filters(struct netlink *n, struct host_port *p)
{
	static const uint32_t parents[] = {
		TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS),
		TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS),
	};
	int r = 0;

	for (size_t i = 0; i < 2 && !r; i++) {
		char buf[NETLINK_REQUEST_BYTES];
		struct tcmsg *t;
		struct nlmsghdr *m = netlink_request(buf, RTM_GETTFILTER, sizeof(*t), &t);

		t->tcm_ifindex = p->index;
		t->tcm_parent = parents[i];
		r = netlink_dump(n, m, on_filter, p);
		if (r == -EINVAL || r == -ENOENT)	/* plain `ingress` has no egress; or it is gone */
			r = 0;
	}
	return r;
}

static int read_tc(struct netlink *n, struct hostnet *h)
{
	char buf[NETLINK_REQUEST_BYTES];
	struct tcmsg *t;
	int r = netlink_dump(n, netlink_request(buf, RTM_GETQDISC, sizeof(*t), &t), on_qdisc, h);

	for (size_t i = 0; i < h->n && !r; i++)
		if (h->port[i].filters_possible && is_tap(&h->port[i]))
			r = read_filters(n, &h->port[i]);
	return r;
}

/* --- br_netfilter --- */

static bool sysctl_set(const char *name)
{
	char path[96];
	_cleanup_file_ FILE *f = NULL;

	snprintf(path, sizeof(path), "/proc/sys/net/bridge/%s", name);
	f = fopen(path, "re");
	return f && fgetc(f) == '1';
}

/** hostnet_is_switched() - Whether a device is a tap on a bridge, whose frames the bridge family sees. */
bool hostnet_is_switched(const struct host_port *p)
{
	return p->is_port && !strcmp(p->kind, "tun");
}

/** hostnet_calls() - Whether bridged frames of a tap are lent to the filters of IPv4 or IPv6. */
bool hostnet_calls(const struct hostnet *h, const struct host_port *p, bool ip6)
{
	const struct host_port *bridge = hostnet_find_index(h, p->master);

	if (!hostnet_is_switched(p))
		return false;
	if (ip6)
		return h->call_ip6tables || (bridge && bridge->call_ip6tables);
	return h->call_iptables || (bridge && bridge->call_iptables);
}

/* --- the snapshot --- */

static uint64_t hash_taps(const struct hostnet *h)
{
	uint64_t sum = 0xcbf29ce484222325ull;	/* FNV-1a */

	for (size_t i = 0; i < h->n; i++) {
		if (!is_tap(&h->port[i]))
			continue;
		sum = (sum ^ (uint64_t)h->port[i].index) * 0x100000001b3ull;
		for (const char *c = h->port[i].name; *c; c++)
			sum = (sum ^ (uint8_t)*c) * 0x100000001b3ull;
	}
	return sum;
}

/**
 * hostnet_read() - Look at everything that may matter, in a few dumps whatever the number of VMs.
 * @ret: the snapshot; the caller frees it. What could not be looked at is in its @blind.
 *
 * Return: 0, or a negative errno: there is no snapshot at all.
 */
int hostnet_read(struct hostnet **ret)
{
	__attribute__((cleanup(netlink_close))) struct netlink n = { 0 };
	struct hostnet *h = calloc(1, sizeof(*h));
	int r = netlink_open(&n, NETLINK_ROUTE);

	if (!r)
		r = read_links(&n, h);
	if (!r)
		r = read_vlans(&n, h);
	if (!r)
		r = read_tc(&n, h);
	if (r) {
		hostnet_free(h);
		return r;
	}
	h->taps = hash_taps(h);
	h->call_iptables = sysctl_set("bridge-nf-call-iptables");
	h->call_ip6tables = sysctl_set("bridge-nf-call-ip6tables");
	nft_read(h);
	xtables_read(h);
	*ret = h;
	return 0;
}

/** hostnet_free() - NULL is fine. */
void hostnet_free(struct hostnet *h)
{
	if (!h)
		return;
	free(h->port);
	free(h);
}

/* --- judging a tap --- */

static const char *bridge_port_obstacle(const struct host_port *p, const struct host_port *bridge)
{
	if (p->isolated)
		return "its bridge port is isolated";
	if (p->locked)
		return "its bridge port is locked";
	if (!p->learning)
		return "its bridge port does not learn";
	if (!bridge->up)
		return "its bridge is down";
	if (p->stp_state != BR_STATE_FORWARDING)
		return p->stp_state == BR_STATE_DISABLED ? "its bridge port is disabled" :
							   "its bridge port is not forwarding";
	if (bridge->vlan_filtering && !p->pvid)
		return "its bridge port takes only tagged frames (no PVID)";
	if (bridge->vlan_filtering && !p->pvid_untagged)
		return "its bridge port tags what it sends";
	return NULL;
}

static const char *place_obstacle(const struct hostnet *h, const struct host_port *p, uint64_t *ret_network)
{
	const struct host_port *master = p->master ? hostnet_find_index(h, p->master) : NULL;
	const char *why;

	if (!strcmp(p->kind, "macvtap")) {
		*ret_network = (uint64_t)(uint32_t)p->lower << 16;
		return p->macvlan_mode == MACVLAN_MODE_BRIDGE ? NULL : "a macvtap that is not in bridge mode";
	}
	if (!p->master)
		return "it is on no bridge: the host routes";
	if (!master)
		return "its bridge cannot be seen";
	if (!strcmp(master->kind, "openvswitch"))
		return "it is on Open vSwitch, whose flows cannot be judged";
	if (strcmp(master->kind, "bridge") || !p->is_port)
		return "it is on something that is not a bridge";
	why = bridge_port_obstacle(p, master);
	if (!why)
		*ret_network = (uint64_t)(uint32_t)p->master << 16 | (master->vlan_filtering ? p->pvid : 0xffff);
	return why;
}

/**
 * hostnet_judge() - Whether the host only switches a tap's frames.
 * @words: gets the obstacle in words, naming the tap.
 * @ret_network: gets the network it is in if there is none; frames pass between taps with equal ones.
 *
 * Return: @words, or NULL if the tap is plain.
 */
const char *hostnet_judge(const struct hostnet *h, const struct host_port *p, char *words, size_t size,
			  uint64_t *ret_network)
{
	uint64_t network = 0;
	const char *why = *h->blind ? h->blind : *p->obstacle ? p->obstacle : NULL;

	if (!why && p->xdp)
		why = "an XDP program";
	if (!why && !p->up)
		why = "it is down";
	if (!why)
		why = place_obstacle(h, p, &network);
	if (why) {
		snprintf(words, size, "tap %s: %s", p->name, why);
		return words;
	}
	*ret_network = network;
	return NULL;
}
