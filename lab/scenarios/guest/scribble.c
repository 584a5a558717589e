// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A hostile end of a pair, fast: it owns a device that its driver let go of (as hostile.py does) and
 *
 *   scribble ADDRESS storm MEMBER VECTOR...              rings these doorbells until it is killed
 *   scribble ADDRESS attack SEED OWN-MAC VICTIM-MAC      joins every link the victim offers; sends frames with
 *       impossible metadata, garbage in events and liveness, then forges indices, records and states and writes
 *       all over the segment until the victim has had enough, and on while it is scrubbed; then again
 *
 * It says what it does, a line a round.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <shunt/abi/segment.h>

#define FREE_ADDRESS 0xe0000000u	/* a guest of the lab has neither memory nor devices there */
#define REG_IVPOSITION 2
#define REG_DOORBELL 3

static volatile uint32_t *regs;
static uint8_t *mem;
static uint64_t size;
static uint32_t own, peer;
static volatile struct shunt_abi_member *me, *victim;
static volatile struct shunt_abi_ring *tx, *rx;
static uint8_t *extent;
static uint64_t extent_size, prod, seed;
static uint8_t addresses[12];		/* to the victim, from here */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void ring(uint32_t vector)
{
	regs[REG_DOORBELL] = peer << 16 | vector;
}

/* --- the device --- */

static void *map_file(const char *path, size_t len, off_t at)
{
	int fd = open(path, O_RDWR | O_SYNC);
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);

	if (fd >= 0)
		close(fd);
	return p;
}

static char config_path[256];
static uint32_t old_bar;

static void restore(int number)
{
	int fd = open(config_path, O_RDWR);

	if (fd < 0 || lseek(fd, 0x10, SEEK_SET) < 0 || write(fd, &old_bar, 4) != 4)
		_exit(1);
	_exit(128 + number);
}

/*
 * BAR 0 is smaller than a page, and shares it with the uplink's, which a driver holds: give it a page of its own,
 * until SIGTERM.
 */
static void *map_registers(const char *base, uint64_t start)
{
	char path[256];
	uint32_t to = FREE_ADDRESS;
	uint8_t *page;
	int fd;

	snprintf(path, sizeof(path), "%s/resource0", base);
	page = map_file(path, 4096, 0);
	if (page != MAP_FAILED)
		return page + (start & 4095);
	snprintf(config_path, sizeof(config_path), "%s/config", base);
	fd = open(config_path, O_RDWR);
	if (fd < 0 || pread(fd, &old_bar, 4, 0x10) != 4)
		die(config_path);
	signal(SIGTERM, restore);
	if (pwrite(fd, &to, 4, 0x10) != 4)
		die(config_path);
	close(fd);
	page = map_file("/dev/mem", 4096, FREE_ADDRESS);
	if (page == MAP_FAILED)
		die("/dev/mem");
	return page;
}

static void open_device(const char *address)
{
	char base[128], path[256];
	uint64_t start[3], end[3];
	FILE *f;

	snprintf(base, sizeof(base), "/sys/bus/pci/devices/%s", address);
	snprintf(path, sizeof(path), "%s/resource", base);
	f = fopen(path, "r");
	for (int i = 0; i < 3; i++)
		if (!f || fscanf(f, "%lx %lx %*x", &start[i], &end[i]) != 2)
			die(path);
	fclose(f);
	regs = map_registers(base, start[0]);
	size = end[2] - start[2] + 1;
	snprintf(path, sizeof(path), "%s/resource2", base);
	mem = map_file(path, size, 0);
	if (mem == MAP_FAILED)
		die(path);
	own = regs[REG_IVPOSITION];
	peer = 3 - own;
}

