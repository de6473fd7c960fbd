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
	ABI_VERSION = 3,
	CT_WAYS = 8,		/* records for each bucket of the index of conntrack */
	INDEX_WAYS = 14,	/* words of such a bucket */
	REPLY_WAYS = 7,		/* words of a bucket of the index of replies */
	PICK_SLOTS = 65536,	/* what a flow's hash is reduced to when a backend is picked */
	LIST_MAX = 128,		/* a set with more members has a table of PICK_SLOTS */
	FILTER_BITS = 2097152,	/* of vip_bits, and of address_bits */
	FILTER_BLOCK_BITS = 512,	/* one cache line, which neighbours share */
	LOCAL4_INLINE = 8,	/* addresses of this node that are kept in `node` itself */
	/* The sizes of maps by default; configuration sets others, always powers of two. */
	MAX_SERVICES = 16384,
	MAX_VIPS = 65536,
	MAX_BACKENDS = 131072,
	MAX_MEMBERS = 524288,
	MAX_TABLES = 8,
	MAX_FLOW_SLOTS = 262144,	/* of each family: twice the flows that it is meant for */
	MAX_AFFINITIES = 65536,
	MAX_SOURCE_RANGES = 16384,
	MAX_FRAGMENTS = 8192,
	MAX_KNOWN_ADDRESSES = 65536,
	MAX_TX_PORTS = 256,
	MAX_XSK_QUEUES = 64,	/* of a private xsks_map; OVS's has its own size */
	MAX_REASONS = 128,	/* capacity of counters: new reasons change no map */
	MAX_SWEEP_ENDS = 65536,
	MAX_ADOPTIONS = 2048,
	MAX_SOCK_REVERSE = 65536,
	MAX_CONNECTED = 262144,	/* UDP sockets that one walk can find */
	PICK_SEED = 0x6d72f10e,	/* one for all nodes */
	PERF_HEAD = 80,		/* bytes that the perf wrapper puts back before each run */
	/*
	 * What stands for a client behind OVN, to a backend in this node's own network:
	 * 169.254.109.115 and fd6d:7273::3, which svc0's other address makes neighbours of this
	 * node's kernel.
	 */
	HOST_SOURCE4_HIGH = 0xa9fe,
	HOST_SOURCE4_LOW = 0x6d73,
	HOST_SOURCE6_FIRST = 0xfd6d,
	HOST_SOURCE6_SECOND = 0x7273,
	HOST_SOURCE6_LAST = 3,
	/*
	 * Source ports towards backends where they are ours to choose. From DIRECT_PORT_MIN on they
	 * name the flow's record (ct?_direct); those below, from SNAT_PORT_MIN, are for flows that
	 * find no record so; a client's own below that is kept if it can be.
	 */
	SNAT_PORT_MIN = 1024,
	DIRECT_PORT_MIN = 16384,
};

enum vip_flag {
	VIP_SNAT = 1,		/* the backend sees svc0's address */
	VIP_LOCAL = 2,		/* clients outside: this node's backends (policy Local) */
	VIP_INNER_LOCAL = 4,	/* clients inside (svc0, sockets): the same for them */
	VIP_REJECT = 8,		/* empty cluster-wide set: RST or port unreachable, not silence */
	VIP_SOURCE_RANGES = 16,	/* clients outside have to be in source_ranges */
	VIP_AFFINITY = 32,	/* affinity_ticks counts */
	VIP_DSR = 64,		/* remote backends: handed to their node as it is */
	VIP_INNER_SNAT = 128,	/* clients inside: SNAT too (hairpin and host clients need none) */
	VIP_HOSTS = 256,	/* a backend is no workload: containers' sockets leave it to svc0 */
};

enum place {
	PLACE_UNKNOWN = 0,
	PLACE_LOCAL = 1,
	PLACE_REMOTE = 2,
	PLACE_HOST = 3,		/* in this node's own network: its kernel has the address */
	PLACE_OTHER_HOST = 4,	/* in another node's: as PLACE_UNKNOWN to the programs */
};

