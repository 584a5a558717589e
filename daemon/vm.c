// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VM: a QEMU process, known through a QMP socket of its own (or, in a group, by its connection: group.c).
 *
 * DOC: Theory of operation
 *
 * The record outlives the process: it is found again by name when the VM comes back, so that its
 * peers' parked devices can be used again. The process is the one behind the QMP socket, as the
 * kernel says (SO_PEERCRED), held by a pidfd: its exit is the VM's death, at once and for sure. Loss of
 * the QMP connection alone is not: links go on, the connection is tried again.
 */
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/policy.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

#define RETRY_MIN_MS 50u
#define RETRY_MAX_MS 5000u

static void vm_retry_later(struct vm *vm, uint64_t min_ms);

/** vm_find() - By name. */
struct vm *vm_find(struct shuntd *d, const char *name)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link)
		if (*vm->name && !strcmp(vm->name, name))
			return vm;
	return NULL;
}

/** vm_find_id() - By vm_id. */
struct vm *vm_find_id(struct shuntd *d, uint32_t id)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link)
		if (vm->id == id)
			return vm;
	return NULL;
}

/** vm_find_qmp() - By the path of its QMP socket. */
struct vm *vm_find_qmp(struct shuntd *d, const char *qmp_path)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &d->vms, link)
		if (!strcmp(vm->qmp_path, qmp_path))
			return vm;
	return NULL;
}

/** vm_alive() - Whether its QEMU process exists. */
bool vm_alive(const struct vm *vm)
{
	return vm->pidfd >= 0;
}

/** vm_usable() - Whether links to it can be opened. */
bool vm_usable(const struct vm *vm)
{
	return vm_alive(vm) && vm->hello && !vm->detached && uplink_ready(vm);
}

/**
 * vm_why_not() - Why a VM is not usable: an enum shunt_abi_reason, 0 if it is.
 * @ret_detail: more words, or "".
 */
uint32_t vm_why_not(const struct vm *vm, const char **ret_detail)
{
	const struct uplink *u = &vm->uplink;

	*ret_detail = vm->detail;
	if (vm->group && !vm_alive(vm) && vm->state != VM_GONE) {
		if (u->end.state == END_FAILED)
			*ret_detail = u->end.detail;
		return u->end.state == END_FAILED ? u->end.reason : SHUNT_ABI_R_AWAITED;
	}
	if (!vm_alive(vm))
		return vm->state == VM_GONE ? SHUNT_ABI_R_PEER_DEAD : SHUNT_ABI_R_TIMEOUT;
	if (vm->detached)
		return SHUNT_ABI_R_DETACHED;
	if (u->broken) {
		*ret_detail = "its mailbox is broken";
		return u->broken;
	}
	if (u->end.state == END_FAILED || u->end.state == END_REMOVED) {
		*ret_detail = u->end.detail;
		return u->end.reason;
	}
	if (vm->reason)
		return vm->reason;
	if (u->end.state != END_PLUGGED)
		return SHUNT_ABI_R_TIMEOUT;
	if (!vm->hello)
		return vm->bye ? vm->bye : SHUNT_ABI_R_NO_MODULE;
	return 0;
}

/**
 * process_start_time() - When a process started, in clock ticks after boot; with the pid it names
 * the process for good. 0: no such process.
 */
uint64_t process_start_time(pid_t pid)
{
	char path[32], buf[1024], *p;
	_cleanup_file_ FILE *f = NULL;
	unsigned long long t = 0;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(buf, 1, sizeof(buf) - 1, f);
	buf[n] = '\0';
	p = strrchr(buf, ')');	/* the name before it may hold anything */
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			 &t) != 1)
		return 0;
	return t;
}

/**
 * vm_guest_left() - The guest's module is gone without a word: reset, panic, shutdown, exit.
 * @why: for the log.
 */
void vm_guest_left(struct vm *vm, const char *why)
{
	log_info("guest-left", "vm=%s why=%s had-module=%d", vm->name, why, vm->hello);
	vm->hello = false;
	vm->bye = 0;
	vm->d->dirty = true;
	pair_vm_links_dead(vm, SHUNT_ABI_R_PEER_DEAD);
}

