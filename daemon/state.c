// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state file, <runtime>/state.json, and adoption by a restarted daemon.
 *
 * DOC: Theory of operation
 *
 * The file is replaced atomically, before any guest is told of what is in it (shuntd.h). It is not
 * synced to disk: it speaks of processes that do not survive the host either. 64-bit numbers
 * are hexadecimal strings, since JSON's are signed.
 *
 * Adoption: each VM's process is checked (pid and start time), the descriptors of its segments are
 * taken back from it (segment_adopt), the mailbox is continued at the indices found there. What is
 * not found is treated as not plugged; identify.c later unplugs what QEMU has and nobody knows.
 *
 * A pair that is PARKED in the file is scrubbed again: the daemon may have died before it was done.
 *
 * A group is adopted whole: its processes are found by pid as well, and each of them has all its descriptors.
 * The file must still call for the same segment and the same members in the same places.
 */
#include <string.h>
#include <sys/stat.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/shuntd.h"

#define STATE_VERSION 1

static void put_hex(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_sprintf("%llx", (unsigned long long)n));
}

static uint64_t get_hex(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? strtoull(s, NULL, 16) : 0;
}

static void put_int(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static uint32_t get_int(const json_t *o, const char *key)
{
	return (uint32_t)json_integer_value(json_object_get(o, key));
}

static bool get_bool(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

static void get_text(const json_t *o, const char *key, char *to, size_t size)
{
	const char *s = json_string_value(json_object_get(o, key));

	snprintf(to, size, "%s", s ? s : "");
}

/* --- saving --- */

static json_t *segment_state(const struct segment *s)
{
	json_t *o, *efds;

	if (!s)
		return json_null();
	o = json_object();
	efds = json_array();
	put_hex(o, "id", s->spec.id);
	put_int(o, "kind", s->spec.kind);
	put_hex(o, "size", s->spec.size);
	put_int(o, "epoch", s->spec.epoch);
	put_int(o, "members", s->spec.members);
	put_int(o, "vectors", s->spec.vectors);
	put_hex(o, "ring_size", s->spec.ring_size);
	put_hex(o, "ino", s->spec.ino);
	for (unsigned int m = 0; m < s->spec.members; m++)
		for (unsigned int v = 0; v < s->spec.vectors; v++)
			json_array_append_new(efds, json_sprintf("%llx",
				(unsigned long long)s->spec.efd_id[m][v]));
	json_object_set_new(o, "eventfds", efds);
	return o;
}

/* A plug under way counts as none: what it leaves is purged. */
static json_t *end_state(const struct end *e)
{
	enum end_state s = e->state == END_QUEUED || e->state == END_PLUGGING ? END_NONE : e->state;

	return json_pack("{s:i, s:s, s:I, s:i}", "state", (int)s, "qdev", s == END_PLUGGED ? e->qdev : "",
			 "bdf", (json_int_t)e->bdf, "reason", (int)e->reason);
}

static json_t *told_state(const struct vm *vm)
{
	json_t *list = json_array();

	for (size_t i = 0; i < vm->n_told; i++) {
		json_t *o = json_object();

		put_int(o, "vm_id", vm->told[i].vm_id);
		put_hex(o, "hash", vm->told[i].hash);
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *vm_state(const struct vm *vm)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "name", vm->name, "wanted_name",
			      vm->wanted_name, "label", vm->label, "wanted_label", vm->wanted_label, "qmp",
			      vm->qmp_path, "machine", vm->machine, "kernel", vm->kernel, "module",
			      vm->module);
	json_t *nics = json_array();

	put_int(o, "id", vm->id);
	put_int(o, "pid", (uint64_t)vm->pid);
	put_int(o, "uid", vm->uid);
	put_hex(o, "start_time", vm->start_time);
	json_object_set_new(o, "detached", json_boolean(vm->detached));
	json_object_set_new(o, "from_dir", json_boolean(vm->from_dir));
	json_object_set_new(o, "identified", json_boolean(vm->identified));
	json_object_set_new(o, "kvm", json_boolean(vm->kvm));
	json_object_set_new(o, "hello", json_boolean(vm->hello));
	put_int(o, "bye", vm->bye);
	put_int(o, "uplink_broken", vm->uplink.broken);
	put_int(o, "breaks", vm->uplink.breaks);
	put_int(o, "inert_sent", vm->inert_sent);
	put_int(o, "inert_due", vm->inert_due);
	put_hex(o, "generation", vm->generation);
	put_hex(o, "roster_gen", vm->roster_gen);
	put_hex(o, "roster_acked", vm->roster_acked);
	json_object_set_new(o, "roster_reset", json_boolean(vm->roster_reset));
	json_object_set_new(o, "told", told_state(vm));
	json_object_set_new(o, "uplink", segment_state(vm->group ? NULL : vm->uplink.seg));
	json_object_set_new(o, "end", end_state(&vm->uplink.end));
	for (unsigned int i = 0; i < vm->nics; i++) {
		const __u8 *a = vm->nic[i].addr;

		json_array_append_new(nics, json_sprintf("%02x%02x%02x%02x%02x%02x", a[0], a[1], a[2], a[3],
							 a[4], a[5]));
	}
	json_object_set_new(o, "nics", nics);
	return o;
}

static json_t *pair_end_state(const struct pair_end *e)
{
	json_t *o = end_state(&e->end);

	put_int(o, "link_state", e->link_state);
	json_object_set_new(o, "closed", json_boolean(e->closed));
	put_int(o, "close_reason", e->close_reason);
	return o;
}

static json_t *pair_state(const struct pair *p)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:[o, o]}", "a", p->vm[0]->name, "b", p->vm[1]->name,
			      "detail", p->detail, "segment", segment_state(p->seg), "ends",
			      pair_end_state(&p->e[0]), pair_end_state(&p->e[1]));

	put_int(o, "state", p->state);
	json_object_set_new(o, "wanted", json_boolean(p->wanted));
	put_int(o, "broken", p->broken);
	put_int(o, "failed", p->failed);
	put_int(o, "last_reason", p->last_reason);
	put_int(o, "epoch", p->epoch);
	return o;
}

