// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The consumer's half of a ring: look, take, release, wait for data, follow moves.
 *
 * Everything the producer writes is hostile: @prod, the move lines and record headers are each loaded
 * once into a private copy and the copy is validated. Payload is only pointed at; who reads it copies
 * first. A peer that changes indices all the time costs at most PEEK_STEPS looks per call.
 */
#include "access.h"

/* SKIP, then into a moved ring, then a SKIP there, then the record: an honest peek needs no more. */
#define PEEK_STEPS 4

/**
 * shunt_consumer_init - consumer's half of a new ring
 * @c: the half; set @resolve afterwards if the ring may move
 * @ctl: control block, zeroed
 * @base: first extent, aligned to at least SHUNT_ABI_REC_ALIGN
 * @size: its bytes, a power of two
 */
void shunt_consumer_init(struct shunt_consumer *c, struct shunt_abi_ring *ctl, const void *base, __u64 size)
{
	__builtin_memset(c, 0, sizeof(*c));
	c->ctl = ctl;
	c->base = base;
	c->size = size;
}

/**
 * shunt_consumer_adopt - take over the consumer's half of a ring in use
 * @c: the half
 * @ctl: control block as the predecessor left it
 * @base: the extent that holds the next byte to consume
 * @size: its bytes
 *
 * A move beyond the current index is followed later like any other (the half pretends not to have seen
 * it); one at or before it is taken to be the one that led to @base.
 *
 * Return: 0 or -EPROTO.
 */
int shunt_consumer_adopt(struct shunt_consumer *c, struct shunt_abi_ring *ctl, const void *base, __u64 size)
{
	__u64 raw_prod = shunt_load_acquire(&ctl->prod) & ~SHUNT_ABI_RING_SEALED;	/* E1, E7 */
	__u64 raw_cons = shunt_load_once(&ctl->cons);	/* our predecessor's, but shared all the same */
	__u64 raw_seq = shunt_load_acquire(&ctl->move_seq);	/* E3 */
	__u64 raw_pos = shunt_load_once(&ctl->move_pos);

	if (raw_prod > SHUNT_INDEX_MAX || raw_cons > raw_prod)
		return -EPROTO;
	if (!raw_seq && raw_prod - raw_cons > size)
		return -EPROTO;
	shunt_consumer_init(c, ctl, base, size);
	c->cons = raw_cons;
	c->released = raw_cons;
	c->prod = raw_cons;
	c->moves = raw_seq;
	if (raw_seq && raw_pos > raw_cons)
		c->moves--;
	else if (raw_seq)
		c->floor = raw_pos;
	return 0;
}

static int consumer_break(struct shunt_consumer *c)
{
	c->broken = 1;
	return -EPROTO;
}

static int consumer_break_record(struct shunt_consumer *c)
{
	c->bad_record = 1;
	return consumer_break(c);
}

/* First index the producer may not have reached yet without overwriting what we have not released. */
static __u64 consumer_bound(const struct shunt_consumer *c)
{
	return (c->released > c->floor ? c->released : c->floor) + c->size;
}

/*
 * prod changed: was a move announced below it? E7: prod was loaded with acquire, so an announcement
 * that a prod beyond it depends on is visible here.
 */
static int consumer_look_move(struct shunt_consumer *c)
{
	__u64 raw_seq, raw_pos, raw_off, raw_size;

	/* E3 acquire: the announcement after its number */
	/* MODEL: look-move-seq E3 */
	raw_seq = shunt_load_acquire(&c->ctl->move_seq);
	if (SHUNT_LIKELY(raw_seq == c->moves))
		return 0;
	/* MODEL: look-move-fields E8 */
	raw_pos = shunt_load_once(&c->ctl->move_pos);
	raw_off = shunt_load_once(&c->ctl->move_off);
	raw_size = shunt_load_once(&c->ctl->move_size);
	/* c->prod is still the index before this look: a move below it would have been seen then */
	if (raw_seq < c->moves || c->move_size || raw_pos < c->prod || raw_pos > consumer_bound(c))
		return consumer_break(c);
	if (!shunt_extent_legal(raw_off, raw_size) || !c->resolve ||
	    c->resolve(c->resolve_ctx, raw_off, raw_size, &c->move_base))
		return consumer_break(c);
	c->moves = raw_seq;
	c->move_pos = raw_pos;
	c->move_size = raw_size;
	return 0;
}

/* Enter the new extent when the old one is read to its end. */
static void consumer_follow(struct shunt_consumer *c)
{
	if (SHUNT_LIKELY(!c->move_size || c->cons != c->move_pos))
		return;
	c->base = c->move_base;
	c->size = c->move_size;
	c->floor = c->move_pos;
	c->move_size = 0;
}

