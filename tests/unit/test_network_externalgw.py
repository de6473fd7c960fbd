"""External addresses in a Subnet of workloads; the ConfigMap of the default VPC's way outside."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from controller.kinds import externalgw
from controller.kinds.errors import KindError
from controller.kinds.nat import EIPS
from controller.kinds.subnet import SUBNETS
from controller.kube.structs import ConfigMap, Meta
from controller.network.engine import Engine
from controller.network.facts import LEASES
from controller.network.rows import Row, RowKey
from controller.network.settings import NetSettings
from controller.network.units import ObjectRef
from tests.labs.manifests import engine_of, put

GATEWAY = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ovn-external-gw-config, namespace: kube-system}
data:
  enable-external-gw: "true"
  external-gw-nodes: "worker, gone"
  external-gw-nic: eth1
  external-gw-addr: 172.56.0.1/16
  nic-ip: 172.56.0.254/16
  nic-mac: "16:52:f3:13:6a:25"
"""
NODES = """
apiVersion: v1
kind: Node
metadata: {name: worker}
---
apiVersion: v1
kind: Node
metadata: {name: other}
---
"""
PORT = RowKey("Logical_Router_Port", "ovn-cluster-external")
REF = ObjectRef("configmaps", "kube-system", "ovn-external-gw-config")


def gateway(**data: str) -> externalgw.ExternalGateway:
    return externalgw.decode(ConfigMap(Meta(), {k.replace("_", "-"): v for k, v in data.items()}))


def chassis(engine: Engine) -> set[object]:
    return {
        row.columns["chassis_name"]
        for key, row in engine.book.rows.items()
        if key.table == "HA_Chassis"
    }


def why(engine: Engine, ref: ObjectRef = REF) -> str:
    return "; ".join(map(str, engine.book.problems.get(ref, ())))


def test_the_config_map_alone_makes_a_way_out_of_the_default_vpc() -> None:
    engine = engine_of(NODES + GATEWAY, NetSettings(external_vlan=7))
    rows = engine.book.rows
    port = rows[PORT].columns
    assert (port["mac"], port["networks"]) == ("16:52:f3:13:6a:25", frozenset({"172.56.0.254/16"}))
    wire = rows[RowKey("Logical_Switch_Port", "localnet.external")].columns
    assert (wire["tag"], wire["options"]) == (frozenset({7}), (("network_name", "external"),))
    assert chassis(engine) == {"worker"}
    assert "no node gone" in why(engine)
    assert "eth1" in why(engine)
    # Nothing is written to a Subnet, Vlan or ProviderNetwork that nobody wrote.
    assert {ref.resource for ref in engine.book.writes} <= {"nodes", "vpcs.kubeovn.io"}


def test_it_may_be_switched_off_and_goes_with_all_that_it_stood_for() -> None:
    engine = engine_of(NODES + GATEWAY, NetSettings())
    off = GATEWAY.replace('enable-external-gw: "true"', 'enable-external-gw: "false"')
    put(engine, off)
    engine.update()
    assert PORT not in engine.book.rows
    assert not [key for key in engine.book.rows if "external" in key.name]
    assert why(engine) == ""
    put(engine, GATEWAY)
    engine.update()
    assert PORT in engine.book.rows
    engine.put(((externalgw.EXTERNAL_GATEWAYS, externalgw.PLACE, None),))
    engine.update()
    assert PORT not in engine.book.rows


def test_an_object_of_that_name_counts_instead_of_what_the_config_map_stands_for() -> None:
    objects = """
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: net1}
spec: {defaultInterface: vlan}
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan204}
spec: {id: 204, provider: net1}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: external}
spec: {cidrBlock: 10.5.204.0/24, gateway: 10.5.204.254, vlan: vlan204}
---
"""
    gateway = GATEWAY.replace("  nic-ip: 172.56.0.254/16\n", "")
    engine = engine_of(NODES + objects + gateway, NetSettings())
    networks = engine.book.rows[PORT].columns["networks"]
    assert isinstance(networks, frozenset)
    (network,) = networks
    assert ip_interface(str(network)).network == ip_network("10.5.204.0/24")
    assert "its gateway counts" in why(engine)
    assert "[[uplinks]] there lead net1 to eth1" in why(engine)


