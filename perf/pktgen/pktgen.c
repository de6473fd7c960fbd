// SPDX-License-Identifier: Apache-2.0
/*
 * A paced generator and sink on any DPDK ports: sends at an exact rate, and says of each frame
 * whether it came back, in which order, and after how long.
 *
 * Usage: pktgen EAL-ARGUMENTS -- SOCKET [MAX_SIZE]
 * SOCKET is a unix socket that it makes (0600) and takes one client at a time on. Each line
 *
 *   run tx=0 rx=1 pps=10000 seconds=1 sizes=60 flows=1 src_mac=... dst_mac=... src_ip=198.18.0.1
 *       dst_ip=198.19.0.1 dst_port=9 drain_ms=100
 *
 * is answered by one of JSON: {"sent": ..., ...} or {"error": ...}. Sizes are octets without the check
 * sequence, several ("60,566,1514") are sent in turn; pps=0 is as many as the device takes. What a
 * line does not name has the value above. `quit` ends it.
 *
 * relay=2:3,4:4 passes on what comes from port 2 by port 3, as a guest does that forwards, and sends
 * what comes from port 4 back by it, Ethernet and IPv4 addresses changed over, as a far node does.
 * watch=PID tells how long that process had no processor while frames were sent.
 *
 * One thread sends and receives, so that neither waits for the other to be scheduled, and both read
 * one clock.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_malloc.h>

#define PROGRAM "pktgen"
#include "ports.h"
#include "stream.h"

#define BURST 32
#define MBUFS 16383
#define MAX_LINE 1024
#define MAX_PID (1 << 22)		/* linux/threads.h, PID_MAX_LIMIT */
#define GRACE_MS 100		/* for who is late at the end of his time */
#define FLUSH_MS 20		/* what an earlier run left on its way is thrown away */

static struct rte_mempool *pool;
static struct arrivals *arrivals;
static unsigned int largest = 1514;
static uint8_t frame[MAX_SIZE];
static uint8_t runs;

/* Sending and receiving ------------------------------------------------------------------------- */

/* Frames that are made and that the device has not taken yet. */
static struct {
	struct rte_mbuf *frames[BURST];
	unsigned int at, count;
} offer;

/* Whether there are such frames. */
static bool offered(void)
{
	return offer.at < offer.count;
}

/* Make the next `count` frames; false: there is no buffer for them now. */
static bool make_offer(const struct stream *s, uint64_t seq, unsigned int count)
{
	if (rte_pktmbuf_alloc_bulk(pool, offer.frames, count))
		return false;
	for (unsigned int i = 0; i < count; i++) {
		unsigned int size = s->pattern[(seq + i) % s->sizes];

		memcpy(rte_pktmbuf_append(offer.frames[i], size), frame, size);
		stamp(offer.frames[i], s, seq + i);
	}
	offer.at = 0;
	offer.count = count;
	return true;
}

/*
 * Send at most `count` frames from number `seq` on. What the device does not take is offered again:
 * a full ring delays frames, it costs none.
 */
static unsigned int send_frames(const struct stream *s, struct result *r, uint64_t seq,
				unsigned int count)
{
	unsigned int taken;
	uint64_t now;

	if (!offered() && !make_offer(s, seq, count))
		return 0;
	now = rte_rdtsc();
	for (unsigned int i = offer.at; i < offer.count; i++)
		mark_of(offer.frames[i])->tsc = now;
	taken = rte_eth_tx_burst(s->tx, 0, offer.frames + offer.at, offer.count - offer.at);
	for (unsigned int i = 0; i < taken; i++)
		r->octets += s->pattern[(seq + i) % s->sizes];
	r->sent += taken;
	offer.at += taken;
	return taken;
}

static void drop_offer(void)
{
	rte_pktmbuf_free_bulk(offer.frames + offer.at, offer.count - offer.at);
	offer.at = offer.count = 0;
}

static unsigned int receive(const struct stream *s, struct result *r, uint16_t port)
{
	struct rte_mbuf *batch[BURST];
	unsigned int count = rte_eth_rx_burst(port, 0, batch, BURST);
	uint64_t now = rte_rdtsc();

	for (unsigned int i = 0; r && i < count; i++) {
		const struct mark *mark = port == s->rx ? ours(batch[i], s) : NULL;

		if (mark)
			arrived(arrivals, r, mark, now);
		else
			r->strangers++;
	}
	rte_pktmbuf_free_bulk(batch, count);
	return count;
}

