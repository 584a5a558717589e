// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module: knobs, start and stop.
 */
#include <linux/module.h>

#include "compat/compat.h"
#include "shunt.h"

DEFINE_MUTEX(shunt_mutex);
struct workqueue_struct *shunt_wq;
struct workqueue_struct *shunt_flush_wq;
struct net_device *shunt_napi_dev;

uint shunt_plug_rate = 32;
module_param_named(plug_rate, shunt_plug_rate, uint, 0644);
MODULE_PARM_DESC(plug_rate, "frames per second to a VM from which on a link is asked for (32)");

uint shunt_hold_us = 10000;
module_param_named(hold_us, shunt_hold_us, uint, 0644);
MODULE_PARM_DESC(hold_us, "how long frames wait for a peer that makes no progress, in us (10000)");

uint shunt_hold_bytes = 1 << 20;
module_param_named(hold_bytes, shunt_hold_bytes, uint, 0644);
MODULE_PARM_DESC(hold_bytes, "forwarded bytes that may wait per peer (1048576)");

uint shunt_spin_us = 50;
module_param_named(spin_us, shunt_spin_us, uint, 0644);
MODULE_PARM_DESC(spin_us, "how long an idle CPU polls before it waits for a doorbell, in us; 0: never (50)");

uint shunt_spin_max_us = 400;
module_param_named(spin_max_us, shunt_spin_max_us, uint, 0644);
MODULE_PARM_DESC(spin_max_us, "the most that adaptation makes of spin_us (400)");

uint shunt_window_us = 400;
module_param_named(window_us, shunt_window_us, uint, 0644);
MODULE_PARM_DESC(window_us, "how long frames of a fast one-way flow are gathered before a wake-up, in us; 0: never (400)");

uint shunt_window_bytes = 262144;
module_param_named(window_bytes, shunt_window_bytes, uint, 0644);
MODULE_PARM_DESC(window_bytes, "bytes that end that wait early (262144)");

uint shunt_stalled_ms = 3000;
module_param_named(stalled_ms, shunt_stalled_ms, uint, 0644);
MODULE_PARM_DESC(stalled_ms, "silence of a peer after which its link is stalled, in ms (3000)");

uint shunt_release_ms = 5000;
module_param_named(release_ms, shunt_release_ms, uint, 0644);
MODULE_PARM_DESC(release_ms, "how long to wait for a peer when a link is closed, in ms (5000)");

uint shunt_refresh_s = 60;
module_param_named(refresh_s, shunt_refresh_s, uint, 0644);
MODULE_PARM_DESC(refresh_s, "how often a NIC with a link sends a real frame for bridges to remember it, in s; 0: never (60)");

uint shunt_storm_rate = 2000;
module_param_named(storm_rate, shunt_storm_rate, uint, 0644);
MODULE_PARM_DESC(storm_rate, "fruitless doorbells per second from which on a peer is broken; 0: never (2000)");

static int __init shunt_init(void)
{
	int err = -ENOMEM;

	shunt_napi_dev = shunt_dummy_netdev_alloc();
	if (!shunt_napi_dev)
		return -ENOMEM;
	shunt_wq = alloc_ordered_workqueue("shunt", WQ_MEM_RECLAIM);
	if (!shunt_wq)
		goto err_netdev;
	/* shunt_wq waits for it, so it has to make progress without memory as well. */
	shunt_flush_wq = alloc_workqueue("shunt-flush", WQ_HIGHPRI | WQ_MEM_RECLAIM, 0);
	if (!shunt_flush_wq)
		goto err_wq;
	shunt_uplink_init();
	err = shunt_poller_start();
	if (err)
		goto err_flush_wq;
	err = shunt_nic_init();
	if (err)
		goto err_poller;
	err = shunt_netlink_init();
	if (err)
		goto err_nic;
	err = shunt_device_register();
	if (err)
		goto err_netlink;
	return 0;

err_netlink:
	shunt_netlink_exit();
err_nic:
	shunt_nic_exit();
err_poller:
	shunt_poller_stop();
err_flush_wq:
	destroy_workqueue(shunt_flush_wq);
err_wq:
	destroy_workqueue(shunt_wq);
err_netdev:
	shunt_dummy_netdev_free(shunt_napi_dev);
	return err;
}

/*
 * Make dead (no netlink, links closed, hooks gone) -> quiesce (devices removed, works and poller
 * ended) -> free.
 */
static void __exit shunt_exit(void)
{
	shunt_netlink_exit();
	shunt_uplink_detach(SHUNT_ABI_R_UNLOAD);
	shunt_nic_exit();
	shunt_device_unregister();
	shunt_poller_stop();
	shunt_uplink_exit();
	destroy_workqueue(shunt_flush_wq);
	shunt_refresh_exit();
	destroy_workqueue(shunt_wq);
	shunt_dummy_netdev_free(shunt_napi_dev);
}

module_init(shunt_init);
module_exit(shunt_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION(SHUNT_VERSION);
MODULE_DESCRIPTION("Shared-memory paths between virtual machines on one host");
