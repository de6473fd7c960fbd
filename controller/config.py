"""The TOML files of a node and of a cluster: text in, checked values or all problems out.

A file is taken or refused as a whole. Whether the machine has what a valid file asks for is
another question: `controller.config_machine`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Generic, TypeVar

from controller.config_cluster import cluster_config
from controller.config_node import node_config, node_identity
from controller.config_reader import ConfigProblem, ConfigProblems, Notes, TableReader
from controller.toml_lines import Path, line_index
from dataplane.model.config import ClusterConfig, NodeConfig

__all__ = [
    "ConfigProblem",
    "ConfigProblems",
    "Source",
    "load_cluster",
    "load_node",
    "parse_cluster",
    "parse_node",
    "read_document",
    "read_node",
    "rundir_of",
]

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Source(Generic[C]):
    """A checked configuration and the lines that its values came from."""

    config: C
    notes: Notes

    def problem(self, path: Path, what: str, why: str, next_step: str) -> ConfigProblem:
        """A problem at the line of `path`, for checks that come after parsing."""
        notes = self.notes
        return ConfigProblem(notes.file, notes.line_of(path), what, why, next_step)


def _document(text: str, filename: str) -> TableReader:
    """The document's root table.

    Raises:
        ConfigProblems: it is not TOML.
    """
    try:
        values = tomllib.loads(text)
        lines = line_index(text)
    except (ValueError, RecursionError) as error:
        # ValueError also for what tomllib leaves to int(): more digits than Python converts.
        reason = str(error) or type(error).__name__
        at = re.search(r"\(at line (\d+), column \d+\)$", reason)
        last = text.count("\n") + (not text.endswith("\n"))
        line = int(at.group(1)) if at else last if "end of document" in reason else 1
        problem = ConfigProblem(
            filename,
            max(line, 1),
            "this is not TOML",
            " ".join(reason.split()),
            "mend the syntax; https://toml.io has it on one page",
        )
        raise ConfigProblems([problem]) from error
    return TableReader(Notes(filename, lines), (), values)


def read_node(text: str, filename: str) -> Source[NodeConfig]:
    """The node's configuration with its lines.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    return _read(text, filename, node_config)


def parse_node(text: str, filename: str) -> NodeConfig:
    """The node's configuration.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    return read_node(text, filename).config


def parse_cluster(text: str, filename: str) -> ClusterConfig:
    """The cluster's configuration.

    Raises:
        ConfigProblems: everything that is wrong with it.
    """
    return _read(text, filename, cluster_config).config


def load_node(path: FilePath) -> Source[NodeConfig]:
    """`read_node` of a file.

    Raises:
        ConfigProblems: it cannot be read, or what it says is wrong.
    """
    return read_node(_file_text(path), str(path))


def rundir_of(path: FilePath) -> FilePath:
    """The run directory that a node's file names, whatever else is wrong with the file.

    Raises:
        ConfigProblems: it cannot be read, or the run directory cannot be known from it.
    """
    root = _document(_file_text(path), str(path))
    _, rundir = node_identity(root.table("node"))
    if root.notes.problems:
        raise ConfigProblems(root.notes.problems)
    return FilePath(rundir)


def load_cluster(path: FilePath) -> ClusterConfig:
    """`parse_cluster` of a file.

    Raises:
        ConfigProblems: it cannot be read, or what it says is wrong.
    """
    return parse_cluster(_file_text(path), str(path))


def read_document(path: FilePath, build: Callable[[TableReader], C]) -> C:
    """What `build` makes of a file's root table.

    Raises:
        ConfigProblems: it cannot be read, or what it says is wrong.
    """
    return _read(_file_text(path), str(path), build).config


def _file_text(path: FilePath) -> str:
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        problem = ConfigProblem(
            str(path), 1, "the file cannot be read", reason, "name another file with --config"
        )
        raise ConfigProblems([problem]) from error
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = ConfigProblem(
            str(path),
            raw.count(b"\n", 0, error.start) + 1,
            "this is not UTF-8",
            f"byte 0x{raw[error.start]:02x} begins no character",
            "save the file as UTF-8",
        )
        raise ConfigProblems([problem]) from error


def _read(text: str, filename: str, build: Callable[[TableReader], C]) -> Source[C]:
    root = _document(text, filename)
    config = build(root)
    root.finish()
    if root.notes.problems:
        raise ConfigProblems(root.notes.problems)
    return Source(config, root.notes)
