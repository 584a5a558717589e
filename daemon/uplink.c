// SPDX-License-Identifier: GPL-2.0-only
/*
 * The uplink of a VM: mailbox rings and the messages in them.
 *
 * DOC: Theory of operation
 *
 * The guest is hostile. What it sends is validated (msg.c); what breaks the protocol breaks its
 * uplink (sticky, counted, until an operator's attach) and concerns nobody else. What merely comes
 * too late (a state of a link that is no more) is counted and dropped.
 *
 * Work is bounded by a budget per liveness tick. A guest that uses it up, by messages or by
 * doorbells without messages, is not listened to until the next tick; its mailbox fills and it
 * waits. One that does so in every tick for storm_ms has its uplink broken: from then on its
 * doorbells are not looked at, and cost nothing.
 *
 * Messages handled in one round are released only by uplink_flush(), after the state file has
 * been written (see shuntd.h).
 */
#include <string.h>
#include <sys/epoll.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

#define BUDGET 256u		/* per tick */
#define COST_HELLO 32u		/* makes work for others */
#define OUT_MAX 4096u		/* messages waiting for a guest that does not read */
#define SEND_TRIES 8		/* looks for room in one go, while the guest makes some */

/** uplink_ready() - Plugged and in order. */
bool uplink_ready(const struct vm *vm)
{
	return vm->uplink.seg && vm->uplink.end.state == END_PLUGGED && !vm->uplink.broken;
}

/**
 * uplink_break() - The guest broke the protocol: sticky, counted.
 * @why: for the log.
 */
void uplink_break(struct vm *vm, uint32_t reason, const char *why)
{
	struct uplink *u = &vm->uplink;

	if (u->broken)
		return;
	u->broken = reason;
	u->breaks++;
	log_warn("uplink-broken", "vm=%s reason=%s detail=\"%s\"", vm->name, shunt_reason_name(reason), why);
	u->bell = sd_event_source_disable_unref(u->bell);
	vm->hello = false;
	vm->d->dirty = true;
	/* Its links are not known to be closed: only a new life of the guest tells. */
}

/* --- messages up --- */

static void refuse(struct vm *vm, uint32_t reason)
{
	struct shunt_abi_msg_refuse m = { .reason = reason };

	log_warn("refused", "vm=%s reason=%s", vm->name, shunt_reason_name(reason));
	uplink_send(vm, &m, sizeof(m), SHUNT_ABI_MSG_REFUSE);
}

static void drop_out(struct uplink *u)
{
	struct out_msg *m;

	while ((m = TAILQ_FIRST(&u->out))) {
		TAILQ_REMOVE(&u->out, m, link);
		free(m);
	}
	u->out_len = 0;
}

static void on_hello(struct vm *vm, const struct shunt_abi_msg_hello *h)
{
	vm->uplink.budget -= vm->uplink.budget < COST_HELLO ? vm->uplink.budget : COST_HELLO;
	/* What was queued speaks of the guest's former life. */
	drop_out(&vm->uplink);
	pair_vm_links_dead(vm, SHUNT_ABI_R_PEER_DEAD);
	vm->d->dirty = true;
	if (h->version_min > SHUNT_ABI_VERSION || h->version_max < SHUNT_ABI_VERSION) {
		vm->hello = false;
		vm->bye = SHUNT_ABI_R_VERSION;
		refuse(vm, SHUNT_ABI_R_VERSION);
		return;
	}
	vm->hello = true;
	vm->bye = 0;
	vm->generation = h->generation;
	vm->features = 0;	/* none defined in version 1 */
	memcpy(vm->kernel, h->kernel, sizeof(vm->kernel));
	memcpy(vm->module, h->module, sizeof(vm->module));
	log_info("hello", "vm=%s generation=%016llx kernel=%s module=%s guest-nics=%u", vm->name,
		 (unsigned long long)h->generation, vm->kernel, vm->module, h->nics);
	roster_welcome(vm, true);
	vm_refresh_nics(vm);
}

