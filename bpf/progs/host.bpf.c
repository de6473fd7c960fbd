// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the way back from backends in this node's own network. The uplink's program and
 * svc0's translate a client's packet to such a backend and PASS it, so its reply is one of the node's
 * kernel, which no XDP program sees. This one (clsact, egress, of the service uplinks and of svc0)
 * makes of it what svc0's program makes of a workload's reply: the VIP speaks to the client.
 *
 * - A client outside has kept its address: its reply leaves by an uplink as the kernel routes it.
 * - A client behind OVN is HOST_SOURCE to the kernel, a neighbour by svc0: its reply comes out there,
 *   and goes into OVN.
 *
 * Invariants: only replies of flows with FLOW_HOST are touched, and the rest is let through for
 * whoever comes next at the hook (TC_ACT_UNSPEC). Checksums change by differences, so one that
 * hardware is to complete is left for it.
 *
 * No helper used is for GPL programs only, so the license is the project's.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "ct.h"
#include "octets.h"
#include "rewrite.h"

char LICENSE[] SEC("license") = "Apache-2.0";

#define L3 ETH_HLEN
#define TAG_8021Q 0x8100
#define TAG_8021AD 0x88a8
#define TCP_FLAGS_AT 13
#define ICMP_HEAD 8
#define ICMP_CHECK_AT 2
#define ICMP_UNREACHABLE 3
#define ICMP_TIME 11
#define ICMP_PARAMETER 12

/* A packet of this node's kernel, and what its flow makes of it. IPv4 addresses are one word. */
struct reply {
	__be32 was[8];		/* source and destination, each four words */
	__be32 now[8];
	__be16 old_ports[2];	/* source and destination */
	__be16 ports[2];
	__u32 l4;		/* offset [octets] */
	__u32 id;		/* of the flow's record */
	__u32 life;
	__u32 service_id;
	__u32 tcp_flags;
	__u32 ifindex;		/* of the uplink that the client is behind */
	__be16 vlan[2];
	__u8 macs[2 * ETH_ALEN];
	__u8 flags;		/* enum flow_flag */
	__u8 proto;
	__u8 version;
};

/*
 * Where a packet is worked on: the stack of all functions together has 512 octets. Nothing else of
 * ours is sent on this CPU meanwhile. By nothing; each CPU's own. Never a miss.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reply);
} host_room SEC(".maps");

struct fragment_head {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

#define FLOW_TO_REPLY(r, flow)							\
	do {									\
		(r)->ports[0] = (flow)->vip_port;				\
		(r)->ports[1] = (flow)->client_port;				\
		(r)->service_id = (flow)->service_id;				\
		(r)->ifindex = (flow)->ifindex;					\
		(r)->vlan[0] = (flow)->vlan[0];					\
		(r)->vlan[1] = (flow)->vlan[1];					\
		(r)->flags = (flow)->flags;					\
		__builtin_memcpy((r)->macs, (flow)->client_mac, sizeof((r)->macs)); \
	} while (0)

/* Whether the record was one flow to a host's backend while it was read, which is `r` now. */
static __always_inline bool by_flow4(struct reply *r, const struct flow4 *flow, __u32 life)
{
	const struct flow4 *base = ct4_at(0);

	if (!base || !(flow->flags & FLOW_HOST))
		return false;
	r->life = life;
	r->id = ((const void *)flow - (const void *)base) / sizeof(*flow);
	r->now[0] = flow->vip;
	r->now[4] = flow->client;
	FLOW_TO_REPLY(r, flow);
	barrier();
	return *(volatile const __u32 *)&flow->life == life;
}

static __always_inline bool by_flow6(struct reply *r, const struct flow6 *flow, __u32 life)
{
	const struct flow6 *base = ct6_at(0);

	if (!base || !(flow->flags & FLOW_HOST))
		return false;
	r->life = life;
	r->id = ((const void *)flow - (const void *)base) / sizeof(*flow);
	__builtin_memcpy(r->now, flow->vip, 16);
	__builtin_memcpy(r->now + 4, flow->client, 16);
	FLOW_TO_REPLY(r, flow);
	barrier();
	return *(volatile const __u32 *)&flow->life == life;
}

