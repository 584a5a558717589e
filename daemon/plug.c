// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plugging a segment end into a running QEMU.
 *
 * DOC: Theory of operation
 *
 * One plug at a time per VM, because the choice of a slot must see the previous device:
 *
 *   fill descriptor holes (getfd) if a device was unplugged from this process before
 *   query-pci: on q35, find an empty pcie-root-port with room
 *   listen; chardev-add: QEMU connects, is checked and greeted (ivshmem.c)
 *   device_add, once the greeting lies in the socket whole
 *   query-pci: where the device landed
 *
 * Descriptor holes (RULES 21): QEMU without irqfd never unregisters the handlers of the eventfds of
 * an unplugged ivshmem device. A later descriptor with a recycled number fires the stale handler and
 * QEMU dies. So holes are filled with inert eventfds as soon as QEMU has let go of the device, and what
 * could not be filled then before the next plug; this costs QEMU descriptors: counted, capped.
 */
#include <string.h>
#include <sys/eventfd.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

#define DELETE_TIMEOUT_USEC (5 * 1000000ull)
#define HOLES_BESIDES 10u	/* memfd, socket and what else QEMU closes with a device */

static void finish(struct end *e, enum end_state state, uint32_t reason, const char *detail)
{
	struct vm *vm = e->vm;

	TAILQ_REMOVE(&vm->plugs, e, queue);
	ivshmem_unlisten(e);
	e->state = state;
	e->reason = reason;
	if (detail != e->detail)
		snprintf(e->detail, sizeof(e->detail), "%s", detail);
	vm->d->dirty = true;
	if (state == END_FAILED)
		log_warn("plug-failed", "vm=%s device=%s reason=%s detail=\"%s\"", vm->name, e->qdev,
			 shunt_reason_name(reason), detail);
	else
		log_info("plugged", "vm=%s device=%s pci=%02x:%02x.%x", vm->name, e->qdev,
			 e->bdf >> 8 & 0xff, e->bdf >> 3 & 0x1f, e->bdf & 7);
	plug_next(vm);
}

static void remove_chardev(struct vm *vm, const char *id)
{
	if (qmp_is_ready(vm->qmp))
		qmp_call(vm->qmp, "chardev-remove", json_pack("{s:s}", "id", id), NULL, NULL);
}

/*
 * Without an answer the outcome is not known: the connection is about to be closed, which queues the
 * plug again (plug_cancel_all), and what this one left behind is purged.
 */
static bool no_answer(const char *error)
{
	return error && !strcmp(error, "timeout");
}

static void on_failed_removed(void *ctx, json_t *ret, const char *error)
{
	struct end *e = ctx;

	(void)ret;
	if (!no_answer(error))
		finish(e, END_FAILED, e->reason, e->detail);
}

/* Failed only once nothing is left behind in QEMU. */
static void fail(struct end *e, uint32_t reason, const char *detail)
{
	if (!e->chardev) {
		finish(e, END_FAILED, reason, detail);
		return;
	}
	e->chardev = false;
	e->reason = reason;
	snprintf(e->detail, sizeof(e->detail), "%s", detail);
	qmp_call(e->vm->qmp, "chardev-remove", json_pack("{s:s}", "id", e->qdev), on_failed_removed, e);
}

/* --- where the device landed --- */

static json_t *find_device(json_t *devices, const char *qdev)
{
	json_t *dev, *found;
	size_t i;

	json_array_foreach(devices, i, dev) {
		const char *id = json_string_value(json_object_get(dev, "qdev_id"));

		if (id && !strcmp(id, qdev))
			return dev;
		found = find_device(json_object_get(json_object_get(dev, "pci_bridge"), "devices"), qdev);
		if (found)
			return found;
	}
	return NULL;
}

static uint32_t find_bdf(json_t *buses, const char *qdev)
{
	json_t *bus, *dev;
	size_t i;

	json_array_foreach(buses, i, bus) {
		dev = find_device(json_object_get(bus, "devices"), qdev);
		if (dev)
			return (uint32_t)(json_integer_value(json_object_get(dev, "bus")) << 8 |
					  json_integer_value(json_object_get(dev, "slot")) << 3 |
					  json_integer_value(json_object_get(dev, "function")));
	}
	return SHUNT_ABI_BDF_UNKNOWN;
}

