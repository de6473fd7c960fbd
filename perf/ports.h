/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: how each of our DPDK programs starts its ports, and how it ends when it cannot.
 * Whoever includes this defines PROGRAM, the name that its errors begin with.
 */
#ifndef MILLRACE_PERF_PORTS_H
#define MILLRACE_PERF_PORTS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#define RING 1024

static inline void die(const char *what, int error)
{
	fprintf(stderr, PROGRAM ": %s: %s\n", what, error ? strerror(error) : "failed");
	exit(1);
}

static inline void start_port(uint16_t port, uint16_t queues, struct rte_mempool *pool)
{
	struct rte_eth_conf conf = { 0 };
	int error;

	error = rte_eth_dev_configure(port, queues, queues, &conf);
	for (uint16_t at = 0; !error && at < queues; at++) {
		error = rte_eth_rx_queue_setup(port, at, RING, SOCKET_ID_ANY, NULL, pool);
		if (!error)
			error = rte_eth_tx_queue_setup(port, at, RING, SOCKET_ID_ANY, NULL);
	}
	if (!error)
		error = rte_eth_dev_start(port);
	if (error)
		die("a port does not start", -error);
}

#endif
