/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Rings: the one implementation used by the module, the daemon, the library and the tests.
 *
 * DOC: Theory of operation
 *
 * A ring is a control block (struct shunt_abi_ring) and an extent, both in shared memory, and one
 * private, trusted half at each end: struct shunt_producer and struct shunt_consumer. Each half
 * keeps its own index; what the other end publishes is loaded once, validated against the private
 * state, and kept as a private copy. An impossible value makes the half *broken* (sticky): every
 * later call fails with -EPROTO and touches nothing.
 *
 * The same ring carries records (packets, messages: shunt_rec_*) or bytes (streams:
 * shunt_bytes_*); never both.
 *
 * Staging. A producer stages any number of records or bytes privately, then makes all of them
 * visible with one shunt_producer_publish(). A consumer likewise takes any number, then gives the
 * space back with one shunt_consumer_release(). Both answer whether the other end asked to be woken:
 * the caller rings the doorbell, the ring does not know how.
 *
 * Wake-ups. An end that wants to sleep *arms*: it publishes the index past which it wants to be woken,
 * full barrier, looks again; only if there is still nothing may it sleep. The other end publishes its
 * index, full barrier, looks at the event. An event that lies before the published range means "do
 * not wake me", so a polling consumer simply does not arm. A zeroed control block is a valid empty
 * ring with both ends armed.
 *
 * Sealing (RULES 5). Either end may set SHUNT_ABI_RING_SEALED in @prod; the index below it is then
 * final. The producer publishes by compare-exchange and learns of a seal as -ESHUTDOWN; what it had
 * staged was not published. The consumer reads to the final index and then gets -ESHUTDOWN.
 *
 * Moving. shunt_producer_move() announces that indices from now on live in another extent. The
 * consumer follows when it reaches that index, after its owner confirmed through @resolve that the
 * extent was granted. The old extent is free once shunt_producer_move_done(). A further move is
 * possible once the consumer took something out of the new extent (only then has it surely read
 * the announcement), or while nothing was published into it: an idle ring can be moved at will.
 *
 * Context: none of these functions sleeps or allocates; each half must be used by one thread
 * at a time (the owner locks). Errors are negative errno values.
 */
#ifndef SHUNT_CORE_RING_H
#define SHUNT_CORE_RING_H

#include <linux/errno.h>
#include <shunt/abi/ring.h>

struct shunt_producer {
	struct shunt_abi_ring *ctl;
	__u8 *base;		/* current extent */
	__u64 size;
	__u64 floor;		/* first index that lives in the current extent */
	__u64 prod;		/* published index */
	__u64 head;		/* staged up to here; head >= prod */
	__u64 cons;		/* last validated consumer index */
	__u64 checked;		/* data_event was checked for everything below this index */
	__u64 moves;
	__u64 reserved;		/* bytes the caller may commit: what reserve() gave */
	_Bool broken;
	_Bool sealed;
};

struct shunt_consumer {
	struct shunt_abi_ring *ctl;
	const __u8 *base;	/* current extent */
	__u64 size;
	__u64 floor;		/* first index that lives in the current extent */
	__u64 cons;		/* taken up to here, privately */
	__u64 released;		/* published cons; released <= cons */
	__u64 prod;		/* last validated producer index, without SEALED */
	__u64 moves;
	__u64 move_pos;		/* pending move, if move_size != 0 */
	const __u8 *move_base;
	__u64 move_size;
	__u64 peeked;		/* bytes consume() may take: what peek() showed, padding included */
	/* says where a granted extent is mapped; negative errno: not granted -> broken */
	int (*resolve)(void *ctx, __u64 off, __u64 size, const __u8 **ret_base);
	void *resolve_ctx;
	_Bool broken;
	_Bool bad_record;	/* broken by a record; otherwise by an index or a move */
	_Bool sealed;
};

/* @base/@size: the granted first extent. Both halves start at index 0 of a zeroed control block. */
void shunt_producer_init(struct shunt_producer *p, struct shunt_abi_ring *ctl, void *base, __u64 size);
void shunt_consumer_init(struct shunt_consumer *c, struct shunt_abi_ring *ctl, const void *base, __u64 size);
/*
 * As init, but take over a ring in use at the indices found there (a restarted shuntd). @base/@size:
 * the extent that holds the next byte this end touches. Validates; -EPROTO. -EBUSY (producer only): a
 * move is under way, try again when the consumer has caught up. The predecessor may have died between
 * publishing and ringing: ring the peer's doorbell once after adopting.
 */
