/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: conntrack of one family. Included by ct.h once for each, with CT(name) giving
 * ct4_name or ct6_name, and ADDR_SAME, ADDR_COPY, TUPLE_HASH for its addresses.
 *
 * Invariants (abi.h has the layout):
 * - `life` is odd while a record is a flow. A reader takes what it needs and then looks whether
 *   `life` is what it was before.
 * - Who makes a flow claims a record first, by a compare-and-swap of `life` to CLAIMED: from then on
 *   nobody else writes the record, or makes or clears a word that names it.
 * - A word is written, and the flow that it names born, under the lock of the first bucket of its
 *   tuple, so no tuple has two flows, and under that of the bucket that the word is in. Words of
 *   records that are no flow, or another one, mean nothing; a record that is claimed has its old
 *   word cleared first, so there are never more words than records.
 * - The record of a flow whose source port is ours to choose is the one that its reply tuple names
 *   (CT(direct)), so no two flows have one reply tuple. Others have a word among the replies,
 *   written under that bucket's lock, and no port that the former may have.
 * - Locks of two buckets are taken in the order of their numbers, replies last, each for a bounded
 *   time.
 * - Ending a flow is one compare-and-swap of `life`.
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

/* Records less one: a mask of their numbers. */
static __always_inline __u32 CT(records)(const struct node *node)
{
	return node->CT(mask) * CT_WAYS + CT_WAYS - 1;
}

static __always_inline struct place2 CT(place)(const struct node *node, const TUPLE *tuple)
{
	return place_of(TUPLE_HASH(tuple, PORTS_OF(tuple), node->ct_seed), node->CT(mask),
			CT(records)(node));
}

/* The way that a place has if it can. A check, because kernel 6.1 forgets bounds on the stack. */
static __always_inline __u32 *CT(own_word)(struct index_bucket *bucket, const struct place2 *place)
{
	__u64 way = place->way;

	barrier_var(way);
	if (unlikely(way >= INDEX_WAYS))
		way = 0;
	barrier_var(way);
	return &bucket->words[way];
}

/*
 * The living record that a word of this tuple's tag names, and its life: a reader that wants one
 * flow's fields takes them and then looks whether `life` is what it was here.
 */
static __always_inline FLOW *CT(named)(__u32 word, const struct place2 *place, __u32 records,
				       const TUPLE *tuple, __u32 *life)
{
	FLOW *flow;

	if ((word & ~records) != place->tag)
		return NULL;
	flow = CT(at)(word & records);
	if (!flow)
		return NULL;
	*life = *(volatile __u32 *)&flow->life;
	barrier();
	return (*life & 1) && CT(is_of)(flow, tuple) ? flow : NULL;
}

static __always_inline FLOW *CT(find_in)(const struct index_bucket *bucket,
					 const struct place2 *place, __u32 records,
					 const TUPLE *tuple, __u32 *life)
{
	__u32 way;

#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++) {
		__u32 word = bucket->words[way];

		if (unlikely((word & ~records) == place->tag)) {
			FLOW *flow = CT(named)(word, place, records, tuple, life);

			if (flow)
				return flow;
		}
	}
	return NULL;
}

/* The flow of a tuple by all words that may name it. */
static __noinline FLOW *CT(search)(const struct place2 *place, __u32 records, const TUPLE *tuple,
				   __u32 *life)
{
	struct index_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &place->first);
	FLOW *flow;

	if (!bucket)
		return NULL;
	flow = CT(find_in)(bucket, place, records, tuple, life);
	if (flow || likely(!bucket->spilled))
		return flow;
	bucket = bpf_map_lookup_elem(&CT(tags), &place->second);
	return bucket ? CT(find_in)(bucket, place, records, tuple, life) : NULL;
}

/*
 * The flow of a client's packet, if it lives (its time may be over: ask CT(alive)). Most are named
 * by the word that their hash points to.
 */
static __always_inline FLOW *CT(find_living)(const struct node *node, const TUPLE *tuple,
					     __u32 *life)
{
	struct place2 place = CT(place)(node, tuple);
	struct index_bucket *bucket = bpf_map_lookup_elem(&CT(tags), &place.first);
	__u32 records = CT(records)(node);
	FLOW *flow;

	if (unlikely(!bucket))
		return NULL;
	flow = CT(named)(*CT(own_word)(bucket, &place), &place, records, tuple, life);
	if (likely(flow))
		return flow;
	return CT(search)(&place, records, tuple, life);
}

static __always_inline FLOW *CT(find)(const struct node *node, const TUPLE *tuple)
{
	__u32 life;

	return CT(find_living)(node, tuple, &life);
}

