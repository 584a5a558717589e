// SPDX-License-Identifier: GPL-2.0-only
/*
 * An asynchronous QMP client (QEMU's docs/interop/qmp-spec). Commands are answered in order;
 * callers queue as many as they like. A monitor serves one client at a time: a second one
 * is accepted by the kernel but never greeted, which is how a busy socket is recognised.
 *
 * Callbacks may free the qmp. Every function that calls back therefore looks at q->freed before it
 * touches q again; memory goes when the last of them leaves (q->depth).
 */
#include "daemon/qmp.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"

#define QMP_INPUT_MAX (4u << 20)	/* no answer we ask for comes near this */

struct qmp_command {
	TAILQ_ENTRY(qmp_command) link;
	uint64_t id;
	char *text;
	size_t len, sent;
	int fd;			/* to pass with the first byte, or -1 */
	qmp_reply_fn fn;
	void *ctx;
};

TAILQ_HEAD(qmp_commands, qmp_command);

struct qmp {
	sd_event *event;
	sd_event_source *io, *timer;
	const struct qmp_ops *ops;
	void *ctx;
	struct qmp_timeouts timeouts;
	int fd;
	pid_t pid;
	uid_t uid;
	bool greeted, ready, closed, freed;
	unsigned int depth;
	uint64_t next_id;
	struct qmp_commands unsent, waiting;
	char *in;
	size_t in_len, in_size;
};

static void command_free(struct qmp_command *c)
{
	free(c->text);
	shunt_close(&c->fd);
	free(c);
}

static void drop_commands(struct qmp_commands *list)
{
	struct qmp_command *c;

	while ((c = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, c, link);
		command_free(c);
	}
}

static void enter(struct qmp *q)
{
	q->depth++;
}

/* Returns false when q is gone. */
static bool leave(struct qmp *q)
{
	bool alive = !q->freed;

	if (--q->depth == 0 && q->freed)
		free(q);
	return alive;
}

static void shut(struct qmp *q, int error)
{
	if (q->closed)
		return;
	q->closed = true;
	q->ready = false;
	q->io = sd_event_source_disable_unref(q->io);
	q->timer = sd_event_source_disable_unref(q->timer);
	shunt_close(&q->fd);
	drop_commands(&q->unsent);
	drop_commands(&q->waiting);
	q->ops->closed(q->ctx, error);
}

