// SPDX-License-Identifier: GPL-2.0-only
/*
 * Peers: the co-resident VMs shuntd lets us see, and the table that finds one by MAC.
 *
 * Writers hold shunt_mutex; the egress hook and NAPI read under RCU. A peer is freed only after its
 * link is closed, its MAC entries are gone and a grace period passed.
 */
#include <linux/hashtable.h>
#include <linux/jhash.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "shunt.h"

struct shunt_peer_mac {
	struct hlist_node node;
	struct shunt_peer *peer;
	u8 mac[ETH_ALEN];
	struct rcu_head rcu;
};

LIST_HEAD(shunt_peers);

static DEFINE_HASHTABLE(shunt_macs, 8);

static u32 mac_key(const u8 *mac)
{
	return jhash(mac, ETH_ALEN, 0);
}

/**
 * shunt_peer_lookup() - the peer that owns a destination MAC, or NULL
 * @mac: 6 bytes
 *
 * Context: RCU read side; the peer is valid until it ends.
 */
struct shunt_peer *shunt_peer_lookup(const u8 *mac)
{
	struct shunt_peer_mac *e;

	hash_for_each_possible_rcu(shunt_macs, e, node, mac_key(mac))
		if (ether_addr_equal(e->mac, mac))
			return e->peer;
	return NULL;
}

/**
 * shunt_peer_owns() - is @mac one of the peer's, as the host knows them?
 * @peer: a roster entry
 * @mac: 6 bytes
 *
 * Context: RCU read side. Goes through the table, so it never sees a half-written entry.
 */
bool shunt_peer_owns(const struct shunt_peer *peer, const u8 *mac)
{
	return shunt_peer_lookup(mac) == peer;
}

/**
 * shunt_peer_find() - the roster entry of a VM, or NULL
 * @vm_id: as in the roster
 *
 * Context: shunt_mutex.
 */
struct shunt_peer *shunt_peer_find(u32 vm_id)
{
	struct shunt_peer *peer;

	lockdep_assert_held(&shunt_mutex);
	list_for_each_entry(peer, &shunt_peers, list)
		if (peer->vm_id == vm_id)
			return peer;
	return NULL;
}

/**
 * shunt_peer_count() - a frame to @peer took the network because there is no link
 * @peer: the destination
 *
 * Asks shuntd for a link (once a second at most) when the rate reaches shunt_plug_rate frames/s.
 * The counters are approximate under concurrency, which is good enough for a threshold.
 * Context: data path, any.
 */
void shunt_peer_count(struct shunt_peer *peer)
{
	unsigned long now = jiffies;

	atomic64_inc(&peer->net_frames);
	if (time_after(now, READ_ONCE(peer->window) + HZ)) {
		WRITE_ONCE(peer->window, now);
		atomic_set(&peer->window_frames, 0);
	}
	if (atomic_inc_return(&peer->window_frames) < READ_ONCE(shunt_plug_rate))
		return;
	if (READ_ONCE(peer->wanted) && time_before(now, READ_ONCE(peer->wanted) + HZ))
		return;
	WRITE_ONCE(peer->wanted, now ?: 1);
	WRITE_ONCE(peer->want, true);
	shunt_uplink_kick();
}

static void peer_unhash(struct shunt_peer *peer)
{
	u32 i;

	for (i = 0; i < peer->macs; i++) {
		hash_del_rcu(&peer->entry[i]->node);
		kfree_rcu(peer->entry[i], rcu);
		peer->entry[i] = NULL;
	}
	peer->macs = 0;
}

static int peer_hash(struct shunt_peer *peer, const struct shunt_abi_msg_roster *msg)
{
	u32 i, n = min_t(u32, msg->nics, SHUNT_ABI_NICS_MAX);

	for (i = 0; i < n; i++) {
		const u8 *mac = msg->nic[i].addr;
		struct shunt_peer_mac *e;

		if (!is_valid_ether_addr(mac))
			continue;
		e = kzalloc(sizeof(*e), GFP_KERNEL);
		if (!e)
			return -ENOMEM;
		ether_addr_copy(e->mac, mac);
		e->peer = peer;
		ether_addr_copy(peer->mac[peer->macs], mac);
		peer->entry[peer->macs++] = e;
		hash_add_rcu(shunt_macs, &e->node, mac_key(mac));
	}
	return 0;
}

