"""The durable record of what is attached on this node: one JSON file per attachment.

The CNI runtime remembers what it asked for, OVS what it was given; this is the node's own truth,
from which a restarted daemon plans its ports. A file is written aside, synced and renamed, so it
is whole or absent. One that cannot be read is moved to `quarantine/` and named; the daemon goes
on with the others (its port is then removed as unplanned, and the next CHECK or ADD says so).

A file is named after the attachment's device, which is unique on the node and short.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path

from dataplane.drivers import durable
from dataplane.model.addr import Mac, Protocol
from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.state import Attachment, HostPort, PortKind, Route

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".json"
_MAX_SIZE = 64 * 1024
"""Bytes of one record; ours have about 600."""

_TEXTS = (
    "container_id", "ifname", "netns", "iface_id", "device", "peer", "socket", "pod", "namespace",
    "pod_uid", "network", "device_info",
)  # fmt: skip

_DIRECTIONS = ("send", "receive")


class RecordError(ValueError):
    """A record that is not one of ours, or of a newer format."""


class AttachmentStore:
    """The records under one directory. Calls block on the disk for a few milliseconds.

    `quarantined` names, in words for `millrace status`, what the last `load_all` put aside.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.quarantined: tuple[str, ...] = ()

    def load_all(self) -> tuple[Attachment, ...]:
        """Every readable record, ordered by device.

        Raises:
            OSError: the directory itself cannot be read or made.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[Attachment] = []
        problems: list[str] = []
        for path in sorted(self.directory.iterdir()):
            if path.name.endswith(durable.PARTIAL):
                # Cut off before its rename: it never was a record.
                with contextlib.suppress(OSError):
                    path.unlink()
            elif path.name.endswith(SUFFIX):
                try:
                    found.append(self._load(path))
                except (OSError, RecordError) as error:
                    problems.append(self._quarantine(path, error))
        self.quarantined = tuple(problems)
        return tuple(found)

    def look(self, name: str) -> Attachment | None:
        """The attachment that is this device or logical port, if it is on record.

        For a process beside the daemon: nothing is put aside, and what cannot be read is none.
        """
        try:
            paths = sorted(self.directory.glob(f"*{SUFFIX}"))
        except OSError:
            return None
        for path in paths:
            try:
                found = self._load(path)
            except (OSError, RecordError):
                continue
            if name in (found.device, found.iface_id):
                return found
        return None

    def put(self, attachment: Attachment) -> None:
        """Write one record; it is on the disk when this returns.

        Raises:
            OSError: the disk refused; the earlier record, if any, is still whole.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(attachment.device)
        durable.put(path, json.dumps(encode(attachment), indent=1).encode("ascii"))

    def delete(self, *devices: str) -> None:
        """Remove these records; a missing one is success.

        Raises:
            OSError: what was removed may be back after a power failure; call again.
        """
        gone = False
        for device in devices:
            with contextlib.suppress(FileNotFoundError):
                self._path(device).unlink()
                gone = True
        if gone:
            durable.sync(self.directory)

    def _path(self, device: str) -> Path:
        if not device or "/" in device or device.startswith("."):
            msg = f"{device!r} is not the name of a device"
            raise RecordError(msg)
        return self.directory / (device + SUFFIX)

    def _load(self, path: Path) -> Attachment:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            msg = f"it has more than {_MAX_SIZE} bytes"
            raise RecordError(msg)
        try:
            obj = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            msg = f"it is not JSON: {error}"
            raise RecordError(msg) from error
        attachment = decode(obj)
        if path.name != attachment.device + SUFFIX:
            msg = f"it is of device {attachment.device!r}, whose file has another name"
            raise RecordError(msg)
        return attachment

    def _quarantine(self, path: Path, error: Exception) -> str:
        """Put a bad file aside; what happened, in words."""
        aside = self.directory / "quarantine"
        target = aside / path.name
        next_step = "the port it described is detached; delete the pod, or repair the file"
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            path.replace(target)
            text = f"attachment record {path} is unusable: {error}; moved to {target}; {next_step}"
        except OSError as refused:
            text = f"attachment record {path} is unusable: {error}; left there: {refused}"
        log.error("attachment_quarantined %s", text)
        return text


