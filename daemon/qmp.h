/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_QMP_H
#define SHUNT_DAEMON_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

struct qmp;

/*
 * Answer to a command. @ret is borrowed. On failure @ret is NULL and @error says why: QEMU's own
 * words, or "timeout". Not called when the connection goes away (on_close is).
 */
typedef void (*qmp_reply_fn)(void *ctx, json_t *ret, const char *error);

struct qmp_ops {
	void (*ready)(void *ctx);				/* capabilities negotiated */
	void (*event)(void *ctx, const char *name, json_t *data);
	void (*closed)(void *ctx, int error);	/* -EBUSY: no greeting; the qmp is still to be freed */
};

struct qmp_timeouts {
	uint64_t greeting_ms;
	uint64_t command_ms;
};

int qmp_connect(sd_event *event, const char *path, const struct qmp_timeouts *t,
		const struct qmp_ops *ops, void *ctx, struct qmp **ret);
void qmp_peer(const struct qmp *q, pid_t *ret_pid, uid_t *ret_uid);
bool qmp_is_ready(const struct qmp *q);
void qmp_call(struct qmp *q, const char *command, json_t *args, qmp_reply_fn fn, void *ctx);
void qmp_call_fd(struct qmp *q, const char *command, json_t *args, int fd, qmp_reply_fn fn, void *ctx);
void qmp_free(struct qmp *q);

#endif
