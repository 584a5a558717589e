/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A snapshot of what this host's network does to frames between its virtual machines.
 */
#ifndef SHUNT_DAEMON_HOSTNET_H
#define SHUNT_DAEMON_HOSTNET_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOSTNET_WORDS 160u

/* A network device of the namespace. */
struct host_port {
	int index;
	int master;		/* ifindex, or 0 */
	int lower;		/* what a macvtap sits on, or 0 */
	char name[IFNAMSIZ];
	char kind[16];		/* "tun", "bridge", "macvtap", ... or "" */
	bool up;
	bool xdp;
	uint32_t macvlan_mode;
	/* as a port of a bridge */
	bool is_port;
	uint8_t stp_state;
	bool isolated, locked, learning;
	uint16_t pvid;		/* 0: none */
	bool pvid_untagged;
	/* as a bridge */
	bool vlan_filtering, call_iptables, call_ip6tables;
	/* tc */
	bool filters_possible;	/* clsact or ingress */
	char obstacle[HOSTNET_WORDS];	/* the first found, in words; "" if none */
};

struct hostnet {
	struct host_port *port;		/* ordered by index */
	size_t n;
	uint64_t taps;			/* changes when a tap or macvtap appears, goes or is renamed */
	bool call_iptables, call_ip6tables;	/* br_netfilter's sysctls */
	char blind[HOSTNET_WORDS];	/* what could not be looked at, and what it takes; "" if nothing */
};

int hostnet_read(struct hostnet **ret);
void hostnet_free(struct hostnet *h);
struct host_port *hostnet_find(const struct hostnet *h, const char *name);
struct host_port *hostnet_find_index(const struct hostnet *h, int index);
const char *hostnet_judge(const struct hostnet *h, const struct host_port *p, char *words, size_t size,
			  uint64_t *ret_network);
void hostnet_object(struct host_port *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void hostnet_blind(struct hostnet *h, const char *what, int error);

bool hostnet_is_switched(const struct host_port *p);
bool hostnet_calls(const struct hostnet *h, const struct host_port *p, bool ip6);

/* nft.c */
void nft_read(struct hostnet *h);

/* xtables.c */
void xtables_start(void);
void xtables_stop(void);
void xtables_read(struct hostnet *h);

#endif
