"""Who polls svc0, which a PMD thread sends replies to. Pure.

OVS sends by AF_XDP in batches, but veth asks for a poll after each frame, and softirqs run as each
has been handed on: a batch of 32 is polled 32 times, inside the PMD thread's system call. A thread
of NAPI that wakes for the first frame finds the whole batch instead, if it runs only where the
system call ends. So it has to be on the sending PMD thread's own core, to come before that thread,
which never sleeps, and the kernel must not preempt a system call (decision 0037).
"""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.model.config import Attach, NodeConfig, UplinkConfig, UplinkMode
from dataplane.model.rows import NapiThread

PMD_MASK = "pmd-cpu-mask"


def polling_threads(
    config: NodeConfig,
    uplink: UplinkConfig | None,
    theirs: Mapping[str, str],
    *,
    to_the_end: bool,
    with_service_link: bool,
) -> dict[str, NapiThread]:
    """svc0's row; none where its polls are better left to softirqs.

    With several PMD threads each polls what it sent: one thread's core would pay for all of them.

    Args:
        config: the node's.
        uplink: the one that carries services.
        theirs: what others set in Open_vSwitch.other_config.
        to_the_end: a system call keeps its CPU until it ends.
        with_service_link: svc0 is there, with its program.
    """
    if not (with_service_link and to_the_end and has_one_sender(config, uplink)):
        return {}
    if PMD_MASK in theirs:
        return {}
    return {config.service_link: NapiThread(config.dpdk.pmd[0])}


def has_one_sender(config: NodeConfig, uplink: UplinkConfig | None) -> bool:
    """All that the node's file says of it: a thread is not forbidden, and one core sends.

    What comes in by ports of the kernel's, vswitchd's main thread polls, and sends on from another
    core: there each send would take the PMD thread's.
    """
    return (
        config.services.poll_thread
        and len(config.dpdk.pmd) == 1
        and config.containers.attach is not Attach.PORT
        and uplink is not None
        and uplink.mode is UplinkMode.AF_XDP
    )
