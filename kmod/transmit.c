// SPDX-License-Identifier: GPL-2.0-only
/*
 * The sending half of the packet path: from the egress hook into the ring.
 *
 * DOC: Theory of operation
 *
 * tx_mode says what happens to a frame, and every look at it is under tx_lock together with the act
 * (RULES 13):
 *   OPEN      it goes into the ring; if the ring is full, or frames already wait, it is *held*
 *   FLUSHING  held frames are on their way to the network; it queues behind them
 *   CLOSED    it takes the network
 * OPEN -> FLUSHING -> CLOSED by shunt_transmit_stop(); CLOSED -> OPEN by shunt_transmit_open().
 *
 * A held frame keeps its socket's charge, so TCP small queues and SO_SNDBUF push back on the sender;
 * that bounds what a socket can have waiting. Frames without a socket (forwarded) are bounded by
 * shunt_hold_bytes and dropped beyond it, as a full qdisc would. If the consumer makes no progress
 * for shunt_hold_us while frames wait, all of them go to the network in order and the link is
 * stalled until its ring has been emptied.
 *
 * A frame in the ring needs its skb no more. But TCP gathers small writes into large segments while a
 * frame of the connection is charged to the socket ("in the NIC"), and would send a frame per write to a
 * path that never has any. So on a fast one-way flow TCP's frames stay charged for half a window
 * (@sent), as they would until a NIC's completion interrupt; the data itself is not delayed.
 */
#include <linux/if_ether.h>
#include <linux/netfilter_netdev.h>
#include <linux/sched/clock.h>
#include <net/dst.h>
#include <net/sock.h>

#include "shunt.h"
#define CREATE_TRACE_POINTS
#include "trace.h"

#define SENT_MAX 64

static void stat_add(u64 *stat, u64 n)
{
	WRITE_ONCE(*stat, *stat + n);
}

static void describe(const struct sk_buff *skb, struct shunt_abi_pkt *pkt)
{
	const struct skb_shared_info *sinfo = skb_shinfo(skb);

	memset(pkt, 0, sizeof(*pkt));
	if (skb_is_gso(skb)) {
		pkt->gso_size = sinfo->gso_size;
		pkt->hdr_len = min_t(u32, skb_headlen(skb), U16_MAX);
		pkt->gso_type = sinfo->gso_type & SKB_GSO_TCPV4 ? SHUNT_ABI_PKT_GSO_TCPV4 :
								  SHUNT_ABI_PKT_GSO_TCPV6;
		if (sinfo->gso_type & SKB_GSO_TCP_ECN)
			pkt->gso_type |= SHUNT_ABI_PKT_GSO_ECN;
	}
	if (skb->ip_summed == CHECKSUM_PARTIAL) {
		pkt->flags = SHUNT_ABI_PKT_NEEDS_CSUM;
		pkt->csum_start = skb_checksum_start_offset(skb);
		pkt->csum_offset = skb->csum_offset;
	}
}

/* Stage one frame. 0, -ENOSPC, or a final error (-ESHUTDOWN, -EPROTO, -EMSGSIZE, -EFAULT). */
static int put(struct shunt_link *link, struct sk_buff *skb)
{
	u32 len = sizeof(struct shunt_abi_pkt) + skb->len;
	struct net_device *dev = skb->dev;
	struct shunt_abi_pkt *pkt;
	void *dst;
	int err;

	lockdep_assert_held(&link->tx_lock);
	err = shunt_rec_reserve(&link->tx, len, &dst);
	if (err)
		return err;
	pkt = dst;
	describe(skb, pkt);
	err = skb_copy_bits(skb, 0, pkt + 1, skb->len);
	if (unlikely(err))
		return err;	/* staged nothing: a reservation is only a look */
	if (dev_nit_active(dev))
		dev_queue_xmit_nit(skb, dev);
	skb_tx_timestamp(skb);
	shunt_rec_commit(&link->tx, len);
	link->tx_data += skb_is_nonlinear(skb) || !shunt_frame_is_ack(skb->data, skb->len);
	stat_add(&link->stats.tx_frames, 1);
	stat_add(&link->stats.tx_bytes, skb->len);
	return 0;
}

