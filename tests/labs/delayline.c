// SPDX-License-Identifier: Apache-2.0
/*
 * A forwarder whose faults are known: what comes to port 0 leaves by port 1 after a given time, but
 * for one frame that is lost, one that comes twice and one that is overtaken. What the packet
 * generator says of a path is compared with it.
 *
 * Usage: delayline EAL-ARGUMENTS -- DELAY_NS LOST TWICE LATE [PPS]
 * The three after the delay are numbers of frames, counted from 1; 0: none. A late frame leaves behind
 * the one that came after it. PPS is what the line carries at most; what is over it waits in the ring
 * of who sends. When its input ends it prints {"came": ..., "left": ...}.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#define PROGRAM "delayline"
#include "ports.h"

#define BURST 32
#define MBUFS 65535
#define LINE (1 << 15)	/* no more than there are frames */
#define QUEUE 256	/* frames that wait on a line with a rate */
#define SLACK_MS 10	/* so much of its time it makes up for after it stood still */
#define LOOK_EVERY 100000	/* rounds between two looks at the input's end */

struct held {
	struct rte_mbuf *m;
	uint64_t due;
};

static struct held line[LINE];
static uint64_t head, tail;	/* places: taken from head, put at tail */

static void put(struct rte_mbuf *m, uint64_t due)
{
	if (tail - head == LINE)
		die("the line is full: a shorter delay or a lower rate is needed", 0);
	line[tail++ % LINE] = (struct held){ m, due };
}

int main(int argc, char **argv)
{
	int used = rte_eal_init(argc, argv);
	uint64_t delay, lost, twice, late, came = 0, left = 0, rounds = 0, slack;
	double each = 0, next = 0;	/* ticks: of a frame, and when the next may leave */
	struct rte_mempool *pool;
	struct rte_mbuf *kept = NULL;
	char octet;

	if (used < 0 || argc - used < 5 || argc - used > 6)
		die("usage: delayline EAL-ARGUMENTS -- DELAY_NS LOST TWICE LATE [PPS]", 0);
	delay = strtoull(argv[used + 1], NULL, 10) * rte_get_tsc_hz() / 1000000000;
	lost = strtoull(argv[used + 2], NULL, 10);
	twice = strtoull(argv[used + 3], NULL, 10);
	late = strtoull(argv[used + 4], NULL, 10);
	if (argc - used == 6)
		each = rte_get_tsc_hz() / strtod(argv[used + 5], NULL);
	slack = rte_get_tsc_hz() / 1000 * SLACK_MS;
	pool = rte_pktmbuf_pool_create("frames", MBUFS, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
				       rte_socket_id());
	if (!pool || rte_eth_dev_count_avail() != 2)
		die("two ports and memory for frames are needed", 0);
	for (uint16_t port = 0; port < 2; port++)
		start_port(port, 1, pool);
	printf("{\"ready\": true}\n");
	fflush(stdout);
	for (;;) {
		struct rte_mbuf *batch[BURST];
		bool full = each > 0 && tail - head > QUEUE;
		uint16_t count = full ? 0 : rte_eth_rx_burst(0, 0, batch, BURST);
		uint64_t now = rte_rdtsc();

		for (uint16_t i = 0; i < count; i++) {
			struct rte_mbuf *m = batch[i];

			came++;
			if (came == lost) {
				rte_pktmbuf_free(m);
				continue;
			}
			if (came == late) {
				kept = m;
				continue;
			}
			put(m, now + delay);
			if (came == twice)
				put(rte_pktmbuf_copy(m, pool, 0, UINT32_MAX), now + delay);
			if (kept) {
				put(kept, now + delay);
				kept = NULL;
			}
		}
		if (next < (double)now - slack)
			next = (double)now - slack;
		while (head != tail && line[head % LINE].due <= now && (each == 0 || next <= now)) {
			struct rte_mbuf *m = line[head % LINE].m;

			next += each;
			/* A full device is waited for: nothing is lost that was not asked for. */
			while (!rte_eth_tx_burst(1, 0, &m, 1))
				;
			head++;
			left++;
		}
		count = rte_eth_rx_burst(1, 0, batch, BURST);
		rte_pktmbuf_free_bulk(batch, count);
		if (++rounds % LOOK_EVERY == 0) {
			struct pollfd input = { .fd = 0, .events = POLLIN };

			if (poll(&input, 1, 0) > 0 && read(0, &octet, 1) <= 0)
				break;
		}
	}
	printf("{\"came\": %" PRIu64 ", \"left\": %" PRIu64 "}\n", came, left);
	rte_eal_cleanup();
	return 0;
}
