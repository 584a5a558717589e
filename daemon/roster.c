// SPDX-License-Identifier: GPL-2.0-only
/*
 * The roster: whom each guest may see, pushed as it changes, numbered and acknowledged.
 *
 * Each VM keeps what its guest was told as (vm_id, hash of the entry). roster_update() compares
 * that with what should be told now and queues the difference. After a HELLO, and where a restart
 * left it unclear what arrived, the whole list is told again after a RESET.
 */
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/shuntd.h"

/** roster_sees() - Whether @vm may know of @peer: no link leads out of a group. */
bool roster_sees(const struct vm *vm, const struct vm *peer)
{
	return vm != peer && vm->group == peer->group && vm_alive(peer) && peer->identified && peer->id &&
	       shunt_policy_allows(vm->d->config, vm->label, peer->label);
}

static uint64_t hash(const void *data, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ull;	/* FNV-1a */

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3ull;
	return h;
}

static bool has_mac(const struct vm *vm, const struct shunt_abi_mac *mac)
{
	for (unsigned int i = 0; i < vm->nics; i++)
		if (!memcmp(vm->nic[i].addr, mac->addr, 6))
			return true;
	return false;
}

/* A MAC that two VMs with links to one another claim belongs to neither: the operator's mistake. */
static const struct vm *other_owner(const struct vm *owner, const struct shunt_abi_mac *mac)
{
	const struct vm *other;

	TAILQ_FOREACH(other, &owner->d->vms, link)
		if (other != owner && other->group == owner->group && vm_alive(other) && has_mac(other, mac) &&
		    shunt_policy_allows(owner->d->config, owner->label, other->label))
			return other;
	return NULL;
}

/** roster_mac_conflict() - A VM that claims one of @vm's MACs too, or NULL. */
const struct vm *roster_mac_conflict(const struct vm *vm)
{
	const struct vm *other = NULL;

	for (unsigned int i = 0; i < vm->nics && !other; i++)
		other = other_owner(vm, &vm->nic[i]);
	return other;
}

static unsigned int copy_nics(const struct vm *vm, struct shunt_abi_mac *to)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < vm->nics; i++)
		if (!other_owner(vm, &vm->nic[i]))
			to[n++] = vm->nic[i];
	return n;
}

/*
 * Why there is no link with a VM now, as far as it is its peers' business: who left on purpose is told apart from
 * who has no module; what else is wrong with it is between it and the operator.
 */
static uint32_t told_reason(const struct vm *vm, const struct vm *peer)
{
	const char *detail;
	uint32_t why = vm->detached ? SHUNT_ABI_R_DETACHED : vm_why_not(peer, &detail);

	if (!why)
		return hostpolicy_obstacle(vm, peer) ? SHUNT_ABI_R_HOST_POLICY : SHUNT_ABI_R_NONE;
	return why == SHUNT_ABI_R_DETACHED || why == SHUNT_ABI_R_UNLOAD ? why : SHUNT_ABI_R_NO_MODULE;
}

static void make_entry(const struct vm *vm, const struct vm *peer, struct shunt_abi_msg_roster *m)
{
	memset(m, 0, sizeof(*m));
	m->op = SHUNT_ABI_ROSTER_ADD;
	m->vm_id = peer->id;
	m->generation = vm_usable(peer) && !vm->detached ? peer->generation : 0;
	m->features = peer->features;
	m->nics = peer->shown_nics;
	m->reason = told_reason(vm, peer);
	memcpy(m->nic, peer->shown_nic, sizeof(m->nic));
	memcpy(m->name, peer->name, sizeof(m->name));
	memcpy(m->label, peer->label, sizeof(m->label));
}

static void send_roster(struct vm *vm, struct shunt_abi_msg_roster *m)
{
	m->roster_gen = ++vm->roster_gen;
	vm->d->unsaved = true;
	uplink_send(vm, m, sizeof(*m), SHUNT_ABI_MSG_ROSTER);
}