static bool same_macs(const struct shunt_peer *peer, const struct shunt_abi_msg_roster *msg)
{
	u32 i;

	if (peer->macs != msg->nics)
		return false;
	for (i = 0; i < peer->macs; i++)
		if (!ether_addr_equal(peer->mac[i], msg->nic[i].addr))
			return false;
	return true;
}

static int roster_add(const struct shunt_abi_msg_roster *msg)
{
	struct shunt_peer *peer = shunt_peer_find(msg->vm_id);
	int err = 0;

	if (!peer) {
		peer = kzalloc(sizeof(*peer), GFP_KERNEL);
		if (!peer)
			return -ENOMEM;
		peer->vm_id = msg->vm_id;
		peer->window = jiffies;
		list_add_tail(&peer->list, &shunt_peers);
	}
	strscpy(peer->name, msg->name, sizeof(peer->name));
	strscpy(peer->label, msg->label, sizeof(peer->label));
	peer->generation = msg->generation;
	peer->reason = msg->reason;
	peer->stale = false;
	if (!same_macs(peer, msg)) {
		peer_unhash(peer);
		err = peer_hash(peer, msg);
	}
	shunt_netlink_event(peer);
	return err;
}

/*
 * Proof that nothing refers to a freed peer: its link is closed by force first (link->peer NULL,
 * peer->link NULL), its MAC entries leave the table, and the data path, which found it only
 * through those, is waited for by synchronize_net().
 */
static void peer_free(struct shunt_peer *peer)
{
	struct shunt_device *dev;
	struct shunt_link *link;

	list_for_each_entry(dev, &shunt_devices, list)
		shunt_device_for_each_link(dev, link)
			if (link->peer == peer) {
				shunt_link_close(link, SHUNT_ABI_R_POLICY, true);
				link->peer = NULL;
			}
	list_del(&peer->list);
	peer_unhash(peer);
	synchronize_net();
	kfree(peer);
}

/**
 * shunt_roster_clear() - forget every peer; their links are closed without waiting
 *
 * Context: shunt_mutex; sleeps.
 */
void shunt_roster_clear(void)
{
	struct shunt_peer *peer, *next;

	lockdep_assert_held(&shunt_mutex);
	list_for_each_entry_safe(peer, next, &shunt_peers, list)
		peer_free(peer);
}

/*
 * RESET does not tear links down: a restarted shuntd sends the whole list again while traffic runs.
 * Entries are marked stale, and those not named again before SYNC are dropped there.
 */
static bool roster_resetting;

static void roster_reset(void)
{
	struct shunt_peer *peer;

	roster_resetting = true;
	list_for_each_entry(peer, &shunt_peers, list)
		peer->stale = true;
}

static void roster_sync(void)
{
	struct shunt_peer *peer, *next;

	if (!roster_resetting)
		return;
	roster_resetting = false;
	list_for_each_entry_safe(peer, next, &shunt_peers, list)
		if (peer->stale)
			peer_free(peer);
}

/**
 * shunt_roster_apply() - carry out one roster message
 * @msg: a private copy; strings need not be terminated
 *
 * Returns 0, -ENOMEM, or -EINVAL for an unknown operation. When it returns the change has taken
 * effect in the data path.
 * Context: shunt_mutex; sleeps.
 */
int shunt_roster_apply(const struct shunt_abi_msg_roster *msg)
{
	struct shunt_peer *peer;

	lockdep_assert_held(&shunt_mutex);
	switch (msg->op) {
	case SHUNT_ABI_ROSTER_RESET:
		roster_reset();
		return 0;
	case SHUNT_ABI_ROSTER_ADD:
		return roster_add(msg);
	case SHUNT_ABI_ROSTER_DEL:
		peer = shunt_peer_find(msg->vm_id);
		if (peer)
			peer_free(peer);
		return 0;
	case SHUNT_ABI_ROSTER_SYNC:
		roster_sync();
		return 0;
	default:
		return -EINVAL;
	}
}
