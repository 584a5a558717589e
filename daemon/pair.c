// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pairs: two VMs and the segment they share.
 *
 * DOC: Theory of operation
 *
 * NONE      no segment. May: get one, if policy allows, both guests are there and traffic is worth it.
 * PLUGGING  a segment; at least one end is not plugged. May not: be opened.
 * PARKED    scrubbed; no guest touches it. May: be opened, replugged, given to another peer if the
 *           former one's QEMU has exited.
 * OFFERED   LINK_OPEN sent to both for this epoch. May not: be scrubbed.
 * UP        both ends reported UP. May not: be scrubbed.
 * CLOSING   LINK_CLOSE sent. May not be scrubbed, reopened or given away before each end reported
 *           CLOSED or BROKEN, or its guest is dead. Lateness is shown, never acted upon.
 *
 * pair_step() moves a pair by facts alone (who is alive, usable, allowed, plugged, closed); what
 * happened in between does not matter. That makes it right after a restart, too.
 */
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

#define BACKOFF_MIN_MS 100u
#define BACKOFF_MAX_MS 10000u
#define SHORT_LIFE_USEC (2 * 1000000ull)

/** pair_state_name() - Token of a state. */
const char *pair_state_name(enum pair_state s)
{
	static const char *const names[] = {
		[PAIR_NONE] = "none", [PAIR_PLUGGING] = "plugging", [PAIR_PARKED] = "parked",
		[PAIR_OFFERED] = "offered", [PAIR_UP] = "up", [PAIR_CLOSING] = "closing",
	};

	return names[s];
}

/** pair_find() - The pair of two VMs, in either order. */
struct pair *pair_find(struct shuntd *d, const struct vm *a, const struct vm *b)
{
	struct pair *p;

	TAILQ_FOREACH(p, &d->pairs, link)
		if ((p->vm[0] == a && p->vm[1] == b) || (p->vm[0] == b && p->vm[1] == a))
			return p;
	return NULL;
}

/**
 * pair_find_segment() - The pair a segment belongs to, if @vm is an end of it.
 * @peer_member: the other end's number there.
 * @ret_end: which.
 */
struct pair *pair_find_segment(struct shuntd *d, uint64_t segment_id, uint32_t peer_member, const struct vm *vm,
			       unsigned int *ret_end)
{
	struct pair *p;

	TAILQ_FOREACH(p, &d->pairs, link)
		for (unsigned int i = 0; i < 2; i++)
			if (p->vm[i] == vm && p->seg && p->seg->spec.id == segment_id &&
			    pair_member(p, !i) == peer_member) {
				*ret_end = i;
				return p;
			}
	return NULL;
}

/** pair_member() - The number of an end's VM on the segment. */
unsigned int pair_member(const struct pair *p, unsigned int i)
{
	return p->group ? p->vm[i]->uplink.end.member : i + 1;
}

/** pair_epoch() - The epoch of the pair's link; there is a segment. */
uint32_t pair_epoch(const struct pair *p)
{
	return p->group ? p->epoch : p->seg->spec.epoch;
}

/**
 * pair_scrub() - Forget what was on the link, and begin its next epoch.
 *
 * Context: neither VM uses it any more.
 * Return: 0 or a negative errno; on failure the link must not be used again.
 */
int pair_scrub(struct pair *p)
{
	if (!p->group)
		return segment_scrub(p->seg);
	if (!++p->epoch)
		p->epoch = 1;
	return segment_scrub_channel(p->seg, p->channel);
}

/** pair_new() - A record; no segment yet. */
struct pair *pair_new(struct shuntd *d, struct vm *a, struct vm *b)
{
	struct pair *p = calloc(1, sizeof(*p));

	p->d = d;
	p->vm[0] = a;
	p->vm[1] = b;
	for (int i = 0; i < 2; i++)
		p->e[i].end.listen_fd = p->e[i].end.conn_fd = -1;
	TAILQ_INSERT_TAIL(&d->pairs, p, link);
	return p;
}

