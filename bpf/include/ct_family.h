/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack of one family. Included by ct.h once for each, with CT(name) giving
 * ct4_name or ct6_name, and ADDR_SAME, ADDR_COPY, TUPLE_HASH for its addresses.
 *
 * Invariants (abi.h has the layout):
 * - `life` is odd while a record is a flow. A reader takes what it needs and then looks whether
 *   `life` is what it was before.
 * - A record is only born under the locks of both buckets that its tuple may be in, so no tuple
 *   has two flows; and its word among the replies is only written under that bucket's lock, so no
 *   two flows have one reply tuple.
 * - Locks are taken in the order of bucket numbers, replies last, each for a bounded time.
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

static __always_inline FLOW *CT(find_in)(__u32 index, __u32 tag, const TUPLE *tuple)
{
	struct tag_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &index);
	__u32 way;

	if (!bucket)
		return NULL;
#pragma unroll
	for (way = 0; way < CT_WAYS; way++) {
		if (bucket->tags[way] == tag) {
			FLOW *flow = CT(at)(index * CT_WAYS + way);

			if (flow && (flow->life & 1) && CT(is_of)(flow, tuple))
				return flow;
		}
	}
	return NULL;
}

/* The flow of a client's packet, if it lives (its time may be over: ask CT(alive)). */
static __always_inline FLOW *CT(find)(const struct node *node, const TUPLE *tuple)
{
	struct place2 place = place_of(TUPLE_HASH(tuple, node->ct_seed), node->CT(mask));
	FLOW *flow = CT(find_in)(place.first, place.tag, tuple);

	if (likely(flow))
		return flow;
	return CT(find_in)(place.second, place.tag, tuple);
}

/* The flow that a backend's packet is the reply of. */
static __always_inline FLOW *CT(find_reply)(const struct node *node, const TUPLE *tuple)
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

			if (flow && (flow->life & 1) && CT(is_reply_of)(flow, tuple) &&
			    !(flow->flags & FLOW_DSR))
				return flow;
		}
	}
	return NULL;
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

/*
 * The word for record `id` among the replies, in the bucket of its new reply tuple, whose lock the
 * caller holds: 0..REPLY_WAYS-1, or NO_WORD and the reason why not. A global function, so that it
 * is verified once.
 */