int shunt_producer_adopt(struct shunt_producer *p, struct shunt_abi_ring *ctl, void *base, __u64 size);
int shunt_consumer_adopt(struct shunt_consumer *c, struct shunt_abi_ring *ctl, const void *base, __u64 size);

/* Largest record payload a ring of @size bytes takes: half of it less two headers. */
__u64 shunt_rec_max(__u64 size);

/*
 * Stage a record: reserve() gives @len contiguous bytes at *ret, commit() fixes the length
 * (<= the reserved one). 0, -ENOSPC (ring full), -EMSGSIZE, -ESHUTDOWN (sealed), -EPROTO (broken).
 */
int shunt_rec_reserve(struct shunt_producer *p, __u32 len, void **ret);
void shunt_rec_commit(struct shunt_producer *p, __u32 len);

/* Stage bytes: up to *len contiguous bytes to write at *ret (*len is set, > 0); then commit(n). Errors as above. */
int shunt_bytes_reserve(struct shunt_producer *p, __u64 *len, void **ret);
void shunt_bytes_commit(struct shunt_producer *p, __u64 len);

/*
 * Publish all that is staged. 1: the consumer asked to be woken, ring its doorbell; 0: not needed;
 * -ESHUTDOWN: sealed meanwhile, nothing staged was published (staging is dropped); -EPROTO.
 */
int shunt_producer_publish(struct shunt_producer *p);

/* Free bytes for staging, after looking at the consumer's index. Negative errno when broken. */
__s64 shunt_producer_space(struct shunt_producer *p);
/* Bytes published and not yet consumed, after looking. Negative errno when broken. */
__s64 shunt_producer_unread(struct shunt_producer *p);

/*
 * Ask to be woken at the next release; publish first. 1: armed and nothing was consumed since the last
 * look: may sleep; 0: look again (also when sealed); -EPROTO.
 */
int shunt_producer_arm(struct shunt_producer *p);
/* As arm, but to be woken only once @bytes more were consumed: one doorbell for a stretch of space. */
int shunt_producer_arm_after(struct shunt_producer *p, __u64 bytes);

/*
 * Continue in another extent at segment offset @off, mapped at @base. 0, -EINVAL (something is staged,
 * or no legal extent), -EBUSY (the consumer may not have seen the last move yet), -ESHUTDOWN, -EPROTO.
 */
int shunt_producer_move(struct shunt_producer *p, __u64 off, void *base, __u64 size);
/* The consumer is past the end of the old extent: nobody reads it any more. */
_Bool shunt_producer_move_done(struct shunt_producer *p);

/*
 * Next record: 0, -EAGAIN (empty), -ESHUTDOWN (sealed and empty), -EPROTO. Valid until release. The
 * bytes shown stay shared: copy, then validate the copy.
 */
int shunt_rec_peek(struct shunt_consumer *c, const void **ret, __u32 *ret_len);
void shunt_rec_consume(struct shunt_consumer *c);	/* take the record just peeked */

/* Contiguous readable bytes at *ret, *ret_len > 0. Errors as peek. */
int shunt_bytes_peek(struct shunt_consumer *c, const void **ret, __u64 *ret_len);
void shunt_bytes_consume(struct shunt_consumer *c, __u64 len);

/* Publish the space taken so far. 1: the producer asked to be woken; 0: not needed; -EPROTO. */
int shunt_consumer_release(struct shunt_consumer *c);

/* Something to take? One load of a shared line, for polling loops; true also when broken or sealed-and-changed. */
_Bool shunt_consumer_pending(const struct shunt_consumer *c);

/*
 * Ask to be woken at the next publish; release first. 1: armed and empty: may sleep; 0: there is
 * something (also when sealed); -EPROTO.
 */
int shunt_consumer_arm(struct shunt_consumer *c);
/*
 * As arm, but to be woken only once @bytes more were published (anticipatory window; at most half the
 * extent). The sleeper needs a time limit of its own: a producer whose next record does not fit beside
 * fewer than @bytes waits for space meanwhile.
 */
int shunt_consumer_arm_after(struct shunt_consumer *c, __u64 bytes);

/* Take back a wish to be woken: for a consumer that starts to poll. The next release/arm decides anew. */
void shunt_consumer_disarm(struct shunt_consumer *c);

/*
 * Seal from either end; returns the final index (without the bit) as found in shared memory. The ring
 * rings nobody: the caller rings the other end's doorbell unconditionally.
 */
__u64 shunt_ring_seal(struct shunt_abi_ring *ctl);

#endif