static json_t *group_state(const struct vm_group *g)
{
	json_t *members = json_array();

	for (unsigned int i = 0; i < g->n; i++)
		json_array_append_new(members, vm_state(g->vm[i]));
	return json_pack("{s:s, s:o, s:o}", "name", g->name, "segment", segment_state(g->seg), "members", members);
}

static json_t *whole_state(struct shuntd *d)
{
	json_t *o = json_object(), *vms = json_array(), *pairs = json_array(), *groups = json_array();
	struct vm_group *g;
	struct pair *p;
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link)
		if (!vm->group)
			json_array_append_new(vms, vm_state(vm));
	TAILQ_FOREACH(g, &d->groups, link)
		json_array_append_new(groups, group_state(g));
	TAILQ_FOREACH(p, &d->pairs, link)
		json_array_append_new(pairs, pair_state(p));
	put_int(o, "version", STATE_VERSION);
	put_int(o, "next_vm_id", d->next_vm_id);
	json_object_set_new(o, "vms", vms);
	json_object_set_new(o, "groups", groups);
	json_object_set_new(o, "pairs", pairs);
	return o;
}

/**
 * state_save() - Write the state file.
 *
 * Return: 0, or a negative errno: logged, tried again when something changes next.
 */
int state_save(struct shuntd *d)
{
	_cleanup_json_ json_t *o = whole_state(d);
	char path[128], tmp[128];
	mode_t mask = umask(0077);
	int r = 0;

	snprintf(path, sizeof(path), "%s/state.json", d->config->runtime_dir);
	snprintf(tmp, sizeof(tmp), "%s/state.json.new", d->config->runtime_dir);
	if (json_dump_file(o, tmp, JSON_INDENT(1)) || rename(tmp, path) < 0) {
		r = errno ? -errno : -EIO;
		log_err("state-not-saved", "path=%s error=\"%s\"", path, strerror(-r));
	}
	umask(mask);
	return r;
}

/* --- loading --- */

static bool segment_spec_of(json_t *o, struct segment_spec *s)
{
	json_t *efds = json_object_get(o, "eventfds");

	if (!json_is_object(o))
		return false;
	*s = (struct segment_spec){
		.id = get_hex(o, "id"),
		.kind = get_int(o, "kind"),
		.size = get_hex(o, "size"),
		.epoch = get_int(o, "epoch"),
		.members = get_int(o, "members"),
		.vectors = get_int(o, "vectors"),
		.ring_size = get_hex(o, "ring_size"),
		.ino = get_hex(o, "ino"),
	};
	if (!s->id || !s->epoch || s->members < 2 || s->members > SEGMENT_MEMBERS || !s->vectors ||
	    s->vectors > SEGMENT_VECTORS || json_array_size(efds) != s->members * s->vectors)
		return false;
	for (unsigned int i = 0; i < s->members * s->vectors; i++)
		s->efd_id[i / s->vectors][i % s->vectors] =
			strtoull(json_string_value(json_array_get(efds, i)) ?: "0", NULL, 16);
	return true;
}