static void on_located(void *ctx, json_t *ret, const char *error)
{
	struct end *e = ctx;

	if (no_answer(error))
		return;
	e->bdf = find_bdf(ret, e->qdev);
	/*
	 * Behind a root port the bus number is the guest firmware's or kernel's choice and may
	 * change: QEMU reports what is in the bridge's register now, 0 before it is set.
	 */
	if (*e->bus && !(e->bdf >> 8))
		e->bdf = SHUNT_ABI_BDF_UNKNOWN;
	finish(e, END_PLUGGED, 0, "");
}

/* --- device_add --- */

static uint32_t classify(const char *error)
{
	if (strstr(error, "not a valid device model"))
		return SHUNT_ABI_R_NO_DEVICE;
	return SHUNT_ABI_R_NO_SLOT;	/* no slot, no bus, bus not hot-pluggable */
}

static void on_device_add(void *ctx, json_t *ret, const char *error)
{
	struct end *e = ctx;

	if (no_answer(error))
		return;
	if (!ret) {
		fail(e, classify(error), error);
		return;
	}
	qmp_call(e->vm->qmp, "query-pci", NULL, on_located, e);
}

static void device_add(struct end *e)
{
	json_t *args = json_pack("{s:s, s:s, s:s, s:i}", "driver", "ivshmem-doorbell", "id", e->qdev,
				 "chardev", e->qdev, "vectors", (int)e->seg->spec.vectors);

	if (*e->bus)
		json_object_set_new(args, "bus", json_string(e->bus));
	qmp_call(e->vm->qmp, "device_add", args, on_device_add, e);
}

static void on_chardev_add(void *ctx, json_t *ret, const char *error)
{
	struct end *e = ctx;

	if (no_answer(error))
		return;
	if (!ret) {
		char detail[200];

		snprintf(detail, sizeof(detail), "chardev-add: %.150s", error);
		fail(e, SHUNT_ABI_R_TIMEOUT, detail);
		return;
	}
	e->chardev = true;
	if (e->announced)
		device_add(e);
}

/**
 * plug_announced() - The greeting of an end lies in QEMU's socket (or could not be sent).
 * @error: 0 or a negative errno.
 */
void plug_announced(struct end *e, int error)
{
	if (e->state != END_PLUGGING)
		return;
	if (error) {
		/* A chardev with half a greeting must never meet a device_add. */
		fail(e, SHUNT_ABI_R_TIMEOUT, strerror(-error));
		return;
	}
	e->announced = true;
	if (e->chardev)
		device_add(e);
}

static void chardev_add(struct end *e)
{
	char path[128], detail[200];
	int r = ivshmem_listen(e);

	if (r) {
		ivshmem_path(e, path, sizeof(path));
		snprintf(detail, sizeof(detail), "listen on %s: %s", path, strerror(-r));
		fail(e, SHUNT_ABI_R_DAEMON, detail);
		return;
	}
	ivshmem_path(e, path, sizeof(path));
	qmp_call(e->vm->qmp, "chardev-add",
		 json_pack("{s:s, s:{s:s, s:{s:{s:s, s:{s:s}}, s:b}}}", "id", e->qdev, "backend", "type",
			   "socket", "data", "addr", "type", "unix", "data", "path", path, "server", 0),
		 on_chardev_add, e);
}

/* --- where to plug it: q35 --- */

struct port_search {
	uint64_t need;
	const char *best;	/* empty port with room */
	const char *unset;	/* empty port whose windows the firmware has not set yet */
	unsigned int ports, full;
};

static void look_at_port(struct port_search *s, json_t *dev)
{
	json_t *bridge = json_object_get(dev, "pci_bridge");
	json_t *range = json_object_get(json_object_get(bridge, "bus"), "prefetchable_range");
	const char *id = json_string_value(json_object_get(dev, "qdev_id"));
	uint64_t base = (uint64_t)json_integer_value(json_object_get(range, "base"));
	uint64_t limit = (uint64_t)json_integer_value(json_object_get(range, "limit"));

	if (!bridge || !id || !*id)
		return;
	s->ports++;
	if (json_array_size(json_object_get(bridge, "devices"))) {
		s->full++;
		return;
	}
	if (!base || limit <= base)
		s->unset = s->unset ? s->unset : id;
	else if (limit - base + 1 >= s->need && !s->best)
		s->best = id;
}

static void search_ports(struct port_search *s, json_t *buses)
{
	json_t *bus, *dev;
	size_t i, j;

	json_array_foreach(buses, i, bus) {
		json_array_foreach(json_object_get(bus, "devices"), j, dev)
			look_at_port(s, dev);
	}
}

