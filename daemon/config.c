// SPDX-License-Identifier: GPL-2.0-only
/*
 * shuntd.conf, read with libconfig. Every key is in one table with its type and bounds; whatever
 * is not in it is an error that names file, line and what is allowed. A configuration is loaded
 * whole into a new object, so a bad file never leaves a half-changed one behind (SIGHUP).
 */
#include "daemon/config.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cleanup.h"
#include "daemon/config_load.h"
#include "daemon/log.h"

enum key_type { KEY_STRING, KEY_CHOICE, KEY_NUMBER, KEY_SIZE, KEY_LABELS, KEY_ALLOW, KEY_HOST_POLICIES, KEY_GROUPS };

struct key {
	const char *name;
	enum key_type type;
	size_t off;
	uint64_t min, max;
	bool pow2;
	const char *dflt;	/* strings and choices */
	uint64_t dflt_num;
	const char *choices[5];
};

#define AT(field) offsetof(struct shunt_config, field)
#define KiB 1024ull
#define MiB (1024ull * KiB)
#define GiB (1024ull * MiB)

/* ring_size's floor: half a ring less two headers must hold the largest frame. */
static const struct key keys[] = {
	{ "runtime_dir", KEY_STRING, AT(runtime_dir), .dflt = "/run/shunt" },
	{ "control_socket", KEY_STRING, AT(control_socket), .dflt = NULL },
	{ "control_group", KEY_STRING, AT(control_group), .dflt = NULL },
	{ "control_mode", KEY_STRING, AT(control_mode), .dflt = "0660" },
	{ "host", KEY_STRING, AT(host), .dflt = NULL },
	{ "user", KEY_STRING, AT(user), .dflt = NULL },
	{ "group", KEY_STRING, AT(group), .dflt = NULL },
	{ "seccomp", KEY_CHOICE, AT(seccomp), .dflt = "kill",
	  .choices = { "kill", "deny", "log", "off" } },
	{ "plug", KEY_CHOICE, AT(plug), .dflt = "demand", .choices = { "eager", "demand" } },
	{ "log_level", KEY_CHOICE, AT(log_level), .dflt = "info",
	  .choices = { "error", "warning", "info", "debug" } },
	{ "default_label", KEY_STRING, AT(default_label), .dflt = "default" },
	{ "host_policy", KEY_CHOICE, AT(host_policy), .dflt = "respect", .choices = { "respect", "ignore" } },
	{ "pair_size", KEY_SIZE, AT(pair_size), 1 * MiB, 1 * GiB, true, .dflt_num = 16 * MiB },
	{ "ring_size", KEY_SIZE, AT(ring_size), 256 * KiB, 128 * MiB, true, .dflt_num = 512 * KiB },
	{ "max_bytes", KEY_SIZE, AT(max_bytes), 1 * MiB, 1024 * GiB, .dflt_num = 4 * GiB },
	{ "max_pairs_per_vm", KEY_NUMBER, AT(max_pairs_per_vm), 0, 64, .dflt_num = 16 },
	{ "max_vms", KEY_NUMBER, AT(max_vms), 1, 4096, .dflt_num = 256 },
	{ "release_timeout_ms", KEY_NUMBER, AT(release_timeout_ms), 100, 600000, .dflt_num = 5000 },
	{ "hello_timeout_ms", KEY_NUMBER, AT(hello_timeout_ms), 100, 3600000, .dflt_num = 30000 },
	{ "qmp_greeting_timeout_ms", KEY_NUMBER, AT(qmp_greeting_timeout_ms), 100, 60000,
	  .dflt_num = 2000 },
	{ "qmp_timeout_ms", KEY_NUMBER, AT(qmp_timeout_ms), 100, 600000, .dflt_num = 10000 },
	{ "liveness_ms", KEY_NUMBER, AT(liveness_ms), 10, 10000, .dflt_num = 100 },
	{ "storm_ms", KEY_NUMBER, AT(storm_ms), 0, 600000, .dflt_num = 3000 },
	{ "labels", KEY_LABELS, .dflt = NULL },
	{ "allow", KEY_ALLOW, .dflt = NULL },
	{ "host_policies", KEY_HOST_POLICIES, .dflt = NULL },
	{ "groups", KEY_GROUPS, .dflt = NULL },
};

#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

/**
 * config_fail() - Say where and what is wrong.
 *
 * Return: -EINVAL.
 */
int config_fail(struct loader *l, const config_setting_t *s, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(l->err, l->err_size, "%s:%d: %s", l->path, config_setting_source_line(s), text);
	return -EINVAL;
}

