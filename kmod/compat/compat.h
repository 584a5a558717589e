/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between the kernels the module supports (6.1 and later) is here and nowhere else.
 */
#ifndef SHUNT_COMPAT_H
#define SHUNT_COMPAT_H

#include <linux/netdevice.h>
#include <linux/slab.h>
#include <linux/version.h>

/* 6.12 moved it out of asm/. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/* 6.6 split the page pool's header. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/page_pool/helpers.h>
#include <net/tcx.h>
#else
#include <net/page_pool.h>
#endif

/* 6.5 gave segmentation a header of its own. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#include <net/gso.h>
#endif

/* 6.10 gave dummy netdevs an allocator of their own and made init_dummy_netdev() private. */
static inline struct net_device *shunt_dummy_netdev_alloc(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	return alloc_netdev_dummy(0);
#else
	struct net_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (dev)
		init_dummy_netdev(dev);
	return dev;
#endif
}

static inline void shunt_dummy_netdev_free(struct net_device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	free_netdev(dev);
#else
	kfree(dev);
#endif
}

/* 6.9 and later keep the "decrypted" bit under a configuration option of its own. */
static inline bool shunt_skb_decrypted(const struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_TLS_DEVICE) || IS_ENABLED(CONFIG_SKB_DECRYPTED)
	return skb->decrypted;
#else
	return false;
#endif
}

/*
 * Is there a tc program or filter on egress? 6.6 replaced the mini qdisc by a tcx entry, which holds
 * BPF programs of its own beside that mini qdisc, and is there for a clsact without filters too.
 * Context: RCU read side, plain or bh; an entry is freed after a grace period.
 */
static inline bool shunt_dev_has_tc_egress(const struct net_device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	struct bpf_mprog_entry *entry = rcu_dereference_check(dev->tcx_egress, rcu_read_lock_bh_held());

	return entry && (READ_ONCE(entry->parent->count) || rcu_access_pointer(tcx_entry(entry)->miniq));
#else
	return rcu_access_pointer(dev->miniq_egress);
#endif
}

#endif
