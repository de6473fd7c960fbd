/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: plain packets, which are nearly all: TCP or UDP on untagged IPv4 without options
 * or fragments, or IPv6 without extension headers, on their way to a backend or back.
 *
 * Budget: no helper call but the redirect (and, before kernel 6.10, which CPU this is), no hash map.
 * What needs more (a first packet, TCP's flags) is in functions of its own.
 */
#ifndef MILLRACE_HOT_H
#define MILLRACE_HOT_H

#include "flows.h"
#include "rare.h"
#include "rewrite.h"
#include "verdict.h"

#define NOT_MINE (-1)	/* not of a service: somebody else's to decide */
#define WIRE_MIN 60
#define AHEAD 0x100	/* beside TCP's flags: the flow was not looked for yet */

/* Its size is taken after the call: what a pointer has in 32 bits cannot be kept meanwhile. */
static __always_inline void count_packet(struct xdp_md *ctx, __u32 service_id,
					 enum traffic_way way)
{
	struct counter *counter = traffic_of(service_id, way);

	if (counter) {
		counter->packets++;
		counter->bytes += ctx->data_end - ctx->data;
	}
}

/* Where a translated packet goes that is on its way to a backend. */
static __always_inline int to_backend(struct xdp_md *ctx, bool inner, __u32 reason)
{
	if (inner)
		return verdict(ctx, XDP_TX, reason);
	return verdict(ctx, TO_OVS(ctx), reason);
}

/*
 * A translated packet of a backend in this node's own network is the kernel's. It is sent to this
 * device's MAC already, unless another node handed it over: then to the gateway router's.
 */
static __always_inline int to_host(struct xdp_md *ctx, struct ethhdr *eth, const struct node *self,
				   __u8 flags, __u32 reason)
{
	if (flags & FLOW_HANDED)
		copy_mac(eth->h_dest, self->uplink_mac);
	return verdict(ctx, XDP_PASS, reason);
}

/* Where a reversed packet goes. */
static __always_inline int to_client(struct xdp_md *ctx, __u32 ifindex, __u8 flags, __u32 reason)
{
	if ((flags & FLOW_INNER) || ifindex == ctx->ingress_ifindex)
		return verdict(ctx, XDP_TX, reason);
	if (bpf_redirect_map(&tx_ports, ifindex, XDP_DROP) != XDP_REDIRECT)
		return verdict(ctx, XDP_DROP, DROP_NO_TX_PORT);
	return verdict(ctx, XDP_REDIRECT, reason);
}

/* Whether a packet may move its flow's state. Of established flows a branch for each protocol. */
static __always_inline bool says_something(const struct l4 *l4, __u8 state, bool reply)
{
	if (l4->is_tcp)
		return state != CT_ESTABLISHED || (l4->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST));
	return state == (reply ? CT_UDP_ONE_WAY : CT_UDP_ANSWERED);
}

static __always_inline __u8 state_after(const struct l4 *l4, __u8 state, __u8 *flags, bool reply)
{
	return l4->is_tcp ? tcp_next(state, flags, l4->tcp_flags, reply) : udp_next(state, reply);
}

/* By words as wide as they are read: a load that spans two stores waits until both have left. */
static __always_inline void map4(__u8 *to, __be32 addr)
{
	*(__u64 *)to = 0;
	*(__u64 *)(to + 8) = (__u64)addr << 32 | bpf_htonl(0xffff);
}

/* What first4() and first6() share. All that is read before it is written, is written here. */
static __always_inline void begin_opening(struct opening *o, __be16 vip_port, __be16 client_port,
					  __u32 proto, __u32 tcp_flags, __u32 tick,
					  const struct ethhdr *eth)
{
	struct mac_pair macs = mac_pair_at(eth);

	/* Port, protocol and padding, for the hash and the comparison of the map's. */
	*(__u32 *)&o->key.port = vip_port | proto << 16;
	o->tick = tick;
	o->client_port = client_port;
	o->tcp_flags = tcp_flags & 0xff;
	*(__u64 *)o->dest_mac = macs.first;
	*(__u32 *)(o->dest_mac + 8) = macs.last;
	*(__u32 *)o->vlan = 0;
	*(__u16 *)&o->foreseen = 0;	/* nor asked */
}

/*
 * The opening of a flow by what is likely to be its first packet. With AHEAD the flow was not
 * looked for yet (foretell): the backend is chosen before that, and all that is needed is asked for
 * at once. What replies will have is guessed: svc0's address or the client's own. Whether there is
 * certainly no such flow: then it need not be looked for.
 */
