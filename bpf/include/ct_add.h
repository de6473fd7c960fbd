/* SPDX-License-Identifier: Apache-2.0 */
/* What lives here: how a flow of one family begins. Included by ct_family.h. */

/* Write `made` and the word that names it. The flow lives from here on. */
static __always_inline void CT(give_birth)(FLOW *flow, FLOW *made, struct ct_work *work,
					   struct index_bucket *first, __u32 tick)
{
	struct index_bucket *bucket = first;

	/*
	 * All but life, which says that the rest is there, and is stored behind it (as unlock()
	 * does). Nobody else writes it: it is claimed.
	 */
	flow->seen = tick;
	__builtin_memcpy(__builtin_assume_aligned((void *)flow + 8, 8),
			 __builtin_assume_aligned((void *)made + 8, 8), sizeof(*flow) - 8);
	if (unlikely(work->both)) {
		bucket = bpf_map_lookup_elem(&CT(tags), &work->place.second);
		__sync_fetch_and_add(&first->spilled, 1);
	}
	if (bucket && work->way < INDEX_WAYS)
		bucket->words[work->way] = work->place.tag | work->id;
	barrier();
	*(volatile __u32 *)&flow->life = flow->life + 1;
}

/* The hash of a reply tuple that has a word; the line of its bucket is asked for. */
static __always_inline __u64 CT(ask_for_word)(const struct node *self, const TUPLE *reply)
{
	__u64 hash = TUPLE_HASH(reply, PORTS_OF(reply), ~self->ct_seed);
	__u32 index = hash & self->CT(reply_mask);
	struct reply_bucket *bucket = bpf_map_lookup_elem(&CT(replies), &index);

	if (bucket)
		*(volatile __u32 *)&bucket->pad;
	return hash;
}

/*
 * Ask for all cache lines that a flow of this tuple will need, at once: one after the other each
 * would be waited for by itself. `reply` is what its replies are taken to have, `direct` that its
 * source port names its record. Whether it certainly has no flow: then CT(begin) need not find its
 * place again.
 */
static __always_inline bool CT(ask_for)(const struct node *self, const TUPLE *tuple,
					const TUPLE *reply, bool direct)
{
	__u32 zero = 0, records = CT(records)(self), in, high, id, version;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket, *next_bucket;
	struct place2 place = CT(place)(self, tuple);
	FLOW *flow;
	__u64 base;

	bucket = bpf_map_lookup_elem(&CT(tags), &place.first);
	if (!bucket || !work)
		return false;
	*(volatile __u32 *)&bucket->spilled;
	base = likely(direct) ? CT(reply_base)(self, reply) : CT(ask_for_word)(self, reply);
	high = work->CT(high) ?: 1;
	id = CT(direct)(base, high << STRETCH_BITS, records);
	in = *CT(cursor)(work, id);
	id = CT(direct)(base, CT(port_at)(base, high, in, 0, records), records);
	flow = CT(at)(id);
	/* Whose word goes with it, if it has one yet. */
	if (likely(flow && flow->life) && !flow->wordless) {
		CT(note_former)(self, work, flow, id, flow->life);
		next_bucket = bpf_map_lookup_elem(&CT(tags), &work->CT(next).place.first);
		if (next_bucket)
			*(volatile __u32 *)&next_bucket->spilled;
	}
	version = *(volatile __u32 *)&bucket->lock;
	barrier();
	if ((version & 1) || CT(may_have)(bucket, place.tag, records))
		return false;
	work->version = version;
	work->place = place;
	work->base = base;
	work->asked_direct = direct;
	return true;
}

/* Find the place of `made`; `how` of CT(add). */
__noinline int CT(begin)(FLOW *made, __u32 how)
{
	__u32 zero = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket;
	TUPLE *tuple;

	if (!made || !self || !work)
		return 0;
	work->direct = !made->source_port && !(made->flags & (FLOW_DSR | FLOW_NO_SNAT));
	work->brief = !!(how & BRIEFLY);
	if (likely((how & LINES_ASKED) && work->direct && work->asked_direct &&
		   ADDR_SAME(made->source, self->SERVICE_ADDR)))
		return 0;
	if (unlikely(how & NO_OTHER_PORT))
		work->CT(full) = CLAIM_FAR;
	/* What was asked for is written over: another port, of another base, may be tried next. */
	work->asked_direct = 0;
	work->version = 1;
	tuple = &work->CT(mine);
	CT(own_tuple)(made, tuple);
	work->place = CT(place)(self, tuple);
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
	if (bucket)
		*(volatile __u32 *)&bucket->spilled;
	tuple = &work->CT(reply);
	CT(reply_tuple)(made, tuple);
	work->base = work->direct ? CT(reply_base)(self, tuple) : CT(ask_for_word)(self, tuple);
	return 0;
}

/*
 * Whether the reply tuple that `made` was given is that of a flow with a word: one that was carried
 * over from an older version's maps, where ports named no records, and whose own record was
 * another's.
 */
static __always_inline bool CT(is_carried)(const struct node *self, struct ct_work *work,
					   const FLOW *made)
{
	__u32 life;

	CT(reply_tuple)(made, &work->CT(reply));
	return CT(find_worded)(self, &work->CT(reply), &life);
}

