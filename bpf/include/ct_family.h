/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack of one family. Included by ct.h once for each, with CT(name) giving
 * ct4_name or ct6_name, and ADDR_SAME, ADDR_COPY, TUPLE_HASH for its addresses.
 *
 * Invariants (abi.h has the layout):
 * - `life` is odd while a record is a flow. A reader takes what it needs and then looks whether
 *   `life` is what it was before.
 * - A record is only born under the lock of the first bucket of its tuple, so no tuple has two flows,
 *   and under that of the bucket that it is in, so no record has two births; its word among the
 *   replies is only written under that bucket's lock, so no two flows have one reply tuple.
 * - Locks of two buckets are taken in the order of their numbers, replies last, each for a bounded
 *   time.
 * - Ending a flow is one compare-and-swap of `life`: tags and words of dead records mean nothing.
 */

static __always_inline FLOW *CT(at)(__u32 id)
{
	return bpf_map_lookup_elem(&CT_RECORDS, &id);
}

static __always_inline bool CT(alive)(const FLOW *flow, const struct node *node, __u32 tick)
{
	return (flow->life & 1) && !is_over(flow->seen, flow->state, node, tick);
}

static __always_inline bool CT(is_of)(const FLOW *flow, const TUPLE *tuple)
{
	return ADDR_SAME(flow->client, tuple->saddr) && ADDR_SAME(flow->vip, tuple->daddr) &&
	       PORTS(flow->client_port) == PORTS(tuple->sport) && flow->proto == tuple->proto;
}

static __always_inline bool CT(is_reply_of)(const FLOW *flow, const TUPLE *tuple)
{
	return ADDR_SAME(flow->backend, tuple->saddr) && ADDR_SAME(flow->source, tuple->daddr) &&
	       PORTS(flow->backend_port) == PORTS(tuple->sport) && flow->proto == tuple->proto;
}

/*
 * The living record of a bucket that is of this tuple, and its life: a reader that wants one flow's
 * fields takes them and then looks whether `life` is what it was here.
 */
static __always_inline FLOW *CT(find_in)(const struct tag_bucket *bucket, __u32 index, __u32 tag,
					 const TUPLE *tuple, __u32 *life)
{
	__u32 way;

#pragma unroll
	for (way = 0; way < CT_WAYS; way++) {
		if (unlikely(bucket->tags[way] == tag)) {
			FLOW *flow = CT(at)(index * CT_WAYS + way);

			if (flow) {
				*life = *(volatile __u32 *)&flow->life;
				barrier();
				if ((*life & 1) && CT(is_of)(flow, tuple))
					return flow;
			}
		}
	}
	return NULL;
}

/* Where else than in its own way the flow of a tuple may be. */
static __always_inline FLOW *CT(find_by_tags)(const struct place2 *place, const TUPLE *tuple,
					      __u32 *life)
{
	struct tag_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &place->first);
	FLOW *flow;

	if (!bucket)
		return NULL;
	flow = CT(find_in)(bucket, place->first, place->tag, tuple, life);
	if (flow || likely(!bucket->spilled))
		return flow;
	bucket = bpf_map_lookup_elem(&CT(tags), &place->second);
	return bucket ? CT(find_in)(bucket, place->second, place->tag, tuple, life) : NULL;
}

/*
 * The flow of a client's packet, if it lives (its time may be over: ask CT(alive)). Most flows are in
 * the way that their hash names: one cache line, and no tag is read.
 */
static __always_inline FLOW *CT(find_living)(const struct node *node, const TUPLE *tuple,
					     __u32 *life)
{
	struct place2 place = place_of(TUPLE_HASH(tuple, node->ct_seed), node->CT(mask));
	FLOW *flow = CT(at)(place.first * CT_WAYS + place.way);

	if (likely(flow)) {
		*life = *(volatile __u32 *)&flow->life;
		barrier();
		if (likely((*life & 1) && CT(is_of)(flow, tuple)))
			return flow;
	}
	return CT(find_by_tags)(&place, tuple, life);
}