static int adopt_segment(json_t *o, struct vm *const *vms, size_t n, struct segment **ret)
{
	struct segment_spec spec;
	int pidfds[SHUNT_ABI_MEMBERS_MAX];
	pid_t pids[SHUNT_ABI_MEMBERS_MAX];
	size_t alive = 0;

	if (!segment_spec_of(o, &spec))
		return -ENOENT;
	for (size_t i = 0; i < n; i++)
		if (vm_alive(vms[i])) {
			pids[alive] = vms[i]->pid;
			pidfds[alive++] = vms[i]->pidfd;
		}
	return segment_adopt(&spec, pids, pidfds, alive, ret);
}

static void adopt_end(json_t *o, struct end *e, struct vm *vm, struct segment *seg, unsigned int member)
{
	*e = (struct end){
		.vm = vm,
		.seg = seg,
		.member = member,
		.bdf = get_int(o, "bdf"),
		.reason = get_int(o, "reason"),
		.listen_fd = -1,
		.conn_fd = -1,
	};
	get_text(o, "qdev", e->qdev, sizeof(e->qdev));
	switch (get_int(o, "state")) {
	case END_PLUGGED:
		e->state = seg && vm_alive(vm) && *e->qdev ? END_PLUGGED : END_NONE;
		break;
	case END_FAILED:
	case END_REMOVED:
		e->state = vm_alive(vm) ? get_int(o, "state") : END_NONE;
		snprintf(e->detail, sizeof(e->detail), "before shuntd was restarted");
		break;
	}
	if (e->state != END_PLUGGED)
		*e->qdev = '\0';
}

static void load_nics(struct vm *vm, json_t *list)
{
	json_t *mac;
	size_t i;

	json_array_foreach(list, i, mac) {
		unsigned int b[6];

		if (vm->nics == SHUNT_ABI_NICS_MAX || !json_is_string(mac) ||
		    sscanf(json_string_value(mac), "%2x%2x%2x%2x%2x%2x", &b[0], &b[1], &b[2], &b[3], &b[4],
			   &b[5]) != 6)
			continue;
		for (int k = 0; k < 6; k++)
			vm->nic[vm->nics].addr[k] = (__u8)b[k];
		vm->nics++;
	}
}

static void load_told(struct vm *vm, json_t *list)
{
	json_t *o;
	size_t i;

	vm->told = calloc(json_array_size(list) + 1, sizeof(*vm->told));
	json_array_foreach(list, i, o)
		vm->told[vm->n_told++] = (struct told){ get_int(o, "vm_id"), get_hex(o, "hash") };
}

static bool same_process(struct vm *vm)
{
	uint64_t start = vm->start_time;

	if (vm->pid <= 0 || vm_watch_process(vm))
		return false;
	if (vm->start_time == start)
		return true;
	vm->exit_io = sd_event_source_disable_unref(vm->exit_io);
	shunt_close(&vm->pidfd);
	return false;
}

static void adopt_guest(struct vm *vm, json_t *o)
{
	vm->hello = get_bool(o, "hello");
	vm->bye = get_int(o, "bye");
	vm->generation = get_hex(o, "generation");
	vm->roster_gen = get_hex(o, "roster_gen");
	vm->roster_acked = get_hex(o, "roster_acked");
	vm->roster_reset = get_bool(o, "roster_reset");
	get_text(o, "kernel", vm->kernel, sizeof(vm->kernel));
	get_text(o, "module", vm->module, sizeof(vm->module));
	load_told(vm, json_object_get(o, "told"));
}

static void adopt_uplink(struct vm *vm, json_t *o)
{
	struct uplink *u = &vm->uplink;
	int r = adopt_segment(json_object_get(o, "uplink"), &vm, 1, &u->seg);

	u->breaks = get_int(o, "breaks");
	u->plugged_at = now_usec(vm->d);
	adopt_end(json_object_get(o, "end"), &u->end, vm, u->seg, 1);
	if (r || u->end.state != END_PLUGGED) {
		log_warn("not-adopted", "vm=%s what=uplink", vm->name);
		segment_free(u->seg);
		u->seg = NULL;
		vm->hello = false;
		return;
	}
	u->broken = get_int(o, "uplink_broken");
	if (!u->broken)
		uplink_start(vm, true);
	log_info("adopted", "vm=%s what=uplink", vm->name);
}

