// SPDX-License-Identifier: GPL-2.0-only
/*
 * The receiving half of the packet path: from the ring up the stack, as if from the real NIC.
 *
 * Whoever holds the SCHED bit of link->napi owns link->rx: the NAPI poll below, or the poller while it
 * spins. Nothing read from the ring is used before it was copied into the new skb and checked
 * there; the peer may rewrite the ring at any time.
 *
 * The anticipatory window (survey 3.3.4). Waking a reader for every frame is what makes latency, and what
 * ruins a stream. Where frames come fast and mostly one way (nobody waits for an answer; TCP's bare
 * acknowledgements are none), they are gathered: up to shunt_window_bytes or shunt_window_us, whichever
 * is first. A slow flow and request-response are never held up: the window opens only if it would catch
 * several frames.
 */
#include <linux/etherdevice.h>
#include <linux/sched/clock.h>
#include <linux/virtio_net.h>

#include "compat/compat.h"
#include "shunt.h"
#include "trace.h"

#define LINEAR_MAX 2048u	/* frames up to this are copied into one linear buffer */
#define LINEAR_HEAD 256u	/* of larger ones, this much */
#define RELEASE_BYTES 32768u	/* give space back at least this often, so that both ends overlap */
#define POLL_BYTES 262144u	/* taken by one poll: what the reader then copies out should still be in its cache */

static void stat_add(u64 *stat, u64 n)
{
	WRITE_ONCE(*stat, *stat + n);
}

/*
 * The rest of a large frame goes into pages of the link's pool: a page that comes back from the stack is
 * used again without the page allocator and without being cleared (init_on_alloc).
 */
static bool copy_to_pages(struct shunt_link *link, struct sk_buff *skb, const void *from, u32 len)
{
	int i;

	for (i = 0; len; i++) {
		u32 n = min_t(u32, len, PAGE_SIZE);
		struct page *page = i < MAX_SKB_FRAGS ? page_pool_dev_alloc_pages(link->pages) : NULL;

		if (!page)
			return false;
		memcpy(page_address(page), from, n);
		skb_add_rx_frag(skb, i, page, 0, n, PAGE_SIZE);
		from += n;
		len -= n;
	}
	return true;
}

static struct sk_buff *frame_copy(struct shunt_link *link, const void *frame, u32 len)
{
	u32 head = len <= LINEAR_MAX ? len : LINEAR_HEAD;
	struct sk_buff *skb = napi_alloc_skb(&link->napi, head);

	if (!skb)
		return NULL;
	skb_put_data(skb, frame, head);
	skb_mark_for_recycle(skb);
	if (copy_to_pages(link, skb, frame + head, len - head))
		return skb;
	kfree_skb(skb);
	return NULL;
}

/* Checksum and segmentation metadata, by the kernel's own validation of the same structure. */
static int frame_metadata(struct sk_buff *skb, const struct shunt_abi_pkt *pkt)
{
	struct virtio_net_hdr hdr = {
		.flags = pkt->flags & SHUNT_ABI_PKT_NEEDS_CSUM ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
		.gso_type = pkt->gso_type,
		.hdr_len = (__force __virtio16)cpu_to_le16(pkt->hdr_len),
		.gso_size = (__force __virtio16)cpu_to_le16(pkt->gso_size),
		.csum_start = (__force __virtio16)cpu_to_le16(pkt->csum_start),
		.csum_offset = (__force __virtio16)cpu_to_le16(pkt->csum_offset),
	};

	switch (pkt->gso_type & ~SHUNT_ABI_PKT_GSO_ECN) {
	case SHUNT_ABI_PKT_GSO_NONE:
	case SHUNT_ABI_PKT_GSO_TCPV4:
	case SHUNT_ABI_PKT_GSO_TCPV6:
		break;
	default:
		return -EINVAL;
	}
	return virtio_net_hdr_to_skb(skb, &hdr, true);
}

/*
 * Is this a frame that this peer may send us? Returns the device that receives it, or NULL.
 * Source and destination are checked against what the host says, in the private copy.
 */
static struct net_device *frame_dev(struct shunt_link *link, const struct sk_buff *skb)
{
	const struct ethhdr *eth = (const struct ethhdr *)skb->data;
	struct shunt_mac *from;

