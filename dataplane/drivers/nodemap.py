"""Table `node`: what the programs need to know of this node, the only entry of an array."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from bpf import abi
from bpf.abi import CtState, Limit, NodeFlag
from dataplane.drivers.bpfmaps import failure, number
from dataplane.drivers.bpfstate import MapOwner
from dataplane.drivers.libbpf import LibbpfError
from dataplane.drivers.sweeps import tick_s
from dataplane.model.addr import Mac
from dataplane.model.rows import NodeEntry
from dataplane.ports import Failure, ObserveError

TIMEOUTS_S = {
    CtState.CT_SYN: 30,
    CtState.CT_SYN_ACK: 60,
    CtState.CT_MIDDLE: 120,
    CtState.CT_ESTABLISHED: 7440,
    CtState.CT_FIN: 240,
    CtState.CT_TIME_WAIT: 30,
    CtState.CT_RESET: 10,
    CtState.CT_UDP_ONE_WAY: 30,
    CtState.CT_UDP: 180,
    CtState.CT_SCTP_NEW: 30,
    CtState.CT_SCTP: 7440,
    CtState.CT_SCTP_SHUTDOWN: 30,
    CtState.CT_UDP_ANSWERED: 30,
}
"""How long a flow may be silent [s]. RFC 5382 REQ-5: established TCP 2 h 4 min, transitory 4 min;
RFC 4787 REQ-5: UDP not less than two minutes, if its client goes on after an answer. Before that,
as long as without one, as questions and answers have it in the kernel's conntrack, too
(nf_conntrack_udp_packet): there are many, and mostly nobody speaks in them again."""

_ZERO = number(0)


class NodeTable:
    """Table `node`: key 0; an entry that is valid for no family is no row.

    Beside the row's own fields the entry has what follows from the maps and the kernel: masks,
    timeouts in ticks, and the seed of conntrack's hash, which lives as long as the maps, as does
    the word that an older version's flows are among theirs (NODE_CARRIED).

    Of svc0 the entry has the number, the row the name: whoever makes it anew gives it another one.
    Names and numbers are those of the calling thread's network namespace; `links` comes before
    this table, so that svc0 is there at the first write.
    """

    name = "node"

    def __init__(self, state: MapOwner) -> None:
        self._map = state.maps[self.name]
        self._tick_s = tick_s()
        self._masks = {
            f"{family}_{mask}": state.maps[f"{family}_{name}"].info.max_entries - 1
            for family in ("ct4", "ct6")
            for mask, name in (("mask", "tags"), ("reply_mask", "replies"))
        }

    def _fields(self) -> abi.Fields:
        octets = self._map.lookup(_ZERO)
        return abi.NODE.unpack(octets or bytes(abi.NODE.size))

    def observe(self) -> Mapping[int, NodeEntry]:
        """The entry, if it is valid and all that follows from the maps is right in it."""
        try:
            fields = self._fields()
        except LibbpfError as error:
            raise ObserveError(str(error)) from error
        flags = NodeFlag(fields["flags"])
        if not flags & (NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6):
            return {}
        if flags & NodeFlag.NODE_CARRYING:
            return {}  # of a daemon that died as it carried flows over; to be written without
        if fields != {**fields, **self._derived()}:
            return {}
        local = struct.unpack("4s" * int(Limit.LOCAL4_INLINE), fields["local4"])
        return {
            0: NodeEntry(
                IPv4Address(fields["service_addr4"]) if flags & NodeFlag.NODE_VALID4 else None,
                IPv6Address(fields["service_addr6"]) if flags & NodeFlag.NODE_VALID6 else None,
                Mac(fields["service_mac"].hex(":")),
                Mac(fields["gateway_mac"].hex(":")),
                fields["uplink_ifindex"],
                Mac(fields["uplink_mac"].hex(":")),
                _name_of(fields["svc_ifindex"]),
                tuple(IPv4Address(octets) for octets in local if any(octets)),
            )
        }

    def _derived(self) -> dict[str, int | bytes]:
        timeouts = [0] * int(CtState.CT_STATES)
        for state, seconds in TIMEOUTS_S.items():
            timeouts[state] = round(seconds / self._tick_s)
        return {
            **self._masks,
            "pick_seed": int(Limit.PICK_SEED),
            "timeouts": struct.pack(f"={len(timeouts)}I", *timeouts),
        }

    def take_derived(self) -> bool:
        """Give an entry that is there what follows from this build, before its programs run.

        A state of conntrack's that an older build does not know has no timeout there: its flows
        would be over at once. The entry itself is written when every source has spoken.

        Returns:
            Whether anything differed.

        Raises:
            LibbpfError: the kernel refused.
        """
        fields = self._fields()
        right = {**fields, **self._derived()}
        valid = fields["flags"] & (NodeFlag.NODE_VALID4 | NodeFlag.NODE_VALID6)
        if not valid or fields == right:
            return False
        self._map.update(_ZERO, abi.NODE.pack(**right))
        return True

    def upsert(self, batch: Sequence[tuple[int, NodeEntry]]) -> Mapping[int, Failure]:
        """Set the entry; without svc0, which only answers of ours at svc0 miss, the row waits."""
        return {key: failed for key, entry in batch if (failed := self._write(key, entry))}

    def delete(self, keys: Sequence[int]) -> Mapping[int, Failure]:
        """Make the entry invalid: packets of VIPs are dropped from now on."""
        return {key: failed for key in keys if (failed := self._write(key, None))}

    def _write(self, key: int, entry: NodeEntry | None) -> Failure | None:
        if key:
            return Failure(f"table node has no row {key}, only row 0")
        service_ifindex = _number_of(entry.service_link) if entry is not None else 0
        try:
            before = self._fields()
            seed = before["ct_seed"] or secrets.randbits(32) | 1
            flags = before["flags"] & NodeFlag.NODE_CARRIED
            fields: dict[str, Any] = {**self._derived(), "ct_seed": seed, "flags": flags}
            if entry is not None:
                fields.update(_encoded(entry, service_ifindex))
                fields["flags"] |= flags
            self._map.update(_ZERO, abi.NODE.pack(**fields))
        except LibbpfError as error:
            return failure(error, self._map)
        if entry is not None and not service_ifindex:
            return Failure(f"there is no device {entry.service_link} yet", waiting=True)
        return None


def _name_of(ifindex: int) -> str:
    """Empty if no device has this number."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""


def _number_of(device: str) -> int:
    """Of this name; 0, which no device has, if there is none."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def _encoded(entry: NodeEntry, service_ifindex: int) -> dict[str, int | bytes]:
    flags = NodeFlag(0)
    fields: dict[str, int | bytes] = {
        "service_mac": entry.service_mac.packed(),
        "gateway_mac": entry.gateway_mac.packed(),
        "uplink_mac": entry.uplink_mac.packed(),
        "uplink_ifindex": entry.uplink_ifindex,
        "svc_ifindex": service_ifindex,
        "local4": b"".join(address.packed for address in entry.local),
    }
    if entry.service_address is not None:
        flags |= NodeFlag.NODE_VALID4
        fields["service_addr4"] = entry.service_address.packed
    if entry.service_address6 is not None:
        flags |= NodeFlag.NODE_VALID6
        fields["service_addr6"] = entry.service_address6.packed
    return {**fields, "flags": int(flags)}
