// SPDX-License-Identifier: GPL-2.0-only
/*
 * The daemon's loop: signals, the tick, and settling after each round of events (see shuntd.h).
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/privileges.h"
#include "daemon/sandbox.h"
#include "daemon/shuntd.h"

/** now_usec() - CLOCK_MONOTONIC, in microseconds. */
uint64_t now_usec(const struct shuntd *d)
{
	struct timespec t;

	(void)d;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Records of VMs that are gone for good: no process, no pair waiting for them, no socket. */
static void forget_vms(struct shuntd *d)
{
	struct vm *vm, *next;
	struct pair *p;

	for (vm = TAILQ_FIRST(&d->vms); vm; vm = next) {
		bool used = vm_alive(vm) || vm->qmp || vm->group || !access(vm->qmp_path, F_OK);

		next = TAILQ_NEXT(vm, link);
		TAILQ_FOREACH(p, &d->pairs, link)
			used |= p->vm[0] == vm || p->vm[1] == vm;
		if (!used)
			vm_free(vm);
	}
}

/**
 * daemon_settle() - Act on the facts the last round of events left. See shuntd.h for the order.
 */
void daemon_settle(struct shuntd *d)
{
	struct vm *vm;

	forget_vms(d);
	if (pair_any_due(d))
		hostpolicy_fresh(d);
	if (d->dirty)
		roster_update_all(d);
	pair_step_all(d);
	control_poll(d);
	if ((d->dirty || d->unsaved) && !state_save(d))
		d->dirty = d->unsaved = false;
	TAILQ_FOREACH(vm, &d->vms, link)
		uplink_flush(vm);
}

static int on_settle(sd_event_source *s, void *userdata)
{
	(void)s;
	daemon_settle(userdata);
	return 0;
}

static int on_tick(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct shuntd *d = userdata;
	struct vm *vm;

	group_tick(d);
	TAILQ_FOREACH(vm, &d->vms, link)
		uplink_tick(vm);
	(void)usec;
	return sd_event_source_set_time_relative(s, d->config->liveness_ms * 1000);
}

/* --- signals --- */

static void set_host(struct shuntd *d)
{
	if (d->config->host)
		snprintf(d->host, sizeof(d->host), "%s", d->config->host);
	else if (gethostname(d->host, sizeof(d->host) - 1))
		strcpy(d->host, "localhost");
}

static void keep(const char *key, char **new, const char *old)
{
	if (strcmp(*new ?: "", old ?: ""))
		log_warn("config-needs-restart", "key=%s", key);
	free(*new);
	*new = old ? strdup(old) : NULL;
}

static void keep_fixed(const struct shuntd *d, struct shunt_config *c)
{
	keep("runtime_dir", &c->runtime_dir, d->config->runtime_dir);
	keep("user", &c->user, d->config->user);
	keep("group", &c->group, d->config->group);
	keep("seccomp", &c->seccomp, d->config->seccomp);
}

static int on_reload(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct shuntd *d = userdata;
	struct shunt_config *c;
	char err[1024];
	struct vm *vm;

	(void)s;
	(void)si;
	if (shunt_config_load(d->config_path, &c, err, sizeof(err))) {
		log_err("config-rejected", "error=\"%s\" detail=\"the old configuration stays\"", err);
		return 0;
	}
	keep_fixed(d, c);
	group_keep(d, c);
	shunt_config_free(d->config);
	d->config = c;
	shunt_log_init(shunt_config_log_level(c));
	set_host(d);
	TAILQ_FOREACH(vm, &d->vms, link)
		if (vm->identified)
			vm_relabel(vm);
	hostpolicy_reload(d);
	d->dirty = true;
	log_info("config-loaded", "path=%s", d->config_path);
	return 0;
}

static int on_terminate(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
	struct shuntd *d = userdata;

	(void)s;
	log_info("stopping", "signal=%u detail=\"devices stay plugged, links stay up\"", si->ssi_signo);
	return sd_event_exit(d->event, 0);
}

static int watch_signals(struct shuntd *d)
{
	static const struct {
		int signal;
		sd_event_signal_handler_t handler;
	} list[] = { { SIGHUP, on_reload }, { SIGTERM, on_terminate }, { SIGINT, on_terminate } };
	sigset_t set;
	int r = 0;

	sigemptyset(&set);
	for (size_t i = 0; i < 3; i++)
		sigaddset(&set, list[i].signal);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < 3 && r >= 0; i++)
		r = sd_event_add_signal(d->event, NULL, list[i].signal, list[i].handler, d);
	return r < 0 ? r : 0;
}

