// SPDX-License-Identifier: GPL-2.0-only
/*
 * Groups: VMs without QMP that share one segment, as shuntd.conf says.
 *
 * DOC: Theory of operation
 *
 * A member is a struct vm without QMP: what QMP would tell (name, MACs) is in the file, and its QEMU is whichever
 * process connected to its socket (member.c). Its uplink's segment is the group's, of which it is member 1, 2...;
 * every two members are a struct pair from the start, whose link runs on a channel of that segment. So roster,
 * mailbox, links, status and adoption are those of all VMs; what differs is here:
 *
 *  - nothing is plugged: a member is END_PLUGGED while its process lives;
 *  - the doorbell of shuntd is one for all members: each ring has every mailbox looked at, up to a budget per tick;
 *  - the segment is never scrubbed as a whole: a link by itself when both its ends are closed, a mailbox when
 *    its process has exited;
 *  - a guest's reset is not seen. Its next HELLO tells; until then its silence stalls its links.
 *
 * Groups are fixed while shuntd runs. After a restart a group is adopted if one of its processes lives and the
 * file still means the same segment; otherwise it starts afresh, and processes of before are not served until
 * they are started again.
 */
#include <string.h>
#include <sys/epoll.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/shuntd.h"

#define BELLS 256u	/* per tick */

static struct vm *new_member(struct vm_group *g, const struct shunt_group_member *rule, unsigned int number)
{
	char path[256];
	struct vm *vm;

	if (rule->socket)
		snprintf(path, sizeof(path), "%s", rule->socket);
	else
		snprintf(path, sizeof(path), "%s/groups/%s/%s.sock", g->d->config->runtime_dir, g->name, rule->name);
	vm = vm_new(g->d, path);
	vm->group = g;
	vm->rule = rule;
	vm->uplink.end.vm = vm;
	vm->uplink.end.member = number;
	vm->uplink.end.bdf = SHUNT_ABI_BDF_UNKNOWN;
	snprintf(vm->name, sizeof(vm->name), "%s", rule->name);
	snprintf(vm->label, sizeof(vm->label), "%s", g->rule->label);
	snprintf(vm->wanted_label, sizeof(vm->wanted_label), "%s", g->rule->label);
	memcpy(vm->nic, rule->mac, sizeof(vm->nic));
	vm->nics = rule->macs;
	snprintf(vm->detail, sizeof(vm->detail), "to %.190s", path);
	return vm;
}

