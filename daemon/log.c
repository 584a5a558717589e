// SPDX-License-Identifier: GPL-2.0-only
/*
 * Structured log: one line per event, "event key=value ...", to stderr. Under a service manager
 * each line carries the sd-daemon level prefix, elsewhere the level as a word.
 */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int log_max = LOG_INFO;
static int log_prefixed = -1;

/**
 * shunt_log_init() - Set the least important level that is written.
 * @max_level: a syslog level.
 */
void shunt_log_init(int max_level)
{
	log_max = max_level;
	log_prefixed = getenv("JOURNAL_STREAM") != NULL;
}

static const char *level_word(int level)
{
	switch (level) {
	case LOG_ERR:
		return "error";
	case LOG_WARNING:
		return "warning";
	case LOG_INFO:
		return "info";
	default:
		return "debug";
	}
}

/**
 * shunt_log() - Write one event.
 * @level: syslog level.
 * @event: what happened, a fixed word an operator can search for.
 * @fmt: key=value pairs; values from outside are printable ASCII (they were validated on entry).
 */
void shunt_log(int level, const char *event, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if (level > log_max)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *c = line; *c; c++)
		if (*c == '\n')
			*c = ' ';
	if (log_prefixed > 0)
		fprintf(stderr, "<%d>%s %s\n", level, event, line);
	else
		fprintf(stderr, "%s: %s %s\n", level_word(level), event, line);
}
