/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: what a known flow makes of a packet of any shape, either family and either
 * direction (struct turn), and the rewrite by it. It is what the hot path does with pointers and
 * deltas that are ready, done by offsets for packets that are rare.
 *
 * Invariants:
 * - A turn is taken from a record and the record's life looked at again behind it, so it is one
 *   flow's, or none.
 * - rewrite() is only for what read_frame() called good: then none of its loads and stores fails,
 *   and a packet is never half rewritten.
 * - The room for all this is one per CPU, as flows.h's, not the stack: a call chain has 512 octets.
 */
#ifndef MILLRACE_TURN_H
#define MILLRACE_TURN_H

#include "ct.h"
#include "flows.h"
#include "frame.h"
#include "rewrite.h"
#include "sctp.h"
#include "verdict.h"
#include "vlan.h"

struct turn {
	union address saddr;	/* what the packet's addresses and ports become */
	union address daddr;
	__be16 sport;
	__be16 dport;
	__u32 id;		/* of the record */
	__u32 life;
	__u32 service_id;
	__u16 mtu;
	__u16 ifindex;
	__be16 vlan[2];
	__u8 client_mac[ETH_ALEN];
	__u8 vip_mac[ETH_ALEN];
	__u8 flags;		/* enum flow_flag */
	__u8 reply;		/* the packet is a backend's */
	__u8 inner;		/* it came in by svc0 */
	__u8 fresh;		/* it is its flow's first */
	__u8 ttl;		/* what it becomes */
};

/* One rare packet's room; a first packet's opening has its own (flows.h). */
struct rare {
	struct frame frame;
	struct frame inside;	/* the packet that an ICMP error is about */
	struct turn turn;
	int found;		/* what read_frame() says */
	__u32 ifindex;		/* where it came in */
};

/* By nothing; each CPU's own. Never a miss. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rare);
} rare_room SEC(".maps");

static __always_inline struct rare *room_for(bool inner)
{
	__u32 zero = 0;
	struct rare *rare = bpf_map_lookup_elem(&rare_room, &zero);

	if (rare) {
		__builtin_memset(&rare->frame, 0, sizeof(rare->frame));
		rare->turn.inner = inner;
		rare->turn.reply = 0;
		rare->turn.fresh = 0;
	}
	return rare;
}

__noinline __u32 csum_delta_address(const union address *from, const union address *to)
{
	__u32 sum = 0, i;

	if (!from || !to)
		return 0;
	for (i = 0; i < 4; i++)
		sum += csum_delta32(from->words[i], to->words[i]);
	return sum;
}

#define TURN_OF(turn, flow)							\
	do {									\
		(turn)->sport = (turn)->reply ? (flow)->vip_port : (flow)->source_port;	\
		(turn)->dport = (turn)->reply ? (flow)->client_port : (flow)->backend_port; \
		(turn)->service_id = (flow)->service_id;			\
		(turn)->mtu = (flow)->mtu;					\
		(turn)->ifindex = (flow)->ifindex;				\
		(turn)->flags = (flow)->flags;					\
		(turn)->vlan[0] = (flow)->vlan[0];				\
		(turn)->vlan[1] = (flow)->vlan[1];				\
		__builtin_memcpy((turn)->client_mac, (flow)->client_mac, ETH_ALEN); \
		__builtin_memcpy((turn)->vip_mac, (flow)->vip_mac, ETH_ALEN);	\
	} while (0)

/* Fill a turn, `reply` set, from a record; false if it is not the flow any more that it was. */
static __always_inline bool turn_by4(struct turn *turn, struct flow4 *flow)
{
	struct flow4 *base = ct4_at(0);

	turn->life = *(volatile __u32 *)&flow->life;
	map_ipv4(&turn->saddr, turn->reply ? flow->vip : flow->source);
	map_ipv4(&turn->daddr, turn->reply ? flow->client : flow->backend);
	TURN_OF(turn, flow);
	/* A record's number is not kept in it; where it lies in the array says it. */
	turn->id = base ? ((void *)flow - (void *)base) / sizeof(*flow) : 0;
	barrier();
	return (turn->life & 1) && *(volatile __u32 *)&flow->life == turn->life;
}

