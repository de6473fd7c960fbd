/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the first packet of a flow: whether it is admitted, which backend it goes to,
 * and the record that says so. Both families go through choose(), with addresses of 16 octets.
 *
 * Invariant: everything here is a global function that takes one struct by pointer, so that it is
 * verified once and costs the hot path nothing but the call.
 */
#ifndef MILLRACE_FLOWS_H
#define MILLRACE_FLOWS_H

#include "abi.h"
#include "ct.h"
#include "pick.h"
#include "rewrite.h"

#define SNAT_TRIES 16
#define FULL_TRIES 3	/* where there may be room elsewhere in the table */
#define VAIN_MANY 64	/* after so many flows in a row that found none it is looked for briefly */
#define VAIN_BITS 6	/* log2 of how many backends that is known of */
#define SNAT_PORTS (DIRECT_PORT_MIN - SNAT_PORT_MIN)	/* that name no record */

/* A first packet. */
struct opening {
	struct vip_key key;	/* what it is sent to */
	__u32 tick;
	__u8 client[16];	/* aligned to 8, as every address here */
	__be16 client_port;
	__u8 family;		/* 4 or 6 */
	__u8 inner;		/* came in by svc0 */
	__u32 tcp_flags;
	__u8 dest_mac[6];	/* as in the frame's header: first4() copies both at once */
	__u8 source_mac[6];
	__u32 ifindex;
	__be16 vlan[2];
	/* What choose() found. */
	__u32 service_id;
	__u32 flags;		/* enum vip_flag */
	__u32 slot;
	__u16 handed_over;	/* by another node, which picked us (DSR) */
	__u8 foreseen;		/* all this is found already, */
	__u8 asked;		/* and that there is no such flow (ct?_ask_for) */
	struct backend backend __attribute__((aligned(8)));
} __attribute__((aligned(8)));
_Static_assert(offsetof(struct opening, source_mac) == offsetof(struct opening, dest_mac) + 6, "");
_Static_assert(offsetof(struct opening, dest_mac) % 8 == 0, "");

/* How it went with the last new flows to some backend, or to those that share its place. */
struct vain {
	__u32 flows;		/* in a row for which there was no room */
	__u32 tick;		/* when it was looked for everywhere, in vain, */
	__u32 reason;		/* and what was said then */
};

/*
 * Where a first packet is worked on: the stack of all functions together has 512 octets. XDP
 * programs do not interrupt each other on one CPU.
 */
