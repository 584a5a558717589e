// SPDX-License-Identifier: GPL-2.0-only
/*
 * Links: the live relation with one peer over a pair's segment, or a group's.
 *
 * DOC: Theory of operation
 *
 * shuntd opens a link (LINK_OPEN); from then on the two ends need nobody. Each publishes a state in
 * its own line (of the member table, or in a group of the link's own two) and rings the other's control
 * vector; the order is READY, CLOSING, CLOSED, within one epoch.
 *
 *   DOWN     no link. Nothing in the segment is touched.
 *   OPENING  we are READY, the peer is not. We do not produce; the peer may.
 *   UP       both READY. Frames go both ways.
 *   STALLED  as UP, but new frames take the network; the ring is kept and the peer may still empty it.
 *   CLOSING  we are CLOSING: we produce no more, our index is final. We consume until the peer is
 *            CLOSING too and its ring is empty: then everything it sent has been handed up.
 *   CLOSED   we touch this epoch no more; shuntd may scrub. BROKEN: the same, by the peer's fault.
 *
 * The peer's line is hostile memory: it is read once per look, and a state that cannot follow breaks the
 * link. Liveness (a counter in the same line) only ever stalls a link, it never closes one (RULES 16).
 */
#include <linux/sched/signal.h>

#include "compat/compat.h"
#include "shunt.h"
#include "trace.h"

/* Pages a link that was busy may keep for its next frames: 2 MiB. */
#define POOL_PAGES 512

/* Frames a poll hands up before it looks whether tasks want the CPU: less than a default socket buffer holds. */
#define POLL_BUDGET 32

/* How long a link's end waits for the last doorbell of a peer that is closing, too. */
#define LAST_BELL_MS 500

static DECLARE_WAIT_QUEUE_HEAD(closed_wait);
static atomic_t busy_links;

static void link_work(struct work_struct *work);

/**
 * shunt_link_busy() - is the link anything but at rest?
 * @link: the link
 */
bool shunt_link_busy(const struct shunt_link *link)
{
	switch (READ_ONCE(link->state)) {
	case SHUNT_ABI_LINK_OPENING:
	case SHUNT_ABI_LINK_UP:
	case SHUNT_ABI_LINK_STALLED:
	case SHUNT_ABI_LINK_CLOSING:
		return true;
	default:
		return false;
	}
}

static void set_state(struct shunt_link *link, u32 state, u32 reason)
{
	bool was_busy = shunt_link_busy(link);

	lockdep_assert_held(&shunt_mutex);
	WRITE_ONCE(link->state, state);
	atomic_add(shunt_link_busy(link) - was_busy, &busy_links);
	link->reason = reason;
	link->since = jiffies;
	trace_shunt_link_state(link->dev->bdf, state, reason, link->epoch);
	shunt_uplink_link_state(link);
	if (link->peer)
		shunt_netlink_event(link->peer);
	if (!shunt_link_busy(link))
		wake_up_all(&closed_wait);
}

static void publish(struct shunt_link *link, u32 state)
{
	WRITE_ONCE(link->own->epoch, link->epoch);
	WRITE_ONCE(link->own->generation, shunt_generation);
	shunt_nic_publish(link->own);
	/* M1 release: epoch and everything done before, ahead of the state; pairs with M1 in look() */
	smp_store_release(&link->own->state, state);
	shunt_device_doorbell(link->dev, link->peer_member, SHUNT_ABI_VECTOR_CONTROL);
}

/* The peer's state in our epoch; SHUNT_ABI_ABSENT if it speaks of another. */
static u32 look(const struct shunt_link *link)
{
	/* M1 acquire: state before the epoch it speaks of */
	u32 raw_state = smp_load_acquire(&link->theirs->state);
	u32 raw_epoch = READ_ONCE(link->theirs->epoch);

	return raw_epoch == link->epoch ? raw_state : SHUNT_ABI_ABSENT;
}

/* No egress hook uses the link when this returns; what was held is on the network. */
static void stop_sending(struct shunt_link *link)
{
	if (link->peer && rcu_access_pointer(link->peer->link) == link)
		RCU_INIT_POINTER(link->peer->link, NULL);
	shunt_transmit_stop(link, false);
	synchronize_net();
	flush_work(&link->flush);
	timer_delete_sync(&link->hold);
	hrtimer_cancel(&link->complete);
	shunt_transmit_complete(link);
}