static __always_inline bool turn_by6(struct turn *turn, struct flow6 *flow)
{
	struct flow6 *base = ct6_at(0);

	turn->life = *(volatile __u32 *)&flow->life;
	__builtin_memcpy(&turn->saddr, turn->reply ? flow->vip : flow->source, 16);
	__builtin_memcpy(&turn->daddr, turn->reply ? flow->client : flow->backend, 16);
	TURN_OF(turn, flow);
	turn->id = base ? ((void *)flow - (void *)base) / sizeof(*flow) : 0;
	barrier();
	return (turn->life & 1) && *(volatile __u32 *)&flow->life == turn->life;
}

/* The next state, by protocol; the same for both families. */
static __always_inline __u8 next_state(const struct frame *frame, __u8 state, __u8 *flags,
				       bool reply)
{
	if (frame->proto == IPPROTO_TCP)
		return tcp_next(state, flags, frame->tcp_flags, reply);
	if (frame->proto == IPPROTO_SCTP)
		return sctp_state(state, frame->tcp_flags, reply);
	return udp_next(state, reply);
}

/* A first packet on a tuple whose flow is over in all but time. */
static __always_inline bool is_anew(const struct frame *frame, __u8 state)
{
	if (frame->proto == IPPROTO_SCTP)
		return frame->tcp_flags == SCTP_INIT && state == CT_SCTP_SHUTDOWN;
	return frame->proto == IPPROTO_TCP && begins_anew(state, frame->tcp_flags);
}

/* A packet of the flow was seen; a client's says by where the client is reached now. */
#define SEE(flow, frame, turn, now, in)						\
	do {									\
		__u8 flags_ = (flow)->flags;					\
		__u8 state_ = next_state(frame, (flow)->state, &flags_, (turn)->reply);	\
										\
		if ((flow)->seen != (now)) {					\
			(flow)->seen = (now);					\
			if (!(turn)->reply && !(turn)->inner && !(flags_ & FLOW_DSR)) {	\
				copy_mac((flow)->client_mac, (frame)->macs.source); \
				copy_mac((flow)->vip_mac, (frame)->macs.dest);	\
				(flow)->vlan[0] = (frame)->vlan[0];		\
				(flow)->vlan[1] = (frame)->vlan[1];		\
				(flow)->ifindex = (in);				\
			}							\
		}								\
		if ((flow)->state != state_)					\
			(flow)->state = state_;					\
		if ((flow)->flags != flags_)					\
			(flow)->flags = flags_;					\
	} while (0)

static __always_inline void frame_tuple4(const struct frame *frame, struct tuple4 *tuple)
{
	tuple->saddr = frame->saddr.words[3];
	tuple->daddr = frame->daddr.words[3];
	tuple->sport = frame->sport;
	tuple->dport = frame->dport;
	tuple->proto = frame->proto;
}

static __always_inline void frame_tuple6(const struct frame *frame, struct tuple6 *tuple)
{
	__builtin_memcpy(tuple->saddr, &frame->saddr, 16);
	__builtin_memcpy(tuple->daddr, &frame->daddr, 16);
	tuple->sport = frame->sport;
	tuple->dport = frame->dport;
	tuple->proto = frame->proto;
}

/* The packet inside an error went the other way: its ends are the flow's, seen from behind. */
static __always_inline void inside_tuple4(const struct frame *frame, struct tuple4 *tuple)
{
	tuple->saddr = frame->daddr.words[3];
	tuple->daddr = frame->saddr.words[3];
	tuple->sport = frame->dport;
	tuple->dport = frame->sport;
	tuple->proto = frame->proto;
}

static __always_inline void inside_tuple6(const struct frame *frame, struct tuple6 *tuple)
{
	__builtin_memcpy(tuple->saddr, &frame->daddr, 16);
	__builtin_memcpy(tuple->daddr, &frame->saddr, 16);
	tuple->sport = frame->dport;
	tuple->dport = frame->sport;
	tuple->proto = frame->proto;
}

/*
 * The living flow of a client's (turn.reply 0) or a backend's packet, into rare->turn: 1 if there
 * is one. The flow ends if this is the first of another. `of_inside`: the flow that rare->inside
 * came back from.
 */
