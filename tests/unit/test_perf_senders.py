"""Senders: what is missing is said with the reason, and a command sends as the protocol has it."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from pathlib import Path

import pytest

from dataplane.drivers import processes
from perf.harness import pacedtrial, search, senders
from perf.harness.cli import list_command, run_command
from perf.harness.generator import Counts, HarnessError, Traffic
from perf.harness.senders import Foreign

DEVICE = """\
import json, sys
asked = json.load(sys.stdin)
assert asked["schema"] == "millrace.perf.sender/1", asked
rate, seconds = asked["rate_pps"], asked["duration_s"]
sent = round((2_000_000 if rate is None else min(rate, 2_000_000)) * seconds)
got = min(sent, round(1_000_000 * seconds))
print("a banner")
told = {"tx": sent, "rx": got, "seconds": seconds}
print(json.dumps(told | ({"latency_ns": [[5000, got]]} if asked["flows"] > 1 else {})))
"""
"""Forwards a million packets/s, and times frames of more than one flow."""


def saying(tmp_path: Path, program: str) -> Foreign:
    script = tmp_path / "sender.py"
    script.write_text(program)
    return Foreign((sys.executable, str(script)))


def test_a_command_is_searched_like_every_paced_sender(tmp_path: Path) -> None:
    device = saying(tmp_path, DEVICE)
    assert device.start(Traffic(500_000, flows=2), 0.1) == Counts(
        50_000, 50_000, 0.1, 0, ((5000, 50_000),)
    )
    goal = search.Goal("PDR", 0.005, width=0.05, trial_s=0.1, sum_s=0.2)
    (found,) = search.search(device, Traffic(flows=2), 10_000, 2_000_000, (goal,))
    assert found.lower is not None
    assert found.lower == pytest.approx(1_000_000, rel=0.06)


def test_a_sender_that_times_nothing_has_a_rate_and_no_latency(tmp_path: Path) -> None:
    device = saying(tmp_path, DEVICE)
    untimed = pacedtrial.measure(device, Traffic(800_000), 0.1)
    assert set(untimed.values()) == {"delivered"}
    assert untimed.latency == {}
    timed = pacedtrial.measure(device, Traffic(800_000, flows=2), 0.1)
    assert set(timed.values()) == {"delivered", "us50_100", "us99_100"}


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise SystemExit('no port is up')", "exit code 1: no port is up"),
        ("raise SystemExit(3)", "exit code 3: it said nothing"),
        ("""print('{"error": "no server at 10.0.0.1"}')""", "no server at 10.0.0.1"),
        ("print('all well')", "its last line is no answer .* 'all well'"),
        ("pass", "its last line is no answer"),
        ("print('[1]')", "its last line is no answer"),
        ("""print('{"tx": 1, "rx": 1}')""", "missing required field `seconds`"),
        ("""print('{"tx": "many", "rx": 1, "seconds": 1}')""", "its last line is no answer"),
        ("""print('{"tx": -1, "rx": 1, "seconds": 1}')""", "tx -1, rx 1, .*1.0 s are no counts"),
        ("""print('{"tx": 1, "rx": 5, "seconds": 1}')""", "tx 1, rx 5, .* are no counts"),
        ("""print('{"tx": 9, "rx": 9, "seconds": 1, "reordered": -4}')""", "reordered -4, .* no c"),
        (
            """print('{"tx": 9, "rx": 9, "seconds": 1}'); raise SystemExit("the link went down")""",
            "exit code 1: the link went down",
        ),
        ("""print('{"error": "no licence"}'); raise SystemExit(1)""", "no licence"),
        ("""print('{"tx": 1, "rx": 1, "seconds": NaN}')""", "nan s are no counts"),
        ("""print('{"tx": 1, "rx": 1, "seconds": 0}')""", "0.0 s are no counts"),
        ("""print('{"tx": 1, "rx": 1, "seconds": 1, "latency_ns": [[-5, 1]]}')""", "below 0"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(
    tmp_path: Path, program: str, says: str
) -> None:
    with pytest.raises(HarnessError, match=says):
        saying(tmp_path, program).start(Traffic(1000), 0.05)


WRAPPER = """\
import subprocess, sys
words = [sys.executable, "-c", "import time; time.sleep(600)"]
running = subprocess.Popen(words, stdout={output}, stderr={output})
open({noted!r}, "w").write(str(running.pid))
print('{{"tx": 1, "rx": 1, "seconds": 1}}', flush=True)
"""
"""Leaves a child; with its own output, whoever reads that waits for the child, too."""


def test_what_a_command_leaves_ends_with_its_trial(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    program = WRAPPER.format(output="subprocess.DEVNULL", noted=str(noted))
    assert saying(tmp_path, program).start(Traffic(1000), 0.05) == Counts(1, 1, 1.0, 0, ())
    processes.wait_until(lambda: state_of(noted) in ("", "Z"), "the command's child ends")


def test_what_a_command_has_started_ends_with_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "PATIENCE_S", 3.0)
    noted = tmp_path / "pid"
    program = WRAPPER.format(output="None", noted=str(noted))
    with pytest.raises(HarnessError, match="no answer 3 s after"):
        saying(tmp_path, program).start(Traffic(1000), 0.05)
    processes.wait_until(lambda: state_of(noted) in ("", "Z"), "the command's child ends")


def state_of(noted: Path) -> str:
    """Of the process whose pid is noted, as proc_pid_stat(5) has it; empty: there is none."""
    pid = int(noted.read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(HarnessError, match="No such file"):
        Foreign(("/nowhere/sender",)).start(Traffic(1000), 0.05)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["p2p", "--sender", "'"], "No closing quotation"),
        (["p2p", "--sender", " "], "no command"),
        (["p2p", "--sender", "/nowhere/sender -p 1"], "no program '/nowhere/sender' that can be"),
        (["p2p", "--sender", "true", "--port=--vdev=net_ring0"], "one of them sends"),
        (["out-vm", "--sender", "true"], "has no place on --sender"),
        (["selftest-a1", "--sender", "true"], "has no place on --sender"),
        (["p2p", "--sender", "true", "--size", "20000"], "20000 octets: Ethernet"),
    ],
)
def test_nonsense_about_senders_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["--dry-run", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_sender_that_is_missing_is_said_with_the_reason(tmp_path: Path) -> None:
    none = {each.name: each for each in senders.senders(lambda _name: None, tmp_path)}
    assert set(none) == {
        "pktgen (perf/pktgen)", "testpmd", "iperf3", "pktgen (the kernel's)", "Pktgen-DPDK", "TRex",
    }  # fmt: skip
    assert all(each.missing for each in none.values())
    assert "no t-rex-64 on PATH or below /opt/trex" in none["TRex"].missing
    (tmp_path / "opt/trex/v3.06").mkdir(parents=True)
    (tmp_path / "opt/trex/v3.06/t-rex-64").touch(stat.S_IRWXU)
    (tmp_path / "proc/net/pktgen").mkdir(parents=True)
    some = {each.name: each for each in senders.senders(lambda name: f"/bin/{name}", tmp_path)}
    assert not any(some[name].missing for name in ("TRex", "pktgen (the kernel's)", "testpmd"))


def test_the_list_names_every_sender(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_command([]) == 0
    told = capsys.readouterr().out
    assert list_command(["--senders", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found] == [each.name for each in senders.senders()]
    for each in found:
        assert each["name"] in told
        assert each["missing"] in told


def test_a_command_is_named_as_a_shell_reads_it() -> None:
    words = "ssh 'a host' /opt/sender --port 1"
    assert shlex.split(Foreign(senders.command_of(words)).name) == shlex.split(words)
