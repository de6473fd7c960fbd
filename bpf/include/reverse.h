/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: rewriting a packet by its conntrack entry, and the way of a reply, which both
 * programs know: svc0's for what OVS delivers, the uplink's for backends on the same wire.
 */
#ifndef MILLRACE_REVERSE_H
#define MILLRACE_REVERSE_H

#include "abi.h"
#include "csum.h"
#include "maps.h"
#include "parsing.h"
#include "verdict.h"

/*
 * How often a flow in use touches both its entries: 16 ms to 160 ms, by the kernel's HZ. In
 * jiffies, because reading them is one load, where reading a clock is a call of 5 to 20 ns.
 */
#define TOUCH_TICKS 16

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	__builtin_memcpy(to, from, ETH_ALEN);
}

/*
 * The checksums after a change of addresses and ports. A UDP checksum of 0 means none, and stays;
 * a result of 0 is written as 0xffff, its equal (RFC 768), also for TCP, which does not mind.
 */
static __always_inline void mend(struct iphdr *ip, const struct l4 *l4, __u16 ip_delta,
				 __u16 l4_delta)
{
	__u16 check = *l4->check;

	ip->check = csum_apply(ip->check, ip_delta);
	if (check || l4->is_tcp) {
		check = csum_apply(check, l4_delta);
		*l4->check = check ? check : 0xffff;
	}
}

static __always_inline void flow_key_of(struct flow_key *key, const struct iphdr *ip,
					const struct ports *ports)
{
	*key = (struct flow_key){
		.saddr = ip->saddr,
		.daddr = ip->daddr,
		.sport = ports->source,
		.dport = ports->dest,
		.proto = ip->protocol,
	};
}

/* The other side of the pair: the lookup keeps it in the LRU; a closing flow is told so. */
static __noinline int touch_forward(struct flow_reply *reply, const struct flow_key *reply_key)
{
	struct flow_key key = {
		.saddr = reply->client_addr,
		.daddr = reply->vip_addr,
		.sport = reply->client_port,
		.dport = reply->vip_port,
		.proto = reply_key->proto,
	};
	struct flow_forward *forward = bpf_map_lookup_elem(&ct_forward, &key);

	reply->tick = bpf_jiffies64();
	reply->seen_ns = bpf_ktime_get_coarse_ns();
	if (forward && forward->backend_addr == reply_key->saddr)
		forward->flags |= reply->flags & CT_CLOSING;
	return 0;
}

/*
 * Turn a backend's packet back into the VIP's: outcome TX or REDIRECT. The caller has checked the
 * header (parse_l4) and found the entry.
 */
static __always_inline struct outcome reverse(struct xdp_md *ctx, struct ethhdr *eth,
					      struct iphdr *ip, const struct l4 *l4,
					      const struct flow_key *key, struct flow_reply *reply,
					      __u32 reason)
{
	__u32 closing = l4->tcp_flags & (TCP_FIN | TCP_RST);
	__u32 service_id = reply->service_id;
	__u32 ifindex = reply->ifindex;
	struct service_stats *stats;

	if (unlikely(closing))
		reply->flags |= CT_CLOSING;
	if (unlikely(closing || (__u32)bpf_jiffies64() - reply->tick >= TOUCH_TICKS))
		touch_forward(reply, key);

	copy_mac(eth->h_dest, reply->client_mac);
	copy_mac(eth->h_source, reply->vip_mac);
	ip->saddr = reply->vip_addr;
	ip->daddr = reply->client_addr;
	l4->ports->source = reply->vip_port;
	l4->ports->dest = reply->client_port;
	mend(ip, l4, reply->ip_delta, reply->l4_delta);

	stats = bpf_map_lookup_elem(&service_stats, &service_id);
	if (stats) {
		stats->reply_packets++;
		stats->reply_bytes += ctx->data_end - ctx->data;
	}
	if (ifindex == ctx->ingress_ifindex)
		return outcome(XDP_TX, reason);
	if (bpf_redirect_map(&tx_ports, ifindex, XDP_DROP) != XDP_REDIRECT)
		return drop(DROP_NO_TX_PORT);
	return outcome(XDP_REDIRECT, reason);
}

#endif
