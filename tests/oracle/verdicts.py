"""What a program made of a frame, and the plainest claim about it: that it left as it came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PASS, DROP, TX, REDIRECT = "PASS", "DROP", "TX", "REDIRECT"


@dataclass(frozen=True, slots=True)
class Seen:
    """Action, the name of the reason that was counted, and the frame afterwards."""

    action: str
    reason: str
    octets: bytes

    def __str__(self) -> str:
        return f"{self.action} {self.reason}"


def plain(seen: Seen, octets: bytes, action: str, *reasons: str) -> str | None:
    """The frame is as it was, and went this way for one of these reasons."""
    if seen.action != action or seen.reason not in reasons:
        return f"{seen}, not {action} {' or '.join(reasons)}"
    if seen.octets != octets:
        return f"{seen}, but the frame was changed: {difference(octets, seen.octets)}"
    return None


def exactly(seen: Seen, wanted: Iterable[bytes], action: str, reason: str) -> str | None:
    """The frame is one of these, and went this way for this reason."""
    if seen.action != action or seen.reason != reason:
        return f"{seen}, not {action} {reason}"
    forms = tuple(wanted)
    if seen.octets in forms:
        return None
    return f"{seen}, but {difference(forms[0], seen.octets)}"


def difference(wanted: bytes, got: bytes) -> str:
    """Where two frames differ, for people."""
    if len(wanted) != len(got):
        return f"{len(got)} octets instead of {len(wanted)}:\n  {got.hex()}\n  {wanted.hex()}"
    at = [i for i, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b]
    shown = ", ".join(f"[{i}] {got[i]:02x} instead of {wanted[i]:02x}" for i in at[:24])
    return f"{len(at)} octets differ: {shown}"
