"""How a new flow picks its backend: weighted rendezvous hashing, in the programs' own numbers.

Every member of a set scores the flow's slot, and the best score wins (Thaler and Ravishankar,
"Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking, 1998). So a
member that goes moves its own flows only, and a table of all slots gives exactly what the list
gives: growing from one to the other reshuffles nothing. `bpf/include/pick.h` is the same in C,
and tests/bpf compares the two.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Literal

import numpy as np

from bpf.abi import Limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B1
_FILTER_FACTOR = 0x9E3779B97F4A7C15
_NEXT_PORT = 37
_FOLD_FACTOR = 0xC2B2AE3D27D4EB4F
_LOG_BITS = 8

LOG2 = tuple(
    round(65536 * math.log2(1 + (i + 0.5) / (1 << _LOG_BITS))) for i in range(1 << _LOG_BITS)
)
"""65536 * log2 of 1.m, by the first eight bits of m: the table of pick.h."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """One member of a set: `key` orders members and scores slots; see `member_key`."""

    key: int
    backend_id: int
    weight: int = 1


def member_key(target: str) -> int:
    """A backend's key, the same on every node: from its text, not from its number here."""
    return int.from_bytes(blake2b(target.encode(), digest_size=4).digest(), "big")


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _WORD


def hash_words(words: Sequence[int], seed: int) -> int:
    """Bob Jenkins' lookup3, hashword() (public domain), over integers of 32 bits."""
    a = b = c = (0xDEADBEEF + (len(words) << 2) + seed) & _WORD
    at = 0
    while len(words) - at > 3:
        a, b, c = ((x + w) & _WORD for x, w in zip((a, b, c), words[at : at + 3], strict=True))
        for by_a, by_b, by_c in ((4, 6, 8), (16, 19, 4)):
            a = ((a - c) & _WORD) ^ _rotate(c, by_a)
            c = (c + b) & _WORD
            b = ((b - a) & _WORD) ^ _rotate(a, by_b)
            a = (a + c) & _WORD
            c = ((c - b) & _WORD) ^ _rotate(b, by_c)
            b = (b + a) & _WORD
        at += 3
    rest = [*words[at:], 0, 0, 0][:3]
    a, b, c = ((x + w) & _WORD for x, w in zip((a, b, c), rest, strict=True))
    c = ((c ^ b) - _rotate(b, 14)) & _WORD
    a = ((a ^ c) - _rotate(c, 11)) & _WORD
    b = ((b ^ a) - _rotate(a, 25)) & _WORD
    c = ((c ^ b) - _rotate(b, 16)) & _WORD
    a = ((a ^ c) - _rotate(c, 4)) & _WORD
    b = ((b ^ a) - _rotate(a, 14)) & _WORD
    return ((c ^ b) - _rotate(b, 24)) & _WORD


def _words(address: IPv4Address | IPv6Address) -> list[int]:
    packed = address.packed
    return [int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4)]


def flow_slot(
    client: IPv4Address | IPv6Address,
    client_port: int,
    vip: IPv4Address | IPv6Address,
    vip_port: int,
    protocol: int,
    seed: int = Limit.PICK_SEED,
) -> int:
    """The slot, 0..PICK_SLOTS-1, of a new flow (ports in host order).

    Of a service with affinity it is that of the client alone: VIP and both ports count as 0.
    """
    words = [*_words(client), *_words(vip), client_port << 16 | vip_port, protocol]
    return hash_words(words, seed) >> 16


def score(slot: int, key: int) -> int:
    """A member's score for a slot, 32 bits: the finalizer of MurmurHash3 (public domain)."""
    h = (slot * _GOLDEN & _WORD) ^ key
    h ^= h >> 16
    h = h * 0x85EBCA6B & _WORD
    h ^= h >> 13
    h = h * 0xC2B2AE35 & _WORD
    return h ^ h >> 16