/*
 * Take the locks and the way that the claimed record's word needs: 0, and its first bucket is
 * locked (or both, work->both), or a reason, and it is claimed no more.
 */
__noinline __u32 CT(enter)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, life, reason;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket;
	FLOW *flow;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
	reason = bucket ? CT(take_way)(work, bucket, self, tick) : DROP_CT_FULL;
	if (reason)
		goto out;
	if (!work->is_new) {
		CT(own_tuple)(made, &work->CT(mine));
		flow = CT(search)(&work->place, CT(records)(self), &work->CT(mine), &life);
		if (flow) {
			reason = FLOW_THERE;
			if (CT(alive)(flow, self, tick))
				goto out_buckets;
			CT(end)(flow, life);
		}
	}
	reason = DROP_CONFLICT;
	if (unlikely(self->flags & NODE_CARRIED) && work->direct && CT(is_carried)(self, work, made))
		goto out_buckets;
	if (likely(work->way != NO_WAY))
		return 0;
	reason = DROP_CT_FULL;
out_buckets:
	CT(leave_buckets)(work);
out:
	CT(release)(work->id);
	return reason;
}

/*
 * Write the word among the replies that the claimed record needs: 0, and its bucket is locked, too,
 * until the flow lives, or two would have one reply tuple; else as CT(enter).
 */
__noinline __u32 CT(enter_reply)(__u32 tick)
{
	__u64 hash, word;	/* as wide as its place on the stack, or 6.1 forgets its bounds */
	__u32 zero = 0, index, reason = DROP_CT_FULL;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct reply_bucket *replies;

	if (!self || !work)
		return reason;
	hash = work->base;
	index = hash & self->CT(reply_mask);
	replies = bpf_map_lookup_elem(&CT(replies), &index);
	if (!replies)
		goto out;
	reason = DROP_CT_BUSY;
	if (!lock(&replies->lock))
		goto out;
	word = CT(word_for)(replies, &work->CT(reply), &work->CT(former), hash, work->id, self, tick);
	barrier_var(word);
	reason = word - NO_WORD;
	if (word < REPLY_WAYS) {
		replies->words[word] = (__u64)tag_of(hash) << 32 | work->id;
		work->reply_bucket = index;
		work->replies = 1;
		return 0;
	}
	unlock(&replies->lock);
out:
	CT(leave_buckets)(work);
	CT(release)(work->id);
	return reason;
}

/* Make the record, for which all is ready, the flow `made`, and let all locks go. */
__noinline int CT(begin_life)(FLOW *made, __u32 tick)
{
	__u32 zero = 0;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket;
	FLOW *flow;

	if (!made || !work)
		return 0;
	DELTAS(made);
	flow = CT(at)(work->id);
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
	if (flow && bucket)
		CT(give_birth)(flow, made, work, bucket, tick);
	if (unlikely(work->replies)) {
		struct reply_bucket *replies = bpf_map_lookup_elem(&CT(replies), &work->reply_bucket);

		work->replies = 0;
		if (replies)
			unlock(&replies->lock);
	}
	CT(leave_buckets)(work);
	return 0;
}

/* Make the record that was claimed the flow `made`: 0, or why not, and it is claimed no more. */
static __always_inline __u32 CT(settle)(const struct ct_work *work, FLOW *made, __u32 tick)
{
	__u32 reason;

	if (likely(work->used))
		CT(unname)(work->id);
	reason = CT(enter)(made, tick);
	if (!reason && unlikely(!work->direct && !(made->flags & FLOW_DSR)))
		reason = CT(enter_reply)(tick);
	if (!reason)
		CT(begin_life)(made, tick);
	return reason;
}

/*
 * Make `made` a flow (its life and seen are set here, and its source port if that is 0 and ours),
 * and ct_work.id its number. 0, or the reason why not: DROP_CONFLICT if the reply tuple is
 * another's (the caller may try another port), DROP_CT_FULL, DROP_CT_BUSY. FLOW_THERE: another CPU
 * made this very flow meanwhile. Several functions in turn, because the stack of one would be
 * too large.
 */
static __always_inline __u32 CT(add)(FLOW *made, __u32 tick, __u32 how)
{
	__u32 reason = DROP_CT_FULL, zero = 0, turn;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);

	if (!work)
		return reason;
	CT(begin)(made, how);
#pragma nounroll
	for (turn = 0; turn < CLAIM_ROUNDS; turn++) {
		reason = CT(claim)(made, tick);
		if (likely(!reason) ||
		    (reason == DROP_CT_FULL && (work->direct || (how & BRIEFLY))))
			break;
	}
	return reason ?: CT(settle)(work, made, tick);
}

/* The flow that CT(add) made or found there, a moment ago; it may be another's record by now. */
static __always_inline FLOW *CT(find_added)(const struct node *node, const TUPLE *tuple,
					    __u32 *life)
{
	__u32 zero = 0;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	FLOW *flow = work ? CT(at)(work->id) : NULL;
	struct place2 place;

	if (likely(flow)) {
		*life = *(volatile __u32 *)&flow->life;
		barrier();
		if (likely((*life & 1) && CT(is_of)(flow, tuple)))
			return flow;
	}
	place = CT(place)(node, tuple);
	return CT(search)(&place, CT(records)(node), tuple, life);
}
