/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: what the program says itself to whoever sent a packet: TCP RST, and the ICMP and
 * ICMPv6 errors port unreachable, packet too big, time exceeded. They are built in place of the
 * packet that they are about, and leave by the port that it came in by.
 *
 * Invariants:
 * - Nothing is said to a RST, an ICMP error, a later fragment, a group, or a source that is
 *   nobody's address (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e); and no more than the CPU has
 *   tokens for.
 * - What is not said is a drop with a reason, and the packet is as it was.
 * - An answer about a packet to a VIP comes from the VIP, any other from svc0's address.
 */
#ifndef MILLRACE_ANSWERS_H
#define MILLRACE_ANSWERS_H

#include "frame.h"
#include "neighbours.h"
#include "turn.h"

#define ANSWER_BURST 256	/* answers that a CPU can give at once; it gains one each tick */
#define ANSWER_HOPS 64
#define ICMP_SIZE 8
#define QUOTE4 548	/* of the packet: the error has 576 octets (RFC 1812 section 4.3.2.3) */
#define QUOTE6 1232	/* 1280 octets (RFC 4443 section 3) */

#define ICMP_UNREACHABLE 3	/* types and codes */
#define ICMP_PORT 3
#define ICMP_TOO_BIG 4
#define ICMP_TIME 11
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT 4
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME 3

#define REFUSE_PORT 130	/* a kind of answer(): OPEN_REFUSE, but of no service at all */

#define SUM_PART 64

/* Ethernet, tags, and an answer's own headers; what of it is used depends on the packet. */
struct answer_head {
	union address saddr;
	union address daddr;
	__u8 link[24];
	union {
		struct iphdr ip4;
		struct ipv6hdr ip6;
		__u8 octets[40];
	};
	union {
		struct tcphdr tcp;
		struct {
			__u8 type;
			__u8 code;
			__u16 check;
			__be32 value;
		} icmp;
	};
};

/* What a CPU has to answer with. */
struct answering {
	__u32 tick;	/* when the tokens were counted last */
	__u32 tokens;
	struct answer_head head;
	__u8 part[SUM_PART];	/* of a packet, while it is summed up */
};

/* By nothing; each CPU's own, so that a flood on one leaves the others their voice. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answering);
} answering SEC(".maps");

/* More tokens than ANSWER_BURST are left alone: user space has put them there (tests). */
static __always_inline bool may_answer(__u32 tick)
{
	__u32 zero = 0, gained;
	struct answering *mine = bpf_map_lookup_elem(&answering, &zero);

	if (!mine)
		return false;
	gained = tick - mine->tick;
	if (gained) {
		mine->tick = tick;
		if (mine->tokens < ANSWER_BURST)
			mine->tokens = gained < ANSWER_BURST - mine->tokens ?
					       mine->tokens + gained : ANSWER_BURST;
	}
	if (!mine->tokens)
		return false;
	mine->tokens--;
	return true;
}

static __always_inline bool is_icmp_error(const struct frame *frame, __u8 type)
{
	if (frame->version == 4)
		return type == ICMP_UNREACHABLE || type == 4 || type == 5 || type == ICMP_TIME ||
		       type == 12;
	return !(type & 0x80);
}

/* Whether this packet is one that may be answered. */
static __always_inline bool is_answerable(struct xdp_md *ctx, const struct frame *frame)
{
	__u8 type;

	if (frame->fragment || frame->flags & FRAME_LINK_GROUP ||
	    !is_unicast(&frame->saddr, frame->version) ||
	    !is_unicast(&frame->daddr, frame->version))
		return false;
	if (frame->proto == IPPROTO_ICMP || frame->proto == IPPROTO_ICMPV6)
		return !take(ctx, frame->l4, &type, 1) && !is_icmp_error(frame, type);
	return true;
}

/* The sum of `size` octets at `at`, folded; -1 if they are not there. */
__noinline int octets_sum(struct xdp_md *ctx, __u32 at, __u32 size)
{
	__u32 zero = 0, sum = 0, i;
	struct answering *mine = bpf_map_lookup_elem(&answering, &zero);
	__u8 *part;

	if (!mine || size > QUOTE6 || at > FRAME_MAX)
		return -1;
	part = mine->part;
	for (i = 0; i < QUOTE6 / SUM_PART && size >= SUM_PART; i++) {
		if (take(ctx, at, part, SUM_PART))
			return -1;
		sum = csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)part, SUM_PART, sum));
		at += SUM_PART;
		size -= SUM_PART;
	}
	if (!size)
		return sum;
	/* 1..SUM_PART, as it is: from a test for 0 kernel 6.1 learns nothing. */
	barrier_var(size);
	size = ((size - 1) & (SUM_PART - 1)) + 1;
	__builtin_memset(part, 0, SUM_PART);
	if (take(ctx, at, part, size))
		return -1;
	return csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)part, SUM_PART, sum));
}