/* Look at the producer's index. 0: there is something new. */
static int consumer_look(struct shunt_consumer *c)
{
	__u64 raw_prod, prod, bound;

	if (c->sealed)
		return -ESHUTDOWN;
	/* E1 acquire: payload after prod. E7 acquire: move lines after prod */
	/* MODEL: look-prod E1 E7 */
	raw_prod = shunt_load_acquire(&c->ctl->prod);
	prod = raw_prod & ~SHUNT_ABI_RING_SEALED;
	if (SHUNT_UNLIKELY(prod < c->prod))
		return consumer_break(c);
	if (prod != c->prod && consumer_look_move(c))
		return -EPROTO;
	bound = c->move_size && prod > c->move_pos ? c->move_pos + c->move_size : consumer_bound(c);
	if (SHUNT_UNLIKELY(prod > bound))
		return consumer_break(c);
	c->sealed = raw_prod != prod;
	if (prod == c->prod)
		return c->sealed ? -ESHUTDOWN : -EAGAIN;
	c->prod = prod;
	return 0;
}

/* Something to take in the current extent; looks only when the last look is used up. */
static int consumer_ready(struct shunt_consumer *c)
{
	int err;

	if (SHUNT_UNLIKELY(c->broken))
		return -EPROTO;
	consumer_follow(c);
	if (c->cons != c->prod)
		return 0;
	err = consumer_look(c);
	if (!err)
		consumer_follow(c);
	return err;
}

/* End of what can be taken without leaving the current extent. */
static __u64 consumer_limit(const struct shunt_consumer *c)
{
	return c->move_size && c->prod > c->move_pos ? c->move_pos : c->prod;
}

/* The header at @pos, validated; *ret_total: bytes of the record with header and padding. */
static int consumer_header(struct shunt_consumer *c, __u64 pos, __u32 *ret_len, __u64 *ret_total, _Bool *ret_skip)
{
	const __u64 *h = (const __u64 *)(c->base + pos);
	__u64 raw_word = shunt_load_once(h);
	__u64 raw_reserved = shunt_load_once(h + 1);
	__u32 len = (__u32)raw_word;
	__u64 total = SHUNT_ABI_REC_ALIGN + shunt_rec_align(len);
	_Bool skip = raw_word >> 32 == SHUNT_ABI_REC_SKIP;

	if (raw_reserved || (!skip && raw_word >> 32 != SHUNT_ABI_REC_DATA))
		return consumer_break_record(c);
	if (total > consumer_limit(c) - c->cons || total > c->size - pos)
		return consumer_break_record(c);
	if (skip ? !pos || SHUNT_ABI_REC_ALIGN + (__u64)len != c->size - pos : len > shunt_rec_max(c->size))
		return consumer_break_record(c);
	*ret_len = len;
	*ret_total = total;
	*ret_skip = skip;
	return 0;
}

/**
 * shunt_rec_peek - the next record
 * @c: the half
 * @ret: its payload, aligned to SHUNT_ABI_REC_ALIGN, in shared memory
 * @ret_len: bytes of payload, validated
 *
 * Return: 0, -EAGAIN, -ESHUTDOWN, -EPROTO. With -EAGAIN skipped space may have become releasable.
 */
int shunt_rec_peek(struct shunt_consumer *c, const void **ret, __u32 *ret_len)
{
	__u64 pos, total;
	_Bool skip;
	__u32 len;
	int step, err;

	c->peeked = 0;
	for (step = 0; step < PEEK_STEPS; step++) {
		err = consumer_ready(c);
		if (err)
			return err;
		if (SHUNT_UNLIKELY((c->cons | consumer_limit(c)) & (SHUNT_ABI_REC_ALIGN - 1)))
			return consumer_break(c);
		pos = c->cons & (c->size - 1);
		err = consumer_header(c, pos, &len, &total, &skip);
		if (err)
			return err;
		if (SHUNT_LIKELY(!skip)) {
			c->peeked = total;
			*ret = c->base + pos + SHUNT_ABI_REC_ALIGN;
			*ret_len = len;
			return 0;
		}
		c->cons += total;
	}
	return -EAGAIN;
}

/**
 * shunt_rec_consume - take the record just peeked
 * @c: the half
 *
 * Its length is the private copy of peek: the header is not read again.
 */
void shunt_rec_consume(struct shunt_consumer *c)
{
	c->cons += c->peeked;
	c->peeked = 0;
}

