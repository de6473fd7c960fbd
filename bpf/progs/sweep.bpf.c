// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: what user space does to conntrack. Two programs that it runs itself (no packet
 * does): each looks at a stretch of records of one family, counts the flows that match, and ends
 * them if it is told to.
 *
 * Invariants:
 * - A flow is ended by a compare-and-swap of its `life`, so what ends is the flow that was looked
 *   at, and never the one that took its place meanwhile. No lock is taken, no packet waits.
 * - A record whose time is over counts as no flow, here as in ct.h, and is none afterwards.
 *
 * The argument is struct sweep, in and out. The maps ct4, ct6 and node are the node's own, put in by
 * the loader; sweep_ends is this object's, and whoever runs a sweep fills it before.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "abi.h"

char LICENSE[] SEC("license") = "Apache-2.0";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_FLOW_SLOTS);
	__type(key, __u32);
	__type(value, struct flow4);
} ct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_FLOW_SLOTS);
	__type(key, __u32);
	__type(value, struct flow6);
} ct6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

/* What to look for; the value is a mask of states. A miss: not this flow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SWEEP_ENDS);
	__type(key, struct sweep_key);
	__type(value, __u32);
} sweep_ends SEC(".maps");

#define BIT(n) (1U << (n))

/*
 * One sweep under way. `live` lies on whole words of the stack: it is written at an index that is not
 * known before, and kernel 6.1 refuses what is read of a word that was partly in its reach.
 */
struct walk {
	const __u32 *timeouts;
	__u32 first;
	__u32 flags;
	__u32 sides;
	__u32 states;
	__u32 proto;
	__u32 tick;
	__u32 live[CT_STATES] __attribute__((aligned(8)));
	__u32 ended;
};

/* A flow of either family. */
struct seen {
	__u32 life;
	__u32 service_id;
	__u8 proto;
	__u8 state;
	__u8 flags;
	__u8 mac[6];
	__be16 client_port;
	__be16 vip_port;
	__be16 backend_port;
	__u8 client[16];
	__u8 vip[16];
	__u8 backend[16];
};

static __always_inline void map_address(__u8 *to, __be32 addr)
{
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &addr, sizeof(addr));
}

static __always_inline __u32 find(const struct walk *walk, const struct seen *seen,
				  const struct sweep_key *key)
{
	__u32 *states;

	if (!(walk->sides & BIT(key->side)))
		return 0;
	states = bpf_map_lookup_elem(&sweep_ends, key);
	return states && *states >> (seen->state & (CT_STATES - 1)) & 1 ? BIT(key->side) : 0;
}

/* One of the addresses, without (`wide`) and with its port. */
static __always_inline __u32 find_end(const struct walk *walk, const struct seen *seen,
				      const __u8 *addr, __be16 port, __u8 exact, __u8 wide)
{
	struct sweep_key key = { .side = wide };
	__u32 found;

	if (!(walk->sides & (BIT(exact) | BIT(wide))))
		return 0;
	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	found = find(walk, seen, &key);
	key.side = exact;
	key.port = port;
	key.proto = seen->proto;
	return found | find(walk, seen, &key);
}

static __always_inline __u32 find_of_service(const struct walk *walk, const struct seen *seen,
					     const __u8 *addr, __be16 port, __u8 side)
{
	struct sweep_key key = {
		.service_id = seen->service_id,
		.port = port,
		.proto = seen->proto,
		.side = side,
	};

	if (!(walk->sides & BIT(side)))
		return 0;
	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	return find(walk, seen, &key);
}

static __always_inline bool matches(const struct walk *walk, const struct seen *seen)
{
	__u32 found;

	if (!(walk->states >> (seen->state & (CT_STATES - 1)) & 1))
		return false;
	if (walk->proto && walk->proto != seen->proto)
		return false;
	if (!walk->sides)
		return true;
	found = find_end(walk, seen, seen->vip, seen->vip_port, SWEEP_VIP, SWEEP_VIP_ADDRESS);
	found |= find_end(walk, seen, seen->backend, seen->backend_port, SWEEP_BACKEND,
			  SWEEP_BACKEND_ADDRESS);
	found |= find_end(walk, seen, seen->client, seen->client_port, SWEEP_CLIENT,
			  SWEEP_CLIENT_ADDRESS);
	found |= find_of_service(walk, seen, seen->vip, seen->vip_port, SWEEP_SERVICE_VIP);
	found |= find_of_service(walk, seen, seen->backend, seen->backend_port,
				 SWEEP_SERVICE_BACKEND);
	if (walk->sides & BIT(SWEEP_SERVICE_MAC) && seen->flags & FLOW_DSR) {
		struct sweep_key key = {
			.service_id = seen->service_id,
			.side = SWEEP_SERVICE_MAC,
		};

		__builtin_memcpy(key.addr, seen->mac, sizeof(seen->mac));
		found |= find(walk, seen, &key);
	}
	return walk->flags & SWEEP_EVERY_SIDE ? found == walk->sides : found != 0;
}

