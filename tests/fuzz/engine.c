// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * A stand-in for libFuzzer where clang's is not installed: the same command line as far as tests/fuzz/run uses
 * it, inputs of the given corpora first, then blind mutations of them. It finds what is shallow, or near the
 * corpus; it does not know what an input reached and keeps none.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "input.h"

#define INPUTS_MAX 4096
#define BYTES_MAX 65536

static struct {
	uint8_t *data;
	size_t len;
} inputs[INPUTS_MAX];
static size_t n_inputs;
static uint8_t now[BYTES_MAX];
static size_t now_len, max_len = 4096;
static char artifact[512];
static size_t artifact_len;
static uint64_t seed;

static uint64_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* Sanitizers end the process by a signal, as a broken DEMAND() does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "abort_on_error=1";
}

/* The input at hand is what ended the process: keep it under a name as libFuzzer gives. */
static void on_abort(int signal)
{
	int fd = open(artifact, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd >= 0 && write(fd, now, now_len) == (ssize_t)now_len &&
	    write(2, "Test unit written to ", 21) > 0 && write(2, artifact, artifact_len) > 0)
		(void)!write(2, "\n", 1);
	_exit(128 + signal);
}

static void add(const char *path)
{
	struct stat st;
	FILE *f = fopen(path, "r");

	if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode) || n_inputs == INPUTS_MAX) {
		if (f)
			fclose(f);
		return;
	}
	inputs[n_inputs].data = malloc(BYTES_MAX);
	inputs[n_inputs].len = fread(inputs[n_inputs].data, 1, BYTES_MAX, f);
	n_inputs++;
	fclose(f);
}

static void load(const char *path)
{
	char file[1024];
	struct dirent *e;
	DIR *d = opendir(path);

	if (!d) {
		add(path);
		return;
	}
	while ((e = readdir(d))) {
		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		if (e->d_name[0] != '.')
			add(file);
	}
	closedir(d);
}

static void mutate(void)
{
	size_t from = n_inputs ? chance() % n_inputs : 0;

	now_len = 0;
	if (n_inputs) {
		now_len = inputs[from].len < max_len ? inputs[from].len : max_len;
		memcpy(now, inputs[from].data, now_len);
	}
	if (chance() % 4 == 0 || !now_len) {
		size_t more = chance() % 64;

		while (more-- && now_len < max_len)
			now[now_len++] = (uint8_t)chance();
	}
	for (int i = (int)(chance() % 8); i > 0 && now_len; i--)
		now[chance() % now_len] = chance() % 3 ? (uint8_t)chance() : 0xff;
}

static void run(void)
{
	uint8_t *copy = malloc(now_len ? now_len : 1);	/* so that a step beyond it is seen */

	memcpy(copy, now, now_len);
	LLVMFuzzerTestOneInput(copy, now_len);
	free(copy);
}

int main(int argc, char **argv)
{
	time_t until = 0;
	unsigned long runs = 0;

	snprintf(artifact, sizeof(artifact), "crash-%d", (int)getpid());
	seed = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "-max_total_time=", 16))
			until = time(NULL) + atol(argv[i] + 16);
		else if (!strncmp(argv[i], "-max_len=", 9))
			max_len = strtoul(argv[i] + 9, NULL, 10);
		else if (!strncmp(argv[i], "-artifact_prefix=", 17))
			snprintf(artifact, sizeof(artifact), "%scrash-%d", argv[i] + 17, (int)getpid());
		else if (argv[i][0] != '-')
			load(argv[i]);
	}
	if (max_len > BYTES_MAX)
		max_len = BYTES_MAX;
	artifact_len = strlen(artifact);
	signal(SIGABRT, on_abort);
	signal(SIGSEGV, on_abort);
	for (; runs < n_inputs; runs++) {
		now_len = inputs[runs].len;
		memcpy(now, inputs[runs].data, now_len);
		run();
	}
	while (time(NULL) < until) {
		mutate();
		run();
		runs++;
	}
	printf("#%lu\tDONE\n", runs);
	return 0;
}