/**
 * shunt_bytes_peek - readable bytes
 * @c: the half
 * @ret: the first of them, in shared memory
 * @ret_len: how many are contiguous, > 0
 *
 * Return: 0, -EAGAIN, -ESHUTDOWN, -EPROTO.
 */
int shunt_bytes_peek(struct shunt_consumer *c, const void **ret, __u64 *ret_len)
{
	__u64 pos, len;
	int err;

	c->peeked = 0;
	err = consumer_ready(c);
	if (err)
		return err;
	pos = c->cons & (c->size - 1);
	len = consumer_limit(c) - c->cons;
	if (len > c->size - pos)
		len = c->size - pos;
	c->peeked = len;
	*ret = c->base + pos;
	*ret_len = len;
	return 0;
}

/**
 * shunt_bytes_consume - take bytes
 * @c: the half
 * @len: how many, at most what was peeked
 */
void shunt_bytes_consume(struct shunt_consumer *c, __u64 len)
{
	if (len > c->peeked)
		return;
	c->cons += len;
	c->peeked -= len;
}

/**
 * shunt_consumer_release - give the space taken so far back
 * @c: the half
 *
 * Return: 1: ring the producer's doorbell; 0; -EPROTO.
 */
int shunt_consumer_release(struct shunt_consumer *c)
{
	__u64 from = c->released;
	__u64 event;

	if (SHUNT_UNLIKELY(c->broken))
		return -EPROTO;
	if (c->cons == from)
		return 0;
	/*
	 * E2 release: our reads of the payload before cons. E8 release: our reads of the move lines
	 * before cons. E5 full: cons before the look at space_event.
	 */
	/* MODEL: release E2 E5 E8 */
	shunt_store_full(&c->ctl->cons, c->cons);
	c->released = c->cons;
	/* E5: pairs with the producer's arm, which stores space_event and then looks at cons */
	/* MODEL: look-space-event E5 */
	event = shunt_load_full(&c->ctl->space_event);
	return shunt_event_hit(event, from, c->released);
}

/**
 * shunt_consumer_pending - is a peek worth it?
 * @c: the half
 *
 * For polling loops: one relaxed load of the producer's line, and none while the last look still holds
 * something. The line the next record starts on is prefetched beside it: its way between the caches then
 * overlaps that of prod, which nearly halves a polled round trip (bench/ring-bench.c).
 */
_Bool shunt_consumer_pending(const struct shunt_consumer *c)
{
	if (c->broken || c->cons != c->prod)
		return 1;
	__builtin_prefetch(c->base + (c->cons & (c->size - 1)));
	return shunt_load_once(&c->ctl->prod) != (c->sealed ? c->prod | SHUNT_ABI_RING_SEALED : c->prod);
}

/**
 * shunt_consumer_arm_after - ask to be woken once @bytes more were published
 * @c: the half
 * @bytes: 1 .. half the extent; other values are taken as the nearest of these
 *
 * Return: 1: may sleep; 0: there is something; -EPROTO.
 */
int shunt_consumer_arm_after(struct shunt_consumer *c, __u64 bytes)
{
	__u64 raw_prod;

	if (c->broken)
		return -EPROTO;
	if (c->cons != c->prod || c->sealed)
		return 0;
	if (bytes > c->size / 2)
		bytes = c->size / 2;
	if (!bytes)
		bytes = 1;
	/* E4 full: data_event before the look at prod; pairs with the producer's publish */
	/* MODEL: arm-data E4 */
	shunt_store_full(&c->ctl->data_event, c->prod + bytes - 1);
	/* MODEL: recheck-data E4 */
	raw_prod = shunt_load_full(&c->ctl->prod);
	/* behind, ahead or sealed: unsigned, all of them are no less than @bytes; the next peek judges */
	return raw_prod - c->prod < bytes;
}

/**
 * shunt_consumer_arm - ask to be woken at the next publish
 * @c: the half
 *
 * Return: 1: may sleep; 0: there is something; -EPROTO.
 */
int shunt_consumer_arm(struct shunt_consumer *c)
{
	return shunt_consumer_arm_after(c, 1);
}

/**
 * shunt_consumer_disarm - take back a wish to be woken
 * @c: the half
 *
 * For a consumer that starts to poll. The event is left just behind the last index seen, which no later
 * publish can cover. A publish under way may still see the old wish: one doorbell too many at worst.
 */
void shunt_consumer_disarm(struct shunt_consumer *c)
{
	/* MODEL: disarm E4 */
	if (!c->broken)
		shunt_store_once(&c->ctl->data_event, c->prod - 1);
}