/** pair_free() - Forget a pair; devices that are plugged stay in QEMU. */
void pair_free(struct pair *p)
{
	TAILQ_REMOVE(&p->d->pairs, p, link);
	p->d->dirty = true;
	plug_forget(&p->e[0].end);
	plug_forget(&p->e[1].end);
	if (!p->group)
		segment_free(p->seg);
	free(p);
}

static void set_state(struct pair *p, enum pair_state state)
{
	if (p->state == state)
		return;
	log_info("pair", "a=%s b=%s state=%s segment=%016llx epoch=%u", p->vm[0]->name, p->vm[1]->name,
		 pair_state_name(state), p->seg ? (unsigned long long)p->seg->spec.id : 0ull,
		 p->seg ? pair_epoch(p) : 0);
	p->state = state;
	p->since = now_usec(p->d);
	p->late = false;
	p->d->unsaved = true;
}

/* --- what is wanted --- */

static bool allowed(const struct pair *p)
{
	return shunt_policy_allows(p->d->config, p->vm[0]->label, p->vm[1]->label);
}

/* What is open is not closed before it is known that it must be: a restarted shuntd has to look first. */
static bool host_allows(const struct pair *p)
{
	if (p->state >= PAIR_OFFERED && !hostpolicy_known(p->vm[0], p->vm[1]))
		return true;
	return !hostpolicy_obstacle(p->vm[0], p->vm[1]);
}

static bool wanted(const struct pair *p)
{
	return allowed(p) && host_allows(p) && vm_usable(p->vm[0]) && vm_usable(p->vm[1]) && !p->broken && !p->failed &&
	       (p->wanted || p->group || p->state >= PAIR_OFFERED || shunt_config_eager(p->d->config));
}

/* --- getting a segment --- */

static bool caps_allow(struct pair *p)
{
	const struct shunt_config *c = p->d->config;
	uint64_t bytes = c->pair_size;
	size_t n[2] = { 0, 0 };
	struct pair *other;

	TAILQ_FOREACH(other, &p->d->pairs, link) {
		if (!other->seg || other->group)
			continue;
		bytes += other->seg->spec.size;
		for (int i = 0; i < 2; i++)
			n[i] += other->vm[0] == p->vm[i] || other->vm[1] == p->vm[i];
	}
	if (bytes > c->max_bytes)
		snprintf(p->detail, sizeof(p->detail), "max_bytes (%llu) reached",
			 (unsigned long long)c->max_bytes);
	else if (n[0] >= c->max_pairs_per_vm || n[1] >= c->max_pairs_per_vm)
		snprintf(p->detail, sizeof(p->detail), "max_pairs_per_vm (%llu) reached by %.40s",
			 (unsigned long long)c->max_pairs_per_vm,
			 p->vm[n[0] >= c->max_pairs_per_vm ? 0 : 1]->name);
	else
		return true;
	return false;
}

/*
 * A parked segment that @vm has plugged and whose other VM's QEMU has exited. A device removed by
 * hand may still be mapped by a QEMU that lives (RULES 20): such a pair has no VM that is gone.
 */
static struct pair *find_orphan(struct pair *p, struct vm *vm, unsigned int *ret_end)
{
	struct pair *o;

	TAILQ_FOREACH(o, &p->d->pairs, link)
		for (unsigned int i = 0; o != p && i < 2; i++)
			if (o->vm[i] == vm && o->state == PAIR_PARKED && o->seg && !o->broken &&
			    !vm_alive(o->vm[!i]) && o->e[i].end.state == END_PLUGGED &&
			    o->seg->spec.size == p->d->config->pair_size &&
			    o->seg->spec.ring_size == p->d->config->ring_size) {
				*ret_end = i;
				return o;
			}
	return NULL;
}

/* An end's address is known to its sources only while it plugs or is connected: move with care. */
static void move_end(struct end *to, struct end *from)
{
	from->conn_io = sd_event_source_disable_unref(from->conn_io);
	shunt_close(&from->conn_fd);
	*to = *from;
	*from = (struct end){ .listen_fd = -1, .conn_fd = -1 };
}

