/* SPDX-License-Identifier: Apache-2.0 */
/* What lives here: look-ups of one family, and the end of a flow. Included by ct_family.h. */

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

/* What a reply tuple has of its own but the port that we choose: what CT(direct) begins at. */
static __always_inline __u64 CT(reply_base)(const struct node *node, const TUPLE *tuple)
{
	return TUPLE_HASH(tuple, (__u64)tuple->sport << 16, ~node->ct_seed);
}

/*
 * The record of the flow whose reply tuple has this base and, in host order, this port: the port's
 * two high bits choose one of the base's stretches of the table, the others say how far in it is.
 */
static __always_inline __u32 CT(direct)(__u64 base, __u32 port, __u32 records)
{
	__u32 hash = base >> 32, step = (hash | 1) << STRETCH_BITS;
	/* An odd number of stretches apart: of four or more in a table the three are never one. */
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
 * The flow that a backend's packet is the reply of. One whose time is over is none: its tuple may
 * be a later flow's.
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
	if (likely(CT(is_reply)(node, flow, *life, tuple)))
		return flow;
	return unlikely(node->flags & NODE_CARRIED) ? CT(find_worded)(node, tuple, life) : NULL;
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
