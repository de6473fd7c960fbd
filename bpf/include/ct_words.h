/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the words of one family that name records: where a new one goes, and the locks
 * that it takes. Included by ct_family.h.
 */

/* End a flow that may be evicted, whatever bucket it is in; false if another CPU was faster. */
static __always_inline bool CT(end_weak)(__u32 id)
{
	FLOW *flow = CT(at)(id);
	__u32 life;

	if (!flow)
		return false;
	life = *(volatile __u32 *)&flow->life;
	barrier();
	return (life & 1) && is_weak(flow->state) &&
	       __sync_val_compare_and_swap(&flow->life, life, life + 1) == life;
}

/*
 * The word for record `id` among the replies, in the bucket of its new reply tuple, whose lock the
 * caller holds: 0..REPLY_WAYS-1, or NO_WORD and the reason why not. Two flows of one reply tuple
 * have one tag, so other words are only looked at if none is empty. A word that the record left
 * there in a former life is taken again: nothing is ever there twice. If all words are of living
 * flows, the weak one that has been silent for the longest ends: a bucket of replies fills up long
 * before the table does, and who never answered must not keep others out there either.
 */
static __always_inline __u32 CT(word_for)(const struct reply_bucket *bucket, const TUPLE *tuple,
					  TUPLE *now, __u64 hash, __u32 id,
					  const struct node *self, __u32 tick)
{
	__u32 i, index = hash & self->CT(reply_mask), tag = tag_of(hash);
	__u32 room = NO_WORD, own = NO_WORD, weak = NO_WORD, silent = 0, victim = 0;

#pragma nounroll
	for (i = 0; i < REPLY_WAYS; i++) {
		__u64 word = bucket->words[i];
		FLOW *other;

		if (!word) {
			room = i;
		} else if ((__u32)word == id) {
			own = i;
		} else if (word >> 32 == tag) {
			other = CT(at)((__u32)word);
			if (other && CT(alive)(other, self, tick) &&
			    CT(is_reply_of)(other, tuple) && !(other->flags & FLOW_DSR))
				return NO_WORD + DROP_CONFLICT;
		}
	}
	if (own != NO_WORD)
		return own;
	if (room != NO_WORD)
		return room;
#pragma nounroll
	for (i = 0; i < REPLY_WAYS; i++) {
		__u64 word = bucket->words[i];
		FLOW *other = CT(at)((__u32)word);

		if (!other || !CT(alive)(other, self, tick))
			return i;
		/* Born again with another reply tuple? Then this word is a leftover. */
		CT(reply_tuple)(other, now);
		hash = TUPLE_HASH(now, PORTS_OF(now), ~self->ct_seed);
		if ((hash & self->CT(reply_mask)) != index || tag_of(hash) != word >> 32)
			return i;
		if (is_weak(other->state) && tick - other->seen >= silent) {
			silent = tick - other->seen;
			victim = (__u32)word;
			weak = i;
		}
	}
	if (weak != NO_WORD && CT(end_weak)(victim)) {
		count_event(EVENT_EVICTED_REPLY);
		return weak;
	}
	return NO_WORD + DROP_CT_FULL;
}

/* Whether a bucket may have a word of this tag, or have spilled one. */
static __always_inline bool CT(may_have)(const struct index_bucket *bucket, __u32 tag,
					 __u32 records)
{
	__u64 found = 0;
	__u32 way;

#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++) {
		__u64 borrowed = (__u64)((bucket->words[way] ^ tag) & ~records) - 1;

		/* No branch: which tags there are is nothing that could be predicted. */
		barrier_var(borrowed);
		found |= borrowed;
	}
	return found >> 63 || bucket->spilled;
}

/* A way of a bucket that has no word; NO_WAY: there is none. Without a branch, as may_have. */
static __always_inline __u32 CT(free_way)(const struct index_bucket *bucket)
{
	__u64 way, found = NO_WAY;

#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++) {
		__u64 borrowed = (__s64)((__u64)bucket->words[way] - 1) >> 63;

		barrier_var(borrowed);
		found ^= (found ^ way) & borrowed;
	}
	return found;
}