def encode(attachment: Attachment) -> dict[str, object]:
    """The JSON object of one attachment."""
    return {
        "format": FORMAT,
        **{name: getattr(attachment, name) for name in _TEXTS},
        "kind": attachment.kind.value,
        "mac": str(attachment.mac),
        "addresses": [str(address) for address in attachment.addresses],
        "gateway": None if attachment.gateway is None else str(attachment.gateway),
        "gateway6": None if attachment.gateway6 is None else str(attachment.gateway6),
        "routes": [[str(one.to), str(one.via or "")] for one in attachment.routes],
        "host_ports": [
            [one.protocol.name, one.port, one.to, str(one.host or "")]
            for one in attachment.host_ports
        ],
        "mtu": attachment.mtu,
        "queues": attachment.queues,
        "tag": attachment.tag,
        "limits": {
            name: [wanted.rate, wanted.burst]
            for name in _DIRECTIONS
            if (wanted := getattr(attachment.limits, name)) is not None
        },
    }


def decode(obj: object) -> Attachment:
    """The attachment of one JSON object; unknown keys are a later version's and ignored.

    Raises:
        RecordError: a key is missing or wrong, or the format is newer.
    """
    if not isinstance(obj, dict):
        msg = "it is not a JSON object"
        raise RecordError(msg)
    if obj.get("format") != FORMAT or isinstance(obj.get("format"), bool):
        msg = f"it has format {obj.get('format')!r}, this version reads {FORMAT}"
        raise RecordError(msg)
    # Records from before the network was kept have none.
    texts = {name: _text({"network": "", "device_info": "", **obj}, name) for name in _TEXTS}
    addresses = obj.get("addresses")
    if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
        msg = '"addresses" is not a list of strings'
        raise RecordError(msg)
    gateway = None if obj.get("gateway") is None else _text(obj, "gateway")
    try:
        return Attachment(
            **texts,
            limits=_limits(obj.get("limits", {})),
            kind=PortKind(_text(obj, "kind")),
            mac=Mac(_text(obj, "mac")),
            addresses=tuple(ip_interface(one) for one in addresses),
            gateway=None if gateway is None else IPv4Address(gateway),
            gateway6=IPv6Address(_text(obj, "gateway6")) if obj.get("gateway6") else None,
            routes=tuple(_route(one) for one in _list(obj, "routes")),
            host_ports=tuple(_host_port(one) for one in _list(obj, "host_ports")),
            mtu=_number(obj, "mtu"),
            queues=_number(obj, "queues"),
            # Records from before there was a trunk have none.
            tag=_number(obj, "tag") if obj.get("tag") else 0,
        )
    except ValueError as error:
        raise RecordError(str(error)) from error


def _list(obj: Mapping[str, object], key: str) -> list[object]:
    """Records from before there were such have none."""
    value = obj.get(key, [])
    if not isinstance(value, list):
        msg = f'"{key}" is {value!r}, not a list'
        raise RecordError(msg)
    return value


def _route(obj: object) -> Route:
    match obj:
        case [str(to), str(via)]:
            return Route(ip_network(to), ip_address(via) if via else None)
        case _:
            pass
    msg = f'"routes" has {obj!r}, not a network and a gateway'
    raise RecordError(msg)


def _host_port(obj: object) -> HostPort:
    match obj:
        case [str(name), int(port), int(to), str(host)] if name in Protocol.__members__:
            return HostPort(Protocol[name], port, to, ip_address(host) if host else None)
        case _:
            pass
    msg = f'"host_ports" has {obj!r}, not a protocol, two ports and an address'
    raise RecordError(msg)


def _limits(obj: object) -> Limits:
    """Of each direction a pair of rate and burst; records of before they were kept have none."""
    if not isinstance(obj, dict):
        msg = f'"limits" is {obj!r}, not an object'
        raise RecordError(msg)
    found: dict[str, Bandwidth] = {}
    for name in _DIRECTIONS:
        match obj.get(name):
            case None:
                pass
            case [int(rate), int() | None as burst] if rate > 0 and (burst is None or burst > 0):
                found[name] = Bandwidth(rate, burst)
            case other:
                msg = f'"limits" has {name} {other!r}, not a rate and a burst'
                raise RecordError(msg)
    return Limits(**found)


def _text(obj: Mapping[str, object], key: str) -> str:
    value = obj.get(key)
    if not isinstance(value, str):
        msg = f'"{key}" is {value!r}, not a string'
        raise RecordError(msg)
    return value


def _number(obj: Mapping[str, object], key: str) -> int:
    value = obj.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 65535:
        msg = f'"{key}" is {value!r}, not a number of 1..65535'
        raise RecordError(msg)
    return value