static bool take_orphan(struct pair *p)
{
	struct pair *o = NULL;
	unsigned int i = 0, k;

	for (k = 0; k < 2 && !o; k++)
		o = find_orphan(p, p->vm[k], &i);
	if (!o)
		return false;
	k--;
	log_info("recycled", "segment=%016llx vm=%s former-peer=%s peer=%s",
		 (unsigned long long)o->seg->spec.id, p->vm[k]->name, o->vm[!i]->name, p->vm[!k]->name);
	if (i != k) {	/* member ids are fixed: the survivor keeps its place */
		struct vm *vm = p->vm[0];

		p->vm[0] = p->vm[1];
		p->vm[1] = vm;
	}
	p->seg = shunt_take_ptr(o->seg);
	move_end(&p->e[i].end, &o->e[i].end);
	pair_free(o);
	return true;
}

static bool get_segment(struct pair *p)
{
	const struct shunt_config *c = p->d->config;
	struct segment_spec spec = {
		.kind = SHUNT_ABI_PAIR,
		.size = c->pair_size,
		.ring_size = c->ring_size,
		.members = 3,
		.vectors = SEGMENT_VECTORS,
	};
	int r;

	if (take_orphan(p))
		return true;
	if (!caps_allow(p)) {
		p->failed = SHUNT_ABI_R_NO_SLOT;
	} else {
		r = segment_create(spec, &p->seg);
		if (!r)
			return true;
		p->failed = SHUNT_ABI_R_DAEMON;
		snprintf(p->detail, sizeof(p->detail), "cannot make a segment: %s", strerror(-r));
	}
	log_warn("pair-failed", "a=%s b=%s reason=%s detail=\"%s\"", p->vm[0]->name, p->vm[1]->name,
		 shunt_reason_name(p->failed), p->detail);
	p->d->dirty = true;
	return false;
}

static bool plugged(const struct pair *p)
{
	if (p->group)
		return uplink_ready(p->vm[0]) && uplink_ready(p->vm[1]);
	return p->e[0].end.state == END_PLUGGED && p->e[1].end.state == END_PLUGGED;
}

static void plug_missing(struct pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct end *e = &p->e[i].end;

		if (e->state == END_NONE && vm_alive(p->vm[i])) {
			plug_end(e, p->vm[i], p->seg, i + 1);
		} else if (e->state == END_FAILED || e->state == END_REMOVED) {
			p->failed = e->reason;
			snprintf(p->detail, sizeof(p->detail), "%.60s: %.130s", p->vm[i]->name, e->detail);
		}
	}
}

/* --- opening and closing --- */

static void send_open(struct pair *p, unsigned int i)
{
	const struct segment *s = p->seg;
	struct shunt_abi_msg_link_open m = {
		.segment_id = s->spec.id,
		.epoch = pair_epoch(p),
		.vm_id = p->vm[!i]->id,
		.peer_generation = p->vm[!i]->generation,
		.bdf = p->group ? SHUNT_ABI_BDF_UNKNOWN : p->e[i].end.bdf,
		.own_member = (__u16)pair_member(p, i),
		.peer_member = (__u16)pair_member(p, !i),
		.channels = p->group ? 1 : s->channels,
		.ends_off = p->group ? (__u32)shunt_layout_ends(&s->layout, p->channel) : 0,
	};

	memcpy(m.channel, &s->channel[p->channel], m.channels * sizeof(s->channel[0]));
	uplink_send(p->vm[i], &m, sizeof(m), SHUNT_ABI_MSG_LINK_OPEN);
}

static void send_close(struct pair *p, unsigned int i, uint32_t reason)
{
	struct shunt_abi_msg_link_close m = {
		.segment_id = p->seg->spec.id,
		.epoch = pair_epoch(p),
		.reason = reason,
		.peer_member = pair_member(p, !i),
	};

	uplink_send(p->vm[i], &m, sizeof(m), SHUNT_ABI_MSG_LINK_CLOSE);
}

/* What came of a scrub or wipe; false: the segment is of no use any more. */
static bool scrubbed(struct pair *p, int r)
{
	if (!r)
		return true;
	p->failed = SHUNT_ABI_R_DAEMON;
	snprintf(p->detail, sizeof(p->detail), "cannot scrub: %s", strerror(-r));
	return false;
}

