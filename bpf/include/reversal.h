/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: a plain reply made into the VIP's word to its client, in place. The same for the
 * XDP programs (hot.h) and for tc's (outlet.h), which differ in what they do with it then.
 */
#ifndef MILLRACE_REVERSAL_H
#define MILLRACE_REVERSAL_H

#include "ct.h"
#include "octets.h"
#include "rewrite.h"

/* What the record said: `state` and `flags` before the reversal, the rest when it is done. */
struct reversal {
	__u32 service_id;
	__u32 ifindex;
	__u8 state;
	__u8 flags;
};

/* Whether a packet is plain: its header has no options, and it is no fragment. */
static __always_inline bool is_plain4(const struct iphdr *ip)
{
	return *(const __u8 *)ip == 0x45 && !is_fragment(ip) &&
	       (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP);
}

static __always_inline bool is_plain6(const struct ipv6hdr *ip)
{
	return ip->version == 6 && (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_UDP);
}

static __always_inline struct tuple4 tuple4_of(const struct iphdr *ip, const struct l4 *l4)
{
	return (struct tuple4){ ip->saddr, ip->daddr, l4->ports->source, l4->ports->dest,
				ip->protocol };
}

static __always_inline void tuple6_of(struct tuple6 *tuple, const struct ipv6hdr *ip,
				      const struct l4 *l4)
{
	copy16(tuple->saddr, &ip->saddr);
	copy16(tuple->daddr, &ip->daddr);
	tuple->sport = l4->ports->source;
	tuple->dport = l4->ports->dest;
	tuple->proto = ip->nexthdr;
}

static __always_inline bool says_something(const struct l4 *l4, __u8 state)
{
	return l4->is_tcp && (state != CT_ESTABLISHED || (l4->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
}

/* A client behind OVN is reached by its gateway router, one outside as its own packets came. */
#define REVERSE_LINK(eth, flow, self, flags)						\
	do {										\
		if (unlikely((flags) & FLOW_INNER)) {					\
			copy_mac((eth)->h_dest, (self)->gateway_mac);			\
			copy_mac((eth)->h_source, (self)->service_mac);			\
		} else if (likely(!((flags) & FLOW_HANDED))) {				\
			/* To what another node handed over OVN has given the client's MAC already. */ \
			put_mac_pair((eth), mac_pair_at((flow)->client_mac));		\
		}									\
	} while (0)

/* The backend was heard: the flow's time begins anew, and its state goes on. */
#define REPLY_HEARD(flow, l4, tick, r)							\
	do {										\
		if ((flow)->seen != (tick))						\
			(flow)->seen = (tick);						\
		if (unlikely(says_something(l4, (r)->state))) {				\
			(flow)->state = tcp_next((r)->state, &(r)->flags, (l4)->tcp_flags, true); \
			(flow)->flags = (r)->flags;					\
		} else if (unlikely((r)->state == CT_UDP_ONE_WAY)) {			\
			(flow)->state = CT_UDP;						\
		}									\
	} while (0)

/* False: another flow has the record now, and the packet, made of its fields, has to be dropped. */
static __always_inline bool reverse4(struct ethhdr *eth, struct iphdr *ip, const struct l4 *l4,
				     struct flow4 *flow, __u32 life, const struct node *self,
				     __u32 tick, struct reversal *r)
{
	__u32 ports;

	REVERSE_LINK(eth, flow, self, r->flags);
	ports = *(__u32 *)&flow->client_port;
	ip->saddr = flow->vip;
	ip->daddr = flow->client;
	mend_ip(ip, undone(flow->ip_delta));
	*(__u32 *)l4->ports = ports << 16 | ports >> 16;
	mend_l4(l4, undone(flow->l4_delta));
	r->service_id = flow->service_id;
	r->ifindex = flow->ifindex;
	barrier();
	if (unlikely(flow->life != life))
		return false;
	REPLY_HEARD(flow, l4, tick, r);
	return true;
}

static __always_inline bool reverse6(struct ethhdr *eth, struct ipv6hdr *ip, const struct l4 *l4,
				     struct flow6 *flow, __u32 life, const struct node *self,
				     __u32 tick, struct reversal *r)
{
	__u32 ports;

	REVERSE_LINK(eth, flow, self, r->flags);
	ports = *(__u32 *)&flow->client_port;
	copy16(&ip->saddr, flow->vip);
	copy16(&ip->daddr, flow->client);
	ip->hop_limit--;
	*(__u32 *)l4->ports = ports << 16 | ports >> 16;
	mend_l4(l4, undone(flow->l4_delta));
	r->service_id = flow->service_id;
	r->ifindex = flow->ifindex;
	barrier();
	if (unlikely(flow->life != life))
		return false;
	REPLY_HEARD(flow, l4, tick, r);
	return true;
}

#endif
