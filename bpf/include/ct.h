/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack's states and locks, and its tables of both families (ct_family.h).
 * docs/decisions/0011 says why it is a table of our own, 0038 where its records lie.
 */
#ifndef MILLRACE_CT_H
#define MILLRACE_CT_H

#include "abi.h"
#include "csum.h"
#include "hash.h"
#include "maps.h"
#include "octets.h"
#include "parsing.h"

#define FLOW_THERE 64		/* beyond every reason that ct?_add can give */
/* How a flow is added: `how` of ct?_add. */
#define LINES_ASKED 1		/* ct?_ask_for has, for the same packet */
#define NO_OTHER_PORT 2		/* those that name no record are taken: evict now, if need be */
#define BRIEFLY 4		/* look at few records, once */
#define NO_WORD 64
#define NO_WAY 0xffffffff
#define FREE_RANK 0xffffffff
#define CLAIMED 2		/* the two low bits of `life` while a flow is being made */
/*
 * The two high bits of a port that names a record (DIRECT_PORT_MIN) choose one of a backend's three
 * stretches of the table, so that one with many flows need not push others out.
 */
#define STRETCH_BITS 14
#define STRETCH ((1U << STRETCH_BITS) - 1)
_Static_assert(DIRECT_PORT_MIN == STRETCH + 1, "what names no record has high bits of its own: 0");
#define CT_CURSORS 256
#define CLAIM_ROW 4		/* records that are looked at in a row, */
#define CLAIM_NEAR 12		/* in all three stretches, */
#define CLAIM_TRIES 24		/* and elsewhere in them, */
#define CLAIM_ROUNDS 3		/* and how often */
#define CLAIM_FULL 64		/* of so many new flows in a row that find nothing free */
#define CLAIM_FAR 8		/* the first ones look elsewhere, the others near only */
#define LOCK_TRIES 128

struct tuple4 {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

struct tuple6 {
	__u64 saddr[2];
	__u64 daddr[2];
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

/* Where the word of a record's former flow is, if that has this life still. */
struct former {
	__u32 id;
	__u32 life;
	struct place2 place;
};

/* The best record that was met (ct?_claim). */
struct taken {
	__u32 rank;
	__u32 id;
	__u32 life;
	__u32 port;
	__u32 next;
};

/* What a flow is added by: the stack has no room for it. */
struct ct_work {
	__u32 id;		/* of the record that was claimed */
	__u32 way;		/* that its word will have */
	__u8 both;		/* the second bucket is locked, too, and has the word */
	__u8 direct;		/* its source port names its record */
	__u8 asked_direct;	/* what it was taken for when its lines were asked for */
	__u8 is_new;		/* no look at its bucket's words is needed */
	__u8 brief;		/* few records are looked at */
	__u8 pad[3];
	__u32 used;		/* not 0: the life that the record had, whose flow may have a word */
	__u32 replies;		/* not 0: the lock of this bucket of replies is held */
	__u32 reply_bucket;
	__u32 version;		/* the first bucket's lock while no word had this tag; odd: none */
	struct place2 place;
	__u64 base;		/* of the tuple replies will have (ct?_reply_base), or its hash */
	struct tuple4 ct4_mine;
	struct tuple4 ct4_reply;
	struct tuple4 ct4_former;
	struct tuple6 ct6_mine;
	struct tuple6 ct6_reply;
	struct tuple6 ct6_former;
	struct taken taken;
	struct former ct4_next;
	struct former ct6_next;
	__u32 ct4_high;		/* which stretches are gone on in: a port's high bits */
	__u32 ct6_high;
	__u32 ct4_full;		/* new flows since one that found a free record */
	__u32 ct6_full;
	__u32 ct4_cursors[CT_CURSORS];	/* how far in, by stretch */
	__u32 ct6_cursors[CT_CURSORS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ct_work);
} ct_work SEC(".maps");

/* Now, in ticks: jiffies, because reading them is one load, where reading a clock is a call. */
static __always_inline __u32 tick_of(const struct node *node)
{
	if (unlikely(node->flags & NODE_FIXED_CLOCK))
		return node->tick;
	return (__u32)bpf_jiffies64();
}

/* A packet on another CPU may have been later than this one's clock: then it is not over. */
static __always_inline bool is_over(__u32 seen, __u8 state, const struct node *node, __u32 tick)
{
	return (__s32)(tick - seen) > (__s32)node->timeouts[state & (CT_STATES - 1)];
}

#define BIT(n) (1U << (n))
#define WEAK_STATES (BIT(CT_SYN) | BIT(CT_SYN_ACK) | BIT(CT_MIDDLE) | BIT(CT_TIME_WAIT) | \
		     BIT(CT_RESET) | BIT(CT_UDP_ONE_WAY) | BIT(CT_UDP_ANSWERED) | BIT(CT_SCTP_NEW) | \
		     BIT(CT_SCTP_SHUTDOWN))

static __always_inline bool is_weak(__u8 state)
{
	return WEAK_STATES >> (state & (CT_STATES - 1)) & 1;
}

/*
 * A lock of a bucket: its word, odd while the lock is held, and another one after each time; 0 if
 * its holder did not let go in time.
 */
static __always_inline __u32 lock(__u32 *word)
{
	__u32 tries;

	for (tries = 0; tries < LOCK_TRIES; tries++) {
		__u32 free = *(volatile __u32 *)word & ~1U;

		if (__sync_val_compare_and_swap(word, free, free + 1) == free)
			return free + 1;
	}
	return 0;
}

/*
 * A plain store: what was written before is seen before (x86; docs/decisions/0011 claims no other).
 */
static __always_inline void unlock(__u32 *word)
{
	barrier();
	*(volatile __u32 *)word = *word + 1;
}

/* Not a call of its own, which has 32 octets of stack on kernel 6.1. */
static __always_inline void count_event(__u32 event)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &event);

	if (counter)
		counter->packets++;
}