/* The same, where the tags have to be right: a flow's own way may be another's by now. */
static __noinline FLOW *CT(search)(const struct place2 *place, const TUPLE *tuple, __u32 *life)
{
	return CT(find_by_tags)(place, tuple, life);
}

static __always_inline FLOW *CT(find)(const struct node *node, const TUPLE *tuple)
{
	__u32 life;

	return CT(find_living)(node, tuple, &life);
}

/*
 * The flow that a backend's packet is the reply of. One whose time is over is none: its tuple may be
 * a later flow's, whose word is behind its own.
 */
static __always_inline FLOW *CT(find_living_reply)(const struct node *node, const TUPLE *tuple,
						   __u32 *life)
{
	__u64 hash = TUPLE_HASH(tuple, ~node->ct_seed);
	__u32 index = hash & node->CT(reply_mask), tag = tag_of(hash), i;
	struct reply_bucket *bucket = bpf_map_lookup_elem(&CT(replies), &index);

	if (!bucket)
		return NULL;
#pragma unroll
	for (i = 0; i < REPLY_WAYS; i++) {
		__u64 word = bucket->words[i];

		if (word >> 32 == tag) {
			FLOW *flow = CT(at)((__u32)word);

			if (flow) {
				*life = *(volatile __u32 *)&flow->life;
				barrier();
				if ((*life & 1) && CT(is_reply_of)(flow, tuple) &&
				    !(flow->flags & FLOW_DSR) &&
				    !is_over(flow->seen, flow->state, node, tick_of(node)))
					return flow;
			}
		}
	}
	return NULL;
}

static __always_inline FLOW *CT(find_reply)(const struct node *node, const TUPLE *tuple)
{
	__u32 life;

	return CT(find_living_reply)(node, tuple, &life);
}

/* End the flow that had this life. */
static __always_inline void CT(end)(FLOW *flow, __u32 life)
{
	__sync_val_compare_and_swap(&flow->life, life, life + 1);
}

static __always_inline void CT(reply_tuple)(const FLOW *flow, TUPLE *tuple)
{
	ADDR_COPY(tuple->saddr, flow->backend);
	ADDR_COPY(tuple->daddr, flow->source);
	tuple->sport = flow->backend_port;
	tuple->dport = flow->source_port;
	tuple->proto = flow->proto;
}

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
 * caller holds: 0..REPLY_WAYS-1, or NO_WORD and the reason why not. Two flows of one reply tuple have
 * one tag, so other words are only looked at if none is empty. A word that the record left there in
 * a former life is taken again: nothing is ever there twice. If all words are of living flows, the
 * weak one that has been silent for the longest ends: a bucket of replies fills up long before the
 * table does, and who never answered must not keep others out there either.
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
		hash = TUPLE_HASH(now, ~self->ct_seed);
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

/* How many ways of a bucket have no flow, as their tags alone say: those never used, or cleared. */
static __always_inline __u32 CT(untagged)(const struct tag_bucket *bucket)
{
	__u32 way, found = 0;

#pragma unroll
	for (way = 0; way < CT_WAYS; way++) {
		__u64 borrowed = (__u64)bucket->tags[way] - 1;

		/* No branch: which ways are free is nothing that could be predicted. */
		barrier_var(borrowed);
		found += borrowed >> 63;
	}
	return found;
}

/* Whether a bucket may have a flow of this tag, or have spilled one. */
static __always_inline bool CT(may_have)(const struct tag_bucket *bucket, __u32 tag)
{
	__u64 found = 0;
	__u32 way;

#pragma unroll
	for (way = 0; way < CT_WAYS; way++) {
		__u64 borrowed = (__u64)(bucket->tags[way] ^ tag) - 1;

		barrier_var(borrowed);
		found |= borrowed;
	}
	return found >> 63 || bucket->spilled;
}

