// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the operator enforces on this host is not bypassed (RULES 17): no link where a VM's tap has filters or
 * limits, or where two VMs are in different networks; unless host_policy says so.
 *
 * DOC: Theory of operation
 *
 * One snapshot of the host's network (hostnet.c) judges all VMs. It is taken again after the kernel said that
 * something changed, GATHER_USEC later, because changes come in bursts, and at most every EVERY_USEC; and before a
 * pair is plugged or opened if it is older than FRESH_USEC, because some changes have no event: br_netfilter's sysctls,
 * legacy tables. For the same reason a guest that wants a link that is refused makes us look if the snapshot is older
 * than RETRY_USEC. Nothing is looked at while nothing changes and no link is wanted.
 *
 * A VM that was not judged yet (it is being identified; shuntd was restarted) neither gets a link nor loses one. What
 * cannot be judged at all (no permission, another namespace, a NIC that is no tap) counts as an obstacle: an
 * operator who knows better says so.
 */
#include "daemon/hostpolicy.h"

#include <fnmatch.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/epoll.h>

#include "daemon/cleanup.h"
#include "daemon/hostnet.h"
#include "daemon/log.h"
#include "daemon/netlink.h"
#include "daemon/shuntd.h"

#define GATHER_USEC 20000u
#define EVERY_USEC 250000u
#define FRESH_USEC 1000000u
#define RETRY_USEC (10 * 1000000u)
#define EVENTS_MAX 256

struct hostpolicy {
	struct hostnet *net;	/* the last snapshot, or NULL */
	int error;		/* why there is none */
	uint64_t taken_at;
	bool stale;		/* something changed since */
	struct mnl_socket *route, *netfilter;
	sd_event_source *route_io, *netfilter_io, *timer;
};

/** hostpolicy_obeyed() - Whether what the host enforces on a VM's NICs counts, by configuration. */
bool hostpolicy_obeyed(const struct vm *vm)
{
	const struct shunt_config *c = vm->d->config;

	for (size_t i = 0; i < c->n_host_policies; i++)
		if (!fnmatch(c->host_policies[i].vm, vm->name, 0))
			return !c->host_policies[i].ignore;
	return strcmp(c->host_policy, "ignore") != 0;
}

/* --- judging --- */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void set_networks(struct vm_host *v, uint64_t *network, size_t n)
{
	qsort(network, n, sizeof(*network), by_value);
	v->n = 0;
	for (size_t i = 0; i < n; i++)
		if (!i || network[i] != network[i - 1])
			v->network[v->n++] = network[i];
}

static void read_taps(struct vm *vm)
{
	const struct hostnet *net = vm->d->hostpolicy->net;
	struct vm_host *v = &vm->host;

	if (!v->taps_stale && net && v->taps_hash == net->taps)
		return;
	v->error = taps_read(vm->pid, vm->pidfd, &v->taps);
	v->taps_stale = false;
	v->taps_hash = net ? net->taps : 0;
}

/* What can be said without looking at a tap. */
static bool objected(const struct vm *vm, char *words, size_t size)
{
	const struct hostpolicy *p = vm->d->hostpolicy;
	const struct vm_host *v = &vm->host;

	if (!p->net)
		snprintf(words, size, "shuntd cannot look at the host's network: %s", strerror(-p->error));
	else if (v->error)
		snprintf(words, size, "shuntd cannot see which taps its QEMU has (%s): it needs CAP_SYS_PTRACE",
			 strerror(-v->error));
	else if (v->taps.elsewhere)
		snprintf(words, size, "its tap is in another network namespace than shuntd");
	else if (v->taps.more || v->taps.n < vm->nics)
		snprintf(words, size, "it has %u NICs and %zu%s taps: what is behind the others cannot be judged",
			 vm->nics, v->taps.n, v->taps.more ? " or more" : "");
	else
		return false;
	return true;
}

static void judge_taps(const struct vm *vm, char *words, size_t size, uint64_t *network)
{
	const struct hostnet *net = vm->d->hostpolicy->net;

	for (size_t i = 0; i < vm->host.taps.n && !*words; i++) {
		const struct tap *t = &vm->host.taps.tap[i];
		const struct host_port *p = *t->name ? hostnet_find(net, t->name) : hostnet_find_index(net, t->index);

		if (p)
			hostnet_judge(net, p, words, size, &network[i]);
		else
			snprintf(words, size, "tap %s: it is gone", *t->name ? t->name : "of its macvtap");
	}
}

static void judge(struct vm *vm)
{
	struct vm_host *v = &vm->host, old = *v;
	uint64_t network[TAPS_MAX] = { 0 };
	char words[sizeof(v->obstacle)] = "";

	if (!vm->identified || !vm_alive(vm))
		return;
	read_taps(vm);
	if (!objected(vm, words, sizeof(words)))
		judge_taps(vm, words, sizeof(words), network);
	memcpy(v->obstacle, words, sizeof(words));
	set_networks(v, network, v->taps.n);
	v->judged = true;
	if (old.judged && !strcmp(old.obstacle, v->obstacle) && old.n == v->n &&
	    !memcmp(old.network, v->network, v->n * sizeof(v->network[0])))
		return;
	vm->d->dirty = true;
	log_info("host-policy", "vm=%s obeyed=%d obstacle=\"%s\"", vm->name, hostpolicy_obeyed(vm), v->obstacle);
}

static void look(struct shuntd *d)
{
	struct hostpolicy *p = d->hostpolicy;
	struct vm *vm;

	hostnet_free(p->net);
	p->net = NULL;
	p->error = hostnet_read(&p->net);
	p->taken_at = now_usec(d);
	p->stale = false;
	TAILQ_FOREACH(vm, &d->vms, link)
		judge(vm);
}