static char **string_at(struct shunt_config *c, const struct key *k)
{
	return (char **)((char *)c + k->off);
}

static uint64_t *number_at(struct shunt_config *c, const struct key *k)
{
	return (uint64_t *)((char *)c + k->off);
}

/**
 * config_parse_size() - A number, perhaps with K, M or G.
 *
 * Return: 0 or -EINVAL.
 */
int config_parse_size(const char *text, uint64_t *ret)
{
	char *end;
	unsigned int shift = 0;
	unsigned long long n;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &end, 10);
	if (*end == 'K' || *end == 'k')
		shift = 10;
	else if (*end == 'M' || *end == 'm')
		shift = 20;
	else if (*end == 'G' || *end == 'g')
		shift = 30;
	if (shift)
		end++;
	if (*end || errno || n > (UINT64_MAX >> shift))
		return -EINVAL;
	*ret = (uint64_t)n << shift;
	return 0;
}

static int load_number(struct loader *l, const struct key *k, config_setting_t *s)
{
	const char *text = config_setting_get_string(s);
	int type = config_setting_type(s);
	uint64_t n = 0;

	if (k->type == KEY_SIZE && text) {
		if (config_parse_size(text, &n))
			return config_fail(l, s, "%s: \"%s\" is no size; allowed: a number, or a string like \"16M\"",
				    k->name, text);
	} else if (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64) {
		long long v = config_setting_get_int64(s);

		if (v < 0)
			return config_fail(l, s, "%s: negative; allowed: %llu to %llu", k->name,
				    (unsigned long long)k->min, (unsigned long long)k->max);
		n = (uint64_t)v;
	} else {
		return config_fail(l, s, "%s: not a number", k->name);
	}
	if (n < k->min || n > k->max)
		return config_fail(l, s, "%s: %llu is out of range; allowed: %llu to %llu", k->name,
			    (unsigned long long)n, (unsigned long long)k->min, (unsigned long long)k->max);
	if (k->pow2 && (n & (n - 1)))
		return config_fail(l, s, "%s: %llu is not a power of two", k->name, (unsigned long long)n);
	*number_at(l->c, k) = n;
	return 0;
}

static int load_string(struct loader *l, const struct key *k, config_setting_t *s)
{
	const char *text = config_setting_get_string(s);
	char allowed[128] = "";

	if (!text)
		return config_fail(l, s, "%s: not a string", k->name);
	if (!*text)
		return config_fail(l, s, "%s: empty", k->name);
	for (size_t i = 0; k->type == KEY_CHOICE && k->choices[i]; i++) {
		if (!strcmp(text, k->choices[i]))
			break;
		strcat(allowed, i ? ", \"" : "\"");
		strcat(allowed, k->choices[i]);
		strcat(allowed, "\"");
		if (!k->choices[i + 1])
			return config_fail(l, s, "%s: \"%s\" is unknown; allowed: %s", k->name, text, allowed);
	}
	free(*string_at(l->c, k));
	*string_at(l->c, k) = strdup(text);
	return 0;
}

/** config_check_label() - 0, or config_fail(). */
int config_check_label(struct loader *l, const config_setting_t *s, const char *label)
{
	if (!label || !*label || strlen(label) >= SHUNT_ABI_NAME_MAX)
		return config_fail(l, s, "a label is a string of 1 to %u characters", SHUNT_ABI_NAME_MAX - 1);
	for (const char *c = label; *c; c++)
		if (!isgraph((unsigned char)*c))
			return config_fail(l, s, "label \"%s\": only printable characters without spaces", label);
	return 0;
}

/** config_check_mac() - 0 and @mac in lower case, or config_fail(). */
int config_check_mac(struct loader *l, const config_setting_t *s, char *mac)
{
	unsigned int b[6];
	int n = 0;

	if (sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &n) != 6 ||
	    mac[n])
		return config_fail(l, s, "\"%s\" is no MAC address; allowed: aa:bb:cc:dd:ee:ff", mac);
	for (char *c = mac; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return 0;
}

