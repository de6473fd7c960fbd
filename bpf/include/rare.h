/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the order in which a packet is looked at that is no plain TCP or UDP packet:
 * with tags, options, extension headers, in fragments, SCTP, ICMP, ARP, or broken. The same table
 * as the programs' own, read by offsets (frame.h) in global functions, so that each is verified
 * once and the hot path pays a call and nothing more.
 *
 * Invariant: what is not translated or answered leaves as it came, tags included.
 */
#ifndef MILLRACE_RARE_H
#define MILLRACE_RARE_H

#include "answers.h"
#include "flows.h"
#include "fragments.h"
#include "icmp.h"
#include "neighbours.h"
#include "turn.h"
#include "verdict.h"

#define OPEN_WANTED (-2)	/* in place of a verdict: the packet is its flow's first */

static __always_inline bool may_be_served(const struct frame *frame)
{
	if (frame->version == 4)
		return may_be_vip(whole4(frame->daddr.words[3]), frame->dport, frame->proto);
	return may_be_vip(fold6(frame->daddr.halves), frame->dport, frame->proto);
}

static __always_inline bool is_served(const struct frame *frame)
{
	struct vip_key key = { .port = frame->dport, .proto = frame->proto };

	__builtin_memcpy(key.addr, &frame->daddr, sizeof(key.addr));
	return bpf_map_lookup_elem(&vips, &key);
}

static __always_inline bool is_service_address(const struct node *self, const struct frame *frame)
{
	if (frame->version == 4)
		return self->flags & NODE_VALID4 && frame->daddr.words[3] == self->service_addr4;
	return self->flags & NODE_VALID6 && same16(&frame->daddr, self->service_addr6);
}

/* enum address_flag of where the packet goes; this node's first IPv4 addresses are in `node`. */
static __always_inline __u32 destination(const struct node *self, const struct frame *frame)
{
	__u32 known = known_as(&frame->daddr), i;

	if (frame->version == 4)
		for (i = 0; i < LOCAL4_INLINE; i++)
			if (self->local4[i] && self->local4[i] == frame->daddr.words[3])
				known |= ADDRESS_LOCAL;
	return known;
}

/* A packet whose flow is known (rare->turn): answered, or rewritten and sent. */
__noinline int carry(struct xdp_md *ctx, struct rare *rare)
{
	__u32 zero = 0, reason;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct frame *frame;
	struct turn *turn;

	if (!rare || !self)
		return verdict(ctx, XDP_DROP, DROP_NO_GATEWAY);
	frame = &rare->frame;
	turn = &rare->turn;
	if (frame->proto == IPPROTO_SCTP && frame->flags & FRAME_FRAGMENT &&
	    !(turn->flags & FLOW_DSR))
		return verdict(ctx, XDP_DROP, turn->inner ? DROP_SVC_FRAGMENT : DROP_VIP_FRAGMENT);
	if (frame->ttl <= 1)
		return answer_frame(ctx, frame, ANSWER_TTL, 0);
	if (!turn->reply && turn->mtu && frame->total > turn->mtu && !(turn->flags & FLOW_DSR))
		return answer_frame(ctx, frame, ANSWER_TOO_BIG, turn->mtu);
	learn(rare, tick_of(self));
	if (frame->flags & FRAME_FRAGMENT && !frame->fragment)
		remember_fragment(frame, turn, tick_of(self));
	turn->ttl = frame->ttl - 1;
	if (!(turn->flags & FLOW_DSR) && rewrite(ctx, frame, turn))
		return verdict(ctx, XDP_DROP, turn->inner ? DROP_SVC_MALFORMED :
							     DROP_VIP_MALFORMED);
	if (frame->fragment)
		reason = turn->inner ? SVC_FRAGMENT : VIP_FRAGMENT;
	else if (turn->reply)
		reason = turn->inner ? SVC_REPLY : UPLINK_REPLY;
	else if (turn->flags & FLOW_DSR)
		reason = VIP_DIRECT;
	else if (turn->fresh)
		reason = turn->inner ? SVC_NEW : VIP_NEW;
	else
		reason = turn->inner ? SVC_FORWARD : VIP_FORWARD;
	return leave(ctx, frame, turn, reason);
}

