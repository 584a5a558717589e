// SPDX-License-Identifier: GPL-2.0-only
/*
 * The uplink: the conversation with shuntd over the mailbox of the uplink segment.
 *
 * Everything runs on shunt_wq under shunt_mutex. The uplink is shared with shuntd alone, which is
 * trusted to say who peers are, but its messages are still copied before they are looked at, and a
 * corrupt mailbox only ends the uplink (state BROKEN): links that are up go on.
 *
 * In a group the mailbox lies in the group's segment, where any of its members can write. They trust one
 * another by definition, with this guest's frames, but not with its kernel: whatever a message says, it
 * is bounded and checked against the device before it is used.
 */
#include <linux/random.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/utsname.h>

#include "shunt.h"

struct shunt_uplink_info shunt_uplink;
u64 shunt_generation;

static struct shunt_device *uplink_dev;
static struct shunt_producer upward;
static struct shunt_consumer downward;
static u32 up_seq;
static bool welcomed;		/* by an answer to our HELLO's generation */
static struct delayed_work tick;
static struct work_struct mailbox;

/* Messages that did not fit into the mailbox; bounded, the oldest first. */
struct pending_msg {
	struct list_head list;
	u32 len;
	u8 data[];
};

#define PENDING_MAX 256
static LIST_HEAD(pending);
static u32 pending_n;

/* Detaches under way (shunt_mutex): from closing the links to saying BYE none is opened. */
static unsigned int leaving;

/* A LINK_OPEN whose device has not been probed yet. */
struct pending_open {
	struct list_head list;
	struct shunt_abi_msg_link_open msg;
};

static LIST_HEAD(opens);
static u32 opens_n;

/* Devices that could not be mapped, by bdf; a LINK_OPEN for one is answered instead of kept waiting. */
static u32 unusable[8];
static u32 unusable_n;

static bool is_unusable(u32 bdf)
{
	u32 i;

	if (bdf == SHUNT_ABI_BDF_UNKNOWN)
		return false;
	for (i = 0; i < min_t(u32, unusable_n, ARRAY_SIZE(unusable)); i++)
		if (unusable[i] == bdf)
			return true;
	return false;
}

static void uplink_break(void)
{
	pr_warn_ratelimited("shunt: the uplink's mailbox is corrupt: no further control by shuntd\n");
	shunt_uplink.state = SHUNT_UPLINK_BROKEN;
	shunt_uplink.reason = SHUNT_ABI_R_BROKEN_INDEX;
}

static bool uplink_usable(void)
{
	return uplink_dev && shunt_uplink.state != SHUNT_UPLINK_BROKEN;
}

static int mailbox_put(const void *msg, u32 len)
{
	void *dst;
	int err = shunt_rec_reserve(&upward, len, &dst);

	if (err)
		return err;
	memcpy(dst, msg, len);
	shunt_rec_commit(&upward, len);
	if (shunt_producer_publish(&upward) == 1)
		shunt_device_doorbell(uplink_dev, 0, SHUNT_ABI_VECTOR_CONTROL);
	return 0;
}

static void keep_for_later(const void *msg, u32 len)
{
	struct pending_msg *p;

	if (pending_n == PENDING_MAX)
		goto lost;
	p = kmalloc(struct_size(p, data, len), GFP_KERNEL);
	if (!p)
		goto lost;
	p->len = len;
	memcpy(p->data, msg, len);
	list_add_tail(&p->list, &pending);
	pending_n++;
	return;
lost:
	/* shuntd does not read its mailbox: it will meet us anew by HELLO when it comes back */
	shunt_uplink.bad_msgs++;
}

static void send(struct shunt_abi_msg *msg, u16 type, u32 len)
{
	int err = -ENOSPC;

	lockdep_assert_held(&shunt_mutex);
	if (!uplink_usable())
		return;
	msg->type = type;
	msg->seq = ++up_seq;
	if (list_empty(&pending))
		err = mailbox_put(msg, len);
	if (err == -ENOSPC) {
		keep_for_later(msg, len);
		shunt_producer_arm(&upward);
	} else if (err) {
		uplink_break();
	}
}

