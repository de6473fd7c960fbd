/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a container runtime runs as `millrace-cni`: hands its environment and standard input to the
 * node daemon, prints what that answers, and ends with its exit code. The daemon checks and forms
 * all of it by the same code as the plugin (cni/plugin.py); here nothing is decided.
 *
 * Whatever is out of the ordinary (no daemon, one of another version, a configuration that is not
 * plain JSON) is the plugin's in Python, which lies beside this file under the name PLUGIN: it gets
 * the same input, and has the words and codes for it.
 *
 *   request   4 bytes: RAW and the size; "CNI_...=...\0" for each variable; "\0"; standard input
 *   answer    4 bytes: RAW and the size; 1 byte: the exit code; what is to be printed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define PLUGIN ".millrace-cni.py"
#define DEFAULT_SOCKET "/run/millrace/cni.sock"
#define RAW 0x80000000u
#define MAX_SIZE (1u << 20)
#define MAX_INPUT (MAX_SIZE / 2)
#define PATIENCE_S 60
#define STATUS_PATIENCE_S 5	/* runtimes ask for it again and again */

extern char **environ;

static char input[MAX_INPUT + 1];
static size_t input_size;
static bool readable = true;

struct text {
	const char *at;
	size_t size;
	bool plain; /* without escapes */
};

/* The plugin in Python, with what was read of the input; of too much, it is still too much. */
static int hand_over(void)
{
	char path[4096];
	char *argv[] = { path, NULL };
	ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - sizeof(PLUGIN) - 1);
	int fd = memfd_create("input", 0);
	char *name;

	if (size <= 0 || fd < 0)
		goto failed;
	path[size] = '\0';
	name = strrchr(path, '/');
	if (!name)
		goto failed;
	strcpy(name + 1, PLUGIN);
	for (size_t done = 0; done < input_size;) {
		ssize_t wrote = write(fd, input + done, input_size - done);

		if (wrote <= 0)
			goto failed;
		done += wrote;
	}
	if (readable && (lseek(fd, 0, SEEK_SET) < 0 || dup2(fd, 0) < 0))
		goto failed;
	execv(path, argv);
failed:
	printf("{\"cniVersion\":\"1.0.0\",\"code\":5,\"msg\":\"the plugin beside millrace-cni (%s) "
	       "cannot be run: %s\",\"details\":\"install it again: millrace cni-install\"}\n",
	       PLUGIN, strerror(errno));
	return 1;
}

static bool read_input(void)
{
	while (input_size < sizeof(input)) {
		ssize_t got = read(0, input + input_size, sizeof(input) - input_size);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return readable = false;
		if (got == 0)
			return true;
		input_size += got;
	}
	return false;
}

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* A JSON string that begins here; where it ends, or NULL. */
static const char *skip_text(const char *at, const char *end, struct text *found)
{
	if (at >= end || *at != '"')
		return NULL;
	found->at = ++at;
	found->plain = true;
	for (; at < end; at++) {
		if (*at == '"') {
			found->size = at - found->at;
			return at + 1;
		}
		if (*at == '\\') {
			found->plain = false;
			at++;
		}
	}
	return NULL;
}

/* Any JSON value; only its end is looked for, whether it is right is the daemon's to say. */
static const char *skip_value(const char *at, const char *end)
{
	struct text ignored;
	int depth = 0;

	while (at < end) {
		if (*at == '"') {
			at = skip_text(at, end, &ignored);
			if (!at)
				return NULL;
			continue;
		}
		if (!depth && (*at == ',' || *at == '}'))
			return at;
		if (*at == '{' || *at == '[')
			depth++;
		else if (*at == '}' || *at == ']')
			depth--;
		at++;
	}
	return NULL;
}

static bool is(const struct text *text, const char *word)
{
	return text->size == strlen(word) && !memcmp(text->at, word, text->size);
}

/* The daemon's socket, as the configuration names it; false: Python has to read that. */
static bool find_socket(char *path, size_t room)
{
	const char *end = input + input_size, *at = skip_space(input, end);
	struct text key, value;

	snprintf(path, room, "%s", DEFAULT_SOCKET);
	if (at >= end || *at++ != '{')
		return false;
	for (;;) {
		at = skip_text(skip_space(at, end), end, &key);
		/* As another plugin's IPAM the socket may be named further inside. */
		if (!at || !key.plain || is(&key, "server_socket") || is(&key, "ipam"))
			return false;
		at = skip_space(at, end);
		if (at >= end || *at++ != ':')
			return false;
		at = skip_space(at, end);
		if (is(&key, "socket")) {
			const char *behind = skip_text(at, end, &value);

			if (!behind || !value.plain || !value.size || value.size >= room)
				return false;
			memcpy(path, value.at, value.size);
			path[value.size] = '\0';
		}
		at = skip_value(at, end);
		if (!at)
			return false;
		if (*at++ == '}')
			return skip_space(at, end) == end;
	}
}

static int reach(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	const char *command = getenv("CNI_COMMAND");
	bool status = command && !strcmp(command, "STATUS");
	struct timeval patience = { .tv_sec = status ? STATUS_PATIENCE_S : PATIENCE_S };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(to.sun_path, path, strlen(path) + 1);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return -1;
	return fd;
}

static bool send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

		/* Stopped and continued, a socket with a timeout says so (signal(7)). */
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		data += sent;
		size -= sent;
	}
	return true;
}

static bool receive(int fd, char *data, size_t size)
{
	while (size) {
		ssize_t got = recv(fd, data, size, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		data += got;
		size -= got;
	}
	return true;
}

static bool ask(int fd)
{
	static char message[MAX_SIZE];
	size_t used = sizeof(uint32_t);
	uint32_t header;

	for (char **one = environ; *one; one++) {
		size_t size = strlen(*one) + 1;

		if (strncmp(*one, "CNI_", 4))
			continue;
		if (used + size + 1 + input_size > sizeof(message))
			return false;
		memcpy(message + used, *one, size);
		used += size;
	}
	message[used++] = '\0';
	memcpy(message + used, input, input_size);
	used += input_size;
	header = htonl(RAW | (uint32_t)(used - sizeof(header)));
	memcpy(message, &header, sizeof(header));
	return send_all(fd, message, used);
}

int main(void)
{
	static char answer[MAX_SIZE];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	uint32_t header, size;
	int fd;

	if (!read_input() || !find_socket(path, sizeof(path)))
		return hand_over();
	fd = reach(path);
	if (fd < 0 || !ask(fd) || !receive(fd, (char *)&header, sizeof(header)))
		return hand_over();
	header = ntohl(header);
	size = header & ~RAW;
	if (!(header & RAW) || !size || size > sizeof(answer) || !receive(fd, answer, size))
		return hand_over();
	for (char *at = answer + 1, *end = answer + size; at < end;) {
		ssize_t wrote = write(1, at, end - at);

		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote <= 0)
			return 1;
		at += wrote;
	}
	return (unsigned char)answer[0];
}
