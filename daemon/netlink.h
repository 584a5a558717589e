/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_NETLINK_H
#define SHUNT_DAEMON_NETLINK_H

#include <libmnl/libmnl.h>
#include <stddef.h>

#define NETLINK_REQUEST_BYTES 512u

struct netlink {
	struct mnl_socket *socket;
	unsigned int seq;
};

int netlink_open(struct netlink *n, int bus);
void netlink_close(struct netlink *n);
struct nlmsghdr *netlink_request(void *buf, unsigned int type, size_t head_size, void *ret_head);
int netlink_dump(struct netlink *n, struct nlmsghdr *request, mnl_cb_t cb, void *data);
int netlink_listen(int bus, const unsigned int *groups, size_t n_groups, struct mnl_socket **ret);

#endif