/* The ring cannot be used any more: control decides what that means. */
static void give_up(struct shunt_link *link)
{
	link->tx_broken = true;
	shunt_link_kick(link);
}

static void ring_if_asked(struct shunt_link *link)
{
	int ret = shunt_producer_publish(&link->tx);

	if (ret == 1) {
		stat_add(&link->stats.doorbells_tx, 1);
		shunt_device_doorbell(link->dev, link->peer_member, link->vector);
	} else if (ret < 0) {
		give_up(link);
	}
}

static void start_hold_timer(struct shunt_link *link)
{
	link->held_cons = link->tx.cons;
	mod_timer(&link->hold, jiffies + max(1UL, usecs_to_jiffies(READ_ONCE(shunt_hold_us))));
}

static void unhold(struct shunt_link *link, struct sk_buff *skb)
{
	__skb_unlink(skb, &link->held);
	link->held_bytes -= skb->len;
}

/*
 * Move held frames into the ring as far as they go; what was moved is put on @done, to be freed
 * without the lock (a destructor may wake a socket that sends at once).
 */
static void drain_locked(struct shunt_link *link, struct sk_buff_head *done)
{
	struct sk_buff *skb;
	int err = 0;

	lockdep_assert_held(&link->tx_lock);
	if (link->tx_mode != SHUNT_TX_OPEN)
		return;
	while ((skb = skb_peek(&link->held))) {
		err = put(link, skb);
		/* bounded: each round that finds space moves a frame or, at the end, arms */
		if (err == -ENOSPC && shunt_producer_arm_after(&link->tx, link->tx.size / 2) == 0)
			err = put(link, skb);
		if (err)
			break;
		unhold(link, skb);
		dev_put(skb->dev);
		__skb_queue_tail(done, skb);
	}
	ring_if_asked(link);
	if (err && err != -ENOSPC)
		give_up(link);
	if (skb_queue_empty(&link->held))
		timer_delete(&link->hold);
	else if (!skb_queue_empty(done))
		start_hold_timer(link);
}

static void free_sent(struct sk_buff_head *done)
{
	struct sk_buff *skb;

	while ((skb = __skb_dequeue(done)))
		consume_skb(skb);
}

/* A stalled peer consumes again: control reopens the link once the ring is empty. */
static void look_at_stall(struct shunt_link *link)
{
	spin_lock(&link->tx_lock);
	if (shunt_producer_unread(&link->tx) <= 0 || shunt_producer_arm(&link->tx) != 1)
		shunt_link_kick(link);
	spin_unlock(&link->tx_lock);
}

/**
 * shunt_transmit_drain() - the peer may have made room: move held frames into the ring
 * @link: the link
 *
 * Context: softirq (NAPI).
 */
void shunt_transmit_drain(struct shunt_link *link)
{
	struct sk_buff_head done;

	if (unlikely(READ_ONCE(link->tx_stalled)))
		look_at_stall(link);
	if (skb_queue_empty_lockless(&link->held))
		return;
	__skb_queue_head_init(&done);
	spin_lock(&link->tx_lock);
	drain_locked(link, &done);
	spin_unlock(&link->tx_lock);
	free_sent(&done);
}

static unsigned int hold(struct shunt_link *link, struct sk_buff *skb)
{
	lockdep_assert_held(&link->tx_lock);
	if (!skb->sk && link->held_bytes + skb->len > READ_ONCE(shunt_hold_bytes)) {
		stat_add(&link->stats.tx_dropped, 1);
		return NF_DROP;
	}
	skb_dst_force(skb);
	dev_hold(skb->dev);	/* its NIC may be unregistered while it waits */
	if (skb_queue_empty(&link->held))
		start_hold_timer(link);
	__skb_queue_tail(&link->held, skb);
	link->held_bytes += skb->len;
	stat_add(&link->stats.tx_held, 1);
	return NF_STOLEN;
}

