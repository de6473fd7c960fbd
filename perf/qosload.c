// SPDX-License-Identifier: Apache-2.0
/*
 * The two ends of one direction, for `millrace perf qos`: a sender that offers UDP frames at a given
 * rate on DPDK's port 0, and a receiver that counts what comes out of port 1. One thread, so that
 * neither waits for the scheduler to let the other run.
 *
 * Usage: qosload EAL-ARGUMENTS
 * Each line "SIZE PPS MS" on standard input (octets of a frame without its check sequence; frames
 * a second, 0: as many as the device takes; milliseconds) is answered by a line of JSON.
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

#define PROGRAM "qosload"
#include "ports.h"

#define BURST 32
#define MBUFS 16383
#define BACKLOG_S 10		/* a schedule that is further behind than 1/10 s begins anew */
#define DRAIN_MS 200		/* what an earlier run left on its way is thrown away */
#define MIN_FRAME 60
#define MAX_FRAME 2000
#define DISCARD 9		/* the port that the datagrams are for, by which they are known */

enum { SENDER, RECEIVER, PORTS };

struct counts {
	uint64_t sent;		/* frames that the sender's device took */
	uint64_t received;	/* frames of ours */
	uint64_t octets;	/* of them */
	uint64_t strangers;
};

static struct rte_mempool *pool;
static uint8_t frame[MAX_FRAME];

static void make_frame(unsigned int size)
{
	struct rte_ether_hdr *eth = (void *)frame;
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);

	memset(frame, 0, sizeof(frame));
	eth->dst_addr = (struct rte_ether_addr){ { 0x0a, 0x58, 0xc6, 0x12, 0, 2 } };
	eth->src_addr = (struct rte_ether_addr){ { 0x0a, 0x58, 0xc6, 0x12, 0, 1 } };
	eth->ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
	ip->version_ihl = RTE_IPV4_VHL_DEF;
	ip->total_length = rte_cpu_to_be_16(size - sizeof(*eth));
	ip->time_to_live = 64;
	ip->next_proto_id = IPPROTO_UDP;
	ip->src_addr = rte_cpu_to_be_32(RTE_IPV4(198, 18, 0, 1));
	ip->dst_addr = rte_cpu_to_be_32(RTE_IPV4(198, 18, 0, 2));
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	udp->src_port = rte_cpu_to_be_16(20000);
	udp->dst_port = rte_cpu_to_be_16(DISCARD);
	udp->dgram_len = rte_cpu_to_be_16(size - sizeof(*eth) - sizeof(*ip));
}

static uint16_t send_burst(struct counts *counts, unsigned int size, unsigned int count)
{
	struct rte_mbuf *batch[BURST];
	uint16_t taken;

	if (rte_pktmbuf_alloc_bulk(pool, batch, count))
		return 0;
	for (unsigned int i = 0; i < count; i++)
		memcpy(rte_pktmbuf_append(batch[i], size), frame, size);
	taken = rte_eth_tx_burst(SENDER, 0, batch, count);
	counts->sent += taken;
	rte_pktmbuf_free_bulk(batch + taken, count - taken);
	return taken;
}

static int is_ours(struct rte_mbuf *m)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);

	return rte_pktmbuf_data_len(m) >= MIN_FRAME &&
	       eth->ether_type == rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4) &&
	       ip->next_proto_id == IPPROTO_UDP && udp->dst_port == rte_cpu_to_be_16(DISCARD);
}

static void receive(struct counts *counts, uint16_t port)
{
	struct rte_mbuf *batch[BURST];
	uint16_t count = rte_eth_rx_burst(port, 0, batch, BURST);

	for (unsigned int i = 0; i < count; i++) {
		if (port == RECEIVER && is_ours(batch[i])) {
			counts->received++;
			counts->octets += rte_pktmbuf_pkt_len(batch[i]);
		} else {
			counts->strangers++;
		}
	}
	rte_pktmbuf_free_bulk(batch, count);
}

static double run(struct counts *counts, unsigned int size, uint64_t pps, unsigned int ms)
{
	uint64_t hz = rte_get_tsc_hz(), start, stop, paced_from, done = 0, now;
	struct counts ignored = { 0 };

	stop = rte_rdtsc() + hz / 1000 * DRAIN_MS;
	while (rte_rdtsc() < stop) {
		receive(&ignored, SENDER);
		receive(&ignored, RECEIVER);
	}
	start = paced_from = rte_rdtsc();
	stop = start + hz / 1000 * ms;
	while ((now = rte_rdtsc()) < stop) {
		unsigned int count = BURST;

		if (pps) {
			uint64_t due = (uint64_t)((double)(now - paced_from) / hz * pps);

			if (due > done + BURST + pps / BACKLOG_S) {
				paced_from = now;
				done = 0;
				due = 0;
			}
			count = RTE_MIN(due - done, (uint64_t)BURST);
		}
		if (count)
			done += send_burst(counts, size, count);
		receive(counts, RECEIVER);
		receive(&ignored, SENDER);
	}
	return (double)(now - start) / hz;
}

static void commands(void)
{
	unsigned int size, ms;
	char line[128];
	uint64_t pps;

	while (fgets(line, sizeof(line), stdin)) {
		struct counts c = { 0 };
		double seconds;

		if (sscanf(line, "%u %" SCNu64 " %u", &size, &pps, &ms) != 3 || size < MIN_FRAME ||
		    size > MAX_FRAME)
			die("a line that is not SIZE PPS MS", 0);
		make_frame(size);
		seconds = run(&c, size, pps, ms);
		printf("{\"seconds\": %f, \"sent\": %" PRIu64 ", \"received\": %" PRIu64
		       ", \"octets\": %" PRIu64 ", \"strangers\": %" PRIu64 "}\n",
		       seconds, c.sent, c.received, c.octets, c.strangers);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (rte_eal_init(argc, argv) < 0)
		die("usage: qosload EAL-ARGUMENTS", rte_errno);
	if (rte_eth_dev_count_avail() != PORTS)
		die("two ports are needed", 0);
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