/* The way of a former word of this tag, as a tuple leaves that comes again; NO_WAY: none. */
static __noinline __u32 CT(former_way)(const struct index_bucket *bucket,
				       const struct place2 *place, __u32 records)
{
	__u32 way;

#pragma nounroll
	for (way = 0; way < INDEX_WAYS; way++) {
		__u32 word = bucket->words[way];
		FLOW *flow;

		if (word && (word & ~records) == place->tag) {
			flow = CT(at)(word & records);
			if (!flow || !(flow->life & 1))
				return way;
		}
	}
	return NO_WAY;
}

/*
 * Where all ways have words: one whose flow is over; if there is none and `evict` is set, that of
 * the weak one that was silent for the longest, which ends.
 */
static __noinline __u32 CT(way_of_another)(const struct index_bucket *bucket,
					   const struct node *self, __u32 tick, bool evict)
{
	__u32 way, found = NO_WAY, silent = 0, victim = 0, records = CT(records)(self);

#pragma nounroll
	for (way = 0; way < INDEX_WAYS; way++) {
		__u32 id = bucket->words[way] & records;
		FLOW *flow = CT(at)(id);

		if (!flow || !CT(alive)(flow, self, tick))
			return way;
		if (is_weak(flow->state) && tick - flow->seen >= silent) {
			silent = tick - flow->seen;
			victim = id;
			found = way;
		}
	}
	if (!evict || found == NO_WAY || !CT(end_weak)(victim))
		return NO_WAY;
	count_event(EVENT_EVICTED);
	return found;
}

/* Lock the second bucket, too: 0, or DROP_CT_BUSY and none is locked. The lower one comes first. */
static __always_inline __u32 CT(lock_both)(const struct place2 *place, struct index_bucket *first,
					   struct index_bucket *second)
{
	bool in_order = place->first < place->second;

	if (!in_order)
		unlock(&first->lock);
	if (!lock(&second->lock)) {
		if (in_order)
			unlock(&first->lock);
		return DROP_CT_BUSY;
	}
	if (!in_order && !lock(&first->lock)) {
		unlock(&second->lock);
		return DROP_CT_BUSY;
	}
	return 0;
}

/*
 * Lock the first bucket of a place, and the second if the first has no way left, and choose one:
 * work->way, of the second if work->both says so. 0, or why not.
 */
static __always_inline __u32 CT(take_way)(struct ct_work *work, struct index_bucket *first,
					  const struct node *self, __u32 tick)
{
	const struct place2 *place = &work->place;
	__u32 records = CT(records)(self), version;
	struct index_bucket *second;

	work->both = 0;
	work->way = place->way;
	version = lock(&first->lock);
	if (!version)
		return DROP_CT_BUSY;
	/*
	 * Nobody was here since its words were looked at (CT(ask_for)), or none is of its tag:
	 * there is no flow of this tuple, and while the lock is held none begins.
	 */
	work->is_new = version == work->version + 1 || !CT(may_have)(first, place->tag, records);
	if (!work->is_new) {
		work->way = CT(former_way)(first, place, records);
		if (work->way != NO_WAY)
			return 0;
		work->way = place->way;
	}
	if (likely(!*CT(own_word)(first, place)))
		return 0;
	work->way = CT(free_way)(first);
	if (likely(work->way != NO_WAY))
		return 0;
	/* A table that was in use has a word for each record, of a flow or of what once was one. */
	work->way = CT(way_of_another)(first, self, tick, false);
	if (likely(work->way != NO_WAY))
		return 0;
	second = bpf_map_lookup_elem(&CT(tags), &place->second);
	work->is_new = 0;	/* who comes first may be let in between */
	if (second && place->first != place->second) {
		if (CT(lock_both)(place, first, second))
			return DROP_CT_BUSY;
		work->both = 1;
		work->way = CT(free_way)(second);
		if (work->way == NO_WAY)
			work->way = CT(way_of_another)(second, self, tick, true);
	} else {
		work->way = CT(way_of_another)(first, self, tick, true);
	}
	return 0;
}

static __always_inline void CT(leave_buckets)(struct ct_work *work)
{
	struct index_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);

	if (bucket)
		unlock(&bucket->lock);
	if (!work->both)
		return;
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.second);
	if (bucket)
		unlock(&bucket->lock);
}
