// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control socket: one JSON object per line, one answer per request, in order.
 *
 *   {"cmd": "status"}                                   -> {"ok": true, "result": ...}
 *   {"cmd": "attach", "qmp": PATH, "name": N, "label": L} or {"cmd": "attach", "vm": NAME}
 *   {"cmd": "detach", "vm": NAME}
 *   {"cmd": "peers" | "links" | "stats" | "version"}
 *   failure                                             -> {"ok": false, "error": ..., "hint": ...}
 *
 * Who may connect is a matter of the socket's mode and group. A request that waits for something
 * (a plug, guests closing links, guests' counters) is answered by control_poll() when that has
 * happened, or at its deadline.
 */
#include <grp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/reason.h"
#include "daemon/shuntd.h"

#define LINE_MAX_BYTES 65536u
#define CLIENTS_MAX 64u
#define OUT_ENOUGH (256u << 10)	/* unread answers: no further request is taken before they are read */
#define ATTACH_USEC (10 * 1000000ull)
#define STATS_USEC (500 * 1000ull)

enum waits_for { WAIT_NOTHING, WAIT_ATTACH, WAIT_DETACH, WAIT_STATS };

struct client {
	TAILQ_ENTRY(client) link;
	struct control *c;
	int fd;
	sd_event_source *io;
	char in[LINE_MAX_BYTES];
	size_t in_len;
	char *out;
	size_t out_len, out_sent;
	enum waits_for wait;
	char *subject;		/* attach: QMP path; detach: VM name */
	char command[16];
	uint64_t asked_at, deadline;
	bool hangup;
};

struct control {
	struct shuntd *d;
	int fd;
	sd_event_source *io;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	unsigned int n;
	TAILQ_HEAD(, client) clients;
};

static void client_free(struct client *k)
{
	TAILQ_REMOVE(&k->c->clients, k, link);
	k->c->n--;
	sd_event_source_disable_unref(k->io);
	shunt_close(&k->fd);
	free(k->out);
	free(k->subject);
	free(k);
}

/* --- answers --- */

static void answer(struct client *k, json_t *obj)
{
	_cleanup_json_ json_t *owned = obj;
	_cleanup_free_ char *text = json_dumps(owned, JSON_COMPACT);
	size_t n = text ? strlen(text) : 0;

	k->wait = WAIT_NOTHING;
	free(k->subject);
	k->subject = NULL;
	k->out = realloc(k->out, k->out_len + n + 1);
	memcpy(k->out + k->out_len, text ? text : "", n);
	k->out_len += n;
	k->out[k->out_len++] = '\n';
	sd_event_source_set_io_events(k->io, EPOLLIN | EPOLLOUT);
}

static void answer_ok(struct client *k, json_t *result)
{
	answer(k, json_pack("{s:b, s:o}", "ok", 1, "result", result ? result : json_null()));
}

static void answer_error(struct client *k, const char *hint, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void answer_error(struct client *k, const char *hint, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *c = text; *c; c++)
		if (*c < ' ' || *c > 126)
			*c = '?';
	answer(k, json_pack("{s:b, s:s, s:s}", "ok", 0, "error", text, "hint", hint));
}

/* --- commands --- */

static void wait_for(struct client *k, enum waits_for what, const char *subject, uint64_t usec)
{
	k->wait = what;
	free(k->subject);
	k->subject = subject ? strdup(subject) : NULL;
	k->asked_at = now_usec(k->c->d);
	k->deadline = k->asked_at + usec;
}

static bool name_ok(const char *s)
{
	size_t n = strlen(s);

	for (const char *c = s; *c; c++)
		if (*c <= ' ' || *c > 126 || *c == '"' || *c == '\\')
			return false;
	return n && n < SHUNT_ABI_NAME_MAX;
}

static void attach_qmp(struct client *k, const char *qmp, const char *name, const char *label)
{
	struct vm *vm;
	int r;

	if ((name && !name_ok(name)) || (label && !name_ok(label))) {
		answer_error(k, "", "a name or label is 1 to %u printable characters without spaces",
			     SHUNT_ABI_NAME_MAX - 1);
		return;
	}
	if (*qmp != '/') {
		answer_error(k, "", "the path of the QMP socket must be absolute: %s", qmp);
		return;
	}
	r = vm_attach(k->c->d, qmp, name, label, false, &vm);
	if (r == -ENOSPC)
		answer_error(k, "raise max_vms in shuntd.conf", "max_vms reached");
	else if (r)
		answer_error(k, r == -EACCES ? "run shuntd as root, or give its user access to the socket" :
			     "is the VM running, with -qmp unix:PATH,server=on,wait=off?",
			     "cannot connect to QMP socket %s: %s", qmp, strerror(-r));
	if (r)
		return;
	vm_reattach(vm);
	wait_for(k, WAIT_ATTACH, qmp, ATTACH_USEC);
}

static void cmd_attach(struct client *k, json_t *req)
{
	const char *qmp = json_string_value(json_object_get(req, "qmp"));
	const char *name = json_string_value(json_object_get(req, "vm"));
	struct vm *vm;

	if (qmp) {
		attach_qmp(k, qmp, json_string_value(json_object_get(req, "name")),
			   json_string_value(json_object_get(req, "label")));
		return;
	}
	vm = name ? vm_find(k->c->d, name) : NULL;
	if (!vm) {
		answer_error(k, "see `shunt status`; a VM not known yet: shunt attach --qmp PATH",
			     "no VM named %s", name ? name : "(none given)");
		return;
	}
	log_info("attach", "vm=%s by=operator", vm->name);
	vm_reattach(vm);
	wait_for(k, WAIT_ATTACH, vm->qmp_path, ATTACH_USEC);
}

static void cmd_detach(struct client *k, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "vm"));
	struct vm *vm = name ? vm_find(k->c->d, name) : NULL;

	if (!vm) {
		answer_error(k, "see `shunt status`", "no VM named %s", name ? name : "(none given)");
		return;
	}
	log_info("detach", "vm=%s by=operator", vm->name);
	vm->detached = true;
	k->c->d->dirty = true;
	wait_for(k, WAIT_DETACH, name, k->c->d->config->release_timeout_ms * 1000 + STATS_USEC);
}

