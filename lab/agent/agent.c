// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The lab's agent: runs commands in a guest for `shunt-lab exec`, over virtio-serial ports, so that
 * it keeps working whatever a test does to the guest's network.
 *
 * DOC: Theory of operation
 *
 * One process per port ("shunt.agent.N"), one session at a time per port. A session is one command:
 *
 *	host:  HELLO(nonce) EXEC(part)... RUN  STDIN... STDIN(empty = EOF)  KILL(signal)
 *	guest: HELLO(magic, nonce)  STDOUT|STDERR|CREDIT...  EXIT(status) | ERROR(text)
 *
 * A frame is one byte of type, three of length (little-endian), and the payload. A port is a byte
 * pipe that outlives its clients, so a client may find one in the middle of a frame:
 *   - guest side: the host starts a session with FRAME_MAX zero bytes. They complete whatever frame
 *     was cut off (its session is dead, nobody misses it); between frames a zero byte means nothing.
 *   - host side: it throws away everything before the magic and its own nonce.
 *
 * Standard input is under credit (the host may have STDIN_WINDOW bytes under way), so this process
 * can always read the port, and so notices KILL and a client that vanished even when the command
 * does not read. When the client vanishes the command's process group is killed. What left the
 * group (setsid) lives on.
 *
 * The port is watched edge-triggered: a port without a client reports a permanent hang-up, and the
 * driver wakes its waiters when a client comes. It does that from a work queue, possibly after it
 * delivered the client's first bytes; until then nothing can be sent, so HELLO's answer may have to
 * wait for that edge. For the same reason a hang-up counts only when it lasts: the late news of the
 * last client's leaving may come after the next one's command began.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT_PREFIX "shunt.agent."
#define PORTS_MAX 32
#define FRAME_MAX (16 * 1024)		/* payload, either direction; the host knows it too */
#define STDIN_WINDOW (256 * 1024)
#define REQUEST_MAX (1024 * 1024)
#define NONCE_LEN 16
#define HANGUP_MS 300			/* a hang-up this long is one */
#define MAGIC "\177SHUNTAGENT1\n\0\0\0"	/* 16 bytes */

enum { F_NOP = 0, F_HELLO = 1, F_EXEC = 2, F_RUN = 3, F_STDIN = 4, F_KILL = 5 };
enum { R_HELLO = 1, R_STDOUT = 2, R_STDERR = 3, R_EXIT = 4, R_CREDIT = 5, R_ERROR = 6 };

/* The command of the current session; pid is 0 when none runs. */
struct command {
	pid_t pid;
	int pidfd;
	int in, out, err;		/* our ends of its pipes, -1 when closed */
};

struct agent {
	int port;
	int epoll;
	uint8_t frame[4 + FRAME_MAX];	/* the frame being received */
	size_t have;
	uint8_t hello[16 + NONCE_LEN];	/* answer to HELLO, while the port cannot take it */
	int hello_due;
	char *request;			/* EXEC parts collected */
	size_t request_len;
	uint8_t *input;			/* STDIN not yet taken by the command */
	size_t input_len;
	int input_eof;
	struct command cmd;
};

static int port_hung_up(const struct agent *a)
{
	struct pollfd pfd = { .fd = a->port };

	poll(&pfd, 1, 0);
	return !!(pfd.revents & POLLHUP);
}

/* Is there no client, for HANGUP_MS? */
static int client_gone(const struct agent *a)
{
	for (int waited = 0; port_hung_up(a); waited += 10) {
		if (waited >= HANGUP_MS)
			return 1;
		usleep(10000);
	}
	return 0;
}

/* Send all of @len bytes, waiting for room. -1: the client is gone. */
static int port_write(struct agent *a, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = write(a->port, p, len);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -1;
		struct pollfd pfd = { .fd = a->port, .events = POLLOUT };

		poll(&pfd, 1, -1);
		if ((pfd.revents & POLLHUP) && client_gone(a))
			return -1;
	}
	return 0;
}

