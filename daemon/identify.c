// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who a VM is, in QEMU's words: name, machine, accelerator, NICs and MACs, and which of our devices
 * it has. Nothing of this comes from the guest (RULES 18).
 *
 * The questions are queued at once; QEMU answers in order, and the last answer concludes. The list
 * of devices is walked in the middle: each child of /machine/peripheral and /machine/peripheral-anon
 * is asked for its `mac`, which only NICs have.
 */
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

static void copy_name(char *to, const char *from)
{
	size_t n = 0;

	for (; *from && n < SHUNT_ABI_NAME_MAX - 1; from++)
		if (*from > ' ' && *from < 127 && *from != '"' && *from != '\\')
			to[n++] = *from;
	to[n] = '\0';
}

/* "web1" of ".../web1.qmp" */
static void base_name(char *to, const char *path)
{
	const char *base = strrchr(path, '/');
	char *dot;

	copy_name(to, base ? base + 1 : path);
	dot = strrchr(to, '.');
	if (dot && dot != to)
		*dot = '\0';
}

static void on_name(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;
	const char *name = json_string_value(json_object_get(ret, "name"));

	(void)error;
	if (*vm->name)
		return;		/* known from before: a VM does not change its name */
	if (*vm->wanted_name)
		copy_name(vm->name, vm->wanted_name);
	else if (name)
		copy_name(vm->name, name);
	if (!*vm->name)
		base_name(vm->name, vm->qmp_path);
}

static void on_status(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	if (ret)
		vm->running = json_is_true(json_object_get(ret, "running"));
}

static void on_kvm(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	vm->kvm = json_is_true(json_object_get(ret, "enabled"));
}

static void on_machine(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	if (json_is_string(ret))
		copy_name(vm->machine, json_string_value(ret));
}

/* One entry per vCPU that is or could be plugged. */
static void on_cpus(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	vm->max_cpus = (unsigned int)json_array_size(ret);
}

static void on_types(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	vm->no_ivshmem = json_is_array(ret) && !json_array_size(ret);
}

static bool is_ours(const char *id)
{
	return id && (!strncmp(id, "shunt-up-", 9) || !strncmp(id, "shunt-pair-", 11));
}

/* Noted as {id: is a device}. A chardev alone is what a killed daemon may have left. */
static void note_ours(struct vm *vm, const char *id, bool device)
{
	if (is_ours(id) && (device || !json_object_get(vm->devices, id)))
		json_object_set_new(vm->devices, id, json_boolean(device));
}

static void on_chardevs(void *ctx, json_t *ret, const char *error)
{
	json_t *c;
	size_t i;

	(void)error;
	json_array_foreach(ret, i, c)
		note_ours(ctx, json_string_value(json_object_get(c, "label")), false);
}

static void on_mac(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;
	const char *text = json_string_value(ret);
	unsigned int b[6];

	(void)error;
	if (!text || vm->new_nics == SHUNT_ABI_NICS_MAX ||
	    sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]) != 6)
		return;
	for (int i = 0; i < 6; i++)
		vm->new_nic[vm->new_nics].addr[i] = (__u8)b[i];
	vm->new_nics++;
}

static void ask_children(struct vm *vm, const char *root, json_t *list)
{
	json_t *child;
	size_t i;

	json_array_foreach(list, i, child) {
		const char *name = json_string_value(json_object_get(child, "name"));
		const char *type = json_string_value(json_object_get(child, "type"));
		char path[256];

		if (!name || !type || strncmp(type, "child<", 6))
			continue;
		if (!strcmp(type, "child<ivshmem-doorbell>")) {
			note_ours(vm, name, true);
			continue;
		}
		snprintf(path, sizeof(path), "%s/%s", root, name);
		qmp_call(vm->qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", "mac"), on_mac,
			 vm);
	}
}

static void on_peripheral(void *ctx, json_t *ret, const char *error)
{
	(void)error;
	ask_children(ctx, "/machine/peripheral", ret);
}

/* --- conclusions --- */

static void take_nics(struct vm *vm)
{
	if (vm->nics == vm->new_nics && !memcmp(vm->nic, vm->new_nic, sizeof(vm->nic)))
		return;
	memcpy(vm->nic, vm->new_nic, sizeof(vm->nic));
	vm->nics = vm->new_nics;
	vm->d->dirty = true;
	log_info("vm-nics", "vm=%s nics=%u", vm->name, vm->nics);
	if (vm->hello)
		roster_welcome(vm, false);
}

/* A VM that was gone under this name comes back by another socket: its pairs are this one's. */
static void inherit(struct vm *vm, struct vm *old)
{
	struct pair *p;

	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (int i = 0; i < 2; i++)
			if (p->vm[i] == old)
				p->vm[i] = vm;
	vm->id = old->id;
	vm->detached = old->detached;
	vm_free(old);
}

