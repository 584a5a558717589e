// SPDX-License-Identifier: GPL-2.0-only
/*
 * The generic-netlink family: what `shunt` asks and says in a guest. See include/shunt/abi/netlink.h.
 */
#include <net/genetlink.h>
#include <linux/rtnetlink.h>

#include "shunt.h"

static struct genl_family shunt_family;
static bool registered;	/* events stop before the family's multicast group can become somebody else's */

static int put_status(struct sk_buff *msg)
{
	const struct shunt_abi_msg_welcome *w = &shunt_uplink.welcome;

	if (nla_put_string(msg, SHUNT_A_MODULE_VERSION, SHUNT_VERSION) ||
	    nla_put_u32(msg, SHUNT_A_ABI_VERSION, SHUNT_ABI_VERSION) ||
	    nla_put_u32(msg, SHUNT_A_UPLINK_STATE, shunt_uplink.state) ||
	    nla_put_u32(msg, SHUNT_A_UPLINK_REASON, shunt_uplink.reason) ||
	    nla_put_u32(msg, SHUNT_A_SEGMENT_KIND, shunt_uplink.kind) ||
	    nla_put_u64_64bit(msg, SHUNT_A_GENERATION, shunt_generation, SHUNT_A_PAD) ||
	    nla_put_u64_64bit(msg, SHUNT_A_UPLINK_BAD_MSGS, shunt_uplink.bad_msgs, SHUNT_A_PAD))
		return -EMSGSIZE;
	if (shunt_uplink.state != SHUNT_UPLINK_READY)
		return 0;
	if (nla_put_u32(msg, SHUNT_A_VM_ID, w->vm_id) ||
	    nla_put_string(msg, SHUNT_A_VM_NAME, w->name) ||
	    nla_put_string(msg, SHUNT_A_LABEL, w->label) ||
	    nla_put_string(msg, SHUNT_A_HOST, w->host) ||
	    nla_put_u64_64bit(msg, SHUNT_A_ROSTER_GEN, shunt_uplink.roster_gen, SHUNT_A_PAD))
		return -EMSGSIZE;
	return 0;
}

static int status_get(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *msg = genlmsg_new(NLMSG_GOODSIZE, GFP_KERNEL);
	void *hdr;
	int err;

	if (!msg)
		return -ENOMEM;
	hdr = genlmsg_put_reply(msg, info, &shunt_family, 0, SHUNT_CMD_STATUS_GET);
	if (!hdr) {
		nlmsg_free(msg);
		return -EMSGSIZE;
	}
	mutex_lock(&shunt_mutex);
	err = put_status(msg);
	mutex_unlock(&shunt_mutex);
	if (err) {
		nlmsg_free(msg);
		return err;
	}
	genlmsg_end(msg, hdr);
	return genlmsg_reply(msg, info);
}

static int put_nic(struct sk_buff *msg, const struct shunt_nic *nic)
{
	char state[160];

	shunt_nic_describe(nic, state, sizeof(state));
	if (nla_put_string(msg, SHUNT_A_NIC_NAME, nic->dev->name) ||
	    nla_put(msg, SHUNT_A_NIC_MAC, ETH_ALEN, nic->mac.addr) ||
	    nla_put_string(msg, SHUNT_A_NIC_STATE, state) ||
	    nla_put_u64_64bit(msg, SHUNT_A_NIC_REFRESHED, nic->refreshed, SHUNT_A_PAD))
		return -EMSGSIZE;
	return 0;
}

static int nic_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct shunt_nic *nic;
	long i = 0;

	rtnl_lock();
	list_for_each_entry(nic, &shunt_nics, list) {
		void *hdr;

		if (i++ < cb->args[0])
			continue;
		hdr = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &shunt_family,
				  NLM_F_MULTI, SHUNT_CMD_NIC_GET);
		if (!hdr || put_nic(skb, nic)) {
			if (hdr)
				genlmsg_cancel(skb, hdr);
			break;
		}
		genlmsg_end(skb, hdr);
		cb->args[0] = i;
	}
	rtnl_unlock();
	return skb->len;
}

static struct shunt_link *peer_link(const struct shunt_peer *peer)
{
	struct shunt_device *dev;
	struct shunt_link *link;

	list_for_each_entry(dev, &shunt_devices, list)
		shunt_device_for_each_link(dev, link)
			if (link->peer == peer)
				return link;
	return NULL;
}

static int put_causes(struct sk_buff *msg, const struct shunt_link *link)
{
	struct nlattr *attr = nla_reserve(msg, SHUNT_A_LINK_CAUSES, SHUNT_NET_MAX * sizeof(u64));
	int i;

	if (!attr)
		return -EMSGSIZE;
	for (i = 0; i < SHUNT_NET_MAX; i++) {
		u64 n = atomic64_read(&link->causes[i]);

		memcpy(nla_data(attr) + i * sizeof(n), &n, sizeof(n));
	}
	return 0;
}

static int put_link(struct sk_buff *msg, struct shunt_link *link)
{
	struct shunt_abi_link_stats stats;
	u64 used, size;

	spin_lock_bh(&link->tx_lock);
	size = link->tx.size;
	used = link->tx.prod - link->tx.cons;
	spin_unlock_bh(&link->tx_lock);
	shunt_link_stats(link, &stats);
	if (nla_put_u32(msg, SHUNT_A_LINK_STATE, link->state) ||
	    nla_put_u32(msg, SHUNT_A_LINK_REASON, link->reason) ||
	    nla_put_u64_64bit(msg, SHUNT_A_LINK_SEGMENT, link->dev->hdr.segment_id, SHUNT_A_PAD) ||
	    nla_put_u32(msg, SHUNT_A_SEGMENT_KIND, link->dev->kind) ||
	    nla_put_u32(msg, SHUNT_A_LINK_EPOCH, link->epoch) ||
	    nla_put_string(msg, SHUNT_A_LINK_DEVICE, pci_name(link->dev->pdev)) ||
	    nla_put(msg, SHUNT_A_LINK_STATS, sizeof(stats), &stats) ||
	    nla_put_u64_64bit(msg, SHUNT_A_LINK_RING_SIZE, size, SHUNT_A_PAD) ||
	    nla_put_u64_64bit(msg, SHUNT_A_LINK_RING_TX_USED, used, SHUNT_A_PAD) ||
	    nla_put_u64_64bit(msg, SHUNT_A_LINK_AGE_MS, jiffies_to_msecs(jiffies - link->since),
			      SHUNT_A_PAD))
		return -EMSGSIZE;
	return put_causes(msg, link);
}

