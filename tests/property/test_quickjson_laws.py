"""The plugin's JSON is `json`'s: what is read, what is written, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import quickjson, wire

ROOT = Path(__file__).resolve().parents[2]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
# Mostly broken: what is cut off, doubled, or has something else beside it.
TEXTS = st.text(alphabet='{}[]",:0123456789eE+-. \t\nul\\ntrfasNaIiy', max_size=30)


@given(VALUES)
def test_what_is_written_is_the_same_text(value: object) -> None:
    text = quickjson.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert quickjson.loads(f" {text}\n") == json.loads(text)


@given(TEXTS | VALUES.map(json.dumps).flatmap(lambda text: st.sampled_from([text, text[:-1]])))
def test_what_is_read_or_refused_is_the_same(text: str) -> None:
    def outcome(loads: object) -> object:
        assert callable(loads)
        try:
            return repr(loads(text, parse_constant=wire.no_constant))
        except ValueError as error:
            return str(error)

    assert outcome(quickjson.loads) == outcome(json.loads)


@pytest.mark.parametrize("value", [{"a": object()}, [float("nan")], {1, 2}])
def test_what_is_no_json_is_refused_in_jsons_words(value: object) -> None:
    with pytest.raises((TypeError, ValueError)) as theirs:
        json.dumps(value, allow_nan=False)
    with pytest.raises(theirs.type, match=str(theirs.value).replace("(", r"\(")[:20]):
        quickjson.dumps(value, allow_nan=False)


@pytest.mark.parametrize("text", ["{", '{"a":1', '"', "[1,]", '{"a" 1}', "\\", "", "{}{}"])
def test_a_process_without_json_refuses_what_is_none(text: str) -> None:
    # As the plugin is: the C parts raise an error of json.decoder's, which is not loaded there.
    program = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from cni import quickjson\n"
        "assert 'json' not in sys.modules\n"
        "try: quickjson.loads(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-c", program, text, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    with pytest.raises(ValueError) as refused:
        json.loads(text)
    assert told.stdout.strip() == str(refused.value)