/* How the members of a set are kept (struct set). */
enum set_mode {
	SET_EMPTY = 0,
	SET_LIST = 1,		/* `count` members from `first` */
	SET_WEIGHTED = 2,	/* the same, each member followed by its weight in the next word */
	SET_TABLE = 3,		/* tables[first * PICK_SLOTS + slot] */
};

enum address_flag {
	ADDRESS_LOCAL = 1,	/* this node's kernel has it */
	ADDRESS_OWNED = 2,	/* a VIP's, answered by this node: ARP, ND, echo */
	ADDRESS_VIP = 4,	/* a VIP's: a port of it without service is rejected */
};

/* The state of a flow; the index of node.timeouts. Weak states may be evicted by new flows. */
enum ct_state {
	CT_SYN = 0,		/* TCP, weak: a SYN was seen */
	CT_SYN_ACK = 1,		/* TCP, weak: answered */
	CT_MIDDLE = 2,		/* TCP, weak: met in the middle, no reply seen yet */
	CT_ESTABLISHED = 3,
	CT_FIN = 4,		/* TCP: one side has closed */
	CT_TIME_WAIT = 5,	/* TCP, weak: both have */
	CT_RESET = 6,		/* TCP, weak */
	CT_UDP_ONE_WAY = 7,	/* UDP, weak: no reply seen yet */
	CT_UDP = 8,		/* the client went on after a reply */
	CT_SCTP_NEW = 9,	/* SCTP, weak: INIT seen */
	CT_SCTP = 10,
	CT_SCTP_SHUTDOWN = 11,	/* SCTP, weak */
	CT_UDP_ANSWERED = 12,	/* UDP, weak: the client has said nothing since the first reply */
	CT_STATES = 16,		/* capacity */
};

enum flow_flag {
	FLOW_DSR = 1,		/* not rewritten: only the MACs change, no reply comes here */
	FLOW_INNER = 2,		/* the client is behind OVN: came in by svc0, leaves by it */
	FLOW_CLIENT_FIN = 4,
	FLOW_BACKEND_FIN = 8,
	FLOW_NO_SNAT = 16,
	FLOW_HANDED = 32,	/* handed over by another node: replies keep OVN's MACs */
	FLOW_HOST = 64,		/* to this node's kernel, whose replies host.bpf.c reverses */
};

