// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the daemon may do, once it has its directories and its lock: a few capabilities, each for a
 * reason, perhaps as a user of its own. docs/privileges.md is this table in words.
 *
 * DOC: Theory of operation
 *
 * The kept capabilities are permitted and effective, never inheritable or ambient: nothing is
 * executed, so nothing has to inherit them, and the bounding set is emptied besides. Those that the
 * process was not given are missed with a warning that says what will not work; it serves the VMs it
 * can (as a plain user: those of the same user).
 *
 * With CAP_SYS_PTRACE in hand, a daemon taken over could still read and write any process through
 * /proc/PID/mem; sandbox.c takes away ptrace(), process_vm_*() and signals, not that path. Landlock would, but a
 * landlocked process may not trace any outside its domain, which pidfd_getfd() counts as.
 */
#include "daemon/privileges.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "daemon/log.h"

static const struct {
	unsigned int cap;
	const char *name;
	const char *without;	/* what will not work */
} needs[] = {
	{ CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "a restarted shuntd cannot take descriptors back from QEMU, "
	  "nor see which taps it has: its VMs are plugged again, or not at all" },
	{ CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "QMP sockets of other users cannot be connected to" },
	{ CAP_CHOWN, "CAP_CHOWN", "QEMU processes of other users cannot connect to their device sockets" },
	{ CAP_NET_ADMIN, "CAP_NET_ADMIN", "what nftables enforces on the host cannot be read" },
};

#define N_NEEDS (sizeof(needs) / sizeof(needs[0]))

struct identity {
	uid_t uid;	/* (uid_t)-1: stay who we are */
	gid_t gid;
};

static int find_group(const char *name, gid_t *ret, char *err, size_t err_size)
{
	const struct group *g;

	if (!name)
		return 0;
	g = getgrnam(name);
	if (!g) {
		snprintf(err, err_size, "group: there is no group \"%s\"; allowed: one that `getent group` lists", name);
		return -EINVAL;
	}
	*ret = g->gr_gid;
	return 0;
}

static int find(const struct shunt_config *c, struct identity *ret, char *err, size_t err_size)
{
	struct identity id = { (uid_t)-1, (gid_t)-1 };
	const struct passwd *p;
	int r;

	if (c->user) {
		p = getpwnam(c->user);
		if (!p) {
			snprintf(err, err_size, "user: there is no user \"%s\"; allowed: one that `getent passwd` "
				 "lists", c->user);
			return -EINVAL;
		}
		id.uid = p->pw_uid;
		id.gid = p->pw_gid;
	}
	r = find_group(c->group, &id.gid, err, err_size);
	if (!r)
		*ret = id;
	return r;
}

/**
 * privileges_check() - Whether a configuration's user and group exist here.
 * @err: gets what is wrong and what is allowed.
 *
 * Context: before sandbox_enter(); the name service may load libraries.
 * Return: 0 or -EINVAL.
 */
int privileges_check(const struct shunt_config *c, char *err, size_t err_size)
{
	struct identity id;

	return find(c, &id, err, err_size);
}

/* What a daemon of another user left is taken over; what does not exist yet will be ours anyway. */
static int take_over(const struct identity *id, const char *const *own)
{
	for (; *own; own++)
		if (lchown(*own, id->uid, id->gid) < 0 && errno != ENOENT) {
			log_err("chown-failed", "path=%s uid=%u error=\"%m\"", *own, id->uid);
			return -errno;
		}
	return 0;
}

/* libcap-ng's picture of what shall be left. */
static void choose(void)
{
	bool have[N_NEEDS];

	for (size_t i = 0; i < N_NEEDS; i++)
		have[i] = capng_have_capability(CAPNG_PERMITTED, needs[i].cap);
	capng_clear(CAPNG_SELECT_ALL);
	for (size_t i = 0; i < N_NEEDS; i++) {
		if (have[i])
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, needs[i].cap);
		else
			log_warn("capability-missing", "cap=%s detail=\"%s\"", needs[i].name, needs[i].without);
	}
}

static int drop(const struct identity *id)
{
	bool bounds;
	int r;

	if (capng_get_caps_process() < 0)
		return -EIO;
	bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	choose();
	if (bounds && capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return -EPERM;
	if (id->uid == (uid_t)-1 || id->uid == geteuid())
		r = capng_apply(CAPNG_SELECT_CAPS);
	else
		r = capng_change_id((int)id->uid, (int)id->gid, CAPNG_INIT_SUPP_GRP);
	return r < 0 ? -EPERM : 0;
}

/**
 * privileges_drop() - Become the configured user, with the capabilities of the table above only.
 * @own: paths this user shall own from now on, NULL at the end.
 *
 * No process can be started with more than this one has, and none of the same user can look into this one,
 * nor is a core written: it would hold guests' traffic.
 *
 * Context: once, with one thread, before anything from outside is read.
 * Return: 0, or a negative errno, logged.
 */
int privileges_drop(const struct shunt_config *c, const char *const *own)
{
	struct identity id;
	char err[256];
	int r;

	r = find(c, &id, err, sizeof(err));
	if (r) {
		log_err("user-unknown", "error='%s'", err);
		return r;
	}
	r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : drop(&id);
	if (!r && c->user)
		r = take_over(&id, own);
	if (!r && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		r = -errno;
	if (r)
		log_err("privileges-not-dropped", "user=%s error=\"%s\" detail=\"only root can become another user: "
			"start shuntd as root, or take `user` out of shuntd.conf\"", c->user ?: "-", strerror(-r));
	else
		log_info("privileges-dropped", "uid=%u gid=%u", geteuid(), getegid());
	return r;
}
