/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: from what a socket asks for to the backend that it is given, or the error.
 * Which peers a socket has already is the business of sock.bpf.c.
 *
 * Invariants:
 * - The clients here are those that abi.h calls inside: VIP_INNER_LOCAL chooses the set, and there
 *   is no source range and no SNAT.
 * - Addresses are 16 octets at places aligned to eight, IPv4 mapped.
 */
#ifndef MILLRACE_SOCK_H
#define MILLRACE_SOCK_H

#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "abi.h"
#include "hash.h"
#include "maps.h"
#include "pick.h"

/* The answers of a program. */
#define PROCEED 1
#define REFUSE 0

/* The cookie of the node's network namespace; 0: the machine's first one. */
const volatile __u64 node_netns SEC(".rodata.node") = 0;

typedef __u64 __attribute__((__may_alias__)) half;
typedef __u32 __attribute__((__may_alias__)) word;

/* What a socket asks for, and the peer that it is given. */
struct call {
	struct vip_key asked __attribute__((aligned(8)));
	struct sock_peer peer __attribute__((aligned(8)));
};

static __always_inline void copy_addr(__u8 *to, const __u8 *from)
{
	((half *)to)[0] = ((const half *)from)[0];
	((half *)to)[1] = ((const half *)from)[1];
}

static __always_inline bool same_addr(const __u8 *a, const __u8 *b)
{
	return ((const half *)a)[0] == ((const half *)b)[0] &&
	       ((const half *)a)[1] == ((const half *)b)[1];
}

static __always_inline bool is_mapped(const __u8 *addr)
{
	return !((const half *)addr)[0] && ((const word *)addr)[2] == bpf_htonl(0xffff);
}

/* Linux takes the unspecified address as a destination for loopback's. */
static __always_inline bool is_unspecified(const __u8 *addr)
{
	return !((const half *)addr)[0] && !((const word *)addr)[3] &&
	       (!((const word *)addr)[2] || is_mapped(addr));
}

static __always_inline bool is_loopback(const __u8 *addr)
{
	if (is_unspecified(addr))
		return true;
	if (is_mapped(addr))
		return addr[12] == 127;
	return !((const half *)addr)[0] && ((const half *)addr)[1] == bpf_cpu_to_be64(1);
}

static __always_inline void count(__u32 reason)
{
	struct counter *counter = bpf_map_lookup_elem(&counters, &reason);

	/* Atomic, because a packet's program may run in between on this very CPU. */
	if (counter)
		__sync_fetch_and_add(&counter->packets, 1);
}

/* A datagram of a service's; its octets are not known here. */
static __always_inline void count_datagram(__u32 service_id, enum traffic_way way)
{
	struct counter *counter = traffic_of(service_id, way);

	if (counter)
		__sync_fetch_and_add(&counter->packets, 1);
}

#define COUNT_OF_SERVICE(id, field) do {						\
	__u32 service = (id);								\
	struct service_events *events = bpf_map_lookup_elem(&service_events, &service);	\
											\
	if (events)									\
		__sync_fetch_and_add(&events->field, 1);				\
} while (0)

static __always_inline bool is_in_filter(const struct vip_key *key)
{
	const half *addr = (const half *)key->addr;

	return may_be_vip(is_mapped(key->addr) ? whole4(((const word *)addr)[3]) : fold6(addr),
			  key->port, key->proto);
}

static __always_inline bool is_of_node(struct bpf_sock_addr *ctx)
{
	return bpf_get_netns_cookie(ctx) == (node_netns ? : bpf_get_netns_cookie(NULL));
}

/*
 * A node port is in vips by the node's addresses that serve it, and by the unspecified address for
 * loopback, which is the node's own only in the node's network namespace.
 *
 * A host's address is reached from the node's own namespace, but hardly from a container's: what
 * has such backends is left to svc0 there, which the packets meet on their way.
 */
static __always_inline struct vip *find_vip(struct bpf_sock_addr *ctx, const struct call *call)
{
	struct vip_key key __attribute__((aligned(8))) = call->asked;
	struct vip *vip;

	if (!is_unspecified(key.addr) && is_in_filter(&key)) {
		vip = bpf_map_lookup_elem(&vips, &key);
		if (vip)
			return vip->flags & VIP_HOSTS && !is_of_node(ctx) ? NULL : vip;
	}
	if (!is_loopback(key.addr))
		return NULL;
	if (is_mapped(key.addr))
		((word *)key.addr)[3] = 0;
	else
		((half *)key.addr)[1] = 0;
	if (!is_in_filter(&key))
		return NULL;
	if (!is_of_node(ctx))
		return NULL;
	return bpf_map_lookup_elem(&vips, &key);
}