static void stop_receiving(struct shunt_link *link)
{
	if (link->rx_enabled)
		napi_disable(&link->napi);
	link->rx_enabled = false;
	shunt_poller_forget(link);
}

static void finish(struct shunt_link *link, u32 state, u32 reason)
{
	stop_receiving(link);
	publish(link, SHUNT_ABI_CLOSED);
	set_state(link, state, reason);
}

/* A peer that breaks the rules is broken, not fatal: its frames take the network from now on. */
static void break_peer(struct shunt_link *link, u32 reason)
{
	dev_warn_ratelimited(&link->dev->pdev->dev, "shunt: peer %s broke the rules (reason %u): back to the network\n",
			     link->peer ? link->peer->name : "?", reason);
	stop_sending(link);
	finish(link, SHUNT_ABI_LINK_BROKEN, reason);
}

static void begin_close(struct shunt_link *link, u32 reason)
{
	stop_sending(link);
	link->deadline = jiffies + msecs_to_jiffies(READ_ONCE(shunt_release_ms));
	set_state(link, SHUNT_ABI_LINK_CLOSING, reason);
	publish(link, SHUNT_ABI_CLOSING);
}

static void go_up(struct shunt_link *link)
{
	if (rcu_access_pointer(link->peer->link)) {
		begin_close(link, SHUNT_ABI_R_POLICY);	/* a second link to the same peer */
		return;
	}
	link->peer_seen = jiffies;
	shunt_peer_hear(link->peer, link->theirs);
	link->rx_enabled = true;
	napi_enable(&link->napi);
	shunt_transmit_open(link);
	rcu_assign_pointer(link->peer->link, link);
	set_state(link, SHUNT_ABI_LINK_UP, SHUNT_ABI_R_NONE);
	local_bh_disable();
	napi_schedule(&link->napi);	/* the peer may have been up before us */
	local_bh_enable();
}

static u32 broken_reason(const struct shunt_link *link)
{
	u32 reason = READ_ONCE(link->rx_broken);

	if (!reason && READ_ONCE(link->tx_broken))
		reason = SHUNT_ABI_R_BROKEN_INDEX;
	if (!reason && READ_ONCE(link->storm))
		reason = SHUNT_ABI_R_DOORBELLS;
	return reason;
}

static bool ring_emptied_by_peer(struct shunt_link *link)
{
	bool empty;

	spin_lock_bh(&link->tx_lock);
	empty = shunt_producer_unread(&link->tx) == 0 && link->tx_mode == SHUNT_TX_CLOSED;
	spin_unlock_bh(&link->tx_lock);
	return empty;
}

static void step_up(struct shunt_link *link, u32 peer)
{
	u32 reason = broken_reason(link);

	if (!reason && peer != SHUNT_ABI_READY && peer != SHUNT_ABI_CLOSING && peer != SHUNT_ABI_CLOSED)
		reason = SHUNT_ABI_R_BROKEN_STATE;
	if (reason)
		break_peer(link, reason);
	else if (peer != SHUNT_ABI_READY)
		begin_close(link, SHUNT_ABI_R_PEER_CLOSED);
	else if (link->state == SHUNT_ABI_LINK_UP && READ_ONCE(link->tx_stalled))
		set_state(link, SHUNT_ABI_LINK_STALLED, SHUNT_ABI_R_STALLED);
	else if (link->state == SHUNT_ABI_LINK_STALLED && ring_emptied_by_peer(link) &&
		 time_before(jiffies, link->peer_seen + msecs_to_jiffies(READ_ONCE(shunt_stalled_ms)))) {
		shunt_transmit_open(link);
		set_state(link, SHUNT_ABI_LINK_UP, SHUNT_ABI_R_NONE);
	}
}

static void step_closing(struct shunt_link *link, u32 peer)
{
	if (!link->forced && link->rx_enabled && !broken_reason(link)) {
		if (time_before(jiffies, link->deadline) && peer < SHUNT_ABI_CLOSING)
			return;
		/* The peer's index is final: take what is left, then look again. */
		napi_disable(&link->napi);
		link->rx_enabled = false;
		if (peer >= SHUNT_ABI_CLOSING && shunt_consumer_pending(&link->rx) &&
		    time_before(jiffies, link->deadline)) {
			link->rx_enabled = true;
			napi_enable(&link->napi);
			local_bh_disable();
			napi_schedule(&link->napi);
			local_bh_enable();
			return;
		}
	}
	finish(link, SHUNT_ABI_LINK_CLOSED, link->reason);
}

