// SPDX-License-Identifier: GPL-2.0-only
/*
 * NICs: the guest's real network devices, and the egress hook on those shuntd named.
 *
 * A NIC is identified by its permanent address and by having a bus device behind it (a macvlan, bond
 * or bridge with the same address has none). The notifier follows registration, unregistration
 * and moves between network namespaces (which are an unregister and a register).
 * Writers hold rtnl; the data path finds bound NICs under RCU.
 */
#include <linux/hashtable.h>
#include <linux/if_arp.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/netfilter_netdev.h>
#include <linux/rculist.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/ip.h>
#include <net/sch_generic.h>

#include "compat/compat.h"
#include "shunt.h"

LIST_HEAD(shunt_nics);

static DEFINE_HASHTABLE(nic_hash, 4);
static struct shunt_abi_mac allowed[SHUNT_ABI_NICS_MAX];
static u32 allowed_n;

static u32 mac_key(const u8 *mac)
{
	return jhash(mac, ETH_ALEN, 0);
}

/**
 * shunt_nic_lookup() - the bound NIC with this permanent address, or NULL
 * @mac: 6 bytes
 *
 * Context: RCU read side.
 */
struct shunt_nic *shunt_nic_lookup(const u8 *mac)
{
	struct shunt_nic *nic;

	hash_for_each_possible_rcu(nic_hash, nic, hash, mac_key(mac))
		if (ether_addr_equal(nic->mac, mac))
			return nic;
	return NULL;
}

/*
 * Only IP crosses: ARP and neighbour discovery stay on the network, so that bridges keep seeing
 * where a MAC lives; so does DHCP, which QEMU-side services may answer (RULES 12).
 */
static bool eligible_proto(const struct sk_buff *skb)
{
	unsigned int off = ETH_HLEN;

	if (skb_vlan_tag_present(skb))
		return false;
	if (skb->protocol == htons(ETH_P_IP)) {
		struct iphdr buf;
		const struct iphdr *ip = skb_header_pointer(skb, off, sizeof(buf), &buf);
		__be16 ports[2], *p;

		if (!ip || ip->ihl < 5)
			return false;
		if (ip->protocol != IPPROTO_UDP || (ip->frag_off & htons(IP_OFFSET)))
			return true;
		p = skb_header_pointer(skb, off + ip->ihl * 4, sizeof(ports), ports);
		return p && p[1] != htons(67) && p[1] != htons(68);
	}
	if (skb->protocol == htons(ETH_P_IPV6)) {
		struct ipv6hdr buf;
		const struct ipv6hdr *ip = skb_header_pointer(skb, off, sizeof(buf), &buf);
		__be16 ports[2], *p;
		u8 type, *t;

		if (!ip)
			return false;
		off += sizeof(*ip);
		if (ip->nexthdr == IPPROTO_ICMPV6) {
			t = skb_header_pointer(skb, off, sizeof(type), &type);
			return t && (*t < 133 || *t > 137);	/* RS, RA, NS, NA, redirect */
		}
		if (ip->nexthdr != IPPROTO_UDP)
			return true;
		p = skb_header_pointer(skb, off, sizeof(ports), ports);
		return p && p[1] != htons(546) && p[1] != htons(547);
	}
	return false;
}

/* GSO kinds the packet header can describe and every 6.1+ receiver can take. */
static bool eligible_gso(const struct sk_buff *skb)
{
	const unsigned int known = SKB_GSO_TCPV4 | SKB_GSO_TCPV6 | SKB_GSO_TCP_ECN |
				   SKB_GSO_DODGY | SKB_GSO_TCP_FIXEDID;
	unsigned int type = skb_shinfo(skb)->gso_type;

	return !(type & ~known) && (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6));
}

