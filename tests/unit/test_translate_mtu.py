"""What OVN's rows tell workloads of an MTU, against what the tunnel to other nodes carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.sources import Sources
from controller.translate.index import Index
from controller.translate.mtu import problems_of, too_big
from dataplane.model.config import TunnelType, UplinkMode
from dataplane.model.state import Attachment
from dataplane.plan.mtu import TooBig
from tests.labs.attachments import WEB
from tests.labs.ovnrows import Lab
from tests.labs.planned import CONFIG, NICS, TUNNEL_UPLINK

KERNEL = {"up0": 1300, "ph0": 1500}
"""The tunnel is on ph0 alone."""


def pod(name: str, mtu: int = 1442) -> Attachment:
    return replace(WEB, iface_id=name, container_id=name, mtu=mtu)


def overlay(*names: str, dhcp: str = "", switch: str = "") -> Lab:
    lab = Lab().switch("s", other_config={"mtu": switch} if switch else {}).dhcp("d", mtu=dhcp)
    for number, name in enumerate(names):
        lab.port(
            "s", name, f"0a:00:00:00:00:{number + 16} 10.5.0.{number + 16}",
            dhcpv4_options="dhcp-d" if dhcp else None,
        )  # fmt: skip
    return lab


def said(lab: Lab, *attachments: Attachment) -> list[tuple[str, str, str]]:
    found = problems_of(Index(lab.nb, lab.sb), CONFIG, KERNEL, attachments)
    return [(one.name, one.cause, one.next_step) for one in found]


WHY = "the tunnel to other nodes carries 1442, because ph0 has an MTU of 1500"


def test_what_fits_is_no_problem() -> None:
    assert said(overlay("a", dhcp="1442"), pod("a")) == []
    assert said(overlay("a", switch="1400"), pod("a")) == []
    assert said(overlay("a"), pod("a")) == []


def test_a_dhcp_option_is_named_once_with_its_ports_and_the_largest_that_fits() -> None:
    names = ("d", "a", "c", "b", "e")
    assert said(overlay(*names, dhcp="1500"), *(pod(name, 1500) for name in names)) == [
        (
            "DHCP_Options dhcp-d",
            f"mtu=1500, for a, b, c and 2 more: {WHY}",
            "ovn-nbctl set DHCP_Options dhcp-d options:mtu=1442, or ph0 needs 1558",
        )
    ]


def test_an_option_that_changed_after_the_interface_was_made() -> None:
    assert [name for name, _, _ in said(overlay("a", dhcp="9000"), pod("a"))] == [
        "DHCP_Options dhcp-d"
    ]
    assert [name for name, _, _ in said(overlay("a", dhcp="1442"), pod("a", 9000))] == [
        "attached interfaces"
    ]


def test_a_switchs_own_mtu_and_an_interfaces_are_named() -> None:
    assert said(overlay("a", switch="8000"), pod("a", 9000)) == [
        (
            "Logical_Switch s",
            f"mtu=8000, for a: {WHY}",
            "ovn-nbctl set Logical_Switch s other_config:mtu=1442, or ph0 needs 8058",
        ),
        (
            "attached interfaces",
            f"mtu=9000, for a: {WHY}",
            "attach them anew with at most 1442, or ph0 needs 9058",
        ),
    ]


def test_a_switch_with_a_network_of_its_own_needs_no_tunnel() -> None:
    lab = overlay("a", dhcp="9000")
    lab.port("s", "ln", type="localnet", options={"network_name": "phys"})
    assert said(lab, pod("a", 9000)) == []


def test_a_port_that_ovn_does_not_have_is_nobodys_problem() -> None:
    assert said(overlay("a"), pod("gone", 9000)) == []


@pytest.mark.parametrize(
    ("kind", "mtu", "kernel", "carries"),
    [
        (TunnelType.GENEVE, None, KERNEL, TooBig("ph0", 1500, 1442)),
        (TunnelType.VXLAN, None, KERNEL, TooBig("ph0", 1500, 1450)),
        (TunnelType.GENEVE, 3000, KERNEL, TooBig("ph0", 3000, 2942)),
        (TunnelType.GENEVE, None, {"up0": 1300}, None),
    ],
    ids=["geneve", "vxlan", "an MTU in the file", "nobody knows"],
)
def test_the_link_below_the_tunnel_decides(
    kind: TunnelType, mtu: int | None, kernel: dict[str, int], carries: TooBig | None
) -> None:
    assert CONFIG.tunnel is not None
    config = replace(
        CONFIG,
        tunnel=replace(CONFIG.tunnel, type=kind),
        uplinks=(CONFIG.uplinks[0], replace(TUNNEL_UPLINK, mtu=mtu)),
    )
    lab = overlay("a")
    index = Index(lab.nb, lab.sb)
    assert too_big(index, config, kernel, "a", 9000) == carries
    if carries is not None:
        assert too_big(index, config, kernel, "a", carries.most) is None
        assert too_big(index, config, kernel, "a", carries.most + 1) == carries
    assert too_big(index, replace(config, tunnel=None), kernel, "a", 9000) is None


def test_a_nic_of_vfio_has_ethernets_mtu_when_nobody_set_one() -> None:
    nic = replace(TUNNEL_UPLINK, device="0000:3b:00.0", mode=UplinkMode.VFIO)
    config = replace(CONFIG, uplinks=(nic,))
    lab = overlay("a")
    found = too_big(Index(lab.nb, lab.sb), config, {}, "a", 1500)
    assert found == TooBig("0000:3b:00.0", 1500, 1442)


def test_the_daemons_sources_say_it_as_soon_as_ovn_has_spoken() -> None:
    lab = overlay("a", dhcp="1500")
    nic = replace(NICS["up0"], name="ph0")
    sources = Sources(nics={**NICS, "ph0": nic})
    assert sources.mtu_problems(CONFIG, [pod("a")]) == ()
    assert sources.too_big(CONFIG, "a", 1500) is None
    sources.nb, sources.sb = lab.nb, lab.sb
    assert [one.name for one in sources.mtu_problems(CONFIG, [pod("a")])] == ["DHCP_Options dhcp-d"]
    assert sources.too_big(CONFIG, "a", 1500) == TooBig("ph0", 1500, 1442)