static void step(struct shunt_link *link)
{
	u32 peer;

	lockdep_assert_held(&shunt_mutex);
	if (!shunt_link_busy(link)) {
		wake_up_all(&closed_wait);	/* the peer closed after us: shunt_link_leave() */
		return;		/* or it is READY before we are told to open */
	}
	peer = look(link);
	switch (link->state) {
	case SHUNT_ABI_LINK_OPENING:
		if (READ_ONCE(link->storm))
			break_peer(link, SHUNT_ABI_R_DOORBELLS);
		else if (peer == SHUNT_ABI_READY)
			go_up(link);
		else if (peer == SHUNT_ABI_CLOSING || peer == SHUNT_ABI_CLOSED)
			begin_close(link, SHUNT_ABI_R_PEER_CLOSED);
		break;
	case SHUNT_ABI_LINK_UP:
	case SHUNT_ABI_LINK_STALLED:
		step_up(link, peer);
		break;
	case SHUNT_ABI_LINK_CLOSING:
		break;
	default:
		return;
	}
	if (link->state == SHUNT_ABI_LINK_CLOSING)
		step_closing(link, peer);
}

static void link_work(struct work_struct *work)
{
	struct shunt_link *link = container_of(work, struct shunt_link, work);

	mutex_lock(&shunt_mutex);
	step(link);
	mutex_unlock(&shunt_mutex);
}

/**
 * shunt_link_kick() - something about the link changed: look at it soon
 * @link: the link
 *
 * Context: any.
 */
void shunt_link_kick(struct shunt_link *link)
{
	queue_work(shunt_wq, &link->work);
}

/**
 * shunt_link_tick() - the liveness tick of one link
 * @link: the link
 *
 * Context: shunt_mutex, every SHUNT_LIVENESS_MS.
 */
void shunt_link_tick(struct shunt_link *link)
{
	u64 raw_liveness;

	if (!shunt_link_busy(link))
		return;
	WRITE_ONCE(link->own->liveness, READ_ONCE(link->own->liveness) + 1);
	shunt_nic_publish(link->own);
	shunt_peer_hear(link->peer, link->theirs);
	raw_liveness = READ_ONCE(link->theirs->liveness);
	if (raw_liveness != link->peer_liveness) {
		link->peer_liveness = raw_liveness;
		link->peer_seen = jiffies;
	} else if (link->state == SHUNT_ABI_LINK_UP &&
		   time_after(jiffies, link->peer_seen + msecs_to_jiffies(READ_ONCE(shunt_stalled_ms)))) {
		link->stats.stalls++;
		shunt_transmit_stop(link, true);
	}
	step(link);
}

/**
 * shunt_link_stats() - the counters as others are told them
 * @link: the link
 * @ret_stats: filled in
 *
 * Context: any.
 */
void shunt_link_stats(const struct shunt_link *link, struct shunt_abi_link_stats *ret_stats)
{
	int i;

	*ret_stats = link->stats;
	for (i = 0; i < SHUNT_NET_MAX; i++)
		ret_stats->tx_ineligible += atomic64_read(&link->causes[i]);
}

static bool dir_valid(const struct shunt_device *dev, const struct shunt_abi_channel_dir *dir)
{
	const u64 pool = dev->layout.pool_off, size = dev->size;

	return dir->ctl_off >= pool && dir->ctl_off % SHUNT_ABI_LINE == 0 &&
	       dir->ctl_off <= size - sizeof(struct shunt_abi_ring) &&
	       dir->ext_size >= SHUNT_ABI_EXTENT_MIN && dir->ext_size <= SHUNT_ABI_EXTENT_MAX &&
	       is_power_of_2(dir->ext_size) && dir->ext_off >= pool &&
	       dir->ext_off % SHUNT_ABI_EXTENT_MIN == 0 && dir->ext_size <= size &&
	       dir->ext_off <= size - dir->ext_size;
}

/* In a group a member has several links at a time: the member table's one state would not do. */
static bool ends_valid(const struct shunt_device *dev, u32 off)
{
	if (!off)
		return dev->kind == SHUNT_ABI_PAIR;
	return off >= dev->layout.pool_off && off % SHUNT_ABI_LINE == 0 &&
	       off <= dev->size - 2 * sizeof(struct shunt_abi_member);
}

