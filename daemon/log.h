/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_DAEMON_LOG_H
#define SHUNT_DAEMON_LOG_H

#include <syslog.h>

void shunt_log_init(int max_level);
void shunt_log(int level, const char *event, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define log_err(event, ...) shunt_log(LOG_ERR, event, __VA_ARGS__)
#define log_warn(event, ...) shunt_log(LOG_WARNING, event, __VA_ARGS__)
#define log_info(event, ...) shunt_log(LOG_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) shunt_log(LOG_DEBUG, event, __VA_ARGS__)

#endif
