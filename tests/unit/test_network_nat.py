"""EIPs, FIPs, SNAT and DNAT rules: rows where they can be, reasons where they cannot."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from controller.kinds.addresses import VIPS, Vip
from controller.kube.resources import Key
from controller.network import external, nat, podnat, services
from controller.network.facts import NODES, PODS, NetPod
from controller.network.rows import Row, RowKey
from controller.network.settings import SETTINGS
from controller.network.units import ObjectRef
from tests.labs.factview import Whole, whole
from tests.labs.natobjects import Facts, add, custom, external_lab
from tests.labs.serviceobjects import facts as service_facts
from tests.labs.serviceobjects import service_json

UNITS = (*external.UNITS, *nat.UNITS, *podnat.UNITS)
ROUTER = RowKey("Logical_Router", "vpc1")
EIP = custom("OvnEip", "eip", externalSubnet="external204", type="nat", v4Ip="10.5.204.106")
FIP = custom("OvnFip", "fip", ovnEip="eip", ipName="busybox01.vpc1", type="centralized")


def made(*objects: dict[str, Any]) -> Whole:
    return whole(UNITS, external_lab(*objects))


def table(said: Whole, name: str) -> dict[str, Row]:
    return {key.name: row for key, row in said.rows.items() if key.table == name}


def status(said: Whole, resource: str, name: str) -> dict[str, Any]:
    (wanted,) = said.writes[ObjectRef(f"{resource}.kubeovn.io", "", name)]
    return dict(wanted.status)


def why(said: Whole, resource: str, name: str) -> str:
    found = said.problems[ObjectRef(f"{resource}.kubeovn.io", "", name)]
    return "; ".join(map(str, sorted(found)))


def test_a_vpc_gets_a_port_on_the_external_network_with_its_gateways() -> None:
    said = made()
    port = said.rows[RowKey("Logical_Router_Port", "vpc1-external204")]
    networks = port.columns["networks"]
    assert isinstance(networks, frozenset)
    (network,) = networks
    assert ip_address(str(network).partition("/")[0]) in ip_network("10.5.204.0/24")
    assert port.parent == (ROUTER, "ports")
    (group,) = port.refs["ha_chassis_group"]
    assert group in said.rows
    chassis = {
        row.columns["chassis_name"]: row.columns["priority"]
        for row in table(said, "HA_Chassis").values()
        if row.parent == (group, "ha_chassis")
    }
    assert set(chassis) == {"gw1", "gw2"}
    assert len(set(chassis.values())) == 2
    side = said.rows[RowKey("Logical_Switch_Port", "external204-vpc1")]
    assert dict(side.columns["options"])["router-port"] == "vpc1-external204"  # type: ignore[arg-type]
    assert not said.problems


def test_the_ports_address_is_kept_in_an_annotation_and_taken_from_there() -> None:
    (wanted,) = made().writes[ObjectRef("vpcs.kubeovn.io", "", "vpc1")]
    address = wanted.annotations["external.millrace.dev/external204"]
    assert address
    kept = custom("Vpc", "vpc1", enableExternal=True,
                  annotations={"external.millrace.dev/external204": "10.5.204.222"})  # fmt: skip
    port = made(kept).rows[RowKey("Logical_Router_Port", "vpc1-external204")]
    assert port.columns["networks"] == frozenset({"10.5.204.222/24"})


def test_a_ports_address_may_be_an_eips() -> None:
    said = made(custom("OvnEip", "vpc1-external204", type="lrp", v4Ip="10.5.204.150",
                       macAddress="00:00:00:ED:8E:C7"))  # fmt: skip
    port = said.rows[RowKey("Logical_Router_Port", "vpc1-external204")]
    assert port.columns["networks"] == frozenset({"10.5.204.150/24"})
    assert port.columns["mac"] == "00:00:00:ed:8e:c7"


def test_an_eip_gets_an_address_that_is_none_of_the_excluded_and_keeps_it() -> None:
    asked = custom("OvnEip", "any", type="nat")
    found = status(made(asked), "ovn-eips", "any")
    address = IPv4Address(found["v4Ip"])
    assert IPv4Address("10.5.204.100") < address < IPv4Address("10.5.204.254")
    assert found["ready"] is True
    assert found["macAddress"]
    held = custom("OvnEip", "any", {"v4Ip": "10.5.204.111"}, type="nat")
    assert status(made(held), "ovn-eips", "any")["v4Ip"] == "10.5.204.111"


def test_a_floating_address_of_a_pod() -> None:
    said = made(EIP, FIP)
    (row,) = table(said, "NAT").values()
    assert row.columns == {
        "type": "dnat_and_snat",
        "external_ip": "10.5.204.106",
        "logical_ip": "192.168.0.2",
        "logical_port": frozenset(),
        "external_mac": frozenset(),
    }
    assert row.parent == (ROUTER, "nat")
    assert status(said, "ovn-fips", "fip") == {
        "ready": True, "vpc": "vpc1", "v4Eip": "10.5.204.106", "v6Eip": "", "v4Ip": "192.168.0.2",
        "v6Ip": "",
    }  # fmt: skip
    assert status(said, "ovn-eips", "eip")["nat"] == "fip"


def test_a_distributed_one_leaves_by_its_ports_node() -> None:
    said = made(EIP, {**FIP, "spec": {**FIP["spec"], "type": "distributed"}})
    (row,) = table(said, "NAT").values()
    assert row.columns["logical_port"] == frozenset({"busybox01.vpc1"})
    assert row.columns["external_mac"] == frozenset({"0a:58:0a:05:cc:6a"})


@pytest.mark.parametrize(
    ("spec", "inside"),
    [
        ({"vpcSubnet": "vpc1-subnet1"}, "192.168.0.0/24"),
        ({"vpc": "vpc1", "v4IpCidr": "192.168.0.0/24"}, "192.168.0.0/24"),
        ({"vpc": "vpc1", "v4IpCidr": "192.168.0.4"}, "192.168.0.4"),
        ({"ipName": "busybox01.vpc1"}, "192.168.0.2"),
    ],
)
def test_source_addresses_of_subnets_and_pods(spec: dict[str, Any], inside: str) -> None:
    said = made(EIP, custom("OvnSnatRule", "snat", ovnEip="eip", **spec))
    (row,) = table(said, "NAT").values()
    assert (row.columns["type"], row.columns["logical_ip"]) == ("snat", inside)
    assert status(said, "ovn-snat-rules", "snat")["v4IpCidr"] == inside


def test_one_port_of_an_address() -> None:
    rule = custom("OvnDnatRule", "dnat", ovnEip="eip", ipName="busybox01.vpc1", protocol="tcp",
                  internalPort="22", externalPort="2222")  # fmt: skip
    said = made(EIP, rule)
    (row,) = table(said, "Load_Balancer").values()
    assert row.columns["vips"] == (("10.5.204.106:2222", "192.168.0.2:22"),)
    assert row.parent == (ROUTER, "load_balancer")


def test_what_is_inside_may_be_a_vip() -> None:
    facts = external_lab(
        EIP, custom("OvnFip", "fip", ovnEip="eip", ipType="vip", ipName="test-fip-vip")
    )
    facts[VIPS] = {"test-fip-vip": Vip("test-fip-vip", "", "vpc1-subnet1", held=("192.168.0.3",))}
    (row,) = table(whole(UNITS, facts), "NAT").values()
    assert row.columns["logical_ip"] == "192.168.0.3"


def test_of_two_fips_of_one_address_the_older_has_it() -> None:
    young = custom("OvnFip", "a", ovnEip="eip", vpc="vpc1", v4Ip="192.168.0.9",
                   created="2026-01-02T00:00:00Z")  # fmt: skip
    old = custom("OvnFip", "b", ovnEip="eip", ipName="busybox01.vpc1",
                 created="2026-01-01T00:00:00Z")  # fmt: skip
    said = made(EIP, young, old)
    assert set(table(said, "NAT")) == {"fip/b/4"}
    assert "OvnFip b" in why(said, "ovn-fips", "a")
    assert status(said, "ovn-fips", "a") == {"ready": False}


def dnat(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"ovnEip": "eip", "ipName": "busybox01.vpc1", "protocol": "tcp", "internalPort": "22",
            "externalPort": "22", **spec}  # fmt: skip
    return custom("OvnDnatRule", name, **spec)


def test_ports_of_one_address_are_shared_and_a_fip_takes_all() -> None:
    said = made(EIP, dnat("a"), dnat("b", externalPort="23"), dnat("c"), dnat("d", protocol="udp"))
    assert set(table(said, "Load_Balancer")) == {"dnat/a", "dnat/b", "dnat/d"}
    assert "OvnDnatRule a" in why(said, "ovn-dnat-rules", "c")
    said = made(EIP, dnat("a", created="2026-01-02T00:00:00Z"), FIP)
    assert table(said, "Load_Balancer") == {}
    assert "OvnFip fip" in why(said, "ovn-dnat-rules", "a")


@pytest.mark.parametrize(
    ("rule", "resource", "word"),
    [
        (custom("OvnFip", "x", ovnEip="none", ipName="busybox01.vpc1"), "ovn-fips", "no OvnEip"),
        (custom("OvnFip", "x", ovnEip="eip", ipName="gone.vpc1"), "ovn-fips", "gone.vpc1"),
        (custom("OvnFip", "x", ovnEip="eip"), "ovn-fips", "nothing inside"),
        (custom("OvnFip", "x", ovnEip="eip", vpc="vpc9", v4Ip="1.2.3.4"), "ovn-fips", "Vpc vpc9"),
        (custom("OvnFip", "x", ovnEip="eip", vpc="vpc1", v4Ip="1.2.3"), "ovn-fips", "1.2.3"),
        (custom("OvnFip", "x", ovnEip="eip", vpc="vpc1", v6Ip="fd00::1"), "ovn-fips", "family"),
        (custom("OvnFip", "x", ovnEip="eip", vpc="vpc1", v4Ip="192.168.0.2", type="distributed"),
         "ovn-fips", "distributed"),
        (dnat("x", externalPort="0"), "ovn-dnat-rules", "externalPort"),
        (dnat("x", internalPort="http"), "ovn-dnat-rules", "internalPort"),
        (dnat("x", protocol="icmp"), "ovn-dnat-rules", "protocol"),
        (custom("OvnSnatRule", "x", ovnEip="eip", vpcSubnet="gone"), "ovn-snat-rules", "gone"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_and_the_rest_goes_on(
    rule: dict[str, Any], resource: str, word: str
) -> None:
    other = custom("OvnEip", "other", v4Ip="10.5.204.107")
    said = made(EIP, other, rule, custom("OvnFip", "fip", ovnEip="other", ipName="busybox01.vpc1"))
    assert word in why(said, resource, "x")
    assert set(said.problems) == {ObjectRef(f"{resource}.kubeovn.io", "", "x")}
    assert set(table(said, "NAT")) == {"fip/fip/4"}


@pytest.mark.parametrize(
    ("eip", "word"),
    [
        (custom("OvnEip", "x", created="2026", v4Ip="10.9.9.9"), "10.9.9.9"),
        (
            custom("OvnEip", "x", created="2026", v4Ip="10.5.204.254"),
            "10.5.204.254",
        ),
        (custom("OvnEip", "x", created="2026", v4Ip="10.5.204.106"), "OvnEip eip"),
        (custom("OvnEip", "x", created="2026", externalSubnet="gone"), "gone"),
    ],
)
def test_an_eip_without_its_address_says_so(eip: dict[str, Any], word: str) -> None:
    said = made(custom("OvnEip", "eip", v4Ip="10.5.204.106", created="2025"),
                eip)  # fmt: skip
    assert word in why(said, "ovn-eips", "x")
    assert status(said, "ovn-eips", "x")["ready"] is False
    assert status(said, "ovn-eips", "eip")["ready"] is True


def test_without_gateways_or_networks_the_vpc_says_so() -> None:
    facts: Facts = external_lab()
    facts[NODES] = {}
    assert "external-gw" in why(whole(UNITS, facts), "vpcs", "vpc1")
    del facts[SETTINGS]
    said = whole(UNITS, facts)
    assert "external Subnet" in why(said, "vpcs", "vpc1")
    assert said.rows == {}


def test_a_pods_annotations_are_of_the_default_vpc() -> None:
    facts = external_lab(
        custom("Vpc", "ovn-cluster", enableExternal=True),
        custom("Subnet", "vpc1-subnet1", cidrBlock="192.168.0.0/24"),
    )
    pod: Hashable = Key("vpc1", "busybox01")
    facts[PODS] = {
        pod: NetPod("vpc1", "busybox01", annotations={
            "ovn.kubernetes.io/eip": "10.5.204.120", "ovn.kubernetes.io/snat": "none"})
    }  # fmt: skip
    said = whole(UNITS, facts)
    (row,) = table(said, "NAT").values()
    assert row.parent == (RowKey("Logical_Router", "ovn-cluster"), "nat")
    assert row.columns["external_ip"] == "10.5.204.120"
    (problem,) = said.problems[ObjectRef("pods", "vpc1", "busybox01")]
    assert "none" in problem.cause
    said = whole(UNITS, add(facts, custom("Vpc", "ovn-cluster")))
    assert table(said, "NAT") == {}
    assert said.problems[ObjectRef("pods", "vpc1", "busybox01")]


def test_an_external_address_is_the_oldest_pods_that_asks_for_it() -> None:
    facts = external_lab(
        custom("Vpc", "ovn-cluster", enableExternal=True),
        custom("Subnet", "vpc1-subnet1", cidrBlock="192.168.0.0/24"),
    )

    def asks(name: str, created: str, address: str) -> NetPod:
        wish = {"ovn.kubernetes.io/eip": address}
        return NetPod("vpc1", name, annotations=wish, created=created)

    # Only one of them has an address inside here: the rows of the other are not what is asked.
    for older, holder in (("2026-01-02T00:00:00Z", True), ("2026-01-04T00:00:00Z", False)):
        facts[PODS] = {
            Key("vpc1", "busybox01"): asks("busybox01", "2026-01-03T00:00:00Z", "10.5.204.120"),
            Key("vpc1", "other"): asks("other", older, "10.5.204.120"),
        }
        said = whole(UNITS, facts)
        problems = said.problems.get(ObjectRef("pods", "vpc1", "busybox01"), ())
        assert bool(table(said, "NAT")) is not holder
        assert [one.cause for one in problems] == (
            ["annotation ovn.kubernetes.io/eip: 10.5.204.120 is pod vpc1/other's"] if holder else []
        )


def test_an_external_address_is_one_of_an_external_network() -> None:
    facts = external_lab(
        custom("Vpc", "ovn-cluster", enableExternal=True),
        custom("Subnet", "vpc1-subnet1", cidrBlock="192.168.0.0/24"),
    )
    wish = {"ovn.kubernetes.io/eip": "203.0.113.7"}
    facts[PODS] = {Key("vpc1", "busybox01"): NetPod("vpc1", "busybox01", annotations=wish)}
    said = whole(UNITS, facts)
    assert table(said, "NAT") == {}
    (problem,) = said.problems[ObjectRef("pods", "vpc1", "busybox01")]
    assert "203.0.113.7 is in no external network" in problem.cause
    assert "10.5.204.0/24" in problem.cause


def test_a_service_may_take_its_address_from_the_external_network() -> None:
    service = service_json(
        "web", type="LoadBalancer",
        annotations={"ovn.kubernetes.io/service_external_ip_from_subnet": "external204"},
    )  # fmt: skip
    found = {**external_lab(EIP), **service_facts(service)}
    said = whole(services.UNITS, found)
    (wanted,) = said.writes[ObjectRef("services", "ns", "web")]
    (one,) = wanted.status["loadBalancer"]["ingress"]
    assert IPv4Address("10.5.204.100") < IPv4Address(one["ip"]) < IPv4Address("10.5.204.254")
    assert one["ip"] != "10.5.204.106"


@pytest.mark.parametrize(("older", "type_"), [("fip", "nat"), ("snat", "nat"), ("dnat", "nat")])
def test_types_have_their_older_names_too(older: str, type_: str) -> None:
    said = made({**EIP, "spec": {**EIP["spec"], "type": older}}, FIP)
    assert status(said, "ovn-eips", "eip")["type"] == type_
    assert status(said, "ovn-fips", "fip")["ready"] is True