static int put_macs(struct sk_buff *msg, const struct shunt_peer *peer)
{
	struct nlattr *attr = nla_reserve(msg, SHUNT_A_PEER_MACS, peer->macs * ETH_ALEN);
	u32 i;

	if (!attr)
		return -EMSGSIZE;
	for (i = 0; i < peer->macs; i++)
		memcpy(nla_data(attr) + i * ETH_ALEN, peer->mac[i].addr, ETH_ALEN);
	return 0;
}

static int put_peer(struct sk_buff *msg, struct shunt_peer *peer)
{
	struct shunt_link *link = peer_link(peer);

	if (nla_put_u32(msg, SHUNT_A_PEER_VM_ID, peer->vm_id) ||
	    nla_put_string(msg, SHUNT_A_PEER_NAME, peer->name) ||
	    nla_put_string(msg, SHUNT_A_PEER_LABEL, peer->label) ||
	    nla_put_u64_64bit(msg, SHUNT_A_PEER_GENERATION, peer->generation, SHUNT_A_PAD) ||
	    put_macs(msg, peer) ||
	    nla_put_u32(msg, SHUNT_A_PEER_REASON, peer->reason) ||
	    nla_put_u64_64bit(msg, SHUNT_A_PEER_NET_FRAMES, atomic64_read(&peer->net_frames),
			      SHUNT_A_PAD))
		return -EMSGSIZE;
	return link ? put_link(msg, link) : 0;
}

static int peer_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct shunt_peer *peer;
	long i = 0;

	mutex_lock(&shunt_mutex);
	list_for_each_entry(peer, &shunt_peers, list) {
		void *hdr;

		if (i++ < cb->args[0])
			continue;
		hdr = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq, &shunt_family,
				  NLM_F_MULTI, SHUNT_CMD_PEER_GET);
		if (!hdr || put_peer(skb, peer)) {
			if (hdr)
				genlmsg_cancel(skb, hdr);
			break;
		}
		genlmsg_end(skb, hdr);
		cb->args[0] = i;
	}
	mutex_unlock(&shunt_mutex);
	return skb->len;
}

static int attach(struct sk_buff *skb, struct genl_info *info)
{
	return shunt_uplink_attach();
}

static int detach(struct sk_buff *skb, struct genl_info *info)
{
	return shunt_uplink_detach(SHUNT_ABI_R_DETACHED);
}

static const struct genl_ops shunt_ops[] = {
	{ .cmd = SHUNT_CMD_STATUS_GET, .doit = status_get },
	{ .cmd = SHUNT_CMD_NIC_GET, .dumpit = nic_dump },
	{ .cmd = SHUNT_CMD_PEER_GET, .dumpit = peer_dump },
	{ .cmd = SHUNT_CMD_ATTACH, .doit = attach, .flags = GENL_ADMIN_PERM },
	{ .cmd = SHUNT_CMD_DETACH, .doit = detach, .flags = GENL_ADMIN_PERM },
};

static const struct genl_multicast_group shunt_groups[] = {
	{ .name = SHUNT_GENL_MCGRP_EVENTS },
};

static struct genl_family shunt_family __ro_after_init = {
	.name = SHUNT_GENL_NAME,
	.version = SHUNT_GENL_VERSION,
	.maxattr = SHUNT_A_MAX,
	.module = THIS_MODULE,
	.parallel_ops = true,
	.ops = shunt_ops,
	.n_ops = ARRAY_SIZE(shunt_ops),
	.resv_start_op = SHUNT_CMD_EVENT + 1,
	.mcgrps = shunt_groups,
	.n_mcgrps = ARRAY_SIZE(shunt_groups),
};

/**
 * shunt_netlink_event() - multicast that a peer or its link changed
 * @peer: the peer
 *
 * Context: shunt_mutex; sleeps.
 */
void shunt_netlink_event(struct shunt_peer *peer)
{
	struct sk_buff *msg;
	void *hdr;

	lockdep_assert_held(&shunt_mutex);
	msg = registered ? genlmsg_new(NLMSG_GOODSIZE, GFP_KERNEL) : NULL;
	if (!msg)
		return;
	hdr = genlmsg_put(msg, 0, 0, &shunt_family, 0, SHUNT_CMD_EVENT);
	if (!hdr || put_peer(msg, peer)) {
		nlmsg_free(msg);
		return;
	}
	genlmsg_end(msg, hdr);
	genlmsg_multicast(&shunt_family, msg, 0, 0, GFP_KERNEL);
}

/**
 * shunt_netlink_init() - register the family
 */
int shunt_netlink_init(void)
{
	int err = genl_register_family(&shunt_family);

	registered = !err;
	return err;
}

/**
 * shunt_netlink_exit() - unregister the family; waits for requests under way
 */
void shunt_netlink_exit(void)
{
	mutex_lock(&shunt_mutex);
	registered = false;
	mutex_unlock(&shunt_mutex);
	genl_unregister_family(&shunt_family);
}