/* The opening of a flow by its first packet, for choose(). */
static __always_inline int prepare_opening(const struct node *self, const struct rare *rare)
{
	const struct frame *frame = &rare->frame;
	__u32 zero = 0;
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);
	struct opening *o;

	if (!held)
		return NOT_SERVED;
	o = &held->opening;
	__builtin_memset(o, 0, sizeof(*o));
	__builtin_memcpy(o->key.addr, &frame->daddr, sizeof(o->key.addr));
	__builtin_memcpy(o->client, &frame->saddr, sizeof(o->client));
	o->key.port = frame->dport;
	o->key.proto = frame->proto;
	o->tick = tick_of(self);
	o->client_port = frame->sport;
	o->family = frame->version;
	o->inner = rare->turn.inner;
	o->tcp_flags = frame->proto == IPPROTO_TCP ? frame->tcp_flags : 0;
	o->ifindex = rare->ifindex;
	copy_mac(o->source_mac, frame->macs.source);
	copy_mac(o->dest_mac, frame->macs.dest);
	o->vlan[0] = frame->vlan[0];
	o->vlan[1] = frame->vlan[1];
	return OPEN_WANTED;
}

/*
 * A packet with ports. At the uplink only svc0's address gets replies; nothing else does there, so
 * the order is the same for both programs. A verdict, NOT_SERVED or OPEN_WANTED.
 */
__noinline int look_at_ports(struct xdp_md *ctx, struct rare *rare)
{
	__u32 zero = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	bool ours;

	if (!rare || !self)
		return NOT_SERVED;
	ours = is_service_address(self, &rare->frame);
	if (ours || rare->turn.inner) {
		rare->turn.reply = 1;
		if (find_turn(rare, 0))
			return carry(ctx, rare);
	}
	if (ours || !may_be_served(&rare->frame))
		return NOT_SERVED;
	rare->turn.reply = 0;
	if (find_turn(rare, 0))
		return carry(ctx, rare);
	return prepare_opening(self, rare);
}