static int load_label(struct loader *l, config_setting_t *s)
{
	struct shunt_label_rule *r;
	const char *text;

	if (!config_setting_is_group(s))
		return config_fail(l, s, "labels: each entry is { vm = \"GLOB\"; label = \"L\"; } "
			    "or { mac = \"aa:bb:cc:dd:ee:ff\"; label = \"L\"; }");
	r = &l->c->labels[l->c->n_labels++];
	for (int i = 0; i < config_setting_length(s); i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned int)i);
		const char *name = config_setting_name(e);
		char **to = !strcmp(name, "vm") ? &r->vm : !strcmp(name, "mac") ? &r->mac :
			    !strcmp(name, "label") ? &r->label : NULL;

		if (!to)
			return config_fail(l, e, "unknown key \"%s\"; allowed: vm, mac, label", name);
		text = config_setting_get_string(e);
		if (!text)
			return config_fail(l, e, "%s: not a string", name);
		*to = strdup(text);
	}
	if (!r->vm == !r->mac)
		return config_fail(l, s, "labels: an entry needs either vm or mac");
	if (r->mac && config_check_mac(l, s, r->mac))
		return -EINVAL;
	return config_check_label(l, s, r->label);
}

static int load_allow(struct loader *l, config_setting_t *s)
{
	struct shunt_allow_rule *r;

	if (!config_setting_is_list(s) && !config_setting_is_array(s))
		return config_fail(l, s, "allow: each entry is (\"label\", \"label\")");
	if (config_setting_length(s) != 2)
		return config_fail(l, s, "allow: each entry names two labels, this one has %d",
			    config_setting_length(s));
	r = &l->c->allow[l->c->n_allow++];
	for (int i = 0; i < 2; i++) {
		const char *text = config_setting_get_string_elem(s, i);

		if (config_check_label(l, s, text))
			return -EINVAL;
		r->label[i] = strdup(text);
	}
	return 0;
}

static int load_host_policy(struct loader *l, config_setting_t *s)
{
	struct shunt_host_rule *r = &l->c->host_policies[l->c->n_host_policies];
	const char *vm, *policy;

	if (!config_setting_is_group(s) || config_setting_length(s) != 2 ||
	    !config_setting_lookup_string(s, "vm", &vm) || !config_setting_lookup_string(s, "host_policy", &policy))
		return config_fail(l, s, "host_policies: each entry is { vm = \"GLOB\"; host_policy = \"ignore\"; }");
	if (strcmp(policy, "ignore") && strcmp(policy, "respect"))
		return config_fail(l, s, "host_policy: \"%s\" is unknown; allowed: \"respect\", \"ignore\"", policy);
	r->vm = strdup(vm);
	r->ignore = !strcmp(policy, "ignore");
	l->c->n_host_policies++;
	return 0;
}

static int load_entry(struct loader *l, enum key_type type, config_setting_t *e)
{
	switch (type) {
	case KEY_LABELS:
		return load_label(l, e);
	case KEY_ALLOW:
		return load_allow(l, e);
	default:
		return load_host_policy(l, e);
	}
}

static int load_list(struct loader *l, const struct key *k, config_setting_t *s)
{
	size_t n;

	if (!config_setting_is_list(s))
		return config_fail(l, s, "%s: not a list; write %s = ( ... );", k->name, k->name);
	n = (size_t)config_setting_length(s);
	if (k->type == KEY_LABELS)
		l->c->labels = calloc(n + 1, sizeof(*l->c->labels));
	else if (k->type == KEY_ALLOW)
		l->c->allow = calloc(n + 1, sizeof(*l->c->allow));
	else
		l->c->host_policies = calloc(n + 1, sizeof(*l->c->host_policies));
	for (size_t i = 0; i < n; i++) {
		config_setting_t *e = config_setting_get_elem(s, (unsigned int)i);
		int r = load_entry(l, k->type, e);

		if (r)
			return r;
	}
	return 0;
}

static int unknown_key(struct loader *l, config_setting_t *s)
{
	char allowed[480] = "";
	size_t used = 0;

	for (size_t i = 0; i < N_KEYS; i++)
		used += (size_t)snprintf(allowed + used, sizeof(allowed) - used, "%s%s", i ? ", " : "",
					 keys[i].name);
	return config_fail(l, s, "unknown key \"%s\"; allowed: %s", config_setting_name(s), allowed);
}

static int load_setting(struct loader *l, config_setting_t *s)
{
	const struct key *k = NULL;

	for (size_t i = 0; i < N_KEYS; i++)
		if (!strcmp(keys[i].name, config_setting_name(s)))
			k = &keys[i];
	if (!k)
		return unknown_key(l, s);
	switch (k->type) {
	case KEY_STRING:
	case KEY_CHOICE:
		return load_string(l, k, s);
	case KEY_NUMBER:
	case KEY_SIZE:
		return load_number(l, k, s);
	case KEY_GROUPS:
		return 0;	/* config_groups_load(), once ring_size is known */
	default:
		return load_list(l, k, s);
	}
}

