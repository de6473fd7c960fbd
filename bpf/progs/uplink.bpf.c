// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the XDP program of an uplink. One table decides, in this order: a service's
 * address and port, a reply to a translated flow, this node's own addresses (PASS), everything
 * else (XSK: to OVS).
 *
 * No helper used is for GPL programs only, so the license is the project's.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/*
 * The AF_XDP sockets by queue. Not pinned: where OVS attached first, its map is reused in place of
 * this one. A miss (no socket on the queue, or a kernel-mode uplink): the kernel gets the packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_XSK_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

#define TO_OVS(ctx) bpf_redirect_map(&xsks_map, (ctx)->rx_queue_index, XDP_PASS)

#include "hot.h"

/* This node's own: few addresses are most of them, and stand in `node`. */
static __always_inline bool is_local4(const struct node *self, __be32 addr)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < LOCAL4_INLINE; i++)
		if (self->local4[i] == addr)
			return addr != 0;
	return false;
}

/* Whether an address that may be known is one, and whose: enum address_flag. */
static __noinline __u32 flags_of(const struct known_address *addr)
{
	__u32 *flags = bpf_map_lookup_elem(&known_addresses, addr);

	return flags ? *flags : 0;
}

/*
 * A packet of no service and no flow to an address that may be known: this node's own, or a VIP's,
 * which refuses ports without service.
 */
static __always_inline int to_known(struct xdp_md *ctx, const struct known_address *addr,
				    __u32 pass, __u32 xsk)
{
	__u32 flags = flags_of(addr);

	if (flags & ADDRESS_LOCAL)
		return verdict(ctx, XDP_PASS, pass);
	return flags ? rare_uplink(ctx) : verdict(ctx, TO_OVS(ctx), xsk);
}

static __always_inline int ipv4(struct xdp_md *ctx, struct cursor *cursor, struct ethhdr *eth)
{
	struct iphdr *ip = parse_ipv4(cursor);
	struct node *self;
	__u32 zero = 0, life;
	struct l4 l4;
	int done;

	self = bpf_map_lookup_elem(&node, &zero);
	if (!ip || !self || !is_plain4(ip) ||
	    !parse_l4(cursor, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip), &l4))
		return rare_uplink(ctx);
	if (may_be_vip(whole4(ip->daddr), l4.ports->dest, ip->protocol)) {
		struct tuple4 tuple = tuple4_of(ip, &l4);

		done = forward4(ctx, eth, ip, &l4, &tuple, self, false);
		if (done != NOT_MINE)
			return done;
	}
	if (unlikely(ip->daddr == self->service_addr4 && (self->flags & NODE_VALID4))) {
		struct tuple4 tuple = tuple4_of(ip, &l4);
		struct flow4 *flow = ct4_find_living_reply(self, &tuple, &life);

		if (flow)
			return reply4(ctx, eth, ip, &l4, flow, life, self, UPLINK_REPLY);
	}
	if (is_local4(self, ip->daddr))
		return verdict(ctx, XDP_PASS, PASS_IPV4);
	if (unlikely(may_be_known(whole4(ip->daddr)))) {
		struct known_address addr;

		map4(addr.octets, ip->daddr);
		return to_known(ctx, &addr, PASS_IPV4, XSK_IPV4);
	}
	return verdict(ctx, TO_OVS(ctx), XSK_IPV4);
}

static __always_inline int ipv6(struct xdp_md *ctx, struct cursor *cursor, struct ethhdr *eth)
{
	struct ipv6hdr *ip = parse_ipv6(cursor);
	struct tuple6 tuple;
	struct node *self;
	__u32 zero = 0, life;
	struct l4 l4;
	int done;

	self = bpf_map_lookup_elem(&node, &zero);
	if (!ip || !self || !is_plain6(ip) ||
	    !parse_l4(cursor, ip->nexthdr, payload_size(ip), &l4))
		return rare_uplink(ctx);
	tuple6_of(&tuple, ip, &l4);
	if (may_be_vip(fold6(tuple.daddr), l4.ports->dest, ip->nexthdr)) {
		done = forward6(ctx, eth, ip, &l4, &tuple, self, false);
		if (done != NOT_MINE)
			return done;
	}
	if (unlikely((self->flags & NODE_VALID6) && same16(&ip->daddr, self->service_addr6))) {
		struct flow6 *flow = ct6_find_living_reply(self, &tuple, &life);

		if (flow)
			return reply6(ctx, eth, ip, &l4, flow, life, self, UPLINK_REPLY);
	}
	if (may_be_known(fold6(tuple.daddr)))
		return to_known(ctx, (const void *)tuple.daddr, PASS_IPV6, XSK_IPV6);
	return verdict(ctx, TO_OVS(ctx), XSK_IPV6);
}

SEC("xdp")
int millrace_uplink(struct xdp_md *ctx)
{
	struct cursor cursor = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = parse_eth(&cursor);

	if (eth && eth->h_proto == bpf_htons(ETH_P_IP))
		return ipv4(ctx, &cursor, eth);
	if (eth && eth->h_proto == bpf_htons(ETH_P_IPV6))
		return ipv6(ctx, &cursor, eth);
	return rare_uplink(ctx);
}

char LICENSE[] SEC("license") = "Apache-2.0";
