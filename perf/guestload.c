// SPDX-License-Identifier: Apache-2.0
/*
 * Two virtual machines in one thread, for `millrace perf eastwest`: a client that sends UDP frames
 * of two classes in a given mix and at a given rate, and a backend that sends each one back. One
 * thread, so that neither waits for the scheduler to let the other run, and no packet is lost
 * because a guest slept.
 *
 * Usage: guestload EAL-ARGUMENTS -- FILE...
 * A FILE has frames of FRAME octets: first all of the plain class, then as many of the service
 * class. Port 0 is the client's device, port 1 the backend's. Each line "FILE SHARE PPS MS" on
 * standard input (which file, from 0; service packets per hundred; packets per second, 0: as many as the device
 * takes; milliseconds) is answered by a line of JSON.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>

#define PROGRAM "guestload"
#include "ports.h"

#define FRAME 64
#define BURST 32
#define MBUFS 16383
#define MAX_FLOWS 32768
#define MAX_FILES 4
#define BACKLOG 256		/* packets: a schedule that is further behind begins anew */
#define SETTLE_MS 50		/* how long answers are waited for after the last request */
#define PLAIN_PORT 9		/* the backend's for plain packets */
#define SERVICE_PORT 53		/* the VIP's; the backend's own is another */

enum { CLIENT, BACKEND, PORTS };
enum { PLAIN, SERVICE, CLASSES };

struct counts {
	uint64_t sent[CLASSES];		/* taken by the client's device */
	uint64_t requests[CLASSES];	/* that the backend got */
	uint64_t replies[CLASSES];	/* that the client got, from the address it had asked */
	uint64_t unsent;		/* replies that the backend's device did not take */
	uint64_t strangers;		/* anything else */
};

struct file {
	uint8_t frames[CLASSES][MAX_FLOWS][FRAME];
	uint32_t flows;
	uint32_t turn[CLASSES];
};

static struct file files[MAX_FILES];
static unsigned int file_count;
static uint32_t mix;	/* hundredths of a service packet that are due */
static struct rte_mempool *pool;

static void read_frames(struct file *into, const char *path)
{
	FILE *file = fopen(path, "rb");
	long size;

	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) <= 0)
		die(path, errno);
	rewind(file);
	into->flows = size / FRAME / CLASSES;
	if (!into->flows || into->flows > MAX_FLOWS ||
	    size != (long)into->flows * CLASSES * FRAME)
		die("a file is not of whole frames, or too large", 0);
	for (int class = 0; class < CLASSES; class++)
		if (fread(into->frames[class], FRAME, into->flows, file) != into->flows)
			die(path, errno);
	fclose(file);
}

static struct rte_udp_hdr *udp_of(struct rte_mbuf *m)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);

	if (rte_pktmbuf_data_len(m) < sizeof(*eth) + sizeof(*ip) + sizeof(struct rte_udp_hdr) ||
	    eth->ether_type != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4) ||
	    ip->version_ihl != RTE_IPV4_VHL_DEF || ip->next_proto_id != IPPROTO_UDP)
		return NULL;
	return (void *)(ip + 1);
}

/* The next packet of the mix. */
static int fill(struct file *file, unsigned int share, struct rte_mbuf *m)
{
	int class = PLAIN;

	mix += share;
	if (mix >= 100) {
		mix -= 100;
		class = SERVICE;
	}
	memcpy(rte_pktmbuf_append(m, FRAME), file->frames[class][file->turn[class]], FRAME);
	if (++file->turn[class] == file->flows)
		file->turn[class] = 0;
	return class;
}

static void send_burst(struct counts *counts, struct file *file, unsigned int share,
		       unsigned int count)
{
	struct rte_mbuf *batch[BURST];
	int class[BURST];
	uint16_t taken;

	if (rte_pktmbuf_alloc_bulk(pool, batch, count))
		return;
	for (unsigned int i = 0; i < count; i++)
		class[i] = fill(file, share, batch[i]);
	taken = rte_eth_tx_burst(CLIENT, 0, batch, count);
	for (unsigned int i = 0; i < taken; i++)
		counts->sent[class[i]]++;
	rte_pktmbuf_free_bulk(batch + taken, count - taken);
}

static void client_receives(struct counts *counts)
{
	struct rte_mbuf *batch[BURST];
	uint16_t count = rte_eth_rx_burst(CLIENT, 0, batch, BURST);

	for (unsigned int i = 0; i < count; i++) {
		struct rte_udp_hdr *udp = udp_of(batch[i]);

		if (udp && udp->src_port == rte_cpu_to_be_16(PLAIN_PORT))
			counts->replies[PLAIN]++;
		else if (udp && udp->src_port == rte_cpu_to_be_16(SERVICE_PORT))
			counts->replies[SERVICE]++;
		else
			counts->strangers++;
	}
	rte_pktmbuf_free_bulk(batch, count);
}

