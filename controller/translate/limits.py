"""What OVN's rows hold a logical switch port to, and which of its wishes cannot be. Pure.

`options:qos_max_rate` and `qos_burst` are OVN's own (ovn-nb(5), bits a second and bits) for what
the workload sends; ovn-controller turns them into linux-htb queues, which no DPDK port has. For
what it receives OVN has no key: ours are in external_ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from controller.translate.ovn import LogicalSwitchPort, Problem
from dataplane.model.bandwidth import UNLIMITED, Bandwidth, Limits
from dataplane.model.names import MIRROR_KEY, RECEIVE_BURST_KEY, RECEIVE_RATE_KEY
from dataplane.plan.qos import MAX_BURST_MS, MAX_RATE, MIN_RATE, refusal

SEND_RATE, SEND_BURST = "qos_max_rate", "qos_burst"
GUARANTEE, QUEUE = "qos_min_rate", "qdisc_queue_id"


def limits_of(ports: Iterable[LogicalSwitchPort]) -> tuple[dict[str, Limits], tuple[Problem, ...]]:
    """The limits of those ports that have any, by name; and what is wrong with any of them."""
    found: dict[str, Limits] = {}
    problems: list[Problem] = []
    for port in ports:
        limits = Limits(
            _one(port, "options", port.options, SEND_RATE, SEND_BURST, problems),
            _one(
                port, "external_ids", port.external_ids, RECEIVE_RATE_KEY, RECEIVE_BURST_KEY,
                problems,
            ),
        )  # fmt: skip
        if limits != UNLIMITED:
            found[port.name] = limits
        problems += _unsupported(port)
    return found, tuple(sorted(problems))


def mirrored_of(ports: Iterable[LogicalSwitchPort]) -> frozenset[str]:
    """The names of those ports of which copies are wanted."""
    return frozenset(port.name for port in ports if port.external_ids.get(MIRROR_KEY) == "true")


def _one(
    port: LogicalSwitchPort,
    column: str,
    texts: Mapping[str, str],
    rate_key: str,
    burst_key: str,
    problems: list[Problem],
) -> Bandwidth | None:
    if rate_key not in texts:
        if burst_key in texts:
            problems.append(
                _problem(port, f"{column}:{burst_key} without {rate_key}", f"add {rate_key}")
            )
        return None
    numbers: dict[str, int] = {}
    for key in (rate_key, burst_key):
        text = texts.get(key, "").strip()
        # Longer ones are no rates, and Python refuses to read the longest.
        if key in texts and not (text.isascii() and text.isdecimal() and len(text) <= 18):
            cause = f"{column}:{key}={texts[key]!r} is not a whole number of bits"
            problems.append(_problem(port, f"{cause}: no limit", "write digits alone"))
            return None
        if key in texts:
            numbers[key] = int(text)
    if numbers[rate_key] == 0:
        return None  # as OVN has it
    wanted = Bandwidth(numbers[rate_key], numbers.get(burst_key) or None)
    if reason := refusal(wanted):
        cause = f"{column}:{rate_key}: {reason}; no limit"
        problems.append(_problem(port, cause, f"choose a rate of {MIN_RATE}..{MAX_RATE} bit/s"))
        return None
    if wanted.burst is not None and wanted.burst * 1000 > wanted.rate * MAX_BURST_MS:
        cause = f"{column}:{burst_key}={wanted.burst} is more than {MAX_BURST_MS} ms of the rate"
        step = f"{MAX_BURST_MS} ms are used; lower it, or remove it"
        problems.append(_problem(port, cause, step))
    return wanted


def _unsupported(port: LogicalSwitchPort) -> Iterator[Problem]:
    for key in (GUARANTEE, QUEUE):
        if port.options.get(key, "0") not in ("", "0"):
            yield _problem(
                port,
                f"options:{key} needs queues of linux-htb, which DPDK ports do not have: void",
                f"remove it; a limit ({SEND_RATE}) works",
            )


def _problem(port: LogicalSwitchPort, cause: str, step: str) -> Problem:
    return Problem(f"logical port {port.name}", cause, step)