/* A node behind a wire: a frame with the addresses changed over goes the whole way back. */
static bool turn_round(struct rte_mbuf *m)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *), was = *eth;
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	rte_be32_t address = ip->src_addr;

	if (rte_pktmbuf_data_len(m) < MIN_SIZE ||
	    eth->ether_type != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4))
		return false;
	eth->src_addr = was.dst_addr;
	eth->dst_addr = was.src_addr;
	ip->src_addr = ip->dst_addr;
	ip->dst_addr = address;
	return true;
}

static void relay(const struct relay *one, struct result *r)
{
	struct rte_mbuf *batch[BURST];
	unsigned int count = rte_eth_rx_burst(one->from, 0, batch, BURST), kept = 0, taken;

	for (unsigned int i = 0; i < count; i++) {
		if (one->from != one->to || turn_round(batch[i]))
			batch[kept++] = batch[i];
		else
			rte_pktmbuf_free(batch[i]);
	}
	if (!kept)
		return;
	taken = rte_eth_tx_burst(one->to, 0, batch, kept);
	rte_pktmbuf_free_bulk(batch + taken, kept - taken);
	if (r) {
		r->relayed += taken;
		r->relay_full += kept - taken;
	}
}

/* Both ports, so that neither's ring stays full of what others send; and the stand-ins'. */
static void receive_all(const struct stream *s, struct result *r)
{
	bool others = s->tx != s->rx;

	receive(s, r, s->rx);
	for (unsigned int i = 0; i < s->relay_count; i++) {
		relay(&s->relays[i], r);
		others = others && s->relays[i].from != s->tx;
	}
	if (others)
		receive(s, NULL, s->tx);
}

static void receive_for(const struct stream *s, struct result *r, uint64_t ticks)
{
	uint64_t stop = rte_rdtsc() + ticks;

	while (rte_rdtsc() < stop)
		receive_all(s, r);
}

/*
 * Processor time by such a clock [ns]; where the host tells what it took, that is no part of it.
 * 0: who it is of has ended.
 */
static uint64_t worked_ns(clockid_t clock)
{
	struct timespec told = { 0 };

	clock_gettime(clock, &told);
	return told.tv_sec * 1000000000ULL + told.tv_nsec;
}

/* Of so many seconds, what is left beside this work [ns]. */
static double away_ns(double seconds, uint64_t worked)
{
	return seconds * 1e9 > worked ? seconds * 1e9 - worked : 0;
}

/*
 * A frame is due at its number times the interval. Who is late, because the device took nothing or
 * the processor was away, sends in bursts until he is on time again: the rate of a run as a whole is
 * what was asked for, as long as the path takes it. Both reasons are told, for who has to say
 * whether the sender, the path or the machine missed a rate.
 */
static void run(const struct stream *s, struct result *r)
{
	uint64_t hz = rte_get_tsc_hz(), total = s->pps * s->seconds + 0.5, start, stop, now, seq = 0;
	uint64_t refused_since = 0, worked, watched;

	memset(r, 0, sizeof(*r));
	receive_for(s, NULL, hz / 1000 * FLUSH_MS);
	memset(arrivals, 0, sizeof(*arrivals));
	make_frame(frame, s);
	worked = worked_ns(CLOCK_THREAD_CPUTIME_ID);
	watched = worked_ns(s->clock);
	start = rte_rdtsc();
	stop = start + (uint64_t)(s->seconds * hz);
	while ((now = rte_rdtsc()) < stop || (seq < total && now < stop + hz / 1000 * GRACE_MS)) {
		uint64_t due = seq + BURST;
		unsigned int taken;
		bool refused;

		if (s->pps > 0)
			due = RTE_MIN((uint64_t)((now - start) * s->pps / hz) + 1, total);
		if (due > seq) {
			uint64_t late = s->pps > 0 ? (due - seq - 1) * hz / s->pps : 0;

			if (late > r->behind_ticks)
				r->behind_ticks = late;
			taken = send_frames(s, r, seq, RTE_MIN(due - seq, (uint64_t)BURST));
			seq += taken;
			/* No buffer is left when the path holds all: it takes nothing, either. */
			refused = offered() || !taken;
			if (refused_since && !refused)
				r->refused_ticks += now - refused_since;
			refused_since = !refused ? 0 : refused_since ? refused_since : now;
		}
		receive_all(s, r);
	}
	if (refused_since)
		r->refused_ticks += now - refused_since;
	r->seconds = (double)(now - start) / hz;
	r->away_ns = away_ns(r->seconds, worked_ns(CLOCK_THREAD_CPUTIME_ID) - worked);
	r->watched_away_ns = s->watch ? away_ns(r->seconds, worked_ns(s->clock) - watched) : 0;
	drop_offer();
	receive_for(s, r, hz / 1000 * s->drain_ms);
}

