/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A daemon in this process, with pretended VMs: their QEMU is this process, their guests are functions here.
 * No plug takes place; an end that waits for one is plugged. Time stands still unless world_pass() moves it.
 */
#ifndef TESTS_FUZZ_WORLD_H
#define TESTS_FUZZ_WORLD_H

#include "daemon/shuntd.h"

#define WORLD_GUESTS 3		/* 0 is the hostile one */

struct guest {
	struct vm *vm;
	struct shunt_producer up;
	struct shunt_consumer down;
	uint32_t seq;
	unsigned int received;	/* messages, since the last tick */
	struct shunt_abi_msg_link_open open[WORLD_GUESTS];	/* the last of each peer, by its place */
};

struct world {
	struct shuntd d;
	struct guest guest[WORLD_GUESTS];
	uint64_t now;
};

extern struct world world;
extern void (*world_on_message)(const void *raw);	/* a guest's, about to be looked at */

const char *world_dir(void);
void world_daemon(void);
void world_start(void);
void world_stop(void);
void world_round(void);
void world_tick(void);
struct guest *world_peer(uint32_t vm_id);
bool guest_send(struct guest *g, void *msg, size_t len, uint16_t type);
void guest_hello(struct guest *g, uint64_t generation);
void guest_read(struct guest *g);

#endif
