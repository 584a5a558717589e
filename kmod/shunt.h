/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the module's files share.
 *
 * DOC: Theory of operation
 *
 * A *device* is an ivshmem function bound by our PCI driver: the one with a single vector is the
 * uplink, one with two is a group's, which is an uplink and carries *links* to several peers, every other
 * carries a link to one peer. *Peers* are roster entries, pushed by shuntd over the uplink. *NICs* are the
 * guest's real network devices whose permanent MAC shuntd named.
 *
 * Two worlds, kept apart:
 *
 *  - Control: probe, mailbox, roster, link state machine, netlink. Runs in process context under
 *    shunt_mutex, mostly on the ordered shunt_wq. It may sleep.
 *  - Data: the egress hook (softirq or process context, BH off, RCU) and NAPI. It takes link->tx_lock
 *    to send and owns link->rx through the NAPI SCHED bit to receive. It never takes shunt_mutex.
 *
 * Control stops data by link->tx_mode (under tx_lock) and napi_disable(), in that order, and only
 * then frees (make dead -> quiesce -> free; the proof is at shunt_device_remove()).
 *
 * Lock order: shunt_mutex -> rtnl -> link->tx_lock. The netdevice notifier runs under rtnl and
 * therefore never takes shunt_mutex. poller lock is a leaf.
 */
#ifndef SHUNT_KMOD_H
#define SHUNT_KMOD_H

#include <linux/etherdevice.h>
#include <linux/hrtimer.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/skbuff.h>
#include <linux/timer.h>
#include <linux/workqueue.h>

#include "core/layout.h"
#include "core/ring.h"
#include <shunt/abi/msg.h>
#include <shunt/abi/netlink.h>

extern struct mutex shunt_mutex;		/* all control state */
extern struct workqueue_struct *shunt_wq;	/* ordered */
extern struct workqueue_struct *shunt_flush_wq;	/* held frames */

/* ---- knobs (main.c): module parameters, writable ---- */
extern uint shunt_plug_rate;
extern uint shunt_hold_us;
extern uint shunt_hold_bytes;
extern uint shunt_spin_us;
extern uint shunt_spin_max_us;
extern uint shunt_window_us;
extern uint shunt_window_bytes;
extern uint shunt_stalled_ms;
extern uint shunt_release_ms;
extern uint shunt_refresh_s;
extern uint shunt_storm_rate;

#define SHUNT_LIVENESS_MS 100

/* ---- MACs: mac.c ---- */

struct shunt_link;
struct shunt_nic;
struct shunt_peer;

#define SHUNT_MTU_UNKNOWN U16_MAX

struct shunt_mac {
	struct hlist_node node;
	u8 addr[ETH_ALEN];
	u16 mtu;		/* a peer's: largest packet it takes by ring, SHUNT_ABI_MTU_NONE: none at all */
	struct shunt_peer *peer;	/* whose it is, or */
	struct shunt_nic *nic;	/* ours */
};

struct shunt_mac *shunt_mac_lookup(const u8 *addr);
void shunt_mac_add(struct shunt_mac *mac);
void shunt_mac_del(struct shunt_mac *mac);

/* ---- peers: roster.c ---- */

struct shunt_peer {
	struct list_head list;		/* shunt_peers; shunt_mutex */
	u32 vm_id;
	u64 generation;
	u32 reason;			/* enum shunt_abi_reason: why the host makes no link with it */
	char name[SHUNT_ABI_NAME_MAX];
	char label[SHUNT_ABI_NAME_MAX];
	u32 macs;
	struct shunt_mac mac[SHUNT_ABI_NICS_MAX];

	struct shunt_link __rcu *link;	/* set while frames may be sent to it */

	/* frames that went to the network because there is no link: shunt_peer_count() */
	atomic64_t net_frames;
	unsigned long window;		/* jiffies when the current counting window began */
	atomic_t window_frames;
	unsigned long wanted;		/* jiffies of the last WANT, 0: never */
	bool want;			/* a WANT is to be sent */
	bool stale;			/* not named since the roster's RESET; shunt_mutex */
};

extern struct list_head shunt_peers;

int shunt_roster_apply(const struct shunt_abi_msg_roster *msg);
void shunt_roster_clear(void);
struct shunt_peer *shunt_peer_find(u32 vm_id);
void shunt_peer_count(struct shunt_peer *peer);
void shunt_peer_hear(struct shunt_peer *peer, const struct shunt_abi_member *theirs);

/* ---- NICs: nic.c ---- */

struct shunt_nic {
	struct list_head list;		/* shunt_nics; rtnl */
	struct net_device *dev;
	struct shunt_mac mac;		/* permanent address; in the table while bound */
	bool bound;			/* named by shuntd, hook registered */
	unsigned long looked;		/* jiffies of the last look for obstacles */
	bool clear;			/* there was none */
	struct nf_hook_ops *ops;
	u64 refreshed;			/* frames sent to keep bridges informed; rtnl */
};

extern struct list_head shunt_nics;