/* Taken once: later the header may be our own garbage. */
static void find_rings(void)
{
	const struct shunt_abi_segment *h = (void *)mem;
	struct shunt_abi_channel ch;
	int out = own < peer ? 0 : 1;

	if (h->magic != SHUNT_ABI_MAGIC || h->kind != SHUNT_ABI_PAIR) {
		fprintf(stderr, "no pair here\n");
		exit(1);
	}
	memcpy(&ch, mem + h->channel_off, sizeof(ch));
	me = (void *)(mem + h->member_off + own * sizeof(*me));
	victim = (void *)(mem + h->member_off + peer * sizeof(*me));
	tx = (void *)(mem + ch.dir[out].ctl_off);
	rx = (void *)(mem + ch.dir[!out].ctl_off);
	extent = mem + ch.dir[out].ext_off;
	extent_size = ch.dir[out].ext_size;
}

/* --- frames --- */

static void put_header(uint64_t at, uint32_t len, uint16_t type)
{
	struct shunt_abi_rec rec = { .len = len, .type = type };

	memcpy(extent + at, &rec, sizeof(rec));
}

/* A record that is in order; false if there is no room. */
static bool put(const void *payload, uint32_t len)
{
	uint64_t total = 16 + ((len + 15) & ~15u), at = prod & (extent_size - 1), left = extent_size - at;
	uint64_t skip = left < total ? left : 0;

	if (prod + skip + total - tx->cons > extent_size)
		return false;
	if (skip) {
		put_header(at, (uint32_t)(skip - 16), SHUNT_ABI_REC_SKIP);
		prod += skip;
		at = 0;
	}
	memcpy(extent + at + 16, payload, len);
	put_header(at, len, SHUNT_ABI_REC_DATA);
	prod += total;
	__atomic_store_n(&tx->prod, prod, __ATOMIC_SEQ_CST);
	return true;
}

/* A frame the victim may get from us by its addresses; everything else of it is chance. */
static void garbage_frame(void)
{
	static const uint8_t kinds[] = { 0, 1, 4, 5, 0x80, 0x81, 0x84, 3 };
	static const uint16_t types[] = { 0x0008, 0xdd86, 0x0608, 0x0081 };
	static uint8_t frame[16 + 70000];
	struct shunt_abi_pkt pkt = {
		.flags = (uint8_t)chance(),
		.gso_type = kinds[chance() % 8],
		.hdr_len = (uint16_t)(chance() % 4 ? chance() % 128 : chance()),
		.gso_size = (uint16_t)(chance() % 4 ? chance() % 2000 : chance()),
		.csum_start = (uint16_t)(chance() % 4 ? 34 : chance() % 200),
		.csum_offset = (uint16_t)(chance() % 4 ? 16 : chance()),
	};
	uint32_t len = 14 + (uint32_t)(chance() % 4 ? chance() % 200 : chance() % 66000);
	uint16_t type = types[chance() % 8 ? chance() % 2 : chance() % 4];

	memcpy(frame, &pkt, sizeof(pkt));
	memcpy(frame + 16, addresses, 12);
	memcpy(frame + 28, &type, 2);
	for (uint32_t i = 30; i < 16 + len && i < 120; i++)
		frame[i] = (uint8_t)chance();
	if (chance() % 4) {	/* looks like TCP or UDP over IPv4 or IPv6 */
		frame[30] = type == types[0] ? 0x45 : 0x60;
		frame[30 + (type == types[0] ? 9 : 6)] = chance() % 2 ? 6 : 17;
		frame[62] = 0x50;
	}
	put(frame, 16 + (len > SHUNT_ABI_PKT_FRAME_MAX ? SHUNT_ABI_PKT_FRAME_MAX : len));
}

/* --- rounds --- */

/*
 * The victim says once that it is READY. Where our own garbage hit those words its epoch is guessed, from the last one
 * that was seen: it counts up with every link.
 */
static void join(uint32_t *epoch)
{
	static uint32_t seen, tries;
	double until = now() + 1;

	while ((victim->state != SHUNT_ABI_READY || victim->epoch == *epoch) && now() < until)
		usleep(2000);
	*epoch = victim->epoch;
	if (victim->state == SHUNT_ABI_READY && *epoch - seen < 1000)
		seen = *epoch;
	else
		*epoch = seen + 1 + tries++ % 8;
	prod = 0;
	me->epoch = *epoch;
	me->generation = chance();
	__atomic_store_n(&me->state, SHUNT_ABI_READY, __ATOMIC_SEQ_CST);
	ring(SHUNT_ABI_VECTOR_CONTROL);
}