static void ask_for_stats(struct client *k)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &k->c->d->vms, link) {
		struct shunt_abi_msg_stats_get m = { 0 };

		if (vm_usable(vm) && vm->running && !pair_vm_closed(vm))
			uplink_send(vm, &m, sizeof(m), SHUNT_ABI_MSG_STATS_GET);
	}
	wait_for(k, WAIT_STATS, NULL, STATS_USEC);
}

static void request(struct client *k, json_t *req)
{
	const char *cmd = json_string_value(json_object_get(req, "cmd"));

	if (!cmd)
		answer_error(k, "", "a request is a line {\"cmd\": ...}");
	else if (!strcmp(cmd, "attach"))
		cmd_attach(k, req);
	else if (!strcmp(cmd, "detach"))
		cmd_detach(k, req);
	else if (!strcmp(cmd, "version"))
		answer_ok(k, json_pack("{s:s, s:i}", "shuntd", SHUNT_VERSION, "abi", (int)SHUNT_ABI_VERSION));
	else if (!strcmp(cmd, "status") || !strcmp(cmd, "peers") || !strcmp(cmd, "links") ||
		 !strcmp(cmd, "stats")) {
		snprintf(k->command, sizeof(k->command), "%s", cmd);
		ask_for_stats(k);
	} else {
		answer_error(k, "allowed: attach, detach, status, peers, links, stats, version",
			     "unknown command");
	}
}

/* --- what a request waits for --- */

