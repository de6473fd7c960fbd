"""The doctor's checks on sites that are known, and its words for what it finds."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controller import doctor, doctor_host
from controller.cli.check import findings_text
from controller.cli.main import main
from controller.config import parse_node
from dataplane.drivers import bpfstate
from dataplane.drivers.hostfacts import HostFacts, ProcessFacts, host_facts, process_facts
from dataplane.drivers.machinefacts import filesystem_of
from dataplane.drivers.preemption import Preemption
from dataplane.model.config import UplinkMode
from dataplane.model.machine import HugepagePool, MachineFacts, NicFacts

FACTS = MachineFacts(
    cpus=frozenset({0, 1}),
    numa_nodes=1,
    memory_kib=1 << 24,
    available_kib=1 << 23,
    hugepages={2048: HugepagePool(1024, 512)},
    nics={
        "up0": NicFacts("veth", 1500, 1, 1, peer="", xdp_program=7),
        "svc0": NicFacts("veth", 1500, 1, 1, peer="svc0-ovs", xdp_program=8),
    },
    pci_devices=frozenset(),
)


def site(rundir: Path, text: str = "", kernel: str = "6.1.0-13-amd64") -> doctor.Site:
    node = (
        f'[node]\nname = "n"\nrundir = "{rundir}/millrace/n"\n'
        f'bpf_root = "{rundir}/bpf/millrace/n"\n'
        '[[bridge]]\nname = "br-ex"\n[[uplink]]\ndevice = "up0"\nbridge = "br-ex"\n'
        "services = true\n"
    )
    return doctor.Site(parse_node(node + text, "n.toml"), FACTS, kernel)


def outcome(name: str, where: doctor.Site) -> doctor.Finding:
    (found,) = [finding for finding in doctor.examine(where) if finding.name == name]
    return found


@pytest.mark.parametrize(
    ("kernel", "state"),
    [("6.1.0-13-amd64", "ok"), ("6.18.44", "ok"), ("7.0+", "ok"), ("5.15.0", "fail")],
)
def test_kernel(tmp_path: Path, kernel: str, state: str) -> None:
    assert outcome("kernel", site(tmp_path, kernel=kernel)).state == state


def test_cgroups(tmp_path: Path) -> None:
    assert outcome("cgroups", site(tmp_path)).state == "ok", "none is served unless it is named"
    found = outcome("cgroups", site(tmp_path, f'[services]\nconnect = ["{tmp_path}"]\n'))
    assert found.state == "fail"
    assert found.cause == f"{tmp_path} is on {filesystem_of(tmp_path)}, not on cgroup2"


def test_hugepages_short(tmp_path: Path) -> None:
    found = outcome(
        "hugepages", site(tmp_path, f'[hugepages]\ncount = 2000\nmount = "{tmp_path}"\n')
    )
    assert found.state == "fail"
    assert found.cause.startswith("1024 pages of 2048 KiB where 2000 are configured; ")
    assert "not on hugetlbfs" in found.cause


def test_no_hugepages_asked_for(tmp_path: Path) -> None:
    assert outcome("hugepages", site(tmp_path)).state == "ok"


def test_bpffs_missing(tmp_path: Path) -> None:
    assert "not on a BPF filesystem" in outcome("BPF filesystem", site(tmp_path)).cause


def test_uplink_missing(tmp_path: Path) -> None:
    where = replace(site(tmp_path), facts=replace(FACTS, nics={}))
    assert outcome("uplinks", where).cause == "up0 is not there"


def test_programs(tmp_path: Path) -> None:
    where = site(tmp_path)
    assert outcome("XDP programs", where).state == "ok"
    bare = replace(FACTS, nics={"up0": replace(FACTS.nics["up0"], xdp_program=0)})
    assert outcome("XDP programs", replace(where, facts=bare)).cause == (
        "up0 has no XDP program; svc0 is not there"
    )


def test_a_peer_out_of_sight_fails_nothing(tmp_path: Path) -> None:
    found = outcome("peer checksums", site(tmp_path))
    assert (found.state, found.next_step) == ("warn", "ethtool -K PEER tx off, at the other end")


def test_ovs_out_of_reach_is_named(tmp_path: Path) -> None:
    found = outcome("OVS with DPDK", site(tmp_path))
    assert found.state == "fail"
    assert "db.sock" in found.cause


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "fail"),
        ({"LIBXDP_SKIP_DISPATCHER": "1"}, "ok"),
        ({"LIBXDP_SKIP_DISPATCHER": "0"}, "fail"),
    ],
)
def test_a_vswitchd_that_would_attach_a_dispatcher(
    tmp_path: Path, environment: dict[str, str], state: str
) -> None:
    where = site(tmp_path)
    assert outcome("libxdp dispatcher", where).state == "ok"  # none runs
    with subprocess.Popen(["/usr/bin/sleep", "1000"], env=environment) as vswitchd:
        found = outcome("libxdp dispatcher", replace(where, vswitchd=process_facts(vswitchd.pid)))
        vswitchd.kill()
    assert found.state == state
    assert (str(vswitchd.pid) in found.cause) == (state == "fail")


PMD = "[dpdk]\nlcore = [0]\npmd = [1]\n"
QUIET = HostFacts(
    {"hugepages": "4", "nohz_full": "1", "rcu_nocbs": "1", "iommu": "pt"},
    frozenset({1}),
    7,
    preemption=Preemption.NONE,
)


def test_a_host_in_order(tmp_path: Path) -> None:
    where = replace(site(tmp_path, PMD), host=QUIET)
    for name in ("CPUs", "CPU isolation", "boot options", "IOMMU", "locked memory", "capabilities"):
        assert outcome(name, where) == doctor.Finding(name, "ok", "", "")


def test_cpus_that_are_not_there_or_are_shared(tmp_path: Path) -> None:
    found = outcome("CPUs", site(tmp_path, "[dpdk]\nlcore = [0]\npmd = [1, 7]\n"))
    assert (found.state, found.cause) == ("fail", "CPU 7 of [dpdk] is not there, or is offline")


def test_pmd_cpus_that_are_not_isolated(tmp_path: Path) -> None:
    found = outcome("CPU isolation", site(tmp_path, PMD))
    assert found.state == "warn"
    assert found.cause == (
        "CPU 1 of dpdk.pmd is not isolated: boot with isolcpus=managed_irq,domain,1; "
        "no nohz_full= at boot: timer ticks interrupt the PMD threads; "
        "no rcu_nocbs= at boot: timer ticks interrupt the PMD threads"
    )


def test_hugepages_that_are_made_late_and_swap(tmp_path: Path) -> None:
    where = site(tmp_path, "[hugepages]\ncount = 1024\n")
    assert "no hugepages= at boot" in outcome("boot options", where).cause
    swapping = replace(where, host=replace(QUIET, swap_kib=1 << 20))
    assert outcome("boot options", swapping).cause.startswith("1024 MiB of swap")


def test_a_kernel_that_preempts_where_one_pmd_thread_sends(tmp_path: Path) -> None:
    preempting = replace(QUIET, preemption=Preemption.VOLUNTARY)
    found = outcome("boot options", replace(site(tmp_path, PMD), host=preempting))
    assert found.state == "warn"
    assert found.cause.startswith("the kernel's preemption model is voluntary, not none")
    assert "preempt=none" in found.cause
    untold = replace(QUIET, preemption=Preemption.UNKNOWN)
    found = outcome("boot options", replace(site(tmp_path, PMD), host=untold))
    assert found.cause.startswith("nothing here tells the kernel's preemption model")
    for text in (
        PMD.replace("[1]", "[1, 2]"),
        PMD + "[services]\npoll_thread = false\n",
    ):
        assert outcome("boot options", replace(site(tmp_path, text), host=preempting)).state == "ok"
    where = replace(site(tmp_path, PMD), host=preempting)
    (uplink,) = where.config.uplinks
    for mode in (UplinkMode.KERNEL, UplinkMode.VFIO):
        config = replace(where.config, uplinks=(replace(uplink, mode=mode),))
        assert outcome("boot options", replace(where, config=config)).state == "ok"


def test_vfio_without_an_iommu(tmp_path: Path) -> None:
    text = '[[uplink]]\ndevice = "0000:03:00.0"\nbridge = "br-ex"\nmode = "vfio"\n'
    where = site(tmp_path, text)
    assert outcome("IOMMU", where).cause.startswith("no IOMMU group")
    assert outcome("IOMMU", replace(where, host=QUIET)).state == "ok"


def test_memory_that_may_not_be_locked(tmp_path: Path) -> None:
    small = ProcessFacts(77, memlock=8 << 20)
    where = replace(site(tmp_path), vswitchd=small)
    assert outcome("locked memory", where).cause == (
        "ovs-vswitchd may lock 8 MiB where 1 AF_XDP queues pin 64 MiB"
    )
    old = replace(site(tmp_path, kernel="5.10.0"), daemon=small)
    assert "counts BPF maps" in outcome("locked memory", old).cause
    for fine in (ProcessFacts(77), replace(small, capabilities=1 << 14)):
        assert outcome("locked memory", replace(where, vswitchd=fine)).state == "ok"


def test_a_daemon_without_its_rights(tmp_path: Path) -> None:
    everything = sum(1 << bit for bit in doctor_host.CAPABILITIES.values())
    where = replace(site(tmp_path), daemon=ProcessFacts(7, capabilities=everything & ~(1 << 39)))
    assert outcome("capabilities", where).cause == "the daemon (process 7) lacks CAP_BPF"
    # A unit of before has no CAP_SYS_NICE, which matters where svc0 has a thread.
    nice = ProcessFacts(7, capabilities=everything & ~(1 << 23))
    polled = replace(site(tmp_path, PMD), daemon=nice, host=QUIET)
    assert outcome("capabilities", polled).cause == "the daemon (process 7) lacks CAP_SYS_NICE"
    assert outcome("capabilities", replace(where, daemon=nice)).state == "ok"
    whole = replace(where, daemon=ProcessFacts(7, capabilities=everything & ~(1 << 24)))
    assert outcome("capabilities", whole).state == "ok"


def test_an_interpreter_of_bpf(tmp_path: Path) -> None:
    where = replace(site(tmp_path), host=replace(QUIET, jit=0))
    assert outcome("BPF compiler", where).state == "fail"


KERNEL_UPLINK = """\
[[bridge]]
name = "br-x"
[[uplink]]
device = "eth9"
bridge = "br-x"
mode = "kernel"
"""


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ('[containers]\nattach = "port"\n', "a container's port"),
        (KERNEL_UPLINK, "uplink eth9"),
    ],
)
def test_packet_sockets_that_hold_less_than_a_burst(tmp_path: Path, text: str, who: str) -> None:
    where = replace(site(tmp_path, text), host=replace(QUIET, receive_buffer=212_992))
    found = outcome("packet sockets", where)
    assert found.state == "warn"
    assert f"rmem_default is 212992: {who} holds" in found.cause
    assert "rmem_default=4194304" in found.next_step
    for fine in (None, 4 << 20):
        enough = replace(where, host=replace(QUIET, receive_buffer=fine))
        assert outcome("packet sockets", enough).state == "ok"
    # Neither a trunk nor an AF_XDP uplink is read by a packet socket.
    assert outcome("packet sockets", replace(site(tmp_path), host=where.host)).state == "ok"


def test_pins_of_another_version(tmp_path: Path) -> None:
    where = site(tmp_path)
    root = Path(where.config.bpf_root)
    for name in ("v1", bpfstate.version_directory(str(root)).name):
        (root / name).mkdir(parents=True)
    assert "v1 is of another version" in outcome("pinned maps", where).cause


def test_what_a_host_says_of_itself(tmp_path: Path) -> None:
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "sys/net/core").mkdir(parents=True)
    (proc / "cmdline").write_text("root=/dev/sda1 isolcpus=2-3 quiet hugepages=4\n")
    (proc / "meminfo").write_text("MemTotal: 9 kB\nSwapTotal: 2048 kB\n")
    (proc / "self/mountinfo").write_text("30 1 0:26 / /cg rw - cgroup2 cgroup2 rw\n")
    (proc / "sys/net/core/bpf_jit_enable").write_text("1\n")
    (proc / "sys/net/core/rmem_default").write_text("212992\n")
    (proc / "config.gz").write_bytes(gzip.compress(b"CONFIG_PREEMPT_VOLUNTARY=y\n"))
    (sysfs / "kernel/iommu_groups/0").mkdir(parents=True)
    (sysfs / "devices/system/cpu").mkdir(parents=True)
    (sysfs / "devices/system/cpu/isolated").write_text("2-3\n")
    found = host_facts(proc, sysfs)
    assert found == HostFacts(
        {"root": "/dev/sda1", "isolcpus": "2-3", "quiet": "", "hugepages": "4"},
        frozenset({2, 3}),
        1,
        "/cg",
        1,
        2048,
        212_992,
        Preemption.VOLUNTARY,
    )
    nowhere = tmp_path / "nowhere"
    assert host_facts(nowhere, nowhere, nowhere, nowhere) == HostFacts()


def test_what_a_process_says_of_itself(tmp_path: Path) -> None:
    place = tmp_path / "7"
    place.mkdir()
    (place / "cmdline").write_bytes(b"ovs-vswitchd\0--mlockall\0")
    (place / "environ").write_bytes(b"A=1\0B=2\0")
    (place / "limits").write_text("Max locked memory         8388608  8388608  bytes\n")
    (place / "status").write_text("CapEff:\t0000008000000001\nCpus_allowed_list:\t0,2-3\n")
    assert process_facts(7, tmp_path) == ProcessFacts(
        7,
        ("ovs-vswitchd", "--mlockall"),
        frozenset({"A=1", "B=2"}),
        8388608,
        (1 << 39) | 1,
        frozenset({0, 2, 3}),
    )
    unlimited = "Max locked memory         unlimited  unlimited  bytes\n"
    (place / "limits").write_text(unlimited)
    assert process_facts(7, tmp_path).memlock is None


def test_daemon_out_of_reach_is_named(tmp_path: Path) -> None:
    assert "agent.sock" in outcome("daemon", site(tmp_path)).cause


def _wide_rundir(rundir: Path) -> Path:
    rundir.chmod(0o777)
    return rundir


def _wide_socket(rundir: Path) -> Path:
    socket = rundir / "cni.sock"
    socket.touch()
    socket.chmod(0o666)
    return socket


def _wide_guest(rundir: Path) -> Path:
    folder = rundir / "vhost" / "0a1b"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize("open_up", [_wide_rundir, _wide_socket, _wide_guest])
def test_permissions(tmp_path: Path, open_up: Callable[[Path], Path]) -> None:
    assert outcome("permissions", site(tmp_path)).state == "ok"
    rundir = tmp_path / "millrace" / "n"
    rundir.mkdir(parents=True)
    path = open_up(rundir)
    found = outcome("permissions", site(tmp_path))
    assert found.state == "fail"
    assert str(path) in found.cause


def test_every_finding_has_its_next_step() -> None:
    assert all(check.next_step for check in doctor.CHECKS)
    names = [check.name for check in doctor.CHECKS]
    assert len(set(names)) == len(names)


def test_text() -> None:
    findings = [
        doctor.Finding("kernel", "ok", "", ""),
        doctor.Finding("daemon", "fail", "no socket", "start it"),
    ]
    assert findings_text(findings, colour=False) == (
        "CHECK   STATE  CAUSE\n"
        "kernel  ok     -\n"
        "daemon  fail   no socket\n"
        "\n"
        "next:\n"
        "  daemon: start it"
    )


def test_the_command_exits_with_4_where_no_node_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'[node]\nname = "n"\nrundir = "{tmp_path}/millrace/n"\n')
    assert main(["doctor", "--json", "--config", str(file)]) == 4
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states["daemon"] == "fail"
    assert states["kernel"] == "ok"


def test_filesystem_of() -> None:
    assert filesystem_of(Path("/proc/self/status")) == "proc"
    assert filesystem_of(Path("/proc/nowhere/at/all")) == "proc"


def test_the_page_has_every_check_in_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    table = page.partition("| check |")[2]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:] if line]
    assert [(row[0].strip(), row[-1].strip()) for row in rows] == [
        (check.name, "warn" if check.advisory else "fail") for check in doctor.CHECKS
    ]


def test_a_user_of_guests_sockets_that_is_not_there(tmp_path: Path) -> None:
    fine = outcome("guests' sockets", site(tmp_path, '[vhost]\nuser = "root"\n'))
    assert fine.state == "ok"
    found = outcome("guests' sockets", site(tmp_path, '[vhost]\ngroup = "nobody-has-this"\n'))
    assert found.state == "fail"
    assert "there is no such group here" in found.cause
