// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the XDP program of svc0, where OVS delivers two kinds of packets: replies of
 * backends, which are reversed and leave by the uplink that their client is behind, and packets of
 * clients behind OVN to a service, which are translated and go back by svc0. Otherwise: for svc0's
 * own address only ARP, ND and ICMP go up; what is for somebody else goes out unchanged (a backend's
 * own traffic, led here by the rules for services that keep the client's address).
 *
 * No helper used is for GPL programs only, so the license is the project's.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define TO_OVS(ctx) XDP_TX

#include "hot.h"

static __always_inline int to_uplink(struct xdp_md *ctx, const struct node *self,
				     const struct ethhdr *eth)
{
	if (eth->h_dest[0] & 1)
		return verdict(ctx, XDP_DROP, DROP_SVC_MULTICAST);
	if (!(self->flags & (NODE_VALID4 | NODE_VALID6)))
		return verdict(ctx, XDP_DROP, DROP_NO_GATEWAY);
	if (bpf_redirect_map(&tx_ports, self->uplink_ifindex, XDP_DROP) != XDP_REDIRECT)
		return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
	return verdict(ctx, XDP_REDIRECT, SVC_UPLINK);
}

static __always_inline int ipv4(struct xdp_md *ctx, struct cursor *cursor, struct ethhdr *eth)
{
	struct iphdr *ip = parse_ipv4(cursor);
	struct tuple4 tuple;
	struct flow4 *flow;
	struct node *self;
	__u32 zero = 0, life;
	struct l4 l4;
	int done;

	self = bpf_map_lookup_elem(&node, &zero);
	if (!ip || !self || !is_plain4(ip) ||
	    !parse_l4(cursor, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip), &l4))
		return rare_svc(ctx);
	tuple = tuple4_of(ip, &l4);
	flow = ct4_find_living_reply(self, &tuple, &life);
	if (likely(flow))
		return reply4(ctx, eth, ip, &l4, flow, life, self, SVC_REPLY);
	if (ip->daddr == self->service_addr4)
		return verdict(ctx, XDP_DROP, DROP_SVC_NO_FLOW);
	if (may_be_vip(whole4(ip->daddr), l4.ports->dest, ip->protocol)) {
		done = forward4(ctx, eth, ip, &l4, &tuple, self, true);
		if (done != NOT_MINE)
			return done;
	}
	if (unlikely(may_be_known(whole4(ip->daddr))))	/* a VIP's refuses other ports */
		return rare_svc(ctx);
	return to_uplink(ctx, self, eth);
}

static __always_inline int ipv6(struct xdp_md *ctx, struct cursor *cursor, struct ethhdr *eth)
{
	struct ipv6hdr *ip = parse_ipv6(cursor);
	struct tuple6 tuple;
	struct flow6 *flow;
	struct node *self;
	__u32 zero = 0, life;
	struct l4 l4;
	int done;

	self = bpf_map_lookup_elem(&node, &zero);
	if (!ip || !self || !is_plain6(ip) ||
	    !parse_l4(cursor, ip->nexthdr, payload_size(ip), &l4))
		return rare_svc(ctx);
	tuple6_of(&tuple, ip, &l4);
	flow = ct6_find_living_reply(self, &tuple, &life);
	if (likely(flow))
		return reply6(ctx, eth, ip, &l4, flow, life, self, SVC_REPLY);
	if (same16(tuple.daddr, self->service_addr6))
		return verdict(ctx, XDP_DROP, DROP_SVC_NO_FLOW);
	if (may_be_vip(fold6(tuple.daddr), l4.ports->dest, ip->nexthdr)) {
		done = forward6(ctx, eth, ip, &l4, &tuple, self, true);
		if (done != NOT_MINE)
			return done;
	}
	if (unlikely(may_be_known(fold6(tuple.daddr))))
		return rare_svc(ctx);
	return to_uplink(ctx, self, eth);
}

SEC("xdp")
int millrace_svc(struct xdp_md *ctx)
{
	struct cursor cursor = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = parse_eth(&cursor);

	if (eth && eth->h_proto == bpf_htons(ETH_P_IP))
		return ipv4(ctx, &cursor, eth);
	if (eth && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return ipv6(ctx, &cursor, eth);
	return rare_svc(ctx);
}

char LICENSE[] SEC("license") = "Apache-2.0";
