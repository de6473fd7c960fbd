"""Laws of the configuration's reader: it never breaks, and its lines are where the keys stand."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.config import ConfigProblem, ConfigProblems, parse_cluster, parse_node
from controller.toml_lines import Path, line_index

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f")),
)
SCALARS = st.sampled_from(
    [
        "1", "-2.5e3", "true", "1979-05-27T07:32:00Z", '"a # b"', "'C:\\'", '"q\\"]}"', "inf",
        '"""one\ntwo \\\n  [three] = """', "'''x = 1\n[y]'''", '""""quoted""""', "''''''",
    ]
)  # fmt: skip


def quoted(key: str) -> str:
    """A key as TOML text: bare, literal or basic, by what it holds."""
    if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key):
        return key
    if "'" not in key:
        return f"'{key}'"
    return '"' + "".join(f"\\u{ord(c):04x}" for c in key) + '"'


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    shape = draw(st.integers(0, 3)) if depth else 0
    if shape == 1:
        items = draw(st.lists(values(depth=depth - 1), max_size=4))
        gap = draw(st.sampled_from([" ", "\n", " # [x]\n", "\n\n\t"]))
        return f"[{gap}" + f",{gap}".join(items) + gap + "]"
    if shape == 2:
        keys = draw(st.lists(KEYS, unique=True, max_size=3))
        pairs = [f"{quoted(k)} = {draw(values(depth=depth - 1))}" for k in keys]
        return "{" + ", ".join(pairs) + "}"
    return draw(SCALARS)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A valid document of tables, arrays of tables and pairs, with comments and empty lines."""
    lines = []
    tables = draw(st.lists(KEYS, unique=True, max_size=4))
    for number, name in enumerate(["", *tables]):
        repeat = 1
        if number:
            repeat = draw(st.integers(0, 2))
        for _ in range(max(repeat, 1)):
            if number:
                lines.append(f"[[ {quoted(name)} ]]" if repeat else f"[{quoted(name)}] # {name}")
            for key in draw(st.lists(KEYS, unique=True, max_size=3)):
                if number == 0 and key in tables:
                    continue
                dot = draw(st.sampled_from(["", ".sub", ' . "s b"']))
                lines.append(f"{quoted(key)}{dot} = {draw(values())}")
                lines.extend(draw(st.lists(st.sampled_from(["", "# [no]", "\t"]), max_size=1)))
    return "\n".join(lines)


def paths(value: Any, path: Path = ()) -> list[Path]:
    """Every path of a parsed document."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        children = []
    return [path, *(p for key, child in children for p in paths(child, (*path, key)))]


@given(documents())
def test_every_key_of_a_document_has_its_line(text: str) -> None:
    index = line_index(text)
    lines = text.split("\n")
    for path in paths(tomllib.loads(text)):
        if not path:
            continue
        assert path in index, path
        last = path[-1]
        if isinstance(last, str):
            assert quoted(last) in lines[index[path] - 1] or f'"{last}"' in lines[index[path] - 1]


@given(documents())
def test_the_index_names_nothing_else(text: str) -> None:
    assert set(line_index(text)) == set(paths(tomllib.loads(text))) - {()}


def problems_of(parse: Any, text: str) -> tuple[ConfigProblem, ...]:
    """The problems of a text, none if it is taken; any other error goes through."""
    try:
        parse(text, "f")
    except ConfigProblems as refused:
        if not refused.problems:
            raise AssertionError("refused without a problem") from refused
        return refused.problems
    return ()


@pytest.mark.parametrize("parse", [parse_node, parse_cluster])
@given(st.one_of(st.text(), documents(), st.text(alphabet="[]{}=\"'.,#\\\n\r ab1-")))
@example("x = 0x" + "f" * 5000)
@example("x = " + "9" * 5000)
@example("\r\n[node]\r\nname = 1\r\n")
@example('a = {b = {c = [1, {d = """\n"""}]}}')
def test_any_text_gives_a_configuration_or_its_problems(parse: Any, text: str) -> None:
    for problem in problems_of(parse, text):
        assert 1 <= problem.line <= text.count("\n") + 1
        assert "\n" not in str(problem)


TABLES = st.sampled_from(
    ["node", "ovs", "ovn", "hugepages", "dpdk", "bridge", "uplink", "tunnel", "cluster", "gateway"]
)
WORDS = st.sampled_from(
    [
        "name", "rundir", "port_mtu", "metrics", "embedded", "remote", "nb", "sb", "size_kib",
        "count", "lcore", "pmd", "socket_mem_mib", "extra", "physnet", "device", "bridge", "mode",
        "queues", "services", "type", "address", "next_hop", "routers", "join", "service_pool",
        "chassis", "service_link",
    ]
)  # fmt: skip
RIGHT_ISH = st.sampled_from(
    [
        "1", "0", "-1", "true", '"br-ex"', '"af_xdp"', '"vfio"', '"10.0.0.1/24"', '"::1/64"',
        '"255.255.255.255/32"', '"239.255.255.255/31"', '"0.0.0.0/0"', '"10.0.0.0/0"', "[0]",
        "[1, 1]", '["vpc0"]', '[""]', '"unix:/a"', '"100.64.0.0/8"', "{}", "[{}]", '"[::1]:1"',
        "[[1]]", '"127.0.0.1:99999"', "1e400", "00:00:00", "0x" + "f" * 4000, '"10.0.0.1"',
    ]
)  # fmt: skip


@pytest.mark.parametrize("parse", [parse_node, parse_cluster])
@given(st.lists(st.tuples(TABLES, st.booleans(), st.dictionaries(WORDS, RIGHT_ISH)), max_size=6))
def test_nearly_right_files_give_a_configuration_or_its_problems(
    parse: Any, tables: list[tuple[str, bool, dict[str, str]]]
) -> None:
    text = "\n".join(
        (f"[[{name}]]" if many else f"[{name}]")
        + "".join(f"\n{key} = {value}" for key, value in pairs.items())
        for name, many, pairs in tables
    )
    assert problems_of(parse, text) is not None