static void send_pending(void)
{
	struct pending_msg *p, *next;
	int err;

	list_for_each_entry_safe(p, next, &pending, list) {
		err = mailbox_put(p->data, p->len);
		if (err == -ENOSPC) {
			shunt_producer_arm(&upward);
			return;
		}
		if (err) {
			uplink_break();
			return;
		}
		list_del(&p->list);
		pending_n--;
		kfree(p);
	}
}

static void drop_pending(void)
{
	struct pending_msg *p, *next;
	struct pending_open *o, *onext;

	list_for_each_entry_safe(p, next, &pending, list)
		kfree(p);
	INIT_LIST_HEAD(&pending);
	pending_n = 0;
	list_for_each_entry_safe(o, onext, &opens, list)
		kfree(o);
	INIT_LIST_HEAD(&opens);
	opens_n = 0;
}

static void send_hello(void)
{
	struct shunt_abi_msg_hello *msg;
	struct shunt_nic *nic;

	msg = kzalloc(sizeof(*msg), GFP_KERNEL);
	if (!msg)
		return;
	msg->version_min = SHUNT_ABI_VERSION;
	msg->version_max = SHUNT_ABI_VERSION;
	msg->generation = shunt_generation;
	strscpy(msg->kernel, init_utsname()->release, sizeof(msg->kernel));
	strscpy(msg->module, SHUNT_VERSION, sizeof(msg->module));
	rtnl_lock();
	list_for_each_entry(nic, &shunt_nics, list)
		if (msg->nics < SHUNT_ABI_NICS_MAX)
			ether_addr_copy(msg->nic[msg->nics++].addr, nic->mac.addr);
	rtnl_unlock();
	welcomed = false;
	shunt_uplink.state = SHUNT_UPLINK_HELLO;
	shunt_uplink.reason = SHUNT_ABI_R_DAEMON;
	send(&msg->msg, SHUNT_ABI_MSG_HELLO, sizeof(*msg));
	kfree(msg);
}

static void on_welcome(const struct shunt_abi_msg_welcome *msg)
{
	if (msg->generation != shunt_generation)
		return;		/* an answer to an earlier life of ours */
	if (msg->version != SHUNT_ABI_VERSION) {
		shunt_uplink.state = SHUNT_UPLINK_REFUSED;
		shunt_uplink.reason = SHUNT_ABI_R_VERSION;
		return;
	}
	shunt_uplink.welcome = *msg;
	shunt_uplink.welcome.name[SHUNT_ABI_NAME_MAX - 1] = 0;
	shunt_uplink.welcome.label[SHUNT_ABI_NAME_MAX - 1] = 0;
	shunt_uplink.welcome.host[SHUNT_ABI_NAME_MAX - 1] = 0;
	shunt_uplink.state = SHUNT_UPLINK_READY;
	shunt_uplink.reason = SHUNT_ABI_R_NONE;
	welcomed = true;
	shunt_nic_allow(msg->nic, msg->nics);
}

static void on_refuse(const struct shunt_abi_msg_refuse *msg)
{
	shunt_uplink.state = SHUNT_UPLINK_REFUSED;
	shunt_uplink.reason = min_t(u32, msg->reason, SHUNT_ABI_R_MAX - 1);
}

static void on_roster(const struct shunt_abi_msg_roster *msg)
{
	struct shunt_abi_msg_roster_ack ack = { .roster_gen = msg->roster_gen };

	if (shunt_roster_apply(msg))
		shunt_uplink.bad_msgs++;
	shunt_uplink.roster_gen = msg->roster_gen;
	send(&ack.msg, SHUNT_ABI_MSG_ROSTER_ACK, sizeof(ack));
}

static struct shunt_device *device_find(u64 segment_id, u32 bdf)
{
	struct shunt_device *dev;

	list_for_each_entry(dev, &shunt_devices, list)
		if (dev->n_links && !dev->dead && dev->hdr.segment_id == segment_id &&
		    (bdf == SHUNT_ABI_BDF_UNKNOWN || bdf == dev->bdf))
			return dev;
	return NULL;
}

static void send_link_state(u64 segment_id, u32 peer_member, u32 epoch, u32 state, u32 reason)
{
	struct shunt_abi_msg_link_state msg = {
		.segment_id = segment_id,
		.epoch = epoch,
		.state = state,
		.reason = reason,
		.peer_member = peer_member,
	};

	send(&msg.msg, SHUNT_ABI_MSG_LINK_STATE, sizeof(msg));
}

