/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the adoption of one family's flows. Included by adopt.bpf.c once for each, with
 * the names that ct_family.h has.
 *
 * Invariants:
 * - What a packet made of a flow here is newer than what the other version's maps say: it stays.
 * - No two flows have one reply tuple, also where one has a word and the port of the other names
 *   its record: who makes the latter claims first and looks at the words then (CT(enter)); who
 *   makes the former writes the word first and looks at the record then.
 */

/* Claim the record that the port of `made` names, if it is no flow: 0, or why not. */
static __always_inline __u32 CT(claim_named)(const FLOW *made, const struct node *self,
					     struct ct_work *work, __u32 tick)
{
	__u32 id, life;
	FLOW *flow;

	work->base = CT(reply_base)(self, &work->CT(reply));
	id = CT(direct)(work->base, bpf_ntohs(made->source_port), CT(records)(self));
	flow = CT(at)(id);
	if (!flow)
		return DROP_CT_FULL;
	life = *(volatile __u32 *)&flow->life;
	barrier();
	if (CT(rank)(flow, life, self, tick) != FREE_RANK)
		return DROP_CONFLICT;
	if (!CT(seize)(flow, life))
		return DROP_CT_BUSY;
	work->id = id;
	work->used = life;
	work->direct = 1;
	return 0;
}

/* Whether the record that the port of `made` names is, or may become, a flow of its reply tuple. */
static __always_inline bool CT(has_twin)(const FLOW *made, const struct node *self,
					 struct ct_work *work)
{
	TUPLE *tuple = &work->CT(reply);
	__u32 id, life;
	FLOW *flow;

	CT(reply_tuple)(made, tuple);
	id = CT(direct)(CT(reply_base)(self, tuple), bpf_ntohs(made->source_port),
			CT(records)(self));
	flow = CT(at)(id);
	if (!flow || id == work->id)
		return false;
	/* What was written before is seen before this is read. */
	__sync_fetch_and_add(&work->way, 0);
	life = *(volatile __u32 *)&flow->life;
	barrier();
	return (life & 3) == CLAIMED || ((life & 1) && CT(is_reply_of)(flow, tuple));
}

/* Whether a packet was here later than `made` was seen last. */
static __always_inline bool CT(is_newer)(const FLOW *flow, const FLOW *made)
{
	return (__s32)(flow->seen - made->seen) > 0;
}

/* Have `made` as a flow: 0, or why not. */
__noinline __u32 CT(adopt)(FLOW *made, __u32 orders)
{
	__u32 zero = 0, tick, life, reason;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	bool named;
	FLOW *flow;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	tick = tick_of(self);
	/* Padding once, and written with the rest of the record. */
	made->wordless = 0;
	CT(begin)(made, 0);
	flow = CT(search)(&work->place, CT(records)(self), &work->CT(mine), &life);
	if (orders & ADOPT_END) {
		if (flow && CT(is_reply_of)(flow, &work->CT(reply)) && !CT(is_newer)(flow, made))
			CT(end)(flow, life);
		return 0;
	}
	if (is_over(made->seen, made->state, self, tick))
		return 0;
	if (flow && CT(alive)(flow, self, tick)) {
		if (CT(is_reply_of)(flow, &work->CT(reply))) {
			if (!CT(is_newer)(flow, made)) {
				flow->seen = made->seen;
				flow->state = made->state;
				flow->flags = made->flags;
			}
			return 0;
		}
		/*
		 * Another one of this client: begun anew, or met in the middle before the one that
		 * it is was carried over. The latter's backend knows it by the other's port.
		 */
		if (is_weak(made->state) ||
		    (flow->state != CT_MIDDLE && flow->state != CT_UDP_ONE_WAY))
			return 0;
		CT(end)(flow, life);
	}
	named = is_direct_port(made->source_port) && IS_OURS(self, made->source) &&
		!(made->flags & FLOW_DSR);
	reason = named ? CT(claim_named)(made, self, work, tick) : DROP_CONFLICT;
	if (!reason) {
		reason = CT(settle)(work, made, tick);
	} else if (orders & ADOPT_ANYWHERE) {
		reason = CT(add)(made, tick, 0);
		if (!reason && named && CT(has_twin)(made, self, work)) {
			flow = CT(at)(work->id);
			if (flow)
				CT(end)(flow, flow->life);
			reason = DROP_CONFLICT;
		}
	}
	if (reason)
		return reason;
	flow = CT(at)(work->id);
	if (flow)
		flow->seen = made->seen;
	return 0;
}