/** group_create_all() - The groups and members of the configuration; nothing is opened yet. */
void group_create_all(struct shuntd *d)
{
	for (size_t i = 0; i < d->config->n_groups; i++) {
		const struct shunt_group_rule *rule = &d->config->groups[i];
		struct vm_group *g = calloc(1, sizeof(*g));

		g->d = d;
		g->rule = rule;
		g->name = rule->name;
		TAILQ_INSERT_TAIL(&d->groups, g, link);
		for (size_t k = 0; k < rule->n_members; k++)
			g->vm[g->n++] = new_member(g, &rule->members[k], (unsigned int)k + 1);
	}
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool same_member(const struct shunt_group_member *a, const struct shunt_group_member *b)
{
	return same_text(a->name, b->name) && same_text(a->socket, b->socket) && same_text(a->user, b->user) &&
	       same_text(a->pidfile, b->pidfile) && same_text(a->cgroup, b->cgroup) && a->macs == b->macs &&
	       !memcmp(a->mac, b->mac, sizeof(a->mac));
}

static bool same_group(const struct shunt_group_rule *a, const struct shunt_group_rule *b)
{
	bool same = same_text(a->name, b->name) && same_text(a->label, b->label) && a->size == b->size &&
		    a->ring_size == b->ring_size && a->n_members == b->n_members;

	for (size_t i = 0; same && i < a->n_members; i++)
		same = same_member(&a->members[i], &b->members[i]);
	return same;
}

/**
 * group_keep() - A new configuration: the groups stay as they are.
 *
 * The members point into the old one, and a segment cannot change under those who have it.
 */
void group_keep(struct shuntd *d, struct shunt_config *c)
{
	struct shunt_config old = { .groups = d->config->groups, .n_groups = d->config->n_groups };
	bool same = old.n_groups == c->n_groups;

	for (size_t i = 0; same && i < c->n_groups; i++)
		same = same_group(&old.groups[i], &c->groups[i]);
	if (!same)
		log_warn("config-needs-restart", "key=groups");
	d->config->groups = c->groups;
	d->config->n_groups = c->n_groups;
	c->groups = old.groups;
	c->n_groups = old.n_groups;
}

/** group_find() - By name. */
struct vm_group *group_find(struct shuntd *d, const char *name)
{
	struct vm_group *g;

	TAILQ_FOREACH(g, &d->groups, link)
		if (!strcmp(g->name, name))
			return g;
	return NULL;
}

/** group_spec() - The segment that the configuration calls for. */
struct segment_spec group_spec(const struct vm_group *g)
{
	return (struct segment_spec){
		.kind = SHUNT_ABI_GROUP,
		.size = g->rule->size,
		.ring_size = g->rule->ring_size,
		.members = g->n + 1,
		.vectors = SHUNT_ABI_GROUP_VECTORS,
	};
}

static int on_bell(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct vm_group *g = userdata;
	uint64_t n;

	(void)revents;
	if (!g->bells) {
		g->masked_ticks++;
		return sd_event_source_set_enabled(s, SD_EVENT_OFF);
	}
	g->bells--;
	if (read(fd, &n, sizeof(n)) != (ssize_t)sizeof(n))
		return 0;
	for (unsigned int i = 0; i < g->n; i++)
		if (!g->vm[i]->uplink.masked)
			uplink_drain(g->vm[i]);
	return 0;
}

/** group_tick() - Every liveness tick: listen again to a group that rang too often. */
void group_tick(struct shuntd *d)
{
	struct vm_group *g;

	TAILQ_FOREACH(g, &d->groups, link) {
		g->bells = BELLS;
		if (g->bell)
			sd_event_source_set_enabled(g->bell, SD_EVENT_ON);
	}
}

/* Every two members, in the order of the segment's channels. */
static void make_pairs(struct vm_group *g)
{
	unsigned int channel = 0;

	for (unsigned int a = 0; a < g->n; a++)
		for (unsigned int b = a + 1; b < g->n; b++) {
			struct pair *p = pair_new(g->d, g->vm[a], g->vm[b]);

			p->group = g;
			p->seg = g->seg;
			p->channel = channel++;
			p->epoch = 1;
			p->state = PAIR_PARKED;
		}
}

/**
 * group_use() - The group has its segment now, a new one or one taken back from its processes.
 *
 * Return: 0 or a negative errno.
 */
int group_use(struct vm_group *g, struct segment *seg)
{
	int r;

	g->seg = seg;
	g->bells = BELLS;
	for (unsigned int i = 0; i < g->n; i++) {
		struct uplink *u = &g->vm[i]->uplink;

		u->seg = u->end.seg = seg;
		if (vm_alive(g->vm[i]))
			continue;	/* adopted by who called */
		segment_reset_member(seg, u->end.member);
		uplink_start(g->vm[i], false);
	}
	make_pairs(g);
	r = sd_event_add_io(g->d->event, &g->bell, seg->efd[0][SHUNT_ABI_VECTOR_CONTROL], EPOLLIN, on_bell, g);
	return r < 0 ? r : 0;
}

static void fail_member(struct vm *vm, const char *what, int error)
{
	vm->uplink.end.state = END_FAILED;
	vm->uplink.end.reason = SHUNT_ABI_R_DAEMON;
	snprintf(vm->uplink.end.detail, sizeof(vm->uplink.end.detail), "%s%s%.100s: %s%s", what, *what ? " " : "",
		 vm->qmp_path, strerror(-error),
		 error == -ENOENT && vm->rule->user ? " (is there such a user?)" : "");
	log_err("member-failed", "vm=%s group=%s detail=\"%s\"", vm->name, vm->group->name, vm->uplink.end.detail);
}

static void start_member(struct vm *vm)
{
	int r;

	if (!vm->id)
		vm->id = vm->d->next_vm_id++;
	r = member_listen(vm);
	if (r)
		fail_member(vm, "cannot listen on", r);
	else
		log_info("member-awaited", "vm=%s group=%s member=%u socket=%s", vm->name, vm->group->name,
			 vm->uplink.end.member, vm->qmp_path);
}

/** group_start_all() - Open what was not adopted, and the members' sockets. */
void group_start_all(struct shuntd *d)
{
	struct vm_group *g;

	TAILQ_FOREACH(g, &d->groups, link) {
		struct segment *seg;
		int r = g->seg ? 0 : segment_create(group_spec(g), &seg);

		if (!r && !g->seg)
			r = group_use(g, seg);
		if (!r)
			log_info("group", "name=%s members=%u segment=%016llx size=%llu", g->name, g->n,
				 (unsigned long long)g->seg->spec.id, (unsigned long long)g->seg->spec.size);
		for (unsigned int i = 0; i < g->n; i++)
			if (r)
				fail_member(g->vm[i], "no memory for", r);
			else
				start_member(g->vm[i]);
	}
	d->dirty = true;
}

/** group_member_here() - A member's process connected and was greeted. */
void group_member_here(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	log_info("member-connected", "vm=%s group=%s pid=%d", vm->name, vm->group->name, vm->pid);
	vm->state = VM_ATTACHED;
	vm->identified = true;
	vm->hello = false;
	vm->bye = 0;
	vm->detail[0] = '\0';
	u->end.state = END_PLUGGED;
	u->plugged_at = now_usec(vm->d);
	u->silence_noted = false;
	vm->d->dirty = true;
}

/**
 * group_member_gone() - A member's process exited: the next one finds an empty mailbox.
 *
 * Its links were closed by vm_guest_left().
 */
void group_member_gone(struct vm *vm)
{
	struct uplink *u = &vm->uplink;

	u->end.conn_io = sd_event_source_disable_unref(u->end.conn_io);
	shunt_close(&u->end.conn_fd);
	u->end.state = END_NONE;
	uplink_forget(vm);
	segment_reset_member(u->seg, u->end.member);
	uplink_start(vm, false);
	vm->state = VM_GONE;
	vm->pid = 0;
	vm->identified = false;
	memset(&vm->host, 0, sizeof(vm->host));
	vm->roster_reset = true;
	snprintf(vm->detail, sizeof(vm->detail), "its QEMU exited; %.150s waits for the next", vm->qmp_path);
	vm->d->dirty = true;
}

/** group_free_all() - At the end; members and pairs are gone. Processes keep what they have. */
void group_free_all(struct shuntd *d)
{
	struct vm_group *g;

	while ((g = TAILQ_FIRST(&d->groups))) {
		TAILQ_REMOVE(&d->groups, g, link);
		sd_event_source_disable_unref(g->bell);
		segment_free(g->seg);
		free(g);
	}
}