static bool stats_fresh(const struct client *k)
{
	struct pair *p;

	TAILQ_FOREACH(p, &k->c->d->pairs, link)
		for (int i = 0; p->state == PAIR_UP && i < 2; i++)
			if (vm_usable(p->vm[i]) && p->vm[i]->running && p->e[i].stats_at < k->asked_at)
				return false;
	return true;
}

static void poll_stats(struct client *k, bool expired)
{
	struct shuntd *d = k->c->d;

	if (!expired && !stats_fresh(k))
		return;
	if (!strcmp(k->command, "status"))
		answer_ok(k, status_json(d));
	else if (!strcmp(k->command, "peers"))
		answer_ok(k, status_peers(d));
	else
		answer_ok(k, status_links(d));
}

static void poll_attach(struct client *k, bool expired)
{
	struct vm *vm = vm_find_qmp(k->c->d, k->subject);
	const char *detail;
	uint32_t reason;

	if (!vm) {
		answer_error(k, "", "the VM is gone");
		return;
	}
	if (vm->state == VM_ATTACHED && vm->uplink.end.state == END_PLUGGED) {
		answer_ok(k, json_pack("{s:s, s:i, s:s, s:b}", "vm", vm->name, "id", (int)vm->id, "label",
				       vm->label, "module", vm->hello));
		return;
	}
	reason = vm_why_not(vm, &detail);
	if (expired || !vm->qmp || vm->uplink.end.state == END_FAILED || vm->reason == SHUNT_ABI_R_POLICY)
		answer_error(k, shunt_reason_hint(reason), "%s: %s", *vm->name ? vm->name : vm->qmp_path,
			     *detail ? detail : shunt_reason_text(reason));
}

static void poll_detach(struct client *k, bool expired)
{
	struct vm *vm = vm_find(k->c->d, k->subject);

	if (!vm || pair_vm_closed(vm))
		answer_ok(k, json_pack("{s:s}", "vm", k->subject));
	else if (expired)
		answer_error(k, "`shunt links` says who; nothing is scrubbed before it answers",
			     "%s: detached, but a guest did not report its link closed in time", k->subject);
}

/**
 * control_poll() - Answer the requests whose wait is over. Context: daemon_settle() and the tick.
 */
void control_poll(struct shuntd *d)
{
	struct client *k, *next;

	for (k = d->control ? TAILQ_FIRST(&d->control->clients) : NULL; k; k = next) {
		bool expired = now_usec(d) >= k->deadline;

		next = TAILQ_NEXT(k, link);
		if (k->wait == WAIT_STATS)
			poll_stats(k, expired);
		else if (k->wait == WAIT_ATTACH)
			poll_attach(k, expired);
		else if (k->wait == WAIT_DETACH)
			poll_detach(k, expired);
	}
}

/* --- lines --- */

/* While a request waits, or answers are not read, nothing more is read from the client. */
static bool held_back(const struct client *k)
{
	return k->wait != WAIT_NOTHING || k->out_len >= OUT_ENOUGH;
}

/* Answer the next request, if one is there whole and none is waiting. Returns whether it did. */
static bool take_line(struct client *k)
{
	char *nl = memchr(k->in, '\n', k->in_len);
	_cleanup_json_ json_t *req = NULL;
	json_error_t error;

	if (!nl || held_back(k))
		return false;
	req = json_loadb(k->in, (size_t)(nl - k->in), 0, &error);
	k->in_len -= (size_t)(nl + 1 - k->in);
	memmove(k->in, nl + 1, k->in_len);
	if (req)
		request(k, req);
	else
		answer_error(k, "", "malformed JSON: %s", error.text);
	return true;
}