static void on_bye(struct vm *vm, const struct shunt_abi_msg_bye *b)
{
	log_info("bye", "vm=%s reason=%s", vm->name, shunt_reason_name(b->reason));
	vm->hello = false;
	vm->bye = b->reason ? b->reason : SHUNT_ABI_R_NO_MODULE;
	vm->d->dirty = true;
	pair_vm_links_dead(vm, vm->bye);
}

static void handle(struct vm *vm, const union shunt_msg_up *m)
{
	if (m->msg.type == SHUNT_ABI_MSG_HELLO) {
		on_hello(vm, &m->hello);
		return;
	}
	if (!vm->hello) {
		vm->uplink.stale_msgs++;
		return;
	}
	switch (m->msg.type) {
	case SHUNT_ABI_MSG_ROSTER_ACK:
		roster_ack(vm, m->ack.roster_gen);
		break;
	case SHUNT_ABI_MSG_WANT:
		pair_want(vm, m->want.vm_id);
		break;
	case SHUNT_ABI_MSG_LINK_STATE:
		pair_link_state(vm, &m->link_state);
		break;
	case SHUNT_ABI_MSG_BYE:
		on_bye(vm, &m->bye);
		break;
	case SHUNT_ABI_MSG_STATS:
		pair_stats(vm, &m->stats);
		break;
	}
}

/* One message; false: no more, for now or for ever. */
static bool take_one(struct vm *vm)
{
	struct uplink *u = &vm->uplink;
	union shunt_msg_up m;
	const void *raw;
	__u32 len;
	int r = shunt_rec_peek(&u->up, &raw, &len);

	if (r == -EAGAIN)
		return false;
	if (r) {
		uplink_break(vm, SHUNT_ABI_R_BROKEN_INDEX, "impossible mailbox index");
		return false;
	}
	r = shunt_msg_parse(raw, len, &m);
	shunt_rec_consume(&u->up);
	if (r == -ENOMSG) {
		u->unknown_msgs++;
	} else if (r) {
		u->bad_msgs++;
		uplink_break(vm, SHUNT_ABI_R_BROKEN_RECORD, "malformed message");
		return false;
	} else {
		handle(vm, &m);
	}
	return true;
}

static void mask(struct vm *vm)
{
	vm->uplink.masked = true;
	vm->uplink.masked_ticks++;
	if (vm->uplink.bell)
		sd_event_source_set_enabled(vm->uplink.bell, SD_EVENT_OFF);
}

static void take(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	while (!u->broken && u->budget) {
		u->budget--;	/* a doorbell without a message costs, too */
		if (!take_one(vm))
			return;
	}
	if (!u->broken)
		mask(vm);
}

/** uplink_drain() - Handle now whatever the guest has sent: what comes next makes it history. */
void uplink_drain(struct vm *vm)
{
	if (uplink_ready(vm))
		take(vm);
}

static int on_bell(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	uint64_t n;

	(void)s;
	(void)revents;
	if (read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n))
		take(userdata);
	return 0;
}

/* --- messages down --- */

/**
 * uplink_send() - Queue a message to the guest; it goes out with the next uplink_flush().
 * @msg: the message; its header is filled in here.
 */
void uplink_send(struct vm *vm, void *msg, size_t len, uint16_t type)
{
	struct uplink *u = &vm->uplink;
	struct shunt_abi_msg *h = msg;
	struct out_msg *m;

	if (!u->seg || u->broken)
		return;
	if (u->out_len >= OUT_MAX) {
		uplink_break(vm, SHUNT_ABI_R_TIMEOUT, "the guest does not read its mailbox");
		drop_out(u);
		return;
	}
	*h = (struct shunt_abi_msg){ .type = type, .seq = ++u->seq };
	m = malloc(sizeof(*m) + len);
	m->len = (uint32_t)len;
	memcpy(m->body, msg, len);
	TAILQ_INSERT_TAIL(&u->out, m, link);
	u->out_len++;
}

