"""The lab of `millrace perf control` as the harness has it: changes, ports, the daemon's starts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataplane.drivers import processes
from dataplane.model.addr import mac_of_address
from perf import control
from perf.controllab import ControlLab, port_address
from perf.harness.catalog import Scenario
from perf.harness.labs import Bench, Sample

PORTS, WARM_CHANGES = 100, 3
_WAIT_S = 60
_SPARE = 200
"""Of the first switch's network, the first host that no port of the lab has."""


class ControlBench:
    """A node daemon beside a cluster's databases."""

    def __init__(self, lab: ControlLab) -> None:
        self._lab, self._done, self._warm = lab, 0, False
        self._numbers = itertools.count()

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """One service gets other backends, one port comes, or the daemon starts once."""
        del number, seconds
        if scenario.way == "port":
            return self._port()
        if scenario.way in ("start", "restart"):
            self._warm = False
            done = control.start_node(self._lab, forget=scenario.way == "start")
            counters = {"writes": float(done.writes), "rss_mib": done.rss_mib}
            return Sample({"start_s": done.seconds, "cpu_s": done.cpu_s}, counters)
        if not self._warm:
            # The first change finds the daemon still busy with its start.
            self._changes(WARM_CHANGES)
            self._warm = True
        (change,) = self._changes(1)
        counters = {"after_commit_ms": change.after_commit_ms}
        return Sample({"map_ms": change.map_ms, "northd_ms": change.northd_ms}, counters)

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """The size of the cluster."""
        del scenario
        return {"ports": self._lab.ports, "services": self._lab.services}

    def _changes(self, count: int) -> tuple[control.Change, ...]:
        done = control.changes_of(self._lab, count, self._done)
        self._done += count
        return done

    def _port(self) -> Sample:
        """From the northbound row of a port, and its interface, until OVN has installed it."""
        lab, name = self._lab, f"bench{next(self._numbers)}"
        address = port_address(_SPARE) if lab.ports > _SPARE else port_address(0) + _SPARE
        both = f"{mac_of_address(address)} {address}"
        nbctl = ["ovn-nbctl", f"--db=unix:{lab.rundir}/nb.sock", f"--timeout={_WAIT_S}"]
        vsctl = ["ovs-vsctl", f"--db=unix:{lab.rundir}/db.sock", f"--timeout={_WAIT_S}"]
        began = time.monotonic()
        processes.run([*nbctl, "lsp-add", "sw0", name, "--", "lsp-set-addresses", name, both])
        processes.run(
            [*vsctl, "add-port", "br-int", name, "--", "set", "Interface", name, "type=internal",
             f"external_ids:iface-id={name}"]
        )  # fmt: skip
        made = time.monotonic()
        processes.run(
            [*vsctl, "wait-until", "Interface", name, "external_ids:ovn-installed=true"],
            timeout_s=2 * _WAIT_S,
        )
        took = time.monotonic() - began
        processes.run([*vsctl, "del-port", "br-int", name])
        processes.run([*nbctl, "lsp-del", name])
        return Sample({"installed_ms": took * 1e3}, {"until_interface_ms": (made - began) * 1e3})


@contextmanager
def built() -> Iterator[Bench]:
    """The lab, with its daemon up; removed at the end whatever happened."""
    lab = ControlLab(PORTS)
    try:
        lab.build()
        with lab.nb() as nb:
            control.start_central(lab, nb)
        processes.stop(lab.central)
        lab.sync()
        control.start_node(lab)
        yield ControlBench(lab)
    finally:
        lab.remove()


def sweep() -> None:
    """Remove what a killed run has left."""
    ControlLab(PORTS).remove()
