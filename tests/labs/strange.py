"""Objects as clusters of others have them: whatever a schema lets through, and what it looks like.

A schema (structural, as definitions of custom kinds have it) says which fields there are and of
which types; texts and numbers are drawn from what makes programs stumble.
"""

from __future__ import annotations

from random import Random
from typing import Any

Object = dict[str, Any]

ADDRESSES = (
    "10.16.0.9", "10.16.0.0", "10.16.255.255", "010.16.0.9", "0.0.0.0", "255.255.255.255",
    "fd00::9", "::", "::1", "::ffff:10.16.0.9", "fe80::1%eth0", "fd00:0:0::9", "10.16.0", "None",
    "224.0.0.1", "127.0.0.1", "169.254.169.254", "10.16.0.9,fd00::9", " 10.16.0.9 ", "x",
)  # fmt: skip
NETWORKS = (
    "10.16.0.0/16", "10.16.0.9/16", "0.0.0.0/0", "::/0", "10.1.0.0/24", "10.1.0.7/32", "fd00::/64",
    "fd00::9/64", "10.2.0.0/24,fd00:2::/64", "10.2.0.0/24, 10.3.0.0/24", "::ffff:10.0.0.0/104",
    "10.4.0.0/31", "10.5.0.0/33", "10.6.0.0/255.255.255.0", "/", "10.7.0.0", "fd00::/129",
)  # fmt: skip
RANGES = (
    "10.16.0.5..10.16.0.9",
    "10.16.0.9..10.16.0.5",
    "fd00::1..fd00::ffff",
    "10.1.0.1-10.1.0.9",
)
MACS = ("00:00:00:aa:bb:cc", "02-00-00-00-00-01", "FF:FF:FF:FF:FF:FF", "0:0:0:0:0:1", "x")
NAMES = (
    "", "a", "b", "default", "ovn-default", "ovn-cluster", "join", "p", "web", "n1", "node.example",
    "x" * 63, ".".join(["y" * 60] * 4) + ".example", "ns/a", "a,b", "a:b", "Ünïcödé", "名前",
    "\u200b", 'say "x"', "$x", "a b", "-", "0", "true", "null", "{}", "[]", "ovn", "net.a.ovn",
)  # fmt: skip
WORDS = (
    "allow-related", "drop", "from-lport", "to-lport", "ip4.src == 10.16.0.9", "ip4 &&", "1", "80",
    "65536", "-1", "80-90", "eth1", "app:web", "app", "lease_time=3600", "{",
    '{"cniVersion":"0.3.1","type":"kube-ovn","provider":"net.a.ovn"}',
    "2026-01-01T00:00:00Z", "TCP", "udp", "ICMP",
)  # fmt: skip
TEXTS = (*ADDRESSES, *NETWORKS, *RANGES, *MACS, *NAMES, *WORDS)
NUMBERS = (
    0, 1, 2, 7, 80, 443, 1000, 1001, 1400, 4094, 4095, 30000, 32767, 32768, 65535, 65536, 86400,
    -1, 2**31 - 1, 2**31, 2**63 - 1,
)  # fmt: skip
KEYS = ("app", "tier", "example.com/part", "kubernetes.io/metadata.name", "x" * 63)
VALUES = ("web", "db", "", "default", "a.b_c-d", "y" * 63)
SELECTOR = frozenset({"matchLabels", "matchExpressions"})
OVN = "ovn.kubernetes.io/"
ANNOTATIONS = (
    *(OVN + name
    for name in (
        "ip_address", "mac_address", "logical_switch", "ip_pool", "cidr", "gateway", "vpc", "vip",
        "aaps", "port_security", "security_groups", "ingress_rate", "egress_rate", "mirror",
        "default_route", "north_gateway", "routes", "exclude_ips", "allocated", "eip", "snat",
        "layer2_forward", "logical_router", "service_external_ip_from_subnet", "switch_lb_vip",
        "enable_log", "log_acl_actions", "network_policy_enforcement", "priority", "dpdk",
    )),
    "net.a.kubernetes.io/ip_address", "net.a.ovn.kubernetes.io/logical_switch",
    "net.a.ovn.kubernetes.io/ip_address", "k8s.v1.cni.cncf.io/networks",
    "v1.multus-cni.io/default-network", "kube-ovn/ipv4", "kube-ovn/mac", "millrace.dev/weights",
    "millrace.dev/address-pool", "millrace.dev/forwarding", "external.millrace.dev/a",
    "kubectl.kubernetes.io/last-applied-configuration", "example.com/" + "k" * 60,
)  # fmt: skip
NETWORK_LISTS = (
    "net", "a/net", "a/net@eth1,net", "[", "{}", "[]", '[{"name":"net","namespace":"a"}]', "@", ",",
    '[{"name":7}]', '[null]', '[{"name":"net","ips":["10.16.0.9/16"],"mac":"x"}]', "a/b/c",
)  # fmt: skip


