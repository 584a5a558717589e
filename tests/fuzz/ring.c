// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * Both halves of a ring (core/producer.c, core/consumer.c) in memory that a hostile other end writes to
 * between calls and between any two loads of one call.
 *
 * Asserted, whatever is written:
 *   - nothing is read or written outside the granted extents and the control block (each is an allocation of
 *     its own, for the address sanitizer), and what peek and reserve give lies inside;
 *   - the consumer writes its index and event, the producer its own words and extents, nobody else's;
 *   - a half's private indices stay in order and within the extent;
 *   - a call looks at shared memory a bounded number of times;
 *   - a broken half stays broken, changes no more and looks no more.
 * And as long as nobody wrote anything hostile: nothing breaks, and the ring is a FIFO.
 */
#include <errno.h>

#include "core/ring.h"
#include "input.h"

#define EXTENTS 4
#define CTL_WORDS (sizeof(struct shunt_abi_ring) / 8)
#define LOADS_MAX 32		/* four steps of peek: an index, a move, a header each */
#define OPS_MAX 400
#define FIFO_MAX 64

enum op {
	OP_RESERVE, OP_COMMIT, OP_PUBLISH, OP_SPACE, OP_UNREAD, OP_ARM_SPACE, OP_MOVE, OP_MOVE_DONE,
	OP_PEEK, OP_CONSUME, OP_RELEASE, OP_TAKE, OP_PENDING, OP_ARM_DATA, OP_DISARM,
	OP_SEAL, OP_SCRIBBLE, OP_SCRIBBLE_HEADER, OP_FORGE, OP_ADOPT, OPS
};

struct fifo {
	uint32_t len;
	uint8_t fill;
};

static struct {
	struct input in;
	uint64_t *ctl;
	uint64_t before[CTL_WORDS];
	uint8_t *ext[EXTENTS];
	uint64_t size[EXTENTS];
	unsigned int n_ext, home;	/* home: the producer's */
	struct shunt_producer p;
	struct shunt_consumer c;
	_Bool records, hostile, sealed;
	unsigned int loads;
	uint8_t *room;			/* what reserve gave, */
	uint64_t room_len;
	const uint8_t *shown;		/* and peek */
	uint64_t shown_len;
	struct fifo fifo[FIFO_MAX];	/* records staged or published */
	unsigned int first, published, staged;
	uint64_t written, taken;	/* bytes, of a byte ring */
	_Bool inside;			/* of a call */
} w;

/* The words of the control block that are not reserved. */
static uint64_t *ctl_word(uint8_t choice)
{
	static const uint8_t used[] = { 0, 8, 16, 17, 18, 19, 20, 24 };

	return &w.ctl[used[choice % sizeof(used)]];
}

static uint64_t extent_off(unsigned int i)
{
	return (uint64_t)(i + 1) << 20;
}

/* --- the hostile side --- */

static void scribble(uint64_t *at, uint8_t how, uint64_t value)
{
	uint64_t old = *at;

	switch (how & 7) {
	case 0:
		*at = value;
		break;
	case 1:
		*at += value & 0xffff;
		break;
	case 2:
		*at -= value & 0xffff;
		break;
	case 3:
		*at ^= SHUNT_ABI_RING_SEALED;
		break;
	case 4:
		*at = ~value;
		break;
	case 5:
		*at = w.p.prod + (value & 0xff);
		break;
	case 6:
		*at = w.c.cons + (value & 0xff);
		break;
	default:	/* a record header, or an extent's offset */
		*at = value & 0x8000 ? value << 20 : (value & 0x7fff) | (uint64_t)SHUNT_ABI_REC_DATA << 32;
		break;
	}
	if (*at != old)
		w.hostile = 1;
	if (at >= w.ctl && at < w.ctl + CTL_WORDS)
		w.before[at - w.ctl] = *at;
}

void fuzz_load(const void *p)
{
	uint8_t how;

	w.loads++;
	if (!w.inside)
		return;
	how = input_last(&w.in);
	if (how < 0xe0)
		return;
	if (how < 0xf8)		/* the very word, just before it is loaded */
		scribble((uint64_t *)(uintptr_t)p, how, input_last_word(&w.in, how & 8 ? 8 : 2));
	else
		scribble(ctl_word(input_last(&w.in)), how, input_last_word(&w.in, 2));
}

