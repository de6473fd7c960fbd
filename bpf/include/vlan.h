/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: taking a client's 802.1Q tags off on the way to OVS, and putting them on again
 * on the way back. A flow keeps them in `vlan`: one tag is 802.1Q's; of two the outer one is
 * 802.1ad's. A tag of VLAN 0 and priority 0 says nothing, and is not put back.
 *
 * It moves the start of the packet: every pointer and offset taken before is void.
 */
#ifndef MILLRACE_VLAN_H
#define MILLRACE_VLAN_H

#include "frame.h"

/*
 * These MACs and tags in place of MACs and `had` tags. The ethertype behind the last tag is where
 * it has to be already. Nothing is changed if there is no room in front.
 */
static __always_inline int retag(struct xdp_md *ctx, const struct macs *macs, __u32 had,
				 const __be16 *vlan)
{
	__u32 tags = vlan[1] ? 2 : vlan[0] ? 1 : 0;
	__be16 head[4] = {
		tags == 2 ? bpf_htons(ETH_P_8021AD) : bpf_htons(ETH_P_8021Q), vlan[0],
		bpf_htons(ETH_P_8021Q), vlan[1],
	};

	if (had != tags && bpf_xdp_adjust_head(ctx, (int)(4 * had) - (int)(4 * tags)))
		return -1;
	if (put(ctx, 0, macs, sizeof(*macs)))
		return -1;
	if (!tags)
		return 0;
	if (tags == 1)
		return put(ctx, sizeof(*macs), head, 4);
	return put(ctx, sizeof(*macs), head, 8);
}

#endif
