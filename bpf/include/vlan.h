/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: taking a client's 802.1Q tags off on the way to OVS, and putting them on again
 * on the way back. A flow keeps them in `vlan`: one tag is 802.1Q's; of two the outer one is
 * 802.1ad's. A tag of VLAN 0 and priority 0 says nothing, and is not put back.
 *
 * Each of these moves the start of the packet: every pointer and offset taken before is void.
 */
#ifndef MILLRACE_VLAN_H
#define MILLRACE_VLAN_H

#include "frame.h"

struct macs {
	__u8 dest[ETH_ALEN];
	__u8 source[ETH_ALEN];
};

/* The ethertype behind the last tag is where it has to be already. */
static __always_inline int pop_tags(struct xdp_md *ctx, __u32 tags)
{
	struct macs macs;

	if (!tags)
		return 0;
	if (take(ctx, 0, &macs, sizeof(macs)) || put(ctx, 4 * tags, &macs, sizeof(macs)))
		return -1;
	return bpf_xdp_adjust_head(ctx, 4 * tags);
}

/* Not changed at all if there is no room in front. */
static __always_inline int push_tags(struct xdp_md *ctx, const __be16 *vlan)
{
	struct {
		struct macs macs;
		__be16 tags[4];
	} head;
	__u32 tags = vlan[1] ? 2 : vlan[0] ? 1 : 0;

	if (!tags)
		return 0;
	if (take(ctx, 0, &head.macs, sizeof(head.macs)))
		return -1;
	head.tags[0] = tags == 2 ? bpf_htons(ETH_P_8021AD) : bpf_htons(ETH_P_8021Q);
	head.tags[1] = vlan[0];
	head.tags[2] = bpf_htons(ETH_P_8021Q);
	head.tags[3] = vlan[1];
	if (bpf_xdp_adjust_head(ctx, -(int)(4 * tags)))
		return -1;
	return put(ctx, 0, &head, sizeof(head.macs) + (tags == 2 ? 8 : 4));
}

#endif
