// SPDX-License-Identifier: Apache-2.0
/*
 * What lives here: how flows of another version of the layouts become this version's. A program that
 * user space runs itself (no packet does) over the flows that it put into `adoptions`, while the
 * programs that packets run make and end flows in the same tables: so it takes the same locks, by the
 * same functions (ct_family.h).
 *
 * A port that we chose names the flow's record. One of version 2 was the client's own: the flow is put
 * into the record that this port happens to name, or, if that is another's and ADOPT_ANYWHERE is set,
 * into any, and has a word among the replies. Under NODE_CARRIED such words are looked at where the
 * record that a port names is another's.
 *
 * The argument is struct adopt, in and out. The pinned maps are the node's, put in by the loader.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>
#include <stddef.h>

#include "abi.h"
#include "ct.h"

char LICENSE[] SEC("license") = "Apache-2.0";

/* The flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ADOPTIONS);
	__type(key, __u32);
	__type(value, struct adoption);
} adoptions SEC(".maps");

/* One of them as IPv4 has it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow4);
} adopted4 SEC(".maps");

/* IPv4 */
#define FLOW struct flow4
#define TUPLE struct tuple4
#define IS_OURS is_ours4
#define CT(name) ct4_##name
#include "adopt_family.h"
#undef FLOW
#undef TUPLE
#undef IS_OURS
#undef CT

/* IPv6 */
#define FLOW struct flow6
#define TUPLE struct tuple6
#define IS_OURS is_ours6
#define CT(name) ct6_##name
#include "adopt_family.h"
#undef FLOW
#undef TUPLE
#undef IS_OURS
#undef CT

static __always_inline __be32 unmapped(const __u8 *addr)
{
	return *(const __be32 *)(addr + 12);
}

static __noinline __u32 adopt4(const struct flow6 *flow, __u32 orders)
{
	__u32 zero = 0;
	struct flow4 *made = bpf_map_lookup_elem(&adopted4, &zero);

	if (!made)
		return DROP_CT_FULL;
	__builtin_memset(made, 0, sizeof(*made));
	made->seen = flow->seen;
	made->client = unmapped(flow->client);
	made->vip = unmapped(flow->vip);
	made->client_port = flow->client_port;
	made->vip_port = flow->vip_port;
	made->proto = flow->proto;
	made->state = flow->state;
	made->flags = flow->flags;
	made->backend = unmapped(flow->backend);
	made->source = unmapped(flow->source);
	made->backend_port = flow->backend_port;
	made->source_port = flow->source_port;
	made->service_id = flow->service_id;
	made->mtu = flow->mtu;
	made->ifindex = flow->ifindex;
	__builtin_memcpy(made->client_mac, flow->client_mac, sizeof(made->client_mac));
	__builtin_memcpy(made->vip_mac, flow->vip_mac, sizeof(made->vip_mac));
	made->vlan[0] = flow->vlan[0];
	made->vlan[1] = flow->vlan[1];
	return ct4_adopt(made, orders);
}

static long adopt_one(__u32 number, __u32 *refused)
{
	struct adoption *row = bpf_map_lookup_elem(&adoptions, &number);

	if (!row)
		return 1;
	row->reason = row->family == 4 ? adopt4(&row->flow, row->orders) :
					 ct6_adopt(&row->flow, row->orders);
	*refused += row->reason != 0;
	return 0;
}

SEC("syscall")
int millrace_adopt(struct adopt *adopt)
{
	__u32 refused = 0;

	bpf_loop(adopt->count, adopt_one, &refused, 0);
	adopt->refused = refused;
	return 0;
}
