// SPDX-License-Identifier: GPL-2.0-only
/*
 * <runtime>/vms.d: QMP sockets put there are attached, whenever they appear.
 */
#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/shuntd.h"

static bool is_qmp(const char *name)
{
	size_t n = strlen(name);

	for (const char *c = name; *c; c++)
		if (*c <= ' ' || *c > 126)
			return false;
	return n > 4 && n < SHUNT_ABI_NAME_MAX && !strcmp(name + n - 4, ".qmp");
}

static void found(struct shuntd *d, const char *name)
{
	char path[PATH_MAX];
	struct vm *vm;

	if (!is_qmp(name))
		return;
	snprintf(path, sizeof(path), "%s/vms.d/%s", d->config->runtime_dir, name);
	if (vm_attach(d, path, NULL, NULL, true, &vm) == -ENOSPC)
		log_warn("max-vms", "path=%s detail=\"not attached: max_vms reached\"", path);
}

static void scan(struct shuntd *d)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/vms.d", d->config->runtime_dir);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		found(d, e->d_name);
	if (dir)
		closedir(dir);
}

static int on_inotify(sd_event_source *s, const struct inotify_event *e, void *userdata)
{
	(void)s;
	if (e->mask & IN_Q_OVERFLOW)
		scan(userdata);
	else if (e->len)
		found(userdata, e->name);
	return 0;
}

/**
 * watch_start() - Attach what is there and watch for more.
 *
 * Return: 0 or a negative errno.
 */
int watch_start(struct shuntd *d)
{
	char path[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "%s/vms.d", d->config->runtime_dir);
	r = sd_event_add_inotify(d->event, &d->watch, path, IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR,
				 on_inotify, d);
	if (r < 0)
		return r;
	scan(d);
	return 0;
}