__noinline int find_turn4(struct rare *rare, __u32 of_inside)
{
	__u32 zero = 0, tick, life = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct tuple4 tuple;
	struct flow4 *flow;

	if (!rare || !self)
		return 0;
	frame_tuple4(&rare->frame, &tuple);
	if (of_inside)
		inside_tuple4(&rare->inside, &tuple);
	flow = rare->turn.reply ? ct4_find_living_reply(self, &tuple, &life) :
				  ct4_find_living(self, &tuple, &life);
	tick = tick_of(self);
	if (!flow || !ct4_alive(flow, self, tick))
		return 0;
	if (!of_inside && !rare->turn.reply && is_anew(&rare->frame, flow->state)) {
		ct4_end(flow, life);
		return 0;
	}
	if (!turn_by4(&rare->turn, flow) || rare->turn.life != life)
		return 0;
	return 1;
}

__noinline int find_turn6(struct rare *rare, __u32 of_inside)
{
	__u32 zero = 0, tick, life = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct tuple6 *tuple;
	struct flow6 *flow;

	if (!rare || !self || !work)
		return 0;
	tuple = &work->ct6_mine;	/* the stack has no room for it */
	frame_tuple6(&rare->frame, tuple);
	if (of_inside)
		inside_tuple6(&rare->inside, tuple);
	flow = rare->turn.reply ? ct6_find_living_reply(self, tuple, &life) :
				  ct6_find_living(self, tuple, &life);
	tick = tick_of(self);
	if (!flow || !ct6_alive(flow, self, tick))
		return 0;
	if (!of_inside && !rare->turn.reply && is_anew(&rare->frame, flow->state)) {
		ct6_end(flow, life);
		return 0;
	}
	if (!turn_by6(&rare->turn, flow) || rare->turn.life != life)
		return 0;
	return 1;
}

static __always_inline int find_turn(struct rare *rare, __u32 of_inside)
{
	return rare->frame.version == 4 ? find_turn4(rare, of_inside) :
					  find_turn6(rare, of_inside);
}

/* The turn of record `id`, if it has this life still, and its time is not over. */
__noinline int turn_of_record(struct rare *rare, __u32 id, __u32 life)
{
	__u32 zero = 0, tick;
	struct node *self = bpf_map_lookup_elem(&node, &zero);

	if (!rare || !self)
		return 0;
	tick = tick_of(self);
	if (rare->frame.version == 4) {
		struct flow4 *flow = ct4_at(id);

		return flow && ct4_alive(flow, self, tick) && turn_by4(&rare->turn, flow) &&
		       rare->turn.life == life;
	} else {
		struct flow6 *flow = ct6_at(id);

		return flow && ct6_alive(flow, self, tick) && turn_by6(&rare->turn, flow) &&
		       rare->turn.life == life;
	}
}

/*
 * A flow learns of a packet that goes its way, and of none that is answered or dropped: that would
 * keep alive, or end, what nobody hears of. A later fragment says nothing but that it is there.
 */
__noinline int learn(struct rare *rare, __u32 tick)
{
	if (!rare)
		return 0;
	if (rare->frame.version == 4) {
		struct flow4 *flow = ct4_at(rare->turn.id);

		if (!flow || flow->life != rare->turn.life)
			return 0;
		if (rare->frame.fragment)
			flow->seen = tick;
		else
			SEE(flow, &rare->frame, &rare->turn, tick, rare->ifindex);
	} else {
		struct flow6 *flow = ct6_at(rare->turn.id);

		if (!flow || flow->life != rare->turn.life)
			return 0;
		if (rare->frame.fragment)
			flow->seen = tick;
		else
			SEE(flow, &rare->frame, &rare->turn, tick, rare->ifindex);
	}
	return 1;
}

/*
 * Addresses, ports, TTL and checksums as the turn says; of a later fragment and of ICMP only what
 * IP has. An SCTP fragment is not for us: its checksum is over octets that are elsewhere.
 */