/*
 * Scrubbed when it was parked, and once more: whoever has it plugged could write to it ever since, and what it
 * left would break the next link and be blamed on the next peer.
 */
static void open_link(struct pair *p)
{
	if (!scrubbed(p, p->group ? segment_scrub_channel(p->seg, p->channel) : segment_wipe(p->seg)))
		return;
	for (unsigned int i = 0; i < 2; i++) {
		struct pair_end *e = &p->e[i];

		e->link_state = SHUNT_ABI_LINK_DOWN;
		e->link_reason = e->close_reason = 0;
		e->closed = e->told_close = false;
		memset(&e->stats, 0, sizeof(e->stats));
		e->stats_at = 0;
	}
	set_state(p, PAIR_OFFERED);
	send_open(p, 0);
	send_open(p, 1);
}

/* Why end @i must close: what became of the other end, of policy, or of the operator's wish. */
static uint32_t reason_for(const struct pair *p, unsigned int i)
{
	const struct vm *other = p->vm[!i];

	if (!vm_alive(other))
		return SHUNT_ABI_R_PEER_DEAD;
	if (p->broken)
		return p->broken;
	if (p->e[!i].closed)
		return p->e[!i].close_reason ? p->e[!i].close_reason : SHUNT_ABI_R_PEER_CLOSED;
	if (p->vm[i]->detached || other->detached)
		return SHUNT_ABI_R_DETACHED;
	if (!allowed(p))
		return SHUNT_ABI_R_POLICY;
	if (!host_allows(p))
		return SHUNT_ABI_R_HOST_POLICY;
	if (other->uplink.broken == SHUNT_ABI_R_DOORBELLS)
		return SHUNT_ABI_R_DOORBELLS;
	if (other->uplink.broken)
		return SHUNT_ABI_R_BROKEN_STATE;
	return SHUNT_ABI_R_DEVICE_GONE;
}

static void close_link(struct pair *p)
{
	set_state(p, PAIR_CLOSING);
	for (unsigned int i = 0; i < 2; i++) {
		uint32_t reason = reason_for(p, i);

		if (p->e[i].closed || p->e[i].told_close)
			continue;
		p->e[i].told_close = true;
		p->last_reason = reason;
		send_close(p, i, reason);
	}
}

/* A link that keeps failing soon after it was opened is opened less and less often. */
static void set_backoff(struct pair *p, uint64_t opened_at)
{
	if (now_usec(p->d) - opened_at > SHORT_LIFE_USEC) {
		p->backoff_ms = 0;
	} else {
		p->not_before = now_usec(p->d) + p->backoff_ms * 1000;
		p->backoff_ms = p->backoff_ms ? 2 * p->backoff_ms : BACKOFF_MIN_MS;
		if (p->backoff_ms > BACKOFF_MAX_MS)
			p->backoff_ms = BACKOFF_MAX_MS;
	}
}

static void finish_closing(struct pair *p)
{
	scrubbed(p, pair_scrub(p));
	set_state(p, PAIR_PARKED);
}

static void step_closing(struct pair *p)
{
	if (p->e[0].closed && p->e[1].closed) {
		finish_closing(p);
		return;
	}
	close_link(p);	/* an end may need telling that did not when closing began */
	if (!p->late && now_usec(p->d) - p->since > p->d->config->release_timeout_ms * 1000) {
		int i = p->e[0].closed ? 1 : 0;

		p->late = true;
		log_warn("release-late", "a=%s b=%s waiting-for=%s", p->vm[0]->name, p->vm[1]->name,
			 p->vm[i]->name);
	}
}

static void step_open(struct pair *p)
{
	if (!wanted(p) || !plugged(p) || p->e[0].closed || p->e[1].closed) {
		if (host_allows(p))	/* no failure of the link's */
			set_backoff(p, p->since);
		close_link(p);
		step_closing(p);
	} else if (p->e[0].link_state == SHUNT_ABI_LINK_UP && p->e[1].link_state == SHUNT_ABI_LINK_UP) {
		p->last_reason = 0;
		set_state(p, PAIR_UP);
	}
}

