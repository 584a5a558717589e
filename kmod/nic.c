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
	if (!eligible(nic, skb)) {
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