enum node_flag {
	NODE_VALID4 = 1,	/* svc0's IPv4 address and the gateway's MAC are known */
	NODE_VALID6 = 2,
	NODE_MORE_LOCAL4_UNUSED = 4,
	NODE_FIXED_CLOCK = 8,	/* `tick` is the time, and not the kernel's (tests) */
	NODE_CARRIED = 16,	/* some flows' ports may name another's record (adopt.bpf.c) */
	NODE_CARRYING = 32,	/* flows are on their way here from another version's maps */
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
	DROP_NO_BACKEND = 19,	/* an empty set, or the member picked is gone */
	DROP_NO_PORT = 20,	/* every source port tried is in use towards that backend */
	DROP_CONFLICT = 21,	/* this flow's port or tuple now belongs to another client */
	DROP_CT_FULL = 22,	/* no record, or no room for a word, is free or a weak flow's */
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
	/* a packet of a served VIP, continued */
	VIP_DIRECT = 33,	/* handed to the backend's node as it is */
	VIP_FRAGMENT = 34,	/* a later fragment, translated as its first one was */
	UPLINK_ICMP_ERROR = 35,	/* about a translated flow, translated */
	SVC_ICMP_ERROR = 36,
	SVC_FRAGMENT = 37,
	SVC_FORWARD = 38,	/* a client behind OVN: translated, flow known */
	SVC_NEW = 39,
	/* answered by the program itself */
	ANSWER_ARP = 40,
	ANSWER_ND = 41,
	ANSWER_ECHO = 42,
	ANSWER_RST = 43,	/* no endpoint at all: refused as kube-proxy does */
	ANSWER_UNREACHABLE = 44,
	ANSWER_TOO_BIG = 45,	/* the backend's path does not carry it */
	ANSWER_TTL = 46,
	/* refused */
	DROP_SOURCE_RANGE = 47,
	DROP_NO_LOCAL = 48,	/* policy Local and no backend on this node */
	DROP_FRAGMENT_MISS = 49,	/* a later fragment whose first one was not seen */
	DROP_CT_BUSY = 50,	/* another CPU held a bucket too long, or took each record first */
	DROP_VIP_PORT = 51,	/* a VIP's address, a port without service, not worth an answer */
	DROP_EXTENSION = 52,	/* IPv6 extension headers that cannot be followed */
	SVC_PASS_ND = 53,
	PASS_VLAN = 54,		/* tagged, and for this node's kernel */
	/* the socket programs: one for each call; no octets are known there */
	SOCK_CONNECT = 55,	/* connect() was given a backend */
	SOCK_NEW = 56,		/* a datagram, the first that its socket sends to the VIP */
	SOCK_FORWARD = 57,	/* a datagram, as the ones before it */
	SOCK_REPLY = 58,	/* a datagram of a backend, its source the VIP again */
	DROP_SOCK_NO_BACKEND = 59,
	DROP_SOCK_NO_LOCAL = 60,
	DROP_ANSWER_LIMIT = 61,	/* an answer was due, but this CPU has given enough of them */
	DROP_TOO_BIG = 62,	/* for the backend's path, and no packet to answer */
	/* the host program, which counts nothing else: packets of this node's kernel */
	HOST_REPLY = 63,
	HOST_FRAGMENT = 64,	/* a later one, as its first one was */
	HOST_ICMP_ERROR = 65,
	REASON_END		/* not a reason */
};

/* What happens beside the packets' fates; in `counters` too (packets alone), from its end. */
enum event {
	EVENT_EVICTED = 126,	/* a weak flow ended for a new one's record, or own word */
	EVENT_EVICTED_REPLY = 127,	/* likewise, its word among the replies */
};

/* vips: key. IPv4 as ::ffff:a.b.c.d, here and in every `addr[16]`. */
struct vip_key {
	__u8 addr[16];
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct vip_key) == 20, "vip_key");

/*
 * vips: value. A service port, whatever its addresses, is one service_id: the index of
 * service_events and the key of affinities; its sets are sets[2 * service_id] (all backends) and
 * sets[2 * service_id + 1] (those of this node).
 */
struct vip {
	__u32 service_id;
	__u32 flags;		/* enum vip_flag */
	__u32 affinity_ticks;
	__u32 pad;
};
_Static_assert(sizeof(struct vip) == 16, "vip");

/* sets: value; one aligned word, so that it changes at one stroke. */
struct set {
	__u32 first;		/* into members, or the number of a table */
	__u16 count;
	__u8 mode;		/* enum set_mode */
	__u8 pad;
};
_Static_assert(sizeof(struct set) == 8, "set");

/*
 * members: value. Of a list, ordered by key; `key` is a hash of the backend's address, protocol
 * and port, and so the same on every node. After a member of SET_WEIGHTED: { 0, weight }.
 */
struct member {
	__u32 backend_id;
	__u32 key;
};
_Static_assert(sizeof(struct member) == 8, "member");

/* backends: value; the key is the backend id, from 1. proto 0: there is none. */
struct backend {
	__u8 addr[16];
	__be16 port;
	__u8 proto;
	__u8 place;		/* enum place */
	__u16 mtu;		/* of the path to it, IP header included; 0: not known */
	__u8 mac[6];		/* of its node's gateway router, for DSR; 0: none */
	__u32 pad;
};
_Static_assert(sizeof(struct backend) == 32, "backend");

