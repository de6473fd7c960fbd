"""The images' files name what exists: sources, stages, Debian's packages, entries of the lock.

The images themselves are built by hand (docs/kubevirt.md says when they last were).
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import requires, version
from pathlib import Path

import pytest

from cni.kubevirt import sidecar

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy/images"
DOCKERFILES = sorted(path.name for path in IMAGES.glob("*.Dockerfile"))
LOCK = ROOT / "requirements.lock"


def instructions(name: str) -> Iterator[tuple[str, str]]:
    text = (IMAGES / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word:
            yield word, rest


def commands(name: str) -> Iterator[list[str]]:
    """The commands of every RUN, one after the other."""
    for word, rest in instructions(name):
        if word == "RUN":
            yield from (shlex.split(one) for one in rest.split("&&"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_images_copy_what_is_there(name: str) -> None:
    stages: set[str] = set()
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for word, rest in instructions(name):
        if word == "FROM":
            stages |= set(rest.split(" AS ")[1:])
        if word == "COPY" and rest.startswith("--from="):
            assert rest.split()[0].removeprefix("--from=") in stages, rest
        elif word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), rest
                assert not any(fnmatch(source, pattern) for pattern in ignored), rest
        for path in re.findall(r"(?<![\w.])(?:/opt/millrace/)?(deploy/\S+)", rest):
            assert (ROOT / path).is_file(), path


def test_what_is_built_comes_from_the_image_and_not_from_this_machine() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    built = {words[2] for words in commands("node.Dockerfile") if words[:2] == ["make", "-C"]}
    assert built == {"bpf", "cni/launcher"}
    for directory in built:
        # make would find it newer than its source.
        assert f"{directory}/obj" in ignored


@pytest.mark.parametrize("name", DOCKERFILES)
def test_debian_has_the_packages(name: str) -> None:
    wanted = {
        word
        for words in commands(name)
        if words[:2] == ["apt-get", "install"]
        for word in words[2:]
        if not word.startswith("-")
    }
    assert "python3" in wanted
    said = subprocess.run(
        ["apt-cache", "policy", *sorted(wanted)], capture_output=True, text=True, check=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, timeout=60,
    ).stdout  # fmt: skip
    known = {
        package
        for package, candidate in re.findall(r"^(\S+):\n.*\n  Candidate: (.*)$", said, re.MULTILINE)
        if candidate != "(none)"
    }
    assert wanted == known


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_stage_is_of_one_debian(name: str) -> None:
    # Its Python is the one that the lock is for, and the one that OVS's and BCC's bindings are for.
    bases = {rest.split(" AS ")[0] for word, rest in instructions(name) if word == "FROM"}
    assert bases == {"docker.io/library/debian:12-slim"}


def needed(*packages: str) -> str:
    return subprocess.run(
        [IMAGES / "needed-of-lock", LOCK, *packages], capture_output=True, text=True, check=True
    ).stdout


def test_the_nodes_image_has_what_the_project_needs_and_no_tools_of_tests() -> None:
    said = needed()
    lock = LOCK.read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z])", said, flags=re.MULTILINE)[1:]
    assert all(entry in lock and "--hash=sha256:" in entry for entry in entries)
    kept = set(re.findall(r"^(\S+?)==", said, re.MULTILINE))
    of_project = {
        re.split(r"[><=;\[ ]", text)[0].lower() for text in requires("millrace") or ["nothing"]
    }
    assert of_project <= kept
    # What another one needs is there, too.
    assert {"yarl", "pbr", "typing-extensions"} <= kept
    assert not kept & {"mypy", "pytest", "ruff", "scapy", "hypothesis", "import-linter"}


def test_a_package_that_the_lock_does_not_have_is_an_error() -> None:
    done = subprocess.run(
        [IMAGES / "needed-of-lock", LOCK, "nosuch"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the lock has no nosuch" in done.stderr


def test_the_sidecars_image_has_what_the_sidecar_imports() -> None:
    said = dict(instructions("sidecar.Dockerfile"))
    entry = json.loads(said["ENTRYPOINT"])
    assert entry[-2:] == ["-m", sidecar.__name__]
    assert f"{sidecar.BINDING_VARIABLE}={sidecar.BINDING}" in said["ENV"].split()
    imported = set()
    for path in (ROOT / "cni/kubevirt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
                assert (
                    node.module == "cni.kubevirt"
                    or not node.module.startswith("cni")
                    or (node.module.startswith("cni.kubevirt."))
                ), f"{path.name}: {node.module} is not in the image"
    assert imported - set(sys.stdlib_module_names) == {"grpc", "cni"}
    (wanted,) = [words for words in commands("sidecar.Dockerfile") if "needed-of-lock" in words[0]]
    kept = needed(*[word for word in wanted[2:] if not word.startswith(">")])
    assert f"grpcio=={version('grpcio')} " in kept
    assert re.findall(r"^\S+?(?===)", kept, re.MULTILINE) == ["grpcio", "typing-extensions"]
    assert "--hash=sha256:" in kept
