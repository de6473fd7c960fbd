/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the clearing of one family's words of former flows. Included by tidy.bpf.c once
 * for each, with the names that ct_family.h has.
 */

/* Clear the word of a record if it was a flow once, is none, and has one still. */
static long CT(tidy)(__u32 index, struct tidy *told)
{
	__u32 zero = 0, id = told->first + index, life;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	FLOW *flow = CT(at)(id);

	if (!work || !flow)
		return 1;
	life = *(volatile __u32 *)&flow->life;
	if (!life || (life & 3) || flow->wordless || !CT(seize)(flow, life))
		return 0;
	work->used = life;
	/* Nothing was noted of it here, whatever the last record had for a number and a life. */
	work->CT(next).life = 0;
	CT(unname)(id);
	flow->wordless = 1;
	barrier();
	CT(release)(id);
	told->cleared++;
	return 0;
}
