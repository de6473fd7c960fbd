"""The node's and the cluster's TOML files: what is taken, what is refused, and in what words."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from pathlib import Path

import pytest

from controller.config import ConfigProblems, load_node, parse_cluster, parse_node
from dataplane.model.config import (
    BridgeConfig,
    DpdkConfig,
    EastWest,
    GatewayConfig,
    HugepageConfig,
    ServicesConfig,
    TunnelConfig,
    TunnelType,
    UplinkConfig,
    UplinkMode,
)

NODE = """\
[node]
name = "node1"

[hugepages]
size_kib = 2048
count = 1024

[dpdk]
lcore = [0]
pmd = [1]
socket_mem_mib = 512
extra = ["--no-pci"]

[[bridge]]
name = "br-ex"
physnet = "physnet1"

[[bridge]]
name = "br-phy"

[[uplink]]
device = "up0"
bridge = "br-ex"
mode = "af_xdp"
services = true

[[uplink]]
device = "up1"
bridge = "br-phy"
mode = "kernel"
queues = 2
xdp_mode = "native"

[tunnel]
type = "geneve"
bridge = "br-phy"
address = "10.0.0.1/24"
"""

CLUSTER = """\
[cluster]
nb = "unix:/run/millrace/node1/nb.sock"
sb = "tcp:192.0.2.1:6642,tcp:192.0.2.2:6642"

