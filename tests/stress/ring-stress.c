// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * ring-stress: one producer, one consumer, in two processes over a memfd or (-DTHREADS, for the thread
 * sanitizer) in two threads; records or bytes, random sizes and batches, random moves between extents, and
 * a seal at a random moment by either end or by a third thread.
 *
 * Every byte is a function of its round and position and is compared; at the end of a round what the
 * consumer took, what the producer published and what the seal fixed must be one position. An end that waits
 * sleeps on its eventfd as arm tells it to: a wake-up that does not come within STRESS_TIMEOUT_MS is lost.
 *
 * Runs STRESS_MS (default 2000; with SOAK=1 60000). The seed is printed; STRESS_SEED repeats its choices.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/ring.h"

#ifdef THREADS
#define IN_THREADS true
#else
#define IN_THREADS false
#endif

#define EXTENTS 4
#define EXTENT_MAX 65536u

static const uint32_t extent_size[EXTENTS] = { 4096, 8192, 16384, EXTENT_MAX };

struct shared {
	struct shunt_abi_ring ctl __attribute__((aligned(64)));
	uint8_t extent[EXTENTS][EXTENT_MAX] __attribute__((aligned(4096)));
	/* of the test, not of the ring */
	pthread_barrier_t barrier;
	uint64_t published, sealed_at, sleeps[2], moves, rounds, bytes;
	int stop;
};

static struct shared *sh;
static int bell[2];		/* 0: the producer's, 1: the consumer's */
static uint64_t seed, timeout_ms, run_ms;
static bool tracing;

static uint64_t env(const char *name, uint64_t otherwise)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : otherwise;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