/* source_ranges: key (LPM; prefix_length counts the 32 bits of service_id too); value unused. */
struct source_range {
	__u32 prefix_length;
	__u32 service_id;
	__u8 addr[16];
};
_Static_assert(sizeof(struct source_range) == 24, "source_range");

/* affinities: key and value. */
struct affinity_key {
	__u32 service_id;
	__u8 client[16];
};
_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key");

struct affinity {
	__u32 backend_id;
	__u32 seen;		/* ticks */
};
_Static_assert(sizeof(struct affinity) == 8, "affinity");

/*
 * Conntrack. A flow is one record. The client's tuple finds it by a word of ct4_tags: the number of
 * the record in as many low bits as the table's size needs, and a tag of the tuple in the others; 0
 * is none. The backend's tuple finds it by its port alone, where that is ours to choose
 * (ct?_direct), else by a word of ct4_replies. So the two halves of a translation live and die
 * together. ct6_* likewise.
 */
struct index_bucket {
	__u32 lock;		/* odd: held by who adds a flow whose word may be here. Counts up */
	/*
	 * Words in second buckets whose first this is, or more: one that another's took the place
	 * of is not taken off.
	 */
	__u32 spilled;
	__u32 words[INDEX_WAYS];
};
_Static_assert(sizeof(struct index_bucket) == 64, "index_bucket");

struct reply_bucket {
	__u32 lock;		/* likewise */
	__u32 pad;
	__u64 words[REPLY_WAYS];	/* tag << 32 | number of the record */
};
_Static_assert(sizeof(struct reply_bucket) == 64, "reply_bucket");

/*
 * ct4: value, one cache line. `life` is odd while the record is a flow, and changes with each
 * birth and death: what was read is good if it is still the same afterwards. It is 2 more than a
 * multiple of 4 while the record is one CPU's, which makes a flow of it. The deltas are what
 * the rewrite adds to the IPv4 and the transport checksum (RFC 1624); a reply's are their
 * complements.
 */
struct flow4 {
	__u32 life;
	__u32 seen;		/* ticks: the last packet of either side */
	__be32 client;
	__be32 vip;
	__be16 client_port;
	__be16 vip_port;
	__u8 proto;
	__u8 state;		/* enum ct_state */
	__u8 flags;		/* enum flow_flag */
	__u8 wordless;		/* no flow any more, and no word names it (tidy.bpf.c); 0 is always right */
	__be32 backend;
	__be32 source;		/* svc0's, or the client's own */
	__be16 backend_port;
	__be16 source_port;
	__u16 ip_delta;
	__u16 l4_delta;
	__u32 service_id;
	__u16 mtu;		/* of the backend's path; 0: not known */
	__u16 ifindex;		/* of the uplink that the client is behind: an index of tx_ports */
	__u8 client_mac[6];
	__u8 vip_mac[6];	/* what the client sends to; of a DSR flow the backend's node's */
	__be16 vlan[2];		/* the client's, outer first, 0: none; outer of two: 802.1ad's */
};
_Static_assert(sizeof(struct flow4) == 64, "flow4");

/* ct6: value, two cache lines. */
struct flow6 {
	__u32 life;
	__u32 seen;
	__u8 client[16];
	__u8 vip[16];
	__be16 client_port;
	__be16 vip_port;
	__u8 proto;
	__u8 state;
	__u8 flags;
	__u8 wordless;
	__u8 backend[16];
	__u8 source[16];
	__be16 backend_port;
	__be16 source_port;
	__u16 pad2;
	__u16 l4_delta;
	__u32 service_id;
	__u16 mtu;
	__u16 ifindex;
	__u8 client_mac[6];
	__u8 vip_mac[6];
	__be16 vlan[2];
	__u8 pad3[16];
};
_Static_assert(sizeof(struct flow6) == 128, "flow6");

