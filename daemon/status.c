// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an operator is told: VMs, peers and pairs as JSON, with the reason of everything that is not
 * as one would wish. The words of reasons come from the table (reason.c); the CLI only lays out.
 */
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

/* @detail may be cut in the middle of a character; JSON takes only whole ones. */
static json_t *reason_json(uint32_t reason, const char *raw_detail)
{
	char detail[256];
	size_t n = 0;

	for (; *raw_detail && n < sizeof(detail) - 1; raw_detail++)
		detail[n++] = *raw_detail >= ' ' && *raw_detail < 127 ? *raw_detail : '?';
	detail[n] = '\0';
	return json_pack("{s:s, s:s, s:s, s:s}", "name", shunt_reason_name(reason), "text",
			 shunt_reason_text(reason), "hint", shunt_reason_hint(reason), "detail", detail);
}

static json_t *hex(uint64_t n)
{
	return json_sprintf("%016llx", (unsigned long long)n);
}

static json_t *macs_json(const struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < vm->nics; i++) {
		const __u8 *a = vm->nic[i].addr;

		json_array_append_new(list, json_sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2],
							 a[3], a[4], a[5]));
	}
	return list;
}

static const char *vm_state_word(const struct vm *vm)
{
	switch (vm->state) {
	case VM_CONNECTING:
		if (vm->group)
			return "awaited";
		return vm_alive(vm) && vm->identified ? "qmp-lost" : "connecting";
	case VM_IDENTIFYING:
		return "identifying";
	case VM_GONE:
		return "gone";
	default:
		return vm->detached ? "detached" : vm->running ? "running" : "paused";
	}
}

static const char *uplink_word(const struct vm *vm)
{
	const struct uplink *u = &vm->uplink;

	if (u->broken)
		return "broken";
	switch (u->end.state) {
	case END_PLUGGED:
		return vm->hello ? "ready" : "no-hello";
	case END_FAILED:
		return "failed";
	case END_REMOVED:
		return "removed";
	case END_NONE:
		return vm->group ? "awaited" : "absent";
	default:
		return "plugging";
	}
}

#define SILENT_USEC (3 * 1000000ull)

