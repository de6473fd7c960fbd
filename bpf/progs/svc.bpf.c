// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the XDP program of svc0, where OVS delivers the replies of backends. A reply of
 * a known flow is reversed and leaves by the uplink that its client is behind. Otherwise: for
 * svc0's own address only ARP and ICMP go up; what is for somebody else goes out unchanged (a
 * backend's own traffic, led here by the rules for services that keep the client's address).
 *
 * Budget, map lookups per packet: reply 2 (ct_reply, service_stats; +1 every 16 ticks: ct_forward),
 * other traffic 2 (ct_reply, node), and one of counters. ns per packet, raw, as in uplink.bpf.c:
 * reply 81, other traffic 69.
 *
 * No helper used is for GPL programs only, so the license is the project's.
 */
#include "reverse.h"

static __always_inline struct outcome to_uplink(const struct node *node, const struct ethhdr *eth)
{
	if (eth->h_dest[0] & 1)
		return drop(DROP_SVC_MULTICAST);
	if (!node->valid)
		return drop(DROP_NO_GATEWAY);
	if (bpf_redirect_map(&tx_ports, node->uplink_ifindex, XDP_DROP) != XDP_REDIRECT)
		return drop(DROP_NO_TX_PORT);
	return outcome(XDP_REDIRECT, SVC_UPLINK);
}

static __always_inline struct outcome ipv4(struct xdp_md *ctx, struct cursor *cursor,
					   struct ethhdr *eth, struct node *self)
{
	struct iphdr *ip = parse_ipv4(cursor);

	if (!ip)
		return drop(DROP_SVC_MALFORMED);
	if (has_ports(ip)) {
		struct ports *ports = peek_ports(cursor);
		struct flow_reply *reply;
		struct flow_key key;
		struct l4 l4;

		if (!ports)
			return drop(DROP_SVC_MALFORMED);
		flow_key_of(&key, ip, ports);
		reply = bpf_map_lookup_elem(&ct_reply, &key);
		if (reply) {
			if (unlikely(is_fragment(ip)))
				return drop(DROP_SVC_FRAGMENT);
			if (unlikely(!parse_l4(cursor, ip, &l4)))
				return drop(DROP_SVC_MALFORMED);
			return reverse(ctx, eth, ip, &l4, &key, reply, SVC_REPLY);
		}
	}
	if (ip->daddr == self->service_addr) {
		if (ip->protocol == IPPROTO_ICMP)
			return outcome(XDP_PASS, SVC_PASS_ICMP);
		return drop(is_fragment(ip) ? DROP_SVC_FRAGMENT : DROP_SVC_NO_FLOW);
	}
	return to_uplink(self, eth);
}

static __always_inline struct outcome decide(struct xdp_md *ctx)
{
	struct cursor cursor = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = parse_eth(&cursor);
	struct node *self;
	__u32 zero = 0;

	if (!eth)
		return drop(DROP_SVC_MALFORMED);
	if (eth->h_proto == bpf_htons(ETH_P_ARP))
		return outcome(XDP_PASS, SVC_PASS_ARP);
	self = bpf_map_lookup_elem(&node, &zero);
	if (!self)
		return drop(DROP_NO_GATEWAY);
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ipv4(ctx, &cursor, eth, self);
	return to_uplink(self, eth);
}

SEC("xdp")
int millrace_svc(struct xdp_md *ctx)
{
	struct outcome result = decide(ctx);

	return verdict(ctx, result.action, result.reason);
}

char LICENSE[] SEC("license") = "Apache-2.0";