static void load_vm(struct shuntd *d, json_t *o)
{
	const char *qmp = json_string_value(json_object_get(o, "qmp"));
	const char *name = json_string_value(json_object_get(o, "name"));
	struct vm *vm = name ? vm_find(d, name) : NULL;

	if (vm && vm->group)
		log_warn("name-in-use", "vm=%s detail=\"now a member of group %s\"", name, vm->group->name);
	if (!qmp || vm)
		return;
	vm = vm_new(d, qmp);
	get_text(o, "name", vm->name, sizeof(vm->name));
	get_text(o, "wanted_name", vm->wanted_name, sizeof(vm->wanted_name));
	get_text(o, "label", vm->label, sizeof(vm->label));
	get_text(o, "wanted_label", vm->wanted_label, sizeof(vm->wanted_label));
	vm->id = get_int(o, "id");
	vm->from_dir = get_bool(o, "from_dir");
	vm->detached = get_bool(o, "detached");
	vm->pid = (pid_t)get_int(o, "pid");
	vm->uid = get_int(o, "uid");
	vm->start_time = get_hex(o, "start_time");
	load_nics(vm, json_object_get(o, "nics"));
	if (!same_process(vm)) {
		vm->pid = 0;
		vm->state = VM_GONE;
		return;
	}
	get_text(o, "machine", vm->machine, sizeof(vm->machine));
	vm->kvm = get_bool(o, "kvm");
	vm->identified = get_bool(o, "identified");
	vm->inert_sent = get_int(o, "inert_sent");
	vm->inert_due = get_int(o, "inert_due");
	adopt_guest(vm, o);
	adopt_uplink(vm, o);
	vm_relabel(vm);
}

/* --- groups --- */

static bool same_shape(const struct vm_group *g, json_t *o)
{
	json_t *members = json_object_get(o, "members");
	const struct segment_spec want = group_spec(g);
	struct segment_spec had;

	if (!segment_spec_of(json_object_get(o, "segment"), &had) || had.kind != want.kind ||
	    had.size != want.size || had.ring_size != want.ring_size || had.members != want.members ||
	    had.vectors != want.vectors || json_array_size(members) != g->n)
		return false;
	for (unsigned int i = 0; i < g->n; i++) {
		const char *name = json_string_value(json_object_get(json_array_get(members, i), "name"));

		if (!name || strcmp(name, g->vm[i]->name))
			return false;
	}
	return true;
}

/* Whether its process still lives. */
static bool load_member(struct vm *vm, json_t *o)
{
	vm->id = get_int(o, "id");
	vm->detached = get_bool(o, "detached");
	vm->pid = (pid_t)get_int(o, "pid");
	vm->start_time = get_hex(o, "start_time");
	if (same_process(vm))
		return true;
	vm->pid = 0;
	return false;
}

/* Those that live are of a segment this daemon does not have: they are on their own. */
static void disown(struct vm_group *g, const char *why)
{
	log_warn("not-adopted", "group=%s what=group detail=\"%s: its VMs are served again once they are restarted\"",
		 g->name, why);
	for (unsigned int i = 0; i < g->n; i++) {
		struct vm *vm = g->vm[i];

		if (vm_alive(vm))
			snprintf(vm->detail, sizeof(vm->detail), "process %d has the memory of a former shuntd: "
				 "restart the VM", vm->pid);
		vm->exit_io = sd_event_source_disable_unref(vm->exit_io);
		shunt_close(&vm->pidfd);
		vm->pid = 0;
	}
}

static void adopt_member(struct vm *vm, json_t *o)
{
	struct uplink *u = &vm->uplink;

	adopt_guest(vm, o);
	vm->state = VM_ATTACHED;
	vm->identified = true;
	vm->detail[0] = '\0';
	u->end.state = END_PLUGGED;
	u->plugged_at = now_usec(vm->d);
	u->breaks = get_int(o, "breaks");
	u->broken = get_int(o, "uplink_broken");
	if (!u->broken)
		uplink_start(vm, true);
	log_info("adopted", "vm=%s what=member group=%s pid=%d", vm->name, vm->group->name, vm->pid);
}

static size_t load_members(struct vm_group *g, json_t *list)
{
	size_t i, alive = 0;
	json_t *o;

	json_array_foreach(list, i, o) {
		struct vm *vm = vm_find(g->d, json_string_value(json_object_get(o, "name")) ?: "");

		if (vm && vm->group == g && load_member(vm, o))
			alive++;
	}
	return alive;
}

