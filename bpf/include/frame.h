/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: reading and writing packets of any shape. A frame is known by offsets from its
 * first octet, and each piece of it is copied in or out with its bounds checked on the spot: so no
 * packet pointer is kept, options and extension headers of any length are no matter, and every
 * function here can be verified on its own.
 *
 * Invariants: what read_frame() calls FRAME_GOOD has its headers whole up to the ports, lengths
 * that agree (frame >= IP length >= headers), and is of TCP, UDP or SCTP only if that header is
 * whole as well. Nothing here changes a packet but put() and its callers.
 */
#ifndef MILLRACE_FRAME_H
#define MILLRACE_FRAME_H

#include <linux/if_vlan.h>

#include "abi.h"
#include "csum.h"
#include "maps.h"
#include "parsing.h"

#ifndef IPPROTO_SCTP
#define IPPROTO_SCTP 132
#endif

#define EXTENSIONS_MAX 8	/* extension headers of a packet; more is nobody's honest packet */
#define LINK_MAX 22		/* Ethernet and two tags */
#define FRAME_MAX 0xffff
#define OFFSET_MAX 0x3fff	/* XDP in one buffer has a page at most */

#define NOT_SERVED (-1)	/* in place of a verdict: not for this function to decide */

/* What read_frame() and read_ip() found. */
#define FRAME_GOOD 0
#define FRAME_SHORT 1		/* cut short, or lengths contradict each other */
#define FRAME_FOREIGN 2		/* no IP, or tags that a flow cannot keep */
#define FRAME_DARK 3		/* IPv6 whose headers cannot be followed; the addresses are right */

/* frame.flags */
#define FRAME_FRAGMENT 1	/* one of several; `fragment` says where in the datagram [octets] */
#define FRAME_LINK_GROUP 2	/* sent to a group of the link: nothing is answered */
#define FRAME_CUT 4		/* a packet in an ICMP error: its end may be missing */

union address {
	__u8 octets[16];
	__be32 words[4];	/* IPv4 is the last one */
	__u64 halves[2];
};