def test_all_nodes_are_gateways_where_it_says_distributed() -> None:
    text = GATEWAY.replace("  nic-ip", "  type: distributed\n  nic-ip")
    engine = engine_of(NODES + text, NetSettings())
    assert chassis(engine) == {"worker", "other"}
    assert "no node" not in why(engine)


def test_another_subnet_may_be_named() -> None:
    one = 'enable-external-gw: "true"\n  external-gw-switch: underlay'
    engine = engine_of(NODES + GATEWAY.replace('enable-external-gw: "true"', one), NetSettings())
    assert RowKey("Logical_Router_Port", "ovn-cluster-underlay") in engine.book.rows


@pytest.mark.parametrize(
    "data",
    [
        {"enable-external-gw": "maybe"},
        {"type": "both"},
        {"external-gw-addr": "eth1"},
        {"external-gw-addr": "10.0.0.1/8,11.0.0.1/8"},
        {"nic-ip": "10.0.0.300"},
        {"nic-mac": "zz"},
    ],
)
def test_what_cannot_be_is_named(data: dict[str, str]) -> None:
    (key,) = data
    with pytest.raises(KindError, match=key):
        gateway(**data)


def test_an_unknown_key_is_told_and_both_families_are_read() -> None:
    (told,) = externalgw.warn(ConfigMap(Meta(), {"external-gw-adr": "x"}))
    assert "external-gw-adr" in str(told)
    found = gateway(external_gw_addr="fd00::1/64, 10.0.0.1/8", nic_ip="10.0.0.9/8")
    assert [str(one) for one in found.gateways] == ["10.0.0.1/8", "fd00::1/64"]
    assert found.addresses == ("10.0.0.9",)


# -- addresses ------------------------------------------------------------------------------------

SHARED = """
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: shared}
spec: {cidrBlock: 10.5.204.0/29, gateway: 10.5.204.1, namespaces: [ns]}
"""


def pods(*names: str) -> str:
    return "\n---\n".join(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: ns}}" for name in names
    )


def eip(name: str, **spec: Any) -> str:
    more = "".join(f", {key}: {value}" for key, value in spec.items())
    return (
        f"apiVersion: kubeovn.io/v1\nkind: OvnEip\nmetadata: {{name: {name}}}\n"
        f"spec: {{externalSubnet: shared, type: nat{more}}}"
    )


def told(engine: Engine, resource: str, name: str) -> dict[str, Any]:
    return dict(engine.book.writes[ObjectRef(f"{resource}.kubeovn.io", "", name)].status)


def addresses(engine: Engine) -> list[str]:
    store = engine.book.store
    leases = (store.get(LEASES, key) for key in store.by(LEASES, "subnet", "shared"))
    return sorted(str(address) for lease in leases if lease for address in lease.addresses)


def test_an_address_that_was_given_outside_is_no_pods_before_any_status_says_so() -> None:
    engine = engine_of(SHARED, NetSettings())
    put(engine, eip("one") + "\n---\n" + eip("two"))
    engine.update()
    mine = {told(engine, "ovn-eips", name)["v4Ip"] for name in ("one", "two")}
    assert len(mine) == 2
    # As many pods come as there are addresses: 10.5.204.2 to .6, and two of them are taken.
    put(engine, pods("a", "b", "c", "d"))
    engine.update()
    assert len(addresses(engine)) == 3
    assert not mine & set(addresses(engine))
    assert {told(engine, "ovn-eips", name)["v4Ip"] for name in ("one", "two")} == mine
    assert told(engine, "subnets", "shared")["v4usingIPs"] == 5
    assert told(engine, "subnets", "shared")["v4availableIPs"] == 0


def test_pods_and_external_addresses_that_come_at_once_share_none() -> None:
    engine = engine_of(SHARED, NetSettings())
    put(engine, "\n---\n".join((eip("one"), pods("a", "b", "c", "d"), eip("two"))))
    engine.update()
    (mine,) = {told(engine, "ovn-eips", name)["v4Ip"] for name in ("one", "two")} - {
        ""
    }  # four pods have four of five
    assert mine not in addresses(engine)
    assert len(addresses(engine)) == 4