static void forget_open(u64 segment_id, u32 peer_member)
{
	struct pending_open *o, *next;

	list_for_each_entry_safe(o, next, &opens, list)
		if (o->msg.segment_id == segment_id && o->msg.peer_member == peer_member) {
			list_del(&o->list);
			opens_n--;
			kfree(o);
		}
}

static void open_now(struct shunt_device *dev, const struct shunt_abi_msg_link_open *msg)
{
	int err = shunt_link_open(dev, msg);

	if (err) {
		shunt_uplink.bad_msgs++;
		send_link_state(msg->segment_id, msg->peer_member, msg->epoch, SHUNT_ABI_LINK_CLOSED,
				err == -ENOENT ? SHUNT_ABI_R_POLICY : SHUNT_ABI_R_BROKEN_STATE);
	}
}

static void on_link_open(const struct shunt_abi_msg_link_open *msg)
{
	struct shunt_device *dev = device_find(msg->segment_id, msg->bdf);
	struct pending_open *o;

	forget_open(msg->segment_id, msg->peer_member);
	if (leaving)
		return;		/* shuntd saw the links close and offers new ones: our BYE is the answer */
	if (dev) {
		open_now(dev, msg);
		return;
	}
	if (is_unusable(msg->bdf)) {
		send_link_state(msg->segment_id, msg->peer_member, msg->epoch, SHUNT_ABI_LINK_CLOSED,
				SHUNT_ABI_R_BAR);
		return;
	}
	o = opens_n < 64 ? kmalloc(sizeof(*o), GFP_KERNEL) : NULL;
	if (!o) {
		shunt_uplink.bad_msgs++;
		return;
	}
	o->msg = *msg;
	list_add_tail(&o->list, &opens);
	opens_n++;
}

static void on_link_close(const struct shunt_abi_msg_link_close *msg)
{
	struct shunt_device *dev = device_find(msg->segment_id, SHUNT_ABI_BDF_UNKNOWN);
	struct shunt_link *link = dev ? shunt_device_link(dev, msg->peer_member) : NULL;
	u32 reason = min_t(u32, msg->reason, SHUNT_ABI_R_MAX - 1);

	forget_open(msg->segment_id, msg->peer_member);
	if (!link || link->epoch != msg->epoch || !shunt_link_busy(link))
		send_link_state(msg->segment_id, msg->peer_member, msg->epoch, SHUNT_ABI_LINK_CLOSED, reason);
	else
		shunt_link_close(link, reason, reason == SHUNT_ABI_R_PEER_DEAD);
}

static void send_stats(const struct shunt_link *link, struct shunt_abi_msg_stats *msg)
{
	if (!link->peer)
		return;
	msg->segment_id = link->dev->hdr.segment_id;
	msg->peer_member = link->peer_member;
	msg->vm_id = link->peer->vm_id;
	shunt_link_stats(link, &msg->stats);
	send(&msg->msg, SHUNT_ABI_MSG_STATS, sizeof(*msg));
}

static void on_stats_get(void)
{
	struct shunt_abi_msg_stats *msg;
	struct shunt_device *dev;
	struct shunt_link *link;

	msg = kzalloc(sizeof(*msg), GFP_KERNEL);
	if (!msg)
		return;
	list_for_each_entry(dev, &shunt_devices, list)
		shunt_device_for_each_link(dev, link)
			send_stats(link, msg);
	kfree(msg);
}