static uint64_t mix(uint64_t v)	/* splitmix64 (Steele, Lea, Flood 2014) */
{
	v += 0x9e3779b97f4a7c15ull;
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

struct rng {
	uint64_t state;
};

static uint32_t pick(struct rng *r, uint32_t n)
{
	return (uint32_t)(mix(r->state++) >> 32) % n;
}

static void fail(const char *what, uint64_t round, uint64_t a, uint64_t b)
{
	fprintf(stderr, "ring-stress: %s (round %llu, seed %llu): %llu, %llu; prod %llx cons %llx data_event %llx space_event %llx\n",
		what, (unsigned long long)round, (unsigned long long)seed, (unsigned long long)a,
		(unsigned long long)b, (unsigned long long)__atomic_load_n(&sh->ctl.prod, __ATOMIC_RELAXED),
		(unsigned long long)__atomic_load_n(&sh->ctl.cons, __ATOMIC_RELAXED),
		(unsigned long long)__atomic_load_n(&sh->ctl.data_event, __ATOMIC_RELAXED),
		(unsigned long long)__atomic_load_n(&sh->ctl.space_event, __ATOMIC_RELAXED));
	_exit(1);
}

static void ring_bell(int end)
{
	uint64_t one = 1;

	if (write(bell[end], &one, sizeof(one)) != sizeof(one) && errno != EAGAIN)
		_exit(3);
}

/* Sleep until the bell; false: the time was up. */
static bool sleep_on(int end, int ms)
{
	struct pollfd pfd = { .fd = bell[end], .events = POLLIN };
	uint64_t count;
	int n;

	__atomic_add_fetch(&sh->sleeps[end], 1, __ATOMIC_RELAXED);
	do {
		n = poll(&pfd, 1, ms);
	} while (n < 0 && errno == EINTR);
	return n == 1 && read(bell[end], &count, sizeof(count)) == sizeof(count);
}

/* What both ends know of a round without talking. */
struct round {
	uint64_t number, key;
	bool bytes;
	uint32_t first;		/* extent */
	uint32_t sealer;	/* 0 producer, 1 consumer, 2 a third thread */
	uint32_t seal_at;	/* items */
	uint32_t patience;	/* polls before arming, up to */
	uint32_t moving;	/* one item in so many moves; 0: none */
};

static struct round round_make(uint64_t number)
{
	struct rng r = { mix(seed ^ mix(number)) };
	struct round d = { .number = number, .key = mix(r.state + 77) };

	d.bytes = pick(&r, 2);
	d.first = pick(&r, EXTENTS);
	d.sealer = pick(&r, 3);
	d.seal_at = pick(&r, 4) ? pick(&r, 800) : pick(&r, 8);
	d.patience = (uint32_t[]){ 0, 0, 3, 200 }[pick(&r, 4)];
	d.moving = (uint32_t[]){ 0, 500, 30, 3 }[pick(&r, 4)];
	return d;
}

static uint8_t byte_of(const struct round *d, uint64_t pos)
{
	return (uint8_t)(mix(d->key + (pos >> 3)) >> (pos & 7) * 8);
}

static void fill(const struct round *d, uint8_t *to, uint64_t pos, uint64_t len)
{
	while (len--)
		*to++ = byte_of(d, pos++);
}

static void compare(const struct round *d, const uint8_t *from, uint64_t pos, uint64_t len)
{
	for (; len; len--, from++, pos++)
		if (*from != byte_of(d, pos))
			fail("wrong byte", d->number, pos, *from);
}

/* Length of record @n: fits the smallest extent, mostly short. */
static uint32_t record_len(const struct round *d, uint64_t n)
{
	uint64_t v = mix(d->key ^ (n + 1) * 31);

	return v % 8 ? v >> 8 & 127 : (v >> 8) % (shunt_rec_max(4096) + 1);
}

static void seal(const struct round *d)
{
	uint64_t final = shunt_ring_seal(&sh->ctl);

	__atomic_store_n(&sh->sealed_at, final, __ATOMIC_RELAXED);
	ring_bell(0);
	ring_bell(1);
	if (tracing)
		fprintf(stderr, "round %llu sealed at %llu\n", (unsigned long long)d->number,
			(unsigned long long)final);
}

static void *seal_thread(void *arg)
{
	const struct round *d = arg;
	uint64_t until = (uint64_t)d->seal_at * 8;

	while (until-- && !(__atomic_load_n(&sh->ctl.prod, __ATOMIC_RELAXED) & SHUNT_ABI_RING_SEALED))
		if (until % 64 == 0)
			sched_yield();
	seal(d);
	return NULL;
}

struct prod {
	struct shunt_producer p;
	struct round d;
	struct rng r;
	uint64_t items, pos;	/* published and staged */
	uint32_t extent;
};

static int stage(struct prod *s)
{
	uint64_t len = s->d.bytes ? 1 + pick(&s->r, 3000) : record_len(&s->d, s->items);
	void *at;
	int err;

	if (s->d.bytes) {
		__u64 some = len;

		err = shunt_bytes_reserve(&s->p, &some, &at);
		if (err)
			return err;
		fill(&s->d, at, s->pos, some);
		shunt_bytes_commit(&s->p, some);
		len = some;
	} else {
		err = shunt_rec_reserve(&s->p, len, &at);
		if (err)
			return err;
		fill(&s->d, at, s->pos, len);
		shunt_rec_commit(&s->p, len);
	}
	s->pos += len;
	s->items++;
	return 0;
}

static int publish(struct prod *s)
{
	int ret = shunt_producer_publish(&s->p);

	if (ret == 1)
		ring_bell(1);
	return ret < 0 ? ret : 0;
}

static int wait_for_space(struct prod *s)
{
	uint32_t polls = s->d.patience ? pick(&s->r, s->d.patience) : 0;
	int ret;

	for (; polls; polls--)
		if (shunt_producer_unread(&s->p) == 0)
			return 0;
	ret = shunt_producer_arm(&s->p);
	if (ret < 0)
		return ret;
	if (ret && !sleep_on(0, (int)timeout_ms))
		fail("producer's wake-up lost", s->d.number, s->p.prod, s->p.cons);
	return 0;
}

static int maybe_move(struct prod *s)
{
	uint32_t to = pick(&s->r, EXTENTS);
	int err;

	if (!s->d.moving || pick(&s->r, s->d.moving) || to == s->extent || s->p.head != s->p.prod ||
	    !shunt_producer_move_done(&s->p))
		return 0;
	err = shunt_producer_move(&s->p, (uint64_t)to * EXTENT_MAX, sh->extent[to], extent_size[to]);
	if (err == -EBUSY)
		return 0;
	if (err)
		return err;
	s->extent = to;
	__atomic_add_fetch(&sh->moves, 1, __ATOMIC_RELAXED);
	return 0;
}

static void produce(const struct round *d)
{
	struct prod s = { .d = *d, .r = { mix(d->key + 1) }, .extent = d->first };
	pthread_t third;
	int err = 0;

	shunt_producer_init(&s.p, &sh->ctl, sh->extent[d->first], extent_size[d->first]);
	if (d->sealer == 2 && pthread_create(&third, NULL, seal_thread, &s.d))
		_exit(3);
	while (!err) {
		uint32_t batch = 1 + pick(&s.r, 6);

		while (batch-- && !err)
			err = stage(&s);
		if (err == -ENOSPC) {
			err = publish(&s);
			if (!err)
				err = wait_for_space(&s);
		} else if (!err) {
			err = publish(&s);
		}
		if (!err)
			err = maybe_move(&s);
		if (d->sealer == 0 && s.items >= d->seal_at && !err) {
			seal(d);
			if (shunt_ring_seal(&sh->ctl) != s.p.prod)
				fail("the producer's own seal is not at its index", d->number, s.p.prod, 0);
		}
	}
	if (err != -ESHUTDOWN)
		fail("producer failed", d->number, (uint64_t)-err, 0);
	if (d->sealer == 2)
		pthread_join(third, NULL);
	__atomic_store_n(&sh->published, s.p.prod, __ATOMIC_RELAXED);
}

static int resolve(void *ctx, __u64 off, __u64 size, const __u8 **ret_base)
{
	(void)ctx;
	if (off % EXTENT_MAX || off / EXTENT_MAX >= EXTENTS || size != extent_size[off / EXTENT_MAX])
		return -ENOENT;
	*ret_base = sh->extent[off / EXTENT_MAX];
	return 0;
}

struct cons {
	struct shunt_consumer c;
	struct round d;
	struct rng r;
	uint64_t items, pos;
};

static int take(struct cons *s)
{
	const void *at;
	__u64 len;
	__u32 rec;
	int err;

	if (s->d.bytes) {
		err = shunt_bytes_peek(&s->c, &at, &len);
		if (err)
			return err;
		if (len > 1 && pick(&s->r, 2))
			len = 1 + pick(&s->r, len);
		compare(&s->d, at, s->pos, len);
		shunt_bytes_consume(&s->c, len);
	} else {
		err = shunt_rec_peek(&s->c, &at, &rec);
		if (err)
			return err;
		len = rec;
		if (rec != record_len(&s->d, s->items))
			fail("wrong length", s->d.number, rec, record_len(&s->d, s->items));
		compare(&s->d, at, s->pos, len);
		shunt_rec_consume(&s->c);
	}
	s->pos += len;
	s->items++;
	return 0;
}

static int release(struct cons *s)
{
	int ret = shunt_consumer_release(&s->c);

	if (ret == 1)
		ring_bell(0);
	return ret < 0 ? ret : 0;
}

static int wait_for_data(struct cons *s)
{
	uint32_t polls = s->d.patience ? pick(&s->r, s->d.patience) : 0;
	int ret;

	if (polls)
		shunt_consumer_disarm(&s->c);
	for (; polls; polls--)
		if (shunt_consumer_pending(&s->c))
			return 0;
	/* now and then with an anticipatory window, which has a time limit of its own */
	if (pick(&s->r, 8) == 0) {
		ret = shunt_consumer_arm_after(&s->c, pick(&s->r, 2000));
		if (ret == 1)
			sleep_on(1, 1);
		return ret < 0 ? ret : 0;
	}
	ret = shunt_consumer_arm(&s->c);
	if (ret < 0)
		return ret;
	if (ret && !sleep_on(1, (int)timeout_ms))
		fail("consumer's wake-up lost", s->d.number, s->c.prod, s->c.cons);
	return 0;
}

static void consume(const struct round *d)
{
	struct cons s = { .d = *d, .r = { mix(d->key + 2) } };
	bool sealed = false;
	int err = 0;

	shunt_consumer_init(&s.c, &sh->ctl, sh->extent[d->first], extent_size[d->first]);
	s.c.resolve = resolve;
	while (!err) {
		err = take(&s);
		if (err == -EAGAIN) {
			err = release(&s);
			if (!err)
				err = wait_for_data(&s);
		} else if (!err && pick(&s.r, 3) == 0) {
			err = release(&s);
		}
		if (d->sealer == 1 && s.items >= d->seal_at && !sealed) {
			seal(d);
			sealed = true;
		}
	}
	if (err != -ESHUTDOWN)
		fail("consumer failed", d->number, (uint64_t)-err, 0);
	release(&s);
	__atomic_add_fetch(&sh->bytes, s.pos, __ATOMIC_RELAXED);
	pthread_barrier_wait(&sh->barrier);
	if (s.c.cons != __atomic_load_n(&sh->published, __ATOMIC_RELAXED))
		fail("consumed is not what was published", d->number, s.c.cons, sh->published);
	if (s.c.cons != __atomic_load_n(&sh->sealed_at, __ATOMIC_RELAXED))
		fail("consumed is not the sealed position", d->number, s.c.cons, sh->sealed_at);
}

/* All rounds of one end. Three meetings a round: ring fresh, both done, checked. */
static void run(bool producer)
{
	uint64_t until = now_ms() + run_ms, number;
	struct round d;

	for (number = 0; ; number++) {
		if (producer) {
			memset(&sh->ctl, 0, sizeof(sh->ctl));
			sh->stop = now_ms() >= until;
			sh->rounds = number;
		}
		pthread_barrier_wait(&sh->barrier);
		if (sh->stop)
			return;
		d = round_make(number);
		if (producer) {
			produce(&d);
			pthread_barrier_wait(&sh->barrier);
		} else {
			consume(&d);
		}
		pthread_barrier_wait(&sh->barrier);
	}
}

static void *run_thread(void *arg)
{
	run(*(const bool *)arg);
	return NULL;
}

static void run_threads(void)
{
	bool producer = true, consumer = false;
	pthread_t a, b;

	if (pthread_create(&a, NULL, run_thread, &producer) || pthread_create(&b, NULL, run_thread, &consumer))
		_exit(3);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
}

static int run_processes(void)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return 3;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run(false);
		_exit(0);
	}
	run(true);
	return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