/*
 * A free way of the first bucket for a new flow, its own if that is free: the record's number, or
 * NO_WAY if fewer than NEAR_SPARE of its ways are free. `roomy`: tags said, a moment ago, that so
 * many are; where records have to be looked at, the tags of those that are over are cleared, so that the next flow need not look.
 */
static __always_inline __u32 CT(near_way)(struct tag_bucket *bucket, const struct place2 *place,
					  bool roomy, const struct node *self, __u32 tick)
{
	__u32 i, found = NO_WAY, spare = 0, way = place->way;
	__u32 own = place->first * CT_WAYS + way;

	if (likely(roomy)) {
		FLOW *flow = CT(at)(own);

		if (!bucket->tags[way % CT_WAYS] || (flow && !CT(alive)(flow, self, tick)))
			return own;
	}
#pragma nounroll
	for (i = 0; i < CT_WAYS; i++, way++) {
		__u32 id;

		way %= CT_WAYS;
		id = place->first * CT_WAYS + way;
		if (bucket->tags[way]) {
			FLOW *flow = CT(at)(id);
			__u32 life;

			if (!flow || CT(alive)(flow, self, tick))
				continue;
			life = flow->life;
			if (life & 1)
				CT(end)(flow, life);
			bucket->tags[way] = 0;
		}
		if (found == NO_WAY)
			found = id;
		if (++spare == NEAR_SPARE)
			return found;
	}
	return NO_WAY;
}

/*
 * The best way of a bucket for a new flow: rank << 32 | record << 4 | living flows of the bucket.
 * A way that is free has FREE_RANK, a weak flow the more the longer it has been silent, and others
 * have 0, which is no way at all.
 */
__noinline __u64 CT(best_way)(__u32 index, __u32 tick)
{
	__u32 way, zero = 0, used = 0;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	__u64 best = 0;

	if (!self)
		return 0;
	for (way = 0; way < CT_WAYS; way++) {
		__u32 id = index * CT_WAYS + way, silent, rank;
		FLOW *flow = CT(at)(id);
		__u64 mine;

		if (!flow)	/* never; no return of its own, whose value would need more stack */
			break;
		silent = tick - flow->seen;
		/* Seen by another CPU with a later clock: as if right now. */
		rank = is_weak(flow->state) * ((silent & ~((__s32)silent >> 31)) / 2 + 1);
		if (CT(alive)(flow, self, tick))
			used++;
		else
			rank = FREE_RANK;
		mine = (__u64)rank << 32 | id << 4;
		if (rank && mine > best)
			best = mine;
	}
	return best | used;
}

/* The best way of both buckets: free before anybody's, then the emptier bucket, then silence. */
static __always_inline __u64 CT(best_of_both)(const struct place2 *place, __u32 tick)
{
	__u64 best = CT(best_way)(place->first, tick), there;

	if ((best & 15) <= CT_WAYS / 2)
		return best;
	there = CT(best_way)(place->second, tick);
	if (there >> 32 > best >> 32 ||
	    (there >> 32 == FREE_RANK && best >> 32 == FREE_RANK && (there & 15) < (best & 15)))
		return there;
	return best;
}

/* Lock the first bucket of a place and look for a way there; else lock both. 0, or why not. */
static __always_inline __u32 CT(take_buckets)(struct ct_work *work, struct tag_bucket *first,
					      bool roomy, const struct node *self, __u32 tick)
{
	struct place2 *place = &work->place;
	bool in_order = place->first < place->second;
	struct tag_bucket *second;

	if (!lock(&first->lock))
		return DROP_CT_BUSY;
	work->both = 0;
	work->id = CT(near_way)(first, place, roomy, self, tick);
	if (likely(work->id != NO_WAY) || place->first == place->second)
		return 0;
	second = bpf_map_lookup_elem(&CT(tags), &place->second);
	if (!second) {
		unlock(&first->lock);
		return DROP_CT_FULL;
	}
	/* The lower one is locked first. */
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
	work->both = 1;
	return 0;
}

