"""Limits that pods' annotations ask for, in the words of docs/qos.md; what cannot be is said.

Kube-OVN's `ingress_rate` and `egress_rate` are in Mbit/s, bursts in Mbit; `ingress` is what the
pod receives. Netem needs qdiscs, which DPDK's ports do not have. Copies of what a pod sends and
receives (`mirror`) are the node's to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from controller.translate.limits import SEND_BURST, SEND_RATE
from controller.translate.ovn import Problem
from dataplane.model.bandwidth import Bandwidth
from dataplane.model.names import MIRROR_KEY, RECEIVE_BURST_KEY, RECEIVE_RATE_KEY
from dataplane.plan.qos import refusal

MBIT = 1_000_000
NETEM = ("latency", "limit", "loss", "jitter")


@dataclass(frozen=True, slots=True)
class PortLimits:
    """What a port's row says of limits, beside its other options and external_ids."""

    options: Mapping[str, str]
    external_ids: Mapping[str, str]
    problems: tuple[Problem, ...] = ()


def port_limits(who: str, provider: str, said: Mapping[str, str]) -> PortLimits:
    """What the annotations of a pod say of the limits of its interface of this provider."""
    problems: list[Problem] = []
    found: dict[str, Bandwidth] = {}
    for direction in ("ingress", "egress"):
        rate, burst = f"{direction}_rate", f"{direction}_burst"
        wanted = _bandwidth(who, provider, said, rate, burst, problems)
        if wanted is not None:
            found[direction] = wanted
    for name in NETEM:
        if _key(provider, name) in said:
            cause = f"{_key(provider, name)} needs netem, which DPDK's ports do not have: void"
            problems.append(Problem(who, cause, "take it away, or use netem in the workload"))
    send, receive = found.get("egress"), found.get("ingress")
    ids = _texts(receive, RECEIVE_RATE_KEY, RECEIVE_BURST_KEY)
    if said.get(_key(provider, "mirror"), "").strip().lower() == "true":
        ids[MIRROR_KEY] = "true"
    return PortLimits(_texts(send, SEND_RATE, SEND_BURST), ids, tuple(problems))


def _key(provider: str, name: str) -> str:
    return f"{provider}.kubernetes.io/{name}"


def _texts(wanted: Bandwidth | None, rate: str, burst: str) -> dict[str, str]:
    if wanted is None:
        return {}
    found = {rate: str(wanted.rate)}
    if wanted.burst is not None:
        found[burst] = str(wanted.burst)
    return found


def _bandwidth(
    who: str,
    provider: str,
    said: Mapping[str, str],
    rate: str,
    burst: str,
    problems: list[Problem],
) -> Bandwidth | None:
    bits: dict[str, int | None] = {}
    for name in (rate, burst):
        text = said.get(_key(provider, name), "").strip()
        try:
            bits[name] = int(Decimal(text) * MBIT) if text else None
        except (InvalidOperation, ValueError, OverflowError):
            cause = f"{_key(provider, name)}: {text!r} is no number: no limit"
            problems.append(Problem(who, cause, "write Mbit/s, as in 100"))
            return None
    number = bits[rate]
    if not number:  # 0 is none, as for Kube-OVN
        return None
    wanted = Bandwidth(number, bits[burst] or None)
    if reason := refusal(wanted):
        cause = f"{_key(provider, rate)}: {reason}: no limit"
        problems.append(Problem(who, cause, "choose 0.064 to 400000 Mbit/s"))
        return None
    return wanted
