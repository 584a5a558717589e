// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The serving end of the load program: a blocking thread per flow, as netperf has a process per flow. It never prints
 * and never gives up a flow's thread but at the end of its TCP connection, so it may run through a whole bench.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

#define READ_SIZE (128u << 10)
#define QUIET_MS 50		/* a datagram flow is over when it was told to end and nothing came for so long */
#define STACK_BYTES (256u << 10)

static void count_stream(int fd, char *buffer)
{
	struct tally tally = { 0 };
	uint64_t start = 0;
	ssize_t got;

	while ((got = read(fd, buffer, READ_SIZE)) > 0) {
		if (!start)
			start = now_ns();
		tally.bytes += (uint64_t)got;
		tally.messages++;
	}
	tally.ns = start ? now_ns() - start : 0;
	write_all(fd, &tally, sizeof(tally));
}

static void answer(int fd, char *buffer, uint32_t size, int once)
{
	do {
		if (read_all(fd, buffer, size) || write_all(fd, buffer, size))
			return;
	} while (!once);
}

/* A datagram socket on the address the client used, and its port told to the client. */
static int open_datagrams(int tcp)
{
	struct sockaddr_in6 address;
	socklen_t length = sizeof(address);
	uint32_t port;
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);

	if (fd < 0)
		return -1;
	if (getsockname(tcp, (struct sockaddr *)&address, &length))
		goto err_close;
	address.sin6_port = 0;
	if (bind(fd, (struct sockaddr *)&address, length) ||
	    getsockname(fd, (struct sockaddr *)&address, &length))
		goto err_close;
	set_timeout(fd, SO_RCVTIMEO, QUIET_MS);
	port = htonl(ntohs(address.sin6_port));
	if (!write_all(tcp, &port, sizeof(port)))
		return fd;
err_close:
	close(fd);
	return -1;
}

static int told_to_end(int tcp)
{
	char byte;
	ssize_t got = recv(tcp, &byte, 1, MSG_DONTWAIT);

	return got >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void count_datagrams(int tcp, char *buffer)
{
	struct tally tally = { 0 };
	uint64_t first = 0;
	ssize_t got;
	int fd = open_datagrams(tcp);

	if (fd < 0)
		return;
	for (;;) {
		got = recv(fd, buffer, READ_SIZE, 0);
		if (got < 0) {
			if (told_to_end(tcp))
				break;
			continue;
		}
		tally.ns = now_ns();
		if (!first)
			first = tally.ns;
		tally.bytes += (uint64_t)got;
		tally.messages++;
	}
	tally.ns -= first;
	write_all(tcp, &tally, sizeof(tally));
	close(fd);
}

static void echo_datagrams(int tcp, char *buffer)
{
	struct sockaddr_in6 from;
	socklen_t length;
	ssize_t got;
	int fd = open_datagrams(tcp);

	if (fd < 0)
		return;
	for (;;) {
		length = sizeof(from);
		got = recvfrom(fd, buffer, READ_SIZE, 0, (struct sockaddr *)&from, &length);
		if (got >= 0)
			sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, length);
		else if (told_to_end(tcp))
			break;
	}
	close(fd);
}

static void *flow(void *arg)
{
	int fd = (int)(intptr_t)arg, one = 1;
	char *buffer = malloc(SIZE_MAX_BYTES);
	struct request request;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (!buffer || read_all(fd, &request, sizeof(request)) || ntohl(request.magic) != REQUEST_MAGIC ||
	    ntohl(request.size) > SIZE_MAX_BYTES)
		goto out;
	switch (ntohl(request.mode)) {
	case MODE_STREAM:
		count_stream(fd, buffer);
		break;
	case MODE_RR:
		answer(fd, buffer, ntohl(request.size), 0);
		break;
	case MODE_CRR:
		answer(fd, buffer, ntohl(request.size), 1);
		break;
	case MODE_UDP_STREAM:
		count_datagrams(fd, buffer);
		break;
	case MODE_UDP_RR:
		echo_datagrams(fd, buffer);
		break;
	}
out:
	free(buffer);
	close(fd);
	return NULL;
}

/**
 * serve() - accept flows until killed
 * @port: the TCP port, for IPv4 and IPv6
 */
int serve(const char *port)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_addr = in6addr_any };
	int off = 0, on = 1, fd, listener = socket(AF_INET6, SOCK_STREAM, 0);
	pthread_attr_t attr;
	pthread_t thread;

	address.sin6_port = htons((uint16_t)atoi(port));
	setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1024))
		die("port %s: %s", port, strerror(errno));
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (;;) {
		fd = accept(listener, NULL, NULL);
		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			die("accept: %s", strerror(errno));
		}
		if (pthread_create(&thread, &attr, flow, (void *)(intptr_t)fd))
			close(fd);
	}
}