__noinline __u32 CT(word_for)(TUPLE *tuple, __u32 id, __u32 tick)
{
	__u32 i, zero = 0, index, room = NO_WORD + DROP_CT_FULL;
	struct reply_bucket *bucket;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	__u64 hash;

	if (!tuple || !self || !work)
		return room;
	hash = TUPLE_HASH(tuple, ~self->ct_seed);
	index = hash & self->CT(reply_mask);
	bucket = bpf_map_lookup_elem(&CT(replies), &index);
	if (!bucket)
		return room;
	for (i = 0; i < REPLY_WAYS; i++) {
		__u64 word = bucket->words[i];
		TUPLE *now = &work->CT(other);
		FLOW *other;

		/* A word of our own record is one of its former life. */
		if (!word || (__u32)word == id) {
			room = i;
			continue;
		}
		other = CT(at)((__u32)word);
		if (!other || !CT(alive)(other, self, tick)) {
			room = i;
			continue;
		}
		if (CT(is_reply_of)(other, tuple) && !(other->flags & FLOW_DSR))
			return NO_WORD + DROP_CONFLICT;
		/* Born again with another reply tuple? Then this word is a leftover. */
		CT(reply_tuple)(other, now);
		hash = TUPLE_HASH(now, ~self->ct_seed);
		if ((hash & self->CT(reply_mask)) != index || tag_of(hash) != word >> 32)
			room = i;
	}
	return room;
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

		if (!flow)
			return 0;
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

/*
 * Make `made` a flow (its life and seen are set here). 0, or the reason why not: DROP_CONFLICT if
 * the reply tuple is another's (the caller may try another port), DROP_CT_FULL, DROP_CT_BUSY.
 * FLOW_THERE: another CPU made this very flow meanwhile.
 */
__noinline __u32 CT(add)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, id, life;
	struct tag_bucket *low, *high, *bucket;
	__u64 best, there;
	struct node *self;
	__u32 low_index, high_index, index, word, reason;
	struct reply_bucket *replies;
	struct place2 place;
	__u64 hash;
	struct ct_work *work;
	TUPLE *tuple;
	FLOW *flow;

	self = bpf_map_lookup_elem(&node, &zero);
	work = bpf_map_lookup_elem(&ct_work, &zero);
	if (!made || !self || !work)
		return DROP_CT_FULL;
	tuple = &work->CT(mine);
	ADDR_COPY(tuple->saddr, made->client);
	ADDR_COPY(tuple->daddr, made->vip);
	tuple->sport = made->client_port;
	tuple->dport = made->vip_port;
	tuple->proto = made->proto;
	place = place_of(TUPLE_HASH(tuple, self->ct_seed), self->CT(mask));
	low_index = place.first < place.second ? place.first : place.second;
	high_index = place.first < place.second ? place.second : place.first;
	low = bpf_map_lookup_elem(&CT(tags), &low_index);
	high = bpf_map_lookup_elem(&CT(tags), &high_index);
	if (!low || !high)
		return DROP_CT_FULL;
	if (!lock(&low->lock))
		return DROP_CT_BUSY;
	if (low_index != high_index && !lock(&high->lock)) {
		unlock(&low->lock);
		return DROP_CT_BUSY;
	}

	reason = FLOW_THERE;
	flow = CT(find_in)(place.first, place.tag, tuple);
	if (!flow)
		flow = CT(find_in)(place.second, place.tag, tuple);
	if (flow && CT(alive)(flow, self, tick))
		goto out;
	if (flow)
		CT(end)(flow, flow->life | 1);

	best = CT(best_way)(place.first, tick);
	if ((best & 15) > CT_WAYS / 2) {
		there = CT(best_way)(place.second, tick);
		/* Free before anybody's, then the emptier bucket, then the longer silence. */
		if (there >> 32 > best >> 32 ||
		    (there >> 32 == FREE_RANK && best >> 32 == FREE_RANK && (there & 15) < (best & 15)))
			best = there;
	}
	reason = DROP_CT_FULL;
	if (!(best >> 32))
		goto out;
	id = (__u32)best >> 4;
	flow = CT(at)(id);
	bucket = bpf_map_lookup_elem(&CT(tags), &(__u32){ id / CT_WAYS });
	if (!bucket)
		goto out;
	if (!flow)
		goto out;
	CT(reply_tuple)(made, tuple);
	hash = TUPLE_HASH(tuple, ~self->ct_seed);
	index = hash & self->CT(reply_mask);
	replies = bpf_map_lookup_elem(&CT(replies), &index);
	if (!replies)
		goto out;
	if (!lock(&replies->lock)) {
		reason = DROP_CT_BUSY;
		goto out;
	}
	word = CT(word_for)(tuple, id, tick);
	if (word >= REPLY_WAYS) {
		reason = word - NO_WORD;
		goto out_replies;
	}
	/* From here on it is nobody's flow: a packet or a sweep that still looks at it sees so. */
	life = flow->life;
	if (best >> 32 == FREE_RANK ? (life & 1) && CT(alive)(flow, self, tick) : !is_weak(flow->state))
		goto out_replies;
	if ((life & 1) && __sync_val_compare_and_swap(&flow->life, life, life + 1) != life)
		goto out_replies;
	replies->words[word] = (__u64)tag_of(hash) << 32 | id;
	made->seen = tick;
	/* All but life, which says that the rest is there; the addition is a full barrier. */
	__builtin_memcpy((void *)flow + 4, (void *)made + 4, sizeof(*flow) - 4);
	bucket->tags[id % CT_WAYS] = place.tag;
	__sync_fetch_and_add(&flow->life, 1);
	reason = 0;
out_replies:
	unlock(&replies->lock);
out:
	if (low_index != high_index)
		unlock(&high->lock);
	unlock(&low->lock);
	return reason;
}