/* Commands -------------------------------------------------------------------------------------- */

static const char *parse_sizes(char *text, struct stream *s)
{
	char *save, *word;

	s->sizes = s->max_size = 0;
	for (word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		unsigned long size = strtoul(word, NULL, 10);

		if (size < MIN_SIZE || size > largest)
			return "a size is less than 60 or more than this generator was started for";
		if (s->sizes == PATTERN)
			return "more than 64 sizes";
		s->pattern[s->sizes++] = size;
		s->max_size = RTE_MAX(s->max_size, size);
	}
	return s->sizes ? NULL : "no size";
}

static bool parse_port(const char *text, uint16_t *port)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	*port = number;
	return *text && !*end && number < rte_eth_dev_count_avail();
}

static const char *parse_relays(char *text, struct stream *s)
{
	char *save, *word;

	for (word = strtok_r(text, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		char *to = strchr(word, ':');
		struct relay *one = &s->relays[s->relay_count];

		if (s->relay_count == RELAYS)
			return "more than 4 relays";
		if (!to)
			return "a relay is not FROM:TO";
		*to++ = 0;
		if (!parse_port(word, &one->from) || !parse_port(to, &one->to))
			return "a relay's end is no port";
		s->relay_count++;
	}
	return NULL;
}

static bool parse_ip(const char *text, uint32_t *address)
{
	struct in_addr found;

	if (inet_pton(AF_INET, text, &found) != 1)
		return false;
	*address = rte_be_to_cpu_32(found.s_addr);
	return true;
}

static bool parse_number(const char *text, double least, double most, double *number)
{
	char *end;

	*number = strtod(text, &end);
	return *text && !*end && *number >= least && *number <= most;
}

/* NULL, or what is wrong with "key=value". */
static const char *parse_word(char *word, struct stream *s)
{
	char *value = strchr(word, '=');
	double number;

	if (!value)
		return "a word is not key=value";
	*value++ = 0;
	if (!strcmp(word, "tx"))
		return parse_port(value, &s->tx) ? NULL : "tx is no port";
	if (!strcmp(word, "rx"))
		return parse_port(value, &s->rx) ? NULL : "rx is no port";
	if (!strcmp(word, "relay"))
		return parse_relays(value, s);
	if (!strcmp(word, "pps"))
		return parse_number(value, 0, 1e9, &s->pps) ? NULL : "pps is not 0 to 10^9";
	if (!strcmp(word, "seconds"))
		return parse_number(value, 0.001, 86400, &s->seconds) ? NULL :
								      "seconds is not 0.001 to 86400";
	if (!strcmp(word, "sizes"))
		return parse_sizes(value, s);
	if (!strcmp(word, "src_mac"))
		return rte_ether_unformat_addr(value, &s->src_mac) ? "src_mac is no address" : NULL;
	if (!strcmp(word, "dst_mac"))
		return rte_ether_unformat_addr(value, &s->dst_mac) ? "dst_mac is no address" : NULL;
	if (!strcmp(word, "src_ip"))
		return parse_ip(value, &s->src_ip) ? NULL : "src_ip is no address";
	if (!strcmp(word, "dst_ip"))
		return parse_ip(value, &s->dst_ip) ? NULL : "dst_ip is no address";
	if (!strcmp(word, "flows")) {
		if (!parse_number(value, 1, MAX_FLOWS, &number))
			return "flows is not 1 to 1048576";
		s->flows = number;
		return NULL;
	}
	if (!strcmp(word, "dst_port")) {
		if (!parse_number(value, 1, 65535, &number))
			return "dst_port is not 1 to 65535";
		s->dst_port = number;
		return NULL;
	}
	if (!strcmp(word, "watch")) {
		if (!parse_number(value, 1, MAX_PID, &number) ||
		    clock_getcpuclockid(number, &s->clock))
			return "watch is no process";
		s->watch = number;
		return NULL;
	}
	if (!strcmp(word, "drain_ms")) {
		if (!parse_number(value, 0, 60000, &number))
			return "drain_ms is not 0 to 60000";
		s->drain_ms = number;
		return NULL;
	}
	return "a key is not known";
}

static void defaults(struct stream *s)
{
	*s = (struct stream){
		.rx = rte_eth_dev_count_avail() > 1, .pps = 10000, .seconds = 1, .drain_ms = 100,
		.flows = 1, .pattern = { MIN_SIZE }, .sizes = 1, .max_size = MIN_SIZE,
		.src_mac = { { 0x0a, 0x58, 0xc6, 0x12, 0, 1 } },
		.dst_mac = { { 0x0a, 0x58, 0xc6, 0x13, 0, 1 } },
		.src_ip = RTE_IPV4(198, 18, 0, 1), .dst_ip = RTE_IPV4(198, 19, 0, 1), .dst_port = 9,
		.clock = CLOCK_THREAD_CPUTIME_ID,
	};
}

static void answer(FILE *out, const struct result *r)
{
	double ns = 1e9 / rte_get_tsc_hz();

	fprintf(out, "{\"seconds\": %.9f, \"sent\": %" PRIu64 ", \"octets\": %" PRIu64
		", \"received\": %" PRIu64 ", \"duplicates\": %" PRIu64 ", \"reordered\": %" PRIu64
		", \"strangers\": %" PRIu64 ", \"relayed\": %" PRIu64 ", \"relay_full\": %" PRIu64
		", \"behind_ns\": %.0f, \"refused_ns\": %.0f, \"away_ns\": %.0f"
		", \"watched_away_ns\": %.0f, \"max_ns\": %.0f, \"delay\": ",
		r->seconds, r->sent, r->octets, r->received, r->duplicates, r->reordered,
		r->strangers, r->relayed, r->relay_full, r->behind_ticks * ns,
		r->refused_ticks * ns, r->away_ns, r->watched_away_ns, r->delay.max * ns);
	print_histogram(out, &r->delay, ns);
	fputs("}\n", out);
}

/* False: it is over. */
static bool command(FILE *out, char *line)
{
	const char *wrong = NULL;
	static struct result r;
	char *save, *word = strtok_r(line, " \n", &save);
	struct stream s;

	if (!word)
		return true;
	if (!strcmp(word, "quit"))
		return false;
	defaults(&s);
	if (strcmp(word, "run"))
		wrong = "a command is run or quit";
	while (!wrong && (word = strtok_r(NULL, " \n", &save)))
		wrong = parse_word(word, &s);
	if (wrong) {
		fprintf(out, "{\"error\": \"%s\"}\n", wrong);
	} else {
		s.run = ++runs;
		run(&s, &r);
		answer(out, &r);
	}
	fflush(out);
	return true;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		die("the socket's path is longer than 107 octets", 0);
	strcpy(address.sun_path, path);
	umask(0177);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 1))
		die(path, errno);
	return fd;
}

