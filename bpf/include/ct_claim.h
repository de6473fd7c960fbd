/* SPDX-License-Identifier: Apache-2.0 */
/* What lives here: which record a new flow of one family has. Included by ct_family.h. */

/* Note where the word of the flow is that a record was in this life (work->CT(next)). */
static __always_inline void CT(note_former)(const struct node *self, struct ct_work *work,
					    const FLOW *flow, __u32 id, __u32 life)
{
	work->CT(next).id = id;
	work->CT(next).life = life;
	/* A tuple that is not of this life is beside one that the record does not have any more. */
	barrier();
	CT(own_tuple)(flow, &work->CT(former));
	work->CT(next).place = CT(place)(self, &work->CT(former));
}

/* Clear what word still names a record, which the caller has claimed, by its former flow. */
__noinline int CT(unname)(__u32 id)
{
	__u32 zero = 0, way, word, *own;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket, *second;
	FLOW *flow = CT(at)(id);
	struct place2 place;

	if (!self || !work || !flow)
		return 0;
	if (unlikely(work->CT(next).id != id || work->CT(next).life != work->used))
		CT(note_former)(self, work, flow, id, work->used);
	place = work->CT(next).place;
	word = place.tag | id;
	bucket = bpf_map_lookup_elem(&CT(tags), &place.first);
	if (!bucket)
		return 0;
	/* No lock: only who has claimed the record makes a word that names it, and has not yet. */
	own = CT(own_word)(bucket, &place);
	if (likely(*own == word)) {
		__sync_val_compare_and_swap(own, word, 0);
		return 0;
	}
#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++)
		if (bucket->words[way] == word)
			__sync_val_compare_and_swap(&bucket->words[way], word, 0);
	if (likely(!bucket->spilled))
		return 0;
	second = bpf_map_lookup_elem(&CT(tags), &place.second);
	if (!second)
		return 0;
#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++)
		if (second->words[way] == word &&
		    __sync_val_compare_and_swap(&second->words[way], word, 0) == word)
			__sync_fetch_and_add(&bucket->spilled, -1);
	return 0;
}

/*
 * The port, with these high bits (1 to 3), that names the record so far in a stretch. Of a table
 * with fewer records than a stretch has, some bits of the port do not count: those are `other`'s.
 */
static __always_inline __u32 CT(port_at)(__u64 base, __u32 high, __u32 in, __u32 other,
					 __u32 records)
{
	__u32 low = records & STRETCH;

	return high << STRETCH_BITS | ((in - (__u32)base) & low) | (other & STRETCH & ~low);
}

/* How far in a CPU is in the stretch of a record. */
static __always_inline __u32 *CT(cursor)(struct ct_work *work, __u32 id)
{
	return &work->CT(cursors)[(id >> STRETCH_BITS) & (CT_CURSORS - 1)];
}

/*
 * How good it is to take a record: FREE_RANK if it is no flow or its time is over, 0 if it may not
 * be taken, and else the more the longer its flow, which may be evicted, has been silent.
 */
static __always_inline __u32 CT(rank)(const FLOW *flow, __u32 life, const struct node *self,
				      __u32 tick)
{
	__u32 silent = tick - flow->seen;

	if ((life & 3) == CLAIMED)
		return 0;
	if (!(life & 1) || is_over(flow->seen, flow->state, self, tick))
		return FREE_RANK;
	/* Seen by another CPU with a later clock: as if right now. */
	return is_weak(flow->state) * ((silent & ~((__s32)silent >> 31)) / 2 + 1);
}

/* Make a record that had this life CLAIMED; false if another CPU was here. */
static __always_inline bool CT(seize)(FLOW *flow, __u32 life)
{
	return __sync_val_compare_and_swap(&flow->life, life, (life | 3) + 3) == life;
}

/* Whether to stop looking for a record after so many. */
static __always_inline bool CT(is_enough)(const struct ct_work *work, __u32 looked)
{
	if (looked == CLAIM_ROW)
		return work->brief;
	return looked == CLAIM_NEAR && work->CT(full) % CLAIM_FULL > CLAIM_FAR;
}