/* --- start --- */

static int make_dir(const char *base, const char *name, mode_t mode)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s", base, name);
	if (mkdir(path, mode) < 0 && errno != EEXIST) {
		log_err("mkdir-failed", "path=%s error=\"%m\"", path);
		return -errno;
	}
	return 0;
}

/* One daemon per runtime directory; the lock goes with the process, however it ends. */
static int take_lock(struct shuntd *d)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/shuntd.lock", d->config->runtime_dir);
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0 || flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		log_err("lock-failed", "path=%s error=\"%s\"", path,
			errno == EWOULDBLOCK ? "another shuntd runs here" : strerror(errno));
		return -errno;
	}
	return 0;
}

/* A pair takes fifteen descriptors here; the usual soft limit is enough for seventy. */
static void raise_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l))
		return;
	l.rlim_cur = l.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &l))
		log_warn("limit-not-raised", "error=\"%m\"");
}

static int drop_privileges(const struct shuntd *d)
{
	const char *dir = d->config->runtime_dir;
	char dev[128], state[128];
	const char *own[] = { dir, dev, state, NULL };

	snprintf(dev, sizeof(dev), "%s/dev", dir);
	snprintf(state, sizeof(state), "%s/state.json", dir);
	return privileges_drop(d->config, own);
}

static int prepare(struct shuntd *d)
{
	const char *dir = d->config->runtime_dir;
	int r;

	raise_limit();
	r = make_dir(dir, "", 0755);
	if (!r)
		r = make_dir(dir, "/vms.d", 0755);
	if (!r)
		r = make_dir(dir, "/dev", 0711);
	if (!r)
		r = take_lock(d);
	if (!r)
		r = drop_privileges(d);
	if (!r && getrandom(&d->generation, sizeof(d->generation), 0) < 0)
		r = -errno;
	set_host(d);
	return r;
}

static int start(struct shuntd *d)
{
	struct vm *vm;
	int r;

	r = watch_signals(d);
	if (!r)
		r = sd_event_add_post(d->event, &d->settle, on_settle, d);
	if (r >= 0)
		r = sd_event_add_time_relative(d->event, &d->tick, CLOCK_MONOTONIC,
					       d->config->liveness_ms * 1000, 0, on_tick, d);
	if (r >= 0)
		r = sd_event_source_set_enabled(d->tick, SD_EVENT_ON);
	if (r < 0)
		return r;
	r = hostpolicy_start(d);
	if (r)
		return r;
	group_create_all(d);
	state_load(d);
	group_start_all(d);
	TAILQ_FOREACH(vm, &d->vms, link)
		vm_connect(vm);
	r = control_start(d);
	if (r)
		log_err("control-socket-failed", "error=\"%s\"", strerror(-r));
	if (!r)
		r = watch_start(d);
	if (!r)
		r = sandbox_enter(d->config->seccomp);
	return r;
}

static void stop(struct shuntd *d)
{
	struct pair *p;
	struct vm *vm;

	control_stop(d);
	while ((p = TAILQ_FIRST(&d->pairs)))
		pair_free(p);
	while ((vm = TAILQ_FIRST(&d->vms)))
		vm_free(vm);
	hostpolicy_stop(d);
	group_free_all(d);
	sd_event_source_disable_unref(d->watch);
	sd_event_source_disable_unref(d->tick);
	sd_event_source_disable_unref(d->settle);
	sd_event_unref(d->event);
	shunt_close(&d->lock_fd);
}

/**
 * daemon_run() - Serve until a signal ends it.
 * @d: config and config_path are set.
 *
 * Return: 0, or a negative errno: it could not start.
 */
int daemon_run(struct shuntd *d)
{
	int r;

	TAILQ_INIT(&d->vms);
	TAILQ_INIT(&d->pairs);
	TAILQ_INIT(&d->groups);
	d->lock_fd = -1;
	d->next_vm_id = 1;
	d->started_at = now_usec(d);
	r = prepare(d);
	if (r)
		return r;
	r = sd_event_new(&d->event);
	if (r >= 0)
		r = start(d);
	if (r >= 0) {
		log_info("started", "version=%s runtime=%s", SHUNT_VERSION, d->config->runtime_dir);
		sd_notify(0, "READY=1");
		daemon_settle(d);
		r = sd_event_loop(d->event);
		sd_notify(0, "STOPPING=1");
		daemon_settle(d);
	}
	stop(d);
	return r;
}
