"""Both families through OVN: the cluster controller's rows as northd and ovn-controller have them.

The rows are written by the same tables as in the cluster controller, without its process.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface

import pytest

from controller.ovn import nb as nb_database
from controller.ovn import sb as sb_database
from controller.ovn.tables import tables
from controller.translate.central import northbound
from controller.translate.node import gateway
from dataplane.model.config import ClusterConfig
from dataplane.reconcile.backoff import Backoff
from dataplane.reconcile.reconciler import Reconciler
from dataplane.reconcile.report import Report
from tests.labs.ovnrows import cluster_config, gateway_config
from tests.labs.ovnsandbox import OvnSandbox, wait_until

NAMES = ("switches", "routers", "router_ports", "switch_ports", "static_macs", "routes", "policies")
SIX = replace(
    cluster_config(
        replace(
            gateway_config("n1", 111),
            address6=IPv6Interface("2001:db8:18::111/64"),
            next_hop6="2001:db8:18::1",
        ),
        gateway_config("n2", 112),
    ),
    join6="fd00:64::/64",
    service_pool6="fd00:64:ff::/64",
)
FOUR = replace(SIX, join6="", service_pool6="")
CLIENT, CLIENT_MAC = "2001:db8:18::50", "0a:00:00:00:00:50"


def apply(ovn: OvnSandbox, cluster: ClusterConfig, down: frozenset[str] = frozenset()) -> Report:
    with (
        nb_database.client(ovn.nb, leader_only=True) as nb,
        sb_database.client(ovn.sb, ports=False) as sb,
    ):
        nb.wait_synced(60)
        sb.wait_synced(60)
        found = (nb.read(nb_database.snapshot, 60), sb.read(sb_database.snapshot, 60))
        plan = northbound(cluster, *found, down)
        reconciler = Reconciler(tables(nb), Backoff())
        report = reconciler.apply({name: getattr(plan, name) for name in NAMES}, 0.0)
        assert report.failed == 0
    ovn.sync()
    return report


@pytest.fixture
def six(ovn: OvnSandbox) -> OvnSandbox:
    """The sandbox's VPC with IPv6 beside IPv4: vm1 is fd00:10:1::11 on n1, vm2 ::12 on n2."""
    ovn.nbctl("set", "Logical_Router_Port", "vpc0-sw0", 'networks=10.1.0.1/24,"fd00:10:1::1/64"')
    for number in (1, 2):
        both = f"0a:00:00:00:00:1{number} 10.1.0.1{number} fd00:10:1::1{number}"
        ovn.nbctl("lsp-set-addresses", f"vm{number}.ns", both)
        ovn.nbctl("lsp-set-port-security", f"vm{number}.ns", both)
    ovn.sync()
    return ovn


def learn(ovn: OvnSandbox) -> None:
    """Copy Static_MAC_Binding rows to MAC_Binding, where ovn-trace looks."""
    found = json.loads(
        ovn.sbctl("--format=json", "--columns=logical_port,ip,mac,datapath", "list",
                  "Static_MAC_Binding")
    )["data"]  # fmt: skip
    for port, ip, mac, datapath in found:
        ovn.sbctl(
            "create", "MAC_Binding", f"logical_port={json.dumps(port)}", f"ip={json.dumps(ip)}",
            f"mac={json.dumps(mac)}", f"datapath={datapath[1]}",
        )  # fmt: skip


def from_vm(number: int, destination: str) -> str:
    return (
        f'inport == "vm{number}.ns" && eth.src == 0a:00:00:00:00:1{number} && '
        f"eth.dst == 0a:00:00:00:00:01 && ip6.src == fd00:10:1::1{number} && "
        f"ip6.dst == {destination} && ip.ttl == 64 && tcp.src == 80 && tcp.dst == 40000"
    )


def no_ct(trace: str) -> bool:
    return "ct_" not in trace.replace("ct_clear;", "")


def test_northd_takes_both_families_without_a_warning(six: OvnSandbox) -> None:
    before = len(six.warnings())
    apply(six, SIX)
    assert six.warnings()[before:] == []
    macs = six.sbctl("--bare", "--columns=ip,mac", "list", "Static_MAC_Binding")
    assert "fd00:64:ff::1\n0a:58:64:40:ff:01" in macs
    with nb_database.client(six.nb) as nb:
        nb.wait_synced(60)
        found = gateway(nb.read(nb_database.snapshot, 60), "n1")
    assert found is not None
    assert found.service_address6 == IPv6Address("fd00:64:ff::1")
    assert [str(a) for a in found.addresses] == ["172.18.0.111/24", "2001:db8:18::111/64"]


def test_a_second_time_writes_nothing_and_ipv6_comes_and_goes(six: OvnSandbox) -> None:
    assert apply(six, FOUR).writes > 0
    four = six.nbctl("lr-route-list", "vpc0")
    assert apply(six, SIX).writes > 0
    assert apply(six, SIX).writes == 0
    assert "fd00:64:ff::2" in six.nbctl("lr-route-list", "vpc0")
    assert apply(six, FOUR).writes > 0
    assert six.nbctl("lr-route-list", "vpc0") == four
    keys = six.nbctl("--bare", "--columns=external_ids", "list", "Logical_Router", "GR_n1")
    assert "address6" not in keys


