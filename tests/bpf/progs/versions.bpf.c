// SPDX-License-Identifier: Apache-2.0
/*
 * Two versions of a made-up program with conntrack, for the tests of migration: compiled with
 * VERSION 1 and 2. It answers each UDP datagram with the number of the "backend" that its flow was
 * given, which hangs on `era` when the flow begins. Version 2 keeps flows in another layout.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

#if VERSION == 1
#define KEY __u32
struct flow {
	__u32 backend;
	__u32 packets;
};
#else
struct tuple {
	__u8 proto;
	__u8 pad[3];
	__be16 sport;
	__u16 pad2;
};
#define KEY struct tuple
struct flow {
	__u64 packets;
	__u64 backend;
};
#endif

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, KEY);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} era SEC(".maps");

SEC("xdp")
int versions(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 *answer = (void *)(udp + 1);
	struct flow *flow, fresh = {};
	__u8 mac[ETH_ALEN];
	__u32 zero = 0, *now;
	__be32 addr;
	__be16 port;
	KEY key;

	if ((void *)(answer + 2) > end || eth->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
#if VERSION == 1
	key = bpf_ntohs(udp->source);
#else
	__builtin_memset(&key, 0, sizeof(key));
	key.proto = ip->protocol;
	key.sport = udp->source;
#endif
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow) {
		now = bpf_map_lookup_elem(&era, &zero);
		fresh.backend = (now ? *now : 0) * 1000 + bpf_ntohs(udp->source) % 7;
		bpf_map_update_elem(&flows, &key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return XDP_DROP;
	}
	__sync_fetch_and_add(&flow->packets, 1);
	*answer = flow->backend;
	udp->check = 0;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	addr = ip->daddr;
	ip->daddr = ip->saddr;
	ip->saddr = addr;
	port = udp->dest;
	udp->dest = udp->source;
	udp->source = port;
	return XDP_TX;
}

/* For the client's end: a veth takes what its peer sends by XDP_TX only where a program runs. */
SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}
