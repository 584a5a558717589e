// SPDX-License-Identifier: GPL-2.0-only
/*
 * shuntd's side of an uplink (daemon/uplink.c, msg.c, pair.c, roster.c) against a guest that sends anything:
 * messages well-formed, nearly so and not at all, in any order and number, doorbells without messages, and
 * writes to its mailbox between any two looks of the daemon, over its pairs too; an operator who detaches and
 * attaches it meanwhile, and a daemon that starts anew.
 *
 * Asserted besides memory safety:
 *   - the two other guests notice nothing: their uplinks are in order, their link stays up in its epoch, and
 *     what reaches them in a tick is bounded;
 *   - the work a tick does for the hostile guest is bounded;
 *   - a broken uplink stays broken, unread and unanswered, until the operator's attach;
 *   - what is queued for a guest that does not read is bounded.
 */
#include "world.h"

#include "input.h"

#define OPS_MAX 120
#define BUDGET 256u		/* messages in a tick: uplink.c */
#define TOLD_MAX 128u		/* of what a tick may bring an honest guest */

enum op {
	OP_HELLO, OP_MESSAGE, OP_RAW, OP_SCRIBBLE, OP_READ, OP_TICK, OP_BELLS, OP_FLOOD, OP_PAIR, OP_ATTACH,
	OP_DETACH, OP_RESET, OP_ADOPT, OP_LINK_STATE, OPS
};

static struct input in;
static bool inside;		/* the daemon is at work */
static unsigned int parsed;	/* messages of the hostile guest, since the last tick */
static bool operated;		/* by the operator, since then */

static struct guest *hostile(void)
{
	return &world.guest[0];
}

static bool is_hostile_memory(const void *p)
{
	const struct segment *s = hostile()->vm ? hostile()->vm->uplink.seg : NULL;

	return s && (const uint8_t *)p >= s->map && (const uint8_t *)p < s->map + s->spec.size;
}

void fuzz_load(const void *p)
{
	uint8_t how;

	if (!inside || !is_hostile_memory(p))
		return;
	how = input_last(&in);
	if (how >= 0xf8)
		*(uint64_t *)(uintptr_t)p = input_last_word(&in, 8);
	else if (how >= 0xf0)
		*(uint64_t *)(uintptr_t)p += input_last_word(&in, 2);
}

static void on_message(const void *raw)
{
	if (!is_hostile_memory(raw))
		return;
	parsed++;
	DEMAND(!hostile()->vm->uplink.broken);
}

/* --- what the hostile guest does --- */

static void message(void)
{
	union {
		union shunt_msg_up m;
		uint8_t bytes[512];
	} u = { 0 };
	uint16_t type = input_byte(&in) % 9;
	size_t len = sizeof(u.m);

	switch (type) {
	case SHUNT_ABI_MSG_HELLO:
		u.m.hello.version_min = u.m.hello.version_max = 1;
		u.m.hello.generation = 1 + input_byte(&in);
		break;
	case SHUNT_ABI_MSG_ROSTER_ACK:
		u.m.ack.roster_gen = hostile()->vm->roster_gen;
		break;
	case SHUNT_ABI_MSG_WANT:
		u.m.want.vm_id = 1 + input_byte(&in) % 4;
		break;
	case SHUNT_ABI_MSG_STATS:
		u.m.stats.segment_id = hostile()->open[1 + (input_byte(&in) & 1)].segment_id;
		break;
	case SHUNT_ABI_MSG_BYE:
		u.m.bye.reason = input_byte(&in) % (SHUNT_ABI_R_MAX + 1);
		break;
	}
	for (int i = input_byte(&in) % 6; i > 0; i--)
		u.bytes[input_word(&in, 2) % sizeof(u.m)] = input_byte(&in);
	if (input_byte(&in) & 1)
		len = input_word(&in, 2) % sizeof(u.bytes);
	guest_send(hostile(), &u, len < sizeof(u.m.msg) ? sizeof(u.m.msg) : len, type);
}

static void link_state(void)
{
	struct guest *g = hostile();
	const struct shunt_abi_msg_link_open *open = &g->open[1 + (input_byte(&in) & 1)];
	struct shunt_abi_msg_link_state m = {
		.segment_id = open->segment_id, .epoch = open->epoch - (input_byte(&in) & 1),
		.state = input_byte(&in) % 8, .reason = input_byte(&in) % (SHUNT_ABI_R_MAX + 1),
		.peer_member = open->peer_member,
	};

	if (input_byte(&in) % 4 == 0)	/* a link that is not its own */
		m.segment_id = world.guest[1].open[2].segment_id;
	guest_send(g, &m, sizeof(m), SHUNT_ABI_MSG_LINK_STATE);
}

static void raw_record(void)
{
	struct guest *g = hostile();
	uint32_t len = (uint32_t)input_word(&in, 2) % 1200;
	void *to;

	if (shunt_rec_reserve(&g->up, len, &to))
		return;
	for (uint32_t i = 0; i < len; i++)
		((uint8_t *)to)[i] = i < 24 ? input_byte(&in) : 0;
	shunt_rec_commit(&g->up, len);
	shunt_producer_publish(&g->up);
	segment_ring(g->vm->uplink.seg, 0, SHUNT_ABI_VECTOR_CONTROL);
}

