"""Long texts of results: each is stored once, compressed, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.harness import ovscount, reading, results, texts
from perf.harness.generator import HarnessError
from perf.harness.rundir import Plan, RunDirectory

FLOWS = [
    f"cookie=0x{n:x}, table=15, priority=120,tcp,metadata=0x4,nw_dst=10.96.{n // 256}.{n % 256} "
    f"actions=group:{n}"
    for n in range(10_000)
]
SCENARIOS = ("svc-ovn-of-1", "svc-ovn-of-10000")


def configuration(queues: str) -> dict[str, Any]:
    return {"flows": {"br-int": FLOWS}, "pmd_rxq": [queues], "services": 10_000}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"flows": {"br0": FLOWS, "br1": FLOWS[:3]}, "rows": [{"a": 1}], "none": None, "text": "x"},
        {"flows": []},
        {"lines": ["a\nb" * texts.LEAST, ""]},
        {"mixed": [*FLOWS, 5]},
    ],
)
def test_what_was_packed_comes_back(value: dict[str, Any]) -> None:
    packed, apart = texts.pack(value)
    assert texts.unpack(json.loads(json.dumps(packed)), apart) == value


def test_texts_of_several_scenarios_are_stored_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(SCENARIOS, 1, 1.0), {})
    known: set[str] = set()
    for number, name in enumerate(SCENARIOS):
        directory.describe(name, configuration(f"queue {number}"), known)
    run = directory.finish("2026-01-01T00:00:00+00:00")
    assert len(run.texts) == len(known) == 1
    for number, name in enumerate(SCENARIOS):
        assert run.configuration(name) == configuration(f"queue {number}")
    whole = len("\n".join(FLOWS))
    for file in (results.FILE, "trials.jsonl"):
        assert (tmp_path / file).stat().st_size < whole / 8
    with pytest.raises(HarnessError, match="no scenario 'p2p'; it has svc-ovn-of-1, svc-ovn"):
        run.configuration("p2p")


def test_a_reader_prints_a_configuration_with_its_flows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(SCENARIOS[:1], 1, 1.0), {})
    directory.describe(SCENARIOS[0], configuration("queue"), set())
    directory.finish("2026-01-01T00:00:00+00:00")
    words = [str(tmp_path), "--configuration"]
    assert reading.report_command([*words, SCENARIOS[0]]) == reading.OK
    assert json.loads(capsys.readouterr().out) == configuration("queue")
    assert reading.report_command([*words, "p2p"]) == reading.USAGE
    assert "has no scenario 'p2p'" in capsys.readouterr().err


def test_a_run_of_the_schema_before_is_read_with_its_texts_in_place(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(Plan(SCENARIOS[:1], 1, 1.0), {})
    directory.finish("2026-01-01T00:00:00+00:00")
    told = json.loads((tmp_path / results.FILE).read_bytes())
    del told["texts"]
    told["schema"] = "millrace.perf.results/2"
    told["scenarios"][0]["configuration"] = configuration("queue")
    (tmp_path / results.FILE).write_text(json.dumps(told))
    assert results.read(tmp_path).configuration(SCENARIOS[0]) == configuration("queue")


def test_a_damaged_text_is_no_configuration() -> None:
    packed, apart = texts.pack({"flows": FLOWS})
    (digest,) = apart
    other = texts.pack({"flows": FLOWS[1:]})[1]
    for damaged, says in (
        ({}, "is missing"),
        ({digest: "!"}, "cannot be read"),
        ({digest: "AAAA"}, "cannot be read"),
        ({digest: next(iter(other.values()))}, "is another than was stored"),
    ):
        with pytest.raises(HarnessError, match=says):
            texts.unpack(packed, damaged)


def test_flows_are_in_order_and_without_what_they_counted() -> None:
    told = {
        "br0": " cookie=0x1, duration=7.5s, table=9, n_packets=3, n_bytes=126, idle_age=6, "
        "priority=100,arp actions=learn(table=10,priority=5),drop\n"
        "NXST_FLOW reply (xid=0x4):\n"
        " cookie=0x2, duration=1s, table=0, n_packets=0, n_bytes=0, priority=1 actions=drop\n"
        " cookie=0x3, duration=1s, table=0, n_packets=0, n_bytes=0, in_port=1 actions=NORMAL\n"
    }
    rows = '{"headings": [], "data": []}'
    found = ovscount.configuration(
        lambda *_: rows, lambda bridge: told[bridge], lambda *_: "", ("br0",)
    )
    assert found["flows"] == {
        "br0": [
            "cookie=0x3, table=0, in_port=1 actions=NORMAL",
            "cookie=0x2, table=0, priority=1 actions=drop",
            "cookie=0x1, table=9, priority=100,arp actions=learn(table=10,priority=5),drop",
        ]
    }
