// SPDX-License-Identifier: GPL-2.0-only
/*
 * NICs: the guest's real network devices, and the egress hook on those shuntd named.
 *
 * A NIC is identified by its permanent address and by having a bus device behind it (a macvlan, bond
 * or bridge with the same address has none). The notifier follows registration, unregistration
 * and moves between network namespaces (which are an unregister and a register).
 * Writers hold rtnl; the data path finds bound NICs under RCU.
 *
 * What the guest builds on a NIC keeps working because frames leave and arrive below it: bridges, VLAN
 * devices and macvlan take them from the NIC. Addresses need care: a frame may leave by another of our NICs
 * than the one whose address it has, and must arrive where the guest listens for it now (a bond).
 */
#include <linux/if_arp.h>
#include <linux/netfilter_netdev.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/sch_generic.h>

#include "compat/compat.h"
#include "shunt.h"

LIST_HEAD(shunt_nics);

static struct shunt_abi_mac allowed[SHUNT_ABI_NICS_MAX];
static u32 allowed_n;

static struct shunt_nic *bound_nic(const u8 *addr)
{
	struct shunt_mac *mac = shunt_mac_lookup(addr);

	return mac ? mac->nic : NULL;
}

/**
 * shunt_nic_owns() - is this the permanent address of a bound NIC of ours?
 * @addr: 6 bytes
 *
 * Bonds send by any of their ports with the address of one.
 * Context: RCU read side.
 */
bool shunt_nic_owns(const u8 *addr)
{
	return bound_nic(addr);
}

static bool has_xdp(const struct net_device *dev)
{
	return rcu_access_pointer(dev->xdp_prog) || dev_xdp_prog_count((struct net_device *)dev);
}

static bool has_foreign_qdisc(const struct net_device *dev)
{
	static const char * const plain[] = { "noqueue", "mq", "pfifo_fast", "fq", "fq_codel", "noop" };
	const struct Qdisc *qdisc = rcu_dereference(dev->qdisc);
	unsigned int i;

	if (qdisc && __sysfs_match_string(plain, ARRAY_SIZE(plain), qdisc->ops->id) < 0)
		return true;
	for (i = 0; i < dev->real_num_tx_queues; i++) {
		qdisc = rcu_dereference(netdev_get_tx_queue(dev, i)->qdisc);
		if (qdisc && __sysfs_match_string(plain, ARRAY_SIZE(plain), qdisc->ops->id) < 0)
			return true;
	}
	return false;
}

/*
 * A queueing discipline, tc program or XDP program somebody attached may enforce something that a frame
 * in shared memory would bypass; only the kernel's own defaults are known not to (RULES 12). And a NIC
 * whose cable somebody pulled (QEMU's set_link) must not talk. Callers hold the RCU read lock.
 */
static const char *obstacle(const struct net_device *dev)
{
	if (!netif_running(dev))
		return "it is down";
	if (!netif_carrier_ok(dev))
		return "it has no carrier";
	if (shunt_dev_has_tc_egress(dev))
		return "it has a tc egress filter";
	if (has_xdp(dev))
		return "it has an XDP program";
	if (has_foreign_qdisc(dev))
		return "it has a queueing discipline";
	return NULL;
}

/**
 * shunt_nic_clear() - does nothing attached to the NIC keep its frames on the network?
 * @nic: a bound NIC
 *
 * Most of it has no notifier: it is looked at once a jiffy.
 * Context: data path; RCU read side.
 */
bool shunt_nic_clear(struct shunt_nic *nic)
{
	unsigned long now = jiffies;

	if (READ_ONCE(nic->looked) != now) {
		WRITE_ONCE(nic->clear, !obstacle(nic->dev));
		WRITE_ONCE(nic->looked, now);
	}
	return READ_ONCE(nic->clear);
}

/*
 * The device that hears frames for an address of ours now. A port of a bond or team may be one whose
 * frames its master discards, so the master itself gets them; the guest may have exchanged the addresses of two
 * NICs. Else it is the NIC that has the address by birth: it may be a bridge's port, or promiscuous.
 */
static struct net_device *listener(const struct shunt_nic *nic, const u8 *addr)
{
	struct net_device *dev = nic->dev, *master;
	struct shunt_nic *other;
	u32 i;

	if (netif_is_lag_port(dev)) {
		master = netdev_master_upper_dev_get_rcu(dev);
		return master ?: dev;
	}
	if (likely(ether_addr_equal(dev->dev_addr, addr)))
		return dev;
	for (i = 0; i < READ_ONCE(allowed_n); i++) {
		other = bound_nic(allowed[i].addr);
		if (other && other != nic && ether_addr_equal(other->dev->dev_addr, addr))
			return other->dev;
	}
	return dev;
}

/* A generic XDP program sees what is handed up. One in the driver would not, and must not be passed by. */
static bool has_driver_xdp(const struct net_device *dev)
{
	return !rcu_access_pointer(dev->xdp_prog) && dev_xdp_prog_count((struct net_device *)dev);
}