static void arm_timer(struct qmp *q)
{
	uint64_t ms = q->greeted ? q->timeouts.command_ms : q->timeouts.greeting_ms;

	if (q->greeted && TAILQ_EMPTY(&q->waiting)) {
		sd_event_source_set_enabled(q->timer, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time_relative(q->timer, ms * 1000);
	sd_event_source_set_enabled(q->timer, SD_EVENT_ONESHOT);
}

static ssize_t send_some(struct qmp *q, struct qmp_command *c)
{
	struct iovec iov = { c->text + c->sent, c->len - c->sent };
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = { 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (c->fd >= 0 && !c->sent) {
		struct cmsghdr *h;

		m.msg_control = u.buf;
		m.msg_controllen = sizeof(u.buf);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(h), &c->fd, sizeof(int));
	}
	return sendmsg(q->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* 0, or negative errno: the connection is of no use any more. */
static int flush(struct qmp *q)
{
	struct qmp_command *c;

	while ((c = TAILQ_FIRST(&q->unsent))) {
		ssize_t n = send_some(q, c);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0)
			return -errno;
		c->sent += (size_t)n;
		if (c->sent < c->len)
			continue;
		shunt_close(&c->fd);
		TAILQ_REMOVE(&q->unsent, c, link);
		if (TAILQ_EMPTY(&q->waiting)) {
			TAILQ_INSERT_TAIL(&q->waiting, c, link);
			arm_timer(q);
		} else {
			TAILQ_INSERT_TAIL(&q->waiting, c, link);
		}
	}
	sd_event_source_set_io_events(q->io, EPOLLIN | (TAILQ_EMPTY(&q->unsent) ? 0 : EPOLLOUT));
	return 0;
}

static void on_capabilities(void *ctx, json_t *ret, const char *error)
{
	struct qmp *q = ctx;

	(void)error;
	if (!ret) {
		shut(q, -EPROTO);
		return;
	}
	q->ready = true;
	q->ops->ready(q->ctx);
}

static void on_answer(struct qmp *q, json_t *obj)
{
	struct qmp_command *c = TAILQ_FIRST(&q->waiting);
	json_t *ret = json_object_get(obj, "return");
	const char *error = json_string_value(json_object_get(json_object_get(obj, "error"), "desc"));

	if (!c || (uint64_t)json_integer_value(json_object_get(obj, "id")) != c->id) {
		shut(q, -EPROTO);
		return;
	}
	TAILQ_REMOVE(&q->waiting, c, link);
	arm_timer(q);
	if (c->fn)
		c->fn(c->ctx, ret, ret ? NULL : error ? error : "malformed answer");
	command_free(c);
}

static void on_object(struct qmp *q, json_t *obj)
{
	const char *event = json_string_value(json_object_get(obj, "event"));

	if (event) {
		if (q->ready)
			q->ops->event(q->ctx, event, json_object_get(obj, "data"));
	} else if (json_object_get(obj, "QMP")) {
		q->greeted = true;
		qmp_call(q, "qmp_capabilities", NULL, on_capabilities, q);
	} else {
		on_answer(q, obj);
	}
}

static void take_lines(struct qmp *q)
{
	char *start = q->in, *end = q->in + q->in_len, *nl;

	while (!q->closed && !q->freed && (nl = memchr(start, '\n', (size_t)(end - start)))) {
		_cleanup_json_ json_t *obj = json_loadb(start, (size_t)(nl - start), 0, NULL);

		start = nl + 1;
		if (obj)
			on_object(q, obj);
		else if (nl - start > 2)
			shut(q, -EPROTO);
	}
	if (q->freed)
		return;
	memmove(q->in, start, (size_t)(end - start));
	q->in_len = (size_t)(end - start);
}

static int read_some(struct qmp *q)
{
	ssize_t n;

	if (q->in_size - q->in_len < 4096) {
		if (q->in_size >= QMP_INPUT_MAX)
			return -EMSGSIZE;
		q->in_size = q->in_size ? 2 * q->in_size : 16384;
		q->in = realloc(q->in, q->in_size);
	}
	n = recv(q->fd, q->in + q->in_len, q->in_size - q->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECONNRESET;
	q->in_len += (size_t)n;
	return 0;
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct qmp *q = userdata;
	int r = 0;

	(void)s;
	(void)fd;
	enter(q);
	if (revents & EPOLLOUT)
		r = flush(q);
	if (!r && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		r = read_some(q);
	if (r)
		shut(q, r);
	else
		take_lines(q);
	leave(q);
	return 0;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct qmp *q = userdata;
	struct qmp_command *c = TAILQ_FIRST(&q->waiting);

	(void)s;
	(void)usec;
	enter(q);
	if (c && c->fn) {
		qmp_reply_fn fn = c->fn;

		c->fn = NULL;
		fn(c->ctx, NULL, "timeout");
	}
	/* The answer may still come and would be taken for another's: start over. */
	if (!q->freed)
		shut(q, q->greeted ? -ETIMEDOUT : -EBUSY);
	leave(q);
	return 0;
}

static int start(struct qmp *q, const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int r;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (q->fd < 0)
		return -errno;
	/* A full backlog answers EAGAIN: as busy as can be. */
	if (connect(q->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return errno == EAGAIN ? -EBUSY : -errno;
	if (getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	q->pid = cred.pid;
	q->uid = cred.uid;
	r = sd_event_add_io(q->event, &q->io, q->fd, EPOLLIN, on_io, q);
	if (r < 0)
		return r;
	return sd_event_add_time_relative(q->event, &q->timer, CLOCK_MONOTONIC,
					  q->timeouts.greeting_ms * 1000, 0, on_timer, q);
}

/**
 * qmp_connect() - Connect to a monitor.
 * @path: its UNIX socket.
 * @ops: called from the event loop; never from within this function.
 * @ret: the connection; free it with qmp_free(), also after ops->closed().
 *
 * Return: 0, -ECONNREFUSED (stale socket), -ENOENT, -EACCES, -EBUSY or another errno.
 */
int qmp_connect(sd_event *event, const char *path, const struct qmp_timeouts *t,
		const struct qmp_ops *ops, void *ctx, struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));
	int r;

	q->event = event;
	q->ops = ops;
	q->ctx = ctx;
	q->timeouts = *t;
	q->fd = -1;
	TAILQ_INIT(&q->unsent);
	TAILQ_INIT(&q->waiting);
	r = start(q, path);
	if (r < 0) {
		qmp_free(q);
		return r;
	}
	*ret = q;
	return 0;
}

/** qmp_peer() - The process behind the socket, as the kernel has it. */
void qmp_peer(const struct qmp *q, pid_t *ret_pid, uid_t *ret_uid)
{
	*ret_pid = q->pid;
	*ret_uid = q->uid;
}

/** qmp_is_ready() - Whether commands can be sent. NULL is not ready. */
bool qmp_is_ready(const struct qmp *q)
{
	return q && q->ready;
}

/**
 * qmp_call_fd() - Queue a command that carries a descriptor.
 * @args: stolen; may be NULL.
 * @fd: stolen; -1: none.
 * @fn: called with the answer; may be NULL.
 */
void qmp_call_fd(struct qmp *q, const char *command, json_t *args, int fd, qmp_reply_fn fn, void *ctx)
{
	_cleanup_json_ json_t *obj = json_pack("{s:s, s:I}", "execute", command, "id",
					       (json_int_t)++q->next_id);
	struct qmp_command *c = calloc(1, sizeof(*c));
	char *text;

	if (args)
		json_object_set_new(obj, "arguments", args);
	text = json_dumps(obj, JSON_COMPACT);
	c->id = q->next_id;
	c->len = (size_t)asprintf(&c->text, "%s\n", text);
	free(text);
	c->fd = fd;
	c->fn = fn;
	c->ctx = ctx;
	if (q->closed) {
		command_free(c);
		return;
	}
	TAILQ_INSERT_TAIL(&q->unsent, c, link);
	/* Sent from the loop: a failure to send must not call back into our caller. */
	sd_event_source_set_io_events(q->io, EPOLLIN | EPOLLOUT);
}

/** qmp_call() - Queue a command. See qmp_call_fd(). */
void qmp_call(struct qmp *q, const char *command, json_t *args, qmp_reply_fn fn, void *ctx)
{
	qmp_call_fd(q, command, args, -1, fn, ctx);
}

/** qmp_free() - Drop the connection; queued commands get no answer. NULL is fine. */
void qmp_free(struct qmp *q)
{
	if (!q || q->freed)
		return;
	q->freed = true;
	q->closed = true;
	sd_event_source_disable_unref(q->io);
	sd_event_source_disable_unref(q->timer);
	shunt_close(&q->fd);
	drop_commands(&q->unsent);
	drop_commands(&q->waiting);
	free(q->in);
	q->in = NULL;
	if (!q->depth)
		free(q);
}
