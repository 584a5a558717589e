// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The producer's half of a ring: stage, publish, wait for space, move.
 *
 * The private half is trusted; of what the consumer writes only @cons and @data_event are read, each
 * once per look. @cons must lie between its last validated value and what was published; @data_event may
 * hold anything, at worst the consumer is woken too often or sleeps too long by its own fault.
 */
#include "access.h"

/**
 * shunt_producer_init - producer's half of a new ring
 * @p: the half
 * @ctl: control block, zeroed
 * @base: first extent, aligned to at least SHUNT_ABI_REC_ALIGN
 * @size: its bytes, a power of two
 */
void shunt_producer_init(struct shunt_producer *p, struct shunt_abi_ring *ctl, void *base, __u64 size)
{
	__builtin_memset(p, 0, sizeof(*p));
	p->ctl = ctl;
	p->base = base;
	p->size = size;
}

static __u64 producer_free(const struct shunt_producer *p)
{
	__u64 from = p->cons > p->floor ? p->cons : p->floor;
	__u64 used = p->head - from;

	return used < p->size ? p->size - used : 0;
}

/* Look at the consumer's index. */
static int producer_look(struct shunt_producer *p)
{
	/* E2 acquire: the consumer is done with the bytes below cons before we overwrite them */
	/* MODEL: look-cons E2 E8 */
	__u64 raw_cons = shunt_load_acquire(&p->ctl->cons);

	if (SHUNT_UNLIKELY(raw_cons < p->cons || raw_cons > p->prod)) {
		p->broken = 1;
		return -EPROTO;
	}
	p->cons = raw_cons;
	return 0;
}

static int producer_dead(const struct shunt_producer *p)
{
	if (SHUNT_UNLIKELY(p->broken))
		return -EPROTO;
	if (SHUNT_UNLIKELY(p->sealed))
		return -ESHUTDOWN;
	return 0;
}

/* Staging is gone: what was not published before the seal never will be. */
static int producer_sealed(struct shunt_producer *p)
{
	p->sealed = 1;
	p->head = p->prod;
	p->reserved = 0;
	return -ESHUTDOWN;
}

/* No room: say so, unless the ring ended meanwhile (who waits for space in a sealed ring waits for ever). */
static int producer_full(struct shunt_producer *p)
{
	__u64 raw_prod = shunt_load_once(&p->ctl->prod);

	if (SHUNT_LIKELY(raw_prod == p->prod))
		return -ENOSPC;
	if (raw_prod == (p->prod | SHUNT_ABI_RING_SEALED))
		return producer_sealed(p);
	p->broken = 1;
	return -EPROTO;
}

/* At least @need free bytes, looking at the consumer only if the last look does not suffice. */
static int producer_need(struct shunt_producer *p, __u64 need)
{
	int err;

	if (SHUNT_LIKELY(producer_free(p) >= need))
		return 0;
	err = producer_look(p);
	if (err)
		return err;
	return producer_free(p) >= need ? 0 : producer_full(p);
}

/**
 * shunt_producer_adopt - take over the producer's half of a ring in use
 * @p: the half
 * @ctl: control block as the predecessor left it
 * @base: the extent the next byte goes to
 * @size: its bytes
 *
 * The predecessor may have died while it announced a move, so that move_pos cannot be trusted to be
 * the start of the current extent: unless the consumer is beyond it, or has consumed everything, wait.
 *
 * Return: 0, -EBUSY (see above), -EPROTO.
 */
int shunt_producer_adopt(struct shunt_producer *p, struct shunt_abi_ring *ctl, void *base, __u64 size)
{
	__u64 raw_prod = shunt_load_acquire(&ctl->prod);
	__u64 raw_cons = shunt_load_acquire(&ctl->cons);	/* E2, E8 */
	__u64 raw_seq = shunt_load_once(&ctl->move_seq);
	__u64 raw_pos = shunt_load_once(&ctl->move_pos);
	__u64 prod = raw_prod & ~SHUNT_ABI_RING_SEALED;

	if (prod > SHUNT_INDEX_MAX || raw_cons > prod)
		return -EPROTO;
	if (!raw_seq && prod - raw_cons > size)
		return -EPROTO;
	if (raw_seq && raw_cons <= raw_pos && raw_cons != prod)
		return -EBUSY;
	shunt_producer_init(p, ctl, base, size);
	p->prod = prod;
	p->head = prod;
	p->cons = raw_cons;
	p->floor = raw_seq && raw_pos < raw_cons ? raw_pos : raw_seq ? raw_cons : 0;
	p->checked = raw_cons;
	p->moves = raw_seq;
	p->sealed = raw_prod != prod;
	return 0;
}

