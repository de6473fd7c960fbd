"""What a file asks for and the machine cannot give: refused by name, and nothing was touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.drivers import machine, processes
from dataplane.drivers.machinefacts import machine_facts

pytestmark = pytest.mark.netns

MILLRACE = str(Path(sys.executable).with_name("millrace"))
NODE = """\
[node]
name = "mrrefused"
rundir = "{rundir}/run/millrace/mrrefused"
statedir = "{rundir}/state/millrace/mrrefused"
{node}
[hugepages]
count = 8
[dpdk]
pmd = [{pmd}]
[[bridge]]
name = "br-ex"
physnet = "physnet1"
[[uplink]]
device = "eth1"
bridge = "br-ex"
[tunnel]
bridge = "br-ex"
address = "10.0.0.1/24"
{rest}
"""

BOND = '[[bond]]\nname = "bond0"\nbridge = "br-ex"\ndevices = ["eth2"]\n'
TWICE = '[[uplink]]\ndevice = "eth1"\nbridge = "br-ex"\n'


@pytest.fixture(autouse=True)
def links(own_node: None) -> None:
    for words in (
        "link add eth1 type veth peer name far1",
        "link add eth2 type veth peer name far2",
        "link add br9 type bridge",
    ):
        processes.run(["ip", *words.split()])


def test_what_has_a_nic_is_seen() -> None:
    processes.run(["ip", "link", "set", "eth1", "master", "br9"])
    nics = machine_facts().nics
    assert {name: nic.master for name, nic in nics.items() if nic.master} == {"eth1": "br9"}
    assert nics["br9"].kind == "bridge"
    assert nics["eth1"].pci == ""


CASES = {
    "a mask with a core that is not there": ({"pmd": "1000"}, "dpdk.pmd names core 1000"),
    "one queue for two ports": ({"rest": TWICE}, "uplink[1].device = 'eth1'; line 14 has it"),
    "an MTU beyond the tunnel's": (
        {"node": "port_mtu = 1500"},
        "node.port_mtu = 1500; eth1, below",
    ),
    "a bond of one": ({"rest": BOND}, "bond[0].devices has 1 device"),
    "a NIC that is bound elsewhere": ({}, 'uplink[0].device = "eth1"; br9 has it'),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_by_name_with_nothing_half_applied(case: str, tmp_path: Path) -> None:
    changes, said = CASES[case]
    if not changes:
        processes.run(["ip", "link", "set", "eth1", "master", "br9"])
    path = tmp_path / "node.toml"
    words = {"node": "", "pmd": "0", "rest": ""} | changes
    path.write_text(NODE.format(rundir=tmp_path, **words), encoding="utf-8")
    links_before = processes.run(["ip", "link", "show"])
    done = subprocess.run(
        [MILLRACE, "up", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert f"{path}:" in done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["node.toml"]
    assert processes.run(["ip", "link", "show"]) == links_before
    # Hugepages and mounts are taken in the name of the run directory.
    record = machine.STATE_DIR / "machine.json"
    assert not record.exists() or str(tmp_path) not in record.read_text(encoding="utf-8")