static void on_ports(void *ctx, json_t *ret, const char *error)
{
	struct end *e = ctx;
	struct port_search s = { .need = e->seg->spec.size };
	const char *port;
	char detail[200];

	if (no_answer(error))
		return;
	if (!ret) {
		fail(e, SHUNT_ABI_R_NO_SLOT, error);
		return;
	}
	search_ports(&s, ret);
	port = s.best ? s.best : s.unset;
	if (!port) {
		snprintf(detail, sizeof(detail),
			 "q35: no free pcie-root-port with room for %llu MiB (%u ports with an id, %u in use)",
			 (unsigned long long)(s.need >> 20), s.ports, s.full);
		fail(e, SHUNT_ABI_R_NO_SLOT, detail);
		return;
	}
	snprintf(e->bus, sizeof(e->bus), "%s", port);
	chardev_add(e);
}

/* --- descriptor holes --- */

/* A hole counts as filled when QEMU says so: a daemon killed before that must leave it due to the next. */
static void on_hole_filled(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)error;
	if (vm->inert_asked)
		vm->inert_asked--;
	if (!ret || !vm->inert_due)
		return;
	vm->inert_due--;
	vm->d->dirty = true;
}

/* False: the cap is reached. */
static bool fill_holes(struct vm *vm)
{
	char name[64];

	if (vm->inert_due <= vm->inert_asked)
		return true;
	if (vm->inert_sent + vm->inert_due - vm->inert_asked > VM_INERT_MAX)
		return false;
	while (vm->inert_asked < vm->inert_due) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0)
			break;
		/* A name used again would close the descriptor it had: those of a killed daemon stay. */
		snprintf(name, sizeof(name), "shunt-inert-%016llx-%u", (unsigned long long)vm->d->generation,
			 vm->inert_sent++);
		vm->inert_asked++;
		qmp_call_fd(vm->qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, on_hole_filled, vm);
	}
	log_info("fill-holes", "vm=%s total=%u", vm->name, vm->inert_sent);
	vm->d->dirty = true;
	return true;
}

static bool is_q35(const struct vm *vm)
{
	return strstr(vm->machine, "q35") != NULL;
}

/**
 * plug_next() - Start the next queued plug of a VM, if nothing is in its way.
 *
 * In the way are a plug or unplug under way and a missing QMP connection; each calls here again
 * when it is over.
 */
void plug_next(struct vm *vm)
{
	struct end *e = TAILQ_FIRST(&vm->plugs);

	if (!e || e->state != END_QUEUED || vm->deleting || !qmp_is_ready(vm->qmp) ||
	    vm->state != VM_ATTACHED)
		return;
	e->state = END_PLUGGING;
	e->announced = e->chardev = false;
	*e->bus = '\0';
	vm->d->dirty = true;
	if (vm->no_ivshmem) {
		fail(e, SHUNT_ABI_R_NO_DEVICE, "QEMU does not know ivshmem-doorbell");
		return;
	}
	if (!fill_holes(vm)) {
		fail(e, SHUNT_ABI_R_NO_SLOT,
		     "too many unplugs in this QEMU process: restart the VM to plug again");
		return;
	}
	if (is_q35(vm))
		qmp_call(vm->qmp, "query-pci", NULL, on_ports, e);
	else
		chardev_add(e);
}

/**
 * plug_end() - Plug a segment into a VM; the outcome shows in e->state.
 * @member: the VM's id on the segment.
 */
void plug_end(struct end *e, struct vm *vm, struct segment *seg, unsigned int member)
{
	static unsigned int counter;

	if (!counter)
		counter = (unsigned int)getpid();

	*e = (struct end){
		.vm = vm,
		.seg = seg,
		.member = member,
		.state = END_QUEUED,
		.bdf = SHUNT_ABI_BDF_UNKNOWN,
		.listen_fd = -1,
		.conn_fd = -1,
	};
	/* The counter keeps ids unique in one QEMU while an old device is still being unplugged. */
	snprintf(e->qdev, sizeof(e->qdev), "shunt-%s-%08x%04x",
		 seg->spec.kind == SHUNT_ABI_UPLINK ? "up" : "pair", (unsigned int)seg->spec.id,
		 counter++ & 0xffff);
	TAILQ_INSERT_TAIL(&vm->plugs, e, queue);
	vm->d->dirty = true;
	plug_next(vm);
}

/**
 * plug_forget() - Drop everything an end holds; the device, if any, stays in QEMU.
 */
