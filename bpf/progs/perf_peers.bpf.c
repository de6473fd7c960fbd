// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the source and the sinks of `millrace perf peers`, the same for every contestant.
 * peers_send, run as if frames had come in at the router's device (BPF_F_TEST_XDP_LIVE_FRAMES does
 * not put a frame back after it was changed), restores the first PERF_HEAD octets, takes the next
 * 5-tuple in turn with its checksums right, and calls the contestant: our program, or peers_pass,
 * which leaves the frame to the kernel. peers_sink and peers_to_xsk end it on the backend's device.
 *
 * peers_loop is the client of `millrace perf path`: each answer to it is its next request. peers_flood
 * is its other client, which sends without waiting: as peers_send, frames of FLOOD_SIZE octets, out of
 * the device that they seem to have come in at.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define FLOOD_SIZE 64
#define PEERS_PORT_BITS 14	/* 16,384 ports of one client, then the next client of the /24 */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct perf_plan);
} peers_plan SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} peers_target SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} peers_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} peers_xsks SEC(".maps");

/* RFC 1624 with a difference that never wraps its field: ones' complement takes it as it is. */
static __always_inline __be16 mended(__be16 check, __u32 more)
{
	__u32 sum = (__u16)~bpf_ntohs(check) + more;

	sum = (sum & 0xffff) + (sum >> 16);
	return bpf_htons(~((sum & 0xffff) + (sum >> 16)));
}

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *packets = bpf_map_lookup_elem(&peers_count, &zero);

	if (packets)
		*packets += 1;
}

/* The next frame in turn; whether there is room for it. */
static __always_inline bool put_next(struct xdp_md *ctx, const __u32 size)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	struct perf_plan *plan;
	__u32 zero = 0, turn, next, port, host;

	plan = bpf_map_lookup_elem(&peers_plan, &zero);
	if (!plan || data + size > end)
		return false;
	__builtin_memcpy(data, plan->head, size);
	turn = plan->next;
	next = turn + plan->stride;
	plan->next = next < plan->flows ? next : next - plan->flows;
	port = turn & ((1 << PEERS_PORT_BITS) - 1);
	host = turn >> PEERS_PORT_BITS & 0xff;
	udp->source = bpf_htons(bpf_ntohs(udp->source) + port);
	ip->saddr += bpf_htonl(host);
	ip->check = mended(ip->check, host);
	udp->check = mended(udp->check, host + port);
	return true;
}

SEC("xdp")
int peers_send(struct xdp_md *ctx)
{
	if (put_next(ctx, PERF_HEAD))
		bpf_tail_call(ctx, &peers_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int peers_flood(struct xdp_md *ctx)
{
	return put_next(ctx, FLOOD_SIZE) ? XDP_TX : XDP_ABORTED;
}

SEC("xdp")
int peers_pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

SEC("xdp")
int peers_sink(struct xdp_md *ctx __attribute__((unused)))
{
	count();
	return XDP_DROP;
}

SEC("xdp")
int peers_to_xsk(struct xdp_md *ctx __attribute__((unused)))
{
	count();
	return bpf_redirect_map(&peers_xsks, 0, XDP_DROP);
}

SEC("xdp")
int peers_loop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	__u8 mac[ETH_ALEN];
	__be32 address;
	__be16 port;

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != 17)
		return XDP_PASS;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	address = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = address;
	port = udp->source;
	udp->source = udp->dest;
	udp->dest = port;
	if (ip->ttl < 64) {
		ip->check = mended(ip->check, (__u32)(64 - ip->ttl) << 8);
		ip->ttl = 64;
	}
	count();
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Apache-2.0";
