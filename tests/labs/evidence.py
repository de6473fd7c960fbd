"""What decided, put behind an error: by the time that somebody looks, the lab is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataplane.drivers import processes
from tests.labs import logical
from tests.labs.labnode import LabNode
from tests.labs.machines import Machine

LOG_LINES = 25
SHELL_S = 10.0
"""How long a guest that may be dead is waited for."""

DAEMONS = ("ovs-vswitchd", "ovn-controller", "db", "node")
INTERFACE = "name,ofport,mtu,link_state,error,status,statistics,external_ids"
INSIDE = (
    "uptime; ip -s address show dev eth0; ip neigh; grep virtio /proc/interrupts; dmesg | tail -15"
)
PORT_STATES = ",".join(
    (
        "chassis",
        "additional_chassis",
        "requested_chassis",
        "requested_additional_chassis",
        "up",
        "options",
    )
)

Part = tuple[str, Callable[[], object]]


@contextmanager
def behind(*looks: Callable[[], Sequence[Part]]) -> Iterator[None]:
    """Whatever goes wrong in the block is told with what was seen right after it."""
    try:
        yield
    except Exception as error:
        for look in looks:
            error.add_note("\n".join(_told(part) for part in look()))
        raise


def _told(part: Part) -> str:
    name, look = part
    try:
        found = str(look()).strip()
    except Exception as error:  # what cannot be seen is a finding too
        found = f"(not seen: {type(error).__name__}: {error})"
    return f"--- {name}\n{found}"


def of_port(node: LabNode, southbound: str, iface_id: str) -> list[Part]:
    """A port on a node: its daemons and their logs' ends, its rows there and in OVN."""

    def pids() -> str:
        return ", ".join(f"{name}: {node.pid(name)}" for name in DAEMONS)

    def pools() -> str:
        lines = node.appctl("netdev-dpdk/get-mempool-info").splitlines()
        return "\n".join(line for line in lines if "mempool" in line or "size=" in line)

    def end_of(name: str) -> Part:
        log = node.rundir / f"{name}.log"
        return f"{log}", lambda: processes.tail(log, LOG_LINES)

    return [
        (f"{node.name}: pids", pids),
        (
            f"{node.name}: ports",
            lambda: [one for one in node.ask("ports")["ports"] if one["iface_id"] == iface_id],
        ),
        (
            f"{node.name}: Interface",
            lambda: node.vsctl(
                f"--columns={INTERFACE}", "find", "Interface", f"external_ids:iface-id={iface_id}"
            ),
        ),
        (f"{node.name}: memory", pools),
        (f"{node.name}: queues", lambda: node.appctl("dpif-netdev/pmd-rxq-show")),
        (f"{node.name}: flows", lambda: "\n".join(node.megaflows()[:LOG_LINES])),
        (
            f"{node.name}: Port_Binding",
            lambda: logical.sbctl(
                southbound, f"--columns={PORT_STATES}", "find", "Port_Binding",
                f"logical_port={iface_id}",
            ),
        ),
        end_of("ovs-vswitchd"),
        end_of("ovn-controller"),
        end_of("node"),
    ]  # fmt: skip


def of_memory() -> list[Part]:
    """The huge pages that all labs and guests share."""

    def pages() -> str:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return "\n".join(line for line in lines if line.startswith("HugePages"))

    return [("huge pages", pages)]


def of_machine(machine: Machine) -> list[Part]:
    """One process of a machine: QEMU's own words, its console's end, and what the guest says."""

    def asked(command: str) -> Part:
        def look() -> object:
            if processes.running_pid(machine.daemon) is None:
                return "QEMU does not run"
            with machine.monitor() as monitor:
                return monitor.ask(command)

        return f"{machine.key}: {command}", look

    return [
        (f"{machine.key}: pid", lambda: processes.running_pid(machine.daemon)),
        asked("query-status"),
        asked("query-migrate"),
        (f"{machine.key}: QEMU", lambda: processes.tail(machine.log, LOG_LINES)),
        (f"{machine.key}: console", lambda: processes.tail(machine.console, LOG_LINES)),
        (f"{machine.key}: inside", lambda: machine.run(INSIDE, timeout_s=SHELL_S)),
    ]