static __always_inline void CT(leave_buckets)(struct ct_work *work)
{
	struct tag_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);

	if (bucket)
		unlock(&bucket->lock);
	if (!work->both)
		return;
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.second);
	if (bucket)
		unlock(&bucket->lock);
}

/* Write `made` and its tag, its word among the replies being there. The flow lives from here on. */
static __always_inline void CT(give_birth)(FLOW *flow, FLOW *made, const struct ct_work *work,
					   __u32 tick)
{
	__u32 index = work->id / CT_WAYS;
	struct tag_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &index);

	/*
	 * All but life, which says that the rest is there, and is stored behind it (as unlock() does).
	 * Nobody else writes it: it is even, and only who holds this record's bucket makes it odd.
	 */
	flow->seen = tick;
	__builtin_memcpy(__builtin_assume_aligned((void *)flow + 8, 8),
			 __builtin_assume_aligned((void *)made + 8, 8), sizeof(*flow) - 8);
	if (bucket)
		bucket->tags[work->id % CT_WAYS] = work->place.tag;
	if (index != work->place.first) {
		bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
		if (bucket)
			bucket->spilled = 1;
	}
	barrier();
	*(volatile __u32 *)&flow->life = flow->life + 1;
}

/*
 * Ask for all cache lines that a flow of these tuples will need, at once: one after the other each
 * would be waited for by itself. What is read is not looked at. The other ways are needed where tags
 * are of flows that are over, as in any table that was in use for a while.
 */
static __always_inline void CT(ask_for)(const struct node *self, const TUPLE *tuple,
					const TUPLE *reply)
{
	struct place2 place = place_of(TUPLE_HASH(tuple, self->ct_seed), self->CT(mask));
	__u32 index = TUPLE_HASH(reply, ~self->ct_seed) & self->CT(reply_mask), i;
	struct tag_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &place.first);
	FLOW *flow = CT(at)(place.first * CT_WAYS + place.way);
	struct reply_bucket *replies = bpf_map_lookup_elem(&CT(replies), &index);

	if (!flow || !bucket || !replies)
		return;
	*(volatile __u32 *)&flow->life;
	*(volatile __u32 *)&flow->service_id;
	*(volatile __u32 *)&replies->pad;
	*(volatile __u32 *)&bucket->spilled;
#pragma unroll
	for (i = 1; i < NEAR_SPARE; i++) {
		flow = CT(at)(place.first * CT_WAYS + (place.way + i) % CT_WAYS);
		if (flow)
			*(volatile __u32 *)&flow->life;
	}
}

/*
 * The same for a flow that nothing was asked for yet, and for what only its bucket says that it needs:
 * behind a lock each line would be waited for by itself. Whether tags say that there is room.
 */
static __always_inline bool CT(fetch)(const struct ct_work *work, const struct tag_bucket *bucket,
				      const struct node *self)
{
	__u32 index = work->reply_hash & self->CT(reply_mask), i;
	struct reply_bucket *replies = bpf_map_lookup_elem(&CT(replies), &index);

	if (replies)
		*(volatile __u32 *)&replies->pad;
	if (likely(CT(untagged)(bucket) >= NEAR_SPARE))
		return true;
#pragma unroll
	for (i = 1; i < NEAR_SPARE; i++) {
		FLOW *flow = CT(at)(work->place.first * CT_WAYS + (work->place.way + i) % CT_WAYS);

		if (flow)
			*(volatile __u32 *)&flow->life;
	}
	return false;
}

