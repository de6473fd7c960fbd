"""The `millrace` command against a daemon's socket: what it prints and how it exits."""

from __future__ import annotations

import json
import logging
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import wire
from controller import agent_api
from controller.cli.main import COMMANDS, main
from controller.cli.read import CODE_CONFIG
from controller.cli.render import cell, duration, table
from controller.cli.run import EventFormatter

STATUS: dict[str, Any] = {
    "node": "node1",
    "pid": 17,
    "uptime_s": 4000.0,
    "converged": True,
    "last_apply": {"writes": 0, "ms": 3.25, "at": "2026-01-02T03:04:05+00:00"},
    "tables": [{"name": "vips", "rows": 2, "pending": 0, "error": 0}],
    "objects": [],
    "gateway": {
        "router": "GR_node1",
        "addresses": ["172.18.0.111/24"],
        "physnet": "physnet1",
        "service_address": "100.64.255.1",
    },
    "ovn": {"nb": True, "sb": "connected"},
    "ovs": {
        "connected": True,
        "version": "3.1.0",
        "dpdk": "DPDK 22.11.11",
        "restarts": 1,
        "last_outage_ms": 1423.4,
    },
    "programs": [{"device": "up0", "kind": "uplink", "attached": True, "id": 9, "tag": "0123abcd"}],
}
QUARANTINED = {
    "table": "ports",
    "key": "bad0",
    "state": "error",
    "reason": "No such device",
    "since": "2026-01-02T03:04:05+00:00",
    "attempts": 3,
    "quarantined": True,
}
PROBLEM = {"name": "load balancer web", "cause": "no backend", "next_step": "add one"}


