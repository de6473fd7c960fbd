"""The subcommands of an embedded node: up and down."""

from __future__ import annotations

import argparse
from pathlib import Path

from controller import embedded, nics
from controller.cli import failures
from controller.config import ConfigProblems, load_cluster, load_node
from controller.config_machine import check_machine
from dataplane.drivers.machinefacts import machine_facts
from dataplane.drivers.pcibind import NicRefused


def _progress(line: str) -> None:
    print(line, flush=True)


def up(arguments: argparse.Namespace) -> int:
    """`millrace up`: both files and the machine are checked before anything is touched."""
    config_path = Path(arguments.config)
    cluster_path = Path(arguments.cluster) if arguments.cluster else None
    source = load_node(config_path)
    if cluster_path is not None:
        load_cluster(cluster_path)
    netns = arguments.netns or embedded.load(config_path).netns
    if problems := check_machine(source, machine_facts(netns)):
        raise ConfigProblems(problems)
    # Before anything is touched, as all that can be wrong.
    if refused := nics.refusals(source.config, nics.binder_of(source.config)):
        raise NicRefused("\n".join(refused))
    embedded.up(config_path, cluster_path, arguments.netns, _progress)
    print(f"node {source.config.name} is up; `millrace status --config {config_path}`")
    return failures.OK


def down(arguments: argparse.Namespace) -> int:
    """`millrace down`."""
    config_path = Path(arguments.config)
    name = load_node(config_path).config.name
    embedded.down(config_path, _progress, keep=arguments.keep)
    print(f"node {name} is {'stopped, and kept for the next `up`' if arguments.keep else 'down'}")
    return failures.OK