/* Lock what `made` needs, and choose its way: 0, and its buckets are locked, or why not. */
__noinline __u32 CT(begin)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, reason;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct tag_bucket *bucket;
	TUPLE *tuple;
	FLOW *flow;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	tuple = &work->CT(mine);
	ADDR_COPY(tuple->saddr, made->client);
	ADDR_COPY(tuple->daddr, made->vip);
	tuple->sport = made->client_port;
	tuple->dport = made->vip_port;
	tuple->proto = made->proto;
	work->place = place_of(TUPLE_HASH(tuple, self->ct_seed), self->CT(mask));
	work->is_free = 1;
	CT(reply_tuple)(made, &work->CT(other));
	work->reply_hash = TUPLE_HASH(&work->CT(other), ~self->ct_seed);
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
	if (!bucket)
		return DROP_CT_FULL;
	reason = CT(take_buckets)(work, bucket, CT(fetch)(work, bucket, self), self, tick);
	if (reason)
		return reason;
	flow = NULL;
	if (unlikely(CT(may_have)(bucket, work->place.tag)))
		flow = CT(search)(&work->place, tuple, &work->life);
	if (flow) {
		reason = FLOW_THERE;
		if (CT(alive)(flow, self, tick))
			goto out;
		CT(end)(flow, work->life);
	}
	if (work->id == NO_WAY) {
		__u64 best = CT(best_of_both)(&work->place, tick);

		reason = DROP_CT_FULL;
		if (!(best >> 32))
			goto out;
		work->id = (__u32)best >> 4;
		work->is_free = best >> 32 == FREE_RANK;
	}
	return 0;
out:
	CT(leave_buckets)(work);
	work->id = NO_WAY;
	return reason;
}

/* Give the chosen way to `made`, and unlock everything. 0, or a reason. */
__noinline __u32 CT(settle)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, index, life, reason = DROP_CT_FULL;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct reply_bucket *replies;
	FLOW *flow;
	__u64 word;	/* as wide as its place on the stack, or the verifier forgets its bounds */
	__u64 hash;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	hash = work->reply_hash;
	index = hash & self->CT(reply_mask);
	replies = bpf_map_lookup_elem(&CT(replies), &index);
	flow = CT(at)(work->id);
	if (!replies || !flow)
		goto out;
	reason = DROP_CT_BUSY;
	if (!lock(&replies->lock))
		goto out;
	word = CT(word_for)(replies, &work->CT(other), &work->CT(mine), hash, work->id, self, tick);
	barrier_var(word);
	reason = word - NO_WORD;
	if (word >= REPLY_WAYS)
		goto out_replies;
	reason = DROP_CT_FULL;
	/* From here on it is nobody's flow: a packet or a sweep that still looks at it sees so. */
	life = flow->life;
	if (work->is_free ? (life & 1) && CT(alive)(flow, self, tick) : !is_weak(flow->state))
		goto out_replies;
	if ((life & 1) && __sync_val_compare_and_swap(&flow->life, life, life + 1) != life)
		goto out_replies;
	if (!work->is_free)
		count_event(EVENT_EVICTED);
	replies->words[word] = (__u64)tag_of(hash) << 32 | work->id;
	CT(give_birth)(flow, made, work, tick);
	reason = 0;
out_replies:
	unlock(&replies->lock);
out:
	CT(leave_buckets)(work);
	return reason;
}

/*
 * Make `made` a flow (its life and seen are set here), and ct_work.id its number. 0, or the reason
 * why not: DROP_CONFLICT if the reply tuple is another's (the caller may try another port),
 * DROP_CT_FULL, DROP_CT_BUSY. FLOW_THERE: another CPU made this very flow meanwhile. Two functions,
 * because the stack of one would be too large.
 */
static __always_inline __u32 CT(add)(FLOW *made, __u32 tick)
{
	__u32 reason = CT(begin)(made, tick);

	return reason ? reason : CT(settle)(made, tick);
}

/* The flow that CT(add) made or found there, a moment ago. */
static __always_inline FLOW *CT(find_added)(const struct node *node, const TUPLE *tuple)
{
	__u32 zero = 0, life;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	FLOW *flow = work ? CT(at)(work->id) : NULL;
	struct place2 place;

	if (likely(flow && CT(is_of)(flow, tuple)))
		return flow;
	place = place_of(TUPLE_HASH(tuple, node->ct_seed), node->CT(mask));
	return CT(search)(&place, tuple, &life);
}