/* Publish what fits. 0, -ENOSPC (the guest must read first), or the ring is broken. */
static int push(struct uplink *u)
{
	struct out_msg *m;
	void *to;
	int r = 0;

	while ((m = TAILQ_FIRST(&u->out))) {
		r = shunt_rec_reserve(&u->down, m->len, &to);
		if (r)
			break;
		memcpy(to, m->body, m->len);
		shunt_rec_commit(&u->down, m->len);
		TAILQ_REMOVE(&u->out, m, link);
		free(m);
		u->out_len--;
	}
	if (r && r != -ENOSPC)
		return r;
	if (shunt_producer_publish(&u->down) == 1)
		segment_ring(u->end.seg, u->end.member, SHUNT_ABI_VECTOR_CONTROL);
	return r;
}

static void send_out(struct vm *vm)
{
	struct uplink *u = &vm->uplink;
	int r, tries = SEND_TRIES;

	/* A guest that moves its index all the while is sent the rest after the next event, the tick at the latest. */
	do
		r = push(u);
	while (r == -ENOSPC && !shunt_producer_arm(&u->down) && --tries);
	if (r && r != -ENOSPC) {
		uplink_break(vm, SHUNT_ABI_R_BROKEN_INDEX, "impossible mailbox index");
		drop_out(u);
	}
}

/**
 * uplink_flush() - Release the messages handled and publish those queued.
 *
 * Context: from daemon_settle(), after the state file was written.
 */
void uplink_flush(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	if (!u->seg || u->broken)
		return;
	if (u->up.cons != u->up.released && shunt_consumer_release(&u->up) == 1)
		segment_ring(u->seg, u->end.member, SHUNT_ABI_VECTOR_CONTROL);
	if (u->out_len)
		send_out(vm);
	/* Something came since: be woken by our own doorbell. */
	if (!u->broken && !u->masked && !shunt_consumer_arm(&u->up))
		segment_ring(u->seg, 0, SHUNT_ABI_VECTOR_CONTROL);
}

/* --- life --- */

/* On an uplink every VM is member 1. */
static unsigned int own_member(const struct vm *vm)
{
	return vm->group ? vm->uplink.end.member : 1;
}

static void say_ready(struct vm *vm)
{
	struct shunt_abi_member *me = segment_member(vm->uplink.seg, 0);

	me->epoch = vm->uplink.seg->spec.epoch;
	me->generation = vm->d->generation;
	__atomic_store_n(&me->state, SHUNT_ABI_READY, __ATOMIC_RELEASE);
}

/**
 * uplink_start() - Serve the mailbox of the uplink segment.
 * @adopt: it is in use: go on at the indices found there.
 *
 * Return: 0; -EPROTO: what was found makes no sense (the uplink is broken).
 */
int uplink_start(struct vm *vm, bool adopt)
{
	struct uplink *u = &vm->uplink;
	struct shunt_abi_mailbox *box = segment_mailbox(u->seg, own_member(vm));
	int r = 0;

	if (adopt) {
		r = shunt_consumer_adopt(&u->up, &box->up_ctl, box->up, SHUNT_ABI_MAILBOX_RING);
		if (!r)
			r = shunt_producer_adopt(&u->down, &box->down_ctl, box->down, SHUNT_ABI_MAILBOX_RING);
	} else {
		shunt_consumer_init(&u->up, &box->up_ctl, box->up, SHUNT_ABI_MAILBOX_RING);
		shunt_producer_init(&u->down, &box->down_ctl, box->down, SHUNT_ABI_MAILBOX_RING);
	}
	u->budget = BUDGET;
	u->busy_usec = 0;
	u->masked = false;
	if (r) {
		uplink_break(vm, SHUNT_ABI_R_BROKEN_INDEX, "mailbox cannot be adopted");
		return r;
	}
	if (!vm->group)		/* its members share a doorbell: group.c */
		r = sd_event_add_io(vm->d->event, &u->bell, u->seg->efd[0][0], EPOLLIN, on_bell, vm);
	if (r < 0)
		return r;
	say_ready(vm);
	if (adopt)
		segment_ring(u->seg, 0, SHUNT_ABI_VECTOR_CONTROL);
	return 0;
}

/**
 * uplink_create() - Make the uplink segment and plug it.
 *
 * Return: 0 or a negative errno.
 */
