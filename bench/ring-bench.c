// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * ring-bench: the rings between two processes on two cores, beside what the machine can do at best.
 *
 *  - round trip: a 48-byte record (with its header one line) there and one back, both ends polling, beside
 *    one cache line written there and one back; space is released once per record, after the answer is on its
 *    way. How the limit polls matters by tens of nanoseconds and
 *    differs between machines, so it is measured both with a pause instruction in the loop and without, and
 *    the faster of the two counts
 *  - bulk: 64 KiB records, copied in by the producer and out by the consumer, beside the same two copies
 *    through two buffers with a full/empty flag each
 *
 * Rounds of the pairs alternate, so that whatever else the machine does hits both, and are short (tenths of a
 * millisecond), so that most of them are not interrupted at all; medians and the ratios' spread are printed.
 * Exit status 1 if a ratio misses its floor (round trip at most 1.3 times the line's, bulk at least 0.8 of
 * the copies').
 */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "core/ring.h"

#define ROUNDS_DEFAULT 801
#define ROUNDS_MAX 4096
#define TRIPS 300		/* per round */
#define BULKS 60		/* records per round */
#define SMALL 48
#define BULK 65536
#define SMALL_RING 65536u
#define BULK_RING (256u << 10)
#define TRIP_MAX 1.3
#define BULK_MIN 0.8

struct line {
	uint64_t v;
	uint64_t pad[7];
} __attribute__((aligned(64)));

struct shared {
	struct line ping, pong, turn[2], full[2];
	struct shunt_abi_ring ctl[3] __attribute__((aligned(64)));
	uint8_t ring[2][SMALL_RING] __attribute__((aligned(4096)));
	uint8_t bulk_ring[BULK_RING] __attribute__((aligned(4096)));
	uint8_t buffer[2][BULK] __attribute__((aligned(4096)));
};

struct end {
	int id;			/* 0 measures, 1 answers */
	struct shared *sh;
	struct shunt_producer tx, bulk_tx;
	struct shunt_consumer rx, bulk_rx;
	uint64_t count, turns, bulks;
	uint8_t mine[BULK] __attribute__((aligned(64)));
};

static void relax(void)
{
	__builtin_ia32_pause();
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "ring-bench: %s\n", what);
	exit(2);
}

static void wait_hard(uint64_t *p, uint64_t v)
{
	while (__atomic_load_n(p, __ATOMIC_ACQUIRE) != v)
		;
}

static void wait_for(uint64_t *p, uint64_t v)
{
	while (__atomic_load_n(p, __ATOMIC_ACQUIRE) != v)
		relax();
}

/* Both ends begin a round together. */
static void meet(struct end *e)
{
	__atomic_store_n(&e->sh->turn[e->id].v, ++e->turns, __ATOMIC_RELEASE);
	while (__atomic_load_n(&e->sh->turn[!e->id].v, __ATOMIC_ACQUIRE) < e->turns)
		relax();	/* the other may be one ahead already */
}

static double line_round(struct end *e, void (*wait)(uint64_t *, uint64_t))
{
	uint64_t start, i;

	meet(e);
	start = now_ns();
	for (i = 0; i < TRIPS; i++) {
		e->count++;
		if (e->id == 0) {
			__atomic_store_n(&e->sh->ping.v, e->count, __ATOMIC_RELEASE);
			wait(&e->sh->pong.v, e->count);
		} else {
			wait(&e->sh->ping.v, e->count);
			__atomic_store_n(&e->sh->pong.v, e->count, __ATOMIC_RELEASE);
		}
	}
	return (double)(now_ns() - start) / TRIPS;
}

static void put(struct end *e, uint64_t v)
{
	void *at;

	if (shunt_rec_reserve(&e->tx, SMALL, &at))
		die("no room");
	memcpy(at, &v, sizeof(v));
	memset((uint8_t *)at + sizeof(v), 1, SMALL - sizeof(v));
	shunt_rec_commit(&e->tx, SMALL);
	if (shunt_producer_publish(&e->tx) < 0)
		die("publish");
}

static uint64_t take(struct end *e)
{
	uint8_t copy[SMALL];
	const void *at;
	uint64_t v;
	__u32 len;

	while (!shunt_consumer_pending(&e->rx))
		;
	if (shunt_rec_peek(&e->rx, &at, &len) || len != SMALL)
		die("peek");
	memcpy(copy, at, SMALL);
	memcpy(&v, copy, sizeof(v));
	shunt_rec_consume(&e->rx);
	return v;
}

/* Space goes back when the answer is on its way: nobody waits for it. */
static void give_back(struct end *e)
{
	if (shunt_consumer_release(&e->rx) < 0)
		die("release");
}

static double trip_round(struct end *e)
{
	uint64_t start, i;

	meet(e);
	start = now_ns();
	for (i = 0; i < TRIPS; i++) {
		if (e->id == 0) {
			put(e, i);
			give_back(e);
			if (take(e) != ~i)
				die("wrong answer");
		} else {
			put(e, ~take(e));
			give_back(e);
		}
	}
	give_back(e);
	return (double)(now_ns() - start) / TRIPS;
}

/* Two buffers, each with a flag: the number of the record in it, or 0 when it was taken. */
static void copy_one(struct end *e, uint64_t n)
{
	struct shared *sh = e->sh;

	if (e->id == 0) {
		wait_for(&sh->full[n & 1].v, 0);
		e->mine[0] = (uint8_t)n;
		memcpy(sh->buffer[n & 1], e->mine, BULK);
		__atomic_store_n(&sh->full[n & 1].v, n, __ATOMIC_RELEASE);
	} else {
		wait_for(&sh->full[n & 1].v, n);
		memcpy(e->mine, sh->buffer[n & 1], BULK);
		if (e->mine[0] != (uint8_t)n)
			die("wrong copy");
		__atomic_store_n(&sh->full[n & 1].v, 0, __ATOMIC_RELEASE);
	}
}

