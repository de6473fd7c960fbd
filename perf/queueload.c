// SPDX-License-Identifier: Apache-2.0
/*
 * Guests with many queues in one thread, for `millrace perf rebalance`: each queue of each
 * virtio-user port sends small UDP frames at a rate of its own, and what comes back is dropped.
 * Between its turns the thread sleeps, because PMD threads need the cores.
 *
 * Usage: queueload EAL-ARGUMENTS -- QUEUES
 * QUEUES of each port. A line on standard input has one rate for each queue, the first port's
 * first; nothing is sent before it. Ends at SIGTERM.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>

#define PROGRAM "queueload"
#include "ports.h"

#define FRAME 60		/* octets, and the FCS that nobody sends here */
#define BURST 32
#define MBUFS 32767
#define MAX_QUEUES 64		/* of all ports together */
#define BACKLOG 512		/* packets: a queue that is further behind begins anew */
#define PAUSE_NS 50000
#define FLOWS 32		/* of each queue, in turn: no two packets of a burst are of one */
#define FIRST_SOURCE_PORT 1000

struct queue {
	uint16_t port;
	uint16_t number;
	uint64_t pps;
	uint64_t from;		/* TSC cycles from which its schedule counts */
	uint64_t done;		/* packets of that schedule */
};

static struct queue queues[MAX_QUEUES];
static unsigned int queue_count;
static struct rte_mempool *pool;
static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

/* From a guest to its neighbour. */
static void frame(const struct queue *queue, uint64_t number, struct rte_mbuf *m)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);

	/* Room for it is in every buffer of the pool. */
	m->data_len = FRAME;
	m->pkt_len = FRAME;
	memset(eth, 0, FRAME);
	eth->dst_addr.addr_bytes[0] = 2;
	eth->dst_addr.addr_bytes[5] = (queue->port ^ 1) + 1;
	eth->src_addr.addr_bytes[0] = 2;
	eth->src_addr.addr_bytes[5] = queue->port + 1;
	eth->ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
	ip->version_ihl = RTE_IPV4_VHL_DEF;
	ip->time_to_live = 64;
	ip->next_proto_id = IPPROTO_UDP;
	ip->total_length = rte_cpu_to_be_16(FRAME - sizeof(*eth));
	ip->src_addr = rte_cpu_to_be_32(RTE_IPV4(10, 9, 0, queue->port + 1));
	ip->dst_addr = rte_cpu_to_be_32(RTE_IPV4(10, 9, 0, (queue->port ^ 1) + 1));
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	udp->src_port = rte_cpu_to_be_16(FIRST_SOURCE_PORT + number % FLOWS);
	udp->dst_port = rte_cpu_to_be_16(9);
	udp->dgram_len = rte_cpu_to_be_16(FRAME - sizeof(*eth) - sizeof(*ip));
}

/* At most one burst that is due; whether there was one. */
static int turn(struct queue *queue, uint64_t hz)
{
	uint64_t now = rte_rdtsc(), due = (double)(now - queue->from) / hz * queue->pps;
	struct rte_mbuf *batch[BURST];
	uint16_t count, taken;

	if (due > queue->done + BACKLOG) {
		queue->from = now;
		queue->done = 0;
		return 0;
	}
	count = RTE_MIN(due - queue->done, (uint64_t)BURST);
	if (!count || rte_pktmbuf_alloc_bulk(pool, batch, count))
		return 0;
	for (uint16_t i = 0; i < count; i++)
		frame(queue, queue->done + i, batch[i]);
	taken = rte_eth_tx_burst(queue->port, queue->number, batch, count);
	rte_pktmbuf_free_bulk(batch + taken, count - taken);
	queue->done += count;
	return count == BURST;
}

static void drop_received(const struct queue *queue)
{
	struct rte_mbuf *batch[BURST];
	uint16_t count;

	do {
		count = rte_eth_rx_burst(queue->port, queue->number, batch, BURST);
		rte_pktmbuf_free_bulk(batch, count);
	} while (count == BURST);
}

static void run(void)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint64_t hz = rte_get_tsc_hz();

	while (!ended) {
		int more = 0;

		for (unsigned int i = 0; i < queue_count; i++) {
			more |= turn(&queues[i], hz);
			drop_received(&queues[i]);
		}
		if (!more)
			nanosleep(&pause, NULL);
	}
}

/* Until there is a line, or the end. */
static void rates(void)
{
	for (unsigned int i = 0; i < queue_count; i++)
		if (scanf("%" SCNu64, &queues[i].pps) != 1)
			die("a line with one rate for each queue of each port is needed", 0);
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);
	unsigned int each;

	if (used < 0 || argc - used != 2)
		die("usage: queueload EAL-ARGUMENTS -- QUEUES", rte_errno);
	each = strtoul(argv[used + 1], NULL, 10);
	queue_count = each * rte_eth_dev_count_avail();
	if (!queue_count || queue_count > MAX_QUEUES)
		die("too few queues or too many", 0);
	pool = rte_pktmbuf_pool_create("frames", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
				       rte_socket_id());
	if (!pool)
		die("no memory for packets", rte_errno);
	signal(SIGTERM, end);
	for (unsigned int i = 0; i < queue_count; i++) {
		queues[i] = (struct queue){ .port = i / each, .number = i % each };
		if (!queues[i].number)
			start_port(queues[i].port, each, pool);
	}
	rates();
	for (unsigned int i = 0; i < queue_count; i++)
		queues[i].from = rte_rdtsc();
	run();
	rte_eal_cleanup();
	return 0;
}