static __noinline bool first4(struct xdp_md *ctx, const struct tuple4 *tuple, __u32 tcp_flags,
			      __u32 tick, bool inner, const struct ethhdr *eth)
{
	__u32 zero = 0;
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct opening *o;

	if (!held || !self)
		return false;
	o = &held->opening;
	begin_opening(o, tuple->dport, tuple->sport, tuple->proto, tcp_flags, tick, eth);
	o->family = 4;
	o->inner = inner;
	o->ifindex = ctx->ingress_ifindex;
	map4(o->key.addr, tuple->daddr);
	map4(o->client, tuple->saddr);
	if ((tcp_flags & AHEAD) && foresee(self, o)) {
		bool direct = o->flags & (inner ? VIP_INNER_SNAT : VIP_SNAT);
		struct tuple4 reply = { *(__be32 *)(o->backend.addr + 12),
					direct ? self->service_addr4 : tuple->saddr,
					o->backend.port, tuple->sport, o->key.proto };

		o->asked = ct4_ask_for(self, tuple, &reply, direct);
	}
	return o->asked;
}

/* The same for IPv6. */
static __noinline bool first6(struct xdp_md *ctx, const struct tuple6 *tuple, __u32 tcp_flags,
			      __u32 tick, bool inner, const struct ethhdr *eth)
{
	__u32 zero = 0;
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct opening *o;

	if (!held || !self)
		return false;
	o = &held->opening;
	begin_opening(o, tuple->dport, tuple->sport, tuple->proto, tcp_flags, tick, eth);
	o->family = 6;
	o->inner = inner;
	o->ifindex = ctx->ingress_ifindex;
	copy16(o->key.addr, tuple->daddr);
	copy16(o->client, tuple->saddr);
	if ((tcp_flags & AHEAD) && foresee(self, o)) {
		bool direct = o->flags & (inner ? VIP_INNER_SNAT : VIP_SNAT);
		struct tuple6 reply = { .sport = o->backend.port, .dport = tuple->sport,
					.proto = o->key.proto };

		copy16(reply.saddr, o->backend.addr);
		if (direct)
			copy16(reply.daddr, self->service_addr6);
		else
			copy16(reply.daddr, tuple->saddr);
		o->asked = ct6_ask_for(self, tuple, &reply, direct);
	}
	return o->asked;
}

/* What becomes of a first packet that opens no flow. */
static __always_inline int unopened(struct xdp_md *ctx, __u32 failed)
{
	if (failed == OPEN_REFUSE)
		return answer(ctx, OPEN_REFUSE, 0);
	return verdict(ctx, XDP_DROP, failed);
}

static __always_inline int forward4(struct xdp_md *ctx, struct ethhdr *eth, struct iphdr *ip,
				    const struct l4 *l4, const struct tuple4 *tuple,
				    struct node *self, bool inner)
{
	__u32 tick = tick_of(self), life, ports, failed, service_id, reason;
	struct flow4 *flow;
	bool likely_first;
	__u8 state, flags;

	likely_first = foretell(l4->tcp_flags);
	flow = NULL;
	if (likely(!likely_first) ||
	    !first4(ctx, tuple, l4->tcp_flags | AHEAD, tick, inner, eth))
		flow = ct4_find_living(self, tuple, &life);
	reason = inner ? SVC_FORWARD : VIP_FORWARD;
	if (unlikely(!flow || !ct4_alive(flow, self, tick) ||
		     begins_anew(flow->state, l4->tcp_flags))) {
		if (flow)
			ct4_end(flow, life);
		if (!likely_first)
			first4(ctx, tuple, l4->tcp_flags, tick, inner, eth);
		failed = open4(ctx);
		if (failed == NOT_A_VIP)
			return NOT_MINE;
		if (failed)
			return unopened(ctx, failed);
		flow = ct4_find_added(self, tuple, &life);
		if (!flow)
			return verdict(ctx, XDP_DROP, DROP_CT_FULL);
		reason = inner ? SVC_NEW : VIP_NEW;
	}
	state = flow->state;
	flags = flow->flags;
	barrier();
	if (unlikely(ip->ttl <= 1))
		return answer(ctx, ANSWER_TTL, 0);
	if (unlikely(flow->mtu && bpf_ntohs(ip->tot_len) > flow->mtu))
		return answer(ctx, ANSWER_TOO_BIG, flow->mtu);
	if (likely(!(flags & FLOW_DSR))) {
		ports = *(__u32 *)&flow->backend_port;
		ip->saddr = flow->source;
		ip->daddr = flow->backend;
		mend_ip(ip, flow->ip_delta);
		/* In the record the backend's port is first, in the packet the source's. */
		*(__u32 *)l4->ports = ports << 16 | ports >> 16;
		mend_l4(l4, flow->l4_delta);
	}
	service_id = flow->service_id;
	barrier();
	/* Another flow has the record now: what was made of its fields is dropped. */
	if (unlikely(flow->life != life))
		return verdict(ctx, XDP_DROP, DROP_CONFLICT);
	if (flow->seen != tick) {
		flow->seen = tick;
		/* A client may move to another port or uplink, or out of a VLAN. */
		if (!inner && !(flags & FLOW_DSR)) {
			copy_mac(flow->client_mac, eth->h_source);
			copy_mac(flow->vip_mac, eth->h_dest);
			flow->ifindex = ctx->ingress_ifindex;
			*(__u32 *)flow->vlan = 0;
		}
	}
	if (unlikely(says_something(l4, state, false))) {
		flow->state = state_after(l4, state, &flags, false);
		flow->flags = flags;
	}
	count_packet(ctx, service_id, TRAFFIC_FORWARD);
	if (unlikely(flags & (FLOW_DSR | FLOW_HOST))) {
		if (flags & FLOW_HOST)
			return to_host(ctx, eth, self, flags, reason);
		copy_mac(eth->h_dest, flow->vip_mac);
		copy_mac(eth->h_source, self->uplink_mac);
		return verdict(ctx, XDP_TX, VIP_DIRECT);
	}
	copy_mac(eth->h_dest, self->gateway_mac);
	if (inner)
		copy_mac(eth->h_source, self->service_mac);
	return to_backend(ctx, inner, reason);
}

