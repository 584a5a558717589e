// SPDX-License-Identifier: GPL-2.0-only
/*
 * shunt: one command for host and guest. Where the module is loaded it speaks to the module, else
 * to shuntd. An explicit socket always means shuntd.
 */
#include <argp.h>
#include <stdarg.h>
#include <string.h>

#include "cli/cli.h"
#include "daemon/cleanup.h"

const char *argp_program_version = "shunt " SHUNT_VERSION;

struct options {
	struct request r;
	bool json;
	unsigned int args;
};

static const char *const commands[] = { "attach", "detach", "status", "peers", "links", "stats", "version",
					"help" };

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "Print JSON for machines", 0 },
	{ "socket", 's', "PATH", 0, "Control socket of shuntd (default $SHUNT_SOCKET or /run/shunt/shuntd.sock)", 0 },
	{ "qmp", 'q', "PATH", 0, "attach: QMP socket of the VM", 0 },
	{ "name", 'n', "NAME", 0, "attach: what to call the VM (default: QEMU's name)", 0 },
	{ "label", 'l', "LABEL", 0, "attach: its network label (default: by configuration)", 0 },
	{ 0 },
};

static const char args_doc[] = "COMMAND [VM]";
static const char doc[] =
	"Attach virtual machines to shared memory and see which path their traffic takes."
	"\vCommands:\n"
	"  status              everything: VMs, peers, which path and why\n"
	"  peers               which path traffic between VMs takes, and why\n"
	"  links               segments and devices\n"
	"  stats               counters of each end of each link\n"
	"  attach --qmp PATH   on the host: serve the VM behind this QMP socket\n"
	"  attach VM           on the host: serve it again; forgive what was broken or failed\n"
	"  detach VM           on the host: its traffic takes the network; devices stay plugged\n"
	"  attach | detach     in a guest: this guest\n"
	"  version\n\n"
	"Exit status: 0 ok, 1 failed, 2 usage, 3 neither module nor shuntd can be reached.";

/**
 * complain() - Write what went wrong and what to do to stderr.
 *
 * Return: @code.
 */
int complain(int code, const char *hint, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "shunt: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (*hint)
		fprintf(stderr, "\n       to do: %s", hint);
	fputc('\n', stderr);
	return code;
}

static error_t take_arg(struct options *o, char *arg, struct argp_state *state)
{
	o->args++;
	if (o->args == 1) {
		for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			if (!strcmp(arg, commands[i]))
				o->r.command = commands[i];
		if (!o->r.command)
			argp_error(state, "unknown command: %s", arg);
	} else if (o->args == 2 && (!strcmp(o->r.command, "attach") || !strcmp(o->r.command, "detach"))) {
		o->r.vm = arg;
	} else {
		argp_error(state, "%s: too many arguments: %s", o->r.command, arg);
	}
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *o = state->input;

	switch (key) {
	case 'j':
		o->json = true;
		return 0;
	case 's':
		o->r.socket = arg;
		return 0;
	case 'q':
		o->r.qmp = arg;
		return 0;
	case 'n':
		o->r.name = arg;
		return 0;
	case 'l':
		o->r.label = arg;
		return 0;
	case ARGP_KEY_ARG:
		return take_arg(o, arg, state);
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no command");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = { options, parse, args_doc, doc, NULL, NULL, NULL };

static int check_usage(const struct options *o)
{
	const struct request *r = &o->r;
	bool attach = !strcmp(r->command, "attach");

	if ((r->qmp || r->name || r->label) && !attach)
		return complain(EXIT_USAGE, "", "--qmp, --name and --label go with attach");
	if (r->qmp && r->vm)
		return complain(EXIT_USAGE, "", "attach takes either --qmp PATH or VM");
	if ((r->name || r->label) && !r->qmp)
		return complain(EXIT_USAGE, "", "--name and --label go with --qmp");
	return EXIT_OK;
}

static int on_host(struct options *o, json_t **ret)
{
	char *path = NULL;
	int code;

	if (!strcmp(o->r.command, "attach") && !o->r.qmp && !o->r.vm)
		return complain(EXIT_USAGE, "shunt attach --qmp PATH, or shunt attach VM", "attach what?");
	if (!strcmp(o->r.command, "detach") && !o->r.vm)
		return complain(EXIT_USAGE, "shunt detach VM", "detach which VM?");
	if (o->r.qmp) {		/* shuntd has another working directory */
		path = realpath(o->r.qmp, NULL);
		if (!path)
			return complain(EXIT_FAILED, "is the VM running, with -qmp unix:PATH,server=on,wait=off?",
					"%s: %s", o->r.qmp, strerror(errno));
		o->r.qmp = path;
	}
	code = host_request(&o->r, ret);
	free(path);
	return code;
}

static int run(struct options *o)
{
	_cleanup_json_ json_t *result = NULL;
	const char *env = getenv("SHUNT_SOCKET");
	bool explicit = o->r.socket || (env && *env);
	bool guest = !explicit && guest_present();
	int code;

	if (!guest && !explicit && !host_present(NULL)) {
		if (!strcmp(o->r.command, "version")) {
			printf("shunt %s (neither module nor shuntd here)\n", SHUNT_VERSION);
			return EXIT_OK;
		}
		return complain(EXIT_UNREACHABLE,
				"in a guest: modprobe shunt; on a host: systemctl start shuntd",
				"neither the shunt module nor shuntd (%s) is here", host_socket(NULL));
	}
	code = guest ? guest_request(&o->r, &result) : on_host(o, &result);
	if (code)
		return code;
	if (o->json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		putchar('\n');
	} else {
		make_printable(result);
		(guest ? print_guest : print_host)(o->r.command, result);
	}
	return fflush(stdout) ? complain(EXIT_FAILED, "", "cannot write: %s", strerror(errno)) : EXIT_OK;
}

int main(int argc, char **argv)
{
	struct options o = { 0 };
	int code;

	argp_err_exit_status = EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (!strcmp(o.r.command, "help")) {
		argp_help(&argp, stdout, ARGP_HELP_STD_HELP & ~ARGP_HELP_EXIT_OK, argv[0]);
		return EXIT_OK;
	}
	code = check_usage(&o);
	return code ? code : run(&o);
}