/* The flow that packets from `src` to `dst` are replies of (`was` and the old ports, if those). */
static __always_inline bool find4(const struct node *self, struct reply *r, __be32 src, __be32 dst,
				  __be16 sport, __be16 dport)
{
	struct tuple4 tuple = { src, dst, sport, dport, r->proto };
	__u32 life;
	struct flow4 *flow = ct4_find_living_reply(self, &tuple, &life);

	return flow && by_flow4(r, flow, life);
}

static __always_inline bool find6(const struct node *self, struct reply *r, const void *src,
				  const void *dst, __be16 sport, __be16 dport)
{
	struct tuple6 tuple = { .sport = sport, .dport = dport, .proto = r->proto };
	struct flow6 *flow;
	__u32 life;

	__builtin_memcpy(tuple.saddr, src, 16);
	__builtin_memcpy(tuple.daddr, dst, 16);
	flow = ct6_find_living_reply(self, &tuple, &life);
	return flow && by_flow6(r, flow, life);
}

/* The backend was heard: the flow's time begins anew, and its state goes on. */
#define HEAR(flow, r, tick)							\
	do {									\
		__u8 flags_ = (flow)->flags, state_ = (flow)->state;		\
										\
		if ((flow)->life != (r)->life)					\
			break;							\
		if ((flow)->seen != (tick))					\
			(flow)->seen = (tick);					\
		if ((r)->proto == IPPROTO_TCP)					\
			state_ = tcp_next(state_, &flags_, (r)->tcp_flags, true); \
		else								\
			state_ = udp_next(state_, true);			\
		if ((flow)->state != state_)					\
			(flow)->state = state_;					\
		if ((flow)->flags != flags_)					\
			(flow)->flags = flags_;					\
	} while (0)

static __always_inline void hear(const struct node *self, const struct reply *r)
{
	__u32 tick = tick_of(self);

	if (r->version == 4) {
		struct flow4 *flow = ct4_at(r->id);

		if (flow)
			HEAR(flow, r, tick);
	} else {
		struct flow6 *flow = ct6_at(r->id);

		if (flow)
			HEAR(flow, r, tick);
	}
}

static __always_inline void key_of(struct fragment_key *key, const struct reply *r, __u32 id,
				   __u8 proto)
{
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key->saddr, r->was, 16);
	__builtin_memcpy(key->daddr, r->was + 4, 16);
	key->id = id;
	key->proto = proto;
}

/* The datagram whose first fragment this is goes as its flow says. */
static __noinline void remember(const struct node *self, const struct reply *r, __u32 id,
				__u8 proto)
{
	struct fragment made = { r->id, r->life, tick_of(self), 1, {} };
	struct fragment_key key;

	key_of(&key, r, id, proto);
	bpf_map_update_elem(&fragments, &key, &made, BPF_ANY);
}

/* A later fragment: its flow, by its first one. */
static __noinline bool recall(const struct node *self, struct reply *r, __u32 id, __u8 proto)
{
	struct fragment_key key;
	struct fragment *found;
	__u32 tick = tick_of(self);

	key_of(&key, r, id, proto);
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found || !found->reply || is_over(found->seen, CT_UDP_ONE_WAY, self, tick))
		return false;
	if (r->version == 4) {
		struct flow4 *flow = ct4_at(found->flow);

		return flow && flow->life == found->life && by_flow4(r, flow, found->life);
	} else {
		struct flow6 *flow = ct6_at(found->flow);

		return flow && flow->life == found->life && by_flow6(r, flow, found->life);
	}
}

/* Addresses, and (of what is no later fragment) ports and their checksum. 0, or it failed. */
static __noinline int rewrite(struct __sk_buff *skb, const struct reply *r, bool with_ports)
{
	__u32 size = r->version == 4 ? 4 : 16, udp = 0, check;
	__s64 addrs;

	if (r->version == 4)
		addrs = bpf_csum_diff((void *)&r->was[4], 4, (void *)&r->now[4], 4,
				      bpf_csum_diff((void *)r->was, 4, (void *)r->now, 4, 0));
	else
		addrs = bpf_csum_diff((void *)r->was, 32, (void *)r->now, 32, 0);
	if (addrs < 0)
		return -1;
	if (with_ports) {
		check = r->l4 + offsetof(struct tcphdr, check);
		if (r->proto == IPPROTO_UDP) {
			check = r->l4 + offsetof(struct udphdr, check);
			udp = BPF_F_MARK_MANGLED_0;
		}
		if (bpf_l4_csum_replace(skb, check, 0, addrs, BPF_F_PSEUDO_HDR | udp) ||
		    bpf_l4_csum_replace(skb, check, r->old_ports[0], r->ports[0], 2 | udp) ||
		    bpf_l4_csum_replace(skb, check, r->old_ports[1], r->ports[1], 2 | udp) ||
		    bpf_skb_store_bytes(skb, r->l4, r->ports, sizeof(r->ports), 0))
			return -1;
	}
	if (r->version == 4 &&
	    bpf_l3_csum_replace(skb, L3 + offsetof(struct iphdr, check), 0, addrs, 0))
		return -1;
	check = L3 + (r->version == 4 ? offsetof(struct iphdr, saddr) :
					offsetof(struct ipv6hdr, saddr));
	if (size == 4)
		return bpf_skb_store_bytes(skb, check, &r->now[0], 4, 0) ||
		       bpf_skb_store_bytes(skb, check + 4, &r->now[4], 4, 0);
	return bpf_skb_store_bytes(skb, check, r->now, 32, 0);
}

