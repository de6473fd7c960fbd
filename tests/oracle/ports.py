"""By which source port a backend may know a flow whose client it must not see.

The port is the node's to choose, out of a range that no client can foresee or use up; the choice
is the model's to learn. RFC 6056 section 3.2: ephemeral ports are those from 1024 on. A client's
port below is a privilege that some servers ask for (RFC 2623 section 2.3, NFS): it is kept.
"""

from __future__ import annotations

from tests.oracle.declared import Backend
from tests.oracle.flows import Flow, Memory, StandIn

SECOND_CHOICES_TRIED = 16
"""Ports below the first choice that a flow may ask for; then it is refused."""

LOOKED_AT = 12
"""Records that a new flow looks at, at least, before it is refused: all are established flows'."""


def wrong_port(
    memory: Memory, flow: Flow, backend: Backend, port: int, stand_in: StandIn, *, fresh: bool
) -> str | None:
    """What is wrong with a flow to `backend` by this port, or None.

    `fresh`: it was chosen just now; else others may have come and gone since. Whether it is another
    flow's is `Memory.bind`'s to say.
    """
    own = flow.ends[1]
    if not flow.wants_nat(backend):
        return None if port == own else f"the source port is {port}, not the client's own"
    if not flow.may_be_given(port, crowded=memory.crowded):
        return f"the source port is {port}, nobody's to give (the client's is {own})"
    if not fresh or port == own or not flow.is_privileged:
        return None
    # With its own port it needs a record as any flow does; where it meets none, another may do.
    room = not memory.crowded or memory.established(flow.version) < LOOKED_AT
    if room and _is_free(memory, flow, backend, stand_in):
        return f"the client's port {own} is free and was not kept, but {port} given"
    return None


def _is_free(memory: Memory, flow: Flow, backend: Backend, stand_in: StandIn) -> bool:
    """Whether the client's own port is free towards the backend, for certain."""
    key = memory.reply_tuple(flow, backend, flow.ends[1], stand_in)
    return memory.find_reply(key) is None and not memory.find_hidden(key, stand_in)


def may_be_refused(reason: str, memory: Memory, flow: Flow, stand_in: StandIn) -> str | None:
    """Whether a flow may be refused for want of a port, of a tuple of its own, or of room."""
    if reason == "DROP_CT_FULL":
        if not memory.crowded:
            return "DROP_CT_FULL, but the table is far from full"
        strong = memory.established(flow.version)
        return None if strong >= LOOKED_AT else f"DROP_CT_FULL, but {strong} flows are established"
    for backend in flow.candidates:
        if flow.is_direct(backend):
            continue
        if reason == "DROP_CONFLICT" and not flow.wants_nat(backend):
            key = memory.reply_tuple(flow, backend, flow.ends[1], stand_in)
            if memory.find_reply(key) is not None or memory.find_hidden(key, stand_in):
                return None
        if reason == "DROP_NO_PORT" and flow.wants_nat(backend) and memory.crowded:
            near = memory.second_choices(backend, stand_in(backend))
            if near >= SECOND_CHOICES_TRIED:
                return None
    return f"{reason}, but no living flow is in the way"