static __always_inline int reply4(struct xdp_md *ctx, struct ethhdr *eth, struct iphdr *ip,
				  const struct l4 *l4, struct flow4 *flow, __u32 life,
				  struct node *self, __u32 reason)
{
	__u32 tick = tick_of(self), ports, service_id, ifindex;
	__u8 state = flow->state, flags = flow->flags;

	barrier();
	if (unlikely(flow->vlan[0] || (reason == UPLINK_REPLY && flags & FLOW_INNER)))
		return reason == SVC_REPLY ? rare_svc(ctx) : rare_uplink(ctx);
	if (unlikely(ip->ttl <= 1))
		return answer(ctx, ANSWER_TTL, 0);
	if (unlikely(flags & FLOW_INNER)) {
		copy_mac(eth->h_dest, self->gateway_mac);
		copy_mac(eth->h_source, self->service_mac);
	} else if (likely(!(flags & FLOW_HANDED))) {
		/* To what another node handed over OVN has given the client's MAC already. */
		put_mac_pair(eth, mac_pair_at(flow->client_mac));
	}
	ports = *(__u32 *)&flow->client_port;
	ip->saddr = flow->vip;
	ip->daddr = flow->client;
	mend_ip(ip, undone(flow->ip_delta));
	*(__u32 *)l4->ports = ports << 16 | ports >> 16;
	mend_l4(l4, undone(flow->l4_delta));
	service_id = flow->service_id;
	ifindex = flow->ifindex;
	barrier();
	/* Another flow has the record now: what was made of its fields is dropped. */
	if (unlikely(flow->life != life))
		return verdict(ctx, XDP_DROP, DROP_CONFLICT);
	if (flow->seen != tick)
		flow->seen = tick;
	if (unlikely(says_something(l4, state, true))) {
		flow->state = state_after(l4, state, &flags, true);
		flow->flags = flags;
	}
	count_packet(ctx, service_id, TRAFFIC_REPLY);
	return to_client(ctx, ifindex, flags, reason);
}

static __always_inline int forward6(struct xdp_md *ctx, struct ethhdr *eth, struct ipv6hdr *ip,
				    const struct l4 *l4, const struct tuple6 *tuple,
				    struct node *self, bool inner)
{
	__u32 tick = tick_of(self), life, ports, failed, service_id, reason;
	struct flow6 *flow;
	bool likely_first;
	__u8 state, flags;

