// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * load: streams, request-response and connect-request-response over TCP and UDP, one or many flows, as netperf does
 * (which is not free software). One line of JSON comes out:
 *
 *   load serve PORT
 *   load stream|rr|crr|udp-stream|udp-rr ADDRESS PORT [-b BYTES] [-f FLOWS] [-s SECONDS] [-r BIT/S]
 *
 *  stream      bit/s, as the receiver counted them, from the first byte sent to the last received
 *  udp-stream  bit/s received, from the first to the last datagram; "sent" beside it; -r: offered at that rate
 *  rr, crr     transactions/s, and the quantiles of a transaction's time in microseconds
 *
 * A flow is a thread that blocks in the plain socket calls: what is measured is what a simple program gets.
 *
 * DOC: Theory of operation
 *
 * Each flow connects, tells the server what it wants, and waits at a barrier; the clock starts there, for all of
 * them. It stops, for each, when its last answer came. Threads never share anything they write in between.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "load.h"

#define FLOWS_MAX 1024
#define ANSWER_MS 10000		/* without an answer for so long TCP counts as broken */
#define DATAGRAM_MS 200		/* a lost datagram's request is sent again */
#define PACE_SLACK_NS 100000	/* an offered rate is kept by sleeping when ahead by so much */
#define STACK_BYTES (256u << 10)

static struct {
	enum mode mode;
	unsigned int size, flows;
	double seconds, rate;
	struct sockaddr_storage address;
	socklen_t address_length;
	uint64_t start, end;
	pthread_barrier_t barrier;
} run = { .size = 1, .flows = 1, .seconds = 1 };

struct flow {
	pthread_t thread;
	struct histogram times;
	struct tally tally;
	uint64_t sent, lost, finished;
	char *buffer;
	int first;		/* of all flows: it starts the clock */
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void die(const char *what, ...)
{
	va_list list;

	va_start(list, what);
	fputs("load: ", stderr);
	vfprintf(stderr, what, list);
	fputc('\n', stderr);
	va_end(list);
	exit(1);
}

int read_all(int fd, void *data, size_t size)
{
	while (size) {
		ssize_t got = read(fd, data, size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -1;
		data = (char *)data + got;
		size -= (size_t)got;
	}
	return 0;
}

int write_all(int fd, const void *data, size_t size)
{
	while (size) {
		ssize_t put = write(fd, data, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return -1;
		data = (const char *)data + put;
		size -= (size_t)put;
	}
	return 0;
}

void set_timeout(int fd, int option, unsigned int ms)
{
	struct timeval tv = { ms / 1000, (ms % 1000) * 1000 };

	setsockopt(fd, SOL_SOCKET, option, &tv, sizeof(tv));
}

/* Addresses only, no names: a static program has no resolver. */
static void resolve(const char *host, const char *port)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&run.address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&run.address;

	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		run.address_length = sizeof(*v4);
	} else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		run.address_length = sizeof(*v6);
	} else {
		die("%s is no IPv4 or IPv6 address", host);
	}
	v4->sin_port = htons((uint16_t)atoi(port));		/* sin6_port is at the same place */
}

/* A connection to the server that has been told what it is for. */
static int flow_connect(void)
{
	struct request request = { htonl(REQUEST_MAGIC), htonl(run.mode), htonl(run.size) };
	int one = 1, fd = socket(run.address.ss_family, SOCK_STREAM, 0);

	if (fd < 0)
		die("socket: %s", strerror(errno));
	set_timeout(fd, SO_RCVTIMEO, ANSWER_MS);
	set_timeout(fd, SO_SNDTIMEO, ANSWER_MS);
	if (run.mode != MODE_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&run.address, run.address_length))
		die("connect: %s", strerror(errno));
	if (write_all(fd, &request, sizeof(request)))
		die("request: %s", strerror(errno));
	return fd;
}

/* The datagram socket of a flow, connected to the port the server opened for it. */
static int flow_connect_datagrams(int tcp)
{
	struct sockaddr_storage to = run.address;
	int fd = socket(to.ss_family, SOCK_DGRAM, 0);
	uint32_t port;

	if (fd < 0 || read_all(tcp, &port, sizeof(port)))
		die("no datagram port: %s", strerror(errno));
	/* sin_port and sin6_port are at the same place */
	((struct sockaddr_in *)&to)->sin_port = htons((uint16_t)ntohl(port));
	if (connect(fd, (struct sockaddr *)&to, run.address_length))
		die("connect datagrams: %s", strerror(errno));
	return fd;
}

