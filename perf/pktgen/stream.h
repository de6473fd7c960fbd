/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: what one run sends, how its frames look, and what their arrival says.
 *
 * A frame is Ethernet, IPv4, UDP and 18 octets that tell which frame it is, which is just what fits
 * into 64 octets with the check sequence. Addresses are those kept for benchmarks (RFC 2544,
 * 198.18.0.0/15) unless a run names others; the UDP checksum is absent (RFC 768), because a
 * timestamp is in what it would cover. Whatever the path does to addresses and ports, a frame is
 * known by these octets.
 */
#ifndef MILLRACE_PKTGEN_STREAM_H
#define MILLRACE_PKTGEN_STREAM_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_udp.h>

#include "histogram.h"

#define MIN_SIZE 60			/* octets without the check sequence, as all sizes here */
#define MAX_SIZE 9216
#define MAX_FLOWS (1u << 20)
#define FLOWS_OF_HOST (1u << 14)	/* source ports of one source address */
#define FIRST_PORT 1024
#define PATTERN 64			/* sizes in turn */
#define RELAYS 4			/* stand-ins for guests and far nodes */
#define MARK 0x4d00			/* of our frames; the low octet is the run's */
#define SEQ_BITS 44
#define WINDOW (1u << 20)		/* frames among which a second copy is known for one */

struct mark {
	rte_be16_t mark;
	rte_be64_t flow_and_seq;
	uint64_t tsc;
} __attribute__((__packed__));

/* What comes from one port leaves by the other; by the same, with addresses changed over. */
struct relay {
	uint16_t from, to;
};

struct stream {
	uint16_t tx, rx;
	struct relay relays[RELAYS];
	unsigned int relay_count;
	uint8_t run;
	double pps;			/* 0: as many as the device takes */
	double seconds;
	unsigned int drain_ms;
	unsigned int flows;
	uint16_t pattern[PATTERN];
	unsigned int sizes;
	unsigned int max_size;
	struct rte_ether_addr src_mac, dst_mac;
	uint32_t src_ip, dst_ip;
	uint16_t dst_port;
	clockid_t clock;		/* processor time of `watch` */
	pid_t watch;			/* whose time without a processor is told, too; 0: nobody's */
};

struct result {
	uint64_t sent, octets;
	uint64_t received, duplicates, reordered, strangers;
	uint64_t relayed, relay_full;	/* by the stand-ins; lost there, because a ring was full */
	uint64_t behind_ticks;		/* how far the sender was behind its schedule at worst */
	uint64_t refused_ticks;		/* how long the device did not take what was due */
	double away_ns;			/* how long this thread had no processor */
	double watched_away_ns;		/* and how long the watched process had none meanwhile */
	double seconds;
	struct histogram delay;
};

/* What has come so far: a bit for each of the last frames, the last number of each flow. */
struct arrivals {
	uint64_t seen[WINDOW / 64];
	uint64_t highest;
	bool any;
	uint64_t last[MAX_FLOWS];	/* number + 1; 0: none */
};

/* The frame of the first flow; the others differ in the source. */
static inline void make_frame(uint8_t *frame, const struct stream *s)
{
	struct rte_ether_hdr *eth = (void *)frame;
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);

	memset(frame, 0, s->max_size);
	eth->dst_addr = s->dst_mac;
	eth->src_addr = s->src_mac;
	eth->ether_type = rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4);
	ip->version_ihl = RTE_IPV4_VHL_DEF;
	ip->time_to_live = 64;
	ip->next_proto_id = IPPROTO_UDP;
	ip->dst_addr = rte_cpu_to_be_32(s->dst_ip);
	udp->dst_port = rte_cpu_to_be_16(s->dst_port);
}

/* Make the copy in `m` the frame of this number. */
static inline void stamp(struct rte_mbuf *m, const struct stream *s, uint64_t seq)
{
	struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	struct rte_ipv4_hdr *ip = (void *)(eth + 1);
	struct rte_udp_hdr *udp = (void *)(ip + 1);
	struct mark *mark = (void *)(udp + 1);
	unsigned int flow = seq % s->flows, size = rte_pktmbuf_data_len(m);

	ip->total_length = rte_cpu_to_be_16(size - sizeof(*eth));
	ip->src_addr = rte_cpu_to_be_32(s->src_ip + flow / FLOWS_OF_HOST);
	ip->hdr_checksum = 0;
	ip->hdr_checksum = rte_ipv4_cksum(ip);
	udp->src_port = rte_cpu_to_be_16(FIRST_PORT + flow % FLOWS_OF_HOST);
	udp->dgram_len = rte_cpu_to_be_16(size - sizeof(*eth) - sizeof(*ip));
	mark->mark = rte_cpu_to_be_16(MARK | s->run);
	mark->flow_and_seq = rte_cpu_to_be_64((uint64_t)flow << SEQ_BITS | seq);
}

static inline struct mark *mark_of(const struct rte_mbuf *m)
{
	return rte_pktmbuf_mtod_offset(m, struct mark *,
				       sizeof(struct rte_ether_hdr) + sizeof(struct rte_ipv4_hdr) +
				       sizeof(struct rte_udp_hdr));
}

/* Its mark, if it is a frame of this run. */
static inline const struct mark *ours(const struct rte_mbuf *m, const struct stream *s)
{
	const struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m, struct rte_ether_hdr *);
	const struct rte_ipv4_hdr *ip = (const void *)(eth + 1);

	if (rte_pktmbuf_data_len(m) < MIN_SIZE ||
	    eth->ether_type != rte_cpu_to_be_16(RTE_ETHER_TYPE_IPV4) ||
	    ip->version_ihl != RTE_IPV4_VHL_DEF || ip->next_proto_id != IPPROTO_UDP ||
	    mark_of(m)->mark != rte_cpu_to_be_16(MARK | s->run))
		return NULL;
	return mark_of(m);
}

/* Clear the bits of numbers that come into the window as it moves on to `seq`. */
static inline void move_window(struct arrivals *a, uint64_t seq)
{
	if (seq - a->highest >= WINDOW) {
		memset(a->seen, 0, sizeof(a->seen));
		return;
	}
	for (uint64_t at = a->highest + 1; at <= seq; at++)
		a->seen[at % WINDOW / 64] &= ~(1ULL << at % 64);
}

/* A frame of this run has come. */
static inline void arrived(struct arrivals *a, struct result *r, const struct mark *mark,
			   uint64_t now)
{
	uint64_t both = rte_be_to_cpu_64(mark->flow_and_seq), seq = both & ((1ULL << SEQ_BITS) - 1);
	unsigned int flow = both >> SEQ_BITS;
	uint64_t *word = &a->seen[seq % WINDOW / 64], bit = 1ULL << seq % 64;

	if (!a->any || seq > a->highest) {
		if (a->any)
			move_window(a, seq);
		a->highest = seq;
		a->any = true;
	} else if (a->highest - seq < WINDOW && *word & bit) {
		r->duplicates++;
		return;
	}
	*word |= bit;
	r->received++;
	/* RFC 4737, 3.3: smaller than one of its flow that came before. */
	if (flow < MAX_FLOWS) {
		if (seq + 1 < a->last[flow])
			r->reordered++;
		else
			a->last[flow] = seq + 1;
	}
	record(&r->delay, now - mark->tsc);
}

#endif
