"""What nftables and iptables are told in `millrace perf peers`: kube-proxy's rules, or hardly any.

`KUBE_PROXY` is what kube-proxy of Kubernetes 1.36 writes on a node for ClusterIP services that are
reached from outside the cluster by a route to the node, and therefore masqueraded, as ours are:
each service has one address, as each has one VIP of ours. All base chains are there with hooks and
priorities, and all sets, maps and chains that a packet may meet, also those that carry none here.

- nftables: one chain a service, since 1.36, which also marks in `services` and has its hairpins in
  one set. All endpoints are the node's own.
- iptables: one rule a service in a row, three chains of its own. Rules have their comments, which
  are matches of 256 octets; more than 1,000 endpoints, and those of a service's own chains go.

A LoadBalancer service would have another address, rule and chain each: more to go through.

Left out: comments of nftables, which no packet meets; nfacct's counters (the kernel here has none,
and kube-proxy does without then); kubelet's canary chains; IPv6, whose tables are others.

`BARE` is translation of the destination and nothing else, by the same look-ups: no filter, no mark,
no masquerading. The client's address stays.

Source: kubernetes/kubernetes pkg/proxy/nftables (README.md, proxier_test.go; rules listed on a node
of 1.36.2), pkg/proxy/iptables (proxier.go, proxier_test.go with nfacct, of 1.32 or later).
"""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Iterator

from perf.peerlab import (
    BACKEND_PORT,
    BACKENDS,
    BACKENDS_PER_SERVICE,
    PORT,
    ROUTER,
    VIPS,
    Trio,
    backend,
    vip,
)

NAMESPACE, PORT_NAME = "peers", "p80"
MARK = "0x4000"
MANY_ENDPOINTS = 1_000
"""More, and kube-proxy saves iptables the comments of a service's own chains."""


class Rules(enum.StrEnum):
    """Which rules the peers have."""

    KUBE_PROXY = "kube-proxy"
    BARE = "bare"


def nftables(trio: Trio, services: int, rules: Rules) -> float:
    """Services 0 to `services` - 1 in nftables; seconds to load."""
    lines = _nft_kube_proxy(services) if rules is Rules.KUBE_PROXY else _nft_bare(services)
    return trio.load(["nft", "-f", "-"], "\n".join(lines))


def iptables(trio: Trio, services: int, rules: Rules) -> float:
    """Services 0 to `services` - 1 in iptables; seconds to load."""
    lines = _ipt_kube_proxy(services) if rules is Rules.KUBE_PROXY else _ipt_bare(services)
    return trio.load(["iptables-legacy-restore"], "\n".join(lines) + "\n")


def nft_chain(namespace: str, service: str, protocol: str, port: str) -> str:
    """What kube-proxy calls the chain of a service's port in nftables."""
    name = f"{namespace}/{service}/{protocol}/{port}"
    return f"service-{_hash(name, 8)}-{name}"


def ipt_chain(namespace: str, service: str, protocol: str, port: str, endpoint: str = "") -> str:
    """What kube-proxy calls the chain of a service's port, or of one endpoint, in iptables."""
    kind = "SEP" if endpoint else "SVC"
    return f"KUBE-{kind}-{_hash(f'{namespace}/{service}:{port}{protocol}{endpoint}', 16)}"


def _hash(name: str, length: int) -> str:
    return base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()[:length]


def _targets(number: int) -> str:
    return ", ".join(
        f"{i} : {backend(number, i)} . {BACKEND_PORT}" for i in range(BACKENDS_PER_SERVICE)
    )


def _nft_service(number: int, chain: str) -> str:
    count, targets = BACKENDS_PER_SERVICE, _targets(number)
    return (
        f" chain {chain} {{\n  meta l4proto udp "
        f"dnat ip to numgen random mod {count} map {{ {targets} }}\n }}"
    )


