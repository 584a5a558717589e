// SPDX-License-Identifier: GPL-2.0-only
/*
 * Peers: the co-resident VMs shuntd lets us see.
 *
 * Writers hold shunt_mutex; the egress hook and NAPI find a peer by MAC, under RCU. A peer is freed only after its
 * link is closed, its MAC entries are gone and a grace period passed.
 */
#include <linux/slab.h>

#include "shunt.h"

LIST_HEAD(shunt_peers);

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

/* Nothing finds the peer by an address any more when this returns. */
static void peer_unhash(struct shunt_peer *peer)
{
	u32 i;

	for (i = 0; i < peer->macs; i++)
		shunt_mac_del(&peer->mac[i]);
	peer->macs = 0;
	synchronize_net();
}

static void peer_hash(struct shunt_peer *peer, const struct shunt_abi_msg_roster *msg)
{
	u32 i, n = min_t(u32, msg->nics, SHUNT_ABI_NICS_MAX);

	for (i = 0; i < n; i++) {
		struct shunt_mac *mac = &peer->mac[peer->macs];

		if (!is_valid_ether_addr(msg->nic[i].addr))
			continue;
		ether_addr_copy(mac->addr, msg->nic[i].addr);
		mac->peer = peer;
		mac->mtu = SHUNT_MTU_UNKNOWN;
		shunt_mac_add(mac);
		peer->macs++;
	}
}

static bool same_macs(const struct shunt_peer *peer, const struct shunt_abi_msg_roster *msg)
{
	u32 i;

	if (peer->macs != msg->nics)
		return false;
	for (i = 0; i < peer->macs; i++)
		if (!ether_addr_equal(peer->mac[i].addr, msg->nic[i].addr))
			return false;
	return true;
}

/**
 * shunt_peer_hear() - what the peer says its NICs take through the ring
 * @peer: the peer
 * @theirs: its line in the segment, hostile: what it says limits only what is sent to it
 *
 * Context: shunt_mutex.
 */
void shunt_peer_hear(struct shunt_peer *peer, const struct shunt_abi_member *theirs)
{
	struct shunt_abi_member_nic said[SHUNT_ABI_NICS_MAX];
	u32 i, k;

	lockdep_assert_held(&shunt_mutex);
	for (k = 0; k < SHUNT_ABI_NICS_MAX; k++) {
		u64 raw = READ_ONCE(*(const u64 *)&theirs->nic[k]);	/* address and MTU belong together */

		memcpy(&said[k], &raw, sizeof(raw));
	}
	for (i = 0; i < peer->macs; i++) {
		u16 mtu = SHUNT_MTU_UNKNOWN;

		for (k = 0; k < SHUNT_ABI_NICS_MAX; k++)
			if (said[k].mtu && ether_addr_equal(said[k].addr, peer->mac[i].addr))
				mtu = said[k].mtu;
		WRITE_ONCE(peer->mac[i].mtu, mtu);
	}
}

static int roster_add(const struct shunt_abi_msg_roster *msg)
{
	struct shunt_peer *peer = shunt_peer_find(msg->vm_id);

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
		peer_hash(peer, msg);
	}
	shunt_netlink_event(peer);
	return 0;
}

/*
 * Proof that nothing refers to a freed peer: its link is closed by force first (link->peer NULL,
 * peer->link NULL), its MAC entries leave the table, and the data path, which found it only
 * through those, is waited for by peer_unhash().
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
