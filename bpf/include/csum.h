/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: incremental Internet checksums (RFC 1624, equation 3). A sum of 16-bit words is
 * the same in either byte order as long as all words are in one, so everything here works on the
 * octets as they lie in the packet.
 */
#ifndef MILLRACE_CSUM_H
#define MILLRACE_CSUM_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

static __always_inline __u16 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* What changing a 32-bit field adds to the sum, not yet folded; at most 4 * 0xffff. */
static __always_inline __u32 csum_delta32(__u32 from, __u32 to)
{
	return (~from & 0xffff) + (~from >> 16) + (to & 0xffff) + (to >> 16);
}

static __always_inline __u32 csum_delta16(__u16 from, __u16 to)
{
	return (~from & 0xffff) + to;
}

static __always_inline __u16 csum_apply(__u16 check, __u16 delta)
{
	return ~csum_fold((~check & 0xffff) + delta);
}

#endif
