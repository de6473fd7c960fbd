/*
 * A guest's only program: loads every object it is given as the daemon does (libbpf, maps of their
 * own, none pinned) and says what the kernel makes of each, so that a test learns what a kernel
 * other than this machine's refuses.
 *
 *	loadall <object>...
 *
 * It prints "OK <object>" or "FAIL <object>: <error>" behind the last lines of libbpf and of the
 * verifier, and "end" when all were tried.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <bpf/libbpf.h>

/* A guest has little memory, and no verdict depends on how many entries there are. */
#define ENTRIES_MAX 4096
#define LINE_MAX 200
#define LINES 24

static char lines[LINES][LINE_MAX];
static unsigned int said;

/* The verifier's log comes as one message: only its end says why. */
static int keep(enum libbpf_print_level level, const char *format, va_list arguments)
{
	static char message[1 << 20];
	char *line, *rest = message;

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(message, sizeof(message), format, arguments);
	while ((line = strsep(&rest, "\n")))
		if (*line)
			snprintf(lines[said++ % LINES], LINE_MAX, "%s", line);
	return 0;
}

static int load(const char *path)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_map *map;
	int failed;

	if (!object)
		return -errno;
	bpf_object__for_each_map(map, object) {
		bpf_map__set_pin_path(map, NULL);
		if (bpf_map__max_entries(map) > ENTRIES_MAX)
			bpf_map__set_max_entries(map, ENTRIES_MAX);
	}
	failed = bpf_object__load(object);
	bpf_object__close(object);
	return failed;
}

int main(int count, char **words)
{
	struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	int i;

	setrlimit(RLIMIT_MEMLOCK, &all);
	libbpf_set_print(keep);
	for (i = 1; i < count; i++) {
		unsigned int line;
		int failed;

		said = 0;
		failed = load(words[i]);
		if (!failed) {
			printf("OK %s\n", words[i]);
			continue;
		}
		for (line = said > LINES ? said - LINES : 0; line < said; line++)
			printf("  %s\n", lines[line % LINES]);
		printf("FAIL %s: %s\n", words[i], strerror(-failed));
	}
	puts("end");
	return 0;
}
