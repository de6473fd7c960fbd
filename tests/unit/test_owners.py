"""Who owns a VIP: the same node in everybody's eyes, and few that move when one goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from controller.translate.central import northbound
from controller.translate.index import Index
from controller.translate.node import announcers
from dataplane.model.addr import IPAddress, L4Addr, Mac, Protocol
from dataplane.model.rows import Announcement
from dataplane.model.service import (
    Backend,
    EndpointState,
    Place,
    ServedBy,
    Service,
    ServiceKind,
    TrafficPolicy,
)
from dataplane.model.state import Nic
from dataplane.plan.owners import announcements, candidates, owned, owner
from tests.labs.ovnrows import applied, cluster_config, gateway_config, vpc_lab

NODES = frozenset({"n1", "n2", "n3"})
VIPS: list[IPAddress] = [IPv4Address(0xC0000200 + i) for i in range(300)]
VIPS6: list[IPAddress] = [IPv6Address((0x20010DB8 << 96) + i) for i in range(100)]


def service(vip: str, port: int = 80, *nodes: str, **columns: object) -> Service:
    backends = tuple(
        Backend(
            L4Addr(Protocol.TCP, ip_address(f"10.0.0.{number}"), 80),
            Place.REMOTE,
            f"p{number}",
            chassis=node,
        )
        for number, node in enumerate(nodes, 1)
    )
    made = Service(
        "s", L4Addr(Protocol.TCP, ip_address(vip), port), backends,
        TrafficPolicy.CLUSTER, ServedBy.XDP, "",
    )  # fmt: skip
    return replace(made, **columns)  # type: ignore[arg-type]


def local(vip: str, port: int, *nodes: str) -> Service:
    return service(vip, port, *nodes, policy=TrafficPolicy.LOCAL)


def test_every_vip_has_one_owner_and_all_nodes_have_a_share() -> None:
    owners = Counter(owner(vip, NODES) for vip in (*VIPS, *VIPS6))
    assert owners.keys() == NODES
    assert min(owners.values()) > 80


def test_a_node_that_goes_moves_its_own_vips_and_no_others() -> None:
    for vip in (*VIPS, *VIPS6):
        before, after = owner(vip, NODES), owner(vip, NODES - {"n2"})
        assert after == before or before == "n2"


def test_nobody_owns_what_nobody_can() -> None:
    assert owner(VIPS[0], ()) is None


def test_each_node_says_the_same_of_all() -> None:
    services = [service(str(vip)) for vip in VIPS]
    shares = [owned(services, NODES, node) for node in sorted(NODES)]
    assert frozenset.union(*shares) == frozenset(VIPS)
    assert sum(len(share) for share in shares) == len(VIPS)


def test_a_node_that_is_no_announcer_owns_nothing() -> None:
    assert owned([service("192.0.2.1")], NODES, "n4") == frozenset()


@pytest.mark.parametrize("kind", list(ServiceKind))
def test_only_kinds_that_no_node_has_an_address_for_are_announced(kind: ServiceKind) -> None:
    found = owned([service("192.0.2.1", kind=kind)], frozenset({"n1"}), "n1")
    assert bool(found) == (kind in {ServiceKind.LOAD_BALANCER, ServiceKind.EXTERNAL_IP})


def test_what_xdp_does_not_serve_is_not_announced() -> None:
    one = service("192.0.2.1", served_by=ServedBy.OVN)
    assert owned([one], frozenset({"n1"}), "n1") == frozenset()


def test_under_local_policy_only_nodes_with_a_ready_backend_are_candidates() -> None:
    assert candidates([local("192.0.2.1", 80, "n1", "n3")], NODES) == {"n1", "n3"}
    assert candidates([local("192.0.2.1", 80, "n9")], NODES) == frozenset()


def test_terminating_backends_count_only_where_there_is_no_ready_one() -> None:
    one = local("192.0.2.1", 80, "n1", "n2")
    first, second = one.backends
    ending = replace(first, state=EndpointState.TERMINATING)
    assert candidates([replace(one, backends=(ending, second))], NODES) == {"n2"}
    gone = replace(second, state=EndpointState.UNREADY)
    assert candidates([replace(one, backends=(ending, gone))], NODES) == {"n1"}


def test_of_several_ports_on_one_vip_a_node_that_serves_all_comes_first() -> None:
    web, tls = local("192.0.2.1", 80, "n1", "n2"), local("192.0.2.1", 443, "n2", "n3")
    assert candidates([web, tls], NODES) == {"n2"}
    assert candidates([web, local("192.0.2.1", 443, "n3")], NODES) == NODES
    assert candidates([web, service("192.0.2.1", 22)], NODES) == {"n1", "n2"}


def test_announcements_say_the_uplinks_mac() -> None:
    nic = Nic("up0", 3, Mac("02:00:00:00:00:01"), 1500, ())
    assert announcements(VIPS[:1], nic) == {VIPS[0]: Announcement("up0", nic.mac)}
    assert announcements(VIPS[:1], None) == {}


def test_announcers_have_a_gateway_on_the_network_and_are_not_down() -> None:
    lab = vpc_lab().chassis("n3", "10.0.0.3")
    cluster = cluster_config(
        gateway_config("n1", 111),
        gateway_config("n2", 112),
        gateway_config("n3", 113, physnet="other"),
    )
    nb = applied(lab.nb, northbound(cluster, lab.nb, lab.sb))
    assert announcers(nb, "phys") == {"n1", "n2"}
    assert announcers(nb, "other") == {"n3"}
    nb = applied(nb, northbound(cluster, nb, lab.sb, down={"n1"}))
    assert announcers(nb, "phys") == {"n2"}
    nb = applied(nb, northbound(cluster, nb, lab.without_chassis("n2").sb))
    assert announcers(nb, "phys") == {"n1"}


def test_who_has_withdrawn_announces_nothing_while_another_can() -> None:
    lab = vpc_lab()
    cluster = cluster_config(gateway_config("n1", 111), gateway_config("n2", 112))
    nb = applied(lab.nb, northbound(cluster, lab.nb, lab.sb))

    def seen(*withdrawn: str) -> frozenset[str]:
        rows = {
            ref: replace(one, other_config={"ovn-cms-options": "card,millrace-withdrawn"})
            if one.name in withdrawn
            else one
            for ref, one in lab.sb.chassis.items()
        }
        return announcers(nb, "phys", Index(nb, replace(lab.sb, chassis=rows)))

    assert seen() == {"n1", "n2"}
    assert seen("n1") == {"n2"}
    # Nobody would answer at all.
    assert seen("n1", "n2") == {"n1", "n2"}