struct scratch {
	struct opening opening;
	struct flow4 flow4;
	struct flow6 flow6;
	__u64 history;		/* of packets without SYN, a bit each: it began a flow (foretell) */
	struct vain vain[1 << VAIN_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/*
 * Whether a plain packet is likely to be its flow's first. Nearly every SYN is; others if the two
 * before them on this CPU were, as where each datagram comes from another port. Where flows are
 * known this is a load and a branch; after a wrong guess a backend was chosen in vain, and nothing
 * else.
 */
static __always_inline bool foretell(__u32 tcp_flags)
{
	__u32 zero = 0;
	struct scratch *held;
	__u64 history;

	if (unlikely(tcp_flags & TCP_SYN))
		return true;
	held = bpf_map_lookup_elem(&scratch, &zero);
	if (likely(!held || !held->history))
		return false;
	history = held->history;
	held->history = history << 1;
	return (history & 3) == 3;
}

/* What opening a flow may say beside 0 (it is there) and a reason. */
#define OPEN_REFUSE 128	/* no endpoint: answer so */
#define NOT_A_VIP 129

static __always_inline __u32 be_word(const __u8 *octets)
{
	return bpf_ntohl(*(const __be32 *)octets);
}

/* The slot of a flow; with affinity, of its client alone. */
static __always_inline __u32 slot_of(const struct opening *o, __u32 seed, bool affinity)
{
	__u32 ports = affinity ? 0 : (__u32)bpf_ntohs(o->client_port) << 16 | bpf_ntohs(o->key.port);
	const __u8 *c = o->client, *v = o->key.addr;
	__u32 keep = affinity ? 0 : ~0U;
	struct jenkins h;

	if (o->family == 4) {
		jenkins_start(&h, 4, seed);
		jenkins_mix(&h, be_word(c + 12), be_word(v + 12) & keep, ports);
	} else {
		jenkins_start(&h, 10, seed);
		jenkins_mix(&h, be_word(c), be_word(c + 4), be_word(c + 8));
		jenkins_mix(&h, be_word(c + 12), be_word(v) & keep, be_word(v + 4) & keep);
		jenkins_mix(&h, be_word(v + 8) & keep, be_word(v + 12) & keep, ports);
	}
	return jenkins_last(&h, o->key.proto) >> 16;
}

/* Count what was refused, where a service can be told. */
static __always_inline __u32 refused(const struct opening *o, __u32 reason)
{
	struct service_events *events = bpf_map_lookup_elem(&service_events, &o->service_id);

	if (!events)
		return reason;
	switch (reason) {
	case DROP_SOURCE_RANGE:
		events->drops_source_range++;
		break;
	case DROP_NO_PORT:
		events->drops_no_port++;
		break;
	case DROP_CT_FULL:
	case DROP_CT_BUSY:
		events->drops_full++;
		break;
	case DROP_NO_BACKEND:
	case DROP_NO_LOCAL:
	case OPEN_REFUSE:
		events->drops_no_backend++;
		break;
	default:
		events->drops_other++;
	}
	return reason;
}

/* The backend of a client with affinity, if it is one still; else the slot's, which it keeps. */
static __noinline __u32 pick_for_client(const struct opening *o, __u32 set_index, __u32 ticks)
{
	struct affinity_key key = { .service_id = o->service_id };
	struct affinity fresh = { .seen = o->tick };
	struct affinity *held;

	__builtin_memcpy(key.client, o->client, sizeof(key.client));
	held = bpf_map_lookup_elem(&affinities, &key);
	if (held && (__s32)(o->tick - held->seen) <= (__s32)ticks &&
	    is_member(set_index, held->backend_id)) {
		held->seen = o->tick;
		return held->backend_id;
	}
	fresh.backend_id = pick(set_index, o->slot);
	if (fresh.backend_id)
		bpf_map_update_elem(&affinities, &key, &fresh, BPF_ANY);
	return fresh.backend_id;
}

static __noinline bool in_source_ranges(const struct opening *o)
{
	struct source_range range = { .prefix_length = 32 + 128, .service_id = o->service_id };

	__builtin_memcpy(range.addr, o->client, sizeof(range.addr));
	return bpf_map_lookup_elem(&source_ranges, &range);
}

static __always_inline void is_of_service(struct opening *o, const struct vip *vip)
{
	struct service_events *events;

	o->service_id = vip->service_id;
	o->flags = vip->flags;
	/* Counted at the end; asked for now, it is there by then. */
	events = bpf_map_lookup_elem(&service_events, &o->service_id);
	if (events)
		*(volatile __u64 *)&events->new_flows;
}

/* Whether this node's backends are the ones to choose from. */
static __always_inline bool only_local(const struct node *self, struct opening *o, __u32 flags)
{
	o->handed_over = !o->inner && (flags & VIP_DSR) && same_mac(o->dest_mac, self->gateway_mac);
	return o->handed_over || (flags & (o->inner ? VIP_INNER_LOCAL : VIP_LOCAL));
}

/*
 * What choose() will say of a packet that is likely to be a flow's first, if it says yes and
 * nothing is to be remembered by it. Only the opening is written: the packet may be of a flow yet.
 */
static __always_inline bool foresee(const struct node *self, struct opening *o)
{
	struct vip *vip = bpf_map_lookup_elem(&vips, &o->key);
	__u32 id, valid = o->family == 4 ? NODE_VALID4 : NODE_VALID6;
	struct backend *backend;

	if (!vip || vip->flags & (VIP_SOURCE_RANGES | VIP_AFFINITY) ||
	    (self->flags & (valid | NODE_CARRYING)) != valid)
		return false;
	is_of_service(o, vip);
	o->slot = slot_of(o, self->pick_seed, false);
	id = pick(2 * o->service_id + only_local(self, o, o->flags), o->slot);
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!id || !backend || !backend->proto)
		return false;
	o->backend = *backend;
	o->foreseen = 1;
	return true;
}

/* Whether the packet is of a service, and which backend it goes to. 0, or why not. */
static __always_inline __u32 choose(const struct node *self, struct opening *o)
{
	struct backend *backend;
	__u32 set_index, id;
	struct vip *vip;
	bool local;

	if (o->foreseen)
		return 0;
	vip = bpf_map_lookup_elem(&vips, &o->key);
	if (!vip)
		return NOT_A_VIP;
	is_of_service(o, vip);
	if (!(self->flags & (o->family == 4 ? NODE_VALID4 : NODE_VALID6)))
		return refused(o, DROP_NO_GATEWAY);
	/* Begun in the middle it would get another port. It is sent again: by then it is here. */
	if (unlikely(self->flags & NODE_CARRYING) && o->key.proto == IPPROTO_TCP &&
	    (o->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return refused(o, DROP_CT_BUSY);
	if ((vip->flags & VIP_SOURCE_RANGES) && !o->inner && !in_source_ranges(o))
		return refused(o, DROP_SOURCE_RANGE);
	local = only_local(self, o, vip->flags);
	set_index = 2 * vip->service_id + local;
	o->slot = slot_of(o, self->pick_seed, vip->flags & VIP_AFFINITY);
	id = vip->flags & VIP_AFFINITY ? pick_for_client(o, set_index, vip->affinity_ticks) :
					 pick(set_index, o->slot);
	backend = bpf_map_lookup_elem(&backends, &id);
	if (!id || !backend || !backend->proto) {
		if (!local)
			return refused(o, vip->flags & VIP_REJECT ? OPEN_REFUSE : DROP_NO_BACKEND);
		/* Policy Local is silent, but a service without any endpoint refuses. */
		set_index = 2 * vip->service_id;
		if ((vip->flags & VIP_REJECT) && !o->handed_over && !pick(set_index, o->slot))
			return refused(o, OPEN_REFUSE);
		return refused(o, DROP_NO_LOCAL);
	}
	o->backend = *backend;
	return 0;
}

static __always_inline __u8 first_state(const struct opening *o)
{
	if (o->key.proto == IPPROTO_UDP)
		return CT_UDP_ONE_WAY;
	if (o->key.proto == IPPROTO_SCTP)
		return CT_SCTP_NEW;
	if (o->tcp_flags & TCP_RST)
		return CT_RESET;
	return (o->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN ? CT_SYN : CT_MIDDLE;
}

/*
 * Whether the backend has to see an address of ours in place of the client's. Who speaks from such
 * an address already is given a port of ours: by others that address is not looked for
 * (is_direct_port).
 */
static __always_inline bool wants_snat(const struct node *self, const struct opening *o)
{
	if (o->family == 4 ? is_ours4(self, *(__be32 *)(o->client + 12)) : is_ours6(self, o->client))
		return true;
	if (o->handed_over)
		return false;
	/* The kernel knows its way to clients outside, and none to those behind OVN. */
	if (o->backend.place == PLACE_HOST)
		return o->inner;
	if (same16(o->client, o->backend.addr))
		return true;
	if ((o->flags & VIP_DSR) && !o->inner && o->backend.place == PLACE_LOCAL)
		return false;
	return o->flags & (o->inner ? VIP_INNER_SNAT : VIP_SNAT);
}

static __always_inline bool wants_dsr(const struct opening *o)
{
	return (o->flags & VIP_DSR) && !o->inner && !o->handed_over &&
	       o->backend.place == PLACE_REMOTE &&
	       (*(const __u32 *)o->backend.mac | *(const __u16 *)(o->backend.mac + 4));
}

static __always_inline bool is_low(__be16 port)
{
	return port && bpf_ntohs(port) < SNAT_PORT_MIN;
}

/*
 * The source port of a flow in this turn; in network order. A client's port below 1,024 is kept if
 * it can be, because some servers ask for one (RFC 2623, NFS); then the record is chosen, and names
 * it (0); where no record is to be had so, others are tried. If they are taken, too, the record is
 * chosen again, and a weak flow may end for it: who floods a backend does not use up its ports.
 */
static __always_inline __be16 port_to_try(const struct opening *o, __u32 turn)
{
	__u32 hash = o->slot ^ o->client_port << 16;

	if (!turn)
		return o->client_port;
	if (turn == 1)
		return 0;
	hash = (hash + turn * 0x9e3779b1U) * 0x85ebca6bU;
	return bpf_htons(SNAT_PORT_MIN + ((hash >> 16) * SNAT_PORTS >> 16));
}

#define FILL_COMMON(flow, o)							\
	do {									\
		(flow).client_port = (o)->client_port;				\
		(flow).vip_port = (o)->key.port;				\
		(flow).proto = (o)->key.proto;					\
		(flow).state = first_state(o);					\
		(flow).flags = ((o)->inner ? FLOW_INNER : 0) |			\
			       ((o)->handed_over ? FLOW_HANDED : 0) |		\
			       ((o)->backend.place == PLACE_HOST ? FLOW_HOST : 0) | \
			       (wants_dsr(o) ? FLOW_DSR : 0);			\
		(flow).backend_port = (o)->backend.port;			\
		(flow).source_port = (o)->client_port;				\
		(flow).service_id = (o)->service_id;				\
		(flow).mtu = wants_dsr(o) ? 0 : (o)->backend.mtu;		\
		(flow).ifindex = (o)->ifindex;					\
		(flow).vlan[0] = (o)->vlan[0];					\
		(flow).vlan[1] = (o)->vlan[1];					\
		copy_mac((flow).client_mac, (o)->source_mac);			\
		copy_mac((flow).vip_mac, wants_dsr(o) ? (o)->backend.mac : (o)->dest_mac); \
	} while (0)

static __always_inline struct vain *vain_of(struct scratch *held)
{
	const struct backend *to = &held->opening.backend;
	__u32 hash = be_word(to->addr + 12) + to->port + (to->proto << 8) + held->opening.family;

	return &held->vain[hash * 0x9e3779b1U >> (32 - VAIN_BITS)];
}

/*
 * Where a backend's flows find no room, it is looked for everywhere once a tick, and not for each:
 * a flood that gets nowhere would cost more than one that gets through.
 */
static __always_inline __u32 how_to_look(struct scratch *held)
{
	const struct vain *vain = vain_of(held);

	if (likely(vain->flows <= VAIN_MANY) || vain->tick != held->opening.tick)
		return 0;
	return BRIEFLY;
}

/* Remember how it went; the reason to give. */
static __always_inline __u32 remembered(struct scratch *held, __u32 failed, __u32 how)
{
	struct vain *vain = vain_of(held);

	if (failed != DROP_CT_FULL && failed != DROP_NO_PORT)
		return failed;
	vain->flows++;
	if (how & BRIEFLY)
		return vain->reason;
	vain->tick = held->opening.tick;
	vain->reason = failed;
	return failed;
}

static __always_inline __u32 opened(const struct node *self, struct scratch *held, __u32 failed,
				    __u32 how)
{
	const struct opening *o = &held->opening;
	struct service_events *events;
	struct vain *vain;

	if (failed == FLOW_THERE)
		return 0;
	if (failed == DROP_CONFLICT && wants_snat(self, o))
		failed = DROP_NO_PORT;
	if (unlikely(failed))
		return refused(o, remembered(held, failed, how));
	vain = vain_of(held);
	if (unlikely(vain->flows))
		vain->flows = 0;
	events = bpf_map_lookup_elem(&service_events, &o->service_id);
	if (events)
		events->new_flows++;
	if (!(o->tcp_flags & TCP_SYN))
		held->history |= 1;
	return 0;
}

/* A new flow of IPv4, as its opening says. 0, or the reason why not. */
__noinline __u32 open4(struct xdp_md *ctx)
{
	__u32 zero = 0, turn, failed, how;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);
	struct flow4 *flow;
	struct opening *o;

	if (!ctx || !held || !self)
		return DROP_NO_GATEWAY;
	o = &held->opening;
	failed = choose(self, o);
	if (failed)
		return failed;
	how = how_to_look(held);
	flow = &held->flow4;
	__builtin_memset(__builtin_assume_aligned(flow, 8), 0, sizeof(*flow));
	FILL_COMMON(*flow, o);
	flow->client = *(__be32 *)(o->client + 12);
	flow->vip = *(__be32 *)(o->key.addr + 12);
	flow->backend = *(__be32 *)(o->backend.addr + 12);
	flow->source = flow->client;
	if (flow->flags & FLOW_DSR) {
		/* Its reply never comes here; its own tuple is as unique as it is. */
		flow->backend = flow->vip;
		flow->backend_port = flow->vip_port;
		return opened(self, held, ct4_add(flow, o->tick, how), how);
	}
	if (!wants_snat(self, o)) {
		flow->flags |= FLOW_NO_SNAT;
		return opened(self, held, ct4_add(flow, o->tick, how), how);
	}
	flow->source = o->backend.place == PLACE_HOST ? HOST_SOURCE4 : self->service_addr4;
	failed = DROP_NO_PORT;
	for (turn = !is_low(o->client_port); turn <= SNAT_TRIES + 1; turn++) {
		flow->source_port = port_to_try(o, turn);
		failed = ct4_add(flow, o->tick, how | (o->asked && turn == 1));
		if (failed != DROP_CONFLICT &&
		    (turn > FULL_TRIES || how || failed != DROP_CT_FULL))
			break;
	}
	if (unlikely(failed == DROP_CONFLICT)) {
		flow->source_port = 0;
		failed = ct4_add(flow, o->tick, NO_OTHER_PORT);
		if (failed == DROP_CT_FULL)
			failed = DROP_NO_PORT;
	}
	return opened(self, held, failed, how);
}

/* The same for IPv6. */
__noinline __u32 open6(struct xdp_md *ctx)
{
	__u32 zero = 0, turn, failed, how;
	struct node *self = bpf_map_lookup_elem(&node, &zero);
	struct scratch *held = bpf_map_lookup_elem(&scratch, &zero);
	struct flow6 *flow;
	struct opening *o;

	if (!ctx || !held || !self)
		return DROP_NO_GATEWAY;
	o = &held->opening;
	failed = choose(self, o);
	if (failed)
		return failed;
	how = how_to_look(held);
	flow = &held->flow6;
	__builtin_memset(__builtin_assume_aligned(flow, 8), 0, sizeof(*flow));
	FILL_COMMON(*flow, o);
	copy16(flow->client, o->client);
	copy16(flow->vip, o->key.addr);
	copy16(flow->backend, o->backend.addr);
	copy16(flow->source, o->client);
	/* What was written is read again: the compiler would keep all of it on the stack. */
	barrier();
	if (flow->flags & FLOW_DSR) {
		copy16(flow->backend, flow->vip);
		flow->backend_port = flow->vip_port;
		return opened(self, held, ct6_add(flow, o->tick, how), how);
	}
	if (!wants_snat(self, o)) {
		flow->flags |= FLOW_NO_SNAT;
		return opened(self, held, ct6_add(flow, o->tick, how), how);
	}
	if (o->backend.place == PLACE_HOST)
		host_source6(flow->source);
	else
		copy16(flow->source, self->service_addr6);
	failed = DROP_NO_PORT;
	for (turn = !is_low(o->client_port); turn <= SNAT_TRIES + 1; turn++) {
		flow->source_port = port_to_try(o, turn);
		failed = ct6_add(flow, o->tick, how | (o->asked && turn == 1));
		if (failed != DROP_CONFLICT &&
		    (turn > FULL_TRIES || how || failed != DROP_CT_FULL))
			break;
	}
	if (unlikely(failed == DROP_CONFLICT)) {
		flow->source_port = 0;
		failed = ct6_add(flow, o->tick, NO_OTHER_PORT);
		if (failed == DROP_CT_FULL)
			failed = DROP_NO_PORT;
	}
	return opened(self, held, failed, how);
}

#endif
