// SPDX-License-Identifier: GPL-2.0-only
/*
 * The system calls the daemon may make once it has started, and no others: a seccomp filter.
 *
 * The list is what shuntd's own code and its libraries (libc, sd-event, jansson, libconfig, libmnl) were
 * seen to call, with the variants that other versions and architectures of them use in place
 * of those. What it leaves out matters more: starting programs and threads, signals (also through
 * the pidfds it holds), ptrace() and process_vm_*() which CAP_SYS_PTRACE would make omnipotent,
 * executable memory, any socket but UNIX and the two netlinks that host policy is read from, namespaces, mounts,
 * modules, BPF, io_uring, keys. docs/privileges.md has it in words.
 *
 * Names are looked up and libraries loaded (NSS) before, never after.
 */
#include "daemon/sandbox.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"

static const int loop[] = {
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_create1), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(signalfd4),
	SCMP_SYS(inotify_init1), SCMP_SYS(inotify_add_watch), SCMP_SYS(inotify_rm_watch), SCMP_SYS(poll),
	SCMP_SYS(ppoll), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time),
};

/* State file, configuration, /proc of QEMU and of itself, sockets' names. */
static const int files[] = {
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(lseek),
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(dup), SCMP_SYS(stat),
	SCMP_SYS(lstat), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(fstatat64), SCMP_SYS(statx),
	SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
	SCMP_SYS(getdents64), SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(rename), SCMP_SYS(renameat),
	SCMP_SYS(renameat2), SCMP_SYS(umask), SCMP_SYS(chown), SCMP_SYS(fchownat), SCMP_SYS(getrandom),
	SCMP_SYS(uname),
};

static const int sockets[] = {
	SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept4), SCMP_SYS(connect), SCMP_SYS(getsockname),
	SCMP_SYS(getsockopt), SCMP_SYS(setsockopt), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom),
	SCMP_SYS(recvmsg), SCMP_SYS(shutdown),
};

/* Segments, and what adoption takes back. */
static const int segments[] = {
	SCMP_SYS(memfd_create), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(eventfd2),
	SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_getfd),
};

static const int process[] = {
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex),
	SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
	SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid),
	SCMP_SYS(getegid), SCMP_SYS(sched_yield), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

static int allow_all(scmp_filter_ctx ctx, const int *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, list[i], 0);

		if (r && r != -EDOM)	/* a call this architecture does not have */
			return r;
	}
	return 0;
}

#define ALLOW_ALL(ctx_, list_) allow_all(ctx_, list_, sizeof(list_) / sizeof((list_)[0]))

static int allow_sockets(scmp_filter_ctx ctx)
{
	static const int netlink[] = { NETLINK_ROUTE, NETLINK_NETFILTER };
	int r = ALLOW_ALL(ctx, sockets);

	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
	for (size_t i = 0; !r && i < 2; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2, SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
				     SCMP_A2(SCMP_CMP_EQ, (scmp_datum_t)netlink[i]));
	return r;
}

/* Which tap a descriptor is, and where; what libc asks of a file. */
static int allow_ioctls(scmp_filter_ctx ctx)
{
	static const unsigned long requests[] = { TUNGETIFF, TUNGETDEVNETNS, FIONREAD, TCGETS };
	int r = 0;

	for (size_t i = 0; !r && i < sizeof(requests) / sizeof(requests[0]); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, requests[i]));
	return r;
}

static int allow_memory(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				 SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return r;
}

static int fill(scmp_filter_ctx ctx)
{
	int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1);	/* "deny" is to be seen, too */

	if (!r)
		r = ALLOW_ALL(ctx, loop);
	if (!r)
		r = ALLOW_ALL(ctx, files);
	if (!r)
		r = allow_sockets(ctx);
	if (!r)
		r = ALLOW_ALL(ctx, segments);
	if (!r)
		r = ALLOW_ALL(ctx, process);
	if (!r)
		r = allow_memory(ctx);
	if (!r)
		r = allow_ioctls(ctx);
	if (!r)		/* abort(): a failed check of libc's is to be seen as what it is */
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	return r;
}

static uint32_t action_of(const char *name)
{
	if (!strcmp(name, "log"))
		return SCMP_ACT_LOG;
	if (!strcmp(name, "deny"))
		return SCMP_ACT_ERRNO(EPERM);
	return SCMP_ACT_KILL_PROCESS;
}

/**
 * sandbox_enter() - From now on only the calls listed above.
 * @action: what becomes of others: "kill" ends the process, "deny" fails them with EPERM, "log" lets
 *          them pass; the kernel logs them in each case. "off" does nothing.
 *
 * Context: once, with one thread, when everything is set up.
 * Return: 0, or a negative errno, logged.
 */
int sandbox_enter(const char *action)
{
	scmp_filter_ctx ctx;
	int r;

	if (!strcmp(action, "off"))
		return 0;
	ctx = seccomp_init(action_of(action));
	if (!ctx)
		return -ENOMEM;
	r = fill(ctx);
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	if (r)
		log_err("seccomp-failed", "error=\"%s\" detail=\"a kernel without seccomp? see seccomp in "
			"shuntd.conf\"", strerror(-r));
	return r;
}