/* A packet of any kind: a verdict, NOT_SERVED or OPEN_WANTED. */
__noinline int look(struct xdp_md *ctx, __u32 inner)
{
	struct rare *rare = room_for(inner);
	struct frame *frame;

	if (!rare)
		return NOT_SERVED;
	frame = &rare->frame;
	rare->ifindex = ctx->ingress_ifindex;
	rare->found = read_frame(ctx, frame);
	if (rare->found != FRAME_GOOD)
		return NOT_SERVED;
	if (frame->fragment)
		return recall_fragment(rare) ? carry(ctx, rare) : NOT_SERVED;
	if (has_transport(frame))
		return look_at_ports(ctx, rare);
	if (frame->proto == (frame->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return icmp(ctx, rare);
	return NOT_SERVED;
}

/* The flow that was wanted is there, or `failed` says why not. */
__noinline int after_opening(struct xdp_md *ctx, __u32 failed)
{
	__u32 zero = 0;
	struct rare *rare = bpf_map_lookup_elem(&rare_room, &zero);

	if (failed == NOT_A_VIP)
		return NOT_SERVED;
	if (!rare)
		return verdict(ctx, XDP_DROP, DROP_CT_FULL);
	if (failed == OPEN_REFUSE)
		return answer_frame(ctx, &rare->frame, OPEN_REFUSE, 0);
	if (failed)
		return verdict(ctx, XDP_DROP, failed);
	if (!find_turn(rare, 0))
		return verdict(ctx, XDP_DROP, DROP_CT_FULL);
	rare->turn.fresh = 1;
	return carry(ctx, rare);
}

static __always_inline __u32 open_wanted(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);

	return held && held->opening.family == 4 ? open4(ctx) : open6(ctx);
}

static __always_inline bool is_only_vip(__u32 known)
{
	return (known & (ADDRESS_VIP | ADDRESS_LOCAL)) == ADDRESS_VIP;
}

/* An IP packet of no flow and no service, at the uplink. */
static __always_inline int uplink_ip(struct xdp_md *ctx, const struct node *self,
				     const struct rare *rare)
{
	const struct frame *frame = &rare->frame;
	__u32 known = destination(self, frame);
	bool ours = known & ADDRESS_LOCAL && !frame->tags;

	if (rare->found == FRAME_DARK && is_only_vip(known))
		return verdict(ctx, XDP_DROP, DROP_EXTENSION);
	if (frame->fragment && (is_only_vip(known) || is_service_address(self, frame)))
		return verdict(ctx, XDP_DROP, DROP_FRAGMENT_MISS);
	if (!frame->fragment && has_transport(frame) && is_only_vip(known))
		return answer_frame(ctx, frame, REFUSE_PORT, 0);
	if (frame->tags)
		return verdict(ctx, TO_OVS(ctx), XSK_VLAN);
	if (ours)
		return verdict(ctx, XDP_PASS, frame->version == 4 ? PASS_IPV4 : PASS_IPV6);
	return verdict(ctx, TO_OVS(ctx), frame->version == 4 ? XSK_IPV4 : XSK_IPV6);
}

/* A packet of no service, at the uplink: whose is it? */
__noinline int uplink_rest(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct rare *rare = bpf_map_lookup_elem(&rare_room, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct frame *frame;
	int done;

	if (!rare || !self)
		return verdict(ctx, TO_OVS(ctx), XSK_OTHER);
	frame = &rare->frame;
	if (rare->found == FRAME_SHORT) {
		if (frame->dport && may_be_served(frame) && is_served(frame))
			return verdict(ctx, XDP_DROP, DROP_VIP_MALFORMED);
		return verdict(ctx, TO_OVS(ctx), frame->tags ? XSK_VLAN : XSK_MALFORMED);
	}
	if (rare->found != FRAME_FOREIGN) {
		if (frame->version == 6 && frame->proto == IPPROTO_ICMPV6) {
			done = nd_question(ctx, frame);
			if (done != NOT_SERVED)
				return done;
		}
		return uplink_ip(ctx, self, rare);
	}
	if (frame->type == bpf_htons(ETH_P_ARP))
		return arp_question(ctx, frame->l3);
	if (frame->tags)
		return verdict(ctx, TO_OVS(ctx), XSK_VLAN);
	if (frame->type == bpf_htons(ETH_P_LLDP))
		return verdict(ctx, XDP_PASS, PASS_LLDP);
	return verdict(ctx, TO_OVS(ctx), XSK_OTHER);
}

static __always_inline bool is_nd(struct xdp_md *ctx, const struct frame *frame)
{
	__u8 type;

	return frame->version == 6 && frame->proto == IPPROTO_ICMPV6 && frame->ttl == ND_HOPS &&
	       frame->l4 < frame->end && !take(ctx, frame->l4, &type, 1) &&
	       (type == ND_NEIGHBOUR_SOLICITATION || type == ND_ADVERTISEMENT);
}

/* An IP packet of no flow and no service, at svc0; NOT_SERVED: it is for somebody else. */
static __always_inline int svc_ip(struct xdp_md *ctx, const struct node *self,
				  const struct rare *rare)
{
	const struct frame *frame = &rare->frame;
	bool ours = is_service_address(self, frame);
	bool vip = known_as(&frame->daddr) & ADDRESS_VIP;

	if (rare->found == FRAME_DARK)
		return ours || vip ? verdict(ctx, XDP_DROP, DROP_EXTENSION) : NOT_SERVED;
	if (frame->fragment)
		return ours || vip ? verdict(ctx, XDP_DROP, DROP_FRAGMENT_MISS) : NOT_SERVED;
	if (is_nd(ctx, frame))
		return verdict(ctx, XDP_PASS, SVC_PASS_ND);
	if (ours) {
		if (frame->proto == (frame->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
			return verdict(ctx, XDP_PASS, SVC_PASS_ICMP);
		return verdict(ctx, XDP_DROP, DROP_SVC_NO_FLOW);
	}
	if (has_transport(frame) && vip)
		return answer_frame(ctx, frame, REFUSE_PORT, 0);
	return NOT_SERVED;
}

/* The same at svc0: what is nobody's here goes out as it is. */
__noinline int svc_rest(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct rare *rare = bpf_map_lookup_elem(&rare_room, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct frame *frame;
	int done;

	if (!rare || !self)
		return verdict(ctx, XDP_DROP, DROP_NO_GATEWAY);
	frame = &rare->frame;
	if (rare->found == FRAME_SHORT)
		return verdict(ctx, XDP_DROP, DROP_SVC_MALFORMED);
	if (rare->found != FRAME_FOREIGN) {
		done = svc_ip(ctx, self, rare);
		if (done != NOT_SERVED)
			return done;
	} else if (frame->type == bpf_htons(ETH_P_ARP)) {
		return verdict(ctx, XDP_PASS, SVC_PASS_ARP);
	}
	if (frame->flags & FRAME_LINK_GROUP)
		return verdict(ctx, XDP_DROP, DROP_SVC_MULTICAST);
	if (!(self->flags & (NODE_VALID4 | NODE_VALID6)))
		return verdict(ctx, XDP_DROP, DROP_NO_GATEWAY);
	if (bpf_redirect_map(&tx_ports, self->uplink_ifindex, XDP_DROP) != XDP_REDIRECT)
		return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
	return verdict(ctx, XDP_REDIRECT, SVC_UPLINK);
}

/* A packet at the uplink that the hot path does not know; the verdict. */
__noinline int rare_uplink(struct xdp_md *ctx)
{
	int done = look(ctx, false);

	if (done == OPEN_WANTED)
		done = after_opening(ctx, open_wanted(ctx));
	return done == NOT_SERVED ? uplink_rest(ctx) : done;
}

/* The same at svc0. */
__noinline int rare_svc(struct xdp_md *ctx)
{
	int done = look(ctx, true);

	if (done == OPEN_WANTED)
		done = after_opening(ctx, open_wanted(ctx));
	return done == NOT_SERVED ? svc_rest(ctx) : done;
}

#endif
