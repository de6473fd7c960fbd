"""What becomes of version 2's maps in version 3.

Version 3 changed conntrack's indexes, and which record a flow is in: its number is no longer that
of a hash bucket's way, but is named by the source port, which version 3 chooses for that. What a
record says is the same octets in both, as are other maps but `fragments`, whose values have numbers
of records, and those that have other names since (`dataplane.drivers.formermaps`).

The port of a flow of version 2 is its client's. If its source is an address of ours, the flow is
put where that port points to; where another flow is there already, anywhere, with a word among the
replies, and struct node is told (NODE_CARRIED) that a port may name another's record.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import numpy as np

from bpf import abi
from bpf.abi import AdoptFlag, FlowFlag, Limit, NodeFlag, Reason
from dataplane.drivers.adoption import ROW, Adoption
from dataplane.drivers.bpfmaps import packed
from dataplane.drivers.conntrack import VERSIONS, Conntrack
from dataplane.drivers.libbpf import Map
from dataplane.drivers.migration import Converter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ADDRESSES = ("client", "vip", "backend", "source")
_ZERO = (0).to_bytes(abi.U32, sys.byteorder)
_TRIES = 3
_CONNTRACK = ("ct4", "ct4_tags", "ct4_replies", "ct6", "ct6_tags", "ct6_replies")


class FromVersion2(Converter):
    """Flows of version 2 to version 3; see the module."""

    source, target = 2, 3
    kept = frozenset(abi.MAPS) - {*_CONNTRACK, "fragments", "node"}
    identity: tuple[str, ...] = (
        *("family", "number", "life", "proto", *_ADDRESSES),
        *("client_port", "vip_port", "backend_port", "source_port"),
    )
    content: tuple[str, ...] = ("state", "flags")

    def __init__(self) -> None:
        self._adoption: Adoption | None = None

    def close(self) -> None:
        """Let go of the program."""
        if self._adoption is not None:
            self._adoption.close()
            self._adoption = None

    def begin(self, old: Mapping[str, Map], new: Mapping[str, Map]) -> bool:
        """Take struct node along, but for what follows from the maps' sizes, and the hash's seed.

        By the old seed new flows might be given the very ports that those under way here have.
        """
        held = new["node"].lookup(_ZERO) or b""
        died = bool(held) and bool(abi.NODE.unpack(held)["flags"] & NodeFlag.NODE_CARRYING)
        self.hold(new, on=False)
        self._program(new)  # loaded before anything waits for it
        if any(held):
            return died
        fields = abi.NODE.unpack(old["node"].lookup(_ZERO) or bytes(abi.NODE.size))
        for family in ("ct4", "ct6"):
            fields[f"{family}_mask"] = new[f"{family}_tags"].info.max_entries - 1
            fields[f"{family}_reply_mask"] = new[f"{family}_replies"].info.max_entries - 1
        fields["ct_seed"] = secrets.randbits(32) | 1
        new["node"].update(_ZERO, abi.NODE.pack(**fields))
        return True

    def hold(self, new: Mapping[str, Map], *, on: bool) -> None:
        """Have TCP flows that are not here yet not begin in the middle (NODE_CARRYING)."""
        _flag(new["node"], NodeFlag.NODE_CARRYING, on=on)

    def live(self, old: Mapping[str, Map]) -> NDArray[Any]:
        """The flows of both families whose time is not over, IPv4's addresses mapped."""
        parts = []
        with Conntrack(old) as conntrack:
            for version in VERSIONS:
                records = conntrack.records(version)
                rows = np.zeros(len(records), ROW)
                for name in records.flows.dtype.names or ():
                    if name in (ROW.names or ()) and not name.startswith("pad"):
                        rows[name] = (
                            _mapped(records.flows[name])
                            if version == 4 and name in _ADDRESSES
                            else records.flows[name]
                        )
                rows["family"], rows["number"] = version, records.numbers
                parts.append(rows)
        # Told its type, or the result would have integers in host order: other octets.
        return np.concatenate(parts, dtype=ROW)

    def adopt(self, new: Mapping[str, Map], rows: NDArray[Any]) -> int:
        """First those whose ports name records that are free, then the others, with words."""
        if not len(rows):
            return 0
        program = self._program(new)
        left = rows[program.run(rows, AdoptFlag(0)) != 0]
        if _names_a_record(left, new["node"]).any():
            _flag(new["node"], NodeFlag.NODE_CARRIED, on=True)
        for _ in range(_TRIES):
            reasons = program.run(left, AdoptFlag.ADOPT_ANYWHERE)
            left = left[reasons != 0]
            if not (reasons == Reason.DROP_CT_BUSY).any():
                break
        return len(left)

    def end(self, new: Mapping[str, Map], rows: NDArray[Any]) -> None:
        """End those that no packet has met since they were copied."""
        if len(rows):
            self._program(new).run(rows, AdoptFlag.ADOPT_END)

    def _program(self, new: Mapping[str, Map]) -> Adoption:
        if self._adoption is None:
            self._adoption = Adoption(new)
        return self._adoption


def _mapped(addresses: NDArray[Any]) -> NDArray[np.uint8]:
    found = np.zeros((len(addresses), 16), np.uint8)
    found[:, 10:12] = 0xFF
    found[:, 12:] = np.ascontiguousarray(addresses, ">u4").view(np.uint8).reshape(-1, 4)
    return found


def _names_a_record(rows: NDArray[Any], node: Map) -> NDArray[np.bool_]:
    """Of which flows a reply is looked for where its port points to (adopt_family.h, `named`).

    What counts is the source and not how it came about: version 2 kept also a client that has an
    address of ours (FLOW_NO_SNAT).
    """
    fields = abi.NODE.unpack(node.lookup(_ZERO) or bytes(abi.NODE.size))
    services = IPv4Address(fields["service_addr4"]), IPv6Address(fields["service_addr6"])
    found = np.zeros(len(rows), bool)
    for address in (*services, abi.HOST_SOURCE4, abi.HOST_SOURCE6):
        found |= (rows["source"] == np.frombuffer(packed(address), np.uint8)).all(axis=1)
    found &= rows["source_port"] >= Limit.DIRECT_PORT_MIN
    found &= (rows["flags"] & FlowFlag.FLOW_DSR) == 0
    return found


def _flag(node: Map, flag: NodeFlag, *, on: bool) -> None:
    fields = abi.NODE.unpack(node.lookup(_ZERO) or bytes(abi.NODE.size))
    if bool(fields["flags"] & flag) is not on:
        node.update(_ZERO, abi.NODE.pack(**fields | {"flags": fields["flags"] ^ flag}))
