"""What OVN answers to DHCP and in router advertisements, from the texts of objects. Pure.

The texts are Kube-OVN's: `name=value` with commas between; a value of several in braces, with
semicolons between. The names are OVN's own (ovn-nb(5), DHCP_Options).
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.ipam.subnet import Subnet as Space
from controller.kinds.subnet import Subnet
from controller.network.nets import Net, router_mac
from controller.network.rows import Row, RowKey, pairs
from controller.translate.ovn import Problem

LEASE_S = 3600
SERVER = "169.254.0.254"
"""Who answers where a subnet has no gateway (RFC 3927: nobody else has it)."""


def options_of(text: str) -> dict[str, str]:
    """The options of a text, as OVN wants them.

    Raises:
        ValueError: a part of it is no option.
    """
    found: dict[str, str] = {}
    for part in _split(text):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            msg = f"{part!r} is no name=value"
            raise ValueError(msg)
        found[name.strip()] = value.strip().replace(";", ", ")
    return found


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            break
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        msg = f"{text!r} has a brace without its other half"
        raise ValueError(msg)
    return [part.strip() for part in parts if part.strip()]


def switch_options(subnet: str, version: int) -> RowKey:
    """The row of a subnet's options of one family."""
    return RowKey("DHCP_Options", f"{subnet}/v{version}")


def port_options(port: str, version: int) -> RowKey:
    """The row of a port's own options of one family."""
    return RowKey("DHCP_Options", f"{port}//v{version}")


def options_row(subnet: Subnet, net: Net, version: int, mtu: int, text: str) -> Row | None:
    """What is answered in one family; None: the subnet has not this family.

    Args:
        subnet: whose.
        net: what it has in force.
        version: 4 or 6.
        mtu: 0: not told [bytes].
        text: the options that are written, of the subnet or of a port.

    Raises:
        ValueError: a text is wrong.
    """
    space: Space = net.space
    network = space.network(version)
    if network is None:
        return None
    mac = str(router_mac(f"{net.vpc}-{subnet.name}"))
    gateway = next((str(g) for g in net.gateways if g.version == version), "")
    options: dict[str, str]
    if version == 4:
        options = {
            "lease_time": str(LEASE_S),
            "router": gateway,
            "server_id": gateway or SERVER,
            "server_mac": mac,
        }
        if mtu:
            options["mtu"] = str(mtu)
    else:
        options = {"server_id": mac}
    options |= options_of(text)
    return Row({"cidr": str(network), "options": pairs({k: v for k, v in options.items() if v})})


def advertised(subnet: Subnet, mtu: int) -> Mapping[str, str]:
    """What the router advertises on a subnet.

    Raises:
        ValueError: the text is wrong.
    """
    if not subnet.advertised:
        return {}
    options = {
        "address_mode": "dhcpv6_stateful",
        "max_interval": "30",
        "min_interval": "5",
        "send_periodic": "true",
    }
    if mtu:
        options["mtu"] = str(mtu)
    return options | options_of(subnet.advertisement)


def fault(who: str, field: str, error: ValueError) -> Problem:
    """A text that cannot be read, as a problem."""
    return Problem(who, f"{field}: {error}", "write lease_time=3600,dns_server={10.0.0.2;10.0.0.3}")