	likely_first = foretell(l4->tcp_flags);
	flow = NULL;
	if (likely(!likely_first) ||
	    !first6(ctx, tuple, l4->tcp_flags | AHEAD, tick, inner, eth))
		flow = ct6_find_living(self, tuple, &life);
	reason = inner ? SVC_FORWARD : VIP_FORWARD;
	if (unlikely(!flow || !ct6_alive(flow, self, tick) ||
		     begins_anew(flow->state, l4->tcp_flags))) {
		if (flow)
			ct6_end(flow, life);
		if (!likely_first)
			first6(ctx, tuple, l4->tcp_flags, tick, inner, eth);
		failed = open6(ctx);
		if (failed == NOT_A_VIP)
			return NOT_MINE;
		if (failed)
			return unopened(ctx, failed);
		flow = ct6_find_added(self, tuple, &life);
		if (!flow)
			return verdict(ctx, XDP_DROP, DROP_CT_FULL);
		reason = inner ? SVC_NEW : VIP_NEW;
	}
	state = flow->state;
	flags = flow->flags;
	barrier();
	if (unlikely(ip->hop_limit <= 1))
		return answer(ctx, ANSWER_TTL, 0);
	if (unlikely(flow->mtu && bpf_ntohs(ip->payload_len) + sizeof(*ip) > flow->mtu))
		return answer(ctx, ANSWER_TOO_BIG, flow->mtu);
	if (likely(!(flags & FLOW_DSR))) {
		ports = *(__u32 *)&flow->backend_port;
		copy16(&ip->saddr, flow->source);
		copy16(&ip->daddr, flow->backend);
		ip->hop_limit--;
		/* In the record the backend's port is first, in the packet the source's. */
		*(__u32 *)l4->ports = ports << 16 | ports >> 16;
		mend_l4(l4, flow->l4_delta);
	}
	service_id = flow->service_id;
	barrier();
	/* Another flow has the record now: what was made of its fields is dropped. */
	if (unlikely(flow->life != life))
		return verdict(ctx, XDP_DROP, DROP_CONFLICT);
	if (flow->seen != tick) {
		flow->seen = tick;
		/* A client may move to another port or uplink, or out of a VLAN. */
		if (!inner && !(flags & FLOW_DSR)) {
			copy_mac(flow->client_mac, eth->h_source);
			copy_mac(flow->vip_mac, eth->h_dest);
			flow->ifindex = ctx->ingress_ifindex;
			*(__u32 *)flow->vlan = 0;
		}
	}
	if (unlikely(says_something(l4, state, false))) {
		flow->state = state_after(l4, state, &flags, false);
		flow->flags = flags;
	}
	count_packet(ctx, service_id, TRAFFIC_FORWARD);
	if (unlikely(flags & (FLOW_DSR | FLOW_HOST))) {
		if (flags & FLOW_HOST)
			return to_host(ctx, eth, self, flags, reason);
		copy_mac(eth->h_dest, flow->vip_mac);
		copy_mac(eth->h_source, self->uplink_mac);
		return verdict(ctx, XDP_TX, VIP_DIRECT);
	}
	copy_mac(eth->h_dest, self->gateway_mac);
	if (inner)
		copy_mac(eth->h_source, self->service_mac);
	return to_backend(ctx, inner, reason);
}

static __always_inline int reply6(struct xdp_md *ctx, struct ethhdr *eth, struct ipv6hdr *ip,
				  const struct l4 *l4, struct flow6 *flow, __u32 life,
				  struct node *self, __u32 reason)
{
	__u32 tick = tick_of(self), ports, service_id, ifindex;
	__u8 state = flow->state, flags = flow->flags;

	barrier();
	if (unlikely(flow->vlan[0] || (reason == UPLINK_REPLY && flags & FLOW_INNER)))
		return reason == SVC_REPLY ? rare_svc(ctx) : rare_uplink(ctx);
	if (unlikely(ip->hop_limit <= 1))
		return answer(ctx, ANSWER_TTL, 0);
	if (unlikely(flags & FLOW_INNER)) {
		copy_mac(eth->h_dest, self->gateway_mac);
		copy_mac(eth->h_source, self->service_mac);
	} else if (likely(!(flags & FLOW_HANDED))) {
		/* To what another node handed over OVN has given the client's MAC already. */
		put_mac_pair(eth, mac_pair_at(flow->client_mac));
	}
	ports = *(__u32 *)&flow->client_port;
	copy16(&ip->saddr, flow->vip);
	copy16(&ip->daddr, flow->client);
	ip->hop_limit--;
	*(__u32 *)l4->ports = ports << 16 | ports >> 16;
	mend_l4(l4, undone(flow->l4_delta));
	service_id = flow->service_id;
	ifindex = flow->ifindex;
	barrier();
	/* Another flow has the record now: what was made of its fields is dropped. */
	if (unlikely(flow->life != life))
		return verdict(ctx, XDP_DROP, DROP_CONFLICT);
	if (flow->seen != tick)
		flow->seen = tick;
	if (unlikely(says_something(l4, state, true))) {
		flow->state = state_after(l4, state, &flags, true);
		flow->flags = flags;
	}
	count_packet(ctx, service_id, TRAFFIC_REPLY);
	return to_client(ctx, ifindex, flags, reason);
}

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

#endif
