/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: a flow's life on the way to its backend. create() makes the pair of conntrack
 * entries of a flow, revisit() renews it. Only the uplink program does either.
 *
 * Invariants:
 * - Two flows never share (backend, source address and port): ct_reply is only ever written with
 *   BPF_NOEXIST, whichever CPU it is on.
 * - The pair lives and dies together: every TOUCH_TICKS the side that sees traffic looks up the other
 *   side too (the kernel's LRU keeps what programs look up), puts back a missing reply entry, and
 *   stops when the port has become another client's.
 * - A known flow keeps its backend, also one that is no longer offered. Only a first packet picks:
 *   a SYN of a flow that is not established (or was closed, or whose backend is gone), a datagram
 *   after UDP_IDLE_NS of silence.
 */
#ifndef MILLRACE_LB_H
#define MILLRACE_LB_H

#include "abi.h"
#include "csum.h"
#include "maps.h"
#include "parsing.h"
#include "reverse.h"

#define SECOND_NS 1000000000ULL
#define UDP_IDLE_NS (120 * SECOND_NS)	/* RFC 4787 REQ-5: not less than two minutes */
#define TRANSITORY_NS (240 * SECOND_NS)	/* RFC 5382 REQ-5: TCP not established, or closing */
#define ESTABLISHED_NS (7440 * SECOND_NS) /* RFC 5382 REQ-5: 2 h 4 min */

#define SNAT_TRIES 16
#define SNAT_PORT_MIN 1024
#define SNAT_PORTS (65536 - SNAT_PORT_MIN)

/* One packet of a service, for create() and revisit(). */
struct query {
	struct flow_key key;
	struct vip vip;
	struct node *node;
	const struct ethhdr *eth;
	__u64 now;	/* CLOCK_MONOTONIC_COARSE [ns] */
	__u32 tick;	/* jiffies at now, low bits */
	__u32 ifindex;
	__u32 tcp_flags;
};

/* What create() and revisit() return; anything else is the reason why not. */
#define FLOW_KNOWN 0
#define FLOW_NEW 64
#define FLOW_ANEW 65	/* of revisit() only: the entries are gone, call create() */

#define ROTATE(word, by) (((word) << (by)) | ((word) >> (32 - (by))))

/*
 * Jenkins' lookup3 over the 5-tuple. The same on every node and in bpf/abi.py: words in host order,
 * so that machines of either byte order agree.
 */
static __always_inline __u32 flow_hash(const struct flow_key *key, __u32 seed)
{
	__u32 a = 0xdeadbeef + (4 << 2) + seed, b = a, c = a;

	a += bpf_ntohl(key->saddr);
	b += bpf_ntohl(key->daddr);
	c += (__u32)bpf_ntohs(key->sport) << 16 | bpf_ntohs(key->dport);

	a -= c; a ^= ROTATE(c, 4);  c += b;
	b -= a; b ^= ROTATE(a, 6);  a += c;
	c -= b; c ^= ROTATE(b, 8);  b += a;
	a -= c; a ^= ROTATE(c, 16); c += b;
	b -= a; b ^= ROTATE(a, 19); a += c;
	c -= b; c ^= ROTATE(b, 4);  b += a;

	a += key->proto;

	c ^= b; c -= ROTATE(b, 14);
	a ^= c; a -= ROTATE(c, 11);
	b ^= a; b -= ROTATE(a, 25);
	c ^= b; c -= ROTATE(b, 16);
	a ^= c; a -= ROTATE(c, 4);
	b ^= a; b -= ROTATE(a, 14);
	c ^= b; c -= ROTATE(b, 24);
	return c;
}

/* The id that the service's Maglev table holds for the flow; 0 for none. */
static __always_inline __u32 maglev_pick(const struct flow_key *key, __u32 service_id)
{
	struct maglev_table *table;
	__u32 zero = 0;
	__u64 slot;
	void *inner;

	inner = bpf_map_lookup_elem(&maglev, &service_id);
	if (!inner)
		return 0;
	table = bpf_map_lookup_elem(inner, &zero);
	if (!table)
		return 0;
	slot = (__u64)flow_hash(key, HASH_SEED) * MAGLEV_SIZE >> 32;
	/* Or the compiler folds the shift into the index's scaling, and the bound is lost. */
	barrier_var(slot);
	if (slot >= MAGLEV_SIZE)
		return 0;
	return table->slots[slot];
}

static __always_inline bool same_owner(const struct flow_reply *a, const struct flow_reply *b)
{
	return a->client_addr == b->client_addr && a->client_port == b->client_port &&
	       a->vip_addr == b->vip_addr && a->vip_port == b->vip_port;
}

static __always_inline bool expired(const struct flow_reply *reply, __u8 proto, __u64 now)
{
	__s64 idle = now - reply->seen_ns;	/* < 0: another CPU was quicker */

	if (proto == IPPROTO_UDP)
		return idle > (__s64)UDP_IDLE_NS;
	if ((reply->flags & (CT_ESTABLISHED | CT_CLOSING)) == CT_ESTABLISHED)
		return idle > (__s64)ESTABLISHED_NS;
	return idle > (__s64)TRANSITORY_NS;
}

/* Where the client's packets come from now: a client may move to another port or uplink. */
static __always_inline void refresh(struct flow_reply *reply, const struct flow_reply *wanted)
{
	copy_mac(reply->client_mac, wanted->client_mac);
	copy_mac(reply->vip_mac, wanted->vip_mac);
	reply->ifindex = wanted->ifindex;
	reply->flags = wanted->flags;
	reply->tick = wanted->tick;
	reply->seen_ns = wanted->seen_ns;
}

/* The reply entry's key and value as the forward entry and the packet want them. */
static __always_inline void reply_of(const struct query *query, const struct flow_forward *forward,
				     struct flow_key *key, struct flow_reply *reply)
{
	__u32 addrs = csum_delta32(forward->backend_addr, query->key.daddr) +
		      csum_delta32(forward->source_addr, query->key.saddr);

	*key = (struct flow_key){
		.saddr = forward->backend_addr,
		.daddr = forward->source_addr,
		.sport = forward->backend_port,
		.dport = forward->source_port,
		.proto = query->key.proto,
	};
	*reply = (struct flow_reply){
		.client_addr = query->key.saddr,
		.vip_addr = query->key.daddr,
		.client_port = query->key.sport,
		.vip_port = query->key.dport,
		.service_id = query->vip.service_id,
		.ifindex = query->ifindex,
		.flags = forward->flags,
		.ip_delta = csum_fold(addrs),
		.l4_delta = csum_fold(addrs +
				      csum_delta16(forward->backend_port, query->key.dport) +
				      csum_delta16(forward->source_port, query->key.sport)),
		.tick = query->tick,
		.seen_ns = query->now,
	};
	copy_mac(reply->client_mac, query->eth->h_source);
	copy_mac(reply->vip_mac, query->eth->h_dest);
}

/*
 * Take the reply key for this flow. It is ours if nobody has it, if it is ours already (the forward
 * entry was evicted), or if its owner has been silent for longer than any timeout: then whoever
 * swaps its time stamp may remove it, so that two CPUs cannot both think so.
 */
static __always_inline bool claim(const struct flow_key *key, const struct flow_reply *wanted)
{
	struct flow_reply *held;
	__u64 seen_ns;

	if (!bpf_map_update_elem(&ct_reply, key, wanted, BPF_NOEXIST))
		return true;
	held = bpf_map_lookup_elem(&ct_reply, key);
	if (!held)
		return false;
	if (same_owner(held, wanted)) {
		refresh(held, wanted);
		return true;
	}
	seen_ns = held->seen_ns;
	if (!expired(held, key->proto, wanted->seen_ns))
		return false;
	if (__sync_val_compare_and_swap(&held->seen_ns, seen_ns, wanted->seen_ns) != seen_ns)
		return false;
	bpf_map_delete_elem(&ct_reply, key);
	return !bpf_map_update_elem(&ct_reply, key, wanted, BPF_NOEXIST);
}

/* Find a source port that is free towards the backend: the client's own, else by hash. */
static __always_inline bool claim_port(const struct query *query, struct flow_forward *forward,
				       struct flow_key *key, struct flow_reply *reply)
{
	for (__u32 try = 0; try < SNAT_TRIES; try++) {
		if (try) {
			__u32 hash = flow_hash(&query->key, try);

			forward->source_port = bpf_htons(
				SNAT_PORT_MIN + ((__u64)hash * SNAT_PORTS >> 32));
		}
		reply_of(query, forward, key, reply);
		if (claim(key, reply))
			return true;
		if (!(query->vip.flags & VIP_SNAT))
			return false;
	}
	return false;
}

static __always_inline void forward_deltas(const struct flow_key *key, struct flow_forward *forward)
{
	__u32 addrs = csum_delta32(key->daddr, forward->backend_addr) +
		      csum_delta32(key->saddr, forward->source_addr);

	forward->ip_delta = csum_fold(addrs);
	forward->l4_delta = csum_fold(addrs + csum_delta16(key->dport, forward->backend_port) +
				      csum_delta16(key->sport, forward->source_port));
}

/* A new pair of entries; FLOW_NEW or the reason why not. */
static __noinline int create(const struct query *query)
{
	struct flow_forward forward = {};
	struct service_stats *stats;
	struct backend *backend;
	struct flow_reply reply;
	struct flow_key key;

	if (query->vip.flags & VIP_NO_BACKEND)
		return DROP_NO_BACKEND;
	forward.backend_id = maglev_pick(&query->key, query->vip.service_id);
	backend = bpf_map_lookup_elem(&backends, &forward.backend_id);
	if (!backend)
		return DROP_NO_BACKEND;
	forward.backend_addr = backend->addr;
	forward.backend_port = backend->port;
	forward.source_addr = query->key.saddr;
	forward.source_port = query->key.sport;
	if (query->vip.flags & VIP_SNAT)
		forward.source_addr = query->node->service_addr;
	/* A flow that we meet in the middle (evicted, or another node's before) is no SYN's. */
	if (query->key.proto == IPPROTO_TCP && !(query->tcp_flags & TCP_SYN))
		forward.flags = CT_ESTABLISHED;
	forward.tick = query->tick;
	forward.seen_ns = query->now;

	if (!claim_port(query, &forward, &key, &reply))
		return query->vip.flags & VIP_SNAT ? DROP_NO_PORT : DROP_CONFLICT;
	forward_deltas(&query->key, &forward);
	if (bpf_map_update_elem(&ct_forward, &query->key, &forward, BPF_ANY)) {
		bpf_map_delete_elem(&ct_reply, &key);
		return DROP_CT_FULL;
	}
	stats = bpf_map_lookup_elem(&service_stats, &query->vip.service_id);
	if (stats)
		stats->new_flows++;
	return FLOW_NEW;
}

static __always_inline bool is_syn(const struct query *query)
{
	return (query->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Whether a first packet must leave the backend that an earlier flow of the same tuple had. */
static __always_inline bool must_move(const struct query *query, const struct flow_forward *forward)
{
	__u32 backend_id = forward->backend_id;
	struct backend *backend = bpf_map_lookup_elem(&backends, &backend_id);

	if (!backend || backend->addr != forward->backend_addr ||
	    backend->port != forward->backend_port)
		return true;
	if ((forward->flags & (CT_ESTABLISHED | CT_CLOSING)) == CT_ESTABLISHED)
		return false;
	if (query->vip.flags & VIP_NO_BACKEND)
		return true;
	return maglev_pick(&query->key, query->vip.service_id) != backend_id;
}

/*
 * A known flow wants attention: TOUCH_TICKS are over, or TCP changes its state.
 * FLOW_KNOWN, FLOW_ANEW or the reason why not.
 */
static __noinline int revisit(const struct query *query, struct flow_forward *forward)
{
	__u64 seen_ns = forward->seen_ns;
	struct flow_reply *held, wanted;
	bool first = is_syn(query);
	struct flow_key key;

	reply_of(query, forward, &key, &wanted);
	held = bpf_map_lookup_elem(&ct_reply, &key);
	if (held && !same_owner(held, &wanted)) {
		/* Silent for so long that the port went to somebody else. */
		bpf_map_delete_elem(&ct_forward, &query->key);
		return first || key.proto == IPPROTO_UDP ? FLOW_ANEW : DROP_CONFLICT;
	}
	if (key.proto == IPPROTO_UDP) {
		if (held && (__s64)(held->seen_ns - seen_ns) > 0)
			seen_ns = held->seen_ns;
		first = (__s64)(query->now - seen_ns) > (__s64)UDP_IDLE_NS;
	}
	if (first && must_move(query, forward)) {
		bpf_map_delete_elem(&ct_reply, &key);
		bpf_map_delete_elem(&ct_forward, &query->key);
		return FLOW_ANEW;
	}
	if (key.proto == IPPROTO_TCP) {
		if (held)
			wanted.flags |= held->flags;
		if (first) {
			/* A closed tuple is used anew; a SYN out of the blue changes nothing. */
			if (wanted.flags & CT_CLOSING)
				wanted.flags = 0;
		} else {
			wanted.flags |= CT_ESTABLISHED;
		}
		if (query->tcp_flags & (TCP_FIN | TCP_RST))
			wanted.flags |= CT_CLOSING;
	}
	if (held)
		refresh(held, &wanted);
	else if (bpf_map_update_elem(&ct_reply, &key, &wanted, BPF_NOEXIST))
		return DROP_CONFLICT;
	forward->flags = wanted.flags;
	forward->tick = query->tick;
	forward->seen_ns = query->now;
	return FLOW_KNOWN;
}

static __always_inline bool wants_attention(const struct flow_forward *forward, __u32 tick,
					    const struct l4 *l4)
{
	if (tick - forward->tick >= TOUCH_TICKS)
		return true;
	return l4->is_tcp && ((l4->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) ||
			      !(forward->flags & CT_ESTABLISHED));
}

#endif