/* fragments: key (addresses as the packet has them) and value. */
struct fragment_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

struct fragment {
	__u32 flow;		/* number of the record */
	__u32 life;		/* and its life at that time */
	__u32 seen;
	__u8 reply;		/* 1: the fragments come from the backend */
	__u8 pad[3];
};
_Static_assert(sizeof(struct fragment) == 16, "fragment");

enum sock_flag {
	SOCK_CONNECTED = 1,	/* the socket's only peer, by connect() */
	SOCK_MORE = 2,		/* the socket has other peers in sock_reverse */
};

/* What sock_key.addr and .port are. */
enum sock_side {
	SOCK_BY_VIP = 0,
	SOCK_BY_BACKEND = 1,
};

/*
 * A peer of a socket: what its program asked for, and what it was given. The value of sock_peers
 * (one for each socket, gone with it) and of sock_reverse.
 */
struct sock_peer {
	__u8 vip[16];
	__u8 backend[16];
	__be16 vip_port;
	__be16 backend_port;
	__u32 backend_id;
	__u32 service_id;
	__u8 proto;
	__u8 flags;		/* enum sock_flag */
	__u8 pad[2];
};
_Static_assert(sizeof(struct sock_peer) == 48, "sock_peer");

/* sock_reverse: key. */
struct sock_key {
	__u64 cookie;		/* of the socket */
	__u8 addr[16];
	__be16 port;
	__u8 side;		/* enum sock_side */
	__u8 pad[5];
};
_Static_assert(sizeof(struct sock_key) == 32, "sock_key");

/* known_addresses: key; the value is enum address_flag. */
struct known_address {
	__u8 octets[16];
};
_Static_assert(sizeof(struct known_address) == 16, "known_address");

/* node: the only value. Masks are numbers of buckets less one. Times are in jiffies ("ticks"). */
struct node {
	__u32 flags;		/* enum node_flag */
	__u32 tick;		/* the time, under NODE_FIXED_CLOCK */
	__u32 ct_seed;		/* of conntrack's hash: random, kept as long as the maps */
	__u32 pick_seed;	/* PICK_SEED, but for tests */
	__u32 ct4_mask;
	__u32 ct4_reply_mask;
	__u32 ct6_mask;
	__u32 ct6_reply_mask;
	__be32 service_addr4;	/* svc0's */
	__u32 uplink_ifindex;
	__u32 svc_ifindex;
	__u8 service_mac[6];
	__u8 gateway_mac[6];	/* the gateway router's external port */
	__u8 uplink_mac[6];
	__u8 pad[2];
	__u8 service_addr6[16];
	__be32 local4[LOCAL4_INLINE];
	__u32 timeouts[CT_STATES];	/* ticks */
};
_Static_assert(sizeof(struct node) == 176, "node");

/* counters: value, by reason. */
struct counter {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct counter) == 16, "counter");

/*
 * service_traffic: struct counter, by (TRAFFIC_WAYS * CPU + way) * services + service id. What each
 * packet counts lies together, of four services in a cache line; what is counted less often is in
 * service_events.
 */
enum traffic_way {
	TRAFFIC_FORWARD = 0,
	TRAFFIC_REPLY = 1,
	TRAFFIC_WAYS = 2,
};

/* service_events: value, by service id. The drops are packets, by the reason of their verdict. */
struct service_events {
	__u64 new_flows;
	__u64 drops_no_backend;	/* no endpoint: DROP_NO_BACKEND, DROP_NO_LOCAL, and those refused */
	__u64 drops_source_range;
	__u64 drops_no_port;
	__u64 drops_full;	/* DROP_CT_FULL, DROP_CT_BUSY */
	__u64 drops_other;
};
_Static_assert(sizeof(struct service_events) == 48, "service_events");