static bool eligible(const struct shunt_nic *nic, const struct sk_buff *skb)
{
	const struct ethhdr *eth = (const struct ethhdr *)skb->data;

	if (!ether_addr_equal(eth->h_source, nic->mac) || eth->h_proto != skb->protocol)
		return false;
	if (skb->len > SHUNT_ABI_PKT_FRAME_MAX)
		return false;
	if (skb_is_gso(skb) ? !eligible_gso(skb) : skb->len > nic->dev->mtu + ETH_HLEN)
		return false;
	return eligible_proto(skb);
}

/*
 * A queueing discipline, tc program or XDP program somebody attached may enforce something that a frame
 * in shared memory would bypass; only the kernel's own defaults are known not to (RULES 12).
 */
static const char *obstacle(const struct shunt_nic *nic)
{
	static const char * const plain[] = { "noqueue", "mq", "pfifo_fast", "fq", "fq_codel", "noop" };
	const struct net_device *dev = nic->dev;
	const struct Qdisc *root = rcu_dereference(dev->qdisc);
	const struct Qdisc *leaf = rcu_dereference(netdev_get_tx_queue(dev, 0)->qdisc);

	if (shunt_dev_has_tc_egress(dev))
		return "a tc egress filter";
	if (dev_xdp_prog_count((struct net_device *)dev) || rcu_access_pointer(dev->xdp_prog))
		return "an XDP program";
	if (root && __sysfs_match_string(plain, ARRAY_SIZE(plain), root->ops->id) < 0)
		return "a queueing discipline";
	if (leaf && __sysfs_match_string(plain, ARRAY_SIZE(plain), leaf->ops->id) < 0)
		return "a queueing discipline";
	return NULL;
}

/* obstacle() compares names; this remembers the kinds of qdisc it last found harmless. */
static bool unobstructed(struct shunt_nic *nic)
{
	const struct net_device *dev = nic->dev;
	const struct Qdisc *root = rcu_dereference(dev->qdisc);
	const struct Qdisc *leaf = rcu_dereference(netdev_get_tx_queue(dev, 0)->qdisc);

	if (!root || !leaf)
		return false;
	if (likely(root->ops == READ_ONCE(nic->plain_root) && leaf->ops == READ_ONCE(nic->plain_leaf)))
		return !shunt_dev_has_tc_egress(dev) && !rcu_access_pointer(dev->xdp_prog) &&
		       !dev_xdp_prog_count((struct net_device *)dev);
	if (obstacle(nic))
		return false;
	WRITE_ONCE(nic->plain_root, root->ops);
	WRITE_ONCE(nic->plain_leaf, leaf->ops);
	return true;
}

/**
 * shunt_nic_obstacle() - what somebody attached to the NIC that keeps it on the network, or NULL
 * @nic: a bound NIC
 *
 * Context: process or data path; takes the RCU read lock.
 */
const char *shunt_nic_obstacle(const struct shunt_nic *nic)
{
	const char *what;

	rcu_read_lock();
	what = obstacle(nic);
	rcu_read_unlock();
	return what;
}

static unsigned int egress_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct shunt_nic *nic = priv;
	const struct ethhdr *eth;
	struct shunt_link *link;
	struct shunt_peer *peer;

	if (unlikely(skb_headlen(skb) < ETH_HLEN))
		return NF_ACCEPT;
	eth = (const struct ethhdr *)skb->data;
	if (is_multicast_ether_addr(eth->h_dest))
		return NF_ACCEPT;
	peer = shunt_peer_lookup(eth->h_dest);
	if (!peer)
		return NF_ACCEPT;
	link = rcu_dereference(peer->link);
	if (!link) {
		shunt_peer_count(peer);
		return NF_ACCEPT;
	}
	if (!eligible(nic, skb) || !unobstructed(nic)) {
		WRITE_ONCE(link->stats.tx_ineligible, link->stats.tx_ineligible + 1);
		return NF_ACCEPT;
	}
	return shunt_transmit(link, nic->dev, skb);
}

static bool is_allowed(const u8 *mac)
{
	u32 i;

	for (i = 0; i < allowed_n; i++)
		if (ether_addr_equal(allowed[i].addr, mac))
			return true;
	return false;
}