static void scribble(uint8_t *map, uint64_t from, uint64_t words)
{
	uint64_t *at = (uint64_t *)(map + from) + input_word(&in, 2) % words;

	if (input_byte(&in) & 1)
		*at += input_byte(&in);
	else
		*at = input_word(&in, 8);
}

static void scribble_pair(void)
{
	struct pair *p = pair_find(&world.d, hostile()->vm, world.guest[1].vm);

	if (p && p->seg)
		scribble(p->seg->map, 0, 8192);
}

static void bells(unsigned int n)
{
	while (n--) {
		segment_ring(hostile()->vm->uplink.seg, 0, SHUNT_ABI_VECTOR_CONTROL);
		sd_event_run(world.d.event, 0);
	}
}

static void flood(void)
{
	struct shunt_abi_msg_want m = { .vm_id = 1 + input_byte(&in) % 4 };

	for (int i = input_byte(&in) * 2; i > 0; i--) {
		if (!guest_send(hostile(), &m, sizeof(m), i & 64 ? 40 : SHUNT_ABI_MSG_WANT))
			world_round();
	}
}

/* A restarted daemon goes on at the indices it finds. */
static void adopt(void)
{
	struct uplink *u = &hostile()->vm->uplink;

	if (u->broken)
		return;
	u->bell = sd_event_source_disable_unref(u->bell);
	uplink_start(hostile()->vm, true);
}

static void attach(void)
{
	struct guest *g = hostile();
	bool was_broken = g->vm->uplink.broken;
	struct shunt_abi_mailbox *box = segment_mailbox(g->vm->uplink.seg, 1);

	vm_reattach(g->vm);
	operated = true;
	if (!was_broken)
		return;
	DEMAND(!g->vm->uplink.broken);
	shunt_producer_init(&g->up, &box->up_ctl, box->up, SHUNT_ABI_MAILBOX_RING);
	shunt_consumer_init(&g->down, &box->down_ctl, box->down, SHUNT_ABI_MAILBOX_RING);
	guest_hello(g, 9);
}

static void act(enum op op)
{
	struct guest *g = hostile();

	switch (op) {
	case OP_HELLO:
		guest_hello(g, input_byte(&in));
		break;
	case OP_MESSAGE:
		message();
		break;
	case OP_LINK_STATE:
		link_state();
		break;
	case OP_RAW:
		raw_record();
		break;
	case OP_SCRIBBLE:	/* its control blocks, and the start of each ring */
		scribble((uint8_t *)segment_mailbox(g->vm->uplink.seg, 1), 0, 600);
		break;
	case OP_READ:
		guest_read(g);
		break;
	case OP_BELLS:
		bells(input_byte(&in));
		break;
	case OP_FLOOD:
		flood();
		break;
	case OP_PAIR:
		scribble_pair();
		break;
	case OP_ATTACH:
		attach();
		break;
	case OP_DETACH:
		g->vm->detached = true;
		world.d.dirty = operated = true;
		break;
	case OP_RESET:
		vm_guest_left(g->vm, "RESET");
		operated = true;
		break;
	case OP_ADOPT:
		adopt();
		break;
	default:
		break;
	}
}

/* --- what must hold --- */

static void check_others(uint32_t epoch)
{
	const struct pair *p = pair_find(&world.d, world.guest[1].vm, world.guest[2].vm);
	size_t pairs = 0;
	const struct pair *each;

	for (unsigned int n = 1; n < WORLD_GUESTS; n++) {
		const struct vm *vm = world.guest[n].vm;

		DEMAND(vm->hello && !vm->uplink.broken && !vm->uplink.bad_msgs && !vm->uplink.unknown_msgs);
		DEMAND(!vm->uplink.masked || operated);
		DEMAND(operated || world.guest[n].received <= TOLD_MAX);
	}
	DEMAND(p && p->state == PAIR_UP && p->seg->spec.epoch == epoch && !p->broken);
	TAILQ_FOREACH(each, &world.d.pairs, link)
		pairs++;
	DEMAND(pairs <= WORLD_GUESTS * (WORLD_GUESTS - 1) / 2);
}

static void step(enum op op, uint32_t epoch)
{
	struct uplink *u = &hostile()->vm->uplink;
	uint32_t was = u->broken;

	inside = true;
	if (op == OP_TICK) {
		parsed = 0;
		operated = false;
		world_tick();
	} else {
		act(op);
		world_round();
	}
	inside = false;
	DEMAND(parsed <= BUDGET || operated);
	DEMAND(!was || u->broken == was || op == OP_ATTACH);
	DEMAND(!u->broken || (!u->bell && !hostile()->vm->hello));
	DEMAND(u->out_len <= 4096);
	check_others(epoch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t epoch;

	in = (struct input){ data, data + size };
	world_on_message = on_message;
	world_start();
	epoch = pair_find(&world.d, world.guest[1].vm, world.guest[2].vm)->seg->spec.epoch;
	check_others(epoch);
	parsed = 0;
	operated = false;
	for (int i = 0; i < OPS_MAX && input_left(&in); i++)
		step(input_byte(&in) % OPS, epoch);
	world_stop();
	return 0;
}