/* @buf: private, zero-padded copy of a record of @len bytes. */
static void dispatch(const void *buf, u32 len)
{
	const struct shunt_abi_msg *msg = buf;
	static const u16 size[] = {
		[SHUNT_ABI_MSG_WELCOME] = sizeof(struct shunt_abi_msg_welcome),
		[SHUNT_ABI_MSG_ROSTER] = sizeof(struct shunt_abi_msg_roster),
		[SHUNT_ABI_MSG_LINK_OPEN] = sizeof(struct shunt_abi_msg_link_open),
		[SHUNT_ABI_MSG_LINK_CLOSE] = sizeof(struct shunt_abi_msg_link_close),
		[SHUNT_ABI_MSG_STATS_GET] = sizeof(struct shunt_abi_msg_stats_get),
		[SHUNT_ABI_MSG_REFUSE] = sizeof(struct shunt_abi_msg_refuse),
	};

	if (len < sizeof(*msg) || msg->type >= ARRAY_SIZE(size) || !size[msg->type] ||
	    len < size[msg->type]) {
		shunt_uplink.bad_msgs++;
		return;
	}
	if (shunt_uplink.state == SHUNT_UPLINK_DETACHED)
		return;
	if (!welcomed && msg->type != SHUNT_ABI_MSG_WELCOME && msg->type != SHUNT_ABI_MSG_REFUSE)
		return;		/* meant for an earlier life of ours */
	switch (msg->type) {
	case SHUNT_ABI_MSG_WELCOME:
		return on_welcome(buf);
	case SHUNT_ABI_MSG_REFUSE:
		return on_refuse(buf);
	case SHUNT_ABI_MSG_ROSTER:
		return on_roster(buf);
	case SHUNT_ABI_MSG_LINK_OPEN:
		return on_link_open(buf);
	case SHUNT_ABI_MSG_LINK_CLOSE:
		return on_link_close(buf);
	case SHUNT_ABI_MSG_STATS_GET:
		return on_stats_get();
	}
}

static void send_wants(void)
{
	struct shunt_peer *peer;

	list_for_each_entry(peer, &shunt_peers, list) {
		struct shunt_abi_msg_want msg = {
			.vm_id = peer->vm_id,
			.frames_per_s = atomic_read(&peer->window_frames),
		};

		if (!READ_ONCE(peer->want))
			continue;
		WRITE_ONCE(peer->want, false);
		if (shunt_uplink.state == SHUNT_UPLINK_READY && !rcu_access_pointer(peer->link))
			send(&msg.msg, SHUNT_ABI_MSG_WANT, sizeof(msg));
	}
}

/* Up to a ringful of messages; the rest on the next run, so that others get the mutex. */
static void receive_mail(void)
{
	u8 *buf = kmalloc(SHUNT_ABI_MSG_MAX, GFP_KERNEL);
	const void *rec;
	int i, err = 0;
	u32 len;

	if (!buf)
		return;
	for (i = 0; i < 64; i++) {
		err = shunt_rec_peek(&downward, &rec, &len);
		if (err)
			break;
		memset(buf, 0, SHUNT_ABI_MSG_MAX);
		memcpy(buf, rec, min_t(u32, len, SHUNT_ABI_MSG_MAX));
		shunt_rec_consume(&downward);
		dispatch(buf, min_t(u32, len, SHUNT_ABI_MSG_MAX));
	}
	kfree(buf);
	if (err && err != -EAGAIN) {
		uplink_break();
		return;
	}
	if (shunt_consumer_release(&downward) == 1)
		shunt_device_doorbell(uplink_dev, 0, SHUNT_ABI_VECTOR_CONTROL);
	if (!err || !shunt_consumer_arm(&downward))
		shunt_uplink_kick();
}

static void mailbox_work(struct work_struct *work)
{
	mutex_lock(&shunt_mutex);
	if (uplink_usable()) {
		receive_mail();
		if (uplink_usable())
			send_pending();
		send_wants();
	}
	mutex_unlock(&shunt_mutex);
}

static void tick_work(struct work_struct *work)
{
	struct shunt_device *dev;
	struct shunt_link *link;
	bool linked = false;

	mutex_lock(&shunt_mutex);
	list_for_each_entry(dev, &shunt_devices, list) {
		struct shunt_abi_member *own = dev->mem + dev->layout.member_off + dev->id * sizeof(*own);

		if (dev->uplink)
			WRITE_ONCE(own->liveness, READ_ONCE(own->liveness) + 1);
		shunt_device_for_each_link(dev, link) {
			shunt_link_tick(link);
			linked |= link->state == SHUNT_ABI_LINK_UP;
		}
		shunt_storm_tick(dev);
	}
	shunt_refresh_tick(linked);
	if (!list_empty(&shunt_devices))
		queue_delayed_work(shunt_wq, &tick, msecs_to_jiffies(SHUNT_LIVENESS_MS));
	mutex_unlock(&shunt_mutex);
}

