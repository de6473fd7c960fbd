/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lives here: every type and number that user space shares with the programs. The only such
 * header; bpf/abi.py says the same in Python, and tests/abi compares the two through DWARF.
 *
 * Rules: fixed-width types, byte order in the type (__be16, __be32; everything else is host order),
 * padding explicit, sizes asserted. Enums are append-only; a retired value is renamed _UNUSED.
 * A change of any layout or meaning raises ABI_VERSION, and with it the directory of the pins.
 */
#ifndef MILLRACE_ABI_H
#define MILLRACE_ABI_H

#include <linux/types.h>

enum limit {
	ABI_VERSION = 1,
	MAGLEV_SIZE = 4093,	/* slots of a table; prime (Eisenbud et al., NSDI 2016) */
	MAX_SERVICES = 16384,
	MAX_VIPS = 65536,
	MAX_BACKENDS = 65536,
	MAX_FLOWS = 131072,	/* of each of the two conntrack maps */
	MAX_LOCAL_ADDRESSES = 4096,
	MAX_TX_PORTS = 256,
	MAX_XSK_QUEUES = 64,	/* of a private xsks_map; OVS's has its own size */
	MAX_REASONS = 64,	/* capacity of counters: new reasons change no map */
	HASH_SEED = 0x6d72f10e,	/* of the Maglev pick; one for all nodes */
	PERF_HEAD = 64,		/* bytes that the perf wrapper puts back before each run */
};

enum vip_flag {
	VIP_SNAT = 1,		/* traffic policy "cluster": the backend sees svc0's address */
	VIP_NO_BACKEND = 2,	/* nothing to send new flows to: drop */
};

enum place {
	PLACE_UNKNOWN = 0,
	PLACE_LOCAL = 1,
	PLACE_REMOTE = 2,
	PLACE_HOST = 3,
};

enum ct_flag {
	CT_ESTABLISHED = 1,	/* TCP: the client has sent something after its SYN */
	CT_CLOSING = 2,		/* TCP: a FIN or a RST was seen from either side */
};

/* Why a packet went where it went; the index of `counters`. Exactly one per packet. */
enum reason {
	REASON_UNUSED = 0,
	/* the uplink program: to the kernel */
	PASS_ARP = 1,		/* ARP for an address of this node */
	PASS_LLDP = 2,
	PASS_IPV4 = 3,		/* IPv4 for an address of this node */
	PASS_IPV6 = 4,		/* IPv6 for an address of this node */
	PASS_ND = 5,		/* neighbour solicitation for an address of this node */
	/* the uplink program: to OVS, untouched */
	XSK_ARP = 6,
	XSK_IPV4 = 7,
	XSK_IPV6 = 8,
	XSK_VLAN = 9,		/* tagged: services on VLANs are not translated yet */
	XSK_OTHER = 10,		/* another ethertype */
	XSK_MALFORMED = 11,	/* a header is cut short or contradicts itself */
	/* the uplink program: a packet of a served VIP */
	VIP_FORWARD = 12,	/* translated, flow known */
	VIP_NEW = 13,		/* translated, first packet of its flow */
	DROP_VIP_FRAGMENT = 14,
	DROP_VIP_OPTIONS = 15,	/* IPv4 options */
	DROP_VIP_TTL = 16,	/* TTL would end at the gateway router */
	DROP_VIP_MALFORMED = 17,
	DROP_NO_GATEWAY = 18,	/* `node` is not valid: no gateway router yet */
	DROP_NO_BACKEND = 19,	/* VIP_NO_BACKEND, or no Maglev table, or a pick that is gone */
	DROP_NO_PORT = 20,	/* every source port tried is in use towards that backend */
	DROP_CONFLICT = 21,	/* this flow's port or tuple now belongs to another client */
	DROP_CT_FULL = 22,	/* the kernel found no free conntrack entry */
	/* replies, at either program */
	UPLINK_REPLY = 23,	/* reversed at the uplink */
	SVC_REPLY = 24,		/* reversed at svc0 */
	DROP_NO_TX_PORT = 25,	/* the uplink to leave by is not in tx_ports */
	/* the svc program */
	SVC_PASS_ARP = 26,
	SVC_PASS_ICMP = 27,	/* ICMP for svc0's own address */
	SVC_UPLINK = 28,	/* of no flow of ours: to the uplink unchanged */
	DROP_SVC_NO_FLOW = 29,	/* for svc0's own address, but of no flow */
	DROP_SVC_MULTICAST = 30,
	DROP_SVC_MALFORMED = 31,
	DROP_SVC_FRAGMENT = 32,
	REASON_END		/* not a reason */
};

