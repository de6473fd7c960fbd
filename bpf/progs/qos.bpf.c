// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: the two token buckets of one pod's veth, at the host's end. What the pod sends
 * meets millrace_qos_rx (XDP), before the packet socket of OVS's port sees it; what it receives meets
 * millrace_qos_tx (clsact, egress), after OVS has sent it.
 *
 * Invariants:
 * - What counts is the IP packet, a VLAN tag included: the frame less its Ethernet header, as
 *   netdev-dpdk counts it on vhost-user ports.
 * - A rate of 0 is no limit.
 * - User space writes `limits` alone, the programs `buckets` alone. Both belong to one device: an
 *   object is loaded for each, and goes with it.
 * - No packet takes longer than a lock held for a few instructions.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

#define NS_PER_S 1000000000ULL

enum { SEND, RECEIVE, DIRECTIONS };

struct limit {
	__u64 rate;	/* octets a second */
	__u64 burst;	/* octets */
};

struct bucket {
	struct bpf_spin_lock lock;
	__u32 primed;
	__u64 since;	/* [ns] up to when `tokens` is counted */
	__u64 tokens;	/* octets */
	__u64 dropped;	/* packets */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DIRECTIONS);
	__type(key, __u32);
	__type(value, struct limit);
} qos_limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DIRECTIONS);
	__type(key, __u32);
	__type(value, struct bucket);
} qos_buckets SEC(".maps");

/* Whether a packet of so many octets may pass; pays for it. */
static __always_inline int pays(__u32 direction, __u64 octets)
{
	struct limit *limit = bpf_map_lookup_elem(&qos_limits, &direction);
	struct bucket *bucket = bpf_map_lookup_elem(&qos_buckets, &direction);
	__u64 now = bpf_ktime_get_ns(), rate, burst, full, passed, earned;
	int enough;

	if (!limit || !bucket || !limit->rate)
		return 1;
	rate = limit->rate;
	burst = limit->burst;
	/* As long as it takes to fill: nothing is earned beyond, and products stay in 64 bits. */
	full = burst * NS_PER_S / rate + 1;
	bpf_spin_lock(&bucket->lock);
	passed = now - bucket->since;
	if (!bucket->primed || ((__s64)passed > 0 && passed >= full)) {
		bucket->primed = 1;
		bucket->tokens = burst;
		bucket->since = now;
	} else if ((__s64)passed > 0) {
		earned = passed * rate / NS_PER_S;
		bucket->tokens += earned;
		/* What is less than an octet is kept as time. */
		bucket->since += earned * NS_PER_S / rate;
		if (bucket->tokens > burst)
			bucket->tokens = burst;
	}
	enough = bucket->tokens >= octets;
	if (enough)
		bucket->tokens -= octets;
	else
		bucket->dropped++;
	bpf_spin_unlock(&bucket->lock);
	return enough;
}

SEC("xdp.frags")
int millrace_qos_rx(struct xdp_md *ctx)
{
	return pays(SEND, bpf_xdp_get_buff_len(ctx) - ETH_HLEN) ? XDP_PASS : XDP_DROP;
}

SEC("tc")
int millrace_qos_tx(struct __sk_buff *skb)
{
	return pays(RECEIVE, skb->len - ETH_HLEN) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