static int send_frame(struct agent *a, int type, const void *data, size_t len)
{
	uint8_t buf[4 + FRAME_MAX];

	buf[0] = (uint8_t)type;
	buf[1] = (uint8_t)len;
	buf[2] = (uint8_t)(len >> 8);
	buf[3] = (uint8_t)(len >> 16);
	memcpy(buf + 4, data, len);
	return port_write(a, buf, 4 + len);
}

static void watch(struct agent *a, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };

	if (epoll_ctl(a->epoll, EPOLL_CTL_ADD, fd, &ev))
		epoll_ctl(a->epoll, EPOLL_CTL_MOD, fd, &ev);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A child that has not come to its setsid() has no group yet: then the signal is for it alone. */
static void command_signal(const struct agent *a, int number)
{
	if (kill(-a->cmd.pid, number))
		kill(a->cmd.pid, number);
}

/* Forget the session; a command still running loses its process group. */
static void session_end(struct agent *a)
{
	if (a->cmd.pid) {
		command_signal(a, SIGKILL);
		waitpid(a->cmd.pid, NULL, 0);
		a->cmd.pid = 0;
	}
	close_fd(&a->cmd.pidfd);
	close_fd(&a->cmd.in);
	close_fd(&a->cmd.out);
	close_fd(&a->cmd.err);
	a->request_len = 0;
	a->input_len = 0;
	a->input_eof = 0;
}

/* Read what is there from one of the command's outputs. 0: nothing more for now or ever. */
static int relay_output(struct agent *a, int *fd, int type)
{
	uint8_t buf[FRAME_MAX];
	ssize_t n;

	if (*fd < 0)
		return 0;
	n = read(*fd, buf, sizeof(buf));
	if (n > 0) {
		if (send_frame(a, type, buf, (size_t)n))
			session_end(a);
		return 1;
	}
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_fd(fd);
	return 0;
}

static void send_credit(struct agent *a, size_t bytes)
{
	uint8_t le[4] = { (uint8_t)bytes, (uint8_t)(bytes >> 8), (uint8_t)(bytes >> 16), (uint8_t)(bytes >> 24) };

	if (send_frame(a, R_CREDIT, le, sizeof(le)))
		session_end(a);
}

/* Give the command what it takes of its input; give the host credit for it. */
static void feed_input(struct agent *a)
{
	ssize_t n = 0;

	if (a->cmd.in < 0) {
		n = (ssize_t)a->input_len;	/* it closed its end: swallow */
	} else if (a->input_len) {
		n = write(a->cmd.in, a->input, a->input_len);
		if (n < 0 && errno == EPIPE) {
			close_fd(&a->cmd.in);
			n = (ssize_t)a->input_len;
		}
	}
	if (n > 0) {
		a->input_len -= (size_t)n;
		memmove(a->input, a->input + n, a->input_len);
		send_credit(a, (size_t)n);
	}
	if (!a->input_len && a->input_eof)
		close_fd(&a->cmd.in);
	else if (a->cmd.in >= 0)
		watch(a, a->cmd.in, a->input_len ? EPOLLOUT : 0);
}

