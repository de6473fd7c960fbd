/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lab's server: answers on one port number over TCP (HTTP) and UDP with its name and with the
 * addresses that it sees, so that a test can tell who answered and whether the client's address
 * was kept. Static, so that the same binary runs in a container and as a guest's only program.
 *
 *   answerd NAME PORT
 *   answerd get ADDRESS PORT PATH    the client's side of it: the body, on standard output
 *   GET /            -> "name=NAME peer=A:P local=A:P"
 *   GET /bytes/N     -> N bytes
 *   GET /echo        -> after the headers, every byte comes back until the client closes
 *   UDP              -> the same line as GET /, and the request after it
 *
 * One IPv6 socket serves both families. Datagrams wait for a server that has no processor in its
 * socket, and the usual buffer has room for 256: at 6,000 in a second it loses what 43 ms brought.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATAGRAMS_ROOM (2 << 20) /* the kernel makes it twice that: 5,000 short ones */

static const char *name;

/* An IPv4 address in an IPv6 socket's words is written as IPv4, any other in brackets. */
static const char *text_of(char *out, size_t size, const struct sockaddr_in6 *addr)
{
	char text[INET6_ADDRSTRLEN];

	if (IN6_IS_ADDR_V4MAPPED(&addr->sin6_addr)) {
		inet_ntop(AF_INET, &addr->sin6_addr.s6_addr[12], text, sizeof(text));
		snprintf(out, size, "%s", text);
	} else {
		inet_ntop(AF_INET6, &addr->sin6_addr, text, sizeof(text));
		snprintf(out, size, "[%s]", text);
	}
	return out;
}

static void line_of(char *out, size_t size, const struct sockaddr_in6 *peer,
		    const struct sockaddr_in6 *local)
{
	char p[INET6_ADDRSTRLEN + 2], l[INET6_ADDRSTRLEN + 2];

	snprintf(out, size, "name=%s peer=%s:%u local=%s:%u", name, text_of(p, sizeof(p), peer),
		 ntohs(peer->sin6_port), text_of(l, sizeof(l), local), ntohs(local->sin6_port));
}

static void send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data += n;
		size -= (size_t)n;
	}
}

static void serve(int fd, const struct sockaddr_in6 *peer)
{
	static char block[65536];
	struct sockaddr_in6 local = { 0 };
	socklen_t len = sizeof(local);
	char request[2048], line[256], head[256];
	size_t have = 0;
	long bytes;
	ssize_t n;
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	getsockname(fd, (struct sockaddr *)&local, &len);
	do {
		n = recv(fd, request + have, sizeof(request) - 1 - have, 0);
		if (n <= 0)
			return;
		have += (size_t)n;
		request[have] = 0;
	} while (!strstr(request, "\r\n\r\n") && have < sizeof(request) - 1);
	if (!strncmp(request, "GET /echo", 9)) {
		snprintf(head, sizeof(head),
			 "HTTP/1.1 200 OK\r\nConnection: close\r\nServer: %s\r\n\r\n", name);
		send_all(fd, head, strlen(head));
		while ((n = recv(fd, block, sizeof(block), 0)) > 0)
			send_all(fd, block, (size_t)n);
		return;
	}
	if (sscanf(request, "GET /bytes/%ld", &bytes) == 1 && bytes > 0) {
		snprintf(head, sizeof(head),
			 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %ld\r\n\r\n",
			 bytes);
		send_all(fd, head, strlen(head));
		memset(block, 'x', sizeof(block));
		for (; bytes > 0; bytes -= (long)sizeof(block))
			send_all(fd, block,
				 bytes < (long)sizeof(block) ? (size_t)bytes : sizeof(block));
		return;
	}
	line_of(line, sizeof(line) - 1, peer, &local);
	strcat(line, "\n");
	snprintf(head, sizeof(head),
		 "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n"
		 "Content-Length: %zu\r\n\r\n",
		 strlen(line));
	send_all(fd, head, strlen(head));
	send_all(fd, line, strlen(line));
	shutdown(fd, SHUT_WR);
	while (recv(fd, request, sizeof(request), 0) > 0)
		;
}

static void answer_datagram(int fd, unsigned int port)
{
	struct sockaddr_in6 peer, local = { .sin6_family = AF_INET6 };
	static char request[16384], line[17000];
	char control[256];
	struct iovec in = { request, sizeof(request) - 1 };
	struct msghdr msg = { &peer, sizeof(peer), &in, 1, control, sizeof(control), 0 };
	struct cmsghdr *c;
	ssize_t n = recvmsg(fd, &msg, 0);

	if (n < 0)
		return;
	request[n] = 0;
	local.sin6_port = htons(port);
	for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			local.sin6_addr = ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
	line_of(line, 256, &peer, &local);
	strcat(line, " ");
	strcat(line, request);
	sendto(fd, line, strlen(line), 0, (struct sockaddr *)&peer, sizeof(peer));
}

/* For guests: a static busybox dies of the name services that its wget would have to load. */
static int get(const char *address, const char *port, const char *path)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) };
	struct timeval patience = { .tv_sec = 10 };
	static char block[65536];
	char text[INET6_ADDRSTRLEN + 8], request[512];
	int fd = socket(AF_INET6, SOCK_STREAM, 0), in_body = 0;
	ssize_t n;

	snprintf(text, sizeof(text), "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (inet_pton(AF_INET6, text, &to.sin6_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		perror(address);
		return 1;
	}
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n\r\n", path);
	send_all(fd, request, strlen(request));
	while ((n = recv(fd, block, sizeof(block) - 1, 0)) > 0) {
		char *from = block, *end;

		if (!in_body) {
			block[n] = 0;
			end = strstr(block, "\r\n\r\n");
			if (!end)
				continue;
			in_body = 1;
			from = end + 4;
		}
		fwrite(from, 1, (size_t)(block + n - from), stdout);
	}
	if (n < 0)
		perror(address);
	return n < 0 || !in_body;
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	struct pollfd fds[2];
	unsigned int port;
	int on = 1, room = DATAGRAMS_ROOM, tcp, udp;

	if (argc == 5 && !strcmp(argv[1], "get"))
		return get(argv[2], argv[3], argv[4]);
	if (argc != 3) {
		fprintf(stderr, "usage: answerd NAME PORT\n");
		return 2;
	}
	name = argv[1];
	port = (unsigned int)atoi(argv[2]);
	any.sin6_port = htons(port);
	signal(SIGCHLD, SIG_IGN);
	tcp = socket(AF_INET6, SOCK_STREAM, 0);
	udp = socket(AF_INET6, SOCK_DGRAM, 0);
	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(udp, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(tcp, (struct sockaddr *)&any, sizeof(any)) || listen(tcp, 256) ||
	    bind(udp, (struct sockaddr *)&any, sizeof(any))) {
		perror("answerd");
		return 1;
	}
	fds[0] = (struct pollfd){ tcp, POLLIN, 0 };
	fds[1] = (struct pollfd){ udp, POLLIN, 0 };
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents & POLLIN)
			answer_datagram(udp, port);
		if (fds[0].revents & POLLIN) {
			struct sockaddr_in6 peer;
			socklen_t len = sizeof(peer);
			int fd = accept(tcp, (struct sockaddr *)&peer, &len);

			if (fd < 0)
				continue;
			if (!fork()) {
				close(tcp);
				close(udp);
				serve(fd, &peer);
				_exit(0);
			}
			close(fd);
		}
	}
}