/* A reversed packet goes to its client; with the client's tags, which the kernel knows nothing of. */
static __noinline int leave(struct __sk_buff *skb, const struct node *self, const struct reply *r,
			    __u32 reason)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &reason);
	__u8 macs[2 * ETH_ALEN];

	if (counter) {
		counter->packets++;
		counter->bytes += skb->len;
	}
	if (reason != HOST_ICMP_ERROR)
		count_traffic(r->service_id, TRAFFIC_REPLY, skb->len);
	/* What another node handed over came by a way that is not its client's: the kernel knows one. */
	if (r->flags & FLOW_HANDED)
		return TC_ACT_OK;
	__builtin_memcpy(macs, r->macs, sizeof(macs));
	if (r->flags & FLOW_INNER) {
		__builtin_memcpy(macs, self->gateway_mac, ETH_ALEN);
		__builtin_memcpy(macs + ETH_ALEN, self->service_mac, ETH_ALEN);
	}
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	if (r->flags & FLOW_INNER)
		return TC_ACT_OK;
	if (r->vlan[1] && bpf_skb_vlan_push(skb, bpf_htons(TAG_8021Q), bpf_ntohs(r->vlan[1])))
		return TC_ACT_SHOT;
	if (r->vlan[0] && bpf_skb_vlan_push(skb, bpf_htons(r->vlan[1] ? TAG_8021AD : TAG_8021Q),
					    bpf_ntohs(r->vlan[0])))
		return TC_ACT_SHOT;
	return r->ifindex == skb->ifindex ? TC_ACT_OK : (int)bpf_redirect(r->ifindex, 0);
}

/*
 * The packet inside an ICMP error, put back to what the client sent; `inner` is where its IP header
 * begins. Its source is where a reply goes, so addresses and ports are those of `r` the other way
 * round. What the error's own checksum has to change by, or < 0.
 */
static __noinline __s64 turn_inside(struct __sk_buff *skb, const struct reply *r, __u32 inner,
				    __u32 inner_l4)
{
	__be16 ports[2] = { r->ports[1], r->ports[0] }, old[2] = { r->old_ports[1], r->old_ports[0] };
	__u32 at = inner_l4 + (r->proto == IPPROTO_UDP ? offsetof(struct udphdr, check) :
							 offsetof(struct tcphdr, check));
	__s64 addrs, sum;
	__u32 pair[2];
	__u16 check;

	addrs = bpf_csum_diff((void *)r->was, 32, (void *)r->now, 32, 0);
	if (addrs < 0)
		return -1;
	sum = bpf_csum_diff((void *)old, 4, (void *)ports, 4, addrs);
	if (sum < 0 || bpf_skb_store_bytes(skb, inner_l4, ports, sizeof(ports), 0))
		return -1;
	if (!bpf_skb_load_bytes(skb, at, &check, sizeof(check)) &&
	    (check || r->proto != IPPROTO_UDP)) {
		/* addrs + ports change it, and its own change undoes theirs. */
		pair[0] = check;
		check = csum_apply(check, csum_fold(sum));
		pair[1] = check ? check : 0xffff;
		check = pair[1];
		if (bpf_skb_store_bytes(skb, at, &check, sizeof(check), 0))
			return -1;
		sum = bpf_csum_diff(&pair[0], 4, &pair[1], 4, sum);
	}
	if (r->version == 4) {
		if (bpf_skb_load_bytes(skb, inner + offsetof(struct iphdr, check), &check,
				       sizeof(check)))
			return -1;
		pair[0] = check;
		check = csum_apply(check, csum_fold(addrs));
		pair[1] = check;
		if (bpf_skb_store_bytes(skb, inner + offsetof(struct iphdr, check), &check,
					sizeof(check), 0) ||
		    bpf_skb_store_bytes(skb, inner + offsetof(struct iphdr, saddr), &r->now[4], 4, 0) ||
		    bpf_skb_store_bytes(skb, inner + offsetof(struct iphdr, daddr), &r->now[0], 4, 0))
			return -1;
		return bpf_csum_diff(&pair[0], 4, &pair[1], 4, sum);
	}
	if (bpf_skb_store_bytes(skb, inner + offsetof(struct ipv6hdr, saddr), &r->now[4], 16, 0) ||
	    bpf_skb_store_bytes(skb, inner + offsetof(struct ipv6hdr, daddr), &r->now[0], 16, 0))
		return -1;
	return sum;
}

