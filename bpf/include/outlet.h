/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: replies that leave OVS by svc0-out, a macvlan on the service uplink, and so meet
 * the uplink's egress hook (docs/decisions/0036). A plain one is reversed as svc0's program would do
 * it, and goes on: no second device is polled for it. All that is not plain is handed over to svc0's
 * program, by the way that it would have come there otherwise.
 *
 * Invariant: nothing that came with svc0's MAC for its destination leaves the node with it.
 */
#ifndef MILLRACE_OUTLET_H
#define MILLRACE_OUTLET_H

#include <linux/pkt_cls.h>

#include "maps.h"
#include "reversal.h"

#define OUTLET_TAG 1	/* of no meaning: it is taken off again */

/*
 * bpf_redirect drops a frame whose network header was never set, as AF_XDP leaves it (core/filter.c,
 * __bpf_redirect_common). Taking a tag out of a frame sets it; only a second tag stands in the frame.
 * One that the frame came with would go with the two: such frames are not for this.
 */
static __always_inline bool redirectable(struct __sk_buff *skb)
{
	return !bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), OUTLET_TAG) &&
	       !bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), OUTLET_TAG) &&
	       !bpf_skb_vlan_pop(skb) && !bpf_skb_vlan_pop(skb);
}

static __noinline int sent_by(struct __sk_buff *skb, __u32 ifindex)
{
	return redirectable(skb) ? (int)bpf_redirect(ifindex, 0) : TC_ACT_SHOT;
}

/* Out of svc0's OVS end, and so in at svc0. */
static __always_inline int to_svc(struct __sk_buff *skb, const struct node *self)
{
	return sent_by(skb, self->svc_ifindex + self->svc_port_step);
}

static __always_inline void count_as(struct __sk_buff *skb, __u32 reason)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	}
}

/* Whether svc0's program is the one to say what becomes of a reply: it is rare. */
static __always_inline bool is_rare_reply(const struct reversal *r, __be16 tag, __u8 ttl)
{
	return tag || ttl <= 1 || r->flags & FLOW_HANDED;
}

static __always_inline int out(struct __sk_buff *skb, const struct node *self,
			       const struct reversal *r)
{
	__u32 service_id = r->service_id;
	struct service_stats *stats = bpf_map_lookup_elem(&service_stats, &service_id);

	if (stats) {
		stats->reply_packets++;
		stats->reply_bytes += skb->len;
	}
	count_as(skb, SVC_REPLY);
	if (unlikely(r->flags & FLOW_INNER))
		return sent_by(skb, self->svc_ifindex);
	if (unlikely(r->ifindex != skb->ifindex))
		return sent_by(skb, r->ifindex);
	return TC_ACT_OK;
}

static __always_inline int outlet4(struct __sk_buff *skb, struct cursor *cursor,
				   struct ethhdr *eth, const struct node *self)
{
	struct iphdr *ip = parse_ipv4(cursor);
	__u32 tick = tick_of(self), life;
	struct reversal r;
	struct tuple4 tuple;
	struct flow4 *flow;
	struct l4 l4;

	if (!ip || !is_plain4(ip) ||
	    !parse_l4(cursor, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip), &l4))
		return to_svc(skb, self);
	tuple = tuple4_of(ip, &l4);
	flow = ct4_find_living_reply(self, &tuple, &life);
	if (unlikely(!flow))
		return to_svc(skb, self);
	r.state = flow->state;
	r.flags = flow->flags;
	barrier();
	if (unlikely(is_rare_reply(&r, flow->vlan[0], ip->ttl)))
		return to_svc(skb, self);
	if (unlikely(!reverse4(eth, ip, &l4, flow, life, self, tick, &r))) {
		count_as(skb, DROP_CONFLICT);
		return TC_ACT_SHOT;
	}
	return out(skb, self, &r);
}

static __always_inline int outlet6(struct __sk_buff *skb, struct cursor *cursor,
				   struct ethhdr *eth, const struct node *self)
{
	struct ipv6hdr *ip = parse_ipv6(cursor);
	__u32 tick = tick_of(self), life;
	struct reversal r;
	struct tuple6 tuple;
	struct flow6 *flow;
	struct l4 l4;

	if (!ip || !is_plain6(ip) || !parse_l4(cursor, ip->nexthdr, payload_size(ip), &l4))
		return to_svc(skb, self);
	tuple6_of(&tuple, ip, &l4);
	flow = ct6_find_living_reply(self, &tuple, &life);
	if (unlikely(!flow))
		return to_svc(skb, self);
	r.state = flow->state;
	r.flags = flow->flags;
	barrier();
	if (unlikely(is_rare_reply(&r, flow->vlan[0], ip->hop_limit)))
		return to_svc(skb, self);
	if (unlikely(!reverse6(eth, ip, &l4, flow, life, self, tick, &r))) {
		count_as(skb, DROP_CONFLICT);
		return TC_ACT_SHOT;
	}
	return out(skb, self, &r);
}

/* Whether OVS sent this by svc0-out; of this node's kernel none has svc0's MAC for its destination. */
static __always_inline bool is_of_outlet(const struct __sk_buff *skb, const struct node *self)
{
	struct cursor cursor = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	const struct ethhdr *eth = parse_eth(&cursor);

	return eth && same_mac(eth->h_dest, self->service_mac) && self->svc_port_step &&
	       skb->ifindex == self->uplink_ifindex;
}

/* Whether it did before, and a reply to a client behind OVN comes by: the kernel's own have svc0's MAC. */
static __always_inline bool is_done_by_outlet(const struct __sk_buff *skb, const struct node *self)
{
	struct cursor cursor = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	const struct ethhdr *eth = parse_eth(&cursor);

	return skb->ifindex == self->svc_ifindex && eth && same_mac(eth->h_dest, self->gateway_mac);
}

/* What becomes of it. A call of its own: what the rest of the program needs of the stack comes after. */
static __noinline int outlet(struct __sk_buff *skb, const struct node *self)
{
	struct cursor cursor = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct ethhdr *eth = parse_eth(&cursor);

	if (eth && likely(eth->h_proto == bpf_htons(ETH_P_IP)))
		return outlet4(skb, &cursor, eth, self);
	if (eth && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return outlet6(skb, &cursor, eth, self);
	/* OVS's rules lead no such frame here: one with tags could not be handed over whole. */
	count_as(skb, DROP_SVC_MALFORMED);
	return TC_ACT_SHOT;
}

#endif