/**
 * shunt_transmit_complete() - let go of frames kept charged
 * @link: the link
 *
 * Context: any; takes tx_lock. Sockets may send at once from here.
 */
void shunt_transmit_complete(struct shunt_link *link)
{
	struct sk_buff_head done;

	__skb_queue_head_init(&done);
	spin_lock_bh(&link->tx_lock);
	skb_queue_splice_init(&link->sent, &done);
	spin_unlock_bh(&link->tx_lock);
	local_bh_disable();
	free_sent(&done);
	local_bh_enable();
}

/**
 * shunt_transmit_complete_timer() - half a window after a frame was kept
 * @t: link->complete
 *
 * Context: softirq.
 */
enum hrtimer_restart shunt_transmit_complete_timer(struct hrtimer *t)
{
	shunt_transmit_complete(container_of(t, struct shunt_link, complete));
	return HRTIMER_NORESTART;
}

/* May this sent frame stay charged? TCP data of a fast one-way flow, and not too many. */
static bool keep_charged(struct shunt_link *link, const struct sk_buff *skb)
{
	u64 now = local_clock();
	u32 gap = min_t(u64, now - link->tx_last, NSEC_PER_MSEC);
	u32 window = READ_ONCE(shunt_window_us) * NSEC_PER_USEC;

	lockdep_assert_held(&link->tx_lock);
	link->tx_last = now;
	link->tx_gap_ns = link->tx_gap_ns - link->tx_gap_ns / 8 + gap / 8;
	if (link->tx_gap_ns > window / 2 || !READ_ONCE(link->one_way))
		return false;
	if (!skb->sk || !sk_fullsock(skb->sk) || skb->sk->sk_protocol != IPPROTO_TCP ||
	    skb->len < 256 || skb_queue_len(&link->sent) >= SENT_MAX)
		return false;
	if (skb_queue_empty(&link->sent))
		hrtimer_start(&link->complete, ns_to_ktime(window / 2), HRTIMER_MODE_REL_SOFT);
	return true;
}

/**
 * shunt_transmit() - one eligible frame for @link's peer
 * @link: found through the roster
 * @dev: the NIC it would have left by
 * @skb: the frame, from its Ethernet header on
 *
 * Returns a netfilter verdict: NF_STOLEN (sent or held), NF_ACCEPT (take the network), NF_DROP.
 * Context: egress hook; BH off, RCU read side.
 */
unsigned int shunt_transmit(struct shunt_link *link, struct net_device *dev, struct sk_buff *skb)
{
	unsigned int verdict = NF_ACCEPT, len = skb->len;
	struct sk_buff_head done;
	int err;

	__skb_queue_head_init(&done);
	spin_lock(&link->tx_lock);
	if (link->tx_mode == SHUNT_TX_CLOSED)
		goto out;
	if (link->tx_mode == SHUNT_TX_FLUSHING || !skb_queue_empty(&link->held)) {
		verdict = hold(link, skb);
		goto out;
	}
	err = put(link, skb);
	if (likely(!err)) {
		ring_if_asked(link);
		__skb_queue_tail(keep_charged(link, skb) ? &link->sent : &done, skb);
		verdict = NF_STOLEN;
	} else if (err == -ENOSPC) {
		verdict = hold(link, skb);
		if (verdict == NF_STOLEN)
			drain_locked(link, &done);	/* arms, or finds room after all */
		napi_schedule(&link->napi);	/* has the poller look for room, sooner than a doorbell tells of it */
	} else if (err != -EMSGSIZE) {
		give_up(link);
	}
out:
	spin_unlock(&link->tx_lock);
	trace_shunt_transmit(link->dev->bdf, len, verdict);	/* a held frame may be gone by now */
	free_sent(&done);
	return verdict;
}