USED = ("a", "b", "p", "default", "ovn-default", "ovn-cluster", "join", "n1")
"""Names that objects have: what names one finds it."""
_HINTS = (
    (("cidr", "network", "srcips", "dstips", "except", "remoteaddress", "localaddress"), NETWORKS),
    (("mac",), MACS),
    (("excludeips", "ips", "externalips"), (*ADDRESSES, *RANGES, *NETWORKS)),
    (("ip", "gateway", "hop", "address", "vip", "bfd", "endpoint"), ADDRESSES),
    (("vpc", "subnet", "vlan", "eip", "name", "namespace", "group", "provider", "node"), USED),
    (("port",), ("80", "1", "65535", "65536", "80-90", "web", "")),
)


def text(random: Random, field: str = "") -> str:
    """A text, most often one of those that its field's name suggests; by and by a long one."""
    low = field.lower()
    if random.random() < 0.85:
        for parts, found in _HINTS:
            if any(part in low for part in parts):
                return random.choice(found)
    chosen = random.choice(TEXTS)
    return chosen * 40 if random.random() < 0.02 else chosen


def labels(random: Random) -> dict[str, str]:
    """Labels of an object."""
    return {random.choice(KEYS): random.choice(VALUES) for _ in range(random.randrange(3))}


def notes(random: Random) -> dict[str, str]:
    """Annotations that are read, and others."""
    found = {}
    for _ in range(random.randrange(5)):
        key = random.choice(ANNOTATIONS)
        listed = key.endswith(("networks", "network")) and random.random() < 0.7
        found[key] = random.choice(NETWORK_LISTS) if listed else text(random, key)
    return found


def selector(random: Random, *, odd: bool) -> Object:
    """A label selector; an odd one has what the API refuses of built-in kinds."""
    operators = ("In", "NotIn", "Exists", "DoesNotExist", *(("Gt", "", "in") if odd else ()))
    found: Object = {}
    if random.random() < 0.5:
        found["matchLabels"] = labels(random)
    if random.random() < 0.5:
        listed = []
        for _ in range(random.randrange(3)):
            operator = random.choice(operators)
            one: Object = {"key": random.choice(KEYS), "operator": operator}
            if operator in ("In", "NotIn") or (odd and random.random() < 0.2):
                few = random.randrange(0 if odd else 1, 3)
                one["values"] = [random.choice(VALUES) for _ in range(few)]
            listed.append(one)
        found["matchExpressions"] = listed
    return found


def value(schema: Object, random: Random, *, odd: bool = True, field: str = "") -> Any:
    """A value that the schema lets through.

    Args:
        schema: structural.
        random: decides.
        field: what it is called.
        odd: it is a custom kind's, whose texts nobody checks: selectors of any sort, and nulls.
    """
    if schema.get("nullable") and random.random() < 0.2:
        return None
    if "enum" in schema:
        return random.choice(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return random.choice((random.randrange(1, 65536), "web", "http", "nothing-like-it"))
    match schema.get("type"):
        case "object" if schema.get("properties", {}).keys() >= SELECTOR:
            return selector(random, odd=odd and random.random() < 0.2)
        case "object":
            return _object(schema, random, odd=odd)
        case "array":
            few = random.randrange(schema.get("minItems", 0), 4)
            found = [value(schema["items"], random, odd=odd, field=field) for _ in range(few)]
            return found + found[:1] if found and random.random() < 0.1 else found
        case "integer" | "number":
            low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return random.choice([one for one in NUMBERS if low <= one <= high])
        case "boolean":
            return random.random() < 0.5
        case "string" if schema.get("format") == "cidr":
            return random.choice(NETWORKS[:8])
        case "string" if schema.get("format") == "date-time":
            return "2026-01-01T00:00:00Z"
        case _:
            longest = schema.get("maxLength", 10**6)
            return text(random, field)[:longest].ljust(schema.get("minLength", 0), "x")


def _object(schema: Object, random: Random, *, odd: bool) -> Object:
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    found = {
        name: value(below, random, odd=odd, field=name)
        for name, below in properties.items()
        if name in required or random.random() < 0.4
    }
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        found |= {random.choice(KEYS): value(additional, random, odd=odd) for _ in range(2)}
    if schema.get("x-kubernetes-preserve-unknown-fields") and random.random() < 0.1:
        found["inventedHere"] = random.choice((None, 1, "x", [None], {"deep": [{}]}))
    return found


def metadata(name: str, namespace: str, uid: str, random: Random) -> Object:
    """Metadata as a server gives it out."""
    found: Object = {
        "name": name, "uid": uid, "resourceVersion": "7", "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }  # fmt: skip
    if namespace:
        found["namespace"] = namespace
    if random.random() < 0.7:
        found["labels"] = labels(random)
    if random.random() < 0.7:
        found["annotations"] = notes(random)
    if random.random() < 0.15:
        found["deletionTimestamp"] = "2026-01-02T00:00:00Z"
        found["finalizers"] = random.choice((["example.com/x"], ["millrace.dev/network"], []))
    if random.random() < 0.4:
        owner = {"apiVersion": "apps/v1", "name": random.choice(("a", "p", "web")), "uid": "o"}
        kind = random.choice(("StatefulSet", "ReplicaSet", "Node", "VirtualMachineInstance"))
        found["ownerReferences"] = [{**owner, "kind": kind, "controller": random.random() < 0.8}]
    return found