/* What a reply tuple has of its own but the port that we choose: what CT(direct) begins at. */
static __always_inline __u64 CT(reply_base)(const struct node *node, const TUPLE *tuple)
{
	return TUPLE_HASH(tuple, (__u64)tuple->sport << 16, ~node->ct_seed);
}

/*
 * The record of the flow whose reply tuple has this base and, in host order, this port: the port's two
 * high bits choose one of the base's stretches of the table, the others say how far in it is.
 */
static __always_inline __u32 CT(direct)(__u64 base, __u32 port, __u32 records)
{
	__u32 hash = base >> 32, step = (hash | 1) << STRETCH_BITS;
	/* An odd number of stretches apart: of a table that has four or more the three are never one. */
	__u32 stretch = hash + (port >> STRETCH_BITS) * step;

	return (stretch & records & ~STRETCH) | (((__u32)base + port) & records & STRETCH);
}

static __always_inline bool CT(is_reply)(const struct node *node, const FLOW *flow, __u32 life,
					 const TUPLE *tuple)
{
	return (life & 1) && CT(is_reply_of)(flow, tuple) && !(flow->flags & FLOW_DSR) &&
	       !is_over(flow->seen, flow->state, node, tick_of(node));
}

/* The same by words: of flows whose port is the client's own, or that found no room elsewhere. */
static __noinline FLOW *CT(find_worded)(const struct node *node, const TUPLE *tuple, __u32 *life)
{
	__u64 hash = TUPLE_HASH(tuple, PORTS_OF(tuple), ~node->ct_seed);
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
				if (CT(is_reply)(node, flow, *life, tuple))
					return flow;
			}
		}
	}
	return NULL;
}

/*
 * The flow that a backend's packet is the reply of. One whose time is over is none: its tuple may be
 * a later flow's.
 */