int shunt_nic_init(void);
void shunt_nic_exit(void);
void shunt_nic_allow(const struct shunt_abi_mac *macs, u32 n);
bool shunt_nic_owns(const u8 *addr);
bool shunt_nic_clear(struct shunt_nic *nic);
struct net_device *shunt_nic_receiver(const u8 *addr);
void shunt_nic_publish(struct shunt_abi_member *own);
void shunt_nic_describe(const struct shunt_nic *nic, char *buf, size_t size);

/* ---- frames: frame.c ---- */

enum shunt_net_cause shunt_frame_judge(struct shunt_nic *nic, const struct shunt_mac *to, struct sk_buff *skb);
bool shunt_frame_is_ack(const u8 *frame, u32 len);
bool shunt_frame_plain(const struct sk_buff *skb);
unsigned int shunt_frame_transmit(struct shunt_link *link, struct net_device *dev, struct sk_buff *skb);

/* ---- bridge entries: refresh.c ---- */

void shunt_refresh_tick(bool linked);
void shunt_refresh_exit(void);

/* ---- links: link.c ---- */

enum shunt_tx_mode {
	SHUNT_TX_CLOSED,	/* frames take the network */
	SHUNT_TX_OPEN,		/* frames go to the ring, or wait in @held if it is full */
	SHUNT_TX_FLUSHING,	/* frames queue behind those in @held, which go to the network */
};

struct shunt_link {
	/* control; shunt_mutex */
	struct shunt_device *dev;
	struct shunt_peer *peer;
	u32 state;		/* enum shunt_abi_link_state */
	u32 reason;		/* enum shunt_abi_reason */
	u32 epoch;
	u16 own_member;
	u16 peer_member;
	u16 vector;
	unsigned long since;	/* jiffies of the last state change */
	unsigned long deadline;	/* CLOSING: when to stop waiting for the peer */
	u64 peer_liveness;
	unsigned long peer_seen;	/* jiffies when peer_liveness last moved */
	bool storm;		/* the peer rings without reason: storm.c */
	bool forced;		/* CLOSING: do not wait for the peer */
	struct shunt_abi_member *own;	/* shared memory: our line */
	struct shunt_abi_member *theirs;	/* shared memory: the peer's line */
	struct work_struct work;
	struct work_struct flush;

	/* transmit; tx_lock */
	spinlock_t tx_lock ____cacheline_aligned_in_smp;
	enum shunt_tx_mode tx_mode;
	struct shunt_producer tx;
	struct sk_buff_head held;
	u32 held_bytes;
	u64 held_cons;		/* consumer index when the hold timer was last started */
	struct timer_list hold;
	struct sk_buff_head sent;	/* in the ring already; kept charged to their sockets for a while */
	struct hrtimer complete;	/* frees @sent */
	u64 tx_data;		/* frames sent that were more than a TCP acknowledgement */
	u64 tx_last;		/* ktime ns of the last frame */
	u32 tx_gap_ns;		/* between frames, a moving average */
	bool tx_broken;
	bool tx_stalled;

	/* receive; owner of the NAPI SCHED bit */
	struct napi_struct napi ____cacheline_aligned_in_smp;
	struct shunt_consumer rx;
	struct page_pool *pages;	/* of large received frames */
	bool rx_enabled;	/* shunt_mutex */
	u32 rx_broken;		/* reason, sticky until the next epoch */
	u64 polled;		/* ktime ns of the last poll that found frames */
	u64 polled_tx;		/* tx_data then */
	u32 rx_data;		/* frames since then that were more than a TCP acknowledgement */
	u32 gap_ns;		/* between received frames, a moving average */
	u32 recent_rx;		/* such frames of late each way; halved when they grow */
	u32 recent_tx;
	bool one_way;		/* of late, most of them went in one direction */
	bool moderated;		/* received frames come fast and one way: gather them before a wake-up */
	struct hrtimer window;
	u32 spin_ns;		/* adapted window */
	u32 spin_left;
	u64 spin_slept;		/* ktime ns when the last window ran out, 0: it did not */
	u32 spin_vain;		/* sleeps since a window last paid or was tried in full */
	u32 spin_retry;		/* try when it comes to this */
	bool spin_trying;	/* one is due or under way, until a spin ends */
	struct list_head hot;	/* poller's list; poller lock */
	bool deferred;		/* the poller owns the SCHED bit of a poll to go on with; poller lock */
	struct hrtimer defer;

	struct shunt_abi_link_stats stats;	/* each field: one writer */
	atomic64_t causes[SHUNT_NET_MAX];	/* frames for the peer that took the network, by cause */
};

int shunt_link_init(struct shunt_link *link, struct shunt_device *dev, u16 peer_member);
void shunt_link_fini(struct shunt_link *link);
void shunt_link_leave(struct shunt_link *link, u32 reason);
int shunt_link_open(struct shunt_device *dev, const struct shunt_abi_msg_link_open *msg);
void shunt_link_close(struct shunt_link *link, u32 reason, bool forced);
void shunt_link_close_all(u32 reason);
bool shunt_link_busy(const struct shunt_link *link);
void shunt_link_wait_closed(void);
void shunt_link_kick(struct shunt_link *link);
void shunt_link_tick(struct shunt_link *link);
void shunt_link_stats(const struct shunt_link *link, struct shunt_abi_link_stats *ret_stats);

