/* SPDX-License-Identifier: Apache-2.0 */
/* What lives here: everything that is not a plain TCP or UDP packet. */
#ifndef MILLRACE_RARE_H
#define MILLRACE_RARE_H

#include "flows.h"
#include "verdict.h"

/* A packet that the hot path of `uplink` does not know, counted. */
__noinline int rare_uplink(struct xdp_md *ctx)
{
	return verdict(ctx, XDP_PASS, XSK_OTHER);
}

/* The same for `svc`. */
__noinline int rare_svc(struct xdp_md *ctx)
{
	return verdict(ctx, XDP_DROP, DROP_SVC_MALFORMED);
}

/* Answer a packet in place; `kind` is one of the reasons ANSWER_*, OPEN_REFUSE for a refusal. */
__noinline int answer(struct xdp_md *ctx, __u32 kind, __u32 value)
{
	barrier_var(value);
	return verdict(ctx, XDP_DROP, kind == OPEN_REFUSE ? DROP_NO_BACKEND : kind);
}

#endif