def test_a_translated_packet_reaches_a_vm_without_conntrack(six: OvnSandbox) -> None:
    apply(six, SIX)
    # ovn-trace 23.03 does not read Static_MAC_Binding, so it is shown what ovn-controller does.
    learn(six)
    trace = six.trace(
        "ext_n1",
        'inport == "ext_n1-localnet" && eth.src == 0a:00:00:00:00:99 && '
        "eth.dst == 0a:58:ac:12:00:6f && ip6.src == fd00:64:ff::1 && ip6.dst == fd00:10:1::12 && "
        "ip.ttl == 64 && tcp.src == 40000 && tcp.dst == 80",
    )
    assert 'output to "vm2.ns"' in trace
    assert no_ct(trace), trace


@pytest.mark.parametrize("vm", [1, 2])
@pytest.mark.parametrize("chassis", ["n1", "n2"])
def test_a_reply_goes_to_the_gateway_router_whose_svc0_it_names(
    six: OvnSandbox, vm: int, chassis: str
) -> None:
    apply(six, SIX)
    learn(six)
    number = chassis[1]
    trace = six.trace("sw0", from_vm(vm, f"fd00:64:ff::{number}"))
    assert f'output to "ext_{chassis}-localnet", type "localnet"' in trace
    assert f"/* MAC binding to 0a:58:64:40:ff:0{number}. */" in trace
    assert no_ct(trace), trace
    assert "nd_ns" not in trace


def test_a_chassis_marked_as_down_is_marked_no_longer_when_it_is_back(six: OvnSandbox) -> None:
    apply(six, SIX)
    apply(six, SIX, frozenset({"n1"}))
    listed = six.nbctl("--bare", "--columns=external_ids", "list", "Logical_Router", "GR_n1")
    assert "millrace:down=true" in listed
    assert re.search(r"::/0\s+fd00:64::2", six.nbctl("lr-route-list", "vpc0"))
    apply(six, SIX)
    listed = six.nbctl("--bare", "--columns=external_ids", "list", "Logical_Router", "GR_n1")
    assert "down" not in listed


def settled(ovn: OvnSandbox, bridge: str, port: str, flow: str, until: str) -> str:
    """The actions of OVS for a packet, once ovn-controller has installed what it takes."""
    seen = ""

    def done() -> bool:
        nonlocal seen
        number = ovn.vsctl("get", "Interface", port, "ofport").strip()
        seen = ovn.appctl("ofproto/trace", bridge, f"in_port={number},{flow}")
        return re.search(until, seen) is not None

    try:
        wait_until(f"the trace shows {until}", done, 30)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{seen}") from error
    found = re.search(r"^Datapath actions: (.*)$", seen, re.MULTILINE)
    assert found, seen
    return found[1]


def test_a_real_chassis_carries_ipv6_in_one_pass_both_ways(six: OvnSandbox) -> None:
    six.sbctl("chassis-del", "n1")
    six.start_chassis("n1", "127.0.0.1", "phys", "br-ex")
    for port, bridge in (("up0", "br-ex"), ("svc0-ovs", "br-ex"), ("vm1", "br-int")):
        wait_until(f"{bridge} is there", lambda name=bridge: name in six.vsctl("list-br"))
        six.vsctl("add-port", bridge, port)
    six.vsctl("set", "Interface", "vm1", "external_ids:iface-id=vm1.ns")
    wait_until("n1 is registered", lambda: "n1" in six.sbctl("--bare", "list", "Chassis"))
    apply(six, SIX)
    patch = "patch-ext_n1-localnet-to-br-int"
    wait_until("n1 has its gateway", lambda: patch in six.vsctl("list-ports", "br-ex"))
    wait_until("vm1 is up", lambda: six.nbctl("lsp-get-up", "vm1.ns").strip() == "up")
    to_vm = settled(
        six, "br-ex", "up0",
        "tcp6,dl_src=0a:00:00:00:00:99,dl_dst=0a:58:ac:12:00:6f,ipv6_src=fd00:64:ff::1,"
        "ipv6_dst=fd00:10:1::11,nw_ttl=64,tp_src=40000,tp_dst=80",
        until="Datapath actions: set.*,[0-9]+$",
    )  # fmt: skip
    assert "dst=0a:00:00:00:00:11" in to_vm
    assert "ct(" not in to_vm
    assert "recirc" not in to_vm
    datapath = six.sbctl(
        "--bare", "--columns=datapath", "find", "Port_Binding", "logical_port=millrace-ext-n1"
    ).strip()
    six.sbctl(
        "create", "MAC_Binding", "logical_port=millrace-ext-n1", f'ip="{CLIENT}"',
        f'mac="{CLIENT_MAC}"', f"datapath={datapath}",
    )  # fmt: skip
    # To svc0 (policy cluster), and to the client itself (policy local).
    for address, mac in (("fd00:64:ff::1", "0a:58:64:40:ff:01"), (CLIENT, CLIENT_MAC)):
        reply = settled(
            six, "br-int", "vm1",
            "tcp6,dl_src=0a:00:00:00:00:11,dl_dst=0a:00:00:00:00:01,ipv6_src=fd00:10:1::11,"
            f"ipv6_dst={address},nw_ttl=64,tp_src=80,tp_dst=40000",
            until=f"Datapath actions: set\\(eth\\(src=0a:58:ac:12:00:6f,dst={mac}\\)\\)",
        )  # fmt: skip
        assert "ct(" not in reply
        assert "recirc" not in reply
        assert "userspace" not in reply, "a neighbour solicitation instead of the packet"