static void note(json_t *list, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(json_t *list, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(list, json_string(text));
}

/* What an operator should know of a VM although it is served. */
static json_t *notes_json(const struct vm *vm)
{
	const struct uplink *u = &vm->uplink;
	const struct vm *other = vm_alive(vm) ? roster_mac_conflict(vm) : NULL;
	json_t *list = json_array();

	if (vm->identified && !vm->nics)
		note(list, "it has no NIC with a MAC: there is nothing to shunt");
	if (other)
		note(list, "a MAC of it is also %s's: it takes the network until that is mended", other->name);
	if (vm->identified && !vm->kvm && vm->max_cpus == 1)
		note(list, "emulated with one vCPU, QEMU does not order memory between VMs: start it with "
		     "-smp 1,maxcpus=2");
	if (vm->host.judged && *vm->host.obstacle && hostpolicy_obeyed(vm))
		note(list, "no links: %s. Take that away, or allow bypassing it: host_policy, host_policies in "
		     "shuntd.conf", vm->host.obstacle);
	if (vm->hello && vm->running && u->liveness_at && now_usec(vm->d) - u->liveness_at > SILENT_USEC)
		note(list, "no sign of life from its module for %llu s",
		     (unsigned long long)((now_usec(vm->d) - u->liveness_at) / 1000000));
	return list;
}

static void add_uplink(json_t *o, const struct vm *vm)
{
	const struct uplink *u = &vm->uplink;
	uint64_t silent = u->liveness_at ? (now_usec(vm->d) - u->liveness_at) / 1000 : 0;

	json_object_set_new(o, "uplink", json_string(uplink_word(vm)));
	json_object_set_new(o, "uplink_device", json_string(u->end.qdev));
	json_object_set_new(o, "uplink_plugged_s",
			    json_integer(u->seg ? (json_int_t)((now_usec(vm->d) - u->plugged_at) / 1000000) : 0));
	json_object_set_new(o, "silent_ms", json_integer((json_int_t)silent));
	json_object_set_new(o, "roster_gen", json_integer((json_int_t)vm->roster_gen));
	json_object_set_new(o, "roster_acked", json_integer((json_int_t)vm->roster_acked));
	json_object_set_new(o, "counters",
			    json_pack("{s:I, s:I, s:I, s:I, s:I, s:i}", "bad_msgs", (json_int_t)u->bad_msgs,
				      "unknown_msgs", (json_int_t)u->unknown_msgs, "stale_msgs",
				      (json_int_t)u->stale_msgs, "masked", (json_int_t)u->masked_ticks, "breaks",
				      (json_int_t)u->breaks, "inert_fds", (int)vm->inert_sent));
}

/* What is known of its NICs on this host. */
static json_t *host_json(const struct vm *vm)
{
	const struct vm_host *v = &vm->host;
	json_t *taps = json_array();

	for (size_t i = 0; i < v->taps.n; i++)
		json_array_append_new(taps, *v->taps.tap[i].name ? json_string(v->taps.tap[i].name) :
				      json_sprintf("ifindex %d", v->taps.tap[i].index));
	return json_pack("{s:b, s:b, s:o, s:s}", "judged", v->judged, "obeyed", hostpolicy_obeyed(vm), "taps", taps,
			 "obstacle", v->obstacle);
}

static json_t *vm_json(const struct vm *vm)
{
	const char *detail;
	uint32_t reason = vm_why_not(vm, &detail);
	json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:i, s:s, s:s, s:o}", "name",
			      *vm->name ? vm->name : "?", "id", (int)vm->id, "label", vm->label, "state",
			      vm_state_word(vm), "pid", (int)vm->pid, "qmp", vm->group ? "" : vm->qmp_path, "machine",
			      vm->machine, "macs", macs_json(vm));

	json_object_set_new(o, "group", json_string(vm->group ? vm->group->name : ""));
	json_object_set_new(o, "socket", json_string(vm->group ? vm->qmp_path : ""));
	json_object_set_new(o, "accel", json_string(!vm->identified || vm->group ? "" : vm->kvm ? "kvm" : "tcg"));
	json_object_set_new(o, "module", json_string(vm->hello ? vm->module : ""));
	json_object_set_new(o, "kernel", json_string(vm->hello ? vm->kernel : ""));
	json_object_set_new(o, "generation", hex(vm->hello ? vm->generation : 0));
	json_object_set_new(o, "notes", notes_json(vm));
	json_object_set_new(o, "host_policy", host_json(vm));
	json_object_set_new(o, "served", json_boolean(!reason));
	json_object_set_new(o, "reason", reason_json(reason, detail));
	add_uplink(o, vm);
	return o;
}

static json_t *stats_json(const struct shunt_abi_link_stats *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "tx_frames",
			 (json_int_t)s->tx_frames, "tx_bytes", (json_int_t)s->tx_bytes, "rx_frames",
			 (json_int_t)s->rx_frames, "rx_bytes", (json_int_t)s->rx_bytes, "tx_held",
			 (json_int_t)s->tx_held, "tx_returned", (json_int_t)s->tx_returned, "tx_ineligible",
			 (json_int_t)s->tx_ineligible, "rx_refused", (json_int_t)s->rx_refused, "doorbells_tx",
			 (json_int_t)s->doorbells_tx, "doorbells_rx", (json_int_t)s->doorbells_rx, "polls",
			 (json_int_t)s->polls, "stalls", (json_int_t)s->stalls, "tx_dropped",
			 (json_int_t)s->tx_dropped, "rx_nomem", (json_int_t)s->rx_nomem);
}

static json_t *end_json(const struct pair *p, int i)
{
	static const char *const words[] = { "none", "queued", "plugging", "plugged", "failed", "removed" };
	const struct pair_end *e = &p->e[i];
	json_t *o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:b, s:o}", "vm", p->vm[i]->name, "member",
			      (int)pair_member(p, (unsigned int)i),
			      "device", e->end.qdev, "plug",
			      words[p->group ? p->vm[i]->uplink.end.state : e->end.state], "link",
			      shunt_link_state_name(e->link_state), "closed", e->closed, "stats",
			      stats_json(&e->stats));

	json_object_set_new(o, "stats_age_ms", e->stats_at ?
			    json_integer((json_int_t)((now_usec(p->d) - e->stats_at) / 1000)) : json_null());
	return o;
}