int uplink_create(struct vm *vm)
{
	struct uplink *u = &vm->uplink;
	struct segment_spec spec = {
		.kind = SHUNT_ABI_UPLINK,
		.size = SEGMENT_UPLINK_SIZE,
		.members = 2,
		.vectors = SHUNT_ABI_UPLINK_VECTORS,
	};
	int r = segment_create(spec, &u->seg);

	if (!r)
		r = uplink_start(vm, false);
	if (r)
		return r;
	u->plugged_at = now_usec(vm->d);
	u->silence_noted = false;
	plug_end(&u->end, vm, u->seg, 1);
	return 0;
}

/** uplink_stop() - Forget the uplink; a device that is still plugged stays in QEMU. */
void uplink_stop(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	u->bell = sd_event_source_disable_unref(u->bell);
	drop_out(u);
	plug_forget(&u->end);
	if (!vm->group)
		segment_free(u->seg);
	u->seg = NULL;
	u->broken = 0;
	u->masked = false;
	vm->d->dirty = true;
}

/** uplink_forget() - The process of a group's member exited: nothing of its conversation is left. */
void uplink_forget(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	drop_out(u);
	u->broken = 0;
	u->masked = false;
	u->last_liveness = u->liveness_at = 0;
}

/**
 * uplink_mend() - An operator trusts the guest again: a new epoch with empty rings.
 *
 * The guest's driver, if it runs, has seen the mailbox broken too; it says HELLO when it is loaded
 * or attached again. In a group the mailbox alone is made anew: the segment is others', too.
 */
void uplink_mend(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	drop_out(u);
	u->bell = sd_event_source_disable_unref(u->bell);
	u->broken = 0;
	if (u->seg && vm->group)
		segment_reset_member(u->seg, u->end.member);
	if (!u->seg || (!vm->group && segment_scrub(u->seg)) || uplink_start(vm, false))
		uplink_break(vm, SHUNT_ABI_R_BROKEN_STATE, "cannot be mended");
	else
		log_info("uplink-mended", "vm=%s", vm->name);
}

/* Said once: most guests without the module never get it. */
static void note_silence(struct vm *vm)
{
	struct uplink *u = &vm->uplink;
	uint64_t waited = now_usec(vm->d) - u->plugged_at;

	if (vm->hello || u->silence_noted || u->end.state != END_PLUGGED ||
	    waited < vm->d->config->hello_timeout_ms * 1000)
		return;
	u->silence_noted = true;
	log_info("no-hello", "vm=%s detail=\"%s\"", vm->name, shunt_reason_text(SHUNT_ABI_R_NO_MODULE));
}

static bool too_busy(struct vm *vm)
{
	const struct shunt_config *c = vm->d->config;
	struct uplink *u = &vm->uplink;

	u->busy_usec = u->masked ? u->busy_usec + c->liveness_ms * 1000 : 0;
	return c->storm_ms && u->busy_usec >= c->storm_ms * 1000;
}

/**
 * uplink_tick() - Every liveness tick: show life, look for the guest's, renew its budget.
 */
void uplink_tick(struct vm *vm)
{
	struct uplink *u = &vm->uplink;
	struct shunt_abi_member *me, *guest;
	uint64_t raw;

	if (!u->seg)
		return;
	me = segment_member(u->seg, 0);
	guest = segment_member(u->seg, own_member(vm));
	__atomic_store_n(&me->liveness, now_usec(vm->d), __ATOMIC_RELAXED);
	raw = __atomic_load_n(&guest->liveness, __ATOMIC_RELAXED);
	if (raw != u->last_liveness) {
		u->last_liveness = raw;
		u->liveness_at = now_usec(vm->d);
	}
	note_silence(vm);
	u->budget = BUDGET;
	if (too_busy(vm)) {
		uplink_break(vm, SHUNT_ABI_R_DOORBELLS, "messages or doorbells beyond its budget for too long");
		return;
	}
	if (u->masked && !u->broken) {
		u->masked = false;
		if (u->bell)
			sd_event_source_set_enabled(u->bell, SD_EVENT_ON);
		take(vm);
	}
}