/**
 * shunt_uplink_kick() - look at the mailbox soon
 *
 * Context: any.
 */
void shunt_uplink_kick(void)
{
	queue_work(shunt_wq, &mailbox);
}

/**
 * shunt_uplink_link_state() - tell shuntd a link's state at this end
 * @link: the link
 *
 * Context: shunt_mutex.
 */
void shunt_uplink_link_state(struct shunt_link *link)
{
	send_link_state(link->dev->hdr.segment_id, link->peer_member, link->epoch, link->state, link->reason);
}

/**
 * shunt_uplink_storm() - tell shuntd that a peer rings without reason, for the first time or still
 * @link: the link with it, whatever its state
 *
 * Context: shunt_mutex.
 */
void shunt_uplink_storm(struct shunt_link *link)
{
	/* one that breaks now says so itself; one that never was has no epoch to speak of */
	if (link->epoch && !shunt_link_busy(link))
		send_link_state(link->dev->hdr.segment_id, link->peer_member, link->epoch, SHUNT_ABI_LINK_BROKEN,
				SHUNT_ABI_R_DOORBELLS);
}

/**
 * shunt_uplink_device_added() - a pair device was probed: a LINK_OPEN may be waiting for it
 * @dev: the device
 *
 * Context: shunt_mutex.
 */
void shunt_uplink_device_added(struct shunt_device *dev)
{
	struct pending_open *o;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(unusable); i++)
		if (unusable[i] == dev->bdf)
			unusable[i] = SHUNT_ABI_BDF_UNKNOWN;
	queue_delayed_work(shunt_wq, &tick, msecs_to_jiffies(SHUNT_LIVENESS_MS));
	list_for_each_entry(o, &opens, list) {
		if (device_find(o->msg.segment_id, o->msg.bdf) != dev)
			continue;
		list_del(&o->list);
		opens_n--;
		open_now(dev, &o->msg);
		kfree(o);
		return;
	}
}

/**
 * shunt_uplink_device_failed() - a device's memory could not be mapped
 * @bdf: where it is
 *
 * Tells shuntd now, or when it asks for a link on it.
 * Context: shunt_mutex.
 */
void shunt_uplink_device_failed(u32 bdf)
{
	struct pending_open *o, *next;

	if (!is_unusable(bdf))
		unusable[unusable_n++ % ARRAY_SIZE(unusable)] = bdf;
	list_for_each_entry_safe(o, next, &opens, list) {
		if (o->msg.bdf != bdf)
			continue;
		send_link_state(o->msg.segment_id, o->msg.peer_member, o->msg.epoch, SHUNT_ABI_LINK_CLOSED,
				SHUNT_ABI_R_BAR);
		list_del(&o->list);
		opens_n--;
		kfree(o);
	}
}

static void member_publish(struct shunt_device *dev, u32 state)
{
	struct shunt_abi_member *own = dev->mem + dev->layout.member_off + dev->id * sizeof(*own);

	WRITE_ONCE(own->epoch, dev->hdr.epoch);
	WRITE_ONCE(own->generation, shunt_generation);
	smp_store_release(&own->state, state);	/* M1 */
}

/**
 * shunt_uplink_add() - an uplink was probed: say hello
 * @dev: the device
 *
 * The mailbox may have been used before (module reload, guest reset): its indices are adopted.
 * Returns 0, -EBUSY (there is an uplink already), -EPROTO (mailbox corrupt).
 * Context: shunt_mutex.
 */
int shunt_uplink_add(struct shunt_device *dev)
{
	struct shunt_abi_mailbox *mb = dev->mem + dev->layout.mailbox_off;
	int err;

	if (uplink_dev) {
		pci_err(dev->pdev, "shunt: this VM has an uplink already (%s), device ignored\n",
			pci_name(uplink_dev->pdev));
		return -EBUSY;
	}
	mb += dev->id - 1;
	err = shunt_producer_adopt(&upward, &mb->up_ctl, mb->up, sizeof(mb->up));
	if (!err)
		err = shunt_consumer_adopt(&downward, &mb->down_ctl, mb->down, sizeof(mb->down));
	if (err) {
		pci_err(dev->pdev, "shunt: the mailbox is corrupt\n");
		return err;
	}
	uplink_dev = dev;
	shunt_uplink.kind = dev->kind;
	member_publish(dev, SHUNT_ABI_READY);
	send_hello();
	queue_delayed_work(shunt_wq, &tick, msecs_to_jiffies(SHUNT_LIVENESS_MS));
	shunt_uplink_kick();
	return 0;
}

