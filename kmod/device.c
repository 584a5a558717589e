// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices: ivshmem-doorbell functions that carry one of our segments.
 *
 * The PCI ids are QEMU's for every ivshmem device, so probe() looks at the segment's magic and leaves
 * devices that are not ours alone. What it believes of a device is only what QEMU itself set: the sizes
 * of its BARs, its MSI-X vectors and IVPosition. The number of vectors says what the device is
 * (SHUNT_ABI_UPLINK_VECTORS, SHUNT_ABI_GROUP_VECTORS): a pair's peer can write "uplink" or "group" into the
 * header, and must not become our shuntd by it.
 */
#include <linux/crash_dump.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "shunt.h"

/* QEMU docs/specs/ivshmem-spec: registers in BAR 0 */
#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110
#define REG_IVPOSITION 8
#define REG_DOORBELL 12

#define VECTORS_MAX 64

LIST_HEAD(shunt_devices);

/**
 * shunt_device_doorbell() - ring a member of the device's segment
 * @dev: the device
 * @member: member id, 0 is shuntd
 * @vector: its vector
 *
 * Context: any. One register write; under emulation it costs tens of microseconds.
 */
void shunt_device_doorbell(struct shunt_device *dev, u16 member, u16 vector)
{
	writel((u32)member << 16 | vector, dev->regs + REG_DOORBELL);
}

static irqreturn_t control_irq(int irq, void *data)
{
	struct shunt_device *dev = data;
	struct shunt_link *link;

	if (dev->kind != SHUNT_ABI_UPLINK)	/* there only shuntd rings */
		shunt_storm_count(dev, SHUNT_ABI_VECTOR_CONTROL);
	if (dev->uplink)
		shunt_uplink_kick();
	shunt_device_for_each_link(dev, link)
		shunt_link_kick(link);
	return IRQ_HANDLED;
}

/*
 * The links of a group share the vector. One that has nothing to take and nothing waiting for its peer was not
 * meant. No wake-up is lost by that: what a doorbell announces was written before it was rung, and what it
 * answers (frames held, a stall) before it was asked for.
 */
static bool link_meant(struct shunt_link *link)
{
	return shunt_link_busy(link) &&
	       (shunt_consumer_pending(&link->rx) || !skb_queue_empty_lockless(&link->held) ||
		READ_ONCE(link->tx_stalled));
}

static irqreturn_t channel_irq(int irq, void *data)
{
	struct shunt_device *dev = data;
	struct shunt_link *link;

	shunt_storm_count(dev, SHUNT_ABI_VECTOR_CHANNEL);
	shunt_device_for_each_link(dev, link) {
		if (dev->n_links > 1 && !link_meant(link))
			continue;
		link->stats.doorbells_rx++;
		napi_schedule_irqoff(&link->napi);
	}
	return IRQ_HANDLED;
}

/**
 * shunt_device_link() - the link of a device with one of its segment's members
 * @dev: the device
 * @peer_member: member id, anything
 *
 * Returns the link, or NULL: no other VM has this id.
 */
struct shunt_link *shunt_device_link(struct shunt_device *dev, u32 peer_member)
{
	struct shunt_link *link;

	shunt_device_for_each_link(dev, link)
		if (link->peer_member == peer_member)
			return link;
	return NULL;
}

static int map_bars(struct shunt_device *dev)
{
	struct pci_dev *pdev = dev->pdev;
	int err;

	if (!pci_resource_len(pdev, 2) || (pci_resource_flags(pdev, 2) & IORESOURCE_UNSET)) {
		pci_err(pdev, "shunt: BAR 2 was not assigned an address: give the bridge or root port a larger prefetchable window (pref64-reserve)\n");
		return -ENOSPC;
	}
	err = pcim_enable_device(pdev);
	if (err)
		return err;
	err = pci_request_regions(pdev, "shunt");
	if (err)
		return err;
	dev->size = pci_resource_len(pdev, 2);
	dev->regs = pcim_iomap(pdev, 0, 0);
	dev->mem = devm_memremap(&pdev->dev, pci_resource_start(pdev, 2), dev->size, MEMREMAP_WB);
	if (!dev->regs || IS_ERR(dev->mem)) {
		pci_release_regions(pdev);
		return -ENOMEM;
	}
	return 0;
}