static __always_inline FLOW *CT(find_living_reply)(const struct node *node, const TUPLE *tuple,
						   __u32 *life)
{
	FLOW *flow;

	if (unlikely(!is_direct_port(tuple->dport) || !IS_OURS(node, tuple->daddr)))
		return CT(find_worded)(node, tuple, life);
	flow = CT(at)(CT(direct)(CT(reply_base)(node, tuple), bpf_ntohs(tuple->dport),
				 CT(records)(node)));
	if (!flow)
		return NULL;
	*life = *(volatile __u32 *)&flow->life;
	barrier();
	return CT(is_reply)(node, flow, *life, tuple) ? flow : NULL;
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

static __always_inline void CT(own_tuple)(const FLOW *flow, TUPLE *tuple)
{
	ADDR_COPY(tuple->saddr, flow->client);
	ADDR_COPY(tuple->daddr, flow->vip);
	tuple->sport = flow->client_port;
	tuple->dport = flow->vip_port;
	tuple->proto = flow->proto;
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

/* Clear what word still names a record, which the caller has claimed, by its former flow. */
__noinline int CT(unname)(__u32 id)
{
	__u32 zero = 0, way, word, *own;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket;
	FLOW *flow = CT(at)(id);
	struct place2 place;

	if (!self || !work || !flow)
		return 0;
	if (unlikely(work->CT(next).id != id || work->CT(next).life != work->used)) {
		work->CT(next).id = id;
		work->CT(next).life = work->used;
		CT(own_tuple)(flow, &work->CT(former));
		work->CT(next).place = CT(place)(self, &work->CT(former));
	}
	place = work->CT(next).place;
	word = place.tag | id;
	bucket = bpf_map_lookup_elem(&CT(tags), &place.first);
	if (!bucket)
		return 0;
	/* Without a lock: only who has claimed the record makes or clears a word that names it. */
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
	bucket = bpf_map_lookup_elem(&CT(tags), &place.second);
	if (!bucket)
		return 0;
#pragma unroll
	for (way = 0; way < INDEX_WAYS; way++)
		if (bucket->words[way] == word)
			__sync_val_compare_and_swap(&bucket->words[way], word, 0);
	return 0;
}

/*
 * The port, with these high bits (1 to 3), that names the record so far in a stretch. Of a table with
 * fewer records than a stretch has, some bits of the port do not count: those are `other`'s.
 */
static __always_inline __u32 CT(port_at)(__u64 base, __u32 high, __u32 in, __u32 other,
					 __u32 records)
{
	__u32 low = records & STRETCH;

	return high << STRETCH_BITS | ((in - (__u32)base) & low) | (other & STRETCH & ~low);
}

/*
 * How good it is to take a record: FREE_RANK if it is no flow or its time is over, 0 if it may not be
 * taken, and else the more the longer its flow, which may be evicted, has been silent.
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

/*
 * Claim a record for `made`, whose number is work->id then: 0, or why not. One that is no flow, or
 * whose time is over, is taken as it is met; else, of the flows that were met and may be evicted, the
 * one that has been silent for the longest. Records are taken in a row, so each CPU makes flows in
 * lines that it has just had, or has next. Where none of a row is free it looks elsewhere in the
 * stretches, too, but only now and then while the table seems full.
 */
__noinline __u32 CT(claim)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, records, turn, high, index = 0, in = 0, *cursor;
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
			if (turn == CLAIM_NEAR && work->CT(full) % CLAIM_FULL > CLAIM_FAR)
				break;
			if (turn)
				high = high % 3 + 1;
			index = CT(direct)(work->base, high << STRETCH_BITS, records) >> STRETCH_BITS;
			in = work->CT(cursors)[index & (CT_CURSORS - 1)];
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
		if (turn % CLAIM_ROW == CLAIM_ROW - 1) {
			cursor = &work->CT(cursors)[(index >> STRETCH_BITS) & (CT_CURSORS - 1)];
			*cursor = turn < CLAIM_NEAR ? in * 0x6255 + 0x3619 : in;
		}
	}
	work->CT(full) = best->rank == FREE_RANK ? 0 : work->CT(full) + 1;
	/* Other stretches may have room: nobody ends for a flow while it may have another port. */
	if (!best->rank || (work->direct && work->CT(full) && work->CT(full) < CLAIM_FAR))
		return DROP_CT_FULL;
	work->CT(high) = best->port >> STRETCH_BITS;
	work->CT(cursors)[(best->id >> STRETCH_BITS) & (CT_CURSORS - 1)] = best->next;
	work->id = best->id;
	work->used = best->life;
	flow = CT(at)(work->id);
	/* Another CPU was here: the caller tries again. */
	if (!flow || __sync_val_compare_and_swap(&flow->life, work->used, (work->used | 3) + 3) !=
			     work->used)
		return DROP_CT_BUSY;
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

/* The way of a former word of this tag, as a tuple leaves that comes again; NO_WAY: there is none. */
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

/* Where all ways have words: one whose flow is over, else the weak one that was silent for
 * the longest, which ends. */
static __noinline __u32 CT(way_of_another)(const struct index_bucket *bucket,
					   const struct node *self, __u32 tick)
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
	if (found == NO_WAY || !CT(end_weak)(victim))
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
	/* Nobody was here since its words were looked at (CT(ask_for)): there is no flow of this tuple. */
	work->is_new = version == work->version + 1;
	if (!work->is_new && CT(may_have)(first, place->tag, records)) {
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
	second = bpf_map_lookup_elem(&CT(tags), &place->second);
	work->is_new = 0;	/* who comes first may be let in between */
	if (second && place->first != place->second) {
		if (CT(lock_both)(place, first, second))
			return DROP_CT_BUSY;
		work->both = 1;
		work->way = CT(free_way)(second);
		if (work->way == NO_WAY)
			work->way = CT(way_of_another)(second, self, tick);
	} else {
		work->way = CT(way_of_another)(first, self, tick);
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

/* Write `made` and the word that names it. The flow lives from here on. */
static __always_inline void CT(give_birth)(FLOW *flow, FLOW *made, struct ct_work *work,
					   struct index_bucket *first, __u32 tick)
{
	struct index_bucket *bucket = first;

	/*
	 * All but life, which says that the rest is there, and is stored behind it (as unlock() does).
	 * Nobody else writes it: it is claimed.
	 */
	flow->seen = tick;
	__builtin_memcpy(__builtin_assume_aligned((void *)flow + 8, 8),
			 __builtin_assume_aligned((void *)made + 8, 8), sizeof(*flow) - 8);
	if (unlikely(work->both)) {
		bucket = bpf_map_lookup_elem(&CT(tags), &work->place.second);
		first->spilled = 1;
	}
	if (bucket && work->way < INDEX_WAYS)
		bucket->words[work->way] = work->place.tag | work->id;
	barrier();
	*(volatile __u32 *)&flow->life = flow->life + 1;
}

/*
 * Ask for all cache lines that a flow of this tuple will need, at once: one after the other each would
 * be waited for by itself. `reply` is what its replies are taken to have, `direct` that its source port
 * names its record. Whether it certainly has no flow: then CT(begin) need not find its place again.
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
	if (likely(direct)) {
		base = CT(reply_base)(self, reply);
	} else {
		struct reply_bucket *replies;
		__u32 index;

		base = TUPLE_HASH(reply, PORTS_OF(reply), ~self->ct_seed);
		index = base & self->CT(reply_mask);
		replies = bpf_map_lookup_elem(&CT(replies), &index);
		if (replies)
			*(volatile __u32 *)&replies->pad;
	}
	high = work->CT(high) ?: 1;
	id = CT(direct)(base, high << STRETCH_BITS, records);
	in = work->CT(cursors)[(id >> STRETCH_BITS) & (CT_CURSORS - 1)];
	id = CT(direct)(base, CT(port_at)(base, high, in, 0, records), records);
	flow = CT(at)(id);
	/* Whose word goes with it. */
	if (likely(flow && flow->life)) {
		work->CT(next).id = id;
		work->CT(next).life = flow->life;
		barrier();
		CT(own_tuple)(flow, &work->CT(former));
		work->CT(next).place = CT(place)(self, &work->CT(former));
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

/*
 * Find the place of `made`. `asked`: CT(ask_for) has, with svc0's address as the source, unless the
 * client's is kept.
 */
__noinline int CT(begin)(FLOW *made, __u32 asked)
{
	__u32 zero = 0, index;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct reply_bucket *replies;
	struct index_bucket *bucket;
	TUPLE *tuple;

	if (!made || !self || !work)
		return 0;
	work->direct = !made->source_port && !(made->flags & (FLOW_DSR | FLOW_NO_SNAT));
	if (likely(asked && work->direct && work->asked_direct &&
		   ADDR_SAME(made->source, self->SERVICE_ADDR)))
		return 0;
	/* What was asked for is written over: another port, of another base, may be tried after this one. */
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
	if (work->direct) {
		work->base = CT(reply_base)(self, tuple);
		return 0;
	}
	work->base = TUPLE_HASH(tuple, PORTS_OF(tuple), ~self->ct_seed);
	index = work->base & self->CT(reply_mask);
	replies = bpf_map_lookup_elem(&CT(replies), &index);
	if (replies)
		*(volatile __u32 *)&replies->pad;
	return 0;
}

/*
 * Take the locks and the way that the claimed record's word needs: 0, and its first bucket is locked (or
 * both, work->both), or a reason, and it is claimed no more.
 */
__noinline __u32 CT(enter)(FLOW *made, __u32 tick)
{
	__u32 zero = 0, life, reason, records;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);
	struct index_bucket *bucket;
	FLOW *flow;

	if (!made || !self || !work)
		return DROP_CT_FULL;
	records = CT(records)(self);
	bucket = bpf_map_lookup_elem(&CT(tags), &work->place.first);
	reason = bucket ? CT(take_way)(work, bucket, self, tick) : DROP_CT_FULL;
	if (reason)
		goto out;
	if (!work->is_new && CT(may_have)(bucket, work->place.tag, records)) {
		CT(own_tuple)(made, &work->CT(mine));
		flow = CT(search)(&work->place, records, &work->CT(mine), &life);
		if (flow) {
			reason = FLOW_THERE;
			if (CT(alive)(flow, self, tick))
				goto out_buckets;
			CT(end)(flow, life);
		}
	}
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
 * Write the word among the replies that the claimed record needs: 0, and its bucket is locked, too, until
 * the flow lives, or two would have one reply tuple; else as CT(enter).
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

/*
 * Make `made` a flow (its life and seen are set here, and its source port if that is 0 and ours), and
 * ct_work.id its number. 0, or the reason why not: DROP_CONFLICT if the reply tuple is another's (the
 * caller may try another port), DROP_CT_FULL, DROP_CT_BUSY. FLOW_THERE: another CPU made this very
 * flow meanwhile. `asked` as of CT(begin). Several functions in turn, because the stack of one would be too large.
 */
static __always_inline __u32 CT(add)(FLOW *made, __u32 tick, bool asked)
{
	__u32 reason = DROP_CT_FULL, zero = 0, turn;
	struct ct_work *work = bpf_map_lookup_elem(&ct_work, &zero);

	if (!work)
		return reason;
	CT(begin)(made, asked);
#pragma nounroll
	for (turn = 0; turn < CLAIM_ROUNDS; turn++) {
		reason = CT(claim)(made, tick);
		if (likely(!reason) || (work->direct && reason == DROP_CT_FULL))
			break;
	}
	if (reason)
		return reason;
	if (likely(work->used))
		CT(unname)(work->id);
	reason = CT(enter)(made, tick);
	if (!reason && unlikely(!work->direct && !(made->flags & FLOW_DSR)))
		reason = CT(enter_reply)(tick);
	if (!reason)
		CT(begin_life)(made, tick);
	return reason;
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
