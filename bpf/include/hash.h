/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the two hashes of the hot path. Neither leaves this machine: conntrack's takes
 * addresses and ports as they lie in the packet, that of the filters as numbers.
 */
#ifndef MILLRACE_HASH_H
#define MILLRACE_HASH_H

#include <bpf/bpf_endian.h>

#include "abi.h"
#include "maps.h"

#define FILTER_FACTOR 0x9e3779b97f4a7c15ULL
#define FOLD_FACTOR 0xc2b2ae3d27d4eb4fULL
#define NEXT_PORT 37	/* bits from a port to the next; odd, so that no two of a block's meet */
#define BLOCK_BITS 9	/* log2 of FILTER_BLOCK_BITS */
#define BLOCKS_SHIFT 52	/* 64 less the bits of a block's number */
_Static_assert(1 << BLOCK_BITS == FILTER_BLOCK_BITS, "BLOCK_BITS");
_Static_assert(1ULL << (64 - BLOCKS_SHIFT + BLOCK_BITS) == FILTER_BITS, "BLOCKS_SHIFT");

/* An address as a number, and one of IPv6 folded to 64 bits, of which the low ones are its own. */
static __always_inline __u64 whole4(__be32 addr)
{
	return bpf_ntohl(addr);
}

static __always_inline __u64 fold6(const __u64 *addr)
{
	return bpf_be64_to_cpu(addr[0] * FOLD_FACTOR ^ addr[1]);
}

/*
 * Neighbours by address or port share a block: a cluster's VIPs are in one or two networks, and a
 * filter that strews them needs a cache line for each. `whole`: of whole4() or fold6().
 */
static __always_inline __u64 filter_bit(__u64 whole, __be16 port, __u8 proto)
{
	__u64 near = bpf_ntohs(port), far;

	far = whole >> BLOCK_BITS ^ near >> BLOCK_BITS << 32 ^ (__u64)proto << 48;
	return far * FILTER_FACTOR >> BLOCKS_SHIFT << BLOCK_BITS |
	       ((whole + near * NEXT_PORT) & (FILTER_BLOCK_BITS - 1));
}

/* Whether a VIP may have this address, port and protocol. */
static __always_inline __u32 may_be_vip(__u64 addr, __be16 port, __u8 proto)
{
	__u64 bit = filter_bit(addr, port, proto);
	__u32 index = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&vip_bits, &index);

	return word ? *word >> (bit & 63) & 1 : 0;
}

/* Whether an address may be in known_addresses. */
static __always_inline __u32 may_be_known(__u64 addr)
{
	__u64 bit = filter_bit(addr, 0, 0);
	__u32 index = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&address_bits, &index);

	return word ? *word >> (bit & 63) & 1 : 0;
}

static __always_inline __u64 mix64(__u64 x)
{
	x ^= x >> 32;
	x *= FILTER_FACTOR;
	x ^= x >> 29;
	return x;
}

/*
 * Where the word of a tuple may be: the way that it has if it can, of the first bucket. The tag has
 * the bits of a word that no record's number needs, and is never 0.
 */
struct place2 {
	__u32 first;
	__u32 second;
	__u32 tag;
	__u32 way;
};

static __always_inline __u32 tag_of(__u64 hash)
{
	return (__u32)(hash >> 32) | 1;
}

static __always_inline struct place2 place_of(__u64 hash, __u32 mask, __u32 records)
{
	return (struct place2){
		.first = hash & mask,
		.second = (hash >> 20) & mask,
		.tag = ((__u32)(hash >> 32) & ~records) | (records + 1),
		.way = (hash >> 32 & 0xfff) * INDEX_WAYS >> 12,
	};
}

#endif