/* vips: key. */
struct vip_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct vip_key) == 8, "vip_key");

/* vips: value. */
struct vip {
	__u32 service_id;	/* index of maglev and service_stats */
	__u32 flags;		/* enum vip_flag */
};
_Static_assert(sizeof(struct vip) == 8, "vip");

/* backends: value; the key is the backend id, from 1. */
struct backend {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 place;		/* enum place */
};
_Static_assert(sizeof(struct backend) == 8, "backend");

/* The only value of a service's inner map of maglev: backend ids, 0 for none. */
struct maglev_table {
	__u32 slots[MAGLEV_SIZE];
};
_Static_assert(sizeof(struct maglev_table) == 16372, "maglev_table");

/* ct_forward and ct_reply: key, as the packet comes in (client to VIP, backend to us). */
struct flow_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow_key) == 16, "flow_key");

/*
 * ct_forward: value. The two checksum deltas are what the rewrite adds to the IPv4 and the TCP or
 * UDP checksum (RFC 1624, as one folded sum): they are the same for every packet of the flow.
 */
struct flow_forward {
	__be32 backend_addr;
	__be32 source_addr;	/* svc0's, or the client's own when there is no SNAT */
	__be16 backend_port;
	__be16 source_port;
	__u32 backend_id;
	__u32 flags;		/* enum ct_flag */
	__u16 ip_delta;
	__u16 l4_delta;
	__u32 tick;		/* jiffies at seen_ns, low bits: what the fast path compares */
	__u32 pad;
	__u64 seen_ns;		/* CLOCK_MONOTONIC_COARSE, renewed every TOUCH_TICKS at most */
};
_Static_assert(sizeof(struct flow_forward) == 40, "flow_forward");

/* ct_reply: value. */
struct flow_reply {
	__be32 client_addr;
	__be32 vip_addr;
	__be16 client_port;
	__be16 vip_port;
	__u32 service_id;
	__u32 ifindex;		/* the uplink that the client's packets come in by */
	__u32 flags;		/* enum ct_flag */
	__u16 ip_delta;
	__u16 l4_delta;
	__u8 client_mac[6];
	__u8 vip_mac[6];	/* the MAC that the client sends to */
	__u32 tick;
	__u32 pad;
	__u64 seen_ns;
};
_Static_assert(sizeof(struct flow_reply) == 56, "flow_reply");

/* local_addresses: key; IPv4 as ::ffff:a.b.c.d. The value is unused. */
struct local_address {
	__u8 octets[16];
};
_Static_assert(sizeof(struct local_address) == 16, "local_address");

/* node: the only value. */
struct node {
	__be32 service_addr;	/* svc0's */
	__u32 uplink_ifindex;
	__u8 service_mac[6];
	__u8 gateway_mac[6];	/* the gateway router's external port */
	__u8 uplink_mac[6];
	__u8 valid;		/* 0: nothing is known yet */
	__u8 pad[5];
};
_Static_assert(sizeof(struct node) == 32, "node");

/* counters: value, by reason. */
struct counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct counter) == 16, "counter");

/* service_stats: value, by service id. */
struct service_stats {
	__u64 forward_packets;
	__u64 forward_bytes;
	__u64 reply_packets;
	__u64 reply_bytes;
	__u64 new_flows;
};
_Static_assert(sizeof(struct service_stats) == 40, "service_stats");

/* perf_plan, of perf_wrapper.bpf.c only: the only value. */
struct perf_plan {
	__u8 head[PERF_HEAD];	/* the packet's first bytes */
	__u32 flows;		/* how many 5-tuples to take in turn; 1: the head as it is */
	__u32 next;
};
_Static_assert(sizeof(struct perf_plan) == 72, "perf_plan");

#endif
