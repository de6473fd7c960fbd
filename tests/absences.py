"""What a machine may lack without a test of ours turning red, and how a test says so.

A test skips with `pytest.skip(absent("netem"))`; every other reason to skip is a failure
(tests/conftest.py), because a test that does not run proves nothing.
"""

from __future__ import annotations

ABSENCES = frozenset(
    {
        "kprobes",
        "SCTP sockets",
        "netem",
        "kernel pktgen",
        "autogroup",
        "IPVS",
        "KVM guests",
        "spare PCI NIC",
        "IOMMU/vfio",
        "more than one NUMA node",
    }
)

_PREFIX = "absent: "


def absent(name: str) -> str:
    """The reason to skip a test for want of `name`.

    Raises:
        ValueError: `name` is not on the list, so nothing may be skipped for it.
    """
    if name not in ABSENCES:
        msg = f"{name!r} is no accepted absence; these are: {', '.join(sorted(ABSENCES))}"
        raise ValueError(msg)
    return _PREFIX + name


def is_accepted(reason: str) -> bool:
    """Whether a test may be skipped for this reason, as pytest reports it."""
    return reason.removeprefix("Skipped: ").removeprefix(_PREFIX) in ABSENCES
