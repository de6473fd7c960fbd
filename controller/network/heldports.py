"""What a logical switch port of ours says was given to whom. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Protocol

from dataplane.model.addr import IPAddress, Mac


@dataclass(frozen=True, slots=True)
class HeldPort:
    """A logical switch port of ours as the northbound database has it."""

    port: str
    switch: str
    addresses: tuple[IPAddress, ...]
    mac: Mac


class PortThere(Protocol):
    """A logical switch port in the database."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def switch(self) -> str:
        """Its switch's name."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """As OVN spells them: a MAC and addresses in one text, or a word (ovn-nb(5))."""


def held_port(there: PortThere) -> HeldPort | None:
    """What was given; None: the port is nobody's, a router's for instance."""
    for text in there.addresses:
        # Anybody may write here, and nothing as well.
        mac, *rest = text.split() or [""]
        if ":" not in mac:
            continue
        try:
            addresses: tuple[IPAddress, ...] = tuple(ipaddress.ip_address(one) for one in rest)
            return HeldPort(there.name, there.switch, addresses, Mac(mac))
        except ValueError:
            continue
    return None
