// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keeping bridges informed: frames in shared memory teach them nothing, so after their ageing time (five
 * minutes, mostly) they would have forgotten where our MAC lives and flood what comes for it from elsewhere.
 * While a link is up each bound NIC therefore sends one real frame per period (RULES 17).
 *
 * The frame goes from the NIC's MAC to the same MAC, with the ethertype of the Ethernet loopback test (0x9000), as
 * many switches do for keepalive: every bridge on the way learns the source, and the first one drops it,
 * because the destination is where it came from. A frame to a peer would reach that guest, counted there as
 * dropped; a broadcast would reach everybody. It belongs to no flow, so nothing is reordered.
 *
 * The uplink's tick says when; the frame is sent from a work of its own, because it takes rtnl, for which
 * the tick must not wait.
 */
#include <linux/rtnetlink.h>

#include "shunt.h"

#define CTP_REPLY 1	/* Ethernet V2.0, 8.2: configuration testing protocol */

/* By the bond, if there is one: it knows which of its ports bridges are to learn the address on. */
static struct net_device *refresh_dev(const struct shunt_nic *nic)
{
	struct net_device *master = netdev_master_upper_dev_get(nic->dev);

	return master && netif_is_lag_master(master) ? master : nic->dev;
}

static void refresh_send(struct shunt_nic *nic)
{
	struct net_device *dev = refresh_dev(nic);
	struct sk_buff *skb;
	struct ethhdr *eth;
	__le16 *ctp;
	int err;

	if (!nic->bound || !netif_running(dev) || !netif_carrier_ok(dev) ||
	    !ether_addr_equal(dev->dev_addr, nic->mac.addr))
		return;
	skb = netdev_alloc_skb(dev, LL_RESERVED_SPACE(dev) + ETH_ZLEN);
	if (!skb)
		return;		/* next time */
	skb_reserve(skb, LL_RESERVED_SPACE(dev) - ETH_HLEN);
	skb_reset_mac_header(skb);
	eth = skb_put_zero(skb, ETH_ZLEN);
	ether_addr_copy(eth->h_dest, nic->mac.addr);
	ether_addr_copy(eth->h_source, nic->mac.addr);
	eth->h_proto = htons(ETH_P_LOOPBACK);
	ctp = (__le16 *)(eth + 1);
	ctp[1] = cpu_to_le16(CTP_REPLY);	/* after a skip count of zero */
	skb_set_network_header(skb, ETH_HLEN);
	skb->protocol = eth->h_proto;
	skb->dev = dev;
	err = dev_queue_xmit(skb);	/* not inside net_xmit_eval(), which evaluates it twice */
	if (!net_xmit_eval(err))
		nic->refreshed++;
}

static void refresh_work(struct work_struct *work)
{
	struct shunt_nic *nic;

	rtnl_lock();
	list_for_each_entry(nic, &shunt_nics, list)
		refresh_send(nic);
	rtnl_unlock();
}

static DECLARE_WORK(refresh, refresh_work);
static unsigned long last;	/* jiffies; shunt_mutex */

/**
 * shunt_refresh_tick() - is it time for a real frame?
 * @linked: at least one link is up
 *
 * Context: shunt_mutex, every SHUNT_LIVENESS_MS.
 */
void shunt_refresh_tick(bool linked)
{
	unsigned int period = READ_ONCE(shunt_refresh_s);

	lockdep_assert_held(&shunt_mutex);
	if (!linked)
		last = jiffies;
	if (!linked || !period || time_before(jiffies, last + min(period, 3600U) * HZ))
		return;
	last = jiffies;
	schedule_work(&refresh);
}

/**
 * shunt_refresh_exit() - after the tick has ended: nothing schedules the work any more
 *
 * Context: process; sleeps.
 */
void shunt_refresh_exit(void)
{
	cancel_work_sync(&refresh);
}