/**
 * shunt_rec_reserve - room for one record
 * @p: the half
 * @len: payload bytes wanted
 * @ret: where the payload goes, contiguous and aligned to SHUNT_ABI_REC_ALIGN
 *
 * Where the record does not fit before the end of the extent a SKIP is staged; it stays staged even if
 * the record is never committed. A second reserve replaces the first.
 *
 * Return: 0, -EMSGSIZE, -ENOSPC, -ESHUTDOWN, -EPROTO.
 */
int shunt_rec_reserve(struct shunt_producer *p, __u32 len, void **ret)
{
	__u64 total = SHUNT_ABI_REC_ALIGN + shunt_rec_align(len);
	__u64 pos = p->head & (p->size - 1);
	__u64 left = p->size - pos;
	__u64 skip = left < total ? left : 0;
	int err = producer_dead(p);

	if (err)
		return err;
	if (len > shunt_rec_max(p->size))
		return -EMSGSIZE;
	err = producer_need(p, skip + total);
	if (err)
		return err;
	/* the peer's index, or an own one that was adopted from shared memory: a header would straddle the end */
	if (SHUNT_UNLIKELY((p->cons | p->head) & (SHUNT_ABI_REC_ALIGN - 1))) {
		p->broken = 1;
		return -EPROTO;
	}
	if (skip) {
		shunt_rec_write(p->base + pos, (__u32)(skip - SHUNT_ABI_REC_ALIGN), SHUNT_ABI_REC_SKIP);
		p->head += skip;
		pos = 0;
	}
	p->reserved = total;
	*ret = p->base + pos + SHUNT_ABI_REC_ALIGN;
	return 0;
}

/**
 * shunt_rec_commit - stage the reserved record
 * @p: the half
 * @len: payload bytes written, at most what was reserved
 */
void shunt_rec_commit(struct shunt_producer *p, __u32 len)
{
	__u64 total = SHUNT_ABI_REC_ALIGN + shunt_rec_align(len);

	if (p->broken || p->sealed || total > p->reserved)
		return;
	shunt_rec_write(p->base + (p->head & (p->size - 1)), len, SHUNT_ABI_REC_DATA);
	p->head += total;
	p->reserved = 0;
}

/**
 * shunt_bytes_reserve - room for bytes
 * @p: the half
 * @len: bytes wanted, > 0; set to the bytes that may be written contiguously, > 0
 * @ret: where they go
 *
 * Return: 0, -EINVAL (nothing wanted), -ENOSPC, -ESHUTDOWN, -EPROTO.
 */
int shunt_bytes_reserve(struct shunt_producer *p, __u64 *len, void **ret)
{
	__u64 pos = p->head & (p->size - 1);
	__u64 want = *len < p->size - pos ? *len : p->size - pos;
	int err = producer_dead(p);

	if (err)
		return err;
	if (!want)
		return -EINVAL;
	if (producer_free(p) < want) {
		err = producer_need(p, want);
		if (err && err != -ENOSPC)
			return err;
		if (!producer_free(p))
			return -ENOSPC;
		if (want > producer_free(p))
			want = producer_free(p);
	}
	p->reserved = want;
	*len = want;
	*ret = p->base + pos;
	return 0;
}

/**
 * shunt_bytes_commit - stage reserved bytes
 * @p: the half
 * @len: bytes written, at most what was reserved
 */
void shunt_bytes_commit(struct shunt_producer *p, __u64 len)
{
	if (p->broken || p->sealed || len > p->reserved)
		return;
	p->head += len;
	p->reserved = 0;
}

/**
 * shunt_producer_publish - make all that is staged visible
 * @p: the half
 *
 * Return: 1: ring the consumer's doorbell; 0; -ESHUTDOWN: sealed, nothing staged was published; -EPROTO.
 */
int shunt_producer_publish(struct shunt_producer *p)
{
	__u64 found, event;
	int err = producer_dead(p);

	if (err)
		return err;
	if (p->head == p->prod)
		return 0;
	/*
	 * E1 release: payload and headers before prod. E7 release: move_seq before a prod beyond
	 * move_pos. E6: one atomic step with the seal. E4 full: prod before the look at data_event.
	 */
	/* MODEL: publish E1 E4 E6 E7 */
	found = shunt_cmpxchg_full(&p->ctl->prod, p->prod, p->head);
	if (SHUNT_UNLIKELY(found != p->prod)) {
		if (found == (p->prod | SHUNT_ABI_RING_SEALED))
			return producer_sealed(p);
		p->broken = 1;
		return -EPROTO;
	}
	p->prod = p->head;
	p->reserved = 0;
	/* E4: pairs with the consumer's arm, which stores data_event and then looks at prod */
	/* MODEL: look-data-event E4 */
	event = shunt_load_full(&p->ctl->data_event);
	err = shunt_event_hit(event, p->checked, p->prod);
	p->checked = p->prod;
	return err;
}

