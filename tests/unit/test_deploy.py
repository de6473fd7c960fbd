"""The examples that people copy are valid, and name what exists."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

from cni import plugin
from controller import doctor
from controller.cli.main import parser
from controller.config import load_cluster, load_node

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_example_node_is_valid() -> None:
    config = load_node(DEPLOY / "node.toml").config
    assert [uplink.services for uplink in config.uplinks] == [True, False]


def test_the_comments_of_the_example_show_the_defaults(tmp_path: Path) -> None:
    text = (DEPLOY / "node.toml").read_text()
    shown = tmp_path / "node.toml"
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in text.splitlines()
    ]
    shown.write_text("\n".join(lines))
    assert load_node(shown).config == load_node(DEPLOY / "node.toml").config


def test_the_example_cluster_is_valid_and_fits_the_node() -> None:
    cluster = load_cluster(DEPLOY / "cluster.toml")
    node = load_node(DEPLOY / "node.toml").config
    (gateway,) = cluster.gateways
    assert gateway.chassis == node.name
    assert gateway.physnet in {bridge.physnet for bridge in node.bridges}


def test_the_network_list_names_our_plugin() -> None:
    network = json.loads((DEPLOY / "10-millrace.conflist").read_text())
    assert [entry["type"] for entry in network["plugins"]] == ["millrace-cni"]
    node = load_node(DEPLOY / "node.toml").config
    assert network["plugins"][0]["socket"] == f"{node.rundir}/cni.sock"
    assert callable(plugin.main)


def test_the_units_run_commands_that_parse() -> None:
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        # Repeated keys are lists in a unit.
        read = configparser.ConfigParser(strict=False, interpolation=None)
        read.optionxform = str  # type: ignore[assignment,method-assign]
        read.read(unit)
        program, *words = read["Service"]["ExecStart"].split()
        assert program.endswith("/millrace")
        assert parser().parse_args(words).command == unit.stem.removeprefix("millrace-")


def test_the_distributions_vswitchd_gets_what_the_doctor_asks_for() -> None:
    (dropin,) = (DEPLOY / "systemd").glob("*.service.d/*.conf")
    # Debian 12: openvswitch-switch.service is an empty wrapper, this unit starts the process.
    assert dropin.parent.name == "ovs-vswitchd.service.d"
    assert f"Environment={doctor.SKIP_DISPATCHER}" in dropin.read_text().splitlines()