/* An end that fails leaves the other at the barrier: do not wait there. */
static void on_child(int sig)
{
	siginfo_t info = { 0 };

	(void)sig;
	if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid &&
	    (info.si_code != CLD_EXITED || info.si_status != 0))
		_exit(1);
}

int main(void)
{
	const bool threads = IN_THREADS;
	struct sigaction sa = { .sa_handler = on_child, .sa_flags = SA_RESTART };
	pthread_barrierattr_t attr;
	int fd, ret = 0;

	run_ms = env("STRESS_MS", env("SOAK", env("SHUNT_SOAK", 0)) ? 60000 : 2000);
	timeout_ms = env("STRESS_TIMEOUT_MS", 20000);
	seed = env("STRESS_SEED", (uint64_t)time(NULL) * 1000 + (uint64_t)getpid());
	tracing = env("STRESS_TRACE", 0);
	fd = memfd_create("ring-stress", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, sizeof(*sh)))
		return 3;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bell[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	bell[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	pthread_barrierattr_init(&attr);
	pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	if (sh == MAP_FAILED || bell[0] < 0 || bell[1] < 0 || pthread_barrier_init(&sh->barrier, &attr, 2))
		return 3;
	sigaction(SIGCHLD, &sa, NULL);
	alarm((unsigned int)((run_ms + 2 * timeout_ms) / 1000 + 30));	/* the last resort: SIGALRM kills */
	if (threads)
		run_threads();
	else
		ret = run_processes();
	printf("ring-stress: %s, seed %llu: %llu rounds, %llu KiB, %llu moves, slept %llu + %llu times%s\n",
	       threads ? "threads" : "processes", (unsigned long long)seed, (unsigned long long)sh->rounds,
	       (unsigned long long)(sh->bytes >> 10), (unsigned long long)sh->moves,
	       (unsigned long long)sh->sleeps[0], (unsigned long long)sh->sleeps[1], ret ? ": FAILED" : "");
	/* a run that met nothing worth meeting proves nothing */
	if (!ret && (sh->rounds < 10 || !sh->sleeps[0] || !sh->sleeps[1] || !sh->moves))
		ret = 1;
	return ret;
}
