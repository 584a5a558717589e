/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What both ends of the load program agree on. Every flow starts with a TCP connection to the server's port and one
 * struct request; its numbers and that of a port are big-endian, a tally is as the machine has it.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define REQUEST_MAGIC 0x53484c44	/* "SHLD" */
#define SIZE_MAX_BYTES (1u << 20)
#define DATAGRAM_MAX 65507u		/* IPv4; 65527 with IPv6 */
#define DATAGRAM_MIN 16u			/* room for the sequence number */

enum mode {
	MODE_STREAM,		/* client sends until it shuts down; the answer is a struct tally */
	MODE_RR,		/* requests and answers of @size bytes until the client closes */
	MODE_CRR,		/* one request, one answer, then the server closes: TIME_WAIT stays with it */
	MODE_UDP_STREAM,	/* answer: a port. Datagrams to it; one byte on TCP ends it; a struct tally */
	MODE_UDP_RR,		/* answer: a port that echoes until the TCP connection ends */
};

struct request {
	uint32_t magic;
	uint32_t mode;
	uint32_t size;
};

/* What the server received: bytes, datagrams, and the time from the first to the last of them. */
struct tally {
	uint64_t bytes;
	uint64_t messages;
	uint64_t ns;
};

uint64_t now_ns(void);
void die(const char *what, ...) __attribute__((noreturn, format(printf, 1, 2)));
int read_all(int fd, void *data, size_t size);
int write_all(int fd, const void *data, size_t size);
void set_timeout(int fd, int option, unsigned int ms);
int serve(const char *port);

#endif