/* A record as a hostile producer would publish it: nearly right, around the end of the extent above all. */
static void forge(void)
{
	uint64_t at = w.ctl[0] & (w.c.size - 1) & ~15ull;
	uint8_t kind = input_byte(&w.in), more = input_byte(&w.in);
	uint64_t len = kind & 8 ? w.c.size - at - 16 + more % 64 : more;
	uint64_t *header = (uint64_t *)(uintptr_t)(w.c.base + at);

	header[0] = (uint32_t)len | (1ull + (kind & 1)) << 32;
	header[1] = kind & 0xf0 ? 0 : kind & 2;
	scribble(&w.ctl[0], 1, 16 + (kind & 4 ? input_byte(&w.in) * 16 : (len + 15) & ~15ull));
}

static int resolve(void *ctx, __u64 off, __u64 size, const __u8 **ret_base)
{
	(void)ctx;
	DEMAND(size && !(size & (size - 1)) && size >= SHUNT_ABI_EXTENT_MIN && !(off % SHUNT_ABI_EXTENT_MIN));
	for (unsigned int i = 1; i < w.n_ext; i++)
		if (extent_off(i) == off && w.size[i] == size) {
			*ret_base = w.ext[i];
			return 0;
		}
	return -ENOENT;
}

/* --- invariants --- */

static _Bool within(const uint8_t *at, uint64_t len)
{
	for (unsigned int i = 0; i < w.n_ext; i++)
		if (at >= w.ext[i] && at <= w.ext[i] + w.size[i] && len <= (uint64_t)(w.ext[i] + w.size[i] - at))
			return 1;
	return 0;
}

static void check_halves(void)
{
	const struct shunt_producer *p = &w.p;
	const struct shunt_consumer *c = &w.c;

	DEMAND(p->cons <= p->prod && p->prod <= p->head && p->head - p->prod <= p->size);
	DEMAND(within(p->base, p->size) && within(c->base, c->size));
	if (!c->broken) {
		DEMAND(c->released <= c->cons && c->cons <= c->prod);
		DEMAND(c->prod - c->released <= c->size + (c->move_size ? c->move_size : c->cons - c->released));
	}
	DEMAND(w.hostile || (!p->broken && !c->broken));
}

/* The words of the control block that a half may write. */
static uint64_t own_words(enum op op)
{
	const uint64_t prod = 1u << 0, cons = 1u << 8, move = 15u << 16, space = 1u << 20, data = 1u << 24;

	switch (op) {
	case OP_PUBLISH:
	case OP_SEAL:
		return prod;
	case OP_ARM_SPACE:
		return space;
	case OP_MOVE:
		return move;
	case OP_RELEASE:
	case OP_TAKE:
		return cons;
	case OP_ARM_DATA:
	case OP_DISARM:
		return data;
	default:
		return 0;
	}
}

static void check_writes(enum op op)
{
	uint64_t may = own_words(op);

	for (unsigned int i = 0; i < CTL_WORDS; i++)
		DEMAND(w.ctl[i] == w.before[i] || may >> i & 1);
	memcpy(w.before, w.ctl, sizeof(w.before));
}

/* --- the producer's calls --- */

static void reserve(void)
{
	__u64 want = input_word(&w.in, 2);
	void *room;
	int r;

	w.room = NULL;
	if (w.records) {
		r = shunt_rec_reserve(&w.p, (uint32_t)want, &room);
	} else {
		r = shunt_bytes_reserve(&w.p, &want, &room);
		DEMAND(r || want);
	}
	if (r)
		return;
	DEMAND(within(room, want));
	w.room = room;
	w.room_len = want;
}

static void fill(uint64_t len)
{
	struct fifo *f = &w.fifo[(w.first + w.published + w.staged) % FIFO_MAX];

	if (w.records) {
		*f = (struct fifo){ (uint32_t)len, (uint8_t)(len + w.staged) };
		memset(w.room, f->fill, len);
		w.staged++;
	} else {
		for (uint64_t i = 0; i < len; i++)
			w.room[i] = (uint8_t)(w.written + i);
		w.written += len;
	}
}