static bool hears(const struct shunt_nic *nic, const struct net_device *dev)
{
	return netif_running(dev) && netif_carrier_ok(dev) && !has_driver_xdp(dev) &&
	       (dev == nic->dev || !has_driver_xdp(nic->dev));
}

/**
 * shunt_nic_receiver() - the device that receives a frame for this address, or NULL
 * @addr: the frame's destination
 *
 * NULL: it is not ours, or its NIC takes nothing from a ring now.
 * Context: RCU read side.
 */
struct net_device *shunt_nic_receiver(const u8 *addr)
{
	struct shunt_nic *nic = bound_nic(addr);
	struct net_device *dev = nic ? listener(nic, addr) : NULL;

	return dev && hears(nic, dev) ? dev : NULL;
}

/* What peers should put into rings for the address: nothing where XDP is attached in either form. */
static u16 takes(const u8 *addr)
{
	struct shunt_nic *nic = bound_nic(addr);
	struct net_device *dev = nic ? listener(nic, addr) : NULL;

	if (!dev || !hears(nic, dev) || has_xdp(dev) || has_xdp(nic->dev))
		return SHUNT_ABI_MTU_NONE;
	return min_t(u32, READ_ONCE(dev->mtu), SHUNT_MTU_UNKNOWN);
}

/**
 * shunt_nic_publish() - tell a peer what our NICs take through rings
 * @own: our line in the segment
 *
 * Context: shunt_mutex.
 */
void shunt_nic_publish(struct shunt_abi_member *own)
{
	u32 i;

	lockdep_assert_held(&shunt_mutex);
	for (i = 0; i < SHUNT_ABI_NICS_MAX; i++) {
		struct shunt_abi_member_nic say = { };
		u64 word;

		if (i < allowed_n) {
			ether_addr_copy(say.addr, allowed[i].addr);
			rcu_read_lock();
			say.mtu = takes(say.addr);
			rcu_read_unlock();
		}
		memcpy(&word, &say, sizeof(word));
		WRITE_ONCE(*(u64 *)&own->nic[i], word);
	}
}

/**
 * shunt_nic_describe() - "bound", or what else is to be known of the NIC
 * @nic: any
 * @buf: for the words
 * @size: of @buf
 *
 * Context: rtnl.
 */
void shunt_nic_describe(const struct shunt_nic *nic, char *buf, size_t size)
{
	const char *but = NULL;
	struct net_device *master;
	int n;

	ASSERT_RTNL();
	if (!nic->bound) {
		strscpy(buf, "not named by shuntd", size);
		return;
	}
	master = netdev_master_upper_dev_get(nic->dev);
	n = scnprintf(buf, size, "bound%s%s%s", master ? ", a port of " : "", master ? master->name : "",
		      net_eq(dev_net(nic->dev), &init_net) ? "" : ", in another network namespace");
	rcu_read_lock();
	if (!shunt_nic_owns(nic->dev->dev_addr))
		but = "its address was changed";
	else
		but = obstacle(nic->dev);
	rcu_read_unlock();
	if (but)
		scnprintf(buf + n, size - n, ", but %s: frames take the network", but);
}

static void count_network(struct shunt_link *link, enum shunt_net_cause cause)
{
	atomic64_inc(&link->causes[cause]);
}

static unsigned int egress_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)
{
	struct shunt_nic *nic = priv;
	const struct ethhdr *eth;
	enum shunt_net_cause cause;
	struct shunt_link *link;
	struct shunt_mac *to;
	unsigned int verdict;

	if (unlikely(skb_headlen(skb) < ETH_HLEN))
		return NF_ACCEPT;
	eth = (const struct ethhdr *)skb->data;
	if (is_multicast_ether_addr(eth->h_dest))
		return NF_ACCEPT;
	to = shunt_mac_lookup(eth->h_dest);
	if (!to || !to->peer)
		return NF_ACCEPT;
	link = rcu_dereference(to->peer->link);
	if (!link) {
		shunt_peer_count(to->peer);
		return NF_ACCEPT;
	}
	cause = shunt_frame_judge(nic, to, skb);
	if (unlikely(cause)) {
		count_network(link, cause);
		return NF_ACCEPT;
	}
	if (likely(shunt_frame_plain(skb)))
		verdict = shunt_transmit(link, nic->dev, skb);
	else
		verdict = shunt_frame_transmit(link, nic->dev, skb);
	if (unlikely(verdict == NF_ACCEPT))
		count_network(link, SHUNT_NET_LINK);
	return verdict;
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
	nic->looked = jiffies - 1;
	shunt_mac_add(&nic->mac);
	nic->bound = true;
}

/* After this no hook runs and no lookup that could still find the NIC is under way. */
static void nic_unbind(struct shunt_nic *nic)
{
	if (!nic->bound)
		return;
	nic->bound = false;
	shunt_mac_del(&nic->mac);
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
		if (is_allowed(nic->mac.addr) && !nic->bound)
			nic_bind(nic);
		else if (!is_allowed(nic->mac.addr))
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
	ether_addr_copy(nic->mac.addr, dev->perm_addr);
	nic->mac.nic = nic;
	list_add_tail(&nic->list, &shunt_nics);
	if (is_allowed(nic->mac.addr))
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
