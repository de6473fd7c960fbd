// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: what `millrace perf xdp` runs in front of the program that it measures, and the
 * floor that it is measured by.
 *
 * BPF_PROG_TEST_RUN does not put the packet back between repeats, so that a naive repeat measures
 * the second pass of a packet that was translated already. perf_run restores the first PERF_HEAD
 * octets, takes the next 5-tuple or the next VIP in turn (checksums are not mended: the programs
 * never verify them), and calls the program.
 *
 * perf_floor is the least that any stateless translation does: one look-up of (address, port,
 * protocol) in a hash map of the kernel's, destination, TTL and checksums changed, and the redirect
 * that `uplink` ends with. perf_bare is the wrapper alone.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "csum.h"
#include "parsing.h"

#define PERF_PORT_BITS 15	/* 32,768 ports of one client, then the next of its 256 */
#define PERF_PORT_MIN 1024
#define PERF_FLOOR_VIPS 131072
#define TTL_DELTA ((__u16)~bpf_htons(0x0100))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct perf_plan);
} perf_plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} perf_target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PERF_FLOOR_VIPS);
	__type(key, struct perf_floor_key);
	__type(value, struct perf_floor);
} perf_floor_vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_XSK_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} perf_xsks SEC(".maps");

static __always_inline void add_to_port(__be16 *port, __u32 turn)
{
	*port = bpf_htons(PERF_PORT_MIN + (turn & ((1 << PERF_PORT_BITS) - 1)));
}

/*
 * The next of `flows` clients, or of `services` VIPs, which is a stride further: what flows that began
 * one after the other have lies side by side, and the processor would have it before it is asked for.
 * When all had their turn the order is reversed: how many others came since a flow's last packet is
 * then anything from none to all, each as often, as with packets that choose their flows by lot. In
 * one order for ever it is always all: a cache that is a little too small for them has none of them.
 * Addresses of a row differ in their last word.
 */
static __always_inline void take_turn(void *data, struct perf_plan *plan)
{
	bool six = ((struct ethhdr *)data)->h_proto == bpf_htons(ETH_P_IPV6);
	__u32 many = plan->services > 1 ? plan->services : plan->flows;
	__u32 turn = plan->next, next = turn + plan->stride;
	__be32 *client, *vip;
	struct ports *ports;

	plan->next = next < many ? next : next - many;
	if (unlikely(!plan->next))
		plan->stride = many - plan->stride;
	if (six) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		client = &ip->saddr.in6_u.u6_addr32[3];
		vip = &ip->daddr.in6_u.u6_addr32[3];
		ports = (void *)(ip + 1);
	} else {
		struct iphdr *ip = data + ETH_HLEN;

		client = &ip->saddr;
		vip = &ip->daddr;
		ports = (void *)(ip + 1);
	}
	if (plan->services > 1) {
		*vip = bpf_htonl(bpf_ntohl(*vip) + turn);
		return;
	}
	add_to_port(&ports->source, turn);
	*client = bpf_htonl(bpf_ntohl(*client) + (turn >> PERF_PORT_BITS & 0xff));
}

SEC("xdp")
int perf_run(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct perf_plan *plan;
	__u32 zero = 0;

	plan = bpf_map_lookup_elem(&perf_plan, &zero);
	if (!plan || data + PERF_HEAD > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->head, PERF_HEAD);
	if (plan->flows > 1 || plan->services > 1)
		take_turn(data, plan);
	bpf_tail_call(ctx, &perf_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int perf_bare(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

SEC("xdp")
int perf_floor(struct xdp_md *ctx)
{
	struct cursor cursor = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	struct ethhdr *eth = parse_eth(&cursor);
	struct perf_floor_key key = {};
	struct perf_floor *found;
	struct iphdr *ip;
	struct l4 l4;
	__u32 delta;

	if (!eth || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	ip = parse_ipv4(&cursor);
	if (!ip || *(__u8 *)ip != 0x45 || is_fragment(ip) || ip->ttl <= 1 ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP) ||
	    !parse_l4(&cursor, ip->protocol, bpf_ntohs(ip->tot_len) - sizeof(*ip), &l4))
		return XDP_PASS;
	key.vip = ip->daddr;
	key.port = l4.ports->dest;
	key.proto = ip->protocol;
	found = bpf_map_lookup_elem(&perf_floor_vips, &key);
	if (!found)
		return XDP_PASS;
	delta = csum_delta32(ip->daddr, found->backend);
	ip->check = ~csum_fold((~ip->check & 0xffff) + delta + TTL_DELTA);
	ip->ttl--;
	*l4.check = csum_apply(*l4.check, csum_fold(delta + csum_delta16(key.port, found->port)));
	ip->daddr = found->backend;
	l4.ports->dest = found->port;
	__builtin_memcpy(eth->h_dest, found->mac, ETH_ALEN);
	return bpf_redirect_map(&perf_xsks, ctx->rx_queue_index, XDP_PASS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