/* This kernel's word about a packet that it was passed: for the client, the VIP's. */
static __noinline int icmp4(struct __sk_buff *skb, const struct node *self, struct reply *r,
			    const struct iphdr *ip)
{
	__u32 at = L3 + ip->ihl * 4, inner = at + ICMP_HEAD;
	struct iphdr inside;
	__be16 ports[2];
	__s64 sum;
	__u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) || (type != ICMP_UNREACHABLE &&
	    type != ICMP_TIME && type != ICMP_PARAMETER) ||
	    bpf_skb_load_bytes(skb, inner, &inside, sizeof(inside)) ||
	    inside.frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET) ||
	    (inside.protocol != IPPROTO_TCP && inside.protocol != IPPROTO_UDP) ||
	    bpf_skb_load_bytes(skb, inner + inside.ihl * 4, ports, sizeof(ports)))
		return TC_ACT_UNSPEC;
	r->proto = inside.protocol;
	r->l4 = inner + inside.ihl * 4;
	r->was[0] = inside.daddr;
	r->was[4] = inside.saddr;
	r->old_ports[0] = ports[1];
	r->old_ports[1] = ports[0];
	if (ip->daddr != inside.saddr ||
	    !find4(self, r, inside.daddr, inside.saddr, ports[1], ports[0]))
		return TC_ACT_UNSPEC;
	sum = turn_inside(skb, r, inner, r->l4);
	if (sum < 0 || bpf_l4_csum_replace(skb, at + ICMP_CHECK_AT, 0, sum, 0))
		return TC_ACT_SHOT;
	r->was[0] = ip->saddr;
	r->was[4] = ip->daddr;
	/* Another address of the kernel's than the backend's is not the client's business either. */
	if (rewrite(skb, r, false))
		return TC_ACT_SHOT;
	return leave(skb, self, r, HOST_ICMP_ERROR);
}

static __noinline int icmp6(struct __sk_buff *skb, const struct node *self, struct reply *r,
			    const struct ipv6hdr *ip)
{
	__u32 at = L3 + sizeof(*ip), inner = at + ICMP_HEAD;
	struct ipv6hdr inside;
	__be16 ports[2];
	__s64 sum;
	__u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) || type < 1 || type > 4 ||
	    bpf_skb_load_bytes(skb, inner, &inside, sizeof(inside)) ||
	    (inside.nexthdr != IPPROTO_TCP && inside.nexthdr != IPPROTO_UDP) ||
	    bpf_skb_load_bytes(skb, inner + sizeof(inside), ports, sizeof(ports)))
		return TC_ACT_UNSPEC;
	r->proto = inside.nexthdr;
	r->l4 = inner + sizeof(inside);
	__builtin_memcpy(r->was, &inside.daddr, 16);
	__builtin_memcpy(r->was + 4, &inside.saddr, 16);
	r->old_ports[0] = ports[1];
	r->old_ports[1] = ports[0];
	if (!find6(self, r, r->was, r->was + 4, ports[1], ports[0]))
		return TC_ACT_UNSPEC;
	sum = turn_inside(skb, r, inner, r->l4);
	if (sum < 0)
		return TC_ACT_SHOT;
	__builtin_memcpy(r->was, &ip->saddr, 16);
	__builtin_memcpy(r->was + 4, &ip->daddr, 16);
	sum = bpf_csum_diff(r->was, 32, r->now, 32, sum);
	if (sum < 0 || bpf_l4_csum_replace(skb, at + ICMP_CHECK_AT, 0, sum, 0) ||
	    rewrite(skb, r, false))
		return TC_ACT_SHOT;
	return leave(skb, self, r, HOST_ICMP_ERROR);
}

