/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files that read shuntd.conf share: config.c for all but the groups, config_group.c for these. */
#ifndef SHUNT_DAEMON_CONFIG_LOAD_H
#define SHUNT_DAEMON_CONFIG_LOAD_H

#include <libconfig.h>

#include "daemon/config.h"

struct loader {
	const char *path;
	char *err;
	size_t err_size;
	struct shunt_config *c;
};

int config_fail(struct loader *l, const config_setting_t *s, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int config_parse_size(const char *text, uint64_t *ret);
int config_check_label(struct loader *l, const config_setting_t *s, const char *label);
int config_check_mac(struct loader *l, const config_setting_t *s, char *mac);

int config_groups_load(struct loader *l, config_setting_t *list);
void config_groups_free(struct shunt_config *c);

#endif
