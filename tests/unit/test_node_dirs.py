"""A node's directories: what `up` makes and marks, and what `down` may take."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import embedded, node_dirs
from dataplane.drivers import machine
from dataplane.drivers.processes import ProcessError


@pytest.fixture(params=[0o000, 0o077], ids=["wide umask", "narrow umask"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_modes_are_set_whatever_the_umask(tmp_path: Path) -> None:
    run = tmp_path / "run" / "millrace" / "n"
    node_dirs.make(run, "n", node_dirs.RUN_MODE)
    assert (mode(run), mode(run.parent), mode(tmp_path / "run")) == (0o711, 0o755, 0o755)
    node_dirs.make(run, "n", node_dirs.RUN_MODE)
    assert node_dirs.owned(run, "n")


def test_what_up_made_goes_with_everything_in_it(tmp_path: Path) -> None:
    state = tmp_path / "millrace" / "n"
    node_dirs.make(state, "n", node_dirs.STATE_MODE)
    (state / "deep" / "er").mkdir(parents=True)
    assert list(node_dirs.remove_state(state, "n")) == [f"removed {state}"]
    assert not state.parent.exists()
    assert list(node_dirs.remove_state(state, "n")) == []


def test_of_a_directory_of_somebody_else_only_known_files_go(tmp_path: Path) -> None:
    run = tmp_path / "millrace" / "n"
    (run / "vhost" / "pod").mkdir(parents=True)
    for name in ("node.pid", "undo.json", "db.log", "vhost/pod/eth0.sock", "precious.db"):
        (run / name).touch()
    node_dirs.make(run, "n", node_dirs.RUN_MODE)
    (line,) = node_dirs.remove_run(run, "n")
    assert "precious.db" in line
    assert "by hand" in line
    assert [path.name for path in run.iterdir()] == ["precious.db"]
    (run / "precious.db").unlink()
    assert list(node_dirs.remove_run(run, "n")) == [f"removed {run}"]


def test_the_mark_of_another_node_is_none(tmp_path: Path) -> None:
    run = tmp_path / "millrace" / "n"
    node_dirs.make(run, "m", node_dirs.RUN_MODE)
    (run / "kept").touch()
    (line,) = node_dirs.remove_run(run, "n")
    assert "left" in line
    assert (run / "kept").exists()


def test_a_link_to_a_marked_directory_is_not_followed(tmp_path: Path) -> None:
    run = tmp_path / "millrace" / "n"
    node_dirs.make(run, "n", node_dirs.RUN_MODE)
    (run / "kept").touch()
    (tmp_path / "link").symlink_to(run)
    list(node_dirs.remove_run(tmp_path / "link", "n"))
    assert (run / "kept").exists()


def test_a_file_in_the_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "millrace").mkdir()
    (tmp_path / "millrace" / "n").touch()
    with pytest.raises(ProcessError, match="no directory; move it away"):
        node_dirs.make(tmp_path / "millrace" / "n", "n", node_dirs.RUN_MODE)


def test_down_keeps_what_it_did_not_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STATE_DIR", tmp_path / "record")
    file = tmp_path / "node.toml"
    places = {key: tmp_path / key / "millrace" / "n" for key in ("rundir", "statedir", "bpf_root")}
    for place in places.values():
        place.mkdir(parents=True)
        (place / "precious").touch()
    keys = "".join(f'{key} = "{place}"\n' for key, place in places.items())
    file.write_text(f'[node]\nname = "n"\n{keys}')
    # A node whose namespace is gone: in the machine's own, `down` would take other nodes' links.
    gone = json.dumps({"netns": str(tmp_path / "no-namespace")})
    (places["rundir"] / "undo.json").write_text(gone)
    said: list[str] = []
    embedded.down(file, said.append)
    assert all((place / "precious").exists() for place in places.values())
    assert [line.split(":")[0] for line in said] == [
        f"left {places[key]}" for key in ("bpf_root", "rundir", "statedir")
    ]
