"""What an interface asks for: subnets, addresses, a pool, a MAC. Pure: from annotations to a value.

Source of the keys: Kube-OVN's `<provider>.kubernetes.io/...` annotations, of which
`ovn.kubernetes.io` is the primary interface's; `kube-ovn/ipv4` and `kube-ovn/mac` are what
manifests of older days carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from controller.ipam.errors import FamilyError, RangeTextError
from dataplane.model.addr import IPAddress, Mac

PRIMARY = "ovn"
"""The provider of a workload's first interface."""

_OLDER = {"ip_address": "kube-ovn/ipv4", "mac_address": "kube-ovn/mac"}
_FAMILIES = {"": None, "ipv4": 4, "ipv6": 6, "dual": None}

Addresses = tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """What one interface asks for; the less, the more is chosen for it.

    `subnets`: the first of them that can give all that is asked for. `choices`: the first of these
    (each with one address of a family, or of both) that is free; none: any address. `version`: 4 or
    6 for one family alone of a subnet that has both.
    """

    subnets: tuple[str, ...]
    pool: str = ""
    choices: tuple[Addresses, ...] = ()
    version: int | None = None
    mac: Mac | None = None


def want_of(
    annotations: Mapping[str, str],
    subnets: tuple[str, ...],
    provider: str = PRIMARY,
    ordinal: int | None = None,
    shared: str = "",
    interface: str = "",
) -> Want:
    """What a pod's annotations ask for.

    Args:
        annotations: the pod's.
        subnets: which subnets its namespace has, if it names none itself.
        provider: the interface's.
        shared: its definition's, where several interfaces of the pod are of it and each has a
            provider of its own.
        interface: what the pod calls it, if it is a further one.
        ordinal: the pod's number in its StatefulSet: it takes that entry of a list of addresses.

    Raises:
        RangeTextError: an address or a MAC cannot be read, or a list is too short.
        FamilyError: ip_family is none.
    """
    read = _Reader(annotations, provider, shared or provider, interface)
    named = tuple(part.strip() for part in read("logical_switch").split(",") if part.strip())
    family = read("ip_family").lower()
    if family not in _FAMILIES:
        msg = f"{read.key('ip_family')} is {family!r}"
        raise FamilyError(msg, "say ipv4, ipv6 or dual")
    pool, listed = read("ip_pool"), ""
    if any(mark in pool for mark in ",;") or _is_address(pool):
        pool, listed = "", pool
    choices = tuple(_addresses(entry, read.key("ip_pool")) for entry in _entries(listed))
    if ordinal is not None and choices:
        if ordinal >= len(choices):
            key, count = read.key("ip_pool"), len(choices)
            msg = f"{key} has {count} entries, and this pod is number {ordinal}"
            raise RangeTextError(msg, "add addresses or take replicas away")
        choices = (choices[ordinal],)
    if fixed := read("ip_address"):
        choices = (_addresses(fixed, read.key("ip_address")),)
    version = _FAMILIES[family]
    others = [one for choice in choices for one in choice if version not in (None, one.version)]
    if others:
        asked = read.key("ip_address" if fixed else "ip_pool")
        msg = f"{read.key('ip_family')} is {family}, and {asked} has {others[0]}"
        raise FamilyError(msg, "write addresses of that family, or take one of the two away")
    mac = None
    if text := read("mac_address"):
        try:
            mac = Mac(text)
        except ValueError as error:
            msg = f"{read.key('mac_address')}: {error}"
            raise RangeTextError(msg, "mend it, or leave it out") from error
        if mac.packed()[0] & 1:
            msg = f"{read.key('mac_address')}: {mac} is a group address"
            raise RangeTextError(msg, "clear the lowest bit of its first octet")
    return Want(named or subnets, pool, choices, version, mac)


class _Reader:
    """A provider's annotations, each under its present, its interface's or its older name."""

    def __init__(
        self, annotations: Mapping[str, str], provider: str, shared: str, interface: str
    ) -> None:
        self._annotations = annotations
        self._provider = provider
        self._shared = shared
        self._interface = interface

    def _names(self, name: str) -> Iterator[str]:
        yield f"{self._provider}.kubernetes.io/{name}"
        if self._interface:
            # Kube-OVN's pages leave the "ovn" out there.
            for base in dict.fromkeys((self._shared.removesuffix(f".{PRIMARY}"), self._shared)):
                yield f"{base}.kubernetes.io/{name}.{self._interface}"
        # Several interfaces can be of one subnet or pool, and not have one address.
        if self._shared != self._provider and name not in _OLDER:
            yield f"{self._shared}.kubernetes.io/{name}"

    def key(self, name: str) -> str:
        """What the annotation is called."""
        names = tuple(self._names(name))
        key = next((one for one in names if one in self._annotations), names[0])
        older = _OLDER.get(name, "")
        if key not in self._annotations and older in self._annotations:
            return older if self._provider == PRIMARY else key
        return key

    def __call__(self, name: str) -> str:
        # Kube-OVN's pages have remarks behind such values; YAML keeps them as part of the text.
        return self._annotations.get(self.key(name), "").partition(" //")[0].strip()


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _entries(text: str) -> list[str]:
    """The alternatives of a list: by semicolons if there are any, else every address is one."""
    words = text.split(";") if ";" in text else _by_family(text)
    return [word.strip() for word in words if word.strip()]


def _by_family(text: str) -> list[str]:
    """One alternative with two families ("v4,v6"), or several with one ("v4,v4")."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    families = [":" in word for word in words]
    return [",".join(words)] if families == [False, True] else words


def _addresses(text: str, what: str) -> Addresses:
    found: list[IPAddress] = []
    for word in (part.strip() for part in text.split(",")):
        try:
            found.append(ip_address(word))
        except ValueError as error:
            msg = f"{what}: {word!r} is no address"
            raise RangeTextError(msg, "write 10.16.0.9, or both families with a comma") from error
    if len({address.version for address in found}) != len(found):
        msg = f"{what}: {text!r} has two addresses of one family"
        raise RangeTextError(msg, "an interface has one of each")
    return tuple(sorted(found, key=lambda address: address.version))