/* A TCP or UDP packet whose flow is in `r`. */
static __always_inline int reverse(struct __sk_buff *skb, const struct node *self, struct reply *r)
{
	__u8 flags = 0;

	if (r->proto == IPPROTO_TCP && bpf_skb_load_bytes(skb, r->l4 + TCP_FLAGS_AT, &flags, 1))
		return TC_ACT_UNSPEC;
	r->tcp_flags = flags;
	hear(self, r);
	if (rewrite(skb, r, true))
		return TC_ACT_SHOT;
	return leave(skb, self, r, HOST_REPLY);
}

static __noinline int ipv4(struct __sk_buff *skb, const struct node *self, struct reply *r)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, L3, &ip, sizeof(ip)) || ip.version != 4)
		return TC_ACT_UNSPEC;
	if (ip.protocol == IPPROTO_ICMP && !is_fragment(&ip))
		return icmp4(skb, self, r, &ip);
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
		return TC_ACT_UNSPEC;
	r->proto = ip.protocol;
	r->l4 = L3 + ip.ihl * 4;
	r->was[0] = ip.saddr;
	r->was[4] = ip.daddr;
	if (ip.frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)) {
		if (!recall(self, r, ip.id, ip.protocol))
			return TC_ACT_UNSPEC;
		if (rewrite(skb, r, false))
			return TC_ACT_SHOT;
		return leave(skb, self, r, HOST_FRAGMENT);
	}
	if (bpf_skb_load_bytes(skb, r->l4, r->old_ports, sizeof(r->old_ports)) ||
	    !find4(self, r, ip.saddr, ip.daddr, r->old_ports[0], r->old_ports[1]))
		return TC_ACT_UNSPEC;
	if (is_fragment(&ip))
		remember(self, r, ip.id, ip.protocol);
	return reverse(skb, self, r);
}

static __noinline int ipv6(struct __sk_buff *skb, const struct node *self, struct reply *r)
{
	struct fragment_head head = {};
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, L3, &ip, sizeof(ip)) || ip.version != 6)
		return TC_ACT_UNSPEC;
	r->proto = ip.nexthdr;
	r->l4 = L3 + sizeof(ip);
	__builtin_memcpy(r->was, &ip.saddr, 16);
	__builtin_memcpy(r->was + 4, &ip.daddr, 16);
	if (r->proto == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, r->l4, &head, sizeof(head)))
			return TC_ACT_UNSPEC;
		r->proto = head.next;
		r->l4 += sizeof(head);
	}
	if (r->proto == IPPROTO_ICMPV6 && ip.nexthdr == IPPROTO_ICMPV6)
		return icmp6(skb, self, r, &ip);
	if (r->proto != IPPROTO_TCP && r->proto != IPPROTO_UDP)
		return TC_ACT_UNSPEC;
	if (head.offset & bpf_htons(0xfff8)) {
		if (!recall(self, r, head.id, IPPROTO_FRAGMENT))
			return TC_ACT_UNSPEC;
		if (rewrite(skb, r, false))
			return TC_ACT_SHOT;
		return leave(skb, self, r, HOST_FRAGMENT);
	}
	if (bpf_skb_load_bytes(skb, r->l4, r->old_ports, sizeof(r->old_ports)) ||
	    !find6(self, r, r->was, r->was + 4, r->old_ports[0], r->old_ports[1]))
		return TC_ACT_UNSPEC;
	if (ip.nexthdr == IPPROTO_FRAGMENT)
		remember(self, r, head.id, IPPROTO_FRAGMENT);
	return reverse(skb, self, r);
}

SEC("tc")
int millrace_host(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct reply *r = bpf_map_lookup_elem(&host_room, &zero);

	/* A tag that the kernel has put there is a VLAN of its own, in which no service is. */
	if (!self || !r || skb->vlan_present)
		return TC_ACT_UNSPEC;
	__builtin_memset(r, 0, sizeof(*r));
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		r->version = 4;
		return ipv4(skb, self, r);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		r->version = 6;
		return ipv6(skb, self, r);
	}
	return TC_ACT_UNSPEC;
}
