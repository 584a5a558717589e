/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every difference between the kernels the module supports (6.1 and later) is here and nowhere else.
 */
#ifndef SHUNT_COMPAT_H
#define SHUNT_COMPAT_H

#include <linux/netdevice.h>
#include <linux/slab.h>
#include <linux/version.h>

/* 6.6 split the page pool's header. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/page_pool/helpers.h>
#else
#include <net/page_pool.h>
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

/* 6.6 replaced the pair of mini qdiscs by tcx entries. */
static inline bool shunt_dev_has_tc_egress(const struct net_device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return rcu_access_pointer(dev->tcx_egress);
#else
	return rcu_access_pointer(dev->miniq_egress);
#endif
}

#endif