/* The header is copied once and validated; later uses are of the copy. */
static int read_header(struct shunt_device *dev)
{
	memcpy(&dev->hdr, dev->mem, sizeof(dev->hdr));
	if (dev->hdr.magic != SHUNT_ABI_MAGIC)
		return -ENODEV;
	if (shunt_layout_check(&dev->hdr, dev->size, &dev->layout) ||
	    dev->id == 0 || dev->id >= dev->hdr.members) {
		pci_err(dev->pdev, "shunt: the segment's header makes no sense, device ignored\n");
		return -EINVAL;
	}
	if (dev->kind != dev->hdr.kind) {
		pci_err(dev->pdev, "shunt: segment kind %u on a device with %d vectors, ignored%s\n",
			dev->hdr.kind, dev->vectors, dev->hdr.kind == SHUNT_ABI_GROUP ?
			": a group's device has vectors=2 on QEMU's command line" : "");
		return -EINVAL;
	}
	return 0;
}

static int setup_irqs(struct shunt_device *dev)
{
	struct pci_dev *pdev = dev->pdev;
	int err;

	err = pci_alloc_irq_vectors(pdev, min(dev->vectors, 2), min(dev->vectors, VECTORS_MAX),
				    PCI_IRQ_MSIX);
	if (err < 0)
		return err;
	if (dev->kind != SHUNT_ABI_UPLINK) {
		shunt_storm_init(dev, SHUNT_ABI_VECTOR_CONTROL, pci_irq_vector(pdev, SHUNT_ABI_VECTOR_CONTROL));
		shunt_storm_init(dev, SHUNT_ABI_VECTOR_CHANNEL, pci_irq_vector(pdev, SHUNT_ABI_VECTOR_CHANNEL));
	}
	err = pci_request_irq(pdev, 0, control_irq, NULL, dev, "shunt-%s-control", pci_name(pdev));
	if (err)
		goto err_vectors;
	if (dev->kind != SHUNT_ABI_UPLINK) {
		err = pci_request_irq(pdev, SHUNT_ABI_VECTOR_CHANNEL, channel_irq, NULL, dev,
				      "shunt-%s-0", pci_name(pdev));
		if (err)
			goto err_control;
	}
	return 0;

err_control:
	pci_free_irq(pdev, 0, dev);
err_vectors:
	pci_free_irq_vectors(pdev);
	return err;
}

static void free_irqs(struct shunt_device *dev)
{
	pci_free_irq(dev->pdev, 0, dev);
	if (dev->kind != SHUNT_ABI_UPLINK)
		pci_free_irq(dev->pdev, SHUNT_ABI_VECTOR_CHANNEL, dev);
	pci_free_irq_vectors(dev->pdev);
}

static void free_links(struct shunt_device *dev)
{
	while (dev->n_links)
		shunt_link_fini(&dev->links[--dev->n_links]);
	kfree(dev->links);
}

/* A link for every member that is neither shuntd nor ourselves. */
static int make_links(struct shunt_device *dev)
{
	u16 member;
	int err;

	if (dev->kind == SHUNT_ABI_UPLINK)
		return 0;
	dev->links = kcalloc(dev->hdr.members - 2, sizeof(*dev->links), GFP_KERNEL);
	if (!dev->links)
		return -ENOMEM;
	for (member = 1; member < dev->hdr.members; member++) {
		if (member == dev->id)
			continue;
		err = shunt_link_init(&dev->links[dev->n_links], dev, member);
		if (err) {
			free_links(dev);
			return err;
		}
		dev->n_links++;
	}
	return 0;
}

static u32 kind_of(int vectors)
{
	switch (vectors) {
	case SHUNT_ABI_UPLINK_VECTORS:
		return SHUNT_ABI_UPLINK;
	case SHUNT_ABI_GROUP_VECTORS:
		return SHUNT_ABI_GROUP;
	default:
		return SHUNT_ABI_PAIR;
	}
}

static const char *kind_name(u32 kind)
{
	return kind == SHUNT_ABI_UPLINK ? "uplink" : kind == SHUNT_ABI_GROUP ? "group" : "pair";
}

static int device_identify(struct shunt_device *dev)
{
	struct pci_dev *pdev = dev->pdev;

	dev->vectors = pci_msix_vec_count(pdev);
	if (dev->vectors < 1)
		return -ENODEV;		/* ivshmem-plain, or somebody else's */
	dev->kind = kind_of(dev->vectors);
	dev->uplink = dev->kind != SHUNT_ABI_PAIR;
	dev->id = readl(dev->regs + REG_IVPOSITION);
	return read_header(dev);
}

