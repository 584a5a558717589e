/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_CONFIG_H
#define SHUNT_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <shunt/abi/msg.h>

#define SHUNT_CONFIG_DEFAULT_PATH "/etc/shunt/shuntd.conf"

struct shunt_label_rule {
	char *vm;	/* glob on the VM's name, or NULL */
	char *mac;	/* lower case aa:bb:cc:dd:ee:ff, or NULL */
	char *label;
};

struct shunt_allow_rule {
	char *label[2];
};

struct shunt_host_rule {
	char *vm;	/* glob on the VM's name */
	bool ignore;
};

struct shunt_group_member {
	char *name;
	char *socket;	/* where its QEMU connects */
	char *user;	/* who owns the socket and may connect besides root, or NULL */
	char *pidfile;	/* only the process named there may connect, or NULL */
	char *cgroup;	/* only processes of this control group may connect, or NULL */
	struct shunt_abi_mac mac[SHUNT_ABI_NICS_MAX];
	unsigned int macs;
};

struct shunt_group_rule {
	char *name;
	char *label;
	uint64_t size, ring_size;
	struct shunt_group_member *members;	/* number 1 first */
	size_t n_members;
};

struct shunt_config {
	char *runtime_dir;
	char *control_socket;	/* NULL: <runtime_dir>/shuntd.sock */
	char *control_group;	/* NULL: the daemon's own */
	char *control_mode;	/* octal digits */
	char *host;		/* NULL: the host's name */
	char *user, *group;	/* NULL: who started it */
	char *seccomp;		/* "kill", "deny", "log" or "off" */
	char *plug;		/* "eager" or "demand" */
	char *log_level;
	char *default_label;
	char *host_policy;	/* "respect" or "ignore" */
	uint64_t pair_size;
	uint64_t ring_size;
	uint64_t max_bytes;
	uint64_t max_pairs_per_vm;
	uint64_t max_vms;
	uint64_t release_timeout_ms;
	uint64_t hello_timeout_ms;
	uint64_t qmp_greeting_timeout_ms;
	uint64_t qmp_timeout_ms;
	uint64_t liveness_ms;
	uint64_t storm_ms;
	struct shunt_label_rule *labels;
	size_t n_labels;
	struct shunt_allow_rule *allow;
	size_t n_allow;
	struct shunt_host_rule *host_policies;
	size_t n_host_policies;
	struct shunt_group_rule *groups;
	size_t n_groups;
};

int shunt_config_load(const char *path, struct shunt_config **ret, char *err, size_t err_size);
struct shunt_config *shunt_config_default(void);
void shunt_config_free(struct shunt_config *c);
bool shunt_config_eager(const struct shunt_config *c);
int shunt_config_log_level(const struct shunt_config *c);

#endif