static void load_group(struct shuntd *d, json_t *o)
{
	struct vm_group *g = group_find(d, json_string_value(json_object_get(o, "name")) ?: "");
	json_t *members = json_object_get(o, "members");
	struct segment *seg;

	if (!g || !load_members(g, members))
		return;
	if (!same_shape(g, o)) {
		disown(g, "its configuration changed");
		return;
	}
	if (adopt_segment(json_object_get(o, "segment"), g->vm, g->n, &seg)) {
		disown(g, "its memory was not found in its processes");
		return;
	}
	if (group_use(g, seg))
		log_err("group-failed", "group=%s", g->name);
	for (unsigned int i = 0; i < g->n; i++)
		if (vm_alive(g->vm[i]))
			adopt_member(g->vm[i], json_array_get(members, i));
}

static void load_pair_end(struct pair *p, unsigned int i, json_t *o)
{
	struct pair_end *e = &p->e[i];

	if (!p->group)
		adopt_end(o, &e->end, p->vm[i], p->seg, i + 1);
	e->link_state = get_int(o, "link_state");
	e->closed = get_bool(o, "closed");
	e->close_reason = get_int(o, "close_reason");
	/* What happened to the guest while nobody looked: */
	if (!vm_alive(p->vm[i])) {
		e->closed = true;
		e->close_reason = SHUNT_ABI_R_PEER_DEAD;
	}
}

static void settle_loaded(struct pair *p)
{
	if (!p->seg) {
		/* Neither QEMU has it: whoever used it has lost the device. */
		p->state = PAIR_NONE;
	} else if (p->state == PAIR_PLUGGING || p->state == PAIR_PARKED || p->state == PAIR_NONE) {
		if (pair_scrub(p))
			p->failed = SHUNT_ABI_R_DAEMON;
		p->state = PAIR_PARKED;
	}
	p->since = now_usec(p->d);
	log_info(p->seg ? "adopted" : "not-adopted", "a=%s b=%s what=pair state=%s", p->vm[0]->name,
		 p->vm[1]->name, pair_state_name(p->state));
}

static void load_pair(struct shuntd *d, json_t *o)
{
	struct vm *a = vm_find(d, json_string_value(json_object_get(o, "a")) ?: "");
	struct vm *b = vm_find(d, json_string_value(json_object_get(o, "b")) ?: "");
	json_t *ends = json_object_get(o, "ends");
	uint32_t state = get_int(o, "state");
	struct pair *p;

	if (!a || !b || a == b || a->group != b->group || state > PAIR_CLOSING)
		return;
	p = pair_find(d, a, b);		/* in a group: if that was adopted */
	if (!p && a->group)
		return;
	if (!p)
		p = pair_new(d, a, b);
	p->epoch = get_int(o, "epoch") ?: 1;
	p->state = state;
	p->wanted = get_bool(o, "wanted");
	p->broken = get_int(o, "broken");
	p->failed = get_int(o, "failed");
	p->last_reason = get_int(o, "last_reason");
	get_text(o, "detail", p->detail, sizeof(p->detail));
	if (!p->group)
		adopt_segment(json_object_get(o, "segment"), p->vm, 2, &p->seg);
	load_pair_end(p, 0, json_array_get(ends, 0));
	load_pair_end(p, 1, json_array_get(ends, 1));
	settle_loaded(p);
}

/**
 * state_load() - Adopt what a former daemon left. A missing file is a fresh start; a damaged one is
 * reported and then likewise.
 */
void state_load(struct shuntd *d)
{
	char path[128];
	json_error_t error;
	_cleanup_json_ json_t *o = NULL;
	json_t *e;
	struct vm *vm;
	size_t i;

	snprintf(path, sizeof(path), "%s/state.json", d->config->runtime_dir);
	if (access(path, F_OK) < 0)
		return;
	o = json_load_file(path, 0, &error);
	if (!o || get_int(o, "version") != STATE_VERSION) {
		log_err("state-unusable", "path=%s error=\"%s\" detail=\"devices found in VMs are re-plugged\"",
			path, o ? "unknown version" : error.text);
		return;
	}
	d->next_vm_id = get_int(o, "next_vm_id") ?: 1;
	json_array_foreach(json_object_get(o, "vms"), i, e)
		load_vm(d, e);
	json_array_foreach(json_object_get(o, "groups"), i, e)
		load_group(d, e);
	json_array_foreach(json_object_get(o, "pairs"), i, e)
		load_pair(d, e);
	TAILQ_FOREACH(vm, &d->vms, link) {
		if (!vm->hello)
			continue;
		/* What was queued when the daemon died is lost: say it again. */
		if (vm->roster_acked != vm->roster_gen)
			roster_welcome(vm, true);
		pair_resend(vm);
	}
	d->dirty = true;
}