static void commit(void)
{
	uint64_t len = w.room ? input_word(&w.in, 2) % (w.room_len + 1) : 0;

	if (!w.room || w.p.broken || w.p.sealed || w.published + w.staged >= FIFO_MAX)
		return;
	fill(len);
	if (w.records)
		shunt_rec_commit(&w.p, (uint32_t)len);
	else
		shunt_bytes_commit(&w.p, len);
	w.room = NULL;
}

static void publish(void)
{
	int r = shunt_producer_publish(&w.p);

	w.room = NULL;
	DEMAND(r <= 1);
	DEMAND(r >= 0 || r == -EPROTO || r == -ESHUTDOWN);
	if (r >= 0)
		w.published += w.staged;
	else if (!w.records)
		w.written = w.p.prod;	/* staging is gone; a byte ring's index is its byte count */
	w.staged = 0;
}

static void move(void)
{
	unsigned int to = 1 + input_byte(&w.in) % (w.n_ext - 1);

	/* Not the one in use, nor one still read: that would be the owner's fault, not the peer's. */
	if (to == w.home || !shunt_producer_move_done(&w.p) || w.c.base == w.ext[to] ||
	    (w.c.move_size && w.c.move_base == w.ext[to]) || w.p.base == w.ext[to])
		return;
	if (shunt_producer_move(&w.p, extent_off(to), w.ext[to], w.size[to]))
		return;
	w.home = to;
	w.room = NULL;
}

static int produce(enum op op)
{
	int64_t n;

	switch (op) {
	case OP_RESERVE:
		reserve();
		return 1;
	case OP_COMMIT:
		commit();
		return 1;
	case OP_PUBLISH:
		publish();
		return 1;
	case OP_SPACE:
		n = shunt_producer_space(&w.p);
		DEMAND(n == -EPROTO || (n >= 0 && (uint64_t)n <= w.p.size));
		return 1;
	case OP_UNREAD:
		n = shunt_producer_unread(&w.p);
		DEMAND(n == -EPROTO || n >= 0);
		return 1;
	case OP_ARM_SPACE:
		shunt_producer_arm_after(&w.p, input_word(&w.in, 2));
		return 1;
	case OP_MOVE:
		move();
		return 1;
	case OP_MOVE_DONE:
		shunt_producer_move_done(&w.p);
		return 1;
	default:
		return 0;
	}
}

/* --- the consumer's --- */

static unsigned int sum(const uint8_t *at, uint64_t len)
{
	unsigned int n = 0;

	while (len--)
		n += *at++;
	return n;
}

static volatile unsigned int sink;

static void peek(void)
{
	const void *at;
	uint32_t len32;
	__u64 len;
	int r;

	w.shown = NULL;
	if (w.records) {
		r = shunt_rec_peek(&w.c, &at, &len32);
		len = len32;
	} else {
		r = shunt_bytes_peek(&w.c, &at, &len);
	}
	DEMAND(r == 0 || r == -EAGAIN || r == -ESHUTDOWN || r == -EPROTO);
	if (r)
		return;
	DEMAND(within(at, len) && len <= w.c.size && (w.records || len));
	w.shown = at;
	w.shown_len = len;
	sink = sum(at, len);		/* all of it is there to be read */
	if (w.hostile)
		return;
	if (w.records) {
		DEMAND(w.published && len == w.fifo[w.first].len);
		for (uint64_t i = 0; i < len; i++)
			DEMAND(w.shown[i] == w.fifo[w.first].fill);
	} else {
		for (uint64_t i = 0; i < len; i++)
			DEMAND(w.shown[i] == (uint8_t)(w.taken + i));
	}
}

static void consume(void)
{
	uint64_t len = w.shown ? input_word(&w.in, 2) % (w.shown_len + 1) : 0;

	if (!w.shown)
		return;
	if (w.records) {
		shunt_rec_consume(&w.c);
		w.first = (w.first + 1) % FIFO_MAX;
		w.published -= !!w.published;
	} else {
		shunt_bytes_consume(&w.c, len);
		w.taken += len;
	}
	w.shown = NULL;
}

static void take(enum op op)
{
	switch (op) {
	case OP_PEEK:
		peek();
		break;
	case OP_CONSUME:
		consume();
		break;
	case OP_TAKE:
		peek();
		consume();
		shunt_consumer_release(&w.c);
		break;
	case OP_RELEASE:
		shunt_consumer_release(&w.c);
		break;
	case OP_PENDING:
		shunt_consumer_pending(&w.c);
		break;
	case OP_ARM_DATA:
		shunt_consumer_arm_after(&w.c, input_word(&w.in, 2));
		break;
	case OP_DISARM:
		shunt_consumer_disarm(&w.c);
		break;
	default:
		break;
	}
}

