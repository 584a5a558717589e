// SPDX-License-Identifier: GPL-2.0-only
/*
 * The server side of QEMU's ivshmem protocol (docs/specs/ivshmem-spec.txt in QEMU), in the one form
 * that is safe: a socket per segment end, the whole greeting at once, fixed ids, every member's
 * eventfds announced whether or not it is there, and nothing ever sent afterwards.
 *
 * QEMU reads the greeting with blocking reads inside device_add and spins for ever on an early end
 * of file. So device_add is sent only after the whole greeting lies in the socket (plug.c waits for
 * plug_announced()): from then on this daemon may be killed without harm.
 */
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/shuntd.h"

#define IVSHMEM_PROTOCOL_VERSION 0

static int send_one(int sock, int64_t value, int fd)
{
	struct iovec iov = { &value, sizeof(value) };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = { 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (fd >= 0) {
		struct cmsghdr *h;

		m.msg_control = u.buf;
		m.msg_controllen = sizeof(u.buf);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &fd, sizeof(int));
	}
	n = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n == (ssize_t)sizeof(value) ? 0 : n < 0 ? -errno : -EMSGSIZE;
}

/**
 * ivshmem_greet() - Send the whole greeting: version, own id, memory, every member's eventfds.
 *
 * Return: 0 or a negative errno: QEMU has half of it and must not meet a device_add.
 */
int ivshmem_greet(const struct end *e, int sock)
{
	const struct segment *s = e->seg;
	int r;

	r = send_one(sock, IVSHMEM_PROTOCOL_VERSION, -1);
	if (!r)
		r = send_one(sock, e->member, -1);
	if (!r)
		r = send_one(sock, -1, s->memfd);
	for (unsigned int m = 0; !r && m < s->spec.members; m++)
		for (unsigned int v = 0; !r && v < s->spec.vectors; v++)
			r = send_one(sock, m, s->efd[m][v]);
	return r;
}

static bool is_our_qemu(const struct end *e, int sock)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return false;
	if (cred.pid == e->vm->pid)
		return true;
	e->vm->d->refused_peers++;
	log_warn("peer-refused", "vm=%s device=%s pid=%d uid=%u expected-pid=%d", e->vm->name, e->qdev,
		 cred.pid, cred.uid, e->vm->pid);
	return false;
}

/* QEMU never sends anything; end of file means that the chardev is gone. */
static int on_conn(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct end *e = userdata;
	char buf[64];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	(void)s;
	(void)revents;
	if (n > 0 || (n < 0 && errno == EAGAIN))
		return 0;
	e->conn_io = sd_event_source_disable_unref(e->conn_io);
	shunt_close(&e->conn_fd);
	return 0;
}

/**
 * ivshmem_watch() - Keep a connection that was greeted, until its other side closes it
 * @e: whose; a former connection is closed
 * @sock: taken
 *
 * Returns 0 or a negative errno.
 */
int ivshmem_watch(struct end *e, int sock)
{
	e->conn_io = sd_event_source_disable_unref(e->conn_io);
	shunt_close(&e->conn_fd);
	e->conn_fd = sock;
	return sd_event_add_io(e->vm->d->event, &e->conn_io, e->conn_fd, EPOLLIN, on_conn, e);
}

static int accept_one(struct end *e)
{
	_cleanup_close_ int sock = accept4(e->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r;

	if (sock < 0)
		return errno == EAGAIN || errno == ECONNABORTED || errno == EINTR ? -EAGAIN : -errno;
	if (!is_our_qemu(e, sock))
		return -EAGAIN;
	r = ivshmem_greet(e, sock);
	if (r)
		return r;
	return ivshmem_watch(e, shunt_take_fd(&sock));
}

static int on_connect(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct end *e = userdata;
	int r = accept_one(e);

	(void)s;
	(void)fd;
	(void)revents;
	if (r == -EAGAIN)
		return 0;
	ivshmem_unlisten(e);
	plug_announced(e, r < 0 ? r : 0);
	return 0;
}

/** ivshmem_path() - Where QEMU finds the socket of an end. */
void ivshmem_path(const struct end *e, char *buf, size_t size)
{
	snprintf(buf, size, "%s/dev/%s.sock", e->vm->d->config->runtime_dir, e->qdev);
}

static int bind_it(struct end *e, int fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char path[sizeof(a.sun_path)];
	mode_t mask;
	int r;

	ivshmem_path(e, path, sizeof(path));
	strcpy(a.sun_path, path);
	unlink(path);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	umask(mask);
	if (r)
		return r;
	/* QEMU often runs as its own user; who connects is checked by pid besides. */
	if (e->vm->uid != geteuid() && chown(path, e->vm->uid, (gid_t)-1) < 0)
		log_warn("chown-failed", "path=%s uid=%u error=\"%m\"", path, e->vm->uid);
	return listen(fd, 4) < 0 ? -errno : 0;
}

/**
 * ivshmem_listen() - Open the socket of an end for its VM's QEMU, and only for that process.
 *
 * Once QEMU has connected and the whole greeting is in the socket, the listening socket is removed
 * and plug_announced() is called.
 *
 * Return: 0 or a negative errno.
 */
int ivshmem_listen(struct end *e)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = bind_it(e, fd);
	if (r)
		return r;
	e->listen_fd = shunt_take_fd(&fd);
	r = sd_event_add_io(e->vm->d->event, &e->listen_io, e->listen_fd, EPOLLIN, on_connect, e);
	return r < 0 ? r : 0;
}

/** ivshmem_unlisten() - Stop listening; an established connection stays. */
void ivshmem_unlisten(struct end *e)
{
	char path[128];

	if (e->listen_fd < 0)
		return;
	e->listen_io = sd_event_source_disable_unref(e->listen_io);
	shunt_close(&e->listen_fd);
	ivshmem_path(e, path, sizeof(path));
	unlink(path);
}