static bool settle_name(struct vm *vm)
{
	struct vm *other;

	TAILQ_FOREACH(other, &vm->d->vms, link) {
		if (other == vm || strcmp(other->name, vm->name))
			continue;
		if (other->state == VM_GONE && !other->group) {
			inherit(vm, other);
			return true;
		}
		vm->reason = SHUNT_ABI_R_POLICY;
		snprintf(vm->detail, sizeof(vm->detail),
			 "a VM named %.40s is attached already: use shunt attach --name", vm->name);
		log_warn("name-in-use", "vm=%s path=%s", vm->name, vm->qmp_path);
		vm->name[0] = '\0';
		return false;
	}
	return true;
}

static void check_end(struct vm *vm, struct end *e)
{
	if (e->state != END_PLUGGED)
		return;
	if (json_is_true(json_object_get(vm->devices, e->qdev)))
		json_object_del(vm->devices, e->qdev);
	else
		plug_device_deleted(vm, e->qdev, e);
}

/* Compare what QEMU has plugged with what is known here. */
static void check_devices(struct vm *vm)
{
	const char *id;
	json_t *device;
	struct pair *p;

	check_end(vm, &vm->uplink.end);
	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (int i = 0; i < 2; i++)
			if (p->vm[i] == vm)
				check_end(vm, &p->e[i].end);
	json_object_foreach(vm->devices, id, device)
		plug_purge(vm, id, json_is_true(device));
}

static void on_identified(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;
	int r = 0;

	(void)ret;
	(void)error;
	if (!settle_name(vm))
		return;
	if (!vm->id)
		vm->id = vm->d->next_vm_id++;
	vm->state = VM_ATTACHED;
	vm->identified = true;
	vm->reason = 0;
	vm->detail[0] = '\0';
	take_nics(vm);
	vm_relabel(vm);
	hostpolicy_vm(vm);
	vm->d->dirty = true;
	log_info("vm-attached", "vm=%s id=%u pid=%d label=%s nics=%u machine=%s accel=%s", vm->name, vm->id,
		 vm->pid, vm->label, vm->nics, vm->machine, vm->kvm ? "kvm" : "tcg");
	if (!vm->kvm && vm->max_cpus == 1)
		log_warn("unordered-memory", "vm=%s detail=\"emulated with one vCPU, QEMU does not order memory "
			 "between VMs: start it with -smp 1,maxcpus=2\"", vm->name);
	check_devices(vm);
	json_decref(vm->devices);
	vm->devices = NULL;
	if (vm->uplink.end.state == END_NONE && !vm->uplink.seg)
		r = uplink_create(vm);
	if (r) {
		vm->reason = SHUNT_ABI_R_DAEMON;
		snprintf(vm->detail, sizeof(vm->detail), "cannot make its uplink: %s", strerror(-r));
		log_err("uplink-failed", "vm=%s error=\"%s\"", vm->name, strerror(-r));
	}
	plug_next(vm);
}

static void on_nics_known(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)ret;
	(void)error;
	json_decref(vm->devices);
	vm->devices = NULL;
	take_nics(vm);
	vm_relabel(vm);
	hostpolicy_vm(vm);
}

static void on_peripheral_anon(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	ask_children(vm, "/machine/peripheral-anon", ret);
	qmp_call(vm->qmp, "query-status", NULL, vm->state == VM_ATTACHED ? on_nics_known : on_identified, vm);
}

static void ask_nics(struct vm *vm)
{
	memset(vm->new_nic, 0, sizeof(vm->new_nic));
	vm->new_nics = 0;
	qmp_call(vm->qmp, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"), on_peripheral, vm);
	qmp_call(vm->qmp, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral-anon"),
		 on_peripheral_anon, vm);
}

/**
 * vm_identify() - The QMP connection is ready: learn all there is, then plug what is missing.
 */
void vm_identify(struct vm *vm)
{
	vm->state = VM_IDENTIFYING;
	json_decref(vm->devices);
	vm->devices = json_object();
	qmp_call(vm->qmp, "query-name", NULL, on_name, vm);
	qmp_call(vm->qmp, "query-status", NULL, on_status, vm);
	qmp_call(vm->qmp, "query-kvm", NULL, on_kvm, vm);
	qmp_call(vm->qmp, "qom-get", json_pack("{s:s, s:s}", "path", "/machine", "property", "type"),
		 on_machine, vm);
	qmp_call(vm->qmp, "query-hotpluggable-cpus", NULL, on_cpus, vm);
	qmp_call(vm->qmp, "qom-list-types", json_pack("{s:s}", "implements", "ivshmem-doorbell"), on_types, vm);
	qmp_call(vm->qmp, "query-chardev", NULL, on_chardevs, vm);
	ask_nics(vm);
}

/**
 * vm_refresh_nics() - NICs can be hot-plugged: look again (at each HELLO).
 *
 * Those of a group's member are in the configuration; but its taps are there for sure only now.
 */
void vm_refresh_nics(struct vm *vm)
{
	if (vm->group)
		hostpolicy_vm(vm);
	if (vm->state != VM_ATTACHED || vm->devices || !qmp_is_ready(vm->qmp))
		return;
	vm->devices = json_object();	/* marks the questions under way */
	ask_nics(vm);
}