/* ---- packet path: transmit.c, receive.c, poller.c ---- */

unsigned int shunt_transmit(struct shunt_link *link, struct net_device *dev, struct sk_buff *skb);
void shunt_transmit_open(struct shunt_link *link);
void shunt_transmit_stop(struct shunt_link *link, bool stalled);
void shunt_transmit_drain(struct shunt_link *link);
void shunt_transmit_flush_work(struct work_struct *work);
void shunt_transmit_hold_timer(struct timer_list *t);
enum hrtimer_restart shunt_transmit_complete_timer(struct hrtimer *t);
void shunt_transmit_complete(struct shunt_link *link);

int shunt_receive_poll(struct napi_struct *napi, int budget);
int shunt_receive_arm(struct shunt_link *link);
bool shunt_receive_ripe(struct shunt_link *link, u64 now, u64 *since);
enum hrtimer_restart shunt_receive_window_timer(struct hrtimer *t);

int shunt_poller_start(void);
void shunt_poller_stop(void);
void shunt_poller_kick(struct shunt_link *link);
void shunt_poller_forget(struct shunt_link *link);
void shunt_poller_defer(struct shunt_link *link);
enum hrtimer_restart shunt_poller_defer_timer(struct hrtimer *t);

extern struct net_device *shunt_napi_dev;	/* carries our NAPI instances; never registered */

/* ---- devices: device.c ---- */

#define SHUNT_STORM_VECTORS 2u	/* those a peer can ring and we listen to */

struct shunt_storm {
	int irq;		/* 0: not guarded */
	u32 left;		/* doorbells until they are judged; the handler's */
	u32 bells;		/* in the window */
	unsigned long due;	/* jiffies until when so many are too many */
	u64 moved;		/* frames moved until then */
	bool masked;
	unsigned long masked_at;
	bool report;		/* shuntd is to be told */
};

struct shunt_device {
	struct list_head list;		/* shunt_devices; shunt_mutex */
	struct pci_dev *pdev;
	void __iomem *regs;		/* BAR 0 */
	void *mem;			/* BAR 2: the segment */
	u64 size;
	u32 id;				/* our member id: IVPosition */
	u32 bdf;
	int vectors;
	u32 kind;			/* enum shunt_abi_kind, by the number of vectors */
	bool uplink;			/* has our mailbox with shuntd: an uplink or a group */
	bool dead;			/* being removed */
	struct shunt_abi_segment hdr;	/* validated copy, taken at probe */
	struct shunt_layout layout;
	struct shunt_link *links;	/* one per other VM of the segment; they live as long as the device */
	unsigned int n_links;
	struct shunt_storm storm[SHUNT_STORM_VECTORS];
};

#define shunt_device_for_each_link(dev, link) \
	for ((link) = (dev)->links; (link) < (dev)->links + (dev)->n_links; (link)++)

extern struct list_head shunt_devices;

int shunt_device_register(void);
void shunt_device_unregister(void);
void shunt_device_doorbell(struct shunt_device *dev, u16 member, u16 vector);
struct shunt_link *shunt_device_link(struct shunt_device *dev, u32 peer_member);

/* ---- doorbell storms: storm.c ---- */

void shunt_storm_init(struct shunt_device *dev, unsigned int vector, int irq);
void shunt_storm_judge(struct shunt_device *dev, unsigned int vector);
void shunt_storm_tick(struct shunt_device *dev);

/* A doorbell came. Context: the vector's interrupt handler. */
static inline void shunt_storm_count(struct shunt_device *dev, unsigned int vector)
{
	if (unlikely(!--dev->storm[vector].left))
		shunt_storm_judge(dev, vector);
}

/* ---- uplink: uplink.c ---- */

struct shunt_uplink_info {
	u32 state;			/* enum shunt_uplink_state */
	u32 reason;			/* enum shunt_abi_reason */
	u32 kind;			/* enum shunt_abi_kind of the device; 0: there is none */
	u64 generation;			/* ours */
	u64 roster_gen;
	u64 bad_msgs;
	struct shunt_abi_msg_welcome welcome;
};

extern struct shunt_uplink_info shunt_uplink;
extern u64 shunt_generation;

void shunt_uplink_init(void);
void shunt_uplink_exit(void);
int shunt_uplink_add(struct shunt_device *dev);
void shunt_uplink_remove(struct shunt_device *dev);
void shunt_uplink_kick(void);
void shunt_uplink_device_added(struct shunt_device *dev);
void shunt_uplink_device_failed(u32 bdf);
void shunt_uplink_link_state(struct shunt_link *link);
void shunt_uplink_storm(struct shunt_link *link);
int shunt_uplink_attach(void);
int shunt_uplink_detach(u32 reason);

/* ---- netlink.c ---- */

int shunt_netlink_init(void);
void shunt_netlink_exit(void);
void shunt_netlink_event(struct shunt_peer *peer);

#endif
