// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: what `millrace perf xdp` runs in front of the program that it measures.
 * BPF_PROG_TEST_RUN does not put the packet back between repeats, so that a naive repeat measures
 * the second pass of a packet that was translated already. perf_run restores the first PERF_HEAD
 * octets, takes the next 5-tuple in turn (checksums are not mended: the programs never verify
 * them), and calls the program. perf_bare, called in its place, is the floor to compare with.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define PERF_PORT_BITS 14	/* 16,384 ports of one client, then the next client of the /24 */
#define PERF_PORT_MIN 1024

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
	if (plan->flows > 1) {
		struct iphdr *ip = data + ETH_HLEN;
		__be16 *source_port = (void *)(ip + 1);
		__u32 turn = plan->next++;

		if (plan->next >= plan->flows)
			plan->next = 0;
		*source_port = bpf_htons(PERF_PORT_MIN + (turn & ((1 << PERF_PORT_BITS) - 1)));
		ip->saddr += bpf_htonl(turn >> PERF_PORT_BITS & 0xff);
	}
	bpf_tail_call(ctx, &perf_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int perf_bare(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