static int check_whole(struct loader *l, const config_setting_t *root)
{
	char *end;
	unsigned long mode = strtoul(l->c->control_mode, &end, 8);

	if (*end || mode > 0777)
		return config_fail(l, root, "control_mode: \"%s\" is no octal mode like \"0660\"",
			    l->c->control_mode);
	if (l->c->ring_size * 2 > l->c->pair_size / 2)
		return config_fail(l, root, "ring_size: two rings of %llu bytes do not fit half of pair_size (%llu)",
			    (unsigned long long)l->c->ring_size, (unsigned long long)l->c->pair_size);
	if (l->c->group && !l->c->user)
		return config_fail(l, root, "group: goes with user; allowed: user = \"NAME\"; group = \"NAME\";");
	if (l->c->runtime_dir[0] != '/' || strlen(l->c->runtime_dir) > 60)
		return config_fail(l, root, "runtime_dir: an absolute path of at most 60 characters "
			    "(socket names are limited to 107)");
	return 0;
}

/**
 * shunt_config_default() - What holds without a file.
 *
 * Return: a new configuration; the caller frees it.
 */
struct shunt_config *shunt_config_default(void)
{
	struct shunt_config *c = calloc(1, sizeof(*c));

	for (size_t i = 0; i < N_KEYS; i++) {
		if (keys[i].dflt)
			*string_at(c, &keys[i]) = strdup(keys[i].dflt);
		else if (keys[i].dflt_num)
			*number_at(c, &keys[i]) = keys[i].dflt_num;
	}
	return c;
}

static void config_cleanup(struct shunt_config **c)
{
	shunt_config_free(*c);
}

static void libconfig_cleanup(config_t *cfg)
{
	config_destroy(cfg);
}

/**
 * shunt_config_load() - Read a configuration file.
 * @path: the file.
 * @ret: the new configuration; untouched on failure.
 * @err: gets "FILE:LINE: what is wrong; allowed: ..." on failure.
 *
 * Return: 0, -ENOENT (no such file), -EINVAL.
 */
int shunt_config_load(const char *path, struct shunt_config **ret, char *err, size_t err_size)
{
	__attribute__((cleanup(libconfig_cleanup))) config_t cfg;
	__attribute__((cleanup(config_cleanup))) struct shunt_config *c = shunt_config_default();
	struct loader l = { path, err, err_size, c };
	_cleanup_file_ FILE *f = NULL;
	config_setting_t *root;
	int r;

	config_init(&cfg);
	f = fopen(path, "re");
	if (!f) {
		r = -errno;
		snprintf(err, err_size, "%s: %s", path, strerror(errno));
		return r == -ENOENT ? r : -EINVAL;
	}
	if (!config_read(&cfg, f)) {
		snprintf(err, err_size, "%s:%d: %s", path, config_error_line(&cfg), config_error_text(&cfg));
		return -EINVAL;
	}
	root = config_root_setting(&cfg);
	for (int i = 0; i < config_setting_length(root); i++) {
		r = load_setting(&l, config_setting_get_elem(root, (unsigned int)i));
		if (r)
			return r;
	}
	r = check_whole(&l, root);
	if (!r)
		r = config_groups_load(&l, config_lookup(&cfg, "groups"));
	if (r)
		return r;
	*ret = shunt_take_ptr(c);
	return 0;
}

/** shunt_config_free() - Release a configuration; NULL is fine. */
void shunt_config_free(struct shunt_config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < N_KEYS; i++)
		if (keys[i].type == KEY_STRING || keys[i].type == KEY_CHOICE)
			free(*string_at(c, &keys[i]));
	for (size_t i = 0; i < c->n_labels; i++) {
		free(c->labels[i].vm);
		free(c->labels[i].mac);
		free(c->labels[i].label);
	}
	for (size_t i = 0; i < c->n_allow; i++) {
		free(c->allow[i].label[0]);
		free(c->allow[i].label[1]);
	}
	for (size_t i = 0; i < c->n_host_policies; i++)
		free(c->host_policies[i].vm);
	config_groups_free(c);
	free(c->labels);
	free(c->allow);
	free(c->host_policies);
	free(c);
}

/** shunt_config_eager() - Whether pairs are plugged at once rather than on demand. */
bool shunt_config_eager(const struct shunt_config *c)
{
	return !strcmp(c->plug, "eager");
}

/** shunt_config_log_level() - The syslog level of log_level. */
int shunt_config_log_level(const struct shunt_config *c)
{
	switch (c->log_level[0]) {
	case 'e':
		return LOG_ERR;
	case 'w':
		return LOG_WARNING;
	case 'd':
		return LOG_DEBUG;
	default:
		return LOG_INFO;
	}
}
