/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHUNT_CLI_TABLE_H
#define SHUNT_CLI_TABLE_H

#include <stddef.h>

#define TABLE_COLUMNS 16

struct table {
	char *(*rows)[TABLE_COLUMNS];
	size_t n;
};

void table_row(struct table *t, ...) __attribute__((sentinel));
void table_print(struct table *t);

#endif