/* All flows are connected when the clock starts, and it has started before any goes on. */
static void begin(const struct flow *f)
{
	pthread_barrier_wait(&run.barrier);
	if (f->first) {
		run.start = now_ns();
		run.end = run.start + (uint64_t)(run.seconds * 1e9);
	}
	pthread_barrier_wait(&run.barrier);
}

static void stream(struct flow *f)
{
	int fd = flow_connect();

	begin(f);
	while (now_ns() < run.end)
		if (write_all(fd, f->buffer, run.size))
			die("stream: %s", strerror(errno));
	shutdown(fd, SHUT_WR);
	if (read_all(fd, &f->tally, sizeof(f->tally)))
		die("no tally of the stream: %s", strerror(errno));
	f->finished = now_ns();
	close(fd);
}

/* Keep to the offered rate: sleep when @sent bytes are ahead of the clock. */
static void pace(uint64_t sent)
{
	uint64_t due = run.start + (uint64_t)((double)sent * 8e9 * run.flows / run.rate), now = now_ns();
	struct timespec ts = { (time_t)(due / 1000000000), (long)(due % 1000000000) };

	if (due > now + PACE_SLACK_NS)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static void udp_stream(struct flow *f)
{
	int tcp = flow_connect(), fd = flow_connect_datagrams(tcp);

	begin(f);
	while (now_ns() < run.end) {
		if (send(fd, f->buffer, run.size, 0) >= 0)
			f->sent += run.size;
		else if (errno != ENOBUFS && errno != ECONNREFUSED)
			die("datagram: %s", strerror(errno));
		if (run.rate > 0)
			pace(f->sent);
	}
	if (write_all(tcp, "", 1) || read_all(tcp, &f->tally, sizeof(f->tally)))
		die("no tally of the datagrams: %s", strerror(errno));
	f->finished = now_ns();
	close(fd);
	close(tcp);
}

static void rr(struct flow *f)
{
	int fd = flow_connect();
	uint64_t start, now;

	begin(f);
	for (start = now_ns(); start < run.end; start = now) {
		if (write_all(fd, f->buffer, run.size) || read_all(fd, f->buffer, run.size))
			die("request-response: %s", errno ? strerror(errno) : "the server closed");
		now = now_ns();
		histogram_add(&f->times, now - start);
	}
	f->finished = start;
	close(fd);
}

/* An answer counts if it is that to the last request; later ones of lost requests are passed over. */
static int udp_answer(int fd, struct flow *f, uint64_t wanted)
{
	uint64_t sequence;

	for (;;) {
		if (recv(fd, f->buffer, run.size, 0) < 0)
			return -1;
		memcpy(&sequence, f->buffer, sizeof(sequence));
		if (sequence == wanted)
			return 0;
	}
}

static void udp_rr(struct flow *f)
{
	int tcp = flow_connect(), fd = flow_connect_datagrams(tcp);
	uint64_t start, now, sequence = 0;

	set_timeout(fd, SO_RCVTIMEO, DATAGRAM_MS);
	begin(f);
	for (start = now_ns(); start < run.end; start = now) {
		sequence++;
		memcpy(f->buffer, &sequence, sizeof(sequence));
		if (send(fd, f->buffer, run.size, 0) < 0 || udp_answer(fd, f, sequence))
			f->lost++;
		now = now_ns();
		histogram_add(&f->times, now - start);
	}
	f->finished = start;
	close(fd);
	close(tcp);
}

static void crr(struct flow *f)
{
	uint64_t start, now;
	int fd;

	begin(f);
	for (start = now_ns(); start < run.end; start = now) {
		fd = flow_connect();
		if (write_all(fd, f->buffer, run.size) || read_all(fd, f->buffer, run.size) ||
		    read(fd, f->buffer, 1) != 0)
			die("connect-request-response: %s", errno ? strerror(errno) : "more than the answer came");
		close(fd);
		now = now_ns();
		histogram_add(&f->times, now - start);
	}
	f->finished = start;
}

static void *flow_run(void *arg)
{
	static void (*const modes[])(struct flow *) = {
		[MODE_STREAM] = stream, [MODE_RR] = rr, [MODE_CRR] = crr,
		[MODE_UDP_STREAM] = udp_stream, [MODE_UDP_RR] = udp_rr,
	};

	modes[run.mode](arg);
	return NULL;
}

static void report(const struct flow *flows)
{
	static struct histogram times;
	uint64_t bytes = 0, sent = 0, lost = 0, finished = 0, receiving = 0;
	double seconds, value;
	unsigned int i;

	for (i = 0; i < run.flows; i++) {
		histogram_merge(&times, &flows[i].times);
		bytes += flows[i].tally.bytes;
		sent += flows[i].sent;
		lost += flows[i].lost;
		if (flows[i].finished > finished)
			finished = flows[i].finished;
		if (flows[i].tally.ns > receiving)
			receiving = flows[i].tally.ns;
	}
	seconds = (double)(finished - run.start) / 1e9;
	if (run.mode == MODE_UDP_STREAM)
		seconds = receiving ? (double)receiving / 1e9 : run.seconds;
	value = times.count ? (double)(times.count - lost) / seconds : (double)bytes * 8 / seconds;
	if (times.count)
		bytes = 2 * (times.count - lost) * run.size;
	printf("{\"value\": %.6g, \"seconds\": %.6f, \"bytes\": %llu, \"sent\": %llu, \"lost\": %llu", value, seconds,
	       (unsigned long long)bytes, (unsigned long long)sent, (unsigned long long)lost);
	if (times.count)
		printf(", \"p50\": %.2f, \"p99\": %.2f, \"p999\": %.2f", histogram_quantile(&times, 0.5) / 1e3,
		       histogram_quantile(&times, 0.99) / 1e3, histogram_quantile(&times, 0.999) / 1e3);
	printf("}\n");
}

static void usage(void)
{
	die("usage: load serve PORT | load stream|rr|crr|udp-stream|udp-rr ADDRESS PORT "
	    "[-b BYTES] [-f FLOWS] [-s SECONDS] [-r BIT/S]");
}

static void parse(int argc, char **argv)
{
	static const char *const names[] = { "stream", "rr", "crr", "udp-stream", "udp-rr" };
	int option, udp;

	while ((option = getopt(argc, argv, "b:f:s:r:")) >= 0) {
		if (option == 'b')
			run.size = (unsigned int)atoi(optarg);
		else if (option == 'f')
			run.flows = (unsigned int)atoi(optarg);
		else if (option == 's')
			run.seconds = atof(optarg);
		else if (option == 'r')
			run.rate = atof(optarg);
		else
			usage();
	}
	if (argc - optind != 3)
		usage();
	resolve(argv[optind + 1], argv[optind + 2]);
	for (run.mode = 0; run.mode <= MODE_UDP_RR; run.mode++)
		if (!strcmp(argv[optind], names[run.mode]))
			break;
	udp = run.mode == MODE_UDP_STREAM || run.mode == MODE_UDP_RR;
	if (run.mode > MODE_UDP_RR || !run.flows || run.flows > FLOWS_MAX || run.seconds <= 0)
		usage();
	if (run.size < (udp ? DATAGRAM_MIN : 1) || run.size > (udp ? DATAGRAM_MAX : SIZE_MAX_BYTES))
		die("-b %u: %u to %u bytes", run.size, udp ? DATAGRAM_MIN : 1,
		    udp ? DATAGRAM_MAX : SIZE_MAX_BYTES);
}

int main(int argc, char **argv)
{
	pthread_attr_t attr;
	struct flow *flows;
	unsigned int i;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	parse(argc, argv);
	pthread_barrier_init(&run.barrier, NULL, run.flows);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	flows = calloc(run.flows, sizeof(*flows));
	for (i = 0; flows && i < run.flows; i++) {
		flows[i].first = !i;
		flows[i].buffer = calloc(1, run.size);
		if (!flows[i].buffer || pthread_create(&flows[i].thread, &attr, flow_run, &flows[i]))
			die("flow %u: %s", i, strerror(errno));
	}
	if (!flows)
		die("out of memory");
	for (i = 0; i < run.flows; i++)
		pthread_join(flows[i].thread, NULL);
	report(flows);
	for (i = 0; i < run.flows; i++)
		free(flows[i].buffer);
	free(flows);
	return 0;
}