/* --- one input --- */

static void others(enum op op)
{
	uint64_t at;

	switch (op) {
	case OP_SEAL:
		shunt_ring_seal((struct shunt_abi_ring *)w.ctl);
		break;
	case OP_SCRIBBLE:
		at = input_byte(&w.in);
		w.inside = 0;
		scribble(ctl_word((uint8_t)at), (uint8_t)(at >> 3), input_word(&w.in, at & 64 ? 8 : 2));
		break;
	case OP_SCRIBBLE_HEADER:	/* of the next record: where the consumer stands */
		at = (w.c.cons & (w.c.size - 1)) / 16 * 16;
		scribble((uint64_t *)(uintptr_t)(w.c.base + at + (input_byte(&w.in) % 8 ? 0 : 8)),
			 input_byte(&w.in), input_word(&w.in, 2));
		break;
	case OP_FORGE:
		forge();
		break;
	case OP_ADOPT:			/* a driver that starts anew over what it finds */
		at = input_byte(&w.in);
		if (at & 2)
			scribble(&w.ctl[0], 0, w.ctl[8] + input_word(&w.in, 2));
		if (at & 1)
			shunt_producer_adopt(&w.p, (struct shunt_abi_ring *)w.ctl, w.ext[w.home], w.size[w.home]);
		else
			shunt_consumer_adopt(&w.c, (struct shunt_abi_ring *)w.ctl, w.ext[0], w.size[0]);
		w.c.resolve = resolve;
		w.room = NULL;
		w.shown = NULL;
		w.hostile = 1;		/* what was staged or taken is lost to the FIFO's books */
		break;
	default:
		break;
	}
}

static void step(enum op op)
{
	struct shunt_producer p = w.p;
	struct shunt_consumer c = w.c;

	w.loads = 0;
	w.inside = 1;
	if (!produce(op)) {
		if (op < OP_SEAL)
			take(op);
		else
			others(op);
	}
	w.inside = 0;
	DEMAND(w.loads <= LOADS_MAX);
	if (p.broken && op < OP_SEAL && op != OP_MOVE) {
		DEMAND(!memcmp(&p, &w.p, sizeof(p)));
		DEMAND(op >= OP_PEEK || !w.loads);
	}
	if (c.broken && op < OP_SEAL && op >= OP_PEEK) {
		c.peeked = w.c.peeked;	/* may be taken back: what was shown is shown no more */
		if (op != OP_CONSUME)
			DEMAND(!memcmp(&c, &w.c, sizeof(c)));
		DEMAND(!w.loads && !w.shown);
	}
	check_writes(op);
	check_halves();
}

static void set_up(const uint8_t *data, size_t size)
{
	static const uint64_t first[] = { 64, 256, 4096, 8192 };
	uint8_t flags;

	memset(&w, 0, sizeof(w));
	w.in = (struct input){ data, data + size };
	flags = input_byte(&w.in);
	w.records = flags & 1;
	w.n_ext = EXTENTS;
	for (unsigned int i = 0; i < EXTENTS; i++) {
		w.size[i] = i ? (uint64_t)SHUNT_ABI_EXTENT_MIN << (i & 1) : first[flags >> 1 & 3];
		w.ext[i] = aligned_alloc(64, w.size[i]);
		memset(w.ext[i], 0, w.size[i]);
	}
	w.ctl = aligned_alloc(64, sizeof(struct shunt_abi_ring));
	memset(w.ctl, 0, sizeof(struct shunt_abi_ring));
	shunt_producer_init(&w.p, (struct shunt_abi_ring *)w.ctl, w.ext[0], w.size[0]);
	shunt_consumer_init(&w.c, (struct shunt_abi_ring *)w.ctl, w.ext[0], w.size[0]);
	w.c.resolve = resolve;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	set_up(data, size);
	for (int i = 0; i < OPS_MAX && input_left(&w.in); i++)
		step(input_byte(&w.in) % OPS);
	for (unsigned int i = 0; i < EXTENTS; i++)
		free(w.ext[i]);
	free(w.ctl);
	return 0;
}