void plug_forget(struct end *e)
{
	if (e->state == END_QUEUED || e->state == END_PLUGGING)
		TAILQ_REMOVE(&e->vm->plugs, e, queue);
	if (e->vm)
		ivshmem_unlisten(e);
	e->conn_io = sd_event_source_disable_unref(e->conn_io);
	if (e->vm)
		shunt_close(&e->conn_fd);
	e->state = END_NONE;
	*e->qdev = '\0';
}

/**
 * plug_cancel_all() - The QMP connection is gone: plugs under way have no known outcome.
 *
 * They are queued again under a new id when the connection is back; identify.c purges what they
 * left behind.
 */
void plug_cancel_all(struct vm *vm)
{
	struct end *e = TAILQ_FIRST(&vm->plugs);

	if (e && e->state == END_PLUGGING) {
		struct segment *seg = e->seg;
		unsigned int member = e->member;

		plug_forget(e);
		plug_end(e, vm, seg, member);
	}
	vm->deleting = 0;
	vm->inert_asked = 0;
	vm->delete_timer = sd_event_source_disable_unref(vm->delete_timer);
}

/* --- unplugging --- */

static void deletion_over(struct vm *vm)
{
	if (vm->deleting && --vm->deleting == 0)
		vm->delete_timer = sd_event_source_disable_unref(vm->delete_timer);
	plug_next(vm);
}

static int on_delete_timeout(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct vm *vm = userdata;

	(void)s;
	(void)usec;
	log_warn("unplug-timeout", "vm=%s devices=%u detail=\"the guest does not let go of them\"", vm->name,
		 vm->deleting);
	vm->deleting = 0;
	vm->delete_timer = sd_event_source_disable_unref(vm->delete_timer);
	plug_next(vm);
	return 0;
}

static void on_chardev_removed(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	(void)ret;
	(void)error;
	/*
	 * At once, not only before the next plug: any descriptor QEMU opens meanwhile (a client of one of
	 * its sockets will do) would be the one a stale handler waits for.
	 */
	if (qmp_is_ready(vm->qmp))
		fill_holes(vm);
	deletion_over(vm);
}

/**
 * plug_device_deleted() - QEMU says a device of ours is gone.
 * @e: the end it was, or NULL: one that could not be adopted.
 */
void plug_device_deleted(struct vm *vm, const char *qdev, struct end *e)
{
	unsigned int eventfds = e && e->seg ? e->seg->spec.members * e->seg->spec.vectors :
		SEGMENT_PLUGGED_MEMBERS * SEGMENT_VECTORS;

	vm->inert_due += eventfds + HOLES_BESIDES;
	log_info("device-deleted", "vm=%s device=%s", vm->name, qdev);
	if (!vm->deleting)
		vm->deleting = 1;	/* by an operator: nothing is plugged before chardev-remove is done */
	if (qmp_is_ready(vm->qmp))
		qmp_call(vm->qmp, "chardev-remove", json_pack("{s:s}", "id", qdev), on_chardev_removed, vm);
	if (e) {
		plug_forget(e);
		e->state = END_REMOVED;
		e->reason = SHUNT_ABI_R_DEVICE_GONE;
		snprintf(e->detail, sizeof(e->detail), "removed with device_del");
	}
	vm->d->dirty = true;
}

static void on_device_del(void *ctx, json_t *ret, const char *error)
{
	struct vm *vm = ctx;

	if (!ret) {
		log_warn("unplug-failed", "vm=%s error=\"%s\"", vm->name, error);
		deletion_over(vm);
	}
}

/**
 * plug_purge() - Unplug what nobody here knows (left by a daemon that was killed).
 * @device: a device exists; else only its chardev does.
 */
void plug_purge(struct vm *vm, const char *qdev, bool device)
{
	log_info("purge", "vm=%s device=%s", vm->name, qdev);
	if (!device) {
		remove_chardev(vm, qdev);
		return;
	}
	vm->deleting++;
	qmp_call(vm->qmp, "device_del", json_pack("{s:s}", "id", qdev), on_device_del, vm);
	if (!vm->delete_timer)
		sd_event_add_time_relative(vm->d->event, &vm->delete_timer, CLOCK_MONOTONIC,
					   DELETE_TIMEOUT_USEC, 0, on_delete_timeout, vm);
}

/**
 * plug_remove() - Unplug a device of ours from a guest that misuses it.
 *
 * The guest has to let go of it; one that does not keeps it, which is logged. What remains then is to end the VM.
 */
void plug_remove(struct end *e)
{
	if (e->state != END_PLUGGED || e->removing || !qmp_is_ready(e->vm->qmp))
		return;
	e->removing = true;
	plug_purge(e->vm, e->qdev, true);
}
