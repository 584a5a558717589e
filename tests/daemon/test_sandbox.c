// SPDX-License-Identifier: GPL-2.0-only
/* The daemon's seccomp filter, each case in a child of its own: what ends it, and what must still work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/sandbox.h"

#define NOT_ENTERED 99

static char page[4096] __attribute__((aligned(4096)));

/* Each does one thing; its result, with errno. */
static long do_exec(void)
{
	char *none[] = { NULL };

	return execve("/bin/true", none, none);
}

static long do_clone(void)
{
	return syscall(SYS_clone3, NULL, 0);
}

static long do_fork(void)
{
	return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
}

static long do_trace(void)
{
	return syscall(SYS_ptrace, 16 /* PTRACE_ATTACH */, 1, NULL, NULL);
}

static long do_read_process(void)
{
	return syscall(SYS_process_vm_readv, 1, NULL, 0, NULL, 0, 0);
}

static long do_write_process(void)
{
	return syscall(SYS_process_vm_writev, 1, NULL, 0, NULL, 0, 0);
}

static long do_kill(void)
{
	return kill(1, 0);
}

static long do_signal_pidfd(void)
{
	return syscall(SYS_pidfd_send_signal, 0, 0, NULL, 0);
}

static long do_inet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static long do_packet(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}

static long do_audit(void)
{
	return socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
}

static long do_exec_memory(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static long do_exec_protect(void)
{
	return mprotect(page, sizeof(page), PROT_READ | PROT_EXEC);
}

static long do_setns(void)
{
	return setns(-1, CLONE_NEWNET);
}

static long do_mount(void)
{
	return syscall(SYS_mount, NULL, NULL, NULL, 0, NULL);
}

static long do_bpf(void)
{
	return syscall(SYS_bpf, 0, NULL, 0);
}

static long do_io_uring(void)
{
	return syscall(SYS_io_uring_setup, 0, NULL);
}

static long do_setuid(void)
{
	return syscall(SYS_setuid, 0);
}

static long do_terminal(void)
{
	return syscall(SYS_ioctl, 0, 0x5412ul /* TIOCSTI */, "x");
}

static const struct {
	const char *name;
	long (*act)(void);
} forbidden[] = {
	{ "execve", do_exec },		{ "clone3", do_clone },		{ "ptrace", do_trace },
	{ "process_vm_readv", do_read_process },			{ "process_vm_writev", do_write_process },
	{ "kill", do_kill },		{ "pidfd_send_signal", do_signal_pidfd }, { "clone", do_fork },
	{ "socket AF_INET", do_inet },	{ "socket AF_PACKET", do_packet }, { "NETLINK_AUDIT", do_audit },
	{ "mmap PROT_EXEC", do_exec_memory }, { "mprotect PROT_EXEC", do_exec_protect },
	{ "setns", do_setns },		{ "mount", do_mount },		{ "bpf", do_bpf },
	{ "io_uring_setup", do_io_uring }, { "setuid", do_setuid },	{ "TIOCSTI", do_terminal },
};

#define N_FORBIDDEN (sizeof(forbidden) / sizeof(forbidden[0]))

/* The wait status of a child that enters the sandbox and acts; its exit status is 0 or the act's errno. */
static int in_sandbox(const char *action, long (*act)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		if (sandbox_enter(action))
			_exit(NOT_ENTERED);
		_exit(act() < 0 ? errno : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void test_kill(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_FORBIDDEN; i++) {
		int status = in_sandbox("kill", forbidden[i].act);

		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
			fail_msg("%s: not killed, wait status 0x%x", forbidden[i].name, (unsigned int)status);
	}
}

static void test_deny(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_FORBIDDEN; i++) {
		int status = in_sandbox("deny", forbidden[i].act);

		if (!WIFEXITED(status) || WEXITSTATUS(status) != EPERM)
			fail_msg("%s: no EPERM, wait status 0x%x", forbidden[i].name, (unsigned int)status);
	}
}

/* What passes without the filter shows that it was the filter above. */
static long do_anything(void)
{
	return do_inet() < 0 || do_exec_memory() < 0 ? -1 : 0;
}

static void test_log_and_off(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox("log", do_anything), 0);
	assert_int_equal(in_sandbox("off", do_anything), 0);
}

static long do_own_work(void)
{
	int self = pidfd_open(getpid(), 0), fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (self < 0 || fd < 0 || ftruncate(fd, 1 << 20) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) ||
	    mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
		return -1;
	if (pidfd_getfd(self, fd, 0) < 0)
		return -1;
	if (socket(AF_UNIX, SOCK_STREAM, 0) < 0 || socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) < 0 ||
	    socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) < 0)
		return -1;
	return open("/proc/self/status", O_RDONLY);
}

static void test_own_work(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox("kill", do_own_work), 0);
}

static long do_abort(void)
{
	abort();
}

static void test_abort(void **state)
{
	int status = in_sandbox("kill", do_abort);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill),	cmocka_unit_test(test_deny),  cmocka_unit_test(test_log_and_off),
		cmocka_unit_test(test_own_work), cmocka_unit_test(test_abort),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