/* The set that clients inside are sent to. */
static __always_inline __u32 set_of(const struct vip *vip)
{
	return 2 * vip->service_id + !!(vip->flags & VIP_INNER_LOCAL);
}

static __always_inline __u32 now(void)
{
	struct node *here;
	__u32 zero = 0;

	here = bpf_map_lookup_elem(&node, &zero);
	if (here && here->flags & NODE_FIXED_CLOCK)
		return here->tick;
	return bpf_jiffies64();
}

/* Who a client is, to affinity: its network namespace, in the form of an address none can have. */
static __always_inline void client_of(struct bpf_sock_addr *ctx, const struct call *call, __u8 *to)
{
	((half *)to)[0] = bpf_cpu_to_be64(0xff00ULL << 48 | is_mapped(call->asked.addr));
	((half *)to)[1] = bpf_get_netns_cookie(ctx);
}

/* A slot, the same for the same number. */
static __always_inline __u32 mixed(__u64 number)
{
	return mix64(number) >> 48;
}

/* Why there is none: as the programs of packets have it. */
static __always_inline int without_backend(const struct vip *vip)
{
	if (vip->flags & VIP_INNER_LOCAL && pick(2 * vip->service_id, 0))
		return DROP_SOCK_NO_LOCAL;
	return DROP_SOCK_NO_BACKEND;
}

/* By the client alone, so that a forgotten affinity is found again while the set is the same. */
static __always_inline __u32 pick_with_affinity(struct bpf_sock_addr *ctx, const struct vip *vip,
						const struct call *call)
{
	struct affinity_key key __attribute__((aligned(8))) = { .service_id = vip->service_id };
	struct affinity *held, fresh = {};
	__u32 set = set_of(vip);
	__u8 client[16] __attribute__((aligned(8)));

	client_of(ctx, call, client);
	__builtin_memcpy(key.client, client, sizeof(key.client));
	fresh.seen = now();
	held = bpf_map_lookup_elem(&affinities, &key);
	if (held && (__s32)(fresh.seen - held->seen) <= (__s32)vip->affinity_ticks &&
	    is_member(set, held->backend_id)) {
		held->seen = fresh.seen;
		return held->backend_id;
	}
	fresh.backend_id = pick(set, mixed(((half *)client)[1] ^ vip->service_id));
	if (fresh.backend_id)
		bpf_map_update_elem(&affinities, &key, &fresh, BPF_ANY);
	return fresh.backend_id;
}

/* Give call->peer a backend; 0, or the reason why not. */
static __noinline int choose(struct bpf_sock_addr *ctx, const struct vip *vip, struct call *call)
{
	struct backend *backend;
	__u32 id;

	if (vip->flags & VIP_AFFINITY)
		id = pick_with_affinity(ctx, vip, call);
	else
		id = pick(set_of(vip), bpf_get_prandom_u32() >> 16);
	backend = id ? bpf_map_lookup_elem(&backends, &id) : NULL;
	if (!backend || backend->proto != call->asked.proto ||
	    is_mapped(backend->addr) != is_mapped(call->asked.addr))
		return without_backend(vip);
	copy_addr(call->peer.vip, call->asked.addr);
	copy_addr(call->peer.backend, backend->addr);
	call->peer.vip_port = call->asked.port;
	call->peer.backend_port = backend->port;
	call->peer.backend_id = id;
	call->peer.service_id = vip->service_id;
	call->peer.proto = call->asked.proto;
	COUNT_OF_SERVICE(vip->service_id, new_flows);
	return 0;
}

/* As kube-proxy: no endpoint anywhere is refused; policy Local with none here is silence there. */
static __always_inline int refuse(const struct vip *vip, __u32 reason)
{
	bool refused = reason == DROP_SOCK_NO_BACKEND && vip->flags & VIP_REJECT;

	count(reason);
	COUNT_OF_SERVICE(vip->service_id, drops_no_backend);
	bpf_set_retval(refused ? -ECONNREFUSED : -EHOSTUNREACH);
	return REFUSE;
}

#endif