/**
 * shunt_producer_space - bytes that can be staged, after a look at the consumer
 * @p: the half
 *
 * A record needs its header, its padding and perhaps a SKIP out of this.
 *
 * Return: bytes, or -EPROTO.
 */
__s64 shunt_producer_space(struct shunt_producer *p)
{
	if (p->broken || producer_look(p))
		return -EPROTO;
	return producer_free(p);
}

/**
 * shunt_producer_unread - bytes published and not consumed, after a look
 * @p: the half
 *
 * Return: bytes, or -EPROTO.
 */
__s64 shunt_producer_unread(struct shunt_producer *p)
{
	if (p->broken || producer_look(p))
		return -EPROTO;
	return p->prod - p->cons;
}

/**
 * shunt_producer_arm_after - ask to be woken once @bytes more were consumed
 * @p: the half
 * @bytes: 1 .. half of what is unread; other values are taken as the nearest of these, so that a consumer
 *         that goes on consuming is sure to get there
 *
 * Return: 1: may sleep; 0: look again; -EPROTO.
 */
int shunt_producer_arm_after(struct shunt_producer *p, __u64 bytes)
{
	__u64 raw_cons, raw_prod;

	if (p->broken)
		return -EPROTO;
	if (bytes > (p->prod - p->cons) / 2)
		bytes = (p->prod - p->cons) / 2;
	if (!bytes)
		bytes = 1;
	/* E5 full: space_event before the look at cons; pairs with the consumer's release */
	/* MODEL: arm-space E5 */
	shunt_store_full(&p->ctl->space_event, p->cons + bytes - 1);
	/* MODEL: recheck-space E5 */
	raw_cons = shunt_load_full(&p->ctl->cons);
	/* a consumer that seals instead of releasing rings after the seal: seen here or woken by it */
	raw_prod = shunt_load_full(&p->ctl->prod);
	return raw_cons - p->cons < bytes && raw_prod == p->prod;
}

/**
 * shunt_producer_arm - ask to be woken at the next release
 * @p: the half
 *
 * Return: 1: may sleep; 0: look again; -EPROTO.
 */
int shunt_producer_arm(struct shunt_producer *p)
{
	return shunt_producer_arm_after(p, 1);
}

/**
 * shunt_producer_move - continue in another extent
 * @p: the half
 * @off: the extent's segment offset
 * @base: where it is mapped here
 * @size: its bytes, a power of two
 *
 * The move lines may be rewritten only when the consumer cannot be reading them. It reads them after it
 * saw prod change, before it takes what it saw (E8): so either it took something published since the last
 * announcement, or nothing was published since and it has no cause to look.
 *
 * Return: 0, -EINVAL, -EBUSY, -ESHUTDOWN, -EPROTO.
 */
int shunt_producer_move(struct shunt_producer *p, __u64 off, void *base, __u64 size)
{
	int err = producer_dead(p);

	if (err)
		return err;
	if (p->head != p->prod || !shunt_extent_legal(off, size))
		return -EINVAL;
	/* E8 acquire, in the look: the consumer's reads of the last announcement before our writes */
	err = producer_look(p);
	if (err)
		return err;
	if (p->moves && p->cons <= p->floor && p->cons != p->prod)
		return -EBUSY;
	/* MODEL: move-fields E8 */
	shunt_store_once(&p->ctl->move_pos, p->prod);
	shunt_store_once(&p->ctl->move_off, off);
	shunt_store_once(&p->ctl->move_size, size);
	/* E3 release: the announcement before its number */
	/* MODEL: move-seq E3 */
	shunt_store_release(&p->ctl->move_seq, ++p->moves);
	p->base = base;
	p->size = size;
	p->floor = p->prod;
	p->reserved = 0;
	return 0;
}

/**
 * shunt_producer_move_done - is the old extent free?
 * @p: the half
 *
 * Return: true once the consumer has consumed everything that was published before the last move. Of a
 * broken ring: what was known before it broke.
 */
_Bool shunt_producer_move_done(struct shunt_producer *p)
{
	if (!p->broken)
		producer_look(p);
	return p->cons >= p->floor;
}
