/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the one exit of a program. Everything else returns an outcome; only verdict()
 * turns it into an XDP action, and counts it by its reason.
 */
#ifndef MILLRACE_VERDICT_H
#define MILLRACE_VERDICT_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "maps.h"

static __always_inline int verdict(struct xdp_md *ctx, __u32 action, __u32 reason)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter) {
		counter->packets++;
		counter->bytes += ctx->data_end - ctx->data;
	}
	return action;
}

#endif
