// SPDX-License-Identifier: GPL-2.0-only
/* Aligned columns; the first row is the heading. */
#include "cli/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** table_row() - Add a row: strings, then NULL; copied. */
void table_row(struct table *t, ...)
{
	const char *cell;
	va_list ap;
	int i = 0;

	t->rows = realloc(t->rows, (t->n + 1) * sizeof(*t->rows));
	memset(t->rows[t->n], 0, sizeof(*t->rows));
	va_start(ap, t);
	while ((cell = va_arg(ap, const char *)) && i < TABLE_COLUMNS)
		t->rows[t->n][i++] = strdup(cell);
	va_end(ap);
	t->n++;
}

/** table_print() - Print to stdout and empty the table. */
void table_print(struct table *t)
{
	size_t width[TABLE_COLUMNS] = { 0 };

	for (size_t r = 0; r < t->n; r++)
		for (int c = 0; c < TABLE_COLUMNS && t->rows[r][c]; c++)
			if (strlen(t->rows[r][c]) > width[c])
				width[c] = strlen(t->rows[r][c]);
	for (size_t r = 0; r < t->n; r++) {
		for (int c = 0; c < TABLE_COLUMNS && t->rows[r][c]; c++) {
			int last = c + 1 == TABLE_COLUMNS || !t->rows[r][c + 1];

			printf("%-*s%s", last ? 0 : (int)width[c], t->rows[r][c], last ? "\n" : "  ");
		}
		for (int c = 0; c < TABLE_COLUMNS; c++)
			free(t->rows[r][c]);
	}
	free(t->rows);
	*t = (struct table){ 0 };
}
