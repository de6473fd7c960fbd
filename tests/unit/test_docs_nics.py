"""docs/nics.md: its table of flows is that of dataplane/plan/flows.py, its files exist."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_address
from pathlib import Path

from dataplane.drivers.nicsettings import BUSY
from dataplane.model.addr import L4Addr, Mac, Protocol
from dataplane.model.state import Gateway
from dataplane.plan.flows import patch_port, service_flows
from dataplane.plan.mtu import AF_XDP_MTU

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "nics.md").read_text(encoding="utf-8")

GATEWAY = Gateway(
    router="gw",
    mac=Mac("0a:00:00:00:00:01"),
    addresses=(IPv4Interface("172.18.0.111/24"),),
    service_address=IPv4Address("100.64.255.1"),
    physnet="physnet1",
    localnet_port="ln",
    service_address6=IPv6Address("fd00::1"),
)
REPLIES = (
    L4Addr(Protocol.TCP, ip_address("10.1.0.11"), 8080),
    L4Addr(Protocol.UDP, ip_address("fd01::11"), 8080),
)


def documented() -> set[tuple[int, str, str]]:
    """Priority, match and actions of each row of the table that is ours."""
    rows = re.findall(r"^\| services \| (\d+) \| `([^`]+)` \| `([^`]+)` \|", TEXT, re.MULTILINE)
    return {(int(priority), match, actions) for priority, match, actions in rows}


def generalised(text: str) -> str:
    """A match or actions with the table's words for names, addresses and ports."""
    for name, word in ((patch_port(GATEWAY), "PATCH"), ("svc0-ovs", "SVC"), ("eth1", "UPLINK")):
        text = text.replace(f'"{name}"', word)
    text = re.sub(r"dl_dst=[0-9a-f:]{17}", "dl_dst=MAC", text)
    text = re.sub(r"^(tcp|udp|sctp)6?,", "PROTOCOL,", text)
    text = re.sub(r"(nw|ipv6)_src=[^,]+", "SOURCE", text)
    return re.sub(r"tp_src=\d+", "tp_src=PORT", text)


def test_the_table_has_every_flow_and_no_other() -> None:
    flows = service_flows("br-ex", "eth1", "svc0-ovs", GATEWAY, REPLIES)
    assert {
        (key.priority, generalised(key.match), generalised(flow.actions))
        for key, flow in flows.items()
    } == documented()


def test_figures_and_files_are_the_codes() -> None:
    assert f"At most {AF_XDP_MTU} under" in TEXT
    for key, value in BUSY.items():
        assert f"`{key}` = {value}" in TEXT
    named = re.findall(r"`((?:tests|dataplane)/[\w./]+\.py)`", TEXT)
    named += [path.removeprefix("../") for path in re.findall(r"\]\((\.\./[^)]+)\)", TEXT)]
    assert len(named) >= 3
    for path in named:
        assert (ROOT / path).exists(), path