static int shunt_device_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct shunt_device *dev;
	int err;

	if (is_kdump_kernel())
		return -ENODEV;		/* RULES 23: the segment belongs to the crashed kernel's peers */
	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	dev->pdev = pdev;
	dev->bdf = (u32)pdev->bus->number << 8 | pdev->devfn;
	err = map_bars(dev);
	if (err) {
		mutex_lock(&shunt_mutex);
		shunt_uplink_device_failed(dev->bdf);
		mutex_unlock(&shunt_mutex);
		goto err_free;
	}
	err = device_identify(dev);
	if (err)
		goto err_regions;
	pci_set_master(pdev);		/* MSI-X messages are memory writes */
	err = make_links(dev);
	if (err)
		goto err_regions;
	pci_set_drvdata(pdev, dev);
	err = setup_irqs(dev);
	if (err)
		goto err_links;

	mutex_lock(&shunt_mutex);
	err = dev->uplink ? shunt_uplink_add(dev) : 0;
	if (!err)
		list_add_tail(&dev->list, &shunt_devices);
	if (!err && !dev->uplink)
		shunt_uplink_device_added(dev);
	mutex_unlock(&shunt_mutex);
	if (err)
		goto err_irqs;
	pci_info(pdev, "shunt: %s, segment %llu, %llu KiB, member %u\n",
		 kind_name(dev->kind), dev->hdr.segment_id, dev->size >> 10, dev->id);
	return 0;

err_irqs:
	free_irqs(dev);
err_links:
	free_links(dev);
err_regions:
	pci_release_regions(pdev);
err_free:
	kfree(dev);
	return err;
}

/* Close all, then wait for each: they close at the same time. */
static void leave_links(struct shunt_device *dev)
{
	struct shunt_link *link;

	if (dev->n_links > 1) {
		mutex_lock(&shunt_mutex);
		shunt_device_for_each_link(dev, link)
			shunt_link_close(link, SHUNT_ABI_R_DEVICE_GONE, false);
		mutex_unlock(&shunt_mutex);
	}
	shunt_device_for_each_link(dev, link)
		shunt_link_leave(link, SHUNT_ABI_R_DEVICE_GONE);
}

/*
 * Proof that nothing refers to a freed device:
 *  - @dead and leaving shunt_devices: no LINK_OPEN or mailbox work finds it again (shunt_mutex);
 *  - shunt_link_leave(): each link is closed, peer->link is NULL and a grace period passed, so no egress
 *    hook holds it; NAPI is disabled, so neither softirq nor poller own it; the hold timer is
 *    shut down;
 *  - free_irqs() waits for handlers; only then are works cancelled, which nothing can queue now.
 */
static void shunt_device_remove(struct pci_dev *pdev)
{
	struct shunt_device *dev = pci_get_drvdata(pdev);

	leave_links(dev);
	mutex_lock(&shunt_mutex);
	dev->dead = true;
	list_del(&dev->list);
	if (dev->uplink)
		shunt_uplink_remove(dev);
	mutex_unlock(&shunt_mutex);
	free_irqs(dev);
	free_links(dev);
	pci_release_regions(pdev);
	devm_memunmap(&pdev->dev, dev->mem);
	kfree(dev);
}

/* Poweroff, reboot, kexec: leave in order, so that the peer knows at once and loses nothing. */
static void shunt_device_shutdown(struct pci_dev *pdev)
{
	leave_links(pci_get_drvdata(pdev));
}

static const struct pci_device_id shunt_device_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, shunt_device_ids);

static struct pci_driver shunt_device_driver = {
	.name = "shunt",
	.id_table = shunt_device_ids,
	.probe = shunt_device_probe,
	.remove = shunt_device_remove,
	.shutdown = shunt_device_shutdown,
};

/**
 * shunt_device_register() - bind every ivshmem device that is ours, now and later
 */
int shunt_device_register(void)
{
	return pci_register_driver(&shunt_device_driver);
}

/**
 * shunt_device_unregister() - leave every link and let go of every device
 */
void shunt_device_unregister(void)
{
	pci_unregister_driver(&shunt_device_driver);
}