_KEY = "ip daddr . meta l4proto . th dport"
_BY_ADDRESS, _BY_PORT = (
    "ipv4_addr . inet_proto . inet_service : verdict",
    "inet_proto . inet_service : verdict",
)
_NFT_MAPS = (
    ("firewall-ips", _BY_ADDRESS),
    ("no-endpoint-nodeports", _BY_PORT),
    ("no-endpoint-services", _BY_ADDRESS),
    ("service-nodeports", _BY_PORT),
)
_NFT_CHAINS = (
    # name, its hook if it is a base chain, rules; a chain after those that it jumps to
    ("reject-chain", "", ("reject",)),
    ("firewall-check", "", (f"{_KEY} vmap @firewall-ips",)),
    ("service-endpoints-check", "", (f"{_KEY} vmap @no-endpoint-services",)),
    (
        "nodeport-endpoints-check",
        "",
        ("ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",),
    ),
    (
        "cluster-ips-check",
        "",
        ("ip daddr @cluster-ips reject", f"ip daddr {{ {VIPS} }} drop"),
    ),
    (
        "services",
        "",
        (
            f"ip daddr @cluster-ips ip saddr != {BACKENDS} meta mark set meta mark or {MARK}",
            f"{_KEY} vmap @service-ips",
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ),
    ),
    (
        "masquerading",
        "",
        (
            f"meta mark and {MARK} != 0 meta mark set meta mark xor {MARK} masquerade fully-random",
            "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections "
            "masquerade fully-random",
        ),
    ),
    (
        "filter-prerouting-pre-dnat",
        "filter hook prerouting priority -110",
        ("ct state new jump firewall-check",),
    ),
    (
        "filter-output-pre-dnat",
        "filter hook output priority -110",
        ("ct state new jump firewall-check",),
    ),
    (
        "filter-input",
        "filter hook input priority 0",
        (
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ),
    ),
    (
        "filter-forward",
        "filter hook forward priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    (
        "filter-output",
        "filter hook output priority 0",
        ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"),
    ),
    ("nat-prerouting", "nat hook prerouting priority -100", ("jump services",)),
    ("nat-output", "nat hook output priority -100", ("jump services",)),
    ("nat-postrouting", "nat hook postrouting priority 100", ("jump masquerading",)),
)


def _nft_services(verdicts: Iterator[str]) -> str:
    elements = ", ".join(verdicts)
    return f" map service-ips {{\n  type {_BY_ADDRESS}\n  elements = {{ {elements} }}\n }}"


def _nft_kube_proxy(services: int) -> Iterator[str]:
    chains = [nft_chain(NAMESPACE, f"service-{n}", "udp", PORT_NAME) for n in range(services)]
    yield "table ip kube-proxy {"
    for number, chain in enumerate(chains):
        yield _nft_service(number, chain)
    ends = (backend(n, i) for n in range(services) for i in range(BACKENDS_PER_SERVICE))
    for name, kind, elements in (
        ("cluster-ips", "ipv4_addr", (str(vip(n)) for n in range(services))),
        ("nodeport-ips", "ipv4_addr", iter([str(ROUTER)])),
        (
            "hairpin-connections",
            "ipv4_addr . ipv4_addr . inet_proto . inet_service",
            (f"{end} . {end} . udp . {BACKEND_PORT}" for end in ends),
        ),
    ):
        yield f" set {name} {{\n  type {kind}\n  elements = {{ {', '.join(elements)} }}\n }}"
    verdicts = (f"{vip(n)} . udp . {PORT} : goto {chain}" for n, chain in enumerate(chains))
    yield _nft_services(verdicts)
    for name, kind in _NFT_MAPS:
        yield f" map {name} {{\n  type {kind}\n }}"
    for name, hook, rules in _NFT_CHAINS:
        based = f"  type {hook};\n" if hook else ""
        yield f" chain {name} {{\n{based}" + "".join(f"  {rule}\n" for rule in rules) + " }"
    yield "}"


def _nft_bare(services: int) -> Iterator[str]:
    yield "table ip peers {"
    for number in range(services):
        yield _nft_service(number, f"service-{number}")
    pairs = (f"{vip(n)} . udp . {PORT} : goto service-{n}" for n in range(services))
    yield _nft_services(pairs)
    yield f" chain services {{\n  {_KEY} vmap @service-ips\n }}"
    yield " chain prerouting {\n  type nat hook prerouting priority dstnat; policy accept;"
    yield "  jump services\n }"
    yield "}"