class Daemon:
    """A daemon's socket that gives canned answers and remembers what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, dict[str, object] | wire.RemoteError] = {}
        self.asked: list[tuple[str, dict[str, object]]] = []
        outer = self

        class Conversation(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                size = wire.payload_size(self.rfile.read(wire.HEADER_SIZE))
                op, args = wire.parse_request(wire.decode(self.rfile.read(size)))
                outer.asked.append((op, args))
                result = outer.answers[op]
                if isinstance(result, wire.RemoteError):
                    self.wfile.write(wire.encode(wire.refusal(result)))
                else:
                    self.wfile.write(wire.encode(wire.answer(result)))

        self._server = socketserver.UnixStreamServer(str(path), Conversation)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    rundir = tmp_path / "millrace" / "node1"
    rundir.mkdir(parents=True)
    (rundir / "node.toml").write_text(f'[node]\nname = "node1"\nrundir = "{rundir}"\n')
    found = Daemon(rundir / "agent.sock")
    yield found
    found.stop()


@pytest.fixture
def config(daemon: Daemon) -> list[str]:
    return ["--config", str(daemon.path.parent / "node.toml")]


def test_status_of_a_converged_node(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["status"] = STATUS
    assert main(["status", *config]) == 0
    assert capsys.readouterr().out == (
        "node        node1, pid 17, up 66 min\n"
        "state       converged\n"
        "last apply  0 writes in 3.2 ms, at 2026-01-02T03:04:05+00:00\n"
        "ovs         connected, 3.1.0, DPDK 22.11.11, seen to restart 1 times,"
        " the last outage 1423 ms\n"
        "ovn         nb connected, sb connected\n"
        "gateway     GR_node1, 172.18.0.111/24, on physnet1, services from 100.64.255.1\n"
        "\n"
        "TABLE  ROWS  PENDING  ERROR\n"
        "vips      2        0      0\n"
        "\n"
        "DEVICE  KIND    ATTACHED  ID  TAG\n"
        "up0     uplink  yes        9  0123abcd\n"
    )
    assert daemon.asked == [("status", {"all": False})]


CENTRAL: dict[str, Any] = {
    "pid": 18,
    "config_problem": "",
    "in_sync": True,
    "active": True,
    "rows": {"switches": 2, "routers": 1},
    "problems": [],
    "unfinished": [],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "pid 18, active, 3 rows in OVN"),
        ({"active": False}, "pid 18, stands by for another, 3 rows in OVN"),
        ({"in_sync": False}, "pid 18, not in sync with OVN's databases, 3 rows in OVN"),
        ({"problems": [{}], "unfinished": [{}, {}]}, "OVN, 2 unfinished, 1 problems"),
        ({"config_problem": "c.toml:1: a\nc.toml:2: b"}, "its file is refused: c.toml:1: a"),
    ],
)
def test_status_has_a_line_for_the_cluster_controller_beside_the_daemon(
    daemon: Daemon,
    config: list[str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    words: str,
) -> None:
    daemon.answers["status"] = STATUS
    central = Daemon(daemon.path.with_name("central.sock"))
    central.answers["status"] = {**CENTRAL, **change}
    try:
        assert main(["status", *config]) == 0
        (line,) = [ln for ln in capsys.readouterr().out.splitlines() if ln.startswith("central")]
        assert line.endswith(words)
        assert main(["status", "--json", *config]) == 0
        assert json.loads(capsys.readouterr().out)["central"] == {**CENTRAL, **change}
    finally:
        central.stop()


def test_a_cluster_controller_that_does_not_answer_is_no_line(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["status"] = STATUS
    daemon.path.with_name("central.sock").touch()
    assert main(["status", *config]) == 0
    assert "central" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"converged": False}, "not converged"),
        ({"ovs": {"connected": False}}, "OVS is out of reach"),
        ({"ovn": {"nb": True, "sb": False}}, "OVN's southbound database is out of reach"),
        ({"last_apply": {"problem": "no room for ids"}}, "no room for ids"),
        ({"tables": [{"name": "ports", "error": 1}]}, "1 in error in table ports"),
    ],
)
def test_status_of_a_degraded_node(
    daemon: Daemon,
    config: list[str],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    words: str,
) -> None:
    daemon.answers["status"] = STATUS | change
    assert main(["status", *config]) == 4
    assert words in capsys.readouterr().out


def test_status_names_what_is_in_error(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["status"] = STATUS | {
        "converged": False,
        "objects": [QUARANTINED],
        "problems": [PROBLEM],
    }
    assert main(["status", "--all", *config]) == 4
    shown = capsys.readouterr().out
    assert "ports  bad0  quarantined  2026-01-02T03:04:05+00:00         3  No such device" in shown
    assert "load balancer web  no backend  add one" in shown
    assert daemon.asked == [("status", {"all": True})]


def test_json_is_the_answer_as_it_came(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["status"] = STATUS
    assert main(["status", "--json", *config]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_nothing_to_list_is_said(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers |= {"services": {"services": []}, "ports": {"ports": []}}
    assert (main(["services", *config]), main(["ports", *config])) == (0, 0)
    assert capsys.readouterr().out == "no services\nno ports\n"


def test_ports(daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    port = {
        "iface_id": "vm1.default",
        "device": "vh0",
        "kind": "vhost-user",
        "mac": "0a:58:0a:01:00:0b",
        "addresses": ["10.1.0.11/24"],
        "state": "done",
        "reason": "",
        "link": "up",
        "socket": "/run/millrace/node1/vhost/x/net1.sock",
        "mtu": 1442,
        "rx_packets": 5,
        "tx_packets": 6,
        "vrings": 16,
        "numa": 0,
    }
    daemon.answers["ports"] = {"ports": [port]}
    assert main(["ports", *config]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "vm1.default", "vh0", "vhost-user", "0a:58:0a:01:00:0b", "10.1.0.11/24", "1442", "done",
        "up", "16", "0", "5", "6", "-",
    ]  # fmt: skip


def test_apply(daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["apply"] = {"changed": ["dpdk.pmd"], "restart_pending": ["dpdk-socket-mem"]}
    assert main(["apply", *config]) == 0
    assert daemon.asked == [("apply", {"path": config[1]})]
    assert capsys.readouterr().out == (
        "changed: dpdk.pmd\ntakes effect when ovs-vswitchd restarts: dpdk-socket-mem\n"
    )


def test_a_file_alone_finds_its_daemon(daemon: Daemon, config: list[str]) -> None:
    daemon.answers["apply"] = {"changed": []}
    assert main(["apply", config[1]]) == 0
    assert daemon.asked == [("apply", {"path": config[1]})]


def test_a_bad_file_never_reaches_the_daemon(
    daemon: Daemon, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[node]\nname = "node1"\nspeed = 11\n')
    assert main(["apply", str(bad), *config]) == 2
    assert capsys.readouterr().err.startswith(f"{bad}:3: node.speed is unknown; ")
    assert daemon.asked == []


def test_status_works_while_the_file_is_being_edited(daemon: Daemon, config: list[str]) -> None:
    daemon.answers["status"] = STATUS
    file = Path(config[1])
    file.write_text(file.read_text() + "[dpdk]\npmd = 3\n")
    assert main(["status", *config]) == 0


def test_what_the_daemon_refuses_is_an_error(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["ports"] = wire.RemoteError(103, "it broke", "look at node.log")
    assert main(["ports", *config]) == 1
    assert capsys.readouterr().err == "millrace: it broke: look at node.log\n"


def test_a_file_that_the_daemon_refuses_is_bad_usage(
    daemon: Daemon, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert CODE_CONFIG == agent_api.CODE_CONFIG
    daemon.answers["apply"] = wire.RemoteError(CODE_CONFIG, "it is refused", "f:1: a\nf:2: b")
    assert main(["apply", *config]) == 2
    assert capsys.readouterr().err == (
        "millrace: it is refused\nmillrace: f:1: a\nmillrace: f:2: b\n"
    )


def test_an_event_is_one_line_with_what_came_with_it() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "up a=%s", "args": ("1\n2",), "created": 0.25}
    )
    record.msecs = 250
    record.database = "nb"
    assert EventFormatter().format(record) == (
        "1970-01-01T00:00:00.250Z INFO x up a=1\\n2 database=nb"
    )


def test_a_daemon_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "no.sock")]) == 3
    assert "is `millrace node` running?" in capsys.readouterr().err


def test_up_refuses_what_the_machine_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nname = "n"\nrundir = "{tmp_path}/run/millrace/n"\n'
        f'statedir = "{tmp_path}/state/millrace/n"\n'
        '[dpdk]\nlcore = [0]\npmd = [1000]\n[[bridge]]\nname = "br-ex"\n'
        '[[uplink]]\ndevice = "nowhere0"\nbridge = "br-ex"\n[hugepages]\ncount = 4000000\n'
    )
    assert main(["up", "--config", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines] == ["7", "11", "14"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv", [[], ["fly"], ["up", "--fast"], ["perf", "nothing"]])
def test_bad_usage(argv: list[str]) -> None:
    try:
        code: object = main(argv)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2


def test_benchmarks_are_found_by_entry_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perf", "--help"]) == 0
    assert {"xdp", "vhost", "run", "compare"} <= set(capsys.readouterr().out.split())


def test_every_subcommand_has_a_target() -> None:
    for command in COMMANDS:
        module, _, function = command.target.partition(":")
        source = Path(*module.split(".")).with_suffix(".py")
        assert f"def {function}(" in (Path(__file__).parents[2] / source).read_text()


def test_help_loads_nothing_that_is_slow() -> None:
    code = (
        "import sys\nfrom controller.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "slow = {'pyroute2', 'ovs', 'numpy', 'asyncio', 'prometheus_client', 'json'}\n"
        "print(sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_table_is_aligned_and_coloured_by_state() -> None:
    rows = [("a", "ok", 1), ("bcd", "fail", 22)]
    assert table(("NAME", "STATE", "N"), rows, colour=False) == (
        "NAME  STATE   N\na     ok      1\nbcd   fail   22"
    )
    coloured = table(("NAME", "STATE", "N"), rows, colour=True)
    assert coloured.splitlines()[2] == "bcd   \x1b[31mfail \x1b[0m  22"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), ([], "-"), (True, "yes"), (1.25, "1.2"), (["a", 1], "a, 1"),
     ({"k": None}, "k=-"), ("a\x1b[2Jb\n", "a?[2Jb?")],
)  # fmt: skip
def test_cell(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.9, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d"), (None, "-")],
)
def test_duration(seconds: object, text: str) -> None:
    assert duration(seconds) == text
