// SPDX-License-Identifier: GPL-2.0-only
/* The host's side: JSON lines over shuntd's control socket. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cli/cli.h"
#include "daemon/cleanup.h"

#define DEFAULT_SOCKET "/run/shunt/shuntd.sock"

/** host_socket() - The control socket's path: option, $SHUNT_SOCKET, default. */
const char *host_socket(const char *option)
{
	const char *env = getenv("SHUNT_SOCKET");

	return option ? option : env && *env ? env : DEFAULT_SOCKET;
}

static int dial(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	return dup(fd);
}

/** host_present() - Whether there is anything where the control socket should be. */
bool host_present(const char *socket)
{
	return !access(host_socket(socket), F_OK);
}

static int unreachable(const char *path, int error)
{
	if (error == -EACCES)
		return complain(EXIT_UNREACHABLE, "run as root, or join the socket's group (control_group)",
				"no access to %s", path);
	if (error == -ECONNREFUSED || error == -ENOENT)
		return complain(EXIT_UNREACHABLE, "start it: systemctl start shuntd",
				"shuntd is not running (%s: %s)", path, strerror(-error));
	return complain(EXIT_UNREACHABLE, "", "%s: %s", path, strerror(-error));
}

static json_t *request_json(const struct request *r)
{
	json_t *o = json_pack("{s:s}", "cmd", r->command);

	if (r->vm)
		json_object_set_new(o, "vm", json_string(r->vm));
	if (r->qmp)
		json_object_set_new(o, "qmp", json_string(r->qmp));
	if (r->name)
		json_object_set_new(o, "name", json_string(r->name));
	if (r->label)
		json_object_set_new(o, "label", json_string(r->label));
	return o;
}

static json_t *converse(int fd, const struct request *r)
{
	_cleanup_json_ json_t *req = request_json(r);
	_cleanup_free_ char *line = NULL;
	_cleanup_file_ FILE *f = fdopen(dup(fd), "r+");
	size_t size = 0;
	ssize_t n;

	if (!f || json_dumpf(req, f, JSON_COMPACT) || fputc('\n', f) == EOF || fflush(f))
		return NULL;
	n = getline(&line, &size, f);
	return n > 0 ? json_loadb(line, (size_t)n, 0, NULL) : NULL;
}

/** host_request() - Ask shuntd. See cli.h. */
int host_request(const struct request *r, json_t **ret_result)
{
	const char *path = host_socket(r->socket);
	_cleanup_close_ int fd = dial(path);
	_cleanup_json_ json_t *answer = NULL;
	const char *error, *hint;

	if (fd < 0)
		return unreachable(path, fd);
	answer = converse(fd, r);
	if (!answer)
		return complain(EXIT_UNREACHABLE, "see its log: journalctl -u shuntd",
				"shuntd closed the connection without an answer");
	if (json_is_true(json_object_get(answer, "ok"))) {
		*ret_result = json_incref(json_object_get(answer, "result"));
		return EXIT_OK;
	}
	error = json_string_value(json_object_get(answer, "error"));
	hint = json_string_value(json_object_get(answer, "hint"));
	return complain(EXIT_FAILED, hint ? hint : "", "%s", error ? error : "malformed answer");
}
