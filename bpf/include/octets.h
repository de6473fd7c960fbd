/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: addresses copied and compared by words, because the compiler does it octet by
 * octet where it is told nothing of their alignment. On the stack the verifier wants words aligned
 * (MACs to 2, addresses to 8), and nowhere else on machines that load unaligned words.
 */
#ifndef MILLRACE_OCTETS_H
#define MILLRACE_OCTETS_H

#include <linux/if_ether.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(__u16 *)to = *(const __u16 *)from;
	*(__u16 *)(to + 2) = *(const __u16 *)(from + 2);
	*(__u16 *)(to + 4) = *(const __u16 *)(from + 4);
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return !((*(const __u16 *)a ^ *(const __u16 *)b) |
		 (*(const __u16 *)(a + 2) ^ *(const __u16 *)(b + 2)) |
		 (*(const __u16 *)(a + 4) ^ *(const __u16 *)(b + 4)));
}

static __always_inline void copy16(void *to, const void *from)
{
	*(__u64 *)to = *(const __u64 *)from;
	*(__u64 *)(to + 8) = *(const __u64 *)(from + 8);
}

static __always_inline bool same16(const void *a, const void *b)
{
	const __u64 *x = a, *y = b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]));
}

/* A destination and a source, as they stand in an Ethernet header and in a record. */
struct mac_pair {
	__u64 first;
	__u32 last;
};

static __always_inline struct mac_pair mac_pair_at(const void *from)
{
	return (struct mac_pair){ *(const __u64 *)from, *(const __u32 *)(from + 8) };
}

static __always_inline void put_mac_pair(struct ethhdr *eth, struct mac_pair macs)
{
	*(__u64 *)eth = macs.first;
	*(__u32 *)((void *)eth + 8) = macs.last;
}

#endif
