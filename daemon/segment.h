/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_SEGMENT_H
#define SHUNT_DAEMON_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <shunt/abi/msg.h>

#include "core/layout.h"

#define SEGMENT_MEMBERS SHUNT_ABI_MEMBERS_MAX
#define SEGMENT_PLUGGED_MEMBERS 3u	/* of segments that are plugged: shuntd and at most two VMs */
#define SEGMENT_VECTORS 4u
#define SEGMENT_UPLINK_SIZE (1u << 20)

/* What can be written down and found again by a restarted daemon. */
struct segment_spec {
	uint64_t id;
	uint32_t kind;
	uint64_t size;
	uint32_t epoch;
	uint32_t members, vectors;
	uint64_t ring_size;	/* bytes per direction of a packet channel */
	uint64_t ino;
	uint64_t efd_id[SEGMENT_MEMBERS][SEGMENT_VECTORS];
};

struct segment {
	struct segment_spec spec;
	int memfd;
	int efd[SEGMENT_MEMBERS][SEGMENT_VECTORS];
	uint8_t *map;
	struct shunt_layout layout;
	struct shunt_abi_channel *channel;	/* what was granted, not what the directory says now */
	unsigned int channels;
};

int segment_create(struct segment_spec spec, struct segment **ret);
int segment_adopt(const struct segment_spec *spec, const pid_t *pids, const int *pidfds, size_t n,
		  struct segment **ret);
void segment_free(struct segment *s);
int segment_wipe(struct segment *s);
int segment_scrub(struct segment *s);
int segment_scrub_channel(struct segment *s, unsigned int n);
void segment_reset_member(struct segment *s, unsigned int member);
void segment_ring(const struct segment *s, unsigned int member, unsigned int vector);
struct shunt_abi_mailbox *segment_mailbox(const struct segment *s, unsigned int member);
struct shunt_abi_member *segment_member(const struct segment *s, unsigned int member);

#endif
