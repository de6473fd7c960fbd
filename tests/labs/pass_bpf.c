// SPDX-License-Identifier: Apache-2.0
/* The program at a veth's far end: it passes everything. See netns.take_answers. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int lab_pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
