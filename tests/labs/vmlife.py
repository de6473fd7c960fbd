"""A virtual machine's life over pods and nodes: started, migrated, found again by its name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from dataplane.drivers import processes
from dataplane.drivers.processes import wait_until
from tests.labs import evidence, logical, traffic
from tests.labs.guestbank import pinged
from tests.labs.lab import PORT, VIP_VM
from tests.labs.machines import FAST_MIB_S, Machine, Memory
from tests.labs.twonodes import GUEST, TwoNodeLab
from tests.labs.workloads import POD_NAMESPACE, Workload

VM, ADDRESS = GUEST
IFACE_ID = f"{VM}.{POD_NAMESPACE}"
LIMIT_MBIT_S = 40
PING_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Cut:
    """What a migration looked like from outside.

    `downtime_ms` and `total_ms` are QEMU's own; `silence_ms` the longest time without an answer to
    a ping; `streams` the clients of TCP streams, as `client.py` tells them, by who they were.
    """

    downtime_ms: float
    total_ms: float
    silence_ms: float
    answered: int
    streams: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Life:
    """The machine: the launcher's pod that it is in, its process, the node (0 or 1) of both."""

    two: TwoNodeLab
    pod: Workload
    machine: Machine
    node: int
    processes: list[Machine] = field(default_factory=list)

    @classmethod
    def begun(
        cls,
        two: TwoNodeLab,
        node: int,
        suffix: str,
        *,
        memory: Memory = Memory.MEMFD,
        queues: int = 1,
        incoming: bool = False,
    ) -> Life:
        """A launcher's pod on a node, attached, and its process, which waits if `incoming`."""
        pod = Workload(
            f"virt-launcher-{VM}-{suffix}",
            f"{two.prefix}-{suffix}",
            two.nodes[node].cni_socket,
            "vhost-user",
        )
        bits = LIMIT_MBIT_S * 1_000_000
        limits = {"bandwidth": {"egressRate": bits, "egressBurst": bits}}
        done = pod.call("ADD", runtimeConfig=limits)
        assert done.code == 0, done
        pod.result = done.answer
        machine = Machine(
            VM, f"{VM}-{suffix}", pod.socket, pod.mac, PORT, two.dir, memory, queues,
            incoming=incoming,
        )  # fmt: skip
        machine.start()
        return cls(two, pod, machine, node, [machine])

    def end(self) -> None:
        """Every process of it."""
        for machine in self.processes:
            machine.stop()

    def migrate(self, suffix: str, *, rarp: bool, mib_s: int = FAST_MIB_S) -> Cut:
        """To the other node, under pings and two TCP streams.

        As KubeVirt does it: the target's pod and port first, then the state, then the source's end.
        With `rarp` the target's port is dead in OVN until a RARP comes from it.
        """
        two, target = self.two, 1 - self.node
        names = (two.nodes[self.node].name, two.nodes[target].name)
        logical.place(two.nb, IFACE_ID, names, rarp=rarp)
        arriving = Life.begun(two, target, suffix, incoming=True)
        self.processes.append(arriving.machine)
        try:
            with (
                pinged(two.container, [ADDRESS], PING_EVERY_S) as met,
                traffic.beside(two.container, "echo", ADDRESS, PORT, 0) as inside,
                traffic.beside(two.client, "echo", VIP_VM, 80, 0) as outside,
                evidence.behind(self.seen),
            ):
                assert (inside.server(), outside.server()) == (VM, VM)
                # What the silence is measured against: some answers, and a stream under way.
                time.sleep(1)
                told = self.machine.migrate(arriving.machine, mib_s=mib_s)
                wait_until(
                    lambda: self._answers(arriving.machine),
                    f"{VM} answers from {names[1]}",
                    timeout_s=60,
                )
                logical.place(two.nb, IFACE_ID, names[1:])
                wait_until(lambda: self.chassis() == names[1], f"{IFACE_ID} is bound to {names[1]}")
                self.machine.stop()
                self.pod.detach()
                time.sleep(2)
        finally:
            self.pod, self.machine, self.node = arriving.pod, arriving.machine, target
        return Cut(
            told["downtime"],
            told["total"],
            met[0].longest_s * 1000,
            met[0].answered,
            {"container": inside.result, "client": outside.result},
        )

    def _answers(self, machine: Machine) -> bool:
        assert processes.running_pid(machine.daemon), f"{machine.key}: QEMU ended"
        return traffic.ping(self.two.container, ADDRESS, 1)[0] == 1

    def chassis(self) -> str:
        """The chassis that its port is bound to; "" while it is to several, or none."""
        bound = logical.sbctl(
            self._southbound, "--bare", "--columns=chassis,additional_chassis",
            "find", "Port_Binding", f"logical_port={IFACE_ID}",
        ).split()  # fmt: skip
        if len(bound) != 1:
            return ""
        return (
            logical.sbctl(self._southbound, "get", "Chassis", bound[0], "name").strip().strip('"')
        )

    @property
    def _southbound(self) -> str:
        return logical.socket_remote(self.two.nodes[0].rundir).replace("nb.sock", "sb.sock")

    def seen(self) -> list[evidence.Part]:
        """What both nodes and both of the machine's latest processes say of it."""
        return [
            part
            for found in (
                evidence.of_memory(),
                *(evidence.of_port(node, self._southbound, IFACE_ID) for node in self.two.nodes),
                *(evidence.of_machine(machine) for machine in self.processes[-2:]),
            )
            for part in found
        ]
