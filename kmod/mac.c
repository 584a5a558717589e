// SPDX-License-Identifier: GPL-2.0-only
/*
 * MACs: one table of all addresses that shuntd named, this guest's own and its peers'.
 *
 * Entries live in their owner (struct shunt_nic, struct shunt_peer). The data path reads under RCU; an
 * owner that took an entry out waits for a grace period before it uses or frees it again. NICs are written
 * under rtnl, peers under shunt_mutex, so writers have a lock of their own.
 */
#include <linux/hashtable.h>
#include <linux/jhash.h>
#include <linux/rculist.h>

#include "shunt.h"

static DEFINE_HASHTABLE(macs, 8);
static DEFINE_SPINLOCK(macs_lock);

static u32 key(const u8 *addr)
{
	return jhash(addr, ETH_ALEN, 0);
}

/**
 * shunt_mac_lookup() - whose address is this?
 * @addr: 6 bytes
 *
 * Returns the entry, which has either a nic (ours) or a peer, or NULL.
 * Context: RCU read side; the entry and its owner are valid until it ends.
 */
struct shunt_mac *shunt_mac_lookup(const u8 *addr)
{
	struct shunt_mac *mac;

	hash_for_each_possible_rcu(macs, mac, node, key(addr))
		if (ether_addr_equal(mac->addr, addr))
			return mac;
	return NULL;
}

/**
 * shunt_mac_add() - enter an address
 * @mac: not in the table; addr and its owner are set
 *
 * Context: the owner's lock; any otherwise.
 */
void shunt_mac_add(struct shunt_mac *mac)
{
	spin_lock_bh(&macs_lock);
	hash_add_rcu(macs, &mac->node, key(mac->addr));
	spin_unlock_bh(&macs_lock);
}

/**
 * shunt_mac_del() - take an address out; readers may still see it until a grace period has passed
 * @mac: in the table
 *
 * Context: the owner's lock; any otherwise.
 */
void shunt_mac_del(struct shunt_mac *mac)
{
	spin_lock_bh(&macs_lock);
	hash_del_rcu(&mac->node);
	spin_unlock_bh(&macs_lock);
}
