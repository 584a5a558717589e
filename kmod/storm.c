// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doorbell storms (RULES 22): a peer that rings for nothing, faster than anybody has reason to.
 *
 * DOC: Theory of operation
 *
 * An honest peer rings a channel's vector at most once for what it put into our ring, and once for what it took
 * from its own: never more often than frames moved, whatever the poller took before the interrupt came. Doorbells
 * beyond that are *fruitless*, as is every one of a control vector (a link changes its state a few times in its
 * life, not a thousand times a second). The data path pays one counter per interrupt; frames are counted anyway.
 *
 * Judged in the interrupt handler, because a storm may leave the CPU no time for anything else: after as many
 * doorbells as shunt_storm_rate allows in a tenth of a second, by the time they took. Then:
 *
 *   - the vector is masked; from here on the storm costs this guest nothing. The tick polls instead: it looks
 *     at the state of links every SHUNT_LIVENESS_MS anyway;
 *   - on a pair the peer is broken with reason DOORBELLS, and its traffic takes the network. In a group a
 *     doorbell does not tell whose it was: nobody is broken, the vector works again at the next tick;
 *   - after PROBE_MS the vector is unmasked to see. If the storm goes on it is masked again and shuntd told
 *     once more: it unplugs the offender's device.
 */
#include <linux/interrupt.h>

#include "shunt.h"

#define BELLS_MIN 32u		/* fewer are no storm, however fast they come */
#define PROBE_MS 1000

static u64 frames_moved(const struct shunt_device *dev)
{
	struct shunt_link *link;
	u64 n = 0;

	shunt_device_for_each_link(dev, link)
		n += READ_ONCE(link->stats.rx_frames) + READ_ONCE(link->stats.rx_refused) +
		     READ_ONCE(link->stats.rx_nomem) + READ_ONCE(link->stats.tx_frames);
	return n;
}

static void new_window(const struct shunt_device *dev, struct shunt_storm *s)
{
	u32 rate = READ_ONCE(shunt_storm_rate);

	s->left = max(rate / 10, BELLS_MIN);
	s->bells = s->left;
	s->due = jiffies + (rate ? div_u64((u64)s->bells * HZ, rate) : 0);
	s->moved = frames_moved(dev);
}

/**
 * shunt_storm_judge() - a window's worth of doorbells came: too fast, and for nothing?
 * @dev: the device
 * @vector: which of its vectors
 *
 * Context: the vector's interrupt handler.
 */
void shunt_storm_judge(struct shunt_device *dev, unsigned int vector)
{
	struct shunt_storm *s = &dev->storm[vector];
	u64 moved = vector == SHUNT_ABI_VECTOR_CONTROL ? 0 : frames_moved(dev) - s->moved;
	bool fast = time_before(jiffies, s->due);
	u32 bells = s->bells;

	new_window(dev, s);
	if (!fast || moved >= bells / 2)
		return;
	disable_irq_nosync(s->irq);
	s->masked_at = jiffies;
	WRITE_ONCE(s->masked, true);
	if (dev->kind != SHUNT_ABI_PAIR)
		return;
	/* a link in use breaks and says so itself */
	WRITE_ONCE(s->report, !shunt_link_busy(&dev->links[0]));
	WRITE_ONCE(dev->links[0].storm, true);
	shunt_link_kick(&dev->links[0]);
}

static void tick(struct shunt_device *dev, struct shunt_storm *s)
{
	struct shunt_link *link;

	if (xchg(&s->report, false))
		shunt_uplink_storm(&dev->links[0]);
	if (!READ_ONCE(s->masked))
		return;
	if (dev->kind == SHUNT_ABI_PAIR &&
	    time_before(jiffies, s->masked_at + msecs_to_jiffies(PROBE_MS)))
		return;
	new_window(dev, s);
	WRITE_ONCE(s->masked, false);
	enable_irq(s->irq);
	/* what was rung meanwhile */
	local_bh_disable();
	shunt_device_for_each_link(dev, link)
		napi_schedule(&link->napi);
	local_bh_enable();
}

/**
 * shunt_storm_tick() - tell shuntd, and unmask what has been masked for long enough
 * @dev: a device in shunt_devices
 *
 * Context: shunt_mutex, every SHUNT_LIVENESS_MS.
 */
void shunt_storm_tick(struct shunt_device *dev)
{
	unsigned int v;

	lockdep_assert_held(&shunt_mutex);
	for (v = 0; v < SHUNT_STORM_VECTORS; v++)
		if (dev->storm[v].irq)
			tick(dev, &dev->storm[v]);
}

/**
 * shunt_storm_init() - before the first interrupt of a vector that a peer can ring
 * @dev: the device
 * @vector: which of its vectors
 * @irq: its interrupt
 */
void shunt_storm_init(struct shunt_device *dev, unsigned int vector, int irq)
{
	dev->storm[vector].irq = irq;
	new_window(dev, &dev->storm[vector]);
}