static bool flush_client(struct client *k)
{
	while (k->out_sent < k->out_len) {
		ssize_t n = send(k->fd, k->out + k->out_sent, k->out_len - k->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		k->out_sent += (size_t)n;
	}
	k->out_len = k->out_sent = 0;
	return true;
}

static bool read_client(struct client *k)
{
	ssize_t n;

	if (k->in_len == sizeof(k->in))		/* full: of requests that wait, or of none at all */
		return memchr(k->in, '\n', k->in_len) != NULL;
	n = recv(k->fd, k->in + k->in_len, sizeof(k->in) - k->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	k->in_len += (size_t)n;
	k->hangup |= n == 0;
	return true;
}

/* Answer what is there, as fast as the client reads. */
static bool serve(struct client *k)
{
	do {
		while (take_line(k))
			;
		if (!flush_client(k))
			return false;
	} while (!k->out_len && k->wait == WAIT_NOTHING && memchr(k->in, '\n', k->in_len));
	return true;
}

static int on_client(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct client *k = userdata;
	uint32_t events;

	(void)s;
	(void)fd;
	if ((revents & EPOLLIN && !held_back(k) && !read_client(k)) || revents & (EPOLLHUP | EPOLLERR)) {
		client_free(k);
		return 0;
	}
	if (!serve(k) || (k->hangup && k->wait == WAIT_NOTHING && !k->out_len)) {
		client_free(k);
		return 0;
	}
	events = (k->hangup || held_back(k) ? 0u : EPOLLIN) | (k->out_len ? EPOLLOUT : 0u);
	sd_event_source_set_io_events(k->io, events);
	return 0;
}

static int on_accept(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct control *c = userdata;
	_cleanup_close_ int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *k;

	(void)s;
	(void)revents;
	if (sock < 0 || c->n >= CLIENTS_MAX)
		return 0;
	k = calloc(1, sizeof(*k));
	k->c = c;
	k->fd = shunt_take_fd(&sock);
	TAILQ_INSERT_TAIL(&c->clients, k, link);
	c->n++;
	if (sd_event_add_io(c->d->event, &k->io, k->fd, EPOLLIN, on_client, k) < 0)
		client_free(k);
	return 0;
}

/* --- the socket --- */

static int set_access(struct control *c)
{
	const struct shunt_config *cfg = c->d->config;
	struct group *g;

	if (chmod(c->path, (mode_t)strtoul(cfg->control_mode, NULL, 8)) < 0)
		return -errno;
	if (!cfg->control_group)
		return 0;
	g = getgrnam(cfg->control_group);
	if (!g) {
		log_warn("no-such-group", "control_group=%s", cfg->control_group);
		return 0;
	}
	return chown(c->path, (uid_t)-1, g->gr_gid) < 0 ? -errno : 0;
}

/**
 * control_start() - Listen. A socket left by a daemon that was killed is replaced.
 *
 * Return: 0 or a negative errno.
 */
int control_start(struct shuntd *d)
{
	struct control *c = calloc(1, sizeof(*c));
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	mode_t mask;
	int r;

	c->d = d;
	d->control = c;
	TAILQ_INIT(&c->clients);
	if (d->config->control_socket)
		r = snprintf(c->path, sizeof(c->path), "%s", d->config->control_socket);
	else
		r = snprintf(c->path, sizeof(c->path), "%s/shuntd.sock", d->config->runtime_dir);
	c->fd = -1;
	if (r >= (int)sizeof(c->path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, c->path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return -errno;
	unlink(c->path);
	mask = umask(0177);
	r = bind(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	umask(mask);
	if (!r)
		r = set_access(c);
	if (!r && listen(c->fd, 16) < 0)
		r = -errno;
	if (!r)
		r = sd_event_add_io(d->event, &c->io, c->fd, EPOLLIN, on_accept, c);
	return r < 0 ? r : 0;
}

/** control_stop() - Close everything. */
void control_stop(struct shuntd *d)
{
	struct control *c = d->control;
	struct client *k;

	if (!c)
		return;
	while ((k = TAILQ_FIRST(&c->clients)))
		client_free(k);
	sd_event_source_disable_unref(c->io);
	if (c->fd >= 0)
		unlink(c->path);
	shunt_close(&c->fd);
	free(c);
	d->control = NULL;
}