static int check_open(const struct shunt_device *dev, const struct shunt_abi_msg_link_open *msg)
{
	const struct shunt_abi_channel *ch = &msg->channel[0];

	if (msg->own_member != dev->id || !ends_valid(dev, msg->ends_off))
		return -EINVAL;
	if (msg->channels < 1 || ch->type != SHUNT_ABI_CHAN_PACKET ||
	    ch->vector != SHUNT_ABI_VECTOR_CHANNEL)
		return -EINVAL;
	return dir_valid(dev, &ch->dir[0]) && dir_valid(dev, &ch->dir[1]) ? 0 : -EINVAL;
}

static void setup_rings(struct shunt_link *link, const struct shunt_abi_channel *ch)
{
	u8 *mem = link->dev->mem;
	const struct shunt_abi_channel_dir *tx, *rx;

	tx = &ch->dir[link->own_member < link->peer_member ? 0 : 1];
	rx = &ch->dir[link->own_member < link->peer_member ? 1 : 0];
	spin_lock_bh(&link->tx_lock);
	shunt_producer_init(&link->tx, (void *)(mem + tx->ctl_off), mem + tx->ext_off, tx->ext_size);
	link->tx_mode = SHUNT_TX_CLOSED;
	link->tx_broken = false;
	link->tx_stalled = false;
	spin_unlock_bh(&link->tx_lock);
	shunt_consumer_init(&link->rx, (void *)(mem + rx->ctl_off), mem + rx->ext_off, rx->ext_size);
	link->rx_broken = 0;
	link->storm = false;
	link->spin_slept = 0;
}

static void setup_ends(struct shunt_link *link, u32 off)
{
	struct shunt_abi_member *ends = link->dev->mem + off;
	bool lower = link->own_member < link->peer_member;

	if (off) {
		link->own = &ends[lower ? 0 : 1];
		link->theirs = &ends[lower ? 1 : 0];
	} else {
		ends = link->dev->mem + link->dev->layout.member_off;
		link->own = &ends[link->own_member];
		link->theirs = &ends[link->peer_member];
	}
}

/**
 * shunt_link_open() - carry out LINK_OPEN on a probed device
 * @dev: the device it names
 * @msg: private copy
 *
 * Returns 0, -ENOENT (peer not on the roster), -EINVAL (impossible request).
 * Context: shunt_mutex; sleeps.
 */
int shunt_link_open(struct shunt_device *dev, const struct shunt_abi_msg_link_open *msg)
{
	struct shunt_peer *peer = shunt_peer_find(msg->vm_id);
	struct shunt_link *link = shunt_device_link(dev, msg->peer_member);
	int err;

	lockdep_assert_held(&shunt_mutex);
	if (!peer)
		return -ENOENT;
	err = link ? check_open(dev, msg) : -EINVAL;
	if (err)
		return err;
	if (shunt_link_busy(link)) {
		if (link->epoch == msg->epoch) {
			shunt_uplink_link_state(link);	/* a restarted shuntd repeats itself */
			return 0;
		}
		shunt_link_close(link, SHUNT_ABI_R_PEER_DEAD, true);
	}
	link->peer = peer;
	link->epoch = msg->epoch;
	link->own_member = msg->own_member;
	link->vector = msg->channel[0].vector;
	setup_ends(link, msg->ends_off);
	link->forced = false;
	link->peer_seen = jiffies;
	setup_rings(link, &msg->channel[0]);
	set_state(link, SHUNT_ABI_LINK_OPENING, SHUNT_ABI_R_NONE);
	publish(link, SHUNT_ABI_READY);
	step(link);
	return 0;
}

/**
 * shunt_link_close() - leave local mode with this peer
 * @link: the link
 * @reason: enum shunt_abi_reason
 * @forced: do not wait for the peer (it is dead, or nobody has time)
 *
 * Unforced it returns with the link CLOSING; the rest follows as the peer answers.
 * Context: shunt_mutex; sleeps.
 */
void shunt_link_close(struct shunt_link *link, u32 reason, bool forced)
{
	lockdep_assert_held(&shunt_mutex);
	if (!shunt_link_busy(link))
		return;
	if (forced)
		link->forced = true;
	if (link->state != SHUNT_ABI_LINK_CLOSING)
		begin_close(link, reason);
	step(link);
}