static void vm_gone(struct vm *vm)
{
	log_info("vm-exited", "vm=%s pid=%d", vm->name, vm->pid);
	vm->exit_io = sd_event_source_disable_unref(vm->exit_io);
	shunt_close(&vm->pidfd);
	vm_guest_left(vm, "qemu-exit");
	if (vm->group) {
		group_member_gone(vm);
		return;
	}
	qmp_free(vm->qmp);
	vm->qmp = NULL;
	plug_cancel_all(vm);
	pair_vm_process_exited(vm);
	uplink_stop(vm);
	vm->state = VM_GONE;
	vm->pid = 0;
	vm->identified = false;
	memset(&vm->host, 0, sizeof(vm->host));
	vm->reason = 0;
	snprintf(vm->detail, sizeof(vm->detail), "its QEMU exited");
	vm->inert_due = vm->inert_asked = vm->inert_sent = 0;
	vm->roster_reset = true;
	vm->retry_ms = 0;
	vm_retry_later(vm, RETRY_MIN_MS);
}

static int on_exit_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	(void)s;
	(void)fd;
	(void)revents;
	vm_gone(userdata);
	return 0;
}

/**
 * vm_watch_process() - Hold vm->pid by a pidfd and hear of its exit.
 *
 * Return: 0, or a negative errno (-ESRCH: it is gone already).
 */
int vm_watch_process(struct vm *vm)
{
	int r;

	if (vm->pid <= 0)
		return -ESRCH;
	vm->pidfd = pidfd_open(vm->pid, 0);
	if (vm->pidfd < 0)
		return -errno;
	vm->start_time = process_start_time(vm->pid);
	r = sd_event_add_io(vm->d->event, &vm->exit_io, vm->pidfd, EPOLLIN, on_exit_io, vm);
	return r < 0 ? r : 0;
}

/* --- QMP --- */

static void on_ready(void *ctx)
{
	struct vm *vm = ctx;

	vm->retry_ms = 0;
	vm_identify(vm);
}

static struct end *find_end(struct vm *vm, const char *qdev)
{
	struct pair *p;

	if (!strcmp(vm->uplink.end.qdev, qdev))
		return &vm->uplink.end;
	TAILQ_FOREACH(p, &vm->d->pairs, link)
		for (int i = 0; i < 2; i++)
			if (p->vm[i] == vm && !strcmp(p->e[i].end.qdev, qdev))
				return &p->e[i].end;
	return NULL;
}

static void on_device_deleted(struct vm *vm, json_t *data)
{
	const char *qdev = json_string_value(json_object_get(data, "device"));

	if (!qdev || strncmp(qdev, "shunt-", 6))
		return;
	plug_device_deleted(vm, qdev, find_end(vm, qdev));
	if (vm->uplink.end.state == END_REMOVED && vm->hello)
		vm_guest_left(vm, "uplink-removed");
}

static void on_event(void *ctx, const char *name, json_t *data)
{
	struct vm *vm = ctx;

	if (!strcmp(name, "DEVICE_DELETED")) {
		on_device_deleted(vm, data);
	} else if (!strcmp(name, "RESET") || !strcmp(name, "SHUTDOWN") || !strcmp(name, "GUEST_PANICKED")) {
		uplink_drain(vm);
		vm_guest_left(vm, name);
	} else if (!strcmp(name, "STOP") || !strcmp(name, "RESUME")) {
		vm->running = *name == 'R';
		log_info("vm-run-state", "vm=%s running=%d", vm->name, vm->running);
	} else if (!strcmp(name, "MIGRATION")) {
		const char *status = json_string_value(json_object_get(data, "status"));

		log_info("vm-migration", "vm=%s status=%s", vm->name, status ? status : "?");
	}
}