	if (eth->h_proto != htons(ETH_P_IP) && eth->h_proto != htons(ETH_P_IPV6))
		return NULL;
	from = shunt_mac_lookup(eth->h_source);
	if (!from || !from->peer || from->peer != link->peer)
		return NULL;
	return shunt_nic_receiver(eth->h_dest);
}

/* One record. False: it is malformed beyond refusing a frame, the peer is broken. */
static bool receive_one(struct shunt_link *link, const void *rec, u32 len)
{
	struct shunt_abi_pkt pkt;
	struct net_device *dev;
	struct sk_buff *skb;

	if (len < sizeof(pkt) + ETH_HLEN || len > sizeof(pkt) + SHUNT_ABI_PKT_FRAME_MAX)
		return false;
	memcpy(&pkt, rec, sizeof(pkt));
	len -= sizeof(pkt);
	skb = frame_copy(link, rec + sizeof(pkt), len);
	if (!skb) {
		stat_add(&link->stats.rx_nomem, 1);
		return true;
	}
	dev = frame_dev(link, skb);
	if (!dev || frame_metadata(skb, &pkt)) {
		stat_add(&link->stats.rx_refused, 1);
		trace_shunt_receive(link->dev->bdf, len, SHUNT_ABI_R_BROKEN_RECORD);
		kfree_skb(skb);
		return true;
	}
	link->rx_data += skb_is_nonlinear(skb) || !shunt_frame_is_ack(skb->data, len);
	skb->protocol = eth_type_trans(skb, dev);
	if (pkt.flags & SHUNT_ABI_PKT_DATA_VALID)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	stat_add(&link->stats.rx_frames, 1);
	stat_add(&link->stats.rx_bytes, len);
	trace_shunt_receive(link->dev->bdf, len, 0);
	napi_gro_receive(&link->napi, skb);
	return true;
}

static void release(struct shunt_link *link)
{
	if (shunt_consumer_release(&link->rx) == 1) {
		stat_add(&link->stats.doorbells_tx, 1);
		shunt_device_doorbell(link->dev, link->peer_member, link->vector);
	}
}

/*
 * Take up to @budget records or about POLL_BYTES, @ret_more says that there may be more; sets rx_broken
 * when the peer broke the rules.
 */
static int receive(struct shunt_link *link, int budget, bool *ret_more)
{
	u32 len, unreleased = 0, taken = 0;
	const void *rec;
	int work = 0, err = 0;

	rcu_read_lock();
	while (work < budget && taken < POLL_BYTES) {
		err = shunt_rec_peek(&link->rx, &rec, &len);
		if (err)
			break;
		if (!receive_one(link, rec, len)) {
			WRITE_ONCE(link->rx_broken, SHUNT_ABI_R_BROKEN_RECORD);
			break;
		}
		shunt_rec_consume(&link->rx);
		work++;
		taken += len;
		unreleased += len;
		if (unreleased >= RELEASE_BYTES) {
			release(link);
			unreleased = 0;
		}
	}
	rcu_read_unlock();
	release(link);
	/* Nobody seals a packet ring; a consumer of a sealed one can never be armed and would be polled for ever. */
	if (err == -EPROTO || err == -ESHUTDOWN)
		WRITE_ONCE(link->rx_broken, link->rx.bad_record ? SHUNT_ABI_R_BROKEN_RECORD :
								  SHUNT_ABI_R_BROKEN_INDEX);
	*ret_more = !err;
	return work;
}

/* Learn from a poll that took @work frames whether gathering pays. */
static void observe(struct shunt_link *link, int work)
{
	u64 now = local_clock(), tx = READ_ONCE(link->tx_data);
	u32 gap = min_t(u64, div_u64(now - link->polled, work), NSEC_PER_SEC);
	u32 most, least;

	link->gap_ns = link->gap_ns - link->gap_ns / 8 + gap / 8;
	link->recent_rx += link->rx_data;
	link->recent_tx += min_t(u64, tx - link->polled_tx, 1024);
	link->rx_data = 0;
	link->polled = now;
	link->polled_tx = tx;
	if (link->recent_rx + link->recent_tx > 256) {
		link->recent_rx /= 2;
		link->recent_tx /= 2;
	}
	most = max(link->recent_rx, link->recent_tx);
	least = min(link->recent_rx, link->recent_tx);
	WRITE_ONCE(link->one_way, most > least + least / 2 + 16);
	link->moderated = link->one_way &&
			  link->gap_ns < READ_ONCE(shunt_window_us) * (NSEC_PER_USEC / 2);
}