def test_a_freed_external_address_goes_to_the_pod_that_waits() -> None:
    engine = engine_of(SHARED, NetSettings())
    put(engine, "\n---\n".join((eip("one"), eip("two"))))
    engine.update()
    put(engine, pods("a", "b", "c", "d"))
    engine.update()
    assert len(addresses(engine)) == 3
    engine.put(((EIPS, "one", None),))
    engine.update()
    engine.update()
    assert len(addresses(engine)) == 4


@pytest.mark.parametrize(
    "torn",
    [
        {"excluded": ("10.5.204.4..10.5.204.6x",)},
        {"cidr": "nonsense", "gateway": "", "excluded": ()},
        {"cidr": "10.6.0.0/29", "gateway": "", "excluded": ()},
    ],
)
def test_external_addresses_are_of_what_is_in_force(torn: dict[str, Any]) -> None:
    excluded = "excludeIps: [10.5.204.4..10.5.204.6], namespaces"
    engine = engine_of(SHARED.replace("namespaces", excluded), NetSettings())
    put(engine, pods("a"))
    engine.update()
    assert addresses(engine) == ["10.5.204.2"]
    subnet = engine.book.store.get(SUBNETS, "shared")
    assert subnet is not None
    engine.put(((SUBNETS, "shared", replace(subnet, **torn)),))
    put(engine, eip("one"))
    engine.update()
    assert told(engine, "ovn-eips", "one")["v4Ip"] == "10.5.204.3"


def test_a_subnet_that_never_was_in_force_has_no_external_addresses() -> None:
    text = SHARED.replace("namespaces", "excludeIps: [10.5.204.4..10.5.204.6x], namespaces")
    engine = engine_of(text + "\n---\n" + eip("one"), NetSettings())
    assert not told(engine, "ovn-eips", "one").get("v4Ip")
    assert "10.5.204.6x" in "".join(
        str(problem)
        for problem in engine.book.problems[ObjectRef("subnets.kubeovn.io", "", "shared")]
    )


def test_a_balanced_address_of_the_subnet_is_no_pods_either() -> None:
    engine = engine_of(SHARED, NetSettings())
    put(
        engine,
        """
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: ns
  annotations: {ovn.kubernetes.io/service_external_ip_from_subnet: shared}
spec: {type: LoadBalancer, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{port: 80}]}
""",
    )
    engine.update()
    service = ObjectRef("services", "ns", "web")
    status: Any = engine.book.writes[service].status
    (ingress,) = status["loadBalancer"]["ingress"]
    assert ip_address(ingress["ip"]) in [ip_address(f"10.5.204.{n}") for n in range(2, 7)]
    put(engine, pods("a", "b", "c", "d", "e"))
    engine.update()
    assert len(addresses(engine)) == 4
    assert ingress["ip"] not in addresses(engine)


def test_a_subnet_that_is_being_deleted_gives_no_external_addresses_to_anybody_new() -> None:
    engine = engine_of(SHARED, NetSettings())
    subnet = engine.book.store.get(SUBNETS, "shared")
    assert subnet is not None
    engine.put(((SUBNETS, "shared", replace(subnet, ending=True)),))
    put(engine, eip("new"))
    put(engine, eip("old"))
    old = engine.book.store.get(EIPS, "old")
    assert old is not None
    engine.put(((EIPS, "old", replace(old, held=("10.5.204.5",))),))
    engine.update()
    assert told(engine, "ovn-eips", "old")["v4Ip"] == "10.5.204.5"
    assert not told(engine, "ovn-eips", "new").get("v4Ip")
    (problem,) = engine.book.problems[ObjectRef("ovn-eips.kubeovn.io", "", "new")]
    assert "Subnet shared is being deleted" in str(problem)
    engine.put(((SUBNETS, "shared", subnet),))
    engine.update()
    assert told(engine, "ovn-eips", "new")["v4Ip"]