/* What a peer may do without breaking anything, badly. */
static void annoy(double seconds)
{
	double until = now() + seconds;

	while (now() < until && victim->state == SHUNT_ABI_READY) {
		me->liveness++;
		for (int i = 0; i < 8; i++)
			garbage_frame();
		rx->data_event = chance() % 2 ? chance() : rx->prod;
		tx->space_event = chance() % 2 ? chance() : tx->cons;
		rx->cons = rx->prod & ~SHUNT_ABI_RING_SEALED;
		me->running = (uint32_t)chance();
		me->doorbells = (uint32_t)chance();
		((volatile uint64_t *)me)[8 + chance() % 8] = chance();	/* the second line */
		ring(SHUNT_ABI_VECTOR_CHANNEL);
		usleep(1000);
	}
}

static uint64_t garbage_word(void)
{
	switch (chance() % 6) {
	case 0:
		return chance();
	case 1:
		return tx->prod + chance() % 4096;
	case 2:
		return rx->prod - chance() % 4096;
	case 3:
		return chance() % 1024;
	case 4:
		return (chance() % 70000) | 1ull << 32;		/* a record header */
	default:
		return SHUNT_ABI_RING_SEALED | chance() % 65536;
	}
}

/* One rule broken, or all; by single words, so that the victim meets them between any two of its looks. */
static void forge(unsigned int kind)
{
	volatile uint64_t *words = (void *)mem, *at;

	switch (kind % 8) {
	case 0:
		tx->prod = garbage_word();
		break;
	case 1:
		rx->cons = garbage_word();
		break;
	case 2:
		put_header(tx->cons & (extent_size - 1) & ~15ull, (uint32_t)garbage_word(), (uint16_t)(chance() % 4));
		tx->prod = prod += 16 * (chance() % 64);
		break;
	case 3:
		tx->move_seq = chance();
		tx->move_pos = prod;
		tx->move_off = garbage_word();
		tx->move_size = garbage_word();
		tx->prod = prod += 64;
		break;
	case 4:
		me->state = (uint32_t)garbage_word();
		me->epoch = (uint32_t)garbage_word();
		break;
	case 5:		/* header, members, directory; but seldom where the victim says that it is READY again */
		at = &words[chance() % 512];
		if (at < (volatile uint64_t *)victim || at >= (volatile uint64_t *)(victim + 1))
			*at = garbage_word();
		break;
	case 6:		/* the other's words */
		rx->prod = garbage_word();
		tx->cons = garbage_word();
		break;
	default:
		words[chance() % (size / 8)] = garbage_word();
		break;
	}
}

static void attack(void)
{
	uint32_t epoch = 0;

	for (unsigned int round = 1;; round++) {
		unsigned int kind = (unsigned int)chance();
		double until;

		join(&epoch);
		printf("round %u: epoch %u, kind %u\n", round, epoch, kind % 9);
		fflush(stdout);
		annoy(0.2);
		for (until = now() + 3; now() < until && victim->state == SHUNT_ABI_READY;) {
			forge(kind % 9 == 8 ? (unsigned int)chance() : kind % 9);
			if (chance() % 64 == 0) {
				ring((uint32_t)(chance() % 4));
				usleep(200);
			}
		}
		for (until = now() + 0.3; now() < until;)	/* while the link is closed and scrubbed */
			forge((unsigned int)chance());
	}
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	open_device(argv[1]);
	if (!strcmp(argv[2], "storm")) {
		printf("ringing\n");
		fflush(stdout);
		peer = (uint32_t)atoi(argv[3]);
		for (unsigned long n = 0;; n++)
			ring((uint32_t)atoi(argv[4 + n % (unsigned int)(argc - 4)]));
	}
	seed = strtoull(argv[3], NULL, 10) * 0x9e3779b97f4a7c15ull | 1;
	for (int i = 0; i < 12; i++)
		addresses[i] = (uint8_t)strtoul((i < 6 ? argv[5] : argv[4]) + 3 * (i % 6), NULL, 16);
	find_rings();
	attack();
	return 0;
}
