// SPDX-License-Identifier: GPL-2.0-only
/* The host's side: JSON lines over shuntd's control socket. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "cli/cli.h"
#include "daemon/cleanup.h"

#define DEFAULT_SOCKET "/run/shunt/shuntd.sock"
#define ANSWER_MAX (64u << 20)	/* thousands of VMs are a tenth of it */

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

/* NULL: something in it is not UTF-8. */
static json_t *request_json(const struct request *r)
{
	json_t *o = json_pack("{s:s}", "cmd", r->command);
	const char *const parts[][2] = { { "vm", r->vm }, { "qmp", r->qmp }, { "name", r->name },
					 { "label", r->label } };
	int bad = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i][1])
			bad |= json_object_set_new(o, parts[i][0], json_string(parts[i][1]));
	if (bad) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static int say(int fd, const struct request *r)
{
	_cleanup_json_ json_t *req = request_json(r);
	_cleanup_free_ char *line = req ? json_dumps(req, JSON_COMPACT) : NULL;
	size_t sent = 0, len;

	if (!line)
		return -EINVAL;
	len = strlen(line);
	line[len++] = '\n';	/* in place of its NUL */
	while (sent < len) {
		ssize_t n = send(fd, line + sent, len - sent, MSG_NOSIGNAL);

		if (n < 0)
			return -errno;
		sent += (size_t)n;
	}
	return 0;
}

/* One line, however it is cut; whatever listens there must not fill our memory. */
static json_t *hear(int fd)
{
	_cleanup_free_ char *buf = NULL;
	size_t len = 0, size = 0;
	char *end = NULL;

	while (!end) {
		ssize_t n;

		if (len == size) {
			size = size ? 2 * size : 1 << 16;
			if (size > ANSWER_MAX)
				return NULL;
			buf = realloc(buf, size);
		}
		n = recv(fd, buf + len, size - len, 0);
		if (n <= 0)
			return NULL;
		end = memchr(buf + len, '\n', (size_t)n);
		len += (size_t)n;
	}
	return json_loadb(buf, (size_t)(end - buf), 0, NULL);
}

static bool well_formed(const struct request *r, const json_t *result)
{
	return !strcmp(r->command, "peers") || !strcmp(r->command, "links") || !strcmp(r->command, "stats") ?
	       json_is_array(result) : json_is_object(result);
}

/** host_request() - Ask shuntd. See cli.h. */
int host_request(const struct request *r, json_t **ret_result)
{
	const char *path = host_socket(r->socket);
	_cleanup_close_ int fd = dial(path);
	_cleanup_json_ json_t *answer = NULL;
	const char *error, *hint;
	int code;

	if (fd < 0)
		return unreachable(path, fd);
	code = say(fd, r);
	if (code == -EINVAL)
		return complain(EXIT_USAGE, "", "names and paths must be UTF-8");
	answer = hear(fd);
	if (!answer)
		return complain(EXIT_UNREACHABLE, "see its log: journalctl -u shuntd",
				"shuntd closed the connection without an answer");
	if (json_is_true(json_object_get(answer, "ok")) && well_formed(r, json_object_get(answer, "result"))) {
		*ret_result = json_incref(json_object_get(answer, "result"));
		return EXIT_OK;
	}
	make_printable(answer);
	error = json_string_value(json_object_get(answer, "error"));
	hint = json_string_value(json_object_get(answer, "hint"));
	return complain(EXIT_FAILED, hint ? hint : "", "%s", error ? error : "malformed answer");
}
