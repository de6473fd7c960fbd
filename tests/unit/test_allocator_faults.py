"""What nobody expects of the stage that gives addresses out: a defect, a name that comes again."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from controller.ipam.want import Want
from controller.kinds.addresses import POOLS, IpPool
from controller.kinds.nat import EIPS, VPC_PORTS, Eip, VpcPorts
from controller.kinds.subnet import SUBNETS, Accepted, Subnet
from controller.kinds.workloads import SETS, OrdinalSet
from controller.kube.resources import Key
from controller.network import asks, nets, nics
from controller.network.facts import PODS, NetPod
from controller.network.heldports import HeldPort
from controller.network.ledger import Ledger
from controller.network.nets import USAGE
from controller.network.nics import Nics
from controller.network.settings import SETTINGS, NetSettings
from controller.network.view import View
from dataplane.model.addr import Mac
from tests.labs.allocation import world

O = "ovn.kubernetes.io/"  # noqa: E741


def test_a_defect_costs_one_pod_its_address_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acquire = Ledger.acquire

    def broken(self: Ledger, nic: str, want: Want) -> None:
        if nic == "bad.ns":
            raise ZeroDivisionError
        acquire(self, nic, want)

    w = world()
    w.pod("bad")
    w.pod("good")
    monkeypatch.setattr(Ledger, "acquire", broken)
    w.start()
    assert (w.ip("good.ns"), w.ip("bad.ns")) == ("10.16.0.2", "none")
    assert "ZeroDivisionError" in w.why("pods", "ns", "bad")
    w.pod("later")
    assert w.ip("later.ns") == "10.16.0.3"
    monkeypatch.undo()
    w.have(SUBNETS, "more", Subnet("more", cidr="10.17.0.0/24"))
    assert w.ip("bad.ns") == "10.16.0.4"
    assert w.why("pods", "ns", "bad") == ""


@pytest.mark.parametrize(
    "text",
    ['[{"name": "a", "namespace": ["x"]}]', '[{"name": "a", "namespace": {"b": 1}}]',
     '[{"name": []}]', '[{"name": "a", "ips": 7}]', "[" * 100_000, "[7]"],
)  # fmt: skip
def test_networks_that_make_no_sense_are_their_pods_problem_and_no_defect(text: str) -> None:
    w = world().start()
    w.pod("odd", annotations={nics.NETWORKS: text})
    assert w.ip("odd.ns") == "10.16.0.2"
    assert "write names, or a JSON list" in w.why("pods", "ns", "odd")
    assert w.allocator is not None and w.allocator.faults == {}


def test_a_pod_whose_wishes_cannot_be_told_has_what_its_ports_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nics_of = nics.nics_of

    def broken(view: View, pod: NetPod) -> Nics:
        if pod.name == "bad":
            raise ZeroDivisionError
        return nics_of(view, pod)

    before = world().start()
    before.pod("bad")
    before.pod("good")
    was = before.ip("bad.ns")
    monkeypatch.setattr(asks, "nics_of", broken)
    w = before.again(before.held())
    w.pod("new")
    assert w.ip("bad.ns") == was
    assert w.ip("new.ns") == "10.16.0.4"
    assert "ZeroDivisionError" in w.why("pods", "ns", "bad")
    w.have(PODS, Key("ns", "bad"), None)
    assert w.lease("bad.ns") is None
    assert w.why("pods", "ns", "bad") == ""


def test_a_pod_that_cannot_be_read_has_what_its_ports_say_until_it_is_gone() -> None:
    before = world().start()
    before.pod("odd")
    before.pod("good")
    was, ports = before.lease("odd.ns"), before.held()
    assert was is not None
    del before.facts[PODS][Key("ns", "odd")]
    w = before.again(ports, unread=[Key("ns", "odd")])
    w.pod("new")
    assert (w.lease("odd.ns"), w.ip("new.ns")) == (was, "10.16.0.4")
    w.pod("odd")
    assert w.lease("odd.ns") == was
    w = before.again(ports, unread=[Key("ns", "odd")])
    w.have(PODS, Key("ns", "odd"), None)
    assert w.lease("odd.ns") is None


def test_who_is_heard_of_late_finds_the_address_that_his_port_has() -> None:
    before = world().start()
    for name in ("a", "late", "gone"):
        before.pod(name)
    was, ports = before.lease("late.ns"), before.held()
    for name in ("late", "gone"):
        del before.facts[PODS][Key("ns", name)]
    w = before.again(ports)
    w.pod("new")
    assert w.ip("new.ns") == "10.16.0.5"
    w.pod("late")
    assert w.lease("late.ns") == was
    # What he asks for comes first.
    w.pod("gone", annotations={O + "ip_address": "10.16.0.9"})
    assert w.ip("gone.ns") == "10.16.0.9"


def test_a_defect_in_one_subnet_at_the_start_costs_nobody_else_his_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = nets.written

    def broken(subnet: Subnet, default_vpc: str) -> nets.Net:
        if subnet.name == "odd":
            raise ZeroDivisionError
        return written(subnet, default_vpc)

    subnets = (Subnet("ovn-default", default=True, cidr="10.16.0.0/24"), Subnet("odd"))
    w = world(*subnets)
    w.pod("a")
    monkeypatch.setattr(nets, "written", broken)
    w.start()
    assert w.ip("a.ns") == "10.16.0.2"
    assert "ZeroDivisionError" in w.why("subnets.kubeovn.io", "", "odd")
    assert w.allocator is not None and w.allocator.faults == {}


@pytest.mark.parametrize("step", ["restore_nets", "place_pools", "place_reserved", "place_nets"])
def test_a_defect_in_what_is_common_to_all_is_told_and_tried_again_with_the_next_change(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world().start()
    before.pod("a")
    was, ports = before.lease("a.ns"), before.held()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, step, broken)
        w = before.again(ports)
        assert w.allocator is not None and "ZeroDivisionError" in w.allocator.faults[None]
    w.pod("b")
    assert w.allocator.faults == {}
    assert (w.lease("a.ns"), w.ip("b.ns")) == (was, "10.16.0.3")


def test_a_set_of_more_pods_than_there_are_addresses_is_not_counted_out() -> None:
    w = world()
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 2_147_483_647))
    mac = Mac("02:00:00:00:00:08")
    for number, name in enumerate(("web-7", "web-07", "web-2147483647", "web-x", "web")):
        address = ip_address(f"10.16.0.{number + 9}")
        w.ports.append(HeldPort(f"{name}.ns", "ovn-default", (address,), mac))
    w.start()
    assert [w.ip(port.port) for port in w.ports] == ["10.16.0.9", *["none"] * 4]


def test_a_pod_that_comes_again_with_another_owner_is_kept_by_that_one() -> None:
    w = world().start()
    for owner in ("web", "other"):
        w.have(SETS, Key("ns", owner), OrdinalSet(0, 1))
        w.pod("web-0", owner=("StatefulSet", owner))
    w.have(PODS, Key("ns", "web-0"), None)
    assert w.ip("web-0.ns") == "10.16.0.2"
    w.have(SETS, Key("ns", "web"), None)
    assert w.ip("web-0.ns") == "10.16.0.2"
    w.have(SETS, Key("ns", "other"), None)
    assert w.lease("web-0.ns") is None
    w.have(SETS, Key("ns", "web"), OrdinalSet(0, 1))
    assert w.lease("web-0.ns") is None


def test_who_has_an_address_is_asked_first_when_its_subnet_comes_late() -> None:
    w = world(Subnet("other", cidr="10.99.0.0/24"))
    told: dict[str, Any] = {
        O + "allocated": "true",
        O + "ip_address": "10.16.0.2",
        O + "mac_address": "02:00:00:00:00:07",
        O + "logical_switch": "ovn-default",
    }
    w.pod("z", annotations=told)
    w.pod("a")
    w.have(SETS, Key("ns", "kept"), OrdinalSet(0, 1))
    port = HeldPort(
        "kept-0.ns", "ovn-default", (ip_address("10.16.0.3"),), Mac("02:00:00:00:00:08")
    )
    w.ports.append(port)
    w.start()
    assert (w.ip("a.ns"), w.ip("z.ns"), w.ip("kept-0.ns")) == ("none", "none", "none")
    late = Subnet("ovn-default", default=True, cidr="10.16.0.0/24")
    accepted = Accepted("ovn-cluster", "10.16.0.0/24", "10.16.0.1")
    w.have(SUBNETS, "ovn-default", replace(late, accepted=accepted))
    assert w.ip("z.ns") == "10.16.0.2"
    assert w.ip("kept-0.ns") == "10.16.0.3"
    assert w.ip("a.ns") == "10.16.0.4"


def test_a_pool_of_addresses_that_its_subnet_does_not_have_says_so() -> None:
    w = world()
    w.have(POOLS, "p", IpPool("p", "ovn-default", addresses=("10.99.0.1..10.99.0.9", "10.16.0.8")))
    w.start()
    assert "no address of subnet ovn-default is in 10.99.0.1..10.99.0.9" in w.why(
        "ippools.kubeovn.io", "", "p"
    )
    w.pod("a", annotations={O + "ip_pool": "p"})
    assert w.ip("a.ns") == "10.16.0.8"
    w.have(POOLS, "p", IpPool("p", "ovn-default", addresses=("10.16.0.8",)))
    assert w.why("ippools.kubeovn.io", "", "p") == ""


def test_external_addresses_are_given_to_no_workload() -> None:
    w = world()
    w.facts[SETTINGS] = {"": NetSettings(external_subnet="ovn-default")}
    w.facts[EIPS] = {
        "wished": Eip("wished", subnet="ovn-default", wished=("10.16.0.2",)),
        "held": Eip("held", held=("10.16.0.3",)),
        "elsewhere": Eip("elsewhere", subnet="far", held=("10.16.0.6",)),
    }
    w.facts[VPC_PORTS] = {"v": VpcPorts(held=(("ovn-default", ("10.16.0.4",)),))}
    w.start()
    assert w.facts[USAGE]["ovn-default", ""].available == {4: 250}
    w.pod("a")
    w.pod("b")
    assert (w.ip("a.ns"), w.ip("b.ns")) == ("10.16.0.5", "10.16.0.6")
    w.pod("asks", annotations={O + "ip_address": "10.16.0.3"})
    assert "OvnEip held" in w.why("pods", "ns", "asks")
    # Who has one keeps it, and comes back with it; the other's status says what is wrong.
    w.have(EIPS, "late", Eip("late", subnet="ovn-default", wished=("10.16.0.5",)))
    again = w.again(w.held())
    assert again.ip("a.ns") == "10.16.0.5"
    w.have(EIPS, "held", None)
    assert w.ip("asks.ns") == "10.16.0.3"
