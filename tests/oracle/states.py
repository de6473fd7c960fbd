"""How flows live and end: the states of the three protocols and their timeouts.

TCP: RFC 9293 section 3.3.2 as somebody in between sees it, timeouts by RFC 5382; UDP: RFC 4787
REQ-5, and for question and answer (RFC 1035 section 4.2.1) docs/services.md: until the client goes
on after an answer they live as briefly as a question. SCTP: RFC 9260 section 4.
"""

from __future__ import annotations

from enum import Enum

from tests.oracle.wire import ACK, FIN, RST, SYN, TCP, UDP

TICKS = 100
"""The model's clock: ticks of a second."""


class State(Enum):
    """A flow's state; the value is its timeout [s] and whether new flows may push it out."""

    SYN = ("syn", 30, True)
    SYN_ACK = ("syn-ack", 60, True)
    MIDDLE = ("middle", 120, True)
    ESTABLISHED = ("established", 7440, False)
    FIN = ("fin", 240, False)
    TIME_WAIT = ("time-wait", 30, True)
    RESET = ("reset", 10, True)
    UDP_ONE_WAY = ("udp one way", 30, True)
    UDP_ANSWERED = ("udp answered", 30, True)
    UDP = ("udp", 180, False)
    SCTP_NEW = ("sctp new", 30, True)
    SCTP = ("sctp", 7440, False)
    SCTP_SHUTDOWN = ("sctp shutdown", 30, True)

    def __init__(self, text: str, seconds: int, weak: bool) -> None:
        self.text, self.ticks, self.weak = text, seconds * TICKS, weak


CLIENT_CLOSED, BACKEND_CLOSED = 1, 2
CHUNK_INIT, CHUNK_INIT_ACK = 1, 2
ENDING_CHUNKS = (6, 7, 8, 14)
"""ABORT, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE."""

FRAGMENT_TICKS = 30 * TICKS
"""How long a datagram's later fragments may come after its first."""


def first(proto: int, flags: int) -> State:
    """The state of a flow that a packet of this kind opens."""
    if proto == UDP:
        return State.UDP_ONE_WAY
    if proto != TCP:
        return State.SCTP_NEW
    if flags & RST:
        return State.RESET
    return State.SYN if flags & (SYN | ACK) == SYN else State.MIDDLE


def begins_anew(proto: int, flags: int, state: State) -> bool:
    """Whether a client's packet begins another flow where one is over in all but time.

    Of a segment RST is looked at before SYN (RFC 9293 section 3.10.7).
    """
    if proto == TCP:
        over = state in (State.FIN, State.TIME_WAIT, State.RESET)
        return flags & (SYN | ACK | RST) == SYN and over
    return proto != UDP and flags == CHUNK_INIT and state is State.SCTP_SHUTDOWN


def after(
    proto: int, state: State, closed: int, flags: int, *, reply: bool, one_way: bool = False
) -> tuple[State, int]:
    """The state after a packet was forwarded, and who has closed.

    `one_way`: the replies take another way (DSR), so the client's word has to do.
    """
    if proto == UDP:
        return _udp(state, reply), closed
    if proto != TCP:
        return _sctp(state, flags, reply), closed
    if flags & RST:
        return State.RESET, closed
    if flags & SYN:
        return (State.SYN_ACK if reply and state is State.SYN else state), closed
    if flags & FIN:
        closed |= BACKEND_CLOSED if reply else CLIENT_CLOSED
        both = closed == CLIENT_CLOSED | BACKEND_CLOSED
        return (State.TIME_WAIT if both else State.FIN), closed
    if state is State.RESET:
        return State.MIDDLE, closed
    if reply:
        return (State.ESTABLISHED if state is State.MIDDLE else state), closed
    if state is State.SYN_ACK or (one_way and state not in (State.FIN, State.TIME_WAIT)):
        return State.ESTABLISHED, closed
    return state, closed


def _udp(state: State, reply: bool) -> State:
    if reply:
        return State.UDP_ANSWERED if state is State.UDP_ONE_WAY else state
    return State.UDP if state is State.UDP_ANSWERED else state


def _sctp(state: State, chunk: int, reply: bool) -> State:
    if chunk in ENDING_CHUNKS:
        return State.SCTP_SHUTDOWN
    if reply and chunk != CHUNK_INIT_ACK:
        return State.SCTP
    if state is State.SCTP_SHUTDOWN and not reply:
        return State.SCTP_NEW
    return state
