// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control socket (daemon/control.c): clients that send requests, halves of them and garbage, do not read, come and
 * go. Asserted besides memory safety: an honest client is answered all the while, and what is kept for one that does
 * not read is bounded (by the sanitizer's limit on memory).
 */
#include "world.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/cleanup.h"
#include "text.h"

#define CLIENTS 6
#define OPS_MAX 60

static int client[CLIENTS];

static int connect_client(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/shuntd.sock", world_dir());
	DEMAND(!connect(fd, (struct sockaddr *)&a, sizeof(a)));
	return fd;
}

static void send_text(int fd, const char *text, size_t len)
{
	if (send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;		/* held back, or thrown out */
}

static void request(int fd, struct input *in)
{
	static const char *const commands[] = { "attach", "detach", "version", "status", "peers", "links", "stats",
						 "" };
	static const char *const names[] = { "vm0", "vm1", "", "nobody" };
	_cleanup_json_ json_t *o = json_pack("{s:s, s:s}", "cmd", commands[input_byte(in) % 8], "vm",
					     names[input_byte(in) % 4]);
	unsigned int n = input_byte(in) % 4, times = input_byte(in);
	char *text;

	if (input_byte(in) & 1)
		json_object_set_new(o, "qmp", json_string("/nowhere/x.qmp"));
	text_change(o, &n, in);
	text = json_dumps(o, JSON_COMPACT);
	for (times = times > 200 ? 500 : 1; times; times--) {
		send_text(fd, text, strlen(text));
		send_text(fd, "\n", 1);
	}
	free(text);
}

static void act(struct input *in)
{
	int *fd = &client[input_byte(in) % CLIENTS];
	char garbage[64];

	if (*fd < 0) {
		*fd = connect_client();
		return;
	}
	switch (input_byte(in) % 6) {
	case 0:
	case 1:
		request(*fd, in);
		break;
	case 2:
		for (size_t i = 0; i < sizeof(garbage); i++)
			garbage[i] = (char)input_byte(in);
		send_text(*fd, garbage, input_byte(in) % sizeof(garbage));
		break;
	case 3:
		while (recv(*fd, garbage, sizeof(garbage), MSG_DONTWAIT) > 0)
			;
		break;
	case 4:
		shunt_close(fd);
		break;
	default:
		shutdown(*fd, SHUT_WR);
		break;
	}
}

/* Somebody with manners. */
static void check(void)
{
	static const char ask[] = "{\"cmd\":\"version\"}\n";
	_cleanup_close_ int fd = connect_client();
	char answer[256];
	ssize_t n;

	send_text(fd, ask, sizeof(ask) - 1);
	world_round();
	n = recv(fd, answer, sizeof(answer) - 1, MSG_DONTWAIT);
	DEMAND(n > 0 && answer[n - 1] == '\n' && !memcmp(answer, "{\"ok\":true", 10));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	world_start();
	DEMAND(!control_start(&world.d));
	for (int i = 0; i < CLIENTS; i++)
		client[i] = -1;
	for (int i = 0; i < OPS_MAX && input_left(&in); i++) {
		act(&in);
		if (input_byte(&in) % 4)
			world_round();
		if (input_byte(&in) % 8 == 0)
			world_tick();
	}
	check();
	for (int i = 0; i < CLIENTS; i++)
		shunt_close(&client[i]);
	world_round();
	world_stop();
	return 0;
}
