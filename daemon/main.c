// SPDX-License-Identifier: GPL-2.0-only
/* shuntd: options and configuration. */
#include <argp.h>
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/log.h"
#include "daemon/privileges.h"
#include "daemon/shuntd.h"

const char *argp_program_version = "shuntd " SHUNT_VERSION;

struct options {
	const char *config;
	const char *check;
	const char *runtime;
	bool debug;
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "Configuration (default " SHUNT_CONFIG_DEFAULT_PATH ")", 0 },
	{ "check-config", 'C', "FILE", 0, "Check a configuration and exit", 0 },
	{ "runtime-dir", 'r', "DIR", 0, "Overrides runtime_dir", 0 },
	{ "debug", 'd', NULL, 0, "Log everything", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'c':
		o->config = arg;
		return 0;
	case 'C':
		o->check = arg;
		return 0;
	case 'r':
		o->runtime = arg;
		return 0;
	case 'd':
		o->debug = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "no arguments are taken: %s", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "Serve shared memory to the virtual machines of this host (see shuntd(8)).",
};

static int check(const char *path)
{
	struct shunt_config *c;
	char err[1024];

	if (shunt_config_load(path, &c, err, sizeof(err))) {
		fprintf(stderr, "shuntd: %s\n", err);
		return 1;
	}
	if (privileges_check(c, err, sizeof(err))) {
		fprintf(stderr, "shuntd: %s: %s\n", path, err);
		shunt_config_free(c);
		return 1;
	}
	shunt_config_free(c);
	printf("%s: ok\n", path);
	return 0;
}

/* A missing default file is fine; a missing file that was named is not. */
static int load(const struct options *o, struct shuntd *d)
{
	char err[1024];
	int r;

	d->config_path = o->config ? o->config : SHUNT_CONFIG_DEFAULT_PATH;
	r = shunt_config_load(d->config_path, &d->config, err, sizeof(err));
	if (r == -ENOENT && !o->config) {
		d->config = shunt_config_default();
		r = 0;
	}
	if (r) {
		fprintf(stderr, "shuntd: %s\n", err);
		return r;
	}
	if (o->runtime) {
		if (*o->runtime != '/' || strlen(o->runtime) > 60) {
			fprintf(stderr, "shuntd: --runtime-dir: an absolute path of at most 60 characters\n");
			return -EINVAL;
		}
		free(d->config->runtime_dir);
		d->config->runtime_dir = strdup(o->runtime);
	}
	if (o->debug) {
		free(d->config->log_level);
		d->config->log_level = strdup("debug");
	}
	shunt_log_init(shunt_config_log_level(d->config));
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	struct shuntd d = { 0 };
	int r;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (o.check)
		return check(o.check);
	r = load(&o, &d);
	if (!r)
		r = daemon_run(&d);
	if (r < 0)
		fprintf(stderr, "shuntd: cannot start: %s\n", strerror(-r));
	shunt_config_free(d.config);
	return r < 0;
}
