// SPDX-License-Identifier: GPL-2.0-only
/*
 * state.json as a killed daemon left it, with some values changed, and what a restarted one makes of it.
 *
 * The file is that of a world of linked guests, whose "QEMU" is this process: descriptors can be taken back.
 * Asserted besides memory safety: whatever is adopted is within what the daemon's own arrays hold, the daemon settles,
 * and what it then writes it can read again.
 */
#include "world.h"

#include "daemon/cleanup.h"
#include "text.h"

int __real_state_save(struct shuntd *d);

static json_t *saved(void)
{
	char path[128];
	json_t *o;

	DEMAND(!__real_state_save(&world.d));
	snprintf(path, sizeof(path), "%s/state.json", world_dir());
	o = json_load_file(path, 0, NULL);
	DEMAND(o);
	return o;
}

static void load(json_t *o)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/state.json", world_dir());
	DEMAND(!json_dump_file(o, path, 0));
	world_daemon();
	state_load(&world.d);
}

static void check(void)
{
	const struct pair *p;
	const struct vm *vm;

	TAILQ_FOREACH(vm, &world.d.vms, link) {
		DEMAND(vm->nics <= SHUNT_ABI_NICS_MAX && strnlen(vm->name, sizeof(vm->name)) < sizeof(vm->name));
		DEMAND(!vm->uplink.seg || vm->uplink.seg->map);
	}
	TAILQ_FOREACH(p, &world.d.pairs, link) {
		DEMAND(p->vm[0] && p->vm[1] && p->vm[0] != p->vm[1] && p->state <= PAIR_CLOSING);
		DEMAND(!p->seg || (p->seg->map && p->seg->spec.members <= SEGMENT_MEMBERS));
		DEMAND(p->seg || p->state <= PAIR_PLUGGING);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };
	struct world first;
	json_t *o;

	world_start();
	o = saved();
	first = world;		/* stays as QEMU has it: memory and descriptors */
	for (int i = 0; i < 8 && input_left(&in); i++) {
		unsigned int n = (unsigned int)input_word(&in, 2) % 256;

		text_change(o, &n, &in);
	}
	load(o);
	json_decref(o);
	world_round();
	check();
	for (int i = 0; i < 3; i++)
		world_tick();
	check();
	o = saved();
	json_decref(o);
	world_stop();
	world = first;
	world_stop();
	return 0;
}