/**
 * shunt_uplink_remove() - the uplink is going
 * @dev: the device
 *
 * Links stay up: they do not need it. On module unload BYE has been said before.
 * Context: shunt_mutex.
 */
void shunt_uplink_remove(struct shunt_device *dev)
{
	struct shunt_abi_msg_bye bye = { .reason = SHUNT_ABI_R_DEVICE_GONE };

	if (uplink_dev != dev)
		return;
	if (shunt_uplink.state == SHUNT_UPLINK_READY)
		send(&bye.msg, SHUNT_ABI_MSG_BYE, sizeof(bye));
	member_publish(dev, SHUNT_ABI_CLOSED);
	uplink_dev = NULL;
	shunt_uplink.kind = 0;
	drop_pending();
	if (shunt_uplink.state != SHUNT_UPLINK_DETACHED)
		shunt_uplink.state = SHUNT_UPLINK_ABSENT;
}

/**
 * shunt_uplink_attach() - use shunted paths again after a detach
 *
 * Returns 0, -ENODEV (shuntd has not attached this VM), -EALREADY.
 * Context: process; takes shunt_mutex.
 */
int shunt_uplink_attach(void)
{
	int err = 0;

	mutex_lock(&shunt_mutex);
	if (!uplink_dev)
		err = -ENODEV;
	else if (shunt_uplink.state == SHUNT_UPLINK_READY)
		err = -EALREADY;
	else if (shunt_uplink.state == SHUNT_UPLINK_BROKEN)
		err = -EPROTO;
	if (!err) {
		shunt_generation = get_random_u64();
		send_hello();
	}
	mutex_unlock(&shunt_mutex);
	shunt_uplink_kick();
	return err;
}

/**
 * shunt_uplink_detach() - leave every link and tell shuntd
 * @reason: enum shunt_abi_reason: DETACHED or UNLOAD
 *
 * Returns 0; -ETIMEDOUT if a peer did not answer in time and its link was left without it.
 * Context: process; takes shunt_mutex, sleeps up to shunt_release_ms.
 */
int shunt_uplink_detach(u32 reason)
{
	struct shunt_abi_msg_bye bye = { .reason = reason };
	struct shunt_device *dev;
	struct shunt_link *link;
	int err = 0;

	mutex_lock(&shunt_mutex);
	leaving++;
	shunt_link_close_all(reason);
	mutex_unlock(&shunt_mutex);
	shunt_link_wait_closed();
	mutex_lock(&shunt_mutex);
	leaving--;
	list_for_each_entry(dev, &shunt_devices, list)
		shunt_device_for_each_link(dev, link)
			if (shunt_link_busy(link)) {
				shunt_link_close(link, reason, true);
				err = -ETIMEDOUT;
			}
	if (shunt_uplink.state == SHUNT_UPLINK_READY || shunt_uplink.state == SHUNT_UPLINK_HELLO) {
		send(&bye.msg, SHUNT_ABI_MSG_BYE, sizeof(bye));
		shunt_uplink.state = SHUNT_UPLINK_DETACHED;
		shunt_uplink.reason = reason;
	}
	shunt_roster_clear();
	mutex_unlock(&shunt_mutex);
	shunt_nic_allow(NULL, 0);
	return err;
}

/**
 * shunt_uplink_init() - before any device is probed
 */
void shunt_uplink_init(void)
{
	INIT_WORK(&mailbox, mailbox_work);
	INIT_DELAYED_WORK(&tick, tick_work);
	shunt_generation = get_random_u64();
}

/**
 * shunt_uplink_exit() - after every device is gone: nothing queues work any more
 */
void shunt_uplink_exit(void)
{
	cancel_work_sync(&mailbox);
	cancel_delayed_work_sync(&tick);
	mutex_lock(&shunt_mutex);
	drop_pending();
	shunt_roster_clear();
	mutex_unlock(&shunt_mutex);
}
