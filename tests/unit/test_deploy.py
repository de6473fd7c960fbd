"""The examples that people copy are valid, and name what exists."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from cni import plugin
from controller import doctor, doctor_host
from controller.cli.main import parser
from controller.config import load_cluster, load_node
from dataplane.plan.ovs import spelt
from dataplane.plan.ovskeys import KEYS

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
    found = load_node(shown).config
    # Below [tuning] a comment shows OVS's own default, which a line that stands there would fix.
    assert replace(found, tuning={}) == load_node(DEPLOY / "node.toml").config
    fixed = spelt(found).keys
    # Defaults in words have no value that could be shown.
    defaults = {k.name: k.default for k in KEYS if k.default != "none" and " " not in k.default}
    assert {name: fixed[name] for name in fixed.keys() & defaults.keys()} == {
        name: defaults[name] for name in fixed.keys() & defaults.keys()
    }
    assert len(fixed.keys() & defaults.keys()) > 8


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


def units() -> dict[str, dict[str, dict[str, list[str]]]]:
    """By name, section and key, the values of a unit; a key may be given more than once."""
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        section: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = found.setdefault(path.stem, {}).setdefault(line.strip("[]"), {})
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                section.setdefault(key, []).append(value)
    return found


def test_the_units_run_commands_that_parse() -> None:
    for name, unit in units().items():
        service = unit["Service"]
        (main,) = service["ExecStart"]
        program, *words = main.split()
        assert program.endswith("/millrace")
        assert parser().parse_args(words).command == name.removeprefix("millrace-")
        for key in ("ExecStartPre", "ExecReload", "ExecStop"):
            for line in service.get(key, ()):
                first, *rest = line.split()
                assert first.removeprefix("-") == program
                said = parser().parse_args(rest)
                # `down` takes the databases with it unless it is told to keep them.
                assert said.command in {"doctor", "apply", "up"} or said.keep


def test_the_units_give_the_node_what_the_doctor_looks_for() -> None:
    service = units()["millrace-node"]["Service"]
    (names,) = service["CapabilityBoundingSet"]
    assert set(names.split()) == set(doctor_host.CAPABILITIES)
    assert service["LimitMEMLOCK"] == ["infinity"]
    for name, unit in units().items():
        assert unit["Service"]["NoNewPrivileges"] == ["yes"], name
        assert unit["Service"]["SystemCallArchitectures"] == ["native"], name


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    assert tool, "systemd-analyze belongs to Debian's package systemd; see `make setup`"
    for path in (DEPLOY / "systemd").glob("*.service"):
        # It also looks for the program, which is not installed where tests run.
        text = path.read_text(encoding="utf-8").replace("/opt/millrace/.venv/bin/millrace", tool)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    names = sorted(str(path) for path in tmp_path.glob("*.service"))
    done = subprocess.run(
        [tool, "verify", "--man=no", *names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_distributions_vswitchd_gets_what_the_doctor_asks_for() -> None:
    (dropin,) = (DEPLOY / "systemd").glob("*.service.d/*.conf")
    # Debian 12: openvswitch-switch.service is an empty wrapper, this unit starts the process.
    assert dropin.parent.name == "ovs-vswitchd.service.d"
    assert f"Environment={doctor.SKIP_DISPATCHER}" in dropin.read_text().splitlines()