static void send_op(struct vm *vm, uint32_t op, uint32_t vm_id)
{
	struct shunt_abi_msg_roster m = { .op = op, .vm_id = vm_id };

	send_roster(vm, &m);
}

static struct told *find_told(struct vm *vm, uint32_t id)
{
	for (size_t i = 0; i < vm->n_told; i++)
		if (vm->told[i].vm_id == id)
			return &vm->told[i];
	return NULL;
}

static bool tell_peer(struct vm *vm, struct vm *peer)
{
	struct shunt_abi_msg_roster m;
	struct told *t = find_told(vm, peer->id);
	uint64_t h;

	make_entry(vm, peer, &m);
	h = hash(&m, sizeof(m));
	if (t && t->hash == h)
		return false;
	if (!t) {
		vm->told = realloc(vm->told, (vm->n_told + 1) * sizeof(*vm->told));
		t = &vm->told[vm->n_told++];
		t->vm_id = peer->id;
	}
	t->hash = h;
	send_roster(vm, &m);
	return true;
}

static bool tell_departures(struct vm *vm)
{
	bool changed = false;

	for (size_t i = 0; i < vm->n_told;) {
		struct vm *peer = vm_find_id(vm->d, vm->told[i].vm_id);

		if (peer && roster_sees(vm, peer)) {
			i++;
			continue;
		}
		send_op(vm, SHUNT_ABI_ROSTER_DEL, vm->told[i].vm_id);
		vm->told[i] = vm->told[--vm->n_told];
		changed = true;
	}
	return changed;
}

static void roster_update(struct vm *vm)
{
	bool changed = false;
	struct vm *peer;

	if (!vm->hello || !uplink_ready(vm))
		return;
	if (vm->roster_reset) {
		vm->roster_reset = false;
		vm->n_told = 0;
		send_op(vm, SHUNT_ABI_ROSTER_RESET, 0);
		changed = true;
	}
	changed |= tell_departures(vm);
	TAILQ_FOREACH(peer, &vm->d->vms, link)
		if (roster_sees(vm, peer))
			changed |= tell_peer(vm, peer);
	if (changed)
		send_op(vm, SHUNT_ABI_ROSTER_SYNC, 0);
}

/**
 * roster_update_all() - Queue what each guest must be told of changes among its peers.
 *
 * Context: from daemon_settle(), before pairs are stepped: a LINK_OPEN follows its peer's entry.
 */
void roster_update_all(struct shuntd *d)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link) {
		memset(vm->shown_nic, 0, sizeof(vm->shown_nic));
		vm->shown_nics = copy_nics(vm, vm->shown_nic);
	}
	TAILQ_FOREACH(vm, &d->vms, link)
		roster_update(vm);
}

/**
 * roster_welcome() - Tell a guest who it is.
 * @reset: the whole roster follows: it has none, or it is not clear what arrived.
 */
void roster_welcome(struct vm *vm, bool reset)
{
	struct shunt_abi_msg_welcome m = {
		.version = SHUNT_ABI_VERSION,
		.vm_id = vm->id,
		.features = vm->features,
		.generation = vm->generation,
	};

	memcpy(m.name, vm->name, sizeof(m.name));
	memcpy(m.label, vm->label, sizeof(m.label));
	memcpy(m.host, vm->d->host, sizeof(m.host));
	m.nics = copy_nics(vm, m.nic);
	uplink_send(vm, &m, sizeof(m), SHUNT_ABI_MSG_WELCOME);
	vm->roster_reset |= reset;
	vm->d->dirty = true;
}

/** roster_ack() - The guest says everything up to @gen has taken effect. */
void roster_ack(struct vm *vm, uint64_t gen)
{
	if (gen > vm->roster_gen || gen < vm->roster_acked) {
		vm->uplink.stale_msgs++;
		return;
	}
	vm->roster_acked = gen;
	vm->d->unsaved = true;
}
