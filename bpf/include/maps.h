/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the maps of the programs, each pinned by its name below
 * <bpf_root>/v<ABI_VERSION>/, and so shared by all objects and by every version of them.
 * A map whose layout changes gets a new name or a new ABI_VERSION, never the same pin. Sizes are
 * defaults: the loader sets those of the configuration, or takes those of the pinned maps.
 */
#ifndef MILLRACE_MAPS_H
#define MILLRACE_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/*
 * BPF_F_MMAPABLE has the kernel begin an array's values on a page. Without it they begin 56 octets
 * into a cache line (struct bpf_array), and each element of 64 octets lies in two.
 */
#define PINNED_ARRAY(name, entries, value_type)		\
	struct {					\
		__uint(type, BPF_MAP_TYPE_ARRAY);	\
		__uint(map_flags, BPF_F_MMAPABLE);	\
		__uint(max_entries, entries);		\
		__type(key, __u32);			\
		__type(value, value_type);		\
		__uint(pinning, LIBBPF_PIN_BY_NAME);	\
	} name SEC(".maps")

/* The daemon writes, for new flows and rare packets. A miss: the packet is of no service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct vip_key);
	__type(value, struct vip);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vips SEC(".maps");

/*
 * One bit for each hash of (address, port, protocol): clear for what is certainly in no VIP. The
 * daemon sets it before the VIP and clears it after.
 */
PINNED_ARRAY(vip_bits, FILTER_BITS / 64, __u64);

/* By 2 * service id + scope. One aligned word, which the daemon changes at one stroke. */
PINNED_ARRAY(sets, 2 * MAX_SERVICES, struct set);

/* What sets name. The daemon never changes a member that a set names. */
PINNED_ARRAY(members, MAX_MEMBERS, struct member);
PINNED_ARRAY(tables, MAX_TABLES * PICK_SLOTS, __u32);

/* By backend id. The daemon writes; read for new flows only. proto 0: it is gone. */
PINNED_ARRAY(backends, MAX_BACKENDS, struct backend);

/* The daemon writes. A miss: the client is not admitted. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_SOURCE_RANGES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_range);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} source_ranges SEC(".maps");

/* Programs read and write. A miss: the client may go to any backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_AFFINITIES);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} affinities SEC(".maps");

/* Conntrack: see abi.h and ct.h. */
PINNED_ARRAY(ct4, MAX_FLOW_SLOTS, struct flow4);
PINNED_ARRAY(ct4_tags, MAX_FLOW_SLOTS / CT_WAYS, struct index_bucket);
PINNED_ARRAY(ct4_replies, MAX_FLOW_SLOTS / 2, struct reply_bucket);
PINNED_ARRAY(ct6, MAX_FLOW_SLOTS, struct flow6);
PINNED_ARRAY(ct6_tags, MAX_FLOW_SLOTS / CT_WAYS, struct index_bucket);
PINNED_ARRAY(ct6_replies, MAX_FLOW_SLOTS / 2, struct reply_bucket);

/* Programs write and read. A miss: the fragment's first one was not seen. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

/* The daemon writes: enum address_flag. A miss: an address that is nobody's here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_KNOWN_ADDRESSES);
	__type(key, struct known_address);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} known_addresses SEC(".maps");

/* The same for known_addresses as vip_bits for VIPs; port and protocol 0. */
PINNED_ARRAY(address_bits, FILTER_BITS / 64, __u64);

/* The daemon writes. Without NODE_VALID4 or 6: no gateway router is known. */
PINNED_ARRAY(node, 1, struct node);

/* What a socket was connected or spoke to. A miss: to nothing of ours. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_peer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sock_peers SEC(".maps");

/* More peers of sockets; see sock.bpf.c. The daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SOCK_REVERSE);
	__type(key, struct sock_key);
	__type(value, struct sock_peer);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sock_reverse SEC(".maps");

/* By reason. Programs write, the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_REASONS);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* By service id. Programs write, the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service_events);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} service_events SEC(".maps");

/*
 * By CPU, way and service id. Programs write, the daemon reads. Not a map by CPU of the kernel's,
 * which has a pointer for each element and elements here and there: where traffic is of many
 * services, these are lines that each packet has to wait for. The loader makes it as large as all
 * CPUs need.
 */
PINNED_ARRAY(service_traffic, TRAFFIC_WAYS * MAX_SERVICES, struct counter);

/* How many services service_traffic has room for. */
const volatile __u32 traffic_services SEC(".rodata.services") = MAX_SERVICES;

/* What this CPU counts of a service's packets of one way. */
static __always_inline struct counter *traffic_of(__u32 service_id, enum traffic_way way)
{
	__u32 row = bpf_get_smp_processor_id() * TRAFFIC_WAYS + way;
	__u32 index = row * traffic_services + service_id;

	return bpf_map_lookup_elem(&service_traffic, &index);
}

static __always_inline void count_traffic(__u32 service_id, enum traffic_way way, __u64 octets)
{
	struct counter *counter = traffic_of(service_id, way);

	if (counter) {
		counter->packets++;
		counter->bytes += octets;
	}
}

/*
 * The uplinks, by ifindex. The daemon writes. A miss: the reply cannot leave.
 * Pinned by the loader: the kernel adds BPF_F_RDONLY_PROG to the flags of every device map, and so
 * libbpf (1.1) takes a pinned one for another map than it asked for.
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, MAX_TX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} tx_ports SEC(".maps");

#endif
