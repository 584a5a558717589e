/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_HOSTPOLICY_H
#define SHUNT_DAEMON_HOSTPOLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/tap.h"

struct shuntd;
struct vm;
struct hostpolicy;

/* What is known of a VM's NICs on the host. */
struct vm_host {
	bool judged;		/* the rest is known; until then nothing is opened and nothing closed for it */
	struct taps taps;
	uint64_t taps_hash;	/* of the snapshot they were last read for */
	bool taps_stale;	/* to be read again at the next look */
	int error;		/* why they could not be read */
	char obstacle[224];	/* words, or "": the host only switches its frames */
	size_t n;
	uint64_t network[TAPS_MAX];	/* where its NICs are; ordered, each once */
};

int hostpolicy_start(struct shuntd *d);
void hostpolicy_stop(struct shuntd *d);
void hostpolicy_vm(struct vm *vm);
void hostpolicy_fresh(struct shuntd *d);
void hostpolicy_retry(struct shuntd *d);
void hostpolicy_reload(struct shuntd *d);
const char *hostpolicy_obstacle(const struct vm *a, const struct vm *b);
bool hostpolicy_known(const struct vm *a, const struct vm *b);
bool hostpolicy_obeyed(const struct vm *vm);

#endif