def test_a_subnet_stays_until_its_external_addresses_are_gone() -> None:
    engine = engine_of("\n---\n".join((SHARED, eip("one"), eip("without"))), NetSettings())
    one = engine.book.store.get(EIPS, "one")
    assert one is not None
    engine.put(((EIPS, "one", replace(one, held=("10.5.204.5",))),))
    subnet = engine.book.store.get(SUBNETS, "shared")
    assert subnet is not None
    engine.put(((SUBNETS, "shared", replace(subnet, ending=True)),))
    engine.update()
    ref = ObjectRef("subnets.kubeovn.io", "", "shared")
    assert engine.book.writes[ref].finalizer
    engine.put(((EIPS, "one", None),))
    engine.update()
    assert engine.book.writes[ref].finalizer is False


def test_rows_are_as_if_everything_had_come_at_once() -> None:
    def rows(*texts: str) -> dict[RowKey, Row]:
        engine = engine_of(texts[0], NetSettings())
        for text in texts[1:]:
            put(engine, text)
            engine.update()
        return dict(engine.book.rows)

    assert rows(NODES + GATEWAY) == rows(NODES.rstrip().removesuffix("---"), GATEWAY)


def node(name: str, *, ready: bool) -> str:
    state = "True" if ready else "False"
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
        f"status: {{conditions: [{{type: Ready, status: '{state}'}}]}}"
    )


@pytest.mark.parametrize(
    ("states", "left"),
    [
        ({"worker": False, "other": True}, {"other"}),
        ({"worker": False, "other": False}, {"worker", "other"}),
        # Three see by BFD who has died, and a kubelet that is gone moves nothing.
        ({"worker": False, "other": True, "third": True}, {"worker", "other", "third"}),
    ],
)
def test_of_two_nodes_one_that_is_not_ready_is_no_gateway(
    states: dict[str, bool], left: set[str]
) -> None:
    text = GATEWAY.replace("  nic-ip", "  type: distributed\n  nic-ip")
    nodes = [node(name, ready=ready) for name, ready in states.items()]
    assert chassis(engine_of("\n---\n".join((*nodes, text)), NetSettings())) == left


MEETING = """
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan1}
spec: {id: 0, provider: net1}
---
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: net1}
spec: {defaultInterface: eth1}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: below}
spec: {cidrBlock: 172.17.0.0/24, gateway: 172.17.0.1, vlan: vlan1, u2oInterconnection: true}
"""


def test_a_wire_that_meets_its_vpc_has_an_address_of_the_router_and_its_own_routes() -> None:
    engine = engine_of(MEETING, NetSettings())
    (port,) = (
        row for key, row in engine.book.rows.items()
        if key == RowKey("Logical_Router_Port", "ovn-cluster-below")
    )  # fmt: skip
    assert port.columns["options"] == (("route_table", "u2o-below"),)
    route = engine.book.rows[
        RowKey("Logical_Router_Static_Route", "ovn-cluster/u2o-below/0.0.0.0/0")
    ].columns
    assert (route["nexthop"], route["route_table"]) == ("172.17.0.1", "u2o-below")
    mine = told(engine, "subnets", "below")
    assert port.columns["networks"] == frozenset({f"{mine['u2oInterconnectionIP']}/24"})
    assert (mine["u2oInterconnectionVPC"], mine["v4usingIPs"]) == ("ovn-cluster", 1)
    assert engine.book.problems == {}


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("vlan: vlan1, ", "", "no vlan"),
        ("vlan: vlan1, ", "vlan: vlan1, logicalGateway: true, ", "gateway anyway"),
        ("true}", "true, u2oInterconnectionIP: 10.9.9.9}", "10.9.9.9"),
        ("172.17.0.0/24, gateway: 172.17.0.1", "10.16.0.0/24", "that of Subnet ovn-default"),
    ],
)
def test_a_meeting_that_cannot_be_is_told(before: str, after: str, word: str) -> None:
    engine = engine_of(MEETING.replace(before, after), NetSettings())
    assert word in why(engine, ObjectRef("subnets.kubeovn.io", "", "below"))
    key = RowKey("Logical_Router_Static_Route", "ovn-cluster/u2o-below/0.0.0.0/0")
    assert key not in engine.book.rows