struct macs {
	__u8 dest[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

struct frame {
	union address saddr;	/* IPv4 as ::ffff:a.b.c.d */
	union address daddr;
	__be16 sport;		/* TCP, UDP, SCTP; else 0 */
	__be16 dport;
	__be16 vlan[2];		/* as flow4.vlan */
	__u32 id;		/* of a fragment's datagram */
	__be16 type;		/* behind the tags */
	__u16 l3;		/* offsets */
	__u16 l4;
	__u16 end;		/* of the IP packet, without padding */
	__u16 total;		/* IP length [octets]; more than is there if FRAME_CUT */
	__u16 fragment;
	__u8 tags;		/* how many */
	__u8 version;
	__u8 proto;
	__u8 ttl;
	__u8 flags;
	__u8 tcp_flags;		/* TCP: its flags; SCTP: the type of its first chunk */
	struct macs macs;
};

static __always_inline __u32 frame_size(struct xdp_md *ctx)
{
	__u64 size = (long)ctx->data_end - (long)ctx->data;

	/* Or it is computed in 32 bits, which the verifier forbids to pointers. */
	barrier_var(size);
	return size;
}

/* Where `size` octets at `at` are, or NULL. */
static __always_inline void *octets_at(struct xdp_md *ctx, __u64 at, __u32 size)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (at > OFFSET_MAX)
		return NULL;
	/* Or the compiler tests one copy of it, and the verifier looks at another. */
	barrier_var(at);
	at &= OFFSET_MAX;
	if (data + at + size > end)
		return NULL;
	/* It is not, but no machine that runs this minds; by octets it is eight times as slow. */
	return __builtin_assume_aligned(data + at, 8);
}

/* Sizes are constants, but where a helper has to check one. 0, or the octets are not there. */
static __always_inline int take(struct xdp_md *ctx, __u32 at, void *to, __u32 size)
{
	void *from;

	if (!__builtin_constant_p(size))
		return bpf_xdp_load_bytes(ctx, at, to, size);
	from = octets_at(ctx, at, size);
	if (!from)
		return -1;
	__builtin_memcpy(to, from, size);
	return 0;
}

static __always_inline int put(struct xdp_md *ctx, __u32 at, const void *from, __u32 size)
{
	void *to;

	if (!__builtin_constant_p(size))
		return bpf_xdp_store_bytes(ctx, at, (void *)from, size);
	to = octets_at(ctx, at, size);
	if (!to)
		return -1;
	__builtin_memcpy(to, from, size);
	return 0;
}

static __always_inline void map_ipv4(union address *to, __be32 addr)
{
	to->halves[0] = 0;
	to->words[2] = bpf_htonl(0xffff);
	to->words[3] = addr;
}

static __always_inline bool same_address(const union address *a, const union address *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

/* Whether an error or an answer may be sent to it. */
static __always_inline bool is_unicast(const union address *addr, __u8 version)
{
	if (version == 4) {
		__u8 first = addr->octets[12];

		return first && first != 127 && first < 224;
	}
	return addr->octets[0] != 0xff && (addr->halves[0] | addr->halves[1]);
}

/* Whether it is of a protocol with ports. */
static __always_inline bool has_transport(const struct frame *frame)
{
	return frame->proto == IPPROTO_TCP || frame->proto == IPPROTO_UDP ||
	       frame->proto == IPPROTO_SCTP;
}

/* Where a transport header keeps its checksum. */
static __always_inline __u32 check_offset(__u8 proto)
{
	return proto == IPPROTO_TCP ? 16 : proto == IPPROTO_UDP ? 6 : 8;
}

static __always_inline int read_ipv4(struct xdp_md *ctx, struct frame *frame)
{
	struct iphdr ip;
	__u32 header, offset;

	if (take(ctx, frame->l3, &ip, sizeof(ip)))
		return FRAME_SHORT;
	header = ip.ihl * 4;
	frame->total = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || frame->total < header)
		return FRAME_SHORT;
	map_ipv4(&frame->saddr, ip.saddr);
	map_ipv4(&frame->daddr, ip.daddr);
	frame->l4 = frame->l3 + header;
	frame->proto = ip.protocol;
	frame->ttl = ip.ttl;
	offset = bpf_ntohs(ip.frag_off);
	frame->fragment = (offset & IPV4_FRAGMENT_OFFSET) * 8;
	if (offset & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS)) {
		frame->flags |= FRAME_FRAGMENT;
		frame->id = bpf_ntohs(ip.id);
	}
	return FRAME_GOOD;
}

/* Whether it is an IPv6 header that others follow, and that is followed here. */
static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT;
}