/*
 * Claim a record for `made`, whose number is work->id then: 0, or why not. One that is no flow, or
 * whose time is over, is taken as it is met; else, of the flows that were met and may be evicted,
 * the one that has been silent for the longest. Records are taken in a row, so each CPU makes flows
 * in lines that it has just had, or has next. Where none of a row is free it looks elsewhere in the
 * stretches, too, but only now and then while the table seems full, and not with BRIEFLY.
 */
__noinline __u32 CT(claim)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, records, turn, high, index = 0, in = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct taken *best;
	FLOW *flow;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	records = CT(records)(self);
	high = work->CT(high) ?: 1;
	best = &work->taken;
	best->rank = 0;
#pragma nounroll
	for (turn = 0; turn < CLAIM_TRIES; turn++) {
		__u32 life, rank, port;

		if (!(turn % CLAIM_ROW)) {
			if (CT(is_enough)(work, turn)) {
				/* The next one in vain looks in another stretch. */
				if (work->brief)
					work->CT(high) = high % 3 + 1;
				break;
			}
			if (turn)
				high = high % 3 + 1;
			index = CT(direct)(work->base, high << STRETCH_BITS, records);
			in = *CT(cursor)(work, index);
			if (unlikely(!in))
				in = first_cursor(made->flags);
		}
		port = CT(port_at)(work->base, high, in, bpf_ntohs(made->client_port), records);
		index = CT(direct)(work->base, port, records);
		flow = CT(at)(index);
		if (!flow)
			break;
		life = *(volatile __u32 *)&flow->life;
		rank = CT(rank)(flow, life, self, tick);
		in++;
		/* What the verifier knew of these it would follow, each of them by itself. */
		barrier_var(in);
		barrier_var(high);
		if (rank > best->rank) {
			best->rank = rank;
			best->id = index;
			best->life = life;
			best->port = port;
			best->next = in;
		}
		if (best->rank == FREE_RANK)
			break;
		if (turn % CLAIM_ROW == CLAIM_ROW - 1)
			*CT(cursor)(work, index) = turn < CLAIM_NEAR ? in * 0x6255 + 0x3619 : in;
	}
	/*
	 * A port of the second kind finds a free record nearly anywhere. That says nothing of the
	 * stretches of this backend, whose weak flows would never end then, while it has no such
	 * port left.
	 */
	if (best->rank != FREE_RANK)
		work->CT(full)++;
	else if (work->direct || made->flags & (FLOW_DSR | FLOW_NO_SNAT))
		work->CT(full) = 0;
	/* Other stretches may have room: nobody ends for a flow while it may have another port. */
	if (!best->rank || (work->direct && work->CT(full) && work->CT(full) < CLAIM_FAR))
		return DROP_CT_FULL;
	work->CT(high) = best->port >> STRETCH_BITS;
	*CT(cursor)(work, best->id) = best->next;
	work->id = best->id;
	work->used = best->life;
	flow = CT(at)(work->id);
	/* It was answered since it was looked at, so it stays: the caller tries again. */
	if (!flow || (best->rank != FREE_RANK && !is_weak(flow->state)))
		return DROP_CT_BUSY;
	/* Another CPU was here: likewise. */
	if (!CT(seize)(flow, work->used))
		return DROP_CT_BUSY;
	/* No word to be cleared, and no line of it to be waited for. */
	if (flow->wordless)
		work->used = 0;
	if (best->rank != FREE_RANK)
		count_event(EVENT_EVICTED);
	if (work->direct)
		made->source_port = bpf_htons(best->port);
	return 0;
}

/* Give back what was claimed. */
static __always_inline void CT(release)(__u32 id)
{
	FLOW *flow = CT(at)(id);

	if (flow)
		*(volatile __u32 *)&flow->life = flow->life + 2;
}