static void on_closed(void *ctx, int error)
{
	struct vm *vm = ctx;

	qmp_free(vm->qmp);
	vm->qmp = NULL;
	json_decref(vm->devices);
	vm->devices = NULL;
	plug_cancel_all(vm);
	vm->state = VM_CONNECTING;
	vm->reason = SHUNT_ABI_R_TIMEOUT;
	if (error == -EBUSY)
		snprintf(vm->detail, sizeof(vm->detail), "QMP socket busy: give shuntd one of its own "
			 "(-qmp unix:PATH,server=on,wait=off)");
	else
		snprintf(vm->detail, sizeof(vm->detail), "QMP connection lost: %s", strerror(-error));
	log_warn("qmp-lost", "vm=%s path=%s detail=\"%s\"", vm->name, vm->qmp_path, vm->detail);
	vm_retry_later(vm, error == -EBUSY ? 2000 : 200);
}

static const struct qmp_ops vm_qmp_ops = { on_ready, on_event, on_closed };

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct vm *vm = userdata;

	(void)s;
	(void)usec;
	vm->retry = sd_event_source_disable_unref(vm->retry);
	vm_connect(vm);
	return 0;
}

static void vm_retry_later(struct vm *vm, uint64_t min_ms)
{
	vm->retry_ms = vm->retry_ms ? 2 * vm->retry_ms : min_ms;
	if (vm->retry_ms > RETRY_MAX_MS)
		vm->retry_ms = RETRY_MAX_MS;
	sd_event_source_disable_unref(vm->retry);
	vm->retry = NULL;
	sd_event_add_time_relative(vm->d->event, &vm->retry, CLOCK_MONOTONIC, vm->retry_ms * 1000, 0, on_retry,
				   vm);
}

/* The process behind the socket: new, or the one known already. */
static int take_process(struct vm *vm)
{
	pid_t pid;

	qmp_peer(vm->qmp, &pid, &vm->uid);
	if (pid <= 0) {
		snprintf(vm->detail, sizeof(vm->detail),
			 "QEMU is in another pid namespace: run shuntd where it can see it");
		return -ESRCH;
	}
	if (vm_alive(vm) && pid != vm->pid) {
		snprintf(vm->detail, sizeof(vm->detail),
			 "another process (pid %d) listens on the socket of a VM that is alive (pid %d)", pid,
			 vm->pid);
		return -EEXIST;
	}
	if (vm_alive(vm))
		return 0;
	vm->pid = pid;
	return vm_watch_process(vm);
}

static int try_connect(struct vm *vm)
{
	const struct shunt_config *c = vm->d->config;
	struct qmp_timeouts t = { c->qmp_greeting_timeout_ms, c->qmp_timeout_ms };
	int r = qmp_connect(vm->d->event, vm->qmp_path, &t, &vm_qmp_ops, vm, &vm->qmp);

	if (r) {
		snprintf(vm->detail, sizeof(vm->detail), "QMP socket %s: %s%s", vm->qmp_path, strerror(-r),
			 r == -EACCES ? " (run shuntd as root, or give it access)" : "");
		return r;
	}
	r = take_process(vm);
	if (r) {
		qmp_free(vm->qmp);
		vm->qmp = NULL;
		return r;
	}
	vm->state = VM_CONNECTING;
	vm->detail[0] = '\0';
	return 0;
}

/**
 * vm_connect() - Try to reach the VM's monitor; on failure try again later, less and less often.
 *
 * A socket that refuses is stale or not yet listening: nothing worth a message.
 */
void vm_connect(struct vm *vm)
{
	int r;

	if (vm->qmp || vm->group)
		return;
	r = try_connect(vm);
	if (!r)
		return;
	if (r == -ECONNREFUSED || r == -ENOENT)
		log_debug("qmp-not-there", "path=%s error=\"%s\"", vm->qmp_path, strerror(-r));
	else if (!vm->retry_ms)
		log_warn("qmp-unreachable", "path=%s detail=\"%s\"", vm->qmp_path, vm->detail);
	if (vm_alive(vm))
		vm->reason = SHUNT_ABI_R_TIMEOUT;
	vm_retry_later(vm, RETRY_MIN_MS);
}

/* --- records --- */