static __always_inline int read_ipv6(struct xdp_md *ctx, struct frame *frame)
{
	struct ipv6hdr ip;
	__u32 at = frame->l3 + sizeof(ip), i;
	__u8 next;

	if (take(ctx, frame->l3, &ip, sizeof(ip)) || ip.version != 6)
		return FRAME_SHORT;
	__builtin_memcpy(&frame->saddr, &ip.saddr, sizeof(frame->saddr));
	__builtin_memcpy(&frame->daddr, &ip.daddr, sizeof(frame->daddr));
	frame->total = bpf_ntohs(ip.payload_len) + sizeof(ip);
	frame->ttl = ip.hop_limit;
	next = ip.nexthdr;
	/* Unrolled: clang 14 lays the loop out so that kernel 6.1 takes it for an endless one. */
#pragma unroll
	for (i = 0; is_extension(next); i++) {
		__u8 head[8];

		if (i == EXTENSIONS_MAX || (next == IPPROTO_HOPOPTS && i))
			return FRAME_DARK;
		if (at > FRAME_MAX - 2048 || take(ctx, at, head, sizeof(head)))
			return FRAME_SHORT;
		if (next == IPPROTO_FRAGMENT) {
			__u32 offset = head[2] << 8 | head[3];

			/* One of one (RFC 6946) is as good as none. */
			frame->fragment = offset & ~7;
			if (offset & ~6) {
				frame->flags |= FRAME_FRAGMENT;
				frame->id = (__u32)head[4] << 24 | head[5] << 16 | head[6] << 8 |
					    head[7];
			}
			at += 8;
			if (frame->fragment) {
				/* What follows is no header, whatever `next` says. */
				next = IPPROTO_FRAGMENT;
				break;
			}
		} else {
			/* The checksum is over the last destination, which is not this one yet. */
			if (next == IPPROTO_ROUTING && head[3])
				return FRAME_DARK;
			at += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	frame->l4 = at;
	frame->proto = next;
	return FRAME_GOOD;
}

/* The transport header: ports, and whether it is whole. */
static __always_inline int read_l4(struct xdp_md *ctx, struct frame *frame)
{
	__u32 size = frame->end - frame->l4;
	__u8 head[14] = {};

	if (frame->fragment || !has_transport(frame))
		return FRAME_GOOD;
	if (size < 8 || take(ctx, frame->l4, head, 8))
		return FRAME_SHORT;
	frame->sport = *(__be16 *)head;
	frame->dport = *(__be16 *)(head + 2);
	if (frame->flags & FRAME_CUT)
		return FRAME_GOOD;
	if (frame->proto == IPPROTO_UDP) {
		__u32 length = bpf_ntohs(*(__be16 *)(head + 4));

		if (length < sizeof(struct udphdr))
			return FRAME_SHORT;
		return length <= size || frame->flags & FRAME_FRAGMENT ? FRAME_GOOD : FRAME_SHORT;
	}
	if (size < 16 || take(ctx, frame->l4, head, sizeof(head)))
		return FRAME_SHORT;
	if (frame->proto == IPPROTO_SCTP) {
		frame->tcp_flags = head[12];
		return FRAME_GOOD;
	}
	frame->tcp_flags = head[13];
	if (head[12] >> 4 < 5 || (head[12] >> 4) * 4U > size)
		return FRAME_SHORT;
	return FRAME_GOOD;
}

/*
 * The IP packet at frame->l3, which may not reach beyond frame->end. With FRAME_CUT it may be
 * shorter than it says. Of a short one the ports are there if they are, to tell whose it is.
 */
__noinline int read_ip(struct xdp_md *ctx, struct frame *frame)
{
	bool cut = false;
	int found;

	if (!frame)
		return FRAME_SHORT;
	found = frame->version == 4 ? read_ipv4(ctx, frame) : read_ipv6(ctx, frame);
	if (found == FRAME_SHORT)
		return FRAME_SHORT;
	if (frame->l3 + frame->total > frame->end)
		cut = !(frame->flags & FRAME_CUT);
	else
		frame->end = frame->l3 + frame->total;
	if (found != FRAME_GOOD)
		return found;
	if (frame->l4 > frame->end)
		return FRAME_SHORT;
	found = read_l4(ctx, frame);
	return cut ? FRAME_SHORT : found;
}

/* Any frame that came in. `frame` is all zero before. */
__noinline int read_frame(struct xdp_md *ctx, struct frame *frame)
{
	__u32 at = 2 * ETH_ALEN, size = frame_size(ctx), i;
	__be16 outer = 0;
	struct {
		__be16 type;
		__be16 tag;
	} next;

	if (!frame || size > FRAME_MAX || take(ctx, 0, &frame->macs, sizeof(frame->macs)))
		return FRAME_SHORT;
	frame->end = size;
	frame->flags = frame->macs.dest[0] & 1 ? FRAME_LINK_GROUP : 0;
	for (i = 0; ; i++) {
		if (take(ctx, at, &next, sizeof(next)))
			return FRAME_SHORT;
		frame->tags = i;
		frame->l3 = at + 2;
		frame->type = next.type;
		if (next.type != bpf_htons(ETH_P_8021Q) && next.type != bpf_htons(ETH_P_8021AD))
			break;
		if (i == 2)
			return FRAME_FOREIGN;
		if (i && outer != bpf_htons(ETH_P_8021AD))
			return FRAME_FOREIGN;
		outer = next.type;
		frame->vlan[i & 1] = next.tag;
		at += 4;
	}
	/* What is not 802.1Q alone, or 802.1ad with 802.1Q in it, no flow can give back. */
	if (i && outer != bpf_htons(ETH_P_8021Q))
		return FRAME_FOREIGN;
	if (i == 2 && (!frame->vlan[0] || !frame->vlan[1]))
		return FRAME_FOREIGN;
	if (next.type == bpf_htons(ETH_P_IP))
		frame->version = 4;
	else if (next.type == bpf_htons(ETH_P_IPV6))
		frame->version = 6;
	else
		return FRAME_FOREIGN;
	return read_ip(ctx, frame);
}

#endif
