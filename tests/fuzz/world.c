// SPDX-License-Identifier: GPL-2.0-only
/* See world.h. */
#include "world.h"

#include <ftw.h>
#include <sys/eventfd.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "input.h"

#define ROUNDS_MAX 4000		/* of the event loop until it is idle; a request of a client each */

struct world world;
void (*world_on_message)(const void *raw);
static char dir[64];

/* The linker puts this in the place of the daemon's (--wrap). */
uint64_t __wrap_now_usec(const struct shuntd *d);
uint64_t __wrap_now_usec(const struct shuntd *d)
{
	(void)d;
	return world.now;
}

int __real_shunt_msg_parse(const void *raw, __u32 len, union shunt_msg_up *ret);
int __wrap_shunt_msg_parse(const void *raw, __u32 len, union shunt_msg_up *ret);
int __wrap_shunt_msg_parse(const void *raw, __u32 len, union shunt_msg_up *ret)
{
	if (world_on_message)
		world_on_message(raw);
	return __real_shunt_msg_parse(raw, len, ret);
}

/* Written where a target is about it; a file for every step would be most of the time. */
int __wrap_state_save(struct shuntd *d);
int __wrap_state_save(struct shuntd *d)
{
	(void)d;
	return 0;
}

/* The host's network is not asked: no VM here has a tap. */
void __wrap_hostpolicy_vm(struct vm *vm);
void __wrap_hostpolicy_fresh(struct shuntd *d);
void __wrap_hostpolicy_retry(struct shuntd *d);
void __wrap_hostpolicy_vm(struct vm *vm)
{
	(void)vm;
}

void __wrap_hostpolicy_fresh(struct shuntd *d)
{
	(void)d;
}

void __wrap_hostpolicy_retry(struct shuntd *d)
{
	(void)d;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	return remove(path);
}

