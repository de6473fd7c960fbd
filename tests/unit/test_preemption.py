"""The kernel's preemption model, by what says it."""

from __future__ import annotations

import gzip
import platform
from pathlib import Path

import pytest

from dataplane.drivers.preemption import Preemption, model_of, preemption

DYNAMIC = "CONFIG_PREEMPT_DYNAMIC=y\n"
NONE, VOLUNTARY = "CONFIG_PREEMPT_NONE=y\n", "CONFIG_PREEMPT_VOLUNTARY=y\n"


@pytest.mark.parametrize(
    ("chosen", "command_line", "configured", "model"),
    [
        ("", "", NONE, Preemption.NONE),
        ("", "", "CONFIG_PREEMPT_NONE=y\nCONFIG_PREEMPT_DYNAMIC=y\n", Preemption.NONE),
        ("", "", VOLUNTARY + DYNAMIC, Preemption.VOLUNTARY),
        ("", "", "# CONFIG_PREEMPT_NONE is not set\nCONFIG_PREEMPT=y\n", Preemption.FULL),
        ("", "", "CONFIG_PREEMPT_LAZY=y\n", Preemption.LAZY),
        ("", "quiet preempt=none", VOLUNTARY + DYNAMIC, Preemption.NONE),
        ("", "preempt=none preempt=full", NONE + DYNAMIC, Preemption.FULL),
        # One that was not built to be told goes on as it was built.
        ("", "preempt=none", VOLUNTARY, Preemption.VOLUNTARY),
        ("", "preempt=none", "", Preemption.UNKNOWN),
        ("", "nopreempt=none xpreempt=full", NONE + DYNAMIC, Preemption.NONE),
        ("", "preempt=some", NONE + DYNAMIC, Preemption.UNKNOWN),
        ("none voluntary (full)\n", "preempt=none", NONE + DYNAMIC, Preemption.FULL),
        ("(none) voluntary full lazy\n", "", VOLUNTARY + DYNAMIC, Preemption.NONE),
        ("", "preempt=none", NONE + DYNAMIC + "CONFIG_PREEMPT_RT=y\n", Preemption.FULL),
        ("", "", "", Preemption.UNKNOWN),
    ],
)
def test_the_first_that_knows_is_believed(
    chosen: str, command_line: str, configured: str, model: Preemption
) -> None:
    assert model_of(chosen, command_line, configured) is model


def test_it_is_read_where_the_kernel_or_the_distribution_has_it(tmp_path: Path) -> None:
    proc, sysfs, boot = tmp_path / "proc", tmp_path / "sys", tmp_path / "boot"
    modules = tmp_path / "modules"
    for place in (proc, sysfs / "kernel/debug/sched", boot, modules / platform.release()):
        place.mkdir(parents=True)
    places = proc, sysfs, boot, modules
    assert preemption(*places) is Preemption.UNKNOWN
    (modules / platform.release() / "config").write_text("CONFIG_PREEMPT_LAZY=y\n")
    assert preemption(*places) is Preemption.LAZY
    (boot / f"config-{platform.release()}").write_text(VOLUNTARY + DYNAMIC)
    assert preemption(*places) is Preemption.VOLUNTARY
    (proc / "config.gz").write_bytes(gzip.compress((NONE + DYNAMIC).encode()))
    assert preemption(*places) is Preemption.NONE
    (proc / "cmdline").write_text("preempt=voluntary\n")
    assert preemption(*places) is Preemption.VOLUNTARY
    (sysfs / "kernel/debug/sched/preempt").write_text("none voluntary (full)\n")
    assert preemption(*places) is Preemption.FULL


@pytest.mark.parametrize("octets", [b"", b"not gzip", gzip.compress(NONE.encode())[:-9]])
def test_a_torn_configuration_says_nothing(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "config.gz").write_bytes(octets)
    assert preemption(tmp_path, tmp_path, tmp_path) is Preemption.UNKNOWN