/** vm_new() - A record for the VM behind a QMP socket; nothing is connected yet. */
struct vm *vm_new(struct shuntd *d, const char *qmp_path)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	vm->d = d;
	vm->qmp_path = strdup(qmp_path);
	vm->pidfd = -1;
	vm->running = true;
	vm->roster_reset = true;
	vm->uplink.end.listen_fd = vm->uplink.end.conn_fd = -1;
	TAILQ_INIT(&vm->plugs);
	TAILQ_INIT(&vm->uplink.out);
	TAILQ_INSERT_TAIL(&d->vms, vm, link);
	return vm;
}

/** vm_free() - Forget a VM that is gone; it has no pairs any more. */
void vm_free(struct vm *vm)
{
	if (*vm->name)
		log_info("vm-forgotten", "vm=%s", vm->name);
	TAILQ_REMOVE(&vm->d->vms, vm, link);
	vm->d->dirty = true;
	qmp_free(vm->qmp);
	vm->qmp = NULL;
	plug_cancel_all(vm);
	if (vm->group)
		member_unlisten(vm);
	uplink_stop(vm);
	sd_event_source_disable_unref(vm->exit_io);
	sd_event_source_disable_unref(vm->retry);
	shunt_close(&vm->pidfd);
	json_decref(vm->devices);
	free(vm->told);
	free(vm->qmp_path);
	free(vm);
}

/** vm_relabel() - Work out the label again: names, MACs or the configuration changed. */
void vm_relabel(struct vm *vm)
{
	const char *label = *vm->wanted_label ? vm->wanted_label :
		shunt_policy_label(vm->d->config, vm->name, vm->nic, vm->nics);

	if (!strcmp(vm->label, label))
		return;
	if (*vm->label)
		log_info("relabelled", "vm=%s from=%s to=%s", vm->name, vm->label, label);
	snprintf(vm->label, sizeof(vm->label), "%s", label);
	vm->d->dirty = true;
	if (vm->hello)
		roster_welcome(vm, false);
}

/**
 * vm_reattach() - An operator wants this VM served again: forget what stood against it.
 */
void vm_reattach(struct vm *vm)
{
	struct end *e = &vm->uplink.end;

	vm->detached = false;
	vm->d->dirty = true;
	pair_clear_errors(vm);
	if (vm->uplink.broken)
		uplink_mend(vm);
	if (!vm->group && (e->state == END_FAILED || e->state == END_REMOVED)) {
		uplink_stop(vm);
		if (vm->state == VM_ATTACHED)
			uplink_create(vm);
	}
	if (!vm->qmp) {
		vm->retry_ms = 0;
		vm_connect(vm);
	}
}

/**
 * vm_attach() - Serve the VM behind a QMP socket.
 * @name, @label: the operator's choice, or NULL.
 * @from_dir: found in vms.d: keep trying; else a first failure is the answer.
 * @ret: the VM, new or known.
 *
 * Return: 0; -ENOSPC (max_vms); the errno of connecting, if !from_dir.
 */
int vm_attach(struct shuntd *d, const char *qmp_path, const char *name, const char *label, bool from_dir,
	      struct vm **ret)
{
	struct vm *vm = vm_find_qmp(d, qmp_path), *other;
	size_t n = 0;
	int r;

	TAILQ_FOREACH(other, &d->vms, link)
		n++;
	if (!vm && n >= d->config->max_vms)
		return -ENOSPC;
	if (!vm) {
		vm = vm_new(d, qmp_path);
		vm->from_dir = from_dir;
	}
	if (name)
		snprintf(vm->wanted_name, sizeof(vm->wanted_name), "%s", name);
	if (label)
		snprintf(vm->wanted_label, sizeof(vm->wanted_label), "%s", label);
	d->dirty = true;
	if (vm->identified)
		vm_relabel(vm);
	*ret = vm;
	if (vm->qmp || vm->group)
		return 0;
	if (from_dir) {
		vm->retry_ms = 0;
		vm_connect(vm);
		return 0;
	}
	r = try_connect(vm);
	if (r && !*vm->name) {
		vm_free(vm);
		*ret = NULL;
	} else if (r) {
		vm_retry_later(vm, RETRY_MIN_MS);
	}
	return r;
}
