"""The doctor on a node that is well, and after it was hurt; a scrape of that node."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from controller.node_metrics import PAUSE_MOST_S
from dataplane.drivers.preemption import Preemption, preemption
from dataplane.drivers.processes import wait_until
from tests.labs.lab import QEMU, TESTPMD, Lab

Millrace = Callable[..., subprocess.CompletedProcess[str]]

A_POLL_S = PAUSE_MOST_S + 10
"""How old what a scrape says may be: a vswitchd that once answered late is left alone so long."""

GET = (
    "import urllib.request as u;"
    "print(u.urlopen('http://127.0.0.1:9478/metrics', timeout=30).read().decode())"
)


def findings(lab: Lab, millrace: Millrace) -> tuple[int, dict[str, dict[str, str]]]:
    said = millrace("doctor", "--json", "--config", str(lab.node.config_path))
    return said.returncode, {row["name"]: row for row in json.loads(said.stdout)}


def scraped(lab: Lab) -> dict[str, Metric]:
    text = lab.namespace.run(sys.executable, "-c", GET)
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_nothing_fails_on_a_node_that_is_well(lab: Lab, millrace: Millrace) -> None:
    code, found = findings(lab, millrace)
    for name, row in found.items():
        print(f"{name:20} {row['state']:5} {row['cause']}")
    assert {name: row["cause"] for name, row in found.items() if row["state"] == "fail"} == {}
    assert code == 0
    # Nobody isolates CPUs on a machine that tests run on.
    assert found["CPU isolation"]["state"] == "warn"
    assert "isolcpus=" in found["CPU isolation"]["cause"]


def test_what_somebody_opened_up_is_found(lab: Lab, millrace: Millrace) -> None:
    socket = lab.node.cni_socket
    before = stat.S_IMODE(socket.stat().st_mode)
    socket.chmod(0o666)
    try:
        code, found = findings(lab, millrace)
    finally:
        socket.chmod(before)
    assert code == 4
    assert found["permissions"]["state"] == "fail"
    assert found["permissions"]["cause"] == f"{socket} has mode 0666, more than 0600"
    assert [name for name, row in found.items() if row["state"] == "fail"] == ["permissions"]


def test_a_scrape_of_a_node_with_guests(lab: Lab) -> None:
    def connected() -> dict[str, float]:
        family = scraped(lab).get("millrace_vhost_connected")
        return {s.labels.get("pod", ""): s.value for s in family.samples} if family else {}

    names = {lab.workloads[QEMU[0]].pod, lab.workloads[TESTPMD[0]].pod}
    wait_until(
        lambda: connected() == dict.fromkeys(names, 1.0),
        "both guests in a scrape",
        timeout_s=A_POLL_S,
        every_s=0.5,
    )
    found = scraped(lab)
    for name in (
        "ovs_pmd_rx_packets",
        "ovs_pmd_nonvol_context_switches",
        "millrace_ovs_pmd_cycles",
        "ovs_datapath_flows_total",
        "ovs_memory_keys_total",
        "millrace_ovs_mempool_buffers",
        "millrace_ovs_dpdk_heap_bytes",
        "millrace_ovs_conntrack_connections",
        "millrace_ovs_flow_limit",
        "millrace_vhost_vrings",
    ):
        assert found[name].samples, name
    # A thread has slept once before it polls anything.
    (turns,) = found["millrace_ovs_pmd_polling_turns"].samples
    assert bool(turns.value) == (preemption() is Preemption.NONE)
    (pool, *_) = found["millrace_ovs_mempool_available_buffers"].samples
    assert pool.value > 0
    assert found["millrace_ovs_poll_failures"].samples == []
    everybody = {work.pod for work in lab.workloads.values()}

    def counted() -> bool:
        # vswitchd counts a guest's packets some seconds after it has connected.
        family = scraped(lab)["ovs_interface_rx_packets"]
        return everybody <= {sample.labels.get("pod") for sample in family.samples}

    wait_until(counted, "every workload's port has counters", timeout_s=A_POLL_S, every_s=0.5)