/* MACs swapped; at svc0 with svc0's own, or br-ex would learn another's there. */
static __always_inline int swap_link(struct xdp_md *ctx, const struct node *self, __u32 size,
				     __u8 *link)
{
	__u8 mac[ETH_ALEN];

	if (size < ETH_HLEN || size > LINK_MAX || take(ctx, 0, link, size))
		return -1;
	__builtin_memcpy(mac, link, ETH_ALEN);
	__builtin_memcpy(link, link + ETH_ALEN, ETH_ALEN);
	if (ctx->ingress_ifindex == self->svc_ifindex)
		__builtin_memcpy(mac, self->service_mac, ETH_ALEN);
	__builtin_memcpy(link + ETH_ALEN, mac, ETH_ALEN);
	return 0;
}

static __always_inline __u32 sum_address(const union address *addr)
{
	__u32 i, sum = 0;

	for (i = 0; i < 4; i++)
		sum += (addr->words[i] & 0xffff) + (addr->words[i] >> 16);
	return sum;
}

/* The IP header, and the sum of what a transport checksum is over beside the packet itself. */
static __always_inline __u32 ip_head(struct answer_head *head, __u8 version, __u8 proto,
				     __u32 size)
{
	if (version == 4) {
		head->ip4 = (struct iphdr){
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(head->ip4) + size),
			.frag_off = bpf_htons(0x4000),
			.ttl = ANSWER_HOPS,
			.protocol = proto,
			.saddr = head->saddr.words[3],
			.daddr = head->daddr.words[3],
		};
		head->ip4.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->ip4,
							   sizeof(head->ip4), 0));
		if (proto == IPPROTO_ICMP)
			return 0;
	} else {
		head->ip6 = (struct ipv6hdr){
			.version = 6,
			.payload_len = bpf_htons(size),
			.nexthdr = proto,
			.hop_limit = ANSWER_HOPS,
		};
		__builtin_memcpy(&head->ip6.saddr, &head->saddr, 16);
		__builtin_memcpy(&head->ip6.daddr, &head->daddr, 16);
	}
	return sum_address(&head->saddr) + sum_address(&head->daddr) + bpf_htons(size) +
	       bpf_htons(proto);
}

/* A TCP RST in place of the packet (RFC 9293 section 3.10.7.1). 0 if it is there. */
__noinline int reset(struct xdp_md *ctx, const struct frame *frame)
{
	__u32 zero = 0, header, sum, data, link;
	struct answering *mine = bpf_map_lookup_elem(&answering, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct answer_head *head;
	struct tcphdr tcp;

	if (!frame || !self || !mine || take(ctx, frame->l4, &tcp, sizeof(tcp)))
		return -1;
	head = &mine->head;
	__builtin_memset(head, 0, sizeof(*head));
	link = frame->l3;
	if (swap_link(ctx, self, link, head->link))
		return -1;
	head->saddr = frame->daddr;
	head->daddr = frame->saddr;
	head->tcp.source = tcp.dest;
	head->tcp.dest = tcp.source;
	head->tcp.doff = 5;
	head->tcp.rst = 1;
	if (tcp.ack) {
		head->tcp.seq = tcp.ack_seq;
	} else {
		data = frame->end - frame->l4 - tcp.doff * 4 + tcp.syn + tcp.fin;
		head->tcp.ack = 1;
		head->tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + data);
	}
	sum = ip_head(head, frame->version, IPPROTO_TCP, sizeof(head->tcp));
	head->tcp.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->tcp, sizeof(head->tcp),
						  csum_fold(sum)));
	header = frame->version == 4 ? sizeof(head->ip4) : sizeof(head->ip6);
	if (bpf_xdp_adjust_tail(ctx, (int)(link + header + sizeof(head->tcp) - frame_size(ctx))))
		return -1;
	return put(ctx, 0, head->link, link) || put(ctx, link, head->octets, header) ||
	       put(ctx, link + header, &head->tcp, sizeof(head->tcp));
}