/**
 * shunt_transmit_open() - let frames into the ring
 * @link: UP, with a fresh producer, or recovered from a stall
 *
 * Context: any; takes tx_lock.
 */
void shunt_transmit_open(struct shunt_link *link)
{
	spin_lock_bh(&link->tx_lock);
	if (link->tx_mode == SHUNT_TX_CLOSED)
		link->tx_mode = SHUNT_TX_OPEN;
	WRITE_ONCE(link->tx_stalled, false);
	spin_unlock_bh(&link->tx_lock);
}

static bool stop_locked(struct shunt_link *link, bool stalled)
{
	lockdep_assert_held(&link->tx_lock);
	if (link->tx_mode != SHUNT_TX_OPEN)
		return false;
	link->tx_mode = SHUNT_TX_FLUSHING;
	WRITE_ONCE(link->tx_stalled, stalled);
	if (stalled)
		shunt_producer_arm(&link->tx);	/* its next sign of life comes with a doorbell */
	return true;
}

/**
 * shunt_transmit_stop() - no more frames into the ring; held ones go to the network, in order
 * @link: the link
 * @stalled: because the peer makes no progress (may be opened again), not for good
 *
 * The flush runs from the link's work; shunt_link_close() waits for it.
 * Context: any; takes tx_lock.
 */
void shunt_transmit_stop(struct shunt_link *link, bool stalled)
{
	bool flush;

	spin_lock_bh(&link->tx_lock);
	flush = stop_locked(link, stalled);
	spin_unlock_bh(&link->tx_lock);
	if (flush)
		queue_work(shunt_flush_wq, &link->flush);
}

/**
 * shunt_transmit_flush_work() - send held frames to the network, then leave FLUSHING
 * @work: link->flush
 *
 * One instance at a time (a work item does not run twice at once), so order is kept. It gives up the
 * CPU after a batch; frames that arrive meanwhile queue behind.
 * Context: process.
 */
void shunt_transmit_flush_work(struct work_struct *work)
{
	struct shunt_link *link = container_of(work, struct shunt_link, flush);
	struct net_device *dev;
	struct sk_buff *skb;

	for (;;) {
		spin_lock_bh(&link->tx_lock);
		skb = skb_peek(&link->held);
		if (!skb) {
			if (link->tx_mode == SHUNT_TX_FLUSHING)
				link->tx_mode = SHUNT_TX_CLOSED;
			spin_unlock_bh(&link->tx_lock);
			break;
		}
		unhold(link, skb);
		stat_add(&link->stats.tx_returned, 1);
		spin_unlock_bh(&link->tx_lock);
		dev = skb->dev;
		nf_skip_egress(skb, true);
		dev_queue_xmit(skb);
		dev_put(dev);
		cond_resched();
	}
	shunt_link_kick(link);
}

/**
 * shunt_transmit_hold_timer() - frames have waited for shunt_hold_us
 * @t: link->hold
 *
 * With progress by the consumer since then they may wait on; without, the link stalls.
 * Context: softirq.
 */
void shunt_transmit_hold_timer(struct timer_list *t)
{
	struct shunt_link *link = from_timer(link, t, hold);
	bool flush = false;

	spin_lock(&link->tx_lock);
	if (link->tx_mode == SHUNT_TX_OPEN && !skb_queue_empty(&link->held)) {
		if (shunt_producer_space(&link->tx) >= 0 && link->tx.cons != link->held_cons) {
			start_hold_timer(link);
			napi_schedule(&link->napi);
		} else {
			flush = stop_locked(link, true);
			stat_add(&link->stats.stalls, 1);
		}
	}
	spin_unlock(&link->tx_lock);
	if (flush)
		queue_work(shunt_flush_wq, &link->flush);
}