__noinline int rewrite(struct xdp_md *ctx, const struct frame *frame, const struct turn *turn)
{
	struct {
		__u8 ttl;
		__u8 proto;
		__u16 check;
		__be32 addrs[2];
	} ip;
	__be16 old[2], now[2];
	__u32 addrs, at;
	__u16 check;

	if (!frame || !turn)
		return -1;
	addrs = csum_delta_address(&frame->saddr, &turn->saddr) +
		csum_delta_address(&frame->daddr, &turn->daddr);
	if (frame->version == 4) {
		if (take(ctx, frame->l3 + 8, &ip, sizeof(ip)))
			return -1;
		ip.check = csum_apply(ip.check,
				      csum_fold(addrs + (__u16)~bpf_htons(frame->ttl << 8) +
						bpf_htons(turn->ttl << 8)));
		ip.ttl = turn->ttl;
		ip.addrs[0] = turn->saddr.words[3];
		ip.addrs[1] = turn->daddr.words[3];
		if (put(ctx, frame->l3 + 8, &ip, sizeof(ip)))
			return -1;
	} else if (put(ctx, frame->l3 + 7, (void *)&turn->ttl, 1) ||
		   put(ctx, frame->l3 + 8, (void *)&turn->saddr, 2 * sizeof(union address))) {
		return -1;
	}
	if (frame->fragment || !has_transport(frame))
		return 0;
	old[0] = frame->sport;
	old[1] = frame->dport;
	now[0] = turn->sport;
	now[1] = turn->dport;
	if (put(ctx, frame->l4, now, sizeof(now)))
		return -1;
	if (frame->proto == IPPROTO_SCTP)
		return sctp_mend(ctx, frame->l4, old, now, frame->end - frame->l4);
	at = frame->l4 + check_offset(frame->proto);
	if (take(ctx, at, &check, sizeof(check)))
		return -1;
	/* None stays none; IPv6 knows no such thing, but it is not for us to judge. */
	if (!check && frame->proto == IPPROTO_UDP)
		return 0;
	check = csum_apply(check, csum_fold(addrs + csum_delta16(old[0], now[0]) +
					    csum_delta16(old[1], now[1])));
	if (!check)
		check = 0xffff;
	return put(ctx, at, &check, sizeof(check));
}

static __always_inline void count_turn(struct xdp_md *ctx, const struct turn *turn)
{
	enum traffic_way way = turn->reply ? TRAFFIC_REPLY : TRAFFIC_FORWARD;

	count_traffic(turn->service_id, way, frame_size(ctx));
}

static const __be16 no_tags[2];

/* A packet that was rewritten leaves by the way of its turn. Tags are popped or pushed here. */
__noinline int leave(struct xdp_md *ctx, const struct frame *frame, const struct turn *turn,
		     __u32 reason)
{
	__u32 zero = 0, ifindex;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct macs macs;

	if (!frame || !turn || !self)
		return verdict(ctx, XDP_DROP, DROP_NO_GATEWAY);
	macs = frame->macs;
	if (reason != UPLINK_ICMP_ERROR && reason != SVC_ICMP_ERROR)
		count_turn(ctx, turn);
	if (turn->flags & FLOW_DSR) {
		copy_mac(macs.dest, turn->vip_mac);
		copy_mac(macs.source, self->uplink_mac);
		put(ctx, 0, &macs, sizeof(macs));
		return verdict(ctx, XDP_TX, reason);
	}
	if (!turn->reply && turn->flags & FLOW_HOST) {
		if (turn->flags & FLOW_HANDED)
			copy_mac(macs.dest, self->uplink_mac);
		if (retag(ctx, &macs, frame->tags, no_tags))
			return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
		return verdict(ctx, XDP_PASS, reason);
	}
	if (!turn->reply || turn->flags & FLOW_INNER) {
		/* Into OVN. The source stays, so that br-ex learns nothing wrong, but at svc0. */
		copy_mac(macs.dest, self->gateway_mac);
		if (turn->inner)
			copy_mac(macs.source, self->service_mac);
		if (retag(ctx, &macs, frame->tags, no_tags))
			return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
		return verdict(ctx, turn->inner ? XDP_TX : TO_OVS(ctx), reason);
	}
	if (!(turn->flags & FLOW_HANDED)) {
		copy_mac(macs.dest, turn->client_mac);
		copy_mac(macs.source, turn->vip_mac);
	}
	if (retag(ctx, &macs, frame->tags, turn->vlan))
		return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
	ifindex = turn->ifindex;
	if (ifindex == ctx->ingress_ifindex)
		return verdict(ctx, XDP_TX, reason);
	if (bpf_redirect_map(&tx_ports, ifindex, XDP_DROP) != XDP_REDIRECT)
		return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
	return verdict(ctx, XDP_REDIRECT, reason);
}

#endif