_NEW = "-m conntrack --ctstate NEW"
_IPT_FILTER = (
    f"-A INPUT {_NEW} {{load balancer firewall}} -j KUBE-PROXY-FIREWALL",
    "-A INPUT {health check ports} -j KUBE-NODEPORTS",
    f"-A INPUT {_NEW} {{external portals}} -j KUBE-EXTERNAL-SERVICES",
    "-A INPUT -j KUBE-FIREWALL",
    f"-A FORWARD {_NEW} {{load balancer firewall}} -j KUBE-PROXY-FIREWALL",
    "-A FORWARD {forwarding} -j KUBE-FORWARD",
    f"-A FORWARD {_NEW} {{portals}} -j KUBE-SERVICES",
    f"-A FORWARD {_NEW} {{external portals}} -j KUBE-EXTERNAL-SERVICES",
    f"-A OUTPUT {_NEW} {{load balancer firewall}} -j KUBE-PROXY-FIREWALL",
    f"-A OUTPUT {_NEW} {{portals}} -j KUBE-SERVICES",
    "-A OUTPUT -j KUBE-FIREWALL",
    "-A KUBE-FIREWALL {no localnet from outside} -d 127.0.0.0/8 ! -s 127.0.0.0/8 "
    "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
    f"-A KUBE-FORWARD {{forwarding}} -m mark --mark {MARK}/{MARK} -j ACCEPT",
    "-A KUBE-FORWARD {forwarding known flows} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
_IPT_FILTER_CHAINS = (
    *("KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-NODEPORTS"),
    *("KUBE-PROXY-CANARY", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"),
)
_IPT_NAT = (
    "-A PREROUTING {portals} -j KUBE-SERVICES",
    "-A OUTPUT {portals} -j KUBE-SERVICES",
    "-A POSTROUTING {postrouting} -j KUBE-POSTROUTING",
    f"-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}",
    f"-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN",
    f"-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}",
    "-A KUBE-POSTROUTING {another source} -j MASQUERADE --random-fully",
)
_IPT_NAT_CHAINS = (
    *("KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-PROXY-CANARY"),
    "KUBE-SERVICES",
)


def _commented(rules: tuple[str, ...]) -> Iterator[str]:
    """Rules whose {comments} are matches, by other words than kube-proxy's: 256 octets each."""
    for rule in rules:
        yield rule.replace("{", '-m comment --comment "').replace("}", '"')


def _declared(names: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    for name in names:
        yield f":{name} - [0:0]"


def _ipt_kube_proxy(services: int) -> Iterator[str]:
    # The canary alone makes every packet pass mangle's five hooks.
    yield "*mangle"
    yield from _declared(("KUBE-PROXY-CANARY",))
    yield "COMMIT"
    yield "*filter"
    yield from _declared(_IPT_FILTER_CHAINS)
    yield from _commented(_IPT_FILTER)
    yield "COMMIT"
    yield "*nat"
    yield from _declared(_IPT_NAT_CHAINS)
    yield from _commented(_IPT_NAT)
    brief = services * BACKENDS_PER_SERVICE > MANY_ENDPOINTS
    for number in range(services):
        yield from _ipt_service(number, brief)
    yield from _commented(
        ("-A KUBE-SERVICES {node ports, last} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",)
    )
    yield "COMMIT"


def _chances() -> Iterator[tuple[int, str]]:
    """Each backend's index, and the match that gives it its share of what earlier ones left."""
    for index in range(BACKENDS_PER_SERVICE):
        left = BACKENDS_PER_SERVICE - index
        yield (
            index,
            f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else "",
        )


def _ipt_service(number: int, brief: bool) -> Iterator[str]:
    service, name = f"service-{number}", f"{NAMESPACE}/service-{number}:{PORT_NAME}"
    chain = ipt_chain(NAMESPACE, service, "udp", PORT_NAME)
    to_it = (
        f'-m comment --comment "{name} cluster IP" -m udp -p udp -d {vip(number)} --dport {PORT}'
    )
    yield from _declared((chain,))
    yield f"-A KUBE-SERVICES {to_it} -j {chain}"
    yield f"-A {chain} {to_it} ! -s {BACKENDS} -j KUBE-MARK-MASQ"
    for index, chance in _chances():
        address = backend(number, index)
        target = f"{address}:{BACKEND_PORT}"
        endpoint = ipt_chain(NAMESPACE, service, "udp", PORT_NAME, target)
        comment = "" if brief else f'-m comment --comment "{name}" '
        arrow = "" if brief else f'-m comment --comment "{name} -> {target}" '
        yield from _declared((endpoint,))
        yield f"-A {chain} {arrow}{chance}-j {endpoint}"
        yield f"-A {endpoint} {comment}-s {address} -j KUBE-MARK-MASQ"
        yield f"-A {endpoint} {comment}-m udp -p udp -j DNAT --to-destination {target}"


def _ipt_bare(services: int) -> Iterator[str]:
    yield "*nat"
    yield from _declared(("SERVICES",))
    yield "-A PREROUTING -j SERVICES"
    for number in range(services):
        service = f"SVC-{number}"
        yield from _declared((service,))
        yield f"-A SERVICES -d {vip(number)}/32 -p udp -m udp --dport {PORT} -j {service}"
        for index, chance in _chances():
            endpoint = f"SEP-{number}-{index}"
            yield from _declared((endpoint,))
            yield f"-A {service} {chance}-j {endpoint}"
            target = f"{backend(number, index)}:{BACKEND_PORT}"
            yield f"-A {endpoint} -p udp -m udp -j DNAT --to-destination {target}"
    yield "COMMIT"