/* By what address of ours this node's own kernel knows a client behind OVN. */
#define HOST_SOURCE4 bpf_htonl((__u32)HOST_SOURCE4_HIGH << 16 | HOST_SOURCE4_LOW)

static __always_inline void host_source6(__u8 *to)
{
	*(__be32 *)to = bpf_htonl((__u32)HOST_SOURCE6_FIRST << 16 | HOST_SOURCE6_SECOND);
	*(__be32 *)(to + 4) = 0;
	*(__be32 *)(to + 8) = 0;
	*(__be32 *)(to + 12) = bpf_htonl(HOST_SOURCE6_LAST);
}

/* Whether an address stands for clients: the source ports towards backends are ours to choose. */
static __always_inline bool is_ours4(const struct node *node, __be32 addr)
{
	return likely(addr == node->service_addr4) || addr == HOST_SOURCE4;
}

static __always_inline bool is_ours6(const struct node *node, const void *addr)
{
	__u8 host[16] __attribute__((aligned(8)));

	if (likely(same16(addr, node->service_addr6)))
		return true;
	host_source6(host);
	return same16(addr, host);
}

static __always_inline bool is_direct_port(__be16 port)
{
	return bpf_ntohs(port) >= DIRECT_PORT_MIN;
}

/* Hashes of a tuple, or of one that has other ports. */
static __always_inline __u64 tuple4_hash(const struct tuple4 *tuple, __u64 ports, __u32 seed)
{
	__u64 addrs = (__u64)tuple->saddr << 32 | tuple->daddr;
	__u64 h = (addrs ^ (__u64)seed << 16) * FOLD_FACTOR;

	h ^= h >> 32;
	return mix64((h ^ ports ^ (__u64)tuple->proto << 40) * FILTER_FACTOR);
}

static __always_inline __u64 tuple6_hash(const struct tuple6 *tuple, __u64 ports, __u32 seed)
{
	__u64 h = (tuple->saddr[0] ^ seed) * FOLD_FACTOR ^ tuple->saddr[1];

	h = (h ^ h >> 32) * FILTER_FACTOR ^ tuple->daddr[0];
	h = (h ^ h >> 29) * FOLD_FACTOR ^ tuple->daddr[1];
	h ^= h >> 32;
	return mix64((h ^ ports ^ (__u64)tuple->proto << 40) * FILTER_FACTOR);
}

#define PORTS_OF(tuple) ((__u64)(tuple)->sport << 16 | (tuple)->dport)

/* The checksum's changes of a translation, for a record that has its addresses. */
static __always_inline void deltas4(struct flow4 *flow)
{
	__u32 addrs = csum_delta32(flow->vip, flow->backend) +
		      csum_delta32(flow->client, flow->source);

	flow->ip_delta = csum_fold(addrs);
	flow->l4_delta = csum_fold(addrs + csum_delta16(flow->vip_port, flow->backend_port) +
				   csum_delta16(flow->client_port, flow->source_port));
}

static __always_inline __u32 csum_delta128(const __u8 *from, const __u8 *to)
{
	const __u32 *f = (const __u32 *)from, *t = (const __u32 *)to;

	return csum_delta32(f[0], t[0]) + csum_delta32(f[1], t[1]) + csum_delta32(f[2], t[2]) +
	       csum_delta32(f[3], t[3]);
}

static __always_inline void deltas6(struct flow6 *flow)
{
	flow->l4_delta = csum_fold(csum_delta128(flow->vip, flow->backend) +
				   csum_delta128(flow->client, flow->source) +
				   csum_delta16(flow->vip_port, flow->backend_port) +
				   csum_delta16(flow->client_port, flow->source_port));
}

/*
 * Where a CPU begins in a stretch: each, and each program, elsewhere, so that they do not meet each
 * other's flows before the table is full.
 */
static __always_inline __u32 first_cursor(__u8 flags)
{
	return (bpf_get_smp_processor_id() * 2 + !!(flags & FLOW_INNER) + 1) * 0x9e3779b1U >> 16 | 1;
}

#define PORTS(first) (*(const __u32 *)&(first))

/* IPv4 */
#define FLOW struct flow4
#define TUPLE struct tuple4
#define TUPLE_HASH tuple4_hash
#define ADDR_SAME(a, b) ((a) == (b))
#define ADDR_COPY(to, from) ((to) = (from))
#define CT_RECORDS ct4
#define IS_OURS is_ours4
#define SERVICE_ADDR service_addr4
#define DELTAS deltas4
#define CT(name) ct4_##name
#include "ct_family.h"
#undef FLOW
#undef TUPLE
#undef TUPLE_HASH
#undef ADDR_SAME
#undef ADDR_COPY
#undef CT_RECORDS
#undef IS_OURS
#undef SERVICE_ADDR
#undef DELTAS
#undef CT

/* IPv6 */
#define FLOW struct flow6
#define TUPLE struct tuple6
#define TUPLE_HASH tuple6_hash
#define ADDR_SAME(a, b) same16(a, b)
#define ADDR_COPY(to, from) copy16(to, from)
#define CT_RECORDS ct6
#define IS_OURS is_ours6
#define SERVICE_ADDR service_addr6
#define DELTAS deltas6
#define CT(name) ct6_##name
#include "ct_family.h"
#undef FLOW
#undef TUPLE
#undef TUPLE_HASH
#undef ADDR_SAME
#undef ADDR_COPY
#undef CT_RECORDS
#undef IS_OURS
#undef SERVICE_ADDR
#undef DELTAS
#undef CT

#endif