static void remove_dir(void)
{
	nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/** world_dir() - A directory of this process, removed at its end. */
const char *world_dir(void)
{
	char path[sizeof(dir) + 8];

	if (*dir)
		return dir;
	snprintf(dir, sizeof(dir), "%s/shunt-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	DEMAND(mkdtemp(dir));
	atexit(remove_dir);
	snprintf(path, sizeof(path), "%s/dev", dir);
	DEMAND(!mkdir(path, 0700));
	snprintf(path, sizeof(path), "%s/vms.d", dir);
	DEMAND(!mkdir(path, 0700));
	return dir;
}

/** world_daemon() - A daemon that knows nobody. */
void world_daemon(void)
{
	struct shuntd *d = &world.d;

	memset(&world, 0, sizeof(world));
	world.now = 1000000;
	shunt_log_init(-1);
	TAILQ_INIT(&d->vms);
	TAILQ_INIT(&d->pairs);
	TAILQ_INIT(&d->groups);
	d->lock_fd = d->watch_fd = -1;
	d->next_vm_id = 1;
	d->generation = 77;
	d->config = shunt_config_default();
	free(d->config->runtime_dir);
	d->config->runtime_dir = strdup(world_dir());
	free(d->config->plug);
	d->config->plug = strdup("eager");
	free(d->config->host_policy);
	d->config->host_policy = strdup("ignore");
	d->config->pair_size = 1 << 20;
	d->config->ring_size = 64 << 10;
	strcpy(d->host, "fuzz");
	DEMAND(sd_event_new(&d->event) >= 0);
}

static void add_guest(unsigned int n)
{
	struct guest *g = &world.guest[n];
	char path[96];
	struct vm *vm;
	struct shunt_abi_mailbox *box;

	snprintf(path, sizeof(path), "%s/%u.qmp", world_dir(), n);
	vm = g->vm = vm_new(&world.d, path);
	snprintf(vm->name, sizeof(vm->name), "vm%u", n);
	vm->id = world.d.next_vm_id++;
	vm->pid = getpid();
	vm->pidfd = eventfd(0, EFD_CLOEXEC);	/* alive */
	vm->state = VM_ATTACHED;
	vm->identified = true;
	vm->nics = 1;
	memcpy(vm->nic[0].addr, (uint8_t[]){ 0x52, 0x54, 0, 0, 0, (uint8_t)n }, 6);
	vm_relabel(vm);
	DEMAND(!uplink_create(vm));
	box = segment_mailbox(vm->uplink.seg, 1);
	shunt_producer_init(&g->up, &box->up_ctl, box->up, SHUNT_ABI_MAILBOX_RING);
	shunt_consumer_init(&g->down, &box->down_ctl, box->down, SHUNT_ABI_MAILBOX_RING);
}

/* What QEMU would have answered. */
static void plug_waiting(struct vm *vm)
{
	struct end *e;

	while ((e = TAILQ_FIRST(&vm->plugs))) {
		TAILQ_REMOVE(&vm->plugs, e, queue);
		e->state = END_PLUGGED;
		e->bdf = 0x18;
		vm->d->dirty = true;
	}
}

static void settle(void)
{
	struct vm *vm;

	daemon_settle(&world.d);
	TAILQ_FOREACH(vm, &world.d.vms, link)
		plug_waiting(vm);
}

/** world_round() - Let the daemon work until nothing is left to do; honest guests answer. */
void world_round(void)
{
	int i = 0, r;

	do {
		settle();
		for (unsigned int n = 1; n < WORLD_GUESTS; n++)
			if (world.guest[n].vm)
				guest_read(&world.guest[n]);
		r = sd_event_run(world.d.event, 0);
		DEMAND(++i < ROUNDS_MAX || !r);
	} while (r > 0);
	settle();
}

/** world_tick() - Liveness ticks, as daemon.c does them. */
void world_tick(void)
{
	struct vm *vm;

	world.now += world.d.config->liveness_ms * 1000;
	for (unsigned int n = 0; n < WORLD_GUESTS; n++)
		world.guest[n].received = 0;
	TAILQ_FOREACH(vm, &world.d.vms, link)
		uplink_tick(vm);
	world_round();
}

/** world_peer() - The guest that is known as @vm_id. */
struct guest *world_peer(uint32_t vm_id)
{
	for (unsigned int n = 0; n < WORLD_GUESTS; n++)
		if (world.guest[n].vm && world.guest[n].vm->id == vm_id)
			return &world.guest[n];
	return NULL;
}

/** guest_send() - A message to the daemon; false if the mailbox is full or broken. */
bool guest_send(struct guest *g, void *msg, size_t len, uint16_t type)
{
	struct shunt_abi_msg *h = msg;
	void *to;

	*h = (struct shunt_abi_msg){ .type = type, .seq = ++g->seq };
	if (shunt_rec_reserve(&g->up, (uint32_t)len, &to))
		return false;
	memcpy(to, msg, len);
	shunt_rec_commit(&g->up, (uint32_t)len);
	if (shunt_producer_publish(&g->up) < 0)
		return false;
	segment_ring(g->vm->uplink.seg, 0, SHUNT_ABI_VECTOR_CONTROL);
	return true;
}

/** guest_hello() - The guest's module starts. */
void guest_hello(struct guest *g, uint64_t generation)
{
	struct shunt_abi_msg_hello m = { .version_min = 1, .version_max = 1, .generation = generation };

	strcpy(m.kernel, "6.1.0");
	strcpy(m.module, "0.1.0");
	guest_send(g, &m, sizeof(m), SHUNT_ABI_MSG_HELLO);
}

static void say_state(struct guest *g, uint64_t segment, uint32_t member, uint32_t epoch, uint32_t state,
		      uint32_t reason)
{
	struct shunt_abi_msg_link_state m = {
		.segment_id = segment, .epoch = epoch, .state = state, .reason = reason, .peer_member = member,
	};

	guest_send(g, &m, sizeof(m), SHUNT_ABI_MSG_LINK_STATE);
}

static void answer(struct guest *g, const void *mail, uint32_t len)
{
	struct shunt_abi_msg_link_open open;
	struct shunt_abi_msg_link_close closing;
	struct guest *peer;
	uint16_t type;

	DEMAND(len >= sizeof(struct shunt_abi_msg) && len <= SHUNT_ABI_MSG_MAX);
	memcpy(&type, mail, sizeof(type));
	if (type == SHUNT_ABI_MSG_LINK_OPEN && len == sizeof(open)) {
		memcpy(&open, mail, sizeof(open));
		peer = world_peer(open.vm_id);
		if (peer)
			g->open[peer - world.guest] = open;
		say_state(g, open.segment_id, open.peer_member, open.epoch, SHUNT_ABI_LINK_UP, 0);
	} else if (type == SHUNT_ABI_MSG_LINK_CLOSE && len == sizeof(closing)) {
		memcpy(&closing, mail, sizeof(closing));
		say_state(g, closing.segment_id, closing.peer_member, closing.epoch, SHUNT_ABI_LINK_CLOSED,
			  closing.reason);
	}
}

/** guest_read() - Read all mail and answer it as a healthy guest does. */
void guest_read(struct guest *g)
{
	const void *mail;
	uint32_t len;
	int i;

	for (i = 0; i < 1024 && !shunt_rec_peek(&g->down, &mail, &len); i++) {
		g->received++;
		if (len <= SHUNT_ABI_MSG_MAX)
			answer(g, mail, len);
		shunt_rec_consume(&g->down);
	}
	if (i && shunt_consumer_release(&g->down) == 1)
		segment_ring(g->vm->uplink.seg, 0, SHUNT_ABI_VECTOR_CONTROL);
}

/** world_start() - A daemon and its guests, all linked with one another. */
void world_start(void)
{
	world_daemon();
	for (unsigned int n = 0; n < WORLD_GUESTS; n++)
		add_guest(n);
	world_round();
	for (unsigned int n = 0; n < WORLD_GUESTS; n++)
		guest_hello(&world.guest[n], 100 + n);
	world_round();
	guest_read(&world.guest[0]);
	world_round();
}

/** world_stop() - Nothing is left. */
void world_stop(void)
{
	struct shuntd *d = &world.d;
	struct pair *p;
	struct vm *vm;

	control_stop(d);
	while ((p = TAILQ_FIRST(&d->pairs)))
		pair_free(p);
	while ((vm = TAILQ_FIRST(&d->vms)))
		vm_free(vm);
	sd_event_unref(d->event);
	shunt_config_free(d->config);
	memset(&world, 0, sizeof(world));
}