static void command_exited(struct agent *a)
{
	uint8_t le[4] = { 0 };
	int status = 0;

	/* What it wrote is in the pipes already; a descendant may hold them open for ever. */
	while (relay_output(a, &a->cmd.out, R_STDOUT))
		;
	while (relay_output(a, &a->cmd.err, R_STDERR))
		;
	if (!a->cmd.pid)
		return;
	waitpid(a->cmd.pid, &status, 0);
	a->cmd.pid = 0;
	le[0] = (uint8_t)(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
	send_frame(a, R_EXIT, le, sizeof(le));
	session_end(a);
}

/* Split the request: "ARGC\0" argv strings, then "NAME=VALUE" strings, all NUL-terminated. */
static char **request_split(struct agent *a, char ***ret_env)
{
	char *p = a->request, *end = a->request + a->request_len;
	size_t argc, n = 0;
	char **list;

	if (!a->request_len || end[-1] != '\0')
		return NULL;
	for (char *q = p; q < end; q++)
		n += *q == '\0';
	argc = strtoul(p, &p, 10);
	if (argc < 1 || argc > n - 1)
		return NULL;
	list = calloc(n + 2, sizeof(*list));
	if (!list)
		return NULL;
	p++;
	for (size_t i = 0; i < argc; i++, p += strlen(p) + 1)
		list[i] = p;
	*ret_env = list + argc + 1;
	for (size_t i = 0; p < end; i++, p += strlen(p) + 1)
		(*ret_env)[i] = p;
	return list;
}

static void child_run(char **argv, char **env, const int in[2], const int out[2], const int err[2])
{
	setsid();
	dup2(in[0], 0);
	dup2(out[1], 1);
	dup2(err[1], 2);
	signal(SIGPIPE, SIG_DFL);
	for (; *env; env++)
		putenv(*env);
	if (!chdir("/root"))
		execvp(argv[0], argv);
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static int pipes_open(int in[2], int out[2], int err[2])
{
	if (pipe2(in, O_CLOEXEC))
		return -1;
	if (pipe2(out, O_CLOEXEC))
		goto err_in;
	if (pipe2(err, O_CLOEXEC))
		goto err_out;
	return 0;
err_out:
	close(out[0]);
	close(out[1]);
err_in:
	close(in[0]);
	close(in[1]);
	return -1;
}

static const char *command_start(struct agent *a)
{
	int in[2], out[2], err[2];
	char **argv, **env;

	argv = request_split(a, &env);
	if (!argv)
		return "malformed request";
	if (pipes_open(in, out, err)) {
		free(argv);
		return "no pipes";
	}
	a->cmd.pid = fork();
	if (a->cmd.pid == 0)
		child_run(argv, env, in, out, err);
	free(argv);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	a->cmd.in = in[1];
	a->cmd.out = out[0];
	a->cmd.err = err[0];
	if (a->cmd.pid < 0) {
		a->cmd.pid = 0;
		return "cannot fork";
	}
	a->cmd.pidfd = pidfd_open(a->cmd.pid, 0);
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	watch(a, a->cmd.pidfd, EPOLLIN);
	watch(a, a->cmd.out, EPOLLIN);
	watch(a, a->cmd.err, EPOLLIN);
	feed_input(a);
	return NULL;
}

static void session_fail(struct agent *a, const char *why)
{
	send_frame(a, R_ERROR, why, strlen(why));
	session_end(a);
}

static void on_hello(struct agent *a, const uint8_t *nonce, size_t len)
{
	session_end(a);
	if (len != NONCE_LEN)
		return;
	memcpy(a->hello, MAGIC, 16);
	memcpy(a->hello + 16, nonce, NONCE_LEN);
	a->hello_due = 1;		/* on_port() sends it */
}

static void on_exec(struct agent *a, const uint8_t *part, size_t len)
{
	if (a->cmd.pid || a->request_len + len > REQUEST_MAX) {
		session_fail(a, "request too long");
		return;
	}
	memcpy(a->request + a->request_len, part, len);
	a->request_len += len;
}

static void on_stdin(struct agent *a, const uint8_t *data, size_t len)
{
	if (a->input_len + len > STDIN_WINDOW)
		return;			/* of a dead session, or beyond its credit */
	memcpy(a->input + a->input_len, data, len);
	a->input_len += len;
	a->input_eof |= !len;
	if (a->cmd.pid)
		feed_input(a);
}

static void on_frame(struct agent *a, int type, const uint8_t *data, size_t len)
{
	const char *why;

	switch (type) {
	case F_HELLO:
		on_hello(a, data, len);
		break;
	case F_EXEC:
		on_exec(a, data, len);
		break;
	case F_RUN:
		why = a->cmd.pid ? "already running" : command_start(a);
		if (why)
			session_fail(a, why);
		break;
	case F_STDIN:
		on_stdin(a, data, len);
		break;
	case F_KILL:
		if (a->cmd.pid)
			command_signal(a, len ? data[0] : SIGKILL);
		break;
	}
}

/* Cut @len received bytes into frames. An impossible header is skipped byte by byte until the zeros come. */
static void on_bytes(struct agent *a, const uint8_t *p, size_t len)
{
	while (len) {
		size_t want = 4, n;

		if (!a->have && *p == F_NOP) {
			p++;
			len--;
			continue;
		}
		if (a->have >= 4)
			want += a->frame[1] | (size_t)a->frame[2] << 8 | (size_t)a->frame[3] << 16;
		if (want > sizeof(a->frame)) {
			a->have = 0;
			continue;
		}
		n = want - a->have < len ? want - a->have : len;
		memcpy(a->frame + a->have, p, n);
		a->have += n;
		p += n;
		len -= n;
		if (a->have < 4)
			continue;
		want = 4 + (a->frame[1] | (size_t)a->frame[2] << 8 | (size_t)a->frame[3] << 16);
		if (a->have == want) {
			a->have = 0;
			on_frame(a, a->frame[0], a->frame + 4, want - 4);
		}
	}
}

static void on_port(struct agent *a)
{
	uint8_t buf[FRAME_MAX];
	ssize_t n;

	while ((n = read(a->port, buf, sizeof(buf))) > 0)
		on_bytes(a, buf, (size_t)n);
	if (a->cmd.pid && client_gone(a))
		session_end(a);
	if (a->hello_due && !port_hung_up(a)) {
		a->hello_due = 0;
		send_frame(a, R_HELLO, a->hello, sizeof(a->hello));
	}
}

static void on_event(struct agent *a, int fd, uint32_t events)
{
	if (fd == a->cmd.in && (events & EPOLLERR))
		close_fd(&a->cmd.in);	/* nobody reads it any more; feed_input() swallows the rest */
	if (fd == a->port)
		on_port(a);
	else if (fd == a->cmd.out)
		relay_output(a, &a->cmd.out, R_STDOUT);
	else if (fd == a->cmd.err)
		relay_output(a, &a->cmd.err, R_STDERR);
	else if (fd == a->cmd.pidfd)
		command_exited(a);
	else
		feed_input(a);
}

static void serve(const char *path)
{
	static struct agent a;

	a.cmd = (struct command){ .pidfd = -1, .in = -1, .out = -1, .err = -1 };
	a.request = malloc(REQUEST_MAX);
	a.input = malloc(STDIN_WINDOW);
	a.port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	a.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!a.request || !a.input || a.port < 0 || a.epoll < 0) {
		fprintf(stderr, "agent: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	signal(SIGPIPE, SIG_IGN);
	watch(&a, a.port, EPOLLIN | EPOLLOUT | EPOLLET);
	on_port(&a);		/* a client may be waiting already */
	for (;;) {
		struct epoll_event ev;

		/* One at a time: handling an event may close the descriptor of the next. */
		if (epoll_wait(a.epoll, &ev, 1, -1) == 1)
			on_event(&a, ev.data.fd, ev.events);
	}
}

/* Our ports by the names QEMU gave them; returns how many. */
static int ports_find(char paths[PORTS_MAX][64])
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int n = 0;

	while (dir && n < PORTS_MAX && (entry = readdir(dir))) {
		char file[300], name[64] = "";
		FILE *f;

		snprintf(file, sizeof(file), "/sys/class/virtio-ports/%s/name", entry->d_name);
		f = fopen(file, "re");
		if (!f)
			continue;
		if (fgets(name, sizeof(name), f) && !strncmp(name, PORT_PREFIX, strlen(PORT_PREFIX)))
			snprintf(paths[n++], 64, "/dev/%.40s", entry->d_name);
		fclose(f);
	}
	if (dir)
		closedir(dir);
	return n;
}

int main(void)
{
	static char paths[PORTS_MAX][64];
	pid_t pids[PORTS_MAX] = { 0 };
	int n = ports_find(paths);

	if (!n) {
		fprintf(stderr, "agent: no %s* port\n", PORT_PREFIX);
		return 1;
	}
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("USER", "root", 1);
	setenv("LANG", "C.UTF-8", 1);
	for (;;) {
		pid_t dead;

		for (int i = 0; i < n; i++) {
			if (pids[i] > 0)
				continue;
			pids[i] = fork();
			if (!pids[i])
				serve(paths[i]);
		}
		dead = wait(NULL);
		for (int i = 0; i < n; i++)
			if (pids[i] == dead)
				pids[i] = 0;
	}
}