/**
 * shunt_link_close_all() - begin to close every link
 * @reason: enum shunt_abi_reason
 *
 * Context: shunt_mutex; sleeps.
 */
void shunt_link_close_all(u32 reason)
{
	struct shunt_device *dev;
	struct shunt_link *link;

	list_for_each_entry(dev, &shunt_devices, list)
		shunt_device_for_each_link(dev, link)
			shunt_link_close(link, reason, false);
}

/**
 * shunt_link_wait_closed() - wait until no link is busy, shunt_release_ms at most
 *
 * Context: process, without shunt_mutex.
 */
void shunt_link_wait_closed(void)
{
	wait_event_timeout(closed_wait, !atomic_read(&busy_links),
			   msecs_to_jiffies(READ_ONCE(shunt_release_ms)));
}

/**
 * shunt_link_leave() - close the link and wait until it is at rest
 * @link: the link
 * @reason: enum shunt_abi_reason
 *
 * Waits for the peer up to shunt_release_ms, then leaves without it. A peer that is closing rings once more
 * when it is done; that is waited for as well, because QEMU may still have that doorbell to deliver when
 * the device is unplugged, and it has been seen to crash then.
 * Context: process; takes shunt_mutex, sleeps.
 */
void shunt_link_leave(struct shunt_link *link, u32 reason)
{
	bool was_busy;

	mutex_lock(&shunt_mutex);
	was_busy = shunt_link_busy(link);
	shunt_link_close(link, reason, false);
	mutex_unlock(&shunt_mutex);
	if (!was_busy)
		return;
	wait_event_timeout(closed_wait, !shunt_link_busy(link),
			   msecs_to_jiffies(READ_ONCE(shunt_release_ms)));
	wait_event_timeout(closed_wait, look(link) != SHUNT_ABI_CLOSING, msecs_to_jiffies(LAST_BELL_MS));
	mutex_lock(&shunt_mutex);
	shunt_link_close(link, reason, true);
	mutex_unlock(&shunt_mutex);
}

/**
 * shunt_link_init() - prepare the link of a freshly probed device
 * @link: zeroed
 * @dev: its device
 * @peer_member: whom it will lead to
 *
 * Returns 0 or a negative errno.
 */
int shunt_link_init(struct shunt_link *link, struct shunt_device *dev, u16 peer_member)
{
	static const struct page_pool_params params = {
		.pool_size = POOL_PAGES,
		.nid = NUMA_NO_NODE,
	};

	link->pages = page_pool_create(&params);
	if (IS_ERR(link->pages))
		return PTR_ERR(link->pages);
	link->dev = dev;
	link->peer_member = peer_member;
	link->state = SHUNT_ABI_LINK_DOWN;
	link->reason = SHUNT_ABI_R_IDLE;
	link->since = jiffies;
	INIT_WORK(&link->work, link_work);
	INIT_WORK(&link->flush, shunt_transmit_flush_work);
	spin_lock_init(&link->tx_lock);
	skb_queue_head_init(&link->held);
	skb_queue_head_init(&link->sent);
	hrtimer_init(&link->complete, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
	link->complete.function = shunt_transmit_complete_timer;
	timer_setup(&link->hold, shunt_transmit_hold_timer, 0);
	INIT_LIST_HEAD(&link->hot);
	hrtimer_init(&link->defer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
	link->defer.function = shunt_poller_defer_timer;
	hrtimer_init(&link->window, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
	link->window.function = shunt_receive_window_timer;
	netif_napi_add_weight(shunt_napi_dev, &link->napi, shunt_receive_poll, POLL_BUDGET);
	return 0;
}

/**
 * shunt_link_fini() - undo shunt_link_init(); the link is at rest and its interrupts are gone
 * @link: the link
 */
void shunt_link_fini(struct shunt_link *link)
{
	WARN_ON(shunt_link_busy(link) || !skb_queue_empty(&link->held) || !skb_queue_empty(&link->sent));
	cancel_work_sync(&link->flush);
	cancel_work_sync(&link->work);
	timer_shutdown_sync(&link->hold);
	hrtimer_cancel(&link->defer);
	hrtimer_cancel(&link->window);
	hrtimer_cancel(&link->complete);
	netif_napi_del(&link->napi);
	page_pool_destroy(link->pages);	/* pages still in sockets outlive it; the pool waits for them itself */
}
