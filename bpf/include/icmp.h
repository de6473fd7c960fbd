/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: ICMP and ICMPv6. Errors about packets of translated flows are translated like
 * those packets, the packet inside included, so that whoever gets one knows what it is about (and
 * finds the path's MTU through a VIP); echo requests for VIPs of this node are answered.
 *
 * Invariants:
 * - A packet inside is believed by its flow alone: the error has to go to where that packet came
 *   from. What belongs to no flow is left as it is.
 * - Of a packet inside 8 octets of transport may be all that is there (RFC 792); a checksum that is
 *   not there is not touched. What changes inside changes the error's own checksum too.
 */
#ifndef MILLRACE_ICMP_H
#define MILLRACE_ICMP_H

#include "answers.h"
#include "turn.h"

#define ICMP_ECHO_REQUEST 8
#define ICMP_ECHO_ANSWER 0
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_ANSWER 129

/* Errors that name a packet whose flow may be ours; no redirects, which are the link's business. */
static __always_inline bool is_about_flow(__u8 version, __u8 type)
{
	if (version == 4)
		return type == ICMP_UNREACHABLE || type == ICMP_TIME || type == 12;
	return type >= 1 && type <= 4;
}

/* The transport header inside; `addrs` is what its addresses change. What it adds, < 0: failed. */
__noinline int turn_inside_l4(struct xdp_md *ctx, const struct rare *rare, __u32 addrs)
{
	const struct frame *inside;
	__u32 at, ports, change;
	__be16 old[2], now[2];
	__u16 check, mended;

	if (!rare)
		return -1;
	inside = &rare->inside;
	at = inside->l4 + check_offset(inside->proto);
	old[0] = inside->sport;
	old[1] = inside->dport;
	now[0] = rare->turn.dport;
	now[1] = rare->turn.sport;
	if (put(ctx, inside->l4, now, sizeof(now)))
		return -1;
	ports = csum_delta16(old[0], now[0]) + csum_delta16(old[1], now[1]);
	if (inside->proto == IPPROTO_SCTP) {
		__u8 crc[4], made[4];

		if (inside->flags & FRAME_FRAGMENT || at + sizeof(crc) > inside->end ||
		    take(ctx, at, crc, sizeof(crc)))
			return ports;
		change = crc32c_delta(little_endian((void *)old) ^ little_endian((void *)now),
				      inside->l3 + inside->total - inside->l4);
		made[0] = crc[0] ^ change;
		made[1] = crc[1] ^ change >> 8;
		made[2] = crc[2] ^ change >> 16;
		made[3] = crc[3] ^ change >> 24;
		if (put(ctx, at, made, sizeof(made)))
			return -1;
		return ports + csum_delta32(*(__u32 *)crc, *(__u32 *)made);
	}
	if (at + sizeof(check) > inside->end || take(ctx, at, &check, sizeof(check)))
		return ports;
	if (!check && inside->proto == IPPROTO_UDP)
		return ports;
	mended = csum_apply(check, csum_fold(addrs + ports));
	if (!mended)
		mended = 0xffff;
	if (put(ctx, at, &mended, sizeof(mended)))
		return -1;
	return ports + csum_delta16(check, mended);
}

/*
 * Put the packet inside back to what the side sent that the error goes to: its source is where
 * the turn leads, its destination what the turn shows. What it adds to the error's sum; < 0:
 * failed.
 */
__noinline int turn_inside(struct xdp_md *ctx, const struct rare *rare)
{
	const struct frame *inside;
	const struct turn *turn;
	__u32 addrs;
	int l4;

	if (!rare)
		return -1;
	inside = &rare->inside;
	turn = &rare->turn;
	addrs = csum_fold(csum_delta_address(&inside->saddr, &turn->daddr) +
			  csum_delta_address(&inside->daddr, &turn->saddr));
	l4 = turn_inside_l4(ctx, rare, addrs);
	if (l4 < 0)
		return -1;
	if (inside->version == 4) {
		struct {
			__u16 check;
			__be16 addrs[4];
		} ip;
		__u16 old;

		if (take(ctx, inside->l3 + 10, &ip, sizeof(ip)))
			return -1;
		old = ip.check;
		ip.check = csum_apply(old, addrs);
		__builtin_memcpy(ip.addrs, &turn->daddr.words[3], 4);
		__builtin_memcpy(ip.addrs + 2, &turn->saddr.words[3], 4);
		if (put(ctx, inside->l3 + 10, &ip, sizeof(ip)))
			return -1;
		return l4 + addrs + csum_delta16(old, ip.check);
	}
	if (put(ctx, inside->l3 + 8, (void *)&turn->daddr, sizeof(union address)) ||
	    put(ctx, inside->l3 + 24, (void *)&turn->saddr, sizeof(union address)))
		return -1;
	return l4 + addrs;
}

/*
 * Whether the packet inside is of a flow: then rare->turn is the one of a packet in its place. No
 * call of its own: below this is the deepest chain of them, and each has 32 octets of stack on
 * kernel 6.1.
 */
static __always_inline int is_of_flow(struct xdp_md *ctx, struct rare *rare)
{
	struct frame *frame, *inside;

	if (!rare)
		return 0;
	frame = &rare->frame;
	inside = &rare->inside;
	__builtin_memset(inside, 0, sizeof(*inside));
	inside->version = frame->version;
	inside->l3 = frame->l4 + ICMP_SIZE;
	inside->end = frame->end;
	inside->flags = FRAME_CUT;
	if (read_ip(ctx, inside) != FRAME_GOOD || inside->fragment || !has_transport(inside) ||
	    !same_address(&frame->daddr, &inside->saddr))
		return 0;
	rare->turn.reply = 0;
	if (find_turn(rare, 1))
		return 1;
	rare->turn.reply = 1;
	return find_turn(rare, 1);
}

/* An error; `frame` is good. NOT_SERVED: about no flow of ours. */
__noinline int icmp_error(struct xdp_md *ctx, struct rare *rare)
{
	struct frame *frame;
	struct turn *turn;
	union address source;
	__u32 reason, delta;
	__u16 check;
	int inside;

	if (!rare || !is_of_flow(ctx, rare))
		return NOT_SERVED;
	frame = &rare->frame;
	turn = &rare->turn;
	if (frame->ttl <= 1)
		return verdict(ctx, XDP_DROP, DROP_VIP_TTL);
	reason = turn->inner ? SVC_ICMP_ERROR : UPLINK_ICMP_ERROR;
	if (turn->flags & FLOW_DSR)
		return leave(ctx, frame, turn, reason);
	inside = turn_inside(ctx, rare);
	if (inside < 0 || take(ctx, frame->l4 + 2, &check, sizeof(check)))
		return verdict(ctx, XDP_DROP, turn->inner ? DROP_SVC_MALFORMED :
							     DROP_VIP_MALFORMED);
	/* What a backend says itself is said by its VIP; a router in between has its own name. */
	source = frame->saddr;
	if (turn->reply && same_address(&frame->saddr, &rare->inside.daddr))
		source = turn->saddr;
	delta = inside;
	if (frame->version == 6)
		delta += csum_delta_address(&frame->saddr, &source) +
			 csum_delta_address(&frame->daddr, &turn->daddr);
	check = csum_apply(check, csum_fold(delta));
	turn->saddr = source;
	turn->ttl = frame->ttl - 1;
	if (put(ctx, frame->l4 + 2, &check, sizeof(check)) || rewrite(ctx, frame, turn))
		return verdict(ctx, XDP_DROP, turn->inner ? DROP_SVC_MALFORMED :
							     DROP_VIP_MALFORMED);
	return leave(ctx, frame, turn, reason);
}

/* An echo request for an address that this node has for a VIP. NOT_SERVED: for another. */
__noinline int echo(struct xdp_md *ctx, struct rare *rare)
{
	__u32 zero = 0, size;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct frame *frame;
	__u8 link[24], type;
	__u16 check;

	if (!rare || !self)
		return NOT_SERVED;
	frame = &rare->frame;
	if (!(known_as(&frame->daddr) & ADDRESS_OWNED) || !is_answerable(ctx, frame) ||
	    frame->flags & FRAME_FRAGMENT)
		return NOT_SERVED;
	size = frame->l3;
	if (take(ctx, frame->l4 + 2, &check, sizeof(check)) || swap_link(ctx, self, size, link))
		return NOT_SERVED;
	type = frame->version == 4 ? ICMP_ECHO_ANSWER : ICMP6_ECHO_ANSWER;
	check = csum_apply(check, csum_fold(frame->version == 4 ?
					    csum_delta16(bpf_htons(ICMP_ECHO_REQUEST << 8), 0) :
					    csum_delta16(bpf_htons(ICMP6_ECHO_REQUEST << 8),
							 bpf_htons(ICMP6_ECHO_ANSWER << 8))));
	rare->turn.saddr = frame->daddr;
	rare->turn.daddr = frame->saddr;
	rare->turn.ttl = ANSWER_HOPS;
	if (put(ctx, frame->l4, &type, 1) || put(ctx, frame->l4 + 2, &check, sizeof(check)) ||
	    rewrite(ctx, frame, &rare->turn) || put(ctx, 0, link, size))
		return verdict(ctx, XDP_DROP, DROP_VIP_MALFORMED);
	return verdict(ctx, XDP_TX, ANSWER_ECHO);
}

/* ICMP of either family, no later fragment; `frame` is good. NOT_SERVED: somebody else's. */
static __always_inline int icmp(struct xdp_md *ctx, struct rare *rare)
{
	struct frame *frame = &rare->frame;
	__u8 type;

	/* Eight octets are what every one of them has that is looked at here. */
	if (frame->l4 + ICMP_SIZE > frame->end || take(ctx, frame->l4, &type, 1))
		return NOT_SERVED;
	if (is_about_flow(frame->version, type) && !(frame->flags & FRAME_FRAGMENT))
		return icmp_error(ctx, rare);
	if (type == (frame->version == 4 ? ICMP_ECHO_REQUEST : ICMP6_ECHO_REQUEST))
		return echo(ctx, rare);
	return NOT_SERVED;
}

#endif