/*
 * Whether a record is a flow. One whose time is over is ended in passing: packets do that with those
 * they meet, but one that is met by none would live again when the clock has gone half its way round
 * (25 days at 1,000 ticks a second). Metrics walk through all of them every ten seconds.
 */
static __always_inline bool is_live(const struct walk *walk, __u32 *life, __u32 born, __u32 last,
				    __u8 state)
{
	__s32 idle = walk->tick - last;	/* < 0: a packet came since we looked at the clock */

	if (!(born & 1) || state >= CT_STATES)
		return false;
	if (idle <= 0 || (__u32)idle <= walk->timeouts[state])
		return true;
	__sync_val_compare_and_swap(life, born, born + 1);
	return false;
}

static __always_inline void judge(struct walk *walk, const struct seen *seen, __u32 *life)
{
	if (!matches(walk, seen))
		return;
	if (walk->flags & SWEEP_END) {
		if (__sync_val_compare_and_swap(life, seen->life, seen->life + 1) != seen->life)
			return;
		walk->ended++;
	}
	walk->live[seen->state & (CT_STATES - 1)]++;
}

static long look4(__u32 index, struct walk *walk)
{
	__u32 number = walk->first + index;
	struct flow4 *flow = bpf_map_lookup_elem(&ct4, &number);
	struct seen seen;

	if (!flow)
		return 1;
	seen.life = *(volatile __u32 *)&flow->life;
	barrier();
	seen.state = flow->state;
	if (!is_live(walk, &flow->life, seen.life, flow->seen, seen.state))
		return 0;
	seen.service_id = flow->service_id;
	seen.proto = flow->proto;
	seen.flags = flow->flags;
	__builtin_memcpy(seen.mac, flow->vip_mac, sizeof(seen.mac));
	seen.client_port = flow->client_port;
	seen.vip_port = flow->vip_port;
	seen.backend_port = flow->backend_port;
	map_address(seen.client, flow->client);
	map_address(seen.vip, flow->vip);
	map_address(seen.backend, flow->backend);
	judge(walk, &seen, &flow->life);
	return 0;
}

static long look6(__u32 index, struct walk *walk)
{
	__u32 number = walk->first + index;
	struct flow6 *flow = bpf_map_lookup_elem(&ct6, &number);
	struct seen seen;

	if (!flow)
		return 1;
	seen.life = *(volatile __u32 *)&flow->life;
	barrier();
	seen.state = flow->state;
	if (!is_live(walk, &flow->life, seen.life, flow->seen, seen.state))
		return 0;
	seen.service_id = flow->service_id;
	seen.proto = flow->proto;
	seen.flags = flow->flags;
	__builtin_memcpy(seen.mac, flow->vip_mac, sizeof(seen.mac));
	seen.client_port = flow->client_port;
	seen.vip_port = flow->vip_port;
	seen.backend_port = flow->backend_port;
	__builtin_memcpy(seen.client, flow->client, sizeof(seen.client));
	__builtin_memcpy(seen.vip, flow->vip, sizeof(seen.vip));
	__builtin_memcpy(seen.backend, flow->backend, sizeof(seen.backend));
	judge(walk, &seen, &flow->life);
	return 0;
}

static __always_inline int run(struct sweep *sweep, long (*look)(__u32, struct walk *))
{
	struct walk walk = {};
	struct node *here;
	__u32 zero = 0;

	here = bpf_map_lookup_elem(&node, &zero);
	if (!here)
		return 0;
	walk.timeouts = here->timeouts;
	walk.tick = here->flags & NODE_FIXED_CLOCK ? here->tick : (__u32)bpf_jiffies64();
	walk.first = sweep->first;
	walk.flags = sweep->flags;
	walk.sides = sweep->sides;
	walk.states = sweep->states;
	walk.proto = sweep->proto;
	bpf_loop(sweep->count, look, &walk, 0);
	sweep->tick = walk.tick;
	sweep->ended = walk.ended;
	for (__u32 state = 0; state < CT_STATES; state++)
		sweep->live[state] = walk.live[state];
	return 0;
}

SEC("syscall")
int millrace_swp4(struct sweep *sweep)
{
	return run(sweep, look4);
}

SEC("syscall")
int millrace_swp6(struct sweep *sweep)
{
	return run(sweep, look6);
}
