/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack's states and locks, and its tables of both families (ct_family.h).
 * docs/decisions/0011 says why it is a table of our own.
 */
#ifndef MILLRACE_CT_H
#define MILLRACE_CT_H

#include "abi.h"
#include "hash.h"
#include "maps.h"
#include "octets.h"
#include "parsing.h"

#define FLOW_THERE 64		/* beyond every reason that ct?_add can give */
#define FREE_RANK 0xffffffff
#define NO_WORD 64
#define NO_WAY 0xffffffff
/*
 * A bucket with so many free ways is taken without a look at the flow's other one. Each has to be
 * seen to be free; with fewer, tables that are half full would turn flows away.
 */
#define NEAR_SPARE 3
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

/* What a flow is added by: the stack has no room for it. */
struct ct_work {
	__u32 id;		/* of the record that was added */
	__u32 life;		/* of the flow that search() found */
	__u8 both;		/* the second bucket is locked, too */
	__u8 is_free;		/* the record has no flow now; else one that may be evicted */
	__u8 pad[6];
	struct place2 place;
	__u64 reply_hash;	/* of the tuple that replies will have */
	struct tuple4 ct4_mine;
	struct tuple4 ct4_other;
	struct tuple6 ct6_mine;
	struct tuple6 ct6_other;
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
		     BIT(CT_RESET) | BIT(CT_UDP_ONE_WAY) | BIT(CT_SCTP_NEW) | BIT(CT_SCTP_SHUTDOWN))

static __always_inline bool is_weak(__u8 state)
{
	return WEAK_STATES >> (state & (CT_STATES - 1)) & 1;
}

/* A lock of a bucket; false if its holder did not let go in time. */
static __always_inline bool lock(__u32 *word)
{
	__u32 tries;

	for (tries = 0; tries < LOCK_TRIES; tries++)
		if (!__sync_val_compare_and_swap(word, 0, 1))
			return true;
	return false;
}

/* A plain store: what was written before is seen before (x86; docs/decisions/0011 claims no other). */
static __always_inline void unlock(__u32 *word)
{
	barrier();
	*(volatile __u32 *)word = 0;
}

/* Not a call of its own, which has 32 octets of stack on kernel 6.1. */
static __always_inline void count_event(__u32 event)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &event);

	if (counter)
		counter->packets++;
}

static __always_inline __u64 tuple4_hash(const struct tuple4 *tuple, __u32 seed)
{
	__u64 addrs = (__u64)tuple->saddr << 32 | tuple->daddr;
	__u64 ports = (__u64)tuple->sport << 16 | tuple->dport;
	__u64 h = (addrs ^ (__u64)seed << 16) * FOLD_FACTOR;

	h ^= h >> 32;
	return mix64((h ^ ports ^ (__u64)tuple->proto << 40) * FILTER_FACTOR);
}

static __always_inline __u64 tuple6_hash(const struct tuple6 *tuple, __u32 seed)
{
	__u64 ports = (__u64)tuple->sport << 16 | tuple->dport;
	__u64 h = (tuple->saddr[0] ^ seed) * FOLD_FACTOR ^ tuple->saddr[1];

	h = (h ^ h >> 32) * FILTER_FACTOR ^ tuple->daddr[0];
	h = (h ^ h >> 29) * FOLD_FACTOR ^ tuple->daddr[1];
	h ^= h >> 32;
	return mix64((h ^ ports ^ (__u64)tuple->proto << 40) * FILTER_FACTOR);
}

#define PORTS(first) (*(const __u32 *)&(first))

/* IPv4 */
#define FLOW struct flow4
#define TUPLE struct tuple4
#define TUPLE_HASH tuple4_hash
#define ADDR_SAME(a, b) ((a) == (b))
#define ADDR_COPY(to, from) ((to) = (from))
#define CT_RECORDS ct4
#define CT(name) ct4_##name
#include "ct_family.h"
#undef FLOW
#undef TUPLE
#undef TUPLE_HASH
#undef ADDR_SAME
#undef ADDR_COPY
#undef CT_RECORDS
#undef CT

/* IPv6 */
#define FLOW struct flow6
#define TUPLE struct tuple6
#define TUPLE_HASH tuple6_hash
#define ADDR_SAME(a, b) same16(a, b)
#define ADDR_COPY(to, from) copy16(to, from)
#define CT_RECORDS ct6
#define CT(name) ct6_##name
#include "ct_family.h"
#undef FLOW
#undef TUPLE
#undef TUPLE_HASH
#undef ADDR_SAME
#undef ADDR_COPY
#undef CT_RECORDS
#undef CT

#endif