/* Back to where it came from. A sum of swapped words is the same, so checksums stay right. */
static void answer(struct rte_mbuf *m, struct rte_udp_hdr *udp)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_ether_addr mac = eth->dst_addr;
	rte_be32_t address = ip->dst_addr;
	rte_be16_t port = udp->dst_port;

	eth->dst_addr = eth->src_addr;
	eth->src_addr = mac;
	ip->dst_addr = ip->src_addr;
	ip->src_addr = address;
	udp->dst_port = udp->src_port;
	udp->src_port = port;
}

static void backend_answers(struct counts *counts)
{
	struct rte_mbuf *batch[BURST], *out[BURST];
	uint16_t count = rte_eth_rx_burst(BACKEND, 0, batch, BURST), ready = 0, taken;

	for (unsigned int i = 0; i < count; i++) {
		struct rte_udp_hdr *udp = udp_of(batch[i]);

		if (!udp) {
			counts->strangers++;
			rte_pktmbuf_free(batch[i]);
			continue;
		}
		counts->requests[udp->dst_port == rte_cpu_to_be_16(PLAIN_PORT) ? PLAIN : SERVICE]++;
		answer(batch[i], udp);
		out[ready++] = batch[i];
	}
	taken = ready ? rte_eth_tx_burst(BACKEND, 0, out, ready) : 0;
	counts->unsent += ready - taken;
	rte_pktmbuf_free_bulk(out + taken, ready - taken);
}

static double run(struct counts *counts, struct file *file, unsigned int share, uint64_t pps,
		  unsigned int ms)
{
	uint64_t hz = rte_get_tsc_hz(), start = rte_rdtsc(), stop = start + hz / 1000 * ms;
	uint64_t end = stop + hz / 1000 * SETTLE_MS, paced_from = start, done = 0, now;

	while ((now = rte_rdtsc()) < end) {
		unsigned int count = now < stop ? BURST : 0;

		if (count && pps) {
			uint64_t due = (uint64_t)((double)(now - paced_from) / hz * pps);

			if (due > done + BACKLOG) {
				paced_from = now;
				done = 0;
				due = 0;
			}
			count = RTE_MIN(due - done, (uint64_t)BURST);
			done += count;
		}
		if (count)
			send_burst(counts, file, share, count);
		client_receives(counts);
		backend_answers(counts);
	}
	return (double)(stop - start) / hz;
}

static void commands(void)
{
	unsigned int file, share, ms;
	char line[128];
	uint64_t pps;

	while (fgets(line, sizeof(line), stdin)) {
		struct counts c = { 0 };
		double seconds;

		if (sscanf(line, "%u %u %" SCNu64 " %u", &file, &share, &pps, &ms) != 4 ||
		    file >= file_count || share > 100)
			die("a line that is not FILE SHARE PPS MS", 0);
		seconds = run(&c, &files[file], share, pps, ms);
		printf("{\"seconds\": %f, \"sent\": [%" PRIu64 ", %" PRIu64 "], "
		       "\"requests\": [%" PRIu64 ", %" PRIu64 "], "
		       "\"replies\": [%" PRIu64 ", %" PRIu64 "], "
		       "\"unsent\": %" PRIu64 ", \"strangers\": %" PRIu64 "}\n",
		       seconds, c.sent[PLAIN], c.sent[SERVICE], c.requests[PLAIN],
		       c.requests[SERVICE], c.replies[PLAIN], c.replies[SERVICE], c.unsent,
		       c.strangers);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);

	if (used < 0 || argc - used < 2 || argc - used - 1 > MAX_FILES)
		die("usage: guestload EAL-ARGUMENTS -- FILE", rte_errno);
	if (rte_eth_dev_count_avail() != PORTS)
		die("two ports are needed", 0);
	for (int at = used + 1; at < argc; at++)
		read_frames(&files[file_count++], argv[at]);
	pool = rte_pktmbuf_pool_create("frames", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
				       rte_socket_id());
	if (!pool)
		die("no memory for packets", rte_errno);
	for (uint16_t port = 0; port < PORTS; port++)
		start_port(port, 1, pool);
	printf("{\"ready\": true}\n");
	fflush(stdout);
	commands();
	rte_eal_cleanup();
	return 0;
}
