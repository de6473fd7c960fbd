/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: the maps of the two programs, each pinned by its name below
 * <bpf_root>/v<ABI_VERSION>/, and so shared by both objects and by every version of them.
 * A map whose layout changes gets a new name or a new ABI_VERSION, never the same pin.
 */
#ifndef MILLRACE_MAPS_H
#define MILLRACE_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* The daemon writes, uplink reads. A miss: the packet is of no service. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS);
	__type(key, struct vip_key);
	__type(value, struct vip);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vips SEC(".maps");

/*
 * The inner map of one service: one value, so that it is filled by one system call. By size, not
 * by type: the BTF of a map of maps does not carry the types of its inner map's.
 */
struct maglev_inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct maglev_table));
};

/*
 * By service id. The daemon fills a new inner map, then puts it here: one pointer changes.
 * A miss: the service has no backend.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, struct maglev_inner);
} maglev SEC(".maps");

/* By backend id. The daemon writes; uplink reads for new flows only. A miss: it is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} backends SEC(".maps");

/* Client to VIP. Uplink writes and reads. A miss: a new flow (or one that was evicted). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow_forward);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ct_forward SEC(".maps");

/*
 * Backend to us. Uplink writes, with BPF_NOEXIST, which is what makes a source port one flow's
 * alone; both programs read. A miss: not a reply of ours.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow_reply);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ct_reply SEC(".maps");

/* The daemon writes, uplink reads. A miss: the packet is not for this node's kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL_ADDRESSES);
	__type(key, struct local_address);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} local_addresses SEC(".maps");

/* The daemon writes, both read. valid == 0: no gateway router is known. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} node SEC(".maps");

/* By reason. Both write, the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_REASONS);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* By service id. Both write, the daemon reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES);
	__type(key, __u32);
	__type(value, struct service_stats);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} service_stats SEC(".maps");

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