/* An ICMP error in place of the packet, which it quotes. 0 if it is there. */
__noinline int complain(struct xdp_md *ctx, const struct frame *frame, __u32 kind, __u32 value)
{
	__u32 zero = 0, header, quote, link, most, sum;
	struct answering *mine = bpf_map_lookup_elem(&answering, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct answer_head *head;
	bool four;
	int part;

	if (!frame || !self || !mine)
		return -1;
	four = frame->version == 4;
	head = &mine->head;
	__builtin_memset(head, 0, sizeof(*head));
	link = frame->l3;
	if (swap_link(ctx, self, link, head->link))
		return -1;
	head->daddr = frame->saddr;
	head->saddr = frame->daddr;
	if (!(known_as(&frame->daddr) & (ADDRESS_VIP | ADDRESS_OWNED | ADDRESS_LOCAL))) {
		if (four)
			map_ipv4(&head->saddr, self->service_addr4);
		else
			__builtin_memcpy(&head->saddr, self->service_addr6, 16);
	}
	if (kind == ANSWER_TOO_BIG) {
		head->icmp.type = four ? ICMP_UNREACHABLE : ICMP6_TOO_BIG;
		head->icmp.code = four ? ICMP_TOO_BIG : 0;
		head->icmp.value = bpf_htonl(four ? value & 0xffff : value);
	} else if (kind == ANSWER_TTL) {
		head->icmp.type = four ? ICMP_TIME : ICMP6_TIME;
	} else {
		head->icmp.type = four ? ICMP_UNREACHABLE : ICMP6_UNREACHABLE;
		head->icmp.code = four ? ICMP_PORT : ICMP6_PORT;
	}
	most = four ? QUOTE4 : QUOTE6;
	quote = frame->end - frame->l3;
	if (quote > most)
		quote = most;
	part = octets_sum(ctx, link, quote);
	if (part < 0)
		return -1;
	sum = ip_head(head, frame->version, four ? IPPROTO_ICMP : IPPROTO_ICMPV6,
		      ICMP_SIZE + quote);
	head->icmp.check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&head->icmp, ICMP_SIZE,
						   csum_fold(csum_fold(sum) + part)));
	header = four ? sizeof(head->ip4) : sizeof(head->ip6);
	if (bpf_xdp_adjust_head(ctx, -(int)(header + ICMP_SIZE)))
		return -1;
	if (put(ctx, 0, head->link, link) || put(ctx, link, head->octets, header) ||
	    put(ctx, link + header, &head->icmp, ICMP_SIZE))
		return -1;
	return bpf_xdp_adjust_tail(ctx, (int)(link + header + ICMP_SIZE + quote -
					      frame_size(ctx)));
}

/* The reason of a drop in place of an answer of this kind. */
static __always_inline __u32 unsaid(__u32 kind)
{
	switch (kind) {
	case ANSWER_TTL:
		return DROP_VIP_TTL;
	case ANSWER_TOO_BIG:
		return DROP_TOO_BIG;
	case REFUSE_PORT:
		return DROP_VIP_PORT;
	default:
		return DROP_NO_BACKEND;
	}
}

/* Answer the packet of a frame that was read; the verdict. */
__noinline int answer_frame(struct xdp_md *ctx, const struct frame *frame, __u32 kind, __u32 value)
{
	bool refuse = kind == OPEN_REFUSE || kind == REFUSE_PORT;
	__u32 zero = 0, reason;
	struct node *self = bpf_map_lookup_elem(&node, &zero);

	if (!frame || !self || !is_answerable(ctx, frame) ||
	    (refuse && (frame->flags & FRAME_FRAGMENT ||
			(frame->proto == IPPROTO_TCP && frame->tcp_flags & TCP_RST))))
		return verdict(ctx, XDP_DROP, unsaid(kind));
	if (!may_answer(tick_of(self)))
		return verdict(ctx, XDP_DROP, DROP_ANSWER_LIMIT);
	if (refuse && frame->proto == IPPROTO_TCP) {
		if (reset(ctx, frame))
			return verdict(ctx, XDP_DROP, unsaid(kind));
		return verdict(ctx, XDP_TX, ANSWER_RST);
	}
	reason = refuse ? ANSWER_UNREACHABLE : kind;
	if (complain(ctx, frame, kind, value))
		return verdict(ctx, XDP_DROP, unsaid(kind));
	return verdict(ctx, XDP_TX, reason);
}

/* answer() itself. */
__noinline int answer_packet(struct xdp_md *ctx, __u32 kind, __u32 value)
{
	struct rare *rare = room_for(false);

	if (!rare || read_frame(ctx, &rare->frame) != FRAME_GOOD)
		return verdict(ctx, XDP_DROP, unsaid(kind));
	return answer_frame(ctx, &rare->frame, kind, value);
}

/*
 * Answer a packet, which nothing was changed of yet; the verdict. `kind`: OPEN_REFUSE, REFUSE_PORT,
 * ANSWER_TTL, or ANSWER_TOO_BIG with the MTU as `value`. The mask tells the verifier that it is a
 * verdict, and so that the caller does not go on with pointers that are void.
 */
static __always_inline int answer(struct xdp_md *ctx, __u32 kind, __u32 value)
{
	return answer_packet(ctx, kind, value) & 7;
}

#endif