static void step_idle(struct pair *p)
{
	if (!wanted(p))
		return;
	if (!p->seg && !get_segment(p))
		return;
	if (!plugged(p)) {
		set_state(p, PAIR_PLUGGING);
		plug_missing(p);
		return;
	}
	if (p->state != PAIR_PARKED)
		set_state(p, PAIR_PARKED);
	if (now_usec(p->d) >= p->not_before)
		open_link(p);
}

static void pair_step(struct pair *p)
{
	switch (p->state) {
	case PAIR_NONE:
	case PAIR_PARKED:
		step_idle(p);
		break;
	case PAIR_PLUGGING:
		if (plugged(p) || !vm_alive(p->vm[0]) || !vm_alive(p->vm[1]))
			set_state(p, PAIR_PARKED);
		step_idle(p);
		break;
	case PAIR_OFFERED:
	case PAIR_UP:
		step_open(p);
		break;
	case PAIR_CLOSING:
		step_closing(p);
		break;
	}
}

static bool forgettable(const struct pair *p)
{
	if (p->group)
		return false;
	return (!vm_alive(p->vm[0]) && !vm_alive(p->vm[1]) && p->state <= PAIR_PARKED) ||
	       (!p->seg && (!vm_alive(p->vm[0]) || !vm_alive(p->vm[1])));
}

static void make_eager_pairs(struct shuntd *d)
{
	struct vm *a, *b;

	TAILQ_FOREACH(a, &d->vms, link)
		for (b = TAILQ_NEXT(a, link); b; b = TAILQ_NEXT(b, link))
			if (vm_usable(a) && vm_usable(b) && roster_sees(a, b) && !pair_find(d, a, b))
				pair_new(d, a, b);
}

/** pair_step_all() - Move every pair as the facts call for. Context: daemon_settle(). */
void pair_step_all(struct shuntd *d)
{
	struct pair *p, *next;

	TAILQ_FOREACH(p, &d->pairs, link)
		pair_step(p);
	for (p = TAILQ_FIRST(&d->pairs); p; p = next) {
		next = TAILQ_NEXT(p, link);
		if (forgettable(p))
			pair_free(p);
	}
}

/** pair_any_due() - Whether a pair is about to be plugged or opened. Context: daemon_settle(), first. */
bool pair_any_due(struct shuntd *d)
{
	const struct pair *p;

	if (d->dirty && shunt_config_eager(d->config))
		make_eager_pairs(d);
	TAILQ_FOREACH(p, &d->pairs, link)
		if ((p->state == PAIR_NONE || p->state == PAIR_PARKED) && wanted(p))
			return true;
	return false;
}

/* --- facts --- */

/** pair_vm_links_dead() - A guest has no links any more: HELLO, BYE, reset, exit. */
void pair_vm_links_dead(struct vm *vm, uint32_t reason)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (int i = 0; i < 2; i++) {
			struct pair_end *e = &p->e[i];

			if (p->vm[i] != vm || p->state < PAIR_OFFERED || e->closed)
				continue;
			e->closed = true;
			e->close_reason = reason;
			e->link_state = SHUNT_ABI_LINK_CLOSED;
			p->last_reason = reason;
		}
}

/**
 * pair_vm_process_exited() - QEMU is gone, and its devices with it.
 *
 * What could not be plugged into it may fit into the next one, which an operator may have given room.
 */
void pair_vm_process_exited(struct vm *vm)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (int i = 0; i < 2; i++)
			if (p->vm[i] == vm) {
				plug_forget(&p->e[i].end);
				p->failed = 0;
				if (!p->broken)
					p->detail[0] = '\0';
			}
}