def _distance(value: int) -> int:
    """-log2 of (score + 1) / 2^32, times 65536: an exponential variable (smaller is better)."""
    value |= 1
    zeros = 32 - value.bit_length()
    mantissa = (value << (zeros + 1) & _WORD) >> (32 - _LOG_BITS)
    return ((zeros + 1) << 16) - LOG2[mantissa]


def pick(slot: int, members: Sequence[Candidate]) -> int:
    """The backend id that a slot goes to; 0 without members. `members` are ordered by key.

    With equal weights the highest score wins, the first of equals; else the smallest
    distance/weight, compared by cross multiplication, and of equal ones the highest score: so two
    members of one weight are in one order whatever the others weigh.
    """
    if not members:
        return 0
    if all(member.weight == members[0].weight for member in members):
        return max(members, key=lambda member: score(slot, member.key)).backend_id
    best = members[0]
    highest = score(slot, best.key)
    for member in members[1:]:
        value = score(slot, member.key)
        mine, least = _distance(value) * best.weight, _distance(highest) * member.weight
        if mine < least or (mine == least and value > highest):
            best, highest = member, value
    return best.backend_id


def table(members: Sequence[Candidate]) -> NDArray[np.uint32]:
    """`pick` of every slot: uint32[PICK_SLOTS] backend ids."""
    slots = np.arange(Limit.PICK_SLOTS, dtype=np.uint32) * np.uint32(_GOLDEN)
    owner = np.zeros(Limit.PICK_SLOTS, dtype=np.uint32)
    weighted = len({member.weight for member in members}) > 1
    logs = np.array(LOG2, dtype=np.int64)
    best: NDArray[np.int64] | None = None
    weight = np.ones(Limit.PICK_SLOTS, dtype=np.int64)
    highest = np.zeros(Limit.PICK_SLOTS, dtype=np.uint32)
    for member in members:
        h = slots ^ np.uint32(member.key)
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
        if weighted:
            value = h.astype(np.int64) | 1
            exponent = np.frexp(value.astype(np.float64))[1].astype(np.int64)
            zeros = 32 - exponent
            mantissa = (value << (zeros + 1) & _WORD) >> (32 - _LOG_BITS)
            rank = ((zeros + 1) << 16) - logs[mantissa]
            if best is None:
                wins = np.ones(len(slots), bool)
            else:
                mine, least = rank * weight, best * member.weight
                wins = (mine < least) | ((mine == least) & (h > highest))
            highest = h if best is None else np.where(wins, h, highest)
        else:
            rank = h.astype(np.int64)
            wins = np.ones(len(slots), bool) if best is None else rank > best
        best = rank if best is None else np.where(wins, rank, best)
        weight = np.where(wins, member.weight, weight)
        owner = np.where(wins, np.uint32(member.backend_id), owner)
    return owner


def filter_bit(
    address: bytes, port: int, protocol: int, order: Literal["little", "big"] = sys.byteorder
) -> int:
    """The bit of vip_bits that a VIP sets; `address` has 4 or 16 octets.

    With port and protocol 0: the bit of address_bits that a known address sets.

    Neighbours by address or port share a cache line (hash.h). The programs fold an address of IPv6
    as it lies in the packet, so it depends on the machine's byte order, and the map never leaves
    the machine.
    """
    mask = (1 << 64) - 1
    if len(address) == 4:
        whole = int.from_bytes(address, "big")
    else:
        high, low = int.from_bytes(address[:8], order), int.from_bytes(address[8:], order)
        folded = (high * _FOLD_FACTOR & mask) ^ low
        whole = int.from_bytes(folded.to_bytes(8, order), "big")
    block, blocks = Limit.FILTER_BLOCK_BITS, Limit.FILTER_BITS // Limit.FILTER_BLOCK_BITS
    far = (whole // block) ^ (port // block) << 32 ^ protocol << 48
    number = (far * _FILTER_FACTOR & mask) >> (64 - (blocks.bit_length() - 1))
    return number * block | (whole + port * _NEXT_PORT) % block