static void serve(int listening)
{
	static char line[MAX_LINE];
	bool more = true;

	while (more) {
		int fd = accept(listening, NULL, NULL);
		FILE *in, *out;

		if (fd < 0)
			die("accept", errno);
		in = fdopen(fd, "r");
		out = fdopen(dup(fd), "w");
		if (!in || !out)
			die("fdopen", errno);
		while (more && fgets(line, sizeof(line), in))
			more = command(out, line);
		fclose(out);
		fclose(in);
	}
}

int main(int argc, char **argv)
{
	const char *path;
	unsigned int room;
	int used, fd;

	/* Our own session hears no terminal, and memory is not held for who was killed. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	used = rte_eal_init(argc, argv);
	if (used < 0 || argc - used < 2 || argc - used > 3)
		die("usage: pktgen EAL-ARGUMENTS -- SOCKET [MAX_SIZE]", used < 0 ? rte_errno : 0);
	path = argv[used + 1];
	if (argc - used == 3)
		largest = strtoul(argv[used + 2], NULL, 10);
	if (largest < MIN_SIZE || largest > MAX_SIZE)
		die("MAX_SIZE is not 60 to 9216", 0);
	if (!rte_eth_dev_count_avail())
		die("no port", 0);
	signal(SIGPIPE, SIG_IGN);
	room = RTE_PKTMBUF_HEADROOM + RTE_MAX(largest, (unsigned int)RTE_MBUF_DEFAULT_DATAROOM);
	pool = rte_pktmbuf_pool_create("frames", MBUFS, 256, 0, room, rte_socket_id());
	arrivals = rte_zmalloc("arrivals", sizeof(*arrivals), 64);
	if (!pool || !arrivals)
		die("no memory for packets; give EAL more with --socket-mem", rte_errno);
	for (uint16_t port = 0; port < rte_eth_dev_count_avail(); port++) {
		start_port(port, 1, pool);
		rte_eth_promiscuous_enable(port);	/* where the device can */
	}
	fd = listen_at(path);
	printf("{\"ready\": true, \"ports\": %u}\n", rte_eth_dev_count_avail());
	fflush(stdout);
	serve(fd);
	unlink(path);
	rte_eal_cleanup();
	return 0;
}