static json_t *pair_json(const struct pair *p)
{
	const char *detail;
	uint32_t reason = pair_reason(p, &detail);
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:o, s:I, s:b, s:[o, o]}", "a", p->vm[0]->name, "b",
			      p->vm[1]->name, "state", pair_state_name(p->state), "path",
			      reason ? "network" : "packet", "reason", reason_json(reason, detail), "epoch",
			      (json_int_t)(p->seg ? pair_epoch(p) : 0), "late", p->late, "ends",
			      end_json(p, 0), end_json(p, 1));

	json_object_set_new(o, "kind", json_string(p->group ? "group" : "pair"));
	json_object_set_new(o, "group", json_string(p->group ? p->group->name : ""));
	json_object_set_new(o, "segment", hex(p->seg ? p->seg->spec.id : 0));
	json_object_set_new(o, "bytes_shared", json_integer(p->seg ? (json_int_t)p->seg->spec.size : 0));
	json_object_set_new(o, "tx_bytes_a", json_integer((json_int_t)p->e[0].stats.tx_bytes));
	json_object_set_new(o, "tx_bytes_b", json_integer((json_int_t)p->e[1].stats.tx_bytes));
	return o;
}

/* Two VMs that never became a pair: why not. */
static json_t *no_pair_json(struct vm *a, struct vm *b)
{
	const char *detail = "";
	uint32_t reason = 0;

	if (a->group != b->group) {
		reason = SHUNT_ABI_R_POLICY;
		detail = "no link leads out of a group";
	} else if (!shunt_policy_allows(a->d->config, a->label, b->label)) {
		reason = SHUNT_ABI_R_POLICY;
	}
	if (!reason)
		reason = vm_why_not(a, &detail);
	if (!reason)
		reason = vm_why_not(b, &detail);
	if (!reason && hostpolicy_obstacle(a, b)) {
		reason = SHUNT_ABI_R_HOST_POLICY;
		detail = hostpolicy_obstacle(a, b);
	}
	if (!reason)
		reason = SHUNT_ABI_R_IDLE;
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "a", a->name, "b", b->name, "state", "none", "path",
			 "network", "reason", reason_json(reason, detail));
}

/** status_links() - The pairs that have a record, in full. */
json_t *status_links(struct shuntd *d)
{
	json_t *list = json_array();
	struct pair *p;

	TAILQ_FOREACH(p, &d->pairs, link)
		json_array_append_new(list, pair_json(p));
	return list;
}

/** status_peers() - Every two VMs: which path their traffic is on and why. */
json_t *status_peers(struct shuntd *d)
{
	json_t *list = json_array();
	struct vm *a, *b;

	TAILQ_FOREACH(a, &d->vms, link)
		for (b = TAILQ_NEXT(a, link); b; b = TAILQ_NEXT(b, link)) {
			struct pair *p = pair_find(d, a, b);

			if (a->id && b->id)
				json_array_append_new(list, p ? pair_json(p) : no_pair_json(a, b));
		}
	return list;
}

/** status_json() - Everything. */
json_t *status_json(struct shuntd *d)
{
	json_t *vms = json_array();
	uint64_t bytes = 0;
	struct vm_group *g;
	struct pair *p;
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link)
		json_array_append_new(vms, vm_json(vm));
	TAILQ_FOREACH(p, &d->pairs, link)
		bytes += p->seg && !p->group ? p->seg->spec.size : 0;
	TAILQ_FOREACH(g, &d->groups, link)
		bytes += g->seg ? g->seg->spec.size : 0;
	return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:s, s:o, s:o}", "version", SHUNT_VERSION, "host",
			 d->host, "pid", (int)getpid(), "uptime_s",
			 (json_int_t)((now_usec(d) - d->started_at) / 1000000), "shared_bytes",
			 (json_int_t)bytes, "refused_peers", (json_int_t)d->refused_peers, "plug",
			 d->config->plug, "vms", vms, "pairs", status_peers(d));
}
