"""What each PMD thread's queues cost, out of vswitchd's own answers, for `plan.rebalance`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from dataplane.drivers.ovstext import PmdThread
from dataplane.plan.rebalance import Core, Hold, QueueLoad


def cores_of(threads: Iterable[PmdThread]) -> tuple[Core, ...]:
    """The threads' CPUs and NUMA nodes."""
    return tuple(Core(thread.cpu, thread.numa) for thread in threads)


def queue_loads(
    threads: Iterable[PmdThread],
    ours: Collection[str],
    pins: Mapping[str, Mapping[int, int]],
    foreign: Mapping[str, Mapping[int, int]],
) -> tuple[QueueLoad, ...]:
    """Every queue that a thread polls, as `dpif-netdev/pmd-rxq-show` has it.

    A queue that is disabled, or that OVS has no figures of yet, costs nothing.

    Args:
        threads: as parsed by `dataplane.drivers.ovstext.pmd_threads`.
        ours: interfaces whose queues we may pin.
        pins: by us, by interface and queue.
        foreign: by somebody else.
    """
    return tuple(
        QueueLoad(
            rxq.interface,
            rxq.queue,
            thread.cpu,
            float(rxq.usage or 0) if rxq.enabled else 0.0,
            _hold(rxq.interface, rxq.queue, ours, foreign),
            pinned=rxq.queue in pins.get(rxq.interface, {}),
        )
        for thread in threads
        for rxq in thread.rxqs
    )


def _hold(
    interface: str, queue: int, ours: Collection[str], foreign: Mapping[str, Mapping[int, int]]
) -> Hold:
    if interface in foreign:
        # One key holds all queues of a port, so the rest of it is not ours either.
        return Hold.PINNED if queue in foreign[interface] else Hold.LOOSE
    return Hold.OURS if interface in ours else Hold.LOOSE