/* What of a flow is looked up in sweep_ends; sweep.sides is a mask of 1 << these. */
enum sweep_side {
	SWEEP_VIP = 0,			/* address, port, protocol */
	SWEEP_VIP_ADDRESS = 1,
	SWEEP_BACKEND = 2,		/* address, port, protocol */
	SWEEP_BACKEND_ADDRESS = 3,
	SWEEP_CLIENT = 4,		/* address, port, protocol */
	SWEEP_CLIENT_ADDRESS = 5,
	SWEEP_SERVICE_VIP = 6,		/* the VIP as one service id's */
	SWEEP_SERVICE_BACKEND = 7,	/* the backend likewise */
	SWEEP_SERVICE_MAC = 8,		/* of a DSR flow: the MAC first in the address, likewise */
};

enum sweep_flag {
	SWEEP_END = 1,		/* end what matches; else only count it */
	SWEEP_EVERY_SIDE = 2,	/* all of `sides` have to be found; else one of them is enough */
};

/* sweep_ends: key; what the side does not name is zero. Value: a mask of 1 << enum ct_state. */
struct sweep_key {
	__u8 addr[16];
	__u32 service_id;
	__be16 port;
	__u8 proto;
	__u8 side;		/* enum sweep_side */
};
_Static_assert(sizeof(struct sweep_key) == 24, "sweep_key");

/* The argument of a sweep of conntrack, in and out. */
struct sweep {
	__u32 first;		/* number of a record */
	__u32 count;
	__u32 flags;		/* enum sweep_flag */
	__u32 sides;		/* a mask of 1 << enum sweep_side; 0: every flow */
	__u32 states;		/* a mask of 1 << enum ct_state */
	__u32 proto;		/* 0: any */
	__u32 tick;		/* out: the time */
	__u32 ended;		/* out */
	__u32 live[CT_STATES];	/* out: flows that match, those that were ended included */
};
_Static_assert(sizeof(struct sweep) == 96, "sweep");

enum adopt_flag {
	ADOPT_END = 1,		/* end it */
	ADOPT_ANYWHERE = 2,	/* in any record, and not only in the one that its port names */
};

/* adoptions: value; a flow that another version of the layouts had. */
struct adoption {
	struct flow6 flow;	/* of either family; IPv4's addresses mapped */
	__u32 family;		/* 4 or 6 */
	__u32 orders;		/* enum adopt_flag */
	__u32 reason;		/* out: 0, or why it has no record */
	__u32 number;		/* of its record there; not read here */
};
_Static_assert(sizeof(struct adoption) == 144, "adoption");

/* What adopts them is told. */
struct adopt {
	__u32 count;
	__u32 refused;		/* out: those that have a reason */
};
_Static_assert(sizeof(struct adopt) == 8, "adopt");

/* What clears words of former flows is told: which records. */
struct tidy {
	__u32 first;
	__u32 count;
	__u32 cleared;		/* out: records that had a word, and are wordless now */
};
_Static_assert(sizeof(struct tidy) == 12, "tidy");

/* perf_plan, of the programs that measure: the only value. */
struct perf_plan {
	__u8 head[PERF_HEAD];	/* the packet's first bytes */
	__u32 flows;		/* how many 5-tuples to take in turn; 1: the head as it is */
	__u32 next;
	__u32 services;		/* how many addresses of VIPs to take in turn, likewise */
	__u32 stride;		/* from one to the next, less than there are (perf/strides.py) */
};
_Static_assert(sizeof(struct perf_plan) == 96, "perf_plan");

/* perf_floor_vips, of perf_wrapper.bpf.c only: key and value. */
struct perf_floor_key {
	__be32 vip;
	__be16 port;
	__u8 proto;
	__u8 pad;
};
_Static_assert(sizeof(struct perf_floor_key) == 8, "perf_floor_key");

struct perf_floor {
	__be32 backend;
	__be16 port;
	__u8 mac[6];
};
_Static_assert(sizeof(struct perf_floor) == 12, "perf_floor");

#endif
