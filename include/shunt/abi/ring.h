/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * The ring control block: the part of a ring that both ends see.
 *
 * A ring is single-producer, single-consumer. Its control block and its bytes (an extent of the
 * segment's pool) are separate, so that a ring can move to another extent while traffic runs.
 * Indices are free-running byte counts; the position in the extent is index & (size - 1).
 * man/shunt-segment.5 is normative; docs/memory-ordering.md has the ordering edges.
 */
#ifndef SHUNT_ABI_RING_H
#define SHUNT_ABI_RING_H

#include <linux/types.h>

#define SHUNT_ABI_LINE 64u	/* the unit of "one writer per cache line" */

/* Set in @prod by either end, atomically: the index below it is final for ever. */
#define SHUNT_ABI_RING_SEALED (1ull << 63)

/* Extents are powers of two between these sizes, aligned to SHUNT_ABI_EXTENT_MIN. */
#define SHUNT_ABI_EXTENT_MIN 4096u
#define SHUNT_ABI_EXTENT_MAX (1u << 30)

/*
 * Indices change with every batch, events only when an end goes to sleep: they are on lines of their own,
 * so that looking at the other end's event costs a polling pair nothing (the line stays in both caches).
 */
struct shunt_abi_ring {
	/* line 0, writer: producer (either end may add SEALED) */
	__u64 prod;		/* bytes published so far, | SEALED */
	__u64 reserved0[7];
	/* line 1, writer: consumer */
	__u64 cons;		/* bytes consumed so far */
	__u64 reserved1[7];
	/* line 2, writer: producer; changes when the ring moves or the producer waits for space */
	__u64 move_seq;		/* number of moves announced so far */
	__u64 move_pos;		/* first index that lives in the new extent */
	__u64 move_off;		/* the new extent: segment offset */
	__u64 move_size;	/* the new extent: bytes, a power of two */
	__u64 space_event;	/* producer's "wake me when cons moves past this" */
	__u64 reserved2[3];
	/* line 3, writer: consumer; changes when the consumer waits for data */
	__u64 data_event;	/* consumer's "wake me when prod moves past this" */
	__u64 reserved3[7];
};

/*
 * A record in a record ring. It starts at a multiple of SHUNT_ABI_REC_ALIGN and is contiguous;
 * where it would not fit before the end of the extent a SKIP record fills the rest.
 */
#define SHUNT_ABI_REC_ALIGN 16u

enum shunt_abi_rec_type {
	SHUNT_ABI_REC_DATA = 1,	/* len bytes of payload follow the header */
	SHUNT_ABI_REC_SKIP = 2,	/* the rest of the extent is unused; len is what follows the header */
};

struct shunt_abi_rec {
	__u32 len;		/* bytes that follow this header, without padding */
	__u16 type;		/* enum shunt_abi_rec_type */
	__u16 flags;		/* must be zero */
	__u64 reserved;		/* must be zero */
};

#define SHUNT_ABI_ASSERT(cond, name) _Static_assert(cond, name)

SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_ring) == 256, "ring control block is 4 lines");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_ring, cons) == 64, "consumer's line");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_ring, move_seq) == 128, "move line");
SHUNT_ABI_ASSERT(__builtin_offsetof(struct shunt_abi_ring, data_event) == 192, "consumer's event line");
SHUNT_ABI_ASSERT(sizeof(struct shunt_abi_rec) == SHUNT_ABI_REC_ALIGN, "record header");

#endif