static void bulk_one(struct end *e, uint64_t n)
{
	const void *from;
	void *at;
	__u32 len;
	int err;

	if (e->id == 0) {
		while ((err = shunt_rec_reserve(&e->bulk_tx, BULK, &at)) == -ENOSPC)
			relax();
		if (err)
			die("bulk reserve");
		e->mine[0] = (uint8_t)n;
		memcpy(at, e->mine, BULK);
		shunt_rec_commit(&e->bulk_tx, BULK);
		if (shunt_producer_publish(&e->bulk_tx) < 0)
			die("bulk publish");
		return;
	}
	while (!shunt_consumer_pending(&e->bulk_rx))
		relax();
	if (shunt_rec_peek(&e->bulk_rx, &from, &len) || len != BULK)
		die("bulk peek");
	memcpy(e->mine, from, BULK);
	if (e->mine[0] != (uint8_t)n)
		die("wrong record");
	shunt_rec_consume(&e->bulk_rx);
	if (shunt_consumer_release(&e->bulk_rx) < 0)
		die("bulk release");
}

/* Gbit/s until the consumer has the last record. */
static double stream_round(struct end *e, void (*one)(struct end *, uint64_t))
{
	uint64_t start, i;

	meet(e);
	start = now_ns();
	for (i = 0; i < BULKS; i++)
		one(e, ++e->bulks);
	meet(e);
	return (double)BULK * BULKS * 8 / (double)(now_ns() - start);
}

static void pin(int index)
{
	cpu_set_t all, one;
	int cpu, seen = 0;

	sched_getaffinity(0, sizeof(all), &all);
	if (CPU_COUNT(&all) < 2) {
		printf("ring-bench: needs two CPUs\n");
		exit(77);
	}
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && seen++ == index)
			break;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		die("cannot pin");
}

static struct end *set_up(struct shared *sh, int id)
{
	struct end *e = aligned_alloc(64, (sizeof(*e) + 63) & ~63ul);

	memset(e, 0, sizeof(*e));
	e->id = id;
	e->sh = sh;
	shunt_producer_init(&e->tx, &sh->ctl[id], sh->ring[id], SMALL_RING);
	shunt_consumer_init(&e->rx, &sh->ctl[!id], sh->ring[!id], SMALL_RING);
	shunt_producer_init(&e->bulk_tx, &sh->ctl[2], sh->bulk_ring, BULK_RING);
	shunt_consumer_init(&e->bulk_rx, &sh->ctl[2], sh->bulk_ring, BULK_RING);
	memset(e->mine, 1, sizeof(e->mine));
	return e;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double quantile(const double *v, int n, double q)
{
	double sorted[ROUNDS_MAX];

	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), by_value);
	return sorted[(int)(q * (n - 1) + 0.5)];
}

/* The ratio of each pair, then its median. */
static double report(const char *what, const char *unit, const double *ring, const double *limit, int n)
{
	double ratio[ROUNDS_MAX];
	int i;

	for (i = 0; i < n; i++)
		ratio[i] = ring[i] / limit[i];
	printf("%-12s ring %8.1f %s, limit %8.1f %s, ratio %.2f (quartiles %.2f .. %.2f, %d pairs)\n", what,
	       quantile(ring, n, 0.5), unit, quantile(limit, n, 0.5), unit, quantile(ratio, n, 0.5),
	       quantile(ratio, n, 0.25), quantile(ratio, n, 0.75), n);
	return quantile(ratio, n, 0.5);
}

int main(int argc, char **argv)
{
	static double line[ROUNDS_MAX], trip[ROUNDS_MAX], copy[ROUNDS_MAX], bulk[ROUNDS_MAX];
	int rounds = argc > 1 ? atoi(argv[1]) : ROUNDS_DEFAULT, i, status;
	double trip_ratio, bulk_ratio, hard;
	struct shared *sh;
	struct end *e;
	pid_t child;

	if (rounds < 10 || rounds > ROUNDS_MAX)
		die("usage: ring-bench [PAIRS], 10 .. 4096");
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (sh == MAP_FAILED)
		die("mmap");
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(child == 0);
	e = set_up(sh, child == 0);
	line_round(e, wait_for);	/* warm up */
	trip_round(e);
	for (i = 0; i < rounds; i++) {
		line[i] = line_round(e, wait_for);
		hard = line_round(e, wait_hard);
		if (hard < line[i])
			line[i] = hard;
		trip[i] = trip_round(e);
		copy[i] = stream_round(e, copy_one);
		bulk[i] = stream_round(e, bulk_one);
	}
	if (child == 0)
		_exit(0);
	if (waitpid(child, &status, 0) != child || status)
		die("the other end failed");
	trip_ratio = report("round trip", "ns", trip, line, rounds);
	bulk_ratio = report("64 KiB", "Gbit/s", bulk, copy, rounds);
	printf("floors: round trip <= %.1f: %s, 64 KiB >= %.1f: %s\n", TRIP_MAX,
	       trip_ratio <= TRIP_MAX ? "met" : "MISSED", BULK_MIN, bulk_ratio >= BULK_MIN ? "met" : "MISSED");
	return trip_ratio > TRIP_MAX || bulk_ratio < BULK_MIN;
}
