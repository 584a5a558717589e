// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asking the kernel for lists over netlink, and hearing of changes. The kernel answers a dump while
 * it is read, so these calls do not wait for anybody; a time limit is there all the same.
 */
#include "daemon/netlink.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>

#define ANSWER_SECONDS 2
#define TRIES 5
#define DUMP_BYTES 32768u	/* as much as the kernel puts into one message */

/**
 * netlink_open() - A socket for dumps.
 * @bus: NETLINK_ROUTE or NETLINK_NETFILTER.
 *
 * Return: 0 or a negative errno; netlink_close() is fine either way.
 */
int netlink_open(struct netlink *n, int bus)
{
	const struct timeval limit = { .tv_sec = ANSWER_SECONDS };

	n->seq = 0;
	n->socket = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!n->socket || mnl_socket_bind(n->socket, 0, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	if (setsockopt(mnl_socket_get_fd(n->socket), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
		return -errno;
	return 0;
}

/** netlink_close() - End it; a socket that was never opened is fine if it is zeroed. */
void netlink_close(struct netlink *n)
{
	if (n->socket)
		mnl_socket_close(n->socket);
	n->socket = NULL;
}

/**
 * netlink_request() - Begin a dump request.
 * @buf: NETLINK_REQUEST_BYTES.
 * @head_size: of the family's own header, which is zeroed.
 * @ret_head: gets a pointer to it (pass the address of the pointer).
 */
struct nlmsghdr *netlink_request(void *buf, unsigned int type, size_t head_size, void *ret_head)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

	h->nlmsg_type = (uint16_t)type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	*(void **)ret_head = mnl_nlmsg_put_extra_header(h, head_size);
	return h;
}

static int dump_once(struct netlink *n, struct nlmsghdr *request, mnl_cb_t cb, void *data)
{
	char buf[DUMP_BYTES];
	unsigned int port = mnl_socket_get_portid(n->socket);
	int r = MNL_CB_OK;

	request->nlmsg_seq = ++n->seq;
	if (mnl_socket_sendto(n->socket, request, request->nlmsg_len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		ssize_t len = mnl_socket_recvfrom(n->socket, buf, sizeof(buf));

		if (len < 0)
			return -errno;
		r = mnl_cb_run(buf, (size_t)len, n->seq, port, cb, data);
		if (r < 0 && errno == ESRCH)	/* left over from a dump given up */
			r = MNL_CB_OK;
	}
	return r < 0 ? -errno : 0;
}

/**
 * netlink_dump() - Have @cb called for each entry.
 *
 * A list that changed while it was read (EINTR) is read again: @cb may see an entry twice.
 *
 * Return: 0 or a negative errno.
 */
int netlink_dump(struct netlink *n, struct nlmsghdr *request, mnl_cb_t cb, void *data)
{
	int r = -EINTR;

	for (int i = 0; i < TRIES && r == -EINTR; i++)
		r = dump_once(n, request, cb, data);
	return r;
}

/**
 * netlink_listen() - A non-blocking socket that becomes readable when something changed.
 * @groups: multicast groups of @bus.
 * @ret: the socket; untouched on failure.
 *
 * Return: 0 or a negative errno (-EPERM: netfilter's groups need CAP_NET_ADMIN).
 */
int netlink_listen(int bus, const unsigned int *groups, size_t n_groups, struct mnl_socket **ret)
{
	struct mnl_socket *s = mnl_socket_open2(bus, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r = 0;

	if (!s)
		return -errno;
	if (mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) < 0)
		r = -errno;
	for (size_t i = 0; i < n_groups && !r; i++)
		if (mnl_socket_setsockopt(s, NETLINK_ADD_MEMBERSHIP, (void *)&groups[i], sizeof(groups[i])) < 0)
			r = -errno;
	if (r)
		mnl_socket_close(s);
	else
		*ret = s;
	return r;
}