/**
 * shunt_receive_ripe() - is it time to take what is in the ring?
 * @link: owned
 * @now: local_clock()
 * @since: when the caller first saw something; 0 at first
 *
 * Context: the poller.
 */
bool shunt_receive_ripe(struct shunt_link *link, u64 now, u64 *since)
{
	u64 raw_prod;

	if (!shunt_consumer_pending(&link->rx))
		return false;
	if (!link->moderated || link->recent_tx > link->recent_rx)
		return true;	/* for a sender with an idle CPU, acknowledgements are what it waits for */
	raw_prod = READ_ONCE(link->rx.ctl->prod);	/* only decides when to look properly */
	if (raw_prod - link->rx.cons >= READ_ONCE(shunt_window_bytes))
		return true;
	if (!*since)
		*since = now;
	return now - *since >= READ_ONCE(shunt_window_us) * NSEC_PER_USEC;
}

/**
 * shunt_receive_arm() - ask for a doorbell, at once or at the end of the window
 * @link: owned, about to be completed
 *
 * Returns what shunt_consumer_arm() does.
 * Context: softirq, or BH off.
 */
int shunt_receive_arm(struct shunt_link *link)
{
	if (!link->moderated || ((current->flags & PF_KTHREAD) && !need_resched()))
		return shunt_consumer_arm(&link->rx);	/* the CPU is idle: the poller gathers */
	if (!hrtimer_is_queued(&link->window))
		hrtimer_start(&link->window, ns_to_ktime(READ_ONCE(shunt_window_us) * NSEC_PER_USEC),
			      HRTIMER_MODE_REL_SOFT);
	return shunt_consumer_arm_after(&link->rx, READ_ONCE(shunt_window_bytes));
}

/**
 * shunt_receive_window_timer() - the window is over: take what has come
 * @t: link->window
 *
 * Context: softirq.
 */
enum hrtimer_restart shunt_receive_window_timer(struct hrtimer *t)
{
	napi_schedule(&container_of(t, struct shunt_link, window)->napi);
	return HRTIMER_NORESTART;
}

/*
 * The ring has more, but this poll interrupted a task, or one waits for the CPU, perhaps for the very
 * frames just handed up: let it run before they overflow its socket. The ring holds the rest back, and
 * in the end the sender.
 */
static bool may_defer(struct napi_struct *napi)
{
	return (need_resched() || !(current->flags & PF_KTHREAD)) && !napi_disable_pending(napi) &&
	       !test_bit(NAPI_STATE_IN_BUSY_POLL, &napi->state);
}

/**
 * shunt_receive_poll() - NAPI poll of a link: held frames out, received frames up
 * @napi: link->napi
 * @budget: records at most
 *
 * Arms before completing: a doorbell in between finds NAPI still scheduled and marks it missed, so
 * napi_complete_done() schedules it again and no wake-up is lost.
 * Context: softirq.
 */
int shunt_receive_poll(struct napi_struct *napi, int budget)
{
	struct shunt_link *link = container_of(napi, struct shunt_link, napi);
	bool more;
	int work;

	shunt_transmit_drain(link);
	if (unlikely(READ_ONCE(link->rx_broken))) {
		napi_complete_done(napi, 0);
		return 0;
	}
	work = receive(link, budget, &more);
	if (unlikely(READ_ONCE(link->rx_broken))) {
		shunt_link_kick(link);
		napi_complete_done(napi, min(work, budget - 1));
		return min(work, budget - 1);
	}
	if (work)
		observe(link, work);
	if (more) {
		napi_gro_flush(napi, false);	/* nothing of ours refers to a NIC between polls */
		if (!may_defer(napi))
			return budget;
		shunt_poller_defer(link);
		return budget - 1;	/* less than the budget and not completed: the poller owns it now */
	}
	if (READ_ONCE(link->state) == SHUNT_ABI_LINK_CLOSING)
		shunt_link_kick(link);	/* empty: the close may be complete */
	if (!(work ? shunt_receive_arm(link) : shunt_consumer_arm(&link->rx)))
		return budget;	/* something came: stay scheduled */
	if (work || !skb_queue_empty_lockless(&link->held))
		shunt_poller_kick(link);	/* more may come, or room for held frames */
	napi_complete_done(napi, work);
	return work;
}
