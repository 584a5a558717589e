/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_CLI_CLI_H
#define SHUNT_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>

enum exit_code { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

struct request {
	const char *command;
	const char *vm;		/* attach, detach on the host */
	const char *qmp, *name, *label;
	const char *socket;	/* NULL: the default */
};

/*
 * Both backends: do what is asked, *ret_result is the answer as JSON. Return an enum exit_code;
 * on failure a message has been written to stderr.
 */
int host_request(const struct request *r, json_t **ret_result);
int guest_request(const struct request *r, json_t **ret_result);

bool guest_present(void);
bool host_present(const char *socket);
const char *host_socket(const char *option);

void print_host(const char *command, const json_t *result);
void print_guest(const char *command, const json_t *result);
void make_printable(json_t *o);

int complain(int code, const char *hint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
