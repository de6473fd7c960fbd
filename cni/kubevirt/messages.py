"""The messages of KubeVirt's hook protocol, in protobuf's wire form.

They have a dozen fields of three types, so the codec is written out here and neither protoc nor
the protobuf library is in the sidecar's image. Numbers and types of the fields are those of
KubeVirt's pkg/hooks/info and pkg/hooks/v1alpha2, v1alpha3; the wire form is
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

INFO_SERVICE = "kubevirt.hooks.info.Info"
CALLBACK_SERVICES = {
    version: f"kubevirt.hooks.{version}.Callbacks" for version in ("v1alpha3", "v1alpha2")
}
"""By the version that Info announces, newest first."""

ON_DEFINE_DOMAIN = "OnDefineDomain"
PRE_CLOUD_INIT_ISO = "PreCloudInitIso"
SHUTDOWN = "Shutdown"

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_VARINT_SIZE = 10
_MASK64 = (1 << 64) - 1


class MessageError(ValueError):
    """The bytes are no message of protobuf."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """A point at which the hook wants to be called; the highest priority is called first."""

    name: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class InfoResult:
    """What a hook says of itself."""

    name: str
    hook_points: tuple[HookPoint, ...]
    versions: tuple[str, ...]

    def encode(self) -> bytes:
        """The message InfoResult."""
        return b"".join(
            (
                delimited(1, self.name.encode()),
                *(
                    element(3, delimited(1, point.name.encode()) + _int32(2, point.priority))
                    for point in self.hook_points
                ),
                *(element(4, version.encode()) for version in self.versions),
            )
        )


@dataclass(frozen=True, slots=True)
class DomainParams:
    """OnDefineDomain's argument: the domain's XML, and the VMI as JSON."""

    domain_xml: bytes = b""
    vmi: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> DomainParams:
        """The message OnDefineDomainParams.

        Raises:
            MessageError: the bytes are no such message.
        """
        found = dict(bytes_fields(data))
        return cls(found.get(1, b""), found.get(2, b""))


def domain_result(domain_xml: bytes) -> bytes:
    """The message OnDefineDomainResult."""
    return delimited(1, domain_xml)


@dataclass(frozen=True, slots=True)
class CloudInitParams:
    """PreCloudInitIso's argument: the data as JSON in the old form and in the new one."""

    no_cloud_source: bytes = b""
    cloud_init_data: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> CloudInitParams:
        """The message PreCloudInitIsoParams.

        Raises:
            MessageError: the bytes are no such message.
        """
        found = dict(bytes_fields(data))
        return cls(found.get(1, b""), found.get(3, b""))

    def encode_result(self) -> bytes:
        """The message PreCloudInitIsoResult that changes nothing."""
        return delimited(1, self.no_cloud_source) + delimited(3, self.cloud_init_data)


def delimited(field: int, value: bytes) -> bytes:
    """A field of bytes, a string or a message; proto3 leaves an empty one out."""
    return element(field, value) if value else b""


def element(field: int, value: bytes) -> bytes:
    """One element of a repeated field of bytes, strings or messages; an empty one counts, too."""
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _int32(field: int, value: int) -> bytes:
    """A field of int32; a negative one is extended to 64 bits."""
    return _varint(field << 3 | _VARINT) + _varint(value & _MASK64) if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_fields(data: bytes) -> list[tuple[int, bytes]]:
    """Number and value of each field of bytes; what else there is comes from a newer peer.

    Raises:
        MessageError: the bytes are no message.
    """
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, wire_type = key >> 3, key & 7
        if not field:
            msg = "a message of the hook protocol has a field of number 0"
            raise MessageError(msg)
        match wire_type:
            case 0:
                _, at = _read_varint(data, at)
                continue
            case 2:
                size, at = _read_varint(data, at)
            case 1 | 5:
                size = 8 if wire_type == _FIXED64 else 4
            case _:
                msg = f"a message of the hook protocol has wire type {wire_type} in field {field}"
                raise MessageError(msg)
        if size > len(data) - at:
            msg = f"a message of the hook protocol ends within field {field}"
            raise MessageError(msg)
        if wire_type == _BYTES:
            found.append((field, data[at : at + size]))
        at += size
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + _VARINT_SIZE]):
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value & _MASK64, at + place + 1
    msg = "a message of the hook protocol ends within a number, or has one of over 64 bits"
    raise MessageError(msg)
