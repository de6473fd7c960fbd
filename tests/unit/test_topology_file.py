"""The file of a topology: each fault is named with the file and the place."""

from __future__ import annotations

import pytest

from dataplane.model.topologyjson import TopologyFault, topology_from_json
from tests.labs.topologies import FILES

GOOD = """{
"schema": 1, "origin": {"kind": "constructed", "source": "a test"},
"machine": {"arch": "x86_64"},
"nodes": [{"node": 0, "memory_mib": 1024, "hugepages": {"2048": [10, 5]}}],
"cores": [{"cpus": "0-1", "node": 0}, {"cpus": "2", "node": 0}],
"nics": [{"address": "0000:01:00.0", "node": 0}]
}"""


def faults(old: str, new: str) -> tuple[str, ...]:
    assert old in GOOD
    with pytest.raises(TopologyFault) as caught:
        topology_from_json(GOOD.replace(old, new, 1), "t.json")
    return caught.value.faults


CASES = [
    ('"schema": 1', '"schema": 2', "t.json.schema: 2 is not known here; this program reads 1"),
    ('"schema": 1,', "", "t.json.schema: it is missing"),
    ('"node": 0,', '"node": 0, "nodes": 1,', "t.json.nodes[0].nodes: there is no such field"),
    ('"node": 0,', '"node": 0, "node": 0,', "t.json.nodes[0].node: it is given twice; keep one"),
    ("1024", '"1024"', "t.json.nodes[0].memory_mib: this is a string; it has to be an integer"),
    ("1024", "true", "t.json.nodes[0].memory_mib: this is a boolean; it has to be an integer"),
    ("1024", "-1", "t.json.nodes[0].memory_mib: -1 is not within 0.."),
    ("[10, 5]", "[5, 10]", "t.json.nodes[0].hugepages.'2048': [5, 10] is no value for it"),
    ('"2048"', '"2M"', "t.json.nodes[0].hugepages.'2M': the key has to be a number"),
    ('"0-1"', '"1-0"', "t.json.cores[0].cpus: '1-0' is no range of CPUs; write it as in 0-3,8"),
    ('"0-1"', '""', "t.json.cores[0].cpus: a core has at least one CPU"),
    ('"2"', '"1"', "t.json: CPU 1 of core 1 is on another core, or offline"),
    ('"cpus": "2", "node": 0', '"cpus": "2", "node": 3', "core 2 is on node 3, which is not among"),
    ('"node": 0}]\n}', '"node": 7}]\n}', "NIC 0000:01:00.0 is on node 7, which is not among"),
    ('"address": "0000:01:00.0", ', "", "a NIC has a device name or a PCI address"),
    ('"constructed"', '"made up"', "is none of: recorded, constructed"),
    ('{"arch": "x86_64"}', "[]", "t.json.machine: this is an array; it has to be an object"),
    ("1024", "1" + "0" * 40, "a number of more than 64 bits is not within"),
]


@pytest.mark.parametrize(("old", "new", "said"), CASES, ids=[said[:50] for _, _, said in CASES])
def test_a_fault_is_named_with_its_place(old: str, new: str, said: str) -> None:
    assert any(said in fault and fault.startswith("t.json") for fault in faults(old, new))


def test_all_faults_come_at_once() -> None:
    assert len(faults('"memory_mib": 1024', '"memory_mib": "x", "speed": 1')) == 2


def test_what_is_not_json() -> None:
    for text in ("", "{", "[" * 100_000, "nul"):
        with pytest.raises(TopologyFault, match=r"^t\.json: this is not JSON"):
            topology_from_json(text, "t.json")
    with pytest.raises(TopologyFault, match=r"^t\.json: this is null; it has to be an object"):
        topology_from_json("null", "t.json")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_ours_are_good(path: object) -> None:
    assert topology_from_json(path.read_text(encoding="utf-8"), "t").nodes  # type: ignore[attr-defined]