static void nic_bind(struct shunt_nic *nic)
{
	int err;

	nic->ops = kzalloc(sizeof(*nic->ops), GFP_KERNEL);
	if (!nic->ops)
		return;
	nic->ops->hook = egress_hook;
	nic->ops->priv = nic;
	nic->ops->dev = nic->dev;
	nic->ops->pf = NFPROTO_NETDEV;
	nic->ops->hooknum = NF_NETDEV_EGRESS;
	nic->ops->priority = INT_MAX;	/* after everybody else's hooks (RULES 11) */
	err = nf_register_net_hook(dev_net(nic->dev), nic->ops);
	if (err) {
		netdev_warn(nic->dev, "shunt: no egress hook (%d): stays on the network\n", err);
		kfree(nic->ops);
		nic->ops = NULL;
		return;
	}
	hash_add_rcu(nic_hash, &nic->hash, mac_key(nic->mac));
	nic->bound = true;
}

/* After this no hook runs and no lookup that could still find the NIC is under way. */
static void nic_unbind(struct shunt_nic *nic)
{
	if (!nic->bound)
		return;
	nic->bound = false;
	hash_del_rcu(&nic->hash);
	nf_unregister_net_hook(dev_net(nic->dev), nic->ops);
	synchronize_net();
	kfree(nic->ops);
	nic->ops = NULL;
}

/**
 * shunt_nic_allow() - bind exactly the NICs with these permanent addresses
 * @macs: addresses shuntd named
 * @n: how many; 0 unbinds all
 *
 * Context: takes rtnl; sleeps.
 */
void shunt_nic_allow(const struct shunt_abi_mac *macs, u32 n)
{
	struct shunt_nic *nic;

	rtnl_lock();
	allowed_n = min_t(u32, n, SHUNT_ABI_NICS_MAX);
	if (allowed_n)
		memcpy(allowed, macs, allowed_n * sizeof(*macs));
	list_for_each_entry(nic, &shunt_nics, list) {
		if (is_allowed(nic->mac) && !nic->bound)
			nic_bind(nic);
		else if (!is_allowed(nic->mac))
			nic_unbind(nic);
	}
	rtnl_unlock();
}

static void nic_add(struct net_device *dev)
{
	struct shunt_nic *nic;

	if (dev->type != ARPHRD_ETHER || !dev->dev.parent || !is_valid_ether_addr(dev->perm_addr))
		return;
	nic = kzalloc(sizeof(*nic), GFP_KERNEL);
	if (!nic)
		return;
	nic->dev = dev;
	ether_addr_copy(nic->mac, dev->perm_addr);
	list_add_tail(&nic->list, &shunt_nics);
	if (is_allowed(nic->mac))
		nic_bind(nic);
}

static void nic_del(struct net_device *dev)
{
	struct shunt_nic *nic, *next;

	list_for_each_entry_safe(nic, next, &shunt_nics, list)
		if (nic->dev == dev) {
			nic_unbind(nic);
			list_del(&nic->list);
			kfree(nic);
		}
}

static int nic_event(struct notifier_block *nb, unsigned long event, void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);

	if (event == NETDEV_REGISTER)
		nic_add(dev);
	else if (event == NETDEV_UNREGISTER)
		nic_del(dev);
	return NOTIFY_DONE;
}

static struct notifier_block nic_notifier = { .notifier_call = nic_event };

/**
 * shunt_nic_init() - start following network devices
 *
 * Context: process; takes rtnl.
 */
int shunt_nic_init(void)
{
	return register_netdevice_notifier(&nic_notifier);
}

/**
 * shunt_nic_exit() - unhook every NIC
 *
 * unregister_netdevice_notifier() replays UNREGISTER for every device, which unbinds them.
 * Context: process; takes rtnl.
 */
void shunt_nic_exit(void)
{
	unregister_netdevice_notifier(&nic_notifier);
}
