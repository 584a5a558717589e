// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which taps a QEMU process holds, from the kernel's word: descriptors of /dev/net/tun name their interface
 * in fdinfo ("iff:"), those of a macvtap are /dev/tapINDEX. That is so however QEMU came by them (ifname=, fd= from
 * libvirt, a helper) and whatever its monitor would say. Reading them needs the right to trace the process.
 */
#include "daemon/tap.h"

#include <dirent.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "daemon/cleanup.h"

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* A tap's network namespace need not be QEMU's. Where it cannot be asked, QEMU's is the best guess. */
static bool elsewhere(pid_t pid, int pidfd, int remote_fd)
{
	char path[40];
	struct stat ours, theirs;
	_cleanup_close_ int fd = pidfd_getfd(pidfd, remote_fd, 0);
	_cleanup_close_ int ns = fd >= 0 ? ioctl(fd, TUNGETDEVNETNS) : -1;

	if (stat("/proc/self/ns/net", &ours) < 0)
		return true;
	if (ns >= 0)
		return fstat(ns, &theirs) < 0 || !same_file(&ours, &theirs);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	return stat(path, &theirs) < 0 || !same_file(&ours, &theirs);
}

static bool read_name(pid_t pid, int fd, char *name)
{
	char path[64], line[128];
	_cleanup_file_ FILE *f = NULL;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "iff: %15s", name) == 1)
			return true;
	return false;	/* /dev/net/tun opened, not (yet) a device; or closed meanwhile */
}

static bool known(const struct taps *t, const struct tap *tap)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->tap[i].index == tap->index && !strcmp(t->tap[i].name, tap->name))
			return true;
	return false;	/* each queue of a tap is a descriptor */
}

static void add(struct taps *t, const struct tap *tap, pid_t pid, int pidfd, int fd)
{
	if (known(t, tap))
		return;
	if (t->n == TAPS_MAX) {
		t->more = true;
		return;
	}
	t->tap[t->n++] = *tap;
	t->elsewhere |= elsewhere(pid, pidfd, fd);
}

static void look_at(struct taps *t, pid_t pid, int pidfd, int dirfd, const char *entry)
{
	char target[64];
	struct tap tap = { 0 };
	ssize_t n = readlinkat(dirfd, entry, target, sizeof(target) - 1);

	if (n < 0)
		return;		/* closed meanwhile, or "." */
	target[n] = '\0';
	if (!strcmp(target, "/dev/net/tun") ? read_name(pid, atoi(entry), tap.name) :
					      sscanf(target, "/dev/tap%d", &tap.index) == 1)
		add(t, &tap, pid, pidfd, atoi(entry));
}

/**
 * taps_read() - The taps of a process.
 * @ret: filled in on success.
 *
 * Return: 0, or a negative errno (-EACCES: no right to look: CAP_SYS_PTRACE).
 */
int taps_read(pid_t pid, int pidfd, struct taps *ret)
{
	struct taps t = { 0 };
	struct dirent *e;
	char path[40];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((e = readdir(dir)))
		look_at(&t, pid, pidfd, dirfd(dir), e->d_name);
	closedir(dir);
	*ret = t;
	return 0;
}