/**
 * hostpolicy_vm() - A VM was identified, or its NICs may have changed.
 */
void hostpolicy_vm(struct vm *vm)
{
	struct hostpolicy *p = vm->d->hostpolicy;

	vm->host.taps_stale = true;
	if (!p->net || p->stale || now_usec(vm->d) - p->taken_at > FRESH_USEC)
		look(vm->d);
	else
		judge(vm);
}

static void look_if_older(struct shuntd *d, uint64_t usec)
{
	if (d->hostpolicy->stale || now_usec(d) - d->hostpolicy->taken_at > usec)
		look(d);
}

/** hostpolicy_fresh() - A link is about to be plugged or opened: let what is known be true now. */
void hostpolicy_fresh(struct shuntd *d)
{
	look_if_older(d, FRESH_USEC);
}

/** hostpolicy_retry() - A guest wants a link that is refused: is the obstacle still there? */
void hostpolicy_retry(struct shuntd *d)
{
	look_if_older(d, RETRY_USEC);
}

/** hostpolicy_reload() - An operator says that something changed. */
void hostpolicy_reload(struct shuntd *d)
{
	look(d);
}

/* --- two VMs --- */

static const struct vm *obstructed(const struct vm *vm)
{
	return hostpolicy_obeyed(vm) && *vm->host.obstacle ? vm : NULL;
}

/** hostpolicy_known() - Whether both VMs were judged: until then nothing changes. */
bool hostpolicy_known(const struct vm *a, const struct vm *b)
{
	return (a->host.judged || !hostpolicy_obeyed(a)) && (b->host.judged || !hostpolicy_obeyed(b));
}

/**
 * hostpolicy_obstacle() - Why two VMs may not have a link as far as the host's network is concerned.
 *
 * Return: words, valid until the next call; NULL if they may.
 */
const char *hostpolicy_obstacle(const struct vm *a, const struct vm *b)
{
	const struct vm *who = obstructed(a) ? a : obstructed(b);
	static char words[300];

	if (!hostpolicy_known(a, b))
		return "not looked at yet";
	if (who) {
		snprintf(words, sizeof(words), "%.60s: %s", who->name, who->host.obstacle);
		return words;
	}
	if (hostpolicy_obeyed(a) && hostpolicy_obeyed(b) &&
	    (a->host.n != b->host.n ||
	     memcmp(a->host.network, b->host.network, a->host.n * sizeof(a->host.network[0]))))
		return "their NICs are not on the same bridges and VLANs";
	return NULL;
}

/* --- events --- */

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct shuntd *d = userdata;

	(void)s;
	(void)usec;
	d->hostpolicy->timer = sd_event_source_disable_unref(d->hostpolicy->timer);
	look(d);
	return 0;
}

static void changed(struct shuntd *d)
{
	struct hostpolicy *p = d->hostpolicy;
	uint64_t due = p->taken_at + EVERY_USEC, now = now_usec(d);
	uint64_t wait = due > now + GATHER_USEC ? due - now : GATHER_USEC;

	p->stale = true;
	if (!p->timer)
		sd_event_add_time_relative(d->event, &p->timer, CLOCK_MONOTONIC, wait, 0, on_timer, d);
}

/* What changed does not matter; that a burst was too much for the socket (ENOBUFS) is a change, too. */
static int on_event(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	char buf[8192];

	(void)s;
	(void)revents;
	for (int i = 0; i < EVENTS_MAX && recv(fd, buf, sizeof(buf), MSG_DONTWAIT) != -1; i++)
		;
	changed(userdata);
	return 0;
}

static int listen_to(struct shuntd *d, int bus, const unsigned int *groups, size_t n, struct mnl_socket **ret,
		     sd_event_source **ret_io)
{
	int r = netlink_listen(bus, groups, n, ret);

	if (!r)
		r = sd_event_add_io(d->event, ret_io, mnl_socket_get_fd(*ret), EPOLLIN, on_event, d);
	return r < 0 ? r : 0;
}

/**
 * hostpolicy_start() - Listen for changes.
 *
 * Return: 0 or a negative errno. Without the right to hear of netfilter's changes it goes on: then nothing can be
 * looked at there either, and every VM has that obstacle.
 */
int hostpolicy_start(struct shuntd *d)
{
	static const unsigned int route[] = { RTNLGRP_LINK, RTNLGRP_TC }, netfilter[] = { NFNLGRP_NFTABLES };
	struct hostpolicy *p = calloc(1, sizeof(*p));
	int r;

	d->hostpolicy = p;
	p->stale = true;
	xtables_start();
	r = listen_to(d, NETLINK_ROUTE, route, 2, &p->route, &p->route_io);
	if (r)
		return r;
	r = listen_to(d, NETLINK_NETFILTER, netfilter, 1, &p->netfilter, &p->netfilter_io);
	if (r)
		log_warn("host-policy-deaf", "error=\"%s\" detail=\"changes of nftables are not heard of: give shuntd "
			 "CAP_NET_ADMIN\"", strerror(-r));
	return 0;
}

/** hostpolicy_stop() - Forget everything. */
void hostpolicy_stop(struct shuntd *d)
{
	struct hostpolicy *p = d->hostpolicy;

	if (!p)
		return;
	sd_event_source_disable_unref(p->route_io);
	sd_event_source_disable_unref(p->netfilter_io);
	sd_event_source_disable_unref(p->timer);
	if (p->route)
		mnl_socket_close(p->route);
	if (p->netfilter)
		mnl_socket_close(p->netfilter);
	hostnet_free(p->net);
	free(p);
	d->hostpolicy = NULL;
	xtables_stop();
}
