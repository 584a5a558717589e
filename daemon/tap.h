/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_TAP_H
#define SHUNT_DAEMON_TAP_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define TAPS_MAX 8u	/* as many as a VM can have NICs served (SHUNT_ABI_NICS_MAX) */

/* The host's ends of a VM's NICs, as its QEMU holds them. */
struct taps {
	size_t n;
	bool more;		/* than TAPS_MAX */
	bool elsewhere;		/* one is in a network namespace that is not ours */
	struct tap {
		char name[IFNAMSIZ];	/* "" if only the index is known */
		int index;		/* of a macvtap, else 0 */
	} tap[TAPS_MAX];
};

int taps_read(pid_t pid, int pidfd, struct taps *ret);

#endif