static void end_closed(struct pair *p, unsigned int i, uint32_t state, uint32_t reason)
{
	struct pair_end *e = &p->e[i];

	e->closed = true;
	e->close_reason = reason;
	if (state == SHUNT_ABI_LINK_BROKEN) {
		p->broken = reason ? reason : SHUNT_ABI_R_BROKEN_STATE;
		snprintf(p->detail, sizeof(p->detail), "%.60s says that %.60s broke the rules", p->vm[i]->name,
			 p->vm[!i]->name);
		log_warn("pair-broken", "reported-by=%s offender=%s reason=%s", p->vm[i]->name,
			 p->vm[!i]->name, shunt_reason_name(p->broken));
	} else if (reason == SHUNT_ABI_R_BAR && !e->told_close) {	/* its own trouble, not our words repeated */
		p->failed = reason;
		snprintf(p->detail, sizeof(p->detail), "reported by %.60s", p->vm[i]->name);
	}
	if (!e->told_close)
		p->last_reason = reason ? reason : SHUNT_ABI_R_PEER_CLOSED;
}

/*
 * A guest says that the other rings without reason although their link is closed: it does so for fun. Without the
 * device it cannot. (A guest that lies costs the other a device it may not use anyway, until the operator's attach.)
 */
static void storm(struct pair *p, unsigned int i)
{
	struct end *e = &p->e[!i].end;

	if (e->removing || e->state != END_PLUGGED)
		return;
	if (!p->broken) {
		p->broken = SHUNT_ABI_R_DOORBELLS;
		snprintf(p->detail, sizeof(p->detail), "%.60s says that %.60s broke the rules", p->vm[i]->name,
			 p->vm[!i]->name);
	}
	p->d->unsaved = true;
	log_warn("doorbell-storm", "reported-by=%s offender=%s device=%s detail=\"goes on, unplugging\"",
		 p->vm[i]->name, p->vm[!i]->name, e->qdev);
	plug_remove(e);
}

static bool is_storm(const struct shunt_abi_msg_link_state *m)
{
	return m->state == SHUNT_ABI_LINK_BROKEN && m->reason == SHUNT_ABI_R_DOORBELLS;
}

/** pair_link_state() - A guest reports a link's state at its end. */
void pair_link_state(struct vm *vm, const struct shunt_abi_msg_link_state *m)
{
	unsigned int i;
	struct pair *p = pair_find_segment(vm->d, m->segment_id, m->peer_member, vm, &i);

	if (!p || m->epoch != pair_epoch(p) || p->state < PAIR_OFFERED || p->e[i].closed) {
		/* the link it speaks of is closed, and most likely scrubbed since */
		if (p && !p->group && is_storm(m) && pair_epoch(p) - m->epoch <= 1)
			storm(p, i);
		else
			vm->uplink.stale_msgs++;
		return;
	}
	p->e[i].link_state = m->state;
	p->e[i].link_reason = m->reason;
	vm->d->unsaved = true;
	log_debug("link-state", "vm=%s segment=%016llx epoch=%u state=%s reason=%s", vm->name,
		  (unsigned long long)m->segment_id, m->epoch, shunt_link_state_name(m->state),
		  shunt_reason_name(m->reason));
	if (m->state == SHUNT_ABI_LINK_CLOSED || m->state == SHUNT_ABI_LINK_BROKEN)
		end_closed(p, i, m->state, m->reason);
}

/** pair_stats() - A guest's counters of one link. */
void pair_stats(struct vm *vm, const struct shunt_abi_msg_stats *m)
{
	unsigned int i;
	struct pair *p = pair_find_segment(vm->d, m->segment_id, m->peer_member, vm, &i);

	if (!p) {
		vm->uplink.stale_msgs++;
		return;
	}
	p->e[i].stats = m->stats;
	p->e[i].stats_at = now_usec(vm->d);
}

/** pair_want() - A guest says that traffic to @peer_id is worth a link. */
void pair_want(struct vm *vm, uint32_t peer_id)
{
	struct vm *peer = vm_find_id(vm->d, peer_id);
	struct pair *p;

	if (!peer || !roster_sees(vm, peer)) {
		vm->uplink.stale_msgs++;
		return;
	}
	p = pair_find(vm->d, vm, peer);
	if (!p)
		p = pair_new(vm->d, vm, peer);
	if (!p->wanted)
		vm->d->unsaved = true;
	p->wanted = true;
	if (hostpolicy_obstacle(vm, peer))
		hostpolicy_retry(vm->d);
}

