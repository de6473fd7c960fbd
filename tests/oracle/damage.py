"""Frames that something went wrong with: bits flipped, lengths that lie, ends that are missing."""

from __future__ import annotations

from random import Random

LEAST = 14
"""Octets of an Ethernet header: no link delivers less."""

LENGTHS = (2, 3, 4, 5, 6, 9, 12, 32, 38, 39)
"""Where lengths and kinds are in headers that begin at octet 14."""


def damaged(octets: bytes, rng: Random) -> tuple[bytes, str]:
    """The frame after something went wrong, and what."""
    kind = rng.random()
    if kind < 0.35:
        return octets[: rng.randint(LEAST, len(octets))], "truncated"
    made, name = bytearray(octets), "bits flipped"
    if kind < 0.75:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            bit = rng.randrange(8 * min(len(made), 80))
            made[bit // 8] ^= 1 << bit % 8
    elif kind < 0.9:
        name, at = "field overwritten", 14 + rng.choice(LENGTHS)
        if at < len(made):
            made[at] = rng.choice((0, 1, 5, 0x45, 0x46, 0x4F, 0x60, rng.randrange(256)))
    elif kind < 0.97:
        name, at = "octets inserted", rng.randrange(len(made))
        made[at:at] = rng.randbytes(rng.randint(1, 8))
        del made[1600:]
    else:
        return bytes(made) + rng.randbytes(rng.randint(1, 40)), "lengthened"
    return bytes(made), name
