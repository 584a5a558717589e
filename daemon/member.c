// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket of a group's member: QEMU was started with its path and connects by itself.
 *
 * DOC: Theory of operation
 *
 * The socket stays open for as long as shuntd runs; one process at a time holds it. Who that is the kernel says
 * (SO_PEERCRED); it is held by a pidfd, and only its exit frees the place, not the end of the connection: a
 * process that once had the memory may have it still. A restarted shuntd knows it from the state file.
 *
 * QEMU reads the greeting with blocking reads and spins for ever on an early end of file. So whoever is refused
 * is sent a protocol version that cannot be: QEMU says so and exits.
 */
#include <pwd.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/shuntd.h"

#define REFUSED_VERSION (-1)	/* no version of the ivshmem protocol */

/* --- who may --- */

/* The only number in a file, or 0. */
static pid_t pid_in(const char *path)
{
	_cleanup_file_ FILE *f = fopen(path, "re");
	int pid = 0;

	return f && fscanf(f, "%d", &pid) == 1 ? pid : 0;
}

/* A line is "id:controllers:/path"; the group itself and whatever is below it will do. */
static bool line_in_cgroup(char *line, const char *cgroup)
{
	char *path = strchr(line, ':');
	size_t n = strlen(cgroup);

	path = path ? strchr(path + 1, ':') : NULL;
	if (!path)
		return false;
	path[strcspn(path, "\n")] = '\0';
	return !strncmp(path + 1, cgroup, n) && (path[1 + n] == '\0' || path[1 + n] == '/');
}

static bool in_cgroup(pid_t pid, const char *cgroup)
{
	_cleanup_file_ FILE *f = NULL;
	char path[64], line[512];

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (line_in_cgroup(line, cgroup))
			return true;
	return false;
}

/* NULL, or why this process is not let in. */
static const char *obstacle(const struct vm *vm, const struct ucred *who, char *buf, size_t size)
{
	const struct shunt_group_member *rule = vm->rule;

	if (who->pid <= 0)
		return "it is in another pid namespace: run shuntd where it can see it";
	if (vm_alive(vm)) {
		snprintf(buf, size, "process %d has the place until it exits", vm->pid);
		return buf;
	}
	if (who->uid && who->uid != vm->uid) {
		snprintf(buf, size, "its user is %u; allowed: %u (user = of this member), root", who->uid, vm->uid);
		return buf;
	}
	if (rule->pidfile && pid_in(rule->pidfile) != who->pid) {
		snprintf(buf, size, "it is not the process named in %s", rule->pidfile);
		return buf;
	}
	if (rule->cgroup && !in_cgroup(who->pid, rule->cgroup)) {
		snprintf(buf, size, "it is not in control group %s", rule->cgroup);
		return buf;
	}
	return NULL;
}

static void refuse(struct vm *vm, int sock, const struct ucred *who, const char *why)
{
	int64_t version = REFUSED_VERSION;

	vm->d->refused_peers++;
	log_warn("peer-refused", "vm=%s group=%s pid=%d uid=%u detail=\"%s\"", vm->name, vm->group->name, who->pid,
		 who->uid, why);
	if (send(sock, &version, sizeof(version), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("refusal-not-sent", "vm=%s error=\"%m\"", vm->name);
}

/* --- a process comes --- */

/* The process that connected may have exited and its number be somebody else's: then the connection is over. */
static bool still_there(int sock)
{
	char c;

	return recv(sock, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static int let_in(struct vm *vm, int sock, pid_t pid)
{
	struct end *e = &vm->uplink.end;
	int r;

	vm->pid = pid;
	r = vm_watch_process(vm);
	if (!r && !still_there(sock))
		r = -ESRCH;
	if (!r)
		r = ivshmem_greet(e, sock);
	if (r) {
		vm->exit_io = sd_event_source_disable_unref(vm->exit_io);
		shunt_close(&vm->pidfd);
		vm->pid = 0;
		return r;
	}
	group_member_here(vm);
	sock = dup(sock);	/* without one nothing is lost: it is the process that is watched */
	return sock < 0 ? 0 : ivshmem_watch(e, sock);
}

static int on_connect(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct vm *vm = userdata;
	_cleanup_close_ int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who = { 0 };
	socklen_t len = sizeof(who);
	const char *why;
	char buf[200];
	int r;

	(void)s;
	(void)revents;
	if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return 0;
	why = obstacle(vm, &who, buf, sizeof(buf));
	if (why) {
		refuse(vm, sock, &who, why);
		return 0;
	}
	r = let_in(vm, sock, who.pid);
	if (r < 0)
		log_warn("member-lost", "vm=%s pid=%d error=\"%s\"", vm->name, who.pid, strerror(-r));
	return 0;
}

/* --- the socket --- */

static int owner_of(const struct shunt_group_member *rule, uid_t *ret)
{
	const struct passwd *p;
	char *end;
	unsigned long n;

	if (!rule->user) {
		*ret = geteuid();
		return 0;
	}
	n = strtoul(rule->user, &end, 10);
	p = *end ? getpwnam(rule->user) : NULL;
	if (*end && !p)
		return -ENOENT;
	*ret = p ? p->pw_uid : (uid_t)n;
	return 0;
}

static void make_parents(const char *path)
{
	char dir[128];

	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
		if (mkdir(dir, 0755) < 0 && errno != EEXIST)
			return;		/* bind says what is missing */
	}
}

static int bind_it(struct vm *vm, int fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	mode_t mask;
	int r;

	if (strlen(vm->qmp_path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, vm->qmp_path);
	make_parents(a.sun_path);
	unlink(a.sun_path);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	umask(mask);
	if (r)
		return r;
	if (vm->uid != geteuid() && chown(a.sun_path, vm->uid, (gid_t)-1) < 0)
		return -errno;
	return listen(fd, 4) < 0 ? -errno : 0;
}

/**
 * member_listen() - Open the socket of a group's member, for as long as this daemon runs.
 *
 * Return: 0 or a negative errno.
 */
int member_listen(struct vm *vm)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct end *e = &vm->uplink.end;
	uid_t uid = 0;
	int r = fd < 0 ? -errno : owner_of(vm->rule, &uid);

	if (r)
		return r;
	vm->uid = uid;
	r = bind_it(vm, fd);
	if (r)
		return r;
	e->listen_fd = shunt_take_fd(&fd);
	r = sd_event_add_io(vm->d->event, &e->listen_io, e->listen_fd, EPOLLIN, on_connect, vm);
	return r < 0 ? r : 0;
}

/** member_unlisten() - Close it; who is connected stays. */
void member_unlisten(struct vm *vm)
{
	struct end *e = &vm->uplink.end;

	if (e->listen_fd < 0)
		return;
	e->listen_io = sd_event_source_disable_unref(e->listen_io);
	shunt_close(&e->listen_fd);
	unlink(vm->qmp_path);
}