[[gateway]]
chassis = "node1"
physnet = "physnet1"
address = "172.18.0.111/24"
next_hop = "172.18.0.1"
routers = ["vpc0"]
"""


def faults(text: str, *, cluster: bool = False) -> list[str]:
    """The problems of a text, as the operator reads them."""
    with pytest.raises(ConfigProblems) as caught:
        (parse_cluster if cluster else parse_node)(text, "f.toml")
    return [str(problem) for problem in caught.value.problems]


def test_a_whole_node() -> None:
    config = parse_node(NODE, "node.toml")
    assert config.hugepages == HugepageConfig(2048, 1024, "/dev/hugepages")
    assert config.dpdk == DpdkConfig((0,), (1,), 512, ("--no-pci",))
    assert config.bridges == (BridgeConfig("br-ex", "physnet1"), BridgeConfig("br-phy", None))
    assert config.uplinks == (
        UplinkConfig("up0", "br-ex", UplinkMode.AF_XDP, 1, "best-effort", True),
        UplinkConfig("up1", "br-phy", UplinkMode.KERNEL, 2, "native", False),
    )
    assert config.tunnel == TunnelConfig(TunnelType.GENEVE, "br-phy", IPv4Interface("10.0.0.1/24"))


def test_what_a_name_alone_gives() -> None:
    config = parse_node('[node]\nname = "n"\n', "node.toml")
    assert (config.rundir, config.statedir, config.bpf_root) == (
        "/run/millrace/n",
        "/var/lib/millrace/n",
        "/sys/fs/bpf/millrace/n",
    )
    assert (config.embedded_ovs, config.embedded_ovn) == (True, True)
    assert config.ovs_remote == "unix:/run/millrace/n/db.sock"
    assert config.ovs_rundir == "/run/millrace/n"
    assert (config.nb_remote, config.sb_remote) == (
        "unix:/run/millrace/n/nb.sock",
        "unix:/run/millrace/n/sb.sock",
    )
    assert (config.hugepages, config.tunnel, config.bridges) == (None, None, ())
    assert config.dpdk == DpdkConfig((), (), 0, ("--no-pci",))
    assert (config.port_mtu, config.service_link) == (1442, "svc0")
    assert config.metrics_listen == "127.0.0.1:9478"


def test_databases_of_somebody_else() -> None:
    config = parse_node(
        '[node]\nname = "n"\n[ovs]\nembedded = false\n'
        '[ovn]\nembedded = false\nnb = "tcp:192.0.2.1:6641"\nsb = "ssl:[2001:db8::1]:6642"\n'
        f"{FILES}",
        "node.toml",
    )
    assert config.ovs_remote == "unix:/run/openvswitch/db.sock"
    assert config.ovs_rundir == "/run/openvswitch"
    assert (config.nb_remote, config.sb_remote) == (
        "tcp:192.0.2.1:6641",
        "ssl:[2001:db8::1]:6642",
    )
    assert config.ovn_tls == ("/k.pem", "/c.pem", "/a.pem")


FILES = 'private_key = "/k.pem"\ncertificate = "/c.pem"\nca_certificate = "/a.pem"\n'


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ("", "no files for it"),
        ('private_key = "/k.pem"\n', "certificate is not"),
        (FILES.replace("/a.pem", "a.pem"), "absolute path"),
    ],
)
def test_an_encrypted_remote_needs_all_its_files(files: str, why: str) -> None:
    remotes = 'nb = "ssl:192.0.2.1:6641"\nsb = "ssl:192.0.2.1:6642"\n'
    node = f'[node]\nname = "n"\n[ovn]\nembedded = false\n{remotes}{files}'
    with pytest.raises(ConfigProblems, match=why):
        parse_node(node, "node.toml")
    with pytest.raises(ConfigProblems, match=why):
        parse_cluster(f"[cluster]\n{remotes}{files}", "cluster.toml")


def test_a_vfio_uplink_lets_dpdk_look_for_pci_devices() -> None:
    config = parse_node(
        '[node]\nname = "n"\n[[bridge]]\nname = "b"\n'
        '[[uplink]]\ndevice = "0000:3b:00.0"\nbridge = "b"\nmode = "vfio"\n',
        "node.toml",
    )
    assert config.dpdk.extra == ()


@dataclass(frozen=True, slots=True)
class Case:
    """A change of the good file, and the line and words of the one problem that it makes."""

    id: str
    old: str
    new: str
    line: int
    words: str


NODE_CASES = (
    Case("unknown key", "count = 1024", "counts = 1024\ncount = 1024", 6, "did you mean count?"),
    Case("unknown table", "[dpdk]", "[dpkd]\nx = 1\n[dpdk]", 8, "dpkd is unknown"),
    Case("wrong type", 'name = "node1"', "name = 7", 2, "node.name is an integer; it has to be a"),
    Case("true is no integer", "count = 1024", "count = true", 6, "is a boolean"),
    Case("a float is no integer", "count = 1024", "count = 1024.0", 6, "is a float"),
    Case("a date", "count = 1024", "count = 2024-01-01", 6, "is a date or time"),
    Case("missing key", "count = 1024", "", 4, "hugepages.count is missing"),
    Case("missing name", 'name = "node1"', "", 1, "node.name is missing"),
    Case("range", "count = 1024", "count = 0", 6, "the range is 1..4194304"),
    Case("huge", "count = 1024", "count = 0x" + "f" * 6000, 6, "beyond all ranges"),
    Case("page size", "size_kib = 2048", "size_kib = 4096", 5, "hugepages come in 2048"),
    Case("empty pmd", "pmd = [1]", "pmd = []", 10, "dpdk.pmd has no core"),
    Case("core twice", "pmd = [1]", "pmd = [\n  1,\n  1,\n]", 12, "it is there already"),
    Case("negative core", "pmd = [1]", "pmd = [-1]", 10, "core numbers go from 0"),
    Case("core of a wrong type", "pmd = [1]", 'pmd = [1,\n"2"]', 11, "dpdk.pmd[1]"),
    Case("shared core", "pmd = [1]", "pmd = [0, 1]", 10, "main thread would starve"),
    Case("memory", "socket_mem_mib = 512", "socket_mem_mib = 4096", 11, "makes 2048 MiB only"),
    Case("two words", '["--no-pci"]', '["-a 0000:3b:00.0"]', 12, "word of its own"),
    Case(
        "bridge twice",
        'name = "br-phy"',
        'name = "br-phy"\n[[bridge]]\nname = "br-ex"',
        21,
        "line 15 has it already",
    ),
    Case(
        "br-int", 'name = "br-phy"', 'name = "br-phy"\n[[bridge]]\nname = "br-int"', 21, "OVN's own"
    ),
    Case("long name", "[tunnel]", f'[[bridge]]\nname = "{"b" * 16}"\n[tunnel]', 35, "1 to 15"),
    Case(
        "physnet twice", 'name = "br-phy"', 'name = "br-phy"\nphysnet = "physnet1"', 20, "line 16"
    ),
    Case("no such bridge", 'bridge = "br-ex"', 'bridge = "br-x"', 23, "there is no such bridge"),
    Case("uplink twice", 'device = "up1"', 'device = "up0"', 28, "line 22 has it already"),
    Case("mode", 'mode = "af_xdp"', 'mode = "afxdp"', 24, 'write mode = "af_xdp"'),
    Case("xdp mode", 'xdp_mode = "native"', 'xdp_mode = "skb"', 32, "allowed are best-effort"),
    Case("queues", "queues = 2", "queues = 65", 31, "the range is 1..64"),
    Case(
        "boolean", "services = true", 'services = "yes"', 25, "is a string; it has to be a boolean"
    ),
    Case(
        "tunnel's bridge",
        'bridge = "br-phy"\naddress',
        'bridge = "no"\naddress',
        36,
        "no such bridge",
    ),
    Case("no prefix", '"10.0.0.1/24"', '"10.0.0.1"', 37, "length of the network is missing"),
    Case("network address", '"10.0.0.1/24"', '"10.0.0.0/24"', 37, "the network's own"),
    Case("no address", '"10.0.0.1/24"', '"10.0.0.256/24"', 37, "not permitted"),
    Case("multicast", '"10.0.0.1/24"', '"224.0.0.5/24"', 37, "no host on a wire"),
    Case("last address", '"10.0.0.1/24"', '"255.255.255.255/32"', 37, "no host on a wire"),
    Case("not tables", "[tunnel]", "[[tunnel]]", 34, "it has to be a table"),
    Case("metrics", '"node1"', '"node1"\nmetrics = "9478"', 3, "ADDRESS:PORT"),
    Case("metrics v6", '"node1"', '"node1"\nmetrics = "::1:9478"', 3, "stands in brackets"),
    Case("relative path", '"node1"', '"node1"\nrundir = "run"', 3, "absolute path"),
    Case(
        "long path",
        '"node1"',
        f'"node1"\nrundir = "/{"r" * 80}/millrace/node1"',
        3,
        "must end within 107",
    ),
    Case("run directory", '"node1"', '"node1"\nrundir = "/var/run"', 3, "end in /millrace/node1"),
    Case(
        "state directory",
        '"node1"',
        '"node1"\nstatedir = "/var/lib"',
        3,
        'write statedir = "/var/lib/millrace/node1"',
    ),
    Case(
        "another node's",
        '"node1"',
        '"node1"\nstatedir = "/var/lib/millrace/node2"',
        3,
        "end in /millrace/node1",
    ),
    Case("everybody's", '"node1"', '"node1"\nstatedir = "/var/lib/millrace"', 3, "end in"),
    Case("pins", '"node1"', '"node1"\nbpf_root = "/sys/fs/bpf"', 3, "end in /millrace/node1"),
    Case("upwards", '"node1"', '"node1"\nrundir = "/x/../millrace/node1"', 3, "without blanks, ."),
    Case("mount upwards", "count = 1024", 'count = 1024\nmount = "/dev/.."', 7, ". or .."),
    Case("service link", '"node1"', '"node1"\nservice_link = "up0"', 3, "up0 is the name of"),
    Case("embedded remote", "[dpdk]", '[ovs]\nremote = "tcp:h:1"\n[dpdk]', 9, "embedded is true"),
    Case(
        "bad remote", "[dpdk]", '[ovs]\nembedded = false\nremote = "h:1"\n[dpdk]', 10, "unix:/PATH"
    ),
    Case("syntax", "count = 1024", "count = ", 6, "this is not TOML; Invalid value"),
    Case("key twice", "count = 1024", "count = 1\ncount = 2", 7, "Cannot overwrite a value"),
)


SERVICES_CASES = (
    ("zone = 1", "services.zone is an integer"),
    ('zone = "a b"', "a label's value"),
    ("flows = 63", "the range is 64..4194304"),
    ("services = 262145", "the range is 64..262144"),
    ("backends = 4194305", "the range is 64..4194304"),
    ('nodeport_addresses = "192.0.2.0/24"', "it has to be an array"),
    ('nodeport_addresses = ["192.0.2.1/24"]', "has host bits set"),
    ('nodeport_addresses = ["192.0.2.0/24", "192.0.2.0/24"]', "it is there already"),
    ("nodeport_addresses = [1]", "it has to be a string"),
    ('connect = ["sys/fs/cgroup"]', "a cgroup's absolute path"),
    ('connect = ["/sys/fs/cgroup/.."]', "a cgroup's absolute path"),
    ('connect = ["/sys/fs/cgroup", "/sys/fs/cgroup"]', "it is there already"),
    ('connect = ["/sys/fs/cgroup/a", "/sys/fs/cgroup"]', "has the other"),
    ('connect = ["/sys/fs/cgroup", "/sys/fs/cgroup/a"]', "has the other"),
    ('announce = "yes"', "it has to be a boolean"),
    ("metrics = 501", "0..500"),
    ("zoen = 1", "did you mean zone?"),
)


@pytest.mark.parametrize(("line", "words"), SERVICES_CASES, ids=lambda text: text)
def test_services_refused(line: str, words: str) -> None:
    (problem,) = faults(f"{NODE}[services]\n{line}\n")
    assert problem.startswith(f"f.toml:{NODE.count(chr(10)) + 2}: ")
    assert words in problem


def test_services_as_they_are_without_a_word() -> None:
    assert parse_node(NODE, "node.toml").services == ServicesConfig()


def test_services_with_every_key_and_capacities_rounded_up() -> None:
    text = (
        '[services]\nzone = "east-1"\nflows = 65537\nservices = 100000\nbackends = 1000000\n'
        'nodeport_addresses = ["192.0.2.0/24", "2001:db8::/32"]\n'
        'connect = ["/sys/fs/cgroup/a", "/sys/fs/cgroup/ab"]\nannounce = true\n'
        "metrics = 7\n"
    )
    assert parse_node(NODE + text, "node.toml").services == ServicesConfig(
        zone="east-1",
        flows=131072,
        services=131072,
        backends=1048576,
        nodeport_addresses=(IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/32")),
        connect=("/sys/fs/cgroup/a", "/sys/fs/cgroup/ab"),
        announce=True,
        metrics=7,
    )


@pytest.mark.parametrize(("asked", "given"), [(64, 64), (65, 128), (128, 128), (4194304, 4194304)])
def test_a_capacity_is_the_next_power_of_two(asked: int, given: int) -> None:
    services = parse_node(f"{NODE}[services]\nflows = {asked}\n", "node.toml").services
    assert services.flows == given


@pytest.mark.parametrize("case", NODE_CASES, ids=lambda case: case.id)
def test_node_refused(case: Case) -> None:
    changed = NODE.replace(case.old, case.new, 1)
    assert changed != NODE
    (problem,) = faults(changed)
    assert problem.startswith(f"f.toml:{case.line}: ")
    assert case.words in problem


CLUSTER_CASES = (
    Case("missing nb", 'nb = "unix:/run/millrace/node1/nb.sock"\n', "", 1, "cluster.nb is missing"),
    Case("overlap", "[cluster]", '[cluster]\njoin = "100.64.0.0/16"', 2, "overlap"),
    Case("host bits", "[cluster]", '[cluster]\njoin = "100.64.0.1/24"', 2, "host bits"),
    Case("small pool", "[cluster]", '[cluster]\nservice_pool = "100.65.0.0/30"', 2, "too few"),
    Case("hop elsewhere", '"172.18.0.1"', '"172.19.0.1"', 9, "another address of 172.18.0.0/24"),
    Case("hop is itself", '"172.18.0.1"', '"172.18.0.111"', 9, "another address of"),
    Case("hop is no address", '"172.18.0.1"', '"gw"', 9, "gateway[0].next_hop"),
    Case("heartbeat", "[cluster]", "[cluster]\nheartbeat_s = -1", 2, "the range is 0..3600"),
    Case("no number", "[cluster]", '[cluster]\nheartbeat_s = "1"', 2, "it has to be a number"),
    Case("true", "[cluster]", "[cluster]\nheartbeat_s = true", 2, "it has to be a number"),
    Case("nan", "[cluster]", "[cluster]\nheartbeat_s = nan", 2, "the range is 0..3600"),
    Case("no network", "[cluster]", '[cluster]\nservice_ranges = ["x"]', 2, "write it as"),
    Case(
        "range over the join network",
        "[cluster]",
        '[cluster]\nservice_ranges = ["100.64.0.0/25"]',
        2,
        "overlap",
    ),
    Case(
        "join over the default range",
        "[cluster]",
        '[cluster]\njoin = "10.100.0.0/24"',
        2,
        "overlap",
    ),
    Case("east_west", "[cluster]", '[cluster]\neast_west = "ovn"', 2, "svc0, switch"),
    Case("join6 alone", "[cluster]", '[cluster]\njoin6 = "fd00:100::/64"', 2, "IPv6 needs both"),
    Case("pool6 alone", "[cluster]", '[cluster]\nservice_pool6 = "fd00::/64"', 2, "needs both"),
    Case(
        "overlap in IPv6",
        "[cluster]",
        '[cluster]\njoin6 = "fd00::/32"\nservice_pool6 = "fd00::/64"',
        3,
        "overlap",
    ),
    Case(
        "small join6",
        "[cluster]",
        '[cluster]\njoin6 = "fd00::/126"\nservice_pool6 = "fd01::/64"',
        2,
        "write a network of /125 or larger",
    ),
    Case(
        "IPv4 as IPv6",
        "[cluster]",
        '[cluster]\njoin6 = "10.0.0.0/24"\nservice_pool6 = "fd01::/64"',
        2,
        "cluster.join6",
    ),
    Case("no IPv6", "[[gateway]]", '[[gateway]]\naddress6 = "fd18::1/64"', 6, "has no IPv6"),
    Case("only a hop6", "[[gateway]]", '[[gateway]]\nnext_hop6 = "fd18::1"', 6, "address6 is not"),
    Case("no routers", 'routers = ["vpc0"]\n', "", 5, "routers is missing"),
    Case("router twice", '["vpc0"]', '["vpc0", "vpc0"]', 10, "each router is named once"),
    Case(
        "chassis twice",
        "[[gateway]]",
        CLUSTER[CLUSTER.index("[[gateway]]") :].replace("172.18.0.111", "172.18.0.112")
        + "[[gateway]]",
        12,
        "line 6 has it already",
    ),
)


@pytest.mark.parametrize("case", CLUSTER_CASES, ids=lambda case: case.id)
def test_cluster_refused(case: Case) -> None:
    changed = CLUSTER.replace(case.old, case.new, 1)
    assert changed != CLUSTER
    (problem,) = faults(changed, cluster=True)
    assert problem.startswith(f"f.toml:{case.line}: ")
    assert case.words in problem


def test_a_whole_cluster() -> None:
    config = parse_cluster(CLUSTER, "cluster.toml")
    assert (config.join, config.service_pool) == ("100.64.0.0/24", "100.64.255.0/24")
    assert config.service_ranges == (ip_network("10.96.0.0/12"),)
    assert config.east_west is EastWest.SVC0
    assert config.gateways == (
        GatewayConfig(
            "node1", "physnet1", IPv4Interface("172.18.0.111/24"), "172.18.0.1", ("vpc0",)
        ),
    )


def test_services_of_clients_behind_ovn_may_be_left_to_their_switches_or_to_nobody() -> None:
    words = 'service_ranges = ["10.43.0.0/16", "fd43::/112"]\neast_west = "switch"'
    config = parse_cluster(CLUSTER.replace("[cluster]", f"[cluster]\n{words}"), "cluster.toml")
    assert config.service_ranges == (ip_network("10.43.0.0/16"), ip_network("fd43::/112"))
    assert config.east_west is EastWest.SWITCH
    none = CLUSTER.replace("[cluster]", "[cluster]\nservice_ranges = []")
    assert parse_cluster(none, "cluster.toml").service_ranges == ()


CLUSTER6 = CLUSTER.replace(
    "[cluster]",
    '[cluster]\njoin6 = "fd00:100::/64"\nservice_pool6 = "fd00:101::/64"\nheartbeat_s = 2',
).replace('routers = ["vpc0"]', 'routers = ["vpc0"]\naddress6 = "fd18::111/64"')


@pytest.mark.parametrize(
    ("hop", "given"), [("", None), ("fd18::1", "fd18::1"), ("fe80::1", "fe80::1")]
)
def test_a_whole_cluster_in_both_families(hop: str, given: str | None) -> None:
    config = parse_cluster(CLUSTER6 + (f'next_hop6 = "{hop}"\n' if hop else ""), "cluster.toml")
    assert (config.join6, config.service_pool6) == ("fd00:100::/64", "fd00:101::/64")
    assert config.heartbeat_s == 2.0
    (gateway,) = config.gateways
    assert gateway.address6 == IPv6Interface("fd18::111/64")
    assert gateway.next_hop6 == given


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fd18::111/64", "fd18::111", "the length of the network is missing"),
        ("fd18::111/64", "fe80::111/64", "nobody can route to this address"),
        ("fd18::111/64", "fe80::1%eth0/64", "an address with a zone"),
        ("fd18::111/64", "ff02::1/64", "nobody can route to this address"),
        ("fd18::111/64", "::ffff:10.0.0.1/128", "nobody can route to this address"),
        ("fd18::111/64", "fd18::/64", "every router of fd18::/64"),
        ('"fd18::111/64"', '"fd18::111/64"\nnext_hop6 = "fd19::1"', "another address of fd18::/64"),
        ('"fd18::111/64"', '"fd18::111/64"\nnext_hop6 = "fd18::111"', "another address of"),
        ('"fd18::111/64"', '"fd18::111/64"\nnext_hop6 = "fe80::1%1"', "an address with a zone"),
    ],
)
def test_a_gateways_ipv6_address_refused(old: str, new: str, words: str) -> None:
    changed = CLUSTER6.replace(old, new)
    assert changed != CLUSTER6
    (problem,) = faults(changed, cluster=True)
    assert words in problem


def test_everything_is_reported_at_once_in_the_order_of_the_file() -> None:
    text = (
        NODE.replace('"node1"', "7")
        .replace("count = 1024", "count = -1")
        .replace('mode = "kernel"', 'mode = "kernal"\nspeed = 10')
    )
    assert faults(text) == [
        'f.toml:2: node.name is an integer; it has to be a string; write name = "node1"',
        "f.toml:6: hugepages.count = -1; the range is 1..4194304; write count = 1",
        "f.toml:30: uplink[1].mode = 'kernal'; allowed are af_xdp, vfio, kernel;"
        ' write mode = "kernel"',
        "f.toml:31: uplink[1].speed is unknown; unknown keys are refused, so that a misspelt one"
        " cannot pass unseen; remove it",
    ]


def test_a_problem_is_one_line_even_of_a_strange_key() -> None:
    (problem,) = faults(NODE + '"a\\nb" = 1\n')
    assert "\n" not in problem


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigProblems, match="No such file or directory"):
        load_node(Path("/nonexistent/node.toml"))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b'[node]\nname = "\xff"\n')
    with pytest.raises(ConfigProblems) as caught:
        load_node(file)
    assert caught.value.problems[0].line == 2


def test_nesting_beyond_the_parser() -> None:
    (problem,) = faults("x = " + "[" * 100_000 + "]" * 100_000)
    assert "this is not TOML" in problem