/** pair_clear_errors() - An operator's attach: broken and failed pairs of the VM get another chance. */
void pair_clear_errors(struct vm *vm)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link) {
		if (p->vm[0] != vm && p->vm[1] != vm)
			continue;
		p->broken = p->failed = 0;
		p->detail[0] = '\0';
		p->backoff_ms = p->not_before = 0;
		for (int i = 0; i < 2; i++) {
			p->e[i].end.removing = false;
			if (p->e[i].end.state == END_FAILED || p->e[i].end.state == END_REMOVED)
				plug_forget(&p->e[i].end);
		}
	}
}

/** pair_resend() - After a restart: repeat what @vm may not have been told. It is idempotent. */
void pair_resend(struct vm *vm)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (unsigned int i = 0; i < 2; i++) {
			if (p->vm[i] != vm || p->e[i].closed)
				continue;
			/* One that is CLOSING is told by step_closing(), which does not know it was. */
			if (p->state == PAIR_OFFERED && p->e[i].link_state != SHUNT_ABI_LINK_UP)
				send_open(p, i);
		}
}

/** pair_vm_closed() - Whether no link of the VM is open or closing. */
bool pair_vm_closed(const struct vm *vm)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link)
		if ((p->vm[0] == vm || p->vm[1] == vm) && p->state >= PAIR_OFFERED)
			return false;
	return true;
}

static uint32_t end_reason(const struct pair *p, const char **ret_detail)
{
	for (int i = 0; i < 2; i++) {
		uint32_t r = vm_why_not(p->vm[i], ret_detail);

		if (r)
			return r;
	}
	*ret_detail = "";
	return 0;
}

/* A guest that could not map the device says nothing: its BAR is the usual suspect. */
static uint32_t underway(const struct pair *p, const char **ret_detail)
{
	bool overdue = now_usec(p->d) - p->since > p->d->config->release_timeout_ms * 1000;

	*ret_detail = "being plugged";
	if (p->state == PAIR_OFFERED)
		*ret_detail = "being opened";
	if (p->state != PAIR_OFFERED || !overdue)
		return p->last_reason ? p->last_reason : SHUNT_ABI_R_TIMEOUT;
	for (int i = 0; i < 2; i++)
		if (p->e[i].link_state == SHUNT_ABI_LINK_DOWN) {
			*ret_detail = p->vm[i]->name;
			return SHUNT_ABI_R_BAR;
		}
	*ret_detail = "not opened by both";
	return SHUNT_ABI_R_TIMEOUT;
}

/**
 * pair_reason() - Why the pair's traffic takes the network: enum shunt_abi_reason, 0 if it does not.
 * @ret_detail: more words, or "".
 */
uint32_t pair_reason(const struct pair *p, const char **ret_detail)
{
	uint32_t r;

	*ret_detail = p->detail;
	if (p->state == PAIR_UP) {
		bool stalled = p->e[0].link_state == SHUNT_ABI_LINK_STALLED ||
			       p->e[1].link_state == SHUNT_ABI_LINK_STALLED;

		return stalled ? SHUNT_ABI_R_STALLED : 0;
	}
	if (p->broken || p->failed)
		return p->broken ? p->broken : p->failed;
	if (!allowed(p))
		return SHUNT_ABI_R_POLICY;
	/* Of a VM whose QEMU is gone nothing can be known: that it is gone says more. */
	if (vm_alive(p->vm[0]) && vm_alive(p->vm[1]) && !host_allows(p)) {
		*ret_detail = hostpolicy_obstacle(p->vm[0], p->vm[1]);
		return SHUNT_ABI_R_HOST_POLICY;
	}
	if (p->late) {
		*ret_detail = p->e[0].closed ? p->vm[1]->name : p->vm[0]->name;
		return SHUNT_ABI_R_TIMEOUT;
	}
	r = end_reason(p, ret_detail);
	if (r)
		return r;
	if (p->state == PAIR_OFFERED || p->state == PAIR_PLUGGING)
		return underway(p, ret_detail);
	if (p->last_reason)
		return p->last_reason;
	return SHUNT_ABI_R_IDLE;
}
